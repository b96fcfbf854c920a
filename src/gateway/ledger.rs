//! The channel to the main thread, which alone speaks to PostgreSQL: [`Task`] by [`Task`].

use crate::error::Error;
use crate::gateway::task::Task;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};
use tokio::sync::oneshot::error::{RecvError, TryRecvError};
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;

/// Of what may wait, so much wakes the main thread, or so long after the first of it: a batch costs
/// the main thread as much as some ten of the rows in it.
const TOGETHER: u64 = 128;
const PAUSE: Duration = Duration::from_millis(10);

/// With so few tasks at the main thread, their answers are waited for awake, so long at the most.
const FEW: u64 = 1;
const LINGER: Duration = Duration::from_micros(200);

/// The gateway's end: send a task, and wake the main thread.
#[derive(Debug, Clone)]
pub struct Ledger {
    tasks: Sender<Task>,
    wake: Arc<Waker>,
    is_unhurried: bool,
}

/// The main thread's end.
#[derive(Debug)]
pub struct Inbox {
    pub tasks: Receiver<Task>,
    pub wake: Arc<Waker>,
}

/// One descriptor that becomes readable when there is work; at most one byte waits in it.
#[derive(Debug)]
pub struct Waker {
    writer: UnixStream,
    is_awake: AtomicBool,
    queued: AtomicU64,
    gathering: Gathering,
    /// Of those that are queued, for whose sake nobody was woken, since the main thread last looked.
    unhurried: AtomicU64,
    /// Somebody will wake it for them.
    is_timed: AtomicBool,
}

/// While the gateway runs, what its calls send in one round of its tasks wakes the main thread once: that is
/// one batch for it, and waking it costs more than sending does.
#[derive(Debug, Default)]
struct Gathering {
    /// Somebody is there to wake the main thread after the round.
    is_on: AtomicBool,
    /// It is to be woken.
    is_due: AtomicBool,
    due: Notify,
}

impl Waker {
    /// The main thread is about to look: later jobs wake it again.
    pub fn reset(&self) {
        self.unhurried.store(0, Ordering::SeqCst);
        self.is_awake.store(false, Ordering::SeqCst);
    }

    fn wake(&self) {
        if !self.is_awake.swap(true, Ordering::SeqCst) {
            // A full pipe is awake already.
            let _ = (&self.writer).write(&[1]);
        }
    }

    /// Something was sent.
    fn sent(&self) {
        let Gathering { is_on, is_due, due } = &self.gathering;
        if !is_on.load(Ordering::SeqCst) {
            self.wake();
        } else if !is_due.swap(true, Ordering::SeqCst) {
            due.notify_one();
        }
    }

    /// Puts off waking the main thread for one more task. Says whether that can be.
    fn put_off(self: &Arc<Self>) -> bool {
        if self.unhurried.fetch_add(1, Ordering::SeqCst) + 1 >= TOGETHER {
            return false;
        }
        if !self.is_timed.swap(true, Ordering::SeqCst) {
            // A gateway that ends has nobody who waits.
            let Ok(runtime) = tokio::runtime::Handle::try_current() else {
                self.is_timed.store(false, Ordering::SeqCst);
                return false;
            };
            let waker = self.clone();
            runtime.spawn(async move {
                sleep(PAUSE).await;
                waker.is_timed.store(false, Ordering::SeqCst);
                waker.wake();
            });
        }
        true
    }

    /// Whether there is something to do now: of what may wait somebody tells.
    pub fn has_more(&self) -> bool {
        self.queued() > self.unhurried.load(Ordering::SeqCst)
    }

    /// Jobs sent and not yet done.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// A job is done.
    pub fn done(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A channel to the main thread, and the descriptor that it waits on.
pub fn channel() -> std::io::Result<(Ledger, Inbox, UnixStream)> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let wake = Arc::new(Waker {
        writer,
        is_awake: AtomicBool::new(false),
        queued: AtomicU64::new(0),
        gathering: Gathering::default(),
        unhurried: AtomicU64::new(0),
        is_timed: AtomicBool::new(false),
    });
    let ledger = Ledger { tasks: sender, wake: wake.clone(), is_unhurried: false };
    Ok((ledger, Inbox { tasks: receiver, wake }, reader))
}

impl Ledger {
    /// What is sent by this one may wait a few milliseconds, so that more is written together.
    pub fn unhurried(&self) -> Self {
        Self { is_unhurried: true, ..self.clone() }
    }

    /// Never blocks; a task that cannot be sent any more is dropped with its reply channel.
    pub fn send(&self, task: Task) {
        let may_wait = self.is_unhurried && self.wake.put_off();
        self.wake.queued.fetch_add(1, Ordering::Relaxed);
        if self.tasks.send(task).is_err() {
            self.wake.done();
        } else if !may_wait {
            self.wake.sent();
        }
    }

    /// Sends a task that is answered, and waits for that.
    pub async fn ask<T>(&self, task: impl FnOnce(oneshot::Sender<T>) -> Task) -> Result<T, Error> {
        let (reply, answered) = oneshot::channel();
        self.send(task(reply));
        self.answer(answered).await.map_err(|_| Error::stopping())
    }

    /// Waits for what the main thread answers: awake for a moment, where it has little else to do, because being
    /// woken takes longer than that.
    pub async fn answer<T>(&self, mut answered: oneshot::Receiver<T>) -> Result<T, RecvError> {
        let began = Instant::now();
        // What may wait is not about to be answered.
        while !self.is_unhurried && self.wake.queued() <= FEW && began.elapsed() < LINGER {
            match answered.try_recv() {
                Ok(answer) => return Ok(answer),
                Err(TryRecvError::Empty) => yield_now().await,
                Err(TryRecvError::Closed) => break,
            }
        }
        answered.await
    }

    /// Wakes the main thread after each round of tasks in which something was sent, for as long as it runs. It
    /// must be a task of the thread that sends; without it, each sending wakes.
    pub async fn gather(self) {
        /// What was gathered when the task is dropped is not lost.
        struct On(Arc<Waker>);
        impl Drop for On {
            fn drop(&mut self) {
                self.0.gathering.is_on.store(false, Ordering::SeqCst);
                self.0.wake();
            }
        }
        let on = On(self.wake.clone());
        let Gathering { is_on, is_due, due } = &self.wake.gathering;
        is_on.store(true, Ordering::SeqCst);
        loop {
            due.notified().await;
            is_due.store(false, Ordering::SeqCst);
            on.0.wake();
        }
    }

    pub fn queued(&self) -> u64 {
        self.wake.queued()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// How often the main thread has been woken since it last looked.
    fn woken(inbox: &Inbox, mut reader: &UnixStream) -> usize {
        inbox.wake.reset();
        reader.read(&mut [0; 64]).unwrap_or(0)
    }

    /// Does what has arrived, and says how much that was.
    fn take(inbox: &Inbox) -> u64 {
        inbox.tasks.try_iter().map(|_| inbox.wake.done()).count() as u64
    }

    fn send(ledger: &Ledger, times: usize) {
        (0..times).for_each(|_| ledger.send(Task::JobsWritten));
    }

    #[tokio::test]
    async fn what_is_sent_in_one_round_wakes_once() {
        let (ledger, inbox, reader) = channel().unwrap();
        send(&ledger, 1);
        assert_eq!(woken(&inbox, &reader), 1, "nobody gathers");
        let gathers = tokio::spawn(ledger.clone().gather());
        tokio::task::yield_now().await;
        for _ in 0..3 {
            send(&ledger, 2);
            assert_eq!(woken(&inbox, &reader), 0, "the round is not over");
            send(&ledger, 1);
            tokio::task::yield_now().await;
            assert_eq!(woken(&inbox, &reader), 1);
            tokio::task::yield_now().await;
            assert_eq!(woken(&inbox, &reader), 0, "nothing was sent");
        }
        // Who is dropped with the gateway sends as well.
        send(&ledger, 1);
        gathers.abort();
        assert!(gathers.await.is_err());
        assert_eq!(woken(&inbox, &reader), 1, "what was gathered is not lost");
        send(&ledger, 1);
        assert_eq!(woken(&inbox, &reader), 1);
        assert_eq!(inbox.tasks.try_iter().count(), 12);
    }

    #[tokio::test]
    async fn what_may_wait_wakes_a_little_later_or_when_it_is_much() {
        let (ledger, inbox, reader) = channel().unwrap();
        let unhurried = ledger.unhurried();
        send(&unhurried, 1);
        assert!(!inbox.wake.has_more());
        // It sleeps on the machine's clock, which no test can turn.
        let given_up = Instant::now() + Duration::from_secs(60);
        while (&reader).read(&mut [0; 64]).unwrap_or(0) == 0 {
            assert!(Instant::now() < given_up, "nobody is woken");
            sleep(PAUSE).await;
        }
        inbox.wake.reset();
        assert_eq!(take(&inbox), 1);
        send(&unhurried, TOGETHER as usize - 1);
        assert!(!inbox.wake.has_more());
        assert_eq!((&reader).read(&mut [0; 64]).unwrap_or(0), 0, "it is not much yet");
        send(&unhurried, 1);
        assert_eq!(woken(&inbox, &reader), 1);
        assert_eq!(take(&inbox), TOGETHER);
        // What does not wait takes it along.
        send(&unhurried, 1);
        send(&ledger, 1);
        assert!(inbox.wake.has_more());
        assert_eq!(woken(&inbox, &reader), 1);
        assert!(inbox.wake.has_more(), "what is left of a batch waits for nobody");
        assert_eq!(take(&inbox), 2);
        assert!(!inbox.wake.has_more());
    }

    #[test]
    fn outside_of_the_gateway_nothing_waits() {
        let (ledger, inbox, reader) = channel().unwrap();
        send(&ledger.unhurried(), 1);
        assert_eq!(woken(&inbox, &reader), 1);
    }
}
