//! `cargo xtask demo`: an unmodified OCR program, and `cargo xtask demo tensorflow`: an unmodified SavedModel, with and without
//! Engraft.

use std::path::Path;

use crate::error::Error;
use crate::process;
use crate::python::{self, Environment};
use crate::suite;
use crate::workspace::Workspace;

/// A program, and what it runs with.
struct Demo {
    requirements: &'static str,
    pip_options: &'static [&'static str],
    program: &'static str,
}

// Every package is pinned by the file itself. rapidocr-onnxruntime asks for opencv-python, which wants a display's libraries; the
// headless build of the same library stands in for it.
const OCR: Demo = Demo {
    requirements: "xtask/demo/requirements.txt",
    pip_options: &["--no-deps", "--ignore-requires-python"],
    program: "xtask/demo/demo.py",
};

const TENSORFLOW: Demo = Demo {
    requirements: "tests/hosts/tensorflow-2.21.0.txt",
    pip_options: &["--no-deps"],
    program: "xtask/demo/savedmodel.py",
};

pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    let (demo, arguments) = match arguments.split_first() {
        Some((first, rest)) if first == "tensorflow" => (TENSORFLOW, rest),
        _ => (OCR, arguments),
    };
    let wheel = python::build_wheel(workspace)?;
    let environment = Environment::prepare(workspace, Path::new(demo.requirements), demo.pip_options)?;
    environment.install_wheel(&wheel)?;
    let scratch = suite::scratch(workspace, "demo")?;
    let mut command = environment.command();
    command.arg(workspace.root.join(demo.program)).arg("--scratch").arg(scratch).args(arguments);
    process::run("the demo", &mut command)
}
