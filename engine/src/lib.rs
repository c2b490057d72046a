//! Builder, plan, cache and runtime of Engraft.

pub mod container;
pub mod fingerprint;
pub mod lock;
pub mod mmap;
pub mod plan_cache;
pub mod pool;
pub mod timing_cache;
