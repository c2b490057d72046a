//! Matrix products, and determinants.

use engraft_network::{BinaryOp, DType, Dim, ValueId, ops};

use super::super::Row;
use super::{FIRST, row};
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("MatMul", 1, |n| {
        let (a, b) = (n.input(0)?, n.input(1)?);
        let y = matmul(n, a, b)?;
        n.set(0, y);
        Ok(())
    }),
    row("Gemm", FIRST, |n| {
        let y = gemm(n)?;
        n.set(0, y);
        Ok(())
    }),
    row("Det", 11, |n| {
        let x = n.input(0)?;
        let y = n.emit(ops::Det, &[x])?;
        n.set(0, y);
        Ok(())
    }),
    row("MatMulInteger", 10, matmul_integer),
];

/// numpy's matmul: a vector counts as a matrix of one row (left) or one column (right), whose axis is dropped after.
pub(super) fn matmul(n: &mut NodeLowering, a: ValueId, b: ValueId) -> Result<ValueId> {
    let (left, right) = (n.shape(a), n.shape(b));
    if left.is_empty() || right.is_empty() {
        return Err(Reject::invalid("a product with a scalar is not a matrix product"));
    }
    let one = Dim::Fixed(1);
    let a = match left.as_slice() {
        [k] => n.reshape(a, vec![one.clone(), k.clone()])?,
        _ => a,
    };
    let b = match right.as_slice() {
        [k] => n.reshape(b, vec![k.clone(), one])?,
        _ => b,
    };
    let y = n.emit(ops::MatMul::default(), &[a, b])?;
    let mut shape = n.shape(y);
    if right.len() == 1 {
        shape.pop();
    }
    if left.len() == 1 {
        let row = shape.len() - usize::from(right.len() != 1) - 1;
        shape.remove(row);
    }
    n.reshape(y, shape)
}

/// `alpha * a' * b' + beta * c`.
pub(super) fn gemm(n: &mut NodeLowering) -> Result<ValueId> {
    let (alpha, beta) = (n.float_or("alpha", 1.0)?, n.float_or("beta", 1.0)?);
    let (trans_a, trans_b) = (n.flag("transA")?, n.flag("transB")?);
    let (a, b, c) = (n.input(0)?, n.input(1)?, n.optional(2)?);
    if n.rank(a) != 2 || n.rank(b) != 2 {
        return Err(Reject::invalid("Gemm wants matrices"));
    }
    let columns = n.shape(b)[usize::from(!trans_b)].clone();
    let product = ops::MatMul { trans_a, trans_b, ..ops::MatMul::default() };
    // The usual bias is the product's own.
    if let Some(c) = c
        && (alpha, beta) == (1.0, 1.0)
        && n.shape(c) == [columns]
    {
        let epilogue = ops::Epilogue { bias: true, post: None };
        return n.emit(ops::MatMul { epilogue, ..product }, &[a, b, c]);
    }
    let mut y = n.emit(product, &[a, b])?;
    if alpha != 1.0 {
        y = n.with_scalar(BinaryOp::Mul, y, f64::from(alpha))?;
    }
    if let Some(mut c) = c
        && beta != 0.0
    {
        if beta != 1.0 {
            c = n.with_scalar(BinaryOp::Mul, c, f64::from(beta))?;
        }
        y = n.binary(BinaryOp::Add, y, c)?;
    }
    Ok(y)
}

/// Products of 8-bit matrices, less their zero points, summed in 32 bits.
fn matmul_integer(n: &mut NodeLowering) -> Result<()> {
    let mut operands = [n.input(0)?, n.input(1)?];
    for (index, operand) in operands.iter_mut().enumerate() {
        *operand = n.cast(*operand, DType::I32)?;
        if let Some(zero) = n.optional(2 + index)? {
            let mut zero = n.cast(zero, DType::I32)?;
            // One zero point per row of the left matrix, per column of the right one.
            if index == 0 && n.rank(zero) == 1 && n.shape(zero) != [Dim::Fixed(1)] {
                let rows = n.shape(zero)[0].clone();
                zero = n.reshape(zero, vec![rows, Dim::Fixed(1)])?;
            }
            *operand = n.binary(BinaryOp::Sub, *operand, zero)?;
        }
    }
    let y = matmul(n, operands[0], operands[1])?;
    n.set(0, y);
    Ok(())
}
