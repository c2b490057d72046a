//! Interpolation along one axis after the other, two neighbouring axes at a time: rows are combined vertically into
//! scratch memory that stays in the cache, then horizontally.

use super::super::tasks;
use super::taps::{Resampling, Taps, resize_of, resized};
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::{Args, Fit, Isa, Kernel, KernelError, Problem, Reject, Tactic, TensorDesc};
use engraft_network::DType;
use engraft_network::ops::ResizeMode;
use smallvec::SmallVec;

/// Linear, cubic and antialiased resizing of dense `f32` tensors.
#[derive(Debug)]
pub(in super::super) struct Interpolation;

struct InterpolationKernel {
    stages: Vec<Stage>,
    phases: SmallVec<[usize; 3]>,
    /// Floats of a combined row, and of the tensors between stages.
    row: usize,
    between: [usize; 2],
    isa: Isa,
}

/// A resize of up to two neighbouring axes of a dense tensor `[outer, height, width, inner]`.
struct Stage {
    outer: usize,
    height: Side,
    width: Side,
    inner: usize,
    extrapolation: f32,
}

/// An axis before and after a stage; without taps it stays.
struct Side {
    from: usize,
    to: usize,
    taps: Option<Taps>,
}

impl Tactic for Interpolation {
    fn id(&self) -> &'static str {
        "resize.interpolate"
    }

    fn computes(&self) -> Option<DType> {
        Some(DType::F32)
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let op = resize_of(p).ok_or_else(|| Reject::new("not a resize"))?;
        let radius = match op.mode {
            ResizeMode::Nearest(_) => return Err(Reject::new("no interpolation")),
            ResizeMode::Linear => 1.0,
            ResizeMode::Cubic { .. } => 2.0,
        };
        let (x, out) = (&p.inputs[0].desc, &p.outputs[0]);
        if out.dtype != DType::F32 {
            return Err(Reject::new(format!("interpolation of {}", out.dtype)));
        }
        if !x.is_dense() || !out.is_dense() {
            return Err(Reject::new("interpolation at strides"));
        }
        if x.count() == 0 && out.count() > 0 {
            return Err(Reject::new("nothing to resize"));
        }
        let mut taps = 1.0;
        let mut channels = out.rank();
        for (axis, scale) in resized(op, x, out) {
            taps += 2.0 * radius * if op.antialias { f64::from(1.0 / scale).max(1.0) } else { 1.0 };
            channels = axis + 1;
        }
        let lanes = (out.shape[channels..].iter().product::<usize>() as f64).clamp(1.0, 8.0);
        Ok(tasks::fit(out.count() as f64 * taps / lanes, p.threads))
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let (x, out) = (&p.inputs[0].desc, &p.outputs[0]);
        let stages = stages(p, x, out);
        // Each task combines at least some ten thousand floats.
        let phase = |stage: &Stage| {
            let rows = stage.outer * stage.height.to;
            let most = rows.min(if p.threads > 1 { 4 * p.threads } else { 1 });
            (rows * stage.width.to * stage.inner / 8192).clamp(1, most.max(1))
        };
        let phases = if out.count() == 0 { SmallVec::new() } else { stages.iter().map(phase).collect() };
        let row = stages.iter().map(|s| s.width.from * s.inner).max().unwrap_or(0);
        let mut between = [0; 2];
        for (i, stage) in stages.iter().enumerate().take(stages.len().saturating_sub(1)) {
            between[i % 2] = between[i % 2].max(stage.outer * stage.height.to * stage.width.to * stage.inner);
        }
        Box::new(InterpolationKernel { stages, phases, row, between, isa: p.isa })
    }
}

/// The stages: pairs of neighbouring resized axes, single ones, and a mere copy where nothing is resized.
fn stages(p: &Problem<'_>, x: &TensorDesc, out: &TensorDesc) -> Vec<Stage> {
    let Some(op) = resize_of(p) else { return Vec::new() };
    let mut shape: SmallVec<[usize; 6]> = x.shape.clone();
    let axes: SmallVec<[(usize, f32); 6]> = resized(op, x, out).collect();
    let mut stages = Vec::new();
    let mut at = 0;
    loop {
        let taps = |i: usize| {
            axes.get(i).map(|&(axis, scale)| (axis, Resampling::new(op, axis, scale, x, out).taps()))
        };
        let side = |shape: &[usize], axis: usize, taps| Side { from: shape[axis], to: out.shape[axis], taps };
        let whole = Side { from: 1, to: 1, taps: None };
        let product = |shape: &[usize]| shape.iter().product::<usize>();
        let stage = match (taps(at), taps(at + 1)) {
            (None, _) if at > 0 => return stages,
            (None, _) => Stage {
                outer: 1,
                height: whole,
                width: Side { from: 1, to: 1, taps: None },
                inner: product(&shape),
                extrapolation: 0.0,
            },
            (Some((a, vertical)), Some((b, horizontal))) if b == a + 1 => {
                at += 1;
                Stage {
                    outer: product(&shape[..a]),
                    height: side(&shape, a, Some(vertical)),
                    width: side(&shape, b, Some(horizontal)),
                    inner: product(&shape[b + 1..]),
                    extrapolation: 0.0,
                }
            }
            (Some((a, taps)), _) => {
                let (outer, inner) = (product(&shape[..a]), product(&shape[a + 1..]));
                let one = side(&shape, a, Some(taps));
                // With elements behind it the axis is vertical, else horizontal.
                let (height, width) = if inner > 1 { (one, whole) } else { (whole, one) };
                Stage { outer, height, width, inner, extrapolation: 0.0 }
            }
        };
        for (axis, _) in &axes[..(at + 1).min(axes.len())] {
            shape[*axis] = out.shape[*axis];
        }
        at += 1;
        stages.push(Stage { extrapolation: f32::from_bits(op.extrapolation), ..stage });
        if at >= axes.len() {
            return stages;
        }
    }
}

impl Kernel for InterpolationKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        4 * self.row
    }

    fn workspace_bytes(&self) -> usize {
        4 * (self.between[0].next_multiple_of(16) + self.between[1])
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        // SAFETY: the workspace holds the tensors between stages.
        let between = |i: usize| unsafe {
            args.workspace.cast::<f32>().add(if i.is_multiple_of(2) {
                0
            } else {
                self.between[0].next_multiple_of(16)
            })
        };
        let src = if phase == 0 { args.inputs[0].cast() } else { between(phase - 1).cast_const() };
        let dst = if phase + 1 == self.stages.len() { args.outputs[0].cast() } else { between(phase) };
        let stage = &self.stages[phase];
        let rows = tasks::share(stage.outer * stage.height.to, task, self.phases[phase]);
        for row in rows {
            let (o, y) = (row / stage.height.to, row % stage.height.to);
            let (from, to) = (stage.width.from * stage.inner, stage.width.to * stage.inner);
            // SAFETY: row `y` of the stage's result, and the plane that it is made of; operands are aligned for
            // their elements.
            unsafe {
                let plane = src.add(o * stage.height.from * from);
                let scratch = args.scratch.cast();
                dispatch(self.isa, Row { stage, y, plane, scratch, out: dst.add(row * to) });
            }
        }
        Ok(())
    }
}

/// One row of a stage's result.
struct Row<'a> {
    stage: &'a Stage,
    y: usize,
    plane: *const f32,
    scratch: *mut f32,
    out: *mut f32,
}

impl Task for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Row { stage, y, plane, scratch, out } = self;
        let (from, inner) = (stage.width.from * stage.inner, stage.inner);
        // SAFETY: rows of the plane, the scratch row and the row of the result have the stage's sizes.
        unsafe {
            let to = stage.width.to * inner;
            let (row, direct) = match &stage.height.taps {
                None => (plane.add(y * from), false),
                Some(taps) => {
                    let (first, weights) = taps.of(y);
                    if weights.is_empty() {
                        std::slice::from_raw_parts_mut(out, to).fill(stage.extrapolation);
                        return;
                    }
                    let target = if stage.width.taps.is_some() { scratch } else { out };
                    if weights == [1.0] && stage.width.taps.is_some() {
                        (plane.add(first * from), false)
                    } else {
                        combine(s, plane.add(first * from), from, weights, target, from);
                        (target.cast_const(), stage.width.taps.is_none())
                    }
                }
            };
            match &stage.width.taps {
                None if direct => {}
                None => std::ptr::copy_nonoverlapping(row, out, to),
                Some(taps) => {
                    for x in 0..stage.width.to {
                        let (first, weights) = taps.of(x);
                        let target = out.add(x * inner);
                        if weights.is_empty() {
                            std::slice::from_raw_parts_mut(target, inner).fill(stage.extrapolation);
                        } else if inner == 1 {
                            let mut sum = 0.0;
                            for (i, weight) in weights.iter().enumerate() {
                                sum += weight * *row.add(first + i);
                            }
                            *target = sum;
                        } else {
                            combine(s, row.add(first * inner), inner, weights, target, inner);
                        }
                    }
                }
            }
        }
    }
}

/// `out[i] = sum over k of weights[k] * src[k * step + i]` for `i < n`. At least one weight.
///
/// # Safety
/// All these elements are readable and writable; `out` does not overlap `src`.
#[inline(always)]
unsafe fn combine<S: Simd>(s: S, src: *const f32, step: usize, weights: &[f32], out: *mut f32, n: usize) {
    // SAFETY: as above.
    unsafe {
        let mut i = 0;
        while i + 2 * S::LANES <= n {
            let mut a = s.mul(s.splat(weights[0]), s.load(src.add(i)));
            let mut b = s.mul(s.splat(weights[0]), s.load(src.add(i + S::LANES)));
            for (k, weight) in weights.iter().enumerate().skip(1) {
                let (w, from) = (s.splat(*weight), src.add(k * step + i));
                a = s.fma(w, s.load(from), a);
                b = s.fma(w, s.load(from.add(S::LANES)), b);
            }
            s.store(out.add(i), a);
            s.store(out.add(i + S::LANES), b);
            i += 2 * S::LANES;
        }
        while i < n {
            let left = (n - i).min(S::LANES);
            let mut a = s.mul(s.splat(weights[0]), s.load_n(src.add(i), left));
            for (k, weight) in weights.iter().enumerate().skip(1) {
                a = s.fma(s.splat(*weight), s.load_n(src.add(k * step + i), left), a);
            }
            s.store_n(out.add(i), left, a);
            i += left;
        }
    }
}
