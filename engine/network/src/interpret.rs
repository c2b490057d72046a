//! The reference run of a whole network: what engines are tested against.

use crate::convert::Values;
use crate::{
    DType, Def, Expr, ExprNode, Network, NetworkError, Op, Scalar, SymbolSource, Tensor, ValueId, ops,
};
use std::borrow::Cow;

impl Network {
    /// Evaluates the network node by node with [`crate::Op::eval`]. Errors: inputs that do not fit, and whatever an operator reports.
    pub fn eval(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, NetworkError> {
        self.interpret(inputs, Arithmetic::Declared)
    }

    /// The same with every float value kept in `f64`, whatever narrower type the network declares: the truth that the
    /// error of an engine, or of any other runtime, is measured against. Float outputs are `f64`.
    pub fn eval_in_double(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, NetworkError> {
        self.interpret(inputs, Arithmetic::Double)
    }

    fn interpret(&self, inputs: &[Tensor], arithmetic: Arithmetic) -> Result<Vec<Tensor>, NetworkError> {
        if inputs.len() != self.inputs.len() {
            return Err(NetworkError::Invalid(format!("{} inputs, not {}", inputs.len(), self.inputs.len())));
        }
        let mut env = vec![0; self.symbols.len()];
        let mut values: Vec<Option<Tensor>> = vec![None; self.values.len()];
        for (i, (v, t)) in self.inputs.iter().zip(inputs).enumerate() {
            if t.dtype() != self.ty(*v).dtype {
                return Err(NetworkError::Invalid(format!(
                    "input {i} is {}, not {}",
                    t.dtype(),
                    self.ty(*v).dtype
                )));
            }
            values[v.index()] = Some(arithmetic.tensor(t)?);
        }
        self.bind(&|i| inputs[i].shape(), &|i, k| inputs[i].get_i64(k), &mut env).map_err(|e| {
            let name = e.input().map_or("", |i| &self.value(self.inputs[i]).name);
            NetworkError::Invalid(format!("input `{name}`: {e}"))
        })?;
        let read = |values: &[Option<Tensor>], v: ValueId| match (&values[v.index()], self.constant(v)) {
            (Some(t), _) => Ok(t.clone()),
            (None, Some(t)) => arithmetic.tensor(t),
            (None, None) => Err(NetworkError::Invalid(format!(
                "value {v} (`{}`) is read before it is computed",
                self.value(v).name
            ))),
        };
        let mut uses = self.use_counts();
        for (id, node) in self.nodes() {
            let operands = node.inputs.iter().map(|v| read(&values, *v)).collect::<Result<Vec<_>, _>>()?;
            let results = arithmetic
                .op(&node.op)
                .eval(&operands, &env)
                .map_err(|source| NetworkError::Op { name: node.name.clone(), op: node.op.name(), source })?;
            for (i, s) in self.symbols.iter().enumerate() {
                match s.source {
                    SymbolSource::Data { node, output, axis } if node == id => {
                        env[i] = results[output as usize].shape()[axis as usize] as i64;
                    }
                    SymbolSource::DataElement { node, output, index } if node == id => {
                        env[i] = results[output as usize].get_i64(index as usize);
                    }
                    _ => {}
                }
            }
            for (v, t) in node.outputs.iter().zip(results) {
                let planned = ops::eval_shape(&self.ty(*v).shape, &env).map_err(|source| {
                    NetworkError::Op { name: node.name.clone(), op: node.op.name(), source }
                })?;
                let dtype = arithmetic.dtype(self.ty(*v).dtype);
                if planned != t.shape() || t.dtype() != dtype {
                    return Err(NetworkError::Invalid(format!(
                        "node `{}` ({}) gave {}{:?}, inferred was {dtype}{planned:?}",
                        node.name,
                        node.op.name(),
                        t.dtype(),
                        t.shape(),
                    )));
                }
                values[v.index()] = Some(t);
            }
            // What nobody reads any more need not stay in memory.
            for v in &node.inputs {
                uses[v.index()] -= 1;
                if uses[v.index()] == 0 && !matches!(self.value(*v).def, Def::Constant(_)) {
                    values[v.index()] = None;
                }
            }
        }
        self.outputs.iter().map(|v| read(&values, *v)).collect()
    }
}

/// The types in which float values are kept between operators.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arithmetic {
    /// As the network says.
    Declared,
    /// All in `f64`.
    Double,
}

impl Arithmetic {
    fn dtype(self, declared: DType) -> DType {
        if self == Arithmetic::Double && declared.is_float() { DType::F64 } else { declared }
    }

    fn tensor(self, t: &Tensor) -> Result<Tensor, NetworkError> {
        let dtype = self.dtype(t.dtype());
        if dtype == t.dtype() {
            return Ok(t.clone());
        }
        Values::of(t).into_tensor(dtype, t.shape()).map_err(|e| NetworkError::Invalid(e.to_string()))
    }

    /// The operator with the float types among its attributes changed.
    fn op(self, op: &Op) -> Cow<'_, Op> {
        if self == Arithmetic::Declared {
            return Cow::Borrowed(op);
        }
        let mut op = op.clone();
        match &mut op {
            Op::Cast(c) => c.to = self.dtype(c.to),
            Op::Pointwise(p) => p.expr = self.expr(&p.expr),
            Op::MatMul(ops::MatMul { epilogue, .. })
            | Op::Conv(ops::Conv { epilogue, .. })
            | Op::ConvTranspose(ops::ConvTranspose { epilogue, .. }) => {
                epilogue.post = epilogue.post.as_ref().map(|e| self.expr(e));
            }
            _ => {}
        }
        Cow::Owned(op)
    }

    fn expr(self, expr: &Expr) -> Expr {
        expr.map_nodes(|node| match node {
            ExprNode::Const(s) if s.dtype().is_float() => {
                ExprNode::Const(Scalar::float(self.dtype(s.dtype()), s.to_f64()))
            }
            ExprNode::Cast(to, a) => ExprNode::Cast(self.dtype(to), a),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Binary, Cast, Epilogue, MatMul, Pointwise};
    use crate::{BinaryOp, Dim, TensorType};

    /// `(x * w + 1) cast to f16 - 1`, as a region with a constant and a cast.
    fn network() -> Network {
        let mut net = Network::new("n");
        let x = net.add_input("x", TensorType::new(DType::F32, [Dim::Fixed(1), Dim::Fixed(2)]));
        let w = net.add_constant("w", Tensor::from_slice(&[2, 1], &[1e-9f32, 2e-9]).unwrap());
        let product = MatMul { trans_a: false, trans_b: false, epilogue: Epilogue::default() };
        let y = net.add("y", product.into(), &[x, w]).unwrap();
        let mut expr = Expr::new();
        let input = expr.push(ExprNode::Input(0));
        let one = expr.push(ExprNode::Const(Scalar::f32(1.0)));
        let sum = expr.push(ExprNode::Binary(BinaryOp::Add, input, one));
        expr.push(ExprNode::Cast(DType::F16, sum));
        let narrow = net.add("narrow", Pointwise { expr }.into(), &[y]).unwrap();
        let wide = net.add("wide", Cast { to: DType::F32 }.into(), &[narrow]).unwrap();
        let one = net.add_constant("one", Tensor::from_slice(&[1], &[1f32]).unwrap());
        let z = net.add("z", Binary { op: BinaryOp::Sub }.into(), &[wide, one]).unwrap();
        net.set_outputs(vec![z]);
        net
    }

    #[test]
    fn double_evaluation_rounds_nowhere() {
        let x = Tensor::from_slice(&[1, 2], &[3f32, 4.0]).unwrap();
        let declared = network().eval(std::slice::from_ref(&x)).unwrap();
        assert_eq!((declared[0].dtype(), declared[0].get_f64(0)), (DType::F32, 0.0));
        let double = network().eval_in_double(&[x]).unwrap();
        assert_eq!(double[0].dtype(), DType::F64);
        let exact = 3.0 * f64::from(1e-9f32) + 4.0 * f64::from(2e-9f32);
        assert!((double[0].get_f64(0) - exact).abs() < 1e-15, "{:?}", double[0]);
    }

    #[test]
    fn inputs_that_do_not_fit_are_named() {
        let error = network().eval_in_double(&[Tensor::from_slice(&[1, 2], &[1i32, 2]).unwrap()]);
        assert_eq!(error.unwrap_err().to_string(), "input 0 is i32, not f32");
    }
}
