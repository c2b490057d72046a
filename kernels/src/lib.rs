//! Tactics per device: the ways in which Engraft computes operators.
//!
//! [`catalog::cpu`] lists them; [`Tactic`] says what a tactic is. The only home of SIMD in the workspace.

pub mod catalog;
pub mod cpu;
mod reference;
mod tactic;
mod unpack;

pub use cpu::isa::Isa;
pub use tactic::{
    Args, Class, Fit, Kernel, KernelError, Operand, Precision, Problem, Reach, Reject, Serial, Tactic,
    TensorDesc, Workers,
};
pub use unpack::unpack;
