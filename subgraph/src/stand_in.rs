//! Minimal tensor types used until the network crate provides its own.
use bytes::Bytes;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DType {
    F32,
    F16,
    BF16,
    F64,
    F8E4M3,
    F8E5M2,
    I4,
    U4,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    Bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub dtype: DType,
    pub shape: Vec<usize>,
    data: Bytes,
}

impl DType {
    pub fn bits(self) -> usize {
        match self {
            DType::I4 | DType::U4 => 4,
            DType::F8E4M3 | DType::F8E5M2 | DType::I8 | DType::U8 | DType::Bool => 8,
            DType::F16 | DType::BF16 | DType::I16 | DType::U16 => 16,
            DType::F32 | DType::I32 | DType::U32 => 32,
            DType::F64 | DType::I64 | DType::U64 => 64,
        }
    }
}
impl Tensor {
    pub fn new(dtype: DType, shape: Vec<usize>, data: Bytes) -> Tensor {
        Tensor { dtype, shape, data }
    }
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }
}
