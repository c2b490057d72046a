//! Pixels that are stored in a narrower type than they are computed in.

use super::DepthwiseKernel;
use crate::cpu::gemm::epilogue::{Finisher, Number, is_type};
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::gemm::sweep::Finish;
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::Storage;
use crate::{Args, Isa, Operand, Reject, TensorDesc};
use engraft_network::DType;
use engraft_network::ops::Epilogue;
use half::bf16;
use std::ops::Range;

/// A type of pixels that are computed in `E`.
pub(crate) trait Stored<E: Number>: Copy + Send + Sync + 'static {
    /// Whether results are rounded when they are stored.
    const ROUNDED: bool;

    fn is(dtype: DType) -> bool;

    fn finisher(
        epilogue: &Epilogue,
        inputs: &[Operand<'_>],
        output: &TensorDesc,
        isa: Isa,
    ) -> Result<Finisher<E>, Reject>;

    /// Converts all numbers.
    fn widen(from: &[u8], to: &mut [u8]);
}

impl<E: Number> Stored<E> for E {
    const ROUNDED: bool = false;

    fn is(dtype: DType) -> bool {
        is_type::<E>(dtype)
    }

    fn finisher(
        epilogue: &Epilogue,
        inputs: &[Operand<'_>],
        output: &TensorDesc,
        isa: Isa,
    ) -> Result<Finisher<E>, Reject> {
        Finisher::new(epilogue, inputs, 2, output, isa)
    }

    fn widen(from: &[u8], to: &mut [u8]) {
        to.copy_from_slice(from);
    }
}

impl Stored<f32> for bf16 {
    const ROUNDED: bool = true;

    fn is(dtype: DType) -> bool {
        dtype == DType::BF16
    }

    fn finisher(
        epilogue: &Epilogue,
        inputs: &[Operand<'_>],
        output: &TensorDesc,
        isa: Isa,
    ) -> Result<Finisher<f32>, Reject> {
        Finisher::storing(epilogue, inputs, 2, output, isa, &[])
    }

    fn widen(from: &[u8], to: &mut [u8]) {
        let (from, _) = from.as_chunks::<2>();
        let (to, _) = to.as_chunks_mut::<4>();
        for (from, to) in from.iter().zip(to) {
            *to = bf16::from_le_bytes(*from).to_f32().to_le_bytes();
        }
    }
}

/// How sums that are kept in scratch become results.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounding {
    pub isa: Isa,
    pub narrow_residual: bool,
}

impl<E: Number, X: Stored<E>> DepthwiseKernel<E, X> {
    /// Bytes of a row of sums.
    pub(super) fn kept_bytes(&self) -> usize {
        match self.rounding {
            Some(_) => self.geometry.output[2] * self.chunk.min(self.channels) * size_of::<E>(),
            None => 0,
        }
    }

    /// Finishes the sums of row `row`, which lie side by side in `kept`, and stores them rounded.
    ///
    /// # Safety
    /// See [`crate::Kernel::run`]; the row's sums of these channels are complete.
    pub(super) unsafe fn round_row(
        &self,
        rounding: &Rounding,
        row: usize,
        channels: &Range<usize>,
        args: &Args<'_>,
        finish: &Finish<'_, E>,
        kept: *mut E,
    ) {
        let (width, n) = (self.geometry.output[2], channels.len());
        let first = row * width;
        // The pixels of a row are one progression.
        let step = |map: &RowMap| if width > 1 { map.offset(first + 1) - map.offset(first) } else { 0 };
        let out = args.outputs[0].cast::<bf16>().wrapping_offset(self.out.offset(first));
        let residual = (!finish.residual.is_null()).then(|| {
            let at = self.residual.offset(first) + channels.start as isize;
            let size = if rounding.narrow_residual { 2 } else { 4 };
            (finish.residual.cast::<u8>().wrapping_offset(at * size), step(&self.residual) * size)
        });
        let all = Row {
            // Only sums of `f32` are rounded: the casts say so.
            sums: kept.cast(),
            n,
            width,
            residual,
            narrow_residual: rounding.narrow_residual,
            clip: finish.clip.map(|(low, high)| (wide(low), wide(high))),
            to: Some((out.wrapping_add(channels.start), step(&self.out))),
        };
        let Some(post) = finish.post else { return dispatch(rounding.isa, all) };
        if residual.is_some() || all.clip.is_some() {
            dispatch(rounding.isa, Row { to: None, ..all });
        }
        for x in (0..width).step_by(64) {
            let count = (width - x).min(64);
            let pixel = |i: usize| kept.wrapping_add((x + i) * n).wrapping_sub(channels.start);
            let rows: [*mut E; 64] = std::array::from_fn(pixel);
            // SAFETY: the pixels' sums are writable.
            unsafe { post.apply(&rows[..count], first + x, channels.start, n) };
        }
        dispatch(rounding.isa, Row { residual: None, clip: None, ..all });
    }
}

/// A number of type `f32`.
fn wide<E: Number>(x: E) -> f32 {
    debug_assert_eq!(E::DTYPE, DType::F32);
    // SAFETY: `E` is `f32`, the only type whose results are rounded.
    unsafe { std::mem::transmute_copy(&x) }
}

/// `clip(sums + residual)` of the pixels of a row, rounded to `to` or back to their place.
#[derive(Clone, Copy)]
struct Row {
    /// `width` pixels of `n` channels side by side.
    sums: *mut f32,
    n: usize,
    width: usize,
    /// The first pixel's, and bytes from pixel to pixel.
    residual: Option<(*const u8, isize)>,
    narrow_residual: bool,
    clip: Option<(f32, f32)>,
    /// The first pixel's, and elements from pixel to pixel.
    to: Option<(*mut bf16, isize)>,
}

impl Task for Row {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (low, high) = self.clip.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (low, high) = (s.splat(low), s.splat(high));
        for x in 0..self.width {
            let sums = self.sums.wrapping_add(x * self.n);
            let residual = self.residual.map(|(p, step)| p.wrapping_offset(x as isize * step));
            let to = self.to.map(|(p, step)| p.wrapping_offset(x as isize * step));
            for at in (0..self.n).step_by(S::LANES) {
                let m = S::LANES.min(self.n - at);
                // SAFETY: who makes one vouches for the pixels.
                unsafe {
                    let mut v = f32::load(s, sums.add(at), m);
                    if let Some(from) = residual {
                        v = s.add(
                            v,
                            match self.narrow_residual {
                                true => bf16::load(s, from.cast::<bf16>().add(at), m),
                                false => f32::load(s, from.cast::<f32>().add(at), m),
                            },
                        );
                    }
                    // The operand order lets NaN through.
                    v = s.min(high, s.max(low, v));
                    match to {
                        Some(to) => bf16::store(s, to.add(at), m, v),
                        None => f32::store(s, sums.add(at), m, v),
                    }
                }
            }
        }
    }
}
