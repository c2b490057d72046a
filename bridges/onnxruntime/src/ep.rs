//! One session's provider instance.
//!
//! `CreateEp` parses the options. `GetCapability` is called once per graph, bodies of control flow first: it reads the graph,
//! partitions it, **builds the engine of every segment while the constants can be read in place**, and claims the segments
//! whose engine exists; whatever fails leaves nodes with the host and a reason in the log and in the placement report. `Compile`
//! then only binds the engines to the host's fused nodes. The main graph comes last and closes the report.
use std::{
    ffi::c_char,
    ptr::null_mut,
    sync::{Arc, Mutex, PoisonError},
};

use engraft::{Attribute, Engine, HostGraph, HostNode, HostValueId, Options, Report, Segment, Session};

use crate::{
    EP_NAME, EP_NAME_TEXT,
    api::Api,
    compute::{self, FusedNode},
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
        if let Some(error) = compiled_node(&reading.graph) {
            self.state().fatal = Some(error);
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
        if !nested && self.falls_short(report) {
            // Known before anything is built: the report is closed and the session refused.
            return Ok(());
        }
        if nested && self.api.version() < NESTED_API {
            for segment in &partitioned.segments {
                let reason = format!("bodies of control flow stay with ONNX Runtime before 1.{NESTED_API}");
                report.decline(&path, &segment.name, &reason);
            }
            return Ok(());
        }
        drop(state);
        for segment in &partitioned.segments {
            let claimed = self.claim(&path, &reading, segment, support);
            let mut state = self.state();
            match claimed {
                Ok(claimed) => state.claimed.push(claimed),
                Err(error) => {
                    tracing::warn!("segment {} stays with the host: {error}", segment.name);
                    if let Some(report) = &mut state.report {
                        report.decline(&path, &segment.name, &error.to_string());
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
        segment: &Segment,
        support: *mut OrtEpGraphSupportInfo,
    ) -> Result<Claimed> {
        if let Some(folder) = &self.options().dump_subgraphs {
            let written = engraft::dump(folder, &reading.graph.name, path, segment);
            if let Err(error) = written {
                tracing::warn!("segment {} cannot be written to {}: {error}", segment.name, folder.display());
            }
        }
        let (engine, origin) = self.session.build(&segment.network)?;
        tracing::debug!(segment = segment.name, ?origin, "engine");
        let nodes: Vec<&OrtNode> = segment.nodes.iter().map(|index| reading.nodes[*index]).collect();
        self.api.claim(support, &nodes)?;
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
        })
    }

    /// Where a body of control flow sits, as in `If_3/then_branch`.
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
                return self.api.claim(support, &[node]);
            }
        }
        Err(Error::contract("no node is left to refuse the session with"))
    }

    // ---- Compile -------------------------------------------------------------------------------------------------------

    fn compile(&self, graph: &OrtGraph, fused: &OrtNode) -> Result<Box<FusedNode>> {
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
        Ok(FusedNode::new(self.api, self.sink, claimed.engine, inputs, outputs, self.threads.clone()))
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

/// Nodes that Engraft compiled ahead of time are not taken yet; nobody else can, so the session must say why.
fn compiled_node(graph: &HostGraph) -> Option<Error> {
    let ours = |node: &&HostNode| {
        node.op_type == "EPContext"
            && matches!(node.attribute("source"), Some(Attribute::String(s)) if s == EP_NAME_TEXT.as_bytes())
    };
    let node = graph.nodes.iter().find(ours)?;
    Some(Error::Unsupported(format!(
        "the model holds a compiled node ('{}'), which this version does not take; use the original model",
        node.label(graph)
    )))
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
        SetDynamicOptions: None,
        OnRunStart: None,
        OnRunEnd: None,
        CreateAllocator: None,
        CreateSyncStreamForDevice: None,
        GetCompiledModelCompatibilityInfo: None,
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
    _contexts: *mut *mut OrtNode,
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
            nodes.push(ep.compile(graph, fused)?);
        }
        for (i, node) in nodes.into_iter().enumerate() {
            // SAFETY: room for `count` entries; the host gives each back through `ReleaseNodeComputeInfos`.
            unsafe { *infos.add(i) = Box::into_raw(node).cast() };
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
