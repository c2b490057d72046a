use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::{Tensor, TensorType};
use serde::{Deserialize, Serialize};

/// Determinants of the square matrices in the last two axes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Det;

impl Operator for Det {
    const NAME: &'static str = "det";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        let t = check::float(inputs, 0)?;
        let shape = &inputs[0].shape;
        let [outer @ .., rows, columns] = shape.as_slice() else {
            return Err(OpError::Rank { operand: 0, got: shape.len(), want: "at least 2".into() });
        };
        check::agree(rows, columns, "rows against columns")?;
        Ok(check::one(t, outer.iter().cloned()))
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (x, out) = (&inputs[0], &outputs[0]);
        let n = x.shape()[x.shape().len() - 1];
        let mut values = x.to_f64s();
        let count: usize = out.shape.iter().product();
        let mut y = vec![1.0; count];
        if n > 0 {
            y = values.chunks_exact_mut(n * n).map(|a| determinant(a, n)).collect();
        }
        Ok(vec![Tensor::from_f64s(out.dtype, &out.shape, &y)?])
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        let n = inputs[0][inputs[0].len() - 1] as f64;
        check::elements(outputs[0]) * 2.0 / 3.0 * n * n * n
    }
}

/// By elimination with the largest pivot of each column.
fn determinant(a: &mut [f64], n: usize) -> f64 {
    let mut det = 1.0;
    for k in 0..n {
        let size = |i: usize| a[i * n + k].abs();
        let pivot = (k..n).fold(k, |best, i| if size(i) > size(best) { i } else { best });
        if a[pivot * n + k] == 0.0 {
            return 0.0;
        }
        if pivot != k {
            (0..n).for_each(|j| a.swap(k * n + j, pivot * n + j));
            det = -det;
        }
        det *= a[k * n + k];
        for i in k + 1..n {
            let factor = a[i * n + k] / a[k * n + k];
            (k..n).for_each(|j| a[i * n + j] -= factor * a[k * n + j]);
        }
    }
    det
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    fn det(shape: &[usize], x: &[f64]) -> Vec<f64> {
        let x = Tensor::from_slice(shape, x).unwrap();
        Op::from(Det).eval(&[x], &[]).unwrap()[0].to_vec().unwrap()
    }

    #[test]
    fn pivots_change_the_sign() {
        assert_eq!(det(&[2, 2, 2], &[0.0, 2.0, 3.0, 5.0, 1.0, 2.0, 2.0, 4.0]), [-6.0, 0.0]);
        // A cyclic permutation of three rows is even.
        assert_eq!(det(&[3, 3], &[0.0, 2.0, 0.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0]), [24.0]);
        assert_eq!(det(&[2, 0, 0], &[]), [1.0, 1.0]);
    }
}
