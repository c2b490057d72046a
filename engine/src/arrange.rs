//! From steps in order to a schedule: results in place, memory of the arena, who waits for whom.

use crate::bands;
use crate::exec::{Base, Loc, Schedule, Step};
use crate::layer::Layer;
use crate::memory::{self, Request};
use smallvec::SmallVec;
use std::sync::Arc;

/// A piece of memory that values lie in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Root {
    pub base: Base,
    /// Address of absolute roots.
    pub address: usize,
    bytes: usize,
    first: u32,
    last: u32,
}

impl Root {
    pub(crate) fn new(base: Base, address: usize, bytes: usize) -> Root {
        Root { base, address, bytes, first: u32::MAX, last: 0 }
    }

    pub(crate) fn used_by(&mut self, step: u32) {
        self.first = self.first.min(step);
        self.last = self.last.max(step);
    }
}

/// A step whose operands have roots, but no addresses yet.
pub(crate) struct Pending {
    pub layer: Arc<Layer>,
    /// Root, and offset in bytes.
    pub inputs: SmallVec<[(u32, usize); 4]>,
    pub outputs: SmallVec<[(u32, usize); 1]>,
    /// Operand whose memory the result may take over.
    pub in_place: Option<usize>,
}

/// Gives every root of the arena its place. `threads` are worth taking.
pub(crate) fn arrange(mut roots: Vec<Root>, mut pending: Vec<Pending>, threads: usize) -> Schedule {
    let n = roots.len();
    let mut alias: Vec<u32> = (0..n as u32).collect();
    for i in 0..pending.len() {
        let step = &mut pending[i];
        let Some(k) = step.in_place.take() else { continue };
        let from = alias[step.inputs[k].0 as usize];
        let to = step.outputs[0].0;
        let (a, b) = (roots[from as usize], roots[to as usize]);
        let others_read_it =
            step.inputs.iter().enumerate().any(|(j, (r, _))| j != k && alias[*r as usize] == from);
        if a.base == Base::Arena
            && b.base == Base::Arena
            && a.bytes == b.bytes
            && a.last == i as u32
            && b.first == i as u32
            && !others_read_it
        {
            alias[to as usize] = from;
            roots[from as usize].last = b.last;
            step.in_place = Some(k);
        }
    }
    // Aliases of aliases: roots are numbered in order of definition or earlier, so one pass is not enough in general.
    let resolve = |mut r: u32| {
        while alias[r as usize] != r {
            r = alias[r as usize];
        }
        r
    };
    let chains = bands::chains(&pending, &roots, resolve, threads);
    for chain in &chains {
        // Steps of a chain run together: whatever one of them uses is in use while any runs.
        let (first, last) = (chain.steps.start as u32, chain.steps.end as u32 - 1);
        for step in &pending[chain.steps.clone()] {
            for (r, _) in step.inputs.iter().chain(&step.outputs) {
                let root = &mut roots[resolve(*r) as usize];
                root.used_by(first);
                root.used_by(last);
            }
        }
    }
    let mut requests: Vec<Request> = Vec::with_capacity(n + pending.len());
    let mut slot: Vec<u32> = vec![u32::MAX; n];
    for r in 0..n {
        let root = roots[r];
        if root.base == Base::Arena && alias[r] == r as u32 && root.first != u32::MAX {
            slot[r] = requests.len() as u32;
            requests.push(Request { bytes: root.bytes, first: root.first, last: root.last });
        }
    }
    let first_workspace = requests.len();
    for (i, s) in pending.iter().enumerate() {
        requests.push(Request { bytes: s.layer.kernel.workspace_bytes(), first: i as u32, last: i as u32 });
    }
    let (placements, arena_bytes) = memory::plan(&requests);
    let mut chain_of = chains.iter().peekable();
    let mut written: Vec<Option<u32>> = vec![None; n];
    let mut accessed: Vec<Option<u32>> = vec![None; n];
    let mut steps = Vec::with_capacity(pending.len());
    for (i, s) in pending.into_iter().enumerate() {
        let index = i as u32;
        let locate = |(r, offset): (u32, usize)| {
            let root = resolve(r);
            let at = match slot[root as usize] {
                u32::MAX => roots[root as usize].address,
                k => placements[k as usize].offset,
            };
            Loc { base: roots[root as usize].base, offset: at + offset }
        };
        while chain_of.next_if(|c| c.steps.end <= i).is_some() {}
        // What steps of one chain owe each other, its pieces say.
        let chain = chain_of.peek().map(|c| c.steps.start as u32).filter(|start| *start <= index);
        let outside = |step: &Option<u32>| step.filter(|s| chain.is_none_or(|start| *s < start));
        let mut wait: Option<u32> = None;
        for (r, _) in &s.inputs {
            wait = wait.max(outside(&written[resolve(*r) as usize]));
        }
        for (r, _) in &s.outputs {
            let root = resolve(*r);
            if s.in_place.is_some() {
                wait = wait.max(outside(&accessed[root as usize]));
            }
            if slot[root as usize] != u32::MAX {
                wait = wait.max(placements[slot[root as usize] as usize].after);
            }
        }
        let workspace = placements[first_workspace + i];
        if s.layer.kernel.workspace_bytes() > 0 {
            wait = wait.max(workspace.after);
        }
        for (r, _) in s.inputs.iter().chain(&s.outputs) {
            let root = resolve(*r) as usize;
            accessed[root] = accessed[root].max(Some(index));
        }
        for (r, _) in &s.outputs {
            let root = resolve(*r) as usize;
            written[root] = written[root].max(Some(index));
        }
        steps.push(Step {
            inputs: s.inputs.iter().map(|x| locate(*x)).collect(),
            outputs: s.outputs.iter().map(|x| locate(*x)).collect(),
            workspace: Loc { base: Base::Arena, offset: workspace.offset },
            layer: s.layer,
            wait,
        });
    }
    Schedule::new(steps, chains, arena_bytes, threads)
}
