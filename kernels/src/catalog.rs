//! The catalog: an ordered list of tactics. Production, tests, benches and tuning all enumerate it; where costs are
//! equal the earlier row wins, and the reference comes last.

use crate::{Class, Fit, Isa, Problem, Reject, Tactic};

/// Raised when rows are added or removed, or when selection changes; part of every plan's fingerprint together with the
/// tactics' own versions.
pub const CATALOG_VERSION: u32 = 11;

/// All CPU tactics. Each family's module adds its rows.
pub fn cpu() -> &'static [&'static dyn Tactic] {
    static ROWS: std::sync::OnceLock<Vec<&'static dyn Tactic>> = std::sync::OnceLock::new();
    ROWS.get_or_init(|| {
        let mut rows: Vec<&'static dyn Tactic> = Vec::new();
        // Families, fastest first; one line per family: `rows.extend_from_slice(crate::cpu::gemm::tactics());`
        rows.extend_from_slice(crate::cpu::amx::tactics());
        rows.extend_from_slice(crate::cpu::depthwise::tactics());
        rows.extend_from_slice(crate::cpu::conv::tactics());
        rows.extend(crate::cpu::winograd::tactics());
        rows.extend_from_slice(crate::cpu::conv_transpose::tactics());
        rows.extend_from_slice(crate::cpu::attention::tactics());
        rows.extend_from_slice(crate::cpu::gemm::tactics());
        rows.extend_from_slice(crate::cpu::pointwise::tactics());
        rows.extend_from_slice(crate::cpu::quantize::tactics());
        rows.extend_from_slice(crate::cpu::movement::tactics());
        rows.extend_from_slice(crate::cpu::pool::tactics());
        rows.extend_from_slice(crate::cpu::max_pool::tactics());
        rows.extend_from_slice(crate::cpu::sample::tactics());
        rows.extend_from_slice(crate::cpu::fold::tactics());
        rows.extend_from_slice(crate::cpu::det::tactics());
        rows.extend_from_slice(crate::cpu::softmax::tactics());
        rows.extend_from_slice(crate::cpu::norm::tactics());
        rows.extend_from_slice(crate::cpu::reduce::tactics());
        rows.extend_from_slice(crate::cpu::rnn::tactics());
        rows.extend_from_slice(crate::cpu::suppression::tactics());
        rows.extend_from_slice(crate::cpu::fourier::tactics());
        // What computes in a wide type takes narrower operands as well.
        let widened = crate::cpu::widened::tactics(&rows);
        rows.extend(widened);
        // The reference stands last and takes everything.
        rows.push(&crate::reference::ReferenceTactic);
        rows
    })
}

/// The tactics that take `p`, with their estimates, in catalog order; and why the others do not.
pub fn candidates(p: &Problem<'_>) -> (Vec<(&'static dyn Tactic, Fit)>, Vec<(&'static str, Reject)>) {
    let (mut fits, mut rejects) = (Vec::new(), Vec::new());
    for t in cpu() {
        match t.accepts(p) {
            Ok(fit) => fits.push((*t, fit)),
            Err(r) => rejects.push((t.id(), r)),
        }
    }
    (fits, rejects)
}

/// The tactic with the lowest estimate that is optimised, else the reference. `None` if nothing takes the problem.
pub fn best(p: &Problem<'_>) -> Option<(&'static dyn Tactic, Fit)> {
    best_among(cpu(), p)
}

/// [`best`] of some rows.
pub fn best_among(rows: &[&'static dyn Tactic], p: &Problem<'_>) -> Option<(&'static dyn Tactic, Fit)> {
    let mut best: Option<(&'static dyn Tactic, Fit)> = None;
    for t in rows {
        if t.class() == Class::Reference && best.is_some() {
            continue;
        }
        if let Ok(fit) = t.accepts(p)
            && best.is_none_or(|(_, b)| fit.cost_ns < b.cost_ns)
        {
            best = Some((*t, fit));
        }
    }
    best
}

/// Whether `a` and `b` are one tactic and `a` is for the better instruction set: their names agree but for that and the
/// size of the block (`conv.f32.avx512.12x32`, `conv.f32.avx2.6x16`).
pub fn supersedes(a: &dyn Tactic, b: &dyn Tactic) -> bool {
    fn isa(part: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|i| i.name() == part)
    }
    fn family(id: &str) -> impl Iterator<Item = &str> {
        id.split('.').filter(|p| isa(p).is_none() && !p.starts_with(|c: char| c.is_ascii_digit()))
    }
    let of = |t: &dyn Tactic| t.id().split('.').find_map(isa);
    of(b).is_some_and(|b| of(a).is_some_and(|a| a > b)) && family(a.id()).eq(family(b.id()))
}

/// The row of that name.
pub fn by_id(id: &str) -> Option<&'static dyn Tactic> {
    cpu().iter().copied().find(|t| t.id() == id)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn a_better_instruction_set_supersedes_the_same_tactic_only() {
        let row = |id: &str| by_id(id).unwrap_or_else(|| panic!("no row {id}"));
        let holds = |a: &str, b: &str| supersedes(row(a), row(b));
        assert!(holds("conv.f64.avx512.12x16", "conv.f64.avx2.6x8"));
        assert!(holds("depthwise.f32.avx2", "depthwise.f32.portable"));
        assert!(holds("matmul.f32.avx512.12x32.copied", "matmul.f32.avx2.6x16.copied"));
        assert!(!holds("matmul.f32.avx512.12x32.copied", "matmul.f32.avx2.6x16"));
        assert!(!holds("matmul.f32.avx512.thin", "matmul.f32.avx2.6x16"));
        assert!(!holds("conv.f32.avx512.12x32", "conv.f64.avx2.6x8"));
        assert!(!holds("conv.f32.avx2.6x16", "conv.f32.avx512.12x32"));
        assert!(!holds("conv.f32.avx2.6x16", "conv.f32.avx2.6x16"));
        assert!(!holds("pointwise.tiles", "depthwise.f32.portable"));
    }
}
