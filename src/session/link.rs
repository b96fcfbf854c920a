//! The session's connection to the gateway: kept between calls, dropped to cancel one.

use crate::error::Error;
use crate::protocol::{self, HEADER_LEN, Reply, Request};
use crate::session::flush::flush_client;
use crate::session::owner::installed;
use crate::session::start;
use crate::session::wait::{self, For, WaitSet};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How often a request is sent again because a worker left before it had accepted it.
const ROUNDS: usize = 100;
const PAUSE_MS: i64 = 20;
/// Later rounds are further apart: a worker that has to leave may wait for the disk.
const LATER: usize = 50;
const LONG_PAUSE_MS: i64 = 100;
const READ_AT_ONCE: usize = 4096;
/// Of a connection's buffer, between two replies.
const MOST_KEPT: usize = 256 * 1024;

/// A connection, and what is waited on with it. Dropped in this order.
pub struct Link {
    events: WaitSet,
    pub stream: UnixStream,
    /// What was read beyond the last reply: those of a stream often come together.
    read: Vec<u8>,
}

impl Link {
    fn connect() -> Result<Self, Error> {
        let stream = start::connect()?;
        Ok(Self { events: WaitSet::new(stream.as_raw_fd()), stream, read: Vec::new() })
    }
}

thread_local! {
    static KEPT: Cell<Option<Link>> = const { Cell::new(None) };
}

/// A request on its way, and its replies. Dropping it before the last one closes the connection, which is how
/// the gateway learns that nobody wants them.
pub struct Exchange {
    link: Link,
    /// Sent again by a connection that a worker closes without having read it; `None`: a reply has come.
    frame: Option<Vec<u8>>,
    rounds: usize,
    /// Rows are on their way to the client: they are sent before each wait.
    pub flushes: bool,
}

impl Exchange {
    /// Sends a request.
    pub fn begin(request: &Request) -> Result<Self, Error> {
        Self::over(KEPT.take(), request)
    }

    /// Sends a request over this connection, or a fresh one.
    fn over(kept: Option<Link>, request: &Request) -> Result<Self, Error> {
        let extension = u32::from(installed()?.oid);
        let frame = protocol::encode_request(extension, request);
        let mut rounds = 0;
        let link = sent(kept, &frame, &mut rounds)?;
        Ok(Self { link, frame: Some(frame), rounds, flushes: false })
    }

    /// The next reply. `None`: there was none for so many milliseconds.
    pub fn next(&mut self, patience_ms: Option<u64>) -> Result<Option<Reply>, Error> {
        let given_up = patience_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        let waiting = Waiting { given_up, flushes: self.flushes };
        loop {
            let reply = read_reply(&mut self.link, &waiting);
            match (reply, self.frame.take()) {
                (Ok(Reply::Unread) | Err(Broken::Unread), Some(frame)) => {
                    self.link = sent(None, &frame, &mut self.rounds)?;
                    self.frame = Some(frame);
                }
                (Ok(Reply::Failed(error)) | Err(Broken::By(error)), _) => return Err(error),
                (Ok(reply), _) => return Ok(Some(reply)),
                (Err(Broken::Late), frame) => {
                    self.frame = frame;
                    return Ok(None);
                }
                (Err(Broken::Lost | Broken::Unread), _) => return Err(Error::GatewayLost),
            }
        }
    }

    /// The last reply is here: the connection can serve again.
    pub fn end(self) {
        KEPT.set(Some(self.link));
    }
}

/// Sends a request and waits for its one reply. An interrupt unwinds from here and drops the
/// connection.
pub fn exchange(request: &Request) -> Result<Reply, Error> {
    let mut exchange = Exchange::begin(request)?;
    let reply = exchange.next(None).and_then(|reply| reply.ok_or(Error::GatewayLost));
    let reply = reply.map_err(|error| match error {
        Error::GatewayLost if !request.may_cost() => Error::ErrandLost,
        error => error,
    })?;
    exchange.end();
    Ok(reply)
}

/// Sends a request of which the gateway says at once that it has it.
pub fn accepted(request: &Request, kept: Option<Link>) -> Result<Link, Error> {
    let mut exchange = Exchange::over(kept, request)?;
    match exchange.next(None)? {
        Some(Reply::Accepted) => Ok(exchange.link),
        _ => Err(unexpected()),
    }
}

/// Writes a frame to this connection, or to a fresh one, of a worker that takes it.
fn sent(mut kept: Option<Link>, frame: &[u8], rounds: &mut usize) -> Result<Link, Error> {
    while *rounds < ROUNDS {
        if *rounds > 1 {
            wait::sleep(if *rounds < LATER { PAUSE_MS } else { LONG_PAUSE_MS });
        }
        *rounds += 1;
        let mut link = match kept.take() {
            Some(link) => link,
            None => Link::connect()?,
        };
        match write(&mut link, frame) {
            Ok(()) => return Ok(link),
            Err(Broken::By(error)) => return Err(error),
            // The worker left, and nobody has seen the whole request.
            Err(Broken::Lost | Broken::Unread | Broken::Late) => {}
        }
    }
    Err(Error::GatewayDown {
        reason: "its worker leaves before it accepts anything".to_owned(),
        hint: start::UNCOMMITTED.to_owned(),
    })
}

/// A reply of another kind than the request asks for.
pub fn unexpected() -> Error {
    Error::internal("it gave another kind of reply than was asked for")
}

enum Broken {
    /// The worker closed the connection.
    Lost,
    /// It did so without having read all that it was sent. Linux says so of a local socket (unix(7)); elsewhere
    /// that is a loss like any other.
    Unread,
    /// It took longer than the caller waits.
    Late,
    By(Error),
}

/// How to wait for a reply.
struct Waiting {
    given_up: Option<Instant>,
    flushes: bool,
}

const PATIENTLY: Waiting = Waiting { given_up: None, flushes: false };

fn write(link: &mut Link, frame: &[u8]) -> Result<(), Broken> {
    let mut sent = 0;
    while sent < frame.len() {
        match link.stream.write(&frame[sent..]) {
            Ok(0) => return Err(Broken::Lost),
            Ok(n) => sent += n,
            Err(error) => pause(&error, link, For::Writing, &PATIENTLY)?,
        }
    }
    Ok(())
}

fn read_reply(link: &mut Link, waiting: &Waiting) -> Result<Reply, Broken> {
    fill(link, HEADER_LEN, waiting)?;
    let mut header = [0; HEADER_LEN];
    header.copy_from_slice(&link.read[..HEADER_LEN]);
    let len = protocol::body_len(header).ok_or(Broken::Lost)?;
    let end = HEADER_LEN + len;
    fill(link, end, waiting)?;
    let reply = protocol::decode(&link.read[HEADER_LEN..end]).ok_or(Broken::Lost);
    link.read.drain(..end);
    if link.read.capacity() > MOST_KEPT {
        link.read.shrink_to(MOST_KEPT);
    }
    reply
}

/// Reads until so many bytes are there.
fn fill(link: &mut Link, wanted: usize, waiting: &Waiting) -> Result<(), Broken> {
    while link.read.len() < wanted {
        let there = link.read.len();
        link.read.resize(wanted.max(there + READ_AT_ONCE), 0);
        let read = link.stream.read(&mut link.read[there..]);
        link.read.truncate(there + read.as_ref().map_or(0, |n| *n));
        match read {
            Ok(0) => return Err(Broken::Lost),
            Ok(_) => {}
            Err(error) => pause(&error, link, For::Reading, waiting)?,
        }
    }
    Ok(())
}

/// Waits out a socket that is not ready; any other error means that the worker is gone.
fn pause(
    error: &std::io::Error,
    link: &Link,
    direction: For,
    waiting: &Waiting,
) -> Result<(), Broken> {
    match error.kind() {
        ErrorKind::WouldBlock => {
            if waiting.flushes {
                flush_client();
            }
            match link.events.ready(direction, waiting.given_up) {
                Ok(true) => Ok(()),
                Ok(false) => Err(Broken::Late),
                Err(error) => Err(Broken::By(error)),
            }
        }
        ErrorKind::Interrupted => Ok(()),
        ErrorKind::ConnectionReset => Err(Broken::Unread),
        _ => Err(Broken::Lost),
    }
}
