use super::*;
use crate::{Args, KernelError, Tactic};
use engraft_network::ops::{
    Gather, GatherElements, GatherNd, OneHot, ScatterElements, ScatterNd, ScatterReduction, TopK,
};

const REDUCTIONS: [ScatterReduction; 5] = [
    ScatterReduction::None,
    ScatterReduction::Add,
    ScatterReduction::Mul,
    ScatterReduction::Max,
    ScatterReduction::Min,
];

/// Types that can be combined.
const NUMBERS: [DType; 8] =
    [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I64, DType::U8, DType::I16, DType::U32];

/// Indices into an axis of `size`, also from its end.
fn indices(size: usize, shape: &[usize], r: &mut Random) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<i64> = (0..count).map(|_| r.below(2 * size) as i64 - size as i64).collect();
    match r.chance(50) {
        true => Tensor::from_slice(shape, &values),
        false => Tensor::from_slice(shape, &values.iter().map(|i| *i as i32).collect::<Vec<_>>()),
    }
    .unwrap()
}

/// A shape without empty axes.
fn filled(rank: std::ops::RangeInclusive<usize>, r: &mut Random) -> Vec<usize> {
    shape(rank, r).into_iter().map(|d| d.max(1)).collect()
}

#[test]
fn gathers() {
    let r = &mut Random(11);
    for _ in 0..120 {
        let from = filled(1..=4, r);
        let axis = r.below(from.len());
        let x = any(r.pick(&DTYPES), &from, r);
        let chosen: Vec<usize> = (0..r.below(3)).map(|_| r.below(8)).collect();
        check(Gather { axis }, &[x, indices(from[axis], &chosen, r)], r);
    }
}

#[test]
fn large_gathers() {
    let r = &mut Random(12);
    let x = any(DType::F32, &[500, 257], r);
    check(Gather { axis: 0 }, &[x.clone(), indices(500, &[3, 100], r)], r);
    check(Gather { axis: 1 }, &[x, indices(257, &[300], r)], r);
}

#[test]
fn elements_are_gathered() {
    let r = &mut Random(13);
    for _ in 0..120 {
        let from = filled(1..=4, r);
        let axis = r.below(from.len());
        let mut to: Vec<usize> = from.iter().map(|d| 1 + r.below(*d)).collect();
        to[axis] = r.below(10);
        let x = any(r.pick(&DTYPES), &from, r);
        check(GatherElements { axis }, &[x, indices(from[axis], &to, r)], r);
    }
}

/// Index tuples for the axes `sizes`, of shape `[rows.., sizes.len()]`.
fn tuples(rows: &[usize], sizes: &[usize], r: &mut Random) -> Tensor {
    let count: usize = rows.iter().product();
    let mut values = Vec::new();
    for _ in 0..count {
        values.extend(sizes.iter().map(|size| r.below(2 * size) as i64 - *size as i64));
    }
    let shape: Vec<usize> = rows.iter().copied().chain([sizes.len()]).collect();
    Tensor::from_slice(&shape, &values).unwrap()
}

#[test]
fn tuples_gather() {
    let r = &mut Random(14);
    for _ in 0..120 {
        let from = filled(1..=5, r);
        let batch_dims = r.below(from.len());
        let k = 1 + r.below(from.len() - batch_dims);
        let rows: Vec<usize> =
            from[..batch_dims].iter().copied().chain((0..r.below(3)).map(|_| r.below(6))).collect();
        let i = tuples(&rows, &from[batch_dims..batch_dims + k], r);
        check(GatherNd { batch_dims }, &[any(r.pick(&DTYPES), &from, r), i], r);
    }
}

/// Results of arithmetic on floats may differ in rounding, since the reference accumulates in `f64`.
fn tolerance(reduction: ScatterReduction) -> Tolerance {
    match reduction {
        ScatterReduction::Add | ScatterReduction::Mul => Tolerance { absolute: 1e-9, relative: 1e-2 },
        _ => EXACT,
    }
}

/// An operand and a reduction that goes with its type. Sums and products are of numbers of which rounding is the same in
/// every width: small integers.
fn operand(shape: &[usize], reduction: ScatterReduction, dtype: DType, r: &mut Random) -> Tensor {
    match reduction {
        ScatterReduction::None => any(dtype, shape, r),
        _ => r.tensor(dtype, shape, 3.0),
    }
}

#[test]
fn elements_are_scattered() {
    let r = &mut Random(15);
    for _ in 0..150 {
        let to = filled(1..=4, r);
        let axis = r.below(to.len());
        let mut from: Vec<usize> = to.iter().map(|d| 1 + r.below(*d)).collect();
        from[axis] = r.below(6);
        let reduction = r.pick(&REDUCTIONS);
        let dtype = if reduction == ScatterReduction::None { r.pick(&DTYPES) } else { r.pick(&NUMBERS) };
        let inputs = [
            operand(&to, reduction, dtype, r),
            indices(to[axis], &from, r),
            operand(&from, reduction, dtype, r),
        ];
        check_within(ScatterElements { axis, reduction }, &inputs, tolerance(reduction), r);
    }
}

#[test]
fn large_scatters_in_many_tasks() {
    let r = &mut Random(16);
    let (to, from) = ([40, 60, 70], [40, 30, 70]);
    let inputs = [any(DType::F32, &to, r), indices(60, &from, r), any(DType::F32, &from, r)];
    check(ScatterElements { axis: 1, reduction: ScatterReduction::None }, &inputs, r);
}

#[test]
fn tuples_scatter() {
    let r = &mut Random(17);
    for _ in 0..120 {
        let to = filled(1..=5, r);
        let k = 1 + r.below(to.len());
        let rows: Vec<usize> = (0..r.below(3)).map(|_| r.below(6)).collect();
        let reduction = r.pick(&REDUCTIONS);
        let dtype = if reduction == ScatterReduction::None { r.pick(&DTYPES) } else { r.pick(&NUMBERS) };
        let updates: Vec<usize> = rows.iter().chain(&to[k..]).copied().collect();
        let inputs = [
            operand(&to, reduction, dtype, r),
            tuples(&rows, &to[..k], r),
            operand(&updates, reduction, dtype, r),
        ];
        check_within(ScatterNd { reduction }, &inputs, tolerance(reduction), r);
    }
}

#[test]
fn an_index_out_of_range_is_an_error() {
    let op = Op::from(Gather { axis: 0 });
    for bad in [3i64, -4, i64::MIN, i64::MAX] {
        let desc = |dtype, shape: &[usize]| Operand { desc: TensorDesc::dense(dtype, shape), constant: None };
        let inputs = [desc(DType::F32, &[3, 2]), desc(DType::I64, &[2])];
        let outputs = [TensorDesc::dense(DType::F32, &[2, 2])];
        let p = Problem {
            op: &op,
            inputs: &inputs,
            outputs: &outputs,
            threads: 1,
            isa: Isa::best(),
            precision: crate::Precision::Fp32,
            env: &[],
        };
        let kernel = super::super::gather::Gathers.prepare(&p);
        let (x, i, mut out) = ([0f32; 6], [1, bad], [0f32; 4]);
        let (inputs, outputs) = ([x.as_ptr().cast(), i.as_ptr().cast()], [out.as_mut_ptr().cast()]);
        let null = std::ptr::null_mut();
        let args = Args { inputs: &inputs, outputs: &outputs, scratch: null, workspace: null };
        // SAFETY: memory of the problem's sizes.
        let result = unsafe { kernel.run(0, 0, &args) };
        assert_eq!(result, Err(KernelError::Index { index: bad, size: 3 }));
    }
}

#[test]
fn one_hots() {
    let r = &mut Random(18);
    for _ in 0..100 {
        let from = shape(0..=3, r);
        let axis = r.below(from.len() + 1);
        let depth = r.below(9);
        // Some are out of range, which switches nothing on.
        let i = indices(depth + 2, &from, r);
        let values = any(r.pick(&DTYPES), &[2], r);
        check(OneHot { axis, depth: Dim::from(depth) }, &[i, values], r);
    }
}

#[test]
fn selections() {
    let r = &mut Random(19);
    for round in 0..120 {
        let mut from = shape(1..=4, r);
        let axis = r.below(from.len());
        if round % 10 == 0 {
            from = vec![1 + r.below(2000)];
        }
        let axis = axis.min(from.len() - 1);
        let k = r.below(from[axis] + 1);
        let dtype = r.pick(&NUMBERS);
        // Few distinct values make ties; random bits make NaN, infinities and both zeros.
        let x = if r.chance(50) { r.tensor(dtype, &from, 3.0) } else { any(dtype, &from, r) };
        check(TopK { axis, largest: r.chance(50), k: Dim::from(k) }, &[x], r);
    }
    let special = [0.0f32, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN, 1.0, -1.0, 0.0, -0.0];
    let x = Tensor::from_slice(&[10], &special).unwrap();
    for largest in [true, false] {
        check(TopK { axis: 0, largest, k: Dim::from(10usize) }, std::slice::from_ref(&x), r);
    }
}
