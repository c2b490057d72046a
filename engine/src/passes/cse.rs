//! Common subexpressions: equal operators on equal operands are computed once.

use super::sweep::sweep;
use engraft_network::{Network, NetworkError, NodeId, Op, Patch, ValueId};
use rustc_hash::{FxHashMap, FxHasher};
use std::hash::{Hash, Hasher};

/// Constants up to this size are compared by their bytes; larger ones by identity of the memory.
const COMPARED_BYTES: usize = 8 << 10;

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    let merged = merge_constants(net)?;
    let mut seen: FxHashMap<u64, Vec<NodeId>> = FxHashMap::default();
    let nodes = sweep(net, &mut |s, id| {
        let Some(node) = s.node(id) else { return Ok(()) };
        // Its results have sizes of their own, which symbols refer to.
        if matches!(node.op, Op::NonZero(_)) {
            return Ok(());
        }
        let mut h = FxHasher::default();
        node.op.hash(&mut h);
        node.inputs.hash(&mut h);
        let bucket = seen.entry(h.finish()).or_default();
        let equal = bucket.iter().copied().find(|o| {
            s.node(*o).is_some_and(|o| {
                o.op == node.op && o.inputs == node.inputs && o.outputs.len() == node.outputs.len()
            })
        });
        let Some(first) = equal else {
            bucket.push(id);
            return Ok(());
        };
        let (old, new) = match s.node(first) {
            Some(f) => (node.outputs.clone(), f.outputs.clone()),
            None => return Ok(()),
        };
        for (o, n) in old.into_iter().zip(new) {
            s.replace(o, n)?;
        }
        Ok(())
    })?;
    Ok(merged + nodes)
}

fn merge_constants(net: &mut Network) -> Result<usize, NetworkError> {
    let mut seen: FxHashMap<u64, Vec<ValueId>> = FxHashMap::default();
    let mut equal: Vec<(ValueId, ValueId)> = Vec::new();
    let mut visited = vec![false; net.value_count()];
    for (_, node) in net.nodes() {
        for v in &node.inputs {
            let Some(t) = net.constant(*v) else { continue };
            if std::mem::replace(&mut visited[v.index()], true) {
                continue;
            }
            let mut h = FxHasher::default();
            (t.dtype(), t.shape()).hash(&mut h);
            let small = t.bytes().len() <= COMPARED_BYTES;
            if small {
                t.bytes().hash(&mut h);
            } else {
                t.bytes().as_ptr().hash(&mut h);
            }
            let bucket = seen.entry(h.finish()).or_default();
            let same = |o: &&ValueId| {
                net.constant(**o).is_some_and(|o| {
                    if small {
                        o == t
                    } else {
                        o.dtype() == t.dtype() && o.shape() == t.shape() && std::ptr::eq(o.bytes(), t.bytes())
                    }
                })
            };
            match bucket.iter().find(same) {
                Some(first) => equal.push((*v, *first)),
                None => bucket.push(*v),
            }
        }
    }
    let n = equal.len();
    if n > 0 {
        let mut patch = Patch::new(net);
        for (old, new) in equal {
            patch.replace(old, new)?;
        }
        patch.apply()?;
    }
    Ok(n)
}
