//! `POST /v1/responses`: OpenAI's Responses in front of every provider, without a memory.

use crate::clock::unix_micros;
use crate::core::front::failure::{Failure, Sent};
use crate::core::front::responses::{Asked, stream};
use crate::front::endpoints::Asking;
use crate::front::form::Form;
use crate::front::pump;
use crate::front::reply::Body;
use http::Response;
use std::sync::Arc;

/// Answers a request.
pub async fn answer(mut asking: Asking<'_>) -> Result<Response<Body>, Failure> {
    // What it asks for, and what its answer repeats of it.
    let read = |text: String| Asked::read(&text);
    let Asked { mut prepared, about } = asking.read(2, read).await?;
    asking.steer(&mut prepared)?;
    // Chat has it only where the provider stores the answer.
    if let Some(metadata) = about.metadata() {
        asking.tag_by(&mut prepared, metadata);
    }
    let (id, created, model) = (asking.id, unix_micros() / 1_000_000, prepared.model.clone());
    let (streams, form) = (prepared.streams, Form::Chat(Arc::new(prepared.body())));
    let (front, order) = asking.order(prepared, form);
    if streams {
        let writer = stream::Stream::new(about, id, created, &model);
        return pump::stream(front, order, Box::new(writer)).await;
    }
    let mut done = pump::whole(front, order).await?;
    let answer = std::mem::take(&mut done.response);
    let write = move || stream::whole(&answer, about, id, created, &model);
    let body = front.shared.heavy.run(done.bytes, write).await;
    // It was paid for.
    let body = body.map_err(|error| Failure::of(&error, Sent::PerhapsPaid))?;
    Ok(done.respond(body))
}
