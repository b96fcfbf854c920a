//! Gateway keys: what programs show that hold no user's token.
//!
//! A key is `agk_`, 43 digits of base 62 that hold 256 random bits, and six digits of a CRC-32 of what is before
//! them. By the checksum a mistyped or an invented key is refused without a question to the database, and
//! scanners of source code find lost keys without a question to anybody (as GitHub's tokens have it). The
//! prefix is not `sk-`, which scanners would report to a provider. Only the SHA-256 is stored: against 256
//! random bits a slow hash would protect nothing, and cost everybody who calls.

use crate::core::model;
use crate::core::tags::{self, Labels};
use crate::error::Error;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use uuid::Uuid;
use zeroize::Zeroizing;

pub const PREFIX: &str = "agk_";
/// Random bytes that a key is made of.
pub const RANDOM_BYTES: usize = 32;
/// Base 62 digits of 256 bits.
const SECRET_DIGITS: usize = 43;
/// Base 62 digits of 32 bits.
const CHECK_DIGITS: usize = 6;
const CHECKED: usize = PREFIX.len() + SECRET_DIGITS;
/// Bytes of a key.
pub const LEN: usize = CHECKED + CHECK_DIGITS;
/// Characters of a key's end that its owner sees: all of them of the checksum.
const HINT: usize = 4;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Most patterns in a key's list of models.
pub const MOST_PATTERNS: usize = 100;

/// By this a key is stored and looked up: its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

/// A key that was just made: the only time that it is known. Wiped when dropped; never printed.
pub struct NewKey {
    pub text: Zeroizing<String>,
    pub hash: KeyHash,
    /// Its last characters, to tell it from others.
    pub hint: String,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NewKey({PREFIX}…{})", self.hint)
    }
}

/// The key that these random bytes make. It is as secret as they are.
pub fn make(random: &[u8; RANDOM_BYTES]) -> NewKey {
    // Its size from the start, so that no copy of it is left where it grew.
    let mut text = Zeroizing::new(String::with_capacity(LEN));
    text.push_str(PREFIX);
    let digits = Zeroizing::new(digits::<SECRET_DIGITS>(random));
    text.extend(digits.iter().map(|digit| char::from(*digit)));
    let check = checksum(text.as_bytes());
    text.extend(check.map(char::from));
    let hint = text.chars().skip(LEN - HINT).collect();
    NewKey { hash: hash(text.as_bytes()), hint, text }
}

/// What a key is looked up by, if it can be one. `None`: it was never made.
pub fn read(key: &[u8]) -> Option<KeyHash> {
    let (checked, check) = key.split_at_checked(CHECKED)?;
    let secret = checked.strip_prefix(PREFIX.as_bytes())?;
    let is_made = secret.iter().all(u8::is_ascii_alphanumeric) && check == checksum(checked);
    is_made.then(|| hash(key))
}

fn hash(key: &[u8]) -> KeyHash {
    KeyHash(Sha256::digest(key).into())
}

fn checksum(checked: &[u8]) -> [u8; CHECK_DIGITS] {
    digits(&crc32fast::hash(checked).to_be_bytes())
}

/// A number, written big end first in bytes, in so many digits of base 62. They must be enough for it.
fn digits<const N: usize>(number: &[u8]) -> [u8; N] {
    let mut rest = Zeroizing::new(number.to_vec());
    let mut out = [DIGITS[0]; N];
    for place in out.iter_mut().rev() {
        let mut left = 0;
        for byte in rest.iter_mut() {
            let value = left << 8 | usize::from(*byte);
            // Less than 256, because what is left is less than 62.
            *byte = (value / DIGITS.len()) as u8;
            left = value % DIGITS.len();
        }
        *place = DIGITS[left];
    }
    out
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

    #[test]
    fn a_key_has_its_form() {
        let key = make(&[0; 32]);
        assert_eq!(&key.text[..CHECKED], format!("agk_{}", "0".repeat(43)));
        assert_eq!((key.text.len(), LEN), (53, 53));
        // 2^256 - 1 in base 62, by another way of reckoning.
        let key = make(&[0xff; 32]);
        assert_eq!(&key.text[4..CHECKED], MOST);
        let mut one = [0; 32];
        one[31] = 62;
        assert_eq!(&make(&one).text[4..CHECKED], format!("{}10", "0".repeat(41)));
        // The check value of CRC-32.
        assert_eq!(checksum(b"123456789"), digits::<6>(&0xcbf4_3926_u32.to_be_bytes()));
        assert_eq!(&digits::<6>(&[0xff; 4]), b"4gfFC3");
    }

    const MOST: &str = "yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp1";

    #[test]
    fn a_made_key_is_read_and_nothing_near_it() {
        let key = make(&std::array::from_fn(|i| i as u8 * 7));
        let text = key.text.as_bytes();
        assert_eq!(read(text), Some(key.hash));
        assert_eq!(key.hash.0, <[u8; 32]>::from(Sha256::digest(text)));
        assert!(key.text.ends_with(&key.hint) && key.hint.len() == 4);
        for place in 0..text.len() {
            for byte in [b'0', b'Z', b'a', b'-', b'_', b' ', 0, 0xff] {
                let mut other = text.to_vec();
                other[place] = byte;
                assert_eq!(read(&other).is_some(), other == text, "{place} {byte}");
            }
            assert_eq!(read(&text[..place]), None);
            assert_eq!(read(&text[place + 1..]), None);
        }
        for other in [key.text.to_uppercase(), format!("{}0", *key.text), format!(" {}", *key.text)]
        {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
        // A checksum that is right does not make up for digits that are none.
        let mut other = b"agk_".to_vec();
        other.extend([b'-'; SECRET_DIGITS]);
        let check = checksum(&other);
        other.extend(check);
        assert_eq!(read(&other), None);
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = make(&[9; 32]);
        assert_eq!(format!("{key:?}"), format!("NewKey(agk_…{})", key.hint));
    }

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
        fn no_two_keys_are_one(a in proptest::array::uniform32(0u8..), b in proptest::array::uniform32(0u8..)) {
            let (one, other) = (make(&a), make(&b));
            proptest::prop_assert_eq!(a == b, *one.text == *other.text);
            proptest::prop_assert_eq!(read(one.text.as_bytes()), Some(one.hash));
        }

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
