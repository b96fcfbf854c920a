//! Waiting for locks, but not without end. A tenant may lock rows of his own, by FOR UPDATE or by a
//! transaction that he leaves open; who administers must not wait for him for ever.

use crate::database::failed;
use crate::error::Error;
use crate::installed::Installed;
use crate::session::identity;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use crate::sqlstate;
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::prelude::*;
use pgrx::spi::{self, Spi};
use std::ffi::{CString, c_int};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicI32, Ordering};

/// How long a lock is waited for, unless the session's own `lock_timeout` is shorter.
const PATIENCE_MS: c_int = 3000;

/// Runs `work` as the extension's owner, waiting for no lock longer than some seconds. `action` says
/// what could not be done. After [`Error::Locked`] the transaction can only be ended: raise it.
pub fn as_owner_in_time<T>(
    installed: &Installed,
    action: &str,
    work: impl FnOnce() -> spi::Result<T>,
) -> Result<T, Error> {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: as in `as_owner`: what is changed here is put back by the lines below, or by the abort of
    // the (sub)transaction.
    let level = unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        let level = pg_sys::NewGUCNestLevel();
        if !is_short(pg_sys::LockTimeout) {
            set_lock_timeout(PATIENCE_MS, pg_sys::GucAction::GUC_ACTION_SAVE);
        }
        level
    };
    let caught =
        PgTryBuilder::new(AssertUnwindSafe(|| as_owner(installed, work).map_err(failed(action))))
            .catch_when(PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, |_| {
                Err(Error::Locked { action: action.to_owned() })
            });
    let result = sqlstate::catching(|| caught.execute());
    // SAFETY: as above.
    unsafe {
        pg_sys::SetUserIdAndSecContext(user, context);
        pg_sys::AtEOXact_GUC(false, level);
    }
    result
}

fn is_short(timeout_ms: c_int) -> bool {
    (1..=PATIENCE_MS).contains(&timeout_ms)
}

/// # Safety
/// In a backend, inside a transaction.
unsafe fn set_lock_timeout(ms: c_int, action: pg_sys::GucAction::Type) {
    let value = CString::new(ms.to_string()).expect("a number holds no NUL");
    // SAFETY: the name and the value are C strings that outlive the call.
    unsafe {
        pg_sys::set_config_option(
            c"lock_timeout".as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}

/// `lock_timeout` as it was before a statement on providers bounded it; -1: it did not.
static BEFORE_MS: AtomicI32 = AtomicI32::new(-1);

/// Called by triggers before (true) and after (false) a statement that deletes or renames providers:
/// in between locks are waited for no longer than some seconds, also by what the statement cascades to.
#[pg_extern]
fn aggregator_bound_locks(p_bounded: bool) {
    // SAFETY: a backend inside a transaction. The change is local to it: an abort takes it back.
    unsafe {
        if p_bounded {
            let is_changed = !is_short(pg_sys::LockTimeout);
            BEFORE_MS.store(if is_changed { pg_sys::LockTimeout } else { -1 }, Ordering::Relaxed);
            if is_changed {
                set_lock_timeout(PATIENCE_MS, pg_sys::GucAction::GUC_ACTION_LOCAL);
            }
        } else {
            let before = BEFORE_MS.swap(-1, Ordering::Relaxed);
            if before >= 0 {
                set_lock_timeout(before, pg_sys::GucAction::GUC_ACTION_LOCAL);
            }
        }
    }
}

/// Locks the keys of a provider that is about to be deleted with them, or says that it cannot.
#[pg_extern]
fn aggregator_lock_keys(p_provider_id: pgrx::Uuid) {
    let locked = lock_keys(p_provider_id);
    or_raise(locked)
}

fn lock_keys(provider: pgrx::Uuid) -> Result<(), Error> {
    identity::require_admin("delete a provider")?;
    let installed = installed()?;
    let sql = installed.sql(
        "SELECT k.id FROM @extschema@.user_api_providers AS k
         WHERE k.provider_id = $1
         ORDER BY k.id
         FOR UPDATE",
    );
    as_owner_in_time(&installed, "delete the provider with its keys", || {
        Spi::connect_mut(|client| client.update(sql.as_str(), None, &[provider.into()]).map(|_| ()))
    })
}

/// Locks a user's place at an object of the database until the transaction ends, after others see what it has
/// committed. No SQL command takes a lock of this kind, so that nobody else can hold it.
pub fn lock_user(class: pg_sys::Oid, object: pg_sys::Oid, user: &str) {
    // SAFETY: inside a transaction, which lets it go.
    unsafe {
        let mode = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
        pg_sys::LockDatabaseObject(class, object, place(user), mode);
    }
}

/// A number for a user, never that of the object itself; two users may share one, and then wait for
/// each other's commits.
fn place(user: &str) -> u16 {
    let hash = user.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash % u64::from(u16::MAX)) as u16 + 1
}
