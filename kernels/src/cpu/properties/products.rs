//! Products, windows, attention, recurrent layers and Fourier transforms.

use super::*;

/// An epilogue for a result of `shape`, and its operands.
fn epilogue(d: &Draw, dtype: DType, shape: &[usize], r: &mut Random) -> (Epilogue, Vec<Tensor>) {
    let bias = d.flags[0];
    let mut operands = Vec::new();
    if bias {
        operands.push(r.tensor(dtype, &shape[shape.len() - 1..], range(dtype)));
    }
    let (post, shapes) = crate::cpu::gemm::check::epilogue(d.numbers[6], dtype, shape);
    operands.extend(shapes.iter().map(|s| r.tensor(dtype, s, range(dtype))));
    (Epilogue { bias, post }, operands)
}

/// Types of products: those with kernels of their own, and those that are widened.
const PRODUCTS: [DType; 8] =
    [DType::F32, DType::F64, DType::I32, DType::I64, DType::F16, DType::BF16, DType::I8, DType::U8];

pub(super) fn matmul(d: &Draw) -> Case {
    let dtype = d.dtype(&PRODUCTS);
    let mut r = d.random();
    let (m, k, n) =
        (d.between(0, 1, if d.flags[4] { 8 } else { 50 }), d.between(1, 1, 90), d.between(2, 1, 70));
    let batch: Vec<usize> = d.other.iter().take(d.between(3, 0, 2)).map(|n| n % 4 + 1).collect();
    let (trans_a, trans_b) = (d.flags[1], d.flags[2]);
    let matrix = |lead: &[usize], rows, cols, turned: bool| {
        [lead, &if turned { [cols, rows] } else { [rows, cols] }].concat()
    };
    let right = if d.constant || d.flags[3] { vec![] } else { d.broadcast(4, &batch) };
    let a = r.tensor(dtype, &matrix(&batch, m, k, trans_a), range(dtype));
    let b = r.tensor(dtype, &matrix(&right, k, n, trans_b), range(dtype));
    let (epilogue, extra) = epilogue(d, dtype, &matrix(&batch, m, n, false), &mut r);
    let mut case = Case::new(MatMul { trans_a, trans_b, epilogue }, [vec![a, b], extra].concat());
    case.constant = if d.constant { vec![1] } else { vec![] };
    case
}

/// Attributes of a sliding window over 1 to 3 axes.
pub(super) struct Window {
    pub input: Vec<usize>,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
}

pub(super) fn window(d: &Draw) -> Window {
    let spatial = d.between(0, 1, 3);
    let at = |i: usize, k: usize| d.numbers[(i + k) % 8] / (k + 1);
    let kernel: Vec<usize> = (0..spatial).map(|i| 1 + at(i, 1) % [3, 4, 6][3 - spatial]).collect();
    let strides: Vec<usize> = (0..spatial).map(|i| 1 + at(i, 2) % 3).collect();
    let dilations: Vec<usize> = (0..spatial).map(|i| 1 + at(i, 3) % 2).collect();
    let pads = |k: usize| -> Vec<usize> { (0..spatial).map(|i| at(i, k) % kernel[i]).collect() };
    let padding = match d.numbers[5] % 5 {
        0 => Padding::SameUpper,
        1 => Padding::SameLower,
        _ => Padding::Explicit { begin: pads(4), end: pads(5) },
    };
    let reach = |i: usize| (kernel[i] - 1) * dilations[i] + 1;
    let input = (0..spatial).map(|i| reach(i) + at(i, 6) % [12, 9, 4][spatial - 1]).collect();
    Window { input, kernel, strides, dilations, padding }
}

pub(super) fn conv(d: &Draw) -> Case {
    let dtype = d.dtype(&PRODUCTS);
    let w = window(d);
    let mut r = d.random();
    let groups = d.pick(6, &[1, 1, 2, 3]);
    let (channels, outputs) = (1 + d.shape[0] % 20, 1 + d.other[0] % 40);
    // Depthwise, with several outputs a channel or one; many groups of few channels.
    let (groups, channels, outputs) = match d.numbers[7] % 4 {
        0 | 1 => (outputs, 1, if d.numbers[1].is_multiple_of(4) { 2 } else { 1 }),
        2 => (d.between(1, 2, 13), 1 + d.shape[0] % 8, d.pick(3, &[1, 2, 3, 4, 6, 8, 12, 16, 32])),
        _ => (groups, channels, outputs),
    };
    let batch = d.between(2, 1, 3);
    let x = r.tensor(dtype, &[&[batch], &w.input[..], &[channels * groups]].concat(), range(dtype));
    let weights = r.tensor(dtype, &[&w.kernel[..], &[channels, outputs * groups]].concat(), range(dtype));
    let plain = Conv {
        strides: w.strides,
        dilations: w.dilations,
        padding: w.padding,
        groups,
        epilogue: Epilogue::default(),
    };
    let out = Op::from(plain.clone()).eval(&[x.clone(), weights.clone()], &[]).unwrap();
    let (epilogue, extra) = epilogue(d, dtype, out[0].shape(), &mut r);
    let mut case = Case::new(Conv { epilogue, ..plain }, [vec![x, weights], extra].concat());
    case.constant = if d.constant { vec![1] } else { vec![] };
    case
}

pub(super) fn conv_transpose(d: &Draw) -> Case {
    let dtype = d.dtype(&PRODUCTS);
    let w = window(d);
    let mut r = d.random();
    let groups = d.pick(6, &[1, 1, 2]);
    let (channels, outputs) = (1 + d.shape[0] % 12, 1 + d.other[0] % 40);
    let input: Vec<usize> = w.input.iter().map(|n| n.div_ceil(2)).collect();
    let spatial = input.len();
    // What padding takes away must be there.
    let padding = match w.padding {
        Padding::Explicit { .. } => {
            let most = |i: usize| (input[i] - 1) * w.strides[i] + (w.kernel[i] - 1) * w.dilations[i];
            let begin: Vec<usize> = (0..spatial).map(|i| (d.numbers[i] % 3).min(most(i))).collect();
            let end = (0..spatial).map(|i| (d.numbers[i + 3] % 3).min(most(i) - begin[i])).collect();
            Padding::Explicit { begin, end }
        }
        same => same,
    };
    let output_padding = w.strides.iter().enumerate().map(|(i, s)| d.numbers[i] % s).collect();
    let x =
        r.tensor(dtype, &[&[d.between(2, 1, 2)], &input[..], &[channels * groups]].concat(), range(dtype));
    let weights = r.tensor(dtype, &[&w.kernel[..], &[channels * groups, outputs]].concat(), range(dtype));
    let plain = ConvTranspose {
        strides: w.strides,
        dilations: w.dilations,
        padding,
        output_padding,
        groups,
        epilogue: Epilogue::default(),
    };
    let Ok(out) = Op::from(plain.clone()).eval(&[x.clone(), weights.clone()], &[]) else {
        return Case::new(Unary { op: UnaryOp::Abs }, vec![x]);
    };
    let (epilogue, extra) = epilogue(d, dtype, out[0].shape(), &mut r);
    let mut case = Case::new(ConvTranspose { epilogue, ..plain }, [vec![x, weights], extra].concat());
    case.constant = if d.constant { vec![1] } else { vec![] };
    case
}

pub(super) fn pool(d: &Draw) -> Case {
    let w = window(d);
    let kind = d.pick(
        6,
        &[
            PoolKind::Max,
            PoolKind::Average { count_include_pad: true },
            PoolKind::Average { count_include_pad: false },
            PoolKind::Lp { p: 2 },
        ],
    );
    let maxima = kind == PoolKind::Max;
    let dtype = if maxima && d.flags[2] { d.dtype(&PRODUCTS) } else { d.dtype(&STORED) };
    let shape = [&[d.between(1, 1, 3)], &w.input[..], &[1 + d.shape[0] % 50]].concat();
    let op = Pool {
        kind,
        kernel: w.kernel,
        strides: w.strides,
        dilations: w.dilations,
        padding: w.padding,
        ceil_mode: d.flags[1],
        indices: maxima && d.flags[3],
        column_major: maxima && d.flags[3] && d.flags[0],
    };
    Case::new(op, vec![d.random().tensor(dtype, &shape, 2.0 * range(dtype))])
}

pub(super) fn attention(d: &Draw) -> Case {
    let dtype = d.dtype(&STORED);
    let mut r = d.random();
    let (batch, groups, each) = (d.between(0, 1, 2), d.between(1, 1, 2), d.between(2, 1, 3));
    let (queries, keys) = (d.between(3, 1, 40), d.between(4, 1, 70));
    let (columns, values) = (d.between(5, 1, 40), d.between(6, 1, 40));
    let heads = groups * each;
    let mut inputs = vec![
        r.tensor(dtype, &[batch, heads, queries, columns], 1.0),
        r.tensor(dtype, &[batch, groups, keys, columns], 1.0),
        r.tensor(dtype, &[batch, groups, keys, values], 1.0),
    ];
    if d.flags[0] {
        let kind = if d.flags[1] { DType::Bool } else { dtype };
        inputs.push(r.tensor(kind, &d.broadcast(7, &[batch, heads, queries, keys]), 1.0));
    }
    let scale = Scalar::float(dtype, 0.5);
    Case::new(Attention { scale, causal: d.flags[2], mask: d.flags[0] }, inputs)
}

pub(super) fn rnn(d: &Draw) -> Case {
    let kind = d.pick(0, &[RnnKind::Lstm, RnnKind::Gru, RnnKind::Simple]);
    let direction = d.pick(1, &[Direction::Forward, Direction::Reverse, Direction::Bidirectional]);
    let dirs = if direction == Direction::Bidirectional { 2 } else { 1 };
    let (steps, batch, width) = (d.between(2, 1, 6), d.between(3, 1, 5), d.between(4, 1, 40));
    let hidden = d.between(5, 1, 40);
    let lstm = kind == RnnKind::Lstm;
    let op = Rnn {
        kind,
        direction,
        hidden,
        activations: (0..dirs * kind.activations())
            .map(|i| d.pick((i + 6) % 8, &[Activation::Sigmoid, Activation::Tanh, Activation::Softsign]))
            .collect(),
        clip: d.flags[7].then_some(0.7f32.to_bits()),
        linear_before_reset: kind == RnnKind::Gru && d.flags[0],
        input_forget: lstm && d.flags[1],
        bias: d.flags[2],
        sequence_lens: d.flags[3],
        initial_h: d.flags[4],
        initial_c: lstm && d.flags[5],
        peephole: lstm && d.flags[6],
        mask: d.between(7, 0, 2) == 2,
    };
    let g = kind.gates();
    let mut r = d.random();
    let dtype = d.dtype(&STORED);
    let mut tensor = |shape: &[usize], range: f64| r.tensor(dtype, shape, range);
    let mut inputs = vec![
        tensor(&[steps, batch, width], 1.0),
        tensor(&[dirs, g * hidden, width], 0.3),
        tensor(&[dirs, g * hidden, hidden], 0.3),
    ];
    if op.bias {
        inputs.push(tensor(&[dirs, 2 * g * hidden], 0.5));
    }
    if op.sequence_lens {
        let lens: Vec<i32> = (0..batch).map(|i| (i * 7 % (steps + 1)) as i32).collect();
        inputs.push(Tensor::from_slice(&[batch], &lens).unwrap());
    }
    for _ in 0..usize::from(op.initial_h) + usize::from(op.initial_c) {
        inputs.push(tensor(&[dirs, batch, hidden], 1.0));
    }
    if op.peephole {
        inputs.push(tensor(&[dirs, 3 * hidden], 0.5));
    }
    if op.mask {
        let kept: Vec<f64> = (0..steps * batch).map(|i| f64::from(i * 5 % 3 != 0)).collect();
        inputs.push(Tensor::from_f64s(DType::Bool, &[steps, batch], &kept).unwrap());
    }
    let constant = if d.constant { (1..3 + usize::from(d.flags[2])).collect() } else { vec![] };
    Case { op: op.into(), inputs, constant }
}

pub(super) fn fourier(d: &Draw) -> Case {
    let dtype = d.dtype(&STORED);
    let mut r = d.random();
    // Lengths of all radices, and of a prime that has none.
    let length = d.pick(0, &[1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 20, 25, 30, 37, 48, 60, 64, 77, 100, 128, 240]);
    let parts = d.between(1, 1, 2);
    if d.flags[0] {
        let step = d.between(2, 1, 2 * length);
        let samples = length + d.between(3, 0, 40) * d.between(4, 1, 3);
        let mut inputs = vec![r.tensor(dtype, &[d.between(5, 1, 3), samples, parts], 1.0)];
        if d.flags[1] {
            inputs.push(r.tensor(dtype, &[length], 1.0));
        }
        let op = Stft { length: Dim::from(length), step, onesided: d.flags[2], window: d.flags[1] };
        return Case::new(op, inputs);
    }
    let inverse = d.flags[1];
    let onesided = d.flags[2] && (parts == 2) == inverse;
    let full = if onesided && inverse { length / 2 + 1 } else { length };
    let points = match d.numbers[6] % 3 {
        0 => d.between(7, 1, 2 * full),
        _ => full,
    };
    let shape = [d.shape(1, 3, 60), vec![points, parts]].concat();
    let op = Dft { length: Dim::from(length), inverse, onesided };
    Case::new(op, vec![r.tensor(dtype, &shape, 1.0)])
}
