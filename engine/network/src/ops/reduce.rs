use super::{Fresh, OpError, Operator, TypeVec, check};
use crate::expr::named_enum;
use crate::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

named_enum! {
    /// Reductions. Over no elements: sum-like give 0, `prod` 1, `min`/`max` the type's extreme, `mean` NaN (0 for integers).
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

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        check::elements(inputs[0])
    }
}
