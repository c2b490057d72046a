use super::*;
use proptest::prelude::*;

fn key() -> Fields {
    vec![("structure".into(), "s".into()), ("weights".into(), "w".into())]
}

/// Sections whose lengths meet every edge of blocks and alignment.
fn write_sample(writer: &mut ContainerWriter) -> Result<(), ContainerError> {
    writer.add(SectionSpec::new(SectionKind::Manifest, "network"), b"manifest bytes")?;
    writer.fill(SectionSpec::new(SectionKind::Weights, "raw"), 2 * BLOCK + 5, |out| {
        assert!(out.iter().all(|b| *b == 0));
        out.iter_mut().enumerate().for_each(|(i, b)| *b = ((i * 7) >> 2) as u8);
        Ok::<_, ContainerError>(())
    })?;
    let device = vec![("device".into(), "cpu".into()), ("isa".into(), "avx512".into())];
    writer.add(SectionSpec::new(SectionKind::Device, "cpu").fingerprint(device), &[9; 100])?;
    writer.add(SectionSpec { alignment: 64, ..SectionSpec::new(SectionKind::Device, "empty") }, &[])?;
    writer.fill(
        SectionSpec { alignment: 64, ..SectionSpec::new(SectionKind::Device, "unpaged") },
        77,
        |out| {
            out.fill(4);
            Ok(())
        },
    )
}

fn check_sample(container: &Container) {
    assert_eq!(container.key(), key());
    let bytes = |kind, name| container.bytes(container.section(kind, name).unwrap());
    assert_eq!(&bytes(SectionKind::Manifest, "network")[..], b"manifest bytes");
    let raw = bytes(SectionKind::Weights, "raw");
    assert_eq!(raw.len(), 2 * BLOCK + 5);
    assert!(raw.iter().enumerate().all(|(i, b)| *b == ((i * 7) >> 2) as u8));
    assert_eq!(raw.as_ptr() as usize % 4096, 0);
    assert_eq!(&bytes(SectionKind::Device, "cpu")[..], &[9; 100]);
    assert_eq!(container.section(SectionKind::Device, "cpu").unwrap().fingerprint[1].1, "avx512");
    assert_eq!(bytes(SectionKind::Device, "empty").len(), 0);
    assert_eq!(&bytes(SectionKind::Device, "unpaged")[..], &[4; 77]);
    assert!(container.section(SectionKind::Weights, "cpu").is_none());
}

fn sample_file(folder: &Path) -> PathBuf {
    let path = folder.join("a.plan");
    ContainerWriter::publish(&path, key(), write_sample).unwrap();
    path
}

#[test]
fn what_was_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = sample_file(folder.path());
    check_sample(&Container::open(&path).unwrap());
    check_sample(&Container::from_bytes(&std::fs::read(&path).unwrap()).unwrap());
    let summary = Summary::read(&path).unwrap();
    assert_eq!((summary.key, summary.sections.len()), (key(), 5));
    let mapped = Container::map(&File::open(&path).unwrap(), &path).unwrap();
    mapped.verify(2).unwrap();
    check_sample(&mapped);
    check_sample(&ContainerWriter::in_memory(key(), write_sample).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "temporary files are gone");
}

#[test]
fn a_plan_within_a_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let plan = std::fs::read(sample_file(folder.path())).unwrap();
    let path = folder.path().join("model");
    let whole = [&[1; 333][..], &plan, &[2; 55]].concat();
    std::fs::write(&path, &whole).unwrap();
    let range = 333..333 + plan.len() as u64;
    let container = Container::open_within(&path, range.clone()).unwrap();
    check_sample(&container);
    assert_eq!(Some(container.content()), content_of(&plan));
    assert_eq!(content_of(&plan[..HEADER - 1]), None);
    for range in
        [range.start..range.end + 1, range.start + 1..range.end, range.start..range.start, 9999..1 << 40]
    {
        assert!(Container::open_within(&path, range.clone()).is_err(), "{range:?}");
    }
    let mut damaged = whole;
    damaged[333 + BODY as usize + 4096 + BLOCK] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let refused = Container::open_within(&path, range).unwrap_err();
    assert!(matches!(refused, ContainerError::Checksum { .. }), "{refused}");
}

#[test]
fn a_failed_build_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = sample_file(folder.path());
    let before = std::fs::read(&path).unwrap();
    let refused = ContainerWriter::publish(&path, key(), |writer| {
        write_sample(writer)?;
        writer.add(SectionSpec::new(SectionKind::Weights, "raw"), &[1])
    });
    assert!(refused.unwrap_err().to_string().contains("there is one already"));
    let odd = SectionSpec { alignment: 48, ..SectionSpec::new(SectionKind::Weights, "w") };
    assert!(ContainerWriter::publish(&path, key(), |w| w.add(odd, &[1])).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Container::open(folder.path()), Err(ContainerError::Io { .. })));
    assert!(matches!(Container::open(&folder.path().join("none")), Err(ContainerError::Io { .. })));
    assert!(matches!(Container::from_bytes(&[]), Err(ContainerError::NotAPlan)));
    assert!(matches!(Container::from_bytes(&[0; 5000]), Err(ContainerError::NotAPlan)));
}

#[test]
fn large_sections_verify_in_place_without_staying_resident() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.plan");
    let length = 20 * BLOCK + 1;
    ContainerWriter::publish(&path, key(), |w| {
        w.fill(SectionSpec::new(SectionKind::Weights, "raw"), length, |out| {
            out.iter_mut().enumerate().for_each(|(i, b)| *b = (i >> 9) as u8);
            Ok::<_, ContainerError>(())
        })
    })
    .unwrap();
    let container = Container::map(&File::open(&path).unwrap(), &path).unwrap();
    container.verify(2).unwrap();
    let bytes = container.bytes(&container.sections()[0]);
    assert!(bytes.iter().enumerate().all(|(i, b)| *b == (i >> 9) as u8));
    let mut damaged = std::fs::read(&path).unwrap();
    let at = damaged.len() - 3 * BLOCK;
    damaged[at] ^= 8;
    std::fs::write(&path, damaged).unwrap();
    let container = Container::map(&File::open(&path).unwrap(), &path).unwrap();
    assert!(matches!(container.verify(2), Err(ContainerError::Checksum { .. })));
}

/// A container whose table is consistent with its hashes, but says what `change` made of it.
fn forged(change: impl FnOnce(&mut Table, &mut u64)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(sample_file(folder.path())).unwrap();
    let header = Header::parse(&bytes, bytes.len() as u64).unwrap();
    let mut table: Table = postcard::from_bytes(&bytes[header.table.clone()]).unwrap();
    let mut offset = header.table.start as u64;
    change(&mut table, &mut offset);
    let table = postcard::to_allocvec(&table).unwrap();
    bytes.truncate(header.table.start);
    bytes[..HEADER].copy_from_slice(&Header::write(offset, &table));
    bytes.extend_from_slice(&table);
    bytes
}

#[test]
fn consistent_lies_are_refused_by_name() {
    let refusal = |change: &dyn Fn(&mut Table, &mut u64)| {
        Container::from_bytes(&forged(|table, offset| change(table, offset))).unwrap_err().to_string()
    };
    check_sample(&Container::from_bytes(&forged(|_, _| ())).unwrap());
    let place = refusal(&|t, _| t.sections[1].offset = u64::MAX - 4095);
    assert!(place.contains("place of section Weights \"raw\""), "{place}");
    assert!(refusal(&|t, _| t.sections[1].length = u64::MAX).contains("place"));
    assert!(refusal(&|t, _| t.sections[0].offset = 0).contains("place"));
    assert!(refusal(&|t, _| t.sections[2].offset = t.sections[1].offset).contains("place"));
    assert!(refusal(&|t, _| t.sections[2].offset += 1).contains("offset"));
    assert!(refusal(&|t, _| t.sections[2].alignment = 0).contains("alignment"));
    assert!(refusal(&|t, _| t.sections[2].alignment = 1 << 31).contains("alignment"));
    assert!(refusal(&|t, _| t.sections[1].blocks.clear()).contains("block list"));
    assert!(refusal(&|t, _| t.sections[1].blocks[2][0] ^= 1).contains("block 2"));
    assert!(refusal(&|t, _| t.sections[0].blocks[0][0] ^= 1).contains("block 0 of section Manifest"));
    assert!(refusal(&|t, _| t.sections[2] = t.sections[1].clone()).contains("Weights"));
    assert!(refusal(&|_, offset| *offset = 1 << 40).contains("file length"));
    assert!(refusal(&|_, offset| *offset -= 64).contains("file length"));
}

#[test]
fn other_versions_and_byte_orders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(sample_file(folder.path())).unwrap();
    bytes[8] = 77;
    assert!(matches!(Container::from_bytes(&bytes), Err(ContainerError::Version { found: 77 })));
    bytes[8] = FORMAT_VERSION as u8;
    bytes[12] = 3 - BYTE_ORDER;
    let hash = blake3::hash(&bytes[..96]);
    bytes[96..128].copy_from_slice(hash.as_bytes());
    assert!(Container::from_bytes(&bytes).unwrap_err().to_string().contains("byte order"));
}

#[test]
fn any_changed_byte_and_any_truncation_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(sample_file(folder.path())).unwrap();
    let ends = (0..200).chain(4090..4200).chain(bytes.len() - 1000..bytes.len());
    for at in ends.chain((0..bytes.len()).step_by(60_013)) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(Container::from_bytes(&damaged).is_err(), "a change at {at} went unnoticed");
        assert!(Container::from_bytes(&bytes[..at]).is_err(), "a truncation to {at} went unnoticed");
    }
    assert!(Container::from_bytes(&[&bytes[..], &[0]].concat()).is_err());
}

#[cfg(unix)]
#[test]
fn files_that_others_may_write_to_are_copied_and_those_checked_alike() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = sample_file(folder.path());
    let bytes = std::fs::read(&path).unwrap();
    for (mode, mapped) in [(0o600, true), (0o644, true), (0o664, false), (0o602, false)] {
        std::fs::write(&path, &bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let container = Container::open(&path).unwrap();
        assert_eq!(container.file_backed, mapped, "{mode:o}");
        check_sample(&container);
        drop(container);
        for at in (0..bytes.len()).step_by(90_017).chain([8, 100, 4095, bytes.len() - 1]) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            std::fs::write(&path, damaged).unwrap();
            assert!(Container::open(&path).is_err(), "{mode:o}: a change at {at} went unnoticed");
        }
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(Container::open(&path).is_err());
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_pass(mut bytes in proptest::collection::vec(any::<u8>(), 0..6000), magic: bool) {
        if magic && bytes.len() >= 12 {
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        }
        prop_assert!(Container::from_bytes(&bytes).is_err());
    }

    #[test]
    fn arbitrary_tables_are_refused_without_harm(table in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = vec![0; BODY as usize];
        bytes[..HEADER].copy_from_slice(&Header::write(BODY, &table));
        bytes.extend_from_slice(&table);
        if let Ok(container) = Container::from_bytes(&bytes) {
            for section in container.sections() {
                prop_assert!(container.bytes(section).len() == section.length());
            }
        }
    }
}

/// Prints the cost of writing and opening 650 MiB; run by hand with `--release --ignored --nocapture`.
#[test]
#[ignore = "measurement"]
fn large_plan_cost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.plan");
    let length = 650 << 20;
    let source: Vec<u8> = (0..length).map(|i| (i >> 3) as u8).collect();
    for round in 0..3 {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let since = std::time::Instant::now();
        let mut writer = ContainerWriter::on_file(file, &path, key());
        match round {
            0 => writer.add(SectionSpec::new(SectionKind::Weights, "raw"), &source).unwrap(),
            _ => writer
                .fill(SectionSpec::new(SectionKind::Weights, "raw"), length, |out| {
                    out.copy_from_slice(&source);
                    Ok::<_, ContainerError>(())
                })
                .unwrap(),
        }
        let written = since.elapsed();
        let file = writer.finish().unwrap();
        let since = std::time::Instant::now();
        let container = Container::map(&file, &path).unwrap();
        let opened = since.elapsed();
        container.verify(2).unwrap();
        println!(
            "{}: {written:?}, open {opened:?}, verify {:?}",
            ["add", "fill", "fill"][round],
            since.elapsed()
        );
    }
}
