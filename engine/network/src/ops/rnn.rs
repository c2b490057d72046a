use serde::{Deserialize, Serialize};

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
