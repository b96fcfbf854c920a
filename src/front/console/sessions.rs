//! `/console/api/session`: the code of a link is exchanged for a token, and a token given back.

use super::{api, is_of_this_site, other_site};
use crate::core::calendar::rfc3339;
use crate::core::front::failure::{Failure, Refused, Sent};
use crate::core::front::opaque::RANDOM_BYTES;
use crate::core::front::session::{self, SignIn};
use crate::error::Error;
use crate::front::caller::Rights;
use crate::front::connection::Peer;
use crate::front::reply::{self, Body};
use crate::front::{Front, body};
use crate::gateway::task::Task;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use zeroize::Zeroizing;

pub const NAME: &str = "session";
/// Most bytes of the body of a sign-in.
const LONGEST_BODY: usize = 1024;
/// Who has not signed in yet.
const NOBODY_YET: &str = "";

pub async fn answer(
    front: &Front,
    parts: &Parts,
    peer: Peer,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    if !is_of_this_site(&parts.headers) {
        return Ok(api::response(other_site()));
    }
    match parts.method {
        Method::POST => sign_in(front, parts, peer, body).await,
        Method::DELETE => sign_out(front, parts, peer).await,
        _ => Err(Failure::refused(&Refused::Method { method, path, allow: "POST, DELETE" })),
    }
}

async fn sign_in(
    front: &Front,
    parts: &Parts,
    peer: Peer,
    body: Incoming,
) -> Result<Response<Body>, Failure> {
    let mut lease = front.shared.memory.lease(NOBODY_YET);
    let text = body::read(&parts.headers, body, LONGEST_BODY, &mut lease).await?;
    let text = Zeroizing::new(text);
    let wish = serde_json::from_str::<SignIn>(&text);
    // Its words would repeat what was sent.
    let wish =
        wish.map_err(|_| Failure::invalid("body", "The body must be {\"code\": \"agc_...\"}"))?;
    let code = Zeroizing::new(wish.code);
    let mut random = Zeroizing::new([0; RANDOM_BYTES]);
    getrandom::fill(random.as_mut()).map_err(|error| {
        let error = Error::internal(format!("there are no random bytes: {error}"));
        Failure::of(&error, Sent::Nothing)
    })?;
    let token = session::make_token(&random);
    let until = front.callers.sign_in(front, peer, &code, token.hash).await?;
    let body = json!({"token": token.text.as_str(), "expires_at": rfc3339(until)});
    Ok(reply::json(StatusCode::OK, body.to_string()))
}

async fn sign_out(front: &Front, parts: &Parts, peer: Peer) -> Result<Response<Body>, Failure> {
    let of = |error: Error| Failure::of(&error, Sent::Nothing);
    let caller = front.callers.identify(front, peer, &parts.headers, Rights::AsOfNow).await?;
    let Some(session) = caller.session() else {
        return Err(of(Error::bad_request_hint(
            "only a session of the console is ended here",
            "revoke_gateway_key() ends a gateway key; an access token ends by itself.",
        )));
    };
    let turn = front.questions.turn(&caller.whose.user).await.map_err(of)?;
    let id = session.id;
    turn.ask(|reply| Task::SignOut(id, reply)).await.flatten().map_err(of)?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
