//! The original nodes of a segment, run by TensorFlow itself in a session inside the kernel: a kernel of the C interface cannot
//! call a function of its graph.
use std::{
    collections::{BTreeMap, VecDeque},
    ffi::{CString, c_int},
    ptr::{null, null_mut},
};

use bytes::Bytes;
use engraft::subgraph::tensorflow::proto::{
    Attr, AttrValue, FunctionDef, FunctionDefLibrary, ListValue, NameAttrList, NodeDef,
};
use engraft::tensorflow;
use prost::Message;
use smallvec::SmallVec;

use crate::{
    api::{Buffer, Context, Status, Tensor, tf},
    error::{Error, Result},
    node::Node,
    sys::*,
};

/// `RunOptions`, as far as it is written.
#[derive(Clone, PartialEq, Message)]
struct RunOptions {
    /// -1: the calling thread runs the nodes. A pool could be full of callers that wait for it.
    #[prost(int32, tag = "3")]
    inter_op_thread_pool: i32,
}

/// `ConfigProto`, as far as it is written.
#[derive(Clone, PartialEq, Message)]
struct Config {
    #[prost(message, optional, tag = "10")]
    graph_options: Option<GraphOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphOptions {
    #[prost(message, optional, tag = "10")]
    rewrite_options: Option<RewriterConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct RewriterConfig {
    /// 2: off. Engraft's own optimizer must leave these nodes alone.
    #[prost(int32, tag = "28")]
    use_plugin_optimizers: i32,
}

pub struct Native {
    graph: *mut TF_Graph,
    session: *mut TF_Session,
    options: Buffer,
    inputs: Vec<TF_Output>,
    outputs: Vec<TF_Output>,
}

// SAFETY: sessions may be run by any number of threads at once; the rest is only read.
unsafe impl Send for Native {}
// SAFETY: as above.
unsafe impl Sync for Native {}

impl Native {
    /// A session of the node's native function.
    pub fn new(node: &Node, context: Context, status: &Status) -> Result<Self> {
        Self::open(&definition(node, context, status)?, node, status)
    }

    fn open(graph_def: &[u8], node: &Node, status: &Status) -> Result<Self> {
        let definition = Buffer::copy_of(graph_def);
        let mut native = Self {
            // SAFETY: no preconditions.
            graph: unsafe { (tf().TF_NewGraph)() },
            session: null_mut(),
            options: Buffer::copy_of(&RunOptions { inter_op_thread_pool: -1 }.encode_to_vec()),
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        // SAFETY: all alive during the calls; the options are deleted once.
        unsafe {
            let options = (tf().TF_NewImportGraphDefOptions)();
            (tf().TF_GraphImportGraphDef)(native.graph, definition.pointer(), options, status.pointer());
            (tf().TF_DeleteImportGraphDefOptions)(options);
        }
        status.check()?;
        let rewriting = RewriterConfig { use_plugin_optimizers: 2 };
        let config =
            Config { graph_options: Some(GraphOptions { rewrite_options: Some(rewriting) }) }.encode_to_vec();
        // SAFETY: as above.
        unsafe {
            let options = (tf().TF_NewSessionOptions)();
            (tf().TF_SetConfig)(options, config.as_ptr().cast(), config.len(), status.pointer());
            native.session = (tf().TF_NewSession)(native.graph, options, status.pointer());
            (tf().TF_DeleteSessionOptions)(options);
        }
        status.check()?;
        for index in 0..node.input_types.len() {
            native.inputs.push(native.output(&format!("{INPUT}{index}"), 0)?);
        }
        for index in 0..node.output_types.len() {
            native.outputs.push(native.output(CALL, index)?);
        }
        Ok(native)
    }

    fn output(&self, operation: &str, index: usize) -> Result<TF_Output> {
        let name = CString::new(operation).unwrap_or_default();
        // SAFETY: both alive.
        let oper = unsafe { (tf().TF_GraphOperationByName)(self.graph, name.as_ptr()) };
        if oper.is_null() {
            return Err(Error::contract(format!("the native graph has lost its node {operation}")));
        }
        Ok(TF_Output { oper, index: index as c_int })
    }

    /// Runs the nodes on the node's inputs.
    pub fn run(&self, inputs: &[Tensor], status: &Status) -> Result<Vec<Tensor>> {
        // Behind them may stand the name of a file.
        let inputs = inputs.get(..self.inputs.len()).ok_or_else(|| {
            Error::contract(format!("{} inputs instead of {}", inputs.len(), self.inputs.len()))
        })?;
        let values: SmallVec<[*mut TF_Tensor; 16]> = inputs.iter().map(Tensor::pointer).collect();
        let mut results = vec![null_mut(); self.outputs.len()];
        // SAFETY: as many values and results as are said, all alive during the call.
        unsafe {
            (tf().TF_SessionRun)(
                self.session,
                self.options.pointer(),
                self.inputs.as_ptr(),
                values.as_ptr(),
                values.len() as c_int,
                self.outputs.as_ptr(),
                results.as_mut_ptr(),
                results.len() as c_int,
                null(),
                0,
                null_mut(),
                status.pointer(),
            );
        }
        status.check()?;
        // SAFETY: new references of ours.
        Ok(results.into_iter().map(|tensor| unsafe { Tensor::own(tensor) }).collect())
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        let status = Status::new();
        // SAFETY: made by `open`, deleted once; nobody runs the session any more.
        unsafe {
            if !self.session.is_null() {
                (tf().TF_CloseSession)(self.session, status.pointer());
                (tf().TF_DeleteSession)(self.session, status.pointer());
            }
            (tf().TF_DeleteGraph)(self.graph);
        }
    }
}

const INPUT: &str = "input";
const CALL: &str = "call";

/// The tensors that a [`definition`] of the node is given, and those that it gives.
pub fn ends(node: &Node) -> (Vec<String>, Vec<String>) {
    let feeds = (0..node.input_types.len()).map(|index| format!("{INPUT}{index}"));
    let fetches = (0..node.output_types.len()).map(|index| format!("{CALL}:{index}"));
    (feeds.collect(), fetches.collect())
}

/// A `GraphDef` that computes what the node does with the original nodes.
pub fn definition(node: &Node, context: Context, status: &Status) -> Result<Vec<u8>> {
    let name = node.native.as_ref().ok_or_else(|| Error::Read("it names no native function".to_owned()))?;
    let library = if node.native_library.is_empty() {
        Bytes::copy_from_slice(context.function_library(status)?.bytes())
    } else {
        tensorflow::restore_constants(&node.segment(), &node.native_library)
            .map_err(|error| Error::Read(error.to_string()))?
    };
    Ok(graph(node, name, closure(library, name)?, context.graph_version()).encode_to_vec())
}

/// `GraphDef`, as far as it is written.
#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<NodeDef>,
    #[prost(message, optional, tag = "2")]
    library: Option<FunctionDefLibrary>,
    #[prost(message, optional, tag = "4")]
    versions: Option<Versions>,
}

#[derive(Clone, PartialEq, Message)]
struct Versions {
    #[prost(int32, tag = "1")]
    producer: i32,
}

/// A graph of placeholders and a call of the function `name`.
fn graph(node: &Node, name: &str, library: FunctionDefLibrary, producer: i32) -> Graph {
    let attribute = |name: &str, value: Attr| (name.to_owned(), AttrValue { value: Some(value) });
    let types = |types: &[i32]| Attr::List(ListValue { r#type: types.to_vec(), ..ListValue::default() });
    let placeholder = |(index, dtype): (usize, &i32)| NodeDef {
        name: format!("{INPUT}{index}"),
        op: "Placeholder".to_owned(),
        attr: BTreeMap::from([attribute("dtype", Attr::Type(*dtype))]),
        ..NodeDef::default()
    };
    let mut nodes: Vec<NodeDef> = node.input_types.iter().enumerate().map(placeholder).collect();
    nodes.push(NodeDef {
        name: CALL.to_owned(),
        op: "PartitionedCall".to_owned(),
        input: nodes.iter().map(|placeholder| placeholder.name.clone()).collect(),
        attr: BTreeMap::from([
            attribute("Tin", types(&node.input_types)),
            attribute("Tout", types(&node.output_types)),
            attribute("f", Attr::Func(NameAttrList { name: name.to_owned(), ..NameAttrList::default() })),
        ]),
        ..NodeDef::default()
    });
    Graph { node: nodes, library: Some(library), versions: Some(Versions { producer }) }
}

/// The function `name` of a `FunctionDefLibrary` and all that it calls.
pub fn closure(library: Bytes, name: &str) -> Result<FunctionDefLibrary> {
    let library = FunctionDefLibrary::decode(library)
        .map_err(|error| Error::Read(format!("the graph's functions cannot be read: {error}")))?;
    let mut all: BTreeMap<String, (Bytes, FunctionDef)> = BTreeMap::new();
    for bytes in library.function {
        let function = FunctionDef::decode(bytes.clone())
            .map_err(|error| Error::Read(format!("a function of the graph cannot be read: {error}")))?;
        if let Some(signature) = &function.signature {
            all.insert(signature.name.clone(), (bytes, function));
        }
    }
    let mut wanted = VecDeque::from([name.to_owned()]);
    let mut taken = Vec::new();
    while let Some(next) = wanted.pop_front() {
        let Some((bytes, function)) = all.remove(&next) else {
            // Taken already, or an operator.
            if next == name && taken.is_empty() {
                return Err(Error::Read(format!("the graph has no function `{name}`")));
            }
            continue;
        };
        for node in &function.node_def {
            wanted.push_back(node.op.clone());
            wanted.extend(node.attr.values().flat_map(functions));
        }
        taken.push(bytes);
    }
    Ok(FunctionDefLibrary { function: taken })
}

/// The names of the functions in an attribute.
fn functions(value: &AttrValue) -> Vec<String> {
    match &value.value {
        Some(Attr::Func(function)) => vec![function.name.clone()],
        Some(Attr::List(list)) => list.func.iter().map(|function| function.name.clone()).collect(),
        _ => Vec::new(),
    }
}
