//! Constant folding: what depends on nothing but constants is computed now.

use super::sweep::sweep;
use super::transpose::transpose_tensor;
use engraft_network::{Network, NetworkError, Op, Tensor};

/// Results up to this size are folded whatever their operands' size.
const SMALL_BYTES: usize = 64 << 10;
/// Larger results may be this many times the operands' size (dequantised weights): never a broadcast of little data.
const GROWTH: usize = 8;
/// Bounds of the work put into one node by the reference evaluation.
const MAX_ELEMENTS: usize = 16 << 20;
const MAX_FLOPS: f64 = 3e8;

/// Folds nodes whose operands are all constant. With `big_transposes` off, transposed matrices are left to be absorbed by
/// their products.
pub(super) fn run(net: &mut Network, big_transposes: bool) -> Result<usize, NetworkError> {
    sweep(net, &mut |s, id| {
        let Some(node) = s.node(id) else { return Ok(()) };
        if s.is_pinned(id) || !node.inputs.iter().all(|v| s.net().constant(*v).is_some()) {
            return Ok(());
        }
        if !big_transposes
            && matches!(&node.op, Op::Transpose(t) if t.perm.len() == 2)
            && s.net().constant(node.inputs[0]).is_some_and(|t| t.count() > 4096)
        {
            return Ok(());
        }
        let Some(results) = evaluate(s.net(), node) else { return Ok(()) };
        let (outputs, names) = (
            node.outputs.clone(),
            node.outputs.iter().map(|v| s.net().value(*v).name.clone()).collect::<Vec<_>>(),
        );
        for ((v, name), t) in outputs.into_iter().zip(names).zip(results) {
            let c = s.constant(name, t);
            s.replace(v, c)?;
        }
        Ok(())
    })
}

/// Results of a node of constant operands; `None` where the result is not to be folded.
fn evaluate(net: &Network, node: &engraft_network::Node) -> Option<Vec<Tensor>> {
    let inputs: Vec<Tensor> = node.inputs.iter().map(|v| net.constant(*v).cloned()).collect::<Option<_>>()?;
    let shapes: Vec<Vec<usize>> =
        node.outputs.iter().map(|v| net.ty(*v).fixed_shape()).collect::<Option<_>>()?;
    match (&node.op, inputs.as_slice()) {
        (Op::Reshape(_), [x]) => return Some(vec![x.reshaped(&shapes[0]).ok()?]),
        (Op::Transpose(t), [x]) => return Some(vec![transpose_tensor(x, &t.perm)?]),
        _ => {}
    }
    let mut fixed = true;
    node.op.clone().map_dims(&mut |d| {
        fixed &= d.fixed().is_some();
        d.clone()
    });
    let bytes_in: usize = inputs.iter().map(|t| t.bytes().len()).sum();
    let count: usize = shapes.iter().map(|s| s.iter().product::<usize>()).sum();
    let bytes_out: usize = node
        .outputs
        .iter()
        .zip(&shapes)
        .map(|(v, s)| net.ty(*v).dtype.bytes(s.iter().product::<usize>()))
        .sum();
    let in_shapes: Vec<&[usize]> = inputs.iter().map(Tensor::shape).collect();
    let out_shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
    if !fixed
        || bytes_out > SMALL_BYTES.max(GROWTH * bytes_in)
        || count > MAX_ELEMENTS
        || node.op.flops(&in_shapes, &out_shapes) > MAX_FLOPS
    {
        return None;
    }
    // An operator that fails on its operands fails at run time, with its own message.
    let results = node.op.eval(&inputs, &[]).ok()?;
    results
        .iter()
        .zip(&node.outputs)
        .zip(&shapes)
        .all(|((t, v), s)| t.dtype() == net.ty(*v).dtype && t.shape() == s)
        .then_some(results)
}
