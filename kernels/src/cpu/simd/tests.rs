use super::*;

const X: [f32; 16] = [
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    -1.25,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    8_388_609.0,
    -16_777_216.0,
    3.999_999_8,
    1e-20,
    -7.75,
];
const Y: [f32; 16] = [
    1.0,
    0.0,
    0.25,
    -3.0,
    f32::NAN,
    2.5,
    2.0,
    -1.25,
    1.0,
    f32::INFINITY,
    5.0,
    -1.0,
    3.0,
    -4.0,
    1e-20,
    f32::NAN,
];

/// Equal bits, or NaN both.
fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

struct AllOperations;

impl Task for AllOperations {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for start in (0..16).step_by(S::LANES) {
            lanes(s, start);
        }
        partial(s);
        integers(s);
        narrow(s);
        masks(s);
    }
}

fn check<S: Simd>(s: S, what: &str, start: usize, got: S::F, expected: impl Fn(f32, f32) -> f32) {
    for (lane, &value) in s.to_array(got)[..S::LANES].iter().enumerate() {
        let (x, y) = (X[start + lane], Y[start + lane]);
        let wanted = expected(x, y);
        assert!(same(value, wanted), "{} {what}({x}, {y}) = {value}, expected {wanted}", S::ISA);
    }
}

#[inline(always)]
fn lanes<S: Simd>(s: S, start: usize) {
    // SAFETY: both arrays hold 16 elements and start + LANES <= 16.
    let (x, y) = unsafe { (s.load(X.as_ptr().add(start)), s.load(Y.as_ptr().add(start))) };
    let truth = |m: S::M| s.select(m, s.splat(1.0), s.zero());
    let flag = |b: bool| f32::from(u8::from(b));
    check(s, "add", start, s.add(x, y), |x, y| x + y);
    check(s, "sub", start, s.sub(x, y), |x, y| x - y);
    check(s, "mul", start, s.mul(x, y), |x, y| x * y);
    check(s, "div", start, s.div(x, y), |x, y| x / y);
    if S::FUSED {
        check(s, "fma", start, s.fma(x, y, s.splat(0.1)), |x, y| x.mul_add(y, 0.1));
        check(s, "fnma", start, s.fnma(x, y, s.splat(0.1)), |x, y| (-x).mul_add(y, 0.1));
    }
    check(s, "min", start, s.min(x, y), |x, y| if x < y { x } else { y });
    check(s, "max", start, s.max(x, y), |x, y| if x > y { x } else { y });
    check(s, "min_nan", start, s.min_nan(x, y), |x, y| if x.is_nan() || x < y { x } else { y });
    check(s, "max_nan", start, s.max_nan(x, y), |x, y| if x.is_nan() || x > y { x } else { y });
    check(s, "sqrt", start, s.sqrt(x), |x, _| x.sqrt());
    check(s, "abs", start, s.abs(x), |x, _| x.abs());
    check(s, "neg", start, s.neg(x), |x, _| -x);
    check(s, "copysign", start, s.copysign(x, y), |x, y| x.copysign(y));
    check(s, "round", start, s.round(x), |x, _| x.round_ties_even());
    check(s, "floor", start, s.floor(x), |x, _| x.floor());
    check(s, "ceil", start, s.ceil(x), |x, _| x.ceil());
    check(s, "trunc", start, s.trunc(x), |x, _| x.trunc());
    check(s, "lt", start, truth(s.lt(x, y)), |x, y| flag(x < y));
    check(s, "le", start, truth(s.le(x, y)), |x, y| flag(x <= y));
    check(s, "gt", start, truth(s.gt(x, y)), |x, y| flag(x > y));
    check(s, "ge", start, truth(s.ge(x, y)), |x, y| flag(x >= y));
    check(s, "eq", start, truth(s.eq(x, y)), |x, y| flag(x == y));
    check(s, "ne", start, truth(s.ne(x, y)), |x, y| flag(x != y));
    check(s, "and", start, truth(s.and_m(s.lt(x, y), s.lt(x, s.zero()))), |x, y| flag(x < y && x < 0.0));
    check(s, "or", start, truth(s.or_m(s.lt(x, y), s.lt(x, s.zero()))), |x, y| flag(x < y || x < 0.0));
}

#[inline(always)]
fn partial<S: Simd>(s: S) {
    let source: Vec<f32> = (1..=16).map(|x| x as f32).collect();
    for n in 0..=S::LANES {
        let mut target = vec![-1.0f32; 18];
        let mut target_i = vec![-1i32; 18];
        // SAFETY: the buffers hold more than LANES elements, the exact-size copy only n.
        unsafe {
            let exact: Box<[f32]> = source[..n].into();
            let v = s.load_n(exact.as_ptr(), n);
            assert_eq!(s.to_array(v)[n..S::LANES], vec![0.0; S::LANES - n]);
            s.store_n(target.as_mut_ptr().add(1), n, v);
            s.store_i_n(target_i.as_mut_ptr().add(1), n, s.to_i(v));
        }
        assert_eq!(target[1..=n], source[..n]);
        assert!(target[n + 1..].iter().all(|&x| x == -1.0) && target[0] == -1.0);
        assert!(target_i[1..=n].iter().zip(&source).all(|(&i, &f)| i as f32 == f));
        assert!(target_i[n + 1..].iter().all(|&x| x == -1));
        // SAFETY: target_i holds more than n + 1 elements.
        let back = unsafe { s.load_i_n(target_i.as_ptr().add(1), n) };
        assert_eq!(s.to_array(s.to_f(back))[..n], source[..n]);
    }
    let spread: Vec<f32> = (0..64).map(|x| x as f32).collect();
    // SAFETY: 3 * 15 < 64, and the negative strides start at the end.
    let (up, down) =
        unsafe { (s.load_strided(spread.as_ptr(), 3), s.load_strided(spread.as_ptr().add(63), -2)) };
    for lane in 0..S::LANES {
        assert_eq!(s.to_array(up)[lane], 3.0 * lane as f32);
        assert_eq!(s.to_array(down)[lane], 63.0 - 2.0 * lane as f32);
    }
    // SAFETY: source holds 16 elements.
    let v = unsafe { s.load(source.as_ptr()) };
    let n = S::LANES as f32;
    assert_eq!(s.sum(v), n * (n + 1.0) / 2.0);
    assert_eq!(s.to_array(s.add(s.to_f(s.iota()), s.splat(1.0)))[..S::LANES], source[..S::LANES]);
    assert_eq!(s.hmax(v), n);
    assert_eq!(s.hmin(s.neg(v)), -n);
    assert!(s.all(s.gt(v, s.zero())) && !s.all(s.gt(v, s.splat(1.0))));
    assert!(s.any(s.gt(v, s.splat(n - 0.5))) && !s.any(s.gt(v, s.splat(n))));
}

#[inline(always)]
fn masks<S: Simd>(s: S) {
    let bytes: [u8; 16] = [0, 1, 2, 0, 0, 255, 128, 0, 1, 0, 0, 0, 7, 0, 1, 1];
    for start in (0..16).step_by(S::LANES) {
        for n in 0..=S::LANES {
            let mut out = [9u8; 17];
            // SAFETY: start + n <= 16, and out holds more than LANES bytes.
            unsafe {
                let exact: Box<[u8]> = bytes[start..start + n].into();
                s.store_mask_n(out.as_mut_ptr(), n, s.load_mask_n(exact.as_ptr(), n));
            }
            assert!((0..n).all(|i| out[i] == u8::from(bytes[start + i] != 0)), "{}", S::ISA);
            assert!(out[n..].iter().all(|&b| b == 9));
        }
        let mut out = [9u8; 17];
        // SAFETY: start + LANES <= 16.
        unsafe { s.store_mask(out.as_mut_ptr(), s.load_mask(bytes.as_ptr().add(start))) };
        assert!((0..S::LANES).all(|i| out[i] == u8::from(bytes[start + i] != 0)), "{}", S::ISA);
        assert!(out[S::LANES..].iter().all(|&b| b == 9));
    }
}

#[inline(always)]
fn integers<S: Simd>(s: S) {
    let a: [i32; 16] =
        [0, 1, -1, i32::MAX, i32::MIN, 7, -9, 123_456, 5, 6, 7, 8, -100, 1 << 20, -(1 << 20), 3];
    let b: [i32; 16] = [3, 1, 2, 1, -1, -7, -9, 99_999, 0, 6, -7, 8, 100, 1 << 19, 1 << 13, 4];
    for start in (0..16).step_by(S::LANES) {
        // SAFETY: start + LANES <= 16.
        let (x, y) = unsafe { (s.load_i(a.as_ptr().add(start)), s.load_i(b.as_ptr().add(start))) };
        let check = |what: &str, got: S::I, wanted: &dyn Fn(i32, i32) -> i32| {
            let mut lanes = [0i32; 16];
            // SAFETY: LANES <= 16.
            unsafe { s.store_i(lanes.as_mut_ptr(), got) };
            for lane in 0..S::LANES {
                let (p, q) = (a[start + lane], b[start + lane]);
                assert_eq!(lanes[lane], wanted(p, q), "{} {what}({p}, {q})", S::ISA);
            }
        };
        check("add", s.add_i(x, y), &|p, q| p.wrapping_add(q));
        check("sub", s.sub_i(x, y), &|p, q| p.wrapping_sub(q));
        check("mul", s.mul_i(x, y), &|p, q| p.wrapping_mul(q));
        check("and", s.and_i(x, y), &|p, q| p & q);
        check("or", s.or_i(x, y), &|p, q| p | q);
        check("xor", s.xor_i(x, y), &|p, q| p ^ q);
        check("andnot", s.andnot_i(x, y), &|p, q| !p & q);
        check("shl", s.shl_i::<5>(x), &|p, _| p << 5);
        check("shr", s.shr_i::<5>(x), &|p, _| ((p as u32) >> 5) as i32);
        check("sar", s.sar_i::<5>(x), &|p, _| p >> 5);
        check("eq", s.select_i(s.eq_i(x, y), x, s.splat_i(77)), &|p, q| if p == q { p } else { 77 });
        check("gt", s.select_i(s.gt_i(x, y), x, y), &|p, q| p.max(q));
    }
}

#[inline(always)]
fn narrow<S: Simd>(s: S) {
    let mut f16 = [0u16; 16];
    let mut bf16 = [0u16; 16];
    for start in (0..16).step_by(S::LANES) {
        // SAFETY: start + LANES <= 16 in every array.
        unsafe {
            let x = s.load(X.as_ptr().add(start));
            s.store_f16(f16.as_mut_ptr().add(start), x);
            s.store_bf16(bf16.as_mut_ptr().add(start), x);
            let mut upper = [0u16; 32];
            s.store_uppers(upper.as_mut_ptr(), s.bits(s.neg(x)), s.bits(x));
            let (negative, second) = upper.split_at(S::LANES);
            let mut upper = [0u16; 16];
            s.store_upper(upper.as_mut_ptr(), s.bits(x));
            assert_eq!(second[..S::LANES], upper[..S::LANES], "{} second upper halves", S::ISA);
            let wide = s.to_array(s.load_f16(f16.as_ptr().add(start)));
            let wide_b = s.to_array(s.load_bf16(bf16.as_ptr().add(start)));
            for lane in 0..S::LANES {
                let x = X[start + lane];
                assert_eq!(u32::from(upper[lane]), x.to_bits() >> 16, "{} upper half of {x}", S::ISA);
                assert_eq!(negative[lane], upper[lane] ^ 0x8000, "{} upper half of -{x}", S::ISA);
                assert!(same(wide[lane], half::f16::from_f32(x).to_f32()), "{} f16({x})", S::ISA);
                assert!(same(wide_b[lane], half::bf16::from_f32(x).to_f32()), "{} bf16({x})", S::ISA);
            }
        }
    }
}

#[test]
fn every_instruction_set_agrees_with_scalar_arithmetic() {
    for isa in Isa::available() {
        dispatch(isa, AllOperations);
    }
}
