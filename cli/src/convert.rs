//! `engraft convert`: a model whose segments are nodes `ai.engraft::Segment`.

use std::collections::BTreeMap;

use engraft::subgraph::PlacementReport;
use engraft::subgraph::onnx::{self, FileSource, ReadFiles, Replacing};
use engraft::{Options, Session, tensorflow};
use serde::Serialize;

use crate::arguments::Convert;
use crate::error::CliError;
use crate::output::Output;
use crate::table::{self, Align, Table};
use crate::{saved_model, standalone};

#[derive(Serialize)]
struct Converted {
    model: String,
    bytes: u64,
    segments: Vec<Replaced>,
    /// Segments that stay as they were.
    kept: Vec<Kept>,
    /// Share of the model's FLOPs in the segments.
    flops_share: f64,
}

#[derive(Serialize)]
struct Replaced {
    name: String,
    nodes: usize,
    flops_share: f64,
}

#[derive(Serialize)]
struct Kept {
    name: String,
    reason: String,
}

pub fn run(arguments: &Convert, output: Output) -> Result<(), CliError> {
    let path = &arguments.model;
    let options = standalone::parse_options(&arguments.options)?;
    if path.is_dir() {
        let output = arguments.output.as_os_str().to_owned();
        return saved_model::run("convert", path, &[output], &arguments.options);
    }
    if standalone::is_tensorflow(path) {
        return run_tensorflow(arguments, options, output);
    }
    let fail = |source| CliError::Model { path: path.clone(), source: Box::new(source) };
    let bytes = ReadFiles.open(path).map_err(CliError::file("read", path))?;
    let graph = standalone::read_model(path)?;
    let partition = Session::new(options).partition(&graph);
    // The options travel with the nodes, in the words of the command line.
    let texts: BTreeMap<&str, &str> =
        arguments.options.options.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let texts = serde_json::to_vec(&texts).unwrap_or_default();
    let replacing = Replacing {
        domain: "ai.engraft",
        op_type: "Segment",
        version: 1,
        attributes: &[("engraft", engraft::VERSION.as_bytes()), ("options", &texts)],
    };
    let replaced = onnx::replace_segments(bytes, &graph, &partition.segments, &replacing).map_err(fail)?;
    let target = &arguments.output;
    engraft::replace_file(target, &replaced.model).map_err(CliError::file("write", target))?;

    let kept: Vec<Kept> = replaced.kept.into_iter().map(|(name, reason)| Kept { name, reason }).collect();
    let segments: Vec<Replaced> = partition
        .segments
        .iter()
        .enumerate()
        .filter(|(_, segment)| kept.iter().all(|k| k.name != segment.name))
        .map(|(index, segment)| Replaced {
            name: segment.name.clone(),
            nodes: segment.nodes.len(),
            flops_share: share(&partition.report, index),
        })
        .collect();
    let converted = Converted {
        model: target.display().to_string(),
        bytes: replaced.model.len() as u64,
        flops_share: segments.iter().map(|segment| segment.flops_share).sum(),
        segments,
        kept,
    };
    output.print(&converted, || converted.text())
}

/// A frozen graph: segments become nodes `EngraftSegment`.
fn run_tensorflow(arguments: &Convert, options: Options, output: Output) -> Result<(), CliError> {
    let path = &arguments.model;
    let bytes = ReadFiles.open(path).map_err(CliError::file("read", path))?;
    let accelerated = tensorflow::accelerate(&Session::new(options), bytes, &tensorflow::Ends::default())
        .map_err(|source| CliError::Graph { path: path.clone(), source: Box::new(source) })?;
    let target = &arguments.output;
    engraft::replace_file(target, &accelerated.graph).map_err(CliError::file("write", target))?;
    let segments = accelerated.report.segments.iter().map(|segment| Replaced {
        name: segment.name.clone(),
        nodes: segment.nodes,
        flops_share: segment.flops_share,
    });
    let converted = Converted {
        model: target.display().to_string(),
        bytes: accelerated.graph.len() as u64,
        segments: segments.collect(),
        kept: Vec::new(),
        flops_share: accelerated.report.segments.iter().map(|segment| segment.flops_share).sum(),
    };
    output.print(&converted, || converted.text())
}

fn share(report: &PlacementReport, segment: usize) -> f64 {
    let inside = |node: &&engraft::subgraph::NodePlacement| matches!(node.placement, engraft::subgraph::Placement::Segment(index) if index == segment);
    report.nodes.iter().filter(inside).map(|node| node.flops_share).sum()
}

impl Converted {
    fn text(&self) -> String {
        let mut table =
            Table::new([("segment", Align::Left), ("nodes", Align::Right), ("FLOPs", Align::Right)]);
        for segment in &self.segments {
            table.row([
                segment.name.clone(),
                segment.nodes.to_string(),
                format!("{:.2} %", segment.flops_share * 100.0),
            ]);
        }
        let mut text = format!("{}: {}\n\n{table}", self.model, table::bytes(self.bytes));
        for kept in &self.kept {
            text += &format!("segment {} stays as it is: {}\n", kept.name, kept.reason);
        }
        text
    }
}
