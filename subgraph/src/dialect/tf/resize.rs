//! Resizing images `[N, H, W, C]`.

use engraft_network::{DType, ops};

use super::super::Row;
use super::{Result, row};
use crate::lower::{NodeLowering, Reject, Remedy};

pub(super) const ROWS: &[Row] = &[
    row("ResizeBilinear", |n| {
        let coordinates = coordinates(n)?;
        // The result is a float whatever the image is.
        resize(n, ops::ResizeMode::Linear, coordinates, Some(DType::F32))
    }),
    row("ResizeNearestNeighbor", |n| {
        let coordinates = coordinates(n)?;
        let nearest = match coordinates {
            ops::CoordinateMode::Asymmetric => ops::NearestMode::Floor,
            // Half a pixel further, rounded down; corners round halves up.
            _ => ops::NearestMode::RoundPreferCeil,
        };
        resize(n, ops::ResizeMode::Nearest(nearest), coordinates, None)
    }),
];

fn coordinates(n: &NodeLowering) -> Result<ops::CoordinateMode> {
    match (n.flag("align_corners")?, n.flag("half_pixel_centers")?) {
        (true, true) => {
            let reason = "align_corners and half_pixel_centers exclude each other";
            Err(Reject::new(reason).remedy(Remedy::Correct))
        }
        (true, false) => Ok(ops::CoordinateMode::AlignCorners),
        (false, true) => Ok(ops::CoordinateMode::HalfPixel),
        (false, false) => Ok(ops::CoordinateMode::Asymmetric),
    }
}

fn resize(
    n: &mut NodeLowering,
    mode: ops::ResizeMode,
    coordinates: ops::CoordinateMode,
    result: Option<DType>,
) -> Result<()> {
    let size = n.dims(1, "the output size")?;
    let mut x = n.input(0)?;
    if let Some(result) = result {
        x = n.cast(x, result)?;
    }
    let mut sizes = n.shape(x);
    if sizes.len() != 4 || size.len() != 2 {
        return Err(Reject::new("wants images and two sizes").remedy(Remedy::Correct));
    }
    sizes[1..3].clone_from_slice(&size);
    let op = ops::Resize {
        mode,
        coordinates,
        sizes,
        scales: None,
        exclude_outside: false,
        antialias: false,
        extrapolation: 0,
    };
    let y = n.emit(op, &[x])?;
    n.set(0, y);
    Ok(())
}
