//! Operators that make elements from little: Range, ShapeTensor, OneHot and Trilu.

use super::index::{byte_strides, whole_bytes};
use super::strided::{self, Axis, StridedCopy};
use super::tasks::{self, share, split};
use super::walk::Walk;
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic, TensorDesc};
use engraft_network::{DType, Op};
use half::{bf16, f16};
use smallvec::SmallVec;

/// Range, ShapeTensor, OneHot and Trilu, at any strides.
#[derive(Debug)]
pub(super) struct Generators;

impl Tactic for Generators {
    fn id(&self) -> &'static str {
        "move.generate"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let out = p.outputs.first().ok_or_else(|| Reject::new("no result"))?;
        match p.op {
            Op::Range(_) => {
                range_function(out.dtype)?;
            }
            Op::ShapeTensor(_) => whole_bytes(out)?,
            Op::OneHot(_) => {
                whole_bytes(out)?;
                if !matches!(p.inputs[0].desc.dtype, DType::I32 | DType::I64) {
                    return Err(Reject::new("indices that are neither i32 nor i64"));
                }
            }
            Op::Trilu(_) => whole_bytes(out)?,
            _ => return Err(Reject::new("not a generator")),
        }
        Ok(tasks::fit(out.dense_bytes() as f64 / 8.0, p.threads))
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let out = &p.outputs[0];
        let phases = split(out.dense_bytes(), p.threads);
        match p.op {
            Op::ShapeTensor(op) => {
                let values: Vec<i64> = op.dims.iter().map(|d| d.eval(p.env)).collect();
                let stride = out.strides.first().map_or(0, |s| s * (out.dtype.bits() / 8) as isize);
                Box::new(ShapeKernel { values, width: out.dtype.bits() / 8, stride })
            }
            Op::OneHot(op) => {
                Box::new(OneHotKernel::new(op.axis, &p.inputs[0].desc, &p.inputs[1].desc, out, p.threads))
            }
            Op::Trilu(op) => {
                Box::new(TriluKernel::new(op.upper, op.k.eval(p.env), &p.inputs[0].desc, out, phases))
            }
            _ => {
                // Only Range is left, whose type was accepted.
                let write = range_function(out.dtype).unwrap_or(write_range::<i64>);
                let stride = out.strides.first().map_or(0, |s| s * (out.dtype.bits() / 8) as isize);
                Box::new(RangeKernel { write, count: out.count(), stride, phases })
            }
        }
    }
}

/// Writes `start + i * delta` for `i` in `from..to` at `out + i * stride` bytes.
type WriteRange =
    unsafe fn(start: *const u8, delta: *const u8, from: usize, to: usize, out: *mut u8, stride: isize);

struct RangeKernel {
    write: WriteRange,
    count: usize,
    stride: isize,
    phases: SmallVec<[usize; 1]>,
}

impl Kernel for RangeKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let part = share(self.count, task, self.phases[0]);
        // SAFETY: two scalars and elements of the result.
        unsafe {
            (self.write)(args.inputs[0], args.inputs[1], part.start, part.end, args.outputs[0], self.stride)
        };
        Ok(())
    }
}

/// A number that ranges are made of. Floats are computed in `f64` and rounded once.
trait Term: Copy {
    fn term(start: Self, delta: Self, i: usize) -> Self;
}

macro_rules! integer_terms {
    ($($t:ty),*) => {
        $(impl Term for $t {
            #[inline(always)]
            fn term(start: Self, delta: Self, i: usize) -> Self {
                start.wrapping_add((i as $t).wrapping_mul(delta))
            }
        })*
    };
}
integer_terms!(i8, u8, i16, u16, i32, u32, i64, u64);

macro_rules! float_terms {
    ($($t:ty, $to:expr, $from:expr);*) => {
        $(impl Term for $t {
            #[inline(always)]
            fn term(start: Self, delta: Self, i: usize) -> Self {
                $from($to(start) + i as f64 * $to(delta))
            }
        })*
    };
}
float_terms!(f32, f64::from, |x: f64| x as f32; f64, f64::from, |x: f64| x; f16, f64::from, f16::from_f64; bf16, f64::from, bf16::from_f64);

/// # Safety
/// As [`WriteRange`] says: two readable scalars and writable elements.
unsafe fn write_range<T: Term>(
    start: *const u8,
    delta: *const u8,
    from: usize,
    to: usize,
    out: *mut u8,
    stride: isize,
) {
    // SAFETY: as above; nothing is said of alignment.
    unsafe {
        let (start, delta) = (start.cast::<T>().read_unaligned(), delta.cast::<T>().read_unaligned());
        if stride == size_of::<T>() as isize {
            let out = out.cast::<T>();
            for i in from..to {
                out.add(i).write_unaligned(T::term(start, delta, i));
            }
        } else {
            for i in from..to {
                out.offset(i as isize * stride).cast::<T>().write_unaligned(T::term(start, delta, i));
            }
        }
    }
}

fn range_function(dtype: DType) -> Result<WriteRange, Reject> {
    Ok(match dtype {
        DType::F32 => write_range::<f32>,
        DType::F64 => write_range::<f64>,
        DType::F16 => write_range::<f16>,
        DType::BF16 => write_range::<bf16>,
        DType::I8 => write_range::<i8>,
        DType::U8 => write_range::<u8>,
        DType::I16 => write_range::<i16>,
        DType::U16 => write_range::<u16>,
        DType::I32 => write_range::<i32>,
        DType::U32 => write_range::<u32>,
        DType::I64 => write_range::<i64>,
        DType::U64 => write_range::<u64>,
        _ => return Err(Reject::new(format!("no arithmetic of {dtype}"))),
    })
}

/// Writes values that are known since the kernel was made.
struct ShapeKernel {
    values: Vec<i64>,
    width: usize,
    stride: isize,
}

impl Kernel for ShapeKernel {
    fn phases(&self) -> &[usize] {
        &[1]
    }

    unsafe fn run(&self, _phase: usize, _task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        for (i, value) in self.values.iter().enumerate() {
            // The low bytes of an integer are the integer modulo a shorter width.
            #[cfg(target_endian = "little")]
            let bytes = value.to_le_bytes();
            #[cfg(target_endian = "big")]
            let bytes = (value << (64 - 8 * self.width)).to_be_bytes();
            // SAFETY: element `i` of the result.
            unsafe {
                let to = args.outputs[0].offset(i as isize * self.stride);
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, self.width);
            }
        }
        Ok(())
    }
}

/// All off in the first phase, then the ones.
struct OneHotKernel {
    off: StridedCopy,
    /// Over the indices: strides of indices and result.
    walk: Walk<2>,
    wide: bool,
    element: usize,
    depth: usize,
    depth_stride: isize,
    on_offset: isize,
    phases: [usize; 2],
}

impl OneHotKernel {
    fn new(
        axis: usize,
        indices: &TensorDesc,
        values: &TensorDesc,
        out: &TensorDesc,
        threads: usize,
    ) -> OneHotKernel {
        let (is, os) = (byte_strides(indices), byte_strides(out));
        let element = out.dtype.bits() / 8;
        let off = StridedCopy::new(
            element,
            (0..out.rank()).map(|a| Axis { size: out.shape[a], src: 0, dst: os[a] }),
        );
        let place = |a: usize| if a < axis { a } else { a + 1 };
        let walk = Walk::new((0..indices.rank()).map(|a| (indices.shape[a], [is[a], os[place(a)]])));
        let phases = [split(off.bytes(), threads).first().copied().unwrap_or(1), 1];
        OneHotKernel {
            off,
            walk,
            wide: indices.dtype == DType::I64,
            element,
            depth: out.shape[axis],
            depth_stride: os[axis],
            on_offset: values.strides[0] * element as isize,
            phases,
        }
    }
}

impl Kernel for OneHotKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (indices, values, out) = (args.inputs[0], args.inputs[1], args.outputs[0]);
        // SAFETY: the values `[off, on]`, the walk's elements, and places below the depth.
        unsafe {
            if phase == 0 {
                self.off.run(share(self.off.units(), task, self.phases[0]), values, out);
                return Ok(());
            }
            if self.depth == 0 {
                return Ok(());
            }
            let on = values.offset(self.on_offset);
            let [si, so] = self.walk.strides();
            self.walk.rows(0..self.walk.count(), |[oi, oo], len| {
                for j in 0..len as isize {
                    let at = indices.offset(oi + j * si);
                    let index = match self.wide {
                        true => at.cast::<i64>().read_unaligned(),
                        false => i64::from(at.cast::<i32>().read_unaligned()),
                    };
                    let place = if index < 0 { index.wrapping_add(self.depth as i64) } else { index };
                    if (place as u64) < self.depth as u64 {
                        let to = out.offset(oo + j * so + place as isize * self.depth_stride);
                        std::ptr::copy_nonoverlapping(on, to, self.element);
                    }
                }
            });
        }
        Ok(())
    }
}

/// Rows of which a part is kept.
struct TriluKernel {
    upper: bool,
    k: i64,
    element: usize,
    rows: usize,
    columns: usize,
    /// Over all axes but the last: strides of operand and result.
    walk: Walk<2>,
    strides: [isize; 2],
    row_strides: [isize; 2],
    phases: SmallVec<[usize; 1]>,
}

impl TriluKernel {
    fn new(
        upper: bool,
        k: i64,
        x: &TensorDesc,
        out: &TensorDesc,
        phases: SmallVec<[usize; 1]>,
    ) -> TriluKernel {
        let (xs, os) = (byte_strides(x), byte_strides(out));
        let last = out.rank() - 1;
        TriluKernel {
            upper,
            k,
            element: out.dtype.bits() / 8,
            rows: out.shape[last - 1],
            columns: out.shape[last],
            walk: Walk::new((0..last - 1).map(|a| (out.shape[a], [xs[a], os[a]]))),
            strides: [xs[last], os[last]],
            row_strides: [xs[last - 1], os[last - 1]],
            phases,
        }
    }

    /// # Safety
    /// `src` and `dst` are row `i` of a matrix.
    unsafe fn row(&self, i: usize, src: *const u8, dst: *mut u8) {
        let edge = (i as i64).saturating_add(self.k);
        let [ss, ds] = self.strides;
        let kept = match self.upper {
            true => edge.clamp(0, self.columns as i64) as usize..self.columns,
            false => 0..edge.saturating_add(1).clamp(0, self.columns as i64) as usize,
        };
        let zero = [0u8; 16];
        // SAFETY: columns of the row.
        unsafe {
            for (from, to) in [(0, kept.start), (kept.end, self.columns)] {
                let dst = dst.offset(from as isize * ds);
                if ds == self.element as isize {
                    dst.write_bytes(0, (to - from) * self.element);
                } else {
                    strided::elements(
                        self.element,
                        Axis { size: to - from, src: 0, dst: ds },
                        zero.as_ptr(),
                        dst,
                    );
                }
            }
            let (src, dst) = (src.offset(kept.start as isize * ss), dst.offset(kept.start as isize * ds));
            if ss == self.element as isize && ds == ss {
                std::ptr::copy_nonoverlapping(src, dst, kept.len() * self.element);
            } else {
                strided::elements(self.element, Axis { size: kept.len(), src: ss, dst: ds }, src, dst);
            }
        }
    }
}

impl Kernel for TriluKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let matrices = self.walk.count();
        let part = share(matrices * self.rows, task, self.phases[0]);
        let mut row = part.start;
        while row < part.end {
            let matrix = row / self.rows;
            let end = part.end.min((matrix + 1) * self.rows);
            self.walk.rows(matrix..matrix + 1, |[x, o], _| {
                for i in row - matrix * self.rows..end - matrix * self.rows {
                    let [rx, ro] = self.row_strides.map(|s| s * i as isize);
                    // SAFETY: row `i` of the matrix at these offsets.
                    unsafe { self.row(i, args.inputs[0].offset(x + rx), args.outputs[0].offset(o + ro)) };
                }
            });
            row = end;
        }
        Ok(())
    }
}
