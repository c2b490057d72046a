//! Where each node went, and why.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cost::Work;
use crate::lower::Remedy;

/// Decision about one node of the host's graph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodePlacement {
    /// Index of the node in the host graph's topological order.
    pub index: usize,
    pub name: String,
    pub op_type: String,
    pub domain: String,
    pub placement: Placement,
    /// What would have to change for the node to be taken; `None`: it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    /// At the sizes that [`engraft_network::Network::representative_env`] documents.
    pub work: Work,
    /// Share of the graph's FLOPs and bytes, 0 to 1.
    pub flops_share: f64,
    pub bytes_share: f64,
    /// Only a reference kernel runs the node.
    pub reference: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Taken by the segment of this index.
    Segment(usize),
    /// Stays with the host, for this reason.
    Host(String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentSummary {
    pub name: String,
    /// Host nodes in the segment, and nodes of the network that they became.
    pub nodes: usize,
    pub layers: usize,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub work: Work,
}

/// The partitioner's decisions about a graph.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlacementReport {
    pub graph: String,
    pub nodes: Vec<NodePlacement>,
    pub segments: Vec<SegmentSummary>,
    pub total: Work,
    /// Share of FLOPs that run in segments, reference kernels not counted; 1 for a graph without FLOPs that is taken whole.
    pub accelerated_flops: f64,
    pub accelerated_bytes: f64,
    /// Nodes taken.
    pub taken: usize,
    /// Share of FLOPs that run in segments on reference kernels.
    pub reference_flops: f64,
}

impl PlacementReport {
    /// Fills totals and shares from the nodes' work and placements.
    pub(crate) fn finish(&mut self) {
        let mut total = Work::default();
        for node in &self.nodes {
            total += node.work;
        }
        self.total = total;
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let (mut taken, mut taken_work, mut reference) = (0, Work::default(), 0.0);
        for node in &mut self.nodes {
            node.flops_share = share(node.work.flops, total.flops);
            node.bytes_share = share(node.work.bytes, total.bytes);
            if let Placement::Segment(_) = node.placement {
                taken += 1;
                if node.reference {
                    reference += node.work.flops;
                    taken_work += Work { flops: 0.0, bytes: node.work.bytes };
                } else {
                    taken_work += node.work;
                }
            }
        }
        self.taken = taken;
        let all = taken == self.nodes.len() && taken > 0;
        let whole = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { f64::from(u8::from(all)) };
        self.accelerated_flops = whole(taken_work.flops, total.flops);
        self.accelerated_bytes = whole(taken_work.bytes, total.bytes);
        self.reference_flops = share(reference, total.flops);
    }

    /// Nodes that stay with the host, grouped by operator and reason.
    pub fn refusals(&self) -> BTreeMap<(String, String), Vec<&NodePlacement>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for node in &self.nodes {
            if let Placement::Host(reason) = &node.placement {
                let op = match node.domain.as_str() {
                    "" => node.op_type.clone(),
                    domain => format!("{domain}.{}", node.op_type),
                };
                groups.entry((op, reason.clone())).or_default().push(node);
            }
        }
        groups
    }
}

impl fmt::Display for PlacementReport {
    /// A table for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} of {} nodes in {} segments, {:.2}% of {:.3} GFLOP, {:.1}% of bytes",
            if self.graph.is_empty() { "graph" } else { &self.graph },
            self.taken,
            self.nodes.len(),
            self.segments.len(),
            100.0 * self.accelerated_flops,
            self.total.flops / 1e9,
            100.0 * self.accelerated_bytes,
        )?;
        for (index, segment) in self.segments.iter().enumerate() {
            writeln!(
                f,
                "  segment {index} {}: {} nodes, {} layers, {:.3} GFLOP, {} inputs, {} outputs",
                segment.name,
                segment.nodes,
                segment.layers,
                segment.work.flops / 1e9,
                segment.inputs.len(),
                segment.outputs.len()
            )?;
        }
        if self.reference_flops > 0.0 {
            writeln!(f, "  on reference kernels: {:.2}% of FLOPs", 100.0 * self.reference_flops)?;
        }
        let refusals = self.refusals();
        if !refusals.is_empty() {
            writeln!(f, "  with the host:")?;
        }
        for ((op, reason), nodes) in refusals {
            let flops: f64 = nodes.iter().map(|node| node.flops_share).sum();
            let example = nodes.first().map_or("", |node| node.name.as_str());
            writeln!(f, "    {:>5} x {op:<24} {:>6.2}%  {reason} ({example})", nodes.len(), 100.0 * flops)?;
            // The same reason can name different values: the first node's stands for all.
            if let Some(remedy) = nodes.first().and_then(|node| node.remedy.as_ref()) {
                writeln!(f, "{:43}-> {remedy}", "")?;
            }
        }
        Ok(())
    }
}
