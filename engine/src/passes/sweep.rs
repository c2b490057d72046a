//! One walk over a network in topological order, holding all its changes in one patch.

use engraft_network::{
    DType, Def, Dim, Network, NetworkError, Node, NodeId, Op, Patch, Scalar, SymbolSource, Tensor,
    TensorType, ValueId,
};
use half::{bf16, f16};
use smallvec::SmallVec;

/// The state of a walk: upstream of the visited node the network is as changed so far, and use counts are exact.
pub(super) struct Sweep<'a> {
    patch: Patch<'a>,
    uses: Vec<u32>,
    /// Reads of a value by nodes that this sweep added: those do not move when the value is replaced.
    fixed_reads: Vec<u32>,
    /// Nodes that symbols take their values from: never replaced.
    pinned: Vec<bool>,
    /// Nodes whose results nobody reads any more.
    released: Vec<bool>,
    changes: usize,
}

/// Visits every live node once, operands before users, then applies all changes and removes what died. Returns the
/// number of replacements. Nodes added by the visitor are not visited.
pub(super) fn sweep(
    net: &mut Network,
    visit: &mut dyn FnMut(&mut Sweep<'_>, NodeId) -> Result<(), NetworkError>,
) -> Result<usize, NetworkError> {
    let order: Vec<NodeId> = net.nodes().map(|(id, _)| id).collect();
    let mut uses = net.use_counts();
    let mut pinned = vec![false; net.node_bound()];
    for s in net.symbols() {
        if let SymbolSource::Data { node, .. } | SymbolSource::DataElement { node, .. } = s.source
            && let Some(n) = net.node(node)
        {
            pinned[node.index()] = true;
            n.outputs.iter().for_each(|v| uses[v.index()] += 1);
        }
    }
    let mut s = Sweep {
        fixed_reads: vec![0; uses.len()],
        patch: Patch::new(net),
        uses,
        pinned,
        released: Vec::new(),
        changes: 0,
    };
    for id in order {
        s.patch.settle(id);
        let live = s.net().node(id).is_some_and(|n| n.outputs.iter().any(|v| s.uses(*v) > 0));
        if live {
            visit(&mut s, id)?;
        }
    }
    let changes = s.changes;
    s.patch.apply()?;
    if changes > 0 {
        net.remove_dead();
    }
    Ok(changes)
}

impl Sweep<'_> {
    pub fn net(&self) -> &Network {
        self.patch.network()
    }

    /// The visited node or any node that is there; a removed one is an internal error that the caller turns into a skip.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.net().node(id)
    }

    pub fn uses(&self, v: ValueId) -> u32 {
        self.uses.get(v.index()).copied().unwrap_or(0)
    }

    pub fn is_pinned(&self, id: NodeId) -> bool {
        self.pinned.get(id.index()).copied().unwrap_or(false)
    }

    pub fn producer(&self, v: ValueId) -> Option<(NodeId, &Node)> {
        self.net().producer(v)
    }

    pub fn ty(&self, v: ValueId) -> &TensorType {
        self.net().ty(v)
    }

    pub fn constant(&mut self, name: impl Into<String>, tensor: Tensor) -> ValueId {
        let v = self.patch.constant(name, tensor);
        self.grow();
        v
    }

    fn grow(&mut self) {
        let n = self.net().value_count();
        self.uses.resize(n, 0);
        self.fixed_reads.resize(n, 0);
    }

    pub fn node_outputs(
        &mut self,
        name: impl Into<String>,
        op: impl Into<Op>,
        inputs: &[ValueId],
    ) -> Result<SmallVec<[ValueId; 1]>, NetworkError> {
        let out = self.patch.node(name, op.into(), inputs)?;
        self.grow();
        for v in inputs {
            let v = self.patch.resolve(*v);
            self.revive(v);
            self.uses[v.index()] += 1;
            self.fixed_reads[v.index()] += 1;
        }
        Ok(out)
    }

    pub fn add(
        &mut self,
        name: impl Into<String>,
        op: impl Into<Op>,
        inputs: &[ValueId],
    ) -> Result<ValueId, NetworkError> {
        Ok(self.node_outputs(name, op, inputs)?[0])
    }

    /// Readers of `old` will read `new`; what nobody reads any more stops counting as a reader of its operands.
    pub fn replace(&mut self, old: ValueId, new: ValueId) -> Result<(), NetworkError> {
        if let Def::Node { node, .. } = self.net().value(old).def
            && self.is_pinned(node)
        {
            return Ok(());
        }
        self.patch.replace(old, new)?;
        let new = self.patch.resolve(new);
        self.revive(new);
        let moved = self.uses[old.index()] - self.fixed_reads[old.index()];
        self.uses[new.index()] += moved;
        self.uses[old.index()] -= moved;
        self.changes += 1;
        self.release(old);
        Ok(())
    }

    /// Drops the reads of the producer of `v` if nobody reads any of its results.
    fn release(&mut self, v: ValueId) {
        let mut work = vec![v];
        while let Some(v) = work.pop() {
            let Some((id, node)) = self.net().producer(v) else { continue };
            if self.is_released(id) || node.outputs.iter().any(|o| self.uses[o.index()] > 0) {
                continue;
            }
            for i in self.set_released(id, true) {
                self.uses[i.index()] -= 1;
                if self.uses[i.index()] == 0 {
                    work.push(i);
                }
            }
        }
    }

    /// Counts the reads of the producer of `v` again, if it had been released.
    fn revive(&mut self, v: ValueId) {
        let mut work = vec![v];
        while let Some(v) = work.pop() {
            let Some((id, _)) = self.net().producer(v) else { continue };
            if self.is_released(id) {
                for i in self.set_released(id, false) {
                    self.uses[i.index()] += 1;
                    work.push(i);
                }
            }
        }
    }

    fn is_released(&self, id: NodeId) -> bool {
        self.released.get(id.index()).copied().unwrap_or(false)
    }

    /// Marks a node and returns what it reads.
    fn set_released(&mut self, id: NodeId, released: bool) -> SmallVec<[ValueId; 4]> {
        if self.released.len() <= id.index() {
            self.released.resize(id.index() + 1, false);
        }
        self.released[id.index()] = released;
        let added = id.index() >= self.pinned.len();
        let inputs = self.net().node(id).map(|n| n.inputs.clone()).unwrap_or_default();
        inputs
            .into_iter()
            .map(|i| {
                if added {
                    let f = &mut self.fixed_reads[i.index()];
                    *f = if released { *f - 1 } else { *f + 1 };
                    i
                } else {
                    self.patch.resolve(i)
                }
            })
            .collect()
    }
}

/// The value of a constant of one element, of any rank.
pub(super) fn scalar(net: &Network, v: ValueId) -> Option<f64> {
    let t = net.constant(v)?;
    (t.count() == 1).then(|| t.get_f64(0))
}

/// The value of a constant whose elements are all equal (looked at up to 4096 elements).
pub(super) fn splat(net: &Network, v: ValueId) -> Option<f64> {
    let t = net.constant(v)?;
    let n = t.count();
    if n == 0 || n > 4096 {
        return None;
    }
    let first = t.get_f64(0);
    (1..n).all(|i| t.get_f64(i).to_bits() == first.to_bits()).then_some(first)
}

/// A tensor of rank 0 with the value of a literal; `None` for types that are narrower than a byte or f8.
pub(super) fn scalar_tensor(s: Scalar) -> Option<Tensor> {
    let (f, i) = (s.to_f64(), s.to_i64());
    Some(match s.dtype() {
        DType::F32 => Tensor::scalar(f as f32),
        DType::F64 => Tensor::scalar(f),
        DType::F16 => Tensor::scalar(f16::from_f64(f)),
        DType::BF16 => Tensor::scalar(bf16::from_f64(f)),
        DType::I8 => Tensor::scalar(i as i8),
        DType::U8 => Tensor::scalar(i as u8),
        DType::I16 => Tensor::scalar(i as i16),
        DType::U16 => Tensor::scalar(i as u16),
        DType::I32 => Tensor::scalar(i as i32),
        DType::U32 => Tensor::scalar(i as u32),
        DType::I64 => Tensor::scalar(i),
        DType::U64 => Tensor::scalar(i as u64),
        DType::Bool => Tensor::from_bools(&[], &[i != 0]).ok()?,
        DType::F8E4M3 | DType::F8E5M2 | DType::I4 | DType::U4 => return None,
    })
}

/// The literal of a constant of one element; `None` for types without an exact literal.
pub(super) fn literal(t: &Tensor) -> Option<Scalar> {
    if t.count() != 1 || t.dtype().bits() < 8 {
        return None;
    }
    Some(if t.dtype().is_float() {
        Scalar::float(t.dtype(), t.get_f64(0))
    } else {
        Scalar::int(t.dtype(), t.get_i64(0))
    })
}

/// Adds a constant of rank 0 and a float type.
pub(super) fn float_constant(s: &mut Sweep<'_>, dtype: DType, value: f64) -> Option<ValueId> {
    let t = scalar_tensor(Scalar::float(dtype, value))?;
    Some(s.constant(format!("{value}"), t))
}

/// The name of a node that stands for several: their distinct names in order, joined by `+`.
pub(super) fn join<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for n in names {
        for p in n.split('+') {
            if !p.is_empty() && !parts.contains(&p) {
                parts.push(p);
            }
        }
    }
    parts.join("+")
}

/// True if every dim is fixed to 1.
pub(super) fn all_ones<'d>(dims: impl IntoIterator<Item = &'d Dim>) -> bool {
    dims.into_iter().all(|d| d.fixed() == Some(1))
}
