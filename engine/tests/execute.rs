//! Whole engines against the network's reference evaluation: views, in-place concats, stages, specializations, threads.

use engraft_engine::pool::Pool;
use engraft_engine::{Builder, BuilderConfig, Engine, RunError};
use engraft_kernels::{Isa, Precision, Serial, Workers};
use engraft_network::{
    BinaryOp, DType, Def, Dim, Network, Op, Scalar, SymbolSource, Tensor, TensorType, UnaryOp, ValueId, ops,
};
use std::sync::Arc;

fn random(shape: &[usize], seed: u32) -> Tensor {
    let mut x = seed.wrapping_mul(2_654_435_761) | 1;
    let data: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            (x as i32 as f32) / 2_147_483_648.0
        })
        .collect();
    Tensor::from_slice(shape, &data).unwrap()
}

fn f32s(dims: &[Dim]) -> TensorType {
    TensorType::new(DType::F32, dims.iter().cloned())
}

fn unary(op: UnaryOp) -> Op {
    ops::Unary { op }.into()
}

fn binary(op: BinaryOp) -> Op {
    ops::Binary { op }.into()
}

fn transpose(perm: &[usize]) -> Op {
    ops::Transpose { perm: perm.to_vec() }.into()
}

fn build(net: &Network, isa: Isa, threads: usize) -> Arc<Engine> {
    let config = BuilderConfig { isa, threads, optimization_level: 0, ..BuilderConfig::default() };
    Builder::new(&config).build_engine(net.clone()).unwrap()
}

/// Runs the engine under every instruction set, on one and on two threads, twice each, and compares with the reference.
fn check(net: &Network, cases: &[Vec<Tensor>]) {
    let pool = Pool::new(2);
    for isa in Isa::available() {
        for workers in [&Serial as &dyn Workers, &pool] {
            let engine = build(net, isa, workers.threads());
            for inputs in cases {
                let want = net.eval(inputs).unwrap();
                for _ in 0..2 {
                    let got = engine.run_tensors(inputs, workers).unwrap();
                    assert_eq!(got.len(), want.len());
                    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
                        assert_eq!(g.dtype(), w.dtype());
                        assert_eq!(g.shape(), w.shape(), "output {i} under {}", isa.name());
                        let most = (0..w.count()).map(|k| w.get_f64(k).abs()).fold(1e-30, f64::max);
                        for k in 0..w.count() {
                            let (a, b) = (g.get_f64(k), w.get_f64(k));
                            assert!(
                                (a - b).abs() <= 2e-5 * most || a.is_nan() && b.is_nan(),
                                "output {i}[{k}] is {a}, not {b}, under {} on {} threads",
                                isa.name(),
                                workers.threads()
                            );
                        }
                    }
                }
            }
        }
    }
}

fn conv(net: &mut Network, name: &str, x: ValueId, k: usize, cin: usize, cout: usize, seed: u32) -> ValueId {
    let w = net.add_constant(format!("{name}.w"), random(&[k, k, cin, cout], seed));
    let b = net.add_constant(format!("{name}.b"), random(&[cout], seed + 1));
    let op = ops::Conv {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        padding: ops::Padding::Explicit { begin: vec![k / 2; 2], end: vec![k / 2; 2] },
        groups: 1,
        epilogue: ops::Epilogue { bias: true, post: None },
    };
    net.add(name, op.into(), &[x, w, b]).unwrap()
}

/// Channels-first at the borders, two branches that meet in a concat, a residual, a pooled head.
fn small_cnn() -> Network {
    let mut net = Network::new("cnn");
    let n = Dim::symbol(net.add_symbol("N", SymbolSource::InputDim { input: 0, axis: 0 }));
    let h = Dim::symbol(net.add_symbol("H", SymbolSource::InputDim { input: 0, axis: 2 }));
    let x = net.add_input("x", f32s(&[n, 3.into(), h, 10.into()]));
    let t = net.add("t", transpose(&[0, 2, 3, 1]), &[x]).unwrap();
    let a = conv(&mut net, "a", t, 3, 3, 8, 1);
    let a = net.add("a.relu", unary(UnaryOp::Relu), &[a]).unwrap();
    let b = conv(&mut net, "b", a, 1, 8, 5, 3);
    let c = conv(&mut net, "c", a, 3, 8, 7, 5);
    let cat = net.add("cat", ops::Concat { axis: 3 }.into(), &[b, a, c]).unwrap();
    let d = conv(&mut net, "d", cat, 3, 20, 20, 7);
    let sum = net.add("sum", binary(BinaryOp::Add), &[d, cat]).unwrap();
    let back = net.add("back", transpose(&[0, 3, 1, 2]), &[sum]).unwrap();
    let mean = ops::Reduce { op: ops::ReduceOp::Mean, axes: vec![1, 2], keep_dims: false };
    let head = net.add("head", mean.into(), &[sum]).unwrap();
    let w = net.add_constant("fc", random(&[20, 4], 9));
    let y = net.add("y", ops::MatMul::default().into(), &[head, w]).unwrap();
    net.set_outputs(vec![y, back]);
    net
}

#[test]
fn convolutions_with_concat_and_residual() {
    let net = small_cnn();
    check(
        &net,
        &[
            vec![random(&[1, 3, 6, 10], 11)],
            vec![random(&[2, 3, 9, 10], 12)],
            vec![random(&[3, 3, 1, 10], 13)],
        ],
    );
}

/// Images that outgrow the caches: layers take turns, with a residual in place and windows that reach into the next rows.
#[test]
fn large_images_go_through_their_layers_band_by_band() {
    let mut net = Network::new("bands");
    let n = Dim::symbol(net.add_symbol("N", SymbolSource::InputDim { input: 0, axis: 0 }));
    let x = net.add_input("x", f32s(&[n, 72.into(), 66.into(), 4.into()]));
    let wide = conv(&mut net, "wide", x, 1, 4, 48, 1);
    let w = net.add_constant("dw.w", random(&[3, 3, 1, 48], 3));
    let depthwise = ops::Conv {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        padding: ops::Padding::Explicit { begin: vec![1; 2], end: vec![1; 2] },
        groups: 48,
        epilogue: ops::Epilogue::default(),
    };
    let dw = net.add("dw", depthwise.into(), &[wide, w]).unwrap();
    let act = net.add("act", unary(UnaryOp::Relu), &[dw]).unwrap();
    let back = conv(&mut net, "back", act, 1, 48, 48, 5);
    let sum = net.add("sum", binary(BinaryOp::Add), &[back, wide]).unwrap();
    let y = conv(&mut net, "y", sum, 3, 48, 6, 7);
    net.set_outputs(vec![y]);
    check(&net, &[vec![random(&[2, 72, 66, 4], 21)], vec![random(&[1, 72, 66, 4], 22)]]);
    let x = random(&[2, 72, 66, 4], 23);
    let want = net.eval(std::slice::from_ref(&x)).unwrap();
    let most = (0..want[0].count()).map(|k| want[0].get_f64(k).abs()).fold(0.0, f64::max);
    for threads in [2, 3, 8] {
        let engine = build(&net, Isa::best(), threads);
        for _ in 0..10 {
            let got = engine.run_tensors(std::slice::from_ref(&x), &Late(threads)).unwrap();
            let worst = (0..want[0].count())
                .map(|k| (got[0].get_f64(k) - want[0].get_f64(k)).abs())
                .fold(0.0, f64::max);
            assert!(worst <= 2e-5 * most, "{worst} of {most} on {threads} threads");
        }
    }
}

/// Participants one after another on the calling thread, the last first: what a pool does whose threads come late.
struct Late(usize);

impl Workers for Late {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, n: usize, f: &(dyn Fn(usize) + Sync)) {
        (0..n).rev().for_each(f);
    }
}

#[test]
fn any_participant_finishes_a_run_alone_or_with_others() {
    let net = small_cnn();
    // Large enough to be shared among threads.
    let x = random(&[4, 3, 64, 10], 14);
    let want = net.eval(std::slice::from_ref(&x)).unwrap();
    for threads in [2, 3, 8] {
        for workers in [&Late(threads) as &dyn Workers, &Pool::new(threads)] {
            let engine = build(&net, Isa::best(), threads);
            for _ in 0..20 {
                let got = engine.run_tensors(std::slice::from_ref(&x), workers).unwrap();
                for (g, w) in got.iter().zip(&want) {
                    let worst =
                        (0..w.count()).map(|k| (g.get_f64(k) - w.get_f64(k)).abs()).fold(0.0, f64::max);
                    assert!(worst < 1e-4, "{worst} on {threads} threads");
                }
            }
        }
    }
}

/// Bits read as another type where they lie: an input's, a computed value's (which lives on), and a turned one's.
#[test]
fn bits_are_read_as_another_type() {
    let mut net = Network::new("bits");
    let n = Dim::symbol(net.add_symbol("N", SymbolSource::InputDim { input: 0, axis: 0 }));
    let x = net.add_input("x", f32s(&[n, 6.into()]));
    let bits: Op = ops::BitCast { to: DType::I32 }.into();
    let plain = net.add("plain", bits.clone(), &[x]).unwrap();
    let y = net.add("y", unary(UnaryOp::Relu), &[x]).unwrap();
    let turned = net.add("turned", transpose(&[1, 0]), &[y]).unwrap();
    let cast = net.add("cast", bits, &[turned]).unwrap();
    let one = net.add_constant("one", Tensor::scalar(1i32));
    let next = net.add("next", binary(BinaryOp::Add), &[cast, one]).unwrap();
    let back = net.add("back", ops::BitCast { to: DType::F32 }.into(), &[next]).unwrap();
    let z = net.add("z", unary(UnaryOp::Neg), &[y]).unwrap();
    net.set_outputs(vec![plain, back, z]);
    check(&net, &[vec![random(&[5, 6], 3)], vec![random(&[1, 6], 4)]]);
}

/// Self-attention as exporters write it, with dynamic batch and sequence.
fn attention() -> Network {
    let mut net = Network::new("attention");
    let b = Dim::symbol(net.add_symbol("B", SymbolSource::InputDim { input: 0, axis: 0 }));
    let s = Dim::symbol(net.add_symbol("S", SymbolSource::InputDim { input: 0, axis: 1 }));
    let x = net.add_input("x", f32s(&[b.clone(), s.clone(), 16.into()]));
    let mut heads = Vec::new();
    for (i, name) in ["q", "k", "v"].iter().enumerate() {
        let w = net.add_constant(format!("{name}.w"), random(&[16, 16], 20 + i as u32));
        let p = net.add(*name, ops::MatMul::default().into(), &[x, w]).unwrap();
        let shape = vec![b.clone(), s.clone(), 2.into(), 8.into()];
        let r = net.add(format!("{name}.split"), ops::Reshape { shape }.into(), &[p]).unwrap();
        let perm: &[usize] = if i == 1 { &[0, 2, 3, 1] } else { &[0, 2, 1, 3] };
        heads.push(net.add(format!("{name}.heads"), transpose(perm), &[r]).unwrap());
    }
    let scores = net.add("scores", ops::MatMul::default().into(), &[heads[0], heads[1]]).unwrap();
    let scale = net.add_constant("scale", Tensor::scalar(0.35f32));
    let scaled = net.add("scaled", binary(BinaryOp::Mul), &[scores, scale]).unwrap();
    let p = net.add("p", ops::Softmax { axis: 3, log: false }.into(), &[scaled]).unwrap();
    let o = net.add("o", ops::MatMul::default().into(), &[p, heads[2]]).unwrap();
    let t = net.add("merge", transpose(&[0, 2, 1, 3]), &[o]).unwrap();
    let shape = vec![b, s, 16.into()];
    let r = net.add("flat", ops::Reshape { shape }.into(), &[t]).unwrap();
    let sum = net.add("residual", binary(BinaryOp::Add), &[r, x]).unwrap();
    let g = net.add_constant("gamma", random(&[16], 30));
    let ln = ops::LayerNorm { axis: 2, epsilon: Scalar::f32(1e-5), rms: false, scale: true, bias: false };
    let y = net.add("ln", ln.into(), &[sum, g]).unwrap();
    net.set_outputs(vec![y, p]);
    net
}

#[test]
fn attention_with_dynamic_shapes() {
    let net = attention();
    let cases: Vec<Vec<Tensor>> = [(1, 5), (3, 4), (2, 1), (1, 33)]
        .iter()
        .map(|(b, s)| vec![random(&[*b, *s, 16], 40 + *s as u32)])
        .collect();
    check(&net, &cases);
}

/// Dims of two names may be equal, or either may be 1.
#[test]
fn dims_of_two_names_broadcast() {
    let mut net = Network::new("names");
    let [a, b, k] = [("A", 0, 0), ("B", 1, 0), ("K", 0, 1)]
        .map(|(name, input, axis)| Dim::symbol(net.add_symbol(name, SymbolSource::InputDim { input, axis })));
    let x = net.add_input("x", f32s(&[a.clone(), k.clone()]));
    let y = net.add_input("y", f32s(&[b.clone(), k]));
    let sum = net.add("sum", binary(BinaryOp::Add), &[x, y]).unwrap();
    assert_eq!(net.ty(sum).shape[0], a.broadcast(&b));
    let w = net.add_constant("w", random(&[4, 8], 80));
    let z = net.add("z", ops::MatMul::default().into(), &[sum, w]).unwrap();
    let wx = net.add("wx", ops::MatMul::default().into(), &[x, w]).unwrap();
    // The product must not take this sum into its epilogue: it may have more rows.
    let both = net.add("both", binary(BinaryOp::Mul), &[wx, z]).unwrap();
    let t = net.add("t", unary(UnaryOp::Tanh), &[both]).unwrap();
    let whole = net.add("whole", ops::Concat { axis: 1 }.into(), &[sum, t]).unwrap();
    net.set_outputs(vec![whole, z]);
    let cases = [(3, 3), (1, 3), (3, 1), (1, 1), (0, 1), (17, 1), (1, 17)];
    let cases: Vec<_> = cases.iter().map(|(a, b)| vec![random(&[*a, 4], 81), random(&[*b, 4], 82)]).collect();
    check(&net, &cases);
    let engine = build(&net, Isa::best(), 1);
    let e = engine.run_tensors(&[random(&[2, 4], 1), random(&[3, 4], 1)], &Serial).unwrap_err();
    assert!(e.to_string().contains("sizes do not fit"), "{e}");
}

/// NonZero ends a stage; what depends on its size runs in the next one.
#[test]
fn data_dependent_sizes_are_stages() {
    let mut net = Network::new("stages");
    let n = Dim::symbol(net.add_symbol("N", SymbolSource::InputDim { input: 0, axis: 0 }));
    let x = net.add_input("x", f32s(&[n]));
    let r = net.add("relu", unary(UnaryOp::Relu), &[x]).unwrap();
    let nz = net.add("nz", ops::NonZero.into(), &[r]).unwrap();
    let t = net.add("t", transpose(&[1, 0]), &[nz]).unwrap();
    let shape = vec![net.ty(nz).shape[1].clone()];
    let flat = net.add("flat", ops::Reshape { shape }.into(), &[t]).unwrap();
    let kept = net.add("kept", ops::Gather { axis: 0 }.into(), &[r, flat]).unwrap();
    let e = net.add("e", unary(UnaryOp::Exp), &[kept]).unwrap();
    net.set_outputs(vec![nz, e, r]);
    let none = Tensor::from_slice(&[4], &[-1f32, -2.0, -3.0, 0.0]).unwrap();
    check(&net, &[vec![random(&[17], 50)], vec![none], vec![random(&[64], 51)]]);
}

/// A size that is computed from data ends a stage too, whether or not anything else reads it.
#[test]
fn sizes_that_data_tells_are_stages() {
    let mut net = Network::new("lengths");
    let n = Dim::symbol(net.add_symbol("N", SymbolSource::InputDim { input: 0, axis: 0 }));
    let lengths = net.add_input("lengths", TensorType::new(DType::I64, [n.clone()]));
    let x = net.add_input("x", f32s(&[1.into(), 6.into()]));
    let most = ops::Reduce { op: ops::ReduceOp::Max, axes: vec![0], keep_dims: true };
    let most = net.add("most", most.into(), &[lengths]).unwrap();
    let Def::Node { node, output } = net.value(most).def else { panic!("it is computed") };
    let source = SymbolSource::DataElement { node, output, index: 0 };
    let rows = Dim::symbol(net.add_symbol("rows", source));
    let e = net.add("e", unary(UnaryOp::Exp), &[x]).unwrap();
    let tall = net.add("tall", ops::Expand { shape: vec![rows.clone(), 6.into()] }.into(), &[e]).unwrap();
    let w = net.add_constant("w", random(&[6, 5], 90));
    let y = net.add("y", ops::MatMul::default().into(), &[tall, w]).unwrap();
    net.set_outputs(vec![y, e]);
    let lengths = |l: &[i64]| Tensor::from_slice(&[l.len()], l).unwrap();
    let cases = [&[3, 1][..], &[1], &[2, 7, 4], &[7], &[3, 0]];
    let cases: Vec<_> = cases.iter().map(|l| vec![lengths(l), random(&[1, 6], 91)]).collect();
    check(&net, &cases);
    let engine = build(&net, Isa::best(), 1);
    let e = engine.run_tensors(&[lengths(&[-2]), random(&[1, 6], 91)], &Serial).unwrap_err();
    assert!(e.to_string().contains("-2"), "{e}");
}

#[test]
fn outputs_that_are_inputs_constants_or_twice_the_same() {
    let mut net = Network::new("odd");
    let x = net.add_input("x", f32s(&[2.into(), 3.into()]));
    let c = net.add_constant("c", random(&[3], 60));
    let y = net.add("y", binary(BinaryOp::Add), &[x, c]).unwrap();
    let flat = net.add("flat", ops::Reshape { shape: vec![6.into()] }.into(), &[y]).unwrap();
    net.set_outputs(vec![x, c, y, y, flat]);
    check(&net, &[vec![random(&[2, 3], 61)]]);
}

#[test]
fn slices_and_nested_concats() {
    let mut net = Network::new("slices");
    let n = Dim::symbol(net.add_symbol("N", SymbolSource::InputDim { input: 0, axis: 0 }));
    let x = net.add_input("x", f32s(&[n.clone(), 12.into()]));
    let range = |start: i64, len: i64, step: i64| ops::SliceRange {
        axis: 1,
        start: start.into(),
        len: len.into(),
        step,
    };
    let a = net.add("a", ops::Slice { ranges: vec![range(0, 6, 1)] }.into(), &[x]).unwrap();
    let b = net.add("b", ops::Slice { ranges: vec![range(11, 6, -2)] }.into(), &[x]).unwrap();
    let ea = net.add("ea", unary(UnaryOp::Exp), &[a]).unwrap();
    let eb = net.add("eb", unary(UnaryOp::Tanh), &[b]).unwrap();
    let inner = net.add("inner", ops::Concat { axis: 1 }.into(), &[ea, b, eb]).unwrap();
    let outer = net.add("outer", ops::Concat { axis: 0 }.into(), &[inner, inner]).unwrap();
    let s = net.add("s", unary(UnaryOp::Sigmoid), &[inner]).unwrap();
    let wide = net.add("wide", ops::Concat { axis: 1 }.into(), &[s, inner]).unwrap();
    net.set_outputs(vec![outer, wide]);
    check(&net, &[vec![random(&[3, 12], 70)], vec![random(&[0, 12], 71)], vec![random(&[1, 12], 72)]]);
}

#[test]
fn wrong_inputs_are_named() {
    let engine = build(&attention(), Isa::best(), 1);
    let wrong_type = Tensor::zeros(DType::I64, &[1, 2, 16]).unwrap();
    assert!(
        matches!(engine.run_tensors(&[wrong_type], &Serial), Err(RunError::InputType { name, .. }) if name == "x")
    );
    let wrong_size = random(&[1, 2, 15], 1);
    let e = engine.run_tensors(&[wrong_size], &Serial).unwrap_err().to_string();
    assert!(e.contains("`x`") && e.contains("axis 2"), "{e}");
    assert!(matches!(engine.run_tensors(&[], &Serial), Err(RunError::InputCount { want: 1, got: 0 })));
}

#[test]
fn many_threads_share_an_engine() {
    let net = attention();
    let engine = build(&net, Isa::best(), 1);
    let cases: Vec<(Tensor, Tensor)> = (1..7)
        .map(|s| {
            let x = random(&[1, s, 16], s as u32);
            let want = net.eval(std::slice::from_ref(&x)).unwrap().swap_remove(0);
            (x, want)
        })
        .collect();
    std::thread::scope(|scope| {
        for t in 0..8 {
            let (engine, cases) = (&engine, &cases);
            scope.spawn(move || {
                for i in 0..50 {
                    let (x, want) = &cases[(i + t) % cases.len()];
                    let got = engine.run_tensors(std::slice::from_ref(x), &Serial).unwrap();
                    let worst = (0..want.count())
                        .map(|k| (got[0].get_f64(k) - want.get_f64(k)).abs())
                        .fold(0.0, f64::max);
                    assert!(worst < 1e-4, "{worst}");
                }
            });
        }
    });
}

/// A plan holds weights once: packed for what reads them packed, raw for others, and both ways of reading agree.
#[test]
fn packed_constants_are_not_held_raw_as_well() {
    let mut net = Network::new("once");
    let x = net.add_input("x", f32s(&[4.into(), 96.into()]));
    let (product, table) = (random(&[96, 512], 3), random(&[96, 96], 5));
    let w = net.add_constant("w", product.clone());
    let t = net.add_constant("t", table.clone());
    let y = net.add("y", binary(BinaryOp::Add), &[x, x]).unwrap();
    let wide = net.add("wide", ops::MatMul::default().into(), &[y, w]).unwrap();
    // A product and a gather read the table.
    let narrow = net.add("narrow", ops::MatMul::default().into(), &[y, t]).unwrap();
    let places = net.add_input("places", TensorType::new(DType::I64, [Dim::Fixed(3)]));
    let rows = net.add("rows", ops::Gather { axis: 0 }.into(), &[t, places]).unwrap();
    net.set_outputs(vec![wide, narrow, rows]);
    let places = Tensor::from_slice(&[3], &[5i64, 0, 95]).unwrap();
    check(&net, &[vec![random(&[4, 96], 7), places]]);

    let engine = build(&net, Isa::Portable, 1);
    let raw = engine.plan().sections().iter().find(|s| s.name == "raw").unwrap().length();
    assert_eq!(raw, table.bytes().len(), "of {} and {}", product.bytes().len(), table.bytes().len());
    let kept = engine.network().constants();
    assert!(kept.contains(&product) && kept.contains(&table), "weights are had back as they were");
}

/// A compact plan has every constant once, is loaded wherever the whole one is, and computes the same bit by bit.
#[test]
fn compact_plans_make_their_packed_weights_when_they_are_loaded() {
    let mut net = Network::new("compact");
    let x = net.add_input("x", f32s(&[1.into(), 24.into(), 24.into(), 64.into()]));
    let a = conv(&mut net, "a", x, 3, 64, 64, 1);
    let b = conv(&mut net, "b", a, 1, 64, 48, 3);
    net.set_outputs(vec![b]);
    let inputs = [random(&[1, 24, 24, 64], 7)];
    let device =
        |engine: &Engine| engine.plan().sections().iter().find(|s| s.name == "cpu").unwrap().length();
    for isa in Isa::available() {
        let config = BuilderConfig { isa, threads: 1, optimization_level: 0, ..BuilderConfig::default() };
        let config = BuilderConfig { precision: Precision::Tf32, ..config };
        let engine = Builder::new(&config).build_engine(net.clone()).unwrap();
        let compact = engine.compact_plan().unwrap().expect("filters are transformed for minimal filtering");
        assert_eq!(compact.key(), engine.plan().key());
        let compact = Engine::load_for(compact, isa).unwrap();
        assert!(device(&compact) < device(&engine) && compact.compact_plan().unwrap().is_none());
        let [one, other] = [&engine, &compact].map(|e| e.run_tensors(&inputs, &Serial).unwrap());
        assert_eq!(one, other, "under {}", isa.name());
        assert_eq!(engine.network().constants(), compact.network().constants());
    }
}
