//! Blocks of space as channels or batches, and back.

use engraft_network::{Dim, ops};

use super::super::Row;
use super::super::onnx::shape::zero;
use super::{DataFormat, Result, row};
use crate::lower::{NodeLowering, Reject, Remedy};

pub(super) const ROWS: &[Row] = &[
    row("DepthToSpace", depth_to_space),
    row("SpaceToDepth", space_to_depth),
    row("SpaceToBatchND", space_to_batch),
    row("BatchToSpaceND", batch_to_space),
];

fn block(n: &NodeLowering) -> Result<Dim> {
    match n.int_or("block_size", 0)? {
        size if size > 0 && size < 1 << 16 => Ok(Dim::Fixed(size)),
        size => Err(Reject::new(format!("block_size {size} is not supported"))),
    }
}

fn depth_to_space(n: &mut NodeLowering) -> Result<()> {
    let (format, b) = (DataFormat::of(n)?, block(n)?);
    let x = n.input(0)?;
    let x = format.open(n, x)?;
    let shape = n.shape(x);
    let [batch, height, width, channels] = shape.as_slice() else {
        return Err(Reject::new("wants two spatial axes"));
    };
    let depth = channels.floor_div(&b.mul(&b));
    let split = vec![batch.clone(), height.clone(), width.clone(), b.clone(), b.clone(), depth.clone()];
    let y = n.reshape(x, split)?;
    let y = n.transpose(y, &[0, 1, 3, 2, 4, 5])?;
    let y = n.reshape(y, vec![batch.clone(), height.mul(&b), width.mul(&b), depth])?;
    let y = format.close(n, y)?;
    n.set(0, y);
    Ok(())
}

fn space_to_depth(n: &mut NodeLowering) -> Result<()> {
    let (format, b) = (DataFormat::of(n)?, block(n)?);
    let x = n.input(0)?;
    let x = format.open(n, x)?;
    let shape = n.shape(x);
    let [batch, height, width, channels] = shape.as_slice() else {
        return Err(Reject::new("wants two spatial axes"));
    };
    let (h, w) = (height.floor_div(&b), width.floor_div(&b));
    let split = vec![batch.clone(), h.clone(), b.clone(), w.clone(), b.clone(), channels.clone()];
    let y = n.reshape(x, split)?;
    let y = n.transpose(y, &[0, 1, 3, 2, 4, 5])?;
    let y = n.reshape(y, vec![batch.clone(), h, w, channels.mul(&b).mul(&b)])?;
    let y = format.close(n, y)?;
    n.set(0, y);
    Ok(())
}

/// Sizes of blocks along the axes behind the batch, and amounts before and after these axes.
fn blocks(n: &mut NodeLowering, rank: usize) -> Result<(Vec<Dim>, Vec<(Dim, Dim)>)> {
    let sizes = n.integers(1, "the shape of the block")?;
    let pairs = n.dims(2, "the amount of padding")?;
    if sizes.len() + 1 > rank || pairs.len() != 2 * sizes.len() || sizes.iter().any(|&size| size < 1) {
        return Err(Reject::new("the block does not fit the rank").remedy(Remedy::Correct));
    }
    if pairs.iter().any(|amount| !n.facts().non_negative(amount)) {
        return Err(n.wants_constant(2, "an amount that may be negative"));
    }
    let pairs = pairs.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    Ok((sizes.into_iter().map(Dim::Fixed).collect(), pairs))
}

fn space_to_batch(n: &mut NodeLowering) -> Result<()> {
    let mut x = n.input(0)?;
    let rank = n.rank(x);
    let (block, pads) = blocks(n, rank)?;
    let count = block.len();
    if pads.iter().any(|(before, after)| before.fixed() != Some(0) || after.fixed() != Some(0)) {
        let none = Dim::Fixed(0);
        let side = |pick: fn(&(Dim, Dim)) -> &Dim| -> Vec<Dim> {
            let rest = vec![none.clone(); rank - count - 1];
            [none.clone()].into_iter().chain(pads.iter().map(|pair| pick(pair).clone())).chain(rest).collect()
        };
        let (before, after) = (side(|pair| &pair.0), side(|pair| &pair.1));
        let value = zero(n, n.dtype(x))?;
        x = n.emit(ops::Pad { mode: ops::PadMode::Constant, before, after }, &[x, value])?;
    }
    let shape = n.shape(x);
    let (spatial, rest) = shape[1..].split_at(count);
    let outer: Vec<Dim> = spatial.iter().zip(&block).map(|(size, block)| size.floor_div(block)).collect();
    let pairs = outer.iter().zip(&block).flat_map(|(size, block)| [size.clone(), block.clone()]);
    let split = [shape[0].clone()].into_iter().chain(pairs).chain(rest.iter().cloned()).collect();
    let y = n.reshape(x, split)?;
    let inner = (0..count).map(|axis| 2 + 2 * axis);
    let kept = (0..count).map(|axis| 1 + 2 * axis).chain(1 + 2 * count..rank + count);
    let perm: Vec<usize> = inner.chain([0]).chain(kept).collect();
    let y = n.transpose(y, &perm)?;
    let batch = block.iter().fold(shape[0].clone(), |batch, block| batch.mul(block));
    let y = n.reshape(y, [vec![batch], outer, rest.to_vec()].concat())?;
    n.set(0, y);
    Ok(())
}

fn batch_to_space(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let shape = n.shape(x);
    let (block, crops) = blocks(n, shape.len())?;
    let count = block.len();
    let (spatial, rest) = shape[1..].split_at(count);
    let all = Dim::product(&block);
    let batch = shape[0].floor_div(&all);
    let split = [block.clone(), vec![batch.clone()], shape[1..].to_vec()].concat();
    let y = n.reshape(x, split)?;
    let pairs = (0..count).flat_map(|axis| [count + 1 + axis, axis]);
    let perm: Vec<usize> =
        [count].into_iter().chain(pairs).chain(2 * count + 1..shape.len() + count).collect();
    let y = n.transpose(y, &perm)?;
    let whole: Vec<Dim> = spatial.iter().zip(&block).map(|(size, block)| size.mul(block)).collect();
    let mut y = n.reshape(y, [vec![batch], whole.clone(), rest.to_vec()].concat())?;
    let mut ranges = Vec::new();
    for (axis, (before, after)) in crops.iter().enumerate() {
        let len = whole[axis].sub(before).sub(after);
        if len != whole[axis] {
            ranges.push(ops::SliceRange { axis: axis + 1, start: before.clone(), len, step: 1 });
        }
    }
    if !ranges.is_empty() {
        y = n.emit(ops::Slice { ranges }, &[y])?;
    }
    n.set(0, y);
    Ok(())
}
