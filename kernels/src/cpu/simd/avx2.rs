//! 256-bit vectors with fused multiply-add.

use super::{Avx2, Isa, Simd, Task};
use std::arch::x86_64::*;

macro_rules! intrinsics {
    ($($name:ident($($arg:ident: $in:ty),*) -> $out:ty = $body:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $in),*) -> $out {
            // SAFETY: the token proves that the CPU has the instructions.
            unsafe { $body }
        }
    )+};
}

/// Eight set lanes, then eight clear ones: a window that starts `n` before the border selects the first `n` lanes.
static WINDOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// The first `n` of 8 lanes.
#[inline(always)]
fn first(_: Avx2, n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: the window stays inside the table for n <= 8, and the token proves the instruction.
    unsafe { _mm256_loadu_si256(WINDOW.as_ptr().add(8 - n).cast()) }
}

/// Folds eight lanes by halves.
macro_rules! fold {
    ($a:expr, $quad:ident, $single:ident) => {{
        let quad = $quad(_mm256_castps256_ps128($a), _mm256_extractf128_ps::<1>($a));
        let pair = $quad(quad, _mm_movehl_ps(quad, quad));
        _mm_cvtss_f32($single(pair, _mm_movehdup_ps(pair)))
    }};
}

impl Simd for Avx2 {
    type F = __m256;
    type I = __m256i;
    type M = __m256i;

    const LANES: usize = 8;
    const ISA: Isa = Isa::Avx2;
    const FUSED: bool = true;
    const REGISTERS: usize = 16;

    #[inline]
    fn enter<T: Task>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner<T: Task>(token: Avx2, task: T) -> T::Output {
            task.run(token)
        }
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe { inner(self, task) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: the caller's; the token proves the instructions (also below).
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F {
        // SAFETY: masked lanes are not accessed.
        unsafe { _mm256_maskload_ps(p, first(self, n)) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, x: Self::F) {
        // SAFETY: masked lanes are not accessed.
        unsafe { _mm256_maskstore_ps(p, first(self, n), x) }
    }
    #[inline(always)]
    unsafe fn load_i(self, p: *const i32) -> Self::I {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, x: Self::I) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_si256(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn load_i_n(self, p: *const i32, n: usize) -> Self::I {
        // SAFETY: masked lanes are not accessed.
        unsafe { _mm256_maskload_epi32(p, first(self, n)) }
    }
    #[inline(always)]
    unsafe fn store_i_n(self, p: *mut i32, n: usize, x: Self::I) {
        // SAFETY: masked lanes are not accessed.
        unsafe { _mm256_maskstore_epi32(p, first(self, n), x) }
    }
    #[inline(always)]
    unsafe fn load_strided(self, p: *const f32, stride: isize) -> Self::F {
        // SAFETY: the caller's; indices fit 32 bits.
        unsafe {
            let index = _mm256_mullo_epi32(self.iota(), _mm256_set1_epi32(stride as i32));
            _mm256_i32gather_ps::<4>(p, index)
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        // SAFETY: the caller's.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::F {
        // SAFETY: the caller's.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { self.store_upper(p, self.round_bf16(x)) }
    }
    #[inline(always)]
    fn round_bf16(self, x: Self::F) -> Self::I {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe {
            let bits = _mm256_castps_si256(x);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            _mm256_blendv_epi8(rounded, quiet, nan)
        }
    }
    #[inline(always)]
    unsafe fn store_upper(self, p: *mut u16, x: Self::I) {
        // SAFETY: the caller's.
        unsafe {
            let high = _mm256_srli_epi32::<16>(x);
            let packed = _mm256_packus_epi32(high, high);
            let packed = _mm256_permute4x64_epi64::<0b1000>(packed);
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(packed));
        }
    }

    #[inline(always)]
    unsafe fn load_mask(self, p: *const u8) -> Self::M {
        // SAFETY: the caller's.
        unsafe {
            let wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            _mm256_cmpgt_epi32(wide, _mm256_setzero_si256())
        }
    }
    #[inline(always)]
    unsafe fn store_mask(self, p: *mut u8, mask: Self::M) {
        // SAFETY: the caller's.
        unsafe {
            let words = _mm_packs_epi32(_mm256_castsi256_si128(mask), _mm256_extracti128_si256::<1>(mask));
            let bytes = _mm_and_si128(_mm_packs_epi16(words, words), _mm_set1_epi8(1));
            _mm_storel_epi64(p.cast(), bytes);
        }
    }

    intrinsics! {
        splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        splat_i(x: i32) -> __m256i = _mm256_set1_epi32(x);
        iota() -> __m256i = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fnma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fnmadd_ps(a, b, c);
        min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        sqrt(a: __m256) -> __m256 = _mm256_sqrt_ps(a);
        abs(a: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        neg(a: __m256) -> __m256 = _mm256_xor_ps(a, _mm256_set1_ps(-0.0));
        round(a: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        floor(a: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a);
        ceil(a: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(a);
        trunc(a: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(a);
        lt(a: __m256, b: __m256) -> __m256i = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        le(a: __m256, b: __m256) -> __m256i = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LE_OQ>(a, b));
        eq(a: __m256, b: __m256) -> __m256i = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b));
        ne(a: __m256, b: __m256) -> __m256i = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_NEQ_UQ>(a, b));
        select(mask: __m256i, a: __m256, b: __m256) -> __m256 = _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask));
        select_i(mask: __m256i, a: __m256i, b: __m256i) -> __m256i = _mm256_blendv_epi8(b, a, mask);
        and_m(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        or_m(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        any(a: __m256i) -> bool = _mm256_movemask_ps(_mm256_castsi256_ps(a)) != 0;
        all(a: __m256i) -> bool = _mm256_movemask_ps(_mm256_castsi256_ps(a)) == 0xff;
        add_i(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        sub_i(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
        mul_i(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi32(a, b);
        and_i(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        or_i(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        xor_i(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
        andnot_i(a: __m256i, b: __m256i) -> __m256i = _mm256_andnot_si256(a, b);
        eq_i(a: __m256i, b: __m256i) -> __m256i = _mm256_cmpeq_epi32(a, b);
        gt_i(a: __m256i, b: __m256i) -> __m256i = _mm256_cmpgt_epi32(a, b);
        to_i(a: __m256) -> __m256i = _mm256_cvtps_epi32(a);
        to_f(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        bits(a: __m256) -> __m256i = _mm256_castps_si256(a);
        float(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        sum(a: __m256) -> f32 = fold!(a, _mm_add_ps, _mm_add_ss);
        hmax(a: __m256) -> f32 = fold!(a, _mm_max_ps, _mm_max_ss);
        hmin(a: __m256) -> f32 = fold!(a, _mm_min_ps, _mm_min_ss);
    }

    #[inline(always)]
    fn shl_i<const N: u32>(self, a: Self::I) -> Self::I {
        // SAFETY: the token proves that the CPU has the instructions (also below).
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    fn shr_i<const N: u32>(self, a: Self::I) -> Self::I {
        // SAFETY: as above.
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
    #[inline(always)]
    fn sar_i<const N: u32>(self, a: Self::I) -> Self::I {
        // SAFETY: as above.
        unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(N as i32)) }
    }
}
