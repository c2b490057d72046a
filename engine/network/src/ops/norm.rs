use crate::Scalar;
use serde::{Deserialize, Serialize};

/// Layer normalisation over the axes from `axis` to the last. Operands: x, then `scale` and `bias` if flagged, both of
/// the normalised axes' shape (or broadcastable to it). `rms` leaves the mean alone (RMSNorm). Statistics are computed in
/// `f32` at least. `(x - mean) / sqrt(variance + epsilon) * scale + bias` (ONNX LayerNormalization, RMSNormalization).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayerNorm {
    pub axis: usize,
    pub epsilon: Scalar,
    pub rms: bool,
    pub scale: bool,
    pub bias: bool,
}

/// Group normalisation, **channels-last by definition**: x `[N, spatial.., C]`, scale `[C]`, bias `[C]`; statistics per
/// batch item and group of `C / groups` consecutive channels. `groups = 0` stands for one group per channel
/// (InstanceNormalization).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupNorm {
    pub groups: usize,
    pub epsilon: Scalar,
}

/// `exp(x - max) / sum` along `axis`, or its logarithm.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Softmax {
    pub axis: usize,
    pub log: bool,
}
