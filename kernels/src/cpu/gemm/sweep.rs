//! The loops around a micro-kernel: row blocks, blocks of products, panels, tiles.
//!
//! A block of rows of A stays in L2 while every panel of B passes by; a panel's slice stays in L2 while the tiles of
//! the block use it. Sums of several product blocks accumulate in C itself.

use super::lanes::Elem;
use super::micro::{Ahead, Micro, Tile};
use super::rows::RowMap;
use std::ops::Range;

/// Where the rows of A come from: `taps` runs of `run` consecutive elements each.
pub trait Source<E> {
    /// Whether every block of products is copied to the stage, rows `pitch` elements apart, before it is used.
    const COPIED: bool = false;

    /// Whether rows lie one after another in memory that was not touched yet, so that they are worth fetching early.
    const FETCHED: bool = false;

    fn taps(&self) -> usize;
    fn run(&self) -> usize;

    /// How many of `rows` rows from `row` on may form one block, at least one.
    fn fit(&self, row: usize, rows: usize) -> usize {
        let _ = row;
        rows
    }

    /// Bytes of scratch that a block of up to `rows` rows needs.
    fn stage_bytes(&self, rows: usize, pitch: usize) -> usize {
        let _ = (rows, pitch);
        0
    }

    /// Prepares a block of rows before any of it is pointed at; a copied source prepares elements `k` of it.
    ///
    /// # Safety
    /// `stage` is writable for [`Source::stage_bytes`] and 64-byte aligned; the operand is readable.
    unsafe fn stage(&self, row: usize, rows: usize, k: Range<usize>, stage: *mut u8, pitch: usize) {
        let _ = (row, rows, k, stage, pitch);
    }

    /// Writes the pointer of row `row + i` and tap `t` to `table[t * rows + i]`; the block began at row `block`.
    /// Not called for a copied source.
    ///
    /// # Safety
    /// The rows are part of the block that was staged last; `table` is writable for `taps * rows` pointers.
    unsafe fn point(&self, block: usize, row: usize, rows: usize, stage: *mut u8, table: *mut *const E) {
        let _ = (block, row, rows, stage, table);
    }
}

/// Rows of a matrix in memory, used in place.
#[derive(Clone, Copy, Debug)]
pub struct Strided<E> {
    pub base: *const E,
    pub rows: RowMap,
    pub k: usize,
}

impl<E: Elem> Source<E> for Strided<E> {
    const FETCHED: bool = true;

    fn taps(&self) -> usize {
        1
    }
    fn run(&self) -> usize {
        self.k
    }
    #[inline(always)]
    unsafe fn point(&self, _block: usize, row: usize, rows: usize, _stage: *mut u8, table: *mut *const E) {
        // SAFETY: by the caller's contract.
        unsafe { self.rows.point(self.base, row, rows, table) }
    }
}

/// Rows of a matrix, copied block by block: for elements that are not consecutive, and for rows whose distance makes
/// them collide in one cache set.
#[derive(Clone, Copy, Debug)]
pub struct Gathered<E> {
    pub base: *const E,
    pub rows: RowMap,
    pub k: usize,
    /// Distance between the elements of a row.
    pub step: isize,
}

impl<E: Elem> Source<E> for Gathered<E> {
    const COPIED: bool = true;

    fn taps(&self) -> usize {
        1
    }
    fn run(&self) -> usize {
        self.k
    }
    fn stage_bytes(&self, rows: usize, pitch: usize) -> usize {
        rows * pitch * size_of::<E>()
    }
    unsafe fn stage(&self, row: usize, rows: usize, k: Range<usize>, stage: *mut u8, pitch: usize) {
        let out = stage.cast::<E>();
        const BLOCK: usize = 16;
        for i0 in (0..rows).step_by(BLOCK) {
            let n = BLOCK.min(rows - i0);
            let mut from = [std::ptr::null::<E>(); BLOCK];
            // SAFETY: rows and elements stay inside the operand and the stage.
            unsafe {
                self.rows.point(self.base, row + i0, n, from.as_mut_ptr());
                if self.step == 1 {
                    for i in 0..n {
                        std::ptr::copy_nonoverlapping(
                            from[i].add(k.start),
                            out.add((i0 + i) * pitch),
                            k.len(),
                        );
                    }
                    continue;
                }
                for k0 in (0..k.len()).step_by(BLOCK) {
                    for q in k0..k.len().min(k0 + BLOCK) {
                        for i in 0..n {
                            let x = from[i].offset((k.start + q) as isize * self.step).read();
                            out.add((i0 + i) * pitch + q).write(x);
                        }
                    }
                }
            }
        }
    }
}

/// What happens to the sums on their way out: `clip(sum + bias + residual)`, then `post` over finished blocks.
#[derive(Clone, Copy)]
pub struct Finish<'a, E> {
    /// One value per column; null for zeros.
    pub bias: *const E,
    /// A matrix of C's shape to add; null for none.
    pub residual: *const E,
    pub clip: Option<(E, E)>,
    pub post: Option<&'a dyn Post<E>>,
}

impl<E> Finish<'_, E> {
    pub fn none() -> Self {
        Finish { bias: std::ptr::null(), residual: std::ptr::null(), clip: None, post: None }
    }
}

/// A function of finished values, evaluated in place while they are in L1.
pub trait Post<E> {
    /// Columns `col .. col + cols` of the rows from `row` on; `c` holds the rows' pointers (to column 0).
    ///
    /// # Safety
    /// The rows are writable for the columns and nobody else uses them meanwhile.
    unsafe fn apply(&self, c: &[*mut E], row: usize, col: usize, cols: usize);
}

/// Products that accumulate in registers before C is touched.
const PRODUCTS: usize = 768;
/// Bytes of A that one block of rows may read.
const BLOCK_BYTES: usize = 512 << 10;
/// Bytes of finished values that wait for what registers cannot do, in L1.
const POST_BYTES: usize = 12 << 10;
/// Bytes of C from which on its lines are claimed before they are written.
const FAR_BYTES: usize = 256 << 10;
/// Pointers of A's table that one block of rows may hold.
const BLOCK_POINTERS: usize = 4096;

/// `C[m, n] = A[m, taps * run] * B`, B packed in panels.
#[derive(Clone, Debug)]
pub struct Sweep<E: 'static> {
    pub micro: &'static Micro<E>,
    pub n: usize,
    pub taps: usize,
    pub run: usize,
    /// Rows of C, relative to the pointer given to [`Sweep::run`].
    pub out: RowMap,
    /// Rows of the residual, where there is one.
    pub residual: RowMap,
    /// Most rows of a block.
    block: usize,
    /// Taps, and elements of their runs, in one block of products.
    tap_step: usize,
    run_step: usize,
    /// Whether C is too large to lie in a near cache.
    far: bool,
}

impl<E: Elem> Sweep<E> {
    pub fn new(
        micro: &'static Micro<E>,
        n: usize,
        taps: usize,
        run: usize,
        out: RowMap,
        residual: RowMap,
    ) -> Self {
        let (tap_step, run_step) = if run > PRODUCTS {
            (1, run.div_ceil(run.div_ceil(PRODUCTS)))
        } else {
            let most = (PRODUCTS / run.max(1)).clamp(1, taps.max(1));
            (taps.div_ceil(taps.div_ceil(most).max(1)).max(1), run)
        };
        let rows =
            (BLOCK_BYTES / (tap_step * run_step * size_of::<E>()).max(1)).min(BLOCK_POINTERS / taps.max(1));
        let block = (rows / micro.rows() * micro.rows()).clamp(micro.rows(), 32 * micro.rows());
        let far = out.rows() * n * size_of::<E>() > FAR_BYTES;
        Sweep { micro, n, taps, run, out, residual, block, tap_step, run_step, far }
    }

    /// Whether C is written once only, after everything that its place held was read.
    pub fn is_single_pass(&self) -> bool {
        self.tap_step >= self.taps && self.run_step >= self.run
    }

    /// Scratch that [`Sweep::run`] needs with `source`.
    pub fn scratch_bytes(&self, source: &impl Source<E>) -> usize {
        self.table_bytes() + source.stage_bytes(self.block, self.pitch())
    }

    fn table_bytes(&self) -> usize {
        (self.block * (self.taps + 2) * size_of::<usize>()).next_multiple_of(64)
    }

    /// Distance of copied rows: an odd number of cache lines, so that rows do not collide in one cache set.
    fn pitch(&self) -> usize {
        let line = 64 / size_of::<E>();
        (self.run_step.div_ceil(line) | 1) * line
    }

    /// Computes rows `rows` and panels `panels` of C.
    ///
    /// # Safety
    /// The CPU has the micro-kernels' instruction set. `b` is packed as [`crate::cpu::pack::pack`] does; C, bias and residual are
    /// valid for the rows and columns computed; C overlaps nothing that is read but for a residual at the same place;
    /// `scratch` is 64-byte aligned and holds [`Sweep::scratch_bytes`].
    pub unsafe fn run<S: Source<E>>(
        &self,
        source: &S,
        rows: Range<usize>,
        panels: Range<usize>,
        b: *const E,
        c: *mut E,
        finish: &Finish<E>,
        scratch: *mut u8,
    ) {
        let table = scratch.cast::<*const E>();
        // SAFETY: the parts stand one after another in the scratch, sized by `scratch_bytes`; everything else is
        // inside the operands by the caller's contract.
        unsafe {
            let c_rows = table.add(self.block * self.taps);
            let r_rows = c_rows.add(self.block);
            let stage = scratch.add(self.table_bytes());
            let height = self.micro.rows();
            let block = match finish.post {
                Some(_) => (POST_BYTES / (E::PANEL * size_of::<E>()) / height).max(1) * height,
                None => self.block,
            }
            .min(self.block);
            let mut row = rows.start;
            while row < rows.end {
                let left = rows.end - row;
                let want = left.div_ceil(left.div_ceil(block));
                let count = source.fit(row, want).clamp(1, want);
                self.out.point(c, row, count, c_rows);
                if !finish.residual.is_null() {
                    self.residual.point(finish.residual, row, count, r_rows);
                }
                let tiles = Tiles::new(count, self.micro.rows());
                if S::COPIED {
                    for i in 0..count {
                        table.add(i).write(stage.cast::<E>().add(i * self.pitch()));
                    }
                } else {
                    source.stage(row, count, 0..self.run, stage, self.pitch());
                    for t in 0..tiles.count {
                        let (at, height) = tiles.tile(t);
                        source.point(row, row + at, height, stage, table.add(at * self.taps));
                    }
                }
                let tables = (table.cast_const(), c_rows.cast_const(), r_rows.cast_const());
                self.block(source, row, count, &panels, b, tables, finish, stage);
                row += count;
            }
        }
    }

    /// One block of rows, its tables filled.
    ///
    /// # Safety
    /// See [`Sweep::run`].
    unsafe fn block<S: Source<E>>(
        &self,
        source: &S,
        row: usize,
        count: usize,
        panels: &Range<usize>,
        b: *const E,
        (table, c_rows, r_rows): (*const *const E, *const *const E, *const *const E),
        finish: &Finish<E>,
        stage: *mut u8,
    ) {
        let tiles = Tiles::new(count, self.micro.rows());
        let panel_len = self.taps * self.run * E::PANEL;
        let width = self.micro.width;
        for tap in (0..self.taps).step_by(self.tap_step) {
            let taps = self.tap_step.min(self.taps - tap);
            for offset in (0..self.run).step_by(self.run_step) {
                let run = self.run_step.min(self.run - offset);
                let start = (tap * self.run + offset) * E::PANEL;
                let (first, last) =
                    (tap == 0 && offset == 0, tap + taps == self.taps && offset + run == self.run);
                if S::COPIED {
                    // SAFETY: the stage holds the block's rows at this pitch.
                    unsafe { source.stage(row, count, offset..offset + run, stage, self.pitch()) };
                }
                let lines = taps * run * E::PANEL;
                for panel in panels.clone() {
                    let end = self.n.min((panel + 1) * E::PANEL);
                    for col in (panel * E::PANEL..end).step_by(width) {
                        // SAFETY: the panel and the columns exist; tables hold a pointer for each row of the block.
                        unsafe {
                            let slice = b.add(panel * panel_len + start);
                            for t in 0..tiles.count {
                                let (at, height) = tiles.tile(t);
                                let cols = width.min(end - col);
                                let mut ahead = Ahead::none();
                                if t + 1 < tiles.count {
                                    let (next, height) = tiles.tile(t + 1);
                                    (ahead.rows, ahead.col) = (height, col);
                                    if S::FETCHED && col == panels.start * E::PANEL {
                                        ahead.a = table.add(next);
                                    }
                                    if self.far {
                                        ahead.c = c_rows.add(next).cast();
                                    }
                                } else if self.far && col + width < end {
                                    (ahead.rows, ahead.col) = (tiles.tile(0).1, col + width);
                                    ahead.c = c_rows.cast();
                                } else if self.far && panel + 1 < panels.end {
                                    (ahead.rows, ahead.col) = (tiles.tile(0).1, end);
                                    ahead.c = c_rows.cast();
                                }
                                if last && !finish.residual.is_null() && !ahead.c.is_null() {
                                    ahead.residual =
                                        r_rows.offset(ahead.c.cast::<*const E>().offset_from(c_rows));
                                }
                                let tile = Tile {
                                    a: table.add(at * self.taps + tap * height),
                                    a_step: height,
                                    taps,
                                    offset: if S::COPIED { 0 } else { offset },
                                    run,
                                    b: slice.add(col - panel * E::PANEL),
                                    c: c_rows.add(at).cast(),
                                    col,
                                    cols,
                                    accumulate: !first,
                                    bias: if finish.bias.is_null() {
                                        finish.bias
                                    } else {
                                        finish.bias.add(col)
                                    },
                                    residual: if last && !finish.residual.is_null() {
                                        r_rows.add(at)
                                    } else {
                                        std::ptr::null()
                                    },
                                    clip: if last { finish.clip } else { None },
                                    prefetch: slice.wrapping_add(panel_len + t * lines / 4),
                                    ahead,
                                };
                                self.micro.kernel(height, cols)(&tile);
                            }
                        }
                    }
                    if last && let Some(post) = finish.post {
                        // SAFETY: the rows of the block are finished in these columns.
                        unsafe {
                            let c = std::slice::from_raw_parts(c_rows.cast::<*mut E>(), count);
                            post.apply(c, row, panel * E::PANEL, end - panel * E::PANEL);
                        }
                    }
                }
            }
        }
    }
}

/// Rows cut to tiles whose heights differ by at most one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    pub count: usize,
    height: usize,
    taller: usize,
}

impl Tiles {
    pub fn new(rows: usize, most: usize) -> Self {
        let count = rows.div_ceil(most).max(1);
        Tiles { count, height: rows / count, taller: rows % count }
    }

    /// First row and height of tile `t`.
    #[inline]
    pub fn tile(&self, t: usize) -> (usize, usize) {
        (t * self.height + t.min(self.taller), self.height + usize::from(t < self.taller))
    }
}

/// A product cut to `rows x columns` tasks of similar size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Rows and panels of the whole.
    pub rows: usize,
    pub panels: usize,
    /// Tasks along each.
    pub down: usize,
    pub across: usize,
    /// Rows that tasks are cut at multiples of.
    pub unit: usize,
}

impl Grid {
    /// Cuts `rows x panels` to about `tasks` tasks: balanced first, then with as little of A and B read twice as can be.
    pub fn new(rows: usize, panels: usize, unit: usize, tasks: usize) -> Self {
        let units = rows.div_ceil(unit).max(1);
        let mut best = (f64::INFINITY, 1, 1);
        for down in 1..=tasks.min(units).max(1) {
            let across = (tasks / down).clamp(1, panels.max(1));
            let share =
                (units.div_ceil(down) * panels.div_ceil(across)) as f64 / (units * panels.max(1)) as f64;
            // The busiest of `tasks` threads, and a little for operands read again.
            let cost = share * (1.0 + 0.02 * (down + across) as f64) + 1e-4 * across as f64;
            if cost < best.0 {
                best = (cost, down, across);
            }
        }
        Grid { rows, panels, down: best.1, across: best.2, unit }
    }

    /// Cuts rows alone to at most `tasks` tasks, as many for each of `threads` threads, so that no row of A is read twice.
    /// `None` where that would leave a thread idle for more than a few percent of the time.
    pub fn of_rows(rows: usize, panels: usize, unit: usize, tasks: usize, threads: usize) -> Option<Self> {
        let units = rows.div_ceil(unit);
        let idle = units.next_multiple_of(threads) - units;
        let down = tasks.min(units) / threads * threads;
        (down > 0 && idle * 32 <= units).then_some(Grid { rows, panels, down, across: 1, unit })
    }

    pub fn tasks(&self) -> usize {
        self.down * self.across
    }

    /// Rows and panels of one task; neighbours share rows.
    pub fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (i, j) = (task / self.across, task % self.across);
        let units = self.rows.div_ceil(self.unit);
        let row = |i: usize| (units * i / self.down * self.unit).min(self.rows);
        let panel = |j: usize| self.panels * j / self.across;
        (row(i)..row(i + 1), panel(j)..panel(j + 1))
    }
}

/// Tasks worth making of `flops` floating point operations for `threads` threads.
pub fn tasks_for(flops: f64, threads: usize) -> usize {
    /// Work under this many operations does not pay for being shared (about 2 us).
    const LEAST: f64 = 2e5;
    if threads <= 1 {
        return 1;
    }
    ((flops / LEAST) as usize).clamp(1, 2 * threads)
}

/// Bytes of an operand or a result that a core's own cache holds beside others.
const NEAR_BYTES: usize = 1 << 20;

/// The same for a product of `rows` rows, the larger of whose operand and result has `bytes`: more tasks where each still fills
/// whole blocks of rows, so that a thread that is held up can be relieved, and layers can take turns while rows are near.
pub fn tasks_for_rows(flops: f64, rows: usize, bytes: usize, threads: usize) -> usize {
    /// Rows of one block, at most (see [`Sweep::new`]).
    const BLOCK: usize = 384;
    let tasks = tasks_for(flops, threads);
    let most = if bytes > NEAR_BYTES { 128 } else { 8 * threads };
    let blocks = (rows / BLOCK).min(most);
    if tasks < 2 * threads && bytes <= NEAR_BYTES { tasks } else { tasks.max(blocks) }
}
