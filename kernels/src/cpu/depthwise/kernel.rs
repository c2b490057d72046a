//! The depthwise kernels: a few output pixels at a constant distance, any number of channels, any list of taps.

use crate::cpu::gemm::lanes::{Elem, Lanes};
use half::bf16;

/// One call of a kernel: `T` output pixels (its own constant) of `channels` channels.
#[derive(Clone, Copy, Debug)]
pub struct Strip<'a, E, X = E> {
    /// For each tap, its distance from `x` and from `w`.
    pub taps: &'a [(isize, isize)],
    /// First input pixel, and the distance between the pixels of neighbouring outputs.
    pub x: *const X,
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
pub type Kernel<E, X = E> = unsafe fn(&Strip<'_, E, X>);

/// Kernels of one instruction set.
#[derive(Debug)]
pub struct Strips<E: 'static, X: 'static = E> {
    /// Channels of one vector.
    pub lanes: usize,
    /// `of[t - 1]` computes t pixels.
    pub of: &'static [Kernel<E, X>],
}

/// Pixels as they lie in memory, read as lanes of `V`.
///
/// # Safety
/// As [`Lanes`].
#[allow(clippy::missing_safety_doc)] // One contract for all methods, stated above.
pub unsafe trait Pixels<V: Lanes> {
    unsafe fn read(p: *const Self) -> V;
    /// Reads the first `n <= N` lanes, zero in the rest.
    unsafe fn read_n(p: *const Self, n: usize) -> V;
}

// SAFETY: the lanes' own methods.
unsafe impl<V: Lanes> Pixels<V> for V::E {
    #[inline(always)]
    unsafe fn read(p: *const V::E) -> V {
        // SAFETY: by the caller's contract.
        unsafe { V::load(p) }
    }
    #[inline(always)]
    unsafe fn read_n(p: *const V::E, n: usize) -> V {
        // SAFETY: by the caller's contract.
        unsafe { V::load_n(p, n) }
    }
}

/// Accumulators that hide the latency of a multiply-add behind one another.
const ACCUMULATORS: usize = 8;

/// `T` pixels of `NV` vectors of channels from channel `at` on, the last `n` of them where `PART`.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
unsafe fn block<V: Lanes, X: Pixels<V>, const T: usize, const NV: usize, const PART: bool>(
    s: &Strip<'_, V::E, X>,
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
        let (x0, w0) = (s.x.wrapping_add(at), s.w.wrapping_add(at));
        for &(x, w) in s.taps {
            let (x, w) = (x0.wrapping_offset(x), w0.wrapping_offset(w));
            for v in 0..NV {
                let w = load(w.add(v * V::N));
                for t in 0..T {
                    let x = x.wrapping_offset(t as isize * s.x_step).add(v * V::N);
                    let x = if PART { X::read_n(x, n) } else { X::read(x) };
                    acc[t][v] = acc[t][v].fma(x, w);
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
unsafe fn body<V: Lanes, X: Pixels<V>, const T: usize, const NV: usize>(s: &Strip<'_, V::E, X>) {
    let mut at = 0;
    // SAFETY: by the caller's contract; blocks stay inside the channels.
    unsafe {
        while NV > 1 && at + NV * V::N <= s.channels {
            block::<V, X, T, NV, false>(s, at, V::N);
            at += NV * V::N;
        }
        while at + V::N <= s.channels {
            block::<V, X, T, 1, false>(s, at, V::N);
            at += V::N;
        }
        if at < s.channels {
            block::<V, X, T, 1, true>(s, at, s.channels - at);
        }
    }
}

macro_rules! strips {
    ($name:ident, $kernel:ident, $lanes:ty, [$($feature:literal),*], [$($t:literal),*]) => {
        strips!($name, $kernel, $lanes, <$lanes as Lanes>::E, [$($feature),*], [$($t),*]);
    };
    ($name:ident, $kernel:ident, $lanes:ty, $pixels:ty, [$($feature:literal),*], [$($t:literal),*]) => {
        $(#[target_feature(enable = $feature)])*
        unsafe fn $kernel<const T: usize, const NV: usize>(s: &Strip<'_, <$lanes as Lanes>::E, $pixels>) {
            // SAFETY: the caller vouches for the instruction set and the strip.
            unsafe { body::<$lanes, $pixels, T, NV>(s) }
        }
        pub static $name: Strips<<$lanes as Lanes>::E, $pixels> = Strips {
            lanes: <$lanes as Lanes>::N,
            of: &[$($kernel::<$t, { if $t < ACCUMULATORS { ACCUMULATORS / $t } else { 1 } }>),*],
        };
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::cpu::gemm::lanes::Array;
    use half::bf16;
    use std::arch::x86_64::*;
    strips!(I32_AVX512, i32_avx512, Array<i32, 16>, ["avx512f,avx512dq,avx512vl"], [1, 2, 3, 4, 5, 6, 7, 8]);
    strips!(I32_AVX2, i32_avx2, Array<i32, 8>, ["avx2"], [1, 2, 3, 4, 5, 6]);
    strips!(F32_AVX512, f32_avx512, __m512, ["avx512f"], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    strips!(F64_AVX512, f64_avx512, __m512d, ["avx512f"], [1, 2, 3, 4, 5, 6, 7, 8]);
    strips!(F32_AVX2, f32_avx2, __m256, ["avx2,fma"], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    strips!(
        BF16_AVX512,
        bf16_avx512,
        __m512,
        bf16,
        ["avx512f,avx512bw,avx512vl"],
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    );
    strips!(BF16_AVX2, bf16_avx2, __m256, bf16, ["avx2,fma"], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

    // SAFETY: reads as many numbers as there are lanes, or as the mask lets through.
    unsafe impl Pixels<__m512> for bf16 {
        #[inline(always)]
        unsafe fn read(p: *const bf16) -> __m512 {
            // SAFETY: by the caller's contract.
            unsafe { upper512(_mm256_loadu_si256(p.cast())) }
        }
        #[inline(always)]
        unsafe fn read_n(p: *const bf16, n: usize) -> __m512 {
            // SAFETY: by the caller's contract; what the mask leaves out is not read.
            unsafe { upper512(_mm256_maskz_loadu_epi16(((1u32 << n) - 1) as u16, p.cast())) }
        }
    }

    #[inline(always)]
    unsafe fn upper512(narrow: __m256i) -> __m512 {
        // SAFETY: the caller's instruction set.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow))) }
    }

    // SAFETY: reads as many numbers as there are lanes; a partial vector goes through a local array.
    unsafe impl Pixels<__m256> for bf16 {
        #[inline(always)]
        unsafe fn read(p: *const bf16) -> __m256 {
            // SAFETY: by the caller's contract.
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
        }
        #[inline(always)]
        unsafe fn read_n(p: *const bf16, n: usize) -> __m256 {
            let mut all = [bf16::ZERO; 8];
            // SAFETY: by the caller's contract; n is no more than the array holds.
            unsafe {
                std::ptr::copy_nonoverlapping(p, all.as_mut_ptr(), n.min(8));
                <Self as Pixels<__m256>>::read(all.as_ptr())
            }
        }
    }

    strips!(F64_AVX2, f64_avx2, __m256d, ["avx2,fma"], [1, 2, 3, 4, 5, 6, 7, 8]);
}
#[cfg(target_arch = "x86_64")]
pub use x86::*;

mod portable {
    use super::*;
    use crate::cpu::gemm::lanes::Array;
    strips!(F32_PORTABLE, f32_portable, Array<f32, 4>, [], [1, 2, 3, 4, 5, 6, 7, 8]);
    strips!(BF16_PORTABLE, bf16_portable, Array<f32, 4>, bf16, [], [1, 2, 3, 4, 5, 6, 7, 8]);
    strips!(I32_PORTABLE, i32_portable, Array<i32, 4>, [], [1, 2, 3, 4]);
    strips!(F64_PORTABLE, f64_portable, Array<f64, 2>, [], [1, 2, 3, 4, 5, 6, 7, 8]);

    // SAFETY: reads as many numbers as there are lanes, or as it is told.
    unsafe impl<const N: usize> Pixels<Array<f32, N>> for bf16 {
        #[inline(always)]
        unsafe fn read(p: *const bf16) -> Array<f32, N> {
            // SAFETY: by the caller's contract.
            unsafe { Self::read_n(p, N) }
        }
        #[inline(always)]
        unsafe fn read_n(p: *const bf16, n: usize) -> Array<f32, N> {
            // SAFETY: by the caller's contract; the array has N numbers.
            unsafe {
                let wide: [f32; N] = std::array::from_fn(|i| if i < n { (*p.add(i)).to_f32() } else { 0.0 });
                Array::load(wide.as_ptr())
            }
        }
    }
}
pub use portable::*;
