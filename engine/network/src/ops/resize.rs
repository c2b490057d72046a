use super::{Fresh, OpError, Operator, TypeVec, check};
use crate::{DType, Dim, TensorType};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

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

impl Operator for Resize {
    const NAME: &'static str = "resize";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let t = check::dtype(inputs, 0, |t| t != DType::Bool, "a number")?;
        let r = inputs[0].rank();
        check::per_axis("sizes", &self.sizes, r)?;
        check::not_negative("sizes", &self.sizes)?;
        if let Some(scales) = &self.scales {
            check::per_axis("scales", scales, r)?;
            if scales.iter().any(|s| f32::from_bits(*s).partial_cmp(&0.0) != Some(Ordering::Greater)) {
                return Err(check::attribute("scales", "has one that is not positive"));
            }
        }
        if r > 4 && matches!(self.coordinates, CoordinateMode::TfCropAndResize { .. }) {
            return Err(check::attribute("coordinates", "regions are for 4 axes at most"));
        }
        Ok(check::one(t, self.sizes.iter().cloned()))
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let scaled = inputs[0].iter().zip(outputs[0]).filter(|(a, b)| a != b).count() as i32;
        let taps: f64 = match self.mode {
            ResizeMode::Nearest(_) => return 0.0,
            ResizeMode::Linear => 2.0,
            ResizeMode::Cubic { .. } => 4.0,
        };
        2.0 * check::elements(outputs[0]) * taps.powi(scaled)
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.sizes.iter_mut().for_each(|d| *d = f(d));
    }
}
