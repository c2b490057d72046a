//! Squares on their way through a block: pixels to the transformed input, products to finished pixels.

use super::transform::Form;
use super::{PANEL, Room, WinogradKernel, position_pitch};
use crate::cpu::gemm::sweep::Finish;
use crate::cpu::simd::{Simd, Task};
use std::ops::Range;

/// Tiles of a row that are finished together.
const RUN: usize = 8;

/// Transforms a block's squares of the input.
pub(super) struct Gather<'a, F, const M: usize, const T: usize> {
    pub kernel: &'a WinogradKernel<F, M, T>,
    pub x: *const f32,
    pub tiles: Range<usize>,
    pub room: &'a Room,
}

impl<F: Form<M, T>, const M: usize, const T: usize> Task for Gather<'_, F, M, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (k, g) = (self.kernel, &self.kernel.geometry);
        let (square, _) = k.pitches();
        let pitch = position_pitch(k.channels);
        for (i, tile) in self.tiles.clone().enumerate() {
            let (n, y0, x0) = k.place(tile);
            let image = self.x.wrapping_offset(n as isize * g.batch_stride);
            let mut pixels = [[self.room.zeros.cast_const(); T]; T];
            for (dy, row) in pixels.iter_mut().enumerate() {
                let Some(y) = inside(y0 + dy, g.pad[1], g.input[1]) else {
                    continue;
                };
                let line = image.wrapping_offset(y as isize * g.input_stride[1]);
                for (dx, pixel) in row.iter_mut().enumerate() {
                    if let Some(x) = inside(x0 + dx, g.pad[2], g.input[2]) {
                        *pixel = line.wrapping_offset(x as isize * g.input_stride[2]);
                    }
                }
            }
            let mut c = 0;
            // SAFETY: pixels hold `channels` floats, squares a vector more than that at each position.
            unsafe {
                let to = self.room.squares.add(i * square);
                while c + S::LANES <= k.channels {
                    forward::<S, F, M, T>(s, |y, x| s.load(pixels[y][x].add(c)), to.add(c), pitch);
                    c += S::LANES;
                }
                if c < k.channels {
                    let rest = k.channels - c;
                    forward::<S, F, M, T>(s, |y, x| s.load_n(pixels[y][x].add(c), rest), to.add(c), pitch);
                }
            }
        }
    }
}

/// The input coordinate that lies `at - pad`, unless it is in the border.
#[inline(always)]
pub(super) fn inside(at: usize, pad: usize, size: usize) -> Option<usize> {
    let at = at.wrapping_sub(pad);
    (at < size).then_some(at)
}

/// One vector of channels of one square.
///
/// # Safety
/// `to` is writable for a vector at each of `T * T` positions, `pitch` apart.
#[inline(always)]
unsafe fn forward<S: Simd, F: Form<M, T>, const M: usize, const T: usize>(
    s: S,
    load: impl Fn(usize, usize) -> S::F,
    to: *mut f32,
    pitch: usize,
) {
    let mut columns = [[s.zero(); T]; T];
    for x in 0..T {
        let mut column = [s.zero(); T];
        for (y, value) in column.iter_mut().enumerate() {
            *value = load(y, x);
        }
        let column = F::input(s, column);
        for y in 0..T {
            columns[y][x] = column[y];
        }
    }
    for (y, row) in columns.into_iter().enumerate() {
        let row = F::input(s, row);
        for (x, value) in row.into_iter().enumerate() {
            // SAFETY: by the caller's contract.
            unsafe { s.store(to.add((y * T + x) * pitch), value) };
        }
    }
}

/// Transforms a block's products of one panel to results and finishes them.
pub(super) struct Scatter<'a, F, const M: usize, const T: usize> {
    pub kernel: &'a WinogradKernel<F, M, T>,
    pub out: *mut f32,
    pub tiles: Range<usize>,
    pub col: usize,
    pub cols: usize,
    pub finish: &'a Finish<'a, f32>,
    pub room: &'a Room,
}

impl<F: Form<M, T>, const M: usize, const T: usize> Task for Scatter<'_, F, M, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let across = self.kernel.tiles[1];
        let mut tile = self.tiles.start;
        while tile < self.tiles.end {
            // Tiles of one row of tiles.
            let end = self.tiles.end.min((tile / across + 1) * across).min(tile + RUN);
            for t in tile..end {
                // SAFETY: the block's products are complete; its pixels are this task's own in these columns.
                unsafe { self.tile(s, t) };
            }
            if let Some(post) = self.finish.post {
                let [_, h, w] = self.kernel.geometry.output;
                let (n, y, x) = self.kernel.place(tile);
                let last = w.min(x + (end - tile) * M);
                let mut rows = [std::ptr::null_mut::<f32>(); RUN * 4];
                for y in y..h.min(y + M) {
                    for (row, x) in rows.iter_mut().zip(x..last) {
                        *row = self.out.wrapping_offset(self.pixel(self.kernel.out, n, y, x));
                    }
                    // SAFETY: these pixels are finished but for this.
                    unsafe { post.apply(&rows[..last - x], (n * h + y) * w + x, self.col, self.cols) };
                }
            }
            tile = end;
        }
    }
}

impl<F: Form<M, T>, const M: usize, const T: usize> Scatter<'_, F, M, T> {
    #[inline(always)]
    fn pixel(&self, steps: [isize; 3], n: usize, y: usize, x: usize) -> isize {
        n as isize * steps[0] + y as isize * steps[1] + x as isize * steps[2]
    }

    /// # Safety
    /// The products of the tile are complete, and its pixels writable in the panel's columns.
    #[inline(always)]
    unsafe fn tile<S: Simd>(&self, s: S, tile: usize) {
        let k = self.kernel;
        let [_, h, w] = k.geometry.output;
        let (n, y0, x0) = k.place(tile);
        let (height, width) = (M.min(h - y0), M.min(w - x0));
        let (_, product) = k.pitches();
        let zero = s.zero();
        // SAFETY: by the caller's contract.
        unsafe {
            let from = self.room.products.add((tile - self.tiles.start) * product);
            let out = self.out.wrapping_offset(self.pixel(k.out, n, y0, x0)).wrapping_add(self.col);
            let residual = if self.finish.residual.is_null() {
                std::ptr::null()
            } else {
                self.finish.residual.wrapping_offset(self.pixel(k.residual, n, y0, x0)).wrapping_add(self.col)
            };
            for col in (0..self.cols).step_by(S::LANES) {
                let count = S::LANES.min(self.cols - col);
                let mut columns = [[zero; T]; M];
                for x in 0..T {
                    let mut column = [zero; T];
                    for (y, value) in column.iter_mut().enumerate() {
                        *value = s.load(from.add((y * T + x) * PANEL + col));
                    }
                    let column = F::output(s, column);
                    for y in 0..M {
                        columns[y][x] = column[y];
                    }
                }
                let bias = if self.finish.bias.is_null() {
                    zero
                } else {
                    s.load_n(self.finish.bias.add(self.col + col), count)
                };
                for (y, row) in columns.into_iter().enumerate().take(height) {
                    let row = F::output(s, row);
                    for (x, value) in row.into_iter().enumerate().take(width) {
                        let (y, x) = (y as isize, x as isize);
                        let mut value = s.add(value, bias);
                        if !residual.is_null() {
                            let p = residual.offset(y * k.residual[1] + x * k.residual[2]).add(col);
                            value = s.add(value, s.load_n(p, count));
                        }
                        if let Some((low, high)) = self.finish.clip {
                            value = s.min(s.splat(high), s.max(s.splat(low), value));
                        }
                        let p = out.offset(y * k.out[1] + x * k.out[2]).add(col);
                        if count == S::LANES { s.store(p, value) } else { s.store_n(p, count, value) }
                    }
                }
            }
        }
    }
}
