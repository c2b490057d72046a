//! A fused node at run time: the host's buffers go to the engine as they are, the engine writes into the host's outputs.
//!
//! Nothing here locks, and nothing allocates unless a node has more than [`INLINE`] inputs.
use std::{ffi::c_void, ptr::null_mut, sync::Arc};

use engraft::{DType, Engine, OutputAllocator, TensorRef};
use smallvec::SmallVec;

use crate::{
    api::Api,
    error::{Error, Result},
    graph,
    guard::{guard, quiet},
    logger::Sink,
    sys::*,
    workers::{HostWorkers, ThreadCount},
};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("shapes of the host (64-bit) are read in place as sizes: a 64-bit target is needed");

/// Inputs that are handed over without an allocation.
pub const INLINE: usize = 64;

/// A compiled segment in the place of the host's fused node. The host holds it by its first member.
#[repr(C)]
pub struct FusedNode {
    base: OrtNodeComputeInfo,
    api: Api,
    sink: Sink,
    engine: Arc<Engine>,
    /// The host's index of each of the engine's inputs.
    inputs: Box<[usize]>,
    /// The host's index of each of the engine's outputs.
    outputs: Box<[usize]>,
    threads: Arc<ThreadCount>,
}

impl FusedNode {
    pub fn new(
        api: Api,
        sink: Sink,
        engine: Arc<Engine>,
        inputs: Box<[usize]>,
        outputs: Box<[usize]>,
        threads: Arc<ThreadCount>,
    ) -> Box<Self> {
        let base = OrtNodeComputeInfo {
            ort_version_supported: api.version(),
            CreateState: Some(create_state),
            Compute: Some(compute),
            ReleaseState: Some(release_state),
        };
        Box::new(Self { base, api, sink, engine, inputs, outputs, threads })
    }

    fn run(&self, context: *mut OrtKernelContext) -> Result<()> {
        // SAFETY: alive during the host's call.
        let inputs_of =
            unsafe { context.as_ref() }.ok_or_else(|| Error::contract("no kernel context given"))?;
        let mut inputs: SmallVec<[TensorRef<'_>; INLINE]> = SmallVec::new();
        for &index in &self.inputs {
            let value = self.api.run_input(inputs_of, index)?;
            let value = value.ok_or_else(|| Error::contract(format!("input {index} is missing")))?;
            inputs.push(self.input(value)?);
        }
        let threads = self.threads.get(self.api, context);
        let workers = HostWorkers::new(self.api, context, threads);
        let mut outputs = HostOutputs { api: self.api, context, indices: &self.outputs, failure: None };
        // SAFETY: the host keeps inputs in place during the call, and its outputs overlap neither them nor each other.
        let done = unsafe { self.engine.execute(&inputs, &mut outputs, &workers) };
        match (done, outputs.failure) {
            (Ok(()), None) => Ok(()),
            (_, Some(failure)) => Err(failure),
            (Err(error), None) => Err(Error::Run(error)),
        }
    }

    #[inline]
    fn input<'a>(&self, value: &'a OrtValue) -> Result<TensorRef<'a>> {
        let view = self.api.tensor(value)?;
        let dtype = graph::dtype(view.element)
            .ok_or_else(|| Error::contract(format!("an input has element type {}", view.element)))?;
        let data = self.api.tensor_data(value)?;
        Ok(TensorRef { dtype, shape: sizes(view.shape)?, data })
    }
}

/// The host's dimensions as sizes, in place.
#[inline]
pub fn sizes(shape: &[i64]) -> Result<&[usize]> {
    if shape.iter().any(|d| *d < 0) {
        return Err(Error::contract(format!("an input has the shape {shape:?}")));
    }
    // SAFETY: equal size and alignment on the targets that compile, and no value is negative.
    Ok(unsafe { std::slice::from_raw_parts(shape.as_ptr().cast(), shape.len()) })
}

/// Has the host allocate the outputs of a node.
pub struct HostOutputs<'a> {
    pub api: Api,
    pub context: *mut OrtKernelContext,
    /// The host's index of each of the engine's outputs.
    pub indices: &'a [usize],
    pub failure: Option<Error>,
}

impl OutputAllocator for HostOutputs<'_> {
    fn allocate(&mut self, index: usize, _dtype: DType, shape: &[usize]) -> Option<*mut u8> {
        // SAFETY: as in `sizes`; sizes of real tensors fit 63 bits.
        let dims: &[i64] = unsafe { std::slice::from_raw_parts(shape.as_ptr().cast(), shape.len()) };
        match self.api.run_output(self.context, self.indices[index], dims) {
            // The host has no memory for an empty tensor.
            Ok(data) if data.is_null() && shape.contains(&0) => Some(std::ptr::without_provenance_mut(64)),
            Ok(data) if data.is_null() => None,
            Ok(data) => Some(data),
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }
}

unsafe extern "system" fn create_state(
    this: *mut OrtNodeComputeInfo,
    _context: *mut OrtNodeComputeContext,
    state: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: out-parameter of the call in progress. The node itself is the state: contexts live in the engine.
    unsafe { *state = this.cast() };
    OrtStatusPtr(null_mut())
}

unsafe extern "system" fn release_state(_: *mut OrtNodeComputeInfo, _: *mut c_void) {}

unsafe extern "system" fn compute(
    this: *mut OrtNodeComputeInfo,
    _state: *mut c_void,
    context: *mut OrtKernelContext,
) -> OrtStatusPtr {
    // SAFETY: the host's pointer to a live node.
    let node = unsafe { &*this.cast::<FusedNode>() };
    guard(node.api, "Compute", || {
        let _scope = node.sink.enter();
        node.run(context)
    })
}

/// Releases nodes that were handed to the host.
///
/// # Safety
/// `infos` has `count` entries, each null or made of a [`FusedNode`] box and released once.
pub unsafe fn release(infos: *mut *mut OrtNodeComputeInfo, count: usize) {
    quiet("ReleaseNodeComputeInfos", || {
        for i in 0..count {
            // SAFETY: by the caller's promise.
            unsafe {
                let info = *infos.add(i);
                if !info.is_null() {
                    drop(Box::from_raw(info.cast::<FusedNode>()));
                }
            }
        }
    });
}
