use crate::{DType, Dim};
use serde::{Deserialize, Serialize};

/// Output axis `i` is input axis `perm[i]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Transpose {
    pub perm: Vec<usize>,
}

/// The same elements in row-major order under another shape of as many elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reshape {
    pub shape: Vec<Dim>,
}

/// Broadcast to `shape` by numpy's rule; the operand's rank is at most `shape`'s, its dims equal or 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Expand {
    pub shape: Vec<Dim>,
}

/// Concatenation of one operand at least along `axis`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Concat {
    pub axis: usize,
}

/// `len` elements of an axis: `start`, `start + step`, ... All of them lie inside: bounds are clamped before they get here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SliceRange {
    pub axis: usize,
    pub start: Dim,
    pub len: Dim,
    /// Not 0.
    pub step: i64,
}

/// Strided slice; axes without a range stay whole. A split is one slice per part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slice {
    pub ranges: Vec<SliceRange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PadMode {
    Constant,
    Edge,
    Reflect,
    Wrap,
}

/// Padding by non-negative amounts per axis. Operands: x and, in constant mode, the value as a scalar of x's type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pad {
    pub mode: PadMode,
    pub before: Vec<Dim>,
    pub after: Vec<Dim>,
}

/// Repeats the whole tensor `repeats[i]` times along axis `i`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tile {
    pub repeats: Vec<Dim>,
}

/// `start + i * delta` for `i` in `0..len`. Operands: scalars start, delta of one type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Range {
    pub len: Dim,
}

/// Shape arithmetic as data: a tensor with the values of `dims`; a vector, or a scalar of one dim. No operands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShapeTensor {
    pub dims: Vec<Dim>,
    pub scalar: bool,
    /// An integer type.
    pub dtype: DType,
}

/// The upper or lower triangle of the last two axes, the rest zero: keeps `j >= i + k` (upper) or `j <= i + k` (lower).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Trilu {
    pub upper: bool,
    pub k: Dim,
}
