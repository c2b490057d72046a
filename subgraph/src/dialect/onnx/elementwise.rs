//! Elementwise math, activations, comparison, logic and casts.

use engraft_network::{BinaryOp, DType, Dim, ExprId, UnaryOp, ValueId, ops};

use super::super::Row;
use super::{FIRST, row};
use crate::lower::{ExprBuilder, Known, NodeLowering, Reject};
use crate::onnx::dtype_of;

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("Identity", 1, |n| n.forward(0, 0)),
    row("Abs", 6, |n| unary(n, UnaryOp::Abs)),
    row("Neg", 6, |n| unary(n, UnaryOp::Neg)),
    row("Sign", 9, |n| unary(n, UnaryOp::Sign)),
    row("Reciprocal", 6, |n| unary(n, UnaryOp::Recip)),
    row("Sqrt", 6, |n| unary(n, UnaryOp::Sqrt)),
    row("Exp", 6, |n| unary(n, UnaryOp::Exp)),
    row("Log", 6, |n| unary(n, UnaryOp::Log)),
    row("Sin", FIRST, |n| unary(n, UnaryOp::Sin)),
    row("Cos", FIRST, |n| unary(n, UnaryOp::Cos)),
    row("Tan", FIRST, |n| unary(n, UnaryOp::Tan)),
    row("Asin", FIRST, |n| unary(n, UnaryOp::Asin)),
    row("Acos", FIRST, |n| unary(n, UnaryOp::Acos)),
    row("Atan", FIRST, |n| unary(n, UnaryOp::Atan)),
    row("Sinh", 9, |n| unary(n, UnaryOp::Sinh)),
    row("Cosh", 9, |n| unary(n, UnaryOp::Cosh)),
    row("Tanh", 6, |n| unary(n, UnaryOp::Tanh)),
    row("Asinh", 9, |n| unary(n, UnaryOp::Asinh)),
    row("Acosh", 9, |n| unary(n, UnaryOp::Acosh)),
    row("Atanh", 9, |n| unary(n, UnaryOp::Atanh)),
    row("Erf", 9, |n| unary(n, UnaryOp::Erf)),
    row("Sigmoid", 6, |n| unary(n, UnaryOp::Sigmoid)),
    row("Softplus", 1, |n| unary(n, UnaryOp::Softplus)),
    row("Relu", 6, |n| unary(n, UnaryOp::Relu)),
    row("Floor", 6, |n| unary(n, UnaryOp::Floor)),
    row("Ceil", 6, |n| unary(n, UnaryOp::Ceil)),
    row("Round", 11, |n| unary(n, UnaryOp::Round)),
    row("Not", 1, |n| unary(n, UnaryOp::Not)),
    row("BitwiseNot", 18, |n| unary(n, UnaryOp::BitNot)),
    row("IsNaN", 9, |n| unary(n, UnaryOp::IsNan)),
    row("IsInf", 10, is_inf),
    row("HardSwish", 14, |n| unary(n, UnaryOp::HardSwish)),
    row("Swish", 24, swish),
    row("Gelu", 20, gelu),
    row("LeakyRelu", 6, |n| {
        let alpha = n.float_or("alpha", 0.01)?;
        activation(n, |e, x| leaky_relu(e, alpha, x))
    }),
    row("HardSigmoid", 6, |n| {
        let (alpha, beta) = (n.float_or("alpha", 0.2)?, n.float_or("beta", 0.5)?);
        activation(n, |e, x| hard_sigmoid(e, alpha, beta, x))
    }),
    row("Elu", 6, |n| {
        let alpha = n.float_or("alpha", 1.0)?;
        activation(n, |e, x| elu(e, alpha, x))
    }),
    row("Selu", 6, |n| {
        let (alpha, gamma) = (n.float_or("alpha", 1.673_263_2)?, n.float_or("gamma", 1.050_701)?);
        activation(n, |e, x| selu(e, alpha, gamma, x))
    }),
    row("Celu", 12, |n| {
        let alpha = n.float_or("alpha", 1.0)?;
        activation(n, |e, x| {
            below_zero(e, x, |e, x| {
                let divisor = e.number(f64::from(alpha));
                let inner = e.binary(BinaryOp::Div, x, divisor);
                exponential_tail(e, inner, alpha)
            })
        })
    }),
    row("ThresholdedRelu", 10, |n| {
        let alpha = n.float_or("alpha", 1.0)?;
        activation(n, |e, x| thresholded_relu(e, alpha, x))
    }),
    row("Softsign", 1, |n| activation(n, softsign)),
    row("Mish", 18, |n| {
        activation(n, |e, x| {
            let softplus = e.unary(UnaryOp::Softplus, x);
            let tanh = e.unary(UnaryOp::Tanh, softplus);
            e.binary(BinaryOp::Mul, x, tanh)
        })
    }),
    row("Shrink", 9, |n| {
        let (bias, lambda) = (n.float_or("bias", 0.0)?, n.float_or("lambd", 0.5)?);
        activation(n, |e, x| {
            let (low, high, zero) =
                (e.number(f64::from(-lambda)), e.number(f64::from(lambda)), e.number(0.0));
            let (raised, lowered) = (offset(e, x, bias), offset(e, x, -bias));
            let (below, above) = (e.binary(BinaryOp::Lt, x, low), e.binary(BinaryOp::Gt, x, high));
            let inner = e.select(above, lowered, zero);
            e.select(below, raised, inner)
        })
    }),
    row("PRelu", FIRST, prelu),
    row("Clip", 6, clip_attributes),
    row("Clip", 11, clip_inputs),
    row("Add", FIRST, |n| binary(n, BinaryOp::Add)),
    row("Sub", FIRST, |n| binary(n, BinaryOp::Sub)),
    row("Mul", FIRST, |n| binary(n, BinaryOp::Mul)),
    row("Div", FIRST, |n| binary(n, BinaryOp::Div)),
    row("Pow", FIRST, pow),
    row("Mod", 10, |n| {
        let op = if n.flag("fmod")? { BinaryOp::Fmod } else { BinaryOp::Mod };
        binary(n, op)
    }),
    row("And", FIRST, |n| binary(n, BinaryOp::And)),
    row("Or", FIRST, |n| binary(n, BinaryOp::Or)),
    row("Xor", FIRST, |n| binary(n, BinaryOp::Xor)),
    row("BitwiseAnd", 18, |n| binary(n, BinaryOp::BitAnd)),
    row("BitwiseOr", 18, |n| binary(n, BinaryOp::BitOr)),
    row("BitwiseXor", 18, |n| binary(n, BinaryOp::BitXor)),
    row("BitShift", 11, |n| match n.string_or("direction", "")? {
        "LEFT" => binary(n, BinaryOp::Shl),
        "RIGHT" => binary(n, BinaryOp::Shr),
        other => Err(Reject::invalid(format!("direction {other:?} is not defined"))),
    }),
    row("Equal", FIRST, |n| binary(n, BinaryOp::Eq)),
    row("Greater", FIRST, |n| binary(n, BinaryOp::Gt)),
    row("GreaterOrEqual", 12, |n| binary(n, BinaryOp::Ge)),
    row("Less", FIRST, |n| binary(n, BinaryOp::Lt)),
    row("LessOrEqual", 12, |n| binary(n, BinaryOp::Le)),
    row("Min", 6, |n| fold(n, BinaryOp::Min, false)),
    row("Max", 6, |n| fold(n, BinaryOp::Max, false)),
    row("Sum", 6, |n| fold(n, BinaryOp::Add, false)),
    row("Mean", 6, |n| fold(n, BinaryOp::Add, true)),
    row("Where", 9, select),
    row("Cast", 6, cast),
    row("CastLike", 15, cast_like),
    row("BitCast", 26, bit_cast),
    row("Dropout", FIRST, dropout),
];

/// The same bits as another type; of a `bool` all but one mean true.
fn bit_cast(n: &mut NodeLowering) -> Result<()> {
    let element_type = n.int_or("to", 0)?;
    let to = dtype_of(element_type)
        .ok_or_else(|| Reject::new(format!("element type {element_type} is not supported")))?;
    let x = n.input(0)?;
    let from = n.dtype(x);
    let y = match to {
        _ if from == to => return n.forward(0, 0),
        DType::Bool if matches!(from, DType::I8 | DType::U8) => n.with_scalar(BinaryOp::Ne, x, 0.0)?,
        _ => n.emit(ops::BitCast { to }, &[x])?,
    };
    n.set(0, y);
    Ok(())
}

pub(in crate::dialect) fn unary(n: &mut NodeLowering, op: UnaryOp) -> Result<()> {
    if let Some(known) = n.known(0).and_then(|known| known.unary(op, n.facts())) {
        n.set_known(0, known);
        return Ok(());
    }
    let x = n.input(0)?;
    let y = n.unary(op, x)?;
    n.set(0, y);
    Ok(())
}

pub(in crate::dialect) fn binary(n: &mut NodeLowering, op: BinaryOp) -> Result<()> {
    if let (Some(a), Some(b)) = (n.known(0), n.known(1))
        && let Some(known) = a.binary(op, &b, n.facts())
    {
        n.set_known(0, known);
        return Ok(());
    }
    let (a, b) = (n.input(0)?, n.input(1)?);
    let y = n.binary(op, a, b)?;
    n.set(0, y);
    Ok(())
}

/// Variadic operators, from left to right.
pub(in crate::dialect) fn fold(n: &mut NodeLowering, op: BinaryOp, mean: bool) -> Result<()> {
    let count = n.input_count();
    let known = (0..count).map(|index| n.known(index)).collect::<Option<Vec<Known>>>();
    if let Some((first, rest)) = known.as_deref().and_then(<[_]>::split_first)
        && !mean
        && let Some(known) = rest.iter().try_fold(first.clone(), |sum, next| sum.binary(op, next, n.facts()))
    {
        n.set_known(0, known);
        return Ok(());
    }
    let mut result = n.input(0)?;
    for index in 1..count {
        let next = n.input(index)?;
        result = n.binary(op, result, next)?;
    }
    if mean && count > 1 {
        result = n.with_scalar(BinaryOp::Div, result, count as f64)?;
    }
    n.set(0, result);
    Ok(())
}

/// An elementwise function of one float operand.
pub(in crate::dialect) fn activation(
    n: &mut NodeLowering,
    build: impl FnOnce(&mut ExprBuilder, ExprId) -> ExprId,
) -> Result<()> {
    let x = n.input(0)?;
    if !n.dtype(x).is_float() {
        return Err(Reject::new(format!("type {} is not supported", n.dtype(x))));
    }
    let y = n.pointwise(&[x], |e| {
        let x = e.input(0);
        build(e, x)
    })?;
    n.set(0, y);
    Ok(())
}

pub(in crate::dialect) fn scaled(e: &mut ExprBuilder, factor: f32, x: ExprId) -> ExprId {
    let factor = e.number(f64::from(factor));
    e.binary(BinaryOp::Mul, x, factor)
}

pub(in crate::dialect) fn offset(e: &mut ExprBuilder, x: ExprId, by: f32) -> ExprId {
    let by = e.number(f64::from(by));
    e.binary(BinaryOp::Add, x, by)
}

pub(in crate::dialect) fn clamp(
    e: &mut ExprBuilder,
    mut x: ExprId,
    low: Option<f64>,
    high: Option<f64>,
) -> ExprId {
    if let Some(low) = low {
        let low = e.number(low);
        x = e.binary(BinaryOp::Max, x, low);
    }
    if let Some(high) = high {
        let high = e.number(high);
        x = e.binary(BinaryOp::Min, x, high);
    }
    x
}

/// `x < 0 ? negative(x) : x`.
pub(in crate::dialect) fn below_zero(
    e: &mut ExprBuilder,
    x: ExprId,
    negative: impl FnOnce(&mut ExprBuilder, ExprId) -> ExprId,
) -> ExprId {
    let zero = e.number(0.0);
    let below = e.binary(BinaryOp::Lt, x, zero);
    let tail = negative(e, x);
    e.select(below, tail, x)
}

/// `alpha * (exp(x) - 1)`.
pub(super) fn exponential_tail(e: &mut ExprBuilder, x: ExprId, alpha: f32) -> ExprId {
    let exponential = e.unary(UnaryOp::Exp, x);
    let shifted = offset(e, exponential, -1.0);
    if alpha == 1.0 { shifted } else { scaled(e, alpha, shifted) }
}

pub(in crate::dialect) fn leaky_relu(e: &mut ExprBuilder, alpha: f32, x: ExprId) -> ExprId {
    below_zero(e, x, |e, x| scaled(e, alpha, x))
}

pub(in crate::dialect) fn elu(e: &mut ExprBuilder, alpha: f32, x: ExprId) -> ExprId {
    below_zero(e, x, |e, x| exponential_tail(e, x, alpha))
}

pub(in crate::dialect) fn selu(e: &mut ExprBuilder, alpha: f32, gamma: f32, x: ExprId) -> ExprId {
    let elu = elu(e, alpha, x);
    scaled(e, gamma, elu)
}

/// `alpha * x + beta` between 0 and 1.
pub(super) fn hard_sigmoid(e: &mut ExprBuilder, alpha: f32, beta: f32, x: ExprId) -> ExprId {
    let line = scaled(e, alpha, x);
    let line = offset(e, line, beta);
    clamp(e, line, Some(0.0), Some(1.0))
}

pub(super) fn thresholded_relu(e: &mut ExprBuilder, alpha: f32, x: ExprId) -> ExprId {
    let (threshold, zero) = (e.number(f64::from(alpha)), e.number(0.0));
    let above = e.binary(BinaryOp::Gt, x, threshold);
    e.select(above, x, zero)
}

/// `x / (1 + |x|)`.
pub(in crate::dialect) fn softsign(e: &mut ExprBuilder, x: ExprId) -> ExprId {
    let magnitude = e.unary(UnaryOp::Abs, x);
    let divisor = offset(e, magnitude, 1.0);
    e.binary(BinaryOp::Div, x, divisor)
}

fn swish(n: &mut NodeLowering) -> Result<()> {
    let alpha = n.float_or("alpha", 1.0)?;
    if alpha == 1.0 {
        return unary(n, UnaryOp::Silu);
    }
    activation(n, |e, x| gated(e, alpha, x))
}

/// `x * sigmoid(alpha * x)`.
pub(super) fn gated(e: &mut ExprBuilder, alpha: f32, x: ExprId) -> ExprId {
    let inner = scaled(e, alpha, x);
    let gate = e.unary(UnaryOp::Sigmoid, inner);
    e.binary(BinaryOp::Mul, x, gate)
}

fn gelu(n: &mut NodeLowering) -> Result<()> {
    match n.string_or("approximate", "none")? {
        "none" => unary(n, UnaryOp::Gelu),
        "tanh" => unary(n, UnaryOp::GeluTanh),
        other => Err(Reject::invalid(format!("approximation {other:?} is not defined"))),
    }
}

fn is_inf(n: &mut NodeLowering) -> Result<()> {
    let (negative, positive) = (n.int_or("detect_negative", 1)? != 0, n.int_or("detect_positive", 1)? != 0);
    let x = n.input(0)?;
    let y = match (negative, positive) {
        (true, false) => n.unary(UnaryOp::IsNegInf, x)?,
        (false, true) => n.unary(UnaryOp::IsPosInf, x)?,
        (true, true) => {
            let magnitude = n.unary(UnaryOp::Abs, x)?;
            n.unary(UnaryOp::IsPosInf, magnitude)?
        }
        (false, false) => {
            let (a, b) = (n.unary(UnaryOp::IsPosInf, x)?, n.unary(UnaryOp::IsNegInf, x)?);
            n.binary(BinaryOp::And, a, b)?
        }
    };
    n.set(0, y);
    Ok(())
}

/// `x < 0 ? slope * x : x`, the slope broadcast to x.
fn prelu(n: &mut NodeLowering) -> Result<()> {
    let (x, slope) = (n.input(0)?, n.input(1)?);
    let y = n.pointwise(&[x, slope], |e| {
        let (x, slope) = (e.input(0), e.input(1));
        below_zero(e, x, |e, x| e.binary(BinaryOp::Mul, x, slope))
    })?;
    n.set(0, y);
    Ok(())
}

fn clip_attributes(n: &mut NodeLowering) -> Result<()> {
    let bound = |n: &NodeLowering, name| n.attribute(name).map(|_| n.float_or(name, 0.0)).transpose();
    let (low, high) = (bound(n, "min")?, bound(n, "max")?);
    clip(n, low.map(f64::from), high.map(f64::from))
}

fn clip_inputs(n: &mut NodeLowering) -> Result<()> {
    let bound = |n: &NodeLowering, index| n.has(index).then(|| n.constant_scalar(index));
    match (bound(n, 1), bound(n, 2)) {
        (Some(None), _) | (_, Some(None)) => {
            let mut x = n.input(0)?;
            for (index, op) in [(1, BinaryOp::Max), (2, BinaryOp::Min)] {
                if let Some(bound) = n.optional(index)? {
                    let bound = n.reshape(bound, Vec::new())?;
                    x = n.binary(op, x, bound)?;
                }
            }
            n.set(0, x);
            Ok(())
        }
        (low, high) => clip(n, low.flatten(), high.flatten()),
    }
}

pub(in crate::dialect) fn clip(n: &mut NodeLowering, low: Option<f64>, high: Option<f64>) -> Result<()> {
    let dtype = n.input_type(0)?.dtype;
    // Bounds at the ends of the type, as exporters write them for "none".
    let low = low.filter(|&low| !(dtype == DType::F32 && low <= f64::from(f32::MIN)));
    let high = high.filter(|&high| !(dtype == DType::F32 && high >= f64::from(f32::MAX)));
    match (low, high) {
        (None, None) => n.forward(0, 0),
        (Some(0.0), None) => unary(n, UnaryOp::Relu),
        _ => {
            let x = n.input(0)?;
            let y = n.pointwise(&[x], |e| {
                let x = e.input(0);
                clamp(e, x, low, high)
            })?;
            n.set(0, y);
            Ok(())
        }
    }
}

/// The result has the base's type; the exponent may have another.
fn pow(n: &mut NodeLowering) -> Result<()> {
    let (base, exponent) = (n.input_type(0)?.dtype, n.input_type(1)?.dtype);
    if base == exponent
        && let (Some(a), Some(b)) = (n.known(0), n.known(1))
        && let Some(known) = a.binary(BinaryOp::Pow, &b, n.facts())
    {
        n.set_known(0, known);
        return Ok(());
    }
    let x = n.input(0)?;
    let y = if base.is_float() {
        // A constant exponent takes the base's type exactly where it can, so that x^2 is seen as such.
        let power = match n.constant_scalar(1) {
            Some(value) if n.input_type(1)?.rank() == 0 => n.scalar(base, value)?,
            _ => {
                let power = n.input(1)?;
                n.cast(power, base)?
            }
        };
        n.binary(BinaryOp::Pow, x, power)?
    } else {
        let power = n.input(1)?;
        let (wide, power) = (n.cast(x, DType::F64)?, n.cast(power, DType::F64)?);
        let result = n.binary(BinaryOp::Pow, wide, power)?;
        n.cast(result, base)?
    };
    n.set(0, y);
    Ok(())
}

pub(in crate::dialect) fn select(n: &mut NodeLowering) -> Result<()> {
    if let (Some(condition), Some(a), Some(b)) = (n.known(0), n.known(1), n.known(2))
        && let Some(known) = Known::select(&condition, &a, &b)
    {
        n.set_known(0, known);
        return Ok(());
    }
    let inputs = n.inputs()?;
    let y = n.emit(ops::Select, &inputs)?;
    n.set(0, y);
    Ok(())
}

fn cast(n: &mut NodeLowering) -> Result<()> {
    let element_type = n.int("to")?.ok_or_else(|| Reject::invalid("attribute to is missing"))?;
    let to = dtype_of(element_type)
        .ok_or_else(|| Reject::new(format!("casting to element type {element_type} is not supported")))?;
    cast_to(n, to)
}

fn cast_like(n: &mut NodeLowering) -> Result<()> {
    let to = n.input_type(1)?.dtype;
    cast_to(n, to)
}

pub(in crate::dialect) fn cast_to(n: &mut NodeLowering, to: DType) -> Result<()> {
    let from = n.input_type(0)?.dtype;
    if from == to {
        return n.forward(0, 0);
    }
    if matches!(to, DType::F8E4M3 | DType::F8E5M2) && n.int_or("saturate", 1)? == 0 {
        return Err(
            Reject::new("casting to 8-bit floats without saturation is not supported").wants("saturate", "1")
        );
    }
    if from.is_float() && to.bits() == 4 {
        return Err(Reject::new("casting floats to 4-bit integers is not supported"));
    }
    if let Some(known) = n.known(0).and_then(|known| known.cast(to, n.facts())) {
        n.set_known(0, known);
        return Ok(());
    }
    let x = n.input(0)?;
    let y = n.cast(x, to)?;
    n.set(0, y);
    Ok(())
}

/// As in inference: the identity. The mask, where somebody reads it, is all true.
fn dropout(n: &mut NodeLowering) -> Result<()> {
    let training = match n.known(2) {
        Some(known) => known.dims().and_then(|dims| dims.first().and_then(Dim::fixed)),
        None if n.has(2) => None,
        None => Some(0),
    };
    if training != Some(0) {
        return Err(Reject::new("dropout in training mode is not supported").wants("training_mode", "false"));
    }
    n.forward(0, 0)?;
    if n.wants(1) {
        let x = n.input(0)?;
        let shape = n.shape(x);
        let yes = n.scalar(DType::Bool, 1.0)?;
        let mask: ValueId = n.emit(ops::Expand { shape }, &[yes])?;
        n.set(1, mask);
    }
    Ok(())
}
