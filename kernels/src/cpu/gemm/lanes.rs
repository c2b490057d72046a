//! Vector lanes that the matrix micro-kernels are generic over.
//!
//! A [`Lanes`] type is one vector register of one instruction set. Its methods are always inlined, so that they take on
//! the target features of the kernel that calls them; they are unsafe because the caller must run on a CPU that has
//! those features.

/// An element type of the matrix kernels.
pub trait Elem: Copy + Send + Sync + Default + PartialEq + std::fmt::Debug + 'static {
    /// Columns of one packed panel: 128 bytes' worth, whatever the element.
    const PANEL: usize = 128 / std::mem::size_of::<Self>();
    /// The additive identity.
    const ZERO: Self;
    /// `self + a * b`; integers wrap.
    fn mul_acc(self, a: Self, b: Self) -> Self;
    /// `self + a`; integers wrap.
    fn plus(self, a: Self) -> Self;
    /// The larger; `self` if it is NaN.
    fn at_least(self, low: Self) -> Self;
    /// The smaller; `self` if it is NaN.
    fn at_most(self, high: Self) -> Self;
}

macro_rules! float_elem {
    ($($t:ty),*) => {$(
        impl Elem for $t {
            const ZERO: Self = 0.0;
            #[inline(always)]
            fn mul_acc(self, a: Self, b: Self) -> Self {
                self + a * b
            }
            #[inline(always)]
            fn plus(self, a: Self) -> Self {
                self + a
            }
            #[inline(always)]
            fn at_least(self, low: Self) -> Self {
                if self < low { low } else { self }
            }
            #[inline(always)]
            fn at_most(self, high: Self) -> Self {
                if self > high { high } else { self }
            }
        }
    )*};
}
float_elem!(f32, f64);

macro_rules! int_elem {
    ($($t:ty),*) => {$(
        impl Elem for $t {
            const ZERO: Self = 0;
            #[inline(always)]
            fn mul_acc(self, a: Self, b: Self) -> Self {
                self.wrapping_add(a.wrapping_mul(b))
            }
            #[inline(always)]
            fn plus(self, a: Self) -> Self {
                self.wrapping_add(a)
            }
            #[inline(always)]
            fn at_least(self, low: Self) -> Self {
                self.max(low)
            }
            #[inline(always)]
            fn at_most(self, high: Self) -> Self {
                self.min(high)
            }
        }
    )*};
}
int_elem!(i32, u32, i64, u64);

/// One vector register.
///
/// # Safety
/// Every method must run on a CPU with the instruction set of the implementing type; pointers must be valid for the
/// lanes that a method touches (`n` of them in `load_n` and `store_n`, `N` otherwise), at any alignment.
#[allow(clippy::missing_safety_doc)] // One contract for all methods, stated above.
pub unsafe trait Lanes: Copy {
    type E: Elem;
    const N: usize;
    unsafe fn splat(x: Self::E) -> Self;
    unsafe fn load(p: *const Self::E) -> Self;
    /// Loads the first `n <= N` lanes, zero in the rest.
    unsafe fn load_n(p: *const Self::E, n: usize) -> Self;
    unsafe fn store(self, p: *mut Self::E);
    /// Stores the first `n <= N` lanes.
    unsafe fn store_n(self, p: *mut Self::E, n: usize);
    /// `self + a * b`.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn add(self, a: Self) -> Self;
    /// Lane-wise maximum with `low`; NaN lanes of `self` stay NaN.
    unsafe fn at_least(self, low: Self) -> Self;
    /// Lane-wise minimum with `high`; NaN lanes of `self` stay NaN.
    unsafe fn at_most(self, high: Self) -> Self;
}

/// Lanes in a plain array, for the compiler to vectorise.
#[derive(Clone, Copy)]
pub struct Array<E, const N: usize>([E; N]);

impl<E: Copy, const N: usize> Array<E, N> {
    #[inline(always)]
    pub fn from_fn(f: impl FnMut(usize) -> E) -> Self {
        Array(std::array::from_fn(f))
    }

    #[inline(always)]
    pub fn lane(&self, i: usize) -> E {
        self.0[i]
    }
}

// SAFETY: plain Rust; needs no instruction set beyond the target's own.
unsafe impl<E: Elem, const N: usize> Lanes for Array<E, N> {
    type E = E;
    const N: usize = N;
    #[inline(always)]
    unsafe fn splat(x: E) -> Self {
        Array([x; N])
    }
    #[inline(always)]
    unsafe fn load(p: *const E) -> Self {
        // SAFETY: `p` is valid for N elements.
        Array(unsafe { p.cast::<[E; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_n(p: *const E, n: usize) -> Self {
        let mut v = [E::ZERO; N];
        for (i, x) in v.iter_mut().enumerate().take(n) {
            // SAFETY: i < n, and `p` is valid for n elements.
            *x = unsafe { p.add(i).read_unaligned() };
        }
        Array(v)
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut E) {
        // SAFETY: `p` is valid for N elements.
        unsafe { p.cast::<[E; N]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut E, n: usize) {
        for (i, x) in self.0.iter().enumerate().take(n) {
            // SAFETY: i < n, and `p` is valid for n elements.
            unsafe { p.add(i).write_unaligned(*x) };
        }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i].mul_acc(a.0[i], b.0[i])))
    }
    #[inline(always)]
    unsafe fn add(self, a: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i].plus(a.0[i])))
    }
    #[inline(always)]
    unsafe fn at_least(self, low: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i].at_least(low.0[i])))
    }
    #[inline(always)]
    unsafe fn at_most(self, high: Self) -> Self {
        Array(std::array::from_fn(|i| self.0[i].at_most(high.0[i])))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    /// Masks for AVX2's masked moves: a window of eight starting at `8 - n` has `n` leading ones.
    static MASK32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    static MASK64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

    macro_rules! avx512 {
        ($v:ident, $e:ty, $n:literal, $m:ty, $set1:ident, $loadu:ident, $maskz:ident, $storeu:ident, $mask_storeu:ident,
         $fmadd:ident, $add:ident, $max:ident, $min:ident) => {
            // SAFETY: AVX-512F intrinsics only; the trait's contract demands the feature.
            unsafe impl Lanes for $v {
                type E = $e;
                const N: usize = $n;
                #[inline(always)]
                unsafe fn splat(x: $e) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $set1(x) }
                }
                #[inline(always)]
                unsafe fn load(p: *const $e) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $loadu(p) }
                }
                #[inline(always)]
                unsafe fn load_n(p: *const $e, n: usize) -> Self {
                    // SAFETY: masked lanes are not touched.
                    unsafe { $maskz(((1u32 << n) - 1) as $m, p) }
                }
                #[inline(always)]
                unsafe fn store(self, p: *mut $e) {
                    // SAFETY: by the trait's contract.
                    unsafe { $storeu(p, self) }
                }
                #[inline(always)]
                unsafe fn store_n(self, p: *mut $e, n: usize) {
                    // SAFETY: masked lanes are not touched.
                    unsafe { $mask_storeu(p, ((1u32 << n) - 1) as $m, self) }
                }
                #[inline(always)]
                unsafe fn fma(self, a: Self, b: Self) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $fmadd(a, b, self) }
                }
                #[inline(always)]
                unsafe fn add(self, a: Self) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $add(self, a) }
                }
                #[inline(always)]
                unsafe fn at_least(self, low: Self) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $max(low, self) }
                }
                #[inline(always)]
                unsafe fn at_most(self, high: Self) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $min(high, self) }
                }
            }
        };
    }
    avx512!(
        __m512,
        f32,
        16,
        u16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_maskz_loadu_ps,
        _mm512_storeu_ps,
        _mm512_mask_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_max_ps,
        _mm512_min_ps
    );
    avx512!(
        __m512d,
        f64,
        8,
        u8,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_maskz_loadu_pd,
        _mm512_storeu_pd,
        _mm512_mask_storeu_pd,
        _mm512_fmadd_pd,
        _mm512_add_pd,
        _mm512_max_pd,
        _mm512_min_pd
    );

    macro_rules! avx2 {
        ($v:ident, $e:ty, $n:literal, $mask:ident, $set1:ident, $loadu:ident, $maskload:ident, $storeu:ident,
         $maskstore:ident, $fmadd:ident, $add:ident, $max:ident, $min:ident) => {
            // SAFETY: AVX2 and FMA intrinsics only; the trait's contract demands the features.
            unsafe impl Lanes for $v {
                type E = $e;
                const N: usize = $n;
                #[inline(always)]
                unsafe fn splat(x: $e) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $set1(x) }
                }
                #[inline(always)]
                unsafe fn load(p: *const $e) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $loadu(p) }
                }
                #[inline(always)]
                unsafe fn load_n(p: *const $e, n: usize) -> Self {
                    // SAFETY: n <= N, so the mask window is inside the table; masked lanes are not touched.
                    unsafe { $maskload(p, _mm256_loadu_si256($mask.as_ptr().add($n - n).cast())) }
                }
                #[inline(always)]
                unsafe fn store(self, p: *mut $e) {
                    // SAFETY: by the trait's contract.
                    unsafe { $storeu(p, self) }
                }
                #[inline(always)]
                unsafe fn store_n(self, p: *mut $e, n: usize) {
                    // SAFETY: n <= N, so the mask window is inside the table; masked lanes are not touched.
                    unsafe { $maskstore(p, _mm256_loadu_si256($mask.as_ptr().add($n - n).cast()), self) }
                }
                #[inline(always)]
                unsafe fn fma(self, a: Self, b: Self) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $fmadd(a, b, self) }
                }
                #[inline(always)]
                unsafe fn add(self, a: Self) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $add(self, a) }
                }
                #[inline(always)]
                unsafe fn at_least(self, low: Self) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $max(low, self) }
                }
                #[inline(always)]
                unsafe fn at_most(self, high: Self) -> Self {
                    // SAFETY: by the trait's contract.
                    unsafe { $min(high, self) }
                }
            }
        };
    }
    avx2!(
        __m256,
        f32,
        8,
        MASK32,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_maskload_ps,
        _mm256_storeu_ps,
        _mm256_maskstore_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_max_ps,
        _mm256_min_ps
    );
    avx2!(
        __m256d,
        f64,
        4,
        MASK64,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_maskload_pd,
        _mm256_storeu_pd,
        _mm256_maskstore_pd,
        _mm256_fmadd_pd,
        _mm256_add_pd,
        _mm256_max_pd,
        _mm256_min_pd
    );
}
