use crate::{Def, Network, NetworkError, Node, NodeId, Op, Tensor, TensorType, ValueId};
use smallvec::SmallVec;

/// A local change of a network: new nodes and constants, and values to be replaced by others.
///
/// Passes change a network only through patches. [`Patch::apply`] checks that every replacement keeps its type, and that
/// the result has no cycle; nothing that is still used disappears, because removal is only ever that of dead nodes.
#[derive(Debug)]
pub struct Patch<'a> {
    net: &'a mut Network,
    first_node: usize,
    replacements: Vec<(ValueId, ValueId)>,
}

impl<'a> Patch<'a> {
    pub fn new(net: &'a mut Network) -> Patch<'a> {
        let first_node = net.nodes.len();
        Patch { net, first_node, replacements: Vec::new() }
    }

    pub fn network(&self) -> &Network {
        self.net
    }

    pub fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        self.net.add_constant(name, tensor)
    }

    /// Adds a node; its outputs' types are inferred.
    pub fn node(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<SmallVec<[ValueId; 1]>, NetworkError> {
        self.net.add_node(name, op, inputs)
    }

    /// [`Patch::node`] for operators of one output.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, NetworkError> {
        self.net.add(name, op, inputs)
    }

    /// From [`Patch::apply`] on, whoever read `old` reads `new`.
    pub fn replace(&mut self, old: ValueId, new: ValueId) {
        self.replacements.push((old, new));
    }

    /// Performs the replacements. Nodes added by this patch are exempt, so that a patch may wrap the value it replaces.
    /// On error the network is unchanged but for the added nodes, which are dropped.
    pub fn apply(self) -> Result<(), NetworkError> {
        let check = |net: &Network, old: ValueId, new: ValueId| -> Result<(), NetworkError> {
            let (a, b): (&TensorType, &TensorType) = (net.ty(old), net.ty(new));
            if a.dtype != b.dtype || a.rank() != b.rank() || a != b && conflicting(a, b) {
                return Err(NetworkError::Type { old, old_type: a.clone(), new, new_type: b.clone() });
            }
            Ok(())
        };
        for &(old, new) in &self.replacements {
            if let Err(e) = check(self.net, old, new) {
                self.net.nodes.truncate(self.first_node);
                let bound = self.first_node;
                self.net.order.retain(|n| n.index() < bound);
                return Err(e);
            }
        }
        for &(old, new) in &self.replacements {
            for n in self.net.nodes[..self.first_node].iter_mut().flatten() {
                for v in &mut n.inputs {
                    if *v == old {
                        *v = new;
                    }
                }
            }
            let name = self.net.values[old.index()].name.clone();
            for v in &mut self.net.outputs {
                if *v == old {
                    *v = new;
                    if !matches!(self.net.values[new.index()].def, Def::Input(_)) {
                        self.net.values[new.index()].name.clone_from(&name);
                    }
                }
            }
        }
        self.net.sort()
    }
}

/// Types that cannot describe one value: some dim is fixed in both, with different sizes.
fn conflicting(a: &TensorType, b: &TensorType) -> bool {
    a.shape.iter().zip(&b.shape).any(|(x, y)| matches!((x.fixed(), y.fixed()), (Some(m), Some(n)) if m != n))
}

impl Network {
    /// Changes the attributes of a node in place, or its inputs; the outputs' types must stay.
    pub fn rewrite_node(&mut self, id: NodeId, op: Op, inputs: &[ValueId]) -> Result<(), NetworkError> {
        let Some(old) = self.node(id).cloned() else {
            return Err(NetworkError::Invalid(format!("node {id} is gone")));
        };
        let types: Vec<TensorType> = inputs.iter().map(|v| self.ty(*v).clone()).collect();
        let types: SmallVec<[&TensorType; 4]> = types.iter().collect();
        let inferred = op
            .infer(&types, &mut |_, _| crate::Dim::Fixed(-1))
            .map_err(|source| NetworkError::Op { name: old.name.clone(), op: op.name(), source })?;
        for (v, ty) in old.outputs.iter().zip(&inferred) {
            if self.ty(*v).dtype != ty.dtype
                || self.ty(*v).rank() != ty.rank()
                || conflicting(self.ty(*v), ty) && !ty.shape.contains(&crate::Dim::Fixed(-1))
            {
                return Err(NetworkError::Type {
                    old: *v,
                    old_type: self.ty(*v).clone(),
                    new: *v,
                    new_type: ty.clone(),
                });
            }
        }
        self.nodes[id.index()] = Some(Node { op, inputs: inputs.into(), ..old });
        self.sort()
    }
}
