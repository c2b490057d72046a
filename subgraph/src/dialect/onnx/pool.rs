//! Pooling: channels-last inside, transposed at the borders; global pools are reductions.

use engraft_network::{BinaryOp, Dim, UnaryOp, ValueId, ops};

use super::super::Row;
use super::conv::{padding, size_of, sizes, spatial_axes};
use super::shape::zero;
use super::{FIRST, row};
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("MaxPool", 1, |n| pool(n, ops::PoolKind::Max)),
    row("AveragePool", FIRST, |n| {
        let count_include_pad = n.flag("count_include_pad")?;
        pool(n, ops::PoolKind::Average { count_include_pad })
    }),
    row("LpPool", 2, |n| {
        let p = u32::try_from(n.int_or("p", 2)?).map_err(|_| Reject::invalid("p must be positive"))?;
        pool(n, ops::PoolKind::Lp { p })
    }),
    row("GlobalMaxPool", 1, |n| global(n, ops::ReduceOp::Max)),
    row("GlobalAveragePool", 1, |n| global(n, ops::ReduceOp::Mean)),
    row("GlobalLpPool", 2, |n| match n.int_or("p", 2)? {
        1 => global(n, ops::ReduceOp::L1),
        2 => global(n, ops::ReduceOp::L2),
        p if p > 0 => global_power(n, p as f64),
        p => Err(Reject::new(format!("p = {p} is not supported"))),
    }),
    row("MaxUnpool", 9, max_unpool),
    row("Col2Im", 18, col2im),
];

fn pool(n: &mut NodeLowering, kind: ops::PoolKind) -> Result<()> {
    let x = n.input(0)?;
    let op = windows(n, x, kind)?;
    let x = n.channels_last(x)?;
    let outputs = n.emit_many(op, &[x])?;
    for (index, &output) in outputs.iter().enumerate() {
        let y = n.channels_first(output)?;
        n.set(index, y);
    }
    Ok(())
}

/// The maximum pool of an image whose channels stand last, as those of the result do.
pub(super) fn max_pool_channels_last(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let op = windows(n, x, ops::PoolKind::Max)?;
    let y = n.emit(op, &[x])?;
    n.set(0, y);
    Ok(())
}

/// The pool that the attributes of a node tell, over an image.
fn windows(n: &NodeLowering, x: ValueId, kind: ops::PoolKind) -> Result<ops::Pool> {
    let spatial = spatial_axes(n, x)?;
    if n.ints("kernel_shape")?.is_none() {
        return Err(Reject::invalid("attribute kernel_shape is missing"));
    }
    Ok(ops::Pool {
        kind,
        kernel: sizes(n, "kernel_shape", spatial, 1)?,
        strides: sizes(n, "strides", spatial, 1)?,
        dilations: sizes(n, "dilations", spatial, 1)?,
        padding: padding(n, spatial)?,
        ceil_mode: n.flag("ceil_mode")?,
        indices: n.wants(1),
        column_major: n.wants(1) && n.flag("storage_order")?,
    })
}

fn global(n: &mut NodeLowering, op: ops::ReduceOp) -> Result<()> {
    let x = n.input(0)?;
    let axes = (2..n.rank(x)).collect();
    let y = n.emit(ops::Reduce { op, axes, keep_dims: true }, &[x])?;
    n.set(0, y);
    Ok(())
}

/// `(sum |x|^p)^(1/p)` over all spatial axes.
fn global_power(n: &mut NodeLowering, p: f64) -> Result<()> {
    let x = n.input(0)?;
    let magnitude = n.unary(UnaryOp::Abs, x)?;
    let power = n.with_scalar(BinaryOp::Pow, magnitude, p)?;
    let axes = (2..n.rank(x)).collect();
    let sum = n.emit(ops::Reduce { op: ops::ReduceOp::Sum, axes, keep_dims: true }, &[power])?;
    let y = n.with_scalar(BinaryOp::Pow, sum, 1.0 / p)?;
    n.set(0, y);
    Ok(())
}

/// Every value at its index into the tensor that was pooled, zeros elsewhere, and beyond it where the output shape says
/// more.
fn max_unpool(n: &mut NodeLowering) -> Result<()> {
    let (x, indices) = (n.input(0)?, n.input(1)?);
    let spatial = spatial_axes(n, x)?;
    if n.ints("kernel_shape")?.is_none() {
        return Err(Reject::invalid("attribute kernel_shape is missing"));
    }
    let kernel = sizes(n, "kernel_shape", spatial, 1)?;
    let strides = sizes(n, "strides", spatial, 1)?;
    let pads = sizes(n, "pads", 2 * spatial, 0)?;
    let mut shape = n.shape(x);
    for (axis, size) in shape[2..].iter_mut().enumerate() {
        let spread = size.sub(&Dim::Fixed(1)).mul(&Dim::from(strides[axis])).add(&Dim::from(kernel[axis]));
        *size = spread.sub(&Dim::from(pads[axis] + pads[spatial + axis]));
    }
    let dtype = n.dtype(x);
    let (count, total) = (n.ty(x).count(), Dim::product(&shape));
    let empty = zero(n, dtype)?;
    let base = n.emit(ops::Expand { shape: vec![total] }, &[empty])?;
    let indices = n.reshape(indices, vec![count.clone(), Dim::Fixed(1)])?;
    let values = n.reshape(x, vec![count])?;
    let scatter = ops::ScatterNd { reduction: ops::ScatterReduction::None };
    let flat = n.emit(scatter, &[base, indices, values])?;
    let mut y = n.reshape(flat, shape.clone())?;
    if n.has(2) {
        let wanted = n.dims(2, "the output shape")?;
        if wanted.len() != shape.len() {
            return Err(Reject::invalid("the output shape has another rank"));
        }
        let after: Vec<Dim> = wanted.iter().zip(&shape).map(|(want, size)| want.sub(size)).collect();
        if after.iter().any(|more| !n.facts().non_negative(more)) {
            return Err(Reject::new("an output shape that may be smaller than what was pooled"));
        }
        if after.iter().any(|more| more.fixed() != Some(0)) {
            let before = vec![Dim::Fixed(0); shape.len()];
            y = n.emit(ops::Pad { mode: ops::PadMode::Constant, before, after }, &[y, empty])?;
        }
    }
    n.set(0, y);
    Ok(())
}

fn col2im(n: &mut NodeLowering) -> Result<()> {
    let image = n.dims(1, "the shape of the image")?;
    let block = n.integers(2, "the shape of the block")?;
    let block = block.iter().map(|&size| size_of("block_shape", size)).collect::<Result<Vec<_>>>()?;
    let spatial = image.len();
    let op = ops::Fold {
        image,
        block,
        strides: sizes(n, "strides", spatial, 1)?,
        dilations: sizes(n, "dilations", spatial, 1)?,
        padding: padding(n, spatial)?,
    };
    let x = n.input(0)?;
    let y = n.emit(op, &[x])?;
    n.set(0, y);
    Ok(())
}
