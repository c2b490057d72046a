//! Kernels run one after another as one kernel, values between them in the workspace.

use crate::{Args, Kernel, KernelError};
use smallvec::SmallVec;

/// Where an operand or a result of a stage lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// Operand of the whole.
    Input(usize),
    /// Result of the whole.
    Output(usize),
    /// Bytes from the start of the workspace.
    Between(usize),
}

/// One kernel and where its operands and results lie.
pub(super) struct Stage {
    pub kernel: Box<dyn Kernel>,
    pub inputs: SmallVec<[Place; 6]>,
    pub outputs: SmallVec<[Place; 2]>,
}

/// The tasks of one phase of one stage within a phase of the whole.
struct Part {
    stage: usize,
    phase: usize,
    first: usize,
}

/// Stages in order; stages that [`Sequence::together`] groups share their phases.
pub(super) struct Sequence {
    stages: Vec<Stage>,
    parts: Vec<SmallVec<[Part; 4]>>,
    phases: Vec<usize>,
    scratch: usize,
    /// Where each stage's own workspace begins, and the end of all.
    workspaces: SmallVec<[usize; 6]>,
    workspace: usize,
}

impl Sequence {
    /// `between` bytes of the workspace hold values between stages.
    pub fn new(between: usize) -> Sequence {
        Sequence {
            stages: Vec::new(),
            parts: Vec::new(),
            phases: Vec::new(),
            scratch: 0,
            workspaces: SmallVec::new(),
            workspace: between.next_multiple_of(64),
        }
    }

    /// Appends stages that do not depend on each other: phase `i` of each runs in the same phase of the whole.
    pub fn together(&mut self, stages: impl IntoIterator<Item = Stage>) {
        let start = self.phases.len();
        for stage in stages {
            let index = self.stages.len();
            for (phase, &tasks) in stage.kernel.phases().iter().enumerate() {
                if self.phases.len() == start + phase {
                    self.phases.push(0);
                    self.parts.push(SmallVec::new());
                }
                let all = &mut self.phases[start + phase];
                self.parts[start + phase].push(Part { stage: index, phase, first: *all });
                *all += tasks;
            }
            self.scratch = self.scratch.max(stage.kernel.scratch_bytes());
            self.workspaces.push(self.workspace);
            self.workspace += stage.kernel.workspace_bytes().next_multiple_of(64);
            self.stages.push(stage);
        }
    }
}

impl Kernel for Sequence {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    fn workspace_bytes(&self) -> usize {
        self.workspace
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let parts = &self.parts[phase];
        let part = &parts[parts.partition_point(|part| part.first <= task) - 1];
        let stage = &self.stages[part.stage];
        let between = |offset: usize| args.workspace.wrapping_add(offset);
        let input = |place: &Place| match *place {
            Place::Input(i) => args.inputs[i],
            Place::Output(i) => args.outputs[i].cast_const(),
            Place::Between(offset) => between(offset).cast_const(),
        };
        let output = |place: &Place| match *place {
            Place::Input(_) => unreachable!("a stage that writes an operand"),
            Place::Output(i) => args.outputs[i],
            Place::Between(offset) => between(offset),
        };
        let inputs: SmallVec<[*const u8; 12]> = stage.inputs.iter().map(input).collect();
        let outputs: SmallVec<[*mut u8; 4]> = stage.outputs.iter().map(output).collect();
        let args = Args {
            inputs: &inputs,
            outputs: &outputs,
            scratch: args.scratch,
            workspace: between(self.workspaces[part.stage]),
        };
        // SAFETY: the stage's operands and results are those of the whole or lie in its part of the workspace; scratch is
        // as large as any stage wants.
        unsafe { stage.kernel.run(part.phase, task - part.first, &args) }
    }
}
