//! Segments as files for people: the network of each in its text form.
use std::{
    fs, io,
    path::{Path, PathBuf},
};

use engraft_subgraph::Segment;

/// Writes the network of a segment of `model`, found in the body at `graph` (empty for the main graph), to a file of its own
/// in `folder`, which is made where it does not exist. Returns the file.
pub fn dump(folder: &Path, model: &str, graph: &str, segment: &Segment) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let parts = [model, graph, segment.name.as_str()];
    let name: Vec<String> =
        parts.iter().filter(|part| !part.is_empty()).map(|part| file_name(part)).collect();
    let path = folder.join(format!("{}.network", name.join("-")));
    fs::write(&path, segment.network.to_string())?;
    Ok(path)
}

/// `text` with everything that is no letter, digit, dot or underscore made an underscore.
fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() || "._".contains(c) { c } else { '_' }).collect()
}
