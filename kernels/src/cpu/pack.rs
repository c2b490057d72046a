//! Packing of the B operand: panels of [`Elem::PANEL`] columns, each a contiguous `k x PANEL` matrix, the last one zero
//! padded. Every instruction set and micro-kernel reads the same panels.

use super::gemm::lanes::Elem;

/// Panels that `n` columns make.
pub fn panels<E: Elem>(n: usize) -> usize {
    n.div_ceil(E::PANEL)
}

/// Elements of a packed `k x n` matrix.
pub fn packed_len<E: Elem>(k: usize, n: usize) -> usize {
    panels::<E>(n) * E::PANEL * k
}

/// A `k x n` matrix in memory: element `(i, j)` at `data + i * row + j * col`, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<E> {
    pub data: *const E,
    pub row: isize,
    pub col: isize,
}

/// Packs columns `[first, first + PANEL)` of a `k x n` matrix to one panel; columns from `n` on become zeros.
///
/// # Safety
/// The matrix is readable for `k x n` elements; `out` is writable for `k * PANEL` elements and does not overlap it.
pub unsafe fn pack_panel<E: Elem>(b: Matrix<E>, k: usize, n: usize, first: usize, out: *mut E) {
    let cols = n.saturating_sub(first).min(E::PANEL);
    // SAFETY: (i, first + j) stays inside the matrix for i < k, j < cols; i * PANEL + j inside the panel.
    unsafe {
        let base = b.data.offset(first as isize * b.col);
        if b.col == 1 {
            for i in 0..k {
                let to = out.add(i * E::PANEL);
                let from = base.offset(i as isize * b.row);
                std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.cast::<u8>(), cols * size_of::<E>());
                for j in cols..E::PANEL {
                    to.add(j).write(E::ZERO);
                }
            }
            return;
        }
        // Columns are far apart: read a few steps of each column at a time, so that both sides stay in L1.
        const STEPS: usize = 16;
        for i0 in (0..k).step_by(STEPS) {
            let steps = STEPS.min(k - i0);
            for j in 0..E::PANEL {
                let to = out.add(i0 * E::PANEL + j);
                if j >= cols {
                    for i in 0..steps {
                        to.add(i * E::PANEL).write(E::ZERO);
                    }
                    continue;
                }
                let from = base.offset(j as isize * b.col + i0 as isize * b.row);
                for i in 0..steps {
                    to.add(i * E::PANEL).write(from.offset(i as isize * b.row).read_unaligned());
                }
            }
        }
    }
}

/// Packs a whole `k x n` matrix.
///
/// # Safety
/// The matrix is readable for `k x n` elements; `out` is writable for [`packed_len`] elements and does not overlap it.
pub unsafe fn pack<E: Elem>(b: Matrix<E>, k: usize, n: usize, out: *mut E) {
    for p in 0..panels::<E>(n) {
        // SAFETY: panel p is k * PANEL elements at its offset, inside the packed length.
        unsafe { pack_panel(b, k, n, p * E::PANEL, out.add(p * E::PANEL * k)) };
    }
}
