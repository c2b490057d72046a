//! From symbol values to a schedule: shapes, views, tactics, memory.

use crate::error::RunError;
use crate::exec::{Base, Loc, Schedule, Step};
use crate::memory::{self, Request};
use crate::program::{Program, Role, Target};
use crate::strides;
use engraft_kernels::{Kernel, Operand, Problem, TensorDesc};
use engraft_network::{DType, Def, Dim, NodeId, Op, ValueId, ops::eval_shape};
use smallvec::SmallVec;
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

/// Total estimate below which a run is not worth waking threads for.
const SERIAL_NS: f64 = 20_000.0;

#[derive(Clone, Debug)]
struct Place {
    root: u32,
    /// In bytes from the root's start.
    offset: usize,
    desc: TensorDesc,
}

#[derive(Clone, Copy, Debug)]
struct Root {
    base: Base,
    /// Address of absolute roots.
    address: usize,
    bytes: usize,
    first: u32,
    last: u32,
}

struct Pending {
    kernel: Box<dyn Kernel>,
    inputs: SmallVec<[(u32, usize); 4]>,
    outputs: SmallVec<[(u32, usize); 1]>,
    node: NodeId,
    tactic: &'static str,
    /// Operand whose memory the result takes over.
    in_place: Option<usize>,
}

struct Planner<'a> {
    program: &'a Program,
    stage: u32,
    env: &'a [i64],
    threads: usize,
    /// By value index.
    places: Vec<Option<Place>>,
    /// By value index: the output of the network whose buffer the value is written to.
    output_of: Vec<Option<u32>>,
    roots: Vec<Root>,
    steps: Vec<Pending>,
    crossings: Vec<(u32, usize)>,
    cost_ns: f64,
}

/// Specializes stage `stage` of the program. Errors: impossible shapes under `env`.
pub(crate) fn specialize(
    program: &Program,
    stage: usize,
    env: &[i64],
    threads: usize,
) -> Result<Specialization, RunError> {
    let values = program.network.value_count();
    let mut planner = Planner {
        program,
        stage: stage as u32,
        env,
        threads,
        places: vec![None; values],
        output_of: vec![None; values],
        roots: Vec::with_capacity(program.stages[stage].nodes.len() + 8),
        steps: Vec::with_capacity(program.stages[stage].nodes.len()),
        crossings: Vec::new(),
        cost_ns: 0.0,
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
    Ok(planner.schedule(outputs))
}

impl Planner<'_> {
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
        self.roots.push(Root { base, address, bytes, first: u32::MAX, last: 0 });
        self.roots.len() as u32 - 1
    }

    fn dense_desc(&self, v: ValueId) -> Result<TensorDesc, RunError> {
        let ty = self.program.network.ty(v);
        let shape = eval_shape(&ty.shape, self.env).map_err(|e| RunError::Shape {
            node: self.program.network.value(v).name.clone(),
            reason: e.to_string(),
        })?;
        Ok(TensorDesc::dense(ty.dtype, &shape))
    }

    fn external_crossing(&self, k: u32) -> Base {
        let net = &self.program.network;
        Base::External((net.inputs().len() + net.outputs().len()) as u32 + k)
    }

    /// The place of a value that exists already, or comes from outside the stage.
    fn place(&mut self, v: ValueId) -> Result<Place, RunError> {
        if let Some(p) = &self.places[v.index()] {
            return Ok(p.clone());
        }
        let desc = self.dense_desc(v)?;
        let bytes = desc.dense_bytes();
        let root = match self.program.network.value(v).def {
            Def::Input(k) => self.root(Base::External(k), 0, bytes),
            Def::Constant(_) => {
                let address = self.program.constant(v).map_or(0, |t| t.bytes().as_ptr() as usize);
                self.root(Base::Absolute, address, bytes)
            }
            Def::Node { node, .. } => match self.program.crossing[v.index()] {
                Some(k) if self.program.node_stage[node.index()] < self.stage => {
                    self.root(self.external_crossing(k), 0, bytes)
                }
                _ => return Err(self.error(node, "its result is read before it is computed")),
            },
        };
        let place = Place { root, offset: 0, desc };
        self.places[v.index()] = Some(place.clone());
        Ok(place)
    }

    /// The place that a value of this stage will be written to.
    fn define(&mut self, v: ValueId) -> Result<Place, RunError> {
        if let Some(p) = &self.places[v.index()] {
            return Ok(p.clone());
        }
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
        self.places[v.index()] = Some(place.clone());
        Ok(place)
    }

    fn define_in_target(&mut self, v: ValueId, t: Target, desc: TensorDesc) -> Result<Place, RunError> {
        let program = self.program;
        let Some(node) = program.node(t.node) else { return Err(self.error(t.node, "the target is gone")) };
        let parent = self.define(node.outputs[0])?;
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
                let input = self.place(node.inputs[0])?;
                if let Some((desc, offset)) = strides::view(&node.op, &input.desc, self.env) {
                    let bytes = offset * (desc.dtype.bits() as isize / 8);
                    let offset = (input.offset as isize + bytes) as usize;
                    self.places[node.outputs[0].index()] = Some(Place { root: input.root, offset, desc });
                    return Ok(());
                }
                if matches!(node.op, Op::Reshape(_)) {
                    // Strided memory under a shape that no strides describe: copied, dense.
                    let out = self.define(node.outputs[0])?;
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
                Err(self.error(id, "it reaches outside its operand"))
            }
            Role::Concat => {
                let out = self.define(node.outputs[0])?;
                let Op::Concat(c) = &node.op else { return Err(self.error(id, "it is not a concat")) };
                let mut at = 0usize;
                for (i, v) in node.inputs.iter().enumerate() {
                    let part = self.place(*v)?;
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
                self.compute(id)
            }
        }
    }

    fn compute(&mut self, id: NodeId) -> Result<(), RunError> {
        let program = self.program;
        let Some(node) = program.node(id) else { return Ok(()) };
        let mut inputs: SmallVec<[Place; 4]> = SmallVec::new();
        for v in &node.inputs {
            inputs.push(self.place(*v)?);
        }
        let mut outputs: SmallVec<[Place; 1]> = SmallVec::new();
        for v in &node.outputs {
            outputs.push(self.define(*v)?);
        }
        let operands: SmallVec<[Operand<'_>; 4]> = inputs
            .iter()
            .zip(&node.inputs)
            .map(|(p, v)| Operand { desc: p.desc.clone(), constant: program.constant(*v) })
            .collect();
        let results: SmallVec<[TensorDesc; 1]> = outputs.iter().map(|p| p.desc.clone()).collect();
        let problem = Problem {
            op: &node.op,
            inputs: &operands,
            outputs: &results,
            threads: self.threads,
            isa: program.isa,
            env: self.env,
        };
        let Some((tactic, cost)) = program.choose(id, &problem) else {
            return Err(self.error(id, format!("no tactic takes `{}` at these strides", node.op.name())));
        };
        let kernel = tactic.prepare(&problem);
        let mut places: SmallVec<[(u32, usize); 4]> = SmallVec::new();
        for (i, p) in inputs.iter().enumerate() {
            let packed = operands[i].constant.and_then(|_| tactic.packing(&problem, i)).and_then(|name| {
                program
                    .packed
                    .get(&(id, i as u32))
                    .and_then(|v| v.iter().find(|x| x.packing == name).copied())
            });
            places.push(match packed {
                Some(x) => (self.root(Base::Absolute, x.address, 0), 0),
                None => (p.root, p.offset),
            });
        }
        let in_place = (0..inputs.len()).find(|&i| {
            let (a, b) = (&inputs[i], &outputs[0]);
            kernel.in_place(i)
                && a.desc.dtype == b.desc.dtype
                && a.desc.shape == b.desc.shape
                && a.desc.is_dense()
                && b.desc.is_dense()
                && a.offset == 0
                && b.offset == 0
                && (0..inputs.len()).all(|j| j == i || inputs[j].root != a.root)
        });
        self.push(
            kernel,
            places,
            outputs.iter().map(|p| (p.root, p.offset)).collect(),
            id,
            tactic.id(),
            in_place,
            cost,
        );
        Ok(())
    }

    fn copy(&mut self, node: NodeId, from: &Place, to: &Place) -> Result<(), RunError> {
        let program = self.program;
        let Some(op) = program.copy_ops.get(from.desc.rank()) else {
            return Err(self.error(node, format!("rank {} is too high for a copy", from.desc.rank())));
        };
        let operands = [Operand { desc: from.desc.clone(), constant: None }];
        let results = [to.desc.clone()];
        let problem = Problem {
            op,
            inputs: &operands,
            outputs: &results,
            threads: self.threads,
            isa: program.isa,
            env: self.env,
        };
        let Some((tactic, fit)) = engraft_kernels::catalog::best(&problem) else {
            return Err(self.error(node, "no tactic copies these strides"));
        };
        let kernel = tactic.prepare(&problem);
        self.push(
            kernel,
            SmallVec::from_slice(&[(from.root, from.offset)]),
            SmallVec::from_slice(&[(to.root, to.offset)]),
            node,
            tactic.id(),
            None,
            fit.cost_ns,
        );
        Ok(())
    }

    fn push(
        &mut self,
        kernel: Box<dyn Kernel>,
        inputs: SmallVec<[(u32, usize); 4]>,
        outputs: SmallVec<[(u32, usize); 1]>,
        node: NodeId,
        tactic: &'static str,
        in_place: Option<usize>,
        cost_ns: f64,
    ) {
        let step = self.steps.len() as u32;
        for (r, _) in inputs.iter().chain(&outputs) {
            let r = &mut self.roots[*r as usize];
            r.first = r.first.min(step);
            r.last = r.last.max(step);
        }
        self.cost_ns += cost_ns;
        self.steps.push(Pending { kernel, inputs, outputs, node, tactic, in_place });
    }

    /// Copies what the stage's outputs are where that could not be had in place; returns the outputs' shapes.
    fn finish_outputs(&mut self) -> Result<Vec<(u32, DType, SmallVec<[usize; 6]>)>, RunError> {
        let program = self.program;
        let net = &program.network;
        let mut outputs = Vec::new();
        for o in &program.stages[self.stage as usize].outputs {
            let v = net.outputs()[*o as usize];
            let from = self.place(v)?;
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

    fn schedule(mut self, outputs: Vec<(u32, DType, SmallVec<[usize; 6]>)>) -> Specialization {
        let n = self.roots.len();
        let mut alias: Vec<u32> = (0..n as u32).collect();
        for i in 0..self.steps.len() {
            let step = &mut self.steps[i];
            let Some(k) = step.in_place.take() else { continue };
            let from = alias[step.inputs[k].0 as usize];
            let to = step.outputs[0].0;
            let (a, b) = (self.roots[from as usize], self.roots[to as usize]);
            let others_read_it =
                step.inputs.iter().enumerate().any(|(j, (r, _))| j != k && alias[*r as usize] == from);
            if a.base == Base::Arena
                && b.base == Base::Arena
                && a.bytes == b.bytes
                && a.last == i as u32
                && b.first == i as u32
                && !others_read_it
            {
                alias[to as usize] = from;
                self.roots[from as usize].last = b.last;
                step.in_place = Some(k);
            }
        }
        // Aliases of aliases: roots are numbered in order of definition or earlier, so one pass is not enough in general.
        let resolve = |mut r: u32| {
            while alias[r as usize] != r {
                r = alias[r as usize];
            }
            r
        };
        let mut requests: Vec<Request> = Vec::with_capacity(n + self.steps.len());
        let mut slot: Vec<u32> = vec![u32::MAX; n];
        for r in 0..n {
            let root = self.roots[r];
            if root.base == Base::Arena && alias[r] == r as u32 && root.first != u32::MAX {
                slot[r] = requests.len() as u32;
                requests.push(Request { bytes: root.bytes, first: root.first, last: root.last });
            }
        }
        let first_workspace = requests.len();
        for (i, s) in self.steps.iter().enumerate() {
            requests.push(Request { bytes: s.kernel.workspace_bytes(), first: i as u32, last: i as u32 });
        }
        let (placements, arena_bytes) = memory::plan(&requests);
        let mut written: Vec<Option<u32>> = vec![None; n];
        let mut accessed: Vec<Option<u32>> = vec![None; n];
        let mut steps = Vec::with_capacity(self.steps.len());
        let roots = &self.roots;
        for (i, s) in self.steps.into_iter().enumerate() {
            let index = i as u32;
            let locate = |(r, offset): (u32, usize)| {
                let root = resolve(r);
                let at = match slot[root as usize] {
                    u32::MAX => roots[root as usize].address,
                    k => placements[k as usize].offset,
                };
                Loc { base: roots[root as usize].base, offset: at + offset }
            };
            let mut wait: Option<u32> = None;
            for (r, _) in &s.inputs {
                wait = wait.max(written[resolve(*r) as usize]);
            }
            for (r, _) in &s.outputs {
                let root = resolve(*r);
                if s.in_place.is_some() {
                    wait = wait.max(accessed[root as usize]);
                }
                if slot[root as usize] != u32::MAX {
                    wait = wait.max(placements[slot[root as usize] as usize].after);
                }
            }
            let workspace = placements[first_workspace + i];
            if s.kernel.workspace_bytes() > 0 {
                wait = wait.max(workspace.after);
            }
            for (r, _) in s.inputs.iter().chain(&s.outputs) {
                let root = resolve(*r) as usize;
                accessed[root] = accessed[root].max(Some(index));
            }
            for (r, _) in &s.outputs {
                let root = resolve(*r) as usize;
                written[root] = written[root].max(Some(index));
            }
            steps.push(Step {
                inputs: s.inputs.iter().map(|x| locate(*x)).collect(),
                outputs: s.outputs.iter().map(|x| locate(*x)).collect(),
                workspace: Loc { base: Base::Arena, offset: workspace.offset },
                kernel: s.kernel,
                node: s.node,
                tactic: s.tactic,
                wait,
            });
        }
        let threads = if self.cost_ns < SERIAL_NS { 1 } else { self.threads };
        Specialization {
            env: self.env.to_vec(),
            threads: self.threads as u32,
            last_used: AtomicU64::new(0),
            schedule: Schedule::new(steps, arena_bytes, threads),
            outputs,
            crossings: self.crossings,
        }
    }
}
