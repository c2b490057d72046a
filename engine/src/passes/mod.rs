//! What the builder does to a network before it selects tactics: one visible pipeline of passes.
//!
//! Every pass is a function from a network to the number of its changes; it changes the network only through patches.
//! Names of nodes that come out are the names of the host's nodes they stand for, joined by `+`.

mod affine;
mod canonical;
mod cse;
mod epilogue;
mod fold;
mod horizontal;
mod layout;
mod movement;
mod narrow;
mod open;
mod padding;
mod patterns;
mod region;
mod subpixel;
mod sweep;
#[cfg(test)]
mod tests;
mod transpose;

use engraft_kernels::Isa;
use engraft_network::{Network, NetworkError, NodeId};
use serde::Serialize;
use std::time::Instant;

/// A pass that could not be applied: always an internal error, since passes keep a valid network valid.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct PassError {
    pass: &'static str,
    source: NetworkError,
}

impl PassError {
    pub fn pass(&self) -> &'static str {
        self.pass
    }
}

#[derive(Clone, Debug)]
pub struct PassOptions {
    /// Verify the network after every pass. On in debug builds.
    pub verify: bool,
    /// The instruction set whose kernels the network is for: a composite operator is formed only where there is a kernel
    /// for it. `None` forms all of them.
    pub isa: Option<Isa>,
    /// Whether a layer is a product that reads and writes bf16 as fast as its unit allows: what lies between such layers is
    /// then stored as bf16. `None` stores every value as its type says.
    pub narrow: Option<fn(&Network, NodeId) -> bool>,
}

impl Default for PassOptions {
    fn default() -> PassOptions {
        PassOptions { verify: cfg!(debug_assertions), isa: None, narrow: None }
    }
}

/// What each pass did, in order.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub passes: Vec<PassReport>,
    pub nodes_before: usize,
    pub nodes_after: usize,
}

#[derive(Clone, Debug, Serialize)]
pub struct PassReport {
    pub pass: &'static str,
    pub changes: usize,
    pub nodes: usize,
    pub micros: u64,
}

impl Report {
    /// Line by line, for people: the passes that changed something.
    pub fn lines(&self) -> Vec<String> {
        let mut total: Vec<(&str, usize)> = Vec::new();
        for p in self.passes.iter().filter(|p| p.changes > 0) {
            match total.iter_mut().find(|t| t.0 == p.pass) {
                Some(t) => t.1 += p.changes,
                None => total.push((p.pass, p.changes)),
            }
        }
        let mut lines = vec![format!("{} layers became {}", self.nodes_before, self.nodes_after)];
        lines.extend(total.iter().map(|(pass, n)| format!("{pass}: {n} changes")));
        lines
    }
}

/// Rounds of a clean-up that feeds itself; networks of the usual exporters need two to four.
const MAX_ROUNDS: usize = 12;
const MAX_LAYOUT_ROUNDS: usize = 5;

/// Brings the network into the form that tactics are selected for. Node and value ids change; inputs and outputs keep
/// their order and types.
pub fn optimize(net: &mut Network, options: &PassOptions) -> Result<Report, PassError> {
    let mut p = Pipeline { net, options, report: Report::default() };
    p.report.nodes_before = p.net.node_count();
    p.once("open", open::run)?;
    p.clean()?;
    p.patterns()?;
    p.clean()?;
    p.once("padding", padding::run)?;
    p.layout()?;
    p.once("fold weights", |net| fold::run(net, true))?;
    p.once("affine", affine::run)?;
    p.clean()?;
    p.once("norm affine", patterns::absorb_affine)?;
    p.once("region", region::run)?;
    p.once("epilogue", epilogue::run)?;
    p.once("sub-pixels", subpixel::run)?;
    if p.once("horizontal", horizontal::run)? > 0 {
        p.once("movement", movement::run)?;
        p.once("cse", cse::run)?;
    }
    if let Some(is_product) = options.narrow {
        p.once("narrow", |net| narrow::run(net, is_product))?;
    }
    p.net.compact();
    p.report.nodes_after = p.net.node_count();
    Ok(p.report)
}

struct Pipeline<'a> {
    net: &'a mut Network,
    options: &'a PassOptions,
    report: Report,
}

impl Pipeline<'_> {
    fn once(
        &mut self,
        pass: &'static str,
        run: impl FnOnce(&mut Network) -> Result<usize, NetworkError>,
    ) -> Result<usize, PassError> {
        let start = Instant::now();
        let changes = run(self.net).map_err(|source| PassError { pass, source })?;
        let micros = start.elapsed().as_micros() as u64;
        if self.options.verify {
            self.net.verify().map_err(|source| PassError { pass, source })?;
        }
        self.report.passes.push(PassReport { pass, changes, nodes: self.net.node_count(), micros });
        Ok(changes)
    }

    /// Composite functions, inner ones first.
    fn patterns(&mut self) -> Result<(), PassError> {
        for _ in 0..MAX_ROUNDS {
            if self.once("patterns", patterns::run)? == 0 {
                break;
            }
        }
        self.once("norm affine", patterns::absorb_affine)?;
        let isa = self.options.isa;
        self.once("attention", |net| patterns::attention(net, isa))?;
        Ok(())
    }

    /// Transpositions sink until they stay where they are.
    fn layout(&mut self) -> Result<(), PassError> {
        for _ in 0..MAX_LAYOUT_ROUNDS {
            if self.once("layout", layout::run)? == 0 {
                break;
            }
            self.once("movement", movement::run)?;
            self.once("cse", cse::run)?;
        }
        self.once("free transposes", layout::free_transposes)?;
        Ok(())
    }

    /// Folding, neutral operators and common subexpressions, until nothing changes.
    fn clean(&mut self) -> Result<(), PassError> {
        for round in 0..MAX_ROUNDS {
            let changes = self.once("fold", |net| fold::run(net, false))?
                + self.once("canonical", canonical::run)?
                + self.once("movement", movement::run)?
                + self.once("cse", cse::run)?;
            if changes == 0 || round + 1 == MAX_ROUNDS {
                break;
            }
        }
        Ok(())
    }
}
