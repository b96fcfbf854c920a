//! `/console/api/NAME`: what the pages of the console read and do. A clerk answers, as the role and on behalf of the
//! user of whoever asks.

use crate::core::calendar::rfc3339;
use crate::core::front::console::arguments::{self, LONGEST_BODY};
use crate::core::front::console::statements::{self, Statement};
use crate::core::front::console::told::Told;
use crate::core::front::failure::{Failure, Refused};
use crate::error::Error;
use crate::front::Front;
use crate::front::body;
use crate::front::console::caller::{ConsoleCaller, Kind};
use crate::front::console::{is_of_this_site, other_site};
use crate::front::reply::{self, Body};
use crate::protocol::clerk::Principal;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

/// Answers a request of somebody who is known.
pub async fn answer(
    front: &Front,
    parts: &Parts,
    body: Incoming,
    caller: &ConsoleCaller,
    name: &str,
) -> Result<Response<Body>, Failure> {
    let statement = find(parts, name)?;
    if let Err(told) = check_rights(parts, statement, caller) {
        return Ok(response(told));
    }
    // For as long as it is at work.
    let mut lease = front.shared.memory.lease(&caller.user_id);
    let arguments = match statement.writes() {
        true => {
            let text = body::read(&parts.headers, body, LONGEST_BODY, &mut lease).await?;
            arguments::of_body(statement, &text)
        }
        false => arguments::of_query(statement, parts.uri.query()),
    };
    let asked = match arguments {
        Ok(arguments) => ask(front, statement, caller, arguments).await,
        Err(error) => Err(Told::of(&error)),
    };
    Ok(match asked {
        Ok(text) => reply::json(StatusCode::OK, text),
        Err(told) => response(told),
    })
}

/// The statement that the path names, asked for by its method.
fn find(parts: &Parts, name: &str) -> Result<&'static Statement, Failure> {
    let (method, path) = (&parts.method, parts.uri.path());
    let statement = statements::find(name)
        .ok_or_else(|| Failure::refused(&Refused::NotFound { method: method.as_str(), path }))?;
    let is_right = match statement.writes() {
        true => method == Method::POST,
        false => method == Method::GET || method == Method::HEAD,
    };
    let allow = statement.method.allow();
    is_right
        .then_some(statement)
        .ok_or_else(|| Failure::refused(&Refused::Method { method: method.as_str(), path, allow }))
}

fn check_rights(parts: &Parts, statement: &Statement, caller: &ConsoleCaller) -> Result<(), Told> {
    if !is_of_this_site(&parts.headers) {
        return Err(other_site());
    }
    // One that leaks could make itself another one, without limits.
    if statement.writes() && matches!(caller.kind, Kind::GatewayKey) {
        let hint = "SELECT console_url() signs in somebody who may.";
        return Err(Told::forbidden("a gateway key changes nothing in the console", Some(hint)));
    }
    Ok(())
}

/// Has a clerk run the statement.
async fn ask(
    front: &Front,
    statement: &'static Statement,
    caller: &ConsoleCaller,
    arguments: String,
) -> Result<String, Told> {
    let principal = Principal {
        user_id: caller.user_id.clone(),
        role: caller.role.clone(),
        is_anonymous: caller.is_anonymous,
    };
    let asked = front.shared.clerks.ask(statement, principal, arguments).await;
    let text =
        asked.map_err(|error| Told::of(&error))?.map_err(|raised| Told::of_raised(&raised))?;
    match statement.name {
        "me" => with_caller(&text, caller).map_err(|error| Told::of(&error)),
        _ => Ok(text),
    }
}

/// What the database says of the caller, and what it cannot know: as what they have signed in.
fn with_caller(text: &str, caller: &ConsoleCaller) -> Result<String, Error> {
    let mut me: Map<String, Value> = serde_json::from_str(text).map_err(Error::internal)?;
    let (kind, expires_at) = match &caller.kind {
        Kind::Session { expires_at, .. } => ("session", Some(rfc3339(*expires_at))),
        Kind::Token => ("token", None),
        Kind::GatewayKey => ("gateway_key", None),
    };
    let known = json!({
        "user_id": caller.user_id,
        "role": caller.role,
        "is_admin": caller.is_admin,
        "is_anonymous": caller.is_anonymous,
        "kind": kind,
        "expires_at": expires_at,
        "can_write": !matches!(caller.kind, Kind::GatewayKey),
    });
    let Value::Object(known) = known else { return Err(Error::internal("no object")) };
    me.extend(known);
    Ok(Value::Object(me).to_string())
}

pub fn response(told: Told) -> Response<Body> {
    let status = StatusCode::from_u16(told.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply::json(status, told.body())
}
