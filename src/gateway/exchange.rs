//! The exchange with one candidate once its row is open: what the answer is, how it reads, and how it
//! settles the row.

use crate::core::embedding::Wanted;
use crate::core::health::Fault;
use crate::core::reply::Completion;
use crate::core::retry::{self, Again, Sent};
use crate::core::sse::{Event, Kind, Parser};
use crate::core::standard::{Standard, Step};
use crate::core::stream::Assembler;
use crate::core::usage::Usage;
use crate::error::{Error, Refusal, UNREACHABLE};
use crate::gateway::answer::{Form, Read, read_answer, read_embeddings};
use crate::gateway::delivery::Delivery;
use crate::gateway::http::{Answer, Failure, Incoming};
use crate::gateway::memory::{Lease, Shortage};
use crate::gateway::outlet::{Blocked, Outlet, Reader};
use crate::gateway::row::{End, OpenRow};
use crate::gateway::settings::Settings;
use crate::gateway::shared::Shared;
use crate::gateway::task::{JobAnswer, Outcome};
use crate::protocol::{Candidate, ChatAnswer};
use http::StatusCode;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

/// How long a stream that has said that it is complete may take to end, so that its connection can
/// serve again.
const DRAIN: Duration = Duration::from_secs(1);
/// An attempt that did not give an answer.
pub struct Failed {
    pub error: Error,
    pub again: Again,
    /// What it says about the candidate.
    pub fault: Option<Fault>,
    /// How far it got.
    pub sent: Sent,
}

impl Failed {
    /// Nothing was sent, and nothing will be.
    pub fn finally(error: Error) -> Self {
        Self { error, again: Again::Never, fault: None, sent: Sent::Nothing }
    }

    /// What the candidate has said is paid for: others may be asked, but not this one again.
    fn not_here_again(self) -> Self {
        let again = match self.again {
            Again::Anywhere(_) => Again::Elsewhere,
            other => other,
        };
        Self { again, ..self }
    }

    /// Something of our own makes the candidate useless; another one may do.
    pub fn elsewhere(error: Error) -> Self {
        let again = match error {
            Error::BadRequest { .. } | Error::Internal { .. } | Error::Ledger { .. } => {
                Again::Never
            }
            _ => Again::Elsewhere,
        };
        Self { error, again, fault: None, sent: Sent::Nothing }
    }
}

/// One request on its way. In a box: it goes from one reader to the next, and each would hold it twice.
pub struct Exchange<'a, 'l> {
    pub shared: &'a Shared,
    pub candidate: &'a Candidate,
    pub key: &'a str,
    pub settings: &'a Settings,
    pub row: Box<OpenRow<'a>>,
    pub lease: &'l mut Lease,
    pub outlet: Outlet<'a, 'l>,
    /// The request went as it came, in the provider's own form.
    pub is_native: bool,
    /// Embeddings were asked for, and the answer must have these.
    pub wanted: Option<Wanted>,
    /// What it says is to be checked: it does not end a job yet.
    pub is_checked: bool,
    pub deadline: Instant,
    /// How long the caller waits in all.
    pub waited_ms: u64,
}

impl Exchange<'_, '_> {
    /// Reads an answer whose head has arrived, as what it is.
    pub async fn read(mut self: Box<Self>, mut incoming: Incoming) -> Result<ChatAnswer, Failed> {
        let (candidate, settings) = (self.candidate, self.settings);
        let (status, limit) = (incoming.status, settings.max_response_size);
        let kind = match status.is_success() {
            true => self.kind(&mut incoming, candidate, settings).await,
            false => Ok(Kind::Whole),
        };
        match kind {
            Ok(Kind::Events) if self.wanted.is_none() => self.read_stream(incoming).await,
            // Embeddings have no stream: events are no answer.
            Ok(Kind::Whole | Kind::Events) => {
                let reading = incoming.read(limit, self.lease);
                match timeout_at(self.deadline, reading).await {
                    Ok(Ok(answer)) => self.read_whole(answer).await,
                    Ok(Err(failure)) => Err(self.failed(failure).await),
                    Err(_) => Err(self.late().await),
                }
            }
            Err(error) if incoming.is_event_stream => {
                // The prompt has gone in.
                self.row.stream = Some(Assembler::default());
                Err(match error {
                    Error::Disconnected { .. } | Error::Stalled { .. } => {
                        self.interrupted(error).await
                    }
                    error => self.given_up(error).await,
                })
            }
            Err(error @ Error::Deadline { .. }) => Err(self.given_up(error).await),
            Err(error) => {
                let status = status.as_u16();
                Err(self.failed(Failure::Broken { status, error }).await)
            }
        }
    }

    /// What a body of status 2xx is.
    async fn kind(
        &self,
        incoming: &mut Incoming,
        candidate: &Candidate,
        settings: &Settings,
    ) -> Result<Kind, Error> {
        let idle = match incoming.is_event_stream {
            true => Instant::now() + settings.stream_idle_timeout,
            false => self.deadline,
        };
        let kind = incoming.kind(settings.max_response_size);
        timeout_at(idle.min(self.deadline), kind).await.unwrap_or_else(|_| {
            Err(match idle < self.deadline {
                true => stalled(candidate, settings),
                false => self.too_late(),
            })
        })
    }

    /// Reads an answer that arrived in full, and settles its row.
    async fn read_whole(mut self: Box<Self>, answer: Answer) -> Result<ChatAnswer, Failed> {
        let candidate = self.candidate;
        let status = answer.status.as_u16();
        let standard = candidate.provider.standard;
        let key = Zeroizing::new(self.key.to_owned());
        let http_status = answer.status;
        let form = match self.outlet.delivery {
            Delivery::Deltas(_) => Form::Text,
            _ if self.is_native => Form::Native,
            _ => Form::Response,
        };
        let bytes = answer.body.len();
        // The provider's own form is kept beside ours.
        if form == Form::Native
            && let Err(shortage) = self.lease.grow(2 * bytes)
        {
            return Err(self.out_of_memory(shortage).await);
        }
        // Numbers of one digit grow most.
        if self.wanted.is_some()
            && let Err(shortage) = self.lease.grow(3 * bytes)
        {
            return Err(self.out_of_memory(shortage).await);
        }
        let body = answer.body;
        let wanted = self.wanted;
        let read = move || match wanted {
            Some(wanted) => read_embeddings(http_status, &body, &key, wanted),
            None => read_answer(standard, http_status, &body, &key, form),
        };
        let (what, usage) = match self.shared.heavy.run(bytes, read).await {
            Ok(Read::Completion { completion, response, other }) => {
                let native = match form {
                    Form::Text => {
                        // One that is not taken in time is part of the whole all the same.
                        let _ = self.outlet.text(other).await;
                        None
                    }
                    Form::Native => Some(other).filter(|own| !own.is_empty()),
                    Form::Response => None,
                };
                let request_id = answer.request_id;
                let about = About { status, request_id, is_estimate: false, native };
                return Ok(self.finish(completion, response, about).await);
            }
            Ok(Read::Refused(refusal, usage)) => {
                let refusal = Refusal {
                    request_id: answer.request_id,
                    retry_after_s: answer.retry_after.map(|d| d.as_secs_f64().ceil() as u64),
                    ..refusal
                };
                // An error inside a 200 comes after generation has begun: it may have cost.
                let is_free_of_charge = !answer.status.is_success();
                let has_begun = usage.parts.is_some_and(|parts| parts.completion() > 0);
                let bill = Bill { usage, is_free_of_charge };
                let failed = refused(self.row, candidate, refusal, bill).await;
                return Err(if has_begun { failed.not_here_again() } else { failed });
            }
            Ok(Read::Broken(what, usage)) => (what, usage),
            Err(_) => ("something that cannot be read".to_owned(), Usage::default()),
        };
        Err(broken(self.row, candidate, status, what, usage, answer.request_id).await)
    }

    /// Reads a stream, handing on what it says as it arrives, and settles its row.
    async fn read_stream(
        mut self: Box<Self>,
        mut incoming: Incoming,
    ) -> Result<ChatAnswer, Failed> {
        let (candidate, settings) = (self.candidate, self.settings);
        let status = incoming.status.as_u16();
        let request_id = incoming.request_id.take();
        let mut parser = Parser::new(settings.max_response_size);
        let mut reader = Reader::new(candidate.provider.standard, self.is_native);
        let mut events: Vec<Event> = Vec::new();
        // The stream has said that it is complete.
        let mut is_done = false;
        // What has arrived, because a standard may hold back more than it hands on.
        let mut received = 0;
        self.row.stream = Some(Assembler::default());
        let what = 'reading: loop {
            let idle = Instant::now() + settings.stream_idle_timeout;
            let bytes = match timeout_at(idle.min(self.deadline), incoming.chunk()).await {
                Ok(Ok(bytes)) => bytes,
                // All has been said; the rest of a careless ending is not waited for.
                Ok(Err(_)) | Err(_) if self.is_finished() => None,
                Ok(Err(error)) => return Err(self.interrupted(error).await),
                Err(_) if idle < self.deadline => {
                    return Err(self.interrupted(stalled(candidate, settings)).await);
                }
                Err(_) => {
                    let error = self.too_late();
                    return Err(self.given_up(error).await);
                }
            };
            let has_ended = bytes.is_none();
            let fed = match bytes {
                Some(bytes) => {
                    received += bytes.len();
                    if received > settings.max_response_size {
                        if self.is_finished() {
                            break String::new();
                        }
                        let limit = settings.max_response_size as u64;
                        let error = Error::AnswerTooLarge { target: candidate.target(), limit };
                        return Err(self.given_up(error).await);
                    }
                    parser.feed(&bytes, &mut events)
                }
                None => std::mem::replace(&mut parser, Parser::new(0))
                    .finish()
                    .map(|last| events.extend(last)),
            };
            for event in events.drain(..) {
                match reader.read(&event, Some(self.key)) {
                    Step::Chunk(chunk) => {
                        let stream = self.row.stream.get_or_insert_default();
                        let added = stream.add(&chunk);
                        // Many small values take more room than they came in.
                        if stream.size() > settings.max_response_size {
                            let limit = settings.max_response_size as u64;
                            let error = Error::AnswerTooLarge { target: candidate.target(), limit };
                            return Err(self.given_up(error).await);
                        }
                        if added.has_output {
                            self.row.note_first_token();
                        }
                        let adding = self.outlet.add(added, || reader.said(chunk), self.lease);
                        if let Err(blocked) = adding.await {
                            return Err(self.blocked(blocked).await);
                        }
                    }
                    Step::Nothing => {
                        let said = reader.said(String::new());
                        if let Err(blocked) = self.outlet.piece(said, false, self.lease).await {
                            return Err(self.blocked(blocked).await);
                        }
                    }
                    Step::Done => {
                        is_done = true;
                        tokio::spawn(drain(incoming));
                        break 'reading String::new();
                    }
                    // All has been said: what comes after is no part of the answer.
                    Step::Refused(_) | Step::Broken(_) if self.is_finished() => {}
                    Step::Refused(refusal) => {
                        let refusal = Refusal { request_id, ..refusal };
                        let stream = self.row.stream.get_or_insert_default();
                        stream.add_usage_of(&event.data);
                        let has_begun = stream.has_output();
                        let bill = Bill::default();
                        let failed = refused(self.row, candidate, refusal, bill).await;
                        return Err(if has_begun { failed.not_here_again() } else { failed });
                    }
                    Step::Broken(what) => break 'reading what.to_owned(),
                }
            }
            match fed {
                Err(_) if self.is_finished() => break String::new(),
                Err(error) => break error.to_string(),
                Ok(()) => {}
            }
            // The answer once here, once in the frame to the session.
            let size = self.row.stream.as_ref().map_or(0, Assembler::size);
            let held = parser.pending() + self.outlet.size();
            if let Err(shortage) = self.lease.grow_to(2 * size + held) {
                return Err(self.out_of_memory(shortage).await);
            }
            if has_ended {
                break String::new();
            }
        };
        is_done &= self.has_output();
        if what.is_empty() && (is_done || self.is_finished()) {
            // What is not taken in time is part of the whole all the same.
            let _ = self.outlet.piece(reader.rest(), true, self.lease).await;
            return self.finish_stream(status, request_id).await;
        }
        if what.is_empty() && !self.has_output() {
            let reason = "the stream ended before it began".to_owned();
            let error = Error::Disconnected { target: candidate.target(), reason };
            return Err(self.interrupted(error).await);
        }
        let what = if what.is_empty() { "a stream that ends too early".to_owned() } else { what };
        Err(broken(self.row, candidate, status, what, Usage::default(), request_id).await)
    }

    async fn finish_stream(
        mut self: Box<Self>,
        status: u16,
        request_id: Option<String>,
    ) -> Result<ChatAnswer, Failed> {
        let candidate = self.candidate;
        let mut stream = self.row.stream.take().unwrap_or_default();
        // One that is not taken in time is part of the whole all the same.
        let _ = self.outlet.text(stream.take_rest()).await;
        let (usage, is_estimate) = self.row.usage_of(&stream, true);
        let key = Zeroizing::new(self.key.to_owned());
        let bytes = stream.size();
        // It is in OpenAI's form by now.
        let (standard, form) = (Standard::OpenAi, Form::Response);
        let read = move || read_answer(standard, StatusCode::OK, &stream.finish(), &key, form);
        let what = match self.shared.heavy.run(bytes, read).await {
            Ok(Read::Completion { completion, response, .. }) => {
                let completion = Completion { usage, ..completion };
                let about = About { status, request_id, is_estimate, native: None };
                return Ok(self.finish(completion, response, about).await);
            }
            Ok(Read::Broken(what, _)) => what,
            _ => "JSON that is not a completion".to_owned(),
        };
        Err(broken(self.row, candidate, status, what, Usage::default(), request_id).await)
    }

    /// A stream that broke or stalled. Before it said anything, another may say it.
    async fn interrupted(self: Box<Self>, error: Error) -> Failed {
        let again = if self.has_output() { Again::Never } else { Again::Anywhere(None) };
        let failed = self.given_up(error).await;
        Failed { again, fault: Some(Fault::Broken), ..failed }
    }

    async fn finish(
        self: Box<Self>,
        completion: Completion,
        response: String,
        about: About,
    ) -> ChatAnswer {
        let candidate = self.candidate;
        let served_model = completion.served_model.unwrap_or_else(|| candidate.model_id.clone());
        let provider = candidate.provider.name.clone();
        let ends_job = matches!(self.outlet.delivery, Delivery::Job) && !self.is_checked;
        let job = ends_job.then(|| JobAnswer {
            response: response.clone(),
            provider: provider.clone(),
            served_model: served_model.clone(),
        });
        let end = End {
            outcome: Outcome::Success,
            served_model: Some(served_model.clone()),
            usage: completion.usage,
            is_estimate: about.is_estimate,
            http_status: Some(about.status),
            request_id: about.request_id.or(completion.id),
            finish_reason: completion.finish_reason,
            job,
            ..End::default()
        };
        let settled = self.row.settle_answer(self.deadline, end).await;
        ChatAnswer { provider, response, served_model, settled, native: about.native }
    }

    fn has_output(&self) -> bool {
        self.row.stream.as_ref().is_some_and(Assembler::has_output)
    }

    fn is_finished(&self) -> bool {
        self.row.stream.as_ref().is_some_and(Assembler::is_finished)
    }

    /// Settles a failure of the connection.
    pub async fn failed(self: Box<Self>, failure: Failure) -> Failed {
        let free = matches!(failure, Failure::NotSent(_));
        let may_pass = matches!(failure, Failure::NotSent(_) | Failure::NoAnswer(_));
        let status = match &failure {
            Failure::Broken { status, .. } => Some(*status),
            _ => None,
        };
        let error = failure.into_error();
        let is_refused = matches!(error, Error::AddressRefused { .. });
        let fault = match (&error, free) {
            (Error::AddressRefused { .. }, _) => None,
            (_, true) => Some(Fault::Unreachable),
            (Error::Disconnected { .. }, _) => Some(Fault::Broken),
            _ => None,
        };
        // A row of an attempt that never left says so, so that it does not count as a request.
        let code = if free { UNREACHABLE } else { error.code() };
        let sent = if free { Sent::Nothing } else { self.row.sent() };
        self.row.settle(End::failed(code, status, free)).await;
        let again = match (may_pass, is_refused) {
            (_, true) => Again::Elsewhere,
            (true, _) => Again::Anywhere(None),
            _ => Again::Never,
        };
        Failed { error, again, fault, sent }
    }

    /// Settles an attempt whose deadline has passed.
    pub async fn late(self: Box<Self>) -> Failed {
        let error = self.too_late();
        self.given_up(error).await
    }

    /// Settles an attempt that we end ourselves.
    async fn given_up(self: Box<Self>, error: Error) -> Failed {
        let sent = self.row.sent();
        self.row.settle(End::failed(error.code(), None, false)).await;
        Failed { sent, ..Failed::finally(error) }
    }

    async fn out_of_memory(self: Box<Self>, shortage: Shortage) -> Failed {
        let (target, limit) = (self.candidate.target(), shortage.limit as u64);
        self.given_up(Error::AnswerOutOfMemory { target, limit }).await
    }

    async fn blocked(self: Box<Self>, blocked: Blocked) -> Failed {
        match blocked {
            Blocked::Late => self.late().await,
            Blocked::Shortage(shortage) => self.out_of_memory(shortage).await,
        }
    }

    fn too_late(&self) -> Error {
        Error::Deadline { target: self.candidate.target(), waited_ms: self.waited_ms }
    }
}

/// What an attempt that failed may have cost.
#[derive(Default)]
struct Bill {
    usage: Usage,
    is_free_of_charge: bool,
}

struct About {
    status: u16,
    request_id: Option<String>,
    is_estimate: bool,
    native: Option<String>,
}

fn stalled(candidate: &Candidate, settings: &Settings) -> Error {
    let idle_ms = settings.stream_idle_timeout.as_millis() as u64;
    Error::Stalled { target: candidate.target(), idle_ms }
}

async fn refused(
    row: Box<OpenRow<'_>>,
    candidate: &Candidate,
    refusal: Refusal,
    bill: Bill,
) -> Failed {
    let code = refusal.code.clone().unwrap_or_else(|| format!("http_{}", refusal.status));
    let mut end = End::failed(&code, Some(refusal.status), bill.is_free_of_charge);
    end.usage = bill.usage;
    end.request_id = refusal.request_id.clone();
    row.settle(end).await;
    let refusal = Box::new(refusal);
    Failed {
        sent: if bill.is_free_of_charge { Sent::Unpaid } else { Sent::PerhapsPaid },
        again: retry::after(&refusal),
        fault: Some(Fault::Refused(refusal.clone())),
        error: Error::Upstream { target: candidate.target(), refusal },
    }
}

async fn broken(
    row: Box<OpenRow<'_>>,
    candidate: &Candidate,
    status: u16,
    what: String,
    usage: Usage,
    request_id: Option<String>,
) -> Failed {
    let target = candidate.target();
    let error = Error::BrokenAnswer { target, status, what, request_id: request_id.clone() };
    let mut end = End::failed(error.code(), Some(status), false);
    end.usage = usage;
    end.request_id = request_id;
    row.settle(end).await;
    Failed { sent: Sent::PerhapsPaid, ..Failed::finally(error) }
}

/// Reads what is left of a stream, so that the connection can be used again.
async fn drain(mut incoming: Incoming) {
    let _ = timeout(DRAIN, async { while let Ok(Some(_)) = incoming.chunk().await {} }).await;
}
