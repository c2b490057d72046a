//! Dialects: how the operators of each host spell what the network says.
//!
//! **Support is lowering**: there is no list of supported operators besides the rows, and no checker besides the
//! lowering that a row names.

pub mod onnx;
mod survey;
pub mod tf;
pub mod vocabulary;

use std::sync::OnceLock;

use rustc_hash::FxHashMap;

use crate::lower::{NodeLowering, Reject, Remedy};
use crate::{HostNode, is_control_flow};
pub use survey::{Operator, Support, survey};

/// One spelling of one operator, from a version of its domain's operator set on.
pub struct Row {
    pub domain: &'static str,
    pub op_type: &'static str,
    pub since: i64,
    pub lower: fn(&mut NodeLowering) -> Result<(), Reject>,
}

/// All rows of all dialects.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    onnx::TABLES.iter().chain(tf::TABLES).copied().flatten()
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
    let (domain, op_type) = (node.domain.as_str(), node.op_type.as_str());
    let rows = index.get(&(domain, op_type)).ok_or_else(|| unknown(domain, op_type))?;
    rows.iter().find(|row| row.since <= node.opset).copied().ok_or_else(|| {
        let least = rows.last().map_or(node.opset, |row| row.since);
        Reject::new(format!("operator {op_type} is not supported in operator set {}", node.opset))
            .remedy(Remedy::OperatorSet { domain: domain.to_owned(), least })
    })
}

fn unknown(domain: &str, op_type: &str) -> Reject {
    let name = if domain.is_empty() { op_type.to_owned() } else { format!("{domain}.{op_type}") };
    match is_control_flow(domain, op_type) || tf::is_control_flow(domain, op_type) {
        true => Reject::new("control flow stays with the host").remedy(Remedy::HostOnly),
        false if rows().all(|row| row.domain != domain) => {
            Reject::hosted(format!("operator {name} is of a domain that only the host knows"))
        }
        false => Reject::new(format!("operator {name} is not supported")),
    }
}
