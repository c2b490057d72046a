//! The depthwise kernels: a few output pixels at a constant distance, one vector of channels, any list of taps.

use crate::cpu::gemm::lanes::{Elem, Lanes};

/// One call of a kernel: `T` output pixels (its own constant), `channels <= N` channels.
#[derive(Clone, Copy, Debug)]
pub struct Strip<'a, E> {
    /// For each tap, its distance from `x` and from `w`.
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
    /// `of[t - 1]` computes t pixels of a full vector of channels.
    pub of: &'static [Kernel<E>],
    /// The same for fewer channels.
    pub part: &'static [Kernel<E>],
}

/// The body of every kernel.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
unsafe fn body<V: Lanes, const T: usize, const PART: bool>(s: &Strip<'_, V::E>) {
    // SAFETY: by the caller's contract.
    unsafe {
        let load = |p: *const V::E| if PART { V::load_n(p, s.channels) } else { V::load(p) };
        let start = if s.bias.is_null() { V::splat(V::E::ZERO) } else { load(s.bias) };
        let mut acc = [start; T];
        for &(x, w) in s.taps {
            let w = load(s.w.offset(w));
            let x = s.x.offset(x);
            for (t, acc) in acc.iter_mut().enumerate() {
                *acc = acc.fma(load(x.wrapping_offset(t as isize * s.x_step)), w);
            }
        }
        if !s.residual.is_null() {
            for (t, acc) in acc.iter_mut().enumerate() {
                *acc = acc.add(load(s.residual.wrapping_offset(t as isize * s.residual_step)));
            }
        }
        if let Some((low, high)) = s.clip {
            let (low, high) = (V::splat(low), V::splat(high));
            for acc in &mut acc {
                *acc = acc.at_least(low).at_most(high);
            }
        }
        for (t, acc) in acc.iter().enumerate() {
            let p = s.c.wrapping_offset(t as isize * s.c_step);
            if PART { acc.store_n(p, s.channels) } else { acc.store(p) }
        }
    }
}

macro_rules! strips {
    ($name:ident, $kernel:ident, $lanes:ty, [$($feature:literal),*], [$($t:literal),*]) => {
        $(#[target_feature(enable = $feature)])*
        unsafe fn $kernel<const T: usize, const PART: bool>(s: &Strip<'_, <$lanes as Lanes>::E>) {
            // SAFETY: the caller vouches for the instruction set and the strip.
            unsafe { body::<$lanes, T, PART>(s) }
        }
        pub static $name: Strips<<$lanes as Lanes>::E> = Strips {
            lanes: <$lanes as Lanes>::N,
            of: &[$($kernel::<$t, false>),*],
            part: &[$($kernel::<$t, true>),*],
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
    strips!(F64_AVX2, f64_avx2, __m256d, ["avx2,fma"], [1, 2, 3, 4, 5, 6, 7, 8]);
}
#[cfg(target_arch = "x86_64")]
pub use x86::*;

mod portable {
    use super::*;
    use crate::cpu::gemm::lanes::Array;
    strips!(F32_PORTABLE, f32_portable, Array<f32, 4>, [], [1, 2, 3, 4, 5, 6, 7, 8]);
    strips!(I32_PORTABLE, i32_portable, Array<i32, 4>, [], [1, 2, 3, 4]);
    strips!(F64_PORTABLE, f64_portable, Array<f64, 2>, [], [1, 2, 3, 4, 5, 6, 7, 8]);
}
pub use portable::*;
