use crate::Expr;
use serde::{Deserialize, Serialize};

/// What a matrix operator does to its accumulators before they are stored:
/// `out = post(acc + bias, extra operands...)`.
///
/// With `bias` the operator's first operand after its matrices has shape `[channels]` (the output's last axis). `post`'s
/// input 0 is `acc + bias`; inputs 1.. are the operator's remaining operands in order, each broadcastable to the output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Epilogue {
    pub bias: bool,
    pub post: Option<Expr>,
}

impl Epilogue {
    /// Number of operands that the epilogue takes after the matrices.
    pub fn operands(&self) -> usize {
        usize::from(self.bias) + self.post.as_ref().map_or(0, |p| p.arity().saturating_sub(1))
    }
}

/// `a x b` over the last two axes; leading axes broadcast by numpy's rule. Operands: a `[.., M, K]` (`[.., K, M]` if
/// `trans_a`), b `[.., K, N]` (`[.., N, K]` if `trans_b`), then the epilogue's. Output `[.., M, N]`. Both matrices have
/// rank 2 at least. Integer products are summed in the operands' own type, wrapping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MatMul {
    pub trans_a: bool,
    pub trans_b: bool,
    pub epilogue: Epilogue,
}
