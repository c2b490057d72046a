//! Matrix products on the CPU.

pub mod epilogue;
pub mod lanes;
pub mod matmul;
pub mod micro;
pub mod rows;
pub mod sweep;

pub use matmul::tactics;
