//! The API standards that providers speak. A provider is data; its standard is code.

use crate::error::Error;
use serde::{Deserialize, Serialize};

/// How a provider is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standard {
    /// OpenAI's chat completions, which most providers and all aggregators speak.
    OpenAi,
    /// Anthropic's Messages: keys and model lists are understood, chat is not yet.
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

    /// Where chat requests go.
    pub fn chat_url(self, base_url: &str) -> Result<String, Error> {
        match self {
            Self::OpenAi => Ok(join(base_url, "chat/completions")),
            Self::Anthropic => Err(Error::unsupported(
                "chat with a provider of API standard 'anthropic'".to_owned(),
            )),
        }
    }

    /// Where the model list is, unless the provider's row says otherwise.
    pub fn models_url(self, base_url: &str) -> String {
        join(base_url, "models")
    }

    /// The headers that carry a key: name and value.
    pub fn auth_header(self, key: &str) -> (&'static str, String) {
        match self {
            Self::OpenAi => ("authorization", format!("Bearer {key}")),
            Self::Anthropic => ("x-api-key", key.to_owned()),
        }
    }

    /// Headers that every request of this standard carries.
    pub fn fixed_headers(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::OpenAi => &[],
            Self::Anthropic => &[("anthropic-version", "2023-06-01")],
        }
    }
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
            let url = Standard::OpenAi.chat_url(base).unwrap();
            assert_eq!(url, "https://a.example/v1/chat/completions");
        }
    }

    #[test]
    fn an_unknown_standard_is_named() {
        assert!(Standard::parse("soap").unwrap_err().to_string().contains("soap"));
        assert_eq!(Standard::Anthropic.chat_url("https://x").unwrap_err().sqlstate(), "PT501");
    }
}
