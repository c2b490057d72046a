//! Attributes of nodes: read from the host's nodes, and written to nodes that the bridge makes.

use super::{Api, OwnedValue, call, string};
use crate::error::{Error, Result};
use crate::sys::*;
use std::ffi::{CString, c_int, c_void};
use std::ptr::{null, null_mut};

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

impl Api {
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
}
