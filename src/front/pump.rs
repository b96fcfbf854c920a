//! A call that is known in full, and its answer: given whole, or as a stream of events.

use crate::answer::Answer;
use crate::core::front::failure::{Failure, Sent};
use crate::core::options::Prepared;
use crate::core::rate::Standings;
use crate::error::Error;
use crate::front::caller::Caller;
use crate::front::connection::Ending;
use crate::front::form::Form;
use crate::front::reply::{self, Body};
use crate::front::writer::Writer;
use crate::front::{Front, calls};
use crate::gateway::delivery::{Delivery, Piece};
use crate::gateway::memory::Lease;
use crate::gateway::shared::{Shared, until_true};
use crate::protocol::ChatReply;
use bytes::Bytes;
use http::{Response, StatusCode};
use std::mem::{replace, take};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// The status of a stream is held back until something has arrived: what fails before that has a status of its own,
/// by which clients know what to do. But not for longer, or they take the connection for dead.
const HOLD: Duration = Duration::from_secs(15);
/// Between signs of life, while nothing is to be said.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Pieces that are read of the upstream ahead of the client.
const PIECES: usize = 64;
/// Frames that wait to be written, and the bytes of one to which no more are added.
const FRAMES: usize = 2;
const FRAME: usize = 16 * 1024;

/// A call as it was asked for.
pub struct Order {
    pub caller: Caller,
    pub prepared: Prepared,
    pub form: Form,
    /// Of the request, and of the call.
    pub id: Uuid,
    /// Where it is told how the caller's limits stand.
    pub standings: Arc<Mutex<Standings>>,
    pub lease: Lease,
    /// Of the connection that it came by.
    pub ending: Ending,
}

/// A call that runs in a task of its own: a panic in it fails it alone. Dropping it aborts it.
struct Running {
    task: JoinSet<(ChatReply, Lease)>,
    /// Whether the gateway ends, or the connection, and the call with it.
    stopping: watch::Receiver<bool>,
    ending: Ending,
}

impl Running {
    fn start(front: &Arc<Front>, order: Order, pieces: Option<mpsc::Sender<Piece>>) -> Self {
        let (front, in_flight) = (front.clone(), front.shared.stats.enter());
        let (stopping, ending) = (front.shared.stopping.subscribe(), order.ending.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut order = order;
            let delivery = pieces.as_ref().map_or(Delivery::Whole, Delivery::Chunks);
            let reply = calls::run(&front, &mut order, delivery).await;
            front.metrics.called(&reply);
            drop(in_flight);
            (reply, order.lease)
        });
        Self { task, stopping, ending }
    }

    async fn end(&mut self) -> Result<(ChatReply, Lease), Failure> {
        tokio::select! {
            ended = self.task.join_next() => ended
                .and_then(Result::ok)
                .ok_or_else(|| Failure::of(&Error::panicked(), Sent::PerhapsPaid)),
            why = cut_off(&mut self.stopping, &mut self.ending) => Err(self.abort(&why)),
        }
    }

    /// Waits until it is to end before its time, and says why.
    async fn cut_off(&mut self) -> Error {
        cut_off(&mut self.stopping, &mut self.ending).await
    }

    /// Ends it before its time: what has arrived is written down.
    fn abort(&mut self, why: &Error) -> Failure {
        self.task.abort_all();
        Failure::of(why, Sent::PerhapsPaid)
    }
}

async fn cut_off(stopping: &mut watch::Receiver<bool>, ending: &mut Ending) -> Error {
    tokio::select! {
        () = until_true(stopping) => Error::stopping(),
        () = ending.wait() => Error::GatewayLost,
    }
}

/// An answer, and the memory that it holds until it is written.
pub struct Done {
    pub answer: Answer,
    /// In OpenAI's form, with our member.
    pub response: String,
    /// How long that was.
    pub bytes: usize,
    lease: Lease,
}

impl Done {
    /// Takes memory for more of it.
    pub fn hold(&mut self, bytes: usize) -> Result<(), Failure> {
        let grown = self.lease.grow(bytes);
        grown.map_err(|shortage| Failure::of(&Error::from(shortage), Sent::PerhapsPaid))
    }

    /// Answers with this text of it.
    pub fn respond(self, body: String) -> Response<Body> {
        let held = Held { bytes: body.into_bytes(), _leases: vec![self.lease] };
        let mut response = reply::json(StatusCode::OK, Bytes::from_owner(held));
        reply::add_provider(&mut response, self.answer.provider.as_deref());
        if let Some(cost) = &self.answer.cost {
            reply::add(&mut response, "x-aggregator-cost", cost);
        }
        response
    }
}

/// Bytes on their way out, which hold their memory until they are written.
struct Held {
    bytes: Vec<u8>,
    _leases: Vec<Lease>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Runs a call to its end. Whoever waits for it and goes away takes this future along, and so the call.
pub async fn whole(front: &Arc<Front>, order: Order) -> Result<Done, Failure> {
    let id = order.id;
    let (reply, lease) = Running::start(front, order, None).end().await?;
    let sent = reply.sent;
    let bytes = reply.outcome.as_ref().map_or(0, |answer| answer.response.len());
    let told = front.shared.heavy.run(bytes, move || Answer::of(id, reply)).await;
    let mut answer = told.map_err(|error| Failure::of(&error, Sent::PerhapsPaid))?;
    let outcome = replace(&mut answer.outcome, Ok(String::new()));
    let response = outcome.map_err(|error| Failure::of(&error, sent))?;
    Ok(Done { bytes: response.len(), answer, response, lease })
}

/// Runs a call whose answer is written as it arrives. An error comes back where nothing has been written yet.
pub async fn stream(
    front: &Arc<Front>,
    order: Order,
    writer: Box<dyn Writer>,
) -> Result<Response<Body>, Failure> {
    let (sink, pieces) = mpsc::channel(PIECES);
    let mut streaming = Streaming {
        shared: front.shared.clone(),
        id: order.id,
        lease: order.lease.another(),
        running: Running::start(front, order, Some(sink)),
        pieces,
        writer: Some(writer),
        out: String::new(),
        leases: Vec::new(),
        provider: None,
        has_ended: false,
    };
    let Streaming { pieces, running, .. } = &mut streaming;
    let first = tokio::select! {
        first = timeout(HOLD, pieces.recv()) => first,
        why = running.cut_off() => return Err(running.abort(&why)),
    };
    match first {
        Ok(Some(piece)) => streaming.take(piece).await,
        Ok(None) => streaming.end().await?,
        Err(_) => streaming.keepalive(),
    }
    let (frames, events) = mpsc::channel(FRAMES);
    let mut response = reply::events(events);
    // Of one that took longer than the status is held back nobody knows it yet.
    reply::add_provider(&mut response, streaming.provider.as_deref());
    tokio::spawn(streaming.run(frames));
    Ok(response)
}

/// A stream on its way. Dropping it aborts the call.
struct Streaming {
    shared: Arc<Shared>,
    id: Uuid,
    running: Running,
    pieces: mpsc::Receiver<Piece>,
    /// `None`: it panicked, and nothing more can be written.
    writer: Option<Box<dyn Writer>>,
    /// What is to be written, and the memory that it holds.
    out: String,
    leases: Vec<Lease>,
    /// For what the writer holds.
    lease: Lease,
    /// Who answers, as soon as anybody does.
    provider: Option<String>,
    has_ended: bool,
}

impl Streaming {
    async fn run(mut self, frames: mpsc::Sender<Bytes>) {
        loop {
            if !self.out.is_empty() {
                let bytes = take(&mut self.out).into_bytes();
                let held = Held { bytes, _leases: take(&mut self.leases) };
                if frames.send(Bytes::from_owner(held)).await.is_err() {
                    return;
                }
            }
            if self.has_ended || self.writer.is_none() {
                return;
            }
            tokio::select! {
                piece = self.pieces.recv() => match piece {
                    Some(piece) => {
                        self.take(piece).await;
                        while self.out.len() < FRAME
                            && !self.has_ended
                            && let Ok(piece) = self.pieces.try_recv()
                        {
                            self.take(piece).await;
                        }
                    }
                    None => {
                        if let Err(failure) = self.end().await {
                            self.fail(&failure);
                        }
                    }
                },
                () = sleep(KEEPALIVE) => self.keepalive(),
                // Nobody reads any more.
                () = frames.closed() => return,
                why = self.running.cut_off() => {
                    let failure = self.running.abort(&why);
                    self.fail(&failure);
                }
            }
        }
    }

    /// Writes what has arrived.
    async fn take(&mut self, piece: Piece) {
        let Piece { said, lease, provider } = piece;
        self.provider = provider.or(self.provider.take());
        self.write(said.len(), move |writer, out| writer.piece(&said, out)).await;
        self.leases.push(lease);
        let held = self.writer.as_ref().map_or(0, |writer| writer.size());
        self.hold(held);
    }

    /// Writes the end of the answer; what failed comes back.
    async fn end(&mut self) -> Result<(), Failure> {
        let (reply, lease) = self.running.end().await?;
        self.leases.push(lease);
        let (id, sent) = (self.id, reply.sent);
        let bytes = reply.outcome.as_ref().map_or(0, |answer| answer.response.len());
        // What is held is written twice at the most at the end: the items of a response, and the response.
        let held = self.writer.as_ref().map_or(0, |writer| writer.size());
        self.hold(bytes + 3 * held);
        if self.has_ended {
            return Ok(());
        }
        let told = self.shared.heavy.run(bytes, move || Answer::of(id, reply)).await;
        let answer = told.map_err(|error| Failure::of(&error, Sent::PerhapsPaid))?;
        self.provider = answer.provider.or(self.provider.take());
        let response = answer.outcome.map_err(|error| Failure::of(&error, sent))?;
        self.write(bytes + held, move |writer, out| writer.finish(&response, out)).await;
        self.has_ended = true;
        Ok(())
    }

    /// Takes memory for what is held; where there is none, the answer ends here.
    fn hold(&mut self, bytes: usize) {
        if let Err(shortage) = self.lease.grow_to(bytes) {
            self.running.task.abort_all();
            self.fail(&Failure::of(&Error::from(shortage), Sent::PerhapsPaid));
        }
    }

    /// Has the writer write: of much, on a thread of its own.
    async fn write(
        &mut self,
        bytes: usize,
        write: impl FnOnce(&mut dyn Writer, &mut String) + Send + 'static,
    ) {
        let Some(mut writer) = self.writer.take() else { return };
        let mut out = take(&mut self.out);
        let writing = self.shared.heavy.run(bytes, move || {
            write(&mut *writer, &mut out);
            (writer, out)
        });
        if let Ok((writer, out)) = writing.await {
            (self.writer, self.out) = (Some(writer), out);
        }
    }

    fn fail(&mut self, failure: &Failure) {
        if let Some(writer) = &mut self.writer {
            writer.fail(failure, &mut self.out);
        }
        self.has_ended = true;
    }

    fn keepalive(&mut self) {
        if let Some(writer) = &self.writer {
            writer.keepalive(&mut self.out);
        }
    }
}
