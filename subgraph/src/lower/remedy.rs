//! What would have to change for a refused node to be taken.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The change that removes the reason of a [`super::Reject`]; another reason may stand behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Remedy {
    /// Set an option of Engraft.
    Option { key: String, value: String },
    /// Export the model with this operator set of the domain ("" is ai.onnx), or a later one.
    OperatorSet { domain: String, least: i64 },
    /// State type and rank of a value in the model.
    DeclareType { value: String },
    /// Give the dims of a value fixed sizes.
    FixDims { value: String },
    /// Make a value a constant of the model.
    MakeConstant { value: String },
    /// Give an attribute or optional operand another value; an empty one: leave it out.
    Attribute { name: String, wanted: String },
    /// Mend the model: the node is not what the specification allows.
    Correct,
    /// Use this version of the host, or a later one.
    Host { least: String },
    /// Nothing: only the host can run the node.
    HostOnly,
    /// Nothing in the model or the options: Engraft would have to learn it.
    #[default]
    Engraft,
}

impl Remedy {
    pub fn option(key: &str, value: impl Into<String>) -> Remedy {
        Remedy::Option { key: key.to_owned(), value: value.into() }
    }

    /// What is left with the host because it is not expected to pay.
    pub fn maximal() -> Remedy {
        Remedy::option("partition_policy", "maximal")
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::Option { key, value } => write!(f, "set {key}={value}"),
            Remedy::OperatorSet { domain, least } if domain.is_empty() => {
                write!(f, "export with operator set {least} or later")
            }
            Remedy::OperatorSet { domain, least } => {
                write!(f, "export with operator set {least} or later of {domain}")
            }
            Remedy::DeclareType { value } => write!(f, "state type and rank of {value:?} in the model"),
            Remedy::FixDims { value } => write!(f, "give the dims of {value:?} fixed sizes"),
            Remedy::MakeConstant { value } => write!(f, "make {value:?} a constant of the model"),
            Remedy::Attribute { name, wanted } if wanted.is_empty() => write!(f, "leave out {name}"),
            Remedy::Attribute { name, wanted } => write!(f, "set {name} to {wanted}"),
            Remedy::Correct => f.write_str("mend the model: the specification does not allow this"),
            Remedy::Host { least } => write!(f, "use version {least} of the host or later"),
            Remedy::HostOnly => f.write_str("nothing: only the host can run this"),
            Remedy::Engraft => f.write_str("nothing in the model: Engraft would have to learn this"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_typed_in_json_and_a_sentence_for_people() {
        let remedy = Remedy::maximal();
        assert_eq!(remedy.to_string(), "set partition_policy=maximal");
        let json = serde_json::to_string(&remedy).unwrap();
        assert_eq!(json, r#"{"kind":"option","key":"partition_policy","value":"maximal"}"#);
        assert_eq!(serde_json::from_str::<Remedy>(&json).unwrap(), remedy);
        assert_eq!(serde_json::from_str::<Remedy>(r#"{"kind":"host_only"}"#).unwrap(), Remedy::HostOnly);
        let older = Remedy::OperatorSet { domain: String::new(), least: 11 };
        assert_eq!(older.to_string(), "export with operator set 11 or later");
    }
}
