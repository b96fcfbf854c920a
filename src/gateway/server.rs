//! The gateway's thread: it accepts sessions on the Unix socket and runs their requests.

use crate::clock::unix_micros;
use crate::core::health::Health;
use crate::error::Error;
use crate::gateway::admission::Admission;
use crate::gateway::cache::Cache;
use crate::gateway::checking::Schemas;
use crate::gateway::checks::Checks;
use crate::gateway::clerks::Clerks;
use crate::gateway::clients::Clients;
use crate::gateway::columns::{self, Columns, Due};
use crate::gateway::delivery::{Delivery, Outgoing, Sink};
use crate::gateway::forgotten::{Forgotten, Mark};
use crate::gateway::health::SharedHealth;
use crate::gateway::heavy::Heavy;
use crate::gateway::hidden::Excesses;
use crate::gateway::hub::Hub;
use crate::gateway::keys::Keys;
use crate::gateway::ledger::Ledger;
use crate::gateway::listening::Listening;
use crate::gateway::memory::{Lease, Memory};
use crate::gateway::renewal::Renewals;
use crate::gateway::running::{Jobs, Running};
use crate::gateway::settings::Settings;
use crate::gateway::shared::Shared;
use crate::gateway::stats::{InFlight, Stats};
use crate::gateway::syncing::FirstSyncs;
use crate::gateway::task::{HiddenTokens, Task};
use crate::gateway::{batch, call, catalogue, first_sync, jobs, leasing};
use crate::protocol::{self, Addressed, ChatCall, HEADER_LEN, Reply, Request};
use std::os::unix::net::UnixListener as StdListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// For those who serve others than sessions to say that the gateway ends.
const FAREWELL: Duration = Duration::from_secs(3);

enum Command {
    Reload(Box<Settings>),
    Run(Vec<(ChatCall, Lease)>),
    Abort(Vec<Uuid>),
    Ended(Vec<Uuid>),
    Columns(Vec<Due>),
    /// Stop if no request is in flight and no more than this many were answered, and say whether
    /// that is so.
    StopIfIdle(u64, std::sync::mpsc::Sender<bool>),
    Stop,
}

/// What the main thread starts.
pub struct Gateway {
    pub listener: StdListener,
    /// Where clerks come to.
    pub clerks: StdListener,
    /// Oid of the extension that is served.
    pub extension: u32,
    /// This life of the worker.
    pub epoch: i64,
    pub settings: Settings,
    pub ledger: Ledger,
    /// As the last worker left it.
    pub health: Health,
    /// As it was seen by now.
    pub hidden: Vec<HiddenTokens>,
    /// Users who were forgotten lately.
    pub forgotten: Vec<Mark>,
    /// Of routes and callers. The main thread raises it.
    pub generation: &'static AtomicU64,
}

/// The main thread's hold on the gateway.
pub struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    memory: Arc<Memory>,
    columns: Arc<Columns>,
    stats: Arc<Stats>,
    thread: JoinHandle<()>,
}

impl Gateway {
    /// Starts the thread, and on it what serves others than sessions. The caller has blocked every signal,
    /// which the thread, and those that resolve names for it, inherit.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(
        self,
        front: impl FnOnce(Arc<Shared>) -> F + Send + 'static,
    ) -> std::io::Result<Handle> {
        let failed = |_| std::io::Error::other("the HTTP client cannot be built");
        let clients = Clients::new(&self.settings).map_err(failed)?;
        let stats = Arc::new(Stats::default());
        let memory = Memory::new(self.settings.max_memory);
        let columns = Arc::<Columns>::default();
        let clerks = Clerks::new(self.ledger.clone(), stats.clone(), self.extension);
        let shared = Arc::new(Shared {
            clerks,
            memory: memory.clone(),
            heavy: Heavy::default(),
            schemas: Schemas::default(),
            admission: Admission::new(self.settings.limits),
            health: SharedHealth::new(self.health),
            excesses: Arc::new(Excesses::restored(self.hidden)),
            spending: Arc::default(),
            hub: Hub::default(),
            renewals: Renewals::default(),
            cache: Cache::default(),
            jobs: Jobs::default(),
            columns: columns.clone(),
            checks: Checks::default(),
            first_syncs: FirstSyncs::default(),
            forgotten: Forgotten::new(self.forgotten),
            settings: Mutex::new(Arc::new(self.settings)),
            clients: Mutex::new(Arc::new(clients)),
            keys: Keys::default(),
            unhurried: self.ledger.unhurried(),
            ledger: self.ledger,
            stats: stats.clone(),
            listening: Listening::default(),
            generation: self.generation,
            reloads: watch::Sender::new(()),
            stopping: watch::Sender::new(false),
            extension: self.extension,
            epoch: self.epoch,
            pid: std::process::id(),
            started_at: unix_micros(),
        });
        self.listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (commands, orders) = mpsc::unbounded_channel();
        let (listener, of_clerks) = (self.listener, self.clerks);
        let thread =
            std::thread::Builder::new().name("aggregator".to_owned()).spawn(move || {
                runtime.block_on(async {
                    if let Ok(listener) = UnixListener::from_std(listener)
                        && shared.clerks.listen(of_clerks).is_ok()
                    {
                        let front = tokio::spawn(front(shared.clone()));
                        accept(&listener, orders, &shared).await;
                        // Its clients are told, and the calls of those who are not end with the runtime.
                        shared.stopping.send_replace(true);
                        let _ = timeout(FAREWELL, front).await;
                    }
                });
                // Dropping the runtime drops every call, and each settles its row as it goes.
                runtime.shutdown_background();
            })?;
        Ok(Handle { commands, memory, columns, stats, thread })
    }
}

impl Handle {
    pub fn reload(&self, settings: Settings) {
        let _ = self.commands.send(Command::Reload(Box::new(settings)));
    }

    /// Bytes of jobs that may be taken for this user: each needs its own once more to be sent, and room for
    /// its answer.
    pub fn room(&self, user: &str) -> usize {
        self.memory.room(user) / 3
    }

    /// Runs jobs that were claimed. Their requests are in memory already.
    pub fn run_jobs(&self, calls: Vec<ChatCall>) {
        let leased = calls.into_iter().map(|call| {
            let mut lease = self.memory.lease(&call.user_id);
            lease.begin_anyway(call.body.len());
            (call, lease)
        });
        let _ = self.commands.send(Command::Run(leased.collect()));
    }

    /// Aborts jobs that were cancelled.
    pub fn abort_jobs(&self, jobs: Vec<Uuid>) {
        let _ = self.commands.send(Command::Abort(jobs));
    }

    /// Tells those who wait that the results of jobs are committed.
    pub fn jobs_ended(&self, jobs: Vec<Uuid>) {
        let _ = self.commands.send(Command::Ended(jobs));
    }

    /// AI columns that are at work.
    pub fn columns_at_work(&self) -> Vec<Uuid> {
        self.columns.at_work()
    }

    /// Works on AI columns that have something to do.
    pub fn work_on_columns(&self, due: Vec<Due>) {
        let _ = self.commands.send(Command::Columns(due));
    }

    /// Stops the gateway if nothing is in flight, and nothing was answered since so many requests:
    /// that may have been the commit of a job. No request is lost: one that was not accepted is
    /// sent again by its session.
    pub fn stop_if_idle(&self, served: u64) -> bool {
        let (answer, answered) = std::sync::mpsc::channel();
        let _ = self.commands.send(Command::StopIfIdle(served, answer));
        answered.recv().unwrap_or(true)
    }

    /// Aborts every call.
    pub fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }

    /// Requests in flight, and requests answered since the start.
    pub fn counts(&self) -> (u64, u64) {
        (self.stats.in_flight.load(Ordering::Relaxed), self.stats.served.load(Ordering::Relaxed))
    }

    /// Whether the thread has ended, by order or by a panic.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

async fn accept(
    listener: &UnixListener,
    mut orders: mpsc::UnboundedReceiver<Command>,
    shared: &Arc<Shared>,
) {
    let mut sessions = JoinSet::new();
    let stats = shared.stats.clone();
    tokio::spawn(async move { stats.watch().await });
    tokio::spawn(shared.ledger.clone().gather());
    tokio::spawn(leasing::beat(shared.clone()));
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    sessions.spawn(serve(stream, shared.clone()));
                }
                // Out of descriptors, say: let some session end first.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = sessions.join_next(), if !sessions.is_empty() => {}
            order = orders.recv() => match order {
                Some(Command::Reload(settings)) => shared.reload(*settings),
                Some(Command::Run(calls)) => jobs::start(shared, calls),
                Some(Command::Abort(jobs)) => shared.jobs.abort(&jobs),
                Some(Command::Columns(due)) => columns::start(shared, due),
                Some(Command::Ended(jobs)) => shared.jobs.ended(jobs),
                Some(Command::StopIfIdle(served, answer)) => {
                    let is_idle = shared.stats.in_flight.load(Ordering::Relaxed) == 0
                        && shared.stats.served.load(Ordering::Relaxed) == served
                        && leasing::is_over(shared);
                    let _ = answer.send(is_idle);
                    if is_idle {
                        return;
                    }
                }
                Some(Command::Stop) | None => return,
            },
        }
    }
}

/// A session. Most of its requests are read with one call of the system.
type Session = BufReader<UnixStream>;

/// Bytes that are read of a session beyond what was asked for.
const READ_AHEAD: usize = 4096;

/// Serves one session: one request at a time, until it closes the connection.
async fn serve(stream: UnixStream, shared: Arc<Shared>) {
    let mut stream = Session::with_capacity(READ_AHEAD, stream);
    loop {
        let mut header = [0; HEADER_LEN];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let Some(len) = protocol::body_len(header) else { return };
        let Ok(user) = read_user(&mut stream).await else { return };
        let mut lease = shared.memory.lease(&user);
        // Once as it comes, and once as what it says, until it is read.
        let mut reading = lease.another();
        if let Err(error) = lease.begin(len).and_then(|()| reading.begin(len)) {
            let discarded =
                tokio::io::copy(&mut (&mut stream).take(len as u64), &mut tokio::io::sink()).await;
            if discarded.is_err() || send(&mut stream, &Reply::Failed(error)).await.is_err() {
                return;
            }
            continue;
        }
        let mut body = vec![0; len];
        if stream.read_exact(&mut body).await.is_err() {
            return;
        }
        // At once: from here on the session takes it as accepted.
        let in_flight = shared.stats.enter();
        let decoded = shared.heavy.run(len, move || protocol::decode(&body)).await;
        let Ok(Some(Addressed { extension, request })) = decoded else { return };
        drop(reading);
        if extension != shared.extension {
            // The session tries again, and meets the worker that comes after this one.
            shared.ledger.send(Task::Outdated);
            let _ = send(&mut stream, &Reply::Unread).await;
            return;
        }
        let served = match request {
            Request::Outbox => {
                if send(&mut stream, &Reply::Accepted).await.is_err() {
                    return;
                }
                until_committed(&mut stream, &shared).await
            }
            request => converse(&mut stream, request, &shared, lease, in_flight).await,
        };
        if served.is_none() {
            return;
        }
    }
}

/// For whose sake the frame comes.
async fn read_user(stream: &mut Session) -> std::io::Result<String> {
    let mut user = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut user).await?;
    String::from_utf8(user).map_err(std::io::Error::other)
}

/// Waits for the end of a transaction that writes jobs, of which one byte tells, or the end of its
/// session. After a rollback the calls that the session has handed over belong to nobody.
async fn until_committed(stream: &mut Session, shared: &Shared) -> Option<()> {
    let mut byte = [0; 1];
    let read = stream.read(&mut byte).await;
    let handed_over = match peer(stream.get_ref()) {
        Some(session) => shared.jobs.settle_hand_overs(session),
        None => Vec::new(),
    };
    if matches!(read, Ok(1)) && byte[0] == protocol::ROLLED_BACK && !handed_over.is_empty() {
        shared.jobs.abort(&handed_over);
        shared.ledger.send(Task::HandOversUndone(handed_over));
    }
    shared.ledger.send(Task::JobsWritten);
    matches!(read, Ok(1)).then_some(())
}

/// The process on the other side.
fn peer(stream: &UnixStream) -> Option<i32> {
    stream.peer_cred().ok()?.pid()
}

/// Replies that wait for a session to read them. When it does not, the call waits too.
const REPLIES: usize = 64;

/// Carries out one request and sends its replies. `None`: the session is gone, which aborts it.
async fn converse(
    stream: &mut Session,
    request: Request,
    shared: &Arc<Shared>,
    lease: Lease,
    in_flight: InFlight,
) -> Option<()> {
    let hand_over = match &request {
        Request::Chat { call, hand_over_after_ms: Some(after) } => {
            Some((Instant::now() + Duration::from_millis(*after), call.call_id))
        }
        _ => None,
    };
    // Dropping `running` aborts the request.
    let (mut running, mut replies) = match request {
        Request::Stream(_) | Request::Many(_) => {
            let (sink, replies) = mpsc::channel(REPLIES);
            (Running::apart(answer(request, shared.clone(), lease, Some(sink))), Some(replies))
        }
        _ => (Running::here(answer(request, shared.clone(), lease, None)), None),
    };
    let last = loop {
        tokio::select! {
            () = closed(stream) => return None,
            Some(outgoing) = next(&mut replies) => {
                let Outgoing { reply, lease: _held } = outgoing;
                send(stream, &reply).await.ok()?;
            }
            reply = &mut running => break reply,
            () = until(hand_over.map(|(at, _)| at)) => {
                let (_, job) = hand_over?;
                shared.ledger.send(Task::HandedOver(job));
                jobs::take_over(shared, job, peer(stream.get_ref()), in_flight, running);
                return send(stream, &Reply::HandedOver { epoch: shared.epoch }).await.ok();
            }
        }
    };
    while let Some(Ok(outgoing)) = replies.as_mut().map(mpsc::Receiver::try_recv) {
        let Outgoing { reply, lease: _held } = outgoing;
        send(stream, &reply).await.ok()?;
    }
    drop(in_flight);
    let Outgoing { reply, lease: _held } = last;
    send(stream, &reply).await.ok()
}

/// The next reply before the last one, of a request that has such.
async fn next(replies: &mut Option<mpsc::Receiver<Outgoing>>) -> Option<Outgoing> {
    match replies {
        Some(replies) => replies.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Runs one request: what comes before its last reply goes to `sink`.
async fn answer(
    request: Request,
    shared: Arc<Shared>,
    mut lease: Lease,
    sink: Option<Sink>,
) -> Outgoing {
    let reply = reply_to(request, shared, &mut lease, sink).await;
    Outgoing { reply, lease: Some(lease) }
}

async fn reply_to(
    request: Request,
    shared: Arc<Shared>,
    lease: &mut Lease,
    sink: Option<Sink>,
) -> Reply {
    match (request, sink) {
        (Request::Chat { call, .. }, _) => {
            Reply::Chat(Box::new(call::run(&shared, &call, Delivery::Whole, lease).await))
        }
        (Request::Stream(call), Some(sink)) => {
            let delivery = Delivery::Deltas(&sink);
            Reply::Chat(Box::new(call::run(&shared, &call, delivery, lease).await))
        }
        (Request::Many(calls), Some(sink)) => {
            batch::run(shared, *calls, sink).await;
            Reply::End
        }
        (Request::AwaitJob { job, for_ms }, _) => {
            shared.jobs.wait(job, Duration::from_millis(for_ms)).await;
            Reply::End
        }
        // These two have a sink, and the outbox has no answer of its own: see `until_committed`.
        (Request::Stream(_) | Request::Many(_), None) => {
            Reply::Failed(Error::internal("replies have nowhere to go"))
        }
        (Request::Outbox, _) => Reply::End,
        (Request::Catalogues(fetches), _) => {
            let mut tasks = JoinSet::new();
            for (index, fetch) in fetches.into_iter().enumerate() {
                let shared = shared.clone();
                tasks.spawn(async move {
                    let mut lease = shared.memory.lease("");
                    (index, catalogue::fetch(&shared, &fetch, &mut lease).await)
                });
            }
            let mut results = tasks.join_all().await;
            results.sort_by_key(|(index, _)| *index);
            Reply::Catalogues(results.into_iter().map(|(_, result)| result).collect())
        }
        (Request::CheckKey(check), _) => {
            Reply::CheckKey(catalogue::check_key(&shared, &check, lease).await)
        }
        (Request::SyncSoon(sync), _) => {
            tokio::spawn(first_sync::run(shared, *sync));
            Reply::SyncSoon
        }
        (Request::SyncNow(sync), _) => Reply::SyncNow(first_sync::now(&shared, *sync).await),
        (Request::Reseal { master_key, keys }, _) => {
            let file = &shared.settings().keyring_file;
            Reply::Reseal(shared.keys.reseal(file, &master_key, &keys))
        }
        (Request::Forget { user, anonymous }, _) => {
            forget(&shared, user, anonymous).await;
            Reply::End
        }
        (Request::Status, _) => Reply::Status(Box::new(shared.status())),
    }
}

/// Ends what is in flight of a user, and returns when the main thread has written all of it.
async fn forget(shared: &Shared, user: String, anonymous: String) {
    shared.forgotten.forget(&user).await;
    shared.spending.forget_user(&user);
    let (done, written) = oneshot::channel();
    shared.ledger.send(Task::Forget { user, anonymous, done });
    let _ = written.await;
}

/// Returns when the session is gone; one that talks out of turn is as good as gone.
async fn closed(stream: &mut Session) {
    let _ = stream.read(&mut [0; 1]).await;
}

async fn send(stream: &mut Session, reply: &Reply) -> std::io::Result<()> {
    stream.write_all(&protocol::encode(reply)).await
}
