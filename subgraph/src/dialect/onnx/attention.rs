//! ONNX's attention.

use engraft_network::{DType, Dim, ops};

use super::super::Row;
use super::attend::{Scores, attend, heads, merge_heads, scale, split_heads};
use super::row;
use crate::lower::{NodeLowering, Reject, Remedy};
use crate::onnx::dtype_of;

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[row("Attention", 23, attention)];

/// `softmax(q k' * scale + mask) v`, a row without any key giving 0. The softmax has the precision of `f32` at least, whatever
/// `softmax_precision` asks for.
fn attention(n: &mut NodeLowering) -> Result<()> {
    for (given, name) in [(n.wants(3), "qk_matmul_output"), (n.has(6), "nonpad_kv_seqlen")] {
        if given {
            return Err(Reject::new(format!("{name} is not supported")).wants(name, ""));
        }
    }
    for name in ["left_window_size", "right_window_size"] {
        if n.int_or(name, -1)? >= 0 {
            return Err(Reject::new(format!("attribute {name} is not supported")).wants(name, "-1"));
        }
    }
    if let Some(element_type) = n.int("softmax_precision")?
        && !dtype_of(element_type).is_some_and(DType::is_float)
    {
        return Err(
            Reject::new("softmax_precision is not supported").wants("softmax_precision", "a type of floats")
        );
    }
    let (mut q, mut k, mut v) = (n.input(0)?, n.input(1)?, n.input(2)?);
    let merged = n.rank(q) == 3;
    if merged {
        let (q_heads, kv_heads) = (heads(n, "q_num_heads")?, heads(n, "kv_num_heads")?);
        q = split_heads(n, q, &q_heads)?;
        k = split_heads(n, k, &kv_heads)?;
        v = split_heads(n, v, &kv_heads)?;
    }
    let mut offset = Dim::Fixed(0);
    if let (Some(past_k), Some(past_v)) = (n.optional(4)?, n.optional(5)?) {
        offset = n.shape(past_k).get(2).cloned().ok_or_else(|| Reject::invalid("past_key wants rank 4"))?;
        k = n.emit(ops::Concat { axis: 2 }, &[past_k, k])?;
        v = n.emit(ops::Concat { axis: 2 }, &[past_v, v])?;
    }
    n.set(1, k);
    n.set(2, v);
    let mut scores =
        Scores { scale: scale(n, q)?, cap: f64::from(n.float_or("softcap", 0.0)?), ..Scores::default() };
    if n.flag("is_causal")? {
        scores.causal = Some(offset);
    }
    if let Some(mask) = n.optional(3)? {
        let is_bool = n.dtype(mask) == DType::Bool;
        // Operator set 23 left the order of mask and cap open.
        if scores.cap != 0.0 && n.opset() < 24 && !is_bool {
            return Err(Reject::new("softcap with a float mask is not supported before operator set 24")
                .remedy(Remedy::OperatorSet { domain: String::new(), least: 24 }));
        }
        *(if is_bool { &mut scores.allowed } else { &mut scores.added }) = Some(mask);
    }
    let mut y = attend(n, [q, k, v], scores)?;
    if merged {
        y = merge_heads(n, y)?;
    }
    n.set(0, y);
    Ok(())
}
