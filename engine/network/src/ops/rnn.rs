use super::{Fresh, OpError, Operator, TypeVec, check};
use crate::{DType, Dim, TensorType};
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
/// `[D, 3 * H]` (LSTM). D = 2 if bidirectional, else 1; G = 4, 3, 1. Outputs: y `[T, D, B, H]`, y_h `[D, B, H]`, and for
/// LSTM y_c `[D, B, H]`.
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
        let flags = [self.bias, self.sequence_lens, self.initial_h, self.initial_c, self.peephole];
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
        ];
        operands.extend(optional.into_iter().zip(flags).filter(|(_, f)| *f).map(|(o, _)| o));
        for (i, (name, shape)) in operands.iter().enumerate() {
            let i = i + 1;
            if *name == "sequence_lens" {
                check::dtype(inputs, i, |t| t == DType::I32, "i32")?;
            } else {
                check::same(inputs, i, 0)?;
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

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let per = 2 * self.kind.gates() * (inputs[0][2] + self.hidden) + 10;
        check::elements(outputs[0]) * per as f64
    }
}
