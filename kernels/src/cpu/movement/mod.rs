//! Data movement: operators that place, pick or generate elements. Everything works on elements by their size, so that
//! every dtype of whole bytes is served alike.

mod blocks;
mod combine;
mod gather;
mod index;
mod scatter;
mod strided;
mod tasks;
mod views;
mod walk;

#[cfg(test)]
mod tests;

use crate::Tactic;

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&views::Views, &gather::Gathers, &scatter::Scatters]
}
