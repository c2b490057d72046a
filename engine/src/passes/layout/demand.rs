//! In which orders of axes a value is wanted by what reads it.

use super::rule::keeps_axes;
use engraft_network::{Network, Op, TensorType, ValueId};
use smallvec::SmallVec;

/// Different orders that one value is remembered to be wanted in.
const MAX_ORDERS: usize = 3;

/// Per value the permutations of it that its readers want, seen through operators that can run in any order of axes.
pub(super) struct Demand {
    orders: Vec<SmallVec<[Vec<usize>; 2]>>,
}

impl Demand {
    pub fn of(net: &Network) -> Demand {
        let mut orders: Vec<SmallVec<[Vec<usize>; 2]>> = vec![SmallVec::new(); net.value_count()];
        let want = |orders: &mut Vec<SmallVec<[Vec<usize>; 2]>>, v: ValueId, perm: Vec<usize>| {
            let list = &mut orders[v.index()];
            if !list.contains(&perm) && list.len() < MAX_ORDERS {
                list.push(perm);
            }
        };
        for v in net.outputs() {
            want(&mut orders, *v, (0..net.ty(*v).rank()).collect());
        }
        for (_, node) in net.nodes().rev() {
            match &node.op {
                Op::Transpose(t) => want(&mut orders, node.inputs[0], t.perm.clone()),
                // Their results are small: whatever order suits.
                Op::Reduce(_) | Op::ArgReduce(_) => {}
                op if keeps_axes(op) => {
                    let wanted = orders[node.outputs[0].index()].clone();
                    let rank = net.ty(node.outputs[0]).rank();
                    for v in &node.inputs {
                        if net.ty(*v).rank() == rank {
                            wanted.iter().for_each(|p| want(&mut orders, *v, p.clone()));
                        }
                    }
                }
                _ => {
                    for v in &node.inputs {
                        want(&mut orders, *v, (0..net.ty(*v).rank()).collect());
                    }
                }
            }
        }
        Demand { orders }
    }

    /// How many transpositions readers of `v` (of type `ty`) need if it is there transposed by `perm`.
    pub fn unmet(&self, v: ValueId, perm: &[usize], ty: &TensorType) -> f64 {
        let Some(orders) = self.orders.get(v.index()) else { return 0.0 };
        let equal = |wanted: &[usize]| {
            let mut a = perm.iter().filter(|p| ty.shape[**p].fixed() != Some(1));
            let mut b = wanted.iter().filter(|p| ty.shape[**p].fixed() != Some(1));
            loop {
                match (a.next(), b.next()) {
                    (None, None) => return true,
                    (x, y) if x == y => {}
                    _ => return false,
                }
            }
        };
        orders.iter().filter(|o| !equal(o)).count() as f64
    }
}
