use super::data;
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::convert::Values;
use crate::{DType, Scalar, Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// Scaled dot-product attention with the heads before the sequence.
///
/// Operands: q `[B, H, Sq, D]`, k `[B, Hkv, Sk, D]`, v `[B, Hkv, Sk, Dv]` (`H` a multiple of `Hkv`: query head `h` reads
/// key head `h / (H / Hkv)`), and with `mask` an additive float mask (or a `bool` mask, false = excluded) broadcastable
/// to `[B, H, Sq, Sk]`. Output `[B, H, Sq, Dv] = softmax(q k^T * scale + mask) v`. `causal` lets query `i` see keys up to
/// `i + Sk - Sq`. A row whose keys are all excluded by a `bool` mask or causality is zero.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attention {
    pub scale: Scalar,
    pub causal: bool,
    pub mask: bool,
}

impl Operator for Attention {
    const NAME: &'static str = "attention";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 3 + usize::from(self.mask))?;
        let t = check::float(inputs, 0)?;
        for i in 0..3 {
            check::same(inputs, i, 0)?;
            check::rank(inputs, i, 4)?;
        }
        let (q, k, v) = (&inputs[0].shape, &inputs[1].shape, &inputs[2].shape);
        let batch =
            check::agree(&check::agree(&q[0], &k[0], "batch of q and k")?, &v[0], "batch of k and v")?;
        let kv_heads = check::agree(&k[1], &v[1], "heads of k and v")?;
        if let (Some(h), Some(g)) = (q[1].fixed(), kv_heads.fixed())
            && (g == 0 || h % g != 0)
        {
            return Err(OpError::Shape(format!("{h} query heads for {g} key heads")));
        }
        check::agree(&q[3], &k[3], "head size of q and k")?;
        let keys = check::agree(&k[2], &v[2], "length of k and v")?;
        if self.mask {
            check::dtype(inputs, 3, |m| m == DType::Bool || m == t, "bool or the type of q")?;
            let scores = [batch.clone(), q[1].clone(), q[2].clone(), keys];
            check::broadcasts_to(&inputs[3].shape, &scores, "mask against scores")?;
        }
        Ok(check::one(t, [batch, q[1].clone(), q[2].clone(), v[3].clone()]))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (q, k, v) = (inputs[0].shape(), inputs[1].shape(), inputs[2].shape());
        let (batch, heads, rows, d) = (q[0], q[1], q[2], q[3]);
        let (groups, keys, dv) = (k[1], k[2], v[3]);
        let (qs, ks, vs) = (inputs[0].to_f64s(), inputs[1].to_f64s(), inputs[2].to_f64s());
        let mask = self.mask.then(|| data::broadcast(&inputs[3], &[batch, heads, rows, keys]));
        let scale = self.scale.to_f64();
        let mut out = vec![0.0; batch * heads * rows * dv];
        let mut scores = vec![0.0; keys];
        for bh in 0..batch * heads {
            let kv = (bh / heads) * groups + bh % heads / (heads / groups);
            for i in 0..rows {
                let row = &qs[(bh * rows + i) * d..][..d];
                let mut any = false;
                for (j, s) in scores.iter_mut().enumerate() {
                    let at = (bh * rows + i) * keys + j;
                    let added = match &mask {
                        Some(Values::Float(m)) => Some(m[at]),
                        Some(Values::Int(m)) => (m[at] != 0).then_some(0.0),
                        None => Some(0.0),
                    };
                    let seen = !self.causal || j + rows <= i + keys;
                    *s = match added.filter(|_| seen) {
                        Some(added) => {
                            any = true;
                            let key = &ks[(kv * keys + j) * d..][..d];
                            row.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() * scale + added
                        }
                        None => f64::NEG_INFINITY,
                    };
                }
                if !any {
                    continue;
                }
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                scores.iter_mut().for_each(|s| *s = (*s - max).exp());
                let sum: f64 = scores.iter().sum();
                let to = &mut out[(bh * rows + i) * dv..][..dv];
                for (j, s) in scores.iter().enumerate() {
                    // An excluded key does not take part, whatever its value.
                    if *s != 0.0 {
                        to.iter_mut()
                            .zip(&vs[(kv * keys + j) * dv..][..dv])
                            .for_each(|(t, v)| *t += s / sum * v);
                    }
                }
            }
        }
        Ok(vec![Tensor::from_f64s(outputs[0].dtype, &outputs[0].shape, &out)?])
    }

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        let (q, v) = (inputs[0], inputs[2]);
        let scores = check::elements(&q[..3]) * v[2] as f64;
        // Scale, and the softmax's five.
        scores * (2.0 * (q[3] + v[3]) as f64 + 6.0 + f64::from(u8::from(self.mask)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    /// One head of single columns; queries are zero, so that all keys that take part weigh the same.
    fn attend(queries: usize, values: &[f32], causal: bool, mask: Option<Tensor>) -> Vec<f32> {
        let op = Attention { scale: Scalar::f32(1.0), causal, mask: mask.is_some() };
        let q = Tensor::from_slice(&[1, 1, queries, 1], &vec![0f32; queries]).unwrap();
        let v = Tensor::from_slice(&[1, 1, values.len(), 1], values).unwrap();
        let mut inputs = vec![q, v.clone(), v];
        inputs.extend(mask);
        Op::from(op).eval(&inputs, &[]).unwrap()[0].to_vec().unwrap()
    }

    #[test]
    fn masks_exclude_keys() {
        let values = [2.0, 4.0, 9.0];
        assert_eq!(attend(1, &values, false, None), [5.0]);
        let inf = f32::NEG_INFINITY;
        let added = Tensor::from_slice(&[1, 3], &[0.0, 0.0, inf]).unwrap();
        assert_eq!(attend(1, &values, false, Some(added)), [3.0]);
        let weighed = Tensor::from_slice(&[1, 3], &[0.0, 3f32.ln(), inf]).unwrap();
        assert!((attend(1, &values, false, Some(weighed))[0] - 3.5).abs() < 1e-6);
        // A row of which nothing is left is zero under a bool mask, and not a number under an added one.
        let rows = Tensor::from_bools(&[2, 3], &[false, false, false, true, false, true]).unwrap();
        assert_eq!(attend(2, &values, false, Some(rows)), [0.0, 5.5]);
        let nothing = Tensor::from_slice(&[1, 3], &[inf; 3]).unwrap();
        assert!(attend(1, &values, false, Some(nothing))[0].is_nan());
    }

    #[test]
    fn the_last_query_sees_the_last_key() {
        assert_eq!(attend(2, &[2.0, 4.0, 9.0], true, None), [3.0, 5.0]);
        // More queries than keys: the first see nothing.
        assert_eq!(attend(3, &[2.0, 4.0], true, None), [0.0, 2.0, 3.0]);
    }
}
