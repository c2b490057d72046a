//! Tensors made of sizes and constants.

use engraft_network::{BinaryOp, DType, ops};

use super::super::Row;
use super::super::onnx::shape::{filled, range};
use super::{Result, row, size_operand};
use crate::lower::{NodeLowering, Reject, scalar_tensor};

pub(super) const ROWS: &[Row] = &[
    row("Fill", fill),
    row("ZerosLike", |n| like(n, 0.0)),
    row("OnesLike", |n| like(n, 1.0)),
    row("Range", range),
    row("LinSpace", lin_space),
];

fn fill(n: &mut NodeLowering) -> Result<()> {
    let shape = n.dims(0, "the shape")?;
    if let Some(element) = n.constant(1) {
        let element = element.reshaped(&[]).map_err(|error| Reject::new(error.to_string()))?;
        return filled(n, shape, element);
    }
    let element = n.input(1)?;
    let y = n.emit(ops::Expand { shape }, &[element])?;
    n.set(0, y);
    Ok(())
}

fn like(n: &mut NodeLowering, value: f64) -> Result<()> {
    let ty = n.input_type(0)?;
    let element = scalar_tensor(ty.dtype, value)?;
    filled(n, ty.shape.to_vec(), element)
}

/// `start + i * (stop - start) / (num - 1)`; one number is the start.
fn lin_space(n: &mut NodeLowering) -> Result<()> {
    let len = size_operand(n, 2, "the number of steps")?;
    let (start, stop) = (n.input(0)?, n.input(1)?);
    let dtype = n.dtype(start);
    let steps = n.facts().max(&len.sub(&1.into()), &1.into());
    let (zero, one) = (n.scalar(DType::I64, 0.0)?, n.scalar(DType::I64, 1.0)?);
    let index = n.emit_folded(ops::Range { len }, &[zero, one])?;
    let index = n.emit_folded(ops::Cast { to: dtype }, &[index])?;
    let count = ops::ShapeTensor { dims: vec![steps], scalar: true, dtype: DType::I64 };
    let count = n.emit_folded(count, &[])?;
    let count = n.emit_folded(ops::Cast { to: dtype }, &[count])?;
    let mut binary = |op, a, b| n.emit_folded(ops::Binary { op }, &[a, b]);
    let span = binary(BinaryOp::Sub, stop, start)?;
    let step = binary(BinaryOp::Div, span, count)?;
    let offset = binary(BinaryOp::Mul, index, step)?;
    let y = binary(BinaryOp::Add, offset, start)?;
    n.set(0, y);
    Ok(())
}
