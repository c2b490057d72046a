//! `Op::Conv` as tactics over the sweep: implicit matrix products, one per group.

use super::geometry::{Geometry, geometry};
use super::source::{Bands, Taps};
use crate::cpu::gemm::epilogue::{Finisher, Number, dense_rows, is_type};
use crate::cpu::gemm::grid::{Grid, tasks_for, tasks_for_rows};
use crate::cpu::gemm::micro::{self, Micro};
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::gemm::sweep::{Finish, Gathered, Strided, Sweep};
use crate::cpu::pack::{self, Matrix};
use crate::tactic::Build;
use crate::{Args, Fit, Isa, Kernel, KernelError, Problem, Reach, Reject, Tactic};
use engraft_network::ops::Conv;
use engraft_network::{DType, Op};
use smallvec::SmallVec;
use std::ops::Range;

/// One micro-kernel set.
pub struct ConvTactic<E: 'static> {
    id: &'static str,
    isa: Isa,
    micro: &'static Micro<E>,
    packing: &'static str,
    /// Multiply-adds per nanosecond of one thread at best.
    speed: f64,
}

/// How input rows become rows of the implicit matrix.
#[derive(Clone, Copy, Debug)]
enum Rows {
    /// A row is one run of consecutive elements in the input itself.
    Plain(RowMap),
    /// The same, copied because rows in place would collide in one cache set.
    Copied(RowMap),
    Taps,
    Bands,
}

/// Fewer channels than this are gathered by kernel rows rather than one by one.
const FEW_CHANNELS: usize = 12;

pub(crate) struct ConvKernel<E: 'static> {
    geometry: Geometry,
    rows: Rows,
    sweep: Sweep<E>,
    finisher: Finisher<E>,
    groups: usize,
    /// Input channels of a group, and output channels.
    channels: usize,
    n: usize,
    k: usize,
    grid: Grid,
    constant: bool,
    phases: SmallVec<[usize; 2]>,
    scratch: usize,
    /// Elements of one group's packed weights.
    packed_group: usize,
}

impl<E: Number> ConvTactic<E> {
    fn op<'a>(&self, p: &'a Problem<'_>) -> Result<&'a Conv, Reject> {
        let Op::Conv(op) = p.op else { return Err(Reject::new("not a convolution")) };
        if p.isa < self.isa || !self.isa.supported() {
            return Err(Reject::new(format!("needs {}", self.isa)));
        }
        let dtype = p.outputs[0].dtype;
        if !is_type::<E>(dtype) || p.inputs[..2].iter().any(|o| o.desc.dtype != dtype) {
            return Err(Reject::new("another type"));
        }
        if op.epilogue.post.is_some() && matches!(dtype, DType::U32 | DType::U64) {
            return Err(Reject::new("an epilogue of unsigned integers"));
        }
        Ok(op)
    }
}

impl<E: Number> Build for ConvTactic<E> {
    type Kernel = ConvKernel<E>;

    fn build(&self, p: &Problem<'_>) -> Result<ConvKernel<E>, Reject> {
        let op = self.op(p)?;
        let (x, w, out) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        let geometry = geometry(op, x, w, out)?;
        let constant = p.inputs[1].constant.is_some();
        if !constant && !w.is_dense() {
            return Err(Reject::new("weights at strides"));
        }
        let channels = w.shape[w.rank() - 2];
        let n = w.shape[w.rank() - 1] / op.groups;
        let k = geometry.taps() * channels;
        if k == 0 || op.groups == 0 {
            return Err(Reject::new("an empty sum"));
        }
        let empty = out.count() == 0;
        let out_rows = if empty { RowMap::uniform(0, 0) } else { dense_rows(out)? };
        let finisher = Finisher::<E>::new(&op.epilogue, p.inputs, 2, out, p.isa)?;
        let g = &geometry;
        let [_, _, pixel] = g.input_stride;
        let flat = g.kernel[2] == 1 || (g.dilation[2] == 1 && pixel == channels as isize);
        let rows = if !empty && g.is_inside() && g.kernel[..2] == [1; 2] && flat {
            let dims = (0..3).map(|d| (g.output[d], g.input_stride[d] * g.stride[d] as isize));
            let map = RowMap::new(std::iter::once((g.batch, g.batch_stride)).chain(dims))
                .expect("four dimensions at most");
            let step = g.input_stride[2] * g.stride[2] as isize * size_of::<E>() as isize;
            if step % 4096 == 0 && g.pixels() >= self.micro.rows() && n > 2 * E::PANEL {
                Rows::Copied(map)
            } else {
                Rows::Plain(map)
            }
        } else if channels < FEW_CHANNELS && g.kernel[2] > 1 && g.dilation[2] == 1 {
            Rows::Bands
        } else {
            Rows::Taps
        };
        let (taps, run) = match rows {
            Rows::Plain(_) | Rows::Copied(_) => (1, k),
            Rows::Taps => (g.taps(), channels),
            Rows::Bands => (g.kernel[0] * g.kernel[1], g.kernel[2] * channels),
        };
        let m = if empty { 0 } else { g.pixels() };
        let flops = 2.0 * (m * n * k * op.groups) as f64;
        let panels = pack::panels::<E>(n);
        let inputs = g.batch * g.input.iter().product::<usize>() * channels;
        let unit = self.micro.rows();
        let by_rows = if inputs < k * n {
            None
        } else {
            // The larger operand is read once.
            let far = inputs.max(m * n) * size_of::<E>();
            let tasks = tasks_for_rows(flops, m, far, p.threads).div_ceil(op.groups);
            Grid::of_rows(m, panels, unit, tasks, p.threads)
        };
        let tasks = tasks_for(flops, p.threads).div_ceil(op.groups);
        let grid = by_rows.unwrap_or_else(|| Grid::even(m, panels, unit, tasks));
        let sweep = Sweep::new(self.micro, n, taps, run, out_rows, finisher.residual_rows(out_rows));
        let mut phases = SmallVec::new();
        if m * n > 0 {
            if !constant {
                phases.push((op.groups * panels).min(2 * p.threads));
            }
            phases.push(op.groups * grid.tasks());
        }
        let mut kernel = ConvKernel {
            geometry,
            rows,
            sweep,
            finisher,
            groups: op.groups,
            channels,
            n,
            k,
            grid,
            constant,
            phases,
            scratch: 0,
            packed_group: pack::packed_len::<E>(k, n),
        };
        if m > 0 {
            kernel.scratch = kernel.finisher.scratch_bytes() + kernel.scratch_of();
        }
        Ok(kernel)
    }

    fn fit(&self, kernel: &ConvKernel<E>, p: &Problem<'_>) -> Result<Fit, Reject> {
        let m = kernel.grid.rows * kernel.groups;
        let padded = (pack::panels::<E>(kernel.n) * E::PANEL) as f64;
        let work = (m * kernel.k) as f64 * padded / self.speed;
        let weights = (kernel.groups * kernel.packed_group * size_of::<E>()) as f64;
        let traffic = weights / if weights > 8e6 { 12.0 } else { 60.0 };
        let pack = if kernel.constant { 0.0 } else { weights / 8.0 };
        let tables =
            (m * kernel.sweep.taps) as f64 * if matches!(kernel.rows, Rows::Plain(_)) { 0.3 } else { 1.0 };
        let post = (m * kernel.n) as f64 * (0.05 + kernel.finisher.cost_per_element());
        let threads = p.threads.min(kernel.phases.iter().copied().max().unwrap_or(1)).max(1) as f64;
        Ok(Fit { cost_ns: 100.0 + (work.max(traffic) + tables + pack + post) / threads })
    }
}

impl<E: Number> Tactic for ConvTactic<E> {
    fn id(&self) -> &'static str {
        self.id
    }

    fn version(&self) -> u32 {
        4
    }

    fn computes(&self) -> Option<DType> {
        Some(E::DTYPE)
    }

    fn packing(&self, p: &Problem<'_>, input: usize) -> Option<&'static str> {
        (input == 1 && p.inputs[1].constant.is_some()).then_some(self.packing)
    }

    fn packing_moves(&self, p: &Problem<'_>, input: usize) -> bool {
        self.packing(p, input).is_some()
    }

    fn packed_bytes(&self, p: &Problem<'_>, input: usize) -> usize {
        let Op::Conv(op) = p.op else { return 0 };
        let shape = &p.inputs[input].desc.shape;
        let (k, m) = (shape[..shape.len() - 1].iter().product(), shape[shape.len() - 1]);
        op.groups * pack::packed_len::<E>(k, m / op.groups) * size_of::<E>()
    }

    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        let (Op::Conv(op), Some(tensor)) = (p.op, p.inputs[input].constant) else { return };
        let shape = tensor.shape();
        let (k, m) = (shape[..shape.len() - 1].iter().product(), shape[shape.len() - 1]);
        let n = m / op.groups;
        assert_eq!(out.len(), self.packed_bytes(p, input), "packed operand of another size");
        for g in 0..op.groups {
            // SAFETY: the group's columns lie inside the tensor, its panels inside `out`, whose length was checked.
            unsafe {
                let data = tensor.bytes().as_ptr().cast::<E>().wrapping_add(g * n);
                let to = out.as_mut_ptr().cast::<E>().add(g * pack::packed_len::<E>(k, n));
                pack::pack(Matrix { data, row: m as isize, col: 1 }, k, n, to);
            }
        }
    }

    crate::tactic::built!();
}

impl<E: Number> ConvKernel<E> {
    fn scratch_of(&self) -> usize {
        let (base, geometry, channels) = (std::ptr::null(), &self.geometry, self.channels);
        match self.rows {
            Rows::Plain(rows) => self.sweep.scratch_bytes(&Strided { base, rows, k: self.k }),
            Rows::Copied(rows) => self.sweep.scratch_bytes(&Gathered { base, rows, k: self.k, step: 1 }),
            Rows::Taps => self.sweep.scratch_bytes(&Taps { base, geometry, channels }),
            Rows::Bands => self.sweep.scratch_bytes(&Bands { base, geometry, channels }),
        }
    }

    /// Packs a share of the weights into the workspace.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn pack_share(&self, task: usize, args: &Args<'_>) {
        let panels = pack::panels::<E>(self.n);
        let (total, tasks) = (self.groups * panels, self.phases[0]);
        for i in total * task / tasks..total * (task + 1) / tasks {
            let (group, panel) = (i / panels, i % panels);
            // SAFETY: the group's columns lie inside the weights, its panels inside the workspace.
            unsafe {
                let data = args.inputs[1].cast::<E>().add(group * self.n);
                let to =
                    args.workspace.cast::<E>().add(group * self.packed_group + panel * E::PANEL * self.k);
                let from = Matrix { data, row: (self.groups * self.n) as isize, col: 1 };
                pack::pack_panel(from, self.k, self.n, panel * E::PANEL, to);
            }
        }
    }

    /// Pixels and panels of one group.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn product(&self, group: usize, pixels: Range<usize>, panels: Range<usize>, args: &Args<'_>) {
        let weights = if self.constant { args.inputs[1] } else { args.workspace.cast_const() };
        // SAFETY: operands are as the problem said; scratch was sized for the source.
        unsafe {
            let base = args.inputs[0].cast::<E>().wrapping_add(group * self.channels);
            let b = weights.cast::<E>().add(group * self.packed_group);
            let c = args.outputs[0].cast::<E>().wrapping_add(group * self.n);
            let (geometry, channels) = (&self.geometry, self.channels);
            let scratch = args.scratch.add(self.finisher.scratch_bytes());
            self.finisher.with(args, group * self.n, args.scratch, |finish: &Finish<'_, E>| {
                match self.rows {
                    Rows::Plain(rows) => {
                        let source = Strided { base, rows, k: self.k };
                        self.sweep.run(&source, pixels, panels, b, c, finish, scratch);
                    }
                    Rows::Copied(rows) => {
                        let source = Gathered { base, rows, k: self.k, step: 1 };
                        self.sweep.run(&source, pixels, panels, b, c, finish, scratch);
                    }
                    Rows::Taps => {
                        let source = Taps { base, geometry, channels };
                        self.sweep.run(&source, pixels, panels, b, c, finish, scratch);
                    }
                    Rows::Bands => {
                        let source = Bands { base, geometry, channels };
                        self.sweep.run(&source, pixels, panels, b, c, finish, scratch);
                    }
                }
            });
        }
    }
}

impl<E: Number> Kernel for ConvKernel<E> {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    fn workspace_bytes(&self) -> usize {
        if self.constant { 0 } else { self.groups * self.packed_group * size_of::<E>() }
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        if !self.constant && phase == 0 {
            // SAFETY: by the caller's contract.
            unsafe { self.pack_share(task, args) };
            return Ok(());
        }
        let (pixels, panels) = self.grid.task(task % self.grid.tasks());
        // SAFETY: by the caller's contract.
        unsafe { self.product(task / self.grid.tasks(), pixels, panels, args) };
        Ok(())
    }

    fn reach(&self, task: usize) -> Option<Reach> {
        if self.groups > 1 || self.grid.across > 1 || self.phases.len() != 1 {
            return None;
        }
        let (writes, _) = self.grid.task(task);
        Some(Reach { reads: self.geometry.window(writes.clone()), complete: writes.end, writes })
    }

    fn in_place(&self, input: usize) -> bool {
        self.sweep.is_single_pass() && self.finisher.in_place(input)
    }
}

macro_rules! rows {
    ($($t:ty, $id:literal, $isa:ident, $micro:ident, $packing:literal, $speed:literal;)*) => {
        &[$(&ConvTactic::<$t> {
            id: $id, isa: Isa::$isa, micro: &micro::$micro, packing: $packing, speed: $speed,
        }),*]
    };
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    #[cfg(target_arch = "x86_64")]
    static X86: &[&dyn Tactic] = rows! {
        f32, "conv.f32.avx512.12x32", Avx512, F32_AVX512, "panels.f32", 55.0;
        f32, "conv.f32.avx2.6x16", Avx2, F32_AVX2, "panels.f32", 48.0;
        f64, "conv.f64.avx512.12x16", Avx512, F64_AVX512, "panels.f64", 26.0;
        f64, "conv.f64.avx2.6x8", Avx2, F64_AVX2, "panels.f64", 23.0;
        i32, "conv.i32.avx512.6x32", Avx512, I32_AVX512, "panels.i32", 20.0;
        i32, "conv.i32.avx2.4x16", Avx2, I32_AVX2, "panels.i32", 15.0;
        i64, "conv.i64.avx512.6x16", Avx512, I64_AVX512, "panels.i64", 5.0;
        i64, "conv.i64.avx2.4x8", Avx2, I64_AVX2, "panels.i64", 3.0;
    };
    static PORTABLE: &[&dyn Tactic] = rows! {
        f32, "conv.f32.portable.6x8", Portable, F32_PORTABLE, "panels.f32", 15.0;
        f64, "conv.f64.portable.6x4", Portable, F64_PORTABLE, "panels.f64", 7.0;
        i32, "conv.i32.portable.6x8", Portable, I32_PORTABLE, "panels.i32", 5.0;
        i64, "conv.i64.portable.6x4", Portable, I64_PORTABLE, "panels.i64", 2.0;
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
