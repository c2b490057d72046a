//! Floating-point environment: denormals are flushed to zero while kernels compute.
//!
//! One denormal operand costs an x86 core on the order of 100 cycles; networks with saturating activations produce
//! them by the million. The guard belongs around each thread's participation in a run.

use std::marker::PhantomData;

/// While alive, the calling thread flushes denormal results to zero and reads denormal operands as zero; rounding is to
/// nearest-even and floating-point exceptions are masked. Dropping it restores the caller's control bits; exception flags raised in
/// between are discarded.
///
/// Elsewhere than on x86-64 and AArch64 it does nothing.
#[must_use = "the environment is restored when the guard is dropped"]
pub struct FlushDenormals {
    saved: u64,
    /// The state belongs to the thread: the guard must not leave it.
    thread: PhantomData<*const ()>,
}

impl FlushDenormals {
    #[inline]
    pub fn enter() -> Self {
        let saved = control::read();
        let wanted = control::flushing(saved);
        if wanted != saved {
            control::write(wanted);
        }
        Self { saved, thread: PhantomData }
    }
}

impl Drop for FlushDenormals {
    #[inline]
    fn drop(&mut self) {
        if control::read() != self.saved {
            control::write(self.saved);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod control {
    use std::arch::asm;

    const DENORMALS_ARE_ZERO: u64 = 1 << 6;
    const EXCEPTION_MASKS: u64 = 0x3f << 7;
    const ROUNDING: u64 = 3 << 13;
    const FLUSH_TO_ZERO: u64 = 1 << 15;

    #[inline]
    pub fn flushing(state: u64) -> u64 {
        (state & !ROUNDING) | DENORMALS_ARE_ZERO | EXCEPTION_MASKS | FLUSH_TO_ZERO
    }

    #[inline]
    pub fn read() -> u64 {
        let mut state = 0u32;
        // SAFETY: stores the 32-bit MXCSR at the given address; every x86-64 CPU has it.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut state, options(nostack, preserves_flags)) };
        u64::from(state)
    }

    /// A memory clobber (the absence of `nomem`) keeps the compiler from moving memory accesses, and with them the results
    /// of kernels called in between, across the change.
    #[inline]
    pub fn write(state: u64) {
        let state = state as u32;
        // SAFETY: only bits that `read` returned or that every x86-64 CPU defines are set, so the load cannot fault.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &state, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod control {
    use std::arch::asm;

    const ROUNDING: u64 = 3 << 22;
    const FLUSH_TO_ZERO: u64 = 1 << 24;

    #[inline]
    pub fn flushing(state: u64) -> u64 {
        (state & !ROUNDING) | FLUSH_TO_ZERO
    }

    #[inline]
    pub fn read() -> u64 {
        let state: u64;
        // SAFETY: reading FPCR has no effect and is allowed in user mode.
        unsafe { asm!("mrs {}, fpcr", out(reg) state, options(nostack, preserves_flags)) };
        state
    }

    #[inline]
    pub fn write(state: u64) {
        // SAFETY: only bits that `read` returned or that the architecture defines are set.
        unsafe { asm!("msr fpcr, {}", in(reg) state, options(nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod control {
    #[inline]
    pub fn flushing(state: u64) -> u64 {
        state
    }

    #[inline]
    pub fn read() -> u64 {
        0
    }

    #[inline]
    pub fn write(_: u64) {}
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;
    use std::hint::black_box;

    fn half(x: f32) -> f32 {
        black_box(black_box(x) * black_box(0.5))
    }

    #[test]
    fn flushes_inside_and_restores_outside() {
        let tiny = f32::MIN_POSITIVE;
        assert!(half(tiny) > 0.0);
        {
            let _guard = FlushDenormals::enter();
            assert_eq!(half(tiny), 0.0, "denormal results are flushed");
            {
                let _nested = FlushDenormals::enter();
                assert_eq!(half(tiny), 0.0);
            }
            assert_eq!(half(tiny), 0.0, "the inner guard restores the outer guard's state");
        }
        assert!(half(tiny) > 0.0, "the caller's state is back");
    }

    #[test]
    fn a_panic_restores_too() {
        let result = std::panic::catch_unwind(|| {
            let _guard = FlushDenormals::enter();
            panic!("inside");
        });
        assert!(result.is_err());
        assert!(half(f32::MIN_POSITIVE) > 0.0);
    }
}
