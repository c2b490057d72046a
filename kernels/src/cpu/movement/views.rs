//! Operators that only place elements: each is a list of copies between strided views of its operands and its result.

use super::strided::{Axis, StridedCopy};
use super::tasks::{Parts, split};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic, TensorDesc};
use engraft_network::ops::{Concat, Expand, Pad, PadMode, Reshape, Slice, Tile, Transpose};
use engraft_network::{Dim, DimEnv, Op};
use smallvec::SmallVec;

/// Transpose, Reshape, Expand, Concat, Slice, Pad, Tile and BitCast of elements of whole bytes, at any strides.
#[derive(Debug)]
pub(super) struct Views;

/// A padding by repetition or reflection is a grid of regions, each a copy of its own: at most this many.
const MAX_REGIONS: usize = 2187;

/// One copy, and the operand that it reads.
type Part = (usize, StridedCopy);

impl Tactic for Views {
    fn id(&self) -> &'static str {
        "move.views"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let cost: f64 = parts(p)?.iter().map(|(_, copy)| copy.cost_ns()).sum();
        Ok(super::tasks::fit(cost, p.threads))
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        // Kernels are prepared for problems that were accepted: there is no reason to refuse left.
        let parts = parts(p).unwrap_or_default();
        let same = |i: usize| p.inputs[i].desc == p.outputs[0] || p.outputs[0].is_dense();
        let in_place =
            matches!(&parts[..], [(0, copy)] if copy.is_plain() && copy.src_offset == 0 && same(0));
        let weights = Parts::new(parts.iter().map(|(_, copy)| (copy.units(), copy.unit_bytes())));
        let phases = split(weights.total(), p.threads);
        Box::new(CopyKernel { parts, weights, phases, in_place })
    }
}

struct CopyKernel {
    parts: SmallVec<[Part; 2]>,
    weights: Parts,
    phases: SmallVec<[usize; 1]>,
    in_place: bool,
}

impl Kernel for CopyKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let dst = args.outputs[0];
        if self.in_place && args.inputs[0] == dst.cast_const() {
            return Ok(());
        }
        self.weights.for_task(task, self.phases[0], |part, units| {
            let (input, copy) = &self.parts[part];
            // SAFETY: the views were derived from the operands' and the result's shapes and strides.
            unsafe { copy.run(units, args.inputs[*input], dst) };
        });
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        self.in_place && input == 0
    }
}

/// The copies that make up the problem's operator.
fn parts(p: &Problem<'_>) -> Result<SmallVec<[Part; 2]>, Reject> {
    let x = |i: usize| &p.inputs[i].desc;
    let Some(out) = p.outputs.first() else { return Err(Reject::new("no result")) };
    if out.dtype.bits() < 8 {
        return match p.op {
            Op::Reshape(_) if x(0).is_dense() && out.is_dense() => {
                let run = Axis { size: out.dense_bytes(), src: 1, dst: 1 };
                Ok([(0, StridedCopy::new(1, [run]))].into_iter().collect())
            }
            _ => Err(Reject::new("4-bit elements")),
        };
    }
    match p.op {
        Op::Transpose(op) => Ok(one(transpose(op, x(0), out))),
        Op::Reshape(op) => reshape(op, x(0), out).map(one),
        Op::Expand(op) => Ok(one(expand(op, x(0), out))),
        Op::Slice(op) => slice(op, x(0), out, p.env).map(one),
        Op::Tile(op) => Ok(one(tile(op, x(0), out))),
        Op::Concat(op) => Ok(concat(op, p, out)),
        Op::Pad(op) => pad(op, p, out),
        Op::BitCast(_) => Ok(one(copy(width(out), axes_of(out, &x(0).strides, &out.strides)))),
        _ => Err(Reject::new("not an operator that only places elements")),
    }
}

fn one(copy: StridedCopy) -> SmallVec<[Part; 2]> {
    [(0, copy)].into_iter().collect()
}

fn width(desc: &TensorDesc) -> usize {
    desc.dtype.bits() / 8
}

/// A copy between views whose strides are given in elements.
fn copy(element: usize, axes: impl Iterator<Item = (usize, isize, isize)>) -> StridedCopy {
    let e = element as isize;
    StridedCopy::new(element, axes.map(|(size, src, dst)| Axis { size, src: src * e, dst: dst * e }))
}

fn transpose(op: &Transpose, x: &TensorDesc, out: &TensorDesc) -> StridedCopy {
    copy(width(out), op.perm.iter().enumerate().map(|(i, &p)| (out.shape[i], x.strides[p], out.strides[i])))
}

/// A reshape reads in row-major order what it writes in row-major order: one of the two must be dense, so that it can
/// be seen in the other's shape.
fn reshape(_: &Reshape, x: &TensorDesc, out: &TensorDesc) -> Result<StridedCopy, Reject> {
    if x.shape == out.shape {
        return Ok(copy(width(out), axes_of(x, &x.strides, &out.strides)));
    }
    if out.is_dense() {
        let dense = TensorDesc::dense(x.dtype, &x.shape);
        return Ok(copy(width(out), axes_of(x, &x.strides, &dense.strides)));
    }
    if x.is_dense() {
        let dense = TensorDesc::dense(x.dtype, &out.shape);
        return Ok(copy(width(out), axes_of(out, &dense.strides, &out.strides)));
    }
    Err(Reject::new("a reshape from strides to strides"))
}

fn axes_of<'a>(
    shape: &'a TensorDesc,
    src: &'a [isize],
    dst: &'a [isize],
) -> impl Iterator<Item = (usize, isize, isize)> + 'a {
    shape.shape.iter().zip(src).zip(dst).map(|((size, src), dst)| (*size, *src, *dst))
}

fn expand(_: &Expand, x: &TensorDesc, out: &TensorDesc) -> StridedCopy {
    let shift = out.rank() - x.rank();
    let source = |i: usize| match i.checked_sub(shift) {
        Some(a) if x.shape[a] != 1 => x.strides[a],
        _ => 0,
    };
    copy(width(out), (0..out.rank()).map(|i| (out.shape[i], source(i), out.strides[i])))
}

fn slice(op: &Slice, x: &TensorDesc, out: &TensorDesc, env: &DimEnv) -> Result<StridedCopy, Reject> {
    let mut strides = x.strides.clone();
    let mut offset = 0;
    for range in &op.ranges {
        let (start, length, size) =
            (range.start.eval(env), out.shape[range.axis] as i64, x.shape[range.axis] as i64);
        let last = start + (length - 1) * range.step;
        if length > 0 && !((0..size).contains(&start) && (0..size).contains(&last)) {
            return Err(Reject::new(format!("a slice of axis {} that leaves it", range.axis)));
        }
        offset += if length > 0 { start as isize * x.strides[range.axis] } else { 0 };
        strides[range.axis] *= range.step as isize;
    }
    let e = width(out);
    Ok(copy(e, axes_of(out, &strides, &out.strides)).at(offset * e as isize, 0))
}

fn tile(_: &Tile, x: &TensorDesc, out: &TensorDesc) -> StridedCopy {
    let axes = (0..out.rank()).flat_map(|i| {
        let size = x.shape[i];
        let repeats = out.shape[i].checked_div(size).unwrap_or(0);
        [(repeats, 0, out.strides[i] * size as isize), (size, x.strides[i], out.strides[i])]
    });
    copy(width(out), axes)
}

fn concat(op: &Concat, p: &Problem<'_>, out: &TensorDesc) -> SmallVec<[Part; 2]> {
    let e = width(out);
    let mut at = 0;
    let part = |(i, operand): (usize, &crate::Operand<'_>)| {
        let x = &operand.desc;
        let offset = at * out.strides[op.axis] * e as isize;
        at += x.shape[op.axis] as isize;
        (i, copy(e, axes_of(x, &x.strides, &out.strides)).at(0, offset))
    };
    p.inputs.iter().enumerate().map(part).collect()
}

/// Consecutive indices of a padded axis that read indices of x in equal steps.
struct Segment {
    dst: usize,
    len: usize,
    src: usize,
    step: isize,
}

fn pad(op: &Pad, p: &Problem<'_>, out: &TensorDesc) -> Result<SmallVec<[Part; 2]>, Reject> {
    let x = &p.inputs[0].desc;
    let sizes = |dims: &[Dim]| -> Result<SmallVec<[usize; 6]>, Reject> {
        let size = |d: &Dim| usize::try_from(d.eval(p.env)).map_err(|_| Reject::new("a negative padding"));
        dims.iter().map(size).collect()
    };
    let (before, after) = (sizes(&op.before)?, sizes(&op.after)?);
    if op.mode == PadMode::Constant {
        return Ok(pad_constant(x, out, &before, &after));
    }
    let mut grid: Vec<SmallVec<[Segment; 4]>> = Vec::with_capacity(out.rank());
    for a in 0..out.rank() {
        grid.push(segments(op.mode, x.shape[a], before[a], after[a])?);
    }
    if grid.iter().map(|s| s.len()).product::<usize>() > MAX_REGIONS {
        return Err(Reject::new("a padding many times as wide as its operand"));
    }
    let mut parts = SmallVec::new();
    let mut index = vec![0; grid.len()];
    if grid.iter().any(|segments| segments.is_empty()) {
        return Ok(parts);
    }
    let e = width(out);
    loop {
        let region = || index.iter().zip(&grid).map(|(&i, segments)| &segments[i]);
        let offsets = region()
            .zip(x.strides.iter().zip(&out.strides))
            .fold((0, 0), |(s, d), (r, (xs, os))| (s + r.src as isize * xs, d + r.dst as isize * os));
        let axes = region().enumerate().map(|(a, r)| (r.len, r.step * x.strides[a], out.strides[a]));
        parts.push((0, copy(e, axes).at(offsets.0 * e as isize, offsets.1 * e as isize)));
        let Some(a) = (0..grid.len()).rev().find(|&a| index[a] + 1 < grid[a].len()) else { return Ok(parts) };
        index[a] += 1;
        index[a + 1..].fill(0);
    }
}

/// The interior, and for each axis the slabs before and after it: full in later axes, interior in earlier ones.
fn pad_constant(x: &TensorDesc, out: &TensorDesc, before: &[usize], after: &[usize]) -> SmallVec<[Part; 2]> {
    let e = width(out);
    let place = |axes: &[usize]| -> isize {
        axes.iter().enumerate().map(|(a, at)| *at as isize * out.strides[a]).sum::<isize>() * e as isize
    };
    let mut parts = SmallVec::new();
    parts.push((0, copy(e, axes_of(x, &x.strides, &out.strides)).at(0, place(before))));
    for a in 0..out.rank() {
        for (start, len) in [(0, before[a]), (before[a] + x.shape[a], after[a])] {
            if len == 0 {
                continue;
            }
            let mut at: SmallVec<[usize; 6]> = SmallVec::from_elem(0, out.rank());
            at[..a].copy_from_slice(&before[..a]);
            at[a] = start;
            let size = |i: usize| match i.cmp(&a) {
                std::cmp::Ordering::Less => x.shape[i],
                std::cmp::Ordering::Equal => len,
                std::cmp::Ordering::Greater => out.shape[i],
            };
            let slab = copy(e, (0..out.rank()).map(|i| (size(i), 0, out.strides[i])));
            parts.push((1, slab.at(0, place(&at))));
        }
    }
    parts
}

/// Where a padded axis reads from.
fn segments(
    mode: PadMode,
    size: usize,
    before: usize,
    after: usize,
) -> Result<SmallVec<[Segment; 4]>, Reject> {
    let mut segments = SmallVec::new();
    if before + size + after == 0 {
        return Ok(segments);
    }
    if size == 0 {
        return Err(Reject::new("a padding of an empty axis from its own elements"));
    }
    match mode {
        PadMode::Constant => return Err(Reject::new("a constant is no element of the operand")),
        PadMode::Edge => {
            segments.push(Segment { dst: 0, len: before, src: 0, step: 0 });
            segments.push(Segment { dst: before, len: size, src: 0, step: 1 });
            segments.push(Segment { dst: before + size, len: after, src: size - 1, step: 0 });
        }
        PadMode::Wrap | PadMode::Reflect => {
            // The padded axis is a window of a periodic sequence that passes the operand forwards and, in reflection,
            // without its ends backwards.
            let reflect = mode == PadMode::Reflect && size > 1;
            let period = if reflect { 2 * size - 2 } else { size };
            let mut phase = (period - before % period) % period;
            let mut dst = 0;
            let total = before + size + after;
            while dst < total && segments.len() <= MAX_REGIONS {
                let (src, step, left) = if phase < size {
                    (phase, 1, size - phase)
                } else {
                    (period - phase, -1, period - phase)
                };
                let len = left.min(total - dst);
                segments.push(Segment { dst, len, src, step });
                dst += len;
                phase = (phase + len) % period;
            }
        }
    }
    segments.retain(|s| s.len > 0);
    Ok(segments)
}
