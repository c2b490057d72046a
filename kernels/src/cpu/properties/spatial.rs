//! Sampling, regions, folding, determinants.

use super::products::window;
use super::*;

/// Points in and around an image; those of the nearest pixel keep away from ties.
pub(super) fn grid_sample(d: &Draw) -> Case {
    let dtype = d.dtype(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
    let spatial = d.between(0, 1, 3);
    let mode = d.pick(1, &[SampleMode::Linear, SampleMode::Nearest, SampleMode::Cubic]);
    let outside = d.pick(2, &[Outside::Zeros, Outside::Border, Outside::Reflection]);
    let op = GridSample { mode, outside, align_corners: d.flags[0] };
    let sizes: Vec<usize> = (0..spatial).map(|a| d.between(3 + a, 1, [20, 9, 5][spatial - 1])).collect();
    let batch = d.between(6, 1, 2);
    let points: Vec<usize> = d.other.iter().take(3).map(|n| n % 9 + 1).collect();
    let mut r = d.random();
    let x = r.tensor(dtype, &[&[batch], &sizes[..], &[1 + d.shape[0] % 40]].concat(), 2.0);
    let shape = [&[batch], &points[..], &[spatial]].concat();
    let count: usize = shape.iter().product();
    let at: Vec<f64> = (0..count)
        .map(|i| {
            let size = sizes[spatial - 1 - i % spatial] as f64;
            if mode != SampleMode::Nearest {
                return 1.7 * r.unit();
            }
            // Near the middle of a pixel.
            let pixel = r.below(3 * size as usize) as f64 - size + 0.4 * r.unit();
            if op.align_corners {
                2.0 * pixel / (size - 1.0).max(1.0) - 1.0
            } else {
                (2.0 * pixel + 1.0) / size - 1.0
            }
        })
        .collect();
    // Coordinates of narrow types would stand on ties.
    let points = if mode == SampleMode::Nearest && dtype != DType::F64 { DType::F32 } else { dtype };
    Case::new(op, vec![x, check::tensor_of(points, &shape, &at)])
}

/// Regions in and around two images, of the greatest or of means.
pub(super) fn regions(d: &Draw) -> Case {
    let dtype = d.dtype(&[DType::F32, DType::F32, DType::F64, DType::F16]);
    let (height, width, channels) = (d.between(0, 1, 12), d.between(1, 1, 12), 1 + d.shape[0] % 50);
    let count = d.between(2, 0, 5);
    let mut r = d.random();
    let x = r.tensor(dtype, &[2, height, width, channels], 2.0);
    let mut corners = |whole: bool| -> Vec<f64> {
        (0..4)
            .map(|i| {
                let size = if i % 2 == 0 { width } else { height } as f64;
                let at = size * (r.unit() + 0.3);
                // Whole pixels and the middles between them are far from what rounding would change.
                if whole { (2.0 * at).round() / 2.0 + 0.15 } else { at }
            })
            .collect()
    };
    let scale = d.pick(3, &[1f32, 0.5, 2.0]).to_bits();
    let (bins, bins_across) = (d.between(4, 1, 4), d.between(5, 1, 4));
    if d.flags[0] {
        let rows: Vec<f64> =
            (0..count).flat_map(|i| [vec![(i % 2) as f64], corners(true)].concat()).collect();
        let regions = check::tensor_of(dtype, &[count, 5], &rows);
        return Case::new(RoiMaxPool { height: bins, width: bins_across, scale }, vec![x, regions]);
    }
    let rows: Vec<f64> = (0..count).flat_map(|_| corners(false)).collect();
    let regions = check::tensor_of(dtype, &[count, 4], &rows);
    let places: Vec<i64> = (0..count as i64).map(|i| (i + 1) % 2).collect();
    let places = match d.flags[1] {
        true => Tensor::from_slice(&[count], &places).unwrap(),
        false => {
            check::tensor_of(DType::I32, &[count], &places.iter().map(|i| *i as f64).collect::<Vec<_>>())
        }
    };
    let op = RoiAlign {
        max: d.flags[2],
        height: bins,
        width: bins_across,
        samples: d.between(6, 0, 3),
        scale,
        half_pixel: d.flags[3],
    };
    Case::new(op, vec![x, regions, places])
}

pub(super) fn deform_sample(d: &Draw) -> Case {
    let dtype = d.dtype(&[DType::F32, DType::F32, DType::F64, DType::BF16]);
    let w = window(&Draw { numbers: [1, d.numbers[1], d.numbers[2], d.numbers[3], 4, 2, 6, 7], ..d.clone() });
    let groups = d.between(3, 1, 3);
    let channels = groups * (1 + d.shape[0] % 40);
    let batch = d.between(4, 1, 2);
    let op = DeformSample {
        kernel: w.kernel.clone(),
        strides: w.strides.clone(),
        dilations: w.dilations.clone(),
        padding: w.padding.clone(),
        groups,
        mask: d.flags[0],
    };
    let output: Vec<usize> = (0..2)
        .map(|i| {
            let (begin, end) = w.padding.resolve(i, w.input[i], w.kernel[i], w.strides[i], w.dilations[i]);
            (w.input[i] + begin + end - (w.kernel[i] - 1) * w.dilations[i] - 1) / w.strides[i] + 1
        })
        .collect();
    let mut r = d.random();
    let numbers = groups * w.kernel.iter().product::<usize>();
    let mut inputs = vec![
        r.tensor(dtype, &[&[batch], &w.input[..], &[channels]].concat(), 2.0),
        r.tensor(dtype, &[&[batch], &output[..], &[2 * numbers]].concat(), 2.5),
    ];
    if d.flags[0] {
        inputs.push(r.tensor(dtype, &[&[batch], &output[..], &[numbers]].concat(), 1.0));
    }
    Case::new(op, inputs)
}

pub(super) fn fold(d: &Draw) -> Case {
    let dtype = d.dtype(&[DType::F32, DType::F32, DType::F64, DType::F16]);
    let w = window(d);
    let spatial = w.kernel.len();
    let padding = match w.padding {
        Padding::Explicit { .. } => w.padding,
        _ => Padding::none(spatial),
    };
    let places: usize = (0..spatial)
        .map(|i| {
            let (begin, end) = padding.resolve(i, w.input[i], w.kernel[i], w.strides[i], w.dilations[i]);
            (w.input[i] + begin + end - (w.kernel[i] - 1) * w.dilations[i] - 1) / w.strides[i] + 1
        })
        .product();
    let columns = w.kernel.iter().product::<usize>() * d.between(6, 1, 5);
    let op = Fold {
        image: w.input.iter().map(|n| Dim::from(*n)).collect(),
        block: w.kernel,
        strides: w.strides,
        dilations: w.dilations,
        padding,
    };
    Case::new(op, vec![d.random().tensor(dtype, &[d.between(7, 1, 2), columns, places], 2.0)])
}

pub(super) fn det(d: &Draw) -> Case {
    let dtype = d.dtype(&[DType::F32, DType::F64, DType::BF16]);
    let n = d.between(0, 0, 9);
    let mut shape = d.shape(0, 2, 40);
    shape.extend([n, n]);
    Case::new(Det, vec![d.random().tensor(dtype, &shape, 1.0)])
}
