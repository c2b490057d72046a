//! Engraft as a plugin execution provider of ONNX Runtime 1.24 and later.
//!
//! The library exports `CreateEpFactories`, `ReleaseEpFactory` and, for older hosts, `RegisterCustomOps`, and links nothing of
//! ONNX Runtime: the function tables arrive as arguments. See [`ep`] for the life of a session, [`custom_op`] for the operator.
mod api;
mod compute;
mod context;
mod custom_op;
mod embedded;
mod ep;
mod error;
mod factory;
mod graph;
mod guard;
mod host_session;
mod logger;
mod sys;
mod workers;

use std::ffi::CStr;

/// The name under which hosts know the provider.
pub const EP_NAME: &CStr = c"EngraftExecutionProvider";
/// [`EP_NAME`] as text.
pub const EP_NAME_TEXT: &str = "EngraftExecutionProvider";
