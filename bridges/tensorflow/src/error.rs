//! Everything that can go wrong in the bridge, and how it is told to TensorFlow.
use crate::sys::*;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call into TensorFlow failed; the code is TensorFlow's own.
    #[error("{message}")]
    Host { code: TF_Code, message: String },
    /// The library is in a process where it cannot work.
    #[error("{0}")]
    Unavailable(String),
    /// TensorFlow, or a caller of the C functions, handed over something that the interface does not allow.
    #[error("{0}")]
    Contract(String),
    /// A refused option.
    #[error("{0}")]
    Option(#[from] engraft::OptionError),
    /// A graph or a segment that cannot be read.
    #[error("{0}")]
    Read(String),
    /// A segment could not be built.
    #[error(transparent)]
    Build(#[from] engraft::SessionError),
    /// A run of a segment failed.
    #[error(transparent)]
    Run(#[from] engraft::RunError),
}

impl Error {
    pub fn contract(message: impl Into<String>) -> Self {
        Self::Contract(message.into())
    }

    /// The status code under which TensorFlow shows this error.
    pub fn code(&self) -> TF_Code {
        match self {
            Self::Host { code, .. } => *code,
            Self::Option(_) | Self::Read(_) | Self::Run(_) => TF_INVALID_ARGUMENT,
            Self::Unavailable(_) => TF_FAILED_PRECONDITION,
            Self::Contract(_) | Self::Build(_) => TF_INTERNAL,
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
