//! Host graphs, the dialects that lower them, and the partitioner that decides what Engraft takes.
#![forbid(unsafe_code)]

mod cluster;
pub mod cost;
pub mod dialect;
mod host;
mod inner;
pub mod lower;
pub mod onnx;
mod part;
mod partition;
mod report;
mod segment;
pub mod tensorflow;

pub use cost::{AcceptAll, Capability, Cost, Work};
pub use engraft_network::{DType, Tensor};
pub use host::{Attribute, HostDim, HostGraph, HostNode, HostValue, HostValueId, is_control_flow};
pub use lower::{Reject, Remedy};
pub use partition::{Partition, PartitionOptions, PartitionPolicy, partition};
pub use report::{NodePlacement, Placement, PlacementReport, SegmentSummary};
pub use segment::Segment;
