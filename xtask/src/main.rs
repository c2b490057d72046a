//! `cargo xtask <chore>`: everything that a checkout needs beyond `cargo build`.
//!
//! Chores need cargo and a Python with `venv`; whatever else they use is installed below the target folder, in
//! virtual environments that are kept until their pinned requirements change.

mod demo;
mod docs;
mod error;
mod models;
mod process;
mod python;
mod stages;
mod suite;
mod workspace;

use std::process::ExitCode;

use error::Error;
use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask <chore> [arguments]

chores
  demo          recognise a page of text with RapidOCR, without and with Engraft, and compare;
                `demo tensorflow`: convert a Keras ResNet50, and compare
  test          run every test: [rust] [wheel] [python] [hosts] [tensorflow] [models]; all of them without arguments;
                `test torch`: packages that use ONNX Runtime beside PyTorch, several gigabytes of downloads
  docs          write docs/operators.md from the code
  wheel         build the Python wheel into target/wheels
  zoo           write the model zoo into target/zoo: [--only resnet50,bert_base]
  check-models  compare Engraft with ONNX Runtime's CPU provider on the zoo: [--help]
  bench         time Engraft against ONNX Runtime on the zoo: [--help]
  compiled      compile the zoo ahead of time, load it again, and compare (or, with --time, time it): [--help]
  unseen        compare and time networks, or single operators, outside the zoo: [--help]
  growing       time a decoder whose shapes change with every run: [--help]

environment
  ENGRAFT_PYTHON    the Python interpreter to make virtual environments with (3.11 or later)
  CARGO_TARGET_DIR  where everything is built and kept (target)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Error> {
    let Some((chore, rest)) = arguments.split_first() else {
        println!("{USAGE}");
        return Ok(());
    };
    let workspace = Workspace::locate()?;
    match chore.as_str() {
        "demo" => demo::run(&workspace, rest),
        "docs" => docs::run(&workspace, rest),
        "test" => suite::run(&workspace, rest),
        "wheel" => python::build_wheel(&workspace).map(|wheel| println!("{}", wheel.display())),
        "zoo" => models::materialize(&workspace, rest),
        "check-models" => models::check(&workspace, rest),
        "compiled" => models::compiled(&workspace, rest),
        "unseen" => models::unseen(&workspace, rest),
        "growing" => models::growing(&workspace, rest),
        "bench" => models::bench(&workspace, rest),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(Error::Usage(format!("there is no chore `{other}`\n\n{USAGE}"))),
    }
}
