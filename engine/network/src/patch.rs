use crate::{Def, Network, NetworkError, Node, NodeId, Op, Tensor, TensorType, ValueId};
use smallvec::SmallVec;

/// A change of a network: new nodes and constants, and values to be replaced by others.
///
/// Passes change a network only through patches. One patch may hold all changes of a sweep over the network: nodes added
/// after a [`Patch::replace`] read the replacement already, nodes that were there before do so after [`Patch::settle`]
/// or [`Patch::apply`]. Every replacement keeps its type and the result has no cycle; nothing that is still used
/// disappears, because removal is only ever that of dead nodes.
#[derive(Debug)]
pub struct Patch<'a> {
    net: &'a mut Network,
    first_node: usize,
    /// By value index; shorter than the table of values where nothing was replaced.
    replaced: Vec<Option<ValueId>>,
}

impl<'a> Patch<'a> {
    pub fn new(net: &'a mut Network) -> Patch<'a> {
        let first_node = net.nodes.len();
        Patch { net, first_node, replaced: Vec::new() }
    }

    pub fn network(&self) -> &Network {
        self.net
    }

    pub fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        self.net.add_constant(name, tensor)
    }

    /// Adds a node; its outputs' types are inferred. Operands that this patch has replaced stand for their replacements.
    pub fn node(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<SmallVec<[ValueId; 1]>, NetworkError> {
        let inputs: SmallVec<[ValueId; 4]> = inputs.iter().map(|v| self.resolve(*v)).collect();
        self.net.add_node(name, op, &inputs)
    }

    /// [`Patch::node`] for operators of one output.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, NetworkError> {
        Ok(self.node(name, op, inputs)?[0])
    }

    /// Who reads `old` shall read `new`. Nodes that this patch added before are exempt, so that a patch may wrap the
    /// value it replaces. A `new` that this patch made takes over what the type of `old` knows better.
    /// Errors: [`NetworkError::Type`] where the types differ in dtype, rank, or a fixed size.
    pub fn replace(&mut self, old: ValueId, new: ValueId) -> Result<(), NetworkError> {
        let new = self.resolve(new);
        if old == new {
            return Ok(());
        }
        let (a, b) = (self.net.ty(old), self.net.ty(new));
        if a.dtype != b.dtype || a.rank() != b.rank() || conflicting(a, b) {
            return Err(NetworkError::Type { old, old_type: a.clone(), new, new_type: b.clone() });
        }
        if a != b
            && let Def::Node { node, .. } = self.net.value(new).def
            && node.index() >= self.first_node
        {
            let shape =
                a.shape.iter().zip(&b.shape).map(|(x, y)| if y.fixed().is_some() { y } else { x }.clone());
            let ty = TensorType::new(a.dtype, shape);
            self.net.refine(new, ty)?;
        }
        if self.replaced.len() <= old.index() {
            self.replaced.resize(old.index() + 1, None);
        }
        self.replaced[old.index()] = Some(new);
        Ok(())
    }

    /// What stands for `value` by now.
    pub fn resolve(&self, value: ValueId) -> ValueId {
        let mut v = value;
        while let Some(Some(next)) = self.replaced.get(v.index()) {
            v = *next;
        }
        v
    }

    /// Makes a node read the replacements so far.
    pub fn settle(&mut self, id: NodeId) {
        if let Some(n) = self.net.nodes[id.index()].as_mut() {
            for v in &mut n.inputs {
                while let Some(Some(next)) = self.replaced.get(v.index()) {
                    *v = *next;
                }
            }
        }
    }

    /// Performs the replacements. Errors: [`NetworkError::Cycle`].
    pub fn apply(mut self) -> Result<(), NetworkError> {
        for i in 0..self.first_node as u32 {
            self.settle(NodeId(i));
        }
        for i in 0..self.net.outputs.len() {
            let old = self.net.outputs[i];
            let new = self.resolve(old);
            if old != new {
                self.net.outputs[i] = new;
                if !matches!(self.net.values[new.index()].def, Def::Input(_)) {
                    let name = self.net.values[old.index()].name.clone();
                    self.net.values[new.index()].name = name;
                }
            }
        }
        self.net.sort()
    }
}

/// Types that cannot describe one value: some dim is fixed in both, with different sizes.
pub(crate) fn conflicting(a: &TensorType, b: &TensorType) -> bool {
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
