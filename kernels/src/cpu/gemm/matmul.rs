//! `Op::MatMul` as tactics over the sweep.

use super::epilogue::{Finisher, Number, dense_rows, is_type};
use super::grid::{Grid, tasks_for};
use super::micro::{self, Micro};
use super::rows::RowMap;
use super::sweep::{Gathered, Strided, Sweep};
use crate::cpu::pack::{self, Matrix};
use crate::tactic::Build;
use crate::{Args, Fit, Isa, Kernel, KernelError, Problem, Reject, Tactic, TensorDesc};
use engraft_network::ops::MatMul;
use engraft_network::{DType, Op};
use smallvec::SmallVec;
use std::ops::Range;

/// One micro-kernel set, rows of A used in place or copied.
pub struct MatMulTactic<E: 'static> {
    id: &'static str,
    isa: Isa,
    micro: &'static Micro<E>,
    copied: bool,
    packing: &'static str,
    /// Multiply-adds per nanosecond of one thread at best.
    speed: f64,
}

/// The last two axes of an operand, and the axes before them.
pub(crate) struct Operand2 {
    pub rows: usize,
    pub cols: usize,
    pub row: isize,
    pub col: isize,
}

impl Operand2 {
    pub fn new(desc: &TensorDesc, transposed: bool) -> Self {
        let (r, c) = (desc.rank() - 2, desc.rank() - 1);
        let (r, c) = if transposed { (c, r) } else { (r, c) };
        Operand2 { rows: desc.shape[r], cols: desc.shape[c], row: desc.strides[r], col: desc.strides[c] }
    }
}

/// Strides of `desc`'s leading axes along the leading axes of `out`.
pub(crate) fn batch_dims<'a>(
    desc: &'a TensorDesc,
    out: &'a TensorDesc,
) -> impl Iterator<Item = (usize, isize)> + 'a {
    let lead = out.rank() - 2;
    let shift = out.rank() - desc.rank();
    (0..lead).map(move |axis| {
        let stride = match axis.checked_sub(shift) {
            Some(a) if desc.shape[a] != 1 => desc.strides[a],
            _ => 0,
        };
        (out.shape[axis], stride)
    })
}

/// Where B comes from.
#[derive(Clone, Copy, Debug)]
enum Weights {
    /// Packed when the engine was built; matrices of a batch follow one another.
    Packed,
    /// Packed by each task for itself.
    Local { row: isize, col: isize },
    /// Packed by a first phase for all tasks.
    Shared { row: isize, col: isize },
}

/// A product ready to run: `batch` products of `m x k` by `k x n`.
pub(crate) struct MatMulKernel<E: 'static> {
    sweep: Sweep<E>,
    finisher: Finisher<E>,
    batch: usize,
    /// Rows of one product.
    m: usize,
    k: usize,
    /// Rows of A over all products, and the distance of elements along k.
    a: RowMap,
    a_step: isize,
    copied: bool,
    /// Matrices of B over the batch: an offset in elements, or in packed matrices.
    b: RowMap,
    weights: Weights,
    grid: Grid,
    /// Products of one task.
    group: usize,
    /// Matrices of B to pack, where a phase does that.
    matrices: usize,
    phases: SmallVec<[usize; 2]>,
    scratch: usize,
    packed_matrix: usize,
    in_place: bool,
}

/// Bytes of packed B that a task may keep for itself.
const LOCAL_BYTES: usize = 1 << 20;

impl<E: Number> MatMulTactic<E> {
    fn op<'a>(&self, p: &'a Problem<'_>) -> Result<&'a MatMul, Reject> {
        let Op::MatMul(op) = p.op else { return Err(Reject::new("not a matrix product")) };
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

impl<E: Number> Build for MatMulTactic<E> {
    type Kernel = MatMulKernel<E>;

    fn build(&self, p: &Problem<'_>) -> Result<MatMulKernel<E>, Reject> {
        let op = self.op(p)?;
        let (a, b, out) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        let left = Operand2::new(a, op.trans_a);
        let right = Operand2::new(b, op.trans_b);
        let (m, k, n) = (left.rows, left.cols, right.cols);
        if k == 0 {
            return Err(Reject::new("an empty sum"));
        }
        let mut out_rows = dense_rows(out)?;
        let finisher = Finisher::<E>::new(&op.epilogue, p.inputs, 2, out, p.isa)?;
        let a_rows = RowMap::new(batch_dims(a, out).chain([(m, left.row)]))
            .ok_or_else(|| Reject::new("rows of A at more than four strides"))?;
        let constant = p.inputs[1].constant.is_some();
        let packed_matrix = pack::packed_len::<E>(k, n);
        // A constant's matrices were packed one after another; its own strides no longer matter.
        let one = TensorDesc::dense(b.dtype, &b.shape);
        let b_rows = if constant {
            let matrix = (k * n) as isize;
            RowMap::new(batch_dims(&one, out).map(|(size, stride)| (size, stride / matrix)))
        } else {
            RowMap::new(batch_dims(b, out))
        }
        .ok_or_else(|| Reject::new("matrices of B at more than four strides"))?;
        let mut batch: usize = out.shape[..out.rank() - 2].iter().product();
        let (mut m, mut b_rows) = (m, b_rows);
        if batch > 1 && b_rows.stride() == Some(0) {
            // One B for all: the batch is only more rows.
            (m, batch, b_rows) = (m * batch, 1, RowMap::uniform(1, 0));
        }
        if out.count() == 0 {
            out_rows = RowMap::uniform(0, 0);
        }

        let flops = 2.0 * (batch * m * n * k) as f64;
        let tasks = tasks_for(flops, p.threads);
        let panels = pack::panels::<E>(n);
        let group = batch.div_ceil(tasks).max(1);
        let each = tasks.div_ceil(batch.max(1));
        let grid = Grid::even(m, panels, self.micro.rows(), each);
        let (row, col) = (right.row, right.col);
        let weights = if constant {
            Weights::Packed
        } else if grid.tasks() == 1
            || packed_matrix.div_ceil(grid.across) * size_of::<E>() <= LOCAL_BYTES && grid.down <= 2
        {
            Weights::Local { row, col }
        } else {
            Weights::Shared { row, col }
        };
        let sweep = Sweep::new(self.micro, n, 1, k, out_rows, finisher.residual_rows(out_rows));
        let copied = self.copied || left.col != 1;
        let a_source = (std::ptr::null(), a_rows, k);
        let mut scratch = if copied {
            sweep.scratch_bytes(&Gathered::<E> { base: a_source.0, rows: a_rows, k, step: left.col })
        } else {
            sweep.scratch_bytes(&Strided::<E> { base: a_source.0, rows: a_rows, k })
        }
        .next_multiple_of(64)
            + finisher.scratch_bytes();
        let mut phases = SmallVec::new();
        let mut matrices = 0;
        match weights {
            Weights::Packed => {}
            Weights::Local { .. } => scratch += packed_matrix * size_of::<E>(),
            Weights::Shared { .. } => {
                matrices = batch;
                phases.push((batch * panels).min(2 * p.threads));
            }
        }
        phases.push(batch.div_ceil(group) * grid.tasks());
        if batch * m * n == 0 {
            phases.clear();
        }
        let in_place = sweep.is_single_pass();
        Ok(MatMulKernel {
            sweep,
            finisher,
            batch,
            m,
            k,
            a: a_rows,
            a_step: left.col,
            copied,
            b: b_rows,
            weights,
            grid,
            group,
            matrices,
            phases,
            scratch,
            packed_matrix,
            in_place,
        })
    }

    fn fit(&self, kernel: &MatMulKernel<E>, p: &Problem<'_>) -> Result<Fit, Reject> {
        let op = self.op(p)?;
        let left = Operand2::new(&p.inputs[0].desc, op.trans_a);
        let contiguous = left.col == 1;
        if self.copied && !contiguous {
            return Err(Reject::new("copied in any case"));
        }
        let (m, k, n) = (kernel.batch * kernel.m, kernel.k, kernel.sweep.n);
        let rows = self.micro.rows();
        let padded = (pack::panels::<E>(n) * E::PANEL) as f64 / n.max(1) as f64;
        // Rows that share a cache set evict each other; copying costs a pass over A.
        let collide = left.row * size_of::<E>() as isize % 2048 == 0 && kernel.m >= rows;
        let mut work = (m * k * n) as f64 * padded / self.speed;
        if collide && !self.copied {
            work *= 1.3;
        }
        let a_bytes = (m * k * size_of::<E>()) as f64;
        let b_bytes = (kernel.b.rows().min(kernel.batch) * k * n * size_of::<E>()) as f64;
        let traffic = b_bytes / if b_bytes > 8e6 { 12.0 } else { 60.0 };
        let copy = if self.copied || !contiguous { a_bytes / 20.0 } else { 0.0 };
        let pack = if matches!(kernel.weights, Weights::Packed) { 0.0 } else { b_bytes / 8.0 };
        let post = (m * n) as f64 * (0.05 + kernel.finisher.cost_per_element());
        let threads = p.threads.min(kernel.phases.iter().copied().max().unwrap_or(1)).max(1) as f64;
        Ok(Fit { cost_ns: 100.0 + (work.max(traffic) + copy + pack + post) / threads })
    }
}

impl<E: Number> Tactic for MatMulTactic<E> {
    fn id(&self) -> &'static str {
        self.id
    }

    fn version(&self) -> u32 {
        3
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
        let Op::MatMul(op) = p.op else { return 0 };
        let desc = &p.inputs[input].desc;
        let b = Operand2::new(desc, op.trans_b);
        let matrices: usize = desc.shape[..desc.rank() - 2].iter().product();
        matrices * pack::packed_len::<E>(b.rows, b.cols) * size_of::<E>()
    }

    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        let (Op::MatMul(op), Some(tensor)) = (p.op, p.inputs[input].constant) else { return };
        // A constant is dense, whatever the strides that its reader sees.
        let desc = TensorDesc::dense(tensor.dtype(), tensor.shape());
        let b = Operand2::new(&desc, op.trans_b);
        let matrix = b.rows * b.cols;
        let packed = pack::packed_len::<E>(b.rows, b.cols);
        assert_eq!(out.len(), self.packed_bytes(p, input), "packed operand of another size");
        let matrices = tensor.count().checked_div(matrix).unwrap_or(0);
        for i in 0..matrices {
            // SAFETY: matrix `i` lies inside the tensor and inside `out`, whose length was checked.
            unsafe {
                let data = tensor.bytes().as_ptr().cast::<E>().add(i * matrix);
                let from = Matrix { data, row: b.row, col: b.col };
                pack::pack(from, b.rows, b.cols, out.as_mut_ptr().cast::<E>().add(i * packed));
            }
        }
    }

    crate::tactic::built!();
}

impl<E: Number> MatMulKernel<E> {
    /// Packs a share of all matrices of B.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn pack_share(&self, task: usize, args: &Args<'_>, row: isize, col: isize) {
        let panels = pack::panels::<E>(self.sweep.n);
        let total = self.matrices * panels;
        let tasks = self.phases[0];
        for i in total * task / tasks..total * (task + 1) / tasks {
            let (matrix, panel) = (i / panels, i % panels);
            // SAFETY: B has a matrix there, and the workspace room for all of them.
            unsafe {
                let data = args.inputs[1].cast::<E>().offset(self.b.offset(matrix));
                let out =
                    args.workspace.cast::<E>().add(matrix * self.packed_matrix + panel * E::PANEL * self.k);
                pack::pack_panel(Matrix { data, row, col }, self.k, self.sweep.n, panel * E::PANEL, out);
            }
        }
    }

    /// Rows and panels of one product of the batch.
    ///
    /// # Safety
    /// See [`Kernel::run`].
    unsafe fn product(&self, index: usize, rows: Range<usize>, panels: Range<usize>, args: &Args<'_>) {
        // SAFETY: scratch holds the sweep's part and then a packed matrix, as `build` sized it; operands are as the
        // problem said.
        unsafe {
            let scratch = args.scratch.add(self.finisher.scratch_bytes());
            let (b, room): (*const E, *mut u8) = match self.weights {
                Weights::Packed => {
                    let matrix = self.b.offset(index) as usize;
                    (args.inputs[1].cast::<E>().add(matrix * self.packed_matrix), scratch)
                }
                Weights::Shared { .. } => {
                    (args.workspace.cast::<E>().add(index * self.packed_matrix).cast_const(), scratch)
                }
                Weights::Local { row, col } => {
                    let out = scratch.cast::<E>();
                    let data = args.inputs[1].cast::<E>().offset(self.b.offset(index));
                    for panel in panels.clone() {
                        let to = out.add(panel * E::PANEL * self.k);
                        pack::pack_panel(
                            Matrix { data, row, col },
                            self.k,
                            self.sweep.n,
                            panel * E::PANEL,
                            to,
                        );
                    }
                    (out.cast_const(), scratch.add(self.packed_matrix * size_of::<E>()))
                }
            };
            let rows = index * self.m + rows.start..index * self.m + rows.end;
            let (base, c) = (args.inputs[0].cast::<E>(), args.outputs[0].cast::<E>());
            self.finisher.with(args, 0, args.scratch, |finish| {
                if self.copied {
                    let source = Gathered { base, rows: self.a, k: self.k, step: self.a_step };
                    self.sweep.run(&source, rows, panels, b, c, finish, room);
                } else {
                    let source = Strided { base, rows: self.a, k: self.k };
                    self.sweep.run(&source, rows, panels, b, c, finish, room);
                }
            });
        }
    }
}

impl<E: Number> Kernel for MatMulKernel<E> {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.scratch
    }

    fn workspace_bytes(&self) -> usize {
        self.matrices * self.packed_matrix * size_of::<E>()
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        if let (Weights::Shared { row, col }, 0) = (self.weights, phase) {
            // SAFETY: by the caller's contract.
            unsafe { self.pack_share(task, args, row, col) };
            return Ok(());
        }
        let (group, part) = (task / self.grid.tasks(), task % self.grid.tasks());
        let (rows, panels) = self.grid.task(part);
        for index in group * self.group..self.batch.min((group + 1) * self.group) {
            // SAFETY: by the caller's contract.
            unsafe { self.product(index, rows.clone(), panels.clone(), args) };
        }
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        self.in_place && self.finisher.in_place(input)
    }
}

macro_rules! rows {
    ($($t:ty, $id:literal, $isa:ident, $micro:ident, $copied:literal, $packing:literal, $speed:literal;)*) => {
        &[$(&MatMulTactic::<$t> {
            id: $id, isa: Isa::$isa, micro: &micro::$micro, copied: $copied, packing: $packing, speed: $speed,
        }),*]
    };
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    #[cfg(target_arch = "x86_64")]
    static X86: &[&dyn Tactic] = rows! {
        f32, "matmul.f32.avx512.12x32", Avx512, F32_AVX512, false, "panels.f32", 55.0;
        f32, "matmul.f32.avx512.12x32.copied", Avx512, F32_AVX512, true, "panels.f32", 55.0;
        f32, "matmul.f32.avx2.6x16", Avx2, F32_AVX2, false, "panels.f32", 48.0;
        f32, "matmul.f32.avx2.6x16.copied", Avx2, F32_AVX2, true, "panels.f32", 48.0;
        f64, "matmul.f64.avx512.12x16", Avx512, F64_AVX512, false, "panels.f64", 26.0;
        f64, "matmul.f64.avx2.6x8", Avx2, F64_AVX2, false, "panels.f64", 23.0;
        i32, "matmul.i32.avx512.6x32", Avx512, I32_AVX512, false, "panels.i32", 20.0;
        i32, "matmul.i32.avx2.4x16", Avx2, I32_AVX2, false, "panels.i32", 15.0;
        i64, "matmul.i64.avx512.6x16", Avx512, I64_AVX512, false, "panels.i64", 5.0;
        i64, "matmul.i64.avx2.4x8", Avx2, I64_AVX2, false, "panels.i64", 3.0;
    };
    static PORTABLE: &[&dyn Tactic] = rows! {
        f32, "matmul.f32.portable.6x8", Portable, F32_PORTABLE, false, "panels.f32", 15.0;
        f64, "matmul.f64.portable.6x4", Portable, F64_PORTABLE, false, "panels.f64", 7.0;
        i32, "matmul.i32.portable.6x8", Portable, I32_PORTABLE, false, "panels.i32", 5.0;
        i64, "matmul.i64.portable.6x4", Portable, I64_PORTABLE, false, "panels.i64", 2.0;
    };
    static ALL: std::sync::OnceLock<Vec<&'static dyn Tactic>> = std::sync::OnceLock::new();
    ALL.get_or_init(|| {
        let mut all: Vec<&'static dyn Tactic> = Vec::new();
        #[cfg(target_arch = "x86_64")]
        all.extend_from_slice(X86);
        all.extend_from_slice(PORTABLE);
        all.extend(super::thin::tactics());
        all
    })
}
