//! Tensors whose contents are known while lowering, symbolically: shapes and what graphs compute from them.
//!
//! Exporters compute shapes in tensors, and often through floats. A [`Known`] holds such a tensor's elements as
//! quotients of a [`Dim`] and a small positive number, so that `Floor(Cast<float>(Shape(x)) / 2)` stays exact.

use engraft_network::{BinaryOp, DType, Dim, Tensor, UnaryOp};

use super::facts::Facts;

/// Tensors of more elements are data.
pub const MAX_ELEMENTS: usize = 256;
/// Larger denominators mean arbitrary floats, whose rounding exact arithmetic would not follow.
const MAX_DENOMINATOR: i64 = 4096;

/// `numerator / denominator`, the denominator positive; reduced where the numerator is fixed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Number {
    numerator: Dim,
    denominator: i64,
}

impl From<Dim> for Number {
    fn from(dim: Dim) -> Number {
        Number { numerator: dim, denominator: 1 }
    }
}

impl Number {
    fn new(numerator: Dim, denominator: i64) -> Option<Number> {
        if denominator == 0 {
            return None;
        }
        let (mut numerator, mut denominator) = if denominator < 0 {
            (numerator.neg(), denominator.checked_neg()?)
        } else {
            (numerator, denominator)
        };
        if denominator > 1 {
            let divisor = Dim::Fixed(denominator);
            let quotient = numerator.floor_div(&divisor);
            if quotient.mul(&divisor) == numerator {
                (numerator, denominator) = (quotient, 1);
            } else if let Some(fixed) = numerator.fixed() {
                let common = gcd(fixed.unsigned_abs(), denominator.unsigned_abs()) as i64;
                (numerator, denominator) = (Dim::Fixed(fixed / common), denominator / common);
            }
        }
        (denominator <= MAX_DENOMINATOR).then_some(Number { numerator, denominator })
    }

    fn from_f64(value: f64) -> Option<Number> {
        let mut denominator = 1i64;
        while denominator <= MAX_DENOMINATOR {
            let scaled = value * denominator as f64;
            if scaled.abs() < 2f64.powi(52) && scaled.fract() == 0.0 {
                return Number::new(Dim::Fixed(scaled as i64), denominator);
            }
            denominator *= 2;
        }
        None
    }

    /// The value, where it is an integer.
    pub fn dim(&self) -> Option<&Dim> {
        (self.denominator == 1).then_some(&self.numerator)
    }

    /// The number with its numerator rewritten.
    pub fn map(&self, f: impl FnOnce(&Dim) -> Option<Dim>) -> Option<Number> {
        Some(Number { numerator: f(&self.numerator)?, denominator: self.denominator })
    }

    /// The value, where it is fixed.
    pub fn fixed(&self) -> Option<f64> {
        Some(self.numerator.fixed()? as f64 / self.denominator as f64)
    }

    fn cross(&self, other: &Number) -> (Dim, Dim, Option<i64>) {
        let left = self.numerator.mul(&Dim::Fixed(other.denominator));
        let right = other.numerator.mul(&Dim::Fixed(self.denominator));
        (left, right, self.denominator.checked_mul(other.denominator))
    }

    fn divide(&self, other: &Number) -> Option<Number> {
        let (left, right, _) = self.cross(other);
        match right.fixed() {
            Some(divisor) => Number::new(left, divisor),
            // A symbolic divisor leaves an integer only where it divides exactly.
            None => {
                let quotient = left.floor_div(&right);
                (quotient.mul(&right) == left).then(|| quotient.into())
            }
        }
    }

    fn floor(&self) -> Dim {
        self.numerator.floor_div(&Dim::Fixed(self.denominator))
    }

    fn ceil(&self) -> Dim {
        self.numerator.ceil_div(&Dim::Fixed(self.denominator))
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

/// A tensor of known contents; booleans are 0 and 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub elements: Vec<Number>,
}

impl Known {
    pub fn vector(dtype: DType, dims: impl IntoIterator<Item = Dim>) -> Known {
        let elements: Vec<_> = dims.into_iter().map(Number::from).collect();
        Known { dtype, shape: vec![elements.len()], elements }
    }

    pub fn scalar(dtype: DType, dim: Dim) -> Known {
        Known { dtype, shape: Vec::new(), elements: vec![dim.into()] }
    }

    /// The contents of a small constant; `None` where it is large or not exactly representable.
    pub fn of(tensor: &Tensor) -> Option<Known> {
        let count = tensor.count();
        if count > MAX_ELEMENTS || tensor.shape().len() > 3 || !is_shape_type(tensor.dtype()) {
            return None;
        }
        let elements = (0..count)
            .map(|index| match tensor.dtype().is_float() {
                true => Number::from_f64(tensor.get_f64(index)),
                false => Some(Dim::Fixed(tensor.get_i64(index)).into()),
            })
            .collect::<Option<_>>()?;
        Some(Known { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), elements })
    }

    /// All elements as integers.
    pub fn dims(&self) -> Option<Vec<Dim>> {
        self.elements.iter().map(|element| element.dim().cloned()).collect()
    }

    pub fn is_fixed(&self) -> bool {
        self.elements.iter().all(|element| element.numerator.fixed().is_some())
    }

    /// The tensor, where all elements are fixed and the type is one that shapes are computed in.
    pub fn tensor(&self) -> Option<Tensor> {
        let values = self.elements.iter().map(Number::fixed).collect::<Option<Vec<f64>>>()?;
        let shape = &self.shape;
        match self.dtype {
            DType::F32 => Tensor::from_slice(shape, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
            DType::F64 => Tensor::from_slice(shape, &values),
            DType::Bool => Tensor::from_bools(shape, &values.iter().map(|&v| v != 0.0).collect::<Vec<_>>()),
            DType::I32 => {
                Tensor::from_slice(shape, &self.integers()?.iter().map(|&v| v as i32).collect::<Vec<_>>())
            }
            DType::I64 => Tensor::from_slice(shape, &self.integers()?),
            _ => return None,
        }
        .ok()
    }

    fn integers(&self) -> Option<Vec<i64>> {
        self.elements.iter().map(|element| element.dim()?.fixed()).collect()
    }

    /// `index[i]` picks the element for position `i` of the result.
    fn pick(&self, shape: Vec<usize>, index: impl IntoIterator<Item = usize>) -> Known {
        let elements = index.into_iter().map(|index| self.elements[index].clone()).collect();
        Known { dtype: self.dtype, shape, elements }
    }

    pub fn reshaped(&self, shape: &[usize]) -> Option<Known> {
        (count(shape) == Some(self.elements.len())).then(|| Known { shape: shape.to_vec(), ..self.clone() })
    }

    pub fn broadcast(&self, shape: &[usize]) -> Option<Known> {
        let shift = shape.len().checked_sub(self.shape.len())?;
        if !self.shape.iter().zip(&shape[shift..]).all(|(&from, &to)| from == to || from == 1) {
            return None;
        }
        let count = count(shape).filter(|&count| count <= MAX_ELEMENTS)?;
        Some({
            let strides = strides(&self.shape);
            self.pick(
                shape.to_vec(),
                (0..count).map(|position| {
                    let position = coordinates(position, shape);
                    (0..self.shape.len())
                        .map(
                            |axis| {
                                if self.shape[axis] == 1 { 0 } else { position[shift + axis] * strides[axis] }
                            },
                        )
                        .sum()
                }),
            )
        })
    }

    pub fn transposed(&self, perm: &[usize]) -> Known {
        let shape: Vec<usize> = perm.iter().map(|&axis| self.shape[axis]).collect();
        let strides = strides(&self.shape);
        let picks: Vec<usize> = (0..self.elements.len())
            .map(|position| {
                coordinates(position, &shape).iter().zip(perm).map(|(&at, &axis)| at * strides[axis]).sum()
            })
            .collect();
        self.pick(shape, picks)
    }

    /// Elements `indices` along `axis`; the axis takes the shape `index_shape`. Indices lie inside.
    pub fn gather(&self, axis: usize, indices: &[usize], index_shape: &[usize]) -> Option<Known> {
        let size = *self.shape.get(axis)?;
        if indices.iter().any(|&index| index >= size) {
            return None;
        }
        let outer: usize = self.shape[..axis].iter().product();
        let inner: usize = self.shape[axis + 1..].iter().product();
        let shape = [&self.shape[..axis], index_shape, &self.shape[axis + 1..]].concat();
        let picks = (0..outer).flat_map(|o| {
            indices.iter().flat_map(move |&index| (0..inner).map(move |i| (o * size + index) * inner + i))
        });
        Some(self.pick(shape, picks))
    }

    pub fn concat(parts: &[Known], axis: usize) -> Option<Known> {
        let first = parts.first()?;
        let outer: usize = first.shape.get(..axis)?.iter().product();
        let mut shape = first.shape.clone();
        *shape.get_mut(axis)? =
            parts.iter().map(|part| part.shape.get(axis).copied()).sum::<Option<usize>>()?;
        let mut elements = Vec::new();
        for o in 0..outer {
            for part in parts {
                let run = part.elements.len() / outer.max(1);
                elements.extend_from_slice(part.elements.get(o * run..(o + 1) * run)?);
            }
        }
        (elements.len() <= MAX_ELEMENTS && Some(elements.len()) == count(&shape)).then_some(Known {
            dtype: first.dtype,
            shape,
            elements,
        })
    }

    pub fn cast(&self, to: DType, facts: &Facts) -> Option<Known> {
        let convert = |number: &Number| -> Option<Number> {
            if to == DType::Bool {
                let zero = Dim::Fixed(0);
                return Some(Dim::Fixed(1).sub(&facts.equal(&number.numerator, &zero)).into());
            }
            if to.is_float() || number.denominator == 1 {
                return Some(number.clone());
            }
            facts.truncated_quotient(&number.numerator, &Dim::Fixed(number.denominator)).map(Number::from)
        };
        let elements = self.elements.iter().map(convert).collect::<Option<_>>()?;
        is_shape_type(to).then(|| Known { dtype: to, shape: self.shape.clone(), elements })
    }

    pub fn unary(&self, op: UnaryOp, facts: &Facts) -> Option<Known> {
        let apply = |x: &Number| -> Option<Number> {
            Some(match op {
                UnaryOp::Neg => Number::new(x.numerator.neg(), x.denominator)?,
                UnaryOp::Floor => x.floor().into(),
                UnaryOp::Ceil => x.ceil().into(),
                UnaryOp::Trunc => facts.truncated_quotient(&x.numerator, &Dim::Fixed(x.denominator))?.into(),
                UnaryOp::Abs => Number::new(facts.max(&x.numerator, &x.numerator.neg()), x.denominator)?,
                UnaryOp::Relu => Number::new(facts.max(&x.numerator, &Dim::Fixed(0)), x.denominator)?,
                UnaryOp::Not => Dim::Fixed(1).sub(&x.numerator).into(),
                UnaryOp::Sqrt => Number::from_f64(x.fixed()?.sqrt())?,
                _ => return None,
            })
        };
        let elements = self.elements.iter().map(apply).collect::<Option<_>>()?;
        Some(Known { dtype: op.result(self.dtype)?, shape: self.shape.clone(), elements })
    }

    /// Elementwise with numpy's broadcasting; operands of one type.
    pub fn binary(&self, op: BinaryOp, other: &Known, facts: &Facts) -> Option<Known> {
        let dtype = op.result(self.dtype)?;
        let shape = broadcast_shape(&self.shape, &other.shape)?;
        let (a, b) = (self.broadcast(&shape)?, other.broadcast(&shape)?);
        let one = Dim::Fixed(1);
        let integer = !self.dtype.is_float();
        let apply = |x: &Number, y: &Number| -> Option<Number> {
            let (left, right, denominator) = x.cross(y);
            Some(match op {
                BinaryOp::Add => Number::new(left.add(&right), denominator?)?,
                BinaryOp::Sub => Number::new(left.sub(&right), denominator?)?,
                BinaryOp::Mul => {
                    Number::new(x.numerator.mul(&y.numerator), x.denominator.checked_mul(y.denominator)?)?
                }
                BinaryOp::Div if integer => facts.truncated_quotient(&left, &right)?.into(),
                BinaryOp::Div => x.divide(y)?,
                BinaryOp::Mod if integer => match (left.fixed(), right.fixed()) {
                    (_, Some(0)) => return None,
                    _ => left.modulo(&right).into(),
                },
                BinaryOp::Pow => match (x.fixed(), y.fixed()) {
                    (Some(x), Some(y)) => Number::from_f64(x.powf(y))?,
                    (None, Some(1.0)) => x.clone(),
                    (None, Some(2.0)) => {
                        Number::new(x.numerator.mul(&x.numerator), x.denominator.checked_mul(x.denominator)?)?
                    }
                    _ => return None,
                },
                BinaryOp::Min => Number::new(facts.min(&left, &right), denominator?)?,
                BinaryOp::Max => Number::new(facts.max(&left, &right), denominator?)?,
                BinaryOp::And => facts.min(&left, &right).into(),
                BinaryOp::Or => facts.max(&left, &right).into(),
                BinaryOp::Xor | BinaryOp::Ne => one.sub(&facts.equal(&left, &right)).into(),
                BinaryOp::Eq => facts.equal(&left, &right).into(),
                BinaryOp::Gt => facts.truth(&left.sub(&right)).into(),
                BinaryOp::Lt => facts.truth(&right.sub(&left)).into(),
                BinaryOp::Ge => one.sub(&facts.truth(&right.sub(&left))).into(),
                BinaryOp::Le => one.sub(&facts.truth(&left.sub(&right))).into(),
                _ => return None,
            })
        };
        let elements = a.elements.iter().zip(&b.elements).map(|(x, y)| apply(x, y)).collect::<Option<_>>()?;
        Some(Known { dtype, shape, elements })
    }

    /// Elementwise quotients of integers, rounded down, with numpy's broadcasting.
    pub fn floor_div(&self, other: &Known) -> Option<Known> {
        let shape = broadcast_shape(&self.shape, &other.shape)?;
        let (a, b) = (self.broadcast(&shape)?.dims()?, other.broadcast(&shape)?.dims()?);
        let divide = |(a, b): (&Dim, &Dim)| (b.fixed() != Some(0)).then(|| a.floor_div(b).into());
        let elements = a.iter().zip(&b).map(divide).collect::<Option<_>>()?;
        Some(Known { dtype: self.dtype, shape, elements })
    }

    pub fn select(condition: &Known, a: &Known, b: &Known) -> Option<Known> {
        let shape = broadcast_shape(&broadcast_shape(&condition.shape, &a.shape)?, &b.shape)?;
        let (condition, x, y) = (condition.broadcast(&shape)?, a.broadcast(&shape)?, b.broadcast(&shape)?);
        let choose = |((c, x), y): ((&Number, &Number), &Number)| -> Option<Number> {
            match c.fixed() {
                Some(c) => Some(if c != 0.0 { x.clone() } else { y.clone() }),
                None => Some(Facts::select(c.dim()?, x.dim()?, y.dim()?).into()),
            }
        };
        let elements =
            condition.elements.iter().zip(&x.elements).zip(&y.elements).map(choose).collect::<Option<_>>()?;
        Some(Known { dtype: a.dtype, shape, elements })
    }

    /// Combines all elements along the given axes with an associative operator.
    pub fn reduce(&self, op: BinaryOp, axes: &[usize], keep: bool, facts: &Facts) -> Option<Known> {
        let mut result = self.clone();
        for &axis in axes {
            let size = *result.shape.get(axis)?;
            let slice = |index: usize| result.gather(axis, &[index], &[1]);
            let mut sum = slice(0)?;
            for index in 1..size {
                sum = sum.binary(op, &slice(index)?, facts)?;
            }
            result = sum;
        }
        if !keep {
            let shape: Vec<usize> = (0..self.shape.len())
                .filter(|axis| !axes.contains(axis))
                .map(|axis| self.shape[axis])
                .collect();
            result = result.reshaped(&shape)?;
        }
        Some(result)
    }
}

/// Number of elements; `None` where it exceeds what can be counted.
fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

/// Types that graphs compute shapes in.
fn is_shape_type(dtype: DType) -> bool {
    matches!(dtype, DType::I32 | DType::I64 | DType::F32 | DType::F64 | DType::Bool)
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

fn coordinates(mut position: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        at[axis] = position % shape[axis].max(1);
        position /= shape[axis].max(1);
    }
    at
}

fn broadcast_shape(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at =
        |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (x, y) if x == y => Some(x),
            (1, size) | (size, 1) => Some(size),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use engraft_network::SymbolId;

    fn n() -> Dim {
        Dim::symbol(SymbolId(0))
    }

    fn float(value: f32) -> Known {
        Known::of(&Tensor::scalar(value)).unwrap()
    }

    #[test]
    fn arithmetic_through_floats_is_exact() {
        let facts = Facts::default();
        let shape = Known::vector(DType::I64, [n(), Dim::Fixed(7)]);
        let half =
            shape.cast(DType::F32, &facts).unwrap().binary(BinaryOp::Div, &float(2.0), &facts).unwrap();
        let floor = half.unary(UnaryOp::Floor, &facts).unwrap().cast(DType::I64, &facts).unwrap();
        assert_eq!(floor.dims().unwrap(), [n().floor_div(&Dim::Fixed(2)), Dim::Fixed(3)]);
        let ceil = half.unary(UnaryOp::Ceil, &facts).unwrap();
        assert_eq!(ceil.dims().unwrap(), [n().ceil_div(&Dim::Fixed(2)), Dim::Fixed(4)]);
        let double = half.binary(BinaryOp::Mul, &float(4.0), &facts).unwrap();
        assert_eq!(double.dims().unwrap(), [n().mul(&Dim::Fixed(2)), Dim::Fixed(14)]);
    }

    #[test]
    fn the_minus_one_idiom_resolves() {
        let facts = Facts::default();
        let shape = Known::vector(DType::I64, [n(), Dim::Fixed(-1)]);
        let minus_one = Known::scalar(DType::I64, Dim::Fixed(-1));
        let is_minus_one = shape.binary(BinaryOp::Eq, &minus_one, &facts).unwrap();
        let ones = Known::vector(DType::I64, [Dim::Fixed(1), Dim::Fixed(1)]);
        let chosen = Known::select(&is_minus_one, &ones, &shape).unwrap();
        assert_eq!(chosen.dims().unwrap(), [n(), Dim::Fixed(1)]);
    }

    #[test]
    fn structure() {
        let facts = Facts::default();
        let grid = Known::vector(DType::I64, (0..6).map(Dim::Fixed)).reshaped(&[2, 3]).unwrap();
        let dims = |known: &Known| known.dims().unwrap().iter().filter_map(Dim::fixed).collect::<Vec<_>>();
        assert_eq!(dims(&grid.transposed(&[1, 0])), [0, 3, 1, 4, 2, 5]);
        assert_eq!(dims(&grid.gather(1, &[2, 0], &[2]).unwrap()), [2, 0, 5, 3]);
        assert_eq!(
            dims(&Known::concat(&[grid.clone(), grid.clone()], 1).unwrap()),
            [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
        );
        assert_eq!(dims(&grid.reduce(BinaryOp::Mul, &[1], false, &facts).unwrap()), [0, 60]);
        assert!(grid.gather(1, &[3], &[1]).is_none());
        let column = Known::vector(DType::I64, [Dim::Fixed(1), Dim::Fixed(2)]).reshaped(&[2, 1]).unwrap();
        assert_eq!(dims(&column.broadcast(&[2, 3]).unwrap()), [1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn arbitrary_floats_are_not_known() {
        assert!(Known::of(&Tensor::scalar(0.1f32)).is_none());
        assert_eq!(float(0.75).elements[0].fixed(), Some(0.75));
    }
}
