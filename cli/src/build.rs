//! `engraft build`: a model into a plan file.

use std::time::Instant;

use serde::Serialize;

use crate::arguments::Build;
use crate::error::CliError;
use crate::output::Output;
use crate::progress;
use crate::standalone;
use crate::table;

#[derive(Serialize)]
struct Built {
    plan: String,
    bytes: u64,
    layers: usize,
    seconds: f64,
}

pub fn run(arguments: &Build, output: Output) -> Result<(), CliError> {
    let start = Instant::now();
    let (session, segment) = standalone::whole_model(&arguments.model, &arguments.options)?;
    let path = &arguments.output;
    progress::spinning("building the plan", || session.write_plan(&segment.network, path))
        .map_err(CliError::build)?;
    let bytes = std::fs::metadata(path).map_err(CliError::file("read", path))?.len();
    let built = Built {
        plan: path.display().to_string(),
        bytes,
        layers: segment.network.node_count(),
        seconds: start.elapsed().as_secs_f64(),
    };
    output.print(&built, || {
        format!("{}: {} in {}", built.plan, table::bytes(built.bytes), table::seconds(built.seconds))
    })
}
