//! Why a command failed, and the exit status that says so.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::npy::NpyError;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments contradict each other or the model.
    #[error("{0}")]
    Usage(String),

    #[error(transparent)]
    Option(#[from] engraft::OptionError),

    #[error("cannot read the model {}", path.display())]
    Model { path: PathBuf, source: Box<engraft::subgraph::onnx::ModelError> },

    #[error("cannot read the graph {}", path.display())]
    Graph { path: PathBuf, source: Box<engraft::tensorflow::GraphError> },

    #[error("cannot read the plan {}", path.display())]
    Plan { path: PathBuf, source: Box<engraft::engine::container::ContainerError> },

    #[error("the plan {} cannot be used here", path.display())]
    Engine { path: PathBuf, source: Box<engraft::engine::PlanError> },

    #[error("cannot build an engine")]
    Build(#[source] engraft::SessionError),

    #[error("{model} failed")]
    Run { model: String, source: Box<engraft::engine::RunError> },

    #[error("cannot evaluate {}", path.display())]
    Evaluation { path: PathBuf, source: Box<engraft::NetworkError> },

    /// Some of a model would have to stay with a host runtime.
    #[error("{} cannot run without a host runtime:\n{reasons}\n`engraft explain` tells more", path.display())]
    NotStandalone { path: PathBuf, reasons: String },

    #[error("array file {}", path.display())]
    Array { path: PathBuf, source: Box<NpyError> },

    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: std::io::Error },

    /// The Python package that does it did not.
    #[error("`{python} -m engraft` failed: {reason}")]
    Python { python: String, reason: String },

    /// Outputs are not those of the reference.
    #[error("{0}")]
    Mismatch(String),
}

impl CliError {
    /// 2: the command line; 3: wrong results; 1: everything else.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) | Self::Option(_) => 2,
            Self::Mismatch(_) => 3,
            _ => 1,
        })
    }

    /// For `map_err` on builds.
    pub fn build(source: engraft::SessionError) -> Self {
        Self::Build(source)
    }

    /// For `map_err` on I/O with the file at `path`.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// For `map_err` on array files.
    pub fn array(path: impl Into<PathBuf>) -> impl FnOnce(NpyError) -> Self {
        let path = path.into();
        move |source| Self::Array { path, source: Box::new(source) }
    }
}
