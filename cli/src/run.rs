//! `engraft run` and `engraft evaluate`: one run, its outputs stored or compared.

use std::path::Path;
use std::time::Instant;

use engraft::Tensor;
use serde::Serialize;

use crate::arguments::{Evaluate, OptionArguments, Run};
use crate::compare::{self, Difference};
use crate::error::CliError;
use crate::execution::{Execution, declarations};
use crate::inputs;
use crate::npy;
use crate::output::Output;
use crate::standalone;
use crate::table::{self, Align, Table};

#[derive(Serialize)]
struct Outcome {
    seconds: f64,
    outputs: Vec<OutputSummary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<Comparison>,
}

#[derive(Serialize)]
struct OutputSummary {
    name: String,
    #[serde(rename = "type")]
    dtype: &'static str,
    shape: Vec<usize>,
    /// The least, mean and greatest finite element; none for an empty output.
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<[f64; 3]>,
    /// Elements that are NaN or infinite.
    non_finite: usize,
}

#[derive(Serialize)]
struct Comparison {
    tolerance: f64,
    within: bool,
    differences: Vec<Difference>,
}

pub fn run(arguments: &Run, output: Output) -> Result<(), CliError> {
    let loaded = standalone::load(&arguments.model, &arguments.engine)?;
    let names: Vec<String> = loaded.engine.outputs().iter().map(|binding| binding.name.clone()).collect();
    if let Some(path) = &arguments.output {
        check_store(path, names.len())?;
    }
    let inputs = inputs::gather(&arguments.inputs, &declarations(loaded.engine.network()))?;
    let mut execution = Execution::new(loaded.engine, inputs, arguments.engine.threads, &arguments.model);
    let tensors = execution.outputs()?;
    let seconds = execution.time()?.as_secs_f64();
    if let Some(path) = &arguments.output {
        store(path, &names, &tensors)?;
    }
    let comparison = match &arguments.reference {
        Some(path) => Some(compare_with(path, &names, &tensors, arguments.tolerance)?),
        None => None,
    };
    let outcome = Outcome::new(seconds, &names, &tensors, comparison);
    output.print(&outcome, || outcome.text())?;
    match outcome.comparison {
        Some(Comparison { within: false, tolerance, .. }) => {
            Err(CliError::Mismatch(format!("the outputs are farther from the reference than {tolerance:e}")))
        }
        _ => Ok(()),
    }
}

/// `engraft evaluate`: the same by reference evaluation in `f64`.
pub fn evaluate(arguments: &Evaluate, output: Output) -> Result<(), CliError> {
    let options = OptionArguments { options: Vec::new() };
    let network = standalone::whole_model(&arguments.model, &options, None)?.segment.network;
    let names: Vec<String> =
        (0..network.outputs().len()).map(|index| network.output_name(index).to_owned()).collect();
    check_store(&arguments.output, names.len())?;
    let inputs = inputs::gather(&arguments.inputs, &declarations(&network))?;
    let start = Instant::now();
    let tensors = network
        .eval_in_double(&inputs)
        .map_err(|source| CliError::Evaluation { path: arguments.model.clone(), source: Box::new(source) })?;
    let seconds = start.elapsed().as_secs_f64();
    store(&arguments.output, &names, &tensors)?;
    let outcome = Outcome::new(seconds, &names, &tensors, None);
    output.print(&outcome, || outcome.text())
}

/// A file for one array cannot take several.
fn check_store(path: &Path, outputs: usize) -> Result<(), CliError> {
    if is_npy(path) && outputs != 1 {
        let path = path.display();
        return Err(CliError::Usage(format!(
            "--output {path}: there are {outputs} outputs, which take an .npz"
        )));
    }
    Ok(())
}

fn store(path: &Path, names: &[String], tensors: &[Tensor]) -> Result<(), CliError> {
    let written = match tensors {
        [tensor] if is_npy(path) => npy::write_npy(path, tensor),
        _ => npy::write_npz(path, names.iter().map(String::as_str).zip(tensors)),
    };
    written.map_err(CliError::array(path))
}

fn is_npy(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "npy")
}

fn compare_with(
    path: &Path,
    names: &[String],
    tensors: &[Tensor],
    tolerance: f64,
) -> Result<Comparison, CliError> {
    let references = if is_npy(path) {
        let [name] = names else {
            return Err(CliError::Usage(format!(
                "--reference {}: there are {} outputs, which an .npz has by name",
                path.display(),
                names.len()
            )));
        };
        vec![(name.clone(), npy::read_npy(path).map_err(CliError::array(path))?)]
    } else {
        npy::read_npz(path).map_err(CliError::array(path))?
    };
    let differences: Vec<Difference> = references
        .iter()
        .map(|(name, reference)| {
            let position = names.iter().position(|known| known == name).ok_or_else(|| {
                CliError::Usage(format!("the reference has `{name}`, the outputs are {}", names.join(", ")))
            })?;
            Ok(compare::difference(name, &tensors[position], reference))
        })
        .collect::<Result<_, CliError>>()?;
    if differences.is_empty() {
        return Err(CliError::Usage(format!("{} holds no arrays", path.display())));
    }
    let within = differences.iter().all(|difference| difference.relative <= tolerance);
    Ok(Comparison { tolerance, within, differences })
}

impl OutputSummary {
    fn of(name: &str, tensor: &Tensor) -> Self {
        let values = (0..tensor.count()).map(|index| tensor.get_f64(index));
        let (mut least, mut greatest, mut sum, mut finite) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0);
        for value in values.filter(|value| value.is_finite()) {
            least = least.min(value);
            greatest = greatest.max(value);
            sum += value;
            finite += 1;
        }
        Self {
            name: name.to_owned(),
            dtype: tensor.dtype().name(),
            shape: tensor.shape().to_vec(),
            range: (finite > 0).then(|| [least, sum / finite as f64, greatest]),
            non_finite: tensor.count() - finite,
        }
    }
}

impl Outcome {
    fn new(seconds: f64, names: &[String], tensors: &[Tensor], comparison: Option<Comparison>) -> Self {
        let outputs =
            names.iter().zip(tensors).map(|(name, tensor)| OutputSummary::of(name, tensor)).collect();
        Self { seconds, outputs, comparison }
    }

    fn text(&self) -> String {
        let mut outputs = Table::new([
            ("output", Align::Left),
            ("type", Align::Left),
            ("shape", Align::Left),
            ("least", Align::Right),
            ("mean", Align::Right),
            ("greatest", Align::Right),
            ("not finite", Align::Right),
        ]);
        for o in &self.outputs {
            let range =
                o.range.map_or([const { String::new() }; 3], |range| range.map(|v| format!("{v:.6}")));
            let [least, mean, greatest] = range;
            outputs.row([
                o.name.clone(),
                o.dtype.to_owned(),
                format!("{:?}", o.shape),
                least,
                mean,
                greatest,
                o.non_finite.to_string(),
            ]);
        }
        let mut text = format!("{outputs}\nran in {}\n", table::seconds(self.seconds));
        if let Some(comparison) = &self.comparison {
            let mut differences = Table::new([
                ("output", Align::Left),
                ("difference", Align::Right),
                ("relative", Align::Right),
                ("", Align::Left),
            ]);
            for d in &comparison.differences {
                differences.row([
                    d.name.clone(),
                    format!("{:.3e}", d.absolute),
                    format!("{:.3e}", d.relative),
                    d.remark.clone().unwrap_or_default(),
                ]);
            }
            let verdict = if comparison.within { "agrees" } else { "DISAGREES" };
            text += &format!(
                "\n{differences}\n{verdict} with the reference (tolerance {:e})\n",
                comparison.tolerance
            );
        }
        text
    }
}
