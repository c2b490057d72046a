//! The layout pass: transpositions sink through the operators behind them until they meet their inverse and vanish.
//!
//! Convolutions and pooling are channels-last by definition; a dialect that is channels-first wraps each of them into two
//! transpositions. One walk in topological order visits every node that reads a transposed value and asks whether the
//! node could run on the untransposed value, with the transposition behind it. A push costs a transposition of every other
//! operand that is not transposed yet (constants are permuted now, axes of size 1 move for free), and saves those whose
//! inverse waits behind. [`Demand`] says what waits behind. A push that neither costs nor saves bytes is done, so that
//! transpositions gather as low as they can; one that needs new transpositions of operands must save bytes, which is
//! why the walks come to an end.

mod demand;
mod rule;

use super::sweep::{Sweep, all_ones, join, sweep};
use super::transpose::{compose, inverse, is_identity, moves_ones_only, transpose_tensor};
use demand::Demand;
use engraft_network::ops::{Reshape, Transpose};
use engraft_network::{Dim, Network, NetworkError, NodeId, Op, TensorType, ValueId};
use rule::Rule;
use rustc_hash::FxHashMap;

/// A size that is taken for every symbol when bytes are compared.
const TYPICAL: i64 = 32;

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    let demand = Demand::of(net);
    let env = vec![TYPICAL; net.symbols().len()];
    let mut known: FxHashMap<(ValueId, Vec<usize>), ValueId> = FxHashMap::default();
    for (_, n) in net.nodes() {
        if let Op::Transpose(t) = &n.op {
            known.entry((n.inputs[0], t.perm.clone())).or_insert(n.outputs[0]);
        }
    }
    let mut layout = Layout { demand, env, known };
    sweep(net, &mut |s, id| layout.visit(s, id))
}

struct Layout {
    demand: Demand,
    env: Vec<i64>,
    /// Transpositions that exist: (value, perm) to result.
    known: FxHashMap<(ValueId, Vec<usize>), ValueId>,
}

impl Layout {
    fn bytes(&self, ty: &TensorType) -> f64 {
        ty.shape.iter().map(|d| d.eval(&self.env).max(1) as f64).product::<f64>() * ty.dtype.bits() as f64
            / 8.0
    }

    fn visit(&mut self, s: &mut Sweep<'_>, id: NodeId) -> Result<(), NetworkError> {
        let Some(node) = s.node(id) else { return Ok(()) };
        if let Op::Transpose(t) = &node.op {
            let (perm, x, out) = (t.perm.clone(), node.inputs[0], node.outputs[0]);
            let new = self.transposed(s, x, &perm)?;
            if new != out {
                s.replace(out, new)?;
            }
            return Ok(());
        }
        if s.is_pinned(id) || !rule::is_movable(&node.op) {
            return Ok(());
        }
        let mut best: Option<(f64, Rule)> = None;
        let mut tried: Vec<&[usize]> = Vec::new();
        for (i, v) in node.inputs.iter().enumerate() {
            let Some((_, p)) = s.producer(*v) else { continue };
            let Op::Transpose(t) = &p.op else { continue };
            if tried.contains(&t.perm.as_slice()) {
                continue;
            }
            tried.push(&t.perm);
            let Some(rule) = Rule::of(s.net(), node, i, &t.perm) else { continue };
            let (saved, clean) = self.saving(s, node, &rule);
            if (saved > 0.0 || saved == 0.0 && clean) && best.as_ref().is_none_or(|b| saved > b.0) {
                best = Some((saved, rule));
            }
        }
        match best {
            Some((_, rule)) => self.apply(s, id, rule),
            None => Ok(()),
        }
    }

    /// Bytes that need no transposition any more if the rule is applied, and whether no operand needs a new one.
    fn saving(&self, s: &Sweep<'_>, node: &engraft_network::Node, rule: &Rule) -> (f64, bool) {
        let (mut before, mut after, mut clean) = (0.0, 0.0, true);
        for (i, (v, want)) in node.inputs.iter().zip(&rule.operands).enumerate() {
            if node.inputs[..i].contains(v) {
                continue;
            }
            let (ty, bytes) = (s.ty(*v), self.bytes(s.ty(*v)));
            let source = s.producer(*v).and_then(|(_, p)| match &p.op {
                Op::Transpose(t) => Some((p.inputs[0], t.perm.clone())),
                _ => None,
            });
            if let Some((x, perm)) = &source
                && !moves_ones_only(perm, |a| s.ty(*x).shape[a].fixed() == Some(1))
            {
                before += bytes / f64::from(s.uses(*v).max(1));
            }
            let Some(want) = want else { continue };
            if s.net().constant(*v).is_some() || all_ones(&ty.shape) {
                continue;
            }
            let shape = aligned_shape(ty, want.len());
            let perm = match &source {
                Some((_, first)) if first.len() == want.len() => compose(first, want),
                _ => want.clone(),
            };
            let base = match &source {
                Some((x, first)) if first.len() == want.len() => s.ty(*x).shape.to_vec(),
                _ => shape,
            };
            if moves_ones_only(&perm, |a| base[a].fixed() == Some(1)) {
                continue;
            }
            let origin = source.as_ref().map_or(*v, |(x, _)| *x);
            if self.known.get(&(origin, perm)).is_some_and(|t| s.uses(*t) > 0) {
                continue;
            }
            after += bytes;
            clean = false;
        }
        for (v, perm) in node.outputs.iter().zip(&rule.results) {
            let ty = s.ty(*v);
            if all_ones(&ty.shape) {
                continue;
            }
            let stay: Vec<usize> = (0..perm.len()).collect();
            before += self.bytes(ty) * self.demand.unmet(*v, &stay, ty);
            after += self.bytes(ty) * self.demand.unmet(*v, &inverse(perm), ty);
        }
        (before - after, clean)
    }

    fn apply(&mut self, s: &mut Sweep<'_>, id: NodeId, rule: Rule) -> Result<(), NetworkError> {
        let Some(node) = s.node(id) else { return Ok(()) };
        let (name, inputs, outputs) = (node.name.clone(), node.inputs.clone(), node.outputs.clone());
        let mut operands = Vec::with_capacity(inputs.len());
        for (v, want) in inputs.iter().zip(&rule.operands) {
            operands.push(match want {
                Some(perm) => self.transposed(s, *v, perm)?,
                None => *v,
            });
        }
        let results = s.node_outputs(name, rule.op, &operands)?;
        for ((old, new), perm) in outputs.iter().zip(&results).zip(&rule.results) {
            let back = self.transposed(s, *new, perm)?;
            s.replace(*old, back)?;
        }
        Ok(())
    }

    /// `v` (with axes of size 1 put before it, up to the permutation's rank) transposed: an existing value where there
    /// is one.
    fn transposed(&mut self, s: &mut Sweep<'_>, v: ValueId, perm: &[usize]) -> Result<ValueId, NetworkError> {
        let ty = s.ty(v).clone();
        let name = match s.producer(v) {
            Some((_, n)) => n.name.clone(),
            None => s.net().value(v).name.clone(),
        };
        if let Some(t) = s.net().constant(v).cloned() {
            let mut shape = vec![1; perm.len() - ty.rank()];
            shape.extend_from_slice(t.shape());
            if let Some(t) = t.reshaped(&shape).ok().and_then(|t| transpose_tensor(&t, perm)) {
                return Ok(s.constant(name, t));
            }
        }
        let mut v = v;
        if ty.rank() < perm.len() {
            if all_ones(&ty.shape) {
                return Ok(v);
            }
            v = s.add(name.clone(), Reshape { shape: aligned_shape(&ty, perm.len()) }, &[v])?;
        }
        let mut perm = perm.to_vec();
        let mut name = name;
        if let Some((_, p)) = s.producer(v)
            && let Op::Transpose(first) = &p.op
        {
            perm = compose(&first.perm, &perm);
            name = join([&*p.name, &*name]);
            v = p.inputs[0];
        }
        if is_identity(&perm) {
            return Ok(v);
        }
        if let Some(t) = self.known.get(&(v, perm.clone())) {
            return Ok(*t);
        }
        let t = s.add(name, Transpose { perm: perm.clone() }, &[v])?;
        self.known.insert((v, perm), t);
        Ok(t)
    }
}

/// The type's shape with leading ones up to `rank`.
fn aligned_shape(ty: &TensorType, rank: usize) -> Vec<Dim> {
    let mut shape = vec![Dim::Fixed(1); rank - ty.rank()];
    shape.extend(ty.shape.iter().cloned());
    shape
}

/// Transpositions that move only axes of size 1 become reshapes, which are free. Runs once no transposition is to be
/// recognised as such any more.
pub(super) fn free_transposes(net: &mut Network) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| {
        let Some(node) = s.node(id) else { return Ok(()) };
        let Op::Transpose(t) = &node.op else { return Ok(()) };
        let (x, out, name) = (node.inputs[0], node.outputs[0], node.name.clone());
        let ones = s.ty(x).shape.iter().map(|d| d.fixed() == Some(1)).collect::<Vec<_>>();
        if !moves_ones_only(&t.perm, |a| ones[a]) {
            return Ok(());
        }
        let new = s.add(name, Reshape { shape: s.ty(out).shape.to_vec() }, &[x])?;
        s.replace(out, new)
    })
}
