//! The tile unit: AMX, or for tests on machines without it a model in plain code.

use crate::{Precision, Problem, Reject};
use engraft_network::DType;

/// How many products of split operands are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// `hi * hi`.
    One,
    /// `hi * hi + hi * lo + lo * hi`.
    Three,
}

/// Values along k of one step.
pub const STEP: usize = 32;
/// Rows of a tile.
pub const ROWS: usize = 16;
/// Columns of two tiles side by side: those of a panel.
pub const COLS: usize = 32;

impl Products {
    /// The precision that asks for them.
    pub const fn precision(self) -> Precision {
        match self {
            Products::One => Precision::Bf16,
            Products::Three => Precision::Tf32,
        }
    }

    /// Errors unless they are right for the matrices' types, the result's and the precision: `f32` at the precision that asks
    /// for them; one product is exact for bf16, under any precision, and stores either.
    pub(super) fn takes(self, p: &Problem<'_>) -> Result<(), Reject> {
        let read = p.inputs[0].desc.dtype;
        let one = self == Products::One;
        let known = |t: DType| t == DType::F32 || one && t == DType::BF16;
        if !known(read) || !known(p.outputs[0].dtype) || p.inputs[1].desc.dtype != read {
            return Err(Reject::new("another type"));
        }
        if read == DType::F32 && p.precision != self.precision() {
            return Err(Reject(format!("for precision {}", self.precision())));
        }
        Ok(())
    }

    /// Multiply-adds per nanosecond of a product, and nanoseconds to split a value, where two threads share a unit: a faster
    /// one is found by timing.
    pub const fn costs(self) -> (f64, f64) {
        match self {
            Products::Three => (115.0, 0.1),
            Products::One => (300.0, 0.08),
        }
    }

    /// Parts that a number is split into.
    pub const fn parts(self) -> usize {
        match self {
            Products::One => 1,
            Products::Three => 2,
        }
    }

    /// Bytes of a step of one row of the first operand: hi, then lo.
    pub const fn row_bytes(self) -> usize {
        match self {
            Products::One => 2 * STEP,
            Products::Three => 4 * STEP,
        }
    }

    /// Bytes of a step of one panel of the second operand: two tiles of hi, then two of lo, pairs of rows interleaved.
    pub const fn panel_bytes(self) -> usize {
        COLS * self.row_bytes()
    }
}

/// Sums of up to 2 x 16 rows by 32 columns, and what adds products to them.
pub(in crate::cpu) trait Tiles {
    /// Whether the running CPU has it and `isa` allows it.
    fn available(isa: crate::Isa) -> bool;

    /// Takes the unit for the calling thread until the value is dropped.
    ///
    /// # Safety
    /// The unit is available.
    unsafe fn enter() -> Self;

    /// Sets the heights of the two groups of rows, 1 to 16; the second may be 0. Sums become undefined.
    fn configure(&mut self, rows: [usize; 2]);

    /// Sums start from zero.
    fn zero(&mut self);

    /// Adds the products of `steps` steps of rows, and of a panel that starts at `b`, while it fetches what is `ahead`.
    ///
    /// # Safety
    /// Rows and panel are readable for all steps in the layout of [`Products`].
    unsafe fn add(&mut self, products: Products, steps: usize, rows: &Rows, b: *const u8, ahead: Ahead);

    /// Writes the sums: row `i` of group `g` to `to + (16 * g + i) * 32`.
    ///
    /// # Safety
    /// `to` is writable for the configured rows and 64-byte aligned.
    unsafe fn store(&mut self, to: *mut f32);
}

/// Rows of the first operand: row `i` of group `g` starts at `start[g] + i * stride`.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Rows {
    pub start: [*const u8; 2],
    pub stride: usize,
    /// Bytes from one step to the next.
    pub step: usize,
    /// Bytes from hi to lo.
    pub low: usize,
}

impl Rows {
    /// Rows whose steps follow each other, in each hi, then lo.
    pub fn joined(products: Products, start: [*const u8; 2], stride: usize) -> Rows {
        Rows { start, stride, step: products.row_bytes(), low: 2 * STEP }
    }
}

/// What is brought near while products are computed: lines of 64 bytes from an address on, so many in each step.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Ahead {
    pub from: *const u8,
    /// One of [`Ahead::LINES`].
    lines: usize,
}

impl Ahead {
    const LINES: [usize; 5] = [0, 4, 8, 16, 32];

    /// A share of `bytes` that lie at `from`: that of call `call` out of `calls`, each of `steps` steps.
    pub fn share(from: *const u8, bytes: usize, call: usize, calls: usize, steps: usize) -> Ahead {
        let lines = bytes.div_ceil(64).div_ceil(calls * steps.max(1));
        let lines = Self::LINES.into_iter().find(|l| *l >= lines).unwrap_or(32);
        Ahead { from: from.wrapping_add(bytes / calls * call), lines }
    }

    /// What a later call of the same share fetches, after `steps` steps.
    pub fn after(self, steps: usize) -> Ahead {
        Ahead { from: self.from.wrapping_add(64 * self.lines * steps), ..self }
    }
}

/// Whether the CPU has AMX tiles of bf16 and the system lets this process use them.
pub fn detect() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        static FOUND: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        *FOUND.get_or_init(hardware::permitted)
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(in crate::cpu) use hardware::Amx;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod hardware {
    use super::{Ahead, Products, Rows, Tiles};
    use crate::Isa;
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;

    /// Asks the CPU, then the system for the permission that tile data needs (Linux: `arch_prctl`).
    pub(in crate::cpu) fn permitted() -> bool {
        const BF16: u32 = 1 << 22;
        const TILE: u32 = 1 << 24;
        const OSXSAVE: u32 = 1 << 27;
        const TILE_STATE: u64 = 3 << 17;
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        if __cpuid_count(0, 0).eax < 7
            || __cpuid_count(7, 0).edx & (BF16 | TILE) != BF16 | TILE
            || __cpuid_count(1, 0).ecx & OSXSAVE == 0
        {
            return false;
        }
        let (low, high): (u32, u32);
        // SAFETY: OSXSAVE says that the instruction exists.
        unsafe {
            asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
        }
        if (u64::from(high) << 32 | u64::from(low)) & TILE_STATE != TILE_STATE {
            return false;
        }
        // SAFETY: a system call on numbers.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }

    /// Palette 1: sizes of the eight tile registers. Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 a panel.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        bytes: [u16; 16],
        rows: [u8; 16],
    }

    /// The tile registers of the calling thread.
    #[derive(Debug)]
    pub struct Amx {
        rows: [usize; 2],
    }

    impl Drop for Amx {
        fn drop(&mut self) {
            // SAFETY: the value exists only where the unit is available.
            unsafe { asm!("tilerelease", options(nostack)) };
        }
    }

    macro_rules! prefetch {
        () => {
            concat!(".rept {lines}\n", "prefetcht1 [{pf}]\n", "add {pf}, 64\n", ".endr")
        };
    }

    impl Amx {
        /// [`Tiles::add`] with `LINES` lines fetched in each step.
        ///
        /// # Safety
        /// See there.
        unsafe fn multiply<const LINES: usize>(
            &mut self,
            products: Products,
            steps: usize,
            rows: &Rows,
            b: *const u8,
            ahead: *const u8,
        ) {
            if steps == 0 {
                return;
            }
            let line = 64usize;
            let Rows { start: a, stride, step, low } = *rows;
            // SAFETY: by the caller's contract; the tiles are configured for as many rows. Prefetches may go anywhere.
            unsafe {
                match (products, self.rows[1] > 0) {
                    (Products::Three, true) => asm!(
                        "2:",
                        // lo * hi
                        "tileloadd tmm4, [{l0} + {stride}]",
                        "tileloadd tmm6, [{b} + {line}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm7, [{b} + {line} + 1024]",
                        prefetch!(),
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "tileloadd tmm5, [{l1} + {stride}]",
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7",
                        // hi * hi
                        "tileloadd tmm4, [{a0} + {stride}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "tileloadd tmm5, [{a1} + {stride}]",
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7",
                        // hi * lo
                        "tileloadd tmm6, [{b} + {line} + 2048]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tileloadd tmm7, [{b} + {line} + 3072]",
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "tdpbf16ps tmm3, tmm5, tmm7",
                        "add {a0}, {step}",
                        "add {l0}, {step}",
                        "add {a1}, {step}",
                        "add {l1}, {step}",
                        "add {b}, 4096",
                        "dec {k}",
                        "jnz 2b",
                        a0 = inout(reg) a[0] => _,
                        l0 = inout(reg) a[0].wrapping_add(low) => _,
                        a1 = inout(reg) a[1] => _,
                        l1 = inout(reg) a[1].wrapping_add(low) => _,
                        stride = in(reg) stride,
                        step = in(reg) step,
                        b = inout(reg) b => _,
                        line = in(reg) line,
                        k = inout(reg) steps => _,
                        pf = inout(reg) ahead => _,
                        lines = const LINES,
                        options(nostack, readonly),
                    ),
                    (Products::Three, false) => asm!(
                        "2:",
                        "tileloadd tmm4, [{l0} + {stride}]",
                        "tileloadd tmm6, [{b} + {line}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm7, [{b} + {line} + 1024]",
                        prefetch!(),
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "tileloadd tmm4, [{a0} + {stride}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "tileloadd tmm6, [{b} + {line} + 2048]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm7, [{b} + {line} + 3072]",
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "add {a0}, {step}",
                        "add {l0}, {step}",
                        "add {b}, 4096",
                        "dec {k}",
                        "jnz 2b",
                        a0 = inout(reg) a[0] => _,
                        l0 = inout(reg) a[0].wrapping_add(low) => _,
                        stride = in(reg) stride,
                        step = in(reg) step,
                        b = inout(reg) b => _,
                        line = in(reg) line,
                        k = inout(reg) steps => _,
                        pf = inout(reg) ahead => _,
                        lines = const LINES,
                        options(nostack, readonly),
                    ),
                    (Products::One, true) => asm!(
                        "2:",
                        "tileloadd tmm4, [{a0} + {stride}]",
                        "tileloadd tmm6, [{b} + {line}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm7, [{b} + {line} + 1024]",
                        prefetch!(),
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "tileloadd tmm5, [{a1} + {stride}]",
                        "tdpbf16ps tmm2, tmm5, tmm6",
                        "tdpbf16ps tmm3, tmm5, tmm7",
                        "add {a0}, {step}",
                        "add {a1}, {step}",
                        "add {b}, 2048",
                        "dec {k}",
                        "jnz 2b",
                        a0 = inout(reg) a[0] => _,
                        a1 = inout(reg) a[1] => _,
                        stride = in(reg) stride,
                        step = in(reg) step,
                        b = inout(reg) b => _,
                        line = in(reg) line,
                        k = inout(reg) steps => _,
                        pf = inout(reg) ahead => _,
                        lines = const LINES,
                        options(nostack, readonly),
                    ),
                    (Products::One, false) => asm!(
                        "2:",
                        "tileloadd tmm4, [{a0} + {stride}]",
                        "tileloadd tmm6, [{b} + {line}]",
                        "tdpbf16ps tmm0, tmm4, tmm6",
                        "tileloadd tmm7, [{b} + {line} + 1024]",
                        prefetch!(),
                        "tdpbf16ps tmm1, tmm4, tmm7",
                        "add {a0}, {step}",
                        "add {b}, 2048",
                        "dec {k}",
                        "jnz 2b",
                        a0 = inout(reg) a[0] => _,
                        stride = in(reg) stride,
                        step = in(reg) step,
                        b = inout(reg) b => _,
                        line = in(reg) line,
                        k = inout(reg) steps => _,
                        pf = inout(reg) ahead => _,
                        lines = const LINES,
                        options(nostack, readonly),
                    ),
                }
            }
        }
    }

    impl Tiles for Amx {
        fn available(isa: Isa) -> bool {
            isa >= Isa::Amx && super::detect()
        }

        unsafe fn enter() -> Amx {
            Amx { rows: [0; 2] }
        }

        fn configure(&mut self, rows: [usize; 2]) {
            if self.rows == rows {
                return;
            }
            let mut c =
                Configuration { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
            let heights = [rows[0], rows[0], rows[1], rows[1], rows[0], rows[1], 16, 16];
            for (i, rows) in heights.into_iter().enumerate().filter(|(_, rows)| *rows > 0) {
                (c.bytes[i], c.rows[i]) = (64, rows as u8);
            }
            // SAFETY: the value exists only where the unit is available; the configuration is one of palette 1.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &c, options(nostack, readonly)) };
            self.rows = rows;
        }

        fn zero(&mut self) {
            // SAFETY: the tiles are configured.
            unsafe {
                asm!("tilezero tmm0", "tilezero tmm1", options(nostack));
                if self.rows[1] > 0 {
                    asm!("tilezero tmm2", "tilezero tmm3", options(nostack));
                }
            }
        }

        unsafe fn add(&mut self, products: Products, steps: usize, rows: &Rows, b: *const u8, ahead: Ahead) {
            // SAFETY: the caller's.
            unsafe {
                match ahead.lines {
                    0 => self.multiply::<0>(products, steps, rows, b, ahead.from),
                    4 => self.multiply::<4>(products, steps, rows, b, ahead.from),
                    8 => self.multiply::<8>(products, steps, rows, b, ahead.from),
                    16 => self.multiply::<16>(products, steps, rows, b, ahead.from),
                    _ => self.multiply::<32>(products, steps, rows, b, ahead.from),
                }
            }
        }

        unsafe fn store(&mut self, to: *mut f32) {
            // SAFETY: by the caller's contract.
            unsafe {
                asm!(
                    "tilestored [{c} + {pitch}], tmm0",
                    "tilestored [{c} + {pitch} + 64], tmm1",
                    c = in(reg) to,
                    pitch = in(reg) 128usize,
                    options(nostack)
                );
                if self.rows[1] > 0 {
                    asm!(
                        "tilestored [{c} + {pitch}], tmm2",
                        "tilestored [{c} + {pitch} + 64], tmm3",
                        c = in(reg) to.add(16 * 32),
                        pitch = in(reg) 128usize,
                        options(nostack)
                    );
                }
            }
        }
    }
}

/// The unit in plain code: the same sums, products of one pair of k after the other.
#[cfg(test)]
#[derive(Debug)]
pub(in crate::cpu) struct Model {
    rows: [usize; 2],
    sums: [[f32; COLS]; 2 * ROWS],
}

#[cfg(test)]
impl Tiles for Model {
    fn available(_: crate::Isa) -> bool {
        true
    }

    unsafe fn enter() -> Model {
        Model { rows: [0; 2], sums: [[f32::NAN; COLS]; 2 * ROWS] }
    }

    fn configure(&mut self, rows: [usize; 2]) {
        assert!((1..=ROWS).contains(&rows[0]) && rows[1] <= ROWS, "{rows:?}");
        *self = Model { rows, sums: [[f32::NAN; COLS]; 2 * ROWS] };
    }

    fn zero(&mut self) {
        self.sums = [[0.0; COLS]; 2 * ROWS];
    }

    unsafe fn add(&mut self, products: Products, steps: usize, rows: &Rows, b: *const u8, _ahead: Ahead) {
        let bf16 = |p: *const u8, i: usize| {
            // SAFETY: by the caller's contract.
            let bits = unsafe { p.cast::<u16>().add(i).read_unaligned() };
            f32::from_bits(u32::from(bits) << 16)
        };
        let pairs: &[(usize, usize)] = match products {
            Products::One => &[(0, 0)],
            Products::Three => &[(1, 0), (0, 0), (0, 1)],
        };
        for step in 0..steps {
            for &(left, right) in pairs {
                for (group, a) in rows.start.into_iter().enumerate() {
                    for i in 0..self.rows[group] {
                        let row = a.wrapping_add(i * rows.stride + step * rows.step + left * rows.low);
                        for j in 0..COLS {
                            let tile = step * products.panel_bytes() + right * 2048 + j / 16 * 1024;
                            let tile = b.wrapping_add(tile);
                            let sum = &mut self.sums[group * ROWS + i][j];
                            for k in 0..STEP {
                                *sum += bf16(row, k) * bf16(tile, (k / 2 * 16 + j % 16) * 2 + k % 2);
                            }
                        }
                    }
                }
            }
        }
    }

    unsafe fn store(&mut self, to: *mut f32) {
        assert!((to as usize).is_multiple_of(64));
        for group in 0..2 {
            for i in 0..self.rows[group] {
                // SAFETY: by the caller's contract.
                unsafe {
                    let to = to.add((group * ROWS + i) * COLS);
                    std::ptr::copy_nonoverlapping(self.sums[group * ROWS + i].as_ptr(), to, COLS);
                }
            }
        }
    }
}
