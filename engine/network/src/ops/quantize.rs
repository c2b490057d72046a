use super::data;
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::{DType, Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// ONNX QuantizeLinear. Operands: x, scale, and the zero point if flagged. Scale is a scalar, `[x.shape[axis]]`, or with
/// `block > 0` x's shape with the axis divided by `block`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quantize {
    pub axis: usize,
    pub block: usize,
    pub to: DType,
    pub zero_point: bool,
}

/// ONNX DequantizeLinear: `(x - zero_point) * scale`; operands and forms as [`Quantize`]. The result has the scale's type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dequantize {
    pub axis: usize,
    pub block: usize,
    pub zero_point: bool,
}

/// Errors unless scale (and zero point) have one of the forms: scalar or one element, per axis, or per block.
fn check_forms(inputs: &[&TensorType], axis: usize, block: usize, zero_point: bool) -> Result<(), OpError> {
    check::arity(inputs, 2 + usize::from(zero_point))?;
    let x = &inputs[0].shape;
    for i in 1..inputs.len() {
        let s = &inputs[i].shape;
        if block > 0 {
            check::axis(axis, x.len())?;
            check::rank(inputs, i, x.len())?;
            for (a, (d, s)) in x.iter().zip(s).enumerate() {
                let want = if a == axis { d.ceil_div(&Dim::from(block)) } else { d.clone() };
                check::agree(&want, s, &format!("axis {a} of the scales of blocks"))?;
            }
        } else {
            match s.as_slice() {
                [] => {}
                [one] if one.fixed() == Some(1) => {}
                [n] => {
                    check::axis(axis, x.len())?;
                    check::agree(&x[axis], n, "one scale per element of the axis")?;
                }
                _ => return Err(OpError::Rank { operand: i, got: s.len(), want: "0 or 1".into() }),
            }
        }
    }
    if zero_point && inputs[1].rank() != inputs[2].rank() {
        return Err(OpError::Shape(format!("scale {} against zero point {}", inputs[1], inputs[2])));
    }
    Ok(())
}

impl Operator for Quantize {
    const NAME: &'static str = "quantize";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check_forms(inputs, self.axis, self.block, self.zero_point)?;
        check::dtype(inputs, 0, |t| t.is_float() || t == DType::I32, "a float type or i32")?;
        check::float(inputs, 1)?;
        if self.zero_point {
            check::dtype(inputs, 2, |t| t == self.to, "the quantized type")?;
        }
        if !(self.to.is_int() || matches!(self.to, DType::F8E4M3 | DType::F8E5M2)) {
            return Err(check::attribute("to", format!("{} is not a quantized type", self.to)));
        }
        Ok(check::one(self.to, inputs[0].shape.iter().cloned()))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let scale = spread(&inputs[1], x.shape(), self.axis, self.block);
        let wide = x.dtype() == DType::F64;
        let scaled = x.to_f64s().into_iter().zip(scale).map(|(x, s)| {
            // As hosts do: the quotient is rounded to f32 before it is rounded to an integer.
            if wide { x / s } else { f64::from(x as f32 / s as f32) }
        });
        let zero = self.zero_point.then(|| spread(&inputs[2], x.shape(), self.axis, self.block));
        let q: Vec<f64> = scaled
            .enumerate()
            .map(|(i, v)| {
                let v = if self.to.is_float() { v } else { v.round_ties_even() };
                v + zero.as_ref().map_or(0.0, |z| z[i])
            })
            .collect();
        Ok(vec![Tensor::from_f64s(self.to, &outputs[0].shape, &q)?])
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        check::elements(outputs[0]) * (2.0 + f64::from(u8::from(self.zero_point)))
    }
}

impl Operator for Dequantize {
    const NAME: &'static str = "dequantize";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check_forms(inputs, self.axis, self.block, self.zero_point)?;
        let quantized = |t: DType| t.is_int() || matches!(t, DType::F8E4M3 | DType::F8E5M2);
        check::dtype(inputs, 0, quantized, "an integer or 8-bit float type")?;
        check::float(inputs, 1)?;
        if self.zero_point {
            check::same(inputs, 2, 0)?;
        }
        Ok(check::one(inputs[1].dtype, inputs[0].shape.iter().cloned()))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let scale = spread(&inputs[1], x.shape(), self.axis, self.block);
        let zero = self.zero_point.then(|| spread(&inputs[2], x.shape(), self.axis, self.block));
        let y: Vec<f64> = x
            .to_f64s()
            .into_iter()
            .zip(scale)
            .enumerate()
            .map(|(i, (x, s))| (x - zero.as_ref().map_or(0.0, |z| z[i])) * s)
            .collect();
        Ok(vec![Tensor::from_f64s(outputs[0].dtype, &outputs[0].shape, &y)?])
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        check::elements(outputs[0]) * (1.0 + f64::from(u8::from(self.zero_point)))
    }
}

/// A scale or zero point for each element of x.
fn spread(t: &Tensor, x: &[usize], axis: usize, block: usize) -> Vec<f64> {
    let v = t.to_f64s();
    let n: usize = x.iter().product();
    if v.len() == 1 {
        return vec![v[0]; n];
    }
    let (_, size, after) = data::around(x, axis);
    let per = if block > 0 { size.div_ceil(block) } else { size };
    (0..n)
        .map(|i| {
            let (b, c, a) = (i / (size * after), i / after % size, i % after);
            match c.checked_div(block) {
                Some(row) => v[(b * per + row) * after + a],
                None => v[c],
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    #[test]
    fn blocks_have_their_own_scale_and_zero_point() {
        let x = Tensor::from_slice(&[2, 4], &[1i8, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        let scale = Tensor::from_slice(&[2, 2], &[1f32, 10.0, 0.5, 2.0]).unwrap();
        let zero = Tensor::from_slice(&[2, 2], &[0i8, 1, 2, 3]).unwrap();
        let op = Op::from(Dequantize { axis: 1, block: 2, zero_point: true });
        let y = op.eval(&[x.clone(), scale.clone(), zero.clone()], &[]).unwrap().remove(0);
        assert_eq!(y.to_vec::<f32>().unwrap(), [1.0, 2.0, 20.0, 30.0, 1.5, 2.0, 8.0, 10.0]);
        let op = Op::from(Quantize { axis: 1, block: 2, to: DType::I8, zero_point: true });
        assert_eq!(op.eval(&[y, scale, zero], &[]).unwrap()[0], x);
    }

    #[test]
    fn a_last_block_may_be_short() {
        let x = Tensor::from_slice(&[3], &[1i8, 2, 3]).unwrap();
        let scale = Tensor::from_slice(&[2], &[1f32, 10.0]).unwrap();
        let op = Op::from(Dequantize { axis: 0, block: 2, zero_point: false });
        assert_eq!(op.eval(&[x, scale], &[]).unwrap()[0].to_vec::<f32>().unwrap(), [1.0, 2.0, 30.0]);
    }

    #[test]
    fn values_round_to_even_and_saturate() {
        let x = Tensor::from_slice(&[5], &[0.5f32, 1.5, -0.5, 300.0, -300.0]).unwrap();
        let scale = Tensor::scalar(1f32);
        let op = Op::from(Quantize { axis: 0, block: 0, to: DType::I8, zero_point: false });
        let y = op.eval(&[x, scale], &[]).unwrap().remove(0);
        assert_eq!(y.to_vec::<i8>().unwrap(), [0, 2, 0, 127, -128]);
    }
}
