//! Copying one strided view onto another: what transposes, slices, concatenations, broadcasts and paddings come down to.
//!
//! A [`StridedCopy`] is normalised when it is made: axes of size 1 are gone, axes that are one in both views are merged, short
//! contiguous runs count as wide elements, and the innermost axes choose the loop: runs, repeated elements,
//! blocked transposition, or single elements.

use super::blocks;
use smallvec::SmallVec;
use std::ops::Range;

/// Bytes that a piece of work moves at least where a copy is cut into pieces.
const PIECE: usize = 16 << 10;

/// One axis of a copy: its size and the distance of neighbours in the two views, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    pub size: usize,
    pub src: isize,
    pub dst: isize,
}

/// A copy from one view onto another of the same shape, cut into units that may run on different threads.
#[derive(Clone, Debug)]
pub(super) struct StridedCopy {
    /// From the operands' base pointers to the views' first elements, in bytes.
    pub src_offset: isize,
    pub dst_offset: isize,
    outer: SmallVec<[Axis; 6]>,
    inner: Inner,
    /// Pieces into which each inner part is cut.
    pieces: usize,
    /// Inner parts times pieces; 0 when there is nothing to copy.
    units: usize,
    unit_bytes: usize,
}

/// What is done for each index of the outer axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inner {
    /// That many bytes, contiguous in both views.
    Run(usize),
    /// One element of that many bytes, repeated without gaps.
    Repeat { element: usize, count: usize },
    /// `p` is contiguous in the source, `q` in the destination.
    Transpose { element: usize, p: Axis, q: Axis },
    /// Single elements.
    Elements { element: usize, axis: Axis },
}

impl StridedCopy {
    /// The copy of elements of `element` bytes between views of the shape and byte strides of `axes`. Destinations do
    /// not overlap.
    pub fn new(element: usize, axes: impl IntoIterator<Item = Axis>) -> StridedCopy {
        let mut axes: SmallVec<[Axis; 6]> = axes.into_iter().filter(|a| a.size != 1).collect();
        if axes.iter().any(|a| a.size == 0) {
            return StridedCopy::assemble(SmallVec::new(), Inner::Run(0));
        }
        axes.sort_by_key(|a| std::cmp::Reverse((a.dst.unsigned_abs(), a.src.unsigned_abs())));
        let mut merged: SmallVec<[Axis; 6]> = SmallVec::new();
        for axis in axes {
            match merged.last_mut() {
                Some(o)
                    if o.src == axis.src * axis.size as isize && o.dst == axis.dst * axis.size as isize =>
                {
                    *o = Axis { size: o.size * axis.size, ..axis };
                }
                _ => merged.push(axis),
            }
        }
        StridedCopy::choose(element, merged)
    }

    fn choose(element: usize, mut axes: SmallVec<[Axis; 6]>) -> StridedCopy {
        let step = element as isize;
        let Some(last) = axes.pop() else {
            return StridedCopy::assemble(axes, Inner::Run(element));
        };
        if last.dst == step && last.src == step {
            let bytes = last.size * element;
            if matches!(bytes, 2 | 4 | 8 | 16) && !axes.is_empty() {
                return StridedCopy::choose(bytes, axes);
            }
            return StridedCopy::assemble(axes, Inner::Run(bytes));
        }
        if last.dst == step && last.src == 0 {
            return StridedCopy::assemble(axes, Inner::Repeat { element, count: last.size });
        }
        let contiguous = axes.iter().position(|a| a.src == step);
        if let (Some(at), true) = (contiguous, last.dst == step) {
            let p = axes.remove(at);
            return StridedCopy::assemble(axes, Inner::Transpose { element, p, q: last });
        }
        StridedCopy::assemble(axes, Inner::Elements { element, axis: last })
    }

    fn assemble(outer: SmallVec<[Axis; 6]>, inner: Inner) -> StridedCopy {
        let bytes = inner.bytes();
        // Pieces end where whole lines of the destination end, so that no two threads write to one line for long.
        let pieces = match inner {
            Inner::Run(_) | Inner::Repeat { .. } | Inner::Elements { .. } => bytes.div_ceil(PIECE),
            Inner::Transpose { element, p, .. } => p.size.div_ceil(blocks::line(element)),
        };
        let parts: usize = outer.iter().map(|a| a.size).product();
        let units = if bytes == 0 { 0 } else { parts * pieces };
        let unit_bytes = bytes.checked_div(pieces).unwrap_or(0).max(1);
        StridedCopy { src_offset: 0, dst_offset: 0, outer, inner, pieces, units, unit_bytes }
    }

    /// The same copy from and to other places, given in bytes from the operands' bases.
    pub fn at(mut self, src_offset: isize, dst_offset: isize) -> StridedCopy {
        (self.src_offset, self.dst_offset) = (src_offset, dst_offset);
        self
    }

    pub fn units(&self) -> usize {
        self.units
    }

    /// Bytes that a unit writes, about.
    pub fn unit_bytes(&self) -> usize {
        self.unit_bytes
    }

    pub fn bytes(&self) -> usize {
        self.units * self.unit_bytes
    }

    /// Whether both views are one contiguous run.
    pub fn is_plain(&self) -> bool {
        self.outer.is_empty() && matches!(self.inner, Inner::Run(_))
    }

    /// Nanoseconds on one thread, about: measured rates of the loops on data in the second-level cache.
    pub fn cost_ns(&self) -> f64 {
        let parts = self.outer.iter().map(|a| a.size).product::<usize>() as f64;
        let bytes = self.bytes() as f64;
        match self.inner {
            Inner::Run(run) => parts * (1.5 + run as f64 / 30.0),
            Inner::Repeat { .. } => parts * 3.0 + bytes / 40.0,
            Inner::Transpose { .. } => parts * 5.0 + bytes / 12.0,
            Inner::Elements { element, .. } => parts * 3.0 + bytes / (1.5 * element as f64),
        }
    }

    /// Copies some of the units.
    ///
    /// # Safety
    /// `units` lies in `0..self.units()`; both views lie inside readable and writable memory around `src` and `dst`, the
    /// operands' base pointers, and do not overlap.
    pub unsafe fn run(&self, units: Range<usize>, src: *const u8, dst: *mut u8) {
        if units.is_empty() {
            return;
        }
        // SAFETY: offsets lead to the first elements of the views.
        let (src, dst) = unsafe { (src.offset(self.src_offset), dst.offset(self.dst_offset)) };
        if self.pieces > 1 {
            let mut cursor = Cursor::new(&self.outer, units.start / self.pieces);
            for unit in units {
                let piece = unit % self.pieces;
                // SAFETY: the cursor stands at an index of the outer axes.
                unsafe {
                    self.inner.piece(piece, self.pieces, src.offset(cursor.src), dst.offset(cursor.dst))
                };
                if piece + 1 == self.pieces {
                    cursor.advance(&self.outer);
                }
            }
            return;
        }
        // Whole parts: the last outer axis is a loop of its own.
        let (outer, row) = match self.outer.split_last() {
            Some((row, outer)) => (outer, *row),
            None => (&self.outer[..], Axis { size: 1, src: 0, dst: 0 }),
        };
        let mut cursor = Cursor::new(outer, units.start / row.size);
        let mut unit = units.start;
        while unit < units.end {
            let first = unit % row.size;
            let count = (row.size - first).min(units.end - unit);
            let (s, d) = (cursor.src + first as isize * row.src, cursor.dst + first as isize * row.dst);
            // SAFETY: `count` parts from index `first` of the row at the cursor.
            unsafe { self.inner.rows(Axis { size: count, ..row }, src.offset(s), dst.offset(d)) };
            unit += count;
            cursor.advance(outer);
        }
    }
}

impl Inner {
    fn bytes(&self) -> usize {
        match *self {
            Inner::Run(bytes) => bytes,
            Inner::Repeat { element, count } => element * count,
            Inner::Transpose { element, p, q } => element * p.size * q.size,
            Inner::Elements { element, axis } => element * axis.size,
        }
    }

    /// # Safety
    /// As [`StridedCopy::run`], for the part at `src` and `dst`, of which this is piece `piece` of `pieces`.
    unsafe fn piece(&self, piece: usize, pieces: usize, src: *const u8, dst: *mut u8) {
        let share = |size: usize| (piece * size / pieces, (piece + 1) * size / pieces);
        // SAFETY: every piece lies inside the part.
        unsafe {
            match *self {
                Inner::Run(bytes) => {
                    let (from, to) = (piece * PIECE, ((piece + 1) * PIECE).min(bytes));
                    std::ptr::copy_nonoverlapping(src.add(from), dst.add(from), to - from);
                }
                Inner::Repeat { element, count } => {
                    let (from, to) = share(count);
                    repeat(element, to - from, src, dst.add(from * element));
                }
                Inner::Transpose { element, p, q } => {
                    let line = blocks::line(element);
                    let (from, to) = (piece * line, ((piece + 1) * line).min(p.size));
                    let (s, d) = (src.add(from * element), dst.offset(from as isize * p.dst));
                    blocks::transpose(element, to - from, q.size, s, q.src, d, p.dst);
                }
                Inner::Elements { element, axis } => {
                    let (from, to) = share(axis.size);
                    let (s, d) = (src.offset(from as isize * axis.src), dst.offset(from as isize * axis.dst));
                    elements(element, Axis { size: to - from, ..axis }, s, d);
                }
            }
        }
    }

    /// Copies the parts of one row.
    ///
    /// # Safety
    /// As [`StridedCopy::run`], for the parts at `src` and `dst` and those that `row` leads to.
    unsafe fn rows(&self, row: Axis, src: *const u8, dst: *mut u8) {
        // SAFETY: passed on.
        unsafe {
            match *self {
                Inner::Run(bytes) => runs(bytes, row, src, dst),
                _ => {
                    for i in 0..row.size as isize {
                        self.piece(0, 1, src.offset(i * row.src), dst.offset(i * row.dst));
                    }
                }
            }
        }
    }
}

/// Copies runs of `bytes` bytes.
///
/// # Safety
/// Every run is readable and writable, and none overlaps another's destination.
unsafe fn runs(bytes: usize, row: Axis, src: *const u8, dst: *mut u8) {
    macro_rules! each {
        ($copy:expr) => {
            for i in 0..row.size as isize {
                let (s, d) = (src.offset(i * row.src), dst.offset(i * row.dst));
                #[allow(clippy::redundant_closure_call)]
                $copy(s, d);
            }
        };
    }
    // SAFETY: overlapping loads and stores stay inside the run.
    unsafe {
        match bytes {
            1 | 2 | 4 | 8 | 16 => elements(bytes, row, src, dst),
            17..=32 => each!(|s: *const u8, d: *mut u8| {
                let last = bytes - 16;
                let (a, b) = (load(s), load(s.add(last)));
                store(d, a);
                store(d.add(last), b);
            }),
            33..=64 => each!(|s: *const u8, d: *mut u8| {
                let (third, last) = (bytes - 32, bytes - 16);
                let (a, b) = (load(s), load(s.add(16)));
                let (c, e) = (load(s.add(third)), load(s.add(last)));
                store(d, a);
                store(d.add(16), b);
                store(d.add(third), c);
                store(d.add(last), e);
            }),
            _ => each!(|s: *const u8, d: *mut u8| std::ptr::copy_nonoverlapping(s, d, bytes)),
        }
    }
}

/// # Safety
/// 16 readable bytes.
#[inline(always)]
unsafe fn load(p: *const u8) -> [u8; 16] {
    // SAFETY: as above; byte arrays want no alignment.
    unsafe { p.cast::<[u8; 16]>().read() }
}

/// # Safety
/// 16 writable bytes.
#[inline(always)]
unsafe fn store(p: *mut u8, x: [u8; 16]) {
    // SAFETY: as above.
    unsafe { p.cast::<[u8; 16]>().write(x) }
}

/// Copies single elements of 1, 2, 4, 8 or 16 bytes, or of any other size more slowly.
///
/// # Safety
/// Every element is readable and writable.
pub(super) unsafe fn elements(element: usize, axis: Axis, src: *const u8, dst: *mut u8) {
    /// # Safety
    /// As above, for elements of `N` bytes.
    unsafe fn typed<const N: usize>(axis: Axis, src: *const u8, dst: *mut u8) {
        for i in 0..axis.size as isize {
            // SAFETY: an element of the views.
            unsafe {
                let x = src.offset(i * axis.src).cast::<[u8; N]>().read();
                dst.offset(i * axis.dst).cast::<[u8; N]>().write(x);
            }
        }
    }
    // SAFETY: passed on.
    unsafe {
        match element {
            1 => typed::<1>(axis, src, dst),
            2 => typed::<2>(axis, src, dst),
            4 => typed::<4>(axis, src, dst),
            8 => typed::<8>(axis, src, dst),
            16 => typed::<16>(axis, src, dst),
            _ => {
                for i in 0..axis.size as isize {
                    std::ptr::copy_nonoverlapping(
                        src.offset(i * axis.src),
                        dst.offset(i * axis.dst),
                        element,
                    );
                }
            }
        }
    }
}

/// Writes `count` copies of the element at `src`.
///
/// # Safety
/// The element is readable, `count` elements from `dst` are writable.
pub(super) unsafe fn repeat(element: usize, count: usize, src: *const u8, dst: *mut u8) {
    /// # Safety
    /// As above, for elements of `N` bytes.
    unsafe fn typed<const N: usize>(count: usize, src: *const u8, dst: *mut u8) {
        // SAFETY: as above; byte arrays want no alignment.
        unsafe {
            let x = src.cast::<[u8; N]>().read();
            std::slice::from_raw_parts_mut(dst.cast::<[u8; N]>(), count).fill(x);
        }
    }
    // SAFETY: passed on.
    unsafe {
        match element {
            1 => dst.write_bytes(*src, count),
            2 => typed::<2>(count, src, dst),
            4 => typed::<4>(count, src, dst),
            8 => typed::<8>(count, src, dst),
            16 => typed::<16>(count, src, dst),
            _ => {
                for i in 0..count {
                    std::ptr::copy_nonoverlapping(src, dst.add(i * element), element);
                }
            }
        }
    }
}

/// A place in the outer axes, in row-major order.
struct Cursor {
    index: SmallVec<[usize; 6]>,
    src: isize,
    dst: isize,
}

impl Cursor {
    fn new(axes: &[Axis], mut at: usize) -> Cursor {
        let mut index = SmallVec::from_elem(0, axes.len());
        let (mut src, mut dst) = (0, 0);
        for (i, axis) in axes.iter().enumerate().rev() {
            index[i] = at % axis.size;
            at /= axis.size;
            src += index[i] as isize * axis.src;
            dst += index[i] as isize * axis.dst;
        }
        Cursor { index, src, dst }
    }

    #[inline]
    fn advance(&mut self, axes: &[Axis]) {
        for (i, axis) in axes.iter().enumerate().rev() {
            self.index[i] += 1;
            self.src += axis.src;
            self.dst += axis.dst;
            if self.index[i] < axis.size {
                return;
            }
            self.src -= axis.src * axis.size as isize;
            self.dst -= axis.dst * axis.size as isize;
            self.index[i] = 0;
        }
    }
}
