//! The partitioner: which nodes of a host's graph Engraft takes, in which segments.

use std::collections::BTreeSet;

use engraft_network::{NodeId, Op, SymbolId};
use rustc_hash::FxHashMap;

use crate::cluster::{Dag, cluster};
use crate::cost::{Capability, SEGMENT_NANOSECONDS, Work, bytes_at, host_nanoseconds, work};
use crate::lower::{Lowering, Reject, Remedy};
use crate::report::{NodePlacement, Placement, PlacementReport, SegmentSummary};
use crate::segment::{Fault, Segment, Uses, build};
use crate::{HostGraph, HostNode, HostValueId, inner, is_control_flow, tensorflow};

/// What to take of what could be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionPolicy {
    /// What is expected to beat the host.
    #[default]
    Profit,
    /// Everything that can be run.
    Maximal,
}

#[derive(Clone, Debug, Default)]
pub struct PartitionOptions {
    pub policy: PartitionPolicy,
    /// Segments of fewer host nodes stay with the host.
    pub min_subgraph_size: usize,
    /// Operators that stay with the host: `Type`, or `domain.Type`.
    pub op_types_to_exclude: BTreeSet<String>,
}

/// The partitioner's decision.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    /// In an order in which they can run.
    pub segments: Vec<Segment>,
    pub report: PlacementReport,
}

/// Work below which a layer may run on a reference kernel under the profit rule: not worth a border.
const NEGLIGIBLE: Work = Work { flops: 4_096.0, bytes: 65_536.0 };

/// A segment that computes less than one FLOP for so many bytes that it reads and writes is as fast as memory, on either side.
const BYTES_PER_FLOP_OF_MOVES: f64 = 64.0;

/// Whether an operator moves elements, or adds them up where they go: bound by memory whoever runs it.
fn moves(op: &Op) -> bool {
    matches!(
        op,
        Op::Transpose(_)
            | Op::Reshape(_)
            | Op::Expand(_)
            | Op::Concat(_)
            | Op::Slice(_)
            | Op::Pad(_)
            | Op::Tile(_)
            | Op::Range(_)
            | Op::ShapeTensor(_)
            | Op::Trilu(_)
            | Op::Gather(_)
            | Op::GatherElements(_)
            | Op::GatherNd(_)
            | Op::ScatterElements(_)
            | Op::ScatterNd(_)
            | Op::OneHot(_)
            | Op::Fold(_)
            | Op::BitCast(_)
    )
}

/// Whether an operator multiplies matrices: worth a segment whatever sizes are expected.
fn multiplies(op: &Op) -> bool {
    matches!(op, Op::MatMul(_) | Op::Conv(_) | Op::ConvTranspose(_) | Op::Rnn(_) | Op::Attention(_))
}

struct Partitioner<'g, 'c> {
    graph: &'g HostGraph,
    capability: &'c dyn Capability,
    options: &'c PartitionOptions,
    uses: Uses,
    producers: Vec<Option<usize>>,
    /// Why each node stays with the host.
    refused: Vec<Option<Reject>>,
    work: Vec<Work>,
    reference: Vec<bool>,
    /// Nodes of the network that each node became.
    layers: Vec<Vec<NodeId>>,
    /// Representative sizes of the probe's symbols so far.
    sizes: Vec<i64>,
}

/// Partitions a graph whose nodes are in topological order. Never fails: what cannot be taken stays with the host, and
/// the report says why.
pub fn partition(graph: &HostGraph, capability: &dyn Capability, options: &PartitionOptions) -> Partition {
    let count = graph.nodes.len();
    let mut this = Partitioner {
        graph,
        capability,
        options,
        uses: Uses::of(graph),
        producers: graph.producers(),
        refused: vec![None; count],
        work: vec![Work::default(); count],
        reference: vec![false; count],
        layers: vec![Vec::new(); count],
        sizes: Vec::new(),
    };
    this.refuse_by_policy();
    let segments = this.segments();
    Partition { report: this.report(&segments), segments }
}

impl<'g> Partitioner<'g, '_> {
    fn profit(&self) -> bool {
        self.options.policy == PartitionPolicy::Profit
    }

    /// Refusals that need no lowering.
    fn refuse_by_policy(&mut self) {
        for (index, node) in self.graph.nodes.iter().enumerate() {
            let full = format!("{}.{}", node.domain, node.op_type);
            let excluded = &self.options.op_types_to_exclude;
            self.refused[index] = if excluded.contains(&node.op_type) || excluded.contains(&full) {
                let others = excluded.iter().filter(|&other| *other != node.op_type && *other != full);
                // As the option is spelled.
                let others: Vec<String> = others
                    .map(|other| other.rsplit_once('.').map_or(other.clone(), |(d, t)| format!("{d}:{t}")))
                    .collect();
                let remedy = Remedy::option("op_types_to_exclude", others.join(","));
                Some(Reject::new("excluded by op_types_to_exclude").remedy(remedy))
            } else if let Some(reason) = &node.pinned {
                Some(Reject::new(reason.clone()).remedy(Remedy::HostOnly))
            } else if is_control_flow(&node.domain, &node.op_type) {
                Some(Reject::new("control flow stays with the host").remedy(Remedy::HostOnly))
            } else if self.profit() && is_quantization(node) {
                let reason = "quantized regions stay with the host under profit";
                Some(Reject::new(reason).remedy(Remedy::maximal()))
            } else if self.profit() && self.touches_quantization(node) {
                let reason = "borders on quantization, which stays with the host under profit";
                Some(Reject::new(reason).remedy(Remedy::maximal()))
            } else {
                None
            };
        }
    }

    fn touches_quantization(&self, node: &HostNode) -> bool {
        let quantized = |index: usize| is_quantization(&self.graph.nodes[index]);
        let from = node.uses().filter_map(|value| self.producers[value.index()]).any(quantized);
        if self.finishes_integer_product(node, 3) {
            return true;
        }
        let mut outputs = node.outputs.iter().flatten();
        from || outputs.any(|output| self.uses.readers(*output).any(quantized))
    }

    /// Whether the node is one of up to `steps` that turn a product of integers into floats, which hosts compute as one.
    fn finishes_integer_product(&self, node: &HostNode, steps: usize) -> bool {
        let before = node.uses().filter_map(|value| self.producers[value.index()]);
        steps > 0
            && scales_integers(node)
            && before.map(|index| &self.graph.nodes[index]).any(|producer| {
                is_integer_product(producer) || self.finishes_integer_product(producer, steps - 1)
            })
    }

    /// Lowers the whole graph. A node that is refused now or was before becomes inputs of what follows.
    fn probe(&mut self) -> Lowering<'g> {
        let mut lowering = Lowering::new(self.graph, &self.graph.name);
        self.sizes.clear();
        for &input in self.graph.inputs.iter().chain(&self.graph.outer) {
            if self.graph.value(input).constant.is_none() {
                // An input of unknown type or rank only keeps its users with the host.
                let _ = lowering.input_from_host(input);
            }
        }
        for index in 0..self.graph.nodes.len() {
            // A node that was refused is lowered all the same: for its work and the types of its outputs.
            self.layers[index].clear();
            let outcome = self.try_node(&mut lowering, index);
            if self.refused[index].is_none() {
                self.refused[index] = outcome.err();
            }
            if self.refused[index].is_some() {
                lowering.leave_to_host(index);
            }
        }
        let sizes = lowering.network().representative_env();
        for index in 0..self.graph.nodes.len() {
            self.work[index] = Work::default();
            for &node in &self.layers[index] {
                self.work[index] += work(lowering.network(), node, &sizes);
            }
            let node = &self.graph.nodes[index];
            // Other hosts show graphs inside nodes as graphs of their own.
            if self.layers[index].is_empty() && node.domain == tensorflow::DOMAIN {
                self.work[index].flops += inner::flops(&lowering, node, &sizes);
            }
            self.work[index].bytes = self.host_bytes(&lowering, &sizes, index);
        }
        lowering
    }

    fn try_node(&mut self, lowering: &mut Lowering, index: usize) -> Result<(), Reject> {
        let nodes = lowering.lower(index)?;
        for symbol in self.sizes.len()..lowering.network().symbols().len() {
            self.sizes.push(lowering.network().representative_size(SymbolId(symbol as u32)));
        }
        let sizes = &self.sizes;
        let mut total = Work::default();
        let mut reference = false;
        for &node in &nodes {
            total += work(lowering.network(), node, sizes);
        }
        self.layers[index].clone_from(&nodes);
        for node in nodes {
            reference |= self.capability.accept(lowering.network(), node)?.reference;
        }
        self.reference[index] = reference;
        if reference && self.profit() && (total.flops > NEGLIGIBLE.flops || total.bytes > NEGLIGIBLE.bytes) {
            return Err(Reject::new("only a reference kernel runs it").remedy(Remedy::maximal()));
        }
        Ok(())
    }

    /// Bytes that the host's node reads and writes: none for shape arithmetic and views, and of what it takes a part of, that
    /// part.
    fn host_bytes(&self, lowering: &Lowering, sizes: &[i64], index: usize) -> f64 {
        let node = &self.graph.nodes[index];
        let mut ops = self.layers[index].iter().filter_map(|id| lowering.network().node(*id)).map(|n| &n.op);
        if self.refused[index].is_none() && ops.clone().all(|op| matches!(op, Op::Reshape(_))) {
            return 0.0;
        }
        let bytes =
            |value: HostValueId| lowering.ty(value).map_or(0.0, |ty| bytes_at(ty.dtype, &ty.shape, sizes));
        let written: f64 = node.outputs.iter().flatten().copied().map(bytes).sum();
        let read: f64 = node.uses().map(bytes).sum();
        let is_part = ops
            .any(|op| matches!(op, Op::Slice(_) | Op::Gather(_) | Op::GatherElements(_) | Op::GatherNd(_)));
        if is_part {
            let source = node.uses().next().map_or(0.0, bytes);
            written + read - source + source.min(written)
        } else {
            written + read
        }
    }

    /// Probes, clusters and builds until every segment stands by itself.
    fn segments(&mut self) -> Vec<Segment> {
        loop {
            let probe = self.probe();
            let groups = self.groups();
            let mut segments: Vec<Segment> = Vec::with_capacity(groups.len());
            let mut faults = false;
            for nodes in groups {
                if let Some(reject) = self.unprofitable(&probe, &nodes) {
                    self.refuse_all(&nodes, &reject);
                    continue;
                }
                let name = format!("{}_{}", self.name(), segments.len());
                match build(&probe, &self.uses, name, nodes.clone()) {
                    Ok(segment) if self.profit() && segment.inputs.is_empty() => {
                        let reject = Reject::new("its segment only computes constants");
                        self.refuse_all(&nodes, &reject.remedy(Remedy::maximal()));
                    }
                    Ok(segment) => segments.push(segment),
                    Err(Fault { node: Some(node), reject }) => {
                        self.refused[node] = Some(reject);
                        faults = true;
                    }
                    Err(Fault { node: None, reject }) => self.refuse_all(&nodes, &reject),
                }
            }
            if !faults {
                return segments;
            }
        }
    }

    fn name(&self) -> &str {
        if self.graph.name.is_empty() { "graph" } else { &self.graph.name }
    }

    fn refuse_all(&mut self, nodes: &[usize], reject: &Reject) {
        for &node in nodes {
            self.refused[node] = Some(reject.clone());
        }
    }

    /// The nodes of each segment, ascending.
    fn groups(&self) -> Vec<Vec<usize>> {
        let uses = self
            .graph
            .nodes
            .iter()
            .map(|node| node.uses().filter_map(|value| self.producers[value.index()]).collect())
            .collect();
        let accepted = self.refused.iter().map(Option::is_none).collect();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (node, segment) in cluster(&Dag { uses, accepted }).into_iter().enumerate() {
            if let Some(segment) = segment {
                groups.resize_with(groups.len().max(segment + 1), Vec::new);
                groups[segment].push(node);
            }
        }
        groups
    }

    fn unprofitable(&self, probe: &Lowering, nodes: &[usize]) -> Option<Reject> {
        if nodes.len() < self.options.min_subgraph_size {
            let reason = format!("its segment has {} nodes, fewer than min_subgraph_size", nodes.len());
            let remedy = Remedy::option("min_subgraph_size", nodes.len().to_string());
            return Some(Reject::new(reason).remedy(remedy));
        }
        if !self.profit() {
            return None;
        }
        let mut total = Work::default();
        for &node in nodes {
            total += self.work[node];
        }
        let reason = if host_nanoseconds(total) < SEGMENT_NANOSECONDS {
            "its segment is too small to beat the host"
        } else if self.only_moves(probe, nodes, total.bytes / BYTES_PER_FLOP_OF_MOVES) {
            "its segment only moves elements, as fast as the host does"
        } else {
            return None;
        };
        Some(Reject::new(reason).remedy(Remedy::maximal()))
    }

    /// Whether no layer multiplies, and what does more than to move elements is fewer FLOPs than `few`.
    fn only_moves(&self, probe: &Lowering, nodes: &[usize], few: f64) -> bool {
        let layers = nodes.iter().flat_map(|&node| &self.layers[node]);
        let ops = layers.filter_map(|id| Some((*id, &probe.network().node(*id)?.op)));
        let mut flops = 0.0;
        for (id, op) in ops.filter(|(_, op)| !moves(op)) {
            if multiplies(op) {
                return false;
            }
            flops += work(probe.network(), id, &self.sizes).flops;
        }
        flops < few
    }

    fn report(&self, segments: &[Segment]) -> PlacementReport {
        let mut taken: FxHashMap<usize, usize> = FxHashMap::default();
        for (segment, content) in segments.iter().enumerate() {
            taken.extend(content.nodes.iter().map(|&node| (node, segment)));
        }
        let nodes = self.graph.nodes.iter().enumerate().map(|(index, node)| NodePlacement {
            index,
            name: node.label(self.graph),
            op_type: node.op_type.clone(),
            domain: node.domain.clone(),
            placement: match (taken.get(&index), &self.refused[index]) {
                (Some(&segment), _) => Placement::Segment(segment),
                (None, Some(reject)) => Placement::Host(reject.reason.clone()),
                (None, None) => Placement::Host("its segment could not be built".into()),
            },
            remedy: match (taken.get(&index), &self.refused[index]) {
                (Some(_), _) => None,
                (None, reject) => {
                    Some(reject.as_ref().map(|reject| reject.remedy.clone()).unwrap_or_default())
                }
            },
            work: self.work[index],
            flops_share: 0.0,
            bytes_share: 0.0,
            reference: self.reference[index],
        });
        let names = |values: &[HostValueId]| {
            values.iter().map(|&value| self.graph.value(value).name.clone()).collect()
        };
        let summaries = segments.iter().map(|segment| {
            let mut total = Work::default();
            for &node in &segment.nodes {
                total += self.work[node];
            }
            SegmentSummary {
                name: segment.name.clone(),
                nodes: segment.nodes.len(),
                layers: segment.network.node_count(),
                inputs: names(&segment.inputs),
                outputs: names(&segment.outputs),
                work: total,
            }
        });
        let mut report = PlacementReport {
            graph: self.graph.name.clone(),
            nodes: nodes.collect(),
            segments: summaries.collect(),
            ..PlacementReport::default()
        };
        report.finish();
        report
    }
}

fn is_quantization(node: &HostNode) -> bool {
    matches!(node.op_type.as_str(), "QuantizeLinear" | "DequantizeLinear" | "DynamicQuantizeLinear")
        || is_integer_product(node)
        || node.op_type.starts_with("FakeQuantWithMinMax")
}

fn is_integer_product(node: &HostNode) -> bool {
    matches!(node.op_type.as_str(), "MatMulInteger" | "ConvInteger")
}

/// What a host fuses with the product of integers before it: conversion, scaling, bias.
fn scales_integers(node: &HostNode) -> bool {
    matches!(node.op_type.as_str(), "Cast" | "Mul" | "Add")
}
