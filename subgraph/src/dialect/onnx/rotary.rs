//! Rotary embeddings.

use engraft_network::{BinaryOp, Dim, ValueId, ops};

use super::super::Row;
use super::attend::{apart, heads, part};
use super::conv::size_of;
use super::row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[row("RotaryEmbedding", 23, rotary)];

/// Rotates pairs of features by the angles of each position; operands x, cos, sin and the positions, without which cos
/// and sin are given per batch item and position.
fn rotary(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let positions = n.optional(3)?;
    let mut angles = [n.input(1)?, n.input(2)?];
    if let Some(positions) = positions {
        for table in &mut angles {
            *table = n.emit(ops::Gather { axis: 0 }, &[*table, positions])?;
        }
    }
    let count = if n.rank(x) == 3 { Some(heads(n, "num_heads")?) } else { None };
    let width = width(n)?;
    rotary_of(n, x, count, angles, width)
}

/// Attribute `rotary_embedding_dim`: how many features of a head are rotated, all of them without it.
pub(super) fn width(n: &NodeLowering) -> Result<Option<Dim>> {
    let width = size_of("rotary_embedding_dim", n.int_or("rotary_embedding_dim", 0)?)?;
    Ok((width > 0).then(|| Dim::from(width)))
}

/// Sets output 0 to the rotation of x, which is `[B, H, S, D]` or, with `heads`, `[B, S, H * D]`; cos and sin are `[B, S,
/// width / 2]`.
pub(super) fn rotary_of(
    n: &mut NodeLowering,
    x: ValueId,
    heads: Option<Dim>,
    angles: [ValueId; 2],
    width: Option<Dim>,
) -> Result<()> {
    let shape = n.shape(x);
    let (split, axis) = match &heads {
        Some(heads) => (apart(n, x, heads)?, 2),
        None => (x, 1),
    };
    let angles = beside(n, angles, axis)?;
    let y = rotate(n, split, angles, width, n.flag("interleaved")?)?;
    let y = n.reshape(y, shape)?;
    n.set(0, y);
    Ok(())
}

/// cos and sin `[B, S, W]` with an axis of size 1 at `axis`, along the heads.
pub(super) fn beside(n: &mut NodeLowering, mut angles: [ValueId; 2], axis: usize) -> Result<[ValueId; 2]> {
    for table in &mut angles {
        let mut shape = n.shape(*table);
        if shape.len() != 3 {
            return Err(Reject::invalid("cos and sin of a position want rank 3"));
        }
        shape.insert(axis, Dim::Fixed(1));
        *table = n.reshape(*table, shape)?;
    }
    Ok(angles)
}

/// x of rank 4 with the first `width` features of its last axis rotated in pairs: `(a, b)` become `(a cos - b sin, a sin + b
/// cos)`. Pairs stand beside each other where `interleaved`, else in the two halves. cos and sin broadcast to x, with half
/// as many features.
pub(super) fn rotate(
    n: &mut NodeLowering,
    x: ValueId,
    [cos, sin]: [ValueId; 2],
    width: Option<Dim>,
    interleaved: bool,
) -> Result<ValueId> {
    let [_, _, _, size] =
        <[Dim; 4]>::try_from(n.shape(x)).map_err(|_| Reject::invalid("wants rank 3 or 4"))?;
    let rotated = match (width, size.fixed()) {
        (None, _) => size.clone(),
        (Some(width), Some(size)) if width.fixed().is_some_and(|width| width <= size) => width,
        (Some(width), _) => {
            return Err(Reject::invalid(format!("{width} rotated features do not fit heads of {size}")));
        }
    };
    let half = rotated.floor_div(&Dim::Fixed(2));
    let (second, step) = if interleaved { (Dim::Fixed(1), 2) } else { (half.clone(), 1) };
    let a = part(n, x, 3, (Dim::Fixed(0), half.clone(), step))?;
    let b = part(n, x, 3, (second, half.clone(), step))?;
    let mix = |n: &mut NodeLowering, op, [p, q]: [ValueId; 2]| -> Result<ValueId> {
        let (left, right) = (n.binary(BinaryOp::Mul, a, p)?, n.binary(BinaryOp::Mul, b, q)?);
        n.binary(op, left, right)
    };
    let (real, imaginary) = (mix(n, BinaryOp::Sub, [cos, sin])?, mix(n, BinaryOp::Add, [sin, cos])?);
    let mut y = if interleaved {
        let mut paired = n.shape(real);
        let mut whole = paired.clone();
        paired.push(Dim::Fixed(1));
        whole[3] = half.mul(&Dim::Fixed(2));
        let (real, imaginary) = (n.reshape(real, paired.clone())?, n.reshape(imaginary, paired)?);
        let pairs = n.emit(ops::Concat { axis: 4 }, &[real, imaginary])?;
        n.reshape(pairs, whole)?
    } else {
        n.emit(ops::Concat { axis: 3 }, &[real, imaginary])?
    };
    if rotated != size {
        let rest = part(n, x, 3, (rotated.clone(), size.sub(&rotated), 1))?;
        y = n.emit(ops::Concat { axis: 3 }, &[y, rest])?;
    }
    Ok(y)
}
