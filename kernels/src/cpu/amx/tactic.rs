//! Matrix products and convolutions on the tile unit, as tactics.

use super::few::FewRows;
use super::source::{Kind, Source};
use super::split::{self, PackPanel};
use super::sweep::{Group, TileSweep, size};
use super::tile::{Products, ROWS, Tiles};
use super::transposed::TransposedTactic;
use super::weights::{self, FEW_CHANNELS, Weights, by_lines};
use crate::cpu::conv::geometry::{Geometry, geometry};
use crate::cpu::gemm::epilogue::{Finisher, dense_rows};
use crate::cpu::gemm::grid::{Grid, tasks_for};
use crate::cpu::gemm::matmul::{Operand2, batch_dims};
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::simd::dispatch;
use crate::tactic::Build;
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic, TensorDesc};
use engraft_network::ops::Conv;
use engraft_network::{DType, Op};
use smallvec::SmallVec;
use std::cell::RefCell;
use std::marker::PhantomData;

/// `Op::MatMul` and `Op::Conv` of `f32`; one product also takes operands of bf16, and stores bf16.
pub(super) struct TileTactic<T> {
    id: &'static str,
    products: Products,
    packing: &'static str,
    marker: PhantomData<fn() -> T>,
}

impl<T> TileTactic<T> {
    pub(super) const fn new(id: &'static str, products: Products, packing: &'static str) -> Self {
        TileTactic { id, products, packing, marker: PhantomData }
    }
}

/// A second operand of so many bytes stays in a core's own cache, beside rows of the first and of the result that pass through.
const NEAR_BYTES: usize = 1 << 20;

/// Fewer rows than this leave most of a tile empty.
const FEWEST_ROWS: usize = 4;

/// A problem made ready.
pub(crate) struct TileKernel<T> {
    sweep: TileSweep,
    finisher: Finisher<f32>,
    weights: Weights,
    /// Groups of a convolution: columns of A and C that belong to a matrix of B.
    groups: usize,
    /// Matrix of B for each product of a batch, and products.
    b: RowMap,
    batch: usize,
    /// Units of one product.
    units: usize,
    grid: Grid,
    /// Strides of a second operand that is not constant: its matrices are packed by a first phase.
    dynamic: Option<Dynamic>,
    phases: SmallVec<[usize; 2]>,
    scratch: usize,
    marker: PhantomData<fn() -> T>,
}

#[derive(Clone, Copy, Debug)]
struct Dynamic {
    /// Elements between matrices of B, as offsets over the batch.
    offsets: RowMap,
    row: isize,
    col: isize,
}

impl<T: Tiles + 'static> TileTactic<T> {
    fn source(&self, op: &Conv, g: &Geometry, channels: usize, narrow: bool) -> Source {
        if g.taps() == 1 && g.is_inside() {
            let dims = (0..3).map(|d| (g.output[d], g.input_stride[d] * g.stride[d] as isize));
            if let Some(rows) = RowMap::new(std::iter::once((g.batch, g.batch_stride)).chain(dims)) {
                return Source::new(Kind::Rows { rows, step: 1 }, self.products, channels, narrow);
            }
        }
        let kind = match channels < FEW_CHANNELS {
            true if by_lines(op, channels) => Kind::Lines(*g),
            true => Kind::Windows(*g),
            false => Kind::Image(*g),
        };
        Source::new(kind, self.products, channels, narrow)
    }

    fn kernel(
        &self,
        p: &Problem<'_>,
        weights: Weights,
        mut source: Source,
        finisher: Finisher<f32>,
        groups: usize,
        b: RowMap,
        batch: usize,
        units: usize,
        dynamic: Option<Dynamic>,
    ) -> Result<TileKernel<T>, Reject> {
        let out_rows = dense_rows(&p.outputs[0])?;
        let residual = finisher.residual_rows(out_rows);
        let rows = (units * source.unit * batch * groups) as f64;
        // Several times as fast as without tiles: tasks are that much larger.
        let flops = 2.0 * rows * (weights.k * weights.taps * weights.n) as f64 / 4.0;
        let tasks = tasks_for(flops, p.threads);
        let panels = split::panels(weights.n);
        let step = if source.unit == 1 { 2 * ROWS } else { 1 };
        let grid = Grid::new(units, panels, step, tasks.div_ceil(batch * groups));
        let share = weights.matrix_bytes(self.products) / panels * grid.panels_of_task();
        if share <= NEAR_BYTES {
            source.by_rows();
        }
        let isa = crate::Isa::best_within(Some(p.isa));
        let sweep = TileSweep {
            source,
            products: self.products,
            n: weights.n,
            out: out_rows,
            residual,
            narrow: p.outputs[0].dtype == DType::BF16,
            narrow_residual: finisher.narrow_residual(),
            isa,
        };
        let scratch = finisher.scratch_bytes().next_multiple_of(64) + sweep.scratch_bytes();
        let mut phases = SmallVec::new();
        if dynamic.is_some() {
            phases.push((batch * panels).min(2 * p.threads));
        }
        phases.push(batch * groups * grid.tasks());
        Ok(TileKernel {
            sweep,
            finisher,
            weights,
            groups,
            b,
            batch,
            units,
            grid,
            dynamic,
            phases,
            scratch,
            marker: PhantomData,
        })
    }
}

impl<T: Tiles + 'static> Build for TileTactic<T> {
    type Kernel = TileKernel<T>;

    fn build(&self, p: &Problem<'_>) -> Result<TileKernel<T>, Reject> {
        if !matches!(p.op, Op::MatMul(_) | Op::Conv(_)) {
            return Err(Reject::new("neither a matrix product nor a convolution"));
        }
        if !T::available(p.isa) {
            return Err(Reject::new("needs AMX"));
        }
        let out = &p.outputs[0];
        self.products.takes(p)?;
        let narrow = p.inputs[0].desc.dtype == DType::BF16;
        if out.count() == 0 {
            return Err(Reject::new("no result"));
        }
        let weights = Weights::new(p)?;
        if weights.k == 0 || weights.taps == 0 || weights.n == 0 {
            return Err(Reject::new("an empty sum"));
        }
        match p.op {
            Op::MatMul(op) => {
                let (a, b) = (&p.inputs[0].desc, &p.inputs[1].desc);
                let (left, right) = (Operand2::new(a, op.trans_a), Operand2::new(b, op.trans_b));
                let rows = RowMap::new(batch_dims(a, out).chain([(left.rows, left.row)]))
                    .ok_or_else(|| Reject::new("rows of A at more than four strides"))?;
                let constant = p.inputs[1].constant.is_some();
                let one = TensorDesc::dense(b.dtype, &b.shape);
                let matrix = (weights.k * weights.n) as isize;
                let strided = |desc: &TensorDesc, unit: isize| {
                    RowMap::new(batch_dims(desc, out).map(|(size, stride)| (size, stride / unit)))
                        .ok_or_else(|| Reject::new("matrices of B at more than four strides"))
                };
                let matrices = strided(&one, matrix)?;
                let offsets = strided(b, 1)?;
                let mut batch: usize = out.shape[..out.rank() - 2].iter().product();
                let mut units = left.rows;
                let mut map = matrices;
                if batch > 1 && matrices.stride() == Some(0) {
                    (units, batch, map) = (units * batch, 1, RowMap::uniform(1, 0));
                }
                let source =
                    Source::new(Kind::Rows { rows, step: left.col }, self.products, weights.k, narrow);
                let finisher = Finisher::storing(&op.epilogue, p.inputs, 2, out, p.isa, &[])?;
                let dynamic = (!constant).then_some(Dynamic { offsets, row: right.row, col: right.col });
                if units < FEWEST_ROWS {
                    return Err(Reject::new("too few rows for tiles"));
                }
                self.kernel(p, weights, source, finisher, 1, map, batch, units, dynamic)
            }
            Op::Conv(op) => {
                let (x, w) = (&p.inputs[0].desc, &p.inputs[1].desc);
                if p.inputs[1].constant.is_none() {
                    return Err(Reject::new("weights that are not constant"));
                }
                let g = geometry(op, x, w, out)?;
                let channels = w.shape[w.rank() - 2];
                if op.groups > 1 && (channels < FEW_CHANNELS || weights.n < 8) {
                    return Err(Reject::new("groups of few channels"));
                }
                let source = self.source(op, &g, channels, narrow);
                let units = g.pixels() / source.unit;
                let finisher = Finisher::storing(&op.epilogue, p.inputs, 2, out, p.isa, &[])?;
                let map = RowMap::uniform(op.groups, 1);
                self.kernel(p, weights, source, finisher, op.groups, map, 1, units, None)
            }
            _ => Err(Reject::new("neither a matrix product nor a convolution")),
        }
    }

    fn fit(&self, kernel: &TileKernel<T>, p: &Problem<'_>) -> Result<Fit, Reject> {
        let (w, source) = (&kernel.weights, &kernel.sweep.source);
        let rows = (kernel.units * source.unit * kernel.batch * kernel.groups) as f64;
        let k = (split::steps(w.k) * super::tile::STEP * w.taps) as f64;
        let n = (split::panels(w.n) * super::tile::COLS) as f64;
        let (speed, splitting) = self.products.costs();
        let few = (kernel.units as f64 / ROWS as f64).min(1.0);
        let height = if source.unit == 1 { few } else { source.filled() };
        let work = rows * k * n / (speed * (0.3 + 0.7 * height));
        let bytes = w.bytes(self.products) as f64;
        let traffic = bytes / 15.0;
        let passes = match source.kind {
            _ if source.direct => 0.0,
            Kind::Windows(_) => 2.0,
            // Each pixel once.
            Kind::Lines(g) => (g.stride[1] * g.stride[2]) as f64 / g.kernel[2] as f64,
            _ if source.narrow => 0.5,
            _ => 1.0,
        };
        let staged = rows * w.k as f64 * passes;
        let pack = if kernel.dynamic.is_some() { bytes } else { 0.0 };
        let post = rows * w.n as f64 * (0.2 + kernel.finisher.cost_per_element());
        let threads = p.threads.min(kernel.phases.iter().copied().max().unwrap_or(1)).max(1) as f64;
        let cost_ns = 150.0 + (work.max(traffic) + staged * splitting + pack + post) / threads;
        Ok(Fit { cost_ns })
    }
}

impl<T: Tiles + 'static> Tactic for TileTactic<T> {
    fn id(&self) -> &'static str {
        self.id
    }

    fn version(&self) -> u32 {
        5
    }

    fn packing(&self, p: &Problem<'_>, input: usize) -> Option<&'static str> {
        (input == 1 && p.inputs[1].constant.is_some()).then_some(self.packing)
    }

    fn packed_bytes(&self, p: &Problem<'_>, _input: usize) -> usize {
        Weights::new(p).map_or(0, |w| w.bytes(self.products))
    }

    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        weights::pack(self.products, p, input, out);
    }

    crate::tactic::built!();
}

impl<T: Tiles> TileKernel<T> {
    /// Packs a share of all matrices of a second operand that is not constant.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn pack_share(&self, dynamic: &Dynamic, task: usize, args: &Args<'_>) {
        let (w, products) = (&self.weights, self.sweep.products);
        let panels = split::panels(w.n);
        let panel_bytes = w.matrix_bytes(products) / panels;
        let (total, tasks) = (self.batch * panels, self.phases[0]);
        for i in total * task / tasks..total * (task + 1) / tasks {
            let (product, panel) = (i / panels, i % panels);
            // SAFETY: B has a matrix there, and the workspace room for all of them.
            unsafe {
                let offset = dynamic.offsets.offset(product);
                let to = args.workspace.add(i * panel_bytes);
                let Dynamic { row, col, .. } = *dynamic;
                let (taps, k, n) = (1, w.k, w.n);
                if self.sweep.source.narrow {
                    let from = args.inputs[1].cast::<half::bf16>().offset(offset);
                    dispatch(self.sweep.isa, PackPanel { products, from, row, col, taps, k, n, panel, to });
                } else {
                    let from = args.inputs[1].cast::<f32>().offset(offset);
                    dispatch(self.sweep.isa, PackPanel { products, from, row, col, taps, k, n, panel, to });
                }
            }
        }
    }
}

thread_local! {
    /// The tiles of the block at hand: kept, so that runs allocate nothing once they are warm.
    static GROUPS: RefCell<Vec<Group>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with the calling thread's room for tiles.
pub(super) fn with_groups(f: impl FnOnce(&mut Vec<Group>)) {
    GROUPS.with_borrow_mut(f);
}

impl<T: Tiles> Kernel for TileKernel<T> {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    fn workspace_bytes(&self) -> usize {
        if self.dynamic.is_some() { self.batch * self.weights.matrix_bytes(self.sweep.products) } else { 0 }
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        if let (Some(dynamic), 0) = (&self.dynamic, phase) {
            // SAFETY: by the caller's contract.
            unsafe { self.pack_share(dynamic, task, args) };
            return Ok(());
        }
        let (index, part) = (task / self.grid.tasks(), task % self.grid.tasks());
        let (product, group) = (index / self.groups, index % self.groups);
        let (units, panels) = self.grid.task(part);
        let units = product * self.units + units.start..product * self.units + units.end;
        let bytes = self.weights.matrix_bytes(self.sweep.products);
        // SAFETY: operands are as the problem said; the scratch has room for the epilogue and the sweep.
        unsafe {
            let b = match &self.dynamic {
                Some(_) => args.workspace.add(product * bytes).cast_const(),
                None => args.inputs[1].add(self.b.offset(product.max(group)) as usize * bytes),
            };
            let col = group * self.weights.n;
            let channels = if self.groups > 1 { group * self.sweep.source.run } else { 0 };
            let a = args.inputs[0].wrapping_add(channels * size(self.sweep.source.narrow));
            let c = args.outputs[0].wrapping_add(col * size(self.sweep.narrow));
            let room = args.scratch.add(self.finisher.scratch_bytes().next_multiple_of(64));
            self.finisher.with(args, col, args.scratch, |finish| {
                with_groups(|groups| self.sweep.run::<T>(a, units, panels, b, c, finish, room, groups));
            });
        }
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        self.finisher.in_place(input)
    }
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    static FEW: FewRows = FewRows;
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        use super::tile::Amx;
        static ROWS: [TileTactic<Amx>; 2] = [
            TileTactic::new("tiles.bf16x3.amx", Products::Three, "tiles.bf16x3"),
            TileTactic::new("tiles.bf16.amx", Products::One, "tiles.bf16"),
        ];
        static TRANSPOSED: [TransposedTactic<Amx>; 2] = [
            TransposedTactic::new("conv_transpose.tiles.bf16x3.amx", Products::Three, "tiles.classes.bf16x3"),
            TransposedTactic::new("conv_transpose.tiles.bf16.amx", Products::One, "tiles.classes.bf16"),
        ];
        static ALL: [&dyn Tactic; 5] = [&ROWS[0], &ROWS[1], &FEW, &TRANSPOSED[0], &TRANSPOSED[1]];
        &ALL
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    {
        static ALL: [&dyn Tactic; 1] = [&FEW];
        &ALL
    }
}
