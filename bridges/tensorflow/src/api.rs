//! TensorFlow's C functions with Rust's ownership: statuses, buffers, tensors, and the contexts of kernels.
use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr::null_mut,
    sync::OnceLock,
};

use engraft::DType;
use engraft::tensorflow::{dtype_of, number_of};

use crate::{
    error::{Error, Result},
    sys::*,
};

/// The oldest TensorFlow, as major and minor version.
const LEAST_VERSION: (u32, u32) = (2, 18);

/// `TF_Version`, which is asked before there is a table of functions.
type VersionFunction = unsafe extern "C" fn() -> *const c_char;

static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();

/// TensorFlow's functions in this process. Error: why there are none that can be used.
pub fn connect() -> Result<&'static Functions> {
    FUNCTIONS.get_or_init(find).as_ref().map_err(|reason| Error::Unavailable(reason.clone()))
}

/// TensorFlow's functions, for code that TensorFlow calls: what it calls was registered through them.
pub fn tf() -> &'static Functions {
    match connect() {
        Ok(functions) => functions,
        Err(error) => unreachable!("called without TensorFlow: {error}"),
    }
}

fn find() -> Result<Functions, String> {
    // Where TensorFlow's libraries are not in the global scope, they are still in the process.
    let libraries = [c"libtensorflow_framework.so.2", c"libtensorflow_cc.so.2"];
    let handles = libraries.map(|name| {
        // SAFETY: a C string; a library that is not loaded is not loaded now either.
        unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) }
    });
    let find = |name: &CStr| {
        let scopes = [libc::RTLD_DEFAULT].into_iter().chain(handles.into_iter().filter(|h| !h.is_null()));
        // SAFETY: open handles and C strings.
        scopes
            .map(|scope| unsafe { libc::dlsym(scope, name.as_ptr()) })
            .find(|a| !a.is_null())
            .unwrap_or(null_mut())
    };
    let version = find(c"TF_Version");
    if version.is_null() {
        return Err(
            "TensorFlow is not loaded in this process: import tensorflow before Engraft's library is loaded"
                .into(),
        );
    }
    // SAFETY: TensorFlow's function of this name and the header's signature, which gives a static C string.
    let version = unsafe {
        let version = std::mem::transmute::<*mut c_void, VersionFunction>(version);
        CStr::from_ptr(version()).to_string_lossy().into_owned()
    };
    let (major, minor) = LEAST_VERSION;
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(major), Some(minor)) {
        return Err(format!("Engraft needs TensorFlow {major}.{minor} or later, this is {version}"));
    }
    // SAFETY: the process's TensorFlow defines these names.
    unsafe { Functions::find(find) }.map_err(|name| format!("TensorFlow {version} has no function {name}"))
}

/// A status of TensorFlow's.
pub struct Status(*mut TF_Status);

impl Status {
    pub fn new() -> Self {
        // SAFETY: no preconditions.
        Self(unsafe { (tf().TF_NewStatus)() })
    }

    pub fn pointer(&self) -> *mut TF_Status {
        self.0
    }

    /// What the last call that was given this status left in it.
    pub fn check(&self) -> Result<()> {
        // SAFETY: a live status; its message is a C string.
        unsafe {
            let code = (tf().TF_GetCode)(self.0);
            if code == TF_OK {
                return Ok(());
            }
            let message = CStr::from_ptr((tf().TF_Message)(self.0)).to_string_lossy().into_owned();
            Err(Error::Host { code, message })
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        // SAFETY: made by `new`, deleted once.
        unsafe { (tf().TF_DeleteStatus)(self.0) }
    }
}

/// Puts an error into a status of TensorFlow's.
///
/// # Safety
/// `status` is alive.
pub unsafe fn set_status(status: *mut TF_Status, code: TF_Code, message: &str) {
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    // SAFETY: alive, and TensorFlow copies the message.
    unsafe { (tf().TF_SetStatus)(status, code, message.as_ptr()) }
}

/// Bytes of TensorFlow's.
pub struct Buffer(*mut TF_Buffer);

impl Buffer {
    pub fn empty() -> Self {
        // SAFETY: no preconditions.
        Self(unsafe { (tf().TF_NewBuffer)() })
    }

    pub fn copy_of(bytes: &[u8]) -> Self {
        // SAFETY: TensorFlow copies the bytes.
        Self(unsafe { (tf().TF_NewBufferFromString)(bytes.as_ptr().cast(), bytes.len()) })
    }

    /// Takes over a buffer.
    ///
    /// # Safety
    /// `buffer` is null or alive, and nobody else deletes it.
    pub unsafe fn own(buffer: *mut TF_Buffer) -> Self {
        Self(buffer)
    }

    pub fn pointer(&self) -> *mut TF_Buffer {
        self.0
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: null or alive.
        unsafe { self.0.as_ref() }.map_or(&[], |buffer| bytes_of(buffer))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: owned.
            unsafe { (tf().TF_DeleteBuffer)(self.0) }
        }
    }
}

/// The bytes of a buffer that lives as long as the reference.
pub fn bytes_of(buffer: &TF_Buffer) -> &[u8] {
    if buffer.data.is_null() || buffer.length == 0 {
        return &[];
    }
    // SAFETY: a live buffer holds `length` bytes.
    unsafe { std::slice::from_raw_parts(buffer.data.cast(), buffer.length) }
}

/// A reference to a tensor of TensorFlow's: its memory stays as it is while it is held.
pub struct Tensor(*mut TF_Tensor);

// SAFETY: TensorFlow's reference counts are atomic, and a tensor is only read here.
unsafe impl Send for Tensor {}
// SAFETY: as above.
unsafe impl Sync for Tensor {}

impl Tensor {
    /// Takes over a tensor.
    ///
    /// # Safety
    /// `tensor` is alive, and nobody else deletes it.
    pub unsafe fn own(tensor: *mut TF_Tensor) -> Self {
        Self(tensor)
    }

    pub fn pointer(&self) -> *mut TF_Tensor {
        self.0
    }

    pub fn element(&self) -> TF_DataType {
        // SAFETY: alive.
        unsafe { (tf().TF_TensorType)(self.0) }
    }

    pub fn rank(&self) -> usize {
        // SAFETY: alive.
        usize::try_from(unsafe { (tf().TF_NumDims)(self.0) }).unwrap_or(0)
    }

    pub fn dim(&self, index: usize) -> usize {
        // SAFETY: alive; TensorFlow checks the index. Run-time sizes are never negative.
        usize::try_from(unsafe { (tf().TF_Dim)(self.0, index as c_int) }).unwrap_or(0)
    }

    pub fn byte_size(&self) -> usize {
        // SAFETY: alive.
        unsafe { (tf().TF_TensorByteSize)(self.0) }
    }

    /// The first element of a tensor of texts.
    pub fn text(&self) -> Option<&[u8]> {
        if self.element() != TF_STRING || self.byte_size() < size_of::<TF_TString_Large>() {
            return None;
        }
        let text = self.data();
        // SAFETY: the first element of the tensor, which holds it and what it points to. The kind, in the lowest two bits, says
        // which of the header's layouts it has; sizes stand above the kind.
        unsafe {
            let (kind, large) = (*text & 3, &*text.cast::<TF_TString_Large>());
            let (start, size) = match kind {
                0 => (text.add(1).cast_const(), usize::from(*text >> 2)),
                1 => (large.ptr.cast_const().cast(), large.size >> 2),
                2 => {
                    let offset = &*text.cast::<TF_TString_Offset>();
                    (text.add(offset.offset as usize).cast_const(), (offset.size >> 2) as usize)
                }
                _ => ((*text.cast::<TF_TString_View>()).ptr.cast(), large.size >> 2),
            };
            Some(std::slice::from_raw_parts(start, size))
        }
    }

    /// Null for some tensors without elements.
    pub fn data(&self) -> *mut u8 {
        // SAFETY: alive.
        unsafe { (tf().TF_TensorData)(self.0) }.cast()
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: owned.
        unsafe { (tf().TF_DeleteTensor)(self.0) }
    }
}

/// The context of a kernel's call.
#[derive(Clone, Copy)]
pub struct Context(*mut TF_OpKernelContext);

impl Context {
    /// # Safety
    /// `context` is that of the call in progress, and outlives the copies of this value.
    pub unsafe fn new(context: *mut TF_OpKernelContext) -> Self {
        Self(context)
    }

    pub fn inputs(self) -> usize {
        // SAFETY: alive.
        usize::try_from(unsafe { (tf().TF_NumInputs)(self.0) }).unwrap_or(0)
    }

    pub fn input(self, index: usize, status: &Status) -> Result<Tensor> {
        let mut tensor = null_mut();
        // SAFETY: alive; TensorFlow checks the index.
        unsafe { (tf().TF_GetInput)(self.0, index as c_int, &mut tensor, status.pointer()) };
        status.check()?;
        // SAFETY: a new reference of ours.
        Ok(unsafe { Tensor::own(tensor) })
    }

    pub fn allocate_output(
        self,
        index: usize,
        element: TF_DataType,
        shape: &[usize],
        bytes: usize,
        status: &Status,
    ) -> Result<Tensor> {
        // SAFETY: sizes of real tensors fit 63 bits, so that both types read them alike.
        let dims: &[i64] = unsafe { std::slice::from_raw_parts(shape.as_ptr().cast(), shape.len()) };
        let (dims, rank) = (dims.as_ptr(), dims.len() as c_int);
        // SAFETY: alive, and TensorFlow copies the dims.
        let tensor = unsafe {
            (tf().TF_AllocateOutput)(self.0, index as c_int, element, dims, rank, bytes, status.pointer())
        };
        status.check()?;
        // SAFETY: a new reference of ours.
        Ok(unsafe { Tensor::own(tensor) })
    }

    pub fn set_output(self, index: usize, tensor: &Tensor, status: &Status) -> Result<()> {
        // SAFETY: alive, and TensorFlow takes a reference of its own.
        unsafe { (tf().TF_SetOutput)(self.0, index as c_int, tensor.pointer(), status.pointer()) };
        status.check()
    }

    pub fn fail(self, error: &Error, message: &str) {
        let status = Status::new();
        // SAFETY: both alive.
        unsafe {
            set_status(status.pointer(), error.code(), message);
            (tf().TF_OpKernelContext_Failure)(self.0, status.pointer());
        }
    }

    /// Version of the graph's producer.
    pub fn graph_version(self) -> i32 {
        // SAFETY: alive.
        unsafe { (tf().TF_GetGraphDefVersion)(self.0) }
    }

    /// The functions that the kernel's graph can call: a serialized `FunctionDefLibrary`.
    pub fn function_library(self, status: &Status) -> Result<Buffer> {
        let library = Buffer::empty();
        // SAFETY: all alive.
        unsafe { (tf().TF_GetSerializedFunctionDefLibrary)(self.0, library.pointer(), status.pointer()) };
        status.check()?;
        Ok(library)
    }

    /// The `ConfigProto` under which the kernel runs. Error: its host keeps none.
    pub fn config(self, status: &Status) -> Result<Buffer> {
        let config = Buffer::empty();
        // SAFETY: all alive.
        unsafe { (tf().TF_GetSerializedConfigProto)(self.0, config.pointer(), status.pointer()) };
        status.check()?;
        Ok(config)
    }
}

/// Element types that the engine knows, by TensorFlow's number.
pub fn dtype(element: TF_DataType) -> Option<DType> {
    i32::try_from(element).ok().and_then(dtype_of)
}

/// TensorFlow's number of an element type.
pub fn element(dtype: DType) -> Option<TF_DataType> {
    number_of(dtype).and_then(|number| number.try_into().ok())
}
