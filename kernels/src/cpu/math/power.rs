//! Powers.

use super::exponential::split;
use super::{Simd, polynomial};

/// `x^y` to 2 ulp where the instruction set fuses multiply-add; elsewhere, and for lanes with a base that is not a positive
/// normal number or an exponent that is not finite, through the scalar function of the standard library.
#[inline(always)]
pub fn pow<S: Simd>(s: S, x: S::F, y: S::F) -> S::F {
    let infinity = s.splat(f32::INFINITY);
    let base = s.and_m(s.ge(x, s.splat(f32::MIN_POSITIVE)), s.lt(x, infinity));
    let regular = s.and_m(base, s.lt(s.abs(y), infinity));
    if !S::FUSED || !s.all(regular) {
        let (xs, ys) = (s.to_array(x), s.to_array(y));
        let lanes: [f32; 16] = std::array::from_fn(|i| if i < S::LANES { xs[i].powf(ys[i]) } else { 0.0 });
        // SAFETY: LANES is at most 16.
        return unsafe { s.load(lanes.as_ptr()) };
    }
    let (high, low) = log2(s, x);
    let z = s.mul(y, high);
    let rounding = s.fma(y, high, s.neg(z));
    let beyond = s.gt(s.abs(z), s.splat(200.0));
    let rest = s.select(beyond, s.zero(), s.fma(y, low, rounding));
    let z = s.min(s.splat(200.0), s.max(s.splat(-200.0), z));
    let n = s.round(z);
    let r = s.add(s.sub(z, n), rest);
    let power = polynomial(
        s,
        r,
        [1.0, 6.931_471_8e-1, 2.402_264_6e-1, 5.550_328_6e-2, 9.618_489e-3, 1.339_993_1e-3, 1.534_581_2e-4],
    );
    s.scale(power, n)
}

/// Base-2 logarithm of positive normal `x` as a sum of two floats, to a relative error of 2^-30. Needs a fused multiply-add.
#[inline(always)]
fn log2<S: Simd>(s: S, x: S::F) -> (S::F, S::F) {
    /// 2 / ln 2 in two parts.
    const C_HIGH: f32 = 2.885_390_04;
    const C_LOW: f32 = (2.0 * std::f64::consts::LOG2_E - C_HIGH as f64) as f32;
    let (e, f) = split(s, x);
    // t = f / (2 + f) in two parts; log(1 + f) = 2 atanh(t).
    let d = s.add(f, s.splat(2.0));
    let d_low = s.sub(f, s.sub(d, s.splat(2.0)));
    let t = s.div(f, d);
    let remainder = s.fnma(t, d_low, s.fnma(t, d, f));
    let t_low = s.div(remainder, d);
    let square = s.mul(t, t);
    let q = polynomial(s, square, [6.666_666_3e-1, 4.000_033_7e-1, 2.853_720_5e-1, 2.358_425_3e-1]);
    let tail = s.mul(s.mul(s.mul(square, t), q), s.splat(std::f32::consts::LOG2_E));
    let p = s.mul(t, s.splat(C_HIGH));
    let p_low = s.fma(t, s.splat(C_HIGH), s.neg(p));
    let p_low = s.fma(t, s.splat(C_LOW), s.fma(t_low, s.splat(C_HIGH), p_low));
    let high = s.add(e, p);
    let low = s.add(s.add(s.sub(p, s.sub(high, e)), p_low), tail);
    let sum = s.add(high, low);
    (sum, s.sub(low, s.sub(sum, high)))
}

/// `x^n` for integers `n` by repeated squaring: `log2 |n|` roundings, IEEE special values.
#[inline(always)]
pub fn powi<S: Simd>(s: S, x: S::F, n: i32) -> S::F {
    let mut rest = n.unsigned_abs();
    let mut square = x;
    let mut product = s.splat(1.0);
    while rest != 0 {
        if rest & 1 == 1 {
            product = s.mul(product, square);
        }
        rest >>= 1;
        if rest != 0 {
            square = s.mul(square, square);
        }
    }
    if n < 0 { s.div(s.splat(1.0), product) } else { product }
}
