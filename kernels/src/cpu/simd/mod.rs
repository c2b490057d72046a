//! Vectors of `f32` and `i32` over the instruction sets of [`Isa`].
//!
//! Kernels are written once, generic over [`Simd`], as the `run` of a [`Task`]; [`dispatch`] instantiates them inside a function that
//! enables the instruction set. Everything between the two must be `#[inline(always)]`: a function that is not inlined
//! there would be compiled for the target's baseline and pass its vectors through memory.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

use super::isa::{Avx2, Avx512, Isa, Portable};

/// Code that is compiled once per instruction set.
pub trait Task {
    type Output;

    /// Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Runs `task` with the vectors of `isa`, or with the best that the CPU has below it.
#[inline]
pub fn dispatch<T: Task>(isa: Isa, task: T) -> T::Output {
    match isa {
        Isa::Avx512 | Isa::Amx => {
            if let Some(token) = Avx512::detect() {
                return token.enter(task);
            }
            dispatch(Isa::Avx2, task)
        }
        Isa::Avx2 => match Avx2::detect() {
            Some(token) => token.enter(task),
            None => Portable.enter(task),
        },
        Isa::Portable => Portable.enter(task),
    }
}

/// A set of vector operations; the implementor is a zero-sized token that proves that the CPU has them.
///
/// `F` holds [`Simd::LANES`] floats, `I` as many 32-bit integers, `M` as many truth values. Operations are lane by lane
/// unless said otherwise. Comparisons are false where an operand is NaN, but for `ne`. Integer arithmetic wraps.
pub trait Simd: Copy + Send + Sync + 'static {
    type F: Copy;
    type I: Copy;
    type M: Copy;

    const LANES: usize;
    const ISA: Isa;
    /// Whether [`Simd::fma`] rounds once.
    const FUSED: bool;
    /// Architectural vector registers: how many live values a kernel can afford.
    const REGISTERS: usize;

    /// Runs `task` inside a function that enables the instruction set.
    fn enter<T: Task>(self, task: T) -> T::Output;

    fn splat(self, x: f32) -> Self::F;
    fn splat_i(self, x: i32) -> Self::I;
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    /// 0, 1, 2, ...
    fn iota(self) -> Self::I;

    /// # Safety
    /// `p` is readable for `LANES` elements; no alignment is required (also of all loads and stores below).
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// # Safety
    /// `p` is writable for `LANES` elements.
    unsafe fn store(self, p: *mut f32, x: Self::F);
    /// The first `n <= LANES` elements; the other lanes are zero and their memory is not touched.
    /// # Safety
    /// `p` is readable for `n` elements.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F;
    /// Stores the first `n <= LANES` lanes and touches nothing else.
    /// # Safety
    /// `p` is writable for `n` elements.
    unsafe fn store_n(self, p: *mut f32, n: usize, x: Self::F);
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_i(self, p: *const i32) -> Self::I;
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store_i(self, p: *mut i32, x: Self::I);
    /// # Safety
    /// As [`Simd::load_n`].
    unsafe fn load_i_n(self, p: *const i32, n: usize) -> Self::I;
    /// # Safety
    /// As [`Simd::store_n`].
    unsafe fn store_i_n(self, p: *mut i32, n: usize, x: Self::I);
    /// Elements `0, stride, 2 * stride, ...`.
    /// # Safety
    /// `p + lane * stride` is readable for every lane; `|LANES * stride|` is below 2^31.
    unsafe fn load_strided(self, p: *const f32, stride: isize) -> Self::F;
    /// Half-precision bits, widened.
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_f16(self, p: *const u16) -> Self::F;
    /// Rounds to nearest-even half precision.
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store_f16(self, p: *mut u16, x: Self::F);
    /// Bfloat16 bits, widened.
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_bf16(self, p: *const u16) -> Self::F;
    /// Rounds to nearest-even bfloat16; NaN stays NaN.
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store_bf16(self, p: *mut u16, x: Self::F);
    /// The upper 16 bits of every lane.
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store_upper(self, p: *mut u16, x: Self::I);
    /// The upper 16 bits of every lane of two vectors, one after the other.
    /// # Safety
    /// As [`Simd::store`], for twice as many.
    #[inline(always)]
    unsafe fn store_uppers(self, p: *mut u16, first: Self::I, second: Self::I) {
        // SAFETY: the caller's.
        unsafe {
            self.store_upper(p, first);
            self.store_upper(p.add(Self::LANES), second);
        }
    }
    /// Rounds lanes as [`Simd::store_bf16`] does: the upper 16 bits count.
    fn round_bf16(self, x: Self::F) -> Self::I;

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `1 / x` to 1 ulp for `x` in [2^-100, 2^100]; NaN stays NaN, other results are unspecified.
    #[inline(always)]
    fn recip(self, x: Self::F) -> Self::F {
        self.div(self.splat(1.0), x)
    }
    /// `a * b + c`, rounded once where [`Simd::FUSED`].
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once where [`Simd::FUSED`].
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a < b ? a : b`: `b` where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b`: `b` where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The minimum, NaN where either is NaN.
    #[inline(always)]
    fn min_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.is_nan(a), a, self.min(a, b))
    }
    /// The maximum, NaN where either is NaN.
    #[inline(always)]
    fn max_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.is_nan(a), a, self.max(a, b))
    }
    /// Correctly rounded.
    fn sqrt(self, a: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    fn neg(self, a: Self::F) -> Self::F;
    /// The magnitude of `a` with the sign of `b`.
    #[inline(always)]
    fn copysign(self, a: Self::F, b: Self::F) -> Self::F {
        let sign = self.splat_i(i32::MIN);
        let magnitude = self.andnot_i(sign, self.bits(a));
        self.float(self.or_i(magnitude, self.and_i(sign, self.bits(b))))
    }
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    fn floor(self, a: Self::F) -> Self::F;
    fn ceil(self, a: Self::F) -> Self::F;
    fn trunc(self, a: Self::F) -> Self::F;

    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    fn le(self, a: Self::F, b: Self::F) -> Self::M;
    #[inline(always)]
    fn gt(self, a: Self::F, b: Self::F) -> Self::M {
        self.lt(b, a)
    }
    #[inline(always)]
    fn ge(self, a: Self::F, b: Self::F) -> Self::M {
        self.le(b, a)
    }
    fn eq(self, a: Self::F, b: Self::F) -> Self::M;
    /// Unequal or unordered.
    fn ne(self, a: Self::F, b: Self::F) -> Self::M;
    #[inline(always)]
    fn is_nan(self, a: Self::F) -> Self::M {
        self.ne(a, a)
    }
    /// `mask ? a : b`.
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F;
    fn select_i(self, mask: Self::M, a: Self::I, b: Self::I) -> Self::I;
    fn and_m(self, a: Self::M, b: Self::M) -> Self::M;
    fn or_m(self, a: Self::M, b: Self::M) -> Self::M;
    /// True lanes where the byte is not zero.
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load_mask(self, p: *const u8) -> Self::M;
    /// One byte per lane: 1 where true, else 0.
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store_mask(self, p: *mut u8, mask: Self::M);
    /// The first `n <= LANES` bytes; the other lanes are false and their memory is not touched.
    /// # Safety
    /// As [`Simd::load_n`].
    #[inline(always)]
    unsafe fn load_mask_n(self, p: *const u8, n: usize) -> Self::M {
        let mut bytes = [0u8; 16];
        // SAFETY: the caller's; LANES is at most 16.
        unsafe {
            std::ptr::copy_nonoverlapping(p, bytes.as_mut_ptr(), n.min(16));
            self.load_mask(bytes.as_ptr())
        }
    }
    /// Stores the first `n <= LANES` bytes and touches nothing else.
    /// # Safety
    /// As [`Simd::store_n`].
    #[inline(always)]
    unsafe fn store_mask_n(self, p: *mut u8, n: usize, mask: Self::M) {
        let mut bytes = [0u8; 16];
        // SAFETY: the caller's; LANES is at most 16.
        unsafe {
            self.store_mask(bytes.as_mut_ptr(), mask);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), p, n.min(16));
        }
    }
    fn any(self, a: Self::M) -> bool;
    fn all(self, a: Self::M) -> bool;

    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low 32 bits of the product.
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// `!a & b`.
    fn andnot_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// `n < 32`.
    fn shl_i<const N: u32>(self, a: Self::I) -> Self::I;
    /// Shifts in zeros; `n < 32`.
    fn shr_i<const N: u32>(self, a: Self::I) -> Self::I;
    /// Shifts in the sign; `n < 32`.
    fn sar_i<const N: u32>(self, a: Self::I) -> Self::I;
    fn eq_i(self, a: Self::I, b: Self::I) -> Self::M;
    /// Signed.
    fn gt_i(self, a: Self::I, b: Self::I) -> Self::M;

    /// To the nearest integer, ties to even. Lanes outside of `i32` and NaN hold an unspecified value.
    fn to_i(self, a: Self::F) -> Self::I;
    /// Rounds to nearest-even.
    fn to_f(self, a: Self::I) -> Self::F;
    /// The same bits as integers.
    fn bits(self, a: Self::F) -> Self::I;
    /// The same bits as floats.
    fn float(self, a: Self::I) -> Self::F;

    /// `a * 2^n` for integers `n` in -252..=254, with at most one rounding more than one.
    #[inline(always)]
    fn scale(self, a: Self::F, n: Self::F) -> Self::F {
        let n = self.to_i(n);
        let half = self.sar_i::<1>(n);
        let rest = self.sub_i(n, half);
        let bias = self.splat_i(127);
        let first = self.float(self.shl_i::<23>(self.add_i(half, bias)));
        let second = self.float(self.shl_i::<23>(self.add_i(rest, bias)));
        self.mul(self.mul(a, first), second)
    }

    /// Applies a scalar function to every lane: for functions too rare to be worth a vector form.
    #[inline(always)]
    fn lanewise(self, a: Self::F, f: impl Fn(f32) -> f32) -> Self::F {
        let mut lanes = self.to_array(a);
        for lane in &mut lanes[..Self::LANES] {
            *lane = f(*lane);
        }
        // SAFETY: LANES is at most 16.
        unsafe { self.load(lanes.as_ptr()) }
    }

    /// Sum over all lanes, by halves.
    fn sum(self, a: Self::F) -> f32;
    /// Maximum over all lanes; unspecified where a lane is NaN.
    fn hmax(self, a: Self::F) -> f32;
    /// Minimum over all lanes; unspecified where a lane is NaN.
    fn hmin(self, a: Self::F) -> f32;
    /// The lanes in memory order, in the first `LANES` places.
    #[inline(always)]
    fn to_array(self, a: Self::F) -> [f32; 16] {
        let mut lanes = [0.0; 16];
        // SAFETY: LANES is at most 16.
        unsafe { self.store(lanes.as_mut_ptr(), a) };
        lanes
    }
}
