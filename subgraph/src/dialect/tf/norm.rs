//! Normalizations and softmax.

use engraft_network::{BinaryOp, Dim, UnaryOp, ValueId, ops};

use super::super::Row;
use super::{DataFormat, Result, row};
use crate::lower::{NodeLowering, Reject, Remedy};

pub(super) const ROWS: &[Row] = &[
    row("FusedBatchNorm", fused_batch_norm),
    row("FusedBatchNormV2", fused_batch_norm),
    row("FusedBatchNormV3", fused_batch_norm),
    row("_FusedBatchNormEx", fused_batch_norm_ex),
    row("BatchNormWithGlobalNormalization", batch_norm_global),
    row("Softmax", |n| softmax(n, false)),
    row("LogSoftmax", |n| softmax(n, true)),
    row("LRN", lrn),
];

fn softmax(n: &mut NodeLowering, log: bool) -> Result<()> {
    let x = n.input(0)?;
    let axis = n.rank(x).checked_sub(1).ok_or_else(|| Reject::new("wants an axis"))?;
    let y = n.emit(ops::Softmax { axis, log }, &[x])?;
    n.set(0, y);
    Ok(())
}

/// As in inference: `x * a + b` with `a = scale / sqrt(variance + epsilon)`, `b = offset - mean * a`, along the channels.
pub(super) fn normalized(
    n: &mut NodeLowering,
    x: ValueId,
    [scale, offset, mean, variance]: [ValueId; 4],
    epsilon: f32,
) -> Result<ValueId> {
    let format = DataFormat::of(n)?;
    let shifted = n.with_scalar(BinaryOp::Add, variance, f64::from(epsilon))?;
    let deviation = n.unary(UnaryOp::Sqrt, shifted)?;
    let a = n.binary(BinaryOp::Div, scale, deviation)?;
    let shift = n.binary(BinaryOp::Mul, mean, a)?;
    let b = n.binary(BinaryOp::Sub, offset, shift)?;
    let (rank, dtype) = (n.rank(x), n.dtype(x));
    let mut spread = |vector: ValueId| -> Result<ValueId> {
        let vector = n.cast(vector, dtype)?;
        let mut shape = n.shape(vector);
        if shape.len() != 1 {
            return Err(Reject::new("scale, offset, mean and variance are vectors"));
        }
        if format == DataFormat::ChannelsFirst {
            shape.extend(vec![Dim::Fixed(1); rank.saturating_sub(2)]);
        }
        n.reshape(vector, shape)
    };
    let (a, b) = (spread(a)?, spread(b)?);
    let scaled = n.binary(BinaryOp::Mul, x, a)?;
    n.binary(BinaryOp::Add, scaled, b)
}

fn inference(n: &NodeLowering) -> Result<()> {
    if n.int_or("is_training", 1)? != 0 {
        return Err(Reject::new("batch normalization in training mode is not supported")
            .remedy(Remedy::Attribute { name: "is_training".to_owned(), wanted: "false".to_owned() }));
    }
    Ok(())
}

/// In inference the outputs beside the first are the statistics that were given.
fn set_statistics(n: &mut NodeLowering) -> Result<()> {
    for (output, input) in [(1, 3), (2, 4), (3, 3), (4, 4)] {
        if n.wants(output) {
            n.forward(output, input)?;
        }
    }
    Ok(())
}

fn fused_batch_norm(n: &mut NodeLowering) -> Result<()> {
    inference(n)?;
    let x = n.input(0)?;
    let operands = [n.input(1)?, n.input(2)?, n.input(3)?, n.input(4)?];
    let y = normalized(n, x, operands, n.float_or("epsilon", 1e-4)?)?;
    n.set(0, y);
    set_statistics(n)
}

/// A sum with a side input, and an activation.
fn fused_batch_norm_ex(n: &mut NodeLowering) -> Result<()> {
    inference(n)?;
    let x = n.input(0)?;
    let operands = [n.input(1)?, n.input(2)?, n.input(3)?, n.input(4)?];
    let mut y = normalized(n, x, operands, n.float_or("epsilon", 1e-4)?)?;
    if n.int_or("num_side_inputs", 0)? > 0 {
        let side = n.input(5)?;
        y = n.binary(BinaryOp::Add, y, side)?;
    }
    y = match n.string_or("activation_mode", "Identity")? {
        "Identity" => y,
        "Relu" => n.unary(UnaryOp::Relu, y)?,
        other => return Err(Reject::new(format!("the activation {other:?} is not supported"))),
    };
    n.set(0, y);
    set_statistics(n)
}

/// Operands x, mean, variance, offset, scale.
fn batch_norm_global(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let (mean, variance, offset, mut scale) = (n.input(1)?, n.input(2)?, n.input(3)?, n.input(4)?);
    if !n.flag("scale_after_normalization")? {
        let one = n.scalar(n.dtype(scale), 1.0)?;
        let shape = n.shape(scale);
        scale = n.emit(ops::Expand { shape }, &[one])?;
    }
    let y = normalized(n, x, [scale, offset, mean, variance], n.float_or("variance_epsilon", 1e-3)?)?;
    n.set(0, y);
    Ok(())
}

/// `x / (bias + alpha * sum of the window's squares)^beta` across the channels, the last axis.
fn lrn(n: &mut NodeLowering) -> Result<()> {
    let radius = usize::try_from(n.int_or("depth_radius", 5)?)
        .ok()
        .filter(|&radius| radius < 1 << 16)
        .ok_or_else(|| Reject::new("depth_radius is not supported"))?;
    let (alpha, beta, bias) = (n.float_or("alpha", 1.0)?, n.float_or("beta", 0.5)?, n.float_or("bias", 1.0)?);
    let x = n.input(0)?;
    let shape = n.shape(x);
    let Some((channels, outer)) = shape.split_last() else { return Err(Reject::new("wants channels")) };
    let square = n.binary(BinaryOp::Mul, x, x)?;
    let rows = n.reshape(square, vec![Dim::product(outer), channels.clone(), Dim::Fixed(1)])?;
    let size = 2 * radius + 1;
    let window = ops::Pool {
        kind: ops::PoolKind::Average { count_include_pad: true },
        kernel: vec![size],
        strides: vec![1],
        dilations: vec![1],
        padding: ops::Padding::Explicit { begin: vec![radius], end: vec![radius] },
        ceil_mode: false,
        indices: false,
        column_major: false,
    };
    let mean = n.emit(window, &[rows])?;
    let mean = n.reshape(mean, shape)?;
    let scaled = n.with_scalar(BinaryOp::Mul, mean, f64::from(alpha) * size as f64)?;
    let shifted = n.with_scalar(BinaryOp::Add, scaled, f64::from(bias))?;
    let divisor = n.with_scalar(BinaryOp::Pow, shifted, f64::from(beta))?;
    let y = n.binary(BinaryOp::Div, x, divisor)?;
    n.set(0, y);
    Ok(())
}
