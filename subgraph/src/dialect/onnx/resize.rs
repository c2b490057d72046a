//! Resize and Upsample.

use engraft_network::{Dim, ops};

use super::super::Row;
use super::{FIRST, row};
use crate::lower::{NodeLowering, Reject, axis};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("Upsample", FIRST, |n| {
        let scales = n.floats("scales")?.ok_or_else(|| Reject::invalid("attribute scales is missing"))?;
        upsample(n, scales)
    }),
    row("Upsample", 9, |n| {
        let scales = scales(n, 1)?.ok_or_else(|| Reject::invalid("scales are missing"))?;
        upsample(n, scales)
    }),
    row("Resize", 10, |n| {
        let scales = scales(n, 1)?.ok_or_else(|| Reject::invalid("scales are missing"))?;
        upsample(n, scales)
    }),
    row("Resize", 11, resize),
];

/// A constant input of scales; `None` where it is absent or empty.
fn scales(n: &NodeLowering, index: usize) -> Result<Option<Vec<f32>>> {
    if !n.has(index) || n.input_type(index)?.count().fixed() == Some(0) {
        return Ok(None);
    }
    let tensor = n.constant(index).ok_or_else(|| n.wants_constant(index, "the scales depend on data"))?;
    Ok(Some((0..tensor.count()).map(|index| tensor.get_f64(index) as f32).collect()))
}

/// `floor(size * scale)`: exact for whole scales and simple fractions.
fn scaled(size: &Dim, scale: f32) -> Result<Dim> {
    if let Some(fixed) = size.fixed() {
        return Ok(Dim::Fixed((fixed as f32 * scale).floor() as i64));
    }
    let mut divisor = 1i64;
    while divisor <= 4096 {
        let numerator = f64::from(scale) * divisor as f64;
        if numerator.fract() == 0.0 && numerator < 1e9 {
            return Ok(size.mul(&Dim::Fixed(numerator as i64)).floor_div(&Dim::Fixed(divisor)));
        }
        divisor *= 2;
    }
    Err(Reject::new(format!("scale {scale} of a dynamic size is not supported")))
}

/// The early operators: asymmetric coordinates, nearest rounds down.
fn upsample(n: &mut NodeLowering, scales: Vec<f32>) -> Result<()> {
    let mode = match n.string_or("mode", "nearest")? {
        "nearest" => ops::ResizeMode::Nearest(ops::NearestMode::Floor),
        "linear" | "bilinear" => ops::ResizeMode::Linear,
        other => return Err(Reject::invalid(format!("mode {other:?} is not defined"))),
    };
    let shape = n.input_type(0)?.shape;
    if scales.len() != shape.len() {
        return Err(Reject::invalid("scales do not fit the rank"));
    }
    if scales.iter().all(|&scale| scale == 1.0) {
        return n.forward(0, 0);
    }
    let sizes = shape.iter().zip(&scales).map(|(size, &scale)| scaled(size, scale)).collect::<Result<_>>()?;
    let op = ops::Resize {
        mode,
        coordinates: ops::CoordinateMode::Asymmetric,
        sizes,
        scales: Some(scales.iter().map(|scale| scale.to_bits()).collect()),
        exclude_outside: false,
        antialias: false,
        extrapolation: 0,
    };
    let x = n.input(0)?;
    let y = n.emit(op, &[x])?;
    n.set(0, y);
    Ok(())
}

fn resize(n: &mut NodeLowering) -> Result<()> {
    let shape = n.input_type(0)?.shape;
    let axes: Vec<usize> = match n.ints("axes")? {
        Some(list) => list.iter().map(|&position| axis(position, shape.len())).collect::<Result<_>>()?,
        None => (0..shape.len()).collect(),
    };
    if n.string_or("keep_aspect_ratio_policy", "stretch")? != "stretch" {
        return Err(Reject::new("keep_aspect_ratio_policy is not supported")
            .wants("keep_aspect_ratio_policy", "stretch"));
    }
    let coordinates = coordinates(n, &axes, shape.len())?;
    let mut sizes = shape.to_vec();
    let mut all_scales = vec![1f32; shape.len()];
    let mut given_scales = false;
    if let Some(scales) = scales(n, 2)? {
        if scales.len() != axes.len() {
            return Err(Reject::invalid("scales do not fit the axes"));
        }
        for (&axis, &scale) in axes.iter().zip(&scales) {
            sizes[axis] = scaled(&shape[axis], scale)?;
            all_scales[axis] = scale;
        }
        given_scales = true;
    } else if n.has(3) {
        let wanted = n.dims(3, "the output size")?;
        if wanted.len() != axes.len() {
            return Err(Reject::invalid("sizes do not fit the axes"));
        }
        for (&axis, size) in axes.iter().zip(wanted) {
            sizes[axis] = size;
        }
    } else {
        return Err(Reject::invalid("neither scales nor sizes are given"));
    }
    if sizes.as_slice() == shape.as_slice() && !given_scales {
        return n.forward(0, 0);
    }
    let mode = match n.string_or("mode", "nearest")? {
        "nearest" => ops::ResizeMode::Nearest(match n.string_or("nearest_mode", "round_prefer_floor")? {
            "round_prefer_floor" | "" => ops::NearestMode::RoundPreferFloor,
            "round_prefer_ceil" => ops::NearestMode::RoundPreferCeil,
            "floor" => ops::NearestMode::Floor,
            "ceil" => ops::NearestMode::Ceil,
            other => return Err(Reject::invalid(format!("nearest_mode {other:?} is not defined"))),
        }),
        "linear" => ops::ResizeMode::Linear,
        "cubic" => ops::ResizeMode::Cubic { coefficient: n.float_or("cubic_coeff_a", -0.75)?.to_bits() },
        other => return Err(Reject::invalid(format!("mode {other:?} is not defined"))),
    };
    let op = ops::Resize {
        mode,
        coordinates,
        sizes,
        scales: given_scales.then(|| all_scales.iter().map(|scale| scale.to_bits()).collect()),
        exclude_outside: n.flag("exclude_outside")?,
        antialias: n.flag("antialias")?,
        extrapolation: n.float_or("extrapolation_value", 0.0)?.to_bits(),
    };
    let x = n.input(0)?;
    let y = n.emit(op, &[x])?;
    n.set(0, y);
    Ok(())
}

fn coordinates(n: &NodeLowering, axes: &[usize], rank: usize) -> Result<ops::CoordinateMode> {
    Ok(match n.string_or("coordinate_transformation_mode", "half_pixel")? {
        "half_pixel" => ops::CoordinateMode::HalfPixel,
        "half_pixel_symmetric" => ops::CoordinateMode::HalfPixelSymmetric,
        "pytorch_half_pixel" => ops::CoordinateMode::PytorchHalfPixel,
        "align_corners" => ops::CoordinateMode::AlignCorners,
        "asymmetric" => ops::CoordinateMode::Asymmetric,
        "tf_crop_and_resize" => {
            let roi = scales(n, 1)?.ok_or_else(|| Reject::invalid("the region of interest is missing"))?;
            if rank > 4 || roi.len() != 2 * axes.len() {
                return Err(Reject::new("a region of interest of this rank is not supported"));
            }
            let mut bits = [0u32; 8];
            for axis in 0..rank {
                bits[rank + axis] = 1f32.to_bits();
            }
            for (index, &axis) in axes.iter().enumerate() {
                bits[axis] = roi[index].to_bits();
                bits[rank + axis] = roi[axes.len() + index].to_bits();
            }
            ops::CoordinateMode::TfCropAndResize { roi: bits }
        }
        other => {
            return Err(Reject::new(format!("coordinate_transformation_mode {other:?} is not supported")));
        }
    })
}
