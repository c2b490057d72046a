//! Steps on tiles of the other types: exact semantics in loops that the compiler vectorises.

use super::program::{Code, Kind, Step};
use super::tile::Place;
use engraft_network::{BinaryOp, Scalar, UnaryOp};

/// # Safety
/// `p` is valid for `n` elements of `T`.
#[inline(always)]
unsafe fn input<'a, T>(p: Place, n: usize) -> &'a [T] {
    debug_assert!(!p.scalar);
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(p.ptr.cast(), n) }
}

/// # Safety
/// `p` is valid for `n` elements of `T`, which nothing else reads or writes meanwhile.
#[inline(always)]
unsafe fn output<'a, T>(p: Place, n: usize) -> &'a mut [T] {
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts_mut(p.ptr.cast(), n) }
}

#[inline(always)]
unsafe fn map1<A: Copy, R>(p: &[Place; 4], n: usize, f: impl Fn(A) -> R) {
    // SAFETY: the caller's.
    let (d, a) = unsafe { (output::<R>(p[0], n), input::<A>(p[1], n)) };
    for (d, &a) in d.iter_mut().zip(a) {
        *d = f(a);
    }
}

#[inline(always)]
unsafe fn map2<A: Copy, R>(p: &[Place; 4], n: usize, f: impl Fn(A, A) -> R) {
    // SAFETY: the caller's.
    let (d, a, b) = unsafe { (output::<R>(p[0], n), input::<A>(p[1], n), input::<A>(p[2], n)) };
    for ((d, &a), &b) in d.iter_mut().zip(a).zip(b) {
        *d = f(a, b);
    }
}

/// Integer power; a negative exponent leaves what truncation leaves of the fraction.
macro_rules! int_pow {
    ($t:ty, $a:expr, $b:expr) => {{
        let (a, b): ($t, $t) = ($a, $b);
        #[allow(unused_comparisons)]
        if b < 0 {
            if a == 1 {
                1
            } else if a.wrapping_add(1) == 0 {
                if b & 1 == 0 { 1 } else { a }
            } else {
                0
            }
        } else {
            let (mut base, mut rest, mut product): ($t, $t, $t) = (a, b, 1);
            while rest > 0 {
                if rest & 1 == 1 {
                    product = product.wrapping_mul(base);
                }
                base = base.wrapping_mul(base);
                rest >>= 1;
            }
            product
        }
    }};
}

macro_rules! integer {
    ($name:ident, $t:ty, |$x:ident| $abs:expr, $sign:expr) => {
        #[inline(never)]
        unsafe fn $name(code: Code, p: &[Place; 4], n: usize) {
            type T = $t;
            const BITS: T = <$t>::BITS as T;
            // SAFETY: the caller's contract, at this type.
            unsafe {
                match code {
                    Code::Copy => map1(p, n, |x: T| x),
                    Code::Unary(UnaryOp::Neg) => map1(p, n, |x: T| x.wrapping_neg()),
                    Code::Unary(UnaryOp::Abs) => map1(p, n, |$x: T| $abs),
                    Code::Unary(UnaryOp::Sign) => map1(p, n, |$x: T| $sign),
                    Code::Unary(UnaryOp::Relu) => map1(p, n, |x: T| x.max(0)),
                    Code::Unary(UnaryOp::BitNot) => map1(p, n, |x: T| !x),
                    Code::Binary(op) => match op {
                        BinaryOp::Add => map2(p, n, |x: T, y: T| x.wrapping_add(y)),
                        BinaryOp::Sub => map2(p, n, |x: T, y: T| x.wrapping_sub(y)),
                        BinaryOp::Mul => map2(p, n, |x: T, y: T| x.wrapping_mul(y)),
                        BinaryOp::Div => map2(p, n, |x: T, y: T| if y == 0 { 0 } else { x.wrapping_div(y) }),
                        BinaryOp::Pow => map2(p, n, |x: T, y: T| int_pow!($t, x, y)),
                        BinaryOp::Min => map2(p, n, |x: T, y: T| x.min(y)),
                        BinaryOp::Max => map2(p, n, |x: T, y: T| x.max(y)),
                        BinaryOp::Fmod => map2(p, n, |x: T, y: T| if y == 0 { 0 } else { x.wrapping_rem(y) }),
                        BinaryOp::Mod => map2(p, n, |x: T, y: T| {
                            if y == 0 {
                                return 0;
                            }
                            let r = x.wrapping_rem(y);
                            #[allow(unused_comparisons)]
                            let opposite = (r < 0) != (y < 0);
                            if r != 0 && opposite { r.wrapping_add(y) } else { r }
                        }),
                        BinaryOp::BitAnd => map2(p, n, |x: T, y: T| x & y),
                        BinaryOp::BitOr => map2(p, n, |x: T, y: T| x | y),
                        BinaryOp::BitXor => map2(p, n, |x: T, y: T| x ^ y),
                        BinaryOp::Shl => map2(p, n, |x: T, y: T| {
                            #[allow(unused_comparisons)]
                            let inside = (0..BITS).contains(&y);
                            if inside { x.wrapping_shl(y as u32) } else { 0 }
                        }),
                        BinaryOp::Shr => map2(p, n, |x: T, y: T| {
                            #[allow(unused_comparisons)]
                            let (inside, negative) = ((0..BITS).contains(&y), x < 0);
                            match inside {
                                true => x.wrapping_shr(y as u32),
                                false if negative => !0,
                                false => 0,
                            }
                        }),
                        BinaryOp::Eq => map2(p, n, |x: T, y: T| u8::from(x == y)),
                        BinaryOp::Ne => map2(p, n, |x: T, y: T| u8::from(x != y)),
                        BinaryOp::Lt => map2(p, n, |x: T, y: T| u8::from(x < y)),
                        BinaryOp::Le => map2(p, n, |x: T, y: T| u8::from(x <= y)),
                        BinaryOp::Gt => map2(p, n, |x: T, y: T| u8::from(x > y)),
                        BinaryOp::Ge => map2(p, n, |x: T, y: T| u8::from(x >= y)),
                        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => {
                            unreachable!("logical operations are on bool")
                        }
                    },
                    Code::Select => select::<T>(p, n),
                    _ => unreachable!("{code:?} on integers"),
                }
            }
        }
    };
}

integer!(run_i8, i8, |x| x.wrapping_abs(), x.signum());
integer!(run_i16, i16, |x| x.wrapping_abs(), x.signum());
integer!(run_i32, i32, |x| x.wrapping_abs(), x.signum());
integer!(run_i64, i64, |x| x.wrapping_abs(), x.signum());
integer!(run_u8, u8, |x| x, x.min(1));
integer!(run_u16, u16, |x| x, x.min(1));
integer!(run_u32, u32, |x| x, x.min(1));
integer!(run_u64, u64, |x| x, x.min(1));

#[inline(always)]
unsafe fn select<T: Copy>(p: &[Place; 4], n: usize) {
    // SAFETY: the caller's.
    let (d, c, a, b) =
        unsafe { (output::<T>(p[0], n), input::<u8>(p[1], n), input::<T>(p[2], n), input::<T>(p[3], n)) };
    for i in 0..n {
        d[i] = if c[i] != 0 { a[i] } else { b[i] };
    }
}

unsafe fn run_bool(code: Code, p: &[Place; 4], n: usize) {
    // SAFETY: the caller's; booleans are bytes 0 and 1.
    unsafe {
        match code {
            Code::Copy => map1(p, n, |x: u8| x),
            Code::Unary(UnaryOp::Not) => map1(p, n, |x: u8| x ^ 1),
            Code::Binary(BinaryOp::And) => map2(p, n, |x: u8, y: u8| x & y),
            Code::Binary(BinaryOp::Or) => map2(p, n, |x: u8, y: u8| x | y),
            Code::Binary(BinaryOp::Xor | BinaryOp::Ne) => map2(p, n, |x: u8, y: u8| x ^ y),
            Code::Binary(BinaryOp::Eq) => map2(p, n, |x: u8, y: u8| x ^ y ^ 1),
            Code::Select => select::<u8>(p, n),
            _ => unreachable!("{code:?} on bool"),
        }
    }
}

/// The error function by its Taylor series below 3 and its continued fraction above, to about 1e-15.
fn erf(x: f64) -> f64 {
    let m = x.abs();
    if x.is_nan() {
        return x;
    }
    if m >= 6.0 {
        return x.signum();
    }
    let y = if m < 3.0 {
        let (mut term, mut sum, mut n) = (m, m, 0.0);
        while term.abs() > 1e-18 * sum {
            n += 1.0;
            term *= -m * m / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    } else {
        let fraction = (1..60).rev().fold(0.0, |f, k| f64::from(k) * 0.5 / (m + f));
        1.0 - (-m * m).exp() / (m + fraction) * (0.5 * std::f64::consts::FRAC_2_SQRT_PI)
    };
    y.copysign(x)
}

/// The scalar meaning of an elementwise function on `f64`.
pub(super) fn unary_f64(op: UnaryOp, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Sign => {
            if x == 0.0 || x.is_nan() {
                x + 0.0
            } else {
                x.signum()
            }
        }
        UnaryOp::Recip => 1.0 / x,
        UnaryOp::Sqrt => x.sqrt(),
        UnaryOp::Rsqrt => 1.0 / x.sqrt(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Log => x.ln(),
        UnaryOp::Sin => x.sin(),
        UnaryOp::Cos => x.cos(),
        UnaryOp::Tan => x.tan(),
        UnaryOp::Asin => x.asin(),
        UnaryOp::Acos => x.acos(),
        UnaryOp::Atan => x.atan(),
        UnaryOp::Sinh => x.sinh(),
        UnaryOp::Cosh => x.cosh(),
        UnaryOp::Tanh => x.tanh(),
        UnaryOp::Asinh => x.asinh(),
        UnaryOp::Acosh => x.acosh(),
        UnaryOp::Atanh => x.atanh(),
        UnaryOp::Erf => erf(x),
        UnaryOp::Sigmoid => sigmoid(x),
        UnaryOp::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        UnaryOp::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        UnaryOp::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
        UnaryOp::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        UnaryOp::Silu => x * sigmoid(x),
        UnaryOp::HardSwish => {
            let gate = x / 6.0 + 0.5;
            x * if gate.is_nan() { gate } else { gate.clamp(0.0, 1.0) }
        }
        UnaryOp::Floor => x.floor(),
        UnaryOp::Ceil => x.ceil(),
        UnaryOp::Round => x.round_ties_even(),
        UnaryOp::Trunc => x.trunc(),
        UnaryOp::Not | UnaryOp::BitNot | UnaryOp::IsNan | UnaryOp::IsPosInf | UnaryOp::IsNegInf => {
            unreachable!("no float result")
        }
    }
}

unsafe fn run_f64(code: Code, p: &[Place; 4], n: usize) {
    // SAFETY: the caller's contract at f64.
    unsafe {
        match code {
            Code::Copy => map1(p, n, |x: f64| x),
            Code::Unary(UnaryOp::IsNan) => map1(p, n, |x: f64| u8::from(x.is_nan())),
            Code::Unary(UnaryOp::IsPosInf) => map1(p, n, |x: f64| u8::from(x == f64::INFINITY)),
            Code::Unary(UnaryOp::IsNegInf) => map1(p, n, |x: f64| u8::from(x == f64::NEG_INFINITY)),
            Code::Unary(op) => map1(p, n, |x: f64| unary_f64(op, x)),
            Code::Binary(op) => match op {
                BinaryOp::Add => map2(p, n, |x: f64, y: f64| x + y),
                BinaryOp::Sub => map2(p, n, |x: f64, y: f64| x - y),
                BinaryOp::Mul => map2(p, n, |x: f64, y: f64| x * y),
                BinaryOp::Div => map2(p, n, |x: f64, y: f64| x / y),
                BinaryOp::Pow => map2(p, n, f64::powf),
                BinaryOp::Min => map2(p, n, |x: f64, y: f64| if x.is_nan() || x < y { x } else { y }),
                BinaryOp::Max => map2(p, n, |x: f64, y: f64| if x.is_nan() || x > y { x } else { y }),
                BinaryOp::Fmod => map2(p, n, |x: f64, y: f64| x % y),
                BinaryOp::Mod => map2(p, n, |x: f64, y: f64| {
                    let r = x % y;
                    if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
                }),
                BinaryOp::Eq => map2(p, n, |x: f64, y: f64| u8::from(x == y)),
                BinaryOp::Ne => map2(p, n, |x: f64, y: f64| u8::from(x != y)),
                BinaryOp::Lt => map2(p, n, |x: f64, y: f64| u8::from(x < y)),
                BinaryOp::Le => map2(p, n, |x: f64, y: f64| u8::from(x <= y)),
                BinaryOp::Gt => map2(p, n, |x: f64, y: f64| u8::from(x > y)),
                BinaryOp::Ge => map2(p, n, |x: f64, y: f64| u8::from(x >= y)),
                _ => unreachable!("{op:?} on floats"),
            },
            Code::Select => select::<f64>(p, n),
            _ => unreachable!("{code:?} on f64"),
        }
    }
}

/// Calls a macro with the type of a kind (`bool` is stored as `u8`).
macro_rules! with_kind {
    ($kind:expr, $call:ident) => {
        match $kind {
            Kind::F32 => $call!(f32),
            Kind::F64 => $call!(f64),
            Kind::I8 => $call!(i8),
            Kind::U8 => $call!(u8),
            Kind::I16 => $call!(i16),
            Kind::U16 => $call!(u16),
            Kind::I32 => $call!(i32),
            Kind::U32 => $call!(u32),
            Kind::I64 => $call!(i64),
            Kind::U64 => $call!(u64),
            Kind::Bool => unreachable!("bool has its own arm"),
        }
    };
}

/// Rust's `as` is the definition: floats truncate and saturate, integers wrap.
#[inline(never)]
unsafe fn cast_from<A: Copy + Into<Wide>>(to: Kind, p: &[Place; 4], n: usize) {
    // SAFETY: the caller's contract at these types.
    unsafe {
        if to == Kind::Bool {
            return map1(p, n, |x: A| {
                u8::from(match x.into() {
                    Wide::Float(x) => x != 0.0,
                    Wide::Int(x) => x != 0,
                })
            });
        }
        macro_rules! convert {
            ($t:ty) => {
                map1(p, n, |x: A| match x.into() {
                    Wide::Float(x) => x as $t,
                    Wide::Int(x) => x as $t,
                })
            };
        }
        with_kind!(to, convert);
    }
}

/// A value that holds every element type exactly: `i128` for integers, so that `u64` fits.
enum Wide {
    Float(f64),
    Int(i128),
}

macro_rules! widen {
    ($($t:ty => $v:ident as $wide:ty),*) => {$(
        impl From<$t> for Wide {
            #[inline(always)]
            fn from(x: $t) -> Wide {
                Wide::$v(x as $wide)
            }
        }
    )*};
}
widen!(f32 => Float as f64, f64 => Float as f64, i8 => Int as i128, u8 => Int as i128, i16 => Int as i128,
    u16 => Int as i128, i32 => Int as i128, u32 => Int as i128, i64 => Int as i128, u64 => Int as i128);

unsafe fn run_cast(from: Kind, to: Kind, p: &[Place; 4], n: usize) {
    // SAFETY: the caller's contract at these types.
    unsafe {
        // The common conversions have direct loops.
        match (from, to) {
            (Kind::I64, Kind::F32) => return map1(p, n, |x: i64| x as f32),
            (Kind::I64, Kind::I32) => return map1(p, n, |x: i64| x as i32),
            (Kind::I32, Kind::I64) => return map1(p, n, |x: i32| i64::from(x)),
            (Kind::I32, Kind::F32) => return map1(p, n, |x: i32| x as f32),
            (Kind::F32, Kind::I32) => return map1(p, n, |x: f32| x as i32),
            (Kind::F32, Kind::I64) => return map1(p, n, |x: f32| x as i64),
            (Kind::F32, Kind::F64) => return map1(p, n, |x: f32| f64::from(x)),
            (Kind::F64, Kind::F32) => return map1(p, n, |x: f64| x as f32),
            (Kind::U8 | Kind::Bool, Kind::F32) => return map1(p, n, |x: u8| f32::from(x)),
            (Kind::I8, Kind::F32) => return map1(p, n, |x: i8| f32::from(x)),
            (Kind::F32, Kind::U8) => return map1(p, n, |x: f32| x as u8),
            (Kind::F32, Kind::I8) => return map1(p, n, |x: f32| x as i8),
            (Kind::F32, Kind::Bool) => return map1(p, n, |x: f32| u8::from(x != 0.0)),
            (Kind::I64, Kind::Bool) => return map1(p, n, |x: i64| u8::from(x != 0)),
            (Kind::I32, Kind::Bool) => return map1(p, n, |x: i32| u8::from(x != 0)),
            (Kind::Bool, Kind::I64) => return map1(p, n, |x: u8| i64::from(x)),
            (Kind::Bool, Kind::I32) => return map1(p, n, |x: u8| i32::from(x)),
            _ => {}
        }
        if from == Kind::Bool {
            return cast_from::<u8>(to, p, n);
        }
        macro_rules! convert {
            ($t:ty) => {
                cast_from::<$t>(to, p, n)
            };
        }
        with_kind!(from, convert);
    }
}

/// Runs a step of another type than `f32` over `n` elements.
///
/// # Safety
/// `p` holds the result and the arguments, each valid for `n` elements of its type and aligned for it; none is scalar, and the
/// result overlaps no argument.
pub(super) unsafe fn run(step: &Step, p: &[Place; 4], n: usize) {
    // SAFETY: the caller's.
    unsafe {
        if let Code::Cast(from) = step.code {
            return run_cast(from, step.kind, p, n);
        }
        match step.kind {
            Kind::F32 => unreachable!("f32 steps are vectors"),
            Kind::F64 => run_f64(step.code, p, n),
            Kind::I8 => run_i8(step.code, p, n),
            Kind::U8 => run_u8(step.code, p, n),
            Kind::I16 => run_i16(step.code, p, n),
            Kind::U16 => run_u16(step.code, p, n),
            Kind::I32 => run_i32(step.code, p, n),
            Kind::U32 => run_u32(step.code, p, n),
            Kind::I64 => run_i64(step.code, p, n),
            Kind::U64 => run_u64(step.code, p, n),
            Kind::Bool => run_bool(step.code, p, n),
        }
    }
}

/// Fills `n` elements with a constant.
///
/// # Safety
/// `p` is writable for `n` elements of the kind and aligned for it.
pub(super) unsafe fn fill(kind: Kind, value: Scalar, p: *mut u8, n: usize) {
    let place = Place { ptr: p, scalar: false };
    // SAFETY: the caller's.
    unsafe {
        if kind == Kind::Bool {
            return output::<u8>(place, n).fill(u8::from(value.to_i64() != 0));
        }
        macro_rules! fill {
            (f32) => {
                output::<f32>(place, n).fill(value.to_f64() as f32)
            };
            (f64) => {
                output::<f64>(place, n).fill(value.to_f64())
            };
            ($t:ty) => {
                output::<$t>(place, n).fill(value.to_i64() as $t)
            };
        }
        with_kind!(kind, fill);
    }
}
