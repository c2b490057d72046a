//! Compiles an [`Expr`] to steps over tile-sized operands.

use crate::Reject;
use crate::cpu::isa::Isa;
use engraft_network::{BinaryOp, DType, Expr, ExprNode, Scalar, UnaryOp};
use smallvec::SmallVec;

/// Elements of a tile: operands of one step take 2 KiB as `f32`, so that a dozen live values stay in L1.
pub(super) const TILE: usize = 512;

/// The type in which a step computes. Half-width floats compute as `f32` and are rounded where they are stored or cast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F64,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    Bool,
}

impl Kind {
    pub fn of(dtype: DType) -> Option<Kind> {
        Some(match dtype {
            DType::F32 | DType::F16 | DType::BF16 => Kind::F32,
            DType::F64 => Kind::F64,
            DType::I8 => Kind::I8,
            DType::U8 => Kind::U8,
            DType::I16 => Kind::I16,
            DType::U16 => Kind::U16,
            DType::I32 => Kind::I32,
            DType::U32 => Kind::U32,
            DType::I64 => Kind::I64,
            DType::U64 => Kind::U64,
            DType::Bool => Kind::Bool,
            DType::F8E4M3 | DType::F8E5M2 | DType::I4 | DType::U4 => return None,
        })
    }

    pub fn bytes(self) -> usize {
        match self {
            Kind::I8 | Kind::U8 | Kind::Bool => 1,
            Kind::I16 | Kind::U16 => 2,
            Kind::F32 | Kind::I32 | Kind::U32 => 4,
            Kind::F64 | Kind::I64 | Kind::U64 => 8,
        }
    }
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Copy,
    Unary(UnaryOp),
    Binary(BinaryOp),
    /// `a ? b : c`, with the condition as the first argument.
    Select,
    /// From the given kind to the step's.
    Cast(Kind),
    /// Rounds `f32` to the values of a half-width type.
    RoundTo(DType),
    /// `a * b + c`.
    MultiplyAdd,
    /// `min(max(a, b), c)`; b and c are not NaN, b <= c.
    Clamp,
    /// `max(a, b)` with b a constant that is not NaN.
    MaxConst,
    /// `min(a, b)` with b a constant that is not NaN.
    MinConst,
    /// `a^n` for a small integer.
    PowInt(i8),
}

/// Place of an operand in the table of a run: inputs, then constants, then buffers, then the output.
pub(super) type Slot = u16;

#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub code: Code,
    /// Type of the operands: the result has the same, but for comparisons and tests (`bool`), and casts.
    pub kind: Kind,
    pub dst: Slot,
    pub args: [Slot; 3],
}

/// A compiled expression: what to do on every tile, whatever the shapes are.
#[derive(Clone, Debug)]
pub struct Program {
    pub(super) isa: Isa,
    pub(super) inputs: SmallVec<[DType; 4]>,
    pub(super) output: DType,
    pub(super) consts: SmallVec<[(Kind, Scalar); 4]>,
    pub(super) steps: SmallVec<[Step; 8]>,
    /// Intermediate values that live at once.
    pub(super) buffers: usize,
    /// Bytes per element of an intermediate value.
    pub(super) width: usize,
    /// Inputs, then constants, that some step other than an `f32` one reads: these have no scalar form.
    pub(super) vectors_only: SmallVec<[bool; 4]>,
    /// Expected nanoseconds of arithmetic per element.
    pub(super) cost: f64,
    /// Whether the result may overwrite an input of its own type and place.
    pub(super) in_place: bool,
}

/// A node of the expression after fusion.
#[derive(Clone, Copy)]
struct Instruction {
    code: Code,
    kind: Kind,
    /// Kind of the result.
    result: Kind,
    args: [usize; 3],
    count: usize,
}

/// How a node of the expression is computed.
enum Value {
    Input(usize),
    Const(usize),
    Instruction(Instruction),
    /// Same as another node.
    Alias(usize),
}

impl Program {
    /// # Errors
    /// A reason where the expression is ill-typed for the inputs or touches types that have no vector form (4-bit integers,
    /// 8-bit floats).
    pub fn compile(expr: &Expr, inputs: &[DType], isa: Isa) -> Result<Program, Reject> {
        let types = expr.types(inputs).map_err(|i| Reject(format!("expression node {i} is ill-typed")))?;
        if let Some(t) = types.iter().chain(inputs).find(|t| Kind::of(**t).is_none()) {
            return Err(Reject(format!("elementwise arithmetic on {t}")));
        }
        Ok(Compiler::new(expr, inputs, &types).finish(isa))
    }

    /// Storage type of the result.
    pub fn output(&self) -> DType {
        self.output
    }

    /// Expected nanoseconds of arithmetic per element on one thread.
    pub fn cost_per_element(&self) -> f64 {
        self.cost
    }

    pub(super) fn slots(&self) -> usize {
        self.inputs.len() + self.consts.len() + self.buffers + 1
    }
}

struct Compiler<'a> {
    nodes: &'a [ExprNode],
    types: &'a [DType],
    inputs: &'a [DType],
    uses: SmallVec<[u16; 16]>,
    values: SmallVec<[Value; 16]>,
    consts: SmallVec<[(Kind, Scalar); 4]>,
}

impl<'a> Compiler<'a> {
    fn new(expr: &'a Expr, inputs: &'a [DType], types: &'a [DType]) -> Self {
        let nodes = expr.nodes();
        let mut uses: SmallVec<[u16; 16]> = SmallVec::from_elem(0, nodes.len());
        for node in nodes {
            match *node {
                ExprNode::Input(_) | ExprNode::Const(_) => {}
                ExprNode::Unary(_, a) | ExprNode::Cast(_, a) => uses[usize::from(a)] += 1,
                ExprNode::Binary(_, a, b) => {
                    uses[usize::from(a)] += 1;
                    uses[usize::from(b)] += 1;
                }
                ExprNode::Select(c, a, b) => {
                    for x in [c, a, b] {
                        uses[usize::from(x)] += 1;
                    }
                }
            }
        }
        let mut compiler =
            Compiler { nodes, types, inputs, uses, values: SmallVec::new(), consts: SmallVec::new() };
        for i in 0..nodes.len() {
            let value = compiler.lower(i);
            compiler.values.push(value);
        }
        compiler
    }

    fn kind(&self, i: usize) -> Kind {
        Kind::of(self.types[i]).expect("checked by compile")
    }

    fn resolve(&self, mut i: usize) -> usize {
        while let Value::Alias(j) = self.values[i] {
            i = j;
        }
        i
    }

    /// The value of a float constant that is not NaN.
    fn constant(&self, i: usize) -> Option<f64> {
        match self.nodes[i] {
            ExprNode::Const(c) if c.dtype().is_float() && !c.to_f64().is_nan() => Some(c.to_f64()),
            _ => None,
        }
    }

    fn lower(&mut self, i: usize) -> Value {
        match self.nodes[i] {
            ExprNode::Input(k) => Value::Input(usize::from(k)),
            ExprNode::Const(c) => {
                self.consts.push((self.kind(i), c));
                Value::Const(self.consts.len() - 1)
            }
            ExprNode::Unary(op, a) => self.instruction(i, Code::Unary(op), self.kind(a.into()), &[a.into()]),
            ExprNode::Binary(op, a, b) => self.lower_binary(i, op, a.into(), b.into()),
            ExprNode::Select(c, a, b) => {
                self.instruction(i, Code::Select, self.kind(i), &[c.into(), a.into(), b.into()])
            }
            ExprNode::Cast(to, a) => {
                let a = usize::from(a);
                let (from, kind) = (self.kind(a), self.kind(i));
                if from != kind {
                    let cast = self.instruction(i, Code::Cast(from), kind, &[a]);
                    // A conversion to half width from another kind is rounded where it is stored.
                    return cast;
                }
                match to {
                    DType::F16 | DType::BF16 if self.types[a] != to => {
                        self.instruction(i, Code::RoundTo(to), kind, &[a])
                    }
                    _ => Value::Alias(self.resolve(a)),
                }
            }
        }
    }

    fn lower_binary(&mut self, i: usize, op: BinaryOp, a: usize, b: usize) -> Value {
        let kind = self.kind(a);
        if kind == Kind::F32
            && let Some(value) = self.fuse(i, op, a, b)
        {
            return value;
        }
        self.instruction(i, Code::Binary(op), kind, &[a, b])
    }

    /// The product that node `a` is, if nothing else reads it.
    fn product(&self, a: usize) -> Option<(usize, usize)> {
        match self.nodes[a] {
            ExprNode::Binary(BinaryOp::Mul, p, q)
                if self.uses[a] == 1
                    && matches!(
                        self.values[a],
                        Value::Instruction(Instruction { code: Code::Binary(BinaryOp::Mul), .. })
                    ) =>
            {
                Some((p.into(), q.into()))
            }
            _ => None,
        }
    }

    /// Forms of `f32` arithmetic that one step computes.
    fn fuse(&mut self, i: usize, op: BinaryOp, a: usize, b: usize) -> Option<Value> {
        let f32 = Kind::F32;
        match op {
            BinaryOp::Add => {
                for (x, y) in [(a, b), (b, a)] {
                    if let Some((p, q)) = self.product(x) {
                        return Some(self.instruction(i, Code::MultiplyAdd, f32, &[p, q, y]));
                    }
                }
                None
            }
            BinaryOp::Mul => {
                for (x, y) in [(a, b), (b, a)] {
                    if let ExprNode::Unary(UnaryOp::Sigmoid, z) = self.nodes[y]
                        && usize::from(z) == x
                        && self.uses[y] == 1
                    {
                        return Some(self.instruction(i, Code::Unary(UnaryOp::Silu), f32, &[x]));
                    }
                }
                None
            }
            BinaryOp::Max | BinaryOp::Min => {
                let (x, c) = [(a, b), (b, a)].into_iter().find(|&(_, c)| self.constant(c).is_some())?;
                let (own, other) = if op == BinaryOp::Max {
                    (Code::MaxConst, Code::MinConst)
                } else {
                    (Code::MinConst, Code::MaxConst)
                };
                if self.uses[x] == 1
                    && let Value::Instruction(inner) = &self.values[x]
                    && inner.code == other
                {
                    let (low, high) =
                        if op == BinaryOp::Max { (c, inner.args[1]) } else { (inner.args[1], c) };
                    if self.constant(low)? <= self.constant(high)? {
                        let x = inner.args[0];
                        return Some(self.instruction(i, Code::Clamp, f32, &[x, low, high]));
                    }
                }
                Some(self.instruction(i, own, f32, &[x, c]))
            }
            BinaryOp::Pow => {
                let y = self.constant(b)?;
                if y == 0.5 {
                    // pow differs from sqrt at -0 and -inf only.
                    return None;
                }
                let n = y as i8;
                (f64::from(n) == y && (-4..=8).contains(&n))
                    .then(|| self.instruction(i, Code::PowInt(n), f32, &[a]))
            }
            BinaryOp::Div => {
                // Division by a power of two is exact as a product.
                let y = self.constant(b)? as f32;
                let exact = y.is_normal() && y.to_bits() & 0x007f_ffff == 0 && (1.0 / y).is_normal();
                if !exact {
                    return None;
                }
                self.consts.push((f32, Scalar::f32(1.0 / y)));
                let constant = self.consts.len() - 1;
                let mut product = self.instruction(i, Code::Binary(BinaryOp::Mul), f32, &[a, a]);
                if let Value::Instruction(product) = &mut product {
                    product.args[1] = CONST_BASE + constant;
                }
                Some(product)
            }
            _ => None,
        }
    }

    fn instruction(&self, i: usize, code: Code, kind: Kind, args: &[usize]) -> Value {
        let mut padded = [usize::MAX; 3];
        for (slot, &a) in padded.iter_mut().zip(args) {
            *slot = self.resolve(a);
        }
        Value::Instruction(Instruction { code, kind, result: self.kind(i), args: padded, count: args.len() })
    }

    /// Schedules the instructions that the result needs and gives them buffers.
    fn finish(self, isa: Isa) -> Program {
        let result = self.resolve(self.nodes.len() - 1);
        let n = self.values.len();
        let mut needed: SmallVec<[bool; 16]> = SmallVec::from_elem(false, n);
        let mut last: SmallVec<[usize; 16]> = SmallVec::from_elem(0, n);
        needed[result] = true;
        for i in (0..n).rev() {
            if needed[i]
                && let Value::Instruction(instruction) = &self.values[i]
            {
                for &a in &instruction.args[..instruction.count] {
                    if a < CONST_BASE {
                        last[a] = last[a].max(i);
                        needed[a] = true;
                    }
                }
            }
        }
        let (inputs, consts) = (self.inputs.len(), self.consts.len());
        let mut program = Program {
            isa,
            inputs: self.inputs.into(),
            output: self.types[self.nodes.len() - 1],
            consts: self.consts.clone(),
            steps: SmallVec::new(),
            buffers: 0,
            width: 4,
            vectors_only: SmallVec::from_elem(false, inputs + consts),
            cost: 0.0,
            in_place: true,
        };
        let mut place: SmallVec<[Slot; 16]> = SmallVec::from_elem(Slot::MAX, n);
        let mut free: SmallVec<[Slot; 8]> = SmallVec::new();
        let slot_of = |place: &[Slot], values: &[Value], a: usize| -> Slot {
            if a >= CONST_BASE {
                return (inputs + a - CONST_BASE) as Slot;
            }
            match values[a] {
                Value::Input(k) => k as Slot,
                Value::Const(k) => (inputs + k) as Slot,
                _ => place[a],
            }
        };
        for i in 0..n {
            let Value::Instruction(instruction) = &self.values[i] else { continue };
            if !needed[i] {
                continue;
            }
            let args = &instruction.args[..instruction.count];
            let mut step = Step { code: instruction.code, kind: instruction.kind, dst: 0, args: [0; 3] };
            for (slot, &a) in step.args.iter_mut().zip(args) {
                *slot = slot_of(&place, &self.values, a);
            }
            let vector = step.is_f32();
            if !vector {
                for slot in step.args[..instruction.count].iter().map(|s| usize::from(*s)) {
                    if slot < inputs + consts {
                        program.vectors_only[slot] = true;
                    }
                }
            }
            // Only steps that load before they store, lane by lane, may overwrite an argument.
            let dying: SmallVec<[Slot; 3]> = args
                .iter()
                .enumerate()
                .filter(|&(k, &a)| {
                    a < CONST_BASE && last[a] == i && place[a] != Slot::MAX && !args[..k].contains(&a)
                })
                .map(|(_, &a)| place[a])
                .collect();
            let overwrites = vector && instruction.result == Kind::F32 && instruction.code != Code::Select;
            if overwrites {
                free.extend_from_slice(&dying);
            }
            if i != result {
                step.dst = free.pop().unwrap_or_else(|| {
                    program.buffers += 1;
                    (inputs + consts + program.buffers - 1) as Slot
                });
                place[i] = step.dst;
                program.width = program.width.max(instruction.result.bytes());
            } else {
                program.in_place = overwrites;
            }
            if !overwrites {
                free.extend_from_slice(&dying);
            }
            program.cost += step.cost();
            program.steps.push(step);
        }
        let output = (inputs + consts + program.buffers) as Slot;
        match &self.values[result] {
            Value::Instruction(_) => {
                program.steps.last_mut().expect("the result's step").dst = output;
            }
            _ => {
                let kind = Kind::of(self.types[result]).expect("checked by compile");
                let from = slot_of(&place, &self.values, result);
                let step = Step { code: Code::Copy, kind, dst: output, args: [from, 0, 0] };
                if !step.is_f32()
                    && let Some(flag) = program.vectors_only.get_mut(usize::from(from))
                {
                    *flag = true;
                }
                program.in_place = step.is_f32();
                program.cost += step.cost();
                program.steps.push(step);
            }
        }
        program
    }
}

/// Arguments from here on are constants that no node of the expression stands for.
const CONST_BASE: usize = 1 << 20;

impl Step {
    /// Whether the `f32` vector path runs it (which reads scalars as well as vectors).
    pub fn is_f32(&self) -> bool {
        self.kind == Kind::F32 && !matches!(self.code, Code::Cast(_))
    }

    pub fn arity(&self) -> usize {
        match self.code {
            Code::Copy | Code::Unary(_) | Code::Cast(_) | Code::RoundTo(_) | Code::PowInt(_) => 1,
            Code::Binary(_) | Code::MaxConst | Code::MinConst => 2,
            Code::Select | Code::MultiplyAdd | Code::Clamp => 3,
        }
    }

    /// Nanoseconds per element, about, on one thread.
    fn cost(&self) -> f64 {
        use UnaryOp::*;
        if !self.is_f32() {
            return match self.code {
                Code::Unary(Neg | Abs | Relu | Not | BitNot) | Code::Copy | Code::Select | Code::Cast(_) => {
                    0.2
                }
                Code::Unary(_) => 10.0,
                Code::Binary(BinaryOp::Div | BinaryOp::Mod | BinaryOp::Fmod) => 2.0,
                Code::Binary(BinaryOp::Pow) => 20.0,
                _ => 0.2,
            };
        }
        match self.code {
            Code::Unary(
                Neg | Abs | Sign | Relu | Floor | Ceil | Round | Trunc | IsNan | IsPosInf | IsNegInf,
            ) => 0.06,
            Code::Unary(Recip | Sqrt | Rsqrt | HardSwish) => 0.2,
            Code::Unary(Exp | Log | Sin | Cos | Sigmoid | Tanh | Silu) => 0.5,
            Code::Unary(Gelu | Erf | GeluTanh | Softplus | Atan | Asin | Acos) => 0.8,
            Code::Unary(_) => 1.2,
            Code::Binary(BinaryOp::Div) => 0.2,
            Code::Binary(BinaryOp::Pow) => 2.0,
            Code::Binary(BinaryOp::Mod | BinaryOp::Fmod) => 5.0,
            _ => 0.06,
        }
    }
}
