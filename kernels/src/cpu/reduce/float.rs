//! Reductions of floats, accumulated in `f32` vectors.

use super::Geometry;
use crate::cpu::isa::Isa;
use crate::cpu::math;
use crate::cpu::pointwise::{share, tasks};
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::{Storage, is_storage, with_storage};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::DType;
use engraft_network::ops::ReduceOp;
use std::marker::PhantomData;

/// Every reduction of `f32`, `f16` and `bf16` over any axes: along contiguous runs (inner axes), or down contiguous columns
/// (outer axes, channels-last pooling over positions). Few results of much data are split over tasks and combined.
#[derive(Debug)]
pub struct ReduceTactic;

/// Columns of a unit: four AVX-512 vectors.
const COLUMNS: usize = 64;

/// Positions that are added up before the sum joins the total.
const BLOCK: usize = 256;

/// How values accumulate. All is `f32`.
trait Fold: Copy + Send + Sync {
    const START: f32;
    /// Whether steps want the maximum.
    const SHIFTED: bool;
    /// `accumulator <- accumulator o f(x)`; `shift` is the maximum where the fold wants one.
    fn step<S: Simd>(s: S, accumulator: S::F, x: S::F, shift: S::F) -> S::F;
    fn merge<S: Simd>(s: S, a: S::F, b: S::F) -> S::F;
    fn merge_scalar(a: f32, b: f32) -> f32;
}

macro_rules! fold {
    ($name:ident, $start:expr, $shifted:expr, |$s:ident, $a:ident, $x:ident, $k:ident| $step:expr, |$p:ident, $q:ident| $merge:expr, $scalar:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Fold for $name {
            const START: f32 = $start;
            const SHIFTED: bool = $shifted;
            #[inline(always)]
            fn step<S: Simd>($s: S, $a: S::F, $x: S::F, $k: S::F) -> S::F {
                let _ = $k;
                $step
            }
            #[inline(always)]
            fn merge<S: Simd>($s: S, $p: S::F, $q: S::F) -> S::F {
                $merge
            }
            #[inline(always)]
            fn merge_scalar(a: f32, b: f32) -> f32 {
                let f: fn(f32, f32) -> f32 = $scalar;
                f(a, b)
            }
        }
    };
}

fold!(Sum, 0.0, false, |s, a, x, k| s.add(a, x), |p, q| s.add(p, q), |a, b| a + b);
fold!(SumAbs, 0.0, false, |s, a, x, k| s.add(a, s.abs(x)), |p, q| s.add(p, q), |a, b| a + b);
fold!(SumSquare, 0.0, false, |s, a, x, k| s.fma(x, x, a), |p, q| s.add(p, q), |a, b| a + b);
fold!(
    SumExp,
    0.0,
    true,
    |s, a, x, k| s.add(a, math::exp_nonpositive(s, s.sub(x, k))),
    |p, q| s.add(p, q),
    |a, b| a + b
);
fold!(Product, 1.0, false, |s, a, x, k| s.mul(a, x), |p, q| s.mul(p, q), |a, b| a * b);
fold!(Maximum, f32::NEG_INFINITY, false, |s, a, x, k| s.max_nan(a, x), |p, q| s.max_nan(p, q), |a, b| {
    if a.is_nan() || a > b { a } else { b }
});
fold!(Minimum, f32::INFINITY, false, |s, a, x, k| s.min_nan(a, x), |p, q| s.min_nan(p, q), |a, b| {
    if a.is_nan() || a < b { a } else { b }
});

/// Lanes of an accumulator to one value.
#[inline(always)]
fn across<S: Simd, F: Fold>(s: S, a: S::F) -> f32 {
    let lanes = s.to_array(a);
    let mut width = S::LANES / 2;
    let mut lanes = lanes;
    while width > 0 {
        for i in 0..width {
            lanes[i] = F::merge_scalar(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// From an accumulator to the result.
fn finish(op: ReduceOp, value: f32, count: usize, shift: f32) -> f32 {
    match op {
        ReduceOp::Mean => value / count as f32,
        ReduceOp::L2 => value.sqrt(),
        ReduceOp::LogSum => value.ln(),
        ReduceOp::LogSumExp if shift.is_infinite() => shift,
        ReduceOp::LogSumExp => value.ln() + shift,
        _ => value,
    }
}

impl Tactic for ReduceTactic {
    fn id(&self) -> &'static str {
        "reduce.float"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let kernel = ReduceKernel::new(p)?;
        let cost = kernel.cost();
        let tasks = kernel.phases.first().copied().unwrap_or(1);
        Ok(Fit { cost_ns: cost / tasks.clamp(1, p.threads.max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        Box::new(ReduceKernel::new(p).expect("accepted"))
    }
}

struct ReduceKernel {
    dtype: DType,
    geometry: Geometry,
    isa: Isa,
    /// Parts of the reduced positions that different tasks take.
    splits: usize,
    phases: Vec<usize>,
}

impl ReduceKernel {
    fn new(p: &Problem<'_>) -> Result<ReduceKernel, Reject> {
        let geometry = Geometry::new(p)?;
        let dtype = p.inputs[0].desc.dtype;
        if !is_storage(dtype) {
            return Err(Reject(format!("float reduction of {dtype}")));
        }
        let mut kernel = ReduceKernel { dtype, geometry, isa: p.isa, splits: 1, phases: Vec::new() };
        let units = kernel.units();
        let positions = kernel.geometry.runs.count();
        let wanted = tasks(kernel.cost(), usize::MAX, p.threads);
        if units > 0 && wanted > units && kernel.geometry.op != ReduceOp::LogSumExp {
            kernel.splits = wanted.div_ceil(units).min((positions / 16).max(1));
        }
        kernel.phases = match (units, kernel.splits) {
            (0, _) => Vec::new(),
            (_, 1) => vec![wanted.min(units)],
            (_, splits) => vec![units * splits, 1],
        };
        Ok(kernel)
    }

    fn blocks(&self) -> usize {
        self.geometry.cols.div_ceil(COLUMNS)
    }

    fn units(&self) -> usize {
        self.geometry.kept.count() * self.blocks()
    }

    fn outputs(&self) -> usize {
        self.geometry.kept.count() * self.geometry.cols
    }

    /// Expected nanoseconds on one thread.
    fn cost(&self) -> f64 {
        let g = &self.geometry;
        let elements = (self.outputs() * g.runs.count()) as f64;
        let strided = g.cols == 1 && g.runs.stride != 1 && g.runs.len > 1;
        let slower = if self.isa == Isa::Portable { 4.0 } else { 1.0 };
        let per_element =
            if strided { 0.8 } else { 0.08 } + if g.op == ReduceOp::LogSumExp { 0.5 } else { 0.0 };
        60.0 + elements * per_element * slower + self.units() as f64 * 10.0
    }
}

impl Kernel for ReduceKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn workspace_bytes(&self) -> usize {
        if self.splits == 1 { 0 } else { self.splits * self.outputs() * 4 }
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        macro_rules! go {
            ($fold:ident) => {
                dispatch(
                    self.isa,
                    Run::<$fold> {
                        kernel: self,
                        x: args.inputs[0],
                        y: args.outputs[0],
                        partial: args.workspace.cast(),
                        phase,
                        task,
                        fold: PhantomData,
                    },
                )
            };
        }
        match self.geometry.op {
            ReduceOp::Sum | ReduceOp::Mean | ReduceOp::LogSum => go!(Sum),
            ReduceOp::L1 => go!(SumAbs),
            ReduceOp::L2 | ReduceOp::SumSquare => go!(SumSquare),
            ReduceOp::LogSumExp => go!(SumExp),
            ReduceOp::Prod => go!(Product),
            ReduceOp::Max => go!(Maximum),
            ReduceOp::Min => go!(Minimum),
        }
        Ok(())
    }
}

struct Run<'a, F> {
    kernel: &'a ReduceKernel,
    x: *const u8,
    y: *mut u8,
    /// `[split][kept][col]`.
    partial: *mut f32,
    phase: usize,
    task: usize,
    fold: PhantomData<F>,
}

impl<F: Fold> Task for Run<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let kernel = self.kernel;
        // SAFETY: units, columns and positions lie inside operand, result and workspace.
        unsafe {
            if self.phase == 1 {
                return self.combine();
            }
            let positions = kernel.geometry.runs.count();
            let (units, first, last, partial) = if kernel.splits > 1 {
                let (unit, split) = (self.task / kernel.splits, self.task % kernel.splits);
                let (first, last) = share(positions, kernel.splits, split);
                ((unit, unit + 1), first, last, self.partial.add(split * kernel.outputs()))
            } else {
                (share(kernel.units(), kernel.phases[0], self.task), 0, positions, std::ptr::null_mut())
            };
            for unit in units.0..units.1 {
                if kernel.geometry.cols == 1 {
                    self.single(s, unit, first, last, partial);
                } else {
                    self.side_by_side(s, unit, first, last, partial);
                }
            }
        }
    }
}

/// Elements of half-width floats that are widened at a time.
const STAGE: usize = 1024;

impl<F: Fold> Run<'_, F> {
    fn element(&self, offset: isize) -> *const u8 {
        self.x.wrapping_offset(offset * (self.kernel.dtype.bits() / 8) as isize)
    }

    unsafe fn write(&self, offset: isize, value: f32) {
        let p = self.y.wrapping_offset(offset * (self.kernel.dtype.bits() / 8) as isize);
        // SAFETY: the caller's: an element of the result.
        unsafe {
            with_storage!(self.kernel.dtype, T => p.cast::<T>().write(T::narrow(value)), else unreachable!())
        }
    }

    /// One output that no other lies beside: to the partial results, or finished to the result where there are none.
    #[inline(always)]
    unsafe fn single<S: Simd>(&self, s: S, unit: usize, first: usize, last: usize, partial: *mut f32) {
        let g = &self.kernel.geometry;
        let [from, to] = g.kept.offsets(unit);
        // SAFETY: the caller's.
        unsafe {
            let shift = if F::SHIFTED { self.along::<S, Maximum>(s, from, first, last, 0.0) } else { 0.0 };
            let value = self.along::<S, F>(s, from, first, last, shift);
            if partial.is_null() {
                self.write(to, finish(g.op, value, g.runs.count(), shift));
            } else {
                partial.add(unit).write(value);
            }
        }
    }

    /// A block of outputs that lie side by side.
    #[inline(always)]
    unsafe fn side_by_side<S: Simd>(&self, s: S, unit: usize, first: usize, last: usize, partial: *mut f32) {
        let g = &self.kernel.geometry;
        let blocks = self.kernel.blocks();
        let (row, block) = (unit / blocks, unit % blocks);
        let [from, to] = g.kept.offsets(row);
        let mut col = block * COLUMNS;
        let end = (col + COLUMNS).min(g.cols);
        while col < end {
            let m = (4 * S::LANES).min(end - col);
            let mut lanes = [0.0f32; 64];
            let mut lane_shifts = [0.0f32; 64];
            // SAFETY: the caller's; four vectors fit into 64 lanes.
            unsafe {
                let from = from + col as isize;
                let mut shifts = [s.zero(); 4];
                if F::SHIFTED {
                    shifts = self.down::<S, Maximum>(s, from, m, first, last, shifts);
                }
                let values = self.down::<S, F>(s, from, m, first, last, shifts);
                for k in 0..4 {
                    s.store(lanes.as_mut_ptr().add(k * S::LANES), values[k]);
                    s.store(lane_shifts.as_mut_ptr().add(k * S::LANES), shifts[k]);
                }
                if !partial.is_null() {
                    std::ptr::copy_nonoverlapping(lanes.as_ptr(), partial.add(row * g.cols + col), m);
                } else {
                    for i in 0..m {
                        let value = finish(g.op, lanes[i], g.runs.count(), lane_shifts[i]);
                        self.write(to + (col + i) as isize * g.col_stride, value);
                    }
                }
            }
            col += m;
        }
    }

    /// Folds the positions of one output that starts at element `start`.
    #[inline(always)]
    unsafe fn along<S: Simd, G: Fold>(
        &self,
        s: S,
        start: isize,
        first: usize,
        last: usize,
        shift: f32,
    ) -> f32 {
        let runs = &self.kernel.geometry.runs;
        let wide = self.kernel.dtype == DType::F32;
        let mut staged = std::mem::MaybeUninit::<[f32; STAGE]>::uninit();
        let k = s.splat(shift);
        let mut total = s.splat(G::START);
        let mut sums = [total; 4];
        let mut pending = 0;
        let mut position = first;
        // SAFETY: the caller's: every position is an element of the operand.
        unsafe {
            while position < last {
                let (offset, len) = runs.run(position, last);
                let from = self.element(start + offset);
                let (mut p, mut len) = (from.cast::<f32>(), len.min(BLOCK * 4 * S::LANES));
                if !wide || (runs.stride != 1 && len > 1) {
                    len = len.min(STAGE);
                    gather(self.kernel.dtype, from, runs.stride, len, staged.as_mut_ptr().cast());
                    p = staged.as_ptr().cast();
                }
                position += len;
                pending += len;
                let mut i = 0;
                while i + 4 * S::LANES <= len {
                    for (lane, sum) in sums.iter_mut().enumerate() {
                        *sum = G::step(s, *sum, s.load(p.add(i + lane * S::LANES)), k);
                    }
                    i += 4 * S::LANES;
                }
                while i < len {
                    let m = S::LANES.min(len - i);
                    let next = G::step(s, sums[0], s.load_n(p.add(i), m), k);
                    let inside = s.gt_i(s.splat_i(m as i32), s.iota());
                    sums[0] = s.select(inside, next, sums[0]);
                    i += S::LANES;
                }
                if pending >= BLOCK * 4 * S::LANES || position == last {
                    let sum = G::merge(s, G::merge(s, sums[0], sums[1]), G::merge(s, sums[2], sums[3]));
                    total = G::merge(s, total, sum);
                    sums = [s.splat(G::START); 4];
                    pending = 0;
                }
            }
        }
        across::<S, G>(s, total)
    }

    /// Folds up to four vectors of columns (`m` of them valid) from element `start` down the positions.
    #[inline(always)]
    unsafe fn down<S: Simd, G: Fold>(
        &self,
        s: S,
        start: isize,
        m: usize,
        first: usize,
        last: usize,
        shifts: [S::F; 4],
    ) -> [S::F; 4] {
        let runs = &self.kernel.geometry.runs;
        let wide = self.kernel.dtype == DType::F32;
        let mut staged = std::mem::MaybeUninit::<[f32; STAGE]>::uninit();
        let mut totals = [s.splat(G::START); 4];
        let mut sums = totals;
        let mut pending = 0;
        let mut position = first;
        // SAFETY: the caller's: m contiguous elements at every position.
        unsafe {
            while position < last {
                let (offset, len) = runs.run(position, last);
                // Sums of sums lose less than one long chain of additions.
                let mut len = len.min(BLOCK - pending);
                let from = self.element(start + offset);
                let (mut p, mut stride) = (from.cast::<f32>(), runs.stride);
                if !wide {
                    len = len.min(STAGE / m);
                    let width = (self.kernel.dtype.bits() / 8) as isize;
                    for i in 0..len {
                        let row = from.offset(i as isize * stride * width);
                        gather(self.kernel.dtype, row, 1, m, staged.as_mut_ptr().cast::<f32>().add(i * m));
                    }
                    (p, stride) = (staged.as_ptr().cast(), m as isize);
                }
                position += len;
                pending += len;
                if m == 4 * S::LANES {
                    for _ in 0..len {
                        for k in 0..4 {
                            sums[k] = G::step(s, sums[k], s.load(p.add(k * S::LANES)), shifts[k]);
                        }
                        p = p.wrapping_offset(stride);
                    }
                } else {
                    for _ in 0..len {
                        let mut left = m;
                        for k in 0..4 {
                            let n = left.min(S::LANES);
                            if n > 0 {
                                sums[k] = G::step(s, sums[k], s.load_n(p.add(k * S::LANES), n), shifts[k]);
                            }
                            left -= n;
                        }
                        p = p.wrapping_offset(stride);
                    }
                }
                if pending == BLOCK || position == last {
                    for k in 0..4 {
                        totals[k] = G::merge(s, totals[k], sums[k]);
                        sums[k] = s.splat(G::START);
                    }
                    pending = 0;
                }
            }
        }
        totals
    }

    /// Combines the partial results of all splits.
    #[inline(never)]
    unsafe fn combine(&self) {
        let g = &self.kernel.geometry;
        let outputs = self.kernel.outputs();
        for row in 0..g.kept.count() {
            let to = g.kept.offsets(row)[1];
            for col in 0..g.cols {
                let at = row * g.cols + col;
                // SAFETY: inside of the workspace and the result.
                unsafe {
                    let value = (0..self.kernel.splits)
                        .map(|split| *self.partial.add(split * outputs + at))
                        .fold(F::START, F::merge_scalar);
                    let result = finish(g.op, value, g.runs.count(), 0.0);
                    self.write(to + col as isize * g.col_stride, result);
                }
            }
        }
    }
}

/// Widens `n` elements at a stride to a row of `f32`.
#[inline(never)]
unsafe fn gather(dtype: DType, from: *const u8, stride: isize, n: usize, to: *mut f32) {
    // SAFETY: the caller's: elements of the operand, and room for n floats.
    unsafe {
        with_storage!(dtype, T => {
            let from = from.cast::<T>();
            for i in 0..n {
                to.add(i).write((*from.offset(i as isize * stride)).widen());
            }
        }, else unreachable!());
    }
}
