//! From an operator's [`Epilogue`] to what the matrix kernels do with their sums.
//!
//! A bias, one added matrix and clipping happen in registers. Longer chains of one running value (activations, then
//! sums or products with constants and further operands) run over each finished block while it is in L1, and so does
//! any other expression, as a compiled [`Program`].

use super::chain::{Chain, Step, chain, has_vector_form};
use super::lanes::Elem;
use super::rows::RowMap;
use super::sweep::{Finish, Post};
use crate::cpu::pointwise::{Program, RowOperand};
use crate::cpu::widened::expression::widen;
use crate::{Args, Isa, Operand, Reject, TensorDesc};
use engraft_network::ops::Epilogue;
use engraft_network::{BinaryOp, DType, Expr, UnaryOp};
use smallvec::SmallVec;

/// An element type of the matrix operators with what epilogues need to know of it.
pub trait Number: Elem {
    const DTYPE: DType;
    /// Whether [`Chain`] runs on it.
    const CHAINS: bool;
    /// The value of a literal, rounded as a literal of this type is.
    fn literal(x: f64) -> Self;
    const LOWEST: Self;
    const HIGHEST: Self;
}

macro_rules! number {
    ($($t:ty, $dtype:ident, $chains:literal, $low:expr, $high:expr;)*) => {$(
        impl Number for $t {
            const DTYPE: DType = DType::$dtype;
            const CHAINS: bool = $chains;
            fn literal(x: f64) -> Self {
                x as $t
            }
            const LOWEST: Self = $low;
            const HIGHEST: Self = $high;
        }
    )*};
}
number! {
    f32, F32, true, f32::NEG_INFINITY, f32::INFINITY;
    f64, F64, false, f64::NEG_INFINITY, f64::INFINITY;
    i32, I32, false, i32::MIN, i32::MAX;
    i64, I64, false, i64::MIN, i64::MAX;
}

/// An operand of the epilogue as rows of the output see it.
#[derive(Clone, Copy, Debug)]
pub struct Extra {
    /// Position among the node's operands.
    pub(super) input: usize,
    pub(super) rows: RowMap,
    /// 1, or 0 where one value serves all columns.
    pub(super) col: isize,
    /// Distance of the window's first element from the operand's.
    pub(super) offset: isize,
    /// Bytes of an element.
    pub(super) size: usize,
    /// Whether elements are bf16 under an epilogue of `f32`.
    pub(super) narrow: bool,
}

/// Every `step`-th position from `start` on, `count` of them, of one axis of a result: what one pass computes.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: usize,
    pub step: usize,
    pub count: usize,
}

/// An operator's epilogue, made ready for concrete operands.
#[derive(Clone, Debug)]
pub struct Finisher<E> {
    bias: Option<usize>,
    residual: Option<Extra>,
    clip: Option<(E, E)>,
    pub(super) steps: SmallVec<[Step; 4]>,
    pub(super) extras: SmallVec<[Extra; 2]>,
    /// The whole expression, where it is not such a chain.
    program: Option<Program>,
    pub(super) isa: Isa,
}

/// Rows of `desc`, an operand that broadcasts to `shape`, over all axes of `shape` but the last, and its column stride
/// and offset. Axes beyond `windows` are taken whole.
fn rows_of(desc: &TensorDesc, shape: &[usize], windows: &[Window]) -> Result<(RowMap, isize, isize), Reject> {
    let shift = shape
        .len()
        .checked_sub(desc.rank())
        .ok_or_else(|| Reject::new("operand of higher rank than the result"))?;
    let stride = |axis: usize| match axis.checked_sub(shift) {
        Some(a) if desc.shape[a] != 1 => desc.strides[a],
        _ => 0,
    };
    let last = shape.len() - 1;
    let mut offset = 0;
    let dims = (0..last).map(|a| match windows.get(a) {
        Some(w) => {
            offset += w.start as isize * stride(a);
            (w.count, w.step as isize * stride(a))
        }
        None => (shape[a], stride(a)),
    });
    let rows = RowMap::new(dims).ok_or_else(|| Reject::new("rows at more than four strides"))?;
    Ok((rows, if shape[last] == 1 { 0 } else { stride(last) }, offset))
}

/// Rows of a result: the last axis must have stride 1 (or one element).
pub fn dense_rows(desc: &TensorDesc) -> Result<RowMap, Reject> {
    dense_window(desc, &[]).map(|(rows, _)| rows)
}

/// The same for a window of the leading axes, with the offset of its first row.
pub fn dense_window(desc: &TensorDesc, windows: &[Window]) -> Result<(RowMap, isize), Reject> {
    let (rows, col, offset) = rows_of(desc, &desc.shape, windows)?;
    if col == 1 || desc.shape.last() == Some(&1) {
        Ok((rows, offset))
    } else {
        Err(Reject::new("last axis is not contiguous"))
    }
}

impl<E: Number> Finisher<E> {
    /// `first` is the position of the epilogue's first operand.
    ///
    /// # Errors
    /// An operand whose strides or type the kernels do not read in place, or an expression that is no chain of
    /// vectorised steps.
    pub fn new(
        epilogue: &Epilogue,
        inputs: &[Operand<'_>],
        first: usize,
        output: &TensorDesc,
        isa: Isa,
    ) -> Result<Self, Reject> {
        Self::windowed(epilogue, inputs, first, output, isa, &[])
    }

    /// The same for a window of the result; rows are those of the window.
    pub fn windowed(
        epilogue: &Epilogue,
        inputs: &[Operand<'_>],
        first: usize,
        output: &TensorDesc,
        isa: Isa,
        windows: &[Window],
    ) -> Result<Self, Reject> {
        Self::made(epilogue, inputs, first, output, isa, windows, false)
    }

    /// `narrow`: the result and operands of the epilogue may be bf16 in memory, where `E` is `f32`.
    fn made(
        epilogue: &Epilogue,
        inputs: &[Operand<'_>],
        first: usize,
        output: &TensorDesc,
        isa: Isa,
        windows: &[Window],
        narrow: bool,
    ) -> Result<Self, Reject> {
        let sums = if narrow { DType::F32 } else { output.dtype };
        let mut finisher = Finisher {
            bias: None,
            residual: None,
            clip: None,
            steps: SmallVec::new(),
            extras: SmallVec::new(),
            program: None,
            isa,
        };
        let mut next = first;
        if epilogue.bias {
            let desc = &inputs.get(first).ok_or_else(|| Reject::new("the bias is missing"))?.desc;
            if desc.dtype != sums || desc.strides.last() != Some(&1) && desc.count() != 1 {
                return Err(Reject::new("the bias is not contiguous"));
            }
            finisher.bias = Some(first);
            next += 1;
        }
        let Some(expr) = &epilogue.post else { return Ok(finisher) };
        let extras = inputs.get(next..).unwrap_or_default().iter().map(|o| o.desc.dtype);
        let types: SmallVec<[DType; 6]> = std::iter::once(inputs[0].desc.dtype).chain(extras).collect();
        let wide = if narrow { Some(widen(expr, &types, sums)?) } else { None };
        let expr = wide.as_ref().unwrap_or(expr);
        let readable = types[1..].iter().all(|t| *t == sums || narrow && *t == DType::BF16);
        let Some(steps) = chain(expr).filter(|_| readable) else {
            return finisher.with_program(expr, inputs, next, sums, output, windows);
        };
        for step in &steps {
            let Step::Extra { input, .. } = *step else { continue };
            let extra = Extra::new(inputs, next + usize::from(input) - 1, sums, output, windows)?;
            if !matches!(extra.col, 0 | 1) {
                return finisher.with_program(expr, inputs, next, sums, output, windows);
            }
            finisher.extras.push(extra);
        }
        let mut extra = 0;
        let mut rest = &steps[..];
        if let [Step::Extra { op: BinaryOp::Add, .. }, more @ ..] = rest
            && (finisher.extras[0].col == 1 || output.shape.last() == Some(&1))
        {
            finisher.residual = Some(finisher.extras[0]);
            (rest, extra) = (more, 1);
        }
        while let [step, more @ ..] = rest {
            let (op, bound) = match *step {
                Step::Unary(UnaryOp::Relu) => (BinaryOp::Max, 0.0),
                Step::Literal { op: op @ (BinaryOp::Max | BinaryOp::Min), value, .. } if !value.is_nan() => {
                    (op, value)
                }
                _ => break,
            };
            let bound = E::literal(bound);
            let (low, high) = finisher.clip.unwrap_or((E::LOWEST, E::HIGHEST));
            finisher.clip = Some(match op {
                BinaryOp::Max => (low.at_least(bound), high.at_least(bound)),
                _ => (low.at_most(bound), high.at_most(bound)),
            });
            rest = more;
        }
        if !rest.is_empty() && (!E::CHAINS || !rest.iter().all(has_vector_form)) {
            (finisher.residual, finisher.clip) = (None, None);
            finisher.extras.clear();
            return finisher.with_program(expr, inputs, next, sums, output, windows);
        }
        finisher.steps = rest.into();
        finisher.extras.drain(..extra);
        Ok(finisher)
    }

    /// Whether the residual's rows are of bf16.
    pub fn narrow_residual(&self) -> bool {
        self.residual.is_some_and(|extra| extra.narrow)
    }

    /// Compiles the expression over `sums` whose operands after them start at `next`.
    fn with_program(
        mut self,
        expr: &Expr,
        inputs: &[Operand<'_>],
        next: usize,
        sums: DType,
        output: &TensorDesc,
        windows: &[Window],
    ) -> Result<Self, Reject> {
        self.extras.clear();
        let mut types: SmallVec<[DType; 4]> = SmallVec::new();
        types.push(sums);
        for i in 0..expr.arity().saturating_sub(1) {
            let extra = Extra::new(inputs, next + i, sums, output, windows)?;
            types.push(inputs[next + i].desc.dtype);
            self.extras.push(extra);
        }
        let types = &types[..expr.arity()];
        let narrow: SmallVec<[bool; 6]> =
            std::iter::once(false).chain(self.extras.iter().map(|extra| extra.narrow)).collect();
        let program = match narrow.contains(&true) {
            true => Program::compile(&expr.converting(&narrow, sums), types, self.isa)?,
            false => Program::compile(expr, types, self.isa)?,
        };
        if program.output() != sums || expr.arity() == 0 {
            return Err(Reject::new("the epilogue gives another type"));
        }
        self.program = Some(program);
        Ok(self)
    }

    /// Bytes of 64-byte aligned scratch that [`Finisher::with`] wants.
    pub fn scratch_bytes(&self) -> usize {
        self.program.as_ref().map_or(0, |p| {
            let copy = if p.overwrites() { 0 } else { CHUNK * size_of::<E>() };
            p.rows_scratch_bytes().next_multiple_of(64) + copy
        })
    }

    /// Rows of the residual; those of `out` where there is none.
    pub fn residual_rows(&self, out: RowMap) -> RowMap {
        self.residual.map_or(out, |extra| extra.rows)
    }

    /// Nanoseconds that the steps outside of registers take per element, roughly.
    pub fn cost_per_element(&self) -> f64 {
        let step = |s: &Step| match s {
            Step::Unary(UnaryOp::Relu | UnaryOp::HardSwish | UnaryOp::Neg | UnaryOp::Abs) => 0.05,
            Step::Unary(_) => 0.4,
            _ => 0.1,
        };
        self.steps.iter().map(step).sum::<f64>()
            + self.program.as_ref().map_or(0.0, |p| 0.5 + p.cost_per_element())
    }

    /// Whether the result may take the place of operand `input`.
    pub fn in_place(&self, input: usize) -> bool {
        self.program.is_none()
            && self.residual.is_some_and(|extra| extra.input == input)
            && self.extras.iter().all(|extra| extra.input != input)
    }

    /// Calls `f` with the epilogue for the columns from `col0` on, whose pointers start there.
    ///
    /// # Safety
    /// `args` holds the operands that the finisher was made for; `scratch` has [`Finisher::scratch_bytes`].
    pub unsafe fn with<R>(
        &self,
        args: &Args<'_>,
        col0: usize,
        scratch: *mut u8,
        f: impl FnOnce(&Finish<'_, E>) -> R,
    ) -> R {
        let at = |extra: &Extra| {
            let distance = extra.offset + col0 as isize * extra.col;
            args.inputs[extra.input].wrapping_offset(distance * extra.size as isize).cast::<E>()
        };
        let bias = self.bias.map_or(std::ptr::null(), |i| args.inputs[i].cast::<E>().wrapping_add(col0));
        let residual = self.residual.as_ref().map_or(std::ptr::null(), at);
        if self.steps.is_empty() && self.program.is_none() {
            return f(&Finish { bias, residual, clip: self.clip, post: None });
        }
        let bases: SmallVec<[*const E; 4]> = self.extras.iter().map(at).collect();
        match &self.program {
            Some(program) => {
                let post = Compiled { program, finisher: self, bases, scratch };
                f(&Finish { bias, residual, clip: self.clip, post: Some(&post) })
            }
            None => {
                let post = Chain { finisher: self, bases };
                f(&Finish { bias, residual, clip: self.clip, post: Some(&post) })
            }
        }
    }
}

impl Extra {
    fn new(
        inputs: &[Operand<'_>],
        input: usize,
        sums: DType,
        output: &TensorDesc,
        windows: &[Window],
    ) -> Result<Self, Reject> {
        let desc = &inputs.get(input).ok_or_else(|| Reject::new("an epilogue operand is missing"))?.desc;
        let (rows, col, offset) = rows_of(desc, &output.shape, windows)?;
        if desc.dtype.bits() < 8 {
            return Err(Reject::new("an epilogue operand of 4-bit elements"));
        }
        let narrow = sums == DType::F32 && desc.dtype == DType::BF16;
        Ok(Extra { input, rows, col, offset, size: desc.dtype.bits() / 8, narrow })
    }
}

impl Finisher<f32> {
    /// [`Finisher::windowed`] for a result and further operands that are `f32` or bf16 in memory; the bias is `f32`. Where
    /// [`Finisher::narrow_residual`], the residual that [`Finisher::with`] gives points to bf16.
    pub fn storing(
        epilogue: &Epilogue,
        inputs: &[Operand<'_>],
        first: usize,
        output: &TensorDesc,
        isa: Isa,
        windows: &[Window],
    ) -> Result<Self, Reject> {
        Self::made(epilogue, inputs, first, output, isa, windows, true)
    }
}

/// Elements that an expression which cannot overwrite its operand computes at a time.
const CHUNK: usize = 256;

/// A compiled expression over finished blocks.
struct Compiled<'a, E> {
    program: &'a Program,
    finisher: &'a Finisher<E>,
    bases: SmallVec<[*const E; 4]>,
    scratch: *mut u8,
}

impl<E: Number> Post<E> for Compiled<'_, E> {
    unsafe fn apply(&self, c: &[*mut E], row: usize, col: usize, cols: usize) {
        let overwrites = self.program.overwrites();
        let own = self.program.rows_scratch_bytes().next_multiple_of(64);
        let step = if overwrites { cols } else { CHUNK };
        let mut operands: SmallVec<[RowOperand; 6]> = SmallVec::new();
        for (i, c) in c.iter().enumerate() {
            for at in (0..cols).step_by(step.max(1)) {
                let n = step.min(cols - at);
                let c = c.wrapping_add(col + at).cast::<u8>();
                operands.clear();
                operands.push(RowOperand { ptr: c, row_stride: 0, col_stride: 1 });
                for (extra, base) in self.finisher.extras.iter().zip(&self.bases) {
                    let distance = extra.rows.offset(row + i) + (col + at) as isize * extra.col;
                    let ptr = base.cast::<u8>().wrapping_offset(distance * extra.size as isize);
                    operands.push(RowOperand { ptr, row_stride: 0, col_stride: extra.col });
                }
                // SAFETY: the row is writable in the block's columns, operands are as the finisher was made for, and
                // the scratch has room for the program and a chunk.
                unsafe {
                    let out = if overwrites { c } else { self.scratch.add(own) };
                    self.program.apply_rows(&operands, out, 0, (1, n), self.scratch);
                    if !overwrites {
                        std::ptr::copy_nonoverlapping(out, c, n * size_of::<E>());
                    }
                }
            }
        }
    }
}

/// The type of a tensor that kernels over `E` compute.
pub fn is_type<E: Number>(dtype: DType) -> bool {
    use std::any::TypeId;
    let id = TypeId::of::<E>();
    match dtype {
        DType::F32 => id == TypeId::of::<f32>(),
        DType::F64 => id == TypeId::of::<f64>(),
        DType::I32 | DType::U32 => id == TypeId::of::<i32>(),
        DType::I64 | DType::U64 => id == TypeId::of::<i64>(),
        _ => false,
    }
}
