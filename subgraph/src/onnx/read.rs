//! `ModelProto` to [`HostGraph`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use rustc_hash::FxHashMap;
use thiserror::Error;

use super::functions;
use super::proto::{
    AttributeProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
    attribute_type,
};
use super::tensor::{self, ExternalFiles, FileSource, ReadFiles};
use crate::{Attribute, HostDim, HostGraph, HostNode, HostValue, HostValueId};

/// Why a model file could not be read. Operators are not judged here: a graph of unknown operators reads well.
#[derive(Debug, Error)]
pub enum ModelError {
    #[error("cannot read {path}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("not an ONNX model")]
    Decode(#[from] prost::DecodeError),
    #[error("the model has no graph")]
    NoGraph,
    #[error("tensor {tensor:?}, field {field}: {reason}")]
    Tensor { tensor: String, field: &'static str, reason: String },
    #[error("node {node:?}, {field}: {reason}")]
    Node { node: String, field: String, reason: String },
    #[error("value {value:?}: {reason}")]
    Value { value: String, reason: String },
    #[error("function {function:?}: {reason}")]
    Function { function: String, reason: String },
    #[error("the nodes {} form a cycle", .nodes.join(", "))]
    Cycle { nodes: Vec<String> },
}

/// A model file's content.
#[derive(Debug)]
pub struct Model {
    /// The main graph. Calls of model-local functions are expanded, `Constant` nodes have become constants.
    pub graph: HostGraph,
    pub ir_version: i64,
    pub producer: String,
    /// The model's metadata properties.
    pub metadata: BTreeMap<String, String>,
}

/// Reads a model file. External data is read from the model's folder, each file once.
///
/// An initializer that is also a graph input counts as a constant, whatever the IR version.
///
/// # Errors
/// [`ModelError`], naming the node, tensor or value at fault.
pub fn read_model(path: impl AsRef<Path>) -> Result<Model, ModelError> {
    read_model_with(path.as_ref(), &ReadFiles)
}

/// As [`read_model`], with the bytes of the model and of its external data obtained from `source`.
///
/// # Errors
/// [`ModelError`], naming the node, tensor or value at fault.
pub fn read_model_with(path: &Path, source: &dyn FileSource) -> Result<Model, ModelError> {
    let io = |error| ModelError::Io { path: path.to_owned(), source: error };
    let bytes = source.open(path).map_err(io)?;
    let mut files = ExternalFiles::beside(path, source).map_err(io)?;
    convert(bytes, &mut files)
}

/// Reads a model from memory; external data is refused, because there is no folder to find it in.
///
/// # Errors
/// [`ModelError`], naming the node, tensor or value at fault.
pub fn read_model_bytes(bytes: impl Into<Bytes>) -> Result<Model, ModelError> {
    convert(bytes.into(), &mut ExternalFiles::none(&ReadFiles))
}

fn convert(bytes: Bytes, files: &mut ExternalFiles) -> Result<Model, ModelError> {
    let mut proto = ModelProto::decode(bytes)?;
    let mut graph = proto.graph.take().ok_or(ModelError::NoGraph)?;
    let mut opsets = opsets(&proto.opset_import);
    functions::expand(&mut graph, &proto.functions, &mut opsets)?;
    let graph = Reader { opsets: &opsets, files }.graph(graph, None)?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Ok(Model {
        graph,
        ir_version: proto.ir_version.unwrap_or(0),
        producer: [text(&proto.producer_name), text(&proto.producer_version)].join(" ").trim().to_owned(),
        metadata: proto.metadata_props.iter().map(|entry| (text(&entry.key), text(&entry.value))).collect(),
    })
}

pub(super) fn domain(name: Option<&str>) -> &str {
    match name {
        None | Some("ai.onnx") => "",
        Some(name) => name,
    }
}

pub(super) fn opsets(imports: &[OperatorSetIdProto]) -> BTreeMap<String, i64> {
    imports.iter().map(|set| (domain(set.domain.as_deref()).to_owned(), set.version.unwrap_or(1))).collect()
}

pub(super) fn node_label(node: &NodeProto) -> String {
    match node.name.as_deref() {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => format!(
            "{} -> {}",
            node.op_type.as_deref().unwrap_or_default(),
            node.output.first().map_or("", String::as_str)
        ),
    }
}

struct Reader<'a, 'f> {
    opsets: &'a BTreeMap<String, i64>,
    files: &'a mut ExternalFiles<'f>,
}

/// The names visible in one graph, and those of the graphs around it.
struct Scope<'a> {
    graph: HostGraph,
    names: FxHashMap<String, HostValueId>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn sees(&self, name: &str) -> bool {
        self.names.contains_key(name) || self.outer.is_some_and(|outer| outer.sees(name))
    }

    /// The type and constant that a captured name has where it is defined.
    fn captured(&self, name: &str) -> Option<&HostValue> {
        match self.names.get(name) {
            Some(&id) => Some(self.graph.value(id)),
            None => self.outer.and_then(|outer| outer.captured(name)),
        }
    }

    fn define(&mut self, name: &str) -> Result<HostValueId, ModelError> {
        if self.names.contains_key(name) {
            return Err(ModelError::Value { value: name.to_owned(), reason: "is defined twice".into() });
        }
        let id = self.graph.add_value(HostValue { name: name.to_owned(), ..HostValue::default() });
        self.names.insert(name.to_owned(), id);
        Ok(id)
    }

    fn describe(&mut self, info: &ValueInfoProto) {
        let Some(&id) = info.name.as_ref().and_then(|name| self.names.get(name)) else { return };
        let Some(tensor_type) = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()) else {
            return;
        };
        let value = &mut self.graph.values[id.index()];
        if value.constant.is_some() {
            return;
        }
        value.dtype = tensor::dtype(tensor_type.elem_type.unwrap_or(0));
        value.shape = tensor_type.shape.as_ref().map(|shape| {
            shape
                .dim
                .iter()
                .map(|dim| match &dim.value {
                    Some(DimensionValue::DimValue(size)) => HostDim::new(*size, ""),
                    Some(DimensionValue::DimParam(name)) => HostDim::new(-1, name),
                    None => HostDim::Unknown,
                })
                .collect()
        });
    }
}

impl Reader<'_, '_> {
    fn graph(&mut self, proto: GraphProto, outer: Option<&Scope>) -> Result<HostGraph, ModelError> {
        let graph = HostGraph {
            name: proto.name.clone().unwrap_or_default(),
            opsets: self.opsets.clone(),
            ..HostGraph::default()
        };
        let mut scope = Scope { graph, names: FxHashMap::default(), outer };
        if let Some(sparse) = proto.sparse_initializer.first() {
            let name = sparse.values.as_ref().and_then(|values| values.name.clone()).unwrap_or_default();
            return Err(ModelError::Tensor {
                tensor: name,
                field: "sparse_initializer",
                reason: "sparse tensors are not supported".into(),
            });
        }
        for initializer in proto.initializer {
            let name = initializer.name.clone().unwrap_or_default();
            let id = scope.define(&name)?;
            self.constant(&mut scope, id, initializer, &name)?;
        }
        for input in &proto.input {
            let name = input.name.as_deref().unwrap_or_default();
            if !scope.names.contains_key(name) {
                let id = scope.define(name)?;
                scope.graph.inputs.push(id);
            }
        }
        // Names first: files need not be sorted, and inner graphs may capture a value of a later node.
        for node in &proto.node {
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                scope.define(output)?;
            }
        }
        for info in proto.input.iter().chain(&proto.output).chain(&proto.value_info) {
            scope.describe(info);
        }
        let mut nodes = Vec::with_capacity(proto.node.len());
        for node in proto.node {
            if domain(node.domain.as_deref()).is_empty() && node.op_type.as_deref() == Some("Constant") {
                if let Some(node) = self.constant_node(&mut scope, node)? {
                    nodes.push(node);
                }
            } else {
                nodes.push(node);
            }
        }
        let nodes =
            nodes.into_iter().map(|node| self.node(&mut scope, node)).collect::<Result<Vec<_>, _>>()?;
        scope.graph.nodes = nodes;
        for output in &proto.output {
            let name = output.name.as_deref().unwrap_or_default();
            let id = resolve(&mut scope, name).ok_or_else(|| ModelError::Value {
                value: name.to_owned(),
                reason: "is an output that no node makes".into(),
            })?;
            scope.graph.outputs.push(id);
        }
        let mut graph = scope.graph;
        graph.sort().map_err(|nodes| ModelError::Cycle {
            nodes: nodes.iter().take(8).map(|&index| graph.nodes[index].label(&graph)).collect(),
        })?;
        Ok(graph)
    }

    fn constant(
        &mut self,
        scope: &mut Scope,
        id: HostValueId,
        proto: super::proto::TensorProto,
        name: &str,
    ) -> Result<(), ModelError> {
        // A value of a type that Engraft does not hold only keeps its users with the host.
        if tensor::dtype(proto.data_type.unwrap_or(0)).is_none() {
            return Ok(());
        }
        let tensor = tensor::tensor(proto, name, self.files)?;
        let value = &mut scope.graph.values[id.index()];
        value.dtype = Some(tensor.dtype());
        value.shape = Some(tensor.shape().iter().map(|&dim| HostDim::Fixed(dim as u64)).collect());
        value.constant = Some(tensor);
        Ok(())
    }

    /// Turns a `Constant` node into a constant value; hands it back where its content is not a tensor that Engraft holds.
    fn constant_node(
        &mut self,
        scope: &mut Scope,
        mut node: NodeProto,
    ) -> Result<Option<NodeProto>, ModelError> {
        let (Some(output), [attribute]) = (node.output.first().cloned(), node.attribute.as_mut_slice())
        else {
            return Ok(Some(node));
        };
        let Some(&id) = scope.names.get(&output) else { return Ok(Some(node)) };
        let tensor = match attribute.name.as_deref() {
            Some("value") => match attribute.t.take() {
                Some(tensor) if tensor::dtype(tensor.data_type.unwrap_or(0)).is_some() => tensor,
                other => {
                    attribute.t = other;
                    return Ok(Some(node));
                }
            },
            Some("value_float") => super::proto::TensorProto {
                data_type: Some(1),
                float_data: vec![attribute.f.unwrap_or(0.0)],
                ..Default::default()
            },
            Some("value_int") => super::proto::TensorProto {
                data_type: Some(7),
                int64_data: vec![attribute.i.unwrap_or(0)],
                ..Default::default()
            },
            Some("value_floats") => super::proto::TensorProto {
                data_type: Some(1),
                dims: vec![attribute.floats.len() as i64],
                float_data: std::mem::take(&mut attribute.floats),
                ..Default::default()
            },
            Some("value_ints") => super::proto::TensorProto {
                data_type: Some(7),
                dims: vec![attribute.ints.len() as i64],
                int64_data: std::mem::take(&mut attribute.ints),
                ..Default::default()
            },
            _ => return Ok(Some(node)),
        };
        self.constant(scope, id, tensor, &output)?;
        Ok(None)
    }

    fn node(&mut self, scope: &mut Scope, proto: NodeProto) -> Result<HostNode, ModelError> {
        let label = node_label(&proto);
        let fault = |field: &str, reason: String| ModelError::Node {
            node: label.clone(),
            field: field.to_owned(),
            reason,
        };
        let domain = domain(proto.domain.as_deref()).to_owned();
        let opset = *self
            .opsets
            .get(&domain)
            .ok_or_else(|| fault("domain", format!("{domain:?} is not among the model's operator sets")))?;
        let mut inputs = Vec::with_capacity(proto.input.len());
        for name in &proto.input {
            inputs.push(if name.is_empty() {
                None
            } else {
                Some(
                    resolve(scope, name)
                        .ok_or_else(|| fault("input", format!("nothing defines {name:?}")))?,
                )
            });
        }
        let outputs = proto.output.iter().map(|name| scope.names.get(name.as_str()).copied()).collect();
        let mut attributes = BTreeMap::new();
        let mut implicit_inputs: Vec<HostValueId> = Vec::new();
        for attribute in proto.attribute {
            let name = attribute.name.clone().unwrap_or_default();
            let value = self.attribute(scope, attribute, &label)?;
            let graphs = match &value {
                Attribute::Graph(graph) => std::slice::from_ref(&**graph),
                Attribute::Graphs(graphs) => graphs,
                _ => &[],
            };
            for graph in graphs {
                for &outer in &graph.outer {
                    let name = &graph.value(outer).name;
                    let id = resolve(scope, name)
                        .ok_or_else(|| fault("captured value", format!("nothing defines {name:?}")))?;
                    if !implicit_inputs.contains(&id) {
                        implicit_inputs.push(id);
                    }
                }
            }
            attributes.insert(name, value);
        }
        Ok(HostNode {
            name: proto.name.unwrap_or_default(),
            op_type: proto.op_type.unwrap_or_default(),
            domain,
            opset,
            inputs,
            outputs,
            implicit_inputs,
            attributes,
            ..HostNode::default()
        })
    }

    fn attribute(
        &mut self,
        scope: &Scope,
        proto: AttributeProto,
        node: &str,
    ) -> Result<Attribute, ModelError> {
        let name = proto.name.clone().unwrap_or_default();
        let missing = || ModelError::Node {
            node: node.to_owned(),
            field: format!("attribute {name:?}"),
            reason: "has no value of its type".into(),
        };
        Ok(match attribute_kind(&proto) {
            attribute_type::FLOAT => Attribute::Float(proto.f.unwrap_or(0.0)),
            attribute_type::INT => Attribute::Int(proto.i.unwrap_or(0)),
            attribute_type::STRING => Attribute::String(proto.s.unwrap_or_default()),
            attribute_type::TENSOR => {
                let tensor = proto.t.ok_or_else(missing)?;
                match tensor::dtype(tensor.data_type.unwrap_or(0)) {
                    Some(_) => {
                        Attribute::Tensor(tensor::tensor(tensor, &format!("{node}.{name}"), self.files)?)
                    }
                    None => Attribute::Other(tensor::element_type_name(tensor.data_type.unwrap_or(0))),
                }
            }
            attribute_type::GRAPH => {
                Attribute::Graph(Box::new(self.graph(proto.g.ok_or_else(missing)?, Some(scope))?))
            }
            attribute_type::FLOATS => Attribute::Floats(proto.floats),
            attribute_type::INTS => Attribute::Ints(proto.ints),
            attribute_type::STRINGS => Attribute::Strings(proto.strings),
            attribute_type::GRAPHS => Attribute::Graphs(
                proto
                    .graphs
                    .into_iter()
                    .map(|graph| self.graph(graph, Some(scope)))
                    .collect::<Result<_, _>>()?,
            ),
            attribute_type::TENSORS => Attribute::Other("tensors".into()),
            attribute_type::SPARSE_TENSOR | attribute_type::SPARSE_TENSORS => {
                Attribute::Other("sparse tensor".into())
            }
            attribute_type::TYPE_PROTO | attribute_type::TYPE_PROTOS => Attribute::Other("type".into()),
            other => Attribute::Other(format!("attribute type {other}")),
        })
    }
}

/// The attribute's type, told from the fields in use where the file does not say.
fn attribute_kind(proto: &AttributeProto) -> i32 {
    match proto.r#type {
        Some(kind) if kind != 0 => kind,
        _ if proto.f.is_some() => attribute_type::FLOAT,
        _ if proto.i.is_some() => attribute_type::INT,
        _ if proto.s.is_some() => attribute_type::STRING,
        _ if proto.t.is_some() => attribute_type::TENSOR,
        _ if proto.g.is_some() => attribute_type::GRAPH,
        _ if !proto.floats.is_empty() => attribute_type::FLOATS,
        _ if !proto.strings.is_empty() => attribute_type::STRINGS,
        _ if !proto.graphs.is_empty() => attribute_type::GRAPHS,
        _ if !proto.tensors.is_empty() => attribute_type::TENSORS,
        _ => attribute_type::INTS,
    }
}

/// The value of a name as this graph sees it; a name from an enclosing graph becomes an outer value here.
fn resolve(scope: &mut Scope, name: &str) -> Option<HostValueId> {
    if let Some(&id) = scope.names.get(name) {
        return Some(id);
    }
    let outer = scope.outer.filter(|outer| outer.sees(name))?;
    let value = outer.captured(name)?.clone();
    let id = scope.graph.add_value(value);
    scope.names.insert(name.to_owned(), id);
    scope.graph.outer.push(id);
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::super::proto::{TensorProto, TensorShapeProto, TensorTypeProto, TypeProto};
    use super::*;
    use crate::DType;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|&name| name.into()).collect(),
            output: outputs.iter().map(|&name| name.into()).collect(),
            ..NodeProto::default()
        }
    }

    fn info(name: &str, dims: &[DimensionValue]) -> ValueInfoProto {
        let dim = dims
            .iter()
            .map(|dim| super::super::proto::DimensionProto { value: Some(dim.clone()), ..Default::default() })
            .collect();
        let tensor_type = TensorTypeProto { elem_type: Some(1), shape: Some(TensorShapeProto { dim }) };
        let kind = TypeProto { tensor_type: Some(tensor_type), ..TypeProto::default() };
        ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..ValueInfoProto::default() }
    }

    fn model(graph: GraphProto) -> Result<Model, ModelError> {
        let proto = ModelProto {
            ir_version: Some(8),
            graph: Some(graph),
            opset_import: vec![OperatorSetIdProto { domain: Some("ai.onnx".into()), version: Some(17) }],
            ..ModelProto::default()
        };
        read_model_bytes(proto.encode_to_vec())
    }

    fn graph(node: Vec<NodeProto>) -> GraphProto {
        GraphProto {
            node,
            input: vec![info("x", &[DimensionValue::DimParam("n".into()), DimensionValue::DimValue(3)])],
            output: vec![info("y", &[DimensionValue::DimParam("?".into()), DimensionValue::DimValue(3)])],
            ..GraphProto::default()
        }
    }

    #[test]
    fn reads_values_nodes_and_constants() {
        let mut constant = node("Constant", &[], &["c"]);
        constant.attribute = vec![AttributeProto {
            name: Some("value".into()),
            t: Some(TensorProto { data_type: Some(1), float_data: vec![2.0], ..TensorProto::default() }),
            ..AttributeProto::default()
        }];
        // In the file the user stands before the maker.
        let model =
            model(graph(vec![node("Relu", &["t"], &["y"]), constant, node("Mul", &["x", "c"], &["t"])]))
                .unwrap();
        let graph = &model.graph;
        let ops: Vec<_> = graph.nodes.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(ops, ["Mul", "Relu"]);
        assert_eq!(graph.nodes[0].opset, 17);
        let x = graph.value(graph.inputs[0]);
        assert_eq!(x.dtype, Some(DType::F32));
        assert_eq!(x.shape, Some(vec![HostDim::Symbol("n".into()), HostDim::Fixed(3)]));
        assert_eq!(graph.value(graph.outputs[0]).shape, Some(vec![HostDim::Unknown, HostDim::Fixed(3)]));
        let c = graph.value(graph.nodes[0].inputs[1].unwrap());
        assert_eq!(c.constant.as_ref().unwrap().bytes(), 2.0f32.to_le_bytes());
    }

    #[test]
    fn inner_graphs_capture_by_name() {
        let inner = GraphProto {
            node: vec![node("Add", &["late", "x"], &["z"])],
            output: vec![info("z", &[])],
            ..GraphProto::default()
        };
        let mut branch = node("If", &["cond"], &["y"]);
        branch.attribute = vec![AttributeProto {
            name: Some("then_branch".into()),
            g: Some(inner),
            ..AttributeProto::default()
        }];
        let mut graph = graph(vec![branch, node("Relu", &["x"], &["late"])]);
        graph.input.push(info("cond", &[]));
        let model = model(graph).unwrap();
        let ops: Vec<_> = model.graph.nodes.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(ops, ["Relu", "If"], "a captured value orders the nodes too");
        let branch = &model.graph.nodes[1];
        let captured: Vec<_> =
            branch.implicit_inputs.iter().map(|&id| model.graph.value(id).name.as_str()).collect();
        assert_eq!(captured, ["late", "x"]);
        let Some(Attribute::Graph(inner)) = branch.attribute("then_branch") else { panic!("no inner graph") };
        assert_eq!(inner.outer.len(), 2);
        assert_eq!(inner.value(inner.outer[1]).dtype, Some(DType::F32));
    }

    #[test]
    fn faults_are_named() {
        assert!(matches!(
            model(graph(vec![node("Relu", &["nothing"], &["y"])])),
            Err(ModelError::Node { .. })
        ));
        assert!(matches!(model(graph(vec![])), Err(ModelError::Value { .. })));
        let twice = vec![node("Relu", &["x"], &["y"]), node("Abs", &["x"], &["y"])];
        assert!(matches!(model(graph(twice)), Err(ModelError::Value { .. })));
        let cycle = vec![node("Add", &["x", "b"], &["y"]), node("Relu", &["y"], &["b"])];
        assert!(matches!(model(graph(cycle)), Err(ModelError::Cycle { .. })));
        assert!(matches!(read_model_bytes(&b"\xff\xff\xff"[..]), Err(ModelError::Decode(_))));
        assert!(matches!(read_model_bytes(&b""[..]), Err(ModelError::NoGraph)));
        let foreign = NodeProto { domain: Some("elsewhere".into()), ..node("Relu", &["x"], &["y"]) };
        assert!(matches!(model(graph(vec![foreign])), Err(ModelError::Node { .. })));
    }
}
