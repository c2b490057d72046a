//! Writes a model in which segments are single nodes that carry the nodes they replace.

use std::collections::BTreeMap;

use bytes::Bytes;
use engraft_network::{Dim, Network, TensorType};
use prost::Message;
use rustc_hash::{FxHashMap, FxHashSet};

use super::proto::{
    AttributeProto, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto, attribute_type,
};
use super::{ModelError, tensor};
use crate::{DType, HostDim, HostGraph, HostValueId, Segment, Tensor};

/// The attribute of a replacing node that holds the replaced nodes: a model, serialized.
pub const MODEL: &str = "model";

/// What a replacing node is, beside its inputs, outputs and [`MODEL`].
pub struct Replacing<'a> {
    pub domain: &'a str,
    pub op_type: &'a str,
    pub version: i64,
    /// Further string attributes of every such node.
    pub attributes: &'a [(&'a str, &'a [u8])],
}

/// A model with segments replaced.
pub struct Replaced {
    pub model: Vec<u8>,
    /// Names of segments that stay as they were, and why.
    pub kept: Vec<(String, String)>,
}

/// Replaces `segments` of the model whose main graph was read as `graph` from the same `bytes`. The inputs and outputs of a
/// replacing node are the segment's, by name and in the order of its model's; weights move into that model. What stays
/// outside is not changed, but external data becomes part of the model.
///
/// # Errors
/// As those of reading.
pub fn replace_segments(
    bytes: Bytes,
    graph: &HostGraph,
    segments: &[Segment],
    replacing: &Replacing<'_>,
) -> Result<Replaced, ModelError> {
    let mut proto = ModelProto::decode(bytes)?;
    let mut main = proto.graph.take().ok_or(ModelError::NoGraph)?;
    let mut by_output: FxHashMap<String, usize> = FxHashMap::default();
    for (index, node) in main.node.iter().enumerate() {
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            by_output.insert(output.clone(), index);
        }
    }

    let mut kept = Vec::new();
    let mut gone: FxHashSet<usize> = FxHashSet::default();
    let mut made: Vec<NodeProto> = Vec::new();
    for segment in segments {
        match Extraction::of(graph, segment, &main, &by_output) {
            Ok(extraction) => {
                gone.extend(&extraction.nodes);
                let model = extraction.model(&proto, &main);
                made.push(node(&extraction, model, segment, replacing));
                for (id, info) in extraction.outputs {
                    let name = &graph.value(id).name;
                    let stated = |info: &ValueInfoProto| info.name.as_deref() == Some(name);
                    if !main.output.iter().chain(&main.value_info).any(stated) {
                        main.value_info.push(info);
                    }
                }
            }
            Err(reason) => kept.push((segment.name.clone(), reason)),
        }
    }
    let nodes: Vec<NodeProto> = std::mem::take(&mut main.node)
        .into_iter()
        .enumerate()
        .filter_map(|(index, node)| (!gone.contains(&index)).then_some(node))
        .chain(made)
        .collect();
    main.node = sorted(nodes);
    drop_unread(&mut main);
    internalize(&mut main, graph);
    if !proto.opset_import.iter().any(|set| set.domain.as_deref() == Some(replacing.domain)) {
        proto.opset_import.push(OperatorSetIdProto {
            domain: Some(replacing.domain.to_owned()),
            version: Some(replacing.version),
        });
    }
    proto.graph = Some(main);
    Ok(Replaced { model: proto.encode_to_vec(), kept })
}

/// The nodes of one segment as a graph of their own.
struct Extraction {
    /// Indices in the model's main graph, in topological order.
    nodes: Vec<usize>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<(HostValueId, ValueInfoProto)>,
    weights: Vec<TensorProto>,
}

impl Extraction {
    /// Errors: why the segment cannot stand by itself.
    fn of(
        graph: &HostGraph,
        segment: &Segment,
        main: &GraphProto,
        by_output: &FxHashMap<String, usize>,
    ) -> Result<Extraction, String> {
        let types = typed(segment);
        let mut nodes = Vec::with_capacity(segment.nodes.len());
        let mut inside: FxHashSet<HostValueId> = FxHashSet::default();
        let (mut border, mut constants) = (Vec::new(), Vec::new());
        let mut seen: FxHashSet<HostValueId> = FxHashSet::default();
        for &index in &segment.nodes {
            let host = &graph.nodes[index];
            let place = host.outputs.iter().flatten().find_map(|id| by_output.get(&graph.value(*id).name));
            let place =
                place.copied().filter(|place| main.node[*place].op_type.as_deref() == Some(&host.op_type));
            nodes.push(place.ok_or("a part of it comes from a function of the model")?);
            if !host.implicit_inputs.is_empty() {
                return Err("a node of it has bodies that read values around them".to_owned());
            }
            for id in host.inputs.iter().flatten().copied() {
                if inside.contains(&id) || !seen.insert(id) {
                    continue;
                }
                if graph.value(id).constant.is_some() { constants.push(id) } else { border.push(id) }
            }
            inside.extend(host.outputs.iter().flatten());
        }
        let info = |id: HostValueId| {
            let name = &graph.value(id).name;
            value_info(graph, id, types.get(&id).copied(), &segment.network)
                .ok_or_else(|| format!("the type of '{name}' is not known; infer the model's shapes first"))
        };
        let inputs = border.into_iter().map(info).collect::<Result<_, _>>()?;
        let outputs =
            segment.outputs.iter().map(|id| Ok((*id, info(*id)?))).collect::<Result<_, String>>()?;
        let weights = constants
            .into_iter()
            .filter_map(|id| {
                let value = graph.value(id);
                Some(weight(&value.name, value.constant.as_ref()?))
            })
            .collect();
        Ok(Extraction { nodes, inputs, outputs, weights })
    }

    /// A model of the segment alone.
    fn model(&self, whole: &ModelProto, main: &GraphProto) -> Vec<u8> {
        let graph = GraphProto {
            node: self.nodes.iter().map(|index| main.node[*index].clone()).collect(),
            name: main.name.clone(),
            initializer: self.weights.clone(),
            input: self.inputs.clone(),
            output: self.outputs.iter().map(|(_, info)| info.clone()).collect(),
            ..GraphProto::default()
        };
        let model = ModelProto {
            // Initializers are no inputs since version 4.
            ir_version: Some(whole.ir_version.unwrap_or(0).max(4)),
            producer_name: Some("engraft".to_owned()),
            opset_import: whole.opset_import.clone(),
            graph: Some(graph),
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }
}

fn node(extraction: &Extraction, model: Vec<u8>, segment: &Segment, replacing: &Replacing<'_>) -> NodeProto {
    let string = |name: &str, value: &[u8]| AttributeProto {
        name: Some(name.to_owned()),
        s: Some(value.to_vec()),
        r#type: Some(attribute_type::STRING),
        ..AttributeProto::default()
    };
    let mut attribute: Vec<AttributeProto> =
        replacing.attributes.iter().map(|(name, value)| string(name, value)).collect();
    attribute.push(AttributeProto { s: Some(model), ..string(MODEL, &[]) });
    let name = |info: &ValueInfoProto| info.name.clone().unwrap_or_default();
    NodeProto {
        input: extraction.inputs.iter().map(name).collect(),
        output: extraction.outputs.iter().map(|(_, info)| name(info)).collect(),
        name: Some(segment.name.clone()),
        op_type: Some(replacing.op_type.to_owned()),
        domain: Some(replacing.domain.to_owned()),
        attribute,
        ..NodeProto::default()
    }
}

/// The types that the segment's network gives its border.
fn typed(segment: &Segment) -> BTreeMap<HostValueId, &TensorType> {
    let network = &segment.network;
    let inputs = segment.inputs.iter().copied().zip(network.inputs());
    let outputs = segment.outputs.iter().copied().zip(network.outputs());
    inputs.chain(outputs).map(|(host, value)| (host, network.ty(*value))).collect()
}

fn value_info(
    graph: &HostGraph,
    id: HostValueId,
    inferred: Option<&TensorType>,
    network: &Network,
) -> Option<ValueInfoProto> {
    let value = graph.value(id);
    let dtype = value.dtype.or(inferred.map(|ty| ty.dtype))?;
    let dims = match (&value.shape, inferred) {
        (Some(shape), _) => Some(shape.iter().map(stated_dim).collect()),
        (None, Some(ty)) => Some(ty.shape.iter().map(|dim| inferred_dim(dim, network)).collect()),
        (None, None) => None,
    };
    let shape = dims.map(|dim| TensorShapeProto { dim });
    Some(ValueInfoProto {
        name: Some(value.name.clone()),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorTypeProto { elem_type: element_type(dtype), shape }),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    })
}

fn stated_dim(dim: &HostDim) -> DimensionProto {
    let value = match dim {
        HostDim::Fixed(size) => i64::try_from(*size).ok().map(DimensionValue::DimValue),
        HostDim::Symbol(name) => Some(DimensionValue::DimParam(name.clone())),
        HostDim::Unknown => None,
    };
    DimensionProto { value, ..DimensionProto::default() }
}

/// Sums and products of symbols have no spelling in a model: they are unknown there.
fn inferred_dim(dim: &Dim, network: &Network) -> DimensionProto {
    let value = match (dim.fixed(), dim.as_symbol()) {
        (Some(size), _) => Some(DimensionValue::DimValue(size)),
        (None, Some(symbol)) => {
            let name = &network.symbols()[symbol.0 as usize].name;
            (!name.is_empty()).then(|| DimensionValue::DimParam(name.clone()))
        }
        (None, None) => None,
    };
    DimensionProto { value, ..DimensionProto::default() }
}

fn element_type(dtype: DType) -> Option<i32> {
    (1..64).find(|number| tensor::dtype(*number) == Some(dtype))
}

fn weight(name: &str, tensor: &Tensor) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: tensor.shape().iter().map(|dim| *dim as i64).collect(),
        data_type: element_type(tensor.dtype()),
        raw_data: Some(Bytes::copy_from_slice(tensor.bytes())),
        ..TensorProto::default()
    }
}

/// Names that a node reads, those that its bodies capture included.
fn reads(node: &NodeProto) -> Vec<&str> {
    let mut names: Vec<&str> =
        node.input.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for attribute in &node.attribute {
        for body in attribute.g.iter().chain(&attribute.graphs) {
            let own: FxHashSet<&str> = body
                .node
                .iter()
                .flat_map(|node| node.output.iter().map(String::as_str))
                .chain(body.input.iter().filter_map(|info| info.name.as_deref()))
                .chain(body.initializer.iter().filter_map(|tensor| tensor.name.as_deref()))
                .collect();
            let inner = body.node.iter().flat_map(reads);
            let results = body.output.iter().filter_map(|info| info.name.as_deref());
            names.extend(inner.chain(results).filter(|name| !own.contains(name)));
        }
    }
    names
}

/// The nodes in topological order, otherwise as they stand. Segments are convex: there is such an order.
fn sorted(nodes: Vec<NodeProto>) -> Vec<NodeProto> {
    let mut producer: FxHashMap<&str, usize> = FxHashMap::default();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            producer.insert(output, index);
        }
    }
    let mut waits = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let sources: FxHashSet<usize> =
            reads(node).into_iter().filter_map(|name| producer.get(name).copied()).collect();
        waits[index] = sources.len();
        for source in sources {
            readers[source].push(index);
        }
    }
    let mut ready: std::collections::BTreeSet<usize> =
        (0..nodes.len()).filter(|index| waits[*index] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for reader in &readers[index] {
            waits[*reader] -= 1;
            if waits[*reader] == 0 {
                ready.insert(*reader);
            }
        }
    }
    let mut nodes: Vec<Option<NodeProto>> = nodes.into_iter().map(Some).collect();
    order.into_iter().filter_map(|index| nodes[index].take()).collect()
}

/// Removes weights, constant nodes and type notes that nothing reads any more.
fn drop_unread(main: &mut GraphProto) {
    let read: FxHashSet<String> = main
        .node
        .iter()
        .flat_map(reads)
        .chain(main.output.iter().filter_map(|info| info.name.as_deref()))
        .map(str::to_owned)
        .collect();
    let named = |name: &Option<String>| name.as_ref().is_some_and(|name| read.contains(name));
    let inputs: FxHashSet<String> = main.input.iter().filter_map(|info| info.name.clone()).collect();
    let is_input = |name: &Option<String>| name.as_ref().is_some_and(|name| inputs.contains(name));
    main.initializer.retain(|tensor| named(&tensor.name) || is_input(&tensor.name));
    main.node.retain(|node| {
        node.op_type.as_deref() != Some("Constant") || node.output.iter().any(|output| read.contains(output))
    });
    let made: FxHashSet<&String> = main.node.iter().flat_map(|node| &node.output).collect();
    main.value_info.retain(|info| info.name.as_ref().is_some_and(|name| made.contains(name)));
}

/// Weights in files become weights in the model, wherever that is written to.
fn internalize(main: &mut GraphProto, graph: &HostGraph) {
    let constants: FxHashMap<&str, &Tensor> =
        graph.values.iter().filter_map(|v| Some((v.name.as_str(), v.constant.as_ref()?))).collect();
    for initializer in main.initializer.iter_mut().filter(|tensor| tensor.data_location == Some(1)) {
        if let Some(tensor) = initializer.name.as_deref().and_then(|name| constants.get(name)) {
            *initializer = weight(initializer.name.as_deref().unwrap_or_default(), tensor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
        NodeProto {
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: outputs.iter().map(|name| (*name).to_owned()).collect(),
            ..NodeProto::default()
        }
    }

    fn with_body(mut node: NodeProto, body: Vec<NodeProto>, result: &str) -> NodeProto {
        let output = vec![ValueInfoProto { name: Some(result.to_owned()), ..ValueInfoProto::default() }];
        let body = GraphProto { node: body, output, ..GraphProto::default() };
        node.attribute.push(AttributeProto { g: Some(body), ..AttributeProto::default() });
        node
    }

    #[test]
    fn bodies_read_what_they_capture() {
        let inner = with_body(node("If", &["p"], &["q"]), vec![node("Neg", &["deep"], &["n"])], "n");
        let outer = with_body(node("If", &["c"], &["r"]), vec![node("Not", &["b"], &["p"]), inner], "q");
        assert_eq!(reads(&outer), ["c", "b", "deep"]);
        let passing = with_body(node("If", &["c"], &["r"]), Vec::new(), "outside");
        assert_eq!(reads(&passing), ["c", "outside"]);
    }

    #[test]
    fn nodes_are_sorted_by_what_they_read_bodies_included() {
        let nodes = vec![
            with_body(node("If", &["c"], &["r"]), vec![node("Neg", &["s"], &["n"])], "n"),
            node("Relu", &["x"], &["a"]),
            node("Add", &["r", "a"], &["y"]),
            node("Segment", &["a"], &["s"]),
        ];
        let order: Vec<String> = sorted(nodes).into_iter().filter_map(|node| node.op_type).collect();
        assert_eq!(order, ["Relu", "Segment", "If", "Add"]);
    }

    #[test]
    fn every_type_that_engraft_holds_has_its_number() {
        for number in 1..64 {
            if let Some(dtype) = tensor::dtype(number) {
                assert_eq!(element_type(dtype), Some(number));
            }
        }
    }
}
