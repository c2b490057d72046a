use super::pointwise::{expr_flops, expr_type};
use super::{Fresh, OpError, Operator, TypeVec, broadcast_shapes, check};
use crate::{DType, Dim, Expr, TensorType};
use serde::{Deserialize, Serialize};

/// What a matrix operator does to its accumulators before they are stored:
/// `out = post(acc + bias, extra operands...)`.
///
/// With `bias` the operator's first operand after its matrices has shape `[channels]` (the output's last axis). `post`'s
/// input 0 is `acc + bias`; inputs 1.. are the operator's remaining operands in order, each broadcastable to the output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epilogue {
    pub bias: bool,
    pub post: Option<Expr>,
}

impl Epilogue {
    /// Number of operands that the epilogue takes after the matrices.
    pub fn operands(&self) -> usize {
        usize::from(self.bias) + self.post.as_ref().map_or(0, |p| p.arity().saturating_sub(1))
    }
}

/// `a x b` over the last two axes; leading axes broadcast by numpy's rule. Operands: a `[.., M, K]` (`[.., K, M]` if
/// `trans_a`), b `[.., K, N]` (`[.., N, K]` if `trans_b`), then the epilogue's. Output `[.., M, N]`. Both matrices have
/// rank 2 at least. Integer products are summed in the operands' own type, wrapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MatMul {
    pub trans_a: bool,
    pub trans_b: bool,
    pub epilogue: Epilogue,
}

impl Epilogue {
    /// Type of the output whose shape is `out`, for the operands after the matrices. Errors: a bias that is not
    /// `[channels]` of type `acc`, an extra operand that does not broadcast to `out`, an ill-typed expression.
    pub(super) fn infer(
        &self,
        inputs: &[&TensorType],
        first: usize,
        acc: DType,
        out: &[Dim],
    ) -> Result<DType, OpError> {
        check::arity(inputs, first + self.operands())?;
        let mut next = first;
        if self.bias {
            check::dtype(inputs, next, |t| t == acc, "the matrices' type")?;
            check::rank(inputs, next, 1)?;
            check::agree(&inputs[next].shape[0], &out[out.len() - 1], "bias against output channels")?;
            next += 1;
        }
        for i in &inputs[next..] {
            check::broadcasts_to(&i.shape, out, "epilogue operand")?;
        }
        match &self.post {
            None => Ok(acc),
            Some(post) => {
                let mut types = vec![acc];
                types.extend(inputs[next..].iter().map(|i| i.dtype));
                expr_type(post, &types)
            }
        }
    }

    /// Operations per output element.
    pub(super) fn flops(&self) -> f64 {
        f64::from(u8::from(self.bias)) + self.post.as_ref().map_or(0.0, expr_flops)
    }
}

impl Operator for MatMul {
    const NAME: &'static str = "matmul";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2 + self.epilogue.operands())?;
        let (a, b) = (inputs[0], inputs[1]);
        check::dtype(inputs, 0, |t| t != DType::Bool, "a number")?;
        check::same(inputs, 1, 0)?;
        for (operand, t) in [(0, a), (1, b)] {
            if t.rank() < 2 {
                return Err(OpError::Rank { operand, got: t.rank(), want: "2 at least".into() });
            }
        }
        let (abatch, am) = a.shape.split_at(a.rank() - 2);
        let (bbatch, bm) = b.shape.split_at(b.rank() - 2);
        let (m, ka) = if self.trans_a { (&am[1], &am[0]) } else { (&am[0], &am[1]) };
        let (kb, n) = if self.trans_b { (&bm[1], &bm[0]) } else { (&bm[0], &bm[1]) };
        check::agree(ka, kb, "inner dims of the matrices")?;
        let mut out = broadcast_shapes([abatch, bbatch])?;
        out.extend([m.clone(), n.clone()]);
        let dtype = self.epilogue.infer(inputs, 2, a.dtype, &out)?;
        Ok(check::one(dtype, out))
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let a = inputs[0];
        let k = a[a.len() - if self.trans_a { 2 } else { 1 }];
        check::elements(outputs[0]) * (2.0 * k as f64 + self.epilogue.flops())
    }
}
