//! Whole-pipeline tests: every network is evaluated by reference before and after, and its outcome compared with a summary.

mod layouts;
mod narrow;
mod spellings;
mod subpixels;

use super::{PassOptions, optimize};
use engraft_kernels::Isa;
use engraft_network::ops::*;
use engraft_network::{
    BinaryOp, DType, Dim, Expr, ExprNode, Network, NodeId, Op, SymbolSource, Tensor, TensorType, UnaryOp,
    ValueId,
};

/// Deterministic numbers in -1..1.
pub(super) fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Builds test networks.
pub(super) struct Graph {
    pub net: Network,
    pub isa: Option<Isa>,
    /// Products between which values are stored in bf16.
    pub narrow: Option<fn(&Network, NodeId) -> bool>,
    seed: u64,
}

impl Graph {
    pub fn new() -> Graph {
        Graph { net: Network::new("test"), isa: None, narrow: None, seed: 1 }
    }

    pub fn input(&mut self, shape: &[usize]) -> ValueId {
        let n = self.net.inputs().len();
        let ty = TensorType::new(DType::F32, shape.iter().map(|d| Dim::from(*d)));
        self.net.add_input(format!("x{n}"), ty)
    }

    /// An input whose axis 0 is a symbol.
    pub fn batched(&mut self, rest: &[usize]) -> ValueId {
        let n = self.net.inputs().len() as u32;
        let source = SymbolSource::InputDim { input: 0, axis: 0 };
        let mut shape = vec![Dim::symbol(self.net.add_symbol("batch", source))];
        shape.extend(rest.iter().map(|d| Dim::from(*d)));
        self.net.add_input(format!("x{n}"), TensorType::new(DType::F32, shape))
    }

    pub fn constant(&mut self, shape: &[usize]) -> ValueId {
        self.seed += 1;
        let data = random(self.seed, shape.iter().product());
        let name = format!("c{}", self.seed);
        self.net.add_constant(name, Tensor::from_slice(shape, &data).unwrap())
    }

    pub fn scalar(&mut self, x: f32) -> ValueId {
        self.net.add_constant(format!("{x}"), Tensor::scalar(x))
    }

    pub fn op(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> ValueId {
        let op = op.into();
        let name = format!("{}{}", op.name(), self.net.node_count());
        self.net.add(name, op, inputs).unwrap()
    }

    pub fn unary(&mut self, op: UnaryOp, x: ValueId) -> ValueId {
        self.op(Unary { op }, &[x])
    }

    pub fn binary(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> ValueId {
        self.op(Binary { op }, &[a, b])
    }

    pub fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryOp::Add, a, b)
    }

    pub fn sub(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryOp::Sub, a, b)
    }

    pub fn mul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryOp::Mul, a, b)
    }

    pub fn div(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.binary(BinaryOp::Div, a, b)
    }

    pub fn mul_by(&mut self, a: ValueId, c: f32) -> ValueId {
        let c = self.scalar(c);
        self.mul(a, c)
    }

    pub fn add_to(&mut self, a: ValueId, c: f32) -> ValueId {
        let c = self.scalar(c);
        self.add(a, c)
    }

    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        self.op(Transpose { perm: perm.to_vec() }, &[x])
    }

    pub fn reshape(&mut self, x: ValueId, shape: &[i64]) -> ValueId {
        self.op(Reshape { shape: shape.iter().map(|d| Dim::Fixed(*d)).collect() }, &[x])
    }

    pub fn reduce(&mut self, op: ReduceOp, x: ValueId, axes: &[usize], keep_dims: bool) -> ValueId {
        self.op(Reduce { op, axes: axes.to_vec(), keep_dims }, &[x])
    }

    pub fn mean(&mut self, x: ValueId) -> ValueId {
        let last = self.net.ty(x).rank() - 1;
        self.reduce(ReduceOp::Mean, x, &[last], true)
    }

    pub fn matmul(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op(MatMul::default(), &[a, b])
    }

    /// A convolution as a channels-first dialect lowers it, "same" padding for odd kernels, with bias.
    pub fn conv(&mut self, x: ValueId, kernel: usize, out: usize, stride: usize, groups: usize) -> ValueId {
        let channels = self.net.ty(x).shape[1].fixed().unwrap() as usize;
        let w = self.constant(&[out, channels / groups, kernel, kernel]);
        let w = self.transpose(w, &[2, 3, 1, 0]);
        let b = self.constant(&[out]);
        let x = self.transpose(x, &[0, 2, 3, 1]);
        let p = vec![kernel / 2; 2];
        let conv = Conv {
            strides: vec![stride; 2],
            dilations: vec![1; 2],
            padding: Padding::Explicit { begin: p.clone(), end: p },
            groups,
            epilogue: Epilogue { bias: true, post: None },
        };
        let y = self.op(conv, &[x, w, b]);
        self.transpose(y, &[0, 3, 1, 2])
    }

    /// A max pool 2x2 as a channels-first dialect lowers it.
    pub fn pool(&mut self, x: ValueId) -> ValueId {
        let x = self.transpose(x, &[0, 2, 3, 1]);
        let pool = Pool {
            kind: PoolKind::Max,
            kernel: vec![2; 2],
            strides: vec![2; 2],
            dilations: vec![1; 2],
            padding: Padding::none(2),
            ceil_mode: false,
            indices: false,
            column_major: false,
        };
        let y = self.op(pool, &[x]);
        self.transpose(y, &[0, 3, 1, 2])
    }

    /// Optimizes the network with these outputs, checks that results stay, and returns the outcome.
    pub fn optimized(mut self, outputs: &[ValueId]) -> Network {
        self.net.set_outputs(outputs.to_vec());
        let before = self.net.clone();
        let mut after = self.net;
        optimize(&mut after, &PassOptions { verify: true, isa: self.isa, narrow: self.narrow }).unwrap();
        let inputs: Vec<Tensor> = before
            .inputs()
            .iter()
            .enumerate()
            .map(|(i, v)| {
                let shape: Vec<usize> =
                    before.ty(*v).shape.iter().map(|d| d.fixed().map_or(2, |n| n as usize)).collect();
                Tensor::from_slice(&shape, &random(77 + i as u64, shape.iter().product())).unwrap()
            })
            .collect();
        let tolerance = if self.narrow.is_some() { 2e-2 } else { 2e-5 };
        let (a, b) = (before.eval(&inputs).unwrap(), after.eval(&inputs).unwrap());
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(&b) {
            assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
            let largest = (0..a.count()).map(|i| a.get_f64(i).abs()).fold(0.0, f64::max);
            for i in 0..a.count() {
                let (x, y) = (a.get_f64(i), b.get_f64(i));
                assert!(
                    (x - y).abs() <= tolerance * largest.max(1e-3),
                    "element {i}: {x} became {y}\n{}",
                    summary(&after)
                );
            }
        }
        after
    }

    /// The summary of the optimized network.
    pub fn becomes(self, outputs: &[ValueId], want: &str) {
        let net = self.optimized(outputs);
        assert_eq!(summary(&net), want);
    }
}

fn expression(e: &Expr) -> String {
    let mut text: Vec<String> = Vec::new();
    for n in e.nodes() {
        let at = |i: u16| text[usize::from(i)].clone();
        text.push(match *n {
            ExprNode::Input(i) => char::from(b'a' + i as u8).to_string(),
            ExprNode::Const(c) => format!("{}", c.to_f64() as f32),
            ExprNode::Unary(op, a) => format!("{}({})", op.name(), at(a)),
            ExprNode::Binary(op, a, b) => format!("{}({},{})", op.name(), at(a), at(b)),
            ExprNode::Select(c, a, b) => format!("select({},{},{})", at(c), at(a), at(b)),
            ExprNode::Cast(t, a) => format!("{t}({})", at(a)),
        });
    }
    text.pop().unwrap_or_default()
}

/// Operators in order, with what matters of their attributes.
pub(super) fn summary(net: &Network) -> String {
    let epilogue = |e: &Epilogue| match &e.post {
        Some(p) => format!("[{}]", expression(p)),
        None => String::new(),
    };
    let mut out = Vec::new();
    for (_, n) in net.nodes() {
        out.push(match &n.op {
            Op::Unary(u) => u.op.name().to_owned(),
            Op::Binary(b) => b.op.name().to_owned(),
            Op::Pointwise(p) => format!("pointwise[{}]", expression(&p.expr)),
            Op::Conv(c) => format!("conv{}", epilogue(&c.epilogue)),
            Op::MatMul(m) => format!("matmul{}", epilogue(&m.epilogue)),
            Op::Transpose(t) => {
                format!("transpose{}", t.perm.iter().map(ToString::to_string).collect::<String>())
            }
            Op::LayerNorm(l) => format!(
                "{}{}{}",
                if l.rms { "rms_norm" } else { "layer_norm" },
                if l.scale { "+scale" } else { "" },
                if l.bias { "+bias" } else { "" }
            ),
            Op::Attention(a) => {
                format!(
                    "attention*{}{}",
                    (a.scale.to_f64() * 1e4).round() / 1e4,
                    if a.mask { "+mask" } else { "" }
                )
            }
            Op::Reduce(r) => format!("{}_of", r.op.name()),
            op => op.name().to_owned(),
        });
    }
    out.join(" ")
}

#[test]
fn dead_neutral_and_equal_nodes_go() {
    let mut g = Graph::new();
    let x = g.input(&[4, 6]);
    let a = g.mul_by(x, 1.0);
    let b = g.add_to(a, 0.0);
    let c = g.reshape(b, &[2, 12]);
    let d = g.reshape(c, &[4, 6]);
    let e1 = g.unary(UnaryOp::Exp, d);
    let e2 = g.unary(UnaryOp::Exp, d);
    g.unary(UnaryOp::Sin, d);
    let t = g.transpose(e2, &[1, 0]);
    let y = g.matmul(e1, t);
    g.becomes(&[y], "exp matmul");
}

#[test]
fn constants_fold_but_do_not_grow() {
    let mut g = Graph::new();
    let (a, b) = (g.constant(&[8, 8]), g.constant(&[8, 8]));
    let c = g.matmul(a, b);
    let x = g.input(&[8, 8]);
    let y = g.matmul(x, c);
    let one = g.scalar(1.0);
    let big = g.op(Expand { shape: vec![Dim::Fixed(512), Dim::Fixed(512)] }, &[one]);
    let z = g.op(Concat { axis: 0 }, &[big, big]);
    let net = g.optimized(&[y, z]);
    assert_eq!(summary(&net), "matmul expand concat");
    assert!(net.constants().iter().all(|t| t.count() <= 64));
}

#[test]
fn batch_normalisation_goes_into_the_weights() {
    let mut g = Graph::new();
    let x = g.input(&[1, 3, 8, 8]);
    let y = g.conv(x, 3, 5, 1, 1);
    let scale = g.constant(&[5, 1, 1]);
    let y = g.mul(y, scale);
    let offset = g.constant(&[5, 1, 1]);
    let y = g.add(y, offset);
    let y = g.unary(UnaryOp::Relu, y);
    g.becomes(&[y], "transpose0231 conv[relu(a)] transpose0312");
}

#[test]
fn residuals_join_the_later_operator() {
    let mut g = Graph::new();
    let x = g.input(&[1, 4, 8, 8]);
    let short = g.conv(x, 1, 6, 1, 1);
    let a = g.conv(x, 3, 4, 1, 1);
    let a = g.unary(UnaryOp::Relu, a);
    let a = g.conv(a, 3, 6, 1, 1);
    let y = g.add(short, a);
    let y = g.unary(UnaryOp::Relu, y);
    let y = g.reduce(ReduceOp::Mean, y, &[2, 3], false);
    g.becomes(&[y], "transpose0231 conv conv[relu(a)] conv[relu(add(b,a))] mean_of");
}

#[test]
fn products_take_bias_and_activation() {
    let mut g = Graph::new();
    let x = g.batched(&[6, 8]);
    let w = g.constant(&[8, 4]);
    let b = g.constant(&[4]);
    let y = g.matmul(x, w);
    let y = g.add(b, y);
    let y = g.unary(UnaryOp::Tanh, y);
    let z = g.batched(&[6, 4]);
    let y = g.add(y, z);
    g.becomes(&[y], "matmul[add(tanh(a),b)]");
}

#[test]
fn regions_gather_without_repeating_work() {
    let mut g = Graph::new();
    let x = g.input(&[3, 5]);
    let c = g.constant(&[5]);
    let a = g.add(x, c);
    let b = g.unary(UnaryOp::Exp, a);
    let d = g.mul(a, b);
    // Read twice: its own region.
    let e = g.unary(UnaryOp::Abs, d);
    let e = g.unary(UnaryOp::Sqrt, e);
    let f = g.unary(UnaryOp::Sin, e);
    let h = g.unary(UnaryOp::Cos, e);
    g.becomes(&[f, h], "pointwise[sqrt(abs(mul(add(a,b),exp(add(a,b)))))] sin cos");
}

#[test]
fn slices_and_concats_resolve() {
    let mut g = Graph::new();
    let (a, b) = (g.input(&[2, 3, 4]), g.input(&[2, 5, 4]));
    let range = |axis, start: i64, len: i64, step| SliceRange {
        axis,
        start: Dim::Fixed(start),
        len: Dim::Fixed(len),
        step,
    };
    let c = g.op(Concat { axis: 1 }, &[a, b]);
    let p = g.op(Slice { ranges: vec![range(1, 4, 3, 1)] }, &[c]);
    let q = g.op(Slice { ranges: vec![range(1, 2, 1, 1), range(2, 1, 2, 1)] }, &[p]);
    let whole = g.op(Slice { ranges: vec![range(1, 0, 3, 1)] }, &[c]);
    let y = g.unary(UnaryOp::Neg, q);
    let z = g.unary(UnaryOp::Exp, whole);
    g.becomes(&[y, z], "slice neg exp");
}

#[test]
fn powers_and_exact_quotients() {
    let mut g = Graph::new();
    let x = g.input(&[7]);
    let two = g.scalar(2.0);
    let a = g.binary(BinaryOp::Pow, x, two);
    let b = g.add_to(a, 1.0);
    let half = g.scalar(0.5);
    let c = g.binary(BinaryOp::Pow, b, half);
    let one = g.scalar(1.0);
    let d = g.div(one, c);
    let eight = g.scalar(8.0);
    let e = g.div(d, eight);
    let three = g.scalar(3.0);
    let f = g.div(e, three);
    g.becomes(&[f], "pointwise[div(mul(rsqrt(add(mul(a,a),1)),0.125),3)]");
}

#[test]
fn projections_of_one_tensor_merge() {
    let mut g = Graph::new();
    let x = g.batched(&[5, 12]);
    let head = |g: &mut Graph, scaled: bool| {
        let (w, b) = (g.constant(&[12, 12]), g.constant(&[12]));
        let y = g.matmul(x, w);
        let y = if scaled { g.add(y, b) } else { y };
        let mut shape = g.net.ty(x).shape.to_vec();
        shape.pop();
        shape.extend([Dim::Fixed(3), Dim::Fixed(4)]);
        let y = g.op(Reshape { shape }, &[y]);
        g.transpose(y, &[0, 2, 1, 3])
    };
    let (q, k, v) = (head(&mut g, true), head(&mut g, false), head(&mut g, true));
    let k = g.transpose(k, &[0, 1, 3, 2]);
    let s = g.matmul(q, k);
    let s = g.op(Softmax { axis: 3, log: false }, &[s]);
    let y = g.matmul(s, v);
    g.becomes(&[y], "matmul reshape slice transpose0213 slice transpose0213 slice transpose0213 attention*1");
}

#[test]
fn branches_merge_unless_they_end_in_a_concat() {
    let mut g = Graph::new();
    let x = g.input(&[1, 3, 8, 8]);
    let x = g.conv(x, 1, 8, 1, 1);
    let relu = |g: &mut Graph, x: ValueId| g.unary(UnaryOp::Relu, x);
    let a = g.conv(x, 1, 4, 1, 1);
    let a = relu(&mut g, a);
    let b = g.conv(x, 1, 5, 1, 1);
    let b = relu(&mut g, b);
    let b = g.conv(b, 3, 4, 1, 1);
    let c = g.conv(x, 1, 6, 1, 1);
    let c = relu(&mut g, c);
    let c = g.conv(c, 3, 4, 1, 1);
    // Another activation.
    let d = g.conv(x, 1, 4, 1, 1);
    let d = g.unary(UnaryOp::Sigmoid, d);
    let d = g.conv(d, 3, 4, 1, 1);
    let y = g.op(Concat { axis: 1 }, &[a, b, c, d]);
    let y = g.reduce(ReduceOp::Mean, y, &[2, 3], false);
    let net = g.optimized(&[y]);
    let text = summary(&net);
    assert_eq!(text.matches("conv").count(), 7, "{text}");
    assert_eq!(text.matches("slice").count(), 2, "{text}");
}

#[test]
fn zeros_around_a_convolution_become_its_padding() {
    let mut g = Graph::new();
    let x = g.input(&[1, 1, 8, 8]);
    let zero = g.scalar(0.0);
    let dims = |d: [i64; 4]| d.map(Dim::Fixed).to_vec();
    let pad = |mode| Pad { mode, before: dims([0, 0, 1, 2]), after: dims([0, 0, 3, 0]) };
    let y = g.op(pad(PadMode::Constant), &[x, zero]);
    let y = g.conv(y, 3, 1, 2, 1);
    g.becomes(&[y], "reshape conv reshape");
    let mut g = Graph::new();
    let x = g.input(&[1, 1, 8, 8]);
    let y = g.op(pad(PadMode::Edge), &[x]);
    let y = g.conv(y, 3, 1, 2, 1);
    g.becomes(&[y], "pad reshape conv reshape");
}

#[test]
fn reshapes_around_products_and_activations_move_out_of_the_way() {
    // A Gemm between two reshapes, and an activation behind them.
    let mut g = Graph::new();
    let x = g.input(&[2, 3, 8]);
    let w = g.constant(&[8, 4]);
    let y = g.reshape(x, &[6, 8]);
    let y = g.matmul(y, w);
    let y = g.reshape(y, &[2, 3, 4]);
    let y = g.unary(UnaryOp::Tanh, y);
    let z = g.input(&[2, 3, 4]);
    let y = g.add(y, z);
    g.becomes(&[y], "matmul[add(tanh(a),b)]");
    // A bias behind the squeeze of a convolution.
    let mut g = Graph::new();
    let x = g.input(&[1, 1, 8, 8]);
    let y = g.conv(x, 3, 1, 1, 1);
    let y = g.reshape(y, &[1, 64]);
    let y = g.add_to(y, 0.5);
    let y = g.unary(UnaryOp::Relu, y);
    g.becomes(&[y], "reshape conv[relu(a)] reshape");
}

#[test]
fn a_bias_of_split_channels_joins_the_product() {
    let mut g = Graph::new();
    let x = g.batched(&[5, 12]);
    let w = g.constant(&[12, 12]);
    let y = g.matmul(x, w);
    let mut shape = g.net.ty(x).shape.to_vec();
    shape.pop();
    shape.extend([Dim::Fixed(3), Dim::Fixed(4)]);
    let y = g.op(Reshape { shape }, &[y]);
    let bias = g.constant(&[3, 4]);
    let y = g.add(y, bias);
    let y = g.transpose(y, &[0, 2, 1, 3]);
    let net = g.optimized(&[y]);
    assert_eq!(summary(&net), "matmul reshape transpose0213");
    // Not one value per channel: it stays behind the split.
    let mut g = Graph::new();
    let x = g.batched(&[5, 12]);
    let w = g.constant(&[12, 12]);
    let y = g.matmul(x, w);
    let mut shape = g.net.ty(x).shape.to_vec();
    shape.pop();
    shape.extend([Dim::Fixed(3), Dim::Fixed(4)]);
    let y = g.op(Reshape { shape }, &[y]);
    let bias = g.constant(&[3, 1]);
    let y = g.add(y, bias);
    let net = g.optimized(&[y]);
    assert_eq!(summary(&net), "matmul reshape add");
}
