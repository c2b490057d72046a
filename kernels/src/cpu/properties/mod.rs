//! Every row of the catalog against the operators' reference evaluation.
//!
//! One strategy draws sizes, types, attributes and placements; each operator makes a case of them. All tactics that take
//! the case run under every instruction set of the machine, dense and at random strides. What fails is shrunk.

mod elements;
mod movement;
mod products;
mod rows;
mod selection;
mod spatial;

use super::check::{self, Layout, Random, Tolerance};
use crate::{Class, Isa, Tactic, catalog};
use engraft_network::ops::*;
use engraft_network::{BinaryOp, DType, Dim, Expr, ExprNode, Op, Scalar, Tensor, UnaryOp};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeSet;
use std::sync::Mutex;

use elements::{binary, cast, pointwise, quantized, select, unary};
use movement::{indexed, moved, resize, shape_tensor};
use products::{attention, conv, conv_transpose, fourier, matmul, pool, rnn};
use rows::{arg_reduce, cumulative, group_norm, layer_norm, reduce, softmax, top_k};
use selection::{suppression, unique};
use spatial::{deform_sample, det, fold, grid_sample, regions};

/// What a case is made of. Every operator reads what it needs, in any way that gives valid attributes.
#[derive(Clone, Debug)]
struct Draw {
    shape: Vec<usize>,
    other: Vec<usize>,
    numbers: [usize; 8],
    flags: [bool; 8],
    dtype: usize,
    constant: bool,
    random_layout: bool,
    threads: usize,
    seed: u64,
}

fn draw() -> impl Strategy<Value = Draw> {
    let size = || prop_oneof![8 => 1usize..8, 3 => 8usize..40, 1 => 40usize..140];
    (
        prop::collection::vec(size(), 1..=5),
        prop::collection::vec(size(), 1..=4),
        prop::array::uniform8(0usize..1000),
        prop::array::uniform8(any::<bool>()),
        0usize..64,
        any::<bool>(),
        any::<bool>(),
        1usize..4,
        any::<u64>(),
    )
        .prop_map(|(shape, other, numbers, flags, dtype, constant, random_layout, threads, seed)| Draw {
            shape,
            other,
            numbers,
            flags,
            dtype,
            constant,
            random_layout,
            threads,
            seed,
        })
}

/// An operator on operands.
struct Case {
    op: Op,
    inputs: Vec<Tensor>,
    /// Operands that are known when an engine is built.
    constant: Vec<usize>,
}

impl Case {
    fn new(op: impl Into<Op>, inputs: Vec<Tensor>) -> Case {
        Case { op: op.into(), inputs, constant: Vec::new() }
    }
}

const STORED: [DType; 3] = [DType::F32, DType::F16, DType::BF16];
const INTEGERS: [DType; 8] =
    [DType::I32, DType::I64, DType::I8, DType::U8, DType::I16, DType::U16, DType::U32, DType::U64];
const ANY: [DType; 9] = [
    DType::F32,
    DType::F64,
    DType::F16,
    DType::BF16,
    DType::I8,
    DType::U8,
    DType::I32,
    DType::I64,
    DType::Bool,
];

impl Draw {
    fn random(&self) -> Random {
        Random(self.seed)
    }

    fn pick<T: Copy>(&self, number: usize, of: &[T]) -> T {
        of[self.numbers[number] % of.len()]
    }

    fn dtype(&self, of: &[DType]) -> DType {
        of[self.dtype % of.len()]
    }

    /// A number of `least..=most`.
    fn between(&self, number: usize, least: usize, most: usize) -> usize {
        least + self.numbers[number] % (most - least + 1)
    }

    /// The first axes of the drawn shape, of at most `elements` in all, padded with 1 to at least `rank`.
    fn shape(&self, least_rank: usize, most_rank: usize, elements: usize) -> Vec<usize> {
        let mut shape: Vec<usize> = Vec::new();
        let mut count = 1;
        for &n in self.shape.iter().take(most_rank) {
            let n = n.min(elements / count).max(1);
            count *= n;
            shape.push(n);
        }
        while shape.len() < least_rank {
            shape.insert(0, 1);
        }
        shape
    }

    fn axis(&self, number: usize, rank: usize) -> usize {
        self.numbers[number] % rank
    }

    /// `shape` with size 1 on some axes and without some leading ones, so that it broadcasts to it.
    fn broadcast(&self, number: usize, shape: &[usize]) -> Vec<usize> {
        let bits = self.numbers[number];
        let dropped = bits / 64 % (shape.len() + 1);
        let keep = |i: usize| if bits >> i & 1 == 1 { 1 } else { shape[i] };
        (if bits.is_multiple_of(3) { dropped } else { 0 }..shape.len()).map(keep).collect()
    }

    fn permutation(&self, rank: usize) -> Vec<usize> {
        let mut perm: Vec<usize> = (0..rank).collect();
        let mut r = Random(self.numbers[7] as u64);
        for i in (1..rank).rev() {
            perm.swap(i, r.below(i + 1));
        }
        perm
    }
}

/// Values of about -1..1, or whole numbers of a type.
fn range(dtype: DType) -> f64 {
    if dtype.is_float() { 1.0 } else { 90.0 }
}

/// A family's name, its cases, and the catalog rows that they must reach, by the beginnings of their names.
type Family = (&'static str, fn(&Draw) -> Case, &'static [&'static str]);

const FAMILIES: &[Family] = &[
    ("matmul", matmul, &["matmul.", "widened.matmul."]),
    ("conv", conv, &["conv.", "depthwise.", "widened.conv.", "widened.depthwise."]),
    ("conv_transpose", conv_transpose, &["conv_transpose.", "widened.conv_transpose."]),
    ("pool", pool, &["pool.", "widened.pool."]),
    ("attention", attention, &["attention."]),
    ("rnn", rnn, &["rnn.", "widened.rnn."]),
    ("layer_norm", layer_norm, &["layer_norm."]),
    ("group_norm", group_norm, &["group_norm."]),
    ("softmax", softmax, &["softmax."]),
    ("reduce", reduce, &["reduce."]),
    ("arg_reduce", arg_reduce, &["arg_reduce."]),
    ("cumulative", cumulative, &["move.cumulative"]),
    ("unary", unary, &["pointwise."]),
    ("binary", binary, &["pointwise."]),
    ("select", select, &["pointwise."]),
    ("cast", cast, &["pointwise."]),
    ("pointwise", pointwise, &["pointwise."]),
    ("movement", moved, &["move.views", "move.generate"]),
    ("indexed", indexed, &["move.gather", "move.scatter"]),
    ("top_k", top_k, &["move.top_k"]),
    ("fourier", fourier, &["fourier.", "widened.fourier."]),
    ("suppression", suppression, &["suppression."]),
    ("unique", unique, &["move.unique"]),
    ("resize", resize, &["resize.", "widened.resize."]),
    ("grid_sample", grid_sample, &["sample.grid", "widened.sample.grid"]),
    ("regions", regions, &["sample.roi", "widened.sample.roi"]),
    ("deform_sample", deform_sample, &["sample.deform", "widened.sample.deform"]),
    ("fold", fold, &["fold.", "widened.fold."]),
    ("det", det, &["det.", "widened.det."]),
    ("quantize", quantized, &["quantize."]),
    ("shape_tensor", shape_tensor, &["move.generate"]),
];

const TOLERANCE: Tolerance = Tolerance { absolute: 3e-5, relative: 3e-5 };

/// Runs every tactic that takes the case; panics where one disagrees with `eval`. Returns the names of those that ran.
fn hold(case: &Case, d: &Draw) -> BTreeSet<&'static str> {
    let expected = case.op.eval(&case.inputs, &[]).expect("a valid case");
    let outputs: Vec<(DType, Vec<usize>)> =
        expected.iter().map(|t| (t.dtype(), t.shape().to_vec())).collect();
    let layout = if d.random_layout { Layout::Random } else { Layout::Dense };
    let mut ran = BTreeSet::new();
    for isa in Isa::available() {
        let mut optimized = false;
        for tactic in catalog::cpu().iter().filter(|t| t.class() == Class::Optimized) {
            let tactic: &dyn Tactic = *tactic;
            let mut r = d.random();
            let (inputs, constant) = (&case.inputs, &case.constant);
            let got =
                check::run(tactic, &case.op, inputs, constant, &outputs, isa, d.threads, layout, &mut r);
            let Some(got) = got else { continue };
            optimized = true;
            ran.insert(tactic.id());
            for (got, expected) in got.iter().zip(&expected) {
                check::compare(&format!("{} under {isa}", tactic.id()), got, expected, TOLERANCE);
            }
        }
        assert!(optimized || d.random_layout, "only the reference takes {:?} under {isa}", case.op);
    }
    ran
}

fn run_family((name, make, rows): &Family, cases: u32) {
    let reached = Mutex::new(BTreeSet::new());
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&draw(), |d| {
        let ran = hold(&make(&d), &d);
        reached.lock().unwrap().extend(ran);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{name}: {error}");
    }
    let reached = reached.into_inner().unwrap();
    let best = *Isa::available().last().expect("portable is always there");
    for tactic in catalog::cpu() {
        let id = tactic.id();
        // A row of an instruction set that the machine lacks cannot run here.
        let absent =
            Isa::ALL.into_iter().any(|isa| isa > best && id.split('.').any(|part| part == isa.name()));
        if rows.iter().any(|row| id.starts_with(row)) && !absent {
            assert!(reached.contains(id), "{name}: no case reached {id}; reached were {reached:?}");
        }
    }
}

macro_rules! families {
    ($($name:ident: $cases:literal),* $(,)?) => {
        mod agrees {
            $(
                #[test]
                fn $name() {
                    let family = super::FAMILIES.iter().find(|f| f.0 == stringify!($name));
                    super::run_family(family.expect("a family of that name"), $cases);
                }
            )*
        }
        /// The families that have a test.
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

families! {
    matmul: 400, conv: 600, conv_transpose: 200, pool: 200, attention: 80, rnn: 60, layer_norm: 120, group_norm: 80,
    softmax: 120, reduce: 200, arg_reduce: 80, cumulative: 80, unary: 250, binary: 250, select: 80, cast: 150,
    pointwise: 200, movement: 300, indexed: 250, top_k: 80, fourier: 250, suppression: 120, unique: 120, resize: 150,
    quantize: 100, shape_tensor: 8,
    grid_sample: 250, regions: 250, deform_sample: 150, fold: 200, det: 80,
}

/// Rows of other precisions than `fp32`, whose tests stand beside them.
const ELSEWHERE: [&str; 2] = ["tiles.", "winograd"];

#[test]
fn every_row_belongs_to_a_tested_family() {
    let here = |t: &&&'static dyn Tactic| {
        t.class() == Class::Optimized && !ELSEWHERE.iter().any(|row| t.id().starts_with(row))
    };
    for tactic in catalog::cpu().iter().filter(here) {
        let family = FAMILIES.iter().find(|f| f.2.iter().any(|row| tactic.id().starts_with(row)));
        let family = family.unwrap_or_else(|| panic!("no family reaches {}", tactic.id())).0;
        assert!(TESTED.contains(&family), "{family} has no test");
    }
}
