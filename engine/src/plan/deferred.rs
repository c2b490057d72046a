//! Constants of which a plan holds a packed form only.

use super::PackedEntry;
use crate::mmap::MappedSlice;
use engraft_kernels::{Isa, Operand, Precision, Problem, Tactic, TensorDesc, catalog, unpack};
use engraft_network::{AlignedBytes, Network, Op, Tensor, ValueId, ops};
use std::sync::OnceLock;

/// The bytes of a packed constant, which are had back when they are asked for and kept from then on.
pub(super) struct Deferred {
    tactic: &'static dyn Tactic,
    op: Op,
    /// The node that reads the packed form, at representative sizes.
    inputs: Vec<TensorDesc>,
    outputs: Vec<TensorDesc>,
    operand: usize,
    isa: Isa,
    precision: Precision,
    env: Vec<i64>,
    packed: MappedSlice,
    plain: OnceLock<AlignedBytes>,
}

impl Deferred {
    /// The constant that `entry`, whose bytes are `packed`, was made of by the tactic of that name. `network` need not
    /// have its constants. `None`: the entry cannot be what the tactic made.
    pub(super) fn new(
        network: &Network,
        isa: Isa,
        precision: Precision,
        entry: &PackedEntry,
        tactic: &str,
        packed: MappedSlice,
    ) -> Option<Deferred> {
        let node = network.node(entry.node)?;
        let env = network.representative_env();
        let descs = |values: &[ValueId]| -> Option<Vec<TensorDesc>> {
            let desc = |v: &ValueId| {
                let ty = network.ty(*v);
                ops::eval_shape(&ty.shape, &env).ok().map(|s| TensorDesc::dense(ty.dtype, &s))
            };
            values.iter().map(desc).collect()
        };
        let deferred = Deferred {
            tactic: catalog::by_id(tactic).filter(|t| t.version() == entry.tactic_version)?,
            op: node.op.clone(),
            inputs: descs(&node.inputs)?,
            outputs: descs(&node.outputs)?,
            operand: entry.operand as usize,
            isa,
            precision,
            env,
            packed,
            plain: OnceLock::new(),
        };
        let stated = deferred.operand < deferred.inputs.len()
            && deferred.with_problem(|p| {
                let (t, i) = (deferred.tactic, deferred.operand);
                t.packing(p, i) == Some(&entry.packing)
                    && t.packing_moves(p, i)
                    && t.packed_bytes(p, i) == deferred.packed.len()
            });
        stated.then_some(deferred)
    }

    /// Of the plain constant, in bytes.
    pub(super) fn length(&self) -> usize {
        self.inputs[self.operand].dense_bytes()
    }

    /// Calls `f` with the problem, in which the operand is a constant whose value does not matter.
    fn with_problem<R>(&self, f: impl FnOnce(&Problem<'_>) -> R) -> R {
        let some = Tensor::scalar(0f32);
        let operand = |(i, desc): (usize, &TensorDesc)| Operand {
            desc: desc.clone(),
            constant: (i == self.operand).then_some(&some),
        };
        let inputs: Vec<Operand<'_>> = self.inputs.iter().enumerate().map(operand).collect();
        f(&Problem {
            op: &self.op,
            inputs: &inputs,
            outputs: &self.outputs,
            threads: 1,
            isa: self.isa,
            precision: self.precision,
            env: &self.env,
        })
    }
}

impl AsRef<[u8]> for Deferred {
    fn as_ref(&self) -> &[u8] {
        let plain = self.plain.get_or_init(|| {
            tracing::debug!("a constant of {} bytes is unpacked", self.length());
            let plain = self.with_problem(|p| unpack(self.tactic, p, self.operand, &self.packed));
            plain.expect("a packing that moves elements can be undone")
        });
        plain.as_slice()
    }
}
