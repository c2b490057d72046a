//! The part of a graph between named values.

use rustc_hash::FxHashMap;

use crate::{HostGraph, HostValueId};

impl HostGraph {
    /// The nodes that compute the values named `outputs` from those named `inputs` and from constants, as a graph with these
    /// inputs and outputs, in the given order. An input that no node of the part reads is left out.
    ///
    /// # Errors
    /// What keeps the part from standing by itself: a name that the graph does not have, or a value from outside that it needs.
    pub fn part(&self, inputs: &[String], outputs: &[String]) -> Result<HostGraph, String> {
        let names: FxHashMap<&str, HostValueId> =
            (0..self.values.len()).map(|id| (&self.values[id].name[..], HostValueId(id as u32))).collect();
        let find = |name: &String| {
            names.get(&name[..]).copied().ok_or_else(|| format!("there is no value '{name}'"))
        };
        let ends = outputs.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let border: Vec<HostValueId> =
            inputs.iter().filter_map(|name| names.get(&name[..]).copied()).collect();

        let producers = self.producers();
        let mut wanted = vec![false; self.nodes.len()];
        let mut seen = vec![false; self.values.len()];
        let mut open = ends.clone();
        while let Some(value) = open.pop() {
            if std::mem::replace(&mut seen[value.index()], true) || border.contains(&value) {
                continue;
            }
            match producers[value.index()] {
                Some(node) => {
                    wanted[node] = true;
                    open.extend(self.nodes[node].uses());
                }
                None if self.value(value).constant.is_some() => {}
                None => return Err(format!("it also needs '{}'", self.value(value).name)),
            }
        }
        let nodes = self.nodes.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(node, _)| node.clone());
        Ok(HostGraph {
            nodes: nodes.collect(),
            inputs: border.into_iter().filter(|id| seen[id.index()]).collect(),
            outputs: ends,
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::{HostGraph, HostNode, HostValue, HostValueId, Tensor};

    /// a, b -> Add -> c; c, w -> Mul -> d; b -> Neg -> e.
    fn graph() -> HostGraph {
        let mut graph = HostGraph::default();
        for name in ["a", "b", "c", "w", "d", "e"] {
            graph.add_value(HostValue { name: name.into(), ..HostValue::default() });
        }
        graph.values[3].constant = Some(Tensor::from_slice(&[1], &[2f32]).unwrap());
        let id = |i: &u32| Some(HostValueId(*i));
        for (op, inputs, output) in [("Add", &[0, 1][..], 2), ("Mul", &[2, 3], 4), ("Neg", &[1], 5)] {
            graph.nodes.push(HostNode {
                op_type: op.into(),
                inputs: inputs.iter().map(id).collect(),
                outputs: vec![id(&output)],
                ..HostNode::default()
            });
        }
        graph.inputs = vec![HostValueId(0), HostValueId(1)];
        graph.outputs = vec![HostValueId(4), HostValueId(5)];
        graph
    }

    fn part(inputs: &[&str], outputs: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let graph = graph().part(&own(inputs), &own(outputs))?;
        let named = graph.inputs.iter().chain(&graph.outputs).map(|id| graph.value(*id).name.clone());
        Ok((graph.nodes.iter().map(|node| node.op_type.clone()).collect(), named.collect()))
    }

    #[test]
    fn ends_at_the_given_values() {
        let expect = |nodes: &[&str], values: &[&str]| {
            let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            Ok((own(nodes), own(values)))
        };
        assert_eq!(part(&["b", "a"], &["d"]), expect(&["Add", "Mul"], &["b", "a", "d"]));
        assert_eq!(part(&["c", "w"], &["d"]), expect(&["Mul"], &["c", "w", "d"]));
        assert_eq!(part(&["c", "a", "gone"], &["d"]), expect(&["Mul"], &["c", "d"]));
        assert_eq!(part(&["a", "b"], &["e", "c"]), expect(&["Add", "Neg"], &["a", "b", "e", "c"]));
    }

    #[test]
    fn says_what_is_missing() {
        assert_eq!(part(&["a"], &["d"]), Err("it also needs 'b'".into()));
        assert_eq!(part(&["a", "b"], &["z"]), Err("there is no value 'z'".into()));
    }
}
