//! Maximum pooling of every type, and the places of the maxima: channels side by side in arrays that the compiler turns
//! to vectors of the instruction set.

use super::pointwise::share;
use super::pool::{AXES, Shape};
use super::simd::{Simd, Task, dispatch};
use super::{Isa, pointwise};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::ops::PoolKind;
use engraft_network::{DType, Op};

/// The rows of this family.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&MaxPoolTactic]
}

/// Integers and `f64`, and `f32` with the indices of the maxima (half widths are widened).
#[derive(Debug)]
pub struct MaxPoolTactic;

/// Channels that are in registers at once.
const CHANNELS: usize = 16;

/// A type with an order.
trait Ordered: Copy + Send + Sync + 'static {
    const LOWEST: Self;
    /// Whether it takes the place of `best`: if it is greater, or the first that is not a number.
    fn beats(self, best: Self) -> bool;
}

macro_rules! ordered {
    ($($t:ty),*; $($f:ty),*) => {
        $(impl Ordered for $t {
            const LOWEST: Self = <$t>::MIN;
            #[inline(always)]
            fn beats(self, best: Self) -> bool {
                self > best
            }
        })*
        $(impl Ordered for $f {
            const LOWEST: Self = <$f>::NEG_INFINITY;
            #[inline(always)]
            fn beats(self, best: Self) -> bool {
                self > best || (self.is_nan() & !best.is_nan())
            }
        })*
    };
}
ordered!(i8, u8, i16, u16, i32, u32, i64, u64; f32, f64);

/// Calls code with the element type of a dtype.
macro_rules! with_ordered {
    ($dtype:expr, $T:ident => $body:expr) => {
        with_ordered!(@ $dtype, $T => $body, I8 i8, U8 u8, I16 i16, U16 u16, I32 i32, U32 u32, I64 i64, U64 u64, F32 f32, F64 f64)
    };
    (@ $dtype:expr, $T:ident => $body:expr, $($d:ident $t:ty),*) => {
        match $dtype {
            $(DType::$d => {
                type $T = $t;
                $body
            })*
            other => unreachable!("accepted types only, not {other}"),
        }
    };
}

/// Which places of maxima are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Indices {
    None,
    RowMajor,
    ColumnMajor,
}

fn shape(p: &Problem<'_>) -> Result<(Shape, Indices), Reject> {
    let Op::Pool(op) = p.op else { return Err(Reject::new("not pooling")) };
    if op.kind != PoolKind::Max {
        return Err(Reject::new("not of maxima"));
    }
    let dtype = p.inputs[0].desc.dtype;
    let narrow = matches!(dtype, DType::F16 | DType::BF16 | DType::F8E4M3 | DType::F8E5M2 | DType::Bool);
    if narrow || dtype.bits() < 8 {
        return Err(Reject(format!("maxima of {dtype}")));
    }
    if dtype == DType::F32 && !op.indices {
        return Err(Reject::new("vectors of f32 do better"));
    }
    let shape = Shape::new(p)?;
    if let Some(places) = p.outputs.get(1) {
        if !places.is_dense() {
            return Err(Reject::new("indices at strides"));
        }
        if shape.axes.iter().map(|a| a.input).product::<usize>() > u32::MAX as usize {
            return Err(Reject::new("more than 2^32 places"));
        }
    }
    Ok((
        shape,
        match (op.indices, op.column_major) {
            (false, _) => Indices::None,
            (true, false) => Indices::RowMajor,
            (true, true) => Indices::ColumnMajor,
        },
    ))
}

fn cost(shape: &Shape, isa: Isa, indices: Indices) -> f64 {
    shape.cost(isa) * if indices == Indices::None { 2.0 } else { 4.0 }
}

impl Tactic for MaxPoolTactic {
    fn id(&self) -> &'static str {
        "pool.maxima"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let (shape, indices) = shape(p)?;
        let cost = cost(&shape, p.isa, indices);
        let tasks = pointwise::tasks(cost, shape.units(), p.threads).clamp(1, p.threads.max(1));
        Ok(Fit { cost_ns: cost / tasks as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let (shape, indices) = match shape(p) {
            Ok(shape) => shape,
            Err(reason) => unreachable!("prepared without being accepted: {reason}"),
        };
        let phases = [pointwise::tasks(cost(&shape, p.isa, indices), shape.units(), p.threads)];
        Box::new(MaxPoolKernel { shape, indices, isa: p.isa, phases })
    }
}

struct MaxPoolKernel {
    shape: Shape,
    indices: Indices,
    isa: Isa,
    phases: [usize; 1],
}

impl Kernel for MaxPoolKernel {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (first, last) = share(self.shape.units(), self.phases[0], task);
        with_ordered!(self.shape.dtype, T => {
            let (x, y) = (args.inputs[0].cast::<T>(), args.outputs[0].cast::<T>());
            let (shape, column_major) = (&self.shape, self.indices == Indices::ColumnMajor);
            if self.indices == Indices::None {
                let places = std::ptr::null_mut();
                dispatch(self.isa, Run::<T, false> { shape, x, y, places, column_major, first, last });
            } else {
                let places = args.outputs[1].cast::<i64>();
                dispatch(self.isa, Run::<T, true> { shape, x, y, places, column_major, first, last });
            }
        });
        Ok(())
    }
}

/// Rows `first..last` of output pixels.
struct Run<'a, T, const INDICES: bool> {
    shape: &'a Shape,
    x: *const T,
    y: *mut T,
    places: *mut i64,
    column_major: bool,
    first: usize,
    last: usize,
}

impl<T: Ordered, const INDICES: bool> Task for Run<'_, T, INDICES> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Run { shape, x, y, places, column_major, first, last } = self;
        let [a, b, c] = shape.axes;
        // How far a step along each axis counts.
        let steps = match column_major {
            true => [1, a.input, a.input * b.input],
            false => [b.input * c.input, c.input, 1],
        };
        let size: usize = shape.axes.iter().map(|axis| axis.input).product();
        for unit in first..last {
            let (rest, j) = (unit / b.output, unit % b.output);
            let (n, i) = (rest / a.output, rest % a.output);
            let image = x.wrapping_offset(n as isize * shape.batch_from);
            let row = y.wrapping_offset(n as isize * shape.batch_to + i as isize * a.to + j as isize * b.to);
            for k in 0..c.output {
                let taps = [a.taps(i), b.taps(j), c.taps(k)];
                let out = row.wrapping_offset(k as isize * c.to);
                let pixel = unit * c.output + k;
                for ch in (0..shape.channels).step_by(CHANNELS) {
                    let lanes = CHANNELS.min(shape.channels - ch);
                    let window = Window { shape, image: image.wrapping_add(ch), at: [i, j, k], taps, steps };
                    // SAFETY: taps lie inside the input, output positions inside the output, channels below their number.
                    unsafe {
                        let (best, place) = if lanes == CHANNELS {
                            window.maxima::<true>(lanes)
                        } else {
                            window.maxima::<false>(lanes)
                        };
                        for l in 0..lanes {
                            out.add(ch + l).write(best[l]);
                        }
                        if INDICES {
                            for l in 0..lanes {
                                let channel = (n * shape.channels + ch + l) * size;
                                let index = place.map_or(0, |place| (channel + place[l] as usize) as i64);
                                places.add(pixel * shape.channels + ch + l).write(index);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The window of one output pixel.
struct Window<'a, T> {
    shape: &'a Shape,
    /// The first pixel of the image, at the first channel wanted.
    image: *const T,
    at: [usize; AXES],
    taps: [(usize, usize); AXES],
    /// What a step along each axis adds to the number of a pixel.
    steps: [usize; AXES],
}

impl<T: Ordered> Window<'_, T> {
    /// The greatest of each channel and the number of its pixel; no number where the window holds nothing.
    ///
    /// # Safety
    /// The taps are readable for `lanes` channels (all of them if `FULL`).
    #[inline(always)]
    unsafe fn maxima<const FULL: bool>(&self, lanes: usize) -> ([T; CHANNELS], Option<[u32; CHANNELS]>) {
        let [a, b, c] = self.shape.axes;
        let [(i0, i1), (j0, j1), (k0, k1)] = self.taps;
        let mut best = [T::LOWEST; CHANNELS];
        let place = |axis: &super::pool::Axis, o: usize, tap: usize| {
            o * axis.stride + tap * axis.dilation - axis.begin
        };
        if i0 >= i1 || j0 >= j1 || k0 >= k1 {
            return (best, None);
        }
        let number = |z: usize, y: usize, x: usize| z * self.steps[0] + y * self.steps[1] + x * self.steps[2];
        let first = number(place(&a, self.at[0], i0), place(&b, self.at[1], j0), place(&c, self.at[2], k0));
        let mut places = [first as u32; CHANNELS];
        for i in i0..i1 {
            let z = place(&a, self.at[0], i);
            for j in j0..j1 {
                let y = place(&b, self.at[1], j);
                let row = self.image.wrapping_offset(z as isize * a.from + y as isize * b.from);
                for k in k0..k1 {
                    let x = place(&c, self.at[2], k);
                    let p = row.wrapping_offset(x as isize * c.from);
                    let number = number(z, y, x) as u32;
                    let mut values = [T::LOWEST; CHANNELS];
                    // SAFETY: by the caller's contract.
                    unsafe {
                        if FULL {
                            values = p.cast::<[T; CHANNELS]>().read_unaligned();
                        } else {
                            std::ptr::copy_nonoverlapping(p, values.as_mut_ptr(), lanes);
                        }
                    }
                    for l in 0..CHANNELS {
                        let beats = values[l].beats(best[l]);
                        best[l] = if beats { values[l] } else { best[l] };
                        places[l] = if beats { number } else { places[l] };
                    }
                }
            }
        }
        (best, Some(places))
    }
}
