//! Pixels that are stored in a narrower type than they are computed in.

use super::DepthwiseKernel;
use crate::cpu::gemm::epilogue::{Finisher, Number, is_type};
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
        Finisher::storing(epilogue, inputs, 2, output, isa)
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
        // Only sums of `f32` are rounded: the casts say so.
        let clip = finish.clip.map(|(low, high)| (wide(low), wide(high)));
        let width = self.geometry.output[2];
        let n = channels.len();
        for x in 0..width {
            let pixel = row * width + x;
            let sums = kept.wrapping_add(x * n);
            let out = args.outputs[0].cast::<bf16>().wrapping_offset(self.out.offset(pixel));
            let out = out.wrapping_add(channels.start);
            let residual = (!finish.residual.is_null()).then(|| {
                let at = self.residual.offset(pixel) + channels.start as isize;
                let size = if rounding.narrow_residual { 2 } else { 4 };
                finish.residual.cast::<u8>().wrapping_offset(at * size)
            });
            let narrow_residual = rounding.narrow_residual;
            let finished = Pixel { sums: sums.cast(), n, residual, narrow_residual, clip };
            match finish.post {
                None => dispatch(rounding.isa, Store { pixel: finished, to: Some(out) }),
                Some(post) => {
                    dispatch(rounding.isa, Store { pixel: finished, to: None });
                    // SAFETY: the pixel's sums are writable.
                    unsafe { post.apply(&[sums.wrapping_sub(channels.start)], pixel, channels.start, n) };
                    let done = Pixel { residual: None, clip: None, ..finished };
                    dispatch(rounding.isa, Store { pixel: done, to: Some(out) });
                }
            }
        }
    }
}

/// A number of type `f32`.
fn wide<E: Number>(x: E) -> f32 {
    debug_assert_eq!(E::DTYPE, DType::F32);
    // SAFETY: `E` is `f32`, the only type whose results are rounded.
    unsafe { std::mem::transmute_copy(&x) }
}

/// The sums of one pixel and what is done to them.
#[derive(Clone, Copy)]
struct Pixel {
    sums: *mut f32,
    n: usize,
    residual: Option<*const u8>,
    narrow_residual: bool,
    clip: Option<(f32, f32)>,
}

/// `clip(sums + residual)`, rounded to `to` or back to their place.
struct Store {
    pixel: Pixel,
    to: Option<*mut bf16>,
}

impl Task for Store {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Pixel { sums, n, residual, narrow_residual, clip } = self.pixel;
        let (low, high) = clip.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
        let (low, high) = (s.splat(low), s.splat(high));
        for at in (0..n).step_by(S::LANES) {
            let m = S::LANES.min(n - at);
            // SAFETY: who makes one vouches for n numbers behind each pointer.
            unsafe {
                let mut x = f32::load(s, sums.add(at), m);
                if let Some(from) = residual {
                    x = s.add(
                        x,
                        match narrow_residual {
                            true => bf16::load(s, from.cast::<bf16>().add(at), m),
                            false => f32::load(s, from.cast::<f32>().add(at), m),
                        },
                    );
                }
                // The operand order lets NaN through.
                x = s.min(high, s.max(low, x));
                match self.to {
                    Some(to) => bf16::store(s, to.add(at), m, x),
                    None => f32::store(s, sums.add(at), m, x),
                }
            }
        }
    }
}
