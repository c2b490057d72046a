use super::data::{self, Cells};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::{DType, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// The same bits as elements of another type of the same width; not of `bool`, which has bit patterns that mean nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BitCast {
    pub to: DType,
}

impl Operator for BitCast {
    const NAME: &'static str = "bit_cast";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let width = self.to.bits();
        if self.to == DType::Bool {
            return Err(check::attribute("to", "is bool"));
        }
        check::dtype(inputs, 0, |t| t.bits() == width && width >= 8, "a type of the result's width")?;
        Ok(check::one(self.to, inputs[0].shape.iter().cloned()))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let out = &outputs[0];
        Ok(vec![data::from_cells(out.dtype, &out.shape, &Cells::of(&inputs[0]).bytes)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    #[test]
    fn bits_stay() {
        let x = Tensor::from_slice(&[2], &[1f32, -0.0]).unwrap();
        let y = &Op::from(BitCast { to: DType::I32 }).eval(&[x], &[]).unwrap()[0];
        assert_eq!(y.to_vec::<i32>().unwrap(), [0x3f80_0000, i32::MIN]);
        let x = Tensor::from_slice(&[3], &[0u8, 1, 7]).unwrap();
        assert!(Op::from(BitCast { to: DType::I32 }).eval(std::slice::from_ref(&x), &[]).is_err());
        assert!(Op::from(BitCast { to: DType::Bool }).eval(&[x], &[]).is_err());
    }
}
