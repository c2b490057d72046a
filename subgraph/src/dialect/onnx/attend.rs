//! Scaled dot-product attention, which several operators spell, and the heads of their operands.

use engraft_network::{BinaryOp, DType, Dim, Scalar, UnaryOp, ValueId, ops};

use super::conv::size_of;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

/// What happens to the scores `q k'` before their softmax, in this order.
#[derive(Default)]
pub(super) struct Scores {
    pub(super) scale: f64,
    /// `cap * tanh(scores / cap)`, unless 0.
    pub(super) cap: f64,
    /// A term of the operands' type that broadcasts to `[B, H, S, T]`.
    pub(super) added: Option<ValueId>,
    /// `bool`, broadcast likewise: the keys that take part. A query without any gives 0.
    pub(super) allowed: Option<ValueId>,
    /// Query `i` sees the keys up to `i + offset`.
    pub(super) causal: Option<Dim>,
}

/// `softmax(scores) v` of q `[B, H, S, D]`, k `[B, G, T, D]` and v `[B, G, T, E]`: `[B, H, S, E]`. G divides H, and the
/// query heads that share a key head stand beside each other.
pub(super) fn attend(n: &mut NodeLowering, [q, k, v]: [ValueId; 3], scores: Scores) -> Result<ValueId> {
    if [q, k, v].iter().any(|&value| n.rank(value) != 4) {
        return Err(Reject::invalid("queries, keys and values want rank 3 or 4"));
    }
    let (dtype, rows, keys) = (n.dtype(q), n.shape(q)[2].clone(), n.shape(k)[2].clone());
    let is_one_operator = scores.cap == 0.0 && matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    let (mut allowed, mut causal) = (scores.allowed, false);
    if let Some(offset) = &scores.causal {
        causal = is_one_operator && *offset == keys.sub(&rows);
        if !causal {
            let seen = triangle(n, &rows, &keys, offset)?;
            allowed = Some(match allowed {
                Some(allowed) => n.binary(BinaryOp::And, allowed, seen)?,
                None => seen,
            });
        }
    }
    if !is_one_operator {
        return spelled_out(n, [q, k, v], &Scores { allowed, ..scores });
    }
    let mask = match (scores.added, allowed) {
        (Some(added), Some(allowed)) => {
            let never = n.scalar(dtype, f64::NEG_INFINITY)?;
            Some(n.emit(ops::Select, &[allowed, added, never])?)
        }
        (added, allowed) => added.or(allowed),
    };
    let op = ops::Attention { scale: Scalar::float(dtype, scores.scale), causal, mask: mask.is_some() };
    let inputs: Vec<ValueId> = [q, k, v].into_iter().chain(mask).collect();
    n.emit(op, &inputs)
}

/// [`attend`] as products and a softmax; causality is part of `allowed`.
fn spelled_out(n: &mut NodeLowering, [mut q, k, v]: [ValueId; 3], how: &Scores) -> Result<ValueId> {
    let dtype = n.dtype(q);
    let [batch, heads, rows, size] = four(n, q)?;
    let [_, groups, keys, _] = four(n, k)?;
    let value_size = n.shape(v)[3].clone();
    let (mut keys_of, mut values_of) = (k, v);
    let grouped = heads != groups;
    if grouped {
        let (share, one) = (heads.floor_div(&groups), Dim::Fixed(1));
        q = n.reshape(q, vec![batch.clone(), groups.clone(), share, rows.clone(), size.clone()])?;
        keys_of = n.reshape(k, vec![batch.clone(), groups.clone(), one.clone(), keys.clone(), size])?;
        values_of = n.reshape(v, vec![batch.clone(), groups, one, keys.clone(), value_size.clone()])?;
    }
    let swap: &[usize] = if grouped { &[0, 1, 2, 4, 3] } else { &[0, 1, 3, 2] };
    let turned = n.transpose(keys_of, swap)?;
    let mut scores = n.emit(ops::MatMul::default(), &[q, turned])?;
    scores = n.reshape(scores, vec![batch.clone(), heads.clone(), rows.clone(), keys.clone()])?;
    scores = n.with_scalar(BinaryOp::Mul, scores, how.scale)?;
    if how.cap != 0.0 {
        scores = n.with_scalar(BinaryOp::Div, scores, how.cap)?;
        scores = n.unary(UnaryOp::Tanh, scores)?;
        scores = n.with_scalar(BinaryOp::Mul, scores, how.cap)?;
    }
    if let Some(added) = how.added {
        scores = n.binary(BinaryOp::Add, scores, added)?;
    }
    if let Some(allowed) = how.allowed {
        let never = n.scalar(dtype, f64::NEG_INFINITY)?;
        scores = n.emit(ops::Select, &[allowed, scores, never])?;
    }
    let mut weights = n.emit(ops::Softmax { axis: 3, log: false }, &[scores])?;
    if let Some(allowed) = how.allowed {
        let zero = n.scalar(dtype, 0.0)?;
        weights = n.emit(ops::Select, &[allowed, weights, zero])?;
    }
    if grouped {
        let wanted = [&n.shape(q)[..4], std::slice::from_ref(&keys)].concat();
        weights = n.reshape(weights, wanted)?;
    }
    let y = n.emit(ops::MatMul::default(), &[weights, values_of])?;
    n.reshape(y, vec![batch, heads, rows, value_size])
}

fn four(n: &NodeLowering, x: ValueId) -> Result<[Dim; 4]> {
    <[Dim; 4]>::try_from(n.shape(x)).map_err(|_| Reject::invalid("wants rank 4"))
}

/// `bool [rows, keys]`: row `i` sees the keys up to `i + offset`.
fn triangle(n: &mut NodeLowering, rows: &Dim, keys: &Dim, offset: &Dim) -> Result<ValueId> {
    let one = Dim::Fixed(1);
    let row = positions(n, offset, rows)?;
    let row = n.reshape(row, vec![rows.clone(), one])?;
    let column = positions(n, &Dim::Fixed(0), keys)?;
    n.binary(BinaryOp::Ge, row, column)
}

/// `start, start + 1, ..` as `i64 [len]`.
pub(super) fn positions(n: &mut NodeLowering, start: &Dim, len: &Dim) -> Result<ValueId> {
    let start = match start.fixed() {
        Some(fixed) => n.scalar(DType::I64, fixed as f64)?,
        None => {
            n.emit(ops::ShapeTensor { dims: vec![start.clone()], scalar: true, dtype: DType::I64 }, &[])?
        }
    };
    let step = n.scalar(DType::I64, 1.0)?;
    n.emit(ops::Range { len: len.clone() }, &[start, step])
}

/// Attribute `scale`, or where it is 0 one through the root of the size of q's heads.
pub(super) fn scale(n: &NodeLowering, q: ValueId) -> Result<f64> {
    match (n.float_or("scale", 0.0)?, n.shape(q).last().and_then(Dim::fixed)) {
        (0.0, Some(size)) if size > 0 => Ok(1.0 / (size as f64).sqrt()),
        (0.0, _) => Err(n.wants_fixed_dims(0, "the head size is not constant")),
        (scale, _) => Ok(f64::from(scale)),
    }
}

/// A number of heads given as an attribute.
pub(super) fn heads(n: &NodeLowering, name: &str) -> Result<Dim> {
    match size_of(name, n.int_or(name, 0)?)? {
        0 => Err(Reject::invalid(format!("attribute {name} is missing"))),
        heads => Ok(Dim::from(heads)),
    }
}

/// `[B, S, H * D]` as `[B, S, H, D]`.
pub(super) fn apart(n: &mut NodeLowering, x: ValueId, heads: &Dim) -> Result<ValueId> {
    let [batch, length, width] =
        <[Dim; 3]>::try_from(n.shape(x)).map_err(|_| Reject::invalid("wants rank 3 or 4"))?;
    let size = width.floor_div(heads);
    n.reshape(x, vec![batch, length, heads.clone(), size])
}

/// `[B, S, H * D]` as `[B, H, S, D]`.
pub(super) fn split_heads(n: &mut NodeLowering, x: ValueId, heads: &Dim) -> Result<ValueId> {
    let x = apart(n, x, heads)?;
    n.transpose(x, &[0, 2, 1, 3])
}

/// `[B, H, S, D]` as `[B, S, H * D]`.
pub(super) fn merge_heads(n: &mut NodeLowering, x: ValueId) -> Result<ValueId> {
    let x = n.transpose(x, &[0, 2, 1, 3])?;
    let shape = n.shape(x);
    let width = shape[2].mul(&shape[3]);
    n.reshape(x, vec![shape[0].clone(), shape[1].clone(), width])
}

/// `len` elements of `axis` from `start` on, each `step`th.
pub(super) fn part(
    n: &mut NodeLowering,
    x: ValueId,
    axis: usize,
    (start, len, step): (Dim, Dim, i64),
) -> Result<ValueId> {
    n.emit(ops::Slice { ranges: vec![ops::SliceRange { axis, start, len, step }] }, &[x])
}
