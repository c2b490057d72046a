use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::{DType, Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// Discrete Fourier transforms of signals `[.., points, parts]` of real (1 part) or complex numbers (2), cut or filled with
/// zeros to `length` points. `inverse` turns the other way and divides by the length.
///
/// Output `[.., points', 2]`: all `length` points, or with `onesided` the first `length / 2 + 1`, of real signals only. The
/// inverse of such a half is `[.., length, 1]`; parts that a real signal's spectrum does not have are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dft {
    pub length: Dim,
    pub inverse: bool,
    pub onesided: bool,
}

/// Fourier transforms of frames `[batch, samples, parts]` -> `[batch, frames, points', 2]`: frame `f` starts at sample
/// `f * step`, has `length` samples, and is weighted by the second operand (`[length]`, with `window`); points as [`Dft`] says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stft {
    pub length: Dim,
    pub step: usize,
    pub onesided: bool,
    pub window: bool,
}

fn float(inputs: &[&TensorType], operand: usize) -> Result<DType, OpError> {
    let wide = |t| matches!(t, DType::F32 | DType::F64 | DType::F16 | DType::BF16);
    check::dtype(inputs, operand, wide, "f32, f64, f16 or bf16")
}

/// Parts of the numbers along the last axis.
fn parts(x: &TensorType) -> Result<i64, OpError> {
    match x.shape.last().and_then(Dim::fixed) {
        Some(parts @ (1 | 2)) => Ok(parts),
        _ => Err(OpError::Shape(format!("{x} does not end in 1 or 2 parts of a number"))),
    }
}

fn half(length: &Dim) -> Dim {
    length.floor_div(&Dim::Fixed(2)).add(&Dim::Fixed(1))
}

/// `out[k] = sum of x[j] e^(sign 2 pi i jk / length)` for `k` below `points`.
fn transform(x: &[(f64, f64)], circle: &[(f64, f64)], inverse: bool, points: usize) -> Vec<(f64, f64)> {
    let length = circle.len();
    let sign = if inverse { 1.0 } else { -1.0 };
    (0..points)
        .map(|k| {
            let mut sum = (0.0, 0.0);
            for (j, (re, im)) in x.iter().enumerate() {
                let (sin, cos) = circle[j * k % length];
                let sin = sign * sin;
                sum = (sum.0 + re * cos - im * sin, sum.1 + re * sin + im * cos);
            }
            sum
        })
        .collect()
}

fn circle(length: usize) -> Vec<(f64, f64)> {
    (0..length).map(|i| (std::f64::consts::TAU * i as f64 / length as f64).sin_cos()).collect()
}

impl Operator for Dft {
    const NAME: &'static str = "dft";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let dtype = float(inputs, 0)?;
        let mut shape = inputs[0].shape.clone();
        let rank = shape.len();
        if rank < 2 {
            return Err(OpError::Rank { operand: 0, got: rank, want: "2 at least".into() });
        }
        let parts = parts(inputs[0])?;
        if self.onesided && (parts == 2) != self.inverse {
            return Err(check::attribute("onesided", "one side must be real".to_owned()));
        }
        if self.length.fixed().is_some_and(|n| n < 1) {
            return Err(check::attribute("length", format!("{} points", self.length)));
        }
        let to_half = self.onesided && !self.inverse;
        shape[rank - 2] = if to_half { half(&self.length) } else { self.length.clone() };
        shape[rank - 1] = Dim::Fixed(if self.onesided && self.inverse { 1 } else { 2 });
        Ok(check::one(dtype, shape))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (x, out) = (inputs[0].to_f64s(), &outputs[0]);
        let (shape, rank) = (inputs[0].shape(), out.shape.len());
        let (points, parts) = (shape[rank - 2], shape[rank - 1]);
        let length = self.length.fixed().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        let length = length.ok_or_else(|| OpError::Shape(format!("{} points", self.length)))?;
        let circle = circle(length);
        let real = self.onesided && self.inverse;
        let used = points.min(if real { length / 2 + 1 } else { length });
        let scale = if self.inverse { 1.0 / length as f64 } else { 1.0 };
        let mut y = Vec::with_capacity(out.shape.iter().product());
        for signal in x.chunks_exact((points * parts).max(1)) {
            let mut z: Vec<(f64, f64)> = (0..used)
                .map(|j| (signal[j * parts], if parts == 2 { signal[j * 2 + 1] } else { 0.0 }))
                .collect();
            if real {
                z.resize(length, (0.0, 0.0));
                z[0].1 = 0.0;
                for j in 1..length.div_ceil(2) {
                    z[length - j] = (z[j].0, -z[j].1);
                }
                if length % 2 == 0 {
                    z[length / 2].1 = 0.0;
                }
            }
            for (re, im) in transform(&z, &circle, self.inverse, out.shape[rank - 2]) {
                y.extend([re * scale, im * scale].into_iter().take(out.shape[rank - 1]));
            }
        }
        y.resize(out.shape.iter().product(), 0.0);
        Ok(vec![Tensor::from_f64s(out.dtype, &out.shape, &y)?])
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        flops(inputs[0], outputs[0])
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.length = f(&self.length);
    }
}

/// `5 n log n` per complex signal, half of it where one side is real.
fn flops(input: &[usize], output: &[usize]) -> f64 {
    let (parts, points) = (input[input.len() - 1], output[output.len() - 2]);
    let n = points.max(2) as f64;
    check::elements(output) * 2.5 * n.log2() * if parts == 2 { 1.0 } else { 0.5 }
}

impl Operator for Stft {
    const NAME: &'static str = "stft";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1 + usize::from(self.window))?;
        let dtype = float(inputs, 0)?;
        check::rank(inputs, 0, 3)?;
        parts(inputs[0])?;
        if self.window {
            check::same(inputs, 1, 0)?;
            check::rank(inputs, 1, 1)?;
            check::agree(&inputs[1].shape[0], &self.length, "the window and a frame")?;
        }
        if self.step == 0 {
            return Err(check::attribute("step", "0".to_owned()));
        }
        let samples = &inputs[0].shape[1];
        if let (Some(samples), Some(length)) = (samples.fixed(), self.length.fixed())
            && (length < 1 || length > samples)
        {
            return Err(check::attribute("length", format!("{length} of {samples} samples")));
        }
        let steps = samples.sub(&self.length).floor_div(&Dim::from(self.step));
        let points = if self.onesided { half(&self.length) } else { self.length.clone() };
        let frames = steps.add(&Dim::Fixed(1));
        Ok(check::one(dtype, [inputs[0].shape[0].clone(), frames, points, Dim::Fixed(2)]))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (x, out) = (inputs[0].to_f64s(), &outputs[0]);
        let (samples, parts) = (inputs[0].shape()[1], inputs[0].shape()[2]);
        let length = self.length.fixed().unwrap_or(0) as usize;
        let window = inputs.get(1).map(Tensor::to_f64s);
        let circle = circle(length);
        let mut y = Vec::with_capacity(out.shape.iter().product());
        for batch in 0..out.shape[0] {
            for frame in 0..out.shape[1] {
                let start = (batch * samples + frame * self.step) * parts;
                let frame: Vec<(f64, f64)> = (0..length)
                    .map(|j| {
                        let w = window.as_ref().map_or(1.0, |w| w[j]);
                        let at = start + j * parts;
                        (w * x[at], if parts == 2 { w * x[at + 1] } else { 0.0 })
                    })
                    .collect();
                let points = transform(&frame, &circle, false, out.shape[2]);
                y.extend(points.into_iter().flat_map(|(re, im)| [re, im]));
            }
        }
        Ok(vec![Tensor::from_f64s(out.dtype, &out.shape, &y)?])
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        flops(inputs[0], outputs[0])
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.length = f(&self.length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    fn near(got: &Tensor, want: &[f64]) {
        let got = got.to_f64s();
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6), "{got:?} is not {want:?}");
    }

    #[test]
    fn four_points_there_and_back() {
        let x = Tensor::from_slice(&[4, 1], &[1f32, 2., 3., 4.]).unwrap();
        let dft = |x: &Tensor, length: i64, inverse, onesided| {
            Op::from(Dft { length: length.into(), inverse, onesided })
                .eval(std::slice::from_ref(x), &[])
                .unwrap()
                .remove(0)
        };
        near(&dft(&x, 4, false, false), &[10., 0., -2., 2., -2., 0., -2., -2.]);
        let half = dft(&x, 4, false, true);
        near(&half, &[10., 0., -2., 2., -2., 0.]);
        near(&dft(&half, 4, true, true), &[1., 2., 3., 4.]);
        near(&dft(&x, 2, false, true), &[3., 0., -1., 0.]);
        near(&dft(&x, 3, true, false), &[2., 0., -0.5, -0.75f64.sqrt() / 3.0, -0.5, 0.75f64.sqrt() / 3.0]);
    }

    #[test]
    fn frames() {
        let x = Tensor::from_slice(&[1, 5, 1], &[1f32, 2., 3., 4., 5.]).unwrap();
        let w = Tensor::from_slice(&[2], &[1f32, 2.]).unwrap();
        let op = Stft { length: 2.into(), step: 3, onesided: true, window: true };
        near(&Op::from(op).eval(&[x, w], &[]).unwrap()[0], &[5., 0., -3., 0., 14., 0., -6., 0.]);
    }
}
