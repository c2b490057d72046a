use super::*;
use crate::Isa;
use crate::cpu::check::{Random, Tolerance, check, tensor_of};
use engraft_network::ops::Pointwise;
use engraft_network::{BinaryOp, Scalar, Tensor, UnaryOp};

const FLOATS: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F64];
const INTEGERS: [DType; 8] =
    [DType::I8, DType::U8, DType::I16, DType::U16, DType::I32, DType::U32, DType::I64, DType::U64];

/// A shape, and operand shapes that broadcast to it, at least one of them its own.
fn shapes(r: &mut Random, operands: usize) -> (Vec<usize>, Vec<Vec<usize>>) {
    let rank = 1 + r.below(4);
    let sizes = [1, 2, 3, 5, 8, 16, 17, 33, 70];
    let mut shape: Vec<usize> = (0..rank).map(|_| r.pick(&sizes)).collect();
    if r.chance(15) {
        shape[rank - 1] = 600 + r.below(900);
        for s in &mut shape[..rank - 1] {
            *s = 1 + r.below(3);
        }
    }
    while shape.iter().product::<usize>() > 20_000 {
        shape.pop();
    }
    let whole = r.below(operands);
    let inputs = (0..operands)
        .map(|k| {
            let mut own = shape.clone();
            if k != whole {
                match r.below(5) {
                    0 => own.clear(),
                    1 => own = shape[shape.len() - 1..].to_vec(),
                    2 => {
                        for s in &mut own {
                            if r.chance(50) {
                                *s = 1;
                            }
                        }
                    }
                    3 => *own.last_mut().unwrap() = 1,
                    _ => {}
                }
            }
            own
        })
        .collect();
    (shape, inputs)
}

/// The operand's elements over the result's shape, as `f64`.
fn broadcast(t: &Tensor, shape: &[usize]) -> Vec<usize> {
    let missing = shape.len() - t.shape().len();
    (0..shape.iter().product())
        .map(|mut i: usize| {
            let (mut offset, mut step) = (0, 1);
            for axis in (0..shape.len()).rev() {
                let at = i % shape[axis];
                i /= shape[axis];
                if axis >= missing {
                    let size = t.shape()[axis - missing];
                    offset += if size == 1 { 0 } else { at * step };
                    step *= size;
                }
            }
            offset
        })
        .collect()
}

fn pointwise(expr: Expr) -> Op {
    Op::Pointwise(Pointwise { expr })
}

const EXACT: Tolerance = Tolerance { absolute: 0.0, relative: 0.0 };
const CLOSE: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-6 };

fn check_float(
    op: Op,
    dtype: DType,
    inputs: &[Tensor],
    shape: &[usize],
    f: &dyn Fn(&[f64]) -> f64,
    r: &mut Random,
) {
    let maps: Vec<Vec<usize>> = inputs.iter().map(|t| broadcast(t, shape)).collect();
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|i| f(&inputs.iter().zip(&maps).map(|(t, m)| t.get_f64(m[i])).collect::<Vec<_>>()))
        .collect();
    let expected = tensor_of(dtype, shape, &values);
    check(&PointwiseTactic, &op, inputs, &[], &[expected], CLOSE, r);
}

#[test]
fn unary_functions_agree_with_scalars_on_all_float_types() {
    let mut r = Random(1);
    for &op in UnaryOp::ALL {
        if matches!(
            op,
            UnaryOp::Not | UnaryOp::BitNot | UnaryOp::IsNan | UnaryOp::IsPosInf | UnaryOp::IsNegInf
        ) {
            continue;
        }
        for dtype in FLOATS {
            let (shape, inputs) = shapes(&mut r, 1);
            let range = if op == UnaryOp::Acosh { 9.0 } else { 3.0 };
            let x = r.tensor(dtype, &inputs[0], range);
            // Poles magnify the rounding of half-width operands' neighbourhoods: keep away from them.
            let x = match op {
                UnaryOp::Recip | UnaryOp::Rsqrt | UnaryOp::Log | UnaryOp::Tan | UnaryOp::Atanh => {
                    let v: Vec<f64> = (0..x.count()).map(|i| x.get_f64(i).abs() * 0.2 + 0.1).collect();
                    tensor_of(dtype, &inputs[0], &v)
                }
                _ => x,
            };
            check_float(
                Op::Unary(engraft_network::ops::Unary { op }),
                dtype,
                &[x],
                &shape,
                &|v| scalar::unary_f64(op, v[0]),
                &mut r,
            );
        }
    }
}

#[test]
fn binary_functions_agree_with_scalars_on_all_float_types() {
    let mut r = Random(2);
    let functions: [(BinaryOp, fn(f64, f64) -> f64); 9] = [
        (BinaryOp::Add, |x, y| x + y),
        (BinaryOp::Sub, |x, y| x - y),
        (BinaryOp::Mul, |x, y| x * y),
        (BinaryOp::Div, |x, y| x / y),
        (BinaryOp::Pow, f64::powf),
        (BinaryOp::Min, f64::min),
        (BinaryOp::Max, f64::max),
        (BinaryOp::Fmod, |x, y| x % y),
        (BinaryOp::Mod, |x, y| x - y * (x / y).floor()),
    ];
    for (op, f) in functions {
        for dtype in FLOATS {
            for _ in 0..3 {
                let (shape, inputs) = shapes(&mut r, 2);
                let t: Vec<Tensor> = inputs
                    .iter()
                    .map(|s| {
                        // Quarters: remainders and quotients are then exact or far from a jump.
                        let n = s.iter().product();
                        let v: Vec<f64> = (0..n).map(|_| (r.below(15) as f64 + 1.0) * 0.25).collect();
                        tensor_of(dtype, s, &v)
                    })
                    .collect();
                check_float(
                    Op::Binary(engraft_network::ops::Binary { op }),
                    dtype,
                    &t,
                    &shape,
                    &|v| f(v[0], v[1]),
                    &mut r,
                );
            }
        }
    }
}

#[test]
fn integer_functions_are_exact() {
    let mut r = Random(3);
    let wrap = |dtype: DType, x: i128| -> i128 {
        let bits = dtype.bits() as u32;
        let low = x & ((1i128 << bits) - 1);
        if dtype.is_signed_int() && low >> (bits - 1) == 1 { low - (1i128 << bits) } else { low }
    };
    for dtype in INTEGERS {
        for op in BinaryOp::ALL.iter().copied().filter(|op| op.result(dtype).is_some()) {
            let (shape, inputs) = shapes(&mut r, 2);
            let t: Vec<Tensor> = inputs
                .iter()
                .map(|s| {
                    let small = r.chance(50);
                    let n: usize = s.iter().product();
                    let width = dtype.bits() / 8;
                    let bytes: Vec<u8> = if small {
                        let v: Vec<f64> = (0..n)
                            .map(|_| r.below(7) as f64 - if dtype.is_signed_int() { 3.0 } else { 0.0 })
                            .collect();
                        tensor_of(dtype, s, &v).bytes().to_vec()
                    } else {
                        (0..n * width).map(|_| r.next() as u8).collect()
                    };
                    Tensor::from_bytes(dtype, s, &bytes).unwrap()
                })
                .collect();
            let wide = |t: &Tensor, i: usize| {
                if dtype == DType::U64 { i128::from(t.get_i64(i) as u64) } else { i128::from(t.get_i64(i)) }
            };
            let (ma, mb) = (broadcast(&t[0], &shape), broadcast(&t[1], &shape));
            let result = op.result(dtype).unwrap();
            let mut bytes = Vec::new();
            for i in 0..ma.len() {
                let (x, y) = (wide(&t[0], ma[i]), wide(&t[1], mb[i]));
                let inside = (0..dtype.bits() as i128).contains(&y);
                let z = match op {
                    BinaryOp::Add => x + y,
                    BinaryOp::Sub => x - y,
                    BinaryOp::Mul => x.wrapping_mul(y),
                    BinaryOp::Div => {
                        if y == 0 {
                            0
                        } else {
                            x / y
                        }
                    }
                    BinaryOp::Fmod => {
                        if y == 0 {
                            0
                        } else {
                            x % y
                        }
                    }
                    BinaryOp::Mod => {
                        if y == 0 {
                            0
                        } else {
                            x - y * x.div_euclid(y) + if y < 0 && x.rem_euclid(y) != 0 { y } else { 0 }
                        }
                    }
                    BinaryOp::Pow => {
                        if y < 0 {
                            match x {
                                1 => 1,
                                -1 => {
                                    if y % 2 == 0 {
                                        1
                                    } else {
                                        -1
                                    }
                                }
                                _ => 0,
                            }
                        } else {
                            // Modular exponentiation: only the low bits count.
                            let (mut b, mut e, mut p) = (wrap(dtype, x), y, 1i128);
                            while e > 0 {
                                if e & 1 == 1 {
                                    p = wrap(dtype, p.wrapping_mul(b));
                                }
                                b = wrap(dtype, b.wrapping_mul(b));
                                e >>= 1;
                            }
                            p
                        }
                    }
                    BinaryOp::Min => x.min(y),
                    BinaryOp::Max => x.max(y),
                    BinaryOp::BitAnd => x & y,
                    BinaryOp::BitOr => x | y,
                    BinaryOp::BitXor => x ^ y,
                    BinaryOp::Shl => {
                        if inside {
                            x << y
                        } else {
                            0
                        }
                    }
                    BinaryOp::Shr => {
                        if inside {
                            x >> y
                        } else if x < 0 {
                            -1
                        } else {
                            0
                        }
                    }
                    BinaryOp::Eq => i128::from(x == y),
                    BinaryOp::Ne => i128::from(x != y),
                    BinaryOp::Lt => i128::from(x < y),
                    BinaryOp::Le => i128::from(x <= y),
                    BinaryOp::Gt => i128::from(x > y),
                    BinaryOp::Ge => i128::from(x >= y),
                    BinaryOp::And | BinaryOp::Or | BinaryOp::Xor => unreachable!(),
                };
                bytes.extend_from_slice(&z.to_le_bytes()[..result.bits() / 8]);
            }
            let expected = Tensor::from_bytes(result, &shape, &bytes).unwrap();
            let op = Op::Binary(engraft_network::ops::Binary { op });
            check(&PointwiseTactic, &op, &t, &[], &[expected], EXACT, &mut r);
        }
    }
}

#[test]
fn casts_agree_with_scalars() {
    let mut r = Random(4);
    let all: Vec<DType> = FLOATS.into_iter().chain(INTEGERS).chain([DType::Bool]).collect();
    for &from in &all {
        for &to in &all {
            let (shape, _) = shapes(&mut r, 1);
            // Values that every type holds, but for their fractions.
            let v: Vec<f64> = (0..shape.iter().product()).map(|_| r.below(500) as f64 * 0.25).collect();
            let x = tensor_of(from, &shape, &v);
            let y: Vec<f64> = (0..x.count())
                .map(|i| {
                    let x = x.get_f64(i);
                    match to {
                        DType::Bool => f64::from(u8::from(x != 0.0)) - 0.5,
                        t if t.is_int() => x.trunc(),
                        _ => x,
                    }
                })
                .collect();
            let expected = tensor_of(to, &shape, &y);
            let op = Op::Cast(engraft_network::ops::Cast { to });
            check(&PointwiseTactic, &op, &[x], &[], &[expected], EXACT, &mut r);
        }
    }
    let wild = Tensor::from_slice(&[6], &[f32::NAN, f32::INFINITY, -1e30, 300.7, -300.7, -0.9]).unwrap();
    let saturated = Tensor::from_slice(&[6], &[0i8, 127, -128, 127, -128, 0]).unwrap();
    let op = Op::Cast(engraft_network::ops::Cast { to: DType::I8 });
    check(&PointwiseTactic, &op, &[wild], &[], &[saturated], EXACT, &mut r);
}

/// Regions with shared values, constants, comparisons, selections and everything that fuses into one step.
#[test]
fn regions_agree_with_their_formulas() {
    let mut r = Random(5);
    let c = |e: &mut Expr, x: f32| e.push(ExprNode::Const(Scalar::f32(x)));
    let build = |f: &dyn Fn(&mut Expr) -> u16| {
        let mut e = Expr::new();
        let result = f(&mut e);
        e.finish(result);
        e
    };
    let input = |e: &mut Expr, i: u16| e.push(ExprNode::Input(i));
    let bin = |e: &mut Expr, op: BinaryOp, a: u16, b: u16| e.push(ExprNode::Binary(op, a, b));
    let un = |e: &mut Expr, op: UnaryOp, a: u16| e.push(ExprNode::Unary(op, a));
    type Formula = Box<dyn Fn(&[f64]) -> f64>;
    let regions: Vec<(Expr, Formula)> = vec![
        (
            build(&|e| {
                let (x, a, b) = (input(e, 0), input(e, 1), input(e, 2));
                let p = bin(e, BinaryOp::Mul, x, a);
                bin(e, BinaryOp::Add, p, b)
            }),
            Box::new(|v| v[0] * v[1] + v[2]),
        ),
        (
            build(&|e| {
                let (x, a, b) = (input(e, 0), input(e, 1), input(e, 2));
                let p = bin(e, BinaryOp::Mul, x, a);
                let s = bin(e, BinaryOp::Add, b, p);
                bin(e, BinaryOp::Mul, s, p)
            }),
            Box::new(|v| (v[2] + v[0] * v[1]) * v[0] * v[1]),
        ),
        (
            build(&|e| {
                let x = input(e, 0);
                let (l, h) = (c(e, -0.5), c(e, 0.75));
                let m = bin(e, BinaryOp::Max, x, l);
                bin(e, BinaryOp::Min, m, h)
            }),
            Box::new(|v| v[0].clamp(-0.5, 0.75)),
        ),
        (
            build(&|e| {
                let x = input(e, 0);
                let (l, h) = (c(e, -0.5), c(e, 0.75));
                let m = bin(e, BinaryOp::Min, h, x);
                bin(e, BinaryOp::Max, l, m)
            }),
            Box::new(|v| v[0].clamp(-0.5, 0.75)),
        ),
        (
            build(&|e| {
                let x = input(e, 0);
                let s = un(e, UnaryOp::Sigmoid, x);
                bin(e, BinaryOp::Mul, s, x)
            }),
            Box::new(|v| v[0] / (1.0 + (-v[0]).exp())),
        ),
        (
            build(&|e| {
                let x = input(e, 0);
                let y = input(e, 1);
                let t = un(e, UnaryOp::Tanh, x);
                let d = bin(e, BinaryOp::Sub, t, y);
                let k = c(e, 3.0);
                let p = bin(e, BinaryOp::Pow, d, k);
                let q = c(e, 4.0);
                bin(e, BinaryOp::Div, p, q)
            }),
            Box::new(|v| (v[0].tanh() - v[1]).powi(3) / 4.0),
        ),
        (
            build(&|e| {
                let (x, y) = (input(e, 0), input(e, 1));
                let m = bin(e, BinaryOp::Lt, x, y);
                let (a, b) = (un(e, UnaryOp::Exp, x), un(e, UnaryOp::Neg, y));
                e.push(ExprNode::Select(m, a, b))
            }),
            Box::new(|v| if v[0] < v[1] { v[0].exp() } else { -v[1] }),
        ),
        (
            build(&|e| {
                let (x, y, z) = (input(e, 0), input(e, 1), input(e, 2));
                let s = bin(e, BinaryOp::Add, x, y);
                let t = bin(e, BinaryOp::Sub, y, z);
                let a = un(e, UnaryOp::Abs, s);
                let b = un(e, UnaryOp::Relu, t);
                let p = bin(e, BinaryOp::Mul, a, b);
                let q = bin(e, BinaryOp::Mul, s, t);
                let r = bin(e, BinaryOp::Max, p, q);
                bin(e, BinaryOp::Sub, r, s)
            }),
            Box::new(|v| {
                let (s, t) = (v[0] + v[1], v[1] - v[2]);
                (s.abs() * t.max(0.0)).max(s * t) - s
            }),
        ),
        (
            build(&|e| {
                let x = input(e, 0);
                let i = e.push(ExprNode::Cast(DType::I32, x));
                let f = e.push(ExprNode::Cast(DType::F32, i));
                bin(e, BinaryOp::Sub, x, f)
            }),
            Box::new(|v| v[0] - v[0].trunc()),
        ),
        (build(&|e| input(e, 0)), Box::new(|v| v[0])),
        (
            build(&|e| {
                let x = input(e, 0);
                let h = e.push(ExprNode::Cast(DType::F16, x));
                e.push(ExprNode::Cast(DType::F32, h))
            }),
            Box::new(|v| half::f16::from_f64(v[0]).to_f64()),
        ),
    ];
    for (expr, formula) in regions {
        for _ in 0..12 {
            let operands = expr.arity();
            let (shape, inputs) = shapes(&mut r, operands);
            let t: Vec<Tensor> = inputs.iter().map(|s| r.tensor(DType::F32, s, 2.0)).collect();
            check_float(pointwise(expr.clone()), DType::F32, &t, &shape, &*formula, &mut r);
        }
    }
}

#[test]
fn nan_passes_through_limits() {
    let mut r = Random(6);
    let mut e = Expr::new();
    let x = e.push(ExprNode::Input(0));
    let (low, high) = (e.push(ExprNode::Const(Scalar::f32(-1.0))), e.push(ExprNode::Const(Scalar::f32(1.0))));
    let m = e.push(ExprNode::Binary(BinaryOp::Max, x, low));
    e.push(ExprNode::Binary(BinaryOp::Min, m, high));
    let x = Tensor::from_slice(&[5], &[f32::NAN, 3.0, -3.0, f32::INFINITY, 0.5]).unwrap();
    let y = Tensor::from_slice(&[5], &[f32::NAN, 1.0, -1.0, 1.0, 0.5]).unwrap();
    check(&PointwiseTactic, &pointwise(e), std::slice::from_ref(&x), &[], &[y], EXACT, &mut r);
    let relu = Tensor::from_slice(&[5], &[f32::NAN, 3.0, 0.0, f32::INFINITY, 0.5]).unwrap();
    let op = Op::Unary(engraft_network::ops::Unary { op: UnaryOp::Relu });
    check(&PointwiseTactic, &op, &[x], &[], &[relu], EXACT, &mut r);
}

#[test]
fn epilogues_apply_in_place_to_strided_blocks() {
    let mut e = Expr::new();
    let [x, bias, residual] = [0, 1, 2].map(|i| e.push(ExprNode::Input(i)));
    let s = e.push(ExprNode::Binary(BinaryOp::Add, x, bias));
    let s = e.push(ExprNode::Binary(BinaryOp::Add, s, residual));
    e.push(ExprNode::Unary(UnaryOp::Relu, s));
    let mut r = Random(7);
    for isa in Isa::available() {
        let program = Program::compile(&e, &[DType::F32; 3], isa).unwrap();
        assert!(program.overwrites());
        for (rows, cols, stride) in [(1, 1, 1), (6, 16, 16), (14, 32, 57), (3, 700, 700), (5, 33, 40)] {
            let mut block: Vec<f32> = (0..rows * stride).map(|_| r.unit() as f32).collect();
            let bias: Vec<f32> = (0..cols).map(|_| r.unit() as f32).collect();
            let residual: Vec<f32> = (0..rows * cols).map(|_| r.unit() as f32).collect();
            let before = block.clone();
            let mut scratch = engraft_network::AlignedBytes::zeroed(program.rows_scratch_bytes());
            let operand = |p: *const f32, row: usize, col: isize| RowOperand {
                ptr: p.cast(),
                row_stride: row as isize,
                col_stride: col,
            };
            let operands = [
                operand(block.as_ptr(), stride, 1),
                operand(bias.as_ptr(), 0, 1),
                operand(residual.as_ptr(), cols, 1),
            ];
            // SAFETY: all operands hold the block at their strides.
            unsafe {
                program.apply_rows(
                    &operands,
                    block.as_mut_ptr().cast(),
                    stride as isize,
                    (rows, cols),
                    scratch.as_mut_slice().as_mut_ptr(),
                );
            }
            for row in 0..rows {
                for col in 0..stride {
                    let at = row * stride + col;
                    let wanted = if col < cols {
                        (before[at] + bias[col] + residual[row * cols + col]).max(0.0)
                    } else {
                        before[at]
                    };
                    assert_eq!(block[at], wanted, "{isa} {rows}x{cols}/{stride} at {row},{col}");
                }
            }
        }
    }
}

#[test]
fn narrow_and_packed_types_are_refused_with_a_reason() {
    let error = Program::compile(&Expr::unary(UnaryOp::Neg), &[DType::F8E4M3], Isa::Portable).unwrap_err();
    assert!(error.0.contains("f8e4m3"), "{error}");
}
