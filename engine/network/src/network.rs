//! Networks: operators over typed values in SSA form.

use crate::{DType, Dim, Op, OpError, SymbolId, Tensor};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;

macro_rules! id {
    ($(#[$m:meta])* $name:ident, $prefix:literal) => {
        $(#[$m])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u32);
        impl $name {
            pub fn index(self) -> usize { self.0 as usize }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($prefix, "{}"), self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
    };
}
id!(
    /// A node of a network. Ids are stable under passes; [`Network::compact`] renumbers.
    NodeId, "n");
id!(
    /// A value of a network: an input, a constant, or an output of a node.
    ValueId, "%");
id!(
    /// Position in the network's table of constants.
    ConstantId, "c");

/// Element type and symbolic shape of a value. Layouts are the engine's business: a value is logically row-major.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    pub dtype: DType,
    pub shape: SmallVec<[Dim; 4]>,
}

impl TensorType {
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = Dim>) -> TensorType {
        TensorType { dtype, shape: shape.into_iter().collect() }
    }

    pub fn of(tensor: &Tensor) -> TensorType {
        TensorType::new(tensor.dtype(), tensor.shape().iter().map(|&d| Dim::from(d)))
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn count(&self) -> Dim {
        Dim::product(&self.shape)
    }

    /// False if the types cannot describe one value: another dtype or rank, or a dim fixed in both at different sizes.
    pub fn may_equal(&self, other: &TensorType) -> bool {
        let differ = |(a, b): (&Dim, &Dim)| matches!((a.fixed(), b.fixed()), (Some(m), Some(n)) if m != n);
        self.dtype == other.dtype
            && self.rank() == other.rank()
            && !self.shape.iter().zip(&other.shape).any(differ)
    }

    /// The shape, if all of it is fixed.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.fixed().and_then(|n| usize::try_from(n).ok())).collect()
    }
}

impl fmt::Display for TensorType {
    /// `f32[s0,3,224,224]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a symbol's value comes from at run time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SymbolSource {
    /// The size of an input along an axis (the first input that has the symbol alone as a dim).
    InputDim { input: u32, axis: u32 },
    /// Element `index` (row-major) of an integer input: a shape tensor's value.
    InputElement { input: u32, index: u32 },
    /// The size of a node's output along an axis, known once the node has run (NonZero and its like).
    Data { node: NodeId, output: u32, axis: u32 },
    /// Element `index` of an integer value that a node computes: known once the node has run.
    DataElement { node: NodeId, output: u32, index: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Symbol {
    /// The host's name for the dim, or one made up; unique in the network.
    pub name: String,
    pub source: SymbolSource,
}

/// What defines a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Def {
    /// Input of the network, by position.
    Input(u32),
    Constant(ConstantId),
    Node {
        node: NodeId,
        output: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Value {
    /// For people; need not be unique.
    pub name: String,
    pub ty: TensorType,
    pub def: Def,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    /// For people: the host's name of the node(s) it came from.
    pub name: String,
    pub op: Op,
    pub inputs: SmallVec<[ValueId; 4]>,
    pub outputs: SmallVec<[ValueId; 1]>,
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("node `{name}` ({op}): {source}")]
    Op { name: String, op: &'static str, source: OpError },
    #[error("replacing {old} ({old_type}) by {new} ({new_type}) changes the type")]
    Type { old: ValueId, old_type: TensorType, new: ValueId, new_type: TensorType },
    #[error("the patch would make a cycle through node `{0}`")]
    Cycle(String),
    #[error("{0}")]
    Invalid(String),
}

/// A graph of operators over typed values in SSA form.
///
/// Nodes removed by passes leave empty slots, so ids stay valid; [`Network::compact`] squeezes them out. The order of
/// [`Network::nodes`] is topological. Constants are held beside the graph and are not part of its serialised form: the
/// plan stores them in a section of their own ([`Network::attach_constants`]).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Network {
    pub name: String,
    pub(crate) nodes: Vec<Option<Node>>,
    /// Topological order of the live nodes.
    pub(crate) order: Vec<NodeId>,
    pub(crate) values: Vec<Value>,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) outputs: Vec<ValueId>,
    /// What the caller knows the outputs as, in their order; may be shorter than they are.
    pub(crate) output_names: Vec<String>,
    pub(crate) symbols: Vec<Symbol>,
    #[serde(skip)]
    pub(crate) constants: Vec<Tensor>,
}

impl Network {
    pub fn new(name: impl Into<String>) -> Network {
        Network { name: name.into(), ..Network::default() }
    }

    // ---- building ----

    /// Adds a symbol; names must be unique (an existing symbol of that name is returned as it is).
    pub fn add_symbol(&mut self, name: &str, source: SymbolSource) -> SymbolId {
        if let Some(i) = self.symbols.iter().position(|s| s.name == name) {
            return SymbolId(i as u32);
        }
        self.symbols.push(Symbol { name: name.to_owned(), source });
        SymbolId(self.symbols.len() as u32 - 1)
    }

    pub fn set_symbol_source(&mut self, id: SymbolId, source: SymbolSource) {
        self.symbols[id.0 as usize].source = source;
    }

    pub fn add_input(&mut self, name: impl Into<String>, ty: TensorType) -> ValueId {
        let v = self.add_value(name.into(), ty, Def::Input(self.inputs.len() as u32));
        self.inputs.push(v);
        v
    }

    pub fn add_constant(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        let id = ConstantId(self.constants.len() as u32);
        let v = self.add_value(name.into(), TensorType::of(&tensor), Def::Constant(id));
        self.constants.push(tensor);
        v
    }

    /// Appends a node whose outputs' types are inferred. Fresh symbols of data-dependent sizes are added to the table.
    /// Errors: [`NetworkError::Op`] where the operator does not take these inputs.
    pub fn add_node(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<SmallVec<[ValueId; 1]>, NetworkError> {
        let name = name.into();
        let id = NodeId(self.nodes.len() as u32);
        let types = self.infer(&name, &op, inputs, id)?;
        let single = types.len() == 1;
        let outputs: SmallVec<[ValueId; 1]> = types
            .into_iter()
            .enumerate()
            .map(|(i, ty)| {
                let vname = if single { name.clone() } else { format!("{name}:{i}") };
                self.add_value(vname, ty, Def::Node { node: id, output: i as u32 })
            })
            .collect();
        self.nodes.push(Some(Node { name, op, inputs: inputs.into(), outputs: outputs.clone() }));
        self.order.push(id);
        Ok(outputs)
    }

    /// [`Network::add_node`] for operators of one output.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, NetworkError> {
        Ok(self.add_node(name, op, inputs)?[0])
    }

    pub fn set_outputs(&mut self, outputs: Vec<ValueId>) {
        self.outputs = outputs;
        self.output_names.clear();
    }

    /// Names the outputs, in their order, for those who run the network; passes keep these names.
    pub fn name_outputs(&mut self, names: Vec<String>) {
        self.output_names = names;
    }

    /// The output's given name, or that of its value.
    pub fn output_name(&self, index: usize) -> &str {
        match self.output_names.get(index) {
            Some(name) => name,
            None => self.outputs.get(index).map_or("", |value| &self.value(*value).name),
        }
    }

    fn add_value(&mut self, name: String, ty: TensorType, def: Def) -> ValueId {
        self.values.push(Value { name, ty, def });
        ValueId(self.values.len() as u32 - 1)
    }

    fn infer(
        &mut self,
        name: &str,
        op: &Op,
        inputs: &[ValueId],
        id: NodeId,
    ) -> Result<SmallVec<[TensorType; 1]>, NetworkError> {
        let types: SmallVec<[&TensorType; 4]> = inputs.iter().map(|v| &self.values[v.index()].ty).collect();
        let base = self.symbols.len() as u32;
        let mut fresh: Vec<Symbol> = Vec::new();
        let out = op
            .infer(&types, &mut |output, axis| {
                let n = base + fresh.len() as u32;
                fresh.push(Symbol {
                    name: format!("{name}.{output}.{axis}#{n}"),
                    source: SymbolSource::Data { node: id, output, axis },
                });
                Dim::symbol(SymbolId(n))
            })
            .map_err(|source| NetworkError::Op { name: name.to_owned(), op: op.name(), source })?;
        self.symbols.append(&mut fresh);
        Ok(out)
    }

    /// Gives a value a type that says more (symbols resolved to what the host knows); rank and dtype must stay.
    pub fn refine(&mut self, value: ValueId, ty: TensorType) -> Result<(), NetworkError> {
        let old = &self.values[value.index()].ty;
        if old.dtype != ty.dtype || old.rank() != ty.rank() {
            return Err(NetworkError::Type { old: value, old_type: old.clone(), new: value, new_type: ty });
        }
        self.values[value.index()].ty = ty;
        Ok(())
    }

    // ---- reading ----

    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    pub fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.values[id.index()].ty
    }

    pub fn value_count(&self) -> usize {
        self.values.len()
    }

    /// Live nodes in topological order.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> + Clone {
        self.order.iter().filter_map(|&id| Some((id, self.nodes[id.index()].as_ref()?)))
    }

    pub fn node_count(&self) -> usize {
        self.order.len()
    }

    /// Upper bound of node indices (for tables indexed by [`NodeId`]).
    pub fn node_bound(&self) -> usize {
        self.nodes.len()
    }

    /// The node; `None` once it is removed.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())?.as_ref()
    }

    /// The node that defines `value`, if a node does.
    pub fn producer(&self, value: ValueId) -> Option<(NodeId, &Node)> {
        match self.value(value).def {
            Def::Node { node, .. } => Some((node, self.node(node)?)),
            _ => None,
        }
    }

    pub fn constant(&self, value: ValueId) -> Option<&Tensor> {
        match self.value(value).def {
            Def::Constant(c) => self.constants.get(c.index()),
            _ => None,
        }
    }

    pub fn constants(&self) -> &[Tensor] {
        &self.constants
    }

    /// Sets the constants of a deserialised network: one per [`ConstantId`], of the type that the value says.
    pub fn attach_constants(&mut self, constants: Vec<Tensor>) -> Result<(), NetworkError> {
        for v in &self.values {
            if let Def::Constant(c) = v.def {
                let t = constants.get(c.index()).ok_or_else(|| {
                    NetworkError::Invalid(format!("constant {c} (`{}`) is missing", v.name))
                })?;
                if TensorType::of(t) != v.ty {
                    return Err(NetworkError::Invalid(format!(
                        "constant {c} (`{}`) is {}, not {}",
                        v.name,
                        TensorType::of(t),
                        v.ty
                    )));
                }
            }
        }
        self.constants = constants;
        Ok(())
    }

    /// Gives the input at `position` a value for good: it becomes a constant, and later inputs move up by one.
    /// Errors: there is no such input, or it is not of this very type (a size that the input was to tell cannot be bound).
    pub fn bind_input(&mut self, position: usize, tensor: Tensor) -> Result<(), NetworkError> {
        let invalid = |reason: String| NetworkError::Invalid(format!("input {position}: {reason}"));
        let id =
            *self.inputs.get(position).ok_or_else(|| invalid(format!("there are {}", self.inputs.len())))?;
        let (ty, given) = (self.ty(id), TensorType::of(&tensor));
        if *ty != given {
            return Err(invalid(format!("it is {ty}, not {given}")));
        }
        for symbol in &mut self.symbols {
            if let SymbolSource::InputDim { input, .. } | SymbolSource::InputElement { input, .. } =
                &mut symbol.source
            {
                match (*input as usize).cmp(&position) {
                    Ordering::Less => (),
                    Ordering::Equal => return Err(invalid(format!("it tells `{}`", symbol.name))),
                    Ordering::Greater => *input -= 1,
                }
            }
        }
        let constant = ConstantId(self.constants.len() as u32);
        self.constants.push(tensor);
        self.values[id.index()].def = Def::Constant(constant);
        self.inputs.remove(position);
        for (index, input) in self.inputs.iter().enumerate().skip(position) {
            self.values[input.index()].def = Def::Input(index as u32);
        }
        Ok(())
    }

    /// For every value the nodes that read it (a node once per operand position that reads it).
    pub fn consumers(&self) -> Vec<SmallVec<[NodeId; 2]>> {
        let mut c = vec![SmallVec::new(); self.values.len()];
        for (id, n) in self.nodes() {
            for v in &n.inputs {
                c[v.index()].push(id);
            }
        }
        c
    }

    /// Uses per value: operand positions of nodes plus appearances among the outputs.
    pub fn use_counts(&self) -> Vec<u32> {
        let mut c = vec![0; self.values.len()];
        for (_, n) in self.nodes() {
            for v in &n.inputs {
                c[v.index()] += 1;
            }
        }
        for v in &self.outputs {
            c[v.index()] += 1;
        }
        c
    }

    // ---- changing (passes go through `Patch`) ----

    pub(crate) fn sort(&mut self) -> Result<(), NetworkError> {
        let mut state = vec![0u8; self.nodes.len()];
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut stack: Vec<(NodeId, usize)> = Vec::new();
        // Start from the old order, so that the result stays close to it.
        let mut roots = self.order.clone();
        let known: std::collections::HashSet<NodeId> = roots.iter().copied().collect();
        roots.extend((0..self.nodes.len() as u32).map(NodeId).filter(|n| !known.contains(n)));
        for root in roots {
            if state[root.index()] != 0 || self.nodes[root.index()].is_none() {
                continue;
            }
            stack.push((root, 0));
            state[root.index()] = 1;
            while let Some((id, next)) = stack.pop() {
                let Some(node) = self.nodes[id.index()].as_ref() else { continue };
                match node.inputs.get(next) {
                    Some(v) => {
                        stack.push((id, next + 1));
                        if let Def::Node { node: p, .. } = self.values[v.index()].def
                            && self.nodes[p.index()].is_some()
                        {
                            match state[p.index()] {
                                0 => {
                                    state[p.index()] = 1;
                                    stack.push((p, 0));
                                }
                                1 => return Err(NetworkError::Cycle(node.name.clone())),
                                _ => {}
                            }
                        }
                    }
                    None => {
                        state[id.index()] = 2;
                        order.push(id);
                    }
                }
            }
        }
        self.order = order;
        Ok(())
    }

    /// Removes nodes whose outputs nobody uses, not even as sizes; returns how many.
    pub fn remove_dead(&mut self) -> usize {
        let mut uses = self.use_counts();
        let mut told: HashMap<NodeId, Vec<usize>> = HashMap::new();
        for (i, s) in self.symbols.iter().enumerate() {
            if let SymbolSource::Data { node, .. } | SymbolSource::DataElement { node, .. } = s.source {
                told.entry(node).or_default().push(i);
            }
        }
        let mut mentioned = vec![false; self.symbols.len()];
        let mut removed = 0;
        for id in self.order.clone().into_iter().rev() {
            let Some(n) = &self.nodes[id.index()] else { continue };
            let tells = told.get(&id).is_some_and(|symbols| symbols.iter().any(|s| mentioned[*s]));
            if n.outputs.iter().all(|v| uses[v.index()] == 0) && !tells {
                for v in &n.inputs {
                    uses[v.index()] -= 1;
                }
                self.nodes[id.index()] = None;
                removed += 1;
            } else if !told.is_empty() {
                self.note_symbols(id, &mut mentioned);
            }
        }
        self.order.retain(|id| self.nodes[id.index()].is_some());
        removed
    }

    /// By [`SymbolId`]: whether the operators or the types of the nodes' results mention the symbol.
    pub fn mentioned_symbols(&self) -> Vec<bool> {
        let mut mentioned = vec![false; self.symbols.len()];
        for id in &self.order {
            self.note_symbols(*id, &mut mentioned);
        }
        mentioned
    }

    fn note_symbols(&self, id: NodeId, mentioned: &mut [bool]) {
        let Some(n) = &self.nodes[id.index()] else { return };
        // While a network is made, dims may stand for symbols outside the table.
        let mut note = |d: &Dim| {
            d.for_each_symbol(&mut |s| {
                if let Some(m) = mentioned.get_mut(s.0 as usize) {
                    *m = true;
                }
            });
        };
        n.outputs.iter().for_each(|v| self.ty(*v).shape.iter().for_each(&mut note));
        n.op.clone().map_dims(&mut |d| {
            note(d);
            d.clone()
        });
    }

    /// Squeezes out removed nodes, unused values and unused constants. Ids change; symbols keep theirs.
    pub fn compact(&mut self) {
        let mut live = vec![false; self.values.len()];
        for v in self.inputs.iter().chain(&self.outputs) {
            live[v.index()] = true;
        }
        for (_, n) in self.nodes() {
            for v in n.inputs.iter().chain(&n.outputs) {
                live[v.index()] = true;
            }
        }
        let mut node_map = vec![NodeId(u32::MAX); self.nodes.len()];
        for (i, id) in self.order.iter().enumerate() {
            node_map[id.index()] = NodeId(i as u32);
        }
        let mut constants = Vec::new();
        let mut value_map = vec![ValueId(u32::MAX); self.values.len()];
        let mut values = Vec::new();
        for (i, v) in self.values.iter().enumerate() {
            if !live[i] {
                continue;
            }
            value_map[i] = ValueId(values.len() as u32);
            let mut v = v.clone();
            v.def = match v.def {
                Def::Constant(c) => {
                    constants.push(self.constants[c.index()].clone());
                    Def::Constant(ConstantId(constants.len() as u32 - 1))
                }
                Def::Node { node, output } => Def::Node { node: node_map[node.index()], output },
                d @ Def::Input(_) => d,
            };
            values.push(v);
        }
        let mut nodes = Vec::with_capacity(self.order.len());
        for id in &self.order {
            if let Some(mut n) = self.nodes[id.index()].take() {
                for v in n.inputs.iter_mut().chain(n.outputs.iter_mut()) {
                    *v = value_map[v.index()];
                }
                nodes.push(Some(n));
            }
        }
        for v in self.inputs.iter_mut().chain(self.outputs.iter_mut()) {
            *v = value_map[v.index()];
        }
        for s in &mut self.symbols {
            if let SymbolSource::Data { node, .. } | SymbolSource::DataElement { node, .. } = &mut s.source
                && let Some(n) = node_map.get(node.index())
            {
                *node = *n;
            }
        }
        self.order = (0..nodes.len() as u32).map(NodeId).collect();
        self.nodes = nodes;
        self.values = values;
        self.constants = constants;
    }
}
