//! The command line.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Compiles ONNX models into engines, runs them, and shows what became of them.
///
/// Exit status: 0 success, 1 failure, 2 wrong usage, 3 outputs that differ from their reference.
#[derive(Debug, Parser)]
#[command(name = "engraft", version, long_version = LONG_VERSION.as_str(), arg_required_else_help = true)]
pub struct Arguments {
    /// Print the result as JSON.
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

static LONG_VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} ({}, {})", engraft::VERSION, engraft::COMMIT, engraft::TARGET));

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile a model into a plan file.
    Build(Build),
    /// Run a model or plan once; store its outputs or compare them with a reference.
    Run(Run),
    /// Evaluate a model operator by operator in double precision: the truth to compare outputs with. Slow.
    Evaluate(Evaluate),
    /// Write a model whose segments are custom operators, for ONNX Runtime before 1.24 and hosts that take no plugins.
    Convert(Convert),
    /// Time a model or plan.
    Bench(Bench),
    /// Show what a model or plan consists of.
    Inspect(Inspect),
    /// Show what a host runtime would hand to Engraft, what not and why, and what was fused.
    Explain(Explain),
    /// List the operators that can be taken, of which types, and why the others stay with the host.
    Operators(Operators),
    /// The plan cache.
    Cache(Cache),
}

#[derive(Debug, Args)]
pub struct Build {
    /// An ONNX file or a frozen TensorFlow graph (`.pb`).
    pub model: PathBuf,
    /// The plan file to write.
    #[arg(short, long)]
    pub output: PathBuf,
    /// Number of threads to tune for; one per core without it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub options: OptionArguments,
}

#[derive(Debug, Args)]
pub struct Convert {
    /// An ONNX file, a frozen graph of TensorFlow, or the folder of a SavedModel.
    pub model: PathBuf,
    /// What is written. ONNX Runtime needs Engraft's library for it (`register_custom_ops_library`), TensorFlow the package
    /// (`import engraft.tensorflow`).
    pub output: PathBuf,
    #[command(flatten)]
    pub options: OptionArguments,
}

#[derive(Debug, Args)]
pub struct Run {
    /// An ONNX file, a frozen TensorFlow graph (`.pb`) or a plan.
    pub model: PathBuf,
    #[command(flatten)]
    pub inputs: InputArguments,
    /// Store the outputs: one array as .npy, all by name as .npz.
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// Compare the outputs with these: .npy for a single output, .npz by name. What `evaluate` wrote will do.
    #[arg(long)]
    pub reference: Option<PathBuf>,
    /// Largest |output - reference| allowed, relative to the largest |reference|; integers must be equal.
    #[arg(long, default_value_t = 1e-4, requires = "reference")]
    pub tolerance: f64,
    #[command(flatten)]
    pub engine: EngineArguments,
}

#[derive(Debug, Args)]
pub struct Evaluate {
    /// An ONNX file or a frozen TensorFlow graph (`.pb`).
    pub model: PathBuf,
    #[command(flatten)]
    pub inputs: InputArguments,
    /// Where the outputs go: one array as .npy, all by name as .npz. Floats are f64.
    #[arg(short, long)]
    pub output: PathBuf,
}

#[derive(Debug, Args)]
pub struct Bench {
    /// An ONNX file, a frozen TensorFlow graph (`.pb`) or a plan.
    pub model: PathBuf,
    #[command(flatten)]
    pub inputs: InputArguments,
    /// How long to run before measuring, in seconds.
    #[arg(long, default_value = "0.5", value_parser = seconds)]
    pub warm_up: Duration,
    /// How long to measure, in seconds.
    #[arg(long, default_value = "3", value_parser = seconds)]
    pub duration: Duration,
    /// Number of measured runs; overrules the duration.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub iterations: Option<u64>,
    /// Percentiles of the latency to show.
    #[arg(long, default_values_t = [50.0, 90.0, 99.0], value_delimiter = ',', value_parser = percentile)]
    pub percentiles: Vec<f64>,
    /// Time every layer as well.
    #[arg(long)]
    pub profile: bool,
    /// Time these batch sizes one after the other and name the best: latency against throughput. The batch is the named
    /// dim in front of the first input that has one.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "profile")]
    pub batch: Vec<u64>,
    #[command(flatten)]
    pub engine: EngineArguments,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// An ONNX file, a frozen TensorFlow graph (`.pb`) or a plan.
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// An ONNX file, a frozen TensorFlow graph (`.pb`), or the folder of a SavedModel.
    pub model: PathBuf,
    /// List every node, not only those left to the host.
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub options: OptionArguments,
}

#[derive(Debug, Args)]
pub struct Operators {
    /// Print the page docs/operators.md.
    #[arg(long)]
    pub markdown: bool,
}

#[derive(Debug, Args)]
pub struct Cache {
    /// The cache's folder, if it is not the default one.
    #[arg(long, global = true)]
    pub folder: Option<PathBuf>,
    #[command(subcommand)]
    pub command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List the plans, those used last first.
    Ls,
    /// Remove plans.
    Rm {
        /// Beginnings of plan names, as `ls` shows them.
        #[arg(required_unless_present = "all")]
        names: Vec<String>,
        /// Remove every plan.
        #[arg(long, conflicts_with = "names")]
        all: bool,
    },
    /// Remove the plans used longest ago until the rest fits.
    Prune {
        /// Bytes that may stay, with an optional k, M or G.
        #[arg(long, value_parser = size)]
        keep: u64,
    },
}

/// Engraft's options.
#[derive(Debug, Args)]
pub struct OptionArguments {
    /// An option, as in `--option builder_optimization_level=5`; may be repeated.
    #[arg(long = "option", value_name = "KEY=VALUE", value_parser = key_value)]
    pub options: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub struct EngineArguments {
    /// Number of threads; one per core without it.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    #[command(flatten)]
    pub options: OptionArguments,
}

/// Where inputs come from: files for those that are named, generated values for the others.
#[derive(Clone, Debug, Args)]
pub struct InputArguments {
    /// `name=array.npy` for one input, `arrays.npz` for many by name; may be repeated.
    #[arg(short, long = "input", value_name = "[NAME=]FILE")]
    pub files: Vec<String>,
    /// Shape of a generated input, as in `--shape images:1x3x224x224`; may be repeated.
    #[arg(long = "shape", value_name = "NAME:SHAPE")]
    pub shapes: Vec<String>,
    /// Size of a symbolic dim in generated inputs, as in `--dim batch=8`; a representative one without it. May be repeated.
    #[arg(long = "dim", value_name = "NAME=SIZE")]
    pub dims: Vec<String>,
    /// Seed of generated inputs: normal floats, integers and booleans of 0 and 1.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number of seconds")?;
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}

fn percentile(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|p| (0.0..=100.0).contains(p)).ok_or_else(|| "expected 0 to 100".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    let unit = |suffix: char, factor: u64| text.strip_suffix(suffix).map(|digits| (digits, factor));
    let (digits, factor) = unit('k', 1_000)
        .or_else(|| unit('M', 1_000_000))
        .or_else(|| unit('G', 1_000_000_000))
        .unwrap_or((text, 1));
    let number: u64 = digits.parse().map_err(|_| "expected a number of bytes such as 500M")?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_declaration_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("12"), Ok(12));
        assert_eq!(size("3k"), Ok(3_000));
        assert_eq!(size("5M"), Ok(5_000_000));
        assert_eq!(size("2G"), Ok(2_000_000_000));
        assert!(size("G").is_err() && size("99999999999G").is_err());
    }

    #[test]
    fn percentiles_are_a_list() {
        let parsed =
            Arguments::try_parse_from(["engraft", "bench", "m.onnx", "--percentiles", "50,99.9"]).unwrap();
        let Command::Bench(bench) = parsed.command else { panic!("not bench") };
        assert_eq!(bench.percentiles, [50.0, 99.9]);
        assert!(Arguments::try_parse_from(["engraft", "bench", "m.onnx", "--percentiles", "101"]).is_err());
    }
}
