use super::*;
use engraft_network::ops::{Cumulative, Range, ShapeTensor, Trilu};

const NUMBERS: [DType; 12] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::BF16,
    DType::I8,
    DType::U8,
    DType::I16,
    DType::U16,
    DType::I32,
    DType::U32,
    DType::I64,
    DType::U64,
];

#[test]
fn ranges() {
    let r = &mut Random(21);
    for dtype in NUMBERS {
        for len in [0, 1, 7, 1000, 50_000] {
            let (start, delta) = (r.tensor(dtype, &[], 20.0), r.tensor(dtype, &[], 5.0));
            if dtype == DType::F16 && len > 1000 {
                continue;
            }
            // Halves are rounded from `f64` by way of `f32` here, at once by the reference.
            let half = matches!(dtype, DType::F16 | DType::BF16);
            let tolerance = if half { Tolerance { absolute: 0.0, relative: 1e-9 } } else { EXACT };
            check_within(Range { len: Dim::from(len) }, &[start, delta], tolerance, r);
        }
    }
}

#[test]
fn shape_tensors() {
    let r = &mut Random(22);
    for dtype in [DType::I8, DType::U8, DType::I32, DType::U32, DType::I64, DType::U64] {
        let dims = [-3, 0, 7, 100].map(Dim::Fixed).to_vec();
        let dims = if dtype.is_unsigned_int() { dims[1..].to_vec() } else { dims };
        check(ShapeTensor { dims, scalar: false, dtype }, &[], r);
        check(ShapeTensor { dims: vec![Dim::Fixed(42)], scalar: true, dtype }, &[], r);
        check(ShapeTensor { dims: vec![], scalar: false, dtype }, &[], r);
    }
}

#[test]
fn triangles() {
    let r = &mut Random(23);
    for round in 0..120 {
        let x = any(r.pick(&DTYPES), &shape(2..=4, r), r);
        let k = match round % 20 {
            0 => i64::MAX,
            1 => i64::MIN,
            _ => r.below(20) as i64 - 10,
        };
        check(Trilu { upper: r.chance(50), k: Dim::Fixed(k) }, &[x], r);
    }
}

#[test]
fn running_sums() {
    let r = &mut Random(24);
    for _ in 0..120 {
        let from = shape(1..=4, r);
        let dtype = r.pick(&NUMBERS);
        let x = r.tensor(dtype, &from, 2.0);
        let op = Cumulative {
            product: r.chance(30),
            axis: r.below(from.len()),
            exclusive: r.chance(50),
            reverse: r.chance(50),
        };
        check_within(op, &[x], Tolerance { absolute: 1e-12, relative: 1e-6 }, r);
    }
}
