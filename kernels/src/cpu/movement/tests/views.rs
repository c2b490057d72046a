use super::*;
use engraft_network::ops::{Concat, Expand, Pad, PadMode, Reshape, Slice, SliceRange, Tile, Transpose};

#[test]
fn transposes() {
    let r = &mut Random(1);
    for _ in 0..120 {
        let x = any(r.pick(&DTYPES), &shape(0..=5, r), r);
        let mut perm: Vec<usize> = (0..x.shape().len()).collect();
        for i in (1..perm.len()).rev() {
            perm.swap(i, r.below(i + 1));
        }
        check(Transpose { perm }, &[x], r);
    }
}

#[test]
fn large_transposes_in_many_tasks() {
    let r = &mut Random(2);
    for dtype in DTYPES {
        for (m, n) in [(515, 130), (3, 40_001), (40_001, 3), (17, 5000)] {
            check(Transpose { perm: vec![1, 0] }, &[any(dtype, &[m, n], r)], r);
        }
    }
}

#[test]
fn reshapes() {
    let r = &mut Random(3);
    for _ in 0..100 {
        let x = any(r.pick(&DTYPES), &shape(0..=4, r), r);
        let mut to = x.shape().to_vec();
        match r.below(3) {
            0 => to = vec![x.count()],
            1 => to.insert(r.below(to.len() + 1), 1),
            _ if to.len() >= 2 => {
                let last = to.pop().unwrap();
                *to.last_mut().unwrap() *= last;
            }
            _ => {}
        }
        check(Reshape { shape: dims(&to) }, &[x], r);
    }
}

#[test]
fn packed_nibbles_reshape() {
    use crate::{Args, Operand, Problem, Tactic, TensorDesc};
    let op = Op::from(Reshape { shape: dims(&[210]) });
    let inputs = [Operand { desc: TensorDesc::dense(DType::U4, &[6, 35]), constant: None }];
    let outputs = [TensorDesc::dense(DType::U4, &[210])];
    let p = Problem {
        op: &op,
        inputs: &inputs,
        outputs: &outputs,
        threads: 1,
        isa: Isa::best(),
        precision: crate::Precision::Fp32,
        env: &[],
    };
    super::super::views::Views.accepts(&p).unwrap();
    let kernel = super::super::views::Views.prepare(&p);
    let (src, mut dst) = ([7u8; 105], [0u8; 106]);
    let (inputs, outputs) = ([src.as_ptr()], [dst.as_mut_ptr()]);
    let args = Args {
        inputs: &inputs,
        outputs: &outputs,
        scratch: std::ptr::null_mut(),
        workspace: std::ptr::null_mut(),
    };
    assert_eq!(kernel.phases(), [1]);
    // SAFETY: 210 elements of 4 bits in 105 bytes each.
    unsafe { kernel.run(0, 0, &args) }.unwrap();
    assert!(dst[..105] == src && dst[105] == 0);
}

#[test]
fn expansions_and_tiles() {
    let r = &mut Random(5);
    for _ in 0..100 {
        let to = shape(0..=5, r);
        let skipped = r.below(to.len() + 1);
        let from: Vec<usize> = to[skipped..].iter().map(|d| if r.chance(50) { 1 } else { *d }).collect();
        check(Expand { shape: dims(&to) }, &[any(r.pick(&DTYPES), &from, r)], r);
        let from = shape(0..=4, r);
        let repeats: Vec<usize> = from.iter().map(|d| if *d > 20 { 1 } else { r.below(4) }).collect();
        check(Tile { repeats: dims(&repeats) }, &[any(r.pick(&DTYPES), &from, r)], r);
    }
}

#[test]
fn concatenations() {
    let r = &mut Random(6);
    for _ in 0..100 {
        let mut shape = shape(1..=4, r);
        let axis = r.below(shape.len());
        let dtype = r.pick(&DTYPES);
        let mut inputs = Vec::new();
        for _ in 0..1 + r.below(4) {
            shape[axis] = r.below(12);
            inputs.push(any(dtype, &shape, r));
        }
        check(Concat { axis }, &inputs, r);
    }
}

#[test]
fn slices() {
    let r = &mut Random(7);
    for _ in 0..120 {
        let from = shape(0..=4, r);
        let mut ranges = Vec::new();
        for (axis, &size) in from.iter().enumerate() {
            if size > 0 && r.chance(60) {
                let (a, b, by) = (r.below(size), r.below(size), 1 + r.below(3));
                let len = if r.chance(10) { 0 } else { a.abs_diff(b) / by + 1 };
                let step = if b >= a { by as i64 } else { -(by as i64) };
                ranges.push(SliceRange { axis, start: Dim::from(a), len: Dim::from(len), step });
            }
        }
        check(Slice { ranges }, &[any(r.pick(&DTYPES), &from, r)], r);
    }
}

#[test]
fn paddings() {
    let r = &mut Random(8);
    for _ in 0..120 {
        let from = shape(0..=4, r);
        let mode = r.pick(&[PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap]);
        let mut amount = |size: &usize| match size {
            _ if r.chance(40) => 0,
            0 if mode != PadMode::Constant => 0,
            0..=12 => r.below(2 * size + 3),
            _ => r.below(4),
        };
        let before: Vec<usize> = from.iter().map(&mut amount).collect();
        let after: Vec<usize> = from.iter().map(&mut amount).collect();
        let dtype = r.pick(&DTYPES);
        let mut inputs = vec![any(dtype, &from, r)];
        if mode == PadMode::Constant {
            inputs.push(any(dtype, &[], r));
        }
        check(Pad { mode, before: dims(&before), after: dims(&after) }, &inputs, r);
    }
}

#[test]
fn a_reshape_in_place_is_nothing() {
    use crate::{Operand, Problem, Tactic, TensorDesc};
    let x = TensorDesc::dense(DType::F32, &[6, 4]);
    let out = TensorDesc::dense(DType::F32, &[24]);
    let op = Op::from(Reshape { shape: dims(&[24]) });
    let inputs = [Operand { desc: x, constant: None }];
    let outputs = [out];
    let p = Problem {
        op: &op,
        inputs: &inputs,
        outputs: &outputs,
        threads: 1,
        isa: Isa::best(),
        precision: crate::Precision::Fp32,
        env: &[],
    };
    assert!(super::super::views::Views.prepare(&p).in_place(0));
}

/// Prints rates; run by hand with `--release --ignored --nocapture`.
#[test]
#[ignore = "measurement"]
fn transpose_rates() {
    use crate::{Args, Operand, Problem, Tactic, TensorDesc};
    for dtype in [DType::U8, DType::F16, DType::F32, DType::I64] {
        for (m, n) in [
            (64, 3136),
            (3136, 64),
            (3, 409_600),
            (409_600, 3),
            (1024, 1024),
            (512, 768),
            (2000, 2000),
            (12, 64),
        ] {
            let x = TensorDesc::dense(dtype, &[m, n]);
            let out = TensorDesc::dense(dtype, &[n, m]);
            let op = Op::from(Transpose { perm: vec![1, 0] });
            let inputs = [Operand { desc: x.clone(), constant: None }];
            let outputs = [out];
            let p = Problem {
                op: &op,
                inputs: &inputs,
                outputs: &outputs,
                threads: 1,
                isa: Isa::best(),
                precision: crate::Precision::Fp32,
                env: &[],
            };
            let kernel = super::super::views::Views.prepare(&p);
            let src = vec![1u8; x.dense_bytes()];
            let mut dst = vec![0u8; x.dense_bytes()];
            let mut best = [f64::MAX; 2];
            let repeats = 1 + 4_000_000 / x.dense_bytes();
            for _ in 0..20 {
                let since = std::time::Instant::now();
                for _ in 0..repeats {
                    let args = Args {
                        inputs: &[src.as_ptr()],
                        outputs: &[dst.as_mut_ptr()],
                        scratch: std::ptr::null_mut(),
                        workspace: std::ptr::null_mut(),
                    };
                    // SAFETY: both have the sizes of the problem.
                    unsafe { kernel.run(0, 0, &args) }.unwrap();
                }
                best[0] = best[0].min(since.elapsed().as_secs_f64() / repeats as f64);
                let since = std::time::Instant::now();
                for _ in 0..repeats {
                    dst.copy_from_slice(std::hint::black_box(&src));
                    std::hint::black_box(&mut dst);
                }
                best[1] = best[1].min(since.elapsed().as_secs_f64() / repeats as f64);
            }
            let rate = |s: f64| x.dense_bytes() as f64 / s / 1e9;
            println!("{dtype} {m}x{n}: {:.1} GB/s, copy {:.1} GB/s", rate(best[0]), rate(best[1]));
        }
    }
}
