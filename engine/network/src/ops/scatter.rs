use super::gather::{check_indices_fit, tuple_len};
use super::{Fresh, OpError, Operator, TypeVec, check};
use crate::{DType, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::smallvec;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ScatterReduction {
    None,
    Add,
    Mul,
    Max,
    Min,
}

/// ONNX ScatterElements. Operands: x, indices, updates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScatterElements {
    pub axis: usize,
    pub reduction: ScatterReduction,
}

/// ONNX ScatterND. Operands: x, indices, updates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScatterNd {
    pub reduction: ScatterReduction,
}

fn check_reduction(reduction: ScatterReduction, inputs: &[&TensorType]) -> Result<(), OpError> {
    if reduction != ScatterReduction::None {
        check::dtype(inputs, 0, |t| t != DType::Bool, "a number")?;
    }
    Ok(())
}

fn reduction_flops(reduction: ScatterReduction, inputs: &[&[usize]]) -> f64 {
    if reduction == ScatterReduction::None { 0.0 } else { check::elements(inputs[2]) }
}

impl Operator for ScatterElements {
    const NAME: &'static str = "scatter_elements";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 3)?;
        check::index(inputs, 1)?;
        check::same(inputs, 2, 0)?;
        check_reduction(self.reduction, inputs)?;
        let r = inputs[0].rank();
        check::axis(self.axis, r)?;
        check::rank(inputs, 1, r)?;
        check::rank(inputs, 2, r)?;
        check_indices_fit(&inputs[0].shape, &inputs[1].shape, self.axis)?;
        for (a, (i, u)) in inputs[1].shape.iter().zip(&inputs[2].shape).enumerate() {
            check::agree(i, u, &format!("axis {a} of indices against updates"))?;
        }
        Ok(smallvec![inputs[0].clone()])
    }

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        reduction_flops(self.reduction, inputs)
    }
}

impl Operator for ScatterNd {
    const NAME: &'static str = "scatter_nd";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 3)?;
        check::index(inputs, 1)?;
        check::same(inputs, 2, 0)?;
        check_reduction(self.reduction, inputs)?;
        let (x, i) = (&inputs[0].shape, &inputs[1].shape);
        let k = tuple_len(inputs[1], x.len())?;
        let want: check::Shape = i[..i.len() - 1].iter().chain(&x[k..]).cloned().collect();
        check::rank(inputs, 2, want.len())?;
        for (a, (w, u)) in want.iter().zip(&inputs[2].shape).enumerate() {
            check::agree(w, u, &format!("axis {a} of updates"))?;
        }
        Ok(smallvec![inputs[0].clone()])
    }

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        reduction_flops(self.reduction, inputs)
    }
}
