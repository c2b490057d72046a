//! Memory that contexts own: 64-byte aligned, grown when a larger shape arrives, never shrunk while in use.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Where huge pages help, ask for them from this size on.
const HUGE: usize = 4 << 20;

/// An uninitialised, 64-byte aligned buffer.
#[derive(Debug)]
pub(crate) struct Buffer {
    ptr: NonNull<u8>,
    layout: Option<Layout>,
}

// SAFETY: the buffer owns its memory; access goes through raw pointers whose users coordinate themselves.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) const fn empty() -> Buffer {
        Buffer { ptr: NonNull::<u8>::dangling(), layout: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.layout.map_or(0, |l| l.size())
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Makes room for `bytes`; the content is lost when the buffer grows. It grows by a quarter at least, so that shapes that rise
    /// step by step do not cost an allocation each.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        if bytes <= self.len() {
            return;
        }
        let bytes = bytes.max(self.len() + self.len() / 4);
        *self = Buffer::empty();
        let align = if bytes >= HUGE { 2 << 20 } else { 64 };
        let Ok(layout) = Layout::from_size_align(bytes.next_multiple_of(64), align) else {
            handle_alloc_error(Layout::new::<[u8; 64]>())
        };
        // SAFETY: the layout's size is not zero.
        let Some(ptr) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            // SAFETY: the range is this allocation's; advice changes nothing but the size of its pages.
            unsafe { libc::madvise(ptr.as_ptr().cast(), layout.size(), libc::MADV_HUGEPAGE) };
        }
        *self = Buffer { ptr, layout: Some(layout) };
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(layout) = self.layout {
            // SAFETY: allocated in `reserve` with this layout.
            unsafe { dealloc(self.ptr.as_ptr(), layout) };
        }
    }
}
