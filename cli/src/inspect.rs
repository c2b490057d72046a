//! `engraft inspect`: what a model or a plan consists of.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use engraft::engine::container::Summary;
use engraft::subgraph::onnx;
use engraft::{DType, HostDim, HostGraph, HostValueId};
use serde::Serialize;

use crate::arguments::Inspect;
use crate::error::CliError;
use crate::output::Output;
use crate::standalone;
use crate::table::{self, Align, Table};

#[derive(Serialize)]
struct ModelSummary {
    kind: &'static str,
    graph: String,
    producer: String,
    ir_version: i64,
    opsets: BTreeMap<String, i64>,
    metadata: BTreeMap<String, String>,
    inputs: Vec<ValueSummary>,
    outputs: Vec<ValueSummary>,
    nodes: usize,
    constants: usize,
    constant_bytes: u64,
    operators: BTreeMap<String, usize>,
}

#[derive(Serialize)]
struct ValueSummary {
    name: String,
    #[serde(rename = "type")]
    dtype: Option<&'static str>,
    /// Sizes, names of symbolic dims, or null where nothing is known.
    shape: Option<Vec<serde_json::Value>>,
}

#[derive(Serialize)]
struct PlanSummary {
    kind: &'static str,
    bytes: u64,
    key: Vec<(String, String)>,
    sections: Vec<SectionSummary>,
}

#[derive(Serialize)]
struct SectionSummary {
    kind: String,
    name: String,
    bytes: usize,
    fingerprint: Vec<(String, String)>,
}

pub fn run(arguments: &Inspect, output: Output) -> Result<(), CliError> {
    let path = &arguments.file;
    match Summary::read(path) {
        Ok(summary) => {
            let bytes = std::fs::metadata(path).map_err(CliError::file("read", path))?.len();
            let plan = PlanSummary::of(summary, bytes);
            output.print(&plan, || plan.text())
        }
        Err(error) if is_plan(path) => Err(CliError::Plan { path: path.clone(), source: Box::new(error) }),
        Err(_) => {
            let model = if standalone::is_tensorflow(path) {
                let graph = standalone::read_tensorflow(path)?.graph;
                let producer = "TensorFlow".to_owned();
                onnx::Model { graph, ir_version: 0, producer, metadata: BTreeMap::new() }
            } else {
                let source = onnx::read_model(path);
                source.map_err(|source| CliError::Model { path: path.clone(), source: Box::new(source) })?
            };
            let summary = ModelSummary::of(&model);
            output.print(&summary, || summary.text())
        }
    }
}

/// Whether a file says that it is a plan.
pub fn is_plan(path: &Path) -> bool {
    use std::io::Read;
    let mut start = [0; engraft::engine::container::MAGIC.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == engraft::engine::container::MAGIC
}

impl ModelSummary {
    fn of(model: &onnx::Model) -> Self {
        let graph = &model.graph;
        let value = |id: &HostValueId| {
            let value = graph.value(*id);
            ValueSummary {
                name: value.name.clone(),
                dtype: value.dtype.map(DType::name),
                shape: value.shape.as_ref().map(|shape| shape.iter().map(dim_value).collect()),
            }
        };
        let constants = graph.values.iter().filter_map(|value| value.constant.as_ref());
        let mut operators = BTreeMap::new();
        for node in &graph.nodes {
            *operators.entry(operator_name(&node.domain, &node.op_type)).or_default() += 1;
        }
        Self {
            kind: "model",
            graph: graph.name.clone(),
            producer: model.producer.clone(),
            ir_version: model.ir_version,
            opsets: opsets(graph),
            metadata: model.metadata.clone(),
            inputs: graph.inputs.iter().map(value).collect(),
            outputs: graph.outputs.iter().map(value).collect(),
            nodes: graph.nodes.len(),
            constants: constants.clone().count(),
            constant_bytes: constants.map(|tensor| tensor.bytes().len() as u64).sum(),
            operators,
        }
    }

    fn text(&self) -> String {
        let opsets: Vec<String> =
            self.opsets.iter().map(|(domain, version)| format!("{domain} {version}")).collect();
        // Writing to a `String` cannot fail.
        let mut text = String::new();
        let _ = writeln!(text, "model `{}` by {}, opsets {}", self.graph, self.producer, opsets.join(", "));
        let _ = writeln!(
            text,
            "{} nodes, {} constants of {}\n",
            self.nodes,
            self.constants,
            table::bytes(self.constant_bytes)
        );
        let mut values = Table::new([
            ("", Align::Left),
            ("name", Align::Left),
            ("type", Align::Left),
            ("shape", Align::Left),
        ]);
        for (role, list) in [("input", &self.inputs), ("output", &self.outputs)] {
            for value in list {
                values.row([
                    role.to_owned(),
                    value.name.clone(),
                    value.dtype.unwrap_or("?").to_owned(),
                    shape_text(value.shape.as_deref()),
                ]);
            }
        }
        let mut operators = Table::new([("operator", Align::Left), ("nodes", Align::Right)]);
        let mut sorted: Vec<_> = self.operators.iter().collect();
        sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (name, count) in sorted {
            operators.row([name.clone(), count.to_string()]);
        }
        let _ = write!(text, "{values}\n{operators}");
        text
    }
}

impl PlanSummary {
    fn of(summary: Summary, bytes: u64) -> Self {
        let sections = summary
            .sections
            .iter()
            .map(|section| SectionSummary {
                kind: format!("{:?}", section.kind).to_lowercase(),
                name: section.name.clone(),
                bytes: section.length(),
                fingerprint: section.fingerprint.clone(),
            })
            .collect();
        Self { kind: "plan", bytes, key: summary.key, sections }
    }

    fn text(&self) -> String {
        let mut key = Table::new([("built for", Align::Left), ("", Align::Left)]);
        for (name, value) in &self.key {
            key.row([name.clone(), value.clone()]);
        }
        let mut sections = Table::new([
            ("section", Align::Left),
            ("name", Align::Left),
            ("size", Align::Right),
            ("of use on", Align::Left),
        ]);
        for section in &self.sections {
            let conditions: Vec<String> =
                section.fingerprint.iter().map(|(name, value)| format!("{name} {value}")).collect();
            sections.row([
                section.kind.clone(),
                section.name.clone(),
                table::bytes(section.bytes as u64),
                conditions.join(", "),
            ]);
        }
        format!("plan of {}\n\n{key}\n{sections}", table::bytes(self.bytes))
    }
}

fn opsets(graph: &HostGraph) -> BTreeMap<String, i64> {
    let name = |domain: &str| if domain.is_empty() { "ai.onnx".to_owned() } else { domain.to_owned() };
    graph.opsets.iter().map(|(domain, version)| (name(domain), *version)).collect()
}

fn operator_name(domain: &str, op_type: &str) -> String {
    if domain.is_empty() { op_type.to_owned() } else { format!("{domain}:{op_type}") }
}

fn dim_value(dim: &HostDim) -> serde_json::Value {
    match dim {
        HostDim::Fixed(size) => (*size).into(),
        HostDim::Symbol(name) => name.clone().into(),
        HostDim::Unknown => serde_json::Value::Null,
    }
}

fn shape_text(shape: Option<&[serde_json::Value]>) -> String {
    let Some(shape) = shape else { return "of unknown rank".to_owned() };
    let dims = shape.iter().map(|dim| match dim {
        serde_json::Value::String(name) => name.clone(),
        serde_json::Value::Null => "?".to_owned(),
        size => size.to_string(),
    });
    format!("[{}]", dims.collect::<Vec<_>>().join(", "))
}
