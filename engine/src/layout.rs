//! Decides, once per plan, which movement operators become views and which results are written straight into the
//! result of a concat or a transposition. Specializations follow these decisions; where a shape defeats one they copy.

use crate::program::{Program, Role, Target};
use crate::strides;
use engraft_kernels::{Class, Operand, Problem, TensorDesc, catalog};
use engraft_network::{Def, NodeId, Op, ValueId, ops::eval_shape};
use smallvec::SmallVec;

/// What a copy costs per byte, reading and writing through the second-level cache.
const COPY_NS_PER_BYTE: f64 = 0.12;
const COPY_NS: f64 = 500.0;

/// Fills the program's roles and targets, judging by the catalog under `env` (which should have no sizes of 1: strides of
/// such axes prove nothing).
pub(crate) fn decide(program: &mut Program, env: &[i64]) {
    let consumers = program.network.consumers();
    let order: Vec<NodeId> = program.stages.iter().flat_map(|s| s.nodes.iter().copied()).collect();
    for id in &order {
        let Some(node) = program.node(*id) else { continue };
        let crosses = node.outputs.iter().any(|v| program.crossing[v.index()].is_some());
        let role = match &node.op {
            Op::Concat(_) => Role::Concat,
            Op::Reshape(_) if !crosses => Role::View,
            op if strides::is_view(op) && !crosses => {
                let judge = Judge { program, consumers: &consumers, env };
                if judge.worth_a_view(*id) { Role::View } else { Role::Compute }
            }
            _ => Role::Compute,
        };
        program.roles[id.index()] = role;
    }
    for id in &order {
        let Some(node) = program.node(*id) else { continue };
        let takes = match node.op {
            Op::Concat(_) => true,
            Op::Transpose(_) => program.roles[id.index()] == Role::Compute,
            _ => false,
        };
        if !takes {
            continue;
        }
        for (i, v) in node.inputs.clone().into_iter().enumerate() {
            let target = Target { node: *id, operand: i as u32 };
            let judge = Judge { program, consumers: &consumers, env };
            if judge.worth_a_target(v, target) {
                program.targets[v.index()] = Some(target);
            }
        }
    }
}

struct Judge<'a> {
    program: &'a Program,
    consumers: &'a [SmallVec<[NodeId; 2]>],
    env: &'a [i64],
}

impl Judge<'_> {
    fn dense(&self, v: ValueId) -> Option<TensorDesc> {
        let ty = self.program.network.ty(v);
        Some(TensorDesc::dense(ty.dtype, &eval_shape(&ty.shape, self.env).ok()?))
    }

    fn copy_ns(desc: &TensorDesc) -> f64 {
        COPY_NS + COPY_NS_PER_BYTE * desc.dense_bytes() as f64
    }

    /// Cost of the cheapest optimised tactic of node `id` with operand positions of `v` read at `desc`, or its result
    /// written at `out`.
    fn cost(
        &self,
        id: NodeId,
        v: Option<(ValueId, &TensorDesc)>,
        out: Option<(ValueId, &TensorDesc)>,
    ) -> Option<f64> {
        let node = self.program.node(id)?;
        let inputs: SmallVec<[Operand<'_>; 4]> = node
            .inputs
            .iter()
            .map(|x| {
                let desc = match v {
                    Some((y, d)) if y == *x => d.clone(),
                    _ => self.dense(*x)?,
                };
                Some(Operand { desc, constant: self.program.constant(*x) })
            })
            .collect::<Option<_>>()?;
        let outputs: SmallVec<[TensorDesc; 1]> = node
            .outputs
            .iter()
            .map(|x| match out {
                Some((y, d)) if y == *x => Some(d.clone()),
                _ => self.dense(*x),
            })
            .collect::<Option<_>>()?;
        let p = Problem {
            op: &node.op,
            inputs: &inputs,
            outputs: &outputs,
            threads: 1,
            isa: self.program.isa,
            precision: self.program.precision,
            env: self.env,
        };
        let (t, fit) = catalog::best(&p)?;
        (t.class() == Class::Optimized).then_some(fit.cost_ns)
    }

    /// Extra time that the readers of `v` take when it lies at `desc` rather than dense; `None` if one cannot read it.
    fn penalty(&self, v: ValueId, desc: &TensorDesc, depth: usize) -> Option<f64> {
        let program = self.program;
        let mut extra = 0.0;
        if depth > 8 {
            return None;
        }
        if desc.is_dense() {
            return Some(0.0);
        }
        for c in &self.consumers[v.index()] {
            let node = program.node(*c)?;
            match &node.op {
                // Parts of a concat that are not in place are copied anyhow.
                Op::Concat(_) => {}
                op if strides::is_view(op) => {
                    let (d, _) = strides::view(&node.op, desc, self.env)?;
                    match self.penalty(node.outputs[0], &d, depth + 1) {
                        Some(e) => extra += e,
                        None if matches!(node.op, Op::Reshape(_)) => return None,
                        // It will be computed, reading strided memory.
                        None => extra += self.strided_extra(*c, v, desc)?,
                    }
                }
                _ => extra += self.strided_extra(*c, v, desc)?,
            }
        }
        Some(extra)
    }

    fn strided_extra(&self, c: NodeId, v: ValueId, desc: &TensorDesc) -> Option<f64> {
        let strided = self.cost(c, Some((v, desc)), None)?;
        let dense = self.cost(c, None, None)?;
        Some((strided - dense).max(0.0))
    }

    fn worth_a_view(&self, id: NodeId) -> bool {
        let Some(node) = self.program.node(id) else { return false };
        let result = node.outputs[0];
        let Some(source) = self.dense(node.inputs[0]) else { return false };
        let Some((desc, _)) = strides::view(&node.op, &source, self.env) else { return false };
        match self.penalty(result, &desc, 0) {
            Some(extra) => extra <= Self::copy_ns(&desc),
            None => false,
        }
    }

    fn is_output(&self, v: ValueId) -> bool {
        let net = &self.program.network;
        net.outputs().contains(&v)
            || self.consumers[v.index()].iter().any(|c| {
                self.program
                    .node(*c)
                    .is_some_and(|n| matches!(n.op, Op::Reshape(_)) && net.outputs().contains(&n.outputs[0]))
            })
    }

    fn worth_a_target(&self, v: ValueId, target: Target) -> bool {
        let program = self.program;
        let Def::Node { node: producer, .. } = program.network.value(v).def else { return false };
        let (Some(made_by), Some(node)) = (program.node(producer), program.node(target.node)) else {
            return false;
        };
        if program.targets[v.index()].is_some()
            || program.crossing[v.index()].is_some()
            || program.node_stage[producer.index()] != program.node_stage[target.node.index()]
            || self.is_output(v)
            || node.inputs.iter().filter(|x| **x == v).count() > 1
        {
            return false;
        }
        let (Some(dense), Some(parent)) = (self.dense(v), self.dense(node.outputs[0])) else { return false };
        let mut desc = dense.clone();
        match &node.op {
            Op::Concat(_) => desc.strides = parent.strides,
            Op::Transpose(t) => {
                for (i, a) in t.perm.iter().enumerate() {
                    desc.strides[*a] = parent.strides[i];
                }
                if self.consumers[v.index()].len() > 1 {
                    return false;
                }
            }
            _ => return false,
        }
        let writing = match program.roles[producer.index()] {
            // A concat writes each of its parts wherever that is.
            Role::Concat => 0.0,
            Role::Compute => {
                if matches!(made_by.op, Op::Transpose(_))
                    && program.targets[made_by.inputs[0].index()].is_some()
                {
                    // Its operand is written in its order already; another target on top would need strides of strides.
                    return false;
                }
                match (self.cost(producer, None, Some((v, &desc))), self.cost(producer, None, None)) {
                    (Some(strided), Some(plain)) => (strided - plain).max(0.0),
                    _ => return false,
                }
            }
            Role::View | Role::Dynamic => return false,
        };
        let reading: Option<f64> = {
            let others: Vec<NodeId> =
                self.consumers[v.index()].iter().copied().filter(|c| *c != target.node).collect();
            if others.is_empty() { Some(0.0) } else { self.penalty(v, &desc, 0) }
        };
        reading.is_some_and(|r| r + writing <= Self::copy_ns(&dense))
    }
}
