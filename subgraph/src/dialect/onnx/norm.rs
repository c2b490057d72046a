//! Normalizations and softmax.

use engraft_network::{BinaryOp, DType, Dim, Scalar, UnaryOp, ValueId, ops};

use super::super::Row;
use super::{FIRST, row};
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("BatchNormalization", FIRST, batch_norm),
    row("InstanceNormalization", 6, instance_norm),
    row("GroupNormalization", 18, |n| group_norm(n, true)),
    row("GroupNormalization", 21, |n| group_norm(n, false)),
    row("LayerNormalization", 17, |n| layer_norm(n, false)),
    row("RMSNormalization", 23, |n| layer_norm(n, true)),
    row("LpNormalization", 1, lp_norm),
    row("MeanVarianceNormalization", 9, mean_variance_norm),
    row("LRN", 1, lrn),
    row("Softmax", 1, |n| softmax_flattened(n, false)),
    row("Softmax", 13, |n| softmax(n, false)),
    row("LogSoftmax", 1, |n| softmax_flattened(n, true)),
    row("LogSoftmax", 13, |n| softmax(n, true)),
];

pub(super) fn reduce(
    n: &mut NodeLowering,
    op: ops::ReduceOp,
    x: ValueId,
    axes: Vec<usize>,
) -> Result<ValueId> {
    n.emit(ops::Reduce { op, axes, keep_dims: true }, &[x])
}

/// A vector of channels as a tensor that broadcasts along axis 1 of a tensor of `rank`.
fn per_channel(n: &mut NodeLowering, vector: ValueId, rank: usize) -> Result<ValueId> {
    let channels = n.ty(vector).count();
    let mut shape = vec![Dim::Fixed(1); rank.saturating_sub(1)];
    if let Some(first) = shape.first_mut() {
        *first = channels;
    }
    n.reshape(vector, shape)
}

/// As in inference: `x * a + b` with `a = scale / sqrt(variance + epsilon)`, `b = bias - mean * a`.
fn batch_norm(n: &mut NodeLowering) -> Result<()> {
    if n.flag("training_mode")? || (1..n.output_count()).any(|index| n.wants(index)) {
        return Err(
            Reject::new("batch normalization in training mode is not supported").wants("training_mode", "0")
        );
    }
    if n.int_or("spatial", 1)? == 0 {
        return Err(Reject::new("batch normalization per activation is not supported").wants("spatial", "1"));
    }
    let epsilon = n.float_or("epsilon", 1e-5)?;
    let x = n.input(0)?;
    let (scale, bias, mean, variance) = (n.input(1)?, n.input(2)?, n.input(3)?, n.input(4)?);
    let deviation = n.with_scalar(BinaryOp::Add, variance, f64::from(epsilon))?;
    let deviation = n.unary(UnaryOp::Sqrt, deviation)?;
    let a = n.cast(scale, n.dtype(deviation))?;
    let a = n.binary(BinaryOp::Div, a, deviation)?;
    let shift = n.binary(BinaryOp::Mul, mean, a)?;
    let b = n.cast(bias, n.dtype(shift))?;
    let b = n.binary(BinaryOp::Sub, b, shift)?;
    let (rank, dtype) = (n.rank(x), n.dtype(x));
    let (a, b) = (n.cast(a, dtype)?, n.cast(b, dtype)?);
    let (a, b) = (per_channel(n, a, rank)?, per_channel(n, b, rank)?);
    let scaled = n.binary(BinaryOp::Mul, x, a)?;
    let y = n.binary(BinaryOp::Add, scaled, b)?;
    n.set(0, y);
    Ok(())
}

pub(super) fn epsilon(n: &NodeLowering, default: f32) -> Result<Scalar> {
    Ok(Scalar::f32(n.float_or("epsilon", default)?))
}

fn instance_norm(n: &mut NodeLowering) -> Result<()> {
    let op = ops::GroupNorm { groups: 0, epsilon: epsilon(n, 1e-5)? };
    let inputs = n.inputs()?;
    normalize_groups(n, op, &inputs)
}

fn normalize_groups(n: &mut NodeLowering, op: ops::GroupNorm, inputs: &[ValueId]) -> Result<()> {
    let &[x, scale, bias] = inputs else { return Err(Reject::invalid("wants x, scale and bias")) };
    if n.rank(x) < 2 {
        return Err(Reject::invalid("wants a batch and a channel axis"));
    }
    let x = n.channels_last(x)?;
    let y = n.emit(op, &[x, scale, bias])?;
    let y = n.channels_first(y)?;
    n.set(0, y);
    Ok(())
}

/// Before operator set 21 scale and bias are per group, from then on per channel.
fn group_norm(n: &mut NodeLowering, per_group: bool) -> Result<()> {
    let groups = usize::try_from(n.int_or("num_groups", 0)?)
        .ok()
        .filter(|&groups| groups > 0)
        .ok_or_else(|| Reject::invalid("num_groups must be positive"))?;
    let op = ops::GroupNorm { groups, epsilon: epsilon(n, 1e-5)? };
    let mut inputs = n.inputs()?;
    if per_group && inputs.len() == 3 {
        let channels =
            n.shape(inputs[0]).get(1).cloned().ok_or_else(|| Reject::invalid("no channel axis"))?;
        let count = Dim::Fixed(groups as i64);
        let each = channels.floor_div(&count);
        for vector in &mut inputs[1..] {
            let column = n.reshape(*vector, vec![count.clone(), Dim::Fixed(1)])?;
            let spread = n.emit(ops::Expand { shape: vec![count.clone(), each.clone()] }, &[column])?;
            *vector = n.reshape(spread, vec![channels.clone()])?;
        }
    }
    normalize_groups(n, op, &inputs)
}

fn layer_norm(n: &mut NodeLowering, rms: bool) -> Result<()> {
    let x = n.input(0)?;
    let axis = n.axis("axis", -1, n.rank(x))?;
    let (scale, bias) = (n.optional(1)?, n.optional(2)?);
    if n.wants(1) || n.wants(2) {
        return layer_norm_with_statistics(n, x, axis, scale, bias);
    }
    let op = ops::LayerNorm {
        axis,
        epsilon: epsilon(n, 1e-5)?,
        rms,
        scale: scale.is_some(),
        bias: bias.is_some(),
    };
    let inputs: Vec<ValueId> = [x].into_iter().chain(scale).chain(bias).collect();
    let y = n.emit(op, &inputs)?;
    n.set(0, y);
    Ok(())
}

/// Layer normalization whose mean and inverse deviation somebody reads.
fn layer_norm_with_statistics(
    n: &mut NodeLowering,
    x: ValueId,
    axis: usize,
    scale: Option<ValueId>,
    bias: Option<ValueId>,
) -> Result<()> {
    let dtype = n.dtype(x);
    let wide = n.cast(x, DType::F32)?;
    let axes: Vec<usize> = (axis..n.rank(x)).collect();
    let mean = reduce(n, ops::ReduceOp::Mean, wide, axes.clone())?;
    let centred = n.binary(BinaryOp::Sub, wide, mean)?;
    let square = n.binary(BinaryOp::Mul, centred, centred)?;
    let variance = reduce(n, ops::ReduceOp::Mean, square, axes)?;
    let shifted = n.with_scalar(BinaryOp::Add, variance, f64::from(n.float_or("epsilon", 1e-5)?))?;
    let inverse = n.unary(UnaryOp::Rsqrt, shifted)?;
    let y = n.binary(BinaryOp::Mul, centred, inverse)?;
    let mut y = n.cast(y, dtype)?;
    if let Some(scale) = scale {
        y = n.binary(BinaryOp::Mul, y, scale)?;
    }
    if let Some(bias) = bias {
        y = n.binary(BinaryOp::Add, y, bias)?;
    }
    n.set(0, y);
    n.set(1, mean);
    n.set(2, inverse);
    Ok(())
}

fn lp_norm(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let axis = n.axis("axis", -1, n.rank(x))?;
    let op = match n.int_or("p", 2)? {
        1 => ops::ReduceOp::L1,
        2 => ops::ReduceOp::L2,
        p => return Err(Reject::new(format!("p = {p} is not supported"))),
    };
    let norm = reduce(n, op, x, vec![axis])?;
    // Where the norm is 0 so is the result.
    let y = n.pointwise(&[x, norm], |e| {
        let (x, norm, zero) = (e.input(0), e.input(1), e.number(0.0));
        let empty = e.binary(BinaryOp::Eq, norm, zero);
        let quotient = e.binary(BinaryOp::Div, x, norm);
        e.select(empty, zero, quotient)
    })?;
    n.set(0, y);
    Ok(())
}

/// `(x - mean) / (sqrt(variance) + 1e-9)`.
fn mean_variance_norm(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let axes = n.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let axes = crate::lower::axes(&axes, n.rank(x))?;
    let mean = reduce(n, ops::ReduceOp::Mean, x, axes.clone())?;
    let centred = n.binary(BinaryOp::Sub, x, mean)?;
    let square = n.binary(BinaryOp::Mul, centred, centred)?;
    let variance = reduce(n, ops::ReduceOp::Mean, square, axes)?;
    let deviation = n.unary(UnaryOp::Sqrt, variance)?;
    let deviation = n.with_scalar(BinaryOp::Add, deviation, 1e-9)?;
    let y = n.binary(BinaryOp::Div, centred, deviation)?;
    n.set(0, y);
    Ok(())
}

/// Local response normalization across channels: `x / (bias + alpha * mean of the window's squares)^beta`, the mean
/// counting channels beyond the border as zero. The window is a pool over the channel axis.
fn lrn(n: &mut NodeLowering) -> Result<()> {
    let size = usize::try_from(n.int_or("size", 0)?)
        .ok()
        .filter(|&size| size > 0)
        .ok_or_else(|| Reject::invalid("size must be positive"))?;
    let (alpha, beta, bias) =
        (n.float_or("alpha", 1e-4)?, n.float_or("beta", 0.75)?, n.float_or("bias", 1.0)?);
    let x = n.input(0)?;
    let shape = n.shape(x);
    if shape.len() < 3 {
        return Err(Reject::invalid("wants spatial axes"));
    }
    let square = n.binary(BinaryOp::Mul, x, x)?;
    let rows = vec![shape[0].clone(), shape[1].clone(), Dim::product(&shape[2..])];
    let rows = n.reshape(square, rows)?;
    let window = ops::Pool {
        kind: ops::PoolKind::Average { count_include_pad: true },
        kernel: vec![size],
        strides: vec![1],
        dilations: vec![1],
        padding: ops::Padding::Explicit { begin: vec![(size - 1) / 2], end: vec![size / 2] },
        ceil_mode: false,
        indices: false,
        column_major: false,
    };
    let mean = n.emit(window, &[rows])?;
    let mean = n.reshape(mean, shape)?;
    let scaled = n.with_scalar(BinaryOp::Mul, mean, f64::from(alpha))?;
    let shifted = n.with_scalar(BinaryOp::Add, scaled, f64::from(bias))?;
    let divisor = n.with_scalar(BinaryOp::Pow, shifted, f64::from(beta))?;
    let y = n.binary(BinaryOp::Div, x, divisor)?;
    n.set(0, y);
    Ok(())
}

fn softmax(n: &mut NodeLowering, log: bool) -> Result<()> {
    let x = n.input(0)?;
    let axis = n.axis("axis", -1, n.rank(x))?;
    let y = n.emit(ops::Softmax { axis, log }, &[x])?;
    n.set(0, y);
    Ok(())
}

/// Before operator set 13 the axes from `axis` on count as one.
fn softmax_flattened(n: &mut NodeLowering, log: bool) -> Result<()> {
    let x = n.input(0)?;
    let shape = n.shape(x);
    let axis = n.axis("axis", 1, shape.len())?;
    let rest_is_one = shape.iter().skip(axis + 1).all(|dim| dim.fixed() == Some(1));
    let y = if rest_is_one {
        n.emit(ops::Softmax { axis, log }, &[x])?
    } else {
        let rows = vec![Dim::product(&shape[..axis]), Dim::product(&shape[axis..])];
        let rows = n.reshape(x, rows)?;
        let y = n.emit(ops::Softmax { axis: 1, log }, &[rows])?;
        n.reshape(y, shape)?
    };
    n.set(0, y);
    Ok(())
}
