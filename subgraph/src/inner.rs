//! The work of graphs inside nodes: loops and branches of hosts that run them as part of the node.

use crate::cost::work;
use crate::lower::Lowering;
use crate::{Attribute, HostDim, HostGraph, HostNode};

/// FLOPs of one pass through the largest of the graphs in a node's attributes, a loop's turns not being known. The last operands
/// of the node, as `lowering` has them at these sizes of symbols, are what the graphs are given.
pub(crate) fn flops(lowering: &Lowering, node: &HostNode, sizes: &[i64]) -> f64 {
    let graphs = node.attributes.values().filter_map(|attribute| match attribute {
        Attribute::Graph(graph) => Some(graph),
        _ => None,
    });
    graphs.map(|graph| one_pass(lowering, node, graph, sizes)).fold(0.0, f64::max)
}

fn one_pass(outer: &Lowering, node: &HostNode, graph: &HostGraph, sizes: &[i64]) -> f64 {
    let Some(first) = node.inputs.len().checked_sub(graph.inputs.len()) else { return 0.0 };
    let mut graph = graph.clone();
    for (input, operand) in graph.inputs.clone().into_iter().zip(&node.inputs[first..]) {
        if let Some(ty) = operand.and_then(|operand| outer.ty(operand)) {
            let value = &mut graph.values[input.index()];
            value.dtype = Some(ty.dtype);
            let size = |dim: &engraft_network::Dim| match u64::try_from(dim.eval(sizes)) {
                Ok(size) => HostDim::Fixed(size),
                Err(_) => HostDim::Unknown,
            };
            value.shape = Some(ty.shape.iter().map(size).collect());
        }
    }
    let mut lowering = Lowering::new(&graph, &graph.name);
    for &input in &graph.inputs {
        // An input of unknown type only keeps its users from being counted.
        let _ = lowering.input_from_host(input);
    }
    let (mut made, mut refused) = (Vec::new(), Vec::new());
    for index in 0..graph.nodes.len() {
        match lowering.lower(index) {
            Ok(nodes) => made.extend(nodes),
            Err(_) => {
                lowering.leave_to_host(index);
                refused.push(index);
            }
        }
    }
    let sizes = lowering.network().representative_env();
    let own: f64 = made.into_iter().map(|id| work(lowering.network(), id, &sizes).flops).sum();
    let inside = refused.into_iter().map(|index| flops(&lowering, &graph.nodes[index], &sizes));
    own + inside.sum::<f64>()
}
