//! Symbol values: from concrete inputs, and representative ones.

use crate::{Dim, DimEnv, Network, SymbolSource};

/// Why concrete inputs do not fit a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    #[error("rank is {got}, not {want}")]
    Rank { input: usize, want: usize, got: usize },
    #[error("axis {axis} is {got}, not {want} ({dim})")]
    Size { input: usize, axis: usize, want: i64, got: usize, dim: String },
    #[error("it has no element {index}, which a shape depends on")]
    Element { input: usize, index: usize },
}

impl BindError {
    /// Position of the input at fault.
    pub fn input(&self) -> Option<usize> {
        match self {
            BindError::Rank { input, .. }
            | BindError::Size { input, .. }
            | BindError::Element { input, .. } => Some(*input),
        }
    }
}

impl Network {
    /// Fills `env` (one entry per symbol) from the inputs' shapes and, for shape tensors, elements. Symbols that only
    /// data tells are left alone. Allocates nothing unless it fails.
    ///
    /// Every dim of every input is checked against the symbols' values.
    pub fn bind<'s>(
        &self,
        shape: &dyn Fn(usize) -> &'s [usize],
        element: &dyn Fn(usize, usize) -> i64,
        env: &mut DimEnv,
    ) -> Result<(), BindError> {
        for (i, v) in self.inputs.iter().enumerate() {
            let (want, got) = (self.ty(*v).rank(), shape(i).len());
            if want != got {
                return Err(BindError::Rank { input: i, want, got });
            }
        }
        for (value, s) in env.iter_mut().zip(&self.symbols) {
            match s.source {
                SymbolSource::InputDim { input, axis } => {
                    *value = shape(input as usize).get(axis as usize).map_or(0, |d| *d as i64);
                }
                SymbolSource::InputElement { input, index } => {
                    if index as usize >= shape(input as usize).iter().product() {
                        return Err(BindError::Element { input: input as usize, index: index as usize });
                    }
                    *value = element(input as usize, index as usize);
                }
                SymbolSource::Data { .. } | SymbolSource::DataElement { .. } => {}
            }
        }
        for (i, v) in self.inputs.iter().enumerate() {
            for (axis, (dim, got)) in self.ty(*v).shape.iter().zip(shape(i)).enumerate() {
                let want = dim.eval(env);
                if want != *got as i64 {
                    return Err(BindError::Size { input: i, axis, want, got: *got, dim: self.dim_name(dim) });
                }
            }
        }
        Ok(())
    }

    /// The dim as people know it: a lone symbol by its name.
    fn dim_name(&self, dim: &Dim) -> String {
        match dim.as_symbol() {
            Some(s) => format!("`{}`", self.symbols[s.0 as usize].name),
            None => dim.to_string(),
        }
    }

    /// Sizes that stand for "typical" where none are given: FLOP shares, tactic choice and layout are judged by them.
    ///
    /// A symbolic first axis is a batch of 1; other axes of inputs of rank 4 and 5 are 224 (images), of lower ranks 128
    /// (sequences); elements of shape tensors are 1; sizes that only data tells are 64.
    pub fn representative_env(&self) -> Vec<i64> {
        self.symbols
            .iter()
            .map(|s| match s.source {
                SymbolSource::InputDim { axis: 0, .. } => 1,
                SymbolSource::InputDim { input, .. } => {
                    match self.inputs.get(input as usize).map_or(0, |v| self.ty(*v).rank()) {
                        4 | 5
                            if self.ty(self.inputs[input as usize]).shape[1]
                                .fixed()
                                .is_some_and(|c| c <= 4) =>
                        {
                            224
                        }
                        _ => 128,
                    }
                }
                SymbolSource::InputElement { .. } => 1,
                SymbolSource::Data { .. } | SymbolSource::DataElement { .. } => 64,
            })
            .collect()
    }
}
