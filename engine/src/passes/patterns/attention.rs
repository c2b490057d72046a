//! Scaled dot-product attention: `softmax(q k^T * scale + mask) v`.
//!
//! Exporters put the scale on the scores, on the queries, on both operands as its square root, or before the transposition
//! of the keys; masks are added, or chosen by a condition. All that is read off the chain from the softmax back to
//! the operands. Transpositions of heads stay where they are: beside the operator, as views.

use super::super::sweep::{Sweep, float_constant, join, scalar, sweep};
use crate::assess;
use engraft_kernels::Isa;
use engraft_network::ops::{Attention, Binary, MatMul, Reshape, Select, Softmax, Transpose, Unary};
use engraft_network::{
    BinaryOp, Dim, Network, NetworkError, NodeId, Op, Scalar, TensorType, UnaryOp, ValueId,
};

/// A masked score may be this or lower: its weight is zero wherever a row has any other.
const MASKED: f64 = -1e9;

pub(in super::super) fn run(net: &mut Network, isa: Option<Isa>) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| {
        let Some(found) = find(s, id) else { return Ok(()) };
        found.build(s, id, isa)
    })
}

/// One step from the softmax back to the product.
enum Mask {
    Added(ValueId),
    /// `condition ? scores : low`, or with `inverted` the other way round.
    Chosen {
        condition: ValueId,
        low: f64,
        inverted: bool,
    },
}

struct Found {
    names: Vec<String>,
    q: ValueId,
    k: ValueId,
    v: ValueId,
    /// Keys as `[.., D, S]`.
    k_transposed: bool,
    scale: f64,
    masks: Vec<Mask>,
    /// Written with more elementwise steps than one factor and one sum.
    is_roundabout: bool,
}

fn plain(m: &MatMul) -> bool {
    !m.epilogue.bias && m.epilogue.post.is_none()
}

fn find(s: &Sweep<'_>, id: NodeId) -> Option<Found> {
    let node = s.node(id)?;
    let Op::MatMul(weighted) = &node.op else { return None };
    if !plain(weighted) || weighted.trans_a || weighted.trans_b {
        return None;
    }
    let (p, v) = (node.inputs[0], node.inputs[1]);
    let ty = s.ty(p);
    let rank = ty.rank();
    if !(3..=4).contains(&rank) || s.ty(v).rank() != rank || !ty.dtype.is_float() {
        return None;
    }
    let single = |v: ValueId| {
        let (id, n) = s.producer(v)?;
        (s.uses(v) == 1 && !s.is_pinned(id)).then_some(n)
    };
    // torch replaces the weights of rows that are NaN because all is excluded by zeros.
    let mut guard = None;
    let mut p = p;
    if let Some(n) = single(p).filter(|n| n.op == Op::Select(Select)) {
        let w = n.inputs[2];
        let test = single(n.inputs[0])?;
        if scalar(s.net(), n.inputs[1]) != Some(0.0)
            || test.op != (Op::from(Unary { op: UnaryOp::IsNan }))
            || test.inputs[0] != w
            || s.uses(w) != 2
        {
            return None;
        }
        guard = Some(n.name.clone());
        p = w;
    }
    let softmax = s.producer(p).filter(|(id, _)| s.uses(p) == 1 || guard.is_some() && !s.is_pinned(*id))?.1;
    if softmax.op != Op::Softmax(Softmax { axis: rank - 1, log: false }) {
        return None;
    }
    let mut names = vec![node.name.clone(), softmax.name.clone()];
    // A mask may have a name of its own for the number of keys: the last product takes it for equal to that of the values.
    let keys = s.ty(v).shape[rank - 2].clone();
    let alike = |t: &TensorType| {
        let (last, batch) = (&t.shape[t.rank() - 1], &t.shape[..t.rank() - 1]);
        t.dtype == ty.dtype
            && batch == &ty.shape[..rank - 1]
            && (*last == keys || *last == ty.shape[rank - 1])
    };
    let mut at = softmax.inputs[0];
    let (mut scale, mut masks) = (1.0, Vec::new());
    let product = loop {
        let n = single(at)?;
        if !alike(s.ty(at)) {
            return None;
        }
        names.push(n.name.clone());
        match &n.op {
            Op::MatMul(m) if plain(m) && !m.trans_a => break (n, m),
            Op::Binary(Binary { op: op @ (BinaryOp::Mul | BinaryOp::Div) }) => {
                let c = scalar(s.net(), n.inputs[1])?;
                scale *= if *op == BinaryOp::Mul { c } else { 1.0 / c };
                if !scale.is_finite() {
                    return None;
                }
                at = n.inputs[0];
            }
            // A factor outside of a mask would scale the mask as well.
            Op::Binary(Binary { op: BinaryOp::Add }) if scale == 1.0 => {
                let (a, b) = (n.inputs[0], n.inputs[1]);
                let scores = |v: ValueId| {
                    alike(s.ty(v))
                        && s.producer(v).is_some_and(|(_, n)| {
                            matches!(n.op, Op::MatMul(_) | Op::Binary(_) | Op::Select(_))
                        })
                };
                let (next, mask) = if scores(a) && leads_to_product(s, a) { (a, b) } else { (b, a) };
                masks.push(Mask::Added(mask));
                at = next;
            }
            Op::Select(_) if scale == 1.0 => {
                let (condition, a, b) = (n.inputs[0], n.inputs[1], n.inputs[2]);
                let (next, low, inverted) = match (scalar(s.net(), a), scalar(s.net(), b)) {
                    (None, Some(low)) => (a, low, false),
                    (Some(low), None) => (b, low, true),
                    _ => return None,
                };
                if low > MASKED {
                    return None;
                }
                masks.push(Mask::Chosen { condition, low, inverted });
                at = next;
            }
            _ => return None,
        }
    };
    let (n, m) = product;
    // Without rows that are excluded altogether (by finite masks) the guard does nothing.
    let guarded = guard.is_some();
    if let Some(name) = guard {
        if !masks.iter().all(|m| match m {
            Mask::Added(v) => is_finite(s, *v),
            Mask::Chosen { low, .. } => low.is_finite(),
        }) {
            return None;
        }
        names.insert(1, name);
    }
    let (q, sq) = unscaled(s, n.inputs[0]);
    let (k, sk) = unscaled(s, n.inputs[1]);
    if s.ty(q).rank() != rank || s.ty(k).rank() != rank {
        return None;
    }
    let batch = |t: &TensorType| t.shape[..rank - 2].to_vec();
    if s.ty(n.outputs[0]).shape[rank - 1] != keys
        || batch(s.ty(q)) != batch(ty)
        || batch(s.ty(k)) != batch(ty)
        || batch(s.ty(v)) != batch(ty)
    {
        return None;
    }
    let is_roundabout = sq != 1.0
        || sk != 1.0
        || guarded
        || masks.len() > 1
        || masks.iter().any(|m| matches!(m, Mask::Chosen { .. }));
    names.reverse();
    Some(Found { names, q, k, v, k_transposed: !m.trans_b, scale: scale * sq * sk, masks, is_roundabout })
}

/// True for a mask that is seen to hold no infinity: a constant, or one chosen from finite constants.
fn is_finite(s: &Sweep<'_>, mask: ValueId) -> bool {
    let finite = |v: ValueId| {
        s.net()
            .constant(v)
            .is_some_and(|t| t.count() <= 1 << 20 && (0..t.count()).all(|i| t.get_f64(i).is_finite()))
    };
    let mut v = mask;
    loop {
        if finite(v) {
            return true;
        }
        let Some((_, n)) = s.producer(v) else { return false };
        match &n.op {
            Op::Expand(_) | Op::Reshape(_) | Op::Slice(_) | Op::Transpose(_) => v = n.inputs[0],
            Op::Select(_) => return finite(n.inputs[1]) && finite(n.inputs[2]),
            _ => return false,
        }
    }
}

/// True if a product of two matrices is found going back along first operands.
fn leads_to_product(s: &Sweep<'_>, v: ValueId) -> bool {
    let mut v = v;
    for _ in 0..6 {
        let Some((_, n)) = s.producer(v) else { return false };
        match &n.op {
            Op::MatMul(_) => return true,
            Op::Binary(_) => v = n.inputs[0],
            Op::Select(_) => {
                v = if scalar(s.net(), n.inputs[1]).is_some() { n.inputs[2] } else { n.inputs[1] }
            }
            _ => return false,
        }
    }
    false
}

/// A value without a constant factor, and the factor.
fn unscaled(s: &Sweep<'_>, v: ValueId) -> (ValueId, f64) {
    if s.uses(v) == 1
        && let Some((_, n)) = s.producer(v)
        && let Op::Binary(Binary { op: op @ (BinaryOp::Mul | BinaryOp::Div) }) = n.op
        && let Some(c) = scalar(s.net(), n.inputs[1])
        && s.ty(n.inputs[0]) == s.ty(v)
    {
        return (n.inputs[0], if op == BinaryOp::Mul { c } else { 1.0 / c });
    }
    (v, 1.0)
}

impl Found {
    /// The same as products and a softmax, with one factor and one mask that the first product can apply to its results.
    fn apart(
        &self,
        s: &mut Sweep<'_>,
        out: ValueId,
        mask: Option<ValueId>,
        name: &str,
    ) -> Result<(), NetworkError> {
        let product = MatMul { trans_b: !self.k_transposed, ..MatMul::default() };
        let mut scores = s.add(name, product, &[self.q, self.k])?;
        if self.scale != 1.0 {
            let Some(c) = float_constant(s, s.ty(out).dtype, self.scale) else { return Ok(()) };
            scores = s.add(name, Binary { op: BinaryOp::Mul }, &[scores, c])?;
        }
        if let Some(mask) = mask {
            scores = s.add(name, Binary { op: BinaryOp::Add }, &[scores, mask])?;
        }
        let axis = s.ty(scores).rank() - 1;
        let weights = s.add(name, Softmax { axis, log: false }, &[scores])?;
        let new = s.add(name, MatMul::default(), &[weights, self.v])?;
        s.replace(out, new)
    }

    fn build(self, s: &mut Sweep<'_>, id: NodeId, isa: Option<Isa>) -> Result<(), NetworkError> {
        let Some(out) = s.node(id).map(|n| n.outputs[0]) else { return Ok(()) };
        let name = join(self.names.iter().map(String::as_str));
        let dtype = s.ty(out).dtype;
        let rank = s.ty(out).rank();
        let mut k = self.k;
        if self.k_transposed {
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.swap(rank - 2, rank - 1);
            k = s.add(name.clone(), Transpose { perm }, &[k])?;
        }
        let mut mask: Option<ValueId> = None;
        for m in &self.masks {
            let m = match *m {
                Mask::Added(v) => v,
                Mask::Chosen { condition, low, inverted } => {
                    let (Some(zero), Some(low)) =
                        (float_constant(s, dtype, 0.0), float_constant(s, dtype, low))
                    else {
                        return Ok(());
                    };
                    let (a, b) = if inverted { (low, zero) } else { (zero, low) };
                    s.add(name.clone(), Select, &[condition, a, b])?
                }
            };
            mask = Some(match mask {
                Some(o) => s.add(name.clone(), Binary { op: BinaryOp::Add }, &[o, m])?,
                None => m,
            });
        }
        let mut inputs = vec![self.q, k, self.v];
        inputs.extend(mask);
        if rank == 3 {
            for v in &mut inputs {
                let mut shape = s.ty(*v).shape.to_vec();
                if shape.len() == 3 {
                    shape.insert(1, Dim::Fixed(1));
                    *v = s.add(name.clone(), Reshape { shape }, &[*v])?;
                }
            }
        }
        let op = Attention { scale: Scalar::float(dtype, self.scale), causal: false, mask: mask.is_some() };
        let mut new = s.add(name.clone(), op, &inputs)?;
        if let (Some(isa), Some((node, _))) = (isa, s.producer(new))
            && assess(s.net(), node, isa).is_ok_and(|a| a.reference_only)
        {
            return if self.is_roundabout { self.apart(s, out, mask, &name) } else { Ok(()) };
        }
        if rank == 3 {
            let mut shape = s.ty(new).shape.to_vec();
            shape.remove(1);
            new = s.add(name, Reshape { shape }, &[new])?;
        }
        s.replace(out, new)
    }
}
