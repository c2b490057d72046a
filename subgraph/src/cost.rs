//! What nodes and segments cost: the engine's judgement of a node, and the static estimate behind the profit rule.

use engraft_network::{DType, Network, NodeId};

use crate::Reject;

/// The engine's judgement of a node that it can run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Only a reference kernel runs it: correct, not fast.
    pub reference: bool,
    /// Expected time at representative sizes, where the engine can tell.
    pub nanoseconds: Option<f64>,
}

/// What the engine can run.
pub trait Capability {
    /// # Errors
    /// Why the node cannot be run.
    fn accept(&self, network: &Network, node: NodeId) -> Result<Cost, Reject>;
}

/// Accepts every node: partitions by lowering alone.
pub struct AcceptAll;

impl Capability for AcceptAll {
    fn accept(&self, _: &Network, _: NodeId) -> Result<Cost, Reject> {
        Ok(Cost::default())
    }
}

/// Work of nodes at given sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Work {
    /// Floating point operations; a multiply-add counts as two.
    pub flops: f64,
    /// Bytes read and written, each operand and result once.
    pub bytes: f64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.flops += other.flops;
        self.bytes += other.bytes;
    }
}

fn shape_at(shape: &[engraft_network::Dim], sizes: &[i64]) -> Vec<usize> {
    shape.iter().map(|dim| usize::try_from(dim.eval(sizes)).unwrap_or(0)).collect()
}

/// Bytes of a tensor at the given sizes of symbols.
pub(crate) fn bytes_at(dtype: DType, shape: &[engraft_network::Dim], sizes: &[i64]) -> f64 {
    shape_at(shape, sizes).iter().map(|&size| size as f64).product::<f64>() * dtype.bits() as f64 / 8.0
}

/// Work of one node of a network with the given sizes of its symbols.
pub fn work(network: &Network, node: NodeId, sizes: &[i64]) -> Work {
    let Some(node) = network.node(node) else { return Work::default() };
    let shapes = |values: &[engraft_network::ValueId]| -> Vec<Vec<usize>> {
        values.iter().map(|&value| shape_at(&network.ty(value).shape, sizes)).collect()
    };
    let (inputs, outputs) = (shapes(&node.inputs), shapes(&node.outputs));
    let input_refs: Vec<&[usize]> = inputs.iter().map(Vec::as_slice).collect();
    let output_refs: Vec<&[usize]> = outputs.iter().map(Vec::as_slice).collect();
    let bytes = node
        .inputs
        .iter()
        .chain(&node.outputs)
        .map(|&value| bytes_at(network.ty(value).dtype, &network.ty(value).shape, sizes))
        .sum();
    Work { flops: node.op.flops(&input_refs, &output_refs), bytes }
}

/// The static estimate of the profit rule: what the host is expected to take for the work.
///
/// A place for measured times: a segment's estimate is replaced by what a run of it has shown.
pub fn host_nanoseconds(work: Work) -> f64 {
    const FLOPS_PER_NANOSECOND: f64 = 40.0;
    const BYTES_PER_NANOSECOND: f64 = 10.0;
    (work.flops / FLOPS_PER_NANOSECOND).max(work.bytes / BYTES_PER_NANOSECOND)
}

/// Fixed cost of one segment per run: entering it, waking threads, leaving it.
pub const SEGMENT_NANOSECONDS: f64 = 2000.0;
