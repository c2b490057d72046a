//! Losses and other operators that ONNX defines as functions of simpler ones.

use engraft_network::{BinaryOp, Dim, UnaryOp, ValueId, ops};

use super::super::Row;
use super::row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("NegativeLogLikelihoodLoss", 12, |n| {
        let x = n.input(0)?;
        let loss = likelihood_loss(n, x)?;
        n.set(0, loss);
        Ok(())
    }),
    row("SoftmaxCrossEntropyLoss", 12, |n| {
        let scores = n.input(0)?;
        let log = n.emit(ops::Softmax { axis: 1, log: true }, &[scores])?;
        let loss = likelihood_loss(n, log)?;
        n.set(0, loss);
        n.set(1, log);
        Ok(())
    }),
    row("SwiGLU", 28, |n| {
        let alpha = f64::from(n.float_or("alpha", 1.0)?);
        let (gate, value) = (n.input(0)?, n.input(1)?);
        let y = n.pointwise(&[gate, value], |e| {
            let (gate, value, alpha) = (e.input(0), e.input(1), e.number(alpha));
            let scaled = e.binary(BinaryOp::Mul, gate, alpha);
            let sigmoid = e.unary(UnaryOp::Sigmoid, scaled);
            let swish = e.binary(BinaryOp::Mul, gate, sigmoid);
            e.binary(BinaryOp::Mul, swish, value)
        })?;
        n.set(0, y);
        Ok(())
    }),
    row("CausalConvWithState", 27, causal_conv),
];

/// Of log-probabilities `x` `[N, C, d..]`, the negative of the one that the target `[N, d..]` (operand 1) names, weighted by
/// its class (operand 2), reduced as the attributes say.
fn likelihood_loss(n: &mut NodeLowering, x: ValueId) -> Result<ValueId> {
    let target = n.input(1)?;
    let weight = n.optional(2)?;
    let dtype = n.dtype(x);
    let shape = n.shape(target);
    if n.rank(x) != shape.len() + 1 || shape.is_empty() {
        return Err(Reject::invalid("the target must have the axes of the scores but for the classes"));
    }
    let ignored = match n.int("ignore_index")? {
        None => None,
        Some(index) => {
            let index = n.scalar(n.dtype(target), index as f64)?;
            Some(n.binary(BinaryOp::Eq, target, index)?)
        }
    };
    // Ignored targets may name no class: they read the first one and count nothing.
    let class = match ignored {
        None => target,
        Some(ignored) => {
            let first = n.scalar(n.dtype(target), 0.0)?;
            n.emit(ops::Select, &[ignored, first, target])?
        }
    };
    let column = [&shape[..1], &[Dim::Fixed(1)], &shape[1..]].concat();
    let column = n.reshape(class, column)?;
    let picked = n.emit(ops::GatherElements { axis: 1 }, &[x, column])?;
    let picked = n.reshape(picked, shape)?;
    let mut loss = n.unary(UnaryOp::Neg, picked)?;
    let mut share = match weight {
        None => None,
        Some(weight) => Some(n.emit(ops::Gather { axis: 0 }, &[weight, class])?),
    };
    if let Some(ignored) = ignored {
        let (zero, one) = (n.scalar(dtype, 0.0)?, n.scalar(dtype, 1.0)?);
        share = Some(n.emit(ops::Select, &[ignored, zero, share.unwrap_or(one)])?);
    }
    if let Some(share) = share {
        loss = n.binary(BinaryOp::Mul, loss, share)?;
    }
    let all: Vec<usize> = (0..n.rank(loss)).collect();
    let reduce =
        |n: &mut NodeLowering, op, x| n.emit(ops::Reduce { op, axes: all.clone(), keep_dims: false }, &[x]);
    match (n.string_or("reduction", "mean")?, share) {
        ("none", _) => Ok(loss),
        ("sum", _) => reduce(n, ops::ReduceOp::Sum, loss),
        ("mean", None) => reduce(n, ops::ReduceOp::Mean, loss),
        ("mean", Some(share)) => {
            let (loss, share) = (reduce(n, ops::ReduceOp::Sum, loss)?, reduce(n, ops::ReduceOp::Sum, share)?);
            n.binary(BinaryOp::Div, loss, share)
        }
        (other, _) => Err(Reject::invalid(format!("reduction {other:?} is not defined"))),
    }
}

/// A depthwise convolution of `[N, C, L]` that sees only what came before: the state `[N, C, k - 1]`, else zeros.
fn causal_conv(n: &mut NodeLowering) -> Result<()> {
    let (x, weight) = (n.input(0)?, n.input(1)?);
    let (bias, past) = (n.optional(2)?, n.optional(3)?);
    let (shape, kernel) = (n.shape(x), n.shape(weight));
    let ([_, channels, _], [_, _, taps]) = (shape.as_slice(), kernel.as_slice()) else {
        return Err(Reject::invalid("wants [N, C, L] and weights [C, 1, k]"));
    };
    let groups = channels
        .fixed()
        .and_then(|size| usize::try_from(size).ok())
        .ok_or_else(|| n.wants_fixed_dims(0, "the number of channels is not constant"))?;
    let kept = taps.sub(&Dim::Fixed(1));
    let padded = match past {
        Some(past) => n.emit(ops::Concat { axis: 2 }, &[past, x])?,
        None => {
            let zero = n.scalar(n.dtype(x), 0.0)?;
            let none = vec![Dim::Fixed(0); 3];
            let before = vec![Dim::Fixed(0), Dim::Fixed(0), kept.clone()];
            n.emit(ops::Pad { mode: ops::PadMode::Constant, before, after: none }, &[x, zero])?
        }
    };
    let (lines, weight) = (n.channels_last(padded)?, n.transpose(weight, &[2, 1, 0])?);
    let conv = ops::Conv {
        strides: vec![1],
        dilations: vec![1],
        padding: ops::Padding::none(1),
        groups,
        epilogue: ops::Epilogue { bias: bias.is_some(), post: None },
    };
    let operands: Vec<ValueId> = [lines, weight].into_iter().chain(bias).collect();
    let mut y = n.emit(conv, &operands)?;
    match n.string_or("activation", "none")? {
        "none" => {}
        "silu" | "swish" => y = n.unary(UnaryOp::Silu, y)?,
        other => return Err(Reject::invalid(format!("activation {other:?} is not defined"))),
    }
    let y = n.channels_first(y)?;
    n.set(0, y);
    if n.wants(1) {
        let start = n.shape(padded)[2].sub(&kept);
        let range = ops::SliceRange { axis: 2, start, len: kept, step: 1 };
        let state = n.emit(ops::Slice { ranges: vec![range] }, &[padded])?;
        n.set(1, state);
    }
    Ok(())
}
