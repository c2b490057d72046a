//! What an engine knows of its network before any shape is known: stages, which nodes are views, which results are
//! written straight into another value's buffer, and which tactics are in question for each node.

use crate::error::PlanError;
use crate::layer::Choice;
use crate::strides;
use engraft_kernels::{Class, Isa, Operand, Precision, Problem, Tactic, TensorDesc, catalog};
use engraft_network::ops::Assumption;
use engraft_network::{
    DType, Def, Dim, Network, Node, NodeId, Op, SymbolId, SymbolSource, Tensor, TensorType, ValueId, ops,
};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// How a node's results come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// A kernel computes them.
    Compute,
    /// The result is the operand's memory under another shape or other strides.
    View,
    /// Every operand is written, or copied, into its part of the result.
    Concat,
    /// The result's size depends on data: evaluated at the end of a stage.
    Dynamic,
}

/// A value that is written straight into (a part of, or a permutation of) the result of `node`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub node: NodeId,
    pub operand: u32,
}

/// Nodes that run under one set of symbol values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stage {
    /// In execution order; no dynamic ones.
    pub nodes: Vec<NodeId>,
    /// Run when the others are done.
    pub dynamic: Vec<NodeId>,
    /// Symbols that become known then, besides the sizes of the dynamic nodes' results.
    pub elements: Vec<(SymbolId, ValueId, u32)>,
    /// Outputs of the network that this stage produces.
    pub outputs: Vec<u32>,
    /// What the types of its nodes' results take for granted of the sizes.
    pub assumptions: Vec<(NodeId, Assumption)>,
}

/// A tactic that was found fastest for a node at some size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tuned {
    pub node: NodeId,
    /// Logarithm of the node's number of result elements when it was timed.
    pub size: f64,
    pub threads: u32,
    pub tactic: String,
    pub version: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedOperand {
    pub packing: &'static str,
    pub address: usize,
}

/// See the module.
pub(crate) struct Program {
    pub network: Network,
    pub isa: Isa,
    pub precision: Precision,
    pub stages: Vec<Stage>,
    /// By node index.
    pub roles: Vec<Role>,
    /// By node index: whether the operator has sizes of its own that depend on symbols.
    pub reads_symbols: Vec<bool>,
    /// By value index.
    pub targets: Vec<Option<Target>>,
    /// By node index: the stage that a node runs in.
    pub node_stage: Vec<u32>,
    /// By value index: position among the buffers that live across stages.
    pub crossing: Vec<Option<u32>>,
    pub crossings: usize,
    /// By node index: tactics in question, in catalog order; the reference only where nothing else is.
    pub shortlist: Vec<SmallVec<[&'static dyn Tactic; 4]>>,
    /// By node index.
    pub tuned: Vec<SmallVec<[(f64, u32, &'static dyn Tactic); 1]>>,
    pub packed: FxHashMap<(NodeId, u32), SmallVec<[PackedOperand; 2]>>,
    /// By rank: the identity transposition, which stands for a copy between layouts.
    pub copy_ops: Vec<Op>,
    /// Tactics that copy.
    copy_rows: Vec<&'static dyn Tactic>,
    /// Owners of the memory that `packed` points into.
    pub keep_alive: Vec<Box<dyn std::any::Any + Send + Sync>>,
}

/// Highest rank that copies are prepared for.
const MAX_RANK: usize = 16;

impl Program {
    /// Derives stages, and shortlists from the catalog as it stands. Roles and targets are given (from the plan) or
    /// decided with [`Program::decide_layout`].
    pub(crate) fn new(network: Network, isa: Isa, precision: Precision) -> Result<Program, PlanError> {
        let n = network.node_bound();
        let mut p = Program {
            isa,
            precision,
            stages: Vec::new(),
            roles: vec![Role::Compute; n],
            reads_symbols: vec![false; n],
            targets: vec![None; network.value_count()],
            node_stage: vec![0; n],
            crossing: vec![None; network.value_count()],
            crossings: 0,
            shortlist: vec![SmallVec::new(); n],
            tuned: vec![SmallVec::new(); n],
            packed: FxHashMap::default(),
            copy_ops: (0..=MAX_RANK).map(|r| Op::from(ops::Transpose { perm: (0..r).collect() })).collect(),
            copy_rows: Vec::new(),
            keep_alive: Vec::new(),
            network,
        };
        p.find_stages()?;
        p.find_assumptions()?;
        p.fill_shortlists();
        Ok(p)
    }

    fn find_assumptions(&mut self) -> Result<(), PlanError> {
        let net = &self.network;
        for stage in &mut self.stages {
            let mut seen = FxHashSet::default();
            for id in &stage.nodes {
                let Some(node) = net.node(*id) else { continue };
                let operands: SmallVec<[&TensorType; 4]> = node.inputs.iter().map(|v| net.ty(*v)).collect();
                let mut own = |output: u32, axis: u32| {
                    let v = node.outputs.get(output as usize).map(|v| net.ty(*v));
                    v.and_then(|ty| ty.shape.get(axis as usize).cloned()).unwrap_or(Dim::Fixed(0))
                };
                let inferred = node.op.infer_with_assumptions(&operands, &mut own);
                let (types, mut assumptions) = inferred.map_err(|e| PlanError::Inconsistent {
                    what: format!("node `{}`", node.name),
                    reason: e.to_string(),
                })?;
                // A result may be declared more telling than it is inferred.
                for (ty, v) in types.iter().zip(&node.outputs) {
                    for (dim, other) in ty.shape.iter().zip(&net.ty(*v).shape).filter(|(a, b)| a != b) {
                        let (dim, other) = (dim.clone(), other.clone());
                        assumptions.push(Assumption { dim, other, or_one: false });
                    }
                }
                for a in assumptions {
                    if seen.insert(a.clone()) {
                        stage.assumptions.push((*id, a));
                    }
                }
            }
        }
        Ok(())
    }

    fn find_stages(&mut self) -> Result<(), PlanError> {
        let net = &self.network;
        // A symbol's stage: that of the node that tells its value, plus one. Nodes are visited in topological order, so
        // the telling node has been seen unless the network is broken.
        let mut symbol_stage: Vec<Option<u32>> = net
            .symbols()
            .iter()
            .map(|s| match s.source {
                SymbolSource::InputDim { .. } | SymbolSource::InputElement { .. } => Some(0),
                SymbolSource::Data { .. } | SymbolSource::DataElement { .. } => None,
            })
            .collect();
        // Elements that no shape depends on any more end no stage.
        let mentioned = net.mentioned_symbols();
        let mut told: FxHashMap<NodeId, Vec<SymbolId>> = FxHashMap::default();
        for (i, s) in net.symbols().iter().enumerate() {
            match s.source {
                SymbolSource::DataElement { .. } if !mentioned[i] => {}
                SymbolSource::Data { node, .. } | SymbolSource::DataElement { node, .. } => {
                    told.entry(node).or_default().push(SymbolId(i as u32));
                }
                SymbolSource::InputDim { .. } | SymbolSource::InputElement { .. } => {}
            }
        }
        let mut max_stage = 0u32;
        let mut roles = vec![Role::Compute; net.node_bound()];
        let mut reads_symbols = vec![false; net.node_bound()];
        let mut node_stage = vec![0u32; net.node_bound()];
        let order: Vec<NodeId> = net.nodes().map(|(id, _)| id).collect();
        for id in &order {
            let Some(node) = net.node(*id) else { continue };
            let own: Vec<SymbolId> = told.get(id).cloned().unwrap_or_default();
            let sizes: Vec<SymbolId> = own
                .iter()
                .copied()
                .filter(|s| matches!(net.symbols()[s.0 as usize].source, SymbolSource::Data { .. }))
                .collect();
            let mut stage = 0;
            for v in &node.inputs {
                if let Def::Node { node: p, .. } = net.value(*v).def {
                    let after = u32::from(roles[p.index()] == Role::Dynamic);
                    stage = stage.max(node_stage[p.index()] + after);
                }
            }
            let mut op = node.op.clone();
            let mut op_dims: Vec<Dim> = Vec::new();
            op.map_dims(&mut |d| {
                op_dims.push(d.clone());
                d.clone()
            });
            reads_symbols[id.index()] = op_dims.iter().any(|d| d.fixed().is_none());
            let shapes = node.inputs.iter().chain(&node.outputs).flat_map(|v| net.ty(*v).shape.iter());
            let unknown = latest_stage(shapes.chain(op_dims.iter()), &sizes, &symbol_stage, &mut stage);
            if let Some(s) = unknown {
                return Err(PlanError::Inconsistent {
                    what: format!("node `{}`", node.name),
                    reason: format!(
                        "symbol `{}` is used before it is known",
                        net.symbols()[s.0 as usize].name
                    ),
                });
            }
            node_stage[id.index()] = stage;
            if !sizes.is_empty() {
                roles[id.index()] = Role::Dynamic;
            }
            max_stage = max_stage.max(stage + u32::from(!own.is_empty()));
            for s in own {
                symbol_stage[s.0 as usize] = Some(stage + 1);
            }
        }
        let mut stages = vec![Stage::default(); max_stage as usize + 1];
        for id in &order {
            let stage = &mut stages[node_stage[id.index()] as usize];
            if roles[id.index()] == Role::Dynamic { stage.dynamic.push(*id) } else { stage.nodes.push(*id) }
        }
        for (i, s) in net.symbols().iter().enumerate() {
            if let SymbolSource::DataElement { node, output, index } = s.source
                && mentioned[i]
                && let Some(n) = net.node(node)
            {
                let stage = &mut stages[node_stage[node.index()] as usize];
                stage.elements.push((SymbolId(i as u32), n.outputs[output as usize], index));
            }
        }
        let stage_of_value = |v: ValueId| match net.value(v).def {
            Def::Node { node, .. } => Some(node_stage[node.index()]),
            _ => None,
        };
        for (i, v) in net.outputs().iter().enumerate() {
            // The result of a dynamic node, like inputs and constants, is copied out by the stage after it.
            let stage = match net.value(*v).def {
                Def::Node { node, .. } => {
                    node_stage[node.index()] + u32::from(roles[node.index()] == Role::Dynamic)
                }
                _ => 0,
            };
            stages[(stage as usize).min(max_stage as usize)].outputs.push(i as u32);
        }
        // Values that a later stage reads, and all that dynamic nodes touch, live in buffers of their own.
        let mut crossing = vec![None; net.value_count()];
        let mut crossings = 0u32;
        let mut cross = |v: ValueId| {
            if crossing[v.index()].is_none() {
                crossing[v.index()] = Some(crossings);
                crossings += 1;
            }
        };
        for id in &order {
            let Some(node) = net.node(*id) else { continue };
            let dynamic = roles[id.index()] == Role::Dynamic;
            for v in &node.inputs {
                if stage_of_value(*v).is_some_and(|s| s < node_stage[id.index()] || dynamic) {
                    cross(*v);
                }
            }
            if dynamic {
                node.outputs.iter().for_each(|v| cross(*v));
            }
        }
        for (k, stage) in stages.iter().enumerate() {
            for (_, v, _) in &stage.elements {
                cross(*v);
            }
            for o in &stage.outputs {
                let v = net.outputs()[*o as usize];
                if stage_of_value(v).is_some_and(|s| (s as usize) < k) {
                    cross(v);
                }
            }
        }
        self.crossings = crossings as usize;
        self.crossing = crossing;
        self.stages = stages;
        self.roles = roles;
        self.reads_symbols = reads_symbols;
        self.node_stage = node_stage;
        Ok(())
    }

    /// Whether roles and targets are such that a specialization can follow them. Errors: what is wrong.
    pub(crate) fn check_layout(&self) -> Result<(), String> {
        for (id, node) in self.network.nodes() {
            let fits = match self.roles[id.index()] {
                Role::Compute | Role::Dynamic => true,
                Role::View => strides::is_view(&node.op),
                Role::Concat => matches!(node.op, Op::Concat(_)),
            };
            if !fits {
                return Err(format!(
                    "node `{}` ({}) cannot be a {:?}",
                    node.name,
                    node.op.name(),
                    self.roles[id.index()]
                ));
            }
        }
        for (i, t) in self.targets.iter().enumerate() {
            let Some(t) = t else { continue };
            let v = ValueId(i as u32);
            let fits = self.node(t.node).is_some_and(|n| {
                let role = self.roles[t.node.index()];
                n.inputs.get(t.operand as usize) == Some(&v)
                    && self.crossing[i].is_none()
                    && match n.op {
                        Op::Concat(_) => role == Role::Concat,
                        Op::Transpose(_) => role == Role::Compute && t.operand == 0,
                        _ => false,
                    }
            });
            let produced = match self.network.value(v).def {
                Def::Node { node, .. } => {
                    matches!(self.roles[node.index()], Role::Compute | Role::Concat)
                        && self.node_stage[node.index()] == self.node_stage[t.node.index()]
                }
                _ => false,
            };
            if !fits || !produced {
                return Err(format!("value {v} cannot be written into the result of {}", t.node));
            }
        }
        Ok(())
    }

    /// A cheap filter by operator: rows that could ever take a node are found once with its representative problem.
    fn fill_shortlists(&mut self) {
        let env = self.network.representative_env();
        for k in 0..self.stages.len() {
            for id in self.stages[k].nodes.clone() {
                let fits = self.with_dense_problem(id, &env, 1, |p| {
                    let rows = catalog::cpu().iter().copied();
                    rows.filter(|t| t.accepts(p).is_ok()).collect::<SmallVec<[_; 4]>>()
                });
                let all = fits.unwrap_or_default();
                let superseded = |t: &&'static dyn Tactic| {
                    all.iter().any(|better| catalog::supersedes(*better, *t) || (*better).class() < t.class())
                };
                self.shortlist[id.index()] = all.iter().copied().filter(|t| !superseded(t)).collect();
            }
        }
        let dense = TensorDesc::dense(DType::F32, &[2, 3]);
        let operand = [Operand { desc: dense.clone(), constant: None }];
        let (op, outputs) = (&self.copy_ops[2], &[dense]);
        let p = Problem {
            op,
            inputs: &operand,
            outputs,
            threads: 1,
            isa: self.isa,
            precision: self.precision,
            env: &env,
        };
        let copies = |t: &&'static dyn Tactic| t.class() == Class::Optimized && t.accepts(&p).is_ok();
        self.copy_rows = catalog::cpu().iter().copied().filter(copies).collect();
    }

    /// Takes tactics off the shortlists that want constants in a packing which the plan does not hold.
    pub(crate) fn drop_unpacked(&mut self) {
        let env = self.network.representative_env();
        let ids: Vec<NodeId> = self.network.nodes().map(|(id, _)| id).collect();
        for id in ids {
            let mut list = std::mem::take(&mut self.shortlist[id.index()]);
            if list.len() > 1 {
                self.with_dense_problem(id, &env, 1, |p| list.retain(|t| self.packings_at_hand(id, *t, p)));
            }
            self.shortlist[id.index()] = list;
        }
    }

    /// The kernel for a copy between layouts.
    pub(crate) fn choose_copy(&self, p: &Problem<'_>) -> Option<Choice> {
        let best = catalog::best_among(&self.copy_rows, p).or_else(|| catalog::best(p));
        best.map(|(tactic, fit)| Choice { tactic, cost_ns: fit.cost_ns, kernel: tactic.prepare(p) })
    }

    /// [`with_dense_problem`] of the program's network.
    pub(crate) fn with_dense_problem<R>(
        &self,
        id: NodeId,
        env: &[i64],
        threads: usize,
        f: impl FnOnce(&Problem<'_>) -> R,
    ) -> Option<R> {
        with_dense_problem(&self.network, id, env, (threads, self.isa, self.precision), f)
    }

    /// Whether the plan holds every packing that `tactic` wants for the problem's constants.
    pub(crate) fn packings_at_hand(&self, id: NodeId, tactic: &dyn Tactic, p: &Problem<'_>) -> bool {
        p.inputs.iter().enumerate().all(|(i, o)| {
            o.constant.is_none()
                || tactic.packing(p, i).is_none_or(|name| {
                    self.packed.get(&(id, i as u32)).is_some_and(|v| v.iter().any(|x| x.packing == name))
                })
        })
    }

    /// The kernel for a concrete problem: of the tuned tactic of the nearest size, else of the cheapest by estimate.
    pub(crate) fn choose(&self, id: NodeId, p: &Problem<'_>) -> Option<Choice> {
        let usable = |t: &'static dyn Tactic| {
            t.accepts(p).ok().filter(|_| self.packings_at_hand(id, t, p)).map(|fit| (t, fit.cost_ns))
        };
        let made = |tactic: &'static dyn Tactic| {
            let (fit, kernel) = tactic.try_prepare(p).ok()?;
            let choice = Choice { tactic, cost_ns: fit.cost_ns, kernel };
            self.packings_at_hand(id, tactic, p).then_some(choice)
        };
        let tuned = &self.tuned[id.index()];
        if !tuned.is_empty() {
            let size = problem_size(p);
            let nearest = tuned
                .iter()
                .min_by(|a, b| distance(a, size, p.threads).total_cmp(&distance(b, size, p.threads)));
            if let Some((_, _, t)) = nearest
                && let Some(found) = made(*t)
            {
                return Some(found);
            }
        }
        let shortlist = &self.shortlist[id.index()];
        // Most nodes have one optimized tactic, which need not compete.
        let mut optimized = shortlist.iter().filter(|t| t.class() == Class::Optimized);
        if let (Some(only), None) = (optimized.next(), optimized.next())
            && let Some(found) = made(*only)
        {
            return Some(found);
        }
        let best_of = |rows: &[&'static dyn Tactic]| {
            rows.iter().copied().filter_map(usable).min_by(|a, b| {
                let order = |(t, cost): &(&dyn Tactic, f64)| (t.class() == Class::Reference, *cost);
                order(a).partial_cmp(&order(b)).unwrap_or(std::cmp::Ordering::Equal)
            })
        };
        // Strides that none of them reads: ask the whole catalog before giving up.
        let best = best_of(shortlist).or_else(|| best_of(catalog::cpu()));
        best.map(|(tactic, cost_ns)| Choice { tactic, cost_ns, kernel: tactic.prepare(p) })
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.network.node(id)
    }

    pub(crate) fn constant(&self, v: ValueId) -> Option<&Tensor> {
        self.network.constant(v)
    }
}

/// Calls `f` with the problem of node `id` under `env`, everything dense. `None` if a shape is impossible under `env`.
pub(crate) fn with_dense_problem<R>(
    network: &Network,
    id: NodeId,
    env: &[i64],
    (threads, isa, precision): (usize, Isa, Precision),
    f: impl FnOnce(&Problem<'_>) -> R,
) -> Option<R> {
    let node = network.node(id)?;
    let desc = |v: ValueId| {
        let ty = network.ty(v);
        ops::eval_shape(&ty.shape, env).ok().map(|s| TensorDesc::dense(ty.dtype, &s))
    };
    let inputs: SmallVec<[Operand<'_>; 4]> = node
        .inputs
        .iter()
        .map(|v| Some(Operand { desc: desc(*v)?, constant: network.constant(*v) }))
        .collect::<Option<_>>()?;
    let outputs: SmallVec<[TensorDesc; 1]> = node.outputs.iter().map(|v| desc(*v)).collect::<Option<_>>()?;
    Some(f(&Problem { op: &node.op, inputs: &inputs, outputs: &outputs, threads, isa, precision, env }))
}

/// Raises `stage` to the latest stage of the dims' symbols (but for those in `skip`); returns a symbol that is not known yet.
fn latest_stage<'a>(
    dims: impl Iterator<Item = &'a Dim>,
    skip: &[SymbolId],
    symbol_stage: &[Option<u32>],
    stage: &mut u32,
) -> Option<SymbolId> {
    let mut unknown = None;
    for d in dims {
        d.for_each_symbol(&mut |s| {
            if skip.contains(&s) {
                return;
            }
            match symbol_stage.get(s.0 as usize).copied().flatten() {
                Some(k) => *stage = (*stage).max(k),
                None => unknown = Some(s),
            }
        });
    }
    unknown
}

/// What tuned sizes are compared by.
pub(crate) fn problem_size(p: &Problem<'_>) -> f64 {
    (p.outputs.iter().map(TensorDesc::count).sum::<usize>().max(1) as f64).ln()
}

fn distance(t: &(f64, u32, &'static dyn Tactic), size: f64, threads: usize) -> f64 {
    (t.0 - size).abs() + if t.1 as usize == threads { 0.0 } else { 0.5 }
}
