//! Segments whose weights are variables: they arrive as inputs, and an engine is built for the values that they have.
//!
//! While a reference to a variable's tensor is held, TensorFlow writes every update into new memory: an assignment and an
//! optimizer's step write in place only into tensors that nobody else refers to, and variables that are updated sparsely are
//! copied when they are read. Weights are therefore unchanged exactly as long as their addresses are those of the tensors that
//! the engine was built from, which are held here.
use std::{
    ptr,
    sync::{Arc, Mutex, PoisonError, RwLock, TryLockError},
};

use crate::{
    api::{self, Tensor},
    engines::Ready,
    error::{Error, Result},
};

/// Values that may follow each other at once: a model is loaded, or has its weights set, after its first call.
const FREE_CHANGES: u32 = 2;
/// Later values are worth an engine if those before them have served so many calls.
const LEAST_CALLS: u32 = 16;

/// An engine and the values that it was built from.
pub struct Bound {
    /// Positions of the weights among the node's inputs, ascending.
    positions: Box<[usize]>,
    current: RwLock<Option<Current>>,
    history: Mutex<History>,
}

struct Current {
    ready: Arc<Ready>,
    weights: Vec<Tensor>,
}

#[derive(Default)]
struct History {
    changes: u32,
    /// Calls that found the weights changed since the last engine was built.
    strange: u32,
    /// The build that failed last: it is not tried again.
    failed: Option<String>,
}

impl Bound {
    pub fn new(positions: &[usize]) -> Self {
        Self { positions: positions.into(), current: RwLock::new(None), history: Mutex::default() }
    }

    /// The engine for the weights among `inputs`. Where they have changed, `build` makes one (told whether it is the first, whose
    /// weights another process may have as well), and `hold` gives further references to inputs. Error: why there is no engine for this call.
    pub fn engine(
        &self,
        inputs: &[Tensor],
        hold: impl Fn(usize) -> Result<Tensor>,
        build: impl FnOnce(Vec<(usize, engraft::Tensor)>, bool) -> Result<Arc<Ready>>,
    ) -> Result<Arc<Ready>, String> {
        if let Some(engine) = self.fitting(inputs) {
            return Ok(engine);
        }
        let first = self.current.read().unwrap_or_else(PoisonError::into_inner).is_none();
        let mut history = if first {
            self.history.lock().unwrap_or_else(PoisonError::into_inner)
        } else {
            match self.history.try_lock() {
                Ok(history) => history,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {
                    return Err("its weights have changed and are being packed".into());
                }
            }
        };
        if let Some(engine) = self.fitting(inputs) {
            return Ok(engine);
        }
        if let Some(failed) = &history.failed {
            return Err(failed.clone());
        }
        history.strange += 1;
        if history.changes > FREE_CHANGES && history.strange < LEAST_CALLS {
            return Err("its weights change too often to be packed".to_owned());
        }
        let built =
            self.values(inputs).and_then(|values| build(values, first)).map_err(|error| error.to_string());
        match built {
            Ok(ready) => {
                history.changes += 1;
                history.strange = 0;
                let weights = self.positions.iter().map(|position| hold(*position)).collect::<Result<_>>();
                let weights = weights.map_err(|error| error.to_string())?;
                let current = Current { ready: ready.clone(), weights };
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(current);
                Ok(ready)
            }
            Err(reason) => {
                history.failed = Some(reason.clone());
                Err(reason)
            }
        }
    }

    fn fitting(&self, inputs: &[Tensor]) -> Option<Arc<Ready>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let current = current.as_ref()?;
        let same = self.positions.iter().zip(&current.weights).all(|(position, held)| {
            inputs.get(*position).is_some_and(|input| {
                ptr::eq(input.data(), held.data()) && input.byte_size() == held.byte_size()
            })
        });
        same.then(|| current.ready.clone())
    }

    /// Copies of the weights.
    fn values(&self, inputs: &[Tensor]) -> Result<Vec<(usize, engraft::Tensor)>> {
        let value = |position: &usize| {
            let input = inputs.get(*position).ok_or_else(|| Error::contract("a weight is missing"))?;
            let dtype = api::dtype(input.element()).ok_or_else(|| {
                Error::contract(format!("a weight has the element type {}", input.element()))
            })?;
            let shape: Vec<usize> = (0..input.rank()).map(|axis| input.dim(axis)).collect();
            let bytes = match input.byte_size() {
                0 => &[][..],
                // SAFETY: the tensor is held and has this many bytes.
                size => unsafe { std::slice::from_raw_parts(input.data(), size) },
            };
            let tensor = engraft::Tensor::from_bytes(dtype, &shape, bytes)
                .map_err(|error| Error::Read(error.to_string()))?;
            Ok((*position, tensor))
        };
        self.positions.iter().map(value).collect()
    }
}
