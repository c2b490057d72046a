use super::tactics;
use crate::cpu::gemm::check::{Given, Random, check};
use engraft_network::ops::Attention;
use engraft_network::{DType, Op, Scalar, Tensor};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Masked {
    No,
    Added,
    /// Added, with -infinity for about a third of the keys.
    Excluding,
    Bool,
}

/// A mask that broadcasts to `full` along the axes whose bit of `broadcast` is set, and drops its leading axes of size 1
/// if `short`.
fn mask(
    kind: Masked,
    dtype: DType,
    full: [usize; 4],
    broadcast: u8,
    short: bool,
    r: &mut Random,
) -> Option<Tensor> {
    let mut shape: Vec<usize> = (0..4).map(|i| if broadcast >> i & 1 == 1 { 1 } else { full[i] }).collect();
    while short && shape.len() > 1 && shape[0] == 1 {
        shape.remove(0);
    }
    let n = shape.iter().product();
    let third = |r: &mut Random| r.bits().is_multiple_of(3);
    match kind {
        Masked::No => None,
        Masked::Added => Some(r.tensor(dtype, &shape)),
        Masked::Excluding => {
            let values: Vec<f64> = (0..n).map(|_| if third(r) { f64::NEG_INFINITY } else { 0.5 }).collect();
            Some(crate::cpu::check::tensor_of(dtype, &shape, &values))
        }
        Masked::Bool => {
            let values: Vec<bool> = (0..n).map(|_| !third(r)).collect();
            Some(Tensor::from_bools(&shape, &values).unwrap())
        }
    }
}

fn orders() -> impl Strategy<Value = Vec<usize>> {
    // Batch and heads outermost, heads beside columns, columns outside of rows, and anything else.
    prop_oneof![
        Just(vec![0, 1, 2, 3]),
        Just(vec![0, 2, 1, 3]),
        Just(vec![0, 1, 3, 2]),
        Just((0..4).collect::<Vec<usize>>()).prop_shuffle(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn agrees_with_eval(
        batch in 1usize..3, groups in 1usize..3, each in 1usize..4,
        queries in prop_oneof![1usize..4, 1usize..80, Just(150usize)],
        keys in prop_oneof![1usize..40, 1usize..300, Just(520usize)],
        d in prop_oneof![1usize..20, Just(32usize), Just(40usize)],
        dv in prop_oneof![1usize..20, Just(32usize), Just(72usize)],
        kind in prop_oneof![Just(Masked::No), Just(Masked::Added), Just(Masked::Excluding), Just(Masked::Bool)],
        broadcast in 0u8..16, short: bool, causal: bool,
        dtype in prop_oneof![4 => Just(DType::F32), 1 => Just(DType::F16), 1 => Just(DType::BF16)],
        order in [orders(), orders(), orders()], gap in 0usize..3, threads in 1usize..4, seed: u64,
    ) {
        let mut r = Random(seed | 1);
        let heads = groups * each;
        let mask = mask(kind, dtype, [batch, heads, queries, keys], broadcast, short, &mut r);
        let op = Op::from(Attention { scale: Scalar::float(dtype, 0.7), causal, mask: mask.is_some() });
        let shapes = [[batch, heads, queries, d], [batch, groups, keys, d], [batch, groups, keys, dv]];
        let mut given: Vec<Given> = shapes.iter().zip(order).map(|(shape, order)| {
            Given { order, gap, ..Given::new(r.tensor(dtype, shape)) }
        }).collect();
        given.extend(mask.map(Given::new));
        let taken = check(tactics(), &op, &given, threads, gap)?;
        prop_assert_eq!(taken, crate::Isa::available().len());
    }
}

#[test]
fn rows_without_keys_and_values_that_are_not_finite() {
    let nan = f32::NAN;
    for queries in [1, 70] {
        let shape = [1, 1, queries, 4];
        let q = Tensor::from_slice(&shape, &vec![0.5f32; 4 * queries]).unwrap();
        let k =
            Tensor::from_slice(&[1, 1, 3, 4], &[1f32, 0., 0., 0., nan, 1., 0., 0., 0., 0., 1., 0.]).unwrap();
        let v = Tensor::from_slice(&[1, 1, 3, 2], &[1f32, 2., nan, f32::INFINITY, 5., 6.]).unwrap();
        // Every second query sees nothing, the others do not see the key and value that are not finite.
        let seen: Vec<bool> = (0..3 * queries).map(|i| i / 3 % 2 == 0 && i % 3 != 1).collect();
        let mask = Tensor::from_bools(&[1, 1, queries, 3], &seen).unwrap();
        let op = Op::from(Attention { scale: Scalar::f32(1.0), causal: false, mask: true });
        let given: Vec<Given> = [q, k, v, mask].map(Given::new).into();
        assert!(check(tactics(), &op, &given, 2, 0).unwrap() > 0);
    }
}

#[test]
fn a_row_of_added_infinities_is_nan() {
    let given = |shape: &[usize], value: f32| {
        Given::new(Tensor::from_slice(shape, &vec![value; shape.iter().product()]).unwrap())
    };
    let op = Op::from(Attention { scale: Scalar::f32(1.0), causal: false, mask: true });
    for queries in [1, 9] {
        let operands = [
            given(&[1, 1, queries, 2], 1.0),
            given(&[1, 1, 5, 2], 1.0),
            given(&[1, 1, 5, 2], 1.0),
            given(&[5], f32::NEG_INFINITY),
        ];
        assert!(check(tactics(), &op, &operands, 1, 0).unwrap() > 0);
    }
}
