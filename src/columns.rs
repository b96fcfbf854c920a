//! The columns of a fetched catalogue, as arguments of the SQL that stores them.

use crate::core::catalogue::Columns;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::{INT4ARRAYOID, Oid, TEXTARRAYOID};

/// In the order of `aggregator_store_catalogue` and `aggregator_store_user_models`, after their other arguments.
pub const TYPES: [Oid; 8] = [
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    TEXTARRAYOID,
    INT4ARRAYOID,
    INT4ARRAYOID,
    TEXTARRAYOID,
];

pub fn arguments(columns: &Columns) -> [DatumWithOid<'_>; 8] {
    let pricing: Vec<_> = columns.pricing.iter().map(Option::as_deref).collect();
    [
        texts(&columns.model_ids).into(),
        texts(&columns.model_names).into(),
        texts(&columns.display_names).into(),
        texts(&columns.model_types).into(),
        texts(&columns.capabilities).into(),
        columns.context_windows.clone().into(),
        columns.max_output_tokens.clone().into(),
        pricing.into(),
    ]
}

fn texts(column: &[String]) -> Vec<&str> {
    column.iter().map(String::as_str).collect()
}
