//! With preloading, one launcher starts the workers of the databases in `aggregator.databases`
//! with the server, and again when one has died.

use crate::settings;
use crate::worker::STAY;
use crate::worker::process::Events;
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, DynamicBackgroundWorker,
    SignalWakeFlags,
};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::ffi::CStr;
use std::time::{Duration, Instant};

/// Between looks at the workers. One whose database lacks the extension leaves at once, and is
/// tried again this much later.
const PAUSE: Duration = Duration::from_secs(10);

/// Whether shared_preload_libraries is loading the library just now.
pub fn is_preloading() -> bool {
    // SAFETY: a flag of the postmaster, read on the only thread.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// Registers the launcher with the postmaster.
pub fn register_launcher() {
    BackgroundWorkerBuilder::new("aggregator launcher")
        .set_type("aggregator launcher")
        .set_library("aggregator")
        .set_function("aggregator_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(5)))
        .load();
}

#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn aggregator_launcher_main(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // To no database: only the list of databases is looked at.
    BackgroundWorker::connect_worker_to_spi(None, None);
    let events = Events::new(None);
    let mut workers: HashMap<u32, DynamicBackgroundWorker> = HashMap::new();
    loop {
        for database in existing(settings::databases()) {
            if workers.get(&database).is_some_and(|worker| worker.pid().is_ok()) {
                continue;
            }
            if let Some(worker) = start(database) {
                workers.insert(database, worker);
            }
        }
        // A worker that ends wakes the launcher; it is not started again before the pause is over,
        // or a database would be looked for that is just being dropped.
        let next = Instant::now() + PAUSE;
        while Instant::now() < next {
            events.wait(next.saturating_duration_since(Instant::now()));
            // Asking takes the answer away: it is asked in this one place.
            if BackgroundWorker::sigterm_received() {
                return;
            }
        }
        if BackgroundWorker::sighup_received() {
            // SAFETY: between transactions, as every process does after SIGHUP.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
        }
    }
}

/// The oids of those that exist: a database that was dropped is not started again.
fn existing(names: Vec<String>) -> Vec<u32> {
    BackgroundWorker::transaction(std::panic::AssertUnwindSafe(|| {
        let mut found = Vec::new();
        // SAFETY: a scan of a shared catalog inside a transaction. Without its index, which a
        // process that is connected to no database may not be able to open. The tuple is read
        // before the scan moves on; a name is NUL-terminated.
        unsafe {
            let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
            let table = pg_sys::table_open(pg_sys::DatabaseRelationId, lock);
            let null = std::ptr::null_mut();
            let scan =
                pg_sys::systable_beginscan(table, pg_sys::InvalidOid, false, null, 0, null.cast());
            loop {
                let tuple = pg_sys::systable_getnext(scan);
                if tuple.is_null() {
                    break;
                }
                let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
                let name = CStr::from_ptr((*row).datname.data.as_ptr()).to_string_lossy();
                if names.iter().any(|wanted| *wanted == name) {
                    found.push(u32::from((*row).oid));
                }
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(table, lock);
        }
        found
    }))
}

fn start(database: u32) -> Option<DynamicBackgroundWorker> {
    // SAFETY: MyProcPid is this process's id.
    let pid = unsafe { pg_sys::MyProcPid };
    BackgroundWorkerBuilder::new("aggregator worker")
        .set_type("aggregator worker")
        .set_library("aggregator")
        .set_function("aggregator_worker_main")
        .enable_spi_access()
        .set_argument(Some(pg_sys::Datum::from(database)))
        .set_extra(STAY)
        .set_notify_pid(pid)
        .load_dynamic()
        .ok()
}
