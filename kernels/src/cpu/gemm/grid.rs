//! A product's work, cut to tasks.

use std::ops::Range;

/// A product cut to `rows x columns` tasks of similar size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Rows and panels of the whole.
    pub rows: usize,
    pub panels: usize,
    /// Tasks along each.
    pub down: usize,
    pub across: usize,
    /// Rows that tasks are cut at multiples of.
    pub unit: usize,
}

impl Grid {
    /// Cuts `rows x panels` to about `tasks` tasks, rows at multiples of `unit`: balanced first, then with as little of A and B
    /// read twice as can be.
    pub fn new(rows: usize, panels: usize, unit: usize, tasks: usize) -> Self {
        let units = rows.div_ceil(unit).max(1);
        Grid::cheapest(rows, panels, unit, tasks, units, |down| units.div_ceil(down) as f64 / units as f64)
    }

    /// The same for a kernel that computes up to `height` rows at a time: rows are cut evenly, not at multiples of the height.
    pub fn even(rows: usize, panels: usize, height: usize, tasks: usize) -> Self {
        // A tile takes about as long as its rows and one more.
        let time = |rows: usize| (rows + rows.div_ceil(height)) as f64;
        let most = rows.div_ceil(height);
        Grid::cheapest(rows, panels, 1, tasks, most, |down| time(rows.div_ceil(down)) / time(rows).max(1.0))
    }

    /// The best of all cuts to about `tasks` tasks, at most `most` of them along the rows; `share` is the time of the longest part
    /// of the rows, of all.
    fn cheapest(
        rows: usize,
        panels: usize,
        unit: usize,
        tasks: usize,
        most: usize,
        share: impl Fn(usize) -> f64,
    ) -> Self {
        let mut best = (f64::INFINITY, 1, 1);
        for down in 1..=tasks.min(most).max(1) {
            let across = (tasks / down).clamp(1, panels.max(1));
            let share = share(down) * panels.div_ceil(across) as f64 / panels.max(1) as f64;
            // The busiest of `tasks` threads, and a little for operands read again.
            let cost = share * (1.0 + 0.02 * (down + across) as f64) + 1e-4 * across as f64;
            if cost < best.0 {
                best = (cost, down, across);
            }
        }
        Grid { rows, panels, down: best.1, across: best.2, unit }
    }

    /// Cuts rows alone, evenly, to at most `tasks` tasks of `height` rows or more, as many for each of `threads` threads, so that no
    /// row of A is read twice. `None` where there are too few rows.
    pub fn of_rows(rows: usize, panels: usize, height: usize, tasks: usize, threads: usize) -> Option<Self> {
        let down = tasks.min(rows / height) / threads * threads;
        (down > 0).then_some(Grid { rows, panels, down, across: 1, unit: 1 })
    }

    pub fn tasks(&self) -> usize {
        self.down * self.across
    }

    /// Panels of one task, at most.
    pub fn panels_of_task(&self) -> usize {
        self.panels.div_ceil(self.across)
    }

    /// Rows and panels of one task; neighbours share rows.
    pub fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (i, j) = (task / self.across, task % self.across);
        let units = self.rows.div_ceil(self.unit);
        let row = |i: usize| (units * i / self.down * self.unit).min(self.rows);
        let panel = |j: usize| self.panels * j / self.across;
        (row(i)..row(i + 1), panel(j)..panel(j + 1))
    }
}

/// Tasks worth making of `flops` floating point operations for `threads` threads.
pub fn tasks_for(flops: f64, threads: usize) -> usize {
    /// Work under this many operations does not pay for being shared (about 2 us).
    const LEAST: f64 = 2e5;
    if threads <= 1 {
        return 1;
    }
    ((flops / LEAST) as usize).clamp(1, 2 * threads)
}

/// Bytes of an operand or a result that a core's own cache holds beside others.
const NEAR_BYTES: usize = 1 << 20;

/// The same for a product of `rows` rows, the larger of whose operand and result has `bytes`: more tasks where each still fills
/// whole blocks of rows, so that a thread that is held up can be relieved, and layers can take turns while rows are near.
pub fn tasks_for_rows(flops: f64, rows: usize, bytes: usize, threads: usize) -> usize {
    /// Rows of one block, at most (see [`Sweep::new`](super::sweep::Sweep::new)).
    const BLOCK: usize = 384;
    let tasks = tasks_for(flops, threads);
    let most = if bytes > NEAR_BYTES { 128 } else { 8 * threads };
    let blocks = (rows / BLOCK).min(most);
    if tasks < 2 * threads && bytes <= NEAR_BYTES { tasks } else { tasks.max(blocks) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tasks_cover_everything_once(
            rows in 1usize..400, panels in 1usize..30, unit in 1usize..33, tasks in 1usize..20, threads in 1usize..9,
        ) {
            let cuts = [
                Some(Grid::new(rows, panels, unit, tasks)),
                Some(Grid::even(rows, panels, unit, tasks)),
                Grid::of_rows(rows, panels, unit, tasks, threads),
            ];
            for grid in cuts.into_iter().flatten() {
                let mut seen = vec![0; rows * panels];
                for task in 0..grid.tasks() {
                    let (rows, across) = grid.task(task);
                    prop_assert!(!rows.is_empty() && !across.is_empty(), "task {task} of {grid:?} is empty");
                    for row in rows {
                        across.clone().for_each(|panel| seen[row * panels + panel] += 1);
                    }
                }
                prop_assert!(seen.iter().all(|n| *n == 1), "{grid:?}");
            }
        }

        #[test]
        fn even_cuts_differ_by_a_row(rows in 1usize..4000, height in 1usize..17, tasks in 1usize..20) {
            let grid = Grid::even(rows, 1, height, tasks);
            let sizes: Vec<usize> = (0..grid.tasks()).map(|task| grid.task(task).0.len()).collect();
            let (least, most) = (sizes.iter().min(), sizes.iter().max());
            prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{sizes:?}");
        }
    }
}
