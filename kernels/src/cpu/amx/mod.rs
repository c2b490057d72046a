//! Products on tiles of bf16 (AMX).
//!
//! Under [`Precision::Tf32`](crate::Precision) each operand of `f32` is split in two bf16 numbers, `hi = bf16(x)` and
//! `lo = bf16(x - hi)`, and three products are summed in `f32`: `hi*hi + hi*lo + lo*hi` (the method of Henry, Tang and
//! Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019). Relative
//! errors are about 5e-6, against 3e-4 of TF32. Under [`Precision::Bf16`](crate::Precision) only `hi*hi` is summed.
//!
//! [`source`] writes blocks of rows of the first operand in split form to scratch that stays in L2, [`sweep`] passes
//! the packed panels of the second operand ([`split`]) by them on a [`tile`] unit, and finishes the sums as matrix
//! products elsewhere are finished. A sum that is not finite is computed again in `f32`: infinities times a zero `lo` are NaN
//! on the way. Operands that are bf16 in memory are multiplied as they are, and results stored so. [`few`] passes few rows by the same panels with vectors, on any CPU.

mod few;
pub(super) mod product;
mod source;
pub(super) mod split;
mod sweep;
mod tactic;
#[cfg(test)]
mod tests;
pub(super) mod tile;
mod transposed;
mod weights;

pub use tactic::tactics;
pub use tile::detect;
