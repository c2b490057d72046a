use super::{Fresh, OpError, Operator, TypeVec, broadcast_shapes, check};
use crate::{BinaryOp, DType, Expr, ExprNode, TensorType, UnaryOp};
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

impl Operator for Unary {
    const NAME: &'static str = "unary";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let t = inputs[0].dtype;
        let r = self.op.result(t).ok_or(OpError::Type { operand: 0, got: t, want: unary_domain(self.op) })?;
        Ok(check::one(r, inputs[0].shape.iter().cloned()))
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        check::elements(outputs[0])
    }
}

fn unary_domain(op: UnaryOp) -> &'static str {
    match op {
        UnaryOp::Not => "bool",
        UnaryOp::BitNot => "an integer type",
        UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Sign | UnaryOp::Relu => "a number",
        _ => "a float type",
    }
}

impl Operator for Binary {
    const NAME: &'static str = "binary";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2)?;
        check::same(inputs, 1, 0)?;
        let t = inputs[0].dtype;
        let want = match self.op {
            BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => "bool",
            BinaryOp::BitAnd | BinaryOp::BitOr | BinaryOp::BitXor | BinaryOp::Shl | BinaryOp::Shr => {
                "an integer type"
            }
            _ => "a number",
        };
        let r = self.op.result(t).ok_or(OpError::Type { operand: 0, got: t, want })?;
        Ok(check::one(r, broadcast_shapes(inputs.iter().map(|i| &i.shape[..]))?))
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        check::elements(outputs[0])
    }
}

impl Operator for Select {
    const NAME: &'static str = "select";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 3)?;
        check::dtype(inputs, 0, |t| t == DType::Bool, "bool")?;
        check::same(inputs, 2, 1)?;
        Ok(check::one(inputs[1].dtype, broadcast_shapes(inputs.iter().map(|i| &i.shape[..]))?))
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        check::elements(outputs[0])
    }
}

impl Operator for Cast {
    const NAME: &'static str = "cast";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        Ok(check::one(self.to, inputs[0].shape.iter().cloned()))
    }

    fn flops(&self, _: &[&[usize]], _: &[&[usize]]) -> f64 {
        0.0
    }
}

/// Operations per element: every function, operation and selection, but no conversion.
pub(super) fn expr_flops(expr: &Expr) -> f64 {
    let counts =
        |n: &&ExprNode| matches!(n, ExprNode::Unary(..) | ExprNode::Binary(..) | ExprNode::Select(..));
    expr.nodes().iter().filter(counts).count() as f64
}

/// Type of an expression's result. Errors name the first ill-typed node.
pub(super) fn expr_type(expr: &Expr, inputs: &[DType]) -> Result<DType, OpError> {
    match expr.types(inputs) {
        Ok(t) => Ok(t[t.len() - 1]),
        Err(i) => Err(check::attribute(
            "expr",
            match expr.nodes().get(i) {
                Some(n) => format!("node {i} ({n:?}) does not type for operands {inputs:?}"),
                None => "is empty".to_owned(),
            },
        )),
    }
}

impl Operator for Pointwise {
    const NAME: &'static str = "pointwise";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        // An expression may ignore trailing operands: they still take part in the shape.
        if inputs.len() < self.expr.arity() || inputs.is_empty() {
            return Err(OpError::Arity { want: self.expr.arity().max(1).to_string(), got: inputs.len() });
        }
        let types: Vec<DType> = inputs.iter().map(|i| i.dtype).collect();
        Ok(check::one(expr_type(&self.expr, &types)?, broadcast_shapes(inputs.iter().map(|i| &i.shape[..]))?))
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        expr_flops(&self.expr) * check::elements(outputs[0])
    }
}
