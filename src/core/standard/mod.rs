//! The API standards that providers speak. A provider is data; its standard is code: one module
//! here that implements [`Wire`]. Everything else knows OpenAI's form only.

pub mod anthropic;
pub mod openai;

use crate::core::sse::Event;
use crate::core::{json, parameters};
use crate::error::{Error, Refusal};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// How a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standard {
    /// OpenAI's chat completions, which most providers and all aggregators speak.
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
}

impl Standard {
    /// Reads `api_providers.api_standard`.
    pub fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "openai" => Ok(Self::OpenAi),
            "anthropic" => Ok(Self::Anthropic),
            other => Err(Error::unsupported(format!("API standard '{other}'"))),
        }
    }

    /// The code of the standard.
    pub fn wire(self) -> &'static dyn Wire {
        match self {
            Self::OpenAi => &openai::OpenAi,
            Self::Anthropic => &anthropic::Anthropic,
        }
    }

    /// Where the model list is, unless the provider's row says otherwise.
    pub fn models_url(self, base_url: &str) -> String {
        join(base_url, "models")
    }

    /// Where chat requests go.
    pub fn chat_url(self, base_url: &str) -> String {
        join(base_url, self.wire().chat_path())
    }

    /// Where requests for embeddings go. `None`: the standard has none.
    pub fn embeddings_url(self, base_url: &str) -> Option<String> {
        self.wire().embeddings_path().map(|path| join(base_url, path))
    }
}

/// One API standard: requests go out in its form, answers come back in OpenAI's.
pub trait Wire: Sync {
    /// Where chat requests go, below the provider's `base_url`.
    fn chat_path(&self) -> &'static str;

    /// Where requests for embeddings go, in OpenAI's form. `None`: the standard has none.
    fn embeddings_path(&self) -> Option<&'static str>;

    /// The headers that carry a key: name and value.
    fn auth_header(&self, key: &str) -> (&'static str, String);

    /// Headers that every request of this standard carries.
    fn fixed_headers(&self) -> &'static [(&'static str, &'static str)];

    /// The body to send, from a request in OpenAI's form that names no model.
    fn request(&self, body: &str, sending: &Sending<'_>) -> Result<String, Error>;

    /// Bytes that each value of a request takes at the most while it is translated, beside its text.
    fn bytes_per_value(&self) -> usize;

    /// Most tokens of an answer where neither the request nor the model says.
    fn default_output_tokens(&self) -> Option<i32>;

    /// A whole answer in OpenAI's form. What is no answer of this standard stays as it is.
    fn answer<'a>(&self, body: &'a str) -> Cow<'a, str>;

    /// A reader of one streamed answer.
    fn stream(&self) -> Box<dyn Chunks>;
}

/// What a request needs beside its body.
#[derive(Debug, Clone, Copy)]
pub struct Sending<'a> {
    pub model_id: &'a str,
    /// Most tokens of an answer of this model, where the catalogue knows.
    pub max_output_tokens: Option<i32>,
    /// Ask for a stream of events, usage included.
    pub streams: bool,
    /// The most tokens that a budget allows for the answer, where the request says nothing.
    pub cap: Option<i32>,
    /// OpenAI's own models that reason refuse the older name of the limit, `max_tokens` ("Unsupported parameter:
    /// 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."), and all of them take the
    /// newer one; most others know only the older.
    pub takes_newer_name: bool,
    /// Where a budget counts on it: no more tokens than this are asked for.
    pub most_tokens: Option<i64>,
}

impl Sending<'_> {
    /// A number of tokens that a request asks for (JSON), or the most that it may ask for, where
    /// that is less.
    fn within_most<'a>(&self, asked: &'a RawValue) -> Result<Cow<'a, RawValue>, Error> {
        match (self.most_tokens, parameters::whole(asked.get())) {
            (Some(most), Some(asked)) if asked > most => {
                to_raw_value(&most).map(Cow::Owned).map_err(Error::internal)
            }
            (Some(_), None) => Err(Error::bad_request("max_tokens must be a whole number")),
            _ => Ok(Cow::Borrowed(asked)),
        }
    }
}

/// A request for embeddings, which is of one form: with the model that is asked.
pub fn embeddings_request(body: &str, model_id: &str) -> Result<String, Error> {
    let given = members(body)?;
    let mut fields: BTreeMap<&str, &RawValue> =
        given.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let model = to_raw_value(model_id).map_err(Error::internal)?;
    fields.insert("model", &model);
    serde_json::to_string(&fields).map_err(Error::internal)
}

/// The members of a request: under the names that the bound of its cost has read them by.
fn members(body: &str) -> Result<BTreeMap<String, &RawValue>, Error> {
    json::members(body).map_err(Error::unfit)
}

/// Turns the events of one stream into chunks of OpenAI's form (`chat.completion.chunk`).
pub trait Chunks: Send {
    /// `key` is removed from whatever is repeated.
    fn read(&mut self, event: &Event, key: Option<&str>) -> Step;
}

/// What an event of a stream says.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The JSON of a chunk in OpenAI's form; it may carry `usage`.
    Chunk(String),
    /// Nothing for the caller: a ping, say.
    Nothing,
    /// The stream says that it is complete.
    Done,
    /// The upstream gave up, after the stream had begun.
    Refused(Refusal),
    /// Not what an API of this standard sends; the text says what it is.
    Broken(&'static str),
}

fn join(base_url: &str, path: &str) -> String {
    format!("{}/{path}", base_url.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_join_with_one_slash() {
        for base in ["https://a.example/v1", "https://a.example/v1/"] {
            let url = Standard::OpenAi.chat_url(base);
            assert_eq!(url, "https://a.example/v1/chat/completions");
        }
        assert_eq!(
            Standard::Anthropic.chat_url("https://a.example/v1"),
            "https://a.example/v1/messages"
        );
    }

    #[test]
    fn an_unknown_standard_is_named() {
        assert!(Standard::parse("soap").unwrap_err().to_string().contains("soap"));
    }
}
