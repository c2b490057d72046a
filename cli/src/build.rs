//! `engraft build`: a model into a plan file.

use std::time::Instant;

use serde::Serialize;

use crate::arguments::Build;
use crate::error::CliError;
use crate::output::Output;
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
    let model = standalone::whole_model(&arguments.model, &arguments.options, arguments.threads)?;
    let path = &arguments.output;
    let written = model.session.write_plan(&model.segment.network, path);
    model.progress.clear();
    written.map_err(CliError::build)?;
    let bytes = std::fs::metadata(path).map_err(CliError::file("read", path))?.len();
    let built = Built {
        plan: path.display().to_string(),
        bytes,
        layers: model.segment.network.node_count(),
        seconds: start.elapsed().as_secs_f64(),
    };
    output.print(&built, || {
        format!("{}: {} in {}", built.plan, table::bytes(built.bytes), table::seconds(built.seconds))
    })
}
