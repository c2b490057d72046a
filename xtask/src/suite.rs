//! `cargo xtask test`: the Rust tests, the wheel, the Python tests against the wheel, there and in other surroundings, the zoo.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::models;
use crate::process;
use crate::python::{self, Environment};
use crate::stages::Stages;
use crate::workspace::Workspace;

pub const REQUIREMENTS: &str = "tests/requirements.txt";

const STAGES: [&str; 7] = ["rust", "wheel", "python", "hosts", "tensorflow", "models", ON_REQUEST];
/// Runs only where it is named: its packages are several gigabytes.
const ON_REQUEST: &str = "torch";

/// Other surroundings that the wheel is tested in: an ONNX Runtime, a provider beside ours, packages that use ONNX Runtime, a
/// TensorFlow.
struct Host {
    name: &'static str,
    /// The one of [`STAGES`] that it is part of.
    stage: &'static str,
    requirements: &'static str,
    /// The newest Python 3 that its packages have wheels for.
    newest_python: u32,
    /// What runs there, below tests/.
    tests: &'static [&'static [&'static str]],
}

impl Host {
    fn tests(&self) -> impl Iterator<Item = &'static str> {
        self.tests.iter().copied().flatten().copied()
    }
}

/// The core of tests/onnxruntime: what differs between hosts.
const CORE: &[&str] = &[
    "onnxruntime/test_registration.py",
    "onnxruntime/test_graphs.py",
    "onnxruntime/test_placement.py",
    "onnxruntime/test_options.py",
    "onnxruntime/test_control_flow.py",
    "onnxruntime/test_sessions.py",
    "onnxruntime/test_compiled.py",
    "onnxruntime/test_steady_state.py",
    "onnxruntime/test_contrib.py",
    "onnxruntime/test_contrib_attention.py",
    "onnxruntime/test_contrib_early.py",
    "onnxruntime/test_contrib_grouped.py",
    "onnxruntime/test_spatial.py",
    "onnxruntime/test_signal.py",
    "onnxruntime/test_ml.py",
    "onnxruntime/test_architectures.py",
    "wheel/test_enable.py",
    "custom_op/test_segment.py",
];

/// ONNX's backend test suite.
const CONFORMANCE: &[&str] = &["conformance/test_conformance.py"];

const HOSTS: [Host; 8] = [
    Host {
        name: "onnxruntime 1.18.0",
        stage: "hosts",
        requirements: "tests/hosts/onnxruntime-1.18.0.txt",
        newest_python: 12,
        tests: &[&["custom_op"]],
    },
    Host {
        name: "onnxruntime 1.24.1",
        stage: "hosts",
        requirements: "tests/hosts/onnxruntime-1.24.1.txt",
        newest_python: 14,
        tests: &[CORE, CONFORMANCE],
    },
    Host {
        name: "onnxruntime 1.28.0",
        stage: "hosts",
        requirements: "tests/hosts/onnxruntime-1.28.0.txt",
        newest_python: 14,
        tests: &[CORE],
    },
    Host {
        name: "beside OpenVINO",
        stage: "hosts",
        requirements: "tests/hosts/openvino.txt",
        newest_python: 14,
        tests: &[&["providers"]],
    },
    Host {
        name: "packages",
        stage: "hosts",
        requirements: "tests/hosts/packages.txt",
        newest_python: 14,
        tests: &[&["packages"]],
    },
    Host {
        name: "packages with PyTorch",
        stage: ON_REQUEST,
        requirements: "tests/hosts/torch.txt",
        newest_python: 14,
        tests: &[&["torch_packages"]],
    },
    Host {
        name: "tensorflow 2.18.1",
        stage: "tensorflow",
        requirements: "tests/hosts/tensorflow-2.18.1.txt",
        newest_python: 12,
        tests: &[&["tensorflow"]],
    },
    Host {
        name: "tensorflow 2.21.0",
        stage: "tensorflow",
        requirements: "tests/hosts/tensorflow-2.21.0.txt",
        newest_python: 13,
        tests: &[&["tensorflow"]],
    },
];

pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<(), Error> {
    if let Some(unknown) = arguments.iter().find(|a| !STAGES.contains(&a.as_str())) {
        return Err(Error::Usage(format!("`{unknown}` is none of the test stages {}", STAGES.join(", "))));
    }
    let wanted = |stage: &str| match arguments.is_empty() {
        true => stage != ON_REQUEST,
        false => arguments.iter().any(|a| a == stage),
    };
    // What runs Python needs the wheel of this tree.
    let needs_wheel = STAGES.into_iter().filter(|stage| *stage != "rust").any(wanted);
    let hosts = || HOSTS.iter().filter(|host| wanted(host.stage));
    let planned = usize::from(wanted("rust"))
        + usize::from(needs_wheel)
        + usize::from(wanted("python"))
        + hosts().count()
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
            Ok((environment, wheel))
        });
        let prepared =
            || prepared.as_ref().ok_or_else(|| Error::Missing("there is no wheel to test".to_owned()));
        if wanted("python") {
            stages.run("Python tests", || {
                build_command(workspace)?;
                pytest(workspace, &prepared()?.0, &python_tests(workspace)?)
            });
        }
        for host in hosts() {
            stages.run(host.name, || test_host(workspace, host, &prepared()?.1));
        }
        if wanted("models") {
            stages.run("zoo models", || models::check_with(workspace, &prepared()?.0, &[]));
        }
    }
    stages.finish()
}

/// The command `engraft`, for the tests that run it.
fn build_command(workspace: &Workspace) -> Result<(), Error> {
    let cargo = &mut workspace.cargo();
    process::run("building the command", cargo.args(["build", "--quiet", "--package", "engraft-cli"]))
}

/// The wheel's tests in other surroundings.
fn test_host(workspace: &Workspace, host: &Host, wheel: &Path) -> Result<(), Error> {
    let minor = python::minor_version()?;
    if minor > host.newest_python {
        let newest = host.newest_python;
        println!(
            "NOT TESTED: this is Python 3.{minor}, its packages end at 3.{newest}; ENGRAFT_PYTHON names another"
        );
        return Ok(());
    }
    // Each file names all that it needs: what packages ask for beyond that stays away.
    let environment = Environment::prepare(workspace, Path::new(host.requirements), &["--no-deps"])?;
    build_command(workspace)?;
    environment.install_wheel(wheel)?;
    let tests: Vec<PathBuf> = host.tests().map(|test| workspace.root.join("tests").join(test)).collect();
    let (files, folders): (Vec<PathBuf>, Vec<PathBuf>) = tests.into_iter().partition(|test| test.is_file());
    // A folder's files share a process, as they do where all of them run.
    let mut groups: Vec<Vec<PathBuf>> = Vec::new();
    for file in files {
        match groups.last_mut().filter(|group| group[0].parent() == file.parent()) {
            Some(group) => group.push(file),
            None => groups.push(vec![file]),
        }
    }
    groups.extend(folders.into_iter().map(|folder| vec![folder]));
    pytest(workspace, &environment, &groups)
}

/// Runs groups of test files or folders, each in a process of its own: what tests register or enable holds for a whole
/// process.
fn pytest(workspace: &Workspace, environment: &Environment, groups: &[Vec<PathBuf>]) -> Result<(), Error> {
    let cache = scratch(workspace, "test-cache")?;
    let mut failure = Ok(());
    for group in groups {
        for path in group {
            println!("--- {}", path.strip_prefix(&workspace.root).unwrap_or(path).display());
        }
        let mut command = environment.command();
        command
            .current_dir(&workspace.root)
            .args(["-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-q"])
            .args(group)
            .env("ENGRAFT_CACHE_DIR", &cache)
            .env("ENGRAFT_CLI", workspace.target.join("debug/engraft"))
            .env("ENGRAFT_ZOO", workspace.zoo());
        failure = failure.and(process::run("pytest", &mut command));
    }
    failure
}

/// The folders below tests/ that hold `test_*.py` for the environment of [`REQUIREMENTS`], each a group.
fn python_tests(workspace: &Workspace) -> Result<Vec<Vec<PathBuf>>, Error> {
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
        let elsewhere = HOSTS.iter().flat_map(Host::tests).any(|test| folder.ends_with(test));
        if folder.is_dir() && !elsewhere && list(&folder)?.iter().any(is_test) {
            folders.push(folder);
        }
    }
    folders.sort();
    Ok(folders.into_iter().map(|folder| vec![folder]).collect())
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
