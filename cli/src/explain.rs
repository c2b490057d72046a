//! `engraft explain`: what a host runtime would hand to Engraft, what not and why, and what became of it.

use std::ffi::OsString;
use std::fmt::Write as _;

use engraft::kernels::{Class, catalog};
use engraft::subgraph::{NodePlacement, Placement, PlacementReport, tensorflow};
use engraft::{Attribute, HostGraph, Session};
use serde::Serialize;

use crate::arguments::Explain;
use crate::error::CliError;
use crate::output::Output;
use crate::progress::BuildProgress;
use crate::table::{Align, Table};
use crate::{saved_model, standalone};

#[derive(Serialize)]
struct Explanation {
    graphs: Vec<Graph>,
}

/// The main graph, or the body of a control-flow operator.
#[derive(Serialize)]
struct Graph {
    /// Where the body is; empty for the main graph.
    path: String,
    placement: PlacementReport,
    segments: Vec<Segment>,
}

#[derive(Serialize)]
struct Segment {
    name: String,
    /// What the builder's passes did.
    fusion: Vec<String>,
    layers: Vec<Layer>,
}

#[derive(Serialize)]
struct Layer {
    name: String,
    op: String,
    tactic: String,
    /// No optimized kernel runs it: its FLOPs do not count as accelerated.
    reference: bool,
}

pub fn run(arguments: &Explain, output: Output) -> Result<(), CliError> {
    if arguments.model.is_dir() {
        let mut more: Vec<OsString> = Vec::new();
        if output == Output::Json {
            more.push("--json".into());
        }
        if arguments.all {
            more.push("--detailed".into());
        }
        return saved_model::run("explain", &arguments.model, &more, &arguments.options);
    }
    let graph = standalone::read_model(&arguments.model)?;
    let progress = BuildProgress::new();
    let session = Session::new(standalone::parse_options(&arguments.options)?).on_progress(progress.hook());
    let mut graphs = Vec::new();
    let explained = explain(&session, "", &graph, &mut graphs);
    progress.clear();
    explained?;
    let explanation = Explanation { graphs };
    output.print(&explanation, || explanation.text(arguments.all))
}

fn explain(
    session: &Session,
    path: &str,
    graph: &HostGraph,
    explained: &mut Vec<Graph>,
) -> Result<(), CliError> {
    let partition = session.partition(graph);
    let mut segments = Vec::new();
    for segment in &partition.segments {
        let (engine, _) = session.build(&segment.network).map_err(CliError::build)?;
        let sizes = engine.network().representative_env();
        let tactics = engine.tactics(&sizes, session.threads());
        let tactics = tactics
            .map_err(|source| CliError::Run { model: segment.name.clone(), source: Box::new(source) })?;
        segments.push(Segment {
            name: segment.name.clone(),
            fusion: engine.fusion_report().to_vec(),
            layers: tactics
                .into_iter()
                .map(|(name, op, tactic)| Layer { reference: is_reference(&tactic), name, op, tactic })
                .collect(),
        });
    }
    explained.push(Graph { path: path.to_owned(), placement: partition.report, segments });
    // The bodies of TensorFlow's loops are functions, which stay as they are.
    for node in graph.nodes.iter().filter(|node| node.domain != tensorflow::DOMAIN) {
        for (name, attribute) in &node.attributes {
            let bodies = match attribute {
                Attribute::Graph(body) => std::slice::from_ref(&**body),
                Attribute::Graphs(bodies) => bodies,
                _ => &[],
            };
            for body in bodies {
                explain(session, &format!("{path}/{}.{name}", node.label(graph)), body, explained)?;
            }
        }
    }
    Ok(())
}

fn is_reference(tactic: &str) -> bool {
    catalog::by_id(tactic).is_some_and(|tactic| tactic.class() == Class::Reference)
}

impl Explanation {
    fn text(&self, all: bool) -> String {
        let mut text = String::new();
        for graph in &self.graphs {
            // Writing to a `String` cannot fail.
            if !graph.path.is_empty() {
                let _ = writeln!(text, "\nbody {}", graph.path);
            }
            let _ = writeln!(text, "{}", graph.placement);
            if all {
                let _ = writeln!(text, "{}", node_table(&graph.placement));
            }
            for segment in &graph.segments {
                let _ = writeln!(text, "segment {}", segment.name);
                for line in &segment.fusion {
                    let _ = writeln!(text, "  {line}");
                }
                let _ = writeln!(text, "\n{}", layer_table(segment));
            }
        }
        text
    }
}

fn node_table(report: &PlacementReport) -> Table {
    let mut table = Table::new([
        ("node", Align::Left),
        ("operator", Align::Left),
        ("runs on", Align::Left),
        ("FLOPs", Align::Right),
        ("why", Align::Left),
        ("what would change it", Align::Left),
    ]);
    for node in &report.nodes {
        let NodePlacement { name, op_type, placement, remedy, flops_share, reference, .. } = node;
        let remedy = remedy.as_ref().map(ToString::to_string).unwrap_or_default();
        let (place, why) = match placement {
            Placement::Segment(index) => {
                let why = if *reference { "a reference kernel runs it" } else { "" };
                (format!("segment {index}"), why.to_owned())
            }
            Placement::Host(reason) => ("host".to_owned(), reason.clone()),
        };
        let share = format!("{:.2} %", flops_share * 100.0);
        table.row([name.clone(), op_type.clone(), place, share, why, remedy]);
    }
    table
}

fn layer_table(segment: &Segment) -> Table {
    let mut table = Table::new([
        ("layer", Align::Left),
        ("operator", Align::Left),
        ("tactic", Align::Left),
        ("", Align::Left),
    ]);
    for layer in &segment.layers {
        let remark = if layer.reference { "reference" } else { "" };
        table.row([layer.name.clone(), layer.op.clone(), layer.tactic.clone(), remark.to_owned()]);
    }
    table
}
