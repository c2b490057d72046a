//! Sampling images at points, in regions and under moved windows: channels-last inside, transposed at the borders.

use engraft_network::{BinaryOp, DType, Dim, ValueId, ops};

use super::super::Row;
use super::conv::{padding, size_of, sizes, spatial_axes};
use super::row;
use super::shape::{iota, size_scalar};
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("GridSample", 16, grid_sample),
    row("AffineGrid", 20, affine_grid),
    row("RoiAlign", 10, roi_align),
    row("MaxRoiPool", 1, max_roi_pool),
    row("DeformConv", 19, deform_conv),
];

pub(super) fn grid_sample(n: &mut NodeLowering) -> Result<()> {
    let default = if n.opset() < 20 { "bilinear" } else { "linear" };
    let mode = match n.string_or("mode", default)? {
        "nearest" => ops::SampleMode::Nearest,
        "linear" | "bilinear" => ops::SampleMode::Linear,
        "cubic" | "bicubic" => ops::SampleMode::Cubic,
        other => return Err(Reject::invalid(format!("mode {other:?} is not defined"))),
    };
    let outside = match n.string_or("padding_mode", "zeros")? {
        "zeros" => ops::Outside::Zeros,
        "border" => ops::Outside::Border,
        "reflection" => ops::Outside::Reflection,
        other => return Err(Reject::invalid(format!("padding_mode {other:?} is not defined"))),
    };
    let op = ops::GridSample { mode, outside, align_corners: n.flag("align_corners")? };
    let (x, grid) = (n.input(0)?, n.input(1)?);
    spatial_axes(n, x)?;
    let x = n.channels_last(x)?;
    let y = n.emit(op, &[x, grid])?;
    let y = n.channels_first(y)?;
    n.set(0, y);
    Ok(())
}

/// Theta times every point of a regular grid, row by row of points that differ in the last axis alone: what those have of it, and
/// of theta's last column, is the same for all rows, and a row's other points are one number for all of its coordinates.
fn affine_grid(n: &mut NodeLowering) -> Result<()> {
    let size = n.dims(1, "the size of the grid")?;
    let align_corners = n.flag("align_corners")?;
    let theta = n.input(0)?;
    let (shape, dtype) = (n.shape(theta), n.dtype(theta));
    let ([_, _, spatial @ ..], [batch, coordinates, columns]) = (size.as_slice(), shape.as_slice()) else {
        return Err(Reject::invalid("wants matrices, and a size with spatial axes"));
    };
    let axes = spatial.len();
    if !(2..=3).contains(&axes) {
        return Err(Reject::new(format!("a grid over {axes} axes is not supported")));
    }
    let matches = |dim: &Dim, size: usize| dim.fixed().is_none_or(|fixed| fixed == size as i64);
    if !matches(coordinates, axes) || !matches(columns, axes + 1) {
        return Err(Reject::invalid(format!("theta is not {axes} by {}", axes + 1)));
    }
    let compute = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let theta = n.cast(theta, compute)?;
    let Some((width, outer)) = spatial.split_last() else {
        return Err(Reject::invalid("wants a size with spatial axes"));
    };
    let batch = batch.clone();
    let pair = vec![batch.clone(), width.clone(), Dim::from(axes)];
    // A column of theta.
    let column = |n: &mut NodeLowering, column: usize| {
        let range = ops::SliceRange { axis: 2, start: Dim::from(column), len: Dim::Fixed(1), step: 1 };
        let factors = n.emit(ops::Slice { ranges: vec![range] }, &[theta])?;
        n.reshape(factors, vec![batch.clone(), Dim::Fixed(1), Dim::from(axes)])
    };
    // What stands for a row of `[N, spatial.., coordinates]`, of which the last two axes are one.
    let row = |n: &mut NodeLowering, x: ValueId| {
        let ones = vec![Dim::Fixed(1); axes - 1];
        let shape = [vec![batch.clone()], ones, vec![width.mul(&Dim::from(axes))]].concat();
        n.reshape(x, shape)
    };
    let (first, last) = (column(n, 0)?, column(n, axes)?);
    let points = axis_points(n, width, align_corners, compute)?;
    let points = n.reshape(points, vec![Dim::Fixed(1), width.clone(), Dim::Fixed(1)])?;
    let along = n.pointwise(&[last, first, points], |e| {
        let (last, first, point) = (e.input(0), e.input(1), e.input(2));
        let product = e.binary(BinaryOp::Mul, first, point);
        e.binary(BinaryOp::Add, last, product)
    })?;
    let mut operands = vec![row(n, along)?];
    for (axis, len) in outer.iter().enumerate().rev() {
        let factors = column(n, axes - 1 - axis)?;
        let factors = n.emit(ops::Expand { shape: pair.clone() }, &[factors])?;
        let points = axis_points(n, len, align_corners, compute)?;
        let mut shape = vec![Dim::Fixed(1); axes + 1];
        shape[axis + 1] = len.clone();
        operands.extend([row(n, factors)?, n.reshape(points, shape)?]);
    }
    let rows = n.pointwise(&operands, |e| {
        let mut sum = e.input(0);
        for pair in 0..outer.len() as u16 {
            let (factor, point) = (e.input(1 + 2 * pair), e.input(2 + 2 * pair));
            let product = e.binary(BinaryOp::Mul, factor, point);
            sum = e.binary(BinaryOp::Add, sum, product);
        }
        sum
    })?;
    let rows = n.cast(rows, dtype)?;
    let y = n.reshape(rows, [vec![batch.clone()], spatial.to_vec(), vec![Dim::from(axes)]].concat())?;
    n.set(0, y);
    Ok(())
}

/// `len` points from -1 to 1: the centres of pixels whose outer edges, or (with `align_corners`) outer centres, are there.
/// The centre of a pixel without others is at 1.
fn axis_points(n: &mut NodeLowering, len: &Dim, align_corners: bool, dtype: DType) -> Result<ValueId> {
    let pixel = iota(n, len, vec![len.clone()])?;
    let last = len.sub(&Dim::Fixed(1));
    let count = if align_corners { n.facts().max(&last, &Dim::Fixed(1)) } else { len.clone() };
    let [last, count] = [last, count].map(|size| size_scalar(n, &size));
    let [pixel, last, count] = [pixel, last?, count?].map(|value| n.cast(value, dtype));
    n.pointwise(&[pixel?, last?, count?], |e| {
        let (pixel, last, count) = (e.input(0), e.input(1), e.input(2));
        let (one, two) = (e.number(1.0), e.number(2.0));
        if align_corners {
            let before = e.binary(BinaryOp::Sub, last, pixel);
            let doubled = e.binary(BinaryOp::Mul, before, two);
            let fraction = e.binary(BinaryOp::Div, doubled, count);
            return e.binary(BinaryOp::Sub, one, fraction);
        }
        let doubled = e.binary(BinaryOp::Mul, pixel, two);
        let shifted = e.binary(BinaryOp::Add, doubled, one);
        let fraction = e.binary(BinaryOp::Div, shifted, count);
        e.binary(BinaryOp::Sub, fraction, one)
    })
}

fn positive(n: &NodeLowering, name: &str, default: i64) -> Result<usize> {
    let size = size_of(name, n.int_or(name, default)?)?;
    if size == 0 { Err(Reject::invalid(format!("{name} is 0"))) } else { Ok(size) }
}

fn roi_align(n: &mut NodeLowering) -> Result<()> {
    let max = match n.string_or("mode", "avg")? {
        "avg" => false,
        "max" => true,
        other => return Err(Reject::invalid(format!("mode {other:?} is not defined"))),
    };
    // Version 10 knows no other mode.
    let half_pixel = n.opset() >= 16
        && match n.string_or("coordinate_transformation_mode", "half_pixel")? {
            "half_pixel" => true,
            "output_half_pixel" => false,
            other => return Err(Reject::invalid(format!("coordinates {other:?} are not defined"))),
        };
    let op = ops::RoiAlign {
        max,
        height: positive(n, "output_height", 1)?,
        width: positive(n, "output_width", 1)?,
        samples: size_of("sampling_ratio", n.int_or("sampling_ratio", 0)?)?,
        scale: n.float_or("spatial_scale", 1.0)?.to_bits(),
        half_pixel,
    };
    let (x, regions, images) = (n.input(0)?, n.input(1)?, n.input(2)?);
    if n.rank(x) != 4 {
        return Err(Reject::invalid("wants images of two axes"));
    }
    let x = n.channels_last(x)?;
    let y = n.emit(op, &[x, regions, images])?;
    let y = n.channels_first(y)?;
    n.set(0, y);
    Ok(())
}

fn max_roi_pool(n: &mut NodeLowering) -> Result<()> {
    let &[height, width] = n.ints("pooled_shape")?.unwrap_or_default().as_slice() else {
        return Err(Reject::invalid("pooled_shape has not two sizes"));
    };
    let op = ops::RoiMaxPool {
        height: size_of("pooled_shape", height)?,
        width: size_of("pooled_shape", width)?,
        scale: n.float_or("spatial_scale", 1.0)?.to_bits(),
    };
    let (x, regions) = (n.input(0)?, n.input(1)?);
    if n.rank(x) != 4 {
        return Err(Reject::invalid("wants images of two axes"));
    }
    let x = n.channels_last(x)?;
    let y = n.emit(op, &[x, regions])?;
    let y = n.channels_first(y)?;
    n.set(0, y);
    Ok(())
}

/// The moved pixels of all windows, then a convolution whose kernel covers each of them once.
fn deform_conv(n: &mut NodeLowering) -> Result<()> {
    let (x, w, offsets) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (bias, mask) = (n.optional(3)?, n.optional(4)?);
    let weights = n.shape(w);
    let [outputs, each, height, width] = weights.as_slice() else {
        return Err(Reject::new("a deformable convolution over other than two axes is not supported"));
    };
    if n.rank(x) != 4 || n.rank(offsets) != 4 {
        return Err(Reject::invalid("wants images and offsets of two axes"));
    }
    let kernel: Option<Vec<usize>> =
        [height, width].iter().map(|size| usize::try_from(size.fixed()?).ok()).collect();
    let kernel = kernel.ok_or_else(|| n.wants_fixed_dims(1, "a kernel of unknown size"))?;
    if n.ints("kernel_shape")?.is_some() && sizes(n, "kernel_shape", 2, 1)? != kernel {
        return Err(Reject::invalid("kernel_shape is not that of the weights"));
    }
    let positions = Dim::from(kernel.iter().product::<usize>());
    let sample = ops::DeformSample {
        kernel,
        strides: sizes(n, "strides", 2, 1)?,
        dilations: sizes(n, "dilations", 2, 1)?,
        padding: padding(n, 2)?,
        groups: positive(n, "offset_group", 1)?,
        mask: mask.is_some(),
    };
    let convolution = ops::Conv {
        strides: vec![1; 3],
        dilations: vec![1; 3],
        padding: ops::Padding::none(3),
        groups: positive(n, "group", 1)?,
        epilogue: ops::Epilogue { bias: bias.is_some(), post: None },
    };
    let mut operands = vec![n.channels_last(x)?, n.channels_last(offsets)?];
    if let Some(mask) = mask {
        operands.push(n.channels_last(mask)?);
    }
    let columns = n.emit(sample, &operands)?;
    // [M, C / g, kernel..] to [1, 1, kernel positions, C / g, M].
    let one = Dim::Fixed(1);
    let w = n.transpose(w, &[2, 3, 1, 0])?;
    let w = n.reshape(w, vec![one.clone(), one, positions, each.clone(), outputs.clone()])?;
    let operands: Vec<ValueId> = [columns, w].into_iter().chain(bias).collect();
    let y = n.emit(convolution, &operands)?;
    let mut shape = n.shape(y);
    shape.remove(3);
    let y = n.reshape(y, shape)?;
    let y = n.channels_first(y)?;
    n.set(0, y);
    Ok(())
}
