//! The life of one chat call: attempts, each with a usage row that is written before the request
//! leaves and settled after, whatever happens in between.

use crate::core::reply::{self, Completion, Reading};
use crate::core::usage::Usage;
use crate::core::{json, retry};
use crate::error::{Error, Refusal, UNREACHABLE};
use crate::gateway::budget::Lease;
use crate::gateway::http::{Answer, Failure, Outgoing};
use crate::gateway::ledger::{Begin, Job, Ledger, Outcome, RowKey, Settle};
use crate::gateway::server::Shared;
use crate::protocol::{ChatAnswer, ChatCall, ChatReply, Settled};
use bytes::Bytes;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long an answer waits for its row to be settled; the row is settled all the same.
const SETTLE_PATIENCE: Duration = Duration::from_secs(3);

/// Runs a call to its end. Dropping the future aborts the request and settles the open row as
/// cancelled.
pub async fn run(shared: &Shared, mut call: Box<ChatCall>, lease: &mut Lease) -> ChatReply {
    let started = Instant::now();
    let deadline = started + Duration::from_millis(call.deadline_ms);
    let body = Bytes::from(std::mem::take(&mut call.body));
    let mut attempts = 0;
    let outcome = loop {
        let failed =
            match attempt(shared, &call, body.clone(), &mut attempts, deadline, lease).await {
                Ok(answer) => break Ok(answer),
                Err(failed) => failed,
            };
        let Some(retry_after) = failed.retry.filter(|_| attempts <= call.max_retries) else {
            break Err(failed.error);
        };
        let pause = retry::pause(attempts, retry_after, fastrand::f64());
        if Instant::now() + pause >= deadline {
            break Err(failed.error);
        }
        sleep(pause).await;
    };
    ChatReply { outcome, attempts, latency_ms: started.elapsed().as_millis() as u64 }
}

/// An attempt that did not give an answer.
struct Failed {
    error: Error,
    /// `Some`: worth another attempt, after what the upstream asked for.
    retry: Option<Option<Duration>>,
}

impl Failed {
    fn finally(error: Error) -> Self {
        Self { error, retry: None }
    }
}

async fn attempt(
    shared: &Shared,
    call: &ChatCall,
    body: Bytes,
    attempts: &mut u16,
    deadline: Instant,
    lease: &mut Lease,
) -> Result<ChatAnswer, Failed> {
    let settings = shared.settings();
    let target = call.provider.target(&call.model_id);
    let key = shared
        .keys
        .open(&settings.keyring_file, &call.provider.name, &call.key)
        .map_err(Failed::finally)?;
    let url = call.provider.standard.chat_url(&call.provider.base_url).map_err(Failed::finally)?;
    let request = shared
        .clients(&settings)
        .map_err(Failed::finally)?
        .prepare(Outgoing {
            provider: &call.provider,
            target: target.clone(),
            url: &url,
            key: Some(&key),
            body: Some(body),
        })
        .map_err(Failed::finally)?;

    *attempts += 1;
    let row = OpenRow::open(&shared.ledger, call, *attempts, settings.ledger_sync)
        .await
        .map_err(Failed::finally)?;
    let exchange = request.exchange(Some(&key), settings.max_response_size, lease);
    let answer = match timeout_at(deadline, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(failure)) => {
            let retry = matches!(failure, Failure::NotSent(_) | Failure::NoAnswer(_));
            let free = matches!(failure, Failure::NotSent(_));
            let status = match &failure {
                Failure::Broken { status, .. } => Some(*status),
                _ => None,
            };
            let error = failure.into_error();
            let retry = retry && !matches!(error, Error::AddressRefused { .. });
            // A row of an attempt that never left says so, so that it does not count as a request.
            let code = if free { UNREACHABLE } else { error.code() };
            row.settle(End::failed(code.to_owned(), status, free)).await;
            return Err(Failed { error, retry: retry.then_some(None) });
        }
        Err(_) => {
            let error = Error::Deadline { target, waited_ms: call.deadline_ms };
            row.settle(End::failed(error.code().to_owned(), None, false)).await;
            return Err(Failed::finally(error));
        }
    };
    read(row, call, answer, &key).await
}

/// Reads an answer that arrived in full, and settles its row.
async fn read(
    row: OpenRow<'_>,
    call: &ChatCall,
    answer: Answer,
    key: &str,
) -> Result<ChatAnswer, Failed> {
    let status = answer.status.as_u16();
    let target = call.provider.target(&call.model_id);
    let reading = if answer.status.is_success() {
        reply::read(&answer.body, Some(key))
    } else if answer.status.is_redirection() {
        Reading::Broken("a redirect, which is never followed")
    } else {
        Reading::Refused(reply::refusal(status, &answer.body, Some(key)))
    };
    let what = match reading {
        Reading::Completion(completion) => match json::fit_for_jsonb(&answer.body) {
            Ok(response) => {
                let response = response.into_owned();
                return Ok(finish(row, call, completion, response, status, answer.request_id).await);
            }
            Err(error) => error.to_string(),
        },
        Reading::Refused(refusal) => {
            let refusal = Box::new(Refusal {
                request_id: answer.request_id,
                retry_after_s: answer.retry_after.map(|d| d.as_secs_f64().ceil() as u64),
                ..refusal
            });
            let mut end = End::failed(
                refusal.code.clone().unwrap_or_else(|| format!("http_{}", refusal.status)),
                Some(refusal.status),
                // An error inside a 200 comes after generation has begun: it may have cost.
                !answer.status.is_success(),
            );
            end.request_id = refusal.request_id.clone();
            row.settle(end).await;
            let retry = retry::is_retryable(refusal.status, refusal.code.as_deref())
                .then_some(answer.retry_after);
            return Err(Failed { error: Error::Upstream { target, refusal }, retry });
        }
        Reading::Broken(what) => what.to_owned(),
    };
    let error = Error::BrokenAnswer { target, status, what, request_id: answer.request_id.clone() };
    let mut end = End::failed(error.code().to_owned(), Some(status), false);
    end.request_id = answer.request_id;
    row.settle(end).await;
    Err(Failed::finally(error))
}

async fn finish(
    row: OpenRow<'_>,
    call: &ChatCall,
    completion: Completion,
    response: String,
    status: u16,
    request_id: Option<String>,
) -> ChatAnswer {
    let served_model = completion.served_model.clone().unwrap_or_else(|| call.model_id.clone());
    row.ledger.send(Job::KeyUsed(call.user_provider_id));
    let settled = row
        .settle(End {
            outcome: Outcome::Success,
            served_model: Some(served_model.clone()),
            usage: completion.usage,
            is_free_of_charge: false,
            http_status: Some(status),
            error_code: None,
            request_id: request_id.or(completion.id),
            finish_reason: completion.finish_reason,
        })
        .await;
    ChatAnswer { response, served_model, settled }
}

/// What is known at the end of an attempt.
struct End {
    outcome: Outcome,
    served_model: Option<String>,
    usage: Usage,
    is_free_of_charge: bool,
    http_status: Option<u16>,
    error_code: Option<String>,
    request_id: Option<String>,
    finish_reason: Option<String>,
}

impl End {
    fn failed(code: String, http_status: Option<u16>, is_free_of_charge: bool) -> Self {
        Self {
            outcome: Outcome::Error,
            served_model: None,
            usage: Usage::default(),
            is_free_of_charge,
            http_status,
            error_code: Some(code),
            request_id: None,
            finish_reason: None,
        }
    }
}

/// A pending row that is settled exactly once: by [`OpenRow::settle`], or as cancelled when the
/// call is dropped, or as an error when it panics.
struct OpenRow<'a> {
    ledger: &'a Ledger,
    begin: Option<Begin>,
    pricing: Option<&'a str>,
    started: Instant,
}

impl<'a> OpenRow<'a> {
    /// Opens the row. With `sync` it is on disk when this returns; without, it is queued before
    /// anything is sent.
    async fn open(
        ledger: &'a Ledger,
        call: &'a ChatCall,
        attempt: u16,
        sync: bool,
    ) -> Result<Self, Error> {
        let begin = Begin {
            key: RowKey {
                call_id: call.call_id,
                attempt: attempt as i16,
                created_at: unix_micros(),
            },
            user_id: call.user_id.clone(),
            provider_id: call.provider.id,
            user_provider_id: call.user_provider_id,
            model_id: call.model_id.clone(),
        };
        let (done, written) = oneshot::channel();
        ledger.send(Job::Begin(begin.clone(), done));
        // From here on the row may exist, so it must be settled even if the call is dropped now.
        let mut row = Self {
            ledger,
            begin: Some(begin),
            pricing: call.pricing.as_deref(),
            started: Instant::now(),
        };
        if sync {
            let written = written.await.unwrap_or_else(|_| Err("the worker is stopping".into()));
            if let Err(reason) = written {
                row.begin = None;
                return Err(Error::Ledger { reason });
            }
        }
        Ok(row)
    }

    async fn settle(mut self, end: End) -> Settled {
        let (done, settled) = oneshot::channel();
        self.send(end, Some(done));
        match timeout(SETTLE_PATIENCE, settled).await {
            Ok(Ok(settled)) => settled,
            _ => Settled::default(),
        }
    }

    fn send(&mut self, end: End, done: Option<oneshot::Sender<Settled>>) {
        let Some(begin) = self.begin.take() else { return };
        let settle = Settle {
            begin,
            outcome: end.outcome,
            served_model: end.served_model,
            usage: end.usage,
            is_free_of_charge: end.is_free_of_charge,
            pricing: self.pricing.map(str::to_owned),
            latency_ms: i32::try_from(self.started.elapsed().as_millis()).unwrap_or(i32::MAX),
            http_status: end.http_status.map(|status| status as i16),
            error_code: end.error_code,
            request_id: end.request_id,
            finish_reason: end.finish_reason,
        };
        self.ledger.send(Job::Settle(Box::new(settle), done));
    }
}

impl Drop for OpenRow<'_> {
    fn drop(&mut self) {
        let end = if std::thread::panicking() {
            End::failed(Error::Internal.code().to_owned(), None, false)
        } else {
            let code = "cancelled".to_owned();
            End { outcome: Outcome::Cancelled, ..End::failed(code, None, false) }
        };
        self.send(end, None);
    }
}

/// Microseconds since 1970.
pub fn unix_micros() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as i64)
}
