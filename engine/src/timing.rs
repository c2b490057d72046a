//! Where timings are kept: the persistent cache, or memory.

use rustc_hash::FxHashMap;

/// A store of measured times.
pub trait Timings {
    /// Nanoseconds of a tactic on a problem, if they were measured.
    fn get(&self, problem: &str, tactic: &str, version: u32) -> Option<f64>;
    fn put(&mut self, problem: &str, tactic: &str, version: u32, nanoseconds: f64);
}

/// Timings of this build only.
#[derive(Debug, Default)]
pub struct NoTimings(FxHashMap<String, f64>);

impl Timings for NoTimings {
    fn get(&self, problem: &str, tactic: &str, version: u32) -> Option<f64> {
        self.0.get(&format!("{problem}|{tactic}|{version}")).copied()
    }

    fn put(&mut self, problem: &str, tactic: &str, version: u32, nanoseconds: f64) {
        self.0.insert(format!("{problem}|{tactic}|{version}"), nanoseconds);
    }
}
