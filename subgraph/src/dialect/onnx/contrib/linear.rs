//! Products and convolutions with something fused to their ends.

use engraft_network::{BinaryOp, ValueId, ops};

use super::super::{conv, linear};
use super::{activation, row};
use crate::dialect::Row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(in super::super) const ROWS: &[Row] = &[
    row("FusedMatMul", fused_matmul),
    row("TransposeMatMul", fused_matmul),
    row("FusedMatMulActivation", |n| {
        let y = matmul(n)?;
        finish(n, y)
    }),
    row("FusedGemm", |n| {
        let y = linear::gemm(n)?;
        finish(n, y)
    }),
    row("FusedConv", fused_conv),
];

/// Applies the activation with its parameters in attributes of their own, and sets the output.
fn finish(n: &mut NodeLowering, y: ValueId) -> Result<()> {
    let y = activation::fused(n, y, |n, _, name| {
        let name = format!("activation_{name}");
        match n.attribute(&name) {
            Some(_) => n.float_or(&name, 0.0),
            None => Err(Reject::invalid(format!("attribute {name} is missing"))),
        }
    })?;
    n.set(0, y);
    Ok(())
}

fn fused_matmul(n: &mut NodeLowering) -> Result<()> {
    let y = matmul(n)?;
    n.set(0, y);
    Ok(())
}

/// `alpha * a' * b'` with optional transpositions. That of the batch axes moves the first axis behind them: `[M, batch..,
/// K]` is read as `[batch.., M, K]`.
fn matmul(n: &mut NodeLowering) -> Result<ValueId> {
    let alpha = n.float_or("alpha", 1.0)?;
    let mut operands = [n.input(0)?, n.input(1)?];
    for (operand, flag) in operands.iter_mut().zip(["transBatchA", "transBatchB"]) {
        let rank = n.rank(*operand);
        if rank < 2 {
            return Err(Reject::invalid("FusedMatMul wants matrices"));
        }
        if n.flag(flag)? {
            let perm: Vec<usize> = (1..rank - 1).chain([0, rank - 1]).collect();
            *operand = n.transpose(*operand, &perm)?;
        }
    }
    let (trans_a, trans_b) = (n.flag("transA")?, n.flag("transB")?);
    let y = n.emit(ops::MatMul { trans_a, trans_b, ..ops::MatMul::default() }, &operands)?;
    if alpha == 1.0 { Ok(y) } else { n.with_scalar(BinaryOp::Mul, y, f64::from(alpha)) }
}

/// A convolution, plus `Z` of the result's shape where it is given, through the activation.
fn fused_conv(n: &mut NodeLowering) -> Result<()> {
    let (x, w, bias, sum) = (n.input(0)?, n.input(1)?, n.optional(2)?, n.optional(3)?);
    let mut y = conv::convolve(n, x, w, bias)?;
    if let Some(sum) = sum {
        y = n.binary(BinaryOp::Add, y, sum)?;
    }
    let parameters = n.floats("activation_params")?.unwrap_or_default();
    let y = activation::fused(n, y, |_, index, name| {
        let missing = || Reject::invalid(format!("activation_params lack {name}"));
        parameters.get(index).copied().ok_or_else(missing)
    })?;
    n.set(0, y);
    Ok(())
}
