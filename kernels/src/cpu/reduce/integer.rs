//! Reductions of integers and `f64`.

use super::Geometry;
use crate::cpu::pointwise::{share, tasks};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::DType;
use engraft_network::ops::ReduceOp;

/// Sum, product, extremes, L1 and sum of squares of integers (wrapping) and `f64`, in loops over contiguous runs or columns
/// that the compiler vectorises.
#[derive(Debug)]
pub struct WideReduceTactic;

impl Tactic for WideReduceTactic {
    fn id(&self) -> &'static str {
        "reduce.wide"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let kernel = WideReduceKernel::new(p)?;
        Ok(Fit { cost_ns: kernel.cost() / kernel.phases[0].clamp(1, p.threads.max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        Box::new(WideReduceKernel::new(p).expect("accepted"))
    }
}

struct WideReduceKernel {
    dtype: DType,
    geometry: Geometry,
    phases: [usize; 1],
}

/// Columns of a unit.
const COLUMNS: usize = 32;

impl WideReduceKernel {
    fn new(p: &Problem<'_>) -> Result<WideReduceKernel, Reject> {
        let geometry = Geometry::new(p)?;
        let dtype = p.inputs[0].desc.dtype;
        let supported = matches!(
            geometry.op,
            ReduceOp::Sum
                | ReduceOp::Prod
                | ReduceOp::Max
                | ReduceOp::Min
                | ReduceOp::L1
                | ReduceOp::SumSquare
        ) || (dtype == DType::F64 && matches!(geometry.op, ReduceOp::Mean | ReduceOp::L2));
        let types = [
            DType::F64,
            DType::I8,
            DType::U8,
            DType::I16,
            DType::U16,
            DType::I32,
            DType::U32,
            DType::I64,
            DType::U64,
        ];
        if !supported || !types.contains(&dtype) {
            return Err(Reject(format!("{} of {dtype}", geometry.op.name())));
        }
        let mut kernel = WideReduceKernel { dtype, geometry, phases: [0] };
        kernel.phases = [tasks(kernel.cost(), kernel.units(), p.threads)];
        Ok(kernel)
    }

    fn units(&self) -> usize {
        self.geometry.kept.count() * self.geometry.cols.div_ceil(COLUMNS)
    }

    fn cost(&self) -> f64 {
        let g = &self.geometry;
        50.0 + (g.kept.count() * g.cols * g.runs.count()) as f64 * 0.5
    }

    /// # Safety
    /// As [`Kernel::run`]; the operand's type is `T`.
    unsafe fn reduce<T: Wide>(&self, task: usize, args: &Args<'_>) {
        let (first, last) = share(self.units(), self.phases[0], task);
        let op = self.geometry.op;
        // SAFETY: the caller's.
        unsafe {
            match op {
                ReduceOp::Sum | ReduceOp::Mean => self.fold(args, first, last, T::ZERO, T::add),
                ReduceOp::Prod => self.fold(args, first, last, T::ONE, T::mul),
                ReduceOp::Max => self.fold(args, first, last, T::LOWEST, T::max),
                ReduceOp::Min => self.fold(args, first, last, T::HIGHEST, T::min),
                ReduceOp::L1 => self.fold(args, first, last, T::ZERO, |a: T, x: T| a.add(x.abs())),
                _ => self.fold(args, first, last, T::ZERO, |a: T, x: T| a.add(x.mul(x))),
            }
        }
    }

    #[inline(always)]
    unsafe fn fold<T: Wide>(
        &self,
        args: &Args<'_>,
        first: usize,
        last: usize,
        start: T,
        f: impl Fn(T, T) -> T,
    ) {
        let g = &self.geometry;
        let (x, y) = (args.inputs[0].cast::<T>(), args.outputs[0].cast::<T>());
        let count = g.runs.count();
        let blocks = g.cols.div_ceil(COLUMNS);
        for unit in first..last {
            let [from, to] = g.kept.offsets(unit / blocks);
            let begin = unit % blocks * COLUMNS;
            let width = COLUMNS.min(g.cols - begin);
            let mut sums = [start; COLUMNS];
            let mut position = 0;
            // SAFETY: units, columns and positions lie inside operand and result.
            unsafe {
                let (x, y) = (x.offset(from).add(begin), y.offset(to));
                while position < count {
                    let (offset, len) = g.runs.run(position, count);
                    let p = x.offset(offset);
                    position += len;
                    if g.cols == 1 && g.runs.stride == 1 {
                        sums[0] = std::slice::from_raw_parts(p, len).iter().fold(sums[0], |a, &x| f(a, x));
                    } else {
                        for i in 0..len {
                            let row = p.offset(i as isize * g.runs.stride);
                            for (c, sum) in sums[..width].iter_mut().enumerate() {
                                *sum = f(*sum, *row.add(c));
                            }
                        }
                    }
                }
                for (c, &sum) in sums[..width].iter().enumerate() {
                    let value = T::finish(g.op, sum, count);
                    y.offset((begin + c) as isize * g.col_stride).write(value);
                }
            }
        }
    }
}

/// Arithmetic of a reduction's elements: integers wrap.
trait Wide: Copy {
    const ZERO: Self;
    const ONE: Self;
    const LOWEST: Self;
    const HIGHEST: Self;
    fn add(self, x: Self) -> Self;
    fn mul(self, x: Self) -> Self;
    fn max(self, x: Self) -> Self;
    fn min(self, x: Self) -> Self;
    fn abs(self) -> Self;
    fn finish(op: ReduceOp, sum: Self, count: usize) -> Self;
}

macro_rules! wide {
    ($($t:ty, |$x:ident| $abs:expr;)+) => {$(
        impl Wide for $t {
            const ZERO: $t = 0;
            const ONE: $t = 1;
            const LOWEST: $t = <$t>::MIN;
            const HIGHEST: $t = <$t>::MAX;
            #[inline(always)]
            fn add(self, x: $t) -> $t {
                self.wrapping_add(x)
            }
            #[inline(always)]
            fn mul(self, x: $t) -> $t {
                self.wrapping_mul(x)
            }
            #[inline(always)]
            fn max(self, x: $t) -> $t {
                Ord::max(self, x)
            }
            #[inline(always)]
            fn min(self, x: $t) -> $t {
                Ord::min(self, x)
            }
            #[inline(always)]
            fn abs(self) -> $t {
                let $x = self;
                $abs
            }
            fn finish(_: ReduceOp, sum: $t, _: usize) -> $t {
                sum
            }
        }
    )+};
}

wide! {
    i8, |x| x.wrapping_abs();
    i16, |x| x.wrapping_abs();
    i32, |x| x.wrapping_abs();
    i64, |x| x.wrapping_abs();
    u8, |x| x;
    u16, |x| x;
    u32, |x| x;
    u64, |x| x;
}

impl Wide for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const LOWEST: f64 = f64::NEG_INFINITY;
    const HIGHEST: f64 = f64::INFINITY;
    #[inline(always)]
    fn add(self, x: f64) -> f64 {
        self + x
    }
    #[inline(always)]
    fn mul(self, x: f64) -> f64 {
        self * x
    }
    #[inline(always)]
    fn max(self, x: f64) -> f64 {
        if self.is_nan() || self > x { self } else { x }
    }
    #[inline(always)]
    fn min(self, x: f64) -> f64 {
        if self.is_nan() || self < x { self } else { x }
    }
    #[inline(always)]
    fn abs(self) -> f64 {
        f64::abs(self)
    }
    fn finish(op: ReduceOp, sum: f64, count: usize) -> f64 {
        match op {
            ReduceOp::Mean => sum / count as f64,
            ReduceOp::L2 => sum.sqrt(),
            _ => sum,
        }
    }
}

impl Kernel for WideReduceKernel {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        // SAFETY: the caller's, at the type that was accepted.
        unsafe {
            match self.dtype {
                DType::F64 => self.reduce::<f64>(task, args),
                DType::I8 => self.reduce::<i8>(task, args),
                DType::U8 => self.reduce::<u8>(task, args),
                DType::I16 => self.reduce::<i16>(task, args),
                DType::U16 => self.reduce::<u16>(task, args),
                DType::I32 => self.reduce::<i32>(task, args),
                DType::U32 => self.reduce::<u32>(task, args),
                DType::I64 => self.reduce::<i64>(task, args),
                DType::U64 => self.reduce::<u64>(task, args),
                other => unreachable!("{other} was not accepted"),
            }
        }
        Ok(())
    }
}
