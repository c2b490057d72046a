//! What happens to rows between the two products: masks, weights, and the way in and out.

use super::{Mask, Shape};
use crate::cpu::math;
use crate::cpu::simd::{Simd, Task};
use crate::cpu::softmax::keep;
use crate::cpu::storage::Storage;

/// State of a query row over the blocks of its keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub head: usize,
    pub query: usize,
    /// Greatest score so far, and the sum of the weights relative to it.
    pub max: f32,
    pub sum: f32,
    /// Whether a key took part: a row of which all keys are excluded is zero.
    pub any: bool,
}

impl Row {
    pub fn new(head: usize, query: usize) -> Row {
        Row { head, query, max: f32::NEG_INFINITY, sum: 0.0, any: false }
    }
}

/// Copies query rows to `to`, times the scale; `pitch` apart.
pub(super) struct Queries<'a, T> {
    pub shape: &'a Shape,
    /// The batch entry's first element.
    pub q: *const T,
    pub rows: &'a [Row],
    pub to: *mut f32,
    pub pitch: usize,
}

impl<T: Storage> Task for Queries<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = self.shape;
        let scale = s.splat(shape.scale);
        for (i, row) in self.rows.iter().enumerate() {
            let at = row.head as isize * shape.q[1] + row.query as isize * shape.q[2];
            // SAFETY: the row exists, and `to` has room for `d` elements of every row.
            unsafe {
                let (from, to) = (self.q.offset(at), self.to.add(i * self.pitch));
                if shape.q[3] == 1 {
                    let mut j = 0;
                    while j < shape.d {
                        let m = S::LANES.min(shape.d - j);
                        s.store_n(to.add(j), m, s.mul(T::load(s, from.add(j), m), scale));
                        j += m;
                    }
                } else {
                    for j in 0..shape.d {
                        *to.add(j) = (*from.offset(j as isize * shape.q[3])).widen() * shape.scale;
                    }
                }
            }
        }
    }
}

/// Where a block's scores lie, and where its weights and sums go.
pub(super) trait Block: Copy {
    /// Whether scores that are not finite may be wrong: then [`Block::repair`] computes them again.
    const CHECKED: bool;

    /// The score of row `i` and key `j` of the block. Those of [`CHUNK`] keys lie together.
    fn score(&self, i: usize, j: usize) -> *mut f32;

    /// Computes the first `n` scores of row `i` again.
    ///
    /// # Safety
    /// The row and the keys exist.
    unsafe fn repair(&self, i: usize, n: usize);

    /// Takes the weights of row `i` and keys `j..j + m`: a vector's lanes, or the first of them.
    ///
    /// # Safety
    /// The row and the keys exist; `j` is a multiple of LANES.
    unsafe fn put<S: Simd>(&self, s: S, i: usize, j: usize, m: usize, weights: S::F);

    /// Sets the weights of row `i` from key `n` on to zero: keys that the row may not see.
    ///
    /// # Safety
    /// The row exists.
    unsafe fn clear<S: Simd>(&self, s: S, i: usize, n: usize);

    /// Takes the factor of what was summed up for row `i` in the blocks before; `summed` is false where there was nothing.
    ///
    /// # Safety
    /// The row exists.
    unsafe fn rescale<S: Simd>(&self, s: S, i: usize, factor: f32, summed: bool);

    /// The sum of row `i` and column `c`. Those of [`CHUNK`] columns lie together.
    fn sum(&self, i: usize, c: usize) -> *mut f32;
}

/// Keys whose scores, and columns whose sums, lie together.
pub(super) const CHUNK: usize = 32;
/// Vectors of a chunk at most.
const MOST: usize = 8;

/// Scores, weights in their place, and sums as rows at a pitch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    pub scores: *mut f32,
    pub score_pitch: usize,
    pub keys: usize,
    pub sums: *mut f32,
    pub sum_pitch: usize,
    /// Columns of the sums.
    pub columns: usize,
}

impl Block for Lines {
    const CHECKED: bool = false;

    #[inline(always)]
    fn score(&self, i: usize, j: usize) -> *mut f32 {
        self.scores.wrapping_add(i * self.score_pitch + j)
    }

    unsafe fn repair(&self, _: usize, _: usize) {}

    #[inline(always)]
    unsafe fn put<S: Simd>(&self, s: S, i: usize, j: usize, m: usize, weights: S::F) {
        // SAFETY: by the caller's contract.
        unsafe { f32::store(s, self.score(i, j), m, weights) }
    }

    #[inline(always)]
    unsafe fn clear<S: Simd>(&self, _: S, i: usize, n: usize) {
        for j in n..self.keys {
            // SAFETY: by the caller's contract.
            unsafe { *self.score(i, j) = 0.0 };
        }
    }

    #[inline(always)]
    unsafe fn rescale<S: Simd>(&self, s: S, i: usize, factor: f32, summed: bool) {
        if factor == 1.0 || !summed {
            return;
        }
        let factor = s.splat(factor);
        let mut c = 0;
        while c < self.columns {
            let (m, at) = (S::LANES.min(self.columns - c), self.sum(i, c));
            // SAFETY: by the caller's contract.
            unsafe { f32::store(s, at, m, s.mul(f32::load(s, at, m), factor)) };
            c += m;
        }
    }

    #[inline(always)]
    fn sum(&self, i: usize, c: usize) -> *mut f32 {
        self.sums.wrapping_add(i * self.sum_pitch + c)
    }
}

/// Turns a block of scores into weights `exp(score - max)`, and rescales what was summed up so far.
pub(super) struct Weigh<'a, T, B> {
    pub shape: &'a Shape,
    /// The mask of the batch entry; of type `T` or bytes, as the shape says.
    pub mask: *const u8,
    pub rows: &'a mut [Row],
    pub block: B,
    /// The block's first key, and how many it has.
    pub first: usize,
    pub keys: usize,
    /// Room for one row of the mask.
    pub room: *mut f32,
    pub marker: std::marker::PhantomData<T>,
}

/// What a row's scores are, for each of some vectors that go side by side.
struct Seen<S: Simd> {
    max: [S::F; MOST],
    /// One where a lane is a key that takes part.
    any: [S::F; MOST],
    /// Sums of the scores: not finite where one of them is not.
    total: [S::F; MOST],
}

impl<T: Storage, B: Block> Weigh<'_, T, B> {
    /// The mask of a row from key `first` on as floats, `n` of them: to be added, or for a bool mask 0 or -infinity.
    #[inline(always)]
    unsafe fn mask_row<S: Simd>(&self, s: S, row: &Row, n: usize) -> *const f32 {
        let [_, by_head, by_query, step] = self.shape.mask_strides;
        let at = row.head as isize * by_head + row.query as isize * by_query + self.first as isize * step;
        // SAFETY: the mask broadcasts to the scores, so that it has these elements; the room holds a block's keys.
        unsafe {
            if self.shape.mask == Mask::Bool {
                let from = self.mask.offset(at);
                for j in 0..n {
                    let seen = *from.offset(j as isize * step) != 0;
                    *self.room.add(j) = if seen { 0.0 } else { f32::NEG_INFINITY };
                }
                return self.room;
            }
            let from = self.mask.cast::<T>().offset(at);
            if step != 1 {
                for j in 0..n {
                    *self.room.add(j) = (*from.offset(j as isize * step)).widen();
                }
                return self.room;
            }
            if T::DTYPE == engraft_network::DType::F32 {
                return from.cast();
            }
            let mut j = 0;
            while j < n {
                let m = S::LANES.min(n - j);
                s.store_n(self.room.add(j), m, T::load(s, from.add(j), m));
                j += m;
            }
            self.room
        }
    }

    /// Looks at the scores of row `i` and keys `j..j + m`, masked by `mask` (null: not).
    #[inline(always)]
    unsafe fn look<S: Simd>(
        &self,
        s: S,
        i: usize,
        j: usize,
        m: usize,
        mask: *const f32,
        seen: &mut Seen<S>,
        slot: usize,
    ) {
        let lowest = s.splat(f32::NEG_INFINITY);
        let at = self.block.score(i, j);
        // SAFETY: the block holds the scores, the row of the mask the keys.
        unsafe {
            let mut x = f32::load(s, at, m);
            if B::CHECKED {
                seen.total[slot] = s.add(seen.total[slot], x);
            }
            if !mask.is_null() {
                let add = f32::load(s, mask.add(j), m);
                if self.shape.mask == Mask::Bool {
                    let out = s.lt(add, s.zero());
                    let taken = keep(s, s.select(out, s.zero(), s.splat(1.0)), m);
                    seen.any[slot] = s.max(seen.any[slot], taken);
                    x = s.select(out, lowest, x);
                } else {
                    x = s.add(x, add);
                }
                f32::store(s, at, m, x);
            }
            seen.max[slot] = s.max(if m == S::LANES { x } else { keep_or(s, x, m, lowest) }, seen.max[slot]);
        }
    }

    /// Looks at the first `n` scores of row `i`.
    #[inline(always)]
    unsafe fn scan<S: Simd>(&self, s: S, i: usize, n: usize, mask: *const f32) -> Seen<S> {
        let lowest = s.splat(f32::NEG_INFINITY);
        let mut seen = Seen { max: [lowest; MOST], any: [s.zero(); MOST], total: [s.zero(); MOST] };
        let mut j = 0;
        // SAFETY: by the caller's contract.
        unsafe {
            while j + CHUNK <= n {
                for v in 0..CHUNK / S::LANES {
                    self.look(s, i, j + v * S::LANES, S::LANES, mask, &mut seen, v);
                }
                j += CHUNK;
            }
            while j < n {
                let m = S::LANES.min(n - j);
                self.look(s, i, j, m, mask, &mut seen, 0);
                j += m;
            }
        }
        seen
    }

    /// Weights of row `i` and keys `j..j + m` relative to the score `base`; their sum by lanes.
    #[inline(always)]
    unsafe fn weigh<S: Simd>(&self, s: S, i: usize, j: usize, m: usize, base: S::F) -> S::F {
        // SAFETY: the block holds the scores and has room for the weights.
        unsafe {
            let x = f32::load(s, self.block.score(i, j), m);
            let e = math::exp_nonpositive(s, s.sub(x, base));
            let e = if m == S::LANES { e } else { keep(s, e, m) };
            self.block.put(s, i, j, m, e);
            e
        }
    }
}

impl<T: Storage, B: Block> Task for Weigh<'_, T, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const { assert!(CHUNK.is_multiple_of(S::LANES) && CHUNK / S::LANES <= MOST) };
        for i in 0..self.rows.len() {
            let row = self.rows[i];
            let n = self.shape.visible(row.query).saturating_sub(self.first).min(self.keys);
            // SAFETY: the block's buffers have room for `keys` scores and all sums of every row.
            unsafe {
                let mask = match self.shape.mask {
                    Mask::None => std::ptr::null(),
                    _ => self.mask_row(s, &row, n),
                };
                let mut seen = self.scan(s, i, n, mask);
                if B::CHECKED {
                    let total = merge(s, seen.total, S::add);
                    if s.any(s.is_nan(s.sub(total, total))) {
                        self.block.repair(i, n);
                        seen = self.scan(s, i, n, mask);
                    }
                }
                let excludes = self.shape.mask == Mask::Bool;
                let any = n > 0 && (!excludes || s.hmax(merge(s, seen.any, S::max)) > 0.0);
                let max = s.hmax(merge(s, seen.max, S::max)).max(row.max);
                // Where nothing is above -infinity yet, differences to it would be NaN.
                let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
                let kept = if row.max == f32::NEG_INFINITY { 0.0 } else { (row.max - base).exp() };
                let base = s.splat(base);
                let mut sums = [s.zero(); MOST];
                let mut j = 0;
                while j + CHUNK <= n {
                    for (v, sum) in sums[..CHUNK / S::LANES].iter_mut().enumerate() {
                        *sum = s.add(*sum, self.weigh(s, i, j + v * S::LANES, S::LANES, base));
                    }
                    j += CHUNK;
                }
                while j < n {
                    let m = S::LANES.min(n - j);
                    sums[0] = s.add(sums[0], self.weigh(s, i, j, m, base));
                    j += m;
                }
                self.block.clear(s, i, n);
                let sum = row.sum * kept + s.sum(merge(s, sums, S::add));
                self.rows[i] = Row { max, sum, any: row.any || any, ..row };
                self.block.rescale(s, i, kept, row.any);
            }
        }
    }
}

/// Lane by lane over the vectors of a chunk.
#[inline(always)]
fn merge<S: Simd>(s: S, all: [S::F; MOST], f: impl Fn(S, S::F, S::F) -> S::F) -> S::F {
    let mut merged = all[0];
    for x in &all[1..CHUNK / S::LANES] {
        merged = f(s, merged, *x);
    }
    merged
}

/// The first `m` lanes; the others become `other`.
#[inline(always)]
fn keep_or<S: Simd>(s: S, x: S::F, m: usize, other: S::F) -> S::F {
    s.select(s.gt_i(s.splat_i(m as i32), s.iota()), x, other)
}

/// Divides the rows by their sums of weights and writes them out.
pub(super) struct Finish<'a, T, B> {
    pub shape: &'a Shape,
    pub rows: &'a [Row],
    pub block: B,
    /// The batch entry's first element.
    pub out: *mut T,
}

impl<T: Storage, B: Block> Task for Finish<'_, T, B> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = self.shape;
        for (i, row) in self.rows.iter().enumerate() {
            let at = row.head as isize * shape.out[1] + row.query as isize * shape.out[2];
            let factor = 1.0 / row.sum;
            // SAFETY: the row exists in the result, and the block has `dv` sums of it where a key took part.
            unsafe {
                let to = self.out.offset(at);
                let mut j = 0;
                while j < shape.dv {
                    let m = S::LANES.min(shape.dv - j);
                    let x = if row.any {
                        s.mul(f32::load(s, self.block.sum(i, j), m), s.splat(factor))
                    } else {
                        s.zero()
                    };
                    if shape.out[3] == 1 || shape.dv == 1 {
                        T::store(s, to.add(j), m, x);
                    } else {
                        let lanes = s.to_array(x);
                        for (l, x) in lanes[..m].iter().enumerate() {
                            *to.offset((j + l) as isize * shape.out[3]) = T::narrow(*x);
                        }
                    }
                    j += m;
                }
            }
        }
    }
}
