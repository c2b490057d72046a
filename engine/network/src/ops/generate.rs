use super::data::{self, Cells};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::convert::Values;
use crate::{DType, Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::smallvec;

/// `start + i * delta` for `i` in `0..len`. Operands: scalars start, delta of one type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Range {
    pub len: Dim,
}

/// Shape arithmetic as data: a tensor with the values of `dims`; a vector, or a scalar of one dim. No operands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShapeTensor {
    pub dims: Vec<Dim>,
    pub scalar: bool,
    /// An integer type.
    pub dtype: DType,
}

/// The upper or lower triangle of the last two axes, the rest zero: keeps `j >= i + k` (upper) or `j <= i + k` (lower).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Trilu {
    pub upper: bool,
    pub k: Dim,
}

impl Operator for Range {
    const NAME: &'static str = "range";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2)?;
        check::dtype(inputs, 0, |t| t != DType::Bool, "a number")?;
        check::same(inputs, 1, 0)?;
        check::rank(inputs, 0, 0)?;
        check::rank(inputs, 1, 0)?;
        check::not_negative("len", std::slice::from_ref(&self.len))?;
        Ok(check::one(inputs[0].dtype, [self.len.clone()]))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let out = &outputs[0];
        let n = out.shape[0] as i64;
        let t = match (Values::of(&inputs[0]), Values::of(&inputs[1])) {
            (Values::Float(s), Values::Float(d)) => {
                let v: Vec<f64> = (0..n).map(|i| s[0] + i as f64 * d[0]).collect();
                Tensor::from_f64s(out.dtype, &out.shape, &v)?
            }
            (Values::Int(s), Values::Int(d)) => {
                let v: Vec<i64> = (0..n).map(|i| s[0].wrapping_add(i.wrapping_mul(d[0]))).collect();
                Tensor::from_i64s(out.dtype, &out.shape, &v)?
            }
            _ => return Err(OpError::Eval("start and delta are of different kinds".into())),
        };
        Ok(vec![t])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.len = f(&self.len);
    }
}

impl Operator for ShapeTensor {
    const NAME: &'static str = "shape_tensor";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 0)?;
        if !self.dtype.is_int() {
            return Err(check::attribute("dtype", format!("{} is not an integer type", self.dtype)));
        }
        if self.scalar && self.dims.len() != 1 {
            return Err(check::attribute("dims", format!("a scalar of {} values", self.dims.len())));
        }
        let vector = (!self.scalar).then(|| Dim::from(self.dims.len()));
        Ok(check::one(self.dtype, vector))
    }

    fn eval(&self, _: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let values: Vec<i64> = self.dims.iter().filter_map(Dim::fixed).collect();
        Ok(vec![Tensor::from_i64s(self.dtype, &outputs[0].shape, &values)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.dims.iter_mut().for_each(|d| *d = f(d));
    }
}

impl Operator for Trilu {
    const NAME: &'static str = "trilu";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let r = inputs[0].rank();
        if r < 2 {
            return Err(OpError::Rank { operand: 0, got: r, want: "2 at least".into() });
        }
        Ok(smallvec![inputs[0].clone()])
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let (rows, columns) = (x.shape()[x.shape().len() - 2], x.shape()[x.shape().len() - 1]);
        let k = self.k.fixed().unwrap_or(0);
        let cells = Cells::of(x);
        let mut bytes = vec![0; cells.bytes.len()];
        for (e, (to, from)) in
            bytes.chunks_exact_mut(cells.width).zip(cells.bytes.chunks_exact(cells.width)).enumerate()
        {
            let (i, j) = ((e / columns % rows) as i64, (e % columns) as i64);
            let edge = i.saturating_add(k);
            if if self.upper { j >= edge } else { j <= edge } {
                to.copy_from_slice(from);
            }
        }
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &bytes)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.k = f(&self.k);
    }
}
