//! The kernels of one channel per group, and of few input channels for all outputs: a few output pixels at a constant distance, any
//! number of channels, any list of taps.

use crate::cpu::gemm::lanes::{Elem, Lanes};

/// One call of a kernel: `T` output pixels (its own constant) of `channels` channels.
#[derive(Clone, Copy, Debug)]
pub struct Strip<'a, E> {
    /// For each tap, its distance from `x` and from `w`. It multiplies `channels` elements of `x`, or the one there in kernels that
    /// spread it.
    pub taps: &'a [(isize, isize)],
    /// First input pixel, and the distance between the pixels of neighbouring outputs.
    pub x: *const E,
    pub x_step: isize,
    pub w: *const E,
    pub c: *mut E,
    pub c_step: isize,
    /// Null for none.
    pub bias: *const E,
    /// Null for none.
    pub residual: *const E,
    pub residual_step: isize,
    pub clip: Option<(E, E)>,
    pub channels: usize,
}

/// # Safety
/// The CPU has the kernel's instruction set; every pixel and tap of the strip is readable (the output writable) for
/// `channels` elements.
pub type Kernel<E> = unsafe fn(&Strip<'_, E>);

/// Kernels of one instruction set.
#[derive(Debug)]
pub struct Strips<E: 'static> {
    /// Channels of one vector.
    pub lanes: usize,
    /// `of[t - 1]` computes t pixels.
    pub of: &'static [Kernel<E>],
}

/// Accumulators that hide the latency of a multiply-add behind one another.
const ACCUMULATORS: usize = 8;

/// `T` pixels of `NV` vectors of channels from channel `at` on, the last `n` of them where `PART`.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
unsafe fn block<V: Lanes, const T: usize, const NV: usize, const SPREAD: bool, const PART: bool>(
    s: &Strip<'_, V::E>,
    at: usize,
    n: usize,
) {
    // SAFETY: by the caller's contract.
    unsafe {
        let load = |p: *const V::E| if PART { V::load_n(p, n) } else { V::load(p) };
        // Plain index loops throughout: an iterator over the accumulators would put them on the stack.
        let mut acc = [[V::splat(V::E::ZERO); NV]; T];
        if !s.bias.is_null() {
            for v in 0..NV {
                let bias = load(s.bias.add(at + v * V::N));
                for t in 0..T {
                    acc[t][v] = bias;
                }
            }
        }
        let x0 = if SPREAD { s.x } else { s.x.wrapping_add(at) };
        let w0 = s.w.wrapping_add(at);
        for &(x, w) in s.taps {
            let (x, w) = (x0.wrapping_offset(x), w0.wrapping_offset(w));
            let mut weights = [V::splat(V::E::ZERO); NV];
            for v in 0..NV {
                weights[v] = load(w.add(v * V::N));
            }
            for t in 0..T {
                let x = x.wrapping_offset(t as isize * s.x_step);
                if SPREAD {
                    let x = V::splat(*x);
                    for v in 0..NV {
                        acc[t][v] = acc[t][v].fma(x, weights[v]);
                    }
                } else {
                    for v in 0..NV {
                        acc[t][v] = acc[t][v].fma(load(x.add(v * V::N)), weights[v]);
                    }
                }
            }
        }
        if !s.residual.is_null() {
            let from = s.residual.wrapping_add(at);
            for t in 0..T {
                for v in 0..NV {
                    let p = from.wrapping_offset(t as isize * s.residual_step);
                    acc[t][v] = acc[t][v].add(load(p.add(v * V::N)));
                }
            }
        }
        if let Some((low, high)) = s.clip {
            let (low, high) = (V::splat(low), V::splat(high));
            for t in 0..T {
                for v in 0..NV {
                    acc[t][v] = acc[t][v].at_least(low).at_most(high);
                }
            }
        }
        for t in 0..T {
            for v in 0..NV {
                let p = s.c.wrapping_add(at).wrapping_offset(t as isize * s.c_step).add(v * V::N);
                if PART { acc[t][v].store_n(p, n) } else { acc[t][v].store(p) }
            }
        }
    }
}

/// The body of every kernel: `NV` vectors at a time as long as there are as many, then one by one.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
unsafe fn body<V: Lanes, const T: usize, const NV: usize, const SPREAD: bool>(s: &Strip<'_, V::E>) {
    let mut at = 0;
    // SAFETY: by the caller's contract; blocks stay inside the channels.
    unsafe {
        while NV > 1 && at + NV * V::N <= s.channels {
            block::<V, T, NV, SPREAD, false>(s, at, V::N);
            at += NV * V::N;
        }
        while at + V::N <= s.channels {
            block::<V, T, 1, SPREAD, false>(s, at, V::N);
            at += V::N;
        }
        if at < s.channels {
            block::<V, T, 1, SPREAD, true>(s, at, s.channels - at);
        }
    }
}

macro_rules! strips {
    ($name:ident, $kernel:ident, $lanes:ty, [$($feature:literal),*], [$($t:literal),*]) => {
        strips!(
            $name, $kernel, $lanes, [$($feature),*], false,
            [$($t, { if $t < ACCUMULATORS { ACCUMULATORS / $t } else { 1 } }),*]
        );
    };
    ($name:ident, $kernel:ident, $lanes:ty, [$($feature:literal),*], $spread:literal, [$($t:literal, $nv:expr),*]) => {
        $(#[target_feature(enable = $feature)])*
        unsafe fn $kernel<const T: usize, const NV: usize>(s: &Strip<'_, <$lanes as Lanes>::E>) {
            // SAFETY: the caller vouches for the instruction set and the strip.
            unsafe { body::<$lanes, T, NV, $spread>(s) }
        }
        pub static $name: Strips<<$lanes as Lanes>::E> = Strips {
            lanes: <$lanes as Lanes>::N,
            of: &[$($kernel::<$t, $nv>),*],
        };
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::cpu::gemm::lanes::Array;
    use std::arch::x86_64::*;
    strips!(I32_AVX512, i32_avx512, Array<i32, 16>, ["avx512f,avx512dq,avx512vl"], [1, 2, 3, 4, 5, 6, 7, 8]);
    strips!(I32_AVX2, i32_avx2, Array<i32, 8>, ["avx2"], [1, 2, 3, 4, 5, 6]);
    strips!(F32_AVX512, f32_avx512, __m512, ["avx512f"], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    strips!(F64_AVX512, f64_avx512, __m512d, ["avx512f"], [1, 2, 3, 4, 5, 6, 7, 8]);
    strips!(F32_AVX2, f32_avx2, __m256, ["avx2,fma"], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    strips!(
        F32_AVX512_SPREAD,
        f32_avx512_spread,
        __m512,
        ["avx512f"],
        true,
        [1, 4, 2, 4, 3, 4, 4, 4, 5, 4, 6, 4, 7, 2, 8, 2, 9, 2, 10, 2, 11, 2, 12, 2]
    );
    strips!(
        F32_AVX2_SPREAD,
        f32_avx2_spread,
        __m256,
        ["avx2,fma"],
        true,
        [1, 4, 2, 4, 3, 2, 4, 2, 5, 2, 6, 2]
    );
    strips!(F64_AVX2, f64_avx2, __m256d, ["avx2,fma"], [1, 2, 3, 4, 5, 6, 7, 8]);
}
#[cfg(target_arch = "x86_64")]
pub use x86::*;

mod portable {
    use super::*;
    use crate::cpu::gemm::lanes::Array;
    strips!(F32_PORTABLE, f32_portable, Array<f32, 4>, [], [1, 2, 3, 4, 5, 6, 7, 8]);
    strips!(
        F32_PORTABLE_SPREAD,
        f32_portable_spread,
        Array<f32, 4>,
        [],
        true,
        [1, 4, 2, 2, 3, 2, 4, 2, 5, 1, 6, 1]
    );
    strips!(I32_PORTABLE, i32_portable, Array<i32, 4>, [], [1, 2, 3, 4]);
    strips!(F64_PORTABLE, f64_portable, Array<f64, 2>, [], [1, 2, 3, 4, 5, 6, 7, 8]);
}
pub use portable::*;
