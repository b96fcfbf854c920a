//! The prepared statements that write the ledger, a batch at a time.

use crate::installed::Installed;
use pgrx::PgOid;
use pgrx::pg_sys::{
    BOOLARRAYOID, INT2ARRAYOID, INT4ARRAYOID, INT8ARRAYOID, INT8OID, Oid, TEXTARRAYOID,
    TIMESTAMPTZARRAYOID, UUIDARRAYOID,
};
use pgrx::spi::{self, OwnedPreparedStatement, SpiClient};

/// A plan that was made while the tables were nearly empty may read all of a small index; after so many
/// rows, and then after four times as many again, another is made.
const FIRST_ROWS: u64 = 64;

/// Their plans are generic, and made at the first use.
pub struct LedgerStatements {
    pub begin: OwnedPreparedStatement,
    pub settle: OwnedPreparedStatement,
    pub price_lists: OwnedPreparedStatement,
    pub add_hourly: OwnedPreparedStatement,
    pub add_totals: OwnedPreparedStatement,
}

/// The arguments of add_hourly.sql and add_totals.sql.
const SUMS: &[Oid] = &[
    TEXTARRAYOID,
    TIMESTAMPTZARRAYOID,
    UUIDARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    INT8ARRAYOID,
    TEXTARRAYOID,
    INT4ARRAYOID,
];

impl LedgerStatements {
    pub fn prepare(client: &SpiClient<'_>, installed: &Installed) -> spi::Result<Self> {
        let prepare = |sql: &str, types: &[Oid]| {
            let types: Vec<PgOid> = types.iter().map(|oid| PgOid::from(*oid)).collect();
            client.prepare_mut(installed.sql(sql).as_str(), &types).map(|plan| plan.keep())
        };
        Ok(Self {
            begin: prepare(
                include_str!("../../sql/statements/begin.sql"),
                &[
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
                ],
            )?,
            settle: prepare(
                include_str!("../../sql/statements/settle.sql"),
                &[
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
                ],
            )?,
            price_lists: prepare(
                include_str!("../../sql/statements/price_lists.sql"),
                &[UUIDARRAYOID, TEXTARRAYOID],
            )?,
            add_hourly: prepare(include_str!("../../sql/statements/add_hourly.sql"), SUMS)?,
            add_totals: prepare(include_str!("../../sql/statements/add_totals.sql"), SUMS)?,
        })
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
