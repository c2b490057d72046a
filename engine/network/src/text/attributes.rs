//! How each operator's attributes are written.

use super::lexer::Lexer;
use crate::ops::{
    Activation, CoordinateMode, Direction, Epilogue, NearestMode, Outside, PadMode, Padding, PoolKind,
    ReduceOp, ResizeMode, RnnKind, SampleMode, ScatterReduction, SliceRange,
};
use crate::{BinaryOp, DType, Dim, Expr, ExprId, ExprNode, Op, Operator, Scalar, UnaryOp, ops};
use std::collections::HashMap;

/// An attribute's type in text: `read` takes back what `show` gives, which has no white space outside of brackets.
trait Attribute: Sized {
    fn show(&self) -> String;
    fn read(l: &mut Lexer<'_>) -> Result<Self, String>;
}

/// The operator set with its attributes in the order in which they are printed, and the values that are left out.
macro_rules! table {
    ($($op:ident { $($field:ident: $ty:ty $(= $default:expr)?),* $(,)? })*) => {
        /// Attributes that do not have their usual value, by name.
        pub(super) fn print(op: &Op) -> Vec<(&'static str, String)> {
            match op {
                Op::Unary(_) | Op::Binary(_) => Vec::new(),
                $(Op::$op(ops::$op { $($field),* }) => {
                    #[allow(unused_mut)]
                    let mut out = Vec::new();
                    $(if !table!(@usual $field $($default)?) {
                        out.push((stringify!($field), $field.show()));
                    })*
                    out
                })*
            }
        }

        /// The operator of that name in text forms with these attributes.
        pub(super) fn parse(mnemonic: &str, attributes: Vec<(String, String)>) -> Result<Op, String> {
            let mut given = Given(attributes);
            #[allow(clippy::redundant_closure_call)]
            let op = match mnemonic {
                $(<ops::$op as Operator>::NAME => {
                    $(let $field: $ty = table!(@take given $field $($default)?);)*
                    Op::$op(ops::$op { $($field),* })
                })*
                name => match (UnaryOp::from_name(name), BinaryOp::from_name(name)) {
                    (Some(op), _) => Op::Unary(ops::Unary { op }),
                    (_, Some(op)) => Op::Binary(ops::Binary { op }),
                    _ => return Err(format!("`{name}` is no operator")),
                },
            };
            match given.0.first() {
                Some((name, _)) => Err(format!("{mnemonic} has no attribute `{name}`")),
                None => Ok(op),
            }
        }
    };
    (@usual $field:ident) => { false };
    (@usual $field:ident $default:expr) => { *$field == $default };
    (@take $given:ident $field:ident) => {
        match $given.take(stringify!($field))? {
            Some(v) => v,
            None => return Err(concat!("attribute `", stringify!($field), "` is missing").to_owned()),
        }
    };
    (@take $given:ident $field:ident $default:expr) => {
        match $given.take(stringify!($field))? {
            Some(v) => v,
            None => $default,
        }
    };
}

table! {
    Select {}
    Cast { to: DType }
    Pointwise { expr: Expr }
    MatMul { trans_a: bool = false, trans_b: bool = false, epilogue: Epilogue = Epilogue::default() }
    Conv {
        strides: Vec<usize>,
        dilations: Vec<usize> = vec![1; strides.len()],
        padding: Padding = Padding::none(strides.len()),
        groups: usize = 1,
        epilogue: Epilogue = Epilogue::default(),
    }
    ConvTranspose {
        strides: Vec<usize>,
        dilations: Vec<usize> = vec![1; strides.len()],
        padding: Padding = Padding::none(strides.len()),
        output_padding: Vec<usize> = vec![0; strides.len()],
        groups: usize = 1,
        epilogue: Epilogue = Epilogue::default(),
    }
    Attention { scale: Scalar, causal: bool = false, mask: bool = false }
    Rnn {
        kind: RnnKind,
        direction: Direction = Direction::Forward,
        hidden: usize,
        activations: Vec<Activation>,
        clip: Option<u32> = None,
        linear_before_reset: bool = false,
        input_forget: bool = false,
        bias: bool = false,
        sequence_lens: bool = false,
        initial_h: bool = false,
        initial_c: bool = false,
        peephole: bool = false,
        mask: bool = false,
    }
    LayerNorm { axis: usize, epsilon: Scalar, rms: bool = false, scale: bool = false, bias: bool = false }
    GroupNorm { groups: usize, epsilon: Scalar }
    Softmax { axis: usize, log: bool = false }
    Reduce { op: ReduceOp, axes: Vec<usize>, keep_dims: bool = false }
    ArgReduce { max: bool = false, axis: usize, keep_dims: bool = false, last: bool = false }
    Cumulative { product: bool = false, axis: usize, exclusive: bool = false, reverse: bool = false }
    Pool {
        kind: PoolKind,
        kernel: Vec<usize>,
        strides: Vec<usize> = vec![1; kernel.len()],
        dilations: Vec<usize> = vec![1; kernel.len()],
        padding: Padding = Padding::none(kernel.len()),
        ceil_mode: bool = false,
        indices: bool = false,
        column_major: bool = false,
    }
    Transpose { perm: Vec<usize> }
    Reshape { shape: Vec<Dim> }
    Expand { shape: Vec<Dim> }
    Concat { axis: usize }
    Slice { ranges: Vec<SliceRange> }
    Pad { mode: PadMode = PadMode::Constant, before: Vec<Dim>, after: Vec<Dim> }
    Tile { repeats: Vec<Dim> }
    Range { len: Dim }
    ShapeTensor { dims: Vec<Dim>, scalar: bool = false, dtype: DType = DType::I64 }
    Trilu { upper: bool = false, k: Dim = Dim::Fixed(0) }
    Gather { axis: usize }
    GatherElements { axis: usize }
    GatherNd { batch_dims: usize = 0 }
    ScatterElements { axis: usize, reduction: ScatterReduction = ScatterReduction::None }
    ScatterNd { reduction: ScatterReduction = ScatterReduction::None }
    OneHot { axis: usize, depth: Dim }
    TopK { axis: usize, largest: bool = false, k: Dim }
    NonZero {}
    NonMaxSuppression { center_point_box: bool = false, score_threshold: bool = false, limit: Dim }
    Unique { axis: usize, sorted: bool = false }
    Dft { length: Dim, inverse: bool = false, onesided: bool = false }
    Stft { length: Dim, step: usize, onesided: bool = false, window: bool = false }
    Resize {
        mode: ResizeMode,
        coordinates: CoordinateMode = CoordinateMode::HalfPixel,
        sizes: Vec<Dim>,
        scales: Option<Vec<u32>> = None,
        exclude_outside: bool = false,
        antialias: bool = false,
        extrapolation: u32 = 0,
    }
    GridSample { mode: SampleMode, outside: Outside = Outside::Zeros, align_corners: bool = false }
    RoiAlign {
        max: bool = false,
        height: usize,
        width: usize,
        samples: usize = 0,
        scale: u32 = 1f32.to_bits(),
        half_pixel: bool = false,
    }
    RoiMaxPool { height: usize, width: usize, scale: u32 = 1f32.to_bits() }
    DeformSample {
        kernel: Vec<usize>,
        strides: Vec<usize> = vec![1; kernel.len()],
        dilations: Vec<usize> = vec![1; kernel.len()],
        padding: Padding = Padding::none(kernel.len()),
        groups: usize = 1,
        mask: bool = false,
    }
    Fold {
        image: Vec<Dim>,
        block: Vec<usize>,
        strides: Vec<usize> = vec![1; block.len()],
        dilations: Vec<usize> = vec![1; block.len()],
        padding: Padding = Padding::none(block.len()),
    }
    Det {}
    BitCast { to: DType }
    Quantize { axis: usize = 0, block: usize = 0, to: DType, zero_point: bool = false }
    Dequantize { axis: usize = 0, block: usize = 0, zero_point: bool = false }
}

/// The operator's name in text forms: elementwise functions go by their own.
pub(super) fn mnemonic(op: &Op) -> &'static str {
    match op {
        Op::Unary(u) => u.op.name(),
        Op::Binary(b) => b.op.name(),
        op => op.name(),
    }
}

struct Given(Vec<(String, String)>);

impl Given {
    fn take<T: Attribute>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(i) = self.0.iter().position(|(n, _)| n == name) else { return Ok(None) };
        let (_, text) = self.0.remove(i);
        let mut l = Lexer::new(&text);
        let v = T::read(&mut l).and_then(|v| l.end().map(|()| v));
        v.map(Some).map_err(|e| format!("attribute `{name}`: {e}"))
    }
}

impl Attribute for usize {
    fn show(&self) -> String {
        self.to_string()
    }
    fn read(l: &mut Lexer<'_>) -> Result<usize, String> {
        let n = l.number()?;
        usize::try_from(n).map_err(|_| format!("{n} is too large"))
    }
}

/// The bits of an `f32`, written as the number.
impl Attribute for u32 {
    fn show(&self) -> String {
        format!("{:?}", f32::from_bits(*self))
    }
    fn read(l: &mut Lexer<'_>) -> Result<u32, String> {
        let text = l.literal()?;
        text.parse::<f32>().map(f32::to_bits).map_err(|_| format!("`{text}` is no number"))
    }
}

impl Attribute for bool {
    fn show(&self) -> String {
        self.to_string()
    }
    fn read(l: &mut Lexer<'_>) -> Result<bool, String> {
        match l.word()? {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(format!("`{other}` is neither true nor false")),
        }
    }
}

impl Attribute for Dim {
    fn show(&self) -> String {
        self.to_string()
    }
    fn read(l: &mut Lexer<'_>) -> Result<Dim, String> {
        l.dim()
    }
}

impl<T: Attribute> Attribute for Vec<T> {
    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(","))
    }
    fn read(l: &mut Lexer<'_>) -> Result<Vec<T>, String> {
        l.expect("[")?;
        let mut out = Vec::new();
        while !l.eat("]") {
            out.push(T::read(l)?);
            if l.peek() != Some(']') {
                l.expect(",")?;
            }
        }
        Ok(out)
    }
}

impl<T: Attribute> Attribute for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), T::show)
    }
    fn read(l: &mut Lexer<'_>) -> Result<Option<T>, String> {
        if l.eat("none") { Ok(None) } else { T::read(l).map(Some) }
    }
}

macro_rules! named {
    ($($ty:ident { $($variant:ident = $name:literal),* })*) => {$(
        impl Attribute for $ty {
            fn show(&self) -> String {
                match self { $($ty::$variant => $name),* }.to_owned()
            }
            fn read(l: &mut Lexer<'_>) -> Result<$ty, String> {
                match l.word()? {
                    $($name => Ok($ty::$variant),)*
                    other => Err(format!("`{other}` is none of {:?}", [$($name),*])),
                }
            }
        }
    )*};
}
named! {
    PadMode { Constant = "constant", Edge = "edge", Reflect = "reflect", Wrap = "wrap" }
    ScatterReduction { None = "none", Add = "add", Mul = "mul", Max = "max", Min = "min" }
    NearestMode {
        RoundPreferFloor = "round_prefer_floor", RoundPreferCeil = "round_prefer_ceil", Floor = "floor", Ceil = "ceil"
    }
    SampleMode { Nearest = "nearest", Linear = "linear", Cubic = "cubic" }
    Outside { Zeros = "zeros", Border = "border", Reflection = "reflection" }
    RnnKind { Lstm = "lstm", Gru = "gru", Simple = "simple" }
    Direction { Forward = "forward", Reverse = "reverse", Bidirectional = "bidirectional" }
}

impl Attribute for ReduceOp {
    fn show(&self) -> String {
        self.name().to_owned()
    }
    fn read(l: &mut Lexer<'_>) -> Result<ReduceOp, String> {
        let word = l.word()?;
        ReduceOp::from_name(word).ok_or_else(|| format!("`{word}` is no reduction"))
    }
}

impl Attribute for DType {
    fn show(&self) -> String {
        self.name().to_owned()
    }
    fn read(l: &mut Lexer<'_>) -> Result<DType, String> {
        let word = l.word()?;
        DType::from_name(word).ok_or_else(|| format!("`{word}` is no type"))
    }
}

/// A number with its type behind it: `0.5f32`, `-3i64`, `1bool`.
impl Attribute for Scalar {
    fn show(&self) -> String {
        let number = match self.dtype() {
            DType::F64 => format!("{:?}", self.to_f64()),
            t if t.is_float() => format!("{:?}", self.to_f64() as f32),
            DType::U64 => (self.to_i64() as u64).to_string(),
            _ => self.to_i64().to_string(),
        };
        format!("{number}{}", self.dtype())
    }
    fn read(l: &mut Lexer<'_>) -> Result<Scalar, String> {
        let text = l.literal()?;
        let bad = || format!("`{text}` is no number with its type");
        // The longest name that fits: `bf16`, not `f16`.
        let (number, dtype) = DType::ALL
            .iter()
            .filter_map(|t| Some((text.strip_suffix(t.name())?, *t)))
            .min_by_key(|(number, _)| number.len())
            .ok_or_else(bad)?;
        Ok(match dtype {
            DType::F64 => Scalar::float(dtype, number.parse().map_err(|_| bad())?),
            t if t.is_float() => Scalar::float(t, f64::from(number.parse::<f32>().map_err(|_| bad())?)),
            DType::U64 => Scalar::int(dtype, number.parse::<u64>().map_err(|_| bad())? as i64),
            t => Scalar::int(t, number.parse().map_err(|_| bad())?),
        })
    }
}

impl Attribute for SliceRange {
    /// `axis:start:len:step`.
    fn show(&self) -> String {
        format!("{}:{}:{}:{}", self.axis, self.start, self.len, self.step)
    }
    fn read(l: &mut Lexer<'_>) -> Result<SliceRange, String> {
        let axis = usize::read(l)?;
        l.expect(":")?;
        let start = l.dim()?;
        l.expect(":")?;
        let len = l.dim()?;
        l.expect(":")?;
        let text = l.literal()?;
        let step = text.parse().map_err(|_| format!("`{text}` is no step"))?;
        Ok(SliceRange { axis, start, len, step })
    }
}

impl Attribute for Padding {
    /// `[begin,..]:[end,..]`.
    fn show(&self) -> String {
        match self {
            Padding::Explicit { begin, end } => format!("{}:{}", begin.show(), end.show()),
            Padding::SameUpper => "same_upper".to_owned(),
            Padding::SameLower => "same_lower".to_owned(),
        }
    }
    fn read(l: &mut Lexer<'_>) -> Result<Padding, String> {
        if l.eat("same_upper") {
            return Ok(Padding::SameUpper);
        }
        if l.eat("same_lower") {
            return Ok(Padding::SameLower);
        }
        let begin = Vec::read(l)?;
        l.expect(":")?;
        Ok(Padding::Explicit { begin, end: Vec::read(l)? })
    }
}

impl Attribute for PoolKind {
    fn show(&self) -> String {
        match self {
            PoolKind::Max => "max".to_owned(),
            PoolKind::Average { count_include_pad: false } => "average".to_owned(),
            PoolKind::Average { count_include_pad: true } => "average_with_padding".to_owned(),
            PoolKind::Lp { p } => format!("lp({p})"),
        }
    }
    fn read(l: &mut Lexer<'_>) -> Result<PoolKind, String> {
        Ok(match l.word()? {
            "max" => PoolKind::Max,
            "average" => PoolKind::Average { count_include_pad: false },
            "average_with_padding" => PoolKind::Average { count_include_pad: true },
            "lp" => {
                l.expect("(")?;
                let p = l.small()?;
                l.expect(")")?;
                PoolKind::Lp { p }
            }
            other => return Err(format!("`{other}` is no kind of pooling")),
        })
    }
}

impl Attribute for ResizeMode {
    fn show(&self) -> String {
        match self {
            ResizeMode::Nearest(mode) => format!("nearest({})", mode.show()),
            ResizeMode::Linear => "linear".to_owned(),
            ResizeMode::Cubic { coefficient } => format!("cubic({})", coefficient.show()),
        }
    }
    fn read(l: &mut Lexer<'_>) -> Result<ResizeMode, String> {
        let word = l.word()?;
        if word == "linear" {
            return Ok(ResizeMode::Linear);
        }
        l.expect("(")?;
        let mode = match word {
            "nearest" => ResizeMode::Nearest(NearestMode::read(l)?),
            "cubic" => ResizeMode::Cubic { coefficient: u32::read(l)? },
            other => return Err(format!("`{other}` is no mode")),
        };
        l.expect(")")?;
        Ok(mode)
    }
}

impl Attribute for CoordinateMode {
    fn show(&self) -> String {
        match self {
            CoordinateMode::HalfPixel => "half_pixel".to_owned(),
            CoordinateMode::HalfPixelSymmetric => "half_pixel_symmetric".to_owned(),
            CoordinateMode::PytorchHalfPixel => "pytorch_half_pixel".to_owned(),
            CoordinateMode::AlignCorners => "align_corners".to_owned(),
            CoordinateMode::Asymmetric => "asymmetric".to_owned(),
            CoordinateMode::TfCropAndResize { roi } => {
                format!("tf_crop_and_resize({})", roi.map(|r| r.show()).join(","))
            }
        }
    }
    fn read(l: &mut Lexer<'_>) -> Result<CoordinateMode, String> {
        Ok(match l.word()? {
            "half_pixel" => CoordinateMode::HalfPixel,
            "half_pixel_symmetric" => CoordinateMode::HalfPixelSymmetric,
            "pytorch_half_pixel" => CoordinateMode::PytorchHalfPixel,
            "align_corners" => CoordinateMode::AlignCorners,
            "asymmetric" => CoordinateMode::Asymmetric,
            "tf_crop_and_resize" => {
                let mut roi = [0; 8];
                l.expect("(")?;
                for (i, r) in roi.iter_mut().enumerate() {
                    if i > 0 {
                        l.expect(",")?;
                    }
                    *r = u32::read(l)?;
                }
                l.expect(")")?;
                CoordinateMode::TfCropAndResize { roi }
            }
            other => return Err(format!("`{other}` is no coordinate mode")),
        })
    }
}

impl Attribute for Activation {
    fn show(&self) -> String {
        let one = |name: &str, a: &u32| format!("{name}({})", a.show());
        let two = |name: &str, a: &u32, b: &u32| format!("{name}({},{})", a.show(), b.show());
        match self {
            Activation::Sigmoid => "sigmoid".to_owned(),
            Activation::Tanh => "tanh".to_owned(),
            Activation::Relu => "relu".to_owned(),
            Activation::Softsign => "softsign".to_owned(),
            Activation::Softplus => "softplus".to_owned(),
            Activation::Affine { alpha, beta } => two("affine", alpha, beta),
            Activation::ScaledTanh { alpha, beta } => two("scaled_tanh", alpha, beta),
            Activation::HardSigmoid { alpha, beta } => two("hard_sigmoid", alpha, beta),
            Activation::LeakyRelu { alpha } => one("leaky_relu", alpha),
            Activation::ThresholdedRelu { alpha } => one("thresholded_relu", alpha),
            Activation::Elu { alpha } => one("elu", alpha),
        }
    }
    fn read(l: &mut Lexer<'_>) -> Result<Activation, String> {
        let word = l.word()?;
        let mut numbers = Vec::new();
        if l.eat("(") {
            while !l.eat(")") {
                numbers.push(u32::read(l)?);
                if l.peek() != Some(')') {
                    l.expect(",")?;
                }
            }
        }
        Ok(match (word, numbers.as_slice()) {
            ("sigmoid", []) => Activation::Sigmoid,
            ("tanh", []) => Activation::Tanh,
            ("relu", []) => Activation::Relu,
            ("softsign", []) => Activation::Softsign,
            ("softplus", []) => Activation::Softplus,
            ("affine", &[alpha, beta]) => Activation::Affine { alpha, beta },
            ("scaled_tanh", &[alpha, beta]) => Activation::ScaledTanh { alpha, beta },
            ("hard_sigmoid", &[alpha, beta]) => Activation::HardSigmoid { alpha, beta },
            ("leaky_relu", &[alpha]) => Activation::LeakyRelu { alpha },
            ("thresholded_relu", &[alpha]) => Activation::ThresholdedRelu { alpha },
            ("elu", &[alpha]) => Activation::Elu { alpha },
            _ => return Err(format!("`{word}` of {} numbers is no activation", numbers.len())),
        })
    }
}

impl Attribute for Epilogue {
    /// `bias`, an expression, or both with a comma between.
    fn show(&self) -> String {
        let bias = self.bias.then(|| "bias".to_owned());
        bias.into_iter().chain(self.post.as_ref().map(Expr::show)).collect::<Vec<_>>().join(",")
    }
    fn read(l: &mut Lexer<'_>) -> Result<Epilogue, String> {
        let bias = l.eat("bias");
        let post = if !bias || l.eat(",") { Some(Expr::read(l)?) } else { None };
        Ok(Epilogue { bias, post })
    }
}

impl Attribute for Expr {
    /// Nested calls; what is used more than once is named first: `{v0=sigmoid(x0);mul(v0,v0)}`.
    fn show(&self) -> String {
        let mut uses = vec![0usize; self.nodes().len()];
        for n in self.nodes() {
            operands(n).for_each(|a| uses[usize::from(a)] += 1);
        }
        let (mut text, mut named): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        for (i, n) in self.nodes().iter().enumerate() {
            let args: Vec<&str> = operands(n).map(|a: ExprId| -> &str { &text[usize::from(a)] }).collect();
            let args = args.join(",");
            let spelled = match n {
                ExprNode::Input(i) => format!("x{i}"),
                ExprNode::Const(c) => c.show(),
                ExprNode::Unary(op, _) => format!("{}({args})", op.name()),
                ExprNode::Binary(op, ..) => format!("{}({args})", op.name()),
                ExprNode::Select(..) => format!("select({args})"),
                ExprNode::Cast(t, _) => format!("{t}({args})"),
            };
            let leaf = matches!(n, ExprNode::Input(_) | ExprNode::Const(_));
            text.push(if leaf || uses[i] < 2 {
                spelled
            } else {
                let name = format!("v{}", named.len());
                named.push(format!("{name}={spelled}"));
                name
            });
        }
        let result = text.pop().unwrap_or_default();
        if named.is_empty() { result } else { format!("{{{};{result}}}", named.join(";")) }
    }

    fn read(l: &mut Lexer<'_>) -> Result<Expr, String> {
        let mut e = Expr::new();
        let mut names: HashMap<String, ExprId> = HashMap::new();
        let block = l.eat("{");
        loop {
            let mut ahead = l.clone();
            let binding = match ahead.word() {
                Ok(name) if block && ahead.eat("=") => Some(name.to_owned()),
                _ => None,
            };
            if let Some(name) = binding {
                *l = ahead;
                let id = read_node(l, &mut e, &names, 0)?;
                l.expect(";")?;
                names.insert(name, id);
                continue;
            }
            let id = read_node(l, &mut e, &names, 0)?;
            if block {
                l.expect("}")?;
            }
            e.finish(id);
            return Ok(e);
        }
    }
}

fn operands(n: &ExprNode) -> impl Iterator<Item = ExprId> + use<> {
    let (list, len) = match *n {
        ExprNode::Input(_) | ExprNode::Const(_) => ([0; 3], 0),
        ExprNode::Unary(_, a) | ExprNode::Cast(_, a) => ([a, 0, 0], 1),
        ExprNode::Binary(_, a, b) => ([a, b, 0], 2),
        ExprNode::Select(c, a, b) => ([c, a, b], 3),
    };
    list.into_iter().take(len)
}

fn read_node(
    l: &mut Lexer<'_>,
    e: &mut Expr,
    names: &HashMap<String, ExprId>,
    depth: usize,
) -> Result<ExprId, String> {
    if depth > 1000 || e.nodes().len() > 10_000 {
        return Err("an expression is too large".to_owned());
    }
    if l.peek().is_some_and(|c| c.is_ascii_digit() || c == '-') {
        return Ok(e.push(ExprNode::Const(Scalar::read(l)?)));
    }
    let mut ahead = l.clone();
    let word = ahead.word()?;
    if let Some(id) = names.get(word) {
        *l = ahead;
        return Ok(*id);
    }
    if !ahead.eat("(") {
        if let Some(i) = word.strip_prefix('x').and_then(|i| i.parse().ok()) {
            *l = ahead;
            return Ok(e.push(ExprNode::Input(i)));
        }
        // `inff32`, `NaNf32`.
        return Ok(e.push(ExprNode::Const(Scalar::read(l)?)));
    }
    *l = ahead;
    let mut args = Vec::new();
    while !l.eat(")") {
        args.push(read_node(l, e, names, depth + 1)?);
        if l.peek() != Some(')') {
            l.expect(",")?;
        }
    }
    let node = match (word, args.as_slice()) {
        ("select", &[c, a, b]) => ExprNode::Select(c, a, b),
        (name, &[a]) => match (UnaryOp::from_name(name), DType::from_name(name)) {
            (Some(op), _) => ExprNode::Unary(op, a),
            (_, Some(t)) => ExprNode::Cast(t, a),
            _ => return Err(format!("`{name}` is no function of one operand")),
        },
        (name, &[a, b]) => {
            let op = BinaryOp::from_name(name);
            ExprNode::Binary(op.ok_or_else(|| format!("`{name}` is no function of two operands"))?, a, b)
        }
        (name, args) => return Err(format!("`{name}` is no function of {} operands", args.len())),
    };
    Ok(e.push(node))
}
