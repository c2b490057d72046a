//! Transposed convolutions on the tile unit: one product for each class of outputs that read the same kernel positions
//! (`cpu::conv_transpose`), whose taps are those of a convolution of stride one.

use super::source::{Kind, Source};
use super::split::{self, PackPanel};
use super::sweep::{TileSweep, size};
use super::tactic::with_groups;
use super::tile::{COLS, Products, ROWS, STEP, Tiles};
use super::weights::FEW_CHANNELS;
use crate::cpu::conv::geometry::Geometry;
use crate::cpu::conv_transpose::{Classes, Spatial};
use crate::cpu::gemm::epilogue::{Finisher, dense_window};
use crate::cpu::gemm::grid::{Grid, tasks_for};
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::simd::dispatch;
use crate::cpu::storage::Storage;
use crate::tactic::Build;
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::ops::ConvTranspose;
use engraft_network::{DType, Op};
use smallvec::SmallVec;
use std::marker::PhantomData;

/// `Op::ConvTranspose` of `f32`; one product also takes operands of bf16, and stores bf16.
pub(super) struct TransposedTactic<T> {
    id: &'static str,
    products: Products,
    packing: &'static str,
    marker: PhantomData<fn() -> T>,
}

/// One class of outputs.
struct Pass {
    sweep: TileSweep,
    finisher: Finisher<f32>,
    /// Where its weights start in a packed group, in bytes, and the first row in the input and the output, in elements.
    weights: usize,
    input: isize,
    out: isize,
    taps: usize,
    units: usize,
    grid: Grid,
    first_task: usize,
}

pub(crate) struct TransposedKernel<T> {
    classes: Classes,
    passes: SmallVec<[Pass; 4]>,
    group_bytes: usize,
    phases: SmallVec<[usize; 1]>,
    scratch: usize,
    marker: PhantomData<fn() -> T>,
}

/// Bytes of the packed weights of each class before, and of all.
fn class_bytes(classes: &Classes, products: Products) -> (SmallVec<[usize; 16]>, usize) {
    let mut at = 0;
    let starts = (0..classes.count())
        .map(|class| {
            let start = at;
            at += split::packed_bytes(products, classes.taps_len(class), classes.channels, classes.n);
            start
        })
        .collect();
    (starts, at)
}

impl<T: Tiles + 'static> TransposedTactic<T> {
    pub(super) const fn new(id: &'static str, products: Products, packing: &'static str) -> Self {
        TransposedTactic { id, products, packing, marker: PhantomData }
    }

    fn op<'a>(&self, p: &'a Problem<'_>) -> Result<&'a ConvTranspose, Reject> {
        let Op::ConvTranspose(op) = p.op else { return Err(Reject::new("not a transposed convolution")) };
        if !T::available(p.isa) {
            return Err(Reject::new("needs AMX"));
        }
        self.products.takes(p)?;
        Ok(op)
    }
}

impl<T: Tiles + 'static> Build for TransposedTactic<T> {
    type Kernel = TransposedKernel<T>;

    fn build(&self, p: &Problem<'_>) -> Result<TransposedKernel<T>, Reject> {
        let op = self.op(p)?;
        let (x, w, out) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        let classes = Classes::new(op, &w.shape)?;
        if p.inputs[1].constant.is_none() {
            return Err(Reject::new("weights that are not constant"));
        }
        if classes.channels < FEW_CHANNELS || classes.n < 8 {
            return Err(Reject::new("few channels"));
        }
        if out.count() == 0 {
            return Err(Reject::new("no result"));
        }
        let spatial = Spatial::new(op, &classes, x, out)?;
        let (starts, group_bytes) = class_bytes(&classes, self.products);
        let panels = split::panels(classes.n);
        let used = spatial.used(&classes);
        let parts = classes.groups * used.iter().product::<usize>();
        let taps: usize = classes.kernel.iter().product();
        let flops = 2.0 * (x.count() * taps * classes.n) as f64 / 4.0;
        let each = tasks_for(flops, p.threads).div_ceil(parts);
        let isa = crate::Isa::best_within(Some(p.isa));
        let mut kernel = TransposedKernel {
            passes: SmallVec::new(),
            group_bytes,
            phases: SmallVec::new(),
            scratch: 0,
            marker: PhantomData,
            classes,
        };
        let mut tasks = 0;
        for start in Spatial::starts(used) {
            let (classes, spatial) = (&kernel.classes, &spatial);
            let class = spatial.class(classes, start);
            let axes: [Axis; 3] = std::array::from_fn(|d| Axis::new(classes, spatial, start, d));
            if axes.iter().any(|a| a.taps == 0) {
                return Err(Reject::new("outputs that no input reaches"));
            }
            let count = spatial.count(classes, start);
            let narrow = x.dtype == DType::BF16;
            let how = (self.products, narrow);
            let (source, input) = source(how, classes.channels, spatial, x.shape[0], count, &axes)?;
            let windows = spatial.windows(classes, x.shape[0], start);
            let (rows, offset) = dense_window(out, &windows)?;
            let finisher = Finisher::storing(&op.epilogue, p.inputs, 2, out, p.isa, &windows)?;
            let residual = finisher.residual_rows(rows);
            let units = rows.rows() / source.unit;
            let step = if source.unit == 1 { 2 * ROWS } else { 1 };
            let pass = Pass {
                weights: starts[class],
                input,
                out: offset,
                taps: axes.iter().map(|a| a.taps).product(),
                units,
                grid: Grid::new(units, panels, step, each),
                first_task: tasks,
                sweep: TileSweep {
                    source,
                    products: self.products,
                    n: classes.n,
                    out: rows,
                    residual,
                    narrow: out.dtype == DType::BF16,
                    narrow_residual: finisher.narrow_residual(),
                    isa,
                },
                finisher,
            };
            tasks += pass.grid.tasks() * classes.groups;
            kernel.scratch = kernel.scratch.max(pass.room() + pass.sweep.scratch_bytes());
            kernel.passes.push(pass);
        }
        kernel.phases.push(tasks);
        Ok(kernel)
    }

    fn fit(&self, kernel: &TransposedKernel<T>, p: &Problem<'_>) -> Result<Fit, Reject> {
        let classes = &kernel.classes;
        let (speed, splitting) = self.products.costs();
        let k = (split::steps(classes.channels) * STEP) as f64;
        let n = (split::panels(classes.n) * COLS) as f64;
        let mut cost = 0.0;
        for pass in &kernel.passes {
            let source = &pass.sweep.source;
            let rows = (pass.units * source.unit * classes.groups) as f64;
            let few = (pass.units as f64 / ROWS as f64).min(1.0);
            let height = if source.unit == 1 { few } else { source.filled() };
            cost += rows * k * n * pass.taps as f64 / (speed * (0.3 + 0.7 * height))
                + rows * classes.channels as f64 * splitting
                + rows * classes.n as f64 * (0.2 + pass.finisher.cost_per_element());
        }
        let traffic = (classes.groups * kernel.group_bytes) as f64 / 15.0;
        let threads = p.threads.clamp(1, kernel.phases[0].max(1)) as f64;
        Ok(Fit { cost_ns: 150.0 + cost.max(traffic) / threads })
    }
}

/// The taps of a class along one axis: `taps` input positions, `step` apart, from `first` on for output 0 of the class.
#[derive(Clone, Copy, Debug)]
struct Axis {
    taps: usize,
    first: isize,
    step: usize,
}

impl Axis {
    fn new(classes: &Classes, spatial: &Spatial, start: [usize; 3], d: usize) -> Axis {
        // Kernel positions rise as input positions fall.
        let mut taps = classes.along(spatial.class(classes, start), d);
        let place = |k: usize| spatial.shift(classes, start, d, k);
        let Some(last) = taps.next_back().map(place) else { return Axis { taps: 0, first: 0, step: 1 } };
        let before = taps.next_back().map_or(last + 1, place);
        let count = classes.along(spatial.class(classes, start), d).count();
        Axis { taps: count, first: last, step: before.abs_diff(last) }
    }
}

/// The rows of a class, and where the first begins in the input.
fn source(
    (products, narrow): (Products, bool),
    channels: usize,
    spatial: &Spatial,
    batch: usize,
    count: [usize; 3],
    axes: &[Axis; 3],
) -> Result<(Source, isize), Reject> {
    let one = axes.iter().all(|a| a.taps == 1);
    let inside = (0..3).all(|d| axes[d].first >= 0 && axes[d].first as usize + count[d] <= spatial.input[d]);
    if one && inside {
        let dims = (0..3).map(|d| (count[d], spatial.input_stride[d]));
        if let Some(rows) = RowMap::new(std::iter::once((batch, spatial.batch_stride)).chain(dims)) {
            let first = (0..3).map(|d| axes[d].first * spatial.input_stride[d]).sum();
            return Ok((Source::new(Kind::Rows { rows, step: 1 }, products, channels, narrow), first));
        }
    }
    let geometry = Geometry {
        batch,
        input: spatial.input,
        output: count,
        kernel: axes.map(|a| a.taps),
        stride: [1; 3],
        dilation: axes.map(|a| a.step),
        // Negative where the first output begins inside of the input: sums of positions wrap.
        pad: axes.map(|a| a.first.wrapping_neg() as usize),
        batch_stride: spatial.batch_stride,
        input_stride: spatial.input_stride,
    };
    Ok((Source::new(Kind::Image(geometry), products, channels, narrow), 0))
}

impl<T: Tiles + 'static> Tactic for TransposedTactic<T> {
    fn id(&self) -> &'static str {
        self.id
    }

    fn packing(&self, p: &Problem<'_>, input: usize) -> Option<&'static str> {
        (input == 1 && p.inputs[1].constant.is_some()).then_some(self.packing)
    }

    fn packed_bytes(&self, p: &Problem<'_>, input: usize) -> usize {
        let Op::ConvTranspose(op) = p.op else { return 0 };
        Classes::new(op, &p.inputs[input].desc.shape)
            .map_or(0, |c| c.groups * class_bytes(&c, self.products).1)
    }

    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        let (Op::ConvTranspose(op), Some(tensor)) = (p.op, p.inputs[input].constant) else { return };
        let Ok(classes) = Classes::new(op, tensor.shape()) else { return };
        assert_eq!(out.len(), self.packed_bytes(p, input), "packed operand of another size");
        match tensor.dtype() {
            DType::BF16 => {
                self.pack_values::<half::bf16>(p, &classes, bytemuck::cast_slice(tensor.bytes()), out)
            }
            _ => self.pack_values::<f32>(p, &classes, bytemuck::cast_slice(tensor.bytes()), out),
        }
    }

    crate::tactic::built!();
}

impl<T> TransposedTactic<T> {
    fn pack_values<E: Storage>(&self, p: &Problem<'_>, classes: &Classes, values: &[E], out: &mut [u8]) {
        let (products, k, n) = (self.products, classes.channels, classes.n);
        let (starts, group_bytes) = class_bytes(classes, products);
        let tap_bytes = split::steps(k) * products.panel_bytes();
        for (group, out) in out.chunks_exact_mut(group_bytes.max(1)).enumerate() {
            for (class, start) in starts.iter().enumerate() {
                let taps = classes.taps(class);
                for panel in 0..split::panels(n) {
                    // As input positions rise.
                    for (i, &tap) in taps.iter().rev().enumerate() {
                        let row = classes.row(tap, group);
                        let at = start + (panel * taps.len() + i) * tap_bytes;
                        let (from, to) = (values[row * n..].as_ptr(), out[at..at + tap_bytes].as_mut_ptr());
                        let pack =
                            PackPanel { products, from, row: n as isize, col: 1, taps: 1, k, n, panel, to };
                        dispatch(p.isa, pack);
                    }
                }
            }
        }
    }
}

impl Pass {
    /// Scratch of the epilogue.
    fn room(&self) -> usize {
        self.finisher.scratch_bytes().next_multiple_of(64)
    }
}

impl<T: Tiles> Kernel for TransposedKernel<T> {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let pass = &self.passes[self.passes.partition_point(|pass| pass.first_task <= task) - 1];
        let part = task - pass.first_task;
        let (group, part) = (part / pass.grid.tasks(), part % pass.grid.tasks());
        let (units, panels) = pass.grid.task(part);
        let (channels, n) = (self.classes.channels, self.classes.n);
        // SAFETY: operands are as the problem said; scratch was sized for every pass.
        unsafe {
            let place = |offset: isize, narrow| offset * size(narrow) as isize;
            let a = pass.input + (group * channels) as isize;
            let a = args.inputs[0].wrapping_offset(place(a, pass.sweep.source.narrow));
            let b = args.inputs[1].add(group * self.group_bytes + pass.weights);
            let c = pass.out + (group * n) as isize;
            let c = args.outputs[0].wrapping_offset(place(c, pass.sweep.narrow));
            let room = args.scratch.add(pass.room());
            pass.finisher.with(args, group * n, args.scratch, |finish| {
                with_groups(|groups| pass.sweep.run::<T>(a, units, panels, b, c, finish, room, groups));
            });
        }
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        self.passes.iter().all(|pass| pass.finisher.in_place(input))
    }
}
