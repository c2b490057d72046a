//! Storage in bf16 between products that read and write it.
//!
//! A value becomes bf16 where a product, or a layer behind one, makes it, every reader takes bf16, and a product reads it in
//! the end: sums, and what is computed of them on the way out, stay `f32`, and so do the network's outputs and all that no
//! product follows. Layers that only move, pool or normalise pass on the type that they read.

use super::affine::{epilogue_mut, epilogue_of};
use super::region::expression;
use super::sweep::{Sweep, sweep};
use engraft_network::ops::{Cast, Conv, Epilogue, Pointwise, ResizeMode, eval_shape};
use engraft_network::{
    AlignedBytes, DType, Dim, Expr, ExprNode, Network, NetworkError, Node, NodeId, Op, Tensor, ValueId,
};
use half::bf16;
use smallvec::SmallVec;

/// How a layer takes to bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A product: reads `f32` or bf16, one type for both matrices, and writes either.
    Product,
    /// A convolution channel by channel: the result has the type of the operand.
    Depthwise,
    /// Elementwise: any operand and the result may be either.
    Pointwise,
    /// The first `.0` operands and the result are of one type, to which further ones are converted.
    Same(usize),
    /// `f32` only.
    Wide,
}

/// A result of so many times fewer elements than what it is made of may be converted in a pass of its own.
const SMALL: usize = 8;

pub(super) fn run(
    net: &mut Network,
    is_product: fn(&Network, NodeId) -> bool,
) -> Result<usize, NetworkError> {
    let plan = Plan::new(net, is_product);
    if !plan.narrow.contains(&true) {
        return Ok(0);
    }
    sweep(net, &mut |s, id| rewrite(s, id, &plan))
}

struct Plan {
    /// By node index.
    roles: Vec<Role>,
    /// By value index: whether it is stored as bf16.
    narrow: Vec<bool>,
    /// By value index: elements at representative sizes.
    count: Vec<usize>,
}

fn role(net: &Network, id: NodeId, node: &Node, is_product: fn(&Network, NodeId) -> bool) -> Role {
    let constants = |from: usize| match node.inputs[from..].iter().all(|v| net.constant(*v).is_some()) {
        true => Role::Same(from),
        false => Role::Wide,
    };
    match &node.op {
        Op::Conv(_) | Op::ConvTranspose(_) | Op::MatMul(_) if is_product(net, id) => Role::Product,
        Op::Conv(c) if is_depthwise(net, node, c) => Role::Depthwise,
        Op::Unary(_) | Op::Binary(_) | Op::Pointwise(_) => Role::Pointwise,
        Op::Transpose(_) | Op::Reshape(_) | Op::Slice(_) | Op::Expand(_) | Op::Softmax(_) => Role::Same(1),
        Op::Pool(p) if !p.indices => Role::Same(1),
        Op::Resize(r) if matches!(r.mode, ResizeMode::Nearest(_)) => Role::Same(1),
        Op::Reduce(_) => Role::Same(1),
        Op::Concat(_) => Role::Same(node.inputs.len()),
        Op::Pad(_) | Op::LayerNorm(_) | Op::GroupNorm(_) => constants(1),
        // A mask is converted where it is of numbers.
        Op::Attention(_) => Role::Same(3),
        _ => Role::Wide,
    }
}

fn is_depthwise(net: &Network, node: &Node, conv: &Conv) -> bool {
    let channels = |v: ValueId| net.ty(v).shape.last().and_then(Dim::fixed);
    let groups = i64::try_from(conv.groups).ok();
    net.constant(node.inputs[1]).is_some()
        && channels(node.inputs[0]) == groups
        && channels(node.outputs[0]) == groups
}

impl Plan {
    fn new(net: &Network, is_product: fn(&Network, NodeId) -> bool) -> Plan {
        let mut roles = vec![Role::Wide; net.node_bound()];
        let mut narrow = vec![false; net.value_count()];
        let env = net.representative_env();
        let count = (0..net.value_count())
            .map(|i| {
                let shape = &net.ty(ValueId(i as u32)).shape;
                eval_shape(shape, &env).map_or(0, |s| s.iter().product())
            })
            .collect();
        for (id, node) in net.nodes() {
            roles[id.index()] = role(net, id, node, is_product);
            if roles[id.index()] != Role::Wide && node.outputs.len() == 1 {
                let out = node.outputs[0];
                narrow[out.index()] = net.ty(out).dtype == DType::F32;
            }
        }
        net.outputs().iter().for_each(|v| narrow[v.index()] = false);
        for (id, node) in net.nodes() {
            for (i, v) in node.inputs.iter().enumerate() {
                narrow[v.index()] &= roles[id.index()].reads(node, i);
            }
        }
        let mut plan = Plan { roles, narrow, count };
        while plan.agree(net) || plan.keep_useful(net) {}
        plan
    }

    fn narrow(&self, v: ValueId) -> bool {
        self.narrow.get(v.index()).copied().unwrap_or(false)
    }

    fn count(&self, v: ValueId) -> usize {
        self.count.get(v.index()).copied().unwrap_or(usize::MAX)
    }

    /// Whether `v` is so much smaller than `than` that converting it costs nothing beside.
    fn is_small(&self, v: ValueId, than: ValueId) -> bool {
        self.count(v).saturating_mul(SMALL) <= self.count(than)
    }

    /// Takes back what a layer of one type contradicts; whether there was anything.
    fn agree(&mut self, net: &Network) -> bool {
        let mut changed = false;
        let mut widen = |narrow: &mut [bool], v: ValueId| {
            changed |= std::mem::replace(&mut narrow[v.index()], false);
        };
        for (id, node) in net.nodes() {
            let Some(out) = node.outputs.first().copied() else { continue };
            match self.roles[id.index()] {
                Role::Same(operands) => {
                    let of = &node.inputs[..operands];
                    if of.iter().any(|v| !self.narrow(*v) && !self.is_small(*v, out)) {
                        widen(&mut self.narrow, out);
                    }
                    let fits = self.narrow(out) || of.iter().all(|v| self.is_small(out, *v));
                    // All or none: a mixture would be converted.
                    if !fits || of.iter().any(|v| !self.narrow(*v) && !self.is_small(*v, out)) {
                        of.iter().for_each(|v| widen(&mut self.narrow, *v));
                    }
                }
                Role::Product if net.constant(node.inputs[1]).is_none() => {
                    if !(self.narrow(node.inputs[0]) && self.narrow(node.inputs[1])) {
                        widen(&mut self.narrow, node.inputs[0]);
                        widen(&mut self.narrow, node.inputs[1]);
                    }
                }
                Role::Depthwise if self.narrow(out) != self.narrow(node.inputs[0]) => {
                    widen(&mut self.narrow, out);
                    widen(&mut self.narrow, node.inputs[0]);
                }
                Role::Product | Role::Depthwise | Role::Pointwise | Role::Wide => {}
            }
        }
        changed
    }

    /// Takes back what does not lie between products; whether there was anything.
    fn keep_useful(&mut self, net: &Network) -> bool {
        let (mut after, mut before) = (vec![false; self.narrow.len()], vec![false; self.narrow.len()]);
        let mut only_products = vec![true; self.narrow.len()];
        for (id, node) in net.nodes() {
            let is_product = self.roles[id.index()] == Role::Product;
            let from = is_product || node.inputs.iter().any(|v| self.narrow(*v) && after[v.index()]);
            node.outputs.iter().for_each(|v| after[v.index()] = from);
            node.inputs.iter().for_each(|v| only_products[v.index()] &= is_product);
        }
        for (id, node) in net.nodes().rev() {
            let is_product = self.roles[id.index()] == Role::Product;
            let to = is_product || node.outputs.iter().any(|v| self.narrow(*v) && before[v.index()]);
            node.inputs.iter().for_each(|v| before[v.index()] |= to);
        }
        let mut changed = false;
        for (i, narrow) in self.narrow.iter_mut().enumerate() {
            let useful = before[i] && (after[i] || only_products[i]);
            changed |= *narrow && !useful;
            *narrow &= useful;
        }
        changed
    }
}

impl Role {
    /// Whether operand `i` may be bf16.
    fn reads(self, node: &Node, i: usize) -> bool {
        match self {
            // The bias is added to sums.
            Role::Product | Role::Depthwise => !(i == 2 && epilogue_of(&node.op).is_some_and(|e| e.bias)),
            Role::Pointwise => true,
            Role::Same(operands) => i < operands,
            Role::Wide => false,
        }
    }
}

/// `v` as it is stored in bf16, if it is.
fn stored(s: &Sweep<'_>, v: ValueId) -> Option<ValueId> {
    let (_, node) = s.producer(v)?;
    let from = *node.inputs.first()?;
    (matches!(node.op, Op::Cast(Cast { to: DType::F32 })) && s.ty(from).dtype == DType::BF16).then_some(from)
}

/// Makes `v` what is stored in bf16, if it is; whether it is.
fn read(s: &Sweep<'_>, v: &mut ValueId) -> bool {
    let narrow = stored(s, *v);
    *v = narrow.unwrap_or(*v);
    narrow.is_some()
}

/// A constant of `f32`, rounded.
fn rounded(tensor: &Tensor) -> Option<Tensor> {
    let values: &[f32] = tensor.as_slice().ok()?;
    let mut bytes = AlignedBytes::zeroed(2 * values.len());
    let (to, _) = bytes.as_mut_slice().as_chunks_mut::<2>();
    for (x, to) in values.iter().zip(to) {
        *to = bf16::from_f32(*x).to_le_bytes();
    }
    Tensor::new(DType::BF16, tensor.shape(), bytes.into()).ok()
}

/// `v`, if it is `f32`, in bf16: as it is stored, or converted.
fn narrowed(s: &mut Sweep<'_>, name: &str, v: ValueId) -> Result<ValueId, NetworkError> {
    if let Some(stored) = stored(s, v) {
        return Ok(stored);
    }
    if s.ty(v).dtype != DType::F32 {
        return Ok(v);
    }
    if let Some(tensor) = s.net().constant(v).and_then(rounded) {
        let name = s.net().value(v).name.clone();
        return Ok(s.constant(name, tensor));
    }
    s.add(name, Cast { to: DType::BF16 }, &[v])
}

fn rewrite(s: &mut Sweep<'_>, id: NodeId, plan: &Plan) -> Result<(), NetworkError> {
    let Some(role) = plan.roles.get(id.index()).copied() else { return Ok(()) };
    let Some(node) = s.node(id) else { return Ok(()) };
    let (name, mut op) = (node.name.clone(), node.op.clone());
    let mut inputs: SmallVec<[ValueId; 4]> = node.inputs.iter().copied().collect();
    let Some(out) = node.outputs.first().copied() else { return Ok(()) };
    let narrow = plan.narrow(out);
    let has_narrow = |s: &Sweep<'_>, of: &[ValueId]| of.iter().any(|v| stored(s, *v).is_some());
    match role {
        Role::Wide => return Ok(()),
        Role::Same(operands) => {
            if !narrow && !has_narrow(s, &inputs[..operands]) {
                return Ok(());
            }
            for v in &mut inputs {
                *v = narrowed(s, &name, *v)?;
            }
        }
        Role::Product | Role::Depthwise => {
            if !narrow && !has_narrow(s, &inputs) {
                return Ok(());
            }
            let first = 2 + usize::from(epilogue_of(&op).is_some_and(|e| e.bias));
            if stored(s, inputs[0]).is_some() {
                for v in &mut inputs[..2] {
                    *v = narrowed(s, &name, *v)?;
                }
            }
            let mut converted: SmallVec<[bool; 4]> =
                SmallVec::from_slice(&[s.ty(inputs[0]).dtype == DType::BF16]);
            converted.extend(inputs[first..].iter_mut().map(|v| read(s, v)));
            let Some(epilogue) = epilogue_mut(&mut op) else { return Ok(()) };
            let post = epilogue.post.take().unwrap_or_else(identity);
            *epilogue = Epilogue { bias: epilogue.bias, post: Some(storing(&post, &converted, narrow)) };
        }
        Role::Pointwise => {
            let Some(expr) = expression(&op) else { return Ok(()) };
            if !narrow && !has_narrow(s, &inputs) {
                return Ok(());
            }
            let converted: SmallVec<[bool; 4]> = inputs.iter_mut().map(|v| read(s, v)).collect();
            op = Pointwise { expr: storing(&expr, &converted, narrow) }.into();
        }
    }
    let new = s.add(name.clone(), op, &inputs)?;
    let wide = match s.ty(new).dtype {
        DType::BF16 => s.add(name, Cast { to: DType::F32 }, &[new])?,
        _ => new,
    };
    s.replace(out, wide)
}

fn identity() -> Expr {
    let mut e = Expr::new();
    e.push(ExprNode::Input(0));
    e
}

/// `expr` of `f32` over operands of which some are `read` in bf16, its result stored in bf16 if `narrow`.
fn storing(expr: &Expr, read: &[bool], narrow: bool) -> Expr {
    let mut out = expr.converting(read, DType::F32);
    if narrow {
        let last = out.nodes().len() as u16 - 1;
        out.push(ExprNode::Cast(DType::BF16, last));
    }
    out
}
