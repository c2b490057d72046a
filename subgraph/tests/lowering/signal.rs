//! Windows, filter banks and Fourier transforms, against values computed by hand.

use engraft_subgraph::{AcceptAll, Attribute, DType, HostDim, Tensor, partition};

use crate::builder::{Builder, close, fix, floats, ints, maximal, run, sym};

fn int(value: i64) -> Attribute {
    Attribute::Int(value)
}

fn scalar(value: i64) -> Tensor {
    ints(&[], &[value])
}

#[test]
fn windows_of_known_and_of_told_sizes() {
    let h = 0.5f32.sqrt() / 2.0;
    let check = |op: &str, periodic: i64, size: i64, want: &[f32]| {
        for constant in [true, false] {
            let mut b = Builder::new(17);
            let length = match constant {
                true => b.constant(scalar(size)),
                false => b.input("size", DType::I64, &[]),
            };
            let y = b.node(op, &[length], &[("periodic", int(periodic))]);
            b.output(y);
            let inputs = if constant { vec![] } else { vec![scalar(size)] };
            close(&run(&b, &inputs)[0], want);
        }
    };
    check("HannWindow", 1, 8, &[0.0, 0.5 - h, 0.5, 0.5 + h, 1.0, 0.5 + h, 0.5, 0.5 - h]);
    check("HannWindow", 0, 5, &[0.0, 0.5, 1.0, 0.5, 0.0]);
    let edge = 4.0 / 46.0;
    check("HammingWindow", 1, 4, &[edge, 25.0 / 46.0, 1.0, 25.0 / 46.0]);
    check("BlackmanWindow", 0, 5, &[0.0, 0.34, 1.0, 0.34, 0.0]);
}

#[test]
fn windows_take_the_type_that_is_asked_for() {
    let mut b = Builder::new(17);
    let size = b.constant(scalar(3));
    let y = b.node("HammingWindow", &[size], &[("periodic", int(0)), ("output_datatype", int(11))]);
    b.output(y);
    let y = run(&b, &[]).remove(0);
    assert_eq!(y.dtype(), DType::F64);
    assert!((y.get_f64(0) - 4.0 / 46.0).abs() < 1e-15 && (y.get_f64(1) - 1.0).abs() < 1e-15);
}

/// The example of the specification: 8 bands over 16 points at 8192 Hz.
#[test]
fn mel_filters() {
    for constant in [true, false] {
        let mut b = Builder::new(17);
        let sizes = [8, 16, 8192].map(scalar);
        let edges = [0.0f32, 4096.0].map(Tensor::scalar);
        let names = ["bands", "length", "rate", "low", "high"];
        let all: Vec<Tensor> = sizes.into_iter().chain(edges).collect();
        let operands: Vec<_> = all
            .iter()
            .zip(names)
            .map(|(t, name)| match constant {
                true => b.constant(t.clone()),
                false => b.input(name, t.dtype(), &[]),
            })
            .collect();
        let y = b.node("MelWeightMatrix", &operands, &[]);
        b.output(y);
        let y = run(&b, if constant { &[] } else { &all }).remove(0);
        assert_eq!(y.shape(), [9, 8]);
        #[rustfmt::skip]
        let want = [
            1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
            0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0,
            0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0,
            0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
            0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0,
        ];
        close(&y, &want);
    }
}

/// One node with constant length and axis, in operator set 20.
fn transform(x: &Tensor, length: Option<i64>, axis: i64, attributes: &[(&str, Attribute)]) -> Tensor {
    let mut b = Builder::new(20);
    let shape: Vec<HostDim> = x.shape().iter().map(|&size| fix(size as u64)).collect();
    let input = b.input("x", x.dtype(), &shape);
    let length = length.map(|length| b.constant(scalar(length)));
    let axis = b.constant(scalar(axis));
    let y = b.node_of("DFT", &[Some(input), length, Some(axis)], attributes, 1)[0];
    b.output(y);
    run(&b, std::slice::from_ref(x)).remove(0)
}

#[test]
fn transforms_of_four_points() {
    // Of 1, 2, 3, 4: 10, -2 + 2i, -2, -2 - 2i.
    let real = floats(&[1, 4, 1], &[1.0, 2.0, 3.0, 4.0]);
    let spectrum = [10.0, 0.0, -2.0, 2.0, -2.0, 0.0, -2.0, -2.0];
    let y = transform(&real, None, 1, &[]);
    assert_eq!(y.shape(), [1, 4, 2]);
    close(&y, &spectrum);
    let half = transform(&real, None, -2, &[("onesided", int(1))]);
    assert_eq!(half.shape(), [1, 3, 2]);
    close(&half, &spectrum[..6]);
    let inverse = [("inverse", int(1)), ("onesided", int(1))];
    let back = transform(&half, None, 1, &inverse);
    assert_eq!(back.shape(), [1, 4, 1]);
    close(&back, &[1.0, 2.0, 3.0, 4.0]);
    let complex = floats(&[1, 4, 2], &spectrum);
    close(&transform(&complex, None, 1, &inverse[..1]), &[1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0]);
    // An odd length has no middle point: 1, 2, 3 gives 6, -1.5 + 0.866i and its conjugate.
    let odd = transform(&real, Some(3), 1, &[("onesided", int(1))]);
    close(&odd, &[6.0, 0.0, -1.5, 0.75f32.sqrt()]);
    close(&transform(&odd, Some(3), 1, &inverse), &[1.0, 2.0, 3.0]);
}

#[test]
fn transforms_cut_and_fill_along_any_axis() {
    // Two signals side by side, along axis 0: 1, 1, 1 and i, 0, 0.
    let x = floats(&[3, 2, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
    let y = transform(&x, Some(2), 0, &[]);
    assert_eq!(y.shape(), [2, 2, 2]);
    close(&y, &[2.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    // Filled up to 4: 1, 1, 1, 0 gives 3, -i, 1, i.
    let y = transform(&x, Some(4), 0, &[]);
    assert_eq!(y.shape(), [4, 2, 2]);
    close(&y, &[3.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0]);
}

#[test]
fn operator_set_17_has_the_axis_as_attribute() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[sym("n"), fix(2), fix(1)]);
    let length = b.constant(scalar(2));
    let first = b.node("DFT", &[x, length], &[("axis", int(0))]);
    let second = b.node("DFT", &[x], &[]);
    b.output(first);
    b.output(second);
    // A symbolic axis is cut and filled at run time.
    let results = run(&b, &[floats(&[3, 2, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])]);
    close(&results[0], &[4.0, 0.0, 6.0, 0.0, -2.0, 0.0, -2.0, 0.0]);
    close(&results[1], &[3.0, 0.0, -1.0, 0.0, 7.0, 0.0, -1.0, 0.0, 11.0, 0.0, -1.0, 0.0]);
    let results = run(&b, &[floats(&[1, 2, 1], &[1.0, 2.0])]);
    close(&results[0], &[1.0, 0.0, 2.0, 0.0, 1.0, 0.0, 2.0, 0.0]);
}

#[test]
fn frames_are_weighted_and_transformed() {
    let signal = floats(&[1, 6, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let window = floats(&[4], &[0.0, 1.0, 1.0, 0.0]);
    // Frames 0, 2, 3, 0 and 0, 4, 5, 0.
    let want = [5.0, 0.0, -3.0, -2.0, 1.0, 0.0, 9.0, 0.0, -5.0, -4.0, 1.0, 0.0];
    for constant in [true, false] {
        let mut b = Builder::new(17);
        let x = b.input("x", DType::F32, &[fix(1), sym("n"), fix(1)]);
        let step = b.constant(scalar(2));
        let w = match constant {
            true => b.constant(window.clone()),
            false => b.input("w", DType::F32, &[fix(4)]),
        };
        let y = b.node("STFT", &[x, step, w], &[]);
        b.output(y);
        let inputs = [signal.clone(), window.clone()];
        let y = run(&b, &inputs[..if constant { 1 } else { 2 }]).remove(0);
        assert_eq!(y.shape(), [1, 2, 3, 2]);
        close(&y, &want);
    }
}

#[test]
fn frames_of_complex_signals() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[fix(1), fix(3), fix(2)]);
    let (step, length) = (b.constant(scalar(1)), b.constant(scalar(2)));
    let y = b.node_of("STFT", &[Some(x), Some(step), None, Some(length)], &[("onesided", int(0))], 1)[0];
    b.output(y);
    let y = run(&b, &[floats(&[1, 3, 2], &[1.0, 1.0, 2.0, -1.0, 3.0, 0.0])]).remove(0);
    assert_eq!(y.shape(), [1, 2, 2, 2]);
    close(&y, &[3.0, 0.0, -1.0, 2.0, 5.0, -1.0, -1.0, -1.0]);
}

/// `cos(2 pi k j / n)` has two points in its spectrum.
fn wave(length: usize, k: usize) -> Vec<f32> {
    let turn = std::f32::consts::TAU / length as f32;
    (0..length).map(|j| (turn * (k * j % length) as f32).cos()).collect()
}

#[test]
fn long_transforms_and_lengths_of_the_run() {
    for length in [300, 512] {
        let mut want = vec![0.0; 2 * length];
        (want[2 * 7], want[2 * (length - 7)]) = (length as f32 / 2.0, length as f32 / 2.0);
        let mut b = Builder::new(20);
        let x = b.input("x", DType::F32, &[fix(1), sym("n"), fix(1)]);
        let y = b.node("DFT", &[x], &[]);
        let half = b.node("DFT", &[x], &[("onesided", int(1))]);
        let none = [("onesided", int(1)), ("inverse", int(1))];
        let back = b.node("DFT", &[half], &none);
        for value in [y, half, back] {
            b.output(value);
        }
        let x = floats(&[1, length, 1], &wave(length, 7));
        let results = run(&b, std::slice::from_ref(&x));
        let near = |got: &Tensor, want: &[f32]| {
            assert_eq!(got.count(), want.len());
            assert!((0..want.len()).all(|i| (got.get_f64(i) - f64::from(want[i])).abs() < 1e-3));
        };
        near(&results[0], &want);
        near(&results[1], &want[..length + 2]);
        near(&results[2], &wave(length, 7));
        near(&transform(&x, Some(length as i64), 1, &[]), &want);
        // Frames of the whole signal, weighted by 2.
        let mut b = Builder::new(17);
        let signal = b.input("x", DType::F32, &[fix(1), sym("n"), fix(1)]);
        let (step, w) = (b.constant(scalar(9)), b.input("w", DType::F32, &[sym("m")]));
        let y = b.node("STFT", &[signal, step, w], &[("onesided", int(0))]);
        b.output(y);
        let y = run(&b, &[x, floats(&[length], &vec![2.0; length])]).remove(0);
        assert_eq!(y.shape(), [1, 1, length, 2]);
        near(&y, &want.iter().map(|x| 2.0 * x).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_no_transform_is_refused_with_its_reason() {
    let reason = |dtype: DType, parts: u64, length: HostDim, attributes: &[(&str, Attribute)]| {
        let mut b = Builder::new(20);
        let x = b.input("x", dtype, &[fix(1), length, fix(parts)]);
        let y = b.node("DFT", &[x], attributes);
        b.output(y);
        partition(&b.graph, &AcceptAll, &maximal()).report.to_string()
    };
    let text = reason(DType::F64, 1, sym("n"), &[]);
    assert!(text.contains("known only at run time"), "{text}");
    let text = reason(DType::F32, 2, fix(4), &[("onesided", int(1))]);
    assert!(text.contains("real signals"), "{text}");
    let text = reason(DType::F32, 3, fix(4), &[]);
    assert!(text.contains("1 or 2"), "{text}");
}
