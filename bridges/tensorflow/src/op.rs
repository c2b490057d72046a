//! The operator `EngraftSegment`: its definition and the registration of its kernels.
use std::ffi::CString;

use crate::{
    api::{self, Status},
    error::Result,
    kernel,
    sys::*,
};

/// The operator's name.
pub const NAME: &str = engraft::tensorflow::SEGMENT_OP;

/// The attributes. A node takes what a segment reads and gives what it writes; see `engraft::tensorflow` for what they hold.
const ATTRIBUTES: [&str; 8] = [
    "Tin: list(type) >= 0",
    "Tout: list(type) >= 1",
    // The network, its weights and options.
    "segment: string",
    // The original nodes, run where no engine can: a function, or nothing.
    "native: list(func) >= 0 = []",
    // The same, where the graph has no functions of ours: a `FunctionDefLibrary` of the function and all that it calls.
    "native_library: string = ''",
    // Inputs that are variables: packed when they are seen first, and again when they have changed.
    "weights: list(int) >= 0 = []",
    // The input that names a file, a `NodeDef` with `segment` and `native_library`, where they are too large for a graph; -1: none.
    // It is the last.
    "asset: int = -1",
    // Whether the engine may be built at run time; else it has to be in the plan cache.
    "allow_build: bool = true",
];

/// Registers the operator and its kernel with the process's TensorFlow.
pub fn register() -> Result<()> {
    let tf = api::connect()?;
    let status = Status::new();
    let name = CString::new(NAME).unwrap_or_default();
    let text = |text: &str| CString::new(text).unwrap_or_default();
    // SAFETY: C strings, of which TensorFlow takes copies; registration takes the builders over.
    unsafe {
        let definition = (tf.TF_NewOpDefinitionBuilder)(name.as_ptr());
        for attribute in ATTRIBUTES {
            (tf.TF_OpDefinitionBuilderAddAttr)(definition, text(attribute).as_ptr());
        }
        (tf.TF_OpDefinitionBuilderAddInput)(definition, c"inputs: Tin".as_ptr());
        (tf.TF_OpDefinitionBuilderAddOutput)(definition, c"outputs: Tout".as_ptr());
        (tf.TF_OpDefinitionBuilderSetShapeInferenceFunction)(definition, Some(shapes));
        (tf.TF_RegisterOpDefinition)(definition, status.pointer());
        status.check()?;
        let kernel = (tf.TF_NewKernelBuilder)(
            name.as_ptr(),
            c"CPU".as_ptr(),
            Some(kernel::create),
            Some(kernel::compute),
            Some(kernel::delete),
        );
        (tf.TF_RegisterKernelBuilder)(name.as_ptr(), kernel, status.pointer());
    }
    status.check()
}

/// Shapes are the engine's to find out: the C interface shows neither the attributes nor a way to make shapes.
unsafe extern "C" fn shapes(context: *mut TF_ShapeInferenceContext, status: *mut TF_Status) {
    // SAFETY: those of the call in progress.
    unsafe { (api::tf().TF_ShapeInferenceContextSetUnknownShape)(context, status) }
}
