//! Numbers as bf16 and what bf16 leaves over.

use super::tile::{COLS, Products, ROWS, STEP};
use crate::cpu::simd::{Simd, Task};

/// The largest finite bf16 number: what rounds above it is split as this and the rest.
const LARGEST: f32 = f32::from_bits(0x7f7f_0000);
/// The largest bf16 number that added to [`LARGEST`] is finite in `f32`: the rest of `f32::MAX` would round above it.
const LARGEST_REST: f32 = f32::from_bits(0x7b7f_0000);

/// Splits `n` numbers into `to`, steps of [`STEP`] each, the last one filled up with zeros.
pub(super) struct SplitRow {
    pub products: Products,
    pub from: *const f32,
    pub n: usize,
    pub to: *mut u8,
}

impl SplitRow {
    /// # Safety
    /// `n` numbers are readable, and all steps of `to` are writable.
    #[inline(always)]
    pub unsafe fn split<S: Simd>(self, s: S) {
        let mut k = 0;
        while k < self.n {
            let to = self.to.wrapping_add(k / STEP * self.products.row_bytes()).cast::<u16>();
            let mut at = 0;
            while at < STEP {
                let m = S::LANES.min(self.n.saturating_sub(k + at));
                // SAFETY: by the caller's contract; LANES divides STEP.
                unsafe {
                    let x = if m == S::LANES {
                        s.load(self.from.add(k + at))
                    } else if m > 0 {
                        s.load_n(self.from.add(k + at), m)
                    } else {
                        s.zero()
                    };
                    let finite = s.lt(s.abs(x), s.splat(f32::INFINITY));
                    let inside = s.min(s.splat(LARGEST), s.max(s.splat(-LARGEST), x));
                    s.store_bf16(to.add(at), s.select(finite, inside, x));
                    if self.products == Products::Three {
                        let hi = s.load_bf16(to.add(at));
                        let rest = s.sub(x, hi);
                        let rest = s.min(s.splat(LARGEST_REST), s.max(s.splat(-LARGEST_REST), rest));
                        s.store_bf16(to.add(STEP + at), s.select(finite, rest, s.zero()));
                    }
                }
                at += S::LANES;
            }
            k += STEP;
        }
    }
}

impl Task for SplitRow {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: who makes one vouches for its pointers.
        unsafe { self.split(s) }
    }
}

/// hi and lo of one number, as bits.
pub(super) fn split(x: f32) -> (u16, u16) {
    let inside = if x.is_finite() { x.clamp(-LARGEST, LARGEST) } else { x };
    let hi = half::bf16::from_f32(inside);
    let rest = if x.is_finite() { (x - hi.to_f32()).clamp(-LARGEST_REST, LARGEST_REST) } else { 0.0 };
    (hi.to_bits(), half::bf16::from_f32(rest).to_bits())
}

/// Steps that `k` values make.
pub(super) fn steps(k: usize) -> usize {
    k.div_ceil(STEP)
}

/// Panels that `n` columns make.
pub(super) fn panels(n: usize) -> usize {
    n.div_ceil(COLS)
}

/// Bytes of a packed matrix of `taps` times `k` rows and `n` columns.
pub(super) fn packed_bytes(products: Products, taps: usize, k: usize, n: usize) -> usize {
    panels(n) * taps * steps(k) * products.panel_bytes()
}

/// Packs panel `panel` of a matrix whose element `(tap, k, column)` is `at(tap, k, column)`; what is outside becomes zero.
///
/// # Safety
/// `to` is writable for a panel.
pub(super) unsafe fn pack_panel(
    products: Products,
    (taps, k, n): (usize, usize, usize),
    panel: usize,
    at: impl Fn(usize, usize, usize) -> f32,
    to: *mut u8,
) {
    let steps = steps(k);
    for tap in 0..taps {
        for step in 0..steps {
            let block = to.wrapping_add((tap * steps + step) * products.panel_bytes()).cast::<u16>();
            for row in 0..STEP {
                for col in 0..COLS {
                    let (i, j) = (step * STEP + row, panel * COLS + col);
                    let (hi, lo) = if i < k && j < n { split(at(tap, i, j)) } else { (0, 0) };
                    let place = col / ROWS * 512 + (row / 2 * ROWS + col % ROWS) * 2 + row % 2;
                    // SAFETY: by the caller's contract.
                    unsafe {
                        block.add(place).write(hi);
                        if products == Products::Three {
                            block.add(1024 + place).write(lo);
                        }
                    }
                }
            }
        }
    }
}
