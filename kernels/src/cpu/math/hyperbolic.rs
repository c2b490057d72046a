//! Hyperbolic functions, the error function and the activations made of them.

use super::exponential::{exp2_parts, expm1_moderate};
use super::{Simd, exp, exp_nonpositive, expm1, log, log1p, polynomial, sigmoid};

/// Hyperbolic tangent to 3 ulp.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let magnitude = s.abs(x);
    // Beyond 10 the result rounds to 1; the operand order lets NaN through.
    let double = s.min(s.splat(20.0), s.add(magnitude, magnitude));
    let t = expm1_moderate(s, double);
    s.copysign(s.div(t, s.add(t, s.splat(2.0))), x)
}

/// Hyperbolic sine to 3 ulp, 5 where |x| > 80.
#[inline(always)]
pub fn sinh<S: Simd>(s: S, x: S::F) -> S::F {
    let magnitude = s.abs(x);
    let t = expm1(s, magnitude);
    let half = s.splat(0.5);
    let moderate = s.mul(half, s.add(t, s.div(t, s.add(t, s.splat(1.0)))));
    let root = exp(s, s.mul(magnitude, half));
    let y = s.select(s.gt(magnitude, s.splat(80.0)), s.mul(s.mul(root, half), root), moderate);
    s.copysign(y, x)
}

/// Hyperbolic cosine to 3 ulp, 5 where |x| > 80.
#[inline(always)]
pub fn cosh<S: Simd>(s: S, x: S::F) -> S::F {
    let magnitude = s.abs(x);
    let half = s.splat(0.5);
    let t = exp(s, magnitude);
    let moderate = s.fma(t, half, s.div(half, t));
    let root = exp(s, s.mul(magnitude, half));
    s.select(s.gt(magnitude, s.splat(80.0)), s.mul(s.mul(root, half), root), moderate)
}

/// Above this magnitude x^2 + 1 rounds to x^2.
const LARGE: f32 = 1e9;

/// Inverse hyperbolic sine to 4 ulp.
#[inline(always)]
pub fn asinh<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let magnitude = s.abs(x);
    let square = s.mul(magnitude, magnitude);
    let root = s.sqrt(s.add(square, one));
    let moderate = log1p(s, s.add(magnitude, s.div(square, s.add(one, root))));
    let large = s.add(log(s, magnitude), s.splat(std::f32::consts::LN_2));
    s.copysign(s.select(s.gt(magnitude, s.splat(LARGE)), large, moderate), x)
}

/// Inverse hyperbolic cosine to 4 ulp: NaN below 1.
#[inline(always)]
pub fn acosh<S: Simd>(s: S, x: S::F) -> S::F {
    let t = s.sub(x, s.splat(1.0));
    let root = s.sqrt(s.fma(t, t, s.add(t, t)));
    let moderate = log1p(s, s.add(t, root));
    let large = s.add(log(s, x), s.splat(std::f32::consts::LN_2));
    let y = s.select(s.gt(x, s.splat(LARGE)), large, moderate);
    s.select(s.lt(x, s.splat(1.0)), s.splat(f32::NAN), y)
}

/// Inverse hyperbolic tangent to 4 ulp: infinite at +-1, NaN beyond.
#[inline(always)]
pub fn atanh<S: Simd>(s: S, x: S::F) -> S::F {
    let magnitude = s.abs(x);
    let quotient = s.div(s.add(magnitude, magnitude), s.sub(s.splat(1.0), magnitude));
    s.copysign(s.mul(s.splat(0.5), log1p(s, quotient)), x)
}

/// Magnitude from which the error function is computed through its complement.
const ERF_SPLIT: f32 = 0.85;

/// Error function to 3 ulp.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::F) -> S::F {
    let magnitude = s.abs(x);
    let square = s.mul(x, x);
    let p = polynomial(
        s,
        square,
        [1.283_791_7e-1, -3.761_257_2e-1, 1.128_271_7e-1, -2.680_254_7e-2, 5.051_094_6e-3, -6.315_129e-4],
    );
    let small = s.fma(x, p, x);
    // 1 - erf(m) = e^-g(m); beyond 3.95 the result rounds to 1. The operand order lets NaN through.
    let m = s.min(s.splat(3.95), magnitude);
    let g = polynomial(
        s,
        m,
        [
            1.045_327_4e-4,
            1.128_060_9,
            6.365_190_1e-1,
            1.045_258_6e-1,
            -2.251_901_3e-2,
            3.117_841_9e-3,
            -2.036_753e-4,
        ],
    );
    let large = s.sub(s.splat(1.0), exp_nonpositive(s, s.neg(g)));
    s.select(s.lt(magnitude, s.splat(ERF_SPLIT)), small, s.copysign(large, x))
}

/// `x (1 + erf(x / sqrt(2))) / 2`, to 4 ulp where the exact value exceeds 0.1 in magnitude and to 2e-7 elsewhere; unspecified
/// for infinities.
#[inline(always)]
pub fn gelu_erf<S: Simd>(s: S, x: S::F) -> S::F {
    // x for positive x, less |x| times the tail of the normal distribution, 2^-(1 + m p(m)). From 5.6 on that is below 6e-8. The
    // operand order lets NaN through.
    let m = s.min(s.splat(5.6), s.abs(x));
    let p = polynomial(
        s,
        m,
        [
            -1.151_106_953_620_910_6,
            -4.591_992_199_420_929e-1,
            -5.250_229_686_498_642e-2,
            7.031_476_590_782_404e-3,
            -6.529_330_130_433_664e-5,
            -2.498_637_186_363_339_4e-4,
            6.825_556_920_375_675e-5,
            -9.633_844_456_402_585e-6,
            7.411_667_297_674_285e-7,
            -2.449_869_818_121_897e-8,
        ],
    );
    let n = s.round(s.fma(m, p, s.splat(-1.0)));
    let tail = exp2_parts(s, n, s.fma(m, p, s.sub(s.splat(-1.0), n)));
    s.fnma(m, tail, s.max(s.zero(), x))
}

/// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`, to the bounds of [`gelu_erf`].
#[inline(always)]
pub fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // (1 + tanh(u)) / 2 is the sigmoid of 2 u.
    let double = s.mul(x, s.fma(s.mul(x, x), s.splat(0.071_354_814), s.splat(1.595_769_1)));
    s.mul(x, sigmoid(s, double))
}
