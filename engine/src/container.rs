//! The file that a plan is kept in.
//!
//! ```text
//! 0      header, 128 bytes: magic, format version, byte order, file length, place and hash of the table, hash of the header
//! 4096   sections: each at a multiple of its alignment, gaps are zero
//! ...    the table: the plan's key, and of each section its kind, name, fingerprint, place and block hashes
//! ```
//!
//! Data only. The table is covered by a strong hash in the header and itself holds one for every block of every
//! section, so that a reader trusts nothing that it has not checked: a damaged, truncated or foreign file is an error
//! that names what is wrong with it. Sections are written once, in place, and read without a copy.

mod writer;

pub use writer::{ContainerWriter, SectionSpec};

use crate::fingerprint::{BLOCK, Fingerprint, for_each_parallel, hashing_threads};
use crate::lock;
use crate::mmap::{Mapped, MappedSlice};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The version of the format that this library writes, and the only one that it reads: plans are rebuilt, not converted.
pub const FORMAT_VERSION: u32 = 1;

pub const MAGIC: [u8; 8] = *b"\x89EGPLAN\n";
/// The length of the header in bytes.
pub const HEADER: usize = 128;
/// Where the first section may begin.
const BODY: u64 = 4096;
/// The strictest alignment that a section may ask for.
const MAX_ALIGNMENT: u32 = 1 << 16;
/// Tables describe sections, they do not hold them: a longer one is damage.
const MAX_TABLE: u64 = 1 << 26;
#[cfg(target_endian = "little")]
const BYTE_ORDER: u8 = 1;
#[cfg(target_endian = "big")]
const BYTE_ORDER: u8 = 2;

/// Why a container cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("cannot {operation} {path}: {source}")]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("not a plan: the file does not begin with a plan's header")]
    NotAPlan,
    #[error("plan format {found} is not {FORMAT_VERSION}, which this version of Engraft reads")]
    Version { found: u32 },
    #[error("the plan's {field} is invalid: {reason}")]
    Invalid { field: String, reason: String },
    #[error("the plan is damaged: {part} does not match its checksum")]
    Checksum { part: String },
    #[error("section {name} cannot be written: {reason}")]
    Section { name: String, reason: String },
}

impl ContainerError {
    fn invalid(field: impl Into<String>, reason: impl Into<String>) -> ContainerError {
        ContainerError::Invalid { field: field.into(), reason: reason.into() }
    }
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SectionKind {
    /// The serialized plan: network, tactics and what else is small. Checked at every open.
    Manifest,
    /// Weights as the network has them, for every device.
    Weights,
    /// What one kind of device wants: packed weights, tactics.
    Device,
}

/// Named texts, in the order in which they were given.
pub type Fields = Vec<(String, String)>;

/// The table's entry of one section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    pub kind: SectionKind,
    /// Unique among the sections of its kind.
    pub name: String,
    /// Under which conditions the section is of use, for instance the device and CPU features that it was packed for.
    pub fingerprint: Fields,
    offset: u64,
    length: u64,
    alignment: u32,
    blocks: Vec<[u8; 16]>,
}

impl Section {
    /// The section's length in bytes.
    pub fn length(&self) -> usize {
        self.length as usize
    }

    fn range(&self) -> Range<usize> {
        self.offset as usize..(self.offset + self.length) as usize
    }

    fn label(&self) -> String {
        format!("section {:?} {:?}", self.kind, self.name)
    }

    fn damaged(&self, block: usize) -> ContainerError {
        ContainerError::Checksum { part: format!("block {block} of {}", self.label()) }
    }
}

#[derive(Serialize, Deserialize)]
struct Table {
    key: Fields,
    sections: Vec<Section>,
}

/// A plan file that was opened and checked. Cheap to clone slices out of; they keep the memory alive.
#[derive(Debug)]
pub struct Container {
    bytes: Mapped,
    /// Whether `bytes` is a mapping of a file, whose pages may be given back and read again.
    file_backed: bool,
    key: Fields,
    sections: Vec<Section>,
}

impl Container {
    /// Opens a plan from anywhere and checks all of it. One that others than this user (and the superuser) may write to is
    /// copied into memory first, so that they cannot change it any more; a file of the user's own is mapped, and must not be
    /// changed in place while it is in use.
    pub fn open(path: &Path) -> Result<Container, ContainerError> {
        let io = |operation| move |source| ContainerError::Io { operation, path: path.to_owned(), source };
        let file = File::open(path).map_err(io("open"))?;
        let state = file.metadata().map_err(io("examine"))?;
        if !state.is_file() {
            return Err(io("read")(io::Error::other("it is not a regular file")));
        }
        if lock::only_ours_to_write(&state) {
            let container = Container::map(&file, path)?;
            container.verify(hashing_threads())?;
            return Ok(container);
        }
        Container::copy(&file, 0..state.len(), path)
    }

    /// Like [`Container::open`], of a plan that is `range` of a file: it is copied into memory.
    pub fn open_within(path: &Path, range: Range<u64>) -> Result<Container, ContainerError> {
        let io = |operation| move |source| ContainerError::Io { operation, path: path.to_owned(), source };
        Container::copy(&File::open(path).map_err(io("open"))?, range, path)
    }

    /// Blocks are hashed while they are copied and lie in cache; what is trusted is the copy of the table.
    fn copy(file: &File, range: Range<u64>, path: &Path) -> Result<Container, ContainerError> {
        let io = |operation| move |source| ContainerError::Io { operation, path: path.to_owned(), source };
        let stated = Summary::of(file, range.clone(), path)?;
        let pieces = stated.pieces();
        let (bytes, hashes) = Mapped::copy_hashed(file, range, pieces.iter().map(|(piece, _)| piece.clone()))
            .map_err(io("read"))?;
        let container = Container::parse(bytes, false)?;
        if container.sections != stated.sections {
            return Err(io("read")(io::Error::other("it was changed meanwhile")));
        }
        container.check_gaps()?;
        for (hash, (_, block)) in hashes.iter().zip(&pieces) {
            if let Some((section, block)) = *block
                && half(hash) != container.sections[section].blocks[block]
            {
                return Err(container.sections[section].damaged(block));
            }
        }
        Ok(container)
    }

    /// Like [`Container::open`], of a plan that is in memory.
    pub fn from_bytes(bytes: &[u8]) -> Result<Container, ContainerError> {
        Container::from_reader(bytes.len(), |out| {
            out.copy_from_slice(bytes);
            Ok(())
        })
    }

    /// Like [`Container::from_bytes`], of a plan of `length` bytes that `fill` writes into memory that is zero.
    pub fn from_reader(
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> io::Result<()>,
    ) -> Result<Container, ContainerError> {
        let copy = Mapped::filled(length, fill).map_err(|source| ContainerError::Io {
            operation: "read",
            path: PathBuf::from("(memory)"),
            source,
        })?;
        let container = Container::parse(copy, false)?;
        container.verify(hashing_threads())?;
        Ok(container)
    }

    /// Maps a plan that nobody but this library can change, and checks its header, table and manifests. The caller
    /// knows by other means that the rest is undamaged, or calls [`Container::verify`].
    pub(crate) fn map(file: &File, path: &Path) -> Result<Container, ContainerError> {
        let io = |operation| move |source| ContainerError::Io { operation, path: path.to_owned(), source };
        Container::parse(Mapped::map(file).map_err(io("map"))?, true)
    }

    /// The key that the plan was built for.
    pub fn key(&self) -> &[(String, String)] {
        &self.key
    }

    /// The hash of the header, which covers that of the table and so everything: equal plans, and only those, have it in common.
    pub fn content(&self) -> Fingerprint {
        // It was checked when the header was.
        content_of(&self.bytes).expect("a container has a header")
    }

    /// All sections, in file order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The section of that kind and name.
    pub fn section(&self, kind: SectionKind, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.kind == kind && s.name == name)
    }

    /// The bytes of one of this container's sections, at the alignment that it was written with.
    ///
    /// # Panics
    /// If the section is of another, longer container.
    pub fn bytes(&self, section: &Section) -> MappedSlice {
        self.bytes.slice(section.range()).expect("the section belongs to this container")
    }

    /// The whole plan: what [`Container::from_bytes`] takes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The length of the whole file.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Compares every byte with its checksum, on up to `threads` threads. Pages of large sections, and of all weights that
    /// were packed elsewhere, are given back meanwhile, so that checking a plan does not make it resident.
    pub fn verify(&self, threads: usize) -> Result<(), ContainerError> {
        self.check_gaps()?;
        let rest = self.sections.iter().filter(|section| section.kind != SectionKind::Manifest);
        rest.into_iter().try_for_each(|section| self.verify_section(section, threads))
    }

    /// Checks that nothing stands between sections.
    fn check_gaps(&self) -> Result<(), ContainerError> {
        let mut covered = HEADER;
        for section in &self.sections {
            let range = section.range();
            self.check_zero(covered..range.start)?;
            covered = range.end;
        }
        Ok(())
    }

    fn verify_section(&self, section: &Section, threads: usize) -> Result<(), ContainerError> {
        let range = section.range();
        // Few of the raw weights are ever read: kernels read the packed ones.
        let least_given_back = if section.kind == SectionKind::Weights { 0 } else { 16 * BLOCK };
        let give_back =
            self.file_backed && section.length() > least_given_back && section.offset.is_multiple_of(BODY);
        let mut good = vec![false; section.blocks.len()];
        for_each_parallel(&mut good, threads, |i, good| {
            let start = range.start + i * BLOCK;
            let block = start..(start + BLOCK).min(range.end);
            if give_back {
                self.bytes.populate(block.clone());
            }
            *good = block_hash(&self.bytes[block.clone()]) == section.blocks[i];
            if give_back {
                self.bytes.release(block);
            }
        });
        match good.iter().position(|good| !good) {
            None => Ok(()),
            Some(block) => Err(section.damaged(block)),
        }
    }

    fn check_zero(&self, gap: Range<usize>) -> Result<(), ContainerError> {
        match self.bytes[gap].iter().all(|b| *b == 0) {
            true => Ok(()),
            false => Err(ContainerError::Checksum { part: "the space between sections".into() }),
        }
    }

    fn parse(bytes: Mapped, file_backed: bool) -> Result<Container, ContainerError> {
        let header = Header::parse(&bytes, bytes.len() as u64)?;
        let table = header.table(&bytes[header.table.clone()])?;
        let container = Container { bytes, file_backed, key: table.key, sections: table.sections };
        let end = container.sections.last().map_or(BODY as usize, |section| section.range().end);
        container.check_zero(end..header.table.start)?;
        for section in container.sections.iter().filter(|s| s.kind == SectionKind::Manifest) {
            container.verify_section(section, 1)?;
        }
        Ok(container)
    }
}

/// What a plan that begins with these bytes states as its [`Container::content`]; nothing is checked. `None`: they are too few.
pub fn content_of(start: &[u8]) -> Option<Fingerprint> {
    start.get(..HEADER)?.last_chunk().map(|hash| Fingerprint(*hash))
}

/// What a plan file says about itself, read without its sections.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The key that the plan was built for.
    pub key: Fields,
    pub sections: Vec<Section>,
}

impl Summary {
    /// Reads header and table of a plan file.
    pub fn read(path: &Path) -> Result<Summary, ContainerError> {
        let io = |operation| move |source| ContainerError::Io { operation, path: path.to_owned(), source };
        let file = File::open(path).map_err(io("open"))?;
        let length = file.metadata().map_err(io("examine"))?.len();
        Summary::of(&file, 0..length, path)
    }

    /// Of the plan that is `range` of the file.
    fn of(mut file: &File, range: Range<u64>, path: &Path) -> Result<Summary, ContainerError> {
        let io = |operation| move |source| ContainerError::Io { operation, path: path.to_owned(), source };
        let length = range.end.saturating_sub(range.start);
        let mut start = Vec::with_capacity(HEADER);
        file.seek(SeekFrom::Start(range.start)).map_err(io("read"))?;
        file.by_ref().take(length.min(HEADER as u64)).read_to_end(&mut start).map_err(io("read"))?;
        let header = Header::parse(&start, length)?;
        let mut table = vec![0; header.table.len()];
        file.seek(SeekFrom::Start(range.start + header.table.start as u64)).map_err(io("read"))?;
        file.read_exact(&mut table).map_err(io("read"))?;
        let table = header.table(&table)?;
        Ok(Summary { key: table.key, sections: table.sections })
    }

    /// The file up to its table in pieces of at most a block: those of sections, with their number and that of the block, and
    /// what lies between them.
    fn pieces(&self) -> Vec<(Range<usize>, Option<(usize, usize)>)> {
        let mut pieces = Vec::new();
        let mut covered = 0;
        for (number, section) in self.sections.iter().enumerate() {
            let range = section.range();
            pieces.push((covered..range.start, None));
            for (block, start) in range.clone().step_by(BLOCK).enumerate() {
                pieces.push((start..(start + BLOCK).min(range.end), Some((number, block))));
            }
            covered = range.end;
        }
        pieces
    }
}

/// Checks the table's entry of a section that must lie within `floor..ceiling`; returns where it ends.
fn check_section(section: &Section, floor: u64, ceiling: u64) -> Result<u64, ContainerError> {
    let wrong = |what: &str, reason: String| {
        Err(ContainerError::invalid(format!("{what} of {}", section.label()), reason))
    };
    if !section.alignment.is_power_of_two() || section.alignment > MAX_ALIGNMENT {
        return wrong("alignment", format!("{} is no power of two up to {MAX_ALIGNMENT}", section.alignment));
    }
    if !section.offset.is_multiple_of(u64::from(section.alignment)) {
        return wrong("offset", format!("{} is no multiple of {}", section.offset, section.alignment));
    }
    let end = section.offset.checked_add(section.length);
    let Some(end) = end.filter(|end| section.offset >= floor && *end <= ceiling) else {
        return wrong(
            "place",
            format!("{} bytes at {} are not within {floor}..{ceiling}", section.length, section.offset),
        );
    };
    let blocks = section.length.div_ceil(BLOCK as u64);
    if section.blocks.len() as u64 != blocks {
        return wrong("block list", format!("{} hashes for {blocks} blocks", section.blocks.len()));
    }
    Ok(end)
}

/// The checksum of one block: the first half of its BLAKE3 hash.
fn block_hash(bytes: &[u8]) -> [u8; 16] {
    half(&blake3::hash(bytes))
}

fn half(hash: &blake3::Hash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}

/// What the header says, checked against the file.
struct Header {
    table: Range<usize>,
    table_hash: blake3::Hash,
}

impl Header {
    /// Reads the header of a file of `file_length` bytes that begins with `start`.
    fn parse(start: &[u8], file_length: u64) -> Result<Header, ContainerError> {
        let Some((header, _)) = start.split_first_chunk::<HEADER>() else {
            return Err(ContainerError::NotAPlan);
        };
        if header[..8] != MAGIC {
            return Err(ContainerError::NotAPlan);
        }
        let version = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
        if version != FORMAT_VERSION {
            return Err(ContainerError::Version { found: version });
        }
        if blake3::hash(&header[..96]).as_bytes() != &header[96..] {
            return Err(ContainerError::Checksum { part: "the header".into() });
        }
        if header[12] != BYTE_ORDER {
            return Err(ContainerError::invalid(
                "byte order",
                "it was written by a machine of the other byte order",
            ));
        }
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let (length, start, table) = (word(16), word(24), word(32));
        if length != file_length {
            return Err(ContainerError::invalid(
                "file length",
                format!("{length} bytes, but the file has {file_length}"),
            ));
        }
        if start < BODY || table > MAX_TABLE || start.checked_add(table) != Some(length) {
            return Err(ContainerError::invalid(
                "table place",
                format!("{table} bytes at {start} of {length}"),
            ));
        }
        let hash: [u8; 32] = header[40..72].try_into().expect("32 bytes");
        Ok(Header { table: start as usize..length as usize, table_hash: blake3::Hash::from_bytes(hash) })
    }

    /// Decodes the table, checking its hash and every section's place.
    fn table(&self, bytes: &[u8]) -> Result<Table, ContainerError> {
        if blake3::hash(bytes) != self.table_hash {
            return Err(ContainerError::Checksum { part: "the section table".into() });
        }
        let (table, rest): (Table, _) = postcard::take_from_bytes(bytes)
            .map_err(|e| ContainerError::invalid("section table", e.to_string()))?;
        if !rest.is_empty() {
            return Err(ContainerError::invalid("section table", "it is followed by other data"));
        }
        let mut end = BODY;
        for (i, section) in table.sections.iter().enumerate() {
            end = check_section(section, end, self.table.start as u64)?;
            if table.sections[..i].iter().any(|s| s.kind == section.kind && s.name == section.name) {
                return Err(ContainerError::invalid(section.label(), "there are two of it"));
            }
        }
        Ok(table)
    }

    fn write(table_offset: u64, table: &[u8]) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        header[12] = BYTE_ORDER;
        header[16..24].copy_from_slice(&(table_offset + table.len() as u64).to_le_bytes());
        header[24..32].copy_from_slice(&table_offset.to_le_bytes());
        header[32..40].copy_from_slice(&(table.len() as u64).to_le_bytes());
        header[40..72].copy_from_slice(blake3::hash(table).as_bytes());
        let hash = blake3::hash(&header[..96]);
        header[96..].copy_from_slice(hash.as_bytes());
        header
    }
}

#[cfg(test)]
mod tests;
