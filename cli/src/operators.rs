//! `engraft operators`: what can be taken, found by asking the dialects and the kernel catalog, and why the rest cannot.

use std::fmt::Write as _;

use engraft::kernels::Isa;
use engraft::subgraph::dialect::{self, Operator, vocabulary};
use engraft::subgraph::tensorflow;
use engraft::{CpuCapability, DType, is_control_flow};
use serde::Serialize;

use crate::arguments::Operators;
use crate::error::CliError;
use crate::output::Output;
use crate::table::{Align, Table};

#[derive(Serialize)]
struct Survey {
    taken: Vec<Taken>,
    refused: Vec<Refused>,
}

#[derive(Serialize)]
struct Taken {
    /// Empty for ai.onnx.
    domain: &'static str,
    operator: &'static str,
    /// Operator sets from which on a spelling of the operator holds, the oldest first.
    since: Vec<i64>,
    devices: [&'static str; 1],
    /// Types of the data operands, by optimized kernels and by reference kernels.
    types: Vec<&'static str>,
    reference_types: Vec<&'static str>,
    /// It has no data operands.
    generates: bool,
}

#[derive(Serialize)]
struct Refused {
    operator: &'static str,
    reason: String,
}

pub fn run(arguments: &Operators, output: Output) -> Result<(), CliError> {
    let survey = Survey::new();
    output.print(&survey, || if arguments.markdown { survey.markdown() } else { survey.text() })
}

impl Survey {
    fn new() -> Self {
        // What every CPU runs: kernels for more are faster, not for more types.
        let operators = dialect::survey(&CpuCapability { isa: Isa::Portable });
        let refused = vocabulary::STANDARD.iter().filter_map(|name| {
            let mut standard = operators.iter().filter(|operator| operator.domain.is_empty());
            let reason = match standard.find(|operator| operator.op_type == *name) {
                Some(operator) => operator.refused.as_ref()?.reason.clone(),
                None if is_control_flow("", name) => "control flow stays with the host".to_owned(),
                None => "not supported yet".to_owned(),
            };
            Some(Refused { operator: name, reason })
        });
        let refused = refused.collect();
        let taken = operators.into_iter().filter(|operator| operator.refused.is_none()).map(Taken::new);
        Self { refused, taken: taken.collect() }
    }

    fn text(&self) -> String {
        let mut table = Table::new([
            ("operator", Align::Left),
            ("operator sets", Align::Left),
            ("devices", Align::Left),
            ("types", Align::Left),
            ("reference kernels", Align::Left),
        ]);
        for taken in &self.taken {
            let types = [&taken.types, &taken.reference_types].map(|types| types.join(" "));
            let [types, reference] = types;
            table.row([taken.name(), taken.sets(), taken.devices.join(" "), types, reference]);
        }
        let mut text = format!("{table}\n");
        for refused in &self.refused {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{}: {}", refused.operator, refused.reason);
        }
        text
    }

    /// The page docs/operators.md.
    fn markdown(&self) -> String {
        let mut text = String::from(HEAD);
        let mut domain = None;
        for taken in &self.taken {
            if domain != Some(taken.domain) {
                domain = Some(taken.domain);
                let title = match taken.domain {
                    "" => "ai.onnx",
                    tensorflow::DOMAIN => "TensorFlow",
                    domain => domain,
                };
                let _ = write!(text, "\n## {title}\n\n{COLUMNS}");
            }
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                taken.operator,
                taken.sets(),
                taken.devices.join(", "),
                if taken.generates { "as its attributes say".to_owned() } else { ranges(&taken.types) },
                ranges(&taken.reference_types)
            );
        }
        let _ = write!(text, "\n## Left to the host\n\n| operator of ai.onnx | why |\n|---|---|\n");
        let mut reasons: Vec<&str> = self.refused.iter().map(|refused| refused.reason.as_str()).collect();
        reasons.sort_unstable();
        reasons.dedup();
        for reason in reasons {
            let theirs = self.refused.iter().filter(|refused| refused.reason == reason);
            let names: Vec<&str> = theirs.map(|refused| refused.operator).collect();
            let _ = writeln!(text, "| {} | {reason} |", names.join(", "));
        }
        text
    }
}

impl Taken {
    fn new(operator: Operator) -> Self {
        let types = |reference| {
            let theirs = operator.types.iter().filter(move |support| support.reference == reference);
            theirs.map(|support| support.dtype.name()).collect()
        };
        let (types, reference_types) = (types(false), types(true));
        let Operator { domain, op_type, since, generates, .. } = operator;
        Self { domain, operator: op_type, since, devices: ["CPU"], types, reference_types, generates }
    }

    fn name(&self) -> String {
        if self.domain.is_empty() {
            self.operator.to_owned()
        } else {
            format!("{}.{}", self.domain, self.operator)
        }
    }

    fn sets(&self) -> String {
        // TensorFlow's operators have no versions: a new spelling has a new name.
        if self.domain == tensorflow::DOMAIN {
            return "any".to_owned();
        }
        let mut sets: Vec<String> = self.since.iter().map(i64::to_string).collect();
        if let Some(last) = sets.last_mut() {
            last.push('+');
        }
        sets.join(", ")
    }
}

/// Types, families that are all there under their common name.
fn ranges(types: &[&str]) -> String {
    let families: [(&str, &[DType]); 2] = [
        ("i8-i64", &[DType::I8, DType::I16, DType::I32, DType::I64]),
        ("u8-u64", &[DType::U8, DType::U16, DType::U32, DType::U64]),
    ];
    let mut words: Vec<&str> = Vec::new();
    for name in types {
        let family = families.iter().find(|(_, members)| {
            members.iter().any(|member| member.name() == *name)
                && members.iter().all(|member| types.contains(&member.name()))
        });
        let word = family.map_or(*name, |(word, _)| *word);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(" ")
}

const COLUMNS: &str = "\
| operator | operator sets | devices | types | by reference kernels |
|---|---|---|---|---|
";

const HEAD: &str = "\
# Operators

Written by `cargo xtask docs` from the code: each operator that a dialect spells was lowered with operands of each type, and the
result was shown to the kernel catalog. `engraft operators` prints the same.

- *operator sets*: each number begins a spelling of its own; sets older than the first, and operators that are not listed, stay with
  the host. The columns of types are about the data operands; indices, conditions and shapes have the types of the specification.
- *by reference kernels*: right, not fast. Under `partition_policy=profit` such nodes stay with the host unless they are tiny.
- No types at all: none of the examples that the page is made with suits the operator.
- A listed operator is refused in the combinations that it does not support: a mode, an attribute, operands that must be
  constant. `engraft explain model.onnx` and the placement report name the reason, node by node.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operators.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        let current = Survey::new().markdown();
        let (written, current) = (written.trim_end(), current.trim_end());
        let stale = written.lines().zip(current.lines()).find(|(written, current)| written != current);
        assert!(
            written == current,
            "docs/operators.md is stale; `cargo xtask docs` writes it anew. First difference: {stale:?}"
        );
    }

    #[test]
    fn families_of_types_have_one_name() {
        assert_eq!(ranges(&["f32", "i8", "i16", "i32", "i64", "u8", "bool"]), "f32 i8-i64 u8 bool");
        assert_eq!(ranges(&["i32", "i64"]), "i32 i64");
    }
}
