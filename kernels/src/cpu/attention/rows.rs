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

/// Turns a block of scores into weights `exp(score - max)`, and rescales what was summed up so far.
pub(super) struct Weigh<'a, T> {
    pub shape: &'a Shape,
    /// The mask of the batch entry; of type `T` or bytes, as the shape says.
    pub mask: *const u8,
    pub rows: &'a mut [Row],
    /// Scores of `keys` keys from `first` on, `pitch` apart.
    pub scores: *mut f32,
    pub pitch: usize,
    pub first: usize,
    pub keys: usize,
    /// Sums of weighted values, `out_pitch` apart, where there are some already.
    pub out: *mut f32,
    pub out_pitch: usize,
    /// Room for one row of the mask.
    pub room: *mut f32,
    pub marker: std::marker::PhantomData<T>,
}

impl<T: Storage> Weigh<'_, T> {
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
}

impl<T: Storage> Task for Weigh<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let lowest = s.splat(f32::NEG_INFINITY);
        for i in 0..self.rows.len() {
            let row = self.rows[i];
            let n = self.shape.visible(row.query).saturating_sub(self.first).min(self.keys);
            // SAFETY: the block's buffers have room for `keys` scores and `dv` sums of every row.
            unsafe {
                let scores = self.scores.add(i * self.pitch);
                let mut max = lowest;
                let mut any = n > 0;
                if self.shape.mask == Mask::None {
                    let mut j = 0;
                    while j < n {
                        let m = S::LANES.min(n - j);
                        let x = f32::load(s, scores.add(j), m);
                        max = s.max(if m == S::LANES { x } else { keep_or(s, x, m, lowest) }, max);
                        j += m;
                    }
                } else {
                    let mask = self.mask_row(s, &row, n);
                    let excludes = self.shape.mask == Mask::Bool;
                    let mut seen = s.zero();
                    let mut j = 0;
                    while j < n {
                        let m = S::LANES.min(n - j);
                        let (x, add) = (f32::load(s, scores.add(j), m), f32::load(s, mask.add(j), m));
                        let x = if excludes {
                            let out = s.lt(add, s.zero());
                            seen = s.max(seen, keep(s, s.select(out, s.zero(), s.splat(1.0)), m));
                            s.select(out, lowest, x)
                        } else {
                            s.add(x, add)
                        };
                        f32::store(s, scores.add(j), m, x);
                        max = s.max(if m == S::LANES { x } else { keep_or(s, x, m, lowest) }, max);
                        j += m;
                    }
                    any &= !excludes || s.hmax(seen) > 0.0;
                }
                let max = s.hmax(max).max(row.max);
                // Where nothing is above -infinity yet, differences to it would be NaN.
                let base = if max == f32::NEG_INFINITY { 0.0 } else { max };
                let kept = if row.max == f32::NEG_INFINITY { 0.0 } else { (row.max - base).exp() };
                let base = s.splat(base);
                let mut sums = [s.zero(); 2];
                let mut j = 0;
                while j < n {
                    let m = S::LANES.min(n - j);
                    let e = math::exp_nonpositive(s, s.sub(f32::load(s, scores.add(j), m), base));
                    f32::store(s, scores.add(j), m, e);
                    let slot = (j / S::LANES) & 1;
                    sums[slot] = s.add(sums[slot], if m == S::LANES { e } else { keep(s, e, m) });
                    j += m;
                }
                for j in n..self.keys {
                    *scores.add(j) = 0.0;
                }
                let sum = row.sum * kept + s.sum(s.add(sums[0], sums[1]));
                self.rows[i] = Row { max, sum, any: row.any || any, ..row };
                if kept != 1.0 && row.any {
                    let (out, kept) = (self.out.add(i * self.out_pitch), s.splat(kept));
                    let mut j = 0;
                    while j < self.shape.dv {
                        let m = S::LANES.min(self.shape.dv - j);
                        f32::store(s, out.add(j), m, s.mul(f32::load(s, out.add(j), m), kept));
                        j += m;
                    }
                }
            }
        }
    }
}

/// The first `m` lanes; the others become `other`.
#[inline(always)]
fn keep_or<S: Simd>(s: S, x: S::F, m: usize, other: S::F) -> S::F {
    s.select(s.gt_i(s.splat_i(m as i32), s.iota()), x, other)
}

/// Divides the rows by their sums of weights and writes them out.
pub(super) struct Finish<'a, T> {
    pub shape: &'a Shape,
    pub rows: &'a [Row],
    pub sums: *const f32,
    pub pitch: usize,
    /// The batch entry's first element.
    pub out: *mut T,
}

impl<T: Storage> Task for Finish<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = self.shape;
        for (i, row) in self.rows.iter().enumerate() {
            let at = row.head as isize * shape.out[1] + row.query as isize * shape.out[2];
            let factor = 1.0 / row.sum;
            // SAFETY: the row exists in the result, and `sums` has `dv` elements of it where a key took part.
            unsafe {
                let (from, to) = (self.sums.add(i * self.pitch), self.out.offset(at));
                let mut j = 0;
                while j < shape.dv {
                    let m = S::LANES.min(shape.dv - j);
                    let x =
                        if row.any { s.mul(f32::load(s, from.add(j), m), s.splat(factor)) } else { s.zero() };
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
