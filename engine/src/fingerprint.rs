//! What makes two builds the same: content hashes, the running library, the CPU.

mod library;

use std::fmt;
use std::sync::OnceLock;

pub use library::library_content;

/// A 256-bit BLAKE3 content hash. Displayed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The hash of these bytes, computed on this thread.
    pub fn of(bytes: &[u8]) -> Fingerprint {
        Fingerprint(*blake3::hash(bytes).as_bytes())
    }

    /// The hash of a sequence of byte strings: order, number and boundaries count. Computed on up to `threads`
    /// threads; their number does not change the result.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>, threads: usize) -> Fingerprint {
        let parts: Vec<&[u8]> = parts.into_iter().collect();
        let blocks: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks(BLOCK)).collect();
        let hashes = hash_blocks(&blocks, threads);
        let mut combined = blake3::Hasher::new_derive_key("engraft 2026 sequence of byte strings");
        let mut hashes = hashes.iter();
        for part in &parts {
            combined.update(&(part.len() as u64).to_le_bytes());
            for hash in hashes.by_ref().take(part.len().div_ceil(BLOCK)) {
                combined.update(hash);
            }
        }
        Fingerprint(*combined.finalize().as_bytes())
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Fingerprint> {
        blake3::Hash::from_hex(text).ok().map(|hash| Fingerprint(*hash.as_bytes()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The bytes that are hashed as one piece of work.
pub const BLOCK: usize = 1 << 20;

/// The hash of each block, computed on up to `threads` threads; short lists stay on this one.
pub(crate) fn hash_blocks(blocks: &[&[u8]], threads: usize) -> Vec<[u8; 32]> {
    let mut hashes = vec![[0; 32]; blocks.len()];
    for_each_parallel(&mut hashes, threads, |i, hash| *hash = *blake3::hash(blocks[i]).as_bytes());
    hashes
}

/// Calls `f` with each index and element, on up to `threads` threads when there are enough elements.
pub(crate) fn for_each_parallel<T: Send>(items: &mut [T], threads: usize, f: impl Fn(usize, &mut T) + Sync) {
    /// Fewer elements than this for a thread are not worth starting it.
    const LEAST: usize = 4;
    let threads = threads.min(items.len() / LEAST).max(1);
    if threads == 1 {
        items.iter_mut().enumerate().for_each(|(i, item)| f(i, item));
        return;
    }
    // Small runs of elements, each taken by whoever is free.
    let runs = std::sync::Mutex::new(items.chunks_mut(LEAST).enumerate());
    let work = || {
        loop {
            let run = runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some((number, run)) = run else { return };
            run.iter_mut().enumerate().for_each(|(i, item)| f(number * LEAST + i, item));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            if std::thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
}

/// The number of threads that hashing may use: the CPUs of this process, but not more than memory can feed.
pub fn hashing_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get()).min(8)
}

/// The architecture and the instruction set extensions of this CPU that kernels choose by, in a fixed order:
/// `x86_64:sse4.2,avx,avx2,fma,...`. Two machines with the same text run the same tactics.
pub fn cpu_features() -> &'static str {
    static FEATURES: OnceLock<String> = OnceLock::new();
    FEATURES.get_or_init(|| format!("{}:{}", std::env::consts::ARCH, detected_features().join(",")))
}

#[cfg(target_arch = "x86_64")]
fn detected_features() -> Vec<&'static str> {
    macro_rules! detect {
        ($($name:tt),*) => { vec![$(($name, is_x86_feature_detected!($name))),*] };
    }
    let all = detect!(
        "sse4.2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "bmi2",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512vbmi",
        "avx512vbmi2",
        "avx512vnni",
        "avx512bf16",
        "avx512fp16"
    );
    let mut present: Vec<_> = all.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect();
    present.extend(amx_features());
    present
}

/// AMX as CPUID reports it; the standard library's detection of it is not stable.
#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)]
fn amx_features() -> Vec<&'static str> {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // SAFETY: every x86-64 CPU has the instruction; the leaf is used only where the CPU has it.
    let edx = unsafe { if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 } };
    [(22, "amx-bf16"), (24, "amx-tile"), (25, "amx-int8")]
        .into_iter()
        .filter(|(bit, _)| edx >> bit & 1 == 1)
        .map(|(_, name)| name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn detected_features() -> Vec<&'static str> {
    Vec::new()
}

/// The CPU model as timings depend on it: brand, family, model and stepping. Not part of what makes a plan valid.
pub fn cpu_model() -> &'static str {
    static MODEL: OnceLock<String> = OnceLock::new();
    MODEL.get_or_init(detect_model)
}

#[cfg(target_arch = "x86_64")]
#[allow(unused_unsafe)]
fn detect_model() -> String {
    use std::arch::x86_64::__cpuid;
    // SAFETY: every x86-64 CPU has the instruction; leaves are used only where the CPU has them.
    let (signature, brand) = unsafe {
        let mut brand = Vec::with_capacity(48);
        if __cpuid(0x8000_0000).eax >= 0x8000_0004 {
            for leaf in 0x8000_0002..=0x8000_0004 {
                let r = __cpuid(leaf);
                brand.extend([r.eax, r.ebx, r.ecx, r.edx].into_iter().flat_map(u32::to_le_bytes));
            }
        }
        (__cpuid(1).eax, brand)
    };
    let brand: String = brand.into_iter().take_while(|b| *b != 0).map(char::from).collect();
    format!("{} ({signature:#x})", brand.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(not(target_arch = "x86_64"))]
fn detect_model() -> String {
    std::env::consts::ARCH.to_owned()
}

#[cfg(test)]
mod tests;
