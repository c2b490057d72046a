//! Vectorised elementary functions on `f32`.
//!
//! Every function states its error bound in units in the last place of the exact result (`ulp`), measured against `f64` over
//! dense samples of all magnitudes by the tests; the bounds hold on every instruction set. Special values (NaN, infinities,
//! signed zeros, poles) give what IEEE 754 recommends. Denormal operands and results are exact to the bound when the
//! environment keeps denormals, and zero when it flushes them ([`crate::cpu::FlushDenormals`]).
//!
//! Polynomials are minimax fits (Remez) made for this file.
// Coefficients stand as they were computed, with all their digits.
#![allow(clippy::excessive_precision, clippy::approx_constant)]

mod exponential;
mod hyperbolic;
mod power;
#[cfg(test)]
mod tests;
mod trigonometric;

pub use exponential::{exp, exp_nonpositive, expm1, log, log1p, sigmoid, softplus};
pub use hyperbolic::{acosh, asinh, atanh, cosh, erf, gelu_erf, gelu_tanh, sinh, tanh};
pub use power::{pow, powi};
pub use trigonometric::{acos, asin, atan, cos, sin, tan};

use super::simd::Simd;

/// The polynomial with the given coefficients, constant first, by Horner's rule.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(s: S, x: S::F, c: [f32; N]) -> S::F {
    let mut sum = s.splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = s.fma(sum, x, s.splat(c[i]));
    }
    sum
}
