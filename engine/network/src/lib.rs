//! The intermediate representation of Engraft: [`Network`]s of tensors and operators in SSA form.
//!
//! A leaf crate without `unsafe`. Operators are one closed enum, [`Op`]; each family's file under `ops/` holds its
//! attributes, shape inference, a plain reference [`Op::eval`] (the truth that every kernel is tested against) and tests.
#![forbid(unsafe_code)]

mod bind;
mod convert;
mod dim;
mod dtype;
mod evaluate;
mod expr;
mod interpret;
mod network;
pub mod ops;
mod patch;
#[cfg(test)]
mod properties;
mod tensor;
mod text;
mod verify;

pub use bind::BindError;
pub use dim::{Dim, DimEnv, SymbolId};
pub use dtype::DType;
pub use expr::{BinaryOp, Expr, ExprId, ExprNode, Scalar, UnaryOp};
pub use network::{
    ConstantId, Def, Network, NetworkError, Node, NodeId, Symbol, SymbolSource, TensorType, Value, ValueId,
};
pub use ops::{Op, OpError, Operator, OutputType};
pub use patch::Patch;
pub use tensor::{AlignedBytes, Bytes, Element, Tensor, TensorError};
pub use text::{ConstantSource, TextError};
