//! Transposed convolutions of few channels whose windows do not overlap become a product of all sub-pixels at once.
//!
//! Where kernel and stride agree, every output pixel reads one kernel position. Computed class by class, each product
//! would have as few columns as there are channels, a fraction of a vector; together they fill one.

use super::affine::epilogue_of;
use super::sweep::{Sweep, sweep};
use engraft_network::ops::{Conv, Padding, Reshape, Transpose};
use engraft_network::{AlignedBytes, DType, Dim, Network, NetworkError, NodeId, Op, Tensor, ValueId};

/// Columns of the joined product up to which the copy behind it costs less than products of fewer columns.
const MAX_COLUMNS: usize = 32;

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| {
        let Some(joined) = joined(s, id) else { return Ok(()) };
        let Some(node) = s.node(id) else { return Ok(()) };
        let (name, x, out) = (node.name.clone(), node.inputs[0], node.outputs[0]);
        let spatial = joined.kernel.len();
        let mut inputs = vec![x];
        for (what, tensor) in joined.constants {
            let constant = s.constant(format!("{name}.{what}"), tensor);
            inputs.push(constant);
        }
        let product = s.add(name.clone(), joined.conv, &inputs)?;
        let x_shape = s.ty(x).shape.clone();
        let out_shape = s.ty(out).shape.to_vec();
        let mut split: Vec<Dim> = x_shape[..=spatial].to_vec();
        split.extend(joined.kernel.iter().map(|k| Dim::Fixed(*k as i64)));
        split.push(out_shape[spatial + 1].clone());
        let split = s.add(name.clone(), Reshape { shape: split }, &[product])?;
        let mut perm = vec![0];
        perm.extend((1..=spatial).flat_map(|axis| [axis, axis + spatial]));
        perm.push(2 * spatial + 1);
        let placed = s.add(name.clone(), Transpose { perm }, &[split])?;
        let new = s.add(name, Reshape { shape: out_shape }, &[placed])?;
        s.replace(out, new)
    })
}

struct Joined {
    conv: Conv,
    kernel: Vec<usize>,
    /// Weights `[1.., C, positions * M]`, then the bias if there is one.
    constants: Vec<(&'static str, Tensor)>,
}

fn joined(s: &Sweep<'_>, id: NodeId) -> Option<Joined> {
    let node = s.node(id)?;
    let Op::ConvTranspose(op) = &node.op else { return None };
    let w = s.net().constant(node.inputs[1])?;
    let spatial = op.strides.len();
    let (kernel, rest) = w.shape().split_at_checked(spatial)?;
    let &[channels, m] = rest else { return None };
    let positions: usize = kernel.iter().product();
    let Padding::Explicit { begin, end } = &op.padding else { return None };
    let zeros = [begin, end, &op.output_padding].into_iter().flatten().all(|n| *n == 0);
    let epilogue = epilogue_of(&node.op)?;
    if op.groups != 1
        || kernel != &op.strides[..]
        || op.dilations.iter().any(|d| *d != 1)
        || !zeros
        || positions < 2
        || positions * m > MAX_COLUMNS
        || w.dtype() != DType::F32
        || node.inputs.len() != 2 + usize::from(epilogue.bias)
        || s.ty(node.outputs[0]).shape.last()?.fixed() != i64::try_from(m).ok()
    {
        return None;
    }
    let mut weights = AlignedBytes::zeroed(w.bytes().len());
    let (from, _) = w.bytes().as_chunks::<4>();
    let (to, _) = weights.as_mut_slice().as_chunks_mut::<4>();
    for (i, from) in from.chunks_exact(m.max(1)).enumerate() {
        let (position, channel) = (i / channels, i % channels);
        let at = (channel * positions + position) * m;
        to[at..at + m].copy_from_slice(from);
    }
    let mut shape = vec![1; spatial];
    shape.extend([channels, positions * m]);
    let mut constants = vec![("weights", Tensor::new(DType::F32, &shape, weights.into()).ok()?)];
    if epilogue.bias {
        constants.push(("bias", repeated(s, node.inputs[2], m, positions)?));
    }
    let conv = Conv {
        strides: vec![1; spatial],
        dilations: vec![1; spatial],
        padding: Padding::none(spatial),
        groups: 1,
        epilogue: epilogue.clone(),
    };
    Some(Joined { conv, kernel: kernel.to_vec(), constants })
}

/// A constant of `m` values, `times` times in a row.
fn repeated(s: &Sweep<'_>, bias: ValueId, m: usize, times: usize) -> Option<Tensor> {
    let values: Vec<f32> = s.net().constant(bias)?.to_vec().ok()?;
    if values.len() != m {
        return None;
    }
    Tensor::from_slice(&[m * times], &values.repeat(times)).ok()
}
