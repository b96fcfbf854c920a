//! How big a row of the ledger is when it was written as the worker writes it: pending first and then settled,
//! with what that leaves behind in the table and in its indexes.

use crate::bed::{rows, value};
use crate::filled::{execute, insert};
use tokio_postgres::Client;

const ROWS: usize = 100_000;
/// Between vacuums, which autovacuum would do.
const PART: usize = 10_000;
/// Rows that begin in one commit, beside as many that settle: of one client, and of 8 and more whose answers
/// come at once.
const BATCHES: [usize; 3] = [1, 8, 16];
/// A month of 31 days that nobody else writes.
const MONTH: [&str; 2] = ["2020-01-01 00:00:00+00", "2020-02-01 00:00:00+00"];

pub async fn print(root: &Client) {
    execute(root, include_str!("written.sql")).await;
    execute(root, &insert(ROWS, MONTH[0], "made", MONTH[0], MONTH[1])).await;
    // As the worker's statements find their rows.
    execute(
        root,
        "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off",
    )
    .await;
    println!("bytes per row, written as the worker does (aim 400 with indexes):");
    for batch in BATCHES {
        write(root, batch).await;
    }
    execute(root, "RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin").await;
    execute(root, "DROP PROCEDURE write_as_worker; DROP TABLE made").await;
}

async fn write(root: &Client, batch: usize) {
    execute(root, "VACUUM ANALYZE made").await;
    execute(root, &format!("SELECT aggregator_make_partition('{}')", MONTH[0])).await;
    let partition =
        format!("SELECT partition FROM aggregator_partitions() WHERE since = '{}'", MONTH[0]);
    let partition = value(root, &partition).await.expect("the partition was made");
    for first in (0..ROWS).step_by(PART) {
        let last = first + PART;
        execute(root, &format!("CALL write_as_worker('{partition}', {first}, {last}, {batch})"))
            .await;
        execute(root, &format!("VACUUM ANALYZE {partition}")).await;
    }
    let settled = format!("SELECT count(*) FROM {partition} WHERE status <> 'pending'");
    assert_eq!(value(root, &settled).await, Some(ROWS.to_string()), "every row is settled");
    let sizes = format!(
        "SELECT round(pg_total_relation_size(c.oid) / {ROWS}.0, 1), round(pg_table_size(c.oid) / {ROWS}.0, 1),
             (SELECT string_agg(format('%s %s', substring(pg_get_indexdef(indexrelid) FROM 'USING (.*?\\))'),
                 round(pg_relation_size(indexrelid) / {ROWS}.0, 1)), ', ' ORDER BY indexrelid)
             FROM pg_index WHERE indrelid = c.oid),
             pg_stat_get_tuples_hot_updated(c.oid) * 100 / pg_stat_get_tuples_updated(c.oid)
         FROM pg_class AS c WHERE c.oid = '{partition}'::regclass"
    );
    let sizes = rows(root, &sizes).await;
    let [total, heap, indexes, hot] = sizes[0].split('|').collect::<Vec<_>>()[..] else {
        panic!("{sizes:?}");
    };
    println!(
        "  {batch:>2} per commit {total:>8}: heap {heap}, {indexes}; {hot} % settled in their page"
    );
    execute(root, &format!("DROP TABLE {partition}")).await;
}
