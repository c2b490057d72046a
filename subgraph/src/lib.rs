//! Host graphs, the dialects that lower them, and the partitioner that decides what Engraft takes.
#![forbid(unsafe_code)]

pub mod dialect;
mod host;
pub mod lower;
pub mod onnx;

pub use lower::Reject;

pub use engraft_network::{DType, Tensor};
pub use host::{Attribute, HostDim, HostGraph, HostNode, HostValue, HostValueId};
