//! A node made ready for concrete operands.

use engraft_kernels::{Kernel, Problem, Tactic, TensorDesc};
use engraft_network::NodeId;
use smallvec::SmallVec;

/// A kernel and what it was prepared for. All specializations in which a node's operands look the same share its layer.
pub(crate) struct Layer {
    pub node: NodeId,
    /// False for copies between layouts that the node entails.
    pub of_node: bool,
    pub tactic: &'static str,
    pub kernel: Box<dyn Kernel>,
    pub cost_ns: f64,
    pub inputs: SmallVec<[TensorDesc; 3]>,
    pub outputs: SmallVec<[TensorDesc; 1]>,
    /// By operand: its address, where it was packed when the engine was built.
    pub packed: SmallVec<[Option<usize>; 4]>,
    /// By operand: whether result 0 may take over its memory.
    pub in_place: SmallVec<[bool; 8]>,
}

impl Layer {
    /// `tactic` accepts the problem, at `cost_ns`.
    pub(crate) fn new(node: NodeId, tactic: &dyn Tactic, p: &Problem<'_>, cost_ns: f64) -> Layer {
        let kernel = tactic.prepare(p);
        let result = &p.outputs[0];
        let in_place = p.inputs.iter().enumerate().map(|(i, o)| {
            kernel.in_place(i)
                && o.desc.dtype == result.dtype
                && o.desc.shape == result.shape
                && o.desc.is_dense()
                && result.is_dense()
        });
        Layer {
            node,
            of_node: true,
            tactic: tactic.id(),
            cost_ns,
            inputs: p.inputs.iter().map(|o| o.desc.clone()).collect(),
            outputs: p.outputs.iter().cloned().collect(),
            packed: SmallVec::from_elem(None, p.inputs.len()),
            in_place: in_place.collect(),
            kernel,
        }
    }
}
