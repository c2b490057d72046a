//! Attention and rotary embeddings of the newer operator sets, spelled out: the engine finds the patterns again.

use engraft_network::{BinaryOp, DType, Dim, UnaryOp, ValueId, ops};

use super::super::Row;
use super::conv::size_of;
use super::row;
use crate::lower::{NodeLowering, Reject};
use crate::onnx::dtype_of;

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[row("Attention", 23, attention), row("RotaryEmbedding", 23, rotary)];

fn slice(n: &mut NodeLowering, x: ValueId, axis: usize, start: Dim, len: Dim, step: i64) -> Result<ValueId> {
    n.emit(ops::Slice { ranges: vec![ops::SliceRange { axis, start, len, step }] }, &[x])
}

fn heads_of(n: &NodeLowering, name: &str) -> Result<Dim> {
    match size_of(name, n.int_or(name, 0)?)? {
        0 => Err(Reject::new(format!("attribute {name} is missing"))),
        heads => Ok(Dim::from(heads)),
    }
}

/// `[B, S, H * D]` (of which `heads` tells H) as `[B, H, S, D]`.
fn split_heads(n: &mut NodeLowering, x: ValueId, heads: &str) -> Result<ValueId> {
    let [batch, length, width] =
        <[Dim; 3]>::try_from(n.shape(x)).map_err(|_| Reject::new("wants rank 3 or 4"))?;
    let heads = heads_of(n, heads)?;
    let size = width.floor_div(&heads);
    let x = n.reshape(x, vec![batch, length, heads, size])?;
    n.transpose(x, &[0, 2, 1, 3])
}

/// `[B, H, S, D]` as `[B, S, H * D]`.
fn merge_heads(n: &mut NodeLowering, x: ValueId) -> Result<ValueId> {
    let x = n.transpose(x, &[0, 2, 1, 3])?;
    let shape = n.shape(x);
    let width = shape[2].mul(&shape[3]);
    n.reshape(x, vec![shape[0].clone(), shape[1].clone(), width])
}

/// `softmax(q k' * scale + mask) v`, a row without any key giving 0.
fn attention(n: &mut NodeLowering) -> Result<()> {
    if n.wants(3)
        || n.has(6)
        || n.int_or("left_window_size", -1)? >= 0
        || n.int_or("right_window_size", -1)? >= 0
    {
        return Err(Reject::new("windows, ragged caches and the scores as output are not supported"));
    }
    let (mut q, mut k, mut v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let merged = n.rank(q) == 3;
    if merged {
        q = split_heads(n, q, "q_num_heads")?;
        k = split_heads(n, k, "kv_num_heads")?;
        v = split_heads(n, v, "kv_num_heads")?;
    }
    if [q, k, v].iter().any(|&value| n.rank(value) != 4) {
        return Err(Reject::new("wants rank 3 or 4"));
    }
    let mut offset = Dim::Fixed(0);
    if let (Some(past_k), Some(past_v)) = (n.optional(4)?, n.optional(5)?) {
        offset = n.shape(past_k).get(2).cloned().ok_or_else(|| Reject::new("past_key wants rank 4"))?;
        k = n.emit(ops::Concat { axis: 2 }, &[past_k, k])?;
        v = n.emit(ops::Concat { axis: 2 }, &[past_v, v])?;
    }
    n.set(1, k);
    n.set(2, v);

    let dtype = n.dtype(q);
    let (shape, keys) = (n.shape(q), n.shape(k)[2].clone());
    let [batch, heads, rows, size] = [0, 1, 2, 3].map(|axis| shape[axis].clone());
    let groups = n.shape(k)[1].clone();
    let scale = match n.float_or("scale", 0.0)? {
        0.0 => match size.fixed() {
            Some(size) if size > 0 => 1.0 / (size as f64).sqrt(),
            _ => return Err(Reject::new("the head size is not constant")),
        },
        scale => f64::from(scale),
    };
    let grouped = heads != groups;
    let (value_size, mut keys_of, mut values_of) = (n.shape(v)[3].clone(), k, v);
    if grouped {
        // Query heads that share a key head stand beside each other.
        let share = heads.floor_div(&groups);
        q = n.reshape(q, vec![batch.clone(), groups.clone(), share, rows.clone(), size.clone()])?;
        let one = Dim::Fixed(1);
        keys_of = n.reshape(k, vec![batch.clone(), groups.clone(), one.clone(), keys.clone(), size])?;
        values_of = n.reshape(v, vec![batch.clone(), groups, one, keys.clone(), value_size.clone()])?;
    }
    let swap: Vec<usize> = if grouped { vec![0, 1, 2, 4, 3] } else { vec![0, 1, 3, 2] };
    let turned = n.transpose(keys_of, &swap)?;
    let mut scores = n.emit(ops::MatMul::default(), &[q, turned])?;
    if grouped {
        scores = n.reshape(scores, vec![batch.clone(), heads.clone(), rows.clone(), keys.clone()])?;
    }
    scores = n.with_scalar(BinaryOp::Mul, scores, scale)?;

    let cap = n.float_or("softcap", 0.0)?;
    if cap != 0.0 {
        // Operator set 23 left the order of mask and cap open.
        if n.has(3) && n.opset() < 24 && n.input_type(3)?.dtype != DType::Bool {
            return Err(Reject::new("softcap with a float mask is not supported before operator set 24"));
        }
        scores = n.with_scalar(BinaryOp::Div, scores, f64::from(cap))?;
        scores = n.unary(UnaryOp::Tanh, scores)?;
        scores = n.with_scalar(BinaryOp::Mul, scores, f64::from(cap))?;
    }
    let mut allowed = match n.flag("is_causal")? {
        true => Some(causal(n, &rows, &keys, &offset)?),
        false => None,
    };
    let mut may_be_empty = false;
    if let Some(mask) = n.optional(3)? {
        if n.dtype(mask) == DType::Bool {
            may_be_empty = true;
            allowed = Some(match allowed {
                Some(causal) => n.binary(BinaryOp::And, mask, causal)?,
                None => mask,
            });
        } else {
            scores = n.binary(BinaryOp::Add, scores, mask)?;
        }
    }
    if let Some(allowed) = allowed {
        let never = n.scalar(dtype, f64::NEG_INFINITY)?;
        scores = n.emit(ops::Select, &[allowed, scores, never])?;
    }
    let precision = match n.int("softmax_precision")? {
        Some(element_type) => {
            dtype_of(element_type).ok_or_else(|| Reject::new("softmax_precision is not supported"))?
        }
        None => dtype,
    };
    scores = n.cast(scores, precision)?;
    let mut weights = n.emit(ops::Softmax { axis: 3, log: false }, &[scores])?;
    weights = n.cast(weights, dtype)?;
    if let Some(allowed) = allowed.filter(|_| may_be_empty) {
        let zero = n.scalar(dtype, 0.0)?;
        weights = n.emit(ops::Select, &[allowed, weights, zero])?;
    }
    if grouped {
        let shape = n.shape(q);
        let wanted = [&shape[..4], std::slice::from_ref(&keys)].concat();
        weights = n.reshape(weights, wanted)?;
    }
    let mut y = n.emit(ops::MatMul::default(), &[weights, values_of])?;
    if grouped {
        y = n.reshape(y, vec![batch, heads, rows, value_size])?;
    }
    if merged {
        y = merge_heads(n, y)?;
    }
    n.set(0, y);
    Ok(())
}

/// `bool [rows, keys]`: row i sees the keys up to `i + offset`.
fn causal(n: &mut NodeLowering, rows: &Dim, keys: &Dim, offset: &Dim) -> Result<ValueId> {
    let line = |n: &mut NodeLowering, start: &Dim, len: &Dim, shape: [Dim; 2]| -> Result<ValueId> {
        let start = match start.fixed() {
            Some(fixed) => n.scalar(DType::I64, fixed as f64)?,
            None => {
                n.emit(ops::ShapeTensor { dims: vec![start.clone()], scalar: true, dtype: DType::I64 }, &[])?
            }
        };
        let step = n.scalar(DType::I64, 1.0)?;
        let line = n.emit(ops::Range { len: len.clone() }, &[start, step])?;
        n.reshape(line, shape.to_vec())
    };
    let one = Dim::Fixed(1);
    let row = line(n, offset, rows, [rows.clone(), one.clone()])?;
    let column = line(n, &Dim::Fixed(0), keys, [one, keys.clone()])?;
    n.binary(BinaryOp::Ge, row, column)
}

/// Rotates pairs of features by the angles of each position; operands x, cos, sin and the positions, without which cos
/// and sin are given per batch item and position.
fn rotary(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let merged = n.rank(x) == 3;
    let heads_first = if merged { split_heads(n, x, "num_heads")? } else { x };
    let shape = n.shape(heads_first);
    let [_, _, _, size] = shape.as_slice() else { return Err(Reject::new("wants rank 3 or 4")) };
    let rotated = match size_of("rotary_embedding_dim", n.int_or("rotary_embedding_dim", 0)?)? {
        0 => size.clone(),
        width => Dim::from(width),
    };
    let half = rotated.floor_div(&Dim::Fixed(2));
    let interleaved = n.flag("interleaved")?;
    let mut angles = [n.input(1)?, n.input(2)?];
    let positions = n.optional(3)?;
    for table in &mut angles {
        if let Some(positions) = positions {
            *table = n.emit(ops::Gather { axis: 0 }, &[*table, positions])?;
        }
        let [batch, length, width] =
            <[Dim; 3]>::try_from(n.shape(*table)).map_err(|_| Reject::new("cos and sin want rank 3"))?;
        *table = n.reshape(*table, vec![batch, Dim::Fixed(1), length, width])?;
    }
    let [cos, sin] = angles;
    let (zero, one) = (Dim::Fixed(0), Dim::Fixed(1));
    let (a, b) = if interleaved {
        (slice(n, heads_first, 3, zero, half.clone(), 2)?, slice(n, heads_first, 3, one, half.clone(), 2)?)
    } else {
        (
            slice(n, heads_first, 3, zero, half.clone(), 1)?,
            slice(n, heads_first, 3, half.clone(), half.clone(), 1)?,
        )
    };
    let mix = |n: &mut NodeLowering, op, x, cos, y, sin| -> Result<ValueId> {
        let (left, right) = (n.binary(BinaryOp::Mul, cos, x)?, n.binary(BinaryOp::Mul, sin, y)?);
        n.binary(op, left, right)
    };
    let real = mix(n, BinaryOp::Sub, a, cos, b, sin)?;
    let imaginary = mix(n, BinaryOp::Add, a, sin, b, cos)?;
    let mut y = if interleaved {
        let mut paired = n.shape(real);
        paired.push(Dim::Fixed(1));
        let (real, imaginary) = (n.reshape(real, paired.clone())?, n.reshape(imaginary, paired)?);
        let pairs = n.emit(ops::Concat { axis: 4 }, &[real, imaginary])?;
        let mut whole = n.shape(pairs);
        whole.truncate(3);
        whole.push(half.mul(&Dim::Fixed(2)));
        n.reshape(pairs, whole)?
    } else {
        n.emit(ops::Concat { axis: 3 }, &[real, imaginary])?
    };
    if rotated != *size {
        let rest = slice(n, heads_first, 3, rotated.clone(), size.sub(&rotated), 1)?;
        y = n.emit(ops::Concat { axis: 3 }, &[y, rest])?;
    }
    if merged {
        y = merge_heads(n, y)?;
    }
    n.set(0, y);
    Ok(())
}
