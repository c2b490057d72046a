//! The passes of the builder, in the order in which they run.

use engraft_network::Network;

/// What the passes may do.
#[derive(Clone, Debug, Default)]
pub struct PassOptions {}

/// What the passes did.
#[derive(Clone, Debug, Default)]
pub struct Report {}

impl Report {
    /// Line by line, for people.
    pub fn lines(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A pass that failed.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct PassError {
    pass: &'static str,
    reason: String,
}

impl PassError {
    pub fn pass(&self) -> &'static str {
        self.pass
    }
}

/// Runs the pipeline.
pub fn optimize(network: &mut Network, _options: &PassOptions) -> Result<Report, PassError> {
    network.remove_dead();
    Ok(Report::default())
}
