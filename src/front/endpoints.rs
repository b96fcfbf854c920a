//! What callers ask for who must be known: each dialect reads what is asked, and writes the answer.

use crate::clock::unix_micros;
use crate::core::front::failure::{Failure, Refused, Sent};
use crate::core::front::limits;
use crate::core::front::openai::{add_tags, lower_timeout, take_caching};
use crate::core::front::path::Route;
use crate::core::options::Prepared;
use crate::core::rate::Standings;
use crate::error::Error;
use crate::front::caller::{Caller, Rights};
use crate::front::connection::{Ending, Peer};
use crate::front::form::Form;
use crate::front::pump::Order;
use crate::front::reply::{self, Body};
use crate::front::{Front, body, chat, embeddings, jobs, messages, responses};
use crate::gateway::memory::Lease;
use http::Response;
use http::header::HeaderMap;
use http::request::Parts;
use hyper::body::Incoming;
use serde_json::value::RawValue;
use std::sync::{Arc, Mutex};
use uuid::Uuid;

/// What is asked, and by whom.
pub struct Asking<'a> {
    pub front: &'a Arc<Front>,
    pub caller: Caller,
    pub headers: &'a HeaderMap,
    /// Of the request, and of its call.
    pub id: Uuid,
    /// Where it is told how the caller's limits stand.
    pub standings: Arc<Mutex<Standings>>,
    /// What it says.
    pub text: String,
    /// For as long as it is held.
    pub lease: Lease,
    ending: Ending,
}

impl<'a> Asking<'a> {
    /// Reads what it says: once as it came, and `times` as what it is made into.
    pub async fn read<T: Send + 'static>(
        &mut self,
        times: usize,
        read: impl FnOnce(String) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let text = std::mem::take(&mut self.text);
        let bytes = text.len();
        self.lease.begin(times * bytes).map_err(refused)?;
        self.front.shared.heavy.run(bytes, move || read(text)).await.map_err(refused)?
    }

    /// The call that it asks for, and whose front it is.
    pub fn order(self, prepared: Prepared, form: Form) -> (&'a Arc<Front>, Order) {
        let Self { front, caller, id, standings, lease, ending, .. } = self;
        (front, Order { caller, prepared, form, id, standings, lease, ending })
    }

    /// What its headers say of the call. No request may be larger than the gateway sends.
    pub fn steer(&self, prepared: &mut Prepared) -> Result<(), Failure> {
        let said = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        let tags = self.headers.get_all("x-aggregator-tags").iter();
        add_tags(prepared, tags.map(|value| value.as_bytes()))?;
        self.caller.labels(&prepared.tags).map_err(refused)?;
        // In several lines it is one list.
        let lines = self.headers.get_all("x-aggregator-cache").iter();
        let lines: Vec<&[u8]> = lines.map(|line| line.as_bytes()).collect();
        if !lines.is_empty() {
            take_caching(prepared, &lines.join(&b","[..]))?;
        }
        if let Some(metadata) = prepared.metadata() {
            self.tag_by(prepared, &metadata);
        }
        for name in ["x-stainless-timeout", "x-stainless-read-timeout"] {
            if let Some(seconds) = said(name) {
                lower_timeout(prepared, seconds);
            }
        }
        prepared.within(self.front.shared.settings().max_request_size).map_err(refused)
    }

    /// Adds what OpenAI's `metadata` says as tags, if that is wanted.
    pub fn tag_by(&self, prepared: &mut Prepared, metadata: &RawValue) {
        if self.front.shared.settings().http.tags_from_metadata {
            let key = self.caller.gateway_key();
            prepared.add_tags_of(metadata, key.map_or(&[], |key| &key.tags));
        }
    }
}

/// Nothing has left yet.
pub fn refused(error: Error) -> Failure {
    Failure::of(&error, Sent::Nothing)
}

/// How sure it must be what the caller may do: of what the ledger writes it looks itself.
fn rights(route: &Route) -> Rights {
    match route {
        Route::ChatCompletions | Route::Embeddings | Route::Messages | Route::Responses => {
            Rights::AsKept
        }
        _ => Rights::AsOfNow,
    }
}

/// Answers a request. Who asks is known before anything of the body is read.
pub async fn serve(
    front: &Arc<Front>,
    route: &Route,
    parts: &Parts,
    peer: Peer,
    body: Incoming,
    id: Uuid,
) -> Result<Response<Body>, Failure> {
    let headers = &parts.headers;
    let caller = front.callers.identify(front, peer, headers, rights(route)).await?;
    match route {
        Route::Job(job) => return jobs::look(front, &caller, *job).await,
        Route::CancelJob(job) => return jobs::cancel(front, &caller, *job).await,
        _ => {}
    }
    let mut lease = front.shared.memory.lease(&caller.whose.user);
    let limit = front.shared.settings().http.max_body;
    let text = body::read(headers, body, limit, &mut lease).await?;
    let standings = Arc::<Mutex<Standings>>::default();
    let (ending, told) = (Ending::of(parts), standings.clone());
    let asking = Asking { front, caller, headers, id, standings: told, text, lease, ending };
    let answered = match route {
        Route::ChatCompletions => chat::answer(asking).await,
        Route::Embeddings => embeddings::answer(asking).await,
        Route::Messages => messages::answer(asking).await,
        Route::CountTokens => messages::count_tokens(asking).await,
        Route::Responses => responses::answer(asking).await,
        Route::SubmitJob => jobs::submit(asking).await,
        _ => {
            let (method, path) = (parts.method.as_str(), parts.uri.path());
            Err(Failure::refused(&Refused::NotFound { method, path }))
        }
    };
    tell_limits(answered, &standings, route)
}

/// Adds how the caller's limits stand, where there are any, in the dialect's own headers.
fn tell_limits(
    answered: Result<Response<Body>, Failure>,
    standings: &Mutex<Standings>,
    route: &Route,
) -> Result<Response<Body>, Failure> {
    let standings = *standings.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if standings == Standings::default() {
        return answered;
    }
    let headers = match route {
        Route::Messages => limits::anthropic(&standings, unix_micros()),
        _ => limits::openai(&standings),
    };
    match answered {
        Ok(mut response) => {
            for (name, value) in headers {
                reply::add(&mut response, name, &value);
            }
            Ok(response)
        }
        Err(failure) => Err(failure.with(headers)),
    }
}
