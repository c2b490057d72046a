//! Prints the speed of the matrix tactics on one thread for layers of well-known networks.
//!
//! `cargo run --release -p engraft-kernels --example gflops [filter] [fp32|tf32|bf16] [cold] [stored]`; `ENGRAFT_ISA` caps the
//! instruction set. `cold` has operands come from beyond a core's own caches, as in a network; `stored` keeps values between
//! layers as bf16.

use engraft_kernels::cpu::gemm::micro::{self, Ahead, Micro, Stream, Tile};
use engraft_kernels::{Args, Class, Isa, Operand, Precision, Problem, TensorDesc, catalog};
use engraft_network::ops::{
    Activation, Attention, Conv, ConvTranspose, Direction, Epilogue, MatMul, Padding, Rnn, RnnKind,
};
use engraft_network::{AlignedBytes, BinaryOp, DType, Expr, ExprNode, Op, Scalar, Tensor, UnaryOp};
use std::time::Instant;

/// Seconds per call: the best of some batches.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let start = Instant::now();
    f();
    let once = start.elapsed().as_secs_f64().max(1e-8);
    let calls = ((2e-3 / once) as usize).clamp(1, 10_000);
    (0..15)
        .map(|_| {
            let start = Instant::now();
            (0..calls).for_each(|_| f());
            start.elapsed().as_secs_f64() / calls as f64
        })
        .fold(f64::MAX, f64::min)
}

#[cfg(target_arch = "x86_64")]
mod peak {
    use super::best;
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub fn avx512() -> f64 {
        let seconds = best(|| {
            let mut acc = [_mm512_set1_ps(1.0); 24];
            let (x, y) = (_mm512_set1_ps(0.999), _mm512_set1_ps(1e-9));
            for _ in 0..1000 {
                acc.iter_mut().for_each(|a| *a = _mm512_fmadd_ps(*a, x, y));
            }
            std::hint::black_box(acc);
        });
        24_000.0 * 32.0 / seconds / 1e9
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2() -> f64 {
        let seconds = best(|| {
            let mut acc = [_mm256_set1_ps(1.0); 12];
            let (x, y) = (_mm256_set1_ps(0.999), _mm256_set1_ps(1e-9));
            for _ in 0..1000 {
                acc.iter_mut().for_each(|a| *a = _mm256_fmadd_ps(*a, x, y));
            }
            std::hint::black_box(acc);
        });
        12_000.0 * 16.0 / seconds / 1e9
    }
}

fn micro_kernels(name: &str, micro: &Micro<f32>, k: usize) {
    let a = vec![0.5f32; 16 * (k + 16)];
    let b = vec![0.25f32; k * 32];
    let mut c = vec![0f32; 16 * 32];
    print!("micro {name} k={k}:");
    for rows in 1..=micro.rows() {
        let a: Vec<*const f32> = (0..rows).map(|i| a[i * (k + 16)..].as_ptr()).collect();
        let c: Vec<*mut f32> = (0..rows).map(|i| c[i * 32..].as_mut_ptr()).collect();
        let tile = Tile {
            a: a.as_ptr(),
            a_step: rows,
            taps: 1,
            offset: 0,
            run: k,
            b: b.as_ptr(),
            c: c.as_ptr(),
            col: 0,
            cols: micro.width,
            accumulate: false,
            bias: std::ptr::null(),
            residual: std::ptr::null(),
            clip: None,
            fetch: Stream::none(),
            claim: Stream::none(),
            ahead: Ahead::none(),
        };
        let half = Tile { cols: micro.width / 2, ..tile };
        // SAFETY: the operands have the sizes that the tile states.
        let wide = best(|| unsafe { (micro.kernel(rows, tile.cols))(&tile) });
        // SAFETY: as above.
        let narrow = best(|| unsafe { (micro.kernel(rows, half.cols))(&half) });
        let flops = (2 * rows * k) as f64 / 1e9;
        print!(" {rows}:{:.0}/{:.0}", flops * micro.width as f64 / wide, flops * half.cols as f64 / narrow);
    }
    println!();
}

/// A layer: the operator and its operands, weights constant where said.
struct Layer {
    name: &'static str,
    op: Op,
    inputs: Vec<(Vec<usize>, bool)>,
    outs: Vec<Vec<usize>>,
    dtype: DType,
}

fn tensor(shape: &[usize], dtype: DType) -> Tensor {
    let values = (0..shape.iter().product()).map(|i: usize| ((i % 17) as f32 - 8.0) / 16.0);
    let made = match dtype {
        DType::BF16 => Tensor::from_slice(shape, &values.map(half::bf16::from_f32).collect::<Vec<_>>()),
        _ => Tensor::from_slice(shape, &values.collect::<Vec<f32>>()),
    };
    made.expect("as many values as the shape has")
}

/// How layers are measured.
#[derive(Clone, Copy)]
struct Mode {
    isa: Isa,
    precision: Precision,
    cold: bool,
}

/// The layer with all values but the bias stored as bf16.
fn stored(mut layer: Layer) -> Option<Layer> {
    let epilogue = match &mut layer.op {
        Op::MatMul(op) => &mut op.epilogue,
        Op::Conv(op) => &mut op.epilogue,
        _ => return None,
    };
    let mut post = epilogue.post.take().unwrap_or_else(|| {
        let mut sums = Expr::new();
        sums.push(ExprNode::Input(0));
        sums
    });
    post = post.converting(&vec![true; post.arity()], DType::F32);
    let last = post.nodes().len() as u16 - 1;
    post.push(ExprNode::Cast(DType::BF16, last));
    epilogue.post = Some(post);
    layer.dtype = DType::BF16;
    Some(layer)
}

/// Operands and results of a layer, in the form that a tactic wants.
struct Operands {
    inputs: Vec<AlignedBytes>,
    outputs: Vec<AlignedBytes>,
}

/// Bytes that are in no core's own cache any more once so many others were used.
const FAR_BYTES: usize = 64 << 20;

/// GFLOP/s of every optimised tactic that takes the layer.
fn measure(layer: &Layer, mode: Mode) -> Vec<(&'static str, f64, f64)> {
    let bias = match &layer.op {
        Op::MatMul(op) if op.epilogue.bias => Some(2),
        Op::Conv(op) if op.epilogue.bias => Some(2),
        _ => None,
    };
    let tensors: Vec<Tensor> = layer
        .inputs
        .iter()
        .enumerate()
        .map(|(i, (shape, _))| tensor(shape, if Some(i) == bias { DType::F32 } else { layer.dtype }))
        .collect();
    let operands: Vec<Operand<'_>> = tensors
        .iter()
        .zip(&layer.inputs)
        .map(|(t, (shape, constant))| Operand {
            desc: TensorDesc::dense(t.dtype(), shape),
            constant: constant.then_some(t),
        })
        .collect();
    let outputs: Vec<TensorDesc> = layer.outs.iter().map(|s| TensorDesc::dense(layer.dtype, s)).collect();
    let Mode { isa, precision, cold } = mode;
    let p =
        Problem { op: &layer.op, inputs: &operands, outputs: &outputs, threads: 1, isa, precision, env: &[] };
    let shapes: Vec<&[usize]> = layer.inputs.iter().map(|(s, _)| &s[..]).collect();
    let outs: Vec<&[usize]> = layer.outs.iter().map(|s| &s[..]).collect();
    let flops = layer.op.flops(&shapes, &outs);
    let (fits, _) = catalog::candidates(&p);
    let fits = fits.into_iter().filter(|(t, _)| t.class() == Class::Optimized);
    let mut speeds = Vec::new();
    for (t, fit) in fits {
        let copy = || {
            let input = |i: usize| match t.packing(&p, i) {
                Some(_) => {
                    let mut bytes = AlignedBytes::zeroed(t.packed_bytes(&p, i));
                    t.pack(&p, i, bytes.as_mut_slice());
                    bytes
                }
                None => AlignedBytes::copy_of(tensors[i].bytes()),
            };
            Operands {
                inputs: (0..operands.len()).map(input).collect(),
                outputs: outputs.iter().map(|d| AlignedBytes::zeroed(d.dense_bytes())).collect(),
            }
        };
        let first = copy();
        let bytes: usize = first.inputs.iter().chain(&first.outputs).map(|b| b.as_slice().len()).sum();
        let copies = if cold { (FAR_BYTES / bytes.max(1)).clamp(1, 64) + 1 } else { 1 };
        let mut sets: Vec<Operands> = std::iter::once(first).chain((1..copies).map(|_| copy())).collect();
        let kernel = t.prepare(&p);
        let mut scratch = AlignedBytes::zeroed(kernel.scratch_bytes());
        let mut workspace = AlignedBytes::zeroed(kernel.workspace_bytes());
        let mut turn = 0;
        let seconds = best(|| {
            turn = (turn + 1) % sets.len();
            let set = &mut sets[turn];
            let pointers: Vec<*mut u8> =
                set.outputs.iter_mut().map(|b| b.as_mut_slice().as_mut_ptr()).collect();
            let inputs: Vec<*const u8> = set.inputs.iter().map(|b| b.as_slice().as_ptr()).collect();
            let args = Args {
                inputs: &inputs,
                outputs: &pointers,
                scratch: scratch.as_mut_slice().as_mut_ptr(),
                workspace: workspace.as_mut_slice().as_mut_ptr(),
            };
            for (phase, &tasks) in kernel.phases().iter().enumerate() {
                for task in 0..tasks {
                    // SAFETY: operands, scratch and workspace are as the kernel asked.
                    unsafe { kernel.run(phase, task, &args) }.unwrap();
                }
            }
        });
        speeds.push((t.id(), flops / seconds / 1e9, fit.cost_ns / (seconds * 1e9)));
    }
    speeds
}

fn conv(
    name: &'static str,
    c: usize,
    m: usize,
    size: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
) -> Layer {
    let pad = (kernel - 1) / 2;
    let out = (size + 2 * pad - kernel) / stride + 1;
    Layer {
        name,
        op: Op::Conv(Conv {
            strides: vec![stride; 2],
            dilations: vec![1; 2],
            padding: Padding::Explicit { begin: vec![pad; 2], end: vec![pad; 2] },
            groups,
            epilogue: Epilogue { bias: true, post: Some(Expr::unary(UnaryOp::Relu)) },
        }),
        inputs: vec![
            (vec![1, size, size, c], false),
            (vec![kernel, kernel, c / groups, m], true),
            (vec![m], true),
        ],
        outs: vec![vec![1, out, out, m]],
        dtype: DType::F32,
    }
}

fn transpose(name: &'static str, c: usize, m: usize, size: usize, kernel: usize, stride: usize) -> Layer {
    let out = (size - 1) * stride + kernel;
    Layer {
        name,
        op: Op::ConvTranspose(ConvTranspose {
            strides: vec![stride; 2],
            dilations: vec![1; 2],
            padding: Padding::none(2),
            output_padding: vec![0; 2],
            groups: 1,
            epilogue: Epilogue { bias: true, post: None },
        }),
        inputs: vec![(vec![1, size, size, c], false), (vec![kernel, kernel, c, m], true), (vec![m], true)],
        outs: vec![vec![1, out, out, m]],
        dtype: DType::F32,
    }
}

fn gemm(name: &'static str, m: usize, k: usize, n: usize) -> Layer {
    Layer {
        name,
        op: Op::MatMul(MatMul { epilogue: Epilogue { bias: true, post: None }, ..MatMul::default() }),
        inputs: vec![(vec![m, k], false), (vec![k, n], true), (vec![n], true)],
        outs: vec![vec![m, n]],
        dtype: DType::F32,
    }
}

fn act(mut layer: Layer, name: &'static str, unary: UnaryOp) -> Layer {
    layer.name = name;
    match &mut layer.op {
        Op::MatMul(op) => op.epilogue.post = Some(Expr::unary(unary)),
        Op::Conv(op) => op.epilogue.post = Some(Expr::unary(unary)),
        _ => {}
    }
    layer
}

/// A convolution to which a value of its result's shape is added.
fn residual(name: &'static str, c: usize, m: usize, size: usize) -> Layer {
    let mut layer = conv(name, c, m, size, 1, 1, 1);
    let mut post = Expr::new();
    let (sum, other) = (post.push(ExprNode::Input(0)), post.push(ExprNode::Input(1)));
    let sum = post.push(ExprNode::Binary(BinaryOp::Add, sum, other));
    post.push(ExprNode::Unary(UnaryOp::Relu, sum));
    if let Op::Conv(op) = &mut layer.op {
        op.epilogue.post = Some(post);
    }
    layer.inputs.push((layer.outs[0].clone(), false));
    layer
}

fn batched(name: &'static str, b: usize, m: usize, k: usize, n: usize, trans_b: bool) -> Layer {
    Layer {
        name,
        op: Op::MatMul(MatMul { trans_b, ..MatMul::default() }),
        inputs: vec![(vec![b, m, k], false), (if trans_b { vec![b, n, k] } else { vec![b, k, n] }, false)],
        outs: vec![vec![b, m, n]],
        dtype: DType::F32,
    }
}

/// Attention over `keys` keys: `heads` heads of queries for each of `groups` heads of keys.
fn attention(
    name: &'static str,
    groups: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    d: usize,
    causal: bool,
) -> Layer {
    let scale = Scalar::f32((d as f32).sqrt().recip());
    let shape = |heads: usize, rows: usize| vec![1, heads, rows, d];
    Layer {
        name,
        op: Op::from(Attention { scale, causal, mask: false }),
        inputs: [shape(groups * heads, queries), shape(groups, keys), shape(groups, keys)]
            .map(|s| (s, false))
            .into(),
        outs: vec![shape(groups * heads, queries)],
        dtype: DType::F32,
    }
}

fn lstm(name: &'static str, steps: usize, batch: usize, width: usize, hidden: usize) -> Layer {
    Layer {
        name,
        op: Op::from(Rnn {
            kind: RnnKind::Lstm,
            direction: Direction::Forward,
            hidden,
            activations: vec![Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
            clip: None,
            linear_before_reset: false,
            input_forget: false,
            bias: false,
            sequence_lens: false,
            initial_h: false,
            initial_c: false,
            peephole: false,
            mask: false,
        }),
        inputs: vec![
            (vec![steps, batch, width], false),
            (vec![1, 4 * hidden, width], true),
            (vec![1, 4 * hidden, hidden], true),
        ],
        outs: vec![vec![steps, 1, batch, hidden], vec![1, batch, hidden], vec![1, batch, hidden]],
        dtype: DType::F32,
    }
}

fn layers() -> Vec<Layer> {
    vec![
        conv("resnet 7x7/2 3>64 224", 3, 64, 224, 7, 2, 1),
        conv("resnet 3x3 64>64 56", 64, 64, 56, 3, 1, 1),
        conv("resnet 3x3 128>128 28", 128, 128, 28, 3, 1, 1),
        conv("resnet 3x3 256>256 14", 256, 256, 14, 3, 1, 1),
        conv("resnet 3x3 512>512 7", 512, 512, 7, 3, 1, 1),
        conv("resnet 3x3/2 128>128 56", 128, 128, 56, 3, 2, 1),
        conv("resnet 1x1 64>256 56", 64, 256, 56, 1, 1, 1),
        conv("resnet 1x1 256>64 56", 256, 64, 56, 1, 1, 1),
        conv("resnet 1x1 512>128 28", 512, 128, 28, 1, 1, 1),
        conv("resnet 1x1 1024>256 14", 1024, 256, 14, 1, 1, 1),
        conv("resnet 1x1 512>2048 7", 512, 2048, 7, 1, 1, 1),
        conv("resnet 1x1 2048>512 7", 2048, 512, 7, 1, 1, 1),
        conv("resnet 1x1/2 256>512 56", 256, 512, 56, 1, 2, 1),
        residual("resnet 1x1 + 64>256 56", 64, 256, 56),
        residual("resnet 1x1 + 128>512 28", 128, 512, 28),
        residual("resnet 1x1 + 256>1024 14", 256, 1024, 14),
        residual("resnet 1x1 + 512>2048 7", 512, 2048, 7),
        conv("mobilenet 3x3/2 3>32 224", 3, 32, 224, 3, 2, 1),
        conv("mobilenet 1x1 16>96 112", 16, 96, 112, 1, 1, 1),
        conv("mobilenet 1x1 96>24 56", 96, 24, 56, 1, 1, 1),
        conv("mobilenet 1x1 32>16 112", 32, 16, 112, 1, 1, 1),
        act(conv("", 144, 40, 28, 1, 1, 1), "silu 1x1 144>40 28", UnaryOp::Silu),
        act(conv("", 24, 144, 56, 1, 1, 1), "silu 1x1 24>144 56", UnaryOp::Silu),
        act(conv("", 64, 64, 80, 3, 1, 1), "silu 3x3 64>64 80", UnaryOp::Silu),
        conv("depthwise 3x3 32 112", 32, 32, 112, 3, 1, 32),
        conv("depthwise 3x3/2 96 112", 96, 96, 112, 3, 2, 96),
        conv("depthwise 3x3 144 56", 144, 144, 56, 3, 1, 144),
        conv("depthwise 3x3 192 28", 192, 192, 28, 3, 1, 192),
        conv("depthwise 3x3 576 14", 576, 576, 14, 3, 1, 576),
        conv("depthwise 3x3 960 7", 960, 960, 7, 3, 1, 960),
        conv("depthwise 5x5 120 28", 120, 120, 28, 5, 1, 120),
        conv("depthwise 5x5 672 14", 672, 672, 14, 5, 1, 672),
        conv("depthwise 7x7 96 56", 96, 96, 56, 7, 1, 96),
        act(conv("", 672, 672, 14, 5, 1, 672), "silu depthwise 5x5 672 14", UnaryOp::Silu),
        conv("grouped 3x3 128/32 56", 128, 128, 56, 3, 1, 32),
        conv("grouped 3x3 64/4 56", 64, 64, 56, 3, 1, 4),
        transpose("transpose 2x2/2 128>64 64", 128, 64, 64, 2, 2),
        transpose("transpose 4x4/2 64>64 32", 64, 64, 32, 4, 2),
        gemm("bert 128x768x768", 128, 768, 768),
        gemm("bert 128x768x3072", 128, 768, 3072),
        act(gemm("", 128, 768, 3072), "gelu bert 128x768x3072", UnaryOp::Gelu),
        gemm("bert 128x3072x768", 128, 3072, 768),
        gemm("minilm 32x384x1536", 32, 384, 1536),
        gemm("minilm 128x384x1536", 128, 384, 1536),
        batched("scores 12x 128x64x128", 12, 128, 64, 128, true),
        batched("values 12x 128x128x64", 12, 128, 128, 64, false),
        batched("decode 12x 1x64x512", 12, 1, 64, 512, true),
        batched("decode 12x 1x512x64", 12, 1, 512, 64, false),
        attention("attention vit 12x 197x64", 12, 1, 197, 197, 64, false),
        attention("attention bert 12x 128x64", 12, 1, 128, 128, 64, false),
        attention("attention minilm 12x 128x32", 12, 1, 128, 128, 32, false),
        attention("attention 8x 1024x64", 8, 1, 1024, 1024, 64, false),
        attention("attention causal 12x 512x64", 12, 1, 512, 512, 64, true),
        attention("attention grouped 2x4 512x128", 2, 4, 512, 512, 128, true),
        attention("attention decode 12x 1x512x64", 12, 1, 1, 512, 64, false),
        lstm("lstm 100x1 128>128", 100, 1, 128, 128),
        lstm("lstm 60x16 256>256", 60, 16, 256, 256),
        gemm("decode 1x768x3072", 1, 768, 3072),
        gemm("decode 1x768x50257", 1, 768, 50257),
        gemm("head 1x2048x1000", 1, 2048, 1000),
    ]
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let filter = arguments.next().unwrap_or_default();
    let (mut precision, mut cold, mut narrow) = (Precision::Fp32, false, false);
    for argument in arguments {
        match argument.as_str() {
            "cold" => cold = true,
            "stored" => narrow = true,
            name => {
                precision = Precision::from_name(name).unwrap_or_else(|| panic!("{name} is no precision"));
            }
        }
    }
    let isa = Isa::best();
    #[cfg(target_arch = "x86_64")]
    {
        if isa >= Isa::Avx2 {
            // SAFETY: detected.
            println!("avx2 peak {:.1}", unsafe { peak::avx2() });
        }
        if isa >= Isa::Avx512 {
            // SAFETY: detected.
            println!("avx512 peak {:.1}", unsafe { peak::avx512() });
        }
        if "micro".contains(&filter) {
            for k in [64, 256] {
                if isa >= Isa::Avx2 {
                    micro_kernels("avx2", &micro::F32_AVX2, k);
                }
                if isa >= Isa::Avx512 {
                    micro_kernels("avx512", &micro::F32_AVX512, k);
                }
            }
        }
    }
    if "micro".contains(&filter) {
        micro_kernels("portable", &micro::F32_PORTABLE, 256);
    }
    for layer in layers().into_iter().filter(|l| l.name.contains(&filter)) {
        let Some(layer) = (if narrow { stored(layer) } else { Some(layer) }) else { continue };
        print!("{:28}", layer.name);
        for (id, speed, ratio) in measure(&layer, Mode { isa, precision, cold }) {
            print!(" {} {speed:.1} (cost x{ratio:.2})", id.replace(".f32.", " "));
        }
        println!();
    }
}
