//! `POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's dialect in front of every provider.

use crate::core::front::failure::{Failure, Sent};
use crate::core::options::Prepared;
use crate::core::standard::anthropic::front::request::Incoming;
use crate::core::standard::anthropic::front::version::Version;
use crate::core::standard::anthropic::front::{Asked, answer as whole, count, native};
use crate::error::Error;
use crate::front::endpoints::{Asking, refused};
use crate::front::form::{Form, Message};
use crate::front::pump;
use crate::front::reply::{self, Body};
use crate::front::writer::Messages;
use http::header::{HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use std::sync::Arc;

/// The header of the version that a client speaks.
const VERSION: &str = "anthropic-version";

/// The version and the betas of a request.
fn spoken(headers: &HeaderMap) -> Result<(Version, Option<String>), Error> {
    // What is no text is none of them.
    let text = |value: &HeaderValue| value.to_str().map_or_else(|_| "\0".to_owned(), str::to_owned);
    let version = headers.get(VERSION).map(text);
    let betas: Vec<String> = headers.get_all(native::BETAS).iter().map(text).collect();
    let betas = native::betas(betas.iter().map(String::as_str))?;
    Ok((Version::of(version.as_deref())?, betas))
}

/// What a request says before it is known who may answer.
struct First {
    message: Message,
    /// What steers it, without its conversation.
    prepared: Prepared,
    /// About how many tokens go in.
    tokens: i32,
}

fn first(body: String, version: Version, betas: Option<String>) -> Result<First, Error> {
    let request = Incoming::read(&body, version)?;
    let prepared = Prepared::from_http(&request.steering()?)?;
    let (tokens, values) = (count::tokens(&request), request.values);
    Ok(First { message: Message { body, version, betas, values }, prepared, tokens })
}

/// Answers a request.
pub async fn answer(mut asking: Asking<'_>) -> Result<Response<Body>, Failure> {
    let (version, betas) = spoken(asking.headers).map_err(refused)?;
    let bytes = asking.text.len();
    // Each of its two forms may be as long.
    let read = move |text: String| first(text, version, betas).map_err(refused);
    let First { message, mut prepared, tokens } = asking.read(2, read).await?;
    asking.steer(&mut prepared)?;
    let most = asking.front.shared.settings().max_request_size;
    if bytes > most {
        let unit = "bytes".to_owned();
        return Err(refused(Error::RequestBeyond { limit: most as u64, unit }));
    }
    let (id, streams, model) = (asking.id, prepared.streams, prepared.model.clone());
    let (front, order) = asking.order(prepared, Form::Messages(Arc::new(message)));
    if streams {
        let writer = Messages::new(id, &model, tokens);
        return pump::stream(front, order, Box::new(writer)).await;
    }
    let mut done = pump::whole(front, order).await?;
    if let Some(native) = done.answer.native.take() {
        return Ok(done.respond(native));
    }
    let answer = std::mem::take(&mut done.response);
    let write = move || {
        let asked = Asked { id: &id.to_string(), model: &model, prompt_tokens: tokens };
        whole::message(&answer, &asked)
    };
    let message = front.shared.heavy.run(done.bytes, write).await;
    // It was paid for.
    let paid = |error: Error| Failure::of(&error, Sent::PerhapsPaid);
    let message = message.map_err(paid)?;
    let message = message.ok_or_else(|| paid(Error::internal("an answer that is no message")))?;
    Ok(done.respond(message))
}

/// Answers about how many tokens a request has: nobody is asked.
pub async fn count_tokens(mut asking: Asking<'_>) -> Result<Response<Body>, Failure> {
    let (version, _) = spoken(asking.headers).map_err(refused)?;
    let count = move |text: String| {
        Incoming::read(&text, version).map(|request| count::tokens(&request)).map_err(refused)
    };
    let tokens = asking.read(1, count).await?;
    Ok(reply::json(StatusCode::OK, count::body(tokens)))
}
