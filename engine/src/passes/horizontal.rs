//! Convolutions and products that read the same tensor become one with the weights side by side: Q/K/V projections,
//! the reducing 1x1 convolutions of an Inception block. Each result is a slice of the common one, which is a view.

use super::affine::{epilogue_mut, epilogue_of};
use super::sweep::{Sweep, join, sweep};
use engraft_network::ops::{MatMul, Slice, SliceRange};
use engraft_network::{AlignedBytes, DType, Dim, Network, NetworkError, NodeId, Op, Tensor, ValueId};
use rustc_hash::FxHashMap;

/// Output channels of one member, and of all together: beyond these an operator is large enough by itself.
const MAX_MEMBER: usize = 1024;
const MAX_TOTAL: usize = 4096;
/// Bytes of the weights of all members: to copy more costs the builder more time and memory than a step saves at run time.
const MAX_BYTES: usize = 4 << 20;

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    let consumers = net.consumers();
    let mut is_output = vec![false; net.value_count()];
    net.outputs().iter().for_each(|v| is_output[v.index()] = true);
    let mut groups: FxHashMap<(ValueId, Op, Vec<usize>), Vec<NodeId>> = FxHashMap::default();
    for (id, node) in net.nodes() {
        let out = match node.outputs.first() {
            Some(out) if !is_output[out.index()] => *out,
            _ => continue,
        };
        // A result that is written straight into its place in a concat would have to be copied there.
        let placed = consumers[out.index()]
            .iter()
            .any(|c| net.node(*c).is_some_and(|c| matches!(c.op, Op::Concat(_))));
        if !placed && let Some((op, rest)) = key(net, id) {
            groups.entry((node.inputs[0], op, rest)).or_default().push(id);
        }
    }
    let mut leader: FxHashMap<NodeId, Vec<NodeId>> = FxHashMap::default();
    for (_, members) in groups {
        let mut some: Vec<NodeId> = Vec::new();
        let (mut total, mut bytes) = (0, 0);
        for id in members {
            let Some(node) = net.node(id) else { continue };
            let n = channels(net, node.outputs[0]);
            let b = net.constant(node.inputs[1]).map_or(0, |w| w.bytes().len());
            if total + n <= MAX_TOTAL && bytes + b <= MAX_BYTES {
                (total, bytes) = (total + n, bytes + b);
                some.push(id);
            }
        }
        if let [first, _, ..] = some[..] {
            leader.insert(first, some);
        }
    }
    sweep(net, &mut |s, id| match leader.get(&id) {
        Some(members) if members.iter().all(|m| !s.is_pinned(*m)) => merge(s, members),
        _ => Ok(()),
    })
}

fn channels(net: &Network, v: ValueId) -> usize {
    net.ty(v)
        .shape
        .last()
        .and_then(Dim::fixed)
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(usize::MAX / 2)
}

/// What members of one group have in common: the operator without regard to a bias, and the weights' shape without
/// the output channels.
fn key(net: &Network, id: NodeId) -> Option<(Op, Vec<usize>)> {
    let node = net.node(id)?;
    let e = epilogue_of(&node.op)?;
    let w = net.constant(node.inputs[1])?;
    let mut op = node.op.clone();
    let mut rest = w.shape().to_vec();
    let axis = channel_axis(&op, rest.len())?;
    rest.remove(axis);
    if w.dtype() != DType::F32
        || e.post.as_ref().is_some_and(|p| p.arity() > 1)
        || channels(net, node.outputs[0]) > MAX_MEMBER
        || e.bias && net.constant(node.inputs[2]).is_none()
    {
        return None;
    }
    epilogue_mut(&mut op)?.bias = false;
    Some((op, rest))
}

/// The weights' axis of output channels.
fn channel_axis(op: &Op, rank: usize) -> Option<usize> {
    match op {
        Op::Conv(c) if c.groups == 1 => Some(rank - 1),
        Op::MatMul(MatMul { trans_b, .. }) if rank == 2 => Some(usize::from(!trans_b)),
        _ => None,
    }
}

fn merge(s: &mut Sweep<'_>, members: &[NodeId]) -> Result<(), NetworkError> {
    let mut weights: Vec<Tensor> = Vec::new();
    let mut bias: Vec<f32> = Vec::new();
    let mut outputs: Vec<(ValueId, String, usize)> = Vec::new();
    let mut has_bias = false;
    for id in members {
        let Some(n) = s.node(*id) else { return Ok(()) };
        let size = channels(s.net(), n.outputs[0]);
        let Some(w) = s.net().constant(n.inputs[1]) else { return Ok(()) };
        weights.push(w.clone());
        if epilogue_of(&n.op).is_some_and(|e| e.bias) {
            let Some(Ok(b)) = s.net().constant(n.inputs[2]).map(Tensor::to_vec::<f32>) else { return Ok(()) };
            bias.extend(b);
            has_bias = true;
        } else {
            bias.resize(bias.len() + size, 0.0);
        }
        outputs.push((n.outputs[0], n.name.clone(), size));
    }
    let Some(first) = s.node(members[0]) else { return Ok(()) };
    let (mut op, x) = (first.op.clone(), first.inputs[0]);
    let Some(axis) = channel_axis(&op, weights[0].shape().len()) else { return Ok(()) };
    let Some(w) = side_by_side(&weights, axis) else { return Ok(()) };
    let name = join(outputs.iter().map(|o| o.1.as_str()));
    let mut inputs = vec![x, s.constant(format!("{name}.weights"), w)];
    if has_bias {
        let Ok(b) = Tensor::from_slice(&[bias.len()], &bias) else { return Ok(()) };
        inputs.push(s.constant(format!("{name}.bias"), b));
    }
    if let Some(e) = epilogue_mut(&mut op) {
        e.bias = has_bias;
    }
    let y = s.add(name, op, &inputs)?;
    let last = s.ty(y).rank() - 1;
    let mut start = 0;
    for (out, name, size) in outputs {
        let ranges = vec![SliceRange { axis: last, start: Dim::from(start), len: Dim::from(size), step: 1 }];
        let part = s.add(name, Slice { ranges }, &[y])?;
        s.replace(out, part)?;
        start += size;
    }
    Ok(())
}

/// Concatenation of `f32` constants.
fn side_by_side(parts: &[Tensor], axis: usize) -> Option<Tensor> {
    let mut shape = parts.first()?.shape().to_vec();
    shape[axis] = parts.iter().map(|t| t.shape()[axis]).sum();
    let outer: usize = shape[..axis].iter().product();
    let mut out = AlignedBytes::zeroed(4 * shape.iter().product::<usize>());
    let to = out.as_mut_slice();
    let mut at = 0;
    for i in 0..outer {
        for t in parts {
            let run = t.bytes().len() / outer;
            to[at..at + run].copy_from_slice(&t.bytes()[i * run..(i + 1) * run]);
            at += run;
        }
    }
    Tensor::new(DType::F32, &shape, out.into()).ok()
}
