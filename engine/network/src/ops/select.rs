use super::data::{self, Cells};
use super::{Fresh, OpError, Operator, OutputType, TypeVec, check};
use crate::convert::Values;
use crate::{DType, Dim, Tensor, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::smallvec;
use std::cmp::Ordering;

/// Per batch and class the boxes that do not overlap a better one that was kept (ONNX NonMaxSuppression).
///
/// Operands: boxes `f32[batches, boxes, 4]`, scores `f32[batches, classes, boxes]`, the largest intersection over union that
/// two kept boxes may have (`f32[]`, 0 to 1) and, with `score_threshold`, the score above which boxes are looked at (`f32[]`).
/// A box is two opposite corners `[y, x, y, x]`, or `[x, y, width, height]` around its center with `center_point_box`. Areas
/// and quotients are of `f32`. Of equal scores the lower index comes first, NaN last.
///
/// Outputs: rows `[batch, class, box]` by batch, class and falling score, and their number (`i64[1]`). The first has room for
/// `min(limit, boxes)` rows per batch and class; rows beyond the number are zeros.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NonMaxSuppression {
    pub center_point_box: bool,
    pub score_threshold: bool,
    /// Most rows per batch and class.
    pub limit: Dim,
}

/// The different slices along `axis`: sorted (lexicographically, NaN equal to itself and above everything, -0 equal to 0),
/// else in the order of their first appearance.
///
/// Outputs: the slices; the index of each one's first appearance; for every slice of the operand which of them it is; how often
/// each appears; their number (`i64[1]`). All but the last have the operand's size along the axis (`i64` vectors but for
/// the first); what lies beyond the number is zeros, except in the third, which has no such part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Unique {
    pub axis: usize,
    pub sorted: bool,
}

impl Operator for NonMaxSuppression {
    const NAME: &'static str = "non_max_suppression";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 3 + usize::from(self.score_threshold))?;
        for (operand, rank) in [3, 3, 0, 0].into_iter().enumerate().take(inputs.len()) {
            check::dtype(inputs, operand, |t| t == DType::F32, "f32")?;
            check::rank(inputs, operand, rank)?;
        }
        let (boxes, scores) = (&inputs[0].shape, &inputs[1].shape);
        check::agree(&boxes[0], &scores[0], "batches of boxes and scores")?;
        let count = check::agree(&boxes[1], &scores[2], "boxes and their scores")?;
        check::agree(&boxes[2], &Dim::Fixed(4), "a box has 4 numbers")?;
        check::not_negative("limit", std::slice::from_ref(&self.limit))?;
        let rows = boxes[0].mul(&scores[1]).mul(&self.limit.minimum(&count));
        Ok(smallvec![
            TensorType::new(DType::I64, [rows, Dim::Fixed(3)]),
            TensorType::new(DType::I64, [Dim::Fixed(1)]),
        ])
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let (boxes, scores): (&[f32], &[f32]) = (inputs[0].as_slice()?, inputs[1].as_slice()?);
        let most_overlap = inputs[2].as_slice::<f32>()?[0];
        if !(0.0..=1.0).contains(&most_overlap) {
            return Err(OpError::Eval(format!("the overlap {most_overlap} is not between 0 and 1")));
        }
        let threshold = inputs.get(3).map(|t| t.as_slice::<f32>().map(|v| v[0])).transpose()?;
        let &[batches, classes, count] = inputs[1].shape() else { return Ok(Vec::new()) };
        let limit = self.limit.fixed().unwrap_or(0) as usize;
        let mut rows: Vec<i64> = Vec::new();
        for pair in 0..batches * classes {
            let scores = &scores[pair * count..(pair + 1) * count];
            let boxes = &boxes[pair / classes * count * 4..];
            let mut order: Vec<usize> =
                (0..count).filter(|&i| threshold.is_none_or(|least| scores[i] > least)).collect();
            let falling = |a: f32, b: f32| b.partial_cmp(&a).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()));
            order.sort_by(|&a, &b| falling(scores[a], scores[b]));
            let mut kept: Vec<[f32; 4]> = Vec::new();
            for i in order {
                if kept.len() == limit {
                    break;
                }
                let corners = self.corners(boxes[4 * i..4 * i + 4].try_into().unwrap_or_default());
                if !kept.iter().any(|k| overlap(&corners, k) > most_overlap) {
                    kept.push(corners);
                    rows.extend([(pair / classes) as i64, (pair % classes) as i64, i as i64]);
                }
            }
        }
        let found = (rows.len() / 3) as i64;
        rows.resize(outputs[0].shape.iter().product(), 0);
        Ok(vec![Tensor::from_slice(&outputs[0].shape, &rows)?, Tensor::from_slice(&[1], &[found])?])
    }

    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
        // Every box that is kept against those before it.
        let pairs = (inputs[1][0] * inputs[1][1]).max(1) as f64;
        let kept = outputs[0][0] as f64 / pairs;
        check::elements(inputs[1]) + 14.0 * pairs * kept * kept
    }

    fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
        self.limit = f(&self.limit);
    }
}

impl NonMaxSuppression {
    /// Least and largest coordinates: `[least, least, largest, largest]`.
    fn corners(&self, b: [f32; 4]) -> [f32; 4] {
        let (small, large) =
            (|a: f32, b: f32| if a < b { a } else { b }, |a: f32, b: f32| if a > b { a } else { b });
        if self.center_point_box {
            let (w, h) = (b[2] * 0.5, b[3] * 0.5);
            [b[0] - w, b[1] - h, b[0] + w, b[1] + h]
        } else {
            [small(b[0], b[2]), small(b[1], b[3]), large(b[0], b[2]), large(b[1], b[3])]
        }
    }
}

/// Intersection over union of two boxes, 0 where either has no area.
fn overlap(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let side = |i: usize| {
        let least = if a[i] > b[i] { a[i] } else { b[i] };
        let most = if a[i + 2] < b[i + 2] { a[i + 2] } else { b[i + 2] };
        most - least
    };
    let area = |b: &[f32; 4]| (b[2] - b[0]) * (b[3] - b[1]);
    let (w, h, area_a, area_b) = (side(0), side(1), area(a), area(b));
    let common = w * h;
    let union = area_a + area_b - common;
    if w > 0.0 && h > 0.0 && common > 0.0 && area_a > 0.0 && area_b > 0.0 && union > 0.0 {
        common / union
    } else {
        0.0
    }
}

impl Operator for Unique {
    const NAME: &'static str = "unique";

    fn infer(&self, inputs: &[&TensorType], _: Fresh<'_>) -> Result<TypeVec, OpError> {
        check::arity(inputs, 1)?;
        check::axis(self.axis, inputs[0].rank())?;
        let line = TensorType::new(DType::I64, [inputs[0].shape[self.axis].clone()]);
        let one = TensorType::new(DType::I64, [Dim::Fixed(1)]);
        Ok(smallvec![inputs[0].clone(), line.clone(), line.clone(), line, one])
    }

    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError> {
        let x = &inputs[0];
        let (before, n, after) = data::around(x.shape(), self.axis);
        let values = Values::of(x);
        let at = |slice: usize, e: usize| (e / after * n + slice) * after + e % after;
        let compare = |a: usize, b: usize| {
            let elements = (0..before * after).map(|e| match &values {
                Values::Float(v) => super::search::float_order(v[at(a, e)], v[at(b, e)]),
                Values::Int(v) if x.dtype() == DType::U64 => (v[at(a, e)] as u64).cmp(&(v[at(b, e)] as u64)),
                Values::Int(v) => v[at(a, e)].cmp(&v[at(b, e)]),
            });
            elements.fold(Ordering::Equal, Ordering::then)
        };
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| compare(a, b));
        // Stable: the first of each group is the one that appears first.
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for i in order {
            match groups.last_mut() {
                Some(group) if compare(group[0], i) == Ordering::Equal => group.push(i),
                _ => groups.push(vec![i]),
            }
        }
        if !self.sorted {
            groups.sort_by_key(|group| group[0]);
        }
        let cells = Cells::of(x);
        let mut bytes = vec![0; cells.bytes.len()];
        let (mut first, mut inverse, mut counts) = (vec![0i64; n], vec![0i64; n], vec![0i64; n]);
        for (g, group) in groups.iter().enumerate() {
            for e in 0..before * after {
                let to = at(g, e) * cells.width;
                bytes[to..to + cells.width].copy_from_slice(cells.at(at(group[0], e)));
            }
            first[g] = group[0] as i64;
            counts[g] = group.len() as i64;
            group.iter().for_each(|&i| inverse[i] = g as i64);
        }
        Ok(vec![
            data::from_cells(x.dtype(), &outputs[0].shape, &bytes)?,
            Tensor::from_slice(&[n], &first)?,
            Tensor::from_slice(&[n], &inverse)?,
            Tensor::from_slice(&[n], &counts)?,
            Tensor::from_slice(&[1], &[groups.len() as i64])?,
        ])
    }

    fn flops(&self, inputs: &[&[usize]], _: &[&[usize]]) -> f64 {
        let n = inputs[0][self.axis].max(2) as f64;
        check::elements(inputs[0]) * n.log2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;

    /// Two classes over boxes of which the second overlaps the first by 0.75, the third by nothing.
    #[test]
    fn boxes_beside_better_ones_go() {
        let boxes = [0f32, 0., 1., 1., 1., 1., 0.25, 0., 5., 5., 6., 6.];
        let scores = [0.5f32, 0.9, 0.5, 0.2, 0.1, 0.3];
        let boxes = Tensor::from_slice(&[1, 3, 4], &boxes).unwrap();
        let scores = Tensor::from_slice(&[1, 2, 3], &scores).unwrap();
        let run = |overlap: f32, least: f32, limit: i64| {
            let op =
                NonMaxSuppression { center_point_box: false, score_threshold: true, limit: limit.into() };
            let inputs = [boxes.clone(), scores.clone(), Tensor::scalar(overlap), Tensor::scalar(least)];
            let out = Op::from(op).eval(&inputs, &[]).unwrap();
            let found = out[1].get_i64(0) as usize;
            let rows: Vec<i64> = out[0].to_vec().unwrap();
            assert!(rows[3 * found..].iter().all(|v| *v == 0));
            (rows[..3 * found].to_vec(), out[0].shape()[0])
        };
        assert_eq!(run(0.5, 0.0, 9), (vec![0, 0, 1, 0, 0, 2, 0, 1, 2, 0, 1, 0], 6));
        assert_eq!(run(0.75, 0.0, 9).0.len(), 18, "0.75 is not more than 0.75");
        assert_eq!(run(0.5, 0.25, 1), (vec![0, 0, 1, 0, 1, 2], 2));
        let bad = [boxes.clone(), scores.clone(), Tensor::scalar(1.5f32)];
        let op = NonMaxSuppression { center_point_box: false, score_threshold: false, limit: 1.into() };
        assert!(Op::from(op).eval(&bad, &[]).is_err());
    }

    #[test]
    fn slices_are_listed_once() {
        let x = Tensor::from_slice(&[6], &[2f32, 1., 1., 3., 4., 3.]).unwrap();
        let run = |x: &Tensor, axis, sorted| {
            let out = Op::from(Unique { axis, sorted }).eval(std::slice::from_ref(x), &[]).unwrap();
            let lines: Vec<Vec<i64>> = out[1..].iter().map(|t| t.to_vec().unwrap()).collect();
            (out[0].clone(), lines)
        };
        let (y, lines) = run(&x, 0, false);
        assert_eq!(y.to_vec::<f32>().unwrap(), [2., 1., 3., 4., 0., 0.]);
        assert_eq!(lines[..2], [vec![0, 1, 3, 4, 0, 0], vec![0, 1, 1, 2, 3, 2]]);
        assert_eq!(lines[2..], [vec![1, 2, 2, 1, 0, 0], vec![4]]);
        let (y, lines) = run(&x, 0, true);
        assert_eq!(y.to_vec::<f32>().unwrap(), [1., 2., 3., 4., 0., 0.]);
        assert_eq!(lines[1], [1, 0, 0, 2, 3, 2]);
        // Columns of [[1, 0, 1], [2, 9, 2]].
        let x = Tensor::from_slice(&[2, 3], &[1i64, 0, 1, 2, 9, 2]).unwrap();
        let (y, lines) = run(&x, 1, true);
        assert_eq!(y.to_vec::<i64>().unwrap(), [0, 1, 0, 9, 2, 0]);
        assert_eq!(lines, [vec![1, 0, 0], vec![1, 0, 1], vec![1, 2, 0], vec![2]]);
        let x = Tensor::from_slice(&[4], &[f32::NAN, 0.0, -0.0, f32::NAN]).unwrap();
        assert_eq!(run(&x, 0, true).1[1], [1, 0, 0, 1]);
    }
}
