//! What must hold of every network between passes.

use crate::{Def, Network, NetworkError, TensorType};
use smallvec::SmallVec;

impl Network {
    /// Checks that every operand is defined before its reader, that definitions and results refer to each other, that
    /// every operator takes its operands, and that no recorded type contradicts the inferred one (dtype, rank, fixed sizes).
    pub fn verify(&self) -> Result<(), NetworkError> {
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
}
