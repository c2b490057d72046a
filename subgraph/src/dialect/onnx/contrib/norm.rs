//! Normalizations with sums and lookups fused to their beginnings.

use engraft_network::{BinaryOp, DType, Dim, UnaryOp, ValueId, ops};

use super::super::attend::positions;
use super::super::norm::{epsilon, reduce};
use super::{activation, refuse, row};
use crate::dialect::Row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(in super::super) const ROWS: &[Row] = &[
    // ONNX Runtime keeps this one in ONNX's domain.
    Row { domain: "", op_type: "SimplifiedLayerNormalization", since: 1, lower: simplified },
    row("SimplifiedLayerNormalization", simplified),
    row("SkipLayerNormalization", |n| skip_layer_norm(n, false)),
    row("SkipSimplifiedLayerNormalization", |n| skip_layer_norm(n, true)),
    row("EmbedLayerNormalization", embed_layer_norm),
    row("GroupNorm", |n| {
        let x = n.input(0)?;
        group_norm(n, x)
    }),
    row("SkipGroupNorm", skip_group_norm),
];

/// The epsilon of the fused layer normalizations where no attribute gives it.
const SMALL_EPSILON: f32 = 1e-12;

/// `x / sqrt(mean(x^2) + epsilon) * scale` over the axes from `axis` on, in x's type; scale and result may have another.
fn simplified(n: &mut NodeLowering) -> Result<()> {
    let (x, scale) = (n.input(0)?, n.input(1)?);
    let axis = n.axis("axis", -1, n.rank(x))?;
    if !n.wants(1) && n.dtype(x) == n.dtype(scale) {
        let op = ops::LayerNorm { axis, epsilon: epsilon(n, 1e-5)?, rms: true, scale: true, bias: false };
        let y = n.emit(op, &[x, scale])?;
        n.set(0, y);
        return Ok(());
    }
    let wide = n.cast(x, DType::F32)?;
    let square = n.binary(BinaryOp::Mul, wide, wide)?;
    let mean = reduce(n, ops::ReduceOp::Mean, square, (axis..n.rank(x)).collect())?;
    let shifted = n.with_scalar(BinaryOp::Add, mean, f64::from(n.float_or("epsilon", 1e-5)?))?;
    let inverse = n.unary(UnaryOp::Rsqrt, shifted)?;
    let y = n.binary(BinaryOp::Mul, wide, inverse)?;
    let y = n.cast(y, n.dtype(scale))?;
    let y = n.binary(BinaryOp::Mul, y, scale)?;
    n.set(0, y);
    n.set(1, inverse);
    Ok(())
}

/// Layer normalization of `input + skip + bias`, over the last axis; the sum is a result as well. Operands: input, skip
/// (broadcast to it), scale, unless `rms` the shift, and the bias.
fn skip_layer_norm(n: &mut NodeLowering, rms: bool) -> Result<()> {
    refuse(n, &[(1, "mean"), (2, "inv_std_var")], &[])?;
    let (x, skip, scale) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let shift = if rms { None } else { n.optional(3)? };
    let bias = n.optional(if rms { 3 } else { 4 })?;
    let axis = n.rank(x).checked_sub(1).ok_or_else(|| Reject::invalid("a scalar has no last axis"))?;
    let mut sum = n.binary(BinaryOp::Add, x, skip)?;
    if let Some(bias) = bias {
        sum = n.binary(BinaryOp::Add, sum, bias)?;
    }
    let op =
        ops::LayerNorm { axis, epsilon: epsilon(n, SMALL_EPSILON)?, rms, scale: true, bias: shift.is_some() };
    let inputs: Vec<ValueId> = [sum, scale].into_iter().chain(shift).collect();
    let y = n.emit(op, &inputs)?;
    n.set(0, y);
    n.set(3, sum);
    Ok(())
}

/// Layer normalization of the sum of three embeddings. Operands: ids of words and of segments `[B, S]`, the tables of words,
/// positions and segments, scale, shift, a mask `[B, S]` and positions `[B or 1, S]` (else 0, 1, ..). Results: the
/// normalized sum, per batch item how often its mask is 1 (0 without a mask), and the sum.
fn embed_layer_norm(n: &mut NodeLowering) -> Result<()> {
    let words = n.input(0)?;
    let [batch, length] =
        <[Dim; 2]>::try_from(n.shape(words)).map_err(|_| Reject::invalid("input_ids want rank 2"))?;
    let lookup = |n: &mut NodeLowering, table: usize, ids: ValueId| -> Result<ValueId> {
        let table = n.input(table)?;
        n.emit(ops::Gather { axis: 0 }, &[table, ids])
    };
    let word = lookup(n, 2, words)?;
    let at = match n.optional(8)? {
        Some(at) => at,
        None => positions(n, &Dim::Fixed(0), &length)?,
    };
    let position = lookup(n, 3, at)?;
    let mut sum = n.binary(BinaryOp::Add, word, position)?;
    match (n.optional(1)?, n.has(4)) {
        (Some(segments), true) => {
            let segment = lookup(n, 4, segments)?;
            sum = n.binary(BinaryOp::Add, sum, segment)?;
        }
        (None, false) => {}
        _ => return Err(Reject::invalid("segment_ids and segment_embedding come together")),
    }
    let (scale, shift) = (n.input(5)?, n.input(6)?);
    let op =
        ops::LayerNorm { axis: 2, epsilon: epsilon(n, SMALL_EPSILON)?, rms: false, scale: true, bias: true };
    let y = n.emit(op, &[sum, scale, shift])?;
    n.set(0, y);
    if n.wants(1) {
        let count = match n.optional(7)? {
            Some(mask) => {
                let one = n.scalar(n.dtype(mask), 1.0)?;
                let is_one = n.binary(BinaryOp::Eq, mask, one)?;
                let ones = n.cast(is_one, DType::I32)?;
                n.emit(ops::Reduce { op: ops::ReduceOp::Sum, axes: vec![1], keep_dims: false }, &[ones])?
            }
            None => {
                let zero = n.scalar(DType::I32, 0.0)?;
                n.emit(ops::Expand { shape: vec![batch] }, &[zero])?
            }
        };
        n.set(1, count);
    }
    n.set(2, sum);
    Ok(())
}

/// Group normalization of `x` by operands 1 and 2, its statistics in `f32`, with an optional Silu behind it. Channels stand
/// last unless attribute `channels_last` is 0.
fn group_norm(n: &mut NodeLowering, x: ValueId) -> Result<()> {
    let channels_last = n.int_or("channels_last", 1)? != 0;
    if n.rank(x) < 2 {
        return Err(Reject::invalid("wants a batch and a channel axis"));
    }
    let groups = usize::try_from(n.int_or("groups", 0)?)
        .ok()
        .filter(|&groups| groups > 0)
        .ok_or_else(|| Reject::invalid("groups must be positive"))?;
    let (scale, shift) = (n.input(1)?, n.input(2)?);
    let dtype = n.dtype(x);
    let (mut y, wide) = (x, n.dtype(scale));
    y = n.cast(y, wide)?;
    let shift = n.cast(shift, wide)?;
    if !channels_last {
        y = n.channels_last(y)?;
    }
    let op = ops::GroupNorm { groups, epsilon: epsilon(n, 1e-5)? };
    y = n.emit(op, &[y, scale, shift])?;
    y = activation::silu_if(n, y)?;
    if !channels_last {
        y = n.channels_first(y)?;
    }
    y = n.cast(y, dtype)?;
    n.set(0, y);
    Ok(())
}

/// [`group_norm`] of `x + skip + bias`, and that sum. The skip is of x's shape, `[N, 1, 1, C]` or `[N, C]`; the bias is `[C]`.
fn skip_group_norm(n: &mut NodeLowering) -> Result<()> {
    if n.int_or("channels_last", 1)? == 0 {
        return Err(Reject::new("channels_last = 0 is not supported").wants("channels_last", "1"));
    }
    let (x, mut skip) = (n.input(0)?, n.input(3)?);
    let shape = n.shape(skip);
    if let [batch, channels] = shape.as_slice() {
        let mut spread = vec![Dim::Fixed(1); n.rank(x).max(2)];
        spread[0] = batch.clone();
        if let Some(last) = spread.last_mut() {
            *last = channels.clone();
        }
        skip = n.reshape(skip, spread)?;
    }
    let mut sum = n.binary(BinaryOp::Add, x, skip)?;
    if let Some(bias) = n.optional(4)? {
        sum = n.binary(BinaryOp::Add, sum, bias)?;
    }
    n.set(1, sum);
    group_norm(n, sum)
}
