//! The kernel of `EngraftSegment`: TensorFlow's buffers go to the engine as they are, the engine writes into TensorFlow's
//! outputs. Runs at the same time share nothing that is locked, and nothing of ours is allocated once a shape has been seen.
//!
//! The engine is fetched at the first call, which is also when the number of threads is known. Where there is none, or where it
//! refuses a call, the original nodes run (`native`), and the log says why, once.
use std::{
    ffi::{OsStr, c_void},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::null_mut,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use engraft::{
    DType, HostDim, Options, OutputAllocator, TensorRef, Workers as _,
    engine::pool::Pool,
    tensorflow::{Ends, Known, SegmentContent},
};
use smallvec::SmallVec;

use crate::{
    api::{self, Buffer, Context, Status, Tensor, tf},
    engines::{self, Ready, Source},
    error::{Error, Result},
    exports::{NATIVE_RUNS, RUNS},
    guard::{guard, quiet},
    native::{self, Native},
    node::Node,
    sys::*,
    threads,
    weights::Bound,
};

/// Inputs and outputs that are handed over without an allocation.
const INLINE: usize = 16;
/// Dimensions that a shape has room for without an allocation.
const RANK: usize = 8;

/// One node of a graph.
struct Kernel {
    node: Node,
    /// Made by the first call.
    body: OnceLock<Body>,
    native: OnceLock<Result<Native, String>>,
    /// Whether the log says already that native nodes run.
    told: AtomicBool,
}

/// How the node is run.
enum Body {
    /// All weights are in the segment.
    Fixed { ready: Arc<Ready>, pool: Arc<Pool> },
    /// Some inputs are variables.
    Bound { bound: Bound, pool: Arc<Pool> },
    /// There is no engine, and why.
    Native(String),
}

impl Kernel {
    fn create(construction: *mut TF_OpKernelConstruction) -> Result<Self> {
        let status = Status::new();
        // SAFETY: that of the call in progress; the buffer is ours.
        let node =
            unsafe { Buffer::own((tf().TF_OpKernelConstruction_GetNodeDef)(construction, status.pointer())) };
        status.check()?;
        let node = Node::read(Bytes::copy_from_slice(node.bytes()))?;
        Ok(Self { node, body: OnceLock::new(), native: OnceLock::new(), told: AtomicBool::new(false) })
    }

    fn run(&self, context: Context) -> Result<()> {
        let status = Status::new();
        let mut inputs: SmallVec<[Tensor; INLINE]> = SmallVec::new();
        for index in 0..context.inputs() {
            inputs.push(context.input(index, &status)?);
        }
        let body = self.body.get_or_init(|| self.body(context, &inputs));
        let mut outputs = Outputs { context, status: &status, made: SmallVec::new(), failure: None };
        let reason = match body {
            Body::Native(reason) => reason.clone(),
            Body::Fixed { ready, pool } => match execute(ready, pool, &inputs, &mut outputs) {
                Ok(()) => return Ok(()),
                Err(Error::Run(error)) => error.to_string(),
                Err(error) => return Err(error),
            },
            Body::Bound { bound, pool } => {
                let hold = |index| context.input(index, &status);
                let original = |_: &Options| Err(Error::contract("it has been written by this process"));
                let ready = bound.engine(&inputs, hold, |weights, keep| {
                    self.fetch(&self.node, pool, weights, keep, &original)
                });
                match ready.map(|ready| execute(&ready, pool, &inputs, &mut outputs)) {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(Error::Run(error))) => error.to_string(),
                    Ok(Err(error)) => return Err(error),
                    Err(reason) => reason,
                }
            }
        };
        self.run_natively(&reason, &inputs, outputs)
    }

    /// Decides how the node is run. The first call waits for it.
    fn body(&self, context: Context, inputs: &[Tensor]) -> Body {
        let threads = threads::of(context);
        let pool = Pool::shared(threads);
        if !self.node.weights.is_empty() {
            return Body::Bound { bound: Bound::new(&self.node.weights), pool };
        }
        let made = self.with_content(inputs, |node| {
            let original = |options: &Options| self.original(node, options, context, inputs);
            self.fetch(node, &pool, Vec::new(), true, &original)
        });
        match made {
            Ok(ready) => {
                self.node.forget_segment();
                Body::Fixed { ready, pool }
            }
            Err(error) => Body::Native(error.to_string()),
        }
    }

    /// Calls `body` with the node that has the content: this one, or that in the file that an input names.
    fn with_content<T>(&self, inputs: &[Tensor], body: impl FnOnce(&Node) -> Result<T>) -> Result<T> {
        let Some(index) = self.node.asset else { return body(&self.node) };
        let path = inputs.get(index).and_then(Tensor::text);
        let path = path.ok_or_else(|| Error::contract(format!("input {index} names no file")))?;
        let path = Path::new(OsStr::from_bytes(path));
        let unreadable = |error| Error::Read(format!("{} cannot be read: {error}", path.display()));
        body(&Node::read(std::fs::read(path).map_err(unreadable)?.into())?)
    }

    fn fetch(
        &self,
        node: &Node,
        pool: &Pool,
        weights: Vec<(usize, engraft::Tensor)>,
        keep: bool,
        original: &dyn Fn(&Options) -> Result<SegmentContent>,
    ) -> Result<Arc<Ready>> {
        let segment = node.segment();
        guard(|| {
            engines::fetch(Source {
                segment: &segment,
                threads: pool.threads(),
                weights,
                may_build: self.node.allow_build,
                keep,
                original,
            })
        })
    }

    /// What a segment holds, made of the original nodes; of the inputs types and ranks are known.
    fn original(
        &self,
        node: &Node,
        options: &Options,
        context: Context,
        inputs: &[Tensor],
    ) -> Result<SegmentContent> {
        let graph = native::definition(node, context, &Status::new())?;
        let (feeds, fetches) = native::ends(node);
        let known = feeds.iter().zip(inputs).map(|(feed, input)| {
            let shape = Some(vec![HostDim::Unknown; input.rank()]);
            (feed.clone(), Known { dtype: api::dtype(input.element()), shape })
        });
        let ends = Ends { known: known.collect(), feeds, fetches, ..Ends::default() };
        SegmentContent::of_original(&self.node.name, options, graph.into(), &ends)
            .map_err(|error| Error::Read(error.to_string()))
    }

    #[cold]
    fn run_natively(&self, reason: &str, inputs: &[Tensor], outputs: Outputs<'_>) -> Result<()> {
        let (context, status) = (outputs.context, outputs.status);
        let native = self.native.get_or_init(|| {
            let made = self.with_content(inputs, |node| Native::new(node, context, status));
            made.map_err(|error| error.to_string())
        });
        let native = native.as_ref().map_err(|missing| {
            Error::Read(format!(
                "it cannot run as an engine ({reason}), nor by TensorFlow's own kernels ({missing})"
            ))
        })?;
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!("segment `{}` is left to TensorFlow's own kernels: {reason}", self.node.name);
        }
        let results = native.run(inputs, status)?;
        NATIVE_RUNS.fetch_add(1, Ordering::Relaxed);
        for (index, result) in results.iter().enumerate() {
            match outputs.made.iter().find(|(made, _)| *made == index) {
                // The engine gave up after it had asked for this one.
                Some((_, made)) if made.byte_size() == result.byte_size() && made.byte_size() > 0 => {
                    // SAFETY: two tensors of this size.
                    unsafe { std::ptr::copy_nonoverlapping(result.data(), made.data(), made.byte_size()) };
                }
                _ => context.set_output(index, result, status)?,
            }
        }
        Ok(())
    }
}

/// Runs an engine on those of the node's inputs that it reads.
fn execute(ready: &Ready, pool: &Pool, inputs: &[Tensor], outputs: &mut Outputs<'_>) -> Result<()> {
    let input = |index: &usize| {
        inputs.get(*index).ok_or_else(|| Error::contract(format!("there is no input {index}")))
    };
    let mut shapes: SmallVec<[SmallVec<[usize; RANK]>; INLINE]> = SmallVec::new();
    for index in &ready.inputs {
        let tensor = input(index)?;
        shapes.push((0..tensor.rank()).map(|axis| tensor.dim(axis)).collect());
    }
    let mut refs: SmallVec<[TensorRef<'_>; INLINE]> = SmallVec::new();
    for (index, shape) in ready.inputs.iter().zip(&shapes) {
        let tensor = input(index)?;
        let dtype = api::dtype(tensor.element()).ok_or_else(|| {
            Error::contract(format!("input {index} has the element type {}", tensor.element()))
        })?;
        refs.push(TensorRef { dtype, shape, data: tensor.data() });
    }
    // SAFETY: the inputs are held during the call, TensorFlow's outputs overlap neither them nor each other.
    let done = unsafe { ready.engine.execute(&refs, outputs, pool) };
    match outputs.failure.take() {
        Some(failure) => Err(failure),
        None => {
            done?;
            RUNS.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// Has TensorFlow allocate the outputs of a node.
struct Outputs<'a> {
    context: Context,
    status: &'a Status,
    made: SmallVec<[(usize, Tensor); INLINE]>,
    failure: Option<Error>,
}

impl OutputAllocator for Outputs<'_> {
    fn allocate(&mut self, index: usize, dtype: DType, shape: &[usize]) -> Option<*mut u8> {
        let bytes = dtype.bytes(shape.iter().product());
        let made = api::element(dtype)
            .ok_or_else(|| Error::contract(format!("TensorFlow has no element type {dtype}")))
            .and_then(|element| self.context.allocate_output(index, element, shape, bytes, self.status));
        match made {
            Ok(tensor) => {
                let data = tensor.data();
                self.made.push((index, tensor));
                // TensorFlow has no memory for an empty tensor.
                Some(if data.is_null() && bytes == 0 { std::ptr::without_provenance_mut(64) } else { data })
            }
            Err(error) => {
                self.failure = Some(error);
                None
            }
        }
    }
}

/// `create_func` of the kernel.
pub unsafe extern "C" fn create(construction: *mut TF_OpKernelConstruction) -> *mut c_void {
    match guard(|| Kernel::create(construction)) {
        Ok(kernel) => Box::into_raw(Box::new(kernel)).cast(),
        Err(error) => {
            quiet("create", || {
                let status = Status::new();
                // SAFETY: those of the call in progress.
                unsafe {
                    api::set_status(status.pointer(), error.code(), &format!("{}: {error}", crate::op::NAME));
                    (tf().TF_OpKernelConstruction_Failure)(construction, status.pointer());
                }
                Ok(())
            });
            null_mut()
        }
    }
}

/// `compute_func` of the kernel.
pub unsafe extern "C" fn compute(kernel: *mut c_void, context: *mut TF_OpKernelContext) {
    // SAFETY: made by `create` and alive; calls at the same time only read it.
    let kernel = unsafe { &*kernel.cast::<Kernel>() };
    // SAFETY: that of the call in progress.
    let context = unsafe { Context::new(context) };
    if let Err(error) = guard(|| kernel.run(context)) {
        quiet("compute", || {
            context.fail(&error, &format!("{} `{}`: {error}", crate::op::NAME, kernel.node.name));
            Ok(())
        });
    }
}

/// `delete_func` of the kernel.
pub unsafe extern "C" fn delete(kernel: *mut c_void) {
    quiet("delete", || {
        if !kernel.is_null() {
            // SAFETY: made by `create`, deleted once.
            drop(unsafe { Box::from_raw(kernel.cast::<Kernel>()) });
        }
        Ok(())
    });
}
