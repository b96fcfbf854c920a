//! Signing in to the console: links, and the end of what they open.

use crate::core::front::opaque::RANDOM_BYTES;
use crate::core::front::session;
use crate::database;
use crate::error::Error;
use crate::protocol::Whose;
use crate::session::identity;
use crate::session::locks::{self, as_owner_in_time};
use crate::session::owner::installed;
use crate::session::raise::or_raise;
use crate::session::writable;
use crate::settings;
use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::Spi;
use zeroize::Zeroizing;

/// How long a link signs in.
const CODE_LASTS: &str = "60 seconds";
/// Sessions of one user, of which the oldest make room.
const MOST: i64 = 100;

/// A link to the console that signs the caller in, once, within a minute.
#[pg_extern]
fn console_url(p_base_url: default!(Option<&str>, "NULL")) -> String {
    let url = url(p_base_url);
    or_raise(url)
}

/// Ends all sessions of a user; how many there were.
#[pg_extern]
fn revoke_console_sessions(p_user_id: default!(Option<&str>, "NULL")) -> i64 {
    let ended = revoke(p_user_id);
    or_raise(ended)
}

fn url(base: Option<&str>) -> Result<String, Error> {
    const ACTION: &str = "sign in to the console";
    let Whose { user, .. } = identity::acting(None, ACTION)?;
    writable::require(ACTION)?;
    let base = match base {
        Some(base) => match session::base_problem(base) {
            None => base.to_owned(),
            Some(problem) => return Err(Error::bad_request(format!("p_base_url {problem}"))),
        },
        None => settings::console_base(&database::current())?,
    };
    let installed = installed()?;
    let mut random = Zeroizing::new([0; RANDOM_BYTES]);
    getrandom::fill(random.as_mut())
        .map_err(|error| Error::internal(format!("there are no random bytes: {error}")))?;
    let code = session::make_code(&random);
    let (role, name) = identity::acting_role();
    let sql = installed.sql(
        "SELECT @extschema@.aggregator_store_console_code($1::text, $2::oid, $3::oid, $4::boolean, $5::bytea,
             $6::interval, $7::bigint)",
    );
    let is_stored = as_owner_in_time(&installed, ACTION, || {
        // One after the other: each sees the sessions that others have committed by then.
        locks::lock_user(pg_sys::TypeRelationId, installed.admin_type, &user);
        Spi::connect_mut(|client| {
            let arguments: [DatumWithOid<'_>; 7] = [
                user.as_str().into(),
                role.into(),
                identity::login().into(),
                identity::is_anonymous(&user).into(),
                code.hash.0.as_slice().into(),
                CODE_LASTS.into(),
                MOST.into(),
            ];
            client.update(sql.as_str(), Some(1), &arguments)?.first().get_one::<bool>()
        })
    })?;
    match is_stored {
        Some(true) => Ok(session::link(&base, &code.text)),
        _ => Err(Error::Forbidden { role: name, action: "use the console".to_owned() }),
    }
}

fn revoke(user: Option<&str>) -> Result<i64, Error> {
    const ACTION: &str = "end sessions of the console";
    let user = identity::acting_user(user, ACTION)?;
    writable::require(ACTION)?;
    let installed = installed()?;
    // Those that are over are over, and links that nobody has used go too.
    let sql = installed.sql(
        "UPDATE @extschema@.aggregator_console_sessions AS s
         SET revoked_at = pg_catalog.clock_timestamp()
         WHERE s.user_id OPERATOR(pg_catalog.=) $1 AND s.revoked_at IS NULL
           AND coalesce(s.expires_at, s.code_expires_at) OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
    );
    as_owner_in_time(&installed, ACTION, || {
        Spi::connect_mut(|client| {
            client
                .update(sql.as_str(), None, &[user.as_str().into()])
                .map(|rows| i64::try_from(rows.len()).unwrap_or(i64::MAX))
        })
    })
}
