//! `GraphDef` to [`HostGraph`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use rustc_hash::{FxHashMap, FxHashSet};
use thiserror::Error;

use super::proto::{Attr, NodeDef};
use super::{DOMAIN, VERSION, inline, outputs, pinned, tensor, wire};
use crate::{Attribute, DType, HostDim, HostGraph, HostNode, HostValue, HostValueId};

/// Why a graph could not be read. Operators are not judged here: a graph of unknown operators reads well.
#[derive(Debug, Error)]
pub enum GraphError {
    #[error("not a TensorFlow graph")]
    Decode(#[from] prost::DecodeError),
    #[error("node {node:?}, {field}: {reason}")]
    Node { node: String, field: String, reason: String },
    #[error("the graph has no node {0:?}, which was named as an end of it")]
    End(String),
    #[error("the nodes {} form a cycle", .nodes.join(", "))]
    Cycle { nodes: Vec<String> },
}

impl GraphError {
    pub(super) fn node(node: &str, field: impl Into<String>, reason: impl Into<String>) -> GraphError {
        GraphError::Node { node: node.to_owned(), field: field.into(), reason: reason.into() }
    }
}

/// What is known of a tensor beside what the graph states.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    pub dtype: Option<DType>,
    /// `None`: the rank is unknown.
    pub shape: Option<Vec<HostDim>>,
}

/// Where a graph begins and ends for those who run it. Tensors are spelled `node:output`; `node` is its output 0.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Tensors whose values are given, beside those of placeholders and arguments. Where the list is empty, placeholders with a
    /// default count as given.
    pub feeds: Vec<String>,
    /// Tensors that are asked for. Where both this and `preserved` are empty, and the graph returns nothing by itself: every
    /// tensor that no node reads.
    pub fetches: Vec<String>,
    /// Nodes that must go on existing under their names.
    pub preserved: Vec<String>,
    /// Types of tensors that the graph does not state.
    pub known: BTreeMap<String, Known>,
}

/// A graph that was read.
#[derive(Debug)]
pub struct Model {
    /// Calls of functions are replaced by their bodies, `Const` nodes have become constants. A value's name is its tensor's:
    /// `node:output`.
    pub graph: HostGraph,
    pub(super) source: Source,
}

/// The messages that a graph was read from.
#[derive(Debug)]
pub(super) struct Source {
    pub nodes: Vec<Node>,
    pub library: Bytes,
    /// All other fields.
    pub rest: Vec<Bytes>,
    /// Nodes that go on existing under their names.
    pub preserved: BTreeSet<String>,
}

/// A node, and the message that it was decoded from.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub def: NodeDef,
    pub raw: Bytes,
}

impl Node {
    pub fn decode(raw: Bytes) -> Result<Node, prost::DecodeError> {
        Ok(Node { def: NodeDef::decode(raw.clone())?, raw })
    }

    pub fn new(def: NodeDef) -> Node {
        Node { raw: def.encode_to_vec().into(), def }
    }

    /// The message with the name, inputs and device of `def`; all else as it came.
    ///
    /// # Errors
    /// The message is none.
    pub fn renamed(&self, def: NodeDef) -> Result<Node, prost::DecodeError> {
        let mut raw = Vec::with_capacity(self.raw.len());
        let named = NodeDef {
            name: def.name.clone(),
            input: def.input.clone(),
            device: def.device.clone(),
            ..NodeDef::default()
        };
        named.encode(&mut raw).unwrap_or_else(|_| unreachable!("a vector grows"));
        for field in wire::fields(&self.raw)? {
            if !matches!(field.number, 1 | 3 | 4) {
                raw.extend_from_slice(&field.whole);
            }
        }
        Ok(Node { def, raw: raw.into() })
    }
}

/// Node and output that an input names; `None`: it is a control input.
pub(super) fn tensor_name(input: &str) -> (&str, Option<usize>) {
    if let Some(node) = input.strip_prefix('^') {
        return (node, None);
    }
    match input.rsplit_once(':') {
        Some((node, output)) => match output.parse() {
            Ok(output) => (node, Some(output)),
            Err(_) => (input, Some(0)),
        },
        None => (input, Some(0)),
    }
}

/// Reads a graph from the bytes of a `GraphDef`.
///
/// # Errors
/// [`GraphError`], naming the node at fault.
pub fn read(bytes: impl Into<Bytes>, ends: &Ends) -> Result<Model, GraphError> {
    let source = Source::decode(bytes.into(), ends)?;
    let mut graph = Reader::new(&source, ends)?.graph(ends)?;
    if graph.nodes.iter().any(|node| !bodies(&node.op_type).is_empty()) {
        let functions = inline::Functions::decode(&source.library)?;
        attach_bodies(&mut graph, &source.nodes, &functions, MAX_DEPTH);
    }
    Ok(Model { graph, source })
}

/// Functions inside functions beyond this depth are not looked at: they may call themselves.
const MAX_DEPTH: usize = 8;

/// The attributes of an operator that name functions which it runs.
fn bodies(op: &str) -> &'static [&'static str] {
    match op {
        "While" | "StatelessWhile" => &["body", "cond"],
        "If" | "StatelessIf" => &["then_branch", "else_branch"],
        "PartitionedCall" | "StatefulPartitionedCall" => &["f"],
        _ => &[],
    }
}

/// Gives nodes that run functions the graphs of these functions, as attributes. Functions that are not there, or that cannot
/// stand as graphs, stay names.
fn attach_bodies(graph: &mut HostGraph, nodes: &[Node], functions: &inline::Functions, depth: usize) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let names: FxHashMap<&str, &NodeDef> = nodes.iter().map(|node| (&node.def.name[..], &node.def)).collect();
    for node in &mut graph.nodes {
        for name in bodies(&node.op_type) {
            let def = names.get(&node.name[..]);
            if let Some(Attr::Func(function)) = def.and_then(|def| def.attr.get(*name)?.value.as_ref())
                && let Some((nodes, results)) = functions.graph(&function.name)
                && let Ok(mut body) = function_graph(&nodes, &results)
            {
                attach_bodies(&mut body, &nodes, functions, depth);
                node.attributes.insert((*name).to_owned(), Attribute::Graph(Box::new(body)));
            }
        }
    }
}

/// The graph of a function; its outputs are the results, each as often as it is one.
fn function_graph(nodes: &[Node], results: &[String]) -> Result<HostGraph, GraphError> {
    let ends = Ends { fetches: results.to_vec(), ..Ends::default() };
    let source =
        Source { nodes: nodes.to_vec(), library: Bytes::new(), rest: Vec::new(), preserved: BTreeSet::new() };
    let mut graph = Reader::new(&source, &ends)?.graph(&ends)?;
    let find = |result: &String| {
        let (node, output) = tensor_name(result);
        let name = format!("{node}:{}", output.unwrap_or(0));
        let position = graph.values.iter().position(|value| value.name == name);
        position.map(|index| HostValueId(index as u32)).ok_or_else(|| GraphError::End(result.clone()))
    };
    graph.outputs = results.iter().map(find).collect::<Result<_, _>>()?;
    Ok(graph)
}

impl Source {
    fn decode(bytes: Bytes, ends: &Ends) -> Result<Source, GraphError> {
        let (mut nodes, mut rest, mut library) = (Vec::new(), Vec::new(), Vec::new());
        for field in wire::fields(&bytes)? {
            match field.number {
                1 => nodes.push(Node::decode(field.content)?),
                2 => library.extend_from_slice(&field.content),
                _ => rest.push(field.whole),
            }
        }
        let library = Bytes::from(library);
        let preserved: BTreeSet<String> = ends
            .preserved
            .iter()
            .map(String::as_str)
            .chain(ends.fetches.iter().map(|fetch| tensor_name(fetch).0))
            .map(str::to_owned)
            .collect();
        inline::inline(&mut nodes, &library, &preserved)?;
        Ok(Source { nodes, library, rest, preserved })
    }
}

/// Operators whose values are given when the graph runs.
fn is_input(op: &str) -> bool {
    matches!(op, "Placeholder" | "PlaceholderV2" | "_Arg" | "_DeviceArg")
}

/// Operators that run for what they do, not for what they give.
fn is_silent(op: &str) -> bool {
    matches!(op, "NoOp" | "Assert" | "Const")
}

struct Reader<'a> {
    nodes: &'a [Node],
    names: FxHashMap<&'a str, usize>,
    graph: HostGraph,
    /// For each node its tensors.
    tensors: Vec<Vec<HostValueId>>,
    done: FxHashMap<usize, HostValueId>,
    given: FxHashSet<HostValueId>,
}

impl<'a> Reader<'a> {
    fn new(source: &'a Source, ends: &Ends) -> Result<Reader<'a>, GraphError> {
        let nodes = &source.nodes;
        let mut names = FxHashMap::default();
        for (index, node) in nodes.iter().enumerate() {
            if names.insert(&node.def.name[..], index).is_some() {
                return Err(GraphError::node(&node.def.name, "name", "another node has it too"));
            }
        }
        let graph = HostGraph {
            name: "engraft".to_owned(),
            opsets: [(DOMAIN.to_owned(), VERSION)].into(),
            ..HostGraph::default()
        };
        let mut this = Reader {
            nodes,
            names,
            graph,
            tensors: Vec::with_capacity(nodes.len()),
            done: FxHashMap::default(),
            given: FxHashSet::default(),
        };
        this.add_tensors(ends)?;
        Ok(this)
    }

    /// Adds the values of all nodes.
    fn add_tensors(&mut self, ends: &Ends) -> Result<(), GraphError> {
        // Outputs that anything names: of an operator that is not known these are all that are told.
        let mut named = vec![0usize; self.nodes.len()];
        for node in self.nodes {
            for input in &node.def.input {
                let (from, output) = tensor_name(input);
                let &from = self.names.get(from).ok_or_else(|| {
                    GraphError::node(&node.def.name, "input", format!("there is no node {from:?}"))
                })?;
                const MAX: usize = 1 << 16;
                if let Some(output) = output {
                    if output >= MAX {
                        return Err(GraphError::node(
                            &node.def.name,
                            "input",
                            format!("{input:?} is no output"),
                        ));
                    }
                    named[from] = named[from].max(output + 1);
                }
            }
        }
        for fetch in &ends.fetches {
            if let (node, Some(output)) = tensor_name(fetch)
                && let Some(&index) = self.names.get(node)
            {
                named[index] = named[index].max(output.min(1 << 16) + 1);
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let def = &node.def;
            let types = match outputs::outputs(def) {
                Some(outputs) if outputs.types.len() >= named[index] => outputs.types,
                Some(outputs) => {
                    let reason = format!("output {} of {}", named[index] - 1, outputs.types.len());
                    return Err(GraphError::node(&def.name, "output", reason));
                }
                None => vec![0; named[index]],
            };
            let constant = match (&def.op[..], def.attr.get("value").and_then(|attr| attr.value.as_ref())) {
                ("Const", Some(Attr::Tensor(proto))) if tensor::dtype(proto.dtype).is_some() => Some(
                    tensor::tensor(proto).map_err(|reason| GraphError::node(&def.name, "value", reason))?,
                ),
                _ => None,
            };
            let shapes = self.stated_shapes(def, types.len());
            let mut tensors = Vec::with_capacity(types.len());
            for (output, (number, shape)) in types.into_iter().zip(shapes).enumerate() {
                let name = format!("{}:{output}", def.name);
                let known = ends
                    .known
                    .get(&name)
                    .or_else(|| (output == 0).then(|| ends.known.get(&def.name)).flatten());
                let dtype = tensor::dtype(number).or_else(|| known?.dtype);
                let shape = shape.or_else(|| known?.shape.clone());
                let constant = if output == 0 { constant.clone() } else { None };
                let opaque = dtype.is_none();
                tensors.push(self.graph.add_value(HostValue { name, dtype, shape, constant, opaque }));
            }
            self.tensors.push(tensors);
        }
        Ok(())
    }

    /// Shapes of a node's outputs, where it states them.
    fn stated_shapes(&self, node: &NodeDef, count: usize) -> Vec<Option<Vec<HostDim>>> {
        let attribute = |node: &NodeDef, name: &str| match node.attr.get(name)?.value.as_ref()? {
            Attr::Shape(proto) => Some(vec![tensor::shape(proto)]),
            Attr::List(list) => Some(list.shape.iter().map(tensor::shape).collect()),
            _ => None,
        };
        let stated = attribute(node, "_output_shapes").or_else(|| match &node.op[..] {
            "Placeholder" | "PlaceholderV2" | "PlaceholderWithDefault" | "EnsureShape" | "_Arg" => {
                attribute(node, "shape")
            }
            "While"
            | "StatelessWhile"
            | "If"
            | "StatelessIf"
            | "PartitionedCall"
            | "StatefulPartitionedCall" => attribute(node, "output_shapes"),
            "ReadVariableOp" => {
                let &variable = self.names.get(tensor_name(node.input.first()?).0)?;
                attribute(&self.nodes[variable].def, "shape")
            }
            "TensorListStack" | "TensorListGetItem" => {
                self.element_shape(node).map(|shape| vec![Some(shape)])
            }
            "Const" => match node.attr.get("value")?.value.as_ref()? {
                Attr::Tensor(proto) => Some(vec![proto.tensor_shape.as_ref().and_then(tensor::shape)]),
                _ => None,
            },
            _ => None,
        });
        let mut shapes = stated.unwrap_or_default();
        // A placeholder of old graphs without a shape states an empty one, and may be given anything.
        if node.op == "Placeholder" && !node.attr.contains_key("shape") {
            shapes.clear();
        }
        shapes.resize(count, None);
        shapes
    }

    /// The shape of what comes out of a list whose elements' shape is a constant.
    fn element_shape(&self, node: &NodeDef) -> Option<Vec<HostDim>> {
        let (operand, stacked) = match &node.op[..] {
            "TensorListStack" => (1, true),
            _ => (2, false),
        };
        let &shape = self.names.get(tensor_name(node.input.get(operand)?).0)?;
        let Attr::Tensor(proto) = self.nodes[shape].def.attr.get("value")?.value.as_ref()? else {
            return None;
        };
        let shape = tensor::tensor(proto).ok().filter(|shape| shape.shape().len() == 1)?;
        let count = stacked.then_some(HostDim::Unknown);
        let sizes = (0..shape.count()).map(|index| HostDim::new(shape.get_i64(index), ""));
        Some(count.into_iter().chain(sizes).collect())
    }

    fn graph(mut self, ends: &Ends) -> Result<HostGraph, GraphError> {
        self.find_inputs(ends)?;
        let defs: Vec<&NodeDef> = self.nodes.iter().map(|node| &node.def).collect();
        let mut pinned = pinned::pinned(&defs);
        for index in 0..self.nodes.len() {
            let def = &self.nodes[index].def;
            let outputs = &self.tensors[index];
            let constant = outputs.first().is_some_and(|&id| self.graph.value(id).constant.is_some());
            let given = !outputs.is_empty() && outputs.iter().all(|id| self.given.contains(id));
            if constant || given {
                continue;
            }
            let node = self.node(index, pinned[index].take())?;
            if ends.feeds.is_empty() && def.op == "PlaceholderWithDefault" {
                let reason = Some("it may be given another value".to_owned());
                self.graph.nodes.push(HostNode { pinned: reason, ..node });
            } else {
                self.graph.nodes.push(node);
            }
        }
        for node in &mut self.graph.nodes {
            node.done = self.names.get(&node.name[..]).and_then(|index| self.done.get(index)).copied();
        }
        self.find_outputs(ends)?;
        self.drop_unread();
        let mut graph = self.graph;
        graph.sort().map_err(|nodes| GraphError::Cycle {
            nodes: nodes.into_iter().map(|index| graph.nodes[index].name.clone()).collect(),
        })?;
        Ok(graph)
    }

    fn tensor(&self, text: &str) -> Result<HostValueId, GraphError> {
        let (node, output) = tensor_name(text);
        self.names
            .get(node)
            .and_then(|&index| self.tensors[index].get(output?))
            .copied()
            .ok_or_else(|| GraphError::End(text.to_owned()))
    }

    fn find_inputs(&mut self, ends: &Ends) -> Result<(), GraphError> {
        let mut inputs = Vec::new();
        for feed in &ends.feeds {
            inputs.push(self.tensor(feed)?);
        }
        for (node, tensors) in self.nodes.iter().zip(&self.tensors) {
            if is_input(&node.def.op) {
                inputs.extend(tensors);
            }
        }
        for id in inputs {
            if self.given.insert(id) {
                self.graph.values[id.index()].constant = None;
                self.graph.inputs.push(id);
            }
        }
        Ok(())
    }

    fn find_outputs(&mut self, ends: &Ends) -> Result<(), GraphError> {
        let mut outputs = Vec::new();
        for fetch in ends.fetches.iter().filter(|fetch| !fetch.starts_with('^')) {
            let &index =
                self.names.get(tensor_name(fetch).0).ok_or_else(|| GraphError::End(fetch.clone()))?;
            // What runs for its effects gives nothing.
            if !self.tensors[index].is_empty() {
                outputs.push(self.tensor(fetch)?);
            }
        }
        for name in
            ends.fetches.iter().map(|fetch| tensor_name(fetch).0).chain(ends.preserved.iter().map(|n| &n[..]))
        {
            if let Some(&index) = self.names.get(name) {
                outputs.extend(&self.tensors[index]);
            }
        }
        let returns = self.nodes.iter().any(|node| node.def.op == "_Retval");
        if ends.fetches.is_empty() && ends.preserved.is_empty() && !returns {
            let mut read: FxHashSet<&str> = FxHashSet::default();
            for node in self.nodes {
                read.extend(node.def.input.iter().map(|input| tensor_name(input).0));
            }
            for (node, tensors) in self.nodes.iter().zip(&self.tensors) {
                if !read.contains(&node.def.name[..]) && !is_silent(&node.def.op) && !is_input(&node.def.op) {
                    outputs.extend(tensors);
                }
            }
        }
        let mut seen = FxHashSet::default();
        self.graph.outputs = outputs.into_iter().filter(|id| seen.insert(*id)).collect();
        Ok(())
    }

    /// Outputs that nothing reads are absent.
    fn drop_unread(&mut self) {
        let mut read: FxHashSet<HostValueId> = self.graph.outputs.iter().copied().collect();
        for node in &self.graph.nodes {
            read.extend(node.inputs.iter().flatten());
        }
        for node in &mut self.graph.nodes {
            for output in &mut node.outputs {
                *output = output.filter(|id| read.contains(id));
            }
        }
    }

    fn node(&mut self, index: usize, pinned: Option<String>) -> Result<HostNode, GraphError> {
        let def = &self.nodes[index].def;
        let (mut inputs, mut after) = (Vec::new(), Vec::new());
        for input in &def.input {
            let (from, output) = tensor_name(input);
            let from = self.names[from];
            if pinned::is_back_edge(&self.nodes[from].def, def) {
                inputs.push(None);
                continue;
            }
            let Some(output) = output else {
                after.push(self.done(from));
                continue;
            };
            inputs.push(Some(self.tensors[from][output]));
        }
        let attributes = def
            .attr
            .iter()
            .filter_map(|(name, attr)| Some((name.clone(), attribute(attr.value.as_ref()?)?)))
            .collect();
        let outputs: Vec<_> = self.tensors[index].iter().map(|&id| Some(id)).collect();
        // A node that is given in part runs for the rest of it.
        let partly_given = outputs.iter().flatten().any(|id| self.given.contains(id));
        let outputs = match partly_given {
            true => outputs.into_iter().map(|id| id.filter(|id| !self.given.contains(id))).collect(),
            false => outputs,
        };
        let pinned =
            pinned.or_else(|| partly_given.then(|| "a value of it is given from outside".to_owned()));
        Ok(HostNode {
            name: def.name.clone(),
            op_type: def.op.clone(),
            domain: DOMAIN.to_owned(),
            opset: VERSION,
            inputs,
            outputs,
            attributes,
            after,
            pinned,
            ..HostNode::default()
        })
    }

    /// The value that says that a node has run.
    fn done(&mut self, index: usize) -> HostValueId {
        let graph = &mut self.graph;
        let name = &self.nodes[index].def.name;
        *self.done.entry(index).or_insert_with(|| {
            graph.add_value(HostValue { name: format!("^{name}"), ..HostValue::default() })
        })
    }
}

/// An attribute as dialects read it; `None` where it says nothing.
fn attribute(value: &Attr) -> Option<Attribute> {
    Some(match value {
        Attr::S(text) => Attribute::String(text.to_vec()),
        Attr::I(value) => Attribute::Int(*value),
        Attr::F(value) => Attribute::Float(*value),
        Attr::B(value) => Attribute::Int(i64::from(*value)),
        Attr::Type(number) => Attribute::Type(tensor::dtype(*number)),
        Attr::Shape(proto) => Attribute::Shape(tensor::shape(proto)),
        Attr::Tensor(proto) => match tensor::tensor(proto) {
            Ok(tensor) => Attribute::Tensor(tensor),
            Err(reason) => Attribute::Other(reason),
        },
        Attr::Func(function) => Attribute::Other(format!("function {}", function.name)),
        Attr::Placeholder(name) => Attribute::Other(format!("attribute {name} of the function")),
        Attr::List(list) => {
            if !list.i.is_empty() {
                Attribute::Ints(list.i.clone())
            } else if !list.f.is_empty() {
                Attribute::Floats(list.f.clone())
            } else if !list.s.is_empty() {
                Attribute::Strings(list.s.iter().map(|text| text.to_vec()).collect())
            } else if !list.b.is_empty() {
                Attribute::Ints(list.b.iter().map(|&value| i64::from(value)).collect())
            } else if !list.r#type.is_empty() {
                Attribute::Types(list.r#type.iter().map(|&number| tensor::dtype(number)).collect())
            } else if list.shape.is_empty() && list.tensor.is_empty() && list.func.is_empty() {
                // An empty list of any kind.
                return None;
            } else {
                Attribute::Other("list".to_owned())
            }
        }
    })
}
