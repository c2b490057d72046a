//! Quantization and dequantization.

use engraft_network::{BinaryOp, DType, UnaryOp, ValueId, ops};

use super::super::Row;
use super::row;
use crate::lower::{NodeLowering, Reject, axis};
use crate::onnx::dtype_of;

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("QuantizeLinear", 10, quantize),
    row("DequantizeLinear", 10, dequantize),
    row("DynamicQuantizeLinear", 11, dynamic_quantize),
];

/// The quantized axis, which only a scale that is no scalar has, and the block size along it.
fn axis_and_block(n: &NodeLowering, rank: usize, scale: ValueId) -> Result<(usize, usize)> {
    let block =
        usize::try_from(n.int_or("block_size", 0)?).map_err(|_| Reject::invalid("negative block_size"))?;
    let position = if n.rank(scale) == 0 { 0 } else { axis(n.int_or("axis", 1)?, rank)? };
    Ok((position, block))
}

/// Scale and zero point, where either has one element both as scalars.
fn parameters(n: &mut NodeLowering) -> Result<(ValueId, Option<ValueId>)> {
    let (mut scale, mut zero_point) = (n.input(1)?, n.optional(2)?);
    let single = |n: &NodeLowering, value| n.ty(value).count().fixed() == Some(1);
    if let Some(zero) = &mut zero_point
        && n.rank(scale) != n.rank(*zero)
        && single(n, scale)
        && single(n, *zero)
    {
        scale = n.reshape(scale, Vec::new())?;
        *zero = n.reshape(*zero, Vec::new())?;
    }
    Ok((scale, zero_point))
}

fn quantize(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let (scale, zero_point) = parameters(n)?;
    let to = match (zero_point, n.int_or("output_dtype", 0)?) {
        (Some(zero), _) => n.dtype(zero),
        (None, 0) => DType::U8,
        (None, element_type) => dtype_of(element_type)
            .ok_or_else(|| Reject::new(format!("element type {element_type} is not supported")))?,
    };
    let (axis, block) = axis_and_block(n, n.rank(x), scale)?;
    let inputs: Vec<ValueId> = [x, scale].into_iter().chain(zero_point).collect();
    let y = n.emit(ops::Quantize { axis, block, to, zero_point: zero_point.is_some() }, &inputs)?;
    n.set(0, y);
    Ok(())
}

fn dequantize(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let (scale, zero_point) = parameters(n)?;
    let (axis, block) = axis_and_block(n, n.rank(x), scale)?;
    let inputs: Vec<ValueId> = [x, scale].into_iter().chain(zero_point).collect();
    let y = n.emit(ops::Dequantize { axis, block, zero_point: zero_point.is_some() }, &inputs)?;
    n.set(0, y);
    Ok(())
}

/// Asymmetric 8-bit quantization over the range of the data, widened to hold 0.
fn dynamic_quantize(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let axes: Vec<usize> = (0..n.rank(x)).collect();
    let extreme = |n: &mut NodeLowering, op, bound| -> Result<ValueId> {
        let value = n.emit(ops::Reduce { op, axes: axes.clone(), keep_dims: false }, &[x])?;
        n.with_scalar(bound, value, 0.0)
    };
    let high = extreme(n, ops::ReduceOp::Max, BinaryOp::Max)?;
    let low = extreme(n, ops::ReduceOp::Min, BinaryOp::Min)?;
    let range = n.binary(BinaryOp::Sub, high, low)?;
    let scale = n.with_scalar(BinaryOp::Div, range, 255.0)?;
    let zero = n.unary(UnaryOp::Neg, low)?;
    let zero = n.binary(BinaryOp::Div, zero, scale)?;
    let zero = n.with_scalar(BinaryOp::Max, zero, 0.0)?;
    let zero = n.with_scalar(BinaryOp::Min, zero, 255.0)?;
    let zero = n.unary(UnaryOp::Round, zero)?;
    let zero = n.cast(zero, DType::U8)?;
    let y =
        n.emit(ops::Quantize { axis: 0, block: 0, to: DType::U8, zero_point: true }, &[x, scale, zero])?;
    n.set(0, y);
    n.set(1, scale);
    n.set(2, zero);
    Ok(())
}
