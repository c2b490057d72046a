//! Reductions over any set of axes, and the index of the extreme along one.

mod arg;
mod float;
mod integer;
#[cfg(test)]
mod tests;

pub use arg::ArgReduceTactic;
pub use float::ReduceTactic;
pub use integer::WideReduceTactic;

use super::storage::Axes;
use crate::{Problem, Reject, Tactic};
use engraft_network::Op;
use engraft_network::ops::ReduceOp;

/// Reduced positions in runs along one axis.
#[derive(Clone, Debug)]
struct Runs {
    outer: Axes<1>,
    len: usize,
    stride: isize,
}

impl Runs {
    fn count(&self) -> usize {
        self.outer.count() * self.len
    }

    /// The longest run that starts at `position` and ends at `end` at the latest: its offset and length.
    #[inline(always)]
    fn run(&self, position: usize, end: usize) -> (isize, usize) {
        let (outer, inner) = (position / self.len, position % self.len);
        let offset = self.outer.offsets(outer)[0] + inner as isize * self.stride;
        (offset, (self.len - inner).min(end - position))
    }
}

/// A reduction in the kernels' terms.
#[derive(Clone, Debug)]
struct Geometry {
    op: ReduceOp,
    runs: Runs,
    /// Outputs that are computed side by side because they lie contiguous in the operand: their number and their stride
    /// in the result; 1 where runs are contiguous instead.
    cols: usize,
    col_stride: isize,
    /// The other outputs.
    kept: Axes<2>,
}

impl Geometry {
    fn new(p: &Problem<'_>) -> Result<Geometry, Reject> {
        let Op::Reduce(op) = p.op else { return Err(Reject::new("not a reduction")) };
        let (x, y) = (&p.inputs[0].desc, &p.outputs[0]);
        if x.dtype != y.dtype {
            return Err(Reject::new("the result has another type"));
        }
        let reduced = |axis: usize| op.axes.contains(&axis);
        let kept_rank = x.rank() - op.axes.len();
        if op.axes.iter().any(|&a| a >= x.rank())
            || y.rank() != if op.keep_dims { x.rank() } else { kept_rank }
        {
            return Err(Reject::new("axes do not fit the shapes"));
        }
        let mut kept = Vec::with_capacity(kept_rank);
        let mut runs = Vec::with_capacity(op.axes.len());
        for axis in 0..x.rank() {
            if reduced(axis) {
                runs.push((x.shape[axis], [x.strides[axis]]));
            } else {
                let out = if op.keep_dims { axis } else { kept.len() };
                kept.push((x.shape[axis], [x.strides[axis], y.strides[out]]));
            }
        }
        // In the operand's memory order: the order of summation is free, that of outputs too.
        runs.sort_by_key(|a| std::cmp::Reverse(if a.0 == 1 { usize::MAX } else { a.1[0].unsigned_abs() }));
        kept.sort_by_key(|a| std::cmp::Reverse(if a.0 == 1 { usize::MAX } else { a.1[0].unsigned_abs() }));
        let mut kept = Axes::new(kept);
        let mut outer = Axes::new(runs);
        let (mut cols, mut col_stride) = (1, 1);
        let contiguous_runs = outer.list().last().is_some_and(|a| a.1 == [1]);
        if !contiguous_runs && kept.list().last().is_some_and(|a| a.1[0] == 1) {
            let (n, strides) = kept.pop().expect("has an axis");
            (cols, col_stride) = (n, strides[1]);
        }
        let empty = outer.count() == 0;
        let (len, [stride]) = outer.pop().unwrap_or((1, [1]));
        let len = if empty { 0 } else { len };
        Ok(Geometry { op: op.op, runs: Runs { outer, len, stride }, cols, col_stride, kept })
    }
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&ReduceTactic, &WideReduceTactic, &ArgReduceTactic]
}
