//! Shape arithmetic on [`Dim`]s with what is known about signs.

use engraft_network::{Dim, SymbolId};
use rustc_hash::FxHashSet;

/// What is known about the symbols of a network beyond their names.
#[derive(Clone, Default, Debug)]
pub struct Facts {
    /// Symbols that stand for elements of an input rather than for sizes, and so may be negative.
    signed: FxHashSet<SymbolId>,
}

impl Facts {
    pub fn mark_signed(&mut self, symbol: SymbolId) {
        self.signed.insert(symbol);
    }

    pub fn may_be_signed(&self, dim: &Dim) -> bool {
        let mut signed = false;
        dim.for_each_symbol(&mut |symbol| signed |= self.signed.contains(&symbol));
        signed
    }

    /// True only where the dim is at least 0 for all values that its symbols can have.
    pub fn non_negative(&self, dim: &Dim) -> bool {
        dim.is_non_negative() && !self.may_be_signed(dim)
    }

    pub fn positive(&self, dim: &Dim) -> bool {
        self.non_negative(&dim.sub(&Dim::Fixed(1)))
    }

    /// 1 where `dim` is negative, else 0.
    pub fn is_negative(&self, dim: &Dim) -> Dim {
        if self.non_negative(dim) {
            return Dim::Fixed(0);
        }
        self.truth(&dim.neg())
    }

    /// 1 where `dim` is positive, else 0.
    pub fn truth(&self, dim: &Dim) -> Dim {
        if self.positive(dim) {
            return Dim::Fixed(1);
        }
        if self.non_negative(&dim.neg()) {
            return Dim::Fixed(0);
        }
        self.max(dim, &Dim::Fixed(0)).minimum(&Dim::Fixed(1))
    }

    /// 1 where `a == b`, else 0.
    pub fn equal(&self, a: &Dim, b: &Dim) -> Dim {
        let difference = a.sub(b);
        if difference == Dim::Fixed(0) {
            return Dim::Fixed(1);
        }
        if self.positive(&difference) || self.positive(&difference.neg()) {
            return Dim::Fixed(0);
        }
        Dim::Fixed(1).sub(&difference.maximum(&difference.neg()).minimum(&Dim::Fixed(1)))
    }

    /// `condition ? a : b` for a condition of 0 or 1.
    pub fn select(condition: &Dim, a: &Dim, b: &Dim) -> Dim {
        match condition.fixed() {
            Some(0) => b.clone(),
            Some(_) => a.clone(),
            None if a == b => a.clone(),
            None => b.add(&condition.mul(&a.sub(b))),
        }
    }

    pub fn max(&self, a: &Dim, b: &Dim) -> Dim {
        let difference = a.sub(b);
        if self.non_negative(&difference) {
            a.clone()
        } else if self.non_negative(&difference.neg()) {
            b.clone()
        } else {
            a.maximum(b)
        }
    }

    pub fn min(&self, a: &Dim, b: &Dim) -> Dim {
        let difference = a.sub(b);
        if self.non_negative(&difference) {
            b.clone()
        } else if self.non_negative(&difference.neg()) {
            a.clone()
        } else {
            a.minimum(b)
        }
    }

    /// The quotient rounded toward zero, for a fixed positive or provably non-negative divisor.
    pub fn truncated_quotient(&self, a: &Dim, b: &Dim) -> Option<Dim> {
        if let (Some(a), Some(b)) = (a.fixed(), b.fixed()) {
            return Some(Dim::Fixed(if b == 0 { 0 } else { a.wrapping_div(b) }));
        }
        if !self.non_negative(b) {
            return None;
        }
        if self.non_negative(a) {
            return Some(a.floor_div(b));
        }
        let zero = Dim::Fixed(0);
        Some(a.floor_div(b).maximum(&zero).add(&a.ceil_div(b).minimum(&zero)))
    }

    /// An index as ONNX counts it: a negative one counts from the end of an axis of size `len`.
    pub fn from_end(&self, index: &Dim, len: &Dim) -> Dim {
        index.add(&self.is_negative(index).mul(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(id: u32) -> Dim {
        Dim::symbol(SymbolId(id))
    }

    #[test]
    fn decides_what_it_can() {
        let facts = Facts::default();
        let n = symbol(0);
        assert_eq!(facts.equal(&n, &Dim::Fixed(-1)), Dim::Fixed(0));
        assert_eq!(facts.equal(&n, &n), Dim::Fixed(1));
        assert_eq!(facts.from_end(&n, &Dim::Fixed(9)), n);
        assert_eq!(facts.max(&n.add(&Dim::Fixed(2)), &n), n.add(&Dim::Fixed(2)));
    }

    #[test]
    fn undecided_is_exact_at_run_time() {
        let mut facts = Facts::default();
        facts.mark_signed(SymbolId(0));
        let n = symbol(0);
        for value in -9..9 {
            let env = [value, 4];
            assert_eq!(facts.is_negative(&n).eval(&env), i64::from(value < 0));
            assert_eq!(facts.equal(&n, &Dim::Fixed(3)).eval(&env), i64::from(value == 3));
            assert_eq!(facts.truncated_quotient(&n, &Dim::Fixed(4)).unwrap().eval(&env), value / 4);
            assert_eq!(facts.from_end(&n, &symbol(1)).eval(&env), if value < 0 { value + 4 } else { value });
            let chosen = Facts::select(&facts.truth(&n), &Dim::Fixed(7), &symbol(1));
            assert_eq!(chosen.eval(&env), if value > 0 { 7 } else { 4 });
        }
    }
}
