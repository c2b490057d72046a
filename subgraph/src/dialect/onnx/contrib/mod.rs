//! What ONNX Runtime adds to ONNX: the operators of its domain `com.microsoft` (and one that it keeps in ONNX's) that
//! optimizers and exporters write into models.
//!
//! Semantics are those of ONNX Runtime's schemas and, where these leave something open, of its CPU provider. Operators are
//! spelled out in the network's terms: the engine finds the fused forms again.

pub(super) mod activation;
pub(super) mod attention;
pub(super) mod early;
pub(super) mod gated;
pub(super) mod grouped;
pub(super) mod linear;
pub(super) mod norm;
pub(super) mod rotary;

use super::super::Row;
use crate::lower::{NodeLowering, Reject};

/// A row of ONNX Runtime's own domain, which has had one version ever since.
const fn row(op_type: &'static str, lower: fn(&mut NodeLowering) -> Result<(), Reject>) -> Row {
    Row { domain: "com.microsoft", op_type, since: 1, lower }
}

/// Refuses the node if somebody reads one of these outputs, or an operand or attribute is given that the row does not serve.
fn refuse(n: &NodeLowering, outputs: &[(usize, &str)], inputs: &[(usize, &str)]) -> Result<(), Reject> {
    for &(index, name) in outputs {
        if n.wants(index) {
            return Err(Reject::new(format!("output {name} is not supported")).wants(name, ""));
        }
    }
    for &(index, name) in inputs {
        if n.has(index) {
            return Err(Reject::new(format!("input {name} is not supported")).wants(name, ""));
        }
    }
    Ok(())
}

/// Refuses the node if one of these attributes is on.
fn refuse_flags(n: &NodeLowering, names: &[&str]) -> Result<(), Reject> {
    for name in names {
        if n.flag(name)? {
            return Err(Reject::new(format!("attribute {name} is not supported")).wants(*name, "0"));
        }
    }
    Ok(())
}
