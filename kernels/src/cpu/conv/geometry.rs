//! The index arithmetic of a convolution over channels-last activations, one to three spatial dimensions.

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
