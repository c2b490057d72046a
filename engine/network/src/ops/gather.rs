use super::{Fresh, OpError, Operator, TypeVec, check};
use crate::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};

/// `x` indexed along `axis` by `indices` (`i32` or `i64`, any rank, negative counts from the end): output shape is x's
/// with the axis replaced by the indices' shape. An index out of range is an error at run time (ONNX Gather).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gather {
    pub axis: usize,
}

/// ONNX GatherElements. Operands: x, indices of x's rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GatherElements {
    pub axis: usize,
}

/// ONNX GatherND. Operands: x, indices `[.., K]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GatherNd {
    pub batch_dims: usize,
}

impl Operator for Gather {
    const NAME: &'static str = "gather";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2)?;
        check::index(inputs, 1)?;
        let x = &inputs[0].shape;
        check::axis(self.axis, x.len())?;
        let dims = x[..self.axis].iter().chain(&inputs[1].shape).chain(&x[self.axis + 1..]);
        Ok(check::one(inputs[0].dtype, dims.cloned()))
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }
}

impl Operator for GatherElements {
    const NAME: &'static str = "gather_elements";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2)?;
        check::index(inputs, 1)?;
        check::axis(self.axis, inputs[0].rank())?;
        check::rank(inputs, 1, inputs[0].rank())?;
        check_indices_fit(&inputs[0].shape, &inputs[1].shape, self.axis)?;
        Ok(check::one(inputs[0].dtype, inputs[1].shape.iter().cloned()))
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }
}

/// Errors if elementwise indices are known to reach beyond x on an axis other than the indexed one.
pub(super) fn check_indices_fit(x: &[Dim], indices: &[Dim], axis: usize) -> Result<(), OpError> {
    for (i, (d, n)) in x.iter().zip(indices).enumerate() {
        if let (Some(d), Some(n)) = (d.fixed(), n.fixed())
            && i != axis
            && n > d
        {
            return Err(OpError::Shape(format!("axis {i}: {n} indices for {d} elements")));
        }
    }
    Ok(())
}

/// Length of the index tuples: the last dim of `indices`, which must be fixed.
pub(super) fn tuple_len(indices: &TensorType, most: usize) -> Result<usize, OpError> {
    let Some(last) = indices.shape.last() else {
        return Err(OpError::Rank { operand: 1, got: 0, want: "1 at least".into() });
    };
    match last.fixed().and_then(|k| usize::try_from(k).ok()) {
        Some(k) if k <= most => Ok(k),
        Some(k) => Err(OpError::Shape(format!("index tuples of {k} for {most} axes"))),
        None => Err(OpError::Shape(format!("the length of the index tuples, {last}, is not known"))),
    }
}

impl Operator for GatherNd {
    const NAME: &'static str = "gather_nd";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2)?;
        check::index(inputs, 1)?;
        let (x, i) = (&inputs[0].shape, &inputs[1].shape);
        let b = self.batch_dims;
        if b >= i.len().max(1) || b > x.len() {
            return Err(check::attribute("batch_dims", format!("{b} for {} and {}", inputs[0], inputs[1])));
        }
        let k = tuple_len(inputs[1], x.len() - b)?;
        let mut out = check::Shape::new();
        for a in 0..b {
            out.push(check::agree(&x[a], &i[a], &format!("batch axis {a}"))?);
        }
        out.extend(i[b..i.len() - 1].iter().chain(&x[b + k..]).cloned());
        Ok(check::one(inputs[0].dtype, out))
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }
}
