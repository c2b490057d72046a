//! Attention and the forms of MultiHeadAttention: as many heads of keys as of queries, masks as terms of the scores.

use engraft_network::{BinaryOp, DType, Dim, ValueId, ops};

use super::super::attend::{Scores, apart, attend, heads, merge_heads, part, positions, scale, split_heads};
use super::{refuse, refuse_flags, row};
use crate::dialect::Row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(in super::super) const ROWS: &[Row] = &[
    row("Attention", attention),
    row("MultiHeadAttention", |n| {
        refuse(n, &[(3, "qk")], &[(8, "past_sequence_length"), (9, "cache_indirection")])?;
        multi_head_attention(n, Places { bias: 3, mask: (4, "key_padding_mask"), term: 5, past: [6, 7] })
    }),
    row("DecoderMaskedMultiHeadAttention", |n| {
        refuse_flags(n, &["past_present_share_buffer", "output_qk"])?;
        refuse(n, &[(3, "qk")], &[(8, "beam_width"), (9, "cache_indirection")])?;
        multi_head_attention(n, Places { bias: 10, mask: (3, "mask_index"), term: 4, past: [5, 6] })
    }),
];

/// Where the operands of a form of multi-head attention stand behind query, key and value.
struct Places {
    bias: usize,
    mask: (usize, &'static str),
    term: usize,
    past: [usize; 2],
}

/// The operands of attention, `[B, N, S or L, D or E]`, and the states that are older than keys and values.
struct Operands {
    q: ValueId,
    k: ValueId,
    v: ValueId,
    past: Option<[ValueId; 2]>,
}

impl Operands {
    /// Keys and values with the past before them; its length.
    fn present(&self, n: &mut NodeLowering) -> Result<([ValueId; 2], Dim)> {
        let Some([past_k, past_v]) = self.past else { return Ok(([self.k, self.v], Dim::Fixed(0))) };
        let length =
            n.shape(past_k).get(2).cloned().ok_or_else(|| Reject::invalid("the past wants heads"))?;
        let k = n.emit(ops::Concat { axis: 2 }, &[past_k, self.k])?;
        let v = n.emit(ops::Concat { axis: 2 }, &[past_v, self.v])?;
        Ok(([k, v], length))
    }

    /// Output 0 by the common attributes, operand `mask` and the term of operand `bias`; returns present keys and values.
    fn finish(&self, n: &mut NodeLowering, mask: (usize, &str), bias: usize) -> Result<[ValueId; 2]> {
        let (present, past) = self.present(n)?;
        let keys = n.shape(present[0])[2].clone();
        let mut scores = Scores { scale: scale(n, self.q)?, ..Scores::default() };
        if n.flag("unidirectional")? {
            if n.shape(self.q)[2] != n.shape(self.k)[2] {
                return Err(Reject::new("unidirectional with as many keys as queries only")
                    .wants("unidirectional", "0"));
            }
            scores.causal = Some(past);
        }
        scores.added = padding(n, mask, self.q, &keys)?;
        if let Some(bias) = n.optional(bias)? {
            scores.added = Some(match scores.added {
                Some(mask) => n.binary(BinaryOp::Add, bias, mask)?,
                None => bias,
            });
        }
        let y = attend(n, [self.q, present[0], present[1]], scores)?;
        let y = merge_heads(n, y)?;
        n.set(0, y);
        Ok(present)
    }
}

/// A mask operand as a term of the scores: 0 for keys that take part, attribute `mask_filter_value` for others. It holds 1
/// for the former as `[B, T]` or `[B, S, T]`, or numbers of keys (after which padding follows) as `[B]`, as `[2 B]` before the
/// numbers of those that are padding in front, or as `[3 B + 2]` before what a mask of keys has no use for.
fn padding(
    n: &mut NodeLowering,
    (index, name): (usize, &str),
    q: ValueId,
    keys: &Dim,
) -> Result<Option<ValueId>> {
    if !n.has(index) {
        return Ok(None);
    }
    let (batch, dtype, one) = (n.shape(q)[0].clone(), n.dtype(q), Dim::Fixed(1));
    let shape = n.input_type(index)?.shape.to_vec();
    if let [_, single] = shape.as_slice()
        && single.fixed() == Some(1)
        && keys.fixed() != Some(1)
    {
        // The same for all keys changes nothing.
        return Ok(None);
    }
    let mask = n.input(index)?;
    let takes_part = match shape.as_slice() {
        [count] => {
            let twice = *count == batch.mul(&Dim::Fixed(2));
            let packed = *count == batch.mul(&Dim::Fixed(3)).add(&Dim::Fixed(2));
            if *count != batch && !twice && !packed {
                return Err(Reject::new(format!("what {name} of {count} elements holds cannot be told")));
            }
            let line = positions(n, &Dim::Fixed(0), keys)?;
            let bound = |n: &mut NodeLowering, start: Dim| -> Result<ValueId> {
                let bound = part(n, mask, 0, (start, batch.clone(), 1))?;
                let bound = n.cast(bound, DType::I64)?;
                n.reshape(bound, vec![batch.clone(), one.clone(), one.clone(), one.clone()])
            };
            let end = bound(n, Dim::Fixed(0))?;
            let mut inside = n.binary(BinaryOp::Lt, line, end)?;
            if twice {
                let start = bound(n, batch.clone())?;
                let after = n.binary(BinaryOp::Ge, line, start)?;
                inside = n.binary(BinaryOp::And, inside, after)?;
            }
            inside
        }
        [_, _] | [_, _, _] => {
            let mut spread = shape.clone();
            spread.insert(1, one.clone());
            if spread.len() == 3 {
                spread.insert(1, one);
            }
            let mask = n.reshape(mask, spread)?;
            let zero = n.scalar(n.dtype(mask), 0.0)?;
            n.binary(BinaryOp::Gt, mask, zero)?
        }
        _ => return Err(Reject::new(format!("{name} of rank {} is not supported", shape.len()))),
    };
    let filter = f64::from(n.float_or("mask_filter_value", -10000.0)?);
    let (zero, filter) = (n.scalar(dtype, 0.0)?, n.scalar(dtype, filter)?);
    Ok(Some(n.emit(ops::Select, &[takes_part, zero, filter])?))
}

/// Self-attention with its projection: operands x `[B, S, W]`, weights `[W, D + D + E]`, their bias, the mask, past keys
/// and values `[2, B, N, P, D / N]`, and a term for the scores. Output 1 is the present as the past is.
fn attention(n: &mut NodeLowering) -> Result<()> {
    refuse(n, &[], &[(6, "past_sequence_length")])?;
    refuse_flags(n, &["past_present_share_buffer", "do_rotary"])?;
    let (x, weights, bias) = (n.input(0)?, n.input(1)?, n.optional(2)?);
    if n.rank(x) != 3 || n.rank(weights) != 2 {
        return Err(Reject::invalid("input wants rank 3, weights want rank 2"));
    }
    let epilogue = ops::Epilogue { bias: bias.is_some(), post: None };
    let inputs: Vec<ValueId> = [x, weights].into_iter().chain(bias).collect();
    let projected = n.emit(ops::MatMul { epilogue, ..ops::MatMul::default() }, &inputs)?;
    let sizes = match n.ints("qkv_hidden_sizes")?.unwrap_or_default()[..] {
        [] => {
            let third = n.shape(projected)[2].floor_div(&Dim::Fixed(3));
            [third.clone(), third.clone(), third]
        }
        [q, k, v]
            if q > 0
                && k == q
                && v > 0
                && n.shape(weights)[1].fixed() == q.checked_mul(2).and_then(|w| w.checked_add(v)) =>
        {
            [q, k, v].map(Dim::Fixed)
        }
        ref other => return Err(Reject::new(format!("qkv_hidden_sizes {other:?} are not supported"))),
    };
    let count = heads(n, "num_heads")?;
    let mut start = Dim::Fixed(0);
    let mut parts = Vec::with_capacity(3);
    for size in sizes {
        let of_all = part(n, projected, 2, (start.clone(), size.clone(), 1))?;
        parts.push(split_heads(n, of_all, &count)?);
        start = start.add(&size);
    }
    let past = match n.optional(4)? {
        Some(past) if n.rank(past) == 5 && n.shape(past)[0].fixed() == Some(2) => {
            let mut halves = [past; 2];
            for (index, half) in halves.iter_mut().enumerate() {
                *half = part(n, past, 0, (Dim::from(index), Dim::Fixed(1), 1))?;
                let shape = n.shape(*half)[1..].to_vec();
                *half = n.reshape(*half, shape)?;
            }
            Some(halves)
        }
        Some(_) => return Err(Reject::invalid("past wants rank 5 and 2 on axis 0")),
        None => None,
    };
    let operands = Operands { q: parts[0], k: parts[1], v: parts[2], past };
    let present = operands.finish(n, (3, "mask_index"), 5)?;
    if n.wants(1) {
        let mut halves = present;
        for half in &mut halves {
            let mut shape = n.shape(*half);
            shape.insert(0, Dim::Fixed(1));
            *half = n.reshape(*half, shape)?;
        }
        let present = n.emit(ops::Concat { axis: 0 }, &halves)?;
        n.set(1, present);
    }
    Ok(())
}

/// Attention of operands query `[B, S, D]`, key `[B, L, D]` and value `[B, L, E]`, or packed: query `[B, S, N, 3, D / N]`
/// alone, or key `[B, L, N, 2, D / N]` without value, or both as older states `[B, N, L, D / N]`. At `places` stand their
/// biases in one vector, the mask, a term for the scores, and past keys and values `[B, N, P, D / N]`. Outputs 1 and 2 are
/// the present ones.
fn multi_head_attention(n: &mut NodeLowering, places: Places) -> Result<()> {
    let count = heads(n, "num_heads")?;
    let (query, key, value) = (n.input(0)?, n.optional(1)?, n.optional(2)?);
    let ranks = [Some(query), key, value].map(|operand| operand.map_or(0, |operand| n.rank(operand)));
    let mut are_states = false;
    // `[B, S, N, D / N]` or `[B, S, D]`.
    let mut parts = match (ranks, key, value) {
        ([5, 0, 0], None, None) => {
            [unpacked(n, query, 3, 0)?, unpacked(n, query, 3, 1)?, unpacked(n, query, 3, 2)?]
        }
        ([3, 5, 0], Some(key), None) => [query, unpacked(n, key, 2, 0)?, unpacked(n, key, 2, 1)?],
        ([3, rank, other], Some(key), Some(value)) if rank == other && matches!(rank, 3 | 4) => {
            are_states = rank == 4;
            [query, key, value]
        }
        _ => return Err(Reject::new(format!("query, key and value of ranks {ranks:?} are not supported"))),
    };
    if let Some(bias) = n.optional(places.bias)? {
        let widths = parts.map(|part_of| match n.shape(part_of).as_slice() {
            [_, heads, _, size] if are_states && part_of != query => heads.mul(size),
            shape => Dim::product(&shape[2..]),
        });
        let total = widths.iter().fold(Dim::Fixed(0), |sum, width| sum.add(width));
        let bias = n.reshape(bias, vec![total])?;
        let mut start = Dim::Fixed(0);
        for part_of in parts.iter_mut().take(if are_states { 1 } else { 3 }) {
            let shape = n.shape(*part_of)[2..].to_vec();
            let width = Dim::product(&shape);
            let term = part(n, bias, 0, (start.clone(), width.clone(), 1))?;
            let term = n.reshape(term, shape)?;
            *part_of = n.binary(BinaryOp::Add, *part_of, term)?;
            start = start.add(&width);
        }
    }
    for part_of in parts.iter_mut().take(if are_states { 1 } else { 3 }) {
        let with_heads = if n.rank(*part_of) == 3 { apart(n, *part_of, &count)? } else { *part_of };
        *part_of = n.transpose(with_heads, &[0, 2, 1, 3])?;
    }
    let past = match (n.optional(places.past[0])?, n.optional(places.past[1])?) {
        (Some(_), Some(_)) if are_states => {
            return Err(Reject::new("past_key beside key of rank 4 is not supported"));
        }
        (Some(k), Some(v)) => Some([k, v]),
        (None, None) => None,
        _ => return Err(Reject::invalid("past_key and past_value come together")),
    };
    let [q, k, v] = parts;
    let [k, v] = Operands { q, k, v, past }.finish(n, places.mask, places.term)?;
    n.set(1, k);
    n.set(2, v);
    Ok(())
}

/// Operand `index` of the `count` that are packed in `[B, S, N, count, D]`: `[B, S, N, D]`.
fn unpacked(n: &mut NodeLowering, packed: ValueId, count: i64, index: i64) -> Result<ValueId> {
    if n.shape(packed)[3].fixed() != Some(count) {
        return Err(Reject::invalid(format!("packed operands want {count} on axis 3")));
    }
    let one_of = part(n, packed, 3, (Dim::Fixed(index), Dim::Fixed(1), 1))?;
    let mut shape = n.shape(one_of);
    shape.remove(3);
    n.reshape(one_of, shape)
}
