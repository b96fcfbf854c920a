//! Rows of `api_providers`, read as the owner, as the gateway needs them.

use crate::core::catalogue::Dialect;
use crate::core::price::Unit;
use crate::database::failed;
use crate::error::Error;
use crate::fresh::{self, Plan, required};
use crate::installed::Installed;
use crate::protocol;
use crate::routing::provider;
use crate::session::owner::as_owner;
use pgrx::pg_sys::TEXTOID;
use pgrx::spi::{self, Spi, SpiHeapTupleData};
use uuid::Uuid;

/// A provider, and where its model list and its key check are.
#[derive(Debug, Clone)]
pub struct ProviderRow {
    pub provider: protocol::Provider,
    pub models_url: String,
    pub key_check_url: String,
    pub catalogue_format: String,
    pub price_unit: Option<Unit>,
    pub is_synced: bool,
    /// Within the last hour.
    pub is_fresh: bool,
}

const COLUMNS: &str = "
    SELECT p.id, p.name, p.api_standard, p.base_url, p.headers::text, p.models_url,
        p.key_check_url, p.catalogue_format, p.last_synced_at IS NOT NULL, p.price_unit,
        coalesce(p.last_synced_at > clock_timestamp() - interval '1 hour', false)
    FROM @extschema@.api_providers AS p
    WHERE p.is_active";

/// The active provider of this name or id.
pub fn find(installed: &Installed, name_or_id: Option<&str>) -> Result<ProviderRow, Error> {
    let wanted = name_or_id.map(str::trim).filter(|name| !name.is_empty());
    let wanted = wanted.ok_or_else(|| {
        Error::bad_request_hint("a provider is needed", "Give its name or its id.")
    })?;
    let sql = format!("{COLUMNS} AND p.id = @extschema@.aggregator_provider_id($1)");
    let found = query(installed, &sql, Some(wanted))?;
    found.into_iter().next().ok_or_else(|| Error::UnknownProvider { provider: wanted.to_owned() })
}

/// Every active provider, by name.
pub fn all(installed: &Installed) -> Result<Vec<ProviderRow>, Error> {
    query(installed, &format!("{COLUMNS} ORDER BY p.name"), None)
}

fn query(
    installed: &Installed,
    sql: &str,
    argument: Option<&str>,
) -> Result<Vec<ProviderRow>, Error> {
    let sql = installed.sql(sql);
    let arguments: Vec<_> = argument.iter().map(|text| (*text).into()).collect();
    let types = vec![TEXTOID; arguments.len()];
    let rows = as_owner(installed, || {
        Spi::connect(|client| {
            // As of now: one that was made inactive is not asked by an old transaction.
            let plan = Plan::prepare(client, &sql, &types)?;
            let rows = fresh::select(client, &plan, &arguments)?;
            rows.iter().map(Columns::read).collect::<spi::Result<Vec<_>>>()
        })
    });
    rows.map_err(failed("read the providers"))?.into_iter().map(Columns::into_row).collect()
}

struct Columns {
    id: Uuid,
    name: String,
    standard: String,
    base_url: String,
    headers: String,
    models_url: Option<String>,
    key_check_url: Option<String>,
    catalogue_format: String,
    is_synced: bool,
    price_unit: String,
    is_fresh: bool,
}

impl Columns {
    fn read(row: &SpiHeapTupleData) -> spi::Result<Self> {
        Ok(Self {
            id: fresh::uuid(row, 1)?,
            name: required(row, 2)?,
            standard: required(row, 3)?,
            base_url: required(row, 4)?,
            headers: required(row, 5)?,
            models_url: row.get(6)?,
            key_check_url: row.get(7)?,
            catalogue_format: required(row, 8)?,
            is_synced: required(row, 9)?,
            price_unit: required(row, 10)?,
            is_fresh: required(row, 11)?,
        })
    }

    fn into_row(self) -> Result<ProviderRow, Error> {
        let provider = provider(self.id, self.name, &self.standard, self.base_url, &self.headers)?;
        let list = provider.standard.models_url(&provider.base_url);
        let models_url = self
            .models_url
            .unwrap_or_else(|| list.clone() + Dialect::parse(&self.catalogue_format).query());
        let key_check_url = self.key_check_url.unwrap_or(list);
        Ok(ProviderRow {
            provider,
            models_url,
            key_check_url,
            catalogue_format: self.catalogue_format,
            price_unit: Unit::parse(&self.price_unit)?,
            is_synced: self.is_synced,
            is_fresh: self.is_fresh,
        })
    }
}
