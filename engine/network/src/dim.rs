//! Symbolic dimensions.
//!
//! A [`Dim`] is a polynomial with integer coefficients over atoms; an atom is a symbol, a floor or ceiling quotient, a
//! minimum, a maximum, what sizes broadcast to, or a choice. The form is canonical (terms and factors sorted, like terms merged), so dims that are equal as
//! polynomials compare equal.

use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

/// Index of a symbol in its network's symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SymbolId(pub u32);

/// Values of all symbols of a network, by [`SymbolId`].
pub type DimEnv = [i64];

/// A size, or any integer of shape arithmetic (so it may be negative on the way).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Dim {
    Fixed(i64),
    /// Never a constant polynomial.
    Poly(Arc<Poly>),
}

/// Deepest nesting of quotients and extrema that is read: real networks stay far below, and a hostile file must not
/// exhaust the stack.
const MAX_DEPTH: u32 = 64;

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Dim, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "Dim")]
        enum Wire {
            Fixed(i64),
            Poly(Arc<Poly>),
        }
        thread_local!(static DEPTH: Cell<u32> = const { Cell::new(0) });
        struct Level;
        impl Drop for Level {
            fn drop(&mut self) {
                DEPTH.set(DEPTH.get() - 1);
            }
        }
        DEPTH.set(DEPTH.get() + 1);
        let _level = Level;
        if DEPTH.get() > MAX_DEPTH {
            return Err(serde::de::Error::custom("a dim is nested too deeply"));
        }
        Ok(match Wire::deserialize(deserializer)? {
            Wire::Fixed(n) => Dim::Fixed(n),
            Wire::Poly(p) => Dim::Poly(p),
        })
    }
}

/// Sum of `coefficient * product(atoms)`; terms sorted by their atoms, no zero coefficient.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Poly {
    terms: Vec<(Vec<Atom>, i64)>,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
enum Atom {
    Symbol(SymbolId),
    /// Floor of the quotient.
    Floor(Dim, Dim),
    /// Ceiling of the quotient.
    Ceil(Dim, Dim),
    Min(Vec<Dim>),
    Max(Vec<Dim>),
    /// The one size that is not 1, or 1 if all are.
    Broadcast(Vec<Dim>),
    /// The third where the first two are equal, else the fourth.
    Choice(Box<[Dim; 4]>),
}

fn floor_div(a: i64, b: i64) -> i64 {
    if b == 0 { 0 } else { a.wrapping_div_euclid(b) - i64::from(b < 0 && a.wrapping_rem_euclid(b) != 0) }
}

fn ceil_div(a: i64, b: i64) -> i64 {
    if b == 0 { 0 } else { floor_div(a.wrapping_neg(), b).wrapping_neg() }
}

impl Dim {
    pub fn symbol(id: SymbolId) -> Dim {
        Dim::atom(Atom::Symbol(id))
    }

    fn atom(atom: Atom) -> Dim {
        Dim::Poly(Arc::new(Poly { terms: vec![(vec![atom], 1)] }))
    }

    /// The value, if the dim is a fixed number.
    pub fn fixed(&self) -> Option<i64> {
        match self {
            Dim::Fixed(n) => Some(*n),
            Dim::Poly(_) => None,
        }
    }

    /// The symbol, if the dim is exactly one symbol.
    pub fn as_symbol(&self) -> Option<SymbolId> {
        match self.as_atom() {
            Some(Atom::Symbol(s)) => Some(*s),
            _ => None,
        }
    }

    fn as_atom(&self) -> Option<&Atom> {
        match self {
            Dim::Poly(p) => match p.terms.as_slice() {
                [(atoms, 1)] => match atoms.as_slice() {
                    [atom] => Some(atom),
                    _ => None,
                },
                _ => None,
            },
            Dim::Fixed(_) => None,
        }
    }

    fn terms(&self) -> Vec<(Vec<Atom>, i64)> {
        match self {
            Dim::Fixed(0) => Vec::new(),
            Dim::Fixed(n) => vec![(Vec::new(), *n)],
            Dim::Poly(p) => p.terms.clone(),
        }
    }

    fn from_terms(mut terms: Vec<(Vec<Atom>, i64)>) -> Dim {
        terms.sort_by(|a, b| a.0.cmp(&b.0));
        let mut merged: Vec<(Vec<Atom>, i64)> = Vec::with_capacity(terms.len());
        for (atoms, c) in terms {
            match merged.last_mut() {
                Some(last) if last.0 == atoms => last.1 = last.1.wrapping_add(c),
                _ => merged.push((atoms, c)),
            }
        }
        merged.retain(|t| t.1 != 0);
        match merged.as_slice() {
            [] => Dim::Fixed(0),
            [(atoms, c)] if atoms.is_empty() => Dim::Fixed(*c),
            _ => Dim::Poly(Arc::new(Poly { terms: merged })),
        }
    }

    pub fn add(&self, other: &Dim) -> Dim {
        if let (Dim::Fixed(a), Dim::Fixed(b)) = (self, other) {
            return Dim::Fixed(a.wrapping_add(*b));
        }
        let mut t = self.terms();
        t.extend(other.terms());
        Dim::from_terms(t)
    }

    pub fn neg(&self) -> Dim {
        self.mul(&Dim::Fixed(-1))
    }

    pub fn sub(&self, other: &Dim) -> Dim {
        self.add(&other.neg())
    }

    pub fn mul(&self, other: &Dim) -> Dim {
        if let (Dim::Fixed(a), Dim::Fixed(b)) = (self, other) {
            return Dim::Fixed(a.wrapping_mul(*b));
        }
        let (a, b) = (self.terms(), other.terms());
        let mut out = Vec::with_capacity(a.len() * b.len());
        for (x, cx) in &a {
            for (y, cy) in &b {
                let mut atoms = x.clone();
                atoms.extend(y.iter().cloned());
                atoms.sort();
                out.push((atoms, cx.wrapping_mul(*cy)));
            }
        }
        Dim::from_terms(out)
    }

    /// Splits `self` into the part that a single-term divisor divides exactly (already divided) and the rest.
    fn split_divisible(&self, divisor: &Dim) -> Option<(Dim, Dim)> {
        let d = divisor.terms();
        let [(datoms, dc)] = d.as_slice() else { return None };
        let (mut exact, mut rest) = (Vec::new(), Vec::new());
        'term: for (atoms, c) in self.terms() {
            if c.wrapping_rem(*dc) == 0 {
                let mut left = atoms.clone();
                for a in datoms {
                    match left.iter().position(|x| x == a) {
                        Some(i) => {
                            left.remove(i);
                        }
                        None => {
                            rest.push((atoms, c));
                            continue 'term;
                        }
                    }
                }
                exact.push((left, c.wrapping_div(*dc)));
            } else {
                rest.push((atoms, c));
            }
        }
        Some((Dim::from_terms(exact), Dim::from_terms(rest)))
    }

    /// `floor(self / other)`; a zero divisor gives 0.
    pub fn floor_div(&self, other: &Dim) -> Dim {
        self.quotient(other, floor_div, Atom::Floor)
    }

    /// `ceil(self / other)`; a zero divisor gives 0.
    pub fn ceil_div(&self, other: &Dim) -> Dim {
        self.quotient(other, ceil_div, Atom::Ceil)
    }

    fn quotient(&self, other: &Dim, eval: fn(i64, i64) -> i64, atom: fn(Dim, Dim) -> Atom) -> Dim {
        match (self, other) {
            (Dim::Fixed(a), Dim::Fixed(b)) => return Dim::Fixed(eval(*a, *b)),
            (_, Dim::Fixed(1)) => return self.clone(),
            (Dim::Fixed(0), _) => return Dim::Fixed(0),
            _ if self == other => return Dim::Fixed(1),
            _ => {}
        }
        if other.fixed() != Some(0)
            && let Some((exact, rest)) = self.split_divisible(other)
        {
            if rest == Dim::Fixed(0) {
                return exact;
            }
            if exact != Dim::Fixed(0) {
                return exact.add(&rest.quotient(other, eval, atom));
            }
        }
        // floor(floor(a / b) / c) = floor(a / (b * c)) for positive fixed b, c.
        if let (Dim::Poly(p), Dim::Fixed(c)) = (self, other)
            && *c > 0
            && let [(atoms, 1)] = p.terms.as_slice()
            && let [inner] = atoms.as_slice()
        {
            let probe = atom(Dim::Fixed(0), Dim::Fixed(1));
            match (inner, &probe) {
                (Atom::Floor(a, Dim::Fixed(b)), Atom::Floor(..))
                | (Atom::Ceil(a, Dim::Fixed(b)), Atom::Ceil(..))
                    if *b > 0 =>
                {
                    if let Some(divisor) = b.checked_mul(*c) {
                        return a.quotient(&Dim::Fixed(divisor), eval, atom);
                    }
                }
                _ => {}
            }
        }
        Dim::atom(atom(self.clone(), other.clone()))
    }

    /// `self - other * floor(self / other)` (the sign of the divisor, as Python's `%`).
    pub fn modulo(&self, other: &Dim) -> Dim {
        self.sub(&other.mul(&self.floor_div(other)))
    }

    pub fn minimum(&self, other: &Dim) -> Dim {
        self.extremum(other, true)
    }

    pub fn maximum(&self, other: &Dim) -> Dim {
        self.extremum(other, false)
    }

    fn extremum(&self, other: &Dim, min: bool) -> Dim {
        if self == other {
            return self.clone();
        }
        if let Some(d) = self.sub(other).fixed() {
            return if (d < 0) == min { self.clone() } else { other.clone() };
        }
        let mut operands = Vec::new();
        for d in [self, other] {
            match (d.as_atom(), min) {
                (Some(Atom::Min(v)), true) | (Some(Atom::Max(v)), false) => {
                    operands.extend(v.iter().cloned())
                }
                _ => operands.push(d.clone()),
            }
        }
        // Keep of two operands that differ by a constant only the decisive one.
        let mut kept: Vec<Dim> = Vec::new();
        'next: for d in operands {
            for k in &mut kept {
                if let Some(diff) = d.sub(k).fixed() {
                    if (diff < 0) == min {
                        *k = d;
                    }
                    continue 'next;
                }
            }
            kept.push(d);
        }
        kept.sort();
        if let [one] = kept.as_slice() {
            return one.clone();
        }
        Dim::atom(if min { Atom::Min(kept) } else { Atom::Max(kept) })
    }

    /// The size of an axis that axes of both sizes broadcast to (numpy's rule): the other where one is 1. Sizes that do not
    /// broadcast give either.
    pub fn broadcast(&self, other: &Dim) -> Dim {
        match (self.fixed(), other.fixed()) {
            (Some(1), _) => return other.clone(),
            (_, Some(1)) | (Some(_), _) => return self.clone(),
            (_, Some(_)) => return other.clone(),
            (None, None) if self == other => return self.clone(),
            (None, None) => {}
        }
        let mut operands = Vec::new();
        for d in [self, other] {
            match d.as_atom() {
                Some(Atom::Broadcast(v)) => operands.extend(v.iter().cloned()),
                _ => operands.push(d.clone()),
            }
        }
        operands.sort();
        operands.dedup();
        Dim::atom(Atom::Broadcast(operands))
    }

    /// Whether both are computed from a symbol that they share, and neither is what sizes broadcast to.
    pub(crate) fn is_related(&self, other: &Dim) -> bool {
        let broadcasts = |d: &Dim| match d {
            Dim::Fixed(_) => false,
            Dim::Poly(p) => p.terms.iter().flat_map(|t| &t.0).any(|a| matches!(a, Atom::Broadcast(_))),
        };
        let mut shared = false;
        self.for_each_symbol(&mut |s| other.for_each_symbol(&mut |t| shared |= s == t));
        shared && !broadcasts(self) && !broadcasts(other)
    }

    /// `then` where `a == b`, else `otherwise`.
    pub fn if_equal(a: &Dim, b: &Dim, then: &Dim, otherwise: &Dim) -> Dim {
        match a.sub(b).fixed() {
            _ if then == otherwise => then.clone(),
            Some(0) => then.clone(),
            Some(_) => otherwise.clone(),
            None => Dim::atom(Atom::Choice(Box::new([a, b, then, otherwise].map(Dim::clone)))),
        }
    }

    /// The value under `env`, which must hold every symbol that occurs.
    pub fn eval(&self, env: &DimEnv) -> i64 {
        match self {
            Dim::Fixed(n) => *n,
            Dim::Poly(p) => p
                .terms
                .iter()
                .map(|(atoms, c)| atoms.iter().fold(*c, |acc, a| acc.wrapping_mul(a.eval(env))))
                .fold(0, i64::wrapping_add),
        }
    }

    /// The value under `env`; `None` if a symbol that occurs is not in it.
    pub fn try_eval(&self, env: &DimEnv) -> Option<i64> {
        let mut known = true;
        self.for_each_symbol(&mut |s| known &= (s.0 as usize) < env.len());
        known.then(|| self.eval(env))
    }

    /// Calls `f` with every symbol that occurs (repeatedly if it occurs repeatedly).
    pub fn for_each_symbol(&self, f: &mut dyn FnMut(SymbolId)) {
        if let Dim::Poly(p) = self {
            for (atoms, _) in &p.terms {
                for a in atoms {
                    match a {
                        Atom::Symbol(s) => f(*s),
                        Atom::Floor(x, y) | Atom::Ceil(x, y) => {
                            x.for_each_symbol(f);
                            y.for_each_symbol(f);
                        }
                        Atom::Min(v) | Atom::Max(v) | Atom::Broadcast(v) => {
                            v.iter().for_each(|d| d.for_each_symbol(f))
                        }
                        Atom::Choice(v) => v.iter().for_each(|d| d.for_each_symbol(f)),
                    }
                }
            }
        }
    }

    /// Replaces every symbol by what `f` gives for it.
    pub fn substitute(&self, f: &dyn Fn(SymbolId) -> Dim) -> Dim {
        match self {
            Dim::Fixed(_) => self.clone(),
            Dim::Poly(p) => {
                let mut sum = Dim::Fixed(0);
                for (atoms, c) in &p.terms {
                    let mut product = Dim::Fixed(*c);
                    for a in atoms {
                        let v = match a {
                            Atom::Symbol(s) => f(*s),
                            Atom::Floor(x, y) => x.substitute(f).floor_div(&y.substitute(f)),
                            Atom::Ceil(x, y) => x.substitute(f).ceil_div(&y.substitute(f)),
                            Atom::Min(v) => v
                                .iter()
                                .map(|d| d.substitute(f))
                                .reduce(|a, b| a.minimum(&b))
                                .unwrap_or(Dim::Fixed(0)),
                            Atom::Max(v) => v
                                .iter()
                                .map(|d| d.substitute(f))
                                .reduce(|a, b| a.maximum(&b))
                                .unwrap_or(Dim::Fixed(0)),
                            Atom::Broadcast(v) => v
                                .iter()
                                .map(|d| d.substitute(f))
                                .reduce(|a, b| a.broadcast(&b))
                                .unwrap_or(Dim::Fixed(1)),
                            Atom::Choice(v) => {
                                let [a, b, then, otherwise] = [0, 1, 2, 3].map(|i| v[i].substitute(f));
                                Dim::if_equal(&a, &b, &then, &otherwise)
                            }
                        };
                        product = product.mul(&v);
                    }
                    sum = sum.add(&product);
                }
                sum
            }
        }
    }

    /// True if the dim cannot be negative given that every symbol is at least 0 (sufficient, not necessary).
    pub fn is_non_negative(&self) -> bool {
        match self {
            Dim::Fixed(n) => *n >= 0,
            Dim::Poly(p) => p.terms.iter().all(|(atoms, c)| {
                *c >= 0
                    && atoms.iter().all(|a| match a {
                        Atom::Symbol(_) => true,
                        Atom::Floor(x, y) | Atom::Ceil(x, y) => x.is_non_negative() && y.is_non_negative(),
                        Atom::Min(v) | Atom::Broadcast(v) => v.iter().all(Dim::is_non_negative),
                        Atom::Max(v) => v.iter().any(Dim::is_non_negative),
                        Atom::Choice(v) => v[2..].iter().all(Dim::is_non_negative),
                    })
            }),
        }
    }

    /// Product of dims; 1 for none.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::Fixed(1), |a, d| a.mul(d))
    }
}

impl Atom {
    fn eval(&self, env: &DimEnv) -> i64 {
        match self {
            Atom::Symbol(s) => env[s.0 as usize],
            Atom::Floor(a, b) => floor_div(a.eval(env), b.eval(env)),
            Atom::Ceil(a, b) => ceil_div(a.eval(env), b.eval(env)),
            Atom::Min(v) => v.iter().map(|d| d.eval(env)).min().unwrap_or(0),
            Atom::Max(v) => v.iter().map(|d| d.eval(env)).max().unwrap_or(0),
            Atom::Broadcast(v) => v.iter().map(|d| d.eval(env)).find(|n| *n != 1).unwrap_or(1),
            Atom::Choice(v) if v[0].eval(env) == v[1].eval(env) => v[2].eval(env),
            Atom::Choice(v) => v[3].eval(env),
        }
    }
}

impl From<i64> for Dim {
    fn from(n: i64) -> Dim {
        Dim::Fixed(n)
    }
}

impl From<i32> for Dim {
    fn from(n: i32) -> Dim {
        Dim::Fixed(i64::from(n))
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Fixed(n as i64)
    }
}

impl fmt::Display for Dim {
    /// `8`, `s0`, `2*s0+1`, `floor(s0/2)`, `min(s0,s1)`, `broadcast(s0,s1)`, `if_equal(s0,-1,4,s0)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Poly(p) => {
                for (i, (atoms, c)) in p.terms.iter().enumerate() {
                    if i > 0 && *c >= 0 {
                        f.write_str("+")?;
                    }
                    if atoms.is_empty() {
                        write!(f, "{c}")?;
                        continue;
                    }
                    match c {
                        1 => {}
                        -1 => f.write_str("-")?,
                        _ => write!(f, "{c}*")?,
                    }
                    for (j, a) in atoms.iter().enumerate() {
                        if j > 0 {
                            f.write_str("*")?;
                        }
                        let list = |f: &mut fmt::Formatter<'_>, name: &str, v: &[Dim]| {
                            write!(f, "{name}(")?;
                            for (k, d) in v.iter().enumerate() {
                                if k > 0 {
                                    f.write_str(",")?;
                                }
                                write!(f, "{d}")?;
                            }
                            f.write_str(")")
                        };
                        match a {
                            Atom::Symbol(s) => write!(f, "s{}", s.0)?,
                            Atom::Floor(x, y) => write!(f, "floor({x}/({y}))")?,
                            Atom::Ceil(x, y) => write!(f, "ceil({x}/({y}))")?,
                            Atom::Min(v) => list(f, "min", v)?,
                            Atom::Max(v) => list(f, "max", v)?,
                            Atom::Broadcast(v) => list(f, "broadcast", v)?,
                            Atom::Choice(v) => list(f, "if_equal", &v[..])?,
                        }
                    }
                }
                Ok(())
            }
        }
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(i: u32) -> Dim {
        Dim::symbol(SymbolId(i))
    }

    #[test]
    fn equal_polynomials_are_equal() {
        let a = s(0).add(&s(1)).mul(&Dim::Fixed(2));
        let b = s(1).mul(&Dim::Fixed(2)).add(&s(0)).add(&s(0));
        assert_eq!(a, b);
        assert_eq!(a.sub(&b), Dim::Fixed(0));
    }

    #[test]
    fn quotients_cancel() {
        let n = s(0).mul(&s(1)).mul(&Dim::Fixed(768));
        assert_eq!(n.floor_div(&s(1).mul(&Dim::Fixed(768))), s(0));
        let d = s(0).add(&Dim::Fixed(-1)).floor_div(&Dim::Fixed(2)).add(&Dim::Fixed(1));
        assert_eq!(d.eval(&[7]), 4);
        assert_eq!(d.add(&Dim::Fixed(-1)).floor_div(&Dim::Fixed(2)).eval(&[9]), 2);
        assert_eq!(Dim::Fixed(-7).floor_div(&Dim::Fixed(2)), Dim::Fixed(-4));
        assert_eq!(Dim::Fixed(7).floor_div(&Dim::Fixed(-2)), Dim::Fixed(-4));
        assert_eq!(Dim::Fixed(-7).ceil_div(&Dim::Fixed(2)), Dim::Fixed(-3));
    }

    #[test]
    fn extrema_normalise() {
        assert_eq!(s(0).minimum(&s(0).add(&Dim::Fixed(3))), s(0));
        assert_eq!(s(0).minimum(&s(1)), s(1).minimum(&s(0)));
        assert_eq!(s(0).maximum(&s(1)).eval(&[3, 5]), 5);
    }

    #[test]
    fn broadcasts_normalise() {
        let (a, b, c) = (s(0), s(1), s(2).add(&Dim::Fixed(1)));
        let all = a.broadcast(&b).broadcast(&c);
        assert_eq!(all, c.broadcast(&a).broadcast(&b.broadcast(&a)));
        assert_eq!(a.broadcast(&Dim::Fixed(1)), a);
        assert_eq!(Dim::Fixed(7).broadcast(&a), Dim::Fixed(7));
        for (env, want) in [([1, 5, 0], 5), ([5, 1, 4], 5), ([1, 1, 0], 1), ([0, 1, 0], 0), ([1, 1, 8], 9)] {
            assert_eq!(all.eval(&env), want);
            let shifted = all.substitute(&|s| Dim::Fixed(env[s.0 as usize]));
            assert_eq!(shifted, Dim::Fixed(want));
        }
    }

    #[test]
    fn choices() {
        let size = |target: &Dim| Dim::if_equal(target, &Dim::Fixed(-1), &Dim::Fixed(6), target);
        assert_eq!(size(&Dim::Fixed(-1)), Dim::Fixed(6));
        assert_eq!(size(&Dim::Fixed(4)), Dim::Fixed(4));
        let chosen = size(&s(0));
        assert_eq!((chosen.eval(&[-1]), chosen.eval(&[3])), (6, 3));
        assert_eq!(chosen.substitute(&|_| Dim::Fixed(-1)), Dim::Fixed(6));
        assert_eq!(chosen.to_string(), "if_equal(s0,-1,6,s0)");
    }

    #[test]
    fn hostile_nesting_is_an_error() {
        let nested = |depth: usize| {
            // Poly of one term of one atom Floor(.., 2): the encoding of postcard, level by level.
            let level: &[u8] = &[1, 1, 1, 1];
            let mut bytes = level.repeat(depth);
            bytes.extend([0, 2]);
            bytes.extend([0, 4, 2].repeat(depth));
            bytes
        };
        let read = |depth| postcard::from_bytes::<Dim>(&nested(depth));
        assert!(read(3).is_ok());
        assert!(read(100_000).is_err());
    }
}
