//! Reads a graph of ONNX Runtime into Engraft's own model of a host graph.
//!
//! Constants are not copied: their tensors borrow the host's memory through a [`Lease`], which is good for the call in which the
//! graph was read (ONNX Runtime drops or unmaps that memory when the call returns).
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use engraft::{Attribute, Bytes, DType, HostDim, HostGraph, HostNode, HostValue, HostValueId, Tensor};

use crate::{
    api::{Api, OwnedValue},
    context,
    error::{Error, Result},
    sys::{OrtGraph, OrtNode, OrtOpAttr, OrtValue, OrtValueInfo},
};

/// A graph and the handles that its parts came from.
pub struct Reading<'a> {
    pub graph: HostGraph,
    /// The handle of `graph.nodes[i]`.
    pub nodes: Vec<&'a OrtNode>,
    /// Ends the right to read borrowed constants when it is dropped.
    _lease: Lease,
}

/// The span in which borrowed host memory may be read. A tensor that outlives it panics when read, it never dangles.
struct Lease(Arc<AtomicBool>);

impl Lease {
    fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// Lends `len` bytes at `data`.
    ///
    /// # Safety
    /// The memory must stay readable and unchanged until the lease is dropped.
    unsafe fn lend(&self, data: *const u8, len: usize) -> Bytes {
        let owner = Arc::new(Lent { data, len, valid: self.0.clone() });
        Bytes::window(owner, 0, len).expect("the window is the whole owner")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

struct Lent {
    data: *const u8,
    len: usize,
    valid: Arc<AtomicBool>,
}

// SAFETY: read-only memory, guarded by `valid`.
unsafe impl Send for Lent {}
// SAFETY: as above.
unsafe impl Sync for Lent {}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        assert!(self.valid.load(Ordering::Acquire), "a constant of the host graph was read after its lease");
        // SAFETY: promised by `Lease::lend` while the lease holds.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

/// A tensor attribute: the bridge owns its memory.
struct Owned {
    // Keeps `data` alive.
    _value: OwnedValue,
    data: *const u8,
    len: usize,
}

// SAFETY: read-only memory owned by `_value`.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `_value` owns `len` bytes at `data`.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

/// Engraft's name for ONNX's element types; `None` for those that it does not hold (strings, complex numbers, ...).
pub fn dtype(element: i32) -> Option<DType> {
    Some(match element {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => DType::BF16,
        17 => DType::F8E4M3,
        19 => DType::F8E5M2,
        21 => DType::U4,
        22 => DType::I4,
        _ => return None,
    })
}

/// Reads `graph` with all constants and, for control flow, the bodies of its nodes.
pub fn read(api: Api, graph: &OrtGraph) -> Result<Reading<'_>> {
    let lease = Lease::new();
    let mut reader = Reader::new(api, &lease);
    let nodes = reader.graph(graph)?;
    Ok(Reading { graph: reader.out, nodes, _lease: lease })
}

struct Reader<'l> {
    api: Api,
    lease: &'l Lease,
    out: HostGraph,
    by_name: HashMap<String, HostValueId>,
    by_handle: HashMap<*const OrtValueInfo, HostValueId>,
}

impl<'l> Reader<'l> {
    fn new(api: Api, lease: &'l Lease) -> Self {
        Self { api, lease, out: HostGraph::default(), by_name: HashMap::new(), by_handle: HashMap::new() }
    }

    fn graph<'a>(&mut self, graph: &'a OrtGraph) -> Result<Vec<&'a OrtNode>> {
        self.out.name = self.api.graph_name(graph)?;
        self.out.opsets = self
            .api
            .operator_sets(graph)?
            .into_iter()
            .map(|(domain, version)| (normal_domain(domain), version))
            .collect::<BTreeMap<_, _>>();
        for input in self.api.graph_inputs(graph)? {
            if let Some(id) = self.value(input)? {
                self.out.inputs.push(id);
            }
        }
        let nodes = self.api.graph_nodes(graph)?;
        for node in &nodes {
            let node = self.node(node)?;
            self.out.nodes.push(node);
        }
        for output in self.api.graph_outputs(graph)? {
            if let Some(id) = self.value(output)? {
                self.out.outputs.push(id);
            }
        }
        Ok(nodes)
    }

    fn node(&mut self, node: &OrtNode) -> Result<HostNode> {
        let api = self.api;
        let mut domain = normal_domain(api.node_domain(node)?);
        let opset = match self.out.opsets.get(&domain) {
            Some(version) => *version,
            None => api.node_since_version(node)?,
        };
        let provider = api.node_provider(node)?;
        if !provider.is_empty() {
            // No dialect has such a domain: the node stays where it is, and the report says where that is.
            domain = format!("assigned to {provider}");
        }
        let mut values = |infos: Vec<Option<&OrtValueInfo>>| -> Result<Vec<Option<HostValueId>>> {
            infos.into_iter().map(|info| info.map_or(Ok(None), |info| self.value(info))).collect()
        };
        let inputs = values(api.node_inputs(node)?)?;
        let outputs = values(api.node_outputs(node)?)?;
        let implicit_inputs = values(api.node_implicit_inputs(node)?.into_iter().map(Some).collect())?;
        let mut attributes = BTreeMap::new();
        let compiled = api.node_op_type(node)? == context::OPERATOR;
        for attribute in api.node_attributes(node)? {
            // Compiled plans are as large as models, and no dialect reads them: whose they are is enough.
            if compiled && api.attribute_name(attribute)? != context::SOURCE {
                continue;
            }
            if let Some(value) = self.attribute(attribute)? {
                attributes.insert(api.attribute_name(attribute)?, value);
            }
        }
        for (name, body) in api.node_subgraphs(node)? {
            let mut reader = Reader::new(api, self.lease);
            reader.graph(body)?;
            attributes.insert(name, Attribute::Graph(Box::new(reader.out)));
        }
        Ok(HostNode {
            name: api.node_name(node)?,
            op_type: api.node_op_type(node)?,
            domain,
            opset,
            inputs,
            outputs,
            implicit_inputs: implicit_inputs.into_iter().flatten().collect(),
            attributes,
            ..HostNode::default()
        })
    }

    /// `None` for graph attributes, which are read through the node.
    fn attribute(&self, attribute: &OrtOpAttr) -> Result<Option<Attribute>> {
        let api = self.api;
        Ok(Some(match api.attribute_kind(attribute) {
            1 => Attribute::Int(api.attribute_int(attribute)?),
            2 => Attribute::Ints(api.attribute_ints(attribute)?),
            3 => Attribute::Float(api.attribute_float(attribute)?),
            4 => Attribute::Floats(api.attribute_floats(attribute)?),
            5 => Attribute::String(api.attribute_string(attribute)?),
            6 => Attribute::Strings(api.attribute_strings(attribute)?),
            7 => return Ok(None),
            8 => match self.tensor_attribute(attribute)? {
                Some(tensor) => Attribute::Tensor(tensor),
                None => Attribute::Other("tensor of a type that Engraft does not hold".to_owned()),
            },
            kind => Attribute::Other(format!("attribute of kind {kind}")),
        }))
    }

    fn tensor_attribute(&self, attribute: &OrtOpAttr) -> Result<Option<Tensor>> {
        let owned = self.api.attribute_tensor(attribute)?;
        let Some(value) = owned.get() else { return Ok(None) };
        let Some(Raw { dtype, shape, data, len }) = self.raw(value)? else { return Ok(None) };
        let bytes = Bytes::window(Arc::new(Owned { _value: owned, data, len }), 0, len)
            .expect("the window is the whole owner");
        tensor(dtype, &shape, bytes).map(Some)
    }

    /// The id of a value of this graph, read on first sight; `None` for the empty name of an absent optional value.
    fn value(&mut self, info: &OrtValueInfo) -> Result<Option<HostValueId>> {
        if let Some(id) = self.by_handle.get(&std::ptr::from_ref(info)) {
            return Ok(Some(*id));
        }
        let name = self.api.value_name(info)?;
        if name.is_empty() {
            return Ok(None);
        }
        let id = match self.by_name.get(&name) {
            Some(id) => *id,
            None => {
                let value = self.describe(info, name.clone())?;
                let id = self.out.add_value(value);
                if self.api.is_outer(info)? {
                    self.out.outer.push(id);
                }
                self.by_name.insert(name, id);
                id
            }
        };
        self.by_handle.insert(info, id);
        Ok(Some(id))
    }

    fn describe(&self, info: &OrtValueInfo, name: String) -> Result<HostValue> {
        let mut value = HostValue { name, ..HostValue::default() };
        let Some(kind) = self.api.value_type(info)? else { return Ok(value) };
        value.dtype = dtype(kind.element);
        value.shape = kind
            .dims
            .map(|dims| dims.iter().map(|(size, name)| HostDim::new(*size, name)).collect::<Vec<_>>());
        if value.dtype.is_none() || !self.api.is_constant(info)? {
            return Ok(value);
        }
        // The host leaves constants out of a fused node's inputs: one that cannot be read must not be taken at all.
        match self.constant(info) {
            Ok(Some(constant)) => {
                value.shape = Some(constant.shape().iter().map(|d| HostDim::Fixed(*d as u64)).collect());
                value.constant = Some(constant);
            }
            Ok(None) => value.dtype = None,
            Err(error) => {
                tracing::warn!(
                    "constant '{}' cannot be read, its users stay with the host: {error}",
                    value.name
                );
                value.dtype = None;
            }
        }
        Ok(value)
    }

    fn constant(&self, info: &OrtValueInfo) -> Result<Option<Tensor>> {
        let Some(value) = self.api.initializer(info)? else { return Ok(None) };
        let Some(Raw { dtype, shape, data, len }) = self.raw(value)? else { return Ok(None) };
        // SAFETY: initializers are immutable and stay in place while the graph does, which is longer than the lease.
        tensor(dtype, &shape, unsafe { self.lease.lend(data, len) }).map(Some)
    }

    fn raw(&self, value: &OrtValue) -> Result<Option<Raw>> {
        let view = self.api.tensor(value)?;
        let Some(dtype) = dtype(view.element) else { return Ok(None) };
        let shape = view.shape.iter().map(|d| usize::try_from(*d).ok()).collect::<Option<Vec<_>>>();
        let shape = shape.ok_or_else(|| Error::contract("a constant has a negative dimension"))?;
        let len = self.api.tensor_bytes(value)?;
        let data = self.api.tensor_data(value)?;
        if data.is_null() && len > 0 {
            return Err(Error::contract("a constant has no data"));
        }
        let data = if len == 0 { std::ptr::NonNull::dangling().as_ptr() } else { data };
        Ok(Some(Raw { dtype, shape, data, len }))
    }
}

struct Raw {
    dtype: DType,
    shape: Vec<usize>,
    data: *const u8,
    len: usize,
}

fn tensor(dtype: DType, shape: &[usize], bytes: Bytes) -> Result<Tensor> {
    Tensor::new(dtype, shape, bytes).map_err(|error| Error::contract(error.to_string()))
}

/// Both spellings of ONNX's own domain become the empty string.
fn normal_domain(domain: String) -> String {
    if domain == "ai.onnx" { String::new() } else { domain }
}
