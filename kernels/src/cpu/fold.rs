//! `Op::Fold`: row after row of the image. What blocks of one row of places add to a row of the image is one run of
//! elements per remainder by the stride, so that rows are gathered by remainder and woven together at the end.

use super::Isa;
use super::shared::{Shared, Units};
use super::simd::{Simd, Task, dispatch};
use crate::tactic::Build;
use crate::{Args, Fit, KernelError, Problem, Reject, Tactic};
use engraft_network::ops::Padding;
use engraft_network::{DType, Op};

/// The rows of this family.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&FoldTactic]
}

/// Blocks of `f32` or `f64` whose places are consecutive.
#[derive(Debug)]
pub struct FoldTactic;

/// Spatial axes are brought to this many.
const AXES: usize = 3;

/// One spatial axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    size: usize,
    places: usize,
    block: usize,
    stride: usize,
    dilation: usize,
    begin: usize,
}

impl Axis {
    const UNIT: Axis = Axis { size: 1, places: 1, block: 1, stride: 1, dilation: 1, begin: 0 };

    /// The place at which element `k` of the block meets pixel `x`, if there is one.
    #[inline(always)]
    fn place(&self, x: usize, k: usize) -> Option<usize> {
        let from = (x + self.begin).checked_sub(k * self.dilation)?;
        (from % self.stride == 0 && from / self.stride < self.places).then(|| from / self.stride)
    }
}

/// What one column of the block adds to a row: consecutive places to consecutive pixels of one remainder by the stride.
#[derive(Clone, Copy, Debug)]
struct Span {
    first_place: isize,
    count: usize,
    /// From the row's start, remainder after remainder.
    to: isize,
}

impl Span {
    /// Of column `k` of the block, in rows whose remainders are `run` elements apart.
    fn new(axis: &Axis, k: usize, run: usize) -> Span {
        // The pixel of the first place, and its number among those of its remainder.
        let pixel = (k * axis.dilation) as isize - axis.begin as isize;
        let stride = axis.stride as isize;
        let (remainder, shift) = (pixel.rem_euclid(stride), pixel.div_euclid(stride));
        // Pixels of this remainder that the row has.
        let have = (axis.size as isize - remainder + stride - 1).div_euclid(stride).max(0);
        let first = (-shift).max(0);
        let last = (have - shift).min(axis.places as isize);
        Span {
            first_place: first,
            count: (last - first).max(0) as usize,
            to: remainder * run as isize + shift + first,
        }
    }
}

/// Rows of the block that meet a pixel, and the place where each does: per pixel of an axis.
#[derive(Clone, Debug)]
struct Meetings {
    /// Where the list of each pixel begins; one more than there are pixels.
    starts: Vec<u32>,
    list: Vec<(u32, u32)>,
}

impl Meetings {
    fn new(axis: &Axis) -> Meetings {
        let (mut starts, mut list) = (vec![0], Vec::new());
        for x in 0..axis.size {
            let meets = |k| axis.place(x, k).map(|place| (k as u32, place as u32));
            list.extend((0..axis.block).filter_map(meets));
            starts.push(list.len() as u32);
        }
        Meetings { starts, list }
    }

    #[inline(always)]
    fn of(&self, x: usize) -> &[(u32, u32)] {
        &self.list[self.starts[x] as usize..self.starts[x + 1] as usize]
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Shape {
    dtype: DType,
    batch: usize,
    channels: usize,
    axes: [Axis; AXES],
    /// Elements between batches and block elements of x.
    x: [isize; 2],
    /// Elements between batches and channels, and along the axes, of y.
    y: [isize; 2],
    y_axes: [isize; AXES],
    /// Of the first two axes.
    meetings: [Meetings; 2],
    /// By column of the block.
    spans: Vec<Span>,
}

/// Elements of a row with one remainder by the stride.
fn run_length(axis: &Axis) -> usize {
    axis.size.div_ceil(axis.stride)
}

impl Shape {
    fn new(p: &Problem<'_>) -> Result<Shape, Reject> {
        let Op::Fold(op) = p.op else { return Err(Reject::new("not folding")) };
        let (x, y) = (&p.inputs[0].desc, &p.outputs[0]);
        if !matches!(x.dtype, DType::F32 | DType::F64) {
            return Err(Reject(format!("folding of {}", x.dtype)));
        }
        if x.shape[2] > 1 && x.strides[2] != 1 {
            return Err(Reject::new("places are not consecutive"));
        }
        let Padding::Explicit { begin, end } = &op.padding else {
            return Err(Reject::new("padding is not explicit"));
        };
        let spatial = op.block.len();
        let (mut axes, mut y_axes) = ([Axis::UNIT; AXES], [0; AXES]);
        for i in 0..spatial {
            let (size, block, stride, dilation) =
                (y.shape[i + 2], op.block[i], op.strides[i], op.dilations[i]);
            let room = (size + begin[i] + end[i]).checked_sub((block - 1) * dilation + 1);
            let places = room.map_or(0, |room| room / stride + 1);
            axes[AXES - spatial + i] = Axis { size, places, block, stride, dilation, begin: begin[i] };
            y_axes[AXES - spatial + i] = y.strides[i + 2];
        }
        let row = &axes[AXES - 1];
        let spans = (0..row.block).map(|k| Span::new(row, k, run_length(row))).collect();
        let most = x.shape.iter().chain(&y.shape).copied().max().unwrap_or(0);
        if most > u32::MAX as usize {
            return Err(Reject::new("an axis of more than 2^32 elements"));
        }
        Ok(Shape {
            dtype: x.dtype,
            batch: y.shape[0],
            channels: y.shape[1],
            axes,
            x: [x.strides[0], x.strides[1]],
            y: [y.strides[0], y.strides[1]],
            y_axes,
            meetings: [Meetings::new(&axes[0]), Meetings::new(&axes[1])],
            spans,
        })
    }

    fn run(&self) -> usize {
        run_length(&self.axes[AXES - 1])
    }
}

impl Tactic for FoldTactic {
    fn id(&self) -> &'static str {
        "fold.rows"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    crate::tactic::built!();
}

impl Build for FoldTactic {
    type Kernel = Shared<Shape>;

    fn build(&self, p: &Problem<'_>) -> Result<Shared<Shape>, Reject> {
        Ok(Shared::new(Shape::new(p)?, p))
    }

    fn fit(&self, kernel: &Shared<Shape>, p: &Problem<'_>) -> Result<Fit, Reject> {
        Ok(kernel.fit(p))
    }
}

impl Units for Shape {
    /// Rows of the images.
    fn units(&self) -> usize {
        let [a, b, c] = self.axes;
        if c.size == 0 { 0 } else { self.batch * self.channels * a.size * b.size }
    }

    /// Expected nanoseconds on one thread.
    fn cost(&self, isa: Isa) -> f64 {
        let per_value = match isa {
            Isa::Avx512 | Isa::Amx => 0.1,
            Isa::Avx2 => 0.13,
            Isa::Portable => 0.4,
        };
        let [a, b, c] = self.axes;
        let values =
            self.batch * self.channels * [a, b, c].map(|x| x.block * x.places).iter().product::<usize>();
        let rows = self.units() as f64;
        100.0 + per_value * values as f64 + rows * (20.0 + 0.3 * c.size as f64)
    }

    /// One row, remainder after remainder.
    fn scratch_bytes(&self) -> usize {
        8 * self.run() * self.axes[AXES - 1].stride
    }

    unsafe fn run(&self, isa: Isa, units: (usize, usize), args: &Args<'_>) -> Result<(), KernelError> {
        let (shape, x, y, row) = (self, args.inputs[0], args.outputs[0], args.scratch);
        if self.dtype == DType::F64 {
            dispatch(isa, Run { shape, x: x.cast::<f64>(), y: y.cast(), row: row.cast(), units });
        } else {
            dispatch(isa, Run { shape, x: x.cast::<f32>(), y: y.cast(), row: row.cast(), units });
        }
        Ok(())
    }
}

/// Rows `units` of the images.
struct Run<'a, E> {
    shape: &'a Shape,
    x: *const E,
    y: *mut E,
    row: *mut E,
    units: (usize, usize),
}

impl<E: Copy + Default + std::ops::AddAssign + 'static> Task for Run<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Run { shape, x, y, row, units } = self;
        let [a, b, c] = shape.axes;
        let run = shape.run();
        for unit in units.0..units.1 {
            let (rest, j) = (unit / b.size, unit % b.size);
            let (plane, i) = (rest / a.size, rest % a.size);
            let (n, channel) = (plane / shape.channels, plane % shape.channels);
            let out = y.wrapping_offset(
                n as isize * shape.y[0]
                    + channel as isize * shape.y[1]
                    + i as isize * shape.y_axes[0]
                    + j as isize * shape.y_axes[1],
            );
            let in_place = c.stride == 1 && shape.y_axes[2] == 1;
            let row = if in_place { out } else { row };
            for k in 0..run * c.stride {
                // SAFETY: the row, in the result or in the scratch.
                unsafe { row.add(k).write(E::default()) };
            }
            for &(ka, pa) in shape.meetings[0].of(i) {
                for &(kb, pb) in shape.meetings[1].of(j) {
                    let element = ((channel * a.block + ka as usize) * b.block + kb as usize) * c.block;
                    let places = ((pa as usize * b.places + pb as usize) * c.places) as isize;
                    let mut from =
                        x.wrapping_offset(n as isize * shape.x[0] + element as isize * shape.x[1] + places);
                    for span in &shape.spans {
                        let (to, from_span) =
                            (row.wrapping_offset(span.to), from.wrapping_offset(span.first_place));
                        // SAFETY: places of the blocks, pixels of the row.
                        unsafe { add(to, from_span, span.count) };
                        from = from.wrapping_offset(shape.x[1]);
                    }
                }
            }
            if in_place {
                continue;
            }
            if c.stride == 2 && shape.y_axes[2] == 1 {
                // SAFETY: pixels of the row, in the scratch and in the result.
                unsafe { weave(out, row, row.add(run), c.size) };
                continue;
            }
            for remainder in 0..c.stride.min(c.size) {
                let pixels = (c.size - remainder).div_ceil(c.stride);
                for k in 0..pixels {
                    // SAFETY: pixels of the row.
                    unsafe {
                        let value = *row.add(remainder * run + k);
                        let at = (remainder + k * c.stride) as isize;
                        out.offset(at * shape.y_axes[2]).write(value);
                    }
                }
            }
        }
    }
}

/// Writes `size` elements, from `even` and `odd` in turn.
///
/// # Safety
/// They are writable at `out`; `even` has half of them, rounded up, and `odd` the others. `out` overlaps neither.
#[inline(always)]
unsafe fn weave<E: Copy>(out: *mut E, even: *const E, odd: *const E, size: usize) {
    // SAFETY: the caller's.
    unsafe {
        for k in 0..size / 2 {
            out.add(2 * k).cast::<[E; 2]>().write_unaligned([*even.add(k), *odd.add(k)]);
        }
        if size % 2 == 1 {
            out.add(size - 1).write(*even.add(size / 2));
        }
    }
}

/// Adds `count` elements, blocks of which become vectors.
///
/// # Safety
/// They are readable and, at `to`, writable, and do not overlap.
#[inline(always)]
unsafe fn add<E: Copy + std::ops::AddAssign>(to: *mut E, from: *const E, count: usize) {
    /// # Safety
    /// As [`add`], of `N` elements.
    #[inline(always)]
    unsafe fn block<E: Copy + std::ops::AddAssign, const N: usize>(to: *mut E, from: *const E) {
        // SAFETY: the caller's.
        unsafe {
            let mut sums = to.cast::<[E; N]>().read_unaligned();
            let values = from.cast::<[E; N]>().read_unaligned();
            for l in 0..N {
                sums[l] += values[l];
            }
            to.cast::<[E; N]>().write_unaligned(sums);
        }
    }
    // SAFETY: blocks below the count.
    unsafe {
        let mut k = 0;
        while k + 16 <= count {
            block::<E, 16>(to.add(k), from.add(k));
            k += 16;
        }
        if k + 8 <= count {
            block::<E, 8>(to.add(k), from.add(k));
            k += 8;
        }
        if k + 4 <= count {
            block::<E, 4>(to.add(k), from.add(k));
            k += 4;
        }
        for k in k..count {
            *to.add(k) += *from.add(k);
        }
    }
}
