//! The first operand in split form, block by block.

use super::split::{SplitRow, steps};
use super::tile::{Products, ROWS, STEP};
use crate::cpu::conv::geometry::Geometry;
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::simd::{Simd, Task};
use crate::cpu::storage::Storage;
use std::ops::Range;

/// Where the rows of the first operand come from, and how a block of them lies in scratch.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub kind: Kind,
    products: Products,
    /// Values along k of one tap.
    pub run: usize,
    /// Byte offsets of the taps from a row's start.
    pub taps: Vec<usize>,
    /// Bytes between rows that stand in one tile.
    pub stride: usize,
    /// Units of one block: rows, or lines of output pixels.
    pub block: usize,
    /// Rows of one unit.
    pub unit: usize,
    /// Whether the operand is bf16 in memory; `f32` otherwise.
    pub narrow: bool,
    /// Whether tiles are loaded from the operand itself.
    pub direct: bool,
    /// Whether tiles run on from one line of pixels into the next, past the border between them.
    flat: bool,
    image: Image,
}

/// Layout of the staged part of an image.
#[derive(Clone, Copy, Debug, Default)]
struct Image {
    /// Pixels of a line, and lines of one kernel depth.
    width: usize,
    height: usize,
    pixel: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Rows of a matrix, whose elements are `step` apart.
    Rows { rows: RowMap, step: isize },
    /// The pixels of an image, shared by all taps.
    Image(Geometry),
    /// Each output pixel's whole window, of few channels.
    Windows(Geometry),
}

/// Up to [`ROWS`] rows of one tile: where they start, and how many. [`Source::runs`] tells which rows of the result they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub at: usize,
    pub rows: usize,
    /// Number in the result of the tile's first row; of the block's, where lines run into each other.
    first: usize,
    /// Pixels from the block's first to the tile's first, where lines run into each other.
    pixel: usize,
}

/// Consecutive rows of a tile that are consecutive rows of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first one's number in the tile.
    pub at: usize,
    pub rows: usize,
    /// The first one's number in the result.
    pub first: usize,
}

/// Scratch that a block may take: most of L2 is for it, the rest for panels.
const BLOCK_BYTES: usize = 1 << 20;

/// Lines of pixels run into each other if that fills tiles better by this factor.
const FLAT_GAIN: f64 = 1.15;

/// A distance of tile rows that does not map them all to a few cache sets.
fn spread(bytes: usize) -> usize {
    if bytes.is_multiple_of(1024) { bytes + 128 } else { bytes }
}

impl Source {
    pub fn new(kind: Kind, products: Products, channels: usize, narrow: bool) -> Source {
        let row = |run: usize| steps(run) * products.row_bytes();
        let mut source = Source {
            kind,
            products,
            run: channels,
            taps: vec![0],
            stride: 0,
            block: 1,
            unit: 1,
            narrow,
            direct: false,
            flat: false,
            image: Image::default(),
        };
        match kind {
            Kind::Rows { rows, step } => {
                source.stride = spread(row(channels));
                let lies = narrow && products == Products::One && step == 1 && channels.is_multiple_of(STEP);
                if let Some(stride) = rows.stride().and_then(|n| usize::try_from(n).ok()).filter(|_| lies) {
                    (source.direct, source.stride) = (true, 2 * stride);
                }
                source.block = (BLOCK_BYTES / spread(row(channels))).max(2 * ROWS) / (2 * ROWS) * 2 * ROWS;
            }
            Kind::Windows(g) => {
                source.run = g.taps() * channels;
                source.unit = g.output[2];
                source.stride = spread(row(source.run));
                source.block = (BLOCK_BYTES / 4 / (source.stride * source.unit)).max(1);
            }
            Kind::Image(g) => {
                source.unit = g.output[2];
                let pixel = spread(row(channels));
                source.stride = pixel * g.stride[2];
                let width = (g.output[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1;
                let reach = (g.kernel[1] - 1) * g.dilation[1] + 1;
                let line = width * pixel * g.kernel[0];
                let lines = (BLOCK_BYTES / line).saturating_sub(reach) / g.stride[1] + 1;
                source.block = lines.min(g.output[1]);
                let height = (source.block - 1) * g.stride[1] + reach;
                let alone = source.unit as f64 / (source.unit.div_ceil(ROWS) * ROWS) as f64;
                source.flat = g.stride[1..] == [1; 2]
                    && source.block > 1
                    && source.unit as f64 / width as f64 > FLAT_GAIN * alone;
                source.image = Image { width, height, pixel };
                source.taps.clear();
                for z in 0..g.kernel[0] {
                    for y in 0..g.kernel[1] {
                        for x in 0..g.kernel[2] {
                            let line = z * height + y * g.dilation[1];
                            source.taps.push((line * width + x * g.dilation[2]) * pixel);
                        }
                    }
                }
            }
        }
        source
    }

    /// Bytes of scratch of a block.
    pub fn bytes(&self) -> usize {
        if self.direct {
            return 0;
        }
        match self.kind {
            Kind::Image(g) => g.kernel[0] * self.image.height * self.image.width * self.image.pixel,
            Kind::Rows { .. } => self.block * self.stride,
            // And one window as it is gathered.
            Kind::Windows(_) => self.block * self.unit * self.stride + (self.run * 4).next_multiple_of(64),
        }
    }

    /// How many of the units from `unit` on, `units` of them, form the next block.
    pub fn fit(&self, unit: usize, units: usize) -> usize {
        match self.kind {
            // Lines of one image (and depth): the staged part is one.
            Kind::Image(g) => units.min(self.block).min(g.output[1] - unit % g.output[1]),
            Kind::Rows { .. } => {
                // Balanced, so that the last block is not a small one.
                let blocks = units.div_ceil(self.block);
                units.div_ceil(blocks).next_multiple_of(2 * ROWS).min(units)
            }
            Kind::Windows(_) => units.min(self.block),
        }
    }

    /// The part of tiles that is used, where there are many rows.
    pub fn filled(&self) -> f64 {
        match self.flat {
            true => self.unit as f64 / self.image.width as f64,
            false if self.unit == 1 => 1.0,
            false => self.unit as f64 / (self.unit.div_ceil(ROWS) * ROWS) as f64,
        }
    }

    /// Which rows of the result the rows of a tile are; others are pixels of the border.
    pub fn runs(&self, segment: &Segment) -> impl Iterator<Item = Run> {
        let Segment { rows, first, pixel, .. } = *segment;
        let (width, unit) = (self.image.width, self.unit);
        let flat = self.flat;
        let mut at = 0;
        std::iter::from_fn(move || {
            if !flat {
                return (std::mem::replace(&mut at, rows) < rows).then_some(Run { at: 0, rows, first });
            }
            let (mut line, mut x) = ((pixel + at) / width, (pixel + at) % width);
            if x >= unit {
                at += width - x;
                (line, x) = (line + 1, 0);
            }
            let run = Run { at, rows: (unit - x).min(rows.checked_sub(at)?), first: first + line * unit + x };
            at += run.rows;
            (run.rows > 0).then_some(run)
        })
    }

    /// Calls `to` with the tiles of the rows of a staged block: heights differ by one at most.
    pub fn segments(&self, units: Range<usize>, mut to: impl FnMut(Segment)) {
        let mut cut = |rows: usize, at: usize, first: usize| {
            // An even number of tiles, as two run side by side, if that costs little.
            let mut tiles = rows.div_ceil(ROWS);
            if tiles % 2 == 1 && rows >= 4 * tiles && (self.flat || matches!(self.kind, Kind::Rows { .. })) {
                tiles += 1;
            }
            for t in 0..tiles {
                let (start, end) = (rows * t / tiles, rows * (t + 1) / tiles);
                let (first, pixel) = if self.flat { (first, start) } else { (first + start, 0) };
                to(Segment { at: at + start * self.stride, rows: end - start, first, pixel });
            }
        };
        match self.kind {
            Kind::Rows { .. } => cut(units.len(), 0, units.start),
            Kind::Windows(_) => cut(units.len() * self.unit, 0, units.start * self.unit),
            Kind::Image(_) if self.flat => {
                cut((units.len() - 1) * self.image.width + self.unit, 0, units.start * self.unit);
            }
            Kind::Image(g) => {
                for (i, line) in units.enumerate() {
                    let at = i * g.stride[1] * self.image.width * self.image.pixel;
                    cut(self.unit, at, line * self.unit);
                }
            }
        }
    }
}

/// Writes a block of a source.
pub(super) struct Stage<'a, T> {
    pub source: &'a Source,
    pub base: *const T,
    pub units: Range<usize>,
    pub to: *mut u8,
}

impl<T: Storage> Stage<'_, T> {
    #[inline(always)]
    unsafe fn split<S: Simd>(&self, s: S, from: *const T, n: usize, to: *mut u8) {
        // SAFETY: the caller's.
        unsafe { SplitRow { products: self.source.products, from, n, to }.split(s) }
    }

    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, s: S, rows: RowMap, step: isize) {
        let Source { run, stride, .. } = *self.source;
        const GATHERED: usize = 64 * STEP;
        let mut buffer = [T::narrow(0.0); GATHERED];
        for (i, row) in self.units.clone().enumerate() {
            let from = self.base.wrapping_offset(rows.offset(row));
            let to = self.to.wrapping_add(i * stride);
            // SAFETY: the row has `run` elements, `step` apart; its place in scratch has room for its steps.
            unsafe {
                if step == 1 {
                    self.split(s, from, run, to);
                    continue;
                }
                for start in (0..run).step_by(GATHERED) {
                    let n = GATHERED.min(run - start);
                    for (k, x) in buffer[..n].iter_mut().enumerate() {
                        *x = *from.offset((start + k) as isize * step);
                    }
                    let at = steps(start) * self.source.products.row_bytes();
                    self.split(s, buffer.as_ptr(), n, to.add(at));
                }
            }
        }
    }

    /// The input's pixels around the block's lines, zeros in the border.
    #[inline(always)]
    unsafe fn image<S: Simd>(&self, s: S, g: &Geometry) {
        let Image { width, height, pixel } = self.source.image;
        let [d, h, _] = g.output;
        let (n, z, y) = (self.units.start / (d * h), self.units.start / h % d, self.units.start % h);
        let needed = (self.units.len() - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
        for kz in 0..g.kernel[0] {
            let z = g.source(0, z, kz);
            for i in 0..needed {
                let to = self.to.wrapping_add((kz * height + i) * width * pixel);
                let line = (y * g.stride[1] + i).wrapping_sub(g.pad[1]);
                // SAFETY: lines and pixels inside the staged part; input pixels inside the input.
                unsafe {
                    let Some(z) = z.filter(|_| line < g.input[1]) else {
                        std::ptr::write_bytes(to, 0, width * pixel);
                        continue;
                    };
                    let from = self.base.wrapping_offset(
                        n as isize * g.batch_stride
                            + z as isize * g.input_stride[0]
                            + line as isize * g.input_stride[1],
                    );
                    for x in 0..width {
                        let to = to.add(x * pixel);
                        let column = x.wrapping_sub(g.pad[2]);
                        if column < g.input[2] {
                            let from = from.offset(column as isize * g.input_stride[2]);
                            self.split(s, from, self.source.run, to);
                        } else {
                            std::ptr::write_bytes(to, 0, pixel);
                        }
                    }
                }
            }
        }
    }

    /// Whole windows, kernel position by kernel position.
    #[inline(always)]
    unsafe fn windows<S: Simd>(&self, s: S, g: &Geometry) {
        let source = self.source;
        let channels = source.run / g.taps();
        let window = self.to.wrapping_add(source.block * source.unit * source.stride).cast::<T>();
        let first = self.units.start * source.unit;
        let whole = g.dilation[2] == 1 && g.input_stride[2] == channels as isize;
        for row in first..self.units.end * source.unit {
            let (n, o) = g.place(row);
            let mut at = window;
            // SAFETY: the window has room for all taps; input pixels lie inside the input.
            unsafe {
                for kz in 0..g.kernel[0] {
                    let z = g.source(0, o[0], kz);
                    for ky in 0..g.kernel[1] {
                        let y = g.source(1, o[1], ky);
                        let (Some(z), Some(y)) = (z, y) else {
                            std::ptr::write_bytes(at, 0, g.kernel[2] * channels);
                            at = at.add(g.kernel[2] * channels);
                            continue;
                        };
                        let line = self.base.wrapping_offset(
                            n as isize * g.batch_stride
                                + z as isize * g.input_stride[0]
                                + y as isize * g.input_stride[1],
                        );
                        let start = (o[2] * g.stride[2]).wrapping_sub(g.pad[2]);
                        if whole && start < g.input[2] && start + g.kernel[2] <= g.input[2] {
                            let from = line.offset(start as isize * g.input_stride[2]);
                            std::ptr::copy_nonoverlapping(from, at, g.kernel[2] * channels);
                            at = at.add(g.kernel[2] * channels);
                            continue;
                        }
                        for kx in 0..g.kernel[2] {
                            match g.source(2, o[2], kx) {
                                Some(x) => {
                                    let from = line.offset(x as isize * g.input_stride[2]);
                                    std::ptr::copy_nonoverlapping(from, at, channels);
                                }
                                None => std::ptr::write_bytes(at, 0, channels),
                            }
                            at = at.add(channels);
                        }
                    }
                }
                self.split(s, window, source.run, self.to.add((row - first) * source.stride));
            }
        }
    }
}

impl<T: Storage> Task for Stage<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: who makes one vouches for operand and scratch.
        unsafe {
            match &self.source.kind {
                Kind::Rows { rows, step } => self.rows(s, *rows, *step),
                Kind::Image(g) => self.image(s, g),
                Kind::Windows(g) => self.windows(s, g),
            }
        }
    }
}
