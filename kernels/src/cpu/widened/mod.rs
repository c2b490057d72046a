//! Narrow operands for kernels that compute in a wider type: operands are converted on the way in, results on the way
//! out, each in one parallel pass at memory speed; constants are converted when they are packed.
//!
//! Half-width floats compute as `f32` and are rounded once, at the end; integers of 8 and 16 bits compute as `i32`, whose
//! low bits are the wrapped result. A signature may mix narrow and wide operands freely. The catalog derives these rows
//! from the rows that state what they compute in ([`Tactic::computes`]).

pub(crate) mod expression;
mod sequence;
#[cfg(test)]
mod tests;

use crate::cpu::pointwise::PointwiseTactic;
use crate::{Args, Fit, Kernel, Operand, Problem, Reject, Tactic, TensorDesc};
use engraft_network::ops::{Cast, Epilogue, ResizeMode};
use engraft_network::{AlignedBytes, DType, Op, Tensor};
use sequence::{Place, Sequence, Stage};
use smallvec::SmallVec;

/// A row of the catalog behind conversions.
pub struct Widened {
    id: &'static str,
    inner: &'static dyn Tactic,
    wide: DType,
}

/// A row for each of `rows` that computes in a type with narrower ones.
pub fn tactics(rows: &[&'static dyn Tactic]) -> Vec<&'static dyn Tactic> {
    let widened = |inner: &'static dyn Tactic| {
        let wide = inner.computes().filter(|t| matches!(t, DType::F32 | DType::I32))?;
        // Rows live as long as the program: the catalog is made once.
        let id: &'static str = Box::leak(format!("widened.{}", inner.id()).into_boxed_str());
        let row: &'static Widened = Box::leak(Box::new(Widened { id, inner, wide }));
        Some(row as &dyn Tactic)
    };
    rows.iter().filter_map(|row| widened(*row)).collect()
}

/// The problem in the wider type.
struct Twin<'a> {
    op: Op,
    inputs: SmallVec<[Operand<'a>; 6]>,
    outputs: SmallVec<[TensorDesc; 3]>,
}

impl Widened {
    fn is_narrow(&self, t: DType) -> bool {
        expression::is_narrow(self.wide, t)
    }

    fn converts(&self, op: &Op, t: DType) -> bool {
        // Interpolation computes in f32 whatever it reads.
        let small = || matches!(t, DType::I8 | DType::U8 | DType::I16 | DType::U16);
        self.is_narrow(t) || matches!(op, Op::Resize(_)) && small()
    }

    fn twin<'a>(&self, p: &Problem<'a>) -> Result<Twin<'a>, Reject> {
        let candidate = matches!(
            p.op,
            Op::MatMul(_)
                | Op::Conv(_)
                | Op::ConvTranspose(_)
                | Op::Rnn(_)
                | Op::Resize(_)
                | Op::Pool(_)
                | Op::Dft(_)
                | Op::Stft(_)
                | Op::GridSample(_)
                | Op::RoiAlign(_)
                | Op::RoiMaxPool(_)
                | Op::DeformSample(_)
                | Op::Fold(_)
                | Op::Det(_)
        );
        let mut types = p.inputs.iter().map(|o| o.desc.dtype).chain(p.outputs.iter().map(|o| o.dtype));
        if !candidate || !types.any(|t| self.converts(p.op, t)) {
            return Err(Reject::new("nothing to widen"));
        }
        let wide = |desc: &TensorDesc| {
            if self.converts(p.op, desc.dtype) {
                TensorDesc::dense(self.wide, &desc.shape)
            } else {
                desc.clone()
            }
        };
        let op = match p.op {
            Op::MatMul(op) => Op::MatMul(engraft_network::ops::MatMul {
                epilogue: self.epilogue(p, &op.epilogue)?,
                ..op.clone()
            }),
            Op::Conv(op) => Op::Conv(engraft_network::ops::Conv {
                epilogue: self.epilogue(p, &op.epilogue)?,
                ..op.clone()
            }),
            Op::ConvTranspose(op) => Op::ConvTranspose(engraft_network::ops::ConvTranspose {
                epilogue: self.epilogue(p, &op.epilogue)?,
                ..op.clone()
            }),
            Op::Resize(op) if matches!(op.mode, ResizeMode::Nearest(_)) => {
                return Err(Reject::new("nearest neighbours are taken over as they are"));
            }
            other => other.clone(),
        };
        let inputs = p.inputs.iter().map(|o| Operand { desc: wide(&o.desc), constant: o.constant });
        Ok(Twin { op, inputs: inputs.collect(), outputs: p.outputs.iter().map(wide).collect() })
    }

    /// The epilogue over the wider type.
    fn epilogue(&self, p: &Problem<'_>, epilogue: &Epilogue) -> Result<Epilogue, Reject> {
        let Some(post) = &epilogue.post else { return Ok(epilogue.clone()) };
        let first = 2 + usize::from(epilogue.bias);
        let mut inputs: SmallVec<[DType; 4]> = SmallVec::from_slice(&[p.inputs[0].desc.dtype]);
        inputs.extend(p.inputs.get(first..).unwrap_or_default().iter().map(|o| o.desc.dtype));
        Ok(Epilogue { bias: epilogue.bias, post: Some(expression::widen(post, &inputs, self.wide)?) })
    }

    /// Calls `f` with the problem in the wider type. Its constants are still narrow: packing alone reads them.
    fn with<R>(&self, p: &Problem<'_>, f: impl FnOnce(&Problem<'_>) -> R) -> Result<R, Reject> {
        let twin = self.twin(p)?;
        Ok(f(&Problem { op: &twin.op, inputs: &twin.inputs, outputs: &twin.outputs, ..p.clone() }))
    }

    /// Calls `f` with conversions of every operand and result that needs one: whether it is an operand, its number, the
    /// operator and both ends.
    fn conversions(
        &self,
        p: &Problem<'_>,
        wide: &Problem<'_>,
        mut f: impl FnMut(bool, usize, &Problem<'_>) -> Result<(), Reject>,
    ) -> Result<(), Reject> {
        for (i, (o, w)) in p.inputs.iter().zip(wide.inputs).enumerate() {
            if o.desc.dtype != w.desc.dtype && self.inner.packing(wide, i).is_none() {
                conversion(p, &o.desc, &w.desc, |p| f(true, i, p))?;
            }
        }
        for (i, (o, w)) in p.outputs.iter().zip(wide.outputs).enumerate() {
            if o.dtype != w.dtype {
                conversion(p, w, o, |p| f(false, i, p))?;
            }
        }
        Ok(())
    }
}

/// Calls `f` with the problem of converting elements.
fn conversion<R>(
    p: &Problem<'_>,
    from: &TensorDesc,
    to: &TensorDesc,
    f: impl FnOnce(&Problem<'_>) -> R,
) -> R {
    let op = Op::Cast(Cast { to: to.dtype });
    let inputs = [Operand { desc: from.clone(), constant: None }];
    f(&Problem { op: &op, inputs: &inputs, outputs: std::slice::from_ref(to), ..p.clone() })
}

impl Tactic for Widened {
    fn id(&self) -> &'static str {
        self.id
    }

    fn version(&self) -> u32 {
        self.inner.version()
    }

    fn accepts(&self, p: &Problem<'_>) -> Result<Fit, Reject> {
        self.with(p, |wide| {
            let mut cost = self.inner.accepts(wide)?.cost_ns;
            self.conversions(p, wide, |_, _, p| {
                cost += PointwiseTactic.accepts(p)?.cost_ns;
                Ok(())
            })?;
            Ok(Fit { cost_ns: cost })
        })?
    }

    fn packing(&self, p: &Problem<'_>, input: usize) -> Option<&'static str> {
        self.with(p, |wide| self.inner.packing(wide, input)).ok().flatten()
    }

    fn packed_bytes(&self, p: &Problem<'_>, input: usize) -> usize {
        self.with(p, |wide| self.inner.packed_bytes(wide, input)).unwrap_or(0)
    }

    fn pack(&self, p: &Problem<'_>, input: usize, out: &mut [u8]) {
        let Some(constant) = p.inputs[input].constant else { return };
        let wide_constant = convert(p, constant, self.wide);
        let mut inputs: SmallVec<[Operand<'_>; 6]> = p.inputs.iter().cloned().collect();
        inputs[input].constant = Some(&wide_constant);
        let packed = self.with(&Problem { inputs: &inputs, ..p.clone() }, |wide| {
            self.inner.pack(wide, input, out);
        });
        debug_assert!(packed.is_ok(), "packed for a problem that it rejects");
    }

    fn prepare(&self, p: &Problem<'_>) -> Box<dyn Kernel> {
        let kernel = self.with(p, |wide| {
            let mut places: SmallVec<[Place; 6]> = (0..p.inputs.len()).map(Place::Input).collect();
            let mut results: SmallVec<[Place; 2]> = (0..p.outputs.len()).map(Place::Output).collect();
            let (mut before, mut after) = (Vec::new(), Vec::new());
            let mut between = 0;
            self.conversions(p, wide, |is_operand, i, conversion| {
                let bytes = if is_operand { &wide.inputs[i].desc } else { &wide.outputs[i] }.dense_bytes();
                let (inner, list) =
                    if is_operand { (&mut places[i], &mut before) } else { (&mut results[i], &mut after) };
                let own = std::mem::replace(inner, Place::Between(between));
                let (from, to) = if is_operand { (own, *inner) } else { (*inner, own) };
                between += bytes.next_multiple_of(64);
                list.push(Stage {
                    kernel: PointwiseTactic.prepare(conversion),
                    inputs: SmallVec::from_slice(&[from]),
                    outputs: SmallVec::from_slice(&[to]),
                });
                Ok(())
            })?;
            let mut all = Sequence::new(between);
            all.together(before);
            all.together([Stage { kernel: self.inner.prepare(wide), inputs: places, outputs: results }]);
            all.together(after);
            Ok::<_, Reject>(Box::new(all))
        });
        match kernel.and_then(|kernel| kernel) {
            Ok(kernel) => kernel,
            Err(reject) => unreachable!("{}: prepared for a problem that it rejects: {reject}", self.id),
        }
    }
}

/// A dense tensor in another type.
fn convert(p: &Problem<'_>, tensor: &Tensor, to: DType) -> Tensor {
    let from = TensorDesc::dense(tensor.dtype(), tensor.shape());
    let wide = TensorDesc::dense(to, tensor.shape());
    let mut bytes = AlignedBytes::zeroed(wide.dense_bytes());
    let result = bytes.as_mut_slice().as_mut_ptr();
    conversion(&Problem { threads: 1, ..p.clone() }, &from, &wide, |p| {
        let kernel = PointwiseTactic.prepare(p);
        let mut scratch = AlignedBytes::zeroed(kernel.scratch_bytes());
        let mut workspace = AlignedBytes::zeroed(kernel.workspace_bytes());
        let args = Args {
            inputs: &[tensor.bytes().as_ptr()],
            outputs: &[result],
            scratch: scratch.as_mut_slice().as_mut_ptr(),
            workspace: workspace.as_mut_slice().as_mut_ptr(),
        };
        for (phase, &tasks) in kernel.phases().iter().enumerate() {
            for task in 0..tasks {
                // SAFETY: both ends are dense tensors of the problem's types and shape.
                let done = unsafe { kernel.run(phase, task, &args) };
                debug_assert!(done.is_ok(), "a conversion cannot fail");
            }
        }
    });
    Tensor::new(to, tensor.shape(), bytes.into()).expect("as many bytes as the shape needs")
}
