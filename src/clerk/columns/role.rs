//! As whom a piece of work runs: the extension's owner for what is its own, the definer for what is the user's.

use crate::clerk::transaction::{bracket, raised_by};
use crate::core::front::console::told::Raised;
use crate::database;
use crate::error::Error;
use crate::installed::Installed;
use crate::on_behalf;
use crate::protocol::clerk::Principal;
use crate::session::owner;
use pgrx::prelude::*;
use pgrx::spi::{self, Spi, SpiClient};
use std::time::Duration;

/// Runs `work` in a transaction of its own. Between what runs as the owner or as a definer nothing is executed.
pub fn transaction<T>(
    writes: bool,
    time: Duration,
    work: impl FnOnce() -> Result<T, Raised>,
) -> Result<T, Raised> {
    bracket(writes, time, |_| work())
}

/// The transaction is committed as this role.
pub fn end_as(role: pg_sys::Oid) {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: in a transaction, whose end puts the user back.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        pg_sys::SetUserIdAndSecContext(role, context | restricted());
    }
}

/// In which nothing that runs can become another role, or leave anything behind in the session.
fn restricted() -> i32 {
    pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32 | pg_sys::SECURITY_RESTRICTED_OPERATION as i32
}

/// Runs a statement of ours as the extension's owner.
pub fn as_owner<T>(
    installed: &Installed,
    action: &str,
    work: impl FnOnce(&mut SpiClient<'_>) -> spi::Result<T>,
) -> Result<T, Raised> {
    owner::as_owner(installed, || Spi::connect_mut(|client| work(client)))
        .map_err(|error| told(&database::failed(action)(error)))
}

/// Who has defined a column, and for whom that is.
pub struct Definer {
    pub role: pg_sys::Oid,
    pub name: String,
    pub user_id: String,
}

/// Runs `work` as a definer, and whatever that puts off; settings are what they were before, whatever it has set.
pub fn as_definer<T>(
    definer: &Definer,
    work: impl FnOnce() -> Result<T, Raised>,
) -> Result<T, Raised> {
    let principal = Principal {
        user_id: definer.user_id.clone(),
        role: definer.name.clone(),
        is_anonymous: false,
    };
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: as for a function with settings of its own: user, context and a level of settings are saved, and put
    // back after the work; where it raises, the abort of the transaction does that.
    let level = unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::SetUserIdAndSecContext(definer.role, context | restricted());
        level
    };
    let result = on_behalf::of(&principal, || {
        let result = work();
        if result.is_ok() {
            // SAFETY: in a transaction, outside any statement. Constraints and triggers that are put off to its end are
            // the user's as well; nothing of theirs is left for when somebody else commits.
            unsafe { pg_sys::AfterTriggerFireDeferred() };
        }
        result
    });
    // SAFETY: as above.
    unsafe {
        pg_sys::SetUserIdAndSecContext(user, context);
        // As an abort does it: also what was set for the session.
        pg_sys::AtEOXact_GUC(false, level);
    }
    result
}

/// Runs a statement, by a snapshot of its own, as whoever is the user now.
pub fn with_client<T>(
    action: &str,
    work: impl FnOnce(&mut SpiClient<'_>) -> spi::Result<T>,
) -> Result<T, Raised> {
    Spi::connect_mut(|client| work(client)).map_err(|error| told(&database::failed(action)(error)))
}

pub fn told(error: &Error) -> Raised {
    raised_by(error)
}
