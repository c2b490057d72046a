//! What the operators of TensorFlow give: names, numbers and types of their outputs.
//!
//! A graph names an output by its number, a function's body by its argument (`node:out_arg:index`); the operators' public
//! definitions (`tensorflow/core/ops`) say how the two belong together. Operators of graphs for inference are listed, not those
//! of gradients, data sets and training.

use std::sync::OnceLock;

use rustc_hash::FxHashMap;

use super::proto::{Attr, NodeDef};
use super::signatures::SIGNATURES;

/// One output argument.
#[derive(Clone, Copy, Debug)]
struct Argument {
    name: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A number of `DataType`; 0: none that Engraft holds.
    Type(i32),
    TypeOf(&'static str),
    /// As many tensors as the first attribute says, of the type that the second says.
    Many(&'static str, &'static str),
    /// One for each type in an attribute.
    List(&'static str),
}

/// The outputs of one node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outputs {
    /// Numbers of `DataType`.
    pub types: Vec<i32>,
    /// For each output argument its name, its first output, and how many it has.
    pub arguments: Vec<(&'static str, usize, usize)>,
}

impl Outputs {
    /// The number of an output by the name of its argument.
    pub fn position(&self, argument: &str, index: usize) -> Option<usize> {
        let (_, first, count) = self.arguments.iter().find(|(name, _, _)| *name == argument)?;
        (index < *count).then_some(first + index)
    }

    /// `out_arg:index` of an output.
    pub fn spelled(&self, position: usize) -> Option<String> {
        let (name, first, _) =
            self.arguments.iter().find(|(_, first, count)| (*first..first + count).contains(&position))?;
        Some(format!("{name}:{}", position - first))
    }
}

/// The outputs of a node; `None` where its operator is not listed, or an attribute that says how many is missing.
pub(crate) fn outputs(node: &NodeDef) -> Option<Outputs> {
    static INDEX: OnceLock<FxHashMap<&str, &str>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let names = |(outputs, names): &(&'static str, &'static str)| {
            let outputs = *outputs;
            names.split_whitespace().map(move |name| (name, outputs))
        };
        SIGNATURES.iter().flat_map(names).collect()
    });
    let mut made = Outputs::default();
    for argument in index.get(&node.op[..])?.split_whitespace() {
        let Argument { name, kind } = parse(argument)?;
        let first = made.types.len();
        let of = |name: &str| match node.attr.get(name).and_then(|attr| attr.value.as_ref()) {
            Some(Attr::Type(number)) => Some(*number),
            _ => None,
        };
        match kind {
            Kind::Type(number) => made.types.push(number),
            Kind::TypeOf(attribute) => made.types.push(of(attribute).unwrap_or(0)),
            Kind::Many(count, attribute) => {
                // Graphs are read from files: no count beyond what a graph can have is followed.
                const MAX: i64 = 1 << 16;
                let Some(Attr::I(count)) = node.attr.get(count)?.value else { return None };
                let fixed = number_of(attribute);
                let number = fixed.unwrap_or_else(|| of(attribute).unwrap_or(0));
                made.types.extend((0..count.clamp(0, MAX)).map(|_| number));
            }
            Kind::List(attribute) => match node.attr.get(attribute)?.value.as_ref()? {
                Attr::List(list) => made.types.extend(&list.r#type),
                _ => return None,
            },
        }
        made.arguments.push((name, first, made.types.len() - first));
    }
    Some(made)
}

/// `name:type`, `name:attribute`, `name:count*type`, or `name:*attribute` for a list of types.
fn parse(argument: &'static str) -> Option<Argument> {
    let (name, text) = argument.split_once(':')?;
    let kind = match text.split_once('*') {
        Some(("", list)) => Kind::List(list),
        Some((count, attribute)) => Kind::Many(count, attribute),
        None => number_of(text).map_or(Kind::TypeOf(text), Kind::Type),
    };
    Some(Argument { name, kind })
}

fn number_of(text: &str) -> Option<i32> {
    Some(match text {
        "f32" => 1,
        "f64" => 2,
        "i32" => 3,
        "u8" => 4,
        "i64" => 9,
        "bool" => 10,
        "u16" => 17,
        "u32" => 22,
        "u64" => 23,
        // Strings, handles, variants, references, quantized and complex numbers.
        "string" | "resource" | "variant" | "ref" | "qi8" | "qu8" | "qi32" | "qi16" | "qu16" | "c64"
        | "c128" => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::proto::{AttrValue, ListValue};
    use super::*;

    fn node(op: &str, attributes: &[(&str, Attr)]) -> NodeDef {
        let attr = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), AttrValue { value: Some(value.clone()) }))
            .collect();
        NodeDef { op: op.to_owned(), attr, ..NodeDef::default() }
    }

    #[test]
    fn outputs_are_counted_and_named() {
        let split = outputs(&node("Split", &[("num_split", Attr::I(3)), ("T", Attr::Type(1))])).unwrap();
        assert_eq!(split.types, [1, 1, 1]);
        assert_eq!(split.position("output", 2), Some(2));
        assert_eq!(split.position("output", 3), None);
        let top = outputs(&node("TopKV2", &[("T", Attr::Type(1)), ("index_type", Attr::Type(3))])).unwrap();
        assert_eq!((top.types.as_slice(), top.position("indices", 0)), (&[1, 3][..], Some(1)));
        let list = ListValue { r#type: vec![1, 9], ..ListValue::default() };
        let identity = outputs(&node("IdentityN", &[("T", Attr::List(list))])).unwrap();
        assert_eq!((identity.types.as_slice(), identity.spelled(1)), (&[1, 9][..], Some("output:1".into())));
        assert_eq!(outputs(&node("NoOp", &[])), Some(Outputs::default()));
        assert_eq!(outputs(&node("SomebodysOwn", &[])), None);
    }

    #[test]
    fn every_signature_parses_and_no_operator_has_two() {
        let mut seen = std::collections::BTreeSet::new();
        for (outputs, names) in SIGNATURES {
            assert!(outputs.split_whitespace().all(|argument| parse(argument).is_some()), "{outputs}");
            assert!(names.split_whitespace().all(|name| seen.insert(name)), "{names}");
        }
    }
}
