//! The static memory plan: where in the arena each buffer lies.
//!
//! Time is counted in steps. Each buffer is live from the step that first writes it to the step that last reads it;
//! buffers that are live together do not overlap. Larger buffers are placed first, each at the lowest gap that is free for
//! its whole life: the greedy-by-size order of Pisarchyk and Lee, "Efficient memory management for deep neural net inference"
//! (2020), which they measured within a few percent of the lower bound.

/// Alignment of every buffer in bytes: a cache line, and the width of the widest vector.
pub(crate) const ALIGNMENT: usize = 64;

/// Rounds up to the alignment of buffers.
pub(crate) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// A buffer with the steps between which it is live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Buffer {
    pub bytes: usize,
    pub first: usize,
    pub last: usize,
    /// The place of buffers that are kept between calls.
    pub fixed: Option<usize>,
}

/// The offset of every buffer, those without a place at or after `start`, and the bytes of the whole arena.
pub(crate) fn place(buffers: &[Buffer], start: usize) -> (Vec<usize>, usize) {
    let mut offsets = vec![0; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut order: Vec<usize> = (0..buffers.len()).filter(|index| buffers[*index].fixed.is_none()).collect();
    order.sort_by_key(|index| (std::cmp::Reverse(buffers[*index].bytes), *index));
    let mut end = start;
    for index in order {
        let buffer = &buffers[index];
        let bytes = aligned(buffer.bytes);
        let mut taken: Vec<(usize, usize)> = placed
            .iter()
            .filter(|other| buffers[**other].first <= buffer.last && buffer.first <= buffers[**other].last)
            .map(|other| (offsets[*other], offsets[*other] + aligned(buffers[*other].bytes)))
            .collect();
        taken.sort();
        let mut at = start;
        for (low, high) in taken {
            if at + bytes <= low {
                break;
            }
            at = at.max(high);
        }
        offsets[index] = at;
        end = end.max(at + bytes);
        placed.push(index);
    }
    for (offset, buffer) in offsets.iter_mut().zip(buffers) {
        if let Some(fixed) = buffer.fixed {
            *offset = fixed;
        }
    }
    (offsets, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_buffers_do_not_overlap_and_dead_ones_share() {
        let buffer = |bytes, first, last| Buffer { bytes, first, last, fixed: None };
        let buffers = [buffer(100, 0, 1), buffer(64, 1, 2), buffer(128, 2, 3), buffer(1, 0, 9)];
        let (offsets, end) = place(&buffers, 64);
        for (i, a) in buffers.iter().enumerate() {
            assert!(offsets[i] >= 64 && offsets[i] % ALIGNMENT == 0);
            for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                let together = a.first <= b.last && b.first <= a.last;
                let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                assert!(!together || apart, "{i} {j}");
            }
        }
        assert_eq!(end, 64 + 128 + 64 + 64);
    }
}
