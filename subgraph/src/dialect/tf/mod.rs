//! The TensorFlow dialect: one table of rows per family.
//!
//! Semantics are those of TensorFlow's public operator definitions (`tensorflow/core/ops`, `tf.raw_ops`) and kernels. What an
//! operator says like one of ONNX is lowered by the same code.

mod call;
mod elementwise;
mod gather;
mod generate;
mod linear;
mod nn;
mod norm;
mod pool;
mod quantize;
mod recurrent;
mod reduce;
mod resize;
mod shape;
mod slice;
mod space;

use engraft_network::{Dim, ValueId};

use super::Row;
use crate::lower::{NodeLowering, Reject, axis};
use crate::tensorflow::{DOMAIN, VERSION};

type Result<T> = std::result::Result<T, Reject>;

/// The tables of all families.
pub(super) const TABLES: &[&[Row]] = &[
    call::ROWS,
    elementwise::ROWS,
    linear::ROWS,
    nn::ROWS,
    pool::ROWS,
    norm::ROWS,
    reduce::ROWS,
    shape::ROWS,
    generate::ROWS,
    slice::ROWS,
    space::ROWS,
    gather::ROWS,
    resize::ROWS,
    quantize::ROWS,
    recurrent::ROWS,
];

const fn row(op_type: &'static str, lower: fn(&mut NodeLowering) -> Result<()>) -> Row {
    Row { domain: DOMAIN, op_type, since: VERSION, lower }
}

/// Whether the operator runs functions of its own, or parts of the graph around it.
pub(super) fn is_control_flow(domain: &str, op_type: &str) -> bool {
    let lowered = ["Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"];
    let functional = ["If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase", "For"];
    let name = op_type.strip_prefix("Ref").unwrap_or(op_type);
    domain == DOMAIN && (lowered.contains(&name) || functional.contains(&op_type))
}

/// The one axis that operand `index` names.
fn axis_operand(n: &mut NodeLowering, index: usize, rank: usize) -> Result<usize> {
    match n.integers(index, "the axis")?.as_slice() {
        [position] => axis(*position, rank),
        other => Err(Reject::new(format!("{} axes", other.len()))),
    }
}

/// The one size that operand `index` is.
fn size_operand(n: &mut NodeLowering, index: usize, what: &str) -> Result<Dim> {
    match n.dims(index, what)?.as_slice() {
        [size] => Ok(size.clone()),
        other => Err(Reject::new(format!("{what} has {} elements", other.len()))),
    }
}

/// Where the channels of `[N, spatial.., C]` or `[N, C, spatial..]` stand.
#[derive(Clone, Copy, PartialEq)]
enum DataFormat {
    ChannelsLast,
    ChannelsFirst,
}

impl DataFormat {
    fn of(n: &NodeLowering) -> Result<DataFormat> {
        match n.string_or("data_format", "NHWC")? {
            "NHWC" | "NDHWC" => Ok(DataFormat::ChannelsLast),
            "NCHW" | "NCDHW" => Ok(DataFormat::ChannelsFirst),
            other => Err(Reject::new(format!("data_format {other:?} is not supported"))),
        }
    }

    /// The tensor with its channels last.
    fn open(self, n: &mut NodeLowering, x: ValueId) -> Result<ValueId> {
        if n.rank(x) < 3 {
            return Err(Reject::new("wants a batch, spatial and a channel axis"));
        }
        match self {
            DataFormat::ChannelsLast => Ok(x),
            DataFormat::ChannelsFirst => n.channels_last(x),
        }
    }

    /// Back from channels last.
    fn close(self, n: &mut NodeLowering, y: ValueId) -> Result<ValueId> {
        match self {
            DataFormat::ChannelsLast => Ok(y),
            DataFormat::ChannelsFirst => n.channels_first(y),
        }
    }

    /// The spatial ones of numbers that stand for all axes.
    fn spatial<T: Clone>(self, all: &[T]) -> Vec<T> {
        match self {
            DataFormat::ChannelsLast => all[1..all.len() - 1].to_vec(),
            DataFormat::ChannelsFirst => all[2..].to_vec(),
        }
    }
}
