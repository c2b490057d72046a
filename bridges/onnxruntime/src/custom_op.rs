//! The custom operator `ai.engraft::Segment`, for hosts without the plugin interface and for those that only take libraries of
//! custom operators.
//!
//! A node carries the nodes that it stands for as a model (attribute `model`, what `engraft convert` writes) and the options
//! they are built with (`options`, JSON of texts). The engine comes from the plan cache or is built when the session is
//! created. Where that fails, the host runs the original nodes in a session of its own, and the log says why.
use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int, c_void},
    ptr::null_mut,
    sync::{Arc, Mutex, PoisonError},
};

use engraft::{Engine, LogLevel, Options, PartitionPolicy, Session, TensorRef, subgraph::onnx};
use ort_sys::{
    ONNXTensorElementDataType, OrtCustomOp, OrtCustomOpInputOutputCharacteristic, OrtKernelInfo, OrtMemType,
};
use smallvec::SmallVec;

use crate::{
    api::{Api, Unsuitable},
    compute::{HostOutputs, INLINE, sizes},
    error::{Error, Result},
    graph,
    guard::{guard, quiet},
    host_session::HostSession,
    logger::{self, Sink},
    sys::*,
    workers::{HostWorkers, ThreadCount},
};

const DOMAIN: &CStr = c"ai.engraft";
const NAME: &CStr = c"Segment";
/// Dimensions that a shape has room for without an allocation.
const RANK: usize = 8;

/// Entry point of libraries of custom operators.
///
/// # Safety
/// Called by ONNX Runtime with valid pointers; may be called any number of times.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn RegisterCustomOps(
    options: *mut OrtSessionOptions,
    base: *const OrtApiBase,
) -> OrtStatusPtr {
    // SAFETY: `base` is the host's.
    let api = match unsafe { Api::negotiate_for_operators(base) } {
        Ok(api) => api,
        Err(Unsuitable::Silent) => return OrtStatusPtr(null_mut()),
        Err(Unsuitable::Told(api, error)) => return api.status(&error),
    };
    guard(api, "RegisterCustomOps", || {
        let domain = domain(api)?;
        // SAFETY: the domain is never released, the options are those of the call in progress.
        unsafe { api.add_operator_domain(options, domain) }
    })
}

/// The operator as the host sees it, by its first member, with the host's functions behind.
#[repr(C)]
struct Operator {
    base: OrtCustomOp,
    api: Api,
}

/// One domain for each host in the process, usually one: sessions refer to it as long as they live.
fn domain(api: Api) -> Result<*mut ort_sys::OrtCustomOpDomain> {
    static DOMAINS: Mutex<Vec<(Api, usize)>> = Mutex::new(Vec::new());
    let mut domains = DOMAINS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, domain)) = domains.iter().find(|(other, _)| other.is_same_host(&api)) {
        return Ok(*domain as *mut _);
    }
    let operator: &'static Operator = Box::leak(Box::new(Operator { base: table(api.version()), api }));
    let domain = api.create_operator_domain(DOMAIN, &operator.base)?;
    domains.push((api, domain as usize));
    Ok(domain)
}

fn table(version: u32) -> OrtCustomOp {
    OrtCustomOp {
        version,
        CreateKernel: None,
        GetName: Some(name),
        GetExecutionProviderType: Some(provider),
        GetInputType: Some(any_type),
        GetInputTypeCount: Some(one),
        GetOutputType: Some(any_type),
        GetOutputTypeCount: Some(one),
        KernelCompute: None,
        KernelDestroy: Some(destroy),
        GetInputCharacteristic: Some(variadic),
        GetOutputCharacteristic: Some(variadic),
        GetInputMemoryType: Some(default_memory),
        // Constants are in the node: a segment may read nothing, and gives at least one value.
        GetVariadicInputMinArity: Some(no_arity),
        GetVariadicInputHomogeneity: Some(no_arity),
        GetVariadicOutputMinArity: Some(one_arity),
        GetVariadicOutputHomogeneity: Some(no_arity),
        CreateKernelV2: Some(create),
        KernelComputeV2: Some(compute),
        InferOutputShapeFn: None,
        GetStartVersion: Some(one_arity),
        GetEndVersion: Some(last_version),
        GetMayInplace: None,
        ReleaseMayInplace: None,
        GetAliasMap: None,
        ReleaseAliasMap: None,
    }
}

unsafe extern "system" fn name(_: *const OrtCustomOp) -> *const c_char {
    NAME.as_ptr()
}

/// Null: the CPU's.
unsafe extern "system" fn provider(_: *const OrtCustomOp) -> *const c_char {
    std::ptr::null()
}

unsafe extern "system" fn any_type(_: *const OrtCustomOp, _: usize) -> ONNXTensorElementDataType {
    ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
}

unsafe extern "system" fn one(_: *const OrtCustomOp) -> usize {
    1
}

unsafe extern "system" fn no_arity(_: *const OrtCustomOp) -> c_int {
    0
}

unsafe extern "system" fn one_arity(_: *const OrtCustomOp) -> c_int {
    1
}

unsafe extern "system" fn last_version(_: *const OrtCustomOp) -> c_int {
    c_int::MAX
}

unsafe extern "system" fn variadic(_: *const OrtCustomOp, _: usize) -> OrtCustomOpInputOutputCharacteristic {
    OrtCustomOpInputOutputCharacteristic::INPUT_OUTPUT_VARIADIC
}

unsafe extern "system" fn default_memory(_: *const OrtCustomOp, _: usize) -> OrtMemType {
    OrtMemType::OrtMemTypeDefault
}

/// One node of a session.
struct Kernel {
    api: Api,
    sink: Sink,
    body: Body,
    threads: ThreadCount,
}

enum Body {
    Engine {
        engine: Arc<Engine>,
        /// The node's index of each of the engine's inputs.
        inputs: Box<[usize]>,
        /// The node's index of each of the engine's outputs.
        outputs: Box<[usize]>,
    },
    /// The original nodes.
    Host(HostSession),
}

impl Kernel {
    fn create(api: Api, info: &OrtKernelInfo) -> Result<Self> {
        let model = api.info_string(info, c"model")?;
        let options = match api.info_string(info, c"options") {
            Ok(text) => parse_options(&text),
            Err(_) => Ok(Options::default()),
        };
        let level = options.as_ref().map_or(LogLevel::default(), |options| options.log_level);
        let sink = Sink::new(api, api.info_logger(info), level);
        let _scope = sink.enter();
        let body = options.and_then(|options| Body::engine(&model, options)).or_else(|error| {
            tracing::warn!("a segment is left to the host's own kernels: {error}");
            let host = HostSession::create(api, &model);
            host.map(Body::Host).map_err(|host| {
                Error::Compiled(format!(
                    "a segment cannot be built ({error}), nor run by the host's kernels ({host})"
                ))
            })
        })?;
        Ok(Self { api, sink, body, threads: ThreadCount::new() })
    }

    fn run(&self, context: *mut OrtKernelContext) -> Result<()> {
        // SAFETY: alive during the host's call.
        let inputs_of =
            unsafe { context.as_ref() }.ok_or_else(|| Error::contract("no kernel context given"))?;
        let value = |index: usize| -> Result<&OrtValue> {
            let value = self.api.run_input(inputs_of, index)?;
            value.ok_or_else(|| Error::contract(format!("input {index} is missing")))
        };
        let (engine, inputs, outputs) = match &self.body {
            Body::Engine { engine, inputs, outputs } => (engine, inputs, outputs),
            Body::Host(session) => return session.run(context, &value),
        };
        // Old hosts have no way to lend a shape.
        let mut shapes: SmallVec<[SmallVec<[i64; RANK]>; INLINE]> = SmallVec::with_capacity(inputs.len());
        let mut elements: SmallVec<[i32; INLINE]> = SmallVec::with_capacity(inputs.len());
        for &index in inputs {
            let mut shape = SmallVec::new();
            elements.push(self.api.tensor_type(value(index)?, &mut shape)?);
            shapes.push(shape);
        }
        let mut refs: SmallVec<[TensorRef<'_>; INLINE]> = SmallVec::with_capacity(inputs.len());
        for ((&index, shape), &element) in inputs.iter().zip(&shapes).zip(&elements) {
            let dtype = graph::dtype(element)
                .ok_or_else(|| Error::contract(format!("input {index} has element type {element}")))?;
            refs.push(TensorRef { dtype, shape: sizes(shape)?, data: self.api.tensor_data(value(index)?)? });
        }
        let threads = self.threads.get(self.api, context);
        let workers = HostWorkers::new(self.api, context, threads);
        let mut outputs = HostOutputs { api: self.api, context, indices: outputs, failure: None };
        // SAFETY: the host keeps inputs in place during the call, and its outputs overlap neither them nor each other.
        let done = unsafe { engine.execute(&refs, &mut outputs, &workers) };
        match (done, outputs.failure) {
            (Ok(()), None) => Ok(()),
            (_, Some(failure)) => Err(failure),
            (Err(error), None) => Err(Error::Run(error)),
        }
    }
}

impl Body {
    fn engine(model: &[u8], mut options: Options) -> Result<Self> {
        // What was chosen to be replaced is taken whole.
        options.partition_policy = Some(PartitionPolicy::Maximal);
        options.min_subgraph_size = Some(1);
        let graph = onnx::read_model_bytes(model.to_vec())
            .map_err(|error| Error::Compiled(format!("the node's model cannot be read: {error}")))?
            .graph;
        let session = Session::new(options);
        let segment = session.whole(&graph).map_err(|report| {
            let refusals = report.refusals();
            let reason =
                refusals.keys().next().map_or_else(String::new, |(op, reason)| format!(": {op}: {reason}"));
            Error::Compiled(format!("this version does not take all of its nodes{reason}"))
        })?;
        let position = |ids: &[engraft::HostValueId], all: &[engraft::HostValueId]| -> Result<Box<[usize]>> {
            let find = |id| all.iter().position(|other| other == id);
            let found = ids
                .iter()
                .map(|id| find(id).ok_or_else(|| Error::contract("a value of the segment is lost")));
            found.collect()
        };
        let inputs = position(&segment.inputs, &graph.inputs)?;
        let outputs = position(&segment.outputs, &graph.outputs)?;
        let (engine, origin) = session.build(&segment.network)?;
        tracing::debug!(segment = segment.name, ?origin, "engine of a node");
        Ok(Self::Engine { engine, inputs, outputs })
    }
}

fn parse_options(text: &[u8]) -> Result<Options> {
    let pairs: BTreeMap<String, String> = serde_json::from_slice(text)
        .map_err(|error| Error::Compiled(format!("the node's options cannot be read: {error}")))?;
    Ok(Options::parse(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())))?)
}

unsafe extern "system" fn create(
    operator: *const OrtCustomOp,
    _api: *const OrtApi,
    info: *const OrtKernelInfo,
    kernel: *mut *mut c_void,
) -> OrtStatusPtr {
    // SAFETY: the host's pointer to the first member of a leaked `Operator`.
    let api = unsafe { &*operator.cast::<Operator>() }.api;
    guard(api, "CreateKernel", || {
        logger::install_once();
        // SAFETY: alive during the call.
        let info = unsafe { info.as_ref() }.ok_or_else(|| Error::contract("no kernel info given"))?;
        let made = Box::new(Kernel::create(api, info)?);
        // SAFETY: out-parameter of the call in progress; the host gives it back through `KernelDestroy`.
        unsafe { *kernel = Box::into_raw(made).cast() };
        Ok(())
    })
}

unsafe extern "system" fn compute(kernel: *mut c_void, context: *mut OrtKernelContext) -> OrtStatusPtr {
    // SAFETY: made by `create` and alive; runs at the same time only read it.
    let kernel = unsafe { &*kernel.cast::<Kernel>() };
    guard(kernel.api, "KernelCompute", || {
        let _scope = kernel.sink.enter();
        kernel.run(context)
    })
}

unsafe extern "system" fn destroy(kernel: *mut c_void) {
    quiet("KernelDestroy", || {
        if !kernel.is_null() {
            // SAFETY: made by `create`, destroyed once.
            drop(unsafe { Box::from_raw(kernel.cast::<Kernel>()) });
        }
    });
}
