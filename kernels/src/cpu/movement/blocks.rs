//! Transposition of matrices of elements of 1 to 16 bytes, in blocks that fill cache lines.

/// Elements of a 64-byte cache line: the size of the blocks.
pub(super) fn line(element: usize) -> usize {
    (64 / element).max(1)
}

/// Writes the transpose of a matrix: element `(q, p)` at `src + q * src_row + p * element` goes to
/// `dst + p * dst_row + q * element`, for `p < ps` and `q < qs`. Strides are in bytes.
///
/// # Safety
/// All elements are readable and writable, and the matrices do not overlap.
pub(crate) unsafe fn transpose(
    element: usize,
    ps: usize,
    qs: usize,
    src: *const u8,
    src_row: isize,
    dst: *mut u8,
    dst_row: isize,
) {
    // SAFETY: passed on.
    unsafe {
        match element {
            1 => blocked::<1, 16>(ps, qs, src, src_row, dst, dst_row),
            2 => blocked::<2, 8>(ps, qs, src, src_row, dst, dst_row),
            4 => blocked::<4, 4>(ps, qs, src, src_row, dst, dst_row),
            8 => blocked::<8, 2>(ps, qs, src, src_row, dst, dst_row),
            16 => blocked::<16, 1>(ps, qs, src, src_row, dst, dst_row),
            _ => {
                for p in 0..ps as isize {
                    for q in 0..qs as isize {
                        let s = src.offset(q * src_row + p * element as isize);
                        let d = dst.offset(p * dst_row + q * element as isize);
                        std::ptr::copy_nonoverlapping(s, d, element);
                    }
                }
            }
        }
    }
}

/// Cache lines of a tile in both directions: long enough for prefetchers, small enough for the second-level cache.
const TILE: usize = 4;

/// [`transpose`] for elements of `E` bytes, `N = 16 / E` of which fill a vector.
///
/// # Safety
/// As [`transpose`].
unsafe fn blocked<const E: usize, const N: usize>(
    ps: usize,
    qs: usize,
    src: *const u8,
    src_row: isize,
    dst: *mut u8,
    dst_row: isize,
) {
    let tile = TILE * 64 / E;
    let line = 64 / E;
    let (whole_p, whole_q) = (ps / N * N, qs / N * N);
    // SAFETY: blocks, strips and tiles inside the matrices.
    unsafe {
        for p1 in (0..whole_p).step_by(tile) {
            for q1 in (0..whole_q).step_by(tile) {
                let (pe, qe) = (whole_p.min(p1 + tile), whole_q.min(q1 + tile));
                // Lines of both sides are used up while they are in the first-level cache.
                for q0 in (q1..qe).step_by(line) {
                    for p0 in (p1..pe).step_by(line) {
                        for q in (q0..qe.min(q0 + line)).step_by(N) {
                            for p in (p0..pe.min(p0 + line)).step_by(N) {
                                let s = src.offset(q as isize * src_row).add(p * E);
                                let d = dst.offset(p as isize * dst_row).add(q * E);
                                whole::<E, N>(s, src_row, d, dst_row);
                            }
                        }
                    }
                }
            }
        }
        let (s, d) = (src.offset(whole_q as isize * src_row), dst.add(whole_q * E));
        strip::<E>(ps, qs - whole_q, s, E as isize, src_row, d, dst_row, E as isize);
        let (s, d) = (src.add(whole_p * E), dst.offset(whole_p as isize * dst_row));
        strip::<E>(whole_q, ps - whole_p, s, src_row, E as isize, d, E as isize, dst_row);
    }
}

/// Copies `width` lines of `len` elements, which are closer than the elements of a line on one of the two sides: a part
/// of all lines at a time, so that what is touched again is still in the cache.
///
/// # Safety
/// Element `i` of line `j` is readable at `src + i * src_step + j * src_line` and writable likewise.
#[inline(always)]
unsafe fn strip<const E: usize>(
    len: usize,
    width: usize,
    src: *const u8,
    src_step: isize,
    src_line: isize,
    dst: *mut u8,
    dst_step: isize,
    dst_line: isize,
) {
    const PART: usize = 256;
    for from in (0..len).step_by(PART) {
        for j in 0..width as isize {
            for i in from as isize..len.min(from + PART) as isize {
                // SAFETY: as above; byte arrays want no alignment.
                unsafe {
                    let x = src.offset(i * src_step + j * src_line).cast::<[u8; E]>().read();
                    dst.offset(i * dst_step + j * dst_line).cast::<[u8; E]>().write(x);
                }
            }
        }
    }
}

/// A full block of `N` by `N` elements.
///
/// # Safety
/// As [`transpose`].
#[inline(always)]
unsafe fn whole<const E: usize, const N: usize>(
    src: *const u8,
    src_row: isize,
    dst: *mut u8,
    dst_row: isize,
) {
    let mut rows = [[0u8; 16]; N];
    // SAFETY: `N` rows of 16 bytes each.
    unsafe {
        for (q, row) in rows.iter_mut().enumerate() {
            *row = src.offset(q as isize * src_row).cast::<[u8; 16]>().read();
        }
        let rows = network::<E, N>(rows);
        for (p, row) in rows.iter().enumerate() {
            dst.offset(p as isize * dst_row).cast::<[u8; 16]>().write(*row);
        }
    }
}

/// Copies 1 to 16 bytes by two overlapping moves.
///
/// # Safety
/// `bytes` is 1 to 16, and as many bytes are readable and writable.
#[inline(always)]
pub(super) unsafe fn copy_up_to_16(bytes: usize, src: *const u8, dst: *mut u8) {
    /// # Safety
    /// `N <= bytes <= 2 * N`.
    #[inline(always)]
    unsafe fn ends<const N: usize>(bytes: usize, src: *const u8, dst: *mut u8) {
        // SAFETY: both moves lie inside; byte arrays want no alignment.
        unsafe {
            let (a, b) = (src.cast::<[u8; N]>().read(), src.add(bytes - N).cast::<[u8; N]>().read());
            dst.cast::<[u8; N]>().write(a);
            dst.add(bytes - N).cast::<[u8; N]>().write(b);
        }
    }
    // SAFETY: passed on.
    unsafe {
        match bytes {
            8.. => ends::<8>(bytes, src, dst),
            4.. => ends::<4>(bytes, src, dst),
            2.. => ends::<2>(bytes, src, dst),
            _ => dst.write(src.read()),
        }
    }
}

/// Transposes `N` vectors of `N` elements: in every round, the first and the second half of the vectors are interleaved.
#[inline(always)]
fn network<const E: usize, const N: usize>(mut rows: [[u8; 16]; N]) -> [[u8; 16]; N] {
    let mut round = 1;
    while round < N {
        let mut next = rows;
        for i in 0..N / 2 {
            let (low, high) = interleave::<E>(rows[i], rows[i + N / 2]);
            next[2 * i] = low;
            next[2 * i + 1] = high;
        }
        rows = next;
        round *= 2;
    }
    rows
}

/// Elements of `a` and `b` in turn: of their first halves, and of their second halves.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn interleave<const E: usize>(a: [u8; 16], b: [u8; 16]) -> ([u8; 16], [u8; 16]) {
    use std::arch::x86_64::*;
    // SAFETY: every x86-64 CPU has SSE2; vectors and byte arrays have the same size and any bits are valid for both.
    unsafe {
        let a = std::mem::transmute::<[u8; 16], __m128i>(a);
        let b = std::mem::transmute::<[u8; 16], __m128i>(b);
        let (low, high) = match E {
            1 => (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)),
            2 => (_mm_unpacklo_epi16(a, b), _mm_unpackhi_epi16(a, b)),
            4 => (_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b)),
            _ => (_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b)),
        };
        (std::mem::transmute::<__m128i, [u8; 16]>(low), std::mem::transmute::<__m128i, [u8; 16]>(high))
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn interleave<const E: usize>(a: [u8; 16], b: [u8; 16]) -> ([u8; 16], [u8; 16]) {
    let half = |from: usize| {
        let mut out = [0; 16];
        for i in 0..8 / E {
            let (at, to) = (from + i * E, 2 * i * E);
            out[to..to + E].copy_from_slice(&a[at..at + E]);
            out[to + E..to + 2 * E].copy_from_slice(&b[at..at + E]);
        }
        out
    };
    (half(0), half(8))
}
