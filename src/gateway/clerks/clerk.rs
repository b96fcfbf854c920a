//! One clerk, as the gateway knows it: a connection, and the process on its other side.

use crate::gateway::clerks::process;
use crate::protocol::clerk::{Answer, Asked, MAX_FRAME};
use crate::protocol::{self, HEADER_LEN};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// A statement that has had more of the processor is a long report, and lets everything else that runs on this machine
/// go first. One that only waits, for its turn as well, is as light as it was.
const LIGHT: Duration = Duration::from_millis(100);
/// How often it is looked at, at most.
const LOOK: Duration = Duration::from_millis(20);
/// Between cancels of a statement that goes on all the same.
const AGAIN: Duration = Duration::from_secs(1);

pub struct Clerk {
    stream: UnixStream,
    pid: Option<i32>,
    /// It has a question that it has not answered.
    is_busy: bool,
    /// It had a long one, and would be slow with the next.
    stands_back: bool,
    count: Arc<AtomicUsize>,
}

impl Clerk {
    pub fn new(stream: UnixStream, count: Arc<AtomicUsize>) -> Self {
        // Known by the system, not by what it says.
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        // In a test it is this very process, which does not end itself.
        let pid = pid.filter(|pid| *pid > 1 && *pid as u32 != std::process::id());
        count.fetch_add(1, Ordering::Relaxed);
        Self { stream, pid, is_busy: false, stands_back: false, count }
    }

    /// Whether it would be slow with another question.
    pub fn stands_back(&self) -> bool {
        self.stands_back
    }

    /// Whether its process waits for a question.
    pub fn is_there(&self) -> bool {
        let read = self.stream.try_read(&mut [0; 1]);
        // Anything else is its end, or an answer that nobody has asked for.
        matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Asks, and waits for the answer; cancels the statement when `waiting` for it has ended. `None`: it is gone.
    /// One that only reads holds up nobody, and is slowed down where it takes long.
    pub async fn ask<T>(
        &mut self,
        question: &Asked,
        only_reads: bool,
        waiting: &mut oneshot::Sender<T>,
    ) -> Option<Answer> {
        self.is_busy = true;
        let pid = self.pid;
        let answer = {
            let mut asked = pin!(ask(&mut self.stream, question));
            let long = async {
                if only_reads && becomes_long(pid).await {
                    process::stand_back(pid);
                    self.stands_back = true;
                }
                std::future::pending().await
            };
            let answer = tokio::select! {
                answer = &mut asked => Some(answer),
                () = waiting.closed() => None,
                () = long => None,
            };
            match answer {
                Some(answer) => answer,
                None => loop {
                    process::cancel(pid);
                    tokio::select! {
                        answer = &mut asked => break answer,
                        () = sleep(AGAIN) => {}
                    }
                },
            }
        };
        self.is_busy = false;
        answer
    }
}

impl Drop for Clerk {
    /// The closed connection sends it away once it has answered; one in the middle of a statement goes at once.
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        if self.is_busy {
            process::end(self.pid);
        }
    }
}

/// Waits until the statement that now begins has had more of the processor than a light one. `false`: nobody can say.
async fn becomes_long(pid: Option<i32>) -> bool {
    let Some(before) = process::used(pid) else { return false };
    loop {
        let Some(used) = process::used(pid) else { return false };
        match LIGHT.checked_sub(used.saturating_sub(before)) {
            Some(left) => sleep(left.max(LOOK)).await,
            None => return true,
        }
    }
}

async fn ask(stream: &mut UnixStream, question: &Asked) -> Option<Answer> {
    stream.write_all(&protocol::encode(question)).await.ok()?;
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).await.ok()?;
    let len = protocol::body_len(header).filter(|len| *len <= MAX_FRAME)?;
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.ok()?;
    protocol::decode(&body)
}
