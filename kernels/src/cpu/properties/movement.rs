//! Views, copies, gathers, scatters, resizing.

use super::*;

/// An integer type of the same width.
fn bits_of(dtype: DType) -> DType {
    match dtype.bits() {
        8 => DType::U8,
        16 => DType::I16,
        32 => DType::U32,
        _ => DType::U64,
    }
}

pub(super) fn moved(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let shape = d.shape(1, 5, 2000);
    let rank = shape.len();
    let mut r = d.random();
    let x = r.tensor(dtype, &shape, 50.0);
    let dims = |list: &[usize]| list.iter().map(|n| Dim::from(*n)).collect::<Vec<Dim>>();
    let amounts: Vec<usize> = (0..rank).map(|i| d.numbers[i] % 3).collect();
    let axis = d.axis(5, rank);
    match d.numbers[6] % 9 {
        8 => Case::new(BitCast { to: bits_of(dtype) }, vec![x]),
        0 => Case::new(Transpose { perm: d.permutation(rank) }, vec![x]),
        1 => {
            let small = r.tensor(dtype, &d.broadcast(0, &shape), 50.0);
            Case::new(Expand { shape: dims(&shape) }, vec![small])
        }
        2 => {
            let mut other = shape.clone();
            other[axis] = d.between(0, 1, 9);
            let y = r.tensor(dtype, &other, 50.0);
            Case::new(Concat { axis }, if d.flags[0] { vec![x, y] } else { vec![y, x.clone(), x] })
        }
        3 => {
            let step = d.pick(0, &[1i64, 1, 2, -1, -3]);
            let steps = step.unsigned_abs() as usize;
            let len = (shape[axis] - 1) / steps + 1;
            let start = if step > 0 { 0 } else { shape[axis] as i64 - 1 };
            let range = SliceRange { axis, start: Dim::Fixed(start), len: Dim::from(len), step };
            Case::new(Slice { ranges: vec![range] }, vec![x])
        }
        4 => {
            let mode = d.pick(7, &[PadMode::Constant, PadMode::Edge, PadMode::Reflect, PadMode::Wrap]);
            let most = |i: usize| if mode == PadMode::Constant { 9 } else { shape[i] - 1 };
            let before: Vec<usize> = (0..rank).map(|i| amounts[i].min(most(i))).collect();
            let after: Vec<usize> = (0..rank).map(|i| (d.numbers[i] / 3 % 3).min(most(i))).collect();
            let mut inputs = vec![x];
            if mode == PadMode::Constant {
                inputs.push(r.tensor(dtype, &[], 9.0));
            }
            Case::new(Pad { mode, before: dims(&before), after: dims(&after) }, inputs)
        }
        5 => {
            let repeats: Vec<usize> = amounts.iter().map(|n| n % 2 + 1).collect();
            Case::new(Tile { repeats: dims(&repeats) }, vec![x])
        }
        6 if rank >= 2 => {
            let k = Dim::Fixed(d.numbers[0] as i64 % 7 - 3);
            Case::new(Trilu { upper: d.flags[0], k }, vec![x])
        }
        _ => {
            let scalar = |x: f64| check::tensor_of(DType::I64, &[], &[x]);
            Case::new(Range { len: Dim::from(d.between(0, 1, 90)) }, vec![scalar(5.0), scalar(-2.0)])
        }
    }
}

/// Indices of `shape` into an axis of `size`, some of them from the end.
fn indices(r: &mut Random, shape: &[usize], size: usize) -> Tensor {
    let count = shape.iter().product();
    let values: Vec<i64> =
        (0..count).map(|_| r.below(size) as i64 - if r.chance(30) { size as i64 } else { 0 }).collect();
    Tensor::from_slice(shape, &values).unwrap()
}

pub(super) fn indexed(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let shape = d.shape(1, 4, 1500);
    let rank = shape.len();
    let axis = d.axis(0, rank);
    let mut r = d.random();
    let x = r.tensor(dtype, &shape, 50.0);
    let few: Vec<usize> = d.other.iter().take(d.between(1, 1, 2)).map(|n| n % 6 + 1).collect();
    match d.numbers[6] % 6 {
        0 => Case::new(Gather { axis }, vec![x, indices(&mut r, &few, shape[axis])]),
        1 => {
            let mut own = shape.clone();
            own[axis] = d.between(2, 1, 9);
            Case::new(GatherElements { axis }, vec![x, indices(&mut r, &own, shape[axis])])
        }
        2 => {
            // One tuple element: any depth of nesting below it.
            let at = indices(&mut r, &[&few[..], &[1]].concat(), shape[0]);
            Case::new(GatherNd { batch_dims: 0 }, vec![x, at])
        }
        3 => {
            // Without a reduction places must not repeat: what wins is not said.
            let mut own = shape.clone();
            own[axis] = shape[axis].min(d.between(2, 1, 9));
            let count: usize = own.iter().product();
            let after: usize = own[axis + 1..].iter().product();
            let places: Vec<i64> = (0..count).map(|i| (i / after % own[axis]) as i64).collect();
            let at = Tensor::from_slice(&own, &places).unwrap();
            let updates = r.tensor(dtype, &own, 50.0);
            Case::new(ScatterElements { axis, reduction: ScatterReduction::None }, vec![x, at, updates])
        }
        4 => {
            let reductions = [ScatterReduction::Add, ScatterReduction::Max, ScatterReduction::Min];
            let reduction = d.pick(3, &reductions);
            let dtype = d.dtype(&[DType::F32, DType::I32, DType::I64]);
            let x = r.tensor(dtype, &shape, 50.0);
            let at = indices(&mut r, &[few[0], 1], shape[0]);
            let updates = r.tensor(dtype, &[&[few[0]], &shape[1..]].concat(), 50.0);
            Case::new(ScatterNd { reduction }, vec![x, at, updates])
        }
        _ => {
            let depth = d.between(2, 1, 9);
            let at = indices(&mut r, &few, depth);
            let axis = d.axis(4, few.len() + 1);
            Case::new(OneHot { axis, depth: Dim::from(depth) }, vec![at, r.tensor(dtype, &[2], 9.0)])
        }
    }
}

pub(super) fn resize(d: &Draw) -> Case {
    let shape = [d.shape(2, 3, 400), vec![d.between(0, 1, 20)]].concat();
    let rank = shape.len();
    let resized = |i: usize| i > 0 && i + 1 < rank;
    let sizes: Vec<usize> =
        (0..rank).map(|i| if resized(i) { d.between(i, 1, 3 * shape[i]) } else { shape[i] }).collect();
    let nearest =
        [NearestMode::RoundPreferFloor, NearestMode::RoundPreferCeil, NearestMode::Floor, NearestMode::Ceil];
    let mode = match d.numbers[5] % 3 {
        0 => ResizeMode::Nearest(d.pick(6, &nearest)),
        1 => ResizeMode::Linear,
        _ => ResizeMode::Cubic { coefficient: (-0.75f32).to_bits() },
    };
    let dtype = if matches!(mode, ResizeMode::Nearest(_)) { d.dtype(&ANY[..8]) } else { d.dtype(&STORED) };
    let coordinates = d.pick(
        7,
        &[
            CoordinateMode::HalfPixel,
            CoordinateMode::PytorchHalfPixel,
            CoordinateMode::AlignCorners,
            CoordinateMode::Asymmetric,
        ],
    );
    let op = Resize {
        mode,
        coordinates,
        sizes: sizes.iter().map(|n| Dim::from(*n)).collect(),
        scales: None,
        exclude_outside: matches!(mode, ResizeMode::Cubic { .. }) && d.flags[0],
        antialias: !matches!(mode, ResizeMode::Nearest(_)) && d.flags[1],
        extrapolation: 0,
    };
    Case::new(op, vec![d.random().tensor(dtype, &shape, 9.0)])
}

pub(super) fn shape_tensor(d: &Draw) -> Case {
    let dims: Vec<Dim> = d.other.iter().map(|n| Dim::from(*n)).collect();
    Case::new(ShapeTensor { dims, scalar: false, dtype: DType::I64 }, Vec::new())
}
