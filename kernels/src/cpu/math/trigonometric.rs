//! Trigonometric functions.

use super::{Simd, polynomial};

/// Magnitude up to which arguments are reduced in vectors.
const REDUCIBLE: f32 = 8192.0;

/// Splits `x = n pi/2 + r` with |r| <= 0.786: returns `(n, r)`. For |x| <= [`REDUCIBLE`]; the absolute error of `r` is
/// below 2^-34 there.
#[inline(always)]
fn reduce<S: Simd>(s: S, x: S::F) -> (S::I, S::F) {
    /// pi/2 in parts with few enough bits that products with `n` are exact without fusing.
    const PARTS: [f32; 4] = [1.570_312_5, 4.837_513e-4, 7.549_533_6e-8, 2.563_344_2e-12];
    let n = s.round(s.mul(x, s.splat(std::f32::consts::FRAC_2_PI)));
    let mut r = x;
    for part in PARTS {
        r = s.fnma(n, s.splat(part), r);
    }
    (s.to_i(n), r)
}

/// The sine of reduced `r`.
#[inline(always)]
fn sin_reduced<S: Simd>(s: S, r: S::F) -> S::F {
    let t = s.mul(r, r);
    let p = polynomial(s, t, [-1.666_666_7e-1, 8.333_329e-3, -1.983_932_7e-4, 2.718_237_3e-6]);
    s.fma(s.mul(t, r), p, r)
}

/// The cosine of reduced `r`.
#[inline(always)]
fn cos_reduced<S: Simd>(s: S, r: S::F) -> S::F {
    let t = s.mul(r, r);
    let p = polynomial(s, t, [4.166_665_3e-2, -1.388_765e-3, 2.446_316_6e-5]);
    let head = s.fnma(s.splat(0.5), t, s.splat(1.0));
    s.fma(s.mul(t, t), p, head)
}

/// `sin(x + quarter pi/2)`.
#[inline(always)]
fn circular<S: Simd>(s: S, x: S::F, quarter: i32) -> S::F {
    let (n, r) = reduce(s, x);
    let n = s.add_i(n, s.splat_i(quarter));
    let odd = s.eq_i(s.and_i(n, s.splat_i(1)), s.splat_i(1));
    let y = s.select(odd, cos_reduced(s, r), sin_reduced(s, r));
    let sign = s.shl_i::<30>(s.and_i(n, s.splat_i(2)));
    s.float(s.xor_i(s.bits(y), sign))
}

/// Sine, to 2 ulp or 2^-32, whichever is larger.
#[inline(always)]
pub fn sin<S: Simd>(s: S, x: S::F) -> S::F {
    if s.any(s.gt(s.abs(x), s.splat(REDUCIBLE))) {
        return s.lanewise(x, f32::sin);
    }
    s.select(s.eq(x, s.zero()), x, circular(s, x, 0))
}

/// Cosine, to 2 ulp or 2^-32, whichever is larger.
#[inline(always)]
pub fn cos<S: Simd>(s: S, x: S::F) -> S::F {
    if s.any(s.gt(s.abs(x), s.splat(REDUCIBLE))) {
        return s.lanewise(x, f32::cos);
    }
    circular(s, x, 1)
}

/// Tangent: the quotient of [`sin`] and [`cos`].
#[inline(always)]
pub fn tan<S: Simd>(s: S, x: S::F) -> S::F {
    if s.any(s.gt(s.abs(x), s.splat(REDUCIBLE))) {
        return s.lanewise(x, f32::tan);
    }
    s.select(s.eq(x, s.zero()), x, s.div(circular(s, x, 0), circular(s, x, 1)))
}

/// Inverse tangent to 3 ulp.
#[inline(always)]
pub fn atan<S: Simd>(s: S, x: S::F) -> S::F {
    let one = s.splat(1.0);
    let magnitude = s.abs(x);
    let above = s.gt(magnitude, one);
    let t = s.select(above, s.div(one, magnitude), magnitude);
    let square = s.mul(t, t);
    let p = polynomial(
        s,
        square,
        [
            -3.333_33e-1,
            1.999_854_9e-1,
            -1.426_424_2e-1,
            1.095_218_6e-1,
            -8.403_451e-2,
            5.795_760_5e-2,
            -3.117_785_6e-2,
            1.091_461_2e-2,
            -1.793_623e-3,
        ],
    );
    let small = s.fma(s.mul(square, t), p, t);
    let y = s.select(above, s.sub(s.splat(std::f32::consts::FRAC_PI_2), small), small);
    s.copysign(y, x)
}

/// `asin(t)` for `0 <= t <= 1/2`, given `t` and its square.
#[inline(always)]
fn asin_small<S: Simd>(s: S, t: S::F, square: S::F) -> S::F {
    let p = polynomial(
        s,
        square,
        [1.666_666e-1, 7.500_504e-2, 4.451_695_5e-2, 3.180_772_4e-2, 1.443_858_5e-2, 3.751_648e-2],
    );
    s.fma(s.mul(square, t), p, t)
}

/// Inverse sine to 3 ulp: NaN outside of [-1, 1].
#[inline(always)]
pub fn asin<S: Simd>(s: S, x: S::F) -> S::F {
    let magnitude = s.abs(x);
    let upper = s.gt(magnitude, s.splat(0.5));
    // asin(m) = pi/2 - 2 asin(sqrt((1 - m) / 2))
    let half = s.mul(s.sub(s.splat(1.0), magnitude), s.splat(0.5));
    let t = s.select(upper, s.sqrt(half), magnitude);
    let square = s.select(upper, half, s.mul(magnitude, magnitude));
    let y = asin_small(s, t, square);
    let folded = s.sub(s.splat(std::f32::consts::FRAC_PI_2), s.add(y, y));
    s.copysign(s.select(upper, folded, y), x)
}

/// Inverse cosine to 3 ulp: NaN outside of [-1, 1].
#[inline(always)]
pub fn acos<S: Simd>(s: S, x: S::F) -> S::F {
    let magnitude = s.abs(x);
    let upper = s.gt(magnitude, s.splat(0.5));
    let half = s.mul(s.sub(s.splat(1.0), magnitude), s.splat(0.5));
    let t = s.select(upper, s.sqrt(half), x);
    let square = s.select(upper, half, s.mul(x, x));
    let y = asin_small(s, t, square);
    let twice = s.add(y, y);
    let reflected = s.select(s.lt(x, s.zero()), s.sub(s.splat(std::f32::consts::PI), twice), twice);
    s.select(upper, reflected, s.sub(s.splat(std::f32::consts::FRAC_PI_2), y))
}
