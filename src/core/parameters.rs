//! The parameters of a request, by name: what each takes, and whether the tokens of the prompt and
//! of the answer bound what it costs. A list and not a guess: what is not in it is not understood.

use crate::core::scan::{Kind, Scanner};

/// What a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    Flag,
    Number,
    /// A whole number, written in digits.
    Whole,
    /// A whole number from 1 on.
    Tokens,
    /// A whole number from 1 to [`MOST_ANSWERS`].
    Answers,
    Text,
    List,
    Object,
    TextOrList,
    TextOrObject,
    /// A vendor's own business.
    Any,
}

/// What bounds the cost that a parameter brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The tokens of the prompt and of the answer.
    Tokens,
    /// Its value says: [`crate::core::request`] looks.
    Value,
    /// Nothing.
    None,
}

/// `n` at the most (OpenAI's API reference).
pub const MOST_ANSWERS: i64 = 128;

pub struct Parameter {
    pub name: &'static str,
    pub takes: Takes,
    pub bound: Bound,
    /// Of OpenAI's API reference, "Create chat completion".
    pub is_openais: bool,
}

const fn openai(name: &'static str, takes: Takes, bound: Bound) -> Parameter {
    Parameter { name, takes, bound, is_openais: true }
}

const fn vendor(name: &'static str, takes: Takes, bound: Bound) -> Parameter {
    Parameter { name, takes, bound, is_openais: false }
}

pub const PARAMETERS: &[Parameter] = &[
    openai("audio", Takes::Object, Bound::None),
    openai("frequency_penalty", Takes::Number, Bound::Tokens),
    openai("function_call", Takes::TextOrObject, Bound::Tokens),
    openai("functions", Takes::List, Bound::Tokens),
    openai("logit_bias", Takes::Object, Bound::Tokens),
    openai("logprobs", Takes::Flag, Bound::Tokens),
    openai("max_completion_tokens", Takes::Tokens, Bound::Value),
    openai("max_tokens", Takes::Tokens, Bound::Value),
    openai("metadata", Takes::Object, Bound::Tokens),
    openai("modalities", Takes::List, Bound::Value),
    openai("n", Takes::Answers, Bound::Value),
    openai("parallel_tool_calls", Takes::Flag, Bound::Tokens),
    // What of it is not in the answer is billed beside it.
    openai("prediction", Takes::Object, Bound::None),
    openai("presence_penalty", Takes::Number, Bound::Tokens),
    openai("prompt_cache_key", Takes::Text, Bound::Tokens),
    openai("prompt_cache_retention", Takes::Text, Bound::Tokens),
    openai("reasoning_effort", Takes::Text, Bound::Tokens),
    openai("response_format", Takes::Object, Bound::Tokens),
    openai("safety_identifier", Takes::Text, Bound::Tokens),
    openai("seed", Takes::Whole, Bound::Tokens),
    openai("service_tier", Takes::Text, Bound::Value),
    openai("stop", Takes::TextOrList, Bound::Tokens),
    openai("store", Takes::Flag, Bound::Tokens),
    openai("stream", Takes::Flag, Bound::Tokens),
    openai("temperature", Takes::Number, Bound::Tokens),
    openai("tool_choice", Takes::TextOrObject, Bound::Tokens),
    openai("tools", Takes::List, Bound::Value),
    openai("top_logprobs", Takes::Whole, Bound::Tokens),
    openai("top_p", Takes::Number, Bound::Tokens),
    openai("user", Takes::Text, Bound::Tokens),
    openai("verbosity", Takes::Text, Bound::Tokens),
    openai("web_search_options", Takes::Object, Bound::None),
    // Anthropic's ("Messages"), but for those that make dearer (`speed`, `inference_geo`) or do
    // more than answer (`container`, `mcp_servers`).
    vendor("cache_control", Takes::Any, Bound::Value),
    vendor("context_management", Takes::Any, Bound::Value),
    vendor("output_config", Takes::Any, Bound::Tokens),
    vendor("stop_sequences", Takes::Any, Bound::Tokens),
    vendor("system", Takes::Any, Bound::Value),
    vendor("thinking", Takes::Any, Bound::Tokens),
    vendor("top_k", Takes::Any, Bound::Tokens),
    // OpenRouter's and those of servers for open models: how to choose among tokens.
    vendor("chat_template_kwargs", Takes::Any, Bound::Tokens),
    vendor("enable_thinking", Takes::Any, Bound::Tokens),
    vendor("include_reasoning", Takes::Any, Bound::Tokens),
    vendor("min_p", Takes::Any, Bound::Tokens),
    vendor("reasoning", Takes::Any, Bound::Tokens),
    vendor("reasoning_format", Takes::Any, Bound::Tokens),
    vendor("repetition_penalty", Takes::Any, Bound::Tokens),
    vendor("stream_options", Takes::Any, Bound::Tokens),
    vendor("structured_outputs", Takes::Any, Bound::Tokens),
    vendor("top_a", Takes::Any, Bound::Tokens),
    vendor("usage", Takes::Any, Bound::Tokens),
];

/// The parameter of this very name: one in other case is another one.
pub fn find(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}

impl Takes {
    /// In words, for an error.
    pub fn words(self) -> &'static str {
        match self {
            Self::Flag => "true or false",
            Self::Number => "a number",
            Self::Whole => "a whole number",
            Self::Tokens => "a whole number from 1 on",
            Self::Answers => "a whole number from 1 to 128",
            Self::Text => "a text",
            Self::List => "an array",
            Self::Object => "an object",
            Self::TextOrList => "a text or an array",
            Self::TextOrObject => "a text or an object",
            Self::Any => "anything",
        }
    }

    /// Whether this JSON text is of that kind. JSON null is: it means that nothing is given.
    pub fn fits(self, json: &str) -> bool {
        let Ok(kind) = Scanner::new(json).kind() else { return false };
        match (self, kind) {
            (_, Kind::Null) | (Self::Any, _) => true,
            (Self::Flag, kind) => matches!(kind, Kind::True | Kind::False),
            (Self::Number, kind) => kind == Kind::Number,
            (Self::Whole, kind) => kind == Kind::Number && is_whole(json),
            (Self::Tokens, _) => whole(json).is_some_and(|tokens| tokens >= 1),
            (Self::Answers, _) => whole(json).is_some_and(|n| (1..=MOST_ANSWERS).contains(&n)),
            (Self::Text, kind) => kind == Kind::Text,
            (Self::List, kind) => kind == Kind::List,
            (Self::Object, kind) => kind == Kind::Object,
            (Self::TextOrList, kind) => matches!(kind, Kind::Text | Kind::List),
            (Self::TextOrObject, kind) => matches!(kind, Kind::Text | Kind::Object),
        }
    }
}

fn is_whole(json: &str) -> bool {
    json.trim().trim_start_matches('-').bytes().all(|byte| byte.is_ascii_digit())
}

/// A whole number from 0 on, written in digits; what is more than 2^63-1 counts as that.
pub fn whole(json: &str) -> Option<i64> {
    let digits = json.trim();
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Digits alone fail to parse only where they are too many.
    is_whole.then(|| digits.parse().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_takes_its_kind_alone() {
        for (takes, good, bad) in [
            (Takes::Flag, &["true", "false"][..], &["1", "\"true\"", "[]"][..]),
            (Takes::Number, &["0.5", "-1", "1e400"], &["\"1\"", "true"]),
            (Takes::Whole, &["-3", "12345678901234567890123"], &["0.5", "1e3", "\"1\""]),
            (Takes::Tokens, &["1", "9223372036854775808"], &["0", "-1", "1.5", "\"7\"", "7e2"]),
            (Takes::Answers, &["1", "128"], &["0", "129", "\"128\"", "9223372036854775807"]),
            (Takes::Text, &["\"a\""], &["1", "{}", "[]"]),
            (Takes::List, &["[]"], &["{}", "\"a\""]),
            (Takes::Object, &["{}"], &["[]", "\"a\""]),
            (Takes::TextOrList, &["[]", "\"a\""], &["{}", "1"]),
            (Takes::TextOrObject, &["{}", "\"a\""], &["[]", "1"]),
            (Takes::Any, &["{}", "\"a\"", "1"], &["", "x"]),
        ] {
            for json in good {
                assert!(takes.fits(json), "{takes:?} {json}");
            }
            for json in bad {
                assert!(!takes.fits(json), "{takes:?} {json}");
            }
            assert!(takes.fits("null"), "{takes:?}");
        }
        assert!(Takes::Answers.words().ends_with(&MOST_ANSWERS.to_string()));
    }

    #[test]
    fn names_are_told_apart_by_case() {
        assert!(find("max_tokens").is_some() && find("Max_Tokens").is_none());
    }
}
