//! The plan: a network made ready for a kind of machine, as data.
//!
//! Sections of the container: a manifest (the network without its constants, the layout decisions, the tuned tactics,
//! where constants lie), the raw weights, and one device section with the packed weights.

use crate::container::{Container, ContainerWriter, Fields, SectionKind, SectionSpec};
use crate::error::PlanError;
use crate::mmap::MappedSlice;
use crate::program::{PackedOperand, Program, Role, Target, Tuned};
use engraft_kernels::{Isa, Precision, catalog};
use engraft_network::{Bytes, DType, Network, NodeId, Tensor};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::sync::Arc;

pub(crate) const MANIFEST: &str = "plan";
pub(crate) const WEIGHTS: &str = "raw";
pub(crate) const DEVICE: &str = "cpu";
const ALIGN: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConstantEntry {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub offset: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PackedEntry {
    pub node: NodeId,
    pub operand: u32,
    pub packing: String,
    pub tactic_version: u32,
    pub offset: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub network: Network,
    pub isa: String,
    pub precision: Precision,
    pub catalog_version: u32,
    pub roles: Vec<Role>,
    pub targets: Vec<Option<Target>>,
    pub tuned: Vec<Tuned>,
    pub constants: Vec<ConstantEntry>,
    pub packed: Vec<PackedEntry>,
    /// What the passes did, for people.
    pub fusion: Vec<String>,
}

/// A packed operand that is still to be written.
pub(crate) struct ToPack<'a> {
    pub entry: PackedEntry,
    pub pack: Box<dyn Fn(&mut [u8]) + Send + Sync + 'a>,
}

/// What the device section was packed for.
pub(crate) fn device_fields(isa: Isa) -> Fields {
    vec![
        ("isa".to_owned(), isa.name().to_owned()),
        ("catalog".to_owned(), catalog::CATALOG_VERSION.to_string()),
    ]
}

/// Writes a plan. `manifest.constants` and the packed entries' offsets are filled in here.
pub(crate) fn write(
    writer: &mut ContainerWriter,
    mut manifest: Manifest,
    isa: Isa,
    mut to_pack: Vec<ToPack<'_>>,
    threads: usize,
) -> Result<(), PlanError> {
    let constants: Vec<Tensor> = manifest.network.constants().to_vec();
    let mut raw = 0usize;
    manifest.constants = constants
        .iter()
        .map(|t| {
            let e = ConstantEntry { dtype: t.dtype(), shape: t.shape().to_vec(), offset: raw as u64 };
            raw += t.bytes().len().next_multiple_of(ALIGN);
            e
        })
        .collect();
    let mut packed = 0usize;
    for p in &mut to_pack {
        p.entry.offset = packed as u64;
        packed += (p.entry.bytes as usize).next_multiple_of(ALIGN);
    }
    manifest.packed = to_pack.iter().map(|p| p.entry.clone()).collect();
    let bytes = postcard::to_allocvec(&manifest).map_err(|e| PlanError::Manifest(e.to_string()))?;
    writer.add(SectionSpec::new(SectionKind::Manifest, MANIFEST), &bytes)?;
    let pieces: Vec<(usize, Box<dyn Fn(&mut [u8]) + Send + Sync + '_>)> = manifest
        .constants
        .iter()
        .zip(&constants)
        .map(|(e, t)| {
            let copy: Box<dyn Fn(&mut [u8]) + Send + Sync + '_> =
                Box::new(|out: &mut [u8]| out.copy_from_slice(t.bytes()));
            (e.offset as usize, copy)
        })
        .collect();
    let lengths: Vec<usize> = constants.iter().map(|t| t.bytes().len()).collect();
    writer.fill(SectionSpec::new(SectionKind::Weights, WEIGHTS), raw, |out| {
        fill_parallel(out, &pieces, &lengths, threads);
        Ok::<(), PlanError>(())
    })?;
    let lengths: Vec<usize> = to_pack.iter().map(|p| p.entry.bytes as usize).collect();
    let pieces: Vec<(usize, Box<dyn Fn(&mut [u8]) + Send + Sync + '_>)> =
        to_pack.into_iter().map(|p| (p.entry.offset as usize, p.pack)).collect();
    writer.fill(
        SectionSpec::new(SectionKind::Device, DEVICE).fingerprint(device_fields(isa)),
        packed,
        |out| {
            fill_parallel(out, &pieces, &lengths, threads);
            Ok::<(), PlanError>(())
        },
    )?;
    Ok(())
}

/// Fills disjoint pieces of `out`, which stand in rising order of offset, on several threads.
fn fill_parallel(
    mut out: &mut [u8],
    pieces: &[(usize, Box<dyn Fn(&mut [u8]) + Send + Sync + '_>)],
    lengths: &[usize],
    threads: usize,
) {
    let mut jobs: Vec<(&mut [u8], usize)> = Vec::with_capacity(pieces.len());
    let mut at = 0;
    for (i, (offset, _)) in pieces.iter().enumerate() {
        let (_, rest) = std::mem::take(&mut out).split_at_mut(offset - at);
        let (piece, rest) = rest.split_at_mut(lengths[i]);
        jobs.push((piece, i));
        out = rest;
        at = offset + lengths[i];
    }
    if threads <= 1 || lengths.iter().sum::<usize>() < 1 << 20 {
        for (piece, i) in jobs {
            pieces[i].1(piece);
        }
        return;
    }
    // The largest first, so that the threads end together.
    jobs.sort_by_key(|(p, _)| p.len());
    let queue = std::sync::Mutex::new(jobs);
    std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                loop {
                    let job = queue.lock().ok().and_then(|mut q| q.pop());
                    let Some((piece, i)) = job else { break };
                    pieces[i].1(piece);
                }
            });
        }
    });
}

/// Keeps the plan's memory alive and is the owner of its tensors' bytes.
struct Section(MappedSlice);

impl AsRef<[u8]> for Section {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Makes a program of a container's contents. Everything is checked; a plan that another version or another kind of
/// machine wrote is refused.
pub(crate) fn read(container: &Container, isa: Isa) -> Result<(Program, Vec<String>), PlanError> {
    let section =
        |kind, name, what| container.section(kind, name).ok_or(PlanError::Missing { section: what });
    let manifest = container.bytes(section(SectionKind::Manifest, MANIFEST, "manifest")?);
    let (m, rest): (Manifest, &[u8]) =
        postcard::take_from_bytes(&manifest).map_err(|e| PlanError::Manifest(e.to_string()))?;
    if !rest.is_empty() {
        return Err(PlanError::Manifest("it is followed by other data".to_owned()));
    }
    if m.isa != isa.name() {
        return Err(PlanError::Fingerprint {
            field: "instruction set",
            theirs: m.isa,
            ours: isa.name().to_owned(),
        });
    }
    if m.catalog_version != catalog::CATALOG_VERSION {
        return Err(PlanError::Fingerprint {
            field: "catalog version",
            theirs: m.catalog_version.to_string(),
            ours: catalog::CATALOG_VERSION.to_string(),
        });
    }
    let raw: Arc<dyn AsRef<[u8]> + Send + Sync> =
        Arc::new(Section(container.bytes(section(SectionKind::Weights, WEIGHTS, "weights")?)));
    let inconsistent = |what: &str, reason: String| PlanError::Inconsistent { what: what.to_owned(), reason };
    let mut constants = Vec::with_capacity(m.constants.len());
    for (i, e) in m.constants.iter().enumerate() {
        let count = e.shape.iter().try_fold(1usize, |a, d| a.checked_mul(*d)).filter(|n| *n < 1 << 48);
        let bytes = count
            .and_then(|n| Bytes::window(raw.clone(), usize::try_from(e.offset).ok()?, e.dtype.bytes(n)))
            .ok_or_else(|| inconsistent("constants", format!("constant {i} lies outside the weights")))?;
        constants.push(
            Tensor::new(e.dtype, &e.shape, bytes).map_err(|t| inconsistent("constants", t.to_string()))?,
        );
    }
    let mut network = m.network;
    network.attach_constants(constants).map_err(|e| inconsistent("network", e.to_string()))?;
    network.verify().map_err(|e| inconsistent("network", e.to_string()))?;
    let mut program = Program::new(network, isa, m.precision)?;
    if m.roles.len() != program.roles.len() || m.targets.len() != program.targets.len() {
        return Err(inconsistent("layout", "its tables do not fit the network".to_owned()));
    }
    for (id, role) in m.roles.iter().enumerate() {
        let is_dynamic = program.roles[id] == Role::Dynamic;
        if is_dynamic != (*role == Role::Dynamic) {
            return Err(inconsistent("layout", format!("node {id} cannot be {role:?}")));
        }
    }
    for t in m.targets.iter().flatten() {
        let fits = program.node(t.node).is_some_and(|n| (t.operand as usize) < n.inputs.len());
        if !fits {
            return Err(inconsistent("layout", format!("there is no operand {} of {}", t.operand, t.node)));
        }
    }
    program.roles = m.roles;
    program.targets = m.targets;
    program.check_layout().map_err(|reason| inconsistent("layout", reason))?;
    for t in m.tuned {
        // A tactic that is gone or has changed is chosen anew by estimate.
        if let Some(tactic) = catalog::by_id(&t.tactic).filter(|x| x.version() == t.version)
            && let Some(list) = program.tuned.get_mut(t.node.index())
        {
            list.push((t.size, t.threads, tactic));
        }
    }
    let device = container.bytes(section(SectionKind::Device, DEVICE, "device")?);
    for e in &m.packed {
        let found = packing_name(&program, e);
        let Some((name, bytes)) = found else {
            return Err(inconsistent("packed weights", format!("no tactic reads packing `{}`", e.packing)));
        };
        let range = usize::try_from(e.offset)
            .ok()
            .and_then(|o| Some(o..o.checked_add(usize::try_from(e.bytes).ok()?)?));
        let slice = range.and_then(|r| device.get(r)).filter(|s| s.len() == bytes);
        let Some(slice) = slice else {
            return Err(inconsistent(
                "packed weights",
                format!("operand {} of {} lies outside", e.operand, e.node),
            ));
        };
        program
            .packed
            .entry((e.node, e.operand))
            .or_insert_with(SmallVec::new)
            .push(PackedOperand { packing: name, address: slice.as_ptr() as usize });
    }
    program.drop_unpacked();
    program.keep_alive.push(Box::new(device));
    Ok((program, m.fusion))
}

/// The catalog's own name and size of an entry's packing, so that a plan cannot make a kernel read past it.
fn packing_name(program: &Program, e: &PackedEntry) -> Option<(&'static str, usize)> {
    let env = program.network.representative_env();
    program.with_dense_problem(e.node, &env, 1, |p| {
        if p.inputs.get(e.operand as usize).is_none_or(|o| o.constant.is_none()) {
            return None;
        }
        let list = program.shortlist.get(e.node.index())?;
        list.iter().find_map(|t| {
            let name = t.packing(p, e.operand as usize)?;
            (name == e.packing && t.version() == e.tactic_version)
                .then(|| (name, t.packed_bytes(p, e.operand as usize)))
        })
    })?
}
