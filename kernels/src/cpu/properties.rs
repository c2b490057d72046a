//! Every row of the catalog against the operators' reference evaluation.
//!
//! One strategy draws sizes, types, attributes and placements; each operator makes a case of them. All tactics that take
//! the case run under every instruction set of the machine, dense and at random strides. What fails is shrunk.

use super::check::{self, Layout, Random, Tolerance};
use crate::{Class, Isa, Tactic, catalog};
use engraft_network::ops::*;
use engraft_network::{BinaryOp, DType, Dim, Expr, ExprNode, Op, Scalar, Tensor, UnaryOp};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// What a case is made of. Every operator reads what it needs, in any way that gives valid attributes.
#[derive(Clone, Debug)]
struct Draw {
    shape: Vec<usize>,
    other: Vec<usize>,
    numbers: [usize; 8],
    flags: [bool; 8],
    dtype: usize,
    constant: bool,
    random_layout: bool,
    threads: usize,
    seed: u64,
}

fn draw() -> impl Strategy<Value = Draw> {
    let size = || prop_oneof![8 => 1usize..8, 3 => 8usize..40, 1 => 40usize..140];
    (
        prop::collection::vec(size(), 1..=5),
        prop::collection::vec(size(), 1..=4),
        prop::array::uniform8(0usize..1000),
        prop::array::uniform8(any::<bool>()),
        0usize..64,
        any::<bool>(),
        any::<bool>(),
        1usize..4,
        any::<u64>(),
    )
        .prop_map(|(shape, other, numbers, flags, dtype, constant, random_layout, threads, seed)| Draw {
            shape,
            other,
            numbers,
            flags,
            dtype,
            constant,
            random_layout,
            threads,
            seed,
        })
}

/// An operator on operands.
struct Case {
    op: Op,
    inputs: Vec<Tensor>,
    /// Operands that are known when an engine is built.
    constant: Vec<usize>,
}

impl Case {
    fn new(op: impl Into<Op>, inputs: Vec<Tensor>) -> Case {
        Case { op: op.into(), inputs, constant: Vec::new() }
    }
}

const STORED: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const INTEGERS: [DType; 8] =
    [DType::I32, DType::I64, DType::I8, DType::U8, DType::I16, DType::U16, DType::U32, DType::U64];
const ANY: [DType; 9] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::BF16,
    DType::I8,
    DType::U8,
    DType::I32,
    DType::I64,
    DType::Bool,
];

impl Draw {
    fn random(&self) -> Random {
        Random(self.seed)
    }

    fn pick<T: Copy>(&self, number: usize, of: &[T]) -> T {
        of[self.numbers[number] % of.len()]
    }

    fn dtype(&self, of: &[DType]) -> DType {
        of[self.dtype % of.len()]
    }

    /// A number of `least..=most`.
    fn between(&self, number: usize, least: usize, most: usize) -> usize {
        least + self.numbers[number] % (most - least + 1)
    }

    /// The first axes of the drawn shape, of at most `elements` in all, padded with 1 to at least `rank`.
    fn shape(&self, least_rank: usize, most_rank: usize, elements: usize) -> Vec<usize> {
        let mut shape: Vec<usize> = Vec::new();
        let mut count = 1;
        for &n in self.shape.iter().take(most_rank) {
            let n = n.min(elements / count).max(1);
            count *= n;
            shape.push(n);
        }
        while shape.len() < least_rank {
            shape.insert(0, 1);
        }
        shape
    }

    fn axis(&self, number: usize, rank: usize) -> usize {
        self.numbers[number] % rank
    }

    /// `shape` with size 1 on some axes and without some leading ones, so that it broadcasts to it.
    fn broadcast(&self, number: usize, shape: &[usize]) -> Vec<usize> {
        let bits = self.numbers[number];
        let dropped = bits / 64 % (shape.len() + 1);
        let keep = |i: usize| if bits >> i & 1 == 1 { 1 } else { shape[i] };
        (if bits.is_multiple_of(3) { dropped } else { 0 }..shape.len()).map(keep).collect()
    }

    fn permutation(&self, rank: usize) -> Vec<usize> {
        let mut perm: Vec<usize> = (0..rank).collect();
        let mut r = Random(self.numbers[7] as u64);
        for i in (1..rank).rev() {
            perm.swap(i, r.below(i + 1));
        }
        perm
    }
}

/// An epilogue for a result of `shape`, and its operands.
fn epilogue(d: &Draw, dtype: DType, shape: &[usize], r: &mut Random) -> (Epilogue, Vec<Tensor>) {
    let bias = d.flags[0];
    let mut operands = Vec::new();
    if bias {
        operands.push(r.tensor(dtype, &shape[shape.len() - 1..], range(dtype)));
    }
    let (post, shapes) = super::gemm::check::epilogue(d.numbers[6], dtype, shape);
    operands.extend(shapes.iter().map(|s| r.tensor(dtype, s, range(dtype))));
    (Epilogue { bias, post }, operands)
}

/// Types of products: those with kernels of their own, and those that are widened.
const PRODUCTS: [DType; 8] =
    [DType::F32, DType::F64, DType::I32, DType::I64, DType::F16, DType::BF16, DType::I8, DType::U8];

/// Values of about -1..1, or whole numbers of a type.
fn range(dtype: DType) -> f64 {
    if dtype.is_float() { 1.0 } else { 90.0 }
}

fn matmul(d: &Draw) -> Case {
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
struct Window {
    input: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    padding: Padding,
}

fn window(d: &Draw) -> Window {
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

fn conv(d: &Draw) -> Case {
    let dtype = d.dtype(&PRODUCTS);
    let w = window(d);
    let mut r = d.random();
    let groups = d.pick(6, &[1, 1, 2, 3]);
    let (channels, outputs) = (1 + d.shape[0] % 20, 1 + d.other[0] % 40);
    // Depthwise, with several outputs a channel or one.
    let (groups, channels, outputs) = match d.numbers[7] % 3 {
        0 => (outputs, 1, 1 + d.numbers[1] % 2),
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

fn conv_transpose(d: &Draw) -> Case {
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

fn pool(d: &Draw) -> Case {
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
    };
    Case::new(op, vec![d.random().tensor(dtype, &shape, 2.0 * range(dtype))])
}

fn attention(d: &Draw) -> Case {
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

fn rnn(d: &Draw) -> Case {
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
    let constant = if d.constant { (1..3 + usize::from(d.flags[2])).collect() } else { vec![] };
    Case { op: op.into(), inputs, constant }
}

fn layer_norm(d: &Draw) -> Case {
    let dtype = d.dtype(&STORED);
    let shape = d.shape(1, 4, 4000);
    let axis = d.axis(0, shape.len());
    let op = LayerNorm {
        axis,
        epsilon: Scalar::float(DType::F32, 1e-3),
        rms: d.flags[0],
        scale: d.flags[1],
        bias: d.flags[2],
    };
    let mut r = d.random();
    let mut inputs = vec![r.tensor(dtype, &shape, 2.0)];
    for _ in 0..usize::from(op.scale) + usize::from(op.bias) {
        inputs.push(r.tensor(dtype, &shape[axis..], 1.0));
    }
    Case::new(op, inputs)
}

fn group_norm(d: &Draw) -> Case {
    let dtype = d.dtype(&STORED);
    let groups = d.between(0, 1, 4);
    let channels = groups * d.between(1, 1, 20);
    let shape = [d.shape(2, 3, 500), vec![channels]].concat();
    let mut r = d.random();
    let inputs = vec![
        r.tensor(dtype, &shape, 2.0),
        r.tensor(dtype, &[channels], 1.0),
        r.tensor(dtype, &[channels], 1.0),
    ];
    let groups = if d.flags[0] { 0 } else { groups };
    Case::new(GroupNorm { groups, epsilon: Scalar::float(DType::F32, 1e-3) }, inputs)
}

fn softmax(d: &Draw) -> Case {
    let shape = d.shape(1, 4, 4000);
    let op = Softmax { axis: d.axis(0, shape.len()), log: d.flags[0] };
    Case::new(op, vec![d.random().tensor(d.dtype(&STORED), &shape, 10.0)])
}

fn reduce(d: &Draw) -> Case {
    let op = ReduceOp::ALL[d.numbers[0] % ReduceOp::ALL.len()];
    // Integer forms of those that leave the integers are the host's affair.
    let whole =
        matches!(op, ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min | ReduceOp::Prod | ReduceOp::SumSquare);
    let dtype = if whole && d.flags[1] { d.dtype(&INTEGERS) } else { d.dtype(&STORED) };
    let shape = d.shape(1, 5, 3000);
    let axes = (0..shape.len()).filter(|i| d.numbers[1] >> i & 1 == 1).collect();
    // Products and logarithms of sums want positive values that do not overflow.
    let mut r = d.random();
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| 0.9 + 0.2 * r.unit().abs()).collect();
    let x = if dtype.is_float() && matches!(op, ReduceOp::Prod | ReduceOp::LogSum) {
        check::tensor_of(dtype, &shape, &values)
    } else {
        r.tensor(dtype, &shape, 3.0)
    };
    Case::new(Reduce { op, axes, keep_dims: d.flags[0] }, vec![x])
}

fn arg_reduce(d: &Draw) -> Case {
    let shape = d.shape(1, 4, 3000);
    let op =
        ArgReduce { max: d.flags[0], axis: d.axis(0, shape.len()), keep_dims: d.flags[1], last: d.flags[2] };
    // Few different values, so that there are equals.
    let mut r = d.random();
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| r.below(9) as f64).collect();
    Case::new(op, vec![check::tensor_of(d.dtype(&STORED), &shape, &values)])
}

fn cumulative(d: &Draw) -> Case {
    let dtype = d.dtype(&[DType::F32, DType::F64, DType::I32, DType::I64]);
    let shape = d.shape(1, 4, 2000);
    let op = Cumulative {
        product: false,
        axis: d.axis(0, shape.len()),
        exclusive: d.flags[0],
        reverse: d.flags[1],
    };
    Case::new(op, vec![d.random().tensor(dtype, &shape, 2.0)])
}

fn unary(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let ops: Vec<UnaryOp> = UnaryOp::ALL.iter().copied().filter(|op| op.result(dtype).is_some()).collect();
    let op = ops[d.numbers[0] % ops.len()];
    let shape = d.shape(1, 5, 2000);
    let mut r = d.random();
    // Away from poles and steep places, where one rounding of the operand moves the result by more than any tolerance.
    use UnaryOp::*;
    let positive = matches!(op, Log | Recip | Rsqrt | Sqrt | Acosh | Tan);
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| match op {
            Acosh => 1.5 + r.unit().abs(),
            Asin | Acos | Atanh => 0.9 * r.unit(),
            _ if positive => 0.3 + r.unit().abs(),
            _ => 3.0 * r.unit(),
        })
        .collect();
    Case::new(Unary { op }, vec![check::tensor_of(dtype, &shape, &values)])
}

fn binary(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let ops: Vec<BinaryOp> = BinaryOp::ALL
        .iter()
        .copied()
        .filter(|op| op.result(dtype).is_some())
        // Steps at multiples of the divisor: one rounding of the quotient is a whole divisor of difference.
        .filter(|op| !(dtype.is_float() && matches!(op, BinaryOp::Mod | BinaryOp::Fmod)))
        .collect();
    let op = ops[d.numbers[0] % ops.len()];
    let shape = d.shape(1, 5, 2000);
    let (a, b) = (d.broadcast(1, &shape), if d.flags[0] { shape.clone() } else { d.broadcast(2, &shape) });
    let (a, b) = if d.flags[1] { (a, b) } else { (b, a) };
    let mut r = d.random();
    let count = |s: &[usize]| s.iter().product::<usize>();
    let away = matches!(op, BinaryOp::Div | BinaryOp::Pow) && dtype.is_float();
    let shift = matches!(op, BinaryOp::Shl | BinaryOp::Shr);
    let left: Vec<f64> =
        (0..count(&a)).map(|_| if away { 0.5 + r.unit().abs() } else { 4.0 * r.unit() }).collect();
    let right: Vec<f64> = (0..count(&b))
        .map(|_| match () {
            () if away => 0.5 + r.unit().abs(),
            // Exponents of integers are small and not negative; some shifts lie outside the type's width.
            () if shift => r.below(80) as f64 - if dtype.is_signed_int() { 8.0 } else { 0.0 },
            () if op == BinaryOp::Pow => r.below(4) as f64,
            () => 4.0 * r.unit(),
        })
        .collect();
    let inputs = vec![check::tensor_of(dtype, &a, &left), check::tensor_of(dtype, &b, &right)];
    Case::new(Binary { op }, inputs)
}

fn select(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let shape = d.shape(1, 4, 2000);
    let mut r = d.random();
    let condition = r.tensor(DType::Bool, &d.broadcast(0, &shape), 1.0);
    let inputs = vec![
        condition,
        r.tensor(dtype, &d.broadcast(1, &shape), 9.0),
        r.tensor(dtype, &d.broadcast(2, &shape), 9.0),
    ];
    Case::new(Select, inputs)
}

fn cast(d: &Draw) -> Case {
    let (from, to) = (d.dtype(&ANY), d.pick(0, &ANY));
    Case::new(Cast { to }, vec![d.random().tensor(from, &d.shape(1, 4, 2000), 100.0)])
}

/// A region of smooth functions over broadcast operands.
fn pointwise(d: &Draw) -> Case {
    let dtype = d.dtype(&STORED);
    let shape = d.shape(1, 5, 2000);
    let mut r = d.random();
    let mut expr = Expr::new();
    let count = d.between(0, 1, 3);
    let mut inputs = Vec::new();
    let mut values = Vec::new();
    for i in 0..count {
        values.push(expr.push(ExprNode::Input(i as u16)));
        let own = if i == 0 { shape.clone() } else { d.broadcast(i, &shape) };
        inputs.push(r.tensor(dtype, &own, 2.0));
    }
    values.push(expr.push(ExprNode::Const(Scalar::float(dtype, 0.75))));
    use {BinaryOp as B, UnaryOp as U};
    for step in 0..d.between(4, 1, 6) {
        let number = d.numbers[(step + 3) % 8];
        let (a, b) = (values[number % values.len()], values[number / 7 % values.len()]);
        let node = match number % 3 {
            0 => {
                let ops =
                    [U::Neg, U::Abs, U::Tanh, U::Sigmoid, U::Gelu, U::Silu, U::HardSwish, U::Erf, U::Relu];
                ExprNode::Unary(ops[number / 3 % ops.len()], a)
            }
            _ => {
                let ops = [B::Add, B::Sub, B::Mul, B::Min, B::Max];
                ExprNode::Binary(ops[number / 3 % ops.len()], a, b)
            }
        };
        values.push(expr.push(node));
    }
    // All operands take part.
    let mut result = values[values.len() - 1];
    for value in &values[..count] {
        result = expr.push(ExprNode::Binary(B::Add, result, *value));
    }
    expr.finish(result);
    Case::new(Pointwise { expr }, inputs)
}

fn moved(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let shape = d.shape(1, 5, 2000);
    let rank = shape.len();
    let mut r = d.random();
    let x = r.tensor(dtype, &shape, 50.0);
    let dims = |list: &[usize]| list.iter().map(|n| Dim::from(*n)).collect::<Vec<Dim>>();
    let amounts: Vec<usize> = (0..rank).map(|i| d.numbers[i] % 3).collect();
    let axis = d.axis(5, rank);
    match d.numbers[6] % 8 {
        0 => Case::new(Transpose { perm: d.permutation(rank) }, vec![x]),
        1 => {
            let small = r.tensor(dtype, &d.broadcast(0, &shape), 50.0);
            Case::new(Expand { shape: dims(&shape) }, vec![small])
        }
        2 => {
            let mut other = shape.clone();
            other[axis] = d.between(0, 1, 9);
            let y = r.tensor(dtype, &other, 50.0);
            Case::new(Concat { axis }, if d.flags[0] { vec![x, y] } else { vec![y, x.clone(), x] })
        }
        3 => {
            let step = d.pick(0, &[1i64, 1, 2, -1, -3]);
            let steps = step.unsigned_abs() as usize;
            let len = (shape[axis] - 1) / steps + 1;
            let start = if step > 0 { 0 } else { shape[axis] as i64 - 1 };
            let range = SliceRange { axis, start: Dim::Fixed(start), len: Dim::from(len), step };
            Case::new(Slice { ranges: vec![range] }, vec![x])
        }
        4 => {
            let mode = d.pick(7, &[PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap]);
            let most = |i: usize| if mode == PadMode::Constant { 9 } else { shape[i] - 1 };
            let before: Vec<usize> = (0..rank).map(|i| amounts[i].min(most(i))).collect();
            let after: Vec<usize> = (0..rank).map(|i| (d.numbers[i] / 3 % 3).min(most(i))).collect();
            let mut inputs = vec![x];
            if mode == PadMode::Constant {
                inputs.push(r.tensor(dtype, &[], 9.0));
            }
            Case::new(Pad { mode, before: dims(&before), after: dims(&after) }, inputs)
        }
        5 => {
            let repeats: Vec<usize> = amounts.iter().map(|n| n % 2 + 1).collect();
            Case::new(Tile { repeats: dims(&repeats) }, vec![x])
        }
        6 if rank >= 2 => {
            let k = Dim::Fixed(d.numbers[0] as i64 % 7 - 3);
            Case::new(Trilu { upper: d.flags[0], k }, vec![x])
        }
        _ => {
            let scalar = |x: f64| check::tensor_of(DType::I64, &[], &[x]);
            Case::new(Range { len: Dim::from(d.between(0, 1, 90)) }, vec![scalar(5.0), scalar(-2.0)])
        }
    }
}

/// Indices of `shape` into an axis of `size`, some of them from the end.
fn indices(r: &mut Random, shape: &[usize], size: usize) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<i64> =
        (0..count).map(|_| r.below(size) as i64 - if r.chance(30) { size as i64 } else { 0 }).collect();
    Tensor::from_slice(shape, &values).unwrap()
}

fn indexed(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let shape = d.shape(1, 4, 1500);
    let rank = shape.len();
    let axis = d.axis(0, rank);
    let mut r = d.random();
    let x = r.tensor(dtype, &shape, 50.0);
    let few: Vec<usize> = d.other.iter().take(d.between(1, 1, 2)).map(|n| n % 6 + 1).collect();
    match d.numbers[6] % 6 {
        0 => Case::new(Gather { axis }, vec![x, indices(&mut r, &few, shape[axis])]),
        1 => {
            let mut own = shape.clone();
            own[axis] = d.between(2, 1, 9);
            Case::new(GatherElements { axis }, vec![x, indices(&mut r, &own, shape[axis])])
        }
        2 => {
            // One tuple element: any depth of nesting below it.
            let at = indices(&mut r, &[&few[..], &[1]].concat(), shape[0]);
            Case::new(GatherNd { batch_dims: 0 }, vec![x, at])
        }
        3 => {
            // Without a reduction places must not repeat: what wins is not said.
            let mut own = shape.clone();
            own[axis] = shape[axis].min(d.between(2, 1, 9));
            let count: usize = own.iter().product();
            let after: usize = own[axis + 1..].iter().product();
            let places: Vec<i64> = (0..count).map(|i| (i / after % own[axis]) as i64).collect();
            let at = Tensor::from_slice(&own, &places).unwrap();
            let updates = r.tensor(dtype, &own, 50.0);
            Case::new(ScatterElements { axis, reduction: ScatterReduction::None }, vec![x, at, updates])
        }
        4 => {
            let reductions = [ScatterReduction::Add, ScatterReduction::Max, ScatterReduction::Min];
            let reduction = d.pick(3, &reductions);
            let dtype = d.dtype(&[DType::F32, DType::I32, DType::I64]);
            let x = r.tensor(dtype, &shape, 50.0);
            let at = indices(&mut r, &[few[0], 1], shape[0]);
            let updates = r.tensor(dtype, &[&[few[0]], &shape[1..]].concat(), 50.0);
            Case::new(ScatterNd { reduction }, vec![x, at, updates])
        }
        _ => {
            let depth = d.between(2, 1, 9);
            let at = indices(&mut r, &few, depth);
            let axis = d.axis(4, few.len() + 1);
            Case::new(OneHot { axis, depth: Dim::from(depth) }, vec![at, r.tensor(dtype, &[2], 9.0)])
        }
    }
}

fn top_k(d: &Draw) -> Case {
    let dtype = d.dtype(&[DType::F32, DType::F64, DType::I32, DType::I64]);
    let shape = d.shape(1, 4, 2000);
    let axis = d.axis(0, shape.len());
    let k = d.between(1, 1, shape[axis]);
    let x = d.random().tensor(dtype, &shape, 9.0);
    Case::new(TopK { axis, largest: d.flags[0], k: Dim::from(k) }, vec![x])
}

fn resize(d: &Draw) -> Case {
    let shape = [d.shape(2, 3, 400), vec![d.between(0, 1, 20)]].concat();
    let rank = shape.len();
    let resized = |i: usize| i > 0 && i + 1 < rank;
    let sizes: Vec<usize> =
        (0..rank).map(|i| if resized(i) { d.between(i, 1, 3 * shape[i]) } else { shape[i] }).collect();
    let nearest =
        [NearestMode::RoundPreferFloor, NearestMode::RoundPreferCeil, NearestMode::Floor, NearestMode::Ceil];
    let mode = match d.numbers[5] % 3 {
        0 => ResizeMode::Nearest(d.pick(6, &nearest)),
        1 => ResizeMode::Linear,
        _ => ResizeMode::Cubic { coefficient: (-0.75f32).to_bits() },
    };
    let dtype = if matches!(mode, ResizeMode::Nearest(_)) { d.dtype(&ANY[..8]) } else { d.dtype(&STORED) };
    let coordinates = d.pick(
        7,
        &[
            CoordinateMode::HalfPixel,
            CoordinateMode::PytorchHalfPixel,
            CoordinateMode::AlignCorners,
            CoordinateMode::Asymmetric,
        ],
    );
    let op = Resize {
        mode,
        coordinates,
        sizes: sizes.iter().map(|n| Dim::from(*n)).collect(),
        scales: None,
        exclude_outside: matches!(mode, ResizeMode::Cubic { .. }) && d.flags[0],
        antialias: !matches!(mode, ResizeMode::Nearest(_)) && d.flags[1],
        extrapolation: 0,
    };
    Case::new(op, vec![d.random().tensor(dtype, &shape, 9.0)])
}

fn quantized(d: &Draw) -> Case {
    let narrow = d.dtype(&[DType::I8, DType::U8, DType::I32]);
    let shape = d.shape(1, 4, 2000);
    let axis = d.axis(0, shape.len());
    let mut r = d.random();
    let block = if d.flags[2] && d.flags[0] { d.between(0, 1, 4) } else { 0 };
    let mut shape = shape;
    let per = match block {
        _ if !d.flags[0] => vec![],
        0 => vec![shape[axis]],
        block => {
            let mut per = shape.clone();
            shape[axis] = block * shape[axis].min(10);
            per[axis] = shape[axis] / block;
            per
        }
    };
    let steps: Vec<f64> = (0..per.iter().product()).map(|_| 0.05 + r.unit().abs()).collect();
    let scale = check::tensor_of(DType::F32, &per, &steps);
    if d.flags[1] {
        let mut inputs = vec![r.tensor(narrow, &shape, 100.0), scale];
        let zero_point = narrow != DType::I32;
        if zero_point {
            inputs.push(r.tensor(narrow, &per, 20.0));
        }
        return Case::new(Dequantize { axis, block, zero_point }, inputs);
    }
    let to = if narrow == DType::I32 { DType::U8 } else { narrow };
    // Half steps away from ties, where one rounding decides.
    let (after, size): (usize, usize) = (shape[axis + 1..].iter().product(), shape[axis]);
    let values: Vec<f64> = (0..shape.iter().product::<usize>())
        .map(|i| {
            let (at, rest) = (i / after % size, i % after);
            let step = match block {
                _ if !d.flags[0] => steps[0],
                0 => steps[at],
                block => steps[(i / (after * size) * (size / block) + at / block) * after + rest],
            };
            step * (r.below(200) as f64 - 100.0 + 0.8 * r.unit().abs() - 0.4)
        })
        .collect();
    let inputs = vec![check::tensor_of(DType::F32, &shape, &values), scale, r.tensor(to, &per, 20.0)];
    Case::new(Quantize { axis, block, to, zero_point: true }, inputs)
}

fn shape_tensor(d: &Draw) -> Case {
    let dims: Vec<Dim> = d.other.iter().map(|n| Dim::from(*n)).collect();
    Case::new(ShapeTensor { dims, scalar: false, dtype: DType::I64 }, Vec::new())
}

/// A family's name, its cases, and the catalog rows that they must reach, by the beginnings of their names.
type Family = (&'static str, fn(&Draw) -> Case, &'static [&'static str]);

const FAMILIES: &[Family] = &[
    ("matmul", matmul, &["matmul.", "widened.matmul."]),
    ("conv", conv, &["conv.", "depthwise.", "widened.conv.", "widened.depthwise."]),
    ("conv_transpose", conv_transpose, &["conv_transpose.", "widened.conv_transpose."]),
    ("pool", pool, &["pool.", "widened.pool."]),
    ("attention", attention, &["attention."]),
    ("rnn", rnn, &["rnn.", "widened.rnn."]),
    ("layer_norm", layer_norm, &["layer_norm."]),
    ("group_norm", group_norm, &["group_norm."]),
    ("softmax", softmax, &["softmax."]),
    ("reduce", reduce, &["reduce."]),
    ("arg_reduce", arg_reduce, &["arg_reduce."]),
    ("cumulative", cumulative, &["move.cumulative"]),
    ("unary", unary, &["pointwise."]),
    ("binary", binary, &["pointwise."]),
    ("select", select, &["pointwise."]),
    ("cast", cast, &["pointwise."]),
    ("pointwise", pointwise, &["pointwise."]),
    ("movement", moved, &["move.views", "move.generate"]),
    ("indexed", indexed, &["move.gather", "move.scatter"]),
    ("top_k", top_k, &["move.top_k"]),
    ("resize", resize, &["resize.", "widened.resize."]),
    ("quantize", quantized, &["quantize."]),
    ("shape_tensor", shape_tensor, &["move.generate"]),
];

const TOLERANCE: Tolerance = Tolerance { absolute: 3e-5, relative: 3e-5 };

/// Runs every tactic that takes the case; panics where one disagrees with `eval`. Returns the names of those that ran.
fn hold(case: &Case, d: &Draw) -> BTreeSet<&'static str> {
    let expected = case.op.eval(&case.inputs, &[]).expect("a valid case");
    let outputs: Vec<(DType, Vec<usize>)> =
        expected.iter().map(|t| (t.dtype(), t.shape().to_vec())).collect();
    let layout = if d.random_layout { Layout::Random } else { Layout::Dense };
    let mut ran = BTreeSet::new();
    for isa in Isa::available() {
        let mut optimized = false;
        for tactic in catalog::cpu().iter().filter(|t| t.class() == Class::Optimized) {
            let tactic: &dyn Tactic = *tactic;
            let mut r = d.random();
            let (inputs, constant) = (&case.inputs, &case.constant);
            let got =
                check::run(tactic, &case.op, inputs, constant, &outputs, isa, d.threads, layout, &mut r);
            let Some(got) = got else { continue };
            optimized = true;
            ran.insert(tactic.id());
            for (got, expected) in got.iter().zip(&expected) {
                check::compare(&format!("{} under {isa}", tactic.id()), got, expected, TOLERANCE);
            }
        }
        assert!(optimized || d.random_layout, "only the reference takes {:?} under {isa}", case.op);
    }
    ran
}

fn run_family((name, make, rows): &Family, cases: u32) {
    let reached = Mutex::new(BTreeSet::new());
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&draw(), |d| {
        let ran = hold(&make(&d), &d);
        reached.lock().unwrap().extend(ran);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{name}: {error}");
    }
    let reached = reached.into_inner().unwrap();
    let best = *Isa::available().last().expect("portable is always there");
    for tactic in catalog::cpu() {
        let id = tactic.id();
        // A row of an instruction set that the machine lacks cannot run here.
        let absent =
            Isa::ALL.into_iter().any(|isa| isa > best && id.split('.').any(|part| part == isa.name()));
        if rows.iter().any(|row| id.starts_with(row)) && !absent {
            assert!(reached.contains(id), "{name}: no case reached {id}; reached were {reached:?}");
        }
    }
}

macro_rules! families {
    ($($name:ident: $cases:literal),* $(,)?) => {
        mod agrees {
            $(
                #[test]
                fn $name() {
                    let family = super::FAMILIES.iter().find(|f| f.0 == stringify!($name));
                    super::run_family(family.expect("a family of that name"), $cases);
                }
            )*
        }
        /// The families that have a test.
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

families! {
    matmul: 400, conv: 400, conv_transpose: 200, pool: 200, attention: 80, rnn: 60, layer_norm: 120, group_norm: 80,
    softmax: 120, reduce: 200, arg_reduce: 80, cumulative: 80, unary: 250, binary: 250, select: 80, cast: 150,
    pointwise: 200, movement: 300, indexed: 250, top_k: 80, resize: 150, quantize: 100, shape_tensor: 8,
}

/// Rows whose tests stand beside them: their unit is modelled there for machines that lack it.
const ELSEWHERE: &str = "tiles.";

#[test]
fn every_row_belongs_to_a_tested_family() {
    let here = |t: &&&'static dyn Tactic| t.class() == Class::Optimized && !t.id().starts_with(ELSEWHERE);
    for tactic in catalog::cpu().iter().filter(here) {
        let family = FAMILIES.iter().find(|f| f.2.iter().any(|row| tactic.id().starts_with(row)));
        let family = family.unwrap_or_else(|| panic!("no family reaches {}", tactic.id())).0;
        assert!(TESTED.contains(&family), "{family} has no test");
    }
}
