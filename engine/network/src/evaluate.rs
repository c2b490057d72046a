//! Reference evaluation of scalar functions and expressions.

use crate::convert::{Values, float_to_int, int_to_float, round_to, wrap};
use crate::{BinaryOp, DType, Expr, ExprId, ExprNode, UnaryOp};

/// `op(x)` for a float; tests give 0 or 1.
pub(crate) fn unary_float(op: UnaryOp, x: f64) -> f64 {
    use UnaryOp::*;
    let bool = |b: bool| f64::from(u8::from(b));
    match op {
        Neg => -x,
        Abs => x.abs(),
        Sign => match x {
            x if x > 0.0 => 1.0,
            x if x < 0.0 => -1.0,
            x if x.is_nan() => x,
            _ => 0.0,
        },
        Recip => 1.0 / x,
        Sqrt => x.sqrt(),
        Rsqrt => 1.0 / x.sqrt(),
        Exp => x.exp(),
        Log => x.ln(),
        Sin => x.sin(),
        Cos => x.cos(),
        Tan => x.tan(),
        Asin => x.asin(),
        Acos => x.acos(),
        Atan => x.atan(),
        Sinh => x.sinh(),
        Cosh => x.cosh(),
        Tanh => x.tanh(),
        Asinh => libm::asinh(x),
        Acosh => libm::acosh(x),
        Atanh => libm::atanh(x),
        Erf => libm::erf(x),
        Sigmoid => sigmoid(x),
        Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p() + if x.is_nan() { x } else { 0.0 },
        Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Gelu => 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x * sigmoid(2.0 * u)
        }
        Silu => x * sigmoid(x),
        HardSwish => x * clamp(x / 6.0 + 0.5),
        Floor => x.floor(),
        Ceil => x.ceil(),
        Round => x.round_ties_even(),
        Trunc => x.trunc(),
        IsNan => bool(x.is_nan()),
        IsPosInf => bool(x == f64::INFINITY),
        IsNegInf => bool(x == f64::NEG_INFINITY),
        // Not defined for floats; types are checked before.
        Not | BitNot => x,
    }
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// To `0..=1`; NaN stays.
fn clamp(x: f64) -> f64 {
    x.clamp(0.0, 1.0)
}

/// `op(x)` for an integer or `bool` of type `t`.
pub(crate) fn unary_int(op: UnaryOp, t: DType, x: i64) -> i64 {
    use UnaryOp::*;
    let unsigned = !t.is_signed_int();
    let v = match op {
        Neg => x.wrapping_neg(),
        Abs if !unsigned => x.wrapping_abs(),
        Sign if unsigned => i64::from(x != 0),
        Sign => x.signum(),
        Relu if !unsigned => x.max(0),
        Not => i64::from(x == 0),
        BitNot => !x,
        _ => x,
    };
    wrap(t, v)
}

/// `op(a, b)` for floats; comparisons give 0 or 1.
pub(crate) fn binary_float(op: BinaryOp, a: f64, b: f64) -> f64 {
    use BinaryOp::*;
    let bool = |b: bool| f64::from(u8::from(b));
    match op {
        Add => a + b,
        Sub => a - b,
        Mul => a * b,
        Div => a / b,
        Pow => a.powf(b),
        Min if a.is_nan() || b.is_nan() => f64::NAN,
        Max if a.is_nan() || b.is_nan() => f64::NAN,
        Min => a.min(b),
        Max => a.max(b),
        Mod => {
            let r = a % b;
            if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
        }
        Fmod => a % b,
        Eq => bool(a == b),
        Ne => bool(a != b),
        Lt => bool(a < b),
        Le => bool(a <= b),
        Gt => bool(a > b),
        Ge => bool(a >= b),
        // Not defined for floats; types are checked before.
        And | Or | Xor | BitAnd | BitOr | BitXor | Shl | Shr => f64::NAN,
    }
}

fn power(t: DType, a: i64, b: i64) -> i64 {
    if t.is_signed_int() && b < 0 {
        return match a {
            1 => 1,
            -1 if b % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        };
    }
    let (mut base, mut e, mut r) = (a, b as u64, 1i64);
    while e > 0 {
        if e & 1 == 1 {
            r = r.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        e >>= 1;
    }
    r
}

/// `op(a, b)` for integers or `bool` of type `t`.
pub(crate) fn binary_int(op: BinaryOp, t: DType, a: i64, b: i64) -> i64 {
    use BinaryOp::*;
    let bits = t.bits() as i64;
    let wide_unsigned = t == DType::U64;
    let (ua, ub) = (a as u64, b as u64);
    let less = if wide_unsigned { ua < ub } else { a < b };
    let v = match op {
        Add => a.wrapping_add(b),
        Sub => a.wrapping_sub(b),
        Mul => a.wrapping_mul(b),
        Div | Mod | Fmod if b == 0 => 0,
        Div if wide_unsigned => (ua / ub) as i64,
        Mod | Fmod if wide_unsigned => (ua % ub) as i64,
        Div => a.wrapping_div(b),
        Mod => {
            let r = a.wrapping_rem(b);
            if r != 0 && (r < 0) != (b < 0) { r + b } else { r }
        }
        Fmod => a.wrapping_rem(b),
        Pow => power(t, a, b),
        Min => {
            if less {
                a
            } else {
                b
            }
        }
        Max => {
            if less {
                b
            } else {
                a
            }
        }
        And | BitAnd => a & b,
        Or | BitOr => a | b,
        Xor | BitXor => a ^ b,
        // Everything is shifted out: zeros, or copies of the sign.
        Shl if !(0..bits).contains(&b) => 0,
        Shl => a << b,
        Shr if !(0..bits).contains(&b) => -i64::from(t.is_signed_int() && a < 0),
        Shr if wide_unsigned => (ua >> ub) as i64,
        Shr => a >> b,
        Eq => return i64::from(a == b),
        Ne => return i64::from(a != b),
        Lt => return i64::from(less),
        Ge => return i64::from(!less),
        Le => return i64::from(less || a == b),
        Gt => return i64::from(!less && a != b),
    };
    wrap(t, v)
}

pub(crate) fn unary(op: UnaryOp, t: DType, x: &Values) -> Values {
    let to_bool = op.result(t) == Some(DType::Bool);
    match x {
        Values::Float(v) if to_bool => Values::Int(v.iter().map(|x| unary_float(op, *x) as i64).collect()),
        Values::Float(v) => Values::Float(v.iter().map(|x| unary_float(op, *x)).collect()),
        Values::Int(v) => Values::Int(v.iter().map(|x| unary_int(op, t, *x)).collect()),
    }
}

pub(crate) fn binary(op: BinaryOp, t: DType, a: &Values, b: &Values) -> Values {
    match (a, b) {
        (Values::Float(a), Values::Float(b)) => {
            let r = a.iter().zip(b).map(|(a, b)| binary_float(op, *a, *b));
            if op.is_comparison() {
                Values::Int(r.map(|v| v as i64).collect())
            } else {
                Values::Float(r.collect())
            }
        }
        (Values::Int(a), Values::Int(b)) => {
            Values::Int(a.iter().zip(b).map(|(a, b)| binary_int(op, t, *a, *b)).collect())
        }
        // Types are checked before.
        _ => a.clone(),
    }
}

pub(crate) fn select(c: &Values, a: &Values, b: &Values) -> Values {
    let Values::Int(c) = c else { return a.clone() };
    match (a, b) {
        (Values::Float(a), Values::Float(b)) => Values::Float(
            c.iter().zip(a.iter().zip(b)).map(|(c, (a, b))| if *c != 0 { *a } else { *b }).collect(),
        ),
        (Values::Int(a), Values::Int(b)) => Values::Int(
            c.iter().zip(a.iter().zip(b)).map(|(c, (a, b))| if *c != 0 { *a } else { *b }).collect(),
        ),
        _ => a.clone(),
    }
}

/// Conversion as [`crate::ops::Cast`] defines it.
pub(crate) fn cast(from: DType, to: DType, x: &Values) -> Values {
    match x {
        Values::Float(v) if to.is_float() => Values::Float(v.iter().map(|x| round_to(to, *x)).collect()),
        Values::Float(v) => Values::Int(v.iter().map(|x| float_to_int(to, *x)).collect()),
        Values::Int(v) if to.is_float() => {
            Values::Float(v.iter().map(|x| int_to_float(from, *x, to)).collect())
        }
        Values::Int(v) => Values::Int(v.iter().map(|x| wrap(to, *x)).collect()),
    }
}

impl Expr {
    /// Values of the expression for operands of equal length and the given types, for which the expression must be
    /// well typed. Floats stay in `f64` between nodes; only casts round.
    pub(crate) fn evaluate(&self, types: &[DType], inputs: &[&Values]) -> Option<Values> {
        let node_types = self.types(types).ok()?;
        let n = inputs.first().map_or(1, |v| v.len());
        let mut done: Vec<Values> = Vec::with_capacity(self.nodes().len());
        for node in self.nodes() {
            let at = |i: ExprId| &done[usize::from(i)];
            let ty = |i: ExprId| node_types[usize::from(i)];
            let v = match *node {
                ExprNode::Input(i) => (*inputs.get(usize::from(i))?).clone(),
                ExprNode::Const(c) if c.dtype().is_float() => Values::Float(vec![c.to_f64(); n]),
                ExprNode::Const(c) => Values::Int(vec![wrap(c.dtype(), c.to_i64()); n]),
                ExprNode::Unary(op, a) => unary(op, ty(a), at(a)),
                ExprNode::Binary(op, a, b) => binary(op, ty(a), at(a), at(b)),
                ExprNode::Select(c, a, b) => select(at(c), at(a), at(b)),
                ExprNode::Cast(to, a) => cast(ty(a), to, at(a)),
            };
            done.push(v);
        }
        done.pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_follow_the_docs() {
        use BinaryOp::*;
        let i = |op, a, b| binary_int(op, DType::I8, a, b);
        assert_eq!((i(Add, 127, 1), i(Mul, 100, 3), i(Sub, -128, 1)), (-128, 44, 127));
        assert_eq!((i(Div, -7, 2), i(Div, 7, 0), i(Div, -128, -1)), (-3, 0, -128));
        assert_eq!((i(Mod, -7, 3), i(Mod, 7, -3), i(Fmod, -7, 3), i(Mod, 5, 0)), (2, -2, -1, 0));
        assert_eq!((i(Pow, 2, 6), i(Pow, 2, 7), i(Pow, 2, -1), i(Pow, -1, -3)), (64, -128, 0, -1));
        assert_eq!((i(Shl, 1, 7), i(Shl, 1, 8), i(Shr, -1, 9), i(Shr, -128, 3)), (-128, 0, -1, -16));
        let u = |op, a, b| binary_int(op, DType::U64, a, b);
        assert_eq!((u(Div, -1, 2), u(Lt, -1, 1), u(Max, -1, 1), u(Shr, -1, 63)), (i64::MAX, 0, -1, 1));
        assert_eq!(binary_int(Sub, DType::U8, 1, 2), 255);
        assert_eq!(unary_int(UnaryOp::BitNot, DType::U8, 1), 254);
        assert_eq!(unary_int(UnaryOp::Abs, DType::I8, -128), -128);
        assert_eq!(unary_int(UnaryOp::Sign, DType::U64, -1), 1);
        assert_eq!(unary_int(UnaryOp::Not, DType::Bool, 1), 0);
    }

    /// Against values computed with 60 decimal digits.
    #[test]
    fn special_functions() {
        let near = |op, x: f64, want: f64| {
            let got = unary_float(op, x);
            assert!(
                (got - want).abs() <= 16.0 * f64::EPSILON * want.abs(),
                "{op:?}({x}) = {got}, not {want}"
            );
        };
        near(UnaryOp::Erf, 0.5, 0.520_499_877_813_046_5);
        near(UnaryOp::Gelu, 1.0, 0.841_344_746_068_542_9);
        near(UnaryOp::Gelu, -3.0, -0.004_049_694_094_890_283_6);
        near(UnaryOp::GeluTanh, 1.0, 0.841_191_990_608_276_7);
        near(UnaryOp::Softplus, -40.0, 4.248_354_255_291_589e-18);
        near(UnaryOp::Softplus, 1.0, 1.313_261_687_518_222_8);
        near(UnaryOp::Silu, 2.0, 1.761_594_155_955_764_9);
        near(UnaryOp::HardSwish, 1.0, 2.0 / 3.0);
        near(UnaryOp::Asinh, 1e-9, 1e-9);
        for op in [UnaryOp::Relu, UnaryOp::Sign, UnaryOp::HardSwish, UnaryOp::Softplus, UnaryOp::Round] {
            assert!(unary_float(op, f64::NAN).is_nan(), "{op:?}");
        }
        assert_eq!(unary_float(UnaryOp::Round, 2.5), 2.0);
        assert_eq!(binary_float(BinaryOp::Mod, -7.5, 2.0), 0.5);
        assert_eq!(binary_float(BinaryOp::Fmod, -7.5, 2.0), -1.5);
        assert!(binary_float(BinaryOp::Max, f64::NAN, 1.0).is_nan());
        assert!(binary_float(BinaryOp::Min, 1.0, f64::NAN).is_nan());
    }

    #[test]
    fn expressions() {
        // (x > 0 ? x : x * 0.5) as i32, with operand 1 ignored.
        let mut e = Expr::new();
        let x = e.push(ExprNode::Input(0));
        let zero = e.push(ExprNode::Const(crate::Scalar::f32(0.0)));
        let half = e.push(ExprNode::Const(crate::Scalar::f32(0.5)));
        let c = e.push(ExprNode::Binary(BinaryOp::Gt, x, zero));
        let m = e.push(ExprNode::Binary(BinaryOp::Mul, x, half));
        let s = e.push(ExprNode::Select(c, x, m));
        e.push(ExprNode::Cast(DType::I32, s));
        let v = Values::Float(vec![3.7, -5.0, -1.0]);
        assert_eq!(e.evaluate(&[DType::F32], &[&v]), Some(Values::Int(vec![3, -2, 0])));
    }
}
