//! Convolutions, biases, and what grappler fuses to them.

use engraft_network::{BinaryOp, Dim, UnaryOp, ValueId, ops};

use super::super::Row;
use super::super::onnx::conv::size_of;
use super::super::onnx::elementwise::{clamp, elu, leaky_relu};
use super::{DataFormat, Result, norm, row};
use crate::Attribute;
use crate::lower::{NodeLowering, Reject};

pub(super) const ROWS: &[Row] = &[
    row("Conv2D", |n| convolution(n, false)),
    row("Conv3D", |n| convolution(n, false)),
    row("DepthwiseConv2dNative", |n| convolution(n, true)),
    row("_FusedConv2D", |n| convolution(n, false)),
    row("_FusedConv3D", |n| convolution(n, false)),
    row("_FusedDepthwiseConv2dNative", |n| convolution(n, true)),
    row("Conv2DBackpropInput", transposed),
    row("Conv3DBackpropInputV2", transposed),
    row("BiasAdd", |n| bias_add(n, 1)),
    row("BiasAddV1", |n| bias_add(n, 1)),
];

/// Spatial sizes of an attribute that has one per axis; those of batch and channels must be 1.
pub(super) fn spatial_sizes(
    n: &NodeLowering,
    name: &str,
    format: DataFormat,
    rank: usize,
) -> Result<Vec<usize>> {
    let Some(all) = n.ints(name)? else { return Ok(vec![1; rank - 2]) };
    if all.len() != rank {
        return Err(Reject::new(format!("{name} {all:?} do not fit rank {rank}")));
    }
    let spatial = format.spatial(&all);
    if all.iter().product::<i64>() != spatial.iter().product::<i64>() {
        return Err(Reject::new(format!("{name} {all:?} of batch or channels are not supported")));
    }
    spatial.iter().map(|&size| size_of(name, size)).collect()
}

/// `padding` and `explicit_paddings`, which has two numbers per axis.
pub(super) fn padding(n: &NodeLowering, format: DataFormat, rank: usize) -> Result<ops::Padding> {
    match n.string_or("padding", "VALID")? {
        "SAME" => Ok(ops::Padding::SameUpper),
        "VALID" => Ok(ops::Padding::none(rank - 2)),
        "EXPLICIT" => {
            let all = n.ints("explicit_paddings")?.unwrap_or_default();
            if all.len() != 2 * rank {
                return Err(Reject::new(format!("explicit_paddings {all:?} do not fit rank {rank}")));
            }
            let pairs: Vec<[i64; 2]> = all.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
            let spatial = format.spatial(&pairs);
            if pairs.iter().flatten().sum::<i64>() != spatial.iter().flatten().sum::<i64>() {
                return Err(Reject::new("padding of batch or channels is not supported"));
            }
            let side = |index: usize| {
                spatial.iter().map(|pair| size_of("explicit_paddings", pair[index])).collect::<Result<_>>()
            };
            Ok(ops::Padding::Explicit { begin: side(0)?, end: side(1)? })
        }
        other => Err(Reject::new(format!("padding {other:?} is not supported"))),
    }
}

/// Filters `[kernel.., C / groups, M]`; of depthwise ones `[kernel.., C, multiplier]`.
fn convolution(n: &mut NodeLowering, depthwise: bool) -> Result<()> {
    let format = DataFormat::of(n)?;
    let (x, mut w) = (n.input(0)?, n.input(1)?);
    let rank = n.rank(x);
    if !(3..=5).contains(&rank) || n.rank(w) != rank {
        return Err(Reject::new("the ranks of data and filter do not fit"));
    }
    let op = ops::Conv {
        strides: spatial_sizes(n, "strides", format, rank)?,
        dilations: spatial_sizes(n, "dilations", format, rank)?,
        padding: padding(n, format, rank)?,
        groups: 1,
        epilogue: ops::Epilogue::default(),
    };
    let x = format.open(n, x)?;
    let (channels, filter) = (n.shape(x)[rank - 1].clone(), n.shape(w));
    let size = |dim: &Dim| dim.fixed().and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
    let groups = if depthwise {
        let (c, multiplier) = (&filter[rank - 2], &filter[rank - 1]);
        let kernel = filter[..rank - 2].iter().cloned();
        let shape = kernel.chain([Dim::Fixed(1), c.mul(multiplier)]).collect();
        w = n.reshape(w, shape)?;
        size(c).ok_or_else(|| n.wants_fixed_dims(1, "the number of channels is not fixed"))?
    } else {
        match (size(&channels), size(&filter[rank - 2])) {
            (Some(all), Some(each)) if all % each == 0 => all / each,
            (Some(all), Some(each)) => {
                return Err(Reject::new(format!("a filter of {each} channels for {all}")));
            }
            _ => 1,
        }
    };
    let y = n.emit(ops::Conv { groups, ..op }, &[x, w])?;
    let y = format.close(n, y)?;
    let y = epilogue(n, y)?;
    n.set(0, y);
    Ok(())
}

/// What `fused_ops` names, applied to `y` with the operands behind the first two.
pub(super) fn epilogue(n: &mut NodeLowering, mut y: ValueId) -> Result<ValueId> {
    let list = match n.attribute("fused_ops") {
        None => return Ok(y),
        Some(Attribute::Strings(list)) => list,
        Some(_) => return Err(Reject::new("attribute fused_ops is no list of names")),
    };
    let mut next = 2;
    for name in list {
        y = match std::str::from_utf8(name).unwrap_or_default() {
            "BiasAdd" => {
                next += 1;
                biased(n, y, next - 1)?
            }
            "FusedBatchNorm" => {
                next += 4;
                let operands =
                    [n.input(next - 4)?, n.input(next - 3)?, n.input(next - 2)?, n.input(next - 1)?];
                let epsilon = n.float_or("epsilon", 1e-4)?;
                norm::normalized(n, y, operands, epsilon)?
            }
            "Add" => {
                next += 1;
                let other = n.input(next - 1)?;
                n.binary(BinaryOp::Add, y, other)?
            }
            other => {
                let alpha = n.float_or("leakyrelu_alpha", 0.2)?;
                activated(n, y, other, alpha)?
            }
        };
    }
    Ok(y)
}

/// An activation by the name that `fused_ops` gives it.
fn activated(n: &mut NodeLowering, x: ValueId, name: &str, alpha: f32) -> Result<ValueId> {
    let op = match name {
        "Relu" => UnaryOp::Relu,
        "Tanh" => UnaryOp::Tanh,
        "Sigmoid" => UnaryOp::Sigmoid,
        "GeluExact" => UnaryOp::Gelu,
        "GeluApproximate" => UnaryOp::GeluTanh,
        "_FusedHardSwish" => UnaryOp::HardSwish,
        "_FusedSwish" | "_MklSwish" => UnaryOp::Silu,
        "Relu6" | "Elu" | "LeakyRelu" => {
            return n.pointwise(&[x], |e| {
                let x = e.input(0);
                match name {
                    "Relu6" => clamp(e, x, Some(0.0), Some(6.0)),
                    "Elu" => elu(e, 1.0, x),
                    _ => leaky_relu(e, alpha, x),
                }
            });
        }
        other => return Err(Reject::new(format!("the fused operator {other:?} is not supported"))),
    };
    n.unary(op, x)
}

fn bias_add(n: &mut NodeLowering, bias: usize) -> Result<()> {
    let x = n.input(0)?;
    let y = biased(n, x, bias)?;
    n.set(0, y);
    Ok(())
}

/// `x` and the bias, operand `index`, along the channels.
fn biased(n: &mut NodeLowering, x: ValueId, index: usize) -> Result<ValueId> {
    let bias = n.input(index)?;
    let mut shape = n.shape(bias);
    if shape.len() != 1 {
        return Err(Reject::new("the bias is no vector"));
    }
    let rank = n.rank(x);
    // Of fewer axes than three the last one is the channels', whatever the format says.
    if rank > 2 && DataFormat::of(n)? == DataFormat::ChannelsFirst {
        shape.extend(vec![Dim::Fixed(1); rank - 2]);
    }
    let bias = n.reshape(bias, shape)?;
    n.binary(BinaryOp::Add, x, bias)
}

/// The gradient of a convolution by its input: operands are the input's shape, the convolution's filter
/// `[kernel.., C, M]` and its output's gradient.
fn transposed(n: &mut NodeLowering) -> Result<()> {
    let format = DataFormat::of(n)?;
    let wanted = n.dims(0, "the output's shape")?;
    let (w, x) = (n.input(1)?, n.input(2)?);
    let rank = n.rank(x);
    if !(3..=5).contains(&rank) || n.rank(w) != rank || ![rank, rank - 2].contains(&wanted.len()) {
        return Err(Reject::new("the ranks of data, filter and shape do not fit"));
    }
    let strides = spatial_sizes(n, "strides", format, rank)?;
    let dilations = spatial_sizes(n, "dilations", format, rank)?;
    let given = padding(n, format, rank)?;
    let wanted = if wanted.len() == rank { format.spatial(&wanted) } else { wanted };
    let x = format.open(n, x)?;
    let (input, kernel) = (n.shape(x), n.shape(w));
    let (mut begin, mut end, mut more) = (Vec::new(), Vec::new(), Vec::new());
    for axis in 0..rank - 2 {
        let one = Dim::Fixed(1);
        let reach = kernel[axis].sub(&one).mul(&Dim::from(dilations[axis])).add(&one);
        let full = input[axis + 1].sub(&one).mul(&Dim::from(strides[axis])).add(&reach);
        // What of the full size is not wanted is padding; what is wanted beyond it are zeros at the end.
        let surplus = full
            .sub(&wanted[axis])
            .fixed()
            .ok_or_else(|| n.wants_fixed_dims(2, "the output's size does not follow from the input's"))?;
        let (first, last) = match &given {
            ops::Padding::Explicit { begin, end } if begin.iter().chain(end).any(|&pad| pad > 0) => {
                (begin[axis] as i64, end[axis] as i64)
            }
            _ => (surplus.max(0) / 2, surplus.max(0) - surplus.max(0) / 2),
        };
        begin.push(size_of("padding", first)?);
        end.push(size_of("padding", last)?);
        more.push(size_of("the output's size", first + last - surplus)?);
    }
    let op = ops::ConvTranspose {
        strides,
        dilations,
        padding: ops::Padding::Explicit { begin, end },
        output_padding: more,
        groups: 1,
        epilogue: ops::Epilogue::default(),
    };
    let perm: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
    let w = n.transpose(w, &perm)?;
    let y = n.emit(op, &[x, w])?;
    let y = format.close(n, y)?;
    n.set(0, y);
    Ok(())
}
