//! Graphs, nodes and their values, as the host shows them to a provider.

use super::{Api, call, references, string};
use crate::error::Result;
use crate::sys::*;
use std::ffi::{c_char, c_int};
use std::ptr::null;

/// Static type of a graph value.
pub struct TensorType {
    pub element: i32,
    /// -1 is a dimension that is not known; the name beside it may be empty.
    pub dims: Option<Vec<(i64, String)>>,
}

impl Api {
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
}
