//! Composite functions in the spellings of the usual exporters become the operators that they are.

mod attention;
mod formula;
mod norm;

use super::sweep::{Sweep, join, sweep};
use engraft_network::ops::{Softmax, Unary};
use engraft_network::{Network, NetworkError, Op, UnaryOp, ValueId};
use formula::{Formula, Match};
use std::sync::LazyLock;

pub(super) use attention::run as attention;
pub(super) use norm::absorb_affine;

/// Functions of one operand `x`, elementwise.
const UNARY: &[(UnaryOp, &str)] = &[
    (UnaryOp::Sigmoid, "recip(add(1, exp(neg(x))))"),
    (UnaryOp::Softplus, "log(add(1, exp(x)))"),
    (UnaryOp::Silu, "mul(x, sigmoid(x))"),
    (UnaryOp::Silu, "div(x, add(1, exp(neg(x))))"),
    (UnaryOp::HardSwish, "mul(x, 0.16666667, (min(relu(add(x, 3)), 6) | relu(min(add(x, 3), 6))))"),
    (
        UnaryOp::HardSwish,
        "mul(x, (min(relu(add(mul(x, 0.16666667), 0.5)), 1) | relu(min(add(mul(x, 0.16666667), 0.5), 1))))",
    ),
    (UnaryOp::Gelu, "mul(x, 0.5, add(1, erf(mul(x, 0.70710678))))"),
    (UnaryOp::Gelu, "mul(x, add(0.5, mul(0.5, erf(mul(x, 0.70710678)))))"),
    (UnaryOp::Gelu, "add(mul(x, 0.5), mul(x, 0.5, erf(mul(x, 0.70710678))))"),
    // TensorFlow: by the complementary error function of -x / sqrt 2.
    (
        UnaryOp::Gelu,
        "mul(x, 0.5, sub(1, erf((mul(x, -0.70710678) | mul(neg(x), 0.70710678) | neg(mul(x, 0.70710678))))))",
    ),
    (UnaryOp::GeluTanh, "mul(x, 0.5, add(1, tanh(mul(0.7978846, add(x, mul(0.044715, x, x, x))))))"),
    (UnaryOp::GeluTanh, "mul(x, 0.5, add(1, tanh(mul(0.7978846, x, add(1, mul(0.044715, x, x))))))"),
    (UnaryOp::GeluTanh, "mul(x, sigmoid(mul(1.5957692, add(x, mul(0.044715, x, x, x)))))"),
];

const SOFTMAX: &[&str] =
    &["(div(e:exp((sub(x, max_of(x)) | x)), sum(e)) | mul(e:exp((sub(x, max_of(x)) | x)), recip(sum(e))))"];

type Build = fn(&mut Sweep<'_>, &Match<'_>, &str, ValueId) -> Result<Option<ValueId>, NetworkError>;

enum Target {
    Unary(UnaryOp),
    Build(Build),
}

struct Rule {
    formula: Formula,
    target: Target,
    roots: Vec<Op>,
}

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let unary = UNARY.iter().map(|(op, text)| (*text, Target::Unary(*op)));
    let softmax = SOFTMAX.iter().map(|text| (*text, Target::Build(softmax as Build)));
    let norms = norm::LAYER_NORM.iter().map(|text| (*text, Target::Build(norm::layer_norm as Build)));
    let rms = norm::RMS_NORM.iter().map(|text| (*text, Target::Build(norm::rms_norm as Build)));
    unary
        .chain(softmax)
        .chain(norms)
        .chain(rms)
        .filter_map(|(text, target)| {
            Formula::parse(text).map(|formula| Rule { roots: formula.roots(), formula, target })
        })
        .collect()
});

/// Finds all elementwise, softmax and normalisation patterns, larger ones made of smaller ones in further runs.
pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| {
        let Some(node) = s.node(id) else { return Ok(()) };
        if !matches!(node.op, Op::Unary(_) | Op::Binary(_)) || s.is_pinned(id) {
            return Ok(());
        }
        let (op, out) = (node.op.clone(), node.outputs[0]);
        if !s.ty(out).dtype.is_float() {
            return Ok(());
        }
        for rule in RULES.iter().filter(|r| r.roots.contains(&op)) {
            let Some(m) = rule.formula.find(s, out) else { continue };
            let mut nodes = m.nodes.clone();
            nodes.sort_unstable();
            let name = join(nodes.iter().filter_map(|n| Some(&*s.node(*n)?.name)));
            let new = match rule.target {
                Target::Unary(function) => match m.value("x") {
                    Some(x) if s.ty(x) == s.ty(out) => Some(s.add(name, Unary { op: function }, &[x])?),
                    _ => None,
                },
                Target::Build(build) => build(s, &m, &name, out)?,
            };
            if let Some(new) = new {
                return s.replace(out, new);
            }
        }
        Ok(())
    })
}

fn softmax(
    s: &mut Sweep<'_>,
    m: &Match<'_>,
    name: &str,
    out: ValueId,
) -> Result<Option<ValueId>, NetworkError> {
    let Some(x) = m.value("x") else { return Ok(None) };
    let axis = match m.reduced(s) {
        Some(r) if r.keep_dims && r.axes.len() == 1 => r.axes[0],
        _ => return Ok(None),
    };
    if s.ty(x) != s.ty(out) {
        return Ok(None);
    }
    Ok(Some(s.add(name, Softmax { axis, log: false }, &[x])?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_formula_of_the_tables_parses() {
        let n = UNARY.len() + SOFTMAX.len() + norm::LAYER_NORM.len() + norm::RMS_NORM.len();
        assert_eq!(RULES.len(), n);
    }
}
