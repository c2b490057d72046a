//! Activations, alone and as the end of another operator.

use engraft_network::{BinaryOp, Dim, UnaryOp, ValueId, ops};

use super::super::elementwise::{
    activation, clamp, elu, gated, hard_sigmoid, leaky_relu, selu, softsign, thresholded_relu, unary,
};
use super::row;
use crate::dialect::Row;
use crate::lower::{ExprBuilder, NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(in super::super) const ROWS: &[Row] = &[
    row("Gelu", |n| unary(n, UnaryOp::Gelu)),
    row("QuickGelu", |n| {
        let alpha = n.float_or("alpha", 1.702)?;
        activation(n, |e, x| gated(e, alpha, x))
    }),
    row("FastGelu", |n| biased(n, UnaryOp::GeluTanh)),
    row("BiasGelu", |n| biased(n, UnaryOp::Gelu)),
    row("BiasAdd", bias_add),
    row("BiasSplitGelu", bias_split_gelu),
];

/// `op(x + bias)`; the bias may be absent.
fn biased(n: &mut NodeLowering, op: UnaryOp) -> Result<()> {
    let mut x = n.input(0)?;
    if let Some(bias) = n.optional(1)? {
        x = n.binary(BinaryOp::Add, x, bias)?;
    }
    let y = n.unary(op, x)?;
    n.set(0, y);
    Ok(())
}

/// `x + bias + skip`.
fn bias_add(n: &mut NodeLowering) -> Result<()> {
    let (x, bias, skip) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let biased = n.binary(BinaryOp::Add, x, bias)?;
    let y = n.binary(BinaryOp::Add, biased, skip)?;
    n.set(0, y);
    Ok(())
}

/// With `[a, b] = x + bias`, halves of the last axis: `a * gelu(b)`.
fn bias_split_gelu(n: &mut NodeLowering) -> Result<()> {
    let (x, bias) = (n.input(0)?, n.input(1)?);
    let x = n.binary(BinaryOp::Add, x, bias)?;
    let axis = n.rank(x).checked_sub(1).ok_or_else(|| Reject::invalid("a scalar has no halves"))?;
    let half = n.shape(x)[axis].floor_div(&Dim::Fixed(2));
    let part = |n: &mut NodeLowering, start: Dim| {
        n.emit(ops::Slice { ranges: vec![ops::SliceRange { axis, start, len: half.clone(), step: 1 }] }, &[x])
    };
    let (left, right) = (part(n, Dim::Fixed(0))?, part(n, half.clone())?);
    let right = n.unary(UnaryOp::Gelu, right)?;
    let y = n.binary(BinaryOp::Mul, left, right)?;
    n.set(0, y);
    Ok(())
}

/// `x` through the activation that attribute `activation` of a fused operator names; `parameter` tells the activation's
/// parameters by name.
///
/// # Errors
/// An activation or a parameter that is not defined.
pub(super) fn fused(
    n: &mut NodeLowering,
    x: ValueId,
    parameter: impl Fn(&NodeLowering, usize, &str) -> Result<f32>,
) -> Result<ValueId> {
    let name = n.string_or("activation", "")?;
    let of = |index: usize, name: &str| parameter(n, index, name);
    let build: Box<dyn FnOnce(&mut ExprBuilder, u16) -> u16> = match name {
        "" => return Ok(x),
        "Relu" => return n.unary(UnaryOp::Relu, x),
        "Tanh" => return n.unary(UnaryOp::Tanh, x),
        "Sigmoid" => return n.unary(UnaryOp::Sigmoid, x),
        "Softplus" => return n.unary(UnaryOp::Softplus, x),
        "Softsign" => Box::new(softsign),
        "LeakyRelu" => {
            let alpha = of(0, "alpha")?;
            Box::new(move |e, x| leaky_relu(e, alpha, x))
        }
        "Elu" => {
            let alpha = of(0, "alpha")?;
            Box::new(move |e, x| elu(e, alpha, x))
        }
        "ThresholdedRelu" => {
            let alpha = of(0, "alpha")?;
            Box::new(move |e, x| thresholded_relu(e, alpha, x))
        }
        "HardSigmoid" => {
            let (alpha, beta) = (of(0, "alpha")?, of(1, "beta")?);
            Box::new(move |e, x| hard_sigmoid(e, alpha, beta, x))
        }
        "Selu" => {
            let (alpha, gamma) = (of(0, "alpha")?, of(1, "gamma")?);
            Box::new(move |e, x| selu(e, alpha, gamma, x))
        }
        "Clip" => {
            let (low, high) = (of(0, "min")?, of(1, "max")?);
            Box::new(move |e, x| clamp(e, x, Some(f64::from(low)), Some(f64::from(high))))
        }
        other => return Err(Reject::new(format!("activation {other:?} is not supported"))),
    };
    n.pointwise(&[x], |e| {
        let x = e.input(0);
        build(e, x)
    })
}

/// `x * sigmoid(x)`, as attribute value 1 of the group normalizations asks.
pub(super) fn silu_if(n: &mut NodeLowering, x: ValueId) -> Result<ValueId> {
    match n.int_or("activation", 0)? {
        0 => Ok(x),
        1 => n.unary(UnaryOp::Silu, x),
        other => Err(Reject::invalid(format!("activation {other} is not defined"))),
    }
}
