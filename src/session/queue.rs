//! How many jobs of a user may wait, and of how many bytes.
//!
//! Counting what waits takes longer the more that is, so it is not done for each job: a transaction
//! counts once and adds what it submits. What transactions that are open at one time submit together
//! shows when they commit: whoever has submitted much, or may be near the limit, then counts once
//! more, one after the other.

use crate::database::failed;
use crate::error::Error;
use crate::installed::Installed;
use crate::queue::{self, Amount};
use crate::session::locks;
use crate::session::owner::{as_owner, installed};
use crate::session::raise::raise;
use crate::settings::{self, QueueLimits};
use pgrx::pg_sys;
use pgrx::prelude::*;
use pgrx::spi::Spi;
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// For so long a count may be used by the next transaction of the session, far from the limit.
const KEPT: Duration = Duration::from_secs(1);
/// A transaction that submits more than this part of what may wait is counted again at its end.
const PART: i64 = 64;
/// Users whose counts a session keeps.
const MANY: usize = 64;

/// What is known of a user's jobs.
struct Count {
    user: String,
    /// The transaction that has counted, or submitted last.
    transaction: u64,
    at: Instant,
    /// What waits, this transaction's own included.
    waiting: Amount,
    /// What this transaction has submitted.
    own: Amount,
}

/// Of this session: raised by each end of a transaction.
static TRANSACTION: AtomicU64 = AtomicU64::new(0);
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

thread_local! {
    static COUNTS: RefCell<Vec<Count>> = const { RefCell::new(Vec::new()) };
}

/// Takes a job of this size into account, or says that too many wait.
pub fn admit(installed: &Installed, user: &str, bytes: usize) -> Result<(), Error> {
    if !IS_REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the callback is a function of this library, which is never unloaded.
        unsafe { pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut()) };
    }
    let limits = settings::queue_limits();
    let job = Amount::of(bytes);
    let transaction = TRANSACTION.load(Ordering::Relaxed);
    let known = COUNTS.with_borrow_mut(|counts| {
        let place = counts.iter().position(|count| count.user == user)?;
        Some(counts.swap_remove(place))
    });
    let known = known.and_then(|count| match count {
        count if count.transaction == transaction => Some(count),
        // What it has submitted is committed by now, or is not and counts all the same for a moment.
        count if count.at.elapsed() < KEPT && count.waiting.fits(2, limits) => {
            Some(Count { transaction, own: Amount::default(), ..count })
        }
        _ => None,
    });
    // A savepoint may have taken back what the transaction had submitted.
    let known = known.filter(|count| count.waiting.plus(job).fits(1, limits));
    let mut count = match known {
        Some(count) => count,
        None => Count {
            user: user.to_owned(),
            transaction,
            at: Instant::now(),
            waiting: waiting(installed, user, limits)?,
            own: Amount::default(),
        },
    };
    let waiting = count.waiting.plus(job);
    let result = waiting.check(limits);
    if result.is_ok() {
        count.waiting = waiting;
        count.own = count.own.plus(job);
    }
    COUNTS.with_borrow_mut(|counts| {
        if counts.len() >= MANY {
            counts.retain(|other| other.transaction == transaction);
        }
        counts.push(count);
    });
    result
}

fn waiting(installed: &Installed, user: &str, limits: QueueLimits) -> Result<Amount, Error> {
    let count = || Spi::connect(|client| queue::waiting(client, installed, user, limits));
    as_owner(installed, count).map_err(failed("count the user's jobs"))
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end(
    event: pg_sys::XactEvent::Type,
    _argument: *mut std::ffi::c_void,
) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE,
        XACT_EVENT_PREPARE,
    };
    match event {
        // Here errors are allowed still.
        XACT_EVENT_PRE_COMMIT => check(true),
        // A lock would stay until somebody commits what is prepared.
        XACT_EVENT_PRE_PREPARE => check(false),
        // Here they are not: this is all that is done.
        XACT_EVENT_COMMIT | XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {
            TRANSACTION.fetch_add(1, Ordering::Relaxed);
        }
        _ => {}
    }
}

/// Before the commit: refuses it if what it adds does not fit to what others have committed since.
fn check(locks: bool) {
    let transaction = TRANSACTION.load(Ordering::Relaxed);
    let mut users = COUNTS.with_borrow(|counts| {
        let limits = settings::queue_limits();
        let own =
            counts.iter().filter(|count| count.transaction == transaction && count.own.jobs > 0);
        own.filter(|count| !count.waiting.fits(2, limits) || !count.own.fits(PART, limits))
            .map(|count| count.user.clone())
            .collect::<Vec<_>>()
    });
    if users.is_empty() {
        return;
    }
    // In one order, or two transactions could wait for each other.
    users.sort_unstable();
    let checked = users.iter().try_for_each(|user| check_user(user, locks));
    drop(users);
    if let Err(error) = checked {
        raise(error);
    }
}

fn check_user(user: &str, locks: bool) -> Result<(), Error> {
    // Looked for anew if its tables have changed since the transaction last asked. Dropped in this very
    // transaction, say.
    let Ok(installed) = with_snapshot(installed) else { return Ok(()) };
    let limits = settings::queue_limits();
    if locks {
        locks::lock_user(pg_sys::ExtensionRelationId, installed.oid, user);
    }
    with_snapshot(|| waiting(&installed, user, limits))?.check(limits)
}

/// At the end of a transaction SQL has no snapshot but this: of now, and so later than any lock that is held.
fn with_snapshot<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: the transaction is in progress still. The snapshot is popped after its use, or by the abort.
    unsafe {
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let result = work();
        pg_sys::PopActiveSnapshot();
        result
    }
}
