//! Data movement: operators that place, pick or generate elements. Everything works on elements by their size, so that
//! every dtype of whole bytes is served alike.

mod blocks;
mod combine;
mod cumulative;
mod gather;
mod generate;
mod index;
mod order;
mod resize;
mod scatter;
mod strided;
mod tasks;
mod top_k;
mod unique;
mod views;
mod walk;

#[cfg(test)]
mod tests;

use crate::Tactic;

pub(crate) use blocks::transpose;

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[
        &views::Views,
        &gather::Gathers,
        &scatter::Scatters,
        &generate::Generators,
        &cumulative::Scans,
        &top_k::Selection,
        &unique::Distinct,
        &resize::Nearest,
        &resize::Interpolation,
    ]
}
