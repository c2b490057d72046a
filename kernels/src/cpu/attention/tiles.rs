//! Blocks of queries against blocks of keys on tiles of bf16 (`cpu::amx`).
//!
//! Keys and values are packed once for each batch entry and key head. For each block of rows the unit multiplies split
//! queries with panels of keys; vector code makes weights of the scores and writes them in split form, as the first operand
//! of the product with the values. What the unit sums up to infinities or NaN is computed again in `f32`.

use super::rows::{Block, CHUNK, Finish, Queries, Row, Weigh};
use super::tiled::{Accumulate, AllFinite, PackKeys, SplitRows, Tiled};
use super::{Operands, Shape};
use crate::cpu::amx::split::{self, PackPanel};
use crate::cpu::amx::tile::{Ahead, COLS, Products, ROWS, Rows, STEP, Tiles};
use crate::cpu::pointwise::share;
use crate::cpu::simd::dispatch;
use crate::cpu::storage::Storage;
use crate::tactic::Build;
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};
use smallvec::SmallVec;
use std::marker::PhantomData;
use std::ops::Range;

/// Attention of `f32` operands at any strides; one product also takes operands of bf16.
pub(super) struct TileAttention<T> {
    id: &'static str,
    products: Products,
    marker: PhantomData<fn() -> T>,
}

/// Most rows of a block, and rows that go through the unit at once.
const BLOCK: usize = 64;
const PAIR: usize = 2 * ROWS;
/// Most panels of keys of a block.
const SPAN: usize = 8;
/// Floats of the scores or sums of a block and one panel: [`COLS`] of each row, and a line that spreads panels over cache sets.
pub(super) const PANEL: usize = BLOCK * COLS + COLS;
/// Bytes of packed keys and values that a task may pack for itself.
const OWN_BYTES: usize = 1 << 20;
/// Fewer rows leave tiles empty.
const FEWEST_ROWS: usize = 5;

const _: () = assert!(COLS == CHUNK && STEP == CHUNK);

/// A problem made ready.
pub(super) struct TileKernel<T> {
    shape: Shape,
    products: Products,
    /// Parts of a team's rows.
    splits: usize,
    /// Panels of all keys, and of a block.
    panels: usize,
    span: usize,
    /// Whether a first phase packs keys and values for all tasks; else each task packs its own.
    shared: bool,
    layout: Layout,
    phases: SmallVec<[usize; 2]>,
    marker: PhantomData<fn() -> T>,
}

/// Where things lie in a task's scratch, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Layout {
    /// Queries times the scale, and the same split.
    plain: usize,
    queries: usize,
    scores: usize,
    weights: usize,
    sums: usize,
    product: usize,
    factors: usize,
    mask: usize,
    staged: usize,
    packed: usize,
    total: usize,
    /// Floats between rows of plain queries; bytes between rows of queries and of weights.
    pitch: usize,
    query_stride: usize,
    weight_stride: usize,
}

/// A distance of rows that does not map them all to a few cache sets.
fn spread(bytes: usize) -> usize {
    if bytes.is_multiple_of(512) { bytes + 128 } else { bytes }
}

impl<T> TileAttention<T> {
    pub(super) const fn new(id: &'static str, products: Products) -> Self {
        TileAttention { id, products, marker: PhantomData }
    }
}

impl<T: Tiles + 'static> Build for TileAttention<T> {
    type Kernel = TileKernel<T>;

    fn build(&self, p: &Problem<'_>) -> Result<TileKernel<T>, Reject> {
        let Op::Attention(op) = p.op else { return Err(Reject::new("not attention")) };
        if !T::available(p.isa) {
            return Err(Reject::new("needs AMX"));
        }
        let shape = Shape::new(op, p)?;
        match shape.dtype {
            // Products of bf16 are exact under any precision.
            DType::BF16 if self.products == Products::One => {}
            DType::F32 if p.precision == self.products.precision() => {}
            DType::F32 => return Err(Reject(format!("for precision {}", self.products.precision()))),
            other => return Err(Reject(format!("attention of {other}"))),
        }
        if shape.batch * shape.keys * shape.d * shape.dv == 0 {
            return Err(Reject::new("an empty sum"));
        }
        if shape.team() < FEWEST_ROWS {
            return Err(Reject::new("too few rows for tiles"));
        }
        Ok(TileKernel::new(shape, self.products, p.threads))
    }

    fn fit(&self, kernel: &TileKernel<T>, p: &Problem<'_>) -> Result<Fit, Reject> {
        let shape = &kernel.shape;
        let teams = (shape.batch * shape.groups) as f64;
        let (speed, splitting) = self.products.costs();
        // Nanoseconds for each score, and for each value that is packed.
        let (weight, packing) = (0.5, 2.0 * splitting);
        let height = (shape.team() as f64 / ROWS as f64).min(1.0);
        let rows = teams * shape.team() as f64;
        let depth = (split::steps(shape.d) * STEP + split::panels(shape.dv) * COLS) as f64;
        let keys = (kernel.panels * COLS) as f64 * shape.share_visible();
        let work = rows * keys * (depth / (speed * (0.3 + 0.7 * height)) + weight);
        let packed = teams * (shape.keys * (shape.d + shape.dv)) as f64 * packing;
        let ends = rows * (shape.d + shape.dv) as f64 * 0.15;
        let tasks = *kernel.phases.last().unwrap_or(&1);
        Ok(Fit { cost_ns: 150.0 + (work + packed + ends) / p.threads.clamp(1, tasks.max(1)) as f64 })
    }
}

impl<T: Tiles + 'static> Tactic for TileAttention<T> {
    fn id(&self) -> &'static str {
        self.id
    }

    crate::tactic::built!();
}

impl<T: Tiles> TileKernel<T> {
    fn new(shape: Shape, products: Products, threads: usize) -> TileKernel<T> {
        let teams = shape.batch * shape.groups;
        let blocks = shape.team().div_ceil(BLOCK);
        let wanted = if threads > 1 { (2 * threads).div_ceil(teams) } else { 1 };
        let splits = wanted.clamp(1, blocks);
        let panels = split::panels(shape.keys);
        let mut kernel = TileKernel {
            products,
            splits,
            panels,
            span: panels.div_ceil(panels.div_ceil(SPAN)),
            shared: false,
            layout: Layout::default(),
            phases: SmallVec::new(),
            marker: PhantomData,
            shape,
        };
        let own = kernel.key_bytes() + kernel.value_bytes();
        kernel.shared = splits > 1 || own > OWN_BYTES;
        if kernel.shared {
            kernel.phases.push((teams * panels).min(2 * threads.max(1)));
        }
        kernel.phases.push(teams * splits);
        let (shape, span) = (&kernel.shape, kernel.span);
        let row = split::steps(shape.d) * products.row_bytes();
        let mut layout = Layout {
            pitch: shape.d.next_multiple_of(16),
            query_stride: spread(row),
            weight_stride: spread(span * products.row_bytes()),
            ..Layout::default()
        };
        let mut place = |bytes: usize| {
            let here = layout.total;
            layout.total += bytes.next_multiple_of(64);
            here
        };
        layout.plain = place(BLOCK * layout.pitch * 4);
        layout.queries = place(BLOCK * layout.query_stride);
        layout.scores = place(span * PANEL * 4);
        layout.weights = place(BLOCK * layout.weight_stride);
        layout.sums = place(split::panels(shape.dv) * PANEL * 4);
        layout.product = place(PAIR * COLS * 4);
        layout.factors = place(BLOCK * 4);
        layout.mask = place(span * COLS * 4);
        layout.staged = place(ROWS * row);
        layout.packed = place(if kernel.shared { 0 } else { own });
        kernel.layout = layout;
        kernel
    }

    /// Bytes of one step of all columns that a panel holds.
    fn step_bytes(&self) -> usize {
        self.products.panel_bytes()
    }

    /// Bytes of the packed keys of one team: panels of keys, column by column.
    fn key_bytes(&self) -> usize {
        self.panels * split::steps(self.shape.d) * self.step_bytes()
    }

    /// Bytes of its packed values: panels of columns, key by key.
    fn value_bytes(&self) -> usize {
        split::panels(self.shape.dv) * self.panels * self.step_bytes()
    }

    /// Packs the keys and values of panel `panel` of keys.
    ///
    /// # Safety
    /// The operands are those of a team, `packed` has room for it, `staged` for a tile of split rows.
    unsafe fn pack<E: Storage>(
        &self,
        k: *const E,
        v: *const E,
        panel: usize,
        staged: *mut u8,
        packed: *mut u8,
    ) {
        let (shape, products) = (&self.shape, self.products);
        let first = panel * COLS;
        let keys = COLS.min(shape.keys - first);
        // SAFETY: the panel's keys exist; the packed team has room for their steps.
        unsafe {
            let from = k.offset(first as isize * shape.k[2]);
            let to = packed.add(panel * split::steps(shape.d) * self.step_bytes());
            if shape.k[3] == 1 || shape.d == 1 {
                dispatch(shape.isa, PackKeys { shape, products, from, keys, staged, to });
            } else {
                let [_, _, col, row] = shape.k;
                let pack = PackPanel { products, from, row, col, taps: 1, k: shape.d, n: keys, panel: 0, to };
                dispatch(shape.isa, pack);
            }
            let (from, [_, _, row, col]) = (v.offset(first as isize * shape.v[2]), shape.v);
            for columns in 0..split::panels(shape.dv) {
                let at = self.key_bytes() + (columns * self.panels + panel) * self.step_bytes();
                let pack = PackPanel {
                    products,
                    from,
                    row,
                    col,
                    taps: 1,
                    k: keys,
                    n: shape.dv,
                    panel: columns,
                    to: packed.add(at),
                };
                dispatch(shape.isa, pack);
            }
        }
    }

    /// Computes rows `rows` of team `team`.
    ///
    /// # Safety
    /// See [`Kernel::run`]; the unit is available.
    unsafe fn part<E: Storage>(&self, team: usize, rows: Range<usize>, args: &Args<'_>) {
        let (shape, layout) = (&self.shape, &self.layout);
        let (b, g) = (team / shape.groups, team % shape.groups);
        let at = |offset: usize| args.scratch.wrapping_add(offset);
        // SAFETY: by the caller's contract.
        let Operands { q, k, v, out, mask } = unsafe { shape.operands::<E>(b, g, args) };
        let packed = if self.shared {
            args.workspace.wrapping_add(team * (self.key_bytes() + self.value_bytes()))
        } else {
            for panel in 0..self.panels {
                // SAFETY: the scratch has room for a packed team.
                unsafe { self.pack(k, v, panel, at(layout.staged), at(layout.packed)) };
            }
            at(layout.packed)
        };
        // SAFETY: by the caller's contract.
        let mut tiles = unsafe { T::enter() };
        let mut states = [Row::new(0, 0); BLOCK];
        let mut start = rows.start;
        while start < rows.end {
            // Pairs of tiles of one block are of one height.
            let left = rows.end - start;
            let count = if left >= BLOCK { BLOCK } else { left.min(PAIR) };
            let states = &mut states[..count];
            let mut horizon = 0;
            for (i, state) in states.iter_mut().enumerate() {
                let (head, query) = shape.place(g, start + i);
                *state = Row::new(head, query);
                horizon = horizon.max(shape.visible(query));
            }
            let plain = at(layout.plain).cast::<f32>();
            dispatch(shape.isa, Queries { shape, q, rows: states, to: plain, pitch: layout.pitch });
            let split = SplitRows {
                products: self.products,
                from: plain,
                pitch: layout.pitch,
                rows: count,
                n: shape.d,
                to: at(layout.queries),
                stride: layout.query_stride,
            };
            dispatch(shape.isa, split);
            tiles.configure([count.min(ROWS), count.min(PAIR).saturating_sub(ROWS)]);
            let pairs = count.div_ceil(PAIR);
            let panels = split::panels(horizon);
            for first in (0..panels).step_by(self.span) {
                let count = self.span.min(panels - first);
                let key = first * COLS;
                let block = Tiled {
                    shape,
                    products: self.products,
                    panels: count,
                    scores: at(layout.scores).cast(),
                    weights: at(layout.weights),
                    weight_stride: layout.weight_stride,
                    factors: at(layout.factors).cast(),
                    sums: at(layout.sums).cast(),
                    plain,
                    pitch: layout.pitch,
                    k: k.wrapping_offset(key as isize * shape.k[2]),
                };
                // SAFETY: the block's keys exist and are packed, the scratch has room for its scores.
                unsafe {
                    self.scores(&mut tiles, pairs, first..first + count, packed, args.scratch);
                    let weigh = Weigh::<E, _> {
                        shape,
                        mask,
                        rows: states,
                        block,
                        first: key,
                        keys: (count * COLS).min(shape.keys - key),
                        room: at(layout.mask).cast(),
                        marker: PhantomData,
                    };
                    dispatch(shape.isa, weigh);
                    self.values(&mut tiles, &block, states.len(), first, packed, v, args.scratch);
                }
            }
            let block = Tiled {
                shape,
                products: self.products,
                panels: 0,
                scores: std::ptr::null_mut(),
                weights: std::ptr::null_mut(),
                weight_stride: 0,
                factors: std::ptr::null_mut(),
                sums: at(layout.sums).cast(),
                plain,
                pitch: layout.pitch,
                k,
            };
            dispatch(shape.isa, Finish { shape, rows: states, block, out });
            start += count;
        }
    }

    /// Scores of the staged queries and the keys of panels `panels`.
    ///
    /// # Safety
    /// Queries and keys are packed, and there are as many pairs of tiles as the unit is configured for.
    unsafe fn scores(
        &self,
        tiles: &mut T,
        pairs: usize,
        panels: Range<usize>,
        packed: *const u8,
        scratch: *mut u8,
    ) {
        let (layout, steps) = (&self.layout, split::steps(self.shape.d));
        let stride = layout.query_stride;
        for (i, panel) in panels.enumerate() {
            let keys = packed.wrapping_add(panel * steps * self.step_bytes());
            let next = keys.wrapping_add(steps * self.step_bytes());
            for pair in 0..pairs {
                let rows = scratch.wrapping_add(layout.queries + pair * PAIR * stride);
                let to = scratch.wrapping_add(layout.scores).cast::<f32>();
                // SAFETY: by the caller's contract.
                unsafe {
                    tiles.zero();
                    let start = [rows.cast_const(), rows.wrapping_add(ROWS * stride)];
                    let ahead = Ahead::share(next, steps * self.step_bytes(), pair, pairs, steps);
                    let rows = Rows::joined(self.products, start, stride);
                    tiles.add(self.products, steps, &rows, keys, ahead);
                    tiles.store(to.add(i * PANEL + pair * PAIR * COLS));
                }
            }
        }
    }

    /// Adds the values of the block's keys, from panel `first` on, by their weights to the sums of `rows` rows.
    ///
    /// # Safety
    /// Weights and values are there, and the unit is configured for the rows.
    unsafe fn values<E: Storage>(
        &self,
        tiles: &mut T,
        block: &Tiled<'_, E>,
        rows: usize,
        first: usize,
        packed: *const u8,
        v: *const E,
        scratch: *mut u8,
    ) {
        let (shape, stride) = (&self.shape, block.weight_stride);
        for columns in 0..split::panels(shape.dv) {
            let at = self.key_bytes() + (columns * self.panels + first) * self.step_bytes();
            let values = packed.wrapping_add(at);
            let next = values.wrapping_add(self.panels * self.step_bytes());
            let pairs = rows.div_ceil(PAIR);
            for pair in 0..pairs {
                let weights = block.weights.wrapping_add(pair * PAIR * stride).cast_const();
                let sums = block.sum(pair * PAIR, columns * COLS);
                let fresh = first == 0;
                let to = if fresh { sums } else { scratch.wrapping_add(self.layout.product).cast() };
                let count = PAIR.min(rows - pair * PAIR);
                // SAFETY: by the caller's contract.
                unsafe {
                    tiles.zero();
                    let start = [weights, weights.wrapping_add(ROWS * stride)];
                    let bytes = block.panels * self.step_bytes();
                    let ahead = Ahead::share(next, bytes, pair, pairs, block.panels);
                    let rows = Rows::joined(self.products, start, stride);
                    tiles.add(self.products, block.panels, &rows, values, ahead);
                    tiles.store(to);
                    if !dispatch(shape.isa, AllFinite { from: to, n: count * COLS }) {
                        let v = v.offset((first * COLS) as isize * shape.v[2]);
                        let keys = (block.panels * COLS).min(shape.keys - first * COLS);
                        self.add_seen(block, pair * PAIR, count, keys, columns * COLS, v, to);
                    }
                    if !fresh {
                        let factors = block.factors.add(pair * PAIR);
                        dispatch(shape.isa, Accumulate { sums, factors, rows: count, product: to });
                    }
                }
            }
        }
    }

    /// The sums in `f32`, for rows that are not finite: an excluded key does not take part, be its value infinite or NaN.
    ///
    /// # Safety
    /// See [`TileKernel::values`]; `v` are the block's values, `to` the sums of `rows` rows from `row` on and [`COLS`] columns
    /// from `column` on.
    #[cold]
    unsafe fn add_seen<E: Storage>(
        &self,
        block: &Tiled<'_, E>,
        row: usize,
        rows: usize,
        keys: usize,
        column: usize,
        v: *const E,
        to: *mut f32,
    ) {
        let part = |p: *const u8, i: usize| {
            // SAFETY: weights of the row.
            half::bf16::from_bits(unsafe { p.cast::<u16>().add(i).read_unaligned() }).to_f32()
        };
        for i in 0..rows {
            // SAFETY: by the caller's contract.
            let sums = unsafe { std::slice::from_raw_parts_mut(to.add(i * COLS), COLS) };
            if sums.iter().all(|x| x.is_finite()) {
                continue;
            }
            for (c, sum) in sums[..COLS.min(self.shape.dv - column)].iter_mut().enumerate() {
                *sum = 0.0;
                for j in 0..keys {
                    let at = block.weight(row + i, j);
                    let low = if self.products == Products::Three { part(at, STEP) } else { 0.0 };
                    let weight = part(at, 0) + low;
                    if weight != 0.0 {
                        let [_, _, by_key, by_column] = self.shape.v;
                        // SAFETY: the key and the column exist.
                        let value =
                            unsafe { *v.offset(j as isize * by_key + (column + c) as isize * by_column) };
                        *sum += weight * value.widen();
                    }
                }
            }
        }
    }
}

impl<T: Tiles> Kernel for TileKernel<T> {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.layout.total
    }

    fn workspace_bytes(&self) -> usize {
        let teams = self.shape.batch * self.shape.groups;
        if self.shared { teams * (self.key_bytes() + self.value_bytes()) } else { 0 }
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        // SAFETY: the caller's.
        unsafe {
            match self.shape.dtype {
                DType::BF16 => self.task::<half::bf16>(phase, task, args),
                _ => self.task::<f32>(phase, task, args),
            }
        }
        Ok(())
    }
}

impl<T: Tiles> TileKernel<T> {
    /// [`Kernel::run`] for operands of type `E`.
    ///
    /// # Safety
    /// See there.
    unsafe fn task<E: Storage>(&self, phase: usize, task: usize, args: &Args<'_>) {
        let shape = &self.shape;
        if self.shared && phase == 0 {
            let units = shape.batch * shape.groups * self.panels;
            let (first, last) = share(units, self.phases[0], task);
            for unit in first..last {
                let (team, panel) = (unit / self.panels, unit % self.panels);
                // SAFETY: by the caller's contract; the workspace has room for every team.
                unsafe {
                    let Operands { k, v, .. } =
                        shape.operands::<E>(team / shape.groups, team % shape.groups, args);
                    let to = args.workspace.add(team * (self.key_bytes() + self.value_bytes()));
                    self.pack(k, v, panel, args.scratch.add(self.layout.staged), to);
                }
            }
            return;
        }
        let (team, split) = (task / self.splits, task % self.splits);
        // Splits are cut at blocks.
        let (first, last) = share(shape.team().div_ceil(BLOCK), self.splits, split);
        // SAFETY: by the caller's contract; the tactic takes nothing where the unit is not available.
        unsafe { self.part::<E>(team, first * BLOCK..(last * BLOCK).min(shape.team()), args) };
    }
}
