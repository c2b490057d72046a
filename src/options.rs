//! What a user may ask of Engraft, as key/value strings: the form in which every host hands options over.
//!
//! One table, [`KEYS`], names every option. A key that is not in it and a value that does not parse are refused with an error
//! that names the key and says what was expected; nothing is ignored.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    str::FromStr,
};

use engraft_kernels::Precision;
use serde::{Deserialize, Serialize};

/// Every option key, in documentation order.
pub const KEYS: &[&str] = &[
    "precision",
    "min_subgraph_size",
    "op_types_to_exclude",
    "partition_policy",
    "engine_cache_enable",
    "engine_cache_path",
    "timing_cache_path",
    "builder_optimization_level",
    "profile_min_shapes",
    "profile_opt_shapes",
    "profile_max_shapes",
    "min_accelerated_flops",
    "placement_report_path",
    "dump_subgraphs",
    "log_level",
];

/// A refused option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No option has this name.
    #[error("unknown option '{key}'{}", match .nearest { Some(n) => format!(" (did you mean '{n}'?)"), None => String::new() })]
    Unknown { key: String, nearest: Option<&'static str> },
    /// The option exists, the value does not parse.
    #[error("option '{key}': '{value}' is not valid, expected {expected}")]
    Malformed { key: &'static str, value: String, expected: &'static str },
    /// Two options contradict each other.
    #[error("option '{key}': {reason}")]
    Conflict { key: &'static str, reason: String },
}

/// Which segments are taken from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartitionPolicy {
    /// Only segments that are expected to beat the host.
    #[default]
    Profit,
    /// Everything that can be taken, reference tactics included.
    Maximal,
}

/// The least severe message that is forwarded to the host's logger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Off,
    Error,
    #[default]
    Warning,
    Info,
    Verbose,
    Trace,
}

/// Shapes by input name, as in `images:1x3x224x224,mask:1x77`.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Shapes that the builder tunes for. The engine runs outside of them as well.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Profile {
    pub min: Shapes,
    pub opt: Shapes,
    pub max: Shapes,
}

/// All options, parsed and checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    pub precision: Precision,
    /// Segments with fewer host nodes stay with the host; `None` leaves it to the policy.
    pub min_subgraph_size: Option<usize>,
    /// Host operator types (`Conv`, or `com.microsoft:Gelu` with a domain) that are never taken.
    pub op_types_to_exclude: BTreeSet<String>,
    /// `None` until the user says so; see [`Options::policy`].
    pub partition_policy: Option<PartitionPolicy>,
    pub engine_cache_enable: bool,
    /// Folder of the plan cache; `None` is the platform's cache folder (or `ENGRAFT_CACHE_DIR`).
    pub engine_cache_path: Option<PathBuf>,
    /// File of the timing cache; `None` keeps it inside the plan cache's folder.
    pub timing_cache_path: Option<PathBuf>,
    /// 0 (no timing, instant) to 5 (try everything).
    pub builder_optimization_level: u8,
    pub profile: Profile,
    /// Strict mode: the least share (0 to 1) of the model's FLOPs that must be accelerated.
    pub min_accelerated_flops: Option<f64>,
    /// Where the placement report is written as JSON.
    pub placement_report_path: Option<PathBuf>,
    /// Folder that receives each segment's network in its text form.
    pub dump_subgraphs: Option<PathBuf>,
    pub log_level: LogLevel,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            precision: Precision::default(),
            min_subgraph_size: None,
            op_types_to_exclude: BTreeSet::new(),
            partition_policy: None,
            engine_cache_enable: true,
            engine_cache_path: None,
            timing_cache_path: None,
            builder_optimization_level: 3,
            profile: Profile::default(),
            min_accelerated_flops: None,
            placement_report_path: None,
            dump_subgraphs: None,
            log_level: LogLevel::default(),
        }
    }
}

impl Options {
    /// Parses a list of key/value pairs and checks them against each other.
    pub fn parse<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for (key, value) in pairs {
            options.set(key, value)?;
        }
        options.validate()?;
        Ok(options)
    }

    /// Sets one option from its text. An empty path, list or shape set clears the option.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), OptionError> {
        let Some(&key) = KEYS.iter().find(|k| **k == key) else {
            return Err(OptionError::Unknown { key: key.to_owned(), nearest: nearest(key) });
        };
        let value = value.trim();
        let malformed = |expected| OptionError::Malformed { key, value: value.to_owned(), expected };
        match key {
            "precision" => {
                self.precision =
                    Precision::from_name(value).ok_or_else(|| malformed("fp32, tf32 or bf16"))?;
            }
            "min_subgraph_size" => {
                let size = value.parse().ok().filter(|n| *n >= 1);
                self.min_subgraph_size = Some(size.ok_or_else(|| malformed("a whole number of at least 1"))?);
            }
            "op_types_to_exclude" => self.op_types_to_exclude = list(value).map(str::to_owned).collect(),
            "partition_policy" => {
                self.partition_policy = Some(value.parse().map_err(|()| malformed("profit or maximal"))?);
            }
            "engine_cache_enable" => {
                self.engine_cache_enable = boolean(value).ok_or_else(|| malformed("0, 1, true or false"))?;
            }
            "engine_cache_path" => self.engine_cache_path = path(value),
            "timing_cache_path" => self.timing_cache_path = path(value),
            "builder_optimization_level" => {
                let level = value.parse().ok().filter(|n| *n <= 5u8);
                self.builder_optimization_level = level.ok_or_else(|| malformed("0, 1, 2, 3, 4 or 5"))?;
            }
            "profile_min_shapes" | "profile_opt_shapes" | "profile_max_shapes" => {
                let shapes = parse_shapes(value).ok_or_else(|| {
                    malformed("shapes by input name such as 'images:1x3x224x224,mask:1x77'")
                })?;
                match key {
                    "profile_min_shapes" => self.profile.min = shapes,
                    "profile_opt_shapes" => self.profile.opt = shapes,
                    _ => self.profile.max = shapes,
                }
            }
            "min_accelerated_flops" => {
                self.min_accelerated_flops =
                    Some(share(value).ok_or_else(|| malformed("a share such as 0.95 or 95%"))?);
            }
            "placement_report_path" => self.placement_report_path = path(value),
            "dump_subgraphs" => self.dump_subgraphs = path(value),
            "log_level" => {
                self.log_level =
                    value.parse().map_err(|()| malformed("off, error, warning, info, verbose or trace"))?;
            }
            _ => unreachable!("every key of KEYS has an arm"),
        }
        Ok(())
    }

    /// Checks what only the whole set of options can tell: profiles must be ordered and of equal rank.
    pub fn validate(&self) -> Result<(), OptionError> {
        let Profile { min, opt, max } = &self.profile;
        let ordered = |key, low: &Shapes, high: &Shapes| {
            for (name, low) in low {
                let Some(high) = high.get(name) else { continue };
                if low.len() != high.len() || low.iter().zip(high).any(|(l, h)| l > h) {
                    let reason =
                        format!("shape {} of input '{name}' exceeds {}", ShapeText(low), ShapeText(high));
                    return Err(OptionError::Conflict { key, reason });
                }
            }
            Ok(())
        };
        ordered("profile_min_shapes", min, opt)?;
        ordered("profile_min_shapes", min, max)?;
        ordered("profile_opt_shapes", opt, max)
    }

    /// The policy in force: the user's, else `maximal` where the user explicitly asked for segments of one node, else `profit`.
    pub fn policy(&self) -> PartitionPolicy {
        self.partition_policy.unwrap_or(match self.min_subgraph_size {
            Some(1) => PartitionPolicy::Maximal,
            _ => PartitionPolicy::Profit,
        })
    }
}

impl FromStr for PartitionPolicy {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "profit" => Ok(Self::Profit),
            "maximal" => Ok(Self::Maximal),
            _ => Err(()),
        }
    }
}

impl FromStr for LogLevel {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "off" => Self::Off,
            "error" => Self::Error,
            "warning" | "warn" => Self::Warning,
            "info" => Self::Info,
            "verbose" | "debug" => Self::Verbose,
            "trace" => Self::Trace,
            _ => return Err(()),
        })
    }
}

struct ShapeText<'a>(&'a [usize]);

impl fmt::Display for ShapeText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, dim) in self.0.iter().enumerate() {
            write!(f, "{}{dim}", if i > 0 { "x" } else { "" })?;
        }
        if self.0.is_empty() { f.write_str("scalar") } else { Ok(()) }
    }
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|s| !s.is_empty())
}

fn path(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| PathBuf::from(value))
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// A share between 0 and 1, written as such or in percent.
fn share(value: &str) -> Option<f64> {
    let share = match value.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
        None => value.parse().ok()?,
    };
    (0.0..=1.0).contains(&share).then_some(share)
}

/// `name:AxBxC` items separated by commas; the last colon separates, since names may hold colons.
fn parse_shapes(value: &str) -> Option<Shapes> {
    let mut shapes = Shapes::new();
    for item in list(value) {
        let (name, dims) = item.rsplit_once(':')?;
        let dims = match dims.trim() {
            "" => Vec::new(),
            dims => dims.split(['x', 'X']).map(|d| d.trim().parse().ok()).collect::<Option<Vec<usize>>>()?,
        };
        if name.is_empty() || shapes.insert(name.trim().to_owned(), dims).is_some() {
            return None;
        }
    }
    Some(shapes)
}

/// The option that a misspelt key most likely meant: at most a third of its letters differ.
fn nearest(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    KEYS.iter().map(|k| (distance(&key, k), *k)).min().filter(|(d, k)| *d * 3 <= k.len()).map(|(_, k)| k)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_settable() {
        for key in KEYS {
            let value = match *key {
                "precision" => "bf16",
                "partition_policy" => "maximal",
                "log_level" => "info",
                key if key.starts_with("profile") => "x:1x2",
                _ => "1",
            };
            let mut options = Options::default();
            options.set(key, value).unwrap();
            assert!(options != Options::default() || *key == "engine_cache_enable", "{key} had no effect");
        }
    }

    #[test]
    fn unknown_keys_are_named_and_corrected() {
        let e = Options::parse([("min_subgraph_sise", "3")]).unwrap_err();
        assert_eq!(e.to_string(), "unknown option 'min_subgraph_sise' (did you mean 'min_subgraph_size'?)");
        let e = Options::parse([("colour", "blue")]).unwrap_err();
        assert_eq!(e.to_string(), "unknown option 'colour'");
    }

    #[test]
    fn malformed_values_are_refused_by_name() {
        for (key, value) in [
            ("precision", "int3"),
            ("min_subgraph_size", "0"),
            ("min_subgraph_size", "-1"),
            ("partition_policy", "greedy"),
            ("engine_cache_enable", "yes please"),
            ("builder_optimization_level", "6"),
            ("profile_opt_shapes", "x:1xthree"),
            ("profile_opt_shapes", "1x3"),
            ("profile_opt_shapes", "x:1,x:2"),
            ("min_accelerated_flops", "95"),
            ("min_accelerated_flops", "NaN"),
            ("log_level", "loud"),
        ] {
            let e = Options::parse([(key, value)]).unwrap_err().to_string();
            assert!(e.contains(key) && e.contains("expected"), "{e}");
        }
    }

    #[test]
    fn shares_and_shapes() {
        let o = Options::parse([
            ("min_accelerated_flops", "95%"),
            ("profile_min_shapes", "input:0:1x3, ids:1x8"),
            ("profile_max_shapes", "input:0:4x3"),
        ])
        .unwrap();
        assert_eq!(o.min_accelerated_flops, Some(0.95));
        assert_eq!(o.profile.min["input:0"], [1, 3]);
        assert_eq!(o.profile.min["ids"], [1, 8]);
    }

    #[test]
    fn profiles_must_be_ordered() {
        let e =
            Options::parse([("profile_min_shapes", "x:2x3"), ("profile_opt_shapes", "x:1x3")]).unwrap_err();
        assert!(matches!(e, OptionError::Conflict { key: "profile_min_shapes", .. }), "{e}");
        let e = Options::parse([("profile_opt_shapes", "x:2x3"), ("profile_max_shapes", "x:2")]).unwrap_err();
        assert!(matches!(e, OptionError::Conflict { key: "profile_opt_shapes", .. }), "{e}");
    }

    #[test]
    fn segments_of_one_node_imply_maximal() {
        assert_eq!(Options::default().policy(), PartitionPolicy::Profit);
        assert_eq!(Options::parse([("min_subgraph_size", "1")]).unwrap().policy(), PartitionPolicy::Maximal);
        let o = Options::parse([("min_subgraph_size", "1"), ("partition_policy", "profit")]).unwrap();
        assert_eq!(o.policy(), PartitionPolicy::Profit);
    }
}
