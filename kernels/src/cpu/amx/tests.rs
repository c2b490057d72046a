//! The kernels on the model of the tile unit, and, where there is one, on the unit itself.

use super::tactic::TileTactic;
use super::tile::{Model, Products};
use super::transposed::TransposedTactic;
use crate::cpu::check::tensor_of;
use crate::cpu::gemm::check::{Given, Random, check_at, epilogue};
use crate::{Precision, Tactic};
use engraft_network::ops::{Conv, ConvTranspose, Epilogue, MatMul, Padding};
use engraft_network::{DType, Expr, ExprNode, Op, Tensor};
use proptest::prelude::*;

static THREE: TileTactic<Model> = TileTactic::new("tiles.bf16x3.model", Products::Three, "tiles.bf16x3");
static ONE: TileTactic<Model> = TileTactic::new("tiles.bf16.model", Products::One, "tiles.bf16");

static TRANSPOSED: [TransposedTactic<Model>; 2] = [
    TransposedTactic::new("conv_transpose.tiles.bf16x3.model", Products::Three, "tiles.classes.bf16x3"),
    TransposedTactic::new("conv_transpose.tiles.bf16.model", Products::One, "tiles.classes.bf16"),
];

/// The model's tactics, and those of the catalog, which take nothing on a machine without tiles.
fn tactics() -> Vec<&'static dyn Tactic> {
    let mut all: Vec<&'static dyn Tactic> = vec![&THREE, &ONE, &TRANSPOSED[0], &TRANSPOSED[1]];
    all.extend_from_slice(super::tactics());
    all
}

/// How operands and results lie in memory.
#[derive(Clone, Copy, Debug)]
struct Stored {
    matrices: DType,
    extras: DType,
    result: DType,
}

impl Stored {
    const WIDE: Stored = Stored { matrices: DType::F32, extras: DType::F32, result: DType::F32 };

    /// An epilogue of `f32` for a product that is stored so.
    fn epilogue(self, bias: bool, post: Option<Expr>, extras: usize) -> Epilogue {
        let mut post = post.unwrap_or_else(|| {
            let mut sums = Expr::new();
            sums.push(ExprNode::Input(0));
            sums
        });
        let mut narrow = vec![self.matrices != DType::F32];
        narrow.resize(1 + extras, self.extras != DType::F32);
        post = post.converting(&narrow, DType::F32);
        if self.result != DType::F32 {
            let last = post.nodes().len() as u16 - 1;
            post.push(ExprNode::Cast(self.result, last));
        }
        Epilogue { bias, post: Some(post) }
    }
}

fn stored() -> impl Strategy<Value = Stored> {
    let one = || prop_oneof![Just(DType::F32), Just(DType::BF16)];
    let any =
        (one(), one(), one()).prop_map(|(matrices, extras, result)| Stored { matrices, extras, result });
    prop_oneof![1 => Just(Stored::WIDE), 2 => any]
}

/// Checks under both precisions, as far as they take what is stored so; how many tactics took it.
fn check_stored(
    stored: Stored,
    op: &Op,
    given: &[Given],
    threads: usize,
    gap: usize,
) -> Result<(), TestCaseError> {
    let Stored { matrices, extras, result } = stored;
    let taken = check(op, given, threads, gap)?;
    let all = crate::Isa::available().len();
    let expected = match [matrices, extras, result].contains(&DType::BF16) {
        // Products of bf16 are taken under any precision.
        true if matrices == DType::F32 => all,
        _ => 2 * all,
    };
    prop_assert!(taken >= expected, "{} of {:?}", taken, op);
    Ok(())
}

/// Checks under both precisions; how many tactics took it.
fn check(op: &Op, given: &[Given], threads: usize, gap: usize) -> Result<usize, TestCaseError> {
    let tactics = tactics();
    Ok(check_at(Precision::Tf32, 3e-4, &tactics, op, given, threads, gap)?
        + check_at(Precision::Bf16, 8e-2, &tactics, op, given, threads, gap)?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products(m in 4usize..75, n in 1usize..70, k in prop_oneof![1usize..40, 1usize..150], batch in 1usize..3,
                shared: bool, trans_a: bool, trans_b: bool, constant: bool, gap in 0usize..3, which in 0usize..40,
                bias: bool, stored in stored(), threads in 1usize..4, seed: u64) {
        let mut r = Random(seed | 1);
        let (a, b) = (if trans_a { [batch, k, m] } else { [batch, m, k] }, if trans_b { [n, k] } else { [k, n] });
        let b: Vec<usize> = if shared { b.to_vec() } else { vec![batch, b[0], b[1]] };
        let out = [batch, m, n];
        let (post, shapes) = epilogue(which, DType::F32, &out);
        let op = Op::from(MatMul { trans_a, trans_b, epilogue: stored.epilogue(bias, post, shapes.len()) });
        let mut given = vec![
            Given { gap, ..Given::new(r.tensor(stored.matrices, &a)) },
            Given { constant, gap: if constant { 0 } else { gap }, ..Given::new(r.tensor(stored.matrices, &b)) },
        ];
        if bias {
            given.push(Given::new(r.tensor(DType::F32, &[n])));
        }
        given.extend(shapes.iter().map(|s| Given::new(r.tensor(stored.extras, s))));
        check_stored(stored, &op, &given, threads, gap)?;
    }

    #[test]
    fn few_rows(m in 1usize..12, n in 1usize..70, k in prop_oneof![1usize..40, 1usize..300], batch in 1usize..3,
                trans_a: bool, trans_b: bool, gap in 0usize..3, which in 0usize..40, bias: bool, threads in 1usize..4,
                seed: u64) {
        let mut r = Random(seed | 1);
        let a = if trans_a { [batch, k, m] } else { [batch, m, k] };
        let b = if trans_b { [n, k] } else { [k, n] };
        let out = [batch, m, n];
        let (post, shapes) = epilogue(which, DType::F32, &out);
        let op = Op::from(MatMul { trans_a, trans_b, epilogue: Epilogue { bias, post } });
        let mut given = vec![
            Given { gap, ..Given::new(r.tensor(DType::F32, &a)) },
            Given { constant: true, ..Given::new(r.tensor(DType::F32, &b)) },
        ];
        if bias {
            given.push(Given::new(r.tensor(DType::F32, &[n])));
        }
        given.extend(shapes.iter().map(|s| Given::new(r.tensor(DType::F32, s))));
        let few: Vec<&'static dyn Tactic> = vec![crate::catalog::by_id("tiles.bf16.few").expect("in the catalog")];
        let taken = check_at(Precision::Bf16, 4e-2, &few, &op, &given, threads, gap)?;
        prop_assert_eq!(taken, crate::Isa::available().len(), "of {:?}", op);
    }

    #[test]
    fn convolutions(spatial in 1usize..4, batch in 1usize..3, channels in prop_oneof![1usize..5, 16usize..40],
                    outputs in prop_oneof![1usize..40, Just(64usize)], groups in prop_oneof![3 => Just(1usize), 1 => Just(2usize)],
                    size in prop::array::uniform3(1usize..22), kernel in prop::array::uniform3(1usize..4),
                    stride in prop::array::uniform3(1usize..3), dilation in prop::array::uniform3(1usize..3),
                    begin in prop::array::uniform3(0usize..3), end in prop::array::uniform3(0usize..3),
                    which in 0usize..40, bias: bool, stored in stored(), threads in 1usize..4, seed: u64) {
        let (channels, outputs) = if groups > 1 { (channels.max(16), outputs.max(8)) } else { (channels, outputs) };
        let sizes: Vec<usize> = (0..spatial).map(|i| {
            let reach = (kernel[i] - 1) * dilation[i] + 1;
            size[i].min([22, 13, 6][spatial - 1]).max(reach)
        }).collect();
        let mut r = Random(seed | 1);
        let x = r.tensor(stored.matrices, &[&[batch], &sizes[..], &[channels * groups]].concat());
        let w = r.tensor(stored.matrices, &[&kernel[..spatial], &[channels, outputs * groups]].concat());
        let plain = Conv {
            strides: stride[..spatial].to_vec(),
            dilations: dilation[..spatial].to_vec(),
            padding: Padding::Explicit { begin: begin[..spatial].to_vec(), end: end[..spatial].to_vec() },
            groups,
            epilogue: Epilogue::default(),
        };
        let out = Op::from(plain.clone()).eval(&[x.clone(), w.clone()], &[]).unwrap()[0].shape().to_vec();
        let (post, shapes) = epilogue(which, DType::F32, &out);
        let op = Op::from(Conv { epilogue: stored.epilogue(bias, post, shapes.len()), ..plain });
        let mut given = vec![Given::new(x), Given { constant: true, ..Given::new(w) }];
        if bias {
            given.push(Given::new(r.tensor(DType::F32, &out[out.len() - 1..])));
        }
        given.extend(shapes.iter().map(|s| Given::new(r.tensor(stored.extras, s))));
        check_stored(stored, &op, &given, threads, 0)?;
    }

    #[test]
    fn transposed_convolutions(
        spatial in 1usize..4, batch in 1usize..3, size in prop::array::uniform3(1usize..20), kernel in prop::array::uniform3(1usize..5),
        stride in prop::array::uniform3(1usize..4), dilation in prop::array::uniform3(1usize..3), begin in prop::array::uniform3(0usize..3),
        end in prop::array::uniform3(0usize..3), extra in prop::array::uniform3(0usize..3), same in 0usize..8,
        groups in prop_oneof![3 => Just(1usize), 1 => Just(2usize)], channels in 16usize..40, outputs in 8usize..40,
        which in 0usize..40, bias: bool, stored in stored(), threads in 1usize..4, gap in 0usize..3, seed: u64,
    ) {
        let mut r = Random(seed | 1);
        let take = |a: &[usize; 3]| a[..spatial].to_vec();
        let (strides, dilations, output_padding) = (take(&stride), take(&dilation), take(&extra));
        let padding = match same {
            0 => Padding::SameUpper,
            1 => Padding::SameLower,
            _ => Padding::Explicit { begin: take(&begin), end: take(&end) },
        };
        let size = size.map(|s| s.min([20, 9, 4][spatial - 1]));
        let (mut out, mut reached) = (vec![batch], true);
        for d in 0..spatial {
            prop_assume!(extra[d] < strides[d].max(dilations[d]));
            let full = (size[d] - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 + extra[d];
            let n = if same < 2 { size[d] * strides[d] } else { full.saturating_sub(begin[d] + end[d]) };
            prop_assume!(n > 0 && n <= full);
            let remainders: std::collections::BTreeSet<usize> = (0..kernel[d]).map(|k| k * dilations[d] % strides[d]).collect();
            reached &= remainders.len() == strides[d];
            out.push(n);
        }
        out.push(groups * outputs);
        let x = r.tensor(stored.matrices, &[&[batch], &size[..spatial], &[groups * channels]].concat());
        let w = r.tensor(stored.matrices, &[&kernel[..spatial], &[groups * channels, outputs]].concat());
        let (post, shapes) = epilogue(which, DType::F32, &out);
        let op = Op::ConvTranspose(ConvTranspose {
            strides, dilations, padding, output_padding, groups, epilogue: stored.epilogue(bias, post, shapes.len()),
        });
        let mut given = vec![Given { gap, ..Given::new(x) }, Given { constant: true, ..Given::new(w) }];
        if bias {
            given.push(Given::new(r.tensor(DType::F32, &[groups * outputs])));
        }
        given.extend(shapes.iter().map(|s| Given::new(r.tensor(stored.extras, s))));
        if reached {
            check_stored(stored, &op, &given, threads, gap)?;
        } else {
            check(&op, &given, threads, gap)?;
        }
    }
}

/// `[5, 3] x [3, 2]` of values that bf16 cannot hold: infinities, NaN, and what rounds above its largest number.
#[test]
fn sums_that_are_not_finite_are_those_of_f32() {
    let inf = f64::INFINITY;
    let huge = f64::from(f32::MAX);
    let a = tensor_of(
        DType::F32,
        &[5, 3],
        &[inf, 1.0, 2.0, 1.0, f64::NAN, 2.0, huge, 0.0, 0.0, -inf, inf, 0.0, 1.0, 2.0, 3.0],
    );
    let b = tensor_of(DType::F32, &[3, 2], &[1.0, 0.5, 3.0, 0.25, 1.0, 2.0]);
    let op = Op::from(MatMul::default());
    for constant in [false, true] {
        let given = [Given::new(a.clone()), Given { constant, ..Given::new(b.clone()) }];
        assert!(check(&op, &given, 1, 0).unwrap() > 0);
    }
}

/// Three products of split operands are as exact as the documentation says.
#[test]
fn three_products_are_nearly_single_precision() {
    let mut r = Random(7);
    let (m, n, k) = (32, 32, 512);
    let (a, b) = (r.tensor(DType::F32, &[m, k]), r.tensor(DType::F32, &[k, n]));
    let exact =
        |i: usize, j: usize| -> f64 { (0..k).map(|q| a.get_f64(i * k + q) * b.get_f64(q * n + j)).sum() };
    let got = run(&a, &b);
    let (mut apart, mut size) = (0.0, 0.0);
    for i in 0..m * n {
        let truth = exact(i / n, i % n);
        apart += (got.get_f64(i) - truth).powi(2);
        size += truth.powi(2);
    }
    let error = (apart / size).sqrt();
    assert!(error < 8e-6, "relative error {error:e}");
}

fn run(a: &Tensor, b: &Tensor) -> Tensor {
    use crate::{Args, Isa, Operand, Problem, TensorDesc};
    use engraft_network::AlignedBytes;
    let op = Op::from(MatMul::default());
    let dense = |t: &Tensor| TensorDesc::dense(t.dtype(), t.shape());
    let inputs = [Operand { desc: dense(a), constant: None }, Operand { desc: dense(b), constant: Some(b) }];
    let shape = [a.shape()[0], b.shape()[1]];
    let outputs = [TensorDesc::dense(DType::F32, &shape)];
    let p = Problem {
        op: &op,
        inputs: &inputs,
        outputs: &outputs,
        threads: 1,
        isa: Isa::best(),
        precision: Precision::Tf32,
        env: &[],
    };
    let mut packed = AlignedBytes::zeroed(THREE.packed_bytes(&p, 1));
    THREE.pack(&p, 1, packed.as_mut_slice());
    let kernel = THREE.prepare(&p);
    let mut scratch = AlignedBytes::zeroed(kernel.scratch_bytes());
    let mut out = AlignedBytes::zeroed(shape[0] * shape[1] * 4);
    for task in 0..kernel.phases()[0] {
        let args = Args {
            inputs: &[a.bytes().as_ptr(), packed.as_slice().as_ptr()],
            outputs: &[out.as_mut_slice().as_mut_ptr()],
            scratch: scratch.as_mut_slice().as_mut_ptr(),
            workspace: std::ptr::null_mut(),
        };
        // SAFETY: operands and scratch are as the kernel asked.
        unsafe { kernel.run(0, task, &args) }.unwrap();
    }
    Tensor::from_bytes(DType::F32, &shape, out.as_slice()).unwrap()
}
