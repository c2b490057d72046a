//! The command `engraft`.

mod arguments;
mod batch;
mod bench;
mod build;
mod cache;
mod compare;
mod convert;
mod error;
mod execution;
mod explain;
mod inputs;
mod inspect;
mod npy;
mod operators;
mod output;
mod progress;
mod random;
mod run;
mod saved_model;
mod standalone;
mod table;

use std::error::Error;
use std::process::ExitCode;

use arguments::{Arguments, Command};
use clap::Parser;
use error::CliError;
use output::Output;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = if arguments.json { Output::Json } else { Output::Text };
    match dispatch(&arguments.command, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut told = error.to_string();
            eprintln!("error: {told}");
            let mut source = error.source();
            while let Some(cause) = source {
                // Some errors say in their own words what caused them.
                let text = cause.to_string();
                if !told.contains(&text) {
                    eprintln!("  because: {text}");
                    told = text;
                }
                source = cause.source();
            }
            error.exit_code()
        }
    }
}

fn dispatch(command: &Command, output: Output) -> Result<(), CliError> {
    match command {
        Command::Inspect(arguments) => inspect::run(arguments, output),
        Command::Cache(arguments) => cache::run(arguments, output),
        Command::Build(arguments) => build::run(arguments, output),
        Command::Run(arguments) => run::run(arguments, output),
        Command::Evaluate(arguments) => run::evaluate(arguments, output),
        Command::Convert(arguments) => convert::run(arguments, output),
        Command::Bench(arguments) => bench::run(arguments, output),
        Command::Explain(arguments) => explain::run(arguments, output),
        Command::Operators(arguments) => operators::run(arguments, output),
    }
}
