//! What selects as many results as the data says: the network has room for all, and a size that is told afterwards.

use engraft_network::{Dim, ValueId, ops};

use super::super::Row;
use super::row;
use crate::lower::{NodeLowering, Reject, axis};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] =
    &[row("NonMaxSuppression", 10, non_max_suppression), row("Unique", 11, unique)];

/// The first `len` slices along the axis.
fn first(n: &mut NodeLowering, x: ValueId, axis: usize, len: &Dim) -> Result<ValueId> {
    let range = ops::SliceRange { axis, start: Dim::Fixed(0), len: len.clone(), step: 1 };
    n.emit(ops::Slice { ranges: vec![range] }, &[x])
}

fn non_max_suppression(n: &mut NodeLowering) -> Result<()> {
    let limit = match n.has(2) {
        false => Dim::Fixed(0),
        true => match n.dims(2, "the limit of boxes")?.as_slice() {
            [limit] => n.facts().max(limit, &Dim::Fixed(0)),
            other => return Err(Reject::invalid(format!("{} values for the limit of boxes", other.len()))),
        },
    };
    let (boxes, scores) = (n.input(0)?, n.input(1)?);
    let overlap = match n.optional(3)? {
        Some(overlap) => n.reshape(overlap, vec![])?,
        None => n.scalar(engraft_network::DType::F32, 0.0)?,
    };
    let mut operands = vec![boxes, scores, overlap];
    if let Some(least) = n.optional(4)? {
        operands.push(n.reshape(least, vec![])?);
    }
    let center_point_box = n.flag("center_point_box")?;
    let op = ops::NonMaxSuppression { center_point_box, score_threshold: operands.len() == 4, limit };
    let outputs = n.emit_many(op, &operands)?;
    let count = n.told_size(outputs[1]);
    let y = first(n, outputs[0], 0, &count)?;
    n.set(0, y);
    Ok(())
}

fn unique(n: &mut NodeLowering) -> Result<()> {
    let sorted = n.int_or("sorted", 1)? != 0;
    unique_of(n, sorted, [Some(0), Some(1), Some(2), Some(3)])
}

/// The unique elements, or slices along attribute `axis`, of operand 0: the node's outputs at the given places are these, where
/// each stands first, for each element which it is, and how often each occurs.
pub(super) fn unique_of(n: &mut NodeLowering, sorted: bool, places: [Option<usize>; 4]) -> Result<()> {
    let mut x = n.input(0)?;
    let axis = match n.int("axis")? {
        Some(position) => axis(position, n.rank(x))?,
        None => {
            let count = n.ty(x).count();
            x = n.reshape(x, vec![count])?;
            0
        }
    };
    let outputs = n.emit_many(ops::Unique { axis, sorted }, &[x])?;
    let count = n.told_size(outputs[4]);
    for (index, place) in places.into_iter().enumerate() {
        let Some(place) = place.filter(|&place| n.wants(place)) else { continue };
        let y = match index {
            2 => outputs[2],
            _ => first(n, outputs[index], if index == 0 { axis } else { 0 }, &count)?,
        };
        n.set(place, y);
    }
    Ok(())
}
