//! One request to one candidate: admission, the pending row, the exchange, and what it came to.

use crate::core::bound::{self, Model, Size};
use crate::core::budget::Rules;
use crate::core::health::{Fault, Subject};
use crate::core::reply::{self, Completion, Reading};
use crate::core::request::Outline;
use crate::core::retry::{self, Again};
use crate::core::sse::{Event, Kind, Parser};
use crate::core::standard::{Cap, Sending, Standard, Step};
use crate::core::stream::Assembler;
use crate::core::usage::Usage;
use crate::core::{calls, json, mend, refusal};
use crate::error::{Error, Refusal, UNREACHABLE};
use crate::gateway::Settings;
use crate::gateway::admission::{self, Permit};
use crate::gateway::hidden::Watch;
use crate::gateway::http::{Answer, Failure, Incoming, Outgoing, Prepared};
use crate::gateway::ledger::{JobAnswer, Outcome, Renewed, Task};
use crate::gateway::memory::Lease;
use crate::gateway::row::{End, Leave, OpenRow};
use crate::gateway::server::{Shared, Sink};
use crate::gateway::spending::{Asking, Hold};
use crate::protocol::{Candidate, ChatAnswer, ChatCall, Reply};
use bytes::Bytes;
use http::StatusCode;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use zeroize::Zeroizing;

/// How long a stream that has said that it is complete may take to end, so that its connection can
/// serve again.
const DRAIN: Duration = Duration::from_secs(1);
/// Between looks whether there is memory for a job.
const MEMORY_PAUSE: Duration = Duration::from_millis(200);
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);

/// What an answer without a choice says.
const NO_CHOICE: &str = r#"{"code":502,"message":"the answer has no choice"}"#;

/// How the caller wants its answer.
#[derive(Clone, Copy)]
pub enum Delivery<'a> {
    Whole,
    /// Whole, and written as the result of a job.
    Job,
    /// Text as it arrives, then the whole.
    Deltas(&'a Sink),
}

/// An attempt that did not give an answer.
pub struct Failed {
    pub error: Error,
    pub again: Again,
    /// What it says about the candidate.
    pub fault: Option<Fault>,
}

impl Failed {
    fn finally(error: Error) -> Self {
        Self { error, again: Again::Never, fault: None }
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
    fn elsewhere(error: Error) -> Self {
        let again = match error {
            Error::BadRequest { .. } | Error::Internal { .. } | Error::Ledger { .. } => {
                Again::Never
            }
            _ => Again::Elsewhere,
        };
        Self { error, again, fault: None }
    }
}

/// Limits of the answer that a budget counts on.
#[derive(Clone, Copy)]
struct Limits {
    cap: Option<i32>,
    most_tokens: Option<i64>,
}

/// What all attempts of a call share.
pub struct Attempts<'a> {
    pub shared: &'a Shared,
    pub call: &'a ChatCall,
    /// What its request asks for.
    pub outline: Outline,
    pub delivery: Delivery<'a>,
    pub deadline: Instant,
    /// Attempts for which a row was opened.
    pub made: u16,
    /// Text of the answer has reached the caller: there is no second try.
    pub has_delivered: bool,
}

impl Attempts<'_> {
    /// Asks one candidate.
    pub async fn ask(
        &mut self,
        candidate: &Candidate,
        lease: &mut Lease,
    ) -> Result<ChatAnswer, Failed> {
        let (shared, call) = (self.shared, self.call);
        let settings = shared.settings();
        let permit = self.enter(candidate, &settings, lease).await.map_err(Failed::finally)?;
        // From here on what holds now, where the call has waited.
        let renewed = shared
            .renewals
            .renew(&shared.ledger, &call.user_id, candidate, call.resolved_at)
            .await
            .map_err(Failed::elsewhere)?;
        let (candidate, rules) = match &renewed {
            None => (candidate, &*call.rules),
            Some(Renewed { candidate: Some(candidate), rules }) => (&**candidate, &**rules),
            Some(Renewed { candidate: None, .. }) => {
                let model = candidate.model_id.clone();
                return Err(Failed::elsewhere(Error::NoRoute { model }));
            }
        };
        let key = shared
            .keys
            .open(&settings.keyring_file, &candidate.provider.name, &candidate.key)
            .map_err(Failed::elsewhere)?;
        let size = self.size(candidate);
        let hold = self.hold(candidate, rules, &size).await.map_err(Failed::elsewhere)?;
        // What was reserved is what may be asked for.
        let most_tokens = (*rules != Rules::default()).then_some(size.output_tokens).flatten();
        let limits = Limits { cap: hold.cap(), most_tokens };
        let mut sent = shared.memory.lease(&call.user_id);
        let request = match self.prepare(candidate, &key, &settings, limits, &mut sent).await {
            Ok(prepared) => prepared,
            Err(error) => {
                hold.release();
                return Err(Failed::elsewhere(error));
            }
        };
        self.made += 1;
        let number = call.earlier_attempts.saturating_add(self.made);
        let watch = self.watch(candidate, size, limits);
        let leave = Leave { permit, hold, departure: request.departure(), watch };
        let sync = settings.ledger_sync;
        let prompt_tokens = self.outline.prompt_tokens;
        let row =
            OpenRow::open(&shared.ledger, call, candidate, number, prompt_tokens, leave, sync)
                .await
                .map_err(Failed::finally)?;
        let exchange = Exchange { candidate, key: &key, settings: &settings, row, lease };
        match timeout_at(self.deadline, request.send(Some(&key))).await {
            Ok(Ok(incoming)) => self.read(exchange, incoming).await,
            Ok(Err(failure)) => Err(exchange.failed(failure).await),
            Err(_) => Err(exchange.given_up(self.too_late(candidate)).await),
        }
    }

    /// Reads an answer whose head has arrived, as what it is.
    async fn read(
        &mut self,
        mut exchange: Exchange<'_, '_>,
        mut incoming: Incoming,
    ) -> Result<ChatAnswer, Failed> {
        let (candidate, settings) = (exchange.candidate, exchange.settings);
        let (status, limit) = (incoming.status, settings.max_response_size);
        let kind = match status.is_success() {
            true => self.kind(&mut incoming, candidate, settings).await,
            false => Ok(Kind::Whole),
        };
        match kind {
            Ok(Kind::Events) => self.read_stream(exchange, incoming).await,
            Ok(Kind::Whole) => {
                let reading = incoming.read(limit, exchange.lease);
                match timeout_at(self.deadline, reading).await {
                    Ok(Ok(answer)) => self.read_whole(exchange, answer).await,
                    Ok(Err(failure)) => Err(exchange.failed(failure).await),
                    Err(_) => Err(exchange.given_up(self.too_late(candidate)).await),
                }
            }
            Err(error) if incoming.is_event_stream => {
                // The prompt has gone in.
                exchange.row.stream = Some(Assembler::default());
                Err(match error {
                    Error::Disconnected { .. } | Error::Stalled { .. } => {
                        self.interrupted(exchange, error).await
                    }
                    error => exchange.given_up(error).await,
                })
            }
            Err(error @ Error::Deadline { .. }) => Err(exchange.given_up(error).await),
            Err(error) => {
                let status = status.as_u16();
                Err(exchange.failed(Failure::Broken { status, error }).await)
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
                false => self.too_late(candidate),
            })
        })
    }

    /// Waits for its turn, and takes room for the answer. A job has all the time for that: its own begins
    /// when it is sent.
    async fn enter(
        &mut self,
        candidate: &Candidate,
        settings: &Settings,
        lease: &mut Lease,
    ) -> Result<Permit, Error> {
        let waiting_since = Instant::now();
        let is_shared = candidate.key.binding.user_id.is_none();
        let (user, key) = (&self.call.user_id, candidate.user_provider_id);
        let admission = &self.shared.admission;
        if !matches!(self.delivery, Delivery::Job) {
            let entering = admission.enter(user, key, is_shared);
            let permit = timeout_at(self.deadline, entering).await.map_err(|_| Error::NoTurn {
                target: candidate.target(),
                waited_ms: waiting_since.elapsed().as_millis() as u64,
            })?;
            lease.expect_answer(settings.max_response_size)?;
            return permit.ok_or_else(admission::ended);
        }
        loop {
            let permit = admission.enter(user, key, is_shared).await;
            match lease.expect_answer(settings.max_response_size) {
                Ok(()) => {
                    self.deadline += waiting_since.elapsed();
                    return permit.ok_or_else(admission::ended);
                }
                // Jobs that wait hold memory themselves: one that has waited goes back to the queue.
                Err(error @ Error::OutOfMemory { may_pass, .. })
                    if !may_pass || waiting_since.elapsed() > MEMORY_PATIENCE =>
                {
                    return Err(error);
                }
                Err(_) => {}
            }
            // Nobody is to wait behind the memory of somebody else.
            drop(permit);
            sleep(MEMORY_PAUSE).await;
        }
    }

    /// What the request asks of this candidate at the most.
    fn size(&self, candidate: &Candidate) -> Size {
        let model = Model {
            id: &candidate.model_id,
            max_output_tokens: candidate.max_output_tokens,
            context_window: candidate.context_window,
            pricing: candidate.pricing.as_deref(),
        };
        let standard = candidate.provider.standard.wire();
        let hidden = self.shared.excesses.of(candidate.provider.id, candidate.counted_model());
        bound::size(&self.outline, &model, standard.default_output_tokens(), hidden)
    }

    /// What the provider will count is compared with the size that was reserved. Where no rule counts on
    /// it, a request may ask for more than the model writes by the catalogue.
    fn watch(&self, candidate: &Candidate, size: Size, limits: Limits) -> Watch {
        let most = size.output_tokens.or(limits.cap.map(i64::from));
        let asks_for_more = match limits.most_tokens {
            Some(_) => false,
            None => self.outline.max_tokens > most,
        };
        let most = most.filter(|_| !asks_for_more);
        self.shared.excesses.watch(candidate.provider.id, candidate.counted_model(), size, most)
    }

    /// Sets aside what the attempt may cost, and takes its share of the rate limits.
    async fn hold(&self, candidate: &Candidate, rules: &Rules, size: &Size) -> Result<Hold, Error> {
        let call = self.call;
        let prompt = i64::from(self.outline.prompt_tokens);
        let asking = Asking { user: &call.user_id, candidate, rules, size, prompt };
        self.shared.spending.hold(&self.shared.ledger, asking).await
    }

    /// The request, ready to leave, whose body `sent` accounts for.
    async fn prepare(
        &self,
        candidate: &Candidate,
        key: &str,
        settings: &Settings,
        limits: Limits,
        sent: &mut Lease,
    ) -> Result<Prepared, Error> {
        let provider = &candidate.provider;
        let standard = provider.standard;
        let is_openai_itself = provider.base_url.starts_with("https://api.openai.com/");
        let body = self.call.body.clone();
        let model_id = candidate.model_id.clone();
        let max_output_tokens = candidate.max_output_tokens;
        let streams = self.streams(candidate, settings);
        let translate = move || {
            let sending = Sending {
                model_id: &model_id,
                max_output_tokens,
                streams,
                cap: limits.cap.map(|tokens| Cap { tokens, is_openai_itself }),
                most_tokens: limits.most_tokens,
            };
            standard.wire().request(&body, &sending)
        };
        let bytes = self.call.body.len();
        let mut working = self.shared.memory.lease(&self.call.user_id);
        working.begin(bytes + self.outline.values * standard.wire().bytes_per_value())?;
        let body = Bytes::from(self.shared.heavy.run(bytes, translate).await??);
        drop(working);
        sent.begin(body.len())?;
        self.shared.clients(settings)?.prepare(Outgoing {
            provider,
            target: candidate.target(),
            url: &standard.chat_url(&provider.base_url),
            key: Some(key),
            body: Some(body),
            limit: settings.max_response_size,
        })
    }

    fn streams(&self, candidate: &Candidate, settings: &Settings) -> bool {
        match self.delivery {
            Delivery::Deltas(_) => true,
            _ => {
                let wanted = self.call.stream_upstream.unwrap_or(settings.stream_upstream);
                wanted && candidate.can_stream
            }
        }
    }

    fn too_late(&self, candidate: &Candidate) -> Error {
        Error::Deadline { target: candidate.target(), waited_ms: self.call.deadline_ms }
    }

    /// Reads an answer that arrived in full, and settles its row.
    async fn read_whole(
        &mut self,
        exchange: Exchange<'_, '_>,
        answer: Answer,
    ) -> Result<ChatAnswer, Failed> {
        let Exchange { candidate, key, row, .. } = exchange;
        let status = answer.status.as_u16();
        let standard = candidate.provider.standard;
        let key = Zeroizing::new(key.to_owned());
        let http_status = answer.status;
        let wants_text = matches!(self.delivery, Delivery::Deltas(_));
        let bytes = answer.body.len();
        let body = answer.body;
        let read = move || read_answer(standard, http_status, &body, &key, wants_text);
        let what = match self.shared.heavy.run(bytes, read).await {
            Ok(Read::Completion { completion, response, text }) => {
                if let Delivery::Deltas(sink) = self.delivery {
                    // One that is not taken in time is part of the whole all the same.
                    let _ = self.deliver(sink, text).await;
                }
                let request_id = answer.request_id;
                let about = About { status, request_id, is_estimate: false };
                return Ok(self.finish(row, candidate, completion, response, about).await);
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
                let failed = refused(row, candidate, refusal, bill).await;
                return Err(if has_begun { failed.not_here_again() } else { failed });
            }
            Ok(Read::Broken(what)) => what,
            Err(_) => "something that cannot be read".to_owned(),
        };
        Err(broken(row, candidate, status, what, answer.request_id).await)
    }

    /// Reads a stream, handing on what it says as it arrives, and settles its row.
    async fn read_stream(
        &mut self,
        mut exchange: Exchange<'_, '_>,
        mut incoming: Incoming,
    ) -> Result<ChatAnswer, Failed> {
        let (candidate, settings) = (exchange.candidate, exchange.settings);
        let status = incoming.status.as_u16();
        let request_id = incoming.request_id.take();
        let mut parser = Parser::new(settings.max_response_size);
        let mut chunks = candidate.provider.standard.wire().stream();
        let mut events: Vec<Event> = Vec::new();
        // The stream has said that it is complete.
        let mut is_done = false;
        // What has arrived, because a standard may hold back more than it hands on.
        let mut received = 0;
        exchange.row.stream = Some(Assembler::default());
        let what = 'reading: loop {
            let idle = Instant::now() + settings.stream_idle_timeout;
            let bytes = match timeout_at(idle.min(self.deadline), incoming.chunk()).await {
                Ok(Ok(bytes)) => bytes,
                // All has been said; the rest of a careless ending is not waited for.
                Ok(Err(_)) | Err(_) if exchange.is_finished() => None,
                Ok(Err(error)) => return Err(self.interrupted(exchange, error).await),
                Err(_) if idle < self.deadline => {
                    return Err(self.interrupted(exchange, stalled(candidate, settings)).await);
                }
                Err(_) => {
                    let error = self.too_late(candidate);
                    return Err(exchange.given_up(error).await);
                }
            };
            let has_ended = bytes.is_none();
            let fed = match bytes {
                Some(bytes) => {
                    received += bytes.len();
                    if received > settings.max_response_size {
                        if exchange.is_finished() {
                            break String::new();
                        }
                        let limit = settings.max_response_size as u64;
                        let error = Error::AnswerTooLarge { target: candidate.target(), limit };
                        return Err(exchange.given_up(error).await);
                    }
                    parser.feed(&bytes, &mut events)
                }
                None => std::mem::replace(&mut parser, Parser::new(0))
                    .finish()
                    .map(|last| events.extend(last)),
            };
            for event in events.drain(..) {
                match chunks.read(&event, Some(exchange.key)) {
                    Step::Chunk(chunk) => {
                        let stream = exchange.row.stream.get_or_insert_default();
                        let added = stream.add(&chunk);
                        // Many small values take more room than they came in.
                        if stream.size() > settings.max_response_size {
                            let limit = settings.max_response_size as u64;
                            let error = Error::AnswerTooLarge { target: candidate.target(), limit };
                            return Err(exchange.given_up(error).await);
                        }
                        if added.has_output {
                            exchange.row.note_first_token();
                        }
                        if let Delivery::Deltas(sink) = self.delivery
                            && self.deliver(sink, added.text).await.is_err()
                        {
                            let error = self.too_late(candidate);
                            return Err(exchange.given_up(error).await);
                        }
                    }
                    Step::Nothing => {}
                    Step::Done => {
                        is_done = true;
                        tokio::spawn(drain(incoming));
                        break 'reading String::new();
                    }
                    // All has been said: what comes after is no part of the answer.
                    Step::Refused(_) | Step::Broken(_) if exchange.is_finished() => {}
                    Step::Refused(refusal) => {
                        let refusal = Refusal { request_id, ..refusal };
                        let stream = exchange.row.stream.get_or_insert_default();
                        stream.add_usage_of(&event.data);
                        let has_begun = stream.has_output();
                        let bill = Bill::default();
                        let failed = refused(exchange.row, candidate, refusal, bill).await;
                        return Err(if has_begun { failed.not_here_again() } else { failed });
                    }
                    Step::Broken(what) => break 'reading what.to_owned(),
                }
            }
            match fed {
                Err(_) if exchange.is_finished() => break String::new(),
                Err(error) => break error.to_string(),
                Ok(()) => {}
            }
            // The answer once here, once in the frame to the session.
            let size = exchange.row.stream.as_ref().map_or(0, Assembler::size);
            if let Err(shortage) = exchange.lease.grow_to(2 * size + parser.pending()) {
                let (target, limit) = (candidate.target(), shortage.limit as u64);
                return Err(exchange.given_up(Error::AnswerOutOfMemory { target, limit }).await);
            }
            if has_ended {
                break String::new();
            }
        };
        is_done &= exchange.has_output();
        if what.is_empty() && (is_done || exchange.is_finished()) {
            return self.finish_stream(exchange, status, request_id).await;
        }
        if what.is_empty() && !exchange.has_output() {
            let reason = "the stream ended before it began".to_owned();
            let error = Error::Disconnected { target: candidate.target(), reason };
            return Err(self.interrupted(exchange, error).await);
        }
        let what = if what.is_empty() { "a stream that ends too early".to_owned() } else { what };
        Err(broken(exchange.row, candidate, status, what, request_id).await)
    }

    async fn finish_stream(
        &mut self,
        mut exchange: Exchange<'_, '_>,
        status: u16,
        request_id: Option<String>,
    ) -> Result<ChatAnswer, Failed> {
        let candidate = exchange.candidate;
        let mut stream = exchange.row.stream.take().unwrap_or_default();
        if let Delivery::Deltas(sink) = self.delivery {
            // One that is not taken in time is part of the whole all the same.
            let _ = self.deliver(sink, stream.take_rest()).await;
        }
        let (usage, is_estimate) = exchange.row.usage_of(&stream, true);
        let key = Zeroizing::new(exchange.key.to_owned());
        let bytes = stream.size();
        // It is in OpenAI's form by now.
        let read =
            move || read_answer(Standard::OpenAi, StatusCode::OK, &stream.finish(), &key, false);
        let what = match self.shared.heavy.run(bytes, read).await {
            Ok(Read::Completion { completion, response, .. }) => {
                let completion = Completion { usage, ..completion };
                let about = About { status, request_id, is_estimate };
                return Ok(self.finish(exchange.row, candidate, completion, response, about).await);
            }
            Ok(Read::Broken(what)) => what,
            _ => "JSON that is not a completion".to_owned(),
        };
        Err(broken(exchange.row, candidate, status, what, request_id).await)
    }

    /// Hands on what the answer gains. Waits while the caller does not take it, and with that the
    /// upstream, but not beyond the deadline: an idle cursor would hold its place for ever.
    async fn deliver(
        &mut self,
        sink: &Sink,
        text: String,
    ) -> Result<(), tokio::time::error::Elapsed> {
        if !text.is_empty() {
            self.has_delivered = true;
            let delta = Reply::Delta(text.replace('\0', "\u{fffd}"));
            let _ = timeout_at(self.deadline, sink.send(delta.into())).await?;
        }
        Ok(())
    }

    /// A stream that broke or stalled. Before it said anything, another may say it.
    async fn interrupted(&self, exchange: Exchange<'_, '_>, error: Error) -> Failed {
        let again = if exchange.has_output() { Again::Never } else { Again::Anywhere(None) };
        let failed = exchange.given_up(error).await;
        Failed { again, fault: Some(Fault::Broken), ..failed }
    }

    async fn finish(
        &self,
        row: OpenRow<'_>,
        candidate: &Candidate,
        completion: Completion,
        response: String,
        about: About,
    ) -> ChatAnswer {
        let served_model = completion.served_model.unwrap_or_else(|| candidate.model_id.clone());
        self.shared.ledger.send(Task::KeyUsed(candidate.user_provider_id));
        let provider = candidate.provider.name.clone();
        let job = matches!(self.delivery, Delivery::Job).then(|| JobAnswer {
            response: response.clone(),
            provider: provider.clone(),
            served_model: served_model.clone(),
        });
        let settled = row
            .settle(End {
                outcome: Outcome::Success,
                served_model: Some(served_model.clone()),
                usage: completion.usage,
                is_estimate: about.is_estimate,
                http_status: Some(about.status),
                request_id: about.request_id.or(completion.id),
                finish_reason: completion.finish_reason,
                job,
                ..End::default()
            })
            .await;
        ChatAnswer { provider, response, served_model, settled }
    }
}

/// How a whole answer reads.
enum Read {
    Completion {
        completion: Completion,
        /// Fit for `jsonb`.
        response: String,
        /// What it says, where that is wanted.
        text: String,
    },
    /// And what it has used all the same.
    Refused(Refusal, Usage),
    Broken(String),
}

fn read_answer(
    standard: Standard,
    status: StatusCode,
    body: &str,
    key: &str,
    wants_text: bool,
) -> Read {
    if status.is_redirection() {
        return Read::Broken("a redirect, which is never followed".to_owned());
    }
    if !status.is_success() {
        return Read::Refused(refusal::read(status.as_u16(), body, Some(key)), Usage::default());
    }
    let body = mend::json(body);
    let body = standard.wire().answer(&body);
    match reply::read(&body, Some(key)) {
        Reading::Completion(completion) if completion.has_choice => {
            let response = json::answer_for_jsonb(&body);
            let response = calls::completed(&response).into_owned();
            let text = if wants_text { reply::content(&response) } else { None };
            let text = text.unwrap_or_default();
            Read::Completion { completion, response, text }
        }
        // OpenRouter gives such answers where the provider behind it gave nothing.
        Reading::Completion(completion) => {
            Read::Refused(refusal::inside_200(NO_CHOICE, None), completion.usage)
        }
        Reading::Refused(refusal) => Read::Refused(refusal, reply::usage(&body)),
        Reading::Broken(what) => Read::Broken(refusal::instead(what, &body, Some(key))),
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
}

/// One request on its way.
struct Exchange<'a, 'l> {
    candidate: &'a Candidate,
    key: &'a str,
    settings: &'a Settings,
    row: OpenRow<'a>,
    lease: &'l mut Lease,
}

impl Exchange<'_, '_> {
    fn has_output(&self) -> bool {
        self.row.stream.as_ref().is_some_and(Assembler::has_output)
    }

    fn is_finished(&self) -> bool {
        self.row.stream.as_ref().is_some_and(Assembler::is_finished)
    }

    /// Settles a failure of the connection.
    async fn failed(self, failure: Failure) -> Failed {
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
        self.row.settle(End::failed(code, status, free)).await;
        let again = match (may_pass, is_refused) {
            (_, true) => Again::Elsewhere,
            (true, _) => Again::Anywhere(None),
            _ => Again::Never,
        };
        Failed { error, again, fault }
    }

    /// Settles an attempt that we end ourselves.
    async fn given_up(self, error: Error) -> Failed {
        self.row.settle(End::failed(error.code(), None, false)).await;
        Failed::finally(error)
    }
}

fn stalled(candidate: &Candidate, settings: &Settings) -> Error {
    let idle_ms = settings.stream_idle_timeout.as_millis() as u64;
    Error::Stalled { target: candidate.target(), idle_ms }
}

async fn refused(row: OpenRow<'_>, candidate: &Candidate, refusal: Refusal, bill: Bill) -> Failed {
    let code = refusal.code.clone().unwrap_or_else(|| format!("http_{}", refusal.status));
    let mut end = End::failed(&code, Some(refusal.status), bill.is_free_of_charge);
    end.usage = bill.usage;
    end.request_id = refusal.request_id.clone();
    row.settle(end).await;
    let refusal = Box::new(refusal);
    Failed {
        again: retry::after(&refusal),
        fault: Some(Fault::Refused(refusal.clone())),
        error: Error::Upstream { target: candidate.target(), refusal },
    }
}

async fn broken(
    row: OpenRow<'_>,
    candidate: &Candidate,
    status: u16,
    what: String,
    request_id: Option<String>,
) -> Failed {
    let target = candidate.target();
    let error = Error::BrokenAnswer { target, status, what, request_id: request_id.clone() };
    let mut end = End::failed(error.code(), Some(status), false);
    end.request_id = request_id;
    row.settle(end).await;
    Failed::finally(error)
}

/// The subject of a candidate's health.
pub fn subject(candidate: &Candidate) -> Subject {
    Subject {
        provider: candidate.provider.id,
        key: candidate.user_provider_id,
        key_print: crate::core::secret::print_of(&candidate.key.envelope),
        model: candidate.model_id.clone(),
    }
}

/// Reads what is left of a stream, so that the connection can be used again.
async fn drain(mut incoming: Incoming) {
    let _ = timeout(DRAIN, async { while let Ok(Some(_)) = incoming.chunk().await {} }).await;
}
