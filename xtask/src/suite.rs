//! `cargo xtask test`: the Rust tests, the wheel, the Python tests against the wheel, the zoo.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::models;
use crate::process;
use crate::python::{self, Environment};
use crate::stages::Stages;
use crate::workspace::Workspace;

pub const REQUIREMENTS: &str = "tests/requirements.txt";

const STAGES: [&str; 4] = ["rust", "wheel", "python", "models"];

pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    if let Some(unknown) = arguments.iter().find(|a| !STAGES.contains(&a.as_str())) {
        return Err(Error::Usage(format!("`{unknown}` is none of the test stages {}", STAGES.join(", "))));
    }
    let wanted = |stage: &str| arguments.is_empty() || arguments.iter().any(|a| a == stage);
    // What runs Python needs the wheel of this tree.
    let needs_wheel = ["wheel", "python", "models"].into_iter().any(wanted);
    let planned = usize::from(wanted("rust"))
        + usize::from(needs_wheel)
        + usize::from(wanted("python"))
        + usize::from(wanted("models"));

    let mut stages = Stages::new(planned);
    if wanted("rust") {
        stages.run("Rust tests", || {
            process::run("cargo test", workspace.cargo().args(["test", "--workspace", "--no-fail-fast"]))
        });
    }
    if needs_wheel {
        let prepared = stages.run("wheel", || {
            let wheel = python::build_wheel(workspace)?;
            let environment = Environment::prepare(workspace, Path::new(REQUIREMENTS), &[])?;
            environment.install_wheel(&wheel)?;
            println!("installed {}", wheel.file_name().unwrap_or_default().to_string_lossy());
            Ok(environment)
        });
        let prepared =
            || prepared.as_ref().ok_or_else(|| Error::Missing("there is no wheel to test".to_owned()));
        if wanted("python") {
            stages.run("Python tests", || pytest(workspace, prepared()?));
        }
        if wanted("models") {
            stages.run("zoo models", || models::check_with(workspace, prepared()?, &[]));
        }
    }
    stages.finish()
}

/// The folders of Python tests: those below tests/ that hold `test_*.py`.
fn pytest(workspace: &Workspace, environment: &Environment) -> Result<(), Error> {
    let cache = scratch(workspace, "test-cache")?;
    let mut command = environment.command();
    command
        .current_dir(&workspace.root)
        .args(["-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-q", "tests"])
        .env("ENGRAFT_CACHE_DIR", cache)
        .env("ENGRAFT_ZOO", workspace.zoo());
    process::run("pytest", &mut command)
}

/// An empty folder of this name below the target folder.
pub fn scratch(workspace: &Workspace, name: &str) -> Result<PathBuf, Error> {
    let folder = workspace.target.join("scratch").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
    }
    fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
    Ok(folder)
}
