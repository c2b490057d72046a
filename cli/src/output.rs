//! Results, as text for people or as JSON.

use serde::Serialize;

use crate::error::CliError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Text,
    Json,
}

impl Output {
    /// Prints a result to standard output: `value` as JSON, or what `text` says.
    pub fn print(self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), CliError> {
        let text = match self {
            Self::Text => text(),
            Self::Json => {
                serde_json::to_string_pretty(value).map_err(std::io::Error::other).map_err(write_error)?
            }
        };
        use std::io::Write;
        let mut stdout = std::io::stdout().lock();
        match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
            // Whoever read the output has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            result => result.map_err(write_error),
        }
    }
}

fn write_error(source: std::io::Error) -> CliError {
    CliError::File { action: "write to", path: "standard output".into(), source }
}
