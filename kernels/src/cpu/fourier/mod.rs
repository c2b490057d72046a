//! Fourier transforms of signals and of frames of signals.
//!
//! As many signals as a vector has lanes are transformed side by side: every operation of the algorithm is one on vectors,
//! whatever the length. Where one side is real and the length even, two reals count as one complex number, which halves
//! the length. Errors are a few units in the last place times the logarithm of the length, relative to the signal's norm.

mod stages;

use super::pointwise::{share, tasks};
use super::simd::{Simd, Task, dispatch};
use super::storage::Axes;
use super::{Isa, isa};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};
use stages::{Points, Transform, turned, turns};

/// Transforms of `f32` signals at any strides.
#[derive(Debug)]
pub struct FourierTactic;

/// The family's row of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&FourierTactic]
}

/// How numbers of a side stand for points of the transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A complex number per point.
    Complex,
    /// A real number per point.
    Real,
    /// Two real numbers per point.
    Pairs,
    /// The first half of the spectrum of a real signal.
    Half,
}

/// A problem in the kernel's terms.
#[derive(Clone, Debug)]
struct Shape {
    length: usize,
    inverse: bool,
    from: Form,
    to: Form,
    /// Points of the operand that count, and of the result.
    points: [usize; 2],
    /// Strides along points and between the parts of one.
    strides: [[isize; 2]; 2],
    /// Stride of the window.
    window: Option<isize>,
    signals: Axes<2>,
}

impl Shape {
    fn new(p: &Problem<'_>) -> Result<Shape, Reject> {
        let (x, y) = (&p.inputs.first().ok_or_else(|| Reject::new("no operand"))?.desc, &p.outputs[0]);
        let (length, inverse, onesided, window) = match p.op {
            Op::Dft(op) => (&op.length, op.inverse, op.onesided, None),
            Op::Stft(op) => (&op.length, false, op.onesided, op.window.then(|| p.inputs[1].desc.strides[0])),
            _ => return Err(Reject::new("no Fourier transform")),
        };
        if p.inputs.iter().map(|o| &o.desc).chain([y]).any(|d| d.dtype != DType::F32) {
            return Err(Reject::new(format!("a transform of {}", x.dtype)));
        }
        let length = usize::try_from(length.eval(p.env)).unwrap_or(0);
        if !(1..=MOST_POINTS).contains(&length) {
            return Err(Reject::new(format!("a transform of {length} points")));
        }
        let (rank, out_rank) = (x.rank(), y.rank());
        let even = length.is_multiple_of(2);
        let from = match (x.shape[rank - 1], inverse && onesided) {
            (_, true) => Form::Half,
            (2, _) => Form::Complex,
            _ if even && !inverse => Form::Pairs,
            _ => Form::Real,
        };
        let to = match (from, even) {
            (Form::Half, true) => Form::Pairs,
            (Form::Half, false) => Form::Real,
            (Form::Pairs, _) => Form::Half,
            _ => Form::Complex,
        };
        let wanted = if from == Form::Half { length / 2 + 1 } else { length };
        let mut signals: Vec<(usize, [isize; 2])> = Vec::new();
        let mut given = x.shape[rank - 2];
        if let Op::Stft(op) = p.op {
            signals.push((x.shape[0], [x.strides[0], y.strides[0]]));
            signals.push((y.shape[1], [x.strides[1] * op.step as isize, y.strides[1]]));
            given = length;
        } else {
            signals.extend((0..rank - 2).map(|a| (x.shape[a], [x.strides[a], y.strides[a]])));
        }
        Ok(Shape {
            length,
            inverse,
            from,
            to,
            points: [given.min(wanted), y.shape[out_rank - 2]],
            strides: [
                [x.strides[rank - 2], x.strides[rank - 1]],
                [y.strides[out_rank - 2], y.strides[out_rank - 1]],
            ],
            window,
            signals: Axes::new(signals),
        })
    }

    /// Points of the complex transform.
    fn size(&self) -> usize {
        let halved = [self.from, self.to].contains(&Form::Pairs);
        if halved { self.length / 2 } else { self.length }
    }

    /// Expected nanoseconds on one thread.
    fn cost(&self, isa: Isa) -> f64 {
        let groups = self.signals.count().div_ceil(lanes(isa)) as f64;
        let per_operation = if isa == Isa::Portable { 4.0 } else { 0.3 };
        let moved = (self.points[0] + self.points[1]) as f64 * lanes(isa) as f64;
        groups * (100.0 + stages::effort(self.size()) * per_operation + moved * 1.2)
    }
}

/// Beyond it a thread's scratch would take too much memory.
const MOST_POINTS: usize = 1 << 18;

struct Lanes;

impl Task for Lanes {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::LANES
    }
}

fn lanes(isa: isa::Isa) -> usize {
    dispatch(isa, Lanes)
}

impl Tactic for FourierTactic {
    fn id(&self) -> &'static str {
        "fourier.f32"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let shape = Shape::new(p)?;
        let cost = shape.cost(p.isa);
        let groups = shape.signals.count().div_ceil(lanes(p.isa));
        Ok(Fit { cost_ns: cost / tasks(cost, groups, p.threads).clamp(1, p.threads.max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let shape = Shape::new(p).expect("accepted");
        let groups = shape.signals.count().div_ceil(lanes(p.isa));
        let turns =
            if shape.size() < shape.length { turns(shape.size() + 1, shape.length) } else { Vec::new() };
        Box::new(FourierKernel {
            phases: [tasks(shape.cost(p.isa), groups, p.threads)],
            groups,
            lanes: lanes(p.isa),
            transform: Transform::new(shape.size()),
            turns,
            isa: p.isa,
            shape,
        })
    }
}

struct FourierKernel {
    shape: Shape,
    transform: Transform,
    /// Angles of the points of a half spectrum, where the transform is of half the length.
    turns: Vec<[f32; 2]>,
    groups: usize,
    lanes: usize,
    isa: Isa,
    phases: [usize; 1],
}

/// Points that are moved between memory and lanes at a time: a cache line of most signals.
const BLOCK: usize = 16;

impl FourierKernel {
    /// Floats in each of the four arrays of the scratch: a half spectrum has one point more than the transform.
    fn room(&self) -> usize {
        (self.transform.size + 1) * self.lanes
    }
}

impl Kernel for FourierKernel {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    fn scratch_bytes(&self) -> usize {
        4 * (4 * self.room() + 2 * BLOCK * self.lanes)
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (first, last) = share(self.groups, self.phases[0], task);
        dispatch(self.isa, Run { kernel: self, args, groups: first..last });
        Ok(())
    }
}

struct Run<'a> {
    kernel: &'a FourierKernel,
    args: &'a Args<'a>,
    groups: std::ops::Range<usize>,
}

impl Task for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let k = self.kernel;
        let (signals, room) = (k.shape.signals.count(), k.room());
        let base = self.args.scratch.cast::<f32>();
        // SAFETY: the scratch has four arrays of points and a block; signals lie inside operand and result.
        unsafe {
            let a = Points { re: base, im: base.add(room) };
            let b = Points { re: base.add(2 * room), im: base.add(3 * room) };
            let block = Points { re: base.add(4 * room), im: base.add(4 * room + BLOCK * S::LANES) };
            for group in self.groups.clone() {
                let first = group * S::LANES;
                let used = S::LANES.min(signals - first);
                let mut places = [[0isize; 2]; 16];
                for (lane, place) in places.iter_mut().enumerate().take(used) {
                    *place = k.shape.signals.offsets(first + lane);
                }
                let places = &places[..used];
                let swap = k.shape.inverse;
                match k.shape.from {
                    Form::Half => {
                        self.load(s, b, places);
                        self.join(s, b, a.swapped(swap));
                    }
                    _ => self.load(s, a.swapped(swap), places),
                }
                let (done, _) = k.transform.run(s, a, b);
                self.finish(s, done.swapped(swap), block, places);
            }
        }
    }
}

impl Run<'_> {
    /// Reads the signals at `places` into the lanes of `to`; what is missing is zero.
    ///
    /// # Safety
    /// Signals of the operand begin at the places; `to` has the points that the operand's form asks for.
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, s: S, to: Points, places: &[[isize; 2]]) {
        let k = &self.kernel.shape;
        let x = self.args.inputs[0].cast::<f32>();
        let [along, between] = k.strides[0];
        let (pairs, real) = (k.from == Form::Pairs, k.from == Form::Real);
        let count = if k.from == Form::Half { k.length / 2 + 1 } else { self.kernel.transform.size };
        let arrays = [to.re, to.im];
        // SAFETY: points below `k.points[0]` are in the operand, points below `count` in the arrays.
        unsafe {
            if places.len() < S::LANES || real || k.points[0] < if pairs { k.length } else { count } {
                (0..count).for_each(|at| to.store(s, at, (s.zero(), s.zero())));
            }
            let parts = if real { 1 } else { 2 };
            let mut start = 0;
            while start < count {
                let end = (start + BLOCK).min(count);
                for (lane, place) in places.iter().enumerate() {
                    let x = x.offset(place[0]);
                    for at in start..end {
                        for (part, array) in arrays.iter().enumerate().take(parts) {
                            // Two reals count as the parts of a point.
                            let (point, offset) = match pairs {
                                true => (2 * at + part, (2 * at + part) as isize * along),
                                false => (at, at as isize * along + part as isize * between),
                            };
                            if point < k.points[0] {
                                let weight = match k.window {
                                    Some(stride) => self.args.inputs[1]
                                        .cast::<f32>()
                                        .offset(point as isize * stride)
                                        .read_unaligned(),
                                    None => 1.0,
                                };
                                let value = x.offset(offset).read_unaligned();
                                array.add(at * S::LANES + lane).write(value * weight);
                            }
                        }
                    }
                }
                start = end;
            }
        }
    }

    /// From half a spectrum the points whose inverse transform is the real signal: one per point, or per two.
    ///
    /// # Safety
    /// `from` has `length / 2 + 1` points, `to` those of the transform.
    #[inline(always)]
    unsafe fn join<S: Simd>(&self, s: S, from: Points, to: Points) {
        let k = self.kernel;
        let (length, size) = (k.shape.length, k.transform.size);
        // SAFETY: by this function's contract.
        unsafe {
            // These are real in the spectrum of a real signal.
            s.store(from.im, s.zero());
            if length.is_multiple_of(2) {
                s.store(from.im.add(length / 2 * S::LANES), s.zero());
            }
            if size == length {
                to.store(s, 0, from.load(s, 0));
                for at in 1..length.div_ceil(2) {
                    let (re, im) = from.load(s, at);
                    to.store(s, at, (re, im));
                    to.store(s, length - at, (re, s.neg(im)));
                }
                return;
            }
            for at in 0..size {
                let (a, b) = (from.load(s, at), from.load(s, size - at));
                let even = (s.add(a.0, b.0), s.sub(a.1, b.1));
                let odd = (s.sub(a.0, b.0), s.add(a.1, b.1));
                let [cos, sin] = k.turns[at];
                let odd = turned(s, odd, [cos, -sin]);
                to.store(s, at, (s.sub(even.0, odd.1), s.add(even.1, odd.0)));
            }
        }
    }

    /// Point `at` of the spectrum of a real signal whose pairs were transformed.
    ///
    /// # Safety
    /// `z` has the points of the transform; `at` is at most their number.
    #[inline(always)]
    unsafe fn split<S: Simd>(&self, s: S, z: Points, at: usize) -> (S::F, S::F) {
        let size = self.kernel.transform.size;
        // SAFETY: by this function's contract.
        let (a, b) = unsafe { (z.load(s, at % size), z.load(s, (size - at) % size)) };
        let half = s.splat(0.5);
        let even = (s.mul(half, s.add(a.0, b.0)), s.mul(half, s.sub(a.1, b.1)));
        // Divided by i.
        let odd = (s.mul(half, s.add(a.1, b.1)), s.mul(half, s.sub(b.0, a.0)));
        let odd = turned(s, odd, self.kernel.turns[at]);
        (s.add(even.0, odd.0), s.add(even.1, odd.1))
    }

    /// Writes the transformed points `z` as the result's form has them.
    ///
    /// # Safety
    /// Signals of the result begin at the places; `z` has the points of the transform, `block` [`BLOCK`] points.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, s: S, z: Points, block: Points, places: &[[isize; 2]]) {
        let k = &self.kernel.shape;
        let y = self.args.outputs[0].cast::<f32>();
        let [along, between] = k.strides[1];
        let size = self.kernel.transform.size;
        let (count, parts, step) = match k.to {
            Form::Pairs => (size, 2, [2 * along, along]),
            Form::Real => (size, 1, [along, 0]),
            _ => (k.points[1], 2, [along, between]),
        };
        let scale = s.splat(if k.inverse { 1.0 / k.length as f32 } else { 1.0 });
        let mut start = 0;
        while start < count {
            let end = (start + BLOCK).min(count);
            // SAFETY: points of the block, of the transform and of the result.
            unsafe {
                for at in start..end {
                    let (re, im) = match k.to {
                        // Beyond the middle a real signal's spectrum is its mirror image.
                        Form::Half if at > size => {
                            let (re, im) = self.split(s, z, k.length - at);
                            (re, s.neg(im))
                        }
                        Form::Half => self.split(s, z, at),
                        _ => z.load(s, at),
                    };
                    block.store(s, at - start, (s.mul(re, scale), s.mul(im, scale)));
                }
                for (lane, place) in places.iter().enumerate() {
                    let y = y.offset(place[1]);
                    for at in start..end {
                        let y = y.offset(at as isize * step[0]);
                        let from = (at - start) * S::LANES + lane;
                        y.write_unaligned(block.re.add(from).read());
                        if parts == 2 {
                            y.offset(step[1]).write_unaligned(block.im.add(from).read());
                        }
                    }
                }
            }
            start = end;
        }
    }
}
