//! Convolution and transposed convolution: channels-last inside, transposed at the borders.

use engraft_network::{BinaryOp, DType, Dim, ValueId, ops};

use super::super::Row;
use super::row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] =
    &[row("Conv", 1, conv), row("ConvTranspose", 1, conv_transpose), row("ConvInteger", 10, conv_integer)];

/// A size given as an attribute; larger ones than 2^31 are no sizes, and arithmetic with them could overflow.
pub(in crate::dialect) fn size_of(name: &str, size: i64) -> Result<usize> {
    i32::try_from(size)
        .ok()
        .and_then(|size| usize::try_from(size).ok())
        .ok_or_else(|| Reject::new(format!("{name} {size} is not supported")))
}

/// Non-negative sizes of an attribute, one per spatial axis.
pub(super) fn sizes(n: &NodeLowering, name: &str, count: usize, default: usize) -> Result<Vec<usize>> {
    match n.ints(name)? {
        None => Ok(vec![default; count]),
        Some(list) if list.len() == count => list.iter().map(|&size| size_of(name, size)).collect(),
        Some(list) => Err(Reject::invalid(format!("{name} {list:?} do not fit {count} spatial axes"))),
    }
}

/// `auto_pad` and `pads` of convolutions and pools.
pub(super) fn padding(n: &NodeLowering, spatial: usize) -> Result<ops::Padding> {
    match n.string_or("auto_pad", "NOTSET")? {
        "NOTSET" | "" => {
            let pads = sizes(n, "pads", 2 * spatial, 0)?;
            let (begin, end) = pads.split_at(spatial);
            Ok(ops::Padding::Explicit { begin: begin.to_vec(), end: end.to_vec() })
        }
        "VALID" => Ok(ops::Padding::none(spatial)),
        "SAME_UPPER" => Ok(ops::Padding::SameUpper),
        "SAME_LOWER" => Ok(ops::Padding::SameLower),
        other => Err(Reject::invalid(format!("auto_pad {other:?} is not defined"))),
    }
}

/// Number of spatial axes; 1 to 3.
pub(super) fn spatial_axes(n: &NodeLowering, x: ValueId) -> Result<usize> {
    match n.rank(x) {
        rank @ 3..=5 => Ok(rank - 2),
        rank => Err(Reject::new(format!("{} spatial axes are not supported", rank.saturating_sub(2)))),
    }
}

fn groups(n: &NodeLowering) -> Result<usize> {
    usize::try_from(n.int_or("group", 1)?)
        .ok()
        .filter(|&groups| groups > 0)
        .ok_or_else(|| Reject::invalid("group must be positive"))
}

/// The convolution proper, given the operands in ONNX's layout.
pub(super) fn convolve(
    n: &mut NodeLowering,
    x: ValueId,
    w: ValueId,
    bias: Option<ValueId>,
) -> Result<ValueId> {
    let spatial = spatial_axes(n, x)?;
    if n.rank(w) != spatial + 2 {
        return Err(Reject::invalid("the weights' rank does not fit the input's"));
    }
    let op = ops::Conv {
        strides: sizes(n, "strides", spatial, 1)?,
        dilations: sizes(n, "dilations", spatial, 1)?,
        padding: padding(n, spatial)?,
        groups: groups(n)?,
        epilogue: ops::Epilogue { bias: bias.is_some(), post: None },
    };
    // [M, C / g, kernel..] to [kernel.., C / g, M].
    let perm: Vec<usize> = (2..spatial + 2).chain([1, 0]).collect();
    let w = n.transpose(w, &perm)?;
    let x = n.channels_last(x)?;
    let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let y = n.emit(op, &inputs)?;
    n.channels_first(y)
}

fn conv(n: &mut NodeLowering) -> Result<()> {
    let (x, w, bias) = (n.input(0)?, n.input(1)?, n.optional(2)?);
    let y = convolve(n, x, w, bias)?;
    n.set(0, y);
    Ok(())
}

/// Convolution of 8-bit tensors, less their zero points, summed in 32 bits.
fn conv_integer(n: &mut NodeLowering) -> Result<()> {
    let mut operands = [n.input(0)?, n.input(1)?];
    for (index, operand) in operands.iter_mut().enumerate() {
        *operand = n.cast(*operand, DType::I32)?;
        if let Some(zero) = n.optional(2 + index)? {
            let mut zero = n.cast(zero, DType::I32)?;
            if n.rank(zero) == 1 && n.shape(zero) != [Dim::Fixed(1)] {
                // One zero point per output channel.
                let mut shape = vec![Dim::Fixed(1); n.rank(*operand).max(1)];
                shape[0] = n.shape(zero)[0].clone();
                zero = n.reshape(zero, shape)?;
            }
            *operand = n.binary(BinaryOp::Sub, *operand, zero)?;
        }
    }
    let y = convolve(n, operands[0], operands[1], None)?;
    n.set(0, y);
    Ok(())
}

fn conv_transpose(n: &mut NodeLowering) -> Result<()> {
    let (x, w, bias) = (n.input(0)?, n.input(1)?, n.optional(2)?);
    let spatial = spatial_axes(n, x)?;
    if n.rank(w) != spatial + 2 {
        return Err(Reject::invalid("the weights' rank does not fit the input's"));
    }
    let strides = sizes(n, "strides", spatial, 1)?;
    let dilations = sizes(n, "dilations", spatial, 1)?;
    let mut output_padding = sizes(n, "output_padding", spatial, 0)?;
    let padding = match n.ints("output_shape")? {
        None => padding(n, spatial)?,
        Some(shape) => {
            let pads = pads_for(n, x, w, &shape, &strides, &dilations, &mut output_padding)?;
            ops::Padding::Explicit { begin: pads.0, end: pads.1 }
        }
    };
    let epilogue = ops::Epilogue { bias: bias.is_some(), post: None };
    let op = ops::ConvTranspose { strides, dilations, padding, output_padding, groups: groups(n)?, epilogue };
    // [C, M / g, kernel..] to [kernel.., C, M / g].
    let perm: Vec<usize> = (2..spatial + 2).chain([0, 1]).collect();
    let w = n.transpose(w, &perm)?;
    let x = n.channels_last(x)?;
    let inputs: Vec<ValueId> = [x, w].into_iter().chain(bias).collect();
    let y = n.emit(op, &inputs)?;
    let y = n.channels_first(y)?;
    n.set(0, y);
    Ok(())
}

/// The pads that give the spatial `output_shape` asked for; what exceeds the full size is output padding.
fn pads_for(
    n: &NodeLowering,
    x: ValueId,
    w: ValueId,
    output_shape: &[i64],
    strides: &[usize],
    dilations: &[usize],
    output_padding: &mut [usize],
) -> Result<(Vec<usize>, Vec<usize>)> {
    let upper = n.string_or("auto_pad", "NOTSET")? == "SAME_UPPER";
    let wanted = &output_shape[output_shape.len().saturating_sub(strides.len())..];
    let (input, kernel) = (n.shape(x), n.shape(w));
    let (mut begin, mut end) = (Vec::new(), Vec::new());
    for axis in 0..strides.len() {
        let (Some(size), Some(kernel), Some(&wanted)) =
            (input[axis + 2].fixed(), kernel[axis + 2].fixed(), wanted.get(axis))
        else {
            return Err(n.wants_fixed_dims(0, "output_shape with a dynamic input is not supported"));
        };
        let full = (strides[axis] as i64)
            .wrapping_mul(size.wrapping_sub(1))
            .wrapping_add(output_padding[axis] as i64)
            .wrapping_add(kernel.wrapping_sub(1).wrapping_mul(dilations[axis] as i64))
            .wrapping_add(1);
        let total = usize::try_from(full.wrapping_sub(wanted)).unwrap_or(0);
        output_padding[axis] += usize::try_from(wanted.wrapping_sub(full)).unwrap_or(0);
        // The odd element goes to the end for SAME_UPPER, else to the beginning.
        let small = total / 2;
        begin.push(if upper { small } else { total - small });
        end.push(if upper { total - small } else { small });
    }
    Ok((begin, end))
}
