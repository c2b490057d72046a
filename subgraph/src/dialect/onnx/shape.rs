//! Shapes as data, and operators that only rearrange.

use engraft_network::{DType, Dim, Tensor, ValueId, ops};

use super::super::Row;
use super::row;
use crate::Attribute;
use crate::lower::{Facts, Known, MAX_ELEMENTS, NodeLowering, Reject, axes, axis, scalar_tensor};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("Shape", 1, shape),
    row("Size", 1, size),
    row("Constant", 1, constant),
    row("ConstantOfShape", 9, constant_of_shape),
    row("Range", 11, range),
    row("EyeLike", 9, eye_like),
    row("Reshape", 5, reshape),
    row("Flatten", 1, flatten),
    row("Squeeze", 1, squeeze),
    row("Unsqueeze", 1, unsqueeze),
    row("Transpose", 1, transpose),
    row("Concat", 4, concat),
    row("Expand", 8, expand),
    row("Tile", 6, tile),
    row("DepthToSpace", 1, depth_to_space),
    row("SpaceToDepth", 1, space_to_depth),
    row("Trilu", 14, trilu),
];

fn shape(n: &mut NodeLowering) -> Result<()> {
    let dims = n.input_type(0)?.shape;
    let rank = dims.len() as i64;
    let bound =
        |value: i64| (if value < 0 { value.wrapping_add(rank) } else { value }).clamp(0, rank) as usize;
    let (start, end) = (bound(n.int_or("start", 0)?), bound(n.int_or("end", rank)?));
    let part = dims.get(start..end).unwrap_or(&[]);
    n.set_known(0, Known::vector(DType::I64, part.iter().cloned()));
    Ok(())
}

pub(in crate::dialect) fn size(n: &mut NodeLowering) -> Result<()> {
    let count = n.input_type(0)?.count();
    n.set_known(0, Known::scalar(DType::I64, count));
    Ok(())
}

fn constant(n: &mut NodeLowering) -> Result<()> {
    let literal = |list: std::result::Result<Tensor, _>| {
        list.map_err(|error: engraft_network::TensorError| Reject::new(error.to_string()))
    };
    let tensor = if let Some(attribute) = n.attribute("value") {
        match attribute {
            Attribute::Tensor(tensor) => tensor.clone(),
            _ => return Err(Reject::new("the constant's type is not supported")),
        }
    } else if let Some(value) = n.int("value_int")? {
        Tensor::scalar(value)
    } else if let Some(values) = n.ints("value_ints")? {
        literal(Tensor::from_slice(&[values.len()], &values))?
    } else if n.attribute("value_float").is_some() {
        Tensor::scalar(n.float_or("value_float", 0.0)?)
    } else if let Some(values) = n.floats("value_floats")? {
        literal(Tensor::from_slice(&[values.len()], &values))?
    } else {
        return Err(Reject::new("the constant's type is not supported"));
    };
    match Known::of(&tensor) {
        Some(known) => n.set_known(0, known),
        None => {
            let value = n.add_constant(tensor);
            n.set(0, value);
        }
    }
    Ok(())
}

fn constant_of_shape(n: &mut NodeLowering) -> Result<()> {
    let shape = n.dims(0, "the shape")?;
    let element = match n.attribute("value") {
        None => Tensor::scalar(0f32),
        Some(Attribute::Tensor(tensor)) if tensor.count() == 1 => {
            tensor.reshaped(&[]).map_err(|error| Reject::new(error.to_string()))?
        }
        Some(_) => return Err(Reject::invalid("attribute value is not one element")),
    };
    filled(n, shape, element)
}

/// Output 0 is this scalar everywhere.
pub(in crate::dialect) fn filled(n: &mut NodeLowering, shape: Vec<Dim>, element: Tensor) -> Result<()> {
    let fixed: Option<Vec<usize>> =
        shape.iter().map(|dim| dim.fixed().and_then(|size| usize::try_from(size).ok())).collect();
    if let (Some(fixed), Some(known)) = (fixed, Known::of(&element))
        && let Some(known) = known.broadcast(&fixed)
    {
        n.set_known(0, known);
        return Ok(());
    }
    let element = n.add_constant(element);
    let y = n.emit(ops::Expand { shape }, &[element])?;
    n.set(0, y);
    Ok(())
}

/// `max(ceil((limit - start) / delta), 0)` elements; without a delta it is 1.
pub(in crate::dialect) fn range(n: &mut NodeLowering) -> Result<()> {
    let dtype = n.input_type(0)?.dtype;
    let bound = |n: &mut NodeLowering, index: usize, what: &str| -> Result<Dim> {
        match n.dims(index, what)?.as_slice() {
            [one] => Ok(one.clone()),
            other => Err(Reject::invalid(format!("{what} has {} elements", other.len()))),
        }
    };
    let start = bound(n, 0, "the start of the range")?;
    let limit = bound(n, 1, "the limit of the range")?;
    let delta = if n.has(2) { bound(n, 2, "the step of the range")? } else { Dim::Fixed(1) };
    let step = delta
        .fixed()
        .filter(|&step| step != 0 && step != i64::MIN)
        .ok_or_else(|| n.wants_constant(2, "the range's step is not constant"))?;
    let zero = Dim::Fixed(0);
    let distance = if step > 0 { limit.sub(&start) } else { start.sub(&limit) };
    let len = n.facts().max(&distance.ceil_div(&Dim::Fixed(step.abs())), &zero);
    if let (Some(count), true) = (len.fixed(), dtype != DType::Bool)
        && count <= MAX_ELEMENTS as i64
    {
        let element = |index: i64| start.add(&Dim::Fixed(index.wrapping_mul(step)));
        n.set_known(0, Known::vector(dtype, (0..count).map(element)));
        return Ok(());
    }
    let operands = [n.input(0)?, if n.has(2) { n.input(2)? } else { n.scalar(dtype, 1.0)? }];
    let mut scalars = Vec::with_capacity(2);
    for operand in operands {
        scalars.push(n.reshape(operand, Vec::new())?);
    }
    let y = n.emit(ops::Range { len }, &scalars)?;
    n.set(0, y);
    Ok(())
}

fn eye_like(n: &mut NodeLowering) -> Result<()> {
    let ty = n.input_type(0)?;
    let dtype = match n.int("dtype")? {
        Some(element_type) => crate::onnx::dtype_of(element_type)
            .ok_or_else(|| Reject::new(format!("element type {element_type} is not supported")))?,
        None => ty.dtype,
    };
    let [rows, columns] = ty.shape.as_slice() else { return Err(Reject::invalid("wants a matrix")) };
    let one = Dim::Fixed(1);
    let row = iota(n, rows, vec![rows.clone(), one.clone()])?;
    let column = iota(n, columns, vec![one, columns.clone()])?;
    let row = n.with_scalar(engraft_network::BinaryOp::Add, row, n.int_or("k", 0)? as f64)?;
    let diagonal = n.binary(engraft_network::BinaryOp::Eq, row, column)?;
    let y = n.cast(diagonal, dtype)?;
    n.set(0, y);
    Ok(())
}

/// The target shape with ONNX's 0 (copy) and -1 (infer) resolved; where it arrives at run time, the sizes choose then.
pub(in crate::dialect) fn target_shape(
    facts: &Facts,
    from: &[Dim],
    to: &[Dim],
    allow_zero: bool,
) -> Result<Vec<Dim>> {
    let [zero, one, rest] = [0, 1, -1].map(Dim::Fixed);
    if to.iter().filter(|dim| **dim == rest).count() > 1 {
        return Err(Reject::invalid("the target shape has more than one -1"));
    }
    let mut shape = Vec::with_capacity(to.len());
    for (axis, dim) in to.iter().enumerate() {
        let may_copy = !allow_zero && (*dim == zero || facts.may_be_signed(dim));
        shape.push(match (dim.fixed(), from.get(axis)) {
            (Some(size), _) if size < -1 => {
                return Err(Reject::invalid(format!("the target shape has the size {size}")));
            }
            (_, Some(copied)) if may_copy => Dim::if_equal(dim, &zero, copied, dim),
            (Some(0), None) if may_copy => return Err(Reject::invalid("a 0 has no axis to copy")),
            _ => dim.clone(),
        });
    }
    let may_infer = |dim: &Dim| *dim == rest || facts.may_be_signed(dim);
    if to.iter().any(may_infer) {
        let given: Vec<Dim> = shape
            .iter()
            .zip(to)
            .map(
                |(size, dim)| {
                    if may_infer(dim) { Dim::if_equal(dim, &rest, &one, size) } else { size.clone() }
                },
            )
            .collect();
        let inferred = quotient_of_products(from, &given);
        for (size, dim) in shape.iter_mut().zip(to).filter(|(_, dim)| may_infer(dim)) {
            *size = Dim::if_equal(dim, &rest, &inferred, size);
        }
    }
    Ok(shape)
}

/// `product(from) / product(to)`, factors of both cancelled first.
fn quotient_of_products(from: &[Dim], to: &[Dim]) -> Dim {
    let mut rest: Vec<Dim> = from.to_vec();
    let mut divisor = Vec::new();
    for dim in to {
        match rest.iter().position(|candidate| candidate == dim) {
            Some(index) => {
                rest.swap_remove(index);
            }
            None => divisor.push(dim.clone()),
        }
    }
    Dim::product(&rest).floor_div(&Dim::product(&divisor))
}

fn reshape(n: &mut NodeLowering) -> Result<()> {
    let from = n.input_type(0)?.shape;
    let to = n.dims(1, "the target shape")?;
    let shape = target_shape(n.facts(), &from, &to, n.flag("allowzero")?)?;
    reshaped(n, shape)
}

/// Sets output 0 to operand 0 under another shape.
pub(in crate::dialect) fn reshaped(n: &mut NodeLowering, shape: Vec<Dim>) -> Result<()> {
    let fixed: Option<Vec<usize>> =
        shape.iter().map(|dim| dim.fixed().and_then(|size| usize::try_from(size).ok())).collect();
    if let (Some(known), Some(fixed)) = (n.known(0), fixed)
        && let Some(known) = known.reshaped(&fixed)
    {
        n.set_known(0, known);
        return Ok(());
    }
    if n.input_type(0)?.shape.as_slice() == shape.as_slice() {
        return n.forward(0, 0);
    }
    let x = n.input(0)?;
    let y = n.reshape(x, shape)?;
    n.set(0, y);
    Ok(())
}

fn flatten(n: &mut NodeLowering) -> Result<()> {
    let dims = n.input_type(0)?.shape;
    let position = n.int_or("axis", 1)?;
    let rank = dims.len() as i64;
    let position = if position < 0 { position.wrapping_add(rank) } else { position };
    if !(0..=rank).contains(&position) {
        return Err(Reject::invalid(format!("axis {position} is outside rank {rank}")));
    }
    let (left, right) = dims.split_at(position as usize);
    reshaped(n, vec![Dim::product(left), Dim::product(right)])
}

/// Axes from the attribute (before operator set 13) or input 1.
fn axes_argument(n: &mut NodeLowering) -> Result<Option<Vec<i64>>> {
    match n.ints("axes")? {
        Some(list) => Ok(Some(list)),
        None if n.has(1) => n.integers(1, "the list of axes").map(Some),
        None => Ok(None),
    }
}

fn squeeze(n: &mut NodeLowering) -> Result<()> {
    let dims = n.input_type(0)?.shape;
    let removed = match axes_argument(n)? {
        Some(list) => axes(&list, dims.len())?,
        None => {
            if dims.iter().any(|dim| dim.fixed().is_none()) {
                return Err(n.wants_fixed_dims(0, "which axes to squeeze depends on the shape"));
            }
            (0..dims.len()).filter(|&axis| dims[axis].fixed() == Some(1)).collect()
        }
    };
    if let Some(&axis) = removed.iter().find(|&&axis| dims[axis].fixed().is_some_and(|size| size != 1)) {
        return Err(Reject::invalid(format!("axis {axis} to squeeze has the size {}", dims[axis])));
    }
    let kept =
        (0..dims.len()).filter(|axis| !removed.contains(axis)).map(|axis| dims[axis].clone()).collect();
    reshaped(n, kept)
}

fn unsqueeze(n: &mut NodeLowering) -> Result<()> {
    let dims = n.input_type(0)?.shape;
    let list = axes_argument(n)?.ok_or_else(|| Reject::invalid("axes are missing"))?;
    let added = axes(&list, dims.len() + list.len())?;
    let mut rest = dims.into_iter();
    let rank = rest.len() + added.len();
    let shape = (0..rank)
        .filter_map(|axis| if added.contains(&axis) { Some(Dim::Fixed(1)) } else { rest.next() })
        .collect();
    reshaped(n, shape)
}

fn transpose(n: &mut NodeLowering) -> Result<()> {
    let rank = n.input_type(0)?.rank();
    let perm: Vec<usize> = match n.ints("perm")? {
        Some(list) => list.iter().map(|&from| axis(from, rank)).collect::<Result<_>>()?,
        None => (0..rank).rev().collect(),
    };
    permuted(n, &perm)
}

/// Operand 0 with its axes in the order `perm`.
pub(in crate::dialect) fn permuted(n: &mut NodeLowering, perm: &[usize]) -> Result<()> {
    let rank = n.input_type(0)?.rank();
    if perm.len() != rank || (0..rank).any(|axis| !perm.contains(&axis)) {
        return Err(Reject::invalid(format!("{perm:?} is no permutation of {rank} axes")));
    }
    if let Some(known) = n.known(0) {
        n.set_known(0, known.transposed(perm));
        return Ok(());
    }
    let x = n.input(0)?;
    let y = n.transpose(x, perm)?;
    n.set(0, y);
    Ok(())
}

fn concat(n: &mut NodeLowering) -> Result<()> {
    let rank = n.input_type(0)?.rank();
    let axis = axis(n.int("axis")?.ok_or_else(|| Reject::invalid("attribute axis is missing"))?, rank)?;
    concatenate(n, 0..n.input_count(), axis)
}

/// The operands of these numbers one after the other along an axis.
pub(in crate::dialect) fn concatenate(
    n: &mut NodeLowering,
    mut operands: std::ops::Range<usize>,
    axis: usize,
) -> Result<()> {
    let known: Option<Vec<Known>> = operands.clone().map(|index| n.known(index)).collect();
    if let Some(known) = known.and_then(|parts| Known::concat(&parts, axis)) {
        n.set_known(0, known);
        return Ok(());
    }
    // Shape vectors mix known parts with elements of an input.
    let small = operands
        .clone()
        .all(|index| n.input_type(index).is_ok_and(|ty| ty.rank() == 1 && !ty.dtype.is_float()));
    if small
        && let Some(parts) = operands.clone().map(|index| n.contents(index)).collect::<Option<Vec<_>>>()
        && let Some(known) = Known::concat(&parts, axis)
    {
        n.set_known(0, known);
        return Ok(());
    }
    let inputs = operands.by_ref().map(|index| n.input(index)).collect::<Result<Vec<_>>>()?;
    if let [only] = inputs.as_slice() {
        n.set(0, *only);
        return Ok(());
    }
    let y = n.emit(ops::Concat { axis }, &inputs)?;
    n.set(0, y);
    Ok(())
}

pub(in crate::dialect) fn expand(n: &mut NodeLowering) -> Result<()> {
    let from = n.input_type(0)?.shape;
    let to = n.dims(1, "the target shape")?;
    // The result is what both shapes broadcast to: a 1 in the target keeps the operand's size.
    let rank = from.len().max(to.len());
    let at = |shape: &[Dim], index: usize| {
        (index + shape.len()).checked_sub(rank).map_or(Dim::Fixed(1), |index| shape[index].clone())
    };
    let shape: Vec<Dim> = (0..rank).map(|index| at(&from, index).broadcast(&at(&to, index))).collect();
    let fixed: Option<Vec<usize>> =
        shape.iter().map(|dim| dim.fixed().and_then(|size| usize::try_from(size).ok())).collect();
    if let (Some(known), Some(fixed)) = (n.known(0), fixed)
        && let Some(known) = known.broadcast(&fixed)
    {
        n.set_known(0, known);
        return Ok(());
    }
    if from.as_slice() == shape.as_slice() {
        return n.forward(0, 0);
    }
    let x = n.input(0)?;
    let y = n.emit(ops::Expand { shape }, &[x])?;
    n.set(0, y);
    Ok(())
}

pub(in crate::dialect) fn tile(n: &mut NodeLowering) -> Result<()> {
    let repeats = n.dims(1, "the number of repeats")?;
    if repeats.iter().all(|count| count.fixed() == Some(1)) {
        return n.forward(0, 0);
    }
    let x = n.input(0)?;
    let y = n.emit(ops::Tile { repeats }, &[x])?;
    n.set(0, y);
    Ok(())
}

fn block_size(n: &NodeLowering) -> Result<Dim> {
    match n.int_or("blocksize", 0)? {
        size if size > 0 => Ok(Dim::Fixed(size)),
        size => Err(Reject::invalid(format!("blocksize {size} is not positive"))),
    }
}

fn depth_to_space(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let b = block_size(n)?;
    let shape = n.shape(x);
    let [batch, channels, height, width] = shape.as_slice() else {
        return Err(Reject::invalid("wants [N, C, H, W]"));
    };
    let depth = channels.floor_div(&b.mul(&b));
    let (inner, perm) = match n.string_or("mode", "DCR")? {
        "DCR" => ([b.clone(), b.clone(), depth.clone()], [0, 3, 4, 1, 5, 2]),
        "CRD" => ([depth.clone(), b.clone(), b.clone()], [0, 1, 4, 2, 5, 3]),
        other => return Err(Reject::invalid(format!("mode {other:?} is not defined"))),
    };
    let [p, q, r] = inner;
    let y = n.reshape(x, vec![batch.clone(), p, q, r, height.clone(), width.clone()])?;
    let y = n.transpose(y, &perm)?;
    let y = n.reshape(y, vec![batch.clone(), depth, height.mul(&b), width.mul(&b)])?;
    n.set(0, y);
    Ok(())
}

fn space_to_depth(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let b = block_size(n)?;
    let shape = n.shape(x);
    let [batch, channels, height, width] = shape.as_slice() else {
        return Err(Reject::invalid("wants [N, C, H, W]"));
    };
    let (h, w) = (height.floor_div(&b), width.floor_div(&b));
    let y =
        n.reshape(x, vec![batch.clone(), channels.clone(), h.clone(), b.clone(), w.clone(), b.clone()])?;
    let perm = match n.string_or("mode", "DCR")? {
        "DCR" => [0, 3, 5, 1, 2, 4],
        "CRD" => [0, 1, 3, 5, 2, 4],
        other => return Err(Reject::invalid(format!("mode {other:?} is not defined"))),
    };
    let y = n.transpose(y, &perm)?;
    let y = n.reshape(y, vec![batch.clone(), channels.mul(&b).mul(&b), h, w])?;
    n.set(0, y);
    Ok(())
}

pub(super) fn trilu(n: &mut NodeLowering) -> Result<()> {
    let upper = n.int_or("upper", 1)? != 0;
    let k = match n.has(1) {
        false => Dim::Fixed(0),
        true => match n.dims(1, "the diagonal")?.as_slice() {
            [k] => k.clone(),
            other => return Err(Reject::invalid(format!("{} values for k", other.len()))),
        },
    };
    let x = n.input(0)?;
    let y = n.emit(ops::Trilu { upper, k }, &[x])?;
    n.set(0, y);
    Ok(())
}

/// A scalar zero of a type, as padding value.
pub(in crate::dialect) fn zero(n: &mut NodeLowering, dtype: DType) -> Result<ValueId> {
    let tensor = scalar_tensor(dtype, 0.0)?;
    Ok(n.add_constant(tensor))
}

/// `0, 1, .. len - 1` as `i64` in a shape of `len` elements.
pub(in crate::dialect) fn iota(n: &mut NodeLowering, len: &Dim, shape: Vec<Dim>) -> Result<ValueId> {
    let (start, step) = (n.scalar(DType::I64, 0.0)?, n.scalar(DType::I64, 1.0)?);
    let line = n.emit(ops::Range { len: len.clone() }, &[start, step])?;
    n.reshape(line, shape)
}

/// A size as an `i64` scalar.
pub(in crate::dialect) fn size_scalar(n: &mut NodeLowering, size: &Dim) -> Result<ValueId> {
    match size.fixed() {
        Some(fixed) => n.scalar(DType::I64, fixed as f64),
        None => n.emit(ops::ShapeTensor { dims: vec![size.clone()], scalar: true, dtype: DType::I64 }, &[]),
    }
}
