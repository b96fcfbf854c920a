//! A clerk: a process of its own that runs the statements of the console, and what AI columns do with users' tables,
//! one at a time, so that a slow one holds up neither the main thread, which has the ledger to keep, nor anybody's call. The gateway has it started when there
//! is something to do, and lets it go by closing the connection.

mod columns;
mod priority;
mod signals;
mod transaction;

use crate::on_behalf;
use crate::protocol::clerk::{self, Answer, Asked, MAX_FRAME};
use crate::protocol::{self, HEADER_LEN};
use crate::worker::process::{self, Events};
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, DynamicBackgroundWorker, SignalWakeFlags,
};
use pgrx::prelude::*;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The gateway closes an idle connection much sooner. One that it does not know of ends by itself.
const LONGEST_IDLE: Duration = Duration::from_secs(120);
/// For the rest of a question once it has begun, and for an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between looks at whether the settings are to be read again.
const TICK: Duration = Duration::from_secs(10);

/// Has the server start a clerk for a database, and does not wait for it. `None`: no worker slot is free.
pub fn start(database: u32) -> Option<DynamicBackgroundWorker> {
    // SAFETY: MyProcPid is this process's id.
    let pid = unsafe { pg_sys::MyProcPid };
    BackgroundWorkerBuilder::new("aggregator clerk")
        .set_type("aggregator clerk")
        .set_library("aggregator")
        .set_function("aggregator_clerk_main")
        .enable_spi_access()
        .set_argument(Some(pg_sys::Datum::from(database)))
        .set_notify_pid(pid)
        .load_dynamic()
        .ok()
}

/// The clerk of the database whose oid is the argument.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn aggregator_clerk_main(argument: pg_sys::Datum) {
    let database = argument.value() as u32;
    priority::stand_back();
    signals::end_when_told();
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    // As no role in particular: whose each statement is comes with it.
    BackgroundWorker::connect_worker_to_spi_by_oid(Some(database.into()), None);
    prepare();
    // Where nobody waits for it any more it has nothing to do.
    let Ok(stream) = UnixStream::connect(clerk::socket_path(database)) else { return };
    if stream.set_nonblocking(true).is_ok() {
        serve(&stream);
    }
}

/// Settings of the clerk's own session, whatever the database sets for its users.
fn prepare() {
    for (name, value) in [
        (c"application_name", c"aggregator clerk"),
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"row_security", c"on"),
        (c"lock_timeout", c"3s"),
        // In a deadlock it is the clerk that steps back: others look after 1 s.
        (c"deadlock_timeout", c"100ms"),
        // Its statements have times of their own.
        (c"statement_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        (c"transaction_timeout", c"0"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"session_replication_role", c"origin"),
        // On whose behalf it acts is known in this process alone, and not in one that helps it.
        (c"max_parallel_workers_per_gather", c"0"),
        (c"jit", c"off"),
        // As the keys of rows are written.
        (c"datestyle", c"ISO"),
        (c"intervalstyle", c"postgres"),
        (c"timezone", c"UTC"),
        (c"extra_float_digits", c"1"),
        (c"bytea_output", c"hex"),
        // Keys are in its parameters.
        (c"auto_explain.log_parameter_max_length", c"0"),
    ] {
        process::set(name, Some(value));
    }
}

/// Answers until the gateway has no more questions.
fn serve(stream: &UnixStream) {
    let events = Events::new(Some(stream));
    while let Some(question) = read(stream, &events) {
        // Told to stop what it did before, or too late for that.
        signals::forget_cancels();
        // Whatever the last one has left.
        prepare();
        let mut answer = match question {
            Asked::Statement(question) => {
                on_behalf::of(&question.principal, || transaction::run(&question))
            }
            Asked::Column(question) => columns::run(&question),
        };
        if let Answer::Given(text) = &answer
            && text.len() > MAX_FRAME - 64
        {
            answer = Answer::Failed(transaction::too_large());
        }
        if write(stream, &answer).is_err() {
            return;
        }
    }
}

/// The next question. `None`: there will be none.
fn read(stream: &UnixStream, events: &Events) -> Option<Asked> {
    let mut header = [0; HEADER_LEN];
    fill(stream, &mut header, events, LONGEST_IDLE)?;
    let len = protocol::body_len(header).filter(|len| *len <= MAX_FRAME)?;
    let mut body = vec![0; len];
    fill(stream, &mut body, events, PATIENCE)?;
    protocol::decode(&body)
}

/// Reads so many bytes, awake for what PostgreSQL asks of every process.
fn fill(
    mut stream: &UnixStream,
    buffer: &mut [u8],
    events: &Events,
    patience: Duration,
) -> Option<()> {
    let given_up = Instant::now() + patience;
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return None,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = given_up.checked_duration_since(Instant::now())?;
                events.wait(left.min(TICK));
                if BackgroundWorker::sighup_received() {
                    // SAFETY: between transactions, as every process does after SIGHUP.
                    unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
                }
            }
            Err(_) => return None,
        }
    }
    Some(())
}

fn write(mut stream: &UnixStream, answer: &Answer) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&protocol::encode(answer))?;
    stream.set_nonblocking(true)
}
