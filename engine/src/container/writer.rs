//! Writing a container: section after section, then the table, then the header that makes it valid.

use super::{
    BODY, Container, ContainerError, Fields, Header, MAX_ALIGNMENT, Section, SectionKind, Table, block_hash,
};
use crate::fingerprint::{BLOCK, for_each_parallel, hashing_threads};
use crate::mmap;
use std::cell::Cell;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What is known of a section before its bytes are.
#[derive(Clone, Debug)]
pub struct SectionSpec<'a> {
    pub kind: SectionKind,
    pub name: &'a str,
    /// See [`Section::fingerprint`].
    pub fingerprint: Fields,
    /// A power of two up to 65,536; at least 64 is used.
    pub alignment: u32,
}

impl<'a> SectionSpec<'a> {
    /// A section with no fingerprint, aligned as its kind wants it: 64 bytes, weights to a page.
    pub fn new(kind: SectionKind, name: &'a str) -> SectionSpec<'a> {
        let alignment = if kind == SectionKind::Manifest { 64 } else { 4096 };
        SectionSpec { kind, name, fingerprint: Fields::new(), alignment }
    }

    /// The same with this fingerprint.
    pub fn fingerprint(mut self, fields: Fields) -> SectionSpec<'a> {
        self.fingerprint = fields;
        self
    }
}

/// A container in the making. Until it is finished the file has no header and nobody takes it for a plan.
#[derive(Debug)]
pub struct ContainerWriter {
    file: File,
    path: PathBuf,
    position: u64,
    key: Fields,
    sections: Vec<Section>,
    failed: Cell<bool>,
}

impl ContainerWriter {
    /// Starts a plan in a new, empty file that nobody else writes to; `path` is for messages.
    pub(crate) fn on_file(file: File, path: &Path, key: Fields) -> ContainerWriter {
        ContainerWriter {
            file,
            path: path.to_owned(),
            position: BODY,
            key,
            sections: Vec::new(),
            failed: Cell::new(false),
        }
    }

    /// Builds a plan in a file without a name: for users without a cache, or with one that cannot be written to.
    pub fn in_memory<E: From<ContainerError>>(
        key: Fields,
        build: impl FnOnce(&mut ContainerWriter) -> Result<(), E>,
    ) -> Result<Container, E> {
        let path = PathBuf::from("(memory)");
        let io = |source| ContainerError::Io { operation: "create", path: path.clone(), source };
        let mut writer = ContainerWriter::on_file(mmap::anonymous_file().map_err(io)?, &path, key);
        build(&mut writer)?;
        let file = writer.finish()?;
        Ok(Container::map(&file, &path)?)
    }

    /// Builds a plan at `path`, which exists, complete and on its medium, when this returns `Ok`, and is as it was
    /// before when this returns an error or the process dies.
    pub fn publish<E: From<ContainerError>>(
        path: &Path,
        key: Fields,
        build: impl FnOnce(&mut ContainerWriter) -> Result<(), E>,
    ) -> Result<(), E> {
        let io = |operation| move |source| ContainerError::Io { operation, path: path.to_owned(), source };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".engraft-").suffix(".tmp");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let (file, temporary) = builder.tempfile_in(folder).map_err(io("create a file beside"))?.into_parts();
        let mut writer = ContainerWriter::on_file(file, path, key);
        build(&mut writer)?;
        let file = writer.finish()?;
        file.sync_all().map_err(io("write"))?;
        temporary.persist(path).map_err(|e| io("create")(e.error))?;
        if let Ok(folder) = File::open(folder) {
            // Makes the name durable too; file systems that cannot do that are no worse than without.
            let _ = folder.sync_all();
        }
        Ok(())
    }

    /// Adds a section with these bytes.
    pub fn add(&mut self, spec: SectionSpec, bytes: &[u8]) -> Result<(), ContainerError> {
        if bytes.len() > BLOCK {
            // Through memory: system calls that write this much are several times slower.
            return self.fill(spec, bytes.len(), |out| {
                out.copy_from_slice(bytes);
                Ok(())
            });
        }
        self.begin(&spec)?;
        self.write_at(self.position, bytes)?;
        self.record(spec, hash_all(bytes), bytes.len() as u64);
        Ok(())
    }

    /// Adds a section of `length` bytes, zero at first, which `write` fills in place: in the page cache where the
    /// system can do that, so that large sections exist only once.
    pub fn fill<E: From<ContainerError>>(
        &mut self,
        spec: SectionSpec,
        length: usize,
        write: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.begin(&spec)?;
        let range = self.position..self.position + length as u64;
        let mut write = Some(write);
        let mut fill = |out: &mut [u8]| match write.take() {
            Some(write) => write(out).map(|()| hash_all(out)),
            None => Ok(Vec::new()),
        };
        let paged = self.position.is_multiple_of(BODY);
        let in_place =
            if paged { mmap::fill(&self.file, range, &mut fill).map_err(self.io("write"))? } else { None };
        let blocks = match in_place {
            Some(blocks) => blocks?,
            None => {
                let mut bytes = vec![0; length];
                let blocks = fill(&mut bytes)?;
                self.write_at(self.position, &bytes)?;
                blocks
            }
        };
        self.record(spec, blocks, length as u64);
        Ok(())
    }

    /// Checks the description of the next section and moves to where it starts.
    fn begin(&mut self, spec: &SectionSpec) -> Result<(), ContainerError> {
        let refuse =
            |reason: &str| ContainerError::Section { name: spec.name.to_owned(), reason: reason.to_owned() };
        if !spec.alignment.is_power_of_two() || spec.alignment > MAX_ALIGNMENT {
            return Err(refuse("its alignment is no power of two up to 65,536"));
        }
        if self.sections.iter().any(|s| s.kind == spec.kind && s.name == spec.name) {
            return Err(refuse("there is one already"));
        }
        self.position = self.position.next_multiple_of(u64::from(spec.alignment.max(64)));
        Ok(())
    }

    fn record(&mut self, spec: SectionSpec, blocks: Vec<[u8; 16]>, length: u64) {
        self.sections.push(Section {
            kind: spec.kind,
            name: spec.name.to_owned(),
            fingerprint: spec.fingerprint,
            offset: self.position,
            length,
            alignment: spec.alignment.max(64),
            blocks,
        });
        self.position += length;
    }

    /// Writes table and header. The file is complete, but neither flushed to its medium nor under its final name.
    pub(crate) fn finish(mut self) -> Result<File, ContainerError> {
        let table_offset = self.position.next_multiple_of(64);
        let table =
            Table { key: std::mem::take(&mut self.key), sections: std::mem::take(&mut self.sections) };
        let table = postcard::to_allocvec(&table)
            .map_err(|e| ContainerError::invalid("section table", e.to_string()))?;
        let header = Header::write(table_offset, &table);
        for (offset, bytes) in [(table_offset, &table[..]), (0, &header[..])] {
            self.write_at(offset, bytes)?;
        }
        self.file.set_len(table_offset + table.len() as u64).map_err(self.io("write"))?;
        Ok(self.file)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), ContainerError> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes)).map_err(self.io("write"))
    }

    /// Whether the file refused to be written: the medium is full, for instance.
    pub(crate) fn failed(&self) -> bool {
        self.failed.get()
    }

    fn io(&self, operation: &'static str) -> impl Fn(std::io::Error) -> ContainerError + '_ {
        move |source| {
            self.failed.set(true);
            ContainerError::Io { operation, path: self.path.clone(), source }
        }
    }
}

fn hash_all(bytes: &[u8]) -> Vec<[u8; 16]> {
    let mut blocks = vec![[0; 16]; bytes.len().div_ceil(BLOCK)];
    for_each_parallel(&mut blocks, hashing_threads(), |i, hash| {
        *hash = block_hash(&bytes[i * BLOCK..bytes.len().min((i + 1) * BLOCK)]);
    });
    blocks
}
