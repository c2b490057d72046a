//! What the running machine can do at best, measured: the roof that layers are held against.

use super::isa::Isa;
use super::simd::{Simd, Task, dispatch};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The best of one thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// f32 multiply-adds in registers, two operations each.
    pub flops_per_second: f64,
    /// Reading memory that no cache of the core holds.
    pub bytes_per_second: f64,
}

impl Ceiling {
    /// Measures for about a tenth of a second.
    pub fn measure(isa: Isa) -> Ceiling {
        let lanes = dispatch(isa, MultiplyAdds(0));
        let flops = (2 * ACCUMULATORS * lanes * STEPS) as f64;
        let compute = best(|| {
            black_box(dispatch(isa, MultiplyAdds(STEPS)));
        });
        let data = vec![1f32; READ_BYTES / size_of::<f32>()];
        let read = best(|| {
            black_box(dispatch(isa, Read(&data)));
        });
        Ceiling { flops_per_second: flops / compute, bytes_per_second: READ_BYTES as f64 / read }
    }
}

/// Larger than a core's own caches.
const READ_BYTES: usize = 32 << 20;
/// Independent sums: enough to hide the latency of each, few enough for sixteen registers.
const ACCUMULATORS: usize = 12;
const STEPS: usize = 20_000;

/// Seconds of the fastest call.
fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut least = f64::INFINITY;
    while start.elapsed() < Duration::from_millis(50) {
        let call = Instant::now();
        f();
        least = least.min(call.elapsed().as_secs_f64());
    }
    least
}

/// Steps of one multiply-add per accumulator; returns the lanes of a vector.
struct MultiplyAdds(usize);

impl Task for MultiplyAdds {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let (x, y) = (black_box(s.splat(0.999)), black_box(s.splat(1e-9)));
        let mut sums = [s.splat(1.0); ACCUMULATORS];
        for _ in 0..self.0 {
            for sum in &mut sums {
                *sum = s.fma(*sum, x, y);
            }
        }
        for sum in sums {
            black_box(s.sum(sum));
        }
        S::LANES
    }
}

/// The sum of all elements.
struct Read<'a>(&'a [f32]);

impl Task for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.zero(); 4];
        for chunk in self.0.chunks_exact(4 * S::LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the chunk holds four vectors.
                *sum = s.add(*sum, unsafe { s.load(chunk.as_ptr().add(i * S::LANES)) });
            }
        }
        s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_sums_everything() {
        let data: Vec<f32> = (0..256).map(|i| i as f32).collect();
        for isa in Isa::available() {
            assert_eq!(dispatch(isa, Read(&data)), 32_640.0, "{isa}");
        }
    }

    #[test]
    fn ceilings_are_finite_and_positive() {
        for isa in Isa::available() {
            let c = Ceiling::measure(isa);
            assert!(c.flops_per_second.is_finite() && c.flops_per_second > 1e8, "{isa}: {c:?}");
            assert!(c.bytes_per_second.is_finite() && c.bytes_per_second > 1e7, "{isa}: {c:?}");
        }
    }
}
