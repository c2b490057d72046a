//! Chains of layers over images, band by band.
//!
//! A layer whose result outgrows the caches writes it to far memory, and the next layer, a depthwise convolution for one, waits while
//! it reads it from there. Where each task of both computes some pixels, their tasks can take turns instead: a few rows of the one,
//! then what the other can make of them while they are near. The turns are pieces of a static order like any other (`exec.rs`): a
//! piece waits for pieces that stand before it.

use crate::arrange::{Pending, Root};
use crate::exec::Base;
use engraft_kernels::Reach;
use smallvec::SmallVec;
use std::ops::Range;

/// Bytes of results that a turn may leave in one core's own cache.
const NEAR_BYTES: usize = 768 << 10;
/// Bytes of constants that the layers of a chain may want beside that: every turn reads all of them.
const CONSTANT_BYTES: usize = 384 << 10;
/// Bytes of an operand per nanosecond of one thread's work on it from which on a layer gains by finding them near: others are busy
/// computing, and lose more by reading their constants anew in every turn.
const READING_RATE: f64 = 4.0;
/// Layers of a chain, at most.
const MOST_STEPS: usize = 24;

/// Some tasks of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub step: u32,
    pub tasks: Range<u32>,
    /// Pieces `0..after` of the chain must be complete before.
    pub after: u32,
}

/// Consecutive steps that take turns.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    pub steps: Range<usize>,
    pub pieces: Vec<Piece>,
}

/// A step of a chain.
struct Member {
    step: usize,
    tasks: usize,
    /// Members whose results it reads, and as which operand.
    sources: SmallVec<[(usize, usize); 2]>,
    /// The root that the result shares with an operand.
    in_place: Option<u32>,
    /// Roots that it reads, and whether as operand 0.
    reads: SmallVec<[(u32, bool); 4]>,
    bytes: usize,
    /// Tasks that have their place.
    placed: usize,
    /// Pixels that are complete after each of its pieces, and the number of pieces until then.
    complete: Vec<(usize, u32)>,
}

impl Member {
    /// Whether it reads the root as operand 0, if it reads it at all.
    fn reads(&self, root: u32) -> Option<bool> {
        self.reads.iter().find(|(r, _)| *r == root).map(|(_, first)| *first)
    }
}

/// The chains among steps in order. `resolve` gives the root whose memory a root takes.
pub(crate) fn chains(
    pending: &[Pending],
    roots: &[Root],
    resolve: impl Fn(u32) -> u32,
    threads: usize,
) -> Vec<Chain> {
    let mut chains = Vec::new();
    let mut members: Vec<Member> = Vec::new();
    let mut constants = 0;
    for i in 0..=pending.len() {
        let next = pending.get(i).and_then(|step| member(i, step, roots, &resolve));
        if let Some((mut member, bytes)) = next {
            if !members.is_empty()
                && members.len() < MOST_STEPS
                && constants + bytes <= CONSTANT_BYTES
                && join(pending, &members, &mut member, &resolve, threads)
            {
                constants += bytes;
                members.push(member);
                continue;
            }
            chains.extend(close(std::mem::take(&mut members), pending, threads));
            member.sources.clear();
            constants = bytes;
            members.push(member);
        } else {
            chains.extend(close(std::mem::take(&mut members), pending, threads));
        }
    }
    chains
}

/// The step as one that could take turns, and the bytes of its constants.
fn member(
    i: usize,
    step: &Pending,
    roots: &[Root],
    resolve: &impl Fn(u32) -> u32,
) -> Option<(Member, usize)> {
    let kernel = &step.layer.kernel;
    let &[tasks] = kernel.phases() else { return None };
    if tasks < 2 || step.outputs.len() != 1 || kernel.workspace_bytes() > 0 {
        return None;
    }
    kernel.reach(0)?;
    let is_constant = |r: u32| roots[r as usize].base == Base::Absolute;
    let constants = step.inputs.iter().zip(&step.layer.inputs).filter(|((r, _), _)| is_constant(*r));
    let constants = constants.map(|(_, desc)| desc.dense_bytes()).sum();
    let member = Member {
        step: i,
        tasks,
        sources: SmallVec::new(),
        in_place: step.in_place.map(|_| resolve(step.outputs[0].0)),
        reads: step.inputs.iter().enumerate().map(|(k, (r, _))| (resolve(*r), k == 0)).collect(),
        bytes: step.layer.outputs[0].dense_bytes(),
        placed: 0,
        complete: Vec::new(),
    };
    (constants <= CONSTANT_BYTES).then_some((member, constants))
}

/// Fills in the sources of the step that would follow `members`. False where it reads nothing of theirs, or too little for its work,
/// or in a way that says nothing about pixels.
fn join(
    pending: &[Pending],
    members: &[Member],
    next: &mut Member,
    resolve: &impl Fn(u32) -> u32,
    threads: usize,
) -> bool {
    let step = &pending[next.step];
    let result = &step.layer.outputs[0];
    let mut read = 0;
    for (k, (input, desc)) in step.inputs.iter().zip(&step.layer.inputs).enumerate() {
        let root = resolve(input.0);
        let writes = |m: &&Member| resolve(pending[m.step].outputs[0].0) == root;
        let Some(source) = members.iter().rposition(|m| writes(&m)) else { continue };
        let from = &pending[members[source].step];
        let same = from.outputs[0].1 == input.1 && from.layer.outputs[0] == *desc;
        let leading = |shape: &[usize]| shape.split_last().map(|(_, rest)| rest.to_vec());
        if !same || (k > 0 && leading(&desc.shape) != leading(&result.shape)) {
            return false;
        }
        next.sources.push((source, k));
        read += desc.dense_bytes();
    }
    let work = step.layer.cost_ns * next.tasks.min(threads) as f64;
    // A result beside others in one piece of memory says nothing about who reads what.
    let root = resolve(step.outputs[0].0);
    let shared = next.in_place.is_none()
        && members.iter().any(|m| m.reads(root).is_some() || resolve(pending[m.step].outputs[0].0) == root);
    !next.sources.is_empty() && !shared && read as f64 >= READING_RATE * work
}

/// The turns of the members, where they are worth taking: of those before the first whose result would overwrite what others are
/// yet to read.
fn close(mut members: Vec<Member>, pending: &[Pending], threads: usize) -> Option<Chain> {
    loop {
        if members.len() < 2 {
            return None;
        }
        // The last result leaves the chain in any case.
        let between: usize = members[..members.len() - 1].iter().map(|m| m.bytes).sum();
        let turns = between.div_ceil(NEAR_BYTES * threads);
        if turns < 2 {
            return None;
        }
        let mut turn = Turns { members, pending, threads, pieces: Vec::new() };
        match turn.take(turns) {
            Ok(()) => {
                let (first, last) = (turn.members.first()?.step, turn.members.last()?.step);
                return Some(Chain { steps: first..last + 1, pieces: turn.pieces });
            }
            Err(Overwrites(m)) => {
                members = turn.members;
                members.truncate(m);
                for member in &mut members {
                    member.placed = 0;
                    member.complete.clear();
                }
            }
        }
    }
}

/// The member that would overwrite what is yet to be read.
struct Overwrites(usize);

struct Turns<'a> {
    members: Vec<Member>,
    pending: &'a [Pending],
    threads: usize,
    pieces: Vec<Piece>,
}

impl Turns<'_> {
    fn take(&mut self, turns: usize) -> Result<(), Overwrites> {
        let sink = self.members.len() - 1;
        let tasks = self.members[sink].tasks;
        for t in 1..=turns {
            let end = (tasks * t / turns).next_multiple_of(self.threads).min(tasks);
            self.place(sink, end)?;
        }
        // What the last step does not read.
        (0..sink).try_for_each(|m| self.place(m, self.members[m].tasks))
    }

    fn reach(&self, m: usize, task: usize) -> Reach {
        let kernel = &self.pending[self.members[m].step].layer.kernel;
        kernel.reach(task).expect("a kernel that says what one task touches says it of all")
    }

    /// Places tasks of `m` up to `end`, and before them what they read.
    fn place(&mut self, m: usize, end: usize) -> Result<(), Overwrites> {
        let start = self.members[m].placed;
        if start >= end {
            return Ok(());
        }
        let tail = self.reach(m, end - 1);
        let mut after = 0;
        for (source, operand) in self.members[m].sources.clone() {
            let need = if operand == 0 { tail.reads.end } else { tail.writes.end };
            let (placed, tasks) = (self.members[source].placed, self.members[source].tasks);
            let complete = self.members[source].complete.last().map_or(0, |c| c.0);
            if complete < need {
                let mut until = placed;
                while until < tasks && self.reach(source, until).complete < need {
                    until += 1;
                }
                let count = (until + 1 - placed).next_multiple_of(self.threads);
                self.place(source, (placed + count).min(tasks))?;
            }
            let complete = &self.members[source].complete;
            let covering = complete.iter().find(|c| c.0 >= need).or(complete.last());
            after = after.max(covering.map_or(0, |c| c.1));
        }
        if let Some(root) = self.members[m].in_place {
            for (q, other) in self.members[..m].iter().enumerate().filter(|(_, o)| o.placed < o.tasks) {
                let Some(first) = other.reads(root) else { continue };
                let next = self.reach(q, other.placed);
                if if first { next.reads.start } else { next.writes.start } < tail.writes.end {
                    return Err(Overwrites(m));
                }
            }
            after = self.pieces.len() as u32;
        }
        let step = self.members[m].step as u32;
        self.pieces.push(Piece { step, tasks: start as u32..end as u32, after });
        let member = &mut self.members[m];
        member.placed = end;
        member.complete.push((tail.complete, self.pieces.len() as u32));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Layer;
    use engraft_kernels::{Args, Kernel, KernelError, TensorDesc};
    use engraft_network::{DType, NodeId};
    use proptest::prelude::*;
    use std::sync::Arc;

    /// Rows of one pixel under a window of `kernel` rows.
    struct Rows {
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        phases: [usize; 1],
    }

    impl Kernel for Rows {
        fn phases(&self) -> &[usize] {
            &self.phases
        }

        unsafe fn run(&self, _: usize, _: usize, _: &Args<'_>) -> Result<(), KernelError> {
            Ok(())
        }

        fn reach(&self, task: usize) -> Option<Reach> {
            let row = |task: usize| self.output * task / self.phases[0];
            let writes = row(task)..row(task + 1);
            let pad = self.kernel / 2;
            let start = (writes.start * self.stride).saturating_sub(pad);
            let end = ((writes.end - 1) * self.stride + self.kernel - pad).min(self.input);
            Some(Reach { reads: start.min(self.input)..end, complete: writes.end, writes })
        }
    }

    /// Operand 0, a root; window and step; an earlier result of the same size to add, and whether in its place.
    type Drawn = (usize, usize, usize, bool, bool);

    /// A chain from root 0, each step's result in a root of its own; in place where nothing later wants the operand.
    fn network(rows: usize, drawn: &[Drawn]) -> (Vec<Pending>, Vec<Root>, Vec<u32>) {
        let root = || Root::new(Base::Arena, 0, 0);
        let (mut roots, mut alias, mut sizes) = (vec![root()], vec![0u32], vec![rows]);
        let mut pending: Vec<Pending> = Vec::new();
        for (i, &(tasks, kernel, stride, residual, in_place)) in drawn.iter().enumerate() {
            let input = sizes[i];
            let output = input.div_ceil(stride);
            let mut inputs: SmallVec<[(u32, usize); 4]> = SmallVec::from_slice(&[(i as u32, 0)]);
            let added =
                sizes[1..i.max(1)].iter().rposition(|s| *s == output).filter(|_| residual).map(|at| at + 1);
            inputs.extend(added.map(|r| (r as u32, 0)));
            let result = i as u32 + 1;
            roots.push(root());
            let over = added.filter(|_| in_place && !drawn[i + 1..].iter().any(|d| d.3));
            alias.push(over.map_or(result, |r| alias[r]));
            sizes.push(output);
            let desc = |rows: usize| TensorDesc::dense(DType::F32, &[rows, 1 << 16]);
            let kernel = Rows { input, output, kernel, stride, phases: [tasks.min(output)] };
            pending.push(Pending {
                layer: Arc::new(Layer {
                    node: NodeId(i as u32),
                    of_node: true,
                    tactic: "rows",
                    kernel: Box::new(kernel),
                    cost_ns: 1.0,
                    inputs: inputs.iter().map(|(r, _)| desc(sizes[*r as usize])).collect(),
                    outputs: SmallVec::from_elem(desc(output), 1),
                    packed: SmallVec::from_elem(None, inputs.len()),
                    in_place: SmallVec::from_elem(false, inputs.len()),
                }),
                inputs,
                outputs: SmallVec::from_slice(&[(result, 0)]),
                in_place: over.map(|_| 1),
            });
        }
        (pending, roots, alias)
    }

    /// Runs the chain's pieces in order; of each root's pixels, which step wrote them last, and as the how manieth piece.
    fn follow(chain: &Chain, pending: &[Pending], alias: &[u32], rows: usize) -> Result<(), TestCaseError> {
        let mut state = vec![vec![None::<(usize, usize)>; rows]; alias.len()];
        let mut next = vec![0; pending.len()];
        for (p, piece) in chain.pieces.iter().enumerate() {
            let step = piece.step as usize;
            prop_assert!(piece.after as usize <= p);
            prop_assert_eq!(piece.tasks.start as usize, next[step], "tasks of step {} in order", step);
            next[step] = piece.tasks.end as usize;
            for task in piece.tasks.clone() {
                let reach = pending[step].layer.kernel.reach(task as usize).expect("it says");
                for (k, (r, _)) in pending[step].inputs.iter().enumerate() {
                    // The step that computes the root, if it belongs to the chain.
                    let writer = (*r as usize).checked_sub(1).filter(|w| chain.steps.contains(w));
                    for pixel in if k == 0 { reach.reads.clone() } else { reach.writes.clone() } {
                        let seen = state[alias[*r as usize] as usize][pixel];
                        prop_assert_eq!(
                            seen.map(|s| s.0),
                            writer,
                            "step {} reads pixel {} of {}",
                            step,
                            pixel,
                            r
                        );
                        prop_assert!(
                            seen.is_none_or(|s| s.1 < piece.after as usize),
                            "read before it is complete"
                        );
                    }
                }
                let place = alias[step + 1] as usize;
                for pixel in reach.writes {
                    if let Some((_, before)) = state[place][pixel] {
                        prop_assert!(before < piece.after as usize);
                    }
                    state[place][pixel] = Some((step, p));
                }
            }
        }
        for step in chain.steps.clone() {
            prop_assert_eq!(next[step], pending[step].layer.kernel.phases()[0], "all tasks of step {}", step);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn turns_respect_what_is_read(
            rows in 2usize..60, threads in 1usize..4,
            drawn in prop::collection::vec((1usize..20, 1usize..6, 1usize..3, any::<bool>(), any::<bool>()), 1..9),
        ) {
            let (pending, roots, alias) = network(rows, &drawn);
            let chains = chains(&pending, &roots, |r| alias[r as usize], threads);
            for chain in &chains {
                follow(chain, &pending, &alias, rows)?;
            }
            prop_assert!(chains.windows(2).all(|c| c[0].steps.end <= c[1].steps.start));
        }
    }

    #[test]
    fn large_layers_take_turns_and_small_ones_do_not() {
        let chains_of = |rows: usize, layers: &[Drawn]| {
            let (pending, roots, alias) = network(rows, layers);
            chains(&pending, &roots, |r| alias[r as usize], 2)
        };
        let added = (16, 1, 1, true, true);
        let layers = [(16, 3, 1, false, false), (16, 1, 1, false, false), added];
        let found = chains_of(48, &layers);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].steps, 0..3);
        assert!(found[0].pieces.len() > 6, "{:?}", found[0].pieces);
        assert!(chains_of(2, &layers).is_empty());
        // Busy computing.
        let (mut pending, roots, alias) = network(48, &layers);
        for step in &mut pending {
            Arc::get_mut(&mut step.layer).expect("not shared yet").cost_ns = 1e9;
        }
        assert!(chains(&pending, &roots, |r| alias[r as usize], 2).is_empty());
        // The sum would take the place of what the window still reads.
        let found = chains_of(48, &[layers[1], layers[0], added]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].steps, 0..2);
    }
}
