use super::tactics;
use super::tiles::TileAttention;
use crate::cpu::amx::tile::{Model, Products};
use crate::cpu::gemm::check::{Given, Random, check, check_at};
use crate::{Precision, Tactic};
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

/// The sizes of a problem.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    batch: usize,
    groups: usize,
    each: usize,
    queries: usize,
    keys: usize,
    d: usize,
    dv: usize,
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let queries = prop_oneof![1usize..4, 1usize..80, Just(150usize)];
    let keys = prop_oneof![1usize..40, 1usize..300, Just(520usize)];
    let d = prop_oneof![1usize..20, Just(32usize), Just(40usize)];
    let dv = prop_oneof![1usize..20, Just(32usize), Just(72usize)];
    (1usize..3, 1usize..3, 1usize..4, queries, keys, d, dv).prop_map(
        |(batch, groups, each, queries, keys, d, dv)| Sizes { batch, groups, each, queries, keys, d, dv },
    )
}

fn masks() -> impl Strategy<Value = Masked> {
    prop_oneof![Just(Masked::No), Just(Masked::Added), Just(Masked::Excluding), Just(Masked::Bool)]
}

/// The operator and its operands, stored in `order`; the mask as [`mask`] makes it.
fn problem(
    sizes: Sizes,
    dtype: DType,
    (kind, broadcast, short): (Masked, u8, bool),
    causal: bool,
    order: [Vec<usize>; 3],
    gap: usize,
    r: &mut Random,
) -> (Op, Vec<Given>) {
    let Sizes { batch, groups, each, queries, keys, d, dv } = sizes;
    let heads = groups * each;
    let mask = mask(kind, dtype, [batch, heads, queries, keys], broadcast, short, r);
    let op = Op::from(Attention { scale: Scalar::float(dtype, 0.7), causal, mask: mask.is_some() });
    let shapes = [[batch, heads, queries, d], [batch, groups, keys, d], [batch, groups, keys, dv]];
    let mut given: Vec<Given> = shapes
        .iter()
        .zip(order)
        .map(|(shape, order)| Given { order, gap, ..Given::new(r.tensor(dtype, shape)) })
        .collect();
    given.extend(mask.map(Given::new));
    (op, given)
}

static THREE: TileAttention<Model> = TileAttention::new("attention.tiles.bf16x3.model", Products::Three);
static ONE: TileAttention<Model> = TileAttention::new("attention.tiles.bf16.model", Products::One);

/// Checks the model's tactics, and those of the catalog that want tiles, under their precisions; how many took it.
fn check_tiles(op: &Op, given: &[Given], threads: usize, gap: usize) -> Result<usize, TestCaseError> {
    let mut tiles: Vec<&'static dyn Tactic> = vec![&THREE, &ONE];
    tiles.extend(tactics().iter().filter(|t| t.id().starts_with("attention.tiles")));
    Ok(check_at(Precision::Tf32, 1e-4, &tiles, op, given, threads, gap)?
        + check_at(Precision::Bf16, 4e-2, &tiles, op, given, threads, gap)?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn agrees_with_eval(
        sizes in sizes(), masked in (masks(), 0u8..16, any::<bool>()), causal: bool,
        dtype in prop_oneof![4 => Just(DType::F32), 1 => Just(DType::F16), 1 => Just(DType::BF16)],
        order in [orders(), orders(), orders()], gap in 0usize..3, threads in 1usize..4, seed: u64,
    ) {
        let (op, given) = problem(sizes, dtype, masked, causal, order, gap, &mut Random(seed | 1));
        let taken = check(tactics(), &op, &given, threads, gap)?;
        prop_assert_eq!(taken, crate::Isa::available().len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn tiles_agree_with_eval(
        sizes in sizes(), masked in (masks(), 0u8..16, any::<bool>()), causal: bool, order in [orders(), orders(), orders()],
        dtype in prop_oneof![2 => Just(DType::F32), 1 => Just(DType::BF16)], gap in 0usize..3, threads in 1usize..4, seed: u64,
    ) {
        let (op, given) = problem(sizes, dtype, masked, causal, order, gap, &mut Random(seed | 1));
        let taken = check_tiles(&op, &given, threads, gap)?;
        if sizes.each * sizes.queries > 4 {
            prop_assert!(taken >= 2 * crate::Isa::available().len(), "{}", taken);
        }
    }
}

/// Three products leave the errors of nearly single precision, relative to the largest value.
#[test]
fn three_products_are_nearly_exact() {
    let sizes = Sizes { batch: 1, groups: 2, each: 1, queries: 70, keys: 300, d: 64, dv: 64 };
    let order = [(); 3].map(|()| vec![0, 1, 2, 3]);
    let (op, given) = problem(sizes, DType::F32, (Masked::No, 0, false), false, order, 0, &mut Random(5));
    let taken = check_at(Precision::Tf32, 2e-5, &[&THREE], &op, &given, 2, 0).unwrap();
    assert_eq!(taken, crate::Isa::available().len());
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
        assert!(queries < 5 || check_tiles(&op, &given, 2, 0).unwrap() > 0);
    }
}

/// Scores and values that bf16 cannot hold, and that keys see that no mask excludes.
#[test]
fn infinities_and_huge_numbers_are_those_of_single_precision() {
    let (inf, huge) = (f32::INFINITY, f32::MAX);
    let queries = 20;
    let q: Vec<f32> = (0..queries).flat_map(|i| [1.0, if i % 2 == 0 { 0.5 } else { 0.0 }]).collect();
    let q = Tensor::from_slice(&[1, 1, queries, 2], &q).unwrap();
    for (k, v) in [
        ([0.5, 0.25, -inf, 0.0, 0.25, 0.5], [1.0, huge, 3.0, 4.0, 5.0, 6.0]),
        ([0.5, 0.25, 0.125, 0.0, 0.25, 0.5], [1.0, inf, 3.0, -inf, inf, 6.0]),
        ([huge, 0.25, 0.0, 0.0, 0.25, 0.5], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    ] {
        let k = Tensor::from_slice(&[1, 1, 3, 2], &k).unwrap();
        let v = Tensor::from_slice(&[1, 1, 3, 2], &v).unwrap();
        let op = Op::from(Attention { scale: Scalar::f32(1.0), causal: false, mask: false });
        let given: Vec<Given> = [q.clone(), k, v].map(Given::new).into();
        assert!(check(tactics(), &op, &given, 1, 0).unwrap() > 0);
        assert!(check_tiles(&op, &given, 1, 0).unwrap() > 0);
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
        assert!(queries < 5 || check_tiles(&op, &operands, 1, 0).unwrap() > 0);
    }
}
