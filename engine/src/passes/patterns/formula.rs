//! Patterns written as formulas, and the matcher that finds them in a network.
//!
//! `mul(x, 0.5, add(1, erf(mul(x, 0.70710678))))`: lower-case names stand for any value (the same name for the same value),
//! `#eps` for any constant of one element, numbers for constants that are equal but for rounding, `d:sub(x, mean(x))` names
//! what is matched, and `(a | b)` is either. `add` and `mul` take any number of terms and match every bracketing and order;
//! a difference with a constant is a sum, a quotient by a constant a product. Reductions match along any axes.

use super::super::sweep::{Sweep, splat};
use engraft_network::ops::{Binary, Reduce, ReduceOp, Unary};
use engraft_network::{BinaryOp, DType, NodeId, Op, UnaryOp, ValueId};

#[derive(Clone, Debug, PartialEq)]
enum Pattern {
    Value(usize),
    Literal(f64),
    /// A constant of one element.
    Scalar(usize),
    Unary(UnaryOp, Box<Pattern>),
    Binary(BinaryOp, Box<Pattern>, Box<Pattern>),
    /// Sum or product of all in any order and bracketing.
    Many(BinaryOp, Vec<Pattern>),
    Reduce(ReduceOp, Box<Pattern>),
    Named(usize, Box<Pattern>),
    Either(Vec<Pattern>),
}

/// A parsed formula.
#[derive(Debug)]
pub(super) struct Formula {
    root: Pattern,
    names: Vec<String>,
}

/// What the names of a formula stand for in a network.
#[derive(Clone, Debug)]
pub(super) struct Match<'f> {
    formula: &'f Formula,
    values: Vec<Option<ValueId>>,
    scalars: Vec<Option<f64>>,
    /// The nodes that the formula's operators stand for, the root first.
    pub nodes: Vec<NodeId>,
}

impl Match<'_> {
    /// The value of a name that the formula binds in every alternative.
    pub fn value(&self, name: &str) -> Option<ValueId> {
        self.values[self.formula.names.iter().position(|n| n == name)?]
    }

    pub fn scalar(&self, name: &str) -> Option<f64> {
        self.scalars[self.formula.names.iter().position(|n| n == name)?]
    }

    /// The axes and form that all reductions of the match share.
    pub fn reduced<'s>(&self, s: &'s Sweep<'_>) -> Option<&'s Reduce> {
        let mut reductions = self.nodes.iter().filter_map(|n| match &s.node(*n)?.op {
            Op::Reduce(r) => Some(r),
            _ => None,
        });
        let first = reductions.next()?;
        reductions.all(|r| r.axes == first.axes && r.keep_dims == first.keep_dims).then_some(first)
    }
}

struct Parser<'t> {
    rest: &'t str,
    names: Vec<String>,
}

impl Parser<'_> {
    fn skip(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn eat(&mut self, c: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(c) {
            Some(r) => {
                self.rest = r;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> String {
        self.skip();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.' && c != '-');
        let (w, r) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = r;
        w.to_owned()
    }

    fn slot(&mut self, name: String) -> usize {
        match self.names.iter().position(|n| *n == name) {
            Some(i) => i,
            None => {
                self.names.push(name);
                self.names.len() - 1
            }
        }
    }

    fn list(&mut self) -> Option<Vec<Pattern>> {
        let mut out = vec![self.pattern()?];
        while self.eat(',') {
            out.push(self.pattern()?);
        }
        self.eat(')').then_some(out)
    }

    fn pattern(&mut self) -> Option<Pattern> {
        if self.eat('(') {
            let mut choices = vec![self.pattern()?];
            while self.eat('|') {
                choices.push(self.pattern()?);
            }
            return self.eat(')').then_some(Pattern::Either(choices));
        }
        if self.eat('#') {
            let name = self.word();
            return Some(Pattern::Scalar(self.slot(name)));
        }
        let word = self.word();
        if let Ok(number) = word.parse::<f64>() {
            return Some(Pattern::Literal(number));
        }
        if word.is_empty() {
            return None;
        }
        if self.eat(':') {
            let slot = self.slot(word);
            return Some(Pattern::Named(slot, Box::new(self.pattern()?)));
        }
        if !self.eat('(') {
            return Some(Pattern::Value(self.slot(word)));
        }
        let mut args = self.list()?;
        match (word.as_str(), args.len()) {
            ("add", 2..) => Some(Pattern::Many(BinaryOp::Add, args)),
            ("mul", 2..) => Some(Pattern::Many(BinaryOp::Mul, args)),
            ("sum" | "mean" | "max_of", 1) => {
                let op = ReduceOp::from_name(word.trim_end_matches("_of"))?;
                Some(Pattern::Reduce(op, Box::new(args.pop()?)))
            }
            (_, 1) => Some(Pattern::Unary(UnaryOp::from_name(&word)?, Box::new(args.pop()?))),
            (_, 2) => {
                let b = args.pop()?;
                Some(Pattern::Binary(BinaryOp::from_name(&word)?, Box::new(args.pop()?), Box::new(b)))
            }
            _ => None,
        }
    }
}

impl Formula {
    /// `None` where the text is not a formula; the formulas of this crate are parsed by a test.
    pub fn parse(text: &str) -> Option<Formula> {
        let mut p = Parser { rest: text, names: Vec::new() };
        let root = p.pattern()?;
        p.skip();
        p.rest.is_empty().then_some(Formula { root, names: p.names })
    }

    /// Operators that the root of a match may be.
    pub fn roots(&self) -> Vec<Op> {
        let mut out = Vec::new();
        self.root.for_each_root(&mut |op| out.push(op));
        out
    }

    /// Matches the formula against the value `root`. Every matched node but the root's is read inside the match only.
    pub fn find(&self, s: &Sweep<'_>, root: ValueId) -> Option<Match<'_>> {
        let n = self.names.len();
        let mut m = Match { formula: self, values: vec![None; n], scalars: vec![None; n], nodes: Vec::new() };
        let dtype = s.ty(root).dtype;
        let tolerance = if matches!(dtype, DType::F16 | DType::BF16) { 4e-3 } else { 2e-5 };
        let search = Search { s, tolerance };
        (search.solve(vec![Goal { patterns: vec![&self.root], op: None, value: root }], &mut m)
            && is_closed(s, &m, root))
        .then_some(m)
    }
}

impl Pattern {
    fn for_each_root(&self, f: &mut dyn FnMut(Op)) {
        match self {
            Pattern::Unary(op, _) => f(Unary { op: *op }.into()),
            Pattern::Binary(op, ..) => f(Binary { op: *op }.into()),
            Pattern::Many(op, _) => {
                f(Binary { op: *op }.into());
                let inverse = if *op == BinaryOp::Mul { BinaryOp::Div } else { BinaryOp::Sub };
                f(Binary { op: inverse }.into());
            }
            Pattern::Named(_, p) => p.for_each_root(f),
            Pattern::Either(choices) => choices.iter().for_each(|p| p.for_each_root(f)),
            Pattern::Value(_) | Pattern::Literal(_) | Pattern::Scalar(_) | Pattern::Reduce(..) => {}
        }
    }
}

/// True if nobody outside the match reads the results of its inner nodes.
fn is_closed(s: &Sweep<'_>, m: &Match<'_>, root: ValueId) -> bool {
    let mut nodes = m.nodes.clone();
    nodes.sort_unstable();
    nodes.dedup();
    nodes.iter().all(|id| {
        let Some(node) = s.node(*id) else { return false };
        let out = node.outputs[0];
        out == root || {
            let inside: usize = nodes
                .iter()
                .filter_map(|r| s.node(*r))
                .map(|r| r.inputs.iter().filter(|v| **v == out).count())
                .sum();
            inside == s.uses(out) as usize
        }
    })
}

/// One pattern, or several that `op` combines, to be found at a value.
#[derive(Clone)]
struct Goal<'f> {
    patterns: Vec<&'f Pattern>,
    op: Option<BinaryOp>,
    value: ValueId,
}

struct Search<'a, 's> {
    s: &'a Sweep<'s>,
    tolerance: f64,
}

/// Cheap and decisive patterns are looked at first: literals, then operators, then names.
fn looseness(p: &Pattern) -> u8 {
    match p {
        Pattern::Literal(_) => 0,
        Pattern::Scalar(_) => 1,
        Pattern::Value(_) => 3,
        _ => 2,
    }
}

impl Search<'_, '_> {
    fn near(&self, a: f64, b: f64) -> bool {
        (a - b).abs() <= self.tolerance * b.abs().max(1e-30)
    }

    /// Depth first with full backtracking: formulas have a dozen operators at most.
    fn solve<'f>(&self, mut goals: Vec<Goal<'f>>, m: &mut Match<'f>) -> bool {
        let Some(goal) = goals.pop() else { return true };
        let saved = (m.values.clone(), m.scalars.clone(), m.nodes.len());
        let mut attempt = |more: Vec<Goal<'f>>, m: &mut Match<'f>| {
            let mut next = goals.clone();
            next.extend(more);
            if self.solve(next, m) {
                return true;
            }
            m.values.clone_from(&saved.0);
            m.scalars.clone_from(&saved.1);
            m.nodes.truncate(saved.2);
            false
        };
        let one = |p: &'f Pattern, value: ValueId| Goal { patterns: vec![p], op: None, value };
        let v = goal.value;
        if let (Some(op), [_, _, ..]) = (goal.op, goal.patterns.as_slice()) {
            return self.split(op, &goal.patterns, v, m, &mut attempt);
        }
        let (id, node) = self.s.producer(v).unzip();
        match goal.patterns[0] {
            Pattern::Value(i) => {
                if m.values[*i].is_some_and(|b| b != v) {
                    return false;
                }
                m.values[*i] = Some(v);
                attempt(Vec::new(), m)
            }
            Pattern::Named(i, p) => {
                if m.values[*i].is_some_and(|b| b != v) {
                    return false;
                }
                m.values[*i] = Some(v);
                attempt(vec![one(p, v)], m)
            }
            Pattern::Literal(c) => {
                splat(self.s.net(), v).is_some_and(|x| self.near(x, *c)) && attempt(Vec::new(), m)
            }
            Pattern::Scalar(i) => match splat(self.s.net(), v) {
                Some(x) if m.scalars[*i].is_none_or(|b| self.near(x, b)) => {
                    m.scalars[*i] = Some(x);
                    attempt(Vec::new(), m)
                }
                _ => false,
            },
            Pattern::Either(choices) => choices.iter().any(|p| attempt(vec![one(p, v)], m)),
            Pattern::Many(op, patterns) => {
                let mut patterns: Vec<&Pattern> = patterns.iter().collect();
                patterns.sort_by_key(|p| looseness(p));
                attempt(vec![Goal { patterns, op: Some(*op), value: v }], m)
            }
            Pattern::Unary(op, p) => match (id, node) {
                (Some(id), Some(n)) if n.op == Op::Unary(Unary { op: *op }) => {
                    let x = n.inputs[0];
                    m.nodes.push(id);
                    attempt(vec![one(p, x)], m)
                }
                _ => false,
            },
            Pattern::Binary(op, p, q) => match (id, node) {
                (Some(id), Some(n)) if n.op == Op::Binary(Binary { op: *op }) => {
                    let (a, b) = (n.inputs[0], n.inputs[1]);
                    m.nodes.push(id);
                    if attempt(vec![one(p, a), one(q, b)], m) {
                        return true;
                    }
                    m.nodes.push(id);
                    op.is_commutative() && attempt(vec![one(p, b), one(q, a)], m)
                }
                _ => false,
            },
            Pattern::Reduce(op, p) => match (id, node) {
                (Some(id), Some(n)) if matches!(&n.op, Op::Reduce(r) if r.op == *op) => {
                    let x = n.inputs[0];
                    m.nodes.push(id);
                    attempt(vec![one(p, x)], m)
                }
                _ => false,
            },
        }
    }

    /// Distributes several terms or factors over the two operands of a node.
    fn split<'f>(
        &self,
        op: BinaryOp,
        patterns: &[&'f Pattern],
        v: ValueId,
        m: &mut Match<'f>,
        attempt: &mut dyn FnMut(Vec<Goal<'f>>, &mut Match<'f>) -> bool,
    ) -> bool {
        let Some((id, node)) = self.s.producer(v) else { return false };
        let Op::Binary(Binary { op: found }) = node.op else { return false };
        let (a, b) = (node.inputs[0], node.inputs[1]);
        let part = |mask: usize, value: ValueId| Goal {
            patterns: patterns
                .iter()
                .enumerate()
                .filter(|(i, _)| mask >> i & 1 == 1)
                .map(|(_, p)| *p)
                .collect(),
            op: Some(op),
            value,
        };
        if found == op {
            let all = (1usize << patterns.len()) - 1;
            return (1..all).any(|mask| {
                m.nodes.push(id);
                let (left, right) = (part(mask, a), part(all & !mask, b));
                // The goal pushed last is looked at first.
                let rank = |g: &Goal<'_>| g.patterns.iter().map(|p| looseness(p)).min();
                let goals = if rank(&left) < rank(&right) { vec![right, left] } else { vec![left, right] };
                attempt(goals, m)
            });
        }
        let inverse = match (op, found) {
            (BinaryOp::Mul, BinaryOp::Div) => splat(self.s.net(), b).map(|c| 1.0 / c),
            (BinaryOp::Add, BinaryOp::Sub) => splat(self.s.net(), b).map(|c| -c),
            _ => None,
        };
        let Some(c) = inverse else { return false };
        (0..patterns.len()).any(|i| {
            let all = (1usize << patterns.len()) - 1;
            match patterns[i] {
                Pattern::Literal(l) if self.near(c, *l) => {}
                Pattern::Scalar(k) if m.scalars[*k].is_none_or(|x| self.near(c, x)) => {
                    m.scalars[*k] = Some(c)
                }
                _ => return false,
            }
            m.nodes.push(id);
            attempt(vec![part(all & !(1 << i), a)], m)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_parse() {
        let f = Formula::parse("add(x, mul(d:sub(x, mean(x)), (sqrt(#eps) | 2.5), y))").unwrap();
        assert_eq!(f.names, ["x", "d", "eps", "y"]);
        for bad in ["", "mul(x", "nonsense(x)", "mul(x, y) z", "neg(x, y)", "(x | )"] {
            assert!(Formula::parse(bad).is_none(), "{bad}");
        }
    }
}
