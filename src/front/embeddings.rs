//! `POST /v1/embeddings`: OpenAI's form.

use crate::core::front::failure::{Failure, Sent};
use crate::core::front::openai::embeddings::{Asked, whole};
use crate::front::endpoints::Asking;
use crate::front::form::Form;
use crate::front::pump;
use crate::front::reply::Body;
use http::Response;
use std::sync::Arc;

/// Answers a request.
pub async fn answer(mut asking: Asking<'_>) -> Result<Response<Body>, Failure> {
    let read = |text: String| Asked::read(&text);
    let Asked { mut prepared, in_base64 } = asking.read(1, read).await?;
    asking.steer(&mut prepared)?;
    let model = prepared.model.clone();
    let form = Form::Chat(Arc::new(prepared.body()));
    let (front, order) = asking.order(prepared, form);
    let mut done = pump::whole(front, order).await?;
    if !in_base64 {
        // Digits take more than twice of what base64 does.
        done.hold(3 * done.bytes)?;
    }
    let answer = std::mem::take(&mut done.response);
    let written = front.shared.heavy.run(done.bytes, move || whole(&answer, in_base64, &model));
    // It was paid for.
    let body = written.await.map_err(|error| Failure::of(&error, Sent::PerhapsPaid))?;
    Ok(done.respond(body))
}
