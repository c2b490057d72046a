//! Plans without the packed operands that can be made again: what is carried inside of models.
//!
//! A packing that does more than move elements stands beside the constant that it was made of, often at a multiple of its size
//! (minimal filtering, the split operands of tiles). A mapped file costs nothing until it is read; bytes that a host parses, copies
//! and hands over cost more than packing anew.

use super::{
    ALIGN, ConstantPlace, DEVICE, MANIFEST, Manifest, PackedEntry, Packing, Piece, WEIGHTS, fill_parallel,
    manifest, required,
};
use crate::container::{Container, ContainerWriter, SectionKind, SectionSpec};
use crate::error::PlanError;
use crate::fingerprint::hashing_threads;
use crate::mmap::Mapped;
use crate::program::{PackedOperand, Program};
use engraft_network::Def;

/// Whether the constant that the entry was made of stands in the raw weights.
fn stands_raw(manifest: &Manifest, entry: &PackedEntry) -> bool {
    let network = &manifest.network;
    let operand = network.node(entry.node).and_then(|n| n.inputs.get(entry.operand as usize));
    operand.is_some_and(|v| match network.value(*v).def {
        Def::Constant(c) => {
            manifest.constants.get(c.index()).is_some_and(|e| matches!(e.place, ConstantPlace::Raw(_)))
        }
        _ => false,
    })
}

/// The same plan with every constant once; `None` if it is so already.
pub(crate) fn compact(container: &Container) -> Result<Option<Container>, PlanError> {
    let mut m = manifest(container)?;
    let outside = |e: &PackedEntry| PlanError::Inconsistent {
        what: "packed weights".to_owned(),
        reason: format!("operand {} of {} lies outside", e.operand, e.node),
    };
    let again: Vec<bool> = m.packed.iter().map(|e| e.offset.is_some() && stands_raw(&m, e)).collect();
    if !again.contains(&true) {
        return Ok(None);
    }
    let device = required(container, SectionKind::Device, DEVICE)?;
    let packed = container.bytes(device);
    let (mut kept, mut length) = (Vec::new(), 0usize);
    for (entry, again) in m.packed.iter_mut().zip(again) {
        if again {
            entry.offset = None;
        } else if entry.offset.is_some() {
            let bytes = entry.range().and_then(|r| packed.get(r)).ok_or_else(|| outside(entry))?;
            entry.offset = Some(length as u64);
            kept.push((length, bytes));
            length += bytes.len().next_multiple_of(ALIGN);
        }
    }
    let bytes = postcard::to_allocvec(&m).map_err(|e| PlanError::Manifest(e.to_string()))?;
    let raw = container.bytes(required(container, SectionKind::Weights, WEIGHTS)?);
    let written = ContainerWriter::in_memory(container.key().to_vec(), |writer| {
        writer.add(SectionSpec::new(SectionKind::Manifest, MANIFEST), &bytes)?;
        writer.add(SectionSpec::new(SectionKind::Weights, WEIGHTS), &raw)?;
        let spec = SectionSpec::new(SectionKind::Device, DEVICE).fingerprint(device.fingerprint.clone());
        writer.fill(spec, length, |out| {
            kept.iter().for_each(|(at, bytes)| out[*at..][..bytes.len()].copy_from_slice(bytes));
            Ok::<(), PlanError>(())
        })
    })?;
    Ok(Some(written))
}

/// Packs what the plan does not hold, on as many threads as hashing may use.
pub(super) fn pack(program: &mut Program, missing: &[Packing]) -> Result<(), PlanError> {
    if missing.is_empty() {
        return Ok(());
    }
    let env = program.network.representative_env();
    let (mut offsets, mut length) = (Vec::with_capacity(missing.len()), 0usize);
    for m in missing {
        offsets.push(length);
        length += m.bytes.next_multiple_of(ALIGN);
    }
    let memory = {
        let (program, env) = (&*program, &env);
        let pieces: Vec<(usize, Piece<'_>)> = std::iter::zip(missing, &offsets)
            .map(|(m, offset)| {
                let pack: Piece<'_> = Box::new(move |out: &mut [u8]| {
                    program.with_dense_problem(m.node, env, 1, |p| {
                        m.tactic.pack(p, m.operand as usize, out);
                    });
                });
                (*offset, pack)
            })
            .collect();
        let lengths: Vec<usize> = missing.iter().map(|m| m.bytes).collect();
        Mapped::filled(length, |out| {
            fill_parallel(out, &pieces, &lengths, hashing_threads());
            Ok(())
        })
        .map_err(PlanError::Memory)?
    };
    for (m, offset) in std::iter::zip(missing, offsets) {
        let operand = PackedOperand { packing: m.name, address: memory[offset..].as_ptr() as usize };
        program.packed.entry((m.node, m.operand)).or_default().push(operand);
    }
    program.keep_alive.push(Box::new(memory));
    Ok(())
}
