//! Quantization as training simulates it: floats that are rounded to the steps of a few bits.

use engraft_network::{BinaryOp, DType, Tensor, UnaryOp};

use super::super::Row;
use super::{Result, row};
use crate::lower::{NodeLowering, Reject};

pub(super) const ROWS: &[Row] = &[
    row("FakeQuantWithMinMaxArgs", |n| {
        let range = (vec![n.float_or("min", -6.0)?], vec![n.float_or("max", 6.0)?]);
        fake_quantize(n, range, &[])
    }),
    row("FakeQuantWithMinMaxVars", |n| {
        let range = (numbers(n, 1)?, numbers(n, 2)?);
        fake_quantize(n, range, &[])
    }),
    row("FakeQuantWithMinMaxVarsPerChannel", |n| {
        let range = (numbers(n, 1)?, numbers(n, 2)?);
        let shape = [range.0.len()];
        fake_quantize(n, range, &shape)
    }),
];

fn numbers(n: &NodeLowering, index: usize) -> Result<Vec<f32>> {
    let tensor = n
        .constant(index)
        .ok_or_else(|| n.wants_constant(index, "the range of the quantization depends on data"))?;
    Ok((0..tensor.count()).map(|position| tensor.get_f64(position) as f32).collect())
}

/// The range is moved so that 0 is one of the steps; `x` is clamped to it and rounded to the nearest step.
fn fake_quantize(n: &mut NodeLowering, (low, high): (Vec<f32>, Vec<f32>), shape: &[usize]) -> Result<()> {
    let bits = n.int_or("num_bits", 8)?;
    if !(2..=16).contains(&bits) || low.len() != high.len() {
        return Err(Reject::new(format!("{bits} bits are not supported")));
    }
    let least = if n.flag("narrow_range")? { 1f32 } else { 0f32 };
    let most = ((1i64 << bits) - 1) as f32;
    let (mut scales, mut lows, mut highs) = (Vec::new(), Vec::new(), Vec::new());
    for (low, high) in low.into_iter().zip(high) {
        let scale = (high - low) / (most - least);
        let zero = least - low / scale;
        let zero = if zero < least {
            least
        } else if zero > most {
            most
        } else {
            zero.round()
        };
        scales.push(scale);
        lows.push((least - zero) * scale);
        highs.push((most - zero) * scale);
    }
    let x = n.input(0)?;
    if n.dtype(x) != DType::F32 {
        return Err(Reject::new(format!("type {} is not supported", n.dtype(x))));
    }
    let mut operands = vec![x];
    for list in [scales, lows, highs] {
        let tensor = Tensor::from_slice(shape, &list).map_err(|error| Reject::new(error.to_string()))?;
        operands.push(n.add_constant(tensor));
    }
    let y = n.pointwise(&operands, |e| {
        let (x, scale, low, high, half) = (e.input(0), e.input(1), e.input(2), e.input(3), e.number(0.5));
        let raised = e.binary(BinaryOp::Max, x, low);
        let clamped = e.binary(BinaryOp::Min, raised, high);
        let above = e.binary(BinaryOp::Sub, clamped, low);
        let steps = e.binary(BinaryOp::Div, above, scale);
        let shifted = e.binary(BinaryOp::Add, steps, half);
        let whole = e.unary(UnaryOp::Floor, shifted);
        let scaled = e.binary(BinaryOp::Mul, whole, scale);
        e.binary(BinaryOp::Add, scaled, low)
    })?;
    n.set(0, y);
    Ok(())
}
