//! `engraft bench`: latency of an engine, and where the time goes.

use std::time::{Duration, Instant};

use engraft::engine::LayerTime;
use engraft::kernels::Isa;
use engraft::kernels::cpu::ceiling::Ceiling;
use serde::Serialize;

use crate::arguments::Bench;
use crate::batch;
use crate::error::CliError;
use crate::execution::{Execution, declarations};
use crate::inputs;
use crate::output::Output;
use crate::progress::Progress;
use crate::standalone;
use crate::table::{self, Align, Table};

/// Profiled runs; a layer's time is the median over them.
const PROFILED_RUNS: usize = 15;

#[derive(Serialize)]
struct Figures {
    /// Getting the engine: building or loading it. Seconds, like all times here.
    preparation: f64,
    /// The first run, which plans memory for the inputs' shapes.
    first: f64,
    threads: usize,
    runs: usize,
    mean: f64,
    least: f64,
    greatest: f64,
    percentiles: Vec<Percentile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Vec<Layer>>,
    /// What one thread of the machine can do at best, measured beside the layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    ceiling: Option<Roof>,
}

#[derive(Serialize, Clone, Copy)]
struct Roof {
    flops_per_second: f64,
    bytes_per_second: f64,
}

#[derive(Serialize)]
struct Percentile {
    percent: f64,
    seconds: f64,
}

#[derive(Serialize)]
struct Layer {
    name: String,
    op: String,
    tactic: String,
    seconds: f64,
    /// Of all layers' time.
    share: f64,
    flops: f64,
    bytes: f64,
    /// Achieved arithmetic over the f32 ceiling.
    of_ceiling: f64,
}

pub fn run(arguments: &Bench, output: Output) -> Result<(), CliError> {
    let loaded = standalone::load(&arguments.model, &arguments.engine)?;
    if !arguments.batch.is_empty() {
        return batch::run(&loaded.engine, loaded.seconds, &arguments.batch, arguments, output);
    }
    let inputs = inputs::gather(&arguments.inputs, &declarations(loaded.engine.network()))?;
    let mut execution = Execution::new(loaded.engine, inputs, arguments.engine.threads, &arguments.model);
    let first = execution.time()?;

    let warm = Instant::now();
    while warm.elapsed() < arguments.warm_up {
        execution.time()?;
    }
    let times = measure(&mut execution, arguments)?;
    let mut layers = if arguments.profile { Some(profile(&mut execution)?) } else { None };
    let ceiling = layers.as_mut().map(|layers| hold_against_ceiling(layers));

    let mut figures =
        Figures::of(loaded.seconds, first, execution.threads(), times, &arguments.percentiles, layers);
    figures.ceiling = ceiling;
    output.print(&figures, || figures.text())
}

/// The times of all measured runs, at least one.
pub fn measure(execution: &mut Execution, arguments: &Bench) -> Result<Vec<Duration>, CliError> {
    let progress = Progress::runs(arguments.iterations, arguments.duration);
    let mut times = Vec::new();
    let start = Instant::now();
    loop {
        times.push(execution.time()?);
        let done = match arguments.iterations {
            Some(iterations) => times.len() as u64 >= iterations,
            None => start.elapsed() >= arguments.duration,
        };
        progress.ran(times.len() as u64, start.elapsed());
        if done {
            return Ok(times);
        }
    }
}

fn profile(execution: &mut Execution) -> Result<Vec<Layer>, CliError> {
    let mut runs: Vec<Vec<LayerTime>> =
        (0..PROFILED_RUNS).map(|_| execution.profile()).collect::<Result<_, _>>()?;
    let last = runs.pop().unwrap_or_default();
    let mut layers: Vec<Layer> = last
        .into_iter()
        .enumerate()
        .map(|(index, layer)| {
            let mut times: Vec<u64> =
                runs.iter().filter_map(|run| run.get(index)).map(|layer| layer.nanoseconds).collect();
            times.sort_unstable();
            let median = times.get(times.len() / 2).copied().unwrap_or(layer.nanoseconds);
            Layer {
                name: layer.name,
                op: layer.op,
                tactic: layer.tactic,
                seconds: median as f64 * 1e-9,
                share: 0.0,
                flops: layer.flops,
                bytes: layer.bytes,
                of_ceiling: 0.0,
            }
        })
        .collect();
    let total: f64 = layers.iter().map(|layer| layer.seconds).sum();
    for layer in &mut layers {
        layer.share = if total > 0.0 { layer.seconds / total } else { 0.0 };
    }
    Ok(layers)
}

/// Measures what the machine can do and gives every layer its share of that.
fn hold_against_ceiling(layers: &mut [Layer]) -> Roof {
    let ceiling = Ceiling::measure(Isa::best());
    for layer in layers {
        if layer.seconds > 0.0 {
            layer.of_ceiling = layer.flops / layer.seconds / ceiling.flops_per_second;
        }
    }
    Roof { flops_per_second: ceiling.flops_per_second, bytes_per_second: ceiling.bytes_per_second }
}

impl Figures {
    fn of(
        preparation: f64,
        first: Duration,
        threads: usize,
        times: Vec<Duration>,
        percents: &[f64],
        layers: Option<Vec<Layer>>,
    ) -> Self {
        let mut sorted: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
        sorted.sort_by(f64::total_cmp);
        let percentiles = percents
            .iter()
            .map(|&percent| Percentile { percent, seconds: percentile(&sorted, percent) })
            .collect();
        Self {
            preparation,
            first: first.as_secs_f64(),
            threads,
            ceiling: None,
            runs: sorted.len(),
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            least: percentile(&sorted, 0.0),
            greatest: percentile(&sorted, 100.0),
            percentiles,
            layers,
        }
    }

    fn text(&self) -> String {
        let mut table = Table::new([("", Align::Left), ("latency", Align::Right)]);
        table.row(["least".to_owned(), table::seconds(self.least)]);
        for p in &self.percentiles {
            table.row([format!("{} %", p.percent), table::seconds(p.seconds)]);
        }
        table.row(["greatest".to_owned(), table::seconds(self.greatest)]);
        table.row(["mean".to_owned(), table::seconds(self.mean)]);
        let mut text = format!(
            "prepared in {}, first run {}\n{} run{} on {} thread{}, {:.1} per second\n\n{table}",
            table::seconds(self.preparation),
            table::seconds(self.first),
            self.runs,
            if self.runs == 1 { "" } else { "s" },
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            1.0 / self.mean,
        );
        if let Some(layers) = &self.layers {
            let mut table = Table::new([
                ("layer", Align::Left),
                ("operator", Align::Left),
                ("tactic", Align::Left),
                ("time", Align::Right),
                ("share", Align::Right),
                ("GFLOP/s", Align::Right),
                ("GB/s", Align::Right),
                ("of ceiling", Align::Right),
            ]);
            let rate = |amount: f64, seconds: f64| {
                if amount > 0.0 && seconds > 0.0 {
                    format!("{:.1}", amount / seconds * 1e-9)
                } else {
                    String::new()
                }
            };
            for layer in layers {
                table.row([
                    layer.name.clone(),
                    layer.op.clone(),
                    layer.tactic.clone(),
                    table::seconds(layer.seconds),
                    format!("{:.1} %", layer.share * 100.0),
                    rate(layer.flops, layer.seconds),
                    rate(layer.bytes, layer.seconds),
                    if layer.flops > 0.0 {
                        format!("{:.0} %", layer.of_ceiling * 100.0)
                    } else {
                        String::new()
                    },
                ]);
            }
            text += &format!("\nlayers, on one thread:\n\n{table}");
            if let Some(roof) = self.ceiling {
                let flops: f64 = layers.iter().map(|layer| layer.flops).sum();
                let busy: f64 = layers.iter().map(|layer| layer.seconds).sum();
                let weighted: f64 = layers.iter().map(|layer| layer.flops * layer.of_ceiling).sum();
                text += &format!(
                    "\nceiling of one thread: {:.1} GFLOP/s of f32, {:.1} GB/s from memory; layers reach {:.0} % \
                     of it weighted by operations, {:.0} % over all their time\n",
                    roof.flops_per_second * 1e-9,
                    roof.bytes_per_second * 1e-9,
                    weighted / flops * 100.0,
                    flops / busy / roof.flops_per_second * 100.0,
                );
            }
        }
        text
    }
}

/// The value that `percent` of the sorted values do not exceed (nearest rank).
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let values: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.0), 1.0);
        assert_eq!(percentile(&values, 50.0), 5.0);
        assert_eq!(percentile(&values, 90.0), 9.0);
        assert_eq!(percentile(&values, 99.0), 10.0);
        assert_eq!(percentile(&values, 100.0), 10.0);
        assert_eq!(percentile(&[7.0], 50.0), 7.0);
    }
}
