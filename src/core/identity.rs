//! Who is asking: the rules that turn settings and roles into a user id.

use serde_json::Value;

/// The prefix of ids that name a database role. A JWT `sub` that starts with it is not believed,
/// or a client could become a role by choosing its `sub`.
pub const ROLE_PREFIX: &str = "role:";

/// What the session knows about its caller.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller<'a> {
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
    if let Some(id) = caller.forced_user_id.filter(|id| !id.is_empty()) {
        return Some(id.to_owned());
    }
    if caller.is_authenticator || caller.is_superuser {
        match caller.jwt_claims {
            Some(claims) => return subject(claims),
            None if caller.is_authenticator => return None,
            None => {}
        }
    }
    Some(format!("{ROLE_PREFIX}{}", caller.outer_role))
}

/// The `sub` of a claims document; a number is taken by its digits.
fn subject(claims: &str) -> Option<String> {
    let claims: Value = serde_json::from_str(claims).ok()?;
    let sub = match claims.get("sub")? {
        Value::String(sub) => sub.clone(),
        Value::Number(sub) => sub.to_string(),
        _ => return None,
    };
    (!sub.is_empty() && !sub.starts_with(ROLE_PREFIX)).then_some(sub)
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
    fn lists_are_exact() {
        assert!(is_listed("authenticator", "authenticator"));
        assert!(is_listed("a, \"B c\" ,d", "B c"));
        assert!(!is_listed("authenticator", "auth"));
        assert!(!is_listed("", "x"));
    }
}
