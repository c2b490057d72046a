//! Convolutions of one channel per group (depthwise), of few, or of few input channels at all, vectorised over output channels.
//!
//! Activations are channels-last; the few input channels of an ungrouped convolution, an image's colours, may lie in planes.
//!
//! Weights are read as they are, `[kernel.., inputs of a group, channels]`; those of bf16 are packed as `f32`. A task computes some
//! rows, block by block (`walk.rs`). Rows of bf16 are widened once, into a ring of the rows under a kernel, and a row of results is
//! finished in scratch and then rounded (`narrow.rs`).

mod groups;
mod kernel;
mod narrow;
#[cfg(test)]
mod tests;
mod walk;

use crate::cpu::conv::geometry::{self, Geometry};
use crate::cpu::gemm::epilogue::{Finisher, Number, dense_rows};
use crate::cpu::gemm::grid::tasks_for;
use crate::cpu::gemm::rows::RowMap;
use crate::tactic::Build;
use crate::{Args, Fit, Isa, Kernel, KernelError, Problem, Reach, Reject, Tactic};
use engraft_network::{DType, Op};
use groups::{GroupStrips, Groups};
use half::bf16;
use kernel::Strips;
use narrow::{Narrow, Stored};
use smallvec::SmallVec;
use std::marker::PhantomData;
use walk::{Block, Tap, Walk};

/// One kernel set: pixels of type `X`, computed in `E`.
pub struct DepthwiseTactic<E: 'static, X: 'static = E> {
    id: &'static str,
    isa: Isa,
    strips: Set<E>,
    /// Multiply-adds per nanosecond of one thread.
    speed: f64,
    pixels: PhantomData<fn() -> X>,
}

/// Kernels of one instruction set.
#[derive(Clone, Copy, Debug)]
enum Set<E: 'static> {
    /// One channel per group.
    Channels(&'static Strips<E>),
    /// More.
    Groups(&'static GroupStrips<E>),
    /// One group of few input channels.
    Few(&'static Strips<E>),
}

impl<E> Set<E> {
    fn lanes(&self) -> usize {
        match self {
            Set::Channels(s) | Set::Few(s) => s.lanes,
            Set::Groups(s) => s.lanes,
        }
    }

    /// Most pixels of one call.
    fn pixels(&self) -> usize {
        match self {
            Set::Channels(s) | Set::Few(s) => s.of.len(),
            Set::Groups(s) => s.of.len(),
        }
    }
}

pub(crate) struct DepthwiseKernel<E: 'static> {
    strips: Set<E>,
    /// Of [`Set::Groups`].
    groups: Option<Groups>,
    geometry: Geometry,
    out: RowMap,
    residual: RowMap,
    finisher: Finisher<E>,
    /// Output channels, and input channels of one group.
    channels: usize,
    inputs: usize,
    /// Of [`Set::Few`], the distance between input channels.
    spread: Option<isize>,
    /// Output rows (of all images and depths) of one band, and bands.
    band: usize,
    /// Channels of one task.
    slice: usize,
    /// Channels and output columns of one block.
    chunk: usize,
    columns: usize,
    /// Whether what a thread reads, or writes, is more than its own cache keeps from the layer before, or for the next.
    far: Far,
    /// How pixels that are not of type `E` are read and written.
    narrow: Option<Narrow>,
    phases: SmallVec<[usize; 1]>,
}

/// What lies beyond a core's own cache.
#[derive(Clone, Copy, Debug)]
struct Far {
    input: bool,
    output: bool,
}

/// Input channels that are few.
const FEW: usize = 4;
/// Bytes of input that one band of rows should stay within.
const BAND_BYTES: usize = 256 << 10;
/// Bytes of the input rows under one kernel row that should stay in L1.
const L1_BYTES: usize = 24 << 10;
/// Bytes of neighbouring channels from which on memory delivers at full speed: a block has no fewer for the sake of width.
const RUN_BYTES: usize = 256;
/// Bytes of an image that a core's own cache holds beside others.
const NEAR_BYTES: usize = 1 << 20;

impl<E: Number, X: Stored<E>> Build for DepthwiseTactic<E, X> {
    type Kernel = DepthwiseKernel<E>;

    fn build(&self, p: &Problem<'_>) -> Result<DepthwiseKernel<E>, Reject> {
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
            Set::Few(_) if depthwise || op.groups != 1 || !(1..=FEW).contains(&inputs) => {
                return Err(Reject::new("not one group of few input channels"));
            }
            _ => {}
        }
        if p.isa < self.isa || !self.isa.supported() {
            return Err(Reject::new(format!("needs {}", self.isa)));
        }
        let lanes = self.strips.lanes();
        let groups = match self.strips {
            Set::Channels(_) | Set::Few(_) => None,
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
        let g = match self.strips {
            Set::Few(_) => geometry::strided(op, x, w, out)?,
            _ => geometry::geometry(op, x, w, out)?,
        };
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
        let (chunk, columns) = block_size(&g, lanes, self.strips.pixels(), slice, |outputs| {
            // Of the inputs of that many output channels; all want the same ones where there is one group.
            let inputs = match self.strips {
                Set::Few(_) => all_inputs.div_ceil(slice.div_ceil(lanes).max(1)),
                _ => (outputs * all_inputs).div_ceil(channels.max(1)),
            };
            inputs * size_of::<E>()
        });
        let share =
            |rows: usize, channels: usize| rows * channels * size_of::<X>() > NEAR_BYTES * p.threads.max(1);
        let far = Far {
            input: share(g.batch * g.input.iter().product::<usize>(), all_inputs),
            output: share(g.pixels(), channels),
        };
        let narrow = X::ROUNDED.then(|| Narrow::new(&g, p.isa, finisher.narrow_residual(), chunk, columns));
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
            spread: matches!(self.strips, Set::Few(_)).then_some(x.strides[x.rank() - 1]),
            band,
            slice,
            chunk,
            columns,
            far,
            narrow,
            finisher,
            phases,
        })
    }

    fn fit(&self, kernel: &DepthwiseKernel<E>, p: &Problem<'_>) -> Result<Fit, Reject> {
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

    fn version(&self) -> u32 {
        2
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

/// Channels and output columns of a block, at most `slice` and all of them: as many as keep the input pixels under a row of them in
/// L1. `bytes` are those of one input pixel for a number of output channels. Whole rows, unless that leaves too few channels.
fn block_size(
    g: &Geometry,
    lanes: usize,
    pixels: usize,
    slice: usize,
    bytes: impl Fn(usize) -> usize,
) -> (usize, usize) {
    let even = |n: usize, most: usize| n.div_ceil(n.div_ceil(most).max(1)).max(1);
    let one = bytes(lanes).max(1);
    let whole = L1_BYTES / (g.input[2] * g.kernel[1] * one).max(1);
    let least = even(slice.div_ceil(lanes), RUN_BYTES.div_ceil(one));
    if whole >= least || g.output[2] <= pixels {
        return (even(slice.div_ceil(lanes), whole.max(1)) * lanes, g.output[2].max(1));
    }
    let room = L1_BYTES / (g.kernel[1] * least * one).max(1);
    let span = (g.kernel[2] - 1) * g.dilation[2] + 1;
    let columns = (room.saturating_sub(span) / g.stride[2] + 1).max(pixels);
    (even(slice.div_ceil(lanes), least) * lanes, even(g.output[2], columns))
}

impl<E: Number> DepthwiseKernel<E> {
    /// Most taps of an output.
    fn taps(&self) -> usize {
        self.geometry.taps() * if self.spread.is_some() { self.inputs } else { 1 }
    }

    fn tap_bytes(&self) -> usize {
        (self.taps() * size_of::<Tap>()).next_multiple_of(64)
    }

    fn finisher_bytes(&self) -> usize {
        self.finisher.scratch_bytes().next_multiple_of(64)
    }
}

impl<E: Number> Kernel for DepthwiseKernel<E> {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.tap_bytes() + self.finisher_bytes() + self.narrow.as_ref().map_or(0, Narrow::scratch_bytes)
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let g = &self.geometry;
        let total = g.batch * g.output[0] * g.output[1];
        let bands = total.div_ceil(self.band);
        let (first, slice) = (task % bands * self.band, task / bands);
        let rows = first..(first + self.band).min(total);
        let channels = slice * self.slice..self.channels.min((slice + 1) * self.slice);
        let width = g.output[2];
        // SAFETY: scratch was sized for its parts; every output of the rows and channels is computed once.
        unsafe {
            let room = args.scratch.cast::<Tap>();
            room.write_bytes(0, self.taps());
            let room = std::slice::from_raw_parts_mut(room, self.taps());
            let kept = args.scratch.add(self.tap_bytes() + self.finisher_bytes());
            self.finisher.with(args, 0, args.scratch.add(self.tap_bytes()), |finish| {
                for c in channels.clone().step_by(self.chunk) {
                    for x in (0..width).step_by(self.columns) {
                        let block = Block {
                            channels: c..channels.end.min(c + self.chunk),
                            columns: x..width.min(x + self.columns),
                        };
                        Walk::new(self, args, finish, block, kept).down(rows.clone(), room);
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
        &[$(&DepthwiseTactic::<$t, $x> {
            id: $id, isa: Isa::$isa, strips: Set::$set(&$strips), speed: $speed, pixels: PhantomData,
        }),*]
    };
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    #[cfg(target_arch = "x86_64")]
    static X86: &[&dyn Tactic] = rows! {
        f32, f32, "depthwise.f32.avx512", Avx512, Channels, kernel::F32_AVX512, 30.0;
        f32, f32, "depthwise.f32.avx2", Avx2, Channels, kernel::F32_AVX2, 25.0;
        f32, bf16, "depthwise.bf16.avx512", Avx512, Channels, kernel::F32_AVX512, 30.0;
        f32, bf16, "depthwise.bf16.avx2", Avx2, Channels, kernel::F32_AVX2, 20.0;
        f32, f32, "conv.groups.f32.avx512", Avx512, Groups, groups::F32_AVX512, 28.0;
        f32, f32, "conv.groups.f32.avx2", Avx2, Groups, groups::F32_AVX2, 16.0;
        f32, f32, "conv.few.f32.avx512", Avx512, Few, kernel::F32_AVX512_SPREAD, 55.0;
        f32, f32, "conv.few.f32.avx2", Avx2, Few, kernel::F32_AVX2_SPREAD, 30.0;
        f64, f64, "depthwise.f64.avx512", Avx512, Channels, kernel::F64_AVX512, 14.0;
        f64, f64, "depthwise.f64.avx2", Avx2, Channels, kernel::F64_AVX2, 12.0;
        i32, i32, "depthwise.i32.avx512", Avx512, Channels, kernel::I32_AVX512, 15.0;
        i32, i32, "depthwise.i32.avx2", Avx2, Channels, kernel::I32_AVX2, 12.0;
    };
    static PORTABLE: &[&dyn Tactic] = rows! {
        f32, f32, "depthwise.f32.portable", Portable, Channels, kernel::F32_PORTABLE, 10.0;
        f32, bf16, "depthwise.bf16.portable", Portable, Channels, kernel::F32_PORTABLE, 5.0;
        f32, f32, "conv.groups.f32.portable", Portable, Groups, groups::F32_PORTABLE, 4.0;
        f32, f32, "conv.few.f32.portable", Portable, Few, kernel::F32_PORTABLE_SPREAD, 6.0;
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
