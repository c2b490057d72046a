//! Softmax and its logarithm along one axis.

use super::pointwise::{share, tasks};
use super::simd::{Simd, Task, dispatch};
use super::storage::{Axes, Storage, is_storage, with_storage};
use super::{Isa, math};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};

/// Softmax over contiguous rows (the axis has stride 1), or down columns (another axis has).
#[derive(Debug)]
pub struct SoftmaxTactic;

/// A problem in the kernel's terms.
#[derive(Clone, Debug)]
struct Shape {
    dtype: DType,
    log: bool,
    /// Length of the axis and its strides.
    len: usize,
    step: [isize; 2],
    /// Columns that are computed side by side: 1 if the axis itself is contiguous.
    cols: usize,
    outer: Axes<2>,
}

/// Columns of a task down columns: whole lines, several vectors.
const COLUMNS: usize = 64;

impl Shape {
    fn new(p: &Problem<'_>) -> Result<Shape, Reject> {
        let Op::Softmax(op) = p.op else { return Err(Reject::new("not softmax")) };
        let (x, y) = (&p.inputs[0].desc, &p.outputs[0]);
        if !is_storage(x.dtype) || x.dtype != y.dtype {
            return Err(Reject(format!("softmax of {}", x.dtype)));
        }
        if op.axis >= x.rank() {
            return Err(Reject::new("axis outside of the shape"));
        }
        let axis = |i: usize| (x.shape[i], [x.strides[i], y.strides[i]]);
        let (len, step) = axis(op.axis);
        let others = |except: Option<usize>| {
            (0..x.rank()).filter(move |&i| i != op.axis && Some(i) != except).map(axis)
        };
        let mut shape =
            Shape { dtype: x.dtype, log: op.log, len, step, cols: 1, outer: Axes::new(others(None)) };
        if step == [1, 1] || len == 1 {
            return Ok(shape);
        }
        let contiguous = shape.outer.list().iter().position(|a| a.1 == [1, 1]);
        if let Some(i) = contiguous {
            shape.cols = shape.outer.remove(i).0;
            return Ok(shape);
        }
        Err(Reject::new("no axis is contiguous in operand and result"))
    }

    fn units(&self) -> usize {
        self.outer.count() * if self.len == 0 { 0 } else { self.cols.div_ceil(COLUMNS) }
    }

    /// Expected nanoseconds on one thread.
    fn cost(&self, isa: Isa) -> f64 {
        let per_element = match isa {
            Isa::Avx512 | Isa::Amx => 0.45,
            Isa::Avx2 => 0.6,
            Isa::Portable => 3.0,
        };
        let elements = (self.outer.count() * self.len * self.cols) as f64;
        80.0 + self.units() as f64 * 15.0 + elements * per_element
    }
}

impl Tactic for SoftmaxTactic {
    fn id(&self) -> &'static str {
        "softmax.rows"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let shape = Shape::new(p)?;
        let cost = shape.cost(p.isa);
        Ok(Fit { cost_ns: cost / tasks(cost, shape.units(), p.threads).clamp(1, p.threads.max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let shape = Shape::new(p).expect("accepted");
        let phases = [tasks(shape.cost(p.isa), shape.units(), p.threads)];
        Box::new(SoftmaxKernel { shape, isa: p.isa, phases })
    }
}

struct SoftmaxKernel {
    shape: Shape,
    isa: Isa,
    phases: [usize; 1],
}

impl Kernel for SoftmaxKernel {
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

    fn in_place(&self, input: usize) -> bool {
        input == 0
    }
}

struct Run<'a, T> {
    shape: &'a Shape,
    x: *const T,
    y: *mut T,
    first: usize,
    last: usize,
}

impl<T: Storage> Task for Run<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { shape, x, y, first, last } = self;
        let blocks = shape.cols.div_ceil(COLUMNS);
        for unit in first..last {
            let [from, to] = shape.outer.offsets(unit / blocks);
            // SAFETY: units lie inside the tensors, whose elements are accessible at their strides.
            unsafe {
                let (x, y) = (x.offset(from), y.offset(to));
                if shape.cols == 1 && (shape.step == [1, 1] || shape.len == 1) {
                    row(s, x, y, shape.len, shape.log);
                } else {
                    let start = unit % blocks * COLUMNS;
                    let mut col = start;
                    let end = (start + COLUMNS).min(shape.cols);
                    while col < end {
                        let m = S::LANES.min(end - col);
                        columns(s, x.add(col), y.add(col), m, shape);
                        col += m;
                    }
                }
            }
        }
    }
}

/// One contiguous row.
#[inline(always)]
unsafe fn row<S: Simd, T: Storage>(s: S, x: *const T, y: *mut T, n: usize, log: bool) {
    let part = |i: usize| S::LANES.min(n - i);
    // SAFETY: n elements on both sides.
    unsafe {
        let max = row_max(s, x, n);
        // Of a row of -inf every difference would be NaN, as IEEE says of inf - inf.
        let max = s.splat(max);
        let mut sums = [s.zero(); 2];
        let direct = T::DTYPE == DType::F32 && !log;
        let mut i = 0;
        while i < n {
            let m = part(i);
            let difference = s.sub(T::load(s, x.add(i), m), max);
            let e = math::exp_nonpositive(s, difference);
            // Lanes beyond the row must not count.
            let e = if m == S::LANES { e } else { keep(s, e, m) };
            let slot = (i / S::LANES) & 1;
            sums[slot] = s.add(sums[slot], e);
            if direct {
                T::store(s, y.add(i), m, e);
            }
            i += S::LANES;
        }
        let sum = s.sum(s.add(sums[0], sums[1]));
        let (scale, shift) = (s.splat(1.0 / sum), s.add(max, s.splat(sum.ln())));
        let mut i = 0;
        while i < n {
            let m = part(i);
            let value = if direct {
                s.mul(T::load(s, y.add(i), m), scale)
            } else {
                let x = T::load(s, x.add(i), m);
                if log { s.sub(x, shift) } else { s.mul(math::exp_nonpositive(s, s.sub(x, max)), scale) }
            };
            T::store(s, y.add(i), m, value);
            i += S::LANES;
        }
    }
}

/// The first `m` lanes; the others become zero.
#[inline(always)]
pub(crate) fn keep<S: Simd>(s: S, x: S::F, m: usize) -> S::F {
    let inside = s.gt_i(s.splat_i(m as i32), s.iota());
    s.select(inside, x, s.zero())
}

/// The maximum of a row; NaN where the row has one.
#[inline(always)]
unsafe fn row_max<S: Simd, T: Storage>(s: S, x: *const T, n: usize) -> f32 {
    let lowest = s.splat(f32::NEG_INFINITY);
    let (mut a, mut b) = (lowest, lowest);
    let mut unordered = s.zero();
    let mut i = 0;
    // SAFETY: n elements.
    unsafe {
        while i + 2 * S::LANES <= n {
            let (p, q) = (T::load(s, x.add(i), S::LANES), T::load(s, x.add(i + S::LANES), S::LANES));
            a = s.max(p, a);
            b = s.max(q, b);
            // x - x is NaN for NaN and infinities, and zero otherwise.
            unordered = s.add(unordered, s.add(s.sub(p, p), s.sub(q, q)));
            i += 2 * S::LANES;
        }
        while i < n {
            let m = S::LANES.min(n - i);
            let v = T::load(s, x.add(i), m);
            unordered = s.add(unordered, s.sub(v, v));
            let v = if m == S::LANES {
                v
            } else {
                let inside = s.gt_i(s.splat_i(m as i32), s.iota());
                s.select(inside, v, lowest)
            };
            a = s.max(v, a);
            i += S::LANES;
        }
        let max = s.hmax(s.max(a, b));
        if s.any(s.is_nan(unordered)) && (0..n).any(|i| (*x.add(i)).widen().is_nan()) {
            return f32::NAN;
        }
        max
    }
}

/// `m` columns side by side, down the axis.
#[inline(always)]
unsafe fn columns<S: Simd, T: Storage>(s: S, x: *const T, y: *mut T, m: usize, shape: &Shape) {
    let at = |i: usize| (i as isize * shape.step[0], i as isize * shape.step[1]);
    let direct = T::DTYPE == DType::F32 && !shape.log;
    // SAFETY: the axis has `len` positions in both tensors, m contiguous elements at each.
    unsafe {
        let mut max = T::load(s, x, m);
        for i in 1..shape.len {
            max = s.max_nan(T::load(s, x.offset(at(i).0), m), max);
        }
        let mut sum = s.zero();
        for i in 0..shape.len {
            let (from, to) = at(i);
            let e = math::exp_nonpositive(s, s.sub(T::load(s, x.offset(from), m), max));
            sum = s.add(sum, e);
            if direct {
                T::store(s, y.offset(to), m, e);
            }
        }
        let scale = s.div(s.splat(1.0), sum);
        let shift = if shape.log { s.add(max, math::log(s, sum)) } else { max };
        for i in 0..shape.len {
            let (from, to) = at(i);
            let value = if direct {
                s.mul(T::load(s, y.offset(to), m), scale)
            } else {
                let difference = s.sub(T::load(s, x.offset(from), m), shift);
                if shape.log { difference } else { s.mul(math::exp_nonpositive(s, difference), scale) }
            };
            T::store(s, y.offset(to), m, value);
        }
    }
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&SoftmaxTactic]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::check::{Random, Tolerance, check, tensor_of};
    use engraft_network::Tensor;
    use engraft_network::ops::Softmax;

    fn expected(x: &Tensor, axis: usize, log: bool) -> Tensor {
        let shape = x.shape();
        let inner: usize = shape[axis + 1..].iter().product();
        let n = shape[axis];
        let mut y = vec![0.0; x.count()];
        for start in 0..x.count() {
            if !(start / inner).is_multiple_of(n) {
                continue;
            }
            let line: Vec<f64> = (0..n).map(|i| x.get_f64(start + i * inner)).collect();
            let max = line.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
            let sum: f64 = line.iter().map(|v| (v - max).exp()).sum();
            for (i, v) in line.iter().enumerate() {
                y[start + i * inner] = if log { v - max - sum.ln() } else { (v - max).exp() / sum };
            }
        }
        tensor_of(x.dtype(), shape, &y)
    }

    #[test]
    fn agrees_with_the_definition_along_every_axis() {
        let mut r = Random(11);
        let tolerance = Tolerance { absolute: 1e-6, relative: 1e-6 };
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for _ in 0..40 {
                let rank = 1 + r.below(4);
                let shape: Vec<usize> = (0..rank).map(|_| r.pick(&[1, 2, 3, 7, 16, 33, 65])).collect();
                if shape.iter().product::<usize>() > 30_000 {
                    continue;
                }
                let x = r.tensor(dtype, &shape, 20.0);
                let op = Softmax { axis: r.below(rank), log: r.chance(40) };
                let y = expected(&x, op.axis, op.log);
                check(&SoftmaxTactic, &Op::Softmax(op), &[x], &[], &[y], tolerance, &mut r);
            }
        }
    }

    #[test]
    fn excluded_positions_are_zero_and_nan_spreads() {
        let mut r = Random(12);
        let inf = f32::INFINITY;
        let x = Tensor::from_slice(&[3, 3], &[0.0, -inf, 0.0, f32::NAN, 1.0, 2.0, -inf, -inf, -inf]).unwrap();
        let n = f32::NAN;
        let y = Tensor::from_slice(&[3, 3], &[0.5, 0.0, 0.5, n, n, n, n, n, n]).unwrap();
        let op = Op::Softmax(Softmax { axis: 1, log: false });
        let tolerance = Tolerance { absolute: 1e-7, relative: 0.0 };
        check(&SoftmaxTactic, &op, &[x], &[], &[y], tolerance, &mut r);
    }
}
