//! Models that are compiled ahead of time: `EPContext` nodes (domain `com.microsoft`), each a segment's plan in the model's place
//! of the segment.
//!
//! A plan lies in the node (`embed_mode` 1) or in a file beside the model (0). The node's inputs and outputs stand in the engine's
//! order; its attribute `notes` has the [`CompiledSegment`] as JSON.
use std::{
    ffi::CString,
    fmt::Display,
    path::{Component, Path, PathBuf},
};

use engraft::{
    CompiledSegment, Engine, LoadError, Mismatch, Session,
    engine::container::{Container, ContainerError, FORMAT_VERSION},
};

use crate::{
    EP_NAME_TEXT,
    api::{Api, AttributeValue},
    embedded,
    error::{Error, Result},
    sys::{OrtNode, OrtOpAttr},
};

pub const OPERATOR: &str = "EPContext";
pub const DOMAIN: &str = "com.microsoft";
/// The attribute that holds the plan, or names its file.
const PLAN: &str = "ep_cache_context";
/// The attribute that names the provider that the node is for.
pub const SOURCE: &str = "source";

/// What the session's configuration says about compiled models (`ep.context_*`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextConfig {
    /// A compiled model is to be written.
    pub enable: bool,
    /// Plans go into the model.
    pub embed: bool,
    /// Where the compiled model is, or will be.
    pub path: Option<PathBuf>,
}

impl ContextConfig {
    pub fn parse(config: &[(String, String)]) -> Self {
        let value = |key: &str| config.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        Self {
            enable: value("ep.context_enable") == Some("1"),
            embed: value("ep.context_embed_mode") == Some("1"),
            path: value("ep.context_file_path").filter(|p| !p.is_empty()).map(PathBuf::from),
        }
    }

    /// The file of the compiled model of `model` (empty for one that was given as bytes).
    pub fn compiled_model(&self, model: &Path) -> Option<PathBuf> {
        let beside = || {
            let stem = model.file_stem().filter(|s| !s.is_empty())?;
            Some(model.with_file_name(format!("{}_ctx.onnx", stem.to_string_lossy())))
        };
        self.path.clone().or_else(beside)
    }
}

/// Makes the node that stands for a segment in the compiled model; the plan's file is written if it is not embedded.
///
/// `inputs` and `outputs` name the values that the engine reads and writes, in its order. The host takes the node. A plan that
/// goes into the model is made compact: the host reads all of it at every start.
pub fn write(
    api: Api,
    config: &ContextConfig,
    model: &Path,
    fused: &OrtNode,
    engine: &Engine,
    record: &CompiledSegment,
    (inputs, outputs): (&[String], &[String]),
) -> Result<*mut OrtNode> {
    let (compact, file);
    let mut record = record.clone();
    record.plan = None;
    let content = if config.embed {
        compact = engine.compact_plan().map_err(|error| Error::Compiled(error.to_string()))?;
        let plan = compact.as_ref().unwrap_or(engine.plan());
        record.plan = Some(plan.content());
        plan.as_bytes()
    } else {
        let compiled = config.compiled_model(model).ok_or_else(|| {
            Error::Unsupported(
                "plans can only lie beside a compiled model whose place is known: set ep.context_file_path, or \
                 ep.context_embed_mode to 1"
                    .to_owned(),
            )
        })?;
        file = plan_file(&compiled, &record.segment);
        let path = compiled.with_file_name(&file);
        engraft::replace_file(&path, engine.plan().as_bytes())
            .map_err(|error| Error::Compiled(format!("{} cannot be written: {error}", path.display())))?;
        file.as_bytes()
    };
    // Records are plain data: they always serialize.
    let notes = serde_json::to_string(&record).unwrap_or_default();
    let hardware = format!("{}", Field("cpu_features", engine));
    api.create_node(
        (DOMAIN, OPERATOR, &api.node_name(fused)?),
        inputs,
        outputs,
        &[
            ("main_context", AttributeValue::Int(1)),
            ("embed_mode", AttributeValue::Int(config.embed.into())),
            (PLAN, AttributeValue::String(content)),
            (SOURCE, AttributeValue::String(EP_NAME_TEXT.as_bytes())),
            ("partition_name", AttributeValue::String(record.segment.as_bytes())),
            ("ep_sdk_version", AttributeValue::String(engraft::VERSION.as_bytes())),
            ("hardware_architecture", AttributeValue::String(hardware.as_bytes())),
            ("notes", AttributeValue::String(notes.as_bytes())),
        ],
    )
}

/// A field of an engine's plan's key.
struct Field<'a>(&'a str, &'a Engine);

impl Display for Field<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = self.1.plan().key();
        f.write_str(key.iter().find(|(name, _)| name == self.0).map_or("", |(_, value)| value))
    }
}

/// The name of a segment's plan beside the compiled model.
fn plan_file(compiled: &Path, segment: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
    let stem = compiled.file_stem().unwrap_or_default().to_string_lossy();
    format!("{stem}_{}.plan", segment.chars().map(plain).collect::<String>())
}

/// A node's engine, and what was recorded when it was compiled.
pub struct Loaded {
    pub engine: std::sync::Arc<Engine>,
    pub record: CompiledSegment,
}

/// What became of a compiled node.
pub enum Outcome {
    Loaded(Loaded),
    /// Its plan is of no use here, for the reason given.
    Foreign(CompiledSegment, Mismatch),
}

/// Loads the plan of an `EPContext` node of ours. `given` says which options the user set.
pub fn read(
    api: Api,
    config: &ContextConfig,
    model: &Path,
    node: &OrtNode,
    session: &Session,
    given: impl Fn(&str) -> bool,
) -> Result<Outcome> {
    let label = api.node_name(node)?;
    let wrong = |reason: &dyn Display| Error::Compiled(format!("compiled node '{label}': {reason}"));
    let attribute = |name: &str| -> Result<Option<&OrtOpAttr>> { api.node_attribute(node, name) };
    let required =
        |name: &str| attribute(name)?.ok_or_else(|| wrong(&format!("it has no attribute '{name}'")));
    if let Some(main) = attribute("main_context")?
        && api.attribute_int(main)? != 1
    {
        return Err(wrong(&"its plan lies in another node, which Engraft never writes"));
    }
    let record = api.attribute_string(required("notes")?)?;
    let record: CompiledSegment = serde_json::from_slice(&record)
        .map_err(|error| wrong(&format!("its notes cannot be read: {error}")))?;
    if let Err(mismatch) = record.check(session.options(), given) {
        return Ok(Outcome::Foreign(record, mismatch));
    }
    let embedded = match attribute("embed_mode")? {
        Some(mode) => api.attribute_int(mode)? != 0,
        None => true,
    };
    let plan = required(PLAN)?;
    let container = if embedded {
        let file = config.loaded_from(model).zip(record.plan);
        match file.and_then(|(model, content)| embedded::open(model, content)) {
            Some(container) => Ok(container),
            None => Container::from_reader(api.attribute_bytes(plan)?, |out| {
                api.read_attribute_bytes(plan, out).map_err(|error| std::io::Error::other(error.to_string()))
            }),
        }
    } else {
        let name = api.attribute_string(plan)?;
        let name =
            std::str::from_utf8(&name).map_err(|_| wrong(&"the name of its plan's file is not text"))?;
        Container::open(&beside(config, model, name).map_err(|reason| wrong(&reason))?)
    };
    let loaded = match container {
        Ok(container) => session.load(container),
        Err(ContainerError::Version { found }) => Err(LoadError::Mismatch(Mismatch {
            field: "plan_format",
            theirs: found.to_string(),
            ours: FORMAT_VERSION.to_string(),
        })),
        Err(error) => return Err(wrong(&error)),
    };
    match loaded {
        Ok(engine) => Ok(Outcome::Loaded(Loaded { engine, record })),
        Err(LoadError::Mismatch(mismatch)) => Ok(Outcome::Foreign(record, mismatch)),
        Err(error) => Err(wrong(&error)),
    }
}

/// Why a compiled node cannot be used.
pub fn refusal(label: &str, mismatch: &Mismatch, rebuilding: Option<&str>) -> Error {
    let rebuilding = rebuilding.map_or_else(String::new, |reason| format!(" ({reason})"));
    Error::Compiled(format!("compiled node '{label}': {mismatch}{rebuilding}"))
}

impl ContextConfig {
    /// The file of a compiled model that is loaded; the host knows none of one that was given as bytes.
    pub fn loaded_from<'a>(&'a self, model: &'a Path) -> Option<&'a Path> {
        if model.as_os_str().is_empty() { self.path.as_deref() } else { Some(model) }
    }
}

/// The plan's file: a name relative to the model's folder that does not leave it.
fn beside(config: &ContextConfig, model: &Path, name: &str) -> Result<PathBuf, String> {
    let inside =
        Path::new(name).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if name.is_empty() || !inside {
        return Err(format!("its plan's file '{name}' is not below the model's folder"));
    }
    let model = config.loaded_from(model).ok_or_else(|| {
        format!("its plan lies in the file '{name}' beside a model that was given as bytes: say where by ep.context_file_path")
    })?;
    Ok(model.with_file_name(name))
}

/// The build and the machine as one line: what hosts keep in a compiled model's metadata and ask about before they load it.
pub fn compatibility() -> CString {
    let fields = engraft::identity().map(|(field, value)| format!("{field}={value}"));
    // No field holds a zero byte.
    CString::new(format!("engraft;{}", fields.join(";"))).unwrap_or_default()
}

/// Whether a model with that line in its metadata can run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compatibility {
    /// The line is not ours.
    Foreign,
    Optimal,
    /// Runs, but was tuned for another CPU.
    Tuned,
    Unsupported,
}

pub fn judge(line: &str) -> Compatibility {
    let Some(theirs) = line.strip_prefix("engraft;") else { return Compatibility::Foreign };
    let differs = |(field, ours): &(&str, String)| {
        !theirs.split(';').any(|entry| entry.split_once('=').is_some_and(|(k, v)| k == *field && v == ours))
    };
    let (tuning, running): (Vec<_>, Vec<_>) =
        engraft::identity().into_iter().filter(differs).partition(|(field, _)| *field == "cpu");
    match (tuning.is_empty(), running.is_empty()) {
        (_, false) => Compatibility::Unsupported,
        (false, true) => Compatibility::Tuned,
        (true, true) => Compatibility::Optimal,
    }
}

/// Options that shape plans are told apart by whether the user gave them.
pub fn is_given(config: &[(String, String)]) -> impl Fn(&str) -> bool + use<> {
    let prefix = crate::factory::option_prefix();
    let keys: Vec<String> =
        config.iter().filter_map(|(k, _)| Some(k.strip_prefix(&prefix)?.to_owned())).collect();
    move |key| keys.iter().any(|k| k == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> ContextConfig {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ContextConfig::parse(&pairs)
    }

    #[test]
    fn the_compiled_model_lies_where_the_host_puts_it() {
        let named = config(&[("ep.context_enable", "1"), ("ep.context_file_path", "/a/b.onnx")]);
        assert!(named.enable && !named.embed);
        assert_eq!(named.compiled_model(Path::new("/x/m.onnx")), Some("/a/b.onnx".into()));
        let unnamed = config(&[("ep.context_embed_mode", "1"), ("ep.context_file_path", "")]);
        assert!(unnamed.embed && !unnamed.enable);
        assert_eq!(unnamed.compiled_model(Path::new("/x/m.onnx")), Some("/x/m_ctx.onnx".into()));
        assert_eq!(unnamed.compiled_model(Path::new("")), None);
        assert_eq!(plan_file(Path::new("/x/m_ctx.onnx"), "a/b:0"), "m_ctx_a_b_0.plan");
    }

    #[test]
    fn plans_stay_below_the_models_folder() {
        let model = Path::new("/x/m.onnx");
        let none = ContextConfig::default();
        assert_eq!(beside(&none, model, "m.plan"), Ok("/x/m.plan".into()));
        for name in ["", "/etc/passwd", "../m.plan", "a/../../m.plan"] {
            assert!(beside(&none, model, name).is_err(), "{name}");
        }
        assert!(beside(&none, Path::new(""), "m.plan").unwrap_err().contains("ep.context_file_path"));
        let told = config(&[("ep.context_file_path", "/y/c.onnx")]);
        assert_eq!(beside(&told, Path::new(""), "m.plan"), Ok("/y/m.plan".into()));
    }

    #[test]
    fn compatibility_is_judged_by_fields() {
        let line = compatibility().into_string().unwrap();
        assert_eq!(judge(&line), Compatibility::Optimal);
        assert_eq!(judge("other;isa=avx2"), Compatibility::Foreign);
        assert_eq!(judge("engraft;"), Compatibility::Unsupported);
        assert_eq!(judge(&line.replace(";cpu=", ";cpu=Other ")), Compatibility::Tuned);
        assert_eq!(judge(&line.replace(";library=", ";library=0")), Compatibility::Unsupported);
    }
}
