//! Convolutions of 3x3 taps at stride 1 by minimal filtering: fewer multiplications than a sum of products has.
//!
//! The input is cut to overlapping squares, the output to squares of 2x2 or 4x4 pixels ("tiles"). Input squares, filters and results
//! are transformed (`transform.rs`), so that each of the 16 or 36 positions of a square is a plain matrix product of tiles
//! by channels: 2.25 or 4 times fewer multiply-adds than the convolution has, less what squares at the border waste. A block of
//! tiles is transformed to L2, then panel by panel of the filters multiplied and transformed back.
//!
//! Errors stay within those of `f32` sums in the order of their terms, by a small factor (see `transform.rs`), but the terms are
//! others, and an infinity makes NaN of the whole square that reads it: [`Precision::Fp32`] does without.

mod squares;
#[cfg(test)]
mod tests;
mod transform;

use crate::cpu::conv::geometry::{Geometry, geometry};
use crate::cpu::gemm::epilogue::{Finisher, dense_rows, is_type};
use crate::cpu::gemm::grid::tasks_for;
use crate::cpu::gemm::lanes::Elem;
use crate::cpu::gemm::micro::{self, Ahead, Micro, Share, Stream, Tile};
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::gemm::sweep::{Finish, Tiles};
use crate::cpu::pack;
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::tactic::Build;
use crate::{Args, Fit, Isa, Kernel, KernelError, Precision, Problem, Reject, Tactic};
use engraft_network::Op;
use smallvec::SmallVec;
use squares::{Gather, Scatter};
use std::marker::PhantomData;
use std::ops::Range;
use transform::{Form, Four, Two};

/// One form on one micro-kernel set.
pub struct WinogradTactic<F, const M: usize, const T: usize> {
    id: &'static str,
    isa: Isa,
    micro: &'static Micro<f32>,
    packing: &'static str,
    /// Multiply-adds per nanosecond of one thread at best.
    speed: f64,
    form: PhantomData<F>,
}

pub(crate) struct WinogradKernel<F, const M: usize, const T: usize> {
    isa: Isa,
    micro: &'static Micro<f32>,
    geometry: Geometry,
    channels: usize,
    n: usize,
    /// Tiles down and across one image.
    tiles: [usize; 2],
    /// Distances of images, rows and pixels of the result and of the residual.
    out: [isize; 3],
    residual: [isize; 3],
    finisher: Finisher<f32>,
    /// Tiles that are transformed together.
    block: usize,
    split: Split,
    /// Whether the result is too large to lie in a near cache.
    far: bool,
    phases: SmallVec<[usize; 1]>,
    form: PhantomData<F>,
}

/// Columns of one panel of packed filters.
const PANEL: usize = <f32 as Elem>::PANEL;
/// Floats of a cache line.
const LINE: usize = 16;
/// Bytes of transformed input that a block may hold, in L2.
const BLOCK_BYTES: usize = 896 << 10;
/// Tiles of a block, at most.
const MOST_TILES: usize = 96;
/// Products that accumulate in registers.
const PRODUCTS: usize = 768;
/// Bytes of transformed filters, at most: more would come from memory in every run, for squares to wait for.
const MOST_FILTER_BYTES: usize = 12 << 20;
/// Bytes of a result from which on its lines are claimed before they are written.
const FAR_BYTES: usize = 256 << 10;

/// Distance of the positions of one transformed square, in floats: whole lines, and not a multiple of so many that
/// positions collide in one cache set.
fn position_pitch(channels: usize) -> usize {
    let lines = channels.div_ceil(LINE);
    (if lines.is_multiple_of(16) { lines + 1 } else { lines }) * LINE
}

/// An odd number of lines.
fn odd(floats: usize) -> usize {
    (floats.div_ceil(LINE) | 1) * LINE
}

/// How tiles and panels are shared out: `down x across` tasks.
#[derive(Clone, Copy, Debug)]
struct Split {
    down: usize,
    across: usize,
    /// Expected nanoseconds of all on `threads` threads.
    cost: f64,
}

impl Split {
    /// The cheapest split of `tiles x panels`, squares of `positions`, for `threads` threads; `speed` in multiply-adds per
    /// nanosecond, `lanes` per vector.
    fn new(
        (tiles, panels, channels, positions): (usize, usize, usize, usize),
        (block, rows, lanes, speed): (usize, usize, usize, f64),
        tasks: usize,
        threads: usize,
    ) -> Split {
        let slice = (positions * channels * PANEL) as f64;
        let cost = |down: usize, across: usize| {
            let (tiles, panels) = (tiles.div_ceil(down), panels.div_ceil(across));
            let blocks = tiles.div_ceil(block);
            // Calls of few rows do not fill the pipes.
            let height = tiles.div_ceil(blocks * tiles.div_ceil(blocks).div_ceil(rows)) as f64;
            let products = (tiles * panels) as f64 * slice / speed * (1.0 + 1.5 / height);
            // Filters come from afar once per block.
            let bytes = 4.0 * slice * panels as f64;
            let rate = match bytes {
                8e6.. => 12.0,
                1e6.. => 20.0,
                _ => 60.0,
            };
            let filters = bytes * blocks as f64 / rate;
            let vectors = (channels.div_ceil(lanes) as f64, (panels * PANEL.div_ceil(lanes)) as f64);
            let transforms = tiles as f64 * positions as f64 * (4.0 * vectors.0 + 3.5 * vectors.1);
            let rounds = (down * across).div_ceil(threads.max(1));
            rounds as f64 * (products.max(filters) + transforms + 500.0)
        };
        let mut best = Split { down: 1, across: 1, cost: cost(1, 1) };
        if tasks > 1 {
            for across in [1, threads.min(panels)] {
                for down in 1..=tiles.min(4 * threads) {
                    let cost = cost(down, across);
                    if cost < best.cost {
                        best = Split { down, across, cost };
                    }
                }
            }
        }
        best
    }
}

impl<F: Form<M, T>, const M: usize, const T: usize> Build for WinogradTactic<F, M, T> {
    type Kernel = WinogradKernel<F, M, T>;

    fn build(&self, p: &Problem<'_>) -> Result<WinogradKernel<F, M, T>, Reject> {
        let Op::Conv(op) = p.op else { return Err(Reject::new("not a convolution")) };
        if p.precision == Precision::Fp32 {
            return Err(Reject(format!("not for precision {}", Precision::Fp32)));
        }
        if p.isa < self.isa || !self.isa.supported() {
            return Err(Reject::new(format!("needs {}", self.isa)));
        }
        let (x, w, out) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        if [x, w, out].iter().any(|d| !is_type::<f32>(d.dtype)) {
            return Err(Reject::new("another type"));
        }
        if p.inputs[1].constant.is_none() || op.groups != 1 {
            return Err(Reject::new("filters that are not constant, or in groups"));
        }
        let g = geometry(op, x, w, out)?;
        if x.rank() != 4 || g.kernel != [1, 3, 3] || g.stride != [1; 3] || g.dilation != [1; 3] {
            return Err(Reject::new("not 3x3 taps at stride 1"));
        }
        let (channels, n) = (w.shape[w.rank() - 2], w.shape[w.rank() - 1]);
        if channels == 0 {
            return Err(Reject::new("an empty sum"));
        }
        if T * T * pack::packed_len::<f32>(channels, n) * size_of::<f32>() > MOST_FILTER_BYTES {
            return Err(Reject::new("transformed filters that no cache would keep"));
        }
        let empty = out.count() == 0;
        let out_rows = if empty { RowMap::uniform(0, 0) } else { dense_rows(out)? };
        let finisher = Finisher::<f32>::new(&op.epilogue, p.inputs, 2, out, p.isa)?;
        let tiles = [g.output[1].div_ceil(M), g.output[2].div_ceil(M)];
        let rows = if empty { 0 } else { g.batch * tiles[0] * tiles[1] };
        let most = BLOCK_BYTES / (odd(T * T * position_pitch(channels)) * size_of::<f32>());
        let height = self.micro.rows();
        let block = (most / height * height).clamp(height, MOST_TILES / height * height);
        let panels = pack::panels::<f32>(n);
        let flops = 2.0 * (rows * T * T * channels * n) as f64;
        let lanes = self.micro.width / 2;
        let split = Split::new(
            (rows, panels, channels, T * T),
            (block, height, lanes, self.speed),
            tasks_for(flops, p.threads),
            p.threads,
        );
        let mut phases = SmallVec::new();
        if !empty {
            phases.push(split.down * split.across);
        }
        let steps = |map: &RowMap| {
            let [_, h, w] = g.output;
            let to = |there: bool, row: usize| if there { map.offset(row) - map.offset(0) } else { 0 };
            [to(g.batch > 1, h * w), to(h > 1, w), to(w > 1, 1)]
        };
        Ok(WinogradKernel {
            isa: self.isa,
            micro: self.micro,
            channels,
            n,
            tiles,
            out: steps(&out_rows),
            residual: steps(&finisher.residual_rows(out_rows)),
            finisher,
            block: block.min(rows.div_ceil(split.down)).max(1),
            split,
            far: out.dense_bytes() > FAR_BYTES,
            phases,
            geometry: g,
            form: PhantomData,
        })
    }

    fn fit(&self, kernel: &WinogradKernel<F, M, T>, p: &Problem<'_>) -> Result<Fit, Reject> {
        let values = (kernel.geometry.pixels() * kernel.n) as f64;
        let threads = p.threads.min(kernel.phases.first().copied().unwrap_or(1)).max(1) as f64;
        let post = values * (0.05 + kernel.finisher.cost_per_element()) / threads;
        Ok(Fit { cost_ns: 100.0 + kernel.split.cost + post })
    }
}

impl<F: Form<M, T>, const M: usize, const T: usize> Tactic for WinogradTactic<F, M, T> {
    fn id(&self) -> &'static str {
        self.id
    }

    fn packing(&self, p: &Problem<'_>, input: usize) -> Option<&'static str> {
        (input == 1 && p.inputs[1].constant.is_some()).then_some(self.packing)
    }

    fn packed_bytes(&self, p: &Problem<'_>, input: usize) -> usize {
        let shape = &p.inputs[input].desc.shape;
        let (channels, n) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        T * T * pack::packed_len::<f32>(channels, n) * size_of::<f32>()
    }

    /// Panel by panel, position by position: `channels x PANEL` matrices.
    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        let Some(tensor) = p.inputs[input].constant else { return };
        let shape = tensor.shape();
        let (channels, n) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        let weights: &[f32] = bytemuck::cast_slice(tensor.bytes());
        let out: &mut [f32] = bytemuck::cast_slice_mut(out);
        assert_eq!(weights.len(), 9 * channels * n, "filters of another size");
        dispatch(p.isa, Filters::<F, M, T> { weights, channels, n, out, form: PhantomData });
    }

    crate::tactic::built!();
}

/// Transforms filters `[3, 3, channels, n]` to packed panels.
struct Filters<'a, F, const M: usize, const T: usize> {
    weights: &'a [f32],
    channels: usize,
    n: usize,
    out: &'a mut [f32],
    form: PhantomData<F>,
}

impl<F: Form<M, T>, const M: usize, const T: usize> Task for Filters<'_, F, M, T> {
    type Output = ();

    /// Plain code, that the compiler vectorises for the instruction set: every set computes the same bits.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (weights, channels, n) = (self.weights, self.channels, self.n);
        for (panel, out) in self.out.chunks_exact_mut(T * T * channels * PANEL).enumerate() {
            let first = panel * PANEL;
            let cols = PANEL.min(n - first);
            for c in 0..channels {
                let mut taps = [[0f64; PANEL]; 9];
                for (tap, row) in taps.iter_mut().enumerate() {
                    let from = &weights[(tap * channels + c) * n + first..][..cols];
                    row.iter_mut().zip(from).for_each(|(to, from)| *to = f64::from(*from));
                }
                // Down the columns, then along the rows; a whole panel at a time, for the compiler to vectorise.
                let mut columns = [[[0f64; PANEL]; T]; 3];
                for (x, column) in columns.iter_mut().enumerate() {
                    for j in 0..PANEL {
                        let points = F::filter([taps[x][j], taps[3 + x][j], taps[6 + x][j]]);
                        for y in 0..T {
                            column[y][j] = points[y];
                        }
                    }
                }
                for y in 0..T {
                    let mut row = [[0f32; PANEL]; T];
                    for j in 0..PANEL {
                        let points = F::filter(std::array::from_fn(|x| columns[x][y][j]));
                        for x in 0..T {
                            row[x][j] = points[x] as f32;
                        }
                    }
                    for (x, values) in row.iter().enumerate() {
                        out[((y * T + x) * channels + c) * PANEL..][..PANEL].copy_from_slice(values);
                    }
                }
            }
        }
    }
}

/// Parts of a task's scratch.
struct Room {
    zeros: *mut f32,
    squares: *mut f32,
    products: *mut f32,
    a: *mut *const f32,
    c: *mut *mut f32,
    pixels: *mut *mut f32,
    residuals: *mut *const f32,
}

impl<F: Form<M, T>, const M: usize, const T: usize> WinogradKernel<F, M, T> {
    /// Floats of one transformed square of the input, and of one square of products.
    fn pitches(&self) -> (usize, usize) {
        (odd(T * T * position_pitch(self.channels)), odd(T * T * PANEL))
    }

    /// Sizes of the scratch's parts in bytes, in the order of [`Room`].
    fn parts(&self) -> [usize; 7] {
        let (square, product) = self.pitches();
        let (float, pointer) = (size_of::<f32>(), size_of::<usize>());
        let pixels = if self.far { self.block * M * M } else { 0 };
        [
            self.channels * float,
            self.block * square * float,
            self.block * product * float,
            self.block * pointer,
            self.block * pointer,
            pixels * pointer,
            pixels * pointer,
        ]
        .map(|bytes| bytes.next_multiple_of(64))
    }

    fn room(&self, scratch: *mut u8) -> Room {
        let mut at = scratch;
        let [zeros, squares, products, a, c, pixels, residuals] = self.parts().map(|bytes| {
            let part = at;
            at = at.wrapping_add(bytes);
            part
        });
        Room {
            zeros: zeros.cast(),
            squares: squares.cast(),
            products: products.cast(),
            a: a.cast(),
            c: c.cast(),
            pixels: pixels.cast(),
            residuals: residuals.cast(),
        }
    }

    /// Image, and first output row and column of a tile.
    fn place(&self, tile: usize) -> (usize, usize, usize) {
        let [down, across] = self.tiles;
        (tile / (down * across), tile / across % down * M, tile % across * M)
    }

    /// Writes the addresses of all pixels of tiles `tiles` to `to` (those outside of the image left out); returns how many.
    ///
    /// # Safety
    /// `to` is writable for `M * M` pointers a tile.
    unsafe fn pixels<P>(
        &self,
        tiles: Range<usize>,
        base: *const f32,
        steps: [isize; 3],
        to: *mut *const P,
    ) -> usize {
        let [_, h, w] = self.geometry.output;
        let mut count = 0;
        for tile in tiles {
            let (n, y, x) = self.place(tile);
            for y in y..h.min(y + M) {
                for x in x..w.min(x + M) {
                    let at = n as isize * steps[0] + y as isize * steps[1] + x as isize * steps[2];
                    // SAFETY: one pointer a pixel.
                    unsafe { to.add(count).write(base.wrapping_offset(at).cast()) };
                    count += 1;
                }
            }
        }
        count
    }

    /// Multiplies the transformed squares of `count` tiles by the filters of one panel.
    ///
    /// # Safety
    /// The room's squares and tables are filled for `count` tiles; `b` is the panel.
    unsafe fn multiply(
        &self,
        count: usize,
        b: *const f32,
        cols: usize,
        room: &Room,
        ahead: &mut dyn FnMut() -> Ahead<f32>,
    ) {
        let tiles = Tiles::new(count, self.micro.rows());
        let (pitch, width) = (position_pitch(self.channels), self.micro.width);
        let steps = self.channels.div_ceil(self.channels.div_ceil(PRODUCTS));
        for position in 0..T * T {
            for k in (0..self.channels).step_by(steps) {
                let run = steps.min(self.channels - k);
                let share = Share::new(run * PANEL * size_of::<f32>(), tiles.count, run);
                for col in (0..cols).step_by(width) {
                    for t in 0..tiles.count {
                        let (at, height) = tiles.tile(t);
                        // SAFETY: tables hold `count` rows; the panel has a matrix for each position.
                        unsafe {
                            let slice = b.add((position * self.channels + k) * PANEL);
                            let cols = width.min(cols - col);
                            let tile = Tile {
                                a: room.a.add(at).cast_const(),
                                a_step: 0,
                                taps: 1,
                                offset: position * pitch + k,
                                run,
                                b: slice.add(col),
                                c: room.c.add(at).cast_const(),
                                col: position * PANEL + col,
                                cols,
                                accumulate: k > 0,
                                bias: std::ptr::null(),
                                residual: std::ptr::null(),
                                clip: None,
                                fetch: share.of(slice.wrapping_add(run * PANEL), t),
                                claim: Stream::none(),
                                ahead: ahead(),
                            };
                            self.micro.kernel(height, cols)(&tile);
                        }
                    }
                }
            }
        }
    }

    /// Tiles `tiles`, panels `panels`.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn compute(
        &self,
        tiles: Range<usize>,
        panels: Range<usize>,
        args: &Args<'_>,
        finish: &Finish<'_, f32>,
        room: &Room,
    ) {
        let (square, product) = self.pitches();
        let out = args.outputs[0].cast::<f32>();
        let blocks = tiles.len().div_ceil(self.block);
        // SAFETY: by the caller's contract, and the room is as large as `parts` says.
        unsafe {
            std::ptr::write_bytes(room.zeros, 0, self.channels);
            for i in 0..self.block {
                room.a.add(i).write(room.squares.add(i * square));
                room.c.add(i).write(room.products.add(i * product));
            }
            for block in 0..blocks {
                let at = |block: usize| tiles.start + tiles.len() * block / blocks;
                let block = at(block)..at(block + 1);
                let count = block.len();
                dispatch(
                    self.isa,
                    Gather { kernel: self, x: args.inputs[0].cast(), tiles: block.clone(), room },
                );
                let residual = !finish.residual.is_null();
                let mut pixels = 0;
                if self.far {
                    pixels = self.pixels(block.clone(), out, self.out, room.pixels.cast::<*const f32>());
                    if residual {
                        self.pixels(block.clone(), finish.residual, self.residual, room.residuals);
                    }
                }
                for panel in panels.clone() {
                    let col = panel * PANEL;
                    let cols = (self.n - col).min(PANEL);
                    let padded = cols.next_multiple_of(self.micro.width / 2);
                    let b = args.inputs[1].cast::<f32>().add(panel * T * T * self.channels * PANEL);
                    let mut claimed = 0;
                    self.multiply(count, b, padded, room, &mut || {
                        let mut ahead = Ahead::none();
                        if claimed < pixels {
                            let rows = self.micro.rows().min(pixels - claimed);
                            (ahead.rows, ahead.col) = (rows, col);
                            ahead.c = room.pixels.add(claimed).cast_const();
                            if residual {
                                ahead.residual = room.residuals.add(claimed).cast_const();
                            }
                            claimed += rows;
                        }
                        ahead
                    });
                    dispatch(
                        self.isa,
                        Scatter { kernel: self, out, tiles: block.clone(), col, cols, finish, room },
                    );
                }
            }
        }
    }
}

impl<F: Form<M, T>, const M: usize, const T: usize> Kernel for WinogradKernel<F, M, T> {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.finisher.scratch_bytes().next_multiple_of(64) + self.parts().iter().sum::<usize>()
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (i, j) = (task / self.split.across, task % self.split.across);
        let share = |all: usize, i: usize, of: usize| all * i / of..all * (i + 1) / of;
        let tiles = share(self.geometry.batch * self.tiles[0] * self.tiles[1], i, self.split.down);
        let panels = share(pack::panels::<f32>(self.n), j, self.split.across);
        let room = self.room(args.scratch.wrapping_add(self.finisher.scratch_bytes().next_multiple_of(64)));
        // SAFETY: operands are as the problem said; the scratch has the parts.
        unsafe {
            self.finisher
                .with(args, 0, args.scratch, |finish| self.compute(tiles, panels, args, finish, &room));
        }
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        self.finisher.in_place(input)
    }
}

/// The family's rows of the catalog.
pub fn tactics() -> Vec<&'static dyn Tactic> {
    macro_rules! rows {
        ($($form:ident, $m:literal, $t:literal, $id:literal, $isa:ident, $micro:ident, $packing:literal, $speed:literal;)*) => {
            vec![$({
                static ROW: WinogradTactic<$form, $m, $t> = WinogradTactic {
                    id: $id, isa: Isa::$isa, micro: &micro::$micro, packing: $packing, speed: $speed, form: PhantomData,
                };
                &ROW as &dyn Tactic
            }),*]
        };
    }
    #[cfg(target_arch = "x86_64")]
    let mut all: Vec<&'static dyn Tactic> = rows! {
        Four, 4, 6, "winograd4.f32.avx512", Avx512, F32_AVX512, "winograd4.f32", 55.0;
        Two, 2, 4, "winograd2.f32.avx512", Avx512, F32_AVX512, "winograd2.f32", 55.0;
        Four, 4, 6, "winograd4.f32.avx2", Avx2, F32_AVX2, "winograd4.f32", 48.0;
        Two, 2, 4, "winograd2.f32.avx2", Avx2, F32_AVX2, "winograd2.f32", 48.0;
    };
    #[cfg(not(target_arch = "x86_64"))]
    let mut all: Vec<&'static dyn Tactic> = Vec::new();
    all.extend(rows! {
        Four, 4, 6, "winograd4.f32.portable", Portable, F32_PORTABLE, "winograd4.f32", 15.0;
        Two, 2, 4, "winograd2.f32.portable", Portable, F32_PORTABLE, "winograd2.f32", 15.0;
    });
    all
}
