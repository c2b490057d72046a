use super::{Fresh, OpError, Operator, TypeVec, check};
use crate::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::smallvec;

/// ONNX OneHot: operands indices, values `[off, on]`; a new axis of size `depth` at `axis`; out-of-range gives all off.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OneHot {
    pub axis: usize,
    pub depth: Dim,
}

/// The `k` largest or smallest along `axis`, sorted, of equals the lower index first. Outputs: values, indices (`i64`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TopK {
    pub axis: usize,
    pub largest: bool,
    pub k: Dim,
}

/// Indices of the non-zero elements, `i64[rank, n]` in row-major order of the elements; `n` is known only afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NonZero;

impl Operator for OneHot {
    const NAME: &'static str = "one_hot";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2)?;
        check::dtype(inputs, 0, |t| t != DType::Bool, "a number")?;
        check::rank(inputs, 1, 1)?;
        check::agree(&inputs[1].shape[0], &Dim::Fixed(2), "values are [off, on]")?;
        check::axis(self.axis, inputs[0].rank() + 1)?;
        check::not_negative("depth", std::slice::from_ref(&self.depth))?;
        let mut out = inputs[0].shape.clone();
        out.insert(self.axis, self.depth.clone());
        Ok(check::one(inputs[1].dtype, out))
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.depth = f(&self.depth);
    }
}

impl Operator for TopK {
    const NAME: &'static str = "top_k";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        check::dtype(inputs, 0, |t| t != DType::Bool, "a number")?;
        check::axis(self.axis, inputs[0].rank())?;
        check::not_negative("k", std::slice::from_ref(&self.k))?;
        let mut out = inputs[0].shape.clone();
        if let (Some(k), Some(d)) = (self.k.fixed(), out[self.axis].fixed())
            && k > d
        {
            return Err(check::attribute("k", format!("{k} of {d} elements")));
        }
        out[self.axis] = self.k.clone();
        Ok(smallvec![
            TensorType { dtype: inputs[0].dtype, shape: out.clone() },
            TensorType { dtype: DType::I64, shape: out }
        ])
    }

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        check::elements(inputs[0])
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.k = f(&self.k);
    }
}

impl Operator for NonZero {
    const NAME: &'static str = "non_zero";

    fn infer(&self, inputs: &[&TensorType], fresh: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        Ok(check::one(DType::I64, [Dim::from(inputs[0].rank()), fresh(0, 1)]))
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }
}
