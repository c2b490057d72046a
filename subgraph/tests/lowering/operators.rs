//! Operators whose versions or spellings differ, and composites.

use engraft_subgraph::{Attribute, DType, Tensor};

use crate::builder::{Builder, close, fix, floats, ramp, run, sym};

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

fn list(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

fn text(value: &str) -> Attribute {
    Attribute::String(value.as_bytes().to_vec())
}

/// One node of one float operand.
fn apply(opset: i64, op: &str, attributes: &[(&str, Attribute)], x: &Tensor) -> Tensor {
    let mut b = Builder::new(opset);
    let shape: Vec<_> = x.shape().iter().map(|&size| fix(size as u64)).collect();
    let input = b.input("x", DType::F32, &shape);
    let y = b.node(op, &[input], attributes);
    b.output(y);
    run(&b, std::slice::from_ref(x)).remove(0)
}

#[test]
fn activations_follow_their_formulas() {
    let x = floats(&[6], &[-4.0, -1.0, -0.25, 0.0, 0.5, 3.0]);
    let check = |op: &str, attributes: &[(&str, Attribute)], f: &dyn Fn(f64) -> f64| {
        let want: Vec<f32> = (0..6).map(|index| f(x.get_f64(index)) as f32).collect();
        close(&apply(22, op, attributes, &x), &want);
    };
    let float = Attribute::Float;
    check("LeakyRelu", &[("alpha", float(0.1))], &|x| if x < 0.0 { 0.1f32 as f64 * x } else { x });
    check("Elu", &[("alpha", float(2.0))], &|x| if x < 0.0 { 2.0 * x.exp_m1() } else { x });
    check("Selu", &[], &|x| 1.050_700_9 * if x < 0.0 { 1.673_263_2 * x.exp_m1() } else { x });
    check("Celu", &[("alpha", float(0.5))], &|x| if x < 0.0 { 0.5 * (x / 0.5).exp_m1() } else { x });
    check("HardSigmoid", &[], &|x| (0.2 * x + 0.5).clamp(0.0, 1.0));
    check("HardSwish", &[], &|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0));
    check("ThresholdedRelu", &[("alpha", float(0.4))], &|x| if x > 0.4 { x } else { 0.0 });
    check("Softsign", &[], &|x| x / (1.0 + x.abs()));
    check("Softplus", &[], &|x| x.exp().ln_1p());
    check("Mish", &[], &|x| x * x.exp().ln_1p().tanh());
    check("Shrink", &[("bias", float(0.1)), ("lambd", float(0.3))], &|x| match x {
        x if x < -0.3 => x + 0.1,
        x if x > 0.3 => x - 0.1,
        _ => 0.0,
    });
    let tanh =
        |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh());
    check("Gelu", &[("approximate", text("tanh"))], &tanh);
}

#[test]
fn clip_reads_attributes_then_inputs() {
    let x = floats(&[4], &[-3.0, 0.25, 2.0, 9.0]);
    let bounds = [("min", Attribute::Float(-1.0)), ("max", Attribute::Float(6.0))];
    close(&apply(10, "Clip", &bounds, &x), &[-1.0, 0.25, 2.0, 6.0]);
    close(&apply(10, "Clip", &bounds[1..], &x), &[-3.0, 0.25, 2.0, 6.0]);
    let mut b = Builder::new(13);
    let input = b.input("x", DType::F32, &[fix(4)]);
    let low = b.constant(Tensor::scalar(0.0f32));
    let high = b.input("high", DType::F32, &[]);
    let y = b.node("Clip", &[input, low, high], &[]);
    let z = b.node_of("Clip", &[Some(input), Some(low)], &[], 1)[0];
    b.output(y);
    b.output(z);
    let results = run(&b, &[x, Tensor::scalar(1.5f32)]);
    close(&results[0], &[0.0, 0.25, 1.5, 1.5]);
    close(&results[1], &[0.0, 0.25, 2.0, 9.0]);
}

#[test]
fn softmax_before_13_flattens() {
    let x = ramp(&[2, 2, 2]);
    let exponentials: Vec<f64> = (0..8).map(|index| x.get_f64(index).exp()).collect();
    let over = |group: &dyn Fn(usize) -> usize| -> Vec<f32> {
        (0..8)
            .map(|i| {
                let sum: f64 = (0..8).filter(|&j| group(j) == group(i)).map(|j| exponentials[j]).sum();
                (exponentials[i] / sum) as f32
            })
            .collect()
    };
    close(&apply(11, "Softmax", &[], &x), &over(&|i| i / 4));
    close(&apply(13, "Softmax", &[("axis", int(1))], &x), &over(&|i| i / 4 * 2 + i % 2));
    close(&apply(13, "Softmax", &[], &x), &over(&|i| i / 2));
}

#[test]
fn axes_come_as_attribute_or_input() {
    let x = ramp(&[2, 3]);
    let sums = [-2.0 + -1.25 + -0.5, 0.25 + 1.0 + 1.75];
    close(&apply(11, "ReduceSum", &[("axes", list(&[-1])), ("keepdims", int(0))], &x), &sums);
    let mut b = Builder::new(18);
    let input = b.input("x", DType::F32, &[sym("n"), fix(3)]);
    let axes = b.ints(&[-1]);
    let sum = b.node("ReduceSum", &[input, axes], &[("keepdims", int(0))]);
    let unsqueezed = b.node("Unsqueeze", &[sum, axes], &[]);
    let squeezed = b.node("Squeeze", &[unsqueezed, axes], &[]);
    let same = b.node("ReduceSum", &[squeezed], &[("noop_with_empty_axes", int(1))]);
    b.output(same);
    close(&run(&b, std::slice::from_ref(&x))[0], &sums);
    assert_eq!(apply(11, "Unsqueeze", &[("axes", list(&[0, 3]))], &x).shape(), [1, 2, 3, 1]);
    assert_eq!(apply(11, "Squeeze", &[], &ramp(&[1, 3, 1])).shape(), [3]);
}

#[test]
fn splits() {
    let mut b = Builder::new(18);
    let x = b.input("x", DType::F32, &[fix(5), fix(2)]);
    let even = b.node_of("Split", &[Some(x)], &[("num_outputs", int(2))], 2);
    let sizes = b.ints(&[1, 4]);
    let uneven = b.node_of("Split", &[Some(x), Some(sizes)], &[], 2);
    for value in even.into_iter().chain(uneven) {
        b.output(value);
    }
    let shapes: Vec<Vec<usize>> =
        run(&b, &[ramp(&[5, 2])]).iter().map(|part| part.shape().to_vec()).collect();
    assert_eq!(shapes, [[3, 2], [2, 2], [1, 2], [4, 2]]);
}

#[test]
fn convolution_and_batch_norm() {
    let mut b = Builder::new(15);
    let x = b.input("x", DType::F32, &[sym("n"), fix(1), fix(3), fix(3)]);
    let w = b.constant(floats(&[2, 1, 2, 2], &[1., 0., 0., 1., 0., 1., 1., 0.]));
    let bias = b.constant(floats(&[2], &[0.5, -0.5]));
    let y = b.node("Conv", &[x, w, bias], &[]);
    let parameters: Vec<_> = [[2.0, 1.0], [0.0, 1.0], [1.0, 0.0], [3.0, 1.0]]
        .iter()
        .map(|data| b.constant(floats(&[2], data)))
        .collect();
    let mut operands = vec![y];
    operands.extend(parameters);
    let z = b.node("BatchNormalization", &operands, &[("epsilon", Attribute::Float(1.0))]);
    b.output(z);
    let x: Vec<f32> = (1..10).map(|value| value as f32).collect();
    // Channel 0: x[i, j] + x[i+1, j+1] + 0.5, then (y - 1) / sqrt(4) * 2.
    let first = [6.0 + 0.5, 8.0 + 0.5, 12.0 + 0.5, 14.0 + 0.5].map(|y: f32| y - 1.0);
    // Channel 1: x[i, j+1] + x[i+1, j] - 0.5, then y / sqrt(2) + 1.
    let second = [6.0 - 0.5, 8.0 - 0.5, 12.0 - 0.5, 14.0 - 0.5].map(|y: f32| y / 2f32.sqrt() + 1.0);
    close(&run(&b, &[floats(&[1, 1, 3, 3], &x)])[0], &[first, second].concat());
}

#[test]
fn gemm_with_every_part() {
    let mut b = Builder::new(13);
    let a = b.input("a", DType::F32, &[fix(2), sym("m")]);
    let w = b.constant(floats(&[3, 2], &[1., 2., 3., 4., 5., 6.]));
    let c = b.constant(floats(&[1, 3], &[10., 20., 30.]));
    let attributes = [
        ("alpha", Attribute::Float(0.5)),
        ("beta", Attribute::Float(0.1)),
        ("transA", int(1)),
        ("transB", int(1)),
    ];
    let y = b.node("Gemm", &[a, w, c], &attributes);
    b.output(y);
    // a' = [[1, 2]], a' w' = [5, 11, 17].
    close(&run(&b, &[floats(&[2, 1], &[1.0, 2.0])])[0], &[3.5, 7.5, 11.5]);
}

#[test]
fn einsum_contracts() {
    let check = |equation: &str, a: Tensor, b: Option<Tensor>, shape: &[usize], want: &[f32]| {
        let mut builder = Builder::new(13);
        let mut inputs = Vec::new();
        for (name, tensor) in [("a", Some(&a)), ("b", b.as_ref())] {
            if let Some(tensor) = tensor {
                let shape: Vec<_> = tensor.shape().iter().map(|&size| fix(size as u64)).collect();
                inputs.push(builder.input(name, DType::F32, &shape));
            }
        }
        let y = builder.node("Einsum", &inputs, &[("equation", text(equation))]);
        builder.output(y);
        let arguments: Vec<Tensor> = [Some(a), b].into_iter().flatten().collect();
        let result = run(&builder, &arguments).remove(0);
        assert_eq!(result.shape(), shape, "{equation}");
        close(&result, want);
    };
    let m = floats(&[2, 2], &[1., 2., 3., 4.]);
    let w = floats(&[2, 2], &[5., 6., 7., 8.]);
    check("ij,jk->ik", m.clone(), Some(w.clone()), &[2, 2], &[19., 22., 43., 50.]);
    check("ij,jk", m.clone(), Some(w.clone()), &[2, 2], &[19., 22., 43., 50.]);
    check("ij->ji", m.clone(), None, &[2, 2], &[1., 3., 2., 4.]);
    check("ij->j", m.clone(), None, &[2], &[4., 6.]);
    check("ij,ij->i", m.clone(), Some(w.clone()), &[2], &[17., 53.]);
    check("ij,kl->ikjl", m.clone(), Some(floats(&[1, 1], &[2.])), &[2, 1, 2, 1], &[2., 4., 6., 8.]);
    check("...ij,...kj->...ik", m.clone(), Some(w), &[2, 2], &[17., 23., 39., 53.]);
}

#[test]
fn gathers_count_from_the_end() {
    let mut b = Builder::new(13);
    let x = b.input("x", DType::F32, &[sym("n"), fix(3)]);
    let index = b.constant(Tensor::scalar(-1i64));
    let last = b.node("Gather", &[x, index], &[("axis", int(0))]);
    let columns = b.ints(&[2, 0]);
    let picked = b.node("Gather", &[x, columns], &[("axis", int(1))]);
    b.output(last);
    b.output(picked);
    let results = run(&b, &[floats(&[2, 3], &[1., 2., 3., 4., 5., 6.])]);
    close(&results[0], &[4., 5., 6.]);
    close(&results[1], &[3., 1., 6., 4.]);
}

#[test]
fn pads_may_cut() {
    let x = floats(&[3], &[1., 2., 3.]);
    close(&apply(2, "Pad", &[("pads", list(&[1, -1])), ("value", Attribute::Float(7.0))], &x), &[7., 1., 2.]);
    let mut b = Builder::new(18);
    let input = b.input("x", DType::F32, &[fix(2), sym("n")]);
    let (pads, axes) = (b.ints(&[1, 2]), b.ints(&[1]));
    let y = b.node_of("Pad", &[Some(input), Some(pads), None, Some(axes)], &[("mode", text("edge"))], 1)[0];
    b.output(y);
    let results = run(&b, &[floats(&[2, 2], &[1., 2., 3., 4.])]);
    close(&results[0], &[1., 1., 2., 2., 2., 3., 3., 4., 4., 4.]);
}

#[test]
fn recurrent_layers_keep_their_layouts() {
    // hidden 1, weights 0, so that i = o = f = 1/2 and c' = tanh(bias of c).
    let build = |layout: i64| {
        let mut b = Builder::new(14);
        let x = b.input("x", DType::F32, &[sym("a"), sym("b"), fix(2)]);
        let w = b.constant(floats(&[1, 4, 2], &[0.0; 8]));
        let r = b.constant(floats(&[1, 4, 1], &[0.0; 4]));
        let bias = b.constant(floats(&[1, 8], &[0., 0., 0., 1., 0., 0., 0., 0.]));
        let y = b.node_of(
            "LSTM",
            &[Some(x), Some(w), Some(r), Some(bias)],
            &[("layout", int(layout)), ("hidden_size", int(1))],
            3,
        );
        for value in y {
            b.output(value);
        }
        let shapes: Vec<Vec<usize>> =
            run(&b, &[ramp(&[3, 2, 2])]).iter().map(|tensor| tensor.shape().to_vec()).collect();
        shapes
    };
    assert_eq!(build(0), [vec![3, 1, 2, 1], vec![1, 2, 1], vec![1, 2, 1]]);
    assert_eq!(build(1), [vec![3, 2, 1, 1], vec![3, 1, 1], vec![3, 1, 1]]);
}

#[test]
fn integer_products_subtract_zero_points() {
    let mut b = Builder::new(13);
    let x = b.input("x", DType::U8, &[sym("n"), fix(2)]);
    let w = b.constant(Tensor::from_slice(&[2, 1], &[3i8, -2]).unwrap());
    let (zero_x, zero_w) = (b.constant(Tensor::scalar(128u8)), b.constant(Tensor::scalar(1i8)));
    let y = b.node("MatMulInteger", &[x, w, zero_x, zero_w], &[]);
    b.output(y);
    let result = run(&b, &[Tensor::from_slice(&[1, 2], &[130u8, 120]).unwrap()]).remove(0);
    assert_eq!(result, Tensor::from_slice(&[1, 1], &[2 * 2 + -8 * -3i32]).unwrap());
}

#[test]
fn layer_norm_may_tell_its_statistics() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[sym("n"), fix(4)]);
    let scale = b.constant(floats(&[4], &[1.0; 4]));
    let y =
        b.node_of("LayerNormalization", &[Some(x), Some(scale)], &[("epsilon", Attribute::Float(0.0))], 3);
    for value in y {
        b.output(value);
    }
    let results = run(&b, &[floats(&[1, 4], &[1., 3., 1., 3.])]);
    close(&results[0], &[-1., 1., -1., 1.]);
    close(&results[1], &[2.]);
    close(&results[2], &[1.]);
}

#[test]
fn topk_and_one_hot() {
    let mut b = Builder::new(13);
    let x = b.input("x", DType::F32, &[fix(1), fix(4)]);
    let k = b.ints(&[2]);
    let top = b.node_of("TopK", &[Some(x), Some(k)], &[], 2);
    let depth = b.constant(Tensor::scalar(4i64));
    let values = b.constant(floats(&[2], &[0.0, 1.0]));
    let hot = b.node("OneHot", &[top[1], depth, values], &[]);
    b.output(top[0]);
    b.output(hot);
    let results = run(&b, &[floats(&[1, 4], &[1., 9., 3., 4.])]);
    close(&results[0], &[9., 4.]);
    close(&results[1], &[0., 1., 0., 0., 0., 0., 0., 1.]);
    assert_eq!(results[1].shape(), [1, 2, 4]);
}
