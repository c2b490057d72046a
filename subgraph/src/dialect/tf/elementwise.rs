//! Elementwise math, activations, comparison, logic and casts.

use engraft_network::{BinaryOp, ExprId, UnaryOp, ValueId, ops};

use super::super::Row;
use super::super::onnx::elementwise::{
    activation, binary, cast_to, clip, elu, fold, leaky_relu, offset, select, selu, softsign, unary,
};
use super::row;
use crate::lower::{ExprBuilder, NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("Identity", |n| n.forward(0, 0)),
    row("StopGradient", |n| n.forward(0, 0)),
    row("PreventGradient", |n| n.forward(0, 0)),
    row("Snapshot", |n| n.forward(0, 0)),
    row("PlaceholderWithDefault", |n| n.forward(0, 0)),
    row("CheckNumerics", |_| Err(Reject::new("it stops the run where a value is not finite"))),
    row("IdentityN", |n| (0..n.input_count()).try_for_each(|index| n.forward(index, index))),
    row("Abs", |n| unary(n, UnaryOp::Abs)),
    row("Neg", |n| unary(n, UnaryOp::Neg)),
    row("Sign", |n| unary(n, UnaryOp::Sign)),
    row("Reciprocal", |n| unary(n, UnaryOp::Recip)),
    row("Inv", |n| unary(n, UnaryOp::Recip)),
    row("Sqrt", |n| unary(n, UnaryOp::Sqrt)),
    row("Rsqrt", |n| unary(n, UnaryOp::Rsqrt)),
    row("Exp", |n| unary(n, UnaryOp::Exp)),
    row("Expm1", |n| activation(n, expm1)),
    row("Log", |n| unary(n, UnaryOp::Log)),
    row("Log1p", |n| activation(n, log1p)),
    row("Sin", |n| unary(n, UnaryOp::Sin)),
    row("Cos", |n| unary(n, UnaryOp::Cos)),
    row("Tan", |n| unary(n, UnaryOp::Tan)),
    row("Asin", |n| unary(n, UnaryOp::Asin)),
    row("Acos", |n| unary(n, UnaryOp::Acos)),
    row("Atan", |n| unary(n, UnaryOp::Atan)),
    row("Sinh", |n| unary(n, UnaryOp::Sinh)),
    row("Cosh", |n| unary(n, UnaryOp::Cosh)),
    row("Tanh", |n| unary(n, UnaryOp::Tanh)),
    row("Asinh", |n| unary(n, UnaryOp::Asinh)),
    row("Acosh", |n| unary(n, UnaryOp::Acosh)),
    row("Atanh", |n| unary(n, UnaryOp::Atanh)),
    row("Erf", |n| unary(n, UnaryOp::Erf)),
    row("Erfc", |n| {
        activation(n, |e, x| {
            let (erf, one) = (e.unary(UnaryOp::Erf, x), e.number(1.0));
            e.binary(BinaryOp::Sub, one, erf)
        })
    }),
    row("Sigmoid", |n| unary(n, UnaryOp::Sigmoid)),
    row("Softplus", |n| unary(n, UnaryOp::Softplus)),
    row("Softsign", |n| activation(n, softsign)),
    row("Relu", |n| unary(n, UnaryOp::Relu)),
    row("Relu6", |n| clip(n, Some(0.0), Some(6.0))),
    row("Elu", |n| activation(n, |e, x| elu(e, 1.0, x))),
    row("Selu", |n| activation(n, |e, x| selu(e, 1.673_263_2, 1.050_701, x))),
    row("LeakyRelu", |n| {
        let alpha = n.float_or("alpha", 0.2)?;
        activation(n, |e, x| leaky_relu(e, alpha, x))
    }),
    row("Floor", |n| unary(n, UnaryOp::Floor)),
    row("Ceil", |n| unary(n, UnaryOp::Ceil)),
    row("Rint", |n| unary(n, UnaryOp::Round)),
    // Of integers TensorFlow makes something else than these integers: those stay with it.
    row("Round", |n| unary(n, UnaryOp::Round)),
    row("LogicalNot", |n| unary(n, UnaryOp::Not)),
    row("Invert", |n| unary(n, UnaryOp::BitNot)),
    row("IsNan", |n| unary(n, UnaryOp::IsNan)),
    row("IsInf", |n| {
        let x = n.input(0)?;
        let magnitude = n.unary(UnaryOp::Abs, x)?;
        let y = n.unary(UnaryOp::IsPosInf, magnitude)?;
        n.set(0, y);
        Ok(())
    }),
    row("IsFinite", |n| {
        // Infinities and NaN less themselves are NaN.
        let x = n.input(0)?;
        let zero = n.binary(BinaryOp::Sub, x, x)?;
        let y = n.binary(BinaryOp::Eq, zero, zero)?;
        n.set(0, y);
        Ok(())
    }),
    row("Square", square),
    row("Add", |n| binary(n, BinaryOp::Add)),
    row("AddV2", |n| binary(n, BinaryOp::Add)),
    row("Sub", |n| binary(n, BinaryOp::Sub)),
    row("Mul", |n| binary(n, BinaryOp::Mul)),
    row("Div", |n| binary(n, BinaryOp::Div)),
    row("RealDiv", |n| binary(n, BinaryOp::Div)),
    row("TruncateDiv", |n| binary(n, BinaryOp::Div)),
    row("FloorDiv", floor_div),
    row("FloorMod", |n| binary(n, BinaryOp::Mod)),
    row("Mod", |n| binary(n, BinaryOp::Fmod)),
    row("TruncateMod", |n| binary(n, BinaryOp::Fmod)),
    row("DivNoNan", |n| guarded(n, 1, |e, x, y| e.binary(BinaryOp::Div, x, y))),
    row("MulNoNan", |n| guarded(n, 1, |e, x, y| e.binary(BinaryOp::Mul, x, y))),
    row("Xdivy", |n| guarded(n, 0, |e, x, y| e.binary(BinaryOp::Div, x, y))),
    row("Xlogy", |n| {
        guarded(n, 0, |e, x, y| {
            let log = e.unary(UnaryOp::Log, y);
            e.binary(BinaryOp::Mul, x, log)
        })
    }),
    row("Xlog1py", |n| {
        guarded(n, 0, |e, x, y| {
            let log = log1p(e, y);
            e.binary(BinaryOp::Mul, x, log)
        })
    }),
    row("Pow", |n| binary(n, BinaryOp::Pow)),
    row("Maximum", |n| binary(n, BinaryOp::Max)),
    row("Minimum", |n| binary(n, BinaryOp::Min)),
    row("SquaredDifference", |n| {
        let (a, b) = (n.input(0)?, n.input(1)?);
        let difference = n.binary(BinaryOp::Sub, a, b)?;
        let y = n.binary(BinaryOp::Mul, difference, difference)?;
        n.set(0, y);
        Ok(())
    }),
    row("Atan2", |n| {
        let operands = [n.input(0)?, n.input(1)?];
        let y = n.pointwise(&operands, atan2)?;
        n.set(0, y);
        Ok(())
    }),
    row("LogicalAnd", |n| binary(n, BinaryOp::And)),
    row("LogicalOr", |n| binary(n, BinaryOp::Or)),
    row("BitwiseAnd", |n| binary(n, BinaryOp::BitAnd)),
    row("BitwiseOr", |n| binary(n, BinaryOp::BitOr)),
    row("BitwiseXor", |n| binary(n, BinaryOp::BitXor)),
    row("LeftShift", |n| binary(n, BinaryOp::Shl)),
    row("RightShift", |n| binary(n, BinaryOp::Shr)),
    row("Equal", |n| equality(n, BinaryOp::Eq)),
    row("NotEqual", |n| equality(n, BinaryOp::Ne)),
    row("Greater", |n| binary(n, BinaryOp::Gt)),
    row("GreaterEqual", |n| binary(n, BinaryOp::Ge)),
    row("Less", |n| binary(n, BinaryOp::Lt)),
    row("LessEqual", |n| binary(n, BinaryOp::Le)),
    row("ApproximateEqual", |n| {
        let tolerance = n.float_or("tolerance", 1e-5)?;
        let (a, b) = (n.input(0)?, n.input(1)?);
        let difference = n.binary(BinaryOp::Sub, a, b)?;
        let distance = n.unary(UnaryOp::Abs, difference)?;
        let y = n.with_scalar(BinaryOp::Lt, distance, f64::from(tolerance))?;
        n.set(0, y);
        Ok(())
    }),
    row("AddN", |n| fold(n, BinaryOp::Add, false)),
    row("AccumulateNV2", |n| fold(n, BinaryOp::Add, false)),
    row("Select", select_rows),
    row("SelectV2", select),
    row("ClipByValue", clip_by_value),
    row("Cast", |n| {
        let to = n.dtype_attribute("DstT")?.ok_or_else(|| Reject::new("attribute DstT is missing"))?;
        cast_to(n, to)
    }),
    row("Bitcast", |n| {
        let to = n.dtype_attribute("type")?.ok_or_else(|| Reject::new("attribute type is missing"))?;
        let x = n.input(0)?;
        if n.dtype(x).bits() != to.bits() {
            return Err(Reject::new("a cast of bits to another width is not supported"));
        }
        if n.dtype(x) == to {
            return n.forward(0, 0);
        }
        let y = n.emit(ops::BitCast { to }, &[x])?;
        n.set(0, y);
        Ok(())
    }),
];

/// `exp(x) - 1 = tanh(x / 2) (exp(x) + 1)`: exact where `exp(x)` is near 1.
fn expm1(e: &mut ExprBuilder, x: ExprId) -> ExprId {
    let half = e.number(0.5);
    let half = e.binary(BinaryOp::Mul, x, half);
    let tanh = e.unary(UnaryOp::Tanh, half);
    let exp = e.unary(UnaryOp::Exp, x);
    let sum = offset(e, exp, 1.0);
    e.binary(BinaryOp::Mul, tanh, sum)
}

/// `log(u) x / (u - 1)` with `u = 1 + x` rounded; the rounding cancels. Where `u` is 1, x; infinity for infinity.
fn log1p(e: &mut ExprBuilder, x: ExprId) -> ExprId {
    let one = e.number(1.0);
    let u = e.binary(BinaryOp::Add, x, one);
    let log = e.unary(UnaryOp::Log, u);
    let rounded = e.binary(BinaryOp::Sub, u, one);
    let ratio = e.binary(BinaryOp::Div, x, rounded);
    let y = e.binary(BinaryOp::Mul, log, ratio);
    let (tiny, infinite) = (e.binary(BinaryOp::Eq, u, one), e.unary(UnaryOp::IsPosInf, x));
    let y = e.select(infinite, x, y);
    e.select(tiny, x, y)
}

/// The angle of `(x, y)`, from the quotient's: turned by half a circle where x is negative.
fn atan2(e: &mut ExprBuilder) -> ExprId {
    let (y, x) = (e.input(0), e.input(1));
    let (zero, pi, half) =
        (e.number(0.0), e.number(std::f64::consts::PI), e.number(std::f64::consts::FRAC_PI_2));
    let minus_pi = e.unary(UnaryOp::Neg, pi);
    let ratio = e.binary(BinaryOp::Div, y, x);
    let angle = e.unary(UnaryOp::Atan, ratio);
    // A zero may be negative: its reciprocal is.
    let reciprocal = e.unary(UnaryOp::Recip, y);
    let (negative, negative_zero) =
        (e.binary(BinaryOp::Lt, y, zero), e.binary(BinaryOp::Lt, reciprocal, zero));
    let below = e.binary(BinaryOp::Or, negative, negative_zero);
    let left = e.binary(BinaryOp::Lt, x, zero);
    let turn = e.select(below, minus_pi, pi);
    let turned = e.binary(BinaryOp::Add, angle, turn);
    let general = e.select(left, turned, angle);
    // On the axis of y the quotient is infinite, or none.
    let sign = e.unary(UnaryOp::Sign, y);
    let upright = e.binary(BinaryOp::Mul, sign, half);
    let axis = e.binary(BinaryOp::Eq, x, zero);
    e.select(axis, upright, general)
}

fn square(n: &mut NodeLowering) -> Result<()> {
    if let Some(known) = n.known(0)
        && let Some(known) = known.binary(BinaryOp::Mul, &known, n.facts())
    {
        n.set_known(0, known);
        return Ok(());
    }
    let x = n.input(0)?;
    let y = n.binary(BinaryOp::Mul, x, x)?;
    n.set(0, y);
    Ok(())
}

/// Rounded down, of integers too.
fn floor_div(n: &mut NodeLowering) -> Result<()> {
    let float = n.input_type(0)?.dtype.is_float();
    if !float
        && let (Some(a), Some(b)) = (n.known(0), n.known(1))
        && let Some(known) = a.floor_div(&b)
    {
        n.set_known(0, known);
        return Ok(());
    }
    let (a, b) = (n.input(0)?, n.input(1)?);
    let y = if float {
        let quotient = n.binary(BinaryOp::Div, a, b)?;
        n.unary(UnaryOp::Floor, quotient)?
    } else {
        // The remainder has the divisor's sign: without it the division is exact.
        let remainder = n.binary(BinaryOp::Mod, a, b)?;
        let whole = n.binary(BinaryOp::Sub, a, remainder)?;
        n.binary(BinaryOp::Div, whole, b)?
    };
    n.set(0, y);
    Ok(())
}

/// `f(x, y)`, but 0 where the operand of this number is 0.
fn guarded(
    n: &mut NodeLowering,
    guard: u16,
    f: impl FnOnce(&mut ExprBuilder, ExprId, ExprId) -> ExprId,
) -> Result<()> {
    let operands = [n.input(0)?, n.input(1)?];
    if !n.dtype(operands[0]).is_float() {
        return Err(Reject::new(format!("type {} is not supported", n.dtype(operands[0]))));
    }
    let y = n.pointwise(&operands, |e| {
        let (x, y, zero) = (e.input(0), e.input(1), e.number(0.0));
        let value = f(e, x, y);
        let none = e.binary(BinaryOp::Eq, if guard == 0 { x } else { y }, zero);
        e.select(none, zero, value)
    })?;
    n.set(0, y);
    Ok(())
}

/// Shapes that do not broadcast count as unequal where the node says so, which takes more than a comparison.
fn equality(n: &mut NodeLowering, op: BinaryOp) -> Result<()> {
    if n.int_or("incompatible_shape_error", 1)? == 0 {
        return Err(Reject::new("a comparison of shapes that may not fit is not supported"));
    }
    binary(n, op)
}

/// All operands have one shape, or the condition is a vector that picks slices, or one element.
fn select_rows(n: &mut NodeLowering) -> Result<()> {
    let (condition, rank) = (n.input_type(0)?, n.input_type(1)?.rank());
    if condition.rank() == rank || condition.rank() == 0 {
        return select(n);
    }
    if condition.rank() != 1 || rank == 0 {
        return Err(Reject::new(format!("a condition of rank {} for rank {rank}", condition.rank())));
    }
    let operands = [n.input(0)?, n.input(1)?, n.input(2)?];
    let mut shape = vec![engraft_network::Dim::Fixed(1); rank];
    shape[0] = condition.shape[0].clone();
    let condition: ValueId = n.reshape(operands[0], shape)?;
    let y = n.emit(ops::Select, &[condition, operands[1], operands[2]])?;
    n.set(0, y);
    Ok(())
}

/// `min(max(x, low), high)`, the bounds scalars or of x's shape.
fn clip_by_value(n: &mut NodeLowering) -> Result<()> {
    let float = n.input_type(0)?.dtype.is_float();
    if float && let (Some(low), Some(high)) = (n.constant_scalar(1), n.constant_scalar(2)) {
        return clip(n, Some(low), Some(high));
    }
    let (x, low, high) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let raised = n.binary(BinaryOp::Max, x, low)?;
    let y = n.binary(BinaryOp::Min, raised, high)?;
    n.set(0, y);
    Ok(())
}
