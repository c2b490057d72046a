use super::Epilogue;
use serde::{Deserialize, Serialize};

/// Padding of the spatial axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Padding {
    /// Elements before and after, per spatial axis.
    Explicit { begin: Vec<usize>, end: Vec<usize> },
    /// Output size `ceil(input / stride)`; an odd total puts the extra element at the end.
    SameUpper,
    /// The same with the extra element at the beginning.
    SameLower,
}

impl Padding {
    pub fn none(spatial: usize) -> Padding {
        Padding::Explicit { begin: vec![0; spatial], end: vec![0; spatial] }
    }

    /// Elements before and after on one spatial axis for a concrete input size.
    pub fn resolve(
        &self,
        axis: usize,
        input: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
    ) -> (usize, usize) {
        match self {
            Padding::Explicit { begin, end } => (begin[axis], end[axis]),
            Padding::SameUpper | Padding::SameLower => {
                let out = input.div_ceil(stride);
                let need =
                    (out.saturating_sub(1) * stride + (kernel - 1) * dilation + 1).saturating_sub(input);
                let small = need / 2;
                if matches!(self, Padding::SameUpper) { (small, need - small) } else { (need - small, small) }
            }
        }
    }
}

/// Convolution, **channels-last by definition**. Operands: x `[N, spatial.., C]`, w `[kernel.., C / groups, M]`, then the
/// epilogue's (bias `[M]`, extras broadcastable to the output). Output `[N, spatial.., M]`. 1 to 3 spatial axes. Output
/// channel `m` belongs to group `m / (M / groups)`. Cross-correlation, as in ONNX Conv.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conv {
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
    pub groups: usize,
    pub epilogue: Epilogue,
}

/// Transposed convolution, **channels-last by definition**. Operands: x `[N, spatial.., C]`, w `[kernel.., C, M / groups]`,
/// then the epilogue's (bias `[M]`, ...). Output `[N, spatial.., M]`, each spatial size
/// `(in - 1) * stride + (kernel - 1) * dilation + 1 + output_padding - begin - end`; with `SameUpper`/`SameLower` it is
/// `in * stride`. Input channel `c` belongs to group `c / (C / groups)`, whose outputs are channels
/// `g * M / groups ..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ConvTranspose {
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
    pub output_padding: Vec<usize>,
    pub groups: usize,
    pub epilogue: Epilogue,
}
