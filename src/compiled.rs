//! Segments that are compiled ahead of time: what is recorded beside their plans, and where such a plan may run.

use std::collections::BTreeMap;

use engraft_engine::fingerprint::{Fingerprint, cpu_features, cpu_model, library_content};
use engraft_kernels::{Isa, catalog};
use engraft_subgraph::{Placement, PlacementReport};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Options, Original};

/// What a plan was compiled for and this process is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was compiled for {field} {theirs}, this is {ours}; compile the original model again")]
pub struct Mismatch {
    /// A field of the plan's key, or the key of an option.
    pub field: &'static str,
    pub theirs: String,
    pub ours: String,
}

impl Mismatch {
    /// Whether building the segment again heals it; a segment of other options may have other borders.
    pub fn is_of_the_build(&self) -> bool {
        !PARTITIONING.contains(&self.field)
    }
}

/// The build and the machine, as fields of a plan's key: a plan runs where all but `cpu` are equal, and was tuned for where `cpu` is.
pub fn identity() -> [(&'static str, String); 5] {
    [
        ("isa", Isa::best().name().to_owned()),
        ("catalog", catalog::CATALOG_VERSION.to_string()),
        ("library", library_content().to_string()),
        ("cpu", cpu_model().to_owned()),
        ("cpu_features", cpu_features().to_owned()),
    ]
}

/// The first field of a plan's key that keeps it from running here.
pub(crate) fn check_identity(key: &[(String, String)]) -> Result<(), Mismatch> {
    for (field, ours) in identity().into_iter().filter(|(field, _)| *field != "cpu") {
        let theirs = key.iter().find(|(name, _)| name == field).map_or("(not stated)", |(_, value)| value);
        if theirs != ours {
            return Err(Mismatch { field, theirs: theirs.to_owned(), ours });
        }
    }
    Ok(())
}

/// The options that decide what becomes a segment.
const PARTITIONING: [&str; 3] = ["min_subgraph_size", "op_types_to_exclude", "partition_policy"];
/// The options that shape what is compiled; those that decide over segments first.
const SHAPING: [&str; 8] = [
    PARTITIONING[0],
    PARTITIONING[1],
    PARTITIONING[2],
    "precision",
    "builder_optimization_level",
    "profile_min_shapes",
    "profile_opt_shapes",
    "profile_max_shapes",
];

/// The record of one segment, kept as JSON beside its plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompiledSegment {
    /// Version and commit of the Engraft that compiled it.
    pub engraft: String,
    pub segment: String,
    /// Number of host nodes inside.
    pub nodes: usize,
    /// FLOPs at representative sizes, those of reference tactics included.
    pub flops: f64,
    /// Whether reference tactics run most of it.
    pub reference: bool,
    /// Options that shaped it, by key.
    pub(crate) options: BTreeMap<String, Value>,
    /// The content of a plan that lies in the model: it may be read from the model's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Fingerprint>,
    /// The model that it is a segment of, where that has a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
}

impl CompiledSegment {
    /// The record of the segment at `index` of a partition.
    pub fn new(placements: &PlacementReport, index: usize, options: &Options) -> CompiledSegment {
        let (mut nodes, mut flops, mut reference) = (0, 0.0, 0.0);
        for node in
            placements.nodes.iter().filter(|n| matches!(n.placement, Placement::Segment(i) if i == index))
        {
            nodes += 1;
            flops += node.work.flops;
            reference += if node.reference { node.work.flops } else { 0.0 };
        }
        CompiledSegment {
            engraft: format!("{} ({})", crate::VERSION, crate::COMMIT),
            segment: placements.segments.get(index).map_or_else(String::new, |s| s.name.clone()),
            nodes,
            flops,
            reference: reference > flops / 2.0,
            options: shaping(options),
            plan: None,
            original: None,
        }
    }

    /// The options of a session, where what the user did not set is as it was compiled.
    pub(crate) fn merged(&self, options: &Options, given: impl Fn(&str) -> bool) -> Options {
        let Ok(mut all) = serde_json::to_value(options) else { return options.clone() };
        for (key, value) in self.options.iter().filter(|(key, _)| !given(key)) {
            match key.strip_prefix("profile_").and_then(|key| key.strip_suffix("_shapes")) {
                Some(which) => all["profile"][which] = value.clone(),
                None => all[key] = value.clone(),
            }
        }
        serde_json::from_value(all).unwrap_or_else(|_| options.clone())
    }

    /// Compares with the options of a session; only those that `given` says the user set count.
    pub fn check(&self, options: &Options, given: impl Fn(&str) -> bool) -> Result<(), Mismatch> {
        let ours = shaping(options);
        for field in SHAPING.into_iter().filter(|key| given(key)) {
            let (theirs, ours) = (self.options.get(field), ours.get(field));
            if theirs != ours {
                let text = |value: Option<&Value>| value.map_or("(not stated)".to_owned(), Value::to_string);
                return Err(Mismatch { field, theirs: text(theirs), ours: text(ours) });
            }
        }
        Ok(())
    }
}

fn shaping(options: &Options) -> BTreeMap<String, Value> {
    // Options are plain data: they always serialize.
    let all = serde_json::to_value(options).unwrap_or_default();
    let profile = |which| all["profile"][which].clone();
    SHAPING
        .into_iter()
        .map(|key| {
            let value = match key {
                "profile_min_shapes" => profile("min"),
                "profile_opt_shapes" => profile("opt"),
                "profile_max_shapes" => profile("max"),
                // What `min_subgraph_size` implies counts as said.
                "partition_policy" => serde_json::to_value(options.policy()).unwrap_or_default(),
                key => all[key].clone(),
            };
            (key.to_owned(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(options: &Options) -> CompiledSegment {
        let placements = PlacementReport::default();
        let made = CompiledSegment::new(&placements, 0, options);
        serde_json::from_str(&serde_json::to_string(&made).unwrap()).unwrap()
    }

    #[test]
    fn options_that_are_given_must_agree() {
        let compiled =
            Options::parse([("op_types_to_exclude", "Conv"), ("profile_opt_shapes", "x:1x3")]).unwrap();
        let record = record(&compiled);
        for (pairs, field) in [
            (&[("op_types_to_exclude", "Conv")][..], None),
            (&[("op_types_to_exclude", "Gemm")], Some("op_types_to_exclude")),
            (&[("partition_policy", "profit")], None),
            (&[("partition_policy", "maximal")], Some("partition_policy")),
            (&[("profile_opt_shapes", "x:2x3")], Some("profile_opt_shapes")),
            (&[("builder_optimization_level", "5")], Some("builder_optimization_level")),
            (&[("log_level", "info")], None),
            (&[], None),
        ] {
            let options = Options::parse(pairs.iter().copied()).unwrap();
            let checked = record.check(&options, |key| pairs.iter().any(|(k, _)| *k == key));
            assert_eq!(checked.err().map(|m| m.field), field, "{pairs:?}");
        }
    }

    #[test]
    fn what_a_session_does_not_say_is_as_it_was_compiled() {
        let compiled = Options::parse([
            ("builder_optimization_level", "1"),
            ("profile_opt_shapes", "x:1x3"),
            ("op_types_to_exclude", "Conv"),
        ])
        .unwrap();
        let session = Options::parse([("builder_optimization_level", "5"), ("log_level", "info")]).unwrap();
        let record = record(&compiled);
        let merged = record.merged(&session, |key| key == "builder_optimization_level");
        let policy = Some(compiled.policy());
        let expected = Options {
            builder_optimization_level: 5,
            log_level: session.log_level,
            partition_policy: policy,
            ..compiled.clone()
        };
        assert_eq!(merged, expected);
    }

    #[test]
    fn every_shaping_option_is_recorded() {
        let record = record(&Options::default());
        for key in SHAPING {
            assert!(crate::KEYS.contains(&key) && record.options.contains_key(key), "{key}");
        }
    }

    #[test]
    fn a_plan_of_this_process_may_run_here_and_others_may_not() {
        let key: Vec<(String, String)> = identity().map(|(k, v)| (k.to_owned(), v)).into();
        assert_eq!(check_identity(&key), Ok(()));
        for (i, (field, _)) in identity().into_iter().enumerate() {
            let mut other = key.clone();
            other[i].1.push('?');
            let expected = (field != "cpu").then_some(field);
            assert_eq!(check_identity(&other).err().map(|m| m.field), expected);
            other.remove(i);
            assert_eq!(check_identity(&other).err().map(|m| m.field), expected);
        }
    }
}
