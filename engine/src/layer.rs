//! A node made ready for concrete operands.

use engraft_kernels::{Kernel, Tactic, TensorDesc};
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

/// A tactic that takes a problem, its estimate, and its kernel for the problem.
pub(crate) struct Choice {
    pub tactic: &'static dyn Tactic,
    pub cost_ns: f64,
    pub kernel: Box<dyn Kernel>,
}

impl Layer {
    /// Of the kernel that was chosen for these operands and results.
    pub(crate) fn new(
        node: NodeId,
        choice: Choice,
        inputs: SmallVec<[TensorDesc; 3]>,
        outputs: SmallVec<[TensorDesc; 1]>,
    ) -> Layer {
        let Choice { tactic, cost_ns, kernel } = choice;
        let result = &outputs[0];
        let in_place = inputs.iter().enumerate().map(|(i, desc)| {
            kernel.in_place(i)
                && desc.dtype == result.dtype
                && desc.shape == result.shape
                && desc.is_dense()
                && result.is_dense()
        });
        Layer {
            node,
            of_node: true,
            tactic: tactic.id(),
            cost_ns,
            packed: SmallVec::from_elem(None, inputs.len()),
            in_place: in_place.collect(),
            inputs,
            outputs,
            kernel,
        }
    }
}
