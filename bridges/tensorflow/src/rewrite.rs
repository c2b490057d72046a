//! What the optimizer does with one graph: it decides whether to touch it, has segments replaced, and marks their inputs that
//! are variables.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ffi::CString,
    ptr::null_mut,
};

use bytes::Bytes;
use engraft::{
    HostDim, PartitionPolicy, Session,
    subgraph::tensorflow::{
        NATIVE_MARK,
        proto::{Attr, AttrValue, ListValue, NodeDef, TensorShapeProto},
        wire,
    },
    tensorflow::{self, Ends, Known, dtype_of},
};
use prost::Message;

use crate::{
    api::{Buffer, Status, tf},
    error::{Error, Result},
    native,
    node::{NATIVE_LIBRARY, Node},
    op,
    sys::*,
};

/// The nodes of a `GraphDef`.
#[derive(Clone, PartialEq, Message)]
struct Nodes {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeDef>,
}

/// Fields of a `GraphDef`.
const NODE: u32 = 1;
const LIBRARY: u32 = 2;

/// A graph with segments.
pub struct Rewritten {
    /// A `GraphDef`.
    pub graph: Vec<u8>,
    pub segments: usize,
}

/// Beginnings of the names of operators that write variables.
const WRITERS: [&str; 5] =
    ["Assign", "ResourceApply", "ResourceScatter", "ResourceSparseApply", "ResourceStridedSliceAssign"];

/// Parts of the names of operators that a segment is worth having for.
const HEAVY: [&str; 5] = ["Conv", "MatMul", "Einsum", "RNN", "LSTM"];

/// The graph with what `session` takes of it; `None` where there is nothing, or nothing that should be touched.
pub fn rewrite(
    session: &Session,
    graph: &[u8],
    preserved: Vec<String>,
    shapes: &Shapes,
) -> Result<Option<Rewritten>> {
    let unreadable =
        |error: &dyn std::fmt::Display| Error::Read(format!("the graph cannot be read: {error}"));
    let bytes = Bytes::copy_from_slice(graph);
    let nodes = Nodes::decode(bytes.clone()).map_err(|error| unreadable(&error))?.node;
    let leave = |node: &NodeDef| node.op == op::NAME || node.attr.contains_key(NATIVE_MARK);
    let heavy = |node: &NodeDef| HEAVY.iter().any(|part| node.op.contains(part));
    let worth_a_look = session.options().policy() == PartitionPolicy::Maximal || nodes.iter().any(heavy);
    if nodes.iter().any(leave) || !worth_a_look {
        return Ok(None);
    }
    let known = shapes.of(&nodes)?;
    let ends = Ends { preserved, known, ..Ends::default() };
    let made = tensorflow::accelerate(session, bytes, &ends).map_err(|error| unreadable(&error))?;
    tracing::info!("{} segments in a graph of {} nodes", made.segments, nodes.len());
    if made.segments == 0 {
        return Ok(None);
    }
    let graph = finished(&made.graph, &written(&nodes))?;
    Ok(graph.map(|graph| Rewritten { graph, segments: made.segments }))
}

/// The variables that a graph writes, by the nodes of their handles.
fn written(nodes: &[NodeDef]) -> HashSet<&str> {
    let producers = producers(nodes);
    let writers = nodes.iter().filter(|node| WRITERS.iter().any(|writer| node.op.starts_with(writer)));
    // Optimizers take several variables; their inputs of other kinds do no harm.
    let inputs = writers.flat_map(|node| &node.input);
    inputs.filter_map(|input| origin(&producers, input)).map(|node| &node.name[..]).collect()
}

fn producers(nodes: &[NodeDef]) -> HashMap<&str, &NodeDef> {
    nodes.iter().map(|node| (&node.name[..], node)).collect()
}

/// Writes into each segment's node which of its inputs are variables, and the functions of its original nodes: TensorFlow takes
/// no functions from optimizers. `None`: a segment reads variables that the graph writes, as in training, so that they would
/// have to be packed at every run.
fn finished(graph: &Bytes, written: &HashSet<&str>) -> Result<Option<Vec<u8>>> {
    let unreadable =
        |error: prost::DecodeError| Error::Read(format!("the new graph cannot be read: {error}"));
    let nodes = Nodes::decode(graph.clone()).map_err(unreadable)?.node;
    let fields = wire::fields(graph).map_err(unreadable)?;
    let library =
        fields.iter().find(|field| field.number == LIBRARY).map_or_else(Bytes::new, |f| f.content.clone());
    let producers = producers(&nodes);
    let mut made = Vec::with_capacity(graph.len());
    let mut each = nodes.iter();
    for field in fields {
        match if field.number == NODE { each.next() } else { None } {
            Some(node) if node.op == op::NAME => {
                let mut node = node.clone();
                let mut set =
                    |name: &str, value| node.attr.insert(name.to_owned(), AttrValue { value: Some(value) });
                if let Some(name) = Node::read(field.content.clone())?.native {
                    let functions = native::closure(library.clone(), &name)?.encode_to_vec();
                    set(NATIVE_LIBRARY, Attr::S(functions.into()));
                }
                let mut weights = Vec::new();
                for (index, input) in node.input.iter().enumerate() {
                    let Some(variable) = variable(&producers, input) else { continue };
                    if written.contains(variable) {
                        return Ok(None);
                    }
                    weights.push(index as i64);
                }
                set("weights", Attr::List(ListValue { i: weights, ..ListValue::default() }));
                wire::append(&mut made, NODE, &node.encode_to_vec());
            }
            _ => made.extend_from_slice(&field.whole),
        }
    }
    Ok(Some(made))
}

/// The node of the handle of the variable whose value a tensor is.
fn variable<'a>(producers: &HashMap<&str, &'a NodeDef>, tensor: &str) -> Option<&'a str> {
    let read = origin(producers, tensor).filter(|node| node.op == "ReadVariableOp")?;
    origin(producers, read.input.first()?).map(|node| &node.name[..])
}

/// The node that a tensor comes from, behind identities.
fn origin<'a>(producers: &HashMap<&str, &'a NodeDef>, tensor: &str) -> Option<&'a NodeDef> {
    let producer = |tensor: &str| producers.get(tensor.split(':').next()?).copied();
    let mut node = producer(tensor)?;
    // Each step goes to another node, unless the graph is a loop of identities.
    for _ in 0..producers.len() {
        if node.op != "Identity" {
            return Some(node);
        }
        node = producer(node.input.first()?)?;
    }
    None
}

/// TensorFlow's own inference of a graph's types and shapes.
pub struct Shapes(*mut TF_GraphProperties);

/// `OpInfo.TensorProperties`, as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct Properties {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<TensorShapeProto>,
}

impl Shapes {
    /// Infers from what the graph states, feeds of unknown shape included.
    pub fn infer(item: *const TF_GrapplerItem) -> Result<Self> {
        let status = Status::new();
        // SAFETY: the item of the call in progress, which outlives the properties.
        let shapes = unsafe {
            let properties = (tf().TF_NewGraphProperties)(item);
            (tf().TF_InferStatically)(properties, 0, 0, 0, 0, status.pointer());
            Self(properties)
        };
        status.check()?;
        Ok(shapes)
    }

    /// What is known of every output of the nodes.
    fn of(&self, nodes: &[NodeDef]) -> Result<BTreeMap<String, Known>> {
        let mut known = BTreeMap::new();
        for node in nodes {
            for (index, properties) in self.outputs(&node.name)?.into_iter().enumerate() {
                let shape = properties.shape.filter(|shape| !shape.unknown_rank);
                let dim = |size: i64| match u64::try_from(size) {
                    Ok(size) => HostDim::Fixed(size),
                    Err(_) if size == -1 => HostDim::Unknown,
                    // Dims of one graph with the same number are equal.
                    Err(_) => HostDim::Symbol(format!("dim{}", size.unsigned_abs())),
                };
                let shape = shape.map(|shape| shape.dim.iter().map(|d| dim(d.size)).collect());
                known.insert(
                    format!("{}:{index}", node.name),
                    Known { dtype: dtype_of(properties.dtype), shape },
                );
            }
        }
        Ok(known)
    }

    fn outputs(&self, node: &str) -> Result<Vec<Properties>> {
        let status = Status::new();
        let name = CString::new(node).map_err(|error| Error::contract(error.to_string()))?;
        let mut count = 0;
        // SAFETY: alive.
        unsafe { (tf().TF_GetOutputPropertiesListSize)(self.0, name.as_ptr(), &mut count, status.pointer()) };
        // Nodes of which nothing was inferred are not listed.
        if status.check().is_err() {
            return Ok(Vec::new());
        }
        let mut buffers: Vec<Buffer> = (0..count).map(|_| Buffer::empty()).collect();
        let mut pointers: Vec<*mut TF_Buffer> = buffers.iter_mut().map(|buffer| buffer.pointer()).collect();
        let list = if pointers.is_empty() { null_mut() } else { pointers.as_mut_ptr() };
        // SAFETY: alive; as many buffers as TensorFlow asked for.
        unsafe { (tf().TF_GetOutputPropertiesList)(self.0, name.as_ptr(), list, count, status.pointer()) };
        status.check()?;
        let decode = |buffer: &Buffer| {
            Properties::decode(buffer.bytes())
                .map_err(|error| Error::Read(format!("properties of {node}: {error}")))
        };
        buffers.iter().map(decode).collect()
    }
}

impl Drop for Shapes {
    fn drop(&mut self) {
        // SAFETY: made by `infer`, deleted once.
        unsafe { (tf().TF_DeleteGraphProperties)(self.0) }
    }
}
