//! One session's provider instance.
//!
//! `CreateEp` parses the options. `GetCapability` is called once per graph, bodies of control flow first.
use std::{ffi::c_char, ptr::null_mut};

use engraft::{Placement, Report};

use crate::{
    EP_NAME,
    api::Api,
    error::{Error, Result},
    factory, graph,
    guard::{guard, quiet},
    logger::Sink,
    sys::*,
};

#[repr(C)]
pub struct Ep {
    base: OrtEp,
    api: Api,
    sink: Sink,
    options: engraft::Options,
}

impl Ep {
    pub fn create(api: Api, config: &[(String, String)], logger: *const OrtLogger) -> Result<*mut OrtEp> {
        let options = factory::options(config)?;
        let sink = Sink::new(api, logger, options.log_level);
        let _scope = sink.enter();
        tracing::debug!(?options, "session");
        Ok(Box::into_raw(Box::new(Self { base: table(api.version()), api, sink, options })).cast())
    }

    fn get_capability(&self, graph: &OrtGraph) -> Result<()> {
        let reading = graph::read(self.api, graph)?;
        if self.api.is_nested(graph)? {
            return Ok(());
        }
        let mut report = Report::new(&reading.graph.name, self.options.policy());
        report.add("", &reading.graph, |_, _| Placement {
            reason: Some("no operator is taken yet".to_owned()),
            ..Placement::default()
        });
        report.finish();
        tracing::info!("{}", report.summary());
        if let Some(path) = &self.options.placement_report_path
            && let Err(error) = report.write(path)
        {
            tracing::warn!("the placement report cannot be written to {}: {error}", path.display());
        }
        Ok(())
    }

    /// # Safety
    /// `ep` comes from [`Ep::create`] and is released once.
    pub unsafe fn release(ep: *mut OrtEp) {
        if !ep.is_null() {
            // SAFETY: by the caller's promise.
            drop(unsafe { Box::from_raw(ep.cast::<Self>()) });
        }
    }
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
        OnSessionInitializationEnd: None,
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
    _support: *mut OrtEpGraphSupportInfo,
) -> OrtStatusPtr {
    // SAFETY: the host's pointer to a live instance.
    let ep = unsafe { &*this.cast::<Ep>() };
    guard(ep.api, "GetCapability", || {
        let _scope = ep.sink.enter();
        // SAFETY: alive during the call.
        let graph = unsafe { graph.as_ref() }.ok_or_else(|| Error::contract("no graph given"))?;
        if let Err(error) = ep.get_capability(graph) {
            tracing::warn!("nothing is taken of this graph: {error}");
        }
        Ok(())
    })
}

unsafe extern "system" fn compile(
    this: *mut OrtEp,
    _graphs: *const *const OrtGraph,
    _fused: *const *const OrtNode,
    _count: usize,
    _infos: *mut *mut OrtNodeComputeInfo,
    _contexts: *mut *mut OrtNode,
) -> OrtStatusPtr {
    // SAFETY: the host's pointer to a live instance.
    let ep = unsafe { &*this.cast::<Ep>() };
    guard(ep.api, "Compile", || Err(Error::contract("nothing was claimed")))
}

unsafe extern "system" fn release_node_compute_infos(
    _: *mut OrtEp,
    _infos: *mut *mut OrtNodeComputeInfo,
    _count: usize,
) {
    quiet("ReleaseNodeComputeInfos", || {});
}
