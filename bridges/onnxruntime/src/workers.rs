//! The session's intra-op threads as the engine's workers.
//!
//! ONNX Runtime does not tell how many threads a session has, so the first runs count them: the tasks of a small region wait a
//! moment for company, and the threads that show up are the threads there are.
use std::{
    cell::Cell,
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use engraft::Workers;

use crate::{api::Api, sys::OrtKernelContext};

/// How many threads a session's pool has, as far as is known.
pub struct ThreadCount {
    known: AtomicUsize,
    probes: AtomicUsize,
    limit: usize,
    /// Runs keep to the thread that calls.
    single: AtomicBool,
}

/// Runs that count. Threads that sleep need time to come, and a loaded machine may keep one away: later counts can only raise it.
const PROBES: usize = 4;
/// How long the first count waits for threads, and each later one.
const PATIENCE: [Duration; 2] = [Duration::from_millis(2), Duration::from_micros(200)];

impl ThreadCount {
    pub fn new() -> Self {
        let limit = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            known: AtomicUsize::new(1),
            probes: AtomicUsize::new(0),
            limit,
            single: AtomicBool::new(false),
        }
    }

    /// Whether runs from now on keep to the thread that calls.
    pub fn limit(&self, single: bool) {
        self.single.store(single, Ordering::Relaxed);
    }

    /// The threads to split a run over. Counts during the first runs, then costs one load.
    #[inline]
    pub fn get(&self, api: Api, context: *mut OrtKernelContext) -> usize {
        if self.single.load(Ordering::Relaxed) {
            return 1;
        }
        let known = self.known.load(Ordering::Relaxed);
        if known >= self.limit || self.probes.load(Ordering::Relaxed) >= PROBES {
            return known;
        }
        self.probe(api, context)
    }

    #[cold]
    fn probe(&self, api: Api, context: *mut OrtKernelContext) -> usize {
        let round = self.probes.fetch_add(1, Ordering::Relaxed);
        if round < PROBES {
            let patience = PATIENCE[round.min(1)];
            let census = Census::new(self.limit, patience);
            let pool = HostWorkers::new(api, context, self.limit);
            pool.run(self.limit * 2, &|_| census.attend());
            self.known.fetch_max(census.present(), Ordering::Relaxed);
        }
        self.known.load(Ordering::Relaxed)
    }
}

/// Counts the distinct threads that run a region's tasks.
struct Census {
    id: usize,
    limit: usize,
    until: Instant,
    present: AtomicUsize,
}

impl Census {
    fn new(limit: usize, patience: Duration) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { id, limit, until: Instant::now() + patience, present: AtomicUsize::new(0) }
    }

    fn attend(&self) {
        thread_local! {
            static ATTENDED: Cell<usize> = const { Cell::new(0) };
        }
        if ATTENDED.replace(self.id) != self.id {
            self.present.fetch_add(1, Ordering::Relaxed);
        }
        while self.present() < self.limit && Instant::now() < self.until {
            std::hint::spin_loop();
        }
    }

    fn present(&self) -> usize {
        self.present.load(Ordering::Relaxed)
    }
}

/// The intra-op pool during one run.
pub struct HostWorkers {
    api: Api,
    context: *mut OrtKernelContext,
    threads: usize,
}

// SAFETY: the context may be used for parallel regions from the thread of the run; `run` is only called there.
unsafe impl Sync for HostWorkers {}

impl HostWorkers {
    pub fn new(api: Api, context: *mut OrtKernelContext, threads: usize) -> Self {
        Self { api, context, threads }
    }
}

/// A region in progress, shared by its tasks.
struct Region<'a> {
    task: &'a (dyn Fn(usize) + Sync),
    panicked: AtomicBool,
}

unsafe extern "C" fn run_task(region: *mut c_void, index: usize) {
    // SAFETY: `HostWorkers::run` passes a region that lives until all tasks are done.
    let region = unsafe { &*region.cast::<Region<'_>>() };
    if catch_unwind(AssertUnwindSafe(|| (region.task)(index))).is_err() {
        region.panicked.store(true, Ordering::Release);
    }
}

impl Workers for HostWorkers {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, n: usize, f: &(dyn Fn(usize) + Sync)) {
        if n <= 1 || self.threads <= 1 {
            (0..n).for_each(f);
            return;
        }
        let mut region = Region { task: f, panicked: AtomicBool::new(false) };
        let data = (&raw mut region).cast::<c_void>();
        let done = self.api.parallel_for(self.context, run_task, n, data);
        // Both end up in the guard of the host's call, which turns them into a status.
        assert!(!region.panicked.load(Ordering::Acquire), "a task of the engine panicked");
        if let Err(error) = done {
            panic!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_census_counts_threads_not_tasks() {
        let census = Census::new(3, Duration::from_secs(10));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    census.attend();
                    census.attend();
                });
            }
        });
        assert_eq!(census.present(), 3);
    }

    #[test]
    fn a_census_of_one_ends() {
        let census = Census::new(64, Duration::from_millis(1));
        census.attend();
        census.attend();
        assert_eq!(census.present(), 1);
    }
}
