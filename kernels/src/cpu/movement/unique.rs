//! Unique: the different slices along an axis.

use super::index::{byte_strides, whole_bytes};
use super::order::{Key, Ordered, number};
use super::strided::{Axis, StridedCopy};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};
use smallvec::SmallVec;
use std::cmp::Ordering;

/// Unique of any number type and of `bool`, at any strides, on one thread.
///
/// Slices of one element are sorted as integers of value and position, longer ones by comparison.
#[derive(Debug)]
pub(super) struct Distinct;

struct UniqueKernel {
    dtype: DType,
    sorted: bool,
    size: usize,
    /// Byte strides along the axis: of the operand, the slices and the three vectors.
    along: [isize; 5],
    /// Where the elements of a slice lie, from its start.
    places: Vec<isize>,
    slice: StridedCopy,
    /// Zeros over a slice of the result.
    clear: StridedCopy,
    phases: SmallVec<[usize; 1]>,
}

impl Tactic for Distinct {
    fn id(&self) -> &'static str {
        "move.unique"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let Op::Unique(op) = p.op else { return Err(Reject::new("not unique")) };
        let x = &p.inputs[0].desc;
        whole_bytes(x)?;
        if !number(x.dtype) && x.dtype != DType::Bool {
            return Err(Reject::new(format!("no order of {}", x.dtype)));
        }
        let n = x.shape[op.axis];
        if n > u32::MAX as usize {
            return Err(Reject::new("an axis of more than 2^32 slices"));
        }
        let per_slice = 8.0 + 4.0 * (n.max(2) as f64).log2();
        Ok(Fit { cost_ns: 200.0 + n as f64 * per_slice + x.count() as f64 * 2.0 })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let (axis, sorted) = match p.op {
            Op::Unique(op) => (op.axis, op.sorted),
            _ => (0, false),
        };
        let (x, y) = (&p.inputs[0].desc, &p.outputs[0]);
        let (xs, ys) = (byte_strides(x), byte_strides(y));
        let width = x.dtype.bits() / 8;
        let others: SmallVec<[usize; 6]> = (0..x.rank()).filter(|a| *a != axis).collect();
        let copy = |source: &[isize]| {
            let axes = others.iter().map(|&a| Axis { size: x.shape[a], src: source[a], dst: ys[a] });
            StridedCopy::new(width, axes)
        };
        let mut places = vec![0];
        for &a in &others {
            let (steps, stride) = (0..x.shape[a] as isize, xs[a]);
            places = places.iter().flat_map(|p| steps.clone().map(move |i| p + i * stride)).collect();
        }
        let line = |output: usize| 8 * p.outputs[output].strides[0];
        Box::new(UniqueKernel {
            dtype: x.dtype,
            sorted,
            size: x.shape[axis],
            along: [xs[axis], ys[axis], line(1), line(2), line(3)],
            places,
            slice: copy(&xs),
            clear: copy(&vec![0; x.rank()]),
            phases: smallvec::smallvec![1],
        })
    }
}

impl Kernel for UniqueKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    /// Keys in order (16 bytes), then by position the group, and by group its first position, size and place.
    fn workspace_bytes(&self) -> usize {
        (16 + 4 * 4) * self.size
    }

    unsafe fn run(&self, _phase: usize, _task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        // SAFETY: elements of the dtype's width at the operand's strides; the workspace has the size asked for.
        unsafe {
            match self.dtype {
                DType::F32 => self.typed::<f32, u64>(args),
                DType::F16 => self.typed::<half::f16, u64>(args),
                DType::BF16 => self.typed::<half::bf16, u64>(args),
                DType::I8 => self.typed::<i8, u64>(args),
                DType::U8 | DType::Bool => self.typed::<u8, u64>(args),
                DType::I16 => self.typed::<i16, u64>(args),
                DType::U16 => self.typed::<u16, u64>(args),
                DType::I32 => self.typed::<i32, u64>(args),
                DType::U32 => self.typed::<u32, u64>(args),
                DType::F64 => self.typed::<f64, u128>(args),
                DType::U64 => self.typed::<u64, u128>(args),
                _ => self.typed::<i64, u128>(args),
            }
        }
        Ok(())
    }
}

impl UniqueKernel {
    /// # Safety
    /// As [`Kernel::run`], for elements of type `T`; `K` holds a rank of `T` and a position.
    unsafe fn typed<T: Ordered, K: Key>(&self, args: &Args<'_>) {
        let n = self.size;
        let x = args.inputs[0];
        // SAFETY: elements of the operand; keys at the start of the workspace, which is aligned for them.
        unsafe {
            let rank = |slice: usize, place: isize| {
                x.offset(slice as isize * self.along[0] + place).cast::<T>().read_unaligned().rank()
            };
            let keys = args.workspace.cast::<K>();
            // The first element decides most comparisons, and all where slices have no other.
            let first = self.places.first().copied();
            for i in 0..n {
                keys.add(i).write(K::new(first.map_or(0, |place| rank(i, place)), i));
            }
            let keys = std::slice::from_raw_parts_mut(keys, n);
            let rest = self.places.get(1..).unwrap_or_default();
            let order = |a: usize, b: usize| {
                let mut ranks = rest.iter().map(|&place| rank(a, place).cmp(&rank(b, place)));
                ranks.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
            };
            if rest.is_empty() {
                keys.sort_unstable();
            } else {
                keys.sort_unstable_by(|a, b| {
                    let (i, j) = (a.position(), b.position());
                    a.rank().cmp(&b.rank()).then_with(|| order(i, j)).then(i.cmp(&j))
                });
            }
            let same = |a: K, b: K| a.rank() == b.rank() && order(a.position(), b.position()).is_eq();
            self.list(args, keys, same);
        }
    }

    /// Writes the results for slices in order.
    ///
    /// # Safety
    /// As [`Kernel::run`]; the keys fill the first 16 bytes per slice of the workspace at most.
    unsafe fn list<K: Key>(&self, args: &Args<'_>, keys: &[K], same: impl Fn(K, K) -> bool) {
        let n = self.size;
        // SAFETY: four vectors of `n` places behind the keys, results of the sizes that the operator says.
        unsafe {
            let table = |i: usize| {
                let place = args.workspace.add(16 * n + 4 * n * i).cast::<u32>();
                place.write_bytes(0, n);
                std::slice::from_raw_parts_mut(place, n)
            };
            let (group, first, count, place) = (table(0), table(1), table(2), table(3));
            let mut groups = 0;
            for (i, key) in keys.iter().enumerate() {
                if i == 0 || !same(keys[i - 1], *key) {
                    first[groups] = key.position() as u32;
                    groups += 1;
                }
                count[groups - 1] += 1;
                group[key.position()] = groups as u32 - 1;
            }
            let mut seen = 0;
            for i in 0..n {
                let g = group[i] as usize;
                if self.sorted {
                    place[g] = g as u32;
                } else if first[g] as usize == i {
                    place[g] = seen;
                    seen += 1;
                }
            }
            let [along_x, along_y, lines @ ..] = self.along;
            let write = |line: usize, at: usize, value: i64| {
                args.outputs[1 + line].offset(at as isize * lines[line]).cast::<i64>().write_unaligned(value);
            };
            let (x, y) = (args.inputs[0], args.outputs[0]);
            for g in 0..groups {
                let to = place[g] as usize;
                let source = x.offset(first[g] as isize * along_x);
                self.slice.run(0..self.slice.units(), source, y.offset(to as isize * along_y));
                write(0, to, i64::from(first[g]));
                write(2, to, i64::from(count[g]));
            }
            let zero = [0u8; 16];
            for to in groups..n {
                let to_y = y.offset(to as isize * along_y);
                self.clear.run(0..self.clear.units(), zero.as_ptr(), to_y);
                write(0, to, 0);
                write(2, to, 0);
            }
            (0..n).for_each(|i| write(1, i, i64::from(place[group[i] as usize])));
            args.outputs[4].cast::<i64>().write_unaligned(groups as i64);
        }
    }
}
