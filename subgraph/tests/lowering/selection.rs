//! Operators whose results are as large as the data says.

use engraft_subgraph::{Attribute, DType, HostValueId, Tensor};

use crate::builder::{Builder, close, fix, floats, ints, run, sym};

fn scalar(value: f32) -> Tensor {
    Tensor::scalar(value)
}

fn all<T: engraft_network::Element>(tensor: &Tensor) -> Vec<T> {
    tensor.to_vec().unwrap()
}

/// Two boxes that overlap by a third, and one apart from them.
fn boxes() -> (Tensor, Tensor) {
    let boxes = floats(&[1, 3, 4], &[0., 0., 2., 2., 0., 1., 2., 3., 5., 5., 6., 6.]);
    (boxes, floats(&[1, 1, 3], &[0.5, 0.75, 0.25]))
}

fn suppression(constant: bool, limit: i64, overlap: f32, least: Option<f32>) -> Vec<i64> {
    let mut b = Builder::new(11);
    let x = b.input("boxes", DType::F32, &[sym("n"), sym("k"), fix(4)]);
    let s = b.input("scores", DType::F32, &[sym("n"), fix(1), sym("k")]);
    let (boxes, scores) = boxes();
    let mut inputs = vec![boxes, scores];
    let mut operand = |b: &mut Builder, name: &str, tensor: Tensor| -> Option<HostValueId> {
        if constant {
            return Some(b.constant(tensor));
        }
        let shape: Vec<_> = tensor.shape().iter().map(|&size| fix(size as u64)).collect();
        let id = b.input(name, tensor.dtype(), &shape);
        inputs.push(tensor);
        Some(id)
    };
    let limit = operand(&mut b, "limit", ints(&[1], &[limit]));
    let overlap = operand(&mut b, "overlap", scalar(overlap));
    let least = least.and_then(|least| operand(&mut b, "least", scalar(least)));
    let y = b.node_of("NonMaxSuppression", &[Some(x), Some(s), limit, overlap, least], &[], 1)[0];
    b.output(y);
    let y = run(&b, &inputs).remove(0);
    assert_eq!(y.shape()[1], 3);
    all::<i64>(&y)
}

#[test]
fn limits_and_thresholds_come_as_constants_or_inputs() {
    for constant in [true, false] {
        assert_eq!(suppression(constant, 9, 0.5, None), [0, 0, 1, 0, 0, 0, 0, 0, 2]);
        assert_eq!(suppression(constant, 9, 0.25, None), [0, 0, 1, 0, 0, 2]);
        assert_eq!(suppression(constant, 9, 0.5, Some(0.25)), [0, 0, 1, 0, 0, 0]);
        assert_eq!(suppression(constant, 1, 0.5, None), [0, 0, 1]);
        assert_eq!(suppression(constant, -1, 0.5, None), [0i64; 0]);
    }
}

#[test]
fn what_follows_has_the_size_that_was_told() {
    let mut b = Builder::new(13);
    let x = b.input("x", DType::F32, &[fix(3), sym("n")]);
    let outputs = b.node_of("Unique", &[Some(x)], &[("axis", Attribute::Int(1))], 4);
    let doubled = b.node("Add", &[outputs[0], outputs[0]], &[]);
    let restored = b.node("Gather", &[outputs[0], outputs[2]], &[("axis", Attribute::Int(1))]);
    for value in [doubled, restored, outputs[1], outputs[2], outputs[3]] {
        b.output(value);
    }
    // Columns 2 5 0, 1 5 0, 2 5 0, 1 4 9.
    let x = floats(&[3, 4], &[2., 1., 2., 1., 5., 5., 5., 4., 0., 0., 0., 9.]);
    let results = run(&b, std::slice::from_ref(&x));
    assert_eq!(results[0].shape(), [3, 3]);
    close(&results[0], &[2., 2., 4., 8., 10., 10., 18., 0., 0.]);
    assert_eq!(all::<f32>(&results[1]), all::<f32>(&x));
    let lines = results[2..].iter().map(all::<i64>).collect::<Vec<_>>();
    assert_eq!(lines, [vec![3, 1, 0], vec![2, 1, 2, 0], vec![1, 1, 2]]);
}

#[test]
fn without_an_axis_elements_are_compared() {
    let mut b = Builder::new(11);
    let x = b.input("x", DType::I64, &[fix(2), fix(3)]);
    let first = b.node_of("Unique", &[Some(x)], &[("sorted", Attribute::Int(0))], 3);
    let sorted = b.node("Unique", &[x], &[]);
    for value in [first[0], first[2], sorted] {
        b.output(value);
    }
    let results = run(&b, &[ints(&[2, 3], &[7, 3, 7, -1, 3, 7])]);
    let lines: Vec<Vec<i64>> = results.iter().map(all).collect();
    assert_eq!(lines, [vec![7, 3, -1], vec![0, 1, 0, 2, 1, 0], vec![-1, 3, 7]]);
}

#[test]
fn losses() {
    let half = 0.5f32.ln();
    let x = floats(&[2, 2], &[0.0, 0.0, 1.0, 1.0]);
    let run_loss = |reduction: &str, ignored: i64| {
        let mut b = Builder::new(13);
        let scores = b.input("x", DType::F32, &[sym("n"), fix(2)]);
        let target = b.input("t", DType::I64, &[sym("n")]);
        let weight = b.constant(floats(&[2], &[1.0, 3.0]));
        let reduction = Attribute::String(reduction.as_bytes().to_vec());
        let attributes = [("reduction", reduction), ("ignore_index", Attribute::Int(ignored))];
        let inputs = [Some(scores), Some(target), Some(weight)];
        let y = b.node_of("SoftmaxCrossEntropyLoss", &inputs, &attributes, 2);
        let again = b.node("NegativeLogLikelihoodLoss", &[y[1], target, weight], &attributes);
        b.output(y[0]);
        b.output(again);
        let results = run(&b, &[x.clone(), ints(&[2], &[0, 1])]);
        assert_eq!(results[0], results[1]);
        results.into_iter().next().unwrap()
    };
    close(&run_loss("none", 9), &[-half, -3.0 * half]);
    close(&run_loss("sum", 9), &[-4.0 * half]);
    close(&run_loss("mean", 9), &[-half]);
    close(&run_loss("none", 0), &[0.0, -3.0 * half]);
    close(&run_loss("mean", 1), &[-half]);
}

#[test]
fn causal_convolutions_carry_their_state() {
    let mut b = Builder::new(27);
    let x = b.input("x", DType::F32, &[fix(1), fix(1), sym("n")]);
    let w = b.constant(floats(&[1, 1, 2], &[10.0, 1.0]));
    let past = b.input("past", DType::F32, &[fix(1), fix(1), fix(1)]);
    let first = b.node_of("CausalConvWithState", &[Some(x), Some(w)], &[], 2);
    let second = b.node_of("CausalConvWithState", &[Some(x), Some(w), None, Some(past)], &[], 2);
    for value in [first[0], first[1], second[0]] {
        b.output(value);
    }
    let results = run(&b, &[floats(&[1, 1, 3], &[1.0, 2.0, 3.0]), floats(&[1, 1, 1], &[5.0])]);
    close(&results[0], &[1.0, 12.0, 23.0]);
    close(&results[1], &[3.0]);
    close(&results[2], &[51.0, 12.0, 23.0]);
}
