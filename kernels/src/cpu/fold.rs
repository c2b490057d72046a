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
        Ok(Shape {
            dtype: x.dtype,
            batch: y.shape[0],
            channels: y.shape[1],
            axes,
            x: [x.strides[0], x.strides[1]],
            y: [y.strides[0], y.strides[1]],
            y_axes,
        })
    }

    /// Elements of a row with one remainder by the stride.
    fn run(&self) -> usize {
        self.axes[AXES - 1].size.div_ceil(self.axes[AXES - 1].stride)
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
        100.0 + per_value * values as f64 + rows * (20.0 + 0.5 * c.size as f64)
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
            for ka in 0..a.block {
                let Some(pa) = a.place(i, ka) else { continue };
                for kb in 0..b.block {
                    let Some(pb) = b.place(j, kb) else { continue };
                    for kc in 0..c.block {
                        let element = ((channel * a.block + ka) * b.block + kb) * c.block + kc;
                        let places = ((pa * b.places + pb) * c.places) as isize;
                        let from = x.wrapping_offset(
                            n as isize * shape.x[0] + element as isize * shape.x[1] + places,
                        );
                        // The pixel of the first place, and its number among those of its remainder.
                        let pixel = (kc * c.dilation) as isize - c.begin as isize;
                        let stride = c.stride as isize;
                        let (remainder, shift) = (pixel.rem_euclid(stride), pixel.div_euclid(stride));
                        // Pixels of this remainder that the row has.
                        let have = (c.size as isize - remainder + stride - 1).div_euclid(stride).max(0);
                        let first = (-shift).max(0);
                        let last = (have - shift).min(c.places as isize);
                        let to = row.wrapping_offset(remainder * run as isize + shift);
                        let count = (last - first).max(0) as usize;
                        // SAFETY: places of the blocks, pixels of the row.
                        unsafe { add(to.wrapping_offset(first), from.wrapping_offset(first), count) };
                    }
                }
            }
            if in_place {
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

/// Adds `count` elements, blocks of which become vectors.
///
/// # Safety
/// They are readable and, at `to`, writable, and do not overlap.
#[inline(always)]
unsafe fn add<E: Copy + std::ops::AddAssign>(to: *mut E, from: *const E, count: usize) {
    const LANES: usize = 16;
    // SAFETY: the caller's.
    unsafe {
        let mut k = 0;
        while k + LANES <= count {
            let mut sums = to.add(k).cast::<[E; LANES]>().read_unaligned();
            let values = from.add(k).cast::<[E; LANES]>().read_unaligned();
            for l in 0..LANES {
                sums[l] += values[l];
            }
            to.add(k).cast::<[E; LANES]>().write_unaligned(sums);
            k += LANES;
        }
        for k in k..count {
            *to.add(k) += *from.add(k);
        }
    }
}
