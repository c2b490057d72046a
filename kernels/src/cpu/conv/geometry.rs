//! The index arithmetic of a convolution over channels-last activations, one to three spatial dimensions.

use crate::{Reject, TensorDesc};
use engraft_network::ops::Conv;

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
    let spatial =
        x.rank().checked_sub(2).filter(|s| (1..=3).contains(s)).ok_or_else(|| Reject::new("rank"))?;
    if x.strides[spatial + 1] != 1 && x.shape[spatial + 1] != 1 {
        return Err(Reject::new("channels of the input are not consecutive"));
    }
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
