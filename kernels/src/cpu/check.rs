//! Test harness: runs a tactic on random layouts, under every instruction set, and compares with a reference.

use crate::{Args, Isa, Operand, Precision, Problem, Tactic, TensorDesc};
use engraft_network::{AlignedBytes, DType, Op, Tensor};
use smallvec::SmallVec;

/// A small deterministic generator (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Uniform in -1..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A tensor of values in about `-range..range`.
    pub fn tensor(&mut self, dtype: DType, shape: &[usize], range: f64) -> Tensor {
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| self.unit() * range).collect();
        tensor_of(dtype, shape, &values)
    }
}

/// The tensor with the given values, converted as `as` does.
pub fn tensor_of(dtype: DType, shape: &[usize], values: &[f64]) -> Tensor {
    macro_rules! of {
        ($t:ty) => {
            Tensor::from_slice(shape, &values.iter().map(|&x| x as $t).collect::<Vec<_>>())
        };
    }
    match dtype {
        DType::F32 => of!(f32),
        DType::F64 => of!(f64),
        DType::F16 => {
            let v: Vec<half::f16> = values.iter().map(|&x| half::f16::from_f64(x)).collect();
            Tensor::from_slice(shape, &v)
        }
        DType::BF16 => {
            let v: Vec<half::bf16> = values.iter().map(|&x| half::bf16::from_f64(x)).collect();
            Tensor::from_slice(shape, &v)
        }
        DType::I8 => of!(i8),
        DType::U8 => of!(u8),
        DType::I16 => of!(i16),
        DType::U16 => of!(u16),
        DType::I32 => of!(i32),
        DType::U32 => of!(u32),
        DType::I64 => of!(i64),
        DType::U64 => of!(u64),
        DType::Bool => Tensor::from_bools(shape, &values.iter().map(|&x| x > 0.0).collect::<Vec<_>>()),
        _ => panic!("no random {dtype}"),
    }
    .expect("sizes agree")
}

/// A random placement: axes in another order in memory, gaps between rows.
fn random_desc(r: &mut Random, dtype: DType, shape: &[usize]) -> (TensorDesc, usize) {
    let mut desc = TensorDesc::dense(dtype, shape);
    if r.chance(50) || shape.is_empty() {
        return (desc, shape.iter().product());
    }
    let mut order: Vec<usize> = (0..shape.len()).collect();
    if r.chance(50) {
        for i in (1..order.len()).rev() {
            order.swap(i, r.below(i + 1));
        }
    }
    let mut step = 1;
    for &axis in order.iter().rev() {
        desc.strides[axis] = step as isize;
        step *= shape[axis] + if r.chance(30) { r.below(4) } else { 0 };
    }
    (desc, step)
}

fn offsets(desc: &TensorDesc) -> Vec<usize> {
    (0..desc.count())
        .map(|mut i| {
            let mut offset = 0;
            for (size, stride) in desc.shape.iter().zip(&desc.strides).rev() {
                offset += (i % size) as isize * stride;
                i /= size;
            }
            offset as usize
        })
        .collect()
}

const GUARD: usize = 192;
const POISON: u8 = 0xa5;

/// Memory of one operand with poison before, after and in the gaps.
struct Placed {
    desc: TensorDesc,
    bytes: AlignedBytes,
}

impl Placed {
    fn new(desc: TensorDesc, span: usize, tensor: Option<&Tensor>) -> Placed {
        let width = desc.dtype.bits() / 8;
        let mut bytes = AlignedBytes::zeroed(2 * GUARD + span * width);
        bytes.as_mut_slice().fill(POISON);
        if let Some(t) = tensor {
            for (i, o) in offsets(&desc).into_iter().enumerate() {
                let at = GUARD + o * width;
                bytes.as_mut_slice()[at..at + width].copy_from_slice(&t.bytes()[i * width..(i + 1) * width]);
            }
        }
        Placed { desc, bytes }
    }

    /// The elements; panics if a byte that belongs to none was written.
    fn read(&self, what: &str) -> Tensor {
        let width = self.desc.dtype.bits() / 8;
        let mut dense = Vec::with_capacity(self.desc.count() * width);
        let mut owned = vec![false; self.bytes.as_slice().len()];
        for o in offsets(&self.desc) {
            let at = GUARD + o * width;
            dense.extend_from_slice(&self.bytes.as_slice()[at..at + width]);
            owned[at..at + width].fill(true);
        }
        for (i, (&b, owned)) in self.bytes.as_slice().iter().zip(owned).enumerate() {
            assert!(owned || b == POISON, "{what}: byte {i} outside of the result was written");
        }
        Tensor::from_bytes(self.desc.dtype, &self.desc.shape, &dense).expect("sizes agree")
    }
}

/// How a case is laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Dense,
    /// Operands and results at random strides; the tactic may refuse.
    Random,
}

/// Runs `tactic` on `inputs`; `None` where it does not accept. Operands flagged in `constant` are known at build time.
pub fn run(
    tactic: &dyn Tactic,
    op: &Op,
    inputs: &[Tensor],
    constant: &[usize],
    outputs: &[(DType, Vec<usize>)],
    isa: Isa,
    threads: usize,
    layout: Layout,
    r: &mut Random,
) -> Option<Vec<Tensor>> {
    run_at(Precision::Fp32, tactic, op, inputs, constant, outputs, isa, threads, layout, r)
}

/// [`run`] at a precision.
pub fn run_at(
    precision: Precision,
    tactic: &dyn Tactic,
    op: &Op,
    inputs: &[Tensor],
    constant: &[usize],
    outputs: &[(DType, Vec<usize>)],
    isa: Isa,
    threads: usize,
    layout: Layout,
    r: &mut Random,
) -> Option<Vec<Tensor>> {
    let mut place = |dtype: DType, shape: &[usize], dense: bool| match layout {
        Layout::Random if !dense => random_desc(r, dtype, shape),
        _ => (TensorDesc::dense(dtype, shape), shape.iter().product()),
    };
    let placed: Vec<Placed> = inputs
        .iter()
        .enumerate()
        .map(|(i, t)| {
            let (desc, span) = place(t.dtype(), t.shape(), constant.contains(&i));
            Placed::new(desc, span, Some(t))
        })
        .collect();
    let mut results: Vec<Placed> = outputs
        .iter()
        .map(|(dtype, shape)| {
            let (desc, span) = place(*dtype, shape, false);
            Placed::new(desc, span, None)
        })
        .collect();
    let operands: Vec<Operand<'_>> = placed
        .iter()
        .zip(inputs)
        .enumerate()
        .map(|(i, (p, t))| Operand { desc: p.desc.clone(), constant: constant.contains(&i).then_some(t) })
        .collect();
    let descs: Vec<TensorDesc> = results.iter().map(|p| p.desc.clone()).collect();
    let problem = Problem { op, inputs: &operands, outputs: &descs, threads, isa, precision, env: &[] };
    let fit = tactic.accepts(&problem).ok()?;
    assert!(fit.cost_ns.is_finite() && fit.cost_ns >= 0.0, "{}: cost {}", tactic.id(), fit.cost_ns);
    let packed: Vec<Option<AlignedBytes>> = (0..inputs.len())
        .map(|i| {
            tactic.packing(&problem, i).map(|_| {
                let mut bytes = AlignedBytes::zeroed(tactic.packed_bytes(&problem, i));
                tactic.pack(&problem, i, bytes.as_mut_slice());
                if tactic.packing_moves(&problem, i) && matches!(inputs[i].dtype().bits(), 32 | 64) {
                    let plain = crate::unpack(tactic, &problem, i, bytes.as_slice());
                    let plain = plain.unwrap_or_else(|| panic!("{}: operand {i} is lost", tactic.id()));
                    assert_eq!(plain.as_slice(), inputs[i].bytes(), "{}: operand {i} unpacked", tactic.id());
                }
                bytes
            })
        })
        .collect();
    let kernel = tactic.prepare(&problem);
    let pointers: Vec<*const u8> = placed
        .iter()
        .zip(&packed)
        .map(|(p, packed)| match packed {
            Some(b) => b.as_slice().as_ptr(),
            None => p.bytes.as_slice()[GUARD..].as_ptr(),
        })
        .collect();
    let targets: SmallVec<[*mut u8; 4]> =
        results.iter_mut().map(|p| p.bytes.as_mut_slice()[GUARD..].as_mut_ptr()).collect();
    let mut scratch = AlignedBytes::zeroed(kernel.scratch_bytes() + GUARD);
    let mut workspace = AlignedBytes::zeroed(kernel.workspace_bytes() + GUARD);
    workspace.as_mut_slice().fill(POISON);
    for (phase, &tasks) in kernel.phases().iter().enumerate() {
        // Any order must do.
        let mut order: Vec<usize> = (0..tasks).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, r.below(i + 1));
        }
        for task in order {
            scratch.as_mut_slice().fill(POISON);
            let args = Args {
                inputs: &pointers,
                outputs: &targets,
                scratch: scratch.as_mut_slice().as_mut_ptr(),
                workspace: workspace.as_mut_slice().as_mut_ptr(),
            };
            // SAFETY: operands, results, scratch and workspace are those of the problem that the kernel was prepared for.
            unsafe { kernel.run(phase, task, &args) }.expect("no data fault");
            let end = kernel.scratch_bytes();
            assert!(
                scratch.as_slice()[end..].iter().all(|&b| b == POISON),
                "{}: wrote beyond its scratch",
                tactic.id()
            );
        }
    }
    let end = kernel.workspace_bytes();
    assert!(
        workspace.as_slice()[end..].iter().all(|&b| b == POISON),
        "{}: wrote beyond its workspace",
        tactic.id()
    );
    for (i, p) in placed.iter().enumerate() {
        p.read(&format!("{} operand {i}", tactic.id()));
    }
    Some(results.iter().map(|p| p.read(tactic.id())).collect())
}

/// Allowed difference: `absolute + relative * max |expected|` for floats, none for integers.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    pub absolute: f64,
    pub relative: f64,
}

/// Panics where `got` differs from `expected`; NaN must meet NaN, infinities themselves.
pub fn compare(what: &str, got: &Tensor, expected: &Tensor, tolerance: Tolerance) {
    assert_eq!(got.dtype(), expected.dtype(), "{what}: type");
    assert_eq!(got.shape(), expected.shape(), "{what}: shape");
    if !got.dtype().is_float() {
        assert!(got.bytes() == expected.bytes(), "{what}: {got:?} where {expected:?} was expected");
        return;
    }
    let unit = match got.dtype() {
        DType::F16 => 1e-3,
        DType::BF16 => 8e-3,
        _ => 0.0,
    };
    let largest = (0..expected.count())
        .map(|i| expected.get_f64(i).abs())
        .filter(|x| x.is_finite())
        .fold(0.0, f64::max);
    let allowed = tolerance.absolute + (tolerance.relative + unit) * largest;
    for i in 0..got.count() {
        let (x, y) = (got.get_f64(i), expected.get_f64(i));
        let fine = if y.is_finite() { (x - y).abs() <= allowed } else { x == y || x.is_nan() && y.is_nan() };
        assert!(fine, "{what}: element {i} of {:?} is {x}, expected {y} (allowed {allowed:e})", got.shape());
    }
}

/// Runs the tactic under every instruction set, dense and at random strides, on one and three threads' splits, against `expected`.
/// Returns how many runs it accepted; dense ones must be.
pub fn check(
    tactic: &dyn Tactic,
    op: &Op,
    inputs: &[Tensor],
    constant: &[usize],
    expected: &[Tensor],
    tolerance: Tolerance,
    r: &mut Random,
) -> usize {
    let outputs: Vec<(DType, Vec<usize>)> =
        expected.iter().map(|t| (t.dtype(), t.shape().to_vec())).collect();
    let mut accepted = 0;
    for isa in Isa::available() {
        for (layout, threads) in [(Layout::Dense, 1), (Layout::Dense, 3), (Layout::Random, 3)] {
            let what = format!("{} {isa} {op:?} on {inputs:?}", tactic.id());
            let Some(got) = run(tactic, op, inputs, constant, &outputs, isa, threads, layout, r) else {
                assert!(layout == Layout::Random, "{what}: refused");
                continue;
            };
            accepted += 1;
            for (got, expected) in got.iter().zip(expected) {
                compare(&what, got, expected, tolerance);
            }
        }
    }
    accepted
}
