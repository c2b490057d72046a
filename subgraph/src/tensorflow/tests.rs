use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use super::proto::{
    ArgDef, Attr, AttrValue, FunctionDef, FunctionDefLibrary, ListValue, NameAttrList, NodeDef, OpDef,
    TensorProto,
};
use super::read::Node;
use super::*;
use crate::{AcceptAll, PartitionOptions, PartitionPolicy, Segment, partition};

const F32: i32 = 1;

fn attributes(list: &[(&str, Attr)]) -> BTreeMap<String, AttrValue> {
    list.iter().map(|(name, value)| ((*name).to_owned(), AttrValue { value: Some(value.clone()) })).collect()
}

fn node(name: &str, op: &str, inputs: &[&str], list: &[(&str, Attr)]) -> NodeDef {
    NodeDef {
        name: name.to_owned(),
        op: op.to_owned(),
        input: inputs.iter().map(|text| (*text).to_owned()).collect(),
        attr: attributes(list),
        ..NodeDef::default()
    }
}

fn of_type(name: &str, op: &str, inputs: &[&str]) -> NodeDef {
    node(name, op, inputs, &[("T", Attr::Type(F32))])
}

fn placeholder(name: &str, shape: &[i64]) -> NodeDef {
    let shape = tensor::shape_proto(Some(shape.iter().map(|&size| Some(size)).collect()));
    node(name, "Placeholder", &[], &[("dtype", Attr::Type(F32)), ("shape", Attr::Shape(shape))])
}

fn constant(name: &str, value: f32) -> NodeDef {
    let proto = TensorProto {
        dtype: F32,
        tensor_shape: Some(tensor::shape_proto(Some(Vec::new()))),
        float_val: vec![value],
        ..TensorProto::default()
    };
    node(name, "Const", &[], &[("dtype", Attr::Type(F32)), ("value", Attr::Tensor(proto))])
}

fn graph(nodes: &[NodeDef], functions: &[FunctionDef]) -> Bytes {
    let mut bytes = Vec::new();
    for node in nodes {
        wire::append(&mut bytes, 1, &node.encode_to_vec());
    }
    if !functions.is_empty() {
        let function = functions.iter().map(|function| function.encode_to_vec().into()).collect();
        wire::append(&mut bytes, 2, &FunctionDefLibrary { function }.encode_to_vec());
    }
    // Versions, and a field of tomorrow.
    wire::append(&mut bytes, 4, &[8, 22]);
    wire::append(&mut bytes, 77, b"unknown");
    bytes.into()
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn fetching(list: &[&str]) -> Ends {
    Ends { fetches: names(list), ..Ends::default() }
}

fn segments(model: &Model) -> Vec<Segment> {
    let options = PartitionOptions { policy: PartitionPolicy::Maximal, ..PartitionOptions::default() };
    partition(&model.graph, &AcceptAll, &options).segments
}

/// All that can be taken is replaced: the nodes, the functions and the other fields of the result.
fn rewritten(bytes: &Bytes, ends: &Ends) -> (Vec<Node>, Vec<FunctionDef>, Vec<Bytes>) {
    let model = read(bytes.clone(), ends).unwrap();
    let segments = segments(&model);
    let replacing: Vec<Replacing> = segments
        .iter()
        .map(|segment| Replacing { segment, attributes: vec![(SEGMENT, b"content".to_vec())] })
        .collect();
    let replaced = replace_segments(&model, &replacing).unwrap();
    assert_eq!(replaced.kept, []);
    let (mut nodes, mut functions, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for field in wire::fields(&replaced.graph.into()).unwrap() {
        match field.number {
            1 => nodes.push(Node::decode(field.content).unwrap()),
            2 => {
                for function in FunctionDefLibrary::decode(field.content).unwrap().function {
                    functions.push(FunctionDef::decode(function).unwrap());
                }
            }
            _ => rest.push(field.whole),
        }
    }
    (nodes, functions, rest)
}

fn named<'a>(nodes: &'a [Node], name: &str) -> &'a NodeDef {
    &nodes.iter().find(|node| node.def.name == name).unwrap_or_else(|| panic!("no node {name}")).def
}

fn list_of_types(attr: &Attr) -> Vec<i32> {
    match attr {
        Attr::List(list) => list.r#type.clone(),
        other => panic!("{other:?}"),
    }
}

/// x -> Relu -> (w) Mul -> Py (stays) -> Tanh -> out.
fn chain() -> Vec<NodeDef> {
    vec![
        placeholder("x", &[-1, 4]),
        constant("w", 2.0),
        of_type("relu", "Relu", &["x"]),
        of_type("mul", "Mul", &["relu:0", "w"]),
        node("py", "SomebodysOwn", &["mul"], &[("Tout", Attr::Type(F32))]),
        of_type("tanh", "Tanh", &["mul"]),
        node("out", "SomebodysOwn", &["tanh", "py"], &[]),
    ]
}

#[test]
fn reads_values_constants_and_ends() {
    let model = read(graph(&chain(), &[]), &fetching(&["out"])).unwrap();
    let graph = &model.graph;
    let of =
        |ids: &[crate::HostValueId]| ids.iter().map(|id| graph.value(*id).name.clone()).collect::<Vec<_>>();
    assert_eq!((of(&graph.inputs), of(&graph.outputs)), (names(&["x:0"]), names(&["out:0"])));
    let ops: Vec<&str> = graph.nodes.iter().map(|node| &node.op_type[..]).collect();
    assert_eq!(ops, ["Relu", "Mul", "SomebodysOwn", "Tanh", "SomebodysOwn"]);
    let weight = graph.nodes[1].inputs[1].unwrap();
    assert_eq!(graph.value(weight).constant.as_ref().unwrap().get_f64(0), 2.0);
    assert!(matches!(read(self::graph(&chain(), &[]), &fetching(&["gone"])), Err(GraphError::End(_))));
    let broken = self::graph(&[of_type("a", "Relu", &["b"])], &[]);
    assert!(matches!(read(broken, &Ends::default()), Err(GraphError::Node { .. })));
    let cyclic = self::graph(&[of_type("a", "Relu", &["b"]), of_type("b", "Relu", &["a"])], &[]);
    assert!(matches!(read(cyclic, &Ends::default()), Err(GraphError::Cycle { .. })));
}

#[test]
fn what_is_fed_is_no_part_of_a_segment() {
    let ends = Ends { feeds: names(&["mul:0", "w"]), ..fetching(&["tanh"]) };
    let model = read(graph(&chain(), &[]), &ends).unwrap();
    assert!(model.graph.nodes.iter().all(|node| node.name != "mul"));
    let weight = model.graph.values.iter().find(|value| value.name == "w:0").unwrap();
    assert!(weight.constant.is_none());
}

#[test]
fn a_segment_takes_the_place_of_its_nodes() {
    let (nodes, functions, rest) = rewritten(&graph(&chain(), &[]), &fetching(&["out"]));
    let order: Vec<&str> = nodes.iter().map(|node| &node.def.name[..]).collect();
    assert_eq!(order, ["x", "py", "out", "engraft_0"], "w moved, the others are gone");
    let segment = named(&nodes, "engraft_0");
    assert_eq!((&segment.op[..], &segment.input), (SEGMENT_OP, &names(&["x:0"])));
    assert_eq!(list_of_types(segment.attr["Tin"].value.as_ref().unwrap()), [F32]);
    assert_eq!(list_of_types(segment.attr["Tout"].value.as_ref().unwrap()), [F32, F32]);
    assert_eq!(segment.attr[SEGMENT].value, Some(Attr::S("content".into())));
    assert_eq!(named(&nodes, "py").input, names(&["engraft_0"]));
    assert_eq!(named(&nodes, "out").input, names(&["engraft_0:1", "py"]));

    let [function] = &functions[..] else { panic!("{} functions", functions.len()) };
    let signature = function.signature.as_ref().unwrap();
    let Some(Attr::List(list)) = &segment.attr[NATIVE].value else { panic!("no list") };
    assert_eq!(list.func, [NameAttrList { name: signature.name.clone(), ..NameAttrList::default() }]);
    let body: Vec<(&str, &[String])> =
        function.node_def.iter().map(|node| (&node.name[..], &node.input[..])).collect();
    assert_eq!(
        body,
        [
            ("w", &names(&[])[..]),
            ("relu", &names(&["engraft_input_0"])),
            ("mul", &names(&["relu:activations:0", "w:output:0"])),
            ("tanh", &names(&["mul:z:0"])),
        ]
    );
    let returned: Vec<&String> = function.ret.values().collect();
    assert_eq!(returned, ["mul:z:0", "tanh:y:0"]);
    assert_eq!(rest.len(), 2, "versions, and what is not known");
}

#[test]
fn what_is_not_touched_is_carried_as_it_came() {
    let mut nodes = chain();
    nodes.push(placeholder("other", &[2]));
    let mut bytes = Vec::new();
    for node in &nodes {
        let mut raw = node.encode_to_vec();
        wire::append(&mut raw, 99, b"tomorrow");
        wire::append(&mut bytes, 1, &raw);
    }
    let bytes = Bytes::from(bytes);
    let given = wire::fields(&bytes).unwrap();
    let (made, _, _) = rewritten(&bytes, &fetching(&["out"]));
    for name in ["x", "other"] {
        let index = nodes.iter().position(|node| node.name == name).unwrap();
        let node = made.iter().find(|node| node.def.name == name).unwrap();
        assert_eq!(node.raw, given[index].content);
    }
    // An input changes, the rest is carried.
    let out = made.iter().find(|node| node.def.name == "out").unwrap();
    assert!(wire::fields(&out.raw).unwrap().iter().any(|field| field.number == 99));
}

#[test]
fn preserved_names_go_on_existing() {
    let split =
        node("split", "Split", &["axis", "tanh"], &[("T", Attr::Type(F32)), ("num_split", Attr::I(2))]);
    let axis = TensorProto {
        dtype: 3,
        tensor_shape: Some(tensor::shape_proto(Some(vec![]))),
        int_val: vec![1],
        ..TensorProto::default()
    };
    let axis = node("axis", "Const", &[], &[("dtype", Attr::Type(3)), ("value", Attr::Tensor(axis))]);
    let mut all = chain();
    all.extend([axis, split]);
    let model = read(graph(&all, &[]), &fetching(&["tanh", "split:1"])).unwrap();
    let outputs: Vec<&str> = model.graph.outputs.iter().map(|id| &model.graph.value(*id).name[..]).collect();
    assert_eq!(outputs, ["tanh:0", "split:1", "split:0"], "all of a named node");
    let (nodes, _, _) = rewritten(&graph(&all, &[]), &fetching(&["tanh"]));
    // What no node reads is what a graph without named ends is run for.
    let (unnamed, _, _) = rewritten(&graph(&all, &[]), &Ends::default());
    assert_eq!(named(&unnamed, "split").op, "IdentityN");
    let identity = named(&nodes, "tanh");
    assert_eq!((&identity.op[..], identity.attr["T"].value.clone()), ("Identity", Some(Attr::Type(F32))));
    assert!(identity.input[0].starts_with("engraft_"));
}

#[test]
fn control_edges_move_to_the_segment() {
    let mut nodes = chain();
    nodes.insert(1, node("log", "PrintV2", &["x"], &[]));
    nodes[4].input.push("^log".to_owned());
    nodes.push(node("after", "NoOp", &["^tanh"], &[]));
    let (nodes, functions, _) = rewritten(&graph(&nodes, &[]), &fetching(&["out"]));
    assert_eq!(named(&nodes, "engraft_0").input, names(&["x:0", "^log"]));
    assert_eq!(named(&nodes, "after").input, names(&["^engraft_0"]));
    let inner = functions[0].node_def.iter().flat_map(|node| &node.input);
    assert!(inner.clone().count() > 0 && inner.clone().all(|input| !input.starts_with('^')));
}

#[test]
fn a_control_edge_through_the_host_splits() {
    // relu -> (control) print -> (control) tanh: one segment would wait for itself.
    let nodes = [
        placeholder("x", &[4]),
        of_type("relu", "Relu", &["x"]),
        node("print", "PrintV2", &["x", "^relu"], &[]),
        of_type("tanh", "Tanh", &["relu", "^print"]),
    ];
    let (nodes, _, _) = rewritten(&graph(&nodes, &[]), &fetching(&["tanh"]));
    assert_eq!(named(&nodes, "print").input, names(&["x", "^engraft_0"]));
    assert_eq!(named(&nodes, "engraft_1").input, names(&["engraft_0", "^print"]));
}

#[test]
fn lowered_control_flow_stays() {
    let boolean = |name: &str| {
        node(
            name,
            "Placeholder",
            &[],
            &[("dtype", Attr::Type(10)), ("shape", Attr::Shape(tensor::shape_proto(Some(vec![]))))],
        )
    };
    let nodes = [
        placeholder("x", &[4]),
        boolean("p"),
        of_type("switch", "Switch", &["x", "p"]),
        of_type("then", "Relu", &["switch:1"]),
        of_type("else", "Tanh", &["switch"]),
        node("merge", "Merge", &["else", "then"], &[("T", Attr::Type(F32)), ("N", Attr::I(2))]),
        node("enter", "Enter", &["merge"], &[("T", Attr::Type(F32))]),
        node("loop", "Merge", &["enter", "next"], &[("T", Attr::Type(F32)), ("N", Attr::I(2))]),
        of_type("turn", "Switch", &["loop", "p"]),
        of_type("body", "Sin", &["turn:1"]),
        of_type("next", "NextIteration", &["body"]),
        of_type("exit", "Exit", &["turn"]),
        of_type("after", "Cos", &["exit"]),
    ];
    let model = read(graph(&nodes, &[]), &fetching(&["after"])).unwrap();
    let pinned: Vec<&str> =
        model.graph.nodes.iter().filter(|node| node.pinned.is_some()).map(|node| &node.name[..]).collect();
    for name in ["switch", "then", "else", "loop", "turn", "body", "next"] {
        assert!(pinned.contains(&name), "{name}");
    }
    assert!(!pinned.contains(&"after"));
}

fn argument(name: &str) -> ArgDef {
    ArgDef { name: name.to_owned(), r#type: F32, ..ArgDef::default() }
}

fn function(
    name: &str,
    body: Vec<NodeDef>,
    inputs: &[&str],
    ret: &[(&str, &str)],
    control: &[(&str, &str)],
) -> FunctionDef {
    FunctionDef {
        signature: Some(OpDef {
            name: name.to_owned(),
            input_arg: inputs.iter().map(|name| argument(name)).collect(),
            output_arg: ret.iter().map(|(name, _)| argument(name)).collect(),
            is_stateful: false,
        }),
        node_def: body,
        ret: ret.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        control_ret: control.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..FunctionDef::default()
    }
}

fn call(name: &str, of: &str, inputs: &[&str]) -> NodeDef {
    let types = || Attr::List(ListValue { r#type: vec![F32], ..ListValue::default() });
    let target = Attr::Func(NameAttrList { name: of.to_owned(), ..NameAttrList::default() });
    node(name, "StatefulPartitionedCall", inputs, &[("f", target), ("Tin", types()), ("Tout", types())])
}

#[test]
fn calls_are_taken_apart() {
    let body = vec![of_type("relu", "Relu", &["a"]), node("log", "PrintV2", &["relu:activations:0"], &[])];
    let inner = function("inner", body, &["a"], &[("r", "relu:activations:0")], &[("log", "log")]);
    let outer =
        function("outer", vec![call("call", "inner", &["a"])], &["a"], &[("r", "call:output:0")], &[]);
    let nodes = [
        placeholder("x", &[4]),
        node("before", "NoOp", &[], &[]),
        call("f", "outer", &["x", "^before"]),
        of_type("y", "Tanh", &["f", "^f"]),
    ];
    let bytes = graph(&nodes, &[inner, outer]);
    let model = read(bytes.clone(), &fetching(&["y"])).unwrap();
    let by_name =
        |name: &str| model.source.nodes.iter().find(|node| node.def.name == name).map(|n| &n.def.input);
    assert_eq!(by_name("y"), Some(&names(&["f/call/relu", "^f/engraft_after"])));
    assert_eq!(by_name("f/call/log"), Some(&names(&["f/call/relu"])));
    assert!(by_name("f/call/engraft_after").unwrap().contains(&"^f/call/log".to_owned()));
    assert!(
        by_name("f/engraft_after").unwrap().contains(&"^f/call/engraft_after".to_owned())
            || by_name("f/engraft_after").unwrap().contains(&"^f/call/relu".to_owned())
    );
    assert_eq!(by_name("f/engraft_before"), Some(&names(&["^before"])));
    // A call that is asked for by its name.
    let model = read(bytes, &fetching(&["f:0"])).unwrap();
    let stand_in = model.source.nodes.iter().find(|node| node.def.name == "f").unwrap();
    assert_eq!((&stand_in.def.op[..], &stand_in.def.input[0][..]), ("IdentityN", "f/call/relu"));
}

#[test]
fn calls_that_cannot_stand_in_a_graph_stay() {
    let body = |op: &str| vec![node("n", op, &["a"], &[("T", Attr::Placeholder("T".to_owned()))])];
    let open = function("open", body("Relu"), &["a"], &[("r", "n:activations:0")], &[]);
    let own = vec![node("n", "SomebodysOwn", &["a"], &[])];
    let unknown = function("unknown", own, &["a"], &[("r", "n:what:0")], &[]);
    let recursive = function("again", vec![call("n", "again", &["a"])], &["a"], &[("r", "n:output:0")], &[]);
    let functions = [open, unknown, recursive];
    for name in ["open", "unknown", "missing"] {
        let nodes = [placeholder("x", &[4]), call("f", name, &["x"]), of_type("y", "Tanh", &["f"])];
        let model = read(graph(&nodes, &functions), &fetching(&["y"])).unwrap();
        assert!(model.graph.nodes.iter().any(|node| node.name == "f"), "{name}");
    }
    let nodes = [placeholder("x", &[4]), call("f", "again", &["x"]), of_type("y", "Tanh", &["f"])];
    let model = read(graph(&nodes, &functions), &fetching(&["y"])).unwrap();
    assert!(model.graph.nodes.iter().any(|node| node.op_type == "StatefulPartitionedCall"));
}

#[test]
fn colocated_nodes_and_other_devices_stay() {
    let mut nodes = chain();
    let place = ListValue { s: vec!["loc:@relu".into()], ..ListValue::default() };
    nodes[6].attr.extend(attributes(&[("_class", Attr::List(place))]));
    nodes[5].device = "/device:GPU:0".to_owned();
    let model = read(graph(&nodes, &[]), &fetching(&["out"])).unwrap();
    let pinned: Vec<&str> =
        model.graph.nodes.iter().filter(|node| node.pinned.is_some()).map(|node| &node.name[..]).collect();
    assert_eq!(pinned, ["relu", "tanh"]);
}

#[test]
fn damaged_graphs_are_errors() {
    let bytes = graph(&chain(), &[]);
    for length in 0..bytes.len() {
        // Whatever it is: no panic.
        let _ = read(bytes.slice(..length), &Ends::default());
    }
    for position in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[position] ^= 0x55;
        let _ = read(damaged, &Ends::default());
    }
}

#[test]
fn loops_that_stay_count_one_turn() {
    let types = ListValue { r#type: vec![F32], ..ListValue::default() };
    let named_function =
        |name: &str| Attr::Func(NameAttrList { name: name.to_owned(), ..NameAttrList::default() });
    let product = of_type("product", "MatMul", &["state", "state"]);
    let body = function("body", vec![product], &["state"], &[("out", "product:product:0")], &[]);
    let condition = function("condition", Vec::new(), &["state"], &[("out", "state")], &[]);
    let list =
        [("T", Attr::List(types)), ("body", named_function("body")), ("cond", named_function("condition"))];
    let nodes = [placeholder("x", &[8, 8]), node("loop", "While", &["x"], &list)];
    let model = read(graph(&nodes, &[body, condition]), &fetching(&["loop"])).unwrap();
    let report = partition(&model.graph, &AcceptAll, &PartitionOptions::default()).report;
    assert_eq!((report.total.flops, report.accelerated_flops), (2.0 * 8.0 * 8.0 * 8.0, 0.0));
}
