//! Convolutions on the CPU: implicit matrix products over channels-last activations.
pub mod geometry;
pub mod source;
#[cfg(test)]
mod tests;
