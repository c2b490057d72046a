//! Conversion between storage types and the wide types in which the reference computes.

use crate::{AlignedBytes, DType, Tensor, TensorError};
use half::{bf16, f16};

/// `v` rounded to `f32` such that a further rounding to a format of at most 22 significant bits gives what rounding `v`
/// at once gives: an inexact result has an odd significand ("round to odd").
fn f64_to_f32_odd(v: f64) -> f32 {
    let near = v as f32;
    if f64::from(near) == v || !near.is_finite() || near.to_bits() & 1 == 1 {
        return near;
    }
    let away = f64::from(near).abs() < v.abs();
    f32::from_bits(if away { near.to_bits() + 1 } else { near.to_bits() - 1 })
}

/// `v` as an `f64` that rounds on to any narrower format as `v` itself would.
fn i64_to_f64_odd(v: i64, unsigned: bool) -> f64 {
    let odd = |m: u64| -> f64 {
        if m >> 53 == 0 { m as f64 } else { ((m >> 11) | u64::from(m & 0x7ff != 0)) as f64 * 2048.0 }
    };
    if unsigned {
        odd(v as u64)
    } else if v < 0 {
        -odd(v.unsigned_abs())
    } else {
        odd(v as u64)
    }
}

/// Encodes an 8-bit float of `mantissa` bits with exponent bias `bias`; what exceeds `max` saturates (ONNX Cast with
/// `saturate`), NaN gives `nan`.
fn encode_f8(v: f64, mantissa: i32, bias: i32, max: f64, nan: u8) -> u8 {
    if v.is_nan() {
        return nan;
    }
    let sign = if v.is_sign_negative() { 0x80 } else { 0 };
    let a = v.abs().min(max);
    let exponent = (((a.to_bits() >> 52) as i32) - 1023).max(1 - bias);
    let q = (a * 2f64.powi(mantissa - exponent)).round_ties_even() as i32;
    // `q` carries the hidden bit, which adds one to the exponent field of normal numbers, and a carry adds another.
    sign | (((exponent + bias - 1) << mantissa) + q) as u8
}

pub(crate) fn encode_f8e4m3(v: f64) -> u8 {
    encode_f8(v, 3, 7, 448.0, 0x7f)
}

pub(crate) fn encode_f8e5m2(v: f64) -> u8 {
    encode_f8(v, 2, 15, 57344.0, 0x7f)
}

/// The value of `dtype` that `v` is stored as: rounded to nearest even for floats; truncated toward zero and saturated
/// (NaN gives 0) for integers; 0 or 1 for `bool`.
pub(crate) fn round_to(dtype: DType, v: f64) -> f64 {
    match dtype {
        DType::F64 => v,
        DType::F32 => f64::from(v as f32),
        DType::F16 => f16::from_f32(f64_to_f32_odd(v)).to_f64(),
        DType::BF16 => bf16::from_f32(f64_to_f32_odd(v)).to_f64(),
        DType::F8E4M3 => crate::tensor::f8e4m3_to_f64(encode_f8e4m3(v)),
        DType::F8E5M2 => f16::from_bits(u16::from(encode_f8e5m2(v)) << 8).to_f64(),
        DType::U64 => v as u64 as f64,
        _ => float_to_int(dtype, v) as f64,
    }
}

/// A float as an element of an integer type or `bool`, in the form of [`Values::Int`].
pub(crate) fn float_to_int(dtype: DType, v: f64) -> i64 {
    match dtype {
        DType::Bool => i64::from(v != 0.0),
        DType::I4 => (v as i64).clamp(-8, 7),
        DType::U4 => (v as i64).clamp(0, 15),
        DType::I8 => i64::from(v as i8),
        DType::U8 => i64::from(v as u8),
        DType::I16 => i64::from(v as i16),
        DType::U16 => i64::from(v as u16),
        DType::I32 => i64::from(v as i32),
        DType::U32 => i64::from(v as u32),
        DType::U64 => v as u64 as i64,
        _ => v as i64,
    }
}

/// An integer as an element of `from` taken to the float type `to`, rounded once.
pub(crate) fn int_to_float(from: DType, v: i64, to: DType) -> f64 {
    let unsigned = from == DType::U64;
    match to {
        DType::F64 if unsigned => v as u64 as f64,
        DType::F64 => v as f64,
        _ => round_to(to, i64_to_f64_odd(v, unsigned)),
    }
}

/// `v` modulo the width of an integer type, in the form of [`Values::Int`]; `!= 0` for `bool`.
pub(crate) fn wrap(dtype: DType, v: i64) -> i64 {
    match dtype {
        DType::Bool => i64::from(v != 0),
        DType::I4 => (v << 60) >> 60,
        DType::U4 => v & 15,
        DType::I8 => i64::from(v as i8),
        DType::U8 => i64::from(v as u8),
        DType::I16 => i64::from(v as i16),
        DType::U16 => i64::from(v as u16),
        DType::I32 => i64::from(v as i32),
        DType::U32 => i64::from(v as u32),
        _ => v,
    }
}

/// Elements in the wide type of their kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Values {
    /// Of a float type.
    Float(Vec<f64>),
    /// Of an integer type or `bool`; `u64` by its bits.
    Int(Vec<i64>),
}

impl Values {
    pub(crate) fn of(t: &Tensor) -> Values {
        if t.dtype().is_float() { Values::Float(t.to_f64s()) } else { Values::Int(t.to_i64s()) }
    }

    pub(crate) fn zeros(dtype: DType, n: usize) -> Values {
        if dtype.is_float() { Values::Float(vec![0.0; n]) } else { Values::Int(vec![0; n]) }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Values::Float(v) => v.len(),
            Values::Int(v) => v.len(),
        }
    }

    /// Elements of type `dtype`, which must be of the same kind.
    pub(crate) fn into_tensor(self, dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        match self {
            Values::Float(v) => Tensor::from_f64s(dtype, shape, &v),
            Values::Int(v) => Tensor::from_i64s(dtype, shape, &v),
        }
    }
}

macro_rules! by_storage {
    ($dtype:expr, $f:ident, $byte:ident, $nibble:ident) => {
        match $dtype {
            DType::F32 => $f!(f32),
            DType::F64 => $f!(f64),
            DType::F16 => $f!(f16),
            DType::BF16 => $f!(bf16),
            DType::I8 => $f!(i8),
            DType::I16 => $f!(i16),
            DType::U16 => $f!(u16),
            DType::I32 => $f!(i32),
            DType::U32 => $f!(u32),
            DType::I64 => $f!(i64),
            DType::U64 => $f!(u64),
            DType::U8 | DType::Bool | DType::F8E4M3 | DType::F8E5M2 => $byte!(),
            DType::I4 | DType::U4 => $nibble!(),
        }
    };
}

/// How a stored number reads as, and is written from, the wide types.
trait Stored: bytemuck::Pod {
    fn wide(self) -> f64;
    fn int(self) -> i64;
    fn from_wide(v: f64) -> Self;
    fn from_int(v: i64) -> Self;
}

macro_rules! stored_int {
    ($($t:ty),*) => {$(
        impl Stored for $t {
            fn wide(self) -> f64 { self as f64 }
            fn int(self) -> i64 { self as i64 }
            fn from_wide(v: f64) -> Self { v as $t }
            fn from_int(v: i64) -> Self { v as $t }
        }
    )*};
}
stored_int!(i8, u8, i16, u16, i32, u32, i64, u64);

macro_rules! stored_float {
    ($($t:ty, $wide:expr, $from:expr);*) => {$(
        impl Stored for $t {
            fn wide(self) -> f64 { $wide(self) }
            fn int(self) -> i64 { $wide(self) as i64 }
            fn from_wide(v: f64) -> Self { $from(v) }
            fn from_int(v: i64) -> Self { $from(i64_to_f64_odd(v, false)) }
        }
    )*};
}
stored_float!(
    f32, f64::from, |v: f64| v as f32;
    f16, f16::to_f64, |v: f64| f16::from_f32(f64_to_f32_odd(v));
    bf16, bf16::to_f64, |v: f64| bf16::from_f32(f64_to_f32_odd(v))
);
impl Stored for f64 {
    fn wide(self) -> f64 {
        self
    }
    fn int(self) -> i64 {
        self as i64
    }
    fn from_wide(v: f64) -> f64 {
        v
    }
    fn from_int(v: i64) -> f64 {
        v as f64
    }
}

/// Packs one 4-bit element per byte two to a byte, low nibble first.
pub(crate) fn pack_nibbles(cells: &[u8]) -> Vec<u8> {
    cells.chunks(2).map(|c| (c[0] & 15) | (c.get(1).copied().unwrap_or(0) << 4)).collect()
}

/// One 4-bit element per byte, in the low bits.
pub(crate) fn unpack_nibbles(packed: &[u8], count: usize) -> Vec<u8> {
    (0..count).map(|i| (packed[i / 2] >> (4 * (i % 2))) & 15).collect()
}

impl Tensor {
    /// All elements as `f64`, row-major; integers beyond 2^53 lose precision.
    pub fn to_f64s(&self) -> Vec<f64> {
        macro_rules! read {
            ($t:ty) => {
                self.bytes()
                    .chunks_exact(size_of::<$t>())
                    .map(|b| bytemuck::pod_read_unaligned::<$t>(b).wide())
                    .collect()
            };
        }
        macro_rules! one {
            () => {
                (0..self.count()).map(|i| self.get_f64(i)).collect()
            };
        }
        by_storage!(self.dtype(), read, one, one)
    }

    /// All elements as `i64`, row-major; floats are truncated, `u64` wraps.
    pub fn to_i64s(&self) -> Vec<i64> {
        macro_rules! read {
            ($t:ty) => {
                self.bytes()
                    .chunks_exact(size_of::<$t>())
                    .map(|b| bytemuck::pod_read_unaligned::<$t>(b).int())
                    .collect()
            };
        }
        macro_rules! one {
            () => {
                (0..self.count()).map(|i| self.get_i64(i)).collect()
            };
        }
        by_storage!(self.dtype(), read, one, one)
    }

    /// A tensor of any type from values: rounded once to nearest even for floats, truncated toward zero and saturated
    /// (NaN gives 0) for integers, `!= 0` for `bool`. Errors: [`TensorError::Count`] for another number of values.
    pub fn from_f64s(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Tensor, TensorError> {
        check_count(dtype, shape, values.len())?;
        let mut out = AlignedBytes::zeroed(dtype.bytes(values.len()));
        let bytes = out.as_mut_slice();
        macro_rules! write {
            ($t:ty) => {
                for (b, v) in bytes.chunks_exact_mut(size_of::<$t>()).zip(values) {
                    b.copy_from_slice(bytemuck::bytes_of(&<$t as Stored>::from_wide(*v)));
                }
            };
        }
        macro_rules! byte {
            () => {
                for (b, v) in bytes.iter_mut().zip(values) {
                    *b = match dtype {
                        DType::F8E4M3 => encode_f8e4m3(*v),
                        DType::F8E5M2 => encode_f8e5m2(*v),
                        _ => float_to_int(dtype, *v) as u8,
                    };
                }
            };
        }
        macro_rules! nibble {
            () => {{
                let cells: Vec<u8> = values.iter().map(|v| float_to_int(dtype, *v) as u8).collect();
                bytes.copy_from_slice(&pack_nibbles(&cells));
            }};
        }
        by_storage!(dtype, write, byte, nibble);
        Tensor::new(dtype, shape, out.into())
    }

    /// A tensor of any type from integers: wrapped for integers, rounded once for floats, `!= 0` for `bool`. Errors:
    /// [`TensorError::Count`] for another number of values.
    pub fn from_i64s(dtype: DType, shape: &[usize], values: &[i64]) -> Result<Tensor, TensorError> {
        check_count(dtype, shape, values.len())?;
        let mut out = AlignedBytes::zeroed(dtype.bytes(values.len()));
        let bytes = out.as_mut_slice();
        macro_rules! write {
            ($t:ty) => {
                for (b, v) in bytes.chunks_exact_mut(size_of::<$t>()).zip(values) {
                    b.copy_from_slice(bytemuck::bytes_of(&<$t as Stored>::from_int(*v)));
                }
            };
        }
        macro_rules! byte {
            () => {
                for (b, v) in bytes.iter_mut().zip(values) {
                    *b = match dtype {
                        DType::F8E4M3 => encode_f8e4m3(*v as f64),
                        DType::F8E5M2 => encode_f8e5m2(*v as f64),
                        _ => wrap(dtype, *v) as u8,
                    };
                }
            };
        }
        macro_rules! nibble {
            () => {{
                let cells: Vec<u8> = values.iter().map(|v| *v as u8).collect();
                bytes.copy_from_slice(&pack_nibbles(&cells));
            }};
        }
        by_storage!(dtype, write, byte, nibble);
        Tensor::new(dtype, shape, out.into())
    }
}

fn check_count(dtype: DType, shape: &[usize], got: usize) -> Result<(), TensorError> {
    let want = shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
    if want == Some(got) { Ok(()) } else { Err(TensorError::Count { dtype, shape: shape.to_vec(), got }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_once() {
        // Halfway between two f16 values after a rounding to f32, below halfway before.
        let v = 1.0 + 2f64.powi(-11) - 2f64.powi(-40);
        assert_eq!(round_to(DType::F16, v), 1.0);
        let v = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        assert_eq!(round_to(DType::F16, v), 1.0 + 2f64.powi(-10));
        let v = 1.0 + 2f64.powi(-8) + 2f64.powi(-40);
        assert_eq!(round_to(DType::BF16, v), 1.0 + 2f64.powi(-7));
        assert_eq!(
            int_to_float(DType::I64, (1 << 60) + (1 << 36) + 1, DType::F32),
            ((1u64 << 60) + (1 << 37)) as f64
        );
        assert_eq!(int_to_float(DType::U64, -1, DType::F64), 18446744073709551616.0);
    }

    #[test]
    fn eight_bit_floats_round_trip_and_saturate() {
        for b in 0..=255u8 {
            let v = crate::tensor::f8e4m3_to_f64(b);
            if !v.is_nan() {
                assert_eq!(encode_f8e4m3(v), b, "{v}");
            }
            let v = f16::from_bits(u16::from(b) << 8).to_f64();
            if v.is_finite() {
                assert_eq!(encode_f8e5m2(v), b, "{v}");
            }
        }
        assert_eq!(round_to(DType::F8E4M3, 1e9), 448.0);
        assert_eq!(round_to(DType::F8E4M3, 464.0), 448.0);
        assert_eq!(round_to(DType::F8E5M2, f64::NEG_INFINITY), -57344.0);
        // Ties to even, normal and subnormal.
        assert_eq!(round_to(DType::F8E4M3, 1.0625), 1.0);
        assert_eq!(round_to(DType::F8E4M3, 1.1875), 1.25);
        assert_eq!(round_to(DType::F8E4M3, 2f64.powi(-10)), 0.0);
        assert_eq!(round_to(DType::F8E4M3, 3.0 * 2f64.powi(-10)), 2f64.powi(-8));
    }

    #[test]
    fn integers_saturate_from_floats_and_wrap_from_integers() {
        let t = Tensor::from_f64s(DType::I8, &[5], &[300.0, -300.0, 1.9, -1.9, f64::NAN]).unwrap();
        assert_eq!(t.to_i64s(), [127, -128, 1, -1, 0]);
        let t = Tensor::from_i64s(DType::I8, &[2], &[300, -129]).unwrap();
        assert_eq!(t.to_i64s(), [44, 127]);
        let t = Tensor::from_f64s(DType::I4, &[3], &[9.0, -9.0, 3.0]).unwrap();
        assert_eq!((t.to_i64s(), t.bytes().len()), (vec![7, -8, 3], 2));
        let t = Tensor::from_i64s(DType::U4, &[3], &[17, -1, 3]).unwrap();
        assert_eq!(t.to_i64s(), [1, 15, 3]);
        let t = Tensor::from_f64s(DType::Bool, &[3], &[0.0, -0.5, f64::NAN]).unwrap();
        assert_eq!(t.to_i64s(), [0, 1, 1]);
        assert!(Tensor::from_f64s(DType::F32, &[2], &[1.0]).is_err());
    }
}
