//! The catalog: an ordered list of tactics. Production, tests, benches and tuning all enumerate it; where costs are
//! equal the earlier row wins, and the reference comes last.

use crate::{Class, Fit, Problem, Reject, Tactic};

/// Raised when rows are added or removed, or when selection changes; part of every plan's fingerprint together with the
/// tactics' own versions.
pub const CATALOG_VERSION: u32 = 4;

/// All CPU tactics. Each family's module adds its rows.
pub fn cpu() -> &'static [&'static dyn Tactic] {
    static ROWS: std::sync::OnceLock<Vec<&'static dyn Tactic>> = std::sync::OnceLock::new();
    ROWS.get_or_init(|| {
        let mut rows: Vec<&'static dyn Tactic> = Vec::new();
        // Families, fastest first; one line per family: `rows.extend_from_slice(crate::cpu::gemm::tactics());`
        rows.extend_from_slice(crate::cpu::amx::tactics());
        rows.extend_from_slice(crate::cpu::depthwise::tactics());
        rows.extend_from_slice(crate::cpu::conv::tactics());
        rows.extend_from_slice(crate::cpu::conv_transpose::tactics());
        rows.extend_from_slice(crate::cpu::attention::tactics());
        rows.extend_from_slice(crate::cpu::gemm::tactics());
        rows.extend_from_slice(crate::cpu::pointwise::tactics());
        rows.extend_from_slice(crate::cpu::quantize::tactics());
        rows.extend_from_slice(crate::cpu::movement::tactics());
        rows.extend_from_slice(crate::cpu::pool::tactics());
        rows.extend_from_slice(crate::cpu::max_pool::tactics());
        rows.extend_from_slice(crate::cpu::softmax::tactics());
        rows.extend_from_slice(crate::cpu::norm::tactics());
        rows.extend_from_slice(crate::cpu::reduce::tactics());
        rows.extend_from_slice(crate::cpu::rnn::tactics());
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

/// The row of that name.
pub fn by_id(id: &str) -> Option<&'static dyn Tactic> {
    cpu().iter().copied().find(|t| t.id() == id)
}
