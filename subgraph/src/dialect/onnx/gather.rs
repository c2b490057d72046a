//! Gathers, scatters and their family.

use engraft_network::{BinaryOp, DType, Dim, ops};

use super::super::Row;
use super::row;
use super::shape::{iota, size_scalar};
use crate::lower::{Known, NodeLowering, Reject, axis};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("Gather", 1, gather),
    row("GatherElements", 11, |n| {
        let (x, indices) = (n.input(0)?, n.input(1)?);
        let axis = n.axis("axis", 0, n.rank(x))?;
        let y = n.emit(ops::GatherElements { axis }, &[x, indices])?;
        n.set(0, y);
        Ok(())
    }),
    row("GatherND", 11, gather_nd),
    row("Scatter", 9, scatter_elements),
    row("ScatterElements", 11, scatter_elements),
    row("ScatterND", 11, |n| {
        let reduction = reduction(n)?;
        let inputs = n.inputs()?;
        let y = n.emit(ops::ScatterNd { reduction }, &inputs)?;
        n.set(0, y);
        Ok(())
    }),
    row("TensorScatter", 24, tensor_scatter),
    row("ReverseSequence", 10, reverse_sequence),
    row("Compress", 9, compress),
    row("OneHot", 9, one_hot),
    row("NonZero", 9, |n| {
        let x = n.input(0)?;
        let y = n.emit(ops::NonZero, &[x])?;
        n.set(0, y);
        Ok(())
    }),
];

pub(super) fn gather_nd(n: &mut NodeLowering) -> Result<()> {
    let batch_dims = usize::try_from(n.int_or("batch_dims", 0)?)
        .map_err(|_| Reject::invalid("negative batch_dims are not defined"))?;
    let (x, indices) = (n.input(0)?, n.input(1)?);
    let y = n.emit(ops::GatherNd { batch_dims }, &[x, indices])?;
    n.set(0, y);
    Ok(())
}

fn gather(n: &mut NodeLowering) -> Result<()> {
    let axis = n.axis("axis", 0, n.input_type(0)?.rank())?;
    gather_axis(n, axis)
}

/// Operand 0 indexed along an axis by operand 1.
pub(in crate::dialect) fn gather_axis(n: &mut NodeLowering, axis: usize) -> Result<()> {
    let ty = n.input_type(0)?;
    let indices = n.known(1);
    let small = ty.rank() <= 1 && !ty.dtype.is_float();
    let source = match (&indices, small) {
        // An element of a small integer input is wanted as a size.
        (Some(_), true) => n.contents(0),
        _ => n.known(0),
    };
    if let (Some(source), Some(indices)) = (source, &indices)
        && let Some(known) = gather_known(&source, indices, axis)
    {
        n.set_known(0, known);
        return Ok(());
    }
    // One constant index is a slice.
    let x = n.input(0)?;
    if let Some(index) = indices.filter(|known| known.elements.len() == 1 && known.is_fixed())
        && let Some(position) = index.elements[0].dim().and_then(Dim::fixed)
    {
        let shape = n.shape(x);
        let start = if position < 0 { shape[axis].add(&Dim::Fixed(position)) } else { Dim::Fixed(position) };
        let range = ops::SliceRange { axis, start, len: Dim::Fixed(1), step: 1 };
        let y = match shape[axis].fixed() {
            Some(1) => x,
            _ => n.emit(ops::Slice { ranges: vec![range] }, &[x])?,
        };
        let ones = vec![Dim::Fixed(1); index.shape.len()];
        let y = n.reshape(y, [&shape[..axis], &ones, &shape[axis + 1..]].concat())?;
        n.set(0, y);
        return Ok(());
    }
    let indices = n.input(1)?;
    let y = n.emit(ops::Gather { axis }, &[x, indices])?;
    n.set(0, y);
    Ok(())
}

fn gather_known(source: &Known, indices: &Known, axis: usize) -> Option<Known> {
    let size = *source.shape.get(axis)? as i64;
    let positions = indices
        .elements
        .iter()
        .map(|index| {
            let index = index.dim()?.fixed()?;
            usize::try_from(if index < 0 { index.wrapping_add(size) } else { index }).ok()
        })
        .collect::<Option<Vec<usize>>>()?;
    source.gather(axis, &positions, &indices.shape)
}

fn reduction(n: &NodeLowering) -> Result<ops::ScatterReduction> {
    Ok(match n.string_or("reduction", "none")? {
        "none" => ops::ScatterReduction::None,
        "add" => ops::ScatterReduction::Add,
        "mul" => ops::ScatterReduction::Mul,
        "max" => ops::ScatterReduction::Max,
        "min" => ops::ScatterReduction::Min,
        other => return Err(Reject::invalid(format!("reduction {other:?} is not defined"))),
    })
}

fn scatter_elements(n: &mut NodeLowering) -> Result<()> {
    let inputs = n.inputs()?;
    let [x, ..] = inputs.as_slice() else { return Err(Reject::invalid("wants data, indices and updates")) };
    let axis = n.axis("axis", 0, n.rank(*x))?;
    let reduction = reduction(n)?;
    let y = n.emit(ops::ScatterElements { axis, reduction }, &inputs)?;
    n.set(0, y);
    Ok(())
}

/// The slices along the axis (or the elements, without one) whose condition holds.
fn compress(n: &mut NodeLowering) -> Result<()> {
    let (mut x, condition) = (n.input(0)?, n.input(1)?);
    let axis = match n.int("axis")? {
        Some(position) => axis(position, n.rank(x))?,
        None => {
            let count = n.ty(x).count();
            x = n.reshape(x, vec![count])?;
            0
        }
    };
    let indices = n.emit(ops::NonZero, &[condition])?;
    let count = n.shape(indices)[1].clone();
    let indices = n.reshape(indices, vec![count])?;
    let y = n.emit(ops::Gather { axis }, &[x, indices])?;
    n.set(0, y);
    Ok(())
}

fn one_hot(n: &mut NodeLowering) -> Result<()> {
    let depth = match n.dims(1, "the depth")?.as_slice() {
        [depth] => depth.clone(),
        other => return Err(Reject::invalid(format!("{} values for the depth", other.len()))),
    };
    let (indices, values) = (n.input(0)?, n.input(2)?);
    let rank = n.rank(indices) + 1;
    let axis = n.axis("axis", -1, rank)?;
    let indices = n.cast(indices, DType::I64)?;
    let y = n.emit(ops::OneHot { axis, depth }, &[indices, values])?;
    n.set(0, y);
    Ok(())
}

/// The first `len` steps of every batch from the last to the first, the others as they are.
fn reverse_sequence(n: &mut NodeLowering) -> Result<()> {
    match (n.int_or("batch_axis", 1)?, n.int_or("time_axis", 0)?) {
        (1, 0) => reverse_steps(n, true),
        (0, 1) => reverse_steps(n, false),
        axes => Err(Reject::invalid(format!("batch and time axes {axes:?} are not defined"))),
    }
}

/// Time is the first axis and the batch the second, or the other way round.
pub(in crate::dialect) fn reverse_steps(n: &mut NodeLowering, time_first: bool) -> Result<()> {
    let (x, lengths) = (n.input(0)?, n.input(1)?);
    let shape = n.shape(x);
    let [first, second, rest @ ..] = shape.as_slice() else {
        return Err(Reject::invalid("wants a batch and a time axis"));
    };
    let one = Dim::Fixed(1);
    let lengths = n.cast(lengths, DType::I64)?;
    // The number of the step, and the length of the batch, by both axes.
    let (step, lengths) = if time_first {
        (iota(n, first, vec![first.clone(), one.clone()])?, n.reshape(lengths, vec![one, second.clone()])?)
    } else {
        (iota(n, second, vec![one.clone(), second.clone()])?, n.reshape(lengths, vec![first.clone(), one])?)
    };
    let places = n.pointwise(&[step, lengths], |e| {
        let (step, len, one) = (e.input(0), e.input(1), e.number(1.0));
        let last = e.binary(BinaryOp::Sub, len, one);
        let mirrored = e.binary(BinaryOp::Sub, last, step);
        let inside = e.binary(BinaryOp::Lt, step, len);
        e.select(inside, mirrored, step)
    })?;
    let y = if time_first {
        // Rows of a step and batch: a length beyond the steps leads beyond the last row.
        let batches = size_scalar(n, second)?;
        let batch = iota(n, second, vec![Dim::Fixed(1), second.clone()])?;
        let places = n.binary(BinaryOp::Mul, places, batches)?;
        let places = n.binary(BinaryOp::Add, places, batch)?;
        let rows = [first.mul(second)].into_iter().chain(rest.iter().cloned()).collect();
        let rows = n.reshape(x, rows)?;
        n.emit(ops::Gather { axis: 0 }, &[rows, places])?
    } else {
        let places = n.reshape(places, vec![first.clone(), second.clone(), Dim::Fixed(1)])?;
        n.emit(ops::GatherNd { batch_dims: 1 }, &[x, places])?
    };
    n.set(0, y);
    Ok(())
}

/// A cache with an update written along `axis`, for every batch from its own index on.
fn tensor_scatter(n: &mut NodeLowering) -> Result<()> {
    let (cache, update, first) = (n.input(0)?, n.input(1)?, n.optional(2)?);
    let shape = n.shape(cache);
    let axis = n.axis("axis", -2, shape.len())?;
    let circular = match n.string_or("mode", "linear")? {
        "linear" => false,
        "circular" => true,
        other => return Err(Reject::invalid(format!("mode {other:?} is not defined"))),
    };
    if axis == 0 || n.rank(update) != shape.len() {
        return Err(Reject::invalid("wants a batch axis before the axis of steps"));
    }
    // One tuple of indices per batch, axes between, and step.
    let one = Dim::Fixed(1);
    let steps = n.shape(update)[axis].clone();
    let outer: Vec<Dim> = shape[..axis].iter().cloned().chain([steps.clone(), one.clone()]).collect();
    let alone = |position: usize, size: &Dim| {
        let mut shape = vec![one.clone(); outer.len()];
        shape[position] = size.clone();
        shape
    };
    let mut members = Vec::new();
    for (position, size) in shape[..axis].iter().enumerate() {
        let member = iota(n, size, alone(position, size))?;
        members.push(n.emit(ops::Expand { shape: outer.clone() }, &[member])?);
    }
    let mut place = iota(n, &steps, alone(axis, &steps))?;
    if let Some(first) = first {
        let first = n.cast(first, DType::I64)?;
        let first = n.reshape(first, alone(0, &shape[0]))?;
        place = n.binary(BinaryOp::Add, place, first)?;
    }
    if circular {
        let size = size_scalar(n, &shape[axis])?;
        place = n.binary(BinaryOp::Mod, place, size)?;
    }
    members.push(n.emit(ops::Expand { shape: outer.clone() }, &[place])?);
    let places = n.emit(ops::Concat { axis: axis + 1 }, &members)?;
    let reduction = ops::ScatterReduction::None;
    let y = n.emit(ops::ScatterNd { reduction }, &[cache, places, update])?;
    n.set(0, y);
    Ok(())
}
