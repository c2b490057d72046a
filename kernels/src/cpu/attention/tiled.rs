//! What vectors do around the tile unit: operands in split form, scores to weights, products to sums.

use super::Shape;
use super::rows::Block;
use super::tiles::PANEL;
use crate::cpu::amx::split::{self, SplitRow, put_split};
use crate::cpu::amx::tile::{COLS, Products, ROWS, STEP};
use crate::cpu::movement::transpose;
use crate::cpu::simd::{Simd, Task};
use crate::cpu::storage::Storage;

/// Where the unit leaves scores and sums, in panels, and finds weights, in split form.
#[derive(Clone, Copy)]
pub(super) struct Tiled<'a, E> {
    pub shape: &'a Shape,
    pub products: Products,
    /// Panels of keys.
    pub panels: usize,
    pub scores: *mut f32,
    pub weights: *mut u8,
    pub weight_stride: usize,
    /// What each row's sums are to be multiplied with.
    pub factors: *mut f32,
    pub sums: *mut f32,
    /// Queries as they were before they were split, and the block's keys.
    pub plain: *const f32,
    pub pitch: usize,
    pub k: *const E,
}

impl<E> Tiled<'_, E> {
    /// The upper part of the weight of row `i` and key `j`.
    #[inline(always)]
    pub fn weight(&self, i: usize, j: usize) -> *mut u8 {
        self.weights
            .wrapping_add(i * self.weight_stride + j / STEP * self.products.row_bytes() + j % STEP * 2)
    }
}

impl<E: Storage> Block for Tiled<'_, E> {
    const CHECKED: bool = true;

    #[inline(always)]
    fn score(&self, i: usize, j: usize) -> *mut f32 {
        self.scores.wrapping_add(j / COLS * PANEL + i * COLS + j % COLS)
    }

    #[cold]
    unsafe fn repair(&self, i: usize, n: usize) {
        let [_, _, row, col] = self.shape.k;
        for j in 0..n {
            let mut sum = 0f32;
            for c in 0..self.shape.d {
                // SAFETY: by the caller's contract.
                unsafe {
                    let key = (*self.k.offset(j as isize * row + c as isize * col)).widen();
                    sum = self.plain.add(i * self.pitch + c).read().mul_add(key, sum);
                }
            }
            // SAFETY: as above.
            unsafe { *self.score(i, j) = sum };
        }
    }

    #[inline(always)]
    unsafe fn put<S: Simd>(&self, s: S, i: usize, j: usize, _: usize, weights: S::F) {
        // SAFETY: by the caller's contract; the row has room for whole steps, and lanes that are no keys are zero.
        unsafe { put_split(s, self.products, weights, self.weight(i, j).cast()) }
    }

    #[inline(always)]
    unsafe fn clear<S: Simd>(&self, s: S, i: usize, n: usize) {
        for j in (n.next_multiple_of(S::LANES)..self.panels * STEP).step_by(S::LANES) {
            // SAFETY: by the caller's contract.
            unsafe { self.put(s, i, j, S::LANES, s.zero()) };
        }
    }

    #[inline(always)]
    unsafe fn rescale<S: Simd>(&self, _: S, i: usize, factor: f32, _: bool) {
        // SAFETY: by the caller's contract.
        unsafe { *self.factors.add(i) = factor };
    }

    #[inline(always)]
    fn sum(&self, i: usize, c: usize) -> *mut f32 {
        self.sums.wrapping_add(c / COLS * PANEL + i * COLS + c % COLS)
    }
}

/// Splits rows of `n` numbers, `pitch` apart, into rows `stride` bytes apart.
pub(super) struct SplitRows {
    pub products: Products,
    pub from: *const f32,
    pub pitch: usize,
    pub rows: usize,
    pub n: usize,
    pub to: *mut u8,
    pub stride: usize,
}

impl Task for SplitRows {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in 0..self.rows {
            let from = self.from.wrapping_add(i * self.pitch);
            let to = self.to.wrapping_add(i * self.stride);
            // SAFETY: who makes one vouches for the rows and for room for their steps.
            unsafe { SplitRow { products: self.products, from, n: self.n, to }.split(s) };
        }
    }
}

/// Packs up to [`COLS`] keys of consecutive columns as a panel: a tile of the second operand holds pairs of columns of a
/// split key as one word, so that it is the transpose of split rows.
pub(super) struct PackKeys<'a, E> {
    pub shape: &'a Shape,
    pub products: Products,
    pub from: *const E,
    pub keys: usize,
    /// Room for a tile of split rows.
    pub staged: *mut u8,
    pub to: *mut u8,
}

impl<E: Storage> Task for PackKeys<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const TILE: usize = 64 * ROWS;
        let (products, steps) = (self.products, split::steps(self.shape.d));
        let row = steps * products.row_bytes();
        let parts = products.row_bytes() / (2 * STEP);
        for half in 0..COLS / ROWS {
            let keys = ROWS.min(self.keys.saturating_sub(half * ROWS));
            for i in 0..keys {
                let from = self.from.wrapping_offset((half * ROWS + i) as isize * self.shape.k[2]);
                let to = self.staged.wrapping_add(i * row);
                // SAFETY: the key exists, and the stage has room for a tile of rows.
                unsafe { SplitRow { products, from, n: self.shape.d, to }.split(s) };
            }
            for (step, part) in (0..steps).flat_map(|step| (0..parts).map(move |part| (step, part))) {
                let from = self.staged.wrapping_add(step * products.row_bytes() + part * 2 * STEP);
                // SAFETY: the panel has these tiles of 16 rows of 16 words.
                unsafe {
                    let to = self.to.add(step * products.panel_bytes() + part * 2 * TILE + half * TILE);
                    if keys < ROWS {
                        std::ptr::write_bytes(to, 0, TILE);
                    }
                    transpose(4, STEP / 2, keys, from, row as isize, to, 64);
                }
            }
        }
    }
}

/// Whether `n` numbers are finite. False as well where finite ones are so large that they overflow together.
pub(super) struct AllFinite {
    pub from: *const f32,
    pub n: usize,
}

impl Task for AllFinite {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let mut totals = [s.zero(); 4];
        for i in (0..self.n).step_by(COLS) {
            for (v, j) in (0..COLS).step_by(S::LANES).enumerate() {
                // SAFETY: rows of COLS numbers.
                totals[v % 4] = s.add(totals[v % 4], unsafe { s.load(self.from.add(i + j)) });
            }
        }
        let total = s.add(s.add(totals[0], totals[1]), s.add(totals[2], totals[3]));
        !s.any(s.is_nan(s.sub(total, total)))
    }
}

/// `sums = sums * factor + product`, row by row of [`COLS`].
pub(super) struct Accumulate {
    pub sums: *mut f32,
    pub factors: *const f32,
    pub rows: usize,
    pub product: *const f32,
}

impl Task for Accumulate {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for i in 0..self.rows {
            // SAFETY: rows of COLS numbers.
            unsafe {
                let factor = s.splat(*self.factors.add(i));
                for j in (0..COLS).step_by(S::LANES) {
                    let to = self.sums.add(i * COLS + j);
                    s.store(to, s.fma(s.load(to), factor, s.load(self.product.add(i * COLS + j))));
                }
            }
        }
    }
}
