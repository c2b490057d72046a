//! The first operand in split form, block by block.

use super::split::{SplitLine, SplitRow, steps};
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
    /// Bytes from one step of a row to the next, and from its hi to its lo.
    pub step: usize,
    pub low: usize,
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
    /// The lines of an image of few channels: a kernel's line is one run of pixels, and rows overlap.
    Lines(Geometry),
    /// Each output pixel's whole window, of few channels, where the kernel's lines are dilated.
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

/// Bytes of two tiles of rows that stay in the nearest cache while a second operand passes through.
const NEAREST_BYTES: usize = 32 << 10;

/// Rows of a block of lines of few channels: so many that their results are near each other and few lines are split twice.
const LINE_ROWS: usize = 512;

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
            step: products.row_bytes(),
            low: 2 * STEP,
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
            Kind::Lines(g) => {
                source.run = g.kernel[2] * channels;
                source.unit = g.output[2];
                source.stride = 2 * g.stride[2] * channels;
                source.step = 2 * STEP;
                // The last row's steps end here; vectors are stored beyond what they hold.
                let last = (g.output[2] - 1) * g.stride[2] * channels;
                source.low = 2 * (last + steps(source.run) * STEP + STEP).next_multiple_of(STEP);
                let line = spread(source.low * products.parts());
                let reach = (g.kernel[1] - 1) * g.dilation[1] + 1;
                source.block = g.output[1].min((LINE_ROWS / source.unit).max(reach));
                let height = (source.block - 1) * g.stride[1] + reach;
                source.image = Image { width: 1, height, pixel: line };
                source.taps = (0..g.kernel[0] * g.kernel[1])
                    .map(|tap| (tap / g.kernel[1] * height + tap % g.kernel[1] * g.dilation[1]) * line)
                    .collect();
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

    /// For a second operand that stays near: blocks become as small as can be, if they are nearer still. Then all of a row's
    /// results are written one after the other.
    pub fn by_rows(&mut self) {
        let bytes = 2 * ROWS * steps(self.run) * self.products.row_bytes();
        if matches!(self.kind, Kind::Rows { .. }) && bytes <= NEAREST_BYTES {
            self.block = 2 * ROWS;
        }
    }

    /// Bytes of scratch of a block.
    pub fn bytes(&self) -> usize {
        if self.direct {
            return 0;
        }
        match self.kind {
            Kind::Image(g) | Kind::Lines(g) => {
                g.kernel[0] * self.image.height * self.image.width * self.image.pixel
            }
            Kind::Rows { .. } => self.block * self.stride,
            // And one window as it is gathered.
            Kind::Windows(_) => self.block * self.unit * self.stride + (self.run * 4).next_multiple_of(64),
        }
    }

    /// How many of the units from `unit` on, `units` of them, form the next block.
    pub fn fit(&self, unit: usize, units: usize) -> usize {
        match self.kind {
            // Lines of one image (and depth): the staged part is one.
            Kind::Image(g) | Kind::Lines(g) => units.min(self.block).min(g.output[1] - unit % g.output[1]),
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
            Kind::Image(g) | Kind::Lines(g) => {
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

    /// Calls `to` with each line of the staged part, where it goes, and where the input's line starts: null in the border.
    #[inline(always)]
    fn staged_lines(&self, g: &Geometry, mut to: impl FnMut(*mut u8, *const T)) {
        let Image { width, height, pixel } = self.source.image;
        let [d, h, _] = g.output;
        let (n, z, y) = (self.units.start / (d * h), self.units.start / h % d, self.units.start % h);
        let needed = (self.units.len() - 1) * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1;
        for kz in 0..g.kernel[0] {
            let z = g.source(0, z, kz);
            for i in 0..needed {
                let line = (y * g.stride[1] + i).wrapping_sub(g.pad[1]);
                let from = z.filter(|_| line < g.input[1]).map_or(std::ptr::null(), |z| {
                    self.base.wrapping_offset(
                        n as isize * g.batch_stride
                            + z as isize * g.input_stride[0]
                            + line as isize * g.input_stride[1],
                    )
                });
                to(self.to.wrapping_add((kz * height + i) * width * pixel), from);
            }
        }
    }

    /// The input's pixels around the block's lines, zeros in the border.
    #[inline(always)]
    unsafe fn image<S: Simd>(&self, s: S, g: &Geometry) {
        let Image { width, pixel, .. } = self.source.image;
        self.staged_lines(g, |to, from| {
            // SAFETY: lines and pixels inside the staged part; input pixels inside the input.
            unsafe {
                if from.is_null() {
                    std::ptr::write_bytes(to, 0, width * pixel);
                    return;
                }
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
        });
    }

    /// The same for lines whose pixels follow each other, hi and lo of a line apart.
    #[inline(always)]
    unsafe fn lines<S: Simd>(&self, s: S, g: &Geometry) {
        let Source { low, products, run, .. } = *self.source;
        let channels = run / g.kernel[2];
        let reached = (g.output[2] - 1) * g.stride[2] + g.kernel[2];
        let columns = g.input[2].min(reached.saturating_sub(g.pad[2]));
        let border = 2 * g.pad[2].min(reached) * channels;
        let end = border + 2 * columns * channels;
        self.staged_lines(g, |to, from| {
            let columns = if from.is_null() { 0 } else { columns };
            let (whole, each) = match g.input_stride[2] == channels as isize {
                true => (1, columns * channels),
                false => (columns, channels),
            };
            // SAFETY: a line has room for the border, the columns and a vector; input pixels lie inside the input.
            unsafe {
                for i in 0..whole {
                    let from = from.wrapping_offset(i as isize * g.input_stride[2]);
                    let to = to.add(border + 2 * i * each);
                    SplitLine { products, from, n: each, to, low }.split(s);
                }
                let filled = if columns == 0 { 0..0 } else { border..end };
                for part in 0..products.parts() {
                    let to = to.add(part * low);
                    std::ptr::write_bytes(to, 0, filled.start);
                    std::ptr::write_bytes(to.add(filled.end), 0, low - filled.end);
                }
            }
        });
    }

    /// Whole windows, kernel position by kernel position.
    #[inline(always)]
    unsafe fn windows<S: Simd>(&self, s: S, g: &Geometry) {
        let source = self.source;
        let channels = source.run / g.taps();
        let window = self.to.wrapping_add(source.block * source.unit * source.stride).cast::<T>();
        let first = self.units.start * source.unit;
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
                Kind::Lines(g) => self.lines(s, g),
                Kind::Windows(g) => self.windows(s, g),
            }
        }
    }
}
