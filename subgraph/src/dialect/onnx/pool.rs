//! Pooling: channels-last inside, transposed at the borders; global pools are reductions.

use engraft_network::ops;

use super::super::Row;
use super::conv::{padding, sizes, spatial_axes};
use super::{FIRST, row};
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("MaxPool", 1, |n| {
        if n.flag("storage_order")? {
            return Err(Reject::new("column-major indices are not supported"));
        }
        pool(n, ops::PoolKind::Max)
    }),
    row("AveragePool", FIRST, |n| {
        let count_include_pad = n.flag("count_include_pad")?;
        pool(n, ops::PoolKind::Average { count_include_pad })
    }),
    row("LpPool", 2, |n| {
        let p = u32::try_from(n.int_or("p", 2)?).map_err(|_| Reject::new("p must be positive"))?;
        pool(n, ops::PoolKind::Lp { p })
    }),
    row("GlobalMaxPool", 1, |n| global(n, ops::ReduceOp::Max)),
    row("GlobalAveragePool", 1, |n| global(n, ops::ReduceOp::Mean)),
    row("GlobalLpPool", 2, |n| match n.int_or("p", 2)? {
        1 => global(n, ops::ReduceOp::L1),
        2 => global(n, ops::ReduceOp::L2),
        p => Err(Reject::new(format!("p = {p} is not supported"))),
    }),
];

fn pool(n: &mut NodeLowering, kind: ops::PoolKind) -> Result<()> {
    let x = n.input(0)?;
    let spatial = spatial_axes(n, x)?;
    if n.ints("kernel_shape")?.is_none() {
        return Err(Reject::new("attribute kernel_shape is missing"));
    }
    let op = ops::Pool {
        kind,
        kernel: sizes(n, "kernel_shape", spatial, 1)?,
        strides: sizes(n, "strides", spatial, 1)?,
        dilations: sizes(n, "dilations", spatial, 1)?,
        padding: padding(n, spatial)?,
        ceil_mode: n.flag("ceil_mode")?,
        indices: n.wants(1),
    };
    let x = n.channels_last(x)?;
    let outputs = n.emit_many(op, &[x])?;
    for (index, &output) in outputs.iter().enumerate() {
        let y = n.channels_first(output)?;
        n.set(index, y);
    }
    Ok(())
}

fn global(n: &mut NodeLowering, op: ops::ReduceOp) -> Result<()> {
    let x = n.input(0)?;
    let axes = (2..n.rank(x)).collect();
    let y = n.emit(ops::Reduce { op, axes, keep_dims: true }, &[x])?;
    n.set(0, y);
    Ok(())
}
