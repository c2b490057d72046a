//! What the Python package calls. Results go to a callback of the caller's, so that no memory changes hands.
use std::{
    collections::BTreeMap,
    ffi::{CStr, c_char, c_int, c_void},
    ptr::null,
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use engraft::{
    Options, Session,
    tensorflow::{self, Ends},
};
use serde::Deserialize;

use crate::{
    FAILURE,
    error::{Error, Result},
    guard::guard,
    logger, node, optimizer, threads,
};

/// Takes a result: of which kind it is, and its bytes, which are valid during the call.
type Receive = unsafe extern "C" fn(kind: c_int, data: *const c_void, length: usize);

/// Kinds of results.
const ERROR: c_int = 0;
const GRAPH: c_int = 1;
const REPORT: c_int = 2;
const NODE: c_int = 3;

/// Calls of nodes that an engine served, and such that TensorFlow's own kernels did.
pub static RUNS: AtomicU64 = AtomicU64::new(0);
pub static NATIVE_RUNS: AtomicU64 = AtomicU64::new(0);

fn send(receive: Receive, kind: c_int, bytes: &[u8]) {
    // SAFETY: the caller's function, by the contract of the exports.
    unsafe { receive(kind, bytes.as_ptr().cast(), bytes.len()) }
}

/// Runs `body` and says whether it went well; an error goes to `receive`.
fn export(receive: Receive, body: impl FnOnce() -> Result<()>) -> c_int {
    match guard(body) {
        Ok(()) => 0,
        Err(error) => {
            send(receive, ERROR, error.to_string().as_bytes());
            1
        }
    }
}

/// Text of the caller's.
///
/// # Safety
/// A C string, or null for none.
unsafe fn text<'a>(text: *const c_char) -> Result<&'a str> {
    if text.is_null() {
        return Ok("");
    }
    // SAFETY: by the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|error| Error::contract(error.to_string()))
}

/// Why the operator is not registered: a C string, or null where it is.
#[unsafe(no_mangle)]
pub extern "C" fn engraft_tensorflow_error() -> *const c_char {
    FAILURE.get().map_or(null(), |text| text.as_ptr())
}

/// How many calls of nodes an engine has served (0) and TensorFlow's own kernels have (1), and how many segments the optimizer
/// has put into graphs (2).
#[unsafe(no_mangle)]
pub extern "C" fn engraft_tensorflow_count(which: c_int) -> u64 {
    match which {
        0 => RUNS.load(Ordering::Relaxed),
        1 => NATIVE_RUNS.load(Ordering::Relaxed),
        2 => optimizer::SEGMENTS.load(Ordering::Relaxed),
        _ => 0,
    }
}

/// Switches the graph optimizer on (with options, a JSON object of texts) or off.
///
/// # Safety
/// `options` is a C string or null, `receive` a function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn engraft_tensorflow_configure(
    enabled: c_int,
    options: *const c_char,
    receive: Receive,
) -> c_int {
    export(receive, || {
        // SAFETY: by the caller's promise.
        let text = unsafe { text(options) }?;
        let pairs: BTreeMap<String, String> = match text {
            "" => BTreeMap::new(),
            text => serde_json::from_str(text)
                .map_err(|error| Error::contract(format!("the options: {error}")))?,
        };
        let options = parse_options(&pairs)?;
        logger::set_level(options.log_level);
        optimizer::configure(enabled != 0, options);
        Ok(())
    })
}

fn parse_options(pairs: &BTreeMap<String, String>) -> Result<Options> {
    Ok(Options::parse(pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())))?)
}

/// What is to be done with a graph.
#[derive(Deserialize)]
struct Request {
    feeds: Vec<String>,
    fetches: Vec<String>,
    /// Options as texts.
    options: BTreeMap<String, String>,
    /// Name of the model in the report.
    model: String,
}

/// Replaces what Engraft takes of a frozen graph. `receive` gets the new `GraphDef` and the placement report as JSON.
///
/// # Safety
/// `graph` points to `length` bytes, `request` is a C string, `receive` a function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn engraft_tensorflow_accelerate(
    graph: *const u8,
    length: usize,
    request: *const c_char,
    receive: Receive,
) -> c_int {
    export(receive, || {
        // SAFETY: by the caller's promise.
        let (graph, request) = unsafe { (std::slice::from_raw_parts(graph, length), text(request)?) };
        let request: Request = serde_json::from_str(request)
            .map_err(|error| Error::contract(format!("the request: {error}")))?;
        let options = parse_options(&request.options)?;
        let _scope = logger::enter(options.log_level);
        let session = Session::with_threads(options, threads::default());
        let ends = Ends { feeds: request.feeds, fetches: request.fetches, ..Ends::default() };
        let mut made = tensorflow::accelerate(&session, Bytes::copy_from_slice(graph), &ends)
            .map_err(|error| Error::Read(error.to_string()))?;
        made.report.model = request.model;
        let report = serde_json::to_vec(&made.report).map_err(|error| Error::contract(error.to_string()))?;
        send(receive, GRAPH, &made.graph);
        send(receive, REPORT, &report);
        Ok(())
    })
}

/// Removes the weights from the functions of a node (a `NodeDef` with `segment` and `native_library`) that its segment holds as
/// well. `receive` gets the node.
///
/// # Safety
/// `node` points to `length` bytes, `receive` is a function.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn engraft_tensorflow_share(node: *const u8, length: usize, receive: Receive) -> c_int {
    export(receive, || {
        // SAFETY: by the caller's promise.
        let bytes = Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(node, length) });
        send(receive, NODE, &node::with_shared_constants(bytes)?);
        Ok(())
    })
}
