//! Recurrent layers, which Keras writes as loops over lists of tensors.
//!
//! **A list stands for the tensor that it stacks to**, `[T, B, I]`: taking a tensor apart and stacking a list do nothing. A list
//! that was only reserved is a scalar, which no loop reads and nothing can stack. Lists never leave a segment: the host's values
//! are of another type.
//!
//! A loop whose body is the step of an LSTM or a GRU over all elements of a list is that layer. Bodies are matched by their
//! structure, as Keras 2 and 3 write them.

use engraft_network::{DType, Dim, ValueId, ops};

use super::super::Row;
use super::super::onnx::shape::zero;
use super::{Result, row};
use crate::lower::{Known, NodeLowering, Reject, Remedy};
use crate::{Attribute, HostGraph, HostNode, HostValueId};

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
    let x = n.input(step.list)?;
    let hidden = n.input_type(step.recurrent)?.shape.first().and_then(Dim::fixed);
    let hidden = hidden.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
    let hidden =
        hidden.ok_or_else(|| n.wants_fixed_dims(step.recurrent, "the number of units is not fixed"))?;
    if n.rank(x) != 3 || step.sliced.is_some_and(|size| size != hidden as i64) {
        return Err(unknown_loop());
    }
    let kind = if step.cell.is_some() { ops::RnnKind::Lstm } else { ops::RnnKind::Gru };
    // Gates of Keras: input, forget, cell, output; update, reset, candidate.
    let order: &[usize] = if step.cell.is_some() { &[0, 3, 1, 2] } else { &[0, 1, 2] };
    let (w, r) = (weights(n, step.kernel, order, hidden)?, weights(n, step.recurrent, order, hidden)?);
    let bias = step.bias.map(|index| biases(n, index, order, hidden)).transpose()?;
    let mut state = |index: usize| -> Result<ValueId> {
        let value = n.input(index)?;
        let mut shape = n.shape(value);
        shape.insert(0, Dim::Fixed(1));
        n.reshape(value, shape)
    };
    let initial_h = state(step.state)?;
    let initial_c = step.cell.map(&mut state).transpose()?;
    let activations = match kind {
        ops::RnnKind::Lstm => vec![ops::Activation::Sigmoid, ops::Activation::Tanh, ops::Activation::Tanh],
        _ => vec![ops::Activation::Sigmoid, ops::Activation::Tanh],
    };
    let op = ops::Rnn {
        kind,
        direction: ops::Direction::Forward,
        hidden,
        activations,
        clip: None,
        linear_before_reset: true,
        input_forget: false,
        bias: bias.is_some(),
        sequence_lens: false,
        initial_h: true,
        initial_c: initial_c.is_some(),
        peephole: false,
    };
    let op = ops::Rnn { linear_before_reset: kind == ops::RnnKind::Gru, ..op };
    let operands: Vec<ValueId> =
        [x, w, r].into_iter().chain(bias).chain([initial_h]).chain(initial_c).collect();
    let outputs = n.emit_many(op, &operands)?;
    let shape = n.shape(x);
    let (batch, size) = (shape[1].clone(), Dim::from(hidden));
    for (index, output) in [(step.state, 1), (step.cell.unwrap_or(step.state), 2)] {
        if let Some(&state) = outputs.get(output) {
            let state = n.reshape(state, vec![batch.clone(), size.clone()])?;
            n.set(index, state);
        }
    }
    let written = match step.only_last {
        false => n.reshape(outputs[0], vec![shape[0].clone(), batch, size])?,
        true => outputs[1],
    };
    n.set(step.written, written);
    for index in step.carried {
        if n.wants(index) {
            n.forward(index, index)?;
        }
    }
    Ok(())
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

/// Gates of `[I, G * H]`, put in order, as `[1, G * H, I]`.
fn weights(n: &mut NodeLowering, index: usize, order: &[usize], hidden: usize) -> Result<ValueId> {
    let w = n.input(index)?;
    let shape = n.shape(w);
    let [rows, columns] = shape.as_slice() else { return Err(unknown_loop()) };
    if columns.fixed() != Some((order.len() * hidden) as i64) {
        return Err(unknown_loop());
    }
    let whole = vec![Dim::Fixed(1), columns.clone(), rows.clone()];
    let w = n.emit_folded(ops::Transpose { perm: vec![1, 0] }, &[w])?;
    let w = reordered(n, w, 0, order, hidden)?;
    n.emit_folded(ops::Reshape { shape: whole }, &[w])
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

fn reordered(
    n: &mut NodeLowering,
    x: ValueId,
    axis: usize,
    order: &[usize],
    hidden: usize,
) -> Result<ValueId> {
    let len = Dim::from(hidden);
    let mut parts = Vec::with_capacity(order.len());
    for gate in order {
        let range = ops::SliceRange { axis, start: Dim::from(gate * hidden), len: len.clone(), step: 1 };
        parts.push(n.emit_folded(ops::Slice { ranges: vec![range] }, &[x])?);
    }
    n.emit_folded(ops::Concat { axis }, &parts)
}

/// What the arguments of a loop are to a recurrent layer, by their numbers.
#[derive(Clone, Debug, Default)]
struct Step {
    list: usize,
    written: usize,
    /// Counts the elements of the list.
    time: usize,
    state: usize,
    cell: Option<usize>,
    kernel: usize,
    recurrent: usize,
    bias: Option<usize>,
    /// Only the last state is written, to a list of one.
    only_last: bool,
    /// Arguments that each turn raises by 1.
    counters: Vec<usize>,
    /// Arguments that stay as they are.
    carried: Vec<usize>,
    /// Units that the body slices gates into, where it tells.
    sliced: Option<i64>,
}

/// A function's body, looked at from its results.
struct Body<'g> {
    graph: &'g HostGraph,
    producers: Vec<Option<usize>>,
}

impl<'g> Body<'g> {
    fn of(graph: &'g HostGraph) -> Body<'g> {
        Body { graph, producers: graph.producers() }
    }

    /// The node behind identities, and which of its outputs the value is.
    fn node(&self, value: HostValueId) -> Option<(usize, &'g HostNode, usize)> {
        let value = self.value(value);
        let index = self.producers[value.index()]?;
        let node = &self.graph.nodes[index];
        let output = node.outputs.iter().position(|output| *output == Some(value))?;
        Some((index, node, output))
    }

    fn value(&self, mut value: HostValueId) -> HostValueId {
        while let Some(index) = self.producers[value.index()]
            && let node = &self.graph.nodes[index]
            && matches!(&node.op_type[..], "Identity" | "StopGradient" | "Snapshot")
            && let Some(Some(input)) = node.inputs.first()
        {
            value = *input;
        }
        value
    }

    fn argument(&self, value: HostValueId) -> Option<usize> {
        let value = self.value(value);
        self.graph.inputs.iter().position(|input| *input == value)
    }

    /// The inputs of a node of one of these types.
    fn inputs(&self, value: HostValueId, types: &[&str]) -> Option<Vec<HostValueId>> {
        let (_, node, _) = self.node(value).filter(|(_, node, _)| types.contains(&&node.op_type[..]))?;
        node.inputs.iter().copied().collect()
    }

    fn operands(&self, value: HostValueId, types: &[&str]) -> Option<[HostValueId; 2]> {
        self.inputs(value, types)?.try_into().ok()
    }

    fn operand(&self, value: HostValueId, op: &str) -> Option<HostValueId> {
        self.inputs(value, &[op])?.first().copied()
    }

    /// Both operands of a commutative node, in the order in which `f` takes them.
    fn either<T>(
        &self,
        value: HostValueId,
        types: &[&str],
        f: impl Fn(HostValueId, HostValueId) -> Option<T>,
    ) -> Option<T> {
        let [a, b] = self.operands(value, types)?;
        f(a, b).or_else(|| f(b, a))
    }

    fn sum<T>(&self, value: HostValueId, f: impl Fn(HostValueId, HostValueId) -> Option<T>) -> Option<T> {
        self.either(value, &["AddV2", "Add", "BiasAdd"], f)
    }

    fn product<T>(&self, value: HostValueId, f: impl Fn(HostValueId, HostValueId) -> Option<T>) -> Option<T> {
        self.either(value, &["Mul"], f)
    }

    /// The elements of a constant.
    fn numbers(&self, value: HostValueId) -> Option<Vec<f64>> {
        let tensor = self.graph.value(self.value(value)).constant.as_ref()?;
        Some((0..tensor.count()).map(|index| tensor.get_f64(index)).collect())
    }

    /// Which of `gates` equal parts of a matrix's columns a value is, and of what; the width of a part where the node tells.
    fn gate(&self, value: HostValueId, gates: usize) -> Option<(HostValueId, usize, Option<i64>)> {
        let (_, node, output) = self.node(value)?;
        let input = |index: usize| node.inputs.get(index).copied().flatten();
        match &node.op_type[..] {
            "Split" => {
                let along = self.numbers(input(0)?)?;
                let last = along == [1.0] || along == [-1.0];
                (last && node.outputs.len() == gates).then_some((self.value(input(1)?), output, None))
            }
            "StridedSlice" => {
                let mask = |name: &str| match node.attribute(name) {
                    Some(Attribute::Int(mask)) => *mask,
                    _ => 0,
                };
                let (begin, end, steps) =
                    (self.numbers(input(1)?)?, self.numbers(input(2)?)?, self.numbers(input(3)?)?);
                let plain =
                    ["ellipsis_mask", "new_axis_mask", "shrink_axis_mask"].iter().all(|name| mask(name) == 0);
                let rows = mask("begin_mask") & mask("end_mask") & 1 == 1;
                if !plain || !rows || begin.len() != 2 || end.len() != 2 || steps != [1.0, 1.0] {
                    return None;
                }
                let first = if mask("begin_mask") & 2 != 0 { 0.0 } else { begin[1] };
                let open = mask("end_mask") & 2 != 0;
                // All parts are as wide as the distance of their starts.
                let (width, index) = match (open, first > 0.0) {
                    (true, true) => (first / (gates - 1) as f64, gates - 1),
                    (false, _) if end[1] > first => {
                        (end[1] - first, (first / (end[1] - first)).round() as usize)
                    }
                    _ => return None,
                };
                (width * index as f64 == first && width.fract() == 0.0 && index < gates).then_some((
                    self.value(input(0)?),
                    index,
                    Some(width as i64),
                ))
            }
            _ => None,
        }
    }

    /// A product with an argument of the loop: the other factor and the argument's number.
    fn matmul(&self, value: HostValueId) -> Option<(HostValueId, usize)> {
        let (_, node, _) = self.node(value).filter(|(_, node, _)| node.op_type == "MatMul")?;
        let flag = |name| matches!(node.attribute(name), Some(Attribute::Int(1)));
        if flag("transpose_a") || flag("transpose_b") {
            return None;
        }
        let [a, b] = self.operands(value, &["MatMul"])?;
        Some((self.value(a), self.argument(b)?))
    }

    /// The element of a list at an index: the numbers of both arguments.
    fn element(&self, value: HostValueId) -> Option<(usize, usize)> {
        let inputs = self.inputs(value, &["TensorListGetItem"])?;
        Some((self.argument(*inputs.first()?)?, self.argument(*inputs.get(1)?)?))
    }

    /// Row `row` of a matrix that is an argument.
    fn row(&self, value: HostValueId, row: usize) -> Option<usize> {
        let (_, node, output) = self.node(value)?;
        let first = |index: usize| node.inputs.get(index).copied().flatten();
        match &node.op_type[..] {
            "Squeeze" => {
                let (_, split, part) = self.node(first(0)?).filter(|(_, node, _)| node.op_type == "Split")?;
                let input = |index: usize| split.inputs.get(index).copied().flatten();
                let rows = self.numbers(input(0)?)? == [0.0] && split.outputs.len() == 2 && part == row;
                rows.then(|| self.argument(input(1)?)).flatten()
            }
            "Unpack"
                if output == row
                    && !matches!(node.attribute("axis"), Some(Attribute::Int(axis)) if *axis != 0) =>
            {
                self.argument(first(0)?)
            }
            _ => None,
        }
    }

    fn step(&self) -> Option<Step> {
        let outputs = &self.graph.outputs;
        if outputs.len() != self.graph.inputs.len() {
            return None;
        }
        let mut step = Step::default();
        let mut writes = None;
        for (index, &output) in outputs.iter().enumerate() {
            let raised = self
                .sum(output, |a, b| (self.argument(a)? == index && self.numbers(b)? == [1.0]).then_some(()));
            if self.argument(output) == Some(index) {
                step.carried.push(index);
            } else if raised.is_some() {
                step.counters.push(index);
            } else if let Some(inputs) = self.inputs(output, &["TensorListSetItem"]) {
                let [list, place, item] = inputs.as_slice() else { return None };
                if self.argument(*list)? != index || writes.replace((*place, *item)).is_some() {
                    return None;
                }
                step.written = index;
            }
        }
        let (place, item) = writes?;
        let mut other = step.clone();
        if self.lstm(item, &mut step).is_none() {
            self.gru(item, &mut other)?;
            step = other;
        }
        let read = [Some(step.kernel), Some(step.recurrent), step.bias, Some(step.list)];
        if !read.iter().flatten().all(|index| step.carried.contains(index))
            || !step.counters.contains(&step.time)
        {
            return None;
        }
        step.only_last = match self.argument(place) {
            Some(place) if place == step.time => false,
            Some(_) => return None,
            None if self.numbers(place)? == [0.0] => true,
            None => return None,
        };
        // States go round, and everything that the loop changes is accounted for.
        let changed = [Some(step.written), Some(step.state), step.cell];
        let all =
            outputs.len() == step.carried.len() + step.counters.len() + changed.iter().flatten().count();
        (all && self.value(outputs[step.state]) == self.value(item)).then_some(step)
    }

    /// `h = sigmoid(o) tanh(c)`, `c = sigmoid(f) c' + sigmoid(i) tanh(g)` with `i f g o = x w + h' r + b`.
    fn lstm(&self, item: HostValueId, step: &mut Step) -> Option<()> {
        let (output, cell) = self.product(item, |a, b| {
            Some((self.operand(a, "Sigmoid")?, self.value(self.operand(b, "Tanh")?)))
        })?;
        let (forget, state, input, candidate) = self.sum(cell, |kept, added| {
            let (forget, state) =
                self.product(kept, |a, b| Some((self.operand(a, "Sigmoid")?, self.argument(b)?)))?;
            let (input, candidate) =
                self.product(added, |a, b| Some((self.operand(a, "Sigmoid")?, self.operand(b, "Tanh")?)))?;
            Some((forget, state, input, candidate))
        })?;
        let mut sums = Vec::new();
        for (number, gate) in [input, forget, candidate, output].into_iter().enumerate() {
            let (sum, part, width) = self.gate(gate, 4)?;
            step.sliced = step.sliced.or(width);
            (part == number).then_some(())?;
            sums.push(sum);
        }
        sums.iter().all(|sum| *sum == sums[0]).then_some(())?;
        let products = |value: HostValueId| {
            self.sum(value, |a, b| {
                let ((x, kernel), (h, recurrent)) = (self.matmul(a)?, self.matmul(b)?);
                Some((self.element(x)?, kernel, self.argument(h)?, recurrent))
            })
        };
        let (((list, time), kernel, hidden, recurrent), bias) = match products(sums[0]) {
            Some(found) => (found, None),
            None => self.sum(sums[0], |a, b| Some((products(a)?, Some(self.argument(b)?))))?,
        };
        (step.list, step.time, step.kernel, step.recurrent, step.bias) =
            (list, time, kernel, recurrent, bias);
        (step.state, step.cell) = (hidden, Some(state));
        (self.value(*self.graph.outputs.get(state)?) == self.value(cell)).then_some(())
    }

    /// `h = z h' + (1 - z) tanh(xh + r hh)`, `z = sigmoid(xz + hz)`, `r = sigmoid(xr + hr)` with `xz xr xh = x w + b` and
    /// `hz hr hh = h' r + b'`.
    fn gru(&self, item: HostValueId, step: &mut Step) -> Option<()> {
        let (update, state, candidate) = self.sum(item, |kept, added| {
            let (update, state) = self.product(kept, |a, b| Some((self.value(a), self.argument(b)?)))?;
            let candidate = self.product(added, |a, b| {
                let [one, other] = self.operands(a, &["Sub"])?;
                (self.numbers(one)? == [1.0] && self.value(other) == update).then_some(())?;
                self.operand(b, "Tanh")
            })?;
            Some((update, state, candidate))
        })?;
        let update = self.operand(update, "Sigmoid")?;
        let (new, reset, old) = self.sum(candidate, |new, gated| {
            let (reset, old) = self.product(gated, |a, b| Some((self.operand(a, "Sigmoid")?, b)))?;
            Some((new, reset, old))
        })?;
        let parts = |number: usize, a: HostValueId, b: HostValueId| {
            let (x, h) = (self.gate(a, 3)?, self.gate(b, 3)?);
            (x.1 == number && h.1 == number).then_some((x.0, h.0, x.2.or(h.2)))
        };
        // Which of the sums is of the input shows at their products.
        let of_input =
            |value: HostValueId| self.affine(value, 0).is_some_and(|(x, ..)| self.element(x).is_some());
        let gate = |number: usize, value: HostValueId| {
            self.sum(value, |a, b| parts(number, a, b).filter(|(x, ..)| of_input(*x)))
        };
        let (z, r, h) = (gate(0, update)?, gate(1, reset)?, parts(2, new, old)?);
        (z.0 == r.0 && z.0 == h.0 && z.1 == r.1 && z.1 == h.1).then_some(())?;
        step.sliced = z.2.or(r.2).or(h.2);
        let (x, kernel, bias) = self.affine(z.0, 0)?;
        let (hidden, recurrent, other) = self.affine(z.1, 1)?;
        let (list, time) = self.element(x)?;
        (bias == other && self.argument(hidden)? == state).then_some(())?;
        (step.list, step.time, step.kernel, step.recurrent, step.bias) =
            (list, time, kernel, recurrent, bias);
        step.state = state;
        Some(())
    }

    /// A product with an argument, and row `row` of another one added to it: the factor and both arguments.
    fn affine(&self, value: HostValueId, row: usize) -> Option<(HostValueId, usize, Option<usize>)> {
        match self.matmul(value) {
            Some((factor, matrix)) => Some((factor, matrix, None)),
            None => self.sum(value, |a, b| {
                let (factor, matrix) = self.matmul(a)?;
                Some((factor, matrix, Some(self.row(b, row)?)))
            }),
        }
    }
}
