//! What other gateways ask of this one where it is their hub. Who asks is known by the seal of the message.

use crate::core::front::failure::Failure;
use crate::core::lease::LARGEST_MESSAGE;
use crate::front::endpoints::refused;
use crate::front::reply::{self, Body};
use crate::front::{Front, body};
use crate::gateway::leasing;
use http::request::Parts;
use http::{Response, StatusCode};
use hyper::body::Incoming;

/// Answers one message.
pub async fn answer(
    front: &Front,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    // Before anything of it is read.
    leasing::is_hub(&front.shared).map_err(refused)?;
    let mut lease = front.shared.memory.lease("");
    let text = body::read(&parts.headers, body, LARGEST_MESSAGE, &mut lease).await?;
    let answer = leasing::answer(&front.shared, &text).await.map_err(refused)?;
    Ok(reply::json(StatusCode::OK, answer))
}
