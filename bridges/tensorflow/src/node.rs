//! What a node `EngraftSegment` carries: its `NodeDef`, read.
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use engraft::subgraph::tensorflow::{
    NATIVE, SEGMENT,
    proto::{Attr, AttrValue, NodeDef},
};
use engraft::tensorflow;
use prost::Message;

use crate::error::{Error, Result};

/// The attributes of a node; `op::ATTRIBUTES` says what they are.
pub struct Node {
    pub name: String,
    /// Numbers of `DataType`.
    pub input_types: Vec<i32>,
    /// Numbers of `DataType`.
    pub output_types: Vec<i32>,
    /// Positions of the inputs that are variables, ascending.
    pub weights: Vec<usize>,
    /// The name of the function of the original nodes.
    pub native: Option<String>,
    /// The functions, if the graph's library does not hold them. Constants may be missing that the segment has.
    pub native_library: Bytes,
    pub allow_build: bool,
    /// The input that names the file of what is not here.
    pub asset: Option<usize>,
    segment: Mutex<Bytes>,
}

impl Node {
    /// Reads a serialized `NodeDef`.
    pub fn read(bytes: Bytes) -> Result<Self> {
        let mut node = NodeDef::decode(bytes)
            .map_err(|error| Error::Read(format!("the node cannot be read: {error}")))?;
        let mut take = |name: &str| node.attr.remove(name).and_then(|attribute| attribute.value);
        let mut types = |name: &str| match take(name) {
            Some(Attr::List(list)) => list.r#type,
            _ => Vec::new(),
        };
        let (input_types, output_types) = (types("Tin"), types("Tout"));
        let segment = match take(SEGMENT) {
            Some(Attr::S(segment)) => segment,
            _ => return Err(Error::Read(format!("the node has no attribute `{SEGMENT}`"))),
        };
        let native = match take(NATIVE) {
            Some(Attr::List(list)) => list.func.into_iter().next().map(|function| function.name),
            _ => None,
        };
        let native_library = match take(NATIVE_LIBRARY) {
            Some(Attr::S(library)) => library,
            _ => Bytes::new(),
        };
        let mut weights = match take("weights") {
            Some(Attr::List(list)) => list.i.into_iter().filter_map(|i| usize::try_from(i).ok()).collect(),
            _ => Vec::new(),
        };
        weights.sort_unstable();
        weights.dedup();
        if weights.last().is_some_and(|last| *last >= input_types.len()) {
            return Err(Error::Read(format!("of {} inputs there is none {weights:?}", input_types.len())));
        }
        let allow_build = !matches!(take("allow_build"), Some(Attr::B(false)));
        let asset = match take("asset") {
            Some(Attr::I(index)) => usize::try_from(index).ok(),
            _ => None,
        };
        let segment = Mutex::new(segment);
        let name = node.name;
        Ok(Self {
            name,
            input_types,
            output_types,
            weights,
            native,
            native_library,
            allow_build,
            asset,
            segment,
        })
    }

    /// The segment, as long as nobody has called [`Node::forget_segment`].
    pub fn segment(&self) -> Bytes {
        self.segment.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Frees the segment's memory: its engine is there.
    pub fn forget_segment(&self) {
        *self.segment.lock().unwrap_or_else(PoisonError::into_inner) = Bytes::new();
    }
}

/// The name of [`Node::native_library`] among the attributes.
pub const NATIVE_LIBRARY: &str = "native_library";

/// A serialized `NodeDef` whose functions lack the constants that its segment holds as well.
pub fn with_shared_constants(bytes: Bytes) -> Result<Vec<u8>> {
    let read = Node::read(bytes.clone())?;
    let library = tensorflow::share_constants(&read.segment(), &read.native_library)
        .map_err(|error| Error::Read(error.to_string()))?;
    let mut node = NodeDef::decode(bytes).map_err(|error| Error::Read(error.to_string()))?;
    node.attr.insert(NATIVE_LIBRARY.to_owned(), AttrValue { value: Some(Attr::S(library)) });
    Ok(node.encode_to_vec())
}
