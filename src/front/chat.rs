//! `POST /v1/chat/completions`: OpenAI's dialect, which everything here speaks.

use crate::clock::unix_micros;
use crate::core::front::failure::{Failure, Sent};
use crate::core::front::openai::{Asked, Stamp, stream, whole};
use crate::front::endpoints::Asking;
use crate::front::form::Form;
use crate::front::pump;
use crate::front::reply::Body;
use http::Response;
use std::sync::Arc;

/// Answers a request.
pub async fn answer(mut asking: Asking<'_>) -> Result<Response<Body>, Failure> {
    let read = |text: String| Asked::read(&text);
    let Asked { mut prepared, with_usage } = asking.read(1, read).await?;
    asking.steer(&mut prepared)?;
    let stamp = Stamp::new(asking.id, unix_micros() / 1_000_000, &prepared.model);
    let (streams, form) = (prepared.streams, Form::Chat(Arc::new(prepared.body())));
    let (front, order) = asking.order(prepared, form);
    if streams {
        let writer = stream::Stream::new(stamp, with_usage);
        return pump::stream(front, order, Box::new(writer)).await;
    }
    let mut done = pump::whole(front, order).await?;
    let answer = std::mem::take(&mut done.response);
    let body = front.shared.heavy.run(done.bytes, move || whole(&answer, stamp)).await;
    // It was paid for.
    let body = body.map_err(|error| Failure::of(&error, Sent::PerhapsPaid))?;
    Ok(done.respond(body))
}
