//! What selects: boxes, and different slices.

use super::*;

/// Boxes of a small grid with few different scores: ties, equal boxes and overlaps of exactly the threshold.
pub(super) fn suppression(d: &Draw) -> Case {
    let (batches, classes, count) = (d.between(0, 1, 2), d.between(1, 1, 5), d.between(2, 1, 150));
    let mut r = d.random();
    let mut whole = |shape: &[usize], values: usize, step: f64| {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| r.below(values) as f64 * step).collect();
        check::tensor_of(DType::F32, shape, &values)
    };
    let boxes = whole(&[batches, count, 4], 9, 0.125);
    let scores = whole(&[batches, classes, count], 40, 0.05);
    let scalar = |x: f64| check::tensor_of(DType::F32, &[], &[x]);
    let mut inputs = vec![boxes, scores, scalar(d.pick(3, &[0.0, 0.25, 0.5, 1.0]))];
    if d.flags[0] {
        inputs.push(scalar(d.pick(4, &[-1.0, 0.5, 1.0, 9.0])));
    }
    let limit = Dim::from(d.pick(5, &[0, 1, 7, 40, 1000]));
    Case::new(NonMaxSuppression { center_point_box: d.flags[1], score_threshold: d.flags[0], limit }, inputs)
}

pub(super) fn unique(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let shape = d.shape(1, 4, 400);
    let mut r = d.random();
    let values: Vec<f64> =
        (0..shape.iter().product()).map(|_| r.below(d.between(1, 1, 30)) as f64 - 1.0).collect();
    let axis = d.axis(0, shape.len());
    Case::new(Unique { axis, sorted: d.flags[0] }, vec![check::tensor_of(dtype, &shape, &values)])
}
