//! The same functions as different exporters write them, and their near misses.

use super::*;

fn clip(g: &mut Graph, x: ValueId, lo: f32, hi: f32) -> ValueId {
    let (lo, hi) = (g.scalar(lo), g.scalar(hi));
    let x = g.binary(BinaryOp::Max, x, lo);
    g.binary(BinaryOp::Min, x, hi)
}

fn all(want: &str, spellings: &[fn(&mut Graph, ValueId) -> ValueId]) {
    for f in spellings {
        let mut g = Graph::new();
        let x = g.batched(&[4, 6]);
        let y = f(&mut g, x);
        g.becomes(&[y], want);
    }
}

fn none(unwanted: &str, f: fn(&mut Graph, ValueId) -> ValueId) {
    let mut g = Graph::new();
    let x = g.batched(&[4, 6]);
    let y = f(&mut g, x);
    let net = g.optimized(&[y]);
    assert!(!summary(&net).contains(unwanted), "{}", summary(&net));
}

#[test]
fn gelu() {
    all(
        "gelu",
        &[
            // TorchScript: x * (erf(x / sqrt 2) + 1) * 0.5.
            |g, x| {
                let c = g.scalar(std::f32::consts::SQRT_2);
                let a = g.div(x, c);
                let a = g.unary(UnaryOp::Erf, a);
                let a = g.add_to(a, 1.0);
                let a = g.mul(x, a);
                g.mul_by(a, 0.5)
            },
            // torch dynamo: (x * 0.5) * (erf(x * 0.7071) + 1).
            |g, x| {
                let h = g.mul_by(x, 0.5);
                let a = g.mul_by(x, std::f32::consts::FRAC_1_SQRT_2);
                let a = g.unary(UnaryOp::Erf, a);
                let a = g.add_to(a, 1.0);
                g.mul(h, a)
            },
            // tf2onnx / Keras: 0.5 * x * (1 + erf(x / 1.4142135)), constant first.
            |g, x| {
                let (h, one, c) = (g.scalar(0.5), g.scalar(1.0), g.scalar(std::f32::consts::SQRT_2));
                let h = g.mul(h, x);
                let a = g.div(x, c);
                let a = g.unary(UnaryOp::Erf, a);
                let a = g.add(one, a);
                g.mul(h, a)
            },
            // TensorFlow: 0.5 * x * erfc(-x * 0.7071).
            |g, x| {
                let h = g.mul_by(x, 0.5);
                let a = g.unary(UnaryOp::Neg, x);
                let a = g.mul_by(a, std::f32::consts::FRAC_1_SQRT_2);
                let a = g.unary(UnaryOp::Erf, a);
                let one = g.scalar(1.0);
                let a = g.sub(one, a);
                g.mul(h, a)
            },
            // paddle2onnx: x * (0.5 * (1 + erf)).
            |g, x| {
                let c = g.scalar(std::f32::consts::SQRT_2);
                let a = g.div(x, c);
                let a = g.unary(UnaryOp::Erf, a);
                let a = g.add_to(a, 1.0);
                let a = g.mul_by(a, 0.5);
                g.mul(x, a)
            },
        ],
    );
    none("gelu", |g, x| {
        let a = g.mul_by(x, 0.8);
        let a = g.unary(UnaryOp::Erf, a);
        let a = g.add_to(a, 1.0);
        let a = g.mul(x, a);
        g.mul_by(a, 0.5)
    });
}

#[test]
fn gelu_by_tanh() {
    all(
        "gelu_tanh",
        &[
            // transformers' NewGELU in TorchScript.
            |g, x| {
                let three = g.scalar(3.0);
                let a = g.binary(BinaryOp::Pow, x, three);
                let a = g.mul_by(a, 0.044715);
                let a = g.add(x, a);
                let a = g.mul_by(a, 0.797_884_6);
                let a = g.unary(UnaryOp::Tanh, a);
                let a = g.add_to(a, 1.0);
                let h = g.mul_by(x, 0.5);
                g.mul(h, a)
            },
            // torch dynamo: x * x * x.
            |g, x| {
                let a = g.mul(x, x);
                let a = g.mul(a, x);
                let a = g.mul_by(a, 0.044715);
                let a = g.add(x, a);
                let a = g.mul_by(a, 0.797_884_6);
                let a = g.unary(UnaryOp::Tanh, a);
                let a = g.add_to(a, 1.0);
                let h = g.mul_by(x, 0.5);
                g.mul(h, a)
            },
            // jax through tf2onnx: every product to the right.
            |g, x| {
                let c = g.scalar(0.044715);
                let a = g.mul(x, c);
                let a = g.mul(x, a);
                let a = g.mul(x, a);
                let a = g.add(x, a);
                let a = g.mul_by(a, 0.797_884_6);
                let a = g.unary(UnaryOp::Tanh, a);
                let a = g.add_to(a, 1.0);
                let a = g.mul_by(a, 0.5);
                g.mul(x, a)
            },
            // Keras: the factor inside.
            |g, x| {
                let a = g.mul(x, x);
                let a = g.mul_by(a, 0.044715);
                let a = g.add_to(a, 1.0);
                let b = g.mul_by(x, 0.797_884_6);
                let a = g.mul(b, a);
                let a = g.unary(UnaryOp::Tanh, a);
                let a = g.add_to(a, 1.0);
                let a = g.mul_by(a, 0.5);
                g.mul(x, a)
            },
        ],
    );
    none("gelu", |g, x| {
        let a = g.mul(x, x);
        let a = g.mul_by(a, 0.044715);
        let a = g.add(x, a);
        let a = g.mul_by(a, 0.797_884_6);
        let a = g.unary(UnaryOp::Tanh, a);
        let a = g.add_to(a, 1.0);
        let h = g.mul_by(x, 0.5);
        g.mul(h, a)
    });
}

#[test]
fn swish() {
    all(
        "silu",
        &[
            |g, x| {
                let s = g.unary(UnaryOp::Sigmoid, x);
                g.mul(x, s)
            },
            |g, x| {
                let s = g.unary(UnaryOp::Sigmoid, x);
                g.mul(s, x)
            },
            |g, x| {
                let n = g.unary(UnaryOp::Neg, x);
                let e = g.unary(UnaryOp::Exp, n);
                let d = g.add_to(e, 1.0);
                g.div(x, d)
            },
        ],
    );
    none("silu", |g, x| {
        let a = g.mul_by(x, 1.702);
        let s = g.unary(UnaryOp::Sigmoid, a);
        g.mul(x, s)
    });
}

#[test]
fn hard_swish() {
    all(
        "hard_swish",
        &[
            // torch: x * clip(x + 3, 0, 6) / 6.
            |g, x| {
                let a = g.add_to(x, 3.0);
                let a = clip(g, a, 0.0, 6.0);
                let a = g.mul(x, a);
                let six = g.scalar(6.0);
                g.div(a, six)
            },
            // HardSigmoid with alpha 1/6: x * clip(x / 6 + 0.5, 0, 1).
            |g, x| {
                let a = g.mul_by(x, 1.0 / 6.0);
                let a = g.add_to(a, 0.5);
                let a = clip(g, a, 0.0, 1.0);
                g.mul(x, a)
            },
            // Keras: relu6(x + 3) * 0.1666 * x.
            |g, x| {
                let a = g.add_to(x, 3.0);
                let a = g.unary(UnaryOp::Relu, a);
                let six = g.scalar(6.0);
                let a = g.binary(BinaryOp::Min, a, six);
                let a = g.mul_by(a, 1.0 / 6.0);
                g.mul(a, x)
            },
            // The same as one expression.
            |g, x| {
                let mut e = Expr::new();
                let i = e.push(ExprNode::Input(0));
                let mut c = |v: f32| e.push(ExprNode::Const(engraft_network::Scalar::f32(v)));
                let (three, zero, six) = (c(3.0), c(0.0), c(6.0));
                let a = e.push(ExprNode::Binary(BinaryOp::Add, i, three));
                let a = e.push(ExprNode::Binary(BinaryOp::Max, a, zero));
                let a = e.push(ExprNode::Binary(BinaryOp::Min, a, six));
                let a = e.push(ExprNode::Binary(BinaryOp::Mul, i, a));
                e.push(ExprNode::Binary(BinaryOp::Div, a, six));
                g.op(Pointwise { expr: e }, &[x])
            },
        ],
    );
    // paddle's HardSigmoid has slope 0.2.
    none("hard_swish", |g, x| {
        let a = g.mul_by(x, 0.2);
        let a = g.add_to(a, 0.5);
        let a = clip(g, a, 0.0, 1.0);
        g.mul(x, a)
    });
}

#[test]
fn layer_norm() {
    all(
        "layer_norm+scale+bias",
        &[
            // TorchScript.
            |g, x| {
                let m = g.mean(x);
                let d = g.sub(x, m);
                let two = g.scalar(2.0);
                let q = g.binary(BinaryOp::Pow, d, two);
                let v = g.mean(q);
                let v = g.add_to(v, 1e-5);
                let v = g.unary(UnaryOp::Sqrt, v);
                let y = g.div(d, v);
                let (s, b) = (g.constant(&[6]), g.constant(&[6]));
                let y = g.mul(y, s);
                g.add(y, b)
            },
            // torch dynamo.
            |g, x| {
                let m = g.mean(x);
                let d = g.sub(x, m);
                let q = g.mul(d, d);
                let v = g.mean(q);
                let v = g.add_to(v, 1e-5);
                let v = g.unary(UnaryOp::Sqrt, v);
                let v = g.unary(UnaryOp::Recip, v);
                let y = g.mul(d, v);
                let (s, b) = (g.constant(&[6]), g.constant(&[6]));
                let y = g.mul(s, y);
                g.add(b, y)
            },
            // Keras through tf2onnx.
            |g, x| {
                let m = g.mean(x);
                let d = g.sub(x, m);
                let q = g.mul(d, d);
                let v = g.mean(q);
                let v = g.add_to(v, 1e-3);
                let v = g.unary(UnaryOp::Sqrt, v);
                let r = g.unary(UnaryOp::Recip, v);
                let (s, b) = (g.constant(&[6]), g.constant(&[6]));
                let r = g.mul(r, s);
                let a = g.mul(x, r);
                let c = g.mul(m, r);
                let c = g.sub(b, c);
                g.add(a, c)
            },
            // Keras on TensorFlow.
            |g, x| {
                let m = g.mean(x);
                let d = g.sub(x, m);
                let q = g.mul(d, d);
                let v = g.mean(q);
                let v = g.add_to(v, 1e-3);
                let r = g.unary(UnaryOp::Rsqrt, v);
                let (s, b) = (g.constant(&[1, 1, 6]), g.constant(&[1, 1, 6]));
                let r = g.mul(r, s);
                let n = g.unary(UnaryOp::Neg, m);
                let c = g.mul(n, r);
                let c = g.add(c, b);
                let a = g.mul(x, r);
                g.add(a, c)
            },
            // The mean dropped and put back.
            |g, x| {
                let m = g.reduce(ReduceOp::Mean, x, &[2], false);
                let shape = {
                    let mut s = g.net.ty(x).shape.to_vec();
                    s[2] = Dim::Fixed(1);
                    s
                };
                let m = g.op(Reshape { shape }, &[m]);
                let d = g.sub(x, m);
                let q = g.mul(d, d);
                let v = g.mean(q);
                let v = g.add_to(v, 1e-5);
                let v = g.unary(UnaryOp::Sqrt, v);
                let y = g.div(d, v);
                let (s, b) = (g.constant(&[1, 1, 6]), g.constant(&[6]));
                let y = g.mul(y, s);
                g.add(y, b)
            },
        ],
    );
    // Keras on TensorFlow, with neither scale nor offset.
    all(
        "layer_norm",
        &[|g, x| {
            let m = g.mean(x);
            let d = g.sub(x, m);
            let q = g.mul(d, d);
            let v = g.mean(q);
            let v = g.add_to(v, 1e-3);
            let r = g.unary(UnaryOp::Rsqrt, v);
            let n = g.unary(UnaryOp::Neg, m);
            let c = g.mul(n, r);
            let a = g.mul(x, r);
            g.add(a, c)
        }],
    );
    // The variance of something else.
    none("layer_norm", |g, x| {
        let m = g.mean(x);
        let d = g.sub(x, m);
        let q = g.mul(x, d);
        let q = g.unary(UnaryOp::Abs, q);
        let v = g.mean(q);
        let v = g.add_to(v, 1e-5);
        let v = g.unary(UnaryOp::Sqrt, v);
        g.div(d, v)
    });
    // Mean and variance over different axes.
    none("layer_norm", |g, x| {
        let m = g.mean(x);
        let d = g.sub(x, m);
        let q = g.mul(d, d);
        let v = g.reduce(ReduceOp::Mean, q, &[1], true);
        let v = g.add_to(v, 1e-5);
        let v = g.unary(UnaryOp::Sqrt, v);
        g.div(d, v)
    });
}

#[test]
fn rms_norm() {
    all(
        "rms_norm+scale",
        &[
            |g, x| {
                let two = g.scalar(2.0);
                let q = g.binary(BinaryOp::Pow, x, two);
                let v = g.mean(q);
                let v = g.add_to(v, 1e-6);
                let v = g.unary(UnaryOp::Sqrt, v);
                let one = g.scalar(1.0);
                let r = g.div(one, v);
                let y = g.mul(x, r);
                let s = g.constant(&[6]);
                g.mul(s, y)
            },
            |g, x| {
                let q = g.mul(x, x);
                let v = g.mean(q);
                let v = g.add_to(v, 1e-6);
                let r = g.unary(UnaryOp::Rsqrt, v);
                let y = g.mul(x, r);
                let s = g.constant(&[6]);
                g.mul(y, s)
            },
            |g, x| {
                let q = g.mul(x, x);
                let v = g.mean(q);
                let v = g.add_to(v, 1e-6);
                let r = g.unary(UnaryOp::Sqrt, v);
                let y = g.div(x, r);
                let s = g.constant(&[6]);
                g.mul(y, s)
            },
        ],
    );
    none("rms_norm", |g, x| {
        let q = g.mul(x, x);
        let v = g.reduce(ReduceOp::Sum, q, &[2], true);
        let v = g.add_to(v, 1e-6);
        let r = g.unary(UnaryOp::Rsqrt, v);
        g.mul(x, r)
    });
}

#[test]
fn softmax() {
    all(
        "softmax",
        &[
            |g, x| {
                let m = g.reduce(ReduceOp::Max, x, &[2], true);
                let d = g.sub(x, m);
                let e = g.unary(UnaryOp::Exp, d);
                let s = g.reduce(ReduceOp::Sum, e, &[2], true);
                g.div(e, s)
            },
            |g, x| {
                let e = g.unary(UnaryOp::Exp, x);
                let s = g.reduce(ReduceOp::Sum, e, &[2], true);
                g.div(e, s)
            },
            |g, x| {
                let m = g.reduce(ReduceOp::Max, x, &[1], true);
                let d = g.sub(x, m);
                let e = g.unary(UnaryOp::Exp, d);
                let s = g.reduce(ReduceOp::Sum, e, &[1], true);
                let r = g.unary(UnaryOp::Recip, s);
                g.mul(e, r)
            },
        ],
    );
    none("softmax", |g, x| {
        let m = g.reduce(ReduceOp::Max, x, &[1], true);
        let d = g.sub(x, m);
        let e = g.unary(UnaryOp::Exp, d);
        let s = g.reduce(ReduceOp::Sum, e, &[2], true);
        g.div(e, s)
    });
}

/// Splits `[2, 5, 12]` into 3 heads.
fn heads(g: &mut Graph, x: ValueId, perm: &[usize]) -> ValueId {
    let x = g.reshape(x, &[2, 5, 3, 4]);
    g.transpose(x, perm)
}

fn softmaxed(g: &mut Graph, x: ValueId) -> ValueId {
    let axis = g.net.ty(x).rank() - 1;
    g.op(Softmax { axis, log: false }, &[x])
}

#[test]
fn attention() {
    let inputs = |g: &mut Graph| [g.input(&[2, 5, 12]), g.input(&[2, 5, 12]), g.input(&[2, 5, 12])];
    let merged = |g: &mut Graph, y: ValueId| {
        let y = g.transpose(y, &[0, 2, 1, 3]);
        g.reshape(y, &[2, 5, 12])
    };
    // Heads are split and merged by views, whose order does not matter.
    let check = |g: Graph, y: ValueId, want: &str| {
        let text = summary(&g.optimized(&[y]));
        let mut words: Vec<&str> = text.split(' ').collect();
        words.sort_unstable();
        let views = "reshape reshape reshape reshape transpose0213 transpose0213 transpose0213 transpose0213";
        assert_eq!(words.join(" "), format!("{want} {views}"));
    };

    // BERT, TorchScript: scores / sqrt(d) + mask.
    let mut g = Graph::new();
    let [q, k, v] = inputs(&mut g);
    let mask = g.input(&[2, 1, 1, 5]);
    let (q, k, v) =
        (heads(&mut g, q, &[0, 2, 1, 3]), heads(&mut g, k, &[0, 2, 3, 1]), heads(&mut g, v, &[0, 2, 1, 3]));
    let s = g.matmul(q, k);
    let two = g.scalar(2.0);
    let s = g.div(s, two);
    let s = g.add(s, mask);
    let p = softmaxed(&mut g, s);
    let y = g.matmul(p, v);
    let y = merged(&mut g, y);
    check(g, y, "attention*0.5+mask");

    // torch dynamo: both operands scaled by the root.
    let mut g = Graph::new();
    let [q, k, v] = inputs(&mut g);
    let (q, k, v) =
        (heads(&mut g, q, &[0, 2, 1, 3]), heads(&mut g, k, &[0, 2, 1, 3]), heads(&mut g, v, &[0, 2, 1, 3]));
    let root = std::f32::consts::FRAC_1_SQRT_2;
    let q = g.mul_by(q, root);
    let k = g.transpose(k, &[0, 1, 3, 2]);
    let k = g.mul_by(k, root);
    let s = g.matmul(q, k);
    let p = softmaxed(&mut g, s);
    let y = g.matmul(p, v);
    let y = merged(&mut g, y);
    check(g, y, "attention*0.5");

    // tf2onnx / Keras: queries scaled first, constant first, mask added in front.
    let mut g = Graph::new();
    let [q, k, v] = inputs(&mut g);
    let half = g.scalar(0.5);
    let (q, k, v) =
        (heads(&mut g, q, &[0, 2, 1, 3]), heads(&mut g, k, &[0, 2, 3, 1]), heads(&mut g, v, &[0, 2, 1, 3]));
    let q = g.mul(half, q);
    let s = g.matmul(q, k);
    let mask = g.constant(&[5, 5]);
    let s = g.add(mask, s);
    let p = softmaxed(&mut g, s);
    let y = g.matmul(p, v);
    let y = merged(&mut g, y);
    check(g, y, "attention*0.5+mask");

    // torch dynamo with the guard against rows that are NaN, behind a mask chosen from finite values.
    let mut g = Graph::new();
    let (q, k, v) = (g.input(&[2, 3, 5, 4]), g.input(&[2, 3, 4, 5]), g.input(&[2, 3, 5, 4]));
    let keep: Vec<bool> = (0..10).map(|i| i % 3 != 0).collect();
    let keep = g.net.add_constant("keep", Tensor::from_bools(&[2, 1, 1, 5], &keep).unwrap());
    let (zero, low) = (g.scalar(0.0), g.scalar(f32::MIN));
    let mask = g.op(Select, &[keep, zero, low]);
    let s = g.matmul(q, k);
    let s = g.add(s, mask);
    let p = softmaxed(&mut g, s);
    let nan = g.unary(UnaryOp::IsNan, p);
    let p = g.op(Select, &[nan, zero, p]);
    let y = g.matmul(p, v);
    g.becomes(&[y], "transpose0132 attention*1+mask");

    // GPT-2: scores chosen by a condition, then a mask added.
    let mut g = Graph::new();
    let [q, k, v] = inputs(&mut g);
    let mask = g.input(&[2, 1, 1, 5]);
    let (q, k, v) =
        (heads(&mut g, q, &[0, 2, 1, 3]), heads(&mut g, k, &[0, 2, 3, 1]), heads(&mut g, v, &[0, 2, 1, 3]));
    let s = g.matmul(q, k);
    let s = g.mul_by(s, 0.5);
    let lower: Vec<bool> = (0..25).map(|i| i % 5 <= i / 5).collect();
    let lower = g.net.add_constant("lower", Tensor::from_bools(&[1, 1, 5, 5], &lower).unwrap());
    let low = g.scalar(f32::MIN);
    let s = g.op(Select, &[lower, s, low]);
    let s = g.add(s, mask);
    let p = softmaxed(&mut g, s);
    let y = g.matmul(p, v);
    let net = g.optimized(&[y]);
    assert!(summary(&net).contains("attention*0.5+mask"), "{}", summary(&net));

    // Tokens and mask with names of their own for the same length.
    let mut g = Graph::new();
    let named = |g: &mut Graph, name: &str, rank: usize, axis: usize, size: i64| {
        let input = g.net.inputs().len() as u32;
        let symbol = g.net.add_symbol(name, SymbolSource::InputDim { input, axis: axis as u32 });
        let mut shape = vec![Dim::Fixed(size); rank];
        shape[axis] = Dim::symbol(symbol);
        let name = format!("x{input}");
        g.net.add_input(name, TensorType::new(DType::F32, shape))
    };
    let q = named(&mut g, "queries", 4, 2, 3);
    let k = named(&mut g, "keys", 4, 2, 3);
    let v = g.net.add_input("v", g.net.ty(k).clone());
    let mask = named(&mut g, "masked", 4, 3, 1);
    let k = g.transpose(k, &[0, 1, 3, 2]);
    let s = g.matmul(q, k);
    let s = g.mul_by(s, 0.5);
    let s = g.add(s, mask);
    let p = softmaxed(&mut g, s);
    let y = g.matmul(p, v);
    g.becomes(&[y], "attention*0.5+mask");

    // Three axes, as Swin and fused batches of heads have them.
    let mut g = Graph::new();
    let (q, k, v) = (g.input(&[6, 5, 4]), g.input(&[6, 5, 4]), g.input(&[6, 5, 4]));
    let k = g.transpose(k, &[0, 2, 1]);
    let s = g.matmul(q, k);
    let p = softmaxed(&mut g, s);
    let y = g.matmul(p, v);
    g.becomes(&[y], "reshape reshape reshape attention*1 reshape");
}

#[test]
fn near_misses_of_attention() {
    // Softmax over the queries.
    let mut g = Graph::new();
    let (q, k, v) = (g.input(&[2, 3, 5, 4]), g.input(&[2, 3, 4, 5]), g.input(&[2, 3, 5, 4]));
    let s = g.matmul(q, k);
    let p = g.op(Softmax { axis: 2, log: false }, &[s]);
    let y = g.matmul(p, v);
    assert!(!summary(&g.optimized(&[y])).contains("attention"));

    // The weights are a result as well.
    let mut g = Graph::new();
    let (q, k, v) = (g.input(&[2, 3, 5, 4]), g.input(&[2, 3, 4, 5]), g.input(&[2, 3, 5, 4]));
    let s = g.matmul(q, k);
    let p = softmaxed(&mut g, s);
    let y = g.matmul(p, v);
    assert!(!summary(&g.optimized(&[p, y])).contains("attention"));

    // A mask that may give the scores more rows.
    let mut g = Graph::new();
    let rows = [0, 3].map(|input| {
        let symbol = g.net.add_symbol(&format!("rows{input}"), SymbolSource::InputDim { input, axis: 2 });
        Dim::symbol(symbol)
    });
    let [one, four, five] = [1, 4, 5].map(Dim::Fixed);
    let q = TensorType::new(DType::F32, [one.clone(), one.clone(), rows[0].clone(), four.clone()]);
    let q = g.net.add_input("q", q);
    let (k, v) = (g.input(&[1, 1, 4, 5]), g.input(&[1, 1, 5, 4]));
    let mask =
        g.net.add_input("mask", TensorType::new(DType::F32, [one.clone(), one, rows[1].clone(), five]));
    let s = g.matmul(q, k);
    let s = g.add(s, mask);
    let p = softmaxed(&mut g, s);
    let y = g.matmul(p, v);
    assert!(!summary(&g.optimized(&[y])).contains("attention"));

    // A factor outside of the mask.
    let mut g = Graph::new();
    let (q, k, v) = (g.input(&[2, 3, 5, 4]), g.input(&[2, 3, 4, 5]), g.input(&[2, 3, 5, 4]));
    let mask = g.input(&[5, 5]);
    let s = g.matmul(q, k);
    let s = g.add(s, mask);
    let s = g.mul_by(s, 0.5);
    let p = softmaxed(&mut g, s);
    let y = g.matmul(p, v);
    assert!(!summary(&g.optimized(&[y])).contains("attention"));
}

#[test]
fn without_a_kernel_attention_is_two_products_and_a_softmax() {
    let mut g = Graph::new();
    g.isa = Some(Isa::Portable);
    let (q, k, v) = (g.input(&[2, 3, 5, 4]), g.input(&[2, 3, 5, 4]), g.input(&[2, 3, 5, 4]));
    // No kernel takes f64.
    let [q, k, v] = [q, k, v].map(|x| g.op(Cast { to: DType::F64 }, &[x]));
    let [root, zero, low] = [std::f64::consts::FRAC_1_SQRT_2, 0.0, f64::MIN]
        .map(|x| g.net.add_constant(format!("{x}"), Tensor::scalar(x)));
    let q = g.mul(q, root);
    let k = g.transpose(k, &[0, 1, 3, 2]);
    let k = g.mul(k, root);
    let s = g.matmul(q, k);
    let keep: Vec<bool> = (0..10).map(|i| i % 3 != 0).collect();
    let keep = g.net.add_constant("keep", Tensor::from_bools(&[2, 1, 1, 5], &keep).unwrap());
    let s = g.op(Select, &[keep, s, low]);
    let p = softmaxed(&mut g, s);
    let nan = g.unary(UnaryOp::IsNan, p);
    let p = g.op(Select, &[nan, zero, p]);
    let y = g.matmul(p, v);
    let text = summary(&g.optimized(&[y]));
    assert!(text.ends_with("matmul pointwise[add(mul(a,0.5),b)] softmax matmul"), "{text}");
}
