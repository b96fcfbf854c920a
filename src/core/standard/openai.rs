//! OpenAI's chat completions: the form that everything else here speaks, so there is little to do.

use super::{Chunks, Sending, Step, Wire, members};
use crate::core::sse::Event;
use crate::core::{failure, mend, refusal};
use crate::error::Error;
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::BTreeMap;

pub struct OpenAi;

/// The names of the limit of an answer's tokens.
const OLDER: &str = "max_tokens";
const NEWER: &str = "max_completion_tokens";

/// Where Azure offers OpenAI's models.
const AZURE: [&str; 3] =
    [".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"];

/// Whether a model is told the limit of its answer by the newer name. At OpenAI itself all take it. At Azure those that
/// reason want it, too, and older versions of its API know it for no others (anomalyco/opencode issue 37964).
pub fn takes_newer_name(base_url: &str, model_id: &str) -> bool {
    let place = base_url.split_once("://").map_or(base_url, |(_, place)| place);
    let host = place.split(['/', ':', '?', '#']).next().unwrap_or_default().to_ascii_lowercase();
    let is_openai = host == "api.openai.com" || host.ends_with(".api.openai.com");
    is_openai || (AZURE.iter().any(|azure| host.ends_with(azure)) && reasons(model_id))
}

/// o1, o3, o4-mini and those that follow, and GPT from 5 on, by the names that OpenAI gives them.
pub fn reasons(model_id: &str) -> bool {
    let name = model_id.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let version =
        |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok();
    let series = name.strip_prefix('o').and_then(version);
    let gpt = name.strip_prefix("gpt-").and_then(version);
    series.is_some_and(|number| number >= 1) || gpt.is_some_and(|number| (5..30).contains(&number))
}

impl Wire for OpenAi {
    fn chat_path(&self) -> &'static str {
        "chat/completions"
    }

    fn embeddings_path(&self) -> Option<&'static str> {
        Some("embeddings")
    }

    fn auth_header(&self, key: &str) -> (&'static str, String) {
        ("authorization", format!("Bearer {key}"))
    }

    fn fixed_headers(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    fn request(&self, body: &str, sending: &Sending<'_>) -> Result<String, Error> {
        let given = members(body)?;
        let mut fields: BTreeMap<&str, &RawValue> =
            given.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let model = to_raw_value(sending.model_id).map_err(Error::internal)?;
        fields.insert("model", &model);
        let yes = RawValue::from_string("true".to_owned()).map_err(Error::internal)?;
        let usage = RawValue::from_string(r#"{"include_usage":true}"#.to_owned())
            .map_err(Error::internal)?;
        let newest = if sending.takes_newer_name { NEWER } else { OLDER };
        let cap = sending.cap.map(|tokens| (newest, to_raw_value(&tokens)));
        if let Some((name, Ok(tokens))) = &cap {
            fields.insert(name, tokens);
        }
        let limit = |name: &str| given.get(name).filter(|asked| asked.get() != "null");
        // Both at once are for the provider to refuse.
        let renames = sending.takes_newer_name && limit(NEWER).is_none() && limit(OLDER).is_some();
        let asked = [OLDER, NEWER].map(|name| {
            let sent = if renames { NEWER } else { name };
            Some((sent, sending.within_most(limit(name)?)))
        });
        if renames {
            fields.remove(OLDER);
        }
        let asked = asked.into_iter().flatten().map(|(name, asked)| Ok((name, asked?)));
        let asked = asked.collect::<Result<Vec<_>, Error>>()?;
        fields.extend(asked.iter().map(|(name, asked)| (*name, &**asked)));
        // OpenAI refuses the options of a stream without one, and sends no usage with a stream
        // unless it is told to.
        fields.remove("stream_options");
        if sending.streams {
            fields.insert("stream", &yes);
            fields.insert("stream_options", &usage);
        }
        serde_json::to_string(&fields).map_err(Error::internal)
    }

    fn bytes_per_value(&self) -> usize {
        // Members are passed on as they are.
        0
    }

    fn default_output_tokens(&self) -> Option<i32> {
        None
    }

    fn answer<'a>(&self, body: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(body)
    }

    fn stream(&self) -> Box<dyn Chunks> {
        Box::new(OpenAiChunks)
    }
}

struct OpenAiChunks;

impl Chunks for OpenAiChunks {
    fn read(&mut self, event: &Event, key: Option<&str>) -> Step {
        let data = event.data.trim();
        if data == "[DONE]" {
            return Step::Done;
        }
        if data.is_empty() {
            return Step::Nothing;
        }
        // Whatever it holds; TGI and proxies send such events.
        if event.name.as_deref() == Some("error") {
            return Step::Refused(refusal::inside_200(data, key));
        }
        let data = mend::json(data);
        match failure::in_chunk(&data, key) {
            // An error once the stream has begun comes as a chunk (OpenRouter's documentation).
            Ok(Some(refusal)) => Step::Refused(refusal),
            Ok(None) => Step::Chunk(data.into_owned()),
            Err(error) if error.is_data() => Step::Nothing,
            Err(_) => Step::Broken("an event that is not JSON"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &str) -> Event {
        Event { name: None, data: data.to_owned() }
    }

    #[test]
    fn a_request_gets_its_model_and_keeps_its_digits() {
        let sending = Sending {
            model_id: "v/m",
            max_output_tokens: None,
            streams: false,
            cap: None,
            takes_newer_name: false,
            most_tokens: None,
        };
        let body = OpenAi.request(r#"{"seed":12345678901234567890123}"#, &sending).unwrap();
        assert_eq!(body, r#"{"model":"v/m","seed":12345678901234567890123}"#);
        let unheard = r#"{"stream_options":{"include_usage":false}}"#;
        let body = OpenAi.request(unheard, &sending).unwrap();
        assert_eq!(body, r#"{"model":"v/m"}"#);
        let body = OpenAi.request(unheard, &Sending { streams: true, ..sending }).unwrap();
        assert_eq!(
            body,
            r#"{"model":"v/m","stream":true,"stream_options":{"include_usage":true}}"#
        );
    }

    #[test]
    fn no_more_is_asked_for_than_was_reserved() {
        let most_tokens = Some(8192);
        let sending = Sending {
            model_id: "m",
            max_output_tokens: None,
            streams: false,
            cap: None,
            takes_newer_name: false,
            most_tokens,
        };
        for (asked, sent) in [
            (r#"{"max_tokens":9223372036854775807}"#, r#"{"max_tokens":8192,"model":"m"}"#),
            (r#"{"max_tok\u0065ns":9999}"#, r#"{"max_tokens":8192,"model":"m"}"#),
            (r#"{"max_completion_tokens":9999}"#, r#"{"max_completion_tokens":8192,"model":"m"}"#),
            (r#"{"max_tokens":7}"#, r#"{"max_tokens":7,"model":"m"}"#),
            (r#"{"max_tokens":null}"#, r#"{"max_tokens":null,"model":"m"}"#),
        ] {
            assert_eq!(OpenAi.request(asked, &sending).unwrap(), sent);
        }
        for refused in [r#"{"max_tokens":"9"}"#, r#"{"max_tokens":1,"max_tok\u0065ns":9}"#] {
            let error = OpenAi.request(refused, &sending).unwrap_err();
            assert_eq!(error.sqlstate(), "PT400", "{refused}");
        }
        let unlimited = Sending { most_tokens: None, ..sending };
        let body = OpenAi.request(r#"{"max_tokens":9999}"#, &unlimited).unwrap();
        assert_eq!(body, r#"{"max_tokens":9999,"model":"m"}"#);
    }

    #[test]
    fn a_budget_limits_the_answer() {
        for (takes_newer_name, name) in [(true, NEWER), (false, OLDER)] {
            let sending = Sending {
                model_id: "m",
                max_output_tokens: None,
                streams: false,
                cap: Some(9),
                takes_newer_name,
                most_tokens: None,
            };
            let body = OpenAi.request("{}", &sending).unwrap();
            assert!(body.contains(&format!(r#""{name}":9"#)), "{body}");
        }
    }

    #[test]
    fn who_takes_the_newer_name_is_known_by_place_and_model() {
        for (base_url, model, takes) in [
            ("https://api.openai.com/v1", "gpt-4o", true),
            ("https://API.openai.com:443/v1", "gpt-3.5-turbo", true),
            ("https://eu.api.openai.com/v1", "o3", true),
            ("https://api.openai.com.evil.example/v1", "o3", false),
            ("https://evil.example/api.openai.com", "o3", false),
            ("https://x.openai.azure.com/openai/v1", "gpt-5.1", true),
            ("https://x.openai.azure.com/openai/v1", "o4-mini", true),
            ("https://x.services.ai.azure.com/openai/v1", "gpt-35-turbo", false),
            ("https://x.openai.azure.com/openai/v1", "gpt-4o", false),
            ("https://openrouter.ai/api/v1", "openai/o3", false),
            ("https://a.example/v1", "o3", false),
        ] {
            assert_eq!(takes_newer_name(base_url, model), takes, "{base_url} {model}");
        }
    }

    #[test]
    fn openais_own_models_are_told_the_limit_by_its_newer_name() {
        let sending = Sending {
            model_id: "m",
            max_output_tokens: None,
            streams: false,
            cap: None,
            takes_newer_name: true,
            most_tokens: Some(50),
        };
        for (asked, sent) in [
            (r#"{"max_tokens":7}"#, r#"{"max_completion_tokens":7,"model":"m"}"#),
            (r#"{"max_tokens":99}"#, r#"{"max_completion_tokens":50,"model":"m"}"#),
            (
                r#"{"max_tokens":7,"max_completion_tokens":null}"#,
                r#"{"max_completion_tokens":7,"model":"m"}"#,
            ),
            (r#"{"max_completion_tokens":7}"#, r#"{"max_completion_tokens":7,"model":"m"}"#),
            (r#"{"max_tokens":null}"#, r#"{"max_tokens":null,"model":"m"}"#),
            (
                r#"{"max_tokens":8,"max_completion_tokens":7}"#,
                r#"{"max_completion_tokens":7,"max_tokens":8,"model":"m"}"#,
            ),
        ] {
            assert_eq!(OpenAi.request(asked, &sending).unwrap(), sent, "{asked}");
        }
    }

    #[test]
    fn events_are_chunks_errors_or_the_end() {
        let mut chunks = OpenAi.stream();
        assert_eq!(
            chunks.read(&event(r#"{"choices":[]}"#), None),
            Step::Chunk(r#"{"choices":[]}"#.into())
        );
        assert_eq!(chunks.read(&event("[DONE]"), None), Step::Done);
        assert_eq!(chunks.read(&event(""), None), Step::Nothing);
        assert!(matches!(chunks.read(&event("{"), None), Step::Broken(_)));
        assert!(matches!(chunks.read(&event("ping"), None), Step::Broken(_)));
        for other in ["7", "[1]", "null", "\"[DONE]\""] {
            assert_eq!(chunks.read(&event(other), None), Step::Nothing, "{other}");
        }
        let nan = r#"{"choices":[],"x":NaN}"#;
        assert_eq!(chunks.read(&event(nan), None), Step::Chunk(nan.replace("NaN", "null")));
        let failed =
            r#"{"error":{"code":429,"message":"slow sk-x"},"choices":[{"finish_reason":"error"}]}"#;
        let Step::Refused(refusal) = chunks.read(&event(failed), Some("sk-x")) else { panic!() };
        assert_eq!(refusal.status, 429);
        assert!(!refusal.message.unwrap().contains("sk-x"));
        for data in
            [r#"{"message":"upstream died"}"#, r#"{"detail":"upstream died"}"#, "upstream died"]
        {
            let named = Event { name: Some("error".to_owned()), data: data.to_owned() };
            let Step::Refused(refusal) = chunks.read(&named, None) else { panic!("{data}") };
            assert_eq!((refusal.status, refusal.message.as_deref()), (502, Some("upstream died")));
        }
    }
}
