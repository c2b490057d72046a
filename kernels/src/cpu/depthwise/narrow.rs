//! Pixels that are stored in a narrower type than they are computed in: their rows are widened once, and rows of sums rounded.

use super::walk::{Block, Walk};
use crate::cpu::conv::geometry::Geometry;
use crate::cpu::gemm::epilogue::{Finisher, Number, is_type};
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::Storage;
use crate::{Isa, Operand, Reject, TensorDesc};
use engraft_network::DType;
use engraft_network::ops::Epilogue;
use half::bf16;

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

/// How pixels are widened, and sums become results.
#[derive(Clone, Copy, Debug)]
pub(super) struct Narrow {
    isa: Isa,
    narrow_residual: bool,
    /// Input rows that lie under a kernel, along depth and height.
    span: [usize; 2],
    /// Elements between the widened pixels of a row, and from row to row.
    pitch: usize,
    row: usize,
    /// Sums of a block's row.
    sums: usize,
}

impl Narrow {
    /// For blocks of `chunk` channels and `columns` output columns.
    pub fn new(g: &Geometry, isa: Isa, narrow_residual: bool, chunk: usize, columns: usize) -> Narrow {
        let span = |d: usize| (g.kernel[d] - 1) * g.dilation[d] + 1;
        let pitch = chunk.next_multiple_of(16);
        let width = (columns.saturating_sub(1) * g.stride[2] + span(2)).min(g.input[2]);
        Narrow {
            isa,
            narrow_residual,
            span: [0, 1].map(|d| span(d).min(g.input[d])),
            pitch,
            row: width * pitch,
            sums: (columns * chunk).next_multiple_of(16),
        }
    }

    fn slots(&self) -> usize {
        self.span[0] * self.span[1]
    }

    /// Bytes of the sums, the widened rows, and the numbers of those, one after another.
    pub fn scratch_bytes(&self) -> usize {
        let floats = self.sums + self.slots() * self.row;
        (floats * size_of::<f32>()).next_multiple_of(64) + self.slots() * size_of::<usize>()
    }

    /// An empty ring for a block.
    ///
    /// # Safety
    /// `scratch` is 64-byte aligned, holds [`Narrow::scratch_bytes`] and is used by nobody else as long as the ring is.
    pub unsafe fn ring<E>(&self, g: &Geometry, block: &Block, scratch: *mut u8) -> Ring<E> {
        let floats = (self.sums + self.slots() * self.row) * size_of::<f32>();
        let first = (block.columns.start * g.stride[2]).saturating_sub(g.pad[2]).min(g.input[2]);
        let last = (block.columns.end - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1;
        let end = last.saturating_sub(g.pad[2]).clamp(first, g.input[2]);
        // SAFETY: by the caller's contract.
        let held = unsafe {
            let held = scratch.add(floats.next_multiple_of(64)).cast::<usize>();
            (0..self.slots()).for_each(|i| held.add(i).write(usize::MAX));
            held
        };
        Ring {
            narrow: *self,
            sums: scratch.cast(),
            rows: scratch.cast::<E>().wrapping_add(self.sums),
            held,
            input: (first, end - first),
            block: block.clone(),
        }
    }
}

/// The widened input rows under a kernel, each in the slot that its place gives it, and a row of sums.
pub(super) struct Ring<E> {
    narrow: Narrow,
    sums: *mut E,
    rows: *mut E,
    /// By slot, the number of its row over all images and depths.
    held: *mut usize,
    /// First input column, and how many.
    input: (usize, usize),
    block: Block,
}

impl<E> Ring<E> {
    pub fn pitch(&self) -> usize {
        self.narrow.pitch
    }

    fn slot(&self, z: usize, y: usize) -> usize {
        z % self.narrow.span[0] * self.narrow.span[1] + y % self.narrow.span[1]
    }

    /// Where input row `y` of depth `z` begins, relative to where [`Ring::origin`] counts from.
    pub fn row(&self, z: usize, y: usize) -> isize {
        (self.slot(z, y) * self.narrow.row) as isize
    }

    /// The (unclipped) first input column of output column `x`, in the first slot.
    pub fn origin(&self, g: &Geometry, x: usize) -> *const E {
        let column = (x * g.stride[2]) as isize - (g.pad[2] + self.input.0) as isize;
        self.rows.cast_const().wrapping_offset(column * self.narrow.pitch as isize)
    }

    /// The sums of output column `x`: pixels side by side.
    pub fn sums(&self, x: usize) -> *mut E {
        self.sums.wrapping_add((x - self.block.columns.start) * self.block.channels.len())
    }

    /// Widens the rows that the outputs of image `n`, depth `z`, row `y` read, where they are not held.
    ///
    /// # Safety
    /// `input` is the layer's, of bf16.
    pub unsafe fn fill(
        &mut self,
        narrow: &Narrow,
        g: &Geometry,
        input: *const u8,
        (n, z, y): (usize, usize, usize),
    ) {
        let (first, width) = self.input;
        for kz in 0..g.kernel[0] {
            let Some(z) = g.source(0, z, kz) else { continue };
            for ky in 0..g.kernel[1] {
                let Some(y) = g.source(1, y, ky) else { continue };
                let (slot, number) = (self.slot(z, y), (n * g.input[0] + z) * g.input[1] + y);
                // SAFETY: the slot exists.
                let held = unsafe { &mut *self.held.add(slot) };
                if *held == number {
                    continue;
                }
                *held = number;
                let at = n as isize * g.batch_stride
                    + z as isize * g.input_stride[0]
                    + y as isize * g.input_stride[1]
                    + first as isize * g.input_stride[2];
                let widen = Widen {
                    from: input.cast::<bf16>().wrapping_offset(at).wrapping_add(self.block.channels.start),
                    step: g.input_stride[2],
                    to: self.rows.wrapping_add(slot * narrow.row).cast(),
                    pitch: narrow.pitch,
                    width,
                    n: self.block.channels.len(),
                };
                dispatch(narrow.isa, widen);
            }
        }
    }
}

/// `width` pixels of `n` channels of a row, widened; as long as whole vectors need, pixels are filled up with zeros.
struct Widen {
    from: *const bf16,
    /// Elements from pixel to pixel.
    step: isize,
    to: *mut f32,
    pitch: usize,
    width: usize,
    n: usize,
}

impl Task for Widen {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for x in 0..self.width {
            let from = self.from.wrapping_offset(x as isize * self.step);
            let to = self.to.wrapping_add(x * self.pitch);
            for at in (0..self.n).step_by(S::LANES) {
                // SAFETY: who makes one vouches for the pixels; the pitch is a multiple of the lanes.
                unsafe { s.store(to.add(at), bf16::load(s, from.add(at), S::LANES.min(self.n - at))) };
            }
        }
    }
}

impl<E: Number> Walk<'_, E> {
    /// Finishes the sums of the block's columns of row `row` and stores them rounded.
    ///
    /// # Safety
    /// See [`crate::Kernel::run`]; the row's sums are complete.
    pub(super) unsafe fn round_row(&self, ring: &Ring<E>, narrow: &Narrow, row: usize) {
        let Block { columns, channels } = &self.block;
        let (k, finish) = (self.kernel, self.finish);
        let (width, n) = (columns.len(), channels.len());
        let first = row * k.geometry.output[2] + columns.start;
        let kept = ring.sums(columns.start);
        // The pixels of a row are one progression.
        let step = |map: &RowMap| if width > 1 { map.offset(first + 1) - map.offset(first) } else { 0 };
        let out = self.args.outputs[0].cast::<bf16>().wrapping_offset(k.out.offset(first));
        let residual = (!finish.residual.is_null()).then(|| {
            let at = k.residual.offset(first) + channels.start as isize;
            let size = if narrow.narrow_residual { 2 } else { 4 };
            (finish.residual.cast::<u8>().wrapping_offset(at * size), step(&k.residual) * size)
        });
        let all = Row {
            // Only sums of `f32` are rounded: the casts say so.
            sums: kept.cast(),
            n,
            width,
            residual,
            narrow_residual: narrow.narrow_residual,
            clip: finish.clip.map(|(low, high)| (wide(low), wide(high))),
            to: Some((out.wrapping_add(channels.start), step(&k.out))),
        };
        let Some(post) = finish.post else { return dispatch(narrow.isa, all) };
        if residual.is_some() || all.clip.is_some() {
            dispatch(narrow.isa, Row { to: None, ..all });
        }
        for x in (0..width).step_by(64) {
            let count = (width - x).min(64);
            let pixel = |i: usize| kept.wrapping_add((x + i) * n).wrapping_sub(channels.start);
            let rows: [*mut E; 64] = std::array::from_fn(pixel);
            // SAFETY: the pixels' sums are writable.
            unsafe { post.apply(&rows[..count], first + x, channels.start, n) };
        }
        dispatch(narrow.isa, Row { residual: None, clip: None, ..all });
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
