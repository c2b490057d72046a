use super::data::{self, Cells};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::convert::Values;
use crate::{DType, Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::smallvec;
use std::cmp::Ordering;

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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let depth = outputs[0].shape[self.axis];
        let at: Vec<Option<usize>> = inputs[0]
            .to_i64s()
            .into_iter()
            .map(|i| usize::try_from(if i < 0 { i + depth as i64 } else { i }).ok().filter(|i| *i < depth))
            .collect();
        let values = Cells::of(&inputs[1]);
        let after: usize = outputs[0].shape[self.axis + 1..].iter().product();
        let mut bytes = Vec::new();
        for o in 0..outputs[0].shape.iter().product() {
            let (b, d, a) = (o / (depth * after), o / after % depth, o % after);
            bytes.extend_from_slice(values.at(usize::from(at[b * after + a] == Some(d))));
        }
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &bytes)?])
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let (before, n, after) = data::around(x.shape(), self.axis);
        let k = outputs[0].shape[self.axis];
        let values = Values::of(x);
        let cells = Cells::of(x);
        let mut bytes = vec![0; before * k * after * cells.width];
        let mut indices = vec![0i64; before * k * after];
        for b in 0..before {
            for a in 0..after {
                let at = |i: usize| (b * n + i) * after + a;
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by(|&i, &j| {
                    let rising = match &values {
                        Values::Float(v) => float_order(v[at(i)], v[at(j)]),
                        Values::Int(v) if x.dtype() == DType::U64 => {
                            (v[at(i)] as u64).cmp(&(v[at(j)] as u64))
                        }
                        Values::Int(v) => v[at(i)].cmp(&v[at(j)]),
                    };
                    if self.largest { rising.reverse() } else { rising }
                });
                for (r, &i) in order[..k].iter().enumerate() {
                    let to = (b * k + r) * after + a;
                    bytes[to * cells.width..(to + 1) * cells.width].copy_from_slice(cells.at(at(i)));
                    indices[to] = i as i64;
                }
            }
        }
        Ok(vec![
            data::from_cells(outputs[0].dtype, &outputs[0].shape, &bytes)?,
            Tensor::from_slice(&outputs[1].shape, &indices)?,
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

    fn eval(&self, inputs: &[Tensor], _: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let hit: Vec<usize> = match Values::of(x) {
            Values::Float(v) => (0..v.len()).filter(|i| v[*i] != 0.0).collect(),
            Values::Int(v) => (0..v.len()).filter(|i| v[*i] != 0).collect(),
        };
        let s = data::strides(x.shape());
        let coordinate = |a: usize, i: usize| (i / s[a] % x.shape()[a]) as i64;
        let out: Vec<i64> = (0..s.len())
            .flat_map(|a| hit.iter().map(move |i| (a, *i)))
            .map(|(a, i)| coordinate(a, i))
            .collect();
        Ok(vec![Tensor::from_slice(&[s.len(), hit.len()], &out)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }
}

/// By value, with -0 equal to 0 and NaN above everything.
pub(super) fn float_order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
