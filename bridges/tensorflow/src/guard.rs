//! The one way into the library: every function that TensorFlow or Python calls runs inside a guard, so that nothing unwinds
//! over the ABI.
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};

/// Runs `body`; a panic is an error like others.
#[inline]
pub fn guard<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|panic| Err(Error::contract(engraft::panic_text(&*panic))))
}

/// For functions that cannot report: a failure is logged.
pub fn quiet(entry: &'static str, body: impl FnOnce() -> Result<()>) {
    if let Err(error) = guard(body) {
        tracing::error!("{entry}: {error}");
    }
}
