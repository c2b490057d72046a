//! Products of rows with packed matrices, for kernels of other operators that multiply on the way.

use super::source::{Kind, Source};
use super::split::{self, PackPanel};
use super::sweep::TileSweep;
use super::tactic::with_groups;
use super::tile::{COLS, Products, ROWS, STEP, Tiles};
use crate::Isa;
use crate::cpu::gemm::rows::RowMap;
use crate::cpu::gemm::sweep::Finish;
use crate::cpu::simd::dispatch;
use std::marker::PhantomData;
use std::ops::Range;

/// `C[m, n] = A[m, k] * B`, B packed in panels of [`COLS`] columns.
pub(in crate::cpu) trait RowProduct: Send + Sync {
    /// Bytes of the packed matrix.
    fn packed_bytes(&self) -> usize;

    /// Scratch that [`RowProduct::run`] needs, 64-byte aligned.
    fn scratch_bytes(&self) -> usize;

    /// Computes rows `rows` and panels `panels` of C.
    ///
    /// # Safety
    /// `a` and `c` hold the rows, `b` is packed, `scratch` holds what was asked for.
    unsafe fn run(
        &self,
        a: *const f32,
        rows: Range<usize>,
        panels: Range<usize>,
        b: *const u8,
        c: *mut f32,
        scratch: *mut u8,
    );
}

/// On the unit `T`.
pub(in crate::cpu) struct TileProduct<T> {
    sweep: TileSweep,
    marker: PhantomData<fn() -> T>,
}

impl<T: Tiles> TileProduct<T> {
    /// Rows of A of `k` consecutive elements, and rows of C of `n`.
    pub fn new(products: Products, a: RowMap, k: usize, n: usize, c: RowMap, isa: Isa) -> TileProduct<T> {
        let source = Source::new(Kind::Rows { rows: a, step: 1 }, products, k, false);
        let isa = Isa::best_within(Some(isa));
        let sweep = TileSweep {
            source,
            products,
            n,
            out: c,
            residual: c,
            narrow: false,
            narrow_residual: false,
            isa,
        };
        TileProduct { sweep, marker: PhantomData }
    }
}

impl<T: Tiles> RowProduct for TileProduct<T> {
    fn packed_bytes(&self) -> usize {
        packed_bytes(self.sweep.products, self.sweep.source.run, self.sweep.n)
    }

    fn scratch_bytes(&self) -> usize {
        self.sweep.scratch_bytes()
    }

    unsafe fn run(
        &self,
        a: *const f32,
        rows: Range<usize>,
        panels: Range<usize>,
        b: *const u8,
        c: *mut f32,
        scratch: *mut u8,
    ) {
        // SAFETY: by the caller's contract; who made one has found the unit available.
        with_groups(|groups| unsafe {
            self.sweep.run::<T>(a.cast(), rows, panels, b, c.cast(), &Finish::none(), scratch, groups);
        });
    }
}

/// Bytes of a packed matrix of `k` rows and `n` columns.
pub(in crate::cpu) fn packed_bytes(products: Products, k: usize, n: usize) -> usize {
    split::packed_bytes(products, 1, k, n)
}

/// Packs one panel: a dense matrix of `k` rows of [`COLS`] columns.
pub(in crate::cpu) fn pack_panel(products: Products, isa: Isa, panel: &[f32], k: usize, to: &mut [u8]) {
    assert_eq!((panel.len(), to.len()), (k * COLS, packed_bytes(products, k, COLS)), "sizes of a panel");
    let (from, to) = (panel.as_ptr(), to.as_mut_ptr());
    let pack = PackPanel { products, from, row: COLS as isize, col: 1, taps: 1, k, n: COLS, panel: 0, to };
    dispatch(isa, pack);
}

/// Expected nanoseconds of a product of `m` rows on one thread.
pub(in crate::cpu) fn cost(products: Products, m: f64, k: usize, n: usize) -> f64 {
    let (speed, splitting) = products.costs();
    let depth = (split::steps(k) * STEP) as f64;
    let columns = (split::panels(n) * COLS) as f64;
    let height = (m / ROWS as f64).min(1.0);
    m * (depth * columns / (speed * (0.3 + 0.7 * height)) + k as f64 * splitting + n as f64 * 0.2)
}
