//! Epilogues that are a chain of steps on one running value, over blocks that a matrix kernel has just finished.

use super::epilogue::{Extra, Finisher, Number};
use super::sweep::Post;
use crate::cpu::math;
use crate::cpu::simd::{Simd, Task, dispatch};
use crate::cpu::storage::Storage;
use engraft_network::{BinaryOp, Expr, ExprNode, UnaryOp};
use smallvec::SmallVec;

/// One step of a chain: the running value becomes `op(value, ..)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
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
pub(super) fn chain(expr: &Expr) -> Option<SmallVec<[Step; 4]>> {
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

pub(super) fn has_vector_form(step: &Step) -> bool {
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

/// Steps over finished blocks.
pub(super) struct Chain<'a, E> {
    pub finisher: &'a Finisher<E>,
    pub bases: SmallVec<[*const E; 4]>,
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
        if self.extras.is_empty() {
            return self.map(s, Steps(self.steps));
        }
        let mut rows: SmallVec<[*const u8; 4]> = SmallVec::from_elem(std::ptr::null(), self.extras.len());
        for i in 0..self.c.len() {
            for ((p, extra), base) in rows.iter_mut().zip(self.extras).zip(self.bases) {
                let at = extra.rows.offset(self.row + i) + self.col as isize * extra.col;
                *p = base.cast::<u8>().wrapping_offset(at * extra.size as isize);
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

/// `n` elements from the `at`-th of a row on; its only one where `col` is 0.
///
/// # Safety
/// They are readable.
#[inline(always)]
unsafe fn operand<S: Simd, T: Storage>(s: S, row: *const T, col: isize, at: usize, n: usize) -> S::F {
    // SAFETY: by the caller's contract.
    unsafe { if col == 0 { s.splat((*row).widen()) } else { T::load(s, row.wrapping_add(at), n) } }
}

impl<E> Block<'_, E> {
    /// All steps on the vector of `n` columns from `at` on; `rows` holds the extras' rows.
    ///
    /// # Safety
    /// Extras are readable there.
    #[inline(always)]
    unsafe fn steps<S: Simd>(&self, s: S, mut v: S::F, rows: &[*const u8], at: usize, n: usize) -> S::F {
        let mut next = 0;
        for step in self.steps {
            v = match *step {
                Step::Extra { op, reversed, .. } => {
                    let (p, extra) = (rows[next], &self.extras[next]);
                    next += 1;
                    // SAFETY: by the caller's contract.
                    let w = unsafe {
                        match extra.narrow {
                            true => operand::<S, half::bf16>(s, p.cast(), extra.col, at, n),
                            false => operand::<S, f32>(s, p.cast(), extra.col, at, n),
                        }
                    };
                    binary(s, op, v, w, reversed)
                }
                ref alone => alone.of(s, v),
            };
        }
        v
    }

    /// A function of the value alone.
    #[inline(always)]
    fn map<S: Simd>(&self, s: S, f: impl Function) {
        if 2 * self.cols <= S::LANES {
            return self.map_narrow(s, f);
        }
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

/// Values that narrow rows are gathered to.
const GATHERED: usize = 128;

impl<E> Block<'_, E> {
    /// [`Block::map`] for rows that would leave most of a vector empty: the values of many rows are gathered first.
    #[inline(always)]
    fn map_narrow<S: Simd>(&self, s: S, f: impl Function) {
        let mut values = [0f32; GATHERED];
        for rows in self.c.chunks((GATHERED / self.cols.max(1)).max(1)) {
            // SAFETY: rows are writable in the block's columns; a chunk's values fit the buffer, whose length is a
            // multiple of every vector's.
            unsafe {
                let mut n = 0;
                for c in rows {
                    let c = c.cast::<f32>().wrapping_add(self.col);
                    for j in 0..self.cols {
                        values[n] = *c.wrapping_add(j);
                        n += 1;
                    }
                }
                for at in (0..n).step_by(S::LANES) {
                    let p = values.as_mut_ptr().add(at);
                    s.store(p, f.of(s, s.load(p)));
                }
                n = 0;
                for c in rows {
                    let c = c.cast::<f32>().wrapping_add(self.col);
                    for j in 0..self.cols {
                        *c.wrapping_add(j) = values[n];
                        n += 1;
                    }
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

impl Step {
    /// The step on one vector; the value itself where it needs an operand.
    #[inline(always)]
    fn of<S: Simd>(&self, s: S, v: S::F) -> S::F {
        match *self {
            Step::Unary(op) => unary(s, op, v),
            Step::Literal { op, value, reversed } => binary(s, op, v, s.splat(value as f32), reversed),
            Step::Extra { .. } => v,
        }
    }
}

/// Steps without operands, one after another.
#[derive(Clone, Copy)]
struct Steps<'a>(&'a [Step]);

impl Function for Steps<'_> {
    #[inline(always)]
    fn of<S: Simd>(self, s: S, x: S::F) -> S::F {
        let mut v = x;
        for step in self.0 {
            v = step.of(s, v);
        }
        v
    }
}

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
