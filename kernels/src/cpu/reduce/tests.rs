use super::*;
use crate::cpu::check::{Random, Tolerance, check, tensor_of};
use engraft_network::ops::{ArgReduce, Reduce};
use engraft_network::{DType, Tensor};

/// For every element of a tensor of `shape`: the index of its result.
fn targets(shape: &[usize], axes: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let kept: Vec<usize> =
        shape.iter().enumerate().map(|(i, &d)| if axes.contains(&i) { 1 } else { d }).collect();
    let map = (0..shape.iter().product())
        .map(|mut i: usize| {
            let (mut at, mut step) = (0, 1);
            for axis in (0..shape.len()).rev() {
                let index = i % shape[axis];
                i /= shape[axis];
                if kept[axis] != 1 {
                    at += index * step;
                }
                step *= kept[axis];
            }
            at
        })
        .collect();
    (kept, map)
}

fn expected(x: &Tensor, op: &Reduce) -> Tensor {
    let (kept, map) = targets(x.shape(), &op.axes);
    let outputs: usize = kept.iter().product();
    let mut groups = vec![Vec::new(); outputs];
    for (i, &at) in map.iter().enumerate() {
        groups[at].push(x.get_f64(i));
    }
    let sum = |v: &[f64], f: fn(f64) -> f64| v.iter().map(|&x| f(x)).sum::<f64>();
    let values: Vec<f64> = groups
        .iter()
        .map(|v| match op.op {
            ReduceOp::Sum => sum(v, |x| x),
            ReduceOp::Mean => sum(v, |x| x) / v.len() as f64,
            ReduceOp::Max => v.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ReduceOp::Min => v.iter().copied().fold(f64::INFINITY, f64::min),
            ReduceOp::Prod => v.iter().product(),
            ReduceOp::L1 => sum(v, f64::abs),
            ReduceOp::L2 => sum(v, |x| x * x).sqrt(),
            ReduceOp::LogSum => sum(v, |x| x).ln(),
            ReduceOp::LogSumExp => sum(v, f64::exp).ln(),
            ReduceOp::SumSquare => sum(v, |x| x * x),
        })
        .collect();
    let shape: Vec<usize> = if op.keep_dims {
        kept
    } else {
        (0..x.shape().len()).filter(|i| !op.axes.contains(i)).map(|i| x.shape()[i]).collect()
    };
    tensor_of(x.dtype(), &shape, &values)
}

fn random_op(r: &mut Random, op: ReduceOp, rank: usize) -> Reduce {
    let axes = (0..rank).filter(|_| r.chance(50)).collect();
    Reduce { op, axes, keep_dims: r.chance(50) }
}

fn random_shape(r: &mut Random, limit: usize) -> Vec<usize> {
    let mut shape: Vec<usize> = (0..r.below(5)).map(|_| r.pick(&[1, 2, 3, 8, 17, 33, 70])).collect();
    while shape.iter().product::<usize>() > limit {
        shape.pop();
    }
    shape
}

#[test]
fn float_reductions_agree_with_the_definition() {
    let mut r = Random(31);
    let tolerance = Tolerance { absolute: 1e-6, relative: 4e-6 };
    for &op in ReduceOp::ALL {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for _ in 0..12 {
                let shape = random_shape(&mut r, 20_000);
                let reduce = random_op(&mut r, op, shape.len());
                // Logarithms of sums want positive sums; products must not overflow.
                let values: Vec<f64> = (0..shape.iter().product())
                    .map(|_| match op {
                        ReduceOp::LogSum => r.unit().abs() + 0.1,
                        ReduceOp::Prod => {
                            if r.chance(2) {
                                -1.25
                            } else {
                                1.0
                            }
                        }
                        _ => r.unit(),
                    })
                    .collect();
                let x = tensor_of(dtype, &shape, &values);
                let y = expected(&x, &reduce);
                check(&ReduceTactic, &Op::Reduce(reduce), &[x], &[], &[y], tolerance, &mut r);
            }
        }
    }
}

#[test]
fn large_reductions_split_and_combine() {
    let mut r = Random(32);
    let tolerance = Tolerance { absolute: 1e-6, relative: 4e-6 };
    for &op in ReduceOp::ALL {
        for (shape, axes) in
            [(vec![300_000], vec![0]), (vec![1, 150, 160, 16], vec![1, 2]), (vec![2, 70_000], vec![1])]
        {
            let values: Vec<f64> = (0..shape.iter().product())
                .map(|_| if op == ReduceOp::Prod { 1.0 } else { r.unit().abs() })
                .collect();
            let x = tensor_of(DType::F32, &shape, &values);
            let reduce = Reduce { op, axes, keep_dims: true };
            let y = expected(&x, &reduce);
            check(&ReduceTactic, &Op::Reduce(reduce), &[x], &[], &[y], tolerance, &mut r);
        }
    }
}

#[test]
fn nan_and_nothing_follow_the_definition() {
    let mut r = Random(33);
    let exact = Tolerance { absolute: 0.0, relative: 0.0 };
    let x = Tensor::from_slice(&[2, 3], &[1.0, f32::NAN, 3.0, 4.0, 5.0, 6.0]).unwrap();
    let y = Tensor::from_slice(&[2], &[f32::NAN, 6.0]).unwrap();
    let op = Op::Reduce(Reduce { op: ReduceOp::Max, axes: vec![1], keep_dims: false });
    check(&ReduceTactic, &op, &[x], &[], &[y], exact, &mut r);
    let inf = f32::INFINITY;
    let values = [
        (ReduceOp::Sum, 0.0),
        (ReduceOp::Prod, 1.0),
        (ReduceOp::Max, -inf),
        (ReduceOp::Min, inf),
        (ReduceOp::Mean, f32::NAN),
    ];
    for (op, value) in values {
        for (shape, axes) in [(vec![2, 0], vec![1]), (vec![0, 2], vec![0])] {
            let x = Tensor::zeros(DType::F32, &shape).unwrap();
            let y = Tensor::from_slice(&[2], &[value; 2]).unwrap();
            let op = Op::Reduce(Reduce { op, axes, keep_dims: false });
            check(&ReduceTactic, &op, &[x], &[], &[y], exact, &mut r);
        }
    }
}

#[test]
fn wide_reductions_are_exact() {
    let mut r = Random(34);
    let tolerance = Tolerance { absolute: 1e-12, relative: 1e-12 };
    let types = [
        DType::F64,
        DType::I8,
        DType::U8,
        DType::I16,
        DType::U16,
        DType::I32,
        DType::U32,
        DType::I64,
        DType::U64,
    ];
    for dtype in types {
        for op in
            [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Max, ReduceOp::Min, ReduceOp::L1, ReduceOp::SumSquare]
        {
            for _ in 0..4 {
                // Small sums: no reference needs to wrap.
                let shape = random_shape(&mut r, 120);
                let reduce = random_op(&mut r, op, shape.len());
                let values: Vec<f64> = (0..shape.iter().product())
                    .map(|_| if op == ReduceOp::Prod { 1.0 } else { r.below(2) as f64 })
                    .collect();
                let x = tensor_of(dtype, &shape, &values);
                let y = expected(&x, &reduce);
                check(&WideReduceTactic, &Op::Reduce(reduce), &[x], &[], &[y], tolerance, &mut r);
            }
        }
    }
    let x = Tensor::from_slice(&[3], &[i32::MAX, 1, -7]).unwrap();
    let y = Tensor::from_slice(&[1], &[i32::MAX.wrapping_add(1).wrapping_sub(7)]).unwrap();
    let op = Op::Reduce(Reduce { op: ReduceOp::Sum, axes: vec![0], keep_dims: true });
    check(&WideReduceTactic, &op, &[x], &[], &[y], tolerance, &mut r);
}

#[test]
fn arg_reductions_agree_with_the_definition() {
    let mut r = Random(35);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for _ in 0..60 {
            let mut shape = random_shape(&mut r, 5_000);
            if shape.is_empty() {
                shape.push(1 + r.below(100));
            }
            let axis = r.below(shape.len());
            let op = ArgReduce { max: r.chance(50), axis, keep_dims: r.chance(50), last: r.chance(50) };
            // Few distinct values: many ties.
            let values: Vec<f64> = (0..shape.iter().product()).map(|_| r.below(9) as f64).collect();
            let x = tensor_of(dtype, &shape, &values);
            let (kept, map) = targets(&shape, &[axis]);
            let inner: usize = shape[axis + 1..].iter().product();
            let mut best: Vec<Option<(f64, i64)>> = vec![None; kept.iter().product()];
            for (i, &at) in map.iter().enumerate() {
                let (v, index) = (values[i], (i / inner % shape[axis]) as i64);
                let better = best[at].is_none_or(|(b, _)| if op.max { v > b } else { v < b });
                if better || op.last && best[at].is_some_and(|(b, _)| b == v) {
                    best[at] = Some((v, index));
                }
            }
            let indices: Vec<i64> = best.iter().map(|b| b.unwrap().1).collect();
            let out: Vec<usize> = if op.keep_dims {
                kept
            } else {
                (0..shape.len()).filter(|&i| i != axis).map(|i| shape[i]).collect()
            };
            let y = Tensor::from_slice(&out, &indices).unwrap();
            let exact = Tolerance { absolute: 0.0, relative: 0.0 };
            check(&ArgReduceTactic, &Op::ArgReduce(op), &[x], &[], &[y], exact, &mut r);
        }
    }
}
