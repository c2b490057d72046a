//! Operators that give their operand's elements under another shape or in another order, and shapes as data.

use engraft_network::{DType, Dim};

use super::super::Row;
use super::super::onnx::shape::{concatenate, expand, permuted, reshaped, target_shape, tile};
use super::{Result, axis_operand, row};
use crate::lower::{Known, NodeLowering, Reject, Remedy, axes, axis};

pub(super) const ROWS: &[Row] = &[
    row("Reshape", reshape),
    row("ExpandDims", expand_dims),
    row("Squeeze", squeeze),
    row("EnsureShape", ensure_shape),
    row("Transpose", transpose),
    row("InvertPermutation", invert_permutation),
    row("ConcatV2", |n| {
        let last = n.input_count().saturating_sub(1);
        let axis = axis_operand(n, last, n.input_type(0)?.rank())?;
        concatenate(n, 0..last, axis)
    }),
    row("Concat", |n| {
        let axis = axis_operand(n, 0, n.input_type(1)?.rank())?;
        concatenate(n, 1..n.input_count(), axis)
    }),
    row("Pack", pack),
    row("Tile", tile),
    row("BroadcastTo", expand),
    row("BroadcastArgs", broadcast_args),
    row("Shape", |n| shape_of(n, 0)),
    row("ShapeN", |n| (0..n.input_count()).try_for_each(|index| shape_of(n, index))),
    row("Size", |n| {
        let count = n.input_type(0)?.count();
        let known = Known::scalar(shape_type(n)?, count);
        n.set_known(0, known);
        Ok(())
    }),
    row("Rank", |n| {
        let rank = n.input_type(0)?.rank();
        n.set_known(0, Known::scalar(DType::I32, Dim::from(rank)));
        Ok(())
    }),
];

fn shape_type(n: &NodeLowering) -> Result<DType> {
    Ok(n.dtype_attribute("out_type")?.unwrap_or(DType::I32))
}

fn shape_of(n: &mut NodeLowering, index: usize) -> Result<()> {
    let (ty, shape) = (shape_type(n)?, n.input_type(index)?.shape);
    n.set_known(index, Known::vector(ty, shape));
    Ok(())
}

/// A -1 is what is left; a 0 is a size like others.
fn reshape(n: &mut NodeLowering) -> Result<()> {
    let from = n.input_type(0)?.shape;
    let to = n.dims(1, "the target shape")?;
    let shape = target_shape(n.facts(), &from, &to, true)?;
    reshaped(n, shape)
}

fn expand_dims(n: &mut NodeLowering) -> Result<()> {
    let mut shape = n.input_type(0)?.shape.to_vec();
    let position = axis_operand(n, 1, shape.len() + 1)?;
    shape.insert(position, Dim::Fixed(1));
    reshaped(n, shape)
}

fn squeeze(n: &mut NodeLowering) -> Result<()> {
    let dims = n.input_type(0)?.shape;
    let removed = match n.ints("squeeze_dims")? {
        Some(list) => axes(&list, dims.len())?,
        None if dims.iter().any(|dim| dim.fixed().is_none()) => {
            return Err(n.wants_fixed_dims(0, "which axes to squeeze depends on the shape"));
        }
        None => (0..dims.len()).filter(|&axis| dims[axis].fixed() == Some(1)).collect(),
    };
    if let Some(&axis) = removed.iter().find(|&&axis| dims[axis].fixed().is_some_and(|size| size != 1)) {
        let reason = format!("axis {axis} to squeeze has the size {}", dims[axis]);
        return Err(Reject::new(reason).remedy(Remedy::Correct));
    }
    let kept =
        (0..dims.len()).filter(|axis| !removed.contains(axis)).map(|axis| dims[axis].clone()).collect();
    reshaped(n, kept)
}

/// A shape that cannot be told apart from the stated one is let through; where it may differ, the host checks it.
fn ensure_shape(n: &mut NodeLowering) -> Result<()> {
    let dims = n.input_type(0)?.shape;
    let agrees = match n.attribute("shape") {
        Some(crate::Attribute::Shape(None)) | None => true,
        Some(crate::Attribute::Shape(Some(stated))) => {
            stated.len() == dims.len()
                && stated.iter().zip(&dims).all(|(stated, dim)| match stated {
                    crate::HostDim::Fixed(size) => dim.fixed() == i64::try_from(*size).ok(),
                    _ => true,
                })
        }
        Some(_) => false,
    };
    match agrees {
        true => n.forward(0, 0),
        false => Err(n.wants_fixed_dims(0, "the shape is checked when the graph runs")),
    }
}

fn transpose(n: &mut NodeLowering) -> Result<()> {
    let rank = n.input_type(0)?.rank();
    let perm = n.integers(1, "the permutation")?;
    let perm: Vec<usize> = perm.iter().map(|&from| axis(from, rank)).collect::<Result<_>>()?;
    permuted(n, &perm)
}

fn invert_permutation(n: &mut NodeLowering) -> Result<()> {
    let dtype = n.input_type(0)?.dtype;
    let perm = n.integers(0, "the permutation")?;
    let place = |to: usize| perm.iter().position(|&from| from == to as i64);
    let inverse: Option<Vec<Dim>> = (0..perm.len()).map(|to| place(to).map(Dim::from)).collect();
    let inverse = inverse.ok_or_else(|| Reject::new("it is no permutation").remedy(Remedy::Correct))?;
    n.set_known(0, Known::vector(dtype, inverse));
    Ok(())
}

/// A new axis along which the operands stand.
fn pack(n: &mut NodeLowering) -> Result<()> {
    let ty = n.input_type(0)?;
    let count = n.input_count();
    let axis = n.axis("axis", 0, ty.rank() + 1)?;
    let integers = !ty.dtype.is_float() && ty.rank() == 0;
    let parts: Option<Vec<Known>> = (0..count)
        .map(|index| if integers { n.contents(index) } else { n.known(index) })
        .map(|known| {
            let known = known?;
            let mut shape = known.shape.clone();
            shape.insert(axis.min(shape.len()), 1);
            known.reshaped(&shape)
        })
        .collect();
    if let Some(known) = parts.and_then(|parts| Known::concat(&parts, axis)) {
        n.set_known(0, known);
        return Ok(());
    }
    let mut shape = ty.shape.to_vec();
    shape.insert(axis, Dim::Fixed(1));
    let mut rows = Vec::with_capacity(count);
    for index in 0..count {
        let x = n.input(index)?;
        rows.push(n.reshape(x, shape.clone())?);
    }
    let y = match rows.as_slice() {
        [only] => *only,
        rows => n.emit(engraft_network::ops::Concat { axis }, rows)?,
    };
    n.set(0, y);
    Ok(())
}

/// The shape that two shapes broadcast to.
fn broadcast_args(n: &mut NodeLowering) -> Result<()> {
    let dtype = n.input_type(0)?.dtype;
    let (a, b) = (n.dims(0, "a shape")?, n.dims(1, "a shape")?);
    let rank = a.len().max(b.len());
    let at = |shape: &[Dim], index: usize| {
        (index + shape.len()).checked_sub(rank).map_or(Dim::Fixed(1), |index| shape[index].clone())
    };
    let shape: Vec<Dim> = (0..rank).map(|index| at(&a, index).broadcast(&at(&b, index))).collect();
    n.set_known(0, Known::vector(dtype, shape));
    Ok(())
}
