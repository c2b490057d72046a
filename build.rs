//! Stamps version, commit and target into the build; they are part of every plan's fingerprint.
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=.git/HEAD");
    println!("cargo::rerun-if-changed=.git/refs");
    let commit = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|o| o.status.success())
        .and_then(|o| String::from_utf8(o.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |s| s.trim().to_owned());
    println!("cargo::rustc-env=ENGRAFT_COMMIT={commit}");
    println!("cargo::rustc-env=ENGRAFT_TARGET={}", std::env::var("TARGET").unwrap_or_default());
}
