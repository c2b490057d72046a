//! What is supported, found by asking: for each operator of the dialects, nodes with operands of each type are lowered and
//! the result is shown to the engine.

use std::collections::BTreeMap;

use engraft_network::Element;

use crate::lower::{Lowering, Reject, scalar_tensor};
use crate::{Attribute, Capability, DType, HostDim, HostGraph, HostNode, HostValue, Tensor, dialect};

/// An operator that the dialects spell.
#[derive(Clone, Debug)]
pub struct Operator {
    pub domain: &'static str,
    pub op_type: &'static str,
    /// Operator sets whose spellings differ, the oldest first; every later one is supported.
    pub since: Vec<i64>,
    /// Types of its data operands with which some node of it can be run; none: it has no such operands, or no example
    /// suits it.
    pub types: Vec<Support>,
    /// Whether a node without data operands can be run.
    pub generates: bool,
    /// Why no node of it is ever taken.
    pub refused: Option<Reject>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Support {
    pub dtype: DType,
    /// Only reference kernels run a part of it: correct, not fast.
    pub reference: bool,
}

/// Operands to try, separated by spaces: `t:2x4` is data of the type in question and this shape, `i64:3` of a fixed type;
/// `i64=1,2` is a constant vector, `t=1` a constant scalar; `-` is absent.
const EXAMPLES: &[&str] = &[
    "t:4x4",
    "t:4x4 t:4x4",
    "t:2x4x6x6",
    "t:2x4x6x6 t:4x4x1x1",
    "t:2x4x6x6 t:4 t:4",
    "t:4x4 t:4x4 t:4x4",
    "t:4x4 t:4",
    "t:4x4 t:4 t:4",
    "bool:4x4 t:4x4 t:4x4",
    "t:4x4 i64=1",
    "t:4x4 i64=2,2",
    "t:4x4 i64=4,4",
    "t:4x4 i64=0",
    "t:4x4 i64=0,0,0,0",
    "t:4x4 i64=1,1 i64=2,2",
    "t:1x4 i64=0",
    "t:4x4 i64:4x4",
    "t:4x4 i64:4x4 t:4x4",
    "t:4x4 i64:4x1 t:4x4",
    "t:4x4 bool:4",
    "i64:4x4 i64=3 t:2",
    "t:4x4 f32: t:",
    "t:4x4 f32:",
    "f32:4x4 f32: t:",
    "t:2x4x6x6 t:4 t:4 t:4 t:4",
    "t:2x4x6x6 - f32=1,1,2,2",
    "t:2x4x6x6 f32=1,1,2,2",
    "t:2x4x6x6 t:8 t:4 t:4",
    "t:3x2x4 t:1x16x4 t:1x16x4",
    "t:3x2x4 t:1x12x4 t:1x12x4",
    "t:3x2x4 t:1x4x4 t:1x4x4",
    "t:2x2x4x4 t:2x2x4x4 t:2x2x4x4",
    "t:2x4x8 t:2x4x8 t:2x4x8",
    "t:2x4x8 t:2x4x8 t:8",
    "t:2x4x8 t:2x4x8 t:8 t:8",
    "t:2x4x8 t:8 t:2x4x8",
    "t:2x4x8 t:8 t:8",
    "t:2x4x8 t:8",
    "t:2x2x4x4 t:4x2 t:4x2 i64:2x4",
    "t:2x2x4x4 t:2x4x2 t:2x4x2",
    "t:2x2x4x4 i64:2x4 t:4x2 t:4x2",
    "t:2x6x6x4 t:4 t:4",
    "t:2x6x6x4 t:4 t:4 t:2x6x6x4",
    "t:2x2x4x4 i64:2x4",
    "i32:2x4 - t:8x4 t:8x4 - t:4 t:4",
    "i32:2x4 i32:2x4 t:8x4 t:8x4 t:2x4 t:4 t:4",
    "t:2x4x8 t:8x24 t:24",
    "t:2x4x24 - - t:24",
    "t:2x4x8 - - i32:2 i32:",
    "t:2x4x8 t:2x4x8 t:2x4x8 - - i32:2 i32:",
    "t:2x4x6x6 t:2x4x4x4x2",
    "t:2x4x6x6 f32:2x4x4x2",
    "t:2x4x6x6 t:2x4x4x2",
    "t:2x2x3 i64=2,4,4,4",
    "t:2x4x6x6 t:3x4 i64:3",
    "t:2x4x6x6 t:3x5",
    "t:2x4x6x6 t:4x4x1x1 t:2x2x6x6",
    "t:2x4x6x6 i64:2x4x6x6",
    "t:1x2x6x4 t:1x2x4 t:1x2x4",
    "t:4x3 i64:3",
    "t:2x4x2 i64=4,4 i64=2,2",
    "t:2x16x4 i64=8,8 i64=2,2",
    "t:1x6x4 t:1x2x6 i64=2 f32=0 f32=0",
    "t:2x16x1 i64=4 t:4 i64=4",
    "t:2x16x1 i64=4 - i64=4",
    "t:2x4x6x6 i64=3,3",
    "u8:4x4 f32: u8: t:4x4 f32: t: f32: t:",
    "t:4x4 f32: t: t:4x4 f32: t: f32: t:",
    "t:2x4x6x6 f32: t: t:4x4x1x1 f32: t: f32: t:",
    "t:1x6x4 t:1x2x6",
];

/// The same for operators of TensorFlow: channels last, and axes and shapes as operands.
const TENSORFLOW: &[&str] = &[
    "t:4x4",
    "t:4x4 t:4x4",
    "bool:4x4 t:4x4 t:4x4",
    "t:2x6x6x4",
    "t:2x6x6x4 t:3x3x4x4",
    "t:2x6x6x4 t:3x3x4x4 t:4",
    "t:2x6x6x6x4 t:3x3x3x4x4",
    "t:2x6x6x4 t:4 t:4 t:4 t:4",
    "t:2x6x6x4 f32:4 f32:4 f32:4 f32:4",
    "t:4x4 t:4",
    "t:4x4 t: t:",
    "t:2x4x8 t:2x8x4",
    "t:4x4 i64=1",
    "t:4x4 i64=2",
    "t:4x4 i64=2,8",
    "t:4x4 i64=1,0",
    "t:4x4 i64=1,1,0,0",
    "t:4x4 i64=1,1 i64=2,2",
    "t:4x4 i64=1,1 i64=3,3 i64=1,1",
    "t:4x4 i64=1 i64=1",
    "t:4x4 i64=2,2 i64=1",
    "i64=1 t:4x4",
    "t:4x4 t:4x4 i64=1",
    "t:4x4 i64:2",
    "t:4x4 i64:2 i64=0",
    "t:4x4 i64:2x1",
    "t:4x4 i64:2x1 t:2x4",
    "i64:2x1 t:2x4 i64=4,4",
    "t:4x4 i64:4",
    "i64:4 i64=3 t: t:",
    "t:2x6x6x4 i64=12,12",
    "t:4x6x6x4 i64=2,2 i64=0,0,0,0",
    "i64=2,6,6,4 t:3x3x4x4 t:2x6x6x4",
    "t:2x6x6x4 i64=1,2,2,1 i64=1,2,2,1",
    "t: t: i64=4",
    "i64=4,4 t:",
];

/// The same for operators that make their data of nothing, and of constants.
const GENERATORS: &[&str] = &["", "i64=2,2", "i64=8", "f32:4x4"];
const CONSTANTS: &[&str] = &["t=1 t=4 t=1", "i64=8 i64=8 i64=16 t=0 t=4"];

/// What has to be seen in the network of an example.
#[derive(Clone, Copy, PartialEq)]
enum Proof {
    /// Nodes that read every operand.
    Reads,
    /// No node: a result that is the operand itself, or arithmetic on its shape.
    Folds,
    Anything,
}

/// Attributes that operators want; a node may have more than its operator reads.
fn attributes() -> Vec<BTreeMap<String, Attribute>> {
    let text = |text: &str| Attribute::String(text.as_bytes().to_vec());
    let named = |list: &[(&str, Attribute)]| -> BTreeMap<String, Attribute> {
        list.iter().map(|(name, attribute)| ((*name).to_owned(), attribute.clone())).collect()
    };
    let common = named(&[
        ("axis", Attribute::Int(1)),
        ("to", Attribute::Int(1)),
        ("size", Attribute::Int(3)),
        ("blocksize", Attribute::Int(2)),
        ("num_groups", Attribute::Int(2)),
        ("groups", Attribute::Int(2)),
        ("num_heads", Attribute::Int(2)),
        ("q_num_heads", Attribute::Int(2)),
        ("kv_num_heads", Attribute::Int(2)),
        ("hidden_size", Attribute::Int(4)),
        ("kernel_shape", Attribute::Ints(vec![1, 1])),
        ("pooled_shape", Attribute::Ints(vec![2, 2])),
        ("direction", text("RIGHT")),
        ("equation", text("ij,jk->ik")),
        ("activation", text("Relu")),
        ("value_float", Attribute::Float(1.0)),
    ]);
    let mut recurrent = common.clone();
    recurrent.insert("direction".to_owned(), text("forward"));
    let mut older = common.clone();
    for (name, list) in [("axes", vec![0]), ("starts", vec![0]), ("ends", vec![1])] {
        older.insert(name.to_owned(), Attribute::Ints(list));
    }
    older.insert("scales".to_owned(), Attribute::Floats(vec![1.0, 1.0, 2.0, 2.0]));
    let mut normalized = recurrent.clone();
    normalized.insert("activation".to_owned(), Attribute::Int(1));
    normalized.insert("channels_last".to_owned(), Attribute::Int(1));
    vec![common, BTreeMap::new(), recurrent, older, normalized]
}

/// The same for operators of TensorFlow.
fn tensorflow_attributes() -> Vec<BTreeMap<String, Attribute>> {
    let text = |text: &str| Attribute::String(text.as_bytes().to_vec());
    let with = |axes: usize| -> BTreeMap<String, Attribute> {
        let mut window = vec![2; axes];
        (window[0], window[axes - 1]) = (1, 1);
        [
            ("strides", Attribute::Ints(vec![1; axes])),
            ("ksize", Attribute::Ints(window)),
            ("padding", text("SAME")),
            ("is_training", Attribute::Int(0)),
            ("block_size", Attribute::Int(2)),
            ("equation", text("ij,jk->ik")),
            ("squeeze_dims", Attribute::Ints(Vec::new())),
            ("DstT", Attribute::Type(Some(DType::F32))),
            ("type", Attribute::Type(Some(DType::I32))),
            ("seq_dim", Attribute::Int(1)),
            ("boundaries", Attribute::Floats(vec![0.0, 1.0])),
        ]
        .into_iter()
        .map(|(name, attribute)| (name.to_owned(), attribute))
        .collect()
    };
    vec![with(4), with(5)]
}

/// All operators by domain and name, and what `capability` runs of them.
pub fn survey(capability: &dyn Capability) -> Vec<Operator> {
    let mut operators: BTreeMap<(&str, &str), Vec<i64>> = BTreeMap::new();
    for row in dialect::rows() {
        operators.entry((row.domain, row.op_type)).or_default().push(row.since);
    }
    let (onnx, tensorflow) = (attributes(), tensorflow_attributes());
    let survey = operators.into_iter().map(|((domain, op_type), mut since)| {
        since.sort_unstable();
        since.dedup();
        let (attributes, examples) = match domain {
            crate::tensorflow::DOMAIN => (&tensorflow, TENSORFLOW),
            _ => (&onnx, EXAMPLES),
        };
        let best = |examples: &[&str], proof, dtype| {
            let mut reference = None;
            for &opset in since.iter().rev() {
                for attributes in attributes {
                    for example in examples {
                        let graph = graph(domain, op_type, opset, attributes, example, dtype);
                        match graph.and_then(|graph| accept(&graph, proof, capability)) {
                            Some(false) => return Some(Support { dtype, reference: false }),
                            Some(true) => reference = Some(Support { dtype, reference: true }),
                            None => {}
                        }
                    }
                }
            }
            reference
        };
        let all = |examples, proof| -> Vec<Support> {
            DType::ALL.into_iter().filter_map(|dtype| best(examples, proof, dtype)).collect()
        };
        let mut types = all(examples, Proof::Reads);
        if types.is_empty() {
            types = all(examples, Proof::Folds);
        }
        let generates = types.is_empty() && best(GENERATORS, Proof::Anything, DType::F32).is_some();
        if types.is_empty() && !generates {
            types = all(CONSTANTS, Proof::Anything);
        }
        let taken = generates || !types.is_empty();
        let refused = if taken { None } else { refused(domain, op_type, *since.last().unwrap_or(&0)) };
        Operator { domain, op_type, since, types, generates, refused }
    });
    survey.collect()
}

/// Whether some of the graph's node runs on reference kernels only; `None`: the node does not run at all, or there is no
/// proof that it uses its operands.
fn accept(graph: &HostGraph, proof: Proof, capability: &dyn Capability) -> Option<bool> {
    let mut lowering = Lowering::new(graph, "survey");
    for &input in &graph.inputs {
        lowering.input_from_host(input).ok()?;
    }
    let nodes = lowering.lower(0).ok()?;
    let network = lowering.network();
    let read =
        |input| nodes.iter().any(|&id| network.node(id).is_some_and(|node| node.inputs.contains(input)));
    let proven = match proof {
        Proof::Reads => !nodes.is_empty() && network.inputs().iter().all(read),
        Proof::Folds => nodes.is_empty() && graph.inputs.len() == 1,
        Proof::Anything => true,
    };
    if !proven {
        return None;
    }
    let mut reference = false;
    for &node in &nodes {
        reference |= capability.accept(network, node).ok()?.reference;
    }
    Some(reference)
}

/// A refusal that does not depend on the operands.
fn refused(domain: &str, op_type: &str, opset: i64) -> Option<Reject> {
    let mut reasons = ["", "t:4x4 t:4x4 t:4x4 t:4x4 t:4x4 t:4x4 t:4x4"].into_iter().map(|example| {
        let graph = graph(domain, op_type, opset, &BTreeMap::new(), example, DType::F32)?;
        let mut lowering = Lowering::new(&graph, "survey");
        for &input in &graph.inputs {
            lowering.input_from_host(input).ok()?;
        }
        lowering.lower(0).err()
    });
    let reason = reasons.next()??;
    reasons.all(|other| other.as_ref() == Some(&reason)).then_some(reason)
}

fn vector<T: Element>(numbers: &[u64], convert: impl Fn(u64) -> T) -> Option<Tensor> {
    let elements: Vec<T> = numbers.iter().map(|&number| convert(number)).collect();
    Tensor::from_slice(&[elements.len()], &elements).ok()
}

/// A graph of one node; `None` where a constant cannot be of the type.
fn graph(
    domain: &str,
    op_type: &str,
    opset: i64,
    attributes: &BTreeMap<String, Attribute>,
    example: &str,
    dtype: DType,
) -> Option<HostGraph> {
    let mut graph = HostGraph::default();
    let mut node = HostNode {
        op_type: op_type.to_owned(),
        domain: domain.to_owned(),
        opset,
        attributes: attributes.clone(),
        ..HostNode::default()
    };
    for (index, word) in example.split_whitespace().enumerate() {
        if word == "-" {
            node.inputs.push(None);
            continue;
        }
        let (kind, rest) = word.split_at(word.find([':', '='])?);
        let dtype = if kind == "t" { dtype } else { DType::from_name(kind)? };
        let mut value = HostValue { name: format!("x{index}"), dtype: Some(dtype), ..HostValue::default() };
        let numbers: Vec<u64> =
            rest[1..].split([',', 'x']).filter_map(|number| number.parse().ok()).collect();
        let constant = rest.starts_with('=');
        if constant && kind == "t" {
            value.constant = Some(scalar_tensor(dtype, *numbers.first()? as f64).ok()?);
        } else if constant {
            value.constant = Some(match dtype {
                DType::I64 => vector(&numbers, |number| number as i64)?,
                DType::F32 => vector(&numbers, |number| number as f32)?,
                _ => return None,
            });
        }
        value.shape = Some(match &value.constant {
            Some(tensor) => tensor.shape().iter().map(|&size| HostDim::Fixed(size as u64)).collect(),
            None => numbers.into_iter().map(HostDim::Fixed).collect(),
        });
        let value = graph.add_value(value);
        if !constant {
            graph.inputs.push(value);
        }
        node.inputs.push(Some(value));
    }
    let output = graph.add_value(HostValue { name: "y".to_owned(), ..HostValue::default() });
    node.outputs.push(Some(output));
    graph.nodes.push(node);
    Some(graph)
}
