//! Recurrent layers and interpolation of narrow types; products and convolutions stand with their families.

use crate::catalog;
use crate::cpu::check::{self, Layout, Random, Tolerance};
use crate::{Class, Isa, Tactic};
use engraft_network::ops::{Activation, CoordinateMode, Direction, Resize, ResizeMode, Rnn, RnnKind};
use engraft_network::{DType, Dim, Op};

fn row(id: &str) -> &'static dyn Tactic {
    catalog::by_id(id).unwrap_or_else(|| panic!("no row {id}"))
}

#[test]
fn recurrent_layers_of_half_width() {
    let r = &mut Random(51);
    for i in 0..12 {
        let dtype = [DType::F16, DType::BF16][i % 2];
        let (steps, batch, width, hidden) =
            (1 + r.below(5), 1 + r.below(4), 1 + r.below(20), 1 + r.below(20));
        let op = Op::from(Rnn {
            kind: RnnKind::Lstm,
            direction: Direction::Bidirectional,
            hidden,
            activations: [Activation::Sigmoid, Activation::Tanh, Activation::Tanh].repeat(2),
            clip: None,
            linear_before_reset: false,
            input_forget: false,
            bias: true,
            sequence_lens: false,
            initial_h: false,
            initial_c: false,
            peephole: false,
            mask: false,
        });
        let shapes: [&[usize]; 4] =
            [&[steps, batch, width], &[2, 4 * hidden, width], &[2, 4 * hidden, hidden], &[2, 8 * hidden]];
        let inputs: Vec<_> = shapes.iter().map(|shape| r.tensor(dtype, shape, 0.5)).collect();
        let expected = op.eval(&inputs, &[]).unwrap();
        let tolerance = Tolerance { absolute: 2e-6, relative: 1e-5 };
        let constant: &[usize] = r.pick(&[&[1, 2][..], &[]]);
        let runs = check::check(row("widened.rnn.f32"), &op, &inputs, constant, &expected, tolerance, r);
        assert!(runs > 0);
    }
}

#[test]
fn interpolation_of_narrow_types() {
    let r = &mut Random(52);
    for i in 0..40 {
        let dtype = [DType::F16, DType::BF16, DType::U8, DType::I8, DType::I16, DType::U16][i % 6];
        let from = [1 + r.below(3), 1 + r.below(9), 1 + r.below(9), 1 + r.below(5)];
        let to = [from[0], 1 + r.below(16), 1 + r.below(16), from[3]];
        let cubic = ResizeMode::Cubic { coefficient: (-0.75f32).to_bits() };
        let op = Op::from(Resize {
            mode: if r.chance(50) { ResizeMode::Linear } else { cubic },
            coordinates: r.pick(&[CoordinateMode::HalfPixel, CoordinateMode::AlignCorners]),
            sizes: to.iter().map(|d| Dim::from(*d)).collect(),
            scales: None,
            exclude_outside: false,
            antialias: r.chance(30),
            extrapolation: 0,
        });
        let x = r.tensor(dtype, &from, 100.0);
        let expected = op.eval(std::slice::from_ref(&x), &[]).unwrap();
        let outputs = [(dtype, to.to_vec())];
        for isa in Isa::available() {
            for (layout, threads) in [(Layout::Dense, 1), (Layout::Random, 3)] {
                let tactic = row("widened.resize.interpolate");
                let got =
                    check::run(tactic, &op, std::slice::from_ref(&x), &[], &outputs, isa, threads, layout, r)
                        .expect("taken at any strides");
                if dtype.is_float() {
                    let tolerance = Tolerance { absolute: 1e-6, relative: 3e-6 };
                    check::compare("resize", &got[0], &expected[0], tolerance);
                    continue;
                }
                // A sum that is whole in f64 may fall just short of it in f32, and is truncated.
                for i in 0..got[0].count() {
                    let (x, y) = (got[0].get_i64(i), expected[0].get_i64(i));
                    assert!((x - y).abs() <= 1, "{dtype} {op:?}: {x} for {y} at {i}");
                }
            }
        }
    }
}

#[test]
fn every_float_row_has_a_widened_one() {
    for row in catalog::cpu().iter().filter(|row| row.class() == Class::Optimized) {
        let widened = catalog::by_id(&format!("widened.{}", row.id())).is_some();
        let wide = matches!(row.computes(), Some(DType::F32 | DType::I32));
        assert_eq!(widened, wide, "{}", row.id());
    }
}
