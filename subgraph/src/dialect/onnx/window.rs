//! Windows of samples and the mel filter bank: formulas over an index, computed in `f64` and rounded once.
//!
//! Where all operands are constants the result is one; sizes and edges of the run make it a few elementwise layers.

use engraft_network::{BinaryOp, DType, Dim, UnaryOp, ValueId, ops};

use super::super::Row;
use super::row;
use crate::lower::{NodeLowering, Reject};
use crate::onnx::dtype_of;

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("HannWindow", 17, |n| window(n, [0.5, -0.5, 0.0])),
    row("HammingWindow", 17, |n| window(n, [25.0 / 46.0, 25.0 / 46.0 - 1.0, 0.0])),
    row("BlackmanWindow", 17, |n| window(n, [0.42, -0.5, 0.08])),
    row("MelWeightMatrix", 17, mel_weight_matrix),
];

/// Arithmetic of which as much as possible is done now.
struct Formula<'n, 'a, 'g>(&'n mut NodeLowering<'a, 'g>);

impl Formula<'_, '_, '_> {
    fn number(&mut self, value: f64) -> Result<ValueId> {
        self.0.scalar(DType::F64, value)
    }

    fn size(&mut self, dim: &Dim) -> Result<ValueId> {
        let tensor = ops::ShapeTensor { dims: vec![dim.clone()], scalar: true, dtype: DType::I64 };
        let size = self.0.emit_folded(tensor, &[])?;
        self.cast(size, DType::F64)
    }

    fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId> {
        if self.0.dtype(x) == to { Ok(x) } else { self.0.emit_folded(ops::Cast { to }, &[x]) }
    }

    /// `0, 1, ..., len - 1`.
    fn index(&mut self, len: &Dim) -> Result<ValueId> {
        let (start, step) = (self.number(0.0)?, self.number(1.0)?);
        self.0.emit_folded(ops::Range { len: len.clone() }, &[start, step])
    }

    fn unary(&mut self, op: UnaryOp, x: ValueId) -> Result<ValueId> {
        self.0.emit_folded(ops::Unary { op }, &[x])
    }

    fn binary(&mut self, op: BinaryOp, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.0.emit_folded(ops::Binary { op }, &[a, b])
    }

    fn with(&mut self, op: BinaryOp, x: ValueId, number: f64) -> Result<ValueId> {
        let number = self.number(number)?;
        self.binary(op, x, number)
    }

    fn select(&mut self, condition: ValueId, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.0.emit_folded(ops::Select, &[condition, a, b])
    }

    fn reshape(&mut self, x: ValueId, shape: Vec<Dim>) -> Result<ValueId> {
        self.0.emit_folded(ops::Reshape { shape }, &[x])
    }

    /// `low <= x < high`.
    fn within(&mut self, low: ValueId, x: ValueId, high: ValueId) -> Result<ValueId> {
        let (above, below) = (self.binary(BinaryOp::Ge, x, low)?, self.binary(BinaryOp::Lt, x, high)?);
        self.binary(BinaryOp::And, above, below)
    }
}

fn output_type(n: &NodeLowering) -> Result<DType> {
    let element_type = n.int_or("output_datatype", 1)?;
    dtype_of(element_type).ok_or_else(|| Reject::new(format!("element type {element_type} is not supported")))
}

/// One of the sizes that operand `index` gives.
fn size(n: &mut NodeLowering, index: usize, what: &str) -> Result<Dim> {
    match n.dims(index, what)?.as_slice() {
        [size] if size.fixed().is_none_or(|size| size >= 0) => Ok(size.clone()),
        [size] => Err(Reject::invalid(format!("{what} is {size}"))),
        other => Err(Reject::invalid(format!("{what} has {} elements", other.len()))),
    }
}

/// `c[0] + c[1] cos(t) + c[2] cos(2 t)` with `t` going round once over the window.
fn window(n: &mut NodeLowering, c: [f64; 3]) -> Result<()> {
    let to = output_type(n)?;
    let size = size(n, 0, "the size of the window")?;
    let turn = if n.int_or("periodic", 1)? != 0 { size.clone() } else { size.sub(&Dim::Fixed(1)) };
    let f = &mut Formula(n);
    let (index, turn) = (f.index(&size)?, f.size(&turn)?);
    let angle = f.with(BinaryOp::Mul, index, std::f64::consts::TAU)?;
    let angle = f.binary(BinaryOp::Div, angle, turn)?;
    let first = f.unary(UnaryOp::Cos, angle)?;
    let first = f.with(BinaryOp::Mul, first, c[1])?;
    let mut y = f.with(BinaryOp::Add, first, c[0])?;
    if c[2] != 0.0 {
        let twice = f.with(BinaryOp::Mul, angle, 2.0)?;
        let second = f.unary(UnaryOp::Cos, twice)?;
        let second = f.with(BinaryOp::Mul, second, c[2])?;
        y = f.binary(BinaryOp::Add, y, second)?;
    }
    let y = f.cast(y, to)?;
    n.set(0, y);
    Ok(())
}

/// Triangles of height 1 between bins that are equally far apart on the mel scale: `[dft_length / 2 + 1, num_mel_bins]`.
fn mel_weight_matrix(n: &mut NodeLowering) -> Result<()> {
    const MEL: f64 = 2595.0;
    const HERTZ: f64 = 700.0;
    let to = output_type(n)?;
    let (bands, length) = (size(n, 0, "the number of mel bins")?, size(n, 1, "the length of the transform")?);
    let operands = [n.input(2)?, n.input(3)?, n.input(4)?];
    let f = &mut Formula(n);
    let [mut rate, mut low, mut high] = operands;
    for operand in [&mut rate, &mut low, &mut high] {
        *operand = f.cast(*operand, DType::F64)?;
        *operand = f.reshape(*operand, vec![])?;
    }
    let mel = |f: &mut Formula, hertz: ValueId| -> Result<ValueId> {
        let ratio = f.with(BinaryOp::Div, hertz, HERTZ)?;
        let ratio = f.with(BinaryOp::Add, ratio, 1.0)?;
        let log = f.unary(UnaryOp::Log, ratio)?;
        f.with(BinaryOp::Mul, log, MEL / std::f64::consts::LN_10)
    };
    let (low, high) = (mel(f, low)?, mel(f, high)?);
    // Edges of the triangles, in bins of the spectrum.
    let edges = bands.add(&Dim::Fixed(2));
    let (span, count) = (f.binary(BinaryOp::Sub, high, low)?, f.size(&edges)?);
    let step = f.binary(BinaryOp::Div, span, count)?;
    let index = f.index(&edges)?;
    let above = f.binary(BinaryOp::Mul, index, step)?;
    let edge = f.binary(BinaryOp::Add, above, low)?;
    let exponent = f.with(BinaryOp::Mul, edge, std::f64::consts::LN_10 / MEL)?;
    let power = f.unary(UnaryOp::Exp, exponent)?;
    let hertz = f.with(BinaryOp::Sub, power, 1.0)?;
    let hertz = f.with(BinaryOp::Mul, hertz, HERTZ)?;
    let points = f.size(&length.add(&Dim::Fixed(1)))?;
    let bins = f.binary(BinaryOp::Mul, hertz, points)?;
    let bins = f.binary(BinaryOp::Div, bins, rate)?;
    let bins = f.unary(UnaryOp::Floor, bins)?;
    let edge = |f: &mut Formula, first: i64| -> Result<ValueId> {
        let range = ops::SliceRange { axis: 0, start: Dim::Fixed(first), len: bands.clone(), step: 1 };
        f.0.emit_folded(ops::Slice { ranges: vec![range] }, &[bins])
    };
    let (left, center, right) = (edge(f, 0)?, edge(f, 1)?, edge(f, 2)?);
    // Every bin of the spectrum against every triangle.
    let lines = length.floor_div(&Dim::Fixed(2)).add(&Dim::Fixed(1));
    let bin = f.index(&lines)?;
    let bin = f.reshape(bin, vec![lines, Dim::Fixed(1)])?;
    let slope = |f: &mut Formula, from: ValueId, to: ValueId, width: ValueId| -> Result<ValueId> {
        let distance = f.binary(BinaryOp::Sub, from, to)?;
        f.binary(BinaryOp::Div, distance, width)
    };
    let (rise, fall) = (f.binary(BinaryOp::Sub, center, left)?, f.binary(BinaryOp::Sub, right, center)?);
    let (rising, falling) = (slope(f, bin, left, rise)?, slope(f, right, bin, fall)?);
    let (one, zero) = (f.number(1.0)?, f.number(0.0)?);
    let at_center = f.binary(BinaryOp::Eq, bin, center)?;
    let (before, after) = (f.within(left, bin, center)?, f.within(center, bin, right)?);
    let y = f.select(before, rising, zero)?;
    let y = f.select(after, falling, y)?;
    let y = f.select(at_center, one, y)?;
    let y = f.cast(y, to)?;
    n.set(0, y);
    Ok(())
}
