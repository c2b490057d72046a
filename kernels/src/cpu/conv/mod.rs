//! Convolutions on the CPU: implicit matrix products over channels-last activations.

pub mod geometry;
pub mod source;
mod tactic;
#[cfg(test)]
mod tests;

pub use tactic::tactics;
