use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::UnaryOp;
use crate::evaluate::unary_float;
use crate::{DType, Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::smallvec;
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RnnKind {
    Lstm,
    Gru,
    Simple,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    Forward,
    Reverse,
    Bidirectional,
}

/// Activation function of a recurrent cell; `alpha`, `beta` as in the ONNX RNN operators, as bits of `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Activation {
    Sigmoid,
    Tanh,
    Relu,
    Affine { alpha: u32, beta: u32 },
    LeakyRelu { alpha: u32 },
    ThresholdedRelu { alpha: u32 },
    ScaledTanh { alpha: u32, beta: u32 },
    HardSigmoid { alpha: u32, beta: u32 },
    Elu { alpha: u32 },
    Softsign,
    Softplus,
}

/// Recurrent layer with the semantics, gate orders and weight layouts of ONNX LSTM (i o f c), GRU (z r h) and RNN.
///
/// Operands: x `[T, B, I]`, w `[D, G * H, I]`, r `[D, G * H, H]`, then those that are flagged, in this order: `bias`
/// `[D, 2 * G * H]`, `sequence_lens` i32 `[B]`, `initial_h` `[D, B, H]`, `initial_c` `[D, B, H]` (LSTM), `peephole`
/// `[D, 3 * H]` (LSTM), `mask` bool `[T, B]`: steps where it is false leave the states as they are, and y repeats h.
/// D = 2 if bidirectional, else 1; G = 4, 3, 1. Outputs: y `[T, D, B, H]`, y_h `[D, B, H]`, and for LSTM y_c `[D, B, H]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rnn {
    pub kind: RnnKind,
    pub direction: Direction,
    pub hidden: usize,
    /// Per direction: LSTM f g h, GRU f g, RNN f.
    pub activations: Vec<Activation>,
    /// Bits of `f32`: cell inputs are clipped to `[-clip, clip]`.
    pub clip: Option<u32>,
    /// GRU: apply the reset gate after the recurrent product.
    pub linear_before_reset: bool,
    /// LSTM: couple the input and forget gates.
    pub input_forget: bool,
    pub bias: bool,
    pub sequence_lens: bool,
    pub initial_h: bool,
    pub initial_c: bool,
    pub peephole: bool,
    pub mask: bool,
}

impl RnnKind {
    /// Gates of a cell: rows of `w` per hidden unit.
    pub fn gates(self) -> usize {
        match self {
            RnnKind::Lstm => 4,
            RnnKind::Gru => 3,
            RnnKind::Simple => 1,
        }
    }

    /// Activation functions per direction.
    pub fn activations(self) -> usize {
        match self {
            RnnKind::Lstm => 3,
            RnnKind::Gru => 2,
            RnnKind::Simple => 1,
        }
    }
}

impl Rnn {
    /// 2 if bidirectional, else 1.
    pub fn directions(&self) -> usize {
        if self.direction == Direction::Bidirectional { 2 } else { 1 }
    }
}

impl Operator for Rnn {
    const NAME: &'static str = "rnn";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        let flags = [self.bias, self.sequence_lens, self.initial_h, self.initial_c, self.peephole, self.mask];
        check::arity(inputs, 3 + flags.iter().filter(|f| **f).count())?;
        let lstm = self.kind == RnnKind::Lstm;
        if !lstm && (self.initial_c || self.peephole || self.input_forget) {
            return Err(check::attribute(
                "kind",
                "only an LSTM has a cell state, peepholes and coupled gates",
            ));
        }
        let (d, h, g) = (self.directions(), self.hidden, self.kind.gates());
        check::per_axis("activations", &self.activations, d * self.kind.activations())?;
        let t = check::float(inputs, 0)?;
        check::rank(inputs, 0, 3)?;
        let x = &inputs[0].shape;
        let batch = x[1].clone();
        let dim = Dim::from;
        let mut operands =
            vec![("w", vec![dim(d), dim(g * h), x[2].clone()]), ("r", vec![dim(d), dim(g * h), dim(h)])];
        let optional = [
            ("bias", vec![dim(d), dim(2 * g * h)]),
            ("sequence_lens", vec![batch.clone()]),
            ("initial_h", vec![dim(d), batch.clone(), dim(h)]),
            ("initial_c", vec![dim(d), batch.clone(), dim(h)]),
            ("peephole", vec![dim(d), dim(3 * h)]),
            ("mask", vec![x[0].clone(), batch.clone()]),
        ];
        operands.extend(optional.into_iter().zip(flags).filter(|(_, f)| *f).map(|(o, _)| o));
        for (i, (name, shape)) in operands.iter().enumerate() {
            let i = i + 1;
            match *name {
                "sequence_lens" => drop(check::dtype(inputs, i, |t| t == DType::I32, "i32")?),
                "mask" => drop(check::dtype(inputs, i, |t| t == DType::Bool, "bool")?),
                _ => check::same(inputs, i, 0)?,
            }
            check::rank(inputs, i, shape.len())?;
            for (want, got) in shape.iter().zip(&inputs[i].shape) {
                check::agree(want, got, name)?;
            }
        }
        let state = TensorType::new(t, [dim(d), batch.clone(), dim(h)]);
        let mut out: TypeVec =
            smallvec![TensorType::new(t, [x[0].clone(), dim(d), batch, dim(h)]), state.clone()];
        if lstm {
            out.push(state);
        }
        Ok(out)
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (steps, batch, width) = {
            let s = inputs[0].shape();
            (s[0], s[1], s[2])
        };
        let (h, g, directions) = (self.hidden, self.kind.gates(), self.directions());
        let mut rest = inputs[3..].iter();
        let mut take = |flag: bool| if flag { rest.next() } else { None };
        let bias = take(self.bias).map(Tensor::to_f64s);
        let lens = take(self.sequence_lens).map(Tensor::to_i64s);
        let initial_h = take(self.initial_h).map(Tensor::to_f64s);
        let initial_c = take(self.initial_c).map(Tensor::to_f64s);
        let peephole = take(self.peephole).map(Tensor::to_f64s);
        let mask = take(self.mask).map(Tensor::to_i64s);
        if let Some(l) = lens.iter().flatten().find(|l| !(0..=steps as i64).contains(l)) {
            return Err(OpError::Eval(format!("a sequence length of {l} for {steps} steps")));
        }
        let (x, w, r) = (inputs[0].to_f64s(), inputs[1].to_f64s(), inputs[2].to_f64s());
        let mut y = vec![0.0; steps * directions * batch * h];
        let mut last_h = initial_h.unwrap_or_else(|| vec![0.0; directions * batch * h]);
        let mut last_c = initial_c.unwrap_or_else(|| vec![0.0; directions * batch * h]);
        for d in 0..directions {
            let cell = Cell {
                op: self,
                width,
                w: &w[d * g * h * width..][..g * h * width],
                r: &r[d * g * h * h..][..g * h * h],
                bias: bias.as_ref().map(|b| &b[d * 2 * g * h..][..2 * g * h]),
                peephole: peephole.as_ref().map(|p| &p[d * 3 * h..][..3 * h]),
                activations: &self.activations[d * self.kind.activations()..],
            };
            let backward = self.direction == Direction::Reverse || d == 1;
            for b in 0..batch {
                let len = lens.as_ref().map_or(steps, |l| l[b] as usize);
                let state = (d * batch + b) * h..(d * batch + b + 1) * h;
                for s in 0..len {
                    let t = if backward { len - 1 - s } else { s };
                    let input = &x[(t * batch + b) * width..][..width];
                    if mask.as_ref().is_none_or(|mask| mask[t * batch + b] != 0) {
                        cell.step(input, &mut last_h[state.clone()], &mut last_c[state.clone()]);
                    }
                    y[((t * directions + d) * batch + b) * h..][..h].copy_from_slice(&last_h[state.clone()]);
                }
            }
        }
        let states = [&y, &last_h, &last_c];
        outputs.iter().zip(states).map(|(o, v)| Ok(Tensor::from_f64s(o.dtype, &o.shape, v)?)).collect()
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let per = 2 * self.kind.gates() * (inputs[0][2] + self.hidden) + 10;
        check::elements(outputs[0]) * per as f64
    }
}

impl Activation {
    /// The function's value.
    pub fn apply(self, x: f64) -> f64 {
        let f = |bits: u32| f64::from(f32::from_bits(bits));
        match self {
            Activation::Sigmoid => unary_float(UnaryOp::Sigmoid, x),
            Activation::Tanh => x.tanh(),
            Activation::Relu => unary_float(UnaryOp::Relu, x),
            Activation::Affine { alpha, beta } => f(alpha) * x + f(beta),
            Activation::LeakyRelu { alpha } => {
                if x < 0.0 {
                    f(alpha) * x
                } else {
                    x
                }
            }
            Activation::ThresholdedRelu { alpha } => {
                if x > f(alpha) {
                    x
                } else {
                    0.0
                }
            }
            Activation::ScaledTanh { alpha, beta } => f(alpha) * (f(beta) * x).tanh(),
            Activation::HardSigmoid { alpha, beta } => (f(alpha) * x + f(beta)).clamp(0.0, 1.0),
            Activation::Elu { alpha } => {
                if x < 0.0 {
                    f(alpha) * x.exp_m1()
                } else {
                    x
                }
            }
            Activation::Softsign => x / (1.0 + x.abs()),
            Activation::Softplus => unary_float(UnaryOp::Softplus, x),
        }
    }
}

/// One direction of a recurrent layer.
struct Cell<'a> {
    op: &'a Rnn,
    width: usize,
    w: &'a [f64],
    r: &'a [f64],
    bias: Option<&'a [f64]>,
    peephole: Option<&'a [f64]>,
    activations: &'a [Activation],
}

impl Cell<'_> {
    fn dot(weights: &[f64], row: usize, x: &[f64]) -> f64 {
        weights[row * x.len()..(row + 1) * x.len()].iter().zip(x).map(|(a, b)| a * b).sum()
    }

    /// `W x + Wb` of a gate's unit.
    fn input(&self, gate: usize, unit: usize, x: &[f64]) -> f64 {
        let row = gate * self.op.hidden + unit;
        Cell::dot(self.w, row, &x[..self.width]) + self.bias.map_or(0.0, |b| b[row])
    }

    /// `R h + Rb` of a gate's unit.
    fn recurrent(&self, gate: usize, unit: usize, h: &[f64]) -> f64 {
        let row = gate * self.op.hidden + unit;
        let biases = self.op.kind.gates() * self.op.hidden;
        Cell::dot(self.r, row, h) + self.bias.map_or(0.0, |b| b[biases + row])
    }

    fn clip(&self, v: f64) -> f64 {
        match self.op.clip.map(|c| f64::from(f32::from_bits(c))) {
            Some(c) if c > 0.0 => v.clamp(-c, c),
            _ => v,
        }
    }

    /// Advances the state by one input.
    fn step(&self, x: &[f64], h: &mut [f64], c: &mut [f64]) {
        let n = self.op.hidden;
        let act = |i: usize, v: f64| self.activations[i].apply(self.clip(v));
        let sum =
            |gate: usize, unit: usize, h: &[f64]| self.input(gate, unit, x) + self.recurrent(gate, unit, h);
        let mut next = vec![0.0; n];
        match self.op.kind {
            RnnKind::Simple => {
                for u in 0..n {
                    next[u] = act(0, sum(0, u, h));
                }
            }
            RnnKind::Gru => {
                let gate = |g: usize, u: usize| act(0, sum(g, u, h));
                let reset: Vec<f64> = (0..n).map(|u| gate(1, u)).collect();
                let gated: Vec<f64> = reset.iter().zip(h.iter()).map(|(r, h)| r * h).collect();
                for u in 0..n {
                    let z = gate(0, u);
                    let candidate = if self.op.linear_before_reset {
                        self.input(2, u, x) + reset[u] * self.recurrent(2, u, h)
                    } else {
                        self.input(2, u, x) + self.recurrent(2, u, &gated)
                    };
                    next[u] = (1.0 - z) * act(1, candidate) + z * h[u];
                }
            }
            RnnKind::Lstm => {
                // Peepholes stand in the order i, o, f.
                let peep = |i: usize, u: usize, c: f64| self.peephole.map_or(0.0, |p| p[i * n + u] * c);
                for u in 0..n {
                    let i = act(0, sum(0, u, h) + peep(0, u, c[u]));
                    let f =
                        if self.op.input_forget { 1.0 - i } else { act(0, sum(2, u, h) + peep(2, u, c[u])) };
                    let candidate = act(1, sum(3, u, h));
                    c[u] = f * c[u] + i * candidate;
                    let o = act(0, sum(1, u, h) + peep(1, u, c[u]));
                    next[u] = o * self.activations[2].apply(c[u]);
                }
            }
        }
        h.copy_from_slice(&next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    /// Activations that do nothing, so that the cells can be followed by hand.
    const LINEAR: Activation = Activation::Affine { alpha: 1f32.to_bits(), beta: 0 };

    fn layer(kind: RnnKind) -> Rnn {
        Rnn {
            kind,
            direction: Direction::Forward,
            hidden: 1,
            activations: vec![LINEAR; kind.activations()],
            clip: None,
            linear_before_reset: false,
            input_forget: false,
            bias: false,
            sequence_lens: false,
            initial_h: false,
            initial_c: false,
            peephole: false,
            mask: false,
        }
    }

    fn tensor(shape: &[usize], values: &[f64]) -> Tensor {
        Tensor::from_f64s(DType::F64, shape, values).unwrap()
    }

    /// One step of an LSTM from h = 2, c = 3 on x = 1; gates i = 2, o = 2.5, f = 3.25, candidate 6 before peepholes.
    fn lstm(change: impl FnOnce(&mut Rnn), peephole: &[f64]) -> (f64, f64) {
        let mut op = layer(RnnKind::Lstm);
        (op.initial_h, op.initial_c, op.peephole) = (true, true, !peephole.is_empty());
        change(&mut op);
        let mut inputs = vec![
            tensor(&[1, 1, 1], &[1.0]),
            tensor(&[1, 4, 1], &[1.0, 2.0, 3.0, 4.0]),
            tensor(&[1, 4, 1], &[0.5, 0.25, 0.125, 1.0]),
            tensor(&[1, 1, 1], &[2.0]),
            tensor(&[1, 1, 1], &[3.0]),
        ];
        if op.peephole {
            inputs.push(tensor(&[1, 3], peephole));
        }
        let y = Op::from(op).eval(&inputs, &[]).unwrap();
        assert_eq!(y[0].get_f64(0), y[1].get_f64(0));
        (y[1].get_f64(0), y[2].get_f64(0))
    }

    #[test]
    fn gates_of_an_lstm() {
        // c = 3.25 * 3 + 2 * 6, h = 2.5 * c.
        assert_eq!(lstm(|_| (), &[]), (54.375, 21.75));
        // i + 1 * 3, f + 2 * 3 see the old cell, o + c / 2 the new one.
        assert_eq!(lstm(|_| (), &[1.0, 0.5, 2.0]), (31.375 * 57.75, 57.75));
        // f = 1 - i = -1.
        assert_eq!(lstm(|op| op.input_forget = true, &[]), (22.5, 9.0));
        // Gates and candidate are clipped, the cell is not.
        assert_eq!(lstm(|op| op.clip = Some(1f32.to_bits()), &[]), (4.0, 4.0));
    }

    /// One step of a GRU from h = 2 on x = 1; z = 0.75, r = 3.
    fn gru(linear_before_reset: bool) -> f64 {
        let mut op = layer(RnnKind::Gru);
        (op.initial_h, op.bias, op.linear_before_reset) = (true, true, linear_before_reset);
        let inputs = [
            tensor(&[1, 1, 1], &[1.0]),
            tensor(&[1, 3, 1], &[0.25, 2.0, 1.0]),
            tensor(&[1, 3, 1], &[0.25, 0.5, 3.0]),
            tensor(&[1, 6], &[0.0, 0.0, 0.5, 0.0, 0.0, 1.0]),
            tensor(&[1, 1, 1], &[2.0]),
        ];
        Op::from(op).eval(&inputs, &[]).unwrap()[1].get_f64(0)
    }

    #[test]
    fn the_reset_of_a_gru() {
        // Candidate 1.5 + 3 * (3 * 2) + 1 = 20.5, or 1.5 + 3 * (3 * 2 + 1) = 22.5.
        assert_eq!(gru(false), 0.25 * 20.5 + 0.75 * 2.0);
        assert_eq!(gru(true), 0.25 * 22.5 + 0.75 * 2.0);
    }

    #[test]
    fn a_short_sequence_backwards() {
        let mut op = layer(RnnKind::Simple);
        (op.direction, op.sequence_lens) = (Direction::Reverse, true);
        let inputs = [
            tensor(&[3, 1, 1], &[1.0, 2.0, 3.0]),
            tensor(&[1, 1, 1], &[1.0]),
            tensor(&[1, 1, 1], &[10.0]),
            Tensor::from_slice(&[1], &[2i32]).unwrap(),
        ];
        let y = Op::from(op).eval(&inputs, &[]).unwrap();
        assert_eq!(y[0].to_f64s(), [21.0, 2.0, 0.0]);
        assert_eq!(y[1].to_f64s(), [21.0]);
    }

    #[test]
    fn masked_steps_repeat_the_state() {
        let mut op = layer(RnnKind::Simple);
        (op.initial_h, op.mask) = (true, true);
        let inputs = [
            tensor(&[4, 1, 1], &[1.0, 2.0, 3.0, 4.0]),
            tensor(&[1, 1, 1], &[1.0]),
            tensor(&[1, 1, 1], &[10.0]),
            tensor(&[1, 1, 1], &[5.0]),
            Tensor::from_f64s(DType::Bool, &[4, 1], &[0.0, 1.0, 0.0, 1.0]).unwrap(),
        ];
        let y = Op::from(op).eval(&inputs, &[]).unwrap();
        assert_eq!(y[0].to_f64s(), [5.0, 52.0, 52.0, 524.0]);
        assert_eq!(y[1].to_f64s(), [524.0]);
    }
}
