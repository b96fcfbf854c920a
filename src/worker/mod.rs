//! The worker's main thread: it alone of the worker speaks to PostgreSQL. It keeps the ledger,
//! starts and stops the gateway, and leaves when there is nothing to do.

mod answers;
mod arrays;
mod asked_jobs;
mod batch;
mod callers;
mod catalogue;
mod columns;
mod console;
mod cooling;
mod desk;
mod detached;

mod forgotten;
mod held;
mod hidden;
mod jobs;
mod launcher;
mod leases;
mod ledger_statements;
mod prices;
pub mod process;
mod quarantine;
mod renewal;
mod rollup_statements;
mod settling;
mod spending;
mod statements;
mod triggers;

use crate::database;
use crate::gateway::ledger::{self, Inbox};
use crate::gateway::{Gateway, Handle};
use crate::installed::{self, Installed, LIBRARY};
use crate::{front, protocol, route_cache, settings};
use desk::Desk;
use pgrx::bgworkers::{BackgroundWorker, SignalWakeFlags};
use pgrx::prelude::*;
use process::Events;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

pub use launcher::{is_preloading, register_launcher};

/// A worker that nobody needs leaves: soon enough for DROP DATABASE, which waits 5 s.
const IDLE_EXIT: Duration = Duration::from_secs(3);
/// How long a new worker waits for the last one to let go of the database.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// After SIGTERM, the time to settle what was aborted. DROP DATABASE waits no longer for it than 5 s.
const SETTLE_PATIENCE: Duration = Duration::from_secs(4);
/// And so many rounds at the least: time in which the machine did not let it run is none.
const SETTLE_ROUNDS: usize = 100;
const TICK: Duration = Duration::from_millis(500);
const _: () = assert!(IDLE_EXIT.as_millis() + 2 * TICK.as_millis() < 5000, "DROP DATABASE fails");
/// With so many calls in flight, commits are this far apart at least, so that each serves more of them: a
/// commit costs as much as many rows.
const MANY: u64 = 16;
const APART: Duration = Duration::from_micros(500);

/// How long the main thread looks for more before it sleeps.
const LINGER: Duration = Duration::from_micros(200);

/// `bgw_extra` of a worker that stays while idle, because it was started with the server.
pub const STAY: &str = "stay";

/// The worker of the database whose oid is the argument.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn aggregator_worker_main(argument: pg_sys::Datum) {
    let database = argument.value() as u32;
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    // As no role in particular: the owner may be NOLOGIN.
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database.into()), None);
    process::prepare();
    let is_kept = BackgroundWorker::get_extra() == STAY;
    let Some(_lock) = lock(database) else { return };
    let found = process::transaction(|installed| {
        let version = Spi::connect(|client| installed.version(client))?;
        Ok((installed.clone(), version, database::name(database)))
    });
    match found {
        Ok((_, version, _)) if version != LIBRARY => {
            pgrx::warning!("aggregator worker: {}", installed::wrong_version(&version));
        }
        Ok((installed, _, name)) => {
            process::serve(&installed);
            let database = Database { oid: database, name, is_kept };
            if let Err(reason) = run(&database, installed) {
                pgrx::warning!("aggregator worker: {reason}");
            }
        }
        Err(process::Failure::NotInstalled) => {}
        Err(process::Failure::Database(reason) | process::Failure::Data(reason)) => {
            pgrx::warning!("aggregator worker: {reason}");
        }
    }
}

/// The database that is served.
struct Database {
    oid: u32,
    /// It cannot change while somebody is connected.
    name: String,
    /// Its worker was started with the server.
    is_kept: bool,
}

impl Database {
    fn stays(&self) -> bool {
        settings::stays(&self.name, self.is_kept)
    }
}

/// The lock that makes one worker per database, held until the process ends. `None`: another
/// worker has it, or this one was told to stop.
fn lock(database: u32) -> Option<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(protocol::lock_path(database))
        .ok()?;
    let events = Events::new(None);
    let given_up = Instant::now() + LOCK_PATIENCE;
    while file.try_lock().is_err() {
        // One that was started with the server waits for as long as it takes.
        let is_over = Instant::now() > given_up && BackgroundWorker::get_extra() != STAY;
        if is_over || BackgroundWorker::sigterm_received() {
            return None;
        }
        events.wait(Duration::from_millis(50));
    }
    Some(file)
}

fn run(database: &Database, installed: Installed) -> Result<(), String> {
    let path = protocol::socket_path(database.oid);
    let _ = std::fs::remove_file(&path);
    let said = |error: std::io::Error| error.to_string();
    let (ledger, inbox, wake) = ledger::channel().map_err(said)?;
    triggers::prepare();
    let mut desk = open(database.oid, &installed)?;
    let listener = UnixListener::bind(&path).map_err(said)?;
    let path_of_clerks = protocol::clerk::socket_path(database.oid);
    let _ = std::fs::remove_file(&path_of_clerks);
    let clerks = UnixListener::bind(&path_of_clerks).map_err(said)?;
    process::raise_file_limit();
    let gateway = Gateway {
        listener,
        clerks,
        extension: desk.extension(),
        epoch: desk.epoch(),
        settings: settings::for_gateway(&database.name),
        ledger,
        health: desk.health(),
        hidden: desk.hidden(),
        forgotten: desk.forgotten(),
        generation: route_cache::shared(),
    };
    let gateway = process::with_signals_blocked(|| gateway.spawn(front::run)).map_err(said)?;
    let events = Events::new(Some(&wake));
    let work = Work { inbox, wake };
    let served = serve(&mut desk, &gateway, &work, &events, database);
    // First no new session finds the socket, then those that are there are let go.
    let _ = std::fs::remove_file(&path);
    let _ = std::fs::remove_file(&path_of_clerks);
    gateway.stop();
    settle_last(&mut desk, &gateway, &work, &events);
    desk.close();
    served
}

/// Opens the desk, also where somebody has locked its tables and lets go of them while the sessions still wait for which
/// this worker was started.
fn open(database: u32, installed: &Installed) -> Result<Desk, String> {
    let events = Events::new(None);
    let given_up = Instant::now() + LOCK_PATIENCE;
    loop {
        let failure = match Desk::open(database, installed.clone()) {
            Ok(desk) => return Ok(desk),
            Err(failure) => failure,
        };
        let is_over = Instant::now() > given_up || BackgroundWorker::sigterm_received();
        if is_over || !failure.is_about_locks() {
            return Err(format!("it cannot open the ledger: {failure:?}"));
        }
        events.wait(Duration::from_millis(50));
    }
}

/// What the gateway sends, and the descriptor that tells of it.
struct Work {
    inbox: Inbox,
    wake: UnixStream,
}

impl Work {
    fn has_more(&self) -> bool {
        self.inbox.wake.has_more()
    }

    /// Looks for what comes next a moment longer, because waking takes longer than that.
    fn linger(&self) {
        let began = Instant::now();
        while !self.has_more() && began.elapsed() < LINGER {
            std::hint::spin_loop();
        }
    }

    /// Does a batch of what has arrived, and stays awake a moment where any of it was in a hurry: what comes next
    /// probably is so too. Says whether there was anything.
    fn by(&self, desk: &mut Desk) -> bool {
        let is_hurried = self.has_more();
        // In this order: a job that comes after the reset wakes again, one before it is seen now.
        let _ = (&self.wake).read(&mut [0; 64]);
        self.inbox.wake.reset();
        let did = desk.work(&self.inbox);
        if did && is_hurried {
            self.linger();
        }
        did
    }
}

/// Works until there is a reason to leave.
fn serve(
    desk: &mut Desk,
    gateway: &Handle,
    work: &Work,
    events: &Events,
    database: &Database,
) -> Result<(), String> {
    let mut stays = database.stays();
    let mut busy_at = Instant::now();
    let mut looked_at = Instant::now();
    let mut served = 0;
    let mut worked_at = Instant::now();
    loop {
        // What is left of a full batch does not wait.
        let has_more = work.has_more();
        let patience = desk.patience().map_or(TICK, |patience| patience.min(TICK));
        events.wait(if has_more { Duration::ZERO } else { patience });
        if BackgroundWorker::sigterm_received() {
            return Ok(());
        }
        if BackgroundWorker::sighup_received() {
            process::reload();
            // Whose claims are believed may be another.
            route_cache::forget();
            stays = database.stays();
            gateway.reload(settings::for_gateway(&database.name));
            desk.jobs.reload();
        }
        if gateway.has_ended() {
            return Err("the gateway's thread ended".to_owned());
        }
        let (in_flight, _) = gateway.counts();
        if in_flight >= MANY {
            std::thread::sleep(APART.saturating_sub(worked_at.elapsed()));
        }
        worked_at = Instant::now();
        if work.by(desk) {
            busy_at = Instant::now();
        }
        if desk.has_left() {
            return Ok(());
        }
        if desk.run_jobs(gateway) | desk.run_columns(gateway) {
            busy_at = Instant::now();
        }
        let (in_flight, now_served) = gateway.counts();
        if in_flight > 0 || now_served != served {
            busy_at = Instant::now();
            served = now_served;
        }
        if looked_at.elapsed() >= TICK {
            looked_at = Instant::now();
            if !desk.is_current() {
                return Ok(());
            }
            if !stays
                && busy_at.elapsed() > IDLE_EXIT
                && desk.is_idle()
                && gateway.stop_if_idle(served)
            {
                return Ok(());
            }
        }
    }
}

/// Settles what the gateway's end has left.
fn settle_last(desk: &mut Desk, gateway: &Handle, work: &Work, events: &Events) {
    let given_up = Instant::now() + SETTLE_PATIENCE;
    for round in 0.. {
        let has_ended = gateway.has_ended();
        work.by(desk);
        let is_late = round >= SETTLE_ROUNDS && Instant::now() > given_up;
        if (has_ended && desk.is_empty() && !work.has_more()) || is_late {
            return;
        }
        events.wait(if work.has_more() { Duration::ZERO } else { Duration::from_millis(10) });
    }
}
