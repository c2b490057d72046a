//! What bridges do with a host's model: partition it, and get each segment's engine from the cache or the builder.

use crate::capability::CpuCapability;
use crate::compiled::{self, Mismatch};
use crate::{Options, PartitionPolicy};
use engraft_engine::container::{Container, ContainerWriter};
use engraft_engine::fingerprint::{Fingerprint, cpu_model, hashing_threads};
use engraft_engine::plan_cache::{CacheKey, Origin, PlanCache};
use engraft_engine::timing_cache::TimingCache;
use engraft_engine::{BuildError, Builder, BuilderConfig, Engine, PlanError, ProfileShapes};
use engraft_kernels::{Isa, Precision};
use engraft_network::Network;
use engraft_subgraph::{HostGraph, Partition, PartitionOptions, PlacementReport, Segment, partition};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Bytes that a plan cache may take before the plans used longest ago are removed.
pub const CACHE_QUOTA: u64 = 8 << 30;

/// Why a segment has no engine.
#[derive(Debug, thiserror::Error)]
#[error("segment `{segment}`: {source}")]
pub struct SessionError {
    pub segment: String,
    #[source]
    pub source: Box<BuildError>,
}

/// Why a plan that was compiled ahead of time cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Partitions and builds under one set of options. Shared by any number of threads.
#[derive(Debug)]
pub struct Session {
    options: Options,
    isa: Isa,
    threads: usize,
    cache: OnceLock<Option<PlanCache>>,
    timings: OnceLock<TimingCache>,
    progress: Progress,
}

/// Hears how many of how many layers of a build have their tactics timed.
struct Progress(Box<dyn Fn(usize, usize) + Send + Sync>);

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Session {
    pub fn new(options: Options) -> Session {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Session::with_threads(options, threads)
    }

    /// A session whose engines are tuned for `threads` threads.
    pub fn with_threads(options: Options, threads: usize) -> Session {
        let isa = Isa::best();
        let note = match (options.precision, isa) {
            (Precision::Fp32, _) => "single precision",
            (Precision::Tf32, Isa::Portable | Isa::Avx2 | Isa::Avx512) => {
                "single precision, 3x3 convolutions by minimal filtering: there are no AMX tiles"
            }
            (Precision::Bf16, Isa::Portable | Isa::Avx2 | Isa::Avx512) => {
                "weights of products of few rows in bf16, else as tf32: there are no AMX tiles"
            }
            (Precision::Tf32, Isa::Amx) => "three products of split bf16 operands on AMX tiles",
            (Precision::Bf16, Isa::Amx) => "operands rounded to bf16 on AMX tiles",
        };
        tracing::info!("precision {}: {note}", options.precision);
        Session {
            options,
            isa,
            threads,
            cache: OnceLock::new(),
            timings: OnceLock::new(),
            progress: Progress(Box::new(|_, _| ())),
        }
    }

    /// `progress` is told, during builds, how many of how many layers have their tactics timed.
    pub fn on_progress(self, progress: impl Fn(usize, usize) + Send + Sync + 'static) -> Session {
        Session { progress: Progress(Box::new(progress)), ..self }
    }

    /// Threads that engines are tuned for.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Builds the plan of a network into the file at `path`, apart from the plan cache.
    pub fn write_plan(&self, network: &Network, path: &Path) -> Result<(), SessionError> {
        let fail = |source| SessionError { segment: network.name.clone(), source: Box::new(source) };
        let key = self.key(network).map_err(fail)?;
        ContainerWriter::publish(path, key.fields().to_vec(), |writer| {
            self.builder(&self.builder_config()).build(network.clone(), self.timings(), writer)
        })
        .map_err(fail)?;
        self.keep_timings();
        Ok(())
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Decides what Engraft takes of the graph. Control-flow bodies are graphs of their own.
    pub fn partition(&self, graph: &HostGraph) -> Partition {
        let o = &self.options;
        let options = PartitionOptions {
            min_subgraph_size: o.min_subgraph_size.unwrap_or(1),
            // The partitioner writes a domain's operators as `domain.Type`.
            op_types_to_exclude: o.op_types_to_exclude.iter().map(|t| t.replace(':', ".")).collect(),
            policy: match o.policy() {
                PartitionPolicy::Profit => engraft_subgraph::PartitionPolicy::Profit,
                PartitionPolicy::Maximal => engraft_subgraph::PartitionPolicy::Maximal,
            },
        };
        partition(graph, &CpuCapability { isa: self.isa }, &options)
    }

    /// All of a graph as one segment whose outputs are the graph's. Error: what keeps it from being that.
    pub fn whole(&self, graph: &HostGraph) -> Result<Segment, Box<PlacementReport>> {
        let mut partition = self.partition(graph);
        let whole = partition.report.taken == partition.report.nodes.len()
            && matches!(&partition.segments[..], [one] if graph.outputs.iter().all(|o| one.outputs.contains(o)));
        match partition.segments.pop() {
            Some(segment) if whole => Ok(segment),
            _ => Err(Box::new(partition.report)),
        }
    }

    /// The engine of a network: loaded from the plan cache, or built (and cached).
    pub fn build(&self, network: &Network) -> Result<(Arc<Engine>, Option<Origin>), SessionError> {
        let fail = |source| SessionError { segment: network.name.clone(), source: Box::new(source) };
        let config = self.builder_config();
        let Some(cache) = self.cache() else {
            let engine =
                self.builder(&config).build_engine_with(network.clone(), self.timings()).map_err(fail)?;
            self.keep_timings();
            return Ok((engine, None));
        };
        let key = self.key(network).map_err(fail)?;
        let (engine, origin) = cache
            .fetch(
                &key,
                |writer| self.builder(&config).build(network.clone(), self.timings(), writer),
                |container| Engine::load_for(container, self.isa).map_err(BuildError::from),
            )
            .map_err(fail)?;
        if !matches!(origin, Origin::Hit) {
            self.keep_timings();
        }
        Ok((engine, Some(origin)))
    }

    /// The engine of a network if the plan cache holds its plan; nothing is built.
    pub fn cached(&self, network: &Network) -> Result<Option<Arc<Engine>>, SessionError> {
        let fail = |source| SessionError { segment: network.name.clone(), source: Box::new(source) };
        let key = self.key(network).map_err(fail)?;
        let plan = self.cache().and_then(|cache| cache.find(&key));
        // A plan that cannot be loaded is as good as none.
        Ok(plan.and_then(|plan| Engine::load_for(plan, self.isa).ok()))
    }

    /// The engine of a plan that was compiled ahead of time. One of another build, or for another kind of CPU, is refused
    /// with the field of its key that differs.
    pub fn load(&self, plan: Container) -> Result<Arc<Engine>, LoadError> {
        compiled::check_identity(plan.key())?;
        Ok(Engine::load_for(plan, self.isa)?)
    }

    fn builder<'a>(&'a self, config: &'a BuilderConfig) -> Builder<'a> {
        Builder::new(config).on_progress(&*self.progress.0)
    }

    fn keep_timings(&self) {
        if let Err(error) = self.timings().flush() {
            tracing::warn!(%error, "the timing cache cannot be written");
        }
    }

    pub fn builder_config(&self) -> BuilderConfig {
        let p = &self.options.profile;
        let shapes = |s: &crate::Shapes| ProfileShapes {
            inputs: s.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        };
        BuilderConfig {
            isa: self.isa,
            precision: self.options.precision,
            threads: self.threads,
            optimization_level: self.options.builder_optimization_level,
            profiles: [&p.opt, &p.max, &p.min].into_iter().filter(|s| !s.is_empty()).map(shapes).collect(),
        }
    }

    fn cache(&self) -> Option<&PlanCache> {
        self.cache
            .get_or_init(|| {
                self.options.engine_cache_enable.then(|| {
                    let folder =
                        self.options.engine_cache_path.clone().unwrap_or_else(PlanCache::default_folder);
                    PlanCache::open(&folder, CACHE_QUOTA)
                })
            })
            .as_ref()
    }

    fn timings(&self) -> &TimingCache {
        self.timings.get_or_init(|| {
            let device = format!("{} {}", cpu_model(), self.isa.name());
            match (&self.options.timing_cache_path, self.cache()) {
                (Some(path), _) => TimingCache::open(path, device),
                (None, Some(cache)) => TimingCache::open(&cache.folder().join("timings"), device),
                (None, None) => TimingCache::in_memory(device),
            }
        })
    }

    /// Everything that a plan depends on. Two networks, option sets, libraries or machines that differ in any of it never
    /// share a plan.
    fn key(&self, network: &Network) -> Result<CacheKey, BuildError> {
        let structure = postcard::to_allocvec(network).map_err(|e| PlanError::Manifest(e.to_string()))?;
        let weights = Fingerprint::of_parts(
            network.constants().iter().map(engraft_network::Tensor::bytes),
            hashing_threads(),
        );
        let config = self.builder_config();
        let key = CacheKey::new(Fingerprint::of(&structure))
            .with("weights", weights)
            .with("precision", self.options.precision.name())
            .with("builder_optimization_level", config.optimization_level)
            .with("profiles", format!("{:?}", config.profiles))
            .with("threads", config.threads);
        Ok(compiled::identity().into_iter().fold(key, |key, (field, value)| key.with(field, value)))
    }
}
