use super::data;
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::convert::Values;
use crate::{DType, Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// ONNX RoiAlign, **channels-last by definition**. Operands: x `[N, H, W, C]`, regions `[R, 4]` (x1, y1, x2, y2), and for
/// each the number of its image, `[R]`. Output `[R, height, width, C]`: the mean (or with `max` the greatest) over a
/// regular grid of samples in each bin. A sample is the bilinear value at its point; of the greatest, every one of the
/// four weighted pixels counts by itself. Samples more than one pixel outside are 0. Coordinates are computed in `f32`,
/// or `f64` where the regions are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoiAlign {
    pub max: bool,
    pub height: usize,
    pub width: usize,
    /// Samples of a bin along each axis; 0 takes one for each pixel that a bin spans, rounded up.
    pub samples: usize,
    /// Bits of `f32`: pixels of x per unit of the regions.
    pub scale: u32,
    /// Whether pixel centres lie at halves; else regions are at least one pixel large.
    pub half_pixel: bool,
}

/// ONNX MaxRoiPool, **channels-last by definition**. Operands: x `[N, H, W, C]` and regions `[R, 5]` (number of the image,
/// x1, y1, x2, y2), rounded to whole pixels. Output `[R, height, width, C]`: the greatest of the pixels that each bin
/// touches, 0 where it touches none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoiMaxPool {
    pub height: usize,
    pub width: usize,
    /// Bits of `f32`: pixels of x per unit of the regions.
    pub scale: u32,
}

impl RoiAlign {
    /// Samples of a bin along an axis beyond which a region is taken to be an error.
    pub const MOST_SAMPLES: usize = 1 << 16;
}

/// Types of x `[N, H, W, C]` and `regions` of `columns` numbers each; gives the number of regions.
fn check_regions(inputs: &[&TensorType], columns: usize) -> Result<Dim, OpError> {
    check::float(inputs, 0)?;
    check::float(inputs, 1)?;
    check::rank(inputs, 0, 4)?;
    check::rank(inputs, 1, 2)?;
    check::agree(&columns.into(), &inputs[1].shape[1], "numbers of a region")?;
    if inputs[0].shape[1..3].iter().any(|d| d.fixed() == Some(0)) {
        return Err(OpError::Shape("an image without pixels has no regions".into()));
    }
    Ok(inputs[1].shape[0].clone())
}

fn image_of(index: i64, images: usize) -> Result<usize, OpError> {
    let place = usize::try_from(index).ok().filter(|i| *i < images);
    place.ok_or_else(|| OpError::Eval(format!("image {index} is none of {images}")))
}

impl Operator for RoiAlign {
    const NAME: &'static str = "roi_align";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 3)?;
        let count = check_regions(inputs, 4)?;
        check::index(inputs, 2)?;
        check::rank(inputs, 2, 1)?;
        let count = check::agree(&count, &inputs[2].shape[0], "regions against their images")?;
        let channels = inputs[0].shape[3].clone();
        Ok(check::one(inputs[0].dtype, [count, self.height.into(), self.width.into(), channels]))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (x, regions, out) = (&inputs[0], &inputs[1], &outputs[0]);
        let [images, height, width, channels] = data::four(x.shape())?;
        let strides = data::strides(x.shape());
        let pixels = x.to_f64s();
        let r = |v: f64| if regions.dtype() == DType::F64 { v } else { f64::from(v as f32) };
        let scale = f64::from(f32::from_bits(self.scale));
        let shift = if self.half_pixel { 0.5 } else { 0.0 };
        let mut y = vec![0.0; out.shape.iter().product()];
        let bins = self.height * self.width;
        for (region, bins) in y.chunks_exact_mut((bins * channels).max(1)).enumerate() {
            let image = image_of(inputs[2].get_i64(region), images)? * strides[0];
            let edge = |i: usize| r(r(regions.get_f64(4 * region + i) * scale) - shift);
            // Start, bin size and samples of a bin along an axis.
            let axis = |start: f64, end: f64, bins: usize| {
                let extent = r(end - start);
                let extent = if self.half_pixel { extent } else { extent.max(1.0) };
                let size = r(extent / bins as f64);
                let samples = if self.samples > 0 { self.samples } else { size.ceil().max(0.0) as usize };
                if samples > RoiAlign::MOST_SAMPLES {
                    return Err(OpError::Eval(format!("region {region} takes {samples} samples of a bin")));
                }
                Ok((start, size, samples))
            };
            let (x_axis, y_axis) =
                (axis(edge(0), edge(2), self.width)?, axis(edge(1), edge(3), self.height)?);
            // The two pixels around a sample and their weights; none if it lies outside.
            let around = |(start, size, samples): (f64, f64, usize), bin: usize, i: usize, length: usize| {
                let inner = r(r((i as f64 + 0.5) * size) / samples as f64);
                let at = r(r(start + r(bin as f64 * size)) + inner);
                if !(at >= -1.0 && at <= length as f64) {
                    return None;
                }
                let low = at.max(0.0) as usize;
                if low + 1 >= length {
                    return Some([(length - 1, 1.0), (length - 1, 0.0)]);
                }
                let t = r(at.max(0.0) - low as f64);
                Some([(low, 1.0 - t), (low + 1, t)])
            };
            let count = (x_axis.2 * y_axis.2).max(1) as f64;
            for (bin, to) in bins.chunks_exact_mut(channels.max(1)).enumerate() {
                let mut first = true;
                for i in 0..y_axis.2 {
                    let vertical = around(y_axis, bin / self.width, i, height);
                    for j in 0..x_axis.2 {
                        let horizontal = around(x_axis, bin % self.width, j, width);
                        let taps = match (vertical, horizontal) {
                            (Some(v), Some(h)) => [(v[0], h[0]), (v[0], h[1]), (v[1], h[0]), (v[1], h[1])]
                                .map(|((a, u), (b, w))| (a * strides[1] + b * strides[2], u * w)),
                            _ => [(0, 0.0); 4],
                        };
                        for (place, weight) in taps {
                            let values = pixels[image + place..].iter().map(|v| weight * v);
                            for (t, v) in to.iter_mut().zip(values) {
                                match self.max {
                                    true if first || v > *t => *t = v,
                                    true => {}
                                    false => *t += v / count,
                                }
                            }
                            first = false;
                        }
                    }
                }
            }
        }
        Ok(vec![Tensor::from_f64s(out.dtype, &out.shape, &y)?])
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let samples = if self.samples == 0 { 2.0 } else { self.samples as f64 };
        8.0 * check::elements(outputs[0]) * samples * samples
    }
}

impl Operator for RoiMaxPool {
    const NAME: &'static str = "roi_max_pool";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2)?;
        let count = check_regions(inputs, 5)?;
        let channels = inputs[0].shape[3].clone();
        Ok(check::one(inputs[0].dtype, [count, self.height.into(), self.width.into(), channels]))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (x, regions, out) = (&inputs[0], &inputs[1], &outputs[0]);
        let [images, height, width, channels] = data::four(x.shape())?;
        let strides = data::strides(x.shape());
        let Values::Float(pixels) = Values::of(x) else {
            return Err(OpError::Eval("x holds floats".into()));
        };
        let scale = f32::from_bits(self.scale);
        let mut y = vec![0.0; out.shape.iter().product()];
        for (region, bins) in y.chunks_exact_mut((self.height * self.width * channels).max(1)).enumerate() {
            let number = |i: usize| regions.get_f64(5 * region + i) as f32;
            let image = image_of(number(0) as i64, images)? * strides[0];
            // First pixel and size of a bin, and the pixels that bin `b` touches.
            let axis = |first: usize, bins: usize| {
                let (start, end) = ((number(first) * scale).round(), (number(first + 2) * scale).round());
                (start as i64, (end - start + 1.0).max(1.0) / bins as f32)
            };
            let (x_axis, y_axis) = (axis(1, self.width), axis(2, self.height));
            let touched = |(start, size): (i64, f32), bin: usize, length: usize| {
                let clamp = |i: f32| (start.saturating_add(i as i64)).clamp(0, length as i64) as usize;
                clamp((bin as f32 * size).floor())..clamp(((bin + 1) as f32 * size).ceil())
            };
            for (bin, to) in bins.chunks_exact_mut(channels.max(1)).enumerate() {
                let (rows, columns) =
                    (touched(y_axis, bin / self.width, height), touched(x_axis, bin % self.width, width));
                if rows.is_empty() || columns.is_empty() {
                    continue;
                }
                let pixel = |i: usize, j: usize| &pixels[image + i * strides[1] + j * strides[2]..];
                to.copy_from_slice(&pixel(rows.start, columns.start)[..channels]);
                for (i, j) in rows.flat_map(|i| columns.clone().map(move |j| (i, j))) {
                    to.iter_mut().zip(pixel(i, j)).for_each(|(t, v)| *t = if *v > *t { *v } else { *t });
                }
            }
        }
        Ok(vec![Tensor::from_f64s(out.dtype, &out.shape, &y)?])
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        4.0 * check::elements(outputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    /// One image of 4 by 4 pixels 0, 1, .. 15 of one channel.
    fn image() -> Tensor {
        Tensor::from_slice(&[1, 4, 4, 1], &(0..16).map(|i| i as f32).collect::<Vec<_>>()).unwrap()
    }

    fn align(op: RoiAlign, region: [f32; 4]) -> Vec<f32> {
        let regions = Tensor::from_slice(&[1, 4], &region).unwrap();
        let images = Tensor::from_slice(&[1], &[0i64]).unwrap();
        Op::from(op).eval(&[image(), regions, images], &[]).unwrap()[0].to_vec().unwrap()
    }

    const ALIGN: RoiAlign =
        RoiAlign { max: false, height: 1, width: 2, samples: 1, scale: 0x3f80_0000, half_pixel: true };

    #[test]
    fn a_bin_is_the_mean_of_its_samples() {
        // Bins of 2 by 2 whose middles are at (1, 1) and (3, 1), pixel (i, j) being at (i + 1/2, j + 1/2).
        assert_eq!(align(ALIGN, [0.0, 0.0, 4.0, 2.0]), [2.5, 4.5]);
        // The same points counted from the middle of the first pixel.
        assert_eq!(align(RoiAlign { half_pixel: false, ..ALIGN }, [0.0, 0.0, 4.0, 2.0]), [5.0, 7.0]);
        // Samples at quarters: their mean is the middle's value.
        assert_eq!(align(RoiAlign { samples: 2, ..ALIGN }, [0.0, 0.0, 4.0, 2.0]), [2.5, 4.5]);
        // As many samples as pixels: the middles of pixels themselves.
        assert_eq!(align(RoiAlign { samples: 0, ..ALIGN }, [0.0, 0.0, 4.0, 2.0]), [2.5, 4.5]);
        assert_eq!(align(RoiAlign { scale: 0.5f32.to_bits(), ..ALIGN }, [0.0, 0.0, 8.0, 4.0]), [2.5, 4.5]);
    }

    #[test]
    fn the_greatest_is_that_of_weighted_pixels() {
        // Around (1, 1) the pixels 0, 1, 4, 5 weigh a quarter each; around (3, 1) the pixels 2, 3, 6, 7.
        assert_eq!(align(RoiAlign { max: true, ..ALIGN }, [0.0, 0.0, 4.0, 2.0]), [1.25, 1.75]);
    }

    #[test]
    fn samples_outside_are_nothing_and_those_at_the_edge_are_the_border() {
        // Samples at -5/2 and -1/2, then at 5/2 and 9/2, counted from the middle of the first pixel.
        assert_eq!(align(ALIGN, [-3.0, 1.0, 1.0, 2.0]), [0.0, 4.0]);
        assert_eq!(align(ALIGN, [2.0, 3.0, 6.0, 4.0]), [14.5, 0.0]);
        // Without a size there is nothing to sample.
        assert_eq!(align(RoiAlign { samples: 0, ..ALIGN }, [2.0, 2.0, 2.0, 2.0]), [0.0, 0.0]);
    }

    #[test]
    fn bins_of_whole_pixels() {
        let regions =
            Tensor::from_slice(&[2, 5], &[0f32, 0.6, 0.4, 3.2, 1.0, 0.0, 9.0, 9.0, 9.0, 9.0]).unwrap();
        let op = RoiMaxPool { height: 1, width: 2, scale: 1f32.to_bits() };
        // Pixels 1..=3 by 0..=1 in two bins of one and a half; the second region lies outside.
        let y = &Op::from(op).eval(&[image(), regions], &[]).unwrap()[0];
        assert_eq!(y.to_vec::<f32>().unwrap(), [6.0, 7.0, 0.0, 0.0]);
    }
}
