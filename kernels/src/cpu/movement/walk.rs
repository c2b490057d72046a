//! Walking several strided views of one shape in step.

use smallvec::SmallVec;
use std::ops::Range;

/// The axes of a walk over `N` views, in bytes. Rows of the last axis are left to who walks.
#[derive(Clone, Debug)]
pub(super) struct Walk<const N: usize> {
    outer: SmallVec<[(usize, [isize; N]); 6]>,
    /// Size and strides of a row.
    row: (usize, [isize; N]),
    count: usize,
}

impl<const N: usize> Walk<N> {
    /// The walk in row-major order over `axes`, given with their strides in each view. Axes that are one in all views
    /// are merged, which keeps the order.
    pub fn new(axes: impl IntoIterator<Item = (usize, [isize; N])>) -> Walk<N> {
        let mut count = 1;
        let mut merged: SmallVec<[(usize, [isize; N]); 6]> = SmallVec::new();
        for (size, strides) in axes {
            count *= size;
            if size == 1 {
                continue;
            }
            match merged.last_mut() {
                Some((n, outer)) if (0..N).all(|i| outer[i] == strides[i] * size as isize) => {
                    *n *= size;
                    *outer = strides;
                }
                _ => merged.push((size, strides)),
            }
        }
        let row = merged.pop().unwrap_or((1, [0; N]));
        Walk { outer: merged, row, count }
    }

    /// The number of elements.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The strides within a row.
    pub fn strides(&self) -> [isize; N] {
        self.row.1
    }

    /// Whether the walk is one row.
    pub fn is_row(&self) -> bool {
        self.outer.is_empty()
    }

    /// Calls `f` with the views' offsets at the start of each (part of a) row in `range`, and the number of its elements.
    pub fn rows(&self, range: Range<usize>, mut f: impl FnMut([isize; N], usize)) {
        let (size, strides) = self.row;
        if range.is_empty() || size == 0 {
            return;
        }
        let mut row = range.start / size;
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, self.outer.len());
        let mut offsets = [0; N];
        for (i, (size, strides)) in self.outer.iter().enumerate().rev() {
            index[i] = row % size;
            row /= size;
            (0..N).for_each(|v| offsets[v] += index[i] as isize * strides[v]);
        }
        let mut at = range.start;
        while at < range.end {
            let first = at % size;
            let len = (size - first).min(range.end - at);
            let mut start = offsets;
            (0..N).for_each(|v| start[v] += first as isize * strides[v]);
            f(start, len);
            at += len;
            for (i, (size, strides)) in self.outer.iter().enumerate().rev() {
                index[i] += 1;
                (0..N).for_each(|v| offsets[v] += strides[v]);
                if index[i] < *size {
                    break;
                }
                (0..N).for_each(|v| offsets[v] -= strides[v] * *size as isize);
                index[i] = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet_every_element_in_order() {
        let axes = [(3, [100, 7]), (1, [5, 5]), (4, [10, 0]), (2, [5, 0]), (5, [1, 1])];
        let walk = Walk::new(axes);
        let mut expected = Vec::new();
        for (a, b, c) in (0..3).flat_map(|a| (0..8).flat_map(move |b| (0..5).map(move |c| (a, b, c)))) {
            expected.push([a * 100 + b * 5 + c, a * 7 + c]);
        }
        assert_eq!(walk.count(), expected.len());
        for from in [0, 1, 4, 5, 17, 119] {
            for to in [from, from + 1, from + 23, 120] {
                let to = to.min(120);
                let mut seen = Vec::new();
                walk.rows(from..to, |start, len| {
                    let s = walk.strides();
                    seen.extend((0..len as isize).map(|i| [start[0] + i * s[0], start[1] + i * s[1]]));
                });
                assert_eq!(seen, expected[from..to]);
            }
        }
        let mut calls = 0;
        Walk::<1>::new([(2, [1]), (0, [1])]).rows(0..0, |_, _| calls += 1);
        Walk::<1>::new([]).rows(0..1, |_, len| calls += len);
        assert_eq!(calls, 1);
    }
}
