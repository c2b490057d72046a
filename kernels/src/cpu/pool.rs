//! Channels-last pooling: maximum, average, Lp.

use super::pointwise::{share, tasks};
use super::simd::{Simd, Task, dispatch};
use super::storage::{Storage, is_storage, with_storage};
use super::{Isa, math};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op, ops::PoolKind};

/// The rows of this family.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&PoolTactic]
}

/// One window at a time, several vectors of channels in registers while the window passes.
#[derive(Debug)]
pub struct PoolTactic;

/// Spatial axes are brought to this many.
pub(super) const AXES: usize = 3;

/// One spatial axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub input: usize,
    pub output: usize,
    kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub begin: usize,
    end: usize,
    /// Elements from one position to the next.
    pub from: isize,
    pub to: isize,
}

impl Axis {
    const UNIT: Axis =
        Axis { input: 1, output: 1, kernel: 1, stride: 1, dilation: 1, begin: 0, end: 0, from: 0, to: 0 };

    /// Taps `first..last` of the window at output position `o` that lie inside the input.
    #[inline(always)]
    pub fn taps(&self, o: usize) -> (usize, usize) {
        let start = (o * self.stride) as isize - self.begin as isize;
        let first = if start >= 0 { 0 } else { (-start as usize).div_ceil(self.dilation) };
        let room = self.input as isize - start;
        let last = if room <= 0 { 0 } else { (room as usize).div_ceil(self.dilation).min(self.kernel) };
        (first.min(last), last)
    }

    /// Output positions whose taps all lie inside the input.
    fn inside(&self) -> (usize, usize) {
        let first = self.begin.div_ceil(self.stride).min(self.output);
        let span = (self.kernel - 1) * self.dilation + 1;
        let last = match (self.input + self.begin).checked_sub(span) {
            Some(room) => (room / self.stride + 1).min(self.output),
            None => 0,
        };
        (first, last.max(first))
    }

    /// Taps that lie inside the input or its explicit padding.
    #[inline(always)]
    fn padded(&self, o: usize) -> usize {
        let room = (self.input + self.begin + self.end).saturating_sub(o * self.stride);
        room.div_ceil(self.dilation).min(self.kernel)
    }
}

/// A window over channels-last operands whose channels are contiguous.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub dtype: DType,
    kind: PoolKind,
    batch: usize,
    pub batch_from: isize,
    pub batch_to: isize,
    pub channels: usize,
    pub axes: [Axis; AXES],
}

impl Shape {
    pub fn new(p: &Problem<'_>) -> Result<Shape, Reject> {
        let Op::Pool(op) = p.op else { return Err(Reject::new("not pooling")) };
        let (x, y) = (&p.inputs[0].desc, &p.outputs[0]);
        let spatial = op.kernel.len();
        if spatial > AXES {
            return Err(Reject(format!("{spatial} spatial axes")));
        }
        let c = spatial + 1;
        if x.shape[c] > 1 && (x.strides[c] != 1 || y.strides[c] != 1) {
            return Err(Reject::new("channels are not contiguous"));
        }
        let mut axes = [Axis::UNIT; AXES];
        for (i, axis) in axes[AXES - spatial..].iter_mut().enumerate() {
            let (kernel, stride, dilation) = (op.kernel[i], op.strides[i], op.dilations[i]);
            let (begin, end) = op.padding.resolve(i, x.shape[i + 1], kernel, stride, dilation);
            *axis = Axis {
                input: x.shape[i + 1],
                output: y.shape[i + 1],
                kernel,
                stride,
                dilation,
                begin,
                end,
                from: x.strides[i + 1],
                to: y.strides[i + 1],
            };
        }
        Ok(Shape {
            dtype: x.dtype,
            kind: op.kind,
            batch: x.shape[0],
            batch_from: x.strides[0],
            batch_to: y.strides[0],
            channels: x.shape[c],
            axes,
        })
    }

    /// Rows of output pixels.
    pub fn units(&self) -> usize {
        if self.axes[2].output == 0 || self.channels == 0 {
            return 0;
        }
        self.batch * self.axes[0].output * self.axes[1].output
    }

    /// Expected nanoseconds on one thread.
    pub fn cost(&self, isa: Isa) -> f64 {
        let per_element = match isa {
            Isa::Avx512 | Isa::Amx => 0.03,
            Isa::Avx2 => 0.05,
            Isa::Portable => 0.4,
        };
        let window: usize = self.axes.iter().map(|a| a.kernel).product();
        let pixels = (self.units() * self.axes[2].output) as f64;
        100.0 + pixels * (6.0 + (window * self.channels) as f64 * per_element)
    }
}

impl Tactic for PoolTactic {
    fn id(&self) -> &'static str {
        "pool.pixels"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let shape = Shape::new(p)?;
        if p.outputs.len() > 1 {
            return Err(Reject::new("pooling that also gives indices"));
        }
        if !is_storage(shape.dtype) {
            return Err(Reject(format!("pooling of {}", shape.dtype)));
        }
        let cost = shape.cost(p.isa);
        Ok(Fit { cost_ns: cost / tasks(cost, shape.units(), p.threads).clamp(1, p.threads.max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let shape = Shape::new(p).expect("accepted");
        let phases = [tasks(shape.cost(p.isa), shape.units(), p.threads)];
        Box::new(PoolKernel { shape, isa: p.isa, phases })
    }
}

struct PoolKernel {
    shape: Shape,
    isa: Isa,
    phases: [usize; 1],
}

impl Kernel for PoolKernel {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (first, last) = share(self.shape.units(), self.phases[0], task);
        with_storage!(self.shape.dtype, T => {
            let (x, y) = (args.inputs[0].cast::<T>(), args.outputs[0].cast::<T>());
            dispatch(self.isa, Run { shape: &self.shape, x, y, first, last });
        }, else unreachable!("accepted types only"));
        Ok(())
    }
}

struct Run<'a, T> {
    shape: &'a Shape,
    x: *const T,
    y: *mut T,
    first: usize,
    last: usize,
}

/// Vectors of channels that are in registers at once.
const VECTORS: usize = 4;

impl<T: Storage> Task for Run<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { shape, x, y, first, last } = self;
        let [a, b, c] = shape.axes;
        // Neighbouring windows that move by one pixel, where pixels follow one another, are one window of more channels.
        let pixel = shape.channels as isize;
        let joins = c.stride == 1 && c.from == pixel && c.to == pixel;
        let (start, end) = if joins { c.inside() } else { (0, 0) };
        for unit in first..last {
            let (rest, j) = (unit / b.output, unit % b.output);
            let (n, i) = (rest / a.output, rest % a.output);
            let (ti, tj) = (a.taps(i), b.taps(j));
            // The first tap may lie before the input: wrapping, it is only followed for taps inside.
            let at = |axis: &Axis, o: usize| ((o * axis.stride) as isize - axis.begin as isize) * axis.from;
            let row_x = x.wrapping_offset(n as isize * shape.batch_from + at(&a, i) + at(&b, j));
            let row_y =
                y.wrapping_offset(n as isize * shape.batch_to + i as isize * a.to + j as isize * b.to);
            let mut k = 0;
            while k < c.output {
                let joined = if k == start && end > start { end - start } else { 1 };
                let channels = joined * shape.channels;
                let tk = c.taps(k);
                let window = Window {
                    x: row_x.wrapping_offset(at(&c, k)),
                    taps: [ti, tj, tk],
                    step: [
                        a.dilation as isize * a.from,
                        b.dilation as isize * b.from,
                        c.dilation as isize * c.from,
                    ],
                };
                let out = row_y.wrapping_offset(k as isize * c.to);
                let divisor = match shape.kind {
                    PoolKind::Average { count_include_pad: true } => a.padded(i) * b.padded(j) * c.padded(k),
                    _ => (ti.1 - ti.0) * (tj.1 - tj.0) * (tk.1 - tk.0),
                };
                let mut ch = 0;
                while ch < channels {
                    let left = channels - ch;
                    // SAFETY: taps lie inside the input, output positions inside the output, channels below their number.
                    unsafe {
                        let (w, out) = (window.channel(ch), out.add(ch));
                        if left >= VECTORS * S::LANES {
                            pixel_of::<S, T, VECTORS>(s, shape.kind, w, out, S::LANES, divisor);
                            ch += VECTORS * S::LANES;
                        } else if left >= 2 * S::LANES {
                            pixel_of::<S, T, 2>(s, shape.kind, w, out, S::LANES, divisor);
                            ch += 2 * S::LANES;
                        } else {
                            let m = left.min(S::LANES);
                            pixel_of::<S, T, 1>(s, shape.kind, w, out, m, divisor);
                            ch += m;
                        }
                    }
                }
                k += joined;
            }
        }
    }
}

/// The window of one output pixel.
#[derive(Clone, Copy)]
struct Window<T> {
    x: *const T,
    taps: [(usize, usize); AXES],
    step: [isize; AXES],
}

impl<T> Window<T> {
    #[inline(always)]
    fn channel(self, ch: usize) -> Window<T> {
        Window { x: self.x.wrapping_add(ch), ..self }
    }

    #[inline(always)]
    fn for_each(&self, mut f: impl FnMut(*const T)) {
        let [(i0, i1), (j0, j1), (k0, k1)] = self.taps;
        for i in i0..i1 {
            for j in j0..j1 {
                let row = self.x.wrapping_offset(i as isize * self.step[0] + j as isize * self.step[1]);
                for k in k0..k1 {
                    f(row.wrapping_offset(k as isize * self.step[2]));
                }
            }
        }
    }
}

/// `V` vectors of channels of one window; only the last vector may be partial (`m` lanes).
///
/// # Safety
/// Every tap of the window and the result are accessible for the channels.
#[inline(always)]
unsafe fn pixel_of<S: Simd, T: Storage, const V: usize>(
    s: S,
    kind: PoolKind,
    window: Window<T>,
    y: *mut T,
    m: usize,
    divisor: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        match kind {
            PoolKind::Max => {
                let mut acc = [s.splat(f32::NEG_INFINITY); V];
                window.for_each(|p| {
                    for v in 0..V {
                        acc[v] = s.max_nan(T::load(s, p.add(v * S::LANES), m), acc[v]);
                    }
                });
                for (v, a) in acc.into_iter().enumerate() {
                    T::store(s, y.add(v * S::LANES), m, a);
                }
            }
            PoolKind::Average { .. } => {
                let mut acc = [s.zero(); V];
                window.for_each(|p| {
                    for v in 0..V {
                        acc[v] = s.add(acc[v], T::load(s, p.add(v * S::LANES), m));
                    }
                });
                let d = s.splat(divisor as f32);
                for (v, a) in acc.into_iter().enumerate() {
                    T::store(s, y.add(v * S::LANES), m, s.div(a, d));
                }
            }
            PoolKind::Lp { p: power } => {
                let mut acc = [s.zero(); V];
                let exponent = s.splat(power as f32);
                window.for_each(|p| {
                    for (v, a) in acc.iter_mut().enumerate() {
                        let x = s.abs(T::load(s, p.add(v * S::LANES), m));
                        let x = match power {
                            1 => x,
                            2 => s.mul(x, x),
                            _ => math::pow(s, x, exponent),
                        };
                        *a = s.add(*a, x);
                    }
                });
                let root = s.splat(1.0 / power as f32);
                for (v, a) in acc.into_iter().enumerate() {
                    let r = match power {
                        1 => a,
                        2 => s.sqrt(a),
                        _ => math::pow(s, a, root),
                    };
                    T::store(s, y.add(v * S::LANES), m, r);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{Random, Tolerance, check};
    use super::*;
    use engraft_network::ops::{Padding, Pool};

    #[test]
    fn agrees_with_the_reference() {
        let mut r = Random(71);
        let mut runs = 0;
        for _ in 0..60 {
            let spatial = 1 + r.below(3);
            let kind = r.pick(&[
                PoolKind::Max,
                PoolKind::Average { count_include_pad: false },
                PoolKind::Average { count_include_pad: true },
                PoolKind::Lp { p: 2 },
                PoolKind::Lp { p: 3 },
            ]);
            let kernel: Vec<usize> = (0..spatial).map(|_| 1 + r.below(4)).collect();
            let dilations: Vec<usize> = (0..spatial).map(|_| 1 + r.below(2)).collect();
            let pad = |r: &mut Random, k: &[usize]| k.iter().map(|k| r.below(*k)).collect::<Vec<_>>();
            let padding = match r.below(4) {
                0 => Padding::SameUpper,
                1 => Padding::none(spatial),
                _ => Padding::Explicit { begin: pad(&mut r, &kernel), end: pad(&mut r, &kernel) },
            };
            let mut shape = vec![1 + r.below(2)];
            shape.extend((0..spatial).map(|i| (kernel[i] - 1) * dilations[i] + 1 + r.below(7)));
            shape.push(r.pick(&[1, 3, 16, 37, 70]));
            let op: Op = Pool {
                kind,
                strides: (0..spatial).map(|_| 1 + r.below(3)).collect(),
                kernel,
                dilations,
                padding,
                ceil_mode: r.chance(40),
                indices: false,
                column_major: false,
            }
            .into();
            let dtype = r.pick(&[DType::F32, DType::F32, DType::F16, DType::BF16]);
            let x = r.tensor(dtype, &shape, 2.0);
            let want = op.eval(std::slice::from_ref(&x), &[]).expect("the reference takes it");
            let tolerance = Tolerance { absolute: 1e-6, relative: 2e-6 };
            runs += check(&PoolTactic, &op, &[x], &[], &want, tolerance, &mut r);
        }
        assert!(runs >= 60 * 2);
    }
}
