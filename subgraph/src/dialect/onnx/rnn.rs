//! Recurrent layers.

use engraft_network::{Dim, ValueId, ops};

use super::super::Row;
use super::conv::size_of;
use super::{FIRST, row};
use crate::Attribute;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("LSTM", FIRST, |n| recurrent(n, ops::RnnKind::Lstm)),
    row("GRU", FIRST, |n| recurrent(n, ops::RnnKind::Gru)),
    row("RNN", FIRST, |n| recurrent(n, ops::RnnKind::Simple)),
];

fn recurrent(n: &mut NodeLowering, kind: ops::RnnKind) -> Result<()> {
    let direction = match n.string_or("direction", "forward")? {
        "forward" => ops::Direction::Forward,
        "reverse" => ops::Direction::Reverse,
        "bidirectional" => ops::Direction::Bidirectional,
        other => return Err(Reject::invalid(format!("direction {other:?} is not defined"))),
    };
    let directions = if direction == ops::Direction::Bidirectional { 2 } else { 1 };
    let lstm = kind == ops::RnnKind::Lstm;
    let batch_first = n.flag("layout")?;
    let (x, w, r) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let (bias, lens, initial_h) = (n.optional(3)?, n.optional(4)?, n.optional(5)?);
    let (initial_c, peephole) = if lstm { (n.optional(6)?, n.optional(7)?) } else { (None, None) };
    let hidden = match n.int("hidden_size")? {
        Some(size) => size,
        None => n
            .shape(r)
            .last()
            .and_then(Dim::fixed)
            .ok_or_else(|| n.wants_fixed_dims(2, "hidden_size is not known"))?,
    };
    let hidden = size_of("hidden_size", hidden)?;
    let op = ops::Rnn {
        kind,
        direction,
        hidden,
        activations: activations(n, kind, directions)?,
        clip: match n.attribute("clip") {
            Some(_) => Some(n.float_or("clip", 0.0)?.to_bits()),
            None => None,
        },
        linear_before_reset: n.flag("linear_before_reset")?,
        input_forget: n.flag("input_forget")?,
        bias: bias.is_some(),
        sequence_lens: lens.is_some(),
        initial_h: initial_h.is_some(),
        initial_c: initial_c.is_some(),
        peephole: peephole.is_some(),
        mask: false,
    };
    // With `layout` the batch comes first: [B, T, I], states [B, D, H].
    let swapped = |n: &mut NodeLowering, value: ValueId| -> Result<ValueId> {
        if batch_first { n.transpose(value, &[1, 0, 2]) } else { Ok(value) }
    };
    let x = swapped(n, x)?;
    let initial_h = initial_h.map(|state| swapped(n, state)).transpose()?;
    let initial_c = initial_c.map(|state| swapped(n, state)).transpose()?;
    let inputs: Vec<ValueId> = [x, w, r]
        .into_iter()
        .chain(bias)
        .chain(lens)
        .chain(initial_h)
        .chain(initial_c)
        .chain(peephole)
        .collect();
    let outputs = n.emit_many(op, &inputs)?;
    for (index, &output) in outputs.iter().enumerate() {
        let output = match (batch_first, index) {
            (false, _) => output,
            (true, 0) => n.transpose(output, &[2, 0, 1, 3])?,
            (true, _) => n.transpose(output, &[1, 0, 2])?,
        };
        n.set(index, output);
    }
    Ok(())
}

fn activations(n: &NodeLowering, kind: ops::RnnKind, directions: usize) -> Result<Vec<ops::Activation>> {
    let defaults: &[&str] = match kind {
        ops::RnnKind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
        ops::RnnKind::Gru => &["Sigmoid", "Tanh"],
        ops::RnnKind::Simple => &["Tanh"],
    };
    let names: Vec<String> = match n.attribute("activations") {
        None => {
            defaults.iter().cycle().take(defaults.len() * directions).map(|&name| name.to_owned()).collect()
        }
        Some(Attribute::Strings(list)) => {
            list.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
        }
        Some(_) => return Err(Reject::invalid("attribute activations has an unexpected type")),
    };
    if names.len() != defaults.len() * directions {
        return Err(Reject::invalid(format!("{} activations for {directions} directions", names.len())));
    }
    // Functions with parameters take them from the lists in order; functions without leave the lists alone.
    let mut alphas = n.floats("activation_alpha")?.unwrap_or_default().into_iter();
    let mut betas = n.floats("activation_beta")?.unwrap_or_default().into_iter();
    let mut alpha = |default: f32| alphas.next().unwrap_or(default).to_bits();
    let mut beta = |default: f32| betas.next().unwrap_or(default).to_bits();
    names
        .iter()
        .map(|name| {
            Ok(match name.to_ascii_lowercase().as_str() {
                "sigmoid" => ops::Activation::Sigmoid,
                "tanh" => ops::Activation::Tanh,
                "relu" => ops::Activation::Relu,
                "affine" => ops::Activation::Affine { alpha: alpha(1.0), beta: beta(0.0) },
                "leakyrelu" => ops::Activation::LeakyRelu { alpha: alpha(0.01) },
                "thresholdedrelu" => ops::Activation::ThresholdedRelu { alpha: alpha(1.0) },
                "scaledtanh" => ops::Activation::ScaledTanh { alpha: alpha(1.0), beta: beta(1.0) },
                "hardsigmoid" => ops::Activation::HardSigmoid { alpha: alpha(0.2), beta: beta(0.5) },
                "elu" => ops::Activation::Elu { alpha: alpha(1.0) },
                "softsign" => ops::Activation::Softsign,
                "softplus" => ops::Activation::Softplus,
                _ => return Err(Reject::invalid(format!("activation {name:?} is not defined"))),
            })
        })
        .collect()
}
