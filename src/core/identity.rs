//! Who is asking: the rules that turn settings and roles into a user id.

use crate::core::model;
use serde_json::Value;

/// The prefix of ids that name a database role. A JWT `sub` that starts with it is not believed,
/// or a client could become a role by choosing its `sub`.
pub const ROLE_PREFIX: &str = "role:";

/// The longest user id, in bytes: OpenID Connect's bound for `sub`. It fits every index.
pub const LONGEST_ID: usize = 255;

/// The id, if it can be one: some text that shows as what it is, and is not too long. Every id that
/// comes in passes here.
pub fn checked_id(id: &str) -> Result<&str, &'static str> {
    if id.is_empty() {
        return Err("must not be empty");
    }
    if id.len() > LONGEST_ID {
        return Err("is longer than 255 bytes");
    }
    if id.chars().any(|c| c != ' ' && model::is_hidden(c)) {
        return Err("holds a character that cannot be seen");
    }
    if id.starts_with(' ') || id.ends_with(' ') {
        return Err("begins or ends with a space");
    }
    Ok(id)
}

/// What the session knows about its caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller<'a> {
    /// Whom the HTTP endpoint has vouched for, in a process that acts for them, and whether they are anonymous. It
    /// goes before all that a session says.
    pub vouched_for: Option<(&'a str, bool)>,
    /// The registered setting `aggregator.user_id`: only a superuser, or a role with GRANT SET ON
    /// PARAMETER, could have set it.
    pub forced_user_id: Option<&'a str>,
    /// `request.jwt.claims`, which any session can set.
    pub jwt_claims: Option<&'a str>,
    /// The role that logged in is in `aggregator.trusted_authenticators`.
    pub is_authenticator: bool,
    /// The role that logged in is a superuser.
    pub is_superuser: bool,
    /// The role of SET ROLE, or of the login.
    pub outer_role: &'a str,
}

/// The id under which the caller keeps keys and spends. `None` may not spend.
pub fn user_id(caller: Caller<'_>) -> Option<String> {
    if let Some((id, _)) = caller.vouched_for {
        return checked_id(id).ok().map(str::to_owned);
    }
    if let Some(id) = caller.forced_user_id.filter(|id| !id.is_empty()) {
        return checked_id(id).ok().map(str::to_owned);
    }
    if caller.is_authenticator || caller.is_superuser {
        match caller.jwt_claims {
            Some(claims) => return subject(claims),
            None if caller.is_authenticator => return None,
            None => {}
        }
    }
    let id = format!("{ROLE_PREFIX}{}", caller.outer_role);
    checked_id(&id).is_ok().then_some(id)
}

/// Whether the caller is known by claims of somebody who has signed in without saying who they are: Supabase's
/// `is_anonymous`. What is neither true nor false is taken for true.
pub fn is_anonymous(caller: Caller<'_>) -> bool {
    if let Some((_, is_anonymous)) = caller.vouched_for {
        return is_anonymous;
    }
    let is_forced = caller.forced_user_id.is_some_and(|id| !id.is_empty());
    let is_believed = caller.is_authenticator || caller.is_superuser;
    let Some(claims) = caller.jwt_claims.filter(|_| is_believed && !is_forced) else {
        return false;
    };
    let claims: Option<Value> = serde_json::from_str(claims).ok();
    let said = claims.as_ref().and_then(|claims| claims.get("is_anonymous"));
    !matches!(said, None | Some(Value::Null | Value::Bool(false)))
}

/// The `sub` of a claims document.
fn subject(claims: &str) -> Option<String> {
    let claims: Value = serde_json::from_str(claims).ok()?;
    subject_of(claims.get("sub")?)
}

/// The id that a `sub` says; a whole number is taken by its digits. Other numbers are nobody's: written as
/// floats, two of them could be one.
pub fn subject_of(sub: &Value) -> Option<String> {
    let sub = match sub {
        Value::String(sub) => sub.clone(),
        Value::Number(sub) if sub.is_i64() || sub.is_u64() => sub.to_string(),
        _ => return None,
    };
    (checked_id(&sub).is_ok() && !sub.starts_with(ROLE_PREFIX)).then_some(sub)
}

/// Whether `role` is in a comma-separated list of role names.
pub fn is_listed(list: &str, role: &str) -> bool {
    list.split(',').map(|name| name.trim().trim_matches('"')).any(|name| name == role)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWT: Option<&str> = Some(r#"{"sub":"u-1","role":"authenticated"}"#);

    fn plain() -> Caller<'static> {
        Caller { outer_role: "alice", ..Caller::default() }
    }

    fn authenticator() -> Caller<'static> {
        Caller { is_authenticator: true, outer_role: "authenticated", ..Caller::default() }
    }

    #[test]
    fn a_plain_login_is_its_role_whatever_claims_it_sets() {
        assert_eq!(user_id(plain()).unwrap(), "role:alice");
        assert_eq!(user_id(Caller { jwt_claims: JWT, ..plain() }).unwrap(), "role:alice");
    }

    #[test]
    fn an_authenticator_is_believed() {
        assert_eq!(user_id(Caller { jwt_claims: JWT, ..authenticator() }).unwrap(), "u-1");
        let superuser = Caller { is_superuser: true, jwt_claims: JWT, ..plain() };
        assert_eq!(user_id(superuser).unwrap(), "u-1");
    }

    #[test]
    fn an_authenticator_without_a_subject_is_nobody() {
        assert_eq!(user_id(authenticator()), None);
        for claims in
            ["", "{", "null", "[]", r#"{"sub":""}"#, r#"{"sub":null}"#, r#"{"role":"anon"}"#]
        {
            assert_eq!(
                user_id(Caller { jwt_claims: Some(claims), ..authenticator() }),
                None,
                "{claims}"
            );
        }
    }

    #[test]
    fn whoever_has_not_signed_in_says_so_in_the_claims_that_are_believed() {
        let says = |said: &str| format!(r#"{{"sub":"u-1","is_anonymous":{said}}}"#);
        for (said, expected) in [
            ("true", true),
            ("false", false),
            ("null", false),
            (r#""true""#, true),
            ("1", true),
            ("{}", true),
        ] {
            let claims = says(said);
            let caller = Caller { jwt_claims: Some(&claims), ..authenticator() };
            assert_eq!(is_anonymous(caller), expected, "{said}");
            // Another login's are not believed, and the setting goes before them.
            assert!(!is_anonymous(Caller { jwt_claims: Some(&claims), ..plain() }));
            assert!(!is_anonymous(Caller { forced_user_id: Some("x"), ..caller }));
        }
        assert!(!is_anonymous(Caller { jwt_claims: JWT, ..authenticator() }));
        assert!(!is_anonymous(authenticator()));
    }

    #[test]
    fn whoever_was_vouched_for_is_nobody_else_whatever_a_session_says() {
        let vouched = Caller {
            vouched_for: Some(("ada", false)),
            forced_user_id: Some("x"),
            jwt_claims: Some(r#"{"sub":"u-1","is_anonymous":true}"#),
            is_superuser: true,
            ..authenticator()
        };
        assert_eq!(user_id(vouched).unwrap(), "ada");
        assert!(!is_anonymous(vouched));
        assert!(is_anonymous(Caller { vouched_for: Some(("ada", true)), ..plain() }));
        // An id that nobody can have is not replaced by another.
        assert_eq!(user_id(Caller { vouched_for: Some(("", false)), ..vouched }), None);
        // A role's user keeps its id.
        let role = Caller { vouched_for: Some(("role:alice", false)), ..vouched };
        assert_eq!(user_id(role).unwrap(), "role:alice");
    }

    #[test]
    fn a_subject_cannot_name_a_role() {
        let forged = Some(r#"{"sub":"role:alice"}"#);
        assert_eq!(user_id(Caller { jwt_claims: forged, ..authenticator() }), None);
    }

    #[test]
    fn the_forced_id_wins_and_an_empty_one_is_none() {
        let forced = Caller { forced_user_id: Some("x"), jwt_claims: JWT, ..authenticator() };
        assert_eq!(user_id(forced).unwrap(), "x");
        assert_eq!(user_id(Caller { forced_user_id: Some(""), ..plain() }).unwrap(), "role:alice");
    }

    #[test]
    fn an_id_that_could_show_as_another_is_nobodys() {
        for sub in [
            r"u-1\u0000",
            r"\u0000u-1",
            r"u-\u00001",
            r"u-1\u200b",
            r"u-1\u202e",
            r"u-1\u00ad",
            r"u-1\n",
            r"u-1\u00a0",
            r"u-1\u2028",
            r"u-1\ufe0f",
            r"u-1\udb40\udc41",
            " u-1",
            "u-1 ",
            &"x".repeat(256),
        ] {
            let claims = format!(r#"{{"sub":"{sub}"}}"#);
            let caller = Caller { jwt_claims: Some(&claims), ..authenticator() };
            assert_eq!(user_id(caller), None, "{claims}");
        }
        for sub in ["1e400", "1.5", "18446744073709551617", "1e2", "true", "{}"] {
            let claims = format!(r#"{{"sub":{sub}}}"#);
            let caller = Caller { jwt_claims: Some(&claims), ..authenticator() };
            assert_eq!(user_id(caller), None, "{claims}");
        }
        assert_eq!(user_id(Caller { forced_user_id: Some("u-1\u{200b}"), ..plain() }), None);
        assert_eq!(user_id(Caller { outer_role: "alice\u{200b}", ..Caller::default() }), None);
        for (sub, id) in [
            (r#""ключ|a b""#, "ключ|a b"),
            ("17", "17"),
            ("18446744073709551615", "18446744073709551615"),
            (r#""auth0|5f7c8ec7c33c6c004bbafe82""#, "auth0|5f7c8ec7c33c6c004bbafe82"),
        ] {
            let claims = format!(r#"{{"sub":{sub}}}"#);
            let caller = Caller { jwt_claims: Some(&claims), ..authenticator() };
            assert_eq!(user_id(caller).unwrap(), id);
        }
        assert!(checked_id(&"x".repeat(255)).is_ok());
    }

    #[test]
    fn lists_are_exact() {
        assert!(is_listed("authenticator", "authenticator"));
        assert!(is_listed("a, \"B c\" ,d", "B c"));
        assert!(!is_listed("authenticator", "auth"));
        assert!(!is_listed("", "x"));
    }
}
