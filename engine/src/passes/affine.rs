//! Constant scales and offsets behind a convolution or product go into its weights and bias: batch normalisation,
//! bias additions, layer scales.

use super::sweep::{Sweep, join, sweep};
use engraft_network::ops::Binary;
use engraft_network::{
    AlignedBytes, BinaryOp, DType, Network, NetworkError, Node, NodeId, Op, Tensor, ValueId,
};

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| {
        let Some(node) = s.node(id) else { return Ok(()) };
        let Op::Binary(Binary { op }) = node.op else { return Ok(()) };
        let (x, c, out) = (node.inputs[0], node.inputs[1], node.outputs[0]);
        if !matches!(op, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div)
            || s.uses(x) != 1
            || s.ty(x) != s.ty(out)
            || s.ty(x).dtype != DType::F32
        {
            return Ok(());
        }
        match affine(s, id, op, x, c) {
            Some(folded) => folded.build(s, out),
            None => Ok(()),
        }
    })
}

/// A matrix operator with new weights and bias.
struct Folded {
    name: String,
    op: Op,
    inputs: Vec<ValueId>,
    weights: Option<Tensor>,
    bias: Option<Tensor>,
}

impl Folded {
    fn build(mut self, s: &mut Sweep<'_>, out: ValueId) -> Result<(), NetworkError> {
        let name = |s: &Sweep<'_>, v: ValueId| s.net().value(v).name.clone();
        if let Some(w) = self.weights {
            let n = name(s, self.inputs[1]);
            self.inputs[1] = s.constant(n, w);
        }
        if let Some(b) = self.bias {
            let n = format!("{}.bias", self.name);
            let b = s.constant(n, b);
            self.inputs.truncate(2);
            self.inputs.push(b);
        }
        let new = s.add(self.name, self.op, &self.inputs)?;
        s.replace(out, new)
    }
}

fn affine(s: &Sweep<'_>, id: NodeId, op: BinaryOp, x: ValueId, c: ValueId) -> Option<Folded> {
    let net = s.net();
    let (pid, producer) = s.producer(x)?;
    if s.is_pinned(pid) {
        return None;
    }
    let epilogue = epilogue_of(&producer.op)?;
    if epilogue.post.is_some() {
        return None;
    }
    let channels = usize::try_from(net.ty(x).shape.last()?.fixed()?).ok()?;
    let factors = per_channel(net.constant(c)?, channels)?;
    let old_bias: Option<Vec<f32>> = match epilogue.bias {
        true => Some(net.constant(producer.inputs[2])?.to_vec().ok()?),
        false => None,
    };
    let mut new_op = producer.op.clone();
    let name = join([&*producer.name, &*s.node(id)?.name]);
    let inputs = producer.inputs.to_vec();
    let vector = |v: Vec<f32>| Tensor::from_slice(&[channels], &v).ok();
    match op {
        BinaryOp::Add | BinaryOp::Sub => {
            let sign = if op == BinaryOp::Add { 1.0 } else { -1.0 };
            let bias = (0..channels)
                .map(|i| (f64::from(old_bias.as_ref().map_or(0.0, |b| b[i])) + sign * factors.at(i)) as f32)
                .collect();
            epilogue_mut(&mut new_op)?.bias = true;
            Some(Folded { name, op: new_op, inputs, weights: None, bias: Some(vector(bias)?) })
        }
        BinaryOp::Mul | BinaryOp::Div => {
            let scale: Vec<f64> = (0..channels)
                .map(|i| if op == BinaryOp::Mul { factors.at(i) } else { 1.0 / factors.at(i) })
                .collect();
            if !scale.iter().all(|f| f.is_finite()) {
                return None;
            }
            let weights = scaled_weights(net, producer, &scale)?;
            let bias = match old_bias {
                Some(b) => {
                    Some(vector(b.iter().zip(&scale).map(|(b, f)| (f64::from(*b) * f) as f32).collect())?)
                }
                None => None,
            };
            Some(Folded { name, op: new_op, inputs, weights: Some(weights), bias })
        }
        _ => None,
    }
}

pub(super) fn epilogue_of(op: &Op) -> Option<&engraft_network::ops::Epilogue> {
    match op {
        Op::MatMul(m) => Some(&m.epilogue),
        Op::Conv(c) => Some(&c.epilogue),
        Op::ConvTranspose(c) => Some(&c.epilogue),
        _ => None,
    }
}

pub(super) fn epilogue_mut(op: &mut Op) -> Option<&mut engraft_network::ops::Epilogue> {
    match op {
        Op::MatMul(m) => Some(&mut m.epilogue),
        Op::Conv(c) => Some(&mut c.epilogue),
        Op::ConvTranspose(c) => Some(&mut c.epilogue),
        _ => None,
    }
}

/// A constant as one factor per channel of the last axis.
enum Factors {
    One(f64),
    Each(Vec<f64>),
}

impl Factors {
    fn at(&self, i: usize) -> f64 {
        match self {
            Factors::One(f) => *f,
            Factors::Each(v) => v[i],
        }
    }
}

fn per_channel(t: &Tensor, channels: usize) -> Option<Factors> {
    if t.count() == 1 {
        return Some(Factors::One(t.get_f64(0)));
    }
    let (last, rest) = t.shape().split_last()?;
    (*last == channels && rest.iter().all(|d| *d == 1))
        .then(|| Factors::Each((0..channels).map(|i| t.get_f64(i)).collect()))
}

/// The weights of a node with output channel `i` multiplied by `scale[i]`.
fn scaled_weights(net: &Network, node: &Node, scale: &[f64]) -> Option<Tensor> {
    let w = net.constant(node.inputs[1])?;
    if w.dtype() != DType::F32 {
        return None;
    }
    let n = scale.len();
    let rank = w.shape().len();
    // Elements of consecutive memory that share a channel.
    let run = match &node.op {
        Op::Conv(_) => 1,
        Op::ConvTranspose(c) if c.groups == 1 => 1,
        Op::MatMul(m) if m.trans_b => w.shape()[rank - 1],
        Op::MatMul(_) => 1,
        _ => return None,
    };
    let axis = if run == 1 { rank - 1 } else { rank - 2 };
    if w.shape()[axis] != n && !(run == 1 && w.shape()[rank - 1] == n) {
        return None;
    }
    let factors: Vec<f32> = scale.iter().map(|f| *f as f32).collect();
    let mut out = AlignedBytes::zeroed(w.bytes().len());
    let (from, _) = w.bytes().as_chunks::<4>();
    let (to, _) = out.as_mut_slice().as_chunks_mut::<4>();
    if run == 1 {
        for (from, to) in from.chunks_exact(n).zip(to.chunks_exact_mut(n)) {
            for ((f, t), s) in from.iter().zip(to).zip(&factors) {
                *t = (f32::from_ne_bytes(*f) * s).to_ne_bytes();
            }
        }
    } else {
        for (i, (from, to)) in from.chunks_exact(run).zip(to.chunks_exact_mut(run)).enumerate() {
            let s = factors[i % n];
            for (f, t) in from.iter().zip(to) {
                *t = (f32::from_ne_bytes(*f) * s).to_ne_bytes();
            }
        }
    }
    Tensor::new(DType::F32, w.shape(), out.into()).ok()
}
