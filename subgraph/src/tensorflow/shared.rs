//! Constants that stand in functions and in something else as well, stored once.
//!
//! Segments hold constants as kernels want them, which is often another order of the axes than TensorFlow's. A constant of a
//! function that is such a rearrangement, element by element, is written as one: the attribute [`SHARED`] of its node says where
//! the elements are, and how the axes go.

use bytes::Bytes;
use prost::{DecodeError, Message};
use thiserror::Error;

use super::proto::{Attr, AttrValue, ListValue, NodeDef, TensorProto};
use super::{tensor, wire};

/// An attribute of constants without contents, a list of integers: where in the pool they begin, and for each axis of the elements
/// there which axis of the constant it is.
const SHARED: &str = "_engraft_shared";
/// Smaller constants stay.
const LEAST_BYTES: usize = 256;
/// Constants of more axes are not rearranged.
const MAX_RANK: usize = 5;

/// The elements of a constant in the pool, dense.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// The bytes of one element.
    pub width: usize,
    pub offset: usize,
    pub length: usize,
}

/// Why contents cannot be put back.
#[derive(Debug, Error)]
pub enum SharedError {
    #[error("the functions cannot be read")]
    Decode(#[from] DecodeError),
    #[error("the contents of {0:?} are not where they should be")]
    Missing(String),
}

/// A `FunctionDefLibrary` without the contents that `parts` of `pool` hold as well.
///
/// # Errors
/// Bytes that are no library.
pub fn share(library: &Bytes, pool: &[u8], parts: &[Part]) -> Result<Vec<u8>, DecodeError> {
    each_node(library, &mut |node| Ok(shared(node, pool, parts)))
}

/// The library that [`share`] was given, whose pool begins as this one does.
///
/// # Errors
/// Bytes that are no library, or another pool.
pub fn restore(library: &Bytes, pool: &[u8]) -> Result<Vec<u8>, SharedError> {
    each_node(library, &mut |node| restored(node, pool))
}

/// The library with nodes replaced by what `change` gives for them; all else byte for byte.
fn each_node<E: From<DecodeError>>(
    library: &Bytes,
    change: &mut dyn FnMut(NodeDef) -> Result<Option<NodeDef>, E>,
) -> Result<Vec<u8>, E> {
    let mut made = Vec::with_capacity(library.len());
    for function in wire::fields(library)? {
        if function.number != FUNCTION {
            made.extend_from_slice(&function.whole);
            continue;
        }
        let mut body = Vec::with_capacity(function.content.len());
        for field in wire::fields(&function.content)? {
            let node = match field.number {
                NODE => change(NodeDef::decode(field.content.clone())?)?,
                _ => None,
            };
            match node {
                Some(node) => wire::append(&mut body, NODE, &node.encode_to_vec()),
                None => body.extend_from_slice(&field.whole),
            }
        }
        wire::append(&mut made, FUNCTION, &body);
    }
    Ok(made)
}

/// `FunctionDefLibrary.function` and `FunctionDef.node_def`.
const FUNCTION: u32 = 1;
const NODE: u32 = 3;

fn shared(mut node: NodeDef, pool: &[u8], parts: &[Part]) -> Option<NodeDef> {
    let constant = constant(&mut node)?;
    let (width, shape) = layout(constant)?;
    let bytes = &constant.tensor_content;
    if bytes.len() < LEAST_BYTES || bytes.len() != width * shape.iter().product::<usize>() {
        return None;
    }
    let alike = || parts.iter().filter(|part| part.width == width && part.length == bytes.len());
    let of_pool = |part: &Part| pool.get(part.offset..part.offset + part.length);
    let identity: Vec<usize> = (0..shape.len()).collect();
    let equal = alike().find(|part| of_pool(part) == Some(bytes)).map(|part| (part.offset, identity));
    let (offset, axes) = equal.or_else(|| {
        let orders = orders(&shape);
        alike().find_map(|part| {
            let there = of_pool(part)?;
            let axes = orders.iter().find(|axes| {
                let mut places = Places::new(&shape, axes);
                there.chunks_exact(width).all(|element| {
                    let at = places.next_place() * width;
                    bytes[at..at + width] == *element
                })
            })?;
            Some((part.offset, axes.clone()))
        })
    })?;
    constant.tensor_content = Bytes::new();
    let numbers = std::iter::once(offset).chain(axes).map(|number| number as i64).collect();
    let list = ListValue { i: numbers, ..ListValue::default() };
    node.attr.insert(SHARED.to_owned(), AttrValue { value: Some(Attr::List(list)) });
    Some(node)
}

fn restored(mut node: NodeDef, pool: &[u8]) -> Result<Option<NodeDef>, SharedError> {
    let Some(AttrValue { value: Some(Attr::List(list)) }) = node.attr.remove(SHARED) else { return Ok(None) };
    let missing = || SharedError::Missing(node.name.clone());
    let numbers: Option<Vec<usize>> = list.i.iter().map(|number| usize::try_from(*number).ok()).collect();
    let numbers = numbers.ok_or_else(missing)?;
    let (&offset, axes) = numbers.split_first().ok_or_else(missing)?;
    let name = node.name.clone();
    let missing = || SharedError::Missing(name.clone());
    let constant = constant(&mut node).ok_or_else(missing)?;
    let (width, shape) = layout(constant).ok_or_else(missing)?;
    let mut sorted = axes.to_vec();
    sorted.sort_unstable();
    let count = shape.iter().try_fold(width, |count, &size| count.checked_mul(size));
    let end = count.and_then(|length| offset.checked_add(length)).ok_or_else(missing)?;
    let there = pool.get(offset..end).ok_or_else(missing)?;
    if !sorted.into_iter().eq(0..shape.len()) {
        return Err(missing());
    }
    let mut bytes = vec![0; there.len()];
    let mut places = Places::new(&shape, axes);
    for element in there.chunks_exact(width) {
        let at = places.next_place() * width;
        bytes[at..at + width].copy_from_slice(element);
    }
    constant.tensor_content = bytes.into();
    Ok(Some(node))
}

fn constant(node: &mut NodeDef) -> Option<&mut TensorProto> {
    match node.attr.get_mut("value")?.value.as_mut()? {
        Attr::Tensor(tensor) if node.op == "Const" => Some(tensor),
        _ => None,
    }
}

/// The bytes of an element, and the shape.
fn layout(proto: &TensorProto) -> Option<(usize, Vec<usize>)> {
    let dims = proto.tensor_shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    let shape = dims.iter().map(|dim| usize::try_from(dim.size).ok()).collect::<Option<_>>()?;
    Some((tensor::dtype(proto.dtype)?.bytes(1), shape))
}

/// All orders of the axes that move elements; axes of size 1 keep their places.
fn orders(shape: &[usize]) -> Vec<Vec<usize>> {
    let moving: Vec<usize> = (0..shape.len()).filter(|axis| shape[*axis] != 1).collect();
    if moving.len() > MAX_RANK {
        return Vec::new();
    }
    let mut all: Vec<Vec<usize>> = vec![Vec::new()];
    for _ in 0..moving.len() {
        let longer = |order: &Vec<usize>| {
            let rest = moving.iter().filter(|axis| !order.contains(axis));
            rest.map(|axis| [&order[..], &[*axis]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    let still: Vec<usize> = (0..shape.len()).filter(|axis| shape[*axis] == 1).collect();
    all.into_iter().map(|order| [order, still.clone()].concat()).collect()
}

/// The places, in a dense tensor, of the elements of its rearrangement, one after the other.
struct Places {
    /// Sizes and strides of the rearrangement's axes, the innermost first.
    axes: Vec<(usize, usize)>,
    index: Vec<usize>,
    place: usize,
}

impl Places {
    fn new(shape: &[usize], order: &[usize]) -> Places {
        let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
        let axes: Vec<_> = order.iter().rev().map(|&axis| (shape[axis], stride(axis))).collect();
        Places { index: vec![0; axes.len()], axes, place: 0 }
    }

    fn next_place(&mut self) -> usize {
        let place = self.place;
        for (index, &(size, stride)) in self.index.iter_mut().zip(&self.axes) {
            *index += 1;
            self.place += stride;
            if *index < size {
                break;
            }
            self.place -= size * stride;
            *index = 0;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{DimProto, FunctionDef, FunctionDefLibrary, TensorShapeProto};
    use super::*;

    fn node(name: &str, shape: &[i64], content: &[f32]) -> NodeDef {
        let dim = shape.iter().map(|&size| DimProto { size, ..DimProto::default() }).collect();
        let content: Vec<u8> = content.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = TensorProto {
            dtype: 1,
            tensor_shape: Some(TensorShapeProto { dim, unknown_rank: false }),
            tensor_content: content.into(),
            ..TensorProto::default()
        };
        NodeDef {
            name: name.to_owned(),
            op: "Const".to_owned(),
            attr: [("value".to_owned(), AttrValue { value: Some(Attr::Tensor(tensor)) })].into(),
            ..NodeDef::default()
        }
    }

    fn library(nodes: Vec<NodeDef>) -> Bytes {
        let function = FunctionDef { node_def: nodes, ..FunctionDef::default() };
        FunctionDefLibrary { function: vec![function.encode_to_vec().into()] }.encode_to_vec().into()
    }

    fn content(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// Filters as TensorFlow has them, `[3, 1, 5, 7]`, and with the last axis first.
    fn filters() -> (Vec<f32>, Vec<f32>) {
        let plain: Vec<f32> = (0..105).map(|i| (i * i % 97) as f32 + 0.5).collect();
        let moved =
            (0..7).flat_map(|o| (0..15).map(move |i| (o, i))).map(|(o, i)| plain[i * 7 + o]).collect();
        (plain, moved)
    }

    #[test]
    fn rearranged_contents_are_found_and_put_back() {
        let (plain, moved) = filters();
        let other: Vec<f32> = (0..105).map(|i| i as f32).collect();
        let whole = library(vec![
            node("moved", &[3, 1, 5, 7], &plain),
            node("equal", &[105], &other),
            node("nowhere", &[105], &[1.25; 105]),
            node("small", &[2], &other[..2]),
        ]);
        let pool = [vec![9; 12], content(&moved), content(&other)].concat();
        let parts = [12, 12 + 420].map(|offset| Part { width: 4, offset, length: 420 });
        let less = Bytes::from(share(&whole, &pool, &parts).unwrap());
        assert!(less.len() + 700 < whole.len(), "{} of {}", less.len(), whole.len());
        assert_eq!(restore(&less, &pool).unwrap(), whole);
        // What was not touched reads without a pool.
        assert_eq!(restore(&whole, &[]).unwrap(), whole);
        assert!(matches!(restore(&less, &pool[..400]), Err(SharedError::Missing(name)) if name == "moved"));
    }

    #[test]
    fn contents_that_differ_in_one_element_stay() {
        let (plain, mut moved) = filters();
        moved[104] += 1.0;
        let whole = library(vec![node("moved", &[3, 1, 5, 7], &plain)]);
        let part = Part { width: 4, offset: 0, length: 420 };
        assert_eq!(share(&whole, &content(&moved), &[part]).unwrap(), whole);
    }
}
