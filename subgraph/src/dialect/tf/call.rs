//! Calls of functions that the reader leaves as calls, such as those that are to be compiled as a whole.

use super::super::Row;
use super::{Result, row};
use crate::Attribute;
use crate::lower::{NodeLowering, Reject, Remedy};

pub(super) const ROWS: &[Row] = &[row("PartitionedCall", call), row("StatefulPartitionedCall", call)];

fn call(n: &mut NodeLowering) -> Result<()> {
    match n.attribute("f") {
        Some(Attribute::Graph(body)) => n.call(body),
        _ => Err(Reject::new("the function that it calls is not known").remedy(Remedy::HostOnly)),
    }
}
