//! The worker's prepared statements.

use crate::installed::Installed;
use pgrx::PgOid;
use pgrx::pg_sys::{
    BOOLOID, INT2OID, INT4OID, INT8OID, Oid, TEXTOID, TIMESTAMPTZOID, UUIDARRAYOID, UUIDOID,
};
use pgrx::spi::{self, OwnedPreparedStatement, SpiClient};

/// Prepared once per life of the worker.
pub struct Statements {
    pub begin: OwnedPreparedStatement,
    pub settle: OwnedPreparedStatement,
    pub used: OwnedPreparedStatement,
    pub store: OwnedPreparedStatement,
    pub low_water: OwnedPreparedStatement,
}

const STORE: &str = "SELECT @extschema@.aggregator_store_catalogue($1, $2::jsonb, $3)";
const LOW_WATER: &str = "
    UPDATE @extschema@.aggregator_worker_epochs SET low_water = $2 WHERE epoch = $1";

impl Statements {
    pub fn prepare(client: &SpiClient, installed: &Installed) -> spi::Result<Self> {
        let prepare = |sql: &str, types: &[Oid]| {
            let types: Vec<PgOid> = types.iter().map(|oid| PgOid::from(*oid)).collect();
            client.prepare_mut(installed.sql(sql).as_str(), &types).map(|plan| plan.keep())
        };
        Ok(Self {
            begin: prepare(
                include_str!("../../sql/statements/begin.sql"),
                &[UUIDOID, INT2OID, TIMESTAMPTZOID, TEXTOID, UUIDOID, UUIDOID, TEXTOID, INT8OID],
            )?,
            settle: prepare(
                include_str!("../../sql/statements/settle.sql"),
                &[
                    UUIDOID,
                    INT2OID,
                    TIMESTAMPTZOID,
                    UUIDOID,
                    TEXTOID,
                    TEXTOID,
                    TEXTOID,
                    TEXTOID,
                    BOOLOID,
                    TEXTOID,
                    INT4OID,
                    INT4OID,
                    INT4OID,
                    INT2OID,
                    TEXTOID,
                    TEXTOID,
                    TEXTOID,
                    // The six kinds of tokens.
                    INT4OID,
                    INT4OID,
                    INT4OID,
                    INT4OID,
                    INT4OID,
                    INT4OID,
                ],
            )?,
            used: prepare(include_str!("../../sql/statements/used.sql"), &[UUIDARRAYOID])?,
            store: prepare(STORE, &[UUIDOID, TEXTOID, BOOLOID])?,
            low_water: prepare(LOW_WATER, &[INT8OID, TIMESTAMPTZOID])?,
        })
    }
}
