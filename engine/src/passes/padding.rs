//! Zeros around the input of a convolution become the convolution's own padding.

use super::sweep::{join, splat, sweep};
use engraft_network::ops::{Conv, Pad, PadMode, Padding, Transpose};
use engraft_network::{Dim, Network, NetworkError, Op};

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| {
        let Some(node) = s.node(id) else { return Ok(()) };
        let Op::Conv(conv) = &node.op else { return Ok(()) };
        let (mut inputs, out) = (node.inputs.clone(), node.outputs[0]);
        // Padding of x, or of x before it is transposed.
        let Some((_, mut p)) = s.producer(inputs[0]) else { return Ok(()) };
        let mut perm = None;
        if let Op::Transpose(t) = &p.op {
            perm = Some(t.perm.clone());
            match s.producer(p.inputs[0]) {
                Some((_, q)) => p = q,
                None => return Ok(()),
            }
        }
        let Op::Pad(Pad { mode: PadMode::Constant, before, after }) = &p.op else { return Ok(()) };
        let placed = |d: &[Dim]| -> Vec<Dim> {
            match &perm {
                Some(perm) => perm.iter().map(|a| d[*a].clone()).collect(),
                None => d.to_vec(),
            }
        };
        let (before, after) = (placed(before), placed(after));
        let Padding::Explicit { begin, end } = &conv.padding else { return Ok(()) };
        let spatial = begin.len();
        let amounts = |d: &[Dim]| -> Option<Vec<usize>> {
            d[1..=spatial].iter().map(|d| d.fixed().and_then(|n| usize::try_from(n).ok())).collect()
        };
        let borders = [&before[0], &before[spatial + 1], &after[0], &after[spatial + 1]];
        let (Some(b), Some(e)) = (amounts(&before), amounts(&after)) else { return Ok(()) };
        if splat(s.net(), p.inputs[1]) != Some(0.0) || borders.iter().any(|d| d.fixed() != Some(0)) {
            return Ok(());
        }
        let sum = |a: &[usize], b: &[usize]| a.iter().zip(b).map(|(x, y)| x + y).collect();
        let padding = Padding::Explicit { begin: sum(begin, &b), end: sum(end, &e) };
        let op = Conv { padding, ..conv.clone() };
        let name = join([&*p.name, &*node.name]);
        let x = p.inputs[0];
        inputs[0] = match perm {
            Some(perm) => s.add(name.clone(), Transpose { perm }, &[x])?,
            None => x,
        };
        let new = s.add(name, op, &inputs)?;
        s.replace(out, new)
    })
}
