//! Graphs through dialect and partitioner, judged by the reference evaluation.

mod builder;
mod contrib;
mod operators;
mod partitioning;
mod selection;
mod shapes;
mod signal;
mod spatial;
mod tensorflow;
