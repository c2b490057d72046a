//! The content of the library or executable that holds this code.

use super::Fingerprint;
use std::sync::OnceLock;

/// The hash of the code and constants of the running library: two libraries that could behave differently differ in
/// it, whatever versions they claim.
///
/// On Linux it is taken of the loaded image, so that a file replaced on disk while this process runs cannot pass for the code
/// that runs: of the linker's build id, which is such a hash already, or, where the linker wrote none, of every segment that
/// nobody may write to (among them the code, the constants and the relocations). Elsewhere it is taken of the executable's
/// file. Computed once per process.
pub fn library_content() -> Fingerprint {
    static CONTENT: OnceLock<Fingerprint> = OnceLock::new();
    *CONTENT.get_or_init(|| {
        image::hash_of_image_with(library_content as *const () as usize)
            .or_else(hash_of_executable)
            .unwrap_or_else(|| Fingerprint::of(concat!("engraft ", env!("CARGO_PKG_VERSION")).as_bytes()))
    })
}

fn hash_of_executable() -> Option<Fingerprint> {
    let file = std::fs::File::open(std::env::current_exe().ok()?).ok()?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).ok()?;
    Some(Fingerprint(*hasher.finalize().as_bytes()))
}

#[cfg(target_os = "linux")]
mod image {
    use super::Fingerprint;
    use crate::fingerprint::hashing_threads;
    use std::ffi::{c_int, c_void};

    /// What the walk over the loaded images looks for, and finds.
    struct Search {
        address: usize,
        segments: Vec<&'static [u8]>,
        notes: Vec<&'static [u8]>,
    }

    /// A shorter build id is no strong hash.
    const LEAST_BUILD_ID: usize = 16;

    /// The hash of the image that contains `address`, which must be code of this library.
    pub fn hash_of_image_with(address: usize) -> Option<Fingerprint> {
        let mut search = Search { address, segments: Vec::new(), notes: Vec::new() };
        // SAFETY: `visit` gets `search` back as its data pointer, for the duration of this call.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        if let Some(id) = search.notes.iter().find_map(|notes| build_id(notes)) {
            let sizes: Vec<usize> = search.segments.iter().map(|segment| segment.len()).collect();
            return Some(Fingerprint::of_parts([b"build id", id, format!("{sizes:?}").as_bytes()], 1));
        }
        (!search.segments.is_empty()).then(|| Fingerprint::of_parts(search.segments, hashing_threads()))
    }

    /// The linker's build id among ELF notes, if it is long enough.
    pub(super) fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
        const BUILD_ID: u32 = 3;
        let word = |bytes: &[u8], at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        while let (Some(name), Some(content), Some(kind)) = (word(notes, 0), word(notes, 4), word(notes, 8)) {
            let padded = |length: u32| Some((length as usize).checked_add(3)? & !3);
            let start = padded(name)?.checked_add(12)?;
            let id = notes.get(start..start.checked_add(content as usize)?)?;
            if kind == BUILD_ID && notes.get(12..12 + name as usize)? == b"GNU\0" {
                return (id.len() >= LEAST_BUILD_ID).then_some(id);
            }
            notes = notes.get(start.checked_add(padded(content)?)?..)?;
        }
        None
    }

    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
        // SAFETY: the loader passes a valid image description, and the pointer that `hash_of_image_with` gave it.
        let (info, search) = unsafe { (&*info, &mut *data.cast::<Search>()) };
        if info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: the loader's table of that many program headers.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum as usize) };
        let loaded = || headers.iter().filter(|h| h.p_type == libc::PT_LOAD);
        let start = |h: &libc::Elf64_Phdr| (info.dlpi_addr as usize).wrapping_add(h.p_vaddr as usize);
        if !loaded().any(|h| search.address.wrapping_sub(start(h)) < h.p_memsz as usize) {
            return 0;
        }
        for header in loaded().filter(|h| h.p_flags & libc::PF_W == 0 && h.p_flags & libc::PF_R != 0) {
            // SAFETY: a loaded, readable segment of the image that holds the running code: it stays mapped while
            // this code can run, and nothing writes to it.
            search.segments.push(unsafe {
                std::slice::from_raw_parts(start(header) as *const u8, header.p_filesz as usize)
            });
        }
        for header in headers.iter().filter(|h| h.p_type == libc::PT_NOTE && h.p_filesz == h.p_memsz) {
            // SAFETY: notes lie in loaded segments, as above.
            search.notes.push(unsafe {
                std::slice::from_raw_parts(start(header) as *const u8, header.p_filesz as usize)
            });
        }
        1
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::image::build_id;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [name.len() as u32, content.len() as u32, kind] {
            bytes.extend(word.to_ne_bytes());
        }
        for part in [name, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn a_build_id_is_found_among_notes() {
        let id = [7u8; 20];
        let found = note(b"GNU\0", 3, &id);
        assert_eq!(build_id(&found), Some(&id[..]));
        assert_eq!(build_id(&[note(b"stapsdt\0", 3, &[1; 9]), found.clone()].concat()), Some(&id[..]));
        assert_eq!(build_id(&note(b"GNU\0", 3, &[7; 8])), None);
        assert_eq!(build_id(&note(b"GNU\0", 1, &id)), None);
        for length in 0..found.len() {
            assert_eq!(build_id(&found[..length]), None, "{length}");
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod image {
    pub fn hash_of_image_with(_address: usize) -> Option<super::Fingerprint> {
        None
    }
}
