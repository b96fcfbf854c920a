//! The clerks of this database: processes that run the statements of the console and work on AI columns. There are a few, started when
//! somebody asks and let go when nobody does; each has one question at a time, and so has each user.

mod clerk;
mod columns;
mod process;

use crate::core::front::console::statements::Statement;
use crate::core::front::console::told::Raised;
use crate::error::Error;
use crate::gateway::ledger::Ledger;
use crate::gateway::stats::{InFlight, Stats};
use crate::gateway::task::Task;
use crate::protocol::clerk::{Answer, Asked, Principal, Question};
use clerk::Clerk;
use columns::ColumnTurns;
pub use columns::Undone;
use std::collections::HashMap;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

/// Processes at one time, and how many of them may wait for providers: some are left for those who only look.
const MOST: usize = 4;
const MOST_ASKING: usize = 2;
/// Questions that may wait: of one user beside the one that is in work, and of all.
const WAITING_OF_USER: usize = 8;
const WAITING: usize = 64;
/// The longest that a question waits for its turn.
const TURN_PATIENCE: Duration = Duration::from_secs(30);
/// For a clerk to come once it is started.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long one stays that has nothing to do.
const IDLE: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 30_000 });
/// Beyond the time of a statement, until its answer is no longer waited for.
const GRACE: Duration = Duration::from_secs(5);

pub struct Clerks {
    ledger: Ledger,
    stats: Arc<Stats>,
    extension: u32,
    /// Where they come to.
    listener: OnceLock<UnixListener>,
    all: Arc<Semaphore>,
    asking: Arc<Semaphore>,
    lanes: Mutex<Lanes>,
    idle: Mutex<Vec<(Clerk, Instant)>>,
    /// Somebody will look after those who are idle.
    is_watched: AtomicBool,
    /// There are so many, idle or not.
    count: Arc<AtomicUsize>,
    columns: ColumnTurns,
}

/// Questions in work and waiting, of each user and of all.
#[derive(Default)]
struct Lanes {
    users: HashMap<String, Lane>,
    count: usize,
}

struct Lane {
    count: usize,
    turn: Arc<Semaphore>,
}

/// A place in a user's lane, given up when it is dropped.
struct Place {
    clerks: Arc<Clerks>,
    user: String,
    turn: Arc<Semaphore>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lanes = lock(&self.clerks.lanes);
        lanes.count -= 1;
        if let Some(lane) = lanes.users.get_mut(&self.user) {
            lane.count -= 1;
            if lane.count == 0 {
                lanes.users.remove(&self.user);
            }
        }
    }
}

/// What a question holds for as long as a clerk is at it, whoever still waits for the answer. The place goes last.
struct Turn {
    _all: OwnedSemaphorePermit,
    _asking: Option<OwnedSemaphorePermit>,
    _own: OwnedSemaphorePermit,
    _place: Place,
    _in_flight: InFlight,
}

/// What a statement came to: the JSON that it gave, or the error that it raised.
type Outcome = Result<String, Raised>;

impl Clerks {
    pub fn new(ledger: Ledger, stats: Arc<Stats>, extension: u32) -> Arc<Self> {
        Arc::new(Self {
            ledger,
            stats,
            extension,
            listener: OnceLock::new(),
            all: Arc::new(Semaphore::new(MOST)),
            asking: Arc::new(Semaphore::new(MOST_ASKING)),
            lanes: Mutex::default(),
            idle: Mutex::default(),
            is_watched: AtomicBool::new(false),
            count: Arc::default(),
            columns: ColumnTurns::default(),
        })
    }

    /// Begins to listen for clerks, on the gateway's thread.
    pub fn listen(&self, listener: StdListener) -> std::io::Result<()> {
        listener.set_nonblocking(true)?;
        let _ = self.listener.set(UnixListener::from_std(listener)?);
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Has a statement run for somebody. Whoever stops waiting has it cancelled.
    pub async fn ask(
        self: &Arc<Self>,
        statement: &'static Statement,
        principal: Principal,
        arguments: String,
    ) -> Result<Outcome, Error> {
        let turn = self.turn(&principal.user_id, statement).await?;
        let question = Question {
            extension: self.extension,
            principal,
            statement: statement.name.to_owned(),
            arguments,
        };
        let (reply, answered) = oneshot::channel();
        tokio::spawn(self.clone().work(question, !statement.writes(), turn, reply));
        let patience = START_PATIENCE + statement.patience() + GRACE;
        match timeout(patience, answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::stopping()),
            // As the database has it for a statement whose time is over.
            Err(_) => Ok(Err(Raised {
                sqlstate: "57014".to_owned(),
                message: String::new(),
                hint: None,
                detail: None,
            })),
        }
    }

    /// Waits for the turn of one more question of this user.
    async fn turn(self: &Arc<Self>, user: &str, statement: &Statement) -> Result<Turn, Error> {
        let place = self.place(user)?;
        let in_flight = self.stats.enter();
        let stopping = |_| Error::stopping();
        let turn = timeout(TURN_PATIENCE, async {
            let own = place.turn.clone().acquire_owned().await.map_err(stopping)?;
            let asking = match statement.asks_providers {
                true => Some(self.asking.clone().acquire_owned().await.map_err(stopping)?),
                false => None,
            };
            let all = self.all.clone().acquire_owned().await.map_err(stopping)?;
            Ok::<_, Error>((own, asking, all))
        });
        let (own, asking, all) = turn.await.map_err(|_| busy())??;
        Ok(Turn { _all: all, _asking: asking, _own: own, _place: place, _in_flight: in_flight })
    }

    fn place(self: &Arc<Self>, user: &str) -> Result<Place, Error> {
        let mut lanes = lock(&self.lanes);
        let own = lanes.users.get(user).map_or(0, |lane| lane.count);
        if own > WAITING_OF_USER {
            return Err(Error::ConsoleBusy { waiting: WAITING_OF_USER as u64 });
        }
        if lanes.count >= MOST + WAITING {
            return Err(busy());
        }
        lanes.count += 1;
        let new = || Lane { count: 0, turn: Arc::new(Semaphore::new(1)) };
        let lane = lanes.users.entry(user.to_owned()).or_insert_with(new);
        lane.count += 1;
        let turn = lane.turn.clone();
        Ok(Place { clerks: self.clone(), user: user.to_owned(), turn })
    }

    /// Sees a question through, also when nobody waits for the answer any more: its clerk is busy until it ends.
    async fn work(
        self: Arc<Self>,
        question: Question,
        only_reads: bool,
        turn: Turn,
        mut reply: oneshot::Sender<Result<Outcome, Error>>,
    ) {
        let mut clerk = match self.take().await {
            Ok(clerk) => clerk,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let asked = Asked::Statement(question);
        let outcome = match clerk.ask(&asked, only_reads, &mut reply).await {
            Some(Answer::Given(text)) => {
                self.put_back(clerk);
                Ok(Ok(text))
            }
            Some(Answer::Failed(raised)) => {
                self.put_back(clerk);
                Ok(Err(raised))
            }
            // Or it has answered something else, and is not asked again.
            Some(Answer::Told(_)) | None => Err(Error::ClerkDown {
                reason: "its process went away in the middle of it".to_owned(),
                hint: "Look whether it was done before you try again. The server log may say more."
                    .to_owned(),
            }),
        };
        // Whoever is answered may ask again at once.
        drop(turn);
        let _ = reply.send(outcome);
    }

    /// A clerk that has nothing to do, or a new one.
    async fn take(&self) -> Result<Clerk, Error> {
        loop {
            let idle = lock(&self.idle).pop();
            match idle {
                Some((clerk, _)) if clerk.is_there() => return Ok(clerk),
                Some(_) => {}
                None => return self.start().await,
            }
        }
    }

    async fn start(&self) -> Result<Clerk, Error> {
        let down = |reason: &str, hint: &str| Error::ClerkDown {
            reason: reason.to_owned(),
            hint: hint.to_owned(),
        };
        let listener = self.listener.get().ok_or_else(Error::stopping)?;
        if !self.ledger.ask(Task::StartClerk).await? {
            return Err(down(
                "no background worker slot is free",
                "Raise max_worker_processes and restart the server.",
            ));
        }
        match timeout(START_PATIENCE, listener.accept()).await {
            Ok(Ok((stream, _))) => Ok(Clerk::new(stream, self.count.clone())),
            Ok(Err(_)) => Err(down("a connection to its process failed", "Try again.")),
            Err(_) => Err(down("its process does not come up", "See the server log.")),
        }
    }

    /// It has nothing to do now, and leaves if that stays so.
    fn put_back(self: &Arc<Self>, clerk: Clerk) {
        if clerk.stands_back() {
            return;
        }
        lock(&self.idle).push((clerk, Instant::now()));
        self.watch_idle();
    }

    fn watch_idle(self: &Arc<Self>) {
        if !self.is_watched.swap(true, Ordering::SeqCst) {
            tokio::spawn(self.clone().watch());
        }
    }

    async fn watch(self: Arc<Self>) {
        loop {
            sleep(IDLE / 10).await;
            let is_kept =
                |(clerk, since): &(Clerk, Instant)| since.elapsed() < IDLE && clerk.is_there();
            let mut of_columns = lock(&self.columns.idle);
            let mut idle = lock(&self.idle);
            of_columns.retain(is_kept);
            idle.retain(is_kept);
            // With nobody idle there is nobody to watch; the next one who is has it begun again.
            if idle.is_empty() && of_columns.is_empty() {
                self.is_watched.store(false, Ordering::SeqCst);
                return;
            }
        }
    }
}

fn busy() -> Error {
    Error::ClerkDown {
        reason: "too many requests wait for it".to_owned(),
        hint: "Try again in a moment.".to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
