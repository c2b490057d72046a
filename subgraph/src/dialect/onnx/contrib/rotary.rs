//! Rotary embeddings by tables of the angles' cosines and sines.

use engraft_network::{BinaryOp, DType, Dim, ValueId, ops};

use super::super::attend::{heads, positions};
use super::super::rotary::{rotary_of, width};
use super::row;
use crate::dialect::Row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(in super::super) const ROWS: &[Row] = &[row("RotaryEmbedding", rotary)];

/// Operands x, the positions and the tables `[positions, width / 2]`. The positions are `[B, S]`, or one number: that of
/// the first row.
fn rotary(n: &mut NodeLowering) -> Result<()> {
    if n.float_or("scale", 1.0)? != 1.0 {
        return Err(Reject::new("attribute scale is not supported"));
    }
    let (x, mut at) = (n.input(0)?, n.input(1)?);
    let shape = n.shape(x);
    let length = match shape.as_slice() {
        [_, length, _] | [_, _, length, _] => length.clone(),
        _ => return Err(Reject::invalid("wants rank 3 or 4")),
    };
    if n.rank(at) < 2 {
        let first = n.reshape(at, vec![Dim::Fixed(1), Dim::Fixed(1)])?;
        let first = n.cast(first, DType::I64)?;
        let line = positions(n, &Dim::Fixed(0), &length)?;
        at = n.binary(BinaryOp::Add, first, line)?;
    }
    let tables = [n.input(2)?, n.input(3)?];
    let half = n.shape(tables[0]).get(1).cloned().ok_or_else(|| Reject::new("cos_cache wants rank 2"))?;
    let width = width(n)?;
    // Without a width the tables tell the size of a head.
    let count = match (n.rank(x), &width) {
        (3, Some(_)) => Some(heads(n, "num_heads")?),
        (3, None) => Some(shape[2].floor_div(&half.mul(&Dim::Fixed(2)))),
        _ => None,
    };
    let angles = angles(n, tables, at)?;
    rotary_of(n, x, count, angles, width)
}

/// The rows of cos and sin at positions `[B, S]`: `[B, S, width / 2]`.
pub(super) fn angles(n: &mut NodeLowering, tables: [ValueId; 2], at: ValueId) -> Result<[ValueId; 2]> {
    let [cos, sin] = tables;
    Ok([n.emit(ops::Gather { axis: 0 }, &[cos, at])?, n.emit(ops::Gather { axis: 0 }, &[sin, at])?])
}
