use super::data::{self, Cells};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, broadcast_shapes, check};
use crate::convert::Values;
use crate::evaluate;
use crate::{BinaryOp, DType, Expr, ExprNode, Tensor, TensorType, UnaryOp};
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = Values::of(&inputs[0]);
        let y = evaluate::unary(self.op, inputs[0].dtype(), &x);
        Ok(vec![y.into_tensor(outputs[0].dtype, &outputs[0].shape)?])
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let out = &outputs[0];
        let (a, b) = (data::broadcast(&inputs[0], &out.shape), data::broadcast(&inputs[1], &out.shape));
        let y = evaluate::binary(self.op, inputs[0].dtype(), &a, &b);
        Ok(vec![y.into_tensor(out.dtype, &out.shape)?])
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let out = &outputs[0];
        let condition = Values::of(&inputs[0]);
        let Values::Int(condition) = condition else {
            return Err(OpError::Eval("the condition is not bool".into()));
        };
        // Bytes are taken over as they are, so that NaN payloads and 64-bit integers stay.
        let (a, b) = (Cells::of(&inputs[1]), Cells::of(&inputs[2]));
        let tables = |t: &Tensor| data::broadcast_tables(t.shape(), &out.shape);
        let (a, b) = (a.outer(&tables(&inputs[1]), None), b.outer(&tables(&inputs[2]), None));
        let n = out.shape.iter().product::<usize>();
        let width = a.len().checked_div(n).unwrap_or(1);
        let mut bytes = Vec::with_capacity(a.len());
        let mut i = 0;
        data::outer(&tables(&inputs[0]), |o| {
            let from = if condition[o as usize] != 0 { &a } else { &b };
            bytes.extend_from_slice(&from[i * width..(i + 1) * width]);
            i += 1;
        });
        Ok(vec![data::from_cells(out.dtype, &out.shape, &bytes)?])
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        if x.dtype() == self.to {
            return Ok(vec![x.clone()]);
        }
        let y = evaluate::cast(x.dtype(), self.to, &Values::of(x));
        Ok(vec![y.into_tensor(self.to, &outputs[0].shape)?])
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let out = &outputs[0];
        let types: Vec<DType> = inputs.iter().map(Tensor::dtype).collect();
        let operands: Vec<Values> = inputs.iter().map(|t| data::broadcast(t, &out.shape)).collect();
        let n = out.shape.iter().product();
        let y = data::evaluate(&self.expr, &types, &operands, n, out.dtype)?;
        Ok(vec![y.into_tensor(out.dtype, &out.shape)?])
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        expr_flops(&self.expr) * check::elements(outputs[0])
    }
}
