//! The order of elements as integers: what sorting and selecting work on.

use engraft_network::DType;
use half::{bf16, f16};

/// Whether elements of the type have an order.
pub(super) fn number(dtype: DType) -> bool {
    dtype.bits() >= 8 && !matches!(dtype, DType::Bool | DType::F8E4M3 | DType::F8E5M2)
}

/// An element type with an order.
pub(super) trait Ordered: Copy {
    /// Rises with the value: -0 is 0, NaN is above everything.
    fn rank(self) -> u64;
}

macro_rules! ordered_integers {
    ($($t:ty),*) => {
        $(impl Ordered for $t {
            #[inline(always)]
            fn rank(self) -> u64 {
                (self as i128 - <$t>::MIN as i128) as u64
            }
        })*
    };
}
ordered_integers!(i8, u8, i16, u16, i32, u32, i64, u64);

impl Ordered for f32 {
    #[inline(always)]
    fn rank(self) -> u64 {
        let bits = if self.is_nan() { 0x7fff_ffff } else { (self + 0.0).to_bits() };
        u64::from(if bits >> 31 == 1 { !bits } else { bits | 1 << 31 })
    }
}

impl Ordered for f64 {
    #[inline(always)]
    fn rank(self) -> u64 {
        let bits = if self.is_nan() { u64::MAX >> 1 } else { (self + 0.0).to_bits() };
        if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
    }
}

impl Ordered for f16 {
    #[inline(always)]
    fn rank(self) -> u64 {
        self.to_f32().rank()
    }
}

impl Ordered for bf16 {
    #[inline(always)]
    fn rank(self) -> u64 {
        self.to_f32().rank()
    }
}

/// A rank of up to 32 or 64 bits and a position, as one integer.
pub(super) trait Key: Copy + Ord {
    fn new(rank: u64, position: usize) -> Self;
    fn rank(self) -> u64;
    fn position(self) -> usize;
}

impl Key for u64 {
    #[inline(always)]
    fn new(rank: u64, position: usize) -> u64 {
        rank << 32 | position as u64
    }

    #[inline(always)]
    fn rank(self) -> u64 {
        self >> 32
    }

    #[inline(always)]
    fn position(self) -> usize {
        self as u32 as usize
    }
}

impl Key for u128 {
    #[inline(always)]
    fn new(rank: u64, position: usize) -> u128 {
        u128::from(rank) << 32 | position as u128
    }

    #[inline(always)]
    fn rank(self) -> u64 {
        (self >> 32) as u64
    }

    #[inline(always)]
    fn position(self) -> usize {
        self as u32 as usize
    }
}
