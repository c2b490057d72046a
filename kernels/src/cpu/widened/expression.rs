//! Expressions over narrow operands as expressions over the type that kernels compute in.

use crate::Reject;
use engraft_network::{DType, Expr, ExprNode, Scalar};
use smallvec::SmallVec;

/// Whether kernels that compute in `wide` take `t` as well.
pub(crate) fn is_narrow(wide: DType, t: DType) -> bool {
    match wide {
        DType::F32 => matches!(t, DType::F16 | DType::BF16),
        _ => matches!(t, DType::I8 | DType::U8 | DType::I16 | DType::U16),
    }
}

/// `expr` over operands of the types `inputs` with every narrow one in `wide`: literals and conversions change, roundings
/// in the middle stay. The result is rounded when it is stored.
///
/// # Errors
/// An ill-typed expression, and one of integers, which wrap at their own width.
pub(crate) fn widen(expr: &Expr, inputs: &[DType], wide: DType) -> Result<Expr, Reject> {
    if wide != DType::F32 {
        return Err(Reject::new("an epilogue of integers that wrap at their own width"));
    }
    let types = expr.types(inputs).map_err(|i| Reject(format!("epilogue node {i} is ill-typed")))?;
    let is_wide = |i: u16| types[usize::from(i)] == wide || is_narrow(wide, types[usize::from(i)]);
    let mut out = Expr::new();
    let mut places: SmallVec<[u16; 16]> = SmallVec::new();
    for (i, node) in expr.nodes().iter().enumerate() {
        let at = |j: u16| places[usize::from(j)];
        let place = match *node {
            ExprNode::Const(c) if is_narrow(wide, c.dtype()) => {
                out.push(ExprNode::Const(Scalar::float(wide, c.to_f64())))
            }
            ExprNode::Input(_) | ExprNode::Const(_) => out.push(*node),
            ExprNode::Unary(op, a) => out.push(ExprNode::Unary(op, at(a))),
            ExprNode::Binary(op, a, b) => out.push(ExprNode::Binary(op, at(a), at(b))),
            ExprNode::Select(c, a, b) => out.push(ExprNode::Select(at(c), at(a), at(b))),
            ExprNode::Cast(to, a) if to == wide && is_wide(a) => at(a),
            ExprNode::Cast(to, a) if is_narrow(wide, to) => {
                let last = i + 1 == expr.nodes().len();
                if is_wide(a) && (last || types[usize::from(a)] == to) {
                    at(a)
                } else {
                    let rounded = out.push(ExprNode::Cast(to, at(a)));
                    out.push(ExprNode::Cast(wide, rounded))
                }
            }
            ExprNode::Cast(to, a) => out.push(ExprNode::Cast(to, at(a))),
        };
        places.push(place);
    }
    if let Some(result) = places.last() {
        out.finish(*result);
    }
    Ok(out)
}
