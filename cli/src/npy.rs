//! NumPy's array files: `.npy` (one array) and `.npz` (a ZIP archive of them by name).
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. Versions 1 to 3 are read, version 1
//! is written. Little-endian arrays of every type that both sides have are understood; bfloat16 is not among them.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;

use engraft::{DType, Tensor};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Data of an array file begins at a multiple of this.
const ALIGNMENT: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not an array file: {0}")]
    Malformed(&'static str),
    #[error("arrays of type {0} are not supported")]
    Type(String),
    #[error("array type {0} has no counterpart in NumPy")]
    NoCounterpart(DType),
    #[error(transparent)]
    Archive(#[from] zip::result::ZipError),
    #[error("array `{name}`: {source}")]
    Member { name: String, source: Box<NpyError> },
}

/// Reads the array file at `path`.
pub fn read_npy(path: &Path) -> Result<Tensor, NpyError> {
    read_array(&mut BufReader::new(File::open(path)?))
}

/// Reads every array of the archive at `path`, in its order, with the names that they were saved under.
pub fn read_npz(path: &Path) -> Result<Vec<(String, Tensor)>, NpyError> {
    read_archive(BufReader::new(File::open(path)?))
}

/// Writes one array to `path`.
pub fn write_npy(path: &Path, tensor: &Tensor) -> Result<(), NpyError> {
    let mut file = BufWriter::new(File::create(path)?);
    write_array(&mut file, tensor)?;
    Ok(file.flush()?)
}

/// Writes arrays by name to an archive at `path`, uncompressed.
pub fn write_npz<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<(), NpyError> {
    let mut archive = zip::ZipWriter::new(BufWriter::new(File::create(path)?));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .large_file(true);
    for (name, tensor) in tensors {
        archive.start_file(format!("{name}.npy"), options)?;
        write_array(&mut archive, tensor)
            .map_err(|source| NpyError::Member { name: name.to_owned(), source: Box::new(source) })?;
    }
    Ok(archive.finish()?.flush()?)
}

fn read_archive(file: impl Read + Seek) -> Result<Vec<(String, Tensor)>, NpyError> {
    let mut archive = zip::ZipArchive::new(file)?;
    let mut arrays = Vec::with_capacity(archive.len());
    for index in 0..archive.len() {
        let mut member = archive.by_index(index)?;
        let name = member.name()?.into_owned();
        let name = name.strip_suffix(".npy").unwrap_or(&name).to_owned();
        let array = read_array(&mut member)
            .map_err(|source| NpyError::Member { name: name.clone(), source: Box::new(source) })?;
        arrays.push((name, array));
    }
    Ok(arrays)
}

fn read_array(reader: &mut impl Read) -> Result<Tensor, NpyError> {
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(|_| NpyError::Malformed("it is too short"))?;
    if &start[..6] != MAGIC {
        return Err(NpyError::Malformed("its first bytes are not NumPy's"));
    }
    let length = if start[6] == 1 {
        let mut length = [0; 2];
        reader.read_exact(&mut length)?;
        usize::from(u16::from_le_bytes(length))
    } else {
        let mut length = [0; 4];
        reader.read_exact(&mut length)?;
        usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX)
    };
    let header = String::from_utf8(read_bytes(reader, length)?)
        .map_err(|_| NpyError::Malformed("its header is not text"))?;
    let header = Header::parse(&header)?;
    let count = header
        .shape
        .iter()
        .try_fold(1usize, |count, &dim| count.checked_mul(dim))
        .and_then(|count| count.checked_mul(header.dtype.bytes(1)))
        .ok_or(NpyError::Malformed("its shape is too large"))?;
    let data = read_bytes(reader, count)?;
    let data = if header.column_major { to_row_major(&header, &data) } else { data };
    Tensor::from_bytes(header.dtype, &header.shape, &data)
        .map_err(|_| NpyError::Malformed("its data does not have the size of its shape"))
}

/// Exactly `count` bytes; memory grows with what is there, so that a wrong header cannot claim any amount.
fn read_bytes(reader: &mut impl Read, count: usize) -> Result<Vec<u8>, NpyError> {
    let mut bytes = Vec::new();
    reader.take(count as u64).read_to_end(&mut bytes)?;
    if bytes.len() == count { Ok(bytes) } else { Err(NpyError::Malformed("it is cut short")) }
}

struct Header {
    dtype: DType,
    column_major: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Parses the dictionary literal `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
    fn parse(text: &str) -> Result<Self, NpyError> {
        let value = |key: &str| {
            let (_, rest) = text.split_once(&format!("'{key}'"))?;
            Some(rest.trim_start().strip_prefix(':')?.trim_start())
        };
        let descriptor = value("descr").ok_or(NpyError::Malformed("its header has no type"))?;
        let quoted = descriptor.strip_prefix('\'').and_then(|rest| rest.split_once('\''));
        let Some((descriptor, _)) = quoted else {
            return Err(NpyError::Type("with fields".to_owned()));
        };
        let column_major =
            value("fortran_order").ok_or(NpyError::Malformed("its header has no order"))?.starts_with("True");
        let shape = value("shape")
            .and_then(|rest| rest.strip_prefix('('))
            .and_then(|rest| rest.split_once(')'))
            .ok_or(NpyError::Malformed("its header has no shape"))?
            .0
            .split(',')
            .map(str::trim)
            .filter(|dim| !dim.is_empty())
            .map(|dim| dim.parse().map_err(|_| NpyError::Malformed("its shape is not made of numbers")))
            .collect::<Result<_, _>>()?;
        Ok(Self { dtype: dtype_of(descriptor)?, column_major, shape })
    }
}

const TYPES: [(DType, &str); 12] = [
    (DType::Bool, "b1"),
    (DType::I8, "i1"),
    (DType::U8, "u1"),
    (DType::I16, "i2"),
    (DType::U16, "u2"),
    (DType::I32, "i4"),
    (DType::U32, "u4"),
    (DType::I64, "i8"),
    (DType::U64, "u8"),
    (DType::F16, "f2"),
    (DType::F32, "f4"),
    (DType::F64, "f8"),
];

fn dtype_of(descriptor: &str) -> Result<DType, NpyError> {
    let unsupported = || NpyError::Type(format!("`{descriptor}`"));
    let name = match descriptor.split_at_checked(1) {
        Some(("<" | "|" | "=", name)) => name,
        _ => return Err(unsupported()),
    };
    TYPES.iter().find(|(_, known)| *known == name).map(|(dtype, _)| *dtype).ok_or_else(unsupported)
}

fn write_array(writer: &mut impl Write, tensor: &Tensor) -> Result<(), NpyError> {
    let dtype = tensor.dtype();
    let (_, name) = TYPES.iter().find(|(known, _)| *known == dtype).ok_or(NpyError::NoCounterpart(dtype))?;
    let order = if dtype.bits() == 8 { '|' } else { '<' };
    let dims: String = tensor.shape().iter().map(|dim| format!("{dim}, ")).collect();
    let mut header =
        format!("{{'descr': '{order}{name}', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end());
    // Magic, version and length take 10 bytes, the closing newline one.
    let unpadded = 10 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(ALIGNMENT) - unpadded));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| NpyError::Malformed("its shape is too long"))?;
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(header.as_bytes())?;
    Ok(writer.write_all(tensor.bytes())?)
}

/// The elements of a column-major array (the first index varies fastest), in row-major order.
fn to_row_major(header: &Header, data: &[u8]) -> Vec<u8> {
    let width = header.dtype.bytes(1);
    let mut index = vec![0usize; header.shape.len()];
    let mut strides = Vec::with_capacity(header.shape.len());
    let mut stride = width;
    for dim in &header.shape {
        strides.push(stride);
        stride *= dim;
    }
    let mut result = Vec::with_capacity(data.len());
    while result.len() < data.len() {
        let offset: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        result.extend_from_slice(&data[offset..offset + width]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            if index[axis] < header.shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Tensor, NpyError> {
        read_array(&mut &bytes[..])
    }

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = [&MAGIC[..], &[1, 0], &(header.len() as u16).to_le_bytes()].concat();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn numpy_spellings_are_read() {
        let scalar = file("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", &1.5f32.to_le_bytes());
        assert_eq!(parse(&scalar).unwrap().shape(), &[] as &[usize]);
        let vector = file("{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }", &[1, 2, 3]);
        assert_eq!(parse(&vector).unwrap().as_slice::<u8>().unwrap(), [1, 2, 3]);
        let columns = file("{'descr': '|i1', 'fortran_order': True, 'shape': (2, 3), }", &[1, 4, 2, 5, 3, 6]);
        assert_eq!(parse(&columns).unwrap().as_slice::<i8>().unwrap(), [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let big = file("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", &[0; 4]);
        assert!(matches!(parse(&big), Err(NpyError::Type(name)) if name == "`>f4`"));
        let fields = file("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", &[0; 4]);
        assert!(matches!(parse(&fields), Err(NpyError::Type(_))));
        let huge =
            file("{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4), }", &[0; 8]);
        assert!(matches!(parse(&huge), Err(NpyError::Malformed(_))));
        let short = file("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }", &[0; 8]);
        assert!(matches!(parse(&short), Err(NpyError::Malformed(_))));
    }

    #[test]
    fn archives_keep_names_and_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arrays.npz");
        let a = Tensor::from_slice(&[2], &[1i64, 2]).unwrap();
        let b = Tensor::from_bools(&[], &[true]).unwrap();
        write_npz(&path, [("past.0/key", &a), ("b", &b)]).unwrap();
        assert_eq!(read_npz(&path).unwrap(), [("past.0/key".to_owned(), a), ("b".to_owned(), b)]);
    }

    proptest! {
        #[test]
        fn written_arrays_are_read_back(kind in 0..TYPES.len(), shape in prop::collection::vec(0usize..5, 0..5)) {
            let dtype = TYPES[kind].0;
            let size = dtype.bytes(shape.iter().product());
            let bytes: Vec<u8> = (0..size).map(|i| (i % 2) as u8).collect();
            let tensor = Tensor::from_bytes(dtype, &shape, &bytes).unwrap();
            let mut written = Vec::new();
            write_array(&mut written, &tensor).unwrap();
            prop_assert_eq!((written.len() - size) % ALIGNMENT, 0);
            prop_assert_eq!(parse(&written).unwrap(), tensor);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = read_archive(std::io::Cursor::new(&bytes));
            let _ = parse(&[&MAGIC[..], &[1, 0], &bytes].concat());
        }
    }
}
