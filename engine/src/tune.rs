//! Tactic selection by timing on dummy data.

use crate::pool::Pool;
use crate::program::{Program, Tuned, problem_size};
use crate::timing_cache::TimingCache;
use engraft_kernels::{Args, Class, Kernel, Problem, Tactic, Workers};
use engraft_network::{AlignedBytes, DType, NodeId, Op};
use rustc_hash::FxHashMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Candidates whose estimate is worse than this multiple of the best are not timed.
const WORTH_TIMING: f64 = 2.5;

/// Dummy operands and results beyond this are not made: such layers are chosen by estimate.
const MOST_BYTES: usize = 256 << 20;

/// How much time the builder may spend on timing, by `builder_optimization_level`.
pub(crate) fn budget(level: u8) -> Duration {
    match level {
        0 => Duration::ZERO,
        1 => Duration::from_millis(50),
        2 => Duration::from_millis(120),
        3 => Duration::from_millis(250),
        4 => Duration::from_secs(3),
        _ => Duration::from_secs(20),
    }
}

/// Times the candidates of the program's heavy nodes under `env`, the costliest first, until the budget is spent; known
/// timings cost nothing. Returns what was found fastest. `progress` hears how many of how many nodes are decided.
pub(crate) fn tune(
    program: &Program,
    env: &[i64],
    threads: usize,
    budget: Duration,
    timings: &TimingCache,
    progress: &dyn Fn(usize, usize),
) -> Vec<Tuned> {
    if budget.is_zero() {
        return Vec::new();
    }
    let pool = Pool::shared(threads);
    let deadline = Instant::now() + budget;
    let mut jobs: Vec<(f64, NodeId, String)> = Vec::new();
    for (id, node) in program.network.nodes() {
        if !matches!(
            node.op,
            Op::MatMul(_) | Op::Conv(_) | Op::ConvTranspose(_) | Op::Attention(_) | Op::Rnn(_) | Op::Pool(_)
        ) {
            continue;
        }
        let job = program.with_dense_problem(id, env, threads, |p| {
            let fits = fits(program, id, p);
            (fits.len() > 1 && dummy_bytes(p) <= MOST_BYTES)
                .then(|| (fits[0].1 * node_weight(&fits), signature(p)))
        });
        if let Some(Some((weight, signature))) = job {
            jobs.push((weight, id, signature));
        }
    }
    jobs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut decided: FxHashMap<String, (&'static str, u32)> = FxHashMap::default();
    let mut tuned = Vec::new();
    let total = jobs.len();
    for (done, (_, id, signature)) in jobs.into_iter().enumerate() {
        progress(done, total);
        let found = program.with_dense_problem(id, env, threads, |p| {
            let choice = match decided.get(&signature) {
                Some(c) => Some(*c),
                None => {
                    let c = fastest(program, id, p, &signature, &pool, deadline, timings);
                    if let Some(c) = c {
                        decided.insert(signature.clone(), c);
                    }
                    c
                }
            };
            choice.map(|(tactic, version)| Tuned {
                node: id,
                size: problem_size(p),
                threads: threads as u32,
                tactic: tactic.to_owned(),
                version,
            })
        });
        tuned.extend(found.flatten());
    }
    tuned
}

/// Optimised candidates with estimates, the cheapest first.
fn fits(program: &Program, id: NodeId, p: &Problem<'_>) -> Vec<(&'static dyn Tactic, f64)> {
    let mut fits: Vec<(&'static dyn Tactic, f64)> = program.shortlist[id.index()]
        .iter()
        .filter(|t| t.class() == Class::Optimized)
        .filter_map(|t| t.accepts(p).ok().map(|f| (*t, f.cost_ns)))
        .collect();
    fits.sort_by(|a, b| a.1.total_cmp(&b.1));
    let best = fits.first().map_or(0.0, |f| f.1);
    fits.retain(|f| f.1 <= best * WORTH_TIMING);
    fits
}

/// Memory that timing the problem takes, packings aside.
fn dummy_bytes(p: &Problem<'_>) -> usize {
    let operands = p.inputs.iter().filter(|o| o.constant.is_none()).map(|o| &o.desc);
    operands.chain(p.outputs).map(|d| d.dense_bytes()).sum()
}

/// More is at stake where estimates are close to each other.
fn node_weight(fits: &[(&'static dyn Tactic, f64)]) -> f64 {
    fits[0].1 / fits[fits.len() - 1].1.max(1.0)
}

/// Names a problem in the timing cache: operator, types, shapes, threads, instruction set. No names, no values.
pub(crate) fn signature(p: &Problem<'_>) -> String {
    let mut s = format!("{:?}|{}|{}t", p.op, p.isa.name(), p.threads);
    for o in p.inputs {
        let _ = write!(
            s,
            "|{}{:?}{}",
            o.desc.dtype,
            &o.desc.shape[..],
            if o.constant.is_some() { "c" } else { "" }
        );
    }
    s
}

fn fastest(
    program: &Program,
    id: NodeId,
    p: &Problem<'_>,
    signature: &str,
    pool: &Pool,
    deadline: Instant,
    timings: &TimingCache,
) -> Option<(&'static str, u32)> {
    let fits: Vec<&'static dyn Tactic> = fits(program, id, p).into_iter().map(|f| f.0).collect();
    let known: Vec<Option<f64>> = fits.iter().map(|t| timings.get(signature, t.id(), t.version())).collect();
    let news: Vec<&'static dyn Tactic> =
        fits.iter().zip(&known).filter(|(_, ns)| ns.is_none()).map(|(t, _)| *t).collect();
    let mut measured = Vec::new();
    if !news.is_empty() {
        if Instant::now() >= deadline {
            return None;
        }
        measured = Bench::new(p).time(&news, p, pool, deadline);
        for (t, ns) in news.iter().zip(&measured) {
            timings.insert(signature, t.id(), t.version(), *ns);
        }
    }
    let mut measured = measured.into_iter();
    let times = known.into_iter().map(|ns| ns.or_else(|| measured.next()).unwrap_or(f64::INFINITY));
    let best = fits.iter().zip(times).min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some((best.0.id(), best.0.version()))
}

/// Dummy operands of one problem, and packings that several tactics share.
struct Bench<'a> {
    inputs: Vec<AlignedBytes>,
    outputs: Vec<AlignedBytes>,
    packed: FxHashMap<(usize, &'static str), AlignedBytes>,
    _problem: std::marker::PhantomData<&'a ()>,
}

impl Bench<'_> {
    fn new(p: &Problem<'_>) -> Self {
        Bench {
            inputs: p
                .inputs
                .iter()
                .map(|o| match o.constant {
                    Some(_) => AlignedBytes::zeroed(0),
                    None => dummy(o.desc.dtype, o.desc.count()),
                })
                .collect(),
            outputs: p.outputs.iter().map(|d| AlignedBytes::zeroed(d.dense_bytes())).collect(),
            packed: FxHashMap::default(),
            _problem: std::marker::PhantomData,
        }
    }

    /// Packs for `t` what is not packed yet.
    fn pack(&mut self, t: &'static dyn Tactic, p: &Problem<'_>) {
        for (i, o) in p.inputs.iter().enumerate() {
            if o.constant.is_some()
                && let Some(name) = t.packing(p, i)
            {
                self.packed.entry((i, name)).or_insert_with(|| {
                    let mut b = AlignedBytes::zeroed(t.packed_bytes(p, i));
                    t.pack(p, i, b.as_mut_slice());
                    b
                });
            }
        }
    }

    /// Nanoseconds of one execution of each tactic: the fastest of a few, after one that warms up. Tactics take turns, so that
    /// a clock that changes meanwhile changes for all.
    fn time(
        &mut self,
        tactics: &[&'static dyn Tactic],
        p: &Problem<'_>,
        pool: &Pool,
        deadline: Instant,
    ) -> Vec<f64> {
        let kernels: Vec<_> = tactics.iter().map(|t| t.prepare(p)).collect();
        tactics.iter().for_each(|t| self.pack(*t, p));
        let outputs: Vec<*mut u8> = self.outputs.iter_mut().map(|b| b.as_mut_slice().as_mut_ptr()).collect();
        let most = |bytes: fn(&dyn Kernel) -> usize| kernels.iter().map(|k| bytes(&**k)).max().unwrap_or(0);
        let scratch_bytes = most(|k| k.scratch_bytes()).next_multiple_of(64);
        let mut scratch = AlignedBytes::zeroed(scratch_bytes * pool.threads() + 64);
        let mut workspace = AlignedBytes::zeroed(most(|k| k.workspace_bytes()));
        let mut best = vec![f64::INFINITY; tactics.len()];
        for round in 0..6 {
            for ((t, kernel), best) in tactics.iter().zip(&kernels).zip(&mut best) {
                let inputs: Vec<*const u8> = (0..p.inputs.len())
                    .map(|i| match (p.inputs[i].constant, t.packing(p, i)) {
                        (Some(_), Some(name)) => self.packed[&(i, name)].as_slice().as_ptr(),
                        (Some(c), None) => c.bytes().as_ptr(),
                        (None, _) => self.inputs[i].as_slice().as_ptr(),
                    })
                    .collect();
                let memory = Memory {
                    inputs: &inputs,
                    outputs: &outputs,
                    scratch: scratch.as_mut_slice().as_mut_ptr(),
                    workspace: workspace.as_mut_slice().as_mut_ptr(),
                };
                let ns = execute(&**kernel, &memory, pool, scratch_bytes);
                if round > 0 {
                    *best = best.min(ns);
                }
            }
            if round > 0 && (Instant::now() >= deadline || best.iter().any(|ns| *ns > 2e7)) {
                break;
            }
        }
        best
    }
}

/// Nanoseconds of one execution.
fn execute(kernel: &dyn Kernel, memory: &Memory<'_>, pool: &Pool, scratch_bytes: usize) -> f64 {
    let start = Instant::now();
    for (phase, &tasks) in kernel.phases().iter().enumerate() {
        let next = std::sync::atomic::AtomicUsize::new(0);
        pool.run(pool.threads(), &|slot| {
            let _fp = engraft_kernels::cpu::FlushDenormals::enter();
            loop {
                let task = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if task >= tasks {
                    break;
                }
                // SAFETY: operands and results of the problem's types and shapes, dense, and scratch per slot.
                // A fault of dummy data is of no interest.
                let _ = unsafe { kernel.run(phase, task, &memory.args(slot * scratch_bytes)) };
            }
        });
    }
    start.elapsed().as_nanos() as f64
}

struct Memory<'a> {
    inputs: &'a [*const u8],
    outputs: &'a [*mut u8],
    scratch: *mut u8,
    workspace: *mut u8,
}

// SAFETY: kernels' tasks touch disjoint parts; scratch is per slot.
unsafe impl Sync for Memory<'_> {}

impl Memory<'_> {
    fn args(&self, scratch: usize) -> Args<'_> {
        Args {
            inputs: self.inputs,
            outputs: self.outputs,
            scratch: self.scratch.wrapping_add(scratch),
            workspace: self.workspace,
        }
    }
}

/// Small numbers of mixed sign; zeros for integers, which may be indices.
fn dummy(dtype: DType, count: usize) -> AlignedBytes {
    let mut bytes = AlignedBytes::zeroed(dtype.bytes(count));
    if dtype == DType::F32 {
        let mut x = 0x2545_f491u32;
        for chunk in bytes.as_mut_slice().chunks_exact_mut(4) {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            chunk.copy_from_slice(&((x as i32 as f32) * (1.0 / 2_147_483_648.0)).to_le_bytes());
        }
    }
    bytes
}
