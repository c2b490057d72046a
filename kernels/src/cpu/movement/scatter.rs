//! ScatterElements and ScatterNd: a copy of x in which the places that tuples of indices lead to are written or combined
//! with updates, in the order of the updates.

use super::combine::{Combine, combine};
use super::index::{Block, Tuples, byte_strides, whole_bytes};
use super::strided::{Axis, StridedCopy};
use super::tasks::{self, share};
use super::walk::Walk;
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic, TensorDesc};
use engraft_network::Op;
use engraft_network::ops::ScatterReduction;

/// The indexed writes of the network, of elements of whole bytes at any strides.
#[derive(Debug)]
pub(super) struct Scatters;

struct ScatterKernel {
    base: StridedCopy,
    /// Over the tuples: strides in the result (of axes that it shares with the indices), in the indices and in the updates.
    walk: Walk<3>,
    tuples: Tuples,
    write: Write,
    /// Bytes by which task `t` of the second phase is ahead of the first one in the views of the walk, times `t`: where
    /// an axis is independent of the others it is cut, and each task walks a part of it.
    lanes: Option<Lanes>,
    phases: [usize; 2],
    in_place: bool,
}

/// An axis that no tuple can leave.
#[derive(Clone, Copy)]
struct Lanes {
    size: usize,
    strides: [isize; 3],
}

enum Write {
    Replace(Block),
    /// Combined elements: how, how many, and their distance in the result and the updates.
    Combine {
        how: Combine,
        count: usize,
        out: isize,
        updates: isize,
    },
}

impl Tactic for Scatters {
    fn id(&self) -> &'static str {
        "move.scatter"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let kernel = kernel(p)?;
        let lanes = kernel.lanes.map_or(1, |l| l.size);
        let each = match &kernel.write {
            Write::Replace(block) => 4.0 + block.bytes() as f64 / 10.0,
            Write::Combine { count, .. } => 4.0 + *count as f64,
        };
        let base = tasks::fit(kernel.base.cost_ns(), p.threads);
        Ok(Fit { cost_ns: base.cost_ns + lanes as f64 * kernel.walk.count() as f64 * each })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        match kernel(p) {
            Ok(kernel) => Box::new(kernel),
            Err(reason) => unreachable!("prepared without being accepted: {reason}"),
        }
    }
}

fn kernel(p: &Problem<'_>) -> Result<ScatterKernel, Reject> {
    if !matches!(p.op, Op::ScatterElements(_) | Op::ScatterNd(_)) {
        return Err(Reject::new("not a scatter"));
    }
    let [x, indices, updates] = [0, 1, 2].map(|i| &p.inputs[i].desc);
    let out = &p.outputs[0];
    whole_bytes(out)?;
    let (is, us, os) = (byte_strides(indices), byte_strides(updates), byte_strides(out));
    let e = out.dtype.bits() / 8;
    let xs = byte_strides(x);
    let base =
        StridedCopy::new(e, (0..out.rank()).map(|a| Axis { size: out.shape[a], src: xs[a], dst: os[a] }));
    let (walk, tuples, write, lanes) = match p.op {
        Op::ScatterElements(op) => {
            let shared = |a: usize| if a == op.axis { 0 } else { os[a] };
            let axis = |a: usize| (indices.shape[a], [shared(a), is[a], us[a]]);
            // Elements of different positions on the other axes never meet: the largest of these axes is cut.
            let cut = (0..out.rank()).filter(|a| *a != op.axis).max_by_key(|a| indices.shape[*a]);
            let lanes = cut.map(axis).map(|(size, strides)| Lanes { size, strides });
            let walk = Walk::new((0..out.rank()).filter(|a| Some(*a) != cut).map(axis));
            let tuples = Tuples::new(indices.dtype, 0, [(out.shape[op.axis], os[op.axis])])?;
            let write = match op.reduction {
                ScatterReduction::None => Write::Replace(Block::Run(e)),
                how => Write::Combine { how: combine(how, out.dtype)?, count: 1, out: 0, updates: 0 },
            };
            (walk, tuples, write, lanes)
        }
        Op::ScatterNd(op) => {
            let last = indices.rank() - 1;
            let k = indices.shape[last];
            let walk = Walk::new((0..last).map(|a| (indices.shape[a], [0, is[a], us[a]])));
            let tuples = Tuples::new(indices.dtype, is[last], (0..k).map(|a| (out.shape[a], os[a])))?;
            let write = match op.reduction {
                ScatterReduction::None => Write::Replace(Block::new(updates, last, out, k)),
                how => combined(how, updates, last, out, k)?,
            };
            (walk, tuples, write, None)
        }
        _ => return Err(Reject::new("not a scatter")),
    };
    let work = walk.count() * lanes.map_or(1, |l| l.size);
    let cut = if work > 4096 { lanes.map_or(1, |l| l.size.min(2 * p.threads)).max(1) } else { 1 };
    let phases = [tasks::split(base.bytes(), p.threads).first().copied().unwrap_or(1), cut];
    let in_place = x == out;
    Ok(ScatterKernel { base, walk, tuples, write, lanes, phases, in_place })
}

/// Combination with blocks that are one row of elements on both sides.
fn combined(
    how: ScatterReduction,
    updates: &TensorDesc,
    from: usize,
    out: &TensorDesc,
    to: usize,
) -> Result<Write, Reject> {
    let (us, os) = (byte_strides(updates), byte_strides(out));
    let axes = (from..updates.rank()).zip(to..out.rank());
    let block = Walk::new(axes.map(|(u, o)| (out.shape[o], [os[o], us[u]])));
    if !block.is_row() {
        return Err(Reject::new("a combination of blocks at strides"));
    }
    let [out_stride, update_stride] = block.strides();
    Ok(Write::Combine {
        how: combine(how, out.dtype)?,
        count: block.count(),
        out: out_stride,
        updates: update_stride,
    })
}

impl Kernel for ScatterKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (x, indices, updates, out) = (args.inputs[0], args.inputs[1], args.inputs[2], args.outputs[0]);
        if phase == 0 {
            if !(self.in_place && x == out.cast_const()) {
                // SAFETY: views of x and of the result.
                unsafe { self.base.run(share(self.base.units(), task, self.phases[0]), x, out) };
            }
            return Ok(());
        }
        let lanes = self.lanes.unwrap_or(Lanes { size: 1, strides: [0; 3] });
        for lane in share(lanes.size, task, self.phases[1]) {
            let [o, i, u] = lanes.strides.map(|s| s * lane as isize);
            // SAFETY: a lane of the views; tasks work on different ones.
            unsafe { self.scatter(indices.offset(i), updates.offset(u), out.offset(o))? };
        }
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        self.in_place && input == 0
    }
}

impl ScatterKernel {
    /// [`ScatterKernel::scatter`] of elements `E` by one wide index each.
    ///
    /// # Safety
    /// As there.
    unsafe fn replace<E: Copy>(
        &self,
        (size, stride): (usize, isize),
        indices: *const u8,
        updates: *const u8,
        out: *mut u8,
    ) -> Result<(), KernelError> {
        let [so, si, su] = self.walk.strides();
        let mut wrong = None;
        self.walk.rows(0..self.walk.count(), |[oo, oi, ou], len| {
            for j in 0..len as isize {
                // SAFETY: as above; the place is checked.
                unsafe {
                    let index = indices.offset(oi + j * si).cast::<i64>().read_unaligned();
                    let place = if index < 0 { index.wrapping_add(size as i64) } else { index };
                    if place as u64 >= size as u64 {
                        wrong = Some(index);
                        return;
                    }
                    let element = updates.offset(ou + j * su).cast::<E>().read_unaligned();
                    out.offset(oo + j * so + place as isize * stride).cast::<E>().write_unaligned(element);
                }
            }
        });
        wrong.map_or(Ok(()), |index| Err(KernelError::Index { index, size }))
    }

    /// # Safety
    /// The walk, and all places inside of the axes that tuples index, lie inside of the views at these pointers.
    unsafe fn scatter(
        &self,
        indices: *const u8,
        updates: *const u8,
        out: *mut u8,
    ) -> Result<(), KernelError> {
        if let (Some(axis), Write::Replace(Block::Run(bytes @ (4 | 8)))) = (self.tuples.single(), &self.write)
        {
            // SAFETY: passed on.
            return unsafe {
                match bytes {
                    4 => self.replace::<[u8; 4]>(axis, indices, updates, out),
                    _ => self.replace::<[u8; 8]>(axis, indices, updates, out),
                }
            };
        }
        let [so, si, su] = self.walk.strides();
        let mut outcome = Ok(());
        self.walk.rows(0..self.walk.count(), |[oo, oi, ou], len| {
            for j in 0..len as isize {
                // SAFETY: as above; offsets of tuples are checked.
                unsafe {
                    let place = match self.tuples.offset(indices.offset(oi + j * si)) {
                        Ok(place) => place,
                        Err(error) => {
                            outcome = Err(error);
                            return;
                        }
                    };
                    let (from, to) = (updates.offset(ou + j * su), out.offset(oo + j * so + place));
                    match self.write {
                        Write::Replace(ref block) => block.copy(from, to),
                        Write::Combine { how, count, out, updates } => how(to, out, from, updates, count),
                    }
                }
            }
        });
        outcome
    }
}
