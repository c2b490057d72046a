//! Immutable host tensors: constants of a network, and operands of the reference evaluation.

use crate::DType;
use half::{bf16, f16};
use std::fmt;
use std::sync::Arc;

/// Shared, immutable bytes: owned with 64-byte alignment, or a window into memory that somebody else keeps alive (a
/// mapped file, a host runtime's initialiser).
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    offset: usize,
    len: usize,
}

impl Bytes {
    /// The window `offset..offset + len` of `owner`; `None` if it does not lie inside.
    pub fn window(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, offset: usize, len: usize) -> Option<Bytes> {
        let end = offset.checked_add(len)?;
        (end <= (*owner).as_ref().len()).then_some(Bytes { owner, offset, len })
    }

    /// The first `len` bytes of `owner`, which has as many and is not asked for them before they are read.
    pub fn deferred(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, len: usize) -> Bytes {
        Bytes { owner, offset: 0, len }
    }

    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.offset..self.offset + self.len]
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl From<AlignedBytes> for Bytes {
    fn from(b: AlignedBytes) -> Bytes {
        let len = b.len;
        Bytes { owner: Arc::new(b), offset: 0, len }
    }
}

#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Owned bytes that start at a 64-byte boundary.
#[derive(Clone)]
pub struct AlignedBytes {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBytes {
    pub fn zeroed(len: usize) -> AlignedBytes {
        // Asks the allocator for zeroed memory, which fresh pages are already.
        AlignedBytes { lines: bytemuck::zeroed_vec(len.div_ceil(64)), len }
    }

    pub fn copy_of(bytes: &[u8]) -> AlignedBytes {
        let mut b = AlignedBytes::zeroed(bytes.len());
        b.as_mut_slice().copy_from_slice(bytes);
        b
    }

    pub fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

/// A Rust type that stores one element of a byte-sized [`DType`].
pub trait Element: bytemuck::Pod + PartialOrd + fmt::Debug + Send + Sync {
    const DTYPE: DType;
}

macro_rules! element {
    ($($t:ty => $d:ident),* $(,)?) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
element! { f32 => F32, f64 => F64, f16 => F16, bf16 => BF16, i8 => I8, u8 => U8, i16 => I16, u16 => U16, i32 => I32, u32 => U32, i64 => I64, u64 => U64 }

#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    #[error("a {dtype} tensor of shape {shape:?} has {want} bytes, not {got}")]
    Size { dtype: DType, shape: Vec<usize>, want: usize, got: usize },
    #[error("shape {shape:?} has more elements than can be addressed")]
    TooLarge { shape: Vec<usize> },
    #[error("the tensor holds {got}, not {want}")]
    Type { want: DType, got: DType },
    #[error("a {dtype} tensor of shape {shape:?} from {got} values")]
    Count { dtype: DType, shape: Vec<usize>, got: usize },
    #[error("bytes of a {0} tensor are not aligned")]
    Alignment(DType),
}

/// An immutable, dense, row-major tensor. Cloning shares the bytes. Booleans are one byte each, 0 or 1; 4-bit types are
/// packed two to a byte, low nibble first.
#[derive(Clone)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

fn count_of(shape: &[usize]) -> Result<usize, TensorError> {
    shape
        .iter()
        .try_fold(1usize, |a, &d| a.checked_mul(d))
        .filter(|n| *n <= isize::MAX as usize / 8)
        .ok_or_else(|| TensorError::TooLarge { shape: shape.to_vec() })
}

impl Tensor {
    /// Errors: [`TensorError::Size`] unless `bytes` has exactly the length that dtype and shape want.
    pub fn new(dtype: DType, shape: &[usize], bytes: Bytes) -> Result<Tensor, TensorError> {
        let want = dtype.bytes(count_of(shape)?);
        if bytes.len() != want {
            return Err(TensorError::Size { dtype, shape: shape.to_vec(), want, got: bytes.len() });
        }
        Ok(Tensor { dtype, shape: shape.to_vec(), bytes })
    }

    /// Copies `bytes` into aligned storage.
    pub fn from_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, TensorError> {
        Tensor::new(dtype, shape, AlignedBytes::copy_of(bytes).into())
    }

    pub fn zeros(dtype: DType, shape: &[usize]) -> Result<Tensor, TensorError> {
        Tensor::new(dtype, shape, AlignedBytes::zeroed(dtype.bytes(count_of(shape)?)).into())
    }

    /// Copies `data`.
    pub fn from_slice<T: Element>(shape: &[usize], data: &[T]) -> Result<Tensor, TensorError> {
        Tensor::from_bytes(T::DTYPE, shape, bytemuck::cast_slice(data))
    }

    pub fn from_bools(shape: &[usize], data: &[bool]) -> Result<Tensor, TensorError> {
        let bytes: Vec<u8> = data.iter().map(|b| u8::from(*b)).collect();
        Tensor::from_bytes(DType::Bool, shape, &bytes)
    }

    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor {
            dtype: T::DTYPE,
            shape: Vec::new(),
            bytes: AlignedBytes::copy_of(bytemuck::bytes_of(&value)).into(),
        }
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    pub fn shared_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The elements in place. Errors: wrong type, or borrowed bytes that are not aligned for `T`.
    pub fn as_slice<T: Element>(&self) -> Result<&[T], TensorError> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::Type { want: T::DTYPE, got: self.dtype });
        }
        bytemuck::try_cast_slice(self.bytes()).map_err(|_| TensorError::Alignment(self.dtype))
    }

    /// The elements, copied (works for unaligned borrowed bytes as well).
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, TensorError> {
        if T::DTYPE != self.dtype {
            return Err(TensorError::Type { want: T::DTYPE, got: self.dtype });
        }
        Ok(self.bytes().chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect())
    }

    /// The same bytes under another shape of as many elements.
    pub fn reshaped(&self, shape: &[usize]) -> Result<Tensor, TensorError> {
        Tensor::new(self.dtype, shape, self.bytes.clone())
    }

    /// Element `index` (row-major) as `f64`; integers beyond 2^53 lose precision.
    pub fn get_f64(&self, index: usize) -> f64 {
        let b = self.bytes();
        macro_rules! at {
            ($t:ty) => {{
                let w = size_of::<$t>();
                bytemuck::pod_read_unaligned::<$t>(&b[index * w..(index + 1) * w])
            }};
        }
        match self.dtype {
            DType::F32 => f64::from(at!(f32)),
            DType::F64 => at!(f64),
            DType::F16 => at!(f16).to_f64(),
            DType::BF16 => at!(bf16).to_f64(),
            DType::F8E4M3 => f8e4m3_to_f64(b[index]),
            DType::F8E5M2 => f16::from_bits(u16::from(b[index]) << 8).to_f64(),
            _ => self.get_i64(index) as f64,
        }
    }

    /// Element `index` (row-major) as `i64`; floats are truncated, `u64` wraps.
    pub fn get_i64(&self, index: usize) -> i64 {
        let b = self.bytes();
        macro_rules! at {
            ($t:ty) => {{
                let w = size_of::<$t>();
                bytemuck::pod_read_unaligned::<$t>(&b[index * w..(index + 1) * w]) as i64
            }};
        }
        match self.dtype {
            DType::I8 => at!(i8),
            DType::U8 | DType::Bool => at!(u8),
            DType::I16 => at!(i16),
            DType::U16 => at!(u16),
            DType::I32 => at!(i32),
            DType::U32 => at!(u32),
            DType::I64 => at!(i64),
            DType::U64 => at!(u64),
            DType::U4 => i64::from((b[index / 2] >> (4 * (index % 2))) & 15),
            DType::I4 => i64::from((((b[index / 2] >> (4 * (index % 2))) << 4) as i8) >> 4),
            _ => self.get_f64(index) as i64,
        }
    }
}

/// OCP 8-bit float, 4 exponent bits with bias 7, no infinities, NaN = s.1111.111.
pub(crate) fn f8e4m3_to_f64(b: u8) -> f64 {
    let sign = if b & 0x80 != 0 { -1.0 } else { 1.0 };
    let (e, m) = (i32::from(b >> 3 & 15), f64::from(b & 7));
    match (e, b & 7) {
        (15, 7) => f64::NAN,
        (0, _) => sign * m / 8.0 * 2f64.powi(-6),
        _ => sign * (1.0 + m / 8.0) * 2f64.powi(e - 7),
    }
}

impl PartialEq for Tensor {
    /// Bitwise.
    fn eq(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype && self.shape == other.shape && self.bytes() == other.bytes()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)?;
        let n = self.count().min(8);
        f.debug_list().entries((0..n).map(|i| self.get_f64(i))).finish()
    }
}
