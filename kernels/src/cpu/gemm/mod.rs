//! Matrix products on the CPU.
pub mod lanes;
pub mod micro;
pub mod rows;
pub mod sweep;
