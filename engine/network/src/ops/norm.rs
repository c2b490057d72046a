use super::{Fresh, OpError, Operator, TypeVec, check};
use crate::{Scalar, TensorType};
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

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        check::elements(outputs[0]) * 5.0
    }
}
