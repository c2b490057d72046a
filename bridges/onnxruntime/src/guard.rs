//! The one way into the library: every function that the host calls runs inside a guard, so that nothing unwinds over the ABI
//! and every failure becomes a status.
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::null_mut,
};

use crate::{
    api::Api,
    error::{Error, Result},
    sys::OrtStatusPtr,
};

/// Runs `body`; an error or a panic becomes a status that names `entry`. Allocates only on failure.
#[inline]
pub fn guard(api: Api, entry: &'static str, body: impl FnOnce() -> Result<()>) -> OrtStatusPtr {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => OrtStatusPtr(null_mut()),
        Ok(Err(error)) => fail(api, entry, &error),
        Err(panic) => fail(api, entry, &Error::contract(engraft::panic_text(&*panic))),
    }
}

/// For functions that cannot report: a panic is logged and swallowed.
pub fn quiet(entry: &'static str, body: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
        tracing::error!("{entry}: {}", engraft::panic_text(&*panic));
    }
}

#[cold]
fn fail(api: Api, entry: &'static str, error: &Error) -> OrtStatusPtr {
    tracing::debug!("{entry} failed: {error}");
    api.status(error)
}
