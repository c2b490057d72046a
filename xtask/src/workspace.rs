//! Where things are.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;

/// The checkout and its target folder, both absolute.
#[derive(Debug)]
pub struct Workspace {
    pub root: PathBuf,
    pub target: PathBuf,
}

impl Workspace {
    pub fn locate() -> Result<Self, Error> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest.parent().unwrap_or(manifest).to_path_buf();
        if !root.join("Cargo.toml").is_file() {
            return Err(Error::Missing(format!(
                "{} is no longer a checkout of Engraft; run the chore through `cargo xtask`",
                root.display()
            )));
        }
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(path) => std::path::absolute(&path).map_err(Error::file("resolve", path))?,
            None => own_target_folder().unwrap_or_else(|| root.join("target")),
        };
        Ok(Self { root, target })
    }

    /// `cargo`, the same that runs this program, in the workspace's root.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        command
    }

    pub fn zoo(&self) -> PathBuf {
        self.target.join("zoo")
    }
}

/// The target folder that this program was built into, `<target>/<profile>/xtask`: it may come from cargo's config.
fn own_target_folder() -> Option<PathBuf> {
    let executable = std::env::current_exe().ok()?;
    let target = executable.parent()?.parent()?;
    target.join("CACHEDIR.TAG").is_file().then(|| target.to_path_buf())
}
