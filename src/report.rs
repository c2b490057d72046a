//! The placement report: every node of the host's model, who runs it, why not Engraft, and what share of the work it is.
use std::{collections::BTreeMap, fmt::Write as _, io, path::Path};

use serde::{Deserialize, Serialize};

use engraft_subgraph::{Placement, PlacementReport, Remedy};

use crate::{CompiledSegment, PartitionPolicy, files};

/// Placement of one model, bodies of its control flow included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version and commit of the Engraft that decided.
    pub engraft: String,
    pub model: String,
    pub policy: PartitionPolicy,
    /// Share (0 to 1) of the model's FLOPs that run on optimized tactics. For a model without any: 1 if all of it is taken.
    pub accelerated_flops: f64,
    /// FLOPs of the whole model at representative sizes of its symbolic dims.
    pub flops: f64,
    pub segments: Vec<SegmentEntry>,
    pub nodes: Vec<NodeEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// Path of the control-flow body that holds the segment; empty for the main graph.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub graph: String,
    pub name: String,
    /// Number of host nodes inside.
    pub nodes: usize,
    /// Share of the model's FLOPs.
    pub flops_share: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Path of the control-flow body that holds the node; empty for the main graph.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub graph: String,
    pub name: String,
    pub op_type: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// The segment that took the node; `None`: it stays with the host.
    pub segment: Option<String>,
    /// Why the node stays with the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What would have to change for the node to be taken; further reasons may stand behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<Remedy>,
    /// Taken, but some of it runs on a reference tactic: its FLOPs do not count as accelerated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reference: bool,
    pub flops: f64,
    pub flops_share: f64,
    /// Bytes that the node reads and writes.
    pub bytes: f64,
    pub bytes_share: f64,
}

impl Report {
    pub fn new(model: &str, policy: PartitionPolicy) -> Self {
        Self {
            engraft: format!("{} ({})", crate::VERSION, crate::COMMIT),
            model: model.to_owned(),
            policy,
            accelerated_flops: 1.0,
            flops: 0.0,
            segments: Vec::new(),
            nodes: Vec::new(),
        }
    }

    /// Adds the decisions about a graph, the body at `path` (empty for the main graph). Call [`Report::finish`] after the
    /// last one.
    pub fn add(&mut self, path: &str, placements: &PlacementReport) {
        for node in &placements.nodes {
            let (segment, reason) = match &node.placement {
                Placement::Segment(index) => (Some(placements.segments[*index].name.clone()), None),
                Placement::Host(reason) => (None, Some(reason.clone())),
            };
            self.nodes.push(NodeEntry {
                graph: path.to_owned(),
                name: node.name.clone(),
                op_type: node.op_type.clone(),
                domain: node.domain.clone(),
                reference: segment.is_some() && node.reference,
                segment,
                reason,
                remedy: node.remedy.clone(),
                flops: node.work.flops,
                flops_share: 0.0,
                bytes: node.work.bytes,
                bytes_share: 0.0,
            });
        }
    }

    /// Drops what was said of a graph that is offered once more; what was taken of it then is still taken.
    pub fn forget(&mut self, path: &str) {
        self.nodes.retain(|n| n.graph != path || n.segment.is_some());
    }

    /// Gives a segment of the graph at `path` back to the host.
    pub fn decline(&mut self, path: &str, segment: &str, reason: &str, remedy: Remedy) {
        let theirs = |n: &&mut NodeEntry| n.graph == path && n.segment.as_deref() == Some(segment);
        for node in self.nodes.iter_mut().filter(theirs) {
            node.segment = None;
            node.reason = Some(reason.to_owned());
            node.remedy = Some(remedy.clone());
            node.reference = false;
        }
    }

    /// Computes shares and segments from the nodes.
    pub fn finish(&mut self) {
        self.flops = self.nodes.iter().map(|n| n.flops).sum();
        let bytes: f64 = self.nodes.iter().map(|n| n.bytes).sum();
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let mut order = Vec::new();
        let mut segments: BTreeMap<(String, String), SegmentEntry> = BTreeMap::new();
        let mut accelerated = 0.0;
        for node in &mut self.nodes {
            node.flops_share = share(node.flops, self.flops);
            node.bytes_share = share(node.bytes, bytes);
            let Some(name) = &node.segment else { continue };
            if !node.reference {
                accelerated += node.flops;
            }
            let key = (node.graph.clone(), name.clone());
            let segment = segments.entry(key.clone()).or_insert_with(|| {
                order.push(key);
                SegmentEntry { graph: node.graph.clone(), name: name.clone(), nodes: 0, flops_share: 0.0 }
            });
            segment.nodes += 1;
            segment.flops_share += node.flops_share;
        }
        let whole = self.nodes.iter().all(|n| n.segment.is_some());
        self.accelerated_flops =
            if self.flops > 0.0 { (accelerated / self.flops).min(1.0) } else { f64::from(u8::from(whole)) };
        self.segments = order.iter().filter_map(|key| segments.remove(key)).collect();
    }

    /// A few lines for people: shares, segments, and what keeps the rest with the host, greatest share first.
    pub fn summary(&self) -> String {
        let taken = self.nodes.iter().filter(|n| n.segment.is_some()).count();
        let mut text = format!(
            "{}: {:.2}% of the FLOPs and {taken} of {} nodes run on Engraft in {} segment{}",
            if self.model.is_empty() { "model" } else { &self.model },
            self.accelerated_flops * 100.0,
            self.nodes.len(),
            self.segments.len(),
            if self.segments.len() == 1 { "" } else { "s" },
        );
        let mut kept: BTreeMap<(&str, &str), Kept> = BTreeMap::new();
        for node in &self.nodes {
            let reason = match (&node.segment, &node.reason) {
                (None, reason) => reason.as_deref().unwrap_or("not stated"),
                (Some(_), _) if node.reference => "runs on a reference tactic",
                (Some(_), _) => continue,
            };
            let entry = kept.entry((&node.op_type, reason)).or_default();
            entry.count += 1;
            entry.share += node.flops_share;
            entry.remedy = entry.remedy.or(node.remedy.as_ref());
        }
        let mut kept: Vec<_> = kept.into_iter().collect();
        kept.sort_by(|(_, a), (_, b)| b.share.total_cmp(&a.share).then(b.count.cmp(&a.count)));
        for ((op_type, reason), Kept { count, share, remedy }) in kept.iter().take(SUMMARY_LINES) {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "\n  {count} x {op_type} ({:.2}% of the FLOPs): {reason}", share * 100.0);
            if let Some(remedy) = remedy {
                let _ = write!(text, "; {remedy}");
            }
        }
        if kept.len() > SUMMARY_LINES {
            let _ = write!(text, "\n  and {} more reasons", kept.len() - SUMMARY_LINES);
        }
        text
    }

    /// Says that a node of the graph at `path` is a segment that was compiled ahead of time.
    pub fn adopt(&mut self, path: &str, node: &str, record: &CompiledSegment) {
        let theirs = |n: &&mut NodeEntry| n.graph == path && n.name == node && n.segment.is_none();
        for entry in self.nodes.iter_mut().filter(theirs) {
            entry.segment = Some(record.segment.clone());
            (entry.reason, entry.remedy) = (None, None);
            entry.flops = record.flops;
            entry.reference = record.reference;
        }
    }

    /// Writes the report as JSON; readers see the old file or the new one, never half of one.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        files::replace(path, text.as_bytes())
    }
}

const SUMMARY_LINES: usize = 12;

/// Nodes of one type that one reason keeps with the host.
#[derive(Default)]
struct Kept<'a> {
    count: usize,
    share: f64,
    remedy: Option<&'a Remedy>,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use engraft_subgraph::{NodePlacement, SegmentSummary, cost::Work};

    use super::*;

    fn report() -> Report {
        let types = ["Conv", "Relu", "Cast", "LSTM"];
        let nodes = types.iter().enumerate().map(|(index, op_type)| NodePlacement {
            index,
            name: format!("node{index}"),
            op_type: (*op_type).to_owned(),
            domain: String::new(),
            placement: if index == 2 {
                Placement::Host("strings".to_owned())
            } else {
                Placement::Segment(index / 2)
            },
            remedy: (index == 2).then_some(Remedy::HostOnly),
            work: Work { flops: [700.0, 100.0, 100.0, 100.0][index], bytes: 1.0 },
            flops_share: 0.0,
            bytes_share: 0.0,
            reference: index == 3,
        });
        let segments = ["s0", "s1"].map(|name| SegmentSummary {
            name: name.to_owned(),
            nodes: 1,
            layers: 1,
            inputs: Vec::new(),
            outputs: Vec::new(),
            work: Work::default(),
        });
        let placements = PlacementReport {
            nodes: nodes.collect(),
            segments: segments.into(),
            ..PlacementReport::default()
        };
        let mut report = Report::new("m", PartitionPolicy::Profit);
        report.add("", &placements);
        report.finish();
        report
    }

    #[test]
    fn shares_leave_out_reference_tactics() {
        let report = report();
        assert!((report.accelerated_flops - 0.8).abs() < 1e-12);
        assert_eq!(report.segments.len(), 2);
        assert_eq!((report.segments[0].nodes, report.segments[1].nodes), (2, 1));
        assert!((report.nodes[0].flops_share - 0.7).abs() < 1e-12);
        assert!((report.nodes[0].bytes_share - 0.25).abs() < 1e-12);
    }

    #[test]
    fn declined_segments_go_back() {
        let mut report = report();
        report.decline("", "s0", "cannot be built", Remedy::Engraft);
        report.finish();
        assert_eq!(report.accelerated_flops, 0.0);
        assert_eq!(report.nodes[0].reason.as_deref(), Some("cannot be built"));
        assert_eq!(report.nodes[0].remedy, Some(Remedy::Engraft));
        assert_eq!(report.segments.len(), 1);
        let summary = report.summary();
        assert!(summary.contains("1 x Conv (70.00% of the FLOPs): cannot be built"), "{summary}");
        assert!(summary.contains("strings; nothing: only the host can run this"), "{summary}");
        assert!(summary.contains("1 x LSTM (10.00% of the FLOPs): runs on a reference tactic"), "{summary}");
    }

    #[test]
    fn a_model_without_work_is_accelerated() {
        let mut report = Report::new("", PartitionPolicy::Maximal);
        report.finish();
        assert_eq!(report.accelerated_flops, 1.0);
    }

    #[test]
    fn is_written_as_json_in_new_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/report.json");
        let report = report();
        report.write(&path).unwrap();
        let read: Report = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(read, report);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
