//! How a task computes its outputs: block by block, each of some columns and channels, down the rows.
//!
//! Output pixels whose taps all lie inside the input are computed in strips along the row; those at the left and right border in
//! strips down the column, where neighbours miss the same taps.

use super::kernel::Strip;
use super::narrow::Ring;
use super::{DepthwiseKernel, Set};
use crate::Args;
use crate::cpu::conv::geometry::Geometry;
use crate::cpu::gemm::epilogue::Number;
use crate::cpu::gemm::micro::{prefetch, prefetch_write};
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::gemm::sweep::Finish;
use std::ops::Range;

/// For a kernel position inside the input, distances from the first element of the input's window and of the weights.
pub(super) type Tap = (isize, isize);

/// Output columns and channels that go down the rows together.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub columns: Range<usize>,
    pub channels: Range<usize>,
}

/// One block of one task.
pub(super) struct Walk<'a, E: 'static> {
    pub kernel: &'a DepthwiseKernel<E>,
    pub args: &'a Args<'a>,
    pub finish: &'a Finish<'a, E>,
    pub block: Block,
    /// The input rows and the row of sums of a block whose pixels are not of type `E`.
    ring: Option<Ring<E>>,
}

/// Outputs that are computed by one call: `count` from row `row`, column `x` on, along the row or down the column.
#[derive(Clone, Copy)]
struct Run {
    row: usize,
    x: usize,
    count: usize,
    down: bool,
}

/// The row below a run: its first window's origin, its first output and the distance between outputs.
struct Below<E> {
    x: *const E,
    c: *const E,
    c_step: isize,
}

/// Outputs along one axis whose taps are all inside.
fn inside(g: &Geometry, d: usize) -> Range<usize> {
    let span = (g.kernel[d] - 1) * g.dilation[d];
    let first = g.pad[d].div_ceil(g.stride[d]).min(g.output[d]);
    let last = match (g.input[d] + g.pad[d]).checked_sub(span + 1) {
        Some(room) => (room / g.stride[d] + 1).min(g.output[d]),
        None => 0,
    };
    first..last.max(first)
}

impl<'a, E: Number> Walk<'a, E> {
    /// # Safety
    /// `kept` is 64-byte aligned and holds what [`super::narrow::Narrow::scratch_bytes`] says.
    pub unsafe fn new(
        kernel: &'a DepthwiseKernel<E>,
        args: &'a Args<'a>,
        finish: &'a Finish<'a, E>,
        block: Block,
        kept: *mut u8,
    ) -> Self {
        // SAFETY: by the caller's contract.
        let ring = kernel.narrow.as_ref().map(|n| unsafe { n.ring(&kernel.geometry, &block, kept) });
        Walk { kernel, args, finish, block, ring }
    }

    /// Batch, depth and row of output row `row`.
    fn place(&self, row: usize) -> (usize, usize, usize) {
        let [depths, rows, _] = self.kernel.geometry.output;
        (row / rows / depths, row / rows % depths, row % rows)
    }

    /// Computes the block's outputs of rows `rows`; `room` holds a tap for each kernel position.
    ///
    /// # Safety
    /// See [`crate::Kernel::run`]; the rows belong to this task.
    pub unsafe fn down(mut self, rows: Range<usize>, room: &mut [Tap]) {
        let g = &self.kernel.geometry;
        let (xs, ys) = (inside(g, 2), inside(g, 1));
        let columns = self.block.columns.clone();
        let start = xs.start.clamp(columns.start, columns.end);
        let middle = start..xs.end.clamp(start, columns.end);
        let mut row = rows.start;
        while row < rows.end {
            let (n, z, y) = self.place(row);
            // Rows of one image and depth whose taps are all inside vertically go together.
            let alone = self.ring.is_some() || !ys.contains(&y);
            let run = if alone { 1 } else { (ys.end - y).min(rows.end - row) };
            // SAFETY: the taps of these outputs are inside the input.
            unsafe {
                if let (Some(ring), Some(narrow)) = (&mut self.ring, &self.kernel.narrow) {
                    ring.fill(narrow, g, self.args.inputs[0], (n, z, y));
                }
                for x in (columns.start..middle.start).chain(middle.end..columns.end) {
                    let taps = self.taps((z, y), x, room);
                    self.strip(Run { row, x, count: run, down: true }, taps, false);
                }
                let taps = self.taps((z, y), middle.start, room);
                for r in row..row + run {
                    if !middle.is_empty() {
                        let along = Run { row: r, x: middle.start, count: middle.len(), down: false };
                        self.strip(along, taps, r + 1 < row + run);
                    }
                    self.finish_row(r);
                }
            }
            row += run;
        }
    }

    /// Writes the taps of the outputs at depth `z`, row `y`, column `x`, relative to the input pixel at their (unclipped)
    /// origin; returns those.
    fn taps<'t>(&self, (z, y): (usize, usize), x: usize, taps: &'t mut [Tap]) -> &'t [Tap] {
        let g = &self.kernel.geometry;
        let column = self.ring.as_ref().map_or(g.input_stride[2], |r| r.pitch() as isize);
        let (channels, spread) = (self.kernel.channels as isize, self.kernel.spread);
        let mut count = 0;
        let mut weight = 0;
        for kz in 0..g.kernel[0] {
            for ky in 0..g.kernel[1] {
                let row = match (g.source(0, z, kz), g.source(1, y, ky), &self.ring) {
                    (Some(z), Some(y), Some(ring)) => Some(ring.row(z, y)),
                    (Some(_), Some(_), None) => Some(
                        (kz * g.dilation[0]) as isize * g.input_stride[0]
                            + (ky * g.dilation[1]) as isize * g.input_stride[1],
                    ),
                    _ => None,
                };
                for kx in 0..g.kernel[2] {
                    if let (Some(row), Some(_)) = (row, g.source(2, x, kx)) {
                        let at = row + (kx * g.dilation[2]) as isize * column;
                        // A tap for each input channel where elements are spread over all outputs.
                        let (inputs, distance) = spread.map_or((1, 0), |d| (self.kernel.inputs, d));
                        for i in 0..inputs as isize {
                            taps[count] = (at + i * distance, weight + i * channels);
                            count += 1;
                        }
                    }
                    weight += self.kernel.inputs as isize * channels;
                }
            }
        }
        &taps[..count]
    }

    /// A run, in pieces as long as the kernels take. Where the row below is computed with the same taps (`below`) and lies far, it is
    /// fetched meanwhile.
    ///
    /// # Safety
    /// See [`crate::Kernel::run`]; the taps of these outputs are inside the input.
    unsafe fn strip(&self, run: Run, taps: &[Tap], below: bool) {
        let k = self.kernel;
        let whole = self.whole(run, taps);
        let below = (below && (k.far.input || k.far.output)).then(|| self.below(run));
        let first = self.block.channels.start;
        let pieces = run.count.div_ceil(k.strips.pixels());
        for piece in 0..pieces {
            let (from, to) = (run.count * piece / pieces, run.count * (piece + 1) / pieces);
            if let Some(below) = &below {
                self.fetch(below, from..to);
            }
            let skip = from as isize;
            let mut strip = Strip {
                x: whole.x.wrapping_offset(skip * whole.x_step),
                c: whole.c.wrapping_offset(skip * whole.c_step),
                ..whole
            };
            if !strip.residual.is_null() {
                strip.residual = strip.residual.wrapping_offset(skip * strip.residual_step);
            }
            // SAFETY: by the caller's contract; the instruction set was checked by `build`.
            unsafe {
                match (k.strips, &k.groups) {
                    (Set::Channels(strips) | Set::Few(strips), _) => strips.of[to - from - 1](&strip),
                    (Set::Groups(strips), Some(groups)) => strips.of[to - from - 1](&strip, groups, first),
                    (Set::Groups(_), None) => unreachable!("`build` made the groups"),
                }
            }
        }
    }

    /// All of a run as one strip.
    fn whole<'t>(&self, run: Run, taps: &'t [Tap]) -> Strip<'t, E> {
        let (g, k) = (&self.kernel.geometry, self.kernel);
        let Run { row, x, count, down } = run;
        let Block { channels, .. } = &self.block;
        let width = g.output[2];
        let pixel = row * width + x;
        let next = pixel + if down { width } else { 1 };
        let step = |map: &RowMap| if count > 1 { map.offset(next) - map.offset(pixel) } else { 0 };
        let axis = if down { 1 } else { 2 };
        let first = channels.start;
        // Strips of groups count inputs and weights from the first channel of all.
        let (x_first, w_first) = match k.strips {
            Set::Channels(_) => (first, first),
            Set::Few(_) => (0, first),
            Set::Groups(_) => (0, 0),
        };
        let past = |p: *const E, n: usize| if p.is_null() { p } else { p.wrapping_add(n) };
        let mut strip = Strip {
            taps,
            x: self.origin(row, x).wrapping_add(x_first),
            x_step: g.stride[axis] as isize * g.input_stride[axis],
            w: self.args.inputs[1].cast::<E>().wrapping_add(w_first),
            c: self.args.outputs[0].cast::<E>(),
            c_step: 0,
            bias: past(self.finish.bias, first),
            residual: std::ptr::null(),
            residual_step: 0,
            clip: None,
            channels: channels.len(),
        };
        if let Some(ring) = &self.ring {
            // The sums with their bias, in scratch: the row's pixels side by side.
            strip.x = ring.origin(g, x);
            strip.x_step = (g.stride[2] * ring.pitch()) as isize;
            strip.c = ring.sums(x);
            strip.c_step = channels.len() as isize;
        } else {
            strip.c = strip.c.wrapping_offset(k.out.offset(pixel)).wrapping_add(first);
            strip.c_step = step(&k.out);
            strip.clip = self.finish.clip;
            if !self.finish.residual.is_null() {
                let residual = self.finish.residual.wrapping_offset(k.residual.offset(pixel));
                strip.residual = residual.wrapping_add(first);
                strip.residual_step = step(&k.residual);
            }
        }
        strip
    }

    /// The input pixel at the (unclipped) origin of the output at row `row`, column `x`, its first channel.
    fn origin(&self, row: usize, x: usize) -> *const E {
        let g = &self.kernel.geometry;
        let (n, z, y) = self.place(row);
        let origin =
            |d: usize, o: usize| ((o * g.stride[d]) as isize - g.pad[d] as isize) * g.input_stride[d];
        let at = n as isize * g.batch_stride + origin(0, z) + origin(1, y) + origin(2, x);
        self.args.inputs[0].cast::<E>().wrapping_offset(at)
    }

    /// What the row below a run along the row reads and writes.
    fn below(&self, run: Run) -> Below<E> {
        let (g, k) = (&self.kernel.geometry, self.kernel);
        let first = self.block.channels.start;
        let pixel = (run.row + 1) * g.output[2] + run.x;
        let out = |pixel: usize| k.out.offset(pixel);
        let output = self.args.outputs[0].cast::<E>().cast_const().wrapping_offset(out(pixel));
        Below {
            x: self.origin(run.row + 1, run.x).wrapping_add(first),
            c: output.wrapping_add(first),
            c_step: if run.count > 1 { out(pixel + 1) - out(pixel) } else { 0 },
        }
    }

    /// Fetches what `columns` of the row below read that the row above them did not, and claims where they write.
    fn fetch(&self, below: &Below<E>, columns: Range<usize>) {
        let (g, k) = (&self.kernel.geometry, self.kernel);
        let line = 64 / size_of::<E>();
        let lines = |p: *const E, write: bool| {
            for at in (0..self.block.channels.len()).step_by(line) {
                let p = p.wrapping_add(at);
                if write { prefetch_write(p) } else { prefetch(p) }
            }
        };
        if k.far.input && matches!(k.strips, Set::Channels(_)) {
            // The last tap's rows and columns, and as many before them as a step brings.
            let reach = |d: usize| (g.kernel[d] - 1) * g.dilation[d];
            let new = |d: usize| reach(d) + 1 - g.stride[d].min(reach(d) + 1)..=reach(d);
            for dy in new(1) {
                let row = below.x.wrapping_offset(dy as isize * g.input_stride[1]);
                for x in columns.clone() {
                    for dx in new(2) {
                        lines(
                            row.wrapping_offset((x * g.stride[2] + dx) as isize * g.input_stride[2]),
                            false,
                        );
                    }
                }
            }
        }
        if k.far.output {
            for x in columns {
                lines(below.c.wrapping_offset(x as isize * below.c_step), true);
            }
        }
    }

    /// Applies what the registers did not do to the block's finished columns of row `row`.
    ///
    /// # Safety
    /// See [`crate::Kernel::run`]; the row's values of the block are complete.
    unsafe fn finish_row(&self, row: usize) {
        let k = self.kernel;
        if let (Some(ring), Some(narrow)) = (&self.ring, &k.narrow) {
            // SAFETY: the row's sums are complete.
            return unsafe { self.round_row(ring, narrow, row) };
        }
        let Some(post) = self.finish.post else { return };
        let base = self.args.outputs[0].cast::<E>().cast_const();
        let mut pointers = [std::ptr::null::<E>(); 64];
        let width = k.geometry.output[2];
        let Block { columns, channels } = &self.block;
        let (mut pixel, end) = (row * width + columns.start, row * width + columns.end);
        while pixel < end {
            let n = (end - pixel).min(64);
            // SAFETY: the pixels exist; the row is this task's own.
            unsafe {
                k.out.point(base, pixel, n, pointers.as_mut_ptr());
                let rows = std::slice::from_raw_parts(pointers.as_ptr().cast::<*mut E>(), n);
                post.apply(rows, pixel, channels.start, channels.len());
            }
            pixel += n;
        }
    }
}
