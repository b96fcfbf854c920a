//! Sessions of the console, as the main thread has them: who shows a token, and the exchange of a code for one.

use crate::core::front::opaque::Hash;
use crate::core::front::session::Session;
use crate::database::{self, failed};
use crate::error::Error;
use crate::fresh::{self, Plan, required};
use crate::gateway::task::Found;
use crate::gateway_keys::hex;
use crate::installed::Installed;
use crate::route_cache;
use crate::worker::callers;
use crate::worker::process::{self, Failure};
use pgrx::pg_sys::TEXTOID;
use pgrx::spi::{self, Spi};
use std::sync::Arc;
use uuid::Uuid;

const FIND: &str = include_str!("../../sql/statements/console_session.sql");
const SIGN_IN: &str = include_str!("../../sql/statements/console_sign_in.sql");
const SIGN_OUT: &str = "
    UPDATE @extschema@.aggregator_console_sessions AS s
    SET revoked_at = pg_catalog.clock_timestamp()
    WHERE s.id = $1::pg_catalog.text::pg_catalog.uuid AND s.revoked_at IS NULL";
/// How long a token passes, in seconds: twelve hours.
const LASTS_S: i64 = 12 * 60 * 60;
/// That a lock was not to be had at once.
const NOT_AVAILABLE: &str = "55P03";

/// The session with a token of this hash, if it passes now.
pub fn find(token: Hash) -> Result<Found<Session>, Error> {
    const ACTION: &str = "look for a session of the console";
    callers::answer(ACTION, |installed| {
        let generation = route_cache::generation();
        let session = Spi::connect(|client| -> spi::Result<_> {
            let sql = installed.sql(&FIND.replace("{SET}", database::SET));
            let plan = Plan::prepare(client, &sql, &[TEXTOID])?;
            let rows = fresh::select(client, &plan, &[hex(&token.0).into()])?;
            let session = rows.first().map(|row| {
                Ok(Session {
                    id: fresh::uuid(row, 1)?,
                    user_id: required(row, 2)?,
                    role: required(row, 3)?,
                    is_anonymous: required(row, 4)?,
                    expires_at: required(row, 5)?,
                })
            });
            session.transpose()
        });
        let session = session.map_err(failed(ACTION))?;
        Ok(Found { found: session.map(Arc::new), generation })
    })
}

/// Exchanges a code for a token: until when that passes, in microseconds since 1970. `None`: the code is good for none.
/// Of two who show it at one time the main thread serves one after the other.
pub fn sign_in(code: Hash, token: Hash) -> Result<Option<i64>, Error> {
    const ACTION: &str = "sign in to the console";
    let until = write(ACTION, |installed| {
        let sql = installed.sql(&SIGN_IN.replace("{SET}", database::SET));
        let arguments = [hex(&code.0).into(), hex(&token.0).into(), LASTS_S.into()];
        Spi::connect_mut(|client| {
            let until = client.update(sql.as_str(), None, &arguments)?.next();
            until.map(|row| row.get::<i64>(1)).transpose().map(Option::flatten)
        })
    })?;
    if until.is_some() {
        sweep();
    }
    Ok(until)
}

/// Ends a session.
pub fn sign_out(session: Uuid) -> Result<(), Error> {
    const ACTION: &str = "end a session of the console";
    write(ACTION, |installed| {
        let sql = installed.sql(SIGN_OUT);
        let arguments = [session.to_string().into()];
        Spi::connect_mut(|client| client.update(sql.as_str(), None, &arguments).map(|_| ()))
    })
}

/// Deletes sessions that are long over. What cannot be had now is left for the next time.
pub fn sweep() {
    let _ = process::transaction(|installed| {
        let sql = installed.sql("SELECT @extschema@.aggregator_sweep_console_sessions()");
        Spi::connect_mut(|client| client.update(sql.as_str(), None, &[]).map(|_| ()))
    });
}

/// Writes to a row that its user may hold for as long as they like, by a transaction that ends their sessions: the
/// ledger does not wait for them.
fn write<T>(action: &str, work: impl FnOnce(&Installed) -> spi::Result<T>) -> Result<T, Error> {
    match process::impatient_transaction(work) {
        Err(Failure::Database(cause)) if cause.sqlstate.as_deref() == Some(NOT_AVAILABLE) => {
            Err(Error::Locked { action: action.to_owned() })
        }
        ended => callers::told(action, ended.map(Ok)),
    }
}
