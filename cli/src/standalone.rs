//! Whole models as engines, without a host: what `build`, `run` and `bench` work on.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use engraft::engine::Engine;
use engraft::engine::container::Container;
use engraft::subgraph::onnx::{self, FileSource, ReadFiles};
use engraft::subgraph::{Segment, tensorflow};
use engraft::{HostGraph, Options, PartitionPolicy, Session};

use crate::arguments::{EngineArguments, OptionArguments};
use crate::error::CliError;
use crate::inspect::is_plan;
use crate::progress::BuildProgress;

/// How many kinds of refused nodes an error names.
const REASONS: usize = 5;

/// An engine, and how long it took to get it.
pub struct Loaded {
    pub engine: Arc<Engine>,
    pub seconds: f64,
}

/// The engine of a model (built, or found in the plan cache) or of a plan.
pub fn load(path: &Path, arguments: &EngineArguments) -> Result<Loaded, CliError> {
    let start = Instant::now();
    let engine = if is_plan(path) {
        if let Some((key, _)) = arguments.options.options.first() {
            return Err(CliError::Usage(format!("--option {key}: a plan is built already")));
        }
        let container = Container::open(path)
            .map_err(|source| CliError::Plan { path: path.to_owned(), source: Box::new(source) })?;
        Engine::load(container)
            .map_err(|source| CliError::Engine { path: path.to_owned(), source: Box::new(source) })?
    } else {
        let model = whole_model(path, &arguments.options, arguments.threads)?;
        let built = model.session.build(&model.segment.network);
        model.progress.clear();
        built.map_err(CliError::build)?.0
    };
    Ok(Loaded { engine, seconds: start.elapsed().as_secs_f64() })
}

/// A model as one segment, and the session that builds it under the eyes of `progress`.
pub struct WholeModel {
    pub session: Session,
    pub segment: Segment,
    pub progress: BuildProgress,
}

/// A model as one segment; there is no host to leave anything to. It is tuned for `threads` threads, one per core where
/// `None`.
pub fn whole_model(
    path: &Path,
    arguments: &OptionArguments,
    threads: Option<u16>,
) -> Result<WholeModel, CliError> {
    let mut options = parse_options(arguments)?;
    // Whatever can run has to.
    options.partition_policy = Some(PartitionPolicy::Maximal);
    options.min_subgraph_size = Some(1);
    let graph = read_model(path)?;
    let progress = BuildProgress::new();
    let session = match threads {
        Some(threads) => Session::with_threads(options, usize::from(threads)),
        None => Session::new(options),
    };
    let session = session.on_progress(progress.hook());
    match session.whole(&graph) {
        Ok(segment) => Ok(WholeModel { session, segment, progress }),
        Err(report) => Err(CliError::NotStandalone { path: path.to_owned(), reasons: reasons(&report) }),
    }
}

/// The graph of a model file: TensorFlow's where it is named `.pb`, else ONNX.
pub fn read_model(path: &Path) -> Result<HostGraph, CliError> {
    if is_tensorflow(path) {
        return Ok(read_tensorflow(path)?.graph);
    }
    let model = onnx::read_model(path);
    model
        .map(|model| model.graph)
        .map_err(|source| CliError::Model { path: path.to_owned(), source: Box::new(source) })
}

pub fn is_tensorflow(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "pb")
}

/// A frozen graph: its placeholders are the inputs, what no node reads the outputs.
pub fn read_tensorflow(path: &Path) -> Result<tensorflow::Model, CliError> {
    let bytes = ReadFiles.open(path).map_err(CliError::file("read", path))?;
    tensorflow::read(bytes, &tensorflow::Ends::default())
        .map_err(|source| CliError::Graph { path: path.to_owned(), source: Box::new(source) })
}

pub fn parse_options(arguments: &OptionArguments) -> Result<Options, CliError> {
    let pairs = arguments.options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    Ok(Options::parse(pairs)?)
}

/// What keeps a model from running alone, most frequent first.
fn reasons(report: &engraft::subgraph::PlacementReport) -> String {
    let mut refusals: Vec<_> = report.refusals().into_iter().collect();
    refusals.sort_by_key(|(_, nodes)| std::cmp::Reverse(nodes.len()));
    if refusals.is_empty() {
        return "  it falls into parts that depend on nothing of each other, or passes an input through"
            .to_owned();
    }
    let line =
        |((op, reason), nodes): &((String, String), Vec<_>)| format!("  {} x {op}: {reason}", nodes.len());
    let mut lines: Vec<String> = refusals.iter().take(REASONS).map(line).collect();
    if refusals.len() > REASONS {
        lines.push(format!("  and {} more", refusals.len() - REASONS));
    }
    lines.join("\n")
}
