use super::data::{self, Cells};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::{Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// `len` elements of an axis: `start`, `start + step`, ... All of them lie inside: bounds are clamped before they get here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SliceRange {
    pub axis: usize,
    pub start: Dim,
    pub len: Dim,
    /// Not 0.
    pub step: i64,
}

/// Strided slice; axes without a range stay whole. A split is one slice per part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slice {
    pub ranges: Vec<SliceRange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PadMode {
    Constant,
    Edge,
    Reflect,
    Wrap,
}

/// Padding by non-negative amounts per axis. Operands: x and, in constant mode, the value as a scalar of x's type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pad {
    pub mode: PadMode,
    pub before: Vec<Dim>,
    pub after: Vec<Dim>,
}

impl Operator for Slice {
    const NAME: &'static str = "slice";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let mut out = inputs[0].shape.clone();
        for (i, r) in self.ranges.iter().enumerate() {
            check::axis(r.axis, out.len())?;
            if self.ranges[..i].iter().any(|o| o.axis == r.axis) {
                return Err(check::attribute("ranges", format!("axis {} appears twice", r.axis)));
            }
            if r.step == 0 {
                return Err(check::attribute("ranges", format!("the step on axis {} is 0", r.axis)));
            }
            check::not_negative("ranges", std::slice::from_ref(&r.len))?;
            if let (Some(s), Some(n), Some(d)) = (r.start.fixed(), r.len.fixed(), out[r.axis].fixed()) {
                slice_bounds(r.axis, s, n, r.step, d)?;
            }
            out[r.axis] = r.len.clone();
        }
        Ok(check::one(inputs[0].dtype, out))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let shape = inputs[0].shape();
        let s = data::strides(shape);
        let mut tables: Vec<Vec<isize>> = (0..shape.len()).map(|a| data::line(shape[a], s[a])).collect();
        for r in &self.ranges {
            let (start, len) = (fixed(&r.start)?, fixed(&r.len)?);
            let stride = s[r.axis] as isize;
            tables[r.axis] = (0..len).map(|i| (start + i * r.step) as isize * stride).collect();
        }
        let cells = Cells::of(&inputs[0]).outer(&tables, None);
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &cells)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        for r in &mut self.ranges {
            r.start = f(&r.start);
            r.len = f(&r.len);
        }
    }
}

/// Errors unless the elements `start`, `start + step`, ... (`len` of them) lie in `0..size`.
fn slice_bounds(axis: usize, start: i64, len: i64, step: i64, size: i64) -> Result<(), OpError> {
    let inside = |i: Option<i64>| i.is_some_and(|i| (0..size).contains(&i));
    let last = (len - 1).checked_mul(step).and_then(|d| start.checked_add(d));
    if len == 0 || len > 0 && inside(Some(start)) && inside(last) {
        Ok(())
    } else {
        Err(OpError::Shape(format!(
            "axis {axis}: {len} elements from {start} by {step} do not lie inside {size}"
        )))
    }
}

impl Operator for Pad {
    const NAME: &'static str = "pad";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        let constant = self.mode == PadMode::Constant;
        check::arity(inputs, 1 + usize::from(constant))?;
        if constant {
            check::same(inputs, 1, 0)?;
            check::rank(inputs, 1, 0)?;
        }
        let shape = &inputs[0].shape;
        check::per_axis("before", &self.before, shape.len())?;
        check::per_axis("after", &self.after, shape.len())?;
        check::not_negative("before", &self.before)?;
        check::not_negative("after", &self.after)?;
        let dims = shape.iter().zip(self.before.iter().zip(&self.after)).map(|(d, (b, a))| d.add(b).add(a));
        Ok(check::one(inputs[0].dtype, dims))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let shape = inputs[0].shape();
        let s = data::strides(shape);
        let mut tables = Vec::with_capacity(shape.len());
        for a in 0..shape.len() {
            let (before, n) = (fixed(&self.before[a])?, shape[a] as i64);
            let mut table = Vec::with_capacity(outputs[0].shape[a]);
            for o in 0..outputs[0].shape[a] as i64 {
                let i = o - before;
                let inside = if (0..n).contains(&i) {
                    Some(i)
                } else if self.mode == PadMode::Constant {
                    None
                } else if n == 0 {
                    return Err(OpError::Shape(format!(
                        "axis {a} is empty: {:?} padding has nothing to repeat",
                        self.mode
                    )));
                } else {
                    Some(match self.mode {
                        PadMode::Edge => i.clamp(0, n - 1),
                        PadMode::Wrap => i.rem_euclid(n),
                        // Bounces between both ends, as numpy does for amounts beyond the size.
                        _ if n == 1 => 0,
                        _ => {
                            let p = i.rem_euclid(2 * (n - 1));
                            p.min(2 * (n - 1) - p)
                        }
                    })
                };
                table.push(inside.map_or(data::OUTSIDE, |i| i as isize * s[a] as isize));
            }
            tables.push(table);
        }
        let fill = inputs.get(1).map(Cells::of);
        let cells = Cells::of(&inputs[0]).outer(&tables, fill.as_ref().map(|f| f.at(0)));
        Ok(vec![data::from_cells(outputs[0].dtype, &outputs[0].shape, &cells)?])
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.before.iter_mut().chain(&mut self.after).for_each(|d| *d = f(d));
    }
}

fn fixed(d: &Dim) -> Result<i64, OpError> {
    d.fixed().ok_or_else(|| OpError::Shape(format!("dimension {d} has no value")))
}
