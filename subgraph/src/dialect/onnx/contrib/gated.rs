//! What models with gates and linear attention are exported with: normalizations and sums under a gate, and causal
//! convolutions that carry their last inputs from run to run.

use engraft_network::{BinaryOp, DType, Dim, UnaryOp, ValueId, ops};

use super::super::attend::part;
use super::super::conv::size_of;
use super::super::norm::epsilon;
use super::{refuse, row};
use crate::dialect::Row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(in super::super) const ROWS: &[Row] = &[
    row("ScaledSiLU", scaled_silu),
    row("GatedAdd", gated_add),
    row("GatedRMSNorm", gated_rms_norm),
    row("BranchwiseRMSNorm", branchwise_rms_norm),
    row("LinearAttentionGate", linear_attention_gate),
    row("CausalConvWithState", causal_conv),
];

/// `silu(scale * x)`; the scale is an operand, or else attribute `alpha`.
fn scaled_silu(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let scaled = match n.optional(1)? {
        Some(scale) => {
            let scale = n.reshape(scale, Vec::new())?;
            let scale = n.cast(scale, n.dtype(x))?;
            n.binary(BinaryOp::Mul, x, scale)?
        }
        None => {
            let alpha = n.float_or("alpha", 1.0)?;
            n.with_scalar(BinaryOp::Mul, x, f64::from(alpha))?
        }
    };
    let y = n.unary(UnaryOp::Silu, scaled)?;
    n.set(0, y);
    Ok(())
}

/// `x + y * gate`, the gate one number for each row.
fn gated_add(n: &mut NodeLowering) -> Result<()> {
    refuse(n, &[], &[(3, "gate_weight")])?;
    let (x, y, gate) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let gated = n.binary(BinaryOp::Mul, y, gate)?;
    let sum = n.binary(BinaryOp::Add, x, gated)?;
    n.set(0, sum);
    Ok(())
}

/// `x` with its last axis as parts of `size`, one after the other on a new axis.
fn parted(n: &mut NodeLowering, x: ValueId, size: &Dim) -> Result<ValueId> {
    let mut shape = n.shape(x);
    let last = shape.pop().ok_or_else(|| Reject::invalid("a scalar has no last axis"))?;
    shape.extend([last.floor_div(size), size.clone()]);
    n.reshape(x, shape)
}

/// Each part of the last axis, as long as the scale, through RMS normalization, times the activation of the gate.
fn gated_rms_norm(n: &mut NodeLowering) -> Result<()> {
    let (x, scale, gate) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let activation = match n.string_or("activation", "silu")? {
        "silu" | "swish" => UnaryOp::Silu,
        "sigmoid" => UnaryOp::Sigmoid,
        other => return Err(Reject::invalid(format!("activation {other:?} is not defined"))),
    };
    let (shape, size) = (n.shape(x), n.ty(scale).count());
    let parts = parted(n, x, &size)?;
    let op = ops::LayerNorm {
        axis: n.rank(parts) - 1,
        epsilon: epsilon(n, 1e-5)?,
        rms: true,
        scale: true,
        bias: false,
    };
    let y = n.emit(op, &[parts, scale])?;
    let y = n.reshape(y, shape)?;
    let gate = n.unary(activation, gate)?;
    let y = n.binary(BinaryOp::Mul, y, gate)?;
    n.set(0, y);
    Ok(())
}

/// RMS normalization of each branch, in f32. Branches stand on the axis before the last, or `num_branches` of them on the last;
/// the scale, if any, is for one branch or for all.
fn branchwise_rms_norm(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let (shape, dtype) = (n.shape(x), n.dtype(x));
    let branches = size_of("num_branches", n.int_or("num_branches", 0)?)?;
    let last = shape.last().cloned().ok_or_else(|| Reject::invalid("a scalar has no last axis"))?;
    let grouped = match branches {
        0 if shape.len() < 2 => return Err(Reject::invalid("wants branches")),
        0 => x,
        _ => parted(n, x, &last.floor_div(&Dim::from(branches)))?,
    };
    let wide = n.cast(grouped, DType::F32)?;
    let (axis, inner) = (n.rank(wide) - 1, n.shape(wide));
    let op = ops::LayerNorm { axis, epsilon: epsilon(n, 1e-5)?, rms: true, scale: false, bias: false };
    let mut y = n.emit(op, &[wide])?;
    if let Some(scale) = n.optional(1)? {
        let mut scale = n.cast(scale, DType::F32)?;
        if n.rank(scale) == 1 && n.shape(scale)[0] != inner[axis] {
            scale = n.reshape(scale, inner[axis - 1..].to_vec())?;
        }
        y = n.binary(BinaryOp::Mul, y, scale)?;
    }
    let y = n.cast(y, dtype)?;
    let y = n.reshape(y, shape)?;
    n.set(0, y);
    Ok(())
}

/// `decay_scale * softplus(a + dt_bias)` in f32, and `sigmoid(b)`.
fn linear_attention_gate(n: &mut NodeLowering) -> Result<()> {
    let (a, bias, scale, b) = (n.input(0)?, n.input(1)?, n.input(2)?, n.optional(3)?);
    let dtype = n.dtype(a);
    let wide = n.cast(a, n.dtype(bias))?;
    let sum = n.binary(BinaryOp::Add, wide, bias)?;
    let rate = n.unary(UnaryOp::Softplus, sum)?;
    let decay = n.binary(BinaryOp::Mul, rate, scale)?;
    let decay = n.cast(decay, dtype)?;
    n.set(0, decay);
    if n.wants(1) {
        let b = b.ok_or_else(|| Reject::invalid("output beta wants input b"))?;
        let beta = n.unary(UnaryOp::Sigmoid, b)?;
        n.set(1, beta);
    }
    Ok(())
}

/// A depthwise convolution along one axis over the inputs of earlier runs and this one's; output 1 is what the next run wants
/// before its own. x is `[B, C, L]`, the kernel `[C, 1, K]`, states are `[B, C, (K - 1) * dilation]`.
fn causal_conv(n: &mut NodeLowering) -> Result<()> {
    refuse(n, &[(2, "state_update")], &[])?;
    for (name, default) in [("ndim", 1), ("state_window", 0), ("channels_last", 0)] {
        let given = n.int_or(name, default)?;
        if given != default {
            return Err(Reject::new(format!("attribute {name} = {given} is not supported"))
                .wants(name, default.to_string()));
        }
    }
    let (x, weights, bias, past) = (n.input(0)?, n.input(1)?, n.optional(2)?, n.optional(3)?);
    let ([batch, channels, length], Some(kernel)) = (
        <[Dim; 3]>::try_from(n.shape(x)).map_err(|_| Reject::invalid("input wants rank 3"))?,
        n.shape(weights).get(2).and_then(Dim::fixed),
    ) else {
        return Err(n.wants_fixed_dims(1, "the size of the kernel is not constant"));
    };
    let dilation = size_of("dilation", n.int_or("dilation", 1)?)?;
    let groups = channels.fixed().and_then(|count| usize::try_from(count).ok());
    let groups = groups.ok_or_else(|| n.wants_fixed_dims(0, "the number of channels is not constant"))?;
    let before = Dim::from(size_of("kernel", kernel - 1)?.saturating_mul(dilation));
    let past = match past {
        Some(past) => past,
        None => {
            let zero = n.scalar(n.dtype(x), 0.0)?;
            n.emit(ops::Expand { shape: vec![batch, channels, before.clone()] }, &[zero])?
        }
    };
    let line = n.emit(ops::Concat { axis: 2 }, &[past, x])?;
    let present = part(n, line, 2, (length, before, 1))?;
    let op = ops::Conv {
        strides: vec![1],
        dilations: vec![dilation],
        padding: ops::Padding::none(1),
        groups,
        epilogue: ops::Epilogue { bias: bias.is_some(), post: None },
    };
    // [C, 1, K] to [K, 1, C].
    let weights = n.transpose(weights, &[2, 1, 0])?;
    let line = n.channels_last(line)?;
    let inputs: Vec<ValueId> = [line, weights].into_iter().chain(bias).collect();
    let y = n.emit(op, &inputs)?;
    let mut y = n.channels_first(y)?;
    match n.string_or("activation", "none")? {
        "none" => {}
        "silu" | "swish" => y = n.unary(UnaryOp::Silu, y)?,
        other => return Err(Reject::invalid(format!("activation {other:?} is not defined"))),
    }
    n.set(0, y);
    n.set(1, present);
    Ok(())
}
