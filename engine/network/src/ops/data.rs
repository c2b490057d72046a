//! What the reference evaluations share: broadcasting, element-wise copying by index tables, expressions over tensors.

use super::OpError;
use crate::convert::{Values, pack_nibbles, unpack_nibbles};
use crate::{AlignedBytes, DType, Expr, Tensor};
use std::borrow::Cow;

/// Row-major strides in elements.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut s = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        s[i - 1] = s[i] * shape[i];
    }
    s
}

/// A shape of four axes.
pub(super) fn four(shape: &[usize]) -> Result<[usize; 4], OpError> {
    shape.try_into().map_err(|_| OpError::Eval(format!("{shape:?} has not four axes")))
}

/// Calls `f` with the sum of one offset per axis for each element of the outer product of `tables`, in row-major order.
/// A negative sum of tables whose entries may be [`OUTSIDE`] means that some axis lies outside.
pub(super) fn outer(tables: &[Vec<isize>], mut f: impl FnMut(isize)) {
    let Some((inner, rest)) = tables.split_last() else { return f(0) };
    if tables.iter().any(Vec::is_empty) {
        return;
    }
    let mut index = vec![0usize; rest.len()];
    let mut base: isize = rest.iter().map(|t| t[0]).sum();
    loop {
        inner.iter().for_each(|o| f(base + o));
        let mut axis = rest.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            let t = &rest[axis];
            base -= t[index[axis]];
            index[axis] += 1;
            if index[axis] < t.len() {
                base += t[index[axis]];
                break;
            }
            index[axis] = 0;
            base += t[0];
        }
    }
}

/// Table entry of an index outside of the tensor: keeps every sum negative, for up to 64 axes.
pub(super) const OUTSIDE: isize = isize::MIN / 64;

/// Offsets `i * stride` for each `i` below `n`.
pub(super) fn line(n: usize, stride: usize) -> Vec<isize> {
    (0..n).map(|i| (i * stride) as isize).collect()
}

/// Offset tables that read a tensor of shape `shape` broadcast to `out`.
pub(super) fn broadcast_tables(shape: &[usize], out: &[usize]) -> Vec<Vec<isize>> {
    let shift = out.len() - shape.len();
    let s = strides(shape);
    (0..out.len())
        .map(|a| match a.checked_sub(shift) {
            Some(i) if shape[i] != 1 => line(out[a], s[i]),
            _ => vec![0; out[a]],
        })
        .collect()
}

/// The tensor's elements broadcast to `out`.
pub(super) fn broadcast(t: &Tensor, out: &[usize]) -> Values {
    let v = Values::of(t);
    if t.shape() == out {
        return v;
    }
    let tables = broadcast_tables(t.shape(), out);
    let n = out.iter().product();
    match v {
        Values::Float(v) => {
            let mut r = Vec::with_capacity(n);
            outer(&tables, |o| r.push(v[o as usize]));
            Values::Float(r)
        }
        Values::Int(v) => {
            let mut r = Vec::with_capacity(n);
            outer(&tables, |o| r.push(v[o as usize]));
            Values::Int(r)
        }
    }
}

/// Elements evaluated at a time, so that intermediate values stay in the cache.
const BLOCK: usize = 2048;

/// `expr` over operands of `n` elements each.
pub(super) fn evaluate(
    expr: &Expr,
    types: &[DType],
    operands: &[Values],
    n: usize,
    result: DType,
) -> Result<Values, OpError> {
    let mut out = Values::zeros(result, n);
    let mut from = 0;
    while from < n {
        let to = n.min(from + BLOCK);
        let blocks: Vec<Values> = operands
            .iter()
            .map(|o| match o {
                Values::Float(v) => Values::Float(v[from..to].to_vec()),
                Values::Int(v) => Values::Int(v[from..to].to_vec()),
            })
            .collect();
        let refs: Vec<&Values> = blocks.iter().collect();
        let done = expr.evaluate(types, &refs);
        match (&mut out, done) {
            (Values::Float(o), Some(Values::Float(v))) if v.len() == to - from => {
                o[from..to].copy_from_slice(&v)
            }
            (Values::Int(o), Some(Values::Int(v))) if v.len() == to - from => o[from..to].copy_from_slice(&v),
            _ => return Err(OpError::Eval(format!("the expression does not give {result}"))),
        }
        from = to;
    }
    Ok(out)
}

/// Elements as bytes, whatever their type; 4-bit types take a byte each.
pub(super) struct Cells<'a> {
    pub width: usize,
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> Cells<'a> {
    pub(super) fn of(t: &'a Tensor) -> Cells<'a> {
        if t.dtype().bits() < 8 {
            Cells { width: 1, bytes: unpack_nibbles(t.bytes(), t.count()).into() }
        } else {
            Cells { width: t.dtype().bits() / 8, bytes: t.bytes().into() }
        }
    }

    pub(super) fn at(&self, i: usize) -> &[u8] {
        &self.bytes[i * self.width..(i + 1) * self.width]
    }

    /// The elements at the sums of `tables`, `fill` where a sum is negative.
    pub(super) fn outer(&self, tables: &[Vec<isize>], fill: Option<&[u8]>) -> Vec<u8> {
        match self.width {
            1 => self.outer_of::<1>(tables, fill),
            2 => self.outer_of::<2>(tables, fill),
            4 => self.outer_of::<4>(tables, fill),
            _ => self.outer_of::<8>(tables, fill),
        }
    }

    fn outer_of<const W: usize>(&self, tables: &[Vec<isize>], fill: Option<&[u8]>) -> Vec<u8> {
        let (cells, _) = self.bytes.as_chunks::<W>();
        let fill: [u8; W] = fill.and_then(|f| f.try_into().ok()).unwrap_or([0; W]);
        let mut out = Vec::with_capacity(W * tables.iter().map(Vec::len).product::<usize>());
        outer(tables, |o| out.extend_from_slice(if o < 0 { &fill } else { &cells[o as usize] }));
        out
    }
}

/// A tensor from the bytes of its elements, where 4-bit types take a byte each.
pub(super) fn from_cells(dtype: DType, shape: &[usize], cells: &[u8]) -> Result<Tensor, OpError> {
    Ok(if dtype.bits() < 8 {
        Tensor::new(dtype, shape, AlignedBytes::copy_of(&pack_nibbles(cells)).into())?
    } else {
        Tensor::from_bytes(dtype, shape, cells)?
    })
}

/// Sizes before, of and after `axis`, flattened.
pub(super) fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

/// Index `i` (negative counts from the end) of an axis of `size`. Errors: out of range.
pub(super) fn checked_index(i: i64, size: usize, axis: usize) -> Result<usize, OpError> {
    let n = size as i64;
    let at = if i < 0 { i + n } else { i };
    if (0..n).contains(&at) {
        Ok(at as usize)
    } else {
        Err(OpError::Eval(format!("index {i} is out of range on axis {axis} of size {size}")))
    }
}
