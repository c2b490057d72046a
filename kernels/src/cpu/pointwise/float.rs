//! Steps on `f32` tiles.

use super::program::{Code, Step};
use super::tile::Place;
use crate::cpu::math;
use crate::cpu::simd::Simd;
use engraft_network::{BinaryOp, DType, UnaryOp};

/// Loads up to a vector of an operand.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, p: Place, i: usize, m: usize) -> S::F {
    // SAFETY: the operand holds one element if scalar, at least i + m otherwise.
    unsafe {
        if p.scalar {
            s.splat(*p.ptr.cast::<f32>())
        } else if m == S::LANES {
            s.load(p.ptr.cast::<f32>().add(i))
        } else {
            s.load_n(p.ptr.cast::<f32>().add(i), m)
        }
    }
}

#[inline(always)]
unsafe fn store<S: Simd>(s: S, p: Place, i: usize, m: usize, x: S::F) {
    // SAFETY: the result holds at least i + m elements.
    unsafe {
        if m == S::LANES {
            s.store(p.ptr.cast::<f32>().add(i), x);
        } else {
            s.store_n(p.ptr.cast::<f32>().add(i), m, x);
        }
    }
}

#[inline(always)]
unsafe fn store_mask<S: Simd>(s: S, p: Place, i: usize, m: usize, x: S::M) {
    // SAFETY: the result holds at least i + m bytes.
    unsafe {
        if m == S::LANES {
            s.store_mask(p.ptr.add(i), x);
        } else {
            s.store_mask_n(p.ptr.add(i), m, x);
        }
    }
}

#[inline(always)]
unsafe fn load_mask<S: Simd>(s: S, p: Place, i: usize, m: usize) -> S::M {
    // SAFETY: the operand holds one byte if scalar, at least i + m otherwise.
    unsafe {
        if p.scalar {
            let all = s.eq(s.zero(), s.zero());
            let none = s.ne(s.zero(), s.zero());
            if *p.ptr != 0 { all } else { none }
        } else if m == S::LANES {
            s.load_mask(p.ptr.add(i))
        } else {
            s.load_mask_n(p.ptr.add(i), m)
        }
    }
}

/// `dst = f(a)`.
macro_rules! unary {
    ($s:ident, $S:ident, $p:ident, $n:ident, $x:ident => $body:expr) => {{
        let (dst, a) = ($p[0], $p[1]);
        let mut i = 0;
        while i < $n {
            let m = ($n - i).min($S::LANES);
            let $x = load($s, a, i, m);
            store($s, dst, i, m, $body);
            i += $S::LANES;
        }
    }};
}

/// `dst = f(a, b)` for cheap f: full vectors in loops that know which operand is a scalar.
macro_rules! binary {
    ($s:ident, $S:ident, $p:ident, $n:ident, $x:ident, $y:ident => $body:expr) => {{
        let (dst, a, b) = ($p[0], $p[1], $p[2]);
        let (d, pa, pb) = (dst.ptr.cast::<f32>(), a.ptr.cast::<f32>(), b.ptr.cast::<f32>());
        let whole = $n - $n % $S::LANES;
        let mut i = 0;
        if b.scalar {
            let $y = $s.splat(*pb);
            while i < whole {
                let $x = if a.scalar { $s.splat(*pa) } else { $s.load(pa.add(i)) };
                $s.store(d.add(i), $body);
                i += $S::LANES;
            }
        } else if a.scalar {
            let $x = $s.splat(*pa);
            while i < whole {
                let $y = $s.load(pb.add(i));
                $s.store(d.add(i), $body);
                i += $S::LANES;
            }
        } else {
            while i < whole {
                let ($x, $y) = ($s.load(pa.add(i)), $s.load(pb.add(i)));
                $s.store(d.add(i), $body);
                i += $S::LANES;
            }
        }
        if i < $n {
            let m = $n - i;
            let ($x, $y) = (load($s, a, i, m), load($s, b, i, m));
            store($s, dst, i, m, $body);
        }
    }};
}

/// `dst = f(a, b)` for costly f.
macro_rules! binary_heavy {
    ($s:ident, $S:ident, $p:ident, $n:ident, $x:ident, $y:ident => $body:expr) => {{
        let (dst, a, b) = ($p[0], $p[1], $p[2]);
        let mut i = 0;
        while i < $n {
            let m = ($n - i).min($S::LANES);
            let ($x, $y) = (load($s, a, i, m), load($s, b, i, m));
            store($s, dst, i, m, $body);
            i += $S::LANES;
        }
    }};
}

/// `dst = test(a, b)` as bytes.
macro_rules! test {
    ($s:ident, $S:ident, $p:ident, $n:ident, $x:ident, $y:ident => $body:expr) => {{
        let (dst, a, b) = ($p[0], $p[1], $p[2]);
        let mut i = 0;
        while i < $n {
            let m = ($n - i).min($S::LANES);
            let ($x, $y) = (load($s, a, i, m), load($s, b, i, m));
            store_mask($s, dst, i, m, $body);
            i += $S::LANES;
        }
    }};
}

/// `dst = f(a, b, c)`.
macro_rules! ternary {
    ($s:ident, $S:ident, $p:ident, $n:ident, $x:ident, $y:ident, $z:ident => $body:expr) => {{
        let (dst, a, b, c) = ($p[0], $p[1], $p[2], $p[3]);
        let mut i = 0;
        while i < $n {
            let m = ($n - i).min($S::LANES);
            let ($x, $y, $z) = (load($s, a, i, m), load($s, b, i, m), load($s, c, i, m));
            store($s, dst, i, m, $body);
            i += $S::LANES;
        }
    }};
}

/// Runs an `f32` step over `n` elements.
///
/// # Safety
/// `p` holds the result and the step's arguments, each readable (the result writable) for `n` elements, or one where scalar.
/// Arguments may be the result's own memory but must not overlap it otherwise; a `bool` result is none of the arguments.
#[inline(always)]
pub(super) unsafe fn run<S: Simd>(s: S, step: &Step, p: &[Place; 4], n: usize) {
    // SAFETY: the caller's contract is that of the loads and stores.
    unsafe {
        match step.code {
            Code::Copy => unary!(s, S, p, n, x => x),
            Code::Unary(op) => run_unary(s, op, p, n),
            Code::Binary(op) => run_binary(s, op, p, n),
            Code::MultiplyAdd => ternary!(s, S, p, n, x, y, z => s.fma(x, y, z)),
            Code::Clamp => ternary!(s, S, p, n, x, low, high => s.min(high, s.max(low, x))),
            Code::MaxConst => binary!(s, S, p, n, x, y => s.max(y, x)),
            Code::MinConst => binary!(s, S, p, n, x, y => s.min(y, x)),
            Code::PowInt(2) => unary!(s, S, p, n, x => s.mul(x, x)),
            Code::PowInt(k) => unary!(s, S, p, n, x => math::powi(s, x, i32::from(k))),
            Code::RoundTo(DType::F16) => {
                let mut narrow = [0u16; 16];
                unary!(s, S, p, n, x => {
                    s.store_f16(narrow.as_mut_ptr(), x);
                    s.load_f16(narrow.as_ptr())
                });
            }
            Code::RoundTo(_) => {
                let mut narrow = [0u16; 16];
                unary!(s, S, p, n, x => {
                    s.store_bf16(narrow.as_mut_ptr(), x);
                    s.load_bf16(narrow.as_ptr())
                });
            }
            Code::Select => {
                let (dst, c, a, b) = (p[0], p[1], p[2], p[3]);
                let mut i = 0;
                while i < n {
                    let m = (n - i).min(S::LANES);
                    let mask = load_mask(s, c, i, m);
                    let y = s.select(mask, load(s, a, i, m), load(s, b, i, m));
                    store(s, dst, i, m, y);
                    i += S::LANES;
                }
            }
            Code::Cast(_) => unreachable!("casts between kinds run on scalars"),
        }
    }
}

#[inline(always)]
unsafe fn run_unary<S: Simd>(s: S, op: UnaryOp, p: &[Place; 4], n: usize) {
    // SAFETY: as `run`.
    unsafe {
        match op {
            UnaryOp::Neg => unary!(s, S, p, n, x => s.neg(x)),
            UnaryOp::Abs => unary!(s, S, p, n, x => s.abs(x)),
            UnaryOp::Sign => unary!(s, S, p, n, x => {
                let zero_or_nan = s.or_m(s.eq(x, s.zero()), s.is_nan(x));
                s.select(zero_or_nan, s.add(x, s.zero()), s.copysign(s.splat(1.0), x))
            }),
            UnaryOp::Recip => unary!(s, S, p, n, x => s.div(s.splat(1.0), x)),
            UnaryOp::Sqrt => unary!(s, S, p, n, x => s.sqrt(x)),
            UnaryOp::Rsqrt => unary!(s, S, p, n, x => s.div(s.splat(1.0), s.sqrt(x))),
            UnaryOp::Exp => unary!(s, S, p, n, x => math::exp(s, x)),
            UnaryOp::Log => unary!(s, S, p, n, x => math::log(s, x)),
            UnaryOp::Sin => unary!(s, S, p, n, x => math::sin(s, x)),
            UnaryOp::Cos => unary!(s, S, p, n, x => math::cos(s, x)),
            UnaryOp::Tan => unary!(s, S, p, n, x => math::tan(s, x)),
            UnaryOp::Asin => unary!(s, S, p, n, x => math::asin(s, x)),
            UnaryOp::Acos => unary!(s, S, p, n, x => math::acos(s, x)),
            UnaryOp::Atan => unary!(s, S, p, n, x => math::atan(s, x)),
            UnaryOp::Sinh => unary!(s, S, p, n, x => math::sinh(s, x)),
            UnaryOp::Cosh => unary!(s, S, p, n, x => math::cosh(s, x)),
            UnaryOp::Tanh => unary!(s, S, p, n, x => math::tanh(s, x)),
            UnaryOp::Asinh => unary!(s, S, p, n, x => math::asinh(s, x)),
            UnaryOp::Acosh => unary!(s, S, p, n, x => math::acosh(s, x)),
            UnaryOp::Atanh => unary!(s, S, p, n, x => math::atanh(s, x)),
            UnaryOp::Erf => unary!(s, S, p, n, x => math::erf(s, x)),
            UnaryOp::Sigmoid => unary!(s, S, p, n, x => math::sigmoid(s, x)),
            UnaryOp::Softplus => unary!(s, S, p, n, x => math::softplus(s, x)),
            UnaryOp::Relu => unary!(s, S, p, n, x => s.max(s.zero(), x)),
            UnaryOp::Gelu => unary!(s, S, p, n, x => math::gelu_erf(s, x)),
            UnaryOp::GeluTanh => unary!(s, S, p, n, x => math::gelu_tanh(s, x)),
            UnaryOp::Silu => unary!(s, S, p, n, x => s.mul(x, math::sigmoid(s, x))),
            UnaryOp::HardSwish => unary!(s, S, p, n, x => {
                let gate = s.fma(x, s.splat(1.0 / 6.0), s.splat(0.5));
                s.mul(x, s.min(s.splat(1.0), s.max(s.zero(), gate)))
            }),
            UnaryOp::Floor => unary!(s, S, p, n, x => s.floor(x)),
            UnaryOp::Ceil => unary!(s, S, p, n, x => s.ceil(x)),
            UnaryOp::Round => unary!(s, S, p, n, x => s.round(x)),
            UnaryOp::Trunc => unary!(s, S, p, n, x => s.trunc(x)),
            UnaryOp::IsNan | UnaryOp::IsPosInf | UnaryOp::IsNegInf => {
                let q = [p[0], p[1], p[1], p[1]];
                let infinity = s.splat(f32::INFINITY);
                match op {
                    UnaryOp::IsNan => test!(s, S, q, n, x, y => s.ne(x, y)),
                    UnaryOp::IsPosInf => test!(s, S, q, n, x, _y => s.eq(x, infinity)),
                    _ => test!(s, S, q, n, x, _y => s.eq(x, s.neg(infinity))),
                }
            }
            UnaryOp::Not | UnaryOp::BitNot => unreachable!("not a float operation"),
        }
    }
}

#[inline(always)]
unsafe fn run_binary<S: Simd>(s: S, op: BinaryOp, p: &[Place; 4], n: usize) {
    // SAFETY: as `run`.
    unsafe {
        match op {
            BinaryOp::Add => binary!(s, S, p, n, x, y => s.add(x, y)),
            BinaryOp::Sub => binary!(s, S, p, n, x, y => s.sub(x, y)),
            BinaryOp::Mul => binary!(s, S, p, n, x, y => s.mul(x, y)),
            BinaryOp::Div => binary!(s, S, p, n, x, y => s.div(x, y)),
            BinaryOp::Min => binary!(s, S, p, n, x, y => s.min_nan(x, y)),
            BinaryOp::Max => binary!(s, S, p, n, x, y => s.max_nan(x, y)),
            BinaryOp::Pow => binary_heavy!(s, S, p, n, x, y => math::pow(s, x, y)),
            BinaryOp::Mod => binary_heavy!(s, S, p, n, x, y => lanewise2(s, x, y, floor_mod)),
            BinaryOp::Fmod => binary_heavy!(s, S, p, n, x, y => lanewise2(s, x, y, |x, y| x % y)),
            BinaryOp::Eq => test!(s, S, p, n, x, y => s.eq(x, y)),
            BinaryOp::Ne => test!(s, S, p, n, x, y => s.ne(x, y)),
            BinaryOp::Lt => test!(s, S, p, n, x, y => s.lt(x, y)),
            BinaryOp::Le => test!(s, S, p, n, x, y => s.le(x, y)),
            BinaryOp::Gt => test!(s, S, p, n, x, y => s.gt(x, y)),
            BinaryOp::Ge => test!(s, S, p, n, x, y => s.ge(x, y)),
            BinaryOp::And
            | BinaryOp::Or
            | BinaryOp::Xor
            | BinaryOp::BitAnd
            | BinaryOp::BitOr
            | BinaryOp::BitXor
            | BinaryOp::Shl
            | BinaryOp::Shr => unreachable!("not a float operation"),
        }
    }
}

/// Remainder with the divisor's sign.
#[inline]
fn floor_mod(x: f32, y: f32) -> f32 {
    let r = x % y;
    if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
}

#[inline(always)]
fn lanewise2<S: Simd>(s: S, x: S::F, y: S::F, f: impl Fn(f32, f32) -> f32) -> S::F {
    let (mut xs, ys) = (s.to_array(x), s.to_array(y));
    for (x, y) in xs[..S::LANES].iter_mut().zip(ys) {
        *x = f(*x, y);
    }
    // SAFETY: LANES is at most 16.
    unsafe { s.load(xs.as_ptr()) }
}
