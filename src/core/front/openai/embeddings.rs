//! OpenAI's embeddings as clients speak them. The libraries for Node and Python ask for base64 where their caller says
//! nothing, and read both forms.

use crate::core::embedding::answer::with_lists;
use crate::core::front::failure::{Failure, Sent};
use crate::core::front::write;
use crate::core::json;
use crate::core::options::Prepared;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// A request, and what it asks of the front itself.
#[derive(Debug)]
pub struct Asked {
    pub prepared: Prepared,
    /// Vectors as base64, and not as lists of numbers.
    pub in_base64: bool,
}

impl Asked {
    /// Reads the body of `POST /v1/embeddings`.
    pub fn read(body: &str) -> Result<Self, Failure> {
        let prepared = Prepared::embedding_from_http(body)
            .map_err(|error| Failure::of(&error, Sent::Nothing))?;
        let in_base64 = matches!(
            json::pick(body, &["encoding_format"]),
            Ok([Some(format)]) if format.get() == r#""base64""#
        );
        Ok(Self { prepared, in_base64 })
    }
}

/// An answer as it was asked for, with the model where the upstream does not say which it was.
pub fn whole(answer: &str, in_base64: bool, model: &str) -> String {
    let answer = match in_base64 {
        true => Cow::Borrowed(answer),
        false => with_lists(answer).map_or(Cow::Borrowed(answer), Cow::Owned),
    };
    match json::pick(&answer, &["model"]) {
        Ok([None]) => {
            let mut with_model = String::with_capacity(answer.len() + model.len() + 16);
            let Ok(json::Pairs(members)) = serde_json::from_str(&answer) else {
                return answer.into_owned();
            };
            write::object(&mut with_model, |object| {
                let others = |(name, _): &(String, &RawValue)| name != "model";
                for (name, value) in members.into_iter().filter(others) {
                    object.json(&name, value.get());
                }
                object.text("model", model);
            });
            with_model
        }
        _ => answer.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AACAPwAAAL8="}],"usage":{"prompt_tokens":2,"total_tokens":2},"aggregator":{"cost":0.10}}"#;

    #[test]
    fn an_answer_is_of_the_form_that_was_asked_for() {
        let lists = whole(ANSWER, false, "m");
        assert!(lists.contains(r#""embedding":[1.0,-0.5]}]"#), "{lists}");
        assert!(lists.contains(r#""cost":0.10"#) && lists.ends_with(r#","model":"m"}"#), "{lists}");
        let base64 = whole(ANSWER, true, "m");
        assert!(base64.contains(r#""embedding":"AACAPwAAAL8=""#), "{base64}");
        let own = ANSWER.replacen('{', r#"{"model":"own","#, 1);
        assert_eq!(whole(&own, true, "m"), own);
    }

    #[test]
    fn base64_is_given_to_those_who_ask_for_it() {
        for (format, in_base64, asks) in [
            ("", false, "base64"),
            (r#","encoding_format":null"#, false, "base64"),
            (r#","encoding_format":"float""#, false, "float"),
            (r#","encoding_format":"base64""#, true, "base64"),
        ] {
            let asked = Asked::read(&format!(r#"{{"model":"m","input":"x"{format}}}"#)).unwrap();
            assert_eq!(asked.in_base64, in_base64, "{format}");
            let body = asked.prepared.body();
            assert_eq!(body, format!(r#"{{"encoding_format":"{asks}","input":["x"]}}"#));
        }
    }

    #[test]
    fn what_is_no_text_is_refused_and_named() {
        for (body, param) in [
            (r#"{"model":"m","input":[1,2]}"#, Some("input")),
            (r#"{"model":"m","input":[[1,2]]}"#, Some("input")),
            (r#"{"model":"m","input":[]}"#, Some("input")),
            (r#"{"model":"m","input":""}"#, Some("input")),
            (r#"{"model":"m","input":["a",null]}"#, Some("input")),
            (r#"{"model":"m"}"#, Some("input")),
            (r#"{"input":"a"}"#, Some("model")),
            (r#"{"model":"m","input":"a","dimensions":0}"#, Some("dimensions")),
            (r#"{"model":"m","input":"a","dimensions":99999}"#, Some("dimensions")),
            (r#"{"model":"m","input":"a","encoding_format":"int8"}"#, Some("encoding_format")),
            (r#"{"model":"m","input":"a","models":["n"]}"#, Some("models")),
            (r#"{"model":"m","input":"a","stream":true}"#, Some("stream")),
            (r#"[]"#, None),
        ] {
            let failure = Asked::read(body).unwrap_err();
            assert_eq!((failure.status, failure.param()), (400, param), "{body}");
        }
    }
}
