//! The TensorFlow dialect: one table of rows per family.
//!
//! Semantics are those of TensorFlow's public operator definitions (`tensorflow/core/ops`, `tf.raw_ops`) and kernels. What an
//! operator says like one of ONNX is lowered by the same code.

mod elementwise;

use super::Row;
use crate::tensorflow::{DOMAIN, VERSION};

/// The tables of all families.
pub(super) const TABLES: &[&[Row]] = &[elementwise::ROWS];

const fn row(
    op_type: &'static str,
    lower: fn(&mut crate::lower::NodeLowering) -> Result<(), crate::lower::Reject>,
) -> Row {
    Row { domain: DOMAIN, op_type, since: VERSION, lower }
}

/// Whether the operator runs functions of its own, or parts of the graph around it.
pub(super) fn is_control_flow(domain: &str, op_type: &str) -> bool {
    let lowered = ["Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"];
    let functional = ["If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase", "For"];
    let name = op_type.strip_prefix("Ref").unwrap_or(op_type);
    domain == DOMAIN && (lowered.contains(&name) || functional.contains(&op_type))
}
