use crate::Dim;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ResizeMode {
    Nearest(NearestMode),
    Linear,
    /// Bits of the `f32` coefficient a.
    Cubic {
        coefficient: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NearestMode {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CoordinateMode {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    /// Regions of interest as bits of `f32`: starts then ends, one per axis each.
    TfCropAndResize {
        roi: [u32; 8],
    },
}

/// ONNX Resize over any axes (an axis whose size stays and whose scale is 1 is untouched).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resize {
    pub mode: ResizeMode,
    pub coordinates: CoordinateMode,
    /// Output size per axis.
    pub sizes: Vec<Dim>,
    /// Bits of the `f32` scale per axis, where the model gives scales; else output size over input size is the scale.
    pub scales: Option<Vec<u32>>,
    pub exclude_outside: bool,
    pub antialias: bool,
    /// Bits of `f32`: the value outside the region in `TfCropAndResize`.
    pub extrapolation: u32,
}
