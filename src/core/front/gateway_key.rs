//! Gateway keys: what programs show that hold no user's token.

use super::opaque::{self, Form};
pub use super::opaque::{Hash as KeyHash, Made as NewKey, RANDOM_BYTES};
use crate::core::model;
use crate::core::tags::{self, Labels};
use crate::error::Error;
use std::sync::Arc;
use uuid::Uuid;

pub const PREFIX: &str = FORM.prefix;
/// Not `sk-`, which scanners of source code would report to a provider.
const FORM: Form = Form { prefix: "agk_" };

/// Most patterns in a key's list of models.
pub const MOST_PATTERNS: usize = 100;

/// The key that these random bytes make. It is as secret as they are.
pub fn make(random: &[u8; RANDOM_BYTES]) -> NewKey {
    opaque::make(FORM, random)
}

/// What a key is looked up by, if it can be one. `None`: it was never made.
pub fn read(key: &[u8]) -> Option<KeyHash> {
    opaque::read(FORM, key)
}

/// A key that passes at the moment at which it was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayKey {
    pub id: Uuid,
    /// Its owner, as whom it spends.
    pub user_id: String,
    pub models: Models,
    /// Of every call with it.
    pub tags: Vec<String>,
    /// Microseconds since 1970, from when on it does not pass any more: it expires, or is the one that was
    /// rotated. `None`: without an end.
    pub until: Option<i64>,
    /// Its owner had not signed in when it was made.
    pub is_anonymous: bool,
    /// As which its owner made it. `None`: somebody else did.
    pub role: Option<String>,
}

impl GatewayKey {
    /// What a call with it is found again by: the key, its tags, and the call's own, which together are as few as
    /// those of any call.
    pub fn labels(&self, tags: &[String]) -> Result<Option<Arc<Labels>>, Error> {
        let Some(tags) = tags::checked(self.tags.iter().chain(tags)) else {
            let (most, longest) = (tags::MOST, tags::LONGEST);
            return Err(Error::bad_request(format!(
                "tags must be at most {most} texts of at most {longest} bytes each; those of the gateway key count too"
            )));
        };
        Ok(Labels::of(Some(self.id), &tags))
    }

    /// Whether it passes still, at this moment (microseconds since 1970).
    pub fn passes(&self, now: i64) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What is wrong with a key's list of models.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelsError {
    #[error("a list of more than {MOST_PATTERNS} models")]
    TooMany,
    /// The place counts from one.
    #[error("model {place} of the list {what}")]
    Pattern { place: usize, what: &'static str },
}

/// The models that a key is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Models {
    All,
    /// These, or none: a list that was emptied opens nothing.
    Only(Vec<Pattern>),
}

/// The id of a model, or of a model of one provider (`provider:model`); with a `*` at its end, all that begin so.
/// Nothing else of it has a meaning: another case, another variant (`:online`) or the last part of an id alone
/// are other models, because a list that allows must not mean more than it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    start: String,
    is_open: bool,
}

impl Models {
    /// Of a list as the database has it: none is for all models, an empty one is for no model.
    pub fn read(list: Option<&[String]>) -> Result<Self, ModelsError> {
        let Some(list) = list else { return Ok(Self::All) };
        if list.len() > MOST_PATTERNS {
            return Err(ModelsError::TooMany);
        }
        let patterns = list.iter().enumerate().map(|(index, text)| {
            Pattern::read(text).map_err(|what| ModelsError::Pattern { place: index + 1, what })
        });
        patterns.collect::<Result<_, _>>().map(Self::Only)
    }

    /// Whether a call may go to this model of this provider: both as the call goes out, and not as the caller
    /// said them.
    pub fn allow(&self, provider: &str, model: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(patterns) => patterns.iter().any(|one| one.means(provider, model)),
        }
    }
}

impl Pattern {
    fn read(text: &str) -> Result<Self, &'static str> {
        let (start, is_open) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        if start.contains('*') {
            return Err("has a '*' that is not at its end");
        }
        match model::problem(start) {
            // '*' alone.
            Some(_) if start.is_empty() && is_open => {}
            Some(what) => return Err(what),
            None => {}
        }
        Ok(Self { start: start.to_owned(), is_open })
    }

    fn means(&self, provider: &str, model: &str) -> bool {
        let start = self.start.as_str();
        let fits = |rest: &str, start: &str| match self.is_open {
            true => rest.starts_with(start),
            false => rest == start,
        };
        if fits(model, start) {
            return true;
        }
        match start.strip_prefix(provider) {
            Some(rest) => match rest.strip_prefix(':') {
                Some(rest) => fits(model, rest),
                // "openr*": the beginning of a provider is no provider.
                None => false,
            },
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(list: &[&str]) -> Models {
        let list: Vec<String> = list.iter().map(|text| (*text).to_owned()).collect();
        Models::read(Some(&list)).unwrap()
    }

    #[test]
    fn no_list_is_all_and_an_empty_one_is_none() {
        assert!(Models::read(None).unwrap().allow("p", "m"));
        assert!(!models(&[]).allow("p", "m"));
        assert!(models(&["*"]).allow("p", "m"));
    }

    #[test]
    fn a_pattern_means_what_it_says() {
        for (pattern, provider, model, expected) in [
            ("openai/gpt-4o", "openrouter", "openai/gpt-4o", true),
            ("openai/gpt-4o", "aihubmix", "openai/gpt-4o", true),
            ("openai/gpt-4o", "openrouter", "openai/gpt-4o-mini", false),
            ("openai/gpt-4o", "openrouter", "openai/gpt-4o:online", false),
            ("openai/gpt-4o", "openrouter", "OpenAI/GPT-4o", false),
            ("gpt-4o", "openrouter", "openai/gpt-4o", false),
            ("openai/*", "openrouter", "openai/gpt-4o", true),
            ("openai/*", "openrouter", "openai", false),
            ("openai/gpt-4o*", "openrouter", "openai/gpt-4o-mini", true),
            ("openrouter:*", "openrouter", "openai/gpt-4o", true),
            ("openrouter:*", "openrouter2", "openai/gpt-4o", false),
            ("openrouter:openai/*", "openrouter", "openai/gpt-4o", true),
            ("openrouter:openai/*", "openrouter", "anthropic/claude", false),
            ("openrouter:openai/gpt-4o", "openrouter", "openai/gpt-4o", true),
            ("openrouter:openai/gpt-4o", "aihubmix", "openai/gpt-4o", false),
            ("openr*", "openrouter", "openai/gpt-4o", false),
            ("openrouter*", "openrouter", "openai/gpt-4o", false),
            ("openrouter", "openrouter", "openai/gpt-4o", false),
            ("llama3:8b", "ollama", "llama3:8b", true),
            ("llama3:*", "ollama", "llama3:70b", true),
            ("ollama:llama3:*", "ollama", "llama3:70b", true),
        ] {
            let allowed = models(&["x", pattern]).allow(provider, model);
            assert_eq!(allowed, expected, "{pattern} {provider} {model}");
        }
    }

    #[test]
    fn a_list_that_cannot_be_read_is_refused() {
        let read = |list: &[String]| Models::read(Some(list));
        let long = "x".repeat(model::LONGEST + 1);
        for text in ["", "a*b", "**", "*a", "a b", "a\u{200b}", "a\n", long.as_str()] {
            let refused = read(&["fine".to_owned(), text.to_owned()]);
            assert!(matches!(refused, Err(ModelsError::Pattern { place: 2, .. })), "{text}");
        }
        assert!(read(&vec!["a".to_owned(); MOST_PATTERNS]).is_ok());
        assert_eq!(read(&vec!["a".to_owned(); MOST_PATTERNS + 1]), Err(ModelsError::TooMany));
    }

    #[test]
    fn a_key_passes_until_its_end_and_labels_its_calls() {
        let key = |until| GatewayKey {
            id: Uuid::nil(),
            user_id: "u".to_owned(),
            models: Models::All,
            tags: vec!["a".to_owned(), "b".to_owned()],
            until,
            is_anonymous: false,
            role: None,
        };
        assert!(key(None).passes(i64::MAX));
        assert!(key(Some(10)).passes(9) && !key(Some(10)).passes(10) && !key(Some(10)).passes(11));
        let labels = |tags: &str| {
            let tags: Vec<String> = tags.split(' ').map(str::to_owned).collect();
            key(None).labels(&tags).map(Option::unwrap)
        };
        let joined = labels("b c").unwrap();
        assert_eq!(
            (joined.gateway_key, joined.tags.join(" ")),
            (Some(Uuid::nil()), "a b c".into())
        );
        // Together they are eight at the most, each counted once.
        assert_eq!(labels("a b c d e f g h").unwrap().tags.join(" "), "a b c d e f g h");
        assert_eq!(labels("c d e f g h").unwrap().tags.len(), tags::MOST);
        let refused = labels("c d e f g h i").unwrap_err();
        assert_eq!(
            (refused.sqlstate(), refused.to_string().as_str()),
            (
                "PT400",
                "tags must be at most 8 texts of at most 64 bytes each; those of the gateway key count too"
            )
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_from_outside_panics(
            bytes in proptest::collection::vec(0u8.., 0..70),
            text in "agk_[0-9A-Za-z]{45,51}",
            list in proptest::collection::vec("\\PC{0,8}\\*?", 0..4),
            model in "\\PC{0,8}",
        ) {
            proptest::prop_assert_eq!(read(&bytes), None);
            let _ = read(text.as_bytes());
            if let Ok(models) = Models::read(Some(&list)) {
                let allowed = models.allow(&model, &model);
                proptest::prop_assert_eq!(allowed, list.iter().any(|one| {
                    let full = format!("{model}:{model}");
                    match one.strip_suffix('*') {
                        Some(start) => model.starts_with(start)
                            || full.starts_with(start) && start.len() > model.len(),
                        None => *one == model || *one == full,
                    }
                }));
            }
        }
    }
}
