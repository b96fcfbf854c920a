//! The prepared statements that write the ledger, a batch at a time.

use crate::fresh::Plan;
use crate::installed::Installed;
use crate::route_cache;
use crate::worker::rollup_statements::RollupStatements;
use pgrx::PgOid;
use pgrx::pg_sys::{
    BOOLARRAYOID, INT2ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, INT8OID, Oid, TEXTARRAYOID,
    TIMESTAMPTZARRAYOID, UUIDARRAYOID,
};
use pgrx::spi::{self, OwnedPreparedStatement, SpiClient};

/// A plan that was made while the tables were nearly empty may read all of a small index; after so many
/// rows, and then after four times as many again, another is made.
const FIRST_ROWS: u64 = 64;

/// A statement that writes many rows, and the same for few, whose plan is the shorter. Plans are generic, and
/// made at the first use.
pub struct Writer {
    many: OwnedPreparedStatement,
    few: OwnedPreparedStatement,
    rows_of_few: usize,
}

/// Where statements take their rows from, and in which order.
const OF_MANY: [&str; 3] = [
    "FROM unnest($1) WITH ORDINALITY AS given (first, i)",
    "ORDER BY 1, 2, 3, 4, 5, 6, 7\n",
    "ORDER BY 1, 2, 3, 4, 5\n",
];
/// What stands there for one row, and for two that are in order.
const OF_ONE: [&str; 3] = ["FROM (SELECT 1) AS given (i)", "\n", "\n"];
const OF_TWO: [&str; 3] = ["FROM (VALUES (1), (2)) AS given (i)", "\n", "\n"];

impl Writer {
    pub fn prepare(client: &SpiClient<'_>, sql: &str, types: &[Oid]) -> spi::Result<Self> {
        Self::prepare_with(client, sql, types, OF_ONE, 1)
    }

    /// Where few rows are two, which are given in the order of their keys.
    pub fn of_pairs(client: &SpiClient<'_>, sql: &str, types: &[Oid]) -> spi::Result<Self> {
        Self::prepare_with(client, sql, types, OF_TWO, 2)
    }

    fn prepare_with(
        client: &SpiClient<'_>,
        sql: &str,
        types: &[Oid],
        of_few: [&str; 3],
        rows_of_few: usize,
    ) -> spi::Result<Self> {
        let types: Vec<PgOid> = types.iter().map(|oid| PgOid::from(*oid)).collect();
        let prepare = |sql: &str| client.prepare_mut(sql, &types).map(|plan| plan.keep());
        let sql_of_few = OF_MANY
            .iter()
            .zip(of_few)
            .fold(sql.to_owned(), |sql, (many, few)| sql.replace(many, few));
        Ok(Self { many: prepare(sql)?, few: prepare(&sql_of_few)?, rows_of_few })
    }

    pub fn of(&self, rows: usize) -> &OwnedPreparedStatement {
        if rows == self.rows_of_few { &self.few } else { &self.many }
    }
}

/// Of begin.sql and record.sql, what is about gateway keys and tags, whose arrays are the last arguments.
const LABELS_OF_ROWS: [&str; 3] =
    [", gateway_key_id, tags", ",\n    $13[i], $14[i]::text[]", ", $34[i], $35[i]::text[]"];
const ARRAYS_OF_LABELS: usize = 2;

/// A statement that writes new rows, and the same without what is about gateway keys and tags: mostly no row has
/// any.
pub struct NewRows {
    labelled: Writer,
    plain: Writer,
}

impl NewRows {
    fn prepare(client: &SpiClient<'_>, sql: &str, types: &[Oid]) -> spi::Result<Self> {
        let plain = LABELS_OF_ROWS.iter().fold(sql.to_owned(), |sql, part| sql.replace(part, ""));
        let types_of_plain = &types[..types.len() - ARRAYS_OF_LABELS];
        Ok(Self {
            labelled: Writer::prepare(client, sql, types)?,
            plain: Writer::prepare(client, &plain, types_of_plain)?,
        })
    }

    pub fn of(&self, rows: usize, are_labelled: bool) -> &OwnedPreparedStatement {
        if are_labelled { self.labelled.of(rows) } else { self.plain.of(rows) }
    }
}

/// What writes the ledger, all of it or one partition.
pub struct Ledger {
    pub begin: NewRows,
    pub settle: Writer,
    pub record: NewRows,
}

/// The partition that holds what happens now. Whoever writes it by its name need not look where each row
/// belongs, and runs no trigger of the whole ledger.
pub struct Present {
    pub ledger: Ledger,
    /// Of the ledger, when this was its partition.
    generation: u64,
    /// Microseconds since 1970; `None`: without an end.
    since: Option<i64>,
    until: Option<i64>,
}

pub struct LedgerStatements {
    /// All of the ledger.
    pub whole: Ledger,
    pub present: Option<Present>,
    pub price_lists: Plan,
    pub rollups: RollupStatements,
}

/// The arguments of begin.sql.
const BEGIN: &[Oid] = &[
    UUIDARRAYOID,
    INT2ARRAYOID,
    TIMESTAMPTZARRAYOID,
    TEXTARRAYOID,
    UUIDARRAYOID,
    UUIDARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    INT8ARRAYOID,
    BOOLARRAYOID,
    BOOLARRAYOID,
    INT8OID,
    UUIDARRAYOID,
    TEXTARRAYOID,
];

/// The arguments of settle.sql, and the first of record.sql.
const SETTLE: &[Oid] = &[
    UUIDARRAYOID,
    INT2ARRAYOID,
    TIMESTAMPTZARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    // Nine counts of tokens and two times.
    INT4ARRAYOID,
    INT4ARRAYOID,
    INT4ARRAYOID,
    INT4ARRAYOID,
    INT4ARRAYOID,
    INT4ARRAYOID,
    INT4ARRAYOID,
    INT4ARRAYOID,
    INT4ARRAYOID,
    INT4ARRAYOID,
    INT4ARRAYOID,
    INT2ARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    INT8ARRAYOID,
    TEXTARRAYOID,
];

/// The other arguments of record.sql.
const RECORD: &[Oid] = &[
    UUIDARRAYOID,
    UUIDARRAYOID,
    TEXTARRAYOID,
    BOOLARRAYOID,
    BOOLARRAYOID,
    INT8OID,
    UUIDARRAYOID,
    TEXTARRAYOID,
];

impl Ledger {
    /// `table`: quoted.
    fn prepare(client: &SpiClient<'_>, installed: &Installed, table: &str) -> spi::Result<Self> {
        let sql = |sql: &str| installed.sql(&sql.replace("@ledger@", table));
        let begin = sql(include_str!("../../sql/statements/begin.sql"));
        let settle = sql(include_str!("../../sql/statements/settle.sql"));
        let record = sql(include_str!("../../sql/statements/record.sql"));
        Ok(Self {
            begin: NewRows::prepare(client, &begin, BEGIN)?,
            settle: Writer::prepare(client, &settle, SETTLE)?,
            record: NewRows::prepare(client, &record, &[SETTLE, RECORD].concat())?,
        })
    }
}

impl LedgerStatements {
    pub fn prepare(client: &SpiClient<'_>, installed: &Installed) -> spi::Result<Self> {
        Ok(Self {
            whole: Ledger::prepare(client, installed, "@extschema@.aggregator_usage_logs")?,
            present: None,
            price_lists: Plan::prepare(
                client,
                &installed.sql(include_str!("../../sql/statements/price_lists.sql")),
                &[UUIDARRAYOID, TEXTARRAYOID],
            )?,
            rollups: RollupStatements::prepare(client, installed)?,
        })
    }

    /// Finds the partition that holds what happens now.
    pub fn locate(&mut self, client: &SpiClient<'_>, installed: &Installed) -> spi::Result<()> {
        let sql = installed.sql(include_str!("../../sql/statements/partition_of_now.sql"));
        self.present = None;
        let generation = route_cache::ledger_generation();
        for row in client.select(sql.as_str(), Some(1), &[])? {
            let Some(table) = row.get::<String>(1)? else { continue };
            let ledger = Ledger::prepare(client, installed, &table)?;
            let (since, until) = (row.get::<i64>(2)?, row.get::<i64>(3)?);
            self.present = Some(Present { ledger, generation, since, until });
        }
        Ok(())
    }

    /// Whether rows of these moments (microseconds since 1970) all belong there.
    pub fn are_present(&self, mut moments: impl Iterator<Item = i64>) -> bool {
        self.present.as_ref().is_some_and(|present| {
            moments.all(|moment| {
                present.since.is_none_or(|since| moment >= since)
                    && present.until.is_none_or(|until| moment < until)
            })
        })
    }

    /// Whether the partition may have been detached, or another may be that of now.
    pub fn is_stale(&self) -> bool {
        self.present
            .as_ref()
            .is_some_and(|present| present.generation != route_cache::ledger_generation())
    }
}

/// When to plan the statements anew.
#[derive(Debug)]
pub struct Growth {
    rows: u64,
    limit: u64,
}

impl Growth {
    pub fn new() -> Self {
        Self { rows: 0, limit: FIRST_ROWS }
    }

    /// So many rows were written. Says whether the tables have outgrown their plans.
    pub fn add(&mut self, rows: usize) -> bool {
        self.rows = self.rows.saturating_add(rows as u64);
        let has_outgrown = self.rows >= self.limit;
        if has_outgrown {
            self.limit = self.rows.saturating_mul(4);
        }
        has_outgrown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_statement_takes_its_rows_from_where_one_can_stand() {
        for (sql, order) in [
            (include_str!("../../sql/statements/begin.sql"), None),
            (include_str!("../../sql/statements/settle.sql"), None),
            (include_str!("../../sql/statements/record.sql"), None),
            (include_str!("../../sql/statements/add_hourly.sql"), Some(OF_MANY[2])),
            (include_str!("../../sql/statements/add_totals.sql"), Some(OF_MANY[2])),
            (include_str!("../../sql/statements/add_labels.sql"), Some(OF_MANY[1])),
        ] {
            assert!(sql.contains(OF_MANY[0]), "{sql}");
            for known in &OF_MANY[1..] {
                assert_eq!(sql.contains(known), order == Some(known), "{sql}");
            }
        }
    }

    #[test]
    fn rows_without_labels_are_written_without_a_word_of_them() {
        for (sql, parts) in [
            (include_str!("../../sql/statements/begin.sql"), [0, 1]),
            (include_str!("../../sql/statements/record.sql"), [0, 2]),
        ] {
            for (i, part) in LABELS_OF_ROWS.iter().enumerate() {
                let expected = usize::from(parts.contains(&i));
                assert_eq!(sql.matches(part).count(), expected, "{part} in {sql}");
            }
        }
        let last = [UUIDARRAYOID, TEXTARRAYOID];
        assert!(BEGIN.ends_with(&last) && RECORD.ends_with(&last));
    }
}
