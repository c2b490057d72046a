use super::data::{self, Cells};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, assume, check};
use crate::{Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// Output axis `i` is input axis `perm[i]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transpose {
    pub perm: Vec<usize>,
}

/// The same elements in row-major order under another shape of as many elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reshape {
    pub shape: Vec<Dim>,
}

/// Broadcast to `shape` by numpy's rule; the operand's rank is at most `shape`'s, its dims equal or 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Expand {
    pub shape: Vec<Dim>,
}

/// Concatenation of one operand at least along `axis`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Concat {
    pub axis: usize,
}

/// Repeats the whole tensor `repeats[i]` times along axis `i`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tile {
    pub repeats: Vec<Dim>,
}

impl Operator for Transpose {
    const NAME: &'static str = "transpose";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let shape = &inputs[0].shape;
        check::per_axis("perm", &self.perm, shape.len())?;
        if !(0..shape.len()).all(|i| self.perm.contains(&i)) {
            return Err(check::attribute("perm", format!("{:?} is not a permutation", self.perm)));
        }
        Ok(check::one(inputs[0].dtype, self.perm.iter().map(|&p| shape[p].clone())))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let s = data::strides(inputs[0].shape());
        let tables: Vec<Vec<isize>> =
            self.perm.iter().map(|&p| data::line(inputs[0].shape()[p], s[p])).collect();
        let cells = Cells::of(&inputs[0]).outer(&tables, None);
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &cells)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }
}

impl Operator for Reshape {
    const NAME: &'static str = "reshape";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        check::not_negative("shape", &self.shape)?;
        let (from, to) = (inputs[0].count(), Dim::product(&self.shape));
        if let (Some(a), Some(b)) = (from.fixed(), to.fixed())
            && a != b
        {
            return Err(OpError::Shape(format!(
                "{:?} has {a} elements, {:?} has {b}",
                inputs[0].shape, self.shape
            )));
        }
        assume::equal(&from, &to);
        Ok(check::one(inputs[0].dtype, self.shape.iter().cloned()))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        Ok(vec![inputs[0].reshaped(&outputs[0].shape)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.shape.iter_mut().for_each(|d| *d = f(d));
    }
}

impl Operator for Expand {
    const NAME: &'static str = "expand";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        check::not_negative("shape", &self.shape)?;
        check::broadcasts_to(&inputs[0].shape, &self.shape, "expand")?;
        Ok(check::one(inputs[0].dtype, self.shape.iter().cloned()))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let tables = data::broadcast_tables(inputs[0].shape(), &outputs[0].shape);
        let cells = Cells::of(&inputs[0]).outer(&tables, None);
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &cells)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.shape.iter_mut().for_each(|d| *d = f(d));
    }
}

impl Operator for Concat {
    const NAME: &'static str = "concat";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        let Some(first) = inputs.first() else {
            return Err(OpError::Arity { want: "1 at least".into(), got: 0 });
        };
        check::axis(self.axis, first.rank())?;
        let mut out = first.shape.clone();
        for i in 1..inputs.len() {
            check::same(inputs, i, 0)?;
            check::rank(inputs, i, first.rank())?;
            for (a, (o, d)) in out.iter_mut().zip(&inputs[i].shape).enumerate() {
                *o = if a == self.axis {
                    o.add(d)
                } else {
                    check::agree(o, d, &format!("axis {a} of operand {i}"))?
                };
            }
        }
        Ok(check::one(first.dtype, out))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let parts: Vec<(Cells<'_>, usize)> = inputs
            .iter()
            .map(|t| {
                let (_, n, after) = data::around(t.shape(), self.axis);
                let cells = Cells::of(t);
                let run = n * after * cells.width;
                (cells, run)
            })
            .collect();
        let (before, ..) = data::around(&outputs[0].shape, self.axis);
        let mut bytes = Vec::new();
        for b in 0..before {
            for (cells, run) in &parts {
                bytes.extend_from_slice(&cells.bytes[b * run..(b + 1) * run]);
            }
        }
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &bytes)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }
}

impl Operator for Tile {
    const NAME: &'static str = "tile";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        check::per_axis("repeats", &self.repeats, inputs[0].rank())?;
        check::not_negative("repeats", &self.repeats)?;
        let dims = inputs[0].shape.iter().zip(&self.repeats).map(|(d, r)| d.mul(r));
        Ok(check::one(inputs[0].dtype, dims))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let shape = inputs[0].shape();
        let s = data::strides(shape);
        let tables: Vec<Vec<isize>> = (0..shape.len())
            .map(|a| (0..outputs[0].shape[a]).map(|i| (i % shape[a] * s[a]) as isize).collect())
            .collect();
        let cells = Cells::of(&inputs[0]).outer(&tables, None);
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &cells)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.repeats.iter_mut().for_each(|d| *d = f(d));
    }
}
