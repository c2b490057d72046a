//! The loops around a micro-kernel: row blocks, blocks of products, panels, tiles.
//!
//! A block of rows of A stays in L2 while every panel of B passes by; a panel's slice stays in L2 while the tiles of
//! the block use it. Sums of several product blocks accumulate in C itself. Where all of B stays in L2 and C is far, blocks are
//! short instead, and while one is computed the next one's rows of A, of C and of the residual come close in the order of their
//! addresses.

use super::lanes::Elem;
use super::micro::{Ahead, Micro, Share, Stream, Tile};
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

    /// The elements that rows `row .. row + rows` lie in, where they are consecutive and not in a near cache.
    fn piece(&self, row: usize, rows: usize) -> Option<(*const E, usize)> {
        let _ = (row, rows);
        None
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
    fn piece(&self, row: usize, rows: usize) -> Option<(*const E, usize)> {
        (self.rows.stride() == Some(self.k as isize))
            .then(|| (self.base.wrapping_offset(self.rows.offset(row)), rows * self.k))
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

/// What blocks are cut by: bytes that caches hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Products that accumulate in registers before C is touched.
    pub products: usize,
    /// Bytes of A that one block of rows may read.
    pub block: usize,
    /// Bytes of B that stay in L2 beside blocks of A and C, so that every block of rows may read all of B anew.
    pub near_b: usize,
    /// Bytes of A and C of one block of rows where B is that small.
    pub span: usize,
    /// Bytes of C from which on its lines are claimed before they are written.
    pub far: usize,
}

impl Limits {
    pub const DEFAULT: Limits =
        Limits { products: 768, block: 512 << 10, near_b: 512 << 10, span: 96 << 10, far: 256 << 10 };
}

/// Bytes of finished values that wait for what registers cannot do, in L1.
const POST_BYTES: usize = 12 << 10;
/// Pointers of A's table that one block of rows may hold.
const BLOCK_POINTERS: usize = 4096;
/// Tiles that share in fetching the panel that comes after theirs.
const FETCHING_TILES: usize = 8;

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
    /// Whether C is in one piece and far, and B small: then blocks are short, and each brings the next one close.
    in_turn: bool,
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
        Sweep::within(Limits::DEFAULT, micro, n, taps, run, out, residual)
    }

    pub(crate) fn within(
        limits: Limits,
        micro: &'static Micro<E>,
        n: usize,
        taps: usize,
        run: usize,
        out: RowMap,
        residual: RowMap,
    ) -> Self {
        let (tap_step, run_step) = if run > limits.products {
            (1, run.div_ceil(run.div_ceil(limits.products)))
        } else {
            let most = (limits.products / run.max(1)).clamp(1, taps.max(1));
            (taps.div_ceil(taps.div_ceil(most).max(1)).max(1), run)
        };
        let size = size_of::<E>();
        let far = out.rows() * n * size > limits.far;
        let b_bytes = n.next_multiple_of(E::PANEL) * taps * run * size;
        let once = tap_step >= taps && run_step >= run;
        let in_turn = far && once && b_bytes <= limits.near_b && out.stride() == Some(n as isize);
        let bytes = if in_turn {
            limits.span / ((run + n) * size).max(1)
        } else {
            limits.block / (tap_step * run_step * size).max(1)
        };
        let rows = bytes.min(BLOCK_POINTERS / taps.max(1));
        let block = (rows / micro.rows() * micro.rows()).clamp(micro.rows(), 32 * micro.rows());
        Sweep { micro, n, taps, run, out, residual, block, tap_step, run_step, far, in_turn }
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
                let tables = Tables { a: table, c: c_rows.cast::<*mut E>(), residual: r_rows };
                let after = row + count..rows.end.min(row + count + block);
                let next = self.next(source, count, after, &panels, c, finish);
                self.block(source, row, count, &panels, b, tables, finish, stage, next);
                row += count;
            }
        }
    }

    /// What the block of rows `rows` will read and write, for the block of `count` rows before it to bring close.
    fn next<S: Source<E>>(
        &self,
        source: &S,
        count: usize,
        rows: Range<usize>,
        panels: &Range<usize>,
        c: *const E,
        finish: &Finish<E>,
    ) -> Option<Next<E>> {
        if !self.in_turn || panels.len() < self.n.div_ceil(E::PANEL) {
            return None;
        }
        let calls = count.div_ceil(self.micro.rows()) * self.n.div_ceil(self.micro.width);
        let products = self.taps * self.run;
        let share =
            |len: usize, turns: usize| Share::new(len * size_of::<E>(), calls.div_ceil(turns), products);
        let len = rows.len() * self.n;
        let at = |map: &RowMap, base: *const E| base.wrapping_offset(map.offset(rows.start));
        let written = if rows.is_empty() { c } else { at(&self.out, c) };
        let a = if rows.is_empty() { None } else { source.piece(rows.start, rows.len()) };
        let added =
            !finish.residual.is_null() && self.residual.stride() == Some(self.n as isize) && !rows.is_empty();
        let residual = added.then(|| at(&self.residual, finish.residual)).filter(|r| *r != written);
        let nothing = (std::ptr::null(), Share::default());
        let read = match (a, residual) {
            (Some((a, of_a)), Some(r)) => [(a, share(of_a, 2)), (r, share(len, 2))],
            (Some((a, of_a)), None) => [(a, share(of_a, 1)), nothing],
            (None, Some(r)) => [(r, share(len, 1)), nothing],
            (None, None) => [nothing; 2],
        };
        Some(Next { read, both: a.is_some() && residual.is_some(), written: (written, share(len, 1)) })
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
        tables: Tables<E>,
        finish: &Finish<E>,
        stage: *mut u8,
        next: Option<Next<E>>,
    ) {
        let tiles = Tiles::new(count, self.micro.rows());
        let panel_len = self.taps * self.run * E::PANEL;
        let width = self.micro.width;
        let mut call = 0;
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
                let share = Share::new(
                    taps * run * E::PANEL * size_of::<E>(),
                    tiles.count.min(FETCHING_TILES),
                    taps * run,
                );
                for panel in panels.clone() {
                    let end = self.n.min((panel + 1) * E::PANEL);
                    for col in (panel * E::PANEL..end).step_by(width) {
                        // SAFETY: the panel and the columns exist; tables hold a pointer for each row of the block.
                        unsafe {
                            let slice = b.add(panel * panel_len + start);
                            for t in 0..tiles.count {
                                let (at, height) = tiles.tile(t);
                                let cols = width.min(end - col);
                                let (ahead, (fetch, claim)) = match &next {
                                    Some(next) => (Ahead::none(), next.streams(call)),
                                    None => {
                                        let rows = S::FETCHED && col == panels.start * E::PANEL;
                                        let ahead = self.ahead(
                                            &tables,
                                            &tiles,
                                            t,
                                            col,
                                            panels,
                                            rows,
                                            last && !finish.residual.is_null(),
                                        );
                                        let following = if panel + 1 < panels.end {
                                            slice.wrapping_add(panel_len)
                                        } else {
                                            b.wrapping_add(
                                                panels.start * panel_len + start + taps * run * E::PANEL,
                                            )
                                        };
                                        let fetch = if t < FETCHING_TILES {
                                            share.of(following, t)
                                        } else {
                                            Stream::none()
                                        };
                                        (ahead, (fetch, Stream::none()))
                                    }
                                };
                                call += 1;
                                let tile = Tile {
                                    a: tables.a.add(at * self.taps + tap * height),
                                    a_step: height,
                                    taps,
                                    offset: if S::COPIED { 0 } else { offset },
                                    run,
                                    b: slice.add(col - panel * E::PANEL),
                                    c: tables.c.add(at),
                                    col,
                                    cols,
                                    accumulate: !first,
                                    bias: if finish.bias.is_null() {
                                        finish.bias
                                    } else {
                                        finish.bias.add(col)
                                    },
                                    residual: if last && !finish.residual.is_null() {
                                        tables.residual.add(at)
                                    } else {
                                        std::ptr::null()
                                    },
                                    clip: if last { finish.clip } else { None },
                                    fetch,
                                    claim,
                                    ahead,
                                };
                                self.micro.kernel(height, cols)(&tile);
                            }
                        }
                    }
                    if last && let Some(post) = finish.post {
                        // SAFETY: the rows of the block are finished in these columns.
                        unsafe {
                            let c = std::slice::from_raw_parts(tables.c, count);
                            post.apply(c, row, panel * E::PANEL, end - panel * E::PANEL);
                        }
                    }
                }
            }
        }
    }

    /// What the tile after tile `t` uses, in the same columns or, after the last, in the next ones: rows of A, where `rows`, far rows of
    /// C, and those of the residual, where `residual`.
    #[inline]
    fn ahead(
        &self,
        tables: &Tables<E>,
        tiles: &Tiles,
        t: usize,
        col: usize,
        panels: &Range<usize>,
        rows: bool,
        residual: bool,
    ) -> Ahead<E> {
        let mut ahead = Ahead::none();
        let same = t + 1 < tiles.count;
        let (at, height) = tiles.tile(if same { t + 1 } else { 0 });
        let next_col = if same { col } else { col + self.micro.width };
        if next_col >= self.n.min(panels.end * E::PANEL) {
            return ahead;
        }
        (ahead.rows, ahead.col) = (height, next_col);
        if same && rows {
            ahead.a = tables.a.wrapping_add(at);
        }
        if self.far {
            ahead.c = tables.c.wrapping_add(at);
            if residual {
                ahead.residual = tables.residual.wrapping_add(at);
            }
        }
        ahead
    }
}

/// Pointers to the rows of a block.
struct Tables<E> {
    /// One after another for each tile, tap by tap.
    a: *const *const E,
    c: *const *mut E,
    residual: *const *const E,
}

/// Memory of the next block of rows, as pieces that every call brings a share of.
struct Next<E> {
    /// Calls take turns where there are two pieces to read.
    read: [(*const E, Share); 2],
    both: bool,
    written: (*const E, Share),
}

impl<E> Next<E> {
    /// What call `call` fetches and claims.
    #[inline]
    fn streams(&self, call: usize) -> (Stream, Stream) {
        let (piece, turn) = if self.both { (call % 2, call / 2) } else { (0, call) };
        let (start, share) = self.read[piece];
        (share.of(start, turn), self.written.1.of(self.written.0, call))
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
