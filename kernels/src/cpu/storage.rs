//! Floats as kernels meet them in memory, and the axes that kernels only iterate over.

use super::simd::Simd;
use engraft_network::DType;
use smallvec::SmallVec;

/// A float type in memory that kernels compute with as `f32`.
pub(crate) trait Storage: Copy + Send + Sync + 'static {
    const DTYPE: DType;

    /// Widens the first `m <= LANES` elements; the other lanes are zero.
    ///
    /// # Safety
    /// `p` is readable for `m` elements.
    unsafe fn load<S: Simd>(s: S, p: *const Self, m: usize) -> S::F;

    /// Rounds and stores the first `m <= LANES` lanes.
    ///
    /// # Safety
    /// `p` is writable for `m` elements.
    unsafe fn store<S: Simd>(s: S, p: *mut Self, m: usize, x: S::F);

    fn widen(self) -> f32;

    fn narrow(x: f32) -> Self;
}

impl Storage for f32 {
    const DTYPE: DType = DType::F32;

    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32, m: usize) -> S::F {
        // SAFETY: the caller's.
        unsafe { if m == S::LANES { s.load(p) } else { s.load_n(p, m) } }
    }

    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, m: usize, x: S::F) {
        // SAFETY: the caller's.
        unsafe { if m == S::LANES { s.store(p, x) } else { s.store_n(p, m, x) } }
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> f32 {
        x
    }
}

macro_rules! half_storage {
    ($t:ty, $dtype:ident, $load:ident, $store:ident) => {
        impl Storage for $t {
            const DTYPE: DType = DType::$dtype;

            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: *const $t, m: usize) -> S::F {
                // SAFETY: the caller's; a partial vector goes through a local array.
                unsafe {
                    if m == S::LANES {
                        return s.$load(p.cast());
                    }
                    let mut bits = [0u16; 16];
                    std::ptr::copy_nonoverlapping(p.cast::<u16>(), bits.as_mut_ptr(), m.min(16));
                    s.$load(bits.as_ptr())
                }
            }

            #[inline(always)]
            unsafe fn store<S: Simd>(s: S, p: *mut $t, m: usize, x: S::F) {
                // SAFETY: the caller's; a partial vector goes through a local array.
                unsafe {
                    if m == S::LANES {
                        return s.$store(p.cast(), x);
                    }
                    let mut bits = [0u16; 16];
                    s.$store(bits.as_mut_ptr(), x);
                    std::ptr::copy_nonoverlapping(bits.as_ptr(), p.cast::<u16>(), m.min(16));
                }
            }

            #[inline(always)]
            fn widen(self) -> f32 {
                self.to_f32()
            }

            #[inline(always)]
            fn narrow(x: f32) -> $t {
                <$t>::from_f32(x)
            }
        }
    };
}

half_storage!(half::f16, F16, load_f16, store_f16);
half_storage!(half::bf16, BF16, load_bf16, store_bf16);

/// Calls code with the storage type of a dtype: `with_storage!(dtype, T => f::<T>())`; other types run `else`.
macro_rules! with_storage {
    ($dtype:expr, $T:ident => $body:expr, else $other:expr) => {
        match $dtype {
            engraft_network::DType::F32 => {
                type $T = f32;
                $body
            }
            engraft_network::DType::F16 => {
                type $T = half::f16;
                $body
            }
            engraft_network::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            _ => $other,
        }
    };
}
pub(crate) use with_storage;

/// Whether [`Storage`] covers the type.
pub(crate) fn is_storage(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Axes that are walked in row-major order, with the strides of `K` operands; neighbours that all operands lay out as one are
/// merged.
#[derive(Clone, Debug)]
pub(crate) struct Axes<const K: usize> {
    axes: SmallVec<[(usize, [isize; K]); 6]>,
    count: usize,
}

impl<const K: usize> Axes<K> {
    pub fn new(axes: impl IntoIterator<Item = (usize, [isize; K])>) -> Self {
        let mut merged: SmallVec<[(usize, [isize; K]); 6]> = SmallVec::new();
        let mut count = 1;
        for (size, strides) in axes {
            count *= size;
            if size == 1 {
                continue;
            }
            match merged.last_mut() {
                Some((outer, last)) if (0..K).all(|k| last[k] == strides[k] * size as isize) => {
                    *outer *= size;
                    *last = strides;
                }
                _ => merged.push((size, strides)),
            }
        }
        Axes { axes: merged, count }
    }

    /// Number of positions.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn list(&self) -> &[(usize, [isize; K])] {
        &self.axes
    }

    /// Takes the innermost axis away, if there is one.
    pub fn pop(&mut self) -> Option<(usize, [isize; K])> {
        let axis = self.axes.pop()?;
        self.count = self.axes.iter().map(|a| a.0).product();
        Some(axis)
    }

    /// Takes axis `i` of [`Axes::list`] away.
    pub fn remove(&mut self, i: usize) -> (usize, [isize; K]) {
        let axis = self.axes.remove(i);
        self.count = self.axes.iter().map(|a| a.0).product();
        axis
    }

    /// Offsets of position `index` in elements.
    #[inline]
    pub fn offsets(&self, mut index: usize) -> [isize; K] {
        let mut offsets = [0; K];
        for (i, (size, strides)) in self.axes.iter().enumerate().rev() {
            let at = if i == 0 { index } else { index % size };
            index /= size;
            for k in 0..K {
                offsets[k] += at as isize * strides[k];
            }
        }
        offsets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_merge_where_all_operands_agree() {
        let axes = Axes::new([(2, [60, 30]), (1, [7, 9]), (3, [20, 10]), (5, [4, 2])]);
        assert_eq!(axes.list(), [(30, [4, 2])]);
        let axes = Axes::new([(2, [60, 0]), (3, [20, 10]), (5, [4, 2])]);
        assert_eq!(axes.list(), [(2, [60, 0]), (15, [4, 2])]);
        assert_eq!(axes.count(), 30);
        assert_eq!(axes.offsets(15 + 7), [60 + 28, 14]);
        assert_eq!(Axes::<1>::new([(0, [1]), (4, [1])]).count(), 0);
    }
}
