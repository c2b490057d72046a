//! Everything that can go wrong in the bridge, and how it is told to the host.
use crate::sys::OrtErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call into ONNX Runtime failed.
    #[error("ONNX Runtime's {call} failed: {message}")]
    Host { call: &'static str, message: String },
    /// The host handed over something that the interface does not allow.
    #[error("{0}")]
    Contract(String),
    /// A refused option.
    #[error("EngraftExecutionProvider: {0}")]
    Option(#[from] engraft::OptionError),
    /// Something that the user asked for and that this version cannot do.
    #[error("EngraftExecutionProvider: {0}")]
    Unsupported(String),
    /// A compiled model cannot be written or used.
    #[error("EngraftExecutionProvider: {0}")]
    Compiled(String),
    /// A segment could not be built.
    #[error(transparent)]
    Build(#[from] engraft::SessionError),
    /// A run of a fused node failed.
    #[error("EngraftExecutionProvider: {0}")]
    Run(#[from] engraft::RunError),
    /// Strict mode: too little of the model is accelerated.
    #[error("EngraftExecutionProvider: {0}")]
    Strict(String),
}

impl Error {
    pub fn contract(message: impl Into<String>) -> Self {
        Self::Contract(message.into())
    }

    /// The status code under which the host shows this error.
    pub fn code(&self) -> OrtErrorCode {
        match self {
            Self::Option(_) => OrtErrorCode::ORT_INVALID_ARGUMENT,
            Self::Unsupported(_) => OrtErrorCode::ORT_NOT_IMPLEMENTED,
            // What hosts call a plan of another version or machine.
            Self::Compiled(_) => OrtErrorCode::ORT_INVALID_GRAPH,
            Self::Host { .. } | Self::Build(_) | Self::Run(_) | Self::Contract(_) | Self::Strict(_) => {
                OrtErrorCode::ORT_EP_FAIL
            }
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
