use super::conv::{check_window, window_output};
use super::{Fresh, OpError, Operator, Padding, TypeVec, check};
use crate::{DType, Dim, TensorType};
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
/// spatial..]`**, row-major (ONNX's convention).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pool {
    pub kind: PoolKind,
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
    pub padding: Padding,
    pub ceil_mode: bool,
    pub indices: bool,
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

    fn flops(&self, _: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        check::elements(outputs[0]) * check::elements(&self.kernel)
    }
}
