//! Elementwise arithmetic in one spelling: neutral operands vanish, constants move to the right, powers become products.
//!
//! All rewrites keep `f32` results to the last bit but for the sign of zeros, except the powers (which become more exact).

use super::sweep::{Sweep, float_constant, join, splat, sweep};
use engraft_network::ops::{Binary, Cast, Reduce, ReduceOp, Unary, broadcast_shapes};
use engraft_network::{BinaryOp, DType, Network, NetworkError, NodeId, Op, UnaryOp, ValueId};

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| {
        if narrow_operands(s, id)? {
            return Ok(());
        }
        let Some(node) = s.node(id) else { return Ok(()) };
        let (op, out, name) = (&node.op, node.outputs[0], node.name.clone());
        match op {
            Op::Binary(Binary { op }) => {
                let (op, a, b) = (*op, node.inputs[0], node.inputs[1]);
                binary(s, name, op, a, b, out)
            }
            Op::Unary(Unary { op }) => {
                let (op, a) = (*op, node.inputs[0]);
                unary(s, name, op, a, out)
            }
            Op::Cast(Cast { to }) => {
                let (to, a) = (*to, node.inputs[0]);
                cast(s, name, to, a, out)
            }
            Op::Select(_) => {
                let (c, a, b) = (node.inputs[0], node.inputs[1], node.inputs[2]);
                match splat(s.net(), c) {
                    Some(v) => {
                        let chosen = if v != 0.0 { a } else { b };
                        keep(s, out, chosen)
                    }
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    })
}

/// Replaces `out` by `x` if their types are the same (`x` is not broadcast).
fn keep(s: &mut Sweep<'_>, out: ValueId, x: ValueId) -> Result<(), NetworkError> {
    if s.ty(out) == s.ty(x) { s.replace(out, x) } else { Ok(()) }
}

/// Elementwise operators broadcast their operands themselves: an Expand before them goes, constants of equal elements
/// become scalars, and leading axes of size 1 of constants are dropped.
fn narrow_operands(s: &mut Sweep<'_>, id: NodeId) -> Result<bool, NetworkError> {
    let Some(node) = s.node(id) else { return Ok(false) };
    if !matches!(node.op, Op::Binary(_) | Op::Select(_) | Op::Pointwise(_)) {
        return Ok(false);
    }
    let (op, name, out) = (node.op.clone(), node.name.clone(), node.outputs[0]);
    let mut inputs = node.inputs.clone();
    let mut changed = false;
    for i in 0..inputs.len() {
        let v = inputs[i];
        let fits = |s: &Sweep<'_>, inputs: &[ValueId], shape: &[engraft_network::Dim]| {
            let shapes = inputs
                .iter()
                .enumerate()
                .map(|(k, o)| if k == i { shape } else { s.ty(*o).shape.as_slice() });
            broadcast_shapes(shapes).is_ok_and(|b| b == s.ty(out).shape)
        };
        if let Some((_, p)) = s.producer(v)
            && matches!(p.op, Op::Expand(_))
        {
            let source = p.inputs[0];
            if fits(s, &inputs, &s.ty(source).shape) {
                inputs[i] = source;
                changed = true;
                continue;
            }
        }
        let Some(t) = s.net().constant(v) else { continue };
        if t.shape().is_empty() {
            continue;
        }
        if splat(s.net(), v).is_some() && fits(s, &inputs, &[]) {
            let width = t.dtype().bits() / 8;
            if width == 0 {
                continue;
            }
            let Ok(scalar) = engraft_network::Tensor::from_bytes(t.dtype(), &[], &t.bytes()[..width]) else {
                continue;
            };
            inputs[i] = s.constant(s.net().value(v).name.clone(), scalar);
            changed = true;
        } else if t.shape()[0] == 1 {
            let ones = t.shape().iter().take_while(|d| **d == 1).count();
            let shape = t.shape()[ones..].to_vec();
            let dims: Vec<engraft_network::Dim> = shape.iter().map(|d| (*d).into()).collect();
            if fits(s, &inputs, &dims)
                && let Ok(t) = t.reshaped(&shape)
            {
                inputs[i] = s.constant(s.net().value(v).name.clone(), t);
                changed = true;
            }
        }
    }
    if changed {
        let new = s.add(name, op, &inputs)?;
        s.replace(out, new)?;
    }
    Ok(changed)
}

fn binary(
    s: &mut Sweep<'_>,
    name: String,
    op: BinaryOp,
    a: ValueId,
    b: ValueId,
    out: ValueId,
) -> Result<(), NetworkError> {
    use BinaryOp::*;
    let dtype = s.ty(a).dtype;
    let (ca, cb) = (s.net().constant(a).is_some(), s.net().constant(b).is_some());
    if op.is_commutative() && ca && !cb {
        let new = s.add(name, Binary { op }, &[b, a])?;
        return s.replace(out, new);
    }
    if a == b && dtype == DType::Bool && matches!(op, And | Or) || a == b && matches!(op, Min | Max) {
        return keep(s, out, a);
    }
    if ca && splat(s.net(), a) == Some(1.0) && op == Div && dtype.is_float() && s.ty(b) == s.ty(out) {
        let new = s.add(name, Unary { op: UnaryOp::Recip }, &[b])?;
        return s.replace(out, new);
    }
    if ca && splat(s.net(), a) == Some(0.0) && op == Sub && s.ty(b) == s.ty(out) {
        let new = s.add(name, Unary { op: UnaryOp::Neg }, &[b])?;
        return s.replace(out, new);
    }
    let Some(c) = (if cb { splat(s.net(), b) } else { None }) else { return Ok(()) };
    match (op, c) {
        (Add | Sub | BitOr | BitXor | Shl | Shr, 0.0) | (Mul | Div | Pow, 1.0) => return keep(s, out, a),
        (Max, f64::NEG_INFINITY) | (Min, f64::INFINITY) => return keep(s, out, a),
        _ => {}
    }
    if dtype == DType::Bool {
        return match (op, c != 0.0) {
            (And, true) | (Or, false) | (Xor, false) | (Eq, true) | (Ne, false) => keep(s, out, a),
            _ => Ok(()),
        };
    }
    if !dtype.is_float() || s.ty(a) != s.ty(out) {
        return Ok(());
    }
    if let (Mul | Div, Some((r, x, n))) = (op, sum_of(s, a)) {
        let factor = if op == Mul { c } else { 1.0 / c };
        // Where rounding of the factor is all that could differ.
        if (factor * n as f64 - 1.0).abs() < 1e-7 {
            let name = join([&*s.producer(a).map_or(String::new(), |(_, p)| p.name.clone()), &*name]);
            let new = s.add(name, Reduce { op: ReduceOp::Mean, ..r }, &[x])?;
            return s.replace(out, new);
        }
    }
    let unary = |u: UnaryOp| Unary { op: u };
    let new = match (op, c) {
        (Pow, 2.0) => s.add(name, Binary { op: Mul }, &[a, a])?,
        (Pow, 3.0) => {
            let square = s.add(name.clone(), Binary { op: Mul }, &[a, a])?;
            s.add(name, Binary { op: Mul }, &[square, a])?
        }
        (Pow, 0.5) => s.add(name, unary(UnaryOp::Sqrt), &[a])?,
        (Pow, -0.5) => s.add(name, unary(UnaryOp::Rsqrt), &[a])?,
        (Pow, -1.0) => s.add(name, unary(UnaryOp::Recip), &[a])?,
        (Max, 0.0) => s.add(name, unary(UnaryOp::Relu), &[a])?,
        (Mul | Div, -1.0) => s.add(name, unary(UnaryOp::Neg), &[a])?,
        (Sub, c) => {
            let Some(negative) = float_constant(s, dtype, -c) else { return Ok(()) };
            s.add(name, Binary { op: Add }, &[a, negative])?
        }
        // Only where the reciprocal is exact.
        (Div, c) if is_power_of_two(c) => {
            let Some(reciprocal) = float_constant(s, dtype, 1.0 / c) else { return Ok(()) };
            s.add(name, Binary { op: Mul }, &[a, reciprocal])?
        }
        _ => return Ok(()),
    };
    s.replace(out, new)
}

/// A sum over a fixed number of elements that nobody else reads: the reduction, its operand and the number.
fn sum_of(s: &Sweep<'_>, v: ValueId) -> Option<(Reduce, ValueId, i64)> {
    let (_, p) = s.producer(v)?;
    let Op::Reduce(r @ Reduce { op: ReduceOp::Sum, .. }) = &p.op else { return None };
    let x = p.inputs[0];
    let n = r.axes.iter().map(|a| s.ty(x).shape[*a].fixed()).product::<Option<i64>>()?;
    (s.uses(v) == 1 && n > 0).then(|| (r.clone(), x, n))
}

/// True for powers of two whose reciprocal is a normal number in every float type wider than 8 bits.
fn is_power_of_two(c: f64) -> bool {
    c.is_normal() && c.to_bits() << 12 == 0 && (2f64.powi(-12)..=2f64.powi(12)).contains(&c.abs())
}

fn unary(s: &mut Sweep<'_>, name: String, op: UnaryOp, a: ValueId, out: ValueId) -> Result<(), NetworkError> {
    let Some((_, p)) = s.producer(a) else { return Ok(()) };
    let x = p.inputs.first().copied();
    match (op, &p.op, x) {
        (UnaryOp::Neg, Op::Unary(Unary { op: UnaryOp::Neg }), Some(x))
        | (UnaryOp::Not, Op::Unary(Unary { op: UnaryOp::Not }), Some(x)) => s.replace(out, x),
        (UnaryOp::Relu | UnaryOp::Abs, Op::Unary(Unary { op: UnaryOp::Relu | UnaryOp::Abs }), _) => {
            s.replace(out, a)
        }
        (UnaryOp::Recip, Op::Unary(Unary { op: UnaryOp::Sqrt }), Some(x)) => {
            let new = s.add(name, Unary { op: UnaryOp::Rsqrt }, &[x])?;
            s.replace(out, new)
        }
        (
            UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Trunc,
            Op::Unary(Unary { op: UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Round | UnaryOp::Trunc }),
            _,
        ) => s.replace(out, a),
        _ => Ok(()),
    }
}

fn cast(s: &mut Sweep<'_>, name: String, to: DType, a: ValueId, out: ValueId) -> Result<(), NetworkError> {
    let from = s.ty(a).dtype;
    if from == to {
        return s.replace(out, a);
    }
    let Some((_, p)) = s.producer(a) else { return Ok(()) };
    let Op::Cast(_) = p.op else { return Ok(()) };
    let x = p.inputs[0];
    let origin = s.ty(x).dtype;
    if !widens(origin, from) {
        return Ok(());
    }
    if origin == to {
        return s.replace(out, x);
    }
    let new = s.add(name, Cast { to }, &[x])?;
    s.replace(out, new)
}

/// True if every value of type `a` is a value of type `b`.
fn widens(a: DType, b: DType) -> bool {
    use DType::*;
    a == b
        || matches!(
            (a, b),
            (F16 | BF16, F32 | F64)
                | (F32, F64)
                | (Bool, _)
                | (I8 | U8, F16 | F32 | F64 | I16 | I32 | I64)
                | (U8, U16 | U32 | U64)
                | (I16 | U16, F32 | F64 | I32 | I64)
                | (U16, U32 | U64)
                | (I32 | U32, F64 | I64)
                | (U32, U64)
        )
}
