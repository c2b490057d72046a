//! The graph optimizer: rewrites the graphs that TensorFlow is about to run, so that programs need not change.
//!
//! TensorFlow calls it for each function and each session after its own optimizers. Whatever keeps it from rewriting a graph
//! leaves the graph as it is.
use std::{
    ffi::c_void,
    mem::{offset_of, size_of},
    ptr::null_mut,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use engraft::{Options, Session};

use crate::{
    api::{self, Status, bytes_of, set_status, tf},
    error::{Error, Result},
    guard::guard,
    rewrite::{self, Shapes},
    sys::*,
    threads,
};

/// What `TF_ABORTED` means of an optimizer: the graph stays as it is.
const UNCHANGED: TF_Code = 10;

/// Segments put into graphs.
pub static SEGMENTS: AtomicU64 = AtomicU64::new(0);

/// What [`configure`] asked for last: a session, or none while graphs are to be left alone.
static SESSION: RwLock<Option<Option<Arc<Session>>>> = RwLock::new(None);

/// Takes effect for graphs that are optimized from now on.
pub fn configure(enabled: bool, options: Options) {
    let session = enabled.then(|| Arc::new(Session::with_threads(options, threads::default())));
    *SESSION.write().unwrap_or_else(PoisonError::into_inner) = Some(session);
}

/// Entry point of optimizer plugins.
///
/// # Safety
/// Called by TensorFlow with valid pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TF_InitGraph(params: *mut TP_OptimizerRegistrationParams, status: *mut TF_Status) {
    let done = guard(|| {
        api::connect()?;
        // SAFETY: TensorFlow's structs, filled in place; the text lives as long as the process.
        unsafe {
            let params = params.as_mut().ok_or_else(|| Error::contract("no parameters given"))?;
            params.struct_size = size_of::<TP_OptimizerRegistrationParams>();
            params.device_type = c"CPU".as_ptr();
            let configs = params.optimizer_configs.as_mut();
            let configs = configs.ok_or_else(|| Error::contract("no optimizer configs given"))?;
            configs.struct_size =
                offset_of!(TP_OptimizerConfigs, scoped_allocator_optimization) + size_of::<TF_TriState>();
            let optimizer = params.optimizer.as_mut().ok_or_else(|| Error::contract("no optimizer given"))?;
            optimizer.struct_size = size_of::<TP_Optimizer>();
            optimizer.create_func = Some(create);
            optimizer.optimize_func = Some(optimize);
            optimizer.destroy_func = Some(destroy);
        }
        Ok(())
    });
    if let (Err(error), Ok(_)) = (done, api::connect()) {
        // SAFETY: the status of the call in progress.
        unsafe { set_status(status, error.code(), &format!("engraft: {error}")) }
    }
}

/// The optimizer has no state of its own.
unsafe extern "C" fn create() -> *mut c_void {
    std::ptr::without_provenance_mut(1)
}

unsafe extern "C" fn destroy(_: *mut c_void) {}

unsafe extern "C" fn optimize(
    _: *mut c_void,
    graph: *const TF_Buffer,
    item: *const TF_GrapplerItem,
    result: *mut TF_Buffer,
    status: *mut TF_Status,
) {
    // SAFETY: those of the call in progress.
    let made = guard(|| match unsafe { graph.as_ref() } {
        Some(graph) => rewritten(bytes_of(graph), item),
        None => Err(Error::contract("no graph given")),
    });
    // SAFETY: as above; what is handed over is given back to `free`.
    unsafe {
        match made {
            Ok(Some(made)) => {
                let made = made.into_boxed_slice();
                (*result).length = made.len();
                (*result).data = Box::into_raw(made).cast();
                (*result).data_deallocator = Some(free);
            }
            Ok(None) => set_status(status, UNCHANGED, "nothing for Engraft to do"),
            Err(error) => {
                tracing::warn!("a graph is left as it is: {error}");
                set_status(status, UNCHANGED, "Engraft could not rewrite the graph");
            }
        }
    }
}

unsafe extern "C" fn free(data: *mut c_void, length: usize) {
    // SAFETY: a boxed slice of `optimize`, given back once.
    drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(data.cast::<u8>(), length)) });
}

fn rewritten(graph: &[u8], item: *const TF_GrapplerItem) -> Result<Option<Vec<u8>>> {
    let asked = SESSION.read().unwrap_or_else(PoisonError::into_inner).clone();
    let session = match asked {
        Some(Some(session)) => session,
        Some(None) => return Ok(None),
        // Whoever has TensorFlow load the library as a plugin, and says no more, wants it used.
        None => {
            configure(true, Options::default());
            return rewritten(graph, item);
        }
    };
    let made = rewrite::rewrite(&session, graph, preserved(item)?, &Shapes::infer(item)?)?;
    SEGMENTS.fetch_add(made.as_ref().map_or(0, |made| made.segments as u64), Ordering::Relaxed);
    Ok(made.map(|made| made.graph))
}

/// Names of the nodes that must not go away.
fn preserved(item: *const TF_GrapplerItem) -> Result<Vec<String>> {
    let status = Status::new();
    let (mut count, mut size) = (0, 0);
    // SAFETY: the item of the call in progress; the lists have the sizes that TensorFlow asked for.
    unsafe {
        (tf().TF_GetNodesToPreserveListSize)(item, &mut count, &mut size, status.pointer());
        status.check()?;
        let entries = usize::try_from(count).unwrap_or(0);
        let (mut values, mut lengths) = (vec![null_mut(); entries], vec![0usize; entries]);
        let mut storage = vec![0u8; size];
        (tf().TF_GetNodesToPreserveList)(
            item,
            values.as_mut_ptr(),
            lengths.as_mut_ptr(),
            count,
            storage.as_mut_ptr().cast(),
            size,
            status.pointer(),
        );
        status.check()?;
        let text = |(start, length): (&*mut std::ffi::c_char, &usize)| {
            let bytes = std::slice::from_raw_parts(start.cast_const().cast::<u8>(), *length);
            String::from_utf8_lossy(bytes).into_owned()
        };
        Ok(values.iter().zip(&lengths).map(text).collect())
    }
}
