//! Lifetime-based placement of buffers in one arena.

/// A buffer to be placed: alive from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub bytes: usize,
    pub first: u32,
    pub last: u32,
}

/// Where a buffer lies, and which step must be over before its memory may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    pub offset: usize,
    /// The last step that used this memory before, if any did.
    pub after: Option<u32>,
}

const ALIGN: usize = 64;

#[derive(Clone, Copy)]
struct Hole {
    offset: usize,
    bytes: usize,
    /// Latest last use of what lay here.
    after: Option<u32>,
}

/// Places all requests; returns the placements, in their order, and the arena's size.
///
/// A best-fit free list walked in step order: near-linear, and within a few percent of the largest live set on real
/// networks. Requests of zero bytes lie at offset 0.
pub(crate) fn plan(requests: &[Request]) -> (Vec<Placement>, usize) {
    let mut placements = vec![Placement::default(); requests.len()];
    let mut by_first: Vec<u32> =
        (0..requests.len() as u32).filter(|i| requests[*i as usize].bytes > 0).collect();
    // Larger ones first within a step: they have the harder fit.
    by_first.sort_by_key(|i| (requests[*i as usize].first, std::cmp::Reverse(requests[*i as usize].bytes)));
    let mut by_last = by_first.clone();
    by_last.sort_by_key(|i| requests[*i as usize].last);
    let mut dying = by_last.into_iter().peekable();
    let mut holes: Vec<Hole> = Vec::new();
    let mut top = 0usize;
    for i in by_first {
        let r = requests[i as usize];
        while let Some(d) = dying.next_if(|d| requests[*d as usize].last < r.first) {
            let dead = requests[d as usize];
            let bytes = dead.bytes.next_multiple_of(ALIGN);
            release(
                &mut holes,
                Hole { offset: placements[d as usize].offset, bytes, after: Some(dead.last) },
            );
        }
        let bytes = r.bytes.next_multiple_of(ALIGN);
        let fit = holes.iter().enumerate().filter(|(_, h)| h.bytes >= bytes).min_by_key(|(_, h)| h.bytes);
        placements[i as usize] = match fit.map(|(k, _)| k) {
            Some(k) => {
                let h = holes[k];
                if h.bytes == bytes {
                    holes.remove(k);
                } else {
                    holes[k] = Hole { offset: h.offset + bytes, bytes: h.bytes - bytes, after: h.after };
                }
                Placement { offset: h.offset, after: h.after }
            }
            None => {
                // Extend the topmost hole rather than leaving it behind.
                match holes.last().copied() {
                    Some(h) if h.offset + h.bytes == top => {
                        holes.pop();
                        top = h.offset + bytes;
                        Placement { offset: h.offset, after: h.after }
                    }
                    _ => {
                        top += bytes;
                        Placement { offset: top - bytes, after: None }
                    }
                }
            }
        };
    }
    (placements, top)
}

/// Inserts a hole in offset order and merges it with its neighbours.
fn release(holes: &mut Vec<Hole>, hole: Hole) {
    let at = holes.partition_point(|h| h.offset < hole.offset);
    holes.insert(at, hole);
    if at + 1 < holes.len() && holes[at].offset + holes[at].bytes == holes[at + 1].offset {
        let next = holes.remove(at + 1);
        holes[at].bytes += next.bytes;
        holes[at].after = holes[at].after.max(next.after);
    }
    if at > 0 && holes[at - 1].offset + holes[at - 1].bytes == holes[at].offset {
        let this = holes.remove(at);
        holes[at - 1].bytes += this.bytes;
        holes[at - 1].after = holes[at - 1].after.max(this.after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn live_buffers_never_overlap(raw in prop::collection::vec((0usize..5000, 0u32..40, 0u32..10), 1..60)) {
            let requests: Vec<Request> =
                raw.iter().map(|(bytes, first, len)| Request { bytes: *bytes, first: *first, last: first + len }).collect();
            let (places, size) = plan(&requests);
            for (i, a) in requests.iter().enumerate() {
                prop_assert!(places[i].offset % ALIGN == 0 && places[i].offset + a.bytes <= size);
                for (j, b) in requests.iter().enumerate() {
                    if i == j || a.bytes == 0 || b.bytes == 0 {
                        continue;
                    }
                    let (x, y) = (places[i].offset, places[j].offset);
                    if x < y + b.bytes && y < x + a.bytes {
                        // Same memory: disjoint in time, and the later one knows of the earlier one.
                        prop_assert!(a.last < b.first || b.last < a.first);
                        if a.last < b.first {
                            prop_assert!(places[j].after.is_some_and(|s| s >= a.last));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let chain: Vec<Request> = (0..10).map(|i| Request { bytes: 640, first: i, last: i + 1 }).collect();
        assert_eq!(plan(&chain).1, 1280);
    }
}
