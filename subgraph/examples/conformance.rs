//! Runs ONNX backend test cases (folders of `model.onnx` and `test_data_set_0/{input,output}_N.pb`) through the dialect and
//! the reference evaluation: `conformance [--verbose] folder...`. Fails if a case that was lowered gives a wrong result.

use std::collections::BTreeMap;
use std::path::Path;

use engraft_network::Tensor;
use engraft_subgraph::{AcceptAll, PartitionOptions, PartitionPolicy, onnx, partition};

enum Outcome {
    Passed,
    Refused(String),
    Failed(String),
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let verbose = arguments.iter().any(|argument| argument == "--verbose");
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut passed, mut failed) = (0, 0);
    for path in arguments.iter().filter(|argument| !argument.starts_with("--")) {
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
        match case(Path::new(path)) {
            Outcome::Passed => passed += 1,
            Outcome::Refused(reason) => refused.entry(reason).or_default().push(name),
            Outcome::Failed(reason) => {
                failed += 1;
                println!("FAILED {name}: {reason}");
            }
        }
    }
    let count: usize = refused.values().map(Vec::len).sum();
    if verbose {
        for (reason, names) in &refused {
            println!("refused {:>4}: {reason} ({})", names.len(), names.join(" "));
        }
    }
    println!("{passed} passed, {failed} failed, {count} refused");
    std::process::exit(i32::from(failed > 0));
}

fn case(folder: &Path) -> Outcome {
    match attempt(folder, false) {
        // What models hold as constants (axes, shapes, scales) test cases pass as inputs.
        Outcome::Refused(_) => attempt(folder, true),
        other => other,
    }
}

fn attempt(folder: &Path, constant_operands: bool) -> Outcome {
    let mut model = match onnx::read_model(folder.join("model.onnx")) {
        Ok(model) => model,
        Err(error) => return Outcome::Refused(format!("{error}")),
    };
    if constant_operands {
        for (index, &input) in model.graph.inputs.iter().enumerate().skip(1) {
            let path = folder.join("test_data_set_0").join(format!("input_{index}.pb"));
            let tensor = std::fs::read(path).ok().and_then(|bytes| onnx::read_tensor_bytes(bytes).ok());
            model.graph.values[input.index()].constant = tensor.filter(|tensor| tensor.shape().len() <= 1);
        }
    }
    let options = PartitionOptions { policy: PartitionPolicy::Maximal, ..PartitionOptions::default() };
    let partition = partition(&model.graph, &AcceptAll, &options);
    if let Some(((op, reason), _)) = partition.report.refusals().into_iter().next() {
        return Outcome::Refused(format!("{op}: {reason}"));
    }
    let [segment] = partition.segments.as_slice() else {
        return Outcome::Refused(format!("{} segments", partition.segments.len()));
    };
    let tensors = |kind: &str, count: usize| -> Result<Vec<Option<Tensor>>, String> {
        (0..count)
            .map(|index| {
                let path = folder.join("test_data_set_0").join(format!("{kind}_{index}.pb"));
                let bytes = std::fs::read(&path).map_err(|error| error.to_string())?;
                Ok(onnx::read_tensor_bytes(bytes).ok())
            })
            .collect()
    };
    let graph = &model.graph;
    let (inputs, expected) =
        match (tensors("input", graph.inputs.len()), tensors("output", graph.outputs.len())) {
            (Ok(inputs), Ok(outputs)) => (inputs, outputs),
            (Err(error), _) | (_, Err(error)) => return Outcome::Refused(error),
        };
    let arguments: Option<Vec<Tensor>> = segment
        .inputs
        .iter()
        .map(|value| inputs[graph.inputs.iter().position(|input| input == value)?].clone())
        .collect();
    let Some(arguments) = arguments else { return Outcome::Refused("an input is not a tensor".into()) };
    let results = match segment.network.eval(&arguments) {
        Ok(results) => results,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    for (output, expected) in graph.outputs.iter().zip(expected) {
        let Some(expected) = expected else { return Outcome::Refused("an output is not a tensor".into()) };
        let Some(index) = segment.outputs.iter().position(|value| value == output) else { continue };
        if let Err(reason) = compare(&results[index], &expected) {
            return Outcome::Failed(format!("output {:?}: {reason}", graph.value(*output).name));
        }
    }
    Outcome::Passed
}

fn compare(got: &Tensor, want: &Tensor) -> Result<(), String> {
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        return Err(format!("{}{:?}, not {}{:?}", got.dtype(), got.shape(), want.dtype(), want.shape()));
    }
    let coarse = if want.dtype().bits() <= 16 { 1e-2 } else { 1e-4 };
    let finite = (0..want.count()).map(|index| want.get_f64(index).abs()).filter(|value| value.is_finite());
    let largest = if want.dtype().is_float() { finite.fold(0.0, f64::max) } else { 0.0 };
    for index in 0..want.count() {
        let (a, b) = (got.get_f64(index), want.get_f64(index));
        let close = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-6 + coarse * largest;
        if !close {
            return Err(format!("element {index} is {a}, not {b}"));
        }
    }
    Ok(())
}
