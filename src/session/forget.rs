//! Forgetting a user: what they have goes, what they have used stays under an id that says nothing, and
//! what was on its way ends.

use crate::database::no_row;
use crate::error::Error;
use crate::protocol::{Reply, Request};
use crate::session::locks::as_owner_in_time;
use crate::session::owner::installed;
use crate::session::raise::or_raise;
use crate::session::{identity, link, writable};
use pgrx::prelude::*;
use pgrx::spi::Spi;
use uuid::Uuid;

/// Deletes a user's keys, settings and jobs, and keeps the usage rows under an id that says nothing.
/// Returns how many usage rows were kept.
#[pg_extern]
fn forget_user(p_user_id: Option<&str>) -> i64 {
    let kept = forget(p_user_id);
    or_raise(kept)
}

fn forget(user: Option<&str>) -> Result<i64, Error> {
    const ACTION: &str = "forget the user";
    identity::require_admin("forget a user")?;
    writable::require(ACTION)?;
    // An id that no user can have any more may still stand in rows of earlier versions.
    let user = user.filter(|user| !user.is_empty());
    let user = user.ok_or_else(|| Error::bad_request("p_user_id must not be empty"))?;
    // SAFETY: a plain read of the transaction's isolation level.
    if unsafe { pg_sys::XactIsoLevel } >= pg_sys::XACT_REPEATABLE_READ as i32 {
        return Err(Error::bad_request_hint(
            "this transaction does not see the user's latest calls",
            "Forget users in READ COMMITTED.",
        ));
    }
    let installed = installed()?;
    let keys = installed.sql("SELECT @extschema@.aggregator_forget_keys($1::text)");
    as_owner_in_time(&installed, ACTION, || {
        Spi::connect_mut(|client| client.update(keys.as_str(), None, &[user.into()]).map(|_| ()))
    })?;
    // What is in flight ends now, and its rows are in the ledger when this returns.
    let anonymous = format!("forgotten:{}", Uuid::new_v4());
    let request = Request::Forget { user: user.to_owned(), anonymous: anonymous.clone() };
    let Reply::End = link::exchange(&request)? else { return Err(link::unexpected()) };
    let usage = installed.sql("SELECT @extschema@.aggregator_forget_usage($1::text, $2::text)");
    let kept = as_owner_in_time(&installed, ACTION, || {
        Spi::connect_mut(|client| {
            let arguments = [user.into(), anonymous.as_str().into()];
            client.update(usage.as_str(), Some(1), &arguments)?.first().get_one::<i64>()
        })
    })?;
    kept.ok_or_else(|| no_row(ACTION))
}
