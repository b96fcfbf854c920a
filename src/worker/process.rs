//! The worker as a PostgreSQL process: transactions, waiting, reloading, signals.

use crate::database;
use crate::installed::Installed;
use crate::{settings, sqlstate};
use pgrx::pg_sys::errcodes::PgSqlErrorCode;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::cell::Cell;
use std::ffi::CStr;
use std::fmt::{Display, Formatter};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

thread_local! {
    /// The extension that this process serves; at first, whichever is there.
    static SERVED: Cell<Option<pg_sys::Oid>> = const { Cell::new(None) };
}

/// From now on, another installation than this is none: the extension was dropped and made anew, perhaps of
/// another version, and what was asked of the first is not for the second.
pub fn serve(installed: &Installed) {
    SERVED.set(Some(installed.oid));
}

/// Why a transaction came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Not at all, or not the one that is served.
    NotInstalled,
    Database(Cause),
    /// What was to be read or written cannot be, now or later.
    Data(Cause),
}

impl Failure {
    /// Whether somebody has locked what it needs, which passes.
    pub fn is_about_locks(&self) -> bool {
        let Self::Database(cause) = self else { return false };
        matches!(cause.sqlstate.as_deref(), Some("55P03" | "40P01"))
    }

    /// Whether a table is not, or does not hold, what it was taken for.
    pub fn is_about_tables(&self) -> bool {
        match self {
            Self::NotInstalled => false,
            Self::Database(cause) | Self::Data(cause) => {
                let class = cause.sqlstate.as_deref().and_then(|sqlstate| sqlstate.get(..2));
                matches!(class, Some("0A" | "23" | "42"))
            }
        }
    }
}

/// What a database says of its error. Its details hold what the row was, and are not repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    pub words: String,
    pub sqlstate: Option<String>,
}

impl Cause {
    fn of(words: impl Display) -> Self {
        Self { words: words.to_string(), sqlstate: None }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match &self.sqlstate {
            Some(sqlstate) => write!(f, "{} ({sqlstate})", self.words),
            None => f.write_str(&self.words),
        }
    }
}

/// Runs `look` in a transaction that reads nothing and costs next to nothing: what others have committed is known in
/// it. `None`: that cannot be said.
pub fn look<T>(look: impl FnOnce() -> T) -> Option<T> {
    PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: the main thread of a connected worker, outside any transaction.
        unsafe { pg_sys::StartTransactionCommand() };
        let seen = look();
        // SAFETY: as above.
        unsafe { pg_sys::CommitTransactionCommand() };
        Some(seen)
    }))
    .catch_others(|_| {
        // SAFETY: PostgreSQL's own way out of a failed transaction.
        unsafe { pg_sys::AbortCurrentTransaction() };
        None
    })
    .execute()
}

/// Runs `work` in a transaction of its own, as the extension's owner in a restricted context. An
/// error inside rolls it back and is given back as text; it never ends the worker.
pub fn transaction<T>(work: impl FnOnce(&Installed) -> pgrx::spi::Result<T>) -> Result<T, Failure> {
    transaction_with(&ANY_PLAN, work)
}

/// Likewise for the ledger, row by row through its keys: a plan that was made while a table was empty must
/// not read all of it later. If it need not be durable yet, [`flush`] makes it so.
pub fn ledger_transaction<T>(
    is_durable: bool,
    work: impl FnOnce(&Installed) -> pgrx::spi::Result<T>,
) -> Result<T, Failure> {
    transaction_with(if is_durable { &[] } else { &[NOT_DURABLE] }, work)
}

/// Likewise for what is found by an index alone that has it in order, and need not be durable yet.
pub fn passing_transaction_by_keys<T>(
    work: impl FnOnce(&Installed) -> pgrx::spi::Result<T>,
) -> Result<T, Failure> {
    const IN_ORDER: [Local; 3] =
        [(c"enable_sort", Some(c"off")), (c"enable_incremental_sort", Some(c"off")), NOT_DURABLE];
    transaction_with(&IN_ORDER, work)
}

/// A transaction of which nothing need be on disk.
pub fn passing_transaction<T>(
    work: impl FnOnce(&Installed) -> pgrx::spi::Result<T>,
) -> Result<T, Failure> {
    transaction_with(&with_any_plan(NOT_DURABLE), work)
}

/// Likewise by keys, as the ledger is written, and what is locked is not waited for.
pub fn fleeting_transaction<T>(
    work: impl FnOnce(&Installed) -> pgrx::spi::Result<T>,
) -> Result<T, Failure> {
    transaction_with(&[NOT_DURABLE, IMPATIENT], work)
}

/// Likewise where nobody is waited for who has locked what it needs.
pub fn impatient_transaction<T>(
    work: impl FnOnce(&Installed) -> pgrx::spi::Result<T>,
) -> Result<T, Failure> {
    transaction_with(&with_any_plan(IMPATIENT), work)
}

/// A setting for one transaction; `None`: the server's own value.
type Local = (&'static CStr, Option<&'static CStr>);

const IMPATIENT: Local = (c"lock_timeout", Some(c"5ms"));
const NOT_DURABLE: Local = (c"synchronous_commit", Some(c"off"));

/// What the ledger's transactions, by far the most, do without: off as long as the process is there, so that each
/// of them has nothing to set, and as the server has it in the others.
const NOT_BY_KEYS: [&CStr; 5] = [
    c"enable_seqscan",
    // Of a table that is nearly empty, the index of blocks reads all.
    c"enable_bitmapscan",
    c"enable_hashjoin",
    c"enable_mergejoin",
    c"enable_material",
];
const ANY_PLAN: [Local; 5] = [
    (NOT_BY_KEYS[0], None),
    (NOT_BY_KEYS[1], None),
    (NOT_BY_KEYS[2], None),
    (NOT_BY_KEYS[3], None),
    (NOT_BY_KEYS[4], None),
];

fn with_any_plan(also: Local) -> [Local; 6] {
    let [first, second, third, fourth, fifth] = ANY_PLAN;
    [first, second, third, fourth, fifth, also]
}

fn transaction_with<T>(
    settings: &[Local],
    work: impl FnOnce(&Installed) -> pgrx::spi::Result<T>,
) -> Result<T, Failure> {
    let caught = PgTryBuilder::new(AssertUnwindSafe(|| {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        // SAFETY: the main thread of a connected worker, outside any transaction. The user is put
        // back after the commit; an abort puts it back by itself.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
            pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
            for (name, value) in settings {
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.map_or(std::ptr::null(), CStr::as_ptr),
                    pg_sys::GucContext::PGC_SUSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_LOCAL,
                    true,
                    0,
                    false,
                );
            }
        }
        let is_served = |found: &Installed| SERVED.get().is_none_or(|served| served == found.oid);
        let owned = match Installed::find().filter(is_served) {
            None => Err(Failure::NotInstalled),
            Some(installed) => match installed.owner() {
                Ok(owner) => Ok((installed, owner)),
                Err(error) => Err(Failure::Database(Cause::of(error))),
            },
        };
        let result = owned.and_then(|(installed, owner)| {
            // SAFETY: as above.
            unsafe {
                pg_sys::SetUserIdAndSecContext(
                    owner,
                    context | pg_sys::SECURITY_RESTRICTED_OPERATION as i32,
                );
            }
            sqlstate::keeping(|| work(&installed))
                .map_err(|error| Failure::Database(Cause::of(error)))
        });
        // SAFETY: as above.
        unsafe {
            if result.is_ok() {
                pg_sys::PopActiveSnapshot();
                // Still as the owner: what was put off until now runs in here.
                pg_sys::CommitTransactionCommand();
                pg_sys::SetUserIdAndSecContext(user, context);
            } else {
                pg_sys::AbortCurrentTransaction();
            }
            // Or autovacuum would never see what the worker writes.
            pg_sys::pgstat_report_stat(false);
        }
        result
    }))
    .catch_others(|caught| {
        // SAFETY: PostgreSQL's own way out of a failed transaction.
        unsafe { pg_sys::AbortCurrentTransaction() };
        Err(failure(&caught))
    });
    sqlstate::catching(|| caught.execute())
}

/// Whether commits wait for the disk at all.
pub fn is_synchronous() -> bool {
    // SAFETY: a setting of this process, read by the one thread that changes it.
    unsafe { pg_sys::synchronous_commit > pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF as i32 }
}

/// Waits until what this process has committed is on disk, and on the standbys that the server waits for,
/// as the server's `synchronous_commit` says.
pub fn flush() -> Result<(), Failure> {
    PgTryBuilder::new(|| {
        // SAFETY: between transactions of a connected worker. Waiting for a standby asks for interrupts to be
        // held, as they are where a commit does it.
        unsafe {
            let end = pg_sys::XactLastCommitEnd;
            if is_synchronous() {
                pg_sys::XLogFlush(end);
                pg_sys::InterruptHoldoffCount += 1;
                pg_sys::SyncRepWaitForLSN(end, true);
                pg_sys::InterruptHoldoffCount -= 1;
            }
        }
        Ok(())
    })
    .catch_others(|caught| Err(failure(&caught)))
    .execute()
}

fn failure(caught: &CaughtError) -> Failure {
    let (report, is_panic) = match caught {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => (report, false),
        // Of our own code, over what it has read.
        CaughtError::RustPanic { ereport: report, .. } => (report, true),
    };
    let code = match report.sql_error_code() {
        PgSqlErrorCode::ERRCODE_INTERNAL_ERROR => sqlstate::of_unknown(report.message()),
        known => Some(known as i32),
    };
    let code = code.unwrap_or(PgSqlErrorCode::ERRCODE_INTERNAL_ERROR as i32);
    let cause = Cause {
        words: database::repeatable(report.message()),
        sqlstate: (!is_panic).then(|| database::unpack(code)),
    };
    if is_panic || is_about_data(code) { Failure::Data(cause) } else { Failure::Database(cause) }
}

/// Whether an error is about the values themselves: data exceptions, broken constraints, program limits
/// (an entry too large for its index), what a function refuses, and damaged data.
fn is_about_data(sqlstate: i32) -> bool {
    // Six bits a character, the first one lowest (elog.h).
    let pack = |code: &str| {
        code.bytes().rev().fold(0, |sum, byte| (sum << 6) | i32::from((byte - b'0') & 0x3F))
    };
    ["22", "23", "54", "P0"].iter().any(|class| sqlstate & 0xFFF == pack(class))
        || ["XX001", "XX002"].iter().any(|code| sqlstate == pack(code))
}

/// What the worker waits on: signals, and the gateway where there is one. Made once, because
/// making it costs more than the wait.
pub struct Events(*mut pg_sys::WaitEventSet);

impl Events {
    pub fn new(gateway: Option<&UnixStream>) -> Self {
        let null = std::ptr::null_mut();
        // SAFETY: the set lives for as long as the process; so do latch and socket.
        unsafe {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            let set = pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, 3);
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            let set = pg_sys::CreateWaitEventSet(std::ptr::null_mut(), 3);
            let add = |events, fd, latch| {
                pg_sys::AddWaitEventToSet(set, events, fd, latch, std::ptr::null_mut());
            };
            add(pg_sys::WL_LATCH_SET, pg_sys::PGINVALID_SOCKET, pg_sys::MyLatch);
            add(pg_sys::WL_EXIT_ON_PM_DEATH, pg_sys::PGINVALID_SOCKET, null);
            if let Some(gateway) = gateway {
                add(pg_sys::WL_SOCKET_READABLE, gateway.as_raw_fd(), null);
            }
            Self(set)
        }
    }

    /// Waits for a signal, for the gateway, or for the time to pass; then lets PostgreSQL do what
    /// it asks of every process (barriers, for one).
    pub fn wait(&self, timeout: Duration) {
        let mut event = pg_sys::WaitEvent::default();
        // Rounded up: woken a moment early, it would wait again for nothing.
        let timeout_ms = timeout.as_micros().div_ceil(1000);
        // SAFETY: room for one event; the latch is reset before interrupts are looked at.
        unsafe {
            let count = pg_sys::WaitEventSetWait(
                self.0,
                timeout_ms as _,
                &raw mut event,
                1,
                pg_sys::PG_WAIT_EXTENSION,
            );
            if count > 0 && event.events & pg_sys::WL_LATCH_SET != 0 {
                pg_sys::ResetLatch(pg_sys::MyLatch);
            }
        }
        // A cancel has no meaning here, and must not end the worker.
        PgTryBuilder::new(|| {
            pgrx::check_for_interrupts!();
        })
        .catch_others(|_| ())
        .execute();
    }
}

/// Reads the configuration again.
pub fn reload() {
    // SAFETY: called between transactions, as every process does after SIGHUP.
    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    prepare();
}

/// Settings of the worker's own session.
pub fn prepare() {
    let durability = if settings::ledger_sync() { None } else { Some(c"off") };
    set(c"synchronous_commit", durability);
    for (name, value) in [
        (c"search_path", c"pg_catalog, pg_temp"),
        // A lock on the ledger is somebody's mistake: better to retry than to wait.
        (c"lock_timeout", c"1s"),
        // In a deadlock it is the worker that steps back and comes again: others look after 1 s.
        (c"deadlock_timeout", c"100ms"),
        // What a database sets for its users is not meant for the ledger.
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        // Its statements are few and always the same: planning them anew costs as much as they.
        (c"plan_cache_mode", c"force_generic_plan"),
        // To PostgreSQL a plan with what is switched off looks so dear that it would be compiled.
        (c"jit", c"off"),
        (c"statement_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"application_name", c"aggregator worker"),
    ] {
        set(name, Some(value));
    }
    for name in NOT_BY_KEYS {
        set(name, Some(c"off"));
    }
}

/// Of triggers and rules, only those that run always; or, with `false`, all of them.
pub fn run_own_triggers_alone(yes: bool) {
    set(c"session_replication_role", Some(if yes { c"replica" } else { c"origin" }));
}

/// Sets a setting of this process; `None`: to the server's own value.
pub fn set(name: &CStr, value: Option<&CStr>) {
    // SAFETY: constant C strings, in a process that no user's statement reaches.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.map_or(std::ptr::null(), CStr::as_ptr),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Allows this process as many open files as the system lets it have: a thousand requests in
/// flight are a thousand connections, and the usual limit is about that.
pub fn raise_file_limit() {
    // SAFETY: the structure is filled by the first call and read by the second.
    unsafe {
        let mut limit = std::mem::zeroed::<libc::rlimit>();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            let _ = libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Runs `start` with every signal blocked, so that the threads it creates never run a handler of
/// PostgreSQL's.
pub fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: the sets are initialised by the calls that fill them; the mask is put back.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let result = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        result
    }
}

#[cfg(test)]
mod tests {
    use super::is_about_data;

    #[test]
    fn what_passes_is_not_about_data() {
        // ERRCODE_PROGRAM_LIMIT_EXCEEDED, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, ERRCODE_INDEX_CORRUPTED.
        for code in [261, 50331778, 33557032] {
            assert!(is_about_data(code), "{code}");
        }
        // ERRCODE_LOCK_NOT_AVAILABLE, ERRCODE_T_R_DEADLOCK_DETECTED, ERRCODE_DISK_FULL, ERRCODE_INTERNAL_ERROR.
        for code in [50463045, 16908292, 4293, 2600] {
            assert!(!is_about_data(code), "{code}");
        }
    }
}
