//! Kernels of small groups: a few output pixels at a constant distance, one vector over the outputs of several groups.
//!
//! Lane `l` of the vector at output channel `o` belongs to group `(o + l) / outputs` and wants, for input `i` of its group, input
//! channel `(o + l) / outputs * inputs + i`. Where all lanes are of one group that is one element; else the inputs of all its groups
//! are loaded together and picked lane by lane.

use super::kernel::Strip;
use crate::Reject;
use crate::cpu::gemm::lanes::{Elem, Lanes};

/// How output channels read input channels.
#[derive(Clone, Debug)]
pub struct Groups {
    /// Input and output channels of one group.
    inputs: usize,
    outputs: usize,
    /// Input and output channels of all groups.
    all_inputs: usize,
    all_outputs: usize,
    /// For each vector of a period and each input of a group, where its lanes find theirs among those loaded; empty where all
    /// lanes of any vector are of one group.
    index: Vec<i32>,
    /// Vectors after which the pattern repeats.
    period: usize,
}

impl Groups {
    /// For vectors of `lanes`.
    ///
    /// # Errors
    /// The inputs of a vector's groups are more than a vector holds.
    pub fn new(groups: usize, inputs: usize, outputs: usize, lanes: usize) -> Result<Groups, Reject> {
        let (all_inputs, all_outputs) = (groups * inputs, groups * outputs);
        let mut this = Groups { inputs, outputs, all_inputs, all_outputs, index: Vec::new(), period: 1 };
        if outputs.is_multiple_of(lanes) {
            return Ok(this);
        }
        // Vectors until one begins with a group again.
        this.period = (1..=lanes).find(|v| (v * lanes).is_multiple_of(outputs)).unwrap_or(outputs);
        let vectors = this.period.min(all_outputs.div_ceil(lanes));
        this.index.reserve(vectors * inputs * lanes);
        for first in (0..vectors * lanes).step_by(lanes) {
            // Lanes beyond the last channel are of no group.
            let group = |lane: usize| (first + lane).min(all_outputs - 1) / outputs - first / outputs;
            if (group(lanes - 1) + 1) * inputs > lanes {
                return Err(Reject::new("groups of more inputs than a vector holds"));
            }
            for i in 0..inputs {
                this.index.extend((0..lanes).map(|lane| (group(lane) * inputs + i) as i32));
            }
        }
        Ok(this)
    }

    /// Whether every vector is of one group.
    pub fn is_wide(&self) -> bool {
        self.index.is_empty()
    }
}

/// Lanes that can be picked in any order.
///
/// # Safety
/// As [`Lanes`].
pub unsafe trait Pick: Lanes {
    /// Lane `l` of the result is lane `index[l]` of `self`.
    ///
    /// # Safety
    /// `index` is readable for `N` numbers below `N`; see [`Lanes`].
    unsafe fn pick(self, index: *const i32) -> Self;
}

/// # Safety
/// The CPU has the kernel's instruction set; every pixel and tap of the strip is readable for all input channels (the output
/// writable for `channels` elements). `x` and `w` of the strip count from the first channel of all, everything else from channel
/// `first`, a multiple of the lanes that the groups were made for.
pub type Kernel<E> = unsafe fn(&Strip<'_, E>, &Groups, first: usize);

/// Kernels of one instruction set.
#[derive(Debug)]
pub struct GroupStrips<E: 'static> {
    /// Channels of one vector.
    pub lanes: usize,
    /// `of[t - 1]` computes t pixels.
    pub of: &'static [Kernel<E>],
}

/// `T` pixels of one vector of channels, `at` channels after `first`; the last `n` of them where `PART`.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
unsafe fn block<V: Pick, const T: usize, const WIDE: bool, const PART: bool>(
    s: &Strip<'_, V::E>,
    g: &Groups,
    (first, at): (usize, usize),
    n: usize,
) {
    // SAFETY: by the caller's contract.
    unsafe {
        let load = |p: *const V::E| if PART { V::load_n(p, n) } else { V::load(p) };
        let channel = first + at;
        let base = channel / g.outputs * g.inputs;
        let index = g.index.as_ptr().wrapping_add(channel / V::N % g.period * g.inputs * V::N);
        let room = (g.all_inputs - base).min(V::N);
        // Plain index loops throughout: an iterator over the accumulators would put them on the stack.
        let mut acc = [V::splat(V::E::ZERO); T];
        if !s.bias.is_null() {
            let bias = load(s.bias.add(at));
            for t in 0..T {
                acc[t] = bias;
            }
        }
        let (x0, w0) = (s.x.wrapping_add(base), s.w.wrapping_add(channel));
        for &(x, w) in s.taps {
            let (x, mut w) = (x0.wrapping_offset(x), w0.wrapping_offset(w));
            if WIDE {
                for i in 0..g.inputs {
                    let weights = load(w);
                    for t in 0..T {
                        let x = V::splat(*x.wrapping_offset(t as isize * s.x_step).add(i));
                        acc[t] = acc[t].fma(x, weights);
                    }
                    w = w.wrapping_add(g.all_outputs);
                }
            } else {
                let mut inputs = [V::splat(V::E::ZERO); T];
                for t in 0..T {
                    let p = x.wrapping_offset(t as isize * s.x_step);
                    inputs[t] = if PART { V::load_n(p, room) } else { V::load(p) };
                }
                for i in 0..g.inputs {
                    let weights = load(w);
                    for t in 0..T {
                        acc[t] = acc[t].fma(inputs[t].pick(index.add(i * V::N)), weights);
                    }
                    w = w.wrapping_add(g.all_outputs);
                }
            }
        }
        if !s.residual.is_null() {
            for t in 0..T {
                let p = s.residual.wrapping_add(at).wrapping_offset(t as isize * s.residual_step);
                acc[t] = acc[t].add(load(p));
            }
        }
        if let Some((low, high)) = s.clip {
            let (low, high) = (V::splat(low), V::splat(high));
            for t in 0..T {
                acc[t] = acc[t].at_least(low).at_most(high);
            }
        }
        for t in 0..T {
            let p = s.c.wrapping_add(at).wrapping_offset(t as isize * s.c_step);
            if PART { acc[t].store_n(p, n) } else { acc[t].store(p) }
        }
    }
}

/// The body of every kernel.
///
/// # Safety
/// See [`Kernel`].
#[inline(always)]
unsafe fn body<V: Pick, const T: usize>(s: &Strip<'_, V::E>, g: &Groups, first: usize) {
    for at in (0..s.channels).step_by(V::N) {
        let n = (s.channels - at).min(V::N);
        let base = (first + at) / g.outputs * g.inputs;
        // SAFETY: by the caller's contract; blocks stay inside the channels.
        unsafe {
            match (g.is_wide(), n == V::N && base + V::N <= g.all_inputs) {
                (true, _) if n == V::N => block::<V, T, true, false>(s, g, (first, at), n),
                (true, _) => block::<V, T, true, true>(s, g, (first, at), n),
                (false, true) => block::<V, T, false, false>(s, g, (first, at), n),
                (false, false) => block::<V, T, false, true>(s, g, (first, at), n),
            }
        }
    }
}

macro_rules! strips {
    ($name:ident, $kernel:ident, $lanes:ty, [$($feature:literal),*], [$($t:literal),*]) => {
        $(#[target_feature(enable = $feature)])*
        unsafe fn $kernel<const T: usize>(s: &Strip<'_, <$lanes as Lanes>::E>, g: &Groups, first: usize) {
            // SAFETY: the caller vouches for the instruction set, the strip and the groups.
            unsafe { body::<$lanes, T>(s, g, first) }
        }
        pub static $name: GroupStrips<<$lanes as Lanes>::E> =
            GroupStrips { lanes: <$lanes as Lanes>::N, of: &[$($kernel::<$t>),*] };
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use std::arch::x86_64::*;

    // SAFETY: an AVX-512F intrinsic; the trait's contract demands the feature.
    unsafe impl Pick for __m512 {
        #[inline(always)]
        unsafe fn pick(self, index: *const i32) -> Self {
            // SAFETY: by the caller's contract.
            unsafe { _mm512_permutexvar_ps(_mm512_loadu_si512(index.cast()), self) }
        }
    }

    // SAFETY: an AVX2 intrinsic; the trait's contract demands the feature.
    unsafe impl Pick for __m256 {
        #[inline(always)]
        unsafe fn pick(self, index: *const i32) -> Self {
            // SAFETY: by the caller's contract.
            unsafe { _mm256_permutevar8x32_ps(self, _mm256_loadu_si256(index.cast())) }
        }
    }

    strips!(F32_AVX512, f32_avx512, __m512, ["avx512f"], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    strips!(F32_AVX2, f32_avx2, __m256, ["avx2,fma"], [1, 2, 3, 4, 5, 6]);
}
#[cfg(target_arch = "x86_64")]
pub use x86::*;

mod portable {
    use super::*;
    use crate::cpu::gemm::lanes::Array;

    // SAFETY: plain Rust; needs no instruction set beyond the target's own.
    unsafe impl<E: Elem, const N: usize> Pick for Array<E, N> {
        #[inline(always)]
        unsafe fn pick(self, index: *const i32) -> Self {
            // SAFETY: by the caller's contract.
            Array::from_fn(|l| self.lane(unsafe { *index.add(l) } as usize))
        }
    }

    strips!(F32_PORTABLE, f32_portable, Array<f32, 4>, [], [1, 2, 3, 4]);
}
pub use portable::*;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_find_the_inputs_of_their_groups() {
        for (groups, inputs, outputs) in
            [(8, 4, 4), (5, 2, 6), (4, 8, 8), (7, 1, 3), (3, 4, 12), (9, 5, 16), (2, 9, 32)]
        {
            let lanes = 16;
            let Ok(g) = Groups::new(groups, inputs, outputs, lanes) else {
                panic!("{groups} groups of {inputs} to {outputs} were refused")
            };
            assert_eq!(g.is_wide(), outputs % lanes == 0);
            for o in (0..groups * outputs).filter(|_| !g.is_wide()) {
                let (vector, lane) = (o / lanes, o % lanes);
                let base = vector * lanes / outputs * inputs;
                for i in 0..inputs {
                    let at = g.index[(vector % g.period * inputs + i) * lanes + lane];
                    assert_eq!(base + at as usize, o / outputs * inputs + i, "output {o}, input {i}");
                }
            }
        }
    }

    #[test]
    fn more_inputs_than_lanes_are_refused() {
        assert!(Groups::new(8, 8, 4, 16).is_err());
        assert!(Groups::new(8, 8, 8, 16).is_ok());
        assert!(Groups::new(2, 16, 4, 16).is_err());
    }
}
