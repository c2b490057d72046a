//! Checks that the operators' shape inference shares.

use super::{OpError, TypeVec, assume};
use crate::{DType, Dim, TensorType};
use smallvec::{SmallVec, smallvec};

pub(super) type Shape = SmallVec<[Dim; 4]>;

/// Errors unless there are exactly `want` operands.
pub(super) fn arity(inputs: &[&TensorType], want: usize) -> Result<(), OpError> {
    if inputs.len() == want {
        Ok(())
    } else {
        Err(OpError::Arity { want: want.to_string(), got: inputs.len() })
    }
}

/// Errors unless operand `operand` has rank `want`.
pub(super) fn rank(inputs: &[&TensorType], operand: usize, want: usize) -> Result<(), OpError> {
    if inputs[operand].rank() == want {
        Ok(())
    } else {
        Err(OpError::Rank { operand, got: inputs[operand].rank(), want: want.to_string() })
    }
}

/// Errors unless `ok` holds for the operand's type.
pub(super) fn dtype(
    inputs: &[&TensorType],
    operand: usize,
    ok: impl Fn(DType) -> bool,
    want: &'static str,
) -> Result<DType, OpError> {
    let got = inputs[operand].dtype;
    if ok(got) { Ok(got) } else { Err(OpError::Type { operand, got, want }) }
}

/// Errors unless the operand holds floats.
pub(super) fn float(inputs: &[&TensorType], operand: usize) -> Result<DType, OpError> {
    dtype(inputs, operand, DType::is_float, "a float type")
}

/// Errors unless the operand holds indices.
pub(super) fn index(inputs: &[&TensorType], operand: usize) -> Result<DType, OpError> {
    dtype(inputs, operand, |t| matches!(t, DType::I32 | DType::I64), "i32 or i64")
}

/// Errors unless the operand has the type of operand `of`.
pub(super) fn same(inputs: &[&TensorType], operand: usize, of: usize) -> Result<(), OpError> {
    let want = inputs[of].dtype;
    dtype(inputs, operand, |t| t == want, "the type of the operand that it goes with").map(|_| ())
}

/// Errors unless `axis` is an axis of a tensor of that rank.
pub(super) fn axis(axis: usize, rank: usize) -> Result<(), OpError> {
    if axis < rank {
        Ok(())
    } else {
        Err(attribute("axis", format!("{axis} is not an axis of a tensor of rank {rank}")))
    }
}

pub(super) fn attribute(name: &'static str, reason: impl Into<String>) -> OpError {
    OpError::Attribute { name, reason: reason.into() }
}

/// The one dim that both stand for, in its more telling form. Errors: they cannot be equal. That they are equal is
/// [assumed](super::Assumption) where symbols cannot tell.
pub(super) fn agree(a: &Dim, b: &Dim, what: &str) -> Result<Dim, OpError> {
    let dim = may_agree(a, b, what)?;
    assume::equal(a, b);
    Ok(dim)
}

fn may_agree(a: &Dim, b: &Dim, what: &str) -> Result<Dim, OpError> {
    if a == b {
        return Ok(a.clone());
    }
    match (a.fixed(), b.fixed()) {
        (Some(_), None) => Ok(a.clone()),
        (None, Some(_)) => Ok(b.clone()),
        (None, None) if a.sub(b).fixed().is_none() => Ok(a.clone()),
        _ => Err(OpError::Shape(format!("{what}: {a} against {b}"))),
    }
}

/// Errors unless `shape` broadcasts to `to` without changing it.
pub(super) fn broadcasts_to(shape: &[Dim], to: &[Dim], what: &str) -> Result<(), OpError> {
    if shape.len() > to.len() {
        return Err(OpError::Shape(format!("{what}: {shape:?} has more axes than {to:?}")));
    }
    for (d, t) in shape.iter().zip(&to[to.len() - shape.len()..]) {
        if d.fixed() != Some(1) && may_agree(d, t, what).is_err() {
            return Err(OpError::Shape(format!("{what}: {shape:?} does not broadcast to {to:?}")));
        }
        assume::equal_or_one(d, t);
    }
    Ok(())
}

/// Errors if a size is known to be negative.
pub(super) fn not_negative(name: &'static str, dims: &[Dim]) -> Result<(), OpError> {
    match dims.iter().find(|d| d.fixed().is_some_and(|n| n < 0)) {
        Some(d) => Err(attribute(name, format!("{d} is negative"))),
        None => Ok(()),
    }
}

/// Errors unless a list attribute has one entry per axis.
pub(super) fn per_axis<T>(name: &'static str, list: &[T], want: usize) -> Result<(), OpError> {
    if list.len() == want {
        Ok(())
    } else {
        Err(attribute(name, format!("has {} entries, wants {want}", list.len())))
    }
}

pub(super) fn one(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> TypeVec {
    smallvec![TensorType::new(dtype, shape)]
}

pub(super) fn elements(shape: &[usize]) -> f64 {
    shape.iter().map(|&d| d as f64).product()
}
