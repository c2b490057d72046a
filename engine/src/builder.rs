//! Network to plan.

use crate::container::{ContainerWriter, Fields};
use crate::engine::Engine;
use crate::error::{BuildError, PlanError};
use crate::layout;
use crate::plan::{self, Manifest, PackedEntry, ToPack};
use crate::program::{Program, Tuned, problem_size, with_dense_problem};
use crate::timing_cache::TimingCache;
use crate::tune;
use engraft_kernels::{Class, Isa, Precision, Problem, Tactic, catalog};
use engraft_network::{Network, NodeId, Op, ops::eval_shape};
use std::sync::Arc;

/// Shapes to tune for, as sizes of the network's inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileShapes {
    /// Input name and its shape; inputs that are not named keep their representative sizes.
    pub inputs: Vec<(String, Vec<usize>)>,
}

/// How a network is built.
#[derive(Clone, Debug)]
pub struct BuilderConfig {
    pub isa: Isa,
    /// Arithmetic that products of `f32` operands may use.
    pub precision: Precision,
    /// Threads that the engine is expected to run on.
    pub threads: usize,
    /// 0 (no timing) to 5 (exhaustive).
    pub optimization_level: u8,
    /// Shapes to tune for; none stands for representative sizes.
    pub profiles: Vec<ProfileShapes>,
}

impl Default for BuilderConfig {
    fn default() -> BuilderConfig {
        BuilderConfig {
            isa: Isa::best(),
            precision: Precision::default(),
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            optimization_level: 3,
            profiles: Vec::new(),
        }
    }
}

/// Makes plans.
pub struct Builder<'a> {
    config: &'a BuilderConfig,
    progress: &'a (dyn Fn(usize, usize) + Sync),
}

impl std::fmt::Debug for Builder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("config", self.config).finish_non_exhaustive()
    }
}

impl<'a> Builder<'a> {
    pub fn new(config: &'a BuilderConfig) -> Builder<'a> {
        Builder { config, progress: &|_, _| () }
    }

    /// `progress` is told how many of how many layers have their tactics timed, which is what takes long.
    pub fn on_progress(self, progress: &'a (dyn Fn(usize, usize) + Sync)) -> Builder<'a> {
        Builder { progress, ..self }
    }

    /// Optimizes `network`, selects and tunes tactics, and writes the plan.
    pub fn build(
        &self,
        mut network: Network,
        timings: &TimingCache,
        writer: &mut ContainerWriter,
    ) -> Result<(), BuildError> {
        let config = self.config;
        let narrow = config.precision == Precision::Bf16 && config.isa == Isa::Amx;
        let options = crate::passes::PassOptions {
            isa: Some(config.isa),
            narrow: narrow.then_some(on_tiles),
            ..Default::default()
        };
        let report = crate::passes::optimize(&mut network, &options)
            .map_err(|e| BuildError::Pass { pass: e.pass(), reason: e.to_string() })?;
        network.compact();
        let mut program = Program::new(network, config.isa, config.precision)?;
        let env = program.network.representative_env();
        // Sizes of 1 would make any strides look dense.
        let generic: Vec<i64> = env.iter().map(|n| (*n).max(2)).collect();
        layout::decide(&mut program, &generic);
        let envs = self.profile_envs(&program.network, env)?;
        let mut tuned: Vec<Tuned> = Vec::new();
        let budget = tune::budget(config.optimization_level) / envs.len().max(1) as u32;
        for (index, env) in envs.iter().enumerate() {
            let progress = |done, total| (self.progress)(index * total + done, envs.len() * total);
            tuned.extend(tune::tune(&program, env, config.threads, budget, timings, &progress));
        }
        for t in &tuned {
            if let Some(tactic) = catalog::by_id(&t.tactic) {
                program.tuned[t.node.index()].push((t.size, t.threads, tactic));
            }
        }
        let to_pack = packings(&program, &envs, config.threads)?;
        let manifest = Manifest {
            network: program.network.clone(),
            isa: config.isa.name().to_owned(),
            precision: config.precision,
            catalog_version: catalog::CATALOG_VERSION,
            roles: program.roles.clone(),
            targets: program.targets.clone(),
            tuned,
            constants: Vec::new(),
            packed: Vec::new(),
            fusion: report.lines(),
        };
        plan::write(writer, manifest, &program, to_pack, config.threads)?;
        Ok(())
    }

    /// Builds into memory and loads; timings are forgotten.
    pub fn build_engine(&self, network: Network) -> Result<Arc<Engine>, BuildError> {
        self.build_engine_with(network, &TimingCache::in_memory(crate::fingerprint::cpu_model()))
    }

    /// Builds into memory and loads.
    pub fn build_engine_with(
        &self,
        network: Network,
        timings: &TimingCache,
    ) -> Result<Arc<Engine>, BuildError> {
        let container = ContainerWriter::in_memory(Fields::new(), |w| self.build(network, timings, w))?;
        Ok(Engine::load_for(container, self.config.isa)?)
    }

    /// Symbol values of the profiles, or the representative ones.
    fn profile_envs(&self, net: &Network, representative: Vec<i64>) -> Result<Vec<Vec<i64>>, BuildError> {
        if self.config.profiles.is_empty() {
            return Ok(vec![representative]);
        }
        let mut envs = Vec::new();
        for profile in &self.config.profiles {
            let shapes: Vec<Vec<usize>> = net
                .inputs()
                .iter()
                .map(|v| {
                    let value = net.value(*v);
                    match profile.inputs.iter().find(|(n, _)| *n == value.name) {
                        Some((_, s)) => Ok(s.clone()),
                        None => eval_shape(&value.ty.shape, &representative).map_err(|e| e.to_string()),
                    }
                })
                .collect::<Result<_, String>>()
                .map_err(|reason| {
                    BuildError::Plan(PlanError::Inconsistent { what: "profile".into(), reason })
                })?;
            let mut env = representative.clone();
            // Inputs outside the profile may disagree with it: the symbols' values are what counts.
            let _ = net.bind(&|i| &shapes[i], &|_, _| 1, &mut env);
            envs.push(env);
        }
        Ok(envs)
    }
}

/// The tactic that a node is expected to run with, before anything is packed.
fn expected(program: &Program, id: NodeId, p: &Problem<'_>) -> Option<&'static dyn Tactic> {
    let size = problem_size(p);
    let tuned = program.tuned[id.index()]
        .iter()
        .min_by(|a, b| (a.0 - size).abs().total_cmp(&(b.0 - size).abs()))
        .map(|t| t.2)
        .filter(|t| t.accepts(p).is_ok());
    tuned.or_else(|| catalog::best_among(&program.shortlist[id.index()], p).map(|b| b.0))
}

/// Whether node `id` is a product that tiles of bf16 compute.
fn on_tiles(network: &Network, id: NodeId) -> bool {
    let Some(node) = network.node(id) else { return false };
    let row = match node.op {
        Op::Conv(_) | Op::MatMul(_) => "tiles.bf16.amx",
        Op::ConvTranspose(_) => "conv_transpose.tiles.bf16.amx",
        _ => return false,
    };
    let env = network.representative_env();
    with_dense_problem(network, id, &env, (1, Isa::Amx, Precision::Bf16), |p| {
        catalog::by_id(row).is_some_and(|tiles| tiles.accepts(p).is_ok())
    })
    .unwrap_or(false)
}

/// What is to be packed for the tactics that the nodes will run with: at most two packings per operand.
fn packings<'a>(
    program: &'a Program,
    envs: &'a [Vec<i64>],
    threads: usize,
) -> Result<Vec<ToPack<'a>>, BuildError> {
    let mut all: Vec<ToPack<'a>> = Vec::new();
    for (id, node) in program.network.nodes() {
        if !node.inputs.iter().any(|v| program.constant(*v).is_some()) {
            continue;
        }
        let mut seen: Vec<(usize, &'static str)> = Vec::new();
        for env in envs {
            let wanted = program.with_dense_problem(id, env, threads, |p| {
                expected(program, id, p).map(|t| {
                    let list: Vec<(usize, &'static str, usize, bool)> = (0..p.inputs.len())
                        .filter(|i| p.inputs[*i].constant.is_some())
                        .filter_map(|i| {
                            let name = t.packing(p, i)?;
                            Some((i, name, t.packed_bytes(p, i), t.packing_moves(p, i)))
                        })
                        .collect();
                    (t, list)
                })
            });
            let Some(Some((tactic, list))) = wanted else {
                return Err(BuildError::NoTactic {
                    node: node.name.clone(),
                    op: node.op.name(),
                    reason: "the catalog has no row for it".to_owned(),
                });
            };
            for (i, name, bytes, moves) in list {
                if seen.contains(&(i, name)) || seen.iter().filter(|(k, _)| *k == i).count() >= 2 {
                    continue;
                }
                seen.push((i, name));
                all.push(ToPack {
                    entry: PackedEntry {
                        node: id,
                        operand: i as u32,
                        packing: name.to_owned(),
                        tactic_version: tactic.version(),
                        offset: None,
                        bytes: bytes as u64,
                    },
                    moved_by: moves.then(|| tactic.id()),
                    pack: Box::new(move |out| {
                        program.with_dense_problem(id, env, threads, |p| tactic.pack(p, i, out));
                    }),
                });
            }
        }
    }
    Ok(all)
}

/// What the catalog makes of a node: for partitioning.
#[derive(Clone, Debug)]
pub struct Assessment {
    /// Expected nanoseconds on one thread at representative sizes.
    pub cost_ns: f64,
    /// True if only the reference would run it.
    pub reference_only: bool,
    pub tactic: &'static str,
}

/// Whether the catalog takes node `id` of `network`. Errors: why not.
pub fn assess(network: &Network, id: NodeId, isa: Isa) -> Result<Assessment, String> {
    let Some(node) = network.node(id) else { return Err("the node is gone".to_owned()) };
    let env = network.representative_env();
    let best = with_dense_problem(network, id, &env, (1, isa, Precision::Fp32), catalog::best)
        .ok_or_else(|| "a shape has no size".to_owned())?;
    let Some((t, fit)) = best else {
        return Err(format!("no tactic takes `{}` of {}", node.op.name(), network.ty(node.outputs[0])));
    };
    Ok(Assessment { cost_ns: fit.cost_ns, reference_only: t.class() == Class::Reference, tactic: t.id() })
}
