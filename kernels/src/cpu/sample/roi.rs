//! `Op::RoiAlign` and `Op::RoiMaxPool`: bin after bin, over consecutive channels. The samples of a mean form a grid, so that
//! their weights come together as one weight per row times one per column of pixels.

use super::{Real, blend, peak};
use crate::cpu::shared::{Shared, Units};
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::tactic::Build;
use crate::{Args, Fit, Isa, KernelError, Problem, Reject, Tactic, TensorDesc};
use engraft_network::ops::RoiAlign;
use engraft_network::{DType, Op};

/// Means and greatest samples of regions.
#[derive(Debug)]
pub(super) struct RoiAlignTactic;

/// Greatest pixels of regions.
#[derive(Debug)]
pub(super) struct RoiMaxPoolTactic;

/// Pixels that are summed up before a result is written.
const TAPS: usize = 64;

/// The operands, of `f32` or `f64`; channels are consecutive.
#[derive(Clone, Debug)]
struct Shape {
    dtype: DType,
    images: usize,
    /// Height and width of images and of results.
    size: [usize; 2],
    bins: [usize; 2],
    channels: usize,
    regions: usize,
    /// Elements between images, rows and pixels of x, and between regions, rows and bins of y.
    x: [isize; 3],
    y: [isize; 3],
    /// Elements between regions and between their numbers.
    region: [isize; 2],
    scale: f32,
}

impl Shape {
    fn new(p: &Problem<'_>, scale: u32) -> Result<Shape, Reject> {
        let (x, regions, y) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        if !matches!(x.dtype, DType::F32 | DType::F64) || regions.dtype != x.dtype {
            return Err(Reject(format!("regions of {} in images of {}", regions.dtype, x.dtype)));
        }
        if x.shape[3] > 1 && (x.strides[3] != 1 || y.strides[3] != 1) {
            return Err(Reject::new("channels are not consecutive"));
        }
        if x.count() == 0 && y.count() > 0 {
            return Err(Reject::new("no image to take regions of"));
        }
        if x.shape[1..3].iter().any(|n| *n >= 1 << 23) {
            return Err(Reject::new("an image of more than 2^23 pixels along an axis"));
        }
        let three = |d: &TensorDesc| [d.strides[0], d.strides[1], d.strides[2]];
        Ok(Shape {
            dtype: x.dtype,
            images: x.shape[0],
            size: [x.shape[1], x.shape[2]],
            bins: [y.shape[1], y.shape[2]],
            channels: x.shape[3],
            regions: y.shape[0],
            x: three(x),
            y: three(y),
            region: [regions.strides[0], regions.strides[1]],
            scale: f32::from_bits(scale),
        })
    }

    /// Rows of bins.
    fn units(&self) -> usize {
        if self.channels == 0 || self.bins[1] == 0 { 0 } else { self.regions * self.bins[0] }
    }

    /// Expected nanoseconds on one thread where a bin reads `pixels`.
    fn cost(&self, isa: Isa, pixels: f64) -> f64 {
        let per_value = match isa {
            Isa::Avx512 | Isa::Amx => 0.04,
            Isa::Avx2 => 0.06,
            Isa::Portable => 0.25,
        };
        let bins = (self.units() * self.bins[1]) as f64;
        100.0 + bins * (20.0 + pixels * (2.0 + per_value * self.channels as f64))
    }

    fn image(&self, index: i64) -> Result<usize, KernelError> {
        let place = usize::try_from(index).ok().filter(|i| *i < self.images);
        place.ok_or(KernelError::Index { index, size: self.images })
    }
}

impl Tactic for RoiAlignTactic {
    fn id(&self) -> &'static str {
        "sample.roi_align"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    crate::tactic::built!();
}

impl Build for RoiAlignTactic {
    type Kernel = Shared<Align>;

    fn build(&self, p: &Problem<'_>) -> Result<Shared<Align>, Reject> {
        let Op::RoiAlign(op) = p.op else { return Err(Reject::new("no alignment of regions")) };
        let images = &p.inputs[2].desc;
        let align = Align {
            op: op.clone(),
            shape: Shape::new(p, op.scale)?,
            wide: images.dtype == DType::I64,
            image_step: images.strides[0],
        };
        Ok(Shared::new(align, p))
    }

    fn fit(&self, kernel: &Shared<Align>, p: &Problem<'_>) -> Result<Fit, Reject> {
        Ok(kernel.fit(p))
    }
}

pub(super) struct Align {
    op: RoiAlign,
    shape: Shape,
    /// Whether numbers of images are `i64` rather than `i32`, and their distance.
    wide: bool,
    image_step: isize,
}

impl Units for Align {
    fn units(&self) -> usize {
        self.shape.units()
    }

    fn cost(&self, isa: Isa) -> f64 {
        let samples = if self.op.samples == 0 { 2.0 } else { self.op.samples as f64 };
        let pixels = if self.op.max { 4.0 * samples * samples } else { (samples + 1.0).powi(2) };
        self.shape.cost(isa, pixels)
    }

    /// The weights of rows and of columns.
    fn scratch_bytes(&self) -> usize {
        8 * (self.shape.size[0] + self.shape.size[1])
    }

    unsafe fn run(&self, isa: Isa, units: (usize, usize), args: &Args<'_>) -> Result<(), KernelError> {
        if self.shape.dtype == DType::F64 {
            dispatch(isa, Aligned::<f64>::new(self, args, units))
        } else {
            dispatch(isa, Aligned::<f32>::new(self, args, units))
        }
    }
}

/// Rows of bins of one task.
struct Aligned<'a, E> {
    kernel: &'a Align,
    x: *const E,
    regions: *const E,
    images: *const u8,
    y: *mut E,
    scratch: *mut E,
    units: (usize, usize),
}

impl<'a, E: Real> Aligned<'a, E> {
    fn new(kernel: &'a Align, args: &Args<'_>, units: (usize, usize)) -> Self {
        Aligned {
            kernel,
            x: args.inputs[0].cast(),
            regions: args.inputs[1].cast(),
            images: args.inputs[2],
            y: args.outputs[0].cast(),
            scratch: args.scratch.cast(),
            units,
        }
    }
}

/// The bins of a region along one axis: where they start, their size, the samples of each, and pixels of the image.
#[derive(Clone, Copy)]
struct Side<E> {
    start: E,
    size: E,
    samples: usize,
    length: usize,
}

impl<E: Real> Side<E> {
    fn new(op: &RoiAlign, from: E, to: E, bins: usize, length: usize) -> Result<Side<E>, KernelError> {
        let one = E::of(1.0);
        let extent = to - from;
        let extent = if op.half_pixel || extent > one { extent } else { one };
        let size = extent / E::of(bins as f64);
        let samples = if op.samples > 0 { op.samples } else { size.ceil_to_usize() };
        if samples > RoiAlign::MOST_SAMPLES {
            return Err(KernelError::Data(format!("a region takes {samples} samples of a bin")));
        }
        Ok(Side { start: from, size, samples, length })
    }

    /// The pixel before sample `i` of a bin and the sample's distance from it; none outside of the image.
    #[inline(always)]
    fn sample(&self, bin: usize, i: usize) -> Option<(usize, E)> {
        let (zero, one) = (E::of(0.0), E::of(1.0));
        let inner = (E::of(i as f64) + E::of(0.5)) * self.size / E::of(self.samples as f64);
        let at = self.start + E::of(bin as f64) * self.size + inner;
        if !(at >= zero - one && at <= E::of(self.length as f64)) {
            return None;
        }
        let at = if at > zero { at } else { zero };
        // SAFETY: at most the length, which is far below 2^31.
        let low = unsafe { at.to_i32() } as usize;
        if low + 1 >= self.length { Some((self.length - 1, zero)) } else { Some((low, at - at.floor())) }
    }

    /// Adds up the weights that the samples of a bin give to pixels, and returns the pixels that have any.
    ///
    /// # Safety
    /// `weights` is writable for the image's length.
    #[inline(always)]
    unsafe fn weigh(&self, bin: usize, weights: *mut E) -> (usize, usize) {
        let (mut first, mut end) = (self.length, 0);
        for i in 0..self.samples {
            if let Some((low, t)) = self.sample(bin, i) {
                let high = if t > E::of(0.0) { low + 1 } else { low };
                (first, end) = (first.min(low), end.max(high + 1));
            }
        }
        for i in first..end {
            // SAFETY: pixels of the image.
            unsafe { weights.add(i).write(E::of(0.0)) };
        }
        for i in 0..self.samples {
            if let Some((low, t)) = self.sample(bin, i) {
                // SAFETY: as above; what is written was cleared.
                unsafe {
                    *weights.add(low) = *weights.add(low) + (E::of(1.0) - t);
                    if t > E::of(0.0) {
                        *weights.add(low + 1) = *weights.add(low + 1) + t;
                    }
                }
            }
        }
        (first, end)
    }
}

impl<E: Real> Task for Aligned<'_, E> {
    type Output = Result<(), KernelError>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Result<(), KernelError> {
        let Aligned { kernel, x, regions, images, y, scratch, units } = self;
        let Align { op, shape, .. } = kernel;
        let shift = if op.half_pixel { E::of(0.5) } else { E::of(0.0) };
        let rows = scratch;
        let columns = scratch.wrapping_add(shape.size[0]);
        for unit in units.0..units.1 {
            let (region, i) = (unit / shape.bins[0], unit % shape.bins[0]);
            // SAFETY: numbers of a region that exists.
            let (image, edges) = unsafe {
                let index = images.cast::<i64>();
                let at = region as isize * kernel.image_step;
                let index =
                    if kernel.wide { *index.offset(at) } else { i64::from(*images.cast::<i32>().offset(at)) };
                let edge = |i: isize| {
                    let number = *regions.offset(region as isize * shape.region[0] + i * shape.region[1]);
                    number * E::of(f64::from(shape.scale)) - shift
                };
                (shape.image(index)?, [edge(0), edge(1), edge(2), edge(3)])
            };
            let across = Side::new(op, edges[0], edges[2], shape.bins[1], shape.size[1])?;
            let down = Side::new(op, edges[1], edges[3], shape.bins[0], shape.size[0])?;
            let image = x.wrapping_offset(image as isize * shape.x[0]);
            let row = y.wrapping_offset(region as isize * shape.y[0] + i as isize * shape.y[1]);
            // SAFETY: the scratch holds a weight for each row and column; samples lie inside the image.
            unsafe {
                let (top, bottom) = if op.max { (0, 0) } else { down.weigh(i, rows) };
                for j in 0..shape.bins[1] {
                    let mut list = List::new(image, row.wrapping_offset(j as isize * shape.y[2]), shape);
                    if op.max {
                        list.samples(&down, i, &across, j);
                        continue;
                    }
                    let (left, right) = across.weigh(j, columns);
                    let count = E::of((down.samples * across.samples).max(1) as f64);
                    for r in top..bottom {
                        let weight = *rows.add(r) / count;
                        for c in left..right {
                            list.add::<false>(r, c, weight * *columns.add(c));
                        }
                    }
                    list.finish::<false>();
                }
            }
        }
        Ok(())
    }
}

/// Weighted pixels of one bin, on their way into its result.
struct List<'a, E> {
    image: *const E,
    out: *mut E,
    shape: &'a Shape,
    taps: [(*const E, E); TAPS],
    count: usize,
    /// Whether the result holds what earlier pixels gave.
    begun: bool,
}

impl<'a, E: Real> List<'a, E> {
    #[inline(always)]
    fn new(image: *const E, out: *mut E, shape: &'a Shape) -> Self {
        List { image, out, shape, taps: [(image, E::of(0.0)); TAPS], count: 0, begun: false }
    }

    /// # Safety
    /// The pixel lies in the image; the result is writable for all channels (of all methods).
    #[inline(always)]
    unsafe fn add<const MAX: bool>(&mut self, row: usize, column: usize, weight: E) {
        let place = row as isize * self.shape.x[1] + column as isize * self.shape.x[2];
        self.taps[self.count] = (self.image.wrapping_offset(place), weight);
        self.count += 1;
        if self.count == TAPS {
            // SAFETY: the caller's.
            unsafe { self.flush::<MAX>() };
        }
    }

    #[inline(always)]
    unsafe fn flush<const MAX: bool>(&mut self) {
        let taps = &self.taps[..self.count];
        // SAFETY: the caller's.
        unsafe {
            if MAX {
                peak(taps, self.out, self.shape.channels, self.begun);
            } else {
                blend(taps, self.out, self.shape.channels, self.begun);
            }
        }
        self.begun = true;
        self.count = 0;
    }

    /// Writes what is left, or zeros where there was nothing.
    #[inline(always)]
    unsafe fn finish<const MAX: bool>(&mut self) {
        // SAFETY: the caller's.
        unsafe {
            if self.count > 0 {
                self.flush::<MAX>();
            } else if !self.begun {
                blend(&[], self.out, self.shape.channels, false);
            }
        }
    }

    /// The greatest of the weighted pixels around all samples of a bin.
    #[inline(always)]
    unsafe fn samples(&mut self, down: &Side<E>, i: usize, across: &Side<E>, j: usize) {
        let one = E::of(1.0);
        // SAFETY: the caller's; samples lie in the image.
        unsafe {
            for a in 0..down.samples {
                for b in 0..across.samples {
                    let (Some((r, u)), Some((c, v))) = (down.sample(i, a), across.sample(j, b)) else {
                        self.add::<true>(0, 0, E::of(0.0));
                        continue;
                    };
                    let (below, beside) = ((r + 1).min(down.length - 1), (c + 1).min(across.length - 1));
                    self.add::<true>(r, c, (one - u) * (one - v));
                    self.add::<true>(r, beside, (one - u) * v);
                    self.add::<true>(below, c, u * (one - v));
                    self.add::<true>(below, beside, u * v);
                }
            }
            self.finish::<true>();
        }
    }
}

impl Tactic for RoiMaxPoolTactic {
    fn id(&self) -> &'static str {
        "sample.roi_max"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    crate::tactic::built!();
}

impl Build for RoiMaxPoolTactic {
    type Kernel = Shared<MaxPool>;

    fn build(&self, p: &Problem<'_>) -> Result<Shared<MaxPool>, Reject> {
        let Op::RoiMaxPool(op) = p.op else { return Err(Reject::new("no pooling of regions")) };
        Ok(Shared::new(MaxPool(Shape::new(p, op.scale)?), p))
    }

    fn fit(&self, kernel: &Shared<MaxPool>, p: &Problem<'_>) -> Result<Fit, Reject> {
        Ok(kernel.fit(p))
    }
}

pub(super) struct MaxPool(Shape);

impl Units for MaxPool {
    fn units(&self) -> usize {
        self.0.units()
    }

    fn cost(&self, isa: Isa) -> f64 {
        self.0.cost(isa, 4.0)
    }

    unsafe fn run(&self, isa: Isa, units: (usize, usize), args: &Args<'_>) -> Result<(), KernelError> {
        let (shape, x, regions, y) = (&self.0, args.inputs[0], args.inputs[1], args.outputs[0]);
        if shape.dtype == DType::F64 {
            let (x, regions, y) = (x.cast::<f64>(), regions.cast(), y.cast());
            dispatch(isa, Pooled { shape, x, regions, y, units })
        } else {
            let (x, regions, y) = (x.cast::<f32>(), regions.cast(), y.cast());
            dispatch(isa, Pooled { shape, x, regions, y, units })
        }
    }
}

/// Rows of bins of one task.
struct Pooled<'a, E> {
    shape: &'a Shape,
    x: *const E,
    regions: *const E,
    y: *mut E,
    units: (usize, usize),
}

impl<E: Real> Task for Pooled<'_, E> {
    type Output = Result<(), KernelError>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Result<(), KernelError> {
        let Pooled { shape, x, regions, y, units } = self;
        for unit in units.0..units.1 {
            let (region, i) = (unit / shape.bins[0], unit % shape.bins[0]);
            let number = |i: isize| {
                // SAFETY: a number of a region that exists.
                let n = unsafe { *regions.offset(region as isize * shape.region[0] + i * shape.region[1]) };
                n.to_f64() as f32
            };
            let image = x.wrapping_offset(shape.image(number(0) as i64)? as isize * shape.x[0]);
            let row = y.wrapping_offset(region as isize * shape.y[0] + i as isize * shape.y[1]);
            // Pixels that bin `bin` touches, of the numbers from `first` on.
            let touched = |first: isize, bin: usize, bins: usize, length: usize| {
                let (from, to) =
                    ((number(first) * shape.scale).round(), (number(first + 2) * shape.scale).round());
                let size = (to - from + 1.0).max(1.0) / bins as f32;
                let place = |i: f32| (from as i64).saturating_add(i as i64).clamp(0, length as i64) as usize;
                (place((bin as f32 * size).floor()), place(((bin + 1) as f32 * size).ceil()))
            };
            let (top, bottom) = touched(2, i, shape.bins[0], shape.size[0]);
            for j in 0..shape.bins[1] {
                let (left, right) = touched(1, j, shape.bins[1], shape.size[1]);
                let mut list = List::new(image, row.wrapping_offset(j as isize * shape.y[2]), shape);
                // SAFETY: the bin's pixels lie inside the image.
                unsafe {
                    for r in top..bottom {
                        for c in left..right {
                            list.add::<true>(r, c, E::of(1.0));
                        }
                    }
                    list.finish::<true>();
                }
            }
        }
        Ok(())
    }
}
