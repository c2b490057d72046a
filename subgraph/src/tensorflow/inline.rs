//! Calls of functions, replaced by the functions' bodies.
//!
//! The order of effects is TensorFlow's when it inlines by itself: what a call waits for, its body waits for; what waits for a
//! call, waits for what the function's body must run.

use bytes::Bytes;
use prost::{DecodeError, Message};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::{BTreeMap, BTreeSet};

use super::outputs;
use super::proto::{Attr, AttrValue, FunctionDef, FunctionDefLibrary, ListValue, NodeDef};
use super::read::{GraphError, Node, tensor_name};
use super::wire;

/// Calls inside calls beyond this depth stay calls: the functions may call themselves.
const MAX_DEPTH: usize = 24;
/// Bodies that would make the graph larger than this stay calls.
const MAX_NODES: usize = 1 << 20;

/// Replaces calls in `nodes` by the bodies of functions in `library`, and what reads them accordingly; `preserved` names
/// stand for the results then. Calls of functions that are not there, or whose bodies cannot stand in a graph, stay.
///
/// # Errors
/// A function that cannot be decoded.
pub(super) fn inline(
    nodes: &mut Vec<Node>,
    library: &Bytes,
    preserved: &BTreeSet<String>,
) -> Result<(), GraphError> {
    let is_call = |node: &Node| matches!(&node.def.op[..], "PartitionedCall" | "StatefulPartitionedCall");
    if !nodes.iter().any(is_call) {
        return Ok(());
    }
    let functions = Functions::decode(library)?;
    for _ in 0..MAX_DEPTH {
        let mut taken: FxHashSet<String> = nodes.iter().map(|node| node.def.name.clone()).collect();
        let mut replaced: FxHashMap<String, Call> = FxHashMap::default();
        let mut made = Vec::new();
        let mut rest = Vec::with_capacity(nodes.len());
        for node in std::mem::take(nodes) {
            let small = rest.len() + made.len() < MAX_NODES;
            let call = match is_call(&node) && small {
                true => functions.body(&node, &mut taken)?,
                false => None,
            };
            let Some((call, body)) = call else {
                rest.push(node);
                continue;
            };
            made.extend(body);
            if preserved.contains(&node.def.name) {
                rest.push(Node::new(stand_in(&node.def, &call)));
            } else {
                replaced.insert(node.def.name.clone(), call);
            }
        }
        rest.append(&mut made);
        *nodes = rest;
        if !nodes.iter().any(is_call) && replaced.is_empty() {
            break;
        }
        for node in nodes.iter_mut() {
            rewire(node, &replaced)?;
        }
    }
    Ok(())
}

/// What became of a call: its results, and the node that says that it has run.
struct Call {
    results: Vec<String>,
    done: String,
}

/// A node with a call's name and outputs.
fn stand_in(node: &NodeDef, call: &Call) -> NodeDef {
    let types = node.attr.get("Tout").cloned();
    let mut input = call.results.clone();
    input.push(format!("^{}", call.done));
    match types {
        Some(types) if !call.results.is_empty() => NodeDef {
            name: node.name.clone(),
            op: "IdentityN".to_owned(),
            input,
            device: node.device.clone(),
            attr: [("T".to_owned(), types)].into(),
        },
        _ => no_op(&node.name, vec![format!("^{}", call.done)], &node.device),
    }
}

/// Reads of replaced calls become reads of what their bodies return.
fn rewire(node: &mut Node, replaced: &FxHashMap<String, Call>) -> Result<(), DecodeError> {
    let touched = |input: &String| replaced.contains_key(tensor_name(input).0);
    if !node.def.input.iter().any(touched) {
        return Ok(());
    }
    let mut def = node.def.clone();
    for input in &mut def.input {
        // A result may be what another call returns.
        while let (name, output) = tensor_name(input)
            && let Some(call) = replaced.get(name)
        {
            *input = match output {
                None => format!("^{}", call.done),
                Some(output) => match call.results.get(output) {
                    Some(result) => result.clone(),
                    None => break,
                },
            };
        }
    }
    *node = node.renamed(def)?;
    Ok(())
}

pub(super) struct Functions(FxHashMap<String, (FunctionDef, Vec<Node>)>);

impl Functions {
    pub fn decode(library: &Bytes) -> Result<Functions, GraphError> {
        let mut functions = FxHashMap::default();
        for raw in FunctionDefLibrary::decode(library.clone())?.function {
            let function = FunctionDef::decode(raw.clone())?;
            let mut nodes = Vec::new();
            for field in wire::fields(&raw)? {
                if field.number == 3 {
                    nodes.push(Node::decode(field.content)?);
                }
            }
            let name = function.signature.as_ref().map(|signature| signature.name.clone());
            functions.insert(name.unwrap_or_default(), (function, nodes));
        }
        Ok(Functions(functions))
    }

    /// A function as a graph by itself: nodes, arguments among them in their order, and the tensors that it returns.
    pub fn graph(&self, name: &str) -> Option<(Vec<Node>, Vec<String>)> {
        let (function, nodes) = self.0.get(name)?;
        let arguments = &function.signature.as_ref()?.input_arg;
        let name = |index: usize| format!("argument_{index}");
        let call = NodeDef {
            name: "body".to_owned(),
            input: (0..arguments.len()).map(name).collect(),
            ..NodeDef::default()
        };
        let plan = Plan::of(function, nodes, &call, &FxHashSet::default())?;
        let mut made: Vec<Node> = arguments
            .iter()
            .enumerate()
            .map(|(index, argument)| {
                let ty = AttrValue { value: Some(Attr::Type(argument.r#type)) };
                let attr = [("T".to_owned(), ty)].into();
                Node::new(NodeDef { name: name(index), op: "_Arg".to_owned(), attr, ..NodeDef::default() })
            })
            .collect();
        for node in nodes {
            made.push(Node::new(plan.node(&node.def, &call)?));
        }
        Some((made, plan.results(function)?.0))
    }

    /// The body of the function that a node calls, as nodes of the graph; `None` where it has to stay a call.
    fn body(
        &self,
        call: &Node,
        taken: &mut FxHashSet<String>,
    ) -> Result<Option<(Call, Vec<Node>)>, GraphError> {
        let Some(Attr::Func(target)) = call.def.attr.get("f").and_then(|attr| attr.value.as_ref()) else {
            return Ok(None);
        };
        let Some((function, nodes)) = self.0.get(&target.name) else { return Ok(None) };
        // What is compiled as a whole is not taken apart.
        let flag = |attributes: &BTreeMap<String, AttrValue>, name: &str| {
            matches!(attributes.get(name).and_then(|attr| attr.value.as_ref()), Some(Attr::B(true)))
        };
        if ["_noinline", "_XlaMustCompile", "_XlaCompile"]
            .iter()
            .any(|name| flag(&function.attr, name) || flag(&call.def.attr, name))
        {
            return Ok(None);
        }
        let Some(plan) = Plan::of(function, nodes, &call.def, taken) else { return Ok(None) };
        let mut body = Vec::with_capacity(nodes.len() + 2);
        for node in nodes {
            let Some(def) = plan.node(&node.def, &call.def) else { return Ok(None) };
            // Places are named as they are in the function; all else is carried as it came.
            body.push(match def.attr.contains_key("_class") {
                true => Node::new(def),
                false => node.renamed(def)?,
            });
        }
        let Some((results, silent)) = plan.results(function) else { return Ok(None) };
        let waits: Vec<String> = plan.waits.iter().map(|name| format!("^{name}")).collect();
        if !waits.is_empty() {
            body.push(Node::new(no_op(&plan.before, waits, &call.def.device)));
        }
        let after: BTreeSet<String> =
            silent.into_iter().chain(results.iter().map(|r| tensor_name(r).0.to_owned())).collect();
        let mut after: Vec<String> = after.into_iter().map(|name| format!("^{name}")).collect();
        if after.is_empty() && !plan.waits.is_empty() {
            after.push(format!("^{}", plan.before));
        }
        body.push(Node::new(no_op(&plan.after, after, &call.def.device)));
        for node in &body {
            taken.insert(node.def.name.clone());
        }
        Ok(Some((Call { results, done: plan.after.clone() }, body)))
    }
}

fn no_op(name: &str, input: Vec<String>, device: &str) -> NodeDef {
    NodeDef {
        name: name.to_owned(),
        op: "NoOp".to_owned(),
        input,
        device: device.to_owned(),
        ..NodeDef::default()
    }
}

/// How a function's body is named in the graph.
struct Plan<'a> {
    prefix: String,
    before: String,
    after: String,
    /// Names of the arguments, and the tensors that they are.
    arguments: FxHashMap<&'a str, String>,
    nodes: FxHashMap<&'a str, &'a NodeDef>,
    /// Nodes that the call waits for.
    waits: Vec<&'a str>,
}

impl<'a> Plan<'a> {
    fn of(
        function: &'a FunctionDef,
        nodes: &'a [Node],
        call: &'a NodeDef,
        taken: &FxHashSet<String>,
    ) -> Option<Plan<'a>> {
        let signature = function.signature.as_ref()?;
        let arguments: Vec<&String> = call.input.iter().filter(|input| !input.starts_with('^')).collect();
        let single = |arg: &super::proto::ArgDef| arg.number_attr.is_empty() && arg.type_list_attr.is_empty();
        if arguments.len() != signature.input_arg.len() || !signature.input_arg.iter().all(single) {
            return None;
        }
        let plan = Plan {
            prefix: format!("{}/", call.name),
            before: format!("{}/engraft_before", call.name),
            after: format!("{}/engraft_after", call.name),
            arguments: signature
                .input_arg
                .iter()
                .zip(arguments)
                .map(|(arg, tensor)| (&arg.name[..], tensor.clone()))
                .collect(),
            nodes: nodes.iter().map(|node| (&node.def.name[..], &node.def)).collect(),
            waits: call.input.iter().filter_map(|input| input.strip_prefix('^')).collect(),
        };
        let mut names = plan.nodes.keys().map(|name| format!("{}{name}", plan.prefix));
        let free = !names.any(|name| taken.contains(&name));
        (free && !taken.contains(&plan.before) && !taken.contains(&plan.after)).then_some(plan)
    }

    /// A tensor in the function's spelling as one of the graph.
    fn tensor(&self, text: &str) -> Option<String> {
        if let Some(node) = text.strip_prefix('^') {
            return match self.arguments.get(node) {
                Some(tensor) => Some(format!("^{}", tensor_name(tensor).0)),
                None => self.nodes.contains_key(node).then(|| format!("^{}{node}", self.prefix)),
            };
        }
        let mut parts = text.split(':');
        let node = parts.next()?;
        if let Some(tensor) = self.arguments.get(node) {
            return Some(tensor.clone());
        }
        let argument = parts.next()?;
        let index: usize = parts.next()?.parse().ok()?;
        let position = outputs::outputs(self.nodes.get(node)?)?.position(argument, index)?;
        Some(match position {
            0 => format!("{}{node}", self.prefix),
            _ => format!("{}{node}:{position}", self.prefix),
        })
    }

    /// A node of the body as one of the graph.
    fn node(&self, node: &NodeDef, call: &NodeDef) -> Option<NodeDef> {
        if node.attr.values().any(|attr| matches!(attr.value, Some(Attr::Placeholder(_)))) {
            return None;
        }
        let mut input = node.input.iter().map(|input| self.tensor(input)).collect::<Option<Vec<_>>>()?;
        let inner = |input: &&String| {
            let name = input.trim_start_matches('^').split(':').next().unwrap_or_default();
            self.nodes.contains_key(name)
        };
        if !self.waits.is_empty() && node.input.iter().find(inner).is_none() {
            input.push(format!("^{}", self.before));
        }
        Some(NodeDef {
            name: format!("{}{}", self.prefix, node.name),
            op: node.op.clone(),
            input,
            device: if node.device.is_empty() { call.device.clone() } else { node.device.clone() },
            attr: node.attr.iter().map(|(name, value)| (name.clone(), self.attribute(name, value))).collect(),
        })
    }

    fn attribute(&self, name: &str, value: &AttrValue) -> AttrValue {
        match (name, &value.value) {
            ("_class", Some(Attr::List(list))) => {
                let s = list.s.iter().map(|text| match text.strip_prefix(b"loc:@") {
                    Some(place) => [b"loc:@", self.prefix.as_bytes(), place].concat().into(),
                    None => text.clone(),
                });
                let list = ListValue { s: s.collect(), ..ListValue::default() };
                AttrValue { value: Some(Attr::List(list)) }
            }
            _ => value.clone(),
        }
    }

    /// What the call returns, and the nodes that run for their effects.
    fn results(&self, function: &FunctionDef) -> Option<(Vec<String>, Vec<String>)> {
        let signature = function.signature.as_ref()?;
        let results = signature
            .output_arg
            .iter()
            .map(|arg| self.tensor(function.ret.get(&arg.name)?))
            .collect::<Option<Vec<_>>>()?;
        let silent = function.control_ret.values().map(|node| format!("{}{node}", self.prefix)).collect();
        Some((results, silent))
    }
}
