//! Scalar expressions: the bodies of elementwise regions and epilogues.

use crate::DType;
use crate::convert::round_to;
use serde::{Deserialize, Serialize};

macro_rules! named_enum {
    ($(#[$m:meta])* $name:ident { $($(#[$vm:meta])* $v:ident = $s:literal),* $(,)? }) => {
        $(#[$m])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vm])* $v),* }
        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$v),*];
            pub const fn name(self) -> &'static str { match self { $($name::$v => $s),* } }
            pub fn from_name(name: &str) -> Option<$name> { match name { $($s => Some($name::$v),)* _ => None } }
        }
    };
}
pub(crate) use named_enum;

named_enum! {
    /// Elementwise functions of one operand. The result has the operand's type, except for the tests, which give `bool`.
    UnaryOp {
        Neg = "neg", Abs = "abs",
        /// -1, 0 or 1; NaN stays NaN.
        Sign = "sign",
        Recip = "recip", Sqrt = "sqrt",
        /// `1 / sqrt(x)`.
        Rsqrt = "rsqrt",
        Exp = "exp", Log = "log", Sin = "sin", Cos = "cos", Tan = "tan", Asin = "asin", Acos = "acos", Atan = "atan",
        Sinh = "sinh", Cosh = "cosh", Tanh = "tanh", Asinh = "asinh", Acosh = "acosh", Atanh = "atanh", Erf = "erf",
        Sigmoid = "sigmoid",
        /// `ln(1 + exp(x))`.
        Softplus = "softplus",
        /// `max(x, 0)`; NaN stays NaN.
        Relu = "relu",
        /// `x / 2 * (1 + erf(x / sqrt(2)))`.
        Gelu = "gelu",
        /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
        GeluTanh = "gelu_tanh",
        /// `x * sigmoid(x)`.
        Silu = "silu",
        /// `x * min(max(x / 6 + 1 / 2, 0), 1)`.
        HardSwish = "hard_swish",
        Floor = "floor", Ceil = "ceil",
        /// To the nearest integer, ties to even.
        Round = "round",
        Trunc = "trunc",
        /// Logical, `bool` only.
        Not = "not",
        /// Bitwise, integers only.
        BitNot = "bit_not",
        /// To `bool`.
        IsNan = "is_nan",
        /// To `bool`; positive infinity only.
        IsPosInf = "is_pos_inf",
        /// To `bool`; negative infinity only.
        IsNegInf = "is_neg_inf",
    }
}

named_enum! {
    /// Elementwise functions of two operands of one type. Comparisons give `bool`; the rest the operands' type.
    BinaryOp {
        /// Integers wrap in `add`, `sub`, `mul`.
        Add = "add", Sub = "sub", Mul = "mul",
        /// Integers truncate toward zero; an integer quotient by zero is 0.
        Div = "div",
        Pow = "pow",
        /// NaN if either operand is NaN.
        Min = "min",
        /// NaN if either operand is NaN.
        Max = "max",
        /// Remainder with the divisor's sign (Python's `%`); an integer remainder by zero is 0.
        Mod = "mod",
        /// Remainder with the dividend's sign (C's `fmod`).
        Fmod = "fmod",
        /// Logical, `bool` only.
        And = "and", Or = "or", Xor = "xor",
        /// Bitwise, integers only.
        BitAnd = "bit_and", BitOr = "bit_or", BitXor = "bit_xor", Shl = "shl", Shr = "shr",
        Eq = "eq", Ne = "ne", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge",
    }
}

impl UnaryOp {
    /// The result's type for an operand of type `t`; `None` where the function is not defined for `t`.
    pub fn result(self, t: DType) -> Option<DType> {
        use UnaryOp::*;
        match self {
            IsNan | IsPosInf | IsNegInf => t.is_float().then_some(DType::Bool),
            Not => (t == DType::Bool).then_some(t),
            BitNot => t.is_int().then_some(t),
            Neg | Abs | Sign | Relu => (t != DType::Bool).then_some(t),
            _ => t.is_float().then_some(t),
        }
    }
}

impl BinaryOp {
    pub fn is_comparison(self) -> bool {
        use BinaryOp::*;
        matches!(self, Eq | Ne | Lt | Le | Gt | Ge)
    }

    pub fn is_commutative(self) -> bool {
        use BinaryOp::*;
        matches!(self, Add | Mul | Min | Max | And | Or | Xor | BitAnd | BitOr | BitXor | Eq | Ne)
    }

    /// The result's type for operands of type `t`; `None` where the function is not defined for `t`.
    pub fn result(self, t: DType) -> Option<DType> {
        use BinaryOp::*;
        match self {
            Eq | Ne => Some(DType::Bool),
            Lt | Le | Gt | Ge => (t != DType::Bool).then_some(DType::Bool),
            And | Or | Xor => (t == DType::Bool).then_some(t),
            BitAnd | BitOr | BitXor | Shl | Shr => t.is_int().then_some(t),
            _ => (t != DType::Bool).then_some(t),
        }
    }
}

/// A typed scalar literal; floats compare and hash by their bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scalar {
    dtype: DType,
    /// Bits of an `f64` for float types, of an `i64` (or `u64`) for integers and `bool`.
    bits: u64,
}

impl Scalar {
    /// A float literal of type `dtype`, which must be a float type; `value` is rounded to it.
    pub fn float(dtype: DType, value: f64) -> Scalar {
        debug_assert!(dtype.is_float());
        Scalar { dtype, bits: round_to(dtype, value).to_bits() }
    }

    pub fn f32(value: f32) -> Scalar {
        Scalar::float(DType::F32, f64::from(value))
    }

    /// An integer or boolean literal of type `dtype`, which must not be a float type.
    pub fn int(dtype: DType, value: i64) -> Scalar {
        debug_assert!(!dtype.is_float());
        Scalar { dtype, bits: value as u64 }
    }

    pub fn dtype(self) -> DType {
        self.dtype
    }

    /// The value as `f64`.
    pub fn to_f64(self) -> f64 {
        if self.dtype.is_float() {
            f64::from_bits(self.bits)
        } else if self.dtype == DType::U64 {
            self.bits as f64
        } else {
            self.bits as i64 as f64
        }
    }

    /// The value as `i64`; floats are truncated.
    pub fn to_i64(self) -> i64 {
        if self.dtype.is_float() { f64::from_bits(self.bits) as i64 } else { self.bits as i64 }
    }
}

/// Position of a node in its expression.
pub type ExprId = u16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ExprNode {
    /// Operand `i` of the region.
    Input(u16),
    Const(Scalar),
    Unary(UnaryOp, ExprId),
    Binary(BinaryOp, ExprId, ExprId),
    /// `condition ? a : b`.
    Select(ExprId, ExprId, ExprId),
    /// Conversion as [`crate::ops::Cast`] defines it (float to integer truncates and saturates).
    Cast(DType, ExprId),
}

/// A scalar expression in SSA form: each node refers to earlier nodes only; the last node is the result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Expr {
    nodes: Vec<ExprNode>,
}

impl Expr {
    pub fn new() -> Expr {
        Expr::default()
    }

    /// `op(input 0)`.
    pub fn unary(op: UnaryOp) -> Expr {
        let mut e = Expr::new();
        let x = e.push(ExprNode::Input(0));
        e.push(ExprNode::Unary(op, x));
        e
    }

    /// `op(input 0, input 1)`.
    pub fn binary(op: BinaryOp) -> Expr {
        let mut e = Expr::new();
        let (a, b) = (e.push(ExprNode::Input(0)), e.push(ExprNode::Input(1)));
        e.push(ExprNode::Binary(op, a, b));
        e
    }

    /// Appends a node, or finds the equal one that is there already.
    pub fn push(&mut self, node: ExprNode) -> ExprId {
        if let Some(i) = self.nodes.iter().position(|n| *n == node) {
            return i as ExprId;
        }
        self.nodes.push(node);
        (self.nodes.len() - 1) as ExprId
    }

    pub fn nodes(&self) -> &[ExprNode] {
        &self.nodes
    }

    /// The expression with every node replaced; `f` keeps the operands.
    pub fn map_nodes(&self, f: impl FnMut(ExprNode) -> ExprNode) -> Expr {
        Expr { nodes: self.nodes.iter().copied().map(f).collect() }
    }

    /// Number of operands: the highest input index plus one.
    pub fn arity(&self) -> usize {
        self.nodes
            .iter()
            .filter_map(|n| if let ExprNode::Input(i) = n { Some(usize::from(*i) + 1) } else { None })
            .max()
            .unwrap_or(0)
    }

    /// Appends `other` with its input `i` replaced by node `operands[i]` of `self`; returns the node of its result.
    pub fn inline(&mut self, other: &Expr, operands: &[ExprId]) -> ExprId {
        let mut map: Vec<ExprId> = Vec::with_capacity(other.nodes.len());
        for n in &other.nodes {
            let m = |i: ExprId| map[usize::from(i)];
            let id = match *n {
                ExprNode::Input(i) => operands[usize::from(i)],
                ExprNode::Const(_) => self.push(*n),
                ExprNode::Unary(op, a) => self.push(ExprNode::Unary(op, m(a))),
                ExprNode::Binary(op, a, b) => self.push(ExprNode::Binary(op, m(a), m(b))),
                ExprNode::Select(c, a, b) => self.push(ExprNode::Select(m(c), m(a), m(b))),
                ExprNode::Cast(t, a) => self.push(ExprNode::Cast(t, m(a))),
            };
            map.push(id);
        }
        map.last().copied().unwrap_or(0)
    }

    /// Makes node `result` the last one (an expression's result), dropping what it does not use. Nodes are renumbered
    /// in the order in which a depth-first walk from the result leaves them, so equal expressions become equal values
    /// however they were built.
    pub fn finish(&mut self, result: ExprId) {
        const NEW: ExprId = ExprId::MAX;
        let mut map = vec![NEW; self.nodes.len()];
        let mut out: Vec<ExprNode> = Vec::new();
        let mut stack = vec![result];
        while let Some(&id) = stack.last() {
            let at = usize::from(id);
            if map[at] != NEW {
                stack.pop();
                continue;
            }
            // Pushed in reverse, so that the first operand is left first.
            let waiting = stack.len();
            match self.nodes[at] {
                ExprNode::Input(_) | ExprNode::Const(_) => {}
                ExprNode::Unary(_, a) | ExprNode::Cast(_, a) => stack.push(a),
                ExprNode::Binary(_, a, b) => stack.extend([b, a]),
                ExprNode::Select(c, a, b) => stack.extend([b, a, c]),
            }
            let mut pending = stack.split_off(waiting);
            pending.retain(|o| map[usize::from(*o)] == NEW);
            if !pending.is_empty() {
                stack.append(&mut pending);
                continue;
            }
            let m = |a: ExprId| map[usize::from(a)];
            let node = match self.nodes[at] {
                ExprNode::Unary(op, a) => ExprNode::Unary(op, m(a)),
                ExprNode::Cast(t, a) => ExprNode::Cast(t, m(a)),
                ExprNode::Binary(op, a, b) => ExprNode::Binary(op, m(a), m(b)),
                ExprNode::Select(c, a, b) => ExprNode::Select(m(c), m(a), m(b)),
                leaf => leaf,
            };
            map[at] = out.len() as ExprId;
            out.push(node);
            stack.pop();
        }
        self.nodes = out;
    }

    /// The expression over operands of which those that are `stored` in another type are converted to `to` where they are
    /// read. Operands beyond the list are read as they are.
    pub fn converting(&self, stored: &[bool], to: DType) -> Expr {
        let mut out = Expr::new();
        let operands: Vec<ExprId> = (0..self.arity())
            .map(|i| {
                let operand = out.push(ExprNode::Input(i as u16));
                match stored.get(i) {
                    Some(true) => out.push(ExprNode::Cast(to, operand)),
                    _ => operand,
                }
            })
            .collect();
        let result = out.inline(self, &operands);
        if !self.nodes.is_empty() {
            out.finish(result);
        }
        out
    }

    /// Types of all nodes for operands of the given types; `Err` names the first ill-typed node's index.
    pub fn types(&self, inputs: &[DType]) -> Result<Vec<DType>, usize> {
        let mut t: Vec<DType> = Vec::with_capacity(self.nodes.len());
        for (i, n) in self.nodes.iter().enumerate() {
            let at = |a: ExprId| t.get(usize::from(a)).copied().ok_or(i);
            t.push(match *n {
                ExprNode::Input(k) => *inputs.get(usize::from(k)).ok_or(i)?,
                ExprNode::Const(s) => s.dtype(),
                ExprNode::Unary(op, a) => op.result(at(a)?).ok_or(i)?,
                ExprNode::Binary(op, a, b) => {
                    let (x, y) = (at(a)?, at(b)?);
                    if x != y {
                        return Err(i);
                    }
                    op.result(x).ok_or(i)?
                }
                ExprNode::Select(c, a, b) => {
                    if at(c)? != DType::Bool || at(a)? != at(b)? {
                        return Err(i);
                    }
                    at(a)?
                }
                ExprNode::Cast(to, a) => {
                    at(a)?;
                    to
                }
            });
        }
        if t.is_empty() { Err(0) } else { Ok(t) }
    }
}
