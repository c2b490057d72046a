use super::tiles::TileRecurrent;
use super::*;
use crate::Precision;
use crate::cpu::amx::tile::{Model, Products};
use crate::cpu::check::{self, Random, Tolerance};
use engraft_network::Tensor;
use engraft_network::ops::Activation;

/// A random layer of that kind and its operands.
fn random(kind: RnnKind, r: &mut Random) -> (Rnn, Vec<Tensor>) {
    let direction = r.pick(&[Direction::Forward, Direction::Reverse, Direction::Bidirectional]);
    let d = if direction == Direction::Bidirectional { 2 } else { 1 };
    let (steps, batch, width) = (1 + r.below(7), 1 + r.below(11), 1 + r.below(40));
    let hidden = r.pick(&[1, 3, 16, 17, 33, 48]);
    let (alpha, beta) = (0.3f32.to_bits(), 0.4f32.to_bits());
    let usual = [Activation::Sigmoid, Activation::Tanh, Activation::Relu];
    let rare = [
        Activation::Affine { alpha, beta },
        Activation::LeakyRelu { alpha },
        Activation::ThresholdedRelu { alpha },
        Activation::ScaledTanh { alpha, beta },
        Activation::HardSigmoid { alpha, beta },
        Activation::Elu { alpha },
        Activation::Softsign,
        Activation::Softplus,
    ];
    let lstm = kind == RnnKind::Lstm;
    let op = Rnn {
        kind,
        direction,
        hidden,
        // A threshold jumps: rounding may fall on either side of it, which the other functions do not mind.
        activations: (0..d * kind.activations())
            .map(|_| if r.chance(70) { r.pick(&usual) } else { r.pick(&rare) })
            .filter(|a| !matches!(a, Activation::ThresholdedRelu { .. }))
            .chain(std::iter::repeat(Activation::Tanh))
            .take(d * kind.activations())
            .collect(),
        clip: r.chance(30).then_some(0.7f32.to_bits()),
        linear_before_reset: kind == RnnKind::Gru && r.chance(50),
        input_forget: lstm && r.chance(30),
        bias: r.chance(70),
        sequence_lens: r.chance(40),
        initial_h: r.chance(50),
        initial_c: lstm && r.chance(50),
        peephole: lstm && r.chance(40),
        mask: r.chance(30),
    };
    let g = kind.gates();
    let mut tensor = |shape: &[usize], range: f64| r.tensor(DType::F32, shape, range);
    let mut inputs = vec![
        tensor(&[steps, batch, width], 1.0),
        tensor(&[d, g * hidden, width], 0.3),
        tensor(&[d, g * hidden, hidden], 0.3),
    ];
    if op.bias {
        inputs.push(tensor(&[d, 2 * g * hidden], 0.5));
    }
    if op.sequence_lens {
        let lens: Vec<i32> = (0..batch).map(|i| (i * 7 % (steps + 1)) as i32).collect();
        inputs.push(Tensor::from_slice(&[batch], &lens).unwrap());
    }
    for _ in 0..usize::from(op.initial_h) + usize::from(op.initial_c) {
        inputs.push(tensor(&[d, batch, hidden], 1.0));
    }
    if op.peephole {
        inputs.push(tensor(&[d, 3 * hidden], 0.5));
    }
    if op.mask {
        let kept: Vec<f64> = (0..steps * batch).map(|_| f64::from(r.chance(60))).collect();
        inputs.push(Tensor::from_f64s(DType::Bool, &[steps, batch], &kept).unwrap());
    }
    (op, inputs)
}

fn agrees(kind: RnnKind, seed: u64) {
    let r = &mut Random(seed);
    for _ in 0..60 {
        let (op, inputs) = random(kind, r);
        let op = Op::from(op);
        let expected = op.eval(&inputs, &[]).unwrap();
        let tolerance = Tolerance { absolute: 2e-6, relative: 1e-5 };
        let constant: &[usize] = r.pick(&[&[1, 2][..], &[1, 2], &[1], &[2], &[]]);
        check::check(&Recurrent, &op, &inputs, constant, &expected, tolerance, r);
    }
}

#[test]
fn lstms() {
    agrees(RnnKind::Lstm, 41);
}

#[test]
fn grus() {
    agrees(RnnKind::Gru, 42);
}

#[test]
fn simple_cells() {
    agrees(RnnKind::Simple, 43);
}

static TILES: [TileRecurrent<Model>; 4] = [
    TileRecurrent::new("rnn.tiles.bf16x3.model", Products::Three, "rnn.tiles.bf16x3", false),
    TileRecurrent::new("rnn.tiles.bf16x3.model.states", Products::Three, "rnn.tiles.bf16x3", true),
    TileRecurrent::new("rnn.tiles.bf16.model", Products::One, "rnn.tiles.bf16", false),
    TileRecurrent::new("rnn.tiles.bf16.model.states", Products::One, "rnn.tiles.bf16", true),
];

/// On the model of the unit and, where the CPU has one, on the unit.
#[test]
fn tiles() {
    let r = &mut Random(44);
    let mut tactics: Vec<&'static dyn Tactic> = TILES.iter().map(|t| t as &dyn Tactic).collect();
    tactics.extend(super::tactics().iter().filter(|t| t.id().contains("tiles")));
    let mut taken = vec![0; tactics.len()];
    for kind in [RnnKind::Lstm, RnnKind::Gru, RnnKind::Simple].into_iter().cycle().take(60) {
        let (mut op, inputs) = random(kind, r);
        // What has no bound lets differences grow from step to step.
        for a in &mut op.activations {
            use Activation::{HardSigmoid, Sigmoid, Softsign, Tanh};
            *a = if matches!(a, Sigmoid | Tanh | HardSigmoid { .. } | Softsign) { *a } else { Tanh };
        }
        let op = Op::from(op);
        let expected = op.eval(&inputs, &[]).unwrap();
        let outputs: Vec<_> = expected.iter().map(|t| (t.dtype(), t.shape().to_vec())).collect();
        let three = Tolerance { absolute: 1e-5, relative: 5e-5 };
        let one = Tolerance { absolute: 2e-2, relative: 4e-2 };
        for (precision, tolerance) in [(Precision::Tf32, three), (Precision::Bf16, one)] {
            for (isa, threads) in Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]) {
                for (tactic, taken) in tactics.iter().zip(&mut taken) {
                    let layout = check::Layout::Dense;
                    let got = check::run_at(
                        precision,
                        *tactic,
                        &op,
                        &inputs,
                        &[1, 2],
                        &outputs,
                        isa,
                        threads,
                        layout,
                        r,
                    );
                    for (got, expected) in got.iter().flatten().zip(&expected) {
                        let what = format!("{} {isa} {op:?}", tactic.id());
                        check::compare(&what, got, expected, tolerance);
                    }
                    *taken += usize::from(got.is_some());
                }
            }
        }
    }
    assert!(taken[..TILES.len()].iter().all(|n| *n > 20), "{taken:?}");
}
