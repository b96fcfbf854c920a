//! A failure in the form of the console, as its errors of statements are.

use super::Failure;
use serde_json::{Value, json};

impl Failure {
    /// The body of the answer.
    pub fn console(&self) -> String {
        let hint = self.more.about.as_ref().and_then(|about| about.get("hint"));
        json!({"error": {
            "message": self.message,
            "hint": hint.unwrap_or(&Value::Null),
            "code": self.code.as_deref().unwrap_or("bad_request"),
            "sqlstate": format!("PT{}", self.status),
        }})
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::front::failure::{Refused, Sent};
    use crate::error::Error;

    #[test]
    fn what_is_refused_before_a_statement_reads_as_what_one_refuses() {
        let of = |failure: Failure| -> Value { serde_json::from_str(&failure.console()).unwrap() };
        let error = Error::Forbidden { role: "r".to_owned(), action: "x".to_owned() };
        let hint = error.hint().unwrap();
        let expected = json!({"error": {
            "message": "role 'r' may not x", "hint": hint, "code": "forbidden", "sqlstate": "PT403"}});
        assert_eq!(of(Failure::of(&error, Sent::Nothing)), expected);
        let refused = of(Failure::refused(&Refused::NoCredential));
        assert_eq!(refused["error"]["code"], "invalid_api_key");
        assert_eq!(refused["error"]["sqlstate"], "PT401");
        assert_eq!(refused["error"]["hint"], Value::Null);
        let refused = of(Failure::refused(&Refused::NotUtf8));
        assert_eq!(refused["error"]["code"], "bad_request");
    }
}
