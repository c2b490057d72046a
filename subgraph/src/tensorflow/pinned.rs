//! Nodes that have to stay with the host, whatever they compute.
//!
//! In TensorFlow's lowered control flow (`Switch`, `Merge`, `Enter`, `Exit`) a node runs in the frame of its inputs, any number
//! of times or not at all: one node cannot stand for parts of two frames.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use super::proto::{Attr, NodeDef};
use super::read::tensor_name;

/// Deeper nesting than this is not followed: all of it is pinned by then.
const MAX_DEPTH: u32 = 32;

/// Why each node is pinned, by its index.
pub(super) fn pinned(nodes: &[&NodeDef]) -> Vec<Option<String>> {
    let mut reasons: Vec<Option<String>> = vec![None; nodes.len()];
    let names: FxHashMap<&str, usize> =
        nodes.iter().enumerate().map(|(index, node)| (&node.name[..], index)).collect();
    for node in frames(nodes, &names) {
        reasons[node] = Some("it belongs to lowered control flow".to_owned());
    }
    for node in nodes {
        for target in colocated(node).filter(|target| *target != node.name) {
            if let Some(&target) = names.get(target) {
                reasons[target] = Some(format!("'{}' is colocated with it", node.name));
            }
        }
    }
    for (index, node) in nodes.iter().enumerate() {
        if ["GPU", "TPU"].iter().any(|device| node.device.to_ascii_uppercase().contains(device)) {
            reasons[index] = Some(format!("it is placed on {}", node.device));
        }
    }
    reasons
}

/// Names in the attribute `_class`, as in `loc:@name`.
pub(super) fn colocated(node: &NodeDef) -> impl Iterator<Item = &str> {
    let list = match node.attr.get("_class").and_then(|attr| attr.value.as_ref()) {
        Some(Attr::List(list)) => &list.s[..],
        _ => &[],
    };
    list.iter().filter_map(|text| std::str::from_utf8(text).ok()?.strip_prefix("loc:@"))
}

fn is(node: &NodeDef, op: &str) -> bool {
    node.op == op || node.op.strip_prefix("Ref") == Some(op)
}

/// The value that comes round in a loop.
pub(super) fn is_back_edge(from: &NodeDef, to: &NodeDef) -> bool {
    is(from, "NextIteration") && is(to, "Merge")
}

/// Nodes inside loops and the branches of conditions.
fn frames(nodes: &[&NodeDef], names: &FxHashMap<&str, usize>) -> FxHashSet<usize> {
    let starts: Vec<usize> =
        (0..nodes.len()).filter(|&index| is(nodes[index], "Enter") || is(nodes[index], "Switch")).collect();
    if starts.is_empty() {
        return FxHashSet::default();
    }
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for input in &node.input {
            if let Some(&from) = names.get(tensor_name(input).0) {
                users[from].push(index);
            }
        }
    }
    let mut inside: FxHashSet<usize> = starts.iter().copied().collect();
    // From each start on: the loops, and the conditions, that a node is in, counted from the start's own.
    let mut seen: FxHashSet<(usize, u32, u32)> = FxHashSet::default();
    let mut open: VecDeque<(usize, u32, u32)> = VecDeque::new();
    for start in starts {
        open.push_back(if is(nodes[start], "Enter") { (start, 1, 0) } else { (start, 0, 1) });
    }
    while let Some((node, loops, conditions)) = open.pop_front() {
        for &user in &users[node] {
            let state = match nodes[user] {
                next if is(next, "Enter") => (loops + 1, conditions),
                next if is(next, "Exit") => match loops {
                    0 => continue,
                    loops => (loops - 1, conditions),
                },
                next if is(next, "Switch") && loops == 0 => (loops, conditions + 1),
                next if is(next, "Merge") && loops == 0 => (loops, conditions.saturating_sub(1)),
                _ => (loops, conditions),
            };
            inside.insert(user);
            let (loops, conditions) = (state.0.min(MAX_DEPTH), state.1.min(MAX_DEPTH));
            if (loops, conditions) != (0, 0) && seen.insert((user, loops, conditions)) {
                open.push_back((user, loops, conditions));
            }
        }
    }
    inside
}
