//! TensorFlow graphs (`GraphDef`): read into a [`HostGraph`](crate::HostGraph), and written again with segments as single nodes.

mod inline;
mod outputs;
mod pinned;
pub mod proto;
mod read;
mod rewrite;
mod shared;
mod signatures;
mod tensor;
#[cfg(test)]
mod tests;
pub mod wire;

pub use read::{Ends, GraphError, Known, Model, read};
pub use rewrite::{NATIVE, NATIVE_MARK, Replaced, Replacing, SEGMENT, SEGMENT_OP, border, replace_segments};
pub use shared::{Part, SharedError, restore, share};
pub use tensor::{dtype as dtype_of, number as number_of};

/// The domain of TensorFlow's operators in host graphs.
pub const DOMAIN: &str = "tf";
/// Nodes carry no version of their operators: all are of this one.
pub const VERSION: i64 = 1;
