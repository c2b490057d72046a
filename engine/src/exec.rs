//! Running a specialization: one parallel region over units.
//!
//! All tasks of a run stand in one static order, unit after unit (a unit is one phase of one step, or a piece of one where steps
//! take turns, see `bands.rs`), and every thread walks the units in that order. A unit's tasks are cut to shares, one per thread: a thread takes the tasks of its own share first, so
//! that the rows of a layer are read by the thread whose cache they were written to, and then what others left. Before it
//! takes a task of a unit that depends on earlier units it waits until all of those are complete. A thread leaves a unit only
//! when all of its tasks are taken, so whatever a task waits for was taken by a thread that runs it: no task waits for one
//! that has not started, a single thread can finish the run alone, and the worker pool may drop participants that never
//! started.

use crate::arena::Buffer;
use crate::bands::Chain;
use crate::layer::Layer;
use engraft_kernels::cpu::FlushDenormals;
use engraft_kernels::{Args, KernelError, Workers};
use smallvec::SmallVec;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What an offset counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The address itself: constants.
    Absolute,
    Arena,
    /// Inputs, then outputs, then buffers that live across stages: index into the run's table of bases.
    External(u32),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Loc {
    pub base: Base,
    /// Bytes; for [`Base::Absolute`] the address.
    pub offset: usize,
}

/// One kernel of a specialization, with the places of its operands.
pub(crate) struct Step {
    pub layer: Arc<Layer>,
    pub inputs: SmallVec<[Loc; 4]>,
    pub outputs: SmallVec<[Loc; 1]>,
    pub workspace: Loc,
    /// The step whose completion, with that of all before it, this one waits for.
    pub wait: Option<u32>,
}

/// Tasks of one phase of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    pub step: u32,
    pub phase: u32,
    /// The first task, and how many.
    pub start: u32,
    pub tasks: u32,
    /// Parts of the tasks that belong to different threads.
    pub shares: u32,
    /// Units `0..after` must be complete before its tasks may run.
    pub after: u32,
}

/// The executable part of a specialization.
pub(crate) struct Schedule {
    pub steps: Vec<Step>,
    pub units: Vec<Unit>,
    pub arena_bytes: usize,
    pub scratch_bytes: usize,
    /// Threads that are worth taking.
    pub threads: usize,
}

impl Schedule {
    /// `chains` are consecutive steps that take turns, in order.
    pub(crate) fn new(steps: Vec<Step>, chains: Vec<Chain>, arena_bytes: usize, threads: usize) -> Schedule {
        let pieces: usize = chains.iter().map(|c| c.pieces.len()).sum();
        let mut order = Order {
            units: Vec::with_capacity(steps.len() + 8 + pieces),
            end_of_step: vec![0; steps.len()],
            threads,
        };
        let mut chains = chains.into_iter().peekable();
        let mut i = 0;
        while let Some(s) = steps.get(i) {
            let after = |order: &Order, s: &Step| s.wait.map_or(0, |w| order.end_of_step[w as usize]);
            if let Some(chain) = chains.next_if(|c| c.steps.start == i) {
                let first = order.units.len() as u32;
                for piece in &chain.pieces {
                    let outside = after(&order, &steps[piece.step as usize]);
                    let inside = if piece.after > 0 { first + piece.after } else { 0 };
                    order.push(piece.step, 0, piece.tasks.clone(), outside.max(inside));
                }
                i = chain.steps.end;
                continue;
            }
            let mut after = after(&order, s);
            // A step without tasks is over when those before it are.
            order.end_of_step[i] = order.units.len() as u32;
            for (phase, &tasks) in s.layer.kernel.phases().iter().enumerate() {
                if tasks > 0 {
                    order.push(i as u32, phase as u32, 0..tasks as u32, after);
                    after = order.units.len() as u32;
                }
            }
            i += 1;
        }
        let scratch_bytes = steps.iter().map(|s| s.layer.kernel.scratch_bytes()).max().unwrap_or(0);
        Schedule {
            steps,
            units: order.units,
            arena_bytes,
            scratch_bytes: scratch_bytes.next_multiple_of(64),
            threads,
        }
    }
}

/// A schedule's units while it is made.
struct Order {
    units: Vec<Unit>,
    /// By step: units up to its last.
    end_of_step: Vec<u32>,
    threads: usize,
}

impl Order {
    fn push(&mut self, step: u32, phase: u32, tasks: Range<u32>, after: u32) {
        let shares = tasks.len().min(self.threads);
        let (start, tasks) = (tasks.start, tasks.len() as u32);
        self.units.push(Unit { step, phase, start, tasks, shares: shares as u32, after });
        self.end_of_step[step as usize] = self.units.len() as u32;
    }
}

/// What a run needs besides the schedule; owned by a context, so that runs allocate nothing.
#[derive(Debug)]
pub(crate) struct RunState {
    pub arena: Buffer,
    scratch: Buffer,
    /// By thread, tasks of each unit that it completed.
    done: Counters,
    /// By share, tasks of each unit that were taken; may exceed what there is.
    taken: Counters,
    failed: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

#[derive(Debug)]
pub(crate) enum Failure {
    Kernel { step: u32, source: KernelError },
    Panic { step: u32 },
}

impl RunState {
    pub(crate) fn new() -> RunState {
        RunState {
            arena: Buffer::empty(),
            scratch: Buffer::empty(),
            done: Counters::default(),
            taken: Counters::default(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Runs the schedule. `externals` are the bases of inputs, outputs and crossing buffers.
    ///
    /// # Safety
    /// Every pointer of `externals` is valid for what the schedule's steps do with it.
    pub(crate) unsafe fn run(
        &mut self,
        schedule: &Schedule,
        externals: &[*mut u8],
        workers: &dyn Workers,
        observer: Option<&dyn Observer>,
    ) -> Result<(), Failure> {
        let threads = workers.threads().min(schedule.threads).max(1);
        self.arena.reserve(schedule.arena_bytes);
        self.scratch.reserve(schedule.scratch_bytes * threads);
        let bases = Bases { arena: self.arena.as_ptr(), externals };
        if threads == 1 || observer.is_some() {
            let _fp = FlushDenormals::enter();
            let mut times = vec![Duration::ZERO; if observer.is_some() { schedule.steps.len() } else { 0 }];
            for unit in &schedule.units {
                let start = observer.map(|_| Instant::now());
                let step = &schedule.steps[unit.step as usize];
                for task in unit.start..unit.start + unit.tasks {
                    let (phase, task) = (unit.phase as usize, task as usize);
                    // SAFETY: by this function's contract, and units run in order.
                    unsafe { run_task(step, unit.step, phase, task, &bases, self.scratch.as_ptr()) }?;
                }
                if let Some(start) = start {
                    times[unit.step as usize] += start.elapsed();
                }
            }
            if let Some(o) = observer {
                times.into_iter().enumerate().for_each(|(i, time)| o.step(i, time));
            }
            return Ok(());
        }
        self.done.reset(threads, schedule.units.len());
        self.taken.reset(schedule.threads, schedule.units.len());
        *self.failed.get_mut() = false;
        let state = &*self;
        let shared = SharedBases(&bases);
        workers.run(threads, &|slot| state.participate(schedule, &shared, slot));
        if *self.failed.get_mut()
            && let Some(f) = self.failure.get_mut().ok().and_then(Option::take)
        {
            return Err(f);
        }
        Ok(())
    }

    fn participate(&self, schedule: &Schedule, bases: &SharedBases<'_>, slot: usize) {
        // SAFETY: `run` reserved one scratch area per slot.
        let scratch = unsafe { self.scratch.as_ptr().add(slot * schedule.scratch_bytes) };
        let mut entered = None;
        let mut complete = 0usize;
        for (i, unit) in schedule.units.iter().enumerate() {
            let shares = unit.shares as usize;
            let home = (slot * shares / schedule.threads).min(shares - 1);
            let mut finished = 0;
            for share in (home..shares).chain(0..home) {
                let taken = self.taken.of(share, i);
                let start = unit.tasks as usize * share / shares;
                let end = unit.tasks as usize * (share + 1) / shares;
                loop {
                    if start + taken.load(Ordering::Relaxed) as usize >= end {
                        break;
                    }
                    self.wait_for(schedule, &mut complete, unit.after as usize);
                    let task = start + taken.fetch_add(1, Ordering::Relaxed) as usize;
                    if task >= end {
                        break;
                    }
                    entered.get_or_insert_with(FlushDenormals::enter);
                    self.task(schedule, unit, unit.start as usize + task, bases, scratch);
                    finished += 1;
                }
            }
            if finished > 0 {
                // Nobody else counts here.
                self.done.of(slot, i).store(finished, Ordering::Release);
            }
        }
    }

    fn task(&self, schedule: &Schedule, unit: &Unit, task: usize, bases: &SharedBases<'_>, scratch: *mut u8) {
        if self.failed.load(Ordering::Relaxed) {
            return;
        }
        let step = &schedule.steps[unit.step as usize];
        // SAFETY: the units this one depends on are complete; `run`'s contract covers the pointers.
        let r = unsafe { run_task(step, unit.step, unit.phase as usize, task, bases.0, scratch) };
        if let Err(f) = r {
            if let Ok(mut slot) = self.failure.lock() {
                slot.get_or_insert(f);
            }
            self.failed.store(true, Ordering::Release);
        }
    }

    fn wait_for(&self, schedule: &Schedule, complete: &mut usize, until: usize) {
        while *complete < until {
            let mut spins = 0u32;
            while self.done.sum(*complete) < schedule.units[*complete].tasks {
                spins += 1;
                if spins < 4096 {
                    std::hint::spin_loop();
                } else {
                    std::thread::yield_now();
                }
            }
            *complete += 1;
        }
    }
}

/// Rows of counters, one counter for each unit. Rows lie on cache lines of their own, so that threads that count in different rows do
/// not take lines from each other.
#[derive(Debug, Default)]
struct Counters {
    lines: Vec<Line>,
    rows: usize,
    /// Lines of a row.
    pitch: usize,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU32; LINE]);

/// Counters of a line.
const LINE: usize = 16;

impl Counters {
    /// Makes them `rows` rows of `units` zeros.
    fn reset(&mut self, rows: usize, units: usize) {
        (self.rows, self.pitch) = (rows, units.div_ceil(LINE));
        let lines = self.rows * self.pitch;
        if self.lines.len() < lines {
            self.lines.resize_with(lines, Line::default);
        }
        for line in &mut self.lines[..lines] {
            line.0.iter_mut().for_each(|c| *c.get_mut() = 0);
        }
    }

    #[inline]
    fn of(&self, row: usize, unit: usize) -> &AtomicU32 {
        &self.lines[row * self.pitch + unit / LINE].0[unit % LINE]
    }

    /// Over all rows; what was done before any of it was counted has happened.
    #[inline]
    fn sum(&self, unit: usize) -> u32 {
        (0..self.rows).map(|row| self.of(row, unit).load(Ordering::Acquire)).sum()
    }
}

/// Told how long each step of a serial run took.
pub(crate) trait Observer {
    fn step(&self, index: usize, time: Duration);
}

struct Bases<'a> {
    arena: *mut u8,
    externals: &'a [*mut u8],
}

struct SharedBases<'a>(&'a Bases<'a>);
// SAFETY: the pointers are only handed to kernels, which touch disjoint parts as the schedule orders them.
unsafe impl Sync for SharedBases<'_> {}

impl Bases<'_> {
    #[inline]
    fn resolve(&self, loc: Loc) -> *mut u8 {
        match loc.base {
            Base::Absolute => loc.offset as *mut u8,
            Base::Arena => self.arena.wrapping_add(loc.offset),
            Base::External(i) => self.externals[i as usize].wrapping_add(loc.offset),
        }
    }
}

/// # Safety
/// As [`engraft_kernels::Kernel::run`], for the places that the step names under `bases`.
#[inline]
unsafe fn run_task(
    step: &Step,
    index: u32,
    phase: usize,
    task: usize,
    bases: &Bases<'_>,
    scratch: *mut u8,
) -> Result<(), Failure> {
    let inputs: SmallVec<[*const u8; 8]> =
        step.inputs.iter().map(|l| bases.resolve(*l).cast_const()).collect();
    let outputs: SmallVec<[*mut u8; 4]> = step.outputs.iter().map(|l| bases.resolve(*l)).collect();
    let args = Args { inputs: &inputs, outputs: &outputs, scratch, workspace: bases.resolve(step.workspace) };
    // SAFETY: by this function's contract.
    match catch_unwind(AssertUnwindSafe(|| unsafe { step.layer.kernel.run(phase, task, &args) })) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(Failure::Kernel { step: index, source }),
        Err(_) => Err(Failure::Panic { step: index }),
    }
}
