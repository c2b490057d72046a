//! The step of a recurrent layer, found in the body of a loop.

use engraft_network::ops::{Activation, RnnKind};

use crate::{Attribute, HostGraph, HostNode, HostValueId};

/// What the arguments of a loop are to a recurrent layer, by their numbers.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub cell: Cell,
    pub written: usize,
    pub list: usize,
    /// Counts the elements of the list.
    pub time: usize,
    /// The list of the masks, `[B, 1]` each.
    pub mask: Option<Mask>,
    /// Only the last state is written, to a list of one.
    pub only_last: bool,
    /// Arguments that each turn raises by 1.
    pub counters: Vec<usize>,
    /// Arguments that stay as they are.
    pub carried: Vec<usize>,
    /// Arguments that become what is written.
    pub outputs: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mask {
    pub list: usize,
    /// What is written where it is false.
    pub otherwise: Otherwise,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Otherwise {
    /// What was written before; at first, the argument.
    Before(usize),
    /// The argument.
    Always(usize),
}

/// A cell: its weights and states are arguments of the loop.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub kind: RnnKind,
    pub kernel: usize,
    pub recurrent: usize,
    pub bias: Option<usize>,
    pub state: usize,
    pub memory: Option<usize>,
    /// As those of [`engraft_network::ops::Rnn`].
    pub activations: Vec<Activation>,
    /// GRU: the reset gate comes after the recurrent product.
    pub reset_after: bool,
    /// Units that the body slices gates into, where it tells.
    pub sliced: Option<i64>,
    /// The list of the inputs, and what counts its elements.
    list: usize,
    time: usize,
    /// The next states, before the mask.
    next: HostValueId,
    next_memory: Option<HostValueId>,
}

/// Biases: an argument, or a row of one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bias {
    Whole(usize),
    Row(usize),
}

/// A function's body, looked at from its results.
pub(super) struct Body<'g> {
    graph: &'g HostGraph,
    producers: Vec<Option<usize>>,
}

impl<'g> Body<'g> {
    pub fn of(graph: &'g HostGraph) -> Body<'g> {
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

    pub fn argument(&self, value: HostValueId) -> Option<usize> {
        let value = self.value(value);
        self.graph.inputs.iter().position(|input| *input == value)
    }

    /// The inputs of a node of one of these types.
    fn inputs(&self, value: HostValueId, types: &[&str]) -> Option<Vec<HostValueId>> {
        let (_, node, _) = self.node(value).filter(|(_, node, _)| types.contains(&&node.op_type[..]))?;
        node.inputs.iter().copied().collect()
    }

    pub fn operands(&self, value: HostValueId, types: &[&str]) -> Option<[HostValueId; 2]> {
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
                let (matrix, first, end) = self.columns(value)?;
                // All parts are as wide as the distance of their starts.
                let (width, index) = match end {
                    None if first > 0.0 => (first / (gates - 1) as f64, gates - 1),
                    Some(end) if end > first => (end - first, (first / (end - first)).round() as usize),
                    _ => return None,
                };
                let whole = width * index as f64 == first && width.fract() == 0.0 && index < gates;
                whole.then_some((matrix, index, Some(width as i64)))
            }
            _ => None,
        }
    }

    /// A range of a matrix's columns: the matrix, the first column, and the one behind the last unless that is the end.
    fn columns(&self, value: HostValueId) -> Option<(HostValueId, f64, Option<f64>)> {
        let (_, node, _) = self.node(value).filter(|(_, node, _)| node.op_type == "StridedSlice")?;
        let input = |index: usize| node.inputs.get(index).copied().flatten();
        let mask = |name: &str| match node.attribute(name) {
            Some(Attribute::Int(mask)) => *mask,
            _ => 0,
        };
        let (begin, end, steps) =
            (self.numbers(input(1)?)?, self.numbers(input(2)?)?, self.numbers(input(3)?)?);
        let plain = ["ellipsis_mask", "new_axis_mask", "shrink_axis_mask"].iter().all(|name| mask(name) == 0);
        let rows = mask("begin_mask") & mask("end_mask") & 1 == 1;
        if !plain || !rows || begin.len() != 2 || end.len() != 2 || steps != [1.0, 1.0] {
            return None;
        }
        let first = if mask("begin_mask") & 2 != 0 { 0.0 } else { begin[1] };
        let open = mask("end_mask") & 2 != 0;
        Some((self.value(input(0)?), first, (!open).then_some(end[1])))
    }

    /// A product with an argument of the loop: the other factor and the argument's number.
    fn matmul(&self, value: HostValueId) -> Option<(HostValueId, usize)> {
        self.is_plain_product(value).then_some(())?;
        let [a, b] = self.operands(value, &["MatMul"])?;
        Some((self.value(a), self.argument(b)?))
    }

    /// Whether a node multiplies matrices as they are.
    fn is_plain_product(&self, value: HostValueId) -> bool {
        let flag = |node: &HostNode, name: &str| matches!(node.attribute(name), Some(Attribute::Int(1)));
        self.node(value).is_some_and(|(_, node, _)| {
            node.op_type == "MatMul" && !flag(node, "transpose_a") && !flag(node, "transpose_b")
        })
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

    /// A function of one operand, and the operand.
    fn activation(&self, value: HostValueId) -> Option<(Activation, HostValueId)> {
        let (_, node, _) = self.node(value)?;
        let operand = || node.inputs.first().copied().flatten();
        let found = match &node.op_type[..] {
            "Sigmoid" => Activation::Sigmoid,
            "Tanh" => Activation::Tanh,
            "Relu" => Activation::Relu,
            "Softplus" => Activation::Softplus,
            "Softsign" => Activation::Softsign,
            "Elu" => Activation::Elu { alpha: 1f32.to_bits() },
            "LeakyRelu" => match node.attribute("alpha") {
                Some(Attribute::Float(alpha)) => Activation::LeakyRelu { alpha: alpha.to_bits() },
                _ => Activation::LeakyRelu { alpha: 0.2f32.to_bits() },
            },
            // Keras's hard sigmoid: relu6(x + 3) / 6.
            "RealDiv" | "Mul" => return self.hard_sigmoid(value),
            _ => return None,
        };
        Some((found, self.value(operand()?)))
    }

    fn hard_sigmoid(&self, value: HostValueId) -> Option<(Activation, HostValueId)> {
        const SIXTH: f32 = 1.0 / 6.0;
        let scaled = |a: HostValueId, b: HostValueId, by: f64| {
            (self.numbers(b)? == [by]).then(|| self.operand(a, "Relu6")).flatten()
        };
        let shifted = match self.operands(value, &["RealDiv"]) {
            Some([a, b]) => scaled(a, b, 6.0),
            None => self.product(value, |a, b| scaled(a, b, f64::from(SIXTH))),
        }?;
        let x = self.sum(shifted, |a, b| (self.numbers(b)? == [3.0]).then_some(a))?;
        Some((Activation::HardSigmoid { alpha: SIXTH.to_bits(), beta: 0.5f32.to_bits() }, x))
    }

    /// [`Body::activation`], or none at all.
    fn any_activation(&self, value: HostValueId) -> (Activation, HostValueId) {
        let none = Activation::Affine { alpha: 1f32.to_bits(), beta: 0 };
        self.activation(value).unwrap_or((none, self.value(value)))
    }

    /// What a mask chooses between: its list and count, what it lets through, and what stands where it is false.
    fn masked(&self, value: HostValueId) -> Option<((usize, usize), HostValueId, HostValueId)> {
        let inputs = self.inputs(value, &["SelectV2", "Select"])?;
        let &[mut condition, new, old] = inputs.as_slice() else { return None };
        while let Some(inner) =
            self.inputs(condition, &["Tile", "BroadcastTo"]).and_then(|inputs| inputs.first().copied())
        {
            condition = inner;
        }
        Some((self.element(condition)?, self.value(new), old))
    }

    /// The layer whose step this body is.
    pub fn step(&self) -> Option<Step> {
        let outputs = &self.graph.outputs;
        if outputs.len() != self.graph.inputs.len() {
            return None;
        }
        let (mut carried, mut counters, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        let mut writes = None;
        for (index, &output) in outputs.iter().enumerate() {
            let raised = self
                .sum(output, |a, b| (self.argument(a)? == index && self.numbers(b)? == [1.0]).then_some(()));
            if self.argument(output) == Some(index) {
                carried.push(index);
            } else if raised.is_some() {
                counters.push(index);
            } else if let Some(inputs) = self.inputs(output, &["TensorListSetItem"]) {
                let [list, place, item] = inputs.as_slice() else { return None };
                if self.argument(*list)? != index || writes.replace((index, *place, *item)).is_some() {
                    return None;
                }
            } else {
                changed.push(index);
            }
        }
        let (written, place, item) = writes?;
        let masked = self.masked(item);
        let cell = self.cell(masked.map_or(self.value(item), |(_, new, _)| new))?;
        changed.retain(|index| *index != cell.state && Some(*index) != cell.memory);
        let becomes_item = |index: &usize| self.value(outputs[*index]) == self.value(item);
        if !changed.iter().all(becomes_item) {
            return None;
        }
        let mask = match masked {
            None => None,
            Some(((list, time), _, old)) => {
                let old = self.argument(old)?;
                let otherwise = match () {
                    () if carried.contains(&old) => Otherwise::Always(old),
                    () if changed.contains(&old) => Otherwise::Before(old),
                    // The state is what was written before, too.
                    () if old == cell.state && becomes_item(&old) => Otherwise::Before(old),
                    () => return None,
                };
                (time == cell.time && carried.contains(&list)).then_some(())?;
                Some(Mask { list, otherwise })
            }
        };
        // States go round, past the same mask.
        let states = [Some((cell.state, cell.next)), cell.memory.zip(cell.next_memory)];
        for (index, next) in states.into_iter().flatten() {
            let goes_round = match mask {
                None => self.value(outputs[index]) == next,
                Some(mask) => self.masked(outputs[index]).is_some_and(|((list, time), new, old)| {
                    (list, time) == (mask.list, cell.time) && new == next && self.argument(old) == Some(index)
                }),
            };
            goes_round.then_some(())?;
        }
        let read = [Some(cell.kernel), Some(cell.recurrent), cell.bias, Some(cell.list)];
        let constant = read.iter().flatten().all(|index| carried.contains(index));
        (constant && counters.contains(&cell.time)).then_some(())?;
        let only_last = match self.argument(place) {
            Some(place) if place == cell.time => false,
            Some(_) => return None,
            None if self.numbers(place)? == [0.0] => true,
            None => return None,
        };
        let (list, time) = (cell.list, cell.time);
        Some(Step { cell, written, list, time, mask, only_last, counters, carried, outputs: changed })
    }

    /// The cell whose next state a value is.
    fn cell(&self, next: HostValueId) -> Option<Cell> {
        self.lstm(next).or_else(|| self.gru(next)).or_else(|| self.simple(next))
    }

    /// `h = g(x w + b + h' r)`.
    fn simple(&self, next: HostValueId) -> Option<Cell> {
        let (activation, sum) = self.any_activation(next);
        let plain = |a: HostValueId, b: HostValueId| {
            let (x, kernel, bias) = self.affine(a, 0)?;
            let (h, recurrent) = self.matmul(b)?;
            let bias = match bias {
                None => None,
                Some(Bias::Whole(bias)) => Some(bias),
                Some(Bias::Row(_)) => return None,
            };
            Some((self.element(x)?, kernel, bias, self.argument(h)?, recurrent))
        };
        let ((list, time), kernel, bias, state, recurrent) = self.sum(sum, plain)?;
        Some(Cell {
            kind: RnnKind::Simple,
            kernel,
            recurrent,
            bias,
            state,
            memory: None,
            activations: vec![activation],
            reset_after: false,
            sliced: None,
            list,
            time,
            next,
            next_memory: None,
        })
    }

    /// `h = f(o) g(c)`, `c = f(f) c' + f(i) g(g)` with `i f g o = x w + h' r + b`.
    fn lstm(&self, next: HostValueId) -> Option<Cell> {
        let gate = |value: HostValueId, number: usize| {
            let (function, value) = self.activation(value)?;
            let (sum, part, width) = self.gate(value, 4)?;
            (part == number).then_some((function, sum, width))
        };
        let (output, (outer, memory)) =
            self.product(next, |a, b| Some((gate(a, 3)?, self.any_activation(b))))?;
        let (forget, state, input, candidate) = self.sum(memory, |kept, added| {
            let (forget, state) = self.product(kept, |a, b| Some((gate(a, 1)?, self.argument(b)?)))?;
            let (input, candidate) = self.product(added, |a, b| {
                let (function, value) = self.any_activation(b);
                let (sum, part, width) = self.gate(value, 4)?;
                Some((gate(a, 0)?, (part == 2).then_some((function, sum, width))?))
            })?;
            Some((forget, state, input, candidate))
        })?;
        let gates = [input, forget, output];
        let (function, sum, _) = input;
        let alike = gates.iter().all(|gate| gate.0 == function && gate.1 == sum) && candidate.1 == sum;
        alike.then_some(())?;
        let products = |value: HostValueId| {
            self.sum(value, |a, b| {
                let ((x, kernel), (h, recurrent)) = (self.matmul(a)?, self.matmul(b)?);
                Some((self.element(x)?, kernel, self.argument(h)?, recurrent))
            })
        };
        let (((list, time), kernel, hidden, recurrent), bias) = match products(sum) {
            Some(found) => (found, None),
            None => self.sum(sum, |a, b| Some((products(a)?, Some(self.argument(b)?))))?,
        };
        Some(Cell {
            kind: RnnKind::Lstm,
            kernel,
            recurrent,
            bias,
            state: hidden,
            memory: Some(state),
            activations: vec![function, candidate.0, outer],
            reset_after: false,
            sliced: gates.iter().chain([&candidate]).find_map(|gate| gate.2),
            list,
            time,
            next,
            next_memory: Some(self.value(memory)),
        })
    }

    /// `h = z h' + (1 - z) g(c)`, `z = f(xz + hz)`, `r = f(xr + hr)` with `xz xr xh = x w + b`, and either
    /// `c = xh + r hh` with `hz hr hh = h' r + b'`, or `c = xh + (r h') rh` with `hz hr = h' r`.
    fn gru(&self, next: HostValueId) -> Option<Cell> {
        let (update, state, (inner, candidate)) = self.sum(next, |kept, added| {
            let (update, state) = self.product(kept, |a, b| Some((self.value(a), self.argument(b)?)))?;
            let candidate = self.product(added, |a, b| {
                let [one, other] = self.operands(a, &["Sub"])?;
                (self.numbers(one)? == [1.0] && self.value(other) == update).then_some(())?;
                Some(self.any_activation(b))
            })?;
            Some((update, state, candidate))
        })?;
        let (function, update) = self.activation(update)?;
        // The sum of the inputs, of which a gate is a part, and that of the states, of which another is a part of `gates`.
        let gate = |number: usize, value: HostValueId, gates: usize| {
            self.sum(value, |a, b| {
                let (x, h) = (self.gate(a, 3)?, self.gate(b, gates)?);
                // Which of the sums is of the input shows at their products.
                let (factor, ..) = self.affine(x.0, 0)?;
                self.element(factor)?;
                (x.1 == number && h.1 == number).then_some((x.0, h.0, x.2.or(h.2)))
            })
        };
        let after = self.sum(candidate, |new, gated| {
            let (reset, old) = self.product(gated, |a, b| Some((self.activation(a)?, self.gate(b, 3)?)))?;
            let (new, old) = (self.gate(new, 3)?, old);
            (new.1 == 2 && old.1 == 2).then_some((reset, new, Some(old)))
        });
        let before = || {
            self.sum(candidate, |new, gated| {
                let [factor, weights] = self.operands(gated, &["MatMul"])?;
                self.is_plain_product(gated).then_some(())?;
                let reset = self.product(factor, |a, b| {
                    (self.argument(b)? == state).then(|| self.activation(a)).flatten()
                })?;
                let (new, part) = (self.gate(new, 3)?, self.gate(weights, 3)?);
                (new.1 == 2 && part.1 == 2).then_some((reset, new, part))
            })
        };
        let (reset, of_input, of_state, whole) = match after {
            Some((reset, new, old)) => (reset, new, old, None),
            None => {
                let (reset, new, part) = before()?;
                (reset, new, None, Some(part))
            }
        };
        let gates = if whole.is_some() { 2 } else { 3 };
        let (z, r) = (gate(0, update, gates)?, gate(1, reset.1, gates)?);
        let alike = reset.0 == function && z.0 == r.0 && z.0 == of_input.0 && z.1 == r.1;
        (alike && of_state.is_none_or(|old| old.0 == z.1)).then_some(())?;
        let (x, kernel, bias) = self.affine(z.0, 0)?;
        let (hidden, recurrent, other) = match whole {
            None => self.affine(z.1, 1)?,
            // Two thirds of the weights make the gates, the rest the candidate.
            Some((weights, _, width)) => {
                let [h, part] = self.operands(z.1, &["MatMul"])?;
                let gates = (weights, 0.0, Some(2.0 * width? as f64));
                (self.columns(part)? == gates && self.is_plain_product(z.1)).then_some(())?;
                (self.value(h), self.argument(weights)?, None)
            }
        };
        let (list, time) = self.element(x)?;
        // A vector of biases is of the inputs alone; a matrix has a row for the states.
        let bias = match (bias, other) {
            (None, None) => None,
            (Some(Bias::Whole(bias)), None) => Some(bias),
            (Some(Bias::Row(bias)), Some(Bias::Row(other))) if bias == other => Some(bias),
            _ => return None,
        };
        (self.argument(hidden)? == state).then_some(())?;
        Some(Cell {
            kind: RnnKind::Gru,
            kernel,
            recurrent,
            bias,
            state,
            memory: None,
            activations: vec![function, inner],
            reset_after: whole.is_none(),
            sliced: z
                .2
                .or(r.2)
                .or(of_input.2)
                .or(of_state.and_then(|old| old.2))
                .or(whole.and_then(|part| part.2)),
            list,
            time,
            next,
            next_memory: None,
        })
    }

    /// A product with an argument, and biases added to it: the factor and both arguments; of a matrix row `row` is the biases.
    fn affine(&self, value: HostValueId, row: usize) -> Option<(HostValueId, usize, Option<Bias>)> {
        match self.matmul(value) {
            Some((factor, matrix)) => Some((factor, matrix, None)),
            None => self.sum(value, |a, b| {
                let (factor, matrix) = self.matmul(a)?;
                let bias = self.row(b, row).map(Bias::Row).or_else(|| self.argument(b).map(Bias::Whole));
                Some((factor, matrix, Some(bias?)))
            }),
        }
    }
}
