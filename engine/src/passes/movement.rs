//! Operators that only move or copy elements: those without effect go, neighbours merge.

use super::sweep::{Sweep, all_ones, join, sweep};
use super::transpose::{compose, is_identity};
use engraft_network::ops::{
    Concat, Expand, MatMul, Pad, Reduce, ReduceOp, Reshape, Slice, SliceRange, Tile, Transpose,
};
use engraft_network::{Dim, Network, NetworkError, NodeId, Op, TensorType, ValueId};

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| visit(s, id))
}

fn visit(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let out = node.outputs[0];
    let Some(x) = node.inputs.first().copied() else { return Ok(()) };
    let same = s.ty(out) == s.ty(x);
    match &node.op {
        Op::Reshape(_) | Op::Expand(_) if same => s.replace(out, x),
        Op::Tile(Tile { repeats }) if all_ones(repeats) => s.replace(out, x),
        Op::Pad(Pad { before, after, .. }) if before.iter().chain(after).all(|d| d.fixed() == Some(0)) => {
            s.replace(out, x)
        }
        Op::Concat(_) if node.inputs.len() == 1 => s.replace(out, x),
        Op::Transpose(t) if is_identity(&t.perm) => s.replace(out, x),
        Op::Reshape(_) => reshape(s, id),
        Op::Expand(_) => expand(s, id),
        Op::Transpose(_) => transpose(s, id),
        Op::Slice(_) => slice(s, id),
        Op::Concat(_) => concat(s, id),
        Op::Gather(_) => gather(s, id),
        Op::Reduce(_) => reduce(s, id),
        Op::MatMul(_) => matmul(s, id),
        Op::Unary(_) | Op::Binary(_) => reshape_after_elementwise(s, id),
        _ => Ok(()),
    }
}

fn reshape(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let (x, out, name) = (node.inputs[0], node.outputs[0], node.name.clone());
    let Some((pid, p)) = s.producer(x) else { return Ok(()) };
    let (source, pname) = (p.inputs.first().copied(), p.name.clone());
    match (&p.op, source) {
        (Op::Reshape(_), Some(source)) => {
            if s.ty(source) == s.ty(out) {
                return s.replace(out, source);
            }
            let new =
                s.add(join([&*pname, &*name]), Reshape { shape: s.ty(out).shape.to_vec() }, &[source])?;
            s.replace(out, new)
        }
        // Axes that a reduction dropped and somebody puts back.
        (Op::Reduce(r @ Reduce { keep_dims: false, .. }), Some(source)) => {
            let kept: Vec<Dim> = s
                .ty(source)
                .shape
                .iter()
                .enumerate()
                .map(|(i, d)| if r.axes.contains(&i) { Dim::Fixed(1) } else { d.clone() })
                .collect();
            // Of equal extent, so that one axis may be written in another way.
            let to = &s.ty(out).shape;
            let written_otherwise = kept.iter().zip(to).filter(|(a, b)| a != b).count();
            if s.uses(x) != 1
                || kept.len() != to.len()
                || written_otherwise > 1
                || kept
                    .iter()
                    .zip(to)
                    .any(|(a, b)| a != b && a.fixed().is_some() == b.fixed().is_some() && a.fixed().is_some())
                || r.axes.iter().any(|a| to[*a].fixed() != Some(1))
            {
                return Ok(());
            }
            let op = Reduce { keep_dims: true, ..r.clone() };
            let new = s.add(join([&*pname, &*name]), op, &[source])?;
            s.replace(out, new)
        }
        (Op::MatMul(_), _) => reshape_before_product(s, id, pid),
        _ => slice_before_reshape(s, id, pid),
    }
}

/// Rows of a product with one matrix may be counted before it: `reshape(x w)` that keeps the last axis is
/// `reshape(x) w`.
fn reshape_before_product(s: &mut Sweep<'_>, id: NodeId, product: NodeId) -> Result<(), NetworkError> {
    let (Some(node), Some(p)) = (s.node(id), s.node(product)) else { return Ok(()) };
    let Op::MatMul(m) = &p.op else { return Ok(()) };
    let (y, out) = (p.outputs[0], node.outputs[0]);
    let (to, rank) = (s.ty(out).shape.clone(), s.ty(out).rank());
    let (a, b) = (s.ty(p.inputs[0]), s.ty(p.inputs[1]));
    if rank < 2
        || to.last() != s.ty(y).shape.last()
        || m.trans_a
        || m.epilogue.post.is_some()
        || b.rank() != 2
        || s.uses(y) != 1
        || s.is_pinned(product)
    {
        return Ok(());
    }
    let mut shape = to.to_vec();
    shape[rank - 1] = a.shape[a.rank() - 1].clone();
    let (op, mut inputs) = (p.op.clone(), p.inputs.clone());
    let (name, pname) = (node.name.clone(), p.name.clone());
    inputs[0] = s.add(name.clone(), Reshape { shape }, &[inputs[0]])?;
    let new = s.add(join([&*pname, &*name]), op, &inputs)?;
    s.replace(out, new)
}

/// Elementwise work behind a reshaped result of a matrix operator comes before the reshape, where it can join the
/// operator: functions of one operand, and those with a scalar or one value per channel, be the channels split or not.
fn reshape_after_elementwise(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let out = node.outputs[0];
    let Some(main) = node.inputs.iter().position(|v| {
        s.uses(*v) == 1
            && s.producer(*v).is_some_and(|(_, p)| matches!(p.op, Op::Reshape(_)))
            && s.ty(*v).shape == s.ty(out).shape
    }) else {
        return Ok(());
    };
    let Some((_, r)) = s.producer(node.inputs[main]) else { return Ok(()) };
    let x = r.inputs[0];
    let matrix = |v: ValueId| {
        s.uses(v) == 1
            && s.producer(v)
                .is_some_and(|(_, p)| matches!(p.op, Op::MatMul(_) | Op::Conv(_) | Op::ConvTranspose(_)))
    };
    let (tx, to) = (s.ty(x), s.ty(out));
    let Some(channels) = tx.shape.last().cloned() else { return Ok(()) };
    let keeps_last = to.shape.last() == Some(&channels);
    // One value for each of the axes that the channels were split into.
    let splits = |t: &TensorType| {
        t.rank() > 1 && to.shape.ends_with(&t.shape) && t.count() == channels && channels.fixed().is_some()
    };
    let mut others = node.inputs.iter().enumerate().filter(|(i, _)| *i != main).map(|(_, v)| s.ty(*v));
    if !matrix(x) || !others.all(|t| t.rank() == 0 || keeps_last && t.rank() == 1 || splits(t)) {
        return Ok(());
    }
    let (name, op, mut inputs) = (node.name.clone(), node.op.clone(), node.inputs.clone());
    let shape = to.shape.to_vec();
    inputs[main] = x;
    for v in &mut inputs {
        if *v != x && s.ty(*v).rank() > 1 {
            *v = s.add(name.clone(), Reshape { shape: vec![channels.clone()] }, &[*v])?;
        }
    }
    let y = s.add(name.clone(), op, &inputs)?;
    let new = s.add(name, Reshape { shape }, &[y])?;
    s.replace(out, new)
}

/// `reshape(slice(x))` where the slice is of the last axis and the reshape splits that axis: the slice comes last, so
/// that both are views of x.
fn slice_before_reshape(s: &mut Sweep<'_>, id: NodeId, slice: NodeId) -> Result<(), NetworkError> {
    let (Some(node), Some(p)) = (s.node(id), s.node(slice)) else { return Ok(()) };
    let Op::Slice(Slice { ranges }) = &p.op else { return Ok(()) };
    let (x, mid, out) = (p.inputs[0], p.outputs[0], node.outputs[0]);
    let (tx, tm, to) = (s.ty(x), s.ty(mid), s.ty(out));
    let last = tx.rank().saturating_sub(1);
    let [range] = ranges.as_slice() else { return Ok(()) };
    if range.axis != last
        || range.step != 1
        || to.rank() != tm.rank() + 1
        || to.shape[..last] != tm.shape[..last]
    {
        return Ok(());
    }
    let (Some(start), Some(whole), Some(inner)) =
        (range.start.fixed(), tx.shape[last].fixed(), to.shape[last + 1].fixed())
    else {
        return Ok(());
    };
    if inner == 0 || start % inner != 0 || whole % inner != 0 {
        return Ok(());
    }
    let mut shape: Vec<Dim> = tx.shape.to_vec();
    shape[last] = Dim::Fixed(whole / inner);
    shape.push(Dim::Fixed(inner));
    let len = to.shape[last].clone();
    let (name, pname) = (node.name.clone(), p.name.clone());
    let split = s.add(name.clone(), Reshape { shape }, &[x])?;
    let ranges = vec![SliceRange { axis: last, start: Dim::Fixed(start / inner), len, step: 1 }];
    let new = s.add(join([&*pname, &*name]), Slice { ranges }, &[split])?;
    s.replace(out, new)
}

fn expand(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let (x, out, name) = (node.inputs[0], node.outputs[0], node.name.clone());
    let Some((_, p)) = s.producer(x) else { return Ok(()) };
    if let Op::Expand(_) = p.op {
        let source = p.inputs[0];
        let new = s.add(name, Expand { shape: s.ty(out).shape.to_vec() }, &[source])?;
        s.replace(out, new)?;
    }
    Ok(())
}

fn transpose(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let Op::Transpose(t) = &node.op else { return Ok(()) };
    let (x, out, name) = (node.inputs[0], node.outputs[0], node.name.clone());
    let Some((_, p)) = s.producer(x) else { return Ok(()) };
    let Op::Transpose(first) = &p.op else { return Ok(()) };
    let source = p.inputs[0];
    let perm = compose(&first.perm, &t.perm);
    if is_identity(&perm) {
        return s.replace(out, source);
    }
    let new = s.add(join([&*p.name.clone(), &*name]), Transpose { perm }, &[source])?;
    s.replace(out, new)
}

fn slice(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let Op::Slice(Slice { ranges }) = &node.op else { return Ok(()) };
    let (x, out, name) = (node.inputs[0], node.outputs[0], node.name.clone());
    let shape = &s.ty(x).shape;
    let effective: Vec<SliceRange> = ranges
        .iter()
        .filter(|r| !(r.step == 1 && r.start.fixed() == Some(0) && r.len == shape[r.axis]))
        .cloned()
        .collect();
    if effective.is_empty() {
        return s.replace(out, x);
    }
    let shorter = effective.len() < ranges.len();
    let Some((_, p)) = s.producer(x) else {
        return if shorter { rebuild(s, name, effective, x, out) } else { Ok(()) };
    };
    match &p.op {
        Op::Slice(first) => {
            let mut merged = first.ranges.clone();
            for r in &effective {
                match merged.iter_mut().find(|m| m.axis == r.axis) {
                    Some(m) => {
                        *m = SliceRange {
                            axis: m.axis,
                            start: m.start.add(&r.start.mul(&Dim::Fixed(m.step))),
                            len: r.len.clone(),
                            step: m.step * r.step,
                        }
                    }
                    None => merged.push(r.clone()),
                }
            }
            merged.sort_by_key(|r| r.axis);
            let source = p.inputs[0];
            let name = join([&*p.name.clone(), &*name]);
            rebuild(s, name, merged, source, out)
        }
        Op::Concat(Concat { axis }) => {
            let axis = *axis;
            let inputs = p.inputs.clone();
            let Some(i) = effective.iter().position(|r| r.axis == axis) else {
                return if shorter { rebuild(s, name, effective, x, out) } else { Ok(()) };
            };
            let (Some(start), Some(len), 1) =
                (effective[i].start.fixed(), effective[i].len.fixed(), effective[i].step)
            else {
                return Ok(());
            };
            let mut at = 0;
            for v in inputs {
                let Some(size) = s.ty(v).shape[axis].fixed() else { return Ok(()) };
                if start >= at && start + len <= at + size {
                    let mut inner = effective.clone();
                    inner[i].start = Dim::Fixed(start - at);
                    if len == size {
                        inner.remove(i);
                    }
                    if inner.is_empty() {
                        return s.replace(out, v);
                    }
                    return rebuild(s, name, inner, v, out);
                }
                at += size;
            }
            Ok(())
        }
        _ if shorter => rebuild(s, name, effective, x, out),
        _ => Ok(()),
    }
}

fn rebuild(
    s: &mut Sweep<'_>,
    name: String,
    ranges: Vec<SliceRange>,
    x: ValueId,
    out: ValueId,
) -> Result<(), NetworkError> {
    let new = s.add(name, Slice { ranges }, &[x])?;
    s.replace(out, new)
}

/// Concatenations along one axis flow into each other where nobody else reads the inner one.
fn concat(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let Op::Concat(c) = &node.op else { return Ok(()) };
    let axis = c.axis;
    let (inputs, out, name) = (node.inputs.clone(), node.outputs[0], node.name.clone());
    let mut flat: Vec<ValueId> = Vec::with_capacity(inputs.len());
    let mut names = vec![name];
    for v in &inputs {
        match s.producer(*v) {
            Some((_, p)) if p.op == Op::Concat(Concat { axis }) && s.uses(*v) == 1 => {
                flat.extend(p.inputs.iter().copied());
                names.push(p.name.clone());
            }
            // Parts without elements.
            _ if s.ty(*v).shape[axis].fixed() == Some(0) => {}
            _ => flat.push(*v),
        }
    }
    if flat.is_empty() || flat.as_slice() == inputs.as_slice() {
        return Ok(());
    }
    let new = match flat.as_slice() {
        [one] => *one,
        _ => s.add(join(names.iter().map(String::as_str)), Concat { axis }, &flat)?,
    };
    s.replace(out, new)
}

/// A gather of one constant index is a slice, which is a view.
fn gather(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let Op::Gather(g) = &node.op else { return Ok(()) };
    let (axis, x, indices, out, name) =
        (g.axis, node.inputs[0], node.inputs[1], node.outputs[0], node.name.clone());
    let Some(t) = s.net().constant(indices) else { return Ok(()) };
    if t.count() != 1 || s.net().constant(x).is_some() {
        return Ok(());
    }
    let index = t.get_i64(0);
    let size = &s.ty(x).shape[axis];
    let start = if index < 0 { size.add(&Dim::Fixed(index)) } else { Dim::Fixed(index) };
    // Out of range stays what it is: an error at run time.
    let inside = match size.fixed() {
        Some(n) => (-n..n).contains(&index),
        None => matches!(index, 0 | -1),
    };
    if !inside {
        return Ok(());
    }
    let ranges = vec![SliceRange { axis, start, len: Dim::Fixed(1), step: 1 }];
    let part = s.add(name.clone(), Slice { ranges }, &[x])?;
    let new = if s.ty(part).shape == s.ty(out).shape {
        part
    } else {
        let shape = s.ty(out).shape.to_vec();
        s.add(name, Reshape { shape }, &[part])?
    };
    s.replace(out, new)
}

/// A reduction over no axis, or over axes of size 1, moves elements at most.
fn reduce(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let Op::Reduce(r) = &node.op else { return Ok(()) };
    let (x, out, name) = (node.inputs[0], node.outputs[0], node.name.clone());
    let copies =
        matches!(r.op, ReduceOp::Sum | ReduceOp::Mean | ReduceOp::Max | ReduceOp::Min | ReduceOp::Prod);
    if !copies || !all_ones(r.axes.iter().map(|a| &s.ty(x).shape[*a])) {
        return Ok(());
    }
    if s.ty(x) == s.ty(out) {
        return s.replace(out, x);
    }
    let new = s.add(name, Reshape { shape: s.ty(out).shape.to_vec() }, &[x])?;
    s.replace(out, new)
}

/// A product reads its operands' last two axes in either order: swaps of them go into its flags. What remains of a
/// larger permutation keeps the contiguous axis innermost.
fn matmul(s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
    let Some(node) = s.node(id) else { return Ok(()) };
    let Op::MatMul(m) = &node.op else { return Ok(()) };
    let (mut m, mut inputs, out, name): (MatMul, _, _, _) =
        (m.clone(), node.inputs.clone(), node.outputs[0], node.name.clone());
    let mut changed = false;
    for i in 0..2 {
        let Some((_, p)) = s.producer(inputs[i]) else { continue };
        let Op::Transpose(t) = &p.op else { continue };
        let r = t.perm.len();
        if r < 2 || t.perm[r - 2] != r - 1 {
            continue;
        }
        let mut perm = t.perm.clone();
        perm.swap(r - 2, r - 1);
        let (source, pname) = (p.inputs[0], p.name.clone());
        inputs[i] = if is_identity(&perm) { source } else { s.add(pname, Transpose { perm }, &[source])? };
        let flag = if i == 0 { &mut m.trans_a } else { &mut m.trans_b };
        *flag = !*flag;
        changed = true;
    }
    if changed {
        let new = s.add(name, m, &inputs)?;
        s.replace(out, new)?;
    }
    Ok(())
}
