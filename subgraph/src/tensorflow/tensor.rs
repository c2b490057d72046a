//! `TensorProto` and `TensorShapeProto` to tensors and shapes.

use std::sync::Arc;

use bytes::Bytes;
use engraft_network::{AlignedBytes, Bytes as SharedBytes};

use super::proto::{DimProto, TensorProto, TensorShapeProto};
use crate::{DType, HostDim, Tensor};

/// Numbers of TensorFlow's `DataType` and the types that Engraft holds.
const TYPES: &[(i32, DType)] = &[
    (1, DType::F32),
    (2, DType::F64),
    (3, DType::I32),
    (4, DType::U8),
    (5, DType::I16),
    (6, DType::I8),
    (9, DType::I64),
    (10, DType::Bool),
    (14, DType::BF16),
    (17, DType::U16),
    (19, DType::F16),
    (22, DType::U32),
    (23, DType::U64),
    (24, DType::F8E5M2),
    (25, DType::F8E4M3),
];

/// The type of a number of `DataType`; `None` for those that Engraft does not hold.
pub fn dtype(number: i32) -> Option<DType> {
    TYPES.iter().find(|(known, _)| *known == number).map(|(_, dtype)| *dtype)
}

/// The number of a type in `DataType`; `None` where TensorFlow has no such type.
pub fn number(dtype: DType) -> Option<i32> {
    TYPES.iter().find(|(_, known)| *known == dtype).map(|(number, _)| *number)
}

/// A shape of which the rank is known.
pub(crate) fn shape(proto: &TensorShapeProto) -> Option<Vec<HostDim>> {
    if proto.unknown_rank {
        return None;
    }
    Some(proto.dim.iter().map(|dim| HostDim::new(dim.size, "")).collect())
}

pub(crate) fn shape_proto(dims: Option<Vec<Option<i64>>>) -> TensorShapeProto {
    match dims {
        None => TensorShapeProto { unknown_rank: true, ..TensorShapeProto::default() },
        Some(dims) => TensorShapeProto {
            dim: dims
                .into_iter()
                .map(|size| DimProto { size: size.unwrap_or(-1), name: String::new() })
                .collect(),
            unknown_rank: false,
        },
    }
}

/// A constant. Fewer typed values than elements: the last one repeats; none at all: zeros.
///
/// # Errors
/// Why the message is no tensor.
pub(crate) fn tensor(proto: &TensorProto) -> Result<Tensor, String> {
    let dtype = dtype(proto.dtype).ok_or_else(|| format!("type {} is not supported", proto.dtype))?;
    let empty = TensorShapeProto::default();
    let dims = &proto.tensor_shape.as_ref().unwrap_or(&empty).dim;
    let shape: Vec<usize> = dims
        .iter()
        .map(|dim| usize::try_from(dim.size).map_err(|_| format!("the shape has the size {}", dim.size)))
        .collect::<Result<_, _>>()?;
    let count = shape
        .iter()
        .try_fold(1usize, |count, &size| count.checked_mul(size))
        .filter(|count| count.checked_mul(8).is_some())
        .ok_or_else(|| format!("{shape:?} has too many elements"))?;
    let wanted = dtype.bytes(count);
    let bytes = if proto.tensor_content.is_empty() {
        repeated(typed(dtype, proto), dtype.bytes(1), wanted)?
    } else {
        proto.tensor_content.clone()
    };
    if bytes.len() != wanted {
        return Err(format!("{dtype}{shape:?} wants {wanted} bytes, not {}", bytes.len()));
    }
    let shared = match bytes.as_ptr().align_offset(dtype.bytes(1)) {
        0 => SharedBytes::window(Arc::new(bytes), 0, wanted),
        // Kernels and passes read elements in place.
        _ => Some(AlignedBytes::copy_of(&bytes).into()),
    };
    let shared = shared.ok_or_else(|| "is shorter than its shape".to_owned())?;
    Tensor::new(dtype, &shape, shared).map_err(|error| error.to_string())
}

fn repeated(mut values: Vec<u8>, width: usize, wanted: usize) -> Result<Bytes, String> {
    // A shape that no memory holds is not made by repeating one value.
    const MAX: usize = 1 << 40;
    if wanted > MAX {
        return Err(format!("{wanted} bytes are more than memory holds"));
    }
    if values.len() < wanted {
        let last = match values.len().checked_sub(width) {
            Some(start) => values[start..].to_vec(),
            None => vec![0; width],
        };
        values.reserve(wanted - values.len());
        while values.len() < wanted {
            values.extend_from_slice(&last);
        }
    }
    Ok(values.into())
}

/// The typed values, as little-endian bytes.
fn typed(dtype: DType, proto: &TensorProto) -> Vec<u8> {
    fn all<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        values.iter().flat_map(|value| bytes(*value)).collect()
    }
    match dtype {
        DType::F32 => all(&proto.float_val, f32::to_le_bytes),
        DType::F64 => all(&proto.double_val, f64::to_le_bytes),
        DType::I32 => all(&proto.int_val, i32::to_le_bytes),
        DType::I16 | DType::U16 => all(&proto.int_val, |value| (value as u16).to_le_bytes()),
        DType::I8 | DType::U8 => all(&proto.int_val, |value| [value as u8]),
        DType::F16 | DType::BF16 => all(&proto.half_val, |value| (value as u16).to_le_bytes()),
        DType::I64 => all(&proto.int64_val, i64::to_le_bytes),
        DType::U32 => all(&proto.uint32_val, u32::to_le_bytes),
        DType::U64 => all(&proto.uint64_val, u64::to_le_bytes),
        DType::Bool => all(&proto.bool_val, |value| [u8::from(value)]),
        DType::F8E4M3 | DType::F8E5M2 => proto.float8_val.to_vec(),
        DType::I4 | DType::U4 => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proto(dtype: DType, shape: &[i64]) -> TensorProto {
        let dims = shape.iter().map(|&size| Some(size)).collect();
        TensorProto {
            dtype: number(dtype).unwrap(),
            tensor_shape: Some(shape_proto(Some(dims))),
            ..TensorProto::default()
        }
    }

    #[test]
    fn the_last_value_repeats() {
        let read = tensor(&TensorProto { int_val: vec![7, 9], ..proto(DType::I32, &[4]) }).unwrap();
        assert_eq!(read.to_vec::<i32>().unwrap(), [7, 9, 9, 9]);
        let zeros = tensor(&proto(DType::F32, &[2, 2])).unwrap();
        assert_eq!(zeros.to_vec::<f32>().unwrap(), [0.0; 4]);
        let bytes = tensor(&TensorProto { int_val: vec![-1], ..proto(DType::I8, &[3]) }).unwrap();
        assert_eq!(bytes.bytes(), [0xff; 3]);
        let empty = tensor(&TensorProto { float_val: vec![], ..proto(DType::F32, &[0]) }).unwrap();
        assert_eq!(empty.count(), 0);
    }

    #[test]
    fn halves_are_bits() {
        for (dtype, bits) in [(DType::F16, 0x3c00), (DType::BF16, 0x3f80)] {
            let read = tensor(&TensorProto { half_val: vec![bits], ..proto(dtype, &[]) }).unwrap();
            assert_eq!(read.get_f64(0), 1.0);
        }
    }

    #[test]
    fn content_is_taken_as_it_is() {
        let content = Bytes::from([1.5f32, -2.0].map(f32::to_le_bytes).concat());
        let with =
            |shape: &[i64]| TensorProto { tensor_content: content.clone(), ..proto(DType::F32, shape) };
        assert_eq!(tensor(&with(&[2])).unwrap().to_vec::<f32>().unwrap(), [1.5, -2.0]);
        assert!(tensor(&with(&[3])).is_err());
        assert!(tensor(&with(&[-1])).is_err());
        assert!(tensor(&with(&[i64::MAX, i64::MAX])).is_err());
        assert!(tensor(&TensorProto { dtype: 7, ..with(&[2]) }).is_err());
    }

    #[test]
    fn every_type_has_one_number() {
        for (index, (known, dtype)) in TYPES.iter().enumerate() {
            assert!(TYPES[..index].iter().all(|(other, held)| other != known && held != dtype));
        }
    }
}
