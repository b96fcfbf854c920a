//! What SQL asks about a server that is one of several gateways, and what one that follows a hub refuses.

use crate::core::lease;
use crate::error::Error;
use crate::fresh::required;
use crate::session::locks::as_owner_in_time;
use crate::session::owner::installed;
use crate::session::raise::{or_raise, raise};
use crate::session::{identity, writable};
use crate::settings;
use pgrx::prelude::*;
use pgrx::spi::{self, Spi};

/// The name of this server among several gateways; empty: it is alone. Declared in sql/rollup.sql.
#[pg_extern(sql = false)]
fn aggregator_gateway_name() -> String {
    settings::own_gateway()
}

/// Why a text is no name of a gateway. Declared in sql/gateways.sql.
#[pg_extern(sql = false)]
fn aggregator_gateway_problem(name: &str) -> Option<&'static str> {
    lease::name_problem(name)
}

type Released = (pgrx::Uuid, Option<String>, TimestampWithTimeZone, AnyNumeric, i64, i64);

/// What a gateway that is gone had leased counts no longer in full. Declared in sql/gateways.sql.
#[pg_extern(sql = false)]
fn settle_gateway(
    name: Option<&str>,
) -> TableIterator<
    'static,
    (
        name!(budget_id, pgrx::Uuid),
        name!(user_id, Option<String>),
        name!(period_start, TimestampWithTimeZone),
        name!(released_usd, AnyNumeric),
        name!(released_tokens, i64),
        name!(released_requests, i64),
    ),
> {
    let released = settle(name);
    TableIterator::new(or_raise(released))
}

fn settle(name: Option<&str>) -> Result<Vec<Released>, Error> {
    const ACTION: &str = "settle what a gateway had leased";
    identity::require_admin(ACTION)?;
    writable::require(ACTION)?;
    require_own_configuration()?;
    let installed = installed()?;
    let sql = installed.sql(
        "SELECT s.budget_id, s.user_id, s.period_start, s.released_usd, s.released_tokens, s.released_requests
         FROM @extschema@.aggregator_settle_leases($1) AS s",
    );
    as_owner_in_time(&installed, ACTION, || {
        Spi::connect_mut(|client| {
            let rows = client.update(sql.as_str(), None, &[name.into()])?;
            rows.map(|row| {
                Ok((
                    required(&row, 1)?,
                    row.get(2)?,
                    required(&row, 3)?,
                    required(&row, 4)?,
                    required(&row, 5)?,
                    required(&row, 6)?,
                ))
            })
            .collect::<spi::Result<_>>()
        })
    })
}

/// Declared in sql/following.sql.
#[pg_extern(sql = false)]
fn aggregator_is_applying() -> bool {
    is_applying()
}

/// Declared in sql/following.sql.
#[pg_extern(sql = false)]
fn aggregator_follows() -> bool {
    followed().is_some()
}

/// Trigger function: refuses, whatever it is called for. Declared in sql/following.sql.
#[pg_extern(sql = false)]
fn aggregator_refuse_change(_fcinfo: pg_sys::FunctionCallInfo) {
    raise(refusal(&settings::hub().unwrap_or_default()))
}

/// Refuses where configuration comes from a hub, before anything is begun. What is written all the same meets the
/// triggers.
pub fn require_own_configuration() -> Result<(), Error> {
    followed().map_or(Ok(()), |hub| Err(refusal(&hub)))
}

fn refusal(hub: &str) -> Error {
    Error::Follows { hub: without_user(hub) }
}

/// A URL without what stands before its host, which may be a password.
fn without_user(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// Where the hub is that this server follows. `None`: there is none; or this process writes what comes from there, a
/// superuser's restore, which sets row_security to off, or a script of the extension.
fn followed() -> Option<String> {
    let hub = settings::hub()?;
    // SAFETY: plain reads of a backend's state, and a look-up of a role inside a transaction.
    let may_write = unsafe {
        pg_sys::creating_extension
            || (!pg_sys::row_security && pg_sys::superuser_arg(pg_sys::GetSessionUserId()))
    };
    (!may_write && !is_applying()).then_some(hub)
}

fn is_applying() -> bool {
    // SAFETY: a plain read of a process's state.
    unsafe { pg_sys::IsLogicalWorker() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_is_named_without_a_password() {
        for (url, shown) in [
            ("https://hub.example.org:8787", "https://hub.example.org:8787"),
            ("https://me:secret@hub.example.org/x@y", "https://hub.example.org/x@y"),
            ("https://a@b@hub", "https://hub"),
            ("hub", "hub"),
        ] {
            assert_eq!(without_user(url), shown);
        }
    }
}
