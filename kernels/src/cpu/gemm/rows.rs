//! Where the rows of an operand lie: a row number to a memory offset.

/// Rows numbered over up to four dimensions, outermost first, each with its own stride (in elements).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowMap {
    sizes: [usize; 4],
    strides: [isize; 4],
    /// The first dimension that is not trivial; later ones count.
    first: usize,
}

impl RowMap {
    /// Rows at a constant distance.
    pub fn uniform(rows: usize, stride: isize) -> Self {
        RowMap { sizes: [1, 1, 1, rows], strides: [0, 0, 0, stride], first: 3 }
    }

    /// Rows over `dims` (size, stride), outermost first. Neighbours that form one progression are merged.
    ///
    /// Returns `None` when more than four dimensions remain.
    pub fn new(dims: impl IntoIterator<Item = (usize, isize)>) -> Option<Self> {
        let mut kept: smallvec::SmallVec<[(usize, isize); 8]> = smallvec::SmallVec::new();
        for (size, stride) in dims {
            if size == 1 {
                continue;
            }
            match kept.last_mut() {
                Some(last) if last.1 == stride * size as isize => *last = (last.0 * size, stride),
                _ => kept.push((size, stride)),
            }
        }
        if kept.len() > 4 {
            return None;
        }
        let mut map = RowMap { sizes: [1; 4], strides: [0; 4], first: (4 - kept.len()).min(3) };
        for (i, &(size, stride)) in kept.iter().enumerate() {
            map.sizes[4 - kept.len() + i] = size;
            map.strides[4 - kept.len() + i] = stride;
        }
        Some(map)
    }

    pub fn rows(&self) -> usize {
        self.sizes.iter().product()
    }

    /// The distance between rows, if it is the same everywhere.
    pub fn stride(&self) -> Option<isize> {
        (self.first == 3).then_some(self.strides[3])
    }

    pub fn offset(&self, row: usize) -> isize {
        let (mut row, mut offset) = (row, 0);
        for d in (self.first..4).rev() {
            offset += (row % self.sizes[d]) as isize * self.strides[d];
            row /= self.sizes[d];
        }
        offset
    }

    /// Writes the addresses of rows `row .. row + rows`, relative to `base`, to `out`.
    ///
    /// # Safety
    /// The rows exist; `base` plus each offset stays inside its allocation; `out` is writable for `rows` pointers.
    pub unsafe fn point<E>(&self, base: *const E, row: usize, rows: usize, out: *mut *const E) {
        // SAFETY: by the caller's contract.
        unsafe {
            let inner = self.sizes[3];
            let mut done = 0;
            while done < rows {
                let at = (row + done) % inner;
                let n = (rows - done).min(inner - at);
                let mut p = base.wrapping_offset(self.offset(row + done));
                for i in 0..n {
                    out.add(done + i).write(p);
                    p = p.wrapping_offset(self.strides[3]);
                }
                done += n;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_merge() {
        let map = RowMap::new([(2, 24), (3, 8), (4, 2)]).unwrap();
        assert_eq!(map, RowMap::uniform(24, 2));
        assert_eq!((map.rows(), map.stride(), map.offset(23)), (24, Some(2), 46));
    }

    #[test]
    fn points_across_breaks() {
        let map = RowMap::new([(2, 100), (3, 10)]).unwrap();
        assert_eq!(map.stride(), None);
        let data = [0u8; 200];
        let mut out = [std::ptr::null(); 4];
        // SAFETY: rows 1..5 are inside `data`.
        unsafe { map.point(data.as_ptr(), 1, 4, out.as_mut_ptr()) };
        let offsets: Vec<usize> =
            out.iter().map(|&p: &*const u8| p as usize - data.as_ptr() as usize).collect();
        assert_eq!(offsets, [10, 20, 100, 110]);
        assert_eq!((0..6).map(|r| map.offset(r)).collect::<Vec<_>>(), [0, 10, 20, 100, 110, 120]);
    }

    #[test]
    fn five_dimensions_are_refused() {
        assert_eq!(RowMap::new([(2, 1000), (2, 400), (2, 150), (2, 60), (2, 7)]), None);
    }
}
