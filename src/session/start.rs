//! Finding the worker of this database, and starting it where there is none.

use crate::error::Error;
use crate::installed::{self, Installed, LIBRARY};
use crate::protocol;
use crate::session::wait;
use pgrx::bgworkers::{BackgroundWorkerBuilder, BackgroundWorkerStatus, DynamicBackgroundWorker};
use pgrx::prelude::*;
use pgrx::spi;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(15);
/// A worker that is gone so long after its start may have served, and left because nobody came: this session was not
/// let run meanwhile.
const AT_ONCE: Duration = Duration::from_secs(2);
const PAUSE_MS: i64 = 5;
/// The likely reason why a worker does not find what its session sees.
pub const UNCOMMITTED: &str = "CREATE EXTENSION and ALTER EXTENSION must be \
    committed before the first call. The server log may say more.";

/// A connection to the gateway, started first if need be. Many sessions that start it at once use
/// one worker slot: the others wait for its socket.
pub fn connect() -> Result<UnixStream, Error> {
    // SAFETY: plain reads of a backend's state.
    let (database, in_recovery) =
        unsafe { (u32::from(pg_sys::MyDatabaseId), pg_sys::RecoveryInProgress()) };
    if in_recovery {
        return Err(Error::Recovery);
    }
    let path = protocol::socket_path(database);
    let given_up = Instant::now() + PATIENCE;
    let ready = |stream: UnixStream| match stream.set_nonblocking(true) {
        Ok(()) => Ok(stream),
        Err(error) => Err(down(&error.to_string())),
    };
    // Held by the session that starts the worker, until it answers or this session gives up.
    let mut starting: Option<(File, DynamicBackgroundWorker, Instant)> = None;
    loop {
        if let Ok(stream) = UnixStream::connect(&path) {
            return ready(stream);
        }
        if let Some((_, worker, began)) = &mut starting {
            if matches!(worker.pid(), Err(BackgroundWorkerStatus::Stopped)) {
                if let Ok(stream) = UnixStream::connect(&path) {
                    return ready(stream);
                }
                if began.elapsed() < AT_ONCE || Instant::now() > given_up {
                    return Err(left_at_once());
                }
                *began = Instant::now();
                *worker = start(database)?;
            }
        } else if let Some(lock) = try_starter_lock(database)? {
            // It may have been started between the attempt above and the lock.
            if let Ok(stream) = UnixStream::connect(&path) {
                return ready(stream);
            }
            let began = Instant::now();
            starting = Some((lock, start(database)?, began));
        }
        if Instant::now() > given_up {
            return Err(locked().unwrap_or_else(|| down("it was started, but does not answer")));
        }
        wait::sleep(PAUSE_MS);
    }
}

fn try_starter_lock(database: u32) -> Result<Option<File>, Error> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(protocol::starter_path(database))
        .map_err(|error| down(&error.kind().to_string()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(down(&error.kind().to_string())),
    }
}

fn start(database: u32) -> Result<DynamicBackgroundWorker, Error> {
    // SAFETY: MyProcPid is this process's id.
    let pid = unsafe { pg_sys::MyProcPid };
    let worker = BackgroundWorkerBuilder::new("aggregator worker")
        .set_type("aggregator worker")
        .set_library("aggregator")
        .set_function("aggregator_worker_main")
        .enable_spi_access()
        .set_argument(Some(pg_sys::Datum::from(database)))
        .set_notify_pid(pid)
        .load_dynamic();
    let worker = worker.map_err(|_| Error::GatewayDown {
        reason: "no background worker slot is free".to_owned(),
        hint: "Raise max_worker_processes and restart the server.".to_owned(),
    })?;
    match worker.wait_for_startup() {
        Err(BackgroundWorkerStatus::PostmasterDied) => Err(down("the server is going down")),
        // Even if it stopped at once: that is seen, and said, when it does not answer.
        _ => Ok(worker),
    }
}

/// Why a worker left as soon as it came.
fn left_at_once() -> Error {
    if let Some(installed) = Installed::find()
        && let Ok(version) = Spi::connect(|client| installed.version(client))
        && version != LIBRARY
    {
        return installed::wrong_version(&version);
    }
    locked().unwrap_or_else(|| Error::GatewayDown {
        reason: "its worker left at once".to_owned(),
        hint: UNCOMMITTED.to_owned(),
    })
}

/// Who has locked a table of the extension so that a worker cannot open it, this transaction first: it waits for itself,
/// and may have made them. Everybody may read `pg_locks`.
const LOCKED: &str = "
    SELECT l.pid
    FROM pg_catalog.pg_locks AS l
    JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) l.relation
    JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) c.relowner
    WHERE l.granted
      AND l.database OPERATOR(pg_catalog.=) $1
      AND c.relnamespace OPERATOR(pg_catalog.=) $2
      AND r.rolname OPERATOR(pg_catalog.=) 'aggregator_owner'
      AND l.mode OPERATOR(pg_catalog.=) ANY (ARRAY['ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'])
    ORDER BY (l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) DESC NULLS LAST
    LIMIT 1";

/// Why a worker cannot begin, where somebody has locked its tables.
fn locked() -> Option<Error> {
    let installed = Installed::find()?;
    // SAFETY: plain reads of a backend's state.
    let (database, own_pid) = unsafe { (pg_sys::MyDatabaseId, pg_sys::MyProcPid) };
    let found = Spi::connect(|client| -> spi::Result<_> {
        let arguments = [database.into(), installed.namespace.into()];
        let rows = client.select(LOCKED, Some(1), &arguments)?;
        rows.map(|row| row.get::<i32>(1)).next().transpose()
    });
    let (by, hint) = match found.ok()?? {
        Some(pid) if pid == own_pid => (
            "this transaction".to_owned(),
            "CREATE EXTENSION, ALTER EXTENSION and whatever locks its tables must be committed before \
             the first call."
                .to_owned(),
        ),
        Some(pid) => (
            format!("process {pid}"),
            format!(
                "Try again when its transaction has ended, or end it: SELECT pg_terminate_backend({pid});"
            ),
        ),
        None => (
            "a prepared transaction".to_owned(),
            "See pg_prepared_xacts; then COMMIT PREPARED or ROLLBACK PREPARED.".to_owned(),
        ),
    };
    Some(Error::GatewayDown { reason: format!("its tables are locked by {by}"), hint })
}

fn down(reason: &str) -> Error {
    Error::GatewayDown { reason: reason.to_owned(), hint: "See the server log.".to_owned() }
}
