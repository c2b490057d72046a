//! `Op::Det`: elimination in `f64`, rows by vectors; matrices are shared out over threads.

use super::Isa;
use super::shared::{Shared, Units};
use super::simd::{Simd, Task, dispatch};
use super::storage::Axes;
use crate::tactic::Build;
use crate::{Args, Fit, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};

/// The rows of this family.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&DetTactic]
}

/// Matrices of `f32` or `f64` at any strides.
#[derive(Debug)]
pub struct DetTactic;

#[derive(Clone, Debug)]
pub(crate) struct Shape {
    dtype: DType,
    /// Rows of a matrix, and the strides of rows and columns.
    size: usize,
    strides: [isize; 2],
    /// Matrices and results.
    batch: Axes<2>,
}

impl Shape {
    fn new(p: &Problem<'_>) -> Result<Shape, Reject> {
        let Op::Det(_) = p.op else { return Err(Reject::new("no determinant")) };
        let (x, y) = (&p.inputs[0].desc, &p.outputs[0]);
        if !matches!(x.dtype, DType::F32 | DType::F64) {
            return Err(Reject(format!("determinants of {}", x.dtype)));
        }
        let outer = x.rank() - 2;
        let batch = Axes::new((0..outer).map(|a| (x.shape[a], [x.strides[a], y.strides[a]])));
        Ok(Shape {
            dtype: x.dtype,
            size: x.shape[outer],
            strides: [x.strides[outer], x.strides[outer + 1]],
            batch,
        })
    }
}

impl Tactic for DetTactic {
    fn id(&self) -> &'static str {
        "det.rows"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    crate::tactic::built!();
}

impl Build for DetTactic {
    type Kernel = Shared<Shape>;

    fn build(&self, p: &Problem<'_>) -> Result<Shared<Shape>, Reject> {
        Ok(Shared::new(Shape::new(p)?, p))
    }

    fn fit(&self, kernel: &Shared<Shape>, p: &Problem<'_>) -> Result<Fit, Reject> {
        Ok(kernel.fit(p))
    }
}

impl Units for Shape {
    fn units(&self) -> usize {
        self.batch.count()
    }

    /// Expected nanoseconds on one thread.
    fn cost(&self, isa: Isa) -> f64 {
        let n = self.size as f64;
        let per_value = if isa == Isa::Portable { 0.5 } else { 0.2 };
        100.0 + self.batch.count() as f64 * (10.0 + n * n * (1.0 + n * per_value / 3.0))
    }

    /// One matrix.
    fn scratch_bytes(&self) -> usize {
        8 * self.size * self.size
    }

    unsafe fn run(&self, isa: Isa, units: (usize, usize), args: &Args<'_>) -> Result<(), KernelError> {
        let n = self.size;
        for matrix in units.0..units.1 {
            let [from, to] = self.batch.offsets(matrix);
            // SAFETY: the scratch holds a matrix; elements of the operand and the result.
            unsafe {
                for i in 0..n * n {
                    let at = from + (i / n) as isize * self.strides[0] + (i % n) as isize * self.strides[1];
                    let value = match self.dtype {
                        DType::F64 => *args.inputs[0].cast::<f64>().offset(at),
                        _ => f64::from(*args.inputs[0].cast::<f32>().offset(at)),
                    };
                    args.scratch.cast::<f64>().add(i).write(value);
                }
                let values = std::slice::from_raw_parts_mut(args.scratch.cast::<f64>(), n * n);
                let det = dispatch(isa, Eliminate { values, n });
                match self.dtype {
                    DType::F64 => args.outputs[0].cast::<f64>().offset(to).write(det),
                    _ => args.outputs[0].cast::<f32>().offset(to).write(det as f32),
                }
            }
        }
        Ok(())
    }
}

/// The determinant of a matrix, which is overwritten.
struct Eliminate<'a> {
    values: &'a mut [f64],
    n: usize,
}

impl Task for Eliminate<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> f64 {
        let Eliminate { values, n } = self;
        let mut det = 1.0;
        let mut rest = values;
        // The matrix shrinks by a row; the columns before `k` are done.
        for k in 0..n {
            let size = |i: usize| rest[i * n + k].abs();
            let pivot = (1..n - k).fold(0, |best, i| if size(i) > size(best) { i } else { best });
            let (top, below) = std::mem::take(&mut rest).split_at_mut(n);
            if pivot > 0 {
                top.swap_with_slice(&mut below[(pivot - 1) * n..pivot * n]);
                det = -det;
            }
            if top[k] == 0.0 {
                return 0.0;
            }
            det *= top[k];
            for row in below.chunks_exact_mut(n) {
                let factor = row[k] / top[k];
                for (v, t) in row[k..].iter_mut().zip(&top[k..]) {
                    *v -= factor * t;
                }
            }
            rest = below;
        }
        det
    }
}
