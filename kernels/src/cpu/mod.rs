//! Kernels for CPUs.

pub mod amx;
pub mod attention;
pub mod ceiling;
#[cfg(test)]
pub(crate) mod check;
pub mod conv;
pub mod conv_transpose;
pub mod depthwise;
pub mod det;
pub mod fold;
pub mod fourier;
pub mod fpenv;
pub mod gemm;
pub mod isa;
pub mod math;
pub mod max_pool;
pub mod movement;
pub mod norm;
pub mod pack;
pub mod pointwise;
pub mod pool;
#[cfg(test)]
mod properties;
pub mod quantize;
pub mod reduce;
pub mod rnn;
pub mod sample;
mod shared;
pub mod simd;
pub mod softmax;
mod storage;
pub mod suppression;
pub mod widened;
pub mod winograd;

pub use fpenv::FlushDenormals;
pub use isa::{Avx2, Avx512, Isa, Portable};
