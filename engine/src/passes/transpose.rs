//! Permutations of axes, and constants transposed at memory speed.

use engraft_network::{AlignedBytes, Tensor};

/// `x` with axis `i` of the result being axis `perm[i]` of `x`; `None` for 4-bit types or a perm that does not fit.
pub(super) fn transpose_tensor(x: &Tensor, perm: &[usize]) -> Option<Tensor> {
    if perm.len() != x.shape().len() || perm.iter().any(|p| *p >= perm.len()) {
        return None;
    }
    let shape: Vec<usize> = perm.iter().map(|&p| x.shape()[p]).collect();
    if moves_ones_only(perm, |a| x.shape()[a] == 1) {
        return x.reshaped(&shape).ok();
    }
    let mut strides = vec![1usize; perm.len()];
    for i in (0..perm.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * x.shape()[i + 1];
    }
    // Output axes without those of size 1, neighbours that stay neighbours merged: (size, stride in x).
    let mut axes: Vec<(usize, usize)> = Vec::new();
    for &p in perm.iter().filter(|p| x.shape()[**p] != 1) {
        let (size, stride) = (x.shape()[p], strides[p]);
        match axes.last_mut() {
            Some(last) if last.1 == stride * size => *last = (last.0 * size, stride),
            _ => axes.push((size, stride)),
        }
    }
    let mut out = AlignedBytes::zeroed(x.bytes().len());
    match x.dtype().bits() {
        8 => permute::<1>(x.bytes(), out.as_mut_slice(), &axes),
        16 => permute::<2>(x.bytes(), out.as_mut_slice(), &axes),
        32 => permute::<4>(x.bytes(), out.as_mut_slice(), &axes),
        64 => permute::<8>(x.bytes(), out.as_mut_slice(), &axes),
        _ => return None,
    }
    Tensor::new(x.dtype(), &shape, out.into()).ok()
}

/// Writes the elements of `src` at the axes' strides densely to `dst`, in square blocks of the two axes that are
/// contiguous on either side.
fn permute<const W: usize>(src: &[u8], dst: &mut [u8], axes: &[(usize, usize)]) {
    const BLOCK: usize = 32;
    if dst.is_empty() {
        return;
    }
    let (src, _) = src.as_chunks::<W>();
    let (dst, _) = dst.as_chunks_mut::<W>();
    let n = axes.len();
    let (cols, col_stride) = axes.last().copied().unwrap_or((1, 1));
    // The axis along which the source is contiguous, if it is not the last.
    let row = axes[..n.saturating_sub(1)].iter().position(|a| a.1 == 1);
    let mut out_strides = vec![1usize; n];
    for i in (0..n.saturating_sub(1)).rev() {
        out_strides[i] = out_strides[i + 1] * axes[i + 1].0;
    }
    let (rows, row_out) = row.map_or((1, 0), |r| (axes[r].0, out_strides[r]));
    let outer: Vec<usize> = (0..n.saturating_sub(1)).filter(|i| Some(*i) != row).collect();
    let mut index = vec![0usize; outer.len()];
    loop {
        let from: usize = outer.iter().zip(&index).map(|(&a, i)| axes[a].1 * i).sum();
        let to: usize = outer.iter().zip(&index).map(|(&a, i)| out_strides[a] * i).sum();
        if row.is_none() && col_stride == 1 {
            dst[to..to + cols].copy_from_slice(&src[from..from + cols]);
        } else {
            for r0 in (0..rows).step_by(BLOCK) {
                for c0 in (0..cols).step_by(BLOCK) {
                    for r in r0..(r0 + BLOCK).min(rows) {
                        let line = &mut dst[to + r * row_out + c0..to + r * row_out + (c0 + BLOCK).min(cols)];
                        let mut s = from + r + c0 * col_stride;
                        for d in line {
                            *d = src[s];
                            s += col_stride;
                        }
                    }
                }
            }
        }
        let mut axis = outer.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            index[axis] += 1;
            if index[axis] < axes[outer[axis]].0 {
                break;
            }
            index[axis] = 0;
        }
    }
}

/// True if the permutation keeps the order of all axes that are not of size 1: the elements stay where they are.
pub(super) fn moves_ones_only(perm: &[usize], is_one: impl Fn(usize) -> bool) -> bool {
    let mut rest = perm.iter().copied().filter(|p| !is_one(*p));
    let mut last = None;
    rest.all(|p| {
        let ok = last.is_none_or(|l| l < p);
        last = Some(p);
        ok
    })
}

pub(super) fn is_identity(perm: &[usize]) -> bool {
    perm.iter().enumerate().all(|(i, p)| i == *p)
}

pub(super) fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inv = vec![0; perm.len()];
    for (i, &p) in perm.iter().enumerate() {
        inv[p] = i;
    }
    inv
}

/// The permutation that does `first`, then `second`.
pub(super) fn compose(first: &[usize], second: &[usize]) -> Vec<usize> {
    second.iter().map(|&p| first[p]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_transposed_as_the_definition_says() {
        for (shape, perm) in [
            (vec![64, 3, 7, 7], vec![2, 3, 1, 0]),
            (vec![5, 70], vec![1, 0]),
            (vec![2, 3, 4, 5], vec![0, 3, 1, 2]),
            (vec![2, 3, 4, 5], vec![0, 2, 1, 3]),
            (vec![1, 7, 1, 5], vec![3, 0, 1, 2]),
            (vec![3, 0, 2], vec![2, 1, 0]),
            (vec![4], vec![0]),
        ] {
            let n: usize = shape.iter().product();
            let data: Vec<i32> = (0..n as i32).collect();
            let x = Tensor::from_slice(&shape, &data).unwrap();
            let y = transpose_tensor(&x, &perm).unwrap();
            let out: Vec<usize> = perm.iter().map(|&p| shape[p]).collect();
            assert_eq!(y.shape(), out);
            let y: Vec<i32> = y.to_vec().unwrap();
            for (i, v) in y.iter().enumerate() {
                let mut rest = i;
                let mut index = vec![0; shape.len()];
                for a in (0..out.len()).rev() {
                    index[perm[a]] = rest % out[a];
                    rest /= out[a];
                }
                let flat = index.iter().zip(&shape).fold(0, |acc, (i, d)| acc * d + i);
                assert_eq!(*v, flat as i32, "{shape:?} {perm:?}");
            }
        }
    }

    #[test]
    fn permutations_compose() {
        let nhwc = [0, 2, 3, 1];
        assert!(is_identity(&compose(&nhwc, &inverse(&nhwc))));
        assert!(moves_ones_only(&[0, 2, 3, 1], |a| a == 1));
        assert!(!moves_ones_only(&[0, 2, 3, 1], |a| a == 0));
    }
}
