//! SavedModels: their variables and signatures are TensorFlow's to read, so the Python package does what is to be done with them.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::arguments::OptionArguments;
use crate::error::CliError;

/// Has `python -m engraft` do `verb` with the SavedModel in a folder.
pub fn run(verb: &str, folder: &Path, more: &[OsString], options: &OptionArguments) -> Result<(), CliError> {
    if !folder.join("saved_model.pb").is_file() {
        return Err(CliError::Usage(format!("{} is a folder without a saved_model.pb", folder.display())));
    }
    let python = std::env::var_os("ENGRAFT_PYTHON").unwrap_or_else(|| "python3".into());
    let mut command = Command::new(&python);
    command.args(["-m", "engraft", verb]).arg(folder).args(more);
    for (key, value) in &options.options {
        command.arg("--option").arg(format!("{key}={value}"));
    }
    let status = command.status().map_err(|source| CliError::Python {
        python: python.to_string_lossy().into_owned(),
        reason: source.to_string(),
    })?;
    if status.success() {
        return Ok(());
    }
    let reason = format!(
        "{status}; it needs the packages engraft and tensorflow (ENGRAFT_PYTHON names another Python)"
    );
    Err(CliError::Python { python: python.to_string_lossy().into_owned(), reason })
}
