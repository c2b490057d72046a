//! The transforms of minimal filtering in one dimension: `F(m, 3)` computes m outputs of a filter of 3 taps from t = m + 2
//! inputs by t products (Winograd; Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks").
//!
//! The filter, the inputs and the outputs are polynomials that are evaluated at t - 1 points and at infinity. `F(4, 3)` takes
//! 0, ±5/8 and ±3/2, whose powers are exact in `f32` and close enough to 1 that sums lose little: its layers have about
//! twice the error of plain `f32` sums, `F(2, 3)`, at 0 and ±1, less than those.

use crate::cpu::simd::Simd;

/// One form: `M` outputs of `T` products.
pub trait Form<const M: usize, const T: usize>: Copy + Send + Sync + 'static {
    /// The filter at the points.
    fn filter(taps: [f64; 3]) -> [f64; T];

    /// The inputs at the points.
    fn input<S: Simd>(s: S, d: [S::F; T]) -> [S::F; T];

    /// The outputs of products at the points.
    fn output<S: Simd>(s: S, m: [S::F; T]) -> [S::F; M];
}

/// `F(2, 3)`.
#[derive(Clone, Copy, Debug)]
pub struct Two;

impl Form<2, 4> for Two {
    #[inline(always)]
    fn filter([a, b, c]: [f64; 3]) -> [f64; 4] {
        [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c]
    }

    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::F; 4]) -> [S::F; 4] {
        [s.sub(d[0], d[2]), s.add(d[1], d[2]), s.sub(d[2], d[1]), s.sub(d[3], d[1])]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::F; 4]) -> [S::F; 2] {
        [s.add(s.add(m[0], m[1]), m[2]), s.add(s.sub(m[1], m[2]), m[3])]
    }
}

/// `F(4, 3)`.
#[derive(Clone, Copy, Debug)]
pub struct Four;

impl Four {
    /// The points beside 0 and infinity are plus and minus these.
    const NEAR: f64 = 0.625;
    const FAR: f64 = 1.5;
    const NEAR2: f64 = Self::NEAR * Self::NEAR;
    const FAR2: f64 = Self::FAR * Self::FAR;
}

impl Form<4, 6> for Four {
    #[inline(always)]
    fn filter([a, b, c]: [f64; 3]) -> [f64; 6] {
        let at = |x: f64, scale: f64| (a + x * b + x * x * c) / scale;
        let near = 2.0 * Self::NEAR2 * (Self::NEAR2 - Self::FAR2);
        let far = 2.0 * Self::FAR2 * (Self::FAR2 - Self::NEAR2);
        [
            a / (Self::NEAR2 * Self::FAR2),
            at(Self::NEAR, near),
            at(-Self::NEAR, near),
            at(Self::FAR, far),
            at(-Self::FAR, far),
            c,
        ]
    }

    #[inline(always)]
    fn input<S: Simd>(s: S, d: [S::F; 6]) -> [S::F; 6] {
        let near = s.splat(Self::NEAR as f32);
        let far = s.splat(Self::FAR as f32);
        let near2 = s.splat(Self::NEAR2 as f32);
        let far2 = s.splat(Self::FAR2 as f32);
        let product = s.splat((Self::NEAR2 * Self::FAR2) as f32);
        let sum = s.splat((Self::NEAR2 + Self::FAR2) as f32);
        let (even, odd) = (s.fnma(far2, d[2], d[4]), s.fnma(far2, d[1], d[3]));
        let (even2, odd2) = (s.fnma(near2, d[2], d[4]), s.fnma(near2, d[1], d[3]));
        [
            s.fma(product, d[0], s.fnma(sum, d[2], d[4])),
            s.fma(near, odd, even),
            s.fnma(near, odd, even),
            s.fma(far, odd2, even2),
            s.fnma(far, odd2, even2),
            s.fma(product, d[1], s.fnma(sum, d[3], d[5])),
        ]
    }

    #[inline(always)]
    fn output<S: Simd>(s: S, m: [S::F; 6]) -> [S::F; 4] {
        let near = s.splat(Self::NEAR as f32);
        let far = s.splat(Self::FAR as f32);
        let near2 = s.splat(Self::NEAR2 as f32);
        let far2 = s.splat(Self::FAR2 as f32);
        let near3 = s.splat((Self::NEAR2 * Self::NEAR) as f32);
        let far3 = s.splat((Self::FAR2 * Self::FAR) as f32);
        let (sum, sum2) = (s.add(m[1], m[2]), s.add(m[3], m[4]));
        let (less, less2) = (s.sub(m[1], m[2]), s.sub(m[3], m[4]));
        [
            s.add(m[0], s.add(sum, sum2)),
            s.fma(near, less, s.mul(far, less2)),
            s.fma(near2, sum, s.mul(far2, sum2)),
            s.fma(near3, less, s.fma(far3, less2, m[5])),
        ]
    }
}
