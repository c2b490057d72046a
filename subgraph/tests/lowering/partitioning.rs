//! What the partitioner makes of whole graphs.

use engraft_network::Op;
use engraft_subgraph::{
    AcceptAll, Attribute, DType, HostGraph, HostValueId, PartitionOptions, PartitionPolicy, Placement,
    Remedy, partition,
};
use proptest::prelude::*;

use crate::builder::{Builder, Refuse, close, execute, fix, floats, ints, maximal, ramp, sym};

#[test]
fn excluded_and_unknown_operators_stay_with_their_reasons() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[sym("n"), fix(4)]);
    let y = b.node("Relu", &[x], &[]);
    let z = b.node("test:Host", &[y], &[]);
    b.describe(z, DType::F32, &[sym("n"), fix(4)]);
    let w = b.node("Tanh", &[z], &[]);
    let out = b.node("Exp", &[w], &[]);
    b.output(out);
    let options = PartitionOptions { op_types_to_exclude: ["Exp".to_owned()].into(), ..maximal() };
    let parts = partition(&b.graph, &AcceptAll, &options);
    let placements: Vec<&Placement> = parts.report.nodes.iter().map(|node| &node.placement).collect();
    assert_eq!(placements[0], &Placement::Segment(0));
    assert!(matches!(placements[1], Placement::Host(reason) if reason.contains("test.Host")));
    assert_eq!(placements[2], &Placement::Segment(1));
    assert!(matches!(placements[3], Placement::Host(reason) if reason.contains("op_types_to_exclude")));
    let text = parts.report.to_string();
    assert!(text.contains("2 of 4 nodes in 2 segments"), "{text}");
    let x = ramp(&[2, 4]);
    let want: Vec<f32> = (0..8).map(|index| (x.get_f64(index).max(0.0).tanh().exp()) as f32).collect();
    close(&execute(&b.graph, &parts, &[x])[0], &want);
}

#[test]
fn small_segments_stay_with_the_host() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[fix(4)]);
    let y = b.node("Relu", &[x], &[]);
    let z = b.node("Exp", &[y], &[]);
    b.output(z);
    let options = PartitionOptions { min_subgraph_size: 3, ..maximal() };
    assert!(partition(&b.graph, &AcceptAll, &options).segments.is_empty());
    let options = PartitionOptions { min_subgraph_size: 2, ..maximal() };
    assert_eq!(partition(&b.graph, &AcceptAll, &options).segments.len(), 1);
    let profit = PartitionOptions { policy: PartitionPolicy::Profit, ..PartitionOptions::default() };
    assert!(
        partition(&b.graph, &AcceptAll, &profit).segments.is_empty(),
        "4 elements are not worth a segment"
    );
}

#[test]
fn what_only_moves_elements_stays_with_the_host_under_profit() {
    let chain = |ops: &[&str]| {
        let mut b = Builder::new(17);
        let mut x = b.input("x", DType::F32, &[fix(256), fix(512)]);
        for op in ops {
            x = b.node(op, &[x], &[]);
        }
        b.output(x);
        b
    };
    let profit = PartitionOptions { policy: PartitionPolicy::Profit, ..PartitionOptions::default() };
    let taken = |ops: &[&str], options| partition(&chain(ops).graph, &AcceptAll, options).report.taken;
    assert_eq!(taken(&["Transpose"], &profit), 0);
    assert_eq!(taken(&["Transpose", "Transpose"], &profit), 0);
    assert_eq!(taken(&["Transpose", "Exp"], &profit), 2);
    assert_eq!(taken(&["Transpose"], &maximal()), 1);
    assert_eq!(remedy(&chain(&["Transpose"]), &profit), Some(Remedy::maximal()));
}

/// Sizes that are not known yet may make nothing of a product: it is taken all the same.
#[test]
fn a_product_is_no_movement_whatever_sizes_are_expected() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[fix(1), fix(1), sym("samples")]);
    let w = b.constant(floats(&[256, 1, 1024], &[0.5; 256 * 1024]));
    let y = b.node("Conv", &[x, w], &[("strides", Attribute::Ints(vec![512]))]);
    b.output(y);
    let profit = PartitionOptions { policy: PartitionPolicy::Profit, ..PartitionOptions::default() };
    assert_eq!(partition(&b.graph, &AcceptAll, &profit).report.taken, 1);
}

/// The remedy of the only node that stays with the host.
fn remedy(b: &Builder, options: &PartitionOptions) -> Option<Remedy> {
    let report = partition(&b.graph, &AcceptAll, options).report;
    let refused: Vec<_> =
        report.nodes.iter().filter(|node| node.placement != Placement::Segment(0)).collect();
    assert_eq!(refused.len(), 1, "{report}");
    let remedy = refused[0].remedy.clone();
    let text = remedy.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(report.to_string().contains(&format!("-> {text}")), "{report}");
    assert!(
        report.nodes.iter().all(|node| node.remedy.is_none() == (node.placement == Placement::Segment(0)))
    );
    remedy
}

#[test]
fn refusals_say_what_would_change_them() {
    let one = |opset, op: &str, attributes: &[(&str, Attribute)]| {
        let mut b = Builder::new(opset);
        let x = b.input("x", DType::F32, &[sym("n"), fix(4)]);
        let y = b.node(op, &[x], attributes);
        b.output(y);
        b
    };
    let older = Remedy::OperatorSet { domain: String::new(), least: 14 };
    assert_eq!(remedy(&one(13, "HardSwish", &[]), &maximal()), Some(older));
    assert_eq!(remedy(&one(17, "RandomNormalLike", &[]), &maximal()), Some(Remedy::HostOnly));
    assert_eq!(remedy(&one(17, "test:Host", &[]), &maximal()), Some(Remedy::HostOnly));
    assert_eq!(remedy(&one(17, "com.microsoft:Unheard", &[]), &maximal()), Some(Remedy::Engraft));
    let stretched =
        Remedy::Attribute { name: "keep_aspect_ratio_policy".to_owned(), wanted: "stretch".to_owned() };
    let policy = Attribute::String(b"not_larger".to_vec());
    assert_eq!(
        remedy(&one(18, "Resize", &[("keep_aspect_ratio_policy", policy)]), &maximal()),
        Some(stretched)
    );
    assert_eq!(
        remedy(&one(17, "Softmax", &[("axis", Attribute::Int(5))]), &maximal()),
        Some(Remedy::Correct)
    );
    let fixed = Remedy::FixDims { value: "x".to_owned() };
    assert_eq!(remedy(&one(17, "Squeeze", &[]), &maximal()), Some(fixed));
    assert_eq!(remedy(&one(17, "Exp", &[]), &PartitionOptions::default()), Some(Remedy::maximal()));
    let options = PartitionOptions { min_subgraph_size: 2, ..maximal() };
    assert_eq!(remedy(&one(17, "Exp", &[]), &options), Some(Remedy::option("min_subgraph_size", "1")));
    let excluded = ["Exp", "com.microsoft.Gelu"].map(str::to_owned).into();
    let options = PartitionOptions { op_types_to_exclude: excluded, ..maximal() };
    let others = Remedy::option("op_types_to_exclude", "com.microsoft:Gelu");
    assert_eq!(remedy(&one(17, "Exp", &[]), &options), Some(others));
}

#[test]
fn refusals_name_the_value_that_has_to_change() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[sym("n"), fix(4)]);
    let k = b.input("k", DType::I64, &[sym("count")]);
    let y = b.node("ReduceSum", &[x, k], &[]);
    b.output(y);
    assert_eq!(remedy(&b, &maximal()), Some(Remedy::MakeConstant { value: "k".to_owned() }));

    let mut b = Builder::new(17);
    let text = b.input("x", DType::F32, &[fix(4)]);
    b.graph.values[text.index()].shape = None;
    let y = b.node("Exp", &[text], &[]);
    b.output(y);
    assert_eq!(remedy(&b, &maximal()), Some(Remedy::DeclareType { value: "x".to_owned() }));
}

#[test]
fn views_and_what_is_left_behind_are_no_work() {
    let profit = PartitionOptions::default();
    let large = [fix(256), fix(1), fix(1024)];
    let segments = |build: fn(&mut Builder, HostValueId) -> HostValueId| {
        let mut b = Builder::new(17);
        let x = b.input("x", DType::F32, &large);
        let y = build(&mut b, x);
        b.output(y);
        partition(&b.graph, &AcceptAll, &profit).segments.len()
    };
    assert_eq!(segments(|b, x| b.node("Relu", &[x], &[])), 1);
    let squeezed = |b: &mut Builder, x| {
        let axes = b.constant(ints(&[1], &[1]));
        b.node("Squeeze", &[x, axes], &[])
    };
    assert_eq!(segments(squeezed), 0);
    // One row of 256.
    let gathered = |b: &mut Builder, x| {
        let at = b.constant(ints(&[1], &[3]));
        b.node("Gather", &[x, at], &[])
    };
    assert_eq!(segments(gathered), 0);
}

#[test]
fn refused_kernels_split_and_shares_add_up() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[fix(8), fix(8)]);
    let w = b.constant(ramp(&[8, 8]));
    let a = b.node("MatMul", &[x, w], &[]);
    let e = b.node("Exp", &[a], &[]);
    let c = b.node("MatMul", &[e, w], &[]);
    b.output(c);
    let refuse = Refuse(|network: &engraft_network::Network, node| {
        matches!(network.node(node).map(|node| &node.op), Some(Op::Unary(_)))
    });
    let parts = partition(&b.graph, &refuse, &maximal());
    assert_eq!(parts.segments.len(), 2);
    let shares: f64 = parts.report.nodes.iter().map(|node| node.flops_share).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    let expected = 2.0 * 1024.0 / (2.0 * 1024.0 + 64.0);
    assert!((parts.report.accelerated_flops - expected).abs() < 1e-9, "{}", parts.report.accelerated_flops);
}

#[test]
fn quantized_regions_stay_under_profit() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[fix(256), fix(256)]);
    let scale = b.constant(ramp(&[]));
    let zero = b.constant(engraft_subgraph::Tensor::scalar(3u8));
    let q = b.node("QuantizeLinear", &[x, scale, zero], &[]);
    let d = b.node("DequantizeLinear", &[q, scale, zero], &[]);
    let y = b.node("MatMul", &[d, d], &[]);
    b.output(y);
    let profit = PartitionOptions::default();
    assert!(partition(&b.graph, &AcceptAll, &profit).segments.is_empty());
    assert_eq!(partition(&b.graph, &AcceptAll, &maximal()).report.taken, 3);
}

/// Hosts compute a product of integers, its conversion, its scale and its bias as one: none of it is taken from between.
#[test]
fn products_of_integers_stay_whole_under_profit() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[fix(256), fix(256)]);
    let quantized = b.node_of("DynamicQuantizeLinear", &[Some(x)], &[], 3);
    let (q, scale, zero) = (quantized[0], quantized[1], quantized[2]);
    let weights = b.input("w", DType::I8, &[fix(256), fix(256)]);
    let product = b.node("MatMulInteger", &[q, weights, zero], &[]);
    let float = b.node("Cast", &[product], &[("to", Attribute::Int(1))]);
    let factor = b.constant(ramp(&[]));
    let scale = b.node("Mul", &[scale, factor], &[]);
    let scaled = b.node("Mul", &[float, scale], &[]);
    let bias = b.constant(ramp(&[256]));
    let biased = b.node("Add", &[scaled, bias], &[]);
    let y = b.node("MatMul", &[biased, x], &[]);
    b.output(y);
    let parts = partition(&b.graph, &AcceptAll, &PartitionOptions::default());
    let taken = parts.segments.iter().map(|s| s.nodes.len()).collect::<Vec<_>>();
    assert_eq!(taken, [1], "the product of floats alone: {}", parts.report);
}

/// A shape computed before a refused node and used after it.
#[test]
fn shapes_cross_borders() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[sym("n"), sym("m")]);
    let shape = b.node("Shape", &[x], &[]);
    let product = b.node("ReduceProd", &[shape], &[("keepdims", engraft_subgraph::Attribute::Int(1))]);
    let y = b.node("Exp", &[x], &[]);
    let flat = b.node("Reshape", &[y, product], &[]);
    let hosted = b.node("test:Host", &[flat], &[]);
    b.describe(hosted, DType::F32, &[engraft_subgraph::HostDim::Unknown]);
    let back = b.node("Reshape", &[hosted, shape], &[]);
    let sum = b.node("Add", &[back, x], &[]);
    b.output(sum);
    let parts = partition(&b.graph, &AcceptAll, &maximal());
    assert_eq!(parts.report.taken, 6, "{}", parts.report);
    let x = ramp(&[2, 3]);
    let want: Vec<f32> = (0..6).map(|index| (x.get_f64(index).exp() + x.get_f64(index)) as f32).collect();
    let results = execute(&b.graph, &parts, &[x]);
    assert_eq!(results[0].shape(), [2, 3]);
    close(&results[0], &want);
}

/// Inner graphs read values of the graphs around them.
#[test]
fn captured_values_are_inputs() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[sym("n")]);
    b.graph.outer = std::mem::take(&mut b.graph.inputs);
    let y = b.node("Exp", &[x], &[]);
    b.output(y);
    let parts = partition(&b.graph, &AcceptAll, &maximal());
    assert_eq!(parts.segments[0].inputs, [x]);
}

/// 10,000 nodes, every 40th refused, with residual edges: partitioned in well under a tenth of a second when optimized.
#[test]
fn large_graphs_take_linear_time() {
    let build = |count: usize| -> HostGraph {
        let mut b = Builder::new(17);
        let mut x = b.input("x", DType::F32, &[sym("n"), fix(64)]);
        let mut residual = x;
        for index in 0..count {
            x = match index {
                _ if index % 40 == 39 => {
                    let y = b.node("test:Host", &[x], &[]);
                    b.describe(y, DType::F32, &[sym("n"), fix(64)]);
                    y
                }
                _ if index % 7 == 6 => {
                    let y = b.node("Add", &[x, residual], &[]);
                    residual = y;
                    y
                }
                _ => b.node("Relu", &[x], &[]),
            };
        }
        b.output(x);
        b.graph
    };
    let seconds = |count: usize| {
        let graph = build(count);
        (0..5)
            .map(|_| {
                let start = std::time::Instant::now();
                let parts = partition(&graph, &AcceptAll, &maximal());
                let took = start.elapsed().as_secs_f64();
                assert_eq!(parts.segments.len(), count.div_ceil(40));
                took
            })
            .fold(f64::MAX, f64::min)
    };
    let (small, large) = (seconds(2_500), seconds(10_000));
    println!("2,500 nodes in {small:.4} s, 10,000 in {large:.4} s");
    assert!(large < 0.1 * if cfg!(debug_assertions) { 5.0 } else { 1.0 }, "10,000 nodes took {large} s");
    assert!(large < 10.0 * small, "4 times the nodes took {} times as long", large / small);
}

/// One step of a random graph: an operator and the values it reads, counted back from the newest of the right kind.
#[derive(Clone, Debug)]
struct Step {
    op: u8,
    a: usize,
    b: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// `f32 [n, 4]`
    Rows,
    /// `f32 [4, n]`
    Columns,
    /// The shape of rows, and of columns.
    RowShape,
    ColumnShape,
}

fn random_graph(steps: &[Step]) -> Builder {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[sym("n"), fix(4)]);
    let mut pool: Vec<(Kind, HostValueId)> = vec![(Kind::Rows, x)];
    let row = b.constant(ramp(&[1, 4]));
    for step in steps {
        let pick = |kinds: &[Kind], back: usize| {
            let fitting: Vec<_> = pool.iter().filter(|(kind, _)| kinds.contains(kind)).collect();
            fitting.get(fitting.len().wrapping_sub(1 + back % fitting.len().max(1))).copied().copied()
        };
        let tensors = [Kind::Rows, Kind::Columns];
        let shapes = [Kind::RowShape, Kind::ColumnShape];
        let Some((kind, a)) = pick(&tensors, step.a) else { continue };
        let made = match step.op % 8 {
            0 => Some((kind, b.node("Tanh", &[a], &[]))),
            1 => pick(&[kind], step.b).map(|(_, other)| (kind, b.node("Add", &[a, other], &[]))),
            2 => {
                let turned = if kind == Kind::Rows { Kind::Columns } else { Kind::Rows };
                Some((turned, b.node("Transpose", &[a], &[])))
            }
            3 => {
                let shape = if kind == Kind::Rows { Kind::RowShape } else { Kind::ColumnShape };
                Some((shape, b.node("Shape", &[a], &[])))
            }
            4 => pick(&shapes, step.b).map(|(shape, target)| {
                let kind = if shape == Kind::RowShape { Kind::Rows } else { Kind::Columns };
                (kind, b.node("Reshape", &[a, target], &[]))
            }),
            5 => pick(&[Kind::RowShape], step.b).map(|(_, target)| {
                let spread = b.node("Expand", &[row, target], &[]);
                (Kind::Rows, spread)
            }),
            6 => {
                let hosted = b.node("test:Host", &[a], &[]);
                let n = if step.b % 2 == 0 { sym("n") } else { engraft_subgraph::HostDim::Unknown };
                let shape = if kind == Kind::Rows { [n, fix(4)] } else { [fix(4), n] };
                b.describe(hosted, DType::F32, &shape);
                Some((kind, hosted))
            }
            _ => pick(&shapes, step.b).map(|(kind, shape)| {
                let hosted = b.node("test:Host", &[shape], &[]);
                b.describe(hosted, DType::I64, &[fix(2)]);
                (kind, hosted)
            }),
        };
        pool.extend(made);
    }
    for (_, value) in pool.iter().skip(1) {
        b.output(*value);
    }
    b
}

proptest! {
    /// Cut anywhere, a graph computes what it computes whole.
    #[test]
    fn partitions_compute_what_the_graph_computes(
        steps in proptest::collection::vec((0u8..8, 0usize..6, 0usize..6), 1..28)
            .prop_map(|steps| steps.into_iter().map(|(op, a, b)| Step { op, a, b }).collect::<Vec<_>>()),
    ) {
        let b = random_graph(&steps);
        let x = ramp(&[3, 4]);
        let parts = partition(&b.graph, &AcceptAll, &maximal());
        let got = execute(&b.graph, &parts, std::slice::from_ref(&x));

        // The host alone: nothing is taken.
        let everything = b.graph.nodes.iter().map(|node| node.op_type.clone()).collect();
        let none = PartitionOptions { op_types_to_exclude: everything, ..maximal() };
        let alone = partition(&b.graph, &AcceptAll, &none);
        prop_assert!(alone.segments.is_empty());
        let want = execute(&b.graph, &alone, &[x]);
        prop_assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(&want) {
            prop_assert_eq!(got, want);
        }
    }
}

/// Elements of an integer input are sizes.
#[test]
fn sizes_arrive_as_inputs() {
    let mut b = Builder::new(17);
    let x = b.input("x", DType::F32, &[fix(1), fix(3)]);
    let shape = b.input("shape", DType::I64, &[fix(2)]);
    let y = b.node("Expand", &[x, shape], &[]);
    b.output(y);
    let parts = partition(&b.graph, &AcceptAll, &maximal());
    assert_eq!(parts.report.taken, 1, "{}", parts.report);
    let results = execute(&b.graph, &parts, &[ramp(&[1, 3]), ints(&[2], &[4, 3])]);
    assert_eq!(results[0].shape(), [4, 3]);
}
