//! Elementwise work on the result of a convolution or product moves into the operator's epilogue.

use super::affine::{epilogue_mut, epilogue_of};
use super::region::expression;
use super::sweep::{Sweep, join, sweep};
use engraft_network::{
    BinaryOp, DType, Dim, Expr, ExprNode, Network, NetworkError, NodeId, UnaryOp, ValueId,
};

/// Operands of an epilogue besides the accumulators and the bias.
const MAX_EXTRAS: usize = 4;

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    let mut position = vec![0u32; net.node_bound()];
    for (i, (id, _)) in net.nodes().enumerate() {
        position[id.index()] = i as u32;
    }
    // Nodes of the sweep inherit the place of the matrix operator that they replace.
    sweep(net, &mut |s, id| {
        let Some(fused) = attach(s, id, &mut position) else { return Ok(()) };
        let Some(node) = s.node(id) else { return Ok(()) };
        let out = node.outputs[0];
        let new = s.add(fused.name, fused.op, &fused.inputs)?;
        if let Some((n, _)) = s.producer(new) {
            if position.len() <= n.index() {
                position.resize(n.index() + 1, 0);
            }
            position[n.index()] = fused.position;
        }
        s.replace(out, new)
    })
}

struct Fused {
    name: String,
    op: engraft_network::Op,
    inputs: Vec<ValueId>,
    position: u32,
}

/// The matrix operator among the operands of elementwise node `id` that takes the node into its epilogue: of several
/// the one that is computed last, so that the others are there already.
fn attach(s: &Sweep<'_>, id: NodeId, position: &mut [u32]) -> Option<Fused> {
    let node = s.node(id)?;
    let expr = expression(&node.op)?;
    let out = node.outputs[0];
    if s.is_pinned(id) {
        return None;
    }
    let candidate = |i: usize| -> Option<(u32, usize)> {
        let v = node.inputs[i];
        let (pid, p) = s.producer(v)?;
        epilogue_of(&p.op)?;
        (s.uses(v) as usize == 1 && s.ty(v) == s.ty(out) && s.ty(v).dtype == DType::F32)
            .then(|| (position[pid.index()], i))
    };
    let (at, main) = (0..node.inputs.len()).filter_map(candidate).max()?;
    let (_, producer) = s.producer(node.inputs[main])?;
    let old = epilogue_of(&producer.op)?;
    let first = 2 + usize::from(old.bias);
    let mut inputs: Vec<ValueId> = producer.inputs.to_vec();

    let mut post = Expr::new();
    let acc = post.push(ExprNode::Input(0));
    let before: Vec<u16> =
        (0..producer.inputs.len() - first).map(|i| post.push(ExprNode::Input(i as u16 + 1))).collect();
    let acc = match &old.post {
        Some(p) => {
            let mut args = vec![acc];
            args.extend(before);
            post.inline(p, &args)
        }
        None => acc,
    };
    let mut args = Vec::with_capacity(node.inputs.len());
    for (i, v) in node.inputs.iter().enumerate() {
        if i == main {
            args.push(acc);
            continue;
        }
        if let Some(c) = s.net().constant(*v).and_then(super::sweep::literal) {
            args.push(post.push(ExprNode::Const(c)));
            continue;
        }
        let known = inputs[first..].iter().position(|o| o == v).map(|k| first + k);
        let slot = match known {
            Some(slot) => slot,
            None => {
                if !broadcasts(&s.ty(*v).shape, &s.ty(out).shape) {
                    return None;
                }
                inputs.push(*v);
                inputs.len() - 1
            }
        };
        args.push(post.push(ExprNode::Input((slot - first + 1) as u16)));
    }
    let result = post.inline(&expr, &args);
    post.finish(result);
    if inputs.len() - first > MAX_EXTRAS
        || inputs[first..].iter().any(|v| s.ty(*v).dtype != DType::F32)
        || post.arity() != inputs.len() - first + 1
        || !is_chain(&post)
    {
        return None;
    }
    let mut op = producer.op.clone();
    epilogue_mut(&mut op)?.post = Some(post);
    Some(Fused { name: join([&*producer.name, &*node.name]), op, inputs, position: at })
}

/// True if every dim is the output's or 1, by numpy's rule.
fn broadcasts(shape: &[Dim], out: &[Dim]) -> bool {
    shape.len() <= out.len()
        && shape.iter().rev().zip(out.iter().rev()).all(|(d, o)| d == o || d.fixed() == Some(1))
}

/// True if the expression takes input 0 through steps that matrix kernels apply to a block of their result: functions of
/// the running value, and sums, products and bounds of it with a literal or a further operand.
fn is_chain(post: &Expr) -> bool {
    use BinaryOp::{Add, Div, Max, Min, Mul, Sub};
    use UnaryOp::*;
    let nodes = post.nodes();
    let leaf = |i: u16| match nodes[usize::from(i)] {
        ExprNode::Const(_) => true,
        ExprNode::Input(k) => k > 0,
        _ => false,
    };
    let Some(mut at) = nodes.len().checked_sub(1) else { return false };
    loop {
        at = usize::from(match nodes[at] {
            ExprNode::Input(k) => return k == 0,
            ExprNode::Unary(
                Neg | Abs | Recip | Sqrt | Exp | Log | Tanh | Erf | Sigmoid | Softplus | Relu | Gelu
                | GeluTanh | Silu | HardSwish,
                a,
            ) => a,
            ExprNode::Binary(Add | Sub | Mul | Div | Max | Min, a, b) if leaf(b) => a,
            ExprNode::Binary(Add | Sub | Mul | Div | Max | Min, a, b) if leaf(a) => b,
            _ => return false,
        });
    }
}
