//! Vectors as arrays: the compiler turns the loops into whatever the target's baseline has.

use super::{Isa, Portable, Simd, Task};

const N: usize = 8;

/// Aligned so that the compiler may keep it in registers of the baseline.
#[derive(Clone, Copy)]
#[repr(align(32))]
pub struct Lanes<T>([T; N]);

#[inline(always)]
fn lanes<T>(f: impl FnMut(usize) -> T) -> Lanes<T> {
    Lanes(std::array::from_fn(f))
}

macro_rules! map {
    ($($name:ident($($arg:ident: $lane:ty),+) -> $out:ty = $body:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($arg: Lanes<$lane>),+) -> Lanes<$out> {
            lanes(|i| {
                $(let $arg = $arg.0[i];)+
                $body
            })
        }
    )+};
}

#[inline(always)]
fn fold(a: Lanes<f32>, f: impl Fn(f32, f32) -> f32) -> f32 {
    let a = a.0;
    let quarter: [f32; 4] = std::array::from_fn(|i| f(a[i], a[i + 4]));
    f(f(quarter[0], quarter[2]), f(quarter[1], quarter[3]))
}

/// Ties to even without a call into the maths library: adding 1.5 * 2^23 leaves no fraction bits.
#[inline(always)]
fn round(a: f32) -> f32 {
    const MAGIC: f32 = 8_388_608.0;
    let magnitude = a.abs();
    let rounded = if magnitude < MAGIC { (magnitude + MAGIC) - MAGIC } else { a.abs() };
    rounded.copysign(a)
}

#[inline(always)]
fn truncate(a: f32) -> f32 {
    let rounded = round(a.abs());
    let down = if rounded > a.abs() { rounded - 1.0 } else { rounded };
    down.copysign(a)
}

impl Simd for Portable {
    type F = Lanes<f32>;
    type I = Lanes<i32>;
    type M = Lanes<bool>;

    const LANES: usize = N;
    const ISA: Isa = Isa::Portable;
    const FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    const REGISTERS: usize = if cfg!(target_arch = "aarch64") { 16 } else { 8 };

    #[inline]
    fn enter<T: Task>(self, task: T) -> T::Output {
        task.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        Lanes([x; N])
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        Lanes([x; N])
    }
    #[inline(always)]
    fn iota(self) -> Self::I {
        lanes(|i| i as i32)
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: the caller's; arrays of f32 have no invalid bits.
        Lanes(unsafe { p.cast::<[f32; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[f32; N]>().write_unaligned(x.0) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F {
        // SAFETY: only the first n elements are read.
        lanes(|i| if i < n { unsafe { p.add(i).read_unaligned() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, x: Self::F) {
        for i in 0..n.min(N) {
            // SAFETY: only the first n elements are written.
            unsafe { p.add(i).write_unaligned(x.0[i]) }
        }
    }
    #[inline(always)]
    unsafe fn load_i(self, p: *const i32) -> Self::I {
        // SAFETY: the caller's.
        Lanes(unsafe { p.cast::<[i32; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store_i(self, p: *mut i32, x: Self::I) {
        // SAFETY: the caller's.
        unsafe { p.cast::<[i32; N]>().write_unaligned(x.0) }
    }
    #[inline(always)]
    unsafe fn load_i_n(self, p: *const i32, n: usize) -> Self::I {
        // SAFETY: only the first n elements are read.
        lanes(|i| if i < n { unsafe { p.add(i).read_unaligned() } } else { 0 })
    }
    #[inline(always)]
    unsafe fn store_i_n(self, p: *mut i32, n: usize, x: Self::I) {
        for i in 0..n.min(N) {
            // SAFETY: only the first n elements are written.
            unsafe { p.add(i).write_unaligned(x.0[i]) }
        }
    }
    #[inline(always)]
    unsafe fn load_strided(self, p: *const f32, stride: isize) -> Self::F {
        // SAFETY: the caller's.
        lanes(|i| unsafe { p.offset(i as isize * stride).read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        // SAFETY: the caller's.
        lanes(|i| half::f16::from_bits(unsafe { p.add(i).read_unaligned() }).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: Self::F) {
        for i in 0..N {
            // SAFETY: the caller's.
            unsafe { p.add(i).write_unaligned(half::f16::from_f32(x.0[i]).to_bits()) }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::F {
        // SAFETY: the caller's.
        lanes(|i| f32::from_bits(u32::from(unsafe { p.add(i).read_unaligned() }) << 16))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, x: Self::F) {
        for i in 0..N {
            // SAFETY: the caller's.
            unsafe { p.add(i).write_unaligned(half::bf16::from_f32(x.0[i]).to_bits()) }
        }
    }
    #[inline(always)]
    fn round_bf16(self, x: Self::F) -> Self::I {
        lanes(|i| i32::from(half::bf16::from_f32(x.0[i]).to_bits() as i16) << 16)
    }
    #[inline(always)]
    unsafe fn store_upper(self, p: *mut u16, x: Self::I) {
        for i in 0..N {
            // SAFETY: the caller's.
            unsafe { p.add(i).write_unaligned((x.0[i] as u32 >> 16) as u16) }
        }
    }

    #[inline(always)]
    unsafe fn load_mask(self, p: *const u8) -> Self::M {
        // SAFETY: the caller's.
        lanes(|i| unsafe { p.add(i).read() } != 0)
    }
    #[inline(always)]
    unsafe fn store_mask(self, p: *mut u8, mask: Self::M) {
        for i in 0..N {
            // SAFETY: the caller's.
            unsafe { p.add(i).write(u8::from(mask.0[i])) }
        }
    }

    map! {
        add(a: f32, b: f32) -> f32 = a + b;
        sub(a: f32, b: f32) -> f32 = a - b;
        mul(a: f32, b: f32) -> f32 = a * b;
        div(a: f32, b: f32) -> f32 = a / b;
        fma(a: f32, b: f32, c: f32) -> f32 = if Self::FUSED { a.mul_add(b, c) } else { a * b + c };
        fnma(a: f32, b: f32, c: f32) -> f32 = if Self::FUSED { (-a).mul_add(b, c) } else { c - a * b };
        min(a: f32, b: f32) -> f32 = if a < b { a } else { b };
        max(a: f32, b: f32) -> f32 = if a > b { a } else { b };
        sqrt(a: f32) -> f32 = a.sqrt();
        abs(a: f32) -> f32 = a.abs();
        neg(a: f32) -> f32 = -a;
        round(a: f32) -> f32 = round(a);
        trunc(a: f32) -> f32 = truncate(a);
        floor(a: f32) -> f32 = {
            let r = round(a);
            if r > a { (r - 1.0).copysign(a) } else { r }
        };
        ceil(a: f32) -> f32 = {
            let r = round(a);
            if r < a { (r + 1.0).copysign(a) } else { r }
        };
        lt(a: f32, b: f32) -> bool = a < b;
        le(a: f32, b: f32) -> bool = a <= b;
        eq(a: f32, b: f32) -> bool = a == b;
        ne(a: f32, b: f32) -> bool = a != b;
        select(mask: bool, a: f32, b: f32) -> f32 = if mask { a } else { b };
        select_i(mask: bool, a: i32, b: i32) -> i32 = if mask { a } else { b };
        and_m(a: bool, b: bool) -> bool = a & b;
        or_m(a: bool, b: bool) -> bool = a | b;
        add_i(a: i32, b: i32) -> i32 = a.wrapping_add(b);
        sub_i(a: i32, b: i32) -> i32 = a.wrapping_sub(b);
        mul_i(a: i32, b: i32) -> i32 = a.wrapping_mul(b);
        and_i(a: i32, b: i32) -> i32 = a & b;
        or_i(a: i32, b: i32) -> i32 = a | b;
        xor_i(a: i32, b: i32) -> i32 = a ^ b;
        andnot_i(a: i32, b: i32) -> i32 = !a & b;
        eq_i(a: i32, b: i32) -> bool = a == b;
        gt_i(a: i32, b: i32) -> bool = a > b;
        to_i(a: f32) -> i32 = round(a) as i32;
        to_f(a: i32) -> f32 = a as f32;
        bits(a: f32) -> i32 = a.to_bits() as i32;
        float(a: i32) -> f32 = f32::from_bits(a as u32);
    }

    #[inline(always)]
    fn any(self, a: Self::M) -> bool {
        a.0.iter().fold(false, |any, &x| any | x)
    }
    #[inline(always)]
    fn all(self, a: Self::M) -> bool {
        a.0.iter().fold(true, |all, &x| all & x)
    }
    #[inline(always)]
    fn shl_i<const K: u32>(self, a: Self::I) -> Self::I {
        lanes(|i| a.0[i] << K)
    }
    #[inline(always)]
    fn shr_i<const K: u32>(self, a: Self::I) -> Self::I {
        lanes(|i| ((a.0[i] as u32) >> K) as i32)
    }
    #[inline(always)]
    fn sar_i<const K: u32>(self, a: Self::I) -> Self::I {
        lanes(|i| a.0[i] >> K)
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        fold(a, |x, y| x + y)
    }
    #[inline(always)]
    fn hmax(self, a: Self::F) -> f32 {
        fold(a, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn hmin(self, a: Self::F) -> f32 {
        fold(a, |x, y| if x < y { x } else { y })
    }
}
