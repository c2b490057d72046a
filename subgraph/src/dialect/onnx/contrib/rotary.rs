//! Rotary embeddings by tables of the angles' cosines and sines.

use engraft_network::{BinaryOp, DType, Dim, Tensor, ValueId, ops};

use super::super::attend::{heads, part, positions};
use super::super::rotary::{rotary_of, width};
use super::{refuse_flags, row};
use crate::dialect::Row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(in super::super) const ROWS: &[Row] =
    &[row("RotaryEmbedding", rotary), row("MRotaryEmbedding", multimodal_rotary)];

/// Operands x, the positions and the tables `[positions, width / 2]`. The positions are `[B, S]`, or one number: that of
/// the first row.
fn rotary(n: &mut NodeLowering) -> Result<()> {
    if n.float_or("scale", 1.0)? != 1.0 {
        return Err(Reject::new("attribute scale is not supported").wants("scale", "1"));
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
    let half = n.shape(tables[0]).get(1).cloned().ok_or_else(|| Reject::invalid("cos_cache wants rank 2"))?;
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

/// [`rotary`] with three positions, `[3, B, S]`: those of time, height and width. Attribute `mrope_section` says how many of
/// the angles of a head each of them gives: one after the other or, with `mrope_layout` 1, all of them the first's but every
/// third, from the second on for the second position and from the third on for the third, as many as their sections have.
fn multimodal_rotary(n: &mut NodeLowering) -> Result<()> {
    refuse_flags(n, &["is_packed_batching"])?;
    if n.float_or("scale", 1.0)? != 1.0 {
        return Err(Reject::new("attribute scale is not supported").wants("scale", "1"));
    }
    let (x, at) = (n.input(0)?, n.input(1)?);
    let tables = [n.input(2)?, n.input(3)?];
    let half = n.shape(tables[0]).get(1).and_then(Dim::fixed);
    let half = half.ok_or_else(|| n.wants_fixed_dims(2, "the number of angles is not constant"))?;
    let sections = n.ints("mrope_section")?.unwrap_or_default();
    let [_, second, third] = sections[..] else {
        return Err(Reject::invalid("mrope_section wants three sizes"));
    };
    if sections.iter().any(|size| !(0..=half).contains(size)) || sections.iter().sum::<i64>() != half {
        return Err(Reject::invalid(format!("mrope_section {sections:?} does not add up to {half}")));
    }
    let stream = |index: i64| match n.flag("mrope_layout") {
        Ok(true) if index % 3 == 1 && index < 3 * second => Ok(1),
        Ok(true) if index % 3 == 2 && index < 3 * third => Ok(2),
        Ok(true) => Ok(0),
        Ok(false) => Ok(usize::from(index >= sections[0]) + usize::from(index >= sections[0] + second)),
        Err(error) => Err(error),
    };
    let streams = (0..half).map(stream).collect::<Result<Vec<usize>>>()?;
    let of_stream = |n: &mut NodeLowering, index: usize| -> Result<[ValueId; 2]> {
        let at = part(n, at, 0, (Dim::from(index), Dim::Fixed(1), 1))?;
        let shape = n.shape(at)[1..].to_vec();
        let at = n.reshape(at, shape)?;
        angles(n, tables, at)
    };
    let by_stream = [of_stream(n, 0)?, of_stream(n, 1)?, of_stream(n, 2)?];
    let mut angles = by_stream[0];
    for (table, result) in angles.iter_mut().enumerate() {
        for index in 1..3 {
            if streams.contains(&index) {
                let here: Vec<u8> = streams.iter().map(|stream| u8::from(*stream == index)).collect();
                let here = Tensor::from_bytes(DType::Bool, &[here.len()], &here);
                let here = n.add_constant(here.map_err(|error| Reject::new(error.to_string()))?);
                *result = n.emit(ops::Select, &[here, by_stream[index][table], *result])?;
            }
        }
    }
    let count = if n.rank(x) == 3 { Some(heads(n, "num_heads")?) } else { None };
    let width = width(n)?;
    rotary_of(n, x, count, angles, width)
}

/// The rows of cos and sin at positions `[B, S]`: `[B, S, width / 2]`.
pub(super) fn angles(n: &mut NodeLowering, tables: [ValueId; 2], at: ValueId) -> Result<[ValueId; 2]> {
    let [cos, sin] = tables;
    Ok([n.emit(ops::Gather { axis: 0 }, &[cos, at])?, n.emit(ops::Gather { axis: 0 }, &[sin, at])?])
}
