//! The closed set of operators: one file per family.

mod assume;
mod attention;
mod bit_cast;
mod check;
mod conv;
mod data;
mod deform;
mod det;
mod fold;
mod fourier;
mod gather;
mod generate;
mod matmul;
mod norm;
mod pointwise;
mod pool;
mod quantize;
mod reduce;
mod resize;
mod rnn;
mod roi;
mod sample;
mod scatter;
mod search;
mod select;
mod shape;
mod slice;

pub use assume::Assumption;
pub use attention::Attention;
pub use bit_cast::BitCast;
pub use conv::{Conv, ConvTranspose, Padding};
pub use deform::DeformSample;
pub use det::Det;
pub use fold::Fold;
pub use fourier::{Dft, Stft};
pub use gather::{Gather, GatherElements, GatherNd};
pub use generate::{Range, ShapeTensor, Trilu};
pub use matmul::{Epilogue, MatMul};
pub use norm::{GroupNorm, LayerNorm, Softmax};
pub use pointwise::{Binary, Cast, Pointwise, Select, Unary};
pub use pool::{Pool, PoolKind};
pub use quantize::{Dequantize, Quantize};
pub use reduce::{ArgReduce, Cumulative, Reduce, ReduceOp};
pub use resize::{CoordinateMode, NearestMode, Resize, ResizeMode};
pub use rnn::{Activation, Direction, Rnn, RnnKind};
pub use roi::{RoiAlign, RoiMaxPool};
pub use sample::{GridSample, Outside, SampleMode};
pub use scatter::{ScatterElements, ScatterNd, ScatterReduction};
pub use search::{NonZero, OneHot, TopK};
pub use select::{NonMaxSuppression, Unique};
pub use shape::{Concat, Expand, Reshape, Tile, Transpose};
pub use slice::{Pad, PadMode, Slice, SliceRange};

use crate::{DType, Dim, DimEnv, Tensor, TensorError, TensorType};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Why an operator does not take its operands, or could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    #[error("wants {want} operands, has {got}")]
    Arity { want: String, got: usize },
    #[error("operand {operand} has type {got}, which is not supported here ({want})")]
    Type { operand: usize, got: DType, want: &'static str },
    #[error("operand {operand} has rank {got}, wants {want}")]
    Rank { operand: usize, got: usize, want: String },
    #[error("shapes do not fit: {0}")]
    Shape(String),
    #[error("attribute `{name}`: {reason}")]
    Attribute { name: &'static str, reason: String },
    #[error("{0}")]
    Eval(String),
}

impl From<TensorError> for OpError {
    fn from(e: TensorError) -> OpError {
        OpError::Eval(e.to_string())
    }
}

/// Makes the dim of a size that only the data tells: `(output, axis)` of the node.
pub type Fresh<'a> = &'a mut dyn FnMut(u32, u32) -> Dim;

pub type TypeVec = SmallVec<[TensorType; 1]>;

/// Type of an output for operands of known shapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputType {
    pub dtype: DType,
    pub shape: Vec<usize>,
}

/// What every operator says of itself.
pub trait Operator {
    /// The name in text forms: lower case with underscores.
    const NAME: &'static str;

    /// Types of the outputs.
    fn infer(&self, inputs: &[&TensorType], fresh: Fresh<'_>) -> Result<TypeVec, OpError>;

    /// The reference: plain loops, accumulating in `f64` for floats and rounding once to the output's type. Called
    /// through [`Op::eval`], which has made every dim among the attributes fixed and has checked the operands with
    /// [`Operator::infer`]; `outputs` is what that gave (sizes that only the data tells are 0 there).
    fn eval(&self, inputs: &[Tensor], outputs: &[OutputType]) -> Result<Vec<Tensor>, OpError>;

    /// Floating point operations for concrete shapes: 2 per multiply-add, 1 per elementwise operation, 0 for movement.
    fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64;

    /// Rewrites every dim among the attributes.
    fn map_dims(&mut self, _f: &mut dyn FnMut(&Dim) -> Dim) {}
}

/// The one declaration of the operator set: enum, names and dispatch follow from it.
macro_rules! ops {
    ($($(#[$m:meta])* $name:ident),* $(,)?) => {
        /// An operator with its attributes.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Op { $($(#[$m])* $name($name)),* }

        $(impl From<$name> for Op { fn from(op: $name) -> Op { Op::$name(op) } })*

        impl Op {
            pub const NAMES: &'static [&'static str] = &[$($name::NAME),*];
            pub fn name(&self) -> &'static str { match self { $(Op::$name(_) => $name::NAME),* } }
            /// Types of the outputs for operands of these types.
            pub fn infer(&self, inputs: &[&TensorType], fresh: Fresh<'_>) -> Result<TypeVec, OpError> {
                match self { $(Op::$name(op) => op.infer(inputs, fresh)),* }
            }
            /// The reference result. `env` gives the values of the symbols in the attributes. Errors: operands that
            /// [`Op::infer`] refuses, a symbol without a value, data that the operator cannot take.
            pub fn eval(&self, inputs: &[Tensor], env: &DimEnv) -> Result<Vec<Tensor>, OpError> {
                let (op, outputs) = concrete(self, inputs, env)?;
                match &op { $(Op::$name(op) => op.eval(inputs, &outputs)),* }
            }
            pub fn flops(&self, inputs: &[&[usize]], outputs: &[&[usize]]) -> f64 {
                match self { $(Op::$name(op) => op.flops(inputs, outputs)),* }
            }
            /// Rewrites every dim among the attributes.
            pub fn map_dims(&mut self, f: &mut dyn FnMut(&Dim) -> Dim) {
                match self { $(Op::$name(op) => op.map_dims(f)),* }
            }
        }
    };
}

ops! {
    Unary, Binary, Select, Cast, Pointwise,
    MatMul, Conv, ConvTranspose, Attention, Rnn,
    LayerNorm, GroupNorm, Softmax, Reduce, ArgReduce, Cumulative, Pool,
    Transpose, Reshape, Expand, Concat, Slice, Pad, Tile, Range, ShapeTensor, Trilu,
    Gather, GatherElements, GatherNd, ScatterElements, ScatterNd, OneHot, TopK, NonZero,
    NonMaxSuppression, Unique, Dft, Stft,
    Resize, GridSample, RoiAlign, RoiMaxPool, DeformSample, Fold, Det, BitCast, Quantize, Dequantize,
}

/// The shape that operands broadcast to (numpy's rule). A symbolic dim against a fixed size other than 1 is taken to be
/// equal to it or 1, and so is one against another that is computed from the same sizes; independent ones give their
/// [`Dim::broadcast`].
pub fn broadcast_shapes<'a>(
    shapes: impl IntoIterator<Item = &'a [Dim]>,
) -> Result<SmallVec<[Dim; 4]>, OpError> {
    let mut out: SmallVec<[Dim; 4]> = SmallVec::new();
    let shapes: SmallVec<[&[Dim]; 4]> = shapes.into_iter().collect();
    for s in &shapes {
        while out.len() < s.len() {
            out.insert(0, Dim::Fixed(1));
        }
        let shift = out.len() - s.len();
        for (i, d) in s.iter().enumerate() {
            let o = &mut out[shift + i];
            if let (Some(a), Some(b)) = (o.fixed(), d.fixed())
                && a != 1
                && b != 1
                && a != b
            {
                return Err(OpError::Shape(format!("{a} and {b} do not broadcast (axis {i} of {s:?})")));
            }
            if !o.is_related(d) {
                *o = o.broadcast(d);
            }
        }
    }
    for s in &shapes {
        for (d, o) in s.iter().zip(&out[out.len() - s.len()..]) {
            assume::equal_or_one(d, o);
        }
    }
    Ok(out)
}

/// Dims of a shape under `env`. Errors: a negative size, a symbol without a value.
pub fn eval_shape(shape: &[Dim], env: &DimEnv) -> Result<Vec<usize>, OpError> {
    shape
        .iter()
        .map(|d| {
            let n = d.try_eval(env).ok_or_else(|| OpError::Shape(format!("dimension {d} has no value")))?;
            usize::try_from(n).map_err(|_| OpError::Shape(format!("dimension {d} is {n}")))
        })
        .collect()
}

/// The operator with its dims evaluated, and its outputs' types for these operands.
fn concrete(op: &Op, inputs: &[Tensor], env: &DimEnv) -> Result<(Op, Vec<OutputType>), OpError> {
    let mut op = op.clone();
    let mut missing = None;
    op.map_dims(&mut |d| {
        Dim::Fixed(d.try_eval(env).unwrap_or_else(|| {
            missing = Some(d.clone());
            0
        }))
    });
    if let Some(d) = missing {
        return Err(OpError::Shape(format!("dimension {d} has no value")));
    }
    let types: SmallVec<[TensorType; 4]> = inputs.iter().map(TensorType::of).collect();
    let types: SmallVec<[&TensorType; 4]> = types.iter().collect();
    let outputs = op.infer(&types, &mut |_, _| Dim::Fixed(0))?;
    let outputs = outputs
        .iter()
        .map(|t| Ok(OutputType { dtype: t.dtype, shape: eval_shape(&t.shape, &[])? }))
        .collect::<Result<_, OpError>>()?;
    Ok((op, outputs))
}
