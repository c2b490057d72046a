//! Engraft inside TensorFlow: the operator `EngraftSegment` and a graph optimizer, through TensorFlow's C interface alone.
//!
//! Loading the library registers the operator ([`op`]); a process without a TensorFlow that it can work with hears why on the
//! standard error stream and from `engraft_tensorflow_error`. `TF_InitGraph` ([`optimizer`]) is called where TensorFlow loads the
//! library as a plugin. [`exports`] holds the functions that the Python package calls.
mod api;
mod engines;
mod error;
mod exports;
mod guard;
mod kernel;
mod logger;
mod native;
mod node;
mod op;
mod optimizer;
mod rewrite;
mod sys;
mod threads;
mod weights;

use std::{ffi::CString, sync::OnceLock};

/// Why the operator is not registered.
static FAILURE: OnceLock<CString> = OnceLock::new();

/// Run by the dynamic linker when the library is loaded.
#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

extern "C" fn loaded() {
    guard::quiet("loading", || {
        logger::install();
        if let Err(error) = guard::guard(op::register) {
            tracing::error!("{error}");
            drop(FAILURE.set(CString::new(error.to_string().replace('\0', " ")).unwrap_or_default()));
        }
        Ok(())
    });
}
