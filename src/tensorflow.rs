//! TensorFlow graphs with segments on Engraft: the rewriting that the converter and the graph optimizer do, and what a node
//! [`SEGMENT_OP`] finds in itself when it is created.
//!
//! [`accelerate`] writes the nodes, [`SegmentContent::decode`] reads their attribute [`SEGMENT`]; everything else about such a
//! node is in [`engraft_subgraph::tensorflow::replace_segments`].

use bytes::Bytes;
use engraft_network::{Network, NetworkError, Tensor, TensorError};
use engraft_subgraph::Placement;
use engraft_subgraph::tensorflow::{self, Part, Replacing};
pub use engraft_subgraph::tensorflow::{
    Ends, GraphError, Known, NATIVE, SEGMENT, SEGMENT_OP, SharedError, dtype_of, number_of,
};
use serde::{Deserialize, Serialize};

use crate::{DType, HostValueId, Options, PartitionPolicy, Remedy, Report, Segment, Session};

/// A graph of which segments run on Engraft.
#[derive(Debug)]
pub struct Accelerated {
    /// A `GraphDef`. Without segments: the one that was given, byte for byte.
    pub graph: Bytes,
    /// Number of [`SEGMENT_OP`] nodes in it.
    pub segments: usize,
    /// Every node of the graph, calls of functions taken apart, and who runs it.
    pub report: Report,
}

/// Replaces what `session` takes of a graph (the bytes of a `GraphDef`) by nodes [`SEGMENT_OP`]. Nothing is built: that is for
/// the kernels of these nodes, which find the network and the session's options in their attribute [`SEGMENT`].
///
/// Tensors and nodes of `ends` keep their names. Weights that are constants of the graph move into the segments.
///
/// # Errors
/// The bytes are no graph, or a node of it is not what its operator allows.
pub fn accelerate(
    session: &Session,
    graph: impl Into<Bytes>,
    ends: &Ends,
) -> Result<Accelerated, GraphError> {
    let bytes = graph.into();
    let model = tensorflow::read(bytes.clone(), ends)?;
    let partition = session.partition(&model.graph);
    let mut report = Report::new("", session.options().policy());
    report.add("", &partition.report);
    let contents = partition.segments.iter().map(|segment| {
        let content = SegmentContent::of(&model, segment, session.options());
        Replacing { segment, attributes: vec![(SEGMENT, content.encode())] }
    });
    let replacing: Vec<Replacing> = contents.collect();
    let replaced = tensorflow::replace_segments(&model, &replacing)?;
    for (segment, reason) in &replaced.kept {
        report.decline("", segment, reason, Remedy::Engraft);
    }
    report.finish();
    let segments = replacing.len() - replaced.kept.len();
    let graph = if segments == 0 { bytes } else { replaced.graph.into() };
    Ok(Accelerated { graph, segments, report })
}

/// What a node [`SEGMENT_OP`] runs: its attribute [`SEGMENT`].
#[derive(Clone, Debug)]
pub struct SegmentContent {
    /// The node's name in reports.
    pub name: String,
    /// The options of the session that took the segment.
    pub options: Options,
    /// Of each input of the network the number of the node's input that it is. A node has more inputs than its network where
    /// only the original nodes need them.
    pub inputs: Vec<usize>,
    /// Its outputs are the node's.
    pub network: Network,
}

/// Why the content of a segment cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// Its options can be read; [`SegmentContent::of_original`] makes it anew.
    #[error("it was written by Engraft {theirs}, this is {ours}; convert the original model again")]
    OtherBuild { theirs: String, ours: String, options: Box<Options> },
    #[error("it is no segment: {0}")]
    Invalid(String),
}

impl From<postcard::Error> for ContentError {
    fn from(error: postcard::Error) -> ContentError {
        ContentError::Invalid(error.to_string())
    }
}

impl From<TensorError> for ContentError {
    fn from(error: TensorError) -> ContentError {
        ContentError::Invalid(error.to_string())
    }
}

impl From<GraphError> for ContentError {
    fn from(error: GraphError) -> ContentError {
        ContentError::Invalid(error.to_string())
    }
}

impl From<NetworkError> for ContentError {
    fn from(error: NetworkError) -> ContentError {
        ContentError::Invalid(error.to_string())
    }
}

const MAGIC: &[u8; 8] = b"\x89EGSEGM\n";

/// The version and commit that can read each other's contents.
fn build() -> String {
    format!("{} ({})", crate::VERSION, crate::COMMIT)
}

/// All of a content but its options and its constants, which follow one after the other.
#[derive(Serialize, Deserialize)]
struct Head {
    name: String,
    inputs: Vec<usize>,
    network: Network,
    constants: Vec<(DType, Vec<usize>)>,
}

impl SegmentContent {
    fn of(model: &tensorflow::Model, segment: &Segment, options: &Options) -> SegmentContent {
        let border = tensorflow::border(&model.graph, segment);
        let place = |id| border.iter().position(|other| other == id);
        let mut network = segment.network.clone();
        network.compact();
        SegmentContent {
            name: segment.name.clone(),
            options: options.clone(),
            inputs: segment.inputs.iter().filter_map(place).collect(),
            network,
        }
    }

    /// ```text
    /// magic, 8 bytes | length of the build's name, u32 | name | length of the options, u32 | options, as JSON
    /// | length of the head, u64 | head | constants
    /// ```
    ///
    /// What comes before the head can be read by any build.
    pub fn encode(&self) -> Vec<u8> {
        let constants = self.network.constants();
        let head = Head {
            name: self.name.clone(),
            inputs: self.inputs.clone(),
            network: self.network.clone(),
            constants: constants.iter().map(|tensor| (tensor.dtype(), tensor.shape().to_vec())).collect(),
        };
        // Plain data: it always serializes.
        let head = postcard::to_allocvec(&head).unwrap_or_default();
        let build = build();
        let options = serde_json::to_string(&self.options).unwrap_or_default();
        let size = constants.iter().map(|tensor| tensor.bytes().len()).sum::<usize>();
        let mut bytes = Vec::with_capacity(size + head.len() + build.len() + options.len() + 64);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(build.len() as u32).to_le_bytes());
        bytes.extend_from_slice(build.as_bytes());
        bytes.extend_from_slice(&(options.len() as u32).to_le_bytes());
        bytes.extend_from_slice(options.as_bytes());
        bytes.extend_from_slice(&(head.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&head);
        for tensor in constants {
            bytes.extend_from_slice(tensor.bytes());
        }
        bytes
    }

    /// Reads what [`SegmentContent::encode`] wrote; constants are copied.
    ///
    /// # Errors
    /// Another build wrote it, or it is damaged.
    pub fn decode(bytes: &[u8]) -> Result<SegmentContent, ContentError> {
        let (options, head, parts) = Head::read(bytes)?;
        let mut constants = Vec::with_capacity(parts.len());
        for ((dtype, shape), part) in head.constants.iter().zip(parts) {
            let bytes = &bytes[part.offset..part.offset + part.length];
            constants.push(Tensor::from_bytes(*dtype, shape, bytes)?);
        }
        let mut network = head.network;
        network.attach_constants(constants)?;
        if head.inputs.len() != network.inputs().len() {
            return Err(ContentError::Invalid("its inputs do not fit its network".to_owned()));
        }
        Ok(SegmentContent { name: head.name, options, inputs: head.inputs, network })
    }

    /// The content of a node called `name`, made anew of a graph that computes the same (the bytes of a `GraphDef`): `ends.feeds` are
    /// the node's inputs, `ends.fetches` its outputs.
    ///
    /// # Errors
    /// The graph cannot be read, or cannot be taken whole.
    pub fn of_original(
        name: &str,
        options: &Options,
        graph: Bytes,
        ends: &Ends,
    ) -> Result<SegmentContent, ContentError> {
        let mut model = tensorflow::read(graph, ends)?;
        // What has effects is not taken; for the rest the order of effects is of no concern.
        model.graph.nodes.retain(|node| node.op_type != "NoOp");
        for node in &mut model.graph.nodes {
            (node.done, node.after) = (None, Vec::new());
        }
        let whole = Options { partition_policy: Some(PartitionPolicy::Maximal), ..options.clone() };
        let segment = Session::new(Options { min_subgraph_size: Some(1), ..whole })
            .whole(&model.graph)
            .map_err(|report| {
                let left = report.nodes.iter().find_map(|node| match &node.placement {
                    Placement::Host(reason) => Some(format!("{} {:?}: {reason}", node.op_type, node.name)),
                    Placement::Segment(_) => None,
                });
                let reason = left.unwrap_or_else(|| "it falls into several segments".to_owned());
                ContentError::Invalid(format!("not all of it can be taken: {reason}"))
            })?;
        let position = |ids: &[HostValueId], tensor: &String| {
            ids.iter().position(|id| {
                let name = &model.graph.value(*id).name;
                name == tensor || name.strip_suffix(":0") == Some(&tensor[..])
            })
        };
        let lost = |tensor: &String| ContentError::Invalid(format!("it has lost {tensor}"));
        let mut network = segment.network;
        let outputs = ends.fetches.iter().map(|fetch| {
            position(&segment.outputs, fetch).map(|at| network.outputs()[at]).ok_or_else(|| lost(fetch))
        });
        let outputs = outputs.collect::<Result<_, _>>()?;
        network.set_outputs(outputs);
        network.compact();
        let inputs = segment.inputs.iter().map(|id| {
            let feed = ends.feeds.iter().position(|feed| position(&[*id], feed).is_some());
            feed.ok_or_else(|| lost(&model.graph.value(*id).name))
        });
        let inputs = inputs.collect::<Result<_, _>>()?;
        Ok(SegmentContent { name: name.to_owned(), options: options.clone(), inputs, network })
    }
}

impl Head {
    /// The options, the head, and where its constants are.
    fn read(bytes: &[u8]) -> Result<(Options, Head, Vec<Part>), ContentError> {
        let mut rest = bytes;
        let mut take = |count: usize| -> Result<&[u8], ContentError> {
            let (part, after) = rest
                .split_at_checked(count)
                .ok_or_else(|| ContentError::Invalid("it ends early".to_owned()))?;
            rest = after;
            Ok(part)
        };
        if take(MAGIC.len())? != MAGIC {
            return Err(ContentError::Invalid("it begins with something else".to_owned()));
        }
        let length = take(4)?.iter().rev().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
        let theirs = String::from_utf8_lossy(take(length)?).into_owned();
        let length = take(4)?.iter().rev().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
        let options: Options = serde_json::from_slice(take(length)?)
            .map_err(|error| ContentError::Invalid(format!("its options: {error}")))?;
        if theirs != build() {
            return Err(ContentError::OtherBuild { theirs, ours: build(), options: options.into() });
        }
        let length = take(8)?.iter().rev().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
        let head: Head = postcard::from_bytes(take(length)?)?;
        let mut offset = bytes.len() - rest.len();
        let mut parts = Vec::with_capacity(head.constants.len().min(bytes.len()));
        for (dtype, shape) in &head.constants {
            let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
            let count = count.filter(|count| *count <= bytes.len().saturating_mul(2));
            let count =
                count.ok_or_else(|| ContentError::Invalid("a constant is larger than it".to_owned()))?;
            let length = dtype.bytes(count);
            if length > bytes.len() - offset {
                return Err(ContentError::Invalid("it ends early".to_owned()));
            }
            parts.push(Part { width: dtype.bytes(1), offset, length });
            offset += length;
        }
        Ok((options, head, parts))
    }
}

/// A library of functions (the bytes of a `FunctionDefLibrary`) without the constants that a segment holds as well: where the two
/// are stored together, weights are stored once. [`restore_constants`] puts them back.
///
/// # Errors
/// The segment, or the library, cannot be read.
pub fn share_constants(segment: &[u8], library: &Bytes) -> Result<Bytes, ContentError> {
    let (_, _, parts) = Head::read(segment)?;
    let shared = tensorflow::share(library, segment, &parts);
    shared.map(Bytes::from).map_err(|error| ContentError::Invalid(error.to_string()))
}

/// The library that [`share_constants`] was given. Any build can read what another has written.
///
/// # Errors
/// The library cannot be read, or the segment is another one.
pub fn restore_constants(segment: &[u8], library: &Bytes) -> Result<Bytes, SharedError> {
    tensorflow::restore(library, segment).map(Bytes::from)
}
