//! Parts of tensors, and padding around them.

use engraft_network::{Dim, ValueId, ops};

use super::super::Row;
use super::super::onnx::shape::zero;
use super::super::onnx::slice::{bounds, slice_known};
use super::{Result, axis_operand, row};
use crate::lower::{Facts, NodeLowering, Reject, Remedy, axes};

pub(super) const ROWS: &[Row] = &[
    row("Slice", slice),
    row("StridedSlice", strided_slice),
    row("Split", |n| {
        let axis = axis_operand(n, 0, n.input_type(1)?.rank())?;
        let parts = n.output_count().max(1);
        let size = n.input_type(1)?.shape[axis].floor_div(&Dim::from(parts));
        split(n, 1, axis, vec![size; parts])
    }),
    row("SplitV", split_v),
    row("Unpack", unpack),
    row("ReverseV2", reverse),
    row("Roll", roll),
    row("Pad", pad),
    row("PadV2", pad),
    row("MirrorPad", mirror_pad),
];

/// Sets `output` to a part of operand `input` under a shape; contents that are known stay so.
fn part(
    n: &mut NodeLowering,
    output: usize,
    input: usize,
    ranges: Vec<ops::SliceRange>,
    shape: Vec<Dim>,
) -> Result<()> {
    let ty = n.input_type(input)?;
    if ranges.is_empty() && ty.shape.as_slice() == shape.as_slice() {
        return n.forward(output, input);
    }
    let small = ty.rank() == 1 && !ty.dtype.is_float();
    let source = if small { n.contents(input) } else { n.known(input) };
    let fixed: Option<Vec<usize>> =
        shape.iter().map(|dim| dim.fixed().and_then(|size| usize::try_from(size).ok())).collect();
    if let (Some(source), Some(fixed)) = (source, fixed)
        && let Some(known) = slice_known(source, &ranges).and_then(|known| known.reshaped(&fixed))
    {
        n.set_known(output, known);
        return Ok(());
    }
    let mut y = n.input(input)?;
    if !ranges.is_empty() {
        y = n.emit(ops::Slice { ranges }, &[y])?;
    }
    let y = n.reshape(y, shape)?;
    n.set(output, y);
    Ok(())
}

/// Begin and size per axis; a size of -1 is what is left.
fn slice(n: &mut NodeLowering) -> Result<()> {
    let mut shape = n.input_type(0)?.shape.to_vec();
    let begin = n.dims(1, "the start of the slice")?;
    let size = n.dims(2, "the size of the slice")?;
    if begin.len() != shape.len() || size.len() != shape.len() {
        return Err(Reject::new("start and size do not fit the rank").remedy(Remedy::Correct));
    }
    let mut ranges = Vec::new();
    for (axis, (start, len)) in begin.into_iter().zip(size).enumerate() {
        let rest = shape[axis].sub(&start);
        let len = match len.fixed() {
            Some(-1) => rest,
            None if n.facts().may_be_signed(&len) => Dim::if_equal(&len, &Dim::Fixed(-1), &rest, &len),
            _ => len,
        };
        if len != shape[axis] || start != Dim::Fixed(0) {
            shape[axis] = len.clone();
            ranges.push(ops::SliceRange { axis, start, len, step: 1 });
        }
    }
    part(n, 0, 0, ranges, shape)
}

/// Python's `x[a:b:c, ..., newaxis, i]`: the masks say for each position which bounds are open, where the ellipsis and new axes
/// stand, and what is one index. Of the masks the ellipsis counts before the new axis, and that before the index.
fn strided_slice(n: &mut NodeLowering) -> Result<()> {
    let from = n.input_type(0)?.shape;
    let begin = n.dims(1, "the start of the slice")?;
    let end = n.dims(2, "the end of the slice")?;
    let steps = n.integers(3, "the step of the slice")?;
    if begin.len() != end.len() || begin.len() != steps.len() || begin.len() > 32 {
        return Err(Reject::new("begin, end and strides differ in length").remedy(Remedy::Correct));
    }
    let mut masks = [0i64; 5];
    for (mask, name) in
        masks.iter_mut().zip(["begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"])
    {
        *mask = n.int_or(name, 0)?;
    }
    let [begin_mask, end_mask, ellipsis, new_axis, shrink] =
        masks.map(|mask| move |position: usize| mask >> position & 1 != 0);
    let dots = (0..begin.len()).find(|&position| ellipsis(position));
    let taken = (0..begin.len()).filter(|&position| Some(position) != dots && !new_axis(position)).count();
    let covered = from.len().checked_sub(taken).ok_or_else(|| {
        Reject::new(format!("{taken} indices for rank {}", from.len())).remedy(Remedy::Correct)
    })?;
    let (mut axis, mut ranges, mut shape) = (0, Vec::new(), Vec::new());
    for position in 0..begin.len() {
        if Some(position) == dots {
            shape.extend(from[axis..axis + covered].iter().cloned());
            axis += covered;
        } else if new_axis(position) {
            shape.push(Dim::Fixed(1));
        } else if shrink(position) {
            let start = n.facts().from_end(&begin[position], &from[axis]);
            if from[axis].fixed() != Some(1) {
                ranges.push(ops::SliceRange { axis, start, len: Dim::Fixed(1), step: 1 });
            }
            axis += 1;
        } else {
            let start = (!begin_mask(position)).then_some(&begin[position]);
            let end = (!end_mask(position)).then_some(&end[position]);
            let (start, len) = extent(n.facts(), start, end, &from[axis], steps[position])?;
            if len != from[axis] || steps[position] != 1 {
                ranges.push(ops::SliceRange { axis, start, len: len.clone(), step: steps[position] });
            }
            shape.push(len);
            axis += 1;
        }
    }
    shape.extend(from[axis..].iter().cloned());
    part(n, 0, 0, ranges, shape)
}

/// Start and length of a slice of an axis, as Python clamps them; `None` is an open end.
fn extent(
    facts: &Facts,
    start: Option<&Dim>,
    end: Option<&Dim>,
    size: &Dim,
    step: i64,
) -> Result<(Dim, Dim)> {
    if step == 0 || step.unsigned_abs() > i32::MAX as u64 {
        return Err(Reject::new(format!("the step {step} is not supported")));
    }
    let fixed = |dim: Option<&Dim>| dim.map_or(Some(None), |dim| dim.fixed().map(Some));
    if let (Some(size), Some(start), Some(end)) = (size.fixed(), fixed(start), fixed(end)) {
        let (low, high) = if step > 0 { (0, size) } else { (-1, size - 1) };
        let inside = |index: i64| {
            let counted = if index < 0 { index.saturating_add(size) } else { index };
            counted.clamp(low, high)
        };
        let first = start.map_or(if step > 0 { low } else { high }, inside);
        let last = end.map_or(if step > 0 { high } else { low }, inside);
        let distance = if step > 0 { last - first } else { first - last };
        let len = distance.max(0).div_euclid(step.abs()) + i64::from(distance.max(0) % step.abs() != 0);
        return Ok((Dim::Fixed(if len == 0 { 0 } else { first }), Dim::Fixed(len)));
    }
    let (first, last) = if step > 0 { (Dim::Fixed(0), i64::MAX) } else { (Dim::Fixed(-1), i64::MIN + 1) };
    bounds(facts, start.unwrap_or(&first), end.unwrap_or(&Dim::Fixed(last)), size, step)
}

/// Parts of operand `input` one after the other along an axis.
fn split(n: &mut NodeLowering, input: usize, axis: usize, sizes: Vec<Dim>) -> Result<()> {
    let shape = n.input_type(input)?.shape.to_vec();
    let mut start = Dim::Fixed(0);
    for (output, len) in sizes.into_iter().enumerate() {
        let mut own = shape.clone();
        own[axis] = len.clone();
        if n.wants(output) {
            let range = ops::SliceRange { axis, start: start.clone(), len: len.clone(), step: 1 };
            let ranges = if len == shape[axis] { Vec::new() } else { vec![range] };
            part(n, output, input, ranges, own)?;
        }
        start = start.add(&len);
    }
    Ok(())
}

/// Sizes per part; one may be -1, which is what is left.
fn split_v(n: &mut NodeLowering) -> Result<()> {
    let shape = n.input_type(0)?.shape;
    let axis = axis_operand(n, 2, shape.len())?;
    let mut sizes = n.dims(1, "the sizes of the parts")?;
    let given = sizes.iter().filter(|size| size.fixed() != Some(-1));
    let rest = given.fold(shape[axis].clone(), |rest, size| rest.sub(size));
    for size in &mut sizes {
        if size.fixed() == Some(-1) {
            *size = rest.clone();
        } else if n.facts().may_be_signed(size) {
            return Err(n.wants_constant(1, "the sizes of the parts may be negative"));
        }
    }
    split(n, 0, axis, sizes)
}

/// One output for each slice along an axis.
fn unpack(n: &mut NodeLowering) -> Result<()> {
    let shape = n.input_type(0)?.shape;
    let axis = n.axis("axis", 0, shape.len())?;
    let mut rest = shape.to_vec();
    rest.remove(axis);
    for output in 0..n.output_count() {
        if n.wants(output) {
            let range = ops::SliceRange { axis, start: Dim::from(output), len: Dim::Fixed(1), step: 1 };
            part(n, output, 0, vec![range], rest.clone())?;
        }
    }
    Ok(())
}

fn reverse(n: &mut NodeLowering) -> Result<()> {
    let shape = n.input_type(0)?.shape;
    let list = n.integers(1, "the list of axes")?;
    let ranges = axes(&list, shape.len())?.into_iter().map(|axis| ops::SliceRange {
        axis,
        start: shape[axis].sub(&Dim::Fixed(1)),
        len: shape[axis].clone(),
        step: -1,
    });
    let ranges = ranges.collect();
    part(n, 0, 0, ranges, shape.to_vec())
}

/// Elements move on by the shift, and from the end to the beginning.
fn roll(n: &mut NodeLowering) -> Result<()> {
    let mut x = n.input(0)?;
    let shape = n.shape(x);
    let shifts = n.dims(1, "the shift")?;
    let list = n.integers(2, "the list of axes")?;
    if shifts.len() != list.len() {
        return Err(Reject::new("shifts and axes differ in number").remedy(Remedy::Correct));
    }
    for (shift, position) in shifts.iter().zip(list) {
        let axis = crate::lower::axis(position, shape.len())?;
        let size = &shape[axis];
        if shift.fixed() == Some(0) || size.fixed() == Some(0) {
            continue;
        }
        if size.fixed().is_none() {
            return Err(n.wants_fixed_dims(0, "a roll along an axis of unknown size"));
        }
        let shift = shift.modulo(size);
        let rest = size.sub(&shift);
        let mut cut = |start: &Dim, len: &Dim| -> Result<ValueId> {
            let range = ops::SliceRange { axis, start: start.clone(), len: len.clone(), step: 1 };
            n.emit(ops::Slice { ranges: vec![range] }, &[x])
        };
        let (tail, head) = (cut(&rest, &shift)?, cut(&Dim::Fixed(0), &rest)?);
        x = n.emit(ops::Concat { axis }, &[tail, head])?;
    }
    n.set(0, x);
    Ok(())
}

/// Amounts before and after each axis.
fn paddings(n: &mut NodeLowering, rank: usize) -> Result<(Vec<Dim>, Vec<Dim>)> {
    let all = n.dims(1, "the amount of padding")?;
    if all.len() != 2 * rank {
        return Err(Reject::new(format!("{} pads for rank {rank}", all.len())).remedy(Remedy::Correct));
    }
    if all.iter().any(|amount| n.facts().may_be_signed(amount)) {
        return Err(n.wants_constant(1, "padding arrives at run time and may be negative"));
    }
    let side = |offset: usize| all.iter().skip(offset).step_by(2).cloned().collect();
    Ok((side(0), side(1)))
}

fn pad(n: &mut NodeLowering) -> Result<()> {
    let (before, after) = paddings(n, n.input_type(0)?.rank())?;
    if before.iter().chain(&after).all(|amount| amount.fixed() == Some(0)) {
        return n.forward(0, 0);
    }
    let x = n.input(0)?;
    let value = match n.optional(2)? {
        Some(value) => n.reshape(value, Vec::new())?,
        None => zero(n, n.dtype(x))?,
    };
    let y = n.emit(ops::Pad { mode: ops::PadMode::Constant, before, after }, &[x, value])?;
    n.set(0, y);
    Ok(())
}

/// `REFLECT` leaves the border out, `SYMMETRIC` repeats it.
fn mirror_pad(n: &mut NodeLowering) -> Result<()> {
    let mut x = n.input(0)?;
    let (before, after) = paddings(n, n.rank(x))?;
    match n.string_or("mode", "REFLECT")? {
        "REFLECT" => x = n.emit(ops::Pad { mode: ops::PadMode::Reflect, before, after }, &[x])?,
        "SYMMETRIC" => {
            for (axis, (first, last)) in before.iter().zip(&after).enumerate() {
                let size = n.shape(x)[axis].clone();
                let mut mirrored = |start: Dim, len: &Dim| -> Result<Option<ValueId>> {
                    if len.fixed() == Some(0) {
                        return Ok(None);
                    }
                    let range = ops::SliceRange { axis, start, len: len.clone(), step: -1 };
                    n.emit(ops::Slice { ranges: vec![range] }, &[x]).map(Some)
                };
                let head = mirrored(first.sub(&Dim::Fixed(1)), first)?;
                let tail = mirrored(size.sub(&Dim::Fixed(1)), last)?;
                let parts: Vec<ValueId> = head.into_iter().chain([x]).chain(tail).collect();
                if parts.len() > 1 {
                    x = n.emit(ops::Concat { axis }, &parts)?;
                }
            }
        }
        other => return Err(Reject::new(format!("mode {other:?} is not supported"))),
    }
    n.set(0, x);
    Ok(())
}
