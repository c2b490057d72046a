//! Quantization and its inverse, as the elementwise regions that they are.

use super::pointwise::PointwiseTactic;
use crate::{Fit, Kernel, Operand, Problem, Reject, Tactic, TensorDesc};
use engraft_network::ops::Pointwise;
use engraft_network::{BinaryOp, DType, Expr, ExprId, ExprNode, Op, UnaryOp};
use smallvec::{SmallVec, smallvec};

/// `Quantize` and `Dequantize` of 8, 16 and 32-bit integers with scales per tensor, per axis, or per block.
#[derive(Debug)]
pub struct QuantizeTactic;

/// The same problem as a region over broadcast operands.
struct Region {
    op: Op,
    inputs: SmallVec<[TensorDesc; 3]>,
    output: TensorDesc,
}

impl Region {
    fn new(p: &Problem<'_>) -> Result<Region, Reject> {
        let (x, scale, output) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        let (axis, block, zero_point, expr) = match p.op {
            Op::Quantize(q) => (q.axis, q.block, q.zero_point, quantize(q.to, x.dtype, q.zero_point)?),
            Op::Dequantize(d) => {
                (d.axis, d.block, d.zero_point, dequantize(x.dtype, scale.dtype, d.zero_point)?)
            }
            _ => return Err(Reject::new("neither quantization nor its inverse")),
        };
        let blocks = (block > 0).then_some((axis, block));
        let split = |desc: &TensorDesc| match blocks {
            Some((axis, block)) => split(desc, axis, block),
            None => Ok(desc.clone()),
        };
        let rank = x.rank();
        let parameter = |desc: &TensorDesc| match blocks {
            Some((axis, _)) => {
                // One element for each block.
                let mut desc = desc.clone();
                desc.shape.insert(axis + 1, 1);
                desc.strides.insert(axis + 1, 0);
                desc
            }
            None if desc.count() == 1 => TensorDesc::dense(desc.dtype, &[]),
            None => {
                let mut along = TensorDesc::dense(desc.dtype, &vec![1; rank]);
                (along.shape[axis], along.strides[axis]) = (desc.shape[0], desc.strides[0]);
                along
            }
        };
        let mut inputs: SmallVec<[TensorDesc; 3]> = smallvec![split(x)?, parameter(scale)];
        if zero_point {
            inputs.push(parameter(&p.inputs[2].desc));
        }
        Ok(Region { op: Pointwise { expr }.into(), inputs, output: split(output)? })
    }

    /// Calls `f` with the region's problem.
    fn with<R>(&self, p: &Problem<'_>, f: impl FnOnce(&Problem<'_>) -> R) -> R {
        let inputs: SmallVec<[Operand<'_>; 3]> = self
            .inputs
            .iter()
            .zip(p.inputs)
            .map(|(desc, o)| Operand { desc: desc.clone(), constant: o.constant })
            .collect();
        let outputs = [self.output.clone()];
        f(&Problem { op: &self.op, inputs: &inputs, outputs: &outputs, ..*p })
    }
}

/// The axis as blocks and elements of a block.
fn split(desc: &TensorDesc, axis: usize, block: usize) -> Result<TensorDesc, Reject> {
    let size = desc.shape[axis];
    if !size.is_multiple_of(block) {
        return Err(Reject(format!("blocks of {block} along an axis of {size}")));
    }
    let mut desc = desc.clone();
    let stride = desc.strides[axis];
    desc.shape[axis] = size / block;
    desc.strides[axis] = stride * block as isize;
    desc.shape.insert(axis + 1, block);
    desc.strides.insert(axis + 1, stride);
    Ok(desc)
}

/// Integers whose values are exact in `f32`.
fn is_exact(dtype: DType) -> bool {
    matches!(dtype, DType::I8 | DType::U8 | DType::I16 | DType::U16)
}

/// Operand `i` as `f32`.
fn operand(e: &mut Expr, i: u16, dtype: DType) -> ExprId {
    let x = e.push(ExprNode::Input(i));
    if dtype == DType::F32 { x } else { e.push(ExprNode::Cast(DType::F32, x)) }
}

/// `saturate(round(x / scale) + zero point)`.
fn quantize(to: DType, x: DType, zero_point: bool) -> Result<Expr, Reject> {
    if !is_exact(to) || !matches!(x, DType::F32 | DType::F16 | DType::BF16) {
        return Err(Reject(format!("quantization of {x} to {to}")));
    }
    let mut e = Expr::new();
    let (value, scale) = (operand(&mut e, 0, x), operand(&mut e, 1, x));
    let quotient = e.push(ExprNode::Binary(BinaryOp::Div, value, scale));
    let mut y = e.push(ExprNode::Unary(UnaryOp::Round, quotient));
    if zero_point {
        let zero = operand(&mut e, 2, to);
        y = e.push(ExprNode::Binary(BinaryOp::Add, y, zero));
    }
    e.push(ExprNode::Cast(to, y));
    Ok(e)
}

/// `(x - zero point) * scale`.
fn dequantize(x: DType, to: DType, zero_point: bool) -> Result<Expr, Reject> {
    // 32-bit integers carry the sums of products, which have no zero point.
    let exact = is_exact(x) || x == DType::I32 && !zero_point;
    if !exact || !matches!(to, DType::F32 | DType::F16 | DType::BF16) {
        return Err(Reject(format!("dequantization of {x} to {to}")));
    }
    let mut e = Expr::new();
    let mut y = operand(&mut e, 0, x);
    let scale = operand(&mut e, 1, to);
    if zero_point {
        let zero = operand(&mut e, 2, x);
        y = e.push(ExprNode::Binary(BinaryOp::Sub, y, zero));
    }
    y = e.push(ExprNode::Binary(BinaryOp::Mul, y, scale));
    if to != DType::F32 {
        e.push(ExprNode::Cast(to, y));
    }
    Ok(e)
}

impl Tactic for QuantizeTactic {
    fn id(&self) -> &'static str {
        "quantize.tiles"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        if !matches!(p.op, Op::Quantize(_) | Op::Dequantize(_)) {
            return Err(Reject::new("neither quantization nor its inverse"));
        }
        Region::new(p)?.with(p, |p| PointwiseTactic.accepts(p))
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        match Region::new(p) {
            Ok(region) => region.with(p, |p| PointwiseTactic.prepare(p)),
            Err(reject) => unreachable!("prepared for what it refuses: {reject}"),
        }
    }
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&QuantizeTactic]
}
