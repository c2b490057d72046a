//! `Op::GridSample`: blocks of points whose places and weights are computed side by side; then point by point over
//! channels that are consecutive, or channel by channel over the points.

use super::{LANES, NOWHERE, Real, blend};
use crate::cpu::shared::{Shared, Units};
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::Axes;
use crate::tactic::Build;
use crate::{Args, Fit, Isa, KernelError, Problem, Reject, Tactic};
use engraft_network::ops::{GridSample, Outside, SampleMode};
use engraft_network::{DType, Op};

/// Images and grids of `f32` or of `f64` at any strides.
#[derive(Debug)]
pub(super) struct GridSampleTactic;

/// Most spatial axes, taps of an axis, and taps of a point.
const AXES: usize = 3;
const AXIS_TAPS: usize = 4;
const TAPS: usize = AXIS_TAPS.pow(AXES as u32);

/// Fewer consecutive channels than this are better worked on one by one.
const FEW_CHANNELS: usize = 8;

/// One spatial axis of the image.
#[derive(Clone, Copy, Debug, Default)]
struct Axis {
    size: usize,
    stride: i32,
}

/// The operands.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    op: GridSample,
    dtype: DType,
    /// From the last axis of space to the first, as coordinates stand.
    axes: [Axis; AXES],
    spatial: usize,
    batch: usize,
    /// Elements from one image, grid and result to the next.
    next: [isize; 3],
    channels: usize,
    x_channel: isize,
    y_channel: isize,
    coordinate: isize,
    /// Points of one image: rows, and points of a row, with their strides in the grid and in the result.
    rows: Axes<2>,
    row: (usize, [isize; 2]),
}

impl Shape {
    fn new(p: &Problem<'_>) -> Result<Shape, Reject> {
        let Op::GridSample(op) = p.op else { return Err(Reject::new("not sampling at a grid")) };
        let (x, grid, y) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        if !matches!(x.dtype, DType::F32 | DType::F64) || grid.dtype != x.dtype {
            return Err(Reject(format!("an image of {} at points of {}", x.dtype, grid.dtype)));
        }
        let (spatial, last) = (x.rank() - 2, grid.rank() - 1);
        if x.count() == 0 && y.count() > 0 {
            return Err(Reject::new("nothing to sample"));
        }
        let reach: usize =
            (1..=spatial + 1).map(|a| (x.shape[a].max(1) - 1) * x.strides[a].unsigned_abs()).sum();
        if reach >= 1 << 30 || x.shape[1..=spatial].iter().any(|n| *n >= 1 << 23) {
            return Err(Reject::new("an image of more than 2^30 elements"));
        }
        let mut axes = [Axis::default(); AXES];
        for (axis, a) in axes.iter_mut().zip((1..=spatial).rev()) {
            *axis = Axis { size: x.shape[a], stride: x.strides[a] as i32 };
        }
        let points = (1..last).map(|a| (grid.shape[a], [grid.strides[a], y.strides[a]]));
        let mut rows = Axes::new(points);
        let row = rows.pop().unwrap_or((1, [0; 2]));
        Ok(Shape {
            op: op.clone(),
            dtype: x.dtype,
            axes,
            spatial,
            batch: x.shape[0],
            next: [x.strides[0], grid.strides[0], y.strides[0]],
            channels: x.shape[spatial + 1],
            x_channel: x.strides[spatial + 1],
            y_channel: y.strides[last],
            coordinate: grid.strides[last],
            rows,
            row,
        })
    }

    fn axis_taps(&self) -> usize {
        match self.op.mode {
            SampleMode::Nearest => 1,
            SampleMode::Linear => 2,
            SampleMode::Cubic => 4,
        }
    }

    /// Whether a point's channels are worked on side by side, rather than a channel's points.
    fn by_point(&self) -> bool {
        self.channels >= FEW_CHANNELS && self.x_channel == 1 && self.y_channel == 1
    }

    /// Blocks of one row.
    fn blocks(&self) -> usize {
        self.row.0.div_ceil(LANES)
    }
}

impl Tactic for GridSampleTactic {
    fn id(&self) -> &'static str {
        "sample.grid"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    crate::tactic::built!();
}

impl Build for GridSampleTactic {
    type Kernel = Shared<Shape>;

    fn build(&self, p: &Problem<'_>) -> Result<Shared<Shape>, Reject> {
        Ok(Shared::new(Shape::new(p)?, p))
    }

    fn fit(&self, kernel: &Shared<Shape>, p: &Problem<'_>) -> Result<Fit, Reject> {
        Ok(kernel.fit(p))
    }
}

impl Units for Shape {
    fn units(&self) -> usize {
        if self.channels == 0 { 0 } else { self.batch * self.rows.count() * self.blocks() }
    }

    /// Expected nanoseconds on one thread.
    fn cost(&self, isa: Isa) -> f64 {
        let slow = match isa {
            Isa::Avx512 | Isa::Amx => 1.0,
            Isa::Avx2 => 1.4,
            Isa::Portable => 4.0,
        };
        let points = (self.batch * self.rows.count() * self.row.0) as f64;
        let taps = self.axis_taps().pow(self.spatial as u32) as f64;
        let reflected = if self.op.outside == Outside::Reflection { 2.0 } else { 1.0 };
        let places = 2.0 * reflected * self.spatial as f64 + 0.5 * taps;
        let channels = self.channels as f64;
        let values = if self.by_point() { taps * (1.0 + 0.05 * channels) } else { 0.7 * taps * channels };
        100.0 + slow * points * (places + values)
    }

    unsafe fn run(&self, isa: Isa, units: (usize, usize), args: &Args<'_>) -> Result<(), KernelError> {
        let (shape, x, grid, y) = (self, args.inputs[0], args.inputs[1], args.outputs[0]);
        if self.dtype == DType::F64 {
            dispatch(isa, Run { shape, x: x.cast::<f64>(), grid: grid.cast(), y: y.cast(), units });
        } else {
            dispatch(isa, Run { shape, x: x.cast::<f32>(), grid: grid.cast(), y: y.cast(), units });
        }
        Ok(())
    }
}

/// Blocks `units` of points.
struct Run<'a, E> {
    shape: &'a Shape,
    x: *const E,
    grid: *const E,
    y: *mut E,
    units: (usize, usize),
}

/// Places in the image, in elements, and weights of a block of points.
#[derive(Clone, Copy)]
struct Tap<E> {
    offsets: [i32; LANES],
    weights: [E; LANES],
}

impl<E: Real> Task for Run<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Run { shape, x, grid, y, units } = self;
        let blank = Tap { offsets: [0; LANES], weights: [E::of(1.0); LANES] };
        let mut taps = [blank; TAPS];
        let blocks = shape.blocks();
        for unit in units.0..units.1 {
            let (rest, block) = (unit / blocks, unit % blocks);
            let (n, row) = (rest / shape.rows.count(), rest % shape.rows.count());
            let [grid_row, y_row] = shape.rows.offsets(row);
            let (len, [grid_step, y_step]) = shape.row;
            let first = block * LANES;
            let points = LANES.min(len - first);
            let image = x.wrapping_offset(n as isize * shape.next[0]);
            let at = grid.wrapping_offset(n as isize * shape.next[1] + grid_row + first as isize * grid_step);
            let out = y.wrapping_offset(n as isize * shape.next[2] + y_row + first as isize * y_step);

            taps[0] = blank;
            let mut count = 1;
            for (a, axis) in shape.axes[..shape.spatial].iter().enumerate() {
                let mut coordinates = [E::of(0.0); LANES];
                for (l, c) in coordinates.iter_mut().enumerate().take(points) {
                    // SAFETY: a coordinate of a point of the grid.
                    *c = unsafe { *at.offset(l as isize * grid_step + a as isize * shape.coordinate) };
                }
                let along = axis_taps(&shape.op, axis, coordinates);
                count = combine(&mut taps, count, &along[..shape.axis_taps()]);
            }
            let taps = &taps[..count];
            // SAFETY: taps lie inside the image or nowhere; the points are part of the result.
            unsafe {
                if shape.by_point() {
                    by_point(taps, image, out, y_step, points, shape.channels);
                } else {
                    by_channel(taps, image, out, [shape.x_channel, shape.y_channel, y_step], points, shape);
                }
            }
        }
    }
}

/// The taps of one axis for a block of coordinates. What depends on the operator stands outside of the loops over the
/// block, so that these become vectors.
#[inline(always)]
fn axis_taps<E: Real>(op: &GridSample, axis: &Axis, n: [E; LANES]) -> [Tap<E>; AXIS_TAPS] {
    let (zero, one, two) = (E::of(0.0), E::of(1.0), E::of(2.0));
    let length = E::of(axis.size as f64);
    let last = length - one;
    let (low, high) = if op.align_corners { (zero, last) } else { (E::of(-0.5), length - E::of(0.5)) };
    let mut x = n;
    if op.align_corners {
        each(&mut x, |n| (n + one) / two * last);
    } else {
        each(&mut x, |n| ((n + one) * length - one) / two);
    }
    let far = E::of(f64::from(1 << 24));
    each(&mut x, |x| clamp(x, zero - far, far));
    if op.mode == SampleMode::Nearest {
        each(&mut x, E::round_ties_even);
    }
    match op.outside {
        _ if op.mode == SampleMode::Cubic => {}
        Outside::Zeros => {}
        Outside::Border => each(&mut x, |x| if x < low || x > high { clamp(x, zero, last) } else { x }),
        Outside::Reflection => each(&mut x, |x| reflect(x, low, high)),
    }
    let mut floor = x;
    each(&mut floor, E::floor);
    let mut t = x;
    for l in 0..LANES {
        t[l] = x[l] - floor[l];
    }
    let mut taps = [Tap { offsets: [0; LANES], weights: [one; LANES] }; AXIS_TAPS];
    let (count, before) = match op.mode {
        SampleMode::Nearest => (1, zero),
        SampleMode::Linear => (2, zero),
        SampleMode::Cubic => (4, one),
    };
    for (k, tap) in taps.iter_mut().enumerate().take(count) {
        let mut place = floor;
        each(&mut place, |i| i + (E::of(k as f64) - before));
        let mut inside = place;
        match op.outside {
            Outside::Reflection => each(&mut inside, |i| clamp(reflect(i, low, high), zero, last)),
            _ => each(&mut inside, |i| clamp(i, zero, last)),
        }
        for l in 0..LANES {
            // SAFETY: the number of a pixel.
            tap.offsets[l] = unsafe { inside[l].to_i32() } * axis.stride;
        }
        if op.outside == Outside::Zeros {
            for l in 0..LANES {
                tap.offsets[l] = if inside[l] == place[l] { tap.offsets[l] } else { NOWHERE };
            }
        }
        tap.weights = t;
        match (op.mode, k) {
            (SampleMode::Nearest, _) => tap.weights = [one; LANES],
            (SampleMode::Linear, 0) => each(&mut tap.weights, |t| one - t),
            (SampleMode::Linear, _) => {}
            (SampleMode::Cubic, 0) => each(&mut tap.weights, |t| keys_far(t + one)),
            (SampleMode::Cubic, 1) => each(&mut tap.weights, keys_near),
            (SampleMode::Cubic, 2) => each(&mut tap.weights, |t| keys_near(one - t)),
            (SampleMode::Cubic, _) => each(&mut tap.weights, |t| keys_far(two - t)),
        }
    }
    taps
}

#[inline(always)]
fn each<E: Real>(block: &mut [E; LANES], f: impl Fn(E) -> E) {
    for x in block {
        *x = f(*x);
    }
}

/// `low` where x is not a number.
#[inline(always)]
fn clamp<E: Real>(x: E, low: E, high: E) -> E {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// x mirrored at both ends as often as it takes.
#[inline(always)]
fn reflect<E: Real>(x: E, low: E, high: E) -> E {
    let range = high - low;
    let beyond = if x < low { low - x } else { x - high };
    let times = (beyond / range).trunc();
    let rest = beyond - times * range;
    let even = (times * E::of(0.5)).trunc() * E::of(2.0) == times;
    let mirrored = if (x < low) == even { low + rest } else { high - rest };
    let mirrored = if range > E::of(0.0) { mirrored } else { low };
    if x < low || x > high { mirrored } else { x }
}

/// Keys' cubic kernel with a = -0.75 at a distance of up to 1.
#[inline(always)]
fn keys_near<E: Real>(d: E) -> E {
    (E::of(1.25) * d - E::of(2.25)) * d * d + E::of(1.0)
}

/// The same at a distance of 1 to 2.
#[inline(always)]
fn keys_far<E: Real>(d: E) -> E {
    ((E::of(-0.75) * d + E::of(3.75)) * d - E::of(6.0)) * d + E::of(3.0)
}

/// Every one of `count` taps with every one of the next axis; returns how many there are.
#[inline(always)]
fn combine<E: Real>(taps: &mut [Tap<E>; TAPS], count: usize, axis: &[Tap<E>]) -> usize {
    for i in (0..count).rev() {
        let tap = taps[i];
        for (k, other) in axis.iter().enumerate() {
            let to = &mut taps[i * axis.len() + k];
            for l in 0..LANES {
                let (a, b) = (tap.offsets[l], other.offsets[l]);
                let sum = a.wrapping_add(b);
                to.offsets[l] = if a == NOWHERE || b == NOWHERE { NOWHERE } else { sum };
                to.weights[l] = tap.weights[l] * other.weights[l];
            }
        }
    }
    count * axis.len()
}

/// # Safety
/// Taps that are not nowhere lie in the image; `out` is writable for `channels` elements at each of the points.
#[inline(always)]
unsafe fn by_point<E: Real>(
    taps: &[Tap<E>],
    image: *const E,
    out: *mut E,
    step: isize,
    points: usize,
    channels: usize,
) {
    let mut list = [(image, E::of(0.0)); TAPS];
    for l in 0..points {
        let mut count = 0;
        for tap in taps {
            if tap.offsets[l] != NOWHERE {
                list[count] = (image.wrapping_offset(tap.offsets[l] as isize), tap.weights[l]);
                count += 1;
            }
        }
        // SAFETY: the caller's.
        unsafe { blend(&list[..count], out.offset(l as isize * step), channels, false) };
    }
}

/// `strides` are those of channels in the image and in the result, and of points in the result.
///
/// # Safety
/// As [`by_point`].
#[inline(always)]
unsafe fn by_channel<E: Real>(
    taps: &[Tap<E>],
    image: *const E,
    out: *mut E,
    [x_channel, y_channel, step]: [isize; 3],
    points: usize,
    shape: &Shape,
) {
    let zero = E::of(0.0);
    let whole = taps.iter().all(|tap| tap.offsets.iter().all(|o| *o != NOWHERE));
    for c in 0..shape.channels as isize {
        let plane = image.wrapping_offset(c * x_channel);
        let mut sum = [zero; LANES];
        for tap in taps {
            let mut values = [zero; LANES];
            // SAFETY: the caller's.
            unsafe {
                if whole {
                    for l in 0..LANES {
                        values[l] = *plane.offset(tap.offsets[l] as isize);
                    }
                } else {
                    for l in 0..LANES {
                        if tap.offsets[l] != NOWHERE {
                            values[l] = *plane.offset(tap.offsets[l] as isize);
                        }
                    }
                }
            }
            for l in 0..LANES {
                sum[l] = sum[l] + tap.weights[l] * values[l];
            }
        }
        let to = out.wrapping_offset(c * y_channel);
        for (l, v) in sum.iter().enumerate().take(points) {
            // SAFETY: the caller's.
            unsafe { to.offset(l as isize * step).write(*v) };
        }
    }
}
