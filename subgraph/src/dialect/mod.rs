//! Dialects: how the operators of each host spell what the network says.
//!
//! **Support is lowering**: there is no list of supported operators besides the rows, and no checker besides the
//! lowering that a row names.

pub mod onnx;

use std::sync::OnceLock;

use rustc_hash::FxHashMap;

use crate::HostNode;
use crate::lower::{NodeLowering, Reject};

/// One spelling of one operator, from a version of its domain's operator set on.
pub struct Row {
    pub domain: &'static str,
    pub op_type: &'static str,
    pub since: i64,
    pub lower: fn(&mut NodeLowering) -> Result<(), Reject>,
}

/// All rows of all dialects.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    onnx::TABLES.iter().copied().flatten()
}

/// The row for a node: of those with its domain and type the newest that its operator set has.
///
/// # Errors
/// No row spells the node's operator in its version.
pub fn find(node: &HostNode) -> Result<&'static Row, Reject> {
    static INDEX: OnceLock<FxHashMap<(&str, &str), Vec<&Row>>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let mut index: FxHashMap<_, Vec<&Row>> = FxHashMap::default();
        for row in rows() {
            index.entry((row.domain, row.op_type)).or_default().push(row);
        }
        for rows in index.values_mut() {
            rows.sort_by_key(|row| std::cmp::Reverse(row.since));
        }
        index
    });
    let rows = index.get(&(node.domain.as_str(), node.op_type.as_str())).ok_or_else(|| {
        Reject::new(match node.domain.as_str() {
            "" => format!("operator {} is not supported", node.op_type),
            domain => format!("operator {domain}.{} is not supported", node.op_type),
        })
    })?;
    rows.iter().find(|row| row.since <= node.opset).copied().ok_or_else(|| {
        Reject::new(format!("operator {} is not supported in operator set {}", node.op_type, node.opset))
    })
}
