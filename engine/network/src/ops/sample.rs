use super::data;
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::convert::Values;
use crate::{DType, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SampleMode {
    /// Ties go to the even pixel.
    Nearest,
    Linear,
    /// Keys' kernel with a = -0.75.
    Cubic,
}

/// What lies outside of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outside {
    Zeros,
    /// The nearest pixel of the image.
    Border,
    /// The image, mirrored at its border as often as it takes.
    Reflection,
}

/// ONNX GridSample, **channels-last by definition**: values of x `[N, spatial.., C]` (1 to 3 spatial axes) at the points of
/// grid `[N, points.., S]`, giving `[N, points.., C]`. A point's coordinates stand in the order of ONNX, the last axis of
/// space first; -1 and 1 are the outer edges of an axis' first and last pixel, or their centres with `align_corners`.
/// They are computed in `f32`, or `f64` where the grid is. What lies outside is told by point, but by pixel where cubic. What is not a number lies outside, below the first pixel.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GridSample {
    pub mode: SampleMode,
    pub outside: Outside,
    pub align_corners: bool,
}

/// Pixels of one axis that a coordinate reads, and their weights.
type Taps = SmallVec<[(usize, f64); 4]>;

impl Operator for GridSample {
    const NAME: &'static str = "grid_sample";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2)?;
        let t = check::float(inputs, 0)?;
        check::float(inputs, 1)?;
        let (x, grid) = (&inputs[0].shape, &inputs[1].shape);
        if !(3..=5).contains(&x.len()) {
            return Err(OpError::Rank { operand: 0, got: x.len(), want: "3 to 5".into() });
        }
        if grid.len() < 2 {
            return Err(OpError::Rank { operand: 1, got: grid.len(), want: "at least 2".into() });
        }
        let (spatial, last) = (x.len() - 2, grid.len() - 1);
        check::agree(&spatial.into(), &grid[last], "coordinates of a point against spatial axes")?;
        let batch = check::agree(&x[0], &grid[0], "batch of x against the grid's")?;
        if x[1..=spatial].iter().any(|d| d.fixed() == Some(0)) {
            return Err(OpError::Shape("an image without pixels has no values".into()));
        }
        let points = grid[1..last].iter().cloned();
        Ok(check::one(t, [batch].into_iter().chain(points).chain([x[spatial + 1].clone()])))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (x, grid, out) = (&inputs[0], &inputs[1], &outputs[0]);
        let spatial = x.shape().len() - 2;
        let (batch, channels) = (x.shape()[0], x.shape()[spatial + 1]);
        let sizes = &x.shape()[1..=spatial];
        let points: usize = grid.shape()[1..grid.shape().len() - 1].iter().product();
        let strides = data::strides(x.shape());
        let (Values::Float(pixels), Values::Float(at)) = (Values::of(x), Values::of(grid)) else {
            return Err(OpError::Eval("x and grid hold floats".into()));
        };
        let narrow = grid.dtype() != DType::F64;
        let mut y = vec![0.0; batch * points * channels];
        for (p, to) in y.chunks_exact_mut(channels.max(1)).enumerate() {
            let coordinates = &at[p * spatial..][..spatial];
            let taps: SmallVec<[Taps; 3]> =
                (0..spatial).map(|a| self.taps(coordinates[spatial - 1 - a], sizes[a], narrow)).collect();
            let image = p / points * strides[0];
            for_each(&taps, &strides[1..], image, 1.0, &mut |from, weight| {
                to.iter_mut().zip(&pixels[from..]).for_each(|(t, v)| *t += weight * v);
            });
        }
        Ok(vec![Tensor::from_f64s(out.dtype, &out.shape, &y)?])
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let taps: f64 = match self.mode {
            SampleMode::Nearest => return 0.0,
            SampleMode::Linear => 2.0,
            SampleMode::Cubic => 4.0,
        };
        2.0 * check::elements(outputs[0]) * taps.powi(inputs[0].len() as i32 - 2)
    }
}

/// Calls `f` with the place and the weight of every combination of one tap per axis.
fn for_each(taps: &[Taps], strides: &[usize], place: usize, weight: f64, f: &mut dyn FnMut(usize, f64)) {
    match taps {
        [] => f(place, weight),
        [first, rest @ ..] => {
            for (i, w) in first {
                for_each(rest, &strides[1..], place + i * strides[0], weight * w, f);
            }
        }
    }
}

impl GridSample {
    /// What coordinate `n` reads of an axis of `size` pixels. `narrow` rounds every step to `f32`.
    fn taps(&self, n: f64, size: usize, narrow: bool) -> Taps {
        let r = |v: f64| if narrow { f64::from(v as f32) } else { v };
        let length = size as f64;
        let x = if self.align_corners {
            r(r(r(n + 1.0) / 2.0) * (length - 1.0))
        } else {
            r(r(r(n + 1.0) * length) - 1.0) / 2.0
        };
        // Far outside nothing changes any more.
        let far = f64::from(1 << 24);
        let mut x = if x.is_nan() { -far } else { x.clamp(-far, far) };
        if self.mode == SampleMode::Nearest {
            x = x.round_ties_even();
        }
        let (low, high) = if self.align_corners { (0.0, length - 1.0) } else { (-0.5, length - 0.5) };
        let reflect = |x: f64| {
            let range = high - low;
            let beyond = if x < low { low - x } else { x - high };
            if range == 0.0 || beyond <= 0.0 {
                return if range == 0.0 { low } else { x };
            }
            let times = r(beyond / range).trunc();
            let rest = r(beyond - r(times * range));
            if (x < low) == (times % 2.0 == 0.0) { r(low + rest) } else { r(high - rest) }
        };
        match self.outside {
            _ if (low..=high).contains(&x) || self.mode == SampleMode::Cubic => {}
            Outside::Zeros => {}
            Outside::Border => x = x.clamp(0.0, length - 1.0),
            Outside::Reflection => x = reflect(x),
        }
        let first = x.floor();
        let t = r(x - first);
        let weights: SmallVec<[f64; 4]> = match self.mode {
            SampleMode::Nearest => [1.0].into_iter().collect(),
            SampleMode::Linear => [1.0 - t, t].into_iter().collect(),
            SampleMode::Cubic => [t + 1.0, t, 1.0 - t, 2.0 - t].map(keys).into_iter().collect(),
        };
        let start = if self.mode == SampleMode::Cubic { first - 1.0 } else { first };
        let place = |i: f64| match self.outside {
            Outside::Zeros => (0.0..length).contains(&i).then_some(i as usize),
            Outside::Border => Some(i.clamp(0.0, length - 1.0) as usize),
            Outside::Reflection => Some(reflect(i).clamp(0.0, length - 1.0) as usize),
        };
        weights.iter().enumerate().filter_map(|(k, w)| Some((place(start + k as f64)?, *w))).collect()
    }
}

/// Keys' cubic convolution kernel with a = -0.75 at a distance of 0 to 2.
fn keys(d: f64) -> f64 {
    const A: f64 = -0.75;
    if d <= 1.0 {
        ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0
    } else {
        ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    /// Values at points of a row of pixels 1, 2, 4, 8.
    fn row(mode: SampleMode, outside: Outside, align_corners: bool, points: &[f32]) -> Vec<f32> {
        let x = Tensor::from_slice(&[1, 4, 1], &[1f32, 2.0, 4.0, 8.0]).unwrap();
        let grid = Tensor::from_slice(&[1, points.len(), 1], points).unwrap();
        Op::from(GridSample { mode, outside, align_corners }).eval(&[x, grid], &[]).unwrap()[0]
            .to_vec()
            .unwrap()
    }

    #[test]
    fn edges_are_those_of_pixels_or_their_centres() {
        use {Outside::*, SampleMode::*};
        // Coordinates -1/2, 1/2, 3/2, 7/2.
        assert_eq!(row(Linear, Zeros, false, &[-1.0, -0.5, 0.0, 1.0]), [0.5, 1.5, 3.0, 4.0]);
        assert_eq!(row(Linear, Border, false, &[-1.0, -0.5, 0.0, 1.0]), [1.0, 1.5, 3.0, 8.0]);
        // Coordinates 0, 3/4, 3/2, 3.
        assert_eq!(row(Linear, Zeros, true, &[-1.0, -0.5, 0.0, 1.0]), [1.0, 1.75, 3.0, 8.0]);
    }

    #[test]
    fn mirrors_stand_at_the_edges() {
        use {Outside::*, SampleMode::*};
        // Coordinates -3/2 (is 1/2), 11/2 (is 3/2), 19/2 = 7/2 + 6 (twice mirrored: 3/2).
        assert_eq!(row(Linear, Reflection, false, &[-1.5, 2.0, 4.0]), [1.5, 3.0, 3.0]);
        // Centres: -1 (is 1), 4 (is 2), 7 (is 1).
        let places = [-5.0 / 3.0, 5.0 / 3.0, 11.0 / 3.0];
        assert_eq!(row(Nearest, Reflection, true, &places), [2.0, 4.0, 2.0]);
    }

    #[test]
    fn ties_go_to_the_even_pixel_and_nothing_is_far_outside() {
        use {Outside::*, SampleMode::*};
        // Coordinates 1/2, 3/2, 5/2.
        assert_eq!(row(Nearest, Zeros, false, &[-0.5, 0.0, 0.5]), [1.0, 4.0, 4.0]);
        let far = [f32::NAN, f32::INFINITY, -1e30];
        assert_eq!(row(Linear, Zeros, false, &far), [0.0; 3]);
        assert_eq!(row(Linear, Border, false, &far), [1.0, 8.0, 1.0]);
    }

    #[test]
    fn cubic_weights_are_keys() {
        use {Outside::*, SampleMode::*};
        // At 3/2 the weights are -3/32, 19/32, 19/32, -3/32.
        assert_eq!(row(Cubic, Zeros, false, &[0.0]), [(-3.0 + 19.0 * 6.0 - 24.0) / 32.0]);
        // At 1/2 the pixel before the first is nothing, or the first.
        assert_eq!(row(Cubic, Zeros, false, &[-0.5]), [(19.0 * 3.0 - 12.0) / 32.0]);
        assert_eq!(row(Cubic, Border, false, &[-0.5]), [(-3.0 + 19.0 * 3.0 - 12.0) / 32.0]);
        // At -3/2 the last of the four is the first pixel, as are those before it.
        assert_eq!(row(Cubic, Border, false, &[-1.5]), [1.0]);
    }

    #[test]
    fn coordinates_count_from_the_last_axis() {
        // Two rows of three pixels of two channels: point (x, y) = (right, top).
        let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let x = Tensor::from_slice(&[1, 2, 3, 2], &x).unwrap();
        let grid = Tensor::from_slice(&[1, 1, 1, 2], &[1f32, -1.0]).unwrap();
        let op = GridSample { mode: SampleMode::Linear, outside: Outside::Zeros, align_corners: true };
        let y = &Op::from(op).eval(&[x, grid], &[]).unwrap()[0];
        assert_eq!((y.shape(), y.to_vec::<f32>().unwrap()), (&[1, 1, 1, 2][..], vec![4.0, 5.0]));
    }
}
