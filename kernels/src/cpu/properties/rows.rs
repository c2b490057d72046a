//! Norms, softmax, reductions and what else goes along an axis.

use super::*;

pub(super) fn layer_norm(d: &Draw) -> Case {
    let dtype = d.dtype(&STORED);
    let shape = d.shape(1, 4, 4000);
    let axis = d.axis(0, shape.len());
    let op = LayerNorm {
        axis,
        epsilon: Scalar::float(DType::F32, 1e-3),
        rms: d.flags[0],
        scale: d.flags[1],
        bias: d.flags[2],
    };
    let mut r = d.random();
    let mut inputs = vec![r.tensor(dtype, &shape, 2.0)];
    for _ in 0..usize::from(op.scale) + usize::from(op.bias) {
        inputs.push(r.tensor(dtype, &shape[axis..], 1.0));
    }
    Case::new(op, inputs)
}

pub(super) fn group_norm(d: &Draw) -> Case {
    let dtype = d.dtype(&STORED);
    let groups = d.between(0, 1, 4);
    let channels = groups * d.between(1, 1, 20);
    let shape = [d.shape(2, 3, 500), vec![channels]].concat();
    let mut r = d.random();
    let inputs = vec![
        r.tensor(dtype, &shape, 2.0),
        r.tensor(dtype, &[channels], 1.0),
        r.tensor(dtype, &[channels], 1.0),
    ];
    let groups = if d.flags[0] { 0 } else { groups };
    Case::new(GroupNorm { groups, epsilon: Scalar::float(DType::F32, 1e-3) }, inputs)
}

pub(super) fn softmax(d: &Draw) -> Case {
    let shape = d.shape(1, 4, 4000);
    let op = Softmax { axis: d.axis(0, shape.len()), log: d.flags[0] };
    Case::new(op, vec![d.random().tensor(d.dtype(&STORED), &shape, 10.0)])
}

pub(super) fn reduce(d: &Draw) -> Case {
    let op = ReduceOp::ALL[d.numbers[0] % ReduceOp::ALL.len()];
    // Integer forms of those that leave the integers are the host's affair.
    let whole =
        matches!(op, ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min | ReduceOp::Prod | ReduceOp::SumSquare);
    let dtype = if whole && d.flags[1] { d.dtype(&INTEGERS) } else { d.dtype(&STORED) };
    let shape = d.shape(1, 5, 3000);
    let axes = (0..shape.len()).filter(|i| d.numbers[1] >> i & 1 == 1).collect();
    // Products and logarithms of sums want positive values that do not overflow.
    let mut r = d.random();
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| 0.9 + 0.2 * r.unit().abs()).collect();
    let x = if dtype.is_float() && matches!(op, ReduceOp::Prod | ReduceOp::LogSum) {
        check::tensor_of(dtype, &shape, &values)
    } else {
        r.tensor(dtype, &shape, 3.0)
    };
    Case::new(Reduce { op, axes, keep_dims: d.flags[0] }, vec![x])
}

pub(super) fn arg_reduce(d: &Draw) -> Case {
    let shape = d.shape(1, 4, 3000);
    let op =
        ArgReduce { max: d.flags[0], axis: d.axis(0, shape.len()), keep_dims: d.flags[1], last: d.flags[2] };
    // Few different values, so that there are equals.
    let mut r = d.random();
    let values: Vec<f64> = (0..shape.iter().product()).map(|_| r.below(9) as f64).collect();
    Case::new(op, vec![check::tensor_of(d.dtype(&STORED), &shape, &values)])
}

pub(super) fn cumulative(d: &Draw) -> Case {
    let dtype = d.dtype(&[DType::F32, DType::F64, DType::I32, DType::I64]);
    let shape = d.shape(1, 4, 2000);
    let op = Cumulative {
        product: false,
        axis: d.axis(0, shape.len()),
        exclusive: d.flags[0],
        reverse: d.flags[1],
    };
    Case::new(op, vec![d.random().tensor(dtype, &shape, 2.0)])
}

pub(super) fn top_k(d: &Draw) -> Case {
    let dtype = d.dtype(&[DType::F32, DType::F64, DType::I32, DType::I64]);
    let shape = d.shape(1, 4, 2000);
    let axis = d.axis(0, shape.len());
    let k = d.between(1, 1, shape[axis]);
    let x = d.random().tensor(dtype, &shape, 9.0);
    Case::new(TopK { axis, largest: d.flags[0], k: Dim::from(k) }, vec![x])
}
