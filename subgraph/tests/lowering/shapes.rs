//! Shape arithmetic vanishes: chains of shape nodes become dims.

use engraft_network::Op;
use engraft_subgraph::{AcceptAll, Attribute, DType, Tensor, partition};

use crate::builder::{Builder, close, execute, fix, floats, ints, maximal, ramp, run, sym};

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

/// Names of the operators of the only segment's network.
fn layers(b: &Builder) -> Vec<&'static str> {
    let parts = partition(&b.graph, &AcceptAll, &maximal());
    assert_eq!(parts.report.taken, b.graph.nodes.len(), "{}", parts.report);
    parts.segments[0].network.nodes().map(|(_, node)| node.op.name()).collect()
}

#[test]
fn reshape_by_gathered_sizes() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[sym("n"), sym("s"), fix(6)]);
    let shape = b.node("Shape", &[x], &[]);
    let mut parts = Vec::new();
    for axis in 0..2 {
        let index = b.constant(Tensor::scalar(axis as i64));
        let size = b.node("Gather", &[shape, index], &[("axis", int(0))]);
        let zero = b.ints(&[0]);
        parts.push(b.node("Unsqueeze", &[size, zero], &[]));
    }
    parts.push(b.ints(&[2]));
    parts.push(b.ints(&[-1]));
    let target = b.node("Concat", &parts, &[("axis", int(0))]);
    let y = b.node("Reshape", &[x, target], &[]);
    b.output(y);
    assert_eq!(layers(&b), ["reshape"]);
    assert_eq!(run(&b, &[ramp(&[2, 5, 6])])[0].shape(), [2, 5, 2, 3]);
}

#[test]
fn sizes_through_floats() {
    let mut b = Builder::new(13);
    let x = b.input("x", DType::F32, &[fix(1), fix(1), sym("h"), sym("w")]);
    let shape = b.node("Shape", &[x], &[]);
    let (start, end) = (b.ints(&[2]), b.ints(&[4]));
    let size = b.node("Slice", &[shape, start, end], &[]);
    let float = b.node("Cast", &[size], &[("to", int(1))]);
    let half = b.constant(Tensor::scalar(0.5f32));
    let scaled = b.node("Mul", &[float, half], &[]);
    let floor = b.node("Floor", &[scaled], &[]);
    let size = b.node("Cast", &[floor], &[("to", int(7))]);
    let (start, end) = (b.ints(&[0]), b.ints(&[2]));
    let front = b.node("Slice", &[shape, start, end], &[]);
    let sizes = b.node("Concat", &[front, size], &[("axis", int(0))]);
    let inputs = [Some(x), None, None, Some(sizes)];
    let mode = [("mode", Attribute::String(b"nearest".to_vec()))];
    let y = b.node_of("Resize", &inputs, &mode, 1)[0];
    b.output(y);
    assert_eq!(layers(&b), ["resize"]);
    assert_eq!(run(&b, &[ramp(&[1, 1, 5, 8])])[0].shape(), [1, 1, 2, 4]);
}

#[test]
fn expand_with_the_minus_one_idiom() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[sym("n"), fix(1)]);
    let shape = b.node("Shape", &[x], &[]);
    let wanted = b.ints(&[-1, 4]);
    let minus_one = b.constant(Tensor::scalar(-1i64));
    let is_minus_one = b.node("Equal", &[wanted, minus_one], &[]);
    let length = b.ints(&[2]);
    let ones = b.node("ConstantOfShape", &[length], &[("value", Attribute::Tensor(ints(&[1], &[1])))]);
    let target = b.node("Where", &[is_minus_one, ones, wanted], &[]);
    let y = b.node("Expand", &[x, target], &[]);
    let kept = b.node("Add", &[y, x], &[]);
    b.output(kept);
    b.output(shape);
    let results = run(&b, &[floats(&[2, 1], &[1.0, 2.0])]);
    close(&results[0], &[2.0, 2.0, 2.0, 2.0, 4.0, 4.0, 4.0, 4.0]);
    assert_eq!(results[1], ints(&[2], &[2, 1]));
}

#[test]
fn ranges_of_sizes() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[sym("n")]);
    let shape = b.node("Shape", &[x], &[]);
    let zero_axis = b.ints(&[0]);
    let size = b.node("Squeeze", &[shape, zero_axis], &[]);
    let (zero, one) = (b.constant(Tensor::scalar(0i64)), b.constant(Tensor::scalar(1i64)));
    let positions = b.node("Range", &[zero, size, one], &[]);
    let positions = b.node("Cast", &[positions], &[("to", int(1))]);
    let y = b.node("Add", &[x, positions], &[]);
    b.output(y);
    assert_eq!(layers(&b), ["range", "cast", "binary"]);
    close(&run(&b, &[floats(&[3], &[0.5, 0.5, 0.5])])[0], &[0.5, 1.5, 2.5]);
}

#[test]
fn slices_are_clamped() {
    // (start, end, step) of an axis of 5, by numpy's rule.
    let cases: [(i64, i64, i64, &[f32]); 8] = [
        (0, 3, 1, &[0., 1., 2.]),
        (1, i64::MAX, 1, &[1., 2., 3., 4.]),
        (-3, -1, 1, &[2., 3.]),
        (0, 100, 2, &[0., 2., 4.]),
        (-1, i64::MIN, -1, &[4., 3., 2., 1., 0.]),
        (3, 0, -2, &[3., 1.]),
        (4, 2, 1, &[]),
        (-100, 2, 1, &[0., 1.]),
    ];
    for fixed in [true, false] {
        for (start, end, step, want) in cases {
            let mut b = Builder::new(13);
            let size = if fixed { fix(5) } else { sym("n") };
            let x = b.input("x", DType::F32, &[size]);
            let (starts, ends, axes, steps) =
                (b.ints(&[start]), b.ints(&[end]), b.ints(&[0]), b.ints(&[step]));
            let y = b.node("Slice", &[x, starts, ends, axes, steps], &[]);
            b.output(y);
            close(&run(&b, &[floats(&[5], &[0., 1., 2., 3., 4.])])[0], want);
        }
    }
}

#[test]
fn slices_by_input_are_clamped() {
    let mut b = Builder::new(13);
    let x = b.input("x", DType::F32, &[sym("n")]);
    let starts = b.input("starts", DType::I64, &[fix(1)]);
    let ends = b.input("ends", DType::I64, &[fix(1)]);
    let y = b.node("Slice", &[x, starts, ends], &[]);
    b.output(y);
    let parts = partition(&b.graph, &AcceptAll, &maximal());
    assert_eq!(parts.report.taken, 1, "{}", parts.report);
    let x = floats(&[5], &[0., 1., 2., 3., 4.]);
    for (start, end, want) in [
        (-2, 5, &[3.0f32, 4.0][..]),
        (0, -4, &[0.0]),
        (1, 3, &[1.0, 2.0]),
        (4, 2, &[]),
        (-9, 9, &[0., 1., 2., 3., 4.]),
    ] {
        let arguments = [x.clone(), ints(&[1], &[start]), ints(&[1], &[end])];
        close(&execute(&b.graph, &parts, &arguments)[0], want);
    }
}

/// The causal mask of a decoder: a window of a table, its position given by the length of the cache.
#[test]
fn windows_of_tables_have_simple_sizes() {
    let mut b = Builder::new(17);
    let past = b.input("past", DType::F32, &[fix(1), sym("p"), fix(8)]);
    let table = b.constant(ramp(&[16, 16]));
    let shape = b.node("Shape", &[past], &[]);
    let (one, two) = (b.ints(&[1]), b.ints(&[2]));
    let length = b.node("Slice", &[shape, one, two], &[]);
    let next = b.node("Add", &[length, one], &[]);
    let (rows, columns) = (b.ints(&[0]), b.ints(&[1]));
    let row = b.node("Slice", &[table, length, next, rows], &[]);
    let zero = b.ints(&[0]);
    let window = b.node("Slice", &[row, zero, next, columns], &[]);
    b.output(window);
    let parts = partition(&b.graph, &AcceptAll, &maximal());
    let network = &parts.segments[0].network;
    let shapes: Vec<String> = network
        .nodes()
        .filter(|(_, node)| matches!(node.op, Op::Slice(_)))
        .map(|(_, node)| network.ty(node.outputs[0]).to_string())
        .collect();
    assert_eq!(shapes, ["f32[1,16]", "f32[1,1+s0]"]);
    assert_eq!(run(&b, &[ramp(&[1, 3, 8])])[0].shape(), [1, 4]);
}

#[test]
fn reshape_copies_and_infers() {
    let mut b = Builder::new(13);
    let x = b.input("x", DType::F32, &[sym("n"), fix(4), sym("m")]);
    let target = b.ints(&[0, 2, -1]);
    let y = b.node("Reshape", &[x, target], &[]);
    let merged = b.ints(&[-1, 4]);
    let z = b.node("Transpose", &[x], &[("perm", Attribute::Ints(vec![0, 2, 1]))]);
    let z = b.node("Reshape", &[z, merged], &[]);
    b.output(y);
    b.output(z);
    let results = run(&b, &[ramp(&[3, 4, 5])]);
    assert_eq!(results[0].shape(), [3, 2, 10]);
    assert_eq!(results[1].shape(), [15, 4]);
}

/// 0 copies, -1 infers, whatever the run brings.
#[test]
fn reshape_targets_arrive_as_inputs() {
    let mut b = Builder::new(13);
    let x = b.input("x", DType::F32, &[sym("n"), fix(6)]);
    let target = b.input("target", DType::I64, &[fix(3)]);
    let y = b.node("Reshape", &[x, target], &[]);
    b.output(y);
    for (target, want) in [
        ([2, 3, -1], [2, 3, 4]),
        ([-1, 2, 2], [6, 2, 2]),
        ([0, 2, 3], [4, 2, 3]),
        ([0, 0, -1], [4, 6, 1]),
        ([24, 1, 1], [24, 1, 1]),
    ] {
        let results = run(&b, &[ramp(&[4, 6]), ints(&[3], &target)]);
        assert_eq!(results[0].shape(), want);
        close(&results[0], &(0..24).map(|i| ramp(&[24]).get_f64(i) as f32).collect::<Vec<_>>());
    }
}

/// The largest of some lengths decides: elements are followed to the node that computes them, the rest stays known.
#[test]
fn reshape_targets_are_computed_from_data() {
    let mut b = Builder::new(13);
    let x = b.input("x", DType::F32, &[sym("n")]);
    let lengths = b.input("lengths", DType::I64, &[sym("m")]);
    let most = b.node("ReduceMax", &[lengths], &[("keepdims", int(1))]);
    let three = b.ints(&[3]);
    let target = b.node("Concat", &[most, three], &[("axis", int(0))]);
    let y = b.node("Reshape", &[x, target], &[]);
    b.output(y);
    let parts = partition(&b.graph, &AcceptAll, &maximal());
    let network = &parts.segments[0].network;
    let shape = &network.ty(network.outputs()[0]).shape;
    assert_eq!((shape[0].fixed(), shape[1].fixed()), (None, Some(3)));
    for most in [2i64, 4, 3] {
        let x = ramp(&[most as usize * 3]);
        let results = run(&b, &[x.clone(), ints(&[3], &[1, most, 0])]);
        assert_eq!(results[0].shape(), [most as usize, 3]);
    }
    assert_eq!(run(&b, &[ramp(&[6]), ints(&[1], &[-1])])[0].shape(), [2, 3]);
}

#[test]
fn sizes_of_all_kinds_are_computed_from_data() {
    let mut b = Builder::new(13);
    let x = b.input("x", DType::F32, &[fix(1), sym("n")]);
    let lengths = b.input("lengths", DType::I64, &[sym("m")]);
    let one = b.node("ReduceMax", &[lengths], &[("keepdims", int(1))]);
    let scalar = b.node("ReduceMax", &[lengths], &[("keepdims", int(0))]);
    let (zero, axis, step) = (b.ints(&[0]), b.ints(&[1]), b.ints(&[1]));
    let sliced = b.node("Slice", &[x, zero, one, axis, step], &[]);
    let tail = b.ints(&[1]);
    let shape = b.node("Concat", &[one, tail], &[("axis", int(0))]);
    let expanded = b.node("Expand", &[x, shape], &[]);
    let tiled = b.node("Tile", &[x, shape], &[]);
    let filled = b.node("ConstantOfShape", &[shape], &[]);
    let (start, delta) = (b.constant(Tensor::scalar(1i64)), b.constant(Tensor::scalar(1i64)));
    let counted = b.node("Range", &[start, scalar, delta], &[]);
    for v in [sliced, expanded, tiled, filled, counted] {
        b.output(v);
    }
    for most in [1usize, 3, 5, 2] {
        let results = run(&b, &[ramp(&[1, 4]), ints(&[2], &[most as i64, 0])]);
        let shapes: Vec<&[usize]> = results.iter().map(Tensor::shape).collect();
        let want: [&[usize]; 5] = [&[1, most.min(4)], &[most, 4], &[most, 4], &[most, 1], &[most - 1]];
        assert_eq!(shapes, want);
    }
}
