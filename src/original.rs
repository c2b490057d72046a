//! The model that a compiled one was made of: named in the record beside a plan, so that a plan that does not fit can be built again.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use engraft_engine::fingerprint::{Fingerprint, hashing_threads};
use engraft_subgraph::onnx::{self, FileSource, ReadFiles};
use engraft_subgraph::{HostGraph, HostValue};
use serde::{Deserialize, Serialize};

use crate::{CompiledSegment, Engine, Options, PartitionPolicy, Session};

/// Where the original model was, and its content with that of its external data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Original {
    /// The file's name if it lies beside the compiled model, else its absolute path.
    file: PathBuf,
    content: String,
}

/// Reads files and remembers them in order.
struct Remembering(RefCell<Vec<Bytes>>);

impl FileSource for Remembering {
    fn open(&self, path: &Path) -> io::Result<Bytes> {
        let bytes = ReadFiles.open(path)?;
        self.0.borrow_mut().push(bytes.clone());
        Ok(bytes)
    }
}

/// A model's graph, and the hash of all files that it was read from.
fn read(model: &Path) -> Result<(HostGraph, String), String> {
    let files = Remembering(RefCell::default());
    let graph = onnx::read_model_with(model, &files).map_err(|error| error.to_string())?.graph;
    let files = files.0.into_inner();
    let content = Fingerprint::of_parts(files.iter().map(|file| &file[..]), hashing_threads());
    Ok((graph, content.to_string()))
}

impl Original {
    /// Describes `model` for a compiled model that will be at `compiled`, where that is known. `None`: there is no such file, or it
    /// is no model that can be read.
    pub fn describe(model: &Path, compiled: Option<&Path>) -> Option<Original> {
        let file = model.canonicalize().ok()?;
        let folder = |path: &Path| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            parent.unwrap_or(Path::new(".")).canonicalize().ok()
        };
        let beside = compiled.is_some_and(|compiled| folder(compiled) == folder(model));
        let content = read(model).ok()?.1;
        Some(Original { file: if beside { model.file_name()?.into() } else { file }, content })
    }

    /// Reads the model again: from where it was, or from beside the compiled model. Errors: why it is not at hand.
    fn find(&self, compiled: Option<&Path>) -> Result<(PathBuf, HostGraph), String> {
        let folder = compiled.and_then(Path::parent);
        let beside = folder.zip(self.file.file_name()).map(|(folder, name)| folder.join(name));
        let mut places: Vec<PathBuf> = beside.into_iter().collect();
        if self.file.is_absolute() && !places.contains(&self.file) {
            places.push(self.file.clone());
        }
        let mut reason = format!("the original model {} is not at hand", self.file.display());
        for place in places.into_iter().filter(|place| place.is_file()) {
            match read(&place) {
                Ok((graph, content)) if content == self.content => return Ok((place, graph)),
                Ok(_) => reason = format!("{} is not the model that was compiled any more", place.display()),
                Err(error) => reason = format!("{} cannot be read: {error}", place.display()),
            }
        }
        Err(reason)
    }
}

/// A segment that was compiled elsewhere, built for this process.
pub struct Rebuilt {
    pub engine: Arc<Engine>,
    /// Names of the values that the engine reads, in its order.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub record: CompiledSegment,
    /// The original model.
    pub model: PathBuf,
}

impl CompiledSegment {
    /// Builds the segment that computes `outputs` from `inputs` out of the original model, with the options of `session` that
    /// `given` says the user set and those of this record for the rest. `compiled` is the compiled model's file, where it has one.
    ///
    /// # Errors
    /// Why that is not possible.
    pub fn rebuild(
        &self,
        session: &Session,
        given: impl Fn(&str) -> bool,
        compiled: Option<&Path>,
        inputs: &[&HostValue],
        outputs: &[String],
    ) -> Result<Rebuilt, String> {
        let original = self.original.as_ref().ok_or("it was compiled from a model without a file")?;
        let (model, mut graph) = original.find(compiled)?;
        // The host has inferred the types of values inside, which the file need not state.
        for value in &mut graph.values {
            if let Some(known) = inputs.iter().find(|known| known.name == value.name) {
                value.dtype = value.dtype.or(known.dtype);
                value.shape = value.shape.take().or_else(|| known.shape.clone());
            }
        }
        let names: Vec<String> = inputs.iter().map(|value| value.name.clone()).collect();
        let part =
            graph.part(&names, outputs).map_err(|e| format!("{} has no such part: {e}", model.display()))?;
        let merged = self.merged(session.options(), given);
        let options = Options {
            // What was compiled as one segment is taken whole.
            partition_policy: Some(PartitionPolicy::Maximal),
            min_subgraph_size: Some(1),
            ..merged.clone()
        };
        let session = Session::with_threads(options, session.threads());
        let partition = session.partition(&part);
        let [segment] = &partition.segments[..] else {
            return Err("this version does not take it as one segment".to_owned());
        };
        let (engine, _) = session.build(&segment.network).map_err(|error| error.to_string())?;
        let names = |ids: &[engraft_subgraph::HostValueId]| -> Vec<String> {
            ids.iter().map(|id| part.value(*id).name.clone()).collect()
        };
        let (inputs, made) = (names(&segment.inputs), names(&segment.outputs));
        if let Some(missing) = outputs.iter().find(|output| !made.contains(output)) {
            return Err(format!("'{missing}' is no output of it any more"));
        }
        let record = CompiledSegment {
            segment: self.segment.clone(),
            original: Some(original.clone()),
            ..CompiledSegment::new(&partition.report, 0, &merged)
        };
        Ok(Rebuilt { engine, inputs, outputs: made, record, model })
    }
}
