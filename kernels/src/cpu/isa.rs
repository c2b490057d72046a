//! Instruction sets of the running CPU: tokens that prove them and the order in which kernels prefer them.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// Environment variable that caps the instruction set: `portable`, `avx2`, `avx512` or `amx`.
pub const ISA_VARIABLE: &str = "ENGRAFT_ISA";

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

/// Proof that the CPU has AVX-512 F, BW, DQ and VL, and all that [`Avx2`] proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(());

/// No requirement on the CPU: plain Rust over arrays, which the compiler vectorises for the target's baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Portable;

impl Avx2 {
    /// The token, if the running CPU has the instructions.
    #[inline]
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            return Some(Self(()));
        }
        None
    }
}

impl Avx512 {
    /// The token, if the running CPU has the instructions.
    #[inline]
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            return Some(Self(()));
        }
        None
    }

    /// The AVX2 token, which this one implies.
    #[inline]
    pub fn avx2(self) -> Avx2 {
        Avx2(())
    }
}

/// Instruction sets in rising order of preference.
///
/// A value is a choice, not a proof: who runs code for it detects the token first ([`crate::cpu::simd::dispatch`] does).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    Portable,
    Avx2,
    Avx512,
    /// [`Isa::Avx512`] with AMX tiles of bf16 beside it; vector kernels see no difference.
    Amx,
}

/// A value of [`ISA_VARIABLE`] that names no instruction set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{ISA_VARIABLE}={value:?} is none of portable, avx2, avx512, amx")]
pub struct IsaError {
    pub value: String,
}

impl Isa {
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx];

    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }

    /// Whether the running CPU has it, whatever the environment says.
    #[inline]
    pub fn supported(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => Avx2::detect().is_some(),
            Isa::Avx512 => Avx512::detect().is_some(),
            Isa::Amx => Avx512::detect().is_some() && super::amx::detect(),
        }
    }

    /// Every instruction set of the running CPU, lowest first, whatever the environment says.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.supported()).collect()
    }

    /// The cap that the environment states, if any.
    ///
    /// # Errors
    /// [`IsaError`] when the variable is set to anything but a known name.
    pub fn cap_from_environment() -> Result<Option<Isa>, IsaError> {
        match std::env::var_os(ISA_VARIABLE) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => value.to_string_lossy().parse().map(Some),
        }
    }

    /// The best supported instruction set that does not exceed `cap`.
    pub fn best_within(cap: Option<Isa>) -> Isa {
        let cap = cap.unwrap_or(Isa::Amx);
        Self::ALL.into_iter().rev().find(|&isa| isa <= cap && isa.supported()).unwrap_or(Isa::Portable)
    }

    /// The best instruction set of the running CPU under the environment's cap; decided once per process.
    ///
    /// A malformed cap is logged and ignored here; callers that can report errors check
    /// [`Isa::cap_from_environment`] first.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let cap = Self::cap_from_environment().unwrap_or_else(|error| {
                tracing::error!("{error}; using the best instruction set of the machine");
                None
            });
            Self::best_within(cap)
        })
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(value: &str) -> Result<Self, IsaError> {
        Self::ALL
            .into_iter()
            .find(|isa| isa.name().eq_ignore_ascii_case(value.trim()))
            .ok_or_else(|| IsaError { value: value.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_malformed_ones_are_named() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse::<Isa>(), Ok(isa));
            assert_eq!(isa.name().to_uppercase().parse::<Isa>(), Ok(isa));
        }
        let error = "avx1024".parse::<Isa>().unwrap_err();
        assert!(error.to_string().contains("avx1024"), "{error}");
    }

    #[test]
    fn caps_lower_the_choice_and_never_raise_it() {
        assert_eq!(Isa::best_within(Some(Isa::Portable)), Isa::Portable);
        assert!(Isa::best_within(Some(Isa::Avx2)) <= Isa::Avx2);
        assert_eq!(Some(&Isa::best_within(None)), Isa::available().last());
    }

    #[test]
    fn available_is_ordered_and_starts_with_portable() {
        let all = Isa::available();
        assert_eq!(all[0], Isa::Portable);
        assert!(all.windows(2).all(|w| w[0] < w[1]));
    }
}
