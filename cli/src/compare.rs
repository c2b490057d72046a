//! How far outputs are from a reference.

use engraft::{DType, Tensor};
use serde::Serialize;

/// The difference of one output.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    pub name: String,
    /// Largest |output - reference|, where both are finite.
    pub absolute: f64,
    /// The same over the largest |reference|; for integers and booleans 0 or infinite.
    #[serde(serialize_with = "number_or_text")]
    pub relative: f64,
    /// What makes the outputs incomparable, or the relative difference infinite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
}

/// JSON has no infinity.
fn number_or_text<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() { serializer.serialize_f64(*value) } else { serializer.serialize_str("infinite") }
}

/// Compares one output with its reference, which may hold floats more exactly than the output.
pub fn difference(name: &str, output: &Tensor, reference: &Tensor) -> Difference {
    let infinite = |absolute, remark: String| Difference {
        name: name.to_owned(),
        absolute,
        relative: f64::INFINITY,
        remark: Some(remark),
    };
    let finer = output.dtype().is_float() && reference.dtype() == DType::F64;
    if output.dtype() != reference.dtype() && !finer || output.shape() != reference.shape() {
        let text = |t: &Tensor| format!("{} {:?}", t.dtype(), t.shape());
        return infinite(0.0, format!("{} where the reference is {}", text(output), text(reference)));
    }
    let count = reference.count();
    if !reference.dtype().is_float() {
        let different = (0..count).filter(|i| output.get_i64(*i) != reference.get_i64(*i)).count();
        if different > 0 {
            return infinite(0.0, format!("{different} of {count} elements differ"));
        }
        return Difference { name: name.to_owned(), absolute: 0.0, relative: 0.0, remark: None };
    }
    let (mut apart, mut largest) = (0f64, 0f64);
    for index in 0..count {
        let (a, b) = (output.get_f64(index), reference.get_f64(index));
        if a.is_finite() && b.is_finite() {
            apart = apart.max((a - b).abs());
            largest = largest.max(b.abs());
        } else if a != b && !(a.is_nan() && b.is_nan()) {
            return infinite(apart, format!("element {index} is {a}, in the reference {b}"));
        }
    }
    let relative = if largest > 0.0 { apart / largest } else { apart };
    Difference { name: name.to_owned(), absolute: apart, relative, remark: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_slice(&[values.len()], values).unwrap()
    }

    #[test]
    fn differences_are_relative_to_the_largest_value() {
        let d = difference("y", &floats(&[1.0, -9.0, f32::NAN]), &floats(&[1.0, -10.0, f32::NAN]));
        assert_eq!((d.absolute, d.relative), (1.0, 0.1));
        assert_eq!(difference("y", &floats(&[]), &floats(&[])).relative, 0.0);
        assert_eq!(difference("y", &floats(&[0.5]), &floats(&[0.0])).relative, 0.5);
        let double = Tensor::from_slice(&[1], &[2f64]).unwrap();
        assert_eq!(difference("y", &floats(&[1.0]), &double).relative, 0.5);
    }

    #[test]
    fn what_cannot_be_close_is_infinitely_far() {
        let integers = |values: &[i32]| Tensor::from_slice(&[values.len()], values).unwrap();
        for (output, reference) in [
            (floats(&[1.0]), floats(&[f32::NAN])),
            (floats(&[f32::INFINITY]), floats(&[f32::NEG_INFINITY])),
            (floats(&[1.0, 2.0]), floats(&[1.0])),
            (integers(&[1, 2]), integers(&[1, 3])),
            (integers(&[1]), floats(&[1.0])),
            (Tensor::from_slice(&[1], &[1f64]).unwrap(), floats(&[1.0])),
        ] {
            let d = difference("y", &output, &reference);
            assert!(d.relative.is_infinite() && d.remark.is_some(), "{d:?}");
            assert!(serde_json::to_string(&d).unwrap().contains("\"infinite\""));
        }
    }
}
