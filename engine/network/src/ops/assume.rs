//! What shape inference takes for granted.
//!
//! Over symbols it cannot always tell whether two dims are equal: it goes on as if they were. Whoever runs a network has
//! to check that under the sizes at hand, or a kernel would be told shapes that do not fit each other.
use std::cell::RefCell;

use super::{Fresh, Op, OpError, TypeVec};
use crate::{Dim, TensorType};

/// `dim` equals `other`, or may be 1 where `or_one` (it is broadcast).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Assumption {
    pub dim: Dim,
    pub other: Dim,
    pub or_one: bool,
}

impl Assumption {
    /// Whether it is true under `env`; a symbol without a value makes it false.
    pub fn holds(&self, env: &[i64]) -> bool {
        match (self.dim.try_eval(env), self.other.try_eval(env)) {
            (Some(a), Some(b)) => a == b || (self.or_one && a == 1),
            _ => false,
        }
    }
}

thread_local! {
    static RECORD: RefCell<Option<Vec<Assumption>>> = const { RefCell::new(None) };
}

pub(super) fn equal(a: &Dim, b: &Dim) {
    record(a, b, false);
}

pub(super) fn equal_or_one(a: &Dim, b: &Dim) {
    if a.fixed() != Some(1) {
        record(a, b, true);
    }
}

fn record(a: &Dim, b: &Dim, or_one: bool) {
    if a == b {
        return;
    }
    RECORD.with_borrow_mut(|record| {
        if let Some(record) = record {
            let assumption = Assumption { dim: a.clone(), other: b.clone(), or_one };
            if !record.contains(&assumption) {
                record.push(assumption);
            }
        }
    });
}

impl Op {
    /// [`Op::infer`], and what it took for granted.
    pub fn infer_with_assumptions(
        &self,
        inputs: &[&TensorType],
        fresh: Fresh<'_>,
    ) -> Result<(TypeVec, Vec<Assumption>), OpError> {
        RECORD.set(Some(Vec::new()));
        let types = self.infer(inputs, fresh);
        let assumptions = RECORD.take().unwrap_or_default();
        Ok((types?, assumptions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Network, SymbolSource, ops};

    #[test]
    fn unlike_symbols_are_assumed_equal() {
        let mut net = Network::new("t");
        let symbols = [0, 1, 2].map(|i| {
            Dim::symbol(net.add_symbol(&format!("s{i}"), SymbolSource::InputDim { input: 0, axis: i }))
        });
        let [n, k, l] = symbols;
        let a = TensorType::new(DType::F32, [n.clone(), k.clone()]);
        let b = TensorType::new(DType::F32, [l.clone(), Dim::Fixed(8)]);
        let matmul = Op::from(ops::MatMul::default());
        let (_, assumed) = matmul.infer_with_assumptions(&[&a, &b], &mut |_, _| Dim::Fixed(0)).unwrap();
        assert_eq!(assumed, [Assumption { dim: k.clone(), other: l.clone(), or_one: false }]);
        assert!(assumed[0].holds(&[2, 3, 3]) && !assumed[0].holds(&[2, 3, 4]));

        let add = Op::from(ops::Binary { op: crate::BinaryOp::Add });
        let c = TensorType::new(DType::F32, [l.clone(), k.clone()]);
        let (types, assumed) = add.infer_with_assumptions(&[&a, &c], &mut |_, _| Dim::Fixed(0)).unwrap();
        let both = n.broadcast(&l);
        assert_eq!(types[0].shape[0], both);
        assert_eq!(assumed, [n, l].map(|dim| Assumption { dim, other: both.clone(), or_one: true }));
        let holds = |env: &[i64]| assumed.iter().all(|a| a.holds(env));
        assert!(holds(&[2, 9, 1]) && holds(&[2, 9, 2]) && holds(&[1, 9, 2]) && !holds(&[3, 9, 2]));

        let (_, assumed) = add.infer_with_assumptions(&[&a, &a], &mut |_, _| Dim::Fixed(0)).unwrap();
        assert_eq!(assumed, []);
    }
}
