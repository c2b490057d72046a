//! Kernels for CPUs.

pub mod fpenv;
pub mod isa;
pub mod simd;

pub use fpenv::FlushDenormals;
pub use isa::{Avx2, Avx512, Isa, Portable};
