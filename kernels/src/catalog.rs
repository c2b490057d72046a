//! The catalog: an ordered list of tactics. Production, tests, benches and tuning all enumerate it; where costs are
//! equal the earlier row wins, and the reference comes last.

use crate::{Class, Fit, Problem, Reject, Tactic};

/// Raised when rows are added or removed, or when selection changes; part of every plan's fingerprint together with the
/// tactics' own versions.
pub const CATALOG_VERSION: u32 = 1;

/// All CPU tactics. Each family's module adds its rows.
pub fn cpu() -> &'static [&'static dyn Tactic] {
    static ROWS: std::sync::OnceLock<Vec<&'static dyn Tactic>> = std::sync::OnceLock::new();
    ROWS.get_or_init(|| {
        let mut rows: Vec<&'static dyn Tactic> = Vec::new();
        // Families, fastest first; one line per family: `rows.extend_from_slice(crate::cpu::gemm::tactics());`
        rows.extend_from_slice(crate::cpu::conv::tactics());
        rows.extend_from_slice(crate::cpu::gemm::tactics());
