//! Running other programs, with errors that name the command to repeat by hand.

use std::process::{Command, Stdio};

use crate::error::Error;

/// Runs `command` with this terminal's output; `what` names it in errors ("installing onnxruntime").
pub fn run(what: &str, command: &mut Command) -> Result<(), Error> {
    let status =
        command.stdin(Stdio::null()).status().map_err(|source| start_error(what, command, source))?;
    if status.success() { Ok(()) } else { Err(failure(what, command, &status.to_string())) }
}

/// Runs `command` and returns what it wrote to standard output.
pub fn output(what: &str, command: &mut Command) -> Result<Vec<u8>, Error> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|source| start_error(what, command, source))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(failure(what, command, &output.status.to_string()))
    }
}

fn start_error(what: &str, command: &Command, source: std::io::Error) -> Error {
    let program = command.get_program().to_string_lossy().into_owned();
    Error::Start { what: what.to_owned(), program, source }
}

fn failure(what: &str, command: &Command, status: &str) -> Error {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quoted(&word.to_string_lossy()))
        .collect();
    Error::Command { what: what.to_owned(), command: words.join(" "), status: status.to_owned() }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_name_a_command_that_a_shell_understands() {
        let error = run("a check", Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a check failed") && text.contains("sh -c 'exit 3'"), "{text}");
    }

    #[test]
    fn missing_programs_are_named() {
        let error = run("a check", &mut Command::new("engraft-no-such-program")).unwrap_err();
        assert!(error.to_string().contains("engraft-no-such-program"), "{error}");
    }

    #[test]
    fn quotes_survive() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
