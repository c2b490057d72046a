//! 512-bit vectors.

use super::{Avx512, Isa, Simd, Task};
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

/// The first `n` of 16 lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as __mmask16
}

/// The upper halves of the lanes of two vectors, as numbers of 16-bit words.
static ODD_WORDS: [u16; 32] = {
    let mut words = [0; 32];
    let mut i = 0;
    while i < 32 {
        words[i] = 2 * i as u16 + 1;
        i += 1;
    }
    words
};

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;

    const LANES: usize = 16;
    const ISA: Isa = Isa::Avx512;
    const FUSED: bool = true;
    const REGISTERS: usize = 32;

    #[inline]
    fn enter<T: Task>(self, task: T) -> T::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn inner<T: Task>(token: Avx512, task: T) -> T::Output {
            task.run(token)
        }
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe { inner(self, task) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: the caller's; the token proves the instructions (also below).
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F {
        // SAFETY: masked lanes are not accessed.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, x: Self::F) {
        // SAFETY: masked lanes are not accessed.
        unsafe { _mm512_mask_storeu_ps(p, first(n), x) }
    }
    #[inline(always)]
    unsafe fn load_i(self, p: *const i32) -> Self::I {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_epi32(p) }
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, x: Self::I) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_epi32(p, x) }
    }
    #[inline(always)]
    unsafe fn load_i_n(self, p: *const i32, n: usize) -> Self::I {
        // SAFETY: masked lanes are not accessed.
        unsafe { _mm512_maskz_loadu_epi32(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_i_n(self, p: *mut i32, n: usize, x: Self::I) {
        // SAFETY: masked lanes are not accessed.
        unsafe { _mm512_mask_storeu_epi32(p, first(n), x) }
    }
    #[inline(always)]
    unsafe fn load_strided(self, p: *const f32, stride: isize) -> Self::F {
        // SAFETY: the caller's; indices fit 32 bits.
        unsafe {
            let index = _mm512_mullo_epi32(self.iota(), _mm512_set1_epi32(stride as i32));
            _mm512_i32gather_ps::<4>(index, p)
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::F {
        // SAFETY: the caller's.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
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
            let bits = _mm512_castps_si512(x);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x40_0000))
        }
    }
    #[inline(always)]
    unsafe fn store_upper(self, p: *mut u16, x: Self::I) {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(x))) }
    }

    #[inline(always)]
    unsafe fn store_uppers(self, p: *mut u16, first: Self::I, second: Self::I) {
        // SAFETY: the caller's.
        unsafe {
            let odd = _mm512_loadu_si512(ODD_WORDS.as_ptr().cast());
            _mm512_storeu_si512(p.cast(), _mm512_permutex2var_epi16(first, odd, second));
        }
    }

    #[inline(always)]
    unsafe fn load_mask(self, p: *const u8) -> Self::M {
        // SAFETY: the caller's.
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            _mm_test_epi8_mask(bytes, bytes)
        }
    }
    #[inline(always)]
    unsafe fn store_mask(self, p: *mut u8, mask: Self::M) {
        // SAFETY: the caller's.
        unsafe { _mm_storeu_si128(p.cast(), _mm_maskz_set1_epi8(mask, 1)) }
    }

    intrinsics! {
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        splat_i(x: i32) -> __m512i = _mm512_set1_epi32(x);
        iota() -> __m512i = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fnma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fnmadd_ps(a, b, c);
        min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        abs(a: __m512) -> __m512 = _mm512_abs_ps(a);
        neg(a: __m512) -> __m512 = _mm512_xor_ps(a, _mm512_set1_ps(-0.0));
        round(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        floor(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a);
        ceil(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(a);
        trunc(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(a);
        lt(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        le(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b);
        eq(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
        ne(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, b);
        select(mask: __mmask16, a: __m512, b: __m512) -> __m512 = _mm512_mask_blend_ps(mask, b, a);
        select_i(mask: __mmask16, a: __m512i, b: __m512i) -> __m512i = _mm512_mask_blend_epi32(mask, b, a);
        add_i(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        sub_i(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        mul_i(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        and_i(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or_i(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        xor_i(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        andnot_i(a: __m512i, b: __m512i) -> __m512i = _mm512_andnot_si512(a, b);
        eq_i(a: __m512i, b: __m512i) -> __mmask16 = _mm512_cmpeq_epi32_mask(a, b);
        gt_i(a: __m512i, b: __m512i) -> __mmask16 = _mm512_cmpgt_epi32_mask(a, b);
        to_i(a: __m512) -> __m512i = _mm512_cvtps_epi32(a);
        to_f(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        bits(a: __m512) -> __m512i = _mm512_castps_si512(a);
        float(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        scale(a: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(a, n);
        sum(a: __m512) -> f32 = _mm512_reduce_add_ps(a);
        hmax(a: __m512) -> f32 = _mm512_reduce_max_ps(a);
        hmin(a: __m512) -> f32 = _mm512_reduce_min_ps(a);
    }

    #[inline(always)]
    fn max_nan(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the token proves that the CPU has the instructions.
        // `b` where either is NaN, but `a` itself where that is NaN.
        unsafe { _mm512_mask_max_ps(a, _mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a), a, b) }
    }
    #[inline(always)]
    fn min_nan(self, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: as above.
        unsafe { _mm512_mask_min_ps(a, _mm512_cmp_ps_mask::<_CMP_ORD_Q>(a, a), a, b) }
    }
    #[inline(always)]
    fn recip(self, x: Self::F) -> Self::F {
        // A division takes 16 cycles, this four: an estimate to 14 bits and one step of Newton's method.
        // SAFETY: the token proves that the CPU has the instructions.
        let estimate = unsafe { _mm512_rcp14_ps(x) };
        self.fma(estimate, self.fnma(x, estimate, self.splat(1.0)), estimate)
    }
    #[inline(always)]
    fn and_m(self, a: Self::M, b: Self::M) -> Self::M {
        a & b
    }
    #[inline(always)]
    fn or_m(self, a: Self::M, b: Self::M) -> Self::M {
        a | b
    }
    #[inline(always)]
    fn any(self, a: Self::M) -> bool {
        a != 0
    }
    #[inline(always)]
    fn all(self, a: Self::M) -> bool {
        a == u16::MAX
    }
    #[inline(always)]
    fn shl_i<const N: u32>(self, a: Self::I) -> Self::I {
        // SAFETY: the token proves that the CPU has the instructions (also below).
        unsafe { _mm512_slli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn shr_i<const N: u32>(self, a: Self::I) -> Self::I {
        // SAFETY: as above.
        unsafe { _mm512_srli_epi32::<N>(a) }
    }
    #[inline(always)]
    fn sar_i<const N: u32>(self, a: Self::I) -> Self::I {
        // SAFETY: as above.
        unsafe { _mm512_srai_epi32::<N>(a) }
    }
}
