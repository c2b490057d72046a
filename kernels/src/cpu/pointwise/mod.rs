//! Elementwise regions: an [`Expr`] over broadcast, strided operands, evaluated tile by tile in L1.
//!
//! [`Program::compile`] turns an expression into steps; each step is one pass of vectors over a tile of at most 512 elements, so
//! that intermediate values never leave L1. Operands are read in place where a unit of work sees them as a contiguous run or as
//! one scalar, and are copied to a tile otherwise. Matrix kernels call [`Program::apply_rows`] on blocks that they have just written.

mod float;
mod program;
mod scalar;
#[cfg(test)]
mod tests;
mod tile;
mod walk;

pub use program::Program;

use crate::cpu::simd::dispatch;
use crate::tactic::Build;
use crate::{Args, Fit, Kernel, KernelError, Problem, Reject, Tactic, TensorDesc};
use engraft_network::{DType, Expr, ExprNode, Op};
use smallvec::SmallVec;
use std::borrow::Cow;
use tile::{Frame, RunUnits};
use walk::{View, Walk};

/// A matrix operand of [`Program::apply_rows`]; strides in elements, 0 broadcasts.
#[derive(Clone, Copy, Debug)]
pub struct RowOperand {
    pub ptr: *const u8,
    pub row_stride: isize,
    pub col_stride: isize,
}

impl Program {
    /// Bytes of 64-byte aligned scratch that [`Program::apply_rows`] wants.
    pub fn rows_scratch_bytes(&self) -> usize {
        // Everything staged: the walk of a matrix whose operands all run against the grain.
        let view = |dtype: DType| View { dtype, outer: SmallVec::new(), row: 7, col: 3 };
        let inputs = self.inputs.iter().map(|d| view(*d)).collect();
        Frame::new(self, &Walk::matrix(2, 2, inputs, view(self.output))).scratch_bytes()
    }

    /// Evaluates the expression over `rows x cols` elements: the epilogue of a kernel on a block that is hot in L1. Types are those
    /// that the program was compiled for. The output may be an input with the same strides where [`Program::overwrites`].
    ///
    /// # Safety
    /// Operands are readable, the output is writable for the whole block at their strides; `scratch` is 64-byte aligned and has
    /// [`Program::rows_scratch_bytes`].
    pub unsafe fn apply_rows(
        &self,
        inputs: &[RowOperand],
        output: *mut u8,
        output_row_stride: isize,
        (rows, cols): (usize, usize),
        scratch: *mut u8,
    ) {
        assert_eq!(inputs.len(), self.inputs.len(), "operands of the program");
        let view = |dtype: DType, row: isize, col: isize| View { dtype, outer: SmallVec::new(), row, col };
        let views =
            inputs.iter().zip(&self.inputs).map(|(o, d)| view(*d, o.row_stride, o.col_stride)).collect();
        let walk = Walk::matrix(rows, cols, views, view(self.output, output_row_stride, 1));
        let frame = Frame::new(self, &walk);
        let pointers: SmallVec<[*const u8; 8]> = inputs.iter().map(|o| o.ptr).collect();
        let task = RunUnits {
            program: self,
            walk: &walk,
            frame: &frame,
            inputs: &pointers,
            output,
            scratch,
            first: 0,
            last: walk.units(),
        };
        dispatch(self.isa, task);
    }

    /// Whether the result may take the place of an operand of its own type and strides.
    pub fn overwrites(&self) -> bool {
        self.in_place
    }
}

/// The expression of an elementwise operator.
fn expression(op: &Op) -> Option<Cow<'_, Expr>> {
    Some(match op {
        Op::Pointwise(p) => Cow::Borrowed(&p.expr),
        Op::Unary(u) => Cow::Owned(Expr::unary(u.op)),
        Op::Binary(b) => Cow::Owned(Expr::binary(b.op)),
        Op::Select(_) => {
            let mut e = Expr::new();
            let [c, a, b] = [0, 1, 2].map(|i| e.push(ExprNode::Input(i)));
            e.push(ExprNode::Select(c, a, b));
            Cow::Owned(e)
        }
        Op::Cast(c) => {
            let mut e = Expr::new();
            let x = e.push(ExprNode::Input(0));
            e.push(ExprNode::Cast(c.to, x));
            Cow::Owned(e)
        }
        _ => return None,
    })
}

/// Every elementwise operator and fused region over all types but the 4-bit integers and 8-bit floats.
#[derive(Debug)]
pub struct PointwiseTactic;

fn compile(p: &Problem<'_>) -> Result<Program, Reject> {
    let expr = expression(p.op).ok_or_else(|| Reject::new("not elementwise"))?;
    let dtypes: SmallVec<[DType; 4]> = p.inputs.iter().map(|o| o.desc.dtype).collect();
    let program = Program::compile(&expr, &dtypes, p.isa)?;
    if p.outputs.len() != 1 || program.output() != p.outputs[0].dtype {
        return Err(Reject::new("result type differs from the expression's"));
    }
    Ok(program)
}

/// Strides of an operand over the axes of the result, 0 where it broadcasts.
fn broadcast_strides(operand: &TensorDesc, output: &TensorDesc) -> Option<SmallVec<[isize; 6]>> {
    let missing = output.rank().checked_sub(operand.rank())?;
    let mut strides: SmallVec<[isize; 6]> = SmallVec::from_elem(0, output.rank());
    for (axis, (&size, &stride)) in operand.shape.iter().zip(&operand.strides).enumerate() {
        if size == output.shape[missing + axis] {
            strides[missing + axis] = if size == 1 { 0 } else { stride };
        } else if size != 1 {
            return None;
        }
    }
    Some(strides)
}

fn walk(p: &Problem<'_>) -> Option<Walk> {
    let output = &p.outputs[0];
    let strides: Option<SmallVec<[(DType, SmallVec<[isize; 6]>); 4]>> =
        p.inputs.iter().map(|o| broadcast_strides(&o.desc, output).map(|s| (o.desc.dtype, s))).collect();
    let strides = strides?;
    let inputs: SmallVec<[(DType, &[isize]); 4]> = strides.iter().map(|(d, s)| (*d, &s[..])).collect();
    Some(Walk::new(&output.shape, &inputs, (output.dtype, &output.strides)))
}

/// Expected nanoseconds on one thread.
fn cost(p: &Problem<'_>, program: &Program, gathers: bool) -> f64 {
    let output = &p.outputs[0];
    let elements = output.count() as f64;
    let bytes: usize = p.inputs.iter().map(|o| o.desc.dense_bytes()).sum::<usize>() + output.dense_bytes();
    // About 20 bytes per nanosecond from L2 and L3.
    let memory = bytes as f64 * 0.05 + if gathers { elements } else { 0.0 };
    let lanes = match p.isa {
        crate::Isa::Avx512 | crate::Isa::Amx => 1.0,
        crate::Isa::Avx2 => 1.3,
        crate::Isa::Portable => 4.0,
    };
    60.0 + memory + elements * program.cost_per_element() * lanes
}

impl Tactic for PointwiseTactic {
    fn id(&self) -> &'static str {
        "pointwise.tiles"
    }

    fn version(&self) -> u32 {
        2
    }

    crate::tactic::built!();
}

impl Build for PointwiseTactic {
    type Kernel = PointwiseKernel;

    fn build(&self, p: &Problem<'_>) -> Result<PointwiseKernel, Reject> {
        let program = compile(p)?;
        let walk = walk(p).ok_or_else(|| Reject::new("operands do not broadcast to the result"))?;
        if walk.output.col == 0 && walk.elements() > 1 {
            return Err(Reject::new("the result's elements share memory"));
        }
        let frame = Frame::new(&program, &walk);
        let tasks = tasks(cost(p, &program, frame.gathers(&walk)), walk.units(), p.threads);
        let output = &p.outputs[0];
        let in_place = p
            .inputs
            .iter()
            .map(|o| program.overwrites() && o.desc == *output && frame.scratch_bytes() > 0)
            .collect();
        Ok(PointwiseKernel { program, walk, frame, phases: [tasks], in_place })
    }

    fn fit(&self, kernel: &PointwiseKernel, p: &Problem<'_>) -> Result<Fit, Reject> {
        let cost = cost(p, &kernel.program, kernel.frame.gathers(&kernel.walk));
        Ok(Fit { cost_ns: cost / (p.threads as f64).min(cost / 1000.0).max(1.0) })
    }
}

/// Number of tasks for `cost_ns` of work that can be cut into `units`: about 4 per thread, none under 2 us.
pub(crate) fn tasks(cost_ns: f64, units: usize, threads: usize) -> usize {
    if threads <= 1 {
        return units.min(1);
    }
    let worthwhile = (cost_ns / 2000.0) as usize;
    worthwhile.clamp(1, 4 * threads).min(units)
}

/// The part of `0..n` that task `task` of `tasks` has.
pub(crate) fn share(n: usize, tasks: usize, task: usize) -> (usize, usize) {
    (n * task / tasks, n * (task + 1) / tasks)
}

pub(crate) struct PointwiseKernel {
    program: Program,
    walk: Walk,
    frame: Frame,
    phases: [usize; 1],
    in_place: SmallVec<[bool; 4]>,
}

impl Kernel for PointwiseKernel {
    fn phases(&self) -> &[usize] {
        if self.phases[0] == 0 { &[] } else { &self.phases }
    }

    fn scratch_bytes(&self) -> usize {
        self.frame.scratch_bytes()
    }

    unsafe fn run(&self, _phase: usize, task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let (first, last) = share(self.walk.units(), self.phases[0], task);
        let task = RunUnits {
            program: &self.program,
            walk: &self.walk,
            frame: &self.frame,
            inputs: args.inputs,
            output: args.outputs[0],
            scratch: args.scratch,
            first,
            last,
        };
        dispatch(self.program.isa, task);
        Ok(())
    }

    fn in_place(&self, input: usize) -> bool {
        self.in_place.get(input).copied().unwrap_or(false)
    }
}

/// The family's rows of the catalog.
pub fn tactics() -> &'static [&'static dyn Tactic] {
    &[&PointwiseTactic]
}
