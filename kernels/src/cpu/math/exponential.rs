//! Exponentials and logarithms.

use super::{Simd, polynomial};
use crate::Isa;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the first has few enough bits that its products with exponents are exact without fusing.
const LN2_HIGH: f32 = 0.693_359_375;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// Splits `x = n ln 2 + r` with |r| <= 0.347: returns `(n, r)`.
#[inline(always)]
fn reduce<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    let n = s.round(s.mul(x, s.splat(LOG2_E)));
    let r = s.fnma(n, s.splat(LN2_HIGH), x);
    (n, s.fnma(n, s.splat(LN2_LOW), r))
}

/// `e^r` for reduced `r`.
#[inline(always)]
fn exp_reduced<S: Simd>(s: S, r: S::F) -> S::F {
    let q = polynomial(s, r, [4.999_999_4e-1, 1.666_652e-1, 4.166_839_3e-2, 8.368_780_8e-3, 1.381_446_7e-3]);
    s.add(s.fma(s.mul(r, r), q, r), s.splat(1.0))
}

/// `2^(n + r)` for integers `n` in -126..=127 and |r| <= 0.5, to 1 ulp.
#[inline(always)]
pub(super) fn exp2_parts<S: Simd>(s: S, n: S::F, r: S::F) -> S::F {
    let p = polynomial(
        s,
        r,
        [
            6.931_471_824_645_996e-1,
            2.402_264_773_845_672_6e-1,
            5.550_332_367_420_196_5e-2,
            9.618_437_848_985_195e-3,
            1.339_890_062_808_990_5e-3,
            1.535_334_158_688_783_6e-4,
        ],
    );
    let y = s.fma(r, p, s.splat(1.0));
    if S::ISA >= Isa::Avx512 {
        return s.scale(y, n);
    }
    s.mul(y, s.float(s.shl_i::<23>(s.add_i(s.to_i(n), s.splat_i(127)))))
}

/// `e^r - 1` for reduced `r`, accurate also next to zero.
#[inline(always)]
fn expm1_reduced<S: Simd>(s: S, r: S::F) -> S::F {
    let q = polynomial(s, r, [0.5, 1.666_666_7e-1, 4.166_624e-2, 8.333_286e-3, 1.394_87e-3, 1.990_770_4e-4]);
    s.fma(s.mul(r, r), q, r)
}

/// `e^x` to 1.5 ulp (2 where the instruction set has no fused multiply-add).
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // The operand order lets NaN through.
    let x = s.min(s.splat(89.0), s.max(s.splat(-105.0), x));
    let (n, r) = reduce(s, x);
    s.scale(exp_reduced(s, r), n)
}

/// `e^x` for `x <= 0`, to 1.5 ulp; results below 1.2e-38 may be zero, and that of -infinity is. What softmax wants: cheaper than
/// [`exp`].
#[inline(always)]
pub fn exp_nonpositive<S: Simd>(s: S, x: S::F) -> S::F {
    if S::ISA >= Isa::Avx512 {
        // One instruction scales by any power of two.
        let (n, r) = reduce(s, s.max(s.splat(-105.0), x));
        return s.scale(exp_reduced(s, r), n);
    }
    let clamped = s.max(s.splat(-87.3), x);
    let (n, r) = reduce(s, clamped);
    let power = s.float(s.shl_i::<23>(s.add_i(s.to_i(n), s.splat_i(127))));
    let y = s.mul(exp_reduced(s, r), power);
    s.select(s.lt(x, s.splat(-87.3)), s.zero(), y)
}

/// `e^x - 1` to 2.5 ulp.
#[inline(always)]
pub fn expm1<S: Simd>(s: S, x: S::F) -> S::F {
    let clamped = s.min(s.splat(89.0), s.max(s.splat(-60.0), x));
    let (n, r) = reduce(s, clamped);
    let q = expm1_reduced(s, r);
    // Half of 2^n, so that n = 128 does not overflow before the sum does.
    let half = s.float(s.shl_i::<23>(s.add_i(s.to_i(n), s.splat_i(126))));
    let y = s.fma(q, half, s.sub(half, s.splat(0.5)));
    // Zero keeps its sign.
    s.select(s.eq(x, s.zero()), x, s.add(y, y))
}

/// `e^x - 1` and for `0 <= x <= 40`: one rounding less than [`expm1`].
#[inline(always)]
pub(super) fn expm1_moderate<S: Simd>(s: S, x: S::F) -> S::F {
    let (n, r) = reduce(s, x);
    let q = expm1_reduced(s, r);
    let power = s.float(s.shl_i::<23>(s.add_i(s.to_i(n), s.splat_i(127))));
    s.fma(q, power, s.sub(power, s.splat(1.0)))
}

/// Splits positive normal `x = 2^e (1 + f)` with `1 + f` in [sqrt(1/2), sqrt(2)): returns `(e, f)`.
#[inline(always)]
pub(super) fn split<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    const SQRT_HALF: i32 = 0x3f35_04f3;
    let bits = s.sub_i(s.bits(x), s.splat_i(SQRT_HALF));
    let e = s.sar_i::<23>(bits);
    let mantissa = s.add_i(s.and_i(bits, s.splat_i(0x007f_ffff)), s.splat_i(SQRT_HALF));
    (s.to_f(e), s.sub(s.float(mantissa), s.splat(1.0)))
}

/// `log(2^e (1 + f))` with `1 + f` in [sqrt(1/2), sqrt(2)).
#[inline(always)]
fn log_split<S: Simd>(s: S, e: S::F, f: S::F) -> S::F {
    let p = polynomial(
        s,
        f,
        [
            3.333_331_3e-1,
            -2.500_000_9e-1,
            2.000_211_9e-1,
            -1.666_799_6e-1,
            1.421_955_2e-1,
            -1.240_558_8e-1,
            1.188_816_2e-1,
            -1.167_565_2e-1,
            6.746_642_3e-2,
        ],
    );
    let square = s.mul(f, f);
    let cubic = s.mul(s.mul(square, f), p);
    let low = s.fma(e, s.splat(LN2_LOW), s.fnma(square, s.splat(0.5), cubic));
    s.fma(e, s.splat(LN2_HIGH), s.add(f, low))
}

/// Natural logarithm to 1.5 ulp: -inf at zero, NaN below.
#[inline(always)]
pub fn log<S: Simd>(s: S, x: S::F) -> S::F {
    const DENORMAL_SCALE: f32 = 33_554_432.0; // 2^25
    let small = s.lt(x, s.splat(f32::MIN_POSITIVE));
    let scaled = s.select(small, s.mul(x, s.splat(DENORMAL_SCALE)), x);
    let (e, f) = split(s, scaled);
    let e = s.sub(e, s.select(small, s.splat(25.0), s.zero()));
    let y = log_split(s, e, f);
    let infinity = s.splat(f32::INFINITY);
    let y = s.select(s.lt(x, infinity), y, x);
    let y = s.select(s.lt(x, s.zero()), s.splat(f32::NAN), y);
    s.select(s.eq(scaled, s.zero()), s.neg(infinity), y)
}

/// `log(1 + x)` to 2.5 ulp: -inf at -1, NaN below.
#[inline(always)]
pub fn log1p<S: Simd>(s: S, x: S::F) -> S::F {
    let u = s.add(x, s.splat(1.0));
    let lost = s.sub(x, s.sub(u, s.splat(1.0)));
    let regular = s.and_m(s.gt(u, s.zero()), s.lt(u, s.splat(f32::INFINITY)));
    let correction = s.select(regular, s.div(lost, u), s.zero());
    let y = s.add(log(s, u), correction);
    // Tiny arguments are their own logarithm and keep the sign of zero.
    s.select(s.lt(s.abs(x), s.splat(1e-8)), x, y)
}

/// `1 / (1 + e^-x)` to 3 ulp.
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    // The operand order lets NaN through.
    let (n, r) = reduce(s, s.max(s.splat(-105.0), s.neg(s.abs(x))));
    let t = s.scale(exp_reduced(s, r), n);
    s.mul(s.select(s.lt(x, s.zero()), t, one), s.recip(s.add(one, t)))
}

/// `log(1 + e^x)` to 3 ulp.
#[inline(always)]
pub fn softplus<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    // log(1 + u) with u = e^-|x| in (0, 1], split without rounding 1 + u.
    let u = exp(s, s.neg(s.abs(x)));
    let upper = s.gt(u, s.splat(std::f32::consts::SQRT_2 - 1.0));
    let e = s.select(upper, one, s.zero());
    let f = s.select(upper, s.mul(s.sub(u, one), s.splat(0.5)), u);
    s.add(s.max(s.zero(), x), log_split(s, e, f))
}
