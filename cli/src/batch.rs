//! `engraft bench --batch`: latency against throughput over the sizes of a batch.

use std::sync::Arc;
use std::time::Instant;

use engraft::HostDim;
use engraft::engine::Engine;
use serde::Serialize;

use crate::arguments::Bench;
use crate::bench::{measure, percentile};
use crate::error::CliError;
use crate::execution::{Execution, declarations};
use crate::inputs::{self, InputDeclaration};
use crate::output::Output;
use crate::table::{self, Align, Table};

/// Throughput that is worth no larger batch.
const EQUAL: f64 = 0.02;

#[derive(Serialize)]
struct Batches {
    /// Getting the engine: building or loading it. Seconds, like all times here.
    preparation: f64,
    threads: usize,
    /// The symbolic dim that the batch is.
    dim: String,
    batches: Vec<Row>,
    /// The smallest batch whose throughput is within 2% of the greatest.
    best: u64,
}

#[derive(Serialize)]
struct Row {
    batch: u64,
    runs: usize,
    /// Of one run: median and 99th percentile.
    latency: f64,
    latency_99: f64,
    /// Items per second.
    throughput: f64,
    /// Relative to the first row.
    gain: f64,
}

pub fn run(
    engine: &Arc<Engine>,
    preparation: f64,
    sizes: &[u64],
    arguments: &Bench,
    output: Output,
) -> Result<(), CliError> {
    let declared = declarations(engine.network());
    let dim = batch_dim(&declared).ok_or_else(|| {
        CliError::Usage(
            "--batch: no input has a named dim in front; export the model with a dynamic batch".to_owned(),
        )
    })?;
    if arguments.inputs.dims.iter().any(|text| text.rsplit_once('=').is_some_and(|(name, _)| name == dim)) {
        return Err(CliError::Usage(format!("--batch: sets `{dim}`, and so does --dim")));
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut threads = 0;
    for &batch in sizes {
        let mut chosen = arguments.inputs.clone();
        chosen.dims.push(format!("{dim}={batch}"));
        let inputs = inputs::gather(&chosen, &declared)?;
        let mut execution =
            Execution::new(engine.clone(), inputs, arguments.engine.threads, &arguments.model);
        threads = execution.threads();
        execution.time()?;
        let warm = Instant::now();
        while warm.elapsed() < arguments.warm_up {
            execution.time()?;
        }
        let mut times: Vec<f64> =
            measure(&mut execution, arguments)?.iter().map(std::time::Duration::as_secs_f64).collect();
        times.sort_by(f64::total_cmp);
        let latency = percentile(&times, 50.0);
        let throughput = batch as f64 / latency;
        rows.push(Row {
            batch,
            runs: times.len(),
            latency,
            latency_99: percentile(&times, 99.0),
            throughput,
            gain: rows.first().map_or(1.0, |first| throughput / first.throughput),
        });
    }
    let best = best(&rows);
    let batches = Batches { preparation, threads, dim, batches: rows, best };
    output.print(&batches, || batches.text())
}

/// The name of the first dim of the first input that has one.
fn batch_dim(declared: &[InputDeclaration]) -> Option<String> {
    declared.iter().find_map(|input| match input.shape.first() {
        Some(HostDim::Symbol(name)) => Some(name.clone()),
        _ => None,
    })
}

fn best(rows: &[Row]) -> u64 {
    let greatest = rows.iter().map(|row| row.throughput).fold(0.0, f64::max);
    let good = rows.iter().filter(|row| row.throughput >= greatest * (1.0 - EQUAL));
    good.map(|row| row.batch).min().unwrap_or(1)
}

impl Batches {
    fn text(&self) -> String {
        let mut table = Table::new([
            ("batch", Align::Right),
            ("latency", Align::Right),
            ("99 %", Align::Right),
            ("per second", Align::Right),
            ("gain", Align::Right),
            ("", Align::Left),
        ]);
        for row in &self.batches {
            table.row([
                row.batch.to_string(),
                table::seconds(row.latency),
                table::seconds(row.latency_99),
                format!("{:.1}", row.throughput),
                format!("{:.2}", row.gain),
                if row.batch == self.best { "best".to_owned() } else { String::new() },
            ]);
        }
        let threads =
            if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
        format!(
            "prepared in {}; `{}` is the batch; {threads}\n\n{table}\nbest throughput at batch {}\n",
            table::seconds(self.preparation),
            self.dim,
            self.best
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(throughputs: &[(u64, f64)]) -> Vec<Row> {
        let row = |&(batch, throughput)| Row {
            batch,
            runs: 1,
            latency: 1.0,
            latency_99: 1.0,
            throughput,
            gain: 1.0,
        };
        throughputs.iter().map(row).collect()
    }

    #[test]
    fn the_best_batch_is_the_smallest_of_equally_good_ones() {
        assert_eq!(best(&rows(&[(1, 50.0), (2, 80.0), (4, 99.0), (8, 100.0)])), 4);
        assert_eq!(best(&rows(&[(8, 100.0), (4, 90.0), (1, 50.0)])), 8);
        assert_eq!(best(&rows(&[(1, 50.0)])), 1);
    }
}
