//! Combining elements of any number type in place.

use crate::Reject;
use engraft_network::DType;
use engraft_network::ops::ScatterReduction;
use half::{bf16, f16};

/// Combines `count` elements at `out` with those at `with`; the strides are in bytes.
///
/// # Safety
/// The elements are readable, those of `out` writable.
pub(super) type Combine =
    unsafe fn(out: *mut u8, out_stride: isize, with: *const u8, with_stride: isize, count: usize);

/// A number as it is stored. Arithmetic of integers wraps; a NaN wins over every number.
trait Number: Copy {
    fn add(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn max(self, other: Self) -> Self;
    fn min(self, other: Self) -> Self;
}

macro_rules! integers {
    ($($t:ty),*) => {
        $(impl Number for $t {
            fn add(self, other: Self) -> Self { self.wrapping_add(other) }
            fn mul(self, other: Self) -> Self { self.wrapping_mul(other) }
            fn max(self, other: Self) -> Self { Ord::max(self, other) }
            fn min(self, other: Self) -> Self { Ord::min(self, other) }
        })*
    };
}
integers!(i8, u8, i16, u16, i32, u32, i64, u64);

macro_rules! floats {
    ($($t:ty),*) => {
        $(impl Number for $t {
            fn add(self, other: Self) -> Self { self + other }
            fn mul(self, other: Self) -> Self { self * other }
            fn max(self, other: Self) -> Self { if self.is_nan() || self > other { self } else { other } }
            fn min(self, other: Self) -> Self { if self.is_nan() || self < other { self } else { other } }
        })*
    };
}
floats!(f32, f64, f16, bf16);

/// # Safety
/// As [`Combine`].
unsafe fn each<T: Number>(
    out: *mut u8,
    out_stride: isize,
    with: *const u8,
    with_stride: isize,
    count: usize,
    f: impl Fn(T, T) -> T,
) {
    for i in 0..count as isize {
        // SAFETY: as promised by the caller; nothing is said of alignment.
        unsafe {
            let to = out.offset(i * out_stride).cast::<T>();
            let other = with.offset(i * with_stride).cast::<T>().read_unaligned();
            to.write_unaligned(f(to.read_unaligned(), other));
        }
    }
}

/// # Safety
/// As [`Combine`].
unsafe fn add<T: Number>(out: *mut u8, out_stride: isize, with: *const u8, with_stride: isize, count: usize) {
    // SAFETY: passed on.
    unsafe { each::<T>(out, out_stride, with, with_stride, count, T::add) }
}

/// # Safety
/// As [`Combine`].
unsafe fn mul<T: Number>(out: *mut u8, out_stride: isize, with: *const u8, with_stride: isize, count: usize) {
    // SAFETY: passed on.
    unsafe { each::<T>(out, out_stride, with, with_stride, count, T::mul) }
}

/// # Safety
/// As [`Combine`].
unsafe fn max<T: Number>(out: *mut u8, out_stride: isize, with: *const u8, with_stride: isize, count: usize) {
    // SAFETY: passed on.
    unsafe { each::<T>(out, out_stride, with, with_stride, count, T::max) }
}

/// # Safety
/// As [`Combine`].
unsafe fn min<T: Number>(out: *mut u8, out_stride: isize, with: *const u8, with_stride: isize, count: usize) {
    // SAFETY: passed on.
    unsafe { each::<T>(out, out_stride, with, with_stride, count, T::min) }
}

fn of<T: Number>(how: ScatterReduction) -> Option<Combine> {
    match how {
        ScatterReduction::None => None,
        ScatterReduction::Add => Some(add::<T>),
        ScatterReduction::Mul => Some(mul::<T>),
        ScatterReduction::Max => Some(max::<T>),
        ScatterReduction::Min => Some(min::<T>),
    }
}

/// The function that combines elements of `dtype`.
pub(super) fn combine(how: ScatterReduction, dtype: DType) -> Result<Combine, Reject> {
    let function = match dtype {
        DType::F32 => of::<f32>(how),
        DType::F64 => of::<f64>(how),
        DType::F16 => of::<f16>(how),
        DType::BF16 => of::<bf16>(how),
        DType::I8 => of::<i8>(how),
        DType::U8 => of::<u8>(how),
        DType::I16 => of::<i16>(how),
        DType::U16 => of::<u16>(how),
        DType::I32 => of::<i32>(how),
        DType::U32 => of::<u32>(how),
        DType::I64 => of::<i64>(how),
        DType::U64 => of::<u64>(how),
        _ => None,
    };
    function.ok_or_else(|| Reject::new(format!("no arithmetic of {dtype}")))
}
