//! Running sums and products along an axis.

use super::index::byte_strides;
use super::tasks::{self, share};
use super::walk::Walk;
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic};
use engraft_network::{DType, Op};
use half::{bf16, f16};
use smallvec::SmallVec;

/// Cumulative of any number type, at any strides; floats accumulate in `f64`.
#[derive(Debug)]
pub(super) struct Scans;

/// Lines that are scanned side by side: neighbours in memory when the axis is not the last one.
const LINES: usize = 64;

struct ScanKernel {
    scan: Scan,
    along: Along,
    /// Over the other axes: strides of operand and result.
    walk: Walk<2>,
    phases: SmallVec<[usize; 1]>,
}

/// How an axis is walked.
#[derive(Clone, Copy)]
struct Along {
    size: usize,
    src: isize,
    dst: isize,
    exclusive: bool,
    reverse: bool,
}

/// Scans up to [`LINES`] lines that begin at `src` and `dst` and are `lines` bytes apart there.
type Scan =
    unsafe fn(along: Along, count: usize, src: *const u8, src_lines: isize, dst: *mut u8, dst_lines: isize);

impl Tactic for Scans {
    fn id(&self) -> &'static str {
        "move.cumulative"
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let Op::Cumulative(op) = p.op else { return Err(Reject::new("not a running sum")) };
        scan_function(p.outputs[0].dtype, op.product)?;
        Ok(tasks::fit(1.5 * p.outputs[0].count() as f64, p.threads))
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let (x, out) = (&p.inputs[0].desc, &p.outputs[0]);
        let (op, scan) = match p.op {
            Op::Cumulative(op) => match scan_function(out.dtype, op.product) {
                Ok(scan) => (op, scan),
                Err(reason) => unreachable!("prepared without being accepted: {reason}"),
            },
            _ => unreachable!("prepared without being accepted"),
        };
        let (xs, os) = (byte_strides(x), byte_strides(out));
        let along = Along {
            size: x.shape[op.axis],
            src: xs[op.axis],
            dst: os[op.axis],
            exclusive: op.exclusive,
            reverse: op.reverse,
        };
        let others = (0..x.rank()).filter(|a| *a != op.axis);
        let walk = Walk::new(others.map(|a| (x.shape[a], [xs[a], os[a]])));
        Box::new(ScanKernel { scan, along, walk, phases: tasks::split(out.dense_bytes(), p.threads) })
    }
}

impl Kernel for ScanKernel {
    fn phases(&self) -> &[usize] {
        &self.phases
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let [ss, ds] = self.walk.strides();
        self.walk.rows(share(self.walk.count(), task, self.phases[0]), |[s, d], len| {
            for first in (0..len).step_by(LINES) {
                let (i, count) = (first as isize, LINES.min(len - first));
                // SAFETY: lines of the operand and the result.
                unsafe {
                    let (src, dst) = (args.inputs[0].offset(s + i * ss), args.outputs[0].offset(d + i * ds));
                    (self.scan)(self.along, count, src, ss, dst, ds);
                }
            }
        });
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        input == 0
    }
}

/// An element type and what it is accumulated in.
trait Scanned: Copy {
    type Acc: Copy;
    const ZERO: Self::Acc;
    const ONE: Self::Acc;
    fn add(acc: Self::Acc, x: Self) -> Self::Acc;
    fn mul(acc: Self::Acc, x: Self) -> Self::Acc;
    fn result(acc: Self::Acc) -> Self;
}

macro_rules! scanned_integers {
    ($($t:ty),*) => {
        $(impl Scanned for $t {
            type Acc = $t;
            const ZERO: $t = 0;
            const ONE: $t = 1;
            #[inline(always)]
            fn add(acc: $t, x: $t) -> $t { acc.wrapping_add(x) }
            #[inline(always)]
            fn mul(acc: $t, x: $t) -> $t { acc.wrapping_mul(x) }
            #[inline(always)]
            fn result(acc: $t) -> $t { acc }
        })*
    };
}
scanned_integers!(i8, u8, i16, u16, i32, u32, i64, u64);

macro_rules! scanned_floats {
    ($($t:ty, $from:expr);*) => {
        $(impl Scanned for $t {
            type Acc = f64;
            const ZERO: f64 = 0.0;
            const ONE: f64 = 1.0;
            #[inline(always)]
            fn add(acc: f64, x: $t) -> f64 { acc + f64::from(x) }
            #[inline(always)]
            fn mul(acc: f64, x: $t) -> f64 { acc * f64::from(x) }
            #[inline(always)]
            fn result(acc: f64) -> $t { $from(acc) }
        })*
    };
}
scanned_floats!(f32, |x: f64| x as f32; f64, |x: f64| x; f16, f16::from_f64; bf16, bf16::from_f64);

/// # Safety
/// As [`Scan`] says: lines of readable and writable elements `T`, one element of which may be the same in both.
unsafe fn scan<T: Scanned, const PRODUCT: bool>(
    along: Along,
    count: usize,
    src: *const u8,
    src_lines: isize,
    dst: *mut u8,
    dst_lines: isize,
) {
    let mut accs = [if PRODUCT { T::ONE } else { T::ZERO }; LINES];
    for step in 0..along.size {
        let i = (if along.reverse { along.size - 1 - step } else { step }) as isize;
        // SAFETY: element `i` of every line; nothing is said of alignment.
        unsafe {
            let (src, dst) = (src.offset(i * along.src), dst.offset(i * along.dst));
            for (j, acc) in accs.iter_mut().enumerate().take(count) {
                let x = src.offset(j as isize * src_lines).cast::<T>().read_unaligned();
                let next = if PRODUCT { T::mul(*acc, x) } else { T::add(*acc, x) };
                let result = if along.exclusive { *acc } else { next };
                *acc = next;
                dst.offset(j as isize * dst_lines).cast::<T>().write_unaligned(T::result(result));
            }
        }
    }
}

fn scan_function(dtype: DType, product: bool) -> Result<Scan, Reject> {
    macro_rules! of {
        ($t:ty) => {
            if product { scan::<$t, true> as Scan } else { scan::<$t, false> as Scan }
        };
    }
    Ok(match dtype {
        DType::F32 => of!(f32),
        DType::F64 => of!(f64),
        DType::F16 => of!(f16),
        DType::BF16 => of!(bf16),
        DType::I8 => of!(i8),
        DType::U8 => of!(u8),
        DType::I16 => of!(i16),
        DType::U16 => of!(u16),
        DType::I32 => of!(i32),
        DType::U32 => of!(u32),
        DType::I64 => of!(i64),
        DType::U64 => of!(u64),
        _ => return Err(Reject::new(format!("no arithmetic of {dtype}"))),
    })
}
