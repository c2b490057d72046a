//! `cargo xtask demo`: an unmodified OCR program, without and with Engraft.

use std::path::Path;

use crate::error::Error;
use crate::process;
use crate::python::{self, Environment};
use crate::suite;
use crate::workspace::Workspace;

const REQUIREMENTS: &str = "xtask/demo/requirements.txt";

pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    let wheel = python::build_wheel(workspace)?;
    // Every package is pinned by the file itself. rapidocr-onnxruntime asks for opencv-python, which wants a
    // display's libraries; the headless build of the same library stands in for it.
    let environment =
        Environment::prepare(workspace, Path::new(REQUIREMENTS), &["--no-deps", "--ignore-requires-python"])?;
    environment.install_wheel(&wheel)?;
    let scratch = suite::scratch(workspace, "demo")?;
    let mut command = environment.command();
    command.arg(workspace.root.join("xtask/demo/demo.py")).arg("--scratch").arg(scratch).args(arguments);
    process::run("the demo", &mut command)
}
