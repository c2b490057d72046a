//! Einsum, as transpositions, reshapes and matrix products.

use engraft_network::{BinaryOp, Dim, ValueId, ops};

use super::super::Row;
use super::row;
use crate::lower::{NodeLowering, Reject};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[row("Einsum", 12, einsum)];

/// Letters are labels; the axes under an ellipsis get the labels that no letter has.
type Label = u32;

struct Term {
    value: ValueId,
    labels: Vec<Label>,
}

/// Labels of one side of the equation; `ellipsis` is the rank under "..." there.
fn labels(text: &str, rank: Option<usize>, ellipsis: usize) -> Result<Vec<Label>> {
    let letters = text.chars().filter(|letter| letter.is_ascii_alphabetic()).count();
    let under = match rank {
        Some(rank) if text.contains('.') => rank
            .checked_sub(letters)
            .ok_or_else(|| Reject::invalid(format!("term {text:?} does not fit rank {rank}")))?,
        Some(rank) if rank != letters => {
            return Err(Reject::invalid(format!("term {text:?} does not fit rank {rank}")));
        }
        Some(_) => 0,
        None => ellipsis,
    };
    let mut labels = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("...") {
            labels.extend((0..under).map(|axis| (ellipsis - under + axis) as Label));
            rest = after;
        } else if letter.is_ascii_alphabetic() {
            labels.push(letter as Label);
            rest = &rest[1..];
        } else {
            return Err(Reject::invalid(format!("term {text:?} is not understood")));
        }
    }
    Ok(labels)
}

pub(in crate::dialect) fn einsum(n: &mut NodeLowering) -> Result<()> {
    let equation: String = n.string_or("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left.to_owned(), Some(right.to_owned())),
        None => (equation.clone(), None),
    };
    let values = n.inputs()?;
    let texts: Vec<&str> = left.split(',').collect();
    if texts.len() != values.len() {
        return Err(Reject::invalid(format!("equation {equation:?} does not have {} terms", values.len())));
    }
    let letters = |text: &str| text.chars().filter(|letter| letter.is_ascii_alphabetic()).count();
    let ellipsis = texts
        .iter()
        .zip(&values)
        .filter(|(text, _)| text.contains('.'))
        .map(|(text, &value)| n.rank(value).saturating_sub(letters(text)))
        .max()
        .unwrap_or(0);
    if ellipsis >= 'A' as usize {
        return Err(Reject::new("too many axes"));
    }
    let mut terms = Vec::with_capacity(values.len());
    for (text, value) in texts.iter().zip(values) {
        let labels = labels(text, Some(n.rank(value)), ellipsis)?;
        if (1..labels.len()).any(|index| labels[..index].contains(&labels[index])) {
            return Err(Reject::new("a diagonal (a repeated label in one term) is not supported"));
        }
        terms.push(Term { value, labels });
    }
    let output = match right {
        Some(right) => labels(&right, None, ellipsis)?,
        None => implicit_output(&terms, ellipsis),
    };
    if (1..output.len()).any(|index| output[..index].contains(&output[index]))
        || output.iter().any(|label| !terms.iter().any(|term| term.labels.contains(label)))
    {
        return Err(Reject::invalid(format!("the output of equation {equation:?} is not understood")));
    }

    let mut terms = terms.into_iter();
    let Some(mut result) = terms.next() else { return Err(Reject::invalid("no operands")) };
    let rest: Vec<Term> = terms.collect();
    for (index, term) in rest.iter().enumerate() {
        let later: Vec<Label> =
            rest[index + 1..].iter().flat_map(|term| term.labels.clone()).chain(output.clone()).collect();
        result = contract(n, result, term, &later)?;
    }
    let result = sum_out(n, &result, |label| output.contains(&label))?;
    let perm: Vec<usize> = output
        .iter()
        .map(|label| result.labels.iter().position(|candidate| candidate == label))
        .collect::<Option<_>>()
        .ok_or_else(|| Reject::invalid("the output has a label that no operand has"))?;
    let y = n.transpose(result.value, &perm)?;
    n.set(0, y);
    Ok(())
}

/// Without "->": the ellipsis, then all labels that occur once, in alphabetical order.
fn implicit_output(terms: &[Term], ellipsis: usize) -> Vec<Label> {
    let mut seen: Vec<Label> = terms.iter().flat_map(|term| term.labels.iter().copied()).collect();
    seen.sort_unstable();
    let once = seen
        .iter()
        .copied()
        .filter(|label| *label >= 'A' as Label && seen.iter().filter(|other| *other == label).count() == 1);
    (0..ellipsis as Label).chain(once).collect()
}

fn sum_out(n: &mut NodeLowering, term: &Term, keep: impl Fn(Label) -> bool) -> Result<Term> {
    let axes: Vec<usize> = (0..term.labels.len()).filter(|&axis| !keep(term.labels[axis])).collect();
    if axes.is_empty() {
        return Ok(Term { value: term.value, labels: term.labels.clone() });
    }
    let labels = term.labels.iter().copied().filter(|&label| keep(label)).collect();
    let value = n.emit(ops::Reduce { op: ops::ReduceOp::Sum, axes, keep_dims: false }, &[term.value])?;
    Ok(Term { value, labels })
}

/// The product of two terms, summed over the labels that `later` does not need.
fn contract(n: &mut NodeLowering, a: Term, b: &Term, later: &[Label]) -> Result<Term> {
    let a = sum_out(n, &a, |label| later.contains(&label) || b.labels.contains(&label))?;
    let b = sum_out(n, b, |label| later.contains(&label) || a.labels.contains(&label))?;
    let in_both = |label: &Label| a.labels.contains(label) && b.labels.contains(label);
    let (mut batch, mut summed, mut rows, mut columns) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for label in &a.labels {
        match (in_both(label), later.contains(label)) {
            (true, true) => batch.push(*label),
            (true, false) => summed.push(*label),
            (false, _) => rows.push(*label),
        }
    }
    columns.extend(b.labels.iter().filter(|label| !in_both(label)));
    let dims = |n: &NodeLowering, term: &Term, list: &[Label]| -> Vec<Dim> {
        let shape = n.shape(term.value);
        list.iter()
            .filter_map(|label| term.labels.iter().position(|candidate| candidate == label))
            .map(|axis| shape[axis].clone())
            .collect()
    };
    let arranged = |n: &mut NodeLowering, term: &Term, order: [&[Label]; 3]| -> Result<ValueId> {
        let perm: Vec<usize> = order
            .concat()
            .iter()
            .filter_map(|label| term.labels.iter().position(|candidate| candidate == label))
            .collect();
        n.transpose(term.value, &perm)
    };
    let labels = [batch.clone(), rows.clone(), columns.clone()].concat();

    if summed.is_empty() {
        // An outer or elementwise product.
        let left = arranged(n, &a, [&batch, &rows, &[]])?;
        let right = arranged(n, &b, [&batch, &[], &columns])?;
        let one = |count: usize| vec![Dim::Fixed(1); count];
        let left_shape = [dims(n, &a, &batch), dims(n, &a, &rows), one(columns.len())].concat();
        let right_shape = [dims(n, &b, &batch), one(rows.len()), dims(n, &b, &columns)].concat();
        let (left, right) = (n.reshape(left, left_shape)?, n.reshape(right, right_shape)?);
        return Ok(Term { value: n.binary(BinaryOp::Mul, left, right)?, labels });
    }

    let (a_batch, b_batch) = (dims(n, &a, &batch), dims(n, &b, &batch));
    let (row_dims, column_dims) = (dims(n, &a, &rows), dims(n, &b, &columns));
    if dims(n, &a, &summed)
        .iter()
        .zip(&dims(n, &b, &summed))
        .any(|(x, y)| x != y && (x.fixed() == Some(1) || y.fixed() == Some(1)))
    {
        return Err(Reject::new("broadcasting along a summed label is not supported"));
    }
    let left = arranged(n, &a, [&batch, &rows, &summed])?;
    let right = arranged(n, &b, [&batch, &summed, &columns])?;
    let merged = |dims: &[Dim]| Dim::product(dims);
    let depth = merged(&dims(n, &a, &summed));
    let left_shape = [a_batch.clone(), vec![merged(&row_dims), depth.clone()]].concat();
    let right_shape = [b_batch, vec![depth, merged(&column_dims)]].concat();
    let (left, right) = (n.reshape(left, left_shape)?, n.reshape(right, right_shape)?);
    let product = n.emit(ops::MatMul::default(), &[left, right])?;
    let out_batch = n.shape(product)[..batch.len()].to_vec();
    let value = n.reshape(product, [out_batch, row_dims, column_dims].concat())?;
    Ok(Term { value, labels })
}
