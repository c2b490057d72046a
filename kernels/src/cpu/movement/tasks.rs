//! Cutting data movement into tasks.

use crate::Fit;
use smallvec::{SmallVec, smallvec};
use std::ops::Range;

/// Bytes that keep a thread busy for some microseconds: less is not worth a task of its own.
const TASK_BYTES: usize = 32 << 10;

/// The number of tasks for moving `bytes` bytes: one phase, or none where there is nothing to do.
pub(super) fn split(bytes: usize, threads: usize) -> SmallVec<[usize; 1]> {
    if bytes == 0 {
        return SmallVec::new();
    }
    smallvec![(bytes / TASK_BYTES).clamp(1, if threads > 1 { 4 * threads } else { 1 })]
}

/// The estimate for work that takes `cost_ns` on one thread; movement gains less than its number of threads.
pub(super) fn fit(cost_ns: f64, threads: usize) -> Fit {
    let speedup = if cost_ns > 4000.0 { 1.0 + 0.8 * (threads as f64 - 1.0) } else { 1.0 };
    Fit { cost_ns: 100.0 + cost_ns / speedup }
}

/// The share of `count` equal pieces that task `task` of `tasks` does.
pub(super) fn share(count: usize, task: usize, tasks: usize) -> Range<usize> {
    (count * task / tasks)..(count * (task + 1) / tasks)
}

/// Work made of parts, each of a number of units of one weight, to be shared by tasks of about equal weight.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// Per part: where it starts, the weight of a unit, the number of units.
    parts: SmallVec<[(usize, usize, usize); 2]>,
    total: usize,
}

impl Parts {
    /// From the number of units and the weight of a unit, which is not 0, of each part.
    pub fn new(parts: impl IntoIterator<Item = (usize, usize)>) -> Parts {
        let mut total = 0;
        let parts = parts
            .into_iter()
            .map(|(units, weight)| {
                let start = total;
                total += units * weight;
                (start, weight, units)
            })
            .collect();
        Parts { parts, total }
    }

    pub fn total(&self) -> usize {
        self.total
    }

    /// Calls `f` with the parts that task `task` of `tasks` has units of, and those units.
    pub fn for_task(&self, task: usize, tasks: usize, mut f: impl FnMut(usize, Range<usize>)) {
        let span = share(self.total, task, tasks);
        for (i, &(start, weight, units)) in self.parts.iter().enumerate() {
            // A unit belongs to the task in whose span it begins.
            let unit_at = |place: usize| place.saturating_sub(start).div_ceil(weight).min(units);
            let range = unit_at(span.start)..unit_at(span.end);
            if !range.is_empty() {
                f(i, range);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_in_one_task() {
        for tasks in 1..9 {
            let sizes = [(3, 7), (0, 5), (1, 100), (10, 1), (2, 40)];
            let parts = Parts::new(sizes);
            let mut seen: Vec<Vec<u32>> = sizes.iter().map(|(units, _)| vec![0; *units]).collect();
            for task in 0..tasks {
                parts.for_task(task, tasks, |part, units| units.for_each(|u| seen[part][u] += 1));
            }
            assert!(seen.iter().flatten().all(|n| *n == 1), "{tasks} tasks: {seen:?}");
        }
    }
}
