//! One session's provider instance.
//!
//! `CreateEp` parses the options. `GetCapability` is called once per graph, bodies of control flow first: it reads the graph,
//! partitions it, **builds the engine of every segment while the constants can be read in place**, and claims the segments
//! whose engine exists; whatever fails leaves nodes with the host and a reason in the log and in the placement report. `Compile`
//! then only binds the engines to the host's fused nodes. The main graph comes last and closes the report.
use std::{
    ffi::{CString, c_char},
    path::Path,
    ptr::{null, null_mut},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use engraft::{
    Attribute, CompiledSegment, Engine, HostGraph, HostNode, HostValue, HostValueId, Mismatch, Options,
    Original, Partition, Rebuilt, Remedy, Report, Segment, Session,
};

use crate::{
    EP_NAME, EP_NAME_TEXT,
    api::{Api, string},
    compute::{self, FusedNode},
    context::{self, ContextConfig, Loaded, Outcome},
    error::{Error, Result},
    factory, graph,
    graph::Reading,
    guard::{guard, quiet},
    logger::Sink,
    sys::*,
    workers::ThreadCount,
};

/// Since this API hosts take claims inside the bodies of control flow.
const NESTED_API: u32 = 28;

/// The host holds an instance by its first member.
#[repr(C)]
pub struct Ep {
    base: OrtEp,
    api: Api,
    sink: Sink,
    session: Session,
    context: ContextConfig,
    /// Whether the user set an option, by key.
    given: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// What the host writes into compiled models' metadata, made when it asks.
    compatibility: OnceLock<CString>,
    /// The model that is compiled, described when the first compiled node is written.
    original: OnceLock<Option<Original>>,
    threads: Arc<ThreadCount>,
    state: Mutex<State>,
}

/// What lies between the calls of a session's creation.
#[derive(Default)]
struct State {
    /// Claimed and not yet compiled.
    claimed: Vec<Claimed>,
    report: Option<Report>,
    /// Why the session must not come into being; hosts only listen to `Compile`.
    fatal: Option<Error>,
}

/// A segment that the host was asked for.
struct Claimed {
    name: String,
    /// Names of the values that its nodes produce, sorted: how `Compile` recognises it.
    produces: Vec<String>,
    engine: Arc<Engine>,
    inputs: Vec<String>,
    outputs: Vec<String>,
    record: CompiledSegment,
}

impl Ep {
    pub fn create(api: Api, config: &[(String, String)], logger: *const OrtLogger) -> Result<*mut OrtEp> {
        let options = factory::options(config)?;
        let sink = Sink::new(api, logger, options.log_level);
        let _scope = sink.enter();
        tracing::debug!(?options, "session");
        let ep = Self {
            base: table(api.version()),
            api,
            sink,
            session: Session::new(options),
            context: ContextConfig::parse(config),
            given: Box::new(context::is_given(config)),
            compatibility: OnceLock::new(),
            original: OnceLock::new(),
            threads: Arc::new(ThreadCount::new()),
            state: Mutex::default(),
        };
        Ok(Box::into_raw(Box::new(ep)).cast())
    }

    /// # Safety
    /// `ep` comes from [`Ep::create`] and is released once.
    pub unsafe fn release(ep: *mut OrtEp) {
        if !ep.is_null() {
            // SAFETY: by the caller's promise.
            drop(unsafe { Box::from_raw(ep.cast::<Self>()) });
        }
    }

    fn options(&self) -> &Options {
        self.session.options()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- GetCapability -------------------------------------------------------------------------------------------------

    /// Takes what can be taken of `graph`. Nothing that goes wrong here stops the session, except in strict mode.
    fn offer(&self, graph: &OrtGraph, support: *mut OrtEpGraphSupportInfo) -> Result<()> {
        let nested = self.api.parent_node(graph)?.is_some();
        let taken = self.take(graph, nested, support);
        if let Err(error) = &taken {
            tracing::warn!("nothing more is taken of this graph: {error}");
        }
        if nested {
            return Ok(());
        }
        let fatal = self.state().fatal.take();
        let fatal = match (fatal, taken) {
            (Some(fatal), _) => Some(fatal),
            (None, Err(error)) if self.options().min_accelerated_flops.is_some() => Some(error),
            (None, _) => self.close_report(),
        };
        if let Some(fatal) = fatal {
            self.state().fatal = Some(fatal);
            self.summon_compile(graph, support)?;
        }
        Ok(())
    }

    fn take(&self, graph: &OrtGraph, nested: bool, support: *mut OrtEpGraphSupportInfo) -> Result<()> {
        let reading = graph::read(self.api, graph)?;
        tracing::trace!("{:#?}", reading.graph);
        if self.context.enable
            && !nested
            && let Some(node) = reading.graph.nodes.iter().find(|node| holds_constants(node))
        {
            self.state().fatal = Some(Error::Unsupported(format!(
                "ONNX Runtime cannot write compiled models whose control flow reads constants: {} '{}'",
                node.op_type,
                node.label(&reading.graph)
            )));
            return Ok(());
        }
        let path = if nested { self.body_path(graph, &reading.graph)? } else { String::new() };
        let partitioned = self.session.partition(&reading.graph);
        let mut state = self.state();
        let report =
            state.report.get_or_insert_with(|| Report::new(&reading.graph.name, self.options().policy()));
        if !nested {
            report.model = self.model_name(graph, &reading.graph)?;
        }
        report.forget(&path);
        report.add(&path, &partitioned.report);
        drop(state);
        for (index, _) in reading.graph.nodes.iter().enumerate().filter(|(_, node)| is_compiled(node)) {
            // Nobody else can run it: without it there is no session.
            if let Err(error) = self.claim_compiled(&path, &reading, index, graph, support) {
                self.state().fatal = Some(error);
                return Ok(());
            }
        }
        let mut state = self.state();
        let Some(report) = state.report.as_mut() else { return Ok(()) };
        if !nested && self.falls_short(report) {
            // Known before anything is built: the report is closed and the session refused.
            return Ok(());
        }
        if let Some((reason, remedy)) = self.kept_body(graph)? {
            for segment in &partitioned.segments {
                report.decline(&path, &segment.name, &reason, remedy.clone());
            }
            return Ok(());
        }
        drop(state);
        for (index, segment) in partitioned.segments.iter().enumerate() {
            let claimed = self.claim(&path, &reading, &partitioned, index, support);
            let mut state = self.state();
            match claimed {
                Ok(claimed) => state.claimed.push(claimed),
                Err(error) => {
                    tracing::warn!("segment {} stays with the host: {error}", segment.name);
                    if let Some(report) = &mut state.report {
                        report.decline(&path, &segment.name, &error.to_string(), Remedy::Engraft);
                    }
                }
            }
        }
        Ok(())
    }

    /// Builds a segment's engine and asks the host for its nodes.
    fn claim(
        &self,
        path: &str,
        reading: &Reading<'_>,
        partition: &Partition,
        index: usize,
        support: *mut OrtEpGraphSupportInfo,
    ) -> Result<Claimed> {
        let segment: &Segment = &partition.segments[index];
        if let Some(folder) = &self.options().dump_subgraphs {
            let written = engraft::dump(folder, &reading.graph.name, path, segment);
            if let Err(error) = written {
                tracing::warn!("segment {} cannot be written to {}: {error}", segment.name, folder.display());
            }
        }
        let (engine, origin) = self.session.build(&segment.network)?;
        tracing::debug!(segment = segment.name, ?origin, "engine");
        let nodes: Vec<&OrtNode> = segment.nodes.iter().map(|index| reading.nodes[*index]).collect();
        self.api.claim(support, &nodes, true)?;
        let graph = &reading.graph;
        let names = |ids: &[HostValueId]| ids.iter().map(|id| graph.value(*id).name.clone()).collect();
        let outputs = segment.nodes.iter().flat_map(|index| graph.nodes[*index].outputs.iter().flatten());
        let mut produces: Vec<String> = outputs.map(|id| graph.value(*id).name.clone()).collect();
        produces.sort_unstable();
        Ok(Claimed {
            name: segment.name.clone(),
            produces,
            engine,
            inputs: names(&segment.inputs),
            outputs: names(&segment.outputs),
            record: CompiledSegment::new(&partition.report, index, self.options()),
        })
    }

    /// Loads the plan of a node that was compiled ahead of time, or builds it again, and asks the host for the node.
    fn claim_compiled(
        &self,
        path: &str,
        reading: &Reading<'_>,
        index: usize,
        graph: &OrtGraph,
        support: *mut OrtEpGraphSupportInfo,
    ) -> Result<()> {
        let (read, node) = (&reading.graph.nodes[index], reading.nodes[index]);
        let model = self.api.model_path(graph)?;
        let value = |id: &HostValueId| reading.graph.value(*id);
        let name =
            |id: &Option<HostValueId>| id.as_ref().map_or_else(String::new, |id| value(id).name.clone());
        let outputs: Vec<String> = read.outputs.iter().map(name).collect();
        let claimed = match context::read(self.api, &self.context, &model, node, &self.session, &self.given)?
        {
            Outcome::Loaded(Loaded { engine, record }) => Claimed {
                name: record.segment.clone(),
                produces: Vec::new(),
                engine,
                inputs: read.inputs.iter().map(name).collect(),
                outputs: outputs.clone(),
                record,
            },
            Outcome::Foreign(_, mismatch) if !mismatch.is_of_the_build() => {
                return Err(context::refusal(&read.name, &mismatch, None));
            }
            Outcome::Foreign(record, mismatch) => {
                let inputs: Vec<&HostValue> = read.inputs.iter().flatten().map(value).collect();
                let compiled = self.context.loaded_from(&model);
                let rebuilt = record
                    .rebuild(&self.session, &self.given, compiled, &inputs, &outputs)
                    .map_err(|reason| context::refusal(&read.name, &mismatch, Some(&reason)))?;
                let Mismatch { field, theirs, ours } = mismatch;
                tracing::warn!(
                    "compiled node '{}' was compiled for {field} {theirs}, this is {ours}: it is built again from {}",
                    read.name,
                    rebuilt.model.display()
                );
                let Rebuilt { engine, inputs, outputs, record, .. } = rebuilt;
                Claimed {
                    name: record.segment.clone(),
                    produces: Vec::new(),
                    engine,
                    inputs,
                    outputs,
                    record,
                }
            }
        };
        let engine = &claimed.engine;
        if (claimed.inputs.len(), claimed.outputs.len()) != (engine.inputs().len(), engine.outputs().len()) {
            return Err(Error::Compiled(format!(
                "compiled node '{}' has {} inputs and {} outputs, its plan {} and {}",
                read.name,
                claimed.inputs.len(),
                claimed.outputs.len(),
                engine.inputs().len(),
                engine.outputs().len()
            )));
        }
        // A constant that flows in is an input like any other: the plan does not hold it.
        self.api.claim(support, &[node], false)?;
        let mut produces = outputs;
        produces.sort_unstable();
        let mut state = self.state();
        if let Some(report) = &mut state.report {
            report.adopt(path, &read.name, &claimed.record);
        }
        tracing::debug!(segment = claimed.name, "loaded from a compiled model");
        state.claimed.push(Claimed { produces, ..claimed });
        Ok(())
    }

    /// Why the host keeps the graph as it is, if it is a node's body that it keeps.
    fn kept_body(&self, graph: &OrtGraph) -> Result<Option<(String, Remedy)>> {
        let Some(node) = self.api.parent_node(graph)? else { return Ok(None) };
        let (domain, op_type) = (self.api.node_domain(node)?, self.api.node_op_type(node)?);
        Ok(if !engraft::is_control_flow(&domain, &op_type) {
            // The host replaces the node by its function later, and cannot follow what was fused in its body.
            Some((format!("the body of {op_type} becomes part of a function"), Remedy::HostOnly))
        } else if self.api.version() < NESTED_API {
            let least = format!("1.{NESTED_API}");
            let reason = format!("bodies of control flow stay with ONNX Runtime before {least}");
            Some((reason, Remedy::Host { least }))
        } else if self.context.enable {
            let reason = "compiled models keep the bodies of control flow as they are".to_owned();
            Some((reason, Remedy::option("ep.context_enable", "0")))
        } else {
            None
        })
    }

    /// Where a node's body sits, as in `If_3/then_branch`.
    fn body_path(&self, graph: &OrtGraph, read: &HostGraph) -> Result<String> {
        let Some(node) = self.api.parent_node(graph)? else { return Ok(read.name.clone()) };
        let mut name = self.api.node_name(node)?;
        if name.is_empty() {
            name = self.api.node_op_type(node)?;
        }
        let bodies = self.api.node_subgraphs(node)?;
        let attribute = bodies.into_iter().find(|(_, body)| std::ptr::eq(*body, graph)).map(|(name, _)| name);
        Ok(format!("{name}/{}", attribute.unwrap_or_else(|| read.name.clone())))
    }

    /// The model's file without its extension, or the name of its graph.
    fn model_name(&self, graph: &OrtGraph, read: &HostGraph) -> Result<String> {
        let path = self.api.model_path(graph)?;
        Ok(path.file_stem().map_or_else(|| read.name.clone(), |stem| stem.to_string_lossy().into_owned()))
    }

    /// Strict mode: whether less is accelerated than the user asks for.
    fn falls_short(&self, report: &mut Report) -> bool {
        report.finish();
        self.options().min_accelerated_flops.is_some_and(|least| report.accelerated_flops < least)
    }

    /// Writes the report and applies strict mode.
    fn close_report(&self) -> Option<Error> {
        let mut state = self.state();
        let report = state.report.as_mut()?;
        let falls_short = self.falls_short(report);
        tracing::info!("{}", report.summary());
        if let Some(path) = &self.options().placement_report_path
            && let Err(error) = report.write(path)
        {
            tracing::warn!("the placement report cannot be written to {}: {error}", path.display());
        }
        let least = self.options().min_accelerated_flops?;
        falls_short.then(|| {
            let percent = least * 100.0;
            Error::Strict(format!(
                "min_accelerated_flops asks for {percent:.2}%, but of {}",
                report.summary()
            ))
        })
    }

    /// Claims one node, so that the host calls `Compile`, where the session can be refused.
    fn summon_compile(&self, graph: &OrtGraph, support: *mut OrtEpGraphSupportInfo) -> Result<()> {
        if !self.state().claimed.is_empty() {
            return Ok(());
        }
        for node in self.api.graph_nodes(graph)? {
            if self.api.node_provider(node)?.is_empty() && self.api.node_subgraphs(node)?.is_empty() {
                return self.api.claim(support, &[node], true);
            }
        }
        Err(Error::contract("no node is left to refuse the session with"))
    }

    // ---- Compile -------------------------------------------------------------------------------------------------------

    /// Binds a fused node to its engine; with `context` also makes the node that stands for it in a compiled model.
    fn compile(
        &self,
        graph: &OrtGraph,
        fused: &OrtNode,
        context: Option<&mut *mut OrtNode>,
    ) -> Result<Box<FusedNode>> {
        let mut produces = Vec::new();
        for node in self.api.graph_nodes(graph)? {
            for output in self.api.node_outputs(node)?.into_iter().flatten() {
                produces.push(self.api.value_name(output)?);
            }
        }
        produces.retain(|name| !name.is_empty());
        produces.sort_unstable();
        let claimed = {
            let mut state = self.state();
            // Bodies may use equal names: the host compiles each right after it was claimed, so the latest is meant.
            let position = state.claimed.iter().rposition(|claimed| claimed.produces == produces);
            position.map(|position| state.claimed.remove(position))
        };
        let claimed = claimed.ok_or_else(|| {
            Error::contract(format!("the host compiles a segment that was not claimed: {produces:?}"))
        })?;
        let inputs = self.indices(&claimed, "input", &claimed.inputs, self.api.node_inputs(fused)?)?;
        let outputs = self.indices(&claimed, "output", &claimed.outputs, self.api.node_outputs(fused)?)?;
        tracing::debug!(segment = claimed.name, ?inputs, ?outputs, "bound");
        if let Some(context) = context {
            let model = self.api.model_path(graph)?;
            let Claimed { engine, record, inputs, outputs, .. } = &claimed;
            let mut record = record.clone();
            record.original = record.original.or_else(|| self.original(&model));
            *context =
                context::write(self.api, &self.context, &model, fused, engine, &record, (inputs, outputs))?;
        }
        Ok(FusedNode::new(self.api, self.sink, claimed.engine, inputs, outputs, self.threads.clone()))
    }

    /// What a compiled model says about the one that it is made of.
    fn original(&self, model: &Path) -> Option<Original> {
        let describe = || {
            let compiled = self.context.compiled_model(model);
            Original::describe(model, compiled.as_deref())
        };
        self.original.get_or_init(describe).clone()
    }

    /// For each of the segment's names its index at the fused node.
    fn indices(
        &self,
        claimed: &Claimed,
        what: &str,
        names: &[String],
        infos: Vec<Option<&OrtValueInfo>>,
    ) -> Result<Box<[usize]>> {
        let mut theirs = Vec::with_capacity(infos.len());
        for info in infos {
            theirs.push(info.map_or(Ok(String::new()), |info| self.api.value_name(info))?);
        }
        names
            .iter()
            .map(|name| {
                theirs.iter().position(|t| t == name).ok_or_else(|| {
                    Error::contract(format!(
                        "segment {}: the fused node has no {what} '{name}'",
                        claimed.name
                    ))
                })
            })
            .collect()
    }
}

/// Whether a node stands for a segment that Engraft compiled ahead of time.
fn is_compiled(node: &HostNode) -> bool {
    node.op_type == context::OPERATOR
        && node.domain == context::DOMAIN
        && matches!(node.attribute(context::SOURCE), Some(Attribute::String(s)) if s == EP_NAME_TEXT.as_bytes())
}

/// Whether a body of the node captures a constant or holds one that the host keeps apart from its model.
fn holds_constants(node: &HostNode) -> bool {
    /// The greatest size in bytes of constants that the host keeps inside.
    const INSIDE: usize = 127;
    let holds = |body: &HostGraph| {
        let large = |value: &HostValue| value.constant.as_ref().is_some_and(|c| c.bytes().len() > INSIDE);
        body.values.iter().any(large)
            || body.outer.iter().any(|id| body.value(*id).constant.is_some())
            || body.nodes.iter().any(holds_constants)
    };
    node.attributes.values().any(|attribute| match attribute {
        Attribute::Graph(body) => holds(body),
        Attribute::Graphs(bodies) => bodies.iter().any(holds),
        _ => false,
    })
}

fn table(version: u32) -> OrtEp {
    OrtEp {
        ort_version_supported: version,
        GetName: Some(get_name),
        GetCapability: Some(get_capability),
        Compile: Some(compile),
        ReleaseNodeComputeInfos: Some(release_node_compute_infos),
        GetPreferredDataLayout: None,
        ShouldConvertDataLayoutForOp: None,
        SetDynamicOptions: Some(set_dynamic_options),
        OnRunStart: None,
        OnRunEnd: None,
        CreateAllocator: None,
        CreateSyncStreamForDevice: None,
        GetCompiledModelCompatibilityInfo: Some(get_compatibility),
        GetKernelRegistry: None,
        IsConcurrentRunSupported: Some(is_concurrent_run_supported),
        Sync: None,
        CreateProfiler: None,
        IsGraphCaptureEnabled: None,
        IsGraphCaptured: None,
        ReplayGraph: None,
        GetGraphCaptureNodeAssignmentPolicy: None,
        GetAvailableResource: None,
        OnSessionInitializationEnd: Some(on_session_initialization_end),
        GetDefaultMemoryDevice: None,
        ReleaseCapturedGraph: None,
        GetWeightlessSupport: None,
    }
}

unsafe extern "system" fn get_name(_: *const OrtEp) -> *const c_char {
    EP_NAME.as_ptr()
}

unsafe extern "system" fn is_concurrent_run_supported(_: *mut OrtEp, supported: *mut bool) -> OrtStatusPtr {
    // SAFETY: out-parameter of the call in progress.
    unsafe { *supported = true };
    OrtStatusPtr(null_mut())
}

unsafe extern "system" fn get_capability(
    this: *mut OrtEp,
    graph: *const OrtGraph,
    support: *mut OrtEpGraphSupportInfo,
) -> OrtStatusPtr {
    // SAFETY: the host's pointer to a live instance.
    let ep = unsafe { &*this.cast::<Ep>() };
    guard(ep.api, "GetCapability", || {
        let _scope = ep.sink.enter();
        // SAFETY: alive during the call.
        let graph = unsafe { graph.as_ref() }.ok_or_else(|| Error::contract("no graph given"))?;
        ep.offer(graph, support)
    })
}

unsafe extern "system" fn compile(
    this: *mut OrtEp,
    graphs: *const *const OrtGraph,
    fused: *const *const OrtNode,
    count: usize,
    infos: *mut *mut OrtNodeComputeInfo,
    contexts: *mut *mut OrtNode,
) -> OrtStatusPtr {
    // SAFETY: the host's pointer to a live instance.
    let ep = unsafe { &*this.cast::<Ep>() };
    guard(ep.api, "Compile", || {
        let _scope = ep.sink.enter();
        let fatal = ep.state().fatal.take();
        if let Some(fatal) = fatal {
            return Err(fatal);
        }
        let mut nodes = Vec::with_capacity(count);
        for i in 0..count {
            // SAFETY: both arrays have `count` entries, alive during the call.
            let (graph, fused) = unsafe { ((*graphs.add(i)).as_ref(), (*fused.add(i)).as_ref()) };
            let (Some(graph), Some(fused)) = (graph, fused) else {
                return Err(Error::contract("no graph or fused node given"));
            };
            // SAFETY: room for `count` nodes, which belong to the host from then on.
            let context =
                (ep.context.enable && !contexts.is_null()).then(|| unsafe { &mut *contexts.add(i) });
            nodes.push(ep.compile(graph, fused, context)?);
        }
        for (i, node) in nodes.into_iter().enumerate() {
            // SAFETY: room for `count` entries; the host gives each back through `ReleaseNodeComputeInfos`.
            unsafe { *infos.add(i) = Box::into_raw(node).cast() };
        }
        Ok(())
    })
}

/// What hosts keep in the metadata of compiled models; the factory judges it when such a model is loaded.
unsafe extern "system" fn get_compatibility(this: *mut OrtEp, _graph: *const OrtGraph) -> *const c_char {
    // SAFETY: the host's pointer to a live instance.
    let ep = unsafe { &*this.cast::<Ep>() };
    let mut line = null();
    quiet("GetCompiledModelCompatibilityInfo", || {
        line = ep.compatibility.get_or_init(context::compatibility).as_ptr()
    });
    line
}

/// Options that change while a session lives. `ep.dynamic.workload_type`: `Efficient` computes on the calling thread alone and
/// leaves the other processors to whom the work matters more, `Default` on all threads again. Keys of other providers pass.
unsafe extern "system" fn set_dynamic_options(
    this: *mut OrtEp,
    keys: *const *const c_char,
    values: *const *const c_char,
    count: usize,
) -> OrtStatusPtr {
    // SAFETY: the host's pointer to a live instance.
    let ep = unsafe { &*this.cast::<Ep>() };
    guard(ep.api, "SetDynamicOptions", || {
        let _scope = ep.sink.enter();
        for i in 0..count {
            // SAFETY: both arrays have `count` strings, alive during the call.
            let (key, value) = unsafe { (string(*keys.add(i)), string(*values.add(i))) };
            match (key.as_str(), value.as_str()) {
                ("ep.dynamic.workload_type", "Default") => ep.threads.limit(false),
                ("ep.dynamic.workload_type", "Efficient") => ep.threads.limit(true),
                ("ep.dynamic.workload_type", _) => {
                    return Err(Error::Unsupported(format!(
                        "'{key}': '{value}' is neither Default nor Efficient"
                    )));
                }
                _ => tracing::debug!("the dynamic option '{key}' is none of Engraft's"),
            }
        }
        Ok(())
    })
}

unsafe extern "system" fn release_node_compute_infos(
    _: *mut OrtEp,
    infos: *mut *mut OrtNodeComputeInfo,
    count: usize,
) {
    // SAFETY: made by `compile`.
    unsafe { compute::release(infos, count) };
}

/// What was claimed and never compiled (the host may decline a claim) is let go.
unsafe extern "system" fn on_session_initialization_end(this: *mut OrtEp) -> OrtStatusPtr {
    // SAFETY: the host's pointer to a live instance.
    let ep = unsafe { &*this.cast::<Ep>() };
    quiet("OnSessionInitializationEnd", || {
        let _scope = ep.sink.enter();
        let mut state = ep.state();
        for claimed in state.claimed.drain(..) {
            tracing::warn!("segment {} was declined by the host", claimed.name);
        }
        state.report = None;
    });
    OrtStatusPtr(null_mut())
}
