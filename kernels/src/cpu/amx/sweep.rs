//! The loops around the tile unit, and what happens to its sums.

use super::source::{Kind, Run, Segment, Source, Stage};
use super::split::steps;
use super::tile::{Ahead, COLS, Products, ROWS, Rows, Tiles};
use crate::Isa;
use crate::cpu::gemm::micro::{prefetch, prefetch_write};
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
    /// Whether C, and the residual, are bf16 in memory; `f32` otherwise.
    pub narrow: bool,
    pub narrow_residual: bool,
    pub isa: Isa,
}

/// A tile of rows of the block at hand, and where its rows lie in C and in the residual: null where there is no residual, and
/// for rows that are no rows of the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub segment: Segment,
    c: [*const u8; ROWS],
    residual: [*const u8; ROWS],
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
    /// for the rows and columns computed, of the types that were stated; C overlaps nothing that is read but for a residual
    /// at the same place; `scratch` is 64-byte aligned and holds [`TileSweep::scratch_bytes`].
    pub unsafe fn run<T: Tiles>(
        &self,
        a: *const u8,
        units: Range<usize>,
        panels: Range<usize>,
        b: *const u8,
        c: *mut u8,
        finish: &Finish<'_, f32>,
        scratch: *mut u8,
        groups: &mut Vec<Group>,
    ) {
        let mut staged = scratch.wrapping_add(SUM_BYTES).cast_const();
        // SAFETY: the unit is available by the caller's contract.
        let mut tiles = unsafe { T::enter() };
        let mut unit = units.start;
        while unit < units.end {
            let count = self.source.fit(unit, units.end - unit);
            let block = unit..unit + count;
            if self.source.direct {
                staged = a.wrapping_add(unit * self.source.stride);
            } else {
                self.stage(a, block.clone(), staged.cast_mut());
            }
            groups.clear();
            self.source.segments(block, |segment| {
                // SAFETY: the segment's rows exist in C and the residual.
                groups.push(unsafe { self.group(segment, c, finish) });
            });
            let next = unit + count..(unit + 2 * count).min(units.end);
            // SAFETY: the block is staged; the rest is the caller's contract.
            unsafe {
                let sums = scratch.cast();
                self.multiply_block(&mut tiles, a, panels.clone(), staged, b, c, finish, sums, groups, next);
            }
            unit += count;
        }
    }

    /// Computes the panels of a staged block; `next` are the units of the next one.
    ///
    /// # Safety
    /// See [`TileSweep::run`].
    unsafe fn multiply_block<T: Tiles>(
        &self,
        tiles: &mut T,
        a: *const u8,
        panels: Range<usize>,
        staged: *const u8,
        b: *const u8,
        c: *mut u8,
        finish: &Finish<'_, f32>,
        sums: *mut f32,
        groups: &[Group],
        next: Range<usize>,
    ) {
        let passes = groups.len().div_ceil(2).max(1);
        let steps = self.source.taps.len() * steps(self.source.run);
        let at = |panel: usize| b.wrapping_add(panel * self.panel_bytes());
        // A single pair of tiles has nothing to fetch within a panel: it fetches for the block after it, a share in each panel.
        let alone = passes == 1 && matches!(self.source.kind, Kind::Rows { .. });
        if let (false, Some(pair)) = (alone, groups.chunks(2).next()) {
            self.claim(pair, panels.start * COLS);
        }
        for panel in panels.clone() {
            // Wraps around, as the next block starts with the first panel again.
            let following = if panel + 1 < panels.end { panel + 1 } else { panels.start };
            if alone {
                let share = |i: usize| next.start + next.len() * (i - panels.start) / panels.len();
                self.claim_rows(a, share(panel)..share(panel + 1), &panels, c, finish);
            }
            for (pass, pair) in groups.chunks(2).enumerate() {
                if !alone {
                    match groups.chunks(2).nth(pass + 1) {
                        Some(later) => self.claim(later, panel * COLS),
                        None => self.claim(&groups[..groups.len().min(2)], following * COLS),
                    }
                }
                let ahead = Ahead::share(at(following), self.panel_bytes(), pass, passes, steps);
                // SAFETY: the segments are those of the staged block; the rest is the caller's contract.
                unsafe {
                    self.multiply(tiles, pair, staged, at(panel), ahead, sums);
                    self.finish(pair, panel, staged, at(panel), finish, sums);
                }
            }
        }
    }

    /// Writes units of the operand to scratch.
    fn stage(&self, a: *const u8, units: Range<usize>, to: *mut u8) {
        let source = &self.source;
        match source.narrow {
            true => dispatch(self.isa, Stage { source, base: a.cast::<half::bf16>(), units, to }),
            false => dispatch(self.isa, Stage { source, base: a.cast::<f32>(), units, to }),
        }
    }

    /// # Safety
    /// The segment's rows exist in C and the residual.
    unsafe fn group(&self, segment: Segment, c: *mut u8, finish: &Finish<'_, f32>) -> Group {
        let mut group = Group { segment, c: [std::ptr::null(); ROWS], residual: [std::ptr::null(); ROWS] };
        for Run { at, rows, first } in self.source.runs(&segment) {
            let residual = finish.residual.cast::<u8>();
            // SAFETY: by the caller's contract; a segment has no more rows than a tile.
            unsafe {
                point(&self.out, self.narrow, c.cast_const(), first, &mut group.c[at..at + rows]);
                if !residual.is_null() {
                    let to = &mut group.residual[at..at + rows];
                    point(&self.residual, self.narrow_residual, residual, first, to);
                }
            }
        }
        group
    }

    /// The sums of one or two tiles of rows in one panel.
    ///
    /// # Safety
    /// See [`TileSweep::run`].
    unsafe fn multiply<T: Tiles>(
        &self,
        tiles: &mut T,
        pair: &[Group],
        staged: *const u8,
        b: *const u8,
        mut ahead: Ahead,
        sums: *mut f32,
    ) {
        let (first, second) = (pair[0].segment, pair.get(1).map(|g| g.segment));
        tiles.configure([first.rows, second.map_or(0, |s| s.rows)]);
        tiles.zero();
        let steps = steps(self.source.run);
        for (t, tap) in self.source.taps.iter().enumerate() {
            let start = |s: &Segment| staged.wrapping_add(s.at + tap);
            let start = [start(&first), second.as_ref().map_or(std::ptr::null(), start)];
            let Source { stride, step, low, .. } = self.source;
            // SAFETY: the taps of a segment's rows lie in the staged block, the tap's steps in the panel.
            unsafe {
                let b = b.add(t * steps * self.products.panel_bytes());
                tiles.add(self.products, steps, &Rows { start, stride, step, low }, b, ahead);
            }
            ahead = ahead.after(steps);
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
        pair: &[Group],
        panel: usize,
        staged: *const u8,
        b: *const u8,
        finish: &Finish<'_, f32>,
        sums: *mut f32,
    ) {
        let (col, cols) = (panel * COLS, COLS.min(self.n - panel * COLS));
        // What follows the sums wants them in `f32`.
        let kept = self.narrow && finish.post.is_some();
        let emit = |check| Emit {
            groups: pair,
            sums,
            col,
            cols,
            bias: finish.bias,
            clip: finish.clip,
            check,
            target: match (kept, self.narrow) {
                (true, _) => Target::Sums,
                (false, true) => Target::Narrow,
                (false, false) => Target::Wide,
            },
            narrow_residual: self.narrow_residual,
        };
        if !dispatch(self.isa, emit(true)) {
            // SAFETY: the tiles are staged, the panel packed.
            unsafe { self.recompute(pair, staged, b, cols, sums) };
            dispatch(self.isa, emit(false));
        }
        let Some(post) = finish.post else { return };
        for (g, group) in pair.iter().enumerate() {
            let own = sums.wrapping_add(g * ROWS * COLS).wrapping_sub(col);
            let rows: [*mut f32; ROWS] = match kept {
                true => std::array::from_fn(|i| own.wrapping_add(i * COLS)),
                false => group.c.map(|p| p.cast_mut().cast()),
            };
            for Run { at, rows: count, first } in self.source.runs(&group.segment) {
                // SAFETY: the rows are finished in these columns.
                unsafe { post.apply(&rows[at..at + count], first, col, cols) };
            }
        }
        if kept {
            dispatch(self.isa, Narrow { groups: pair, sums, col, cols });
        }
    }

    /// The sums in `f32` of what was split, for tiles of rows that are not finite: infinities and NaN as `f32` has them, the
    /// rest as exact as the precision.
    ///
    /// # Safety
    /// See [`TileSweep::run`].
    #[cold]
    unsafe fn recompute(&self, pair: &[Group], staged: *const u8, b: *const u8, cols: usize, sums: *mut f32) {
        let steps = steps(self.source.run);
        let half = super::tile::STEP;
        let value = |p: *const u8, i: usize, low: usize| {
            let p = p.cast::<u16>();
            // SAFETY: indices of one step of a row or panel.
            let part = |i: usize| half::bf16::from_bits(unsafe { p.add(i).read_unaligned() }).to_f32();
            if self.products == Products::Three { part(i) + part(low + i) } else { part(i) }
        };
        let rows = pair.iter().enumerate().flat_map(|(g, group)| {
            let sums = sums.wrapping_add(g * ROWS * COLS);
            // SAFETY: the sums of the tile's rows.
            let row = |i: usize| unsafe { std::slice::from_raw_parts(sums.add(i * COLS), cols) };
            let finite = (0..group.segment.rows).all(|i| row(i).iter().all(|x| x.is_finite()));
            let rows = if finite { 0 } else { group.segment.rows };
            (0..rows).map(move |i| (group.segment, i, sums.wrapping_add(i * COLS)))
        });
        for (segment, i, sums) in rows {
            let mut row = [0f32; COLS];
            for (t, tap) in self.source.taps.iter().enumerate() {
                for step in 0..steps {
                    let a = staged
                        .wrapping_add(segment.at + tap + i * self.source.stride + step * self.source.step);
                    let b = b.wrapping_add((t * steps + step) * self.products.panel_bytes());
                    // What fills up the last step is not part of the sum: zeros times infinity would be NaN.
                    for k in 0..half.min(self.source.run - step * half) {
                        let a = value(a, k, self.source.low / 2);
                        for (j, sum) in row[..cols].iter_mut().enumerate() {
                            let place = j / ROWS * 512 + (k / 2 * ROWS + j % ROWS) * 2 + k % 2;
                            *sum += a * value(b, place, 1024);
                        }
                    }
                }
            }
            // SAFETY: the row's sums.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), sums, cols) };
        }
    }
}

impl TileSweep {
    /// Fetches units of the operand, whose units are rows, and all that their sums will be added to and written to.
    fn claim_rows(
        &self,
        a: *const u8,
        units: Range<usize>,
        panels: &Range<usize>,
        c: *mut u8,
        finish: &Finish<'_, f32>,
    ) {
        let columns = panels.start * COLS..(panels.end * COLS).min(self.n);
        let fetch = |map: &RowMap, base: *const u8, narrow: bool, row: usize, columns: Range<usize>| {
            let start =
                base.wrapping_offset((map.offset(row) + columns.start as isize) * size(narrow) as isize);
            (0..columns.len() * size(narrow)).step_by(64).for_each(|line| prefetch(start.wrapping_add(line)));
        };
        let source = &self.source;
        for row in units {
            if let Kind::Rows { rows, step: 1 } = &source.kind {
                fetch(rows, a, source.narrow, row, 0..source.run);
            }
            fetch(&self.out, c.cast_const(), self.narrow, row, columns.clone());
            if !finish.residual.is_null() {
                fetch(&self.residual, finish.residual.cast(), self.narrow_residual, row, columns.clone());
            }
        }
    }

    /// Fetches what the sums of a pair of tiles will be added to and written to.
    fn claim(&self, pair: &[Group], col: usize) {
        let (c, residual) = (size(self.narrow), size(self.narrow_residual));
        for group in pair {
            for i in 0..group.segment.rows {
                for line in (0..COLS * c).step_by(64) {
                    prefetch_write(group.c[i].wrapping_add(col * c + line));
                }
                if !group.residual[i].is_null() {
                    for line in (0..COLS * residual).step_by(64) {
                        prefetch(group.residual[i].wrapping_add(col * residual + line));
                    }
                }
            }
        }
    }
}

/// Bytes of an element in memory.
pub(super) fn size(narrow: bool) -> usize {
    if narrow { 2 } else { 4 }
}

/// [`RowMap::point`] for elements of either size.
///
/// # Safety
/// See there.
unsafe fn point(map: &RowMap, narrow: bool, base: *const u8, first: usize, to: &mut [*const u8]) {
    let (n, to) = (to.len(), to.as_mut_ptr());
    // SAFETY: by the caller's contract.
    unsafe {
        match narrow {
            true => map.point(base.cast::<half::bf16>(), first, n, to.cast()),
            false => map.point(base.cast::<f32>(), first, n, to.cast()),
        }
    }
}

/// Where finished sums go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// C, of `f32`.
    Wide,
    /// C, of bf16.
    Narrow,
    /// Their own place.
    Sums,
}

/// `clip(sum + bias + residual)` to its target, unless a sum is not finite.
struct Emit<'a> {
    groups: &'a [Group],
    sums: *mut f32,
    col: usize,
    cols: usize,
    bias: *const f32,
    clip: Option<(f32, f32)>,
    check: bool,
    target: Target,
    narrow_residual: bool,
}

/// Where the rows of a residual are, and of which type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Added {
    Nothing,
    Wide,
    Narrow,
}

impl Emit<'_> {
    /// Whether all sums are finite. False as well where finite ones are so large that they overflow together.
    #[inline(always)]
    fn finite<S: Simd>(&self, s: S) -> bool {
        let [mut t0, mut t1, mut t2, mut t3] = [s.zero(); 4];
        for (g, group) in self.groups.iter().enumerate() {
            let sums = self.sums.wrapping_add(g * ROWS * COLS);
            let all = group.segment.rows * COLS;
            let mut at = 0;
            // SAFETY: rows of COLS sums; those beyond the result's columns are zeros of the packed panel. COLS is a multiple
            // of LANES.
            unsafe {
                while at + 4 * S::LANES <= all {
                    let p = sums.add(at);
                    t0 = s.add(t0, s.load(p));
                    t1 = s.add(t1, s.load(p.add(S::LANES)));
                    t2 = s.add(t2, s.load(p.add(2 * S::LANES)));
                    t3 = s.add(t3, s.load(p.add(3 * S::LANES)));
                    at += 4 * S::LANES;
                }
                while at < all {
                    t0 = s.add(t0, s.load(sums.add(at)));
                    at += S::LANES;
                }
            }
        }
        let total = s.add(s.add(t0, t1), s.add(t2, t3));
        !s.any(s.is_nan(s.sub(total, total)))
    }

    /// Writes the target, two vectors at a time. The sum of all sums: not finite if one of them is not.
    ///
    /// `added` and `narrow` (the target is of bf16) are constants where this is inlined.
    #[inline(always)]
    fn write<S: Simd>(&self, s: S, added: Added, narrow: bool) -> S::F {
        let (mut t0, mut t1) = (s.zero(), s.zero());
        let (low, high) = self.clip.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (low, high) = (s.splat(low), s.splat(high));
        for (g, group) in self.groups.iter().enumerate() {
            for j in (0..self.cols).step_by(2 * S::LANES) {
                let m = S::LANES.min(self.cols - j);
                let m2 = S::LANES.min(self.cols - j - m);
                let (at, at2) = (self.col + j, self.col + j + S::LANES);
                let sums = self.sums.wrapping_add(g * ROWS * COLS + j);
                // SAFETY: C, bias and residual have the columns; sums are rows of COLS.
                unsafe {
                    let (mut bias, mut bias2) = (s.zero(), s.zero());
                    if !self.bias.is_null() {
                        bias = f32::load(s, self.bias.add(at), m);
                        bias2 = f32::load(s, self.bias.wrapping_add(at2), m2);
                    }
                    for i in 0..group.segment.rows {
                        let c = match self.target {
                            Target::Sums => sums.add(i * COLS).wrapping_sub(at).cast::<u8>().cast_const(),
                            _ => group.c[i],
                        };
                        if group.c[i].is_null() {
                            continue;
                        }
                        let (sum, sum2) = (s.load(sums.add(i * COLS)), s.load(sums.add(i * COLS + S::LANES)));
                        (t0, t1) = (s.add(t0, sum), s.add(t1, sum2));
                        let (mut x, mut x2) = (s.add(sum, bias), s.add(sum2, bias2));
                        let (r, r2) = match added {
                            Added::Nothing => (s.zero(), s.zero()),
                            Added::Wide => load_both::<S, f32>(s, group.residual[i], at, m, m2),
                            Added::Narrow => load_both::<S, half::bf16>(s, group.residual[i], at, m, m2),
                        };
                        if added != Added::Nothing {
                            (x, x2) = (s.add(x, r), s.add(x2, r2));
                        }
                        // The operand order lets NaN through.
                        (x, x2) = (s.min(high, s.max(low, x)), s.min(high, s.max(low, x2)));
                        if !narrow {
                            let c = c.cast_mut().cast::<f32>();
                            f32::store(s, c.wrapping_add(at), m, x);
                            f32::store(s, c.wrapping_add(at2), m2, x2);
                        } else if m2 == S::LANES {
                            let c = c.cast_mut().cast::<u16>().wrapping_add(at);
                            s.store_uppers(c, s.round_bf16(x), s.round_bf16(x2));
                        } else {
                            let c = c.cast_mut().cast::<half::bf16>();
                            half::bf16::store(s, c.wrapping_add(at), m, x);
                            half::bf16::store(s, c.wrapping_add(at2), m2, x2);
                        }
                    }
                }
            }
        }
        s.add(t0, t1)
    }
}

/// Elements `at ..` of a row, in two vectors of `m` and `m2` lanes.
///
/// # Safety
/// The row has the elements.
#[inline(always)]
unsafe fn load_both<S: Simd, T: Storage>(
    s: S,
    row: *const u8,
    at: usize,
    m: usize,
    m2: usize,
) -> (S::F, S::F) {
    let from = row.cast::<T>().wrapping_add(at);
    // SAFETY: by the caller's contract.
    unsafe { (T::load(s, from, m), T::load(s, from.wrapping_add(S::LANES), m2)) }
}

impl Task for Emit<'_> {
    /// Whether the target was written with sums that are finite, as far as that is checked.
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let added = match self.groups[0].residual.iter().all(|p| p.is_null()) {
            true => Added::Nothing,
            false if self.narrow_residual => Added::Narrow,
            false => Added::Wide,
        };
        // A residual may lie in the place of C, as sums do in their own: then the target must be written once only.
        let once = added != Added::Nothing || self.target == Target::Sums;
        if self.check && once && !self.finite(s) {
            return false;
        }
        let total = match (added, self.target == Target::Narrow) {
            (Added::Nothing, false) => self.write(s, Added::Nothing, false),
            (Added::Nothing, true) => self.write(s, Added::Nothing, true),
            (Added::Wide, false) => self.write(s, Added::Wide, false),
            (Added::Wide, true) => self.write(s, Added::Wide, true),
            (Added::Narrow, false) => self.write(s, Added::Narrow, false),
            (Added::Narrow, true) => self.write(s, Added::Narrow, true),
        };
        !self.check || once || !s.any(s.is_nan(s.sub(total, total)))
    }
}

/// Finished sums to C, of bf16.
struct Narrow<'a> {
    groups: &'a [Group],
    sums: *const f32,
    col: usize,
    cols: usize,
}

impl Task for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (g, group) in self.groups.iter().enumerate() {
            for i in (0..group.segment.rows).filter(|i| !group.c[*i].is_null()) {
                let from = self.sums.wrapping_add((g * ROWS + i) * COLS);
                let to = group.c[i].cast_mut().cast::<half::bf16>().wrapping_add(self.col);
                for j in (0..self.cols).step_by(S::LANES) {
                    // SAFETY: rows of COLS sums; C has the columns.
                    unsafe {
                        let m = S::LANES.min(self.cols - j);
                        half::bf16::store(s, to.add(j), m, s.load(from.add(j)));
                    }
                }
            }
        }
    }
}
