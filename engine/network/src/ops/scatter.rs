use super::data::{self, Cells};
use super::gather::{check_indices_fit, element_places, tuple_len, tuple_places};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::BinaryOp;
use crate::convert::Values;
use crate::evaluate::{binary_float, binary_int};
use crate::{DType, Tensor, TensorType};
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let places = element_places(inputs[0].shape(), &inputs[1], self.axis)?;
        let pairs = places.into_iter().map(|(update, at)| (at, update, 1));
        Ok(vec![scatter(self.reduction, &inputs[0], &inputs[2], pairs, &outputs[0])?])
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = inputs[0].shape();
        let k = inputs[1].shape()[inputs[1].shape().len() - 1];
        let run: usize = x[k..].iter().product();
        let places = tuple_places(x, &inputs[1])?;
        let pairs = places.into_iter().enumerate().map(|(i, at)| (at, i * run, run));
        Ok(vec![scatter(self.reduction, &inputs[0], &inputs[2], pairs, &outputs[0])?])
    }

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        reduction_flops(self.reduction, inputs)
    }
}

/// x with runs `(place in x, place in updates, length)` of updates combined into it, in order.
fn scatter(
    reduction: ScatterReduction,
    x: &Tensor,
    updates: &Tensor,
    runs: impl Iterator<Item = (usize, usize, usize)>,
    out: &OutputType,
) -> Result<Tensor, OpError> {
    let op = match reduction {
        ScatterReduction::None => {
            let (x, updates) = (Cells::of(x), Cells::of(updates));
            let w = x.width;
            let mut bytes = x.bytes.into_owned();
            for (to, from, n) in runs {
                bytes[to * w..(to + n) * w].copy_from_slice(&updates.bytes[from * w..(from + n) * w]);
            }
            return data::from_cells(out.dtype, &out.shape, &bytes);
        }
        ScatterReduction::Add => BinaryOp::Add,
        ScatterReduction::Mul => BinaryOp::Mul,
        ScatterReduction::Max => BinaryOp::Max,
        ScatterReduction::Min => BinaryOp::Min,
    };
    let t = x.dtype();
    let mut values = Values::of(x);
    let updates = Values::of(updates);
    for (to, from, n) in runs {
        for i in 0..n {
            match (&mut values, &updates) {
                (Values::Float(v), Values::Float(u)) => v[to + i] = binary_float(op, v[to + i], u[from + i]),
                (Values::Int(v), Values::Int(u)) => v[to + i] = binary_int(op, t, v[to + i], u[from + i]),
                _ => {}
            }
        }
    }
    Ok(values.into_tensor(out.dtype, &out.shape)?)
}
