//! The factory: what a host gets when it registers the library, and where sessions get their provider instance from.
use std::{
    ffi::{CStr, c_char, c_int},
    ptr::null_mut,
};

use engraft::LogLevel;

use crate::{
    EP_NAME,
    api::{Api, Unsuitable, string},
    context::{self, Compatibility},
    ep::Ep,
    error::{Error, Result},
    guard::{guard, quiet},
    logger::{self, Sink},
    sys::*,
};

const VENDOR: &CStr = c"Engraft";
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("the version holds a zero byte"),
};

#[repr(C)]
struct Factory {
    base: OrtEpFactory,
    api: Api,
    sink: *mut Sink,
}

/// Entry point of the plugin interface.
///
/// # Safety
/// Called by ONNX Runtime with valid pointers; may be called any number of times.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn CreateEpFactories(
    _registration: *const c_char,
    base: *const OrtApiBase,
    default_logger: *const OrtLogger,
    factories: *mut *mut OrtEpFactory,
    max_factories: usize,
    num_factories: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: `base` is the host's.
    let api = match unsafe { Api::negotiate(base) } {
        Ok(api) => api,
        Err(Unsuitable::Silent) => return OrtStatusPtr(null_mut()),
        Err(Unsuitable::Told(api, error)) => return api.status(&error),
    };
    guard(api, "CreateEpFactories", || {
        if max_factories < 1 {
            return Err(Error::contract("the host has no room for a factory"));
        }
        let sink = logger::install(Sink::new(api, default_logger, LogLevel::Info));
        let factory = Box::new(Factory { base: table(api.version()), api, sink });
        // SAFETY: out-parameters of the call in progress, with room for one factory.
        unsafe {
            *factories = Box::into_raw(factory).cast();
            *num_factories = 1;
        }
        tracing::debug!(
            version = engraft::VERSION,
            commit = engraft::COMMIT,
            api = api.version(),
            "registered"
        );
        Ok(())
    })
}

/// Entry point of the plugin interface.
///
/// # Safety
/// `factory` comes from [`CreateEpFactories`] and is released once.
#[unsafe(no_mangle)]
pub unsafe extern "system" fn ReleaseEpFactory(factory: *mut OrtEpFactory) -> OrtStatusPtr {
    quiet("ReleaseEpFactory", || {
        if !factory.is_null() {
            // SAFETY: made by `Box::into_raw` in `CreateEpFactories`.
            let factory = unsafe { Box::from_raw(factory.cast::<Factory>()) };
            logger::uninstall(factory.sink);
        }
    });
    OrtStatusPtr(null_mut())
}

fn table(version: u32) -> OrtEpFactory {
    OrtEpFactory {
        ort_version_supported: version,
        GetName: Some(get_name),
        GetVendor: Some(get_vendor),
        GetSupportedDevices: Some(get_supported_devices),
        CreateEp: Some(create_ep),
        ReleaseEp: Some(release_ep),
        GetVendorId: Some(get_vendor_id),
        GetVersion: Some(get_version),
        ValidateCompiledModelCompatibilityInfo: Some(validate_compiled_model),
        CreateAllocator: Some(create_allocator),
        ReleaseAllocator: Some(release_allocator),
        CreateDataTransfer: Some(create_data_transfer),
        IsStreamAware: Some(is_stream_aware),
        CreateSyncStreamForDevice: None,
        GetHardwareDeviceIncompatibilityDetails: None,
        CreateExternalResourceImporterForDevice: None,
        GetNumCustomOpDomains: None,
        GetCustomOpDomains: None,
        InitGraphicsInterop: None,
        DeinitGraphicsInterop: None,
        SelectBestModelCandidate: None,
    }
}

/// The factory behind the host's pointer.
///
/// # Safety
/// `this` comes from [`CreateEpFactories`] and is alive.
unsafe fn factory<'a>(this: *mut OrtEpFactory) -> &'a Factory {
    // SAFETY: `Factory` starts with the table that the host points to.
    unsafe { &*this.cast::<Factory>() }
}

unsafe extern "system" fn get_name(_: *const OrtEpFactory) -> *const c_char {
    EP_NAME.as_ptr()
}

unsafe extern "system" fn get_vendor(_: *const OrtEpFactory) -> *const c_char {
    VENDOR.as_ptr()
}

unsafe extern "system" fn get_vendor_id(_: *const OrtEpFactory) -> u32 {
    0
}

unsafe extern "system" fn get_version(_: *const OrtEpFactory) -> *const c_char {
    VERSION.as_ptr()
}

/// One provider device: the machine's CPU.
unsafe extern "system" fn get_supported_devices(
    this: *mut OrtEpFactory,
    devices: *const *const OrtHardwareDevice,
    num_devices: usize,
    ep_devices: *mut *mut OrtEpDevice,
    max_ep_devices: usize,
    num_ep_devices: *mut usize,
) -> OrtStatusPtr {
    // SAFETY: the host's pointer to a live factory.
    let api = unsafe { factory(this) }.api;
    guard(api, "GetSupportedDevices", || {
        // SAFETY: out-parameter of the call in progress.
        unsafe { *num_ep_devices = 0 };
        for i in 0..num_devices {
            // SAFETY: `devices` has `num_devices` entries.
            let Some(device) = (unsafe { (*devices.add(i)).as_ref() }) else { continue };
            if api.is_cpu(device) && max_ep_devices > 0 {
                let created = api.create_ep_device(this, device)?;
                // SAFETY: room for `max_ep_devices` entries.
                unsafe {
                    *ep_devices = created;
                    *num_ep_devices = 1;
                }
                break;
            }
        }
        Ok(())
    })
}

unsafe extern "system" fn create_ep(
    this: *mut OrtEpFactory,
    _devices: *const *const OrtHardwareDevice,
    _metadata: *const *const OrtKeyValuePairs,
    num_devices: usize,
    session_options: *const OrtSessionOptions,
    session_logger: *const OrtLogger,
    ep: *mut *mut OrtEp,
) -> OrtStatusPtr {
    // SAFETY: the host's pointer to a live factory.
    let api = unsafe { factory(this) }.api;
    guard(api, "CreateEp", || {
        if num_devices != 1 {
            return Err(Error::contract(format!("one device expected, {num_devices} given")));
        }
        // SAFETY: valid during this call; nothing of it is kept.
        let session_options = unsafe { session_options.as_ref() };
        let session_options = session_options.ok_or_else(|| Error::contract("no session options given"))?;
        let config: Vec<(String, String)> = api.config_entries(session_options)?;
        let created = Ep::create(api, &config, session_logger)?;
        // SAFETY: out-parameter of the call in progress.
        unsafe { *ep = created };
        Ok(())
    })
}

unsafe extern "system" fn release_ep(_: *mut OrtEpFactory, ep: *mut OrtEp) {
    // SAFETY: made by `Ep::create`, released once.
    quiet("ReleaseEp", || unsafe { Ep::release(ep) });
}

/// Judges a compiled model by the line that [`context::compatibility`] put into its metadata.
unsafe extern "system" fn validate_compiled_model(
    this: *mut OrtEpFactory,
    _devices: *const *const OrtHardwareDevice,
    _num_devices: usize,
    info: *const c_char,
    compatibility: *mut c_int,
) -> OrtStatusPtr {
    // SAFETY: the host's pointer to a live factory.
    let api = unsafe { factory(this) }.api;
    guard(api, "ValidateCompiledModelCompatibilityInfo", || {
        let verdict = match context::judge(&string(info)) {
            Compatibility::Foreign => COMPATIBILITY_NOT_APPLICABLE,
            Compatibility::Optimal => COMPATIBILITY_OPTIMAL,
            Compatibility::Tuned => COMPATIBILITY_PREFER_RECOMPILATION,
            Compatibility::Unsupported => COMPATIBILITY_UNSUPPORTED,
        };
        // SAFETY: out-parameter of the call in progress.
        unsafe { *compatibility = verdict };
        Ok(())
    })
}

/// No memory of its own: the host's CPU allocator serves.
unsafe extern "system" fn create_allocator(
    _: *mut OrtEpFactory,
    _info: *const OrtMemoryInfo,
    _options: *const OrtKeyValuePairs,
    allocator: *mut *mut OrtAllocator,
) -> OrtStatusPtr {
    // SAFETY: out-parameter of the call in progress.
    unsafe { *allocator = null_mut() };
    OrtStatusPtr(null_mut())
}

unsafe extern "system" fn release_allocator(_: *mut OrtEpFactory, _: *mut OrtAllocator) {}

unsafe extern "system" fn create_data_transfer(
    _: *mut OrtEpFactory,
    transfer: *mut *mut OrtDataTransferImpl,
) -> OrtStatusPtr {
    // SAFETY: out-parameter of the call in progress.
    unsafe { *transfer = null_mut() };
    OrtStatusPtr(null_mut())
}

unsafe extern "system" fn is_stream_aware(_: *const OrtEpFactory) -> bool {
    false
}

/// What names of the provider's options begin with in a session's configuration.
pub fn option_prefix() -> String {
    format!("ep.{}.", crate::EP_NAME_TEXT.to_ascii_lowercase())
}

/// The provider's options of a session's configuration.
pub fn options(config: &[(String, String)]) -> Result<engraft::Options> {
    let prefix = option_prefix();
    let mine = config.iter().filter_map(|(k, v)| Some((k.strip_prefix(&prefix)?, v.as_str())));
    Ok(engraft::Options::parse(mine)?)
}
