//! Builder, plan, cache and runtime of Engraft.

pub mod pool;
pub mod fingerprint;
pub mod mmap;
