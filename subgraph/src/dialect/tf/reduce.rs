//! Reductions, arg-reductions, running sums and top-k.

use engraft_network::{DType, ops};

use super::super::Row;
use super::super::onnx::reduce::{cumulative, reduce_axes};
use super::{Result, axis_operand, row, size_operand};
use crate::lower::{NodeLowering, Reject, axes};

pub(super) const ROWS: &[Row] = &[
    row("Sum", |n| reduce(n, ops::ReduceOp::Sum)),
    row("Mean", |n| reduce(n, ops::ReduceOp::Mean)),
    row("Max", |n| reduce(n, ops::ReduceOp::Max)),
    row("Min", |n| reduce(n, ops::ReduceOp::Min)),
    row("Prod", |n| reduce(n, ops::ReduceOp::Prod)),
    row("EuclideanNorm", |n| reduce(n, ops::ReduceOp::L2)),
    row("All", |n| logical(n, ops::ReduceOp::Min)),
    row("Any", |n| logical(n, ops::ReduceOp::Max)),
    row("ArgMax", |n| arg_reduce(n, true)),
    row("ArgMin", |n| arg_reduce(n, false)),
    row("Cumsum", |n| cumulative(n, false)),
    row("Cumprod", |n| cumulative(n, true)),
    row("TopK", top_k),
    row("TopKV2", top_k),
];

/// Operand 1 names the axes; none leaves the operand as it is.
fn reduced(n: &mut NodeLowering) -> Result<Vec<usize>> {
    let rank = n.input_type(0)?.rank();
    let list = n.integers(1, "the list of axes")?;
    axes(&list, rank)
}

fn reduce(n: &mut NodeLowering, op: ops::ReduceOp) -> Result<()> {
    let axes = reduced(n)?;
    if axes.is_empty() && op != ops::ReduceOp::L2 {
        return n.forward(0, 0);
    }
    let keep_dims = n.flag("keep_dims")?;
    reduce_axes(n, op, axes, keep_dims)
}

/// Of truths, as the least or largest of 0 and 1.
fn logical(n: &mut NodeLowering, op: ops::ReduceOp) -> Result<()> {
    let axes = reduced(n)?;
    if axes.is_empty() {
        return n.forward(0, 0);
    }
    let keep_dims = n.flag("keep_dims")?;
    if n.known(0).is_some() {
        return reduce_axes(n, op, axes, keep_dims);
    }
    let x = n.input(0)?;
    let numbers = n.cast(x, DType::I32)?;
    let result = n.emit(ops::Reduce { op, axes, keep_dims }, &[numbers])?;
    let y = n.cast(result, DType::Bool)?;
    n.set(0, y);
    Ok(())
}

fn arg_reduce(n: &mut NodeLowering, max: bool) -> Result<()> {
    let x = n.input(0)?;
    let axis = axis_operand(n, 1, n.rank(x))?;
    let to = n.dtype_attribute("output_type")?.unwrap_or(DType::I64);
    let index = n.emit(ops::ArgReduce { max, axis, keep_dims: false, last: false }, &[x])?;
    let y = n.cast(index, to)?;
    n.set(0, y);
    Ok(())
}

/// Along the last axis.
fn top_k(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let axis = n.rank(x).checked_sub(1).ok_or_else(|| Reject::new("wants an axis"))?;
    let k = match n.int("k")? {
        Some(k) => k.into(),
        None => size_operand(n, 1, "k")?,
    };
    let to = n.dtype_attribute("index_type")?.unwrap_or(DType::I32);
    let outputs = n.emit_many(ops::TopK { axis, largest: true, k }, &[x])?;
    let indices = n.cast(outputs[1], to)?;
    n.set(0, outputs[0]);
    n.set(1, indices);
    Ok(())
}
