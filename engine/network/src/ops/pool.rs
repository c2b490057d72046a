use super::conv::{Window, check_window, window_output};
use super::reduce::{extremes, greater};
use super::{Fresh, OpError, Operator, OutputType, Padding, TypeVec, check};
use crate::convert::Values;
use crate::{DType, Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PoolKind {
    /// Padding never wins.
    Max,
    /// Divides by the window's elements inside the input, or by its full size with `count_include_pad`.
    Average { count_include_pad: bool },
    /// `(sum |x|^p)^(1/p)`.
    Lp { p: u32 },
}

/// Pooling, **channels-last by definition**: x `[N, spatial.., C]` to `[N, spatial'.., C]`, as ONNX MaxPool, AveragePool,
/// LpPool. With `indices` (max only) a second output `i64` holds the flat index into x **as if it were `[N, C,
/// spatial..]`**, row-major (ONNX's convention); `column_major`: within an image counted along the first spatial axis first.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pool {
    pub kind: PoolKind,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
    pub ceil_mode: bool,
    pub indices: bool,
    pub column_major: bool,
}

impl Operator for Pool {
    const NAME: &'static str = "pool";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let x = &inputs[0].shape;
        if !(3..=5).contains(&x.len()) {
            return Err(OpError::Rank { operand: 0, got: x.len(), want: "3 to 5".into() });
        }
        let spatial = x.len() - 2;
        let t = match self.kind {
            PoolKind::Max => check::dtype(inputs, 0, |t| t != DType::Bool, "a number")?,
            _ => check::float(inputs, 0)?,
        };
        check_window(spatial, &self.strides, &self.dilations, &self.padding)?;
        check::per_axis("kernel", &self.kernel, spatial)?;
        if self.kernel.contains(&0) {
            return Err(check::attribute("kernel", "has a zero"));
        }
        if matches!(self.kind, PoolKind::Lp { p: 0 }) {
            return Err(check::attribute("p", "is 0"));
        }
        if self.column_major && !self.indices {
            return Err(check::attribute("column_major", "says how indices count, of which there are none"));
        }
        if self.indices && self.kind != PoolKind::Max {
            return Err(check::attribute("indices", "only maximum pooling has indices"));
        }
        let mut out: check::Shape = SmallVec::new();
        out.push(x[0].clone());
        for i in 0..spatial {
            out.push(window_output(
                &self.padding,
                i,
                &x[i + 1],
                &Dim::from(self.kernel[i]),
                self.strides[i],
                self.dilations[i],
                self.ceil_mode,
            )?);
        }
        out.push(x[spatial + 1].clone());
        let mut types = check::one(t, out.iter().cloned());
        if self.indices {
            types.push(TensorType::new(DType::I64, out));
        }
        Ok(types)
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let out = &outputs[0];
        let last = x.shape().len() - 1;
        let window = Window::new(
            &x.shape()[1..last],
            &out.shape[1..last],
            &self.kernel,
            &self.strides,
            &self.dilations,
            &self.padding,
        );
        let (n, c) = (x.shape()[0], x.shape()[last]);
        let x_sizes = x.shape()[1..last].to_vec();
        let (size, places) = (window.inputs(), window.outputs());
        let t = x.dtype();
        let mut indices = vec![0i64; if self.indices { n * places * c } else { 0 }];
        let y = match (self.kind, Values::of(x)) {
            (PoolKind::Max, x) => {
                let lowest = match (&x, t) {
                    (Values::Float(_), _) => Values::Float(vec![f64::NEG_INFINITY; n * places * c]),
                    (_, t) => Values::Int(vec![extremes(t).0; n * places * c]),
                };
                let mut y = lowest;
                for b in 0..n {
                    for o in 0..places {
                        let to = (b * places + o) * c;
                        let mut first = true;
                        window.for_each(o, |_, i| {
                            let from = (b * size + i) * c;
                            for ch in 0..c {
                                let better = match (&x, &mut y) {
                                    (Values::Float(x), Values::Float(y)) => {
                                        let (v, best) = (x[from + ch], &mut y[to + ch]);
                                        let better = first || v > *best || v.is_nan() && !best.is_nan();
                                        if better {
                                            *best = v;
                                        }
                                        better
                                    }
                                    (Values::Int(x), Values::Int(y)) => {
                                        let (v, best) = (x[from + ch], &mut y[to + ch]);
                                        let better = first || greater(t, v, *best);
                                        if better {
                                            *best = v;
                                        }
                                        better
                                    }
                                    _ => false,
                                };
                                if better && self.indices {
                                    let place = if self.column_major { column_major(&x_sizes, i) } else { i };
                                    indices[to + ch] = ((b * c + ch) * size + place) as i64;
                                }
                            }
                            first = false;
                        });
                    }
                }
                y
            }
            (kind, Values::Float(x)) => {
                let mut y = vec![0.0; n * places * c];
                for b in 0..n {
                    for o in 0..places {
                        let to = &mut y[(b * places + o) * c..][..c];
                        let mut count = 0usize;
                        window.for_each(o, |_, i| {
                            count += 1;
                            for (t, v) in to.iter_mut().zip(&x[(b * size + i) * c..][..c]) {
                                *t += match kind {
                                    PoolKind::Lp { p } => v.abs().powi(p as i32),
                                    _ => *v,
                                };
                            }
                        });
                        match kind {
                            PoolKind::Lp { p } => to.iter_mut().for_each(|t| *t = t.powf(1.0 / f64::from(p))),
                            PoolKind::Average { count_include_pad: true } => {
                                let d = window.padded(o) as f64;
                                to.iter_mut().for_each(|t| *t /= d);
                            }
                            _ => to.iter_mut().for_each(|t| *t /= count as f64),
                        }
                    }
                }
                Values::Float(y)
            }
            _ => return Err(OpError::Eval("only maximum pooling takes integers".into())),
        };
        let mut results = vec![y.into_tensor(out.dtype, &out.shape)?];
        if self.indices {
            results.push(Tensor::from_slice(&out.shape, &indices)?);
        }
        Ok(results)
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        check::elements(outputs[0]) * check::elements(&self.kernel)
    }
}

/// The number of a pixel along the first axis first, of its row-major number.
fn column_major(sizes: &[usize], mut pixel: usize) -> usize {
    let mut place = 0;
    for axis in (0..sizes.len()).rev() {
        place += pixel % sizes[axis] * sizes[..axis].iter().product::<usize>();
        pixel /= sizes[axis];
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    fn pool(kind: PoolKind, pads: (usize, usize), ceil_mode: bool, x: &[f32]) -> Vec<f32> {
        let op = Op::from(Pool {
            kind,
            kernel: vec![3],
            strides: vec![2],
            dilations: vec![1],
            padding: Padding::Explicit { begin: vec![pads.0], end: vec![pads.1] },
            ceil_mode,
            indices: false,
            column_major: false,
        });
        let x = Tensor::from_slice(&[1, x.len(), 1], x).unwrap();
        op.eval(&[x], &[]).unwrap()[0].to_vec().unwrap()
    }

    #[test]
    fn counted_padding_ends_where_the_padded_input_ends() {
        let counted = PoolKind::Average { count_include_pad: true };
        let plain = PoolKind::Average { count_include_pad: false };
        let x = [1.0, 2.0, 3.0, 4.0, 5.0];
        // Windows (0 1 2), (2 3 4), (4 5 0).
        assert_eq!(pool(counted, (1, 1), false, &x), [1.0, 3.0, 3.0]);
        assert_eq!(pool(plain, (1, 1), false, &x), [1.5, 3.0, 4.5]);
        // Rounding up adds a window that reaches beyond the padding: what lies there is not counted.
        assert_eq!(pool(counted, (0, 0), true, &x[..4]), [2.0, 3.5]);
        assert_eq!(pool(counted, (1, 0), true, &x), [1.0, 3.0, 4.5]);
        assert_eq!(pool(counted, (0, 1), true, &x[..4]), [2.0, 7.0 / 3.0]);
    }

    #[test]
    fn indices_count_as_if_channels_came_first() {
        let op = Op::from(Pool {
            kind: PoolKind::Max,
            kernel: vec![2, 2],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            padding: Padding::none(2),
            ceil_mode: false,
            indices: true,
            column_major: false,
        });
        // Two channels: 1 2 3 4 and 8 7 6 5.
        let x = Tensor::from_slice(&[1, 2, 2, 2], &[1f32, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0]).unwrap();
        let y = op.eval(&[x], &[]).unwrap();
        assert_eq!(y[0].to_vec::<f32>().unwrap(), [4.0, 8.0]);
        assert_eq!(y[1].to_vec::<i64>().unwrap(), [3, 4]);
    }

    #[test]
    fn pixels_are_counted_along_the_first_axis_first() {
        let counted: Vec<usize> = (0..6).map(|pixel| column_major(&[2, 3], pixel)).collect();
        assert_eq!(counted, [0, 2, 4, 1, 3, 5]);
        // The pixel at 1, 2, 3 of 2 by 3 by 4.
        assert_eq!(column_major(&[2, 3, 4], 23), 1 + 2 * 2 + 3 * 6);
        assert_eq!(column_major(&[5], 3), 3);
    }

    #[test]
    fn powers_are_summed() {
        assert_eq!(pool(PoolKind::Lp { p: 2 }, (0, 0), false, &[2.0, -3.0, 6.0]), [7.0]);
        assert_eq!(pool(PoolKind::Lp { p: 1 }, (0, 0), false, &[2.0, -3.0, 6.0]), [11.0]);
    }
}
