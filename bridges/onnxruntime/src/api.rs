//! Safe, thin wrappers around the function tables of ONNX Runtime.
//!
//! Handles travel as references to their opaque types and borrow from the object that owns them. Statuses are freed, enums are
//! read as integers (a newer host may know more variants), and the table is never borrowed as a whole: an older host's table is
//! shorter than the struct.
use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr::{null, null_mut},
};

use crate::{
    error::{Error, Result},
    sys::*,
};

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

/// Element type and dimensions as the host stores them; dimensions borrow from the value.
pub struct TensorView<'a> {
    pub element: i32,
    pub shape: &'a [i64],
}

/// Static type of a graph value.
pub struct TensorType {
    pub element: i32,
    /// -1 is a dimension that is not known; the name beside it may be empty.
    pub dims: Option<Vec<(i64, String)>>,
}

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

    // ---- graphs --------------------------------------------------------------------------------------------------------

    pub fn graph_name(&self, graph: &OrtGraph) -> Result<String> {
        let mut name = null();
        call!(self, Graph_GetName(graph, &mut name))?;
        Ok(string(name))
    }

    /// The file that the model came from; empty for a model given as bytes.
    pub fn model_path(&self, graph: &OrtGraph) -> Result<std::path::PathBuf> {
        let mut path: *const os_char = null();
        call!(self, Graph_GetModelPath(graph, &mut path))?;
        #[cfg(not(windows))]
        return Ok(string(path).into());
        #[cfg(windows)]
        return Ok({
            // SAFETY: a zero-terminated UTF-16 string owned by the graph.
            let units = unsafe {
                let length = (0..).take_while(|i| *path.add(*i) != 0).count();
                std::slice::from_raw_parts(path, length)
            };
            String::from_utf16_lossy(units).into()
        });
    }

    /// The node whose body the graph is: control flow, or a function of bodies as SequenceMap.
    pub fn parent_node<'a>(&self, graph: &'a OrtGraph) -> Result<Option<&'a OrtNode>> {
        let mut node = null();
        call!(self, Graph_GetParentNode(graph, &mut node))?;
        // SAFETY: null or owned by the enclosing graph, which outlives its bodies.
        Ok(unsafe { node.as_ref() })
    }

    pub fn operator_sets(&self, graph: &OrtGraph) -> Result<Vec<(String, i64)>> {
        let mut count = 0;
        call!(self, Graph_GetNumOperatorSets(graph, &mut count))?;
        let (mut domains, mut versions) = (vec![null(); count], vec![0; count]);
        call!(self, Graph_GetOperatorSets(graph, domains.as_mut_ptr(), versions.as_mut_ptr(), count))?;
        Ok(domains.into_iter().map(string).zip(versions).collect())
    }

    pub fn graph_inputs<'a>(&self, graph: &'a OrtGraph) -> Result<Vec<&'a OrtValueInfo>> {
        let mut count = 0;
        call!(self, Graph_GetNumInputs(graph, &mut count))?;
        let mut out = vec![null(); count];
        call!(self, Graph_GetInputs(graph, out.as_mut_ptr(), count))?;
        Ok(references(out).into_iter().flatten().collect())
    }

    pub fn graph_outputs<'a>(&self, graph: &'a OrtGraph) -> Result<Vec<&'a OrtValueInfo>> {
        let mut count = 0;
        call!(self, Graph_GetNumOutputs(graph, &mut count))?;
        let mut out = vec![null(); count];
        call!(self, Graph_GetOutputs(graph, out.as_mut_ptr(), count))?;
        Ok(references(out).into_iter().flatten().collect())
    }

    /// Nodes in topological order.
    pub fn graph_nodes<'a>(&self, graph: &'a OrtGraph) -> Result<Vec<&'a OrtNode>> {
        let mut count = 0;
        call!(self, Graph_GetNumNodes(graph, &mut count))?;
        let mut out = vec![null(); count];
        call!(self, Graph_GetNodes(graph, out.as_mut_ptr(), count))?;
        Ok(references(out).into_iter().flatten().collect())
    }

    // ---- nodes ---------------------------------------------------------------------------------------------------------

    pub fn node_name(&self, node: &OrtNode) -> Result<String> {
        let mut name = null();
        call!(self, Node_GetName(node, &mut name))?;
        Ok(string(name))
    }

    pub fn node_op_type(&self, node: &OrtNode) -> Result<String> {
        let mut name = null();
        call!(self, Node_GetOperatorType(node, &mut name))?;
        Ok(string(name))
    }

    pub fn node_domain(&self, node: &OrtNode) -> Result<String> {
        let mut name = null();
        call!(self, Node_GetDomain(node, &mut name))?;
        Ok(string(name))
    }

    pub fn node_since_version(&self, node: &OrtNode) -> Result<i64> {
        let mut version = 0;
        call!(self, Node_GetSinceVersion(node, &mut version))?;
        Ok(version.into())
    }

    /// The provider that already has the node; empty if none.
    pub fn node_provider(&self, node: &OrtNode) -> Result<String> {
        let mut name = null();
        call!(self, Node_GetEpName(node, &mut name))?;
        Ok(string(name))
    }

    /// Inputs in order; `None` where an optional input is left out.
    pub fn node_inputs<'a>(&self, node: &'a OrtNode) -> Result<Vec<Option<&'a OrtValueInfo>>> {
        let mut count = 0;
        call!(self, Node_GetNumInputs(node, &mut count))?;
        let mut out = vec![null(); count];
        call!(self, Node_GetInputs(node, out.as_mut_ptr(), count))?;
        Ok(references(out))
    }

    /// Outputs in order; `None` where an optional output is not wanted.
    pub fn node_outputs<'a>(&self, node: &'a OrtNode) -> Result<Vec<Option<&'a OrtValueInfo>>> {
        let mut count = 0;
        call!(self, Node_GetNumOutputs(node, &mut count))?;
        let mut out = vec![null(); count];
        call!(self, Node_GetOutputs(node, out.as_mut_ptr(), count))?;
        Ok(references(out))
    }

    /// Values of enclosing graphs that the node's bodies read.
    pub fn node_implicit_inputs<'a>(&self, node: &'a OrtNode) -> Result<Vec<&'a OrtValueInfo>> {
        let mut count = 0;
        call!(self, Node_GetNumImplicitInputs(node, &mut count))?;
        let mut out = vec![null(); count];
        call!(self, Node_GetImplicitInputs(node, out.as_mut_ptr(), count))?;
        Ok(references(out).into_iter().flatten().collect())
    }

    /// Bodies of a control-flow node with the names of their attributes.
    pub fn node_subgraphs<'a>(&self, node: &'a OrtNode) -> Result<Vec<(String, &'a OrtGraph)>> {
        let mut count = 0;
        call!(self, Node_GetNumSubgraphs(node, &mut count))?;
        let (mut graphs, mut names) = (vec![null(); count], vec![null(); count]);
        call!(self, Node_GetSubgraphs(node, graphs.as_mut_ptr(), count, names.as_mut_ptr()))?;
        let graphs = references(graphs).into_iter();
        Ok(graphs.zip(names).filter_map(|(g, n)| Some((string(n), g?))).collect())
    }

    pub fn node_attributes<'a>(&self, node: &'a OrtNode) -> Result<Vec<&'a OrtOpAttr>> {
        let mut count = 0;
        call!(self, Node_GetNumAttributes(node, &mut count))?;
        let mut out = vec![null(); count];
        call!(self, Node_GetAttributes(node, out.as_mut_ptr(), count))?;
        Ok(references(out).into_iter().flatten().collect())
    }

    /// The attribute of that name, if the node has it.
    pub fn node_attribute<'a>(&self, node: &'a OrtNode, name: &str) -> Result<Option<&'a OrtOpAttr>> {
        // The host's own look-up by name reports a missing attribute as a failure.
        for attribute in self.node_attributes(node)? {
            if self.attribute_name(attribute)? == name {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }

    /// Makes a node that belongs to no graph; whoever gets it releases it.
    pub fn create_node(
        &self,
        (domain, operator, name): (&str, &str, &str),
        inputs: &[String],
        outputs: &[String],
        attributes: &[(&str, AttributeValue<'_>)],
    ) -> Result<*mut OrtNode> {
        // SAFETY: the slot exists since API 22.
        let editor = unsafe { ((*self.api).GetModelEditorApi)() };
        if editor.is_null() {
            return Err(Error::contract("this ONNX Runtime was built without the model editor"));
        }
        let text = |text: &str| {
            CString::new(text).map_err(|_| Error::contract(format!("'{text}' holds a zero byte")))
        };
        let texts = |list: &[String]| list.iter().map(|t| text(t)).collect::<Result<Vec<_>>>();
        let pointers = |list: &[CString]| list.iter().map(|t| t.as_ptr()).collect::<Vec<_>>();
        let (operator, domain, name) = (text(operator)?, text(domain)?, text(name)?);
        let (inputs, outputs) = (texts(inputs)?, texts(outputs)?);
        let (inputs, outputs) = (pointers(&inputs), pointers(&outputs));
        let mut made = OwnedAttributes { api: *self, attributes: Vec::with_capacity(attributes.len()) };
        for (name, value) in attributes {
            let name_text = text(name)?;
            let (data, length, kind): (*const c_void, _, _) = match value {
                AttributeValue::Int(value) => ((&raw const *value).cast(), 1, OrtOpAttrType::ORT_OP_ATTR_INT),
                AttributeValue::String(value) => {
                    (value.as_ptr().cast(), value.len(), OrtOpAttrType::ORT_OP_ATTR_STRING)
                }
            };
            let length = c_int::try_from(length).map_err(|_| {
                Error::Unsupported(format!(
                    "{length} bytes do not fit into the attribute '{name}' of a model; set ep.context_embed_mode to 0"
                ))
            })?;
            let mut attribute = null_mut();
            call!(self, CreateOpAttr(name_text.as_ptr(), data, length, kind, &mut attribute))?;
            made.attributes.push(attribute);
        }
        let mut node = null_mut();
        // SAFETY: the table is the host's; all texts and attributes live until after the call, which copies them.
        let status = unsafe {
            ((*editor).CreateNode)(
                operator.as_ptr(),
                domain.as_ptr(),
                name.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                outputs.as_ptr(),
                outputs.len(),
                made.attributes.as_mut_ptr(),
                made.attributes.len(),
                &mut node,
            )
        };
        self.check("CreateNode", status).map(|()| node)
    }

    // ---- attributes ----------------------------------------------------------------------------------------------------

    pub fn attribute_name(&self, attribute: &OrtOpAttr) -> Result<String> {
        let mut name = null();
        call!(self, OpAttr_GetName(attribute, &mut name))?;
        Ok(string(name))
    }

    /// The kind as `OrtOpAttrType` numbers it; 0 is one that the host cannot describe.
    pub fn attribute_kind(&self, attribute: &OrtOpAttr) -> i32 {
        let mut kind: c_int = 0;
        match call!(self, OpAttr_GetType(attribute, (&raw mut kind).cast())) {
            Ok(()) => kind,
            Err(_) => 0,
        }
    }

    pub fn attribute_int(&self, attribute: &OrtOpAttr) -> Result<i64> {
        let (mut value, mut read) = (0i64, 0);
        let kind = OrtOpAttrType::ORT_OP_ATTR_INT;
        call!(self, ReadOpAttr(attribute, kind, (&raw mut value).cast(), size_of::<i64>(), &mut read))?;
        Ok(value)
    }

    pub fn attribute_float(&self, attribute: &OrtOpAttr) -> Result<f32> {
        let (mut value, mut read) = (0f32, 0);
        let kind = OrtOpAttrType::ORT_OP_ATTR_FLOAT;
        call!(self, ReadOpAttr(attribute, kind, (&raw mut value).cast(), size_of::<f32>(), &mut read))?;
        Ok(value)
    }

    /// Reads an array attribute: the first call fails by design and tells the size in bytes.
    fn attribute_array<T: Copy + Default>(
        &self,
        attribute: &OrtOpAttr,
        kind: OrtOpAttrType,
    ) -> Result<Vec<T>> {
        let mut bytes = 0;
        let probe = call!(self, ReadOpAttr(attribute, kind, null_mut(), 0, &mut bytes));
        if bytes == 0 {
            // An empty array succeeds at once on some hosts and fails on others: both report no bytes.
            drop(probe);
            return Ok(Vec::new());
        }
        let mut data = vec![T::default(); bytes.div_ceil(size_of::<T>())];
        call!(self, ReadOpAttr(attribute, kind, data.as_mut_ptr().cast::<c_void>(), bytes, &mut bytes))?;
        data.truncate(bytes / size_of::<T>());
        Ok(data)
    }

    pub fn attribute_ints(&self, attribute: &OrtOpAttr) -> Result<Vec<i64>> {
        self.attribute_array(attribute, OrtOpAttrType::ORT_OP_ATTR_INTS)
    }

    pub fn attribute_floats(&self, attribute: &OrtOpAttr) -> Result<Vec<f32>> {
        self.attribute_array(attribute, OrtOpAttrType::ORT_OP_ATTR_FLOATS)
    }

    /// The length of a string attribute.
    pub fn attribute_bytes(&self, attribute: &OrtOpAttr) -> Result<usize> {
        let mut bytes = 0;
        let kind = OrtOpAttrType::ORT_OP_ATTR_STRING;
        match call!(self, ReadOpAttr(attribute, kind, null_mut(), 0, &mut bytes)) {
            Err(error) if bytes == 0 => Err(error),
            _ => Ok(bytes),
        }
    }

    /// Reads a string attribute of exactly this length.
    pub fn read_attribute_bytes(&self, attribute: &OrtOpAttr, out: &mut [u8]) -> Result<()> {
        let mut bytes = 0;
        let kind = OrtOpAttrType::ORT_OP_ATTR_STRING;
        call!(self, ReadOpAttr(attribute, kind, out.as_mut_ptr().cast::<c_void>(), out.len(), &mut bytes))
    }

    pub fn attribute_string(&self, attribute: &OrtOpAttr) -> Result<Vec<u8>> {
        self.attribute_array(attribute, OrtOpAttrType::ORT_OP_ATTR_STRING)
    }

    /// The host packs the strings one behind the other, each with its terminating zero.
    pub fn attribute_strings(&self, attribute: &OrtOpAttr) -> Result<Vec<Vec<u8>>> {
        let mut packed: Vec<u8> = self.attribute_array(attribute, OrtOpAttrType::ORT_OP_ATTR_STRINGS)?;
        match packed.last() {
            None => return Ok(Vec::new()),
            Some(0) => drop(packed.pop()),
            Some(_) => {}
        }
        Ok(packed.split(|b| *b == 0).map(<[u8]>::to_vec).collect())
    }

    /// A tensor attribute as a value that the caller owns.
    pub fn attribute_tensor(&self, attribute: &OrtOpAttr) -> Result<OwnedValue> {
        let mut value = null_mut();
        call!(self, OpAttr_GetTensorAttributeAsOrtValue(attribute, &mut value))?;
        Ok(OwnedValue { api: *self, value })
    }

    // ---- graph values --------------------------------------------------------------------------------------------------

    pub fn value_name(&self, value: &OrtValueInfo) -> Result<String> {
        let mut name = null();
        call!(self, GetValueInfoName(value, &mut name))?;
        Ok(string(name))
    }

    /// The value's tensor type; `None` for sequences, maps, optionals and untyped values.
    pub fn value_type(&self, value: &OrtValueInfo) -> Result<Option<TensorType>> {
        let mut info = null();
        call!(self, GetValueInfoTypeInfo(value, &mut info))?;
        if info.is_null() {
            return Ok(None);
        }
        let mut tensor = null();
        call!(self, CastTypeInfoToTensorInfo(info, &mut tensor))?;
        if tensor.is_null() {
            return Ok(None);
        }
        let mut element: c_int = 0;
        call!(self, GetTensorElementType(tensor, (&raw mut element).cast()))?;
        // SAFETY: the slot exists since API 24.
        if !unsafe { ((*self.api).TensorTypeAndShape_HasShape)(tensor) } {
            return Ok(Some(TensorType { element, dims: None }));
        }
        let mut rank = 0;
        call!(self, GetDimensionsCount(tensor, &mut rank))?;
        let (mut dims, mut names) = (vec![0; rank], vec![null::<c_char>(); rank]);
        call!(self, GetDimensions(tensor, dims.as_mut_ptr(), rank))?;
        call!(self, GetSymbolicDimensions(tensor, names.as_mut_ptr(), rank))?;
        let dims = dims.into_iter().zip(names.into_iter().map(string)).collect();
        Ok(Some(TensorType { element, dims: Some(dims) }))
    }

    /// Whether the value is an initializer that no graph input can override, in this graph or an enclosing one.
    pub fn is_constant(&self, value: &OrtValueInfo) -> Result<bool> {
        let mut constant = false;
        call!(self, ValueInfo_IsConstantInitializer(value, &mut constant))?;
        Ok(constant)
    }

    pub fn is_outer(&self, value: &OrtValueInfo) -> Result<bool> {
        let mut outer = false;
        call!(self, ValueInfo_IsFromOuterScope(value, &mut outer))?;
        Ok(outer)
    }

    /// The data of a constant initializer; external files are mapped by the host. Valid while the graph is.
    pub fn initializer<'a>(&self, value: &'a OrtValueInfo) -> Result<Option<&'a OrtValue>> {
        let mut out = null();
        call!(self, ValueInfo_GetInitializerValue(value, &mut out))?;
        // SAFETY: null or owned by the graph that `value` borrows from.
        Ok(unsafe { out.as_ref() })
    }

    // ---- tensors -------------------------------------------------------------------------------------------------------

    /// Element type and shape without an allocation.
    #[inline]
    pub fn tensor<'a>(&self, value: &'a OrtValue) -> Result<TensorView<'a>> {
        let (mut element, mut dims, mut rank): (c_int, _, _) = (0, null(), 0);
        call!(
            self,
            GetTensorElementTypeAndShapeDataReference(value, (&raw mut element).cast(), &mut dims, &mut rank)
        )?;
        // SAFETY: the host's own shape array, `rank` long; null for scalars.
        let shape = if rank == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(dims, rank) } };
        Ok(TensorView { element, shape })
    }

    #[inline]
    pub fn tensor_data(&self, value: &OrtValue) -> Result<*const u8> {
        if self.version >= CONST_DATA_API {
            let mut data = null();
            call!(self, GetTensorData(value, &mut data))?;
            return Ok(data.cast());
        }
        let mut data = null_mut();
        // Only read through; older hosts have one function for both.
        call!(self, GetTensorMutableData(std::ptr::from_ref(value).cast_mut(), &mut data))?;
        Ok(data.cast_const().cast())
    }

    pub fn tensor_bytes(&self, value: &OrtValue) -> Result<usize> {
        let mut bytes = 0;
        call!(self, GetTensorSizeInBytes(value, &mut bytes))?;
        Ok(bytes)
    }

    // ---- partitioning --------------------------------------------------------------------------------------------------

    /// Claims `nodes` as one fused node whose inputs are the values that flow in, without constants if they are `held`
    /// by Engraft.
    pub fn claim(&self, support: *mut OrtEpGraphSupportInfo, nodes: &[&OrtNode], held: bool) -> Result<()> {
        let options =
            OrtNodeFusionOptions { ort_version_supported: self.version, drop_constant_initializers: held };
        // SAFETY: a slice of references has the layout of an array of pointers; `support` belongs to the call in progress.
        let status = unsafe {
            ((*self.ep).EpGraphSupportInfo_AddNodesToFuse)(
                support,
                nodes.as_ptr().cast(),
                nodes.len(),
                &options,
            )
        };
        self.check("EpGraphSupportInfo_AddNodesToFuse", status)
    }

    // ---- one run -------------------------------------------------------------------------------------------------------

    /// Input `index` of the fused node; `None` where an optional input is left out.
    #[inline]
    pub fn run_input<'a>(&self, context: &'a OrtKernelContext, index: usize) -> Result<Option<&'a OrtValue>> {
        let mut value = null();
        call!(self, KernelContext_GetInput(context, index, &mut value))?;
        // SAFETY: null or alive for the whole run.
        Ok(unsafe { value.as_ref() })
    }

    /// Has the host allocate output `index` and returns its memory.
    #[inline]
    pub fn run_output(&self, context: *mut OrtKernelContext, index: usize, shape: &[i64]) -> Result<*mut u8> {
        let (mut value, mut data) = (null_mut(), null_mut());
        call!(self, KernelContext_GetOutput(context, index, shape.as_ptr(), shape.len(), &mut value))?;
        if value.is_null() {
            return Err(Error::contract(format!("the host has no output {index} for the fused node")));
        }
        call!(self, GetTensorMutableData(value, &mut data))?;
        Ok(data.cast())
    }

    /// Runs `function(data, i)` for `i` in `0..total` on the session's intra-op pool, this thread included.
    #[inline]
    pub fn parallel_for(
        &self,
        context: *const OrtKernelContext,
        function: unsafe extern "C" fn(*mut c_void, usize),
        total: usize,
        data: *mut c_void,
    ) -> Result<()> {
        call!(self, KernelContext_ParallelFor(context, function, total, 0, data))
    }
}

/// Custom operators, and sessions inside of them. All slots exist since [`MIN_OPERATOR_API`].
impl Api {
    /// A domain of one operator. It is never released: sessions refer to it.
    pub fn create_operator_domain(
        &self,
        name: &CStr,
        operator: &'static ort_sys::OrtCustomOp,
    ) -> Result<*mut ort_sys::OrtCustomOpDomain> {
        let mut domain = null_mut();
        call!(self, CreateCustomOpDomain(name.as_ptr(), &mut domain))?;
        call!(self, CustomOpDomain_Add(domain, operator))?;
        Ok(domain)
    }

    /// # Safety
    /// The options are alive, and the domain stays alive as long as sessions that are created with them.
    pub unsafe fn add_operator_domain(
        &self,
        options: *mut OrtSessionOptions,
        domain: *mut ort_sys::OrtCustomOpDomain,
    ) -> Result<()> {
        call!(self, AddCustomOpDomain(options, domain))
    }

    /// A string attribute of a custom operator's node.
    pub fn info_string(&self, info: &ort_sys::OrtKernelInfo, name: &CStr) -> Result<Vec<u8>> {
        let mut size = 0;
        let asked = call!(self, KernelInfoGetAttribute_string(info, name.as_ptr(), null_mut(), &mut size));
        if size == 0 {
            asked?;
        }
        let mut text = vec![0u8; size];
        call!(self, KernelInfoGetAttribute_string(info, name.as_ptr(), text.as_mut_ptr().cast(), &mut size))?;
        // The host ends it with a zero.
        text.truncate(size.saturating_sub(1));
        Ok(text)
    }

    /// The logger of the session that a node belongs to; null if there is none.
    pub fn info_logger(&self, info: &ort_sys::OrtKernelInfo) -> *const OrtLogger {
        let mut logger = null();
        match call!(self, KernelInfo_GetLogger(info, &mut logger)) {
            Ok(()) => logger,
            Err(_) => null(),
        }
    }

    /// Element type and shape of a tensor, copied.
    pub fn tensor_type<A: smallvec::Array<Item = i64>>(
        &self,
        value: &OrtValue,
        shape: &mut smallvec::SmallVec<A>,
    ) -> Result<i32> {
        if self.version >= MIN_API {
            let view = self.tensor(value)?;
            shape.extend_from_slice(view.shape);
            return Ok(view.element);
        }
        let mut info = null_mut();
        call!(self, GetTensorTypeAndShape(value, &mut info))?;
        let read = (|| {
            let (mut element, mut rank): (c_int, _) = (0, 0);
            call!(self, GetTensorElementType(info, (&raw mut element).cast()))?;
            call!(self, GetDimensionsCount(info, &mut rank))?;
            shape.resize(rank, 0);
            call!(self, GetDimensions(info, shape.as_mut_ptr(), rank))?;
            Ok(element)
        })();
        // SAFETY: made above, released once.
        unsafe { ((*self.api).ReleaseTensorTypeAndShapeInfo)(info) };
        read
    }

    /// A session of the host's own on a model in memory.
    pub fn create_session(&self, model: &[u8]) -> Result<SessionHandles> {
        let mut made =
            SessionHandles { api: *self, environment: null_mut(), options: null_mut(), session: null_mut() };
        let level = OrtLoggingLevel::ORT_LOGGING_LEVEL_WARNING;
        // The process has one environment; this only counts its users.
        call!(self, CreateEnv(level, c"engraft".as_ptr(), &mut made.environment))?;
        call!(self, CreateSessionOptions(&mut made.options))?;
        call!(
            self,
            CreateSessionFromArray(
                made.environment,
                model.as_ptr().cast(),
                model.len(),
                made.options,
                &mut made.session
            )
        )?;
        Ok(made)
    }

    /// Runs a session of [`Api::create_session`]; safe to call at the same time from any thread.
    pub fn run_session(
        &self,
        handles: &SessionHandles,
        input_names: &[CString],
        inputs: &[&OrtValue],
        output_names: &[CString],
    ) -> Result<Vec<OwnedValue>> {
        let names = |names: &[CString]| names.iter().map(|name| name.as_ptr()).collect::<Vec<_>>();
        let (input_names, output_names) = (names(input_names), names(output_names));
        let inputs: Vec<*const OrtValue> = inputs.iter().map(|value| std::ptr::from_ref(*value)).collect();
        let mut outputs = vec![null_mut(); output_names.len()];
        let done = call!(
            self,
            Run(
                handles.session,
                null(),
                input_names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr()
            )
        );
        let outputs = outputs.into_iter().map(|value| OwnedValue { api: *self, value }).collect();
        done.map(|()| outputs)
    }
}

/// A session of the host that the bridge owns, and what it was made of.
pub struct SessionHandles {
    api: Api,
    environment: *mut ort_sys::OrtEnv,
    options: *mut OrtSessionOptions,
    session: *mut ort_sys::OrtSession,
}

// SAFETY: sessions of the host may be run and released on any thread.
unsafe impl Send for SessionHandles {}
// SAFETY: as above; the host's sessions run concurrently.
unsafe impl Sync for SessionHandles {}

impl Drop for SessionHandles {
    fn drop(&mut self) {
        // SAFETY: owned, released once, the session before what it was made of; null is allowed.
        unsafe {
            ((*self.api.api).ReleaseSession)(self.session);
            ((*self.api.api).ReleaseSessionOptions)(self.options);
            ((*self.api.api).ReleaseEnv)(self.environment);
        }
    }
}

/// The value of an attribute of a node that the bridge makes.
pub enum AttributeValue<'a> {
    Int(i64),
    String(&'a [u8]),
}

/// Attributes on their way into a node, which copies them.
struct OwnedAttributes {
    api: Api,
    attributes: Vec<*mut OrtOpAttr>,
}

impl Drop for OwnedAttributes {
    fn drop(&mut self) {
        for attribute in &self.attributes {
            // SAFETY: made by `CreateOpAttr`, released once.
            unsafe { ((*self.api.api).ReleaseOpAttr)(*attribute) }
        }
    }
}

/// A value that the bridge owns.
pub struct OwnedValue {
    api: Api,
    value: *mut OrtValue,
}

// SAFETY: an `OrtValue` holds reference-counted, immutable tensor memory that may be read and released on any thread.
unsafe impl Send for OwnedValue {}
// SAFETY: as above.
unsafe impl Sync for OwnedValue {}

impl OwnedValue {
    pub fn get(&self) -> Option<&OrtValue> {
        // SAFETY: null or alive until drop.
        unsafe { self.value.as_ref() }
    }
}

impl Drop for OwnedValue {
    fn drop(&mut self) {
        // SAFETY: owned, released once; null is allowed.
        unsafe { ((*self.api.api).ReleaseValue)(self.value) }
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
