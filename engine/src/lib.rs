//! Builder, plan, cache and runtime of Engraft.

pub mod fingerprint;
pub mod mmap;
pub mod pool;
pub mod container;
