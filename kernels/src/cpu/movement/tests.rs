//! Every tactic of the family against the reference, at random shapes, dtypes and layouts.

use super::tactics;
use crate::cpu::check::{self, Layout, Random, Tolerance};
use crate::{Isa, Operand, Problem, TensorDesc};
use engraft_network::{DType, Dim, Op, Tensor};

mod generate;
mod index;
mod resize;
mod views;

/// Types of every element size.
const DTYPES: [DType; 6] = [DType::U8, DType::F16, DType::F32, DType::I64, DType::Bool, DType::I16];

const EXACT: Tolerance = Tolerance { absolute: 0.0, relative: 0.0 };

/// Runs the one tactic of the family that takes the problem when it is dense, at all instruction sets and several
/// layouts, and compares with the reference.
fn check_within(op: impl Into<Op>, inputs: &[Tensor], tolerance: Tolerance, r: &mut Random) {
    let op = op.into();
    let expected = op.eval(inputs, &[]).unwrap_or_else(|e| panic!("{op:?} of {inputs:?}: {e}"));
    let outputs: Vec<TensorDesc> = expected.iter().map(|t| TensorDesc::dense(t.dtype(), t.shape())).collect();
    let operand = |t: &Tensor| Operand { desc: TensorDesc::dense(t.dtype(), t.shape()), constant: None };
    let operands: Vec<_> = inputs.iter().map(operand).collect();
    let p = Problem {
        op: &op,
        inputs: &operands,
        outputs: &outputs,
        threads: 1,
        isa: Isa::best(),
        precision: crate::Precision::Fp32,
        env: &[],
    };
    let takers: Vec<_> = tactics().iter().filter(|t| t.accepts(&p).is_ok()).collect();
    assert_eq!(takers.len(), 1, "{op:?} of {inputs:?}");
    if expected.iter().all(|t| t.dtype().is_float()) && tolerance.relative > 0.0 {
        check::check(*takers[0], &op, inputs, &[], &expected, tolerance, r);
        return;
    }
    // Exact results are compared by their bits: elements are moved, NaN and all.
    for isa in Isa::available() {
        for (layout, threads) in [(Layout::Dense, 1), (Layout::Dense, 4), (Layout::Random, 3)] {
            let outputs: Vec<_> = expected.iter().map(|t| (t.dtype(), t.shape().to_vec())).collect();
            let results = check::run(*takers[0], &op, inputs, &[], &outputs, isa, threads, layout, r);
            assert!(results.is_some() || layout == Layout::Random, "refused {op:?} of {inputs:?}");
            for (result, expected) in results.iter().flatten().zip(&expected) {
                assert!(result == expected, "{isa} {op:?}:\n{inputs:?}\n{result:?}\n{expected:?}");
            }
        }
    }
}

/// [`check_within`] for results that must agree in every bit.
fn check(op: impl Into<Op>, inputs: &[Tensor], r: &mut Random) {
    check_within(op, inputs, EXACT, r);
}

fn dims(sizes: &[usize]) -> Vec<Dim> {
    sizes.iter().map(|d| Dim::from(*d)).collect()
}

/// A tensor of distinct, random bits.
fn any(dtype: DType, shape: &[usize], r: &mut Random) -> Tensor {
    let count: usize = shape.iter().product();
    let bytes: Vec<u8> = match dtype {
        DType::Bool => (0..count).map(|_| r.below(2) as u8).collect(),
        _ => (0..dtype.bytes(count)).map(|_| r.next() as u8).collect(),
    };
    Tensor::from_bytes(dtype, shape, &bytes).unwrap()
}

/// A random shape of up to `rank` axes, often with sizes around those of blocks.
fn shape(rank: std::ops::RangeInclusive<usize>, r: &mut Random) -> Vec<usize> {
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
