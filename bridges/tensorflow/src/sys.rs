//! The C ABI of TensorFlow, as far as Engraft calls it: TensorFlow 2.18 to 2.21.
//!
//! Names and signatures are those of the public headers below `tensorflow/c/` (`c_api.h`, `ops.h`, `kernels.h`, `tf_tensor.h`,
//! `tf_status.h`, `tf_buffer.h`, `experimental/grappler/grappler.h`); `tests/tensorflow/test_headers.py` compares every line with
//! the headers of the installed wheel. Nothing is linked: [`Functions::find`] asks the process for the symbols, so that the
//! library can say what is wrong where TensorFlow is missing or too old.
#![allow(non_snake_case, non_camel_case_types)]

use std::ffi::{CStr, c_char, c_int, c_uchar, c_void};

macro_rules! opaque {
    ($($name:ident),* $(,)?) => { $(#[repr(C)] pub struct $name { _private: [u8; 0] })* };
}
opaque!(
    TF_GrapplerItem,
    TF_Graph,
    TF_GraphProperties,
    TF_ImportGraphDefOptions,
    TF_KernelBuilder,
    TF_OpDefinitionBuilder,
    TF_OpKernelConstruction,
    TF_OpKernelContext,
    TF_Operation,
    TF_Session,
    TF_SessionOptions,
    TF_ShapeInferenceContext,
    TF_Status,
    TF_Tensor,
);

/// `TF_DataType`, an enum of C.
pub type TF_DataType = u32;
/// `TF_Code`, an enum of C.
pub type TF_Code = u32;
/// `TF_Bool`.
pub type TF_Bool = c_uchar;

pub const TF_OK: TF_Code = 0;
pub const TF_INVALID_ARGUMENT: TF_Code = 3;
pub const TF_FAILED_PRECONDITION: TF_Code = 9;
pub const TF_INTERNAL: TF_Code = 13;

#[repr(C)]
pub struct TF_Buffer {
    pub data: *const c_void,
    pub length: usize,
    pub data_deallocator: Option<unsafe extern "C" fn(data: *mut c_void, length: usize)>,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct TF_Output {
    pub oper: *mut TF_Operation,
    pub index: c_int,
}

/// `TF_DataType` of texts, whose elements are one of these structs, or a size of one byte and up to 22 bytes of text.
pub const TF_STRING: TF_DataType = 7;

#[repr(C)]
pub struct TF_TString_Large {
    pub size: usize,
    pub cap: usize,
    pub ptr: *mut c_char,
}

#[repr(C)]
pub struct TF_TString_Offset {
    pub size: u32,
    pub offset: u32,
    pub count: u32,
}

/// Without its last member, which the oldest version does not have.
#[repr(C)]
pub struct TF_TString_View {
    pub size: usize,
    pub ptr: *const c_char,
}

/// `TF_TriState`, an enum of C: 0 leaves an optimizer as it is.
pub type TF_TriState = u32;

#[repr(C)]
pub struct TP_OptimizerConfigs {
    pub struct_size: usize,
    pub ext: *mut c_void,
    pub disable_model_pruning: TF_TriState,
    pub implementation_selector: TF_TriState,
    pub function_optimization: TF_TriState,
    pub common_subgraph_elimination: TF_TriState,
    pub arithmetic_optimization: TF_TriState,
    pub debug_stripper: TF_TriState,
    pub constant_folding: TF_TriState,
    pub shape_optimization: TF_TriState,
    pub auto_mixed_precision: TF_TriState,
    pub auto_mixed_precision_onednn_bfloat16: TF_TriState,
    pub auto_mixed_precision_mkl: TF_TriState,
    pub pin_to_host_optimization: TF_TriState,
    pub layout_optimizer: TF_TriState,
    pub remapping: TF_TriState,
    pub loop_optimization: TF_TriState,
    pub dependency_optimization: TF_TriState,
    pub auto_parallel: TF_TriState,
    pub memory_optimization: TF_TriState,
    pub scoped_allocator_optimization: TF_TriState,
}

#[repr(C)]
pub struct TP_Optimizer {
    pub struct_size: usize,
    pub ext: *mut c_void,
    pub create_func: Option<unsafe extern "C" fn() -> *mut c_void>,
    pub optimize_func: Option<
        unsafe extern "C" fn(
            *mut c_void,
            *const TF_Buffer,
            *const TF_GrapplerItem,
            *mut TF_Buffer,
            *mut TF_Status,
        ),
    >,
    pub destroy_func: Option<unsafe extern "C" fn(*mut c_void)>,
}

#[repr(C)]
pub struct TP_OptimizerRegistrationParams {
    pub struct_size: usize,
    pub ext: *mut c_void,
    pub major_version: i32,
    pub minor_version: i32,
    pub patch_version: i32,
    pub device_type: *const c_char,
    pub optimizer_configs: *mut TP_OptimizerConfigs,
    pub optimizer: *mut TP_Optimizer,
}

/// Declares the functions as the members of [`Functions`], found by their names.
macro_rules! functions {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        /// Every function of TensorFlow that Engraft calls.
        pub struct Functions {
            $(pub $name: unsafe extern "C" fn($($argument: $type),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Takes each function's address from `find`. Error: the first name that it does not know.
            ///
            /// # Safety
            /// What `find` gives for a name is TensorFlow's function of that name.
            pub unsafe fn find(find: impl Fn(&CStr) -> *mut c_void) -> Result<Functions, &'static str> {
                Ok(Functions { $($name: {
                    const NAME: &str = concat!(stringify!($name), "\0");
                    let name = CStr::from_bytes_with_nul(NAME.as_bytes()).map_err(|_| NAME)?;
                    let address = find(name);
                    if address.is_null() {
                        return Err(stringify!($name));
                    }
                    // SAFETY: a function of this name, by the caller's promise; the signature is the header's.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) $(-> $result)?>(address) }
                },)* })
            }
        }
    };
}

functions! {
    fn TF_NewStatus() -> *mut TF_Status;
    fn TF_DeleteStatus(status: *mut TF_Status);
    fn TF_SetStatus(status: *mut TF_Status, code: TF_Code, message: *const c_char);
    fn TF_GetCode(status: *const TF_Status) -> TF_Code;
    fn TF_Message(status: *const TF_Status) -> *const c_char;

    fn TF_NewBuffer() -> *mut TF_Buffer;
    fn TF_NewBufferFromString(proto: *const c_void, length: usize) -> *mut TF_Buffer;
    fn TF_DeleteBuffer(buffer: *mut TF_Buffer);

    fn TF_DeleteTensor(tensor: *mut TF_Tensor);
    fn TF_TensorType(tensor: *const TF_Tensor) -> TF_DataType;
    fn TF_NumDims(tensor: *const TF_Tensor) -> c_int;
    fn TF_Dim(tensor: *const TF_Tensor, index: c_int) -> i64;
    fn TF_TensorByteSize(tensor: *const TF_Tensor) -> usize;
    fn TF_TensorData(tensor: *const TF_Tensor) -> *mut c_void;

    fn TF_NewOpDefinitionBuilder(name: *const c_char) -> *mut TF_OpDefinitionBuilder;
    fn TF_OpDefinitionBuilderAddAttr(builder: *mut TF_OpDefinitionBuilder, spec: *const c_char);
    fn TF_OpDefinitionBuilderAddInput(builder: *mut TF_OpDefinitionBuilder, spec: *const c_char);
    fn TF_OpDefinitionBuilderAddOutput(builder: *mut TF_OpDefinitionBuilder, spec: *const c_char);
    fn TF_OpDefinitionBuilderSetShapeInferenceFunction(
        builder: *mut TF_OpDefinitionBuilder,
        function: Option<unsafe extern "C" fn(*mut TF_ShapeInferenceContext, *mut TF_Status)>,
    );
    fn TF_RegisterOpDefinition(builder: *mut TF_OpDefinitionBuilder, status: *mut TF_Status);
    fn TF_ShapeInferenceContextSetUnknownShape(context: *mut TF_ShapeInferenceContext, status: *mut TF_Status);

    fn TF_NewKernelBuilder(
        op: *const c_char,
        device: *const c_char,
        create: Option<unsafe extern "C" fn(*mut TF_OpKernelConstruction) -> *mut c_void>,
        compute: Option<unsafe extern "C" fn(*mut c_void, *mut TF_OpKernelContext)>,
        delete: Option<unsafe extern "C" fn(*mut c_void)>,
    ) -> *mut TF_KernelBuilder;
    fn TF_RegisterKernelBuilder(name: *const c_char, builder: *mut TF_KernelBuilder, status: *mut TF_Status);
    fn TF_OpKernelConstruction_GetNodeDef(
        construction: *mut TF_OpKernelConstruction,
        status: *mut TF_Status,
    ) -> *mut TF_Buffer;
    fn TF_OpKernelConstruction_Failure(construction: *mut TF_OpKernelConstruction, status: *mut TF_Status);

    fn TF_NumInputs(context: *mut TF_OpKernelContext) -> c_int;
    fn TF_GetInput(context: *mut TF_OpKernelContext, index: c_int, tensor: *mut *mut TF_Tensor, status: *mut TF_Status);
    fn TF_AllocateOutput(
        context: *mut TF_OpKernelContext,
        index: c_int,
        dtype: TF_DataType,
        dims: *const i64,
        rank: c_int,
        length: usize,
        status: *mut TF_Status,
    ) -> *mut TF_Tensor;
    fn TF_SetOutput(context: *mut TF_OpKernelContext, index: c_int, tensor: *const TF_Tensor, status: *mut TF_Status);
    fn TF_OpKernelContext_Failure(context: *mut TF_OpKernelContext, status: *mut TF_Status);
    fn TF_GetGraphDefVersion(context: *mut TF_OpKernelContext) -> c_int;
    fn TF_GetSerializedFunctionDefLibrary(
        context: *mut TF_OpKernelContext,
        library: *mut TF_Buffer,
        status: *mut TF_Status,
    );
    fn TF_GetSerializedConfigProto(context: *mut TF_OpKernelContext, config: *mut TF_Buffer, status: *mut TF_Status);

    fn TF_NewGraph() -> *mut TF_Graph;
    fn TF_DeleteGraph(graph: *mut TF_Graph);
    fn TF_NewImportGraphDefOptions() -> *mut TF_ImportGraphDefOptions;
    fn TF_DeleteImportGraphDefOptions(options: *mut TF_ImportGraphDefOptions);
    fn TF_GraphImportGraphDef(
        graph: *mut TF_Graph,
        def: *const TF_Buffer,
        options: *const TF_ImportGraphDefOptions,
        status: *mut TF_Status,
    );
    fn TF_GraphOperationByName(graph: *mut TF_Graph, name: *const c_char) -> *mut TF_Operation;
    fn TF_NewSessionOptions() -> *mut TF_SessionOptions;
    fn TF_SetConfig(options: *mut TF_SessionOptions, proto: *const c_void, length: usize, status: *mut TF_Status);
    fn TF_DeleteSessionOptions(options: *mut TF_SessionOptions);
    fn TF_NewSession(
        graph: *mut TF_Graph,
        options: *const TF_SessionOptions,
        status: *mut TF_Status,
    ) -> *mut TF_Session;
    fn TF_CloseSession(session: *mut TF_Session, status: *mut TF_Status);
    fn TF_DeleteSession(session: *mut TF_Session, status: *mut TF_Status);
    fn TF_SessionRun(
        session: *mut TF_Session,
        options: *const TF_Buffer,
        inputs: *const TF_Output,
        values: *const *mut TF_Tensor,
        input_count: c_int,
        outputs: *const TF_Output,
        results: *mut *mut TF_Tensor,
        output_count: c_int,
        targets: *const *const TF_Operation,
        target_count: c_int,
        metadata: *mut TF_Buffer,
        status: *mut TF_Status,
    );

    fn TF_GetNodesToPreserveListSize(
        item: *const TF_GrapplerItem,
        count: *mut c_int,
        storage_size: *mut usize,
        status: *mut TF_Status,
    );
    fn TF_GetNodesToPreserveList(
        item: *const TF_GrapplerItem,
        values: *mut *mut c_char,
        lengths: *mut usize,
        count: c_int,
        storage: *mut c_void,
        storage_size: usize,
        status: *mut TF_Status,
    );
    fn TF_NewGraphProperties(item: *const TF_GrapplerItem) -> *mut TF_GraphProperties;
    fn TF_DeleteGraphProperties(properties: *mut TF_GraphProperties);
    fn TF_InferStatically(
        properties: *mut TF_GraphProperties,
        assume_valid_feeds: TF_Bool,
        aggressive_shape_inference: TF_Bool,
        include_input_tensor_values: TF_Bool,
        include_output_tensor_values: TF_Bool,
        status: *mut TF_Status,
    );
    fn TF_GetOutputPropertiesListSize(
        properties: *mut TF_GraphProperties,
        name: *const c_char,
        count: *mut c_int,
        status: *mut TF_Status,
    );
    fn TF_GetOutputPropertiesList(
        properties: *mut TF_GraphProperties,
        name: *const c_char,
        lists: *mut *mut TF_Buffer,
        count: c_int,
        status: *mut TF_Status,
    );
}
