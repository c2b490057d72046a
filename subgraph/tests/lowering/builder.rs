//! Small graphs by hand, and a host that runs what the partitioner leaves to it.

use std::collections::{BTreeMap, HashMap};

use engraft_subgraph::{
    AcceptAll, Attribute, Capability, DType, HostDim, HostGraph, HostNode, HostValue, HostValueId, Partition,
    PartitionOptions, PartitionPolicy, Placement, Tensor, partition,
};

pub struct Builder {
    pub graph: HostGraph,
    opset: i64,
}

pub fn sym(name: &str) -> HostDim {
    HostDim::new(-1, name)
}

pub fn fix(size: u64) -> HostDim {
    HostDim::Fixed(size)
}

pub fn floats(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_slice(shape, data).unwrap()
}

pub fn ints(shape: &[usize], data: &[i64]) -> Tensor {
    Tensor::from_slice(shape, data).unwrap()
}

/// `0, 1, 2, ...`, a little apart from whole numbers.
pub fn ramp(shape: &[usize]) -> Tensor {
    let count: usize = shape.iter().product();
    floats(shape, &(0..count).map(|index| index as f32 * 0.75 - 2.0).collect::<Vec<_>>())
}

impl Builder {
    pub fn new(opset: i64) -> Builder {
        let graph = HostGraph {
            name: "test".into(),
            opsets: BTreeMap::from([(String::new(), opset)]),
            ..HostGraph::default()
        };
        Builder { graph, opset }
    }

    pub fn input(&mut self, name: &str, dtype: DType, shape: &[HostDim]) -> HostValueId {
        let value = HostValue {
            name: name.into(),
            dtype: Some(dtype),
            shape: Some(shape.to_vec()),
            ..HostValue::default()
        };
        let id = self.graph.add_value(value);
        self.graph.inputs.push(id);
        id
    }

    pub fn constant(&mut self, tensor: Tensor) -> HostValueId {
        let name = format!("c{}", self.graph.values.len());
        let shape = tensor.shape().iter().map(|&size| HostDim::Fixed(size as u64)).collect();
        self.graph.add_value(HostValue {
            name,
            dtype: Some(tensor.dtype()),
            shape: Some(shape),
            constant: Some(tensor),
            ..HostValue::default()
        })
    }

    pub fn ints(&mut self, data: &[i64]) -> HostValueId {
        self.constant(ints(&[data.len()], data))
    }

    /// A node of `outputs` outputs; `None` inputs are absent.
    pub fn node_of(
        &mut self,
        op_type: &str,
        inputs: &[Option<HostValueId>],
        attributes: &[(&str, Attribute)],
        outputs: usize,
    ) -> Vec<HostValueId> {
        let made: Vec<HostValueId> = (0..outputs)
            .map(|_| {
                let name = format!("v{}", self.graph.values.len());
                self.graph.add_value(HostValue { name, ..HostValue::default() })
            })
            .collect();
        let (domain, op_type) = op_type.split_once(':').unwrap_or(("", op_type));
        self.graph.nodes.push(HostNode {
            name: format!("{op_type}_{}", self.graph.nodes.len()),
            op_type: op_type.into(),
            domain: domain.into(),
            opset: if domain.is_empty() { self.opset } else { 1 },
            inputs: inputs.to_vec(),
            outputs: made.iter().copied().map(Some).collect(),
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            ..HostNode::default()
        });
        made
    }

    pub fn node(
        &mut self,
        op_type: &str,
        inputs: &[HostValueId],
        attributes: &[(&str, Attribute)],
    ) -> HostValueId {
        let inputs: Vec<_> = inputs.iter().copied().map(Some).collect();
        self.node_of(op_type, &inputs, attributes, 1)[0]
    }

    pub fn output(&mut self, value: HostValueId) {
        self.graph.outputs.push(value);
    }

    /// States what the host knows of a value.
    pub fn describe(&mut self, value: HostValueId, dtype: DType, shape: &[HostDim]) {
        let value = &mut self.graph.values[value.index()];
        (value.dtype, value.shape) = (Some(dtype), Some(shape.to_vec()));
    }
}

pub fn maximal() -> PartitionOptions {
    PartitionOptions { policy: PartitionPolicy::Maximal, ..PartitionOptions::default() }
}

/// Runs a graph that must be taken whole, in one segment, by the reference evaluation.
pub fn run(builder: &Builder, inputs: &[Tensor]) -> Vec<Tensor> {
    let parts = partition(&builder.graph, &AcceptAll, &maximal());
    assert_eq!(parts.segments.len(), 1, "{}", parts.report);
    assert_eq!(parts.report.taken, builder.graph.nodes.len(), "{}", parts.report);
    execute(&builder.graph, &parts, inputs)
}

/// Runs a partitioned graph: segments by the reference evaluation, the rest by a host that knows `test:Host` (the
/// identity) and everything that the dialect knows.
///
/// Panics where segments and nodes cannot be brought into an order, or something is missing.
pub fn execute(graph: &HostGraph, parts: &Partition, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut values: HashMap<HostValueId, Tensor> =
        graph.inputs.iter().copied().zip(inputs.iter().cloned()).collect();
    for (index, value) in graph.values.iter().enumerate() {
        if let Some(constant) = &value.constant {
            values.insert(HostValueId(index as u32), constant.clone());
        }
    }
    let mut segments: Vec<usize> = (0..parts.segments.len()).collect();
    let mut nodes: Vec<usize> = (0..graph.nodes.len())
        .filter(|&node| matches!(parts.report.nodes[node].placement, Placement::Host(_)))
        .collect();
    while !segments.is_empty() || !nodes.is_empty() {
        let before = segments.len() + nodes.len();
        nodes.retain(|&node| {
            let node = &graph.nodes[node];
            if !node.uses().all(|value| values.contains_key(&value)) {
                return true;
            }
            for (output, tensor) in node.outputs.iter().zip(host(graph, node, &values)) {
                values.insert(output.unwrap(), tensor);
            }
            false
        });
        segments.retain(|&segment| {
            let segment = &parts.segments[segment];
            // A host hands a fused node all values that come from outside, whether the network reads them or not.
            let made: Vec<HostValueId> = segment
                .nodes
                .iter()
                .flat_map(|&node| graph.nodes[node].outputs.iter().flatten().copied())
                .collect();
            let mut border = segment.nodes.iter().flat_map(|&node| graph.nodes[node].uses());
            if !border.all(|value| made.contains(&value) || values.contains_key(&value)) {
                return true;
            }
            let arguments: Vec<Tensor> = segment.inputs.iter().map(|value| values[value].clone()).collect();
            let results = segment.network.eval(&arguments).unwrap_or_else(|error| panic!("{error}"));
            values.extend(segment.outputs.iter().copied().zip(results));
            false
        });
        assert!(segments.len() + nodes.len() < before, "segments and nodes wait for each other");
    }
    graph.outputs.iter().map(|output| values[output].clone()).collect()
}

fn host(graph: &HostGraph, node: &HostNode, values: &HashMap<HostValueId, Tensor>) -> Vec<Tensor> {
    if node.op_type == "Host" {
        return vec![values[&node.inputs[0].unwrap()].clone()];
    }
    let mut alone =
        HostGraph { values: graph.values.clone(), opsets: graph.opsets.clone(), ..HostGraph::default() };
    for value in node.uses() {
        alone.values[value.index()].constant = Some(values[&value].clone());
    }
    alone.nodes = vec![node.clone()];
    alone.outputs = node.outputs.iter().flatten().copied().collect();
    let parts = partition(&alone, &AcceptAll, &maximal());
    let [segment] = parts.segments.as_slice() else { panic!("the host cannot run it: {}", parts.report) };
    segment.network.eval(&[]).unwrap_or_else(|error| panic!("{error}"))
}

/// Refuses what the closure refuses.
pub struct Refuse<F>(pub F);

impl<F: Fn(&engraft_network::Network, engraft_network::NodeId) -> bool> Capability for Refuse<F> {
    fn accept(
        &self,
        network: &engraft_network::Network,
        node: engraft_network::NodeId,
    ) -> Result<engraft_subgraph::Cost, engraft_subgraph::Reject> {
        match (self.0)(network, node) {
            true => Err(engraft_subgraph::Reject::new("refused by the test")),
            false => Ok(engraft_subgraph::Cost::default()),
        }
    }
}

pub fn close(got: &Tensor, want: &[f32]) {
    assert_eq!(got.count(), want.len(), "{got:?}");
    for (index, &want) in want.iter().enumerate() {
        let value = got.get_f64(index) as f32;
        assert!((value - want).abs() <= 1e-5 * want.abs().max(1.0), "element {index} is {value}, not {want}");
    }
}
