//! Operators that ONNX Runtime had before ONNX did, and some of its own that rearrange or compare.

use engraft_network::{BinaryOp, Dim, UnaryOp, ValueId, ops};

use super::super::conv::size_of;
use super::super::norm::reduce;
use super::super::shape::{iota, range, trilu};
use super::super::{gather, pool, sample, select, slice};
use super::row;
use crate::dialect::Row;
use crate::lower::{NodeLowering, Reject, axis};

type Result<T> = std::result::Result<T, Reject>;

pub(in super::super) const ROWS: &[Row] = &[
    row("ExpandDims", expand_dims),
    row("GatherND", gather::gather_nd),
    row("GridSample", sample::grid_sample),
    row("Pad", slice::pad),
    row("Range", range),
    row("Trilu", trilu),
    // In the order of their first occurrence; what ONNX numbers second is not told.
    row("Unique", |n| select::unique_of(n, false, [Some(0), None, Some(1), Some(2)])),
    row("NhwcMaxPool", pool::max_pool_channels_last),
    row("UnfoldTensor", unfold),
    row("CDist", distances),
];

/// A new axis of size 1 at the position that operand 1 tells, counted in the result.
fn expand_dims(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let mut shape = n.shape(x);
    let position = match n.integers(1, "the axis")?.as_slice() {
        &[position] => axis(position, shape.len() + 1)?,
        other => return Err(Reject::invalid(format!("{} values for the axis", other.len()))),
    };
    shape.insert(position, Dim::Fixed(1));
    let y = n.reshape(x, shape)?;
    n.set(0, y);
    Ok(())
}

/// Windows of `size` elements along axis `dim`, one at every `step`th element that has room for it, along a new last axis.
fn unfold(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let (shape, rank) = (n.shape(x), n.rank(x));
    let along = n.axis("dim", -1, rank)?;
    let [size, step] = [size_of("size", n.int_or("size", 0)?)?, size_of("step", n.int_or("step", 1)?)?];
    if size == 0 || step == 0 {
        return Err(Reject::invalid("size and step must be positive"));
    }
    let room = shape[along].sub(&Dim::from(size));
    if room.fixed().is_some_and(|room| room < 0) {
        return Err(Reject::invalid(format!("windows of {size} do not fit")));
    }
    let (one, window) = (Dim::Fixed(1), Dim::from(size));
    let count = n.facts().max(&room.floor_div(&Dim::from(step)).add(&one), &Dim::Fixed(0));
    let first = iota(n, &count, vec![count.clone(), one.clone()])?;
    let first = n.with_scalar(BinaryOp::Mul, first, step as f64)?;
    let within = iota(n, &window, vec![one, window.clone()])?;
    let indices = n.binary(BinaryOp::Add, first, within)?;
    let y = n.emit(ops::Gather { axis: along }, &[x, indices])?;
    // The windows' axis stands behind that of their numbers.
    let perm: Vec<usize> = (0..=along).chain(along + 2..=rank).chain([along + 1]).collect();
    let y = n.transpose(y, &perm)?;
    n.set(0, y);
    Ok(())
}

/// Distances between the rows of two matrices: `|a|^2 + |b|^2 - 2 a b'`, or its root.
fn distances(n: &mut NodeLowering) -> Result<()> {
    let root = match n.string_or("metric", "sqeuclidean")? {
        "sqeuclidean" => false,
        "euclidean" => true,
        other => return Err(Reject::hosted(format!("metric {other:?} is not supported"))),
    };
    let (a, b) = (n.input(0)?, n.input(1)?);
    if [a, b].iter().any(|&x| n.rank(x) != 2) {
        return Err(Reject::invalid("wants matrices"));
    }
    let length = |n: &mut NodeLowering, x: ValueId| -> Result<ValueId> {
        let square = n.binary(BinaryOp::Mul, x, x)?;
        reduce(n, ops::ReduceOp::Sum, square, vec![1])
    };
    let (of_a, of_b) = (length(n, a)?, length(n, b)?);
    let of_b = n.transpose(of_b, &[1, 0])?;
    let products = n.emit(ops::MatMul { trans_b: true, ..ops::MatMul::default() }, &[a, b])?;
    let twice = n.with_scalar(BinaryOp::Mul, products, -2.0)?;
    let lengths = n.binary(BinaryOp::Add, of_a, of_b)?;
    let mut y = n.binary(BinaryOp::Add, lengths, twice)?;
    y = n.with_scalar(BinaryOp::Max, y, 0.0)?;
    if root {
        y = n.unary(UnaryOp::Sqrt, y)?;
    }
    n.set(0, y);
    Ok(())
}
