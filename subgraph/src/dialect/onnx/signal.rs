//! Fourier transforms: as products with constant matrices of cosines and sines where these are small or the length has no
//! small factors, else as operators of their own.

use engraft_network::{BinaryOp, DType, Dim, Tensor, ValueId, ops};

use super::super::Row;
use super::row;
use crate::lower::{NodeLowering, Reject, axis};

type Result<T> = std::result::Result<T, Reject>;

pub(super) const ROWS: &[Row] = &[
    row("DFT", 17, |n| {
        let rank = n.input_type(0)?.rank();
        let axis = n.axis("axis", 1, rank)?;
        dft(n, axis)
    }),
    row("DFT", 20, |n| {
        let rank = n.input_type(0)?.rank();
        let position = match n.has(2) {
            false => -2,
            true => match n.integers(2, "the axis")?.as_slice() {
                [position] => *position,
                other => return Err(Reject::invalid(format!("{} values for the axis", other.len()))),
            },
        };
        dft(n, axis(position, rank)?)
    }),
    row("STFT", 17, stft),
];

/// Largest matrix of a transform, in elements.
const MAX_MATRIX: usize = 1 << 22;

/// Matrices of up to so many elements are faster than the algorithm of many stages.
const SMALL_MATRIX: usize = 1 << 12;

/// Lengths with a larger prime factor gain little from that algorithm.
const MAX_FACTOR: usize = 64;

fn largest_factor(mut n: usize) -> usize {
    let (mut largest, mut factor) = (1, 2);
    while factor * factor <= n {
        if n.is_multiple_of(factor) {
            (n, largest) = (n / factor, factor);
        } else {
            factor += 1;
        }
    }
    largest.max(n)
}

/// A discrete Fourier transform of one length, as a linear map.
struct Transform {
    /// Points; also what an inverse divides by.
    length: usize,
    inverse: bool,
    /// Reals on one side, the first `length / 2 + 1` of the points of the spectrum on the other.
    onesided: bool,
    /// Numbers per point of the operand: 1 (real) or 2 (complex).
    parts: usize,
}

impl Transform {
    /// Points and numbers per point of the result.
    fn result(&self) -> (usize, usize) {
        match (self.onesided, self.inverse) {
            (true, false) => (self.length / 2 + 1, 2),
            (true, true) => (self.length, 1),
            (false, _) => (self.length, 2),
        }
    }

    /// Elements of the matrix for the first `points` points of the operand.
    fn elements(&self, points: usize) -> usize {
        let (out_points, out_parts) = self.result();
        points.saturating_mul(self.parts * out_parts).saturating_mul(out_points)
    }

    /// Whether a matrix is the way to transform the first `points` points of numbers of a type.
    ///
    /// # Errors
    /// There is no other way and the matrix would be too large.
    fn is_product(&self, points: usize, dtype: DType) -> Result<bool> {
        let elements = self.elements(points);
        if dtype == DType::F64 && elements > MAX_MATRIX {
            return Err(Reject::new(format!(
                "a transform of {} points of f64 would take a matrix that is too large",
                self.length
            )));
        }
        let no_algorithm = dtype == DType::F64 || largest_factor(self.length) > MAX_FACTOR;
        Ok(elements <= SMALL_MATRIX || no_algorithm && elements <= MAX_MATRIX)
    }

    /// The matrix for the first `points` points of the operand, row-major `[points, parts, points', parts']`, each row
    /// times its weight.
    fn matrix(&self, points: usize, weight: impl Fn(usize) -> f64) -> Vec<f64> {
        let (out_points, out_parts) = self.result();
        let turn = std::f64::consts::TAU / self.length as f64;
        // Cosines and sines of every angle once, exactly periodic.
        let circle: Vec<(f64, f64)> =
            (0..self.length).map(|i| (turn * i as f64).sin_cos()).map(|(sin, cos)| (cos, sin)).collect();
        let sign = if self.inverse { 1.0 } else { -1.0 };
        let scale = if self.inverse { 1.0 / self.length as f64 } else { 1.0 };
        let mut matrix = Vec::with_capacity(self.elements(points));
        for i in 0..points {
            // A point of half a spectrum stands for its mirror image as well, where that is another point.
            let twice = self.onesided && self.inverse && i > 0 && 2 * i != self.length;
            let factor = weight(i) * scale * if twice { 2.0 } else { 1.0 };
            for part in 0..self.parts {
                for j in 0..out_points {
                    let (cos, sin) = circle[i * j % self.length];
                    let sin = sign * sin;
                    let (re, im) = if part == 0 { (cos, sin) } else { (-sin, cos) };
                    matrix.extend([factor * re, factor * im].into_iter().take(out_parts));
                }
            }
        }
        matrix
    }
}

/// A constant of a float type.
fn constant(n: &mut NodeLowering, dtype: DType, shape: &[usize], values: &[f64]) -> Result<ValueId> {
    let tensor = Tensor::from_slice(shape, values).map_err(|error| Reject::new(error.to_string()))?;
    let value = n.add_constant(tensor);
    if dtype == DType::F64 { Ok(value) } else { n.emit_folded(ops::Cast { to: dtype }, &[value]) }
}

fn known(dim: &Dim, what: &str) -> Result<usize> {
    let size = dim.fixed().ok_or_else(|| Reject::new(format!("{what} is known only at run time")))?;
    match usize::try_from(size) {
        Ok(size) if size > 0 => Ok(size),
        _ => Err(Reject::invalid(format!("{what} is {size}"))),
    }
}

/// Real or complex numbers along the last axis: how many parts.
fn parts(n: &NodeLowering, x: ValueId) -> Result<usize> {
    match n.ty(x).shape.last().and_then(Dim::fixed) {
        Some(1) => Ok(1),
        Some(2) => Ok(2),
        _ => Err(Reject::invalid("the last axis of a signal must hold 1 or 2 numbers")),
    }
}

/// Along `axis`, which is not the last one.
fn dft(n: &mut NodeLowering, axis: usize) -> Result<()> {
    let x = n.input(0)?;
    let rank = n.rank(x);
    if axis + 1 >= rank {
        return Err(Reject::invalid("the axis of real and imaginary parts cannot be transformed"));
    }
    let (inverse, onesided) = (n.flag("inverse")?, n.flag("onesided")?);
    let parts = parts(n, x)?;
    match (onesided, inverse, parts) {
        (true, false, 2) => return Err(Reject::invalid("half of a spectrum is only known of real signals")),
        (true, true, 1) => return Err(Reject::invalid("an inverse of half a spectrum wants complex points")),
        _ => {}
    }
    let given = n.shape(x)[axis].clone();
    let length = match n.has(1) {
        true => match n.dims(1, "the length of the transform")?.as_slice() {
            [length] => length.clone(),
            other => return Err(Reject::invalid(format!("{} values for the length", other.len()))),
        },
        false if onesided && inverse => given.sub(&Dim::Fixed(1)).mul(&Dim::Fixed(2)),
        false => given.clone(),
    };
    // The axis goes before the parts.
    let perm: Vec<usize> =
        (0..rank).filter(|&a| a != axis && a + 1 != rank).chain([axis, rank - 1]).collect();
    let x = n.transpose(x, &perm)?;
    let y = match length.fixed() {
        None if n.dtype(x) == DType::F64 => {
            return Err(n.wants_fixed_dims(0, "the length of a transform of f64 is known only at run time"));
        }
        None => n.emit(ops::Dft { length, inverse, onesided }, &[x])?,
        Some(_) => {
            let length = known(&length, "the length of the transform")?;
            lines(n, x, &Transform { length, inverse, onesided, parts })?
        }
    };
    let mut back = vec![0; rank];
    for (to, &from) in perm.iter().enumerate() {
        back[from] = to;
    }
    let y = n.transpose(y, &back)?;
    n.set(0, y);
    Ok(())
}

/// Of signals `[.., points, parts]`, cut off where they are longer than wanted; what is missing counts as zeros.
fn lines(n: &mut NodeLowering, mut x: ValueId, transform: &Transform) -> Result<ValueId> {
    let &Transform { length, inverse, onesided, parts } = transform;
    let shape = n.shape(x);
    let rank = shape.len();
    let given = shape[rank - 2].clone();
    let wanted = if onesided && inverse { length / 2 + 1 } else { length };
    let points = match given.fixed() {
        Some(given) if onesided && inverse && given > wanted as i64 => {
            return Err(Reject::invalid(format!("{given} points are more than half a spectrum of {length}")));
        }
        Some(given) => (given.max(0) as usize).min(wanted),
        None => wanted,
    };
    if !transform.is_product(points, n.dtype(x))? {
        return n.emit(ops::Dft { length: Dim::from(length), inverse, onesided }, &[x]);
    }
    if given != Dim::from(points) {
        let len = given.minimum(&Dim::from(points));
        let range = ops::SliceRange { axis: rank - 2, start: Dim::Fixed(0), len: len.clone(), step: 1 };
        x = n.emit(ops::Slice { ranges: vec![range] }, &[x])?;
        let missing = Dim::from(points).sub(&len);
        if missing != Dim::Fixed(0) {
            let zero = n.scalar(n.dtype(x), 0.0)?;
            let none = vec![Dim::Fixed(0); rank];
            let mut after = none.clone();
            after[rank - 2] = missing;
            x = n.emit(ops::Pad { mode: ops::PadMode::Constant, before: none, after }, &[x, zero])?;
        }
    }
    let (out_points, out_parts) = transform.result();
    let matrix = transform.matrix(points, |_| 1.0);
    let matrix = constant(n, n.dtype(x), &[points * parts, out_points * out_parts], &matrix)?;
    let rows = n.reshape(x, [&shape[..rank - 2], &[Dim::from(points * parts)]].concat())?;
    let y = super::linear::matmul(n, rows, matrix)?;
    n.reshape(y, [&shape[..rank - 2], &[Dim::from(out_points), Dim::from(out_parts)]].concat())
}

/// Frames of a signal, each weighted and transformed.
fn stft(n: &mut NodeLowering) -> Result<()> {
    let mut signal = n.input(0)?;
    let shape = n.shape(signal);
    if let [batch, samples] = shape.as_slice() {
        signal = n.reshape(signal, vec![batch.clone(), samples.clone(), Dim::Fixed(1)])?;
    }
    if n.rank(signal) != 3 {
        return Err(Reject::invalid("wants [batch, samples, 1 or 2]"));
    }
    let parts = parts(n, signal)?;
    let one = |n: &mut NodeLowering, index: usize, what: &str| -> Result<Dim> {
        match n.dims(index, what)?.as_slice() {
            [size] => Ok(size.clone()),
            other => Err(Reject::invalid(format!("{} values for {what}", other.len()))),
        }
    };
    let step = known(&one(n, 1, "the step between frames")?, "the step between frames")?;
    let window = n.optional(2)?;
    let stated = if n.has(3) { Some(one(n, 3, "the length of a frame")?) } else { None };
    let length = match (window, stated) {
        (Some(window), _) if n.rank(window) != 1 => {
            return Err(Reject::invalid("the window must be a vector"));
        }
        (Some(window), stated) => {
            let length = n.shape(window)[0].clone();
            match stated {
                Some(stated) if stated.fixed().is_some() && length.fixed().is_some() && stated != length => {
                    return Err(Reject::invalid("the window is not as long as a frame"));
                }
                Some(stated) if length.fixed().is_none() => stated,
                _ => length,
            }
        }
        (None, Some(stated)) => stated,
        (None, None) => n.shape(signal)[1].clone(),
    };
    let onesided = n.int_or("onesided", 1)? != 0;
    let dtype = n.dtype(signal);
    if let Some(points) = length.fixed().and_then(|points| usize::try_from(points).ok()).filter(|&n| n > 0) {
        let transform = Transform { length: points, inverse: false, onesided, parts };
        if transform.is_product(points, dtype)? {
            let y = convolved(n, signal, window, step, &transform)?;
            n.set(0, y);
            return Ok(());
        }
    } else if dtype == DType::F64 {
        return Err(Reject::new("the length of frames of f64 is known only at run time"));
    }
    let operands: Vec<ValueId> = std::iter::once(signal).chain(window).collect();
    let y = n.emit(ops::Stft { length, step, onesided, window: window.is_some() }, &operands)?;
    n.set(0, y);
    Ok(())
}

/// Frames of a signal as a convolution whose channels are the points of the spectrum.
fn convolved(
    n: &mut NodeLowering,
    signal: ValueId,
    window: Option<ValueId>,
    step: usize,
    transform: &Transform,
) -> Result<ValueId> {
    let (length, parts, points) = (transform.length, transform.parts, transform.result().0);
    let weights = window.and_then(|window| n.tensor_of(window)).cloned();
    let matrix = transform.matrix(length, |i| weights.as_ref().map_or(1.0, |w| w.get_f64(i)));
    let mut matrix = constant(n, n.dtype(signal), &[length, parts, 2 * points], &matrix)?;
    if let Some(window) = window
        && weights.is_none()
    {
        let column = n.reshape(window, [length, 1, 1].map(Dim::from).to_vec())?;
        matrix = n.binary(BinaryOp::Mul, matrix, column)?;
    }
    let frames = ops::Conv {
        strides: vec![step],
        dilations: vec![1],
        padding: ops::Padding::none(1),
        groups: 1,
        epilogue: ops::Epilogue::default(),
    };
    let y = n.emit(frames, &[signal, matrix])?;
    let (batch, frames) = (n.shape(y)[0].clone(), n.shape(y)[1].clone());
    n.reshape(y, vec![batch, frames, Dim::from(points), Dim::Fixed(2)])
}
