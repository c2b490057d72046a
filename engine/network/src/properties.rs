//! Laws of dims and expressions, and round trips of networks through passes' tools, on random cases that shrink.

use crate::convert::Values;
use crate::ops::{Binary, Pointwise, Unary};
use crate::{
    BinaryOp, DType, Dim, Expr, ExprNode, Network, Op, Patch, Scalar, SymbolId, SymbolSource, TensorType,
    UnaryOp,
};
use proptest::prelude::*;

/// Arithmetic on sizes, before it is a [`Dim`].
#[derive(Clone, Debug)]
enum Size {
    Fixed(i64),
    Symbol(u32),
    Add(Box<Size>, Box<Size>),
    Sub(Box<Size>, Box<Size>),
    Mul(Box<Size>, Box<Size>),
    Div(Box<Size>, i64),
    CeilDiv(Box<Size>, i64),
    Mod(Box<Size>, i64),
    Min(Box<Size>, Box<Size>),
    Max(Box<Size>, Box<Size>),
}

const SYMBOLS: usize = 3;

fn size() -> impl Strategy<Value = Size> {
    let leaf = prop_oneof![(-9i64..10).prop_map(Size::Fixed), (0..SYMBOLS as u32).prop_map(Size::Symbol)];
    leaf.prop_recursive(4, 16, 2, |inner| {
        let pair = (inner.clone(), inner.clone()).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        let by = (inner.prop_map(Box::new), 1i64..9);
        prop_oneof![
            pair.clone().prop_map(|(a, b)| Size::Add(a, b)),
            pair.clone().prop_map(|(a, b)| Size::Sub(a, b)),
            pair.clone().prop_map(|(a, b)| Size::Mul(a, b)),
            pair.clone().prop_map(|(a, b)| Size::Min(a, b)),
            pair.prop_map(|(a, b)| Size::Max(a, b)),
            by.clone().prop_map(|(a, b)| Size::Div(a, b)),
            by.clone().prop_map(|(a, b)| Size::CeilDiv(a, b)),
            by.prop_map(|(a, b)| Size::Mod(a, b)),
        ]
    })
}

impl Size {
    fn dim(&self) -> Dim {
        match self {
            Size::Fixed(n) => Dim::Fixed(*n),
            Size::Symbol(s) => Dim::symbol(SymbolId(*s)),
            Size::Add(a, b) => a.dim().add(&b.dim()),
            Size::Sub(a, b) => a.dim().sub(&b.dim()),
            Size::Mul(a, b) => a.dim().mul(&b.dim()),
            Size::Div(a, b) => a.dim().floor_div(&Dim::Fixed(*b)),
            Size::CeilDiv(a, b) => a.dim().ceil_div(&Dim::Fixed(*b)),
            Size::Mod(a, b) => a.dim().modulo(&Dim::Fixed(*b)),
            Size::Min(a, b) => a.dim().minimum(&b.dim()),
            Size::Max(a, b) => a.dim().maximum(&b.dim()),
        }
    }

    /// The value, unless an intermediate one is so large that it means nothing as a size.
    fn value(&self, env: &[i64]) -> Option<i64> {
        let v = match self {
            Size::Fixed(n) => *n,
            Size::Symbol(s) => env[*s as usize],
            Size::Add(a, b) => a.value(env)? + b.value(env)?,
            Size::Sub(a, b) => a.value(env)? - b.value(env)?,
            Size::Mul(a, b) => a.value(env)?.checked_mul(b.value(env)?)?,
            Size::Div(a, b) => a.value(env)?.div_euclid(*b),
            Size::CeilDiv(a, b) => -(-a.value(env)?).div_euclid(*b),
            Size::Mod(a, b) => a.value(env)?.rem_euclid(*b),
            Size::Min(a, b) => a.value(env)?.min(b.value(env)?),
            Size::Max(a, b) => a.value(env)?.max(b.value(env)?),
        };
        (v.abs() < 1 << 30).then_some(v)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn dims_evaluate_as_their_arithmetic(size in size(), env in prop::array::uniform3(0i64..40)) {
        let Some(want) = size.value(&env) else { return Ok(()) };
        let dim = size.dim();
        prop_assert_eq!(dim.eval(&env), want, "{}", dim);
        if dim.is_non_negative() {
            prop_assert!(want >= 0, "{} is {} where it was proven not negative", dim, want);
        }
        if let Some(n) = dim.fixed() {
            prop_assert_eq!(n, want);
        }
    }

    #[test]
    fn dims_have_the_laws_of_a_ring(a in size(), b in size(), c in size()) {
        let (a, b, c) = (a.dim(), b.dim(), c.dim());
        prop_assert_eq!(a.add(&b), b.add(&a));
        prop_assert_eq!(a.mul(&b), b.mul(&a));
        prop_assert_eq!(a.add(&b).add(&c), a.add(&b.add(&c)));
        prop_assert_eq!(a.sub(&a), Dim::Fixed(0));
        prop_assert_eq!(a.add(&b).sub(&b), a.clone());
        prop_assert_eq!(a.mul(&Dim::Fixed(1)), a.clone());
        prop_assert_eq!(a.minimum(&b), b.minimum(&a));
        prop_assert_eq!(a.maximum(&a), a);
    }

    #[test]
    fn substitution_is_evaluation_later(size in size(), inner in size(), env in prop::array::uniform3(0i64..12)) {
        let Some(value) = inner.value(&env) else { return Ok(()) };
        let later = [value, env[1], env[2]];
        let Some(want) = size.value(&later) else { return Ok(()) };
        let replaced = size.dim().substitute(&|s| if s.0 == 0 { inner.dim() } else { Dim::symbol(s) });
        prop_assert_eq!(replaced.eval(&env), want, "{}", replaced);
    }
}

/// Steps of an expression over `inputs` operands: an operation and which earlier values it takes.
fn expression(inputs: u16) -> impl Strategy<Value = Expr> {
    let step = (0usize..9, any::<prop::sample::Index>(), any::<prop::sample::Index>(), -8i32..9);
    prop::collection::vec(step, 1..12).prop_map(move |steps| {
        let mut e = Expr::new();
        let mut values: Vec<u16> = (0..inputs).map(|i| e.push(ExprNode::Input(i))).collect();
        for (kind, a, b, c) in steps {
            let (a, b) = (values[a.index(values.len())], values[b.index(values.len())]);
            let node = match kind {
                0 => ExprNode::Unary(UnaryOp::Neg, a),
                1 => ExprNode::Unary(UnaryOp::Abs, a),
                2 => ExprNode::Unary(UnaryOp::Relu, a),
                3 => ExprNode::Binary(BinaryOp::Add, a, b),
                4 => ExprNode::Binary(BinaryOp::Sub, a, b),
                5 => ExprNode::Binary(BinaryOp::Mul, a, b),
                6 => ExprNode::Binary(BinaryOp::Max, a, b),
                7 => ExprNode::Binary(BinaryOp::Min, a, b),
                _ => ExprNode::Const(Scalar::f32(c as f32 / 4.0)),
            };
            values.push(e.push(node));
        }
        e
    })
}

fn floats(e: &Expr, operands: &[f64]) -> f64 {
    let types = vec![DType::F32; operands.len()];
    let values: Vec<Values> = operands.iter().map(|x| Values::Float(vec![*x])).collect();
    match e.evaluate(&types, &values.iter().collect::<Vec<_>>()) {
        Some(Values::Float(v)) => v[0],
        other => panic!("{e:?} gave {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn finishing_keeps_the_value_and_nothing_else(e in expression(2), at in any::<prop::sample::Index>(), x in -3.0f64..3.0, y in -3.0f64..3.0) {
        let result = at.index(e.nodes().len()) as u16;
        // The value of node `result`, with whatever follows it cut off.
        let mut cut = Expr::new();
        for node in &e.nodes()[..=usize::from(result)] {
            cut.push(*node);
        }
        let want = floats(&cut, &[x, y]);
        let mut finished = e.clone();
        finished.finish(result);
        prop_assert!(finished.nodes().len() <= usize::from(result) + 1);
        prop_assert_eq!(floats(&finished, &[x, y]), want);
        let mut again = finished.clone();
        again.finish((finished.nodes().len() - 1) as u16);
        prop_assert_eq!(again, finished);
    }

    #[test]
    fn inlining_is_composition(outer in expression(1), inner in expression(1), x in -2.0f64..2.0) {
        let mut whole = Expr::new();
        let operand = whole.push(ExprNode::Input(0));
        let middle = whole.inline(&inner, &[operand]);
        let result = whole.inline(&outer, &[middle]);
        whole.finish(result);
        let (got, want) = (floats(&whole, &[x]), floats(&outer, &[floats(&inner, &[x])]));
        prop_assert!(got == want || got.is_nan() && want.is_nan(), "{} for {}", got, want);
    }

    #[test]
    fn networks_survive_their_text(regions in prop::collection::vec((expression(2), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6), batch in 1i64..5) {
        let net = network(&regions, batch);
        let text = net.to_string();
        let parsed = Network::parse(&text).map_err(|e| TestCaseError::fail(format!("{e} in\n{text}")))?;
        prop_assert_eq!(parsed.to_string(), text);
        prop_assert_eq!(parsed.node_count(), net.node_count());
        parsed.verify().map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
    }

    #[test]
    fn a_replaced_value_has_no_readers(regions in prop::collection::vec((expression(2), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6), which in any::<prop::sample::Index>(), batch in 1i64..5) {
        let mut net = network(&regions, batch);
        let nodes: Vec<_> = net.nodes().map(|(id, node)| (id, node.outputs[0])).collect();
        let (id, old) = nodes[which.index(nodes.len())];
        let (op, inputs) = {
            let node = net.node(id).expect("listed");
            (node.op.clone(), node.inputs.to_vec())
        };
        let readers = net.use_counts()[old.index()];
        let mut patch = Patch::new(&mut net);
        // The same value, negated twice.
        let copy = patch.add("copy", op, &inputs).unwrap();
        let once = patch.add("once", Unary { op: UnaryOp::Neg }.into(), &[copy]).unwrap();
        let new = patch.add("twice", Unary { op: UnaryOp::Neg }.into(), &[once]).unwrap();
        patch.replace(old, new).unwrap();
        patch.apply().unwrap();
        net.verify().map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
        prop_assert_eq!(net.use_counts()[old.index()], 0);
        prop_assert_eq!(net.use_counts()[new.index()], readers);
    }
}

/// A network of elementwise regions over two inputs of symbolic shape.
fn network(regions: &[(Expr, prop::sample::Index, prop::sample::Index)], batch: i64) -> Network {
    let mut net = Network::new("random");
    let n = net.add_symbol("n", SymbolSource::InputDim { input: 0, axis: 0 });
    let ty = TensorType::new(DType::F32, [Dim::symbol(n), Dim::Fixed(batch)]);
    let mut values = vec![net.add_input("a", ty.clone()), net.add_input("b", ty)];
    for (i, (expr, a, b)) in regions.iter().enumerate() {
        let operands = [values[a.index(values.len())], values[b.index(values.len())]];
        // Both operands take part, and the region is a tensor.
        let mut expr = expr.clone();
        let mut last = (expr.nodes().len() - 1) as u16;
        for k in 0..2 {
            let input = expr.push(ExprNode::Input(k));
            last = expr.push(ExprNode::Binary(BinaryOp::Add, last, input));
        }
        expr.finish(last);
        values.push(net.add(format!("region{i}"), Pointwise { expr }.into(), &operands).unwrap());
    }
    let sum = net.add("sum", Op::from(Binary { op: BinaryOp::Add }), &values[values.len() - 2..]).unwrap();
    net.set_outputs(vec![sum]);
    net
}
