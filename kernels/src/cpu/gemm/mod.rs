//! Matrix products on the CPU.

mod chain;
#[cfg(test)]
pub(crate) mod check;
pub mod epilogue;
pub mod grid;
pub mod lanes;
pub mod matmul;
pub mod micro;
pub mod rows;
pub mod sweep;
#[cfg(test)]
mod tests;
mod thin;

pub use matmul::tactics;
