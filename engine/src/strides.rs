//! Views: how operators that only move elements look as strides over their operand's memory.

use engraft_kernels::TensorDesc;
use engraft_network::{Op, ops::eval_shape};
use smallvec::SmallVec;

/// Operators whose result may be a [`view`] of their operand.
pub(crate) fn is_view(op: &Op) -> bool {
    matches!(op, Op::Reshape(_) | Op::Transpose(_) | Op::Slice(_) | Op::Expand(_) | Op::BitCast(_))
}

/// The result of a view operator as strides over its operand, with the offset in elements; `None` if the operator is no
/// view of an operand with these strides, or a dim is impossible under `env`.
pub(crate) fn view(op: &Op, input: &TensorDesc, env: &[i64]) -> Option<(TensorDesc, isize)> {
    let dtype = input.dtype;
    if dtype.bits() < 8 && !matches!(op, Op::Reshape(_)) {
        return None;
    }
    match op {
        Op::Reshape(r) => {
            let shape = eval_shape(&r.shape, env).ok()?;
            let strides = reshape(&input.shape, &input.strides, &shape)?;
            Some((TensorDesc { dtype, shape: shape.as_slice().into(), strides }, 0))
        }
        Op::Transpose(t) => Some((
            TensorDesc {
                dtype,
                shape: t.perm.iter().map(|&a| input.shape[a]).collect(),
                strides: t.perm.iter().map(|&a| input.strides[a]).collect(),
            },
            0,
        )),
        Op::Slice(s) => {
            let mut out = input.clone();
            let mut offset = 0isize;
            for r in &s.ranges {
                let (start, len) = (r.start.eval(env), usize::try_from(r.len.eval(env)).ok()?);
                let last = start.checked_add(r.step.checked_mul(len.saturating_sub(1) as i64)?)?;
                let size = input.shape[r.axis] as i64;
                if len > 0 && (start < 0 || start >= size || last < 0 || last >= size) {
                    return None;
                }
                if len > 0 {
                    offset += start as isize * input.strides[r.axis];
                }
                out.shape[r.axis] = len;
                out.strides[r.axis] = input.strides[r.axis] * r.step as isize;
            }
            Some((out, offset))
        }
        Op::Expand(e) => {
            let target = eval_shape(&e.shape, env).ok()?;
            let lead = target.len().checked_sub(input.rank())?;
            let mut shape: SmallVec<[usize; 6]> = target.as_slice().into();
            let mut strides: SmallVec<[isize; 6]> = SmallVec::from_elem(0, target.len());
            for i in 0..input.rank() {
                if input.shape[i] == shape[lead + i] {
                    strides[lead + i] = input.strides[i];
                } else if shape[lead + i] == 1 {
                    shape[lead + i] = input.shape[i];
                    strides[lead + i] = input.strides[i];
                } else if input.shape[i] != 1 {
                    return None;
                }
            }
            Some((TensorDesc { dtype, shape, strides }, 0))
        }
        Op::BitCast(b) => Some((TensorDesc { dtype: b.to, ..input.clone() }, 0)),
        _ => None,
    }
}

/// Strides of `to` over memory that holds `from` at `strides`, if there are any.
pub(crate) fn reshape(from: &[usize], strides: &[isize], to: &[usize]) -> Option<SmallVec<[isize; 6]>> {
    let mut out: SmallVec<[isize; 6]> = SmallVec::from_elem(0, to.len());
    let count: usize = from.iter().product();
    if count != to.iter().product::<usize>() {
        return None;
    }
    if count == 0 {
        return Some(out);
    }
    // Axes of size 1 carry no stride of their own.
    let old: SmallVec<[(usize, isize); 6]> =
        from.iter().copied().zip(strides.iter().copied()).filter(|(d, _)| *d != 1).collect();
    let (mut oi, mut ni) = (0, 0);
    while oi < old.len() || ni < to.len() {
        if ni < to.len() && to[ni] == 1 {
            ni += 1;
            continue;
        }
        if oi >= old.len() || ni >= to.len() {
            return None;
        }
        let (o_start, n_start) = (oi, ni);
        let (mut op, mut np) = (old[oi].0, to[ni]);
        oi += 1;
        ni += 1;
        while op != np {
            if op < np {
                op *= old.get(oi)?.0;
                oi += 1;
            } else {
                np *= *to.get(ni)?;
                ni += 1;
            }
        }
        for k in o_start..oi - 1 {
            if old[k].1 != old[k + 1].1 * old[k + 1].0 as isize {
                return None;
            }
        }
        let mut step = old[oi - 1].1;
        for k in (n_start..ni).rev() {
            out[k] = step;
            step *= to[k] as isize;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshapes_of_views() {
        // Splitting and merging dense axes.
        assert_eq!(reshape(&[2, 12], &[12, 1], &[2, 3, 4]).as_deref(), Some(&[12, 4, 1][..]));
        // A transposed matrix cannot be flattened.
        assert_eq!(reshape(&[3, 4], &[1, 3], &[12]), None);
        // But its axes can be split.
        assert_eq!(reshape(&[4, 4], &[1, 4], &[2, 2, 4]).as_deref(), Some(&[2, 1, 4][..]));
        // Size-1 axes come and go.
        assert_eq!(reshape(&[1, 5, 1], &[99, 7, 3], &[5]).as_deref(), Some(&[7][..]));
        // A broadcast axis stays one.
        assert_eq!(
            reshape(&[2, 3], &[0, 1], &[2, 3, 1]).as_deref().map(|s| s[..2].to_vec()),
            Some(vec![0, 1])
        );
    }
}
