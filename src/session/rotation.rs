//! Rotation of the master key: first the locks, then the keyring file, and the new key seals for
//! others once the transaction commits.

use crate::core::secret::{Binding, key_id_of};
use crate::database::{self, failed};
use crate::error::Error;
use crate::keyring;
use crate::protocol::{Reply, Request, SealedKey};
use crate::routing::{pg_uuid, uuid};
use crate::session::locks::as_owner_in_time;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::or_raise;
use crate::session::{gateways, identity, link, writable};
use crate::settings;
use pgrx::prelude::*;
use pgrx::spi::{self, Spi};
use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// Envelopes that are sealed again in one go.
const BATCH: usize = 500;

/// Adds a master key and encrypts every key of this database with it. Old master keys stay in the
/// ring. Returns the id of the new one.
#[pg_extern]
fn rotate_master_key() -> String {
    let id = identity::require_superuser("rotate the master key").and_then(|()| rotate());
    or_raise(id)
}

fn rotate() -> Result<String, Error> {
    writable::require("rotate the master key")?;
    gateways::require_own_configuration()?;
    let keys = locked_keys()?;
    let file = settings::keyring_file();
    if let Some((_, key)) = keys.first()
        && keyring::load(&file)?.is_none()
    {
        return Err(Error::MissingMasterKey { key_id: key_id_of(&key.envelope) });
    }
    let id = begin(file)?;
    let installed = installed()?;
    let write = installed
        .sql("UPDATE @extschema@.user_api_providers SET api_key_encrypted = $2 WHERE id = $1");
    for batch in keys.chunks(BATCH) {
        let keys = batch.iter().map(|(_, key)| key.clone()).collect();
        let request = Request::Reseal { master_key: id.clone(), keys };
        let Reply::Reseal(sealed) = link::exchange(&request)? else {
            return Err(link::unexpected());
        };
        let sealed = sealed?;
        if sealed.len() != batch.len() {
            return Err(link::unexpected());
        }
        as_owner(&installed, || {
            Spi::connect_mut(|client| {
                for ((id, _), envelope) in batch.iter().zip(&sealed) {
                    let arguments = [pg_uuid(*id).into(), envelope.as_slice().into()];
                    client.update(write.as_str(), None, &arguments)?;
                }
                Ok::<_, spi::Error>(())
            })
        })
        .map_err(failed("write the keys again"))?;
    }
    Ok(id)
}

/// Every key of this database, its row locked.
fn locked_keys() -> Result<Vec<(Uuid, SealedKey)>, Error> {
    let installed = installed()?;
    let read = installed.sql(
        "SELECT k.id, k.user_id, k.provider_id, p.base_url, k.api_key_encrypted
         FROM @extschema@.user_api_providers AS k
         JOIN @extschema@.api_providers AS p ON p.id = k.provider_id
         ORDER BY k.id
         FOR UPDATE OF k",
    );
    let rows = as_owner_in_time(&installed, "seal every key again", || {
        Spi::connect_mut(|client| {
            let missing = || spi::Error::InvalidPosition;
            client
                .update(read.as_str(), None, &[])?
                .map(|row| {
                    Ok((
                        uuid(Some(row.get(1)?.ok_or_else(missing)?)),
                        row.get::<String>(2)?,
                        uuid(Some(row.get(3)?.ok_or_else(missing)?)),
                        row.get::<String>(4)?.ok_or_else(missing)?,
                        row.get::<Vec<u8>>(5)?.ok_or_else(missing)?,
                    ))
                })
                .collect::<spi::Result<Vec<_>>>()
        })
    })?;
    rows.into_iter()
        .map(|(id, user, provider_id, base_url, envelope)| {
            let binding = Binding::new(user, provider_id, &base_url)
                .map_err(|error| Error::from_secret(error, &base_url))?;
            Ok((id, SealedKey { binding, envelope }))
        })
        .collect()
}

/// A rotation of the current transaction.
struct Rotation {
    /// Of the subtransaction in which it ran.
    xid: pg_sys::TransactionId,
    file: PathBuf,
    key_id: String,
}

thread_local! {
    static OPEN: RefCell<Vec<Rotation>> = const { RefCell::new(Vec::new()) };
}
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

/// Adds a pending key to the keyring, and sees to it that it follows the transaction.
fn begin(file: PathBuf) -> Result<String, Error> {
    if !IS_REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the callback is a function of this library, which is never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut()) };
    }
    // SAFETY: inside a transaction that may write.
    let xid = unsafe { pg_sys::GetCurrentTransactionId() };
    let key_id = keyring::begin_rotation(&file)?;
    OPEN.with_borrow_mut(|open| open.push(Rotation { xid, file, key_id: key_id.clone() }));
    Ok(key_id)
}

unsafe extern "C-unwind" fn at_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE};
    let is_open = OPEN.with(|open| open.try_borrow().is_ok_and(|open| !open.is_empty()));
    if !is_open {
        return;
    }
    // What goes wrong before the commit undoes it. Nothing may be raised afterwards, by nobody.
    let failure = match event {
        XACT_EVENT_PRE_COMMIT => guarded(commit),
        XACT_EVENT_PRE_PREPARE => Some(Error::bad_request(
            "a transaction that has rotated the master key cannot be prepared",
        )),
        XACT_EVENT_ABORT => {
            guarded(undo);
            None
        }
        _ => None,
    };
    if let Some(error) = failure {
        crate::session::raise::raise(error);
    }
}

fn guarded(work: fn() -> Result<(), Error>) -> Option<Error> {
    PgTryBuilder::new(AssertUnwindSafe(|| work().err()))
        .catch_others(|caught| Some(database::caught("rotate the master key", &caught)))
        .execute()
}

/// Keys of rotations that hold seal from now on; those of rolled back savepoints go.
fn commit() -> Result<(), Error> {
    OPEN.with_borrow_mut(|open| {
        while let Some(rotation) = open.first() {
            // SAFETY: a look at this backend's own transaction.
            if unsafe { pg_sys::TransactionIdIsCurrentTransactionId(rotation.xid) } {
                keyring::commit_rotation(&rotation.file, &rotation.key_id)?;
            } else {
                keyring::undo_rotation(&rotation.file, &rotation.key_id)?;
            }
            open.remove(0);
        }
        Ok(())
    })
}

fn undo() -> Result<(), Error> {
    let rotations = OPEN.with_borrow_mut(std::mem::take);
    for rotation in rotations {
        // Should it fail, the key stays pending, and seals nothing.
        let _ = keyring::undo_rotation(&rotation.file, &rotation.key_id);
    }
    Ok(())
}
