use crate::Dim;
use serde::{Deserialize, Serialize};

/// `x` indexed along `axis` by `indices` (`i32` or `i64`, any rank, negative counts from the end): output shape is x's
/// with the axis replaced by the indices' shape. An index out of range is an error at run time (ONNX Gather).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gather {
    pub axis: usize,
}

/// ONNX GatherElements. Operands: x, indices of x's rank.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GatherElements {
    pub axis: usize,
}

/// ONNX GatherND. Operands: x, indices `[.., K]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GatherNd {
    pub batch_dims: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ScatterReduction {
    None,
    Add,
    Mul,
    Max,
    Min,
}

/// ONNX ScatterElements. Operands: x, indices, updates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScatterElements {
    pub axis: usize,
    pub reduction: ScatterReduction,
}

/// ONNX ScatterND. Operands: x, indices, updates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ScatterNd {
    pub reduction: ScatterReduction,
}

/// ONNX OneHot: operands indices, values `[off, on]`; a new axis of size `depth` at `axis`; out-of-range gives all off.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OneHot {
    pub axis: usize,
    pub depth: Dim,
}

/// The `k` largest or smallest along `axis`, sorted, of equals the lower index first. Outputs: values, indices (`i64`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TopK {
    pub axis: usize,
    pub largest: bool,
    pub k: Dim,
}

/// Indices of the non-zero elements, `i64[rank, n]` in row-major order of the elements; `n` is known only afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NonZero;
