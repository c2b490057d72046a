//! The micro-kernels: up to 12 rows of A, given by pointers, times one packed panel of B.
//!
//! Rows come from a pointer table, one pointer per (tap, row), so that the same kernel serves a matrix with any row
//! stride (one tap), a convolution (a tap per kernel position, border rows pointing at zeros) and copied operands.
//! The table is re-read in every step of the inner loop: a load from L1 costs less than the registers that a dozen
//! row pointers would hold.

use super::lanes::{Elem, Lanes};

/// One call of a micro-kernel: `rows x cols` of C, over `taps * run` products each.
#[derive(Clone, Copy, Debug)]
pub struct Tile<E> {
    /// Row pointers of tap `t` are `a[t * a_step ..][.. rows]`.
    pub a: *const *const E,
    pub a_step: usize,
    pub taps: usize,
    /// First element read through each row pointer.
    pub offset: usize,
    /// Consecutive elements read through each row pointer.
    pub run: usize,
    /// Panel of B: row `k` (taps major) starts at `b + k * PANEL` and holds at least the kernel's width, zero padded.
    pub b: *const E,
    /// Row pointers of C; `col` is added to each.
    pub c: *const *mut E,
    pub col: usize,
    /// Columns to write, at most the kernel's width.
    pub cols: usize,
    /// Add to what C holds instead of starting from the bias.
    pub accumulate: bool,
    /// `cols` values to start from; null for zeros. Not read when accumulating.
    pub bias: *const E,
    /// Row pointers of a matrix to add at the end (`col` is added to each); null for none.
    pub residual: *const *const E,
    /// Bounds to clip the result to, at the very end.
    pub clip: Option<(E, E)>,
    /// Memory that later calls will read.
    pub fetch: Stream,
    /// Memory that later calls will write.
    pub claim: Stream,
    /// Rows that the next call will use.
    pub ahead: Ahead<E>,
}

/// Memory that a call brings close while it computes, from the start on, at an even pace: the core's own prefetcher goes ahead of
/// lines that follow each other, and only a dozen single ones can be under way.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    pub start: *const u8,
    /// Bytes for each product of a sum; nothing is fetched at 0.
    pub pace: usize,
}

impl Stream {
    pub fn none() -> Self {
        Stream { start: std::ptr::null(), pace: 0 }
    }

    /// Fetches what `products` products pay for, four lines at most, to be read or (`write`) written.
    #[inline(always)]
    fn step(&mut self, products: usize, write: bool) {
        let bytes = self.pace * products;
        if bytes == 0 {
            return;
        }
        let bring = if write { prefetch_write::<u8> } else { prefetch::<u8> };
        bring(self.start);
        let mut line = 64;
        while line < bytes && line < 4 * 64 {
            bring(self.start.wrapping_add(line));
            line += 64;
        }
        self.start = self.start.wrapping_add(bytes);
    }
}

/// A piece of memory that calls share in bringing close.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// Bytes of one call, and for each of its products.
    bytes: usize,
    pace: usize,
}

impl Share {
    /// Of `bytes`, for each of `calls` calls that sum `products` products.
    pub fn new(bytes: usize, calls: usize, products: usize) -> Self {
        let bytes = bytes.div_ceil(calls.max(1));
        Share { bytes, pace: bytes.div_ceil(products.max(1)) }
    }

    /// What call `call` fetches of the piece at `start`.
    #[inline]
    pub fn of<E>(&self, start: *const E, call: usize) -> Stream {
        Stream { start: start.cast::<u8>().wrapping_add(call * self.bytes), pace: self.pace }
    }
}

/// What a call of a micro-kernel fetches for the next one while it computes, a line or two per step.
#[derive(Clone, Copy, Debug)]
pub struct Ahead<E> {
    /// Rows of the next tile.
    pub rows: usize,
    /// Its first column.
    pub col: usize,
    /// Row pointers of A, single tap, to be brought close; null for none.
    pub a: *const *const E,
    /// Row pointers of C, to be made writable; null for none.
    pub c: *const *mut E,
    /// Row pointers of the residual; null for none.
    pub residual: *const *const E,
}

impl<E> Ahead<E> {
    pub fn none() -> Self {
        Ahead { rows: 0, col: 0, a: std::ptr::null(), c: std::ptr::null(), residual: std::ptr::null() }
    }
}

/// # Safety
/// The CPU has the kernel's instruction set; every pointer of the tile is valid for what its documentation names, for
/// the kernel's number of rows; no row of C overlaps A, B, the bias or another row.
pub type Kernel<E> = unsafe fn(&Tile<E>);

/// The micro-kernels of one instruction set.
#[derive(Debug)]
pub struct Micro<E: 'static> {
    /// Columns of a kernel of `wide`; divides the panel.
    pub width: usize,
    /// `wide[r - 1]` computes r rows.
    pub wide: &'static [Kernel<E>],
    /// The same with half the width, for panels' last columns.
    pub half: &'static [Kernel<E>],
}

impl<E> Micro<E> {
    /// The most rows of one call.
    pub fn rows(&self) -> usize {
        self.wide.len()
    }

    /// The kernel for `rows` and `cols` of at most `width`.
    #[inline]
    pub fn kernel(&self, rows: usize, cols: usize) -> Kernel<E> {
        if cols * 2 <= self.width { self.half[rows - 1] } else { self.wide[rows - 1] }
    }
}

/// Hides where a pointer comes from, so that what it points at is loaded anew.
#[inline(always)]
fn opaque<T>(p: *const T) -> *const T {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        let mut q = p;
        // SAFETY: no instruction at all, so nothing is read through the pointer.
        #[allow(clippy::pointers_in_nomem_asm_block)]
        unsafe {
            std::arch::asm!("/* {0} */", inout(reg) q, options(nomem, nostack, preserves_flags))
        };
        q
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    p
}

/// Fetches the line at `p`.
#[inline(always)]
pub fn prefetch<E>(p: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Claims the line at `p` for writing.
#[inline(always)]
pub fn prefetch_write<E>(p: *const E) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_ET0 }>(p.cast())
    };
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// Rows from which on a kernel's steps have room for [`Ahead`].
const ROWS_THAT_LOOK_AHEAD: usize = 6;

/// Fetches row `i` of the next tile's C and residual, `NV` vectors wide.
///
/// # Safety
/// The tables hold `i + 1` pointers.
#[inline(always)]
unsafe fn claim_row<V: Lanes, const NV: usize>(ahead: &Ahead<V::E>, i: usize) {
    let line = 64 / size_of::<V::E>();
    // SAFETY: by the caller's contract.
    unsafe {
        let c = (*ahead.c.add(i)).wrapping_add(ahead.col);
        for at in (0..NV * V::N).step_by(line) {
            prefetch_write(c.wrapping_add(at));
        }
        if !ahead.residual.is_null() {
            let r = (*ahead.residual.add(i)).wrapping_add(ahead.col);
            for at in (0..NV * V::N).step_by(line) {
                prefetch(r.wrapping_add(at));
            }
        }
    }
}

/// Fetches a line or two of the next tile's rows of A; the steps over one line fetch that line of all rows.
///
/// # Safety
/// The table holds `ahead.rows` pointers.
#[inline(always)]
unsafe fn fetch_rows<E, const MR: usize, const U: usize>(ahead: &Ahead<E>, k: usize) {
    let line = 64 / size_of::<E>();
    let turns = (line / U).max(1);
    let first = k / U % turns;
    for i in (0..MR).step_by(turns) {
        if first + i < ahead.rows {
            // SAFETY: by the caller's contract.
            prefetch(unsafe { *ahead.a.add(first + i) }.wrapping_add(k & !(line - 1)));
        }
    }
}

/// `U` steps of the inner loop; sums alternate between `S` sets of accumulators, so that few rows still fill the pipes.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
unsafe fn steps<V: Lanes, const MR: usize, const NV: usize, const U: usize, const S: usize>(
    acc: &mut [[[V; NV]; MR]; S],
    table: *const *const V::E,
    k: usize,
    b: *const V::E,
) {
    // SAFETY: by the caller's contract.
    unsafe {
        let panel = <V::E as Elem>::PANEL;
        let mut bv = [[V::splat(V::E::ZERO); NV]; U];
        for u in 0..U {
            for j in 0..NV {
                bv[u][j] = V::load(b.add(u * panel + j * V::N));
            }
        }
        let table = if MR > 6 { opaque(table) } else { table };
        for i in 0..MR {
            let row = (*table.add(i)).add(k);
            for u in 0..U {
                let a = V::splat(*row.add(u));
                for j in 0..NV {
                    acc[u % S][i][j] = acc[u % S][i][j].fma(a, bv[u][j]);
                }
            }
        }
    }
}

/// The body of every kernel.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
pub(crate) unsafe fn body<V: Lanes, const MR: usize, const NV: usize, const U: usize, const S: usize>(
    t: &Tile<V::E>,
) {
    // SAFETY: by the caller's contract.
    unsafe {
        let zero = V::splat(V::E::ZERO);
        let full = t.cols == NV * V::N;
        let part = |j: usize| t.cols.saturating_sub(j * V::N).min(V::N);
        let mut acc = [[[zero; NV]; MR]; S];
        if t.accumulate {
            for i in 0..MR {
                let c = (*t.c.add(i)).add(t.col);
                for j in 0..NV {
                    let p = c.wrapping_add(j * V::N);
                    acc[0][i][j] = if full { V::load(p) } else { V::load_n(p, part(j)) };
                }
            }
        } else if !t.bias.is_null() {
            for j in 0..NV {
                let p = t.bias.wrapping_add(j * V::N);
                let v = if full { V::load(p) } else { V::load_n(p, part(j)) };
                for i in 0..MR {
                    acc[0][i][j] = v;
                }
            }
        }

        let panel = <V::E as Elem>::PANEL;
        let looks = MR >= ROWS_THAT_LOOK_AHEAD;
        let claims = if looks && !t.ahead.c.is_null() { t.ahead.rows } else { 0 };
        let fetches = looks && !t.ahead.a.is_null();
        let mut claimed = 0;
        let (mut table, mut b) = (t.a, t.b);
        let (mut fetch, mut claim) = (t.fetch, if looks { t.claim } else { Stream::none() });
        for _ in 0..t.taps {
            let mut k = t.offset;
            let end = t.offset + t.run;
            while k + U <= end {
                fetch.step(U, false);
                claim.step(U, true);
                if claimed < claims {
                    claim_row::<V, NV>(&t.ahead, claimed);
                    claimed += 1;
                }
                if fetches {
                    fetch_rows::<V::E, MR, U>(&t.ahead, k);
                }
                steps::<V, MR, NV, U, S>(&mut acc, table, k, b);
                k += U;
                b = b.add(U * panel);
            }
            while U > 1 && k < end {
                steps::<V, MR, NV, 1, S>(&mut acc, table, k, b);
                k += 1;
                b = b.add(panel);
            }
            table = table.add(t.a_step);
        }
        for s in 1..S {
            for i in 0..MR {
                for j in 0..NV {
                    acc[0][i][j] = acc[0][i][j].add(acc[s][i][j]);
                }
            }
        }

        if full {
            leave::<V, MR, NV, true>(t, &acc[0]);
        } else {
            leave::<V, MR, NV, false>(t, &acc[0]);
        }
    }
}

/// Adds the residual to the sums, clips and stores them, row by row; `FULL`: all columns.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
unsafe fn leave<V: Lanes, const MR: usize, const NV: usize, const FULL: bool>(
    t: &Tile<V::E>,
    sums: &[[V; NV]; MR],
) {
    let part = |j: usize| t.cols.saturating_sub(j * V::N).min(V::N);
    // SAFETY: by the caller's contract.
    unsafe {
        let bounds = t.clip.map(|(low, high)| (V::splat(low), V::splat(high)));
        for i in 0..MR {
            let c = (*t.c.add(i)).add(t.col);
            let mut row = sums[i];
            if !t.residual.is_null() {
                let r = (*t.residual.add(i)).add(t.col);
                for j in 0..NV {
                    let p = r.wrapping_add(j * V::N);
                    let v = if FULL { V::load(p) } else { V::load_n(p, part(j)) };
                    row[j] = row[j].add(v);
                }
            }
            if let Some((low, high)) = bounds {
                for j in 0..NV {
                    row[j] = row[j].at_least(low).at_most(high);
                }
            }
            for j in 0..NV {
                let p = c.wrapping_add(j * V::N);
                if FULL { row[j].store(p) } else { row[j].store_n(p, part(j)) }
            }
        }
    }
}

/// Declares kernels of one instruction set: a function generic over rows, vectors and unrolling, and tables of it.
macro_rules! micro {
    ($name:ident, $kernel:ident, $lanes:ty, [$($feature:literal),*], $nv:literal, $half:literal,
     [$(($mr:literal, $u:literal, $s:literal)),* $(,)?]) => {
        $(#[target_feature(enable = $feature)])*
        unsafe fn $kernel<const MR: usize, const NV: usize, const U: usize, const S: usize>(
            t: &Tile<<$lanes as Lanes>::E>,
        ) {
            // SAFETY: the caller vouches for the instruction set and the tile.
            unsafe { body::<$lanes, MR, NV, U, S>(t) }
        }
        pub static $name: Micro<<$lanes as Lanes>::E> = Micro {
            width: $nv * <$lanes as Lanes>::N,
            wide: &[$($kernel::<$mr, $nv, $u, $s>),*],
            half: &[$($kernel::<$mr, $half, $u, $s>),*],
        };
    };
}

#[cfg(target_arch = "x86_64")]
pub use x86::*;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::cpu::gemm::lanes::Array;
    use std::arch::x86_64::*;

    macro_rules! rows12 {
        ($name:ident, $kernel:ident, $lanes:ty) => {
            micro!(
                $name,
                $kernel,
                $lanes,
                ["avx512f"],
                2,
                1,
                [
                    (1, 4, 4),
                    (2, 4, 2),
                    (3, 4, 2),
                    (4, 4, 1),
                    (5, 4, 1),
                    (6, 4, 1),
                    (7, 2, 1),
                    (8, 2, 1),
                    (9, 2, 1),
                    (10, 2, 1),
                    (11, 2, 1),
                    (12, 2, 1)
                ]
            );
        };
    }
    rows12!(F32_AVX512, f32_avx512, __m512);
    rows12!(F64_AVX512, f64_avx512, __m512d);

    macro_rules! rows6 {
        ($name:ident, $kernel:ident, $lanes:ty) => {
            micro!(
                $name,
                $kernel,
                $lanes,
                ["avx2,fma"],
                2,
                1,
                [(1, 4, 4), (2, 2, 2), (3, 2, 1), (4, 2, 1), (5, 1, 1), (6, 1, 1)]
            );
        };
    }
    rows6!(F32_AVX2, f32_avx2, __m256);
    rows6!(F64_AVX2, f64_avx2, __m256d);

    macro_rules! integers {
        ($($e:ty, $n512:literal, $n256:literal, $a:ident, $ka:ident, $b:ident, $kb:ident;)*) => {$(
            micro!($a, $ka, Array<$e, $n512>, ["avx512f,avx512dq,avx512vl"], 2, 1, [
                (1, 2, 2), (2, 2, 1), (3, 1, 1), (4, 1, 1), (5, 1, 1), (6, 1, 1)
            ]);
            micro!($b, $kb, Array<$e, $n256>, ["avx2"], 2, 1, [
                (1, 2, 2), (2, 2, 1), (3, 1, 1), (4, 1, 1)
            ]);
        )*};
    }
    integers! {
        i32, 16, 8, I32_AVX512, i32_avx512, I32_AVX2, i32_avx2;
        i64, 8, 4, I64_AVX512, i64_avx512, I64_AVX2, i64_avx2;
    }
}

mod portable {
    use super::*;
    use crate::cpu::gemm::lanes::Array;

    macro_rules! portable {
        ($($e:ty, $n:literal, $name:ident, $kernel:ident;)*) => {$(
            micro!($name, $kernel, Array<$e, $n>, [], 2, 1, [(1, 4, 4), (2, 2, 2), (3, 1, 1), (4, 1, 1), (5, 1, 1), (6, 1, 1)]);
        )*};
    }
    portable! {
        f32, 4, F32_PORTABLE, f32_portable;
        f64, 2, F64_PORTABLE, f64_portable;
        i32, 4, I32_PORTABLE, i32_portable;
        i64, 2, I64_PORTABLE, i64_portable;
    }
}
pub use portable::*;
