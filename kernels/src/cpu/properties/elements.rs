//! What is computed element by element.

use super::*;

pub(super) fn unary(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let ops: Vec<UnaryOp> = UnaryOp::ALL.iter().copied().filter(|op| op.result(dtype).is_some()).collect();
    let op = ops[d.numbers[0] % ops.len()];
    let shape = d.shape(1, 5, 2000);
    let mut r = d.random();
    // Away from poles and steep places, where one rounding of the operand moves the result by more than any tolerance.
    use UnaryOp::*;
    let positive = matches!(op, Log | Recip | Rsqrt | Sqrt | Acosh | Tan);
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| match op {
            Acosh => 1.5 + r.unit().abs(),
            Asin | Acos | Atanh => 0.9 * r.unit(),
            _ if positive => 0.3 + r.unit().abs(),
            _ => 3.0 * r.unit(),
        })
        .collect();
    Case::new(Unary { op }, vec![check::tensor_of(dtype, &shape, &values)])
}

pub(super) fn binary(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let ops: Vec<BinaryOp> = BinaryOp::ALL
        .iter()
        .copied()
        .filter(|op| op.result(dtype).is_some())
        // Steps at multiples of the divisor: one rounding of the quotient is a whole divisor of difference.
        .filter(|op| !(dtype.is_float() && matches!(op, BinaryOp::Mod | BinaryOp::Fmod)))
        .collect();
    let op = ops[d.numbers[0] % ops.len()];
    let shape = d.shape(1, 5, 2000);
    let (a, b) = (d.broadcast(1, &shape), if d.flags[0] { shape.clone() } else { d.broadcast(2, &shape) });
    let (a, b) = if d.flags[1] { (a, b) } else { (b, a) };
    let mut r = d.random();
    let count = |s: &[usize]| s.iter().product::<usize>();
    let away = matches!(op, BinaryOp::Div | BinaryOp::Pow) && dtype.is_float();
    let shift = matches!(op, BinaryOp::Shl | BinaryOp::Shr);
    let left: Vec<f64> =
        (0..count(&a)).map(|_| if away { 0.5 + r.unit().abs() } else { 4.0 * r.unit() }).collect();
    let right: Vec<f64> = (0..count(&b))
        .map(|_| match () {
            () if away => 0.5 + r.unit().abs(),
            // Exponents of integers are small and not negative; some shifts lie outside the type's width.
            () if shift => r.below(80) as f64 - if dtype.is_signed_int() { 8.0 } else { 0.0 },
            () if op == BinaryOp::Pow => r.below(4) as f64,
            () => 4.0 * r.unit(),
        })
        .collect();
    let inputs = vec![check::tensor_of(dtype, &a, &left), check::tensor_of(dtype, &b, &right)];
    Case::new(Binary { op }, inputs)
}

pub(super) fn select(d: &Draw) -> Case {
    let dtype = d.dtype(&ANY);
    let shape = d.shape(1, 4, 2000);
    let mut r = d.random();
    let condition = r.tensor(DType::Bool, &d.broadcast(0, &shape), 1.0);
    let inputs = vec![
        condition,
        r.tensor(dtype, &d.broadcast(1, &shape), 9.0),
        r.tensor(dtype, &d.broadcast(2, &shape), 9.0),
    ];
    Case::new(Select, inputs)
}

pub(super) fn cast(d: &Draw) -> Case {
    let (from, to) = (d.dtype(&ANY), d.pick(0, &ANY));
    Case::new(Cast { to }, vec![d.random().tensor(from, &d.shape(1, 4, 2000), 100.0)])
}

/// A region of smooth functions over broadcast operands.
pub(super) fn pointwise(d: &Draw) -> Case {
    let dtype = d.dtype(&STORED);
    let shape = d.shape(1, 5, 2000);
    let mut r = d.random();
    let mut expr = Expr::new();
    let count = d.between(0, 1, 3);
    let mut inputs = Vec::new();
    let mut values = Vec::new();
    for i in 0..count {
        values.push(expr.push(ExprNode::Input(i as u16)));
        let own = if i == 0 { shape.clone() } else { d.broadcast(i, &shape) };
        inputs.push(r.tensor(dtype, &own, 2.0));
    }
    values.push(expr.push(ExprNode::Const(Scalar::float(dtype, 0.75))));
    use {BinaryOp as B, UnaryOp as U};
    for step in 0..d.between(4, 1, 6) {
        let number = d.numbers[(step + 3) % 8];
        let (a, b) = (values[number % values.len()], values[number / 7 % values.len()]);
        let node = match number % 3 {
            0 => {
                let ops =
                    [U::Neg, U::Abs, U::Tanh, U::Sigmoid, U::Gelu, U::Silu, U::HardSwish, U::Erf, U::Relu];
                ExprNode::Unary(ops[number / 3 % ops.len()], a)
            }
            _ => {
                let ops = [B::Add, B::Sub, B::Mul, B::Min, B::Max];
                ExprNode::Binary(ops[number / 3 % ops.len()], a, b)
            }
        };
        values.push(expr.push(node));
    }
    // All operands take part.
    let mut result = values[values.len() - 1];
    for value in &values[..count] {
        result = expr.push(ExprNode::Binary(B::Add, result, *value));
    }
    expr.finish(result);
    Case::new(Pointwise { expr }, inputs)
}

pub(super) fn quantized(d: &Draw) -> Case {
    let narrow = d.dtype(&[DType::I8, DType::U8, DType::I32]);
    let shape = d.shape(1, 4, 2000);
    let axis = d.axis(0, shape.len());
    let mut r = d.random();
    let block = if d.flags[2] && d.flags[0] { d.between(0, 1, 4) } else { 0 };
    let mut shape = shape;
    let per = match block {
        _ if !d.flags[0] => vec![],
        0 => vec![shape[axis]],
        block => {
            let mut per = shape.clone();
            shape[axis] = block * shape[axis].min(10);
            per[axis] = shape[axis] / block;
            per
        }
    };
    let steps: Vec<f64> = (0..per.iter().product()).map(|_| 0.05 + r.unit().abs()).collect();
    let scale = check::tensor_of(DType::F32, &per, &steps);
    if d.flags[1] {
        let mut inputs = vec![r.tensor(narrow, &shape, 100.0), scale];
        let zero_point = narrow != DType::I32;
        if zero_point {
            inputs.push(r.tensor(narrow, &per, 20.0));
        }
        return Case::new(Dequantize { axis, block, zero_point }, inputs);
    }
    let to = if narrow == DType::I32 { DType::U8 } else { narrow };
    // Half steps away from ties, where one rounding decides.
    let (after, size): (usize, usize) = (shape[axis + 1..].iter().product(), shape[axis]);
    let values: Vec<f64> = (0..shape.iter().product::<usize>())
        .map(|i| {
            let (at, rest) = (i / after % size, i % after);
            let step = match block {
                _ if !d.flags[0] => steps[0],
                0 => steps[at],
                block => steps[(i / (after * size) * (size / block) + at / block) * after + rest],
            };
            step * (r.below(200) as f64 - 100.0 + 0.8 * r.unit().abs() - 0.4)
        })
        .collect();
    let inputs = vec![check::tensor_of(DType::F32, &shape, &values), scale, r.tensor(to, &per, 20.0)];
    Case::new(Quantize { axis, block, to, zero_point: true }, inputs)
}
