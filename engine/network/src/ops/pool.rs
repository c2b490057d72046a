use super::Padding;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PoolKind {
    /// Padding never wins.
    Max,
    /// Divides by the window's elements inside the input, or by its full size with `count_include_pad`.
    Average { count_include_pad: bool },
    /// `(sum |x|^p)^(1/p)`.
    Lp { p: u32 },
}

/// Pooling, **channels-last by definition**: x `[N, spatial.., C]` to `[N, spatial'.., C]`, as ONNX MaxPool, AveragePool,
/// LpPool. With `indices` (max only) a second output `i64` holds the flat index into x **as if it were `[N, C,
/// spatial..]`**, row-major (ONNX's convention).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pool {
    pub kind: PoolKind,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
    pub ceil_mode: bool,
    pub indices: bool,
}
