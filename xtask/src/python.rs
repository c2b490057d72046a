//! Virtual environments and the wheel.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;

/// Versions for which the pinned onnxruntime has wheels.
const MINOR_VERSIONS: std::ops::RangeInclusive<u32> = 11..=14;

/// A virtual environment below the target folder.
#[derive(Debug)]
pub struct Environment {
    folder: PathBuf,
}

impl Environment {
    /// The environment of a requirements file, made on first use and again whenever the file or the interpreter
    /// changes. `pip_options` are passed to `pip install` and take part in the identity.
    pub fn prepare(workspace: &Workspace, requirements: &Path, pip_options: &[&str]) -> Result<Self, Error> {
        let path = workspace.root.join(requirements);
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let interpreter = Interpreter::find()?;
        let mut identity = DefaultHasher::new();
        (&text, pip_options, &interpreter.program, interpreter.minor).hash(&mut identity);
        let name = format!("{:016x}", identity.finish());
        let environment = Self { folder: workspace.target.join("venv").join(name) };
        let complete = environment.folder.join("complete");
        if complete.is_file() && environment.python().is_file() {
            return Ok(environment);
        }
        eprintln!("preparing a virtual environment for {}", requirements.display());
        if environment.folder.exists() {
            fs::remove_dir_all(&environment.folder).map_err(Error::file("remove", &environment.folder))?;
        }
        let make = &mut Command::new(&interpreter.program);
        process::run("making a virtual environment", make.args(["-m", "venv"]).arg(&environment.folder))?;
        let pip = &mut environment.pip("install");
        process::run("installing Python packages", pip.args(pip_options).arg("--requirement").arg(&path))?;
        fs::write(&complete, text).map_err(Error::file("write", &complete))?;
        Ok(environment)
    }

    /// Installs the wheel, replacing what an earlier build left there.
    pub fn install_wheel(&self, wheel: &Path) -> Result<(), Error> {
        let pip = &mut self.pip("install");
        process::run("installing the wheel", pip.args(["--no-deps", "--force-reinstall"]).arg(wheel))
    }

    /// This environment's interpreter, shielded from the user's own Python settings.
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.python());
        command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").env("PYTHONUNBUFFERED", "1");
        command
    }

    fn python(&self) -> PathBuf {
        self.folder.join("bin").join("python")
    }

    fn pip(&self, subcommand: &str) -> Command {
        let mut command = self.command();
        command.args(["-m", "pip", subcommand, "--quiet", "--disable-pip-version-check", "--no-input"]);
        command
    }
}

/// The minor version of the interpreter that environments are made with.
pub fn minor_version() -> Result<u32, Error> {
    Interpreter::find().map(|interpreter| interpreter.minor)
}

/// Builds the wheel from this tree into `target/wheels` and returns its path.
pub fn build_wheel(workspace: &Workspace) -> Result<PathBuf, Error> {
    let interpreter = Interpreter::find()?;
    let folder = workspace.target.join("wheels");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Error::file("remove", &folder))?;
    }
    let pip = &mut Command::new(&interpreter.program);
    pip.args(["-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps", "--no-input", "--verbose"])
        .arg("--wheel-dir")
        .arg(&folder)
        .arg(workspace.root.join("python"))
        .env("CARGO_TARGET_DIR", &workspace.target);
    process::run("building the wheel", pip.stdout(Stdio::null()))?;
    let entries = fs::read_dir(&folder).map_err(Error::file("read", &folder))?;
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Error::Missing(format!("pip left no wheel in {}", folder.display())))
}

struct Interpreter {
    program: String,
    minor: u32,
}

impl Interpreter {
    /// The interpreter named by `ENGRAFT_PYTHON`, or the first suitable one of the usual names.
    fn find() -> Result<Self, Error> {
        let candidates: Vec<String> = match env::var("ENGRAFT_PYTHON") {
            Ok(named) => vec![named],
            Err(_) => ["python3".to_owned()]
                .into_iter()
                .chain(MINOR_VERSIONS.rev().map(|minor| format!("python3.{minor}")))
                .collect(),
        };
        candidates
            .iter()
            .find_map(|program| Self::probe(program))
            .ok_or_else(|| Error::NoPython { looked_for: candidates.join(", ") })
    }

    fn probe(program: &str) -> Option<Self> {
        let code = "import sys, venv, ensurepip; print(*sys.version_info[:2], sys.executable)";
        let output = Command::new(program)
            .args(["-c", code])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let mut words = text.trim().splitn(3, ' ');
        let (major, minor, path) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        (major == "3" && MINOR_VERSIONS.contains(&minor)).then(|| Self { program: path.to_owned(), minor })
    }
}
