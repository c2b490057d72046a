//! Runs tactics on random operands and compares them with the network's own evaluation.

use crate::{Args, Isa, Operand, Precision, Problem, Tactic, TensorDesc};
use engraft_network::{AlignedBytes, BinaryOp, DType, Expr, ExprNode, Op, Scalar, Tensor, UnaryOp};
use proptest::prelude::*;

/// A deterministic stream of numbers.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let n = shape.iter().product();
        let mut float = || ((self.bits() >> 40) as f64) / f64::from(1u32 << 23) - 1.0;
        match dtype {
            DType::F64 => Tensor::from_slice(shape, &(0..n).map(|_| float()).collect::<Vec<f64>>()),
            DType::I32 => {
                Tensor::from_slice(shape, &(0..n).map(|_| (float() * 1e6) as i32).collect::<Vec<_>>())
            }
            DType::I64 => {
                Tensor::from_slice(shape, &(0..n).map(|_| (float() * 1e12) as i64).collect::<Vec<_>>())
            }
            DType::F32 => Tensor::from_slice(shape, &(0..n).map(|_| float() as f32).collect::<Vec<f32>>()),
            _ => {
                let range = if dtype.is_float() { 1.0 } else { 120.0 };
                let values: Vec<f64> = (0..n).map(|_| float() * range).collect();
                return crate::cpu::check::tensor_of(dtype, shape, &values);
            }
        }
        .unwrap()
    }
}

/// The catalog without its reference.
pub fn optimized() -> Vec<&'static dyn Tactic> {
    crate::catalog::cpu().iter().copied().filter(|t| t.class() == crate::Class::Optimized).collect()
}

/// Types of operands of products: mostly `f32`.
pub fn dtypes() -> impl Strategy<Value = DType> {
    use DType::{BF16, F16, F32, F64, I8, I16, I32, I64, U8, U16};
    let rare = proptest::sample::select(vec![F64, F16, BF16, I32, I64, I8, U8, I16, U16]);
    prop_oneof![1 => Just(F32), 2 => rare]
}

/// An operand of a test: its values, and whether tactics may know them in advance.
pub struct Given {
    pub tensor: Tensor,
    pub constant: bool,
    /// Storage order of the axes, outermost first, and elements of padding after the innermost axis.
    pub order: Vec<usize>,
    pub gap: usize,
}

impl Given {
    pub fn new(tensor: Tensor) -> Self {
        let order = (0..tensor.shape().len()).collect();
        Given { tensor, constant: false, order, gap: 0 }
    }

    fn desc(&self) -> TensorDesc {
        strided(self.tensor.dtype(), self.tensor.shape(), &self.order, self.gap)
    }
}

/// A description with the axes stored in `order` and `gap` elements after each innermost run.
pub fn strided(dtype: DType, shape: &[usize], order: &[usize], gap: usize) -> TensorDesc {
    let mut desc = TensorDesc::dense(dtype, shape);
    let mut step = 1;
    for (i, &axis) in order.iter().rev().enumerate() {
        desc.strides[axis] = step;
        step *= shape[axis] as isize;
        if i == 0 {
            step += gap as isize;
        }
    }
    desc
}

/// Element offsets of a description in row-major order.
fn offsets(desc: &TensorDesc) -> Vec<usize> {
    let mut all = vec![0usize];
    for (&d, &s) in desc.shape.iter().zip(&desc.strides) {
        all = all.iter().flat_map(|&o| (0..d).map(move |i| o + i * s as usize)).collect();
    }
    all
}

fn place(tensor: &Tensor, desc: &TensorDesc) -> AlignedBytes {
    let w = desc.dtype.bits() / 8;
    let offsets = offsets(desc);
    let mut out = AlignedBytes::zeroed((offsets.iter().max().map_or(0, |m| m + 1)) * w);
    out.as_mut_slice().fill(0x7f);
    for (i, o) in offsets.iter().enumerate() {
        out.as_mut_slice()[o * w..(o + 1) * w].copy_from_slice(&tensor.bytes()[i * w..(i + 1) * w]);
    }
    out
}

/// Every tactic of `tactics` that takes the problem against `eval`. Returns how many took it.
pub fn check(
    tactics: &[&'static dyn Tactic],
    op: &Op,
    given: &[Given],
    threads: usize,
    out_gap: usize,
) -> Result<usize, TestCaseError> {
    check_at(Precision::Fp32, 2e-5, tactics, op, given, threads, out_gap)
}

/// The same at a precision, whose results of `f32` may be off by `tolerance * (1 + |expected|)`.
pub fn check_at(
    precision: Precision,
    tolerance: f64,
    tactics: &[&'static dyn Tactic],
    op: &Op,
    given: &[Given],
    threads: usize,
    out_gap: usize,
) -> Result<usize, TestCaseError> {
    let tensors: Vec<Tensor> = given.iter().map(|g| g.tensor.clone()).collect();
    let want = op.eval(&tensors, &[]).map_err(|e| TestCaseError::fail(format!("eval: {e}")))?.remove(0);
    let order: Vec<usize> = (0..want.shape().len()).collect();
    let out = strided(want.dtype(), want.shape(), &order, out_gap);
    let operands: Vec<Operand<'_>> =
        given.iter().map(|g| Operand { desc: g.desc(), constant: g.constant.then_some(&g.tensor) }).collect();
    let placed: Vec<AlignedBytes> = given.iter().map(|g| place(&g.tensor, &g.desc())).collect();
    let outputs = [out.clone()];
    let mut taken = 0;
    for isa in Isa::available() {
        let p = Problem { op, inputs: &operands, outputs: &outputs, threads, isa, precision, env: &[] };
        for t in tactics {
            if t.accepts(&p).is_err() {
                continue;
            }
            taken += 1;
            let packed: Vec<Option<AlignedBytes>> = (0..given.len())
                .map(|i| {
                    t.packing(&p, i).map(|_| {
                        let mut bytes = AlignedBytes::zeroed(t.packed_bytes(&p, i));
                        t.pack(&p, i, bytes.as_mut_slice());
                        bytes
                    })
                })
                .collect();
            let kernel = t.prepare(&p);
            let room = |bytes: usize| {
                let mut room = AlignedBytes::zeroed(bytes + 64);
                room.as_mut_slice().fill(0xa5);
                room
            };
            let (mut scratch, mut workspace) = (room(kernel.scratch_bytes()), room(kernel.workspace_bytes()));
            let mut result = place(&Tensor::zeros(out.dtype, &out.shape).unwrap(), &out);
            result.as_mut_slice().fill(0x7f);
            let inputs: Vec<*const u8> = placed
                .iter()
                .zip(&packed)
                .map(|(plain, packed)| packed.as_ref().unwrap_or(plain).as_slice().as_ptr())
                .collect();
            let args = Args {
                inputs: &inputs,
                outputs: &[result.as_mut_slice().as_mut_ptr()],
                scratch: scratch.as_mut_slice().as_mut_ptr(),
                workspace: workspace.as_mut_slice().as_mut_ptr(),
            };
            for (phase, &tasks) in kernel.phases().iter().enumerate() {
                for task in (0..tasks).rev() {
                    // SAFETY: operands, scratch and workspace are as the kernel asked.
                    unsafe { kernel.run(phase, task, &args) }.unwrap();
                }
            }
            for (room, n) in [(&scratch, kernel.scratch_bytes()), (&workspace, kernel.workspace_bytes())] {
                prop_assert!(
                    room.as_slice()[n..].iter().all(|&b| b == 0xa5),
                    "{}: wrote past its scratch",
                    t.id()
                );
            }
            compare(t.id(), tolerance, &want, &out, result.as_slice())?;
            for i in (0..given.len()).filter(|&i| operands[i].desc == out && kernel.in_place(i)) {
                let mut result = place(&tensors[i], &out);
                let pointer = result.as_mut_slice().as_mut_ptr();
                let mut inputs = inputs.clone();
                inputs[i] = pointer;
                let args = Args { inputs: &inputs, outputs: &[pointer], ..args };
                for (phase, &tasks) in kernel.phases().iter().enumerate() {
                    for task in 0..tasks {
                        // SAFETY: as above; the kernel allows the result in the operand's place.
                        unsafe { kernel.run(phase, task, &args) }.unwrap();
                    }
                }
                compare(t.id(), tolerance, &want, &out, result.as_slice())?;
            }
        }
    }
    Ok(taken)
}

fn compare(
    id: &str,
    tolerance: f64,
    want: &Tensor,
    desc: &TensorDesc,
    got: &[u8],
) -> Result<(), TestCaseError> {
    let w = desc.dtype.bits() / 8;
    let offsets = offsets(desc);
    let mut touched = vec![false; got.len() / w];
    for (i, &o) in offsets.iter().enumerate() {
        touched[o] = true;
        let at = &got[o * w..(o + 1) * w];
        let (g, tolerance) = match desc.dtype {
            DType::F32 => (f64::from(bytemuck::pod_read_unaligned::<f32>(at)), tolerance),
            DType::F64 => (bytemuck::pod_read_unaligned::<f64>(at), 1e-12),
            DType::F16 => (bytemuck::pod_read_unaligned::<half::f16>(at).to_f64(), 2e-3),
            DType::BF16 => (bytemuck::pod_read_unaligned::<half::bf16>(at).to_f64(), tolerance.max(1.6e-2)),
            t if t.is_int() => {
                prop_assert_eq!(at, &want.bytes()[i * w..(i + 1) * w], "{} at {}", id, i);
                continue;
            }
            other => return Err(TestCaseError::fail(format!("no comparison of {other}"))),
        };
        let x = want.get_f64(i);
        let same = (g - x).abs() <= tolerance * (1.0 + x.abs()) || g == x || g.is_nan() && x.is_nan();
        prop_assert!(same, "{id} at {i} of {:?}: {g} instead of {x}", desc.shape);
    }
    for (o, _) in touched.iter().enumerate().filter(|(_, t)| !**t) {
        prop_assert!(got[o * w..(o + 1) * w].iter().all(|&b| b == 0x7f), "{id} wrote between rows");
    }
    Ok(())
}

/// One of the epilogues that fusion produces, over operands of the result's type; returns the expression and the shapes
/// of its further operands for a result of shape `out`.
pub fn epilogue(which: usize, dtype: DType, out: &[usize]) -> (Option<Expr>, Vec<Vec<usize>>) {
    let float = dtype.is_float();
    let number = |x: f64| if float { Scalar::float(dtype, x) } else { Scalar::int(dtype, x as i64) };
    let mut e = Expr::new();
    let x = e.push(ExprNode::Input(0));
    let channels = vec![out[out.len() - 1]];
    let mut per_row = out.to_vec();
    *per_row.last_mut().unwrap() = 1;
    if dtype.is_int() && dtype.bits() < 32 {
        return (None, vec![]);
    }
    let kinds = if matches!(dtype, DType::F32 | DType::F16 | DType::BF16) { 18 } else { 6 };
    let shapes = match which % kinds {
        which if which + 2 >= kinds => {
            // Not a chain: the value is used twice.
            let y = e.push(ExprNode::Binary(BinaryOp::Mul, x, x));
            let y = e.push(ExprNode::Binary(BinaryOp::Sub, y, x));
            if which + 1 == kinds {
                let r = e.push(ExprNode::Input(1));
                e.push(ExprNode::Binary(BinaryOp::Max, y, r));
                vec![per_row]
            } else {
                vec![]
            }
        }
        0 => return (None, vec![]),
        1 => {
            e.push(ExprNode::Unary(UnaryOp::Relu, x));
            vec![]
        }
        2 => {
            let low = e.push(ExprNode::Const(number(-0.5)));
            let x = e.push(ExprNode::Binary(BinaryOp::Max, x, low));
            let high = e.push(ExprNode::Const(number(6.0)));
            e.push(ExprNode::Binary(BinaryOp::Min, high, x));
            vec![]
        }
        3 => {
            let r = e.push(ExprNode::Input(1));
            let x = e.push(ExprNode::Binary(BinaryOp::Add, r, x));
            e.push(ExprNode::Unary(UnaryOp::Relu, x));
            vec![out.to_vec()]
        }
        4 => {
            let x = e.push(ExprNode::Unary(UnaryOp::Silu, x));
            let r = e.push(ExprNode::Input(1));
            e.push(ExprNode::Binary(BinaryOp::Add, x, r));
            vec![out.to_vec()]
        }
        5 => {
            let s = e.push(ExprNode::Unary(UnaryOp::Sigmoid, x));
            e.push(ExprNode::Binary(BinaryOp::Mul, s, x));
            vec![]
        }
        6 => {
            let r = e.push(ExprNode::Input(1));
            let x = e.push(ExprNode::Binary(BinaryOp::Mul, x, r));
            let q = e.push(ExprNode::Input(2));
            e.push(ExprNode::Binary(BinaryOp::Sub, q, x));
            vec![channels, per_row]
        }
        7 => {
            let r = e.push(ExprNode::Input(1));
            let x = e.push(ExprNode::Binary(BinaryOp::Add, x, r));
            let half = e.push(ExprNode::Const(number(0.5)));
            let x = e.push(ExprNode::Binary(BinaryOp::Mul, x, half));
            e.push(ExprNode::Unary(UnaryOp::Tanh, x));
            vec![vec![1]]
        }
        i => {
            use UnaryOp::*;
            let op = [Gelu, GeluTanh, HardSwish, Sigmoid, Tanh, Abs, Softplus, Erf][i - 8];
            e.push(ExprNode::Unary(op, x));
            vec![]
        }
    };
    (Some(e), shapes)
}
