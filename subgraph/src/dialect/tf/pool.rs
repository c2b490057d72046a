//! Pooling.

use engraft_network::{ValueId, ops};

use super::super::Row;
use super::super::onnx::conv::size_of;
use super::nn::{padding, spatial_sizes};
use super::{DataFormat, Result, row};
use crate::lower::{NodeLowering, Reject};

pub(super) const ROWS: &[Row] = &[
    row("MaxPool", |n| pool(n, ops::PoolKind::Max)),
    row("MaxPool3D", |n| pool(n, ops::PoolKind::Max)),
    row("MaxPoolV2", max_pool_v2),
    // Elements of the padding do not count.
    row("AvgPool", |n| pool(n, ops::PoolKind::Average { count_include_pad: false })),
    row("AvgPool3D", |n| pool(n, ops::PoolKind::Average { count_include_pad: false })),
];

fn pool(n: &mut NodeLowering, kind: ops::PoolKind) -> Result<()> {
    let format = DataFormat::of(n)?;
    let x = n.input(0)?;
    let rank = n.rank(x);
    let kernel = spatial_sizes(n, "ksize", format, rank.max(3))?;
    let strides = spatial_sizes(n, "strides", format, rank.max(3))?;
    pooled(n, x, format, kind, kernel, strides)
}

fn pooled(
    n: &mut NodeLowering,
    x: ValueId,
    format: DataFormat,
    kind: ops::PoolKind,
    kernel: Vec<usize>,
    strides: Vec<usize>,
) -> Result<()> {
    let rank = n.rank(x);
    if !(3..=5).contains(&rank) {
        return Err(Reject::new(format!("rank {rank} is not supported")));
    }
    let op = ops::Pool {
        kind,
        dilations: vec![1; kernel.len()],
        kernel,
        strides,
        padding: padding(n, format, rank)?,
        ceil_mode: false,
        indices: false,
        column_major: false,
    };
    let x = format.open(n, x)?;
    let y = n.emit(op, &[x])?;
    let y = format.close(n, y)?;
    n.set(0, y);
    Ok(())
}

/// Kernel and strides are operands.
fn max_pool_v2(n: &mut NodeLowering) -> Result<()> {
    let format = DataFormat::of(n)?;
    let x = n.input(0)?;
    let rank = n.rank(x);
    let mut sizes = Vec::new();
    for (index, what) in [(1, "the window"), (2, "the stride")] {
        let all = n.integers(index, what)?;
        if all.len() != rank || rank < 3 {
            return Err(Reject::new(format!("{what} {all:?} does not fit rank {rank}")));
        }
        let spatial = format.spatial(&all);
        if all.iter().product::<i64>() != spatial.iter().product::<i64>() {
            return Err(Reject::new(format!("{what} {all:?} over batch or channels is not supported")));
        }
        sizes.push(spatial.iter().map(|&size| size_of(what, size)).collect::<Result<Vec<_>>>()?);
    }
    let strides = sizes.pop().unwrap_or_default();
    let kernel = sizes.pop().unwrap_or_default();
    pooled(n, x, format, ops::PoolKind::Max, kernel, strides)
}
