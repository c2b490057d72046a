//! Safe, thin wrappers around the function tables of ONNX Runtime.
//!
//! Handles travel as references to their opaque types and borrow from the object that owns them. Statuses are freed, enums are
//! read as integers (a newer host may know more variants), and the table is never borrowed as a whole: an older host's table is
//! shorter than the struct.

mod attribute;
mod graph;
mod session;
mod tensor;

pub use attribute::AttributeValue;
pub use session::SessionHandles;
pub use tensor::OwnedValue;

use crate::error::{Error, Result};
use crate::sys::*;
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr::{null, null_mut};

/// The tables of one host process, at the negotiated API version.
#[derive(Clone, Copy)]
pub struct Api {
    api: *const OrtApi,
    ep: *const EpApi,
    version: u32,
}

// SAFETY: the tables are immutable and live as long as the host's library.
unsafe impl Send for Api {}
// SAFETY: as above; every function of the tables may be called from any thread.
unsafe impl Sync for Api {}

/// Why a host cannot be served.
pub enum Unsuitable {
    /// Too old even to report a status.
    Silent,
    /// Can be told.
    Told(Api, Error),
}

/// Calls a function of the main table that returns a status.
macro_rules! call {
    ($api:expr, $function:ident($($argument:expr),* $(,)?)) => {{
        // SAFETY: the slot exists since `MIN_API`, or the caller checked the version; handles are references or come from the
        // host, out-parameters are live locals.
        let status = unsafe { ((*$api.api).$function)($($argument),*) };
        $api.check(stringify!($function), status)
    }};
}
use call;

impl Api {
    /// Asks the host for the newest API that both sides know.
    ///
    /// # Safety
    /// `base` is the pointer that the host passed to `CreateEpFactories`.
    pub unsafe fn negotiate(base: *const OrtApiBase) -> Result<Self, Unsuitable> {
        // SAFETY: by the caller's promise.
        let (mut this, text) = unsafe { Self::ask(base, MIN_API)? };
        // SAFETY: the slot exists since API 22.
        this.ep = unsafe { ((*this.api).GetEpApi)() }.cast();
        if this.ep.is_null() {
            let message = format!("ONNX Runtime {text} was built without plugin execution providers");
            return Err(Unsuitable::Told(this, Error::Unsupported(message)));
        }
        Ok(this)
    }

    /// As [`Api::negotiate`], for custom operators: nothing of the interface for providers is needed, or there.
    ///
    /// # Safety
    /// `base` is the pointer that the host passed to `RegisterCustomOps`.
    pub unsafe fn negotiate_for_operators(base: *const OrtApiBase) -> Result<Self, Unsuitable> {
        // SAFETY: by the caller's promise.
        unsafe { Self::ask(base, MIN_OPERATOR_API) }.map(|(this, _)| this)
    }

    /// # Safety
    /// `base` is the host's.
    unsafe fn ask(base: *const OrtApiBase, least: u32) -> Result<(Self, String), Unsuitable> {
        // SAFETY: valid by the caller's promise.
        let (text, get) = unsafe { (((*base).GetVersionString)(), (*base).GetApi) };
        let text = string(text);
        let minor: u32 = text.split('.').nth(1).and_then(|m| m.parse().ok()).unwrap_or(0);
        let version = minor.min(MAX_API);
        // SAFETY: `GetApi` takes any version and returns null for those that it does not have.
        let api = unsafe { get(version.max(1)) };
        if api.is_null() {
            return Err(Unsuitable::Silent);
        }
        let this = Self { api, ep: null(), version };
        if version < least {
            let message =
                format!("ONNX Runtime 1.{least} or newer is needed, this is {text}; upgrade onnxruntime");
            return Err(Unsuitable::Told(this, Error::Unsupported(message)));
        }
        Ok((this, text))
    }

    /// Whether both tables are of the same host.
    pub fn is_same_host(&self, other: &Self) -> bool {
        std::ptr::eq(self.api, other.api)
    }

    /// The negotiated version: the number for every `ort_version_supported`.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// A host status that carries `error`. Allocates.
    pub fn status(&self, error: &Error) -> OrtStatusPtr {
        let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
        // SAFETY: the message is copied before the call returns.
        unsafe { ((*self.api).CreateStatus)(error.code(), text.as_ptr()) }
    }

    /// Turns a status into an error and frees it.
    #[inline]
    fn check(&self, call: &'static str, status: OrtStatusPtr) -> Result<()> {
        if status.0.is_null() { Ok(()) } else { Err(self.failure(call, status)) }
    }

    #[cold]
    fn failure(&self, call: &'static str, status: OrtStatusPtr) -> Error {
        // SAFETY: the status is live until it is released here.
        unsafe {
            let message = string(((*self.api).GetErrorMessage)(status.0));
            ((*self.api).ReleaseStatus)(status.0);
            Error::Host { call, message }
        }
    }

    // ---- devices and options -------------------------------------------------------------------------------------------

    pub fn is_cpu(&self, device: &OrtHardwareDevice) -> bool {
        type Raw = unsafe extern "system" fn(*const OrtHardwareDevice) -> c_int;
        type Declared = unsafe extern "system" fn(*const OrtHardwareDevice) -> ort_sys::OrtHardwareDeviceType;
        // SAFETY: reading the enum as the integer that it is in C admits variants of newer hosts.
        unsafe { std::mem::transmute::<Declared, Raw>((*self.api).HardwareDevice_Type)(device) == 0 }
    }

    pub fn create_ep_device(
        &self,
        factory: *mut OrtEpFactory,
        device: &OrtHardwareDevice,
    ) -> Result<*mut OrtEpDevice> {
        let mut out = null_mut();
        // SAFETY: factory and device come from the host's call in progress; metadata and options may be null.
        let status = unsafe { ((*self.ep).CreateEpDevice)(factory, device, null(), null(), &mut out) };
        self.check("CreateEpDevice", status).map(|()| out)
    }

    /// All configuration entries of a session, copied.
    pub fn config_entries(&self, options: &OrtSessionOptions) -> Result<Vec<(String, String)>> {
        let mut pairs = null_mut();
        call!(self, GetSessionOptionsConfigEntries(options, &mut pairs))?;
        let (mut keys, mut values, mut count) = (null(), null(), 0);
        // SAFETY: `pairs` is live until released below; both arrays have `count` strings.
        unsafe {
            ((*self.api).GetKeyValuePairs)(pairs, &mut keys, &mut values, &mut count);
            let entries = (0..count).map(|i| (string(*keys.add(i)), string(*values.add(i)))).collect();
            ((*self.api).ReleaseKeyValuePairs)(pairs);
            Ok(entries)
        }
    }

    // ---- logging -------------------------------------------------------------------------------------------------------

    /// The least severe level that `logger` lets through, as an integer (0 verbose to 4 fatal).
    pub fn severity(&self, logger: &OrtLogger) -> i32 {
        let mut level: c_int = 2;
        match call!(self, Logger_GetLoggingSeverityLevel(logger, (&raw mut level).cast())) {
            Ok(()) => level,
            Err(_) => 2,
        }
    }

    pub fn log(&self, logger: &OrtLogger, level: OrtLoggingLevel, message: &CStr, line: u32, target: &CStr) {
        #[cfg(not(windows))]
        let file = c"engraft".as_ptr();
        #[cfg(windows)]
        let file = [101u16, 110, 103, 114, 97, 102, 116, 0].as_ptr();
        let line = c_int::try_from(line).unwrap_or(0);
        // A message that cannot be logged has nowhere to go.
        drop(call!(self, Logger_LogMessage(logger, level, message.as_ptr(), file, line, target.as_ptr())));
    }
}

/// Copies a C string of the host; null is the empty string.
pub fn string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: strings of the host end in zero and outlive the call that returned them.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn references<'a, T>(pointers: Vec<*const T>) -> Vec<Option<&'a T>> {
    // SAFETY: pointers to opaque, zero-sized handle types that the owner keeps alive for 'a, or null.
    pointers.into_iter().map(|p| unsafe { p.as_ref() }).collect()
}
