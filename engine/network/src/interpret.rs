//! The reference run of a whole network: what engines are tested against.

use crate::{Network, NetworkError, SymbolSource, Tensor, ops};

impl Network {
    /// Evaluates the network node by node with [`crate::Op::eval`]. Errors: inputs that do not fit, and whatever an operator reports.
    pub fn eval(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, NetworkError> {
        if inputs.len() != self.inputs.len() {
            return Err(NetworkError::Invalid(format!("{} inputs, not {}", inputs.len(), self.inputs.len())));
        }
        let mut env = vec![0; self.symbols.len()];
        let mut values: Vec<Option<Tensor>> = vec![None; self.values.len()];
        for (i, (v, t)) in self.inputs.iter().zip(inputs).enumerate() {
            if t.dtype() != self.ty(*v).dtype {
                return Err(NetworkError::Invalid(format!(
                    "input {i} is {}, not {}",
                    t.dtype(),
                    self.ty(*v).dtype
                )));
            }
            values[v.index()] = Some(t.clone());
        }
        self.bind(&|i| inputs[i].shape(), &|i, k| inputs[i].get_i64(k), &mut env).map_err(|e| {
            let name = e.input().map_or("", |i| &self.value(self.inputs[i]).name);
            NetworkError::Invalid(format!("input `{name}`: {e}"))
        })?;
        let read = |values: &[Option<Tensor>], v: crate::ValueId| {
            values[v.index()].clone().or_else(|| self.constant(v).cloned()).ok_or_else(|| {
                NetworkError::Invalid(format!(
                    "value {v} (`{}`) is read before it is computed",
                    self.value(v).name
                ))
            })
        };
        for (id, node) in self.nodes() {
            let operands = node.inputs.iter().map(|v| read(&values, *v)).collect::<Result<Vec<_>, _>>()?;
            let results = node.op.eval(&operands, &env).map_err(|source| NetworkError::Op {
                name: node.name.clone(),
                op: node.op.name(),
                source,
            })?;
            for (i, s) in self.symbols.iter().enumerate() {
                match s.source {
                    SymbolSource::Data { node, output, axis } if node == id => {
                        env[i] = results[output as usize].shape()[axis as usize] as i64;
                    }
                    SymbolSource::DataElement { node, output, index } if node == id => {
                        env[i] = results[output as usize].get_i64(index as usize);
                    }
                    _ => {}
                }
            }
            for (v, t) in node.outputs.iter().zip(results) {
                let planned = ops::eval_shape(&self.ty(*v).shape, &env).map_err(|source| {
                    NetworkError::Op { name: node.name.clone(), op: node.op.name(), source }
                })?;
                if planned != t.shape() || t.dtype() != self.ty(*v).dtype {
                    return Err(NetworkError::Invalid(format!(
                        "node `{}` ({}) gave {}{:?}, inferred was {}{planned:?}",
                        node.name,
                        node.op.name(),
                        t.dtype(),
                        t.shape(),
                        self.ty(*v).dtype
                    )));
                }
                values[v.index()] = Some(t);
            }
        }
        self.outputs.iter().map(|v| read(&values, *v)).collect()
    }
}
