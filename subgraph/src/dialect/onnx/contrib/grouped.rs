//! GroupQueryAttention: heads of keys that several heads of queries share, a cache of older keys, rotation, windows and
//! sinks.

use engraft_network::{BinaryOp, DType, Dim, Scalar, ValueId, ops};

use super::super::attend::{Scores, apart, attend, heads, merge_heads, part, positions, scale};
use super::super::rotary::{beside, rotate};
use super::rotary::angles;
use super::{refuse, refuse_flags, row};
use crate::dialect::Row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(in super::super) const ROWS: &[Row] = &[row("GroupQueryAttention", grouped)];

/// Where the rows of queries stand among the keys of their batch item.
struct Place {
    batch: Dim,
    rows: Dim,
    /// Position of the first row, where it is known to be the same for all batch items.
    uniform: Option<Dim>,
}

impl Place {
    /// Of queries `[B, S, ..]` at the end of `total` keys at most, `cached` of which may be older.
    fn new(n: &NodeLowering, [batch, rows]: [Dim; 2], cached: Option<&Dim>, total: &Dim) -> Place {
        let uniform = match cached {
            None => Some(Dim::Fixed(0)),
            // The only batch item is the longest.
            Some(cached) if batch.fixed() == Some(1) && !n.has(16) => {
                let older = n.facts().max(&total.sub(&rows), &Dim::Fixed(0));
                Some(n.facts().min(&older, cached))
            }
            Some(_) => None,
        };
        Place { batch, rows, uniform }
    }

    /// Counts of operand `index` for each batch item, as `i64 [B, 1]`.
    fn counts(&self, n: &mut NodeLowering, index: usize) -> Result<ValueId> {
        let counts = n.input(index)?;
        let counts = n.cast(counts, DType::I64)?;
        n.reshape(counts, vec![self.batch.clone(), Dim::Fixed(1)])
    }

    /// How many keys each batch item has, the new ones included: `i64 [B, 1]`.
    fn end(&self, n: &mut NodeLowering) -> Result<ValueId> {
        let last = self.counts(n, 5)?;
        n.with_scalar(BinaryOp::Add, last, 1.0)
    }

    /// Position of the first row, `i64 [B, 1]`: as many before the end as there are rows that are no padding.
    fn first(&self, n: &mut NodeLowering) -> Result<ValueId> {
        let end = self.end(n)?;
        if n.has(16) {
            let new = self.counts(n, 16)?;
            return n.binary(BinaryOp::Sub, end, new);
        }
        let new = positions(n, &self.rows, &Dim::Fixed(1))?;
        let first = n.binary(BinaryOp::Sub, end, new)?;
        n.with_scalar(BinaryOp::Max, first, 0.0)
    }

    /// Positions of all rows, `i64 [B or 1, S]`.
    fn of_rows(&self, n: &mut NodeLowering) -> Result<ValueId> {
        if let Some(first) = &self.uniform {
            let line = positions(n, first, &self.rows)?;
            return n.reshape(line, vec![Dim::Fixed(1), self.rows.clone()]);
        }
        let (first, line) = (self.first(n)?, positions(n, &Dim::Fixed(0), &self.rows)?);
        n.binary(BinaryOp::Add, first, line)
    }

    /// `cache [B, G, P, D]` with the new rows `[B, G, S, D]` behind its valid ones, `length` long. What lies behind them is
    /// unspecified.
    fn append(&self, n: &mut NodeLowering, cache: ValueId, new: ValueId, length: &Dim) -> Result<ValueId> {
        let shape = n.shape(cache);
        let [batch, groups, cached, size] = [0, 1, 2, 3].map(|axis| shape[axis].clone());
        let zeros = |n: &mut NodeLowering, count: Dim| -> Result<ValueId> {
            let zero = n.scalar(n.dtype(cache), 0.0)?;
            n.emit(ops::Expand { shape: vec![batch.clone(), groups.clone(), count, size.clone()] }, &[zero])
        };
        if let Some(older) = &self.uniform {
            let older_rows = part(n, cache, 2, (Dim::Fixed(0), older.clone(), 1))?;
            let mut rows = vec![older_rows, new];
            let rest = length.sub(older).sub(&self.rows);
            if rest != Dim::Fixed(0) {
                rows.push(zeros(n, rest)?);
            }
            return n.emit(ops::Concat { axis: 2 }, &rows);
        }
        let mut whole = cache;
        if *length != cached {
            let rest = zeros(n, length.sub(&cached))?;
            whole = n.emit(ops::Concat { axis: 2 }, &[cache, rest])?;
        }
        // Places of the new rows: batch item, head, position.
        let places = vec![batch.clone(), groups.clone(), self.rows.clone(), Dim::Fixed(1)];
        let along = |n: &mut NodeLowering, line: ValueId, axis: usize| -> Result<ValueId> {
            let mut shape = vec![Dim::Fixed(1); 4];
            shape[axis] = places[axis].clone();
            if axis == 2 {
                shape[0] = batch.clone();
            }
            let line = n.reshape(line, shape)?;
            n.emit(ops::Expand { shape: places.clone() }, &[line])
        };
        let items = positions(n, &Dim::Fixed(0), &batch)?;
        let of_groups = positions(n, &Dim::Fixed(0), &groups)?;
        let of_rows = self.of_rows(n)?;
        let tuples = [along(n, items, 0)?, along(n, of_groups, 1)?, along(n, of_rows, 2)?];
        let tuples = n.emit(ops::Concat { axis: 3 }, &tuples)?;
        n.emit(ops::ScatterNd { reduction: ops::ScatterReduction::None }, &[whole, tuples, new])
    }

    /// What each row sees of `keys` keys, as `bool [B or 1, 1, S, keys]`: itself and what stands before it, of that the last
    /// `window` keys, or without causality all that exist.
    fn sees(&self, n: &mut NodeLowering, keys: &Dim, causal: bool, window: Option<i64>) -> Result<ValueId> {
        let one = Dim::Fixed(1);
        let key = positions(n, &Dim::Fixed(0), keys)?;
        if !causal {
            let shape = vec![self.batch.clone(), one.clone(), one.clone(), one];
            let end = self.end(n)?;
            let end = n.reshape(end, shape)?;
            return n.binary(BinaryOp::Lt, key, end);
        }
        let row = self.of_rows(n)?;
        let items = n.shape(row)[0].clone();
        let row = n.reshape(row, vec![items, one.clone(), self.rows.clone(), one])?;
        let before = n.binary(BinaryOp::Le, key, row)?;
        let Some(window) = window else { return Ok(before) };
        let since = n.with_scalar(BinaryOp::Sub, row, window as f64)?;
        let within = n.binary(BinaryOp::Gt, key, since)?;
        n.binary(BinaryOp::And, before, within)
    }
}

/// Operands query `[B, S, H * D]`, key and value `[B, S, G * D]` (or all of them in query, one behind the other), past keys
/// and values `[B, G, P, D]`, the number of keys of each batch item less one, the largest such number, cos and sin of each
/// position, positions `[B, S]`, a term for the scores, the sinks of heads, scales of a quantized cache, scales of a
/// normalization of heads, and how many rows of each batch item are no padding. Outputs 1 and 2 are the present keys and
/// values, the larger of the past and the total long.
fn grouped(n: &mut NodeLowering) -> Result<()> {
    refuse(n, &[(3, "output_qk")], &[])?;
    refuse_flags(n, &["sliding_window_cache"])?;
    let is_quantized = ["k_quant_type", "v_quant_type"].iter().map(|name| n.string_or(name, "NONE"));
    if n.has(12) || n.has(13) || is_quantized.collect::<Result<Vec<_>>>()?.iter().any(|kind| *kind != "NONE")
    {
        return Err(Reject::new("a quantized cache belongs to the integer and block-quantized family"));
    }
    let (count, groups) = (heads(n, "num_heads")?, heads(n, "kv_num_heads")?);
    let causal = n.int_or("causal", 1)? != 0;
    let window = Some(n.int_or("local_window_size", -1)?).filter(|&window| window > 0);
    if !causal && window.is_some() {
        return Err(Reject::invalid("local_window_size without causality is not defined"));
    }
    let [mut q, mut k, v] = operands(n, &count, &groups)?;
    let [batch, rows] = [0, 1].map(|axis| n.shape(q)[axis].clone());
    if n.shape(k)[1] != rows {
        return Err(Reject::new("keys of another length than queries are not supported"));
    }
    let cache = match (n.optional(3)?, n.optional(4)?) {
        (Some(k), Some(v)) if n.rank(k) == 4 && n.rank(v) == 4 => Some([k, v]),
        (None, None) => None,
        _ => return Err(Reject::invalid("past_key and past_value come together, of rank 4")),
    };
    let cached = cache.map(|[k, _]| n.shape(k)[2].clone());
    let total = match cached {
        Some(_) => n
            .dims(6, "total_sequence_length")?
            .into_iter()
            .next()
            .ok_or_else(|| Reject::invalid("total_sequence_length is empty"))?,
        None => rows.clone(),
    };
    if n.has(16) && (cached.is_none() || !causal) {
        return Err(Reject::invalid("query_seqlens without a past or causality is not defined"));
    }
    let place = Place::new(n, [batch, rows.clone()], cached.as_ref(), &total);

    if n.flag("do_rotary")? {
        let tables = [n.input(7)?, n.input(8)?];
        let at = match n.optional(9)? {
            Some(at) => at,
            // Rows that are padding may lie beyond the tables.
            None if n.has(16) => {
                let at = place.of_rows(n)?;
                let last = positions(n, &n.shape(tables[0])[0].sub(&Dim::Fixed(1)), &Dim::Fixed(1))?;
                n.binary(BinaryOp::Min, at, last)?
            }
            None => place.of_rows(n)?,
        };
        let width = n.shape(tables[0]).get(1).map(|half| half.mul(&Dim::Fixed(2)));
        let angles = angles(n, tables, at)?;
        let angles = beside(n, angles, 2)?;
        let interleaved = n.flag("rotary_interleaved")?;
        q = rotate(n, q, angles, width.clone(), interleaved)?;
        k = rotate(n, k, angles, width, interleaved)?;
    }
    let [q, k, v] =
        [n.transpose(q, &[0, 2, 1, 3])?, n.transpose(k, &[0, 2, 1, 3])?, n.transpose(v, &[0, 2, 1, 3])?];
    let (mut keys, mut values) = (k, v);
    if let (Some(cache), Some(cached)) = (cache, &cached) {
        let length = n.facts().max(&total, cached);
        (keys, values) = (place.append(n, cache[0], k, &length)?, place.append(n, cache[1], v, &length)?);
    }
    n.set(1, keys);
    n.set(2, values);

    // Keys that no row of any batch item sees are left alone.
    let end = match &place.uniform {
        Some(first) => first.add(&rows),
        None => total,
    };
    if n.shape(keys)[2] != end {
        keys = part(n, keys, 2, (Dim::Fixed(0), end.clone(), 1))?;
        values = part(n, values, 2, (Dim::Fixed(0), end.clone(), 1))?;
    }
    let mut scores =
        Scores { scale: scale(n, q)?, cap: f64::from(n.float_or("softcap", 0.0)?), ..Scores::default() };
    if causal && !n.has(16) {
        // That of the batch item with the most keys; others see less.
        scores.causal = Some(end.sub(&rows));
    }
    if !causal || place.uniform.is_none() || window.is_some() {
        scores.allowed = Some(place.sees(n, &end, causal, window)?);
    }
    scores.added = n.optional(10)?;
    // Schemas of the host give -1 where nothing was asked for.
    if n.has(11) || n.int_or("smooth_softmax", -1)? == 1 {
        (keys, values) = sink(n, [keys, values], &count, &mut scores)?;
    }
    let y = attend(n, [q, keys, values], scores)?;
    let y = merge_heads(n, y)?;
    n.set(0, y);
    Ok(())
}

/// Queries `[B, S, H, D]`, keys and values `[B, S, G, D]`, the former two normalized where their scales are given.
fn operands(n: &mut NodeLowering, count: &Dim, groups: &Dim) -> Result<[ValueId; 3]> {
    let query = n.input(0)?;
    let mut parts = match (n.optional(1)?, n.optional(2)?) {
        (Some(key), Some(value)) => {
            [apart(n, query, count)?, apart(n, key, groups)?, apart(n, value, groups)?]
        }
        (None, None) => {
            let all = apart(n, query, &count.add(&groups.mul(&Dim::Fixed(2))))?;
            let after = count.add(groups);
            [
                part(n, all, 2, (Dim::Fixed(0), count.clone(), 1))?,
                part(n, all, 2, (count.clone(), groups.clone(), 1))?,
                part(n, all, 2, (after, groups.clone(), 1))?,
            ]
        }
        _ => return Err(Reject::invalid("key and value come together")),
    };
    let epsilon = n.float_or("qk_norm_epsilon", 1e-6)?;
    for (index, (operand, name)) in [(14, "q_norm_epsilon"), (15, "k_norm_epsilon")].into_iter().enumerate() {
        if let Some(weight) = n.optional(operand)? {
            let epsilon = Scalar::f32(n.float_or(name, epsilon)?);
            let op = ops::LayerNorm { axis: 3, epsilon, rms: true, scale: true, bias: false };
            parts[index] = n.emit(op, &[parts[index], weight])?;
        }
    }
    Ok(parts)
}

/// Keys and values with one in front that has the score of its head's sink (0 where only `smooth_softmax` asks for it) and
/// the value 0: it takes its part of the weights.
fn sink(
    n: &mut NodeLowering,
    operands: [ValueId; 2],
    count: &Dim,
    scores: &mut Scores,
) -> Result<(ValueId, ValueId)> {
    let dtype = n.dtype(operands[0]);
    let one = Dim::Fixed(1);
    let zero = n.scalar(dtype, 0.0)?;
    let mut with_front = operands;
    for operand in &mut with_front {
        let mut front = n.shape(*operand);
        front[2] = one.clone();
        let front = n.emit(ops::Expand { shape: front }, &[zero])?;
        *operand = n.emit(ops::Concat { axis: 2 }, &[front, *operand])?;
    }
    // The term of the sinks stands in front of all others.
    let keys = n.shape(operands[0])[2].clone();
    let mut term = match scores.added {
        Some(added) => added,
        None => n.emit(ops::Expand { shape: vec![one.clone(), one.clone(), one.clone(), keys] }, &[zero])?,
    };
    if let Some(allowed) = scores.allowed.take() {
        let never = n.scalar(dtype, f64::NEG_INFINITY)?;
        term = n.emit(ops::Select, &[allowed, term, never])?;
    }
    let mut shape = n.shape(term);
    shape[1] = count.clone();
    let term = n.emit(ops::Expand { shape: shape.clone() }, &[term])?;
    shape[3] = one.clone();
    let sinks = match n.optional(11)? {
        Some(sinks) => n.reshape(sinks, vec![one.clone(), count.clone(), one.clone(), one.clone()])?,
        None => zero,
    };
    let sinks = n.emit(ops::Expand { shape }, &[sinks])?;
    scores.added = Some(n.emit(ops::Concat { axis: 3 }, &[sinks, term])?);
    scores.causal = scores.causal.take().map(|offset| offset.add(&one));
    Ok((with_front[0], with_front[1]))
}
