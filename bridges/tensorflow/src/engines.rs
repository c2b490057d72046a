//! The process's engines: kernels of the same content share one, whichever functions and sessions they belong to.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use engraft::{
    Engine, Options, PartitionPolicy, Session, Tensor,
    engine::fingerprint::{Fingerprint, hashing_threads},
    tensorflow::{ContentError, SegmentContent},
};

use crate::error::{Error, Result};

/// What an engine is made of.
pub struct Source<'a> {
    /// The segment as the graph carries it.
    pub segment: &'a [u8],
    /// Threads that it is tuned for.
    pub threads: usize,
    /// Values of inputs, by the node's numbers, that the engine treats as constants.
    pub weights: Vec<(usize, Tensor)>,
    /// Whether it may be built; else it has to be in the plan cache.
    pub may_build: bool,
    /// Whether its plan is worth a place in the plan cache.
    pub keep: bool,
    /// Makes the content of a segment that another build wrote, given the options in it.
    pub original: &'a dyn Fn(&Options) -> Result<SegmentContent>,
}

/// An engine, and how it is connected.
pub struct Ready {
    pub engine: Arc<Engine>,
    /// The node's number of each of the engine's inputs.
    pub inputs: Box<[usize]>,
}

/// An engine that is alive somewhere in the process; whoever holds the lock may be making it.
type Slot = Arc<Mutex<Weak<Ready>>>;

/// The engine of `source`: shared, loaded from the plan cache, or built. Threads that ask for the same content at the same
/// time wait for one of them.
pub fn fetch(source: Source<'_>) -> Result<Arc<Ready>> {
    static SLOTS: Mutex<Option<HashMap<Fingerprint, Slot>>> = Mutex::new(None);
    let key = key(&source);
    let slot = {
        let mut slots = SLOTS.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = slots.get_or_insert_default();
        // Nobody but this table refers to the slots of engines that are gone.
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|engine| engine.strong_count() > 0)
        });
        slots.entry(key).or_default().clone()
    };
    let mut engine = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(engine) = engine.upgrade() {
        return Ok(engine);
    }
    let made = Arc::new(make(source)?);
    *engine = Arc::downgrade(&made);
    Ok(made)
}

fn key(source: &Source<'_>) -> Fingerprint {
    let threads = source.threads.to_le_bytes();
    let fixed: [&[u8]; 2] = [source.segment, &threads];
    let weights = source.weights.iter().map(|(_, tensor)| tensor.bytes());
    Fingerprint::of_parts(fixed.into_iter().chain(weights), hashing_threads())
}

fn make(source: Source<'_>) -> Result<Ready> {
    let content = SegmentContent::decode(source.segment).or_else(|error| {
        let ContentError::OtherBuild { options, .. } = &error else {
            return Err(Error::Read(error.to_string()));
        };
        let anew = (source.original)(options);
        let anew = anew.map_err(|reason| Error::Read(format!("{error} (its original nodes: {reason})")))?;
        tracing::info!(segment = anew.name, "built from its original nodes: {error}");
        Ok(anew)
    })?;
    let SegmentContent { name, mut options, mut inputs, mut network } = content;
    for (input, tensor) in source.weights {
        // What only the original nodes read is no input of the network.
        let Some(position) = inputs.iter().position(|other| *other == input) else { continue };
        network.bind_input(position, tensor).map_err(|error| Error::Read(error.to_string()))?;
        inputs.remove(position);
    }
    // What was chosen to be replaced is taken whole.
    options.partition_policy = Some(PartitionPolicy::Maximal);
    options.engine_cache_enable &= source.keep;
    let session = Session::with_threads(options, source.threads);
    let engine = if source.may_build {
        let (engine, origin) = session.build(&network)?;
        tracing::debug!(segment = name, ?origin, "engine of a node");
        engine
    } else {
        let missing = "its engine was not built before, and must not be built now (allow_build_at_runtime)";
        session.cached(&network)?.ok_or_else(|| Error::Read(missing.to_owned()))?
    };
    Ok(Ready { engine, inputs: inputs.into() })
}
