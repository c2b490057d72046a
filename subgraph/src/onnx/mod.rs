//! ONNX model files: from a path or bytes to a [`HostGraph`](crate::HostGraph).

mod functions;
mod proto;
mod read;
mod replace;
#[cfg(test)]
mod robustness;
mod tensor;

pub use read::{Model, ModelError, read_model, read_model_bytes, read_model_with};
pub use replace::{MODEL, Replaced, Replacing, replace_segments};
pub use tensor::{FileSource, ReadFiles, read_tensor_bytes};

/// The data type of an ONNX element type number, `None` for those that Engraft does not hold.
pub fn dtype_of(element_type: i64) -> Option<engraft_network::DType> {
    i32::try_from(element_type).ok().and_then(tensor::dtype)
}
