//! Takes elementwise expressions that dialects wrote apart into single operators, so that every later pass sees one form.
//! [`super::region`] puts them together again.

use super::sweep::{scalar_tensor, sweep};
use engraft_network::ops::{Binary, Cast, Select, Unary};
use engraft_network::{ExprNode, Network, NetworkError, Op, ValueId};

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| {
        let Some(node) = s.node(id) else { return Ok(()) };
        let Op::Pointwise(p) = &node.op else { return Ok(()) };
        let (name, inputs, out) = (node.name.clone(), node.inputs.clone(), node.outputs[0]);
        let nodes = p.expr.nodes().to_vec();
        // An operand that only takes part in the broadcast could not be left out.
        let all_used = (0..inputs.len()).all(|i| nodes.contains(&ExprNode::Input(i as u16)));
        let literals_fit =
            nodes.iter().all(|n| !matches!(n, ExprNode::Const(c) if scalar_tensor(*c).is_none()));
        if !all_used || !literals_fit || matches!(nodes.last(), Some(ExprNode::Const(_)) | None) {
            return Ok(());
        }
        let mut values: Vec<ValueId> = Vec::with_capacity(nodes.len());
        for n in &nodes {
            let at = |i: u16| values[usize::from(i)];
            let v = match *n {
                ExprNode::Input(i) => inputs[usize::from(i)],
                ExprNode::Const(c) => match scalar_tensor(c) {
                    Some(t) => s.constant(format!("{}", c.to_f64()), t),
                    None => return Ok(()),
                },
                ExprNode::Unary(op, a) => s.add(name.clone(), Unary { op }, &[at(a)])?,
                ExprNode::Binary(op, a, b) => s.add(name.clone(), Binary { op }, &[at(a), at(b)])?,
                ExprNode::Select(c, a, b) => s.add(name.clone(), Select, &[at(c), at(a), at(b)])?,
                ExprNode::Cast(to, a) => s.add(name.clone(), Cast { to }, &[at(a)])?,
            };
            values.push(v);
        }
        match values.last() {
            Some(v) => s.replace(out, *v),
            None => Ok(()),
        }
    })
}
