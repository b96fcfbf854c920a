//! The usage row of one attempt: written before the request leaves, settled exactly once after.

use crate::core::budget::Spent;
use crate::core::reply::clean_word;
use crate::core::retry::Sent;
use crate::core::stream::Assembler;
use crate::core::usage::{Parts, Usage};
use crate::error::{Error, UNREACHABLE};
use crate::gateway::admission::Permit;
use crate::gateway::departure::Departure;
use crate::gateway::hidden::Watch;
use crate::gateway::ledger::Ledger;
use crate::gateway::spending::Hold;
use crate::gateway::task::{Begin, JobAnswer, NotBegun, Outcome, RowKey, Settle, Task};
use crate::protocol::{Candidate, ChatCall, Settled};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// How long what has failed, or came from the cache, waits for its row to be settled; the row is settled all the same.
pub const SETTLE_PATIENCE: Duration = Duration::from_secs(3);
/// What an answer waits at least where its deadline is near, and at most where it is far.
const LEAST_PATIENCE: Duration = Duration::from_millis(250);
const MOST_PATIENCE: Duration = Duration::from_secs(30);

/// How long an answer waits for what it has cost: as long as its caller does. Where the ledger cannot be written, the main
/// thread says so before that.
fn patience(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left.clamp(LEAST_PATIENCE, MOST_PATIENCE)
}

/// What is known at the end of an attempt.
#[derive(Default)]
pub struct End {
    pub outcome: Outcome,
    pub served_model: Option<String>,
    pub usage: Usage,
    pub is_estimate: bool,
    pub is_free_of_charge: bool,
    pub http_status: Option<u16>,
    pub error_code: Option<String>,
    pub request_id: Option<String>,
    pub finish_reason: Option<String>,
    pub job: Option<JobAnswer>,
}

impl End {
    pub fn failed(code: &str, http_status: Option<u16>, is_free_of_charge: bool) -> Self {
        Self {
            outcome: Outcome::Error,
            is_free_of_charge,
            http_status,
            error_code: Some(code.to_owned()),
            ..Self::default()
        }
    }
}

/// Leave to send a request.
pub struct Leave {
    pub permit: Permit,
    pub hold: Hold,
    /// Whether it was written to the upstream, in the end.
    pub departure: Departure,
    pub watch: Watch,
}

/// A pending row that is settled exactly once: by [`OpenRow::settle`], or as cancelled when the
/// call is dropped, or as an error when it panics.
pub struct OpenRow<'a> {
    ledger: &'a Ledger,
    begin: Option<Begin>,
    pricing: Option<&'a str>,
    started: Instant,
    first_token: Option<Instant>,
    /// Leave to be at the provider: given back once the attempt is over, before the ledger is
    /// asked to say so.
    permit: Option<Permit>,
    /// What the attempt has set aside in budgets.
    hold: Option<Hold>,
    departure: Departure,
    watch: Watch,
    /// About what went in.
    prompt_tokens: i32,
    /// What has come of a streamed answer, once it has begun.
    pub stream: Option<Assembler>,
}

impl<'a> OpenRow<'a> {
    /// Opens the row. With `sync` it is on disk when this returns; without, it is queued before
    /// anything is sent.
    pub async fn open(
        ledger: &'a Ledger,
        call: &'a ChatCall,
        candidate: &'a Candidate,
        attempt: u16,
        prompt_tokens: i32,
        leave: Leave,
        sync: bool,
    ) -> Result<Box<Self>, Error> {
        let Leave { permit, hold, departure, watch } = leave;
        let begin = Begin {
            key: RowKey {
                call_id: call.call_id,
                attempt: i16::try_from(attempt).unwrap_or(i16::MAX),
                // The moment whose period's budget was asked.
                created_at: hold.began(),
            },
            user_id: call.user_id.clone(),
            provider_id: candidate.provider.id,
            user_provider_id: candidate.user_provider_id,
            model_id: candidate.model_id.clone(),
            is_listed: candidate.is_listed,
            is_platform_key: candidate.is_platform_key(),
            reserved: hold.reserved(),
            labels: call.labels.clone(),
            generation: call.generation,
        };
        let (done, written) = sync.then(oneshot::channel).unzip();
        ledger.send(Task::Begin(begin.clone(), done));
        // From here on the row may exist, so it must be settled even if the call is dropped now.
        let mut row = Box::new(Self {
            ledger,
            begin: Some(begin),
            pricing: candidate.pricing.as_deref(),
            started: Instant::now(),
            first_token: None,
            permit: Some(permit),
            hold: Some(hold),
            departure,
            watch,
            prompt_tokens,
            stream: None,
        });
        if let Some(written) = written {
            let stopping = |_| Err(NotBegun::Failed("the worker is stopping".to_owned()));
            if let Err(why) = ledger.answer(written).await.unwrap_or_else(stopping) {
                row.begin = None;
                if let Some(hold) = row.hold.take() {
                    hold.release();
                }
                return Err(match why {
                    NotBegun::Stale => Error::Stale,
                    NotBegun::Failed(reason) => Error::Ledger { reason },
                });
            }
        }
        Ok(row)
    }

    /// The first token of a streamed answer is here.
    pub fn note_first_token(&mut self) {
        self.first_token.get_or_insert_with(Instant::now);
    }

    /// Settles the row and gives back what the call cost. What an interrupted stream has used
    /// counts, by the upstream's own numbers or else by an estimate.
    pub async fn settle(self: Box<Self>, end: End) -> Settled {
        self.settle_within(SETTLE_PATIENCE, end).await
    }

    /// Likewise with an answer that came, for which the caller waits until the deadline.
    pub async fn settle_answer(self: Box<Self>, deadline: Instant, end: End) -> Settled {
        self.settle_within(patience(deadline), end).await
    }

    async fn settle_within(mut self: Box<Self>, patience: Duration, end: End) -> Settled {
        let (done, settled) = oneshot::channel();
        let (sent, spent) = self.send(end, Some(done));
        let settled = match timeout(patience, self.ledger.answer(settled)).await {
            Ok(Ok(settled)) => settled,
            _ => Settled::default(),
        };
        if let Some(hold) = self.hold.take() {
            let cost = settled.cost.as_deref();
            let cost_source = settled.cost_source.as_deref();
            hold.settle(sent, Spent { cost, cost_source, ..spent });
        }
        settled
    }

    /// How far an attempt got that ends now, without a refusal.
    pub fn sent(&self) -> Sent {
        match self.stream.is_some() || self.departure.has_left() {
            true => Sent::PerhapsPaid,
            false => Sent::Nothing,
        }
    }

    /// Sends the settlement, and says which one it was and what is known of the use by then.
    fn send(
        &mut self,
        mut end: End,
        done: Option<oneshot::Sender<Settled>>,
    ) -> (u64, Spent<'static>) {
        self.permit = None;
        let Some(begin) = self.begin.take() else { return Default::default() };
        if let Some(stream) = self.stream.take() {
            self.count_stream(&stream, &mut end);
        }
        // What the upstream never got costs nothing, however it ended. An answer says that it did.
        if !self.departure.has_left() && end.http_status.is_none() {
            end.is_free_of_charge = true;
            end.error_code = Some(UNREACHABLE.to_owned());
        }
        let parts = end.usage.parts;
        if let (Some(parts), false) = (&parts, end.is_estimate) {
            self.watch.note(self.ledger, parts);
        }
        let spent = Spent {
            is_free_of_charge: end.is_free_of_charge,
            is_unsent: end.error_code.as_deref() == Some(UNREACHABLE),
            // As the ledger adds them up.
            tokens: parts.map(|p| i64::from(p.prompt().saturating_add(p.completion()))),
            is_estimate: end.is_estimate,
            ..Spent::default()
        };
        let sent = self.hold.as_ref().map(Hold::note_sent).unwrap_or_default();
        let settle = Settle {
            begin,
            outcome: end.outcome,
            served_model: end.served_model,
            usage: end.usage,
            is_estimate: end.is_estimate,
            is_free_of_charge: end.is_free_of_charge,
            limits: self.hold.as_ref().map(Hold::limits).unwrap_or_default(),
            pricing: self.pricing.map(str::to_owned),
            latency_ms: milliseconds(self.started.elapsed()),
            time_to_first_token_ms: self
                .first_token
                .map(|at| milliseconds(at.saturating_duration_since(self.started))),
            http_status: end.http_status.map(|status| status as i16),
            error_code: end.error_code,
            request_id: end.request_id,
            finish_reason: end.finish_reason,
            job: end.job,
            cached: None,
        };
        self.ledger.send(Task::Settle(Box::new(settle), done));
        (sent, spent)
    }

    /// What a stream has used, and whether that is an estimate because the upstream's own numbers
    /// never came. Never nothing: the prompt went in.
    /// `is_over`: all has been said, so that usage that has come is the whole.
    pub fn usage_of(&self, stream: &Assembler, is_over: bool) -> (Usage, bool) {
        let usage = stream.usage();
        let parts = match usage.parts {
            Some(_) if is_over || stream.is_finished() => return (usage, false),
            // Counts on the way: the prompt's hold, the output's are behind what has come.
            Some(parts) => Parts {
                output: parts.output.max(
                    stream
                        .output_estimate()
                        .saturating_sub(parts.reasoning.saturating_add(parts.audio_output)),
                ),
                ..parts
            },
            None => {
                let guess = Parts { input: self.prompt_tokens, ..Parts::default() };
                Parts { output: stream.output_estimate(), ..usage.input_only.unwrap_or(guess) }
            }
        };
        (Usage { parts: Some(parts), input_only: None, ..usage }, true)
    }

    /// Puts what is known of an interrupted stream into its end.
    fn count_stream(&self, stream: &Assembler, end: &mut End) {
        (end.usage, end.is_estimate) = self.usage_of(stream, false);
        end.served_model = stream.served_model().map(clean_word);
        end.request_id = end.request_id.take().or_else(|| stream.id().map(clean_word));
        end.http_status = end.http_status.or(Some(200));
        end.is_free_of_charge = false;
    }
}

impl Drop for OpenRow<'_> {
    fn drop(&mut self) {
        let end = if std::thread::panicking() {
            End::failed(Error::panicked().code(), None, false)
        } else {
            End { outcome: Outcome::Cancelled, ..End::failed("cancelled", None, false) }
        };
        self.send(end, None);
    }
}

fn milliseconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
