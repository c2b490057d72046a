//! From symbol values to a schedule: shapes, views, tactics, places.

use crate::arrange::{Pending, Root, arrange};
use crate::error::RunError;
use crate::exec::{Base, Schedule};
use crate::layer::Layer;
use crate::program::{Program, Role, Target};
use crate::strides;
use engraft_kernels::{Operand, Problem, TensorDesc};
use engraft_network::{DType, Def, Dim, Node, NodeId, Op, ValueId};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A stage made ready for one set of symbol values and a number of threads.
pub(crate) struct Specialization {
    pub env: Vec<i64>,
    pub threads: u32,
    /// For the bounded table's eviction.
    pub last_used: AtomicU64,
    pub schedule: Schedule,
    /// The network's outputs that the stage produces: position, type, shape.
    pub outputs: Vec<(u32, DType, SmallVec<[usize; 6]>)>,
    /// Buffers across stages that it fills: position, bytes.
    pub crossings: Vec<(u32, usize)>,
}

/// What sharing a run among threads costs: waking them, and meeting after every phase of a step.
const REGION_NS: f64 = 10_000.0;
const MEETING_NS: f64 = 500.0;

#[derive(Clone, Debug)]
struct Place {
    root: u32,
    /// In bytes from the root's start.
    offset: usize,
    desc: TensorDesc,
}

struct Planner<'a> {
    program: &'a Program,
    stage: u32,
    env: &'a [i64],
    threads: usize,
    /// By node index: what an earlier specialization made of the node.
    earlier: Vec<Option<&'a Arc<Layer>>>,
    /// By value index.
    places: Vec<Option<Place>>,
    /// By value index: the output of the network whose buffer the value is written to.
    output_of: Vec<Option<u32>>,
    roots: Vec<Root>,
    steps: Vec<Pending>,
    crossings: Vec<(u32, usize)>,
    /// What threads are expected to save by sharing tasks, less what meeting costs them.
    gain_ns: f64,
}

/// Specializes stage `stage` of the program. What `earlier`, a specialization of the same stage for as many threads, made of
/// nodes whose operands look the same is shared with it. Errors: impossible shapes under `env`.
pub(crate) fn specialize(
    program: &Program,
    stage: usize,
    env: &[i64],
    threads: usize,
    earlier: Option<&Specialization>,
) -> Result<Specialization, RunError> {
    let values = program.network.value_count();
    let mut layers = vec![None; program.network.node_bound()];
    for step in earlier.iter().flat_map(|e| &e.schedule.steps) {
        if step.layer.of_node {
            layers[step.layer.node.index()] = Some(&step.layer);
        }
    }
    let mut planner = Planner {
        program,
        stage: stage as u32,
        env,
        threads,
        earlier: layers,
        places: vec![None; values],
        output_of: vec![None; values],
        roots: Vec::with_capacity(program.stages[stage].nodes.len() + 8),
        steps: Vec::with_capacity(program.stages[stage].nodes.len()),
        crossings: Vec::new(),
        gain_ns: -REGION_NS,
    };
    for (node, a) in &program.stages[stage].assumptions {
        if !a.holds(env) {
            let value = |d: &Dim| d.try_eval(env).map_or_else(|| "unknown".to_owned(), |n| n.to_string());
            let reason = format!("sizes do not fit: {} against {}", value(&a.dim), value(&a.other));
            return Err(planner.error(*node, reason));
        }
    }
    planner.assign_outputs();
    for id in &program.stages[stage].nodes {
        planner.node(*id)?;
    }
    let outputs = planner.finish_outputs()?;
    let threads_worth_it = if planner.gain_ns < 0.0 { 1 } else { threads };
    Ok(Specialization {
        env: env.to_vec(),
        threads: threads as u32,
        last_used: AtomicU64::new(0),
        schedule: arrange(planner.roots, planner.steps, threads_worth_it),
        outputs,
        crossings: planner.crossings,
    })
}

impl<'a> Planner<'a> {
    fn error(&self, node: NodeId, reason: impl Into<String>) -> RunError {
        let node = self.program.node(node).map_or_else(String::new, |n| n.name.clone());
        RunError::Shape { node, reason: reason.into() }
    }

    /// Values whose dense memory is an output's are written there at once.
    fn assign_outputs(&mut self) {
        let net = &self.program.network;
        for o in &self.program.stages[self.stage as usize].outputs {
            let mut v = net.outputs()[*o as usize];
            while let Def::Node { node, .. } = net.value(v).def {
                if self.program.node_stage[node.index()] != self.stage
                    || self.program.crossing[v.index()].is_some()
                {
                    break;
                }
                match (self.program.roles[node.index()], self.program.node(node)) {
                    (Role::View, Some(n)) if matches!(n.op, Op::Reshape(_)) => v = n.inputs[0],
                    (Role::Compute | Role::Concat, _)
                        if self.program.targets[v.index()].is_none()
                            && self.output_of[v.index()].is_none() =>
                    {
                        self.output_of[v.index()] = Some(*o);
                        break;
                    }
                    _ => break,
                }
            }
        }
    }

    fn root(&mut self, base: Base, address: usize, bytes: usize) -> u32 {
        self.roots.push(Root::new(base, address, bytes));
        self.roots.len() as u32 - 1
    }

    fn dense_desc(&self, v: ValueId) -> Result<TensorDesc, RunError> {
        let ty = self.program.network.ty(v);
        let mut shape: SmallVec<[usize; 6]> = SmallVec::new();
        for d in &ty.shape {
            let n = d.eval(self.env);
            shape.push(usize::try_from(n).map_err(|_| RunError::Shape {
                node: self.program.network.value(v).name.clone(),
                reason: format!("dimension {d} is {n}"),
            })?);
        }
        Ok(TensorDesc::dense(ty.dtype, &shape))
    }

    fn external_crossing(&self, k: u32) -> Base {
        let net = &self.program.network;
        Base::External((net.inputs().len() + net.outputs().len()) as u32 + k)
    }

    /// The place of a value that exists already, or comes from outside the stage.
    fn place(&mut self, v: ValueId) -> Result<&Place, RunError> {
        let root = self.describe(v)?.root;
        if let Some(t) = self.program.constant(v) {
            self.roots[root as usize].address = t.bytes().as_ptr() as usize;
        }
        Ok(self.at(v))
    }

    /// [`Planner::place`], but that of a constant may lack its address: a plan need not hold the plain bytes of a constant
    /// that is read packed, and getting them takes time and memory.
    fn describe(&mut self, v: ValueId) -> Result<&Place, RunError> {
        if self.places[v.index()].is_none() {
            let desc = self.dense_desc(v)?;
            let bytes = desc.dense_bytes();
            let root = match self.program.network.value(v).def {
                Def::Input(k) => self.root(Base::External(k), 0, bytes),
                Def::Constant(_) => self.root(Base::Absolute, 0, bytes),
                Def::Node { node, .. } => match self.program.crossing[v.index()] {
                    Some(k) if self.program.node_stage[node.index()] < self.stage => {
                        self.root(self.external_crossing(k), 0, bytes)
                    }
                    _ => return Err(self.error(node, "its result is read before it is computed")),
                },
            };
            self.places[v.index()] = Some(Place { root, offset: 0, desc });
        }
        Ok(self.at(v))
    }

    /// The place that a value of this stage will be written to.
    fn define(&mut self, v: ValueId) -> Result<&Place, RunError> {
        if self.places[v.index()].is_none() {
            let desc = self.dense_desc(v)?;
            let place = match self.program.targets[v.index()] {
                Some(t) => self.define_in_target(v, t, desc)?,
                None => {
                    let bytes = desc.dense_bytes();
                    let base = if let Some(o) = self.output_of[v.index()] {
                        Base::External(self.program.network.inputs().len() as u32 + o)
                    } else if let Some(k) = self.program.crossing[v.index()] {
                        self.crossings.push((k, bytes));
                        self.external_crossing(k)
                    } else {
                        Base::Arena
                    };
                    Place { root: self.root(base, 0, bytes), offset: 0, desc }
                }
            };
            self.places[v.index()] = Some(place);
        }
        Ok(self.at(v))
    }

    /// The place of a value that has one.
    fn at(&self, v: ValueId) -> &Place {
        self.places[v.index()].as_ref().expect("the value has a place")
    }

    fn define_in_target(&mut self, v: ValueId, t: Target, desc: TensorDesc) -> Result<Place, RunError> {
        let program = self.program;
        let Some(node) = program.node(t.node) else { return Err(self.error(t.node, "the target is gone")) };
        let parent = self.define(node.outputs[0])?.clone();
        match &node.op {
            Op::Concat(c) => {
                let mut before = 0usize;
                for u in &node.inputs[..t.operand as usize] {
                    let d = program.network.ty(*u).shape[c.axis].eval(self.env);
                    before += usize::try_from(d)
                        .map_err(|_| self.error(t.node, format!("an operand has size {d}")))?;
                }
                let step = parent.desc.strides[c.axis] * before as isize;
                Ok(Place {
                    root: parent.root,
                    offset: parent.offset + step as usize * (desc.dtype.bits() / 8),
                    desc: TensorDesc { strides: parent.desc.strides.clone(), ..desc },
                })
            }
            Op::Transpose(p) => {
                let mut strides = desc.strides.clone();
                for (i, a) in p.perm.iter().enumerate() {
                    strides[*a] = parent.desc.strides[i];
                }
                Ok(Place { root: parent.root, offset: parent.offset, desc: TensorDesc { strides, ..desc } })
            }
            _ => Err(self.error(t.node, format!("`{}` cannot be a target of `{v}`", node.op.name()))),
        }
    }

    fn node(&mut self, id: NodeId) -> Result<(), RunError> {
        let program = self.program;
        let Some(node) = program.node(id) else { return Ok(()) };
        match program.roles[id.index()] {
            Role::Dynamic => Ok(()),
            Role::View => {
                let input = self.place(node.inputs[0])?.clone();
                if let Some((desc, offset)) = strides::view(&node.op, &input.desc, self.env) {
                    let bytes = offset * (desc.dtype.bits() as isize / 8);
                    let offset = (input.offset as isize + bytes) as usize;
                    self.places[node.outputs[0].index()] = Some(Place { root: input.root, offset, desc });
                    return Ok(());
                }
                if matches!(node.op, Op::Reshape(_)) {
                    // Strided memory under a shape that no strides describe: copied, dense.
                    let out = self.define(node.outputs[0])?.clone();
                    if input.desc.count() != out.desc.count() {
                        return Err(self.error(
                            id,
                            format!(
                                "{:?} cannot be reshaped to {:?}",
                                &input.desc.shape[..],
                                &out.desc.shape[..]
                            ),
                        ));
                    }
                    let whole = Place { desc: TensorDesc::dense(input.desc.dtype, &input.desc.shape), ..out };
                    return self.copy(id, &input, &whole);
                }
                // An impossible size has a better reason.
                self.dense_desc(node.outputs[0])?;
                Err(self.error(id, "it reaches outside its operand"))
            }
            Role::Concat => {
                let out = self.define(node.outputs[0])?.clone();
                let Op::Concat(c) = &node.op else { return Err(self.error(id, "it is not a concat")) };
                let mut at = 0usize;
                for (i, v) in node.inputs.iter().enumerate() {
                    let part = self.place(*v)?.clone();
                    let size = part.desc.shape[c.axis];
                    let target = Target { node: id, operand: i as u32 };
                    if program.targets[v.index()] != Some(target) && part.desc.count() > 0 {
                        let offset =
                            (out.desc.strides[c.axis] * at as isize) as usize * (out.desc.dtype.bits() / 8);
                        let desc = TensorDesc { shape: part.desc.shape.clone(), ..out.desc.clone() };
                        let to = Place { root: out.root, offset: out.offset + offset, desc };
                        self.copy(id, &part, &to)?;
                    }
                    at += size;
                }
                if at != out.desc.shape[c.axis] {
                    return Err(self.error(id, "its operands' sizes do not add up"));
                }
                Ok(())
            }
            Role::Compute => {
                if let Op::Transpose(_) = node.op
                    && program.targets[node.inputs[0].index()] == Some(Target { node: id, operand: 0 })
                {
                    // The operand was written in the result's order.
                    self.define(node.outputs[0])?;
                    return Ok(());
                }
                self.compute(id, node)
            }
        }
    }

    fn compute(&mut self, id: NodeId, node: &'a Node) -> Result<(), RunError> {
        for v in &node.inputs {
            self.describe(*v)?;
        }
        for v in &node.outputs {
            self.define(*v)?;
        }
        let layer = match self.unchanged(id, node) {
            Some(layer) => layer,
            None => Arc::new(self.prepare(id, node)?),
        };
        let mut inputs: SmallVec<[(u32, usize); 4]> = SmallVec::new();
        for (v, packed) in node.inputs.iter().zip(&layer.packed) {
            inputs.push(match packed {
                Some(address) => (self.root(Base::Absolute, *address, 0), 0),
                None => {
                    let p = self.place(*v)?;
                    (p.root, p.offset)
                }
            });
        }
        let outputs = node.outputs.iter().map(|v| {
            let p = self.at(*v);
            (p.root, p.offset)
        });
        let outputs: SmallVec<[(u32, usize); 1]> = outputs.collect();
        let whole = |v: ValueId| self.at(v).offset == 0;
        let in_place = (0..inputs.len()).find(|&i| {
            layer.in_place[i]
                && whole(node.inputs[i])
                && whole(node.outputs[0])
                && (0..inputs.len())
                    .all(|j| j == i || self.at(node.inputs[j]).root != self.at(node.inputs[i]).root)
        });
        self.push(layer, inputs, outputs, in_place);
        Ok(())
    }

    /// What an earlier specialization made of the node, if its operands and results look the same.
    fn unchanged(&self, id: NodeId, node: &Node) -> Option<Arc<Layer>> {
        let layer = self.earlier[id.index()]?;
        let same = |values: &[ValueId], descs: &[TensorDesc]| {
            values.iter().zip(descs).all(|(v, d)| self.at(*v).desc == *d)
        };
        let unchanged = !self.program.reads_symbols[id.index()]
            && same(&node.inputs, &layer.inputs)
            && same(&node.outputs, &layer.outputs);
        unchanged.then(|| layer.clone())
    }

    fn prepare(&self, id: NodeId, node: &'a Node) -> Result<Layer, RunError> {
        let program = self.program;
        let operands: SmallVec<[Operand<'_>; 4]> = node
            .inputs
            .iter()
            .map(|v| Operand { desc: self.at(*v).desc.clone(), constant: program.constant(*v) })
            .collect();
        let results: SmallVec<[TensorDesc; 1]> =
            node.outputs.iter().map(|v| self.at(*v).desc.clone()).collect();
        let problem = self.problem(&node.op, &operands, &results);
        let Some(choice) = program.choose(id, &problem) else {
            return Err(self.error(id, format!("no tactic takes `{}` at these strides", node.op.name())));
        };
        let packed = operands.iter().enumerate().map(|(i, operand)| {
            let name = operand.constant.and_then(|_| choice.tactic.packing(&problem, i))?;
            let list = program.packed.get(&(id, i as u32))?;
            list.iter().find(|x| x.packing == name).map(|x| x.address)
        });
        let packed = packed.collect();
        let descs = operands.into_iter().map(|o| o.desc).collect();
        Ok(Layer { packed, ..Layer::new(id, choice, descs, results) })
    }

    fn problem<'p>(&self, op: &'p Op, inputs: &'p [Operand<'p>], outputs: &'p [TensorDesc]) -> Problem<'p>
    where
        'a: 'p,
    {
        Problem {
            op,
            inputs,
            outputs,
            threads: self.threads,
            isa: self.program.isa,
            precision: self.program.precision,
            env: self.env,
        }
    }

    fn copy(&mut self, node: NodeId, from: &Place, to: &Place) -> Result<(), RunError> {
        let program = self.program;
        let Some(op) = program.copy_ops.get(from.desc.rank()) else {
            return Err(self.error(node, format!("rank {} is too high for a copy", from.desc.rank())));
        };
        let operands = [Operand { desc: from.desc.clone(), constant: None }];
        let results = [to.desc.clone()];
        let problem = self.problem(op, &operands, &results);
        let Some(choice) = program.choose_copy(&problem) else {
            return Err(self.error(node, "no tactic copies these strides"));
        };
        let descs = operands.into_iter().map(|o| o.desc).collect();
        let layer = Layer { of_node: false, ..Layer::new(node, choice, descs, results.into()) };
        self.push(
            Arc::new(layer),
            SmallVec::from_slice(&[(from.root, from.offset)]),
            SmallVec::from_slice(&[(to.root, to.offset)]),
            None,
        );
        Ok(())
    }

    fn push(
        &mut self,
        layer: Arc<Layer>,
        inputs: SmallVec<[(u32, usize); 4]>,
        outputs: SmallVec<[(u32, usize); 1]>,
        in_place: Option<usize>,
    ) {
        let step = self.steps.len() as u32;
        for (r, _) in inputs.iter().chain(&outputs) {
            self.roots[*r as usize].used_by(step);
        }
        let phases = layer.kernel.phases();
        let shares = phases.iter().copied().max().unwrap_or(1).min(self.threads).max(1);
        self.gain_ns += layer.cost_ns * (shares - 1) as f64 - MEETING_NS * phases.len() as f64;
        self.steps.push(Pending { layer, inputs, outputs, in_place });
    }

    /// Copies what the stage's outputs are where that could not be had in place; returns the outputs' shapes.
    fn finish_outputs(&mut self) -> Result<Vec<(u32, DType, SmallVec<[usize; 6]>)>, RunError> {
        let program = self.program;
        let net = &program.network;
        let mut outputs = Vec::new();
        for o in &program.stages[self.stage as usize].outputs {
            let v = net.outputs()[*o as usize];
            let from = self.place(v)?.clone();
            outputs.push((*o, from.desc.dtype, from.desc.shape.clone()));
            let base = Base::External(net.inputs().len() as u32 + o);
            let there =
                self.roots[from.root as usize].base == base && from.offset == 0 && from.desc.is_dense();
            if !there && from.desc.count() > 0 {
                let node = match net.value(v).def {
                    Def::Node { node, .. } => node,
                    _ => NodeId(u32::MAX),
                };
                let desc = TensorDesc::dense(from.desc.dtype, &from.desc.shape);
                let root = self.root(base, 0, desc.dense_bytes());
                self.copy(node, &from, &Place { root, offset: 0, desc })?;
            }
        }
        Ok(outputs)
    }
}
