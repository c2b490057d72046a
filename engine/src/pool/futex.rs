//! Sleeping on a word until somebody changes it.

use std::sync::atomic::AtomicU32;

/// The group in which the pool's workers sleep.
pub(super) const WORKERS: u32 = 1;
/// The group in which the caller of a region sleeps.
pub(super) const CALLER: u32 = 2;

/// Sleeps until a wake of this group, unless `word` no longer holds `expected`. May return for no reason.
#[cfg(target_os = "linux")]
pub(super) fn wait(word: &AtomicU32, expected: u32, group: u32) {
    // SAFETY: the kernel reads the word, which outlives the call; no timeout and no second word are passed.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
            expected,
            std::ptr::null::<libc::timespec>(),
            std::ptr::null::<u32>(),
            group,
        );
    }
}

/// Wakes up to `count` sleepers of the group.
#[cfg(target_os = "linux")]
pub(super) fn wake(word: &AtomicU32, count: u32, group: u32) {
    let count = count.min(i32::MAX as u32);
    // SAFETY: waking does not touch the word's memory.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG,
            count,
            std::ptr::null::<libc::timespec>(),
            std::ptr::null::<u32>(),
            group,
        );
    }
}

/// Sleeps for a moment: systems without a futex poll.
#[cfg(not(target_os = "linux"))]
pub(super) fn wait(word: &AtomicU32, expected: u32, _group: u32) {
    if word.load(std::sync::atomic::Ordering::SeqCst) == expected {
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

/// Sleepers poll: there is nobody to wake.
#[cfg(not(target_os = "linux"))]
pub(super) fn wake(_word: &AtomicU32, _count: u32, _group: u32) {}
