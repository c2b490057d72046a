//! Few rows times constant weights in bf16: vectors read what is packed for tiles, so that half the bytes are streamed.

use super::split::{panels, steps};
use super::tile::{COLS, Products, ROWS, STEP};
use super::weights::{self, Weights};
use crate::cpu::gemm::epilogue::{Finisher, dense_rows};
use crate::cpu::gemm::grid::tasks_for;
use crate::cpu::gemm::matmul::{Operand2, batch_dims};
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::gemm::sweep::Finish;
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::Storage;
use crate::tactic::Build;
use crate::{Args, Fit, Isa, Kernel, KernelError, Precision, Problem, Reject, Tactic};
use engraft_network::{DType, Op};
use smallvec::SmallVec;

/// `Op::MatMul` of `f32` rows and constant weights under [`Precision::Bf16`]. The rows stay `f32`.
pub(super) struct FewRows;

/// Rows up to which weights are worth passing by vectors.
const MOST_ROWS: usize = 32;
/// Rows of A that one pass over a panel serves.
const PASS: usize = 4;

pub(crate) struct FewKernel {
    finisher: Finisher<f32>,
    isa: Isa,
    m: usize,
    k: usize,
    n: usize,
    a: RowMap,
    a_step: isize,
    out: RowMap,
    residual: RowMap,
    phases: SmallVec<[usize; 1]>,
}

impl Build for FewRows {
    type Kernel = FewKernel;

    fn build(&self, p: &Problem<'_>) -> Result<FewKernel, Reject> {
        let Op::MatMul(op) = p.op else { return Err(Reject::new("not a matrix product")) };
        if p.precision != Precision::Bf16 {
            return Err(Reject(format!("for precision {}", Precision::Bf16)));
        }
        let (a, b, out) = (&p.inputs[0].desc, &p.inputs[1].desc, &p.outputs[0]);
        if [a, b, out].iter().any(|d| d.dtype != DType::F32) {
            return Err(Reject::new("another type"));
        }
        if p.inputs[1].constant.is_none() {
            return Err(Reject::new("weights that are not constant"));
        }
        let weights = Weights::new(p)?;
        let m: usize = out.shape[..out.rank() - 1].iter().product();
        if weights.matrices != 1 || weights.k == 0 {
            return Err(Reject::new("several matrices of weights, or none"));
        }
        if !(1..=MOST_ROWS).contains(&m) || out.count() == 0 {
            return Err(Reject::new("too many rows"));
        }
        let left = Operand2::new(a, op.trans_a);
        let rows = RowMap::new(batch_dims(a, out).chain([(left.rows, left.row)]))
            .ok_or_else(|| Reject::new("rows of A at more than four strides"))?;
        let finisher = Finisher::new(&op.epilogue, p.inputs, 2, out, p.isa)?;
        let out_rows = dense_rows(out)?;
        let flops = 2.0 * (m.max(PASS) * weights.k * weights.n) as f64;
        let tasks = tasks_for(flops, p.threads).min(panels(weights.n));
        Ok(FewKernel {
            residual: finisher.residual_rows(out_rows),
            finisher,
            isa: p.isa,
            m,
            k: weights.k,
            n: weights.n,
            a: rows,
            a_step: left.col,
            out: out_rows,
            phases: SmallVec::from_slice(&[tasks]),
        })
    }

    fn fit(&self, t: &FewKernel, p: &Problem<'_>) -> Result<Fit, Reject> {
        let weights = (t.k * t.n) as f64;
        let speed = match p.isa {
            Isa::Portable => 1.5,
            Isa::Avx2 => 12.0,
            Isa::Avx512 | Isa::Amx => 30.0,
        };
        let bytes = 2.0 * weights;
        let traffic = bytes / if bytes > 8e6 { 11.0 } else { 30.0 };
        let post = (t.m * t.n) as f64 * (0.1 + t.finisher.cost_per_element());
        let threads = p.threads.min(t.phases[0]).max(1) as f64;
        Ok(Fit { cost_ns: 100.0 + ((t.m as f64 * weights / speed).max(traffic) + post) / threads })
    }
}

impl Tactic for FewRows {
    fn id(&self) -> &'static str {
        "tiles.bf16.few"
    }

    fn packing(&self, p: &Problem<'_>, input: usize) -> Option<&'static str> {
        (input == 1 && p.inputs[1].constant.is_some()).then_some("tiles.bf16")
    }

    fn packed_bytes(&self, p: &Problem<'_>, _input: usize) -> usize {
        Weights::new(p).map_or(0, |w| w.bytes(Products::One))
    }

    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        weights::pack(Products::One, p, input, out);
    }

    crate::tactic::built!();
}

impl FewKernel {
    /// Floats of a row of A in scratch, where zeros fill up the last step.
    fn pitch(&self) -> usize {
        steps(self.k) * STEP
    }
}

impl Kernel for FewKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.finisher.scratch_bytes().next_multiple_of(64) + self.m * self.pitch() * 4
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (all, tasks) = (panels(self.n), self.phases[0]);
        let rows =
            args.scratch.wrapping_add(self.finisher.scratch_bytes().next_multiple_of(64)).cast::<f32>();
        // SAFETY: operands are as the problem said; the scratch has room for the epilogue and for the rows.
        unsafe {
            for i in 0..self.m {
                let from = args.inputs[0].cast::<f32>().offset(self.a.offset(i));
                let to = rows.add(i * self.pitch());
                if self.a_step == 1 {
                    std::ptr::copy_nonoverlapping(from, to, self.k);
                } else {
                    for k in 0..self.k {
                        to.add(k).write(*from.offset(k as isize * self.a_step));
                    }
                }
                std::ptr::write_bytes(to.add(self.k), 0, self.pitch() - self.k);
            }
            self.finisher.with(args, 0, args.scratch, |finish| {
                for panel in all * task / tasks..all * (task + 1) / tasks {
                    for row in (0..self.m).step_by(PASS) {
                        let count = PASS.min(self.m - row);
                        let (mut c, mut residual) = ([std::ptr::null(); PASS], [std::ptr::null(); PASS]);
                        let out = args.outputs[0].cast::<f32>();
                        self.out.point(out.cast_const(), row, count, c.as_mut_ptr());
                        if !finish.residual.is_null() {
                            self.residual.point(finish.residual, row, count, residual.as_mut_ptr());
                        }
                        let c = c.map(<*const f32>::cast_mut);
                        let col = panel * COLS;
                        let cols = COLS.min(self.n - col);
                        let a = std::array::from_fn(|i| {
                            rows.add((row + i.min(count - 1)) * self.pitch()).cast_const()
                        });
                        let b = args.inputs[1].add(panel * steps(self.k) * Products::One.panel_bytes());
                        let pass = Pass {
                            a,
                            b,
                            steps: steps(self.k),
                            col,
                            cols,
                            c: &c[..count],
                            residual: &residual,
                            finish,
                        };
                        dispatch(self.isa, pass);
                        if let Some(post) = finish.post {
                            post.apply(&c[..count], row, col, cols);
                        }
                    }
                }
            });
        }
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        self.finisher.in_place(input)
    }
}

/// Up to [`PASS`] rows of A times one panel.
struct Pass<'a> {
    a: [*const f32; PASS],
    b: *const u8,
    steps: usize,
    col: usize,
    cols: usize,
    c: &'a [*mut f32],
    residual: &'a [*const f32; PASS],
    finish: &'a Finish<'a, f32>,
}

/// Bytes of weights from what is computed to what is fetched.
const AHEAD: usize = 2048;

impl Pass<'_> {
    #[inline(always)]
    unsafe fn rows<S: Simd, const M: usize>(&self, s: S) {
        // The columns of a tile, as many at a time as a vector holds.
        for part in (0..ROWS).step_by(S::LANES) {
            // Sums of both tiles, products of even and of odd k apart: chains of additions are short.
            let mut sums = [[[s.zero(); 2]; 2]; M];
            for step in 0..self.steps {
                let b = self.b.wrapping_add(step * Products::One.panel_bytes());
                for pair in 0..STEP / 2 {
                    for (tile, at) in [(0, pair * 64), (1, 1024 + pair * 64)] {
                        let b = b.wrapping_add(at);
                        if part == 0 {
                            crate::cpu::gemm::micro::prefetch(b.wrapping_add(AHEAD));
                        }
                        // SAFETY: the panel has the step; rows of A are filled up to whole steps.
                        unsafe {
                            let both = s.load_i(b.add(part * 4).cast());
                            let even = s.float(s.shl_i::<16>(both));
                            let odd = s.float(s.and_i(both, s.splat_i(!0xffff)));
                            for (i, sums) in sums.iter_mut().enumerate() {
                                let a = self.a[i].add(step * STEP + 2 * pair);
                                let sums = &mut sums[tile];
                                sums[0] = s.fma(s.splat(*a), even, sums[0]);
                                sums[1] = s.fma(s.splat(*a.add(1)), odd, sums[1]);
                            }
                        }
                    }
                }
            }
            let (low, high) = self.finish.clip.unwrap_or((f32::NEG_INFINITY, f32::INFINITY));
            let (low, high) = (s.splat(low), s.splat(high));
            for (i, sums) in sums.iter().enumerate() {
                for (tile, sums) in sums.iter().enumerate() {
                    let j = tile * ROWS + part;
                    let m = S::LANES.min(self.cols.saturating_sub(j));
                    if m == 0 {
                        continue;
                    }
                    let at = self.col + j;
                    // SAFETY: C, bias and residual have the columns.
                    unsafe {
                        let mut x = s.add(sums[0], sums[1]);
                        if !self.finish.bias.is_null() {
                            x = s.add(x, f32::load(s, self.finish.bias.add(at), m));
                        }
                        if !self.residual[i].is_null() {
                            x = s.add(x, f32::load(s, self.residual[i].add(at), m));
                        }
                        // The operand order lets NaN through.
                        x = s.min(high, s.max(low, x));
                        f32::store(s, self.c[i].add(at), m, x);
                    }
                }
            }
        }
    }
}

impl Task for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: who makes one vouches for its pointers.
        unsafe {
            match self.c.len() {
                1 => self.rows::<S, 1>(s),
                2 => self.rows::<S, 2>(s),
                3 => self.rows::<S, 3>(s),
                _ => self.rows::<S, PASS>(s),
            }
        }
    }
}
