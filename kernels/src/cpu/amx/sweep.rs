//! The loops around the tile unit, and what happens to its sums.

use super::source::{Segment, Source, Stage};
use super::split::steps;
use super::tile::{AHEAD, COLS, Products, ROWS, Tiles};
use crate::Isa;
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::gemm::sweep::Finish;
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::Storage;
use std::ops::Range;

/// `C[m, n] = A[m, taps * run] * B`, A from a source, B packed in panels.
#[derive(Clone, Debug)]
pub(super) struct TileSweep {
    pub source: Source,
    pub products: Products,
    pub n: usize,
    /// Rows of C, relative to the pointer given to [`TileSweep::run`], and of the residual.
    pub out: RowMap,
    pub residual: RowMap,
    pub isa: Isa,
}

/// Bytes of the sums of two tiles of rows.
const SUM_BYTES: usize = 2 * ROWS * COLS * 4;

impl TileSweep {
    /// Bytes of one panel.
    fn panel_bytes(&self) -> usize {
        self.source.taps.len() * steps(self.source.run) * self.products.panel_bytes()
    }

    /// Scratch that [`TileSweep::run`] needs.
    pub fn scratch_bytes(&self) -> usize {
        SUM_BYTES + self.source.bytes()
    }

    /// Computes units `units` and panels `panels` of C.
    ///
    /// # Safety
    /// The unit `T` is available. `b` is packed for the source's taps; the operand, C, bias and residual are valid
    /// for the rows and columns computed; C overlaps nothing that is read but for a residual at the same place;
    /// `scratch` is 64-byte aligned and holds [`TileSweep::scratch_bytes`].
    pub unsafe fn run<T: Tiles>(
        &self,
        a: *const f32,
        units: Range<usize>,
        panels: Range<usize>,
        b: *const u8,
        c: *mut f32,
        finish: &Finish<'_, f32>,
        scratch: *mut u8,
        segments: &mut Vec<Segment>,
    ) {
        let staged = scratch.wrapping_add(SUM_BYTES);
        // SAFETY: the unit is available by the caller's contract.
        let mut tiles = unsafe { T::enter() };
        let mut unit = units.start;
        while unit < units.end {
            let count = self.source.fit(unit, units.end - unit);
            let block = unit..unit + count;
            dispatch(self.isa, Stage { source: &self.source, base: a, units: block.clone(), to: staged });
            self.source.segments(block, segments);
            let passes = segments.len().div_ceil(2).max(1);
            for panel in panels.clone() {
                let b = b.wrapping_add(panel * self.panel_bytes());
                let next = b.wrapping_add(self.panel_bytes());
                for (pass, pair) in segments.chunks(2).enumerate() {
                    let ahead = next.wrapping_add(self.panel_bytes() / passes * pass);
                    // SAFETY: the segments are those of the staged block; the rest is the caller's contract.
                    unsafe {
                        self.multiply(&mut tiles, pair, staged, b, ahead, scratch.cast());
                        self.finish(pair, panel, staged, b, c, finish, scratch.cast());
                    }
                }
            }
            unit += count;
        }
    }

    /// The sums of one or two segments in one panel.
    ///
    /// # Safety
    /// See [`TileSweep::run`].
    unsafe fn multiply<T: Tiles>(
        &self,
        tiles: &mut T,
        pair: &[Segment],
        staged: *const u8,
        b: *const u8,
        ahead: *const u8,
        sums: *mut f32,
    ) {
        let (first, second) = (pair[0], pair.get(1));
        tiles.configure([first.rows, second.map_or(0, |s| s.rows)]);
        tiles.zero();
        let steps = steps(self.source.run);
        for (t, tap) in self.source.taps.iter().enumerate() {
            let start = |s: &Segment| staged.wrapping_add(s.at + tap);
            let a = [start(&first), second.map_or(std::ptr::null(), start)];
            // SAFETY: the taps of a segment's rows lie in the staged block, the tap's steps in the panel.
            unsafe {
                let b = b.add(t * steps * self.products.panel_bytes());
                let ahead = ahead.wrapping_add(t * steps * AHEAD);
                tiles.add(self.products, steps, a, self.source.stride, b, ahead);
            }
        }
        // SAFETY: the scratch begins with room for the sums.
        unsafe { tiles.store(sums) };
    }

    /// Takes the sums to C.
    ///
    /// # Safety
    /// See [`TileSweep::run`].
    unsafe fn finish(
        &self,
        pair: &[Segment],
        panel: usize,
        staged: *const u8,
        b: *const u8,
        c: *mut f32,
        finish: &Finish<'_, f32>,
        sums: *mut f32,
    ) {
        let (col, cols) = (panel * COLS, COLS.min(self.n - panel * COLS));
        for (group, segment) in pair.iter().enumerate() {
            let sums = sums.wrapping_add(group * ROWS * COLS);
            let mut c_rows = [std::ptr::null::<f32>(); ROWS];
            let mut r_rows = [std::ptr::null::<f32>(); ROWS];
            // SAFETY: the segment's rows exist in C and the residual.
            unsafe {
                self.out.point(c.cast_const(), segment.first, segment.rows, c_rows.as_mut_ptr());
                if !finish.residual.is_null() {
                    self.residual.point(finish.residual, segment.first, segment.rows, r_rows.as_mut_ptr());
                }
            }
            let task = || Emit {
                sums,
                rows: segment.rows,
                col,
                cols,
                bias: finish.bias,
                c: &c_rows,
                residual: &r_rows,
                clip: finish.clip,
            };
            if !dispatch(self.isa, Finite { sums, rows: segment.rows, cols }) {
                // SAFETY: the segment is staged, the panel packed.
                unsafe { self.recompute(segment, staged, b, cols, sums) };
            }
            dispatch(self.isa, task());
            if let Some(post) = finish.post {
                let rows: [*mut f32; ROWS] = c_rows.map(|p| p.cast_mut());
                // SAFETY: the rows are finished in these columns.
                unsafe { post.apply(&rows[..segment.rows], segment.first, col, cols) };
            }
        }
    }

    /// The sums in `f32` of what was split: infinities and NaN as `f32` has them, the rest as exact as the precision.
    ///
    /// # Safety
    /// See [`TileSweep::run`].
    #[cold]
    unsafe fn recompute(
        &self,
        segment: &Segment,
        staged: *const u8,
        b: *const u8,
        cols: usize,
        sums: *mut f32,
    ) {
        let steps = steps(self.source.run);
        let half = super::tile::STEP;
        let value = |p: *const u8, i: usize, low: usize| {
            let p = p.cast::<u16>();
            // SAFETY: indices of one step of a row or panel.
            let part = |i: usize| half::bf16::from_bits(unsafe { p.add(i).read_unaligned() }).to_f32();
            if self.products == Products::Three { part(i) + part(low + i) } else { part(i) }
        };
        for i in 0..segment.rows {
            let mut row = [0f32; COLS];
            for (t, tap) in self.source.taps.iter().enumerate() {
                for step in 0..steps {
                    let a = staged.wrapping_add(
                        segment.at + tap + i * self.source.stride + step * self.products.row_bytes(),
                    );
                    let b = b.wrapping_add((t * steps + step) * self.products.panel_bytes());
                    // What fills up the last step is not part of the sum: zeros times infinity would be NaN.
                    for k in 0..half.min(self.source.run - step * half) {
                        let a = value(a, k, half);
                        for (j, sum) in row[..cols].iter_mut().enumerate() {
                            let place = j / ROWS * 512 + (k / 2 * ROWS + j % ROWS) * 2 + k % 2;
                            *sum += a * value(b, place, 1024);
                        }
                    }
                }
            }
            // SAFETY: the row's sums.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), sums.add(i * COLS), cols) };
        }
    }
}

/// Whether all sums are finite.
struct Finite {
    sums: *const f32,
    rows: usize,
    cols: usize,
}

impl Task for Finite {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let mut unordered = s.zero();
        for i in 0..self.rows {
            let mut j = 0;
            while j < self.cols {
                // SAFETY: rows of COLS sums.
                let x = unsafe { s.load(self.sums.add(i * COLS + j)) };
                unordered = s.add(unordered, s.sub(x, x));
                j += S::LANES;
            }
        }
        !s.any(s.is_nan(unordered))
    }
}

/// `clip(sum + bias + residual)` to C.
struct Emit<'a> {
    sums: *const f32,
    rows: usize,
    col: usize,
    cols: usize,
    bias: *const f32,
    c: &'a [*const f32; ROWS],
    residual: &'a [*const f32; ROWS],
    clip: Option<(f32, f32)>,
}

impl Task for Emit<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut j = 0;
        while j < self.cols {
            let m = S::LANES.min(self.cols - j);
            let at = self.col + j;
            // SAFETY: C, bias and residual have the columns; sums are rows of COLS.
            unsafe {
                let bias = if self.bias.is_null() { s.zero() } else { f32::load(s, self.bias.add(at), m) };
                for i in 0..self.rows {
                    let mut x = s.add(s.load(self.sums.add(i * COLS + j)), bias);
                    if !self.residual[i].is_null() {
                        x = s.add(x, f32::load(s, self.residual[i].add(at), m));
                    }
                    if let Some((low, high)) = self.clip {
                        // The operand order lets NaN through.
                        x = s.min(s.splat(high), s.max(s.splat(low), x));
                    }
                    f32::store(s, self.c[i].cast_mut().add(at), m, x);
                }
            }
            j += S::LANES;
        }
    }
}
