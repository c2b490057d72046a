//! Transposed convolutions whose sub-pixels are computed at once.

use super::*;

/// A transposed convolution of channels-last `x` with bias and a sigmoid.
fn upsampled(g: &mut Graph, x: ValueId, kernel: [usize; 2], stride: [usize; 2], m: usize) -> ValueId {
    padded(g, x, kernel, stride, [[0; 2]; 3], m)
}

/// The same with pixels that are left out at the start and at the end, and pixels more.
fn padded(
    g: &mut Graph,
    x: ValueId,
    kernel: [usize; 2],
    stride: [usize; 2],
    [begin, end, more]: [[usize; 2]; 3],
    m: usize,
) -> ValueId {
    let channels = g.net.ty(x).shape[3].fixed().unwrap() as usize;
    let w = g.constant(&[kernel[0], kernel[1], channels, m]);
    let b = g.constant(&[m]);
    let op = ConvTranspose {
        strides: stride.to_vec(),
        dilations: vec![1; 2],
        padding: Padding::Explicit { begin: begin.to_vec(), end: end.to_vec() },
        output_padding: more.to_vec(),
        groups: 1,
        epilogue: Epilogue { bias: true, post: None },
    };
    let y = g.op(op, &[x, w, b]);
    g.unary(UnaryOp::Sigmoid, y)
}

#[test]
fn few_channels_are_one_product() {
    for (kernel, m) in [([2, 2], 1), ([2, 3], 4), ([1, 4], 8)] {
        let mut g = Graph::new();
        let x = g.input(&[2, 3, 5, 6]);
        let y = upsampled(&mut g, x, kernel, kernel, m);
        g.becomes(&[y], "conv[sigmoid(a)] reshape transpose013245 reshape");
    }
}

#[test]
fn windows_that_overlap_are_one_convolution() {
    for (kernel, stride, begin, end, more, m) in [
        ([4, 4], [2, 2], [1, 1], [1, 1], [0, 0], 1),
        ([4, 4], [2, 2], [1, 1], [1, 1], [0, 0], 4),
        ([3, 3], [2, 2], [1, 1], [1, 1], [1, 1], 3),
        ([5, 4], [2, 2], [2, 0], [1, 2], [0, 0], 2),
        ([5, 3], [2, 3], [1, 0], [2, 0], [0, 0], 1),
        ([7, 3], [3, 1], [4, 1], [1, 1], [1, 0], 2),
    ] {
        let mut g = Graph::new();
        let x = g.input(&[2, 3, 5, 6]);
        let y = padded(&mut g, x, kernel, stride, [begin, end, more], m);
        g.becomes(&[y], "conv[sigmoid(a)] reshape transpose013245 reshape");
    }
}

#[test]
fn sizes_may_be_symbols() {
    let mut g = Graph::new();
    let batch = Dim::symbol(g.net.add_symbol("n", SymbolSource::InputDim { input: 0, axis: 0 }));
    let size = Dim::symbol(g.net.add_symbol("s", SymbolSource::InputDim { input: 0, axis: 1 }));
    let shape = [batch, size.clone(), size, Dim::Fixed(6)];
    let x = g.net.add_input("x", TensorType::new(DType::F32, shape));
    let y = upsampled(&mut g, x, [2, 2], [2, 2], 1);
    g.becomes(&[y], "conv[sigmoid(a)] reshape transpose013245 reshape");
}

#[test]
fn others_stay() {
    // Results of another size, windows that leave gaps, and channels that fill vectors by themselves or would not fill them better.
    for (kernel, stride, pad, m) in [
        ([3, 3], [2, 2], 0, 1),
        ([2, 2], [3, 3], 0, 1),
        ([2, 2], [2, 2], 0, 16),
        ([4, 4], [2, 2], 1, 8),
        ([3, 3], [1, 1], 1, 4),
    ] {
        let mut g = Graph::new();
        let x = g.input(&[1, 3, 4, 6]);
        let y = padded(&mut g, x, kernel, stride, [[pad; 2], [pad; 2], [0; 2]], m);
        g.becomes(&[y], "conv_transpose");
    }
}
