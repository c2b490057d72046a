//! `TensorProto` in all its storage forms, including external data, to [`Tensor`].

use std::path::{Component, Path, PathBuf};
use std::{fs, io};

use bytes::Bytes;
use engraft_network::{AlignedBytes, Bytes as SharedBytes};
use prost::Message;
use rustc_hash::FxHashMap;

use super::proto::TensorProto;
use super::read::ModelError;
use crate::{DType, Tensor};

/// How the bytes of a model's external data files are obtained.
///
/// The default reads them; a caller that may map files gives `Bytes` over a mapping, and no weight is copied.
pub trait FileSource {
    fn open(&self, path: &Path) -> io::Result<Bytes>;
}

/// Reads whole files into memory.
pub struct ReadFiles;

impl FileSource for ReadFiles {
    fn open(&self, path: &Path) -> io::Result<Bytes> {
        fs::read(path).map(Bytes::from)
    }
}

/// The data type of an ONNX element type number, `None` for those that Engraft does not hold.
pub(crate) fn dtype(element_type: i32) -> Option<DType> {
    Some(match element_type {
        1 => DType::F32,
        2 => DType::U8,
        3 => DType::I8,
        4 => DType::U16,
        5 => DType::I16,
        6 => DType::I32,
        7 => DType::I64,
        9 => DType::Bool,
        10 => DType::F16,
        11 => DType::F64,
        12 => DType::U32,
        13 => DType::U64,
        16 => DType::BF16,
        17 => DType::F8E4M3,
        19 => DType::F8E5M2,
        21 => DType::U4,
        22 => DType::I4,
        _ => return None,
    })
}

/// What a person calls the element type number of a type that Engraft does not hold.
pub(crate) fn element_type_name(element_type: i32) -> String {
    match element_type {
        0 => "undefined".into(),
        8 => "string".into(),
        14 => "complex64".into(),
        15 => "complex128".into(),
        18 => "float8e4m3fnuz".into(),
        20 => "float8e5m2fnuz".into(),
        23 => "float4e2m1".into(),
        24 => "float8e8m0".into(),
        25 => "uint2".into(),
        26 => "int2".into(),
        other => format!("element type {other}"),
    }
}

/// The folder of a model file and its external data files, each opened once, when the first tensor needs it.
pub(crate) struct ExternalFiles<'a> {
    base: Option<PathBuf>,
    /// Folders that external data may lie in: the model's, and the one that the model file's symbolic link leads to.
    roots: Vec<PathBuf>,
    source: &'a dyn FileSource,
    open: FxHashMap<PathBuf, Bytes>,
}

impl<'a> ExternalFiles<'a> {
    /// For a model that came as bytes: external data is refused.
    pub fn none(source: &'a dyn FileSource) -> Self {
        ExternalFiles { base: None, roots: Vec::new(), source, open: FxHashMap::default() }
    }

    pub fn beside(model: &Path, source: &'a dyn FileSource) -> io::Result<Self> {
        let base = match model.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let mut roots = vec![base.canonicalize()?];
        roots.extend(model.canonicalize()?.parent().map(Path::to_owned));
        Ok(ExternalFiles { base: Some(base), roots, source, open: FxHashMap::default() })
    }

    /// The whole file at `location`, a relative path that may not leave the model's folder.
    fn file(&mut self, location: &str) -> Result<Bytes, String> {
        let base = self.base.as_ref().ok_or("the model came as bytes, so its external data has no folder")?;
        let relative = Path::new(location);
        if location.is_empty()
            || !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
        {
            return Err(format!("location {location:?} is not a path inside the model's folder"));
        }
        let path = base.join(relative);
        if let Some(bytes) = self.open.get(&path) {
            return Ok(bytes.clone());
        }
        let target = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        if !self.roots.iter().any(|root| target.starts_with(root)) {
            return Err(format!(
                "{} leads out of the model's folder to {}",
                path.display(),
                target.display()
            ));
        }
        let bytes = self.source.open(&target).map_err(|error| format!("{}: {error}", path.display()))?;
        self.open.insert(path, bytes.clone());
        Ok(bytes)
    }
}

/// Reads a serialized `TensorProto`, as test data and `.pb` files hold it.
///
/// # Errors
/// [`ModelError`], as for the tensors of a model.
pub fn read_tensor_bytes(bytes: impl Into<Bytes>) -> Result<Tensor, ModelError> {
    let proto = TensorProto::decode(bytes.into())?;
    let name = proto.name.clone().unwrap_or_default();
    tensor(proto, &name, &mut ExternalFiles::none(&ReadFiles))
}

/// Converts one tensor.
///
/// # Errors
/// [`ModelError::Tensor`] naming the tensor and the field at fault.
pub(crate) fn tensor(
    proto: TensorProto,
    name: &str,
    files: &mut ExternalFiles,
) -> Result<Tensor, ModelError> {
    let fault =
        |field: &'static str, reason: String| ModelError::Tensor { tensor: name.to_owned(), field, reason };
    let element_type = proto.data_type.unwrap_or(0);
    let dtype = dtype(element_type)
        .ok_or_else(|| fault("data_type", format!("{} is not supported", element_type_name(element_type))))?;
    let shape = proto
        .dims
        .iter()
        .map(|&dim| {
            usize::try_from(dim).map_err(|_| fault("dims", format!("{:?} has a negative size", proto.dims)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let count = shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .filter(|count| count.checked_mul(8).is_some())
        .ok_or_else(|| fault("dims", format!("{shape:?} has too many elements")))?;
    let expected = (count * dtype.bits()).div_ceil(8);

    let (field, bytes) = match (proto.data_location.unwrap_or(0), proto.raw_data.clone()) {
        (1, _) => (
            "external_data",
            external(&proto.external_data, expected, files).map_err(|r| fault("external_data", r))?,
        ),
        (0, Some(raw)) => ("raw_data", raw),
        (0, None) => typed_data(dtype, &proto).map_err(|reason| fault("data", reason))?,
        (other, _) => return Err(fault("data_location", format!("unknown location {other}"))),
    };
    if bytes.len() != expected {
        return Err(fault(
            field,
            format!("holds {} bytes, but {dtype:?}{shape:?} needs {expected}", bytes.len()),
        ));
    }
    let shared = match bytes.as_ptr().align_offset(dtype.bits().div_ceil(8)) {
        0 => SharedBytes::window(std::sync::Arc::new(bytes), 0, expected),
        // Kernels and passes read elements in place.
        _ => Some(AlignedBytes::copy_of(&bytes).into()),
    };
    shared.ok_or_else(|| fault(field, "is shorter than its shape".into())).and_then(|shared| {
        Tensor::new(dtype, &shape, shared).map_err(|error| fault(field, error.to_string()))
    })
}

fn external(
    entries: &[super::proto::StringStringEntryProto],
    expected: usize,
    files: &mut ExternalFiles,
) -> Result<Bytes, String> {
    let entry = |key: &str| {
        entries
            .iter()
            .find(|entry| entry.key.as_deref() == Some(key))
            .and_then(|entry| entry.value.as_deref())
    };
    let number = |key: &str| {
        entry(key)
            .map(|text| text.trim().parse::<usize>().map_err(|_| format!("{key} {text:?} is not a size")))
            .transpose()
    };
    let location = entry("location").ok_or("no location is given")?;
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?;
    if expected == 0 {
        return Ok(Bytes::new());
    }
    let file = files.file(location)?;
    let length = length.unwrap_or(expected);
    let end = offset.checked_add(length).filter(|&end| end <= file.len()).ok_or_else(|| {
        format!("{location:?} has {} bytes: offset {offset} and length {length} lie outside", file.len())
    })?;
    Ok(file.slice(offset..end))
}

/// The tensor's elements from the typed fields, as little-endian bytes.
fn typed_data(dtype: DType, proto: &TensorProto) -> Result<(&'static str, Bytes), String> {
    fn narrow<T, U: TryFrom<T>, const N: usize>(
        values: &[T],
        bytes: impl Fn(U) -> [u8; N],
    ) -> Result<Vec<u8>, String>
    where
        T: Copy + std::fmt::Display,
    {
        let mut data = Vec::with_capacity(values.len() * N);
        for &value in values {
            let element = U::try_from(value).map_err(|_| format!("{value} does not fit the data type"))?;
            data.extend_from_slice(&bytes(element));
        }
        Ok(data)
    }
    let int32 = &proto.int32_data;
    Ok(match dtype {
        DType::F32 => ("float_data", proto.float_data.iter().flat_map(|value| value.to_le_bytes()).collect()),
        DType::F64 => {
            ("double_data", proto.double_data.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        DType::I64 => ("int64_data", proto.int64_data.iter().flat_map(|value| value.to_le_bytes()).collect()),
        DType::U64 => {
            ("uint64_data", proto.uint64_data.iter().flat_map(|value| value.to_le_bytes()).collect())
        }
        DType::U32 => ("uint64_data", narrow(&proto.uint64_data, u32::to_le_bytes)?.into()),
        DType::I32 => ("int32_data", int32.iter().flat_map(|value| value.to_le_bytes()).collect()),
        DType::I16 => ("int32_data", narrow(int32, i16::to_le_bytes)?.into()),
        DType::I8 => ("int32_data", narrow(int32, i8::to_le_bytes)?.into()),
        DType::U16 | DType::F16 | DType::BF16 => ("int32_data", narrow(int32, u16::to_le_bytes)?.into()),
        // Sub-byte elements come packed, two to a byte.
        DType::U8 | DType::F8E4M3 | DType::F8E5M2 | DType::I4 | DType::U4 => {
            ("int32_data", narrow(int32, u8::to_le_bytes)?.into())
        }
        DType::Bool => ("int32_data", int32.iter().map(|&value| u8::from(value != 0)).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::proto::StringStringEntryProto;
    use super::*;

    fn read(proto: TensorProto) -> Result<Tensor, ModelError> {
        tensor(proto, "w", &mut ExternalFiles::none(&ReadFiles))
    }

    fn typed(data_type: i32, dims: &[i64]) -> TensorProto {
        TensorProto { data_type: Some(data_type), dims: dims.to_vec(), ..TensorProto::default() }
    }

    fn entries(pairs: &[(&str, &str)]) -> Vec<StringStringEntryProto> {
        pairs
            .iter()
            .map(|(key, value)| StringStringEntryProto {
                key: Some((*key).into()),
                value: Some((*value).into()),
            })
            .collect()
    }

    #[test]
    fn reads_every_typed_field() {
        let floats = read(TensorProto { float_data: vec![1.0, -2.0], ..typed(1, &[2]) }).unwrap();
        assert_eq!(floats.bytes(), [1.0f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat());
        let half = read(TensorProto { int32_data: vec![0x3c00], ..typed(10, &[]) }).unwrap();
        assert_eq!((half.dtype(), half.bytes()), (DType::F16, &[0x00, 0x3c][..]));
        let bytes = read(TensorProto { int32_data: vec![-1, 127], ..typed(3, &[2]) }).unwrap();
        assert_eq!(bytes.bytes(), [0xff, 127]);
        let unsigned = read(TensorProto { uint64_data: vec![u32::MAX.into()], ..typed(12, &[1]) }).unwrap();
        assert_eq!(unsigned.bytes(), [0xff; 4]);
        let nibbles = read(TensorProto { int32_data: vec![0x21, 0x03], ..typed(22, &[3]) }).unwrap();
        assert_eq!(nibbles.bytes(), [0x21, 0x03]);
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let wrong = |proto: TensorProto, field: &str| match read(proto) {
            Err(ModelError::Tensor { field: at, .. }) => assert_eq!(at, field),
            other => panic!("expected a fault in {field}, got {other:?}"),
        };
        wrong(typed(8, &[1]), "data_type");
        wrong(typed(1, &[-1]), "dims");
        wrong(typed(1, &[i64::MAX, i64::MAX]), "dims");
        wrong(typed(1, &[2]), "float_data");
        wrong(TensorProto { int32_data: vec![300], ..typed(2, &[1]) }, "data");
        wrong(TensorProto { raw_data: Some(Bytes::from_static(&[0; 3])), ..typed(1, &[1]) }, "raw_data");
        let external_data = entries(&[("location", "w.bin")]);
        wrong(TensorProto { data_location: Some(1), external_data, ..typed(1, &[1]) }, "external_data");
    }

    #[test]
    fn external_data_stays_inside_the_folder() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("model");
        fs::create_dir(&folder).unwrap();
        fs::write(outer.path().join("secret.bin"), [1u8; 8]).unwrap();
        fs::write(folder.join("weights.bin"), [0, 0, 0, 0, 0, 0, 128, 63]).unwrap();
        fs::write(folder.join("model.onnx"), []).unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink(outer.path().join("secret.bin"), folder.join("link.bin")).unwrap();
        let mut files = ExternalFiles::beside(&folder.join("model.onnx"), &ReadFiles).unwrap();
        let mut at = |pairs: &[(&str, &str)]| {
            let proto =
                TensorProto { data_location: Some(1), external_data: entries(pairs), ..typed(1, &[1]) };
            tensor(proto, "w", &mut files)
        };
        let good = at(&[("location", "weights.bin"), ("offset", "4"), ("length", "4")]).unwrap();
        assert_eq!(good.bytes(), 1.0f32.to_le_bytes());
        assert!(at(&[("location", "../secret.bin")]).is_err());
        assert!(at(&[("location", "link.bin")]).is_err());
        assert!(at(&[("location", "/etc/hostname")]).is_err());
        assert!(at(&[("location", "weights.bin"), ("offset", "6"), ("length", "4")]).is_err());
        assert!(
            at(&[("location", "weights.bin"), ("offset", "4"), ("length", "18446744073709551615")]).is_err()
        );
        assert!(at(&[("offset", "4")]).is_err());
    }
}
