//! Frame.

pub mod cpu;
