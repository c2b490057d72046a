//! Why a chore failed, in words that say what to do.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),

    #[error("{what} failed ({status})\n  command: {command}")]
    Command { what: String, command: String, status: String },

    #[error("{what}: cannot start `{program}`")]
    Start { what: String, program: String, source: io::Error },

    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "no Python from 3.11 to 3.14 found (looked for {looked_for}); onnxruntime 1.32.0 has wheels for no other.\n  \
         Install one, or name it in ENGRAFT_PYTHON."
    )]
    NoPython { looked_for: String },

    #[error("{0}")]
    Missing(String),

    #[error("{failed} of {total} stages failed: {names}")]
    Stages { failed: usize, total: usize, names: String },
}

impl Error {
    /// An I/O error with the path that it struck and what was being done to it ("read", "create").
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
