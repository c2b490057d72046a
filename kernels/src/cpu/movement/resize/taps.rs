//! Where the elements of a resized axis come from.

use crate::{Problem, TensorDesc};
use engraft_network::ops::{CoordinateMode, NearestMode, Resize, ResizeMode};

/// Consecutive elements of an axis and their weights, for every element of the resized axis.
#[derive(Clone, Debug, Default)]
pub(super) struct Taps {
    /// Per result: the first element, and where its weights begin; one more entry at the end.
    starts: Vec<(u32, u32)>,
    weights: Vec<f32>,
}

impl Taps {
    /// The first element and the weights of result `o`; no weights where it lies outside of the region.
    #[inline(always)]
    pub fn of(&self, o: usize) -> (usize, &[f32]) {
        let (first, from) = self.starts[o];
        (first as usize, &self.weights[from as usize..self.starts[o + 1].1 as usize])
    }

    fn push(&mut self, taps: &[(usize, f64)]) {
        let first = taps.first().map_or(0, |t| t.0);
        self.starts.push((first as u32, self.weights.len() as u32));
        let last = taps.last().map_or(first, |t| t.0 + 1);
        let from = self.weights.len();
        self.weights.resize(from + last - first, 0.0);
        for (i, weight) in taps {
            self.weights[from + i - first] = *weight as f32;
        }
    }
}

/// The axes of a problem whose elements change, and their scales.
pub(super) fn resized(op: &Resize, x: &TensorDesc, out: &TensorDesc) -> impl Iterator<Item = (usize, f32)> {
    (0..x.rank()).filter_map(|a| {
        let scale = match &op.scales {
            Some(scales) => f32::from_bits(scales[a]),
            None => out.shape[a] as f32 / x.shape[a] as f32,
        };
        (x.shape[a] != out.shape[a] || scale != 1.0).then_some((a, scale))
    })
}

/// The operator, if the problem is a resize of something.
pub(super) fn resize_of<'a>(p: &Problem<'a>) -> Option<&'a Resize> {
    match p.op {
        engraft_network::Op::Resize(op) => Some(op),
        _ => None,
    }
}

/// One axis of a resize.
pub(super) struct Resampling<'a> {
    op: &'a Resize,
    axis: usize,
    scale: f32,
    from: usize,
    to: usize,
}

impl Resampling<'_> {
    pub fn new<'a>(
        op: &'a Resize,
        axis: usize,
        scale: f32,
        x: &TensorDesc,
        out: &TensorDesc,
    ) -> Resampling<'a> {
        Resampling { op, axis, scale, from: x.shape[axis], to: out.shape[axis] }
    }

    /// The coordinate of result `o` (ONNX Resize), in `f32` and in the order of operations that ONNX Runtime uses: which
    /// neighbour is nearest depends on the last bit.
    fn coordinate(&self, o: usize) -> f32 {
        let (o, scale, from, to) = (o as f32, self.scale, self.from as f32, self.to as f32);
        let half_pixel = (o + 0.5) / scale - 0.5;
        match self.op.coordinates {
            CoordinateMode::HalfPixel => half_pixel,
            CoordinateMode::HalfPixelSymmetric => {
                from / 2.0 * (1.0 - to / (scale * from)) + (o + 0.5) / scale - 0.5
            }
            CoordinateMode::PytorchHalfPixel => {
                if self.to > 1 {
                    half_pixel
                } else {
                    0.0
                }
            }
            CoordinateMode::AlignCorners => {
                if self.to == 1 {
                    0.0
                } else {
                    o * (from - 1.0) / (to - 1.0)
                }
            }
            CoordinateMode::Asymmetric => o / scale,
            CoordinateMode::TfCropAndResize { roi } => {
                let rank = self.op.sizes.len();
                let (start, end) = (f32::from_bits(roi[self.axis]), f32::from_bits(roi[rank + self.axis]));
                match self.to {
                    0 | 1 => 0.5 * (start + end) * (from - 1.0),
                    _ => start * (from - 1.0) + o * (end - start) * (from - 1.0) / (to - 1.0),
                }
            }
        }
    }

    /// Whether a coordinate lies outside of the cropped region.
    fn outside(&self, x: f32) -> bool {
        let cropped = matches!(self.op.coordinates, CoordinateMode::TfCropAndResize { .. });
        cropped && (x < 0.0 || x > self.from as f32 - 1.0)
    }

    /// The nearest element to result `o`; `None` outside of the region.
    pub fn nearest(&self, o: usize, mode: NearestMode) -> Option<usize> {
        let x = self.coordinate(o);
        let half = x == x.floor() + 0.5;
        let i = match mode {
            NearestMode::Floor => x.floor(),
            NearestMode::Ceil => x.ceil(),
            NearestMode::RoundPreferFloor if half => x.floor(),
            NearestMode::RoundPreferCeil if half => x.ceil(),
            NearestMode::RoundPreferFloor | NearestMode::RoundPreferCeil => x.round(),
        };
        (!self.outside(x)).then(|| (i as i64).clamp(0, self.from as i64 - 1) as usize)
    }

    /// The weights of all results.
    pub fn taps(&self) -> Taps {
        let mut all =
            Taps { starts: Vec::with_capacity(self.to + 1), weights: Vec::with_capacity(2 * self.to) };
        let mut taps = Vec::new();
        for o in 0..self.to {
            self.taps_of(o, &mut taps);
            all.push(&taps);
        }
        all.push(&[]);
        all
    }

    fn taps_of(&self, o: usize, taps: &mut Vec<(usize, f64)>) {
        taps.clear();
        let x = self.coordinate(o);
        if self.outside(x) {
            return;
        }
        let x = f64::from(x);
        // With antialiasing, a filter that shrinks is widened by the scale.
        let narrow = if self.op.antialias { f64::from(self.scale.min(1.0)) } else { 1.0 };
        let (radius, a) = match self.op.mode {
            ResizeMode::Cubic { coefficient } => (2.0, Some(f64::from(f32::from_bits(coefficient)))),
            _ => (1.0, None),
        };
        let last = self.from as i64 - 1;
        let mut total = 0.0;
        for i in (x - radius / narrow).floor() as i64..=(x + radius / narrow).ceil() as i64 {
            let distance = ((i as f64 - x) * narrow).abs();
            let weight = match a {
                None => (1.0 - distance).max(0.0),
                Some(a) => keys_cubic(a, distance),
            };
            if weight == 0.0 || self.op.exclude_outside && !(0..=last).contains(&i) {
                continue;
            }
            total += weight;
            let i = i.clamp(0, last) as usize;
            match taps.last_mut() {
                Some(tap) if tap.0 == i => tap.1 += weight,
                _ => taps.push((i, weight)),
            }
        }
        if self.op.antialias || self.op.exclude_outside {
            taps.iter_mut().for_each(|tap| tap.1 /= total);
        }
    }
}

/// Keys' cubic convolution kernel at a distance.
fn keys_cubic(a: f64, d: f64) -> f64 {
    match d {
        d if d < 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
        d if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
        _ => 0.0,
    }
}
