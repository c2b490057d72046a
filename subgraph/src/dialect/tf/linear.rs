//! Matrix products.

use engraft_network::{BinaryOp, DType, ValueId, ops};

use super::super::Row;
use super::super::onnx::einsum::einsum;
use super::{Result, nn, row};
use crate::lower::{NodeLowering, Reject};

pub(super) const ROWS: &[Row] = &[
    row("MatMul", |n| {
        let y = matmul(n, "transpose_a", "transpose_b")?;
        n.set(0, y);
        Ok(())
    }),
    row("_FusedMatMul", |n| {
        let y = matmul(n, "transpose_a", "transpose_b")?;
        let y = nn::epilogue(n, y)?;
        n.set(0, y);
        Ok(())
    }),
    row("BatchMatMul", |n| batch_matmul(n, None)),
    row("BatchMatMulV2", |n| batch_matmul(n, None)),
    row("BatchMatMulV3", |n| {
        let result = n.dtype_attribute("Tout")?;
        batch_matmul(n, result)
    }),
    row("Einsum", einsum),
    row("L2Loss", |n| {
        let x = n.input(0)?;
        let square = n.binary(BinaryOp::Mul, x, x)?;
        let axes = (0..n.rank(x)).collect();
        let sum = n.emit(ops::Reduce { op: ops::ReduceOp::Sum, axes, keep_dims: false }, &[square])?;
        let y = n.with_scalar(BinaryOp::Mul, sum, 0.5)?;
        n.set(0, y);
        Ok(())
    }),
];

fn matmul(n: &mut NodeLowering, trans_a: &str, trans_b: &str) -> Result<ValueId> {
    let (trans_a, trans_b) = (n.flag(trans_a)?, n.flag(trans_b)?);
    let (a, b) = (n.input(0)?, n.input(1)?);
    if n.rank(a) < 2 || n.rank(b) < 2 {
        return Err(Reject::new("wants matrices"));
    }
    n.emit(ops::MatMul { trans_a, trans_b, ..ops::MatMul::default() }, &[a, b])
}

/// `adj_x` and `adj_y` conjugate too, which real numbers do not notice. `result` widens 8-bit products.
fn batch_matmul(n: &mut NodeLowering, result: Option<DType>) -> Result<()> {
    if let Some(result) = result
        && (n.input_type(0)?.dtype != result || n.input_type(1)?.dtype != result)
    {
        let (a, b) = (n.input(0)?, n.input(1)?);
        let (a, b) = (n.cast(a, result)?, n.cast(b, result)?);
        let (trans_a, trans_b) = (n.flag("adj_x")?, n.flag("adj_y")?);
        let y = n.emit(ops::MatMul { trans_a, trans_b, ..ops::MatMul::default() }, &[a, b])?;
        n.set(0, y);
        return Ok(());
    }
    let y = matmul(n, "adj_x", "adj_y")?;
    n.set(0, y);
    Ok(())
}
