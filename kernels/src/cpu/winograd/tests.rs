//! Minimal filtering against the network's evaluation and against sums in double precision.

use super::squares::inside;
use super::*;
use crate::cpu::gemm::check::{Given, Random, check_at, epilogue};
use crate::{Operand, TensorDesc};
use engraft_network::ops::{Conv, Epilogue, Padding};
use engraft_network::{AlignedBytes, DType};
use proptest::prelude::*;

fn conv(pad: [usize; 4], epilogue: Epilogue) -> Op {
    Op::Conv(Conv {
        strides: vec![1; 2],
        dilations: vec![1; 2],
        padding: Padding::Explicit { begin: pad[..2].to_vec(), end: pad[2..].to_vec() },
        groups: 1,
        epilogue,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn agrees_with_eval(
        batch in 1usize..4, size in [1usize..26, 1usize..26], pad in [0usize..3, 0usize..3, 0usize..3, 0usize..3],
        channels in prop_oneof![4 => 1usize..40, 1 => 250usize..300], outputs in prop_oneof![1usize..70, Just(64usize)],
        bias: bool, which in 0usize..18, threads in 1usize..5, gaps in [0usize..3, 0usize..3], seed in 1u64..u64::MAX,
    ) {
        let reach = |i: usize| (size[i] + pad[i] + pad[i + 2]).checked_sub(2).filter(|n| *n > 0);
        let (Some(h), Some(w)) = (reach(0), reach(1)) else { return Ok(()) };
        let mut random = Random(seed);
        let out = [batch, h, w, outputs];
        let (post, extras) = epilogue(which, DType::F32, &out);
        let op = conv(pad, Epilogue { bias, post });
        let mut given = vec![
            Given::new(random.tensor(DType::F32, &[batch, size[0], size[1], channels])),
            Given::new(random.tensor(DType::F32, &[3, 3, channels, outputs])),
        ];
        given[0].gap = gaps[0];
        given[1].constant = true;
        if bias {
            given.push(Given::new(random.tensor(DType::F32, &[outputs])));
        }
        for shape in &extras {
            given.push(Given::new(random.tensor(DType::F32, shape)));
        }
        // Errors go with the terms, which are up to 1: sums of thousands that cancel lose more of what remains.
        let tolerance = if channels > 100 { 1e-3 } else { 1e-4 };
        let taken = check_at(Precision::Tf32, tolerance, &tactics(), &op, &given, threads, gaps[1])?;
        prop_assert!(taken > 1, "forms refuse");
    }
}

fn problem<'a>(op: &'a Op, inputs: &'a [Operand<'a>], outputs: &'a [TensorDesc], isa: Isa) -> Problem<'a> {
    Problem { op, inputs, outputs, threads: 1, isa, precision: Precision::Tf32, env: &[] }
}

/// The relative Frobenius error of a tactic, and of `f32` sums in the order of their terms.
fn errors(tactic: &dyn Tactic, channels: usize, isa: Isa) -> (f64, f64) {
    let (size, n) = (14, 32);
    let mut random = Random(7);
    let x = random.tensor(DType::F32, &[1, size, size, channels]);
    let w = random.tensor(DType::F32, &[3, 3, channels, n]);
    let op = conv([1; 4], Epilogue::default());
    let desc = |shape: &[usize]| TensorDesc::dense(DType::F32, shape);
    let inputs = [
        Operand { desc: desc(x.shape()), constant: None },
        Operand { desc: desc(w.shape()), constant: Some(&w) },
    ];
    let outputs = [desc(&[1, size, size, n])];
    let p = problem(&op, &inputs, &outputs, isa);
    let mut packed = AlignedBytes::zeroed(tactic.packed_bytes(&p, 1));
    tactic.pack(&p, 1, packed.as_mut_slice());
    let kernel = tactic.prepare(&p);
    let mut scratch = AlignedBytes::zeroed(kernel.scratch_bytes());
    let mut got = vec![0f32; size * size * n];
    let args = Args {
        inputs: &[x.bytes().as_ptr(), packed.as_slice().as_ptr()],
        outputs: &[got.as_mut_ptr().cast()],
        scratch: scratch.as_mut_slice().as_mut_ptr(),
        workspace: std::ptr::null_mut(),
    };
    for task in 0..kernel.phases()[0] {
        // SAFETY: operands and scratch are as the kernel asked.
        unsafe { kernel.run(0, task, &args) }.unwrap();
    }
    let (x, w): (&[f32], &[f32]) = (bytemuck::cast_slice(x.bytes()), bytemuck::cast_slice(w.bytes()));
    let (mut wrong, mut plainly, mut norm) = (0f64, 0f64, 0f64);
    for (i, got) in got.iter().enumerate() {
        let (oy, ox, j) = (i / n / size, i / n % size, i % n);
        let (mut exact, mut plain) = (0f64, 0f32);
        for (ky, kx) in (0..9).map(|tap| (tap / 3, tap % 3)) {
            let (Some(y), Some(x0)) = (inside(oy + ky, 1, size), inside(ox + kx, 1, size)) else { continue };
            for c in 0..channels {
                let (a, b) = (x[(y * size + x0) * channels + c], w[((ky * 3 + kx) * channels + c) * n + j]);
                exact += f64::from(a) * f64::from(b);
                plain += a * b;
            }
        }
        wrong += (f64::from(*got) - exact).powi(2);
        plainly += (f64::from(plain) - exact).powi(2);
        norm += exact * exact;
    }
    ((wrong / norm).sqrt(), (plainly / norm).sqrt())
}

#[test]
fn errors_stay_near_those_of_plain_sums() {
    for isa in Isa::available() {
        for tactic in tactics().into_iter().filter(|t| t.id().ends_with(isa.name())) {
            for channels in [16, 64, 256] {
                let (error, plain) = errors(tactic, channels, isa);
                let most = if tactic.id().starts_with("winograd4") { 4.0 } else { 1.5 };
                println!("{} {channels}: {error:.1e}, plain sums {plain:.1e}", tactic.id());
                assert!(error < most * plain, "{}: {error:.1e}, plain sums {plain:.1e}", tactic.id());
            }
        }
    }
}

/// Packings have one name for all instruction sets.
#[test]
fn every_instruction_set_packs_the_same_bits() {
    let w = Random(5).tensor(DType::F32, &[3, 3, 7, 37]);
    let desc = |shape: &[usize]| TensorDesc::dense(DType::F32, shape);
    let inputs = [
        Operand { desc: desc(&[1, 9, 9, 7]), constant: None },
        Operand { desc: desc(w.shape()), constant: Some(&w) },
    ];
    let (op, outputs) = (conv([1; 4], Epilogue::default()), [desc(&[1, 9, 9, 37])]);
    let mut packed = std::collections::BTreeMap::new();
    for isa in Isa::available() {
        let p = problem(&op, &inputs, &outputs, isa);
        for tactic in tactics() {
            let mut bytes = AlignedBytes::zeroed(tactic.packed_bytes(&p, 1));
            tactic.pack(&p, 1, bytes.as_mut_slice());
            let first = packed.entry(tactic.packing(&p, 1)).or_insert_with(|| bytes.as_slice().to_vec());
            assert!(first.as_slice() == bytes.as_slice(), "{} under {}", tactic.id(), isa.name());
        }
    }
    assert_eq!(packed.len(), 2);
}
