//! Builder, plan, cache and runtime of Engraft.
//!
//! [`Builder`] makes a plan of a network; [`Engine`] runs a plan.

mod arena;
mod arrange;
mod bands;
mod builder;
pub mod container;
mod engine;
mod error;
mod exec;
pub mod fingerprint;
mod layer;
mod layout;
pub mod lock;
mod memory;
pub mod mmap;
pub mod passes;
mod plan;
pub mod plan_cache;
pub mod pool;
mod program;
mod specialize;
mod strides;
pub mod timing_cache;
mod tune;

pub use builder::{Assessment, Builder, BuilderConfig, ProfileShapes, assess};
pub use engine::{Binding, Engine, LayerTime, OutputAllocator, OwnedOutputs, TensorRef};
pub use error::{BuildError, PlanError, RunError};
