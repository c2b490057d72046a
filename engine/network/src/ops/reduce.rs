use crate::expr::named_enum;
use serde::{Deserialize, Serialize};

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
