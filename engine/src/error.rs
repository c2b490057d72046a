use engraft_kernels::KernelError;
use engraft_network::{DType, NetworkError};

/// Why a network could not be made into a plan.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("the network is invalid: {0}")]
    Network(#[from] NetworkError),
    #[error("pass {pass}: {reason}")]
    Pass { pass: &'static str, reason: String },
    #[error("node `{node}` ({op}): no tactic takes it: {reason}")]
    NoTactic { node: String, op: &'static str, reason: String },
    #[error("the plan cannot be written or read back: {0}")]
    Plan(#[from] PlanError),
}

/// Why a plan could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Container(#[from] crate::container::ContainerError),
    #[error("the plan's {section} section is missing")]
    Missing { section: &'static str },
    #[error("the plan's manifest cannot be decoded: {0}")]
    Manifest(String),
    #[error("the plan's {what} is inconsistent: {reason}")]
    Inconsistent { what: String, reason: String },
    #[error("no memory for packed weights: {0}")]
    Memory(std::io::Error),
    #[error("the plan was made for {field} {theirs}, this is {ours}")]
    Fingerprint { field: &'static str, theirs: String, ours: String },
}

/// Why a run failed. The engine stays usable.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the engine has {want} inputs, not {got}")]
    InputCount { want: usize, got: usize },
    #[error("input `{name}` is {got}, the engine wants {want}")]
    InputType { name: String, want: DType, got: DType },
    #[error("input `{name}`: {reason}")]
    InputShape { name: String, reason: String },
    #[error("node `{node}`: {reason}")]
    Shape { node: String, reason: String },
    #[error("node `{node}` ({tactic}): {source}")]
    Kernel { node: String, tactic: &'static str, source: KernelError },
    #[error("output {index} ({bytes} bytes) could not be allocated")]
    Output { index: usize, bytes: usize },
    #[error("a kernel panicked in node `{node}`")]
    Panic { node: String },
}

impl From<crate::container::ContainerError> for BuildError {
    fn from(e: crate::container::ContainerError) -> BuildError {
        BuildError::Plan(e.into())
    }
}
