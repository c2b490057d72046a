//! `ai.onnx.ml`: linear models and the preparation of features. Where the specification leaves room, results are those of
//! ONNX Runtime's CPU provider.

use engraft_network::{BinaryOp, DType, Dim, Tensor, UnaryOp, ValueId, ops};

use super::super::Row;
use crate::Attribute;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

const fn row(op_type: &'static str, lower: fn(&mut NodeLowering) -> Result<()>) -> Row {
    Row { domain: "ai.onnx.ml", op_type, since: 1, lower }
}

pub(super) const ROWS: &[Row] = &[
    row("Scaler", scaler),
    row("Normalizer", normalizer),
    row("Binarizer", binarizer),
    row("Imputer", imputer),
    row("FeatureVectorizer", feature_vectorizer),
    row("ArrayFeatureExtractor", array_feature_extractor),
    row("LinearRegressor", linear_regressor),
    row("LinearClassifier", linear_classifier),
    row("LabelEncoder", strings),
    row("OneHotEncoder", strings),
    row("CategoryMapper", strings),
    row("CastMap", maps),
    row("DictVectorizer", maps),
    row("ZipMap", maps),
    row("TreeEnsemble", trees),
    row("TreeEnsembleClassifier", trees),
    row("TreeEnsembleRegressor", trees),
    row("SVMClassifier", support_vectors),
    row("SVMRegressor", support_vectors),
];

fn strings(_: &mut NodeLowering) -> Result<()> {
    Err(Reject::hosted("tables of strings and categories stay with the host"))
}

fn maps(_: &mut NodeLowering) -> Result<()> {
    Err(Reject::hosted("maps stay with the host"))
}

fn trees(_: &mut NodeLowering) -> Result<()> {
    Err(Reject::hosted("walks through trees have no arithmetic to gain from"))
}

fn support_vectors(_: &mut NodeLowering) -> Result<()> {
    Err(Reject::hosted("support vector machines stay with the host"))
}

fn f32s(n: &mut NodeLowering, shape: &[usize], values: &[f32]) -> Result<ValueId> {
    let tensor = Tensor::from_slice(shape, values).map_err(|error| Reject::new(error.to_string()))?;
    Ok(n.add_constant(tensor))
}

/// The features as `f32`.
fn features(n: &mut NodeLowering, index: usize) -> Result<ValueId> {
    let x = n.input(index)?;
    n.cast(x, DType::F32)
}

fn required(n: &NodeLowering, name: &str) -> Result<Vec<f32>> {
    n.floats(name)?.ok_or_else(|| Reject::invalid(format!("attribute {name} is missing")))
}

fn scaler(n: &mut NodeLowering) -> Result<()> {
    let x = features(n, 0)?;
    let (offset, scale) = (required(n, "offset")?, required(n, "scale")?);
    let (offset, scale) = (f32s(n, &[offset.len()], &offset)?, f32s(n, &[scale.len()], &scale)?);
    let y = n.binary(BinaryOp::Sub, x, offset)?;
    let y = n.binary(BinaryOp::Mul, y, scale)?;
    n.set(0, y);
    Ok(())
}

/// Divides by the norm over the last axis, where it is not 0.
fn normalizer(n: &mut NodeLowering) -> Result<()> {
    let op = match n.string_or("norm", "MAX")? {
        "MAX" => ops::ReduceOp::Max,
        "L1" => ops::ReduceOp::L1,
        "L2" => ops::ReduceOp::L2,
        other => return Err(Reject::invalid(format!("norm {other:?} is not defined"))),
    };
    let x = features(n, 0)?;
    let axes = vec![n.rank(x).checked_sub(1).ok_or_else(|| Reject::invalid("a scalar has no features"))?];
    let norm = n.emit(ops::Reduce { op, axes, keep_dims: true }, &[x])?;
    let y = n.pointwise(&[x, norm], |e| {
        let (x, norm, zero, one) = (e.input(0), e.input(1), e.number(0.0), e.number(1.0));
        let none = e.binary(BinaryOp::Eq, norm, zero);
        let divisor = e.select(none, one, norm);
        e.binary(BinaryOp::Div, x, divisor)
    })?;
    n.set(0, y);
    Ok(())
}

fn binarizer(n: &mut NodeLowering) -> Result<()> {
    let threshold = n.float_or("threshold", 0.0)?;
    let x = n.input(0)?;
    let dtype = n.dtype(x);
    let above = n.with_scalar(BinaryOp::Gt, x, f64::from(threshold))?;
    let y = n.cast(above, dtype)?;
    n.set(0, y);
    Ok(())
}

/// Puts other values, one or one per feature, in place of one.
fn imputer(n: &mut NodeLowering) -> Result<()> {
    let x = n.input(0)?;
    let y = match n.dtype(x) {
        DType::F32 => {
            let imputed = required(n, "imputed_value_floats")?;
            let replaced = n.float_or("replaced_value_float", 0.0)?;
            let hit = match replaced.is_nan() {
                true => n.unary(UnaryOp::IsNan, x)?,
                false => n.with_scalar(BinaryOp::Eq, x, f64::from(replaced))?,
            };
            let imputed = f32s(n, &[imputed.len()], &imputed)?;
            n.emit(ops::Select, &[hit, imputed, x])?
        }
        DType::I64 => {
            let imputed = n
                .ints("imputed_value_int64s")?
                .ok_or_else(|| Reject::invalid("attribute imputed_value_int64s is missing"))?;
            let replaced = n.add_constant(Tensor::scalar(n.int_or("replaced_value_int64", 0)?));
            let hit = n.binary(BinaryOp::Eq, x, replaced)?;
            let imputed = Tensor::from_slice(&[imputed.len()], &imputed);
            let imputed = n.add_constant(imputed.map_err(|error| Reject::new(error.to_string()))?);
            n.emit(ops::Select, &[hit, imputed, x])?
        }
        other => return Err(Reject::new(format!("imputing {other} is not supported"))),
    };
    n.set(0, y);
    Ok(())
}

fn feature_vectorizer(n: &mut NodeLowering) -> Result<()> {
    let parts = (0..n.input_count()).map(|index| features(n, index)).collect::<Result<Vec<_>>>()?;
    let widths: Vec<Option<i64>> =
        parts.iter().map(|&part| n.shape(part).get(1).and_then(Dim::fixed)).collect();
    let stated = n.ints("inputdimensions")?.unwrap_or_default();
    if parts.iter().any(|&part| n.rank(part) != 2)
        || stated.len() != parts.len()
        || stated.iter().zip(&widths).any(|(stated, width)| Some(*stated) != *width)
    {
        return Err(Reject::invalid("inputdimensions are not the widths of the operands"));
    }
    let y = n.emit(ops::Concat { axis: 1 }, &parts)?;
    n.set(0, y);
    Ok(())
}

fn array_feature_extractor(n: &mut NodeLowering) -> Result<()> {
    let (x, indices) = (n.input(0)?, n.input(1)?);
    let count = n.ty(indices).count();
    let indices = n.reshape(indices, vec![count.clone()])?;
    let rank = n.rank(x);
    let mut y = match rank {
        0 => return Err(Reject::invalid("a scalar has no features")),
        _ => n.emit(ops::Gather { axis: rank - 1 }, &[x, indices])?,
    };
    if rank == 1 {
        y = n.reshape(y, vec![Dim::Fixed(1), count])?;
    }
    n.set(0, y);
    Ok(())
}

/// `x` times the coefficients of every target, plus its intercept: `[N, targets]`.
fn scores(n: &mut NodeLowering, targets: usize) -> Result<ValueId> {
    let x = features(n, 0)?;
    let coefficients = required(n, "coefficients")?;
    let shape = n.shape(x);
    let width = coefficients.len().checked_div(targets).unwrap_or(0);
    let x = match shape.as_slice() {
        [features] => n.reshape(x, vec![Dim::Fixed(1), features.clone()])?,
        [_, _] => x,
        _ => return Err(Reject::invalid("wants a matrix of features")),
    };
    if width * targets != coefficients.len() || n.shape(x)[1].fixed() != i64::try_from(width).ok() {
        return Err(Reject::invalid(format!("{} coefficients do not fit the features", coefficients.len())));
    }
    let matrix = f32s(n, &[targets, width], &coefficients)?;
    let mut operands = vec![x, matrix];
    match n.floats("intercepts")?.filter(|intercepts| !intercepts.is_empty()) {
        Some(intercepts) if intercepts.len() != targets => {
            return Err(Reject::invalid(format!("{} intercepts for {targets} targets", intercepts.len())));
        }
        Some(intercepts) => operands.push(f32s(n, &[targets], &intercepts)?),
        None => {}
    }
    let epilogue = ops::Epilogue { bias: operands.len() == 3, post: None };
    n.emit(ops::MatMul { trans_b: true, epilogue, ..ops::MatMul::default() }, &operands)
}

fn transformed(n: &mut NodeLowering, scores: ValueId) -> Result<ValueId> {
    match n.string_or("post_transform", "NONE")? {
        "NONE" => Ok(scores),
        "LOGISTIC" => n.unary(UnaryOp::Sigmoid, scores),
        "SOFTMAX" => n.emit(ops::Softmax { axis: 1, log: false }, &[scores]),
        other => Err(Reject::new(format!("post_transform {other} is not supported"))),
    }
}

fn linear_regressor(n: &mut NodeLowering) -> Result<()> {
    let targets = usize::try_from(n.int_or("targets", 1)?).unwrap_or(0);
    let scores = scores(n, targets)?;
    let y = transformed(n, scores)?;
    n.set(0, y);
    Ok(())
}

fn linear_classifier(n: &mut NodeLowering) -> Result<()> {
    if matches!(n.attribute("classlabels_strings"), Some(Attribute::Strings(labels)) if !labels.is_empty()) {
        return Err(Reject::hosted("labels that are strings stay with the host"));
    }
    let labels = n.ints("classlabels_ints")?.unwrap_or_default();
    let classes = n.floats("intercepts")?.map_or(0, |intercepts| intercepts.len());
    if classes < 2 || labels.len() != classes {
        return Err(Reject::invalid("wants scores and labels of two classes at least"));
    }
    let scores = scores(n, classes)?;
    let best = n.emit(ops::ArgReduce { max: true, axis: 1, keep_dims: false, last: false }, &[scores])?;
    let labels = Tensor::from_slice(&[classes], &labels).map_err(|error| Reject::new(error.to_string()))?;
    let labels = n.add_constant(labels);
    let label = n.emit(ops::Gather { axis: 0 }, &[labels, best])?;
    n.set(0, label);
    let y = transformed(n, scores)?;
    n.set(1, y);
    Ok(())
}
