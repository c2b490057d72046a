//! The chores that run the model zoo; the programs themselves are Python and lie in benches/.

use std::path::Path;

use crate::error::Error;
use crate::process;
use crate::python::{self, Environment};
use crate::suite::{self, REQUIREMENTS};
use crate::workspace::Workspace;

/// What measurements run with.
const PEERS: &str = "benches/requirements.txt";

/// Writes the zoo's models below the target folder.
pub fn materialize(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    let environment = Environment::prepare(workspace, Path::new(REQUIREMENTS), &[])?;
    let mut command = environment.command();
    command.arg(workspace.root.join("benches/zoo/zoo.py")).arg(workspace.zoo()).args(arguments);
    process::run("writing the zoo", &mut command)
}

/// Compares Engraft's outputs and placement with what the zoo asks for, with a wheel built now.
pub fn check(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    check_with(workspace, &environment_with_wheel(workspace, REQUIREMENTS)?, arguments)
}

/// The same with an environment that has the wheel.
pub fn check_with(
    workspace: &Workspace,
    environment: &Environment,
    arguments: &[String],
) -> Result<(), Error> {
    program(workspace, environment, "check_models", arguments)
}

/// Times Engraft against its peers, among them such as only measurements need.
pub fn bench(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    process::run(
        "building the command",
        workspace.cargo().args(["build", "--quiet", "--release", "--package", "engraft-cli"]),
    )?;
    let environment = environment_with_wheel(workspace, PEERS)?;
    program(workspace, &environment, "measure", arguments)
}

/// Compiles the zoo ahead of time and compares, or times, what is loaded again.
pub fn compiled(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    program(workspace, &environment_with_wheel(workspace, REQUIREMENTS)?, "compiled", arguments)
}

/// Compares and times models that nothing was tuned on.
pub fn unseen(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    program(workspace, &environment_with_wheel(workspace, REQUIREMENTS)?, "unseen", arguments)
}

/// Times a decoder whose shapes change with every run.
pub fn growing(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    program(workspace, &environment_with_wheel(workspace, REQUIREMENTS)?, "growing", arguments)
}

fn environment_with_wheel(workspace: &Workspace, requirements: &str) -> Result<Environment, Error> {
    let wheel = python::build_wheel(workspace)?;
    let environment = Environment::prepare(workspace, Path::new(requirements), &[])?;
    environment.install_wheel(&wheel)?;
    Ok(environment)
}

fn program(
    workspace: &Workspace,
    environment: &Environment,
    name: &str,
    arguments: &[String],
) -> Result<(), Error> {
    let scratch = suite::scratch(workspace, name)?;
    let mut command = environment.command();
    command
        .arg(workspace.root.join("benches").join(name).with_extension("py"))
        .arg("--zoo")
        .arg(workspace.zoo())
        .arg("--scratch")
        .arg(scratch)
        .args(arguments)
        .env("ENGRAFT_CLI", workspace.target.join("release/engraft"));
    process::run(name, &mut command)
}
