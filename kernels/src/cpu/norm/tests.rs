use super::*;
use crate::cpu::check::{Random, Tolerance, check, tensor_of};
use engraft_network::ops::{GroupNorm, LayerNorm};
use engraft_network::{DType, Op, Scalar, Tensor};

const CLOSE: Tolerance = Tolerance { absolute: 2e-5, relative: 2e-6 };

fn moments(values: &[f64], rms: bool) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = if rms { 0.0 } else { values.iter().sum::<f64>() / n };
    (mean, values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n)
}

#[test]
fn layer_norm_agrees_with_the_definition() {
    let mut r = Random(21);
    let mut accepted = 0;
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for case in 0..40 {
            let rank = 1 + r.below(4);
            let shape: Vec<usize> = (0..rank).map(|_| r.pick(&[1, 2, 3, 9, 16, 40, 97])).collect();
            let axis = r.below(rank);
            if shape.iter().product::<usize>() > 20_000 {
                continue;
            }
            let row = &shape[axis..];
            let n: usize = row.iter().product();
            let offset = if case % 4 == 0 && dtype == DType::F32 { 30.0 } else { 0.0 };
            let values: Vec<f64> = (0..shape.iter().product()).map(|_| r.unit() * 3.0 + offset).collect();
            let x = tensor_of(dtype, &shape, &values);
            let op = LayerNorm {
                axis,
                epsilon: Scalar::f32(1e-5),
                rms: r.chance(30),
                scale: r.chance(70),
                bias: r.chance(60),
            };
            let mut inputs = vec![x.clone()];
            let mut parameter = |present: bool, absent: f64| -> Vec<f64> {
                if !present {
                    return vec![absent; n];
                }
                let scalar = r.chance(20);
                let t = r.tensor(dtype, if scalar { &[] } else { row }, 1.0);
                let v = (0..n).map(|i| t.get_f64(if scalar { 0 } else { i })).collect();
                inputs.push(t);
                v
            };
            let (scale, bias) = (parameter(op.scale, 1.0), parameter(op.bias, 0.0));
            let mut y = Vec::new();
            for start in (0..x.count()).step_by(n) {
                let line: Vec<f64> = (start..start + n).map(|i| x.get_f64(i)).collect();
                let (mean, variance) = moments(&line, op.rms);
                y.extend((0..n).map(|i| (line[i] - mean) / (variance + 1e-5).sqrt() * scale[i] + bias[i]));
            }
            let y = tensor_of(dtype, &shape, &y);
            accepted += check(&LayerNormTactic, &Op::LayerNorm(op), &inputs, &[], &[y], CLOSE, &mut r);
        }
    }
    assert!(accepted > 300);
}

#[test]
fn group_norm_agrees_with_the_definition() {
    let mut r = Random(22);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for case in 0..40 {
            let groups = r.pick(&[1, 2, 3, 4]);
            let channels = groups * r.pick(&[1, 2, 5, 8, 20]);
            let spatial: Vec<usize> = (0..r.below(3)).map(|_| 1 + r.below(12)).collect();
            let mut shape = vec![1 + r.below(3)];
            shape.extend(&spatial);
            shape.push(channels);
            let instance = r.chance(40);
            // One position per channel has no variance: the result would be rounding noise over sqrt(epsilon).
            if instance && spatial.iter().product::<usize>() < 3 {
                continue;
            }
            let offset = if case % 4 == 0 && dtype == DType::F32 { 50.0 } else { 0.0 };
            let values: Vec<f64> = (0..shape.iter().product()).map(|_| r.unit() * 3.0 + offset).collect();
            let x = tensor_of(dtype, &shape, &values);
            let (scale, bias) = (r.tensor(dtype, &[channels], 1.0), r.tensor(dtype, &[channels], 1.0));
            let op = GroupNorm { groups: if instance { 0 } else { groups }, epsilon: Scalar::f32(1e-3) };
            let width = if instance { 1 } else { channels / groups };
            let positions: usize = spatial.iter().product();
            let mut y = vec![0.0; x.count()];
            for item in 0..shape[0] {
                for start in (0..channels).step_by(width) {
                    let at: Vec<usize> = (0..positions)
                        .flat_map(|p| {
                            (start..start + width).map(move |c| (item * positions + p) * channels + c)
                        })
                        .collect();
                    let line: Vec<f64> = at.iter().map(|&i| x.get_f64(i)).collect();
                    let (mean, variance) = moments(&line, false);
                    for &i in &at {
                        let c = i % channels;
                        y[i] = (x.get_f64(i) - mean) / (variance + 1e-3).sqrt() * scale.get_f64(c)
                            + bias.get_f64(c);
                    }
                }
            }
            let y = tensor_of(dtype, &shape, &y);
            let inputs: [Tensor; 3] = [x, scale, bias];
            let tolerance = Tolerance { absolute: 1e-4, relative: 1e-5 };
            check(&GroupNormTactic, &Op::GroupNorm(op), &inputs, &[], &[y], tolerance, &mut r);
        }
    }
}
