use super::super::isa::Isa;
use super::super::simd::{Simd, Task, dispatch};
use super::*;

/// Evaluates one function over a slice.
struct Map<'a, F>(F, &'a [f32], &'a mut [f32]);

trait Function: Copy {
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F;
}

impl<F: Function> Task for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Map(f, input, output) = self;
        assert_eq!(input.len(), output.len());
        let mut i = 0;
        while i < input.len() {
            let n = S::LANES.min(input.len() - i);
            // SAFETY: n elements remain in both slices.
            unsafe {
                let y = f.apply(s, s.load_n(input.as_ptr().add(i), n));
                s.store_n(output.as_mut_ptr().add(i), n, y);
            }
            i += n;
        }
    }
}

/// Every magnitude from denormals to infinity in both signs, dense, with the specials.
fn samples() -> Vec<f32> {
    let mut all = vec![
        0.0,
        -0.0,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        -f32::MIN_POSITIVE,
        f32::from_bits(1),
        1.0,
        -1.0,
        0.5,
        -0.5,
        88.722_84,
        88.8,
        -87.336_55,
        -103.97,
        -104.5,
    ];
    let mut bits = 1u32;
    while bits < f32::INFINITY.to_bits() {
        all.push(f32::from_bits(bits));
        all.push(-f32::from_bits(bits));
        bits += 39_989;
    }
    // Where functions do their work.
    for i in 0..60_000 {
        let x = (i as f32 - 30_000.0) * (1.0 / 2_000.0);
        all.push(x);
        all.push(x * 0.07);
    }
    all
}

/// Distance of `got` from `exact` in units in the last place of `exact`'s rounding.
fn ulps(got: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if rounded.is_nan() || got.is_nan() {
        return if rounded.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if rounded.is_infinite() || got.is_infinite() {
        return if rounded == got { 0.0 } else { overflow_distance(got, exact) };
    }
    let exponent = (rounded.abs().to_bits() >> 23).max(1) as i32 - 127;
    let unit = (f64::from(exponent) - 23.0).exp2();
    (f64::from(got) - exact).abs() / unit
}

/// At the border of overflow one side may be the largest finite number.
fn overflow_distance(got: f32, exact: f64) -> f64 {
    let unit = 104f64.exp2();
    let got = if got.is_infinite() { 128f64.exp2().copysign(f64::from(got)) } else { f64::from(got) };
    let exact = exact.clamp(-(128f64.exp2()), 128f64.exp2());
    (got - exact).abs() / unit
}

fn check<F: Function>(
    name: &str,
    f: F,
    exact: fn(f64) -> f64,
    bound: f64,
    absolute: f64,
    domain: fn(f32) -> bool,
) {
    let input: Vec<f32> = samples().into_iter().filter(|&x| domain(x)).collect();
    for isa in Isa::available() {
        let mut output = vec![0.0; input.len()];
        dispatch(isa, Map(f, &input, &mut output));
        let mut worst = (0.0, 0.0f32, 0.0f32);
        for (&x, &y) in input.iter().zip(&output) {
            let wanted = exact(f64::from(x));
            let error = ulps(y, wanted);
            if (f64::from(y) - wanted).abs() <= absolute {
                continue;
            }
            if x == 0.0 && wanted == 0.0 {
                assert_eq!(y.to_bits(), (wanted as f32).to_bits(), "{isa} {name}({x:?}): sign of zero");
            }
            if error > worst.0 || error.is_nan() {
                worst = (error, x, y);
            }
        }
        assert!(
            worst.0 <= bound,
            "{isa} {name}({:e}) = {:e}, exact {:e}: {} ulp",
            worst.1,
            worst.2,
            exact(f64::from(worst.1)),
            worst.0
        );
        println!("{isa} {name}: {:.3} ulp at {:e}", worst.0, worst.1);
    }
}

macro_rules! accuracy {
    ($($test:ident: $f:ident, $exact:expr, $bound:expr $(, absolute $absolute:expr)? $(, on $domain:expr)?;)+) => {$(
        #[test]
        fn $test() {
            #[derive(Clone, Copy)]
            struct This;
            impl Function for This {
                #[inline(always)]
                fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
                    $f(s, x)
                }
            }
            #[allow(unused_mut, unused_assignments)]
            let mut absolute = 0.0;
            $(absolute = $absolute;)?
            #[allow(unused_mut, unused_assignments)]
            let mut domain: fn(f32) -> bool = |_| true;
            $(domain = $domain;)?
            check(stringify!($f), This, $exact, $bound, absolute, domain);
        }
    )+};
}

accuracy! {
    exp_is_accurate: exp, f64::exp, 2.0;
    exp_nonpositive_is_accurate: exp_nonpositive, f64::exp, 2.0, absolute 1.2e-38, on |x| x <= 0.0 || x.is_nan();
    expm1_is_accurate: expm1, f64::exp_m1, 2.5;
    log_is_accurate: log, f64::ln, 1.5;
    log1p_is_accurate: log1p, f64::ln_1p, 2.5;
    sigmoid_is_accurate: sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 3.0;
    softplus_is_accurate: softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p() + x * 0.0, 3.0, on |x| x.is_finite();
    tanh_is_accurate: tanh, f64::tanh, 3.0;
    sinh_is_accurate: sinh, f64::sinh, 5.0;
    cosh_is_accurate: cosh, f64::cosh, 5.0;
    asinh_is_accurate: asinh, asinh_exact, 4.0;
    acosh_is_accurate: acosh, acosh_exact, 4.0;
    atanh_is_accurate: atanh, atanh_exact, 4.0;
    sin_is_accurate: sin, f64::sin, 2.0, absolute 2.4e-10;
    cos_is_accurate: cos, f64::cos, 2.0, absolute 2.4e-10;
    tan_is_accurate: tan, f64::tan, 5.0, absolute 2.4e-10, on |x| x.abs() < 30.0 || x.is_nan() || x.is_infinite();
    atan_is_accurate: atan, f64::atan, 3.0;
    asin_is_accurate: asin, f64::asin, 3.0;
    acos_is_accurate: acos, f64::acos, 3.0;
    erf_is_accurate: erf, erf_exact, 3.0;
    gelu_erf_is_accurate: gelu_erf, |x| x * 0.5 * (1.0 + erf_exact(x * std::f64::consts::FRAC_1_SQRT_2)), 4.0, absolute 2e-7, on |x| x.is_finite();
    gelu_tanh_is_accurate: gelu_tanh, |x| x * 0.5 * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)).tanh()), 4.0, absolute 2e-7, on |x| x.is_finite();
}

/// The standard library's forms lose digits by cancellation.
fn asinh_exact(x: f64) -> f64 {
    let m = x.abs();
    let y = if m > 1e9 {
        m.ln() + std::f64::consts::LN_2
    } else {
        (m + m * m / (1.0 + (m * m + 1.0).sqrt())).ln_1p()
    };
    y.copysign(x)
}

fn acosh_exact(x: f64) -> f64 {
    let t = x - 1.0;
    if x < 1.0 {
        return f64::NAN;
    }
    if x > 1e9 { x.ln() + std::f64::consts::LN_2 } else { (t + (2.0 * t + t * t).sqrt()).ln_1p() }
}

fn atanh_exact(x: f64) -> f64 {
    let m = x.abs();
    (0.5 * (2.0 * m / (1.0 - m)).ln_1p()).copysign(x)
}

/// The error function by its Taylor series below 3 and its continued fraction above.
fn erf_exact(x: f64) -> f64 {
    let m = x.abs();
    if x.is_nan() || x == 0.0 {
        return x;
    }
    if m > 6.0 {
        return 1f64.copysign(x);
    }
    let scale = 2.0 / std::f64::consts::PI.sqrt();
    let y = if m < 3.0 {
        let (mut term, mut sum, mut n) = (m, m, 0.0);
        while term.abs() > 1e-18 * sum.abs() {
            n += 1.0;
            term *= -m * m / n;
            sum += term / (2.0 * n + 1.0);
        }
        scale * sum
    } else {
        let mut fraction = 0.0;
        for k in (1..60).rev() {
            fraction = f64::from(k) * 0.5 / (m + fraction);
        }
        1.0 - (-m * m).exp() / (m + fraction) / std::f64::consts::PI.sqrt()
    };
    y.copysign(x)
}

#[derive(Clone, Copy)]
struct PowTo(f32);
impl Function for PowTo {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        pow(s, x, s.splat(self.0))
    }
}

#[test]
fn pow_is_accurate() {
    for y in [
        0.0,
        1.0,
        -1.0,
        2.0,
        0.5,
        0.1,
        -0.75,
        1.0 / 3.0,
        2.2,
        10.5,
        -33.3,
        3.0,
        -3.0,
        f32::INFINITY,
        f32::NAN,
    ] {
        // Vectors of regular lanes first, then the specials mixed in.
        let mut input: Vec<f32> = samples().into_iter().filter(|x| x.is_normal() && *x > 0.0).collect();
        input.extend(samples());
        for isa in Isa::available() {
            let mut output = vec![0.0; input.len()];
            dispatch(isa, Map(PowTo(y), &input, &mut output));
            for (&x, &got) in input.iter().zip(&output) {
                let exact = f64::from(x).powf(f64::from(y));
                assert!(ulps(got, exact) <= 2.0, "{isa} pow({x:e}, {y}) = {got:e}, exact {exact:e}");
            }
        }
    }
}

#[derive(Clone, Copy)]
struct PowI(i32);
impl Function for PowI {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        powi(s, x, self.0)
    }
}

#[test]
fn powi_is_accurate() {
    for n in [0, 1, 2, 3, 4, 7, -1, -2, -3] {
        let input: Vec<f32> =
            samples().into_iter().filter(|x| x.is_nan() || (1e-10..=1e10).contains(&x.abs())).collect();
        for isa in Isa::available() {
            let mut output = vec![0.0; input.len()];
            dispatch(isa, Map(PowI(n), &input, &mut output));
            for (&x, &got) in input.iter().zip(&output) {
                let exact = f64::from(x).powi(n);
                if exact.abs() > 1e-37 && exact.abs() < 1e38 {
                    assert!(ulps(got, exact) <= 4.0, "{isa} powi({x:e}, {n}) = {got:e}, exact {exact:e}");
                }
            }
        }
    }
}
