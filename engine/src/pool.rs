//! The engine's own worker threads, for hosts that bring none.
//!
//! [`Pool`] runs one fork-join region at a time. Between regions its threads spin for a short while, so that the
//! next region starts within a fraction of a microsecond, and then park. The caller always takes part and could
//! finish a region alone: a worker that is late, parked or gone (after `fork`) costs time, never progress.

mod futex;

use engraft_kernels::Workers;
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker looks for the next region before it parks.
pub const DEFAULT_SPIN: Duration = Duration::from_micros(100);

/// A fork-join pool of `threads - 1` workers and the calling thread.
///
/// - [`Workers::run`] allocates nothing.
/// - Regions never nest and never wait for each other: a caller that finds the pool taken, be it by another thread
///   or by a region it is itself part of, runs its own region alone.
/// - A panic in a task skips the tasks that have not started, and continues in the caller once no task runs any more.
/// - In a forked child, where the workers do not exist, the first region starts new ones.
pub struct Pool {
    current: AtomicPtr<Crew>,
    /// Every crew ever started; they stay until the pool goes, because regions may still refer to them.
    crews: Mutex<Vec<Arc<Crew>>>,
    threads: usize,
    spin: Duration,
}

/// The threads of one process; a forked child gets a crew of its own.
struct Crew {
    pid: u32,
    region: Arc<Region>,
    handles: Vec<JoinHandle<()>>,
}

/// The one region that a crew can have open, and the words on which its threads meet.
///
/// `state` packs: bits 0..14 the number of workers inside, bit 14 "the caller is parked", bit 15 "open to workers",
/// bits 16..32 the region's number.
#[repr(align(64))]
struct Region {
    state: AtomicU32,
    sleepers: AtomicU32,
    stop: AtomicBool,
    /// Held by the caller from before it writes `job` until no worker is inside.
    taken: AtomicBool,
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    tickets: Tickets,
}

#[repr(align(64))]
struct Tickets(AtomicUsize);

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(usize) + Sync),
    count: usize,
}

const INSIDE: u32 = (1 << 14) - 1;
const CALLER_PARKED: u32 = 1 << 14;
const OPEN: u32 = 1 << 15;
const NUMBER: u32 = !0 << 16;
const NEXT_NUMBER: u32 = 1 << 16;

// SAFETY: `job` is written only by the caller that holds `taken`, while the region is closed and nobody is inside,
// and read only by workers that entered through `state` after it was opened. The task it points to is `Sync`.
unsafe impl Sync for Region {}
// SAFETY: see `Sync`; nothing in a region is bound to a thread.
unsafe impl Send for Region {}

impl Pool {
    /// A pool that computes on `threads` threads, the caller's included; 0 means every CPU this process may use.
    pub fn new(threads: usize) -> Pool {
        Pool::with_spin(threads, DEFAULT_SPIN)
    }

    /// Like [`Pool::new`]; idle workers park after `spin`. With more threads than CPUs they park at once, because a
    /// spinning worker would only keep the others from running.
    pub fn with_spin(threads: usize, spin: Duration) -> Pool {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if threads == 0 { cpus } else { threads }.min(INSIDE as usize);
        let spin = if threads > cpus { Duration::ZERO } else { spin };
        let crew = Arc::new(Crew::start(threads, spin));
        let current = AtomicPtr::new(Arc::as_ptr(&crew).cast_mut());
        Pool { current, crews: Mutex::new(vec![crew]), threads, spin }
    }

    /// The process's pool of that many threads: created by whoever asks first, gone with the last who holds it, so
    /// that a library that is unloaded leaves no thread behind.
    pub fn shared(threads: usize) -> Arc<Pool> {
        static POOLS: Mutex<Vec<(usize, Weak<Pool>)>> = Mutex::new(Vec::new());
        let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|(_, pool)| pool.strong_count() > 0);
        if let Some(pool) = pools.iter().find(|(n, _)| *n == threads).and_then(|(_, pool)| pool.upgrade()) {
            return pool;
        }
        let pool = Arc::new(Pool::new(threads));
        pools.push((threads, Arc::downgrade(&pool)));
        pool
    }

    fn crew(&self) -> Option<&Crew> {
        // SAFETY: `current` always points to one of `crews`, which leave that list only when the pool drops.
        let crew = unsafe { &*self.current.load(Ordering::Acquire) };
        if crew.pid == std::process::id() {
            return Some(crew);
        }
        self.restart_after_fork()
    }

    /// Starts a crew for a forked child. `None` while another thread is about it, or when the list was locked at the
    /// moment of the fork: then the caller works alone.
    #[cold]
    fn restart_after_fork(&self) -> Option<&Crew> {
        let mut crews = self.crews.try_lock().ok()?;
        let last = crews.last()?;
        if last.pid != std::process::id() {
            crews.push(Arc::new(Crew::start(self.threads, self.spin)));
        }
        let crew = Arc::as_ptr(crews.last()?);
        self.current.store(crew.cast_mut(), Ordering::Release);
        // SAFETY: as in `crew`.
        Some(unsafe { &*crew })
    }
}

impl Workers for Pool {
    fn threads(&self) -> usize {
        self.threads
    }

    fn run(&self, n: usize, f: &(dyn Fn(usize) + Sync)) {
        let alone = n <= 1 || self.threads == 1;
        match if alone { None } else { self.crew() } {
            Some(crew) if !crew.region.taken.swap(true, Ordering::Acquire) => {
                crew.region.host(n, f, self.spin)
            }
            _ => (0..n).for_each(f),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let crews = self.crews.get_mut().unwrap_or_else(PoisonError::into_inner);
        for crew in crews.drain(..).filter_map(Arc::into_inner) {
            let handles = crew.handles;
            if crew.pid != std::process::id() {
                // The threads live in the parent process: there is nothing here to join or detach.
                std::mem::forget(handles);
                continue;
            }
            crew.region.stop.store(true, Ordering::SeqCst);
            crew.region.state.fetch_add(NEXT_NUMBER, Ordering::SeqCst);
            futex::wake(&crew.region.state, u32::MAX, futex::WORKERS);
            for handle in handles {
                // Workers catch every panic of a task, so that joining cannot fail.
                let _ = handle.join();
            }
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads)
            .field("spin", &self.spin)
            .finish_non_exhaustive()
    }
}

impl Crew {
    fn start(threads: usize, spin: Duration) -> Crew {
        let region = Arc::new(Region {
            state: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            taken: AtomicBool::new(false),
            job: UnsafeCell::new(Job { task: &|_| (), count: 0 }),
            panic: Mutex::new(None),
            tickets: Tickets(AtomicUsize::new(0)),
        });
        let mut handles = Vec::with_capacity(threads.saturating_sub(1));
        for index in 1..threads {
            let region = region.clone();
            let name = format!("engraft-{index}");
            match std::thread::Builder::new().name(name).spawn(move || region.serve(spin)) {
                Ok(handle) => handles.push(handle),
                Err(error) => {
                    tracing::warn!(%error, started = index, wanted = threads, "the system refused a worker thread");
                    break;
                }
            }
        }
        Crew { pid: std::process::id(), region, handles }
    }
}

impl Region {
    /// Runs a region as its caller; `taken` is held on entry and released on return or unwinding.
    fn host(&self, count: usize, task: &(dyn Fn(usize) + Sync), spin: Duration) {
        // SAFETY: only the lifetime changes. Workers use the pointer only while inside, and this function neither
        // returns nor unwinds before the region is closed and nobody is inside.
        let task =
            unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task) };
        let job = Job { task, count };
        // SAFETY: `taken` is held, the region is closed and empty: nobody else looks at `job`.
        unsafe { *self.job.get() = job };
        self.tickets.0.store(0, Ordering::Relaxed);
        let number = (self.state.load(Ordering::Relaxed) & NUMBER).wrapping_add(NEXT_NUMBER);
        self.state.store(number | OPEN, Ordering::SeqCst);
        let sleepers = self.sleepers.load(Ordering::SeqCst);
        if sleepers > 0 {
            futex::wake(&self.state, sleepers.min(count as u32 - 1), futex::WORKERS);
        }

        self.take_tasks(job);

        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        self.await_empty(spin);
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.taken.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Takes and runs tasks until none is left. Never unwinds.
    fn take_tasks(&self, job: Job) {
        // SAFETY: the caller of the region keeps the task alive while anybody is inside; this thread is, or is that caller.
        let task = unsafe { &*job.task };
        let mut work = || {
            loop {
                let ticket = self.tickets.0.fetch_add(1, Ordering::Relaxed);
                if ticket >= job.count {
                    return;
                }
                task(ticket);
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(&mut work)) {
            // Large enough that no ticket below the count is drawn again, small enough not to wrap.
            self.tickets.0.store(usize::MAX / 2, Ordering::Relaxed);
            let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
            match *first {
                None => *first = Some(panic),
                // Its drop is foreign code that may panic again, which nobody could report any more.
                Some(_) => std::mem::forget(panic),
            }
        }
    }

    /// Waits until no worker is inside the closed region.
    fn await_empty(&self, spin: Duration) {
        let mut patience = Patience::new(spin.max(Duration::from_micros(20)));
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state & INSIDE == 0 {
                self.state.fetch_and(!CALLER_PARKED, Ordering::Relaxed);
                return;
            }
            if patience.spin() {
                continue;
            }
            let parked = state | CALLER_PARKED;
            if state == parked
                || self.state.compare_exchange(state, parked, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                futex::wait(&self.state, parked, futex::CALLER);
            }
        }
    }

    /// The life of a worker.
    fn serve(&self, spin: Duration) {
        let mut seen = 0;
        while let Some(mut state) = self.await_region(seen, spin) {
            while state & OPEN != 0 && state & NUMBER != seen {
                match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed)
                {
                    Err(now) => state = now,
                    Ok(_) => {
                        seen = state & NUMBER;
                        // SAFETY: inside an open region: its caller wrote `job` before opening it and leaves it alone
                        // until this thread has left.
                        self.take_tasks(unsafe { *self.job.get() });
                        let before = self.state.fetch_sub(1, Ordering::AcqRel);
                        if before & INSIDE == 1 && before & CALLER_PARKED != 0 {
                            futex::wake(&self.state, 1, futex::CALLER);
                        }
                        break;
                    }
                }
            }
        }
    }

    /// The state of the next open region that is not number `seen`; `None` when the pool goes away.
    fn await_region(&self, seen: u32, spin: Duration) -> Option<u32> {
        let mut patience = Patience::new(spin);
        loop {
            let state = self.state.load(Ordering::Acquire);
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if state & OPEN != 0 && state & NUMBER != seen {
                return Some(state);
            }
            if patience.spin() {
                continue;
            }
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let state = self.state.load(Ordering::SeqCst);
            let due = state & OPEN != 0 && state & NUMBER != seen;
            if !due && !self.stop.load(Ordering::SeqCst) {
                futex::wait(&self.state, state, futex::WORKERS);
            }
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Spinning with a time limit, which reads the clock only now and then.
struct Patience {
    limit: Duration,
    since: Option<Instant>,
    turns: u32,
}

impl Patience {
    fn new(limit: Duration) -> Patience {
        Patience { limit, since: None, turns: 0 }
    }

    /// One turn of the loop; false once the limit has passed.
    #[inline]
    fn spin(&mut self) -> bool {
        std::hint::spin_loop();
        self.turns = self.turns.wrapping_add(1);
        if !self.turns.is_multiple_of(32) && !self.limit.is_zero() {
            return true;
        }
        self.since.get_or_insert_with(Instant::now).elapsed() < self.limit
    }
}

#[cfg(test)]
mod tests;
