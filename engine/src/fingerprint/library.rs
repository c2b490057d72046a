//! The content of the library or executable that holds this code.

use super::Fingerprint;
use std::sync::OnceLock;

/// The hash of the code and constants of the running library: two libraries that could behave differently differ in
/// it, whatever versions they claim.
///
/// On Linux it is taken of the loaded image (every segment that nobody may write to, among them the code, the constants,
/// the relocations and the linker's build id), so that a file replaced on disk while this process runs cannot pass for
/// the code that runs. Elsewhere it is taken of the executable's file. Computed once per process.
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
    }

    /// The hash of the unwritable segments of the image that contains `address`, which must be code of this library.
    pub fn hash_of_image_with(address: usize) -> Option<Fingerprint> {
        let mut search = Search { address, segments: Vec::new() };
        // SAFETY: `visit` gets `search` back as its data pointer, for the duration of this call.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        (!search.segments.is_empty()).then(|| Fingerprint::of_parts(search.segments, hashing_threads()))
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
        1
    }
}

#[cfg(not(target_os = "linux"))]
mod image {
    pub fn hash_of_image_with(_address: usize) -> Option<super::Fingerprint> {
        None
    }
}
