//! Blocks of queries against blocks of keys.

use super::rows::{Finish, Lines, Queries, Row, Weigh};
use super::{Operands, Shape};
use crate::cpu::gemm::lanes::Elem;
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::gemm::sweep::{Finish as Store, Strided, Sweep};
use crate::cpu::movement::transpose;
use crate::cpu::pack;
use crate::cpu::pointwise::share;
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::{Storage, with_storage};
use crate::{Args, Kernel, KernelError};
use std::marker::PhantomData;
use std::ops::Range;

/// Most keys of a block, and where queries see different numbers of them.
const KEYS: usize = 256;
const CAUSAL_KEYS: usize = 128;
/// Most queries of a block.
const QUERIES: usize = 64;
/// Bytes of packed keys and values that a task keeps for all of its queries.
const KEPT_BYTES: usize = 1 << 20;

const PANEL: usize = <f32 as Elem>::PANEL;

/// Attention of many queries.
pub(super) struct FlashKernel {
    shape: Shape,
    /// Parts of a team's rows.
    splits: usize,
    /// Rows and keys of a block.
    block: usize,
    span: usize,
    /// Whether blocks of keys stay packed for all queries of a task.
    kept: bool,
    /// Products with a full block of keys, and with the last one.
    products: [Products; 2],
    layout: Layout,
    phases: [usize; 1],
}

/// The two products of one number of keys.
struct Products {
    keys: usize,
    /// Queries times keys.
    scores: Sweep<f32>,
    /// Weights times values, added to what is there.
    values: Sweep<f32>,
}

/// Where things lie in a task's scratch, in bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Layout {
    queries: usize,
    scores: usize,
    sums: usize,
    mask: usize,
    widened: usize,
    packed_keys: usize,
    packed_values: usize,
    sweep: usize,
    total: usize,
    /// Elements between rows of queries, scores and sums.
    query_pitch: usize,
    score_pitch: usize,
    sum_pitch: usize,
    /// Elements of one packed block of keys, and of values.
    key_block: usize,
    value_block: usize,
}

/// A row pitch that spreads rows over cache sets.
fn pitch(n: usize) -> usize {
    (n.div_ceil(16) | 1) * 16
}

impl FlashKernel {
    pub fn new(shape: Shape, threads: usize) -> FlashKernel {
        let micro = shape.micro();
        let block = (QUERIES / micro.rows()).max(1) * micro.rows();
        let teams = shape.batch * shape.groups;
        // Every split packs the keys for itself.
        let blocks = shape.team().div_ceil(block).max(1);
        let wanted = if threads > 1 { (2 * threads).div_ceil(teams.max(1)) } else { 1 };
        let splits = wanted.clamp(1, blocks);
        let most = if shape.causal && shape.queries > block { CAUSAL_KEYS } else { KEYS };
        // Blocks of about equal numbers of whole panels.
        let span = shape.keys.div_ceil(shape.keys.div_ceil(most).max(1)).next_multiple_of(PANEL).max(PANEL);
        let key_blocks = shape.keys.div_ceil(span).max(1);
        let full = span.min(shape.keys);
        let mut layout = Layout {
            query_pitch: pitch(shape.d),
            score_pitch: pitch(full),
            sum_pitch: pitch(shape.dv),
            key_block: pack::packed_len::<f32>(shape.d, full),
            value_block: pack::packed_len::<f32>(full, shape.dv),
            ..Layout::default()
        };
        let kept = key_blocks * (layout.key_block + layout.value_block) * 4 <= KEPT_BYTES;
        let products = [full, shape.keys - (key_blocks - 1) * full].map(|keys| Products {
            keys,
            scores: Sweep::new(
                micro,
                keys,
                1,
                shape.d,
                RowMap::uniform(block, layout.score_pitch as isize),
                RowMap::uniform(block, 0),
            ),
            values: Sweep::new(
                micro,
                shape.dv,
                1,
                keys,
                RowMap::uniform(block, layout.sum_pitch as isize),
                RowMap::uniform(block, layout.sum_pitch as isize),
            ),
        });
        let sweep_bytes = products
            .iter()
            .flat_map(|p| {
                let source =
                    |k| Strided::<f32> { base: std::ptr::null(), rows: RowMap::uniform(block, 0), k };
                [p.scores.scratch_bytes(&source(shape.d)), p.values.scratch_bytes(&source(p.keys))]
            })
            .max()
            .unwrap_or(0);
        let held = if kept { key_blocks } else { 1 };
        let mut at = 0;
        let mut place = |bytes: usize| {
            let here = at;
            at += bytes.next_multiple_of(64);
            here
        };
        layout.queries = place(block * layout.query_pitch * 4);
        layout.scores = place(block * layout.score_pitch * 4);
        layout.sums = place(block * layout.sum_pitch * 4);
        layout.mask = place(full * 4);
        layout.widened = place(PANEL * shape.d * 4);
        layout.packed_keys = place(held * layout.key_block * 4);
        layout.packed_values = place(held * layout.value_block * 4);
        layout.sweep = place(sweep_bytes);
        layout.total = at;
        let empty = shape.team() * shape.dv == 0;
        let phases = [if empty { 0 } else { teams * splits }];
        FlashKernel { shape, splits, block, span, kept, products, layout, phases }
    }

    /// Computes rows `rows` of the team of batch entry `b` and key head `g`.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn part<T: Storage>(&self, b: usize, g: usize, rows: Range<usize>, args: &Args<'_>) {
        let (shape, layout) = (&self.shape, &self.layout);
        // SAFETY: by the caller's contract.
        let Operands { q, k, v, out, mask } = unsafe { shape.operands::<T>(b, g, args) };
        let at = |offset: usize| args.scratch.wrapping_add(offset).cast::<f32>();
        let (queries, scores, sums) = (at(layout.queries), at(layout.scores), at(layout.sums));
        let key_blocks = shape.keys.div_ceil(self.span);
        let lines = Lines {
            scores,
            score_pitch: layout.score_pitch,
            keys: self.span,
            sums,
            sum_pitch: layout.sum_pitch,
            columns: shape.dv,
        };
        // Blocks that are packed already, and whether their values are all finite.
        let mut packed = 0;
        let mut finite: smallvec::SmallVec<[bool; 64]> = smallvec::SmallVec::new();
        let mut states = [Row::new(0, 0); QUERIES];
        for start in rows.clone().step_by(self.block) {
            let count = self.block.min(rows.end - start);
            let states = &mut states[..count];
            let mut horizon = 0;
            for (i, state) in states.iter_mut().enumerate() {
                let (head, query) = shape.place(g, start + i);
                *state = Row::new(head, query);
                horizon = horizon.max(shape.visible(query));
            }
            let pitch = layout.query_pitch;
            dispatch(shape.isa, Queries { shape, q, rows: states, to: queries, pitch });
            let mut first_block = true;
            for block in 0..key_blocks {
                let first = block * self.span;
                if first >= horizon {
                    break;
                }
                let products = &self.products[usize::from(block + 1 == key_blocks)];
                let slot = if self.kept { block } else { 0 };
                let keys = at(layout.packed_keys).wrapping_add(slot * layout.key_block);
                let values = at(layout.packed_values).wrapping_add(slot * layout.value_block);
                // SAFETY: the block's keys exist, the scratch has room for them in both packings, and the products
                // read and write what `new` laid out.
                unsafe {
                    if !self.kept || block >= packed {
                        let source = k.offset(first as isize * shape.k[2]);
                        let widened = at(layout.widened);
                        let (n, to) = (products.keys, keys);
                        dispatch(shape.isa, PackKeys { shape, k: source, keys: n, widened, to });
                        let source = v.offset(first as isize * shape.v[2]);
                        let all_finite =
                            dispatch(shape.isa, PackValues { shape, v: source, keys: n, to: values });
                        if self.kept || finite.is_empty() {
                            finite.push(all_finite);
                        } else {
                            finite[0] = all_finite;
                        }
                        packed = block + 1;
                    }
                    let room = args.scratch.add(layout.sweep);
                    let from = |base: *const f32, pitch: usize, k: usize| Strided {
                        base,
                        rows: RowMap::uniform(count, pitch as isize),
                        k,
                    };
                    products.scores.run(
                        &from(queries, layout.query_pitch, shape.d),
                        0..count,
                        0..pack::panels::<f32>(products.keys.min(horizon - first)),
                        keys,
                        scores,
                        &Store::none(),
                        room,
                    );
                    let weigh = Weigh::<T, _> {
                        shape,
                        mask,
                        rows: states,
                        block: Lines { keys: products.keys, ..lines },
                        first,
                        keys: products.keys,
                        room: at(layout.mask),
                        marker: PhantomData,
                    };
                    dispatch(shape.isa, weigh);
                    if finite[slot] {
                        let residual = if first_block { std::ptr::null() } else { sums.cast_const() };
                        products.values.run(
                            &from(scores, layout.score_pitch, products.keys),
                            0..count,
                            0..pack::panels::<f32>(shape.dv),
                            values,
                            sums,
                            &Store { residual, ..Store::none() },
                            room,
                        );
                    } else {
                        self.add_seen(count, products.keys, scores, values, sums, first_block);
                    }
                }
                first_block = false;
            }
            dispatch(shape.isa, Finish { shape, rows: states, block: lines, out });
        }
    }

    /// Adds the values of keys that have a weight: an excluded key does not take part, be its value infinite or NaN.
    ///
    /// # Safety
    /// `scores` has `count` rows of `keys` weights, `values` is packed for as many keys, `sums` has `count` rows.
    unsafe fn add_seen(
        &self,
        count: usize,
        keys: usize,
        scores: *const f32,
        values: *const f32,
        sums: *mut f32,
        fresh: bool,
    ) {
        for i in 0..count {
            for c in 0..self.shape.dv {
                // SAFETY: by the caller's contract.
                unsafe {
                    let to = sums.add(i * self.layout.sum_pitch + c);
                    let mut sum = if fresh { 0.0 } else { *to };
                    for j in 0..keys {
                        let weight = *scores.add(i * self.layout.score_pitch + j);
                        if weight != 0.0 {
                            sum += weight * *values.add((c / PANEL * keys + j) * PANEL + c % PANEL);
                        }
                    }
                    *to = sum;
                }
            }
        }
    }
}

impl Kernel for FlashKernel {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    fn scratch_bytes(&self) -> usize {
        self.layout.total
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (team, split) = (task / self.splits, task % self.splits);
        let (b, g) = (team / self.shape.groups, team % self.shape.groups);
        // Splits are cut at blocks.
        let blocks = self.shape.team().div_ceil(self.block);
        let (first, last) = share(blocks, self.splits, split);
        let rows = first * self.block..(last * self.block).min(self.shape.team());
        with_storage!(self.shape.dtype, T => {
            // SAFETY: by the caller's contract.
            unsafe { self.part::<T>(b, g, rows, args) }
        }, else unreachable!("accepted types only"));
        Ok(())
    }
}

/// Packs a block of keys as the second operand of the first product: panels of keys, column by column.
struct PackKeys<'a, T> {
    shape: &'a Shape,
    k: *const T,
    keys: usize,
    /// Room for the rows of one panel as `f32`.
    widened: *mut f32,
    to: *mut f32,
}

impl<T: Storage> Task for PackKeys<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (d, [_, _, row, col]) = (self.shape.d, self.shape.k);
        for panel in 0..pack::panels::<f32>(self.keys) {
            let first = panel * PANEL;
            let count = PANEL.min(self.keys - first);
            // SAFETY: the keys exist, a panel holds `d` rows of PANEL, the widened rows as much.
            unsafe {
                let to = self.to.add(panel * PANEL * d);
                let from = self.k.offset(first as isize * row);
                if count < PANEL {
                    std::ptr::write_bytes(to, 0, PANEL * d);
                }
                if T::DTYPE == engraft_network::DType::F32 && (col == 1 || d == 1) {
                    transpose(4, d, count, from.cast(), row * 4, to.cast(), PANEL as isize * 4);
                    continue;
                }
                for j in 0..count {
                    let (from, to) = (from.offset(j as isize * row), self.widened.add(j * d));
                    let mut c = 0;
                    while c < d {
                        if col == 1 {
                            let m = S::LANES.min(d - c);
                            s.store_n(to.add(c), m, T::load(s, from.add(c), m));
                            c += m;
                        } else {
                            *to.add(c) = (*from.offset(c as isize * col)).widen();
                            c += 1;
                        }
                    }
                }
                let rows = self.widened.cast::<u8>().cast_const();
                transpose(4, d, count, rows, d as isize * 4, to.cast(), PANEL as isize * 4);
            }
        }
    }
}

/// Packs a block of values as the second operand of the second product: panels of columns, key by key. Tells whether all of
/// them are finite.
struct PackValues<'a, T> {
    shape: &'a Shape,
    v: *const T,
    keys: usize,
    to: *mut f32,
}

impl<T: Storage> Task for PackValues<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> bool {
        let (dv, [_, _, row, col]) = (self.shape.dv, self.shape.v);
        // x - x is NaN for NaN and infinities, and zero otherwise.
        let mut unordered = s.zero();
        for j in 0..self.keys {
            for first in (0..dv).step_by(PANEL) {
                let count = PANEL.min(dv - first);
                // SAFETY: the values exist; panel `first / PANEL` has a row of PANEL for every key.
                unsafe {
                    let from = self.v.offset(j as isize * row + first as isize * col);
                    let to = self.to.add((first / PANEL * self.keys + j) * PANEL);
                    let mut c = 0;
                    while c < PANEL {
                        let m = S::LANES.min(count.saturating_sub(c));
                        let x = if m == 0 {
                            s.zero()
                        } else if col == 1 || dv == 1 {
                            T::load(s, from.add(c), m)
                        } else {
                            let mut lanes = [0f32; 16];
                            for (l, lane) in lanes[..m].iter_mut().enumerate() {
                                *lane = (*from.offset((c + l) as isize * col)).widen();
                            }
                            s.load(lanes.as_ptr())
                        };
                        unordered = s.add(unordered, s.sub(x, x));
                        s.store(to.add(c), x);
                        c += S::LANES;
                    }
                }
            }
        }
        !s.any(s.is_nan(unordered))
    }
}
