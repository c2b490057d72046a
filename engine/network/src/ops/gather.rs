use super::data::{self, Cells};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::{Dim, Tensor, TensorType};
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let (before, n, after) = data::around(x.shape(), self.axis);
        let at = inputs[1]
            .to_i64s()
            .into_iter()
            .map(|i| Ok((data::checked_index(i, n, self.axis)? * after) as isize))
            .collect::<Result<Vec<_>, OpError>>()?;
        let tables = [data::line(before, n * after), at, data::line(after, 1)];
        let cells = Cells::of(x).outer(&tables, None);
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &cells)?])
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = Cells::of(&inputs[0]);
        let mut bytes = Vec::new();
        for (_, at) in element_places(inputs[0].shape(), &inputs[1], self.axis)? {
            bytes.extend_from_slice(x.at(at));
        }
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &bytes)?])
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (x, b) = (&inputs[0], self.batch_dims);
        let indices = inputs[1].shape();
        let k = indices[indices.len() - 1];
        let batches: usize = indices[..b].iter().product();
        let per: usize = indices[b..indices.len() - 1].iter().product();
        let size: usize = x.shape()[b..].iter().product();
        let run: usize = x.shape()[b + k..].iter().product();
        let places = tuple_places(&x.shape()[b..], &inputs[1])?;
        let cells = Cells::of(x);
        let mut bytes = Vec::new();
        for (i, p) in places.iter().enumerate().take(batches * per) {
            let at = i / per * size + p;
            bytes.extend_from_slice(&cells.bytes[at * cells.width..(at + run) * cells.width]);
        }
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &bytes)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }
}

/// For each element of `indices` its own place and the place in x that it names along `axis`.
pub(super) fn element_places(
    x: &[usize],
    indices: &Tensor,
    axis: usize,
) -> Result<Vec<(usize, usize)>, OpError> {
    let s = data::strides(x);
    let tables: Vec<Vec<isize>> = indices
        .shape()
        .iter()
        .enumerate()
        .map(|(a, n)| if a == axis { vec![0; *n] } else { data::line(*n, s[a]) })
        .collect();
    let values = indices.to_i64s();
    let mut bases = Vec::with_capacity(values.len());
    data::outer(&tables, |o| bases.push(o as usize));
    let place = |(i, (v, base)): (usize, (i64, usize))| {
        Ok((i, base + data::checked_index(v, x[axis], axis)? * s[axis]))
    };
    values.into_iter().zip(bases).enumerate().map(place).collect()
}

/// The place in x that each tuple of `indices` (its last axis) names.
pub(super) fn tuple_places(x: &[usize], indices: &Tensor) -> Result<Vec<usize>, OpError> {
    let k = indices.shape()[indices.shape().len() - 1];
    let tuples: usize = indices.shape()[..indices.shape().len() - 1].iter().product();
    let s = data::strides(x);
    let values = indices.to_i64s();
    (0..tuples)
        .map(|t| (0..k).try_fold(0, |at, a| Ok(at + data::checked_index(values[t * k + a], x[a], a)? * s[a])))
        .collect()
}
