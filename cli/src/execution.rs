//! Running an engine on arrays.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engraft::engine::pool::Pool;
use engraft::engine::{Engine, LayerTime, OutputAllocator, TensorRef};
use engraft::{AlignedBytes, DType, HostDim, Network, Tensor, ValueId, Workers};

use crate::error::CliError;
use crate::inputs::InputDeclaration;

/// An engine with its inputs, on a pool of its own: ready to run again and again.
pub struct Execution {
    engine: Arc<Engine>,
    pool: Arc<Pool>,
    inputs: Vec<Tensor>,
    outputs: ReusedOutputs,
    label: String,
}

impl Execution {
    /// `threads`: one per core where `None`. `path` names the engine in errors.
    pub fn new(engine: Arc<Engine>, inputs: Vec<Tensor>, threads: Option<u16>, path: &Path) -> Self {
        let threads =
            threads.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
        let pool = Pool::shared(threads);
        Self { engine, pool, inputs, outputs: ReusedOutputs::default(), label: path.display().to_string() }
    }

    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The results of one run, in the order of the engine's outputs.
    pub fn outputs(&self) -> Result<Vec<Tensor>, CliError> {
        self.engine.run_tensors(&self.inputs, &*self.pool).map_err(|source| self.error(source))
    }

    /// One run into memory that is kept from run to run; the time is that of the engine alone.
    pub fn time(&mut self) -> Result<Duration, CliError> {
        let inputs: Vec<TensorRef<'_>> = self.inputs.iter().map(TensorRef::of).collect();
        let start = Instant::now();
        // SAFETY: tensors hold what their type and shape say; `outputs` allocates apart from them and each output once.
        let result = unsafe { self.engine.execute(&inputs, &mut self.outputs, &*self.pool) };
        let time = start.elapsed();
        result.map(|()| time).map_err(|source| self.error(source))
    }

    /// The time of each layer in one run on one thread.
    pub fn profile(&mut self) -> Result<Vec<LayerTime>, CliError> {
        let inputs: Vec<TensorRef<'_>> = self.inputs.iter().map(TensorRef::of).collect();
        // SAFETY: as in `time`.
        let result = unsafe { self.engine.profile(&inputs, &mut self.outputs) };
        result.map_err(|source| self.error(source))
    }

    fn error(&self, source: engraft::engine::RunError) -> CliError {
        CliError::Run { model: self.label.clone(), source: Box::new(source) }
    }
}

/// What the network takes, for [`gather`](crate::inputs::gather). Sizes of symbolic dims that nobody states are the
/// network's representative ones.
pub fn declarations(network: &Network) -> Vec<InputDeclaration> {
    let representative = network.representative_env();
    let declare = |input: &ValueId| {
        let value = network.value(*input);
        let dims = value.ty.shape.iter();
        InputDeclaration {
            name: value.name.clone(),
            dtype: value.ty.dtype,
            shape: dims
                .clone()
                .map(|dim| match (dim.fixed(), dim.as_symbol()) {
                    (Some(size), _) => u64::try_from(size).map_or(HostDim::Unknown, HostDim::Fixed),
                    (None, Some(symbol)) => {
                        HostDim::Symbol(network.symbols()[symbol.0 as usize].name.clone())
                    }
                    (None, None) => HostDim::Unknown,
                })
                .collect(),
            representative: dims.map(|dim| dim.eval(&representative).max(0) as usize).collect(),
        }
    };
    network.inputs().iter().map(declare).collect()
}

/// Memory for outputs that is allocated at the first run, and again when a shape grows.
#[derive(Default)]
struct ReusedOutputs {
    buffers: Vec<AlignedBytes>,
}

impl OutputAllocator for ReusedOutputs {
    fn allocate(&mut self, index: usize, dtype: DType, shape: &[usize]) -> Option<*mut u8> {
        let bytes = dtype.bytes(shape.iter().product());
        while self.buffers.len() <= index {
            self.buffers.push(AlignedBytes::zeroed(0));
        }
        let buffer = &mut self.buffers[index];
        if buffer.as_slice().len() < bytes {
            *buffer = AlignedBytes::zeroed(bytes);
        }
        Some(buffer.as_mut_slice().as_mut_ptr())
    }
}
