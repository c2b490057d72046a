use super::data;
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::convert::Values;
use crate::{Scalar, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::smallvec;

/// Layer normalisation over the axes from `axis` to the last. Operands: x, then `scale` and `bias` if flagged, both of
/// the normalised axes' shape (or broadcastable to it). `rms` leaves the mean alone (RMSNorm). Statistics are computed in
/// `f32` at least. `(x - mean) / sqrt(variance + epsilon) * scale + bias` (ONNX LayerNormalization, RMSNormalization).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayerNorm {
    pub axis: usize,
    pub epsilon: Scalar,
    pub rms: bool,
    pub scale: bool,
    pub bias: bool,
}

/// Group normalisation, **channels-last by definition**: x `[N, spatial.., C]`, scale `[C]`, bias `[C]`; statistics per
/// batch item and group of `C / groups` consecutive channels. `groups = 0` stands for one group per channel
/// (InstanceNormalization).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GroupNorm {
    pub groups: usize,
    pub epsilon: Scalar,
}

/// `exp(x - max) / sum` along `axis`, or its logarithm.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Softmax {
    pub axis: usize,
    pub log: bool,
}

impl Operator for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1 + usize::from(self.scale) + usize::from(self.bias))?;
        check::float(inputs, 0)?;
        check::axis(self.axis, inputs[0].rank())?;
        for i in 1..inputs.len() {
            check::same(inputs, i, 0)?;
            check::broadcasts_to(
                &inputs[i].shape,
                &inputs[0].shape[self.axis..],
                "scale or bias against the normalised axes",
            )?;
        }
        Ok(smallvec![inputs[0].clone()])
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let inner = &x.shape()[self.axis..];
        let n: usize = inner.iter().product();
        let mut values = x.to_f64s();
        let operand = |i: usize| match data::broadcast(&inputs[i], inner) {
            Values::Float(v) => v,
            Values::Int(_) => Vec::new(),
        };
        let scale = self.scale.then(|| operand(1));
        let bias = self.bias.then(|| operand(1 + usize::from(self.scale)));
        let epsilon = self.epsilon.to_f64();
        for row in values.chunks_exact_mut(n.max(1)) {
            let mean = if self.rms { 0.0 } else { row.iter().sum::<f64>() / n as f64 };
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
            let d = 1.0 / (variance + epsilon).sqrt();
            for (i, v) in row.iter_mut().enumerate() {
                *v = (*v - mean) * d;
                if let Some(s) = &scale {
                    *v *= s[i];
                }
                if let Some(b) = &bias {
                    *v += b[i];
                }
            }
        }
        Ok(vec![Tensor::from_f64s(outputs[0].dtype, &outputs[0].shape, &values)?])
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let per = 2 + 2 * usize::from(!self.rms) + 1 + usize::from(self.scale) + usize::from(self.bias);
        check::elements(outputs[0]) * per as f64
    }
}

impl Operator for GroupNorm {
    const NAME: &'static str = "group_norm";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 3)?;
        check::float(inputs, 0)?;
        let r = inputs[0].rank();
        if r < 2 {
            return Err(OpError::Rank { operand: 0, got: r, want: "2 at least".into() });
        }
        let c = &inputs[0].shape[r - 1];
        for i in 1..3 {
            check::same(inputs, i, 0)?;
            check::rank(inputs, i, 1)?;
            check::agree(&inputs[i].shape[0], c, "scale or bias against channels")?;
        }
        if self.groups > 0 && c.fixed().is_some_and(|c| c % self.groups as i64 != 0) {
            return Err(check::attribute("groups", format!("{} does not divide {c} channels", self.groups)));
        }
        Ok(smallvec![inputs[0].clone()])
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let c = x.shape()[x.shape().len() - 1];
        let groups = if self.groups == 0 { c } else { self.groups };
        let per = c.checked_div(groups).unwrap_or(0);
        let n = x.shape()[0];
        let places: usize = x.shape()[1..x.shape().len() - 1].iter().product();
        let mut values = x.to_f64s();
        let (scale, bias) = (inputs[1].to_f64s(), inputs[2].to_f64s());
        for b in 0..n {
            let item = &mut values[b * places * c..(b + 1) * places * c];
            for g in 0..groups {
                let of_group = |i: &usize| i % c / per == g;
                let count = (places * per) as f64;
                let members: Vec<usize> = (0..item.len()).filter(of_group).collect();
                let mean = members.iter().map(|i| item[*i]).sum::<f64>() / count;
                let variance = members.iter().map(|i| (item[*i] - mean).powi(2)).sum::<f64>() / count;
                let d = 1.0 / (variance + self.epsilon.to_f64()).sqrt();
                for i in members {
                    item[i] = (item[i] - mean) * d * scale[i % c] + bias[i % c];
                }
            }
        }
        Ok(vec![Tensor::from_f64s(outputs[0].dtype, &outputs[0].shape, &values)?])
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        check::elements(outputs[0]) * 7.0
    }
}

impl Operator for Softmax {
    const NAME: &'static str = "softmax";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        check::float(inputs, 0)?;
        check::axis(self.axis, inputs[0].rank())?;
        Ok(smallvec![inputs[0].clone()])
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let (before, n, after) = data::around(x.shape(), self.axis);
        let mut values = x.to_f64s();
        for b in 0..before {
            for a in 0..after {
                let at = |i: usize| (b * n + i) * after + a;
                let max = (0..n).map(|i| values[at(i)]).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = (0..n).map(|i| (values[at(i)] - max).exp()).sum();
                for i in 0..n {
                    let shifted = values[at(i)] - max;
                    values[at(i)] = if self.log { shifted - sum.ln() } else { shifted.exp() / sum };
                }
            }
        }
        Ok(vec![Tensor::from_f64s(outputs[0].dtype, &outputs[0].shape, &values)?])
    }

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        check::elements(outputs[0]) * 5.0
    }
}
