//! What must hold of every network between passes.

use crate::{Def, Network, NetworkError, TensorType};
use smallvec::SmallVec;

impl Network {
    /// Checks that every operand is defined before its reader, that definitions and results refer to each other, that
    /// every operator takes its operands, and that no recorded type contradicts the inferred one (dtype, rank, fixed sizes).
    pub fn verify(&self) -> Result<(), NetworkError> {
        self.verify_references()?;
        let invalid = |reason: String| Err(NetworkError::Invalid(reason));
        let mut defined = vec![false; self.values.len()];
        for (i, v) in self.values.iter().enumerate() {
            match v.def {
                Def::Input(k) if self.inputs.get(k as usize).is_some_and(|o| o.index() == i) => {
                    defined[i] = true
                }
                Def::Input(k) => return invalid(format!("value %{i} is not input {k}")),
                Def::Constant(c) => match self.constants.get(c.index()) {
                    Some(t) if TensorType::of(t) == v.ty => defined[i] = true,
                    Some(t) => {
                        return invalid(format!("constant %{i} is {}, not {}", TensorType::of(t), v.ty));
                    }
                    None => return invalid(format!("constant {c} is missing")),
                },
                Def::Node { .. } => {}
            }
        }
        for (id, node) in self.nodes() {
            let mut types: SmallVec<[&TensorType; 4]> = SmallVec::new();
            for v in &node.inputs {
                if !defined.get(v.index()).copied().unwrap_or(false) {
                    return invalid(format!("node `{}` ({id}) reads {v} before it is defined", node.name));
                }
                types.push(self.ty(*v));
            }
            // Sizes that only the data tells are whatever the value says.
            let outputs = &node.outputs;
            let inferred = node
                .op
                .infer(&types, &mut |output, axis| {
                    outputs
                        .get(output as usize)
                        .and_then(|v| self.ty(*v).shape.get(axis as usize).cloned())
                        .unwrap_or(crate::Dim::Fixed(0))
                })
                .map_err(|source| NetworkError::Op { name: node.name.clone(), op: node.op.name(), source })?;
            if inferred.len() != outputs.len() {
                return invalid(format!(
                    "node `{}` has {} results, not {}",
                    node.name,
                    outputs.len(),
                    inferred.len()
                ));
            }
            for (i, (v, ty)) in outputs.iter().zip(&inferred).enumerate() {
                let value = self.value(*v);
                if value.def != (Def::Node { node: id, output: i as u32 }) {
                    return invalid(format!("{v} is not result {i} of node `{}`", node.name));
                }
                if value.ty.dtype != ty.dtype
                    || value.ty.rank() != ty.rank()
                    || crate::patch::conflicting(&value.ty, ty)
                {
                    return invalid(format!(
                        "result {i} of node `{}` ({}) is recorded as {}, but is {ty}",
                        node.name,
                        node.op.name(),
                        value.ty
                    ));
                }
                defined[v.index()] = true;
            }
        }
        match self.outputs.iter().find(|v| !defined.get(v.index()).copied().unwrap_or(false)) {
            Some(v) => invalid(format!("output {v} is not defined")),
            None => Ok(()),
        }
    }

    /// Checks that every id names something that exists, so that nothing after this can reach outside a table.
    fn verify_references(&self) -> Result<(), NetworkError> {
        let invalid = |reason: String| Err(NetworkError::Invalid(reason));
        let mut seen = vec![false; self.nodes.len()];
        for id in &self.order {
            match seen.get_mut(id.index()) {
                Some(seen) if !*seen => *seen = true,
                Some(_) => return invalid(format!("{id} stands in the order twice")),
                None => return invalid(format!("{id} stands in the order but does not exist")),
            }
        }
        let lists = [("input", &self.inputs[..]), ("output", &self.outputs[..])];
        let operands =
            self.nodes().flat_map(|(_, n)| [("operand", &n.inputs[..]), ("result", &n.outputs[..])]);
        for (what, list) in lists.into_iter().chain(operands) {
            if let Some(v) = list.iter().find(|v| v.index() >= self.values.len()) {
                return invalid(format!("{what} {v} does not exist"));
            }
        }
        for (i, v) in self.values.iter().enumerate() {
            if let Def::Node { node, .. } = v.def
                && node.index() >= self.nodes.len()
            {
                return invalid(format!("value %{i} is defined by {node}, which does not exist"));
            }
        }
        let mut unknown = None;
        let mut check = |d: &crate::Dim| {
            d.for_each_symbol(&mut |s| {
                if s.0 as usize >= self.symbols.len() {
                    unknown = Some(s.0);
                }
            });
        };
        self.values.iter().flat_map(|v| &v.ty.shape).for_each(&mut check);
        for (_, node) in self.nodes() {
            node.op.clone().map_dims(&mut |d| {
                check(d);
                d.clone()
            });
        }
        match unknown {
            Some(s) => invalid(format!("symbol s{s} does not exist")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{DType, Dim, Network, NodeId, SymbolId, TensorType, UnaryOp, ValueId, ops};

    fn net() -> Network {
        let mut net = Network::new("n");
        let x = net.add_input("x", TensorType::new(DType::F32, [Dim::Fixed(4)]));
        let y = net.add("y", ops::Unary { op: UnaryOp::Exp }.into(), &[x]).expect("exp takes floats");
        net.set_outputs(vec![y]);
        net
    }

    #[test]
    fn references_outside_the_tables_are_errors() {
        assert!(net().verify().is_ok());
        let damage: [(&str, fn(&mut Network)); 7] = [
            ("n9 stands in the order", |n| n.order.push(NodeId(9))),
            ("twice", |n| n.order.push(NodeId(0))),
            ("input %7", |n| n.inputs.push(ValueId(7))),
            ("output %7", |n| n.outputs.push(ValueId(7))),
            ("operand %8", |n| n.nodes[0].as_mut().expect("a node").inputs[0] = ValueId(8)),
            ("result %8", |n| n.nodes[0].as_mut().expect("a node").outputs[0] = ValueId(8)),
            ("symbol s3", |n| n.values[0].ty.shape[0] = Dim::symbol(SymbolId(3))),
        ];
        for (want, break_it) in damage {
            let mut n = net();
            break_it(&mut n);
            let got = n.verify().expect_err(want).to_string();
            assert!(got.contains(want), "{got} does not say {want}");
        }
    }
}
