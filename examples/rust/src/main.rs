//! Runs a model on Engraft from a Rust program: `engraft-host ONNXRUNTIME_LIBRARY ENGRAFT_LIBRARY MODEL REPORT`.
//!
//! The model reads `x`, 4x16 floats, and writes `y`. Engraft is a plugin: the program registers its library with ONNX Runtime's
//! environment and gives the session Engraft's device.

use std::error::Error;

use ort::session::Session;
use ort::value::Tensor;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [runtime, engraft, model, report] = &arguments[..] else {
        return Err("usage: engraft-host ONNXRUNTIME_LIBRARY ENGRAFT_LIBRARY MODEL REPORT".into());
    };
    let environment = ort::init_from(runtime)?.with_name("engraft-host").build()?;
    environment.register_ep_library("engraft", engraft)?;
    let devices = environment
        .devices()
        .filter(|device| device.ep().is_ok_and(|name| name == "EngraftExecutionProvider"));

    // ort wants each option behind the name of its provider.
    let option = |key: &str, value: &str| (format!("EngraftExecutionProvider.{key}"), value.to_owned());
    let options = [option("partition_policy", "maximal"), option("placement_report_path", report)];
    let mut session = Session::builder(&environment)?
        .with_devices(devices, Some(&options))?
        .with_intra_threads(2)?
        .commit_from_file(model)?;

    let x: Vec<f32> = (0..4 * 16).map(|i| (i % 7) as f32 * 0.25 - 0.5).collect();
    let outputs = session.run(ort::inputs!["x" => Tensor::from_array(([4usize, 16], x))?])?;
    let (_, y) = outputs["y"].try_extract_tensor::<f32>()?;
    for value in y {
        println!("{value}");
    }
    Ok(())
}
