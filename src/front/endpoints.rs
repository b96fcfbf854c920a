//! What callers ask for who must be known: each dialect reads what is asked, and writes the answer.

use crate::core::front::failure::{Failure, Refused, Sent};
use crate::core::front::openai::{add_tags, lower_timeout};
use crate::core::front::path::Route;
use crate::core::options::Prepared;
use crate::error::Error;
use crate::front::caller::Caller;
use crate::front::reply::Body;
use crate::front::{Front, body, chat, jobs, messages, responses};
use crate::gateway::memory::Lease;
use http::Response;
use http::header::HeaderMap;
use http::request::Parts;
use hyper::body::Incoming;
use std::sync::Arc;
use uuid::Uuid;

/// What is asked, and by whom.
pub struct Asking<'a> {
    pub front: &'a Arc<Front>,
    pub caller: Caller,
    pub headers: &'a HeaderMap,
    /// Of the request, and of its call.
    pub id: Uuid,
    /// What it says.
    pub text: String,
    /// For as long as it is held.
    pub lease: Lease,
}

impl Asking<'_> {
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

    /// What its headers say of the call. No request may be larger than the gateway sends.
    pub fn steer(&self, prepared: &mut Prepared) -> Result<(), Failure> {
        let said = |name: &str| self.headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(tags) = said("x-aggregator-tags") {
            add_tags(prepared, tags)?;
        }
        for name in ["x-stainless-timeout", "x-stainless-read-timeout"] {
            if let Some(seconds) = said(name) {
                lower_timeout(prepared, seconds);
            }
        }
        prepared.within(self.front.shared.settings().max_request_size).map_err(refused)
    }
}

/// Nothing has left yet.
pub fn refused(error: Error) -> Failure {
    Failure::of(&error, Sent::Nothing)
}

/// Answers a request. Who asks is known before anything of the body is read.
pub async fn serve(
    front: &Arc<Front>,
    route: &Route,
    parts: &Parts,
    body: Incoming,
    id: Uuid,
) -> Result<Response<Body>, Failure> {
    let headers = &parts.headers;
    let caller = front.callers.identify(front, headers).await?;
    match route {
        Route::Job(job) => return jobs::look(front, &caller, *job).await,
        Route::CancelJob(job) => return jobs::cancel(front, &caller, *job).await,
        Route::Embeddings => {
            return Err(Failure::refused(&Refused::NotYet { what: "Embeddings" }));
        }
        _ => {}
    }
    let mut lease = front.shared.memory.lease(&caller.whose.user);
    let limit = front.shared.settings().http.max_body;
    let text = body::read(headers, body, limit, &mut lease).await?;
    let asking = Asking { front, caller, headers, id, text, lease };
    match route {
        Route::ChatCompletions => chat::answer(asking).await,
        Route::Messages => messages::answer(asking).await,
        Route::CountTokens => messages::count_tokens(asking).await,
        Route::Responses => responses::answer(asking).await,
        Route::SubmitJob => jobs::submit(asking).await,
        _ => {
            let (method, path) = (parts.method.as_str(), parts.uri.path());
            Err(Failure::refused(&Refused::NotFound { method, path }))
        }
    }
}
