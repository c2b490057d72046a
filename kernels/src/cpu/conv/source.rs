//! Convolution inputs as the rows of an implicit matrix: one row per output pixel, one column per (tap, channel).

use super::geometry::Geometry;
use crate::cpu::gemm::lanes::Elem;
use crate::cpu::gemm::sweep::Source;
use std::ops::Range;

/// One tap per kernel position, pointing at the input pixel's channels, or at zeros where the position is in the border.
#[derive(Clone, Copy, Debug)]
pub struct Taps<'a, E> {
    pub base: *const E,
    pub geometry: &'a Geometry,
    /// Channels of one group.
    pub channels: usize,
}

impl<E: Elem> Source<E> for Taps<'_, E> {
    fn taps(&self) -> usize {
        self.geometry.taps()
    }
    fn run(&self) -> usize {
        self.channels
    }
    fn stage_bytes(&self, _rows: usize, _pitch: usize) -> usize {
        self.channels * size_of::<E>()
    }
    unsafe fn stage(&self, _row: usize, _rows: usize, _k: Range<usize>, stage: *mut u8, _pitch: usize) {
        // SAFETY: the stage holds one pixel.
        unsafe { std::ptr::write_bytes(stage.cast::<E>(), 0, self.channels) };
    }
    unsafe fn point(&self, _block: usize, row: usize, rows: usize, stage: *mut u8, table: *mut *const E) {
        let g = self.geometry;
        let zeros = stage.cast::<E>().cast_const();
        let (mut n, mut o) = g.place(row);
        let [kd, kh, kw] = g.kernel;
        for i in 0..rows {
            let image = self.base.wrapping_offset(n as isize * g.batch_stride);
            let x0 = (o[2] * g.stride[2]) as isize - g.pad[2] as isize;
            let inside = x0 >= 0 && x0 as usize + (kw - 1) * g.dilation[2] < g.input[2];
            let mut tap = i;
            for z in 0..kd {
                let z = g.source(0, o[0], z);
                for y in 0..kh {
                    let row = match (z, g.source(1, o[1], y)) {
                        (Some(z), Some(y)) => Some(image.wrapping_offset(
                            z as isize * g.input_stride[0] + y as isize * g.input_stride[1],
                        )),
                        _ => None,
                    };
                    for x in 0..kw {
                        let at = x0 + (x * g.dilation[2]) as isize;
                        let p = match row {
                            Some(row) if inside || (at >= 0 && (at as usize) < g.input[2]) => {
                                row.wrapping_offset(at * g.input_stride[2])
                            }
                            _ => zeros,
                        };
                        // SAFETY: tap / rows < taps.
                        unsafe { table.add(tap).write(p) };
                        tap += rows;
                    }
                }
            }
            o[2] += 1;
            for d in [2, 1] {
                if o[d] == g.output[d] {
                    o[d] = 0;
                    o[d - 1] += 1;
                }
            }
            if o[0] == g.output[0] {
                o[0] = 0;
                n += 1;
            }
        }
    }
}

/// Few channels: a tap is a whole kernel row, `kernel width * channels` consecutive elements of an input row that is
/// copied with its border. Needs a width dilation of one.
#[derive(Clone, Copy, Debug)]
pub struct Bands<'a, E> {
    pub base: *const E,
    pub geometry: &'a Geometry,
    pub channels: usize,
}

/// Bytes of copied input rows that a block should stay within.
const BAND_BYTES: usize = 128 << 10;

impl<E: Elem> Bands<'_, E> {
    /// Where whole input rows are too long: output pixels of one row that form a block.
    fn window(&self) -> Option<usize> {
        let g = self.geometry;
        // Bytes that one input column of a single output row takes.
        let column = g.kernel[0] * self.height(1) * self.channels * size_of::<E>();
        (self.width(g.output[2]) * column > BAND_BYTES)
            .then(|| (BAND_BYTES / (g.stride[2] * column)).clamp(1, g.output[2]))
    }

    /// Input pixels of a row that `pixels` outputs read.
    fn width(&self, pixels: usize) -> usize {
        (pixels - 1) * self.geometry.stride[2] + self.geometry.kernel[2]
    }

    /// Elements of one copied input row.
    fn pitch(&self) -> usize {
        let pixels = self.window().unwrap_or(self.geometry.output[2]);
        (self.width(pixels) * self.channels).next_multiple_of(64 / size_of::<E>())
    }

    /// Copied input rows of `rows` output rows of one image, for one kernel depth.
    fn height(&self, rows: usize) -> usize {
        let g = self.geometry;
        (rows - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1
    }

    /// Most output rows of a block.
    fn most(&self) -> usize {
        if self.window().is_some() {
            return 1;
        }
        let g = self.geometry;
        let row = self.pitch() * size_of::<E>() * g.kernel[0];
        let fixed = self.height(1);
        let fits = (BAND_BYTES / row.max(1)).saturating_sub(fixed) / g.stride[1] + 1;
        fits.min(g.output[1])
    }
}

impl<E: Elem> Source<E> for Bands<'_, E> {
    fn taps(&self) -> usize {
        self.geometry.kernel[0] * self.geometry.kernel[1]
    }
    fn run(&self) -> usize {
        self.geometry.kernel[2] * self.channels
    }
    fn fit(&self, row: usize, rows: usize) -> usize {
        let [_, h, w] = self.geometry.output;
        let (x, y) = (row % w, row / w % h);
        match self.window() {
            Some(pixels) => rows.min(pixels).min(w - x),
            None => rows.min((h - y).min(self.most()) * w - x),
        }
    }
    fn stage_bytes(&self, _rows: usize, _pitch: usize) -> usize {
        self.geometry.kernel[0] * self.height(self.most()) * self.pitch() * size_of::<E>()
    }
    unsafe fn stage(&self, row: usize, rows: usize, _k: Range<usize>, stage: *mut u8, _pitch: usize) {
        let g = self.geometry;
        let (n, [z, first, x]) = g.place(row);
        let (_, [_, last, end]) = g.place(row + rows - 1);
        let (pitch, height, needed) = (self.pitch(), self.height(self.most()), self.height(last - first + 1));
        let (x, end) = if self.window().is_some() { (x, end + 1) } else { (0, g.output[2]) };
        // Input pixels start .. start + width of every row, the border included.
        let (start, width) = ((x * g.stride[2]) as isize - g.pad[2] as isize, self.width(end - x));
        let left = usize::try_from(-start).unwrap_or(0).min(width);
        let from = usize::try_from(start).unwrap_or(0).min(g.input[2]);
        let inside = (g.input[2] - from).min(width - left);
        let right = width - left - inside;
        let c = self.channels;
        for kz in 0..g.kernel[0] {
            let z = g.source(0, z, kz);
            for i in 0..needed {
                // SAFETY: row `i` of depth `kz` of the stage; the input row is inside the input.
                unsafe {
                    let to = stage.cast::<E>().add((kz * height + i) * pitch);
                    let y = (first * g.stride[1] + i).wrapping_sub(g.pad[1]);
                    let Some(z) = z.filter(|_| y < g.input[1]) else {
                        std::ptr::write_bytes(to, 0, width * c);
                        continue;
                    };
                    let from = self.base.wrapping_offset(
                        n as isize * g.batch_stride
                            + z as isize * g.input_stride[0]
                            + y as isize * g.input_stride[1]
                            + from as isize * g.input_stride[2],
                    );
                    std::ptr::write_bytes(to, 0, left * c);
                    let to = to.add(left * c);
                    if g.input_stride[2] == c as isize {
                        std::ptr::copy_nonoverlapping(from, to, inside * c);
                    } else {
                        for x in 0..inside {
                            let from = from.offset(x as isize * g.input_stride[2]);
                            for k in 0..c {
                                to.add(x * c + k).write(from.add(k).read());
                            }
                        }
                    }
                    std::ptr::write_bytes(to.add(inside * c), 0, right * c);
                }
            }
        }
    }
    unsafe fn point(&self, block: usize, row: usize, rows: usize, stage: *mut u8, table: *mut *const E) {
        let g = self.geometry;
        let (_, [_, first, x0]) = g.place(block);
        let (_, [_, mut y, mut x]) = g.place(row);
        let x0 = if self.window().is_some() { x0 } else { 0 };
        let (pitch, height) = (self.pitch(), self.height(self.most()));
        for i in 0..rows {
            let mut tap = i;
            for kz in 0..g.kernel[0] {
                for ky in 0..g.kernel[1] {
                    let at = kz * height + (y - first) * g.stride[1] + ky * g.dilation[1];
                    // SAFETY: a row of the staged block; tap / rows < taps.
                    unsafe {
                        let p = stage.cast::<E>().add(at * pitch + (x - x0) * g.stride[2] * self.channels);
                        table.add(tap).write(p);
                    }
                    tap += rows;
                }
            }
            x += 1;
            if x == g.output[2] {
                (x, y) = (0, y + 1);
            }
        }
    }
}
