//! The plan: a network made ready for a kind of machine, as data.
//!
//! Sections of the container: a manifest (the network without its constants, the layout decisions, the tuned tactics,
//! where constants lie), the raw weights, and one device section with the packed weights. A constant that is only read
//! packed is not among the raw ones: should a specialization want its plain bytes, they are had back from the packed ones.
//! A [`compact`] plan leaves out packed weights that can be made of raw ones.

mod compact;
mod deferred;

pub(crate) use compact::compact;

use crate::container::{Container, ContainerWriter, Fields, Section, SectionKind, SectionSpec};
use crate::error::PlanError;
use crate::mmap::MappedSlice;
use crate::program::{PackedOperand, Program, Role, Target, Tuned};
use deferred::Deferred;
use engraft_kernels::{Isa, Precision, Tactic, catalog};
use engraft_network::{Bytes, DType, Def, Network, NodeId, Tensor, ValueId};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

pub(crate) const MANIFEST: &str = "plan";
pub(crate) const WEIGHTS: &str = "raw";
pub(crate) const DEVICE: &str = "cpu";
const ALIGN: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ConstantEntry {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub place: ConstantPlace,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum ConstantPlace {
    /// Offset in the raw weights.
    Raw(u64),
    /// Position of a packed operand, and the tactic that packed it.
    Packed(u32, String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PackedEntry {
    pub node: NodeId,
    pub operand: u32,
    pub packing: String,
    pub tactic_version: u32,
    /// In the device section; `None` if it is packed when the plan is loaded.
    pub offset: Option<u64>,
    pub bytes: u64,
}

impl PackedEntry {
    /// Where it lies in the device section, if it does.
    fn range(&self) -> Option<Range<usize>> {
        let start = usize::try_from(self.offset?).ok()?;
        Some(start..start.checked_add(usize::try_from(self.bytes).ok()?)?)
    }
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

/// Writes some bytes of a section.
pub(crate) type Piece<'a> = Box<dyn Fn(&mut [u8]) + Send + Sync + 'a>;

/// A packed operand that is still to be written.
pub(crate) struct ToPack<'a> {
    pub entry: PackedEntry,
    /// The tactic that packs, if it only moves elements.
    pub moved_by: Option<&'static str>,
    pub pack: Piece<'a>,
}

/// What the device section was packed for.
pub(crate) fn device_fields(isa: Isa) -> Fields {
    vec![
        ("isa".to_owned(), isa.name().to_owned()),
        ("catalog".to_owned(), catalog::CATALOG_VERSION.to_string()),
    ]
}

/// By constant: the packed operand that it can be had back from, and the tactic that packs it; for constants that nothing
/// reads but what packs them.
fn left_out(program: &Program, to_pack: &[ToPack<'_>]) -> Vec<Option<(u32, &'static str)>> {
    let network = &program.network;
    let constant = |v: ValueId| match network.value(v).def {
        Def::Constant(c) => Some(c.index()),
        _ => None,
    };
    let mut found = vec![None; network.constants().len()];
    for (position, p) in to_pack.iter().enumerate() {
        let operand = network.node(p.entry.node).and_then(|n| n.inputs.get(p.entry.operand as usize));
        if let (Some(c), Some(tactic)) = (operand.and_then(|v| constant(*v)), p.moved_by) {
            found[c] = Some((position as u32, tactic));
        }
    }
    let is_packed = |node: NodeId, i: usize| {
        to_pack.iter().any(|p| p.entry.node == node && p.entry.operand as usize == i)
    };
    for (id, node) in network.nodes() {
        for (i, c) in node.inputs.iter().enumerate().filter_map(|(i, v)| Some((i, constant(*v)?))) {
            if found[c].is_some() && (program.roles[id.index()] != Role::Compute || !is_packed(id, i)) {
                found[c] = None;
            }
        }
    }
    let told = program.stages.iter().flat_map(|s| s.elements.iter().map(|(_, v, _)| v));
    for c in network.outputs().iter().chain(told).filter_map(|v| constant(*v)) {
        found[c] = None;
    }
    found
}

/// Writes a plan. `manifest.constants` and the packed entries' offsets are filled in here.
pub(crate) fn write(
    writer: &mut ContainerWriter,
    mut manifest: Manifest,
    program: &Program,
    mut to_pack: Vec<ToPack<'_>>,
    threads: usize,
) -> Result<(), PlanError> {
    let left_out = left_out(program, &to_pack);
    let mut raw = 0usize;
    let mut constants: Vec<(usize, &Tensor)> = Vec::new();
    manifest.constants = program
        .network
        .constants()
        .iter()
        .zip(left_out)
        .map(|(t, packed)| {
            let place = match packed {
                Some((position, tactic)) => ConstantPlace::Packed(position, tactic.to_owned()),
                None => {
                    let offset = raw;
                    constants.push((offset, t));
                    raw += t.bytes().len().next_multiple_of(ALIGN);
                    ConstantPlace::Raw(offset as u64)
                }
            };
            ConstantEntry { dtype: t.dtype(), shape: t.shape().to_vec(), place }
        })
        .collect();
    let mut packed = 0usize;
    for p in &mut to_pack {
        p.entry.offset = Some(packed as u64);
        packed += (p.entry.bytes as usize).next_multiple_of(ALIGN);
    }
    manifest.packed = to_pack.iter().map(|p| p.entry.clone()).collect();
    let bytes = postcard::to_allocvec(&manifest).map_err(|e| PlanError::Manifest(e.to_string()))?;
    writer.add(SectionSpec::new(SectionKind::Manifest, MANIFEST), &bytes)?;
    let pieces: Vec<(usize, Piece<'_>)> = constants
        .iter()
        .map(|(offset, t)| {
            let copy: Piece<'_> = Box::new(|out: &mut [u8]| out.copy_from_slice(t.bytes()));
            (*offset, copy)
        })
        .collect();
    let lengths: Vec<usize> = constants.iter().map(|(_, t)| t.bytes().len()).collect();
    writer.fill(SectionSpec::new(SectionKind::Weights, WEIGHTS), raw, |out| {
        fill_parallel(out, &pieces, &lengths, threads);
        Ok::<(), PlanError>(())
    })?;
    let lengths: Vec<usize> = to_pack.iter().map(|p| p.entry.bytes as usize).collect();
    let pieces: Vec<(usize, Piece<'_>)> =
        to_pack.into_iter().map(|p| (p.entry.offset.unwrap_or_default() as usize, p.pack)).collect();
    writer.fill(
        SectionSpec::new(SectionKind::Device, DEVICE).fingerprint(device_fields(program.isa)),
        packed,
        |out| {
            fill_parallel(out, &pieces, &lengths, threads);
            Ok::<(), PlanError>(())
        },
    )?;
    Ok(())
}

/// Fills disjoint pieces of `out`, which stand in rising order of offset, on several threads.
fn fill_parallel(mut out: &mut [u8], pieces: &[(usize, Piece<'_>)], lengths: &[usize], threads: usize) {
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
struct Owner(MappedSlice);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn required<'a>(
    container: &'a Container,
    kind: SectionKind,
    name: &'static str,
) -> Result<&'a Section, PlanError> {
    container.section(kind, name).ok_or(PlanError::Missing { section: name })
}

/// Decodes the manifest.
fn manifest(container: &Container) -> Result<Manifest, PlanError> {
    let bytes = container.bytes(required(container, SectionKind::Manifest, MANIFEST)?);
    let (manifest, rest): (Manifest, &[u8]) =
        postcard::take_from_bytes(&bytes).map_err(|e| PlanError::Manifest(e.to_string()))?;
    match rest.is_empty() {
        true => Ok(manifest),
        false => Err(PlanError::Manifest("it is followed by other data".to_owned())),
    }
}

/// Makes a program of a container's contents. Everything is checked; a plan that another version or another kind of
/// machine wrote is refused.
pub(crate) fn read(container: &Container, isa: Isa) -> Result<(Program, Vec<String>), PlanError> {
    let m = manifest(container)?;
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
        Arc::new(Owner(container.bytes(required(container, SectionKind::Weights, WEIGHTS)?)));
    let device = container.bytes(required(container, SectionKind::Device, DEVICE)?);
    let inconsistent = |what: &str, reason: String| PlanError::Inconsistent { what: what.to_owned(), reason };
    let mut constants = Vec::with_capacity(m.constants.len());
    for (i, e) in m.constants.iter().enumerate() {
        let count = e.shape.iter().try_fold(1usize, |a, d| a.checked_mul(*d)).filter(|n| *n < 1 << 48);
        let bytes = count.and_then(|n| match &e.place {
            ConstantPlace::Raw(offset) => {
                Bytes::window(raw.clone(), usize::try_from(*offset).ok()?, e.dtype.bytes(n))
            }
            ConstantPlace::Packed(position, tactic) => {
                let entry = m.packed.get(*position as usize)?;
                let packed = device.slice(entry.range()?)?;
                let constant = Deferred::new(&m.network, isa, m.precision, entry, tactic, packed)?;
                (constant.length() == e.dtype.bytes(n))
                    .then(|| Bytes::deferred(Arc::new(constant), e.dtype.bytes(n)))
            }
        });
        let bytes = bytes
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
    let mut missing = Vec::new();
    for e in &m.packed {
        let Some(packing) = packing(&program, e) else {
            return Err(inconsistent("packed weights", format!("no tactic reads packing `{}`", e.packing)));
        };
        if e.offset.is_none() {
            missing.push(packing);
            continue;
        }
        let slice = e.range().and_then(|r| device.get(r)).filter(|s| s.len() == packing.bytes);
        let Some(slice) = slice else {
            return Err(inconsistent(
                "packed weights",
                format!("operand {} of {} lies outside", e.operand, e.node),
            ));
        };
        let operand = PackedOperand { packing: packing.name, address: slice.as_ptr() as usize };
        program.packed.entry((e.node, e.operand)).or_default().push(operand);
    }
    compact::pack(&mut program, &missing)?;
    program.drop_unpacked();
    program.keep_alive.push(Box::new(device));
    Ok((program, m.fusion))
}

/// A packed operand as the catalog has it, so that a plan cannot make a kernel read past it.
struct Packing {
    node: NodeId,
    operand: u32,
    tactic: &'static dyn Tactic,
    name: &'static str,
    bytes: usize,
}

fn packing(program: &Program, e: &PackedEntry) -> Option<Packing> {
    let env = program.network.representative_env();
    program.with_dense_problem(e.node, &env, 1, |p| {
        let operand = e.operand as usize;
        if p.inputs.get(operand).is_none_or(|o| o.constant.is_none()) {
            return None;
        }
        program.shortlist.get(e.node.index())?.iter().find_map(|tactic| {
            let name = tactic.packing(p, operand)?;
            (name == e.packing && tactic.version() == e.tactic_version).then(|| Packing {
                node: e.node,
                operand: e.operand,
                tactic: *tactic,
                name,
                bytes: tactic.packed_bytes(p, operand),
            })
        })
    })?
}
