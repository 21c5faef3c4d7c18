//! Cutting a row of blocks into stages so that the slowest takes least.

use std::ops::Range;

/// Halvings of the interval in which the slowest stage's time lies: to a part in 2^40 of it.
const HALVINGS: usize = 40;

/// The most stages times blocks for which every set of cuts is followed where the simple way fails.
const EXACT_MAX: usize = 1024;

/// Cuts `blocks` into `stages` ranges, none empty, so that the largest of `seconds(stage, range)` is least while every
/// `fits(stage, range)`. Both must not shrink when a range grows at its end, nor grow when it loses blocks at its start. None
/// where nothing fits.
///
/// For a bound on the slowest stage, each stage in turn takes as many blocks as it can; the least bound is found by halving.
/// Taking most leaves least for the others, so this finds a cut whenever there is one, unless a block is too much for the stage
/// that it comes to but not for a later one, as with unlike devices. Where a stage can take none so, all places that stages can end
/// at are therefore followed, in problems of up to [`EXACT_MAX`] stages times blocks; in those the cut is the best.
pub(crate) fn cut(
    blocks: usize,
    stages: usize,
    seconds: impl Fn(usize, Range<usize>) -> f64,
    fits: impl Fn(usize, Range<usize>) -> bool,
) -> Option<Vec<Range<usize>>> {
    if stages == 0 || stages > blocks {
        return None;
    }
    // The last end that is good for a stage from a start on; the start itself where none is.
    let reach = |stage: usize, start: usize, bound: f64| -> usize {
        let ok = |end: usize| seconds(stage, start..end) <= bound && fits(stage, start..end);
        let (mut good, mut bad) = (start, blocks - (stages - 1 - stage) + 1);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if ok(middle) { good = middle } else { bad = middle }
        }
        good
    };
    // Where it fails: whether a stage could take no block at all. If not, each stage ended as far on as it can, so no cut does better.
    let greedy = |bound: f64| -> Result<Vec<Range<usize>>, bool> {
        let mut ranges = Vec::with_capacity(stages);
        let mut start = 0;
        for stage in 0..stages {
            let end = reach(stage, start, bound);
            if end == start {
                return Err(true);
            }
            ranges.push(start..end);
            start = end;
        }
        if start == blocks { Ok(ranges) } else { Err(false) }
    };
    let exact = |bound: f64| -> Option<Vec<Range<usize>>> {
        // For each stage and end: the start that it was reached from.
        let mut from: Vec<Vec<Option<usize>>> = Vec::with_capacity(stages);
        let mut starts = vec![0];
        for stage in 0..stages {
            let mut ends = vec![None; blocks + 1];
            for start in &starts {
                for end in &mut ends[start + 1..=reach(stage, *start, bound)] {
                    *end = end.or(Some(*start));
                }
            }
            starts = (0..=blocks).filter(|end| ends[*end].is_some()).collect();
            from.push(ends);
        }
        let mut ranges = Vec::with_capacity(stages);
        let mut end = blocks;
        for ends in from.iter().rev() {
            let start = ends[end]?;
            ranges.push(start..end);
            end = start;
        }
        ranges.reverse();
        Some(ranges)
    };
    let follow = stages * blocks <= EXACT_MAX;
    let within = |bound: f64| match greedy(bound) {
        Ok(ranges) => Some(ranges),
        Err(stuck) if stuck && follow => exact(bound),
        Err(_) => None,
    };
    let mut best = within(f64::INFINITY)?;
    let slowest = |ranges: &[Range<usize>]| {
        ranges.iter().enumerate().map(|(stage, range)| seconds(stage, range.clone())).fold(0.0, f64::max)
    };
    // No bound is less than what the dearest block takes where it takes least.
    let alone = |block: usize| {
        (0..stages).map(|stage| seconds(stage, block..block + 1)).fold(f64::INFINITY, f64::min)
    };
    let least = if follow { (0..blocks).map(alone).fold(0.0, f64::max) } else { 0.0 };
    let (mut low, mut high) = (least.min(slowest(&best)), slowest(&best));
    for _ in 0..HALVINGS {
        let middle = low + (high - low) / 2.0;
        match within(middle) {
            Some(ranges) => {
                high = slowest(&ranges);
                best = ranges;
            }
            None => low = middle,
        }
    }
    Some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least over every way to cut.
    fn exhaustive(
        blocks: usize,
        stages: usize,
        seconds: &dyn Fn(usize, Range<usize>) -> f64,
        fits: &dyn Fn(usize, Range<usize>) -> bool,
        stage: usize,
        start: usize,
    ) -> f64 {
        if stage == stages {
            return if start == blocks { 0.0 } else { f64::INFINITY };
        }
        (start + 1..=blocks)
            .filter(|end| fits(stage, start..*end))
            .map(|end| {
                let rest = exhaustive(blocks, stages, seconds, fits, stage + 1, end);
                seconds(stage, start..end).max(rest)
            })
            .fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn cuts_are_as_good_as_the_best_of_all() {
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        for case in 0..200 {
            let blocks = 1 + case % 9;
            let stages = 1 + case / 9 % 4;
            let times: Vec<f64> = (0..blocks).map(|_| 0.1 + random()).collect();
            let bytes: Vec<f64> = (0..blocks).map(|_| random()).collect();
            let speeds: Vec<f64> = (0..stages).map(|_| 0.5 + random()).collect();
            let room = 0.5 + 3.0 * random();
            let sum = |of: &[f64], range: Range<usize>| of[range].iter().sum::<f64>();
            let seconds = |stage: usize, range: Range<usize>| sum(&times, range) / speeds[stage];
            // Earlier stages hold more microbatches.
            let fits =
                |stage: usize, range: Range<usize>| sum(&bytes, range) * (stages - stage) as f64 <= room;
            let best = exhaustive(blocks, stages, &seconds, &fits, 0, 0);
            match cut(blocks, stages, seconds, fits) {
                None => assert!(best.is_infinite(), "case {case}: {best}"),
                Some(ranges) => {
                    assert_eq!((ranges[0].start, ranges[stages - 1].end), (0, blocks));
                    assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
                    let own = ranges.iter().enumerate().map(|(at, range)| {
                        assert!(fits(at, range.clone()));
                        seconds(at, range.clone())
                    });
                    let own = own.fold(0.0, f64::max);
                    assert!(own <= best * (1.0 + 1e-12), "case {case}: {own} is not {best}");
                }
            }
        }
    }
}
