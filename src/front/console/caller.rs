//! Who has signed in to the console.

use crate::core::front::console::told::Told;
use crate::core::front::failure::{Failure, Sent};
use crate::error::Error;
use crate::front::Front;
use crate::front::caller::{Caller, Rights};
use crate::front::connection::Peer;
use http::request::Parts;

/// Somebody who may use the console.
#[derive(Debug, Clone)]
pub struct ConsoleCaller {
    pub user_id: String,
    /// As which they act in the database.
    pub role: String,
    pub is_anonymous: bool,
    pub kind: Kind,
    pub is_admin: bool,
}

/// By what they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Until then: microseconds since 1970.
    Session {
        expires_at: i64,
    },
    Token,
    GatewayKey,
}

/// Who shows a credential, if they may use the console with it.
pub async fn identify(
    front: &Front,
    parts: &Parts,
    peer: Peer,
) -> Result<Result<ConsoleCaller, Told>, Failure> {
    let known = front.callers.identify(front, peer, &parts.headers, Rights::AsOfNow).await?;
    let of = |role: &str, is_anonymous, kind, is_admin| ConsoleCaller {
        user_id: known.whose.user.clone(),
        role: role.to_owned(),
        is_anonymous,
        kind,
        is_admin,
    };
    if let Some(session) = known.session() {
        let kind = Kind::Session { expires_at: session.expires_at };
        return Ok(Ok(of(&session.role, session.is_anonymous, kind, known.is_admin)));
    }
    if let Some(claims) = known.claims() {
        return Ok(Ok(of(&claims.role, claims.is_anonymous, Kind::Token, known.is_admin)));
    }
    let role = role_of_key(front, &known).await?;
    let is_anonymous = known.gateway_key().is_some_and(|key| key.is_anonymous);
    Ok(role.map(|role| of(&role, is_anonymous, Kind::GatewayKey, false)))
}

/// As which role a gateway key looks at what is its owner's. As no administrator: it is in the settings of programs.
async fn role_of_key(front: &Front, known: &Caller) -> Result<Result<String, Told>, Failure> {
    const HINT: Option<&str> = Some("SELECT console_url() signs in as a user and a role.");
    let role = known.gateway_key().and_then(|key| key.role.clone());
    let Some(role) = role else {
        let message = "this gateway key was made for somebody else, or by an earlier version";
        return Ok(Err(Told::forbidden(message, HINT)));
    };
    let of = |error: Error| Failure::of(&error, Sent::Nothing);
    let vouched = front.callers.may_act(front, &role, known.generation).await.map_err(of)?;
    if !vouched.may_spend {
        return Err(of(Error::Forbidden { role, action: "use the console".to_owned() }));
    }
    if !vouched.is_reached {
        let message = "nobody can log in as the role that made this gateway key";
        return Ok(Err(Told::forbidden(message, HINT)));
    }
    if vouched.is_admin {
        let message = "the gateway key of an administrator opens no console";
        return Ok(Err(Told::forbidden(message, HINT)));
    }
    Ok(Ok(role))
}
