//! Files as memory: the engine's only contact with `mmap`.

use crate::fingerprint::{BLOCK, for_each_parallel, hashing_threads};
use memmap2::{Advice, Mmap, MmapMut, MmapOptions, UncheckedAdvice};
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// Memory of at least so many bytes asks for huge pages.
#[cfg(target_os = "linux")]
const HUGE: usize = 4 << 20;

/// Immutable bytes that begin at a page boundary and are shared by cloning.
///
/// Either a private read-only mapping of a file or a copy of one. A mapped file must not be truncated or written to
/// while mapped: Engraft replaces and unlinks its cache files, and never changes one in place. Files for which nobody
/// can promise that are [copied](Mapped::copy).
#[derive(Clone)]
pub struct Mapped(Arc<Mmap>);

impl Mapped {
    /// Maps the whole file without reading it.
    ///
    /// The caller promises what the type says about files; breaking that promise can end in `SIGBUS` or in bytes that change.
    pub(crate) fn map(file: &File) -> io::Result<Mapped> {
        // SAFETY: the mapping is private and read-only, and only files of a folder that none but this user can write
        // to, whose files this library never changes once published, are mapped (the promise above).
        let map = unsafe { MmapOptions::new().map_copy_read_only(file)? };
        Ok(Mapped(Arc::new(map)))
    }

    /// Reads the whole file into anonymous memory, on several threads. Fails if the file shrinks meanwhile.
    pub fn copy(file: &File) -> io::Result<Mapped> {
        let length = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        Mapped::filled(length, |memory| read_all(file, memory))
    }

    /// [`Mapped::copy`] of `range` of the file, and the hashes of pieces of it. The pieces follow each other from its start on.
    pub(crate) fn copy_hashed(
        file: &File,
        range: Range<u64>,
        pieces: impl IntoIterator<Item = Range<usize>>,
    ) -> io::Result<(Mapped, Vec<blake3::Hash>)> {
        let length = usize::try_from(range.end.saturating_sub(range.start))
            .map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut hashes = Vec::new();
        let mapped = Mapped::filled(length, |mut memory| {
            let (mut parts, mut covered) = (Vec::new(), 0);
            for piece in pieces {
                if piece.start != covered || piece.len() > memory.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let (part, rest) = memory.split_at_mut(piece.len());
                parts.push((piece.start, part, Ok(blake3::Hash::from_bytes([0; 32]))));
                (memory, covered) = (rest, piece.end);
            }
            for_each_parallel(&mut parts, hashing_threads(), |_, (at, part, hash)| {
                *hash = read_hashed(file, part, range.start + *at as u64);
            });
            read_at(file, memory, range.start + covered as u64)?;
            hashes = parts.into_iter().map(|(_, _, hash)| hash).collect::<io::Result<_>>()?;
            Ok(())
        })?;
        Ok((mapped, hashes))
    }

    /// Page-aligned memory of `length` bytes, zero at first, that `fill` writes.
    pub fn filled(length: usize, fill: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Mapped> {
        let mut memory = MmapMut::map_anon(length)?;
        // Fewer faults while it is written, fewer misses of the translation cache while it is read. A hint: errors do not matter.
        #[cfg(target_os = "linux")]
        if length >= HUGE {
            let _ = memory.advise(Advice::HugePage);
        }
        fill(&mut memory)?;
        Ok(Mapped(Arc::new(memory.make_read_only()?)))
    }

    /// The bytes of `range`, keeping the whole mapping alive; `None` when the range is not within it.
    pub fn slice(&self, range: Range<usize>) -> Option<MappedSlice> {
        self.0.get(range.clone()).map(|_| MappedSlice { owner: self.clone(), range })
    }

    /// Asks the system to have the pages of `range` ready. A hint: errors do not matter.
    pub(crate) fn populate(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if self.0.advise_range(Advice::PopulateRead, range.start, range.len()).is_err() {
            let _ = self.0.advise_range(Advice::WillNeed, range.start, range.len());
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (Advice::WillNeed, range);
    }

    /// Takes the pages of `range`, which starts at a page boundary, out of this process's resident set. They stay in
    /// the page cache and come back on the next access. Only for mappings of files: a copy would lose its content.
    pub(crate) fn release(&self, range: Range<usize>) {
        // SAFETY: the mapping is a private mapping of a file that was never written through, so that dropped pages
        // are read from the file again with the same content. A hint: errors do not matter.
        let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapped({} bytes)", self.len())
    }
}

/// Fills `memory` with the file's content from its start.
fn read_all(file: &File, memory: &mut [u8]) -> io::Result<()> {
    let mut parts: Vec<_> = memory.chunks_mut(BLOCK).map(|part| (part, Ok(()))).collect();
    for_each_parallel(&mut parts, hashing_threads(), |i, (part, done)| {
        *done = read_at(file, part, (i * BLOCK) as u64);
    });
    parts.into_iter().try_for_each(|(_, done)| done)
}

/// Fills `memory` with the file's content from `at` on, in steps that are hashed before they leave the cache.
fn read_hashed(file: &File, memory: &mut [u8], at: u64) -> io::Result<blake3::Hash> {
    /// A part of a second-level cache.
    const STEP: usize = 128 << 10;
    let mut hasher = blake3::Hasher::new();
    for (i, step) in memory.chunks_mut(STEP).enumerate() {
        read_at(file, step, at + (i * STEP) as u64)?;
        hasher.update(step);
    }
    Ok(hasher.finalize())
}

/// Fills `memory` with the file's content from `at` on.
#[cfg(unix)]
fn read_at(file: &File, memory: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, memory, at)
}

/// Fills `memory` with the file's content from `at` on.
#[cfg(not(unix))]
fn read_at(mut file: &File, memory: &mut [u8], at: u64) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    // The position is the file's, whoever reads.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock();
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(memory)
}

/// Some bytes of a [`Mapped`], which they keep alive.
#[derive(Clone)]
pub struct MappedSlice {
    owner: Mapped,
    range: Range<usize>,
}

impl MappedSlice {
    /// The part of these bytes that `range` names; `None` when it is not within them.
    pub fn slice(&self, range: Range<usize>) -> Option<MappedSlice> {
        self.get(range.clone())?;
        let range = self.range.start + range.start..self.range.start + range.end;
        Some(MappedSlice { owner: self.owner.clone(), range })
    }
}

impl Deref for MappedSlice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.owner[self.range.clone()]
    }
}

impl AsRef<[u8]> for MappedSlice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for MappedSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MappedSlice({:?})", self.range)
    }
}

/// Reserves `range` of the file on its medium and lets `write` fill it as memory. The file is extended as needed.
///
/// `Ok(None)` when the file system cannot reserve space: without that a full disk would end in `SIGBUS`. `range`
/// starts at a page boundary; the file is one that only this process can see or write to.
pub(crate) fn fill<R>(
    file: &File,
    range: Range<u64>,
    write: impl FnOnce(&mut [u8]) -> R,
) -> io::Result<Option<R>> {
    let length = usize::try_from(range.end - range.start).map_err(|_| io::ErrorKind::FileTooLarge)?;
    if length == 0 {
        return Ok(Some(write(&mut [])));
    }
    if !reserve(file, range.start, length as u64)? {
        return Ok(None);
    }
    // SAFETY: the space exists and is reserved, and nobody else knows the file yet.
    let mut memory = unsafe { MmapOptions::new().offset(range.start).len(length).map_mut(file)? };
    Ok(Some(write(&mut memory)))
}

/// Reserves space on the medium; false when the file system has no such operation.
#[cfg(target_os = "linux")]
fn reserve(file: &File, offset: u64, length: u64) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) else {
        return Err(io::ErrorKind::FileTooLarge.into());
    };
    loop {
        // SAFETY: the descriptor is open for as long as `file` is borrowed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, offset, length) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => continue,
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV) => return Ok(false),
            _ => return Err(error),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _offset: u64, _length: u64) -> io::Result<bool> {
    Ok(false)
}

/// A file without a name, gone when its last handle and mapping are.
pub(crate) fn anonymous_file() -> io::Result<File> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::{FromRawFd, OwnedFd};
        // SAFETY: the name is a C string; the kernel copies it.
        let fd = unsafe { libc::memfd_create(c"engraft-plan".as_ptr(), libc::MFD_CLOEXEC) };
        if fd >= 0 {
            // SAFETY: a descriptor that was just opened and has no other owner.
            return Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    tempfile::tempfile()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_filled_file_maps_and_copies_to_what_was_written() {
        for file in [anonymous_file().unwrap(), tempfile::tempfile().unwrap()] {
            let mut head: &File = &file;
            head.write_all(&[7; 4096]).unwrap();
            let pattern: Vec<u8> = (0..20_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
            let filled =
                fill(&file, 4096..4096 + pattern.len() as u64, |out| out.copy_from_slice(&pattern)).unwrap();
            if filled.is_none() {
                continue;
            }
            for mapped in [Mapped::map(&file).unwrap(), Mapped::copy(&file).unwrap()] {
                assert_eq!(mapped.len(), 4096 + pattern.len());
                assert!(mapped[..4096].iter().all(|b| *b == 7));
                let slice = mapped.slice(4096..mapped.len()).unwrap();
                drop(mapped);
                assert_eq!(&slice[..], &pattern[..]);
                assert_eq!(&slice.slice(10..20).unwrap()[..], &pattern[10..20]);
                assert!(slice.slice(10..20_001).is_none());
            }
        }
    }

    #[test]
    fn released_pages_come_back() {
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(&[3; 40_000]).unwrap();
        let mapped = Mapped::map(&file).unwrap();
        mapped.populate(0..40_000);
        mapped.release(0..40_000);
        assert!(mapped.iter().all(|b| *b == 3));
    }

    #[test]
    fn ranges_outside_are_refused() {
        let mapped = Mapped::filled(3, |out| {
            out.copy_from_slice(&[1, 2, 3]);
            Ok(())
        })
        .unwrap();
        assert!(mapped.slice(1..4).is_none());
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = 3..1;
        assert!(mapped.slice(reversed).is_none());
        assert_eq!(&mapped.slice(1..3).unwrap()[..], &[2, 3]);
    }
}
