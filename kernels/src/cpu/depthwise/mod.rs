//! Convolutions of one channel per group (depthwise) or of few, over channels-last activations, vectorised over output channels.
//!
//! Weights are read as they are, `[kernel.., inputs of a group, channels]`; those of bf16 are packed as `f32`. Output pixels whose taps all lie inside the input are computed
//! in strips along the row; pixels at the left and right border in strips down the column, where neighbours miss the
//! same taps. Pixels of bf16 are widened where they are read; a row of results is finished in scratch and then rounded.

mod groups;
mod kernel;
mod narrow;

use crate::cpu::conv::geometry::{self, Geometry};
use crate::cpu::gemm::epilogue::{Finisher, Number, dense_rows};
use crate::cpu::gemm::grid::tasks_for;
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::gemm::sweep::Finish;
use crate::tactic::Build;
use crate::{Args, Fit, Isa, Kernel, KernelError, Problem, Reach, Reject, Tactic};
use engraft_network::{DType, Op};
use groups::{GroupStrips, Groups};
use half::bf16;
use kernel::{Strip, Strips};
use narrow::{Rounding, Stored};
use smallvec::SmallVec;
use std::ops::Range;

/// One kernel set: pixels of type `X`, computed in `E`.
pub struct DepthwiseTactic<E: 'static, X: 'static = E> {
    id: &'static str,
    isa: Isa,
    strips: Set<E, X>,
    /// Multiply-adds per nanosecond of one thread.
    speed: f64,
}

/// Kernels of one instruction set.
#[derive(Clone, Copy, Debug)]
enum Set<E: 'static, X: 'static> {
    /// One channel per group.
    Channels(&'static Strips<E, X>),
    /// More.
    Groups(&'static GroupStrips<E, X>),
}

impl<E, X> Set<E, X> {
    fn lanes(&self) -> usize {
        match self {
            Set::Channels(s) => s.lanes,
            Set::Groups(s) => s.lanes,
        }
    }

    /// Most pixels of one call.
    fn pixels(&self) -> usize {
        match self {
            Set::Channels(s) => s.of.len(),
            Set::Groups(s) => s.of.len(),
        }
    }
}

pub(crate) struct DepthwiseKernel<E: 'static, X: 'static = E> {
    strips: Set<E, X>,
    /// Of [`Set::Groups`].
    groups: Option<Groups>,
    geometry: Geometry,
    out: RowMap,
    residual: RowMap,
    finisher: Finisher<E>,
    /// Output channels, and input channels of one group.
    channels: usize,
    inputs: usize,
    /// Output rows (of all images and depths) of one band, and bands.
    band: usize,
    /// Channels of one task.
    slice: usize,
    /// Channels that go through the band together: as many as keep the rows under a kernel in L1.
    chunk: usize,
    /// How rows of results that are not of type `E` are finished.
    rounding: Option<Rounding>,
    phases: SmallVec<[usize; 1]>,
}

/// Bytes of input that one band of rows should stay within.
const BAND_BYTES: usize = 256 << 10;
/// Bytes of the input rows under one kernel row that should stay in L1.
const L1_BYTES: usize = 24 << 10;

impl<E: Number, X: Stored<E>> Build for DepthwiseTactic<E, X> {
    type Kernel = DepthwiseKernel<E, X>;

    fn build(&self, p: &Problem<'_>) -> Result<DepthwiseKernel<E, X>, Reject> {
        let Op::Conv(op) = p.op else { return Err(Reject::new("not a convolution")) };
        let (x, w, out) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        let channels = w.shape[w.rank() - 1];
        let inputs = w.shape[w.rank() - 2];
        let depthwise = op.groups == channels && inputs == 1;
        match self.strips {
            Set::Channels(_) if !depthwise => return Err(Reject::new("not one channel per group")),
            Set::Groups(_) if depthwise || op.groups < 2 || channels * inputs == 0 => {
                return Err(Reject::new("not several groups of several channels"));
            }
            _ => {}
        }
        if p.isa < self.isa || !self.isa.supported() {
            return Err(Reject::new(format!("needs {}", self.isa)));
        }
        let lanes = self.strips.lanes();
        let groups = match self.strips {
            Set::Channels(_) => None,
            Set::Groups(_) => Some(Groups::new(op.groups, inputs, channels / op.groups, lanes)?),
        };
        if [x, w, out].iter().any(|d| !X::is(d.dtype)) {
            return Err(Reject::new("another type"));
        }
        if X::ROUNDED && p.inputs[1].constant.is_none() {
            return Err(Reject::new("weights that are not constant"));
        }
        if !w.is_dense() {
            return Err(Reject::new("weights at strides"));
        }
        let g = geometry::geometry(op, x, w, out)?;
        let empty = out.count() == 0;
        let out_rows = if empty { RowMap::uniform(0, 0) } else { dense_rows(out)? };
        let finisher = X::finisher(&op.epilogue, p.inputs, out, p.isa)?;
        let residual = finisher.residual_rows(out_rows);
        let rows = g.batch * g.output[0] * g.output[1];
        let flops = 2.0 * (out.count() * g.taps() * inputs) as f64;
        let tasks = tasks_for(flops * 2.0, p.threads);
        let all_inputs = op.groups * inputs;
        let row_bytes = (g.input[2] * all_inputs * g.stride[1] * size_of::<X>()).max(1);
        let halo = (g.kernel[1] - 1) * g.dilation[1] / g.stride[1];
        let fits = (BAND_BYTES / row_bytes).saturating_sub(halo).max(2);
        // Rows first; channels only where there are too few rows.
        let down = tasks.min(rows.max(1));
        let across = (tasks / down).clamp(1, channels.div_ceil(lanes * 2).max(1));
        let slice = channels.div_ceil(across).next_multiple_of(lanes);
        let slices = channels.div_ceil(slice.max(1));
        let band = rows.div_ceil(down).min(fits).max(1);
        // Of the inputs of one output channel.
        let lines = g.input[2] * g.kernel[1] * size_of::<X>() * all_inputs / channels.max(1);
        let chunk = (L1_BYTES / lines.max(1) / lanes).max(1) * lanes;
        let mut phases = SmallVec::new();
        if !empty {
            phases.push(rows.div_ceil(band) * slices);
        }
        Ok(DepthwiseKernel {
            strips: self.strips,
            groups,
            geometry: g,
            out: out_rows,
            residual,
            channels,
            inputs,
            band,
            slice,
            chunk,
            rounding: X::ROUNDED
                .then(|| Rounding { isa: p.isa, narrow_residual: finisher.narrow_residual() }),
            finisher,
            phases,
        })
    }

    fn fit(&self, kernel: &DepthwiseKernel<E, X>, p: &Problem<'_>) -> Result<Fit, Reject> {
        let outputs = (kernel.geometry.pixels() * kernel.channels) as f64;
        let lanes = self.strips.lanes() as f64;
        let wasted = (kernel.channels as f64 / lanes).ceil() * lanes / kernel.channels.max(1) as f64;
        // Inputs that need not be picked lane by lane cost no port of the multiply-adds.
        let wide = kernel.groups.as_ref().is_some_and(Groups::is_wide);
        let speed = if wide { 1.5 * self.speed } else { self.speed };
        let work = outputs * (kernel.geometry.taps() * kernel.inputs) as f64 * wasted / speed;
        let post = outputs * (0.05 + kernel.finisher.cost_per_element());
        let threads = p.threads.min(kernel.phases.first().copied().unwrap_or(1)).max(1) as f64;
        Ok(Fit { cost_ns: 100.0 + (work + post) / threads })
    }
}

impl<E: Number, X: Stored<E>> Tactic for DepthwiseTactic<E, X> {
    fn id(&self) -> &'static str {
        self.id
    }

    fn computes(&self) -> Option<DType> {
        (!X::ROUNDED).then_some(E::DTYPE)
    }

    fn packing(&self, p: &Problem<'_>, input: usize) -> Option<&'static str> {
        (X::ROUNDED && input == 1 && p.inputs[1].constant.is_some()).then_some("widened")
    }

    fn packed_bytes(&self, p: &Problem<'_>, _input: usize) -> usize {
        p.inputs[1].desc.count() * size_of::<E>()
    }

    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        if let Some(tensor) = p.inputs[input].constant {
            X::widen(tensor.bytes(), out);
        }
    }

    crate::tactic::built!();
}

/// For a kernel position inside the input, distances from the first element of the input's window and of the weights.
type Tap = (isize, isize);

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

impl<E: Number, X: Stored<E>> DepthwiseKernel<E, X> {
    /// Writes the taps of the outputs at depth `z`, row `y`, column `x`, relative to the input pixel at their (unclipped)
    /// origin; returns those.
    fn taps<'t>(&self, z: usize, y: usize, x: usize, taps: &'t mut [Tap]) -> &'t [Tap] {
        let g = &self.geometry;
        let mut count = 0;
        let mut weight = 0;
        for kz in 0..g.kernel[0] {
            for ky in 0..g.kernel[1] {
                let row = g.source(0, z, kz).is_some() && g.source(1, y, ky).is_some();
                for kx in 0..g.kernel[2] {
                    if row && g.source(2, x, kx).is_some() {
                        let [dz, dy, dx] = g.dilation;
                        let at = (kz * dz) as isize * g.input_stride[0]
                            + (ky * dy) as isize * g.input_stride[1]
                            + (kx * dx) as isize * g.input_stride[2];
                        taps[count] = (at, weight);
                        count += 1;
                    }
                    weight += (self.inputs * self.channels) as isize;
                }
            }
        }
        &taps[..count]
    }

    fn tap_bytes(&self) -> usize {
        (self.geometry.taps() * size_of::<Tap>()).next_multiple_of(64)
    }

    /// Computes `count` outputs from row `row`, column `x` on, along the row or (`down`) the column; all have the taps.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn strip(
        &self,
        (row, x, count, down): (usize, usize, usize, bool),
        taps: &[Tap],
        channels: &Range<usize>,
        args: &Args<'_>,
        finish: &Finish<'_, E>,
        kept: *mut E,
    ) {
        let g = &self.geometry;
        let width = g.output[2];
        let (y, z, n) = (row % g.output[1], row / g.output[1] % g.output[0], row / g.output[1] / g.output[0]);
        let origin = |d: usize, o: usize| (o * g.stride[d]) as isize - g.pad[d] as isize;
        let at = n as isize * g.batch_stride
            + origin(0, z) * g.input_stride[0]
            + origin(1, y) * g.input_stride[1]
            + origin(2, x) * g.input_stride[2];
        let axis = if down { 1 } else { 2 };
        let x_step = g.stride[axis] as isize * g.input_stride[axis];
        let pixel = row * width + x;
        let next = pixel + if down { width } else { 1 };
        let step = |map: &RowMap| if count > 1 { map.offset(next) - map.offset(pixel) } else { 0 };
        let mut strip = Strip {
            taps,
            x: args.inputs[0].cast::<X>().wrapping_offset(at),
            x_step,
            w: args.inputs[1].cast::<E>(),
            c: args.outputs[0].cast::<E>().wrapping_offset(self.out.offset(pixel)),
            c_step: step(&self.out),
            bias: finish.bias,
            residual: finish.residual,
            residual_step: 0,
            clip: finish.clip,
            channels: channels.len(),
        };
        if self.rounding.is_some() {
            // The sums with their bias, in scratch: the row's pixels side by side.
            strip.c = kept.wrapping_add(x * channels.len()).wrapping_sub(channels.start);
            strip.c_step = channels.len() as isize;
            (strip.residual, strip.clip) = (std::ptr::null(), None);
        } else if !finish.residual.is_null() {
            strip.residual = finish.residual.wrapping_offset(self.residual.offset(pixel));
            strip.residual_step = step(&self.residual);
        }
        let pieces = count.div_ceil(self.strips.pixels());
        for piece in 0..pieces {
            let (from, to) = (count * piece / pieces, count * (piece + 1) / pieces);
            let skip = from as isize;
            let shift = |p: *const E, step: isize| {
                if p.is_null() { p } else { p.wrapping_offset(skip * step).wrapping_add(channels.start) }
            };
            let mut part = Strip {
                x: strip.x.wrapping_offset(skip * strip.x_step),
                c: strip.c.wrapping_offset(skip * strip.c_step).wrapping_add(channels.start),
                bias: shift(strip.bias, 0),
                residual: shift(strip.residual, strip.residual_step),
                ..strip
            };
            // SAFETY: the taps of these outputs are inside the input; the instruction set was checked by `build`.
            unsafe {
                match (self.strips, &self.groups) {
                    (Set::Channels(strips), _) => {
                        part.x = part.x.wrapping_add(channels.start);
                        part.w = part.w.wrapping_add(channels.start);
                        strips.of[to - from - 1](&part);
                    }
                    (Set::Groups(strips), Some(groups)) => {
                        strips.of[to - from - 1](&part, groups, channels.start);
                    }
                    (Set::Groups(_), None) => unreachable!("`build` made the groups"),
                }
            }
        }
    }

    /// Applies what the registers did not do to the finished row `row`.
    ///
    /// # Safety
    /// See [`Kernel::run`]; the row's values of these channels are complete.
    unsafe fn finish_row(
        &self,
        row: usize,
        channels: &Range<usize>,
        args: &Args<'_>,
        finish: &Finish<'_, E>,
        kept: *mut E,
    ) {
        if let Some(rounding) = &self.rounding {
            // SAFETY: the row's sums are kept.
            return unsafe { self.round_row(rounding, row, channels, args, finish, kept) };
        }
        let Some(post) = finish.post else { return };
        let base = args.outputs[0].cast::<E>().cast_const();
        let mut pointers = [std::ptr::null::<E>(); 64];
        let width = self.geometry.output[2];
        let (mut pixel, end) = (row * width, (row + 1) * width);
        while pixel < end {
            let n = (end - pixel).min(64);
            // SAFETY: the pixels exist; the row is this task's own.
            unsafe {
                self.out.point(base, pixel, n, pointers.as_mut_ptr());
                let rows = std::slice::from_raw_parts(pointers.as_ptr().cast::<*mut E>(), n);
                post.apply(rows, pixel, channels.start, channels.len());
            }
            pixel += n;
        }
    }
}

impl<E: Number, X: Stored<E>> Kernel for DepthwiseKernel<E, X> {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.tap_bytes() + self.finisher.scratch_bytes().next_multiple_of(64) + self.kept_bytes()
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let g = &self.geometry;
        let total = g.batch * g.output[0] * g.output[1];
        let bands = total.div_ceil(self.band);
        let (first, slice) = (task % bands * self.band, task / bands);
        let last = (first + self.band).min(total);
        let all = slice * self.slice..self.channels.min((slice + 1) * self.slice);
        let (xs, ys) = (inside(g, 2), inside(g, 1));
        let width = g.output[2];
        // SAFETY: every output of the band and the slice is computed once, from taps inside the input.
        unsafe {
            let room = args.scratch.cast::<Tap>();
            room.write_bytes(0, g.taps());
            let room = std::slice::from_raw_parts_mut(room, g.taps());
            let after = self.tap_bytes() + self.finisher.scratch_bytes().next_multiple_of(64);
            let kept = args.scratch.add(after).cast::<E>();
            self.finisher.with(args, 0, args.scratch.add(self.tap_bytes()), |finish| {
                for c in all.clone().step_by(self.chunk) {
                    let channels = c..all.end.min(c + self.chunk);
                    let mut row = first;
                    while row < last {
                        let (y, z) = (row % g.output[1], row / g.output[1] % g.output[0]);
                        // Rows of one image and depth whose taps are all inside vertically go together.
                        let alone = self.rounding.is_some() || !ys.contains(&y);
                        let run = if alone { 1 } else { (ys.end - y).min(last - row) };
                        for x in (0..xs.start).chain(xs.end..width) {
                            let taps = self.taps(z, y, x, room);
                            self.strip((row, x, run, true), taps, &channels, args, finish, kept);
                        }
                        let taps = self.taps(z, y, xs.start, room);
                        for r in row..row + run {
                            if !xs.is_empty() {
                                let inside = (r, xs.start, xs.len(), false);
                                self.strip(inside, taps, &channels, args, finish, kept);
                            }
                            self.finish_row(r, &channels, args, finish, kept);
                        }
                        row += run;
                    }
                }
            });
        }
        Ok(())
    }

    fn reach(&self, task: usize) -> Option<Reach> {
        if self.slice < self.channels {
            return None;
        }
        let (g, width) = (&self.geometry, self.geometry.output[2]);
        let rows = g.batch * g.output[0] * g.output[1];
        let writes = task * self.band * width..((task + 1) * self.band).min(rows) * width;
        Some(Reach { reads: g.window(writes.clone()), complete: writes.end, writes })
    }

    fn in_place(&self, input: usize) -> bool {
        self.finisher.in_place(input)
    }
}

macro_rules! rows {
    ($($t:ty, $x:ty, $id:literal, $isa:ident, $set:ident, $strips:expr, $speed:literal;)*) => {
        &[$(&DepthwiseTactic::<$t, $x> { id: $id, isa: Isa::$isa, strips: Set::$set(&$strips), speed: $speed }),*]
    };
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    #[cfg(target_arch = "x86_64")]
    static X86: &[&dyn Tactic] = rows! {
        f32, f32, "depthwise.f32.avx512", Avx512, Channels, kernel::F32_AVX512, 30.0;
        f32, f32, "depthwise.f32.avx2", Avx2, Channels, kernel::F32_AVX2, 25.0;
        f32, bf16, "depthwise.bf16.avx512", Avx512, Channels, kernel::BF16_AVX512, 30.0;
        f32, bf16, "depthwise.bf16.avx2", Avx2, Channels, kernel::BF16_AVX2, 20.0;
        f32, f32, "conv.groups.f32.avx512", Avx512, Groups, groups::F32_AVX512, 28.0;
        f32, f32, "conv.groups.f32.avx2", Avx2, Groups, groups::F32_AVX2, 16.0;
        f64, f64, "depthwise.f64.avx512", Avx512, Channels, kernel::F64_AVX512, 14.0;
        f64, f64, "depthwise.f64.avx2", Avx2, Channels, kernel::F64_AVX2, 12.0;
        i32, i32, "depthwise.i32.avx512", Avx512, Channels, kernel::I32_AVX512, 15.0;
        i32, i32, "depthwise.i32.avx2", Avx2, Channels, kernel::I32_AVX2, 12.0;
    };
    static PORTABLE: &[&dyn Tactic] = rows! {
        f32, f32, "depthwise.f32.portable", Portable, Channels, kernel::F32_PORTABLE, 10.0;
        f32, bf16, "depthwise.bf16.portable", Portable, Channels, kernel::BF16_PORTABLE, 5.0;
        f32, f32, "conv.groups.f32.portable", Portable, Groups, groups::F32_PORTABLE, 4.0;
        f64, f64, "depthwise.f64.portable", Portable, Channels, kernel::F64_PORTABLE, 5.0;
        i32, i32, "depthwise.i32.portable", Portable, Channels, kernel::I32_PORTABLE, 5.0;
    };
    static ALL: std::sync::OnceLock<Vec<&'static dyn Tactic>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| {
        let mut all: Vec<&'static dyn Tactic> = Vec::new();
        #[cfg(target_arch = "x86_64")]
        all.extend_from_slice(X86);
        all.extend_from_slice(PORTABLE);
        all
    })
}
