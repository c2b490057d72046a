//! Damaged and hostile models: reading and partitioning end in an error or a refusal, never in a panic.

use proptest::prelude::*;
use prost::Message;

use super::proto::{
    AttributeProto, DimensionProto, DimensionValue, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use super::read_model_bytes;
use crate::{AcceptAll, PartitionOptions, PartitionPolicy, dialect, partition};

fn info(name: &str, element_type: i32, dims: &[DimensionValue]) -> ValueInfoProto {
    let dim = dims
        .iter()
        .map(|dim| DimensionProto { value: Some(dim.clone()), ..DimensionProto::default() })
        .collect();
    let tensor_type =
        TensorTypeProto { elem_type: Some(element_type), shape: Some(TensorShapeProto { dim }) };
    let kind = TypeProto { tensor_type: Some(tensor_type), ..TypeProto::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..ValueInfoProto::default() }
}

fn model(graph: GraphProto, opset: i64) -> Vec<u8> {
    let proto = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![
            OperatorSetIdProto { domain: None, version: Some(opset) },
            OperatorSetIdProto { domain: Some("com.microsoft".into()), version: Some(1) },
        ],
        ..ModelProto::default()
    };
    proto.encode_to_vec()
}

fn survive(bytes: Vec<u8>) {
    if let Ok(model) = read_model_bytes(bytes) {
        let options = PartitionOptions { policy: PartitionPolicy::Maximal, ..PartitionOptions::default() };
        let parts = partition(&model.graph, &AcceptAll, &options);
        assert_eq!(parts.report.nodes.len(), model.graph.nodes.len());
        assert!(!parts.report.to_string().is_empty());
    }
}

/// Dims that arithmetic may trip over.
fn dim() -> impl Strategy<Value = DimensionValue> {
    prop_oneof![
        4 => (0i64..5).prop_map(DimensionValue::DimValue),
        2 => prop_oneof![Just("n"), Just("m"), Just("?")].prop_map(|name| DimensionValue::DimParam(name.into())),
        1 => prop_oneof![Just(i64::MAX), Just(1 << 40), Just(-1)].prop_map(DimensionValue::DimValue),
    ]
}

fn integer() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -3i64..6,
        1 => prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(1 << 40), Just(i64::from(i32::MAX)), Just(-(1 << 31))],
    ]
}

fn attribute() -> impl Strategy<Value = AttributeProto> {
    let names = [
        "axis",
        "axes",
        "perm",
        "keepdims",
        "to",
        "mode",
        "pads",
        "strides",
        "dilations",
        "group",
        "kernel_shape",
        "auto_pad",
        "split",
        "num_outputs",
        "starts",
        "ends",
        "scales",
        "blocksize",
        "output_shape",
        "hidden_size",
        "direction",
        "layout",
        "equation",
        "alpha",
        "beta",
        "epsilon",
        "size",
        "p",
        "k",
        "upper",
        "batch_dims",
        "num_groups",
        "min",
        "max",
        "ceil_mode",
        "block_size",
        "allowzero",
        "start",
        "end",
        "coordinate_transformation_mode",
        "transA",
        "num_heads",
        "q_num_heads",
        "kv_num_heads",
        "output_padding",
        "is_causal",
        "approximate",
    ];
    let texts = [
        "SAME_UPPER",
        "constant",
        "reflect",
        "ij,jk->ik",
        "...i->i",
        "bidirectional",
        "linear",
        "tf_crop_and_resize",
        "CRD",
    ];
    let value = prop_oneof![
        integer().prop_map(|i| AttributeProto { i: Some(i), ..AttributeProto::default() }),
        proptest::collection::vec(integer(), 0..5).prop_map(|ints| AttributeProto {
            ints,
            r#type: Some(7),
            ..AttributeProto::default()
        }),
        any::<f32>().prop_map(|f| AttributeProto { f: Some(f), ..AttributeProto::default() }),
        proptest::collection::vec(any::<f32>(), 0..5).prop_map(|floats| AttributeProto {
            floats,
            r#type: Some(6),
            ..AttributeProto::default()
        }),
        prop::sample::select(texts.to_vec()).prop_map(|text| AttributeProto {
            s: Some(text.as_bytes().to_vec()),
            ..AttributeProto::default()
        }),
    ];
    (prop::sample::select(names.to_vec()), value)
        .prop_map(|(name, value)| AttributeProto { name: Some(name.into()), ..value })
}

/// Any operator of the dialect over any operands with any attributes.
fn any_graph() -> impl Strategy<Value = (GraphProto, i64)> {
    let ops: Vec<(&str, &str)> = dialect::rows().map(|row| (row.domain, row.op_type)).collect();
    let node = (
        prop::sample::select(ops),
        proptest::collection::vec(0usize..24, 0..6),
        1usize..4,
        proptest::collection::vec(attribute(), 0..4),
    );
    let shape = || proptest::collection::vec(dim(), 0..5);
    let element_type = || prop::sample::select(vec![1, 1, 1, 7, 6, 9, 10, 2]);
    let inputs = proptest::collection::vec((element_type(), shape()), 1..4);
    let constants = proptest::collection::vec(proptest::collection::vec(integer(), 0..5), 1..4);
    (proptest::collection::vec(node, 1..6), inputs, constants, 7i64..26).prop_map(
        |(nodes, inputs, constants, opset)| {
            let mut names: Vec<String> = Vec::new();
            let mut graph = GraphProto::default();
            for (index, (element_type, dims)) in inputs.iter().enumerate() {
                names.push(format!("x{index}"));
                graph.input.push(info(&names[names.len() - 1], *element_type, dims));
            }
            for (index, data) in constants.iter().enumerate() {
                names.push(format!("c{index}"));
                let scalar = data.len() == 1 && data[0] % 2 == 0;
                let (dims, data) = (if scalar { vec![] } else { vec![data.len() as i64] }, data.clone());
                let name = names.last().cloned();
                let tensor = match index % 3 {
                    2 => TensorProto {
                        data_type: Some(1),
                        float_data: data.iter().map(|&v| v as f32 * 0.5).collect(),
                        ..Default::default()
                    },
                    _ => TensorProto { data_type: Some(7), int64_data: data, ..Default::default() },
                };
                graph.initializer.push(TensorProto { name, dims, ..tensor });
            }
            for (index, ((domain, op), operands, outputs, attribute)) in nodes.into_iter().enumerate() {
                let input = operands
                    .into_iter()
                    .map(|operand| names.get(operand % (names.len() + 1)).cloned().unwrap_or_default())
                    .collect();
                let output: Vec<String> = (0..outputs).map(|output| format!("v{index}_{output}")).collect();
                names.extend(output.clone());
                graph.node.push(NodeProto {
                    op_type: Some(op.into()),
                    domain: Some(domain.into()),
                    input,
                    output,
                    attribute,
                    ..NodeProto::default()
                });
            }
            let last = names.last().cloned();
            graph.output.push(ValueInfoProto { name: last, ..ValueInfoProto::default() });
            (graph, opset)
        },
    )
}

proptest! {
    #[test]
    fn any_graph_is_taken_or_refused((graph, opset) in any_graph()) {
        survive(model(graph, opset));
    }

    #[test]
    fn damaged_files_are_errors((graph, opset) in any_graph(), flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = model(graph, opset);
        for (index, mask) in flips {
            let index = index.index(bytes.len());
            bytes[index] ^= mask;
        }
        survive(bytes);
    }
}

/// Sizes that grow with every node do not exhaust the stack.
#[test]
fn deep_shape_expressions_are_refused() {
    let mut graph = GraphProto::default();
    graph.input.push(info("v0", 1, &[DimensionValue::DimParam("n".into())]));
    let tensor = |name: &str, value: i64| TensorProto {
        name: Some(name.into()),
        data_type: Some(7),
        dims: vec![1],
        int64_data: vec![value],
        ..TensorProto::default()
    };
    graph.initializer =
        vec![tensor("start", 3), tensor("end", i64::MAX), tensor("axes", 0), tensor("steps", 2)];
    for index in 0..5000 {
        graph.node.push(NodeProto {
            op_type: Some("Slice".into()),
            input: [&format!("v{index}"), "start", "end", "axes", "steps"].map(str::to_owned).to_vec(),
            output: vec![format!("v{}", index + 1)],
            ..NodeProto::default()
        });
    }
    graph.output.push(ValueInfoProto { name: Some("v5000".into()), ..ValueInfoProto::default() });
    survive(model(graph, 17));
}
