//! ONNX model files: from a path or bytes to a [`HostGraph`](crate::HostGraph).

mod functions;
mod proto;
mod read;
mod tensor;

pub use read::{Model, ModelError, read_model, read_model_bytes, read_model_with};
pub use tensor::{FileSource, ReadFiles};
