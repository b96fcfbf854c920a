//! The console.

mod api;
mod caller;

use crate::core::front::failure::{Failure, Sent};
use crate::error::Error;
use crate::front::Front;
use crate::front::caller::Rights;
use crate::front::connection::Peer;
use crate::front::reply::Body;
use caller::{ConsoleCaller, Kind};
use http::Response;
use http::request::Parts;
use hyper::body::Incoming;
use std::sync::Arc;

/// Answers a request for `/console/api/NAME`.
pub async fn api(
    front: &Arc<Front>,
    parts: &Parts,
    peer: Peer,
    body: Incoming,
    name: &str,
) -> Result<Response<Body>, Failure> {
    let known = front.callers.identify(front, peer, &parts.headers, Rights::AsOfNow).await?;
    let Some(claims) = known.claims() else {
        let error = Error::Forbidden { role: String::new(), action: "use the console".to_owned() };
        return Err(Failure::of(&error, Sent::Nothing));
    };
    let caller = ConsoleCaller {
        user_id: known.whose.user.clone(),
        role: claims.role.clone(),
        is_anonymous: claims.is_anonymous,
        kind: Kind::Token,
        is_admin: known.is_admin,
    };
    api::answer(front, parts, body, &caller, name).await
}
