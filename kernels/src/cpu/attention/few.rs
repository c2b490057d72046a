//! A few queries, as a decoder has that makes one token at a time: keys and values are read once, where they lie.

use super::rows::{Finish, Lines, Queries, Row, Weigh};
use super::{Operands, Shape};
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::{Storage, with_storage};
use crate::{Args, Kernel, KernelError};
use std::marker::PhantomData;

/// Most query rows of a team.
pub(super) const MOST_ROWS: usize = 4;
/// Values that are added at a time.
const STEP: usize = 4;

/// Attention of up to [`MOST_ROWS`] queries to a head of keys.
pub(super) struct FewKernel {
    shape: Shape,
    /// Elements between rows of queries, scores and sums.
    query_pitch: usize,
    score_pitch: usize,
    sum_pitch: usize,
    /// Whether each query head of a group is a task of its own.
    apart: bool,
    phases: [usize; 1],
}

impl FewKernel {
    pub fn new(shape: Shape, threads: usize) -> FewKernel {
        let teams = shape.batch * shape.groups;
        let apart = teams < 2 * threads && threads > 1;
        let tasks = if apart { shape.batch * shape.heads } else { teams };
        FewKernel {
            query_pitch: shape.d.next_multiple_of(16),
            score_pitch: shape.keys.next_multiple_of(16),
            sum_pitch: shape.dv.next_multiple_of(16),
            phases: [if shape.team() * shape.dv == 0 { 0 } else { tasks }],
            apart,
            shape,
        }
    }

    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn part<T: Storage>(&self, task: usize, args: &Args<'_>) {
        let shape = &self.shape;
        let each = shape.heads / shape.groups;
        let (b, g, first, count) = if self.apart {
            let (b, head) = (task / shape.heads, task % shape.heads);
            (b, head / each, head % each * shape.queries, shape.queries)
        } else {
            (task / shape.groups, task % shape.groups, 0, shape.team())
        };
        let mut rows = [Row::new(0, 0); MOST_ROWS];
        let rows = &mut rows[..count];
        for (i, row) in rows.iter_mut().enumerate() {
            let (head, query) = shape.place(g, first + i);
            *row = Row::new(head, query);
        }
        let queries = args.scratch.cast::<f32>();
        // SAFETY: the scratch holds queries, scores, sums and a mask's row; batch entry and head exist everywhere.
        unsafe {
            let scores = queries.add(MOST_ROWS * self.query_pitch);
            let sums = scores.add(MOST_ROWS * self.score_pitch);
            let room = sums.add(MOST_ROWS * self.sum_pitch);
            let Operands { q, k, v, out, mask } = shape.operands::<T>(b, g, args);
            let (pitch, score_pitch) = (self.query_pitch, self.score_pitch);
            dispatch(shape.isa, Queries { shape, q, rows, to: queries, pitch });
            dispatch(shape.isa, Scores { shape, queries, rows: count, pitch, k, to: scores, score_pitch });
            let block = Lines {
                scores,
                score_pitch,
                keys: shape.keys,
                sums,
                sum_pitch: self.sum_pitch,
                columns: shape.dv,
            };
            let weigh = Weigh::<T, _> {
                shape,
                mask,
                rows,
                block,
                first: 0,
                keys: shape.keys,
                room,
                marker: PhantomData,
            };
            dispatch(shape.isa, weigh);
            let pitch = self.sum_pitch;
            dispatch(
                shape.isa,
                Values { shape, weights: scores, rows: count, score_pitch, v, to: sums, pitch },
            );
            dispatch(shape.isa, Finish { shape, rows, block, out });
        }
    }
}

impl Kernel for FewKernel {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    fn scratch_bytes(&self) -> usize {
        let rows = MOST_ROWS * (self.query_pitch + self.score_pitch + self.sum_pitch);
        (rows + self.score_pitch) * 4
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        with_storage!(self.shape.dtype, T => {
            // SAFETY: by the caller's contract.
            unsafe { self.part::<T>(task, args) }
        }, else unreachable!("accepted types only"));
        Ok(())
    }
}

/// Products of a few queries with every key.
struct Scores<'a, T> {
    shape: &'a Shape,
    queries: *const f32,
    rows: usize,
    pitch: usize,
    k: *const T,
    to: *mut f32,
    score_pitch: usize,
}

impl<T: Storage> Task for Scores<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (d, row) = (self.shape.d, self.shape.k[2]);
        for j in 0..self.shape.keys {
            // SAFETY: the key has `d` consecutive elements, as every query has.
            unsafe {
                let key = self.k.offset(j as isize * row);
                for i in 0..self.rows {
                    let query = self.queries.add(i * self.pitch);
                    let mut sums = [s.zero(); 2];
                    let mut c = 0;
                    while c + 2 * S::LANES <= d {
                        for (u, sum) in sums.iter_mut().enumerate() {
                            let at = c + u * S::LANES;
                            *sum = s.fma(s.load(query.add(at)), T::load(s, key.add(at), S::LANES), *sum);
                        }
                        c += 2 * S::LANES;
                    }
                    while c < d {
                        let m = S::LANES.min(d - c);
                        sums[0] = s.fma(f32::load(s, query.add(c), m), T::load(s, key.add(c), m), sums[0]);
                        c += m;
                    }
                    *self.to.add(i * self.score_pitch + j) = s.sum(s.add(sums[0], sums[1]));
                }
            }
        }
    }
}

/// Sums of the values by their weights.
struct Values<'a, T> {
    shape: &'a Shape,
    weights: *const f32,
    rows: usize,
    score_pitch: usize,
    v: *const T,
    to: *mut f32,
    pitch: usize,
}

impl<T: Storage> Values<'_, T> {
    /// Adds the values of `N` keys from key `j` on to a row; `fresh` starts from zero.
    ///
    /// # Safety
    /// The keys exist.
    #[inline(always)]
    unsafe fn add<S: Simd, const N: usize>(&self, s: S, i: usize, j: usize, fresh: bool) {
        // SAFETY: by the caller's contract; the row of sums has `dv` elements.
        unsafe {
            let weights: [f32; N] = std::array::from_fn(|u| *self.weights.add(i * self.score_pitch + j + u));
            let to = self.to.add(i * self.pitch);
            let mut c = 0;
            while c < self.shape.dv {
                let m = S::LANES.min(self.shape.dv - c);
                let mut sum = if fresh { s.zero() } else { f32::load(s, to.add(c), m) };
                for (u, weight) in weights.iter().enumerate() {
                    // An excluded key does not take part, be its value infinite or NaN.
                    if *weight != 0.0 {
                        let value = self.v.offset((j + u) as isize * self.shape.v[2]).add(c);
                        sum = s.fma(s.splat(*weight), T::load(s, value, m), sum);
                    }
                }
                f32::store(s, to.add(c), m, sum);
                c += m;
            }
        }
    }
}

impl<T: Storage> Task for Values<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.shape.keys / STEP * STEP;
        // SAFETY: keys below the number of keys.
        unsafe {
            for j in (0..whole).step_by(STEP) {
                for i in 0..self.rows {
                    self.add::<S, STEP>(s, i, j, j == 0);
                }
            }
            for j in whole..self.shape.keys {
                for i in 0..self.rows {
                    self.add::<S, 1>(s, i, j, j == 0);
                }
            }
        }
    }
}
