//! Expands calls of model-local functions, so that the rest of the reader sees operators only.

use std::collections::BTreeMap;

use rustc_hash::{FxHashMap, FxHashSet};

use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto};
use super::read::{ModelError, domain, node_label, opsets};

/// Calls nested deeper than this are taken for a recursion, which ONNX forbids.
const MAX_DEPTH: usize = 64;
/// Bound on the nodes that expansion may make, against files built to explode.
const MAX_NODES: usize = 4_000_000;

type Key = (String, String, String);

/// Replaces every call in `graph` (and in the graphs inside it) by the function's body. The operator sets that bodies
/// import and the model does not are added to `opsets`.
///
/// # Errors
/// [`ModelError::Function`] for recursion, missing parameters, or a body that needs another version of an operator set.
pub(super) fn expand(
    graph: &mut GraphProto,
    functions: &[FunctionProto],
    opsets: &mut BTreeMap<String, i64>,
) -> Result<(), ModelError> {
    if functions.is_empty() {
        return Ok(());
    }
    let table = functions
        .iter()
        .map(|function| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let domain = domain(function.domain.as_deref()).to_owned();
            ((domain, text(&function.name), text(&function.overload)), function)
        })
        .collect();
    let mut expander = Expander { table, opsets, calls: 0, nodes: 0 };
    expander.graph(graph, 0)
}

struct Expander<'a> {
    table: FxHashMap<Key, &'a FunctionProto>,
    opsets: &'a mut BTreeMap<String, i64>,
    calls: usize,
    nodes: usize,
}

impl Expander<'_> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), ModelError> {
        let nodes = std::mem::take(&mut graph.node);
        for node in nodes {
            self.node(node, depth, &mut graph.node)?;
        }
        Ok(())
    }

    fn node(
        &mut self,
        mut node: NodeProto,
        depth: usize,
        out: &mut Vec<NodeProto>,
    ) -> Result<(), ModelError> {
        let key = (
            domain(node.domain.as_deref()).to_owned(),
            node.op_type.clone().unwrap_or_default(),
            node.overload.clone().unwrap_or_default(),
        );
        let fault =
            |reason: String| ModelError::Function { function: format!("{}.{}", key.0, key.1), reason };
        let Some(&function) = self.table.get(&key) else {
            for attribute in &mut node.attribute {
                attribute
                    .g
                    .iter_mut()
                    .chain(&mut attribute.graphs)
                    .try_for_each(|graph| self.graph(graph, depth))?;
            }
            self.nodes += 1;
            if self.nodes > MAX_NODES {
                return Err(fault(format!(
                    "the model has more than {MAX_NODES} nodes once its functions are expanded"
                )));
            }
            out.push(node);
            return Ok(());
        };
        if depth >= MAX_DEPTH {
            return Err(fault("calls itself".into()));
        }
        if node.input.len() > function.input.len() || node.output.len() > function.output.len() {
            return Err(fault(format!("{} passes more values than it has parameters", node_label(&node))));
        }
        for (domain, version) in opsets(&function.opset_import) {
            let known = *self.opsets.entry(domain.clone()).or_insert(version);
            if known != version {
                return Err(fault(format!(
                    "needs version {version} of {domain:?}, the model imports {known}"
                )));
            }
        }
        self.calls += 1;
        let prefix = format!("{}/{}.", node_label(&node), self.calls);
        let names = (function.input.iter().zip(node.input.iter().map(Some).chain(std::iter::repeat(None))))
            .chain(function.output.iter().zip(node.output.iter().map(Some).chain(std::iter::repeat(None))))
            .map(|(formal, actual)| match actual {
                Some(actual) if !actual.is_empty() => (formal.as_str(), actual.clone()),
                // An omitted input stays omitted; an output that nobody asked for gets a name of its own.
                _ if function.input.contains(formal) => (formal.as_str(), String::new()),
                _ => (formal.as_str(), format!("{prefix}{formal}")),
            })
            .collect();
        let mut body = Body { prefix, names, shadowed: Vec::new(), call: &node, function };
        for inner in &function.node {
            let mut inner = inner.clone();
            body.rename_node(&mut inner);
            self.node(inner, depth + 1, out)?;
        }
        Ok(())
    }
}

/// One call: maps the names and attribute references of a function's body to those of the caller.
struct Body<'a> {
    prefix: String,
    names: FxHashMap<&'a str, String>,
    /// Names that graphs inside the body define for themselves.
    shadowed: Vec<FxHashSet<String>>,
    call: &'a NodeProto,
    function: &'a FunctionProto,
}

impl Body<'_> {
    fn rename(&self, name: &mut String) {
        if name.is_empty() || self.shadowed.iter().any(|names| names.contains(name)) {
            return;
        }
        match self.names.get(name.as_str()) {
            Some(actual) => name.clone_from(actual),
            None => name.insert_str(0, &self.prefix),
        }
    }

    fn rename_node(&mut self, node: &mut NodeProto) {
        let label = node_label(node);
        node.name = Some(format!("{}{label}", self.prefix));
        for name in node.input.iter_mut().chain(&mut node.output) {
            self.rename(name);
        }
        let attributes = std::mem::take(&mut node.attribute);
        node.attribute = attributes.into_iter().filter_map(|attribute| self.attribute(attribute)).collect();
    }

    /// A reference takes the caller's attribute, else the function's default; with neither the attribute is absent.
    fn attribute(&mut self, mut attribute: AttributeProto) -> Option<AttributeProto> {
        if let Some(reference) = attribute.ref_attr_name.as_deref().filter(|name| !name.is_empty()) {
            let named = |candidate: &&AttributeProto| candidate.name.as_deref() == Some(reference);
            let found = self.call.attribute.iter().find(named);
            let mut value = found.or_else(|| self.function.attribute_proto.iter().find(named))?.clone();
            value.name = attribute.name;
            return Some(value);
        }
        for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            self.graph(graph);
        }
        Some(attribute)
    }

    fn graph(&mut self, graph: &mut GraphProto) {
        let own = graph
            .input
            .iter()
            .filter_map(|input| input.name.clone())
            .chain(graph.initializer.iter().filter_map(|tensor| tensor.name.clone()))
            .chain(graph.node.iter().flat_map(|node| node.output.iter().cloned()))
            .collect();
        self.shadowed.push(own);
        for node in &mut graph.node {
            self.rename_node(node);
        }
        for output in &mut graph.output {
            if let Some(name) = &mut output.name {
                self.rename(name);
            }
        }
        self.shadowed.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{OperatorSetIdProto, ValueInfoProto};
    use super::*;

    fn node(op: &str, domain: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            domain: Some(domain.into()),
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: outputs.iter().map(|&name| name.into()).collect(),
            ..NodeProto::default()
        }
    }

    fn function(name: &str, inputs: &[&str], outputs: &[&str], node: Vec<NodeProto>) -> FunctionProto {
        FunctionProto {
            name: Some(name.into()),
            domain: Some("local".into()),
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: outputs.iter().map(|&name| name.into()).collect(),
            node,
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(18) }],
            ..FunctionProto::default()
        }
    }

    fn opset(version: i64) -> BTreeMap<String, i64> {
        BTreeMap::from([(String::new(), version)])
    }

    #[test]
    fn expands_nested_calls_with_attributes() {
        let mut scale = node("Elu", "", &["a"], &["b"]);
        scale.attribute = vec![AttributeProto {
            name: Some("alpha".into()),
            ref_attr_name: Some("slope".into()),
            ..AttributeProto::default()
        }];
        let inner = function("Inner", &["a"], &["b"], vec![scale]);
        let mut call = node("Inner", "local", &["x"], &["t"]);
        call.attribute =
            vec![AttributeProto { name: Some("slope".into()), f: Some(0.5), ..AttributeProto::default() }];
        let outer = function("Outer", &["x"], &["y"], vec![call, node("Relu", "", &["t"], &["y"])]);
        let mut graph = GraphProto {
            node: vec![node("Outer", "local", &["in"], &["mid"]), node("Outer", "local", &["mid"], &["out"])],
            output: vec![ValueInfoProto { name: Some("out".into()), ..ValueInfoProto::default() }],
            ..GraphProto::default()
        };
        expand(&mut graph, &[inner, outer], &mut opset(18)).unwrap();
        let ops: Vec<_> = graph.node.iter().map(|node| node.op_type.as_deref().unwrap()).collect();
        assert_eq!(ops, ["Elu", "Relu", "Elu", "Relu"]);
        assert_eq!(graph.node[0].input, ["in"]);
        assert_eq!(graph.node[0].attribute[0].f, Some(0.5));
        assert_eq!(graph.node[0].attribute[0].name.as_deref(), Some("alpha"));
        assert_eq!(graph.node[0].output, graph.node[1].input);
        assert_ne!(graph.node[0].output, graph.node[2].output);
        assert_eq!(graph.node[1].output, ["mid"]);
        assert_eq!(graph.node[3].output, ["out"]);
    }

    #[test]
    fn recursion_and_version_conflicts_are_errors() {
        let calls_itself = function("F", &["x"], &["y"], vec![node("F", "local", &["x"], &["y"])]);
        let graph = || GraphProto { node: vec![node("F", "local", &["x"], &["y"])], ..GraphProto::default() };
        let fails = |function, version| {
            matches!(expand(&mut graph(), &[function], &mut opset(version)), Err(ModelError::Function { .. }))
        };
        assert!(fails(calls_itself, 18));
        assert!(fails(function("F", &["x"], &["y"], vec![node("Relu", "", &["x"], &["y"])]), 17));
    }
}
