//! Kernels for CPUs.

#[cfg(test)]
pub(crate) mod check;
pub mod conv;
pub mod depthwise;
pub mod fpenv;
pub mod gemm;
pub mod isa;
pub mod math;
pub mod movement;
pub mod pack;
pub mod pointwise;
pub mod simd;

pub use fpenv::FlushDenormals;
pub use isa::{Avx2, Avx512, Isa, Portable};
