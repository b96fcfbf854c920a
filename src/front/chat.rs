//! `POST /v1/chat/completions`, whole and streamed.

use crate::answer::Answer;
use crate::clock::unix_micros;
use crate::core::front::event;
use crate::core::front::failure::{Failure, Sent};
use crate::core::front::openai::stream::Stream;
use crate::core::front::openai::{self, Asked, Stamp};
use crate::error::Error;
use crate::front::caller::Caller;
use crate::front::reply::{self, Body};
use crate::front::{Front, body, calls};
use crate::gateway::delivery::{Delivery, Piece, Said};
use crate::gateway::memory::Lease;
use crate::gateway::stats::InFlight;
use crate::protocol::ChatReply;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// So long the status of a stream is held back until something comes: refusals and fallbacks have their own.
const HELD_BACK: Duration = Duration::from_secs(15);
/// Between signs of life, while nothing is to be said.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Pieces of an answer that wait to be written, and what is written and not yet taken.
const PIECES: usize = 16;
const WRITTEN: usize = 2;

/// Answers a request. Who asks is known before anything of the body is read.
pub async fn completions(
    front: &Arc<Front>,
    parts: &Parts,
    body: Incoming,
    id: Uuid,
) -> Result<Response<Body>, Failure> {
    let caller = front.callers.identify(front, &parts.headers).await?;
    let in_flight = front.shared.stats.enter();
    let mut lease = front.shared.memory.lease(&caller.whose.user);
    let settings = front.shared.settings();
    let text = body::read(&parts.headers, body, settings.http.max_body, &mut lease).await?;
    let asked = read(front, text, &parts.headers, &lease).await?;
    let of = |error| Failure::of(&error, Sent::Nothing);
    asked.prepared.within(settings.max_request_size).map_err(of)?;
    let stamp = Stamp::new(id, unix_micros() / 1_000_000, &asked.prepared.model);
    let call = Call { front: front.clone(), caller, asked, id, lease, in_flight };
    if call.asked.prepared.streams { call.stream(stamp).await } else { call.whole(stamp).await }
}

/// Reads what is asked for: once as it came, and once as what it says.
async fn read(
    front: &Front,
    text: String,
    headers: &HeaderMap,
    lease: &Lease,
) -> Result<Asked, Failure> {
    let of = |error: Error| Failure::of(&error, Sent::Nothing);
    let bytes = text.len();
    let mut reading = lease.another();
    reading.begin(bytes).map_err(of)?;
    let mut asked =
        front.shared.heavy.run(bytes, move || Asked::read(&text)).await.map_err(of)??;
    let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(tags) = said("x-aggregator-tags") {
        openai::add_tags(&mut asked.prepared, tags)?;
    }
    for name in ["x-stainless-timeout", "x-stainless-read-timeout"] {
        if let Some(seconds) = said(name) {
            openai::lower_timeout(&mut asked.prepared, seconds);
        }
    }
    Ok(asked)
}

struct Call {
    front: Arc<Front>,
    caller: Caller,
    asked: Asked,
    id: Uuid,
    lease: Lease,
    in_flight: InFlight,
}

impl Call {
    /// Whoever waits for it and goes away takes this future along, and so the call.
    async fn whole(mut self, stamp: Stamp) -> Result<Response<Body>, Failure> {
        let prepared = &self.asked.prepared;
        let delivery = Delivery::Whole;
        let reply =
            calls::run(&self.front, self.caller, prepared, self.id, delivery, &mut self.lease)
                .await;
        let sent = reply.sent;
        let provider = reply.outcome.as_ref().ok().map(|answer| answer.provider.clone());
        let answer = Answer::of(self.id, reply);
        let text = answer.outcome.map_err(|error| Failure::of(&error, sent))?;
        let heavy = &self.front.shared.heavy;
        let text = heavy.run(text.len(), move || openai::whole(&text, stamp)).await;
        // It was paid for.
        let text = text.map_err(|error| Failure::of(&error, Sent::PerhapsPaid))?;
        let mut response = reply::json(StatusCode::OK, text);
        if let Some(provider) = provider {
            reply::add(&mut response, "x-aggregator-provider", &provider);
        }
        if let Some(cost) = answer.cost {
            reply::add(&mut response, "x-aggregator-cost", &cost);
        }
        Ok(response)
    }

    async fn stream(self, stamp: Stamp) -> Result<Response<Body>, Failure> {
        let Self { front, caller, asked, id, mut lease, in_flight } = self;
        let (pieces, mut said) = mpsc::channel(PIECES);
        let held = lease.another();
        let mut running = JoinSet::new();
        let stream = Stream::new(stamp, asked.with_usage);
        running.spawn(async move {
            let delivery = Delivery::Chunks(&pieces);
            let reply = calls::run(&front, caller, &asked.prepared, id, delivery, &mut lease).await;
            (reply, lease)
        });
        let first = match timeout(HELD_BACK, said.recv()).await {
            Ok(Some(piece)) => First::Piece(piece),
            Ok(None) => First::End(Box::new(ended(&mut running).await)),
            Err(_) => First::Nothing,
        };
        if let First::End(end) = &first
            && let (ChatReply { outcome: Err(error), sent, .. }, _) = &**end
        {
            return Err(Failure::of(error, *sent));
        }
        let (out, events) = mpsc::channel(WRITTEN);
        let pump = Pump { stream, held, id, text: String::new(), said, running, out };
        tokio::spawn(async move {
            let _in_flight = in_flight;
            // A reader that is gone ends it, and with it the call.
            let _ = pump.run(first).await;
        });
        Ok(reply::events(events))
    }
}

/// What comes first of an answer, in the time that it has to keep its own status.
enum First {
    Piece(Piece),
    End(Box<(ChatReply, Option<Lease>)>),
    Nothing,
}

type Running = JoinSet<(ChatReply, Lease)>;

/// How a call ended, and the memory that its answer holds.
async fn ended(running: &mut Running) -> (ChatReply, Option<Lease>) {
    match running.join_next().await {
        Some(Ok((reply, lease))) => (reply, Some(lease)),
        _ => {
            let (outcome, sent) = (Err(Error::panicked()), Sent::PerhapsPaid);
            (ChatReply { outcome, attempts: 0, latency_ms: 0, sent }, None)
        }
    }
}

/// Nobody reads any more.
struct Gone;

/// Writes what comes of a call as events, until it ends or nobody reads them. Dropping it aborts the call.
struct Pump {
    stream: Stream,
    /// For what the writer of the stream holds.
    held: Lease,
    id: Uuid,
    text: String,
    said: mpsc::Receiver<Piece>,
    running: Running,
    out: mpsc::Sender<Bytes>,
}

impl Pump {
    async fn run(mut self, first: First) -> Result<(), Gone> {
        match first {
            First::Piece(piece) => self.piece(piece).await?,
            First::End(end) => return self.end(*end).await,
            First::Nothing => self.send(event::KEEPALIVE.to_owned()).await?,
        }
        loop {
            tokio::select! {
                () = self.out.closed() => return Err(Gone),
                piece = self.said.recv() => match piece {
                    Some(piece) => self.piece(piece).await?,
                    None => break,
                },
                () = sleep(KEEPALIVE) => self.send(event::KEEPALIVE.to_owned()).await?,
            }
        }
        let end = tokio::select! {
            () = self.out.closed() => return Err(Gone),
            end = ended(&mut self.running) => end,
        };
        self.end(end).await
    }

    async fn piece(&mut self, piece: Piece) -> Result<(), Gone> {
        let Piece { said, lease: _held } = piece;
        match &said {
            Said::Chunk(chunk) => self.stream.chunk(chunk, &mut self.text),
            // Of another dialect, which this call was not made in.
            Said::Events(_) => {}
        }
        if let Err(shortage) = self.held.grow_to(self.stream.size()) {
            let failure = Failure::of(&shortage.into(), Sent::PerhapsPaid);
            self.stream.fail(&failure, &mut self.text);
            let text = std::mem::take(&mut self.text);
            self.send(text).await?;
            return Err(Gone);
        }
        let text = std::mem::take(&mut self.text);
        self.send(text).await
    }

    /// Writes the end. What has begun ends with an error as an event, where it fails.
    async fn end(mut self, (reply, _held): (ChatReply, Option<Lease>)) -> Result<(), Gone> {
        let sent = reply.sent;
        let mut text = std::mem::take(&mut self.text);
        match Answer::of(self.id, reply).outcome {
            Ok(answer) => self.stream.finish(&answer, &mut text),
            Err(error) => self.stream.fail(&Failure::of(&error, sent), &mut text),
        }
        self.send(text).await
    }

    async fn send(&mut self, text: String) -> Result<(), Gone> {
        if text.is_empty() {
            return Ok(());
        }
        self.out.send(text.into()).await.map_err(|_| Gone)
    }
}
