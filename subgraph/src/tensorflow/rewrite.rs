//! Writes a graph in which segments are single nodes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use prost::Message;
use rustc_hash::{FxHashMap, FxHashSet};

use super::outputs;
use super::proto::{
    ArgDef, Attr, AttrValue, FunctionDef, ListValue, NameAttrList, NodeDef, OpDef, TensorShapeProto,
};
use super::read::{GraphError, Model, Node, Source, tensor_name};
use super::{tensor, wire};
use crate::{HostGraph, HostValueId, Segment};

/// The operator of a replacing node.
pub const SEGMENT_OP: &str = "EngraftSegment";
/// Its attribute that holds what Engraft runs.
pub const SEGMENT: &str = "segment";
/// Its attribute that names the function of the nodes that it stands for.
pub const NATIVE: &str = "native";
/// An attribute of all nodes of such functions: they are to stay what they are.
pub const NATIVE_MARK: &str = "_engraft_native";

/// A segment, and the node that takes its place.
pub struct Replacing<'a> {
    pub segment: &'a Segment,
    /// String attributes of the node, [`SEGMENT`] among them.
    pub attributes: Vec<(&'a str, Vec<u8>)>,
}

/// A graph with segments replaced.
pub struct Replaced {
    /// A `GraphDef`.
    pub graph: Vec<u8>,
    /// Names of segments that stay as they were, and why.
    pub kept: Vec<(String, String)>,
}

/// The values that a segment's nodes read, constants apart: the inputs of its node, in their order. They hold all of
/// [`Segment::inputs`]; the others only the nodes themselves need.
pub fn border(graph: &HostGraph, segment: &Segment) -> Vec<HostValueId> {
    let mut seen: FxHashSet<HostValueId> = FxHashSet::default();
    let mut border = Vec::new();
    for &index in &segment.nodes {
        let node = &graph.nodes[index];
        for id in node.inputs.iter().flatten().copied() {
            if graph.value(id).constant.is_none() && seen.insert(id) {
                border.push(id);
            }
        }
        seen.extend(node.outputs.iter().flatten());
    }
    border
}

/// Replaces segments of a graph by nodes [`SEGMENT_OP`] with the attributes given, and
///
/// - `Tin`, `Tout`: the types of its inputs ([`border`]) and outputs ([`Segment::outputs`]),
/// - [`NATIVE`]: a list of one function, added to the graph's library, that computes the same with the original nodes,
/// - `_output_shapes`, -1 where a size is not known.
///
/// What waited for a node of the segment waits for it, and it waits for what they did. Constants that only segments read
/// vanish from the graph: the function has its own. Nodes whose outputs are the graph's, and those that were to be preserved when
/// it was read, become identities under their names. All
/// other nodes, functions and fields are written as they came, inputs that name a replaced tensor apart.
///
/// # Errors
/// As those of reading.
pub fn replace_segments(model: &Model, replacing: &[Replacing<'_>]) -> Result<Replaced, GraphError> {
    let mut rewriter = Rewriter::new(model);
    let mut kept = Vec::new();
    for replacing in replacing {
        if let Err(reason) = rewriter.replace(replacing) {
            kept.push((replacing.segment.name.clone(), reason));
        }
    }
    Ok(Replaced { graph: rewriter.graph()?, kept })
}

struct Rewriter<'a> {
    graph: &'a HostGraph,
    source: &'a Source,
    names: FxHashMap<&'a str, usize>,
    taken: FxHashSet<String>,
    /// Nodes inside segments: the name of the node that replaces them.
    inside: FxHashMap<&'a str, String>,
    /// Tensors of segments by node and output: what they are called now.
    tensors: FxHashMap<(&'a str, usize), String>,
    /// Nodes that go on existing under their names.
    preserved: FxHashSet<&'a str>,
    /// Constants that segments read.
    constants: FxHashSet<&'a str>,
    made: Vec<NodeDef>,
    functions: Vec<Vec<u8>>,
}

impl<'a> Rewriter<'a> {
    fn new(model: &'a Model) -> Rewriter<'a> {
        let nodes = &model.source.nodes;
        let outputs = model.graph.outputs.iter().map(|id| tensor_name(&model.graph.value(*id).name).0);
        Rewriter {
            preserved: outputs.chain(model.source.preserved.iter().map(String::as_str)).collect(),
            graph: &model.graph,
            source: &model.source,
            names: nodes.iter().enumerate().map(|(index, node)| (&node.def.name[..], index)).collect(),
            taken: nodes.iter().map(|node| node.def.name.clone()).collect(),
            inside: FxHashMap::default(),
            tensors: FxHashMap::default(),
            constants: FxHashSet::default(),
            made: Vec::new(),
            functions: Vec::new(),
        }
    }

    /// The node, and the number of its output, that a value is.
    fn place(&self, id: HostValueId) -> (&'a str, usize) {
        let (node, output) = tensor_name(&self.graph.value(id).name);
        (node, output.unwrap_or(0))
    }

    /// Errors: why the segment stays.
    fn replace(&mut self, replacing: &Replacing<'_>) -> Result<(), String> {
        let segment = replacing.segment;
        let inputs = border(self.graph, segment);
        let types = |ids: &[HostValueId]| -> Result<Vec<i32>, String> {
            let number = |id: &HostValueId| {
                let value = self.graph.value(*id);
                let known = value.dtype.and_then(tensor::number);
                known.ok_or_else(|| format!("the type of '{}' is not known", value.name))
            };
            ids.iter().map(number).collect()
        };
        let (input_types, output_types) = (types(&inputs)?, types(&segment.outputs)?);
        let members: Vec<&'a NodeDef> = segment
            .nodes
            .iter()
            .map(|&index| &self.source.nodes[self.names[&self.graph.nodes[index].name[..]]].def)
            .collect();
        let native = self.native(&members, &inputs, &input_types, &segment.outputs, &output_types)?;

        let mut name = segment.name.clone();
        while !self.taken.insert(name.clone()) {
            name.push('_');
        }
        let own: FxHashSet<&str> = members.iter().map(|node| &node.name[..]).collect();
        let mut input: Vec<String> = inputs.iter().map(|id| self.graph.value(*id).name.clone()).collect();
        let mut waits: Vec<&str> = Vec::new();
        for text in members.iter().flat_map(|node| &node.input) {
            if let (node, None) = tensor_name(text)
                && !own.contains(node)
                && !waits.contains(&node)
            {
                waits.push(node);
            }
        }
        input.extend(waits.iter().map(|node| format!("^{node}")));
        let mut attr: BTreeMap<String, AttrValue> = BTreeMap::new();
        let mut set = |name: &str, value: Attr| {
            attr.insert(name.to_owned(), AttrValue { value: Some(value) });
        };
        let list = |list: ListValue| Attr::List(list);
        set("Tin", list(ListValue { r#type: input_types, ..ListValue::default() }));
        set("Tout", list(ListValue { r#type: output_types, ..ListValue::default() }));
        let function = NameAttrList { name: native.name.clone(), attr: BTreeMap::new() };
        set(NATIVE, list(ListValue { func: vec![function], ..ListValue::default() }));
        set("_output_shapes", list(ListValue { shape: shapes(segment), ..ListValue::default() }));
        for (name, value) in &replacing.attributes {
            set(name, Attr::S(Bytes::copy_from_slice(value)));
        }
        let device = members.first().map(|node| node.device.clone()).unwrap_or_default();
        let shared = members.iter().all(|node| node.device == device);
        let device = if shared { device } else { String::new() };
        self.made.push(NodeDef { name: name.clone(), op: SEGMENT_OP.to_owned(), input, device, attr });
        for (output, &id) in segment.outputs.iter().enumerate() {
            let spelled = if output == 0 { name.clone() } else { format!("{name}:{output}") };
            self.tensors.insert(self.place(id), spelled);
        }
        self.inside.extend(members.iter().map(|node| (&node.name[..], name.clone())));
        self.constants.extend(native.constants);
        self.functions.push(native.function);
        Ok(())
    }

    /// The function of a segment's original nodes.
    fn native(
        &self,
        members: &[&'a NodeDef],
        inputs: &[HostValueId],
        input_types: &[i32],
        outputs: &[HostValueId],
        output_types: &[i32],
    ) -> Result<Native<'a>, String> {
        let mut constants: Vec<&'a str> = Vec::new();
        let own: FxHashSet<&str> = members.iter().map(|node| &node.name[..]).collect();
        let arguments: FxHashMap<(&str, usize), String> = inputs
            .iter()
            .enumerate()
            .map(|(index, &id)| (self.place(id), format!("engraft_input_{index}")))
            .collect();
        let spelled = |node: &str, output: usize| -> Result<String, String> {
            let def = &self.source.nodes[self.names[node]].def;
            let argument = outputs::outputs(def).and_then(|outputs| outputs.spelled(output));
            argument
                .map(|argument| format!("{node}:{argument}"))
                .ok_or_else(|| format!("the outputs of {} are not known", def.op))
        };
        let mut body = Vec::with_capacity(members.len());
        for node in members {
            let mut input = Vec::with_capacity(node.input.len());
            for text in &node.input {
                let (from, output) = tensor_name(text);
                let Some(output) = output else {
                    if own.contains(from) {
                        input.push(text.clone());
                    }
                    continue;
                };
                if let Some(argument) = arguments.get(&(from, output)) {
                    input.push(argument.clone());
                    continue;
                }
                if !own.contains(from) && !constants.contains(&from) {
                    constants.push(&self.source.nodes[self.names[from]].def.name);
                }
                input.push(spelled(from, output)?);
            }
            body.push(unplaced(node, input));
        }
        let constants_first = constants.iter().map(|name| {
            let def = &self.source.nodes[self.names[name]].def;
            unplaced(def, Vec::new())
        });
        let node_def: Vec<NodeDef> = constants_first.chain(body).collect();
        let argument = |prefix: &str, index: usize, number: &i32| ArgDef {
            name: format!("engraft_{prefix}_{index}"),
            r#type: *number,
            ..ArgDef::default()
        };
        let ret = outputs
            .iter()
            .enumerate()
            .map(|(index, &id)| {
                let (node, output) = self.place(id);
                Ok((format!("engraft_output_{index}"), spelled(node, output)?))
            })
            .collect::<Result<_, String>>()?;
        let mut function = FunctionDef {
            signature: Some(OpDef {
                name: String::new(),
                input_arg: input_types.iter().enumerate().map(|(i, ty)| argument("input", i, ty)).collect(),
                output_arg: output_types
                    .iter()
                    .enumerate()
                    .map(|(i, ty)| argument("output", i, ty))
                    .collect(),
                is_stateful: false,
            }),
            node_def,
            ret,
            ..FunctionDef::default()
        };
        // One name means one function in all graphs of a process.
        let mut hash = DefaultHasher::new();
        function.encode_to_vec().hash(&mut hash);
        let name = format!("engraft_native_{:016x}", hash.finish());
        if let Some(signature) = &mut function.signature {
            signature.name.clone_from(&name);
        }
        Ok(Native { name, function: function.encode_to_vec(), constants })
    }

    /// The graph with what was replaced so far.
    fn graph(self) -> Result<Vec<u8>, GraphError> {
        let mut nodes: Vec<Node> = Vec::with_capacity(self.source.nodes.len());
        for node in &self.source.nodes {
            let name = &node.def.name[..];
            if !self.inside.contains_key(name) {
                nodes.push(self.rewired(node)?);
            } else if self.preserved.contains(name)
                && let Some(identity) = self.identity(&node.def)
            {
                nodes.push(Node::new(identity));
            }
        }
        for def in &self.made {
            let mut def = def.clone();
            self.rewire(&mut def);
            nodes.push(Node::new(def));
        }
        let read: FxHashSet<String> = nodes
            .iter()
            .flat_map(|node| &node.def.input)
            .map(|input| tensor_name(input).0.to_owned())
            .collect();
        nodes.retain(|node| {
            let name = &node.def.name[..];
            !self.constants.contains(name) || read.contains(name) || self.preserved.contains(name)
        });

        let mut graph = Vec::new();
        for node in &nodes {
            wire::append(&mut graph, 1, &node.raw);
        }
        let mut library = self.source.library.to_vec();
        let mut names = FxHashSet::default();
        for function in &self.functions {
            if names.insert(function) {
                wire::append(&mut library, 1, function);
            }
        }
        if !library.is_empty() {
            wire::append(&mut graph, 2, &library);
        }
        for field in &self.source.rest {
            graph.extend_from_slice(field);
        }
        Ok(graph)
    }

    fn rewired(&self, node: &Node) -> Result<Node, GraphError> {
        let mut def = node.def.clone();
        match self.rewire(&mut def) {
            true => Ok(node.renamed(def)?),
            false => Ok(node.clone()),
        }
    }

    /// Lets a node read what replaced its inputs. Returns whether anything did.
    fn rewire(&self, def: &mut NodeDef) -> bool {
        let mut changed = false;
        for input in &mut def.input {
            let new = match tensor_name(input) {
                (node, None) => self.inside.get(node).map(|segment| format!("^{segment}")),
                (node, Some(output)) => self.tensors.get(&(node, output)).cloned(),
            };
            if let Some(new) = new {
                *input = new;
                changed = true;
            }
        }
        if changed {
            // Control inputs must not repeat.
            let mut seen = FxHashSet::default();
            def.input.retain(|input| !input.starts_with('^') || seen.insert(input.clone()));
        }
        changed
    }

    /// A node with the name and outputs of one that was replaced.
    fn identity(&self, node: &NodeDef) -> Option<NodeDef> {
        let types = outputs::outputs(node)?.types;
        let input: Vec<String> = (0..types.len())
            .map(|output| self.tensors.get(&(&node.name[..], output)).cloned())
            .collect::<Option<_>>()?;
        let (op, ty) = match types.as_slice() {
            [] => return None,
            [one] => ("Identity", Attr::Type(*one)),
            _ => ("IdentityN", Attr::List(ListValue { r#type: types, ..ListValue::default() })),
        };
        let mut attr: BTreeMap<String, AttrValue> = BTreeMap::new();
        attr.insert("T".to_owned(), AttrValue { value: Some(ty) });
        if let Some(shapes) = node.attr.get("_output_shapes") {
            attr.insert("_output_shapes".to_owned(), shapes.clone());
        }
        Some(NodeDef { name: node.name.clone(), op: op.to_owned(), input, device: node.device.clone(), attr })
    }
}

struct Native<'a> {
    name: String,
    /// A `FunctionDef`.
    function: Vec<u8>,
    /// Nodes of the graph that it has copies of.
    constants: Vec<&'a str>,
}

/// A node with other inputs, bound to no place in the graph that it leaves.
fn unplaced(node: &NodeDef, input: Vec<String>) -> NodeDef {
    let attr = node.attr.iter().filter(|(name, _)| *name != "_class");
    let mark = (NATIVE_MARK.to_owned(), AttrValue { value: Some(Attr::B(true)) });
    NodeDef {
        input,
        attr: attr.map(|(name, value)| (name.clone(), value.clone())).chain([mark]).collect(),
        name: node.name.clone(),
        op: node.op.clone(),
        device: node.device.clone(),
    }
}

fn shapes(segment: &Segment) -> Vec<TensorShapeProto> {
    let network = &segment.network;
    let dims = |value| network.ty(value).shape.iter().map(engraft_network::Dim::fixed).collect();
    network.outputs().iter().map(|&value| tensor::shape_proto(Some(dims(value)))).collect()
}
