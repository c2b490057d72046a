//! Nearest neighbours: whole elements, or runs of them, taken over by tables of offsets.

use super::super::index::{byte_strides, whole_bytes};
use super::super::strided::{Axis, elements, repeat};
use super::super::tasks::{self, share};
use super::taps::{Resampling, resize_of, resized};
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::DType;
use engraft_network::ops::ResizeMode;
use half::{bf16, f16};
use smallvec::SmallVec;

/// Nearest-neighbour resizing of elements of whole bytes at any strides.
#[derive(Debug)]
pub(in super::super) struct Nearest;

/// A table entry of a result outside of the region.
const OUTSIDE: isize = isize::MIN;

struct NearestKernel {
    /// Per axis but the innermost: where each result comes from, in bytes, and the result's stride.
    outer: Vec<(Vec<isize>, isize)>,
    rows: usize,
    /// The innermost axis: a table as well, or elements in equal steps.
    inner: Inner,
    element: usize,
    fill: [u8; 8],
    phases: SmallVec<[usize; 1]>,
}

enum Inner {
    Table(Vec<isize>, isize),
    Steps(Axis),
}

impl Tactic for Nearest {
    fn id(&self) -> &'static str {
        "resize.nearest"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let op = resize_of(p).ok_or_else(|| Reject::new("not a resize"))?;
        let ResizeMode::Nearest(_) = op.mode else { return Err(Reject::new("not to the nearest neighbour")) };
        let (x, out) = (&p.inputs[0].desc, &p.outputs[0]);
        whole_bytes(out)?;
        encode(out.dtype, f32::from_bits(op.extrapolation))?;
        if x.count() == 0 && out.count() > 0 {
            return Err(Reject::new("nothing to resize"));
        }
        let last = out.rank().checked_sub(1);
        let runs = last.is_some_and(|l| resized(op, x, out).all(|(a, _)| a != l));
        let bytes = out.dense_bytes() as f64;
        Ok(tasks::fit(if runs { bytes / 8.0 } else { 1.2 * out.count() as f64 }, p.threads))
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let (x, out) = (&p.inputs[0].desc, &p.outputs[0]);
        let Some(op) = resize_of(p) else { unreachable!("prepared without being accepted") };
        let ResizeMode::Nearest(mode) = op.mode else { unreachable!("prepared without being accepted") };
        let (xs, os) = (byte_strides(x), byte_strides(out));
        let scales: SmallVec<[(usize, f32); 6]> = resized(op, x, out).collect();
        let table = |a: usize| -> Vec<isize> {
            match scales.iter().find(|(axis, _)| *axis == a) {
                None => (0..out.shape[a]).map(|i| i as isize * xs[a]).collect(),
                Some((_, scale)) => {
                    let axis = Resampling::new(op, a, *scale, x, out);
                    let place = |o| axis.nearest(o, mode).map_or(OUTSIDE, |i| i as isize * xs[a]);
                    (0..out.shape[a]).map(place).collect()
                }
            }
        };
        // The trailing axes that stay are one row where both sides have them as one.
        let mut from = out.rank();
        let mut inner = Axis { size: 1, src: 0, dst: 0 };
        while from > 0 && scales.iter().all(|(a, _)| *a != from - 1) {
            let (size, src, dst) = (out.shape[from - 1], xs[from - 1], os[from - 1]);
            let joins = src == inner.src * inner.size as isize && dst == inner.dst * inner.size as isize;
            if size != 1 && inner.size != 1 && !joins {
                break;
            }
            if inner.size == 1 {
                inner = Axis { size, src, dst };
            } else {
                inner.size *= size;
            }
            from -= 1;
        }
        let inner = match from {
            0 => Inner::Steps(inner),
            _ if inner.size == 1 => {
                from -= 1;
                Inner::Table(table(from), os[from])
            }
            _ => Inner::Steps(inner),
        };
        let rows = out.shape[..from].iter().product();
        let outer = (0..from).map(|a| (table(a), os[a])).collect();
        let fill = encode(out.dtype, f32::from_bits(op.extrapolation)).unwrap_or_default();
        let phases = tasks::split(out.dense_bytes(), p.threads);
        Box::new(NearestKernel { outer, rows, inner, element: out.dtype.bits() / 8, fill, phases })
    }
}

impl Kernel for NearestKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        for row in share(self.rows, task, self.phases[0]) {
            let (mut left, mut src, mut dst, mut outside) = (row, 0, 0, false);
            for (table, stride) in self.outer.iter().rev() {
                let (i, place) = (left % table.len(), table[left % table.len()]);
                left /= table.len();
                outside |= place == OUTSIDE;
                src += if place == OUTSIDE { 0 } else { place };
                dst += i as isize * stride;
            }
            // SAFETY: places in the operand's and the result's rows.
            unsafe { self.row(outside, args.inputs[0].offset(src), args.outputs[0].offset(dst)) };
        }
        Ok(())
    }
}

impl NearestKernel {
    /// # Safety
    /// `src` and `dst` are where rows begin.
    unsafe fn row(&self, outside: bool, src: *const u8, dst: *mut u8) {
        let e = self.element;
        // SAFETY: elements of the rows.
        unsafe {
            match &self.inner {
                Inner::Steps(axis) if outside => {
                    elements(e, Axis { src: 0, ..*axis }, self.fill.as_ptr(), dst);
                }
                Inner::Steps(axis) if axis.src == e as isize && axis.dst == axis.src => {
                    std::ptr::copy_nonoverlapping(src, dst, axis.size * e);
                }
                Inner::Steps(axis) => elements(e, *axis, src, dst),
                Inner::Table(table, stride) if outside => {
                    let axis = Axis { size: table.len(), src: 0, dst: *stride };
                    elements(e, axis, self.fill.as_ptr(), dst);
                }
                Inner::Table(table, stride) => match e {
                    1 => self.pick::<1>(table, *stride, src, dst),
                    2 => self.pick::<2>(table, *stride, src, dst),
                    4 => self.pick::<4>(table, *stride, src, dst),
                    _ => self.pick::<8>(table, *stride, src, dst),
                },
            }
        }
    }

    /// # Safety
    /// As [`NearestKernel::row`], for elements of `N` bytes.
    unsafe fn pick<const N: usize>(&self, table: &[isize], stride: isize, src: *const u8, dst: *mut u8) {
        for (i, place) in table.iter().enumerate() {
            // SAFETY: elements of the rows; byte arrays want no alignment.
            unsafe {
                let to = dst.offset(i as isize * stride);
                if *place == OUTSIDE {
                    repeat(N, 1, self.fill.as_ptr(), to);
                } else {
                    to.cast::<[u8; N]>().write(src.offset(*place).cast::<[u8; N]>().read());
                }
            }
        }
    }
}

/// A value as an element of a type: floats rounded, integers truncated and saturated.
fn encode(dtype: DType, value: f32) -> Result<[u8; 8], Reject> {
    let mut bytes = [0; 8];
    macro_rules! put {
        ($x:expr) => {{
            let x = $x.to_ne_bytes();
            bytes[..x.len()].copy_from_slice(&x);
        }};
    }
    match dtype {
        DType::F32 => put!(value),
        DType::F64 => put!(f64::from(value)),
        DType::F16 => put!(f16::from_f32(value)),
        DType::BF16 => put!(bf16::from_f32(value)),
        DType::I8 => put!((value as i8)),
        DType::U8 => put!((value as u8)),
        DType::I16 => put!((value as i16)),
        DType::U16 => put!((value as u16)),
        DType::I32 => put!((value as i32)),
        DType::U32 => put!((value as u32)),
        DType::I64 => put!((value as i64)),
        DType::U64 => put!((value as u64)),
        _ => return Err(Reject::new(format!("no extrapolation of {dtype}"))),
    }
    Ok(bytes)
}
