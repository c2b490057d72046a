//! A session of the host inside a custom operator: runs the original nodes where no engine can.
use std::ffi::CString;

use engraft::subgraph::onnx;
use smallvec::SmallVec;

use crate::{
    api::{Api, OwnedValue, SessionHandles},
    error::{Error, Result},
    graph,
    sys::*,
};

pub struct HostSession {
    api: Api,
    handles: SessionHandles,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
}

impl HostSession {
    /// A session of `model`, whose inputs and outputs stand in the node's order.
    pub fn create(api: Api, model: &[u8]) -> Result<Self> {
        let graph = onnx::read_model_bytes(model.to_vec())
            .map_err(|error| Error::Compiled(format!("the node's model cannot be read: {error}")))?
            .graph;
        let names = |ids: &[engraft::HostValueId]| -> Result<Vec<CString>> {
            let name = |id: &engraft::HostValueId| CString::new(graph.value(*id).name.as_str());
            ids.iter()
                .map(name)
                .collect::<Result<_, _>>()
                .map_err(|_| Error::contract("a name holds a zero byte"))
        };
        let (inputs, outputs) = (names(&graph.inputs)?, names(&graph.outputs)?);
        Ok(Self { api, handles: api.create_session(model)?, inputs, outputs })
    }

    /// Runs the nodes on the values that `input` gives and copies the results into the outputs of `context`.
    pub fn run<'a>(
        &self,
        context: *mut OrtKernelContext,
        input: &dyn Fn(usize) -> Result<&'a OrtValue>,
    ) -> Result<()> {
        let values = (0..self.inputs.len()).map(input).collect::<Result<Vec<_>>>()?;
        let results: Vec<OwnedValue> =
            self.api.run_session(&self.handles, &self.inputs, &values, &self.outputs)?;
        for (index, result) in results.iter().enumerate() {
            let value =
                result.get().ok_or_else(|| Error::contract(format!("the host gave no output {index}")))?;
            let mut shape: SmallVec<[i64; 8]> = SmallVec::new();
            let element = self.api.tensor_type(value, &mut shape)?;
            let dtype = graph::dtype(element)
                .ok_or_else(|| Error::contract(format!("output {index} has element type {element}")))?;
            let out = self.api.run_output(context, index, &shape)?;
            let count = shape.iter().map(|d| usize::try_from(*d).unwrap_or(0)).product();
            let bytes = dtype.bytes(count);
            if bytes > 0 {
                let data = self.api.tensor_data(value)?;
                // SAFETY: both hold a dense tensor of this type and shape, and they are different tensors.
                unsafe { std::ptr::copy_nonoverlapping(data, out, bytes) };
            }
        }
        Ok(())
    }
}
