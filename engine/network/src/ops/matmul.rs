use super::data;
use super::pointwise::{expr_flops, expr_type};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, broadcast_shapes, check};
use crate::convert::{Values, wrap};
use crate::{DType, Dim, Expr, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// What a matrix operator does to its accumulators before they are stored:
/// `out = post(acc + bias, extra operands...)`.
///
/// With `bias` the operator's first operand after its matrices has shape `[channels]` (the output's last axis) and their type;
/// beside half-width floats it may be `f32`. `post`'s input 0 is `acc + bias`, of the matrices' type; inputs 1.. are the
/// operator's remaining operands in order, each broadcastable to the output.
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
    /// `[channels]` of type `acc` (or `f32` beside half-width floats), an extra operand that does not broadcast to `out`, an
    /// ill-typed expression.
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
            let half = matches!(acc, DType::F16 | DType::BF16);
            check::dtype(
                inputs,
                next,
                |t| t == acc || half && t == DType::F32,
                "the matrices' type, or f32 beside half-width floats",
            )?;
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

    /// `post(acc + bias, extra operands...)` as a tensor of type `out`; `first` is the first operand after the matrices.
    pub(super) fn apply(
        &self,
        acc: Values,
        dtype: DType,
        inputs: &[Tensor],
        first: usize,
        out: &OutputType,
    ) -> Result<Tensor, OpError> {
        let mut acc = acc;
        let mut next = first;
        if self.bias {
            match (&mut acc, Values::of(&inputs[next])) {
                (Values::Float(acc), Values::Float(bias)) if !bias.is_empty() => {
                    for row in acc.chunks_exact_mut(bias.len()) {
                        row.iter_mut().zip(&bias).for_each(|(a, b)| *a += b);
                    }
                }
                (Values::Int(acc), Values::Int(bias)) if !bias.is_empty() => {
                    for row in acc.chunks_exact_mut(bias.len()) {
                        row.iter_mut().zip(&bias).for_each(|(a, b)| *a = a.wrapping_add(*b));
                    }
                }
                _ => {}
            }
            next += 1;
        }
        if let Values::Int(acc) = &mut acc {
            acc.iter_mut().for_each(|a| *a = wrap(dtype, *a));
        }
        let Some(post) = &self.post else { return Ok(acc.into_tensor(out.dtype, &out.shape)?) };
        let n = acc.len();
        let (mut types, mut operands) = (vec![dtype], vec![acc]);
        for t in &inputs[next..] {
            types.push(t.dtype());
            operands.push(data::broadcast(t, &out.shape));
        }
        Ok(data::evaluate(post, &types, &operands, n, out.dtype)?.into_tensor(out.dtype, &out.shape)?)
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let out = &outputs[0];
        let (a, b) = (&inputs[0], &inputs[1]);
        let (abatch, am) = a.shape().split_at(a.shape().len() - 2);
        let (bbatch, bm) = b.shape().split_at(b.shape().len() - 2);
        let (m, k) = if self.trans_a { (am[1], am[0]) } else { (am[0], am[1]) };
        let n = if self.trans_b { bm[0] } else { bm[1] };
        let batch = &out.shape[..out.shape.len() - 2];
        let (mut at_a, mut at_b) = (Vec::new(), Vec::new());
        data::outer(&data::broadcast_tables(abatch, batch), |o| at_a.push(o as usize * m * k));
        data::outer(&data::broadcast_tables(bbatch, batch), |o| at_b.push(o as usize * k * n));
        let dims = Matrices { m, k, n, trans_a: self.trans_a, trans_b: self.trans_b };
        let acc = match (Values::of(a), Values::of(b)) {
            (Values::Float(a), Values::Float(b)) => Values::Float(dims.multiply(&a, &b, &at_a, &at_b)),
            (Values::Int(a), Values::Int(b)) => Values::Int(dims.multiply(&a, &b, &at_a, &at_b)),
            _ => return Err(OpError::Eval("operands of different kinds".into())),
        };
        Ok(vec![self.epilogue.apply(acc, a.dtype(), inputs, 2, out)?])
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let a = inputs[0];
        let k = a[a.len() - if self.trans_a { 2 } else { 1 }];
        check::elements(outputs[0]) * (2.0 * k as f64 + self.epilogue.flops())
    }
}

/// The arithmetic of accumulators.
pub(super) trait Accumulate: Copy + Default {
    /// `self + a * b`, wrapping for integers.
    fn plus_product(self, a: Self, b: Self) -> Self;
}

impl Accumulate for f64 {
    fn plus_product(self, a: f64, b: f64) -> f64 {
        self + a * b
    }
}

impl Accumulate for i64 {
    fn plus_product(self, a: i64, b: i64) -> i64 {
        self.wrapping_add(a.wrapping_mul(b))
    }
}

/// `row[j] += a * b[j]`.
pub(super) fn axpy<T: Accumulate>(row: &mut [T], a: T, b: &[T]) {
    for (r, b) in row.iter_mut().zip(b) {
        *r = r.plus_product(a, *b);
    }
}

struct Matrices {
    m: usize,
    k: usize,
    n: usize,
    trans_a: bool,
    trans_b: bool,
}

impl Matrices {
    /// Products of the matrices that start at `at_a[i]` and `at_b[i]`.
    fn multiply<T: Accumulate>(&self, a: &[T], b: &[T], at_a: &[usize], at_b: &[usize]) -> Vec<T> {
        let Matrices { m, k, n, .. } = *self;
        let mut out = vec![T::default(); at_a.len() * m * n];
        let mut turned = Vec::new();
        for (i, (&at_a, &at_b)) in at_a.iter().zip(at_b).enumerate() {
            let mut b = &b[at_b..at_b + k * n];
            if self.trans_b {
                turned.clear();
                (0..k * n).for_each(|e| turned.push(b[e % n * k + e / n]));
                b = &turned;
            }
            for r in 0..m {
                let row = &mut out[(i * m + r) * n..(i * m + r + 1) * n];
                for p in 0..k {
                    let x = a[at_a + if self.trans_a { p * m + r } else { r * k + p }];
                    axpy(row, x, &b[p * n..(p + 1) * n]);
                }
            }
        }
        out
    }
}
