//! Transposed convolutions of few channels whose result is `stride` times as large as their input become one convolution of
//! all sub-pixels at once.
//!
//! Where kernel and stride agree, every output pixel reads one kernel position, else those that have its remainder by the
//! stride. Computed class by class, each product would have as few columns as there are channels, a fraction of a vector;
//! together they fill one. Sub-pixels do not read the same pixels: the joined window covers what any of them reads, with
//! zeros where one does not, which pays as long as vectors were emptier before.

use super::affine::epilogue_of;
use super::sweep::{Sweep, sweep};
use engraft_network::ops::{Conv, Padding, Reshape, Transpose};
use engraft_network::{AlignedBytes, DType, Dim, Network, NetworkError, NodeId, Op, Tensor, ValueId};

/// Columns of the joined product up to which the copy behind it costs less than products of fewer columns.
const MAX_COLUMNS: usize = 32;
/// Columns that cost as much as one.
const LANES: usize = 16;

pub(super) fn run(net: &mut Network) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| {
        let Some(joined) = joined(s, id) else { return Ok(()) };
        let Some(node) = s.node(id) else { return Ok(()) };
        let (name, x, out) = (node.name.clone(), node.inputs[0], node.outputs[0]);
        let spatial = joined.stride.len();
        let mut inputs = vec![x];
        for (what, tensor) in joined.constants {
            let constant = s.constant(format!("{name}.{what}"), tensor);
            inputs.push(constant);
        }
        let product = s.add(name.clone(), joined.conv, &inputs)?;
        let x_shape = s.ty(x).shape.clone();
        let out_shape = s.ty(out).shape.to_vec();
        let mut split: Vec<Dim> = x_shape[..=spatial].to_vec();
        split.extend(joined.stride.iter().map(|s| Dim::Fixed(*s as i64)));
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
    stride: Vec<usize>,
    /// Weights `[window.., C, positions * M]`, then the bias if there is one.
    constants: Vec<(&'static str, Tensor)>,
}

/// One spatial axis: output `stride * q + r` reads kernel position `k` at input `q + d`, where `k = r + begin - stride * d`.
struct Axis {
    kernel: i64,
    stride: i64,
    begin: i64,
    /// Least and greatest `d`.
    reach: [i64; 2],
}

impl Axis {
    /// `None`: the result is not `stride` times as large as the input, or no sub-pixel reads the pixel that it lies in.
    fn new(kernel: usize, stride: usize, [begin, end, more]: [usize; 3]) -> Option<Axis> {
        let [kernel, stride, begin, end, more] = [kernel, stride, begin, end, more].map(|n| n as i64);
        let reach = [-(kernel - 1 - begin).div_euclid(stride), (stride - 1 + begin).div_euclid(stride)];
        (kernel + more == stride + begin + end && begin < kernel).then_some(Axis {
            kernel,
            stride,
            begin,
            reach,
        })
    }

    fn window(&self) -> usize {
        (self.reach[1] - self.reach[0] + 1) as usize
    }

    /// The kernel position that sub-pixel `r` reads at place `at` of the window.
    fn position(&self, r: usize, at: usize) -> Option<usize> {
        let k = r as i64 + self.begin - self.stride * (at as i64 + self.reach[0]);
        (0..self.kernel).contains(&k).then_some(k as usize)
    }
}

fn joined(s: &Sweep<'_>, id: NodeId) -> Option<Joined> {
    let node = s.node(id)?;
    let Op::ConvTranspose(op) = &node.op else { return None };
    let w = s.net().constant(node.inputs[1])?;
    let spatial = op.strides.len();
    let (kernel, rest) = w.shape().split_at_checked(spatial)?;
    let &[channels, m] = rest else { return None };
    let Padding::Explicit { begin, end } = &op.padding else { return None };
    let axis = |i: usize| Axis::new(kernel[i], op.strides[i], [begin[i], end[i], op.output_padding[i]]);
    let axes: Vec<Axis> = (0..spatial).map(axis).collect::<Option<_>>()?;
    let window: Vec<usize> = axes.iter().map(Axis::window).collect();
    let [taps, places, positions] =
        [kernel, &window, &op.strides].map(|sizes| sizes.iter().product::<usize>());
    let epilogue = epilogue_of(&node.op)?;
    if op.groups != 1
        || op.dilations.iter().any(|d| *d != 1)
        || positions < 2
        || positions * m > MAX_COLUMNS
        || places * (positions * m).next_multiple_of(LANES) > taps * m.next_multiple_of(LANES)
        || w.dtype() != DType::F32
        || node.inputs.len() != 2 + usize::from(epilogue.bias)
        || s.ty(node.outputs[0]).shape.last()?.fixed() != i64::try_from(m).ok()
    {
        return None;
    }
    let mut weights = AlignedBytes::zeroed(places * channels * positions * m * size_of::<f32>());
    let (from, _) = w.bytes().as_chunks::<4>();
    let (to, _) = weights.as_mut_slice().as_chunks_mut::<4>();
    for (place, position) in (0..places).flat_map(|place| (0..positions).map(move |p| (place, p))) {
        // Both by axis, the last one first.
        let (mut at, mut r, mut tap, mut step) = (place, position, Some(0), 1);
        for axis in axes.iter().rev() {
            let (window, stride) = (axis.window(), axis.stride as usize);
            let k = axis.position(r % stride, at % window);
            tap = tap.zip(k).map(|(tap, k)| tap + k * step);
            (at, r, step) = (at / window, r / stride, step * axis.kernel as usize);
        }
        let Some(tap) = tap else { continue };
        for channel in 0..channels {
            let to = &mut to[((place * channels + channel) * positions + position) * m..][..m];
            to.copy_from_slice(&from[(tap * channels + channel) * m..][..m]);
        }
    }
    let mut shape = window;
    shape.extend([channels, positions * m]);
    let mut constants = vec![("weights", Tensor::new(DType::F32, &shape, weights.into()).ok()?)];
    if epilogue.bias {
        constants.push(("bias", repeated(s, node.inputs[2], m, positions)?));
    }
    let around = |side: usize| axes.iter().map(|axis| axis.reach[side].unsigned_abs() as usize).collect();
    let conv = Conv {
        strides: vec![1; spatial],
        dilations: vec![1; spatial],
        padding: Padding::Explicit { begin: around(0), end: around(1) },
        groups: 1,
        epilogue: epilogue.clone(),
    };
    Some(Joined { conv, stride: op.strides.clone(), constants })
}

/// A constant of `m` values, `times` times in a row.
fn repeated(s: &Sweep<'_>, bias: ValueId, m: usize, times: usize) -> Option<Tensor> {
    let values: Vec<f32> = s.net().constant(bias)?.to_vec().ok()?;
    if values.len() != m {
        return None;
    }
    Tensor::from_slice(&[m * times], &values.repeat(times)).ok()
}
