//! TopK: the first k of every line along an axis, in order.

use super::index::byte_strides;
use super::order::{Key, Ordered, number};
use super::tasks::{self, share};
use super::walk::Walk;
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};
use half::{bf16, f16};
use smallvec::SmallVec;

/// TopK of any number type, at any strides.
///
/// Every element becomes a key in which value and position are one integer, smaller for what comes earlier: a
/// selection finds the first k keys, which are then sorted.
#[derive(Debug)]
pub(super) struct Selection;

struct TopKKernel {
    dtype: DType,
    largest: bool,
    size: usize,
    k: usize,
    /// Strides along the axis: of the operand, the values and the indices.
    along: [isize; 3],
    /// Over the other axes.
    walk: Walk<3>,
    phases: SmallVec<[usize; 1]>,
}

impl Tactic for Selection {
    fn id(&self) -> &'static str {
        "move.top_k"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let Op::TopK(op) = p.op else { return Err(Reject::new("not a selection")) };
        let x = &p.inputs[0].desc;
        if !number(x.dtype) {
            return Err(Reject::new(format!("no order of {}", x.dtype)));
        }
        if x.shape[op.axis] > u32::MAX as usize {
            return Err(Reject::new("an axis of more than 2^32 elements"));
        }
        let k = p.outputs[0].shape[op.axis] as f64;
        let sorting = p.outputs[0].count() as f64 * (2.0 + k.log2().max(0.0)) * 2.0;
        Ok(tasks::fit(x.count() as f64 * 3.0 + sorting, p.threads))
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let axis = if let Op::TopK(op) = p.op { op.axis } else { 0 };
        let (x, values, indices) = (&p.inputs[0].desc, &p.outputs[0], &p.outputs[1]);
        let (xs, vs, is) = (byte_strides(x), byte_strides(values), byte_strides(indices));
        let others = (0..x.rank()).filter(|a| *a != axis);
        let walk = Walk::new(others.map(|a| (x.shape[a], [xs[a], vs[a], is[a]])));
        let work = if values.count() == 0 { 0 } else { 16 * x.count() };
        let phases = tasks::split(work, p.threads);
        Box::new(TopKKernel {
            dtype: x.dtype,
            largest: matches!(p.op, Op::TopK(op) if op.largest),
            size: x.shape[axis],
            k: values.shape[axis],
            along: [xs[axis], vs[axis], is[axis]],
            walk,
            phases,
        })
    }
}

impl Kernel for TopKKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    fn scratch_bytes(&self) -> usize {
        self.size * if self.dtype.bits() <= 32 { 8 } else { 16 }
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let lines = share(self.walk.count(), task, self.phases[0]);
        let strides = self.walk.strides();
        self.walk.rows(lines, |start, len| {
            for j in 0..len as isize {
                let at: [isize; 3] = std::array::from_fn(|v| start[v] + j * strides[v]);
                // SAFETY: a line of the operand and the results.
                unsafe {
                    let (x, values, indices) = (
                        args.inputs[0].offset(at[0]),
                        args.outputs[0].offset(at[1]),
                        args.outputs[1].offset(at[2]),
                    );
                    match self.dtype {
                        DType::F32 => self.line::<f32, u64>(x, values, indices, args.scratch),
                        DType::F16 => self.line::<f16, u64>(x, values, indices, args.scratch),
                        DType::BF16 => self.line::<bf16, u64>(x, values, indices, args.scratch),
                        DType::I8 => self.line::<i8, u64>(x, values, indices, args.scratch),
                        DType::U8 => self.line::<u8, u64>(x, values, indices, args.scratch),
                        DType::I16 => self.line::<i16, u64>(x, values, indices, args.scratch),
                        DType::U16 => self.line::<u16, u64>(x, values, indices, args.scratch),
                        DType::I32 => self.line::<i32, u64>(x, values, indices, args.scratch),
                        DType::U32 => self.line::<u32, u64>(x, values, indices, args.scratch),
                        DType::F64 => self.line::<f64, u128>(x, values, indices, args.scratch),
                        DType::U64 => self.line::<u64, u128>(x, values, indices, args.scratch),
                        _ => self.line::<i64, u128>(x, values, indices, args.scratch),
                    }
                }
            }
        });
        Ok(())
    }
}

impl TopKKernel {
    /// # Safety
    /// The pointers are where lines of the operand (elements `T`) and the results begin; `scratch` has room for a key `K`
    /// per element.
    unsafe fn line<T: Ordered, K: Key>(
        &self,
        x: *const u8,
        values: *mut u8,
        indices: *mut u8,
        scratch: *mut u8,
    ) {
        let [sx, sv, si] = self.along;
        // The order of ranks is turned round by a mask of their width.
        let turn = match (self.largest, size_of::<K>()) {
            (false, _) => 0,
            (true, 8) => u64::from(u32::MAX),
            (true, _) => u64::MAX,
        };
        // SAFETY: as above; nothing is said of the elements' alignment.
        unsafe {
            for i in 0..self.size {
                let element = x.offset(i as isize * sx).cast::<T>().read_unaligned();
                scratch.cast::<K>().add(i).write(K::new(element.rank() ^ turn, i));
            }
            let keys = std::slice::from_raw_parts_mut(scratch.cast::<K>(), self.size);
            let first = match self.k {
                k if k < keys.len() => keys.select_nth_unstable(k).0,
                _ => keys,
            };
            first.sort_unstable();
            for (r, key) in first.iter().enumerate() {
                let (i, r) = (key.position(), r as isize);
                let element = x.offset(i as isize * sx).cast::<T>().read_unaligned();
                values.offset(r * sv).cast::<T>().write_unaligned(element);
                indices.offset(r * si).cast::<i64>().write_unaligned(i as i64);
            }
        }
    }
}
