//! Operators that stay with the host whatever their operands are, and why.

use super::super::Row;
use super::row;
use crate::lower::{NodeLowering, Reject, Remedy};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("Bernoulli", 15, random),
    row("Multinomial", 7, random),
    row("RandomNormal", 1, random),
    row("RandomNormalLike", 1, random),
    row("RandomUniform", 1, random),
    row("RandomUniformLike", 1, random),
    row("ConcatFromSequence", 11, sequence),
    row("SequenceAt", 11, sequence),
    row("SequenceConstruct", 11, sequence),
    row("SequenceEmpty", 11, sequence),
    row("SequenceErase", 11, sequence),
    row("SequenceInsert", 11, sequence),
    row("SequenceLength", 11, sequence),
    row("SequenceMap", 17, sequence),
    row("SplitToSequence", 11, sequence),
    row("Optional", 15, optional),
    row("OptionalGetElement", 15, optional),
    row("OptionalHasElement", 15, optional),
    row("RegexFullMatch", 20, text),
    row("StringConcat", 20, text),
    row("StringNormalizer", 10, text),
    row("StringSplit", 20, text),
    row("TfIdfVectorizer", 9, text),
    row("ImageDecoder", 20, |_| hosted("image formats are the host's")),
    row("LinearAttention", 27, |_| {
        Err(Reject::new("a state that is carried from position to position would be computed one by one"))
    }),
];

fn random(_: &mut NodeLowering) -> Result<()> {
    hosted("random numbers come from the host's generator")
}

fn sequence(_: &mut NodeLowering) -> Result<()> {
    hosted("sequences stay with the host")
}

fn optional(_: &mut NodeLowering) -> Result<()> {
    hosted("optional values stay with the host")
}

fn text(_: &mut NodeLowering) -> Result<()> {
    hosted("strings stay with the host")
}

fn hosted(reason: &str) -> Result<()> {
    Err(Reject::new(reason).remedy(Remedy::HostOnly))
}
