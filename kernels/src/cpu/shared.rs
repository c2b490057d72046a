//! Kernels of equal, independent units of work, which tasks share out.

use super::isa::Isa;
use super::pointwise::{share, tasks};
use crate::{Args, Fit, Kernel, KernelError, Problem};

/// Work on concrete operands, in units.
pub(crate) trait Units: Send + Sync + 'static {
    fn units(&self) -> usize;

    /// Expected nanoseconds of all units on one thread.
    fn cost(&self, isa: Isa) -> f64;

    /// See [`Kernel::scratch_bytes`].
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Computes units `units.0..units.1`.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn run(&self, isa: Isa, units: (usize, usize), args: &Args<'_>) -> Result<(), KernelError>;
}

/// The kernel of some units.
pub(crate) struct Shared<W> {
    work: W,
    isa: Isa,
    cost: f64,
    phases: [usize; 1],
}

impl<W: Units> Shared<W> {
    pub(crate) fn new(work: W, p: &Problem<'_>) -> Self {
        let cost = work.cost(p.isa);
        Shared { isa: p.isa, cost, phases: [tasks(cost, work.units(), p.threads)], work }
    }

    pub(crate) fn fit(&self, p: &Problem<'_>) -> Fit {
        Fit { cost_ns: self.cost / self.phases[0].clamp(1, p.threads.max(1)) as f64 }
    }
}

impl<W: Units> Kernel for Shared<W> {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    fn scratch_bytes(&self) -> usize {
        self.work.scratch_bytes()
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let units = share(self.work.units(), self.phases[0], task);
        // SAFETY: by the caller's contract.
        unsafe { self.work.run(self.isa, units, args) }
    }
}
