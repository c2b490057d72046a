//! The index of the largest or smallest element along an axis.

use crate::cpu::isa::Isa;
use crate::cpu::pointwise::{share, tasks};
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::{Axes, Storage, is_storage, with_storage};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};

/// ArgMax and ArgMin of floats, along a contiguous axis or down contiguous columns. Of equal elements the first, or the last, wins.
#[derive(Debug)]
pub struct ArgReduceTactic;

#[derive(Clone, Debug)]
struct Shape {
    dtype: DType,
    max: bool,
    last: bool,
    len: usize,
    step: isize,
    /// Outputs side by side, and their stride in the result; 1 if the axis itself is contiguous.
    cols: usize,
    col_stride: isize,
    outer: Axes<2>,
}

/// Columns of a unit.
const COLUMNS: usize = 64;

impl Shape {
    fn new(p: &Problem<'_>) -> Result<Shape, Reject> {
        let Op::ArgReduce(op) = p.op else { return Err(Reject::new("not an arg-reduction")) };
        let (x, y) = (&p.inputs[0].desc, &p.outputs[0]);
        if !is_storage(x.dtype) || y.dtype != DType::I64 {
            return Err(Reject(format!("arg-reduction of {}", x.dtype)));
        }
        let rank = x.rank();
        if op.axis >= rank || y.rank() != if op.keep_dims { rank } else { rank - 1 } {
            return Err(Reject::new("axis does not fit the shapes"));
        }
        let (len, step) = (x.shape[op.axis], x.strides[op.axis]);
        if len == 0 || len > i32::MAX as usize {
            return Err(Reject::new("axis is empty or too long"));
        }
        let outer = (0..rank).filter(|&i| i != op.axis).map(|i| {
            let out = if op.keep_dims || i < op.axis { i } else { i - 1 };
            (x.shape[i], [x.strides[i], y.strides[out]])
        });
        let mut shape = Shape {
            dtype: x.dtype,
            max: op.max,
            last: op.last,
            len,
            step,
            cols: 1,
            col_stride: 1,
            outer: Axes::new(outer),
        };
        if step == 1 || len == 1 {
            return Ok(shape);
        }
        let contiguous = shape.outer.list().iter().position(|a| a.1[0] == 1);
        if let Some(i) = contiguous {
            let (cols, strides) = shape.outer.remove(i);
            (shape.cols, shape.col_stride) = (cols, strides[1]);
            return Ok(shape);
        }
        Err(Reject::new("no axis of the operand is contiguous"))
    }

    fn units(&self) -> usize {
        self.outer.count() * self.cols.div_ceil(COLUMNS)
    }

    fn cost(&self, isa: Isa) -> f64 {
        let per_element = if isa == Isa::Portable { 0.8 } else { 0.15 };
        60.0 + self.units() as f64 * 20.0 + (self.outer.count() * self.cols * self.len) as f64 * per_element
    }
}

impl Tactic for ArgReduceTactic {
    fn id(&self) -> &'static str {
        "arg_reduce.float"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let shape = Shape::new(p)?;
        let cost = shape.cost(p.isa);
        Ok(Fit { cost_ns: cost / tasks(cost, shape.units(), p.threads).clamp(1, p.threads.max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let shape = Shape::new(p).expect("accepted");
        let phases = [tasks(shape.cost(p.isa), shape.units(), p.threads)];
        Box::new(ArgReduceKernel { shape, isa: p.isa, phases })
    }
}

struct ArgReduceKernel {
    shape: Shape,
    isa: Isa,
    phases: [usize; 1],
}

impl Kernel for ArgReduceKernel {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (first, last) = share(self.shape.units(), self.phases[0], task);
        with_storage!(self.shape.dtype, T => dispatch(self.isa, Run::<T> {
            shape: &self.shape,
            x: args.inputs[0].cast(),
            y: args.outputs[0].cast(),
            first,
            last,
        }), else unreachable!("accepted types only"));
        Ok(())
    }
}

struct Run<'a, T> {
    shape: &'a Shape,
    x: *const T,
    y: *mut i64,
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
            // SAFETY: units lie inside operand and result.
            unsafe {
                let (x, y) = (x.offset(from), y.offset(to));
                if shape.cols == 1 && (shape.step == 1 || shape.len == 1) {
                    y.write(row(s, x, shape));
                    continue;
                }
                let mut col = unit % blocks * COLUMNS;
                let end = (col + COLUMNS).min(shape.cols);
                while col < end {
                    let m = S::LANES.min(end - col);
                    let mut lanes = [0i32; 16];
                    s.store_i(lanes.as_mut_ptr(), columns(s, x.add(col), m, shape));
                    for (i, &index) in lanes[..m].iter().enumerate() {
                        y.offset((col + i) as isize * shape.col_stride).write(i64::from(index));
                    }
                    col += m;
                }
            }
        }
    }
}

/// Lanes where `x` takes the place of `best`, as it comes later.
#[inline(always)]
fn wins<S: Simd>(s: S, x: S::F, best: S::F, shape: &Shape) -> S::M {
    match (shape.max, shape.last) {
        (true, false) => s.gt(x, best),
        (true, true) => s.ge(x, best),
        (false, false) => s.lt(x, best),
        (false, true) => s.le(x, best),
    }
}

#[inline(always)]
unsafe fn columns<S: Simd, T: Storage>(s: S, x: *const T, m: usize, shape: &Shape) -> S::I {
    let mut index = s.splat_i(0);
    // SAFETY: the axis has `len` positions with m contiguous elements each.
    unsafe {
        let mut best = T::load(s, x, m);
        for i in 1..shape.len {
            let v = T::load(s, x.offset(i as isize * shape.step), m);
            let mask = wins(s, v, best, shape);
            best = s.select(mask, v, best);
            index = s.select_i(mask, s.splat_i(i as i32), index);
        }
    }
    index
}

#[inline(always)]
unsafe fn row<S: Simd, T: Storage>(s: S, x: *const T, shape: &Shape) -> i64 {
    let n = shape.len;
    // SAFETY: n contiguous elements.
    unsafe {
        let first = n.min(S::LANES);
        let mut best = T::load(s, x, first);
        let mut index = s.iota();
        let mut i = first;
        while i < n {
            let m = S::LANES.min(n - i);
            let v = T::load(s, x.add(i), m);
            let inside = s.gt_i(s.splat_i(m as i32), s.iota());
            let mask = s.and_m(inside, wins(s, v, best, shape));
            best = s.select(mask, v, best);
            index = s.select_i(mask, s.add_i(s.iota(), s.splat_i(i as i32)), index);
            i += m;
        }
        let values = s.to_array(best);
        let mut indices = [0i32; 16];
        s.store_i(indices.as_mut_ptr(), index);
        let mut winner = 0;
        for lane in 1..first {
            let (v, w) = (values[lane], values[winner]);
            let better = if shape.max { v > w } else { v < w };
            let later = indices[lane] > indices[winner];
            if better || v == w && later == shape.last {
                winner = lane;
            }
        }
        i64::from(indices[winner])
    }
}
