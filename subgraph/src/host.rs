//! The host's graph as Engraft sees it: nodes, attributes, edges, constants, and shapes with named symbolic dims.
//!
//! A bridge (or a model reader) fills a [`HostGraph`]; dialects lower its nodes; the partitioner decides over them.
//! It carries nothing of the host's own types, and nothing here interprets an operator.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::{DType, Tensor};

/// Index of a value in [`HostGraph::values`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct HostValueId(pub u32);

impl HostValueId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A graph in SSA form: each value is an input, an outer value, a constant, or the output of exactly one node.
/// `nodes` are in topological order.
#[derive(Clone, Default, Debug)]
pub struct HostGraph {
    pub name: String,
    pub nodes: Vec<HostNode>,
    pub values: Vec<HostValue>,
    pub inputs: Vec<HostValueId>,
    pub outputs: Vec<HostValueId>,
    /// Imported operator sets: domain ("" is ai.onnx) to version.
    pub opsets: BTreeMap<String, i64>,
    /// Values captured by name from an enclosing graph; empty for a model's main graph.
    pub outer: Vec<HostValueId>,
}

#[derive(Clone, Default, Debug)]
pub struct HostNode {
    pub name: String,
    pub op_type: String,
    /// "" is ai.onnx.
    pub domain: String,
    /// Version of the operator set of `domain` that the graph imports.
    pub opset: i64,
    /// An absent optional input is `None`.
    pub inputs: Vec<Option<HostValueId>>,
    pub outputs: Vec<Option<HostValueId>>,
    /// Values that the graphs in this node's attributes capture from this graph.
    pub implicit_inputs: Vec<HostValueId>,
    pub attributes: BTreeMap<String, Attribute>,
    /// A value without content that others wait for which must run after this node; a host without such edges has none.
    pub done: Option<HostValueId>,
    /// The [`HostNode::done`] of the nodes that must run before this one.
    pub after: Vec<HostValueId>,
    /// Why the node has to stay with the host, whatever it computes.
    pub pinned: Option<String>,
}

#[derive(Clone, Debug)]
pub enum Attribute {
    Int(i64),
    Float(f32),
    String(Vec<u8>),
    Tensor(Tensor),
    Graph(Box<HostGraph>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strings(Vec<Vec<u8>>),
    /// An element type; `None`: one that Engraft does not hold.
    Type(Option<DType>),
    Types(Vec<Option<DType>>),
    /// A shape; `None`: its rank is unknown.
    Shape(Option<Vec<HostDim>>),
    Graphs(Vec<HostGraph>),
    /// Something that no dialect row reads; the text says what it is.
    Other(String),
}

#[derive(Clone, Default, Debug)]
pub struct HostValue {
    pub name: String,
    /// `None`: unknown, or a type that Engraft does not hold (strings, sequences, ...).
    pub dtype: Option<DType>,
    /// `None`: the rank is unknown.
    pub shape: Option<Vec<HostDim>>,
    /// Present when the value is known before the graph runs.
    pub constant: Option<Tensor>,
    /// The host holds something else than a tensor: what a network takes for one may not cross its border.
    pub opaque: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum HostDim {
    Fixed(u64),
    /// Dims of one graph that carry the same name are equal.
    Symbol(String),
    Unknown,
}

impl HostDim {
    /// A dim as hosts spell it: a non-negative size, else a name. Exporters write "?" and "" for many different
    /// unknown dims, so these two are no names.
    pub fn new(size: i64, name: &str) -> HostDim {
        match u64::try_from(size) {
            Ok(size) => HostDim::Fixed(size),
            Err(_) if name.is_empty() || name == "?" => HostDim::Unknown,
            Err(_) => HostDim::Symbol(name.to_owned()),
        }
    }
}

impl HostGraph {
    pub fn value(&self, id: HostValueId) -> &HostValue {
        &self.values[id.index()]
    }

    pub fn add_value(&mut self, value: HostValue) -> HostValueId {
        let id = HostValueId(u32::try_from(self.values.len()).expect("a graph has fewer than 2^32 values"));
        self.values.push(value);
        id
    }

    /// For each value the node that makes it.
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.values.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for output in node.outputs.iter().flatten().chain(&node.done) {
                producers[output.index()] = Some(index);
            }
        }
        producers
    }

    /// Brings `nodes` into topological order, keeping the given order where it is one already.
    ///
    /// # Errors
    /// The indices (in the given order) of the nodes on or behind a cycle.
    pub fn sort(&mut self) -> Result<(), Vec<usize>> {
        let order = topological_order(&self.nodes, &self.producers())?;
        if order.windows(2).any(|pair| pair[0] > pair[1]) {
            let mut nodes: Vec<_> = std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
            self.nodes = order.iter().filter_map(|&index| nodes[index].take()).collect();
        }
        Ok(())
    }
}

/// Whether the operator runs its bodies itself; other operators with bodies are functions of them.
pub fn is_control_flow(domain: &str, op_type: &str) -> bool {
    domain.is_empty() && matches!(op_type, "If" | "Loop" | "Scan")
}

impl HostNode {
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.get(name)
    }

    /// Every value that the node needs: explicit inputs, then what its inner graphs capture, then what it waits for.
    pub fn uses(&self) -> impl Iterator<Item = HostValueId> + '_ {
        let inside = self.implicit_inputs.iter().copied();
        self.inputs.iter().flatten().copied().chain(inside).chain(self.after.iter().copied())
    }

    /// How a person finds the node: its name, or the name of its first output where it has none.
    pub fn label(&self, graph: &HostGraph) -> String {
        if !self.name.is_empty() {
            return self.name.clone();
        }
        match self.outputs.iter().flatten().next() {
            Some(output) => format!("{} -> {}", self.op_type, graph.value(*output).name),
            None => self.op_type.clone(),
        }
    }
}

fn topological_order(nodes: &[HostNode], producers: &[Option<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut missing = vec![0usize; nodes.len()];
    let mut users: FxHashMap<usize, Vec<usize>> = FxHashMap::default();
    for (index, node) in nodes.iter().enumerate() {
        for producer in node.uses().filter_map(|value| producers[value.index()]) {
            missing[index] += 1;
            users.entry(producer).or_default().push(index);
        }
    }
    let mut ready: std::collections::BinaryHeap<_> =
        (0..nodes.len()).filter(|&index| missing[index] == 0).map(std::cmp::Reverse).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(std::cmp::Reverse(index)) = ready.pop() {
        order.push(index);
        for &user in users.get(&index).map_or(&[][..], Vec::as_slice) {
            missing[user] -= 1;
            if missing[user] == 0 {
                ready.push(std::cmp::Reverse(user));
            }
        }
    }
    if order.len() == nodes.len() {
        Ok(order)
    } else {
        Err((0..nodes.len()).filter(|&index| missing[index] > 0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(inputs: &[u32], output: u32) -> HostNode {
        HostNode {
            op_type: format!("Op{output}"),
            inputs: inputs.iter().map(|&id| Some(HostValueId(id))).collect(),
            outputs: vec![Some(HostValueId(output))],
            ..HostNode::default()
        }
    }

    fn graph(nodes: Vec<HostNode>, values: usize) -> HostGraph {
        HostGraph { nodes, values: vec![HostValue::default(); values], ..HostGraph::default() }
    }

    #[test]
    fn sorts_and_keeps_order_where_it_can() {
        let mut graph = graph(vec![node(&[2], 3), node(&[0], 1), node(&[1, 1], 2), node(&[0], 4)], 5);
        graph.sort().unwrap();
        let order: Vec<_> = graph.nodes.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(order, ["Op1", "Op2", "Op3", "Op4"]);
    }

    #[test]
    fn names_the_nodes_of_a_cycle() {
        let mut graph = graph(vec![node(&[0], 1), node(&[3], 2), node(&[2], 3)], 4);
        assert_eq!(graph.sort(), Err(vec![1, 2]));
    }

    #[test]
    fn question_marks_are_no_names() {
        assert_eq!(HostDim::new(-1, "?"), HostDim::Unknown);
        assert_eq!(HostDim::new(-1, "batch"), HostDim::Symbol("batch".into()));
        assert_eq!(HostDim::new(0, ""), HostDim::Fixed(0));
    }
}
