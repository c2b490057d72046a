//! What a tactic is: one way to compute an operator.
//!
//! The life of a tactic in an engine: the builder asks [`Tactic::accepts`] for representative shapes and packs constant
//! operands once ([`Tactic::packing`], [`Tactic::pack`]); each specialization (set of concrete shapes) asks
//! [`Tactic::prepare`] for a [`Kernel`]; every run calls [`Kernel::run`] for each of its tasks.

use crate::Isa;
use engraft_network::{DType, Op, Tensor};
use smallvec::SmallVec;
use std::ops::Range;

/// Concrete type and placement of an operand or a result.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TensorDesc {
    pub dtype: DType,
    pub shape: SmallVec<[usize; 6]>,
    /// In elements; 0 broadcasts. Axes of size 1 may have any stride.
    pub strides: SmallVec<[isize; 6]>,
}

impl Clone for TensorDesc {
    /// As one copy each, not element by element: specializing copies many.
    fn clone(&self) -> TensorDesc {
        let (shape, strides) = (SmallVec::from_slice(&self.shape), SmallVec::from_slice(&self.strides));
        TensorDesc { dtype: self.dtype, shape, strides }
    }
}

impl TensorDesc {
    /// Dense, row-major.
    pub fn dense(dtype: DType, shape: &[usize]) -> TensorDesc {
        let mut strides: SmallVec<[isize; 6]> = SmallVec::from_elem(0, shape.len());
        let mut step = 1isize;
        for (s, d) in strides.iter_mut().zip(shape).rev() {
            *s = step;
            step *= (*d).max(1) as isize;
        }
        TensorDesc { dtype, shape: shape.into(), strides }
    }

    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// True if the elements lie dense in row-major order (axes of size 1 and empty tensors are always fine).
    pub fn is_dense(&self) -> bool {
        if self.count() == 0 {
            return true;
        }
        let mut step = 1isize;
        for (d, s) in self.shape.iter().zip(&self.strides).rev() {
            if *d != 1 && *s != step {
                return false;
            }
            step *= *d as isize;
        }
        true
    }

    /// Bytes of a dense tensor of this type and shape.
    pub fn dense_bytes(&self) -> usize {
        self.dtype.bytes(self.count())
    }
}

/// An operand of a [`Problem`].
#[derive(Clone, Debug)]
pub struct Operand<'a> {
    pub desc: TensorDesc,
    /// The value, where it is known when the engine is built. At specialization time it is present as well.
    pub constant: Option<&'a Tensor>,
}

/// Arithmetic that may be used for products of operands that the network declares as `f32`. Sums are always `f32`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single precision; sums in any order.
    Fp32,
    /// At least the accuracy of TF32 (10 bits of significand): where tiles of bf16 are at hand, three products of split
    /// operands with relative errors of about 5e-6; elsewhere `f32`, convolutions also by minimal filtering (`cpu::winograd`)
    /// with errors of about 1e-6.
    #[default]
    Tf32,
    /// Operands of products rounded to bf16 (8 bits of significand) where that is faster: both on tiles, the weights alone in
    /// products of few rows.
    Bf16,
}

impl Precision {
    pub const ALL: [Precision; 3] = [Precision::Fp32, Precision::Tf32, Precision::Bf16];

    pub fn name(self) -> &'static str {
        match self {
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        }
    }

    /// The precision of that name, in any case of letters.
    pub fn from_name(name: &str) -> Option<Precision> {
        Self::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name))
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// An operator on concrete operands. Operands stand in the operator's order (matrices, bias, extras).
#[derive(Clone, Debug)]
pub struct Problem<'a> {
    pub op: &'a Op,
    pub inputs: &'a [Operand<'a>],
    pub outputs: &'a [TensorDesc],
    /// Threads that will share the work.
    pub threads: usize,
    /// Instruction sets that may be used.
    pub isa: Isa,
    /// Arithmetic that products of `f32` operands may use.
    pub precision: Precision,
    /// Values of the network's symbols (for dims among the operator's attributes).
    pub env: &'a [i64],
}

/// A tactic's estimate for a problem that it accepts.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    /// Expected time in nanoseconds on the problem's number of threads.
    pub cost_ns: f64,
}

/// Why a tactic does not take a problem: for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject(pub String);

impl Reject {
    pub fn new(reason: impl Into<String>) -> Reject {
        Reject(reason.into())
    }
}

impl std::fmt::Display for Reject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a tactic counts as in reports and under the `profit` policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Optimized,
    /// Correct, not fast: layers that only this runs stay with the host under `profit`.
    Reference,
}

/// One way to compute an operator on the CPU.
pub trait Tactic: Sync {
    /// Stable name, part of plans and timing caches: `conv.f32.avx512.12x32`.
    fn id(&self) -> &'static str;

    /// To be raised when the tactic's results, packing or speed change.
    fn version(&self) -> u32 {
        1
    }

    fn class(&self) -> Class {
        Class::Optimized
    }

    /// The one type that the tactic computes in, if narrower operands may be converted to it: the catalog then offers the
    /// tactic for those too (`cpu::widened`).
    fn computes(&self) -> Option<DType> {
        None
    }

    /// Whether the tactic computes the problem as it stands: op, dtypes, shapes and **strides** of every operand and
    /// result. Cheap (well under a microsecond for a refusal by operator).
    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject>;

    /// The name of the packing in which constant operand `input` is wanted, or `None` for the plain tensor. Depends on
    /// the operator, dtypes, the constant and the ISA only (not on other shapes), so that all specializations share it; tactics of one
    /// family give the same name where they read the same packing.
    fn packing(&self, _p: &Problem<'_>, _input: usize) -> Option<&'static str> {
        None
    }

    /// Whether packing constant operand `input` only moves elements of 4 or 8 bytes, each bit by bit to a place that its
    /// number alone decides, among zeros: then [`unpack`](crate::unpack) has the constant back, and a plan need not hold
    /// it beside its packed form.
    fn packing_moves(&self, _p: &Problem<'_>, _input: usize) -> bool {
        false
    }

    /// Size of the packed operand.
    fn packed_bytes(&self, _p: &Problem<'_>, _input: usize) -> usize {
        0
    }

    /// Writes the packed operand: `out` is zeroed, 64-byte aligned, and has [`Tactic::packed_bytes`] bytes.
    fn pack(&self, _p: &Problem<'_>, _input: usize, _out: &mut [u8]) {}

    /// The kernel for a problem that [`Tactic::accepts`]. About a microsecond: it runs for every layer at every new shape.
    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel>;

    /// [`Tactic::accepts`] and [`Tactic::prepare`] in one, for a tactic that is as good as chosen.
    fn try_prepare(&self, p: &Problem<'_>) -> Result<(Fit, Box<dyn Kernel>), Reject> {
        let fit = self.accepts(p)?;
        Ok((fit, self.prepare(p)))
    }
}

/// A tactic whose estimate is made from its kernel. Its [`Tactic`] says [`built`].
pub(crate) trait Build: Tactic {
    type Kernel: Kernel + 'static;

    fn build(&self, p: &Problem<'_>) -> Result<Self::Kernel, Reject>;

    /// The estimate for a kernel that was built for `p`. Errors: a kernel that could run, but never should.
    fn fit(&self, kernel: &Self::Kernel, p: &Problem<'_>) -> Result<Fit, Reject>;

    /// [`Tactic::accepts`].
    fn fit_of(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        self.fit(&self.build(p)?, p)
    }

    /// [`Tactic::prepare`].
    fn boxed(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        match self.build(p) {
            Ok(kernel) => Box::new(kernel),
            Err(reject) => unreachable!("{}: prepared for a problem that it rejects: {reject}", self.id()),
        }
    }

    /// [`Tactic::try_prepare`].
    fn boxed_fit(&self, p: &Problem<'_>) -> Result<(Fit, Box<dyn Kernel>), Reject> {
        let kernel = self.build(p)?;
        Ok((self.fit(&kernel, p)?, Box::new(kernel)))
    }
}

/// The methods of a [`Tactic`] that [`Build`] gives.
macro_rules! built {
    () => {
        fn accepts(&self, p: &$crate::Problem<'_>) -> Result<$crate::Fit, $crate::Reject> {
            $crate::tactic::Build::fit_of(self, p)
        }

        fn prepare(&self, p: &$crate::Problem<'_>) -> Box<dyn $crate::Kernel> {
            $crate::tactic::Build::boxed(self, p)
        }

        fn try_prepare(
            &self,
            p: &$crate::Problem<'_>,
        ) -> Result<($crate::Fit, Box<dyn $crate::Kernel>), $crate::Reject> {
            $crate::tactic::Build::boxed_fit(self, p)
        }
    };
}
pub(crate) use built;

/// An operator made ready for concrete shapes: immutable, shared by all threads and contexts.
pub trait Kernel: Send + Sync {
    /// Number of tasks per phase. Tasks of a phase are independent: they run in any order on any threads. Phases run
    /// one after another. An empty slice is no work.
    fn phases(&self) -> &[usize];

    /// Bytes of private scratch of an executing thread, 64-byte aligned, undefined at the start of every task.
    fn scratch_bytes(&self) -> usize {
        0
    }

    /// Bytes of memory shared by all tasks of one execution, 64-byte aligned, undefined at the start of the first phase.
    fn workspace_bytes(&self) -> usize {
        0
    }

    /// Runs one task.
    ///
    /// # Safety
    /// `args` holds the operands and results of the problem that the kernel was prepared for, at their strides (packed
    /// operands in the tactic's packing); results do not overlap operands, except exactly in place where
    /// [`Kernel::in_place`] allows it; scratch and workspace have the sizes asked for.
    unsafe fn run(&self, phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError>;

    /// The pixels that a task touches, for a kernel of one phase and one result whose tasks each compute all channels of some
    /// pixels, from the first pixel on to the last. Operands of the result's height and width are read at the pixels written, but
    /// for operand 0. `None` for kernels that cannot say.
    fn reach(&self, _task: usize) -> Option<Reach> {
        None
    }

    /// Whether result 0 may share the memory of operand `input` (same dtype, shape and strides).
    fn in_place(&self, _input: usize) -> bool {
        false
    }
}

/// Pixels that a task of a kernel over images touches: places along all axes but the last, counted row by row. No bound is below
/// that of an earlier task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Pixels of the result, among them all that the task writes.
    pub writes: Range<usize>,
    /// Pixels of operand 0, among them all that the task reads.
    pub reads: Range<usize>,
    /// Pixels of the result, from the first on, that are complete when this and all earlier tasks are over.
    pub complete: usize,
}

/// Memory of one execution of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    pub inputs: &'a [*const u8],
    pub outputs: &'a [*mut u8],
    pub scratch: *mut u8,
    pub workspace: *mut u8,
}

/// What can go wrong while a kernel runs: data-dependent faults only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error("index {index} is out of range for an axis of {size}")]
    Index { index: i64, size: usize },
    #[error("{0}")]
    Data(String),
}

/// Threads that share the tasks of a run.
pub trait Workers: Sync {
    fn threads(&self) -> usize;

    /// Calls `f(0)..f(n - 1)` once each, in any order, on one thread or many; returns when all are done. The caller
    /// takes part and may be the only one. `f` never calls `run` again.
    fn run(&self, n: usize, f: &(dyn Fn(usize) + Sync));
}

/// Everything on the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Workers for Serial {
    fn threads(&self) -> usize {
        1
    }

    fn run(&self, n: usize, f: &(dyn Fn(usize) + Sync)) {
        (0..n).for_each(f);
    }
}
