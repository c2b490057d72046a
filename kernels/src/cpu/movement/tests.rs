//! Every tactic of the family against the reference, at random shapes, dtypes and layouts.

use super::tactics;
use crate::Isa;
use crate::cpu::check::{self, Layout, Random};
use engraft_network::{DType, Dim, Op, Tensor, TensorType};

mod views;

/// Types of every element size.
const DTYPES: [DType; 6] = [DType::U8, DType::F16, DType::F32, DType::I64, DType::Bool, DType::I16];

/// The types and shapes of the operator's results.
pub(super) fn result_types(op: &Op, inputs: &[Tensor]) -> Vec<(DType, Vec<usize>)> {
    let types: Vec<TensorType> = inputs
        .iter()
        .map(|t| TensorType { dtype: t.dtype(), shape: t.shape().iter().map(|d| Dim::from(*d)).collect() })
        .collect();
    let refs: Vec<&TensorType> = types.iter().collect();
    let mut fresh = |_, _| -> Dim { panic!("the result's shape depends on data") };
    let types = op.infer(&refs, &mut fresh).unwrap_or_else(|e| panic!("{op:?}: {e}"));
    let shape = |t: &TensorType| t.shape.iter().map(|d| d.fixed().expect("fixed") as usize).collect();
    types.iter().map(|t| (t.dtype, shape(t))).collect()
}

/// Runs the tactics of the family that take the problem, under several thread counts, and compares bit by bit with what
/// is expected. At least one must take it if the layout is dense.
pub(super) fn check(op: &Op, inputs: &[Tensor], expected: &[Tensor], r: &mut Random) {
    let outputs = result_types(op, inputs);
    for layout in [Layout::Dense, Layout::Random, Layout::Random] {
        let threads = r.pick(&[1, 2, 5]);
        let mut taken = 0;
        for tactic in tactics() {
            if let Some(results) =
                check::run(*tactic, op, inputs, &[], &outputs, Isa::best(), threads, layout, r)
            {
                taken += 1;
                for (result, expected) in results.iter().zip(expected) {
                    assert!(
                        result == expected,
                        "{} on {op:?}:\n{inputs:?}\n{result:?}\n{expected:?}",
                        tactic.id()
                    );
                }
            }
        }
        assert!(taken > 0 || layout == Layout::Random, "nobody takes {op:?} of {inputs:?}");
    }
}

/// A tensor of distinct, random bits.
pub(super) fn any(dtype: DType, shape: &[usize], r: &mut Random) -> Tensor {
    let count: usize = shape.iter().product();
    let bytes: Vec<u8> = match dtype {
        DType::Bool => (0..count).map(|_| r.below(2) as u8).collect(),
        _ => (0..dtype.bytes(count)).map(|_| r.next() as u8).collect(),
    };
    Tensor::from_bytes(dtype, shape, &bytes).unwrap()
}

/// A random shape of up to `rank` axes, often with sizes around those of blocks.
pub(super) fn shape(rank: std::ops::RangeInclusive<usize>, r: &mut Random) -> Vec<usize> {
    let rank = rank.start() + r.below(rank.end() - rank.start() + 1);
    let mut left = 60_000;
    (0..rank)
        .map(|_| {
            let size = match r.below(6) {
                0 => 1,
                1 => r.below(70),
                2 => r.pick(&[3, 4, 8, 16, 17, 31, 64, 65]),
                _ => 1 + r.below(9),
            };
            let size = size.min(left);
            left /= size.max(1);
            size
        })
        .collect()
}
