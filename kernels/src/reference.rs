//! The last row of the catalog: the network's own reference evaluation behind the tactic interface.

use crate::{Args, Class, Fit, Kernel, KernelError, Operand, Problem, Reject, Tactic, TensorDesc};
use engraft_network::{AlignedBytes, Op, Tensor};

/// Runs [`Op::eval`]: any operator whose shapes are known beforehand, any strides, one task.
#[derive(Debug)]
pub struct ReferenceTactic;

struct ReferenceKernel {
    op: Op,
    env: Vec<i64>,
    inputs: Vec<TensorDesc>,
    outputs: Vec<TensorDesc>,
}

impl Tactic for ReferenceTactic {
    fn id(&self) -> &'static str {
        "any.reference"
    }

    fn class(&self) -> Class {
        Class::Reference
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        let sub_byte = |d: &TensorDesc| d.dtype.bits() < 8 && !d.is_dense();
        if p.inputs.iter().map(|o| &o.desc).chain(p.outputs).any(sub_byte) {
            return Err(Reject::new("4-bit elements at strides"));
        }
        let shapes: Vec<&[usize]> = p.inputs.iter().map(|o| &o.desc.shape[..]).collect();
        let outs: Vec<&[usize]> = p.outputs.iter().map(|o| &o.shape[..]).collect();
        let elements: usize = p.outputs.iter().map(TensorDesc::count).sum();
        Ok(Fit { cost_ns: 1000.0 + 20.0 * (p.op.flops(&shapes, &outs) + elements as f64) })
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        Box::new(ReferenceKernel {
            op: p.op.clone(),
            env: p.env.to_vec(),
            inputs: p.inputs.iter().map(|o: &Operand<'_>| o.desc.clone()).collect(),
            outputs: p.outputs.to_vec(),
        })
    }
}

/// Calls `f(logical index, element offset)` for every element.
fn for_each_offset(desc: &TensorDesc, mut f: impl FnMut(usize, isize)) {
    let n = desc.count();
    let mut index = vec![0usize; desc.rank()];
    let mut offset = 0isize;
    for i in 0..n {
        f(i, offset);
        for axis in (0..desc.rank()).rev() {
            index[axis] += 1;
            offset += desc.strides[axis];
            if index[axis] < desc.shape[axis] {
                break;
            }
            offset -= desc.strides[axis] * desc.shape[axis] as isize;
            index[axis] = 0;
        }
    }
}

impl Kernel for ReferenceKernel {
    fn phases(&self) -> &[usize] {
        &[1]
    }

    unsafe fn run(&self, _phase: usize, _task: usize, args: &Args<'_>) -> Result<(), KernelError> {
        let data = |e: &dyn std::fmt::Display| KernelError::Data(e.to_string());
        let mut operands = Vec::with_capacity(self.inputs.len());
        for (desc, ptr) in self.inputs.iter().zip(args.inputs) {
            let mut bytes = AlignedBytes::zeroed(desc.dense_bytes());
            let width = desc.dtype.bits() / 8;
            if desc.is_dense() {
                // SAFETY: a dense operand has `dense_bytes` readable bytes at its pointer.
                let src = unsafe {
                    std::slice::from_raw_parts(*ptr, if desc.count() == 0 { 0 } else { desc.dense_bytes() })
                };
                bytes.as_mut_slice().copy_from_slice(src);
            } else {
                let dst = bytes.as_mut_slice();
                for_each_offset(desc, |i, off| {
                    // SAFETY: every element of the operand is readable at its stride.
                    let src = unsafe { std::slice::from_raw_parts(ptr.offset(off * width as isize), width) };
                    dst[i * width..(i + 1) * width].copy_from_slice(src);
                });
            }
            operands.push(Tensor::new(desc.dtype, &desc.shape, bytes.into()).map_err(|e| data(&e))?);
        }
        let results = self.op.eval(&operands, &self.env).map_err(|e| data(&e))?;
        for ((desc, ptr), t) in self.outputs.iter().zip(args.outputs).zip(&results) {
            if t.shape() != &desc.shape[..] || t.dtype() != desc.dtype {
                return Err(KernelError::Data(format!(
                    "{} gave {}{:?} where {}{:?} was planned",
                    self.op.name(),
                    t.dtype(),
                    t.shape(),
                    desc.dtype,
                    desc.shape
                )));
            }
            let src = t.bytes();
            if desc.is_dense() {
                if !src.is_empty() {
                    // SAFETY: a dense result has `dense_bytes` writable bytes at its pointer.
                    unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), *ptr, src.len()) };
                }
            } else {
                let width = desc.dtype.bits() / 8;
                for_each_offset(desc, |i, off| {
                    // SAFETY: every element of the result is writable at its stride.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            src[i * width..].as_ptr(),
                            ptr.offset(off * width as isize),
                            width,
                        );
                    }
                });
            }
        }
        Ok(())
    }
}
