//! Layer, RMS, group and instance normalisation.

mod group;
mod layer;
#[cfg(test)]
mod tests;

pub use group::GroupNormTactic;
pub use layer::LayerNormTactic;

use crate::Tactic;

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&LayerNormTactic, &GroupNormTactic]
}
