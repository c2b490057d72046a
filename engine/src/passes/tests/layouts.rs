//! Where transpositions end up.

use super::*;

#[test]
fn a_network_of_convolutions_keeps_one_transposition() {
    let mut g = Graph::new();
    let x = g.batched(&[3, 16, 16]);
    let mut y = g.conv(x, 3, 8, 2, 1);
    y = g.unary(UnaryOp::Relu, y);
    y = g.pool(y);
    for _ in 0..2 {
        let a = g.conv(y, 3, 8, 1, 8);
        let a = g.unary(UnaryOp::Relu, a);
        let a = g.conv(a, 1, 8, 1, 1);
        y = g.add(y, a);
    }
    let y = g.reduce(ReduceOp::Mean, y, &[2, 3], true);
    let shape = vec![g.net.ty(x).shape[0].clone(), Dim::Fixed(8)];
    let y = g.op(Reshape { shape }, &[y]);
    let w = g.constant(&[8, 10]);
    let y = g.matmul(y, w);
    g.becomes(
        &[y],
        "transpose0231 conv[relu(a)] pool conv[relu(a)] conv[add(b,a)] conv[relu(a)] conv[add(b,a)] mean_of reshape matmul",
    );
}

#[test]
fn one_channel_needs_no_transposition() {
    let mut g = Graph::new();
    let x = g.input(&[2, 1, 8, 8]);
    let y = g.conv(x, 3, 4, 1, 1);
    let y = g.conv(y, 3, 1, 1, 1);
    let y = g.unary(UnaryOp::Sigmoid, y);
    g.becomes(&[y], "reshape conv conv[sigmoid(a)] reshape");
}

#[test]
fn squeeze_and_excite_stays_channels_last() {
    let mut g = Graph::new();
    let x = g.input(&[2, 3, 8, 8]);
    let y = g.conv(x, 3, 8, 1, 1);
    let s = g.reduce(ReduceOp::Mean, y, &[2, 3], true);
    let s = g.conv(s, 1, 4, 1, 1);
    let s = g.unary(UnaryOp::Relu, s);
    let s = g.conv(s, 1, 8, 1, 1);
    let s = g.unary(UnaryOp::Sigmoid, s);
    let y = g.mul(y, s);
    let y = g.conv(y, 1, 4, 1, 1);
    let y = g.reduce(ReduceOp::Max, y, &[2, 3], false);
    g.becomes(&[y], "transpose0231 conv mean_of conv[relu(a)] conv[sigmoid(a)] mul conv max_of");
}

#[test]
fn concat_resize_pad_and_slice_follow() {
    let mut g = Graph::new();
    let x = g.input(&[1, 3, 8, 8]);
    let a = g.conv(x, 3, 4, 1, 1);
    let d = g.pool(a);
    let d = g.conv(d, 3, 4, 1, 1);
    let sizes = [1, 4, 8, 8].map(Dim::Fixed).to_vec();
    let resize = Resize {
        mode: ResizeMode::Nearest(NearestMode::Floor),
        coordinates: CoordinateMode::Asymmetric,
        sizes,
        scales: Some([1.0f32, 1.0, 2.0, 2.0].map(f32::to_bits).to_vec()),
        exclude_outside: false,
        antialias: false,
        extrapolation: 0,
    };
    let u = g.op(resize, &[d]);
    let y = g.op(Concat { axis: 1 }, &[a, u]);
    let zero = g.scalar(0.0);
    let dims = |d: [i64; 4]| d.map(Dim::Fixed).to_vec();
    let y = g.op(
        Pad { mode: PadMode::Constant, before: dims([0, 0, 1, 2]), after: dims([0, 0, 3, 0]) },
        &[y, zero],
    );
    let y = g.op(
        Slice { ranges: vec![SliceRange { axis: 1, start: Dim::Fixed(1), len: Dim::Fixed(6), step: 1 }] },
        &[y],
    );
    let y = g.conv(y, 3, 2, 1, 1);
    g.becomes(&[y], "transpose0231 conv pool conv resize concat pad slice conv transpose0312");
}

#[test]
fn patches_of_a_vision_transformer_come_out_in_order() {
    let mut g = Graph::new();
    let x = g.input(&[2, 3, 8, 8]);
    let y = g.conv(x, 1, 6, 2, 1);
    let y = g.reshape(y, &[2, 6, 16]);
    let y = g.transpose(y, &[0, 2, 1]);
    let w = g.constant(&[6, 4]);
    let y = g.matmul(y, w);
    g.becomes(&[y], "transpose0231 conv reshape matmul");
}

#[test]
fn a_convnext_block_has_no_transposition() {
    let mut g = Graph::new();
    let x = g.input(&[1, 3, 8, 8]);
    let x = g.conv(x, 1, 4, 1, 1);
    let y = g.conv(x, 7, 4, 1, 4);
    let y = g.transpose(y, &[0, 2, 3, 1]);
    let (scale, bias) = (g.constant(&[4]), g.constant(&[4]));
    let epsilon = engraft_network::Scalar::f32(1e-6);
    let y = g.op(LayerNorm { axis: 3, epsilon, rms: false, scale: true, bias: true }, &[y, scale, bias]);
    let (w1, w2) = (g.constant(&[4, 16]), g.constant(&[16, 4]));
    let y = g.matmul(y, w1);
    let y = g.unary(UnaryOp::Gelu, y);
    let y = g.matmul(y, w2);
    let y = g.transpose(y, &[0, 3, 1, 2]);
    let gamma = g.constant(&[4, 1, 1]);
    let y = g.mul(y, gamma);
    let y = g.add(x, y);
    let y = g.conv(y, 1, 2, 1, 1);
    let y = g.reduce(ReduceOp::Mean, y, &[2, 3], false);
    g.becomes(
        &[y],
        "transpose0231 conv conv layer_norm+scale+bias matmul[gelu(a)] matmul[add(b,a)] conv mean_of",
    );
}

#[test]
fn a_transposition_of_the_smaller_side_is_chosen() {
    // The second operand is small and not transposed: it is transposed instead of the large one.
    let mut g = Graph::new();
    let x = g.input(&[1, 3, 8, 8]);
    let m = g.input(&[1, 1, 8, 8]);
    let y = g.conv(x, 3, 16, 1, 1);
    let y = g.mul(y, m);
    let y = g.conv(y, 3, 4, 1, 1);
    g.becomes(&[y], "transpose0231 reshape conv[mul(a,b)] conv transpose0312");
}

#[test]
fn heads_stay_beside_their_product() {
    let mut g = Graph::new();
    let (q, k) = (g.input(&[2, 5, 12]), g.input(&[2, 5, 12]));
    let q = g.reshape(q, &[2, 5, 3, 4]);
    let q = g.transpose(q, &[0, 2, 1, 3]);
    let k = g.reshape(k, &[2, 5, 3, 4]);
    let k = g.transpose(k, &[0, 2, 3, 1]);
    let y = g.matmul(q, k);
    g.becomes(&[y], "reshape transpose0213 reshape transpose0213 matmul");
}

#[test]
fn symbolic_sizes_flatten_as_well() {
    let mut g = Graph::new();
    let batch = Dim::symbol(g.net.add_symbol("n", SymbolSource::InputDim { input: 0, axis: 0 }));
    let size = Dim::symbol(g.net.add_symbol("s", SymbolSource::InputDim { input: 0, axis: 2 }));
    let shape = [batch.clone(), Dim::Fixed(1), size.clone(), Dim::Fixed(8)];
    let x = g.net.add_input("x", TensorType::new(DType::F32, shape));
    let y = g.conv(x, 3, 6, 2, 1);
    let t = g.net.ty(y).shape.clone();
    let shape = vec![batch, Dim::Fixed(6), t[2].mul(&t[3])];
    let y = g.op(Reshape { shape }, &[y]);
    let y = g.transpose(y, &[0, 2, 1]);
    let w = g.constant(&[6, 4]);
    let y = g.matmul(y, w);
    g.becomes(&[y], "reshape conv reshape matmul");
}
