//! What a dialect's row sees of the node that it lowers.

use engraft_network::{
    BinaryOp, DType, Dim, Expr, ExprNode, Op, Scalar, Tensor, TensorType, UnaryOp, ValueId, ops,
};
use smallvec::SmallVec;

use super::{Facts, Known, Lowered, Lowering, Reject, Remedy};
use crate::{Attribute, HostGraph, HostNode, HostValueId};

type Result<T> = std::result::Result<T, Reject>;

/// One host node being lowered: reads its operands and attributes, emits nodes, sets its outputs.
pub struct NodeLowering<'a, 'g> {
    lowering: &'a mut Lowering<'g>,
    host: &'g HostNode,
    name: String,
    outputs: Vec<Option<Lowered>>,
}

impl<'a, 'g> NodeLowering<'a, 'g> {
    pub(super) fn new(lowering: &'a mut Lowering<'g>, host: &'g HostNode) -> Self {
        let name = host.label(lowering.graph);
        NodeLowering { name, outputs: vec![None; host.outputs.len()], host, lowering }
    }

    pub(super) fn finish(self) -> Result<Vec<(HostValueId, Lowered)>> {
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for (index, (output, lowered)) in self.host.outputs.iter().zip(self.outputs).enumerate() {
            if let Some(output) = output {
                let lowered =
                    lowered.ok_or_else(|| Reject::new(format!("output {index} is not supported")))?;
                outputs.push((*output, lowered));
            }
        }
        Ok(outputs)
    }

    pub fn host(&self) -> &'g HostNode {
        self.host
    }

    pub fn opset(&self) -> i64 {
        self.host.opset
    }

    pub fn facts(&self) -> &Facts {
        &self.lowering.facts
    }

    // ---- operands ----

    pub fn input_count(&self) -> usize {
        self.host.inputs.len()
    }

    fn operand(&self, index: usize) -> Option<HostValueId> {
        self.host.inputs.get(index).copied().flatten()
    }

    pub fn has(&self, index: usize) -> bool {
        self.operand(index).is_some()
    }

    fn required(&self, index: usize) -> Result<HostValueId> {
        self.operand(index)
            .ok_or_else(|| Reject::new(format!("input {index} is missing")).remedy(Remedy::Correct))
    }

    /// Operand `index` as a tensor.
    pub fn input(&mut self, index: usize) -> Result<ValueId> {
        let value = self.required(index)?;
        self.lowering.tensor(value)
    }

    pub fn optional(&mut self, index: usize) -> Result<Option<ValueId>> {
        self.operand(index).map(|value| self.lowering.tensor(value)).transpose()
    }

    /// All operands as tensors; none may be absent.
    pub fn inputs(&mut self) -> Result<Vec<ValueId>> {
        (0..self.input_count()).map(|index| self.input(index)).collect()
    }

    /// Type of operand `index`, without making a tensor of it.
    pub fn input_type(&self, index: usize) -> Result<TensorType> {
        let value = self.required(index)?;
        self.lowering.ty(value).ok_or_else(|| {
            let host = self.lowering.graph.value(value);
            let what = if host.dtype.is_none() { "type" } else { "rank" };
            Reject::new(format!("the {what} of {:?} is not known", host.name))
                .remedy(Remedy::DeclareType { value: host.name.clone() })
        })
    }

    /// Contents of operand `index` as shape arithmetic, where they can be had; elements of a small integer input of the
    /// network become symbols.
    pub fn contents(&mut self, index: usize) -> Option<Known> {
        let value = self.operand(index)?;
        self.lowering.contents(value, false)
    }

    /// Contents that are known already; no input becomes symbols.
    pub fn known(&self, index: usize) -> Option<Known> {
        self.lowering.known(self.operand(index)?)
    }

    /// The integers of operand `index`, which the operator needs as shape arithmetic: where the network computes them from
    /// data, its engine learns them while it runs.
    pub fn dims(&mut self, index: usize, what: &str) -> Result<Vec<Dim>> {
        let value = self.required(index)?;
        self.lowering
            .contents(value, true)
            .and_then(|known| known.dims())
            .ok_or_else(|| self.wants_constant(index, format!("{what} depends on data")))
    }

    /// The size that a node of the network tells as the first element of `value`, which ends a stage of its engine.
    pub fn told_size(&mut self, value: ValueId) -> Dim {
        self.lowering.told_size(value)
    }

    /// The fixed integers of operand `index`.
    pub fn integers(&mut self, index: usize, what: &str) -> Result<Vec<i64>> {
        self.required(index)?;
        self.contents(index)
            .and_then(|known| known.dims())
            .ok_or_else(|| self.wants_constant(index, format!("{what} depends on data")))?
            .iter()
            .map(|dim| {
                dim.fixed().ok_or_else(|| self.wants_constant(index, format!("{what} is not constant")))
            })
            .collect()
    }

    /// A refusal that ends when operand `index` is a constant.
    pub fn wants_constant(&self, index: usize, reason: impl Into<String>) -> Reject {
        Reject::new(reason).remedy(Remedy::MakeConstant { value: self.operand_name(index) })
    }

    /// A refusal that ends when the sizes of operand `index` are fixed.
    pub fn wants_fixed_dims(&self, index: usize, reason: impl Into<String>) -> Reject {
        Reject::new(reason).remedy(Remedy::FixDims { value: self.operand_name(index) })
    }

    /// The host's name of operand `index`.
    fn operand_name(&self, index: usize) -> String {
        self.operand(index).map_or_else(String::new, |value| self.lowering.graph.value(value).name.clone())
    }

    /// Operand `index`, if it is a constant.
    pub fn constant(&self, index: usize) -> Option<Tensor> {
        let value = self.operand(index)?;
        let host = self.lowering.graph.value(value);
        host.constant.clone().or_else(|| self.lowering.known(value)?.tensor())
    }

    /// The one element of operand `index`, if it is a constant of one element.
    pub fn constant_scalar(&self, index: usize) -> Option<f64> {
        self.constant(index).filter(|tensor| tensor.count() == 1).map(|tensor| tensor.get_f64(0))
    }

    // ---- attributes ----

    fn wrong(name: &str) -> Reject {
        Reject::new(format!("attribute {name} has an unexpected type")).remedy(Remedy::Correct)
    }

    pub fn attribute(&self, name: &str) -> Option<&'g Attribute> {
        self.host.attributes.get(name)
    }

    pub fn int(&self, name: &str) -> Result<Option<i64>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Int(value)) => Ok(Some(*value)),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    pub fn int_or(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int(name)?.unwrap_or(default))
    }

    pub fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.int_or(name, 0)? != 0)
    }

    pub fn float_or(&self, name: &str, default: f32) -> Result<f32> {
        match self.attribute(name) {
            None => Ok(default),
            Some(Attribute::Float(value)) => Ok(*value),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    pub fn ints(&self, name: &str) -> Result<Option<Vec<i64>>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Ints(values)) => Ok(Some(values.clone())),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    pub fn floats(&self, name: &str) -> Result<Option<Vec<f32>>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Floats(values)) => Ok(Some(values.clone())),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    pub fn string_or(&self, name: &str, default: &'g str) -> Result<&'g str> {
        match self.attribute(name) {
            None => Ok(default),
            Some(Attribute::String(text)) => std::str::from_utf8(text).map_err(|_| Self::wrong(name)),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// An element type that an attribute names.
    pub fn dtype_attribute(&self, name: &str) -> Result<Option<DType>> {
        match self.attribute(name) {
            None => Ok(None),
            Some(Attribute::Type(Some(dtype))) => Ok(Some(*dtype)),
            Some(Attribute::Type(None)) => Err(Reject::new(format!("the type in {name} is not supported"))),
            Some(_) => Err(Self::wrong(name)),
        }
    }

    /// An axis attribute, counted from the front.
    pub fn axis(&self, name: &str, default: i64, rank: usize) -> Result<usize> {
        axis(self.int_or(name, default)?, rank)
    }

    // ---- types ----

    pub fn ty(&self, value: ValueId) -> &TensorType {
        self.lowering.network.ty(value)
    }

    pub fn dtype(&self, value: ValueId) -> DType {
        self.ty(value).dtype
    }

    pub fn shape(&self, value: ValueId) -> Vec<Dim> {
        self.ty(value).shape.to_vec()
    }

    pub fn rank(&self, value: ValueId) -> usize {
        self.ty(value).rank()
    }

    // ---- emission ----

    pub fn emit(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.lowering.network.add(self.name.clone(), op.into(), inputs)?)
    }

    pub fn emit_many(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<SmallVec<[ValueId; 1]>> {
        Ok(self.lowering.network.add_node(self.name.clone(), op.into(), inputs)?)
    }

    /// [`NodeLowering::emit`], evaluated at once where every operand is a constant and the result is not large: what a
    /// dialect computes of constants is a constant, as those are that the host gives.
    pub fn emit_folded(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        let op = op.into();
        match self.evaluated(&op, inputs)? {
            Some(tensor) => Ok(self.add_constant(tensor)),
            None => self.emit(op, inputs),
        }
    }

    fn evaluated(&self, op: &Op, inputs: &[ValueId]) -> Result<Option<Tensor>> {
        const MAX_ELEMENTS: usize = 1 << 22;
        let constants: Option<Vec<Tensor>> = inputs.iter().map(|&v| self.tensor_of(v).cloned()).collect();
        let Some(constants) = constants else { return Ok(None) };
        let mut told = true;
        op.clone().map_dims(&mut |dim| {
            told &= dim.fixed().is_some();
            dim.clone()
        });
        if !told {
            return Ok(None);
        }
        let types: Vec<&TensorType> = inputs.iter().map(|&v| self.ty(v)).collect();
        let result = op.infer(&types, &mut |_, _| Dim::Fixed(i64::MAX))?;
        let count = |shape: Vec<usize>| shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
        let small = |ty: &TensorType| ty.fixed_shape().and_then(count).is_some_and(|n| n <= MAX_ELEMENTS);
        match result.as_slice() {
            [ty] if small(ty) => Ok(op.eval(&constants, &[])?.pop()),
            _ => Ok(None),
        }
    }

    pub fn add_constant(&mut self, tensor: Tensor) -> ValueId {
        self.lowering.network.add_constant(self.name.clone(), tensor)
    }

    /// The contents of a value of the network that is a constant.
    pub fn tensor_of(&self, value: ValueId) -> Option<&Tensor> {
        self.lowering.network.constant(value)
    }

    /// Whether all elements of a value are known to be 0.
    pub fn is_zero(&self, mut value: ValueId) -> bool {
        loop {
            if let Some(tensor) = self.tensor_of(value) {
                return (0..tensor.count()).all(|index| tensor.get_f64(index) == 0.0);
            }
            match self.lowering.network.producer(value) {
                Some((_, node)) if matches!(node.op, Op::Expand(_) | Op::Reshape(_)) => {
                    value = node.inputs[0]
                }
                _ => return false,
            }
        }
    }

    /// A scalar constant of a float or integer type.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Result<ValueId> {
        Ok(self.add_constant(scalar_tensor(dtype, value)?))
    }

    pub fn unary(&mut self, op: UnaryOp, x: ValueId) -> Result<ValueId> {
        self.emit(ops::Unary { op }, &[x])
    }

    pub fn binary(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.emit(ops::Binary { op }, &[a, b])
    }

    /// `op(x, value)` with a scalar of x's type.
    pub fn with_scalar(&mut self, op: BinaryOp, x: ValueId, value: f64) -> Result<ValueId> {
        let scalar = self.scalar(self.dtype(x), value)?;
        self.binary(op, x, scalar)
    }

    /// `x`, or its conversion where it has another type.
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId> {
        if self.dtype(x) == to { Ok(x) } else { self.emit(ops::Cast { to }, &[x]) }
    }

    /// `x`, or its transposition where `perm` moves anything.
    pub fn transpose(&mut self, x: ValueId, perm: &[usize]) -> Result<ValueId> {
        if perm.iter().enumerate().all(|(to, &from)| to == from) {
            return Ok(x);
        }
        self.emit(ops::Transpose { perm: perm.to_vec() }, &[x])
    }

    /// `x`, or its reshaping where the shape differs.
    pub fn reshape(&mut self, x: ValueId, shape: Vec<Dim>) -> Result<ValueId> {
        if self.ty(x).shape.as_slice() == shape.as_slice() {
            return Ok(x);
        }
        self.emit(ops::Reshape { shape }, &[x])
    }

    /// From `[N, C, spatial..]` to `[N, spatial.., C]`.
    pub fn channels_last(&mut self, x: ValueId) -> Result<ValueId> {
        let rank = self.rank(x);
        let perm: Vec<usize> = std::iter::once(0).chain(2..rank).chain([1]).collect();
        self.transpose(x, &perm)
    }

    /// From `[N, spatial.., C]` to `[N, C, spatial..]`.
    pub fn channels_first(&mut self, x: ValueId) -> Result<ValueId> {
        let rank = self.rank(x);
        let perm: Vec<usize> = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        self.transpose(x, &perm)
    }

    /// An elementwise expression over operands of one float type, its constants given in `build`.
    pub fn pointwise(
        &mut self,
        inputs: &[ValueId],
        build: impl FnOnce(&mut ExprBuilder) -> engraft_network::ExprId,
    ) -> Result<ValueId> {
        let dtype = self.dtype(inputs[0]);
        let mut builder = ExprBuilder { expr: Expr::new(), dtype };
        let result = build(&mut builder);
        builder.expr.finish(result);
        self.emit(ops::Pointwise { expr: builder.expr }, inputs)
    }

    // ---- outputs ----

    pub fn wants(&self, index: usize) -> bool {
        self.host.outputs.get(index).copied().flatten().is_some()
    }

    pub fn output_count(&self) -> usize {
        self.host.outputs.len()
    }

    /// The tensor that output `index` was set to.
    pub fn output(&self, index: usize) -> Option<ValueId> {
        self.outputs.get(index)?.as_ref()?.value
    }

    pub fn set(&mut self, index: usize, value: ValueId) {
        if self.wants(index) {
            let ty = self.ty(value).clone();
            self.outputs[index] = Some(Lowered { ty, value: Some(value), known: None });
        }
    }

    pub fn set_known(&mut self, index: usize, known: Known) {
        if self.wants(index) {
            let ty = TensorType::new(known.dtype, known.shape.iter().map(|&size| Dim::from(size)));
            self.outputs[index] = Some(Lowered { ty, value: None, known: Some(known) });
        }
    }

    /// Output `index` is operand `input` itself.
    pub fn forward(&mut self, index: usize, input: usize) -> Result<()> {
        let source = self.required(input)?;
        let known = self.lowering.known(source);
        // What is only known stays without a tensor.
        let value = match (&known, &self.lowering.values[source.index()]) {
            (Some(_), Some(Lowered { value: None, .. }) | None) => None,
            _ => Some(self.lowering.tensor(source)?),
        };
        let ty = self.input_type(input)?;
        if self.wants(index) {
            self.outputs[index] = Some(Lowered { ty, value, known });
        }
        Ok(())
    }

    /// The outputs are those of a graph that the node runs on its operands.
    pub fn call(&mut self, body: &'g HostGraph) -> Result<()> {
        if body.inputs.len() != self.input_count() || body.outputs.len() < self.output_count() {
            return Err(Reject::new("operands and results do not fit the function").remedy(Remedy::Correct));
        }
        let mut operands = Vec::with_capacity(self.input_count());
        for index in 0..self.input_count() {
            let source = self.required(index)?;
            if self.lowering.values[source.index()].is_none() {
                self.lowering.tensor(source)?;
            }
            let lowered = self.lowering.values[source.index()].clone();
            operands.push(lowered.ok_or_else(|| Reject::new("an operand is not known"))?);
        }
        let results = self.lowering.lower_body(body, operands)?;
        for (index, lowered) in results.into_iter().enumerate() {
            if self.wants(index) {
                self.outputs[index] = Some(lowered);
            }
        }
        Ok(())
    }

    pub fn is_set(&self, index: usize) -> bool {
        self.outputs.get(index).is_some_and(Option::is_some)
    }
}

/// Builds a scalar expression of one float type.
pub struct ExprBuilder {
    expr: Expr,
    dtype: DType,
}

impl ExprBuilder {
    pub fn input(&mut self, index: u16) -> u16 {
        self.expr.push(ExprNode::Input(index))
    }

    pub fn number(&mut self, value: f64) -> u16 {
        let scalar = match self.dtype.is_float() {
            true => Scalar::float(self.dtype, value),
            false => Scalar::int(self.dtype, value as i64),
        };
        self.expr.push(ExprNode::Const(scalar))
    }

    pub fn unary(&mut self, op: UnaryOp, x: u16) -> u16 {
        self.expr.push(ExprNode::Unary(op, x))
    }

    pub fn binary(&mut self, op: BinaryOp, a: u16, b: u16) -> u16 {
        self.expr.push(ExprNode::Binary(op, a, b))
    }

    pub fn select(&mut self, condition: u16, a: u16, b: u16) -> u16 {
        self.expr.push(ExprNode::Select(condition, a, b))
    }
}

/// An axis as ONNX counts it, from the front.
pub fn axis(axis: i64, rank: usize) -> Result<usize> {
    let counted = if axis < 0 { axis.wrapping_add(rank as i64) } else { axis };
    usize::try_from(counted)
        .ok()
        .filter(|&counted| counted < rank)
        .ok_or_else(|| Reject::new(format!("axis {axis} is outside rank {rank}")).remedy(Remedy::Correct))
}

/// Axes as ONNX counts them: from the front, sorted, each once.
pub fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut counted = list.iter().map(|&value| axis(value, rank)).collect::<Result<Vec<_>>>()?;
    counted.sort_unstable();
    counted.dedup();
    if counted.len() == list.len() {
        Ok(counted)
    } else {
        Err(Reject::new(format!("axes {list:?} repeat")).remedy(Remedy::Correct))
    }
}

pub fn scalar_tensor(dtype: DType, value: f64) -> Result<Tensor> {
    Ok(match dtype {
        DType::F32 => Tensor::scalar(value as f32),
        DType::F64 => Tensor::scalar(value),
        DType::F16 => Tensor::scalar(half::f16::from_f64(value)),
        DType::BF16 => Tensor::scalar(half::bf16::from_f64(value)),
        DType::I8 => Tensor::scalar(value as i8),
        DType::U8 => Tensor::scalar(value as u8),
        DType::I16 => Tensor::scalar(value as i16),
        DType::U16 => Tensor::scalar(value as u16),
        DType::I32 => Tensor::scalar(value as i32),
        DType::U32 => Tensor::scalar(value as u32),
        DType::I64 => Tensor::scalar(value as i64),
        DType::U64 => Tensor::scalar(value as u64),
        DType::Bool => {
            Tensor::from_bools(&[], &[value != 0.0]).map_err(|error| Reject::new(error.to_string()))?
        }
        _ => return Err(Reject::new(format!("no literal of type {dtype}"))),
    })
}
