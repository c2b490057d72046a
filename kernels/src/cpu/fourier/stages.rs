//! The transform of one length: Stockham's stages over vectors, one signal per lane.

use crate::cpu::simd::Simd;
use std::f64::consts::TAU;

/// Real and imaginary parts of points, `LANES` signals side by side in each.
#[derive(Clone, Copy)]
pub(super) struct Points {
    pub re: *mut f32,
    pub im: *mut f32,
}

impl Points {
    /// # Safety
    /// There is a point `at`.
    #[inline(always)]
    pub unsafe fn load<S: Simd>(self, s: S, at: usize) -> (S::F, S::F) {
        // SAFETY: by this function's contract.
        unsafe { (s.load(self.re.add(at * S::LANES)), s.load(self.im.add(at * S::LANES))) }
    }

    /// # Safety
    /// There is a point `at`.
    #[inline(always)]
    pub unsafe fn store<S: Simd>(self, s: S, at: usize, (re, im): (S::F, S::F)) {
        // SAFETY: by this function's contract.
        unsafe {
            s.store(self.re.add(at * S::LANES), re);
            s.store(self.im.add(at * S::LANES), im);
        }
    }

    /// The same points times i, conjugated: what turns a forward transform into an inverse one, before and after.
    pub fn swapped(self, swap: bool) -> Points {
        if swap { Points { re: self.im, im: self.re } } else { self }
    }
}

/// Cosine and sine of an angle.
type Turn = [f32; 2];

/// `count` angles from 0 on, of which `period` make a full turn.
pub(super) fn turns(count: usize, period: usize) -> Vec<Turn> {
    let turn = |i: usize| {
        let (sin, cos) = (TAU * (i % period) as f64 / period as f64).sin_cos();
        [cos as f32, sin as f32]
    };
    (0..count).map(turn).collect()
}

/// `x` times `e^(-i angle)`.
#[inline(always)]
pub(super) fn turned<S: Simd>(s: S, (re, im): (S::F, S::F), [cos, sin]: Turn) -> (S::F, S::F) {
    let (cos, sin) = (s.splat(cos), s.splat(sin));
    (s.fma(im, sin, s.mul(re, cos)), s.fnma(re, sin, s.mul(im, cos)))
}

struct Stage {
    radix: usize,
    /// Butterflies of different twiddles, and of equal ones.
    steps: usize,
    stride: usize,
    /// Where its twiddles begin: `radix - 1` for every step.
    twiddles: usize,
}

/// A forward transform of `size` points.
pub(super) struct Transform {
    pub size: usize,
    stages: Vec<Stage>,
    twiddles: Vec<Turn>,
    /// Roots of unity of the radices that have no butterfly of their own, by radix.
    roots: Vec<(usize, Vec<Turn>)>,
}

/// Radices with butterflies of their own, best first.
const RADICES: [usize; 4] = [4, 2, 3, 5];

/// The radices of the stages for `size` points, smallest prime factors first beyond those of their own.
fn radices(mut size: usize) -> Vec<usize> {
    let mut radices = Vec::new();
    let mut divide = |size: &mut usize, radix: usize| {
        while size.is_multiple_of(radix) {
            *size /= radix;
            radices.push(radix);
        }
    };
    RADICES.iter().for_each(|&radix| divide(&mut size, radix));
    let mut radix = 7;
    while radix * radix <= size {
        divide(&mut size, radix);
        radix += 2;
    }
    if size > 1 {
        radices.push(size);
    }
    radices
}

/// Operations on vectors that a transform of `size` points takes, about.
pub(super) fn effort(size: usize) -> f64 {
    let per_point = |radix: &usize| match radix {
        2 => 8.0,
        3 => 10.0,
        4 => 10.0,
        5 => 14.0,
        other => 6.0 + 4.0 * *other as f64,
    };
    size as f64 * radices(size).iter().map(per_point).sum::<f64>()
}

impl Transform {
    pub fn new(size: usize) -> Transform {
        let (mut stages, mut twiddles, mut roots) = (Vec::new(), Vec::new(), Vec::new());
        let (mut rest, mut stride) = (size, 1);
        for radix in radices(size) {
            stages.push(Stage { radix, steps: rest / radix, stride, twiddles: twiddles.len() });
            // The angles of all steps are multiples of one: `rest` of them make a turn.
            let all = turns(rest, rest);
            twiddles.extend(
                (0..rest / radix).flat_map(|p| (1..radix).map(move |k| p * k)).map(|i| all[i % rest]),
            );
            if !RADICES.contains(&radix) && roots.iter().all(|(r, _)| *r != radix) {
                roots.push((radix, turns(radix, radix)));
            }
            rest /= radix;
            stride *= radix;
        }
        Transform { size, stages, twiddles, roots }
    }

    /// Transforms `a`, with `b` as room; returns which of them holds the result.
    ///
    /// # Safety
    /// Both have `size` points.
    #[inline(always)]
    pub unsafe fn run<S: Simd>(&self, s: S, mut a: Points, mut b: Points) -> (Points, Points) {
        for stage in &self.stages {
            // SAFETY: by this function's contract; a stage reads and writes `radix * steps * stride = size` points.
            unsafe {
                match stage.radix {
                    2 => self.stage(s, stage, a, b, butterfly2),
                    3 => self.stage(s, stage, a, b, butterfly3),
                    4 => self.stage(s, stage, a, b, butterfly4),
                    5 => self.stage(s, stage, a, b, butterfly5),
                    _ => self.general(s, stage, a, b),
                }
            }
            std::mem::swap(&mut a, &mut b);
        }
        (a, b)
    }

    #[inline(always)]
    unsafe fn stage<S: Simd, const R: usize>(
        &self,
        s: S,
        stage: &Stage,
        a: Points,
        b: Points,
        butterfly: fn(S, [(S::F, S::F); R]) -> [(S::F, S::F); R],
    ) {
        let (steps, stride) = (stage.steps, stage.stride);
        for p in 0..steps {
            let twiddles = &self.twiddles[stage.twiddles + p * (R - 1)..][..R - 1];
            for q in 0..stride {
                let mut x = [(s.zero(), s.zero()); R];
                // SAFETY: points below `R * steps * stride`.
                unsafe {
                    for (i, x) in x.iter_mut().enumerate() {
                        *x = a.load(s, q + stride * (p + steps * i));
                    }
                    let y = butterfly(s, x);
                    let to = q + stride * R * p;
                    b.store(s, to, y[0]);
                    for k in 1..R {
                        let y = if p == 0 { y[k] } else { turned(s, y[k], twiddles[k - 1]) };
                        b.store(s, to + k * stride, y);
                    }
                }
            }
        }
    }

    /// A stage of any radix, by the definition.
    #[inline(always)]
    unsafe fn general<S: Simd>(&self, s: S, stage: &Stage, a: Points, b: Points) {
        let (radix, steps, stride) = (stage.radix, stage.steps, stage.stride);
        let Some((_, roots)) = self.roots.iter().find(|(r, _)| *r == radix) else { return };
        for p in 0..steps {
            let twiddles = &self.twiddles[stage.twiddles + p * (radix - 1)..][..radix - 1];
            for q in 0..stride {
                for k in 0..radix {
                    let mut sum = (s.zero(), s.zero());
                    let mut angle = 0;
                    for i in 0..radix {
                        // SAFETY: points below `radix * steps * stride`.
                        let x = unsafe { a.load(s, q + stride * (p + steps * i)) };
                        let [cos, sin] = roots[angle];
                        let (cos, sin) = (s.splat(cos), s.splat(sin));
                        sum.0 = s.fma(x.1, sin, s.fma(x.0, cos, sum.0));
                        sum.1 = s.fnma(x.0, sin, s.fma(x.1, cos, sum.1));
                        angle += k;
                        if angle >= radix {
                            angle -= radix;
                        }
                    }
                    let y = if k == 0 { sum } else { turned(s, sum, twiddles[k - 1]) };
                    // SAFETY: as above.
                    unsafe { b.store(s, q + stride * (radix * p + k), y) };
                }
            }
        }
    }
}

type Complex<S> = (<S as Simd>::F, <S as Simd>::F);

#[inline(always)]
fn add<S: Simd>(s: S, a: Complex<S>, b: Complex<S>) -> Complex<S> {
    (s.add(a.0, b.0), s.add(a.1, b.1))
}

#[inline(always)]
fn sub<S: Simd>(s: S, a: Complex<S>, b: Complex<S>) -> Complex<S> {
    (s.sub(a.0, b.0), s.sub(a.1, b.1))
}

/// `m - i n` and `m + i n`.
#[inline(always)]
fn around<S: Simd>(s: S, m: Complex<S>, n: Complex<S>) -> [Complex<S>; 2] {
    [(s.add(m.0, n.1), s.sub(m.1, n.0)), (s.sub(m.0, n.1), s.add(m.1, n.0))]
}

/// `a + c x`.
#[inline(always)]
fn add_scaled<S: Simd>(s: S, a: Complex<S>, c: f32, x: Complex<S>) -> Complex<S> {
    let c = s.splat(c);
    (s.fma(c, x.0, a.0), s.fma(c, x.1, a.1))
}

#[inline(always)]
fn butterfly2<S: Simd>(s: S, [a, b]: [Complex<S>; 2]) -> [Complex<S>; 2] {
    [add(s, a, b), sub(s, a, b)]
}

#[inline(always)]
fn butterfly3<S: Simd>(s: S, [a, b, c]: [Complex<S>; 3]) -> [Complex<S>; 3] {
    // sin 60 degrees.
    const HEIGHT: f32 = 0.866_025_4;
    let (sum, difference) = (add(s, b, c), sub(s, b, c));
    let middle = add_scaled(s, a, -0.5, sum);
    let height = s.splat(HEIGHT);
    let [y1, y2] = around(s, middle, (s.mul(height, difference.0), s.mul(height, difference.1)));
    [add(s, a, sum), y1, y2]
}

#[inline(always)]
fn butterfly4<S: Simd>(s: S, [a, b, c, d]: [Complex<S>; 4]) -> [Complex<S>; 4] {
    let (even, odd) = ([add(s, a, c), sub(s, a, c)], [add(s, b, d), sub(s, b, d)]);
    let [y1, y3] = around(s, even[1], odd[1]);
    [add(s, even[0], odd[0]), y1, sub(s, even[0], odd[0]), y3]
}

#[inline(always)]
fn butterfly5<S: Simd>(s: S, [a, b, c, d, e]: [Complex<S>; 5]) -> [Complex<S>; 5] {
    // Cosines and sines of 72 and 144 degrees.
    const COS: [f32; 2] = [0.309_017, -0.809_017];
    const SIN: [f32; 2] = [0.951_056_5, 0.587_785_25];
    let (t1, t2, t3, t4) = (add(s, b, e), add(s, c, d), sub(s, b, e), sub(s, c, d));
    let m1 = add_scaled(s, add_scaled(s, a, COS[0], t1), COS[1], t2);
    let m2 = add_scaled(s, add_scaled(s, a, COS[1], t1), COS[0], t2);
    let zero = (s.zero(), s.zero());
    let n1 = add_scaled(s, add_scaled(s, zero, SIN[0], t3), SIN[1], t4);
    let n2 = add_scaled(s, add_scaled(s, zero, SIN[1], t3), -SIN[0], t4);
    let ([y1, y4], [y2, y3]) = (around(s, m1, n1), around(s, m2, n2));
    [add(s, a, add(s, t1, t2)), y1, y2, y3, y4]
}
