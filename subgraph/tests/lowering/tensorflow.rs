//! TensorFlow's operators, with results that were computed by hand. The Python suite compares all of them with TensorFlow.

use engraft_subgraph::{AcceptAll, Attribute, DType, HostGraph, HostValueId, Placement, Tensor, partition};

use crate::builder::{Builder, close, fix, floats, ints, maximal, ramp, run, sym};

fn text(text: &str) -> Attribute {
    Attribute::String(text.as_bytes().to_vec())
}

fn list(list: &[i64]) -> Attribute {
    Attribute::Ints(list.to_vec())
}

/// One node with `x` and constants: its only result.
fn single(op: &str, x: Tensor, constants: &[Tensor], attributes: &[(&str, Attribute)]) -> Tensor {
    let mut b = Builder::new(1);
    let shape: Vec<_> = x.shape().iter().map(|&size| fix(size as u64)).collect();
    let mut inputs = vec![b.input("x", x.dtype(), &shape)];
    inputs.extend(constants.iter().map(|constant| b.constant(constant.clone())));
    let y = b.node(&format!("tf:{op}"), &inputs, attributes);
    b.output(y);
    run(&b, &[x]).remove(0)
}

fn count(shape: &[usize]) -> Tensor {
    let size: usize = shape.iter().product();
    floats(shape, &(0..size).map(|index| index as f32).collect::<Vec<_>>())
}

#[test]
fn strided_slices_follow_their_masks() {
    let slice = |begin: &[i64], end: &[i64], steps: &[i64], masks: [i64; 5]| {
        let names = ["begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"];
        let masks: Vec<_> = names.into_iter().zip(masks.map(Attribute::Int)).collect();
        let operands = [begin, end, steps].map(|list| ints(&[list.len()], list));
        let y = single("StridedSlice", count(&[3, 4]), &operands, &masks);
        (y.shape().to_vec(), (0..y.count()).map(|index| y.get_f64(index)).collect::<Vec<_>>())
    };
    // x[1], x[..., 1], x[:, None, ::-2], x[-1, 1:3], x[5:], x[::-1, 0]
    assert_eq!(slice(&[1], &[2], &[1], [0, 0, 0, 0, 1]), (vec![4], vec![4., 5., 6., 7.]));
    assert_eq!(slice(&[0, 1], &[0, 2], &[1, 1], [0, 0, 1, 0, 2]), (vec![3], vec![1., 5., 9.]));
    assert_eq!(
        slice(&[0, 0, 0], &[0, 0, 0], &[1, 1, -2], [5, 5, 0, 2, 0]),
        (vec![3, 1, 2], vec![3., 1., 7., 5., 11., 9.])
    );
    assert_eq!(slice(&[-1, 1], &[0, 3], &[1, 1], [0, 0, 0, 0, 1]), (vec![2], vec![9., 10.]));
    assert_eq!(slice(&[5], &[0], &[1], [0, 1, 0, 0, 0]), (vec![0, 4], vec![]));
    assert_eq!(slice(&[0, 0], &[0, 1], &[-1, 1], [1, 1, 0, 0, 2]), (vec![3], vec![8., 4., 0.]));
}

#[test]
fn convolutions_agree_in_both_formats() {
    let (x, w) = (ramp(&[1, 4, 5, 2]), ramp(&[3, 3, 2, 3]));
    let attributes = |format: &str, strides: &[i64]| {
        [("data_format", text(format)), ("padding", text("SAME")), ("strides", list(strides))]
    };
    let last = single("Conv2D", x.clone(), std::slice::from_ref(&w), &attributes("NHWC", &[1, 2, 1, 1]));
    assert_eq!(last.shape(), [1, 2, 5, 3]);
    let first = single("Transpose", x, &[ints(&[4], &[0, 3, 1, 2])], &[]);
    let y = single("Conv2D", first, &[w], &attributes("NCHW", &[1, 1, 2, 1]));
    let y = single("Transpose", y, &[ints(&[4], &[0, 2, 3, 1])], &[]);
    assert_eq!(y.shape(), last.shape());
    close(&y, &(0..last.count()).map(|index| last.get_f64(index) as f32).collect::<Vec<_>>());
}

#[test]
fn same_padding_puts_the_odd_element_at_the_end() {
    let ones = floats(&[2, 2, 1, 1], &[1.0; 4]);
    let attributes = [("padding", text("SAME")), ("strides", list(&[1, 1, 1, 1]))];
    close(&single("Conv2D", count(&[1, 2, 2, 1]), &[ones], &attributes), &[6., 4., 5., 3.]);
    let pool = [("ksize", list(&[1, 2, 2, 1])), ("strides", list(&[1, 1, 1, 1])), ("padding", text("SAME"))];
    // The average of the elements inside.
    close(&single("AvgPool", count(&[1, 2, 2, 1]), &[], &pool), &[1.5, 2., 2.5, 3.]);
}

#[test]
fn depthwise_filters_multiply_channels() {
    let w = floats(&[1, 1, 2, 2], &[1., 10., 2., 20.]);
    let attributes = [("padding", text("VALID")), ("strides", list(&[1, 1, 1, 1]))];
    let y = single("DepthwiseConv2dNative", floats(&[1, 1, 1, 2], &[3., 5.]), &[w], &attributes);
    close(&y, &[3., 30., 10., 100.]);
}

#[test]
fn transposed_convolutions_have_the_size_that_is_asked_for() {
    let attributes = [("padding", text("SAME")), ("strides", list(&[1, 2, 2, 1]))];
    for (size, want) in [
        (3i64, vec![1., 0., 2., 0., 0., 0., 3., 0., 4.]),
        (4, vec![1., 0., 2., 0., 0., 0., 0., 0., 3., 0., 4., 0., 0., 0., 0., 0.]),
    ] {
        let mut b = Builder::new(1);
        let shape = b.ints(&[1, size, size, 1]);
        let w = b.constant(floats(&[1, 1, 1, 1], &[1.0]));
        let x = b.input("x", DType::F32, &[fix(1), fix(2), fix(2), fix(1)]);
        let y = b.node("tf:Conv2DBackpropInput", &[shape, w, x], &attributes);
        b.output(y);
        close(&run(&b, &[floats(&[1, 2, 2, 1], &[1., 2., 3., 4.])])[0], &want);
    }
}

#[test]
fn batch_norms_use_the_statistics_given() {
    let vectors = [[2., 3.], [1., -1.], [1., 2.], [3.999, 0.999]].map(|list| floats(&[2], &list));
    let attributes = [("is_training", Attribute::Int(0)), ("epsilon", Attribute::Float(1e-3))];
    let y = single("FusedBatchNormV3", floats(&[1, 1, 1, 2], &[3., 4.]), &vectors, &attributes);
    close(&y, &[3., 5.]);
}

#[test]
fn old_resizes_start_at_the_corner() {
    let x = || floats(&[1, 1, 2, 1], &[0., 4.]);
    let size = || ints(&[2], &[1, 4]);
    let resized = |op: &str, name: &str| {
        let attributes: Vec<_> = if name.is_empty() { vec![] } else { vec![(name, Attribute::Int(1))] };
        single(op, x(), &[size()], &attributes)
    };
    close(&resized("ResizeBilinear", ""), &[0., 2., 4., 4.]);
    close(&resized("ResizeBilinear", "half_pixel_centers"), &[0., 1., 3., 4.]);
    close(&resized("ResizeBilinear", "align_corners"), &[0., 4. / 3., 8. / 3., 4.]);
    close(&resized("ResizeNearestNeighbor", ""), &[0., 0., 4., 4.]);
}

#[test]
fn gathers_share_leading_axes() {
    let indices = ints(&[2, 2], &[2, 0, 1, 1]);
    let axis = ints(&[], &[1]);
    let shared = [("batch_dims", Attribute::Int(1))];
    let y = single("GatherV2", count(&[2, 3]), &[indices, axis], &shared);
    close(&y, &[2., 0., 4., 4.]);
}

#[test]
fn one_hots_of_negative_indices_are_off() {
    let constants = [ints(&[], &[3]), Tensor::scalar(5f32), Tensor::scalar(1f32)];
    let y = single("OneHot", ints(&[2], &[-1, 2]), &constants, &[]);
    close(&y, &[1., 1., 1., 1., 1., 5.]);
}

#[test]
fn space_becomes_batch_and_comes_back() {
    let (block, pads) = (ints(&[2], &[2, 1]), ints(&[2, 2], &[1, 0, 0, 0]));
    let there = single("SpaceToBatchND", count(&[1, 3, 2, 1]), &[block.clone(), pads.clone()], &[]);
    assert_eq!(there.shape(), [2, 2, 2, 1]);
    close(&there, &[0., 0., 2., 3., 0., 1., 4., 5.]);
    close(&single("BatchToSpaceND", there, &[block, pads], &[]), &[0., 1., 2., 3., 4., 5.]);
}

#[test]
fn the_rest_of_a_split_is_what_is_left() {
    let mut b = Builder::new(1);
    let x = b.input("x", DType::F32, &[sym("n"), fix(5)]);
    let (sizes, axis) = (b.ints(&[2, -1]), b.constant(ints(&[], &[1])));
    let parts = b.node_of("tf:SplitV", &[Some(x), Some(sizes), Some(axis)], &[], 2);
    parts.iter().for_each(|&part| b.output(part));
    let y = run(&b, &[count(&[1, 5])]);
    close(&y[0], &[0., 1.]);
    close(&y[1], &[2., 3., 4.]);
}

#[test]
fn simulated_quantization_keeps_zero() {
    let attributes =
        [("min", Attribute::Float(-1.0)), ("max", Attribute::Float(2.0)), ("num_bits", Attribute::Int(2))];
    let y = single("FakeQuantWithMinMaxArgs", floats(&[5], &[-9., -0.4, 0., 0.6, 9.]), &[], &attributes);
    close(&y, &[-1., 0., 0., 1., 2.]);
}

#[test]
fn integers_divide_toward_minus_infinity() {
    let y = single("FloorDiv", ints(&[4], &[7, -7, 7, -7]), &[ints(&[4], &[2, 2, -2, -2])], &[]);
    assert_eq!(y.to_vec::<i64>().unwrap(), [3, -4, -4, 3]);
}

/// `f(x) = relu(x) + relu(x)`, called.
#[test]
fn calls_are_lowered_as_their_bodies() {
    let mut body = Builder::new(1);
    let a = body.input("a", DType::F32, &[]);
    body.graph.values[a.index()].shape = None;
    let positive = body.node("tf:Relu", &[a], &[]);
    let sum = body.node("tf:AddV2", &[positive, positive], &[]);
    body.output(sum);
    let mut b = Builder::new(1);
    let x = b.input("x", DType::F32, &[fix(2)]);
    let y = b.node("tf:StatefulPartitionedCall", &[x], &[("f", Attribute::Graph(Box::new(body.graph)))]);
    let y = b.node("tf:Neg", &[y], &[]);
    b.output(y);
    close(&run(&b, &[floats(&[2], &[-3., 4.])])[0], &[0., -8.]);
}

const UNITS: usize = 2;

/// The body of Keras's loop over an LSTM: arguments are count, limit, time, written list, h, c, list, kernel, recurrent, bias.
fn lstm_body(gates: [usize; 4]) -> HostGraph {
    let mut b = Builder::new(1);
    let arguments: Vec<HostValueId> =
        (0..10).map(|index| b.input(&format!("argument_{index}"), DType::F32, &[])).collect();
    let one = b.constant(ints(&[], &[1]));
    let shape = b.ints(&[-1, 2]);
    let count = b.node("tf:AddV2", &[arguments[0], one], &[]);
    let time = b.node("tf:AddV2", &[arguments[2], one], &[]);
    let x = b.node("tf:TensorListGetItem", &[arguments[6], arguments[2], shape], &[]);
    let a = b.node("tf:MatMul", &[x, arguments[7]], &[]);
    let r = b.node("tf:MatMul", &[arguments[4], arguments[8]], &[]);
    let sum = b.node("tf:AddV2", &[a, r], &[]);
    let sum = b.node("tf:BiasAdd", &[sum, arguments[9]], &[]);
    let axis = b.constant(ints(&[], &[1]));
    let parts = b.node_of("tf:Split", &[Some(axis), Some(sum)], &[], 4);
    let [input, forget, candidate, output] = gates.map(|gate| parts[gate]);
    let input = b.node("tf:Sigmoid", &[input], &[]);
    let forget = b.node("tf:Sigmoid", &[forget], &[]);
    let candidate = b.node("tf:Tanh", &[candidate], &[]);
    let output = b.node("tf:Sigmoid", &[output], &[]);
    let kept = b.node("tf:Mul", &[forget, arguments[5]], &[]);
    let added = b.node("tf:Mul", &[input, candidate], &[]);
    let cell = b.node("tf:AddV2", &[kept, added], &[]);
    let squashed = b.node("tf:Tanh", &[cell], &[]);
    let state = b.node("tf:Mul", &[output, squashed], &[]);
    let written = b.node("tf:TensorListSetItem", &[arguments[3], arguments[2], state], &[]);
    let cell = b.node("tf:Identity", &[cell], &[]);
    for value in [count, arguments[1], time, written, state, cell] {
        b.output(value);
    }
    arguments[6..].iter().for_each(|&argument| b.output(argument));
    b.graph
}

fn condition() -> HostGraph {
    let mut b = Builder::new(1);
    let arguments: Vec<HostValueId> =
        (0..10).map(|index| b.input(&format!("argument_{index}"), DType::F32, &[])).collect();
    let below = b.node("tf:Less", &[arguments[2], arguments[1]], &[]);
    b.output(below);
    b.graph
}

fn lstm_loop(b: &mut Builder, body: HostGraph) -> HostValueId {
    let x = b.input("x", DType::F32, &[sym("t"), sym("n"), fix(2)]);
    let shape = b.node("tf:Shape", &[x], &[]);
    let index = |b: &mut Builder, at: i64| b.ints(&[at]);
    let (first, second, step) = (index(b, 0), index(b, 1), index(b, 1));
    let mask = [("shrink_axis_mask", Attribute::Int(1))];
    let length = b.node("tf:StridedSlice", &[shape, first, second, step], &mask);
    let opaque = |b: &mut Builder, value: HostValueId| b.graph.values[value.index()].opaque = true;
    let element = b.ints(&[-1, 2]);
    let list = b.node("tf:TensorListFromTensor", &[x, element], &[]);
    opaque(b, list);
    let reserved = b.node("tf:TensorListReserve", &[element, length], &[]);
    opaque(b, reserved);
    let zero = b.constant(Tensor::scalar(0i32));
    let batch = {
        let end = index(b, 2);
        b.node("tf:StridedSlice", &[shape, second, end, step], &mask)
    };
    let units = b.constant(Tensor::scalar(UNITS as i32));
    let shape = b.node("tf:Pack", &[batch, units], &[]);
    let none = b.constant(Tensor::scalar(0f32));
    let initial = b.node("tf:Fill", &[shape, none], &[]);
    let weights = [
        b.constant(ramp(&[2, 4 * UNITS])),
        b.constant(ramp(&[UNITS, 4 * UNITS])),
        b.constant(ramp(&[4 * UNITS])),
    ];
    let operands = [zero, length, zero, reserved, initial, initial, list, weights[0], weights[1], weights[2]];
    let attributes =
        [("body", Attribute::Graph(Box::new(body))), ("cond", Attribute::Graph(Box::new(condition())))];
    let operands = operands.map(Some);
    let outputs = b.node_of("tf:While", &operands, &attributes, 10);
    // Outputs that nothing reads are absent.
    let node = b.graph.nodes.last_mut().unwrap();
    for (index, output) in node.outputs.iter_mut().enumerate() {
        *output = output.filter(|_| index == 3);
    }
    opaque(b, outputs[3]);
    outputs[3]
}

#[test]
fn loops_over_an_lstm_are_that_layer() {
    let mut b = Builder::new(1);
    let list = lstm_loop(&mut b, lstm_body([0, 1, 2, 3]));
    let element = b.ints(&[-1, 2]);
    let y = b.node("tf:TensorListStack", &[list, element], &[]);
    b.output(y);
    let x = [0.3f32, -0.2, 0.1, 0.4];
    let got = run(&b, &[floats(&[2, 1, 2], &x)]).remove(0);
    // The recurrence in plain numbers.
    let weight = |row: usize, column: usize| ((row * 4 * UNITS + column) as f32) * 0.75 - 2.0;
    let sigmoid = |z: f32| 1.0 / (1.0 + (-z).exp());
    let (mut h, mut c, mut want) = ([0f32; UNITS], [0f32; UNITS], Vec::new());
    for step in 0..2 {
        let z: Vec<f32> = (0..4 * UNITS)
            .map(|column| {
                (0..2).map(|i| x[2 * step + i] * weight(i, column)).sum::<f32>()
                    + (0..UNITS).map(|i| h[i] * weight(i, column)).sum::<f32>()
                    + weight(0, column)
            })
            .collect();
        for unit in 0..UNITS {
            c[unit] = sigmoid(z[UNITS + unit]) * c[unit] + sigmoid(z[unit]) * z[2 * UNITS + unit].tanh();
            h[unit] = sigmoid(z[3 * UNITS + unit]) * c[unit].tanh();
        }
        want.extend(h);
    }
    assert_eq!(got.shape(), [2, 1, 2]);
    close(&got, &want);
}

#[test]
fn other_loops_and_lists_that_leave_stay_with_the_host() {
    // Gates in another order are another layer.
    for (gates, stacked) in [([1, 0, 2, 3], true), ([0, 1, 2, 3], false)] {
        let mut b = Builder::new(1);
        let mut y = lstm_loop(&mut b, lstm_body(gates));
        if stacked {
            let element = b.ints(&[-1, 2]);
            y = b.node("tf:TensorListStack", &[y, element], &[]);
        } else {
            y = b.node("test:Host", &[y], &[]);
        }
        b.output(y);
        let parts = partition(&b.graph, &AcceptAll, &maximal());
        for node in parts
            .report
            .nodes
            .iter()
            .filter(|node| ["While", "TensorListFromTensor"].contains(&&node.op_type[..]))
        {
            assert!(matches!(node.placement, Placement::Host(_)), "{gates:?} {}", node.op_type);
        }
    }
}
