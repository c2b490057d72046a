//! Reading images between their pixels: weighted sums of a few pixels, whose places and weights are computed once for
//! all channels.

mod deform;
mod grid;
mod roi;

use crate::Tactic;
use std::ops::{Add, Div, Mul, Sub};

/// The rows of this family.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&grid::GridSampleTactic, &roi::RoiAlignTactic, &roi::RoiMaxPoolTactic, &deform::DeformSampleTactic]
}

/// Elements that are worked on side by side, in arrays that the compiler turns to vectors of the instruction set.
const LANES: usize = 16;

/// The offset of a pixel outside of the image, where nothing is.
const NOWHERE: i32 = i32::MIN;

/// A float type that coordinates and weights are computed in.
trait Real:
    Copy
    + Send
    + Sync
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + 'static
{
    fn of(x: f64) -> Self;
    fn floor(self) -> Self;
    fn trunc(self) -> Self;
    fn round_ties_even(self) -> Self;
    /// Towards zero.
    ///
    /// # Safety
    /// The result is one of `i32`.
    unsafe fn to_i32(self) -> i32;
    /// Rounded up; what is less than 0 or no number is 0.
    fn ceil_to_usize(self) -> usize;
    fn to_f64(self) -> f64;
}

macro_rules! real {
    ($($t:ty),*) => {$(
        impl Real for $t {
            #[inline(always)]
            fn of(x: f64) -> $t {
                x as $t
            }
            #[inline(always)]
            fn floor(self) -> $t {
                <$t>::floor(self)
            }
            #[inline(always)]
            fn trunc(self) -> $t {
                <$t>::trunc(self)
            }
            #[inline(always)]
            fn round_ties_even(self) -> $t {
                <$t>::round_ties_even(self)
            }
            #[inline(always)]
            unsafe fn to_i32(self) -> i32 {
                // SAFETY: the caller's.
                unsafe { self.to_int_unchecked() }
            }
            #[inline(always)]
            fn ceil_to_usize(self) -> usize {
                self.ceil() as usize
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
        }
    )*};
}
real!(f32, f64);

/// `out[c] = sum over taps of weight * pixel[c]` for `c < channels`, added to what is there if `onto`.
///
/// # Safety
/// All pixels are readable and `out` is writable for `channels` elements; `out` overlaps no pixel.
#[inline(always)]
unsafe fn blend<E: Real>(taps: &[(*const E, E)], out: *mut E, channels: usize, onto: bool) {
    // SAFETY: the caller's.
    unsafe { fold(taps, out, channels, onto, |sum, product| sum + product) }
}

/// `out[c] = greatest over taps of weight * pixel[c]` for `c < channels`, or of that and what is there if `onto`; 0
/// without taps.
///
/// # Safety
/// As [`blend`].
#[inline(always)]
unsafe fn peak<E: Real>(taps: &[(*const E, E)], out: *mut E, channels: usize, onto: bool) {
    // SAFETY: the caller's.
    unsafe { fold(taps, out, channels, onto, |best, v| if v > best { v } else { best }) }
}

/// # Safety
/// As [`blend`].
#[inline(always)]
unsafe fn fold<E: Real>(
    taps: &[(*const E, E)],
    out: *mut E,
    channels: usize,
    onto: bool,
    f: impl Fn(E, E) -> E,
) {
    for c in (0..channels).step_by(LANES) {
        let count = LANES.min(channels - c);
        // SAFETY: the caller's.
        unsafe {
            if count == LANES {
                fold_lanes::<E, true>(taps, out.add(c), c, count, onto, &f);
            } else {
                fold_lanes::<E, false>(taps, out.add(c), c, count, onto, &f);
            }
        }
    }
}

/// [`fold`] for `count` channels from `c` on: [`LANES`] if `FULL`.
///
/// # Safety
/// As [`blend`].
#[inline(always)]
unsafe fn fold_lanes<E: Real, const FULL: bool>(
    taps: &[(*const E, E)],
    out: *mut E,
    c: usize,
    count: usize,
    onto: bool,
    f: &impl Fn(E, E) -> E,
) {
    let load = |p: *const E| {
        let mut values = [E::of(0.0); LANES];
        // SAFETY: the caller's.
        unsafe {
            if FULL {
                values = p.cast::<[E; LANES]>().read_unaligned();
            } else {
                std::ptr::copy_nonoverlapping(p, values.as_mut_ptr(), count);
            }
        }
        values
    };
    let product = |(pixel, weight): (*const E, E)| {
        let mut values = load(pixel.wrapping_add(c));
        for v in &mut values {
            *v = weight * *v;
        }
        values
    };
    let (mut sum, rest) = match taps {
        _ if onto => (load(out), taps),
        [] => ([E::of(0.0); LANES], taps),
        [first, rest @ ..] => (product(*first), rest),
    };
    for tap in rest {
        let values = product(*tap);
        for l in 0..LANES {
            sum[l] = f(sum[l], values[l]);
        }
    }
    // SAFETY: the caller's.
    unsafe {
        if FULL {
            out.cast::<[E; LANES]>().write_unaligned(sum);
        } else {
            std::ptr::copy_nonoverlapping(sum.as_ptr(), out, count);
        }
    }
}
