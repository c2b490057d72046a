//! How operators run on operands whose axes stand in another order.

use super::super::sweep::all_ones;
use super::super::transpose::inverse;
use engraft_network::ops::{
    ArgReduce, Concat, Conv, CoordinateMode, Cumulative, Dequantize, Expand, Gather, Pad, Padding, Quantize,
    Reduce, Reshape, Resize, Slice, SliceRange, Softmax, Tile,
};
use engraft_network::{Dim, Network, Node, Op};

/// The operator for operands in another order of axes.
pub(super) struct Rule {
    pub op: Op,
    /// The permutation that makes each operand into what `op` reads; `None` leaves it as it is.
    pub operands: Vec<Option<Vec<usize>>>,
    /// The permutation that makes each result of `op` into what the node gave.
    pub results: Vec<Vec<usize>>,
}

/// Operators that have a rule.
pub(super) fn is_movable(op: &Op) -> bool {
    keeps_axes(op)
        || matches!(
            op,
            Op::Reduce(_)
                | Op::ArgReduce(_)
                | Op::Gather(_)
                | Op::Reshape(_)
                | Op::MatMul(_)
                | Op::LayerNorm(_)
                | Op::Conv(_)
        )
}

/// Operators that run on any order of axes, the result's being the operands'.
pub(super) fn keeps_axes(op: &Op) -> bool {
    match op {
        Op::Unary(_) | Op::Cast(_) | Op::Binary(_) | Op::Select(_) | Op::Pointwise(_) => true,
        Op::Concat(_) | Op::Slice(_) | Op::Pad(_) | Op::Tile(_) | Op::Softmax(_) | Op::Cumulative(_) => true,
        Op::Reduce(r) => r.keep_dims,
        Op::Resize(r) => !matches!(r.coordinates, CoordinateMode::TfCropAndResize { .. }),
        Op::Quantize(q) => q.block == 0,
        Op::Dequantize(q) => q.block == 0,
        _ => false,
    }
}

fn permuted<T: Clone>(list: &[T], perm: &[usize]) -> Vec<T> {
    let mut out = list.to_vec();
    for (i, p) in perm.iter().enumerate() {
        out[*p] = list[i].clone();
    }
    out
}

impl Rule {
    /// The rule for `node` whose operand `which` is a transposition by `perm`: the node reads what is before it.
    pub fn of(net: &Network, node: &Node, which: usize, perm: &[usize]) -> Option<Rule> {
        let rank = perm.len();
        let back = inverse(perm);
        let first_only = |op: Op| {
            let mut operands = vec![None; node.inputs.len()];
            operands[0] = Some(back.clone());
            Rule { op, operands, results: vec![perm.to_vec(); node.outputs.len()] }
        };
        let out_rank = net.ty(node.outputs[0]).rank();
        let main = which == 0;
        match &node.op {
            Op::Unary(_) | Op::Cast(_) | Op::Binary(_) | Op::Select(_) | Op::Pointwise(_)
                if out_rank == rank =>
            {
                let operands =
                    node.inputs.iter().map(|v| (net.ty(*v).rank() > 0).then(|| back.clone())).collect();
                Some(Rule { op: node.op.clone(), operands, results: vec![perm.to_vec()] })
            }
            Op::Concat(c) => Some(Rule {
                op: Concat { axis: perm[c.axis] }.into(),
                operands: vec![Some(back); node.inputs.len()],
                results: vec![perm.to_vec()],
            }),
            Op::Slice(slice) => {
                let mut ranges: Vec<SliceRange> =
                    slice.ranges.iter().map(|r| SliceRange { axis: perm[r.axis], ..r.clone() }).collect();
                ranges.sort_by_key(|r| r.axis);
                Some(first_only(Slice { ranges }.into()))
            }
            Op::Pad(p) if main => Some(first_only(
                Pad { mode: p.mode, before: permuted(&p.before, perm), after: permuted(&p.after, perm) }
                    .into(),
            )),
            Op::Tile(t) if t.repeats.len() == rank => {
                Some(first_only(Tile { repeats: permuted(&t.repeats, perm) }.into()))
            }
            Op::Expand(e) if e.shape.len() == rank => {
                Some(first_only(Expand { shape: permuted(&e.shape, perm) }.into()))
            }
            Op::Softmax(x) if perm[x.axis] == rank - 1 || x.axis != rank - 1 => {
                Some(first_only(Softmax { axis: perm[x.axis], log: x.log }.into()))
            }
            Op::Cumulative(c) => Some(first_only(Cumulative { axis: perm[c.axis], ..c.clone() }.into())),
            Op::Resize(r) if keeps_axes(&node.op) && main => Some(first_only(
                Resize {
                    sizes: permuted(&r.sizes, perm),
                    scales: r.scales.as_ref().map(|x| permuted(x, perm)),
                    ..r.clone()
                }
                .into(),
            )),
            Op::Quantize(q) if q.block == 0 && main => {
                Some(first_only(Quantize { axis: mapped_axis(net, node, q.axis, perm), ..q.clone() }.into()))
            }
            Op::Dequantize(q) if q.block == 0 && main => Some(first_only(
                Dequantize { axis: mapped_axis(net, node, q.axis, perm), ..q.clone() }.into(),
            )),
            Op::Reduce(r) => {
                let mut axes: Vec<usize> = r.axes.iter().map(|a| perm[*a]).collect();
                axes.sort_unstable();
                let result = if r.keep_dims { perm.to_vec() } else { without(perm, &r.axes) };
                let mut rule = first_only(Reduce { axes, ..r.clone() }.into());
                rule.results = vec![result];
                Some(rule)
            }
            Op::ArgReduce(r) => {
                let result = if r.keep_dims { perm.to_vec() } else { without(perm, &[r.axis]) };
                let mut rule = first_only(ArgReduce { axis: perm[r.axis], ..r.clone() }.into());
                rule.results = vec![result];
                Some(rule)
            }
            Op::LayerNorm(l) if main && perm[l.axis..].iter().enumerate().all(|(i, p)| *p == l.axis + i) => {
                Some(first_only(node.op.clone()))
            }
            // Rows of x stand in any order.
            Op::MatMul(m)
                if main
                    && rank >= 3
                    && !m.trans_a
                    && m.epilogue.post.is_none()
                    && net.ty(node.inputs[1]).rank() == 2
                    && perm[rank - 1] == rank - 1 =>
            {
                Some(first_only(node.op.clone()))
            }
            // A convolution of single pixels takes them in any order.
            Op::Conv(c)
                if main
                    && perm[rank - 1] == rank - 1
                    && c.epilogue.post.is_none()
                    && is_pointwise(net, node, c) =>
            {
                Some(first_only(node.op.clone()))
            }
            Op::Gather(g) if main => {
                let q = net.ty(node.inputs[1]).rank();
                // Axes of both results by what they come from: an axis of x, or one of the indices.
                let labels = |axes: &[usize], at: usize| -> Vec<usize> {
                    let mut l = axes[..at].to_vec();
                    l.extend(rank..rank + q);
                    l.extend(&axes[at + 1..]);
                    l
                };
                let axis = perm[g.axis];
                let old = labels(perm, g.axis);
                let new = labels(&(0..rank).collect::<Vec<_>>(), axis);
                let result = old.iter().map(|l| new.iter().position(|n| n == l)).collect::<Option<_>>()?;
                let mut rule = first_only(Gather { axis }.into());
                rule.results = vec![result];
                Some(rule)
            }
            Op::Reshape(_) => reshape(net, node, perm),
            _ => None,
        }
    }
}

/// True for windows of one element, without stride and padding.
fn is_pointwise(net: &Network, node: &Node, c: &Conv) -> bool {
    let w = &net.ty(node.inputs[1]).shape;
    let unpadded = match &c.padding {
        Padding::Explicit { begin, end } => begin.iter().chain(end).all(|p| *p == 0),
        Padding::SameUpper | Padding::SameLower => true,
    };
    all_ones(&w[..w.len() - 2]) && c.strides.iter().all(|s| *s == 1) && unpadded
}

/// The axis of per-axis parameters; parameters of one value have no axis that would count.
fn mapped_axis(net: &Network, node: &Node, axis: usize, perm: &[usize]) -> usize {
    if all_ones(&net.ty(node.inputs[1]).shape) { 0 } else { perm.get(axis).copied().unwrap_or(axis) }
}

/// The permutation of the axes that remain without `dropped` (axes after the permutation).
fn without(perm: &[usize], dropped: &[usize]) -> Vec<usize> {
    let rest: Vec<usize> =
        perm.iter().enumerate().filter(|(i, _)| !dropped.contains(i)).map(|(_, p)| *p).collect();
    let mut sorted = rest.clone();
    sorted.sort_unstable();
    rest.iter().filter_map(|p| sorted.iter().position(|s| s == p)).collect()
}

/// Axes `from` of an operand that become axes `to` of a reshaped one.
struct Group {
    from: std::ops::Range<usize>,
    to: std::ops::Range<usize>,
}

/// The finest pairs of consecutive axes of equal extent; `None` where symbolic sizes leave it open.
fn groups(from: &[Dim], to: &[Dim]) -> Option<Vec<Group>> {
    /// The number of axes of `dims` from `at` on whose extent times `start` is `want`.
    fn reach(start: &Dim, want: &Dim, dims: &[Dim], at: usize) -> Option<usize> {
        let mut product = start.clone();
        dims[at..].iter().position(|d| {
            product = product.mul(d);
            product == *want
        })
    }
    let mut out: Vec<Group> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < from.len() && j < to.len() {
        let (i0, j0) = (i, j);
        let (mut a, mut b) = (from[i].clone(), to[j].clone());
        (i, j) = (i + 1, j + 1);
        while a != b {
            if let Some(n) = reach(&a, &b, from, i) {
                i += n + 1;
                break;
            }
            if let Some(n) = reach(&b, &a, to, j) {
                j += n + 1;
                break;
            }
            // Several axes on either side: the smaller extent grows, or both where that is open.
            let smaller = match (a.fixed(), b.fixed()) {
                (Some(x), Some(y)) => Some(x < y),
                _ => None,
            };
            if smaller != Some(false) {
                a = a.mul(from.get(i)?);
                i += 1;
            }
            if smaller != Some(true) {
                b = b.mul(to.get(j)?);
                j += 1;
            }
        }
        out.push(Group { from: i0..i, to: j0..j });
    }
    let last = out.last_mut()?;
    if !all_ones(&from[i..]) || !all_ones(&to[j..]) {
        return None;
    }
    last.from.end = from.len();
    last.to.end = to.len();
    Some(out)
}

/// A reshape whose groups of axes lie whole and in order in the untransposed operand.
fn reshape(net: &Network, node: &Node, perm: &[usize]) -> Option<Rule> {
    let (from, to) = (&net.ty(node.inputs[0]).shape, &net.ty(node.outputs[0]).shape);
    if from.iter().chain(to).any(|d| d.fixed() == Some(0)) {
        return None;
    }
    let mut groups = groups(from, to)?;
    let axes = |g: &Group| -> Vec<usize> {
        g.from.clone().filter(|i| from[*i].fixed() != Some(1)).map(|i| perm[i]).collect()
    };
    // Groups of size 1 may stand anywhere: they follow the group before them.
    let mut key = 0;
    let mut keyed: Vec<(usize, Group)> = Vec::with_capacity(groups.len());
    for g in groups.drain(..) {
        key = axes(&g).first().map_or(key, |a| a + 1);
        keyed.push((key, g));
    }
    keyed.sort_by_key(|k| k.0);
    let order: Vec<usize> = keyed.iter().flat_map(|(_, g)| axes(g)).collect();
    if !order.is_sorted() {
        return None;
    }
    let new: Vec<usize> = keyed.iter().flat_map(|(_, g)| g.to.clone()).collect();
    let shape: Vec<Dim> = new.iter().map(|j| to[*j].clone()).collect();
    let result = inverse(&new);
    Some(Rule { op: Reshape { shape }.into(), operands: vec![Some(inverse(perm))], results: vec![result] })
}
