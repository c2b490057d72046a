use super::*;
use engraft_network::ops::{CoordinateMode, NearestMode, Resize, ResizeMode};

/// A random resize of a random tensor of shape `from`.
fn random_resize(mode: ResizeMode, from: &[usize], r: &mut Random) -> Resize {
    let rank = from.len();
    let sizes: Vec<usize> =
        from.iter().map(|d| if r.chance(50) { *d } else { 1 + r.below(2 * d + 3) }).collect();
    let roi = std::array::from_fn(|i| match i {
        i if i < rank => (0.4 * r.unit().abs() as f32 - 0.1).to_bits(),
        i if i < 2 * rank => (0.6 + 0.5 * r.unit().abs() as f32).to_bits(),
        _ => 0,
    });
    let mut coordinates = vec![
        CoordinateMode::HalfPixel,
        CoordinateMode::HalfPixelSymmetric,
        CoordinateMode::PytorchHalfPixel,
        CoordinateMode::AlignCorners,
        CoordinateMode::Asymmetric,
    ];
    if rank <= 4 {
        coordinates.push(CoordinateMode::TfCropAndResize { roi });
    }
    // Scales as models give them, from which the sizes are rounded down.
    let given = r.chance(30);
    let scales: Option<Vec<f32>> = given.then(|| {
        from.iter()
            .zip(&sizes)
            .map(|(d, s)| if d == s { 1.0 } else { (*s as f32 + 0.3) / *d as f32 })
            .collect()
    });
    let interpolates = !matches!(mode, ResizeMode::Nearest(_));
    Resize {
        mode,
        coordinates: r.pick(&coordinates),
        sizes: dims(&sizes),
        scales: scales.map(|s| s.into_iter().map(f32::to_bits).collect()),
        exclude_outside: matches!(mode, ResizeMode::Cubic { .. }) && r.chance(30),
        antialias: interpolates && r.chance(30),
        extrapolation: 7.5f32.to_bits(),
    }
}

fn filled(r: &mut Random) -> Vec<usize> {
    let rank = 1 + r.below(5);
    (0..rank).map(|_| 1 + r.below(9)).collect()
}

#[test]
fn nearest_neighbours() {
    let r = &mut Random(31);
    let modes =
        [NearestMode::RoundPreferFloor, NearestMode::RoundPreferCeil, NearestMode::Floor, NearestMode::Ceil];
    let dtypes = [DType::F32, DType::U8, DType::F16, DType::I64, DType::I16, DType::F64];
    for _ in 0..100 {
        let mut from = filled(r);
        if r.chance(30) {
            *from.last_mut().unwrap() = 1 + r.below(70);
        }
        let op = random_resize(ResizeMode::Nearest(r.pick(&modes)), &from, r);
        let dtype = r.pick(&dtypes);
        check(op, &[r.tensor(dtype, &from, 100.0)], r);
    }
}

#[test]
fn interpolations() {
    let r = &mut Random(32);
    for _ in 0..100 {
        let mut from = filled(r);
        if r.chance(30) {
            *from.last_mut().unwrap() = 1 + r.below(70);
        }
        let coefficient = (-0.5f32).to_bits();
        let mode = if r.chance(50) { ResizeMode::Linear } else { ResizeMode::Cubic { coefficient } };
        let op = random_resize(mode, &from, r);
        let x = r.tensor(DType::F32, &from, 10.0);
        let expected = Op::from(op.clone()).eval(std::slice::from_ref(&x), &[]).unwrap();
        // A filter without weights inside (all excluded) divides nothing by nothing.
        if (0..expected[0].count()).any(|i| expected[0].get_f64(i).is_nan()) {
            continue;
        }
        check_within(op, &[x], Tolerance { absolute: 1e-6, relative: 3e-6 }, r);
    }
}

#[test]
fn large_images_in_many_tasks() {
    let r = &mut Random(33);
    for from in [[1, 40, 50, 16], [2, 3, 60, 70], [1, 128, 9, 5]] {
        let mut to = from;
        let axis = if from[3] == 16 { 1 } else { 2 };
        (to[axis], to[axis + 1]) = (2 * from[axis], 2 * from[axis + 1]);
        for mode in [ResizeMode::Linear, ResizeMode::Nearest(NearestMode::Floor)] {
            let op = Resize {
                mode,
                coordinates: CoordinateMode::Asymmetric,
                sizes: dims(&to),
                scales: None,
                exclude_outside: false,
                antialias: false,
                extrapolation: 0,
            };
            let tolerance = Tolerance { absolute: 1e-6, relative: 3e-6 };
            check_within(op, &[r.tensor(DType::F32, &from, 10.0)], tolerance, r);
        }
    }
}
