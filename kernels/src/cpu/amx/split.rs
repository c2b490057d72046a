//! Numbers as bf16 and what bf16 leaves over.

use super::tile::{COLS, Products, ROWS, STEP};
use crate::cpu::simd::{Simd, Task};
use crate::cpu::storage::Storage;
use engraft_network::DType;

/// The largest finite bf16 number: what rounds above it is split as this and the rest.
const LARGEST: f32 = f32::from_bits(0x7f7f_0000);
/// The largest bf16 number that added to [`LARGEST`] is finite in `f32`: the rest of `f32::MAX` would round above it.
const LARGEST_REST: f32 = f32::from_bits(0x7b7f_0000);

/// hi and lo as bits whose lower halves are of no meaning for lo, and zero for hi. Halves round away from zero; a `lo` that is
/// `exact` takes over whatever hi loses. Infinities and NaN have a `lo` of zero.
#[inline(always)]
fn parts<S: Simd>(s: S, x: S::F) -> (S::I, S::I) {
    if s.any(is_rare(s, x)) { rare_parts(s, x) } else { plain_parts(s, x) }
}

/// [`parts`] of two vectors.
#[inline(always)]
fn both_parts<S: Simd>(s: S, x: S::F, y: S::F) -> ((S::I, S::I), (S::I, S::I)) {
    match s.any(s.or_m(is_rare(s, x), is_rare(s, y))) {
        true => (rare_parts(s, x), rare_parts(s, y)),
        false => (plain_parts(s, x), plain_parts(s, y)),
    }
}

/// Lanes beyond the largest bf16 number.
#[inline(always)]
fn is_rare<S: Simd>(s: S, x: S::F) -> S::M {
    let size = s.and_i(s.bits(x), s.splat_i(i32::MAX));
    s.gt_i(size, s.splat_i(LARGEST.to_bits() as i32))
}

/// [`parts`] where no lane is rare.
#[inline(always)]
fn plain_parts<S: Simd>(s: S, x: S::F) -> (S::I, S::I) {
    let hi = upper(s, s.bits(x));
    (hi, round(s, s.bits(s.sub(x, s.float(hi)))))
}

/// Rounds to the upper half.
#[inline(always)]
fn round<S: Simd>(s: S, bits: S::I) -> S::I {
    s.add_i(bits, s.splat_i(0x8000))
}

#[inline(always)]
fn upper<S: Simd>(s: S, bits: S::I) -> S::I {
    s.and_i(round(s, bits), s.splat_i(0xffff_0000_u32 as i32))
}

/// [`parts`] where a lane is beyond the largest bf16 number.
#[inline(always)]
fn rare_parts<S: Simd>(s: S, x: S::F) -> (S::I, S::I) {
    let within = |x: S::F, most: f32| s.min(s.splat(most), s.max(s.splat(-most), x));
    let finite = s.lt(s.abs(x), s.splat(f32::INFINITY));
    // The quiet bit keeps NaN what it is.
    let quiet = s.select_i(s.is_nan(x), s.splat_i(0x40_0000), s.splat_i(0));
    let kept = s.or_i(s.and_i(s.bits(x), s.splat_i(0xffff_0000_u32 as i32)), quiet);
    let hi = s.select_i(finite, upper(s, s.bits(within(x, LARGEST))), kept);
    let rest = within(s.sub(x, s.float(hi)), LARGEST_REST);
    (hi, s.select_i(finite, round(s, s.bits(rest)), s.splat_i(0)))
}

/// Splits a vector of numbers in [0, 1], or NaN that need not stay NaN, and stores hi to `to` and lo, if the products want it, a
/// step further.
///
/// # Safety
/// `to` is writable for LANES numbers there.
#[inline(always)]
pub(in crate::cpu) unsafe fn put_split<S: Simd>(s: S, products: Products, x: S::F, to: *mut u16) {
    let hi = upper(s, s.bits(x));
    // SAFETY: by the caller's contract.
    unsafe {
        s.store_upper(to, hi);
        if products == Products::Three {
            s.store_upper(to.add(STEP), round(s, s.bits(s.sub(x, s.float(hi)))));
        }
    }
}

/// Splits `n` numbers into `to`, steps of [`STEP`] each, the last one filled up with zeros.
pub(in crate::cpu) struct SplitRow<T> {
    pub products: Products,
    pub from: *const T,
    pub n: usize,
    pub to: *mut u8,
}

impl<T: Storage> SplitRow<T> {
    /// # Safety
    /// `n` numbers are readable, and all steps of `to` are writable.
    #[inline(always)]
    pub unsafe fn split<S: Simd>(self, s: S) {
        if T::DTYPE == DType::BF16 && self.products == Products::One {
            let (bytes, all) = (2 * self.n, self.products.row_bytes() * steps(self.n));
            // SAFETY: by the caller's contract.
            unsafe {
                std::ptr::copy_nonoverlapping(self.from.cast::<u8>(), self.to, bytes);
                std::ptr::write_bytes(self.to.add(bytes), 0, all - bytes);
            }
            return;
        }
        let three = self.products == Products::Three;
        for (step, k) in (0..self.n).step_by(STEP).enumerate() {
            let to = self.to.wrapping_add(step * self.products.row_bytes()).cast::<u16>();
            for at in (0..STEP).step_by(2 * S::LANES) {
                let left = self.n.saturating_sub(k + at);
                let (m, second) = (S::LANES.min(left), S::LANES.min(left.saturating_sub(S::LANES)));
                // SAFETY: by the caller's contract; two vectors divide STEP.
                unsafe {
                    let from = self.from.wrapping_add(k + at);
                    let (x, y) = (T::load(s, from, m), T::load(s, from.wrapping_add(S::LANES), second));
                    let ((hi, lo), (hi2, lo2)) = both_parts(s, x, y);
                    s.store_uppers(to.add(at), hi, hi2);
                    if three {
                        s.store_uppers(to.add(STEP + at), lo, lo2);
                    }
                }
            }
        }
    }
}

/// Splits `n` numbers into `to` and, if the products want it, what is left of them into `low` bytes after it.
pub(in crate::cpu) struct SplitLine<T> {
    pub products: Products,
    pub from: *const T,
    pub n: usize,
    pub to: *mut u8,
    pub low: usize,
}

impl<T: Storage> SplitLine<T> {
    /// # Safety
    /// `n` numbers are readable; `n` numbers and the rest of a vector are writable in both places.
    #[inline(always)]
    pub unsafe fn split<S: Simd>(self, s: S) {
        for k in (0..self.n).step_by(S::LANES) {
            let to = self.to.wrapping_add(2 * k);
            // SAFETY: by the caller's contract.
            unsafe {
                let x = T::load(s, self.from.wrapping_add(k), S::LANES.min(self.n - k));
                let (hi, lo) = parts(s, x);
                s.store_upper(to.cast(), hi);
                if self.products == Products::Three {
                    s.store_upper(to.wrapping_add(self.low).cast(), lo);
                }
            }
        }
    }
}

/// Steps that `k` values make.
pub(in crate::cpu) fn steps(k: usize) -> usize {
    k.div_ceil(STEP)
}

/// Panels that `n` columns make.
pub(in crate::cpu) fn panels(n: usize) -> usize {
    n.div_ceil(COLS)
}

/// Bytes of a packed matrix of `taps` times `k` rows and `n` columns.
pub(in crate::cpu) fn packed_bytes(products: Products, taps: usize, k: usize, n: usize) -> usize {
    panels(n) * taps * steps(k) * products.panel_bytes()
}

/// Packs panel `panel` of a matrix of `taps * k` rows and `n` columns, whose elements are `row` and `col` apart; each tap
/// begins a new step, and what is outside becomes zero.
pub(in crate::cpu) struct PackPanel<T> {
    pub products: Products,
    pub from: *const T,
    pub row: isize,
    pub col: isize,
    pub taps: usize,
    pub k: usize,
    pub n: usize,
    pub panel: usize,
    pub to: *mut u8,
}

impl<T: Storage> PackPanel<T> {
    /// `m` elements of row `row` from column `column` on, zeros where the row does not exist.
    #[inline(always)]
    unsafe fn load<S: Simd>(&self, s: S, tap: usize, k: usize, column: usize, m: usize) -> S::F {
        if k >= self.k || m == 0 {
            return s.zero();
        }
        let at = (tap * self.k + k) as isize * self.row + column as isize * self.col;
        // SAFETY: the row has `m` elements from there on.
        unsafe {
            let from = self.from.offset(at);
            if self.col == 1 {
                return T::load(s, from, m);
            }
            if T::DTYPE == DType::F32 && m == S::LANES && self.col.unsigned_abs() < 1 << 24 {
                return s.load_strided(from.cast(), self.col);
            }
            let mut buffer = [0f32; 16];
            for (j, x) in buffer[..m].iter_mut().enumerate() {
                *x = (*from.offset(j as isize * self.col)).widen();
            }
            s.load(buffer.as_ptr())
        }
    }
}

impl<T: Storage> Task for PackPanel<T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let steps = steps(self.k);
        let three = self.products == Products::Three;
        for (tap, step) in (0..self.taps).flat_map(|tap| (0..steps).map(move |step| (tap, step))) {
            let block = self.to.wrapping_add((tap * steps + step) * self.products.panel_bytes());
            for pair in 0..STEP / 2 {
                for j in (0..COLS).step_by(S::LANES) {
                    let column = self.panel * COLS + j;
                    let m = S::LANES.min(self.n.saturating_sub(column));
                    let place = j / ROWS * 1024 + pair * 64 + j % ROWS * 4;
                    let joined = |even, odd| s.or_i(s.shr_i::<16>(even), s.and_i(odd, s.splat_i(!0xffff)));
                    // SAFETY: who makes one vouches for the matrix and for room for a panel; LANES divides ROWS.
                    unsafe {
                        let k = step * STEP + 2 * pair;
                        let even = parts(s, self.load(s, tap, k, column, m));
                        let odd = parts(s, self.load(s, tap, k + 1, column, m));
                        s.store_i(block.wrapping_add(place).cast(), joined(even.0, odd.0));
                        if three {
                            s.store_i(block.wrapping_add(2048 + place).cast(), joined(even.1, odd.1));
                        }
                    }
                }
            }
        }
    }
}
