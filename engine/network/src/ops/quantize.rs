use crate::DType;
use serde::{Deserialize, Serialize};

/// ONNX QuantizeLinear. Operands: x, scale, and the zero point if flagged. Scale is a scalar, `[x.shape[axis]]`, or with
/// `block > 0` x's shape with the axis divided by `block`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quantize {
    pub axis: usize,
    pub block: usize,
    pub to: DType,
    pub zero_point: bool,
}

/// ONNX DequantizeLinear: `(x - zero_point) * scale`; operands and forms as [`Quantize`]. The result has the scale's type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dequantize {
    pub axis: usize,
    pub block: usize,
    pub zero_point: bool,
}
