//! From an operator's [`Epilogue`] to what the matrix kernels do with their sums.
//!
//! A bias, one added matrix and clipping happen in registers. Longer chains of one running value (activations, then
//! sums or products with constants and further operands) run over each finished block while it is in L1, and so does
//! any other expression, as a compiled [`Program`].

use super::lanes::Elem;
use super::rows::RowMap;
use super::sweep::{Finish, Post};
use crate::cpu::math;
use crate::cpu::pointwise::{Program, RowOperand};
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::{Args, Isa, Operand, Reject, TensorDesc};
use engraft_network::ops::Epilogue;
use engraft_network::{BinaryOp, DType, Expr, ExprNode, UnaryOp};
use smallvec::SmallVec;

/// An element type of the matrix operators with what epilogues need to know of it.
pub trait Number: Elem {
    /// Whether [`Chain`] runs on it.
    const CHAINS: bool;
    /// The value of a literal, rounded as a literal of this type is.
    fn literal(x: f64) -> Self;
    const LOWEST: Self;
    const HIGHEST: Self;
}

macro_rules! number {
    ($($t:ty, $chains:literal, $low:expr, $high:expr;)*) => {$(
        impl Number for $t {
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
    f32, true, f32::NEG_INFINITY, f32::INFINITY;
    f64, false, f64::NEG_INFINITY, f64::INFINITY;
    i32, false, i32::MIN, i32::MAX;
    i64, false, i64::MIN, i64::MAX;
}

/// One step of a chain: the running value becomes `op(value, ..)`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Unary(UnaryOp),
    /// With a literal; the literal comes first where `reversed`.
    Literal {
        op: BinaryOp,
        value: f64,
        reversed: bool,
    },
    /// With an operand of the expression.
    Extra {
        op: BinaryOp,
        input: u16,
        reversed: bool,
    },
}

/// The steps of `expr` in order, if it is a chain from input 0 on.
fn chain(expr: &Expr) -> Option<SmallVec<[Step; 4]>> {
    let nodes = expr.nodes();
    let mut steps = SmallVec::new();
    let mut at = nodes.len().checked_sub(1)?;
    // What a node is, other than a link of the chain.
    let leaf = |i: u16, op: BinaryOp, reversed: bool| match nodes[usize::from(i)] {
        ExprNode::Const(c) if c.dtype().is_float() || c.to_f64().abs() < 2f64.powi(53) => {
            Some(Step::Literal { op, value: c.to_f64(), reversed })
        }
        ExprNode::Input(input) if input > 0 => Some(Step::Extra { op, input, reversed }),
        _ => None,
    };
    loop {
        at = usize::from(match nodes[at] {
            ExprNode::Input(0) => break,
            ExprNode::Unary(op, a) => {
                steps.push(Step::Unary(op));
                a
            }
            ExprNode::Binary(BinaryOp::Mul, a, b)
                if nodes[usize::from(b)] == ExprNode::Unary(UnaryOp::Sigmoid, a) =>
            {
                steps.push(Step::Unary(UnaryOp::Silu));
                a
            }
            ExprNode::Binary(BinaryOp::Mul, a, b)
                if nodes[usize::from(a)] == ExprNode::Unary(UnaryOp::Sigmoid, b) =>
            {
                steps.push(Step::Unary(UnaryOp::Silu));
                b
            }
            ExprNode::Binary(op, a, b) => {
                if let Some(step) = leaf(b, op, false) {
                    steps.push(step);
                    a
                } else {
                    steps.push(leaf(a, op, true)?);
                    b
                }
            }
            _ => return None,
        });
    }
    steps.reverse();
    Some(steps)
}

fn has_vector_form(step: &Step) -> bool {
    use BinaryOp::{Add, Div, Max, Min, Mul, Sub};
    match step {
        Step::Unary(op) => {
            use UnaryOp::*;
            matches!(
                op,
                Neg | Abs
                    | Recip
                    | Sqrt
                    | Exp
                    | Log
                    | Tanh
                    | Erf
                    | Sigmoid
                    | Softplus
                    | Relu
                    | Gelu
                    | GeluTanh
                    | Silu
                    | HardSwish
            )
        }
        Step::Literal { op, .. } | Step::Extra { op, .. } => matches!(op, Add | Sub | Mul | Div | Max | Min),
    }
}

/// An operand of the epilogue as rows of the output see it.
#[derive(Clone, Copy, Debug)]
struct Extra {
    /// Position among the node's operands.
    input: usize,
    rows: RowMap,
    /// 1, or 0 where one value serves all columns.
    col: isize,
    /// Distance of the window's first element from the operand's.
    offset: isize,
    /// Bytes of an element.
    size: usize,
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
    steps: SmallVec<[Step; 4]>,
    extras: SmallVec<[Extra; 2]>,
    /// The whole expression, where it is not such a chain.
    program: Option<Program>,
    isa: Isa,
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
            if desc.dtype != output.dtype || desc.strides.last() != Some(&1) && desc.count() != 1 {
                return Err(Reject::new("the bias is not contiguous"));
            }
            finisher.bias = Some(first);
            next += 1;
        }
        let Some(expr) = &epilogue.post else { return Ok(finisher) };
        let same_types = inputs.get(next..).unwrap_or_default().iter().all(|o| o.desc.dtype == output.dtype);
        let Some(steps) = chain(expr).filter(|_| same_types) else {
            return finisher.with_program(expr, inputs, next, output, windows);
        };
        for step in &steps {
            let Step::Extra { input, .. } = *step else { continue };
            let extra = Extra::new(inputs, next + usize::from(input) - 1, output, windows)?;
            if !matches!(extra.col, 0 | 1) {
                return finisher.with_program(expr, inputs, next, output, windows);
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
            return finisher.with_program(expr, inputs, next, output, windows);
        }
        finisher.steps = rest.into();
        finisher.extras.drain(..extra);
        Ok(finisher)
    }

    /// Compiles the expression whose operands after the sums start at `next`.
    fn with_program(
        mut self,
        expr: &Expr,
        inputs: &[Operand<'_>],
        next: usize,
        output: &TensorDesc,
        windows: &[Window],
    ) -> Result<Self, Reject> {
        self.extras.clear();
        let mut types: SmallVec<[DType; 4]> = SmallVec::new();
        types.push(output.dtype);
        for i in 0..expr.arity().saturating_sub(1) {
            let extra = Extra::new(inputs, next + i, output, windows)?;
            types.push(inputs[next + i].desc.dtype);
            self.extras.push(extra);
        }
        let program = Program::compile(expr, &types[..expr.arity()], self.isa)?;
        if program.output() != output.dtype || expr.arity() == 0 {
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
        let bases: SmallVec<[*const E; 2]> = self.extras.iter().map(at).collect();
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
        output: &TensorDesc,
        windows: &[Window],
    ) -> Result<Self, Reject> {
        let desc = &inputs.get(input).ok_or_else(|| Reject::new("an epilogue operand is missing"))?.desc;
        let (rows, col, offset) = rows_of(desc, &output.shape, windows)?;
        if desc.dtype.bits() < 8 {
            return Err(Reject::new("an epilogue operand of 4-bit elements"));
        }
        Ok(Extra { input, rows, col, offset, size: desc.dtype.bits() / 8 })
    }
}

/// Elements that an expression which cannot overwrite its operand computes at a time.
const CHUNK: usize = 256;

/// A compiled expression over finished blocks.
struct Compiled<'a, E> {
    program: &'a Program,
    finisher: &'a Finisher<E>,
    bases: SmallVec<[*const E; 2]>,
    scratch: *mut u8,
}

impl<E: Number> Post<E> for Compiled<'_, E> {
    unsafe fn apply(&self, c: &[*mut E], row: usize, col: usize, cols: usize) {
        let overwrites = self.program.overwrites();
        let own = self.program.rows_scratch_bytes().next_multiple_of(64);
        let step = if overwrites { cols } else { CHUNK };
        let mut operands: SmallVec<[RowOperand; 4]> = SmallVec::new();
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

/// Steps over finished blocks.
struct Chain<'a, E> {
    finisher: &'a Finisher<E>,
    bases: SmallVec<[*const E; 2]>,
}

impl<E: Number> Post<E> for Chain<'_, E> {
    unsafe fn apply(&self, c: &[*mut E], row: usize, col: usize, cols: usize) {
        debug_assert!(E::CHAINS);
        // `E` is f32, the only type with CHAINS: the casts only say so.
        let block = Block {
            steps: &self.finisher.steps,
            extras: &self.finisher.extras,
            bases: &self.bases,
            c,
            row,
            col,
            cols,
        };
        dispatch(self.finisher.isa, block);
    }
}

/// The steps over columns `col .. col + cols` of the rows from `row` on.
struct Block<'a, E> {
    steps: &'a [Step],
    extras: &'a [Extra],
    bases: &'a [*const E],
    c: &'a [*mut E],
    row: usize,
    col: usize,
    cols: usize,
}

impl<E> Task for Block<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if let [Step::Unary(op)] = *self.steps {
            // One activation: its code stands in the loop itself.
            match op {
                UnaryOp::Silu => self.map(s, Silu),
                UnaryOp::Sigmoid => self.map(s, Sigmoid),
                UnaryOp::HardSwish => self.map(s, HardSwish),
                UnaryOp::Gelu => self.map(s, Gelu),
                UnaryOp::GeluTanh => self.map(s, GeluTanh),
                UnaryOp::Tanh => self.map(s, Tanh),
                other => self.map(s, Any(other)),
            }
            return;
        }
        let mut rows: SmallVec<[*const f32; 2]> = SmallVec::from_elem(std::ptr::null(), self.extras.len());
        for i in 0..self.c.len() {
            for ((p, extra), base) in rows.iter_mut().zip(self.extras).zip(self.bases) {
                let at = extra.rows.offset(self.row + i) + self.col as isize * extra.col;
                *p = base.wrapping_offset(at).cast();
            }
            let c = self.c[i].cast::<f32>().wrapping_add(self.col);
            for at in (0..self.cols).step_by(S::LANES) {
                let n = S::LANES.min(self.cols - at);
                // SAFETY: the row is writable in the block's columns; extras have its rows and columns.
                unsafe {
                    let v = load(s, c.wrapping_add(at), n);
                    let v = self.steps(s, v, &rows, at, n);
                    store(s, c.wrapping_add(at), n, v);
                }
            }
        }
    }
}

/// # Safety
/// `p` is readable for `n <= LANES` elements.
#[inline(always)]
unsafe fn load<S: Simd>(s: S, p: *const f32, n: usize) -> S::F {
    // SAFETY: by the caller's contract.
    unsafe { if n == S::LANES { s.load(p) } else { s.load_n(p, n) } }
}

/// # Safety
/// `p` is writable for `n <= LANES` elements.
#[inline(always)]
unsafe fn store<S: Simd>(s: S, p: *mut f32, n: usize, v: S::F) {
    // SAFETY: by the caller's contract.
    unsafe { if n == S::LANES { s.store(p, v) } else { s.store_n(p, n, v) } }
}

impl<E> Block<'_, E> {
    /// All steps on the vector of `n` columns from `at` on; `rows` holds the extras' rows.
    ///
    /// # Safety
    /// Extras are readable there.
    #[inline(always)]
    unsafe fn steps<S: Simd>(&self, s: S, mut v: S::F, rows: &[*const f32], at: usize, n: usize) -> S::F {
        let mut extra = 0;
        for step in self.steps {
            v = match *step {
                Step::Unary(op) => unary(s, op, v),
                Step::Literal { op, value, reversed } => binary(s, op, v, s.splat(value as f32), reversed),
                Step::Extra { op, reversed, .. } => {
                    let (p, col) = (rows[extra], self.extras[extra].col);
                    extra += 1;
                    // SAFETY: by the caller's contract.
                    let w = unsafe { if col == 0 { s.splat(*p) } else { load(s, p.wrapping_add(at), n) } };
                    binary(s, op, v, w, reversed)
                }
            };
        }
        v
    }

    #[inline(always)]
    fn map<S: Simd>(&self, s: S, f: impl Function) {
        for c in self.c {
            let c = c.cast::<f32>().wrapping_add(self.col);
            let mut at = 0;
            // SAFETY: the row is writable in the block's columns.
            unsafe {
                while at + S::LANES <= self.cols {
                    s.store(c.add(at), f.of(s, s.load(c.add(at))));
                    at += S::LANES;
                }
                if at < self.cols {
                    let n = self.cols - at;
                    s.store_n(c.add(at), n, f.of(s, s.load_n(c.add(at), n)));
                }
            }
        }
    }
}

/// A function of one vector: a type, so that it is inlined under the caller's instruction set.
trait Function: Copy {
    fn of<S: Simd>(self, s: S, x: S::F) -> S::F;
}

macro_rules! functions {
    ($($name:ident),*) => {$(
        #[derive(Clone, Copy)]
        struct $name;
        impl Function for $name {
            #[inline(always)]
            fn of<S: Simd>(self, s: S, x: S::F) -> S::F {
                unary(s, UnaryOp::$name, x)
            }
        }
    )*};
}
functions! { Silu, Sigmoid, HardSwish, Gelu, GeluTanh, Tanh }

#[derive(Clone, Copy)]
struct Any(UnaryOp);

impl Function for Any {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::F) -> S::F {
        unary(s, self.0, x)
    }
}

#[inline(always)]
fn unary<S: Simd>(s: S, op: UnaryOp, x: S::F) -> S::F {
    match op {
        UnaryOp::Neg => s.neg(x),
        UnaryOp::Abs => s.abs(x),
        UnaryOp::Recip => s.div(s.splat(1.0), x),
        UnaryOp::Sqrt => s.sqrt(x),
        UnaryOp::Exp => math::exp(s, x),
        UnaryOp::Log => math::log(s, x),
        UnaryOp::Tanh => math::tanh(s, x),
        UnaryOp::Erf => math::erf(s, x),
        UnaryOp::Sigmoid => math::sigmoid(s, x),
        UnaryOp::Softplus => math::softplus(s, x),
        UnaryOp::Gelu => math::gelu_erf(s, x),
        UnaryOp::GeluTanh => math::gelu_tanh(s, x),
        UnaryOp::Silu => s.mul(x, math::sigmoid(s, x)),
        UnaryOp::HardSwish => {
            let gate = s.fma(x, s.splat(1.0 / 6.0), s.splat(0.5));
            s.mul(x, s.min(s.splat(1.0), s.max(s.zero(), gate)))
        }
        // Relu; the others have no vector form and were refused.
        _ => s.max(s.zero(), x),
    }
}

#[inline(always)]
fn binary<S: Simd>(s: S, op: BinaryOp, v: S::F, w: S::F, reversed: bool) -> S::F {
    let (a, b) = if reversed { (w, v) } else { (v, w) };
    match op {
        BinaryOp::Sub => s.sub(a, b),
        BinaryOp::Mul => s.mul(a, b),
        BinaryOp::Div => s.div(a, b),
        BinaryOp::Max => s.max_nan(a, b),
        BinaryOp::Min => s.min_nan(a, b),
        // Add; the others have no vector form and were refused.
        _ => s.add(a, b),
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
