//! Clustering: accepted nodes into as few convex segments as can run one after another.
//!
//! Every accepted node gets a level, the number of times that a path to it must leave the accepted nodes and come back.
//! The accepted nodes of one level form one segment. A path between two of them that left the segment would raise the
//! level, so each segment is convex; edges never lead to a lower level, so segments form no cycle; and no two segments
//! can be merged, because each level exists only for a refused node between it and the level before. Two passes over the
//! edges compute all of it.

/// The graph as clustering sees it: for each node, in topological order, the nodes that it uses and whether it was accepted.
#[derive(Clone, Debug, Default)]
pub struct Dag {
    pub uses: Vec<Vec<usize>>,
    pub accepted: Vec<bool>,
}

const HOST: i64 = -1;

/// The segment of each node, `None` for refused ones. Segments are numbered in an order in which they can run.
pub fn cluster(dag: &Dag) -> Vec<Option<usize>> {
    let mut level = earliest(dag, &vec![HOST; dag.uses.len()]);
    let latest = latest(dag, &level);
    // What needs nothing from other nodes starts where it is first used, with all that only follows it.
    let sources: Vec<i64> = (0..dag.uses.len())
        .map(|node| if dag.accepted[node] && dag.uses[node].is_empty() { latest[node] } else { HOST })
        .collect();
    level = earliest(dag, &sources);

    let mut numbers: Vec<i64> =
        (0..level.len()).filter(|&node| dag.accepted[node]).map(|node| level[node]).collect();
    numbers.sort_unstable();
    numbers.dedup();
    (0..level.len())
        .map(|node| dag.accepted[node].then(|| numbers.binary_search(&level[node]).unwrap_or(0)))
        .collect()
}

/// Lowest level of each node, given a lower bound for each. A refused node has the level of the segments before it.
fn earliest(dag: &Dag, bound: &[i64]) -> Vec<i64> {
    let mut level = vec![HOST; dag.uses.len()];
    for (node, uses) in dag.uses.iter().enumerate() {
        let accepted = dag.accepted[node];
        let after = uses.iter().map(|&used| level[used] + i64::from(accepted && !dag.accepted[used])).max();
        let lowest = after.unwrap_or(HOST).max(bound[node]);
        level[node] = if accepted { lowest.max(0) } else { lowest };
    }
    level
}

/// Highest level that each node may take without raising those that nothing follows.
fn latest(dag: &Dag, earliest: &[i64]) -> Vec<i64> {
    let mut level: Vec<Option<i64>> = vec![None; dag.uses.len()];
    for node in (0..dag.uses.len()).rev() {
        let own = level[node].unwrap_or(earliest[node]);
        level[node] = Some(own);
        for &used in &dag.uses[node] {
            let highest = own - i64::from(dag.accepted[node] && !dag.accepted[used]);
            level[used] = Some(level[used].map_or(highest, |known| known.min(highest)));
        }
    }
    level.into_iter().zip(earliest).map(|(level, &earliest)| level.unwrap_or(earliest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dag(uses: &[&[usize]], refused: &[usize]) -> Dag {
        let accepted = (0..uses.len()).map(|node| !refused.contains(&node)).collect();
        Dag { uses: uses.iter().map(|list| list.to_vec()).collect(), accepted }
    }

    #[test]
    fn a_refused_node_beside_the_path_does_not_split() {
        // 0 -> 1(refused) -> output, 0 -> 2.
        assert_eq!(cluster(&dag(&[&[], &[0], &[0]], &[1])), [Some(0), None, Some(0)]);
    }

    #[test]
    fn a_refused_node_on_the_path_splits() {
        // 0 -> 1(refused) -> 2, 0 -> 2.
        assert_eq!(cluster(&dag(&[&[], &[0], &[1, 0]], &[1])), [Some(0), None, Some(1)]);
    }

    #[test]
    fn sources_go_where_they_are_used() {
        // 0 -> 1(refused) -> 3 <- 2 (a source).
        assert_eq!(cluster(&dag(&[&[], &[0], &[], &[1, 2]], &[1])), [Some(0), None, Some(1), Some(1)]);
    }

    #[test]
    fn refused_sources_cost_no_level() {
        assert_eq!(cluster(&dag(&[&[], &[0], &[1]], &[0])), [None, Some(0), Some(0)]);
    }

    fn random_dag() -> impl Strategy<Value = Dag> {
        (1usize..40).prop_flat_map(|count| {
            let edges = proptest::collection::vec(proptest::collection::vec(0usize..1000, 0..4), count);
            (edges, proptest::collection::vec(prop::bool::weighted(0.75), count)).prop_map(
                |(edges, accepted)| {
                    let uses = edges
                        .into_iter()
                        .enumerate()
                        .map(|(node, list)| {
                            if node == 0 {
                                Vec::new()
                            } else {
                                list.into_iter().map(|edge| edge % node).collect()
                            }
                        })
                        .collect();
                    Dag { uses, accepted }
                },
            )
        })
    }

    fn reaches(dag: &Dag) -> Vec<Vec<bool>> {
        let count = dag.uses.len();
        let mut reach = vec![vec![false; count]; count];
        for to in 0..count {
            for &from in &dag.uses[to] {
                for start in 0..count {
                    if start == from || reach[start][from] {
                        reach[start][to] = true;
                    }
                }
            }
        }
        reach
    }

    /// True if the nodes given could be one segment: no path leaves them and comes back.
    fn convex(reach: &[Vec<bool>], inside: &[bool]) -> bool {
        let nodes = || 0..inside.len();
        !nodes().filter(|&middle| !inside[middle]).any(|middle| {
            nodes().any(|from| inside[from] && reach[from][middle])
                && nodes().any(|to| inside[to] && reach[middle][to])
        })
    }

    proptest! {
        #[test]
        fn segments_are_convex_acyclic_maximal_and_complete(dag in random_dag()) {
            let segments = cluster(&dag);
            let reach = reaches(&dag);
            let count = segments.iter().flatten().max().map_or(0, |&last| last + 1);
            for (node, segment) in segments.iter().enumerate() {
                prop_assert_eq!(segment.is_some(), dag.accepted[node], "nothing lost, nothing refused taken");
            }
            let members = |wanted: &[usize]| -> Vec<bool> {
                segments.iter().map(|segment| segment.is_some_and(|segment| wanted.contains(&segment))).collect()
            };
            for segment in 0..count {
                prop_assert!(convex(&reach, &members(&[segment])), "segment {} is convex", segment);
            }
            for (node, uses) in dag.uses.iter().enumerate() {
                for &used in uses {
                    if let (Some(before), Some(after)) = (segments[used], segments[node]) {
                        prop_assert!(before <= after, "segments run in their order");
                    }
                }
            }
            for first in 0..count {
                for second in first + 1..count {
                    prop_assert!(!convex(&reach, &members(&[first, second])), "{first} and {second} could merge");
                }
            }
        }
    }
}
