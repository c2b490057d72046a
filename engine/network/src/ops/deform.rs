use super::conv::{check_window, window_output};
use super::data;
use super::{Fresh, OpError, Operator, OutputType, Padding, TypeVec, check};
use crate::{Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// What a deformable convolution multiplies with its weights, **channels-last by definition**: for every output pixel and
/// kernel position, the pixel of x `[N, H, W, C]` where the window has it, moved by an offset. Offsets are `[N, H', W',
/// groups * kernel positions * 2]` (down, then right), one for all channels of a group; with `mask` a third operand `[N,
/// H', W', groups * kernel positions]` scales what is read. Output `[N, H', W', kernel positions, C]`. Values between
/// pixels are bilinear, zeros lie outside; what is not a number is far outside. Coordinates are computed in `f32`, or
/// `f64` where offsets are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeformSample {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
    /// Groups of input channels that are moved together.
    pub groups: usize,
    pub mask: bool,
}

impl Operator for DeformSample {
    const NAME: &'static str = "deform_sample";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 2 + usize::from(self.mask))?;
        let t = check::float(inputs, 0)?;
        check_window(2, &self.strides, &self.dilations, &self.padding)?;
        check::per_axis("kernel", &self.kernel, 2)?;
        if self.kernel.contains(&0) {
            return Err(check::attribute("kernel", "has a zero"));
        }
        for operand in 0..inputs.len() {
            check::float(inputs, operand)?;
            check::rank(inputs, operand, 4)?;
        }
        let x = &inputs[0].shape;
        if self.groups == 0 || x[3].fixed().is_some_and(|c| c % self.groups as i64 != 0) {
            let reason = format!("{} do not divide the {} channels", self.groups, x[3]);
            return Err(check::attribute("groups", reason));
        }
        let positions: usize = self.kernel.iter().product();
        let mut out = vec![x[0].clone()];
        for i in 0..2 {
            let (kernel, stride, dilation) = (self.kernel[i].into(), self.strides[i], self.dilations[i]);
            out.push(window_output(&self.padding, i, &x[i + 1], &kernel, stride, dilation, false)?);
        }
        for (operand, each) in inputs[1..].iter().zip([2, 1]) {
            let channels = Dim::from(self.groups * positions * each);
            for (a, d) in out.iter_mut().enumerate() {
                *d = check::agree(d, &operand.shape[a], &format!("axis {a} of offsets and mask"))?;
            }
            check::agree(&channels, &operand.shape[3], "numbers of all kernel positions and groups")?;
        }
        Ok(check::one(t, out.into_iter().chain([positions.into(), x[3].clone()])))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (x, offsets, out) = (&inputs[0], &inputs[1], &outputs[0]);
        let [_, height, width, channels] = data::four(x.shape())?;
        let strides = data::strides(x.shape());
        let pixels = x.to_f64s();
        let narrow = offsets.dtype() != crate::DType::F64;
        let positions: usize = self.kernel.iter().product();
        let each = channels / self.groups;
        let begin = [0, 1].map(|i| {
            let (kernel, stride, dilation) = (self.kernel[i], self.strides[i], self.dilations[i]);
            self.padding.resolve(i, x.shape()[i + 1], kernel, stride, dilation).0 as f64
        });
        let mut y = vec![0.0; out.shape.iter().product()];
        if channels == 0 {
            return Ok(vec![Tensor::from_f64s(out.dtype, &out.shape, &y)?]);
        }
        // One row per output pixel, kernel position and group.
        for (i, to) in y.chunks_exact_mut(each).enumerate() {
            let (group, position, pixel) =
                (i % self.groups, i / self.groups % positions, i / (self.groups * positions));
            let (image, row, column) = (
                pixel / (out.shape[1] * out.shape[2]),
                pixel / out.shape[2] % out.shape[1],
                pixel % out.shape[2],
            );
            let number = (pixel * self.groups + group) * positions + position;
            let at = |axis: usize, o: usize, k: usize| {
                let regular = (o * self.strides[axis] + k * self.dilations[axis]) as f64 - begin[axis];
                let moved = regular + offsets.get_f64(2 * number + axis);
                let moved = if narrow { f64::from(moved as f32) } else { moved };
                let far = f64::from(1 << 24);
                if moved.is_nan() { -far } else { moved.clamp(-far, far) }
            };
            let (v, h) = (at(0, row, position / self.kernel[1]), at(1, column, position % self.kernel[1]));
            let scale = if self.mask { inputs[2].get_f64(number) } else { 1.0 };
            for (a, u) in [(v.floor(), 1.0 - (v - v.floor())), (v.floor() + 1.0, v - v.floor())] {
                for (b, w) in [(h.floor(), 1.0 - (h - h.floor())), (h.floor() + 1.0, h - h.floor())] {
                    if !(0.0..height as f64).contains(&a) || !(0.0..width as f64).contains(&b) {
                        continue;
                    }
                    let from = image * strides[0] + a as usize * strides[1] + b as usize * strides[2];
                    let values = &pixels[from + group * each..];
                    to.iter_mut().zip(values).for_each(|(t, p)| *t += scale * u * w * p);
                }
            }
        }
        Ok(vec![Tensor::from_f64s(out.dtype, &out.shape, &y)?])
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        8.0 * check::elements(outputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    #[test]
    fn pixels_are_moved_and_scaled() {
        let op = DeformSample {
            kernel: vec![1, 2],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            padding: Padding::none(2),
            groups: 2,
            mask: true,
        };
        // Two rows of two pixels of two channels, each its own group: one column of outputs.
        let x = Tensor::from_slice(&[1, 2, 2, 2], &[1f32, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0]).unwrap();
        // (down, right) of group 0: (1/2, 0) and (0, 1/2); of group 1: (0, 0) and (-1/2, -1/4).
        let offsets = [0.5f32, 0.0, 0.0, 0.5, 0.0, 0.0, -0.5, -0.25];
        let offsets = Tensor::from_slice(&[1, 2, 1, 8], &[offsets, offsets].concat()).unwrap();
        let mask = Tensor::from_slice(&[1, 2, 1, 4], &[1f32, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 0.0]).unwrap();
        let y = &Op::from(op).eval(&[x, offsets, mask], &[]).unwrap()[0];
        assert_eq!(y.shape(), [1, 2, 1, 2, 2]);
        // Upper row: (1 + 3) / 2 and 10; half of 2, and half of (10 + 3 * 20) / 4 twice. Lower row: half of 3, ...
        assert_eq!(y.to_vec::<f32>().unwrap(), [2.0, 10.0, 1.0, 17.5, 1.5, 30.0, 2.0, 0.0]);
    }
}
