//! What is stored in bf16, and what is not.

use super::Graph;
use engraft_network::ops::*;
use engraft_network::{BinaryOp, Network, NodeId, Op, UnaryOp, ValueId};

/// Products of many rows, as a unit of tiles takes them.
fn product(net: &Network, id: NodeId) -> bool {
    net.node(id).is_some_and(|n| match &n.op {
        Op::Conv(c) => c.groups == 1,
        Op::MatMul(_) => {
            let shape = &net.ty(n.outputs[0]).shape;
            shape[shape.len() - 2].fixed().is_none_or(|rows| rows > 3)
        }
        _ => false,
    })
}

fn graph() -> Graph {
    Graph { narrow: Some(product), ..Graph::new() }
}

/// Operators in order with the type of their result.
fn types(net: &Network) -> String {
    let of = |n: &engraft_network::Node| format!("{}:{}", n.op.name(), net.ty(n.outputs[0]).dtype);
    net.nodes().map(|(_, n)| of(n)).collect::<Vec<_>>().join(" ")
}

fn becomes(g: Graph, outputs: &[ValueId], want: &str) {
    assert_eq!(types(&g.optimized(outputs)), want);
}

#[test]
fn values_between_convolutions_are_narrow_and_outputs_are_not() {
    let mut g = graph();
    let x = g.input(&[1, 8, 12, 12]);
    let a = g.conv(x, 3, 16, 1, 1);
    let a = g.unary(UnaryOp::Relu, a);
    let b = g.conv(a, 3, 16, 1, 1);
    let sum = g.add(a, b);
    let pooled = g.pool(sum);
    let out = g.conv(pooled, 1, 8, 1, 1);
    becomes(g, &[out], "transpose:f32 conv:bf16 conv:bf16 pool:bf16 conv:f32 transpose:f32");
}

#[test]
fn what_no_product_follows_stays_wide() {
    let mut g = graph();
    let x = g.input(&[1, 8, 12, 12]);
    let a = g.conv(x, 3, 16, 1, 1);
    let b = g.pool(a);
    let b = g.unary(UnaryOp::Sigmoid, b);
    becomes(g, &[b], "transpose:f32 conv:f32 pool:f32 unary:f32 transpose:f32");
}

#[test]
fn a_small_result_of_a_narrow_value_is_converted() {
    // Squeeze and excitation: the factors come from products of one row.
    let mut g = graph();
    let x = g.input(&[1, 8, 12, 12]);
    let a = g.conv(x, 3, 16, 1, 1);
    let squeezed = g.reduce(ReduceOp::Mean, a, &[2, 3], false);
    let w = g.constant(&[16, 16]);
    let s = g.matmul(squeezed, w);
    let s = g.unary(UnaryOp::Sigmoid, s);
    let s = g.reshape(s, &[1, 16, 1, 1]);
    let scaled = g.mul(a, s);
    let out = g.conv(scaled, 1, 8, 1, 1);
    let net = g.optimized(&[out]);
    let text = types(&net);
    assert!(text.contains("conv:bf16 reduce:bf16 cast:f32 matmul:f32"), "{text}");
    assert!(text.contains("pointwise:bf16 conv:f32"), "{text}");
}

#[test]
fn depthwise_convolutions_pass_on_what_they_read() {
    let mut g = graph();
    let x = g.input(&[1, 8, 12, 12]);
    let a = g.conv(x, 1, 16, 1, 1);
    let a = g.unary(UnaryOp::HardSwish, a);
    let b = g.conv(a, 3, 16, 1, 16);
    let b = g.unary(UnaryOp::HardSwish, b);
    let out = g.conv(b, 1, 8, 1, 1);
    becomes(g, &[out], "transpose:f32 conv:bf16 conv:bf16 conv:f32 transpose:f32");
}

#[test]
fn joined_parts_are_narrow_together_or_not_at_all() {
    let concat = |wide: bool| {
        let mut g = graph();
        let x = g.input(&[1, 8, 12, 12]);
        let a = g.conv(x, 3, 16, 1, 1);
        let b = if wide { g.input(&[1, 8, 12, 12]) } else { g.conv(x, 1, 8, 1, 1) };
        let c = g.op(Concat { axis: 1 }, &[a, b]);
        let c = g.unary(UnaryOp::Relu, c);
        let out = g.conv(c, 1, 8, 1, 1);
        types(&g.optimized(&[out]))
    };
    let (narrow, wide) = (concat(false), concat(true));
    assert!(narrow.contains("concat:bf16"), "{narrow}");
    assert!(wide.contains("concat:f32"), "{wide}");
}

#[test]
fn a_transformer_block_is_narrow_between_its_products() {
    let mut g = graph();
    let x = g.input(&[2, 16, 32]);
    let (w1, w2, w3) = (g.constant(&[32, 64]), g.constant(&[64, 32]), g.constant(&[32, 8]));
    let (scale, bias) = (g.constant(&[32]), g.constant(&[32]));
    let h = g.matmul(x, w1);
    let h = g.unary(UnaryOp::Gelu, h);
    let h = g.matmul(h, w2);
    let h = g.add(h, x);
    let norm = LayerNorm {
        axis: 2,
        epsilon: engraft_network::Scalar::f32(1e-5),
        rms: false,
        scale: true,
        bias: true,
    };
    let h = g.op(norm, &[h, scale, bias]);
    let out = g.matmul(h, w3);
    becomes(g, &[out], "matmul:bf16 matmul:bf16 layer_norm:bf16 matmul:f32");
}

#[test]
fn both_matrices_of_a_product_have_one_type() {
    let mut g = graph();
    let x = g.input(&[2, 16, 32]);
    let (w1, w2, w3) = (g.constant(&[32, 32]), g.constant(&[32, 32]), g.constant(&[16, 8]));
    let (q, k) = (g.matmul(x, w1), g.matmul(x, w2));
    let k = g.transpose(k, &[0, 2, 1]);
    let scores = g.matmul(q, k);
    let soft = g.op(Softmax { axis: 2, log: false }, &[scores]);
    let y = g.matmul(soft, w3);
    // One of them an input of the network: neither is narrow.
    let other = g.input(&[2, 32, 16]);
    let z = g.matmul(q, other);
    let z = g.matmul(z, w3);
    let out = g.binary(BinaryOp::Max, y, z);
    let text = types(&g.optimized(&[out]));
    assert!(text.contains("softmax:bf16"), "{text}");
    assert!(text.starts_with("matmul:f32"), "q is read beside an input: {text}");
}

#[test]
fn attention_reads_narrow_heads_beside_a_mask_of_numbers() {
    let mut g = graph();
    let x = g.input(&[1, 16, 32]);
    let mask = g.input(&[1, 1, 1, 16]);
    let w: Vec<ValueId> = (0..4).map(|_| g.constant(&[32, 32])).collect();
    let heads = |g: &mut Graph, w: ValueId| {
        let y = g.matmul(x, w);
        let y = g.reshape(y, &[1, 16, 4, 8]);
        g.transpose(y, &[0, 2, 1, 3])
    };
    let (q, k, v) = (heads(&mut g, w[0]), heads(&mut g, w[1]), heads(&mut g, w[2]));
    let attention = Attention { scale: engraft_network::Scalar::f32(0.35), causal: false, mask: true };
    let y = g.op(attention, &[q, k, v, mask]);
    let y = g.transpose(y, &[0, 2, 1, 3]);
    let y = g.reshape(y, &[1, 16, 32]);
    let out = g.matmul(y, w[3]);
    let text = types(&g.optimized(&[out]));
    assert!(text.contains("attention:bf16"), "{text}");
    assert!(text.ends_with("matmul:f32"), "{text}");
}
