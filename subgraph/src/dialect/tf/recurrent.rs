//! Recurrent layers, which Keras writes as loops over lists of tensors.
//!
//! **A list stands for the tensor that it stacks to**, `[T, B, I]`: taking a tensor apart and stacking a list do nothing. A list
//! that was only reserved is a scalar, which no loop reads and nothing can stack. Lists never leave a segment: the host's values
//! are of another type.
//!
//! A loop whose body is the step of an LSTM, a GRU or a simple layer over all elements of a list is that layer, masked or not.
//! Bodies are matched by their structure, as Keras 2 and 3 write them.

mod step;

use engraft_network::{BinaryOp, DType, Dim, ValueId, ops};

use super::super::Row;
use super::super::onnx::shape::zero;
use super::{Result, row};
use crate::lower::{Known, NodeLowering, Reject, Remedy};
use crate::{Attribute, HostGraph};
use step::{Body, Mask, Otherwise, Step};

pub(super) const ROWS: &[Row] = &[
    row("TensorListFromTensor", |n| match n.input_type(0)?.rank() {
        0 => Err(Reject::new("a scalar has no elements")),
        _ => n.forward(0, 0),
    }),
    row("TensorListReserve", |n| {
        n.set_known(0, Known::scalar(DType::F32, Dim::Fixed(0)));
        Ok(())
    }),
    row("TensorListStack", |n| match n.input_type(0)?.rank() {
        0 => Err(Reject::new("nothing is known of the list's elements")),
        _ => n.forward(0, 0),
    }),
    row("While", recurrent),
    row("StatelessWhile", recurrent),
];

fn unknown_loop() -> Reject {
    Reject::new("a loop that is no recurrent layer stays with the host").remedy(Remedy::HostOnly)
}

fn recurrent(n: &mut NodeLowering) -> Result<()> {
    let (Some(Attribute::Graph(body)), Some(Attribute::Graph(condition))) =
        (n.attribute("body"), n.attribute("cond"))
    else {
        return Err(unknown_loop());
    };
    let step = Body::of(body).step().ok_or_else(unknown_loop)?;
    runs_once_per_element(n, condition, &step)?;
    if step.outputs.iter().any(|index| n.wants(*index)) {
        return Err(unknown_loop());
    }
    let cell = &step.cell;
    let x = n.input(step.list)?;
    let hidden = n.input_type(cell.recurrent)?.shape.first().and_then(Dim::fixed);
    let hidden = hidden.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
    let hidden =
        hidden.ok_or_else(|| n.wants_fixed_dims(cell.recurrent, "the number of units is not fixed"))?;
    if n.rank(x) != 3 || cell.sliced.is_some_and(|size| size != hidden as i64) {
        return Err(unknown_loop());
    }
    // Gates of Keras: input, forget, cell, output; update, reset, candidate.
    let order: &[usize] = match cell.kind {
        ops::RnnKind::Lstm => &[0, 3, 1, 2],
        ops::RnnKind::Gru => &[0, 1, 2],
        ops::RnnKind::Simple => &[0],
    };
    let (w, r) = (weights(n, cell.kernel, order, hidden)?, weights(n, cell.recurrent, order, hidden)?);
    let bias = cell.bias.map(|index| biases(n, index, order, hidden)).transpose()?;
    let mut state = |index: usize| -> Result<ValueId> {
        let value = n.input(index)?;
        let mut shape = n.shape(value);
        shape.insert(0, Dim::Fixed(1));
        n.reshape(value, shape)
    };
    let initial_h = state(cell.state)?;
    let initial_c = cell.memory.map(&mut state).transpose()?;
    let (time, batch) = (n.shape(x)[0].clone(), n.shape(x)[1].clone());
    let mask = match step.mask {
        None => None,
        Some(mask) => {
            let kept = n.input(mask.list)?;
            Some(n.reshape(kept, vec![time.clone(), batch.clone()])?)
        }
    };
    let op = ops::Rnn {
        kind: cell.kind,
        direction: ops::Direction::Forward,
        hidden,
        activations: cell.activations.clone(),
        clip: None,
        linear_before_reset: cell.reset_after,
        input_forget: false,
        bias: bias.is_some(),
        sequence_lens: false,
        initial_h: true,
        initial_c: initial_c.is_some(),
        peephole: false,
        mask: mask.is_some(),
    };
    let operands: Vec<ValueId> =
        [x, w, r].into_iter().chain(bias).chain([initial_h]).chain(initial_c).chain(mask).collect();
    let outputs = n.emit_many(op, &operands)?;
    let size = Dim::from(hidden);
    for (index, output) in [(cell.state, 1), (cell.memory.unwrap_or(cell.state), 2)] {
        if let Some(&state) = outputs.get(output) {
            let state = n.reshape(state, vec![batch.clone(), size.clone()])?;
            n.set(index, state);
        }
    }
    let mut written = match step.only_last {
        false => n.reshape(outputs[0], vec![time, batch, size])?,
        true => outputs[1],
    };
    if let (Some(Mask { otherwise, .. }), Some(mask)) = (step.mask, mask) {
        written = unmasked(n, written, mask, otherwise, &step, initial_h)?;
    }
    n.set(step.written, written);
    for &index in &step.carried {
        if n.wants(index) {
            n.forward(index, index)?;
        }
    }
    Ok(())
}

/// What a masked layer writes, given its states `[T, B, H]`, or the last of them `[1, B, H]`: they go on where the mask `[T, B]` is
/// false, the loop writes something else there.
fn unmasked(
    n: &mut NodeLowering,
    states: ValueId,
    mask: ValueId,
    otherwise: Otherwise,
    step: &Step,
    initial: ValueId,
) -> Result<ValueId> {
    let (time, batch) = (n.shape(mask)[0].clone(), n.shape(mask)[1].clone());
    let last = |n: &mut NodeLowering, x: ValueId| -> Result<ValueId> {
        if !step.only_last {
            return Ok(x);
        }
        let start = time.sub(&1.into());
        let range = ops::SliceRange { axis: 0, start, len: 1.into(), step: 1 };
        n.emit_folded(ops::Slice { ranges: vec![range] }, &[x])
    };
    let (kept, index) = match otherwise {
        Otherwise::Always(index) => (last(n, mask)?, index),
        Otherwise::Before(index) => {
            let first = n.input(index)?;
            // The states go on from the same value.
            if index == step.cell.state || n.is_zero(first) && n.is_zero(initial) {
                return Ok(states);
            }
            let ones = n.cast(mask, DType::F32)?;
            let seen = ops::Cumulative { product: false, axis: 0, exclusive: false, reverse: false };
            let seen = n.emit(seen, &[ones])?;
            let seen = last(n, seen)?;
            (n.with_scalar(BinaryOp::Gt, seen, 0.0)?, index)
        }
    };
    let rows = if step.only_last { Dim::Fixed(1) } else { time.clone() };
    let kept = n.reshape(kept, vec![rows, batch, Dim::Fixed(1)])?;
    let other = n.input(index)?;
    n.emit(ops::Select, &[kept, states, other])
}

/// The loop counts from 0 while a count is below the length of the list.
fn runs_once_per_element(n: &mut NodeLowering, condition: &HostGraph, step: &Step) -> Result<()> {
    let length = n.input_type(step.list)?.shape.first().cloned().ok_or_else(unknown_loop)?;
    let body = Body::of(condition);
    let mut tests = vec![*condition.outputs.first().ok_or_else(unknown_loop)?];
    let mut counted = false;
    while let Some(test) = tests.pop() {
        if let Some([a, b]) = body.operands(test, &["LogicalAnd"]) {
            tests.extend([a, b]);
            continue;
        }
        let [count, bound] = body.operands(test, &["Less"]).ok_or_else(unknown_loop)?;
        let (count, bound) = body.argument(count).zip(body.argument(bound)).ok_or_else(unknown_loop)?;
        let mut number = |index: usize| n.contents(index).and_then(|known| known.dims()?.first().cloned());
        if !step.counters.contains(&count)
            || !step.carried.contains(&bound)
            || number(count) != Some(Dim::Fixed(0))
            || number(bound) != Some(length.clone())
        {
            return Err(unknown_loop());
        }
        counted |= count == step.time;
    }
    // The count of the list's elements starts with the others.
    let start = n.contents(step.time).and_then(|known| known.dims()?.first().cloned());
    if start != Some(Dim::Fixed(0)) || !(counted || step.counters.contains(&step.time)) {
        return Err(unknown_loop());
    }
    Ok(())
}

/// Gates of `[I, G * H]`, put in order, as `[1, G * H, I]`. Constants stay as the host has them, for the builder to rearrange: so they
/// can be stored once for both.
fn weights(n: &mut NodeLowering, index: usize, order: &[usize], hidden: usize) -> Result<ValueId> {
    let w = n.input(index)?;
    let shape = n.shape(w);
    let [rows, columns] = shape.as_slice() else { return Err(unknown_loop()) };
    if columns.fixed() != Some((order.len() * hidden) as i64) {
        return Err(unknown_loop());
    }
    let whole = vec![Dim::Fixed(1), columns.clone(), rows.clone()];
    let w = n.emit(ops::Transpose { perm: vec![1, 0] }, &[w])?;
    let w = reordered(n, w, 0, order, hidden)?;
    n.emit(ops::Reshape { shape: whole }, &[w])
}

/// Biases `[G * H]` of the input, or `[2, G * H]` of input and state, as `[1, 2 * G * H]`.
fn biases(n: &mut NodeLowering, index: usize, order: &[usize], hidden: usize) -> Result<ValueId> {
    let b = n.input(index)?;
    let count = order.len() * hidden;
    let rows = match n.ty(b).fixed_shape().as_deref() {
        Some([size]) if *size == count => 1,
        Some([2, size]) if *size == count => 2,
        _ => return Err(unknown_loop()),
    };
    let shape = vec![Dim::from(rows), Dim::from(count)];
    let b = n.emit_folded(ops::Reshape { shape }, &[b])?;
    let mut b = reordered(n, b, 1, order, hidden)?;
    if rows == 1 {
        let none = zero(n, n.dtype(b))?;
        let none = n.emit_folded(ops::Expand { shape: vec![Dim::Fixed(1), Dim::from(count)] }, &[none])?;
        b = n.emit_folded(ops::Concat { axis: 0 }, &[b, none])?;
    }
    n.emit_folded(ops::Reshape { shape: vec![Dim::Fixed(1), Dim::from(2 * count)] }, &[b])
}

/// Gates of an axis, put in order.
fn reordered(
    n: &mut NodeLowering,
    x: ValueId,
    axis: usize,
    order: &[usize],
    hidden: usize,
) -> Result<ValueId> {
    if order.is_sorted() {
        return Ok(x);
    }
    let len = Dim::from(hidden);
    let mut parts = Vec::with_capacity(order.len());
    for gate in order {
        let range = ops::SliceRange { axis, start: Dim::from(gate * hidden), len: len.clone(), step: 1 };
        parts.push(n.emit(ops::Slice { ranges: vec![range] }, &[x])?);
    }
    n.emit(ops::Concat { axis }, &parts)
}
