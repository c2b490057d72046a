use super::ConstantSource;
use super::lexer::Lexer;
use crate::{AlignedBytes, DType, Tensor};
use half::{bf16, f16};
use std::fmt;

/// Constants of up to so many elements are printed in full.
const INLINE: usize = 16;

/// An element as a literal that reads back as the same bits; `None` for a NaN with a payload.
fn element(t: &Tensor, i: usize) -> Option<String> {
    let v = t.get_f64(i);
    if v.is_nan() {
        let canonical = Tensor::from_f64s(t.dtype(), &[], &[f64::NAN]).ok()?;
        let w = t.dtype().bits() / 8;
        return (canonical.bytes() == &t.bytes()[i * w..(i + 1) * w]).then(|| "nan".to_owned());
    }
    Some(match t.dtype() {
        DType::F64 => format!("{v:?}"),
        d if d.is_float() => format!("{:?}", v as f32),
        DType::Bool => if t.get_i64(i) != 0 { "true" } else { "false" }.to_owned(),
        DType::U64 => (t.get_i64(i) as u64).to_string(),
        _ => t.get_i64(i).to_string(),
    })
}

/// A constant's data in text.
pub(super) struct Printed<'a>(pub &'a Tensor);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.0;
        let n = t.count();
        let width = (t.dtype().bits() / 8).max(1);
        let uniform =
            t.dtype().bits() >= 8 && n > 1 && t.bytes().chunks_exact(width).all(|c| c == &t.bytes()[..width]);
        if uniform && let Some(v) = element(t, 0) {
            return write!(f, "splat({v})");
        }
        if n <= INLINE
            && let Some(list) = (0..n).map(|i| element(t, i)).collect::<Option<Vec<_>>>()
        {
            return write!(f, "[{}]", list.join(", "));
        }
        write!(f, "#{:016x}", t.content_hash())
    }
}

/// A literal element of type `dtype`.
fn parse_element(l: &mut Lexer<'_>, dtype: DType) -> Result<(f64, i64), String> {
    let text = l.literal()?;
    let bad = || format!("`{text}` is no {dtype}");
    if dtype.is_float() {
        let v: f64 = if dtype == DType::F64 {
            text.parse().map_err(|_| bad())?
        } else {
            f64::from(text.parse::<f32>().map_err(|_| bad())?)
        };
        return Ok((v, 0));
    }
    match (dtype, text) {
        (DType::Bool, "true") => Ok((0.0, 1)),
        (DType::Bool, "false") => Ok((0.0, 0)),
        (DType::U64, _) => text.parse::<u64>().map(|v| (0.0, v as i64)).map_err(|_| bad()),
        _ => {
            let v = text.parse::<i64>().map_err(|_| bad())?;
            if crate::convert::wrap(dtype, v) == v { Ok((0.0, v)) } else { Err(bad()) }
        }
    }
}

fn tensor(dtype: DType, shape: &[usize], values: &[(f64, i64)]) -> Result<Tensor, String> {
    let made = if dtype.is_float() {
        Tensor::from_f64s(dtype, shape, &values.iter().map(|v| v.0).collect::<Vec<_>>())
    } else {
        Tensor::from_i64s(dtype, shape, &values.iter().map(|v| v.1).collect::<Vec<_>>())
    };
    made.map_err(|e| e.to_string())
}

/// Reads a constant's data: `[..]`, `splat(v)`, `arange`, `seed(n)` or `#hash`.
pub(super) fn parse(
    l: &mut Lexer<'_>,
    dtype: DType,
    shape: &[usize],
    source: ConstantSource<'_>,
) -> Result<Tensor, String> {
    // The bytes must be addressable before anything is made of a size from a text.
    let n = shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d)).filter(|n| *n < 1 << 32);
    let n = n.ok_or_else(|| format!("a constant of shape {shape:?} is too large for a text"))?;
    if l.eat("[") {
        let mut values = Vec::new();
        while !l.eat("]") {
            values.push(parse_element(l, dtype)?);
            if l.peek() != Some(']') {
                l.expect(",")?;
            }
        }
        return tensor(dtype, shape, &values);
    }
    if l.eat("#") {
        let hex = l.word()?;
        let hash = u64::from_str_radix(hex, 16).map_err(|_| format!("`{hex}` is no hash"))?;
        let t = source(hash).ok_or_else(|| format!("the data of constant #{hex} is not here"))?;
        if t.dtype() != dtype || t.shape() != shape {
            return Err(format!("constant #{hex} is {}{:?}", t.dtype(), t.shape()));
        }
        return Ok(t);
    }
    match l.word()? {
        "splat" => {
            l.expect("(")?;
            let v = parse_element(l, dtype)?;
            l.expect(")")?;
            tensor(dtype, shape, &vec![v; n])
        }
        "arange" => tensor(dtype, shape, &(0..n).map(|i| (i as f64, i as i64)).collect::<Vec<_>>()),
        "seed" => {
            l.expect("(")?;
            let seed = l.number()?;
            l.expect(")")?;
            Tensor::seeded(dtype, shape, seed).map_err(|e| e.to_string())
        }
        other => Err(format!("`{other}` makes no constant")),
    }
}

impl Tensor {
    /// A 64-bit hash of type, shape and bytes for text forms and lookups; not a cryptographic one.
    pub fn content_hash(&self) -> u64 {
        let mut h = 0xcbf2_9ce4_8422_2325u64;
        let mut mix = |word: u64| {
            h = (h ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            h ^= h >> 29;
        };
        mix(self.dtype() as u64);
        self.shape().iter().for_each(|d| mix(*d as u64));
        for chunk in self.bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            mix(u64::from_le_bytes(word));
        }
        h
    }

    /// Deterministic data for tests and dummy runs: floats uniform in [-1, 1), integers in -4..=4 (0..=8 if unsigned),
    /// booleans evenly.
    pub fn seeded(dtype: DType, shape: &[usize], seed: u64) -> Result<Tensor, crate::TensorError> {
        let t = Tensor::zeros(dtype, shape)?;
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
        // splitmix64.
        let mut next = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let n = t.count();
        let mut unit = || (next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        match dtype {
            // The common types without a detour through `f64`.
            DType::F32 => {
                let mut bytes = AlignedBytes::zeroed(4 * n);
                bytes
                    .as_mut_slice()
                    .chunks_exact_mut(4)
                    .for_each(|b| b.copy_from_slice(&unit().to_le_bytes()));
                Tensor::new(dtype, shape, bytes.into())
            }
            DType::F16 => {
                Tensor::from_slice(shape, &(0..n).map(|_| f16::from_f32(unit())).collect::<Vec<_>>())
            }
            DType::BF16 => {
                Tensor::from_slice(shape, &(0..n).map(|_| bf16::from_f32(unit())).collect::<Vec<_>>())
            }
            d if d.is_float() => {
                Tensor::from_f64s(d, shape, &(0..n).map(|_| f64::from(unit())).collect::<Vec<_>>())
            }
            DType::Bool => Tensor::from_bools(shape, &(0..n).map(|_| next() >> 63 == 1).collect::<Vec<_>>()),
            d => {
                let low = if d.is_signed_int() { -4 } else { 0 };
                Tensor::from_i64s(
                    d,
                    shape,
                    &(0..n).map(|_| low + (next() >> 33) as i64 % 9).collect::<Vec<_>>(),
                )
            }
        }
    }
}
