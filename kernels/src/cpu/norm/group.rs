//! Group and instance normalisation of channels-last activations.

use crate::cpu::isa::Isa;
use crate::cpu::pointwise::{share, tasks};
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::{Axes, Storage, is_storage, with_storage};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};

/// GroupNorm and InstanceNorm of `[N, spatial.., C]` with contiguous channels, in three phases: moments of every channel
/// over parts of the positions, their combination to one factor and summand per channel, and the application.
///
/// Moments are taken of differences from the first position of the part, so that a large mean does not cancel the
/// variance; parts and channels combine by Chan's formula in `f64`.
#[derive(Debug)]
pub struct GroupNormTactic;

#[derive(Clone, Debug)]
struct Shape {
    dtype: DType,
    epsilon: f64,
    batch: usize,
    batch_strides: [isize; 2],
    channels: usize,
    /// Channels of one group.
    group: usize,
    positions: Axes<2>,
}

impl Shape {
    fn new(p: &Problem<'_>) -> Result<Shape, Reject> {
        let Op::GroupNorm(op) = p.op else { return Err(Reject::new("not group normalisation")) };
        let (x, y) = (&p.inputs[0].desc, &p.outputs[0]);
        if p.inputs.iter().map(|o| &o.desc).chain(p.outputs).any(|d| d.dtype != x.dtype)
            || !is_storage(x.dtype)
        {
            return Err(Reject(format!("group normalisation of {} with these parameter types", x.dtype)));
        }
        let last = x.rank().checked_sub(1).filter(|&l| l > 0).ok_or_else(|| Reject::new("rank below 2"))?;
        let channels = x.shape[last];
        let contiguous = |stride: isize| stride == 1 || channels <= 1;
        if !contiguous(x.strides[last]) || !contiguous(y.strides[last]) {
            return Err(Reject::new("channels are not contiguous"));
        }
        if p.inputs[1..].iter().any(|o| o.desc.count() != channels || !o.desc.is_dense()) {
            return Err(Reject::new("scale or bias is not a dense row of the channels"));
        }
        let groups = if op.groups == 0 { channels } else { op.groups };
        if groups == 0 || channels % groups != 0 {
            return Err(Reject::new("channels are no multiple of the groups"));
        }
        Ok(Shape {
            dtype: x.dtype,
            epsilon: op.epsilon.to_f64(),
            batch: x.shape[0],
            batch_strides: [x.strides[0], y.strides[0]],
            channels,
            group: channels / groups,
            positions: Axes::new((1..last).map(|i| (x.shape[i], [x.strides[i], y.strides[i]]))),
        })
    }

    fn empty(&self) -> bool {
        self.batch * self.channels * self.positions.count() == 0
    }

    fn cost(&self, isa: Isa) -> f64 {
        let per_element = if isa == Isa::Portable { 0.6 } else { 0.15 };
        let elements = (self.batch * self.channels * self.positions.count()) as f64;
        150.0 + elements * per_element + (self.batch * self.channels) as f64 * 5.0
    }
}

impl Tactic for GroupNormTactic {
    fn id(&self) -> &'static str {
        "group_norm.channels_last"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let shape = Shape::new(p)?;
        let cost = shape.cost(p.isa);
        let units = shape.batch * shape.positions.count();
        Ok(Fit { cost_ns: cost / tasks(cost, units, p.threads).clamp(1, p.threads.max(1)) as f64 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let shape = Shape::new(p).expect("accepted");
        let positions = shape.positions.count();
        // Parts of the positions of one batch item: about four tasks per thread over the batch.
        let wanted = tasks(shape.cost(p.isa) / 2.0, shape.batch * positions, p.threads);
        let parts = wanted.div_ceil(shape.batch.max(1)).clamp(1, positions.max(1));
        let phases = if shape.empty() {
            Vec::new()
        } else {
            vec![shape.batch * parts, shape.batch, shape.batch * parts]
        };
        Box::new(GroupNormKernel { shape, isa: p.isa, parts, phases })
    }
}

struct GroupNormKernel {
    shape: Shape,
    isa: Isa,
    parts: usize,
    phases: Vec<usize>,
}

impl GroupNormKernel {
    /// Floats of one batch item in the workspace: shift, sum and sum of squares per part and channel, then factor and
    /// summand per channel.
    fn stride(&self) -> usize {
        (3 * self.parts + 2) * self.shape.channels
    }
}

impl Kernel for GroupNormKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn workspace_bytes(&self) -> usize {
        self.shape.batch * self.stride() * 4
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        with_storage!(self.shape.dtype, T => dispatch(self.isa, Run::<T> {
            kernel: self,
            x: args.inputs[0].cast(),
            scale: args.inputs[1].cast(),
            bias: args.inputs[2].cast(),
            y: args.outputs[0].cast(),
            workspace: args.workspace.cast(),
            phase,
            task,
        }), else unreachable!("accepted types only"));
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        input == 0
    }
}

struct Run<'a, T> {
    kernel: &'a GroupNormKernel,
    x: *const T,
    scale: *const T,
    bias: *const T,
    y: *mut T,
    workspace: *mut f32,
    phase: usize,
    task: usize,
}

impl<T: Storage> Task for Run<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Run { kernel, phase, task, .. } = self;
        let shape = &kernel.shape;
        let channels = shape.channels;
        let parts = if phase == 1 { 1 } else { kernel.parts };
        let (item, part) = (task / parts, task % parts);
        let (first, last) = share(shape.positions.count(), parts, part);
        // SAFETY: tasks, parts and channels lie inside the tensors and the workspace as `stride` lays it out; tasks of one
        // phase write disjoint parts of it.
        unsafe {
            let own = self.workspace.add(item * kernel.stride());
            let x = self.x.offset(item as isize * shape.batch_strides[0]);
            let y = self.y.offset(item as isize * shape.batch_strides[1]);
            let coefficients = own.add(3 * kernel.parts * channels);
            match phase {
                0 => {
                    let moments = own.add(3 * part * channels);
                    let mut c = 0;
                    while c < channels {
                        // Two vectors at a time hide the latency of the additions.
                        let m = (2 * S::LANES).min(channels - c);
                        let m0 = m.min(S::LANES);
                        let m1 = m - m0;
                        let start = x.offset(shape.positions.offsets(first)[0]).add(c);
                        let k0 = T::load(s, start, m0);
                        let k1 = if m1 > 0 { T::load(s, start.add(m0), m1) } else { s.zero() };
                        let (mut a0, mut a1, mut q0, mut q1) = (s.zero(), s.zero(), s.zero(), s.zero());
                        for i in first..last {
                            let p = x.offset(shape.positions.offsets(i)[0]).add(c);
                            let d0 = s.sub(T::load(s, p, m0), k0);
                            a0 = s.add(a0, d0);
                            q0 = s.fma(d0, d0, q0);
                            if m1 > 0 {
                                let d1 = s.sub(T::load(s, p.add(m0), m1), k1);
                                a1 = s.add(a1, d1);
                                q1 = s.fma(d1, d1, q1);
                            }
                        }
                        for (row, (v0, v1)) in [(k0, k1), (a0, a1), (q0, q1)].into_iter().enumerate() {
                            let to = moments.add(row * channels + c);
                            s.store_n(to, m0, v0);
                            if m1 > 0 {
                                s.store_n(to.add(m0), m1, v1);
                            }
                        }
                        c += m;
                    }
                }
                1 => self.combine(own, coefficients),
                _ => {
                    for i in first..last {
                        let [from, to] = shape.positions.offsets(i);
                        let (x, y) = (x.offset(from), y.offset(to));
                        let mut c = 0;
                        while c < channels {
                            let m = S::LANES.min(channels - c);
                            let a = s.load_n(coefficients.add(c), m);
                            let b = s.load_n(coefficients.add(channels + c), m);
                            T::store(s, y.add(c), m, s.fma(T::load(s, x.add(c), m), a, b));
                            c += m;
                        }
                    }
                }
            }
        }
    }
}

impl<T: Storage> Run<'_, T> {
    /// One factor and one summand per channel from the moments of all parts.
    ///
    /// # Safety
    /// `own` and `coefficients` are those of a batch item in the workspace.
    #[inline(never)]
    unsafe fn combine(&self, own: *mut f32, coefficients: *mut f32) {
        let shape = &self.kernel.shape;
        let channels = shape.channels;
        let positions = shape.positions.count();
        for start in (0..channels).step_by(shape.group) {
            // Count, mean and sum of squared differences so far.
            let (mut count, mut mean, mut squares) = (0.0f64, 0.0f64, 0.0f64);
            for c in start..start + shape.group {
                for part in 0..self.kernel.parts {
                    let (first, last) = share(positions, self.kernel.parts, part);
                    let n = (last - first) as f64;
                    // SAFETY: inside the moments of the part.
                    let at = |row: usize| unsafe { f64::from(*own.add((3 * part + row) * channels + c)) };
                    let part_mean = at(0) + at(1) / n;
                    let part_squares = (at(2) - at(1) * at(1) / n).max(0.0);
                    let delta = part_mean - mean;
                    let total = count + n;
                    mean += delta * n / total;
                    squares += part_squares + delta * delta * count * n / total;
                    count = total;
                }
            }
            let factor = 1.0 / (squares / count + shape.epsilon).sqrt();
            for c in start..start + shape.group {
                // SAFETY: scale and bias hold `channels` elements, the coefficients twice as many.
                unsafe {
                    let a = f64::from((*self.scale.add(c)).widen()) * factor;
                    coefficients.add(c).write(a as f32);
                    let b = f64::from((*self.bias.add(c)).widen()) - mean * a;
                    coefficients.add(channels + c).write(b as f32);
                }
            }
        }
    }
}
