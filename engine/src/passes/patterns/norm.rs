//! Layer and root-mean-square normalisation.

use super::super::sweep::{Sweep, all_ones, join, sweep};
use super::super::transpose::inverse;
use super::formula::Match;
use engraft_network::ops::{Binary, LayerNorm, Transpose};
use engraft_network::{BinaryOp, Network, NetworkError, NodeId, Op, Scalar, ValueId};

/// `x` normalised; where the formula has them, with scale `g` and offset `b`.
pub(super) const LAYER_NORM: &[&str] = &[
    // torch: mean, sub, pow or mul, mean, add, sqrt, div; or with the reciprocal root.
    "(div(d:sub(x, mean(x)), sqrt(add(mean(mul(d, d)), #eps))) | \
      mul(d:sub(x, mean(x)), rsqrt(add(mean(mul(d, d)), #eps))))",
    // Keras, through tf2onnx: x * (rsqrt(v) * g) + (b - mean * (rsqrt(v) * g)).
    "add(mul(x, r:mul(rsqrt(add(mean(mul(d:sub(x, m:mean(x)), d)), #eps)), g)), sub(b, mul(m, r)))",
    "add(mul(x, r:rsqrt(add(mean(mul(d:sub(x, m:mean(x)), d)), #eps))), neg(mul(m, r)))",
    // Keras, on TensorFlow: x * (rsqrt(v) * g) + (-mean * (rsqrt(v) * g) + b), each of g and b where there is one.
    "add(mul(x, r:mul(rsqrt(add(mean(mul(d:sub(x, m:mean(x)), d)), #eps)), g)), mul(neg(m), r), b)",
    "add(mul(x, r:mul(rsqrt(add(mean(mul(d:sub(x, m:mean(x)), d)), #eps)), g)), mul(neg(m), r))",
    "add(mul(x, r:rsqrt(add(mean(mul(d:sub(x, m:mean(x)), d)), #eps))), mul(neg(m), r), b)",
    "add(mul(x, r:rsqrt(add(mean(mul(d:sub(x, m:mean(x)), d)), #eps))), mul(neg(m), r))",
    // The variance as the mean of squares less the square of the mean, flax with a guard against rounding below zero.
    "(mul(sub(x, m:mean(x)), rsqrt(add(sub(mean(mul(x, x)), mul(m, m)), #eps))) | \
      div(sub(x, m:mean(x)), sqrt(add(sub(mean(mul(x, x)), mul(m, m)), #eps))))",
    "mul(sub(x, m:mean(x)), rsqrt(add(relu(sub(mean(mul(x, x)), mul(m, m))), #eps)))",
    "mul(sub(x, m:mean(x)), g, rsqrt(add(relu(sub(mean(mul(x, x)), mul(m, m))), #eps)))",
];

pub(super) const RMS_NORM: &[&str] =
    &["(mul(x, rsqrt(add(mean(mul(x, x)), #eps))) | div(x, sqrt(add(mean(mul(x, x)), #eps))))"];

pub(super) fn layer_norm(
    s: &mut Sweep<'_>,
    m: &Match<'_>,
    name: &str,
    out: ValueId,
) -> Result<Option<ValueId>, NetworkError> {
    normalise(s, m, name, out, false)
}

pub(super) fn rms_norm(
    s: &mut Sweep<'_>,
    m: &Match<'_>,
    name: &str,
    out: ValueId,
) -> Result<Option<ValueId>, NetworkError> {
    normalise(s, m, name, out, true)
}

fn normalise(
    s: &mut Sweep<'_>,
    m: &Match<'_>,
    name: &str,
    out: ValueId,
    rms: bool,
) -> Result<Option<ValueId>, NetworkError> {
    let (Some(x), Some(eps)) = (m.value("x"), m.scalar("eps")) else { return Ok(None) };
    let ty = s.ty(x).clone();
    if ty != *s.ty(out) || eps < 0.0 {
        return Ok(None);
    }
    let axes = match m.reduced(s) {
        Some(r) if r.keep_dims && !r.axes.is_empty() => r.axes.clone(),
        _ => return Ok(None),
    };
    let (g, b) = (m.value("g"), m.value("b"));
    let rank = ty.rank();
    let epsilon = Scalar::float(ty.dtype, eps);
    let op = |axis: usize| LayerNorm { axis, epsilon, rms, scale: false, bias: false };
    let suffix = axes.iter().enumerate().all(|(i, a)| *a == rank - axes.len() + i);
    let mut y = if suffix {
        s.add(name, op(rank - axes.len()), &[x])?
    } else if let [axis] = axes[..] {
        // One axis that is not the last: it is moved there and back, for the layout pass to arrange.
        let mut perm: Vec<usize> = (0..rank).filter(|i| *i != axis).collect();
        perm.push(axis);
        let t = s.add(name, Transpose { perm: perm.clone() }, &[x])?;
        let y = s.add(name, op(rank - 1), &[t])?;
        s.add(name, Transpose { perm: inverse(&perm) }, &[y])?
    } else {
        return Ok(None);
    };
    for (op, v) in [(BinaryOp::Mul, g), (BinaryOp::Add, b)] {
        if let Some(v) = v {
            y = s.add(name, Binary { op }, &[y, v])?;
        }
    }
    Ok(Some(y))
}

/// A scale and then an offset of the normalised axes behind a normalisation become its operands.
pub(in super::super) fn absorb_affine(net: &mut Network) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| absorb(s, id))
}

fn absorb(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let Op::Binary(Binary { op: op @ (BinaryOp::Mul | BinaryOp::Add) }) = node.op else { return Ok(()) };
    let out = node.outputs[0];
    let found = (0..2).find_map(|i| {
        let (y, c) = (node.inputs[i], node.inputs[1 - i]);
        let (pid, p) = s.producer(y)?;
        let Op::LayerNorm(l) = &p.op else { return None };
        let free = if op == BinaryOp::Mul { !l.scale && !l.bias } else { !l.bias };
        (free && s.uses(y) == 1 && !s.is_pinned(pid) && s.ty(y) == s.ty(out))
            .then(|| (l.clone(), p.inputs.clone(), join([&*p.name, &*node.name]), c))
    });
    let Some((mut l, mut inputs, name, c)) = found else { return Ok(()) };
    // Exactly the normalised axes, possibly behind axes of size 1 that a constant can lose.
    let normalised = s.ty(out).shape[l.axis..].to_vec();
    let shape = s.ty(c).shape.clone();
    let extra = match shape.len().checked_sub(normalised.len()) {
        Some(n) if shape[n..] == normalised[..] && all_ones(&shape[..n]) => n,
        _ => return Ok(()),
    };
    let c = match (extra, s.net().constant(c).cloned()) {
        (0, _) => c,
        (n, Some(t)) => match t.reshaped(&t.shape()[n..]) {
            Ok(t) => s.constant(name.clone(), t),
            Err(_) => return Ok(()),
        },
        _ => return Ok(()),
    };
    if op == BinaryOp::Mul {
        l.scale = true;
    } else {
        l.bias = true;
    }
    inputs.push(c);
    let new = s.add(name, l, &inputs)?;
    s.replace(out, new)
}
