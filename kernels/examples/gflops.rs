//! Prints the speed of the matrix kernels on one thread for shapes of well-known networks.
//!
//! `cargo run --release -p engraft-kernels --example gflops [filter]`

use engraft_kernels::cpu::conv::geometry::Geometry;
use engraft_kernels::cpu::conv::source::{Bands, Taps};
use engraft_kernels::cpu::gemm::micro::{self, Micro, Tile};
use engraft_kernels::cpu::gemm::rows::RowMap;
use engraft_kernels::cpu::gemm::sweep::{Finish, Gathered, Source, Strided, Sweep};
use engraft_kernels::cpu::pack;
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

fn sets() -> Vec<(&'static str, &'static Micro<f32>)> {
    let mut sets = vec![("portable", &micro::F32_PORTABLE)];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            sets.push(("avx2", &micro::F32_AVX2));
            // SAFETY: just detected.
            println!("avx2 peak {:.1}", unsafe { peak::avx2() });
        }
        if is_x86_feature_detected!("avx512f") {
            sets.push(("avx512", &micro::F32_AVX512));
            // SAFETY: just detected.
            println!("avx512 peak {:.1}", unsafe { peak::avx512() });
        }
    }
    sets
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
            prefetch: b.as_ptr(),
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

/// Seconds of one product with ready operands.
fn time<S: Source<f32>>(micro: &'static Micro<f32>, source: &S, m: usize, n: usize) -> f64 {
    let k = source.taps() * source.run();
    let b = vec![0.1f32; pack::packed_len::<f32>(k, n)];
    let bias = vec![0.5f32; n];
    let mut c = vec![0f32; m * n];
    let out = RowMap::uniform(m, n as isize);
    let sweep = Sweep::new(micro, n, source.taps(), source.run(), out, out);
    let mut scratch = vec![0u64; sweep.scratch_bytes(source) / 8 + 16];
    let at = scratch.as_mut_ptr().cast::<u8>();
    let at = at.wrapping_add(at.align_offset(64));
    let finish = Finish { bias: bias.as_ptr(), clip: Some((0.0, f32::INFINITY)), ..Finish::none() };
    let panels = pack::panels::<f32>(n);
    // SAFETY: the operands have the sizes that the sweep states.
    best(|| unsafe { sweep.run(source, 0..m, 0..panels, b.as_ptr(), c.as_mut_ptr(), &finish, at) })
}

fn product(micro: &'static Micro<f32>, m: usize, k: usize, n: usize) -> f64 {
    let a = vec![0.5f32; m * k];
    let (base, rows) = (a.as_ptr(), RowMap::uniform(m, k as isize));
    let seconds = if m > 1 && k % 1024 == 0 {
        time(micro, &Gathered { base, rows, k, step: 1 }, m, n)
    } else {
        time(micro, &Strided { base, rows, k }, m, n)
    };
    (2 * m * n * k) as f64 / seconds / 1e9
}

fn convolution(
    micro: &'static Micro<f32>,
    c: usize,
    n: usize,
    size: usize,
    kernel: usize,
    stride: usize,
) -> f64 {
    let pad = (kernel - 1) / 2;
    let out = (size + 2 * pad - kernel) / stride + 1;
    let geometry = Geometry {
        batch: 1,
        input: [1, size, size],
        output: [1, out, out],
        kernel: [1, kernel, kernel],
        stride: [1, stride, stride],
        dilation: [1; 3],
        pad: [0, pad, pad],
        batch_stride: 0,
        input_stride: [0, (size * c) as isize, c as isize],
    };
    let x = vec![0.5f32; size * size * c];
    let seconds = if c < 16 {
        let source = Bands { base: x.as_ptr(), geometry: &geometry, channels: c };
        time(micro, &source, out * out, n)
    } else {
        let source = Taps { base: x.as_ptr(), geometry: &geometry, channels: c };
        time(micro, &source, out * out, n)
    };
    (2 * out * out * n * c * kernel * kernel) as f64 / seconds / 1e9
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let sets = sets();
    for (name, micro) in &sets {
        if "micro".contains(&filter) {
            micro_kernels(name, micro, 64);
            micro_kernels(name, micro, 256);
        }
    }
    type Case = (&'static str, Box<dyn Fn(&'static Micro<f32>) -> f64>);
    let gemm = |name, m, k, n| -> Case { (name, Box::new(move |u| product(u, m, k, n))) };
    let conv = |name, c, n, size, kernel, stride| -> Case {
        (name, Box::new(move |u| convolution(u, c, n, size, kernel, stride)))
    };
    let cases = [
        conv("resnet 7x7/2 3>64 224", 3, 64, 224, 7, 2),
        conv("resnet 3x3 64>64 56", 64, 64, 56, 3, 1),
        conv("resnet 3x3 128>128 28", 128, 128, 28, 3, 1),
        conv("resnet 3x3 256>256 14", 256, 256, 14, 3, 1),
        conv("resnet 3x3 512>512 7", 512, 512, 7, 3, 1),
        conv("resnet 3x3/2 128>128 56", 128, 128, 56, 3, 2),
        gemm("resnet 1x1 64>256 56", 3136, 64, 256),
        gemm("resnet 1x1 256>64 56", 3136, 256, 64),
        gemm("resnet 1x1 512>128 28", 784, 512, 128),
        gemm("resnet 1x1 1024>256 14", 196, 1024, 256),
        gemm("resnet 1x1 512>2048 7", 49, 512, 2048),
        conv("resnet 1x1/2 256>512 56", 256, 512, 56, 1, 2),
        conv("mobilenet 3x3/2 3>32 224", 3, 32, 224, 3, 2),
        gemm("mobilenet 1x1 16>96 112", 12544, 16, 96),
        gemm("mobilenet 1x1 96>24 56", 3136, 96, 24),
        gemm("mobilenet 1x1 32>16 112", 12544, 32, 16),
        gemm("bert 128x768x768", 128, 768, 768),
        gemm("bert 128x768x3072", 128, 768, 3072),
        gemm("bert 128x3072x768", 128, 3072, 768),
        gemm("minilm 128x384x1536", 128, 384, 1536),
        gemm("scores 128x64x128", 128, 64, 128),
        gemm("decode 1x768x3072", 1, 768, 3072),
        gemm("decode 1x768x50257", 1, 768, 50257),
        gemm("head 1x2048x1000", 1, 2048, 1000),
    ];
    for (name, run) in cases.iter().filter(|c| c.0.contains(&filter)) {
        print!("{name:28}");
        for (set, micro) in &sets {
            print!(" {set} {:6.1}", run(micro));
        }
        println!();
    }
}
