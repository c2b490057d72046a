//! Products of few or many rows with weights in panels of columns.

use crate::cpu::simd::{Simd, Task};
use std::ops::Range;

/// Columns of a panel: `[columns / 32][depth][32]`.
pub(super) const PANEL: usize = 32;

/// `out[r, c] = sum over k of row(r)[k] * weights[k, c]`, for some rows and the columns of some panels.
pub(super) struct Product<'a> {
    pub depth: usize,
    pub rows: Range<usize>,
    pub panels: Range<usize>,
    /// Where a row's `depth` floats begin.
    pub row: &'a dyn Fn(usize) -> *const f32,
    /// The first of all panels.
    pub weights: *const f32,
    /// Row 0 of the result.
    pub out: *mut f32,
    /// Floats between rows of the result.
    pub out_row: usize,
}

impl Task for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: whoever makes a product points it at rows, panels and results of its sizes.
        unsafe {
            match S::LANES {
                16 => {
                    let rows = self.sweep::<S, 8, 2, 1>(s, self.rows.start);
                    let rows = self.sweep::<S, 4, 2, 2>(s, rows);
                    let rows = self.sweep::<S, 2, 2, 4>(s, rows);
                    self.sweep::<S, 1, 2, 4>(s, rows);
                }
                8 => {
                    let rows = self.sweep::<S, 3, 4, 1>(s, self.rows.start);
                    self.sweep::<S, 1, 4, 2>(s, rows);
                }
                _ => {
                    self.sweep::<S, 1, 8, 1>(s, self.rows.start);
                }
            }
        }
    }
}

impl Product<'_> {
    /// Computes rows from `row` on in blocks of `M` while there are as many, in all panels; returns the first row left.
    ///
    /// # Safety
    /// See [`Product`].
    #[inline(always)]
    unsafe fn sweep<S: Simd, const M: usize, const V: usize, const P: usize>(
        &self,
        s: S,
        mut row: usize,
    ) -> usize {
        while row + M <= self.rows.end {
            let rows: [*const f32; M] = std::array::from_fn(|i| (self.row)(row + i));
            let mut panel = self.panels.start;
            // SAFETY: rows and panels of the product.
            unsafe {
                while panel + P <= self.panels.end {
                    self.tile::<S, M, V, P>(s, row, &rows, panel);
                    panel += P;
                }
                while panel < self.panels.end {
                    self.tile::<S, M, V, 1>(s, row, &rows, panel);
                    panel += 1;
                }
            }
            row += M;
        }
        row
    }

    /// `M` rows by `P` panels of `V` vectors each.
    ///
    /// # Safety
    /// See [`Product`].
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const V: usize, const P: usize>(
        &self,
        s: S,
        row: usize,
        rows: &[*const f32; M],
        panel: usize,
    ) {
        // The portable vectors may be of any width: as many as fill a panel.
        let vectors = if V * S::LANES == PANEL { V } else { PANEL / S::LANES };
        let mut from = 0;
        while from < vectors {
            let mut acc = [[[s.zero(); V]; P]; M];
            // SAFETY: elements of rows, panels and results.
            unsafe {
                for k in 0..self.depth {
                    for (p, _) in [(); P].iter().enumerate() {
                        let weights =
                            self.weights.add(((panel + p) * self.depth + k) * PANEL + from * S::LANES);
                        let mut w = [s.zero(); V];
                        for (v, w) in w.iter_mut().enumerate() {
                            if from + v < vectors {
                                *w = s.load(weights.add(v * S::LANES));
                            }
                        }
                        for m in 0..M {
                            let x = s.splat(*rows[m].add(k));
                            for v in 0..V {
                                acc[m][p][v] = s.fma(x, w[v], acc[m][p][v]);
                            }
                        }
                    }
                }
                for m in 0..M {
                    for p in 0..P {
                        let out =
                            self.out.add((row + m) * self.out_row + (panel + p) * PANEL + from * S::LANES);
                        for v in 0..V {
                            if from + v < vectors {
                                s.store(out.add(v * S::LANES), acc[m][p][v]);
                            }
                        }
                    }
                }
            }
            from += V;
        }
    }
}
