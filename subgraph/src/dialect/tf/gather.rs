//! Gathers, scatters and their family.

use engraft_network::{BinaryOp, DType, Dim, UnaryOp, ops};

use super::super::Row;
use super::super::onnx::gather::{gather_axis, reverse_steps};
use super::{Result, axis_operand, row, size_operand};
use crate::lower::{NodeLowering, Reject, scalar_tensor};

pub(super) const ROWS: &[Row] = &[
    row("Gather", |n| gather_axis(n, 0)),
    row("GatherV2", gather),
    row("GatherNd", |n| {
        let (x, indices) = (n.input(0)?, n.input(1)?);
        let y = n.emit(ops::GatherNd { batch_dims: 0 }, &[x, indices])?;
        n.set(0, y);
        Ok(())
    }),
    row("ScatterNd", scatter_nd),
    row("TensorScatterUpdate", |n| tensor_scatter(n, ops::ScatterReduction::None)),
    row("TensorScatterAdd", |n| tensor_scatter(n, ops::ScatterReduction::Add)),
    row("TensorScatterMax", |n| tensor_scatter(n, ops::ScatterReduction::Max)),
    row("TensorScatterMin", |n| tensor_scatter(n, ops::ScatterReduction::Min)),
    row("TensorScatterSub", |n| {
        let (x, indices, updates) = (n.input(0)?, n.input(1)?, n.input(2)?);
        let updates = n.unary(UnaryOp::Neg, updates)?;
        let y = n.emit(ops::ScatterNd { reduction: ops::ScatterReduction::Add }, &[x, indices, updates])?;
        n.set(0, y);
        Ok(())
    }),
    row("OneHot", one_hot),
    row("Where", |n| {
        let x = n.input(0)?;
        let indices = n.emit(ops::NonZero, &[x])?;
        let y = n.transpose(indices, &[1, 0])?;
        n.set(0, y);
        Ok(())
    }),
    row("ReverseSequence", |n| match (n.int_or("batch_dim", 0)?, n.int_or("seq_dim", 0)?) {
        (1, 0) => reverse_steps(n, true),
        (0, 1) => reverse_steps(n, false),
        axes => Err(Reject::new(format!("batch and time axes {axes:?} are not supported"))),
    }),
    row("Bucketize", bucketize),
];

/// Leading axes that data and indices share belong together.
fn gather(n: &mut NodeLowering) -> Result<()> {
    let (rank, index_rank) = (n.input_type(0)?.rank(), n.input_type(1)?.rank());
    let axis = axis_operand(n, 2, rank)?;
    let shared = n.int_or("batch_dims", 0)?;
    let shared = usize::try_from(if shared < 0 { shared + index_rank as i64 } else { shared })
        .ok()
        .filter(|&shared| shared <= axis && shared <= index_rank)
        .ok_or_else(|| Reject::new(format!("batch_dims {shared} do not fit")))?;
    if shared == 0 {
        return gather_axis(n, axis);
    }
    let (x, indices) = (n.input(0)?, n.input(1)?);
    // The axis right behind the shared ones, where tuples of one index find it.
    let perm: Vec<usize> =
        (0..shared).chain([axis]).chain((shared..rank).filter(|&other| other != axis)).collect();
    let x = n.transpose(x, &perm)?;
    let mut tuples = n.shape(indices);
    tuples.push(Dim::Fixed(1));
    let tuples = n.reshape(indices, tuples)?;
    let y = n.emit(ops::GatherNd { batch_dims: shared }, &[x, tuples])?;
    // [shared, indices, between, behind] to [shared, between, indices, behind].
    let (own, between) = (index_rank - shared, axis - shared);
    let total = n.rank(y);
    let perm: Vec<usize> = (0..shared)
        .chain(shared + own..shared + own + between)
        .chain(shared..shared + own)
        .chain(shared + own + between..total)
        .collect();
    let y = n.transpose(y, &perm)?;
    n.set(0, y);
    Ok(())
}

/// Updates summed into zeros.
fn scatter_nd(n: &mut NodeLowering) -> Result<()> {
    let shape = n.dims(2, "the shape")?;
    let (indices, updates) = (n.input(0)?, n.input(1)?);
    let dtype = n.dtype(updates);
    let element = scalar_tensor(dtype, 0.0)?;
    let zero = n.add_constant(element);
    let base = n.emit(ops::Expand { shape }, &[zero])?;
    let reduction =
        if dtype == DType::Bool { ops::ScatterReduction::None } else { ops::ScatterReduction::Add };
    let y = n.emit(ops::ScatterNd { reduction }, &[base, indices, updates])?;
    n.set(0, y);
    Ok(())
}

fn tensor_scatter(n: &mut NodeLowering, reduction: ops::ScatterReduction) -> Result<()> {
    let inputs = n.inputs()?;
    let y = n.emit(ops::ScatterNd { reduction }, &inputs)?;
    n.set(0, y);
    Ok(())
}

fn one_hot(n: &mut NodeLowering) -> Result<()> {
    let depth = size_operand(n, 1, "the depth")?;
    let indices = n.input(0)?;
    let rank = n.rank(indices) + 1;
    let axis = n.axis("axis", -1, rank)?;
    let (on, off) = (n.input(2)?, n.input(3)?);
    let one = vec![Dim::Fixed(1)];
    let (on, off) = (n.reshape(on, one.clone())?, n.reshape(off, one)?);
    let values = n.emit_folded(ops::Concat { axis: 0 }, &[off, on])?;
    // An index below 0 is none; here it would count from the end.
    let indices = n.cast(indices, DType::I64)?;
    let size =
        n.emit_folded(ops::ShapeTensor { dims: vec![depth.clone()], scalar: true, dtype: DType::I64 }, &[])?;
    let zero = n.scalar(DType::I64, 0.0)?;
    let negative = n.binary(BinaryOp::Lt, indices, zero)?;
    let indices = n.emit(ops::Select, &[negative, size, indices])?;
    let y = n.emit(ops::OneHot { axis, depth }, &[indices, values])?;
    n.set(0, y);
    Ok(())
}

/// How many boundaries, ascending, are not above each element.
fn bucketize(n: &mut NodeLowering) -> Result<()> {
    let boundaries = n.floats("boundaries")?.unwrap_or_default();
    let x = n.input(0)?;
    let mut shape = n.shape(x);
    shape.push(Dim::Fixed(1));
    let column = n.reshape(x, shape)?;
    let column = n.cast(column, DType::F32)?;
    let line = engraft_network::Tensor::from_slice(&[boundaries.len()], &boundaries)
        .map_err(|error| Reject::new(error.to_string()))?;
    let line = n.add_constant(line);
    let passed = n.binary(BinaryOp::Ge, column, line)?;
    let passed = n.cast(passed, DType::I32)?;
    let axes = vec![n.rank(passed) - 1];
    let y = n.emit(ops::Reduce { op: ops::ReduceOp::Sum, axes, keep_dims: false }, &[passed])?;
    n.set(0, y);
    Ok(())
}
