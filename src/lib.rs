//! Engraft grafts optimized engine segments into the graphs of host runtimes.
//!
//! This crate is the facade that every front end (the bridges, the C ABI, the CLI) goes through: [`Options`] says what the user
//! wants, a session partitions a host graph, builds each segment through the plan cache and runs it.
mod capability;
mod compiled;
mod dump;
mod files;
mod log;
mod options;
mod original;
mod report;
mod session;
pub mod tensorflow;

pub use capability::CpuCapability;
pub use compiled::{CompiledSegment, Mismatch, identity};
pub use dump::dump;
pub use files::replace as replace_file;
pub use log::{event_text, panic_text};
pub use options::{KEYS, LogLevel, OptionError, Options, PartitionPolicy, Profile, Shapes};
pub use original::{Original, Rebuilt};
pub use report::{NodeEntry, Report, SegmentEntry};

/// Version of this build, as in `0.1.0`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit that this build was made from, or `unknown`.
pub const COMMIT: &str = env!("ENGRAFT_COMMIT");
/// Target triple of this build.
pub const TARGET: &str = env!("ENGRAFT_TARGET");

pub use engraft_engine as engine;
pub use engraft_kernels as kernels;
pub use engraft_kernels::{Precision, Serial, Workers};
pub use engraft_network::{AlignedBytes, Bytes, DType, Network, NetworkError, Tensor, ValueId};
pub use engraft_subgraph as subgraph;
pub use session::{CACHE_QUOTA, LoadError, Session, SessionError};

pub use engraft_engine::{Binding, Engine, LayerTime, OutputAllocator, OwnedOutputs, RunError, TensorRef};
pub use engraft_subgraph::{
    Attribute, HostDim, HostGraph, HostNode, HostValue, HostValueId, Partition, PlacementReport, Remedy,
    Segment, is_control_flow,
};
