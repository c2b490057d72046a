//! Normalisation of contiguous rows.

use crate::cpu::isa::Isa;
use crate::cpu::pointwise::{share, tasks};
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::softmax::keep;
use crate::cpu::storage::{Axes, Storage, is_storage, with_storage};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic, TensorDesc};
use engraft_network::{DType, Op};

/// LayerNorm and RMSNorm over trailing axes that lie contiguous in operand and result. The variance is the mean of squared
/// differences from the mean (two passes over a row that is hot in cache), in `f32`.
#[derive(Debug)]
pub struct LayerNormTactic;

/// How scale and bias are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parameter {
    Absent,
    Scalar,
    Row,
}

#[derive(Clone, Debug)]
struct Shape {
    dtype: DType,
    rms: bool,
    epsilon: f32,
    len: usize,
    rows: Axes<2>,
    scale: Parameter,
    bias: Parameter,
}

/// Whether the axes from `axis` on lie dense.
fn dense_from(d: &TensorDesc, axis: usize) -> bool {
    let tail =
        TensorDesc { dtype: d.dtype, shape: d.shape[axis..].into(), strides: d.strides[axis..].into() };
    tail.is_dense()
}

impl Shape {
    fn new(p: &Problem<'_>) -> Result<Shape, Reject> {
        let Op::LayerNorm(op) = p.op else { return Err(Reject::new("not layer normalisation")) };
        let (x, y) = (&p.inputs[0].desc, &p.outputs[0]);
        if p.inputs.iter().map(|o| &o.desc).chain(p.outputs).any(|d| d.dtype != x.dtype)
            || !is_storage(x.dtype)
        {
            return Err(Reject(format!("layer normalisation of {} with these parameter types", x.dtype)));
        }
        if !dense_from(x, op.axis) || !dense_from(y, op.axis) {
            return Err(Reject::new("normalised axes are not contiguous"));
        }
        let row = &x.shape[op.axis..];
        let mut parameters = p.inputs[1..].iter();
        let mut parameter = |present: bool| -> Result<Parameter, Reject> {
            let Some(d) = parameters.next().filter(|_| present).map(|o| &o.desc) else {
                return Ok(Parameter::Absent);
            };
            let significant =
                |s: &[usize]| -> Vec<usize> { s.iter().copied().skip_while(|&n| n == 1).collect() };
            if d.count() == 1 {
                Ok(Parameter::Scalar)
            } else if significant(&d.shape) == significant(row) && d.is_dense() {
                Ok(Parameter::Row)
            } else {
                Err(Reject::new("scale or bias is not a dense row"))
            }
        };
        let scale = if op.scale { parameter(true)? } else { Parameter::Absent };
        let bias = if op.bias { parameter(true)? } else { Parameter::Absent };
        Ok(Shape {
            dtype: x.dtype,
            rms: op.rms,
            epsilon: op.epsilon.to_f64() as f32,
            len: row.iter().product(),
            rows: Axes::new((0..op.axis).map(|i| (x.shape[i], [x.strides[i], y.strides[i]]))),
            scale,
            bias,
        })
    }

    fn units(&self) -> usize {
        if self.len == 0 { 0 } else { self.rows.count() }
    }

    fn cost(&self, isa: Isa) -> f64 {
        let per_element = if isa == Isa::Portable { 0.8 } else { 0.2 };
        60.0 + self.units() as f64 * (15.0 + self.len as f64 * per_element)
    }
}

impl Tactic for LayerNormTactic {
    fn id(&self) -> &'static str {
        "layer_norm.rows"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let shape = Shape::new(p)?;
        let cost = shape.cost(p.isa);
        Ok(Fit { cost_ns: cost / tasks(cost, shape.units(), p.threads).clamp(1, p.threads.max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let shape = Shape::new(p).expect("accepted");
        let phases = [tasks(shape.cost(p.isa), shape.units(), p.threads)];
        Box::new(LayerNormKernel { shape, isa: p.isa, phases })
    }
}

struct LayerNormKernel {
    shape: Shape,
    isa: Isa,
    phases: [usize; 1],
}

impl Kernel for LayerNormKernel {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (first, last) = share(self.shape.units(), self.phases[0], task);
        let mut parameters = args.inputs[1..].iter().copied();
        let mut next = |p: Parameter| if p == Parameter::Absent { None } else { parameters.next() };
        let (scale, bias) = (next(self.shape.scale), next(self.shape.bias));
        with_storage!(self.shape.dtype, T => dispatch(self.isa, Run::<T> {
            shape: &self.shape,
            x: args.inputs[0].cast(),
            y: args.outputs[0].cast(),
            scale: scale.map_or(std::ptr::null(), |p| p.cast()),
            bias: bias.map_or(std::ptr::null(), |p| p.cast()),
            first,
            last,
        }), else unreachable!("accepted types only"));
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        input == 0
    }
}

struct Run<'a, T> {
    shape: &'a Shape,
    x: *const T,
    y: *mut T,
    scale: *const T,
    bias: *const T,
    first: usize,
    last: usize,
}

impl<T: Storage> Task for Run<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { shape, first, last, .. } = self;
        let n = shape.len;
        for unit in first..last {
            let [from, to] = shape.rows.offsets(unit);
            // SAFETY: rows lie inside the tensors, n contiguous elements each; parameters hold n elements or one.
            unsafe {
                let (x, y) = (self.x.offset(from), self.y.offset(to));
                let mean = if shape.rms { 0.0 } else { sum(s, x, n, s.zero(), false) / n as f32 };
                let center = s.splat(mean);
                let variance = sum(s, x, n, center, true) / n as f32;
                let factor = s.splat(1.0 / (variance + shape.epsilon).sqrt());
                let parameter = |p: *const T, kind: Parameter, absent: f32| match kind {
                    Parameter::Scalar => s.splat((*p).widen()),
                    _ => s.splat(absent),
                };
                let scale = parameter(self.scale, shape.scale, 1.0);
                let bias = parameter(self.bias, shape.bias, 0.0);
                let mut i = 0;
                while i < n {
                    let m = S::LANES.min(n - i);
                    let a =
                        if shape.scale == Parameter::Row { T::load(s, self.scale.add(i), m) } else { scale };
                    let b = if shape.bias == Parameter::Row { T::load(s, self.bias.add(i), m) } else { bias };
                    let v = s.mul(s.sub(T::load(s, x.add(i), m), center), factor);
                    T::store(s, y.add(i), m, s.fma(v, a, b));
                    i += S::LANES;
                }
            }
        }
    }
}

/// The sum of `x - center`, or of its square.
#[inline(always)]
unsafe fn sum<S: Simd, T: Storage>(s: S, x: *const T, n: usize, center: S::F, square: bool) -> f32 {
    let mut sums = [s.zero(); 4];
    let term = |sum: S::F, v: S::F| {
        let d = s.sub(v, center);
        if square { s.fma(d, d, sum) } else { s.add(sum, d) }
    };
    let mut i = 0;
    // SAFETY: n elements.
    unsafe {
        while i + 4 * S::LANES <= n {
            for (k, sum) in sums.iter_mut().enumerate() {
                *sum = term(*sum, T::load(s, x.add(i + k * S::LANES), S::LANES));
            }
            i += 4 * S::LANES;
        }
        while i < n {
            let m = S::LANES.min(n - i);
            let v = T::load(s, x.add(i), m);
            let d = s.sub(v, center);
            let d = if m == S::LANES { d } else { keep(s, d, m) };
            sums[0] = if square { s.fma(d, d, sums[0]) } else { s.add(sums[0], d) };
            i += S::LANES;
        }
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}
