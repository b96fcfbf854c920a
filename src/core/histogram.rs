//! Latencies, counted by size, so that hours can be added up and still give a percentile.

/// Upper ends in milliseconds, exclusive, of all places but the last: each is about 1.6 times the
/// one before.
pub const BOUNDS: [i32; 23] = [
    10, 16, 25, 40, 63, 100, 160, 250, 400, 630, 1_000, 1_600, 2_500, 4_000, 6_300, 10_000, 16_000,
    25_000, 40_000, 63_000, 100_000, 160_000, 250_000,
];
pub const PLACES: usize = BOUNDS.len() + 1;

/// The place that counts a latency.
pub fn place(latency_ms: i32) -> usize {
    BOUNDS.partition_point(|bound| *bound <= latency_ms)
}

/// Two histograms as one. What has no place is left out.
pub fn add(one: &[i32], other: &[i32]) -> [i32; PLACES] {
    let at = |counts: &[i32], i: usize| counts.get(i).copied().unwrap_or(0);
    std::array::from_fn(|i| at(one, i).saturating_add(at(other, i)))
}

/// The latency in milliseconds below which this share of all is, as if a place's were spread evenly
/// between its ends. `None` if nothing was counted; in the last place, its lower end.
pub fn percentile(counts: &[i64], share: f64) -> Option<f64> {
    let total: i64 = counts.iter().sum();
    if total <= 0 {
        return None;
    }
    let wanted = whole(share.clamp(0.0, 1.0) * total as f64);
    let mut below = 0.0;
    for (i, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = *count as f64;
        if below + count >= wanted {
            let lower = if i == 0 { 0.0 } else { f64::from(BOUNDS[(i - 1).min(BOUNDS.len() - 1)]) };
            let upper = BOUNDS.get(i).map_or(lower, |bound| f64::from(*bound));
            return Some(lower + (upper - lower) * ((wanted - below) / count));
        }
        below += count;
    }
    BOUNDS.last().map(|bound| f64::from(*bound))
}

/// A count that was meant whole: 0.07 of 100 is 7.000000000000001 in binary, and that last bit must not ask for one
/// more, which can be in a place far away.
fn whole(count: f64) -> f64 {
    let rounded = count.round();
    if (count - rounded).abs() <= rounded * 1e-12 { rounded } else { count }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_latency_at_a_bound_is_above_it() {
        for (latency, expected) in [
            (-1, 0),
            (0, 0),
            (9, 0),
            (10, 1),
            (15, 1),
            (16, 2),
            (249_999, 22),
            (250_000, 23),
            (i32::MAX, 23),
        ] {
            assert_eq!(place(latency), expected, "{latency}");
        }
    }

    #[test]
    fn nothing_has_no_percentile() {
        assert_eq!(percentile(&[0; PLACES], 0.95), None);
        assert_eq!(percentile(&[], 0.95), None);
    }

    #[test]
    fn a_percentile_lies_evenly_in_its_place() {
        let mut counts = [0; PLACES];
        counts[5] = 100;
        assert_eq!(percentile(&counts, 0.5), Some(81.5));
        assert_eq!(percentile(&counts, 1.0), Some(100.0));
        counts[23] = 900;
        assert_eq!(percentile(&counts, 0.95), Some(250_000.0));
    }

    #[test]
    fn no_share_asks_for_more_than_it_is() {
        for (count, total) in [(7, 50), (7, 100), (14, 100), (28, 100), (29, 100), (57, 1000)] {
            let mut counts = [0; PLACES];
            counts[0] = count;
            counts[23] = total - count;
            let share = count as f64 / total as f64;
            assert_eq!(percentile(&counts, share), Some(10.0), "{count} of {total}");
        }
    }

    proptest! {
        /// Within the place of the exact one.
        #[test]
        fn a_percentile_is_near_the_exact_one(
            mut latencies in prop::collection::vec(0..200_000, 1..200),
            percent in 1usize..=100,
        ) {
            let mut counts = [0; PLACES];
            for latency in &latencies {
                counts[place(*latency)] += 1;
            }
            latencies.sort_unstable();
            let exact = latencies[(latencies.len() * percent).div_ceil(100) - 1];
            let estimate = percentile(&counts, percent as f64 / 100.0).unwrap();
            let i = place(exact);
            let lower = if i == 0 { 0 } else { BOUNDS[i - 1] };
            prop_assert!(estimate >= f64::from(lower) && estimate <= f64::from(BOUNDS[i]), "{exact} {estimate}");
        }
    }
}
