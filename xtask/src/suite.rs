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

/// The Python tests below tests/, with the wheel that `environment` has and the command built now. Each folder runs in
/// a process of its own: what its tests register or enable holds for a whole process.
fn pytest(workspace: &Workspace, environment: &Environment) -> Result<(), Error> {
    process::run(
        "building the command",
        workspace.cargo().args(["build", "--quiet", "--package", "engraft-cli"]),
    )?;
    let cache = scratch(workspace, "test-cache")?;
    let mut failure = Ok(());
    for folder in python_tests(workspace)? {
        println!("--- {}", folder.strip_prefix(&workspace.root).unwrap_or(&folder).display());
        let mut command = environment.command();
        command
            .current_dir(&workspace.root)
            .args(["-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-q"])
            .arg(&folder)
            .env("ENGRAFT_CACHE_DIR", &cache)
            .env("ENGRAFT_CLI", workspace.target.join("debug/engraft"))
            .env("ENGRAFT_ZOO", workspace.zoo());
        failure = failure.and(process::run("pytest", &mut command));
    }
    failure
}

/// The folders below tests/ that hold `test_*.py`.
fn python_tests(workspace: &Workspace) -> Result<Vec<PathBuf>, Error> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>, Error> {
        let entries = fs::read_dir(folder).map_err(Error::file("read", folder))?;
        Ok(entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
    };
    let is_test = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("test_") && name.ends_with(".py")
    };
    let mut folders = Vec::new();
    for folder in list(&workspace.root.join("tests"))? {
        if folder.is_dir() && list(&folder)?.iter().any(is_test) {
            folders.push(folder);
        }
    }
    folders.sort();
    Ok(folders)
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
