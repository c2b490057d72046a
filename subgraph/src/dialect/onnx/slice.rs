//! Slice, Split, Pad and CenterCropPad.

use engraft_network::{DType, Dim, ValueId, ops};

use super::super::Row;
use super::row;
use super::shape::zero;
use crate::lower::{Facts, Known, MAX_ELEMENTS, NodeLowering, Reject, axis};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("Slice", 1, slice_attributes),
    row("Slice", 10, slice_inputs),
    row("Split", 2, split),
    row("Pad", 2, pad),
    row("CenterCropPad", 18, center_crop_pad),
];

/// Bounds at or beyond this mean "to the end".
const END: i64 = i32::MAX as i64;

fn slice_attributes(n: &mut NodeLowering) -> Result<()> {
    let list = |n: &NodeLowering, name| -> Result<Option<Vec<Dim>>> {
        Ok(n.ints(name)?.map(|list| list.into_iter().map(Dim::Fixed).collect()))
    };
    let starts = list(n, "starts")?.ok_or_else(|| Reject::invalid("attribute starts is missing"))?;
    let ends = list(n, "ends")?.ok_or_else(|| Reject::invalid("attribute ends is missing"))?;
    let axes = n.ints("axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = vec![1; starts.len()];
    slice(n, &starts, &ends, &axes, &steps)
}

fn slice_inputs(n: &mut NodeLowering) -> Result<()> {
    let starts = n.dims(1, "the start of the slice")?;
    let ends = n.dims(2, "the end of the slice")?;
    let axes = match n.has(3) {
        true => n.integers(3, "the list of axes")?,
        false => (0..starts.len() as i64).collect(),
    };
    let steps = match n.has(4) {
        true => n.integers(4, "the step of the slice")?,
        false => vec![1; starts.len()],
    };
    slice(n, &starts, &ends, &axes, &steps)
}

fn slice(n: &mut NodeLowering, starts: &[Dim], ends: &[Dim], axes: &[i64], steps: &[i64]) -> Result<()> {
    let shape = n.input_type(0)?.shape;
    if [ends.len(), axes.len(), steps.len()].iter().any(|&len| len != starts.len()) {
        return Err(Reject::invalid("starts, ends, axes and steps differ in length"));
    }
    let mut ranges: Vec<ops::SliceRange> = Vec::new();
    for index in 0..starts.len() {
        let axis = axis(axes[index], shape.len())?;
        if steps[index].abs_diff(0) > END as u64 {
            return Err(Reject::new(format!("the step {} is not supported", steps[index])));
        }
        let (start, len) = bounds(n.facts(), &starts[index], &ends[index], &shape[axis], steps[index])?;
        if ranges.iter().any(|range| range.axis == axis) {
            return Err(Reject::invalid(format!("axis {axis} is sliced twice")));
        }
        if len != shape[axis] || steps[index] != 1 {
            ranges.push(ops::SliceRange { axis, start, len, step: steps[index] });
        }
    }
    ranges.sort_by_key(|range| range.axis);
    if ranges.is_empty() {
        return n.forward(0, 0);
    }
    if let Some(known) = n.known(0).and_then(|known| slice_known(known, &ranges)) {
        n.set_known(0, known);
        return Ok(());
    }
    let vector = shape.len() == 1 && !n.input_type(0)?.dtype.is_float();
    if vector && let Some(known) = n.contents(0).and_then(|known| slice_known(known, &ranges)) {
        n.set_known(0, known);
        return Ok(());
    }
    let x = n.input(0)?;
    let y = n.emit(ops::Slice { ranges }, &[x])?;
    n.set(0, y);
    Ok(())
}

pub(in crate::dialect) fn slice_known(known: Known, ranges: &[ops::SliceRange]) -> Option<Known> {
    ranges.iter().try_fold(known, |known, range| {
        let (start, len) =
            (range.start.fixed()?, range.len.fixed().filter(|&len| len <= MAX_ELEMENTS as i64)?);
        let indices: Vec<usize> = (0..len)
            .map(|i| usize::try_from(start.wrapping_add(i * range.step)).ok())
            .collect::<Option<_>>()?;
        known.gather(range.axis, &indices, &[indices.len()])
    })
}

/// Start and length of the slice of an axis of `size` elements, both clamped as ONNX clamps them.
///
/// Two bounds are taken to lie inside without a clamp, so that shapes stay simple where graphs compute them: a symbolic
/// end against a fixed size (the first `n` rows of a table), and leaving out one element of an axis of unknown size. Where
/// they do not, running the slice is an error rather than an empty result.
pub(in crate::dialect) fn bounds(
    facts: &Facts,
    start: &Dim,
    end: &Dim,
    size: &Dim,
    step: i64,
) -> Result<(Dim, Dim)> {
    let zero = Dim::Fixed(0);
    if step == 0 {
        return Err(Reject::invalid("the step of the slice is 0"));
    }
    // Leaves the clamp out where the bound is known, or assumed, to lie inside.
    let inside = |bound: Dim, high: &Dim| -> Dim {
        let from_end = size.sub(&bound);
        if bound.fixed().is_some_and(|bound| bound >= END) {
            return high.clone();
        }
        let assumed = (bound.fixed().is_none() && size.fixed().is_some() && !facts.may_be_signed(&bound))
            || (size.as_symbol().is_some() && bound.fixed() == Some(1))
            || (size.as_symbol().is_some() && from_end.fixed() == Some(1));
        let bound =
            if assumed || facts.non_negative(&high.sub(&bound)) { bound } else { facts.min(&bound, high) };
        if assumed || facts.non_negative(&bound) { bound } else { facts.max(&bound, &zero) }
    };
    let counted = |bound: &Dim| facts.from_end(bound, size);
    if step > 0 {
        let first = match start.fixed() {
            Some(0) => zero.clone(),
            _ => inside(counted(start), size),
        };
        let last = match end.fixed() {
            Some(end) if end >= END => size.clone(),
            _ => inside(counted(end), size),
        };
        let distance = last.sub(&first);
        let both_assumed = first.fixed().is_none() && size.fixed().is_some() && last.fixed().is_none();
        let len = distance.ceil_div(&Dim::Fixed(step));
        let len = if both_assumed && len.fixed().is_some_and(|len| len >= 0)
            || size.as_symbol().is_some() && size.sub(&len).fixed() == Some(1)
        {
            len
        } else {
            facts.max(&len, &zero)
        };
        return Ok((first, len));
    }
    // Backwards from `start` (at most the last element) down to, not including, `end` (at least -1).
    let last_index = size.sub(&Dim::Fixed(1));
    let first = match start.fixed() {
        Some(start) if start >= END || start == -1 => last_index.clone(),
        _ => facts.max(&facts.min(&counted(start), &last_index), &zero),
    };
    let stop = match end.fixed() {
        Some(end) if end <= -END => Dim::Fixed(-1),
        _ => facts.max(&facts.min(&counted(end), &last_index), &Dim::Fixed(-1)),
    };
    let len = first.sub(&stop).ceil_div(&Dim::Fixed(-step));
    Ok((first, facts.max(&len, &zero)))
}

fn split(n: &mut NodeLowering) -> Result<()> {
    let shape = n.input_type(0)?.shape;
    let position = n.axis("axis", 0, shape.len())?;
    let size = &shape[position];
    let parts = n.output_count();
    let sizes: Vec<Dim> = match n.ints("split")? {
        Some(list) => list.into_iter().map(Dim::Fixed).collect(),
        None if n.has(1) => n.dims(1, "the sizes of the parts")?,
        // Equal parts; the last may be smaller.
        None => {
            let count = Dim::Fixed(n.int_or("num_outputs", parts as i64)?.max(1));
            let each = size.ceil_div(&count);
            let last = size.sub(&each.mul(&count.sub(&Dim::Fixed(1))));
            (0..parts).map(|part| if part + 1 == parts { last.clone() } else { each.clone() }).collect()
        }
    };
    if sizes.len() != parts {
        return Err(Reject::invalid(format!("{} sizes for {parts} parts", sizes.len())));
    }
    let known = n.known(0);
    let mut start = Dim::Fixed(0);
    for (part, len) in sizes.into_iter().enumerate() {
        let range = ops::SliceRange { axis: position, start: start.clone(), len: len.clone(), step: 1 };
        start = start.add(&len);
        if !n.wants(part) {
            continue;
        }
        if let Some(known) = known.clone().and_then(|known| slice_known(known, std::slice::from_ref(&range)))
        {
            n.set_known(part, known);
            continue;
        }
        let x = n.input(0)?;
        let y = n.emit(ops::Slice { ranges: vec![range] }, &[x])?;
        n.set(part, y);
    }
    Ok(())
}

/// Negative pads cut off.
pub(super) fn pad(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let rank = n.rank(x);
    let pads: Vec<Dim> = match n.ints("pads")? {
        Some(list) => list.into_iter().map(Dim::Fixed).collect(),
        None => n.dims(1, "the amount of padding")?,
    };
    let axes = match n.has(3) {
        true => n.integers(3, "the list of axes")?,
        false => (0..rank as i64).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(Reject::invalid(format!("{} pads for {} axes", pads.len(), axes.len())));
    }
    let (mut before, mut after) = (vec![Dim::Fixed(0); rank], vec![Dim::Fixed(0); rank]);
    for (index, &position) in axes.iter().enumerate() {
        let position = axis(position, rank)?;
        before[position] = pads[index].clone();
        after[position] = pads[axes.len() + index].clone();
    }
    let mode = match n.string_or("mode", "constant")? {
        "constant" => ops::PadMode::Constant,
        "edge" => ops::PadMode::Edge,
        "reflect" => ops::PadMode::Reflect,
        "wrap" => ops::PadMode::Wrap,
        other => return Err(Reject::invalid(format!("mode {other:?} is not defined"))),
    };
    let mut ranges = Vec::new();
    for (position, size) in n.shape(x).iter().enumerate() {
        let mut cut = [Dim::Fixed(0), Dim::Fixed(0)];
        for (amount, cut) in [&mut before[position], &mut after[position]].into_iter().zip(&mut cut) {
            match amount.fixed() {
                Some(fixed) if fixed < 0 => {
                    *cut = amount.neg();
                    *amount = Dim::Fixed(0);
                }
                Some(_) => {}
                None if n.facts().may_be_signed(amount) => {
                    return Err(n.wants_constant(1, "padding arrives at run time and may be negative"));
                }
                None => {}
            }
        }
        let len = size.sub(&cut[0]).sub(&cut[1]);
        if len != *size {
            ranges.push(ops::SliceRange { axis: position, start: cut[0].clone(), len, step: 1 });
        }
    }
    let mut y = x;
    if !ranges.is_empty() {
        y = n.emit(ops::Slice { ranges }, &[y])?;
    }
    if before.iter().chain(&after).any(|amount| amount.fixed() != Some(0)) {
        let dtype = n.dtype(x);
        let mut inputs = vec![y];
        if mode == ops::PadMode::Constant {
            inputs.push(padding_value(n, dtype)?);
        }
        y = n.emit(ops::Pad { mode, before, after }, &inputs)?;
    }
    n.set(0, y);
    Ok(())
}

fn padding_value(n: &mut NodeLowering, dtype: DType) -> Result<ValueId> {
    if n.host().domain.is_empty() && n.opset() < 11 {
        let value = n.float_or("value", 0.0)?;
        return n.scalar(dtype, f64::from(value));
    }
    match n.optional(2)? {
        Some(value) => n.reshape(value, Vec::new()),
        None => zero(n, dtype),
    }
}

/// What is too long is cut, what is too short is padded with zeros, on both sides alike; an odd element goes at the end.
fn center_crop_pad(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let shape = n.shape(x);
    let wanted = n.dims(1, "the shape")?;
    let axes = n.ints("axes")?.unwrap_or_else(|| (0..shape.len() as i64).collect());
    if axes.len() != wanted.len() {
        return Err(Reject::invalid(format!("{} sizes for {} axes", wanted.len(), axes.len())));
    }
    let (zero_dim, two) = (Dim::Fixed(0), Dim::Fixed(2));
    let mut ranges = Vec::new();
    let (mut before, mut after) = (vec![zero_dim.clone(); shape.len()], vec![zero_dim.clone(); shape.len()]);
    for (&position, want) in axes.iter().zip(&wanted) {
        let axis = axis(position, shape.len())?;
        let size = &shape[axis];
        let surplus = n.facts().max(&size.sub(want), &zero_dim);
        let missing = n.facts().max(&want.sub(size), &zero_dim);
        if surplus != zero_dim {
            let (start, len) = (surplus.floor_div(&two), n.facts().min(size, want));
            ranges.push(ops::SliceRange { axis, start, len, step: 1 });
        }
        before[axis] = missing.floor_div(&two);
        after[axis] = missing.sub(&before[axis]);
    }
    ranges.sort_by_key(|range| range.axis);
    let mut y = x;
    if !ranges.is_empty() {
        y = n.emit(ops::Slice { ranges }, &[y])?;
    }
    if before.iter().chain(&after).any(|amount| *amount != zero_dim) {
        let fill = zero(n, n.dtype(y))?;
        y = n.emit(ops::Pad { mode: ops::PadMode::Constant, before, after }, &[y, fill])?;
    }
    n.set(0, y);
    Ok(())
}
