//! The leaf kernels against plain loops.

use super::geometry::Geometry;
use super::source::{Bands, Taps};
use crate::cpu::gemm::check::{Given, Random, check, dtypes, epilogue, optimized};
use crate::cpu::gemm::grid::Grid;
use crate::cpu::gemm::lanes::Elem;
use crate::cpu::gemm::micro::{self, Micro};
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::gemm::sweep::{Finish, Gathered, Limits, Source, Strided, Sweep};
use crate::cpu::pack;
use engraft_network::ops::{Conv, Epilogue, Padding};
use engraft_network::{DType, Op};
use proptest::prelude::*;

fn micros() -> Vec<&'static Micro<f32>> {
    let mut all = vec![&micro::F32_PORTABLE];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(&micro::F32_AVX2);
        }
        if is_x86_feature_detected!("avx512f") {
            all.push(&micro::F32_AVX512);
        }
    }
    all
}

fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            ((s >> 40) as f32) / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn run<S: Source<f32>>(
    sweep: &Sweep<f32>,
    source: &S,
    grid: Grid,
    b: &[f32],
    c: &mut [f32],
    finish: &Finish<f32>,
) {
    let bytes = sweep.scratch_bytes(source);
    let mut scratch = vec![[0u8; 64]; bytes.div_ceil(64) + 1];
    let at = scratch.as_mut_ptr().cast::<u8>();
    let at = at.wrapping_add(at.align_offset(64));
    for task in 0..grid.tasks() {
        let (rows, panels) = grid.task(task);
        // SAFETY: operands are sized by the caller, the instruction set was detected.
        unsafe { sweep.run(source, rows, panels, b.as_ptr(), c.as_mut_ptr(), finish, at) };
    }
}

fn close(got: &[f32], want: &[f32], k: usize) -> Result<(), TestCaseError> {
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let tolerance = 1e-6 * (k as f32 + 8.0);
        prop_assert!((g - w).abs() <= tolerance || g == w, "at {i}: {g} instead of {w}");
    }
    Ok(())
}

/// The usual limits, or such that small products are cut to blocks.
fn limits() -> impl Strategy<Value = Limits> {
    let small = (
        16usize..400,
        1usize..9000,
        prop_oneof![Just(0), Just(1 << 20)],
        1usize..9000,
        prop_oneof![Just(0), Just(1 << 20)],
    );
    let small =
        small.prop_map(|(products, block, near_b, span, far)| Limits { products, block, near_b, span, far });
    prop_oneof![1 => Just(Limits::DEFAULT), 3 => small]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn products(m in 1usize..70, n in 1usize..100, k in 1usize..300, deep in 0usize..8, pad in prop_oneof![Just(0usize), 1usize..5],
                transposed: bool, biased: bool, residual: bool, in_place: bool, clipped: bool, tasks in 1usize..9, which in 0usize..3,
                limits in limits(), seed: u64) {
        let all = micros();
        let micro = all[which % all.len()];
        let k = if deep == 0 { k + 1500 } else { k };
        let (row, step) = if transposed { (1, (m + pad) as isize) } else { ((k + pad) as isize, 1) };
        let a = values((m + pad) * (k + pad), seed);
        let b = values(k * n, seed ^ 1);
        let bias = values(n, seed ^ 2);
        let extra = values(m * n, seed ^ 3);
        let ldc = n + pad;
        let mut packed = vec![0f32; pack::packed_len::<f32>(k, n)];
        // SAFETY: `b` is k x n, `packed` as long as a packed k x n.
        unsafe { pack::pack(pack::Matrix { data: b.as_ptr(), row: n as isize, col: 1 }, k, n, packed.as_mut_ptr()) };
        let mut want = vec![7f32; m * ldc];
        for i in 0..m {
            for j in 0..n {
                let mut sum = 0f64;
                for q in 0..k {
                    sum += f64::from(a[(i as isize * row + q as isize * step) as usize]) * f64::from(b[q * n + j]);
                }
                let mut x = sum as f32;
                if biased { x += bias[j]; }
                if residual { x += extra[i * n + j]; }
                want[i * ldc + j] = if clipped { x.clamp(0.0, 6.0) } else { x };
            }
        }
        let (out, rows) = (RowMap::uniform(m, ldc as isize), RowMap::uniform(m, n as isize));
        let sweep = Sweep::within(limits, micro, n, 1, k, out, rows);
        let in_place = in_place && residual && pad == 0 && sweep.is_single_pass();
        let mut c = if in_place { extra.clone() } else { vec![7f32; m * ldc] };
        let added = if in_place { c.as_ptr() } else { extra.as_ptr() };
        let finish = Finish {
            bias: if biased { bias.as_ptr() } else { std::ptr::null() },
            residual: if residual { added } else { std::ptr::null() },
            clip: clipped.then_some((0.0, 6.0)),
            post: None,
        };
        let grid = Grid::even(m, pack::panels::<f32>(n), micro.rows(), tasks);
        let rows = RowMap::uniform(m, row);
        if transposed {
            run(&sweep, &Gathered { base: a.as_ptr(), rows, k, step }, grid, &packed, &mut c, &finish);
        } else {
            run(&sweep, &Strided { base: a.as_ptr(), rows, k }, grid, &packed, &mut c, &finish);
        }
        close(&c, &want, k)?;
    }

    #[test]
    fn convolutions(batch in 1usize..3, input in [1usize..4, 1usize..9, 1usize..20], kernel in [1usize..3, 1usize..4, 1usize..8],
                    stride in [1usize..3, 1usize..3, 1usize..4], dilation in [1usize..3, 1usize..3, 1usize..3],
                    pad in [0usize..2, 0usize..3, 0usize..5], after in [0usize..2, 0usize..3, 0usize..5],
                    channels in 1usize..20, n in 1usize..70, gap in 0usize..3, tasks in 1usize..6, which in 0usize..3, bands: bool,
                    limits in limits(), seed: u64) {
        let all = micros();
        let micro = all[which % all.len()];
        let dilation = if bands { [dilation[0], dilation[1], 1] } else { dilation };
        let mut output = [0; 3];
        for d in 0..3 {
            let span = (kernel[d] - 1) * dilation[d] + 1;
            prop_assume!(input[d] + pad[d] + after[d] >= span);
            output[d] = (input[d] + pad[d] + after[d] - span) / stride[d] + 1;
        }
        let pixel = channels + gap;
        let x = values(batch * input.iter().product::<usize>() * pixel, seed);
        let taps: usize = kernel.iter().product();
        let k = taps * channels;
        let w = values(k * n, seed ^ 1);
        let geometry = Geometry {
            batch, input, output, kernel, stride, dilation, pad,
            batch_stride: (input.iter().product::<usize>() * pixel) as isize,
            input_stride: [(input[1] * input[2] * pixel) as isize, (input[2] * pixel) as isize, pixel as isize],
        };
        let m = geometry.pixels();
        let mut want = vec![0f32; m * n];
        for row in 0..m {
            let (b, o) = geometry.place(row);
            for j in 0..n {
                let mut sum = 0f64;
                for kz in 0..kernel[0] { for ky in 0..kernel[1] { for kx in 0..kernel[2] {
                    let at: Vec<isize> = [kz, ky, kx].iter().enumerate()
                        .map(|(d, &q)| (o[d] * stride[d] + q * dilation[d]) as isize - pad[d] as isize).collect();
                    if (0..3).any(|d| at[d] < 0 || at[d] >= input[d] as isize) { continue; }
                    let p = ((b * input[0] + at[0] as usize) * input[1] + at[1] as usize) * input[2] + at[2] as usize;
                    for c in 0..channels {
                        sum += f64::from(x[p * pixel + c]) * f64::from(w[(((kz * kernel[1] + ky) * kernel[2] + kx) * channels + c) * n + j]);
                    }
                }}}
                want[row * n + j] = sum as f32;
            }
        }
        let mut packed = vec![0f32; pack::packed_len::<f32>(k, n)];
        // SAFETY: `w` is k x n, `packed` as long as a packed k x n.
        unsafe { pack::pack(pack::Matrix { data: w.as_ptr(), row: n as isize, col: 1 }, k, n, packed.as_mut_ptr()) };
        let mut c = vec![7f32; m * n];
        let rows = RowMap::uniform(m, n as isize);
        let grid = Grid::even(m, pack::panels::<f32>(n), micro.rows(), tasks);
        let finish = Finish::none();
        if bands {
            let source = Bands { base: x.as_ptr(), geometry: &geometry, channels };
            run(&Sweep::within(limits, micro, n, source.taps(), source.run(), rows, rows), &source, grid, &packed, &mut c, &finish);
        } else {
            let source = Taps { base: x.as_ptr(), geometry: &geometry, channels };
            run(&Sweep::within(limits, micro, n, source.taps(), source.run(), rows, rows), &source, grid, &packed, &mut c, &finish);
        }
        close(&c, &want, k)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_tactic_agrees_with_eval(
        spatial in 1usize..4, batch in 1usize..3, size in [1usize..12, 1usize..12, 1usize..12], kernel in [1usize..4, 1usize..4, 1usize..4],
        stride in [1usize..4, 1usize..4, 1usize..4], dilation in [1usize..3, 1usize..3, 1usize..3],
        begin in [0usize..3, 0usize..3, 0usize..3], end in [0usize..3, 0usize..3, 0usize..3], same in 0usize..6,
        groups in prop_oneof![3 => Just(1usize), 1 => 2usize..5], channels in 1usize..18, outputs in 1usize..24,
        depthwise in prop_oneof![3 => Just(false), 1 => Just(true)], multiplier in 1usize..3,
        constant: bool, bias: bool, which in 0usize..18, threads in 1usize..5, gap in 0usize..3, seed in 1u64..u64::MAX,
        dtype in dtypes(), wide_bias: bool,
    ) {
        let mut random = Random(seed);
        let half = matches!(dtype, DType::F16 | DType::BF16);
        let bias_type = if half && wide_bias { DType::F32 } else { dtype };
        let (groups, channels, outputs) =
            if depthwise { (channels * 3, 1, multiplier) } else { (groups, channels, outputs) };
        let take = |a: &[usize; 3]| a[..spatial].to_vec();
        let (kernel, dilation) = (take(&kernel), take(&dilation));
        let padding = match same {
            0 => Padding::SameUpper,
            1 => Padding::SameLower,
            _ => Padding::Explicit { begin: take(&begin), end: take(&end) },
        };
        let strides = take(&stride);
        let mut out = vec![batch];
        for d in 0..spatial {
            let span = (kernel[d] - 1) * dilation[d] + 1;
            let (b, e) = padding.resolve(d, size[d], kernel[d], strides[d], dilation[d]);
            prop_assume!(size[d] + b + e >= span);
            out.push((size[d] + b + e - span) / strides[d] + 1);
        }
        out.push(groups * outputs);
        let mut x = vec![batch];
        x.extend(&size[..spatial]);
        x.push(groups * channels);
        let mut w = kernel.clone();
        w.extend([channels, groups * outputs]);
        let (post, extras) = epilogue(which, dtype, &out);
        let op = Op::Conv(Conv { strides, dilations: dilation, padding, groups, epilogue: Epilogue { bias, post } });
        let mut given = vec![Given::new(random.tensor(dtype, &x)), Given::new(random.tensor(dtype, &w))];
        given[0].gap = gap;
        given[1].constant = constant;
        if bias {
            given.push(Given::new(random.tensor(bias_type, &[groups * outputs])));
        }
        for shape in &extras {
            given.push(Given::new(random.tensor(dtype, shape)));
        }
        let taken = check(&optimized(), &op, &given, threads, gap)?;
        prop_assert!(taken > 0, "nobody took it");
    }
}

#[test]
fn panels_are_zero_padded() {
    let b: Vec<f32> = (0..6).map(|x| x as f32).collect();
    let mut packed = vec![9f32; pack::packed_len::<f32>(3, 2)];
    for (row, col) in [(2, 1), (1, 3)] {
        // SAFETY: 3 x 2 elements either way.
        unsafe { pack::pack(pack::Matrix { data: b.as_ptr(), row, col }, 3, 2, packed.as_mut_ptr()) };
        for k in 0..3usize {
            let want = [b[k * row as usize], b[k * row as usize + col as usize]];
            assert_eq!(packed[k * f32::PANEL..][..2], want);
            assert!(packed[k * f32::PANEL + 2..][..f32::PANEL - 2].iter().all(|&x| x == 0.0));
        }
    }
}
