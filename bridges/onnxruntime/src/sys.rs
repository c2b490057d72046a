//! The C ABI of ONNX Runtime's plugin execution providers, as far as `ort-sys` does not declare it.
//!
//! Field order and signatures follow the public header `onnxruntime_ep_c_api.h` of API 23 to 31; members that Engraft never
//! calls or fills are [`Slot`]s, which keep the offsets. Every struct that Engraft fills is passed with `ort_version_supported`,
//! so an older host reads no further than the members it knows. The assertions at the end pin sizes and offsets.
#![allow(non_snake_case)]

use std::ffi::{c_char, c_int, c_void};

pub use ort_sys::{
    OrtAllocator, OrtApi, OrtApiBase, OrtEpDevice, OrtErrorCode, OrtGraph, OrtHardwareDevice,
    OrtKernelContext, OrtKeyValuePairs, OrtLogger, OrtLoggingLevel, OrtMemoryInfo, OrtNode, OrtOpAttr,
    OrtOpAttrType, OrtSessionOptions, OrtStatusPtr, OrtValue, OrtValueInfo, os_char,
};

/// The newest API that the declarations below were checked against.
pub const MAX_API: u32 = 31;
/// The oldest API with everything that the custom operator needs (`KernelContext_ParallelFor`).
pub const MIN_OPERATOR_API: u32 = 17;
/// The oldest API with `GetTensorData`.
pub const CONST_DATA_API: u32 = 23;
/// The oldest API with everything that the provider needs (`GetTensorElementTypeAndShapeDataReference`).
pub const MIN_API: u32 = 24;

/// A member that is neither called nor filled.
pub type Slot = Option<unsafe extern "system" fn()>;

macro_rules! opaque {
    ($($name:ident),* $(,)?) => { $(#[repr(C)] pub struct $name { _private: [u8; 0] })* };
}
opaque!(
    OrtEpGraphSupportInfo,
    OrtNodeComputeContext,
    OrtMemoryDevice,
    OrtSyncStreamImpl,
    OrtDataTransferImpl
);

/// `OrtEpApi`: the functions that a host offers to providers. Only the prefix that Engraft calls.
#[repr(C)]
pub struct EpApi {
    pub CreateEpDevice: unsafe extern "system" fn(
        *mut OrtEpFactory,
        *const OrtHardwareDevice,
        *const OrtKeyValuePairs,
        *const OrtKeyValuePairs,
        *mut *mut OrtEpDevice,
    ) -> OrtStatusPtr,
    pub ReleaseEpDevice: unsafe extern "system" fn(*mut OrtEpDevice),
    pub EpGraphSupportInfo_AddNodesToFuse: unsafe extern "system" fn(
        *mut OrtEpGraphSupportInfo,
        *const *const OrtNode,
        usize,
        *const OrtNodeFusionOptions,
    ) -> OrtStatusPtr,
    pub EpGraphSupportInfo_AddSingleNode: Slot,
    pub NodeComputeContext_NodeName: unsafe extern "system" fn(*const OrtNodeComputeContext) -> *const c_char,
}

#[repr(C)]
pub struct OrtNodeFusionOptions {
    pub ort_version_supported: u32,
    /// Constant initializers are no inputs of the fused node: the provider keeps what it needs of them.
    pub drop_constant_initializers: bool,
}

#[repr(C)]
pub struct OrtNodeComputeInfo {
    pub ort_version_supported: u32,
    pub CreateState: Option<
        unsafe extern "system" fn(
            *mut OrtNodeComputeInfo,
            *mut OrtNodeComputeContext,
            *mut *mut c_void,
        ) -> OrtStatusPtr,
    >,
    pub Compute: Option<
        unsafe extern "system" fn(
            *mut OrtNodeComputeInfo,
            *mut c_void,
            *mut OrtKernelContext,
        ) -> OrtStatusPtr,
    >,
    pub ReleaseState: Option<unsafe extern "system" fn(*mut OrtNodeComputeInfo, *mut c_void)>,
}

/// One provider instance: one session.
#[repr(C)]
pub struct OrtEp {
    pub ort_version_supported: u32,
    pub GetName: Option<unsafe extern "system" fn(*const OrtEp) -> *const c_char>,
    pub GetCapability: Option<
        unsafe extern "system" fn(*mut OrtEp, *const OrtGraph, *mut OrtEpGraphSupportInfo) -> OrtStatusPtr,
    >,
    pub Compile: Option<
        unsafe extern "system" fn(
            *mut OrtEp,
            *const *const OrtGraph,
            *const *const OrtNode,
            usize,
            *mut *mut OrtNodeComputeInfo,
            *mut *mut OrtNode,
        ) -> OrtStatusPtr,
    >,
    pub ReleaseNodeComputeInfos:
        Option<unsafe extern "system" fn(*mut OrtEp, *mut *mut OrtNodeComputeInfo, usize)>,
    pub GetPreferredDataLayout: Slot,
    pub ShouldConvertDataLayoutForOp: Slot,
    pub SetDynamicOptions: Option<
        unsafe extern "system" fn(
            *mut OrtEp,
            *const *const c_char,
            *const *const c_char,
            usize,
        ) -> OrtStatusPtr,
    >,
    pub OnRunStart: Slot,
    pub OnRunEnd: Slot,
    pub CreateAllocator: Slot,
    pub CreateSyncStreamForDevice: Slot,
    pub GetCompiledModelCompatibilityInfo:
        Option<unsafe extern "system" fn(*mut OrtEp, *const OrtGraph) -> *const c_char>,
    // 1.24
    pub GetKernelRegistry: Slot,
    pub IsConcurrentRunSupported: Option<unsafe extern "system" fn(*mut OrtEp, *mut bool) -> OrtStatusPtr>,
    // 1.25
    pub Sync: Slot,
    pub CreateProfiler: Slot,
    // 1.26
    pub IsGraphCaptureEnabled: Slot,
    pub IsGraphCaptured: Slot,
    pub ReplayGraph: Slot,
    pub GetGraphCaptureNodeAssignmentPolicy: Slot,
    pub GetAvailableResource: Slot,
    // 1.27
    pub OnSessionInitializationEnd: Option<unsafe extern "system" fn(*mut OrtEp) -> OrtStatusPtr>,
    pub GetDefaultMemoryDevice: Slot,
    pub ReleaseCapturedGraph: Slot,
    // 1.29
    pub GetWeightlessSupport: Slot,
}

/// What `CreateEpFactories` hands out: one per registration of the library.
#[repr(C)]
pub struct OrtEpFactory {
    pub ort_version_supported: u32,
    pub GetName: Option<unsafe extern "system" fn(*const OrtEpFactory) -> *const c_char>,
    pub GetVendor: Option<unsafe extern "system" fn(*const OrtEpFactory) -> *const c_char>,
    pub GetSupportedDevices: Option<
        unsafe extern "system" fn(
            *mut OrtEpFactory,
            *const *const OrtHardwareDevice,
            usize,
            *mut *mut OrtEpDevice,
            usize,
            *mut usize,
        ) -> OrtStatusPtr,
    >,
    pub CreateEp: Option<
        unsafe extern "system" fn(
            *mut OrtEpFactory,
            *const *const OrtHardwareDevice,
            *const *const OrtKeyValuePairs,
            usize,
            *const OrtSessionOptions,
            *const OrtLogger,
            *mut *mut OrtEp,
        ) -> OrtStatusPtr,
    >,
    pub ReleaseEp: Option<unsafe extern "system" fn(*mut OrtEpFactory, *mut OrtEp)>,
    pub GetVendorId: Option<unsafe extern "system" fn(*const OrtEpFactory) -> u32>,
    pub GetVersion: Option<unsafe extern "system" fn(*const OrtEpFactory) -> *const c_char>,
    pub ValidateCompiledModelCompatibilityInfo: Option<
        unsafe extern "system" fn(
            *mut OrtEpFactory,
            *const *const OrtHardwareDevice,
            usize,
            *const c_char,
            *mut c_int,
        ) -> OrtStatusPtr,
    >,
    pub CreateAllocator: Option<
        unsafe extern "system" fn(
            *mut OrtEpFactory,
            *const OrtMemoryInfo,
            *const OrtKeyValuePairs,
            *mut *mut OrtAllocator,
        ) -> OrtStatusPtr,
    >,
    pub ReleaseAllocator: Option<unsafe extern "system" fn(*mut OrtEpFactory, *mut OrtAllocator)>,
    pub CreateDataTransfer:
        Option<unsafe extern "system" fn(*mut OrtEpFactory, *mut *mut OrtDataTransferImpl) -> OrtStatusPtr>,
    pub IsStreamAware: Option<unsafe extern "system" fn(*const OrtEpFactory) -> bool>,
    pub CreateSyncStreamForDevice: Option<
        unsafe extern "system" fn(
            *mut OrtEpFactory,
            *const OrtMemoryDevice,
            *const OrtKeyValuePairs,
            *mut *mut OrtSyncStreamImpl,
        ) -> OrtStatusPtr,
    >,
    // 1.24
    pub GetHardwareDeviceIncompatibilityDetails: Slot,
    pub CreateExternalResourceImporterForDevice: Slot,
    pub GetNumCustomOpDomains: Slot,
    pub GetCustomOpDomains: Slot,
    // 1.25
    pub InitGraphicsInterop: Slot,
    pub DeinitGraphicsInterop: Slot,
    // 1.28
    pub SelectBestModelCandidate: Slot,
}

/// `OrtCompiledModelCompatibility`.
pub const COMPATIBILITY_NOT_APPLICABLE: c_int = 0;
pub const COMPATIBILITY_OPTIMAL: c_int = 1;
pub const COMPATIBILITY_PREFER_RECOMPILATION: c_int = 2;
pub const COMPATIBILITY_UNSUPPORTED: c_int = 3;

/// Offsets as the C compiler of a 64-bit host lays the structs out: a 4-byte version, padding, then pointers.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<EpApi>() == 5 * 8);
    assert!(offset_of!(EpApi, EpGraphSupportInfo_AddNodesToFuse) == 2 * 8);
    assert!(offset_of!(EpApi, NodeComputeContext_NodeName) == 4 * 8);
    assert!(size_of::<OrtNodeFusionOptions>() == 8);
    assert!(offset_of!(OrtNodeFusionOptions, drop_constant_initializers) == 4);
    assert!(size_of::<OrtNodeComputeInfo>() == 4 * 8);
    assert!(size_of::<OrtEp>() == 26 * 8);
    assert!(offset_of!(OrtEp, Compile) == 3 * 8);
    assert!(offset_of!(OrtEp, SetDynamicOptions) == 7 * 8);
    assert!(offset_of!(OrtEp, GetKernelRegistry) == 13 * 8);
    assert!(offset_of!(OrtEp, OnSessionInitializationEnd) == 22 * 8);
    assert!(size_of::<OrtEpFactory>() == 21 * 8);
    assert!(offset_of!(OrtEpFactory, CreateEp) == 4 * 8);
    assert!(offset_of!(OrtEpFactory, IsStreamAware) == 12 * 8);
    assert!(size_of::<OrtStatusPtr>() == 8);
};
