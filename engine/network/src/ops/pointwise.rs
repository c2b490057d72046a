use crate::{BinaryOp, DType, Expr, UnaryOp};
use serde::{Deserialize, Serialize};

/// Elementwise function of one operand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Unary {
    pub op: UnaryOp,
}

/// Elementwise function of two operands of one type, broadcast by numpy's rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Binary {
    pub op: BinaryOp,
}

/// `condition ? a : b`; operands: condition (`bool`), a, b (one type); broadcast by numpy's rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Select;

/// Conversion of the element type. Float to integer truncates toward zero and saturates (NaN gives 0); integers wrap;
/// anything to `bool` is `!= 0`; to narrower floats rounds to nearest even.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cast {
    pub to: DType,
}

/// A fused elementwise region: `expr` over operands broadcast by numpy's rule. The output's type is the expression's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pointwise {
    pub expr: Expr,
}
