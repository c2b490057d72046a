use super::data;
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::BinaryOp;
use crate::convert::Values;
use crate::evaluate::{binary_float, binary_int};
use crate::expr::named_enum;
use crate::{DType, Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

named_enum! {
    /// Reductions. Over no elements: sums and norms give 0, `log_sum` and `log_sum_exp` minus infinity, `prod` 1, `min`/`max` the type's extreme, `mean` NaN (0 for integers).
    ReduceOp {
        Sum = "sum", Mean = "mean", Max = "max", Min = "min", Prod = "prod", L1 = "l1", L2 = "l2",
        LogSum = "log_sum", LogSumExp = "log_sum_exp", SumSquare = "sum_square",
    }
}

/// Reduction over `axes` (sorted, unique; empty means no axis: elementwise), kept as size 1 or dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reduce {
    pub op: ReduceOp,
    pub axes: Vec<usize>,
    pub keep_dims: bool,
}

/// Index (`i64`) of the largest or smallest element along an axis; of equals the first, or the last if `last`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArgReduce {
    pub max: bool,
    pub axis: usize,
    pub keep_dims: bool,
    pub last: bool,
}

/// Running sum (or product) along an axis; `exclusive` leaves out the element itself, `reverse` runs from the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cumulative {
    pub product: bool,
    pub axis: usize,
    pub exclusive: bool,
    pub reverse: bool,
}

fn without(shape: &[Dim], keep: bool, reduced: impl Fn(usize) -> bool) -> check::Shape {
    let mut out: check::Shape = SmallVec::new();
    for (i, d) in shape.iter().enumerate() {
        if !reduced(i) {
            out.push(d.clone());
        } else if keep {
            out.push(Dim::Fixed(1));
        }
    }
    out
}

impl Operator for Reduce {
    const NAME: &'static str = "reduce";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let extreme = matches!(self.op, ReduceOp::Max | ReduceOp::Min);
        check::dtype(inputs, 0, |t| extreme || t != DType::Bool, "a number")?;
        let shape = &inputs[0].shape;
        for (i, a) in self.axes.iter().enumerate() {
            check::axis(*a, shape.len())?;
            if i > 0 && self.axes[i - 1] >= *a {
                return Err(check::attribute("axes", format!("{:?} is not sorted and unique", self.axes)));
            }
        }
        Ok(check::one(inputs[0].dtype, without(shape, self.keep_dims, |i| self.axes.contains(&i))))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (x, out) = (&inputs[0], &outputs[0]);
        let kept: Vec<usize> =
            x.shape().iter().enumerate().map(|(i, d)| if self.axes.contains(&i) { 1 } else { *d }).collect();
        let tables = data::broadcast_tables(&kept, x.shape());
        let n: usize = out.shape.iter().product();
        let count = self.axes.iter().map(|a| x.shape()[*a]).product::<usize>();
        // For every element of x the place of its result.
        let each = |f: &mut dyn FnMut(usize, usize)| {
            let mut i = 0;
            data::outer(&tables, |o| {
                f(i, o as usize);
                i += 1;
            });
        };
        let integral = !matches!(self.op, ReduceOp::L2 | ReduceOp::LogSum | ReduceOp::LogSumExp);
        if !x.dtype().is_float() && integral {
            let v = x.to_i64s();
            let (lowest, highest) = extremes(x.dtype());
            let start = match self.op {
                ReduceOp::Prod => 1,
                ReduceOp::Max => lowest,
                ReduceOp::Min => highest,
                _ => 0,
            };
            let mut acc = vec![start; n];
            each(&mut |i, o| {
                let (a, v) = (&mut acc[o], v[i]);
                *a = match self.op {
                    ReduceOp::Prod => a.wrapping_mul(v),
                    ReduceOp::Max if greater(x.dtype(), v, *a) => v,
                    ReduceOp::Min if greater(x.dtype(), *a, v) => v,
                    ReduceOp::Max | ReduceOp::Min => *a,
                    ReduceOp::L1 if x.dtype().is_signed_int() => a.wrapping_add(v.wrapping_abs()),
                    ReduceOp::SumSquare => a.wrapping_add(v.wrapping_mul(v)),
                    _ => a.wrapping_add(v),
                };
            });
            if self.op == ReduceOp::Mean {
                let unsigned = x.dtype() == DType::U64;
                acc.iter_mut().for_each(|a| {
                    *a = match count {
                        0 => 0,
                        _ if unsigned => (*a as u64 / count as u64) as i64,
                        _ => *a / count as i64,
                    }
                });
            }
            return Ok(vec![Tensor::from_i64s(out.dtype, &out.shape, &acc)?]);
        }
        let v = x.to_f64s();
        let start = match self.op {
            ReduceOp::Prod => 1.0,
            ReduceOp::Max | ReduceOp::LogSumExp => f64::NEG_INFINITY,
            ReduceOp::Min => f64::INFINITY,
            _ => 0.0,
        };
        let mut acc = vec![start; n];
        each(&mut |i, o| {
            let (a, v) = (&mut acc[o], v[i]);
            *a = match self.op {
                ReduceOp::Prod => *a * v,
                ReduceOp::Max | ReduceOp::LogSumExp => binary_float(BinaryOp::Max, *a, v),
                ReduceOp::Min => binary_float(BinaryOp::Min, *a, v),
                ReduceOp::L1 => *a + v.abs(),
                ReduceOp::L2 | ReduceOp::SumSquare => *a + v * v,
                ReduceOp::Sum | ReduceOp::Mean | ReduceOp::LogSum => *a + v,
            };
        });
        match self.op {
            ReduceOp::Mean => acc.iter_mut().for_each(|a| *a /= count as f64),
            ReduceOp::L2 => acc.iter_mut().for_each(|a| *a = a.sqrt()),
            ReduceOp::LogSum => acc.iter_mut().for_each(|a| *a = a.ln()),
            ReduceOp::LogSumExp => {
                let mut sums = vec![0.0f64; n];
                each(&mut |i, o| {
                    if acc[o].is_finite() {
                        sums[o] += (v[i] - acc[o]).exp();
                    }
                });
                for (a, s) in acc.iter_mut().zip(sums) {
                    if a.is_finite() {
                        *a += s.ln();
                    }
                }
            }
            _ => {}
        }
        Ok(vec![Tensor::from_f64s(out.dtype, &out.shape, &acc)?])
    }

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        let per = match self.op {
            ReduceOp::Sum
            | ReduceOp::Mean
            | ReduceOp::Max
            | ReduceOp::Min
            | ReduceOp::Prod
            | ReduceOp::LogSum => 1.0,
            ReduceOp::L1 | ReduceOp::L2 | ReduceOp::SumSquare => 2.0,
            ReduceOp::LogSumExp => 4.0,
        };
        per * check::elements(inputs[0])
    }
}

impl Operator for ArgReduce {
    const NAME: &'static str = "arg_reduce";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        check::dtype(inputs, 0, |t| t != DType::Bool, "a number")?;
        let shape = &inputs[0].shape;
        check::axis(self.axis, shape.len())?;
        if shape[self.axis].fixed() == Some(0) {
            return Err(OpError::Shape(format!("axis {} is empty", self.axis)));
        }
        Ok(check::one(DType::I64, without(shape, self.keep_dims, |i| i == self.axis)))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let (before, n, after) = data::around(x.shape(), self.axis);
        if n == 0 {
            return Err(OpError::Shape(format!("axis {} is empty", self.axis)));
        }
        let values = Values::of(x);
        let above = |i: usize, j: usize| match &values {
            Values::Float(v) => v[i] > v[j],
            Values::Int(v) => greater(x.dtype(), v[i], v[j]),
        };
        let mut out = Vec::with_capacity(before * after);
        for b in 0..before {
            for a in 0..after {
                let at = |i: usize| (b * n + i) * after + a;
                let mut best = 0;
                for i in 1..n {
                    let (better, worse) = if self.max {
                        (above(at(i), at(best)), above(at(best), at(i)))
                    } else {
                        (above(at(best), at(i)), above(at(i), at(best)))
                    };
                    if better || self.last && !worse {
                        best = i;
                    }
                }
                out.push(best as i64);
            }
        }
        Ok(vec![Tensor::from_slice(&outputs[0].shape, &out)?])
    }

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        check::elements(inputs[0])
    }
}

impl Operator for Cumulative {
    const NAME: &'static str = "cumulative";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        check::dtype(inputs, 0, |t| t != DType::Bool, "a number")?;
        check::axis(self.axis, inputs[0].rank())?;
        Ok(smallvec![inputs[0].clone()])
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let (before, n, after) = data::around(x.shape(), self.axis);
        let op = if self.product { BinaryOp::Mul } else { BinaryOp::Add };
        let start = i64::from(self.product);
        let t = x.dtype();
        let mut values = Values::of(x);
        for b in 0..before {
            for a in 0..after {
                let at = |i: usize| (b * n + if self.reverse { n - 1 - i } else { i }) * after + a;
                match &mut values {
                    Values::Float(v) => {
                        let mut acc = start as f64;
                        for i in 0..n {
                            let next = binary_float(op, acc, v[at(i)]);
                            v[at(i)] = if self.exclusive { acc } else { next };
                            acc = next;
                        }
                    }
                    Values::Int(v) => {
                        let mut acc = start;
                        for i in 0..n {
                            let next = binary_int(op, t, acc, v[at(i)]);
                            v[at(i)] = if self.exclusive { acc } else { next };
                            acc = next;
                        }
                    }
                }
            }
        }
        Ok(vec![values.into_tensor(outputs[0].dtype, &outputs[0].shape)?])
    }

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        check::elements(inputs[0])
    }
}

/// Smallest and largest value of an integer type or `bool`, in the form of [`Values::Int`].
pub(super) fn extremes(t: DType) -> (i64, i64) {
    match t {
        DType::U64 => (0, -1),
        DType::I64 => (i64::MIN, i64::MAX),
        DType::Bool => (0, 1),
        t if t.is_signed_int() => (-(1 << (t.bits() - 1)), (1 << (t.bits() - 1)) - 1),
        t => (0, (1 << t.bits()) - 1),
    }
}

/// `a > b` for an integer type or `bool`.
pub(super) fn greater(t: DType, a: i64, b: i64) -> bool {
    if t == DType::U64 { a as u64 > b as u64 } else { a > b }
}
