//! The index arithmetic of a convolution over channels-last activations, one to three spatial dimensions.

use crate::{Reject, TensorDesc};
use engraft_network::ops::Conv;
use std::ops::Range;

/// Sizes, strides and borders of a convolution's input side; spatial triples are (depth, height, width), the leading
/// ones trivial where the convolution has fewer dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    pub batch: usize,
    pub input: [usize; 3],
    pub output: [usize; 3],
    pub kernel: [usize; 3],
    pub stride: [usize; 3],
    pub dilation: [usize; 3],
    /// Zeros before the first element.
    pub pad: [usize; 3],
    /// Distance of batches and of spatial neighbours of the input, in elements; channels are consecutive.
    pub batch_stride: isize,
    pub input_stride: [isize; 3],
}

impl Geometry {
    /// Output pixels of all batches.
    pub fn pixels(&self) -> usize {
        self.batch * self.output.iter().product::<usize>()
    }

    /// Kernel positions.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Whether no output reads the border (an output must exist).
    pub fn is_inside(&self) -> bool {
        (0..3).all(|d| {
            let last = (self.output[d] - 1) * self.stride[d] + (self.kernel[d] - 1) * self.dilation[d];
            self.pad[d] == 0 && last < self.input[d]
        })
    }

    /// Input pixels, numbered over all batches, from the first to the last that output pixels `pixels` (not none) read.
    pub fn window(&self, pixels: Range<usize>) -> Range<usize> {
        self.corner(pixels.start, false)..self.corner(pixels.end - 1, true) + 1
    }

    /// The first or the last input pixel under output pixel `pixel`; none that is read by outputs after (before) it has a lower
    /// (higher) number.
    fn corner(&self, pixel: usize, last: bool) -> usize {
        let (n, o) = self.place(pixel);
        let mut border = None;
        (0..3).fold(n, |number, d| {
            let most = self.input[d] - 1;
            let reach = if last { (self.kernel[d] - 1) * self.dilation[d] } else { 0 };
            let at = o[d] * self.stride[d] + reach;
            // Where it lies in the border, other outputs get as far, at any place along the inner axes.
            let outside = (at < self.pad[d]).then_some(false).or((at > self.pad[d] + most).then_some(true));
            border = border.or(outside);
            let at = match border {
                Some(true) => most,
                Some(false) => 0,
                None => at - self.pad[d],
            };
            number * self.input[d] + at
        })
    }

    /// Batch and place of output pixel `pixel`.
    #[inline]
    pub fn place(&self, pixel: usize) -> (usize, [usize; 3]) {
        let [d, h, w] = self.output;
        (pixel / (d * h * w), [pixel / (h * w) % d, pixel / w % h, pixel % w])
    }

    /// The input coordinate along dimension `dim` that kernel position `k` of output `o` reads, unless it is in the border.
    #[inline]
    pub fn source(&self, dim: usize, o: usize, k: usize) -> Option<usize> {
        let at = (o * self.stride[dim] + k * self.dilation[dim]).wrapping_sub(self.pad[dim]);
        (at < self.input[dim]).then_some(at)
    }
}

/// The geometry of a convolution for concrete operands.
///
/// # Errors
/// More than three spatial axes, or channels that are not consecutive.
pub fn geometry(op: &Conv, x: &TensorDesc, w: &TensorDesc, out: &TensorDesc) -> Result<Geometry, Reject> {
    let channel = x.rank() - 1;
    if x.strides[channel] != 1 && x.shape[channel] != 1 {
        return Err(Reject::new("channels of the input are not consecutive"));
    }
    strided(op, x, w, out)
}

/// The geometry of a convolution whose input's channels may lie at any distance.
///
/// # Errors
/// More than three spatial axes.
pub fn strided(op: &Conv, x: &TensorDesc, w: &TensorDesc, out: &TensorDesc) -> Result<Geometry, Reject> {
    let spatial =
        x.rank().checked_sub(2).filter(|s| (1..=3).contains(s)).ok_or_else(|| Reject::new("rank"))?;
    let mut g = Geometry {
        batch: x.shape[0],
        input: [1; 3],
        output: [1; 3],
        kernel: [1; 3],
        stride: [1; 3],
        dilation: [1; 3],
        pad: [0; 3],
        batch_stride: x.strides[0],
        input_stride: [0; 3],
    };
    for axis in 0..spatial {
        let d = 3 - spatial + axis;
        g.input[d] = x.shape[axis + 1];
        g.output[d] = out.shape[axis + 1];
        g.kernel[d] = w.shape[axis];
        g.stride[d] = op.strides[axis];
        g.dilation[d] = op.dilations[axis];
        g.pad[d] = op.padding.resolve(axis, g.input[d], g.kernel[d], g.stride[d], g.dilation[d]).0;
        g.input_stride[d] = x.strides[axis + 1];
    }
    Ok(g)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_hold_what_is_read(
            batch in 1usize..3, input in [1usize..4, 1usize..6, 1usize..7], kernel in [1usize..4, 1usize..4, 1usize..4],
            stride in [1usize..3, 1usize..4, 1usize..4], dilation in [1usize..3, 1usize..3, 1usize..3],
            pad in [0usize..3, 0usize..3, 0usize..3], after in [0usize..3, 0usize..3, 0usize..3], cut in 1usize..40,
        ) {
            let mut output = [0; 3];
            for d in 0..3 {
                let span = (kernel[d] - 1) * dilation[d] + 1;
                prop_assume!(input[d] + pad[d] + after[d] >= span);
                output[d] = (input[d] + pad[d] + after[d] - span) / stride[d] + 1;
            }
            let g = Geometry {
                batch, input, output, kernel, stride, dilation, pad, batch_stride: 0, input_stride: [0; 3],
            };
            let mut before = 0..0;
            for start in (0..g.pixels()).step_by(cut) {
                let pixels = start..g.pixels().min(start + cut);
                let window = g.window(pixels.clone());
                prop_assert!(before.start <= window.start && before.end <= window.end);
                for pixel in pixels {
                    let (n, o) = g.place(pixel);
                    for tap in 0..g.taps() {
                        let k = [tap / (kernel[1] * kernel[2]), tap / kernel[2] % kernel[1], tap % kernel[2]];
                        let at: Option<Vec<usize>> = (0..3).map(|d| g.source(d, o[d], k[d])).collect();
                        let Some(at) = at else { continue };
                        let read = ((n * input[0] + at[0]) * input[1] + at[1]) * input[2] + at[2];
                        prop_assert!(window.contains(&read), "{read} is not in {window:?}");
                    }
                }
                before = window;
            }
        }
    }
}
