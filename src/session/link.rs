//! The session's connection to the gateway: kept between calls, dropped to cancel one.

use crate::error::Error;
use crate::protocol::{self, Addressed, HEADER_LEN, Reply, Request};
use crate::session::owner::installed;
use crate::session::start;
use crate::session::wait::{self, For, WaitSet};
use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// How often a request is sent again because a worker left before it had accepted it.
const ROUNDS: usize = 100;
const PAUSE_MS: i64 = 20;

/// A connection, and what is waited on with it. Dropped in this order.
struct Link {
    events: WaitSet,
    stream: UnixStream,
}

thread_local! {
    static KEPT: Cell<Option<Link>> = const { Cell::new(None) };
}

/// Sends a request and waits for its reply. An interrupt unwinds from here and drops the
/// connection, which is how the gateway learns of it.
pub fn exchange(request: &Request) -> Result<Reply, Error> {
    let extension = u32::from(installed()?.oid);
    let frame = protocol::encode(&Addressed { extension, request });
    for round in 0..ROUNDS {
        if round > 1 {
            wait::sleep(PAUSE_MS);
        }
        let mut link = match KEPT.take() {
            Some(link) => link,
            None => {
                let stream = start::connect()?;
                Link { events: WaitSet::new(stream.as_raw_fd()), stream }
            }
        };
        match converse(&mut link, &frame) {
            Ok(reply) => {
                KEPT.set(Some(link));
                return match reply {
                    Reply::Failed(error) => Err(error),
                    reply => Ok(reply),
                };
            }
            Err(Broken::BeforeAccepted) => {}
            Err(Broken::AfterAccepted) => return Err(Error::GatewayLost),
            Err(Broken::By(error)) => return Err(error),
        }
    }
    Err(Error::GatewayDown {
        reason: "its worker leaves before it accepts anything".to_owned(),
        hint: start::UNCOMMITTED.to_owned(),
    })
}

/// A reply of another kind than the request asks for.
pub fn unexpected() -> Error {
    Error::Internal
}

enum Broken {
    /// The worker left; nobody has seen the request.
    BeforeAccepted,
    /// The request may have been carried out.
    AfterAccepted,
    By(Error),
}

fn converse(link: &mut Link, frame: &[u8]) -> Result<Reply, Broken> {
    let mut sent = 0;
    while sent < frame.len() {
        match link.stream.write(&frame[sent..]) {
            Ok(0) => return Err(Broken::BeforeAccepted),
            Ok(n) => sent += n,
            Err(error) => pause(&error, link, For::Writing, Broken::BeforeAccepted)?,
        }
    }
    match read_reply(link, || Broken::BeforeAccepted)? {
        Reply::Accepted => read_reply(link, || Broken::AfterAccepted),
        refused => Ok(refused),
    }
}

fn read_reply(link: &mut Link, broken: impl Fn() -> Broken) -> Result<Reply, Broken> {
    let mut header = [0; HEADER_LEN];
    fill(link, &mut header, &broken)?;
    let len = protocol::body_len(header).ok_or_else(&broken)?;
    let mut body = vec![0; len];
    fill(link, &mut body, &broken)?;
    protocol::decode(&body).ok_or_else(broken)
}

fn fill(link: &mut Link, buffer: &mut [u8], broken: &impl Fn() -> Broken) -> Result<(), Broken> {
    let mut filled = 0;
    while filled < buffer.len() {
        match link.stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(broken()),
            Ok(n) => filled += n,
            Err(error) => pause(&error, link, For::Reading, broken())?,
        }
    }
    Ok(())
}

/// Waits out a socket that is not ready; any other error means that the worker is gone.
fn pause(
    error: &std::io::Error,
    link: &Link,
    direction: For,
    broken: Broken,
) -> Result<(), Broken> {
    match error.kind() {
        ErrorKind::WouldBlock => link.events.ready(direction).map_err(Broken::By),
        ErrorKind::Interrupted => Ok(()),
        _ => Err(broken),
    }
}
