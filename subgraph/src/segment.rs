//! From a segment's nodes to its network: lowered once more, by itself, with only the inputs that it needs.

use engraft_network::{Dim, Network, SymbolId, SymbolSource, TensorType};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::lower::{Known, Lowering, Number, Reject};
use crate::{HostGraph, HostValueId};

/// A part of the host's graph that Engraft takes.
#[derive(Clone, Debug)]
pub struct Segment {
    pub name: String,
    /// Indices of host nodes, ascending (which is topological).
    pub nodes: Vec<usize>,
    /// Its inputs and outputs stand in the order of the two lists below.
    pub network: Network,
    /// Host values that the network reads. The host may count more values as the segment's inputs: those that only shape
    /// arithmetic reads which the network does by itself, and constants, which are part of the network.
    pub inputs: Vec<HostValueId>,
    /// All values of the segment that anything outside reads.
    pub outputs: Vec<HostValueId>,
}

/// Where the values of a graph are made and read.
pub(crate) struct Uses {
    /// For each value the nodes that read it, captured reads included.
    readers: Vec<Vec<u32>>,
    is_output: Vec<bool>,
}

impl Uses {
    pub fn of(graph: &HostGraph) -> Uses {
        let mut readers = vec![Vec::new(); graph.values.len()];
        let mut is_output = vec![false; graph.values.len()];
        for (index, node) in graph.nodes.iter().enumerate() {
            for value in node.uses() {
                readers[value.index()].push(index as u32);
            }
        }
        for output in &graph.outputs {
            is_output[output.index()] = true;
        }
        Uses { readers, is_output }
    }

    /// The nodes that read a value.
    pub fn readers(&self, value: HostValueId) -> impl Iterator<Item = usize> + '_ {
        self.readers[value.index()].iter().map(|&reader| reader as usize)
    }
}

/// Why a segment could not be lowered by itself: the node at fault, where one is.
#[derive(Debug)]
pub(crate) struct Fault {
    pub node: Option<usize>,
    pub reject: Reject,
}

/// Builds the segment of `nodes`; `probe` is the lowering of the whole graph.
pub(crate) fn build(
    probe: &Lowering,
    uses: &Uses,
    name: String,
    nodes: Vec<usize>,
) -> Result<Segment, Fault> {
    let graph = probe.graph();
    let inside: FxHashSet<usize> = nodes.iter().copied().collect();
    let mut made: FxHashSet<HostValueId> = FxHashSet::default();
    let (mut border, mut outputs) = (Vec::new(), Vec::new());
    let mut seen: FxHashSet<HostValueId> = FxHashSet::default();
    let crossing = |index: usize, value: HostValueId| {
        let reason = format!("{:?} is no tensor, and would leave the segment", graph.value(value).name);
        Fault { node: Some(index), reject: Reject::new(reason) }
    };
    for &index in &nodes {
        let node = &graph.nodes[index];
        for value in node.inputs.iter().flatten().copied() {
            if !made.contains(&value) && graph.value(value).constant.is_none() && seen.insert(value) {
                if graph.value(value).opaque {
                    return Err(crossing(index, value));
                }
                border.push(value);
            }
        }
        for output in node.outputs.iter().flatten().copied() {
            made.insert(output);
            let read_outside = uses.readers(output).any(|reader| !inside.contains(&reader));
            if read_outside || uses.is_output[output.index()] {
                if graph.value(output).opaque {
                    return Err(crossing(index, output));
                }
                outputs.push(output);
            }
        }
    }

    let mut live = border.clone();
    for _ in 0..3 {
        let (network, needed) = attempt(probe, &name, &nodes, &border, &live, &outputs)?;
        if needed == live {
            return Ok(Segment { name, nodes, network, inputs: live, outputs });
        }
        // An input that was left out and is needed after all comes back.
        live = if needed.iter().all(|value| live.contains(value)) { needed } else { border.clone() };
        if live == border {
            break;
        }
    }
    let (network, _) = attempt(probe, &name, &nodes, &border, &border, &outputs)?;
    Ok(Segment { name, nodes, network, inputs: border, outputs })
}

/// Lowers the segment with `live` as its inputs; the other border values are known by type only. Returns the network and
/// the border values that it needs.
fn attempt(
    probe: &Lowering,
    name: &str,
    nodes: &[usize],
    border: &[HostValueId],
    live: &[HostValueId],
    outputs: &[HostValueId],
) -> Result<(Network, Vec<HostValueId>), Fault> {
    let unlocated = |reject| Fault { node: None, reject };
    let mut lowering = Lowering::new(probe.graph(), name);
    let mut translation = Translation::new(probe, &mut lowering, live).map_err(unlocated)?;
    let mut orphans: FxHashMap<SymbolId, HostValueId> = FxHashMap::default();
    for &value in live {
        let (ty, known) = translation.describe(value, None).map_err(unlocated)?;
        lowering.input(value, ty, known);
    }
    for &value in border.iter().filter(|value| !live.contains(value)) {
        // The value is no input, so nothing gives such a dim its value: it is a symbol outside the table, and not used.
        let mut orphan = |_: &Dim| {
            let id = SymbolId(u32::MAX - orphans.len() as u32);
            orphans.insert(id, value);
            Dim::symbol(id)
        };
        let (ty, known) = translation.describe(value, Some(&mut orphan)).map_err(unlocated)?;
        lowering.shadow(value, ty, known);
    }
    for &index in nodes {
        lowering.lower(index).map_err(|reject| Fault { node: Some(index), reject })?;
    }
    let network = lowering.finish(outputs).map_err(unlocated)?;

    let (read, symbols) = demand(&network);
    let mut needed: FxHashSet<HostValueId> =
        live.iter().enumerate().filter(|(index, _)| read[*index]).map(|(_, &value)| value).collect();
    for symbol in symbols {
        if let Some(&value) = orphans.get(&symbol) {
            needed.insert(value);
            continue;
        }
        match network.symbols()[symbol.0 as usize].source {
            SymbolSource::InputDim { input, .. } | SymbolSource::InputElement { input, .. } => {
                if let Some(&value) = live.get(input as usize) {
                    needed.insert(value);
                }
            }
            SymbolSource::Data { .. } | SymbolSource::DataElement { .. } => {}
        }
    }
    let needed = border.iter().copied().filter(|value| needed.contains(value)).collect();
    Ok((network, needed))
}

/// Which inputs a network reads as tensors, and the symbols that anything but the inputs' own types mentions.
fn demand(network: &Network) -> (Vec<bool>, FxHashSet<SymbolId>) {
    let mut read: FxHashSet<_> = network.outputs().iter().copied().collect();
    let mut symbols = FxHashSet::default();
    let mut note = |ty: &TensorType| {
        for dim in &ty.shape {
            dim.for_each_symbol(&mut |symbol| {
                symbols.insert(symbol);
            });
        }
    };
    for (_, node) in network.nodes() {
        read.extend(node.inputs.iter().copied());
        for &value in &node.outputs {
            note(network.ty(value));
        }
        for &value in &node.inputs {
            note(network.ty(value));
        }
    }
    for &value in network.outputs() {
        note(network.ty(value));
    }
    for (_, node) in network.nodes() {
        node.op.clone().map_dims(&mut |dim| {
            dim.for_each_symbol(&mut |symbol| {
                symbols.insert(symbol);
            });
            dim.clone()
        });
    }
    (network.inputs().iter().map(|input| read.contains(input)).collect(), symbols)
}

/// Dims of the whole graph in terms of one segment's inputs.
struct Translation<'p, 'g> {
    probe: &'p Lowering<'g>,
    symbols: FxHashMap<SymbolId, Dim>,
    /// Dims whose symbols the segment does not have: each is a symbol of its own.
    composites: FxHashMap<Dim, Dim>,
}

impl<'p, 'g> Translation<'p, 'g> {
    fn new(probe: &'p Lowering<'g>, lowering: &mut Lowering, live: &[HostValueId]) -> Result<Self, Reject> {
        let mut this = Translation { probe, symbols: FxHashMap::default(), composites: FxHashMap::default() };
        let types = live
            .iter()
            .map(|&value| {
                probe.ty(value).ok_or_else(|| {
                    Reject::new(format!("{:?} has no known type", probe.graph().value(value).name))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        // What gives symbols their values: plain dims first, then plain elements, then whole expressions.
        for plain in [true, false] {
            for (input, ty) in types.iter().enumerate() {
                for (axis, dim) in ty.shape.iter().enumerate() {
                    let source = SymbolSource::InputDim { input: input as u32, axis: axis as u32 };
                    this.define(lowering, dim, source, plain);
                }
            }
            for (input, &value) in live.iter().enumerate() {
                let elements = probe.known(value).and_then(|known| known.dims()).unwrap_or_default();
                for (index, dim) in elements.iter().enumerate() {
                    let source = SymbolSource::InputElement { input: input as u32, index: index as u32 };
                    this.define(lowering, dim, source, plain);
                }
            }
        }
        Ok(this)
    }

    fn define(&mut self, lowering: &mut Lowering, dim: &Dim, source: SymbolSource, plain: bool) {
        let symbol = dim.as_symbol();
        if dim.fixed().is_some() || plain != symbol.is_some() || self.translate(dim).is_some() {
            return;
        }
        let hint = match symbol {
            Some(symbol) => self.probe.network().symbols()[symbol.0 as usize].name.clone(),
            None => self.probe.readable(dim),
        };
        let made = lowering.symbol(&hint, source);
        if self.probe.facts().may_be_signed(dim) {
            lowering.mark_signed(&made);
        }
        match symbol {
            Some(symbol) => self.symbols.insert(symbol, made),
            None => self.composites.insert(dim.clone(), made),
        };
    }

    fn translate(&self, dim: &Dim) -> Option<Dim> {
        if let Some(known) = self.composites.get(dim) {
            return Some(known.clone());
        }
        let mut complete = true;
        dim.for_each_symbol(&mut |symbol| complete &= self.symbols.contains_key(&symbol));
        complete
            .then(|| dim.substitute(&|symbol| self.symbols.get(&symbol).cloned().unwrap_or(Dim::Fixed(0))))
    }

    /// Type and contents of a border value. `orphan` stands in for dims that the segment cannot express.
    fn describe(
        &mut self,
        value: HostValueId,
        mut orphan: Option<&mut dyn FnMut(&Dim) -> Dim>,
    ) -> Result<(TensorType, Option<Known>), Reject> {
        let name = &self.probe.graph().value(value).name;
        let ty = self.probe.ty(value).ok_or_else(|| Reject::new(format!("{name:?} has no known type")))?;
        let mut shape = Vec::with_capacity(ty.rank());
        for dim in &ty.shape {
            let translated = match (self.translate(dim), &mut orphan) {
                (Some(dim), _) => dim,
                (None, Some(orphan)) => {
                    let made = orphan(dim);
                    self.composites.insert(dim.clone(), made.clone());
                    made
                }
                (None, None) => return Err(Reject::new(format!("a dim of {name:?} cannot be expressed"))),
            };
            shape.push(translated);
        }
        let known = self.probe.known(value).and_then(|known| {
            let elements = known
                .elements
                .iter()
                .map(|element| element.map(|dim| self.translate(dim)))
                .collect::<Option<Vec<Number>>>()?;
            Some(Known { elements, ..known })
        });
        Ok((TensorType::new(ty.dtype, shape), known))
    }
}
