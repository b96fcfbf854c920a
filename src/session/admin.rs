//! Functions for administrators: grants, status, account deletion, and the check of provider URLs.

use crate::core::{address, secret};
use crate::error::Error;
use crate::protocol::{Reply, Request};
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use crate::session::{identity, link, quarantine};
use crate::{settings, time};
use pgrx::prelude::*;
use pgrx::spi::{self, Spi};

/// Grants a role what a user of the extension needs, a reader or an administrator: kind `user`,
/// `reader` or `admin`.
#[pg_extern(sql = "
CREATE FUNCTION aggregator_grant(role regrole, kind text) RETURNS void
LANGUAGE c VOLATILE STRICT
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn aggregator_grant(role: pg_sys::Oid, kind: &str) {
    let granted = grant(role, kind);
    or_raise(granted)
}

fn grant(role: pg_sys::Oid, kind: &str) -> Result<(), Error> {
    identity::require_admin("grant")?;
    if !matches!(kind, "user" | "reader" | "admin") {
        return Err(Error::bad_request("kind must be 'user', 'reader' or 'admin'"));
    }
    let installed = installed()?;
    let sql = installed.sql("SELECT @extschema@.aggregator_apply_grants($1::regrole, $2::text)");
    as_owner(&installed, || Spi::run_with_args(&sql, &[role.into(), kind.into()]))
        .map_err(|_| Error::Internal)
}

/// The worker of this database: who it is and what it does. Starts it if it is not running.
#[pg_extern]
#[allow(clippy::type_complexity)]
fn aggregator_status() -> TableIterator<
    'static,
    (
        name!(version, String),
        name!(worker_pid, i32),
        name!(started_at, TimestampWithTimeZone),
        name!(in_flight, i64),
        name!(served, i64),
        name!(ledger_queue, i64),
        name!(waiting, i64),
        name!(preloaded, bool),
        name!(gateway_stall_ms, i64),
        name!(quarantined, i64),
    ),
> {
    let status = identity::require_admin("see the gateway's status").and_then(|()| {
        match link::exchange(&Request::Status)? {
            Reply::Status(status) => Ok((*status, quarantine::count()?)),
            _ => Err(link::unexpected()),
        }
    });
    let (status, quarantined) = or_raise(status);
    TableIterator::once((
        status.version,
        status.pid as i32,
        time::timestamp(status.started_at),
        status.in_flight as i64,
        status.served as i64,
        status.ledger_queue as i64,
        status.waiting as i64,
        settings::is_preloaded(),
        status.stall_ms as i64,
        quarantined,
    ))
}

/// Deletes a user's keys, settings and jobs, and keeps the usage rows under an id that says nothing.
/// Returns how many usage rows were kept.
#[pg_extern]
fn forget_user(p_user_id: Option<&str>) -> i64 {
    let kept = forget(p_user_id);
    or_raise(kept)
}

fn forget(user: Option<&str>) -> Result<i64, Error> {
    identity::require_admin("forget a user")?;
    let user = user.filter(|user| !user.is_empty());
    let user = user.ok_or_else(|| Error::bad_request("p_user_id must not be empty"))?;
    let installed = installed()?;
    let keys = installed.sql("DELETE FROM @extschema@.user_api_providers WHERE user_id = $1");
    let jobs = installed.sql("DELETE FROM @extschema@.aggregator_jobs WHERE user_id = $1");
    let rules = [
        "DELETE FROM @extschema@.aggregator_budgets WHERE user_id = $1",
        "DELETE FROM @extschema@.aggregator_rate_limits WHERE user_id = $1",
        "DELETE FROM @extschema@.aggregator_budget_warnings WHERE user_id = $1",
        "DELETE FROM @extschema@.aggregator_user_models WHERE user_id = $1",
        "DELETE FROM @extschema@.aggregator_key_checks WHERE user_id = $1",
    ]
    .map(|sql| installed.sql(sql));
    let logs = installed.sql(
        "UPDATE @extschema@.aggregator_usage_logs
         SET user_id = 'forgotten:' || $2
         WHERE user_id = $1
         RETURNING 1",
    );
    // What is known of rows that were set aside names the user; what is left of them is in the log.
    let quarantined = installed.sql(
        "UPDATE @extschema@.aggregator_quarantine
         SET user_id = 'forgotten:' || $2, settlement = NULL
         WHERE user_id = $1",
    );
    let anonymous = uuid::Uuid::new_v4().to_string();
    as_owner(&installed, || {
        Spi::connect_mut(|client| {
            client.update(keys.as_str(), None, &[user.into()])?;
            client.update(jobs.as_str(), None, &[user.into()])?;
            for rule in &rules {
                client.update(rule.as_str(), None, &[user.into()])?;
            }
            let both = [user.into(), anonymous.as_str().into()];
            client.update(quarantined.as_str(), None, &both)?;
            let rows = client.update(logs.as_str(), None, &both)?;
            Ok::<_, spi::Error>(rows.len() as i64)
        })
    })
    .map_err(|_| Error::Internal)
}

/// Raises if a provider's URLs are not usable: https (http for private networks), no user name or
/// password, and one origin for all of them, because a key is sealed for one.
#[pg_extern(stable)]
fn aggregator_check_provider_urls(
    base_url: Option<&str>,
    models_url: Option<&str>,
    key_check_url: Option<&str>,
) {
    let checked = check_urls(base_url, models_url, key_check_url);
    or_raise(checked)
}

fn check_urls(
    base_url: Option<&str>,
    models_url: Option<&str>,
    key_check_url: Option<&str>,
) -> Result<(), Error> {
    let base_url = base_url.unwrap_or_default();
    for (name, url) in
        [("base_url", Some(base_url)), ("models_url", models_url), ("key_check_url", key_check_url)]
    {
        let Some(url) = url else { continue };
        let parsed = address::checked_form(url)
            .map_err(|reason| Error::bad_request(format!("{name} is refused: {reason}")))?;
        if name == "base_url" && (parsed.query().is_some() || parsed.fragment().is_some()) {
            return Err(Error::bad_request("base_url is refused: a query or fragment in it"));
        }
        if secret::origin(url) != secret::origin(base_url) {
            return Err(Error::bad_request(format!(
                "{name} must have the scheme, host and port of base_url"
            )));
        }
    }
    Ok(())
}
