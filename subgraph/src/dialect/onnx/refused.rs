//! Operators that stay with the host whatever their operands are, and why.

use super::super::Row;
use super::row;
use crate::lower::{NodeLowering, Reject};

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
    row("LinearAttention", 27, carried_state),
    contrib("LinearAttention", carried_state),
    contrib("GatedDeltaNet", carried_state),
    contrib("AttnLSTM", carried_state),
    contrib("BeamSearch", search),
    contrib("GreedySearch", search),
    contrib("Sampling", search),
    contrib("WhisperBeamSearch", search),
    contrib("Tokenizer", text),
    contrib("MurmurHash3", hashes),
    contrib("NGramHashMapping", hashes),
    contrib("NGramRepeatBlock", hashes),
    contrib("VarlenNGramHashMapping", hashes),
    contrib("BifurcationDetector", hashes),
    contrib("SparseToDenseMatMul", |_| hosted("sparse tensors stay with the host")),
    contrib("Inverse", |_| hosted("matrices are factorized by the host")),
    contrib("DynamicTimeWarping", |_| hosted("a path is found step by step by the host")),
    contrib("SampleOp", |_| hosted("it is an example of the host's")),
    contrib("MoE", experts),
    contrib("QMoE", experts),
    contrib("MoEGroupRouter", experts),
    contrib("SparseAttention", |_| Err(Reject::new("attention in blocks that tables choose has no kernel"))),
    contrib("MatMulNBits", blocks),
    contrib("MatMulBnb4", blocks),
    contrib("MatMulFpQ4", blocks),
    contrib("GatherBlockQuantized", blocks),
    contrib("GatherPacked", blocks),
    contrib("DequantizeLinear", integers),
    contrib("QuantizeLinear", integers),
    contrib("DynamicQuantizeLSTM", integers),
    contrib("DynamicQuantizeMatMul", integers),
    contrib("MatMulInteger16", integers),
    contrib("MatMulIntegerToFloat", integers),
    contrib("QAttention", integers),
    contrib("QEmbedLayerNormalization", integers),
    contrib("QGemm", integers),
    contrib("QLinearAdd", integers),
    contrib("QLinearAveragePool", integers),
    contrib("QLinearConcat", integers),
    contrib("QLinearConv", integers),
    contrib("QLinearGlobalAveragePool", integers),
    contrib("QLinearLeakyRelu", integers),
    contrib("QLinearMul", integers),
    contrib("QLinearSigmoid", integers),
    contrib("QLinearSoftmax", integers),
    contrib("QLinearWhere", integers),
];

/// A row of ONNX Runtime's own domain.
const fn contrib(op_type: &'static str, lower: fn(&mut NodeLowering) -> Result<()>) -> Row {
    Row { domain: "com.microsoft", op_type, since: 1, lower }
}

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

fn carried_state(_: &mut NodeLowering) -> Result<()> {
    Err(Reject::new("a state that is carried from position to position would be computed one by one"))
}

fn search(_: &mut NodeLowering) -> Result<()> {
    hosted("a search runs whole models, which are sessions of their own")
}

fn hashes(_: &mut NodeLowering) -> Result<()> {
    hosted("words are hashed and compared by the host")
}

fn experts(_: &mut NodeLowering) -> Result<()> {
    Err(Reject::new("products with the weights of chosen experts have no kernel"))
}

fn blocks(_: &mut NodeLowering) -> Result<()> {
    Err(Reject::new("weights quantized in blocks have no kernel"))
}

fn integers(_: &mut NodeLowering) -> Result<()> {
    Err(Reject::new("arithmetic of quantized integers has no kernel"))
}

fn hosted(reason: &str) -> Result<()> {
    Err(Reject::hosted(reason))
}
