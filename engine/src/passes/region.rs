//! Pointwise regions: maximal groups of elementwise operators with one result become one expression.
//!
//! A node joins the region of its readers if all of them are in one region and its result has the region's shape. So a
//! region has one result and is convex, and nothing is computed twice.

use super::sweep::{join, literal, scalar_tensor, sweep};
use engraft_network::ops::{Binary, Cast, Pointwise, Unary};
use engraft_network::{Expr, ExprNode, Network, NetworkError, Node, NodeId, Op, SymbolSource, ValueId};
use rustc_hash::FxHashMap;

/// Bounds of one region, so that a tile of all live values stays in the L1 cache.
const MAX_NODES: usize = 64;
const MAX_OPERANDS: usize = 16;

/// The expression of an elementwise operator.
pub(super) fn expression(op: &Op) -> Option<Expr> {
    Some(match op {
        Op::Pointwise(p) => p.expr.clone(),
        Op::Unary(Unary { op }) => Expr::unary(*op),
        Op::Binary(Binary { op }) => Expr::binary(*op),
        Op::Select(_) => {
            let mut e = Expr::new();
            let [c, a, b] = [0, 1, 2].map(|i| e.push(ExprNode::Input(i)));
            e.push(ExprNode::Select(c, a, b));
            e
        }
        Op::Cast(Cast { to }) => {
            let mut e = Expr::new();
            let x = e.push(ExprNode::Input(0));
            e.push(ExprNode::Cast(*to, x));
            e
        }
        _ => return None,
    })
}

fn is_elementwise(op: &Op) -> bool {
    matches!(op, Op::Pointwise(_) | Op::Unary(_) | Op::Binary(_) | Op::Select(_) | Op::Cast(_))
}

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    let members = group(net);
    sweep(net, &mut |s, id| {
        let Some(region) = members.get(&id) else { return Ok(()) };
        let Some(root) = s.node(id) else { return Ok(()) };
        let Some((expr, operands)) = compose(s.net(), region) else { return Ok(()) };
        if region.len() == 1 && operands.len() == root.inputs.len() {
            return Ok(());
        }
        let name = join(region.iter().filter_map(|n| Some(&*s.node(*n)?.name)));
        let out = root.outputs[0];
        let new = s.add(name, Pointwise { expr }, &operands)?;
        if s.ty(new).shape != s.ty(out).shape {
            // The operands left do not span the result's shape (all the others were literals).
            return Ok(());
        }
        s.replace(out, new)
    })
}

/// Regions by their root, each in topological order with the root last.
fn group(net: &Network) -> FxHashMap<NodeId, Vec<NodeId>> {
    let consumers = net.consumers();
    let mut is_output = vec![false; net.value_count()];
    net.outputs().iter().for_each(|v| is_output[v.index()] = true);
    for s in net.symbols() {
        if let SymbolSource::Data { node, .. } | SymbolSource::DataElement { node, .. } = s.source
            && let Some(n) = net.node(node)
        {
            n.outputs.iter().for_each(|v| is_output[v.index()] = true);
        }
    }
    let mut root_of: FxHashMap<NodeId, NodeId> = FxHashMap::default();
    let mut members: FxHashMap<NodeId, Vec<NodeId>> = FxHashMap::default();
    let mut size: FxHashMap<NodeId, usize> = FxHashMap::default();
    for (id, node) in net.nodes().rev() {
        if !is_elementwise(&node.op) {
            continue;
        }
        let out = node.outputs[0];
        let cost = node.inputs.len()
            + match &node.op {
                Op::Pointwise(p) => p.expr.nodes().len(),
                _ => 1,
            };
        let mut roots = consumers[out.index()].iter().map(|c| root_of.get(c).copied());
        let root = match roots.next().flatten() {
            Some(r)
                if !is_output[out.index()]
                    && roots.all(|o| o == Some(r))
                    && shape_of(net, r).is_some_and(|s| s == net.ty(out).shape.as_slice())
                    && size.get(&r).copied().unwrap_or(0) + cost <= MAX_NODES =>
            {
                r
            }
            _ => id,
        };
        root_of.insert(id, root);
        *size.entry(root).or_default() += cost;
        members.entry(root).or_default().push(id);
    }
    members.values_mut().for_each(|m| m.reverse());
    members
}

fn shape_of(net: &Network, id: NodeId) -> Option<&[engraft_network::Dim]> {
    Some(&net.ty(net.node(id)?.outputs[0]).shape)
}

/// One expression for a region, and its operands; `None` if there are too many of them.
fn compose(net: &Network, region: &[NodeId]) -> Option<(Expr, Vec<ValueId>)> {
    let mut expr = Expr::new();
    let mut operands: Vec<ValueId> = Vec::new();
    let mut known: FxHashMap<ValueId, u16> = FxHashMap::default();
    let mut result = 0;
    for id in region {
        let node: &Node = net.node(*id)?;
        let mut args = Vec::with_capacity(node.inputs.len());
        for v in &node.inputs {
            let e = match known.get(v) {
                Some(e) => *e,
                None => {
                    let scalar = net.constant(*v).and_then(literal).filter(|c| scalar_tensor(*c).is_some());
                    let e = match scalar {
                        Some(c) => expr.push(ExprNode::Const(c)),
                        None => {
                            operands.push(*v);
                            expr.push(ExprNode::Input(operands.len() as u16 - 1))
                        }
                    };
                    known.insert(*v, e);
                    e
                }
            };
            args.push(e);
        }
        result = expr.inline(&expression(&node.op)?, &args);
        known.insert(node.outputs[0], result);
    }
    expr.finish(result);
    (operands.len() <= MAX_OPERANDS && !operands.is_empty() && expr.arity() == operands.len())
        .then_some((expr, operands))
}
