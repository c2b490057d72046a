//! The ONNX dialect, operator sets 7 to the newest, and what ONNX Runtime adds to it ([`contrib`]): one table of rows per
//! family.
//!
//! Semantics are those of the ONNX operator specification. A row serves all versions from its `since` to the next row of
//! the same operator; where versions differ only in attributes that became inputs, one function reads both.

mod attend;
mod attention;
mod contrib;
pub(super) mod conv;
pub(super) mod einsum;
pub(super) mod elementwise;
mod functions;
pub(super) mod gather;
pub(super) mod linear;
mod ml;
pub(super) mod norm;
pub(super) mod pool;
mod quantize;
pub(super) mod reduce;
mod refused;
pub(super) mod resize;
mod rnn;
mod rotary;
mod sample;
mod select;
pub(super) mod shape;
mod signal;
pub(super) mod slice;
mod window;

use super::Row;

/// The tables of all families.
pub(super) const TABLES: &[&[Row]] = &[
    elementwise::ROWS,
    linear::ROWS,
    einsum::ROWS,
    conv::ROWS,
    pool::ROWS,
    norm::ROWS,
    reduce::ROWS,
    shape::ROWS,
    slice::ROWS,
    gather::ROWS,
    select::ROWS,
    functions::ROWS,
    ml::ROWS,
    refused::ROWS,
    resize::ROWS,
    sample::ROWS,
    rnn::ROWS,
    window::ROWS,
    signal::ROWS,
    quantize::ROWS,
    attention::ROWS,
    rotary::ROWS,
    contrib::activation::ROWS,
    contrib::early::ROWS,
    contrib::gated::ROWS,
    contrib::linear::ROWS,
    contrib::norm::ROWS,
    contrib::rotary::ROWS,
    contrib::attention::ROWS,
    contrib::grouped::ROWS,
];

/// Oldest operator set whose semantics the rows follow.
const FIRST: i64 = 7;

/// A row of the default domain.
const fn row(
    op_type: &'static str,
    since: i64,
    lower: fn(&mut crate::lower::NodeLowering) -> Result<(), crate::lower::Reject>,
) -> Row {
    Row { domain: "", op_type, since, lower }
}
