//! Lowering: a host graph's nodes become nodes of a [`Network`].
//!
//! A [`Lowering`] walks a graph in topological order. Each host value is a tensor of the network, or contents that are
//! [`Known`] symbolically and become a tensor only where somebody reads them as one: the shape arithmetic of a graph
//! vanishes that way. A node that cannot be lowered is *refused*: its outputs become inputs of the network.

mod facts;
mod known;
mod node;
mod remedy;

use engraft_network::{
    DType, Def, Dim, Network, NetworkError, Node, NodeId, Op, OpError, SymbolSource, TensorType, ValueId, ops,
};
use rustc_hash::FxHashMap;

pub use facts::Facts;
pub use known::{Known, MAX_ELEMENTS, Number};
pub use node::{ExprBuilder, NodeLowering, axes, axis, scalar_tensor};
pub use remedy::Remedy;

use crate::{HostDim, HostGraph, HostValue, HostValueId, dialect};

/// Why a node stays with the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Reject {
    pub reason: String,
    pub remedy: Remedy,
}

impl Reject {
    pub fn new(reason: impl Into<String>) -> Reject {
        Reject { reason: reason.into(), remedy: Remedy::default() }
    }

    /// Of a node that is not what its operator's specification allows.
    pub fn invalid(reason: impl Into<String>) -> Reject {
        Reject::new(reason).remedy(Remedy::Correct)
    }

    /// Of a node that only the host can run, or better leaves to it.
    pub fn hosted(reason: impl Into<String>) -> Reject {
        Reject::new(reason).remedy(Remedy::HostOnly)
    }

    /// States the value that an attribute, an optional operand or a result would have to have; an empty one: none.
    #[must_use]
    pub fn wants(self, name: impl Into<String>, wanted: impl Into<String>) -> Reject {
        self.remedy(Remedy::Attribute { name: name.into(), wanted: wanted.into() })
    }

    /// States what would have to change.
    #[must_use]
    pub fn remedy(self, remedy: Remedy) -> Reject {
        Reject { remedy, ..self }
    }
}

impl From<OpError> for Reject {
    fn from(error: OpError) -> Reject {
        Reject::new(error.to_string()).remedy(remedy_of(&error))
    }
}

impl From<NetworkError> for Reject {
    fn from(error: NetworkError) -> Reject {
        match error {
            NetworkError::Op { op, source, .. } => {
                Reject::new(format!("{op}: {source}")).remedy(remedy_of(&source))
            }
            other => Reject::new(other.to_string()),
        }
    }
}

/// A value whose type or rank the host does not state.
fn undeclared(host: &HostValue) -> Reject {
    let reason = match host.dtype {
        None => format!("the type of {:?} is not supported", host.name),
        Some(_) => format!("the rank of {:?} is unknown", host.name),
    };
    Reject::new(reason).remedy(Remedy::DeclareType { value: host.name.clone() })
}

/// An operator that does not take its operands: types may be learned, the rest is the model's fault.
fn remedy_of(error: &OpError) -> Remedy {
    match error {
        OpError::Type { .. } | OpError::Eval(_) => Remedy::Engraft,
        OpError::Arity { .. } | OpError::Rank { .. } | OpError::Shape(_) | OpError::Attribute { .. } => {
            Remedy::Correct
        }
    }
}

/// What a host value became.
#[derive(Clone, Debug)]
struct Lowered {
    ty: TensorType,
    /// Its tensor in the network, once somebody has asked for it.
    value: Option<ValueId>,
    known: Option<Known>,
}

/// Shape tensors longer than this are not taken for shapes when they arrive as inputs.
const MAX_INPUT_ELEMENTS: i64 = 16;

/// How many nodes that only rearrange an element is followed through.
const MAX_TRACED: u32 = 16;

/// Sizes that mention symbols more often than this are not followed further: such graphs are built to harm.
const MAX_SYMBOLS: usize = 256;

/// Tensors of more elements exist in no machine; arithmetic on their sizes could overflow.
const MAX_COUNT: i64 = 1 << 46;

fn is_absurd(ty: &TensorType) -> bool {
    let mut sizes = ty.shape.iter().filter_map(Dim::fixed);
    sizes
        .try_fold(1i64, |count, size| count.checked_mul(size.max(1)).filter(|&count| count <= MAX_COUNT))
        .is_none()
}

fn is_unwieldy(dim: &Dim) -> bool {
    let mut symbols = 0;
    dim.for_each_symbol(&mut |_| symbols += 1);
    symbols > MAX_SYMBOLS
}

/// A network in the making, and what each host value became in it.
pub struct Lowering<'g> {
    graph: &'g HostGraph,
    network: Network,
    facts: Facts,
    values: Vec<Option<Lowered>>,
    /// The host's names of dims, and what this lowering knows them to be.
    host_dims: FxHashMap<String, Dim>,
    /// Host values of the network's inputs, in their order.
    inputs: Vec<HostValueId>,
    symbol_count: usize,
    /// Symbols for elements of tensors.
    elements: FxHashMap<(ValueId, u32), Dim>,
}

impl<'g> Lowering<'g> {
    pub fn new(graph: &'g HostGraph, name: &str) -> Lowering<'g> {
        Lowering {
            graph,
            network: Network::new(name),
            facts: Facts::default(),
            values: vec![None; graph.values.len()],
            host_dims: FxHashMap::default(),
            inputs: Vec::new(),
            symbol_count: 0,
            elements: FxHashMap::default(),
        }
    }

    pub fn graph(&self) -> &'g HostGraph {
        self.graph
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Host values of the network's inputs, in their order.
    pub fn inputs(&self) -> &[HostValueId] {
        &self.inputs
    }

    pub fn is_defined(&self, value: HostValueId) -> bool {
        self.values[value.index()].is_some() || self.graph.value(value).constant.is_some()
    }

    /// Type of a defined host value.
    pub fn ty(&self, value: HostValueId) -> Option<TensorType> {
        match &self.values[value.index()] {
            Some(lowered) => Some(lowered.ty.clone()),
            None => self.graph.value(value).constant.as_ref().map(TensorType::of),
        }
    }

    /// Contents of a host value, if they are known already.
    pub fn known(&self, value: HostValueId) -> Option<Known> {
        match &self.values[value.index()] {
            Some(lowered) => lowered.known.clone(),
            None => self.graph.value(value).constant.as_ref().and_then(Known::of),
        }
    }

    /// Adds a symbol under a name that is unique in the network.
    pub fn symbol(&mut self, hint: &str, source: SymbolSource) -> Dim {
        self.symbol_count += 1;
        let taken = self.network.symbols().len();
        let id = self.network.add_symbol(hint, source.clone());
        if self.network.symbols().len() > taken {
            return Dim::symbol(id);
        }
        Dim::symbol(self.network.add_symbol(&format!("{hint}#{}", self.symbol_count), source))
    }

    /// States that a symbol may be negative.
    pub fn mark_signed(&mut self, symbol: &Dim) {
        if let Some(id) = symbol.as_symbol() {
            self.facts.mark_signed(id);
        }
    }

    /// A dim with the names of its symbols, as a name for people.
    pub fn readable(&self, dim: &Dim) -> String {
        let mut text = dim.to_string();
        let mut symbols = Vec::new();
        dim.for_each_symbol(&mut |symbol| symbols.push(symbol));
        symbols.sort_unstable();
        symbols.dedup();
        for symbol in symbols.into_iter().rev() {
            text = text.replace(&format!("s{}", symbol.0), &self.network.symbols()[symbol.0 as usize].name);
        }
        text
    }

    /// Makes `value` an input of the network, of the type that the host states.
    ///
    /// # Errors
    /// The host does not know its type or rank.
    pub fn input_from_host(&mut self, value: HostValueId) -> Result<(), Reject> {
        let host = self.graph.value(value);
        let (Some(dtype), Some(dims)) = (host.dtype, &host.shape) else { return Err(undeclared(host)) };
        let input = self.inputs.len() as u32;
        let mut shape = Vec::with_capacity(dims.len());
        for (axis, dim) in dims.iter().enumerate() {
            let source = SymbolSource::InputDim { input, axis: axis as u32 };
            shape.push(match dim {
                HostDim::Fixed(size) => {
                    Dim::Fixed(i64::try_from(*size).map_err(|_| Reject::new("a size exceeds 63 bits"))?)
                }
                HostDim::Symbol(name) => match self.host_dims.get(name) {
                    Some(dim) => dim.clone(),
                    None => {
                        let dim = self.symbol(name, source);
                        self.host_dims.insert(name.clone(), dim.clone());
                        dim
                    }
                },
                HostDim::Unknown => self.symbol(&format!("{}.{axis}", host.name), source),
            });
        }
        let ty = TensorType::new(dtype, shape);
        if is_absurd(&ty) {
            return Err(Reject::new(format!("{:?} is larger than memory", host.name)));
        }
        self.input(value, ty, None);
        Ok(())
    }

    /// Makes `value` an input of the network. Symbols in `ty` and `known` must have their sources.
    pub fn input(&mut self, value: HostValueId, ty: TensorType, known: Option<Known>) {
        let id = self.network.add_input(self.graph.value(value).name.clone(), ty.clone());
        self.inputs.push(value);
        self.values[value.index()] = Some(Lowered { ty, value: Some(id), known });
    }

    /// States type and contents of a value that is no input: nobody may read it as a tensor unless it is known.
    pub fn shadow(&mut self, value: HostValueId, ty: TensorType, known: Option<Known>) {
        self.values[value.index()] = Some(Lowered { ty, value: None, known });
    }

    /// Lowers node `index` of the graph; returns the network's nodes that it became (those that it was the first to
    /// need included). Its outputs are then defined.
    ///
    /// # Errors
    /// Why the node cannot be lowered; none of its outputs is defined then.
    pub fn lower(&mut self, index: usize) -> Result<Vec<NodeId>, Reject> {
        let host = &self.graph.nodes[index];
        let first = self.network.node_bound();
        let row = dialect::find(host)?;
        let mut node = NodeLowering::new(self, host);
        (row.lower)(&mut node)?;
        let outputs = node.finish()?;
        if outputs.iter().any(|(_, lowered)| lowered.ty.shape.iter().any(is_unwieldy)) {
            return Err(Reject::new("its shape is too complicated an expression"));
        }
        if outputs.iter().any(|(_, lowered)| is_absurd(&lowered.ty)) {
            return Err(Reject::new("its result is larger than memory"));
        }
        for (output, lowered) in outputs {
            self.learn_dims(output, &lowered.ty);
            self.values[output.index()] = Some(lowered);
        }
        Ok((first..self.network.node_bound()).map(|id| NodeId(id as u32)).collect())
    }

    /// Lowers all nodes of a graph that a node runs, with what the operands are as its inputs; returns what its outputs are.
    /// Nodes that nothing reads and that no row has may only be such that order others.
    fn lower_body(&mut self, body: &'g HostGraph, operands: Vec<Lowered>) -> Result<Vec<Lowered>, Reject> {
        let mut values = vec![None; body.values.len()];
        for (input, operand) in body.inputs.iter().zip(operands) {
            values[input.index()] = Some(operand);
        }
        let outer = std::mem::replace(&mut self.graph, body);
        let outer_values = std::mem::replace(&mut self.values, values);
        let orders = |index: usize| {
            let node = &body.nodes[index];
            node.inputs.is_empty() && node.outputs.is_empty()
        };
        let mut result = (0..body.nodes.len())
            .filter(|index| !orders(*index))
            .try_for_each(|index| self.lower(index).map(drop))
            .map(|()| Vec::with_capacity(body.outputs.len()));
        for &output in &body.outputs {
            if let Ok(lowered) = &mut result {
                match self.tensor(output).map(|_| self.values[output.index()].clone()) {
                    Ok(Some(value)) => lowered.push(value),
                    Ok(None) => result = Err(undeclared(body.value(output))),
                    Err(reject) => result = Err(reject),
                }
            }
        }
        self.graph = outer;
        self.values = outer_values;
        result
    }

    /// Makes the outputs of a node that stays with the host inputs of the network: of the types and contents that lowering
    /// it has inferred, else of those that the host states. Outputs of which neither is known stay undefined.
    pub fn leave_to_host(&mut self, index: usize) {
        for output in self.graph.nodes[index].outputs.iter().flatten().copied() {
            match self.values[output.index()].take() {
                Some(lowered) => self.input(output, lowered.ty, lowered.known),
                // A value of unknown type or rank only keeps its users with the host.
                None => drop(self.input_from_host(output)),
            }
        }
    }

    /// Takes the host's name for each dim of `value` as a name of what was inferred for it.
    fn learn_dims(&mut self, value: HostValueId, ty: &TensorType) {
        let Some(dims) = &self.graph.value(value).shape else { return };
        if dims.len() != ty.rank() {
            return;
        }
        for (host, dim) in dims.iter().zip(&ty.shape) {
            if let HostDim::Symbol(name) = host
                && !self.host_dims.contains_key(name)
            {
                self.host_dims.insert(name.clone(), dim.clone());
            }
        }
    }

    /// The contents of a value as shape arithmetic. Those of a small integer input become symbols; where they are
    /// `demanded`, so do those of a small integer tensor that the network computes, which ends a stage of its engine.
    fn contents(&mut self, value: HostValueId, demanded: bool) -> Option<Known> {
        if let Some(known) = self.known(value) {
            return Some(known);
        }
        let lowered = self.values[value.index()].as_ref()?;
        let id = lowered.value?;
        let is_input = matches!(self.network.value(id).def, Def::Input(_));
        let (dtype, rank, count) = (lowered.ty.dtype, lowered.ty.rank(), lowered.ty.count().fixed()?);
        if !(is_input || demanded)
            || !matches!(dtype, DType::I32 | DType::I64)
            || rank > 1
            || !(0..=MAX_INPUT_ELEMENTS).contains(&count)
        {
            return None;
        }
        let mut dims =
            (0..count as u32).map(|index| self.element(id, index, 0)).collect::<Vec<_>>().into_iter();
        let known = match rank {
            0 => Known::scalar(dtype, dims.next()?),
            _ => Known::vector(dtype, dims),
        };
        if is_input {
            self.values[value.index()].as_mut()?.known = Some(known.clone());
        }
        Some(known)
    }

    /// Element `index` of an integer tensor of the network: followed to where it comes from through what only rearranges,
    /// there a symbol unless it is known.
    fn element(&mut self, value: ValueId, index: u32, depth: u32) -> Dim {
        if let Some(symbol) = self.elements.get(&(value, index)) {
            return symbol.clone();
        }
        let source = match self.network.value(value).def {
            Def::Constant(_) => {
                let element = self.network.constant(value).map(|tensor| tensor.get_i64(index as usize));
                return element.unwrap_or(0).into();
            }
            Def::Input(input) => SymbolSource::InputElement { input, index },
            Def::Node { node, output } => {
                if let Some(dim) =
                    self.network.node(node).cloned().and_then(|n| self.traced(&n, index, depth))
                {
                    return dim;
                }
                SymbolSource::DataElement { node, output, index }
            }
        };
        let symbol = self.symbol(&format!("{}[{index}]", self.network.value(value).name), source);
        self.mark_signed(&symbol);
        self.elements.insert((value, index), symbol.clone());
        symbol
    }

    /// The first element of an integer tensor that the network computes, where that is a size: a symbol that is told while
    /// the engine runs, and never negative.
    fn told_size(&mut self, value: ValueId) -> Dim {
        let Def::Node { node, output } = self.network.value(value).def else {
            return self.element(value, 0, 0);
        };
        let source = SymbolSource::DataElement { node, output, index: 0 };
        let symbol = self.symbol(&format!("{}[0]", self.network.value(value).name), source);
        self.elements.insert((value, 0), symbol.clone());
        symbol
    }

    /// Element `index` of what `node` computes, if that is an element of one of its operands.
    fn traced(&mut self, node: &Node, index: u32, depth: u32) -> Option<Dim> {
        if depth >= MAX_TRACED {
            return None;
        }
        let operand = *node.inputs.first().unwrap_or(&ValueId(0));
        match &node.op {
            Op::ShapeTensor(shape) => shape.dims.get(index as usize).cloned(),
            Op::Reshape(_) => Some(self.element(operand, index, depth + 1)),
            Op::Cast(cast) if cast.to == DType::I64 && self.network.ty(operand).dtype == DType::I32 => {
                Some(self.element(operand, index, depth + 1))
            }
            Op::Concat(concat) if concat.axis == 0 && self.network.ty(operand).rank() == 1 => {
                let mut rest = i64::from(index);
                for part in &node.inputs {
                    let count = self.network.ty(*part).count().fixed()?;
                    if rest < count {
                        return Some(self.element(*part, rest as u32, depth + 1));
                    }
                    rest -= count;
                }
                None
            }
            _ => None,
        }
    }

    /// The value as a tensor of the network.
    ///
    /// # Errors
    /// Nothing defines it, or it is known in a form that has no tensor.
    pub fn tensor(&mut self, value: HostValueId) -> Result<ValueId, Reject> {
        let host = self.graph.value(value);
        if let Some(lowered) = &self.values[value.index()] {
            if let Some(id) = lowered.value {
                return Ok(id);
            }
            let known =
                lowered.known.clone().ok_or_else(|| Reject::new(format!("{:?} is outside", host.name)))?;
            let id = self.materialize(&host.name, &known)?;
            if let Some(lowered) = &mut self.values[value.index()] {
                lowered.value = Some(id);
            }
            return Ok(id);
        }
        let constant = host.constant.as_ref().ok_or_else(|| undeclared(host))?;
        let id = self.network.add_constant(host.name.clone(), constant.clone());
        let known = Known::of(constant);
        self.values[value.index()] = Some(Lowered { ty: TensorType::of(constant), value: Some(id), known });
        Ok(id)
    }

    /// Adds known contents to the network: a constant where they are fixed, else computed from the symbols.
    fn materialize(&mut self, name: &str, known: &Known) -> Result<ValueId, Reject> {
        if let Some(tensor) = known.tensor() {
            return Ok(self.network.add_constant(name, tensor));
        }
        let integer = if matches!(known.dtype, DType::I32) { DType::I32 } else { DType::I64 };
        let dims = known.dims().ok_or_else(|| Reject::new(format!("{name:?} is a fraction of a size")))?;
        let scalar = known.shape.is_empty();
        let mut value =
            self.network.add(name, ops::ShapeTensor { dims, scalar, dtype: integer }.into(), &[])?;
        if known.dtype != integer {
            value = self.network.add(name, ops::Cast { to: known.dtype }.into(), &[value])?;
        }
        if known.shape.len() > 1 {
            let shape = known.shape.iter().map(|&size| Dim::from(size)).collect();
            value = self.network.add(name, ops::Reshape { shape }.into(), &[value])?;
        }
        Ok(value)
    }

    /// Sets the network's outputs, drops what does not reach them, and hands the network over.
    ///
    /// # Errors
    /// An output that is not defined.
    pub fn finish(mut self, outputs: &[HostValueId]) -> Result<Network, Reject> {
        let mut values = Vec::with_capacity(outputs.len());
        for &output in outputs {
            values.push(self.tensor(output)?);
        }
        self.network.set_outputs(values);
        let names = outputs.iter().map(|output| self.graph.value(*output).name.clone());
        self.network.name_outputs(names.collect());
        self.network.remove_dead();
        Ok(self.network)
    }
}
