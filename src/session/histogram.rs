//! Latency histograms, for the SQL that sums up the ledger. Declared in sql/rollup.sql.

use crate::core::histogram;
use pgrx::prelude::*;

/// The upper ends of all places but the last, in milliseconds.
#[pg_extern(sql = false)]
fn aggregator_latency_bounds() -> Vec<i32> {
    histogram::BOUNDS.to_vec()
}

/// The histogram that counts one latency so many times.
#[pg_extern(sql = false)]
fn aggregator_latency_histogram(latency_ms: i32, times: i32) -> Vec<i32> {
    let mut counts = [0; histogram::PLACES];
    counts[histogram::place(latency_ms)] = times;
    counts.to_vec()
}

/// Two histograms as one.
#[pg_extern(sql = false)]
fn aggregator_add_histograms(one: Array<'_, i32>, other: Array<'_, i32>) -> Vec<i32> {
    let counts =
        |array: &Array<'_, i32>| array.iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
    histogram::add(&counts(&one), &counts(&other)).to_vec()
}

/// The latency below which this share of a histogram is; NULL if it is empty.
#[pg_extern(sql = false)]
fn aggregator_percentile(histogram: Array<'_, i64>, share: f64) -> Option<i32> {
    let counts: Vec<i64> = histogram.iter().map(Option::unwrap_or_default).collect();
    histogram::percentile(&counts, share).map(|latency| latency.round() as i32)
}
