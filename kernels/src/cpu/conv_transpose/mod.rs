//! Transposed convolution over channels-last activations, without scattering.
//!
//! Outputs whose coordinates have the same remainders by the strides read the same kernel positions: each such class is
//! a convolution of stride one over some of the taps, hence one sweep that writes every `stride`-th pixel.

mod source;
#[cfg(test)]
mod tests;

use crate::cpu::gemm::epilogue::{Finisher, Number, Window, dense_window, is_type};
use crate::cpu::gemm::grid::{Grid, tasks_for};
use crate::cpu::gemm::micro::{self, Micro};
use crate::cpu::gemm::sweep::Sweep;
use crate::cpu::pack::{self, Matrix};
use crate::tactic::Build;
use crate::{Args, Fit, Isa, Kernel, KernelError, Problem, Reject, Tactic, TensorDesc};
use engraft_network::ops::{ConvTranspose, Padding};
use engraft_network::{DType, Op};
use smallvec::SmallVec;
use source::Shifted;

/// One micro-kernel set.
pub struct ConvTransposeTactic<E: 'static> {
    id: &'static str,
    isa: Isa,
    micro: &'static Micro<E>,
    packing: &'static str,
    /// Multiply-adds per nanosecond of one thread at best.
    speed: f64,
}

/// The kernel positions along each spatial axis, by remainder: what packing needs to know. Leading axes are trivial
/// where there are fewer than three.
pub(super) struct Classes {
    pub kernel: [usize; 3],
    stride: [usize; 3],
    dilation: [usize; 3],
    /// Input channels and output channels of a group.
    pub channels: usize,
    pub n: usize,
    pub groups: usize,
}

impl Classes {
    pub fn new(op: &ConvTranspose, w: &[usize]) -> Result<Self, Reject> {
        let spatial = w.len().checked_sub(2).filter(|s| (1..=3).contains(s));
        let spatial = spatial.ok_or_else(|| Reject::new("not one to three spatial axes"))?;
        let three = |list: &[usize]| {
            let mut all = [1; 3];
            all[3 - spatial..].copy_from_slice(&list[..spatial]);
            all
        };
        if op.groups == 0 || !w[spatial].is_multiple_of(op.groups) {
            return Err(Reject::new("groups do not divide the channels"));
        }
        Ok(Classes {
            kernel: three(w),
            stride: three(&op.strides),
            dilation: three(&op.dilations),
            channels: w[spatial] / op.groups,
            n: w[spatial + 1],
            groups: op.groups,
        })
    }

    pub fn count(&self) -> usize {
        self.stride.iter().product()
    }

    /// The remainders of class `class`.
    fn remainders(&self, class: usize) -> [usize; 3] {
        let [_, h, w] = self.stride;
        [class / (h * w), class / w % h, class % w]
    }

    fn class(&self, remainders: [usize; 3]) -> usize {
        (remainders[0] * self.stride[1] + remainders[1]) * self.stride[2] + remainders[2]
    }

    /// Kernel positions of a class along axis `d`, in order.
    pub fn along(&self, class: usize, d: usize) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let (r, dilation, stride) = (self.remainders(class)[d], self.dilation[d], self.stride[d]);
        (0..self.kernel[d]).filter(move |k| k * dilation % stride == r)
    }

    /// Kernel positions of a class along each axis, in order.
    pub fn taps(&self, class: usize) -> SmallVec<[[usize; 3]; 16]> {
        let mut taps = SmallVec::new();
        for z in self.along(class, 0) {
            for y in self.along(class, 1) {
                for x in self.along(class, 2) {
                    taps.push([z, y, x]);
                }
            }
        }
        taps
    }

    pub fn taps_len(&self, class: usize) -> usize {
        (0..3).map(|d| self.along(class, d).count()).product()
    }

    /// The first of a group's rows of kernel position `tap` in the weights, as a matrix of `n` columns.
    pub fn row(&self, [z, y, x]: [usize; 3], group: usize) -> usize {
        let tap = (z * self.kernel[1] + y) * self.kernel[2] + x;
        (tap * self.groups + group) * self.channels
    }

    /// Packed elements of one group: every class, then one row of zeros for classes without taps.
    fn packed<E: Number>(&self) -> usize {
        pack::packed_len::<E>(self.kernel.iter().product::<usize>() * self.channels + 1, self.n)
    }

    /// Packs one group's weights, class by class.
    ///
    /// # Safety
    /// `w` is a dense `[kernel.., channels of all groups, n]`; `out` has room for [`Classes::packed`].
    unsafe fn pack<E: Number>(&self, w: *const E, group: usize, out: *mut E) {
        let mut at = out;
        // SAFETY: taps are inside the kernel; classes partition the taps, so that the parts fill the packed length.
        unsafe {
            for class in 0..self.count() {
                let taps = self.taps(class);
                for panel in 0..pack::panels::<E>(self.n) {
                    for &tap in &taps {
                        let data = w.wrapping_add(self.row(tap, group) * self.n);
                        let from = Matrix { data, row: self.n as isize, col: 1 };
                        pack::pack_panel(from, self.channels, self.n, panel * E::PANEL, at);
                        at = at.add(self.channels * E::PANEL);
                    }
                }
            }
            for i in 0..pack::packed_len::<E>(1, self.n) {
                at.add(i).write(E::ZERO);
            }
        }
    }
}

/// The input and the output around them. Spatial triples are as in [`Classes`].
pub(super) struct Spatial {
    pub input: [usize; 3],
    pub input_stride: [isize; 3],
    pub batch_stride: isize,
    output: [usize; 3],
    /// Outputs that are cut off before the first.
    pad: [usize; 3],
    /// Axes that there are.
    axes: usize,
}

impl Spatial {
    /// # Errors
    /// Channels that are not consecutive.
    pub fn new(
        op: &ConvTranspose,
        classes: &Classes,
        x: &TensorDesc,
        out: &TensorDesc,
    ) -> Result<Spatial, Reject> {
        let axes = x.rank() - 2;
        if x.strides[axes + 1] != 1 && x.shape[axes + 1] != 1 {
            return Err(Reject::new("channels of the input are not consecutive"));
        }
        let mut spatial = Spatial {
            input: [1; 3],
            input_stride: [0; 3],
            batch_stride: x.strides[0],
            output: [1; 3],
            pad: [0; 3],
            axes,
        };
        for axis in 0..axes {
            let d = 3 - axes + axis;
            let (input, output) = (x.shape[axis + 1], out.shape[axis + 1]);
            (spatial.input[d], spatial.output[d], spatial.input_stride[d]) =
                (input, output, x.strides[axis + 1]);
            let full =
                (input.max(1) - 1) * classes.stride[d] + (classes.kernel[d] - 1) * classes.dilation[d] + 1;
            let total = (full + op.output_padding[axis]).saturating_sub(output);
            spatial.pad[d] = match &op.padding {
                Padding::Explicit { begin, .. } => begin[axis],
                Padding::SameUpper => total / 2,
                Padding::SameLower => total - total / 2,
            };
        }
        Ok(spatial)
    }

    /// Classes along each axis that have outputs.
    pub fn used(&self, classes: &Classes) -> [usize; 3] {
        std::array::from_fn(|d| classes.stride[d].min(self.output[d]))
    }

    /// The first outputs of those classes.
    pub fn starts(used: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
        (0..used[0]).flat_map(move |z| (0..used[1]).flat_map(move |y| (0..used[2]).map(move |x| [z, y, x])))
    }

    /// The class whose first output is `start`.
    pub fn class(&self, classes: &Classes, start: [usize; 3]) -> usize {
        classes.class(std::array::from_fn(|d| (start[d] + self.pad[d]) % classes.stride[d]))
    }

    /// Input position along axis `d` that kernel position `k` reads for output `start`, less by one for each output before it.
    pub fn shift(&self, classes: &Classes, start: [usize; 3], d: usize, k: usize) -> isize {
        ((start[d] + self.pad[d]) as isize - (k * classes.dilation[d]) as isize) / classes.stride[d] as isize
    }

    /// Outputs of the class along each axis.
    pub fn count(&self, classes: &Classes, start: [usize; 3]) -> [usize; 3] {
        std::array::from_fn(|d| (self.output[d] - start[d]).div_ceil(classes.stride[d]))
    }

    /// The class as a window of the result.
    pub fn windows(&self, classes: &Classes, batch: usize, start: [usize; 3]) -> SmallVec<[Window; 4]> {
        let count = self.count(classes, start);
        let mut windows: SmallVec<[Window; 4]> = SmallVec::new();
        windows.push(Window { start: 0, step: 1, count: batch });
        for d in 3 - self.axes..3 {
            windows.push(Window { start: start[d], step: classes.stride[d], count: count[d] });
        }
        windows
    }
}

/// One class of outputs.
struct Pass<E: 'static> {
    sweep: Sweep<E>,
    finisher: Finisher<E>,
    /// Distance of the input pixel of each tap from the output's own number in the class.
    shifts: SmallVec<[[isize; 3]; 8]>,
    /// Outputs along each axis.
    count: [usize; 3],
    /// Where its weights start in a packed group, and its first pixel in the output.
    weights: usize,
    out: isize,
    grid: Grid,
    first_task: usize,
}

pub(crate) struct ConvTransposeKernel<E: 'static> {
    classes: Classes,
    spatial: Spatial,
    passes: SmallVec<[Pass<E>; 4]>,
    constant: bool,
    phases: SmallVec<[usize; 2]>,
    scratch: usize,
}

impl<E: Number> ConvTransposeTactic<E> {
    fn op<'a>(&self, p: &'a Problem<'_>) -> Result<&'a ConvTranspose, Reject> {
        let Op::ConvTranspose(op) = p.op else { return Err(Reject::new("not a transposed convolution")) };
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

impl<E: Number> Build for ConvTransposeTactic<E> {
    type Kernel = ConvTransposeKernel<E>;

    fn build(&self, p: &Problem<'_>) -> Result<ConvTransposeKernel<E>, Reject> {
        let op = self.op(p)?;
        let (x, w, out) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        let classes = Classes::new(op, &w.shape)?;
        let spatial = Spatial::new(op, &classes, x, out)?;
        let constant = p.inputs[1].constant.is_some();
        if !constant && !w.is_dense() {
            return Err(Reject::new("weights at strides"));
        }
        if classes.channels == 0 {
            return Err(Reject::new("an empty sum"));
        }
        let mut weights: SmallVec<[usize; 16]> = SmallVec::new();
        let mut at = 0;
        for class in 0..classes.count() {
            weights.push(at);
            at += pack::packed_len::<E>(classes.taps_len(class) * classes.channels, classes.n);
        }
        let panels = pack::panels::<E>(classes.n);
        let empty = out.count() == 0;
        let taps: usize = classes.kernel.iter().product();
        let flops = 2.0 * (x.count() * taps * classes.n) as f64;
        let used = spatial.used(&classes);
        let parts = classes.groups * used.iter().product::<usize>();
        let each = tasks_for(flops, p.threads).div_ceil(parts.max(1));
        let mut kernel = ConvTransposeKernel {
            spatial,
            passes: SmallVec::new(),
            constant,
            phases: SmallVec::new(),
            scratch: 0,
            classes,
        };
        let mut tasks = 0;
        for start in Spatial::starts(used).filter(|_| !empty) {
            let (classes, spatial) = (&kernel.classes, &kernel.spatial);
            let class = spatial.class(classes, start);
            let mut shifts: SmallVec<[[isize; 3]; 8]> = classes
                .taps(class)
                .iter()
                .map(|k| std::array::from_fn(|d| spatial.shift(classes, start, d, k[d])))
                .collect();
            let (mut run, mut weights) = (classes.channels, weights[class]);
            if shifts.is_empty() {
                // No tap reaches these outputs: one product of zeros.
                shifts.push([isize::MAX / 4; 3]);
                (run, weights) = (1, at);
            }
            let count = spatial.count(classes, start);
            let windows = spatial.windows(classes, x.shape[0], start);
            let (rows, offset) = dense_window(out, &windows)?;
            let finisher = Finisher::<E>::windowed(&op.epilogue, p.inputs, 2, out, p.isa, &windows)?;
            let sweep =
                Sweep::new(self.micro, classes.n, shifts.len(), run, rows, finisher.residual_rows(rows));
            let grid = Grid::even(rows.rows(), panels, self.micro.rows(), each);
            let pass = Pass { sweep, finisher, shifts, count, weights, out: offset, grid, first_task: tasks };
            tasks += grid.tasks() * kernel.classes.groups;
            let scratch = pass.finisher.scratch_bytes()
                + pass.sweep.scratch_bytes(&kernel.source(&pass, std::ptr::null()));
            kernel.scratch = kernel.scratch.max(scratch);
            kernel.passes.push(pass);
        }
        if tasks > 0 {
            if !constant {
                kernel.phases.push(kernel.classes.groups);
            }
            kernel.phases.push(tasks);
        }
        Ok(kernel)
    }

    fn fit(&self, kernel: &ConvTransposeKernel<E>, p: &Problem<'_>) -> Result<Fit, Reject> {
        let padded = (pack::panels::<E>(kernel.classes.n) * E::PANEL) as f64;
        let (mut work, mut post) = (0.0, 0.0);
        for pass in &kernel.passes {
            let rows = (pass.grid.rows * kernel.classes.groups) as f64;
            work += rows
                * ((pass.sweep.taps * pass.sweep.run) as f64 * padded / self.speed + pass.sweep.taps as f64);
            post += rows * kernel.classes.n as f64 * (0.1 + pass.finisher.cost_per_element());
        }
        let weights = (kernel.classes.groups * kernel.classes.packed::<E>() * size_of::<E>()) as f64;
        let pack = if kernel.constant { 0.0 } else { weights / 8.0 };
        let threads = p.threads.min(kernel.phases.iter().copied().max().unwrap_or(1)).max(1) as f64;
        Ok(Fit { cost_ns: 100.0 + (work + pack + post) / threads })
    }
}

impl<E: Number> Tactic for ConvTransposeTactic<E> {
    fn id(&self) -> &'static str {
        self.id
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
        let Op::ConvTranspose(op) = p.op else { return 0 };
        Classes::new(op, &p.inputs[input].desc.shape)
            .map_or(0, |c| c.groups * c.packed::<E>() * size_of::<E>())
    }

    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        let (Op::ConvTranspose(op), Some(tensor)) = (p.op, p.inputs[input].constant) else { return };
        let Ok(classes) = Classes::new(op, tensor.shape()) else { return };
        assert_eq!(out.len(), self.packed_bytes(p, input), "packed operand of another size");
        for g in 0..classes.groups {
            // SAFETY: the tensor is dense; each group has its part of `out`, whose length was checked.
            unsafe {
                let to = out.as_mut_ptr().cast::<E>().add(g * classes.packed::<E>());
                classes.pack(tensor.bytes().as_ptr().cast::<E>(), g, to);
            }
        }
    }

    crate::tactic::built!();
}

impl<E: Number> ConvTransposeKernel<E> {
    fn source<'a>(&'a self, pass: &'a Pass<E>, base: *const E) -> Shifted<'a, E> {
        Shifted {
            base,
            input: self.spatial.input,
            input_stride: self.spatial.input_stride,
            batch_stride: self.spatial.batch_stride,
            count: pass.count,
            shifts: &pass.shifts,
            channels: pass.sweep.run,
        }
    }
}

impl<E: Number> Kernel for ConvTransposeKernel<E> {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    fn workspace_bytes(&self) -> usize {
        if self.constant { 0 } else { self.classes.groups * self.classes.packed::<E>() * size_of::<E>() }
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let packed = self.classes.packed::<E>();
        if !self.constant && phase == 0 {
            // SAFETY: the weights are dense, the workspace has room for every group.
            unsafe {
                let to = args.workspace.cast::<E>().add(task * packed);
                self.classes.pack(args.inputs[1].cast::<E>(), task, to);
            }
            return Ok(());
        }
        let index = self.passes.partition_point(|pass| pass.first_task <= task) - 1;
        let pass = &self.passes[index];
        let part = task - pass.first_task;
        let (group, part) = (part / pass.grid.tasks(), part % pass.grid.tasks());
        let (rows, panels) = pass.grid.task(part);
        let weights = if self.constant { args.inputs[1] } else { args.workspace.cast_const() };
        let n = self.classes.n;
        // SAFETY: operands are as the problem said; scratch was sized for every pass.
        unsafe {
            let base = args.inputs[0].cast::<E>().wrapping_add(group * self.classes.channels);
            let source = self.source(pass, base);
            let b = weights.cast::<E>().add(group * packed + pass.weights);
            let c = args.outputs[0].cast::<E>().wrapping_offset(pass.out).wrapping_add(group * n);
            let scratch = args.scratch.add(pass.finisher.scratch_bytes());
            pass.finisher.with(args, group * n, args.scratch, |finish| {
                pass.sweep.run(&source, rows, panels, b, c, finish, scratch);
            });
        }
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        self.passes.iter().all(|pass| pass.sweep.is_single_pass() && pass.finisher.in_place(input))
    }
}

macro_rules! rows {
    ($($t:ty, $id:literal, $isa:ident, $micro:ident, $packing:literal, $speed:literal;)*) => {
        &[$(&ConvTransposeTactic::<$t> {
            id: $id, isa: Isa::$isa, micro: &micro::$micro, packing: $packing, speed: $speed,
        }),*]
    };
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    #[cfg(target_arch = "x86_64")]
    static X86: &[&dyn Tactic] = rows! {
        f32, "conv_transpose.f32.avx512.12x32", Avx512, F32_AVX512, "classes.f32", 52.0;
        f32, "conv_transpose.f32.avx2.6x16", Avx2, F32_AVX2, "classes.f32", 45.0;
        f64, "conv_transpose.f64.avx512.12x16", Avx512, F64_AVX512, "classes.f64", 25.0;
        f64, "conv_transpose.f64.avx2.6x8", Avx2, F64_AVX2, "classes.f64", 22.0;
        i32, "conv_transpose.i32.avx512.6x32", Avx512, I32_AVX512, "classes.i32", 19.0;
        i32, "conv_transpose.i32.avx2.4x16", Avx2, I32_AVX2, "classes.i32", 14.0;
        i64, "conv_transpose.i64.avx512.6x16", Avx512, I64_AVX512, "classes.i64", 5.0;
        i64, "conv_transpose.i64.avx2.4x8", Avx2, I64_AVX2, "classes.i64", 3.0;
    };
    static PORTABLE: &[&dyn Tactic] = rows! {
        f32, "conv_transpose.f32.portable.6x8", Portable, F32_PORTABLE, "classes.f32", 14.0;
        f64, "conv_transpose.f64.portable.6x4", Portable, F64_PORTABLE, "classes.f64", 6.0;
        i32, "conv_transpose.i32.portable.6x8", Portable, I32_PORTABLE, "classes.i32", 4.0;
        i64, "conv_transpose.i64.portable.6x4", Portable, I64_PORTABLE, "classes.i64", 2.0;
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
