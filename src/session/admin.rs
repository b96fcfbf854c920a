//! Functions for administrators: grants, status, and the check of what a provider's row says.

use crate::core::{address, headers, secret};
use crate::database::no_row;
use crate::error::Error;
use crate::installed::Installed;
use crate::protocol::{Reply, Request};
use crate::session::json::JsonText;
use crate::session::locks::as_owner_in_time;
use crate::session::owner::installed;
use crate::session::raise::or_raise;
use crate::session::{identity, link, quarantine, writable};
use crate::{settings, time};
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{self, Spi, SpiClient};

const MOST_HEADERS: usize = 50;

/// Grants a role what a user of the extension needs, a reader or an administrator: kind `user`,
/// `reader` or `admin`.
#[pg_extern(sql = "
CREATE FUNCTION aggregator_grant(role regrole, kind text) RETURNS void
LANGUAGE c VOLATILE STRICT
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn aggregator_grant(role: pg_sys::Oid, kind: &str) {
    let granted = change_grants("grant", role, kind, |client, installed, arguments| {
        let sql = installed
            .sql("SELECT @extschema@.aggregator_apply_grants($1::pg_catalog.regrole, $2::text)");
        client.update(sql.as_str(), None, arguments).map(|_| ())
    });
    or_raise(granted)
}

/// Takes from a role what it was granted as this kind. False: it was not of this kind.
#[pg_extern(sql = "
CREATE FUNCTION aggregator_revoke(role regrole, kind text) RETURNS boolean
LANGUAGE c VOLATILE STRICT
AS 'MODULE_PATHNAME', '@FUNCTION_NAME@';
")]
fn aggregator_revoke(role: pg_sys::Oid, kind: &str) -> bool {
    let revoked = change_grants("revoke", role, kind, |client, installed, arguments| {
        let sql = installed
            .sql("SELECT @extschema@.aggregator_revoke_grants($1::pg_catalog.regrole, $2::text)");
        client.update(sql.as_str(), Some(1), arguments)?.first().get_one::<bool>()
    });
    or_raise(revoked.and_then(|revoked| revoked.ok_or_else(|| no_row("revoke rights"))))
}

fn change_grants<T>(
    action: &str,
    role: pg_sys::Oid,
    kind: &str,
    change: impl FnOnce(&mut SpiClient<'_>, &Installed, &[DatumWithOid<'_>]) -> spi::Result<T>,
) -> Result<T, Error> {
    identity::require_admin(action)?;
    writable::require(action)?;
    if !matches!(kind, "user" | "reader" | "admin") {
        return Err(Error::bad_request("kind must be 'user', 'reader' or 'admin'"));
    }
    let is_role = identity::exists(role);
    if !is_role {
        return Err(Error::bad_request(format!("there is no role {}", u32::from(role))));
    }
    let installed = installed()?;
    if action == "revoke" && kind == "user" && identity::is_marked_admin(&installed, role) {
        return Err(Error::bad_request_hint(
            "an administrator is a user as well",
            "Revoke 'admin' from the role.",
        ));
    }
    as_owner_in_time(&installed, &format!("{action} rights to a role"), || {
        Spi::connect_mut(|client| change(client, &installed, &[role.into(), kind.into()]))
    })
}

/// The worker of this database: who it is and what it does. Starts it if it is not running.
#[pg_extern]
#[expect(clippy::type_complexity, reason = "the columns of its result")]
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
        name!(http_address, Option<String>),
        name!(http_error, Option<String>),
        name!(clerks, i64),
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
        status.http_address,
        status.http_error,
        status.clerks as i64,
    ))
}

/// Starts the worker of this database, if it is not running: without preloading, an HTTP endpoint begins with it.
#[pg_extern]
fn aggregator_start() {
    let started =
        identity::require_admin("start the gateway").and_then(|()| {
            match link::exchange(&Request::Status)? {
                Reply::Status(_) => Ok(()),
                _ => Err(link::unexpected()),
            }
        });
    or_raise(started)
}

/// The headers of a provider, if none of them may carry a secret. With `p_is_restored` without those
/// that may.
#[pg_extern]
fn aggregator_checked_headers(p_name: &str, p_headers: JsonText, p_is_restored: bool) -> JsonText {
    let headers = checked_headers(p_name, &p_headers.0, p_is_restored);
    drop(p_headers);
    JsonText(or_raise(headers))
}

fn checked_headers(provider: &str, text: &str, is_restored: bool) -> Result<String, Error> {
    let is_object = |_| Error::bad_request("headers must be a JSON object");
    let given: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(text).map_err(is_object)?;
    if given.len() > MOST_HEADERS {
        return Err(Error::bad_request(format!("a provider has at most {MOST_HEADERS} headers")));
    }
    let mut kept = serde_json::Map::new();
    for (name, value) in given {
        let problem = match value.as_str() {
            Some(value) => headers::problem(&name, value),
            None => Some("has a value that is not a text"),
        };
        match problem {
            None => {
                kept.insert(name, value);
            }
            Some(problem) if is_restored => {
                pgrx::warning!(
                    "header {name:?} of provider '{provider}' is left out: it {problem}"
                );
            }
            Some(problem) => {
                return Err(Error::bad_request_hint(
                    format!("header {name:?} of provider '{provider}' {problem}"),
                    "Keys are saved with save_provider_key() and save_platform_key().",
                ));
            }
        }
    }
    Ok(serde_json::Value::Object(kept).to_string())
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
        if let Some((parameter, _)) = parsed.query_pairs().find(|(parameter, value)| {
            headers::is_secret_name(parameter) || headers::may_be_secret(value)
        }) {
            return Err(Error::bad_request_hint(
                format!(
                    "{name} is refused: parameter {parameter:?} may carry a secret, and the row is \
                     readable by everybody"
                ),
                "Keys are saved with save_provider_key() and save_platform_key().",
            ));
        }
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
