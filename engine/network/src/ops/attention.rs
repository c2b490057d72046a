use crate::Scalar;
use serde::{Deserialize, Serialize};

/// Scaled dot-product attention with the heads before the sequence.
///
/// Operands: q `[B, H, Sq, D]`, k `[B, Hkv, Sk, D]`, v `[B, Hkv, Sk, Dv]` (`H` a multiple of `Hkv`: query head `h` reads
/// key head `h / (H / Hkv)`), and with `mask` an additive float mask (or a `bool` mask, false = excluded) broadcastable
/// to `[B, H, Sq, Sk]`. Output `[B, H, Sq, Dv] = softmax(q k^T * scale + mask) v`. `causal` lets query `i` see keys up to
/// `i + Sk - Sq`. A row whose keys are all excluded by a `bool` mask or causality is zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attention {
    pub scale: Scalar,
    pub causal: bool,
    pub mask: bool,
}
