//! `Op::Det`: elimination in `f64`, rows by vectors; matrices are shared out over threads.

use super::Isa;
use super::pointwise::{share, tasks};
use super::simd::{Simd, Task, dispatch};
use super::storage::Axes;
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};

/// The rows of this family.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&DetTactic]
}

/// Matrices of `f32` or `f64` at any strides.
#[derive(Debug)]
pub struct DetTactic;

#[derive(Clone, Debug)]
struct Shape {
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

    /// Expected nanoseconds on one thread.
    fn cost(&self, isa: Isa) -> f64 {
        let n = self.size as f64;
        let per_value = if isa == Isa::Portable { 0.5 } else { 0.2 };
        100.0 + self.batch.count() as f64 * (10.0 + n * n * (1.0 + n * per_value / 3.0))
    }
}

impl Tactic for DetTactic {
    fn id(&self) -> &'static str {
        "det.rows"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let shape = Shape::new(p)?;
        let (cost, units) = (shape.cost(p.isa), shape.batch.count());
        Ok(Fit { cost_ns: cost / tasks(cost, units, p.threads).clamp(1, p.threads.max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let shape = match Shape::new(p) {
            Ok(shape) => shape,
            Err(reason) => unreachable!("prepared without being accepted: {reason}"),
        };
        let phases = [tasks(shape.cost(p.isa), shape.batch.count(), p.threads)];
        Box::new(DetKernel { shape, isa: p.isa, phases })
    }
}

struct DetKernel {
    shape: Shape,
    isa: Isa,
    phases: [usize; 1],
}

impl Kernel for DetKernel {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    /// One matrix.
    fn scratch_bytes(&self) -> usize {
        8 * self.shape.size * self.shape.size
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let shape = &self.shape;
        let n = shape.size;
        let (first, last) = share(shape.batch.count(), self.phases[0], task);
        for matrix in first..last {
            let [from, to] = shape.batch.offsets(matrix);
            // SAFETY: the scratch holds a matrix; elements of the operand and the result.
            unsafe {
                for i in 0..n * n {
                    let at = from + (i / n) as isize * shape.strides[0] + (i % n) as isize * shape.strides[1];
                    let value = match shape.dtype {
                        DType::F64 => *args.inputs[0].cast::<f64>().offset(at),
                        _ => f64::from(*args.inputs[0].cast::<f32>().offset(at)),
                    };
                    args.scratch.cast::<f64>().add(i).write(value);
                }
                let values = std::slice::from_raw_parts_mut(args.scratch.cast::<f64>(), n * n);
                let det = dispatch(self.isa, Eliminate { values, n });
                match shape.dtype {
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
