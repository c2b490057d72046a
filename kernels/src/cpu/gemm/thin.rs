//! `Op::MatMul` with few rows and a B that is not known in advance: B is read once, in place, instead of being packed.

use super::epilogue::{Finisher, Number, dense_rows, is_type};
use super::grid::tasks_for;
use super::lanes::{Elem, Lanes};
use super::matmul::{Operand2, batch_dims};
use super::rows::RowMap;
use crate::tactic::Build;
use crate::{Args, Fit, Isa, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};
use smallvec::SmallVec;

/// Rows of one kernel call.
const ROWS: usize = 4;
/// Rows up to which packing B does not pay.
const MOST_ROWS: usize = 8;
/// Vectors of columns that a kernel over rows of B accumulates at once, and dot products that run side by side.
const VECTORS: usize = 4;

/// One call: up to [`ROWS`] rows of A times `cols` columns of B.
struct Slice<'a, E> {
    k: usize,
    /// A row each.
    a: &'a [*const E],
    a_step: isize,
    b: *const E,
    /// Distance of rows of B, or of columns where those are contiguous.
    b_step: isize,
    cols: usize,
    c: &'a [*mut E],
}

/// # Safety
/// The CPU has the kernel's instruction set; operands are readable, C is writable for the slice.
type ThinKernel<E> = unsafe fn(&Slice<'_, E>);
/// Adds `bias` and `residual` (null for none) to `n` values and clips them.
///
/// # Safety
/// As [`ThinKernel`].
type FinishKernel<E> = unsafe fn(*mut E, usize, *const E, *const E, Option<(E, E)>);

/// Kernels of one instruction set; `rows` and `dots` by number of rows of A less one.
pub(super) struct Thin<E: 'static> {
    lanes: usize,
    rows: [ThinKernel<E>; ROWS],
    dots: [ThinKernel<E>; ROWS],
    finish: FinishKernel<E>,
}

/// Rows of B are contiguous: accumulates vectors of columns.
///
/// # Safety
/// See [`ThinKernel`].
#[inline(always)]
unsafe fn over_rows<V: Lanes, const M: usize>(s: &Slice<'_, V::E>) {
    // SAFETY: by the caller's contract.
    unsafe {
        let mut col = 0;
        while col < s.cols {
            let n = (s.cols - col).min(VECTORS * V::N);
            let full = n == VECTORS * V::N;
            let part = |j: usize| n.saturating_sub(j * V::N).min(V::N);
            let mut acc = [[V::splat(V::E::ZERO); VECTORS]; M];
            for k in 0..s.k {
                let b = s.b.offset(k as isize * s.b_step).add(col);
                let mut row = [V::splat(V::E::ZERO); VECTORS];
                for (j, v) in row.iter_mut().enumerate() {
                    let p = b.wrapping_add(j * V::N);
                    *v = if full { V::load(p) } else { V::load_n(p, part(j)) };
                }
                for i in 0..M {
                    let a = V::splat(*s.a[i].offset(k as isize * s.a_step));
                    for j in 0..VECTORS {
                        acc[i][j] = acc[i][j].fma(a, row[j]);
                    }
                }
            }
            for i in 0..M {
                for j in 0..VECTORS {
                    let p = s.c[i].add(col).wrapping_add(j * V::N);
                    if full { acc[i][j].store(p) } else { acc[i][j].store_n(p, part(j)) }
                }
            }
            col += n;
        }
    }
}

/// Columns of B are contiguous, and so are rows of A: dot products.
///
/// # Safety
/// See [`ThinKernel`].
#[inline(always)]
unsafe fn over_columns<V: Lanes, const M: usize>(s: &Slice<'_, V::E>) {
    // SAFETY: by the caller's contract.
    unsafe {
        let mut col = 0;
        while col < s.cols {
            let n = (s.cols - col).min(VECTORS);
            let mut acc = [[V::splat(V::E::ZERO); VECTORS]; M];
            // Missing columns repeat the last.
            let mut b = [s.b; VECTORS];
            for (j, p) in b.iter_mut().enumerate() {
                *p = s.b.offset((col + j.min(n - 1)) as isize * s.b_step);
            }
            let mut k = 0;
            while k + V::N <= s.k {
                for i in 0..M {
                    let a = V::load(s.a[i].add(k));
                    for j in 0..VECTORS {
                        acc[i][j] = acc[i][j].fma(a, V::load(b[j].add(k)));
                    }
                }
                k += V::N;
            }
            if k < s.k {
                let rest = s.k - k;
                for i in 0..M {
                    let a = V::load_n(s.a[i].add(k), rest);
                    for j in 0..VECTORS {
                        acc[i][j] = acc[i][j].fma(a, V::load_n(b[j].add(k), rest));
                    }
                }
            }
            for i in 0..M {
                for (j, acc) in acc[i].iter().enumerate().take(n) {
                    let mut lanes = [V::E::ZERO; 16];
                    acc.store(lanes.as_mut_ptr());
                    let mut width = V::N;
                    while width > 1 {
                        width /= 2;
                        for l in 0..width {
                            lanes[l] = lanes[l].plus(lanes[l + width]);
                        }
                    }
                    s.c[i].add(col + j).write(lanes[0]);
                }
            }
            col += n;
        }
    }
}

/// # Safety
/// See [`FinishKernel`].
#[inline(always)]
unsafe fn finish<V: Lanes>(
    c: *mut V::E,
    n: usize,
    bias: *const V::E,
    residual: *const V::E,
    clip: Option<(V::E, V::E)>,
) {
    for at in (0..n).step_by(V::N) {
        let part = V::N.min(n - at);
        // SAFETY: by the caller's contract.
        unsafe {
            let load = |p: *const V::E| V::load_n(p.add(at), part);
            let mut v = load(c);
            if !bias.is_null() {
                v = v.add(load(bias));
            }
            if !residual.is_null() {
                v = v.add(load(residual));
            }
            if let Some((low, high)) = clip {
                v = v.at_least(V::splat(low)).at_most(V::splat(high));
            }
            v.store_n(c.add(at), part);
        }
    }
}

macro_rules! thin {
    ($name:ident, $lanes:ty, [$($feature:literal),*]) => {
        pub(super) static $name: Thin<<$lanes as Lanes>::E> = {
            type E = <$lanes as Lanes>::E;
            $(#[target_feature(enable = $feature)])*
            unsafe fn rows<const M: usize>(s: &Slice<'_, E>) {
                // SAFETY: the caller vouches for the instruction set and the slice.
                unsafe { over_rows::<$lanes, M>(s) }
            }
            $(#[target_feature(enable = $feature)])*
            unsafe fn dots<const M: usize>(s: &Slice<'_, E>) {
                // SAFETY: the caller vouches for the instruction set and the slice.
                unsafe { over_columns::<$lanes, M>(s) }
            }
            $(#[target_feature(enable = $feature)])*
            unsafe fn end(c: *mut E, n: usize, bias: *const E, residual: *const E, clip: Option<(E, E)>) {
                // SAFETY: the caller vouches for the instruction set and the operands.
                unsafe { finish::<$lanes>(c, n, bias, residual, clip) }
            }
            Thin {
                lanes: <$lanes as Lanes>::N,
                rows: [rows::<1>, rows::<2>, rows::<3>, rows::<4>],
                dots: [dots::<1>, dots::<2>, dots::<3>, dots::<4>],
                finish: end,
            }
        };
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use std::arch::x86_64::*;
    thin!(F32_AVX512, __m512, ["avx512f"]);
    thin!(F32_AVX2, __m256, ["avx2,fma"]);
    thin!(F64_AVX512, __m512d, ["avx512f"]);
    thin!(F64_AVX2, __m256d, ["avx2,fma"]);
}
#[cfg(target_arch = "x86_64")]
use x86::*;

mod portable {
    use super::super::lanes::Array;
    use super::*;
    thin!(F32_PORTABLE, Array<f32, 4>, []);
    thin!(F64_PORTABLE, Array<f64, 2>, []);
}
use portable::*;

/// One kernel set.
pub struct ThinTactic<E: 'static> {
    id: &'static str,
    isa: Isa,
    thin: &'static Thin<E>,
}

pub(crate) struct ThinMatMul<E: 'static> {
    thin: &'static Thin<E>,
    finisher: Finisher<E>,
    batch: usize,
    m: usize,
    k: usize,
    n: usize,
    a: RowMap,
    a_step: isize,
    /// Matrices of B over the batch.
    b: RowMap,
    /// Distance of rows of B, or of its columns where `dots`.
    b_step: isize,
    dots: bool,
    out: RowMap,
    residual: RowMap,
    /// Columns of one task, and tasks along them.
    cols: usize,
    across: usize,
    /// Products of one task.
    group: usize,
    phases: SmallVec<[usize; 1]>,
}

impl<E: Number> Build for ThinTactic<E> {
    type Kernel = ThinMatMul<E>;

    fn build(&self, p: &Problem<'_>) -> Result<ThinMatMul<E>, Reject> {
        let Op::MatMul(op) = p.op else { return Err(Reject::new("not a matrix product")) };
        if p.isa < self.isa || !self.isa.supported() {
            return Err(Reject::new(format!("needs {}", self.isa)));
        }
        let (a, b, out) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        if [a, b, out].iter().any(|d| !is_type::<E>(d.dtype)) || matches!(out.dtype, DType::U32 | DType::U64)
        {
            return Err(Reject::new("another type"));
        }
        if p.inputs[1].constant.is_some() {
            return Err(Reject::new("B is packed in advance"));
        }
        let left = Operand2::new(a, op.trans_a);
        let right = Operand2::new(b, op.trans_b);
        let (m, k, n) = (left.rows, left.cols, right.cols);
        if m > MOST_ROWS || k == 0 {
            return Err(Reject::new("too many rows"));
        }
        let dots = right.col != 1 && n > 1;
        if dots && (right.row != 1 || left.col != 1) {
            return Err(Reject::new("neither rows nor columns of B are contiguous"));
        }
        let four = || Reject::new("more than four strides");
        let empty = out.count() == 0;
        let out_rows = if empty { RowMap::uniform(0, 0) } else { dense_rows(out)? };
        let finisher = Finisher::<E>::new(&op.epilogue, p.inputs, 2, out, p.isa)?;
        let batch: usize = out.shape[..out.rank() - 2].iter().product();
        let tasks = tasks_for(4.0 * (batch * m.max(4) * n * k) as f64, p.threads);
        let group = batch.div_ceil(tasks).max(1);
        let unit = VECTORS * self.thin.lanes;
        let each = tasks.div_ceil(batch.max(1)).min(n.div_ceil(unit)).max(1);
        let cols = n.div_ceil(each).next_multiple_of(unit).max(1);
        let across = n.div_ceil(cols);
        let mut phases = SmallVec::new();
        if !empty {
            phases.push(batch.div_ceil(group) * across);
        }
        Ok(ThinMatMul {
            thin: self.thin,
            batch,
            m,
            k,
            n,
            a: RowMap::new(batch_dims(a, out).chain([(m, left.row)])).ok_or_else(four)?,
            a_step: left.col,
            b: RowMap::new(batch_dims(b, out)).ok_or_else(four)?,
            b_step: if dots { right.col } else { right.row },
            dots,
            out: out_rows,
            residual: finisher.residual_rows(out_rows),
            finisher,
            cols,
            across,
            group,
            phases,
        })
    }

    fn fit(&self, t: &ThinMatMul<E>, p: &Problem<'_>) -> Result<Fit, Reject> {
        let products = (t.batch * t.m * t.k * t.n) as f64;
        let bytes = (t.batch * t.k * t.n * size_of::<E>()) as f64;
        let work = products / (self.thin.lanes as f64 * if t.dots { 0.8 } else { 1.5 });
        let reduce = if t.dots { (t.batch * t.m * t.n) as f64 * 2.0 } else { 0.0 };
        let traffic = bytes / if bytes > 8e6 { 12.0 } else { 40.0 };
        let post = (t.batch * t.m * t.n) as f64 * (0.1 + t.finisher.cost_per_element());
        let threads = p.threads.min(t.phases.first().copied().unwrap_or(1)).max(1) as f64;
        Ok(Fit { cost_ns: 100.0 + (work.max(traffic) + reduce + post) / threads })
    }
}

impl<E: Number> Tactic for ThinTactic<E> {
    fn id(&self) -> &'static str {
        self.id
    }

    fn computes(&self) -> Option<DType> {
        Some(E::DTYPE)
    }

    crate::tactic::built!();
}

impl<E: Number> Kernel for ThinMatMul<E> {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.finisher.scratch_bytes()
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (group, part) = (task / self.across, task % self.across);
        let first = part * self.cols;
        let cols = self.cols.min(self.n - first);
        let column = if self.dots { self.b_step } else { 1 };
        // SAFETY: rows and columns of the task are inside the operands, as the problem described them.
        unsafe {
            self.finisher.with(args, 0, args.scratch, |finish| {
                for index in group * self.group..self.batch.min((group + 1) * self.group) {
                    let matrix = args.inputs[1].cast::<E>().offset(self.b.offset(index));
                    let b = matrix.offset(first as isize * column);
                    for row in (0..self.m).step_by(ROWS) {
                        let rows = ROWS.min(self.m - row);
                        let row = index * self.m + row;
                        let mut a = [std::ptr::null::<E>(); ROWS];
                        let mut c = [std::ptr::null::<E>(); ROWS];
                        self.a.point(args.inputs[0].cast::<E>(), row, rows, a.as_mut_ptr());
                        self.out.point(args.outputs[0].cast::<E>().cast_const(), row, rows, c.as_mut_ptr());
                        let whole = c.map(<*const E>::cast_mut);
                        let c = whole.map(|p| p.wrapping_add(first));
                        let slice = Slice {
                            k: self.k,
                            a: &a[..rows],
                            a_step: self.a_step,
                            b,
                            b_step: self.b_step,
                            cols,
                            c: &c[..rows],
                        };
                        let kernels = if self.dots { &self.thin.dots } else { &self.thin.rows };
                        kernels[rows - 1](&slice);
                        let plain =
                            finish.bias.is_null() && finish.residual.is_null() && finish.clip.is_none();
                        for (i, &c) in c[..rows].iter().enumerate().filter(|_| !plain) {
                            let bias =
                                if finish.bias.is_null() { finish.bias } else { finish.bias.add(first) };
                            let residual = if finish.residual.is_null() {
                                finish.residual
                            } else {
                                finish
                                    .residual
                                    .wrapping_offset(self.residual.offset(row + i))
                                    .wrapping_add(first)
                            };
                            (self.thin.finish)(c, cols, bias, residual, finish.clip);
                        }
                        if let Some(post) = finish.post {
                            post.apply(&whole[..rows], row, first, cols);
                        }
                    }
                }
            });
        }
        Ok(())
    }
}

/// The family's rows of the catalog.
pub(super) fn tactics() -> Vec<&'static dyn Tactic> {
    macro_rules! rows {
        ($($t:ty, $id:literal, $isa:ident, $thin:ident;)*) => {
            vec![$({
                static ROW: ThinTactic<$t> = ThinTactic { id: $id, isa: Isa::$isa, thin: &$thin };
                &ROW as &dyn Tactic
            }),*]
        };
    }
    #[cfg(target_arch = "x86_64")]
    let mut all: Vec<&'static dyn Tactic> = rows! {
        f32, "matmul.f32.avx512.thin", Avx512, F32_AVX512;
        f32, "matmul.f32.avx2.thin", Avx2, F32_AVX2;
        f64, "matmul.f64.avx512.thin", Avx512, F64_AVX512;
        f64, "matmul.f64.avx2.thin", Avx2, F64_AVX2;
    };
    #[cfg(not(target_arch = "x86_64"))]
    let mut all: Vec<&'static dyn Tactic> = Vec::new();
    all.extend(rows! {
        f32, "matmul.f32.portable.thin", Portable, F32_PORTABLE;
        f64, "matmul.f64.portable.thin", Portable, F64_PORTABLE;
    });
    all
}
