//! The one way into the library: every function that the host calls runs inside a guard, so that nothing unwinds over the ABI
//! and every failure becomes a status.
use std::{
    any::Any,
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
        Err(panic) => fail(api, entry, &Error::contract(describe(panic))),
    }
}

/// For functions that cannot report: a panic is logged and swallowed.
pub fn quiet(entry: &'static str, body: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
        tracing::error!("{entry}: {}", describe(panic));
    }
}

#[cold]
fn fail(api: Api, entry: &'static str, error: &Error) -> OrtStatusPtr {
    tracing::debug!("{entry} failed: {error}");
    api.status(error)
}

/// What a panic said.
pub fn describe(panic: Box<dyn Any + Send>) -> String {
    let said = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    format!("internal error in Engraft: {}", said.unwrap_or("panic without a message"))
}
