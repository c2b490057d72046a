use super::data::{self, Cells};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::{DType, Dim, Tensor, TensorType};
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

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let to = &outputs[0].shape;
        let mut shape = x.shape().to_vec();
        let mut taps = Vec::with_capacity(shape.len());
        for a in 0..shape.len() {
            let scale = match &self.scales {
                Some(s) => f32::from_bits(s[a]),
                None => to[a] as f32 / shape[a] as f32,
            };
            if shape[a] == to[a] && scale == 1.0 {
                taps.push(None);
            } else if shape[a] == 0 && to[a] > 0 {
                return Err(OpError::Shape(format!("axis {a} is empty: there is nothing to resize")));
            } else {
                taps.push(Some(
                    (0..to[a]).map(|o| self.taps(a, o, scale, shape[a], to[a])).collect::<Vec<_>>(),
                ));
            }
        }
        if let ResizeMode::Nearest(_) = self.mode {
            // Whole elements are taken over, of any type.
            let s = data::strides(&shape);
            let table = |a: usize| match &taps[a] {
                None => data::line(shape[a], s[a]),
                Some(t) => {
                    t.iter().map(|t| t.first().map_or(data::OUTSIDE, |t| (t.0 * s[a]) as isize)).collect()
                }
            };
            let tables: Vec<Vec<isize>> = (0..shape.len()).map(table).collect();
            let fill = Tensor::from_f64s(x.dtype(), &[], &[f64::from(f32::from_bits(self.extrapolation))])?;
            let cells = Cells::of(x).outer(&tables, Some(Cells::of(&fill).at(0)));
            return Ok(vec![data::from_cells(outputs[0].dtype, to, &cells)?]);
        }
        let mut values = x.to_f64s();
        for (a, taps) in taps.iter().enumerate() {
            let Some(taps) = taps else { continue };
            let (before, n, after) = data::around(&shape, a);
            let mut next = vec![0.0; before * to[a] * after];
            for b in 0..before {
                for (o, taps) in taps.iter().enumerate() {
                    let row = &mut next[(b * to[a] + o) * after..][..after];
                    for (i, weight) in taps {
                        let from = &values[(b * n + i) * after..][..after];
                        row.iter_mut().zip(from).for_each(|(r, v)| *r += weight * v);
                    }
                }
            }
            values = next;
            shape[a] = to[a];
        }
        if taps.iter().flatten().flatten().any(Vec::is_empty) {
            let outside = |a: usize, i: usize| taps[a].as_ref().is_some_and(|t| t[i].is_empty());
            let tables: Vec<Vec<isize>> = (0..to.len())
                .map(|a| (0..to[a]).map(|i| if outside(a, i) { data::OUTSIDE } else { 0 }).collect())
                .collect();
            let mut i = 0;
            data::outer(&tables, |o| {
                if o < 0 {
                    values[i] = f64::from(f32::from_bits(self.extrapolation));
                }
                i += 1;
            });
        }
        Ok(vec![Tensor::from_f64s(outputs[0].dtype, to, &values)?])
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

impl Resize {
    /// Where output element `o` of an axis lies in the input. In `f32`, in the order of operations that hosts use: the
    /// nearest neighbour depends on the last bit.
    fn coordinate(&self, axis: usize, o: usize, scale: f32, input: usize, output: usize) -> f32 {
        let (o, from, to) = (o as f32, input as f32, output as f32);
        match self.coordinates {
            CoordinateMode::HalfPixel => (o + 0.5) / scale - 0.5,
            CoordinateMode::HalfPixelSymmetric => {
                let adjustment = to / (scale * from);
                from / 2.0 * (1.0 - adjustment) + (o + 0.5) / scale - 0.5
            }
            CoordinateMode::PytorchHalfPixel if output > 1 => (o + 0.5) / scale - 0.5,
            CoordinateMode::PytorchHalfPixel => 0.0,
            CoordinateMode::AlignCorners if output == 1 => 0.0,
            CoordinateMode::AlignCorners => o * (from - 1.0) / (to - 1.0),
            CoordinateMode::Asymmetric => o / scale,
            CoordinateMode::TfCropAndResize { roi } => {
                let rank = self.sizes.len();
                let (start, end) = (f32::from_bits(roi[axis]), f32::from_bits(roi[rank + axis]));
                if output > 1 {
                    start * (from - 1.0) + o * (end - start) * (from - 1.0) / (to - 1.0)
                } else {
                    0.5 * (start + end) * (from - 1.0)
                }
            }
        }
    }

    /// Input elements of an axis and their weights for output element `o`; none if it lies outside the region.
    fn taps(&self, axis: usize, o: usize, scale: f32, input: usize, output: usize) -> Vec<(usize, f64)> {
        let x = self.coordinate(axis, o, scale, input, output);
        let last = input as i64 - 1;
        let cropped = matches!(self.coordinates, CoordinateMode::TfCropAndResize { .. });
        if cropped && (x < 0.0 || x > last as f32) {
            return Vec::new();
        }
        // With antialiasing, a filter that shrinks is widened by the scale.
        let narrow = if self.antialias { f64::from(scale.min(1.0)) } else { 1.0 };
        let (radius, filter): (f64, &dyn Fn(f64) -> f64) = match self.mode {
            ResizeMode::Nearest(mode) => {
                let i = match mode {
                    NearestMode::RoundPreferFloor if x == x.floor() + 0.5 => x.floor(),
                    NearestMode::RoundPreferCeil if x == x.floor() + 0.5 => x.ceil(),
                    NearestMode::RoundPreferFloor | NearestMode::RoundPreferCeil => x.round(),
                    NearestMode::Floor => x.floor(),
                    NearestMode::Ceil => x.ceil(),
                };
                return vec![((i as i64).clamp(0, last) as usize, 1.0)];
            }
            ResizeMode::Linear => (1.0, &|d: f64| (1.0 - d.abs()).max(0.0)),
            ResizeMode::Cubic { coefficient } => {
                let a = f64::from(f32::from_bits(coefficient));
                (2.0, &move |d: f64| keys_cubic(a, d.abs()))
            }
        };
        let x = f64::from(x);
        let first = (x - radius / narrow).floor() as i64;
        let end = (x + radius / narrow).ceil() as i64;
        let mut taps: Vec<(usize, f64)> = Vec::new();
        let mut total = 0.0;
        for i in first..=end {
            let weight = filter((i as f64 - x) * narrow);
            if weight == 0.0 || self.exclude_outside && !(0..=last).contains(&i) {
                continue;
            }
            total += weight;
            let i = i.clamp(0, last) as usize;
            match taps.last_mut() {
                Some(t) if t.0 == i => t.1 += weight,
                _ => taps.push((i, weight)),
            }
        }
        if self.antialias || self.exclude_outside {
            taps.iter_mut().for_each(|t| t.1 /= total);
        }
        taps
    }
}

/// Keys' cubic convolution kernel.
fn keys_cubic(a: f64, d: f64) -> f64 {
    if d < 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    fn resize(op: Resize, shape: &[usize], x: &[f32]) -> Vec<f32> {
        let x = Tensor::from_slice(shape, x).unwrap();
        Op::from(op).eval(&[x], &[]).unwrap()[0].to_vec().unwrap()
    }

    fn plain(mode: ResizeMode, coordinates: CoordinateMode, to: &[usize]) -> Resize {
        Resize {
            mode,
            coordinates,
            sizes: to.iter().map(|n| Dim::from(*n)).collect(),
            scales: None,
            exclude_outside: false,
            antialias: false,
            extrapolation: (-1f32).to_bits(),
        }
    }

    #[test]
    fn linear_weights_by_coordinate_mode() {
        let at = |coordinates, to| resize(plain(ResizeMode::Linear, coordinates, &[to]), &[2], &[1.0, 3.0]);
        // Coordinates -1/4, 1/4, 3/4, 5/4; those outside are the border's.
        assert_eq!(at(CoordinateMode::HalfPixel, 4), [1.0, 1.5, 2.5, 3.0]);
        assert_eq!(at(CoordinateMode::AlignCorners, 5), [1.0, 1.5, 2.0, 2.5, 3.0]);
        assert_eq!(at(CoordinateMode::Asymmetric, 4), [1.0, 2.0, 3.0, 3.0]);
        assert_eq!(at(CoordinateMode::PytorchHalfPixel, 1), [1.0]);
    }

    #[test]
    fn cubic_response_to_an_impulse_is_the_kernel() {
        let mode = ResizeMode::Cubic { coefficient: (-0.5f32).to_bits() };
        let op = plain(mode, CoordinateMode::Asymmetric, &[10]);
        // Distances 2, 3/2, 1, 1/2, 0, 1/2, ...
        let want = [0.0, -0.0625, 0.0, 0.5625, 1.0, 0.5625, 0.0, -0.0625, 0.0, 0.0];
        assert_eq!(resize(op, &[5], &[0.0, 0.0, 1.0, 0.0, 0.0]), want);
    }

    #[test]
    fn cubic_without_the_outside_is_normalised() {
        let mode = ResizeMode::Cubic { coefficient: (-0.5f32).to_bits() };
        let mut op = plain(mode, CoordinateMode::Asymmetric, &[4]);
        // At 1/2: neighbours 0 and 1 weigh 9/16 each, the one at -1 (and 2) -1/16.
        assert_eq!(resize(op.clone(), &[2], &[0.0, 16.0])[1], 8.0);
        op.exclude_outside = true;
        assert_eq!(resize(op.clone(), &[2], &[0.0, 16.0])[1], 8.0);
        // At 3/2 only the neighbours 0 (-1/16) and 1 (9/16) are inside.
        assert_eq!(resize(op, &[2], &[0.0, 16.0])[3], 18.0);
    }

    #[test]
    fn an_antialiased_filter_is_as_wide_as_the_scale_is_small() {
        let x: Vec<f32> = (1..=16).map(|x| x as f32).collect();
        let mut op = plain(ResizeMode::Linear, CoordinateMode::HalfPixel, &[2, 2]);
        op.scales = Some(vec![0.6f32.to_bits(); 2]);
        op.antialias = true;
        // Along each axis: weights 1, 0.6 of elements 0, 1 and weights 0.4, 1, 0.4 of elements 1, 2, 3.
        let want = [2.875, 4.5, 9.375, 11.0];
        for (got, want) in resize(op, &[4, 4], &x).iter().zip(want) {
            assert!((got - want).abs() < 1e-5, "{got} for {want}");
        }
    }

    #[test]
    fn outside_of_the_region_is_extrapolated() {
        let at = |end: f32| {
            let mut roi = [0; 8];
            roi[1] = end.to_bits();
            let op = plain(ResizeMode::Linear, CoordinateMode::TfCropAndResize { roi }, &[3]);
            resize(op, &[4], &[10.0, 20.0, 30.0, 40.0])
        };
        // Coordinates 0, 3/4, 3/2 and 0, 3, 6.
        assert_eq!(at(0.5), [10.0, 17.5, 25.0]);
        assert_eq!(at(2.0), [10.0, 40.0, -1.0]);
    }

    #[test]
    fn ties_go_where_the_mode_says() {
        let at = |mode| {
            resize(plain(ResizeMode::Nearest(mode), CoordinateMode::Asymmetric, &[4]), &[2], &[1.0, 2.0])
        };
        // Coordinates 0, 1/2, 1, 3/2.
        assert_eq!(at(NearestMode::RoundPreferFloor), [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(at(NearestMode::RoundPreferCeil), [1.0, 2.0, 2.0, 2.0]);
        assert_eq!(at(NearestMode::Floor), [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(at(NearestMode::Ceil), [1.0, 2.0, 2.0, 2.0]);
    }
}
