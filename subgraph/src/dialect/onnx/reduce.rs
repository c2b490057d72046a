//! Reductions, arg-reductions, running sums and top-k.

use engraft_network::{BinaryOp, DType, Dim, ops};

use super::super::Row;
use super::row;
use crate::lower::{Known, NodeLowering, Reject, axes, axis};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("ReduceSum", 1, |n| reduce(n, ops::ReduceOp::Sum)),
    row("ReduceMean", 1, |n| reduce(n, ops::ReduceOp::Mean)),
    row("ReduceMax", 1, |n| reduce(n, ops::ReduceOp::Max)),
    row("ReduceMin", 1, |n| reduce(n, ops::ReduceOp::Min)),
    row("ReduceProd", 1, |n| reduce(n, ops::ReduceOp::Prod)),
    row("ReduceL1", 1, |n| reduce(n, ops::ReduceOp::L1)),
    row("ReduceL2", 1, |n| reduce(n, ops::ReduceOp::L2)),
    row("ReduceLogSum", 1, |n| reduce(n, ops::ReduceOp::LogSum)),
    row("ReduceLogSumExp", 1, |n| reduce(n, ops::ReduceOp::LogSumExp)),
    row("ReduceSumSquare", 1, |n| reduce(n, ops::ReduceOp::SumSquare)),
    row("ArgMax", 1, |n| arg_reduce(n, true)),
    row("ArgMin", 1, |n| arg_reduce(n, false)),
    row("CumSum", 11, |n| cumulative(n, false)),
    row("CumProd", 26, |n| cumulative(n, true)),
    row("TopK", 1, top_k),
    row("Hardmax", 13, hardmax),
];

/// Axes come as an attribute or as an input; without any all are meant, unless `noop_with_empty_axes`.
fn reduce(n: &mut NodeLowering, op: ops::ReduceOp) -> Result<()> {
    let ty = n.input_type(0)?;
    let rank = ty.rank();
    let given = match n.ints("axes")? {
        Some(list) => list,
        None if n.has(1) => n.integers(1, "the list of axes")?,
        None => Vec::new(),
    };
    let reduced = match given.as_slice() {
        [] if n.flag("noop_with_empty_axes")? => return n.forward(0, 0),
        [] => (0..rank).collect(),
        list => axes(list, rank)?,
    };
    let keep_dims = n.int_or("keepdims", 1)? != 0;
    reduce_axes(n, op, reduced, keep_dims)
}

/// Operand 0 reduced along `reduced`, sorted.
pub(in crate::dialect) fn reduce_axes(
    n: &mut NodeLowering,
    op: ops::ReduceOp,
    reduced: Vec<usize>,
    keep_dims: bool,
) -> Result<()> {
    let combine = match op {
        ops::ReduceOp::Sum => Some(BinaryOp::Add),
        ops::ReduceOp::Prod => Some(BinaryOp::Mul),
        ops::ReduceOp::Max => Some(BinaryOp::Max),
        ops::ReduceOp::Min => Some(BinaryOp::Min),
        _ => None,
    };
    if let (Some(combine), Some(known)) = (combine, n.known(0))
        && let Some(known) = known.reduce(combine, &reduced, keep_dims, n.facts())
    {
        n.set_known(0, known);
        return Ok(());
    }
    let x = n.input(0)?;
    let y = n.emit(ops::Reduce { op, axes: reduced, keep_dims }, &[x])?;
    n.set(0, y);
    Ok(())
}

fn arg_reduce(n: &mut NodeLowering, max: bool) -> Result<()> {
    let x = n.input(0)?;
    let axis = n.axis("axis", 0, n.rank(x))?;
    let keep_dims = n.int_or("keepdims", 1)? != 0;
    let last = n.flag("select_last_index")?;
    let y = n.emit(ops::ArgReduce { max, axis, keep_dims, last }, &[x])?;
    n.set(0, y);
    Ok(())
}

pub(in crate::dialect) fn cumulative(n: &mut NodeLowering, product: bool) -> Result<()> {
    let x = n.input(0)?;
    let position = match n.integers(1, "the axis")?.as_slice() {
        [position] => axis(*position, n.rank(x))?,
        other => return Err(Reject::invalid(format!("{} axes", other.len()))),
    };
    let (exclusive, reverse) = (n.flag("exclusive")?, n.flag("reverse")?);
    let y = n.emit(ops::Cumulative { product, axis: position, exclusive, reverse }, &[x])?;
    n.set(0, y);
    Ok(())
}

fn top_k(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let axis = n.axis("axis", -1, n.rank(x))?;
    let k = match n.int("k")? {
        Some(k) => k.into(),
        None => match n.dims(1, "k")?.as_slice() {
            [k] => k.clone(),
            other => return Err(Reject::invalid(format!("{} values for k", other.len()))),
        },
    };
    let largest = n.int_or("largest", 1)? != 0;
    let outputs = n.emit_many(ops::TopK { axis, largest, k }, &[x])?;
    for (index, &output) in outputs.iter().enumerate() {
        n.set(index, output);
    }
    Ok(())
}

/// 1 at the first maximum along the axis, else 0.
fn hardmax(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let (shape, dtype) = (n.shape(x), n.dtype(x));
    let axis = n.axis("axis", -1, shape.len())?;
    let index = n.emit(ops::ArgReduce { max: true, axis, keep_dims: false, last: false }, &[x])?;
    let off_on = Known::vector(DType::F32, [Dim::Fixed(0), Dim::Fixed(1)]);
    let off_on = off_on.tensor().ok_or_else(|| Reject::new("no literal"))?;
    let off_on = n.add_constant(off_on);
    let off_on = n.cast(off_on, dtype)?;
    let y = n.emit(ops::OneHot { axis, depth: shape[axis].clone() }, &[index, off_on])?;
    n.set(0, y);
    Ok(())
}
