//! Gather, GatherElements and GatherNd: for every tuple of indices, the block of x that it leads to.

use super::index::{Block, Tuples, byte_strides, whole_bytes};
use super::tasks::{self, share, split};
use super::walk::Walk;
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::Op;
use smallvec::SmallVec;

/// The indexed reads of the network, of elements of whole bytes at any strides.
#[derive(Debug)]
pub(super) struct Gathers;

struct GatherKernel {
    /// Over the tuples: strides in x (of axes that x shares with the indices), in the indices and in the result.
    walk: Walk<3>,
    tuples: Tuples,
    block: Block,
    phases: SmallVec<[usize; 1]>,
}

impl Tactic for Gathers {
    fn id(&self) -> &'static str {
        "move.gather"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let kernel = kernel(p)?;
        let (blocks, bytes) = (kernel.walk.count() as f64, kernel.block.bytes() as f64);
        let each = if matches!(kernel.block, Block::View(_)) { 30.0 } else { 2.0 };
        Ok(tasks::fit(blocks * (each + bytes / 10.0), p.threads))
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        match kernel(p) {
            Ok(kernel) => Box::new(kernel),
            Err(reason) => unreachable!("prepared without being accepted: {reason}"),
        }
    }
}

fn kernel(p: &Problem<'_>) -> Result<GatherKernel, Reject> {
    if !matches!(p.op, Op::Gather(_) | Op::GatherElements(_) | Op::GatherNd(_)) {
        return Err(Reject::new("not a gather"));
    }
    let (x, indices, out) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
    whole_bytes(out)?;
    let (xs, is, os) = (byte_strides(x), byte_strides(indices), byte_strides(out));
    let (walk, tuples, block) = match p.op {
        Op::Gather(op) => {
            let before = (0..op.axis).map(|a| (x.shape[a], [xs[a], 0, os[a]]));
            let chosen = (0..indices.rank()).map(|i| (indices.shape[i], [0, is[i], os[op.axis + i]]));
            let tuples = Tuples::new(indices.dtype, 0, [(x.shape[op.axis], xs[op.axis])])?;
            (
                Walk::new(before.chain(chosen)),
                tuples,
                Block::new(x, op.axis + 1, out, op.axis + indices.rank()),
            )
        }
        Op::GatherElements(op) => {
            let shared = |a: usize| if a == op.axis { 0 } else { xs[a] };
            let walk = Walk::new((0..out.rank()).map(|a| (out.shape[a], [shared(a), is[a], os[a]])));
            let tuples = Tuples::new(indices.dtype, 0, [(x.shape[op.axis], xs[op.axis])])?;
            (walk, tuples, Block::Run(out.dtype.bits() / 8))
        }
        Op::GatherNd(op) => {
            let last = indices.rank() - 1;
            let (b, k) = (op.batch_dims, indices.shape[last]);
            let shared = |a: usize| if a < b { xs[a] } else { 0 };
            let walk = Walk::new((0..last).map(|a| (indices.shape[a], [shared(a), is[a], os[a]])));
            let tuples = Tuples::new(indices.dtype, is[last], (b..b + k).map(|a| (x.shape[a], xs[a])))?;
            (walk, tuples, Block::new(x, b + k, out, last))
        }
        _ => return Err(Reject::new("not a gather")),
    };
    // A read costs some bytes' time however little it brings.
    let weight = if block.bytes() == 0 { 0 } else { block.bytes() + 16 };
    let phases = split(walk.count() * weight, p.threads);
    Ok(GatherKernel { walk, tuples, block, phases })
}

impl Kernel for GatherKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (x, indices, out) = (args.inputs[0], args.inputs[1], args.outputs[0]);
        let [sx, si, so] = self.walk.strides();
        let mut outcome = Ok(());
        self.walk.rows(share(self.walk.count(), task, self.phases[0]), |[ox, oi, oo], len| {
            for j in 0..len as isize {
                // SAFETY: the walk stays inside of the indices and the result, checked tuples inside of x.
                unsafe {
                    match self.tuples.offset(indices.offset(oi + j * si)) {
                        Ok(offset) => {
                            self.block.copy(x.offset(ox + j * sx + offset), out.offset(oo + j * so))
                        }
                        Err(error) => {
                            outcome = Err(error);
                            return;
                        }
                    }
                }
            }
        });
        outcome
    }
}
